//! Opening a log: believing what an orderly end left, and checking everything after any other end.

use std::io;

use super::leader_epoch::LeaderEpochs;
use super::producer_state::ProducerState;
use super::segment::{self, Segment};
use super::{EPOCH_FILE, PartitionLog, ReadError, Shutdown};

impl PartitionLog {
    pub(super) fn load(&mut self, shutdown: Shutdown) -> io::Result<()> {
        self.storage.create_folder(&self.folder)?;
        let names = self.storage.list(&self.folder)?;
        let mut base_offsets: Vec<i64> =
            names.iter().filter_map(|name| segment::base_offset_of(name, "log")).collect();
        base_offsets.sort_unstable();
        if base_offsets.is_empty() {
            base_offsets.push(0);
        }
        self.log_start_offset = base_offsets[0];
        self.log_end_offset = self.log_start_offset;
        let snapshot = names
            .iter()
            .filter_map(|name| segment::base_offset_of(name, "snapshot"))
            .max()
            .filter(|_| shutdown == Shutdown::Clean);
        if shutdown == Shutdown::Unclean {
            self.load_first_producers()?;
        }
        for base_offset in base_offsets {
            let mut segment = Segment::open(&*self.storage, &self.folder, base_offset)?;
            if base_offset < self.log_end_offset {
                // A segment that begins inside the one before it can only be what a torn roll left.
                segment.remove(&*self.storage, &self.folder)?;
                continue;
            }
            match shutdown {
                // Producers and epochs of the segments before are known only once those are read too.
                Shutdown::Clean if !self.load_closed(&mut segment)? => return self.reload(),
                Shutdown::Clean => {}
                Shutdown::Unclean => self.recover_segment(&mut segment)?,
            }
            self.segments.push(segment);
        }
        if shutdown == Shutdown::Unclean {
            self.write_indexes()?;
            return self.write_epochs();
        }
        if !self.load_producers(snapshot)? {
            return self.reload();
        }
        let text = self.storage.read(&self.path(EPOCH_FILE))?.unwrap_or_default();
        match LeaderEpochs::from_text(&String::from_utf8_lossy(&text)) {
            Some(epochs) => self.epochs = epochs,
            None if self.log_end_offset > self.log_start_offset => return self.reload(),
            None => {}
        }
        Ok(())
    }

    /// Writes the rebuilt indexes of the closed segments: nothing else would, and every later start would miss them.
    fn write_indexes(&mut self) -> io::Result<()> {
        if let [closed @ .., _] = &mut self.segments[..]
            && self.storage.is_durable()
        {
            for segment in closed {
                for (path, content) in segment.finish_indexes(&self.folder) {
                    if self.storage.read(&path)?.as_deref() != Some(&content) {
                        self.storage.replace(&path, &content)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A clean end that cannot be believed is an unclean one.
    fn reload(&mut self) -> io::Result<()> {
        self.segments.clear();
        self.producers = ProducerState::default();
        self.epochs = LeaderEpochs::default();
        self.load(Shutdown::Unclean)
    }

    fn load_closed(&mut self, segment: &mut Segment) -> io::Result<bool> {
        if !segment.load_indexes(&*self.storage, &self.folder)? {
            return Ok(false);
        }
        match segment.scan_end() {
            Ok(next_offset) => self.log_end_offset = next_offset,
            Err(ReadError::Storage(error)) => return Err(error),
            Err(_) => return Ok(false),
        }
        Ok(true)
    }

    fn recover_segment(&mut self, segment: &mut Segment) -> io::Result<()> {
        let (producers, epochs) = (&mut self.producers, &mut self.epochs);
        let mut aborted = Vec::new();
        let (next_offset, cut) = segment.recover(self.config.index_interval_bytes, |batch| {
            aborted.extend(producers.appended(batch, batch.max_timestamp()));
            epochs.assign(batch.leader_epoch(), batch.base_offset());
        })?;
        segment.aborted = aborted;
        // What it says may have been cut; a closed segment's is written again.
        self.storage.remove(&segment::file_name(&self.folder, segment.base_offset, segment::TXN_INDEX))?;
        if cut > 0 {
            tracing::warn!(log = self.folder, offset = next_offset, bytes = cut, "cut a torn tail");
        }
        self.log_end_offset = next_offset;
        Ok(())
    }

    /// Producers whose batches retention deleted are known from the snapshot at the log's start alone.
    fn load_first_producers(&mut self) -> io::Result<()> {
        let path = segment::file_name(&self.folder, self.log_start_offset, "snapshot");
        let snapshot = self.storage.read(&path)?.unwrap_or_default();
        if let Some(producers) = ProducerState::from_bytes(&snapshot) {
            self.producers = producers;
        }
        Ok(())
    }

    /// `false` when the snapshot is not of this log's end, or damaged.
    fn load_producers(&mut self, snapshot: Option<i64>) -> io::Result<bool> {
        if snapshot != Some(self.log_end_offset) {
            // A new log has none; one that retention emptied has, and still knows its producers.
            return Ok(self.log_end_offset == self.log_start_offset);
        }
        let path = segment::file_name(&self.folder, self.log_end_offset, "snapshot");
        let bytes = self.storage.read(&path)?.unwrap_or_default();
        let Some(producers) = ProducerState::from_bytes(&bytes) else { return Ok(false) };
        self.producers = producers;
        Ok(true)
    }
}
