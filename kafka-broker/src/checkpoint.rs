//! Kafka's offset checkpoints in the root of a data folder: a version, a count, then `topic partition offset` lines.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::storage::Storage;

/// Where logs begin since records were deleted (`LogManager.LOG_START_OFFSET_CHECKPOINT_FILE`).
pub(crate) const LOG_START_FILE: &str = "log-start-offset-checkpoint";
/// Up to where logs are known to be on disk: recovery begins there (`LogManager.RECOVERY_POINT_CHECKPOINT_FILE`).
pub(crate) const RECOVERY_POINT_FILE: &str = "recovery-point-offset-checkpoint";
/// Up to where logs are compacted (`LogCleanerManager.OFFSET_CHECKPOINT_FILE`).
pub(crate) const CLEANER_FILE: &str = "cleaner-offset-checkpoint";
/// Up to where partitions are known to be committed (`ReplicaManager.HIGH_WATERMARK_FILENAME`).
pub(crate) const HIGH_WATERMARK_FILE: &str = "replication-offset-checkpoint";

/// Offsets of partitions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Offsets {
    offsets: BTreeMap<(String, i32), i64>,
}

impl Offsets {
    pub(crate) fn get(&self, topic: &str, index: i32) -> Option<i64> {
        self.offsets.get(&(topic.to_owned(), index)).copied()
    }

    /// Returns whether that is news.
    pub(crate) fn set(&mut self, topic: &str, index: i32, offset: i64) -> bool {
        self.offsets.insert((topic.to_owned(), index), offset) != Some(offset)
    }

    pub(crate) fn remove(&mut self, topic: &str, index: i32) -> bool {
        self.offsets.remove(&(topic.to_owned(), index)).is_some()
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("0\n{}\n", self.offsets.len());
        for ((topic, index), offset) in &self.offsets {
            let _ = writeln!(text, "{topic} {index} {offset}");
        }
        text
    }

    /// `None` unless the text is a whole checkpoint of this form.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != "0" {
            return None;
        }
        let count: usize = lines.next()?.parse().ok()?;
        let mut offsets = BTreeMap::new();
        for line in lines {
            let mut fields = line.split_whitespace();
            let (topic, index, offset) = (fields.next()?, fields.next()?, fields.next()?);
            offsets.insert((topic.to_owned(), index.parse().ok()?), offset.parse().ok()?);
        }
        (offsets.len() == count).then_some(Self { offsets })
    }
}

/// One checkpoint file, with what it says in memory.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoint {
    file: &'static str,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    offsets: Offsets,
    /// The file does not say what `offsets` says.
    is_unsaved: bool,
}

impl Checkpoint {
    /// Reads the file. A missing or damaged one says nothing, which costs work or brings deleted records back, but loses
    /// none.
    pub(crate) fn load(storage: &dyn Storage, file: &'static str) -> Self {
        let text = storage.read(file).unwrap_or_else(|error| {
            tracing::warn!(file, %error, "checkpoint cannot be read");
            None
        });
        let offsets = text.and_then(|text| Offsets::from_text(&String::from_utf8_lossy(&text)));
        let kept = Kept { offsets: offsets.unwrap_or_default(), is_unsaved: false };
        Self { file, kept: Arc::new(Mutex::new(kept)) }
    }

    pub(crate) fn get(&self, topic: &str, index: i32) -> Option<i64> {
        self.kept.lock().offsets.get(topic, index)
    }

    /// One partition's part of the file.
    pub(crate) fn entry(&self, topic: &str, index: i32) -> CheckpointEntry {
        CheckpointEntry { checkpoint: self.clone(), topic: topic.to_owned(), index }
    }

    /// Writes the file with the partition's new offset.
    pub(crate) fn set(&self, storage: &dyn Storage, topic: &str, index: i32, offset: i64) -> io::Result<()> {
        self.change(storage, |offsets| offsets.set(topic, index, offset))
    }

    /// Writes the file with these offsets and no others.
    pub(crate) fn replace(&self, storage: &dyn Storage, all: Offsets) -> io::Result<()> {
        self.change(storage, |offsets| {
            let is_news = *offsets != all;
            *offsets = all;
            is_news
        })
    }

    /// Writes the file without the partitions that are not to be kept.
    pub(crate) fn retain(&self, storage: &dyn Storage, keep: impl Fn(&str, i32) -> bool) -> io::Result<()> {
        self.change(storage, |offsets| {
            let before = offsets.offsets.len();
            offsets.offsets.retain(|(topic, index), _| keep(topic, *index));
            offsets.offsets.len() < before
        })
    }

    /// Forgets a partition.
    pub(crate) fn remove(&self, storage: &dyn Storage, topic: &str, index: i32) -> io::Result<()> {
        self.change(storage, |offsets| offsets.remove(topic, index))
    }

    /// Writes the file unless it says what it should; `change` says whether it changed anything.
    fn change(&self, storage: &dyn Storage, change: impl FnOnce(&mut Offsets) -> bool) -> io::Result<()> {
        let mut kept = self.kept.lock();
        if !change(&mut kept.offsets) && !kept.is_unsaved {
            return Ok(());
        }
        kept.is_unsaved = true;
        storage.replace(self.file, kept.offsets.to_text().as_bytes())?;
        kept.is_unsaved = false;
        Ok(())
    }
}

/// What a checkpoint says of one partition.
#[derive(Debug)]
pub(crate) struct CheckpointEntry {
    checkpoint: Checkpoint,
    topic: String,
    index: i32,
}

impl CheckpointEntry {
    #[cfg(test)]
    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Takes note of an offset that the file says when it is written next.
    pub(crate) fn note(&self, offset: i64) {
        let mut kept = self.checkpoint.kept.lock();
        kept.is_unsaved |= kept.offsets.set(&self.topic, self.index, offset);
    }

    /// Returns when the file says at most `offset`.
    pub(crate) fn lower(&self, storage: &dyn Storage, offset: i64) -> io::Result<()> {
        let at_most = |offsets: &mut Offsets| {
            offsets.get(&self.topic, self.index).is_some_and(|kept| kept > offset)
                && offsets.set(&self.topic, self.index, offset)
        };
        self.checkpoint.change(storage, at_most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_reads_back_and_a_damaged_one_is_not_believed() {
        let mut offsets = Offsets::default();
        offsets.set("a", 0, 5);
        offsets.set("b.c", 12, 7);
        let text = offsets.to_text();
        assert_eq!(text, "0\n2\na 0 5\nb.c 12 7\n");
        assert_eq!(Offsets::from_text(&text), Some(offsets));
        for damaged in ["", "1\n0\n", "0\n2\na 0 5\n", "0\n1\na zero 5\n"] {
            assert_eq!(Offsets::from_text(damaged), None, "{damaged:?}");
        }
    }
}
