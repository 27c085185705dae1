//! What to fetch next, and what to do with what came: positions, pauses, one request in flight for each broker,
//! one byte budget for all of them. Owns no socket and reads no clock.
//!
//! Nothing that was fetched is dropped and fetched again, but for a seek, a revocation, a damaged batch or a lost
//! history. A full budget stops asking.

mod answers;
pub(crate) mod budget;
#[cfg(test)]
mod model_tests;
mod plan;
mod positions;
mod reading;
pub(crate) mod request;
mod scan;
pub(crate) mod session;
#[cfg(test)]
mod tests;
mod truncation;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_wire::{ErrorCode, Uuid};
use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::records::PartitionRecords;
use super::{ConsumeError, IsolationLevel, OffsetReset, TopicRecreation};
use crate::TopicPartition;
use budget::Budget;
use session::{Session, SessionRequest};

/// How many bytes of one partition are handed over at once, if its batches are smaller: they still lie in the
/// CPU's cache when the reader decodes what it has just checked.
const HAND_OVER_BYTES: usize = 256 * 1024;
/// In these parts of an answer's bytes it is counted what its batches take besides.
const OVERHEAD_UNIT: usize = 256;
/// Answers from this size on tell how much that is.
const TELLING_ANSWER_BYTES: usize = 64 * 1024;
/// How long a partition rests after an error that will pass.
const PARTITION_BACKOFF: Duration = Duration::from_millis(100);
/// How long a broker rests after a request to it failed.
const BROKER_BACKOFF: Duration = Duration::from_millis(200);
/// How long a partition rests after an error that the application was told.
const REPORTED_BACKOFF: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(crate) struct FetchConfig {
    pub max_buffered_bytes: usize,
    pub max_bytes: usize,
    pub max_partition_bytes: usize,
    pub isolation: IsolationLevel,
    pub reset: OffsetReset,
    pub recreation: TopicRecreation,
    /// How long a follower is read from before the leader is asked again (`metadata.max.age.ms`, KIP-392).
    pub preferred_replica_lifetime: Duration,
}

/// Where a partition is led, from the cluster's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leader {
    pub broker: i32,
    pub epoch: i32,
}

/// One Fetch request. Every plan must come back through [`Fetcher::answered`] or [`Fetcher::failed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FetchPlan {
    pub id: u64,
    pub broker: i32,
    pub max_bytes: usize,
    /// What the answer may take from the budget.
    pub reserved: usize,
    pub parts: Vec<FetchPart>,
    pub session: SessionRequest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FetchPart {
    pub partition: TopicPartition,
    pub topic_id: Option<Uuid>,
    pub epoch: u64,
    pub offset: i64,
    pub leader_epoch: i32,
    /// Of the last batch that was fetched before `offset`, so that the broker sees whether it has it (KIP-320).
    pub last_fetched_epoch: i32,
    pub max_bytes: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Planned {
    Fetch(FetchPlan),
    /// Nothing to ask now. Ask again when something changes, or at this moment.
    Wait(Option<Instant>),
}

/// One partition of a Fetch answer.
#[derive(Debug, Clone)]
pub(crate) struct PartitionAnswer {
    /// Index into the plan's parts.
    pub part: usize,
    pub code: ErrorCode,
    pub high_watermark: i64,
    pub last_stable_offset: i64,
    pub log_start_offset: i64,
    /// Where the broker's history and the reader's part: the epoch and its end.
    pub diverging: Option<(i32, i64)>,
    /// The replica to ask instead (KIP-392).
    pub preferred_replica: Option<i32>,
    /// Producer id and first offset of each aborted transaction in range.
    pub aborted: Vec<(i64, i64)>,
    pub records: Bytes,
}

/// What the reader gets next.
#[derive(Debug)]
pub(crate) enum Next {
    Records(PartitionRecords),
    Error(ConsumeError),
}

/// A consumer's place in a partition: what it would commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub offset: i64,
    /// Of the record before it; -1 if unknown.
    pub leader_epoch: i32,
}

/// An offset to be found: ask the partition's leader for this timestamp (ListOffsets).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lookup {
    pub partition: TopicPartition,
    pub epoch: u64,
    pub reset: OffsetReset,
}

/// A position to be compared with the leader's history (OffsetForLeaderEpoch, KIP-320).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EpochCheck {
    pub partition: TopicPartition,
    pub epoch: u64,
    pub leader: Leader,
    /// The epoch whose end is asked for.
    pub position_epoch: i32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    /// Waits for the group's committed offset.
    Committed { asked: bool },
    /// Waits for ListOffsets.
    Reset { to: OffsetReset, asked: bool },
    At {
        position: Position,
        /// Where the next fetch begins: behind what is buffered.
        fetch: Position,
        check: Check,
    },
    /// An error was reported; waits for a seek.
    Nowhere,
}

/// Whether the leader is known to have what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Due,
    Asked,
    Done,
}

impl Place {
    /// Reads on from here. What was read in a known epoch is compared with the leader's history first.
    fn at(position: Position) -> Self {
        let check = if position.leader_epoch >= 0 { Check::Due } else { Check::Done };
        Self::At { position, fetch: position, check }
    }

    /// As [`Place::at`], where the leader itself named the position.
    fn at_checked(position: Position) -> Self {
        Self::At { position, fetch: position, check: Check::Done }
    }

    /// Whether something has to be asked for it.
    fn is_open(&self) -> bool {
        matches!(
            self,
            Self::Committed { asked: false }
                | Self::Reset { asked: false, .. }
                | Self::At { check: Check::Due, .. }
        )
    }
}

struct Partition {
    /// Changes with each assignment and seek; answers and records of another epoch are void.
    epoch: u64,
    /// The epoch of the assignment.
    assigned_in: u64,
    place: Place,
    paused: bool,
    leader: Option<Leader>,
    preferred: Option<Preferred>,
    topic_id: Option<Uuid>,
    in_flight: Option<u64>,
    /// Grows each time the partition yields data; who was served longest ago is asked first.
    served: u64,
    not_before: Option<Instant>,
    pieces: VecDeque<PartitionRecords>,
    /// Behind the last piece that the reader got, with that piece's largest timestamp.
    handed_to: i64,
    handed_timestamp: Option<i64>,
    /// Reported once all pieces are read.
    error: Option<ConsumeError>,
    /// Whether it stands in the ready queue.
    queued: bool,
    /// Told that there is something to read, if the partition has a reader of its own.
    lease: Option<Arc<Notify>>,
    max_bytes: usize,
    ends: Option<Ends>,
}

/// The follower to read from (KIP-392).
#[derive(Debug, Clone, Copy)]
struct Preferred {
    broker: i32,
    until: Instant,
}

/// Where a partition begins and ends, as of the last answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ends {
    pub log_start_offset: i64,
    pub last_stable_offset: i64,
    pub high_watermark: i64,
}

impl Ends {
    /// Up to where a reader may read.
    pub(crate) fn readable(&self, isolation: IsolationLevel) -> i64 {
        match isolation {
            IsolationLevel::ReadCommitted => self.last_stable_offset,
            IsolationLevel::ReadUncommitted => self.high_watermark,
        }
    }
}

#[derive(Default)]
struct BrokerState {
    in_flight: bool,
    not_before: Option<Instant>,
    session: Session,
}

pub(crate) struct Fetcher {
    config: FetchConfig,
    partitions: FxHashMap<TopicPartition, Partition>,
    brokers: FxHashMap<i32, BrokerState>,
    budget: Arc<Budget>,
    /// Partitions that have something for the reader, in turn.
    ready: VecDeque<TopicPartition>,
    /// Asked for and not answered yet.
    reserved: usize,
    /// The largest batch of late: whoever asks for less may get more.
    largest_batch: usize,
    /// What answers took besides their bytes of late, for each byte, in parts of [`OVERHEAD_UNIT`]: batches of a few
    /// bytes take half as much again.
    overhead: usize,
    next_id: u64,
    needs_metadata: bool,
    /// A partition is to be fetched from another broker than before.
    sources_changed: bool,
}

impl Fetcher {
    pub(crate) fn new(config: FetchConfig) -> Self {
        Self {
            budget: Budget::new(config.max_buffered_bytes),
            config,
            partitions: FxHashMap::default(),
            brokers: FxHashMap::default(),
            ready: VecDeque::new(),
            reserved: 0,
            largest_batch: 0,
            overhead: 0,
            next_id: 0,
            needs_metadata: false,
            sources_changed: false,
        }
    }

    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Tells the reader, once what is buffered of the partition is read.
    fn report(&mut self, partition: &TopicPartition, error: ConsumeError, place: Place) {
        if let Some(state) = self.partitions.get_mut(partition) {
            state.place = place;
            state.error = Some(error);
            self.enqueue(partition);
        }
    }

    fn enqueue(&mut self, partition: &TopicPartition) {
        let Some(state) = self.partitions.get_mut(partition) else { return };
        if state.paused || (state.pieces.is_empty() && state.error.is_none()) {
            return;
        }
        if let Some(data) = &state.lease {
            data.notify_one();
        } else if !state.queued {
            state.queued = true;
            self.ready.push_back(partition.clone());
        }
    }

    // ---- metadata

    /// Whether metadata proved stale or missing since the last call.
    pub(crate) fn take_needs_metadata(&mut self) -> bool {
        std::mem::take(&mut self.needs_metadata)
    }

    /// Whether an answer left something to look up: metadata, or an offset by the reset policy.
    pub(crate) fn needs_upkeep(&self) -> bool {
        self.needs_metadata || self.partitions.values().any(|state| state.place.is_open())
    }

    /// Whether some partition moved to another broker since the last call, so that its task has to be woken.
    pub(crate) fn take_sources_changed(&mut self) -> bool {
        std::mem::take(&mut self.sources_changed)
    }

    pub(crate) fn topics(&self) -> BTreeSet<Arc<str>> {
        self.partitions.keys().map(|partition| Arc::clone(&partition.topic)).collect()
    }

    /// Takes over who leads each partition. Returns whether some partition has no leader.
    pub(crate) fn update_leaders(
        &mut self,
        find: impl Fn(&TopicPartition) -> (Option<Leader>, Option<Uuid>),
    ) -> bool {
        let mut leaderless = false;
        let mut recreated = Vec::new();
        for (partition, state) in &mut self.partitions {
            let (leader, topic_id) = find(partition);
            match leader {
                Some(leader) if state.leader != Some(leader) => state.follow(leader),
                Some(_) => {}
                None => leaderless = true,
            }
            if let Some(id) = topic_id {
                if state.topic_id.is_some_and(|old| old != id) {
                    recreated.push(partition.clone());
                }
                state.topic_id = Some(id);
            }
        }
        for partition in recreated {
            // Offsets of the old topic mean nothing in the new one (KIP-516).
            let place = match self.config.recreation {
                TopicRecreation::Reset => self.reset_place(&partition),
                TopicRecreation::Earliest => Some(Place::Reset { to: OffsetReset::Earliest, asked: false }),
                TopicRecreation::Fail => None,
            };
            tracing::warn!(%partition, "the topic was deleted and created again");
            self.move_to(&partition, place.unwrap_or(Place::Nowhere));
            if place.is_none() {
                let error = ConsumeError::TopicRecreated { partition: partition.clone() };
                self.report(&partition, error, Place::Nowhere);
            }
        }
        leaderless
    }

    /// The cluster refuses to describe a topic, for good: it may not be read, or no topic can have that name.
    pub(crate) fn topic_refused(&mut self, topic: &str, code: ErrorCode, now: Instant) {
        let refused: Vec<TopicPartition> = self
            .partitions
            .iter()
            .filter(|(partition, state)| {
                partition.topic() == topic && state.error.is_none() && state.is_due(now)
            })
            .map(|(partition, _)| partition.clone())
            .collect();
        for partition in refused {
            let Some(state) = self.partitions.get_mut(&partition) else { continue };
            state.not_before = Some(now + REPORTED_BACKOFF);
            let place = state.place;
            let error = ConsumeError::Refused { partition: partition.clone(), code };
            self.report(&partition, error, place);
        }
    }

    /// The brokers that something is fetched from.
    pub(crate) fn sources(&self) -> BTreeSet<i32> {
        self.partitions.values().filter_map(Partition::source).collect()
    }

    /// Bytes that are fetched and not yet let go of by the reader, in whole frames.
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.budget.used()
    }
}

/// What became of records that the reader holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Currency {
    Current,
    /// Keep them for later.
    Paused,
    /// A seek or a revocation: throw them away.
    Void,
}

impl Partition {
    fn is_due(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    /// Where to fetch from.
    fn source(&self) -> Option<i32> {
        self.preferred.map(|preferred| preferred.broker).or_else(|| Some(self.leader?.broker))
    }

    /// Another leader, or the same in a new epoch.
    fn follow(&mut self, leader: Leader) {
        let before = self.leader.replace(leader);
        // What the old leader answers, if it is asked, is not waited for.
        self.in_flight = None;
        self.preferred = None;
        if let Place::At { fetch, check, .. } = &mut self.place {
            self.not_before = None;
            if before.is_some_and(|before| before.epoch != leader.epoch) && fetch.leader_epoch >= 0 {
                *check = Check::Due;
            }
        }
    }
}
