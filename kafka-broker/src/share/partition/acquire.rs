//! Giving records to a member: which of those that were read, and how many.

use std::sync::Arc;
use std::time::Instant;

use super::super::runs::Run;
use super::{InFlight, RecordState, SharePartition, owned};

/// Records that are delivered again and again come in ever smaller pieces from this many deliveries on at the earliest
/// (`SharePartition.BAD_RECORD_DELIVERY_THRESHOLD`), so that a record which breaks its consumer takes few others along.
const MIN_THROTTLED_DELIVERY: i16 = 2;

/// The offsets of a batch in the log, as read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogBatch {
    pub(crate) base_offset: i64,
    /// Inclusive.
    pub(crate) last_offset: i64,
    /// Of a transaction that was aborted, which the group is not to see: it is archived instead of acquired.
    pub(crate) is_aborted: bool,
}

/// How strictly `max_records` is meant (KIP-1206).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum AcquireMode {
    /// A log batch is acquired whole.
    #[default]
    BatchOptimized,
    /// Not one record more.
    RecordLimit,
}

/// What a member asks for.
#[derive(Debug)]
pub(crate) struct Acquire<'a> {
    pub(crate) member: &'a Arc<str>,
    /// What was read from [`next_fetch_offset`](SharePartition::next_fetch_offset) on, in order.
    pub(crate) read: &'a [LogBatch],
    pub(crate) max_records: i64,
    /// After how many records a run of acquired records is better cut.
    pub(crate) batch_size: i64,
    pub(crate) mode: AcquireMode,
    pub(crate) now: Instant,
}

/// A run of records that a member has from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Acquired {
    pub(crate) first: i64,
    /// Inclusive.
    pub(crate) last: i64,
    pub(crate) delivery_count: i16,
}

impl SharePartition {
    /// Acquires records for a member. They are not on record as acquired: after a restart they are available.
    pub(crate) fn acquire(&mut self, acquire: &Acquire<'_>) -> Vec<Acquired> {
        let acquired = self.acquire_all(acquire);
        self.withhold_aborted(acquire.read, acquired)
    }

    fn acquire_all(&mut self, acquire: &Acquire<'_>) -> Vec<Acquired> {
        let (Some(first), Some(last)) = (acquire.read.first(), acquire.read.last()) else {
            return Vec::new();
        };
        let mut acquired = Vec::new();
        let mut left = acquire.max_records;
        // What is available before the first batch that could be read is not in the log any more.
        self.archive_available_below(first.base_offset);
        let redelivered: Vec<_> = self
            .in_flight
            .within(first.base_offset.max(self.start), last.last_offset)
            .filter(|run| run.value.state == RecordState::Available)
            .map(owned)
            .collect();
        for run in redelivered {
            if left <= 0 {
                return acquired;
            }
            let piece = self.redelivery_piece(&run);
            let is_throttled = piece < run.count();
            let wanted = acquire.cut(run.first, left.min(piece), is_throttled);
            let run = Run { last: run.last.min(wanted), ..run };
            left -= run.count();
            self.lock(&run, acquire, &mut acquired);
            if is_throttled {
                return acquired;
            }
        }
        let unlocked = self.limits.record_locks - (self.end - self.start);
        left = left.min(unlocked);
        let fresh = self.end.max(first.base_offset);
        if left > 0 && fresh <= last.last_offset {
            if fresh > self.end {
                // A hole that compaction left.
                let hole = InFlight { state: RecordState::Archived, delivery_count: 0 };
                self.put(self.end, fresh - 1, hole);
            }
            let until = acquire.cut(fresh, left, false).min(last.last_offset);
            let value = InFlight { state: RecordState::Available, delivery_count: 0 };
            self.end = until + 1;
            self.lock(&Run { first: fresh, last: until, value }, acquire, &mut acquired);
            self.advance();
        }
        acquired
    }

    /// Archives what was acquired of aborted transactions (`SharePartition.filterAbortedTransactionalAcquiredRecords`).
    /// That is not put on record: after a restart it is found out again.
    fn withhold_aborted(&mut self, read: &[LogBatch], mut acquired: Vec<Acquired>) -> Vec<Acquired> {
        let last = acquired.last().map_or(i64::MIN, |run| run.last);
        for batch in
            read.iter().take_while(|batch| batch.base_offset <= last).filter(|batch| batch.is_aborted)
        {
            let mut kept = Vec::with_capacity(acquired.len() + 1);
            for run in acquired {
                let (from, to) = (run.first.max(batch.base_offset), run.last.min(batch.last_offset));
                if from > to {
                    kept.push(run);
                    continue;
                }
                let archived = InFlight { state: RecordState::Archived, delivery_count: run.delivery_count };
                self.put(from, to, archived);
                let (before, after) = (Acquired { last: from - 1, ..run }, Acquired { first: to + 1, ..run });
                kept.extend([before, after].into_iter().filter(|piece| piece.first <= piece.last));
            }
            acquired = kept;
        }
        self.advance();
        acquired
    }

    fn lock(&mut self, run: &Run<InFlight>, acquire: &Acquire<'_>, acquired: &mut Vec<Acquired>) {
        let delivery_count = run.value.delivery_count.saturating_add(1);
        let until = acquire.now + self.limits.lock_duration;
        let state = RecordState::Acquired { member: Arc::clone(acquire.member), until };
        self.put(run.first, run.last, InFlight { state, delivery_count });
        let mut first = run.first;
        for batch in acquire.read {
            let is_inside = batch.last_offset >= first && batch.last_offset < run.last;
            if is_inside && batch.last_offset - first + 1 >= acquire.batch_size {
                acquired.push(Acquired { first, last: batch.last_offset, delivery_count });
                first = batch.last_offset + 1;
            }
        }
        acquired.push(Acquired { first, last: run.last, delivery_count });
    }

    /// How many records of a run that was delivered before may go out together: all of them at first; from half the
    /// limit on half of them, then a quarter, and one by one the last time.
    fn redelivery_piece(&self, run: &Run<InFlight>) -> i64 {
        let limit = self.limits.delivery_count;
        let throttled = MIN_THROTTLED_DELIVERY.max((limit + 1) / 2);
        let deliveries = run.value.delivery_count;
        if deliveries < throttled {
            return run.count();
        }
        if deliveries >= limit - 1 {
            return 1;
        }
        let halvings = u32::try_from(deliveries - throttled + 1).unwrap_or(0).min(62);
        (run.count() >> halvings).max(1)
    }

    fn archive_available_below(&mut self, offset: i64) {
        if offset <= self.maybe_available {
            return;
        }
        let lost: Vec<_> = self
            .in_flight
            .within(self.maybe_available, offset - 1)
            .filter(|run| run.value.state == RecordState::Available)
            .map(owned)
            .collect();
        for run in lost {
            let delivery_count = run.value.delivery_count;
            self.put(run.first, run.last, InFlight { state: RecordState::Archived, delivery_count });
        }
        self.advance();
    }
}

impl Acquire<'_> {
    /// The last offset to be acquired if at most `count` records from `first` on may be: unless the limit is strict,
    /// the rest of the log's batch comes along.
    fn cut(&self, first: i64, count: i64, strict: bool) -> i64 {
        let last = first.saturating_add(count - 1);
        if strict || self.mode == AcquireMode::RecordLimit {
            return last;
        }
        let batch = self.read.iter().find(|batch| batch.last_offset >= last);
        batch.filter(|batch| batch.base_offset <= last).map_or(last, |batch| batch.last_offset)
    }
}
