//! Which partition a record goes to: murmur2 of the key, or whichever is being filled.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::backoff::random_u64;

/// The partition that records without a key go to until it got its share (KIP-480, KIP-794).
///
/// It changes only between batches, and only once `batch.size` bytes went there: that keeps batches whole and, counting
/// bytes instead of batches, does not favour slow partitions.
#[derive(Debug)]
pub(super) struct Sticky {
    current: AtomicUsize,
    bytes: AtomicUsize,
}

const NONE: usize = usize::MAX;

impl Sticky {
    pub(super) fn new() -> Self {
        Self { current: AtomicUsize::new(NONE), bytes: AtomicUsize::new(0) }
    }

    /// The current partition of `count`, chosen among those that are `available` if there is none.
    #[inline]
    pub(super) fn current(&self, count: usize, available: impl Fn(usize) -> bool) -> usize {
        let current = self.current.load(Ordering::Relaxed);
        if current < count { current } else { self.choose(count, random_u64(), available) }
    }

    #[cold]
    fn choose(&self, count: usize, random: u64, available: impl Fn(usize) -> bool) -> usize {
        let count = count.max(1);
        let start = (random % count as u64) as usize;
        let chosen = (0..count).map(|i| (start + i) % count).find(|&p| available(p)).unwrap_or(start);
        self.bytes.store(0, Ordering::Relaxed);
        self.current.store(chosen, Ordering::Relaxed);
        chosen
    }

    /// A batch of `partition` was closed at `size` bytes.
    pub(super) fn closed(&self, partition: usize, size: usize, share: usize) {
        if self.current.load(Ordering::Relaxed) == partition
            && self.bytes.fetch_add(size, Ordering::Relaxed) + size >= share
        {
            self.current.store(NONE, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_kept_until_it_got_its_share() {
        let sticky = Sticky::new();
        let first = sticky.current(8, |_| true);
        sticky.closed(first, 600, 1000);
        assert_eq!(sticky.current(8, |_| true), first);
        sticky.closed((first + 1) % 8, 5000, 1000);
        assert_eq!(sticky.current(8, |_| true), first);
        sticky.closed(first, 600, 1000);
        assert_ne!(sticky.current(8, |p| p != first), first);
    }

    #[test]
    fn partitions_without_a_leader_are_avoided_while_there_are_others() {
        for _ in 0..50 {
            assert_eq!(Sticky::new().current(4, |p| p == 2), 2);
        }
        assert!(Sticky::new().current(4, |_| false) < 4);
    }

    #[test]
    fn choices_are_spread_evenly() {
        let mut counts = [0u32; 4];
        for _ in 0..4000 {
            counts[Sticky::new().current(4, |_| true)] += 1;
        }
        assert!(counts.iter().all(|&n| (800..1200).contains(&n)), "{counts:?}");
    }
}
