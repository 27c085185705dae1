//! What was handed out and what the application is done with, in any order: the commit goes up to the first record that
//! is not acknowledged. Pure.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use super::fetch::Position;
use crate::TopicPartition;

/// Records or batches of one assignment of a partition that were handed out, in order.
#[derive(Debug, Default)]
struct Window {
    /// From the first one that is not acknowledged on.
    open: VecDeque<Handed>,
    /// Behind the last one that was handed out.
    end: Option<Position>,
}

#[derive(Debug)]
struct Handed {
    from: i64,
    to: Position,
    is_acknowledged: bool,
}

#[derive(Debug, Default)]
pub(super) struct AckTracker {
    windows: FxHashMap<TopicPartition, Window>,
    unacknowledged: usize,
}

impl AckTracker {
    /// A record, or a batch as one, was handed out.
    pub(super) fn handed_out(&mut self, partition: &TopicPartition, from: i64, to: Position) {
        let window = match self.windows.get_mut(partition) {
            Some(window) => window,
            None => self.windows.entry(partition.clone()).or_default(),
        };
        if window.end.is_some_and(|end| from < end.offset) {
            // Read again after a seek.
            self.unacknowledged -= window.open.iter().filter(|handed| !handed.is_acknowledged).count();
            window.open.clear();
        }
        window.open.push_back(Handed { from, to, is_acknowledged: false });
        window.end = Some(to);
        self.unacknowledged += 1;
    }

    /// The application is done with the offsets from `from` up to but not including `to`. Returns how many records or
    /// batches that settles; what is unknown, as after a rebalance, settles none.
    pub(super) fn acknowledge(&mut self, partition: &TopicPartition, from: i64, to: i64) -> usize {
        let Some(window) = self.windows.get_mut(partition) else { return 0 };
        let first = window.open.partition_point(|handed| handed.from < from);
        let mut settled = 0;
        for handed in window.open.iter_mut().skip(first).take_while(|handed| handed.from < to) {
            settled += usize::from(!handed.is_acknowledged);
            handed.is_acknowledged = true;
        }
        while window.open.front().is_some_and(|handed| handed.is_acknowledged) {
            window.open.pop_front();
        }
        self.unacknowledged -= settled;
        settled
    }

    /// Up to where a partition can be committed, given the position behind all that was handed out of it.
    pub(super) fn committable(&self, partition: &TopicPartition, position: Position) -> Position {
        match self.windows.get(partition).and_then(|window| window.open.front()) {
            Some(first) if first.from < position.offset => Position {
                offset: first.from,
                leader_epoch: position.leader_epoch.min(first.to.leader_epoch),
            },
            _ => position,
        }
    }

    /// Forgets a partition that went to others, or was sought.
    pub(super) fn forget(&mut self, partition: &TopicPartition) {
        if let Some(window) = self.windows.remove(partition) {
            self.unacknowledged -= window.open.iter().filter(|handed| !handed.is_acknowledged).count();
        }
    }

    pub(super) fn unacknowledged(&self) -> usize {
        self.unacknowledged
    }

    /// The first offset of a partition that waits for its acknowledgement.
    pub(super) fn oldest(&self, partition: &TopicPartition) -> Option<i64> {
        Some(self.windows.get(partition)?.open.front()?.from)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn tp() -> TopicPartition {
        TopicPartition::new("t", 0)
    }

    fn at(offset: i64) -> Position {
        Position { offset, leader_epoch: 3 }
    }

    #[test]
    fn the_commit_stops_before_the_first_record_that_is_not_acknowledged() {
        let mut tracker = AckTracker::default();
        // Offset 2 was compacted away.
        for offset in [0, 1, 3, 4] {
            tracker.handed_out(&tp(), offset, at(offset + 1));
        }
        assert_eq!(tracker.acknowledge(&tp(), 1, 2), 1);
        assert_eq!(tracker.committable(&tp(), at(5)).offset, 0);
        assert_eq!(tracker.acknowledge(&tp(), 0, 1), 1);
        assert_eq!((tracker.committable(&tp(), at(5)).offset, tracker.oldest(&tp())), (3, Some(3)));
        assert_eq!(tracker.acknowledge(&tp(), 3, 5), 2);
        assert_eq!(
            tracker.committable(&tp(), at(9)),
            at(9),
            "what is hidden behind the last record is done too"
        );
        assert_eq!(tracker.unacknowledged(), 0);
    }

    #[test]
    fn reading_again_after_a_seek_asks_for_new_acknowledgements() {
        let mut tracker = AckTracker::default();
        tracker.handed_out(&tp(), 5, at(6));
        tracker.handed_out(&tp(), 0, at(1));
        assert_eq!((tracker.unacknowledged(), tracker.acknowledge(&tp(), 5, 6)), (1, 0));
        tracker.forget(&tp());
        assert_eq!((tracker.unacknowledged(), tracker.acknowledge(&tp(), 0, 1)), (0, 0));
    }

    proptest! {
        #[test]
        fn nothing_is_committed_beyond_what_is_not_acknowledged(
            gaps in prop::collection::vec(0..3i64, 1..40),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
        ) {
            let mut tracker = AckTracker::default();
            let mut open = BTreeSet::new();
            let mut next = 0;
            for gap in gaps {
                next += gap;
                tracker.handed_out(&tp(), next, at(next + 1));
                open.insert(next);
                next += 1;
            }
            for index in order {
                let all: Vec<i64> = open.iter().copied().collect();
                if all.is_empty() {
                    break;
                }
                let offset = *index.get(&all);
                prop_assert_eq!(tracker.acknowledge(&tp(), offset, offset + 1), 1);
                open.remove(&offset);
                let expected = open.first().copied().unwrap_or(next);
                prop_assert_eq!(tracker.committable(&tp(), at(next)).offset, expected);
                prop_assert_eq!(tracker.unacknowledged(), open.len());
            }
        }
    }
}
