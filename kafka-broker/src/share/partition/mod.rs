//! A share partition: which records of a partition a share group has in flight, and with whom (KIP-932).
//!
//! Pure: offsets and `now` in, what is acquired and what is to be put on record out. Everything below
//! [`start_offset`](SharePartition::start_offset) (SPSO) is done; nothing from
//! [`end_offset`](SharePartition::end_offset) on has been given to anybody yet; each offset between has a
//! [`RecordState`].
//!
//! A change that the share coordinator has to know is a [`Transition`]: it is in force at once, and either
//! [committed](SharePartition::commit) when it is on record or [taken back](SharePartition::roll_back).

mod acknowledge;
mod acquire;
#[cfg(test)]
mod model;

use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(test)]
pub(crate) use acknowledge::Refused;
pub(crate) use acknowledge::{AcknowledgeType, Acknowledgement};
pub(crate) use acquire::{Acquire, AcquireMode, Acquired, LogBatch};

use super::runs::{Run, Runs};

/// The limits of a share group, by Kafka's keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Limits {
    /// `group.share.delivery.count.limit`.
    pub(crate) delivery_count: i16,
    /// `group.share.partition.max.record.locks`.
    pub(crate) record_locks: i64,
    /// `share.record.lock.duration.ms`.
    pub(crate) lock_duration: Duration,
}

/// Where a record of the in-flight window stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RecordState {
    Available,
    Acquired {
        member: Arc<str>,
        until: Instant,
    },
    /// Accepted.
    Acknowledged,
    /// Rejected, delivered too often, or not there at all.
    Archived,
}

impl RecordState {
    fn is_done(&self) -> bool {
        matches!(self, Self::Acknowledged | Self::Archived)
    }

    /// As it is put on record; `None`: it is not.
    fn recorded(&self) -> Option<i8> {
        match self {
            Self::Available => Some(0),
            Self::Acquired { .. } => None,
            Self::Acknowledged => Some(2),
            Self::Archived => Some(4),
        }
    }

    fn from_recorded(code: i8) -> Self {
        match code {
            2 => Self::Acknowledged,
            4 => Self::Archived,
            _ => Self::Available,
        }
    }
}

/// A record in flight.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct InFlight {
    pub(crate) state: RecordState,
    /// How often it was acquired.
    pub(crate) delivery_count: i16,
}

/// A run of records as it rests in `__share_group_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StateBatch {
    pub(crate) first: i64,
    /// Inclusive.
    pub(crate) last: i64,
    /// 0 available, 2 acknowledged, 4 archived.
    pub(crate) state: i8,
    pub(crate) delivery_count: i16,
}

/// A change that has to be put on record.
#[derive(Debug, Default, PartialEq)]
#[must_use = "it is committed or rolled back"]
pub(crate) struct Transition {
    /// Where the start will be.
    pub(crate) start_offset: i64,
    /// What changed, from that start on.
    pub(crate) batches: Vec<StateBatch>,
    /// How many offsets from that start on are done.
    pub(crate) delivery_complete_count: i32,
    before: Vec<Run<InFlight>>,
    start_before: i64,
    end_before: i64,
}

impl Transition {
    /// Nothing to be put on record.
    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.start_offset == self.start_before
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct SharePartition {
    limits: Limits,
    start: i64,
    end: i64,
    /// All offsets from `start` to before `end`.
    in_flight: Runs<InFlight>,
    /// No offset before is available.
    maybe_available: i64,
}

impl SharePartition {
    /// A partition of which the group has had nothing from `start_offset` on, except for what is on record.
    pub(crate) fn new(start_offset: i64, recorded: &[StateBatch], limits: Limits) -> Self {
        let mut in_flight = Runs::default();
        let mut end = start_offset;
        for batch in recorded {
            let first = batch.first.max(start_offset);
            if first > batch.last {
                continue;
            }
            if first > end {
                // In flight when the state was written, and not acknowledged: to be delivered again.
                in_flight.set(end, first - 1, InFlight { state: RecordState::Available, delivery_count: 0 });
            }
            let state = RecordState::from_recorded(batch.state);
            in_flight.set(first, batch.last, InFlight { state, delivery_count: batch.delivery_count });
            end = end.max(batch.last.saturating_add(1));
        }
        let mut partition =
            Self { limits, start: start_offset, end, in_flight, maybe_available: start_offset };
        partition.advance();
        partition
    }

    /// The first offset that is not done (SPSO).
    pub(crate) fn start_offset(&self) -> i64 {
        self.start
    }

    /// The first offset that nobody had yet (one after SPEO).
    #[cfg(test)]
    pub(crate) fn end_offset(&self) -> i64 {
        self.end
    }

    /// The group's configuration changed; records that are locked stay so for as long as they were promised.
    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Where the next fetch reads: the first record to be delivered again, else the first that nobody had.
    pub(crate) fn next_fetch_offset(&mut self) -> i64 {
        let is_available = |run: &Run<&InFlight>| run.value.state == RecordState::Available;
        let next = self.in_flight.within(self.maybe_available, self.end).find(is_available);
        let next = next.map_or(self.end, |run| run.first);
        self.maybe_available = next;
        next
    }

    /// Whether anything may be acquired: a window of `record_locks` full of locked records says no.
    pub(crate) fn can_acquire(&mut self) -> bool {
        self.next_fetch_offset() < self.end || self.end - self.start < self.limits.record_locks
    }

    /// When the first lock ends.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let until = |run: Run<&InFlight>| match run.value.state {
            RecordState::Acquired { until, .. } => Some(until),
            _ => None,
        };
        self.in_flight.iter().filter_map(until).min()
    }

    /// Locks that are due end: the records become available, or are given up if they were delivered often enough.
    pub(crate) fn expire(&mut self, now: Instant) -> Transition {
        self.end_locks(|_, until| until <= now)
    }

    /// A member is gone: what it holds becomes available. The delivery counts, as in `SharePartition.releaseAcquiredRecords`
    /// of Kafka 4.3.
    pub(crate) fn release_member(&mut self, member: &str) -> Transition {
        self.end_locks(|holder, _| holder == member)
    }

    /// The log begins at `offset` now: what was before is done.
    pub(crate) fn log_starts_at(&mut self, offset: i64) -> Transition {
        let mut transition = self.transition();
        if offset > self.start {
            transition.before.extend(self.in_flight.within(self.start, offset - 1).map(owned));
            self.in_flight.clear_below(offset);
            self.start = offset;
            self.end = self.end.max(offset);
        }
        self.complete(&mut transition);
        transition
    }

    /// The change is on record.
    pub(crate) fn commit(&mut self, _recorded: Transition) {
        self.advance();
    }

    /// The change could not be put on record.
    pub(crate) fn roll_back(&mut self, refused: Transition) {
        self.start = refused.start_before;
        self.end = refused.end_before;
        // Backwards: an offset may have been changed twice.
        for run in refused.before.into_iter().rev() {
            self.put(run.first, run.last, run.value);
        }
        self.maybe_available = self.start;
    }

    fn end_locks(&mut self, ends: impl Fn(&str, Instant) -> bool) -> Transition {
        let mut transition = self.transition();
        let limit = self.limits.delivery_count;
        let ended: Vec<_> = self
            .in_flight
            .iter()
            .filter(|run| match &run.value.state {
                RecordState::Acquired { member, until } => ends(member, *until),
                _ => false,
            })
            .map(owned)
            .collect();
        for run in ended {
            let delivery_count = run.value.delivery_count;
            let state = if delivery_count >= limit { RecordState::Archived } else { RecordState::Available };
            self.change(&mut transition, run, InFlight { state, delivery_count });
        }
        self.complete(&mut transition);
        transition
    }

    fn transition(&self) -> Transition {
        Transition { start_before: self.start, end_before: self.end, ..Transition::default() }
    }

    /// Changes a run, and notes how it was.
    fn change(&mut self, transition: &mut Transition, was: Run<InFlight>, is: InFlight) {
        if let Some(state) = is.state.recorded() {
            let delivery_count = is.delivery_count;
            transition.batches.push(StateBatch { first: was.first, last: was.last, state, delivery_count });
        }
        let (first, last) = (was.first, was.last);
        transition.before.push(was);
        self.put(first, last, is);
    }

    /// Says what the transition comes to.
    fn complete(&self, transition: &mut Transition) {
        let start = self.next_start();
        let done = self.in_flight.within(start, self.end).filter(|run| run.value.state.is_done());
        transition.delivery_complete_count =
            i32::try_from(done.map(|run| run.count()).sum::<i64>()).unwrap_or(i32::MAX);
        transition.start_offset = start;
        transition.batches.retain_mut(|batch| {
            batch.first = batch.first.max(start);
            batch.first <= batch.last
        });
    }

    fn put(&mut self, first: i64, last: i64, is: InFlight) {
        if is.state == RecordState::Available {
            self.maybe_available = self.maybe_available.min(first);
        }
        self.in_flight.set(first, last, is);
    }

    /// The first offset that is not done.
    fn next_start(&self) -> i64 {
        let open = self.in_flight.iter().find(|run| !run.value.state.is_done());
        open.map_or(self.end, |run| run.first)
    }

    /// Forgets what is done at the front.
    fn advance(&mut self) {
        self.start = self.next_start();
        self.in_flight.clear_below(self.start);
        self.maybe_available = self.maybe_available.max(self.start);
    }
}

fn owned(run: Run<&InFlight>) -> Run<InFlight> {
    Run { first: run.first, last: run.last, value: run.value.clone() }
}
