//! The partition that is being filled.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::backoff::random_u64;

/// The partition that records without a key go to until it got its share (KIP-480, KIP-794).
///
/// It changes only between batches, and only once `batch.size` bytes went there: that keeps batches whole and, counting
/// bytes instead of batches, does not favour slow partitions.
#[derive(Debug)]
pub(in super::super) struct Sticky {
    current: AtomicUsize,
    bytes: AtomicUsize,
    rounds: AtomicUsize,
}

const NONE: usize = usize::MAX;

/// A choice weighs so many partitions, side by side from a random one on: of a topic of 10,000 partitions all cannot be
/// looked at for every batch.
const WINDOW: usize = 64;

impl Sticky {
    pub(in super::super) fn new() -> Self {
        Self { current: AtomicUsize::new(NONE), bytes: AtomicUsize::new(0), rounds: AtomicUsize::new(0) }
    }

    /// The current partition of `count`. If there is none, one of those with a `load` is drawn, the likelier the fewer
    /// batches its load says are queued.
    #[inline]
    pub(super) fn current(&self, count: usize, load: impl Fn(usize) -> Option<u32>) -> usize {
        let current = self.current.load(Ordering::Relaxed);
        if current < count { current } else { self.choose(count, random_u64(), load) }
    }

    #[cold]
    fn choose(&self, count: usize, random: u64, load: impl Fn(usize) -> Option<u32>) -> usize {
        let count = count.max(1);
        let (low, high) = (random as u32, (random >> 32) as u32);
        let start = low as usize % count;
        let at = |i: usize| (start + i) % count;
        let mut window = [None; WINDOW];
        let seen = window.get_mut(..count.min(WINDOW)).unwrap_or_default();
        for (i, place) in seen.iter_mut().enumerate() {
            *place = load(at(i));
        }
        let chosen = match draw(seen, high) {
            Some(i) => at(i),
            None => (WINDOW..count).map(at).find(|&partition| load(partition).is_some()).unwrap_or(start),
        };
        self.bytes.store(0, Ordering::Relaxed);
        self.current.store(chosen, Ordering::Relaxed);
        chosen
    }

    /// The next partition in turn, among those that are `available` if any is.
    pub(super) fn next_round(&self, count: usize, available: impl Fn(usize) -> bool) -> usize {
        let count = count.max(1);
        let turn = self.rounds.fetch_add(1, Ordering::Relaxed) % count;
        let skipped = (0..count).find(|i| available((turn + i) % count)).unwrap_or(0);
        // So that partitions behind a gap do not get its turns on top of their own.
        self.rounds.fetch_add(skipped, Ordering::Relaxed);
        (turn + skipped) % count
    }

    /// A batch of `partition` was closed at `size` bytes.
    pub(in super::super) fn closed(&self, partition: usize, size: usize, share: usize) {
        if self.current.load(Ordering::Relaxed) == partition
            && self.bytes.fetch_add(size, Ordering::Relaxed) + size >= share
        {
            self.current.store(NONE, Ordering::Relaxed);
        }
    }
}

/// A place of those with a load: weighed by how much shorter its queue is than the longest one, plus one
/// (`BuiltInPartitioner.updatePartitionLoadStats`).
fn draw(loads: &[Option<u32>], random: u32) -> Option<usize> {
    let longest = loads.iter().flatten().max()?;
    let weight = |load: &Option<u32>| load.map_or(0, |queued| u64::from(longest - queued) + 1);
    let total: u64 = loads.iter().map(weight).sum();
    let mut left = (u64::from(random) * total) >> 32;
    loads.iter().position(|load| {
        let weight = weight(load);
        let hit = left < weight;
        left = left.saturating_sub(weight);
        hit
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(_: usize) -> Option<u32> {
        Some(0)
    }

    #[test]
    fn a_partition_is_kept_until_it_got_its_share() {
        let sticky = Sticky::new();
        let first = sticky.current(8, free);
        sticky.closed(first, 600, 1000);
        assert_eq!(sticky.current(8, free), first);
        sticky.closed((first + 1) % 8, 5000, 1000);
        assert_eq!(sticky.current(8, free), first);
        sticky.closed(first, 600, 1000);
        assert_ne!(sticky.current(8, |p| (p != first).then_some(0)), first);
    }

    #[test]
    fn partitions_without_a_leader_are_avoided_while_there_are_others() {
        for _ in 0..50 {
            assert_eq!(Sticky::new().current(4, |p| (p == 2).then_some(7)), 2);
            assert_eq!(Sticky::new().current(400, |p| (p == 299).then_some(7)), 299);
        }
        assert!(Sticky::new().current(4, |_| None) < 4);
    }

    fn counts(count: usize, load: impl Fn(usize) -> Option<u32>) -> Vec<u32> {
        let mut counts = vec![0; count];
        for _ in 0..8000 {
            counts[Sticky::new().current(count, &load)] += 1;
        }
        counts
    }

    #[test]
    fn choices_are_spread_evenly() {
        let counts = counts(4, free);
        assert!(counts.iter().all(|&n| (1700..2300).contains(&n)), "{counts:?}");
    }

    #[test]
    fn a_long_queue_gets_less() {
        // Weights 4, 3 and 1 for queues of 0, 1 and 3, as in Java.
        let counts = counts(3, |p| [Some(0), Some(1), Some(3)][p]);
        for (count, expected) in counts.iter().zip([4000, 3000, 1000u32]) {
            assert!(count.abs_diff(expected) < 300, "{counts:?}");
        }
    }

    #[test]
    fn rounds_go_by_every_partition_and_skip_those_without_a_leader() {
        let sticky = Sticky::new();
        let turns: Vec<_> = (0..6).map(|_| sticky.next_round(3, |_| true)).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
        let turns: Vec<_> = (0..4).map(|_| sticky.next_round(3, |p| p != 1)).collect();
        assert_eq!(turns, [0, 2, 0, 2]);
    }
}
