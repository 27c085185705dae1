//! Which leader epoch began at which offset (KIP-101): what a client's truncation check asks.
//!
//! The file is Kafka's `leader-epoch-checkpoint`: a version, a count, then `epoch start-offset` lines.

use std::fmt::Write;

/// The epochs of one log, oldest first.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct LeaderEpochs {
    entries: Vec<(i32, i64)>,
}

impl LeaderEpochs {
    /// A batch of `epoch` begins at `offset`. Returns whether that is news.
    pub(super) fn assign(&mut self, epoch: i32, offset: i64) -> bool {
        let is_news = epoch >= 0 && self.latest().is_none_or(|latest| epoch > latest);
        if is_news {
            self.entries.push((epoch, offset));
        }
        is_news
    }

    pub(super) fn latest(&self) -> Option<i32> {
        self.entries.last().map(|&(epoch, _)| epoch)
    }

    /// The epoch that the record at `offset` was written in.
    pub(super) fn at(&self, offset: i64) -> Option<i32> {
        let after = self.entries.partition_point(|&(_, start)| start <= offset);
        after.checked_sub(1).and_then(|at| self.entries.get(at)).map(|&(epoch, _)| epoch)
    }

    /// The largest known epoch not above `epoch`, and where it ended: where the next one began, or at the log's end.
    pub(super) fn end_offset(&self, epoch: i32, log_end_offset: i64) -> Option<(i32, i64)> {
        let after = self.entries.partition_point(|&(known, _)| known <= epoch);
        let &(known, _) = self.entries.get(after.checked_sub(1)?)?;
        Some((known, self.entries.get(after).map_or(log_end_offset, |&(_, start)| start)))
    }

    /// Forgets what lies at or after `offset`. Returns whether there was something.
    pub(super) fn truncate_from_end(&mut self, offset: i64) -> bool {
        let before = self.entries.len();
        self.entries.retain(|&(_, start)| start < offset);
        self.entries.len() < before
    }

    /// Forgets epochs that ended before `offset`; the one that contains it now begins there. Returns whether that changed
    /// anything.
    pub(super) fn truncate_from_start(&mut self, offset: i64) -> bool {
        let Some(epoch) = self.at(offset) else { return false };
        self.entries.retain(|&(known, _)| known >= epoch);
        let Some((_, start)) = self.entries.first_mut() else { return false };
        let is_news = *start < offset;
        *start = (*start).max(offset);
        is_news
    }

    pub(super) fn to_text(&self) -> String {
        let mut text = format!("0\n{}\n", self.entries.len());
        for (epoch, start) in &self.entries {
            let _ = writeln!(text, "{epoch} {start}");
        }
        text
    }

    /// `None` unless the text is a checkpoint of this form.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != "0" {
            return None;
        }
        let count: usize = lines.next()?.parse().ok()?;
        let entries = lines
            .map(|line| {
                let (epoch, start) = line.split_once(' ')?;
                Some((epoch.parse().ok()?, start.parse().ok()?))
            })
            .collect::<Option<Vec<(i32, i64)>>>()?;
        let in_order = entries.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        (entries.len() == count && in_order).then_some(Self { entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_end_where_the_next_begins() {
        let mut epochs = LeaderEpochs::default();
        for (epoch, offset) in [(0, 0), (0, 5), (3, 10), (5, 20)] {
            epochs.assign(epoch, offset);
        }
        assert_eq!(epochs.end_offset(0, 99), Some((0, 10)));
        assert_eq!(epochs.end_offset(4, 99), Some((3, 20)));
        assert_eq!(epochs.end_offset(9, 99), Some((5, 99)));
        assert_eq!([epochs.at(9), epochs.at(10), epochs.at(50)], [Some(0), Some(3), Some(5)]);
        assert_eq!(LeaderEpochs::from_text(&epochs.to_text()), Some(epochs.clone()));
        epochs.truncate_from_start(12);
        assert_eq!((epochs.at(11), epochs.at(12)), (None, Some(3)));
        epochs.truncate_from_end(20);
        assert_eq!(epochs.latest(), Some(3));
    }

    #[test]
    fn a_damaged_checkpoint_is_not_believed() {
        for text in ["", "1\n0\n", "0\n2\n0 0\n", "0\n1\nx y\n", "0\n2\n1 5\n0 9\n"] {
            assert_eq!(LeaderEpochs::from_text(text), None, "{text:?}");
        }
    }
}
