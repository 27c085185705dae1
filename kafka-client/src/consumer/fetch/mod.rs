//! What to fetch next, and what to do with what came: positions, pauses, one request in flight for each broker,
//! one byte budget for all of them. Owns no socket and reads no clock.
//!
//! Nothing that was fetched is dropped and fetched again, but for a seek, a revocation or a damaged batch. A
//! full budget stops asking.

mod positions;
pub(crate) mod request;
mod scan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_wire::{ErrorCode, Uuid};
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::records::PartitionRecords;
use super::{ConsumeError, IsolationLevel, OffsetReset};
use crate::TopicPartition;
use scan::Scan;

/// How many bytes of one partition are handed over at once, if its batches are smaller: they still lie in the
/// CPU's cache when the reader decodes what it has just checked.
const HAND_OVER_BYTES: usize = 256 * 1024;
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
    pub parts: Vec<FetchPart>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FetchPart {
    pub partition: TopicPartition,
    pub topic_id: Option<Uuid>,
    pub epoch: u64,
    pub offset: i64,
    pub leader_epoch: i32,
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

#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    /// Waits for the group's committed offset.
    Committed {
        asked: bool,
    },
    /// Waits for ListOffsets.
    Reset {
        to: OffsetReset,
        asked: bool,
    },
    At {
        position: Position,
        fetch_offset: i64,
    },
    /// An error was reported; waits for a seek.
    Nowhere,
}

struct Partition {
    /// Changes with each assignment and seek; answers and records of another epoch are void.
    epoch: u64,
    place: Place,
    paused: bool,
    leader: Option<Leader>,
    topic_id: Option<Uuid>,
    in_flight: Option<u64>,
    /// Grows each time the partition yields data; who was served longest ago is asked first.
    served: u64,
    not_before: Option<Instant>,
    pieces: VecDeque<PartitionRecords>,
    buffered: usize,
    /// Reported once all pieces are read.
    error: Option<ConsumeError>,
    /// Whether it stands in the ready queue.
    queued: bool,
    max_bytes: usize,
    high_watermark: Option<i64>,
}

#[derive(Default)]
struct BrokerState {
    in_flight: bool,
    not_before: Option<Instant>,
}

pub(crate) struct Fetcher {
    config: FetchConfig,
    partitions: FxHashMap<TopicPartition, Partition>,
    brokers: FxHashMap<i32, BrokerState>,
    /// Partitions that have something for the reader, in turn.
    ready: VecDeque<TopicPartition>,
    /// Asked for and not answered yet.
    reserved: usize,
    /// With the reader, not yet released.
    in_hand: usize,
    next_id: u64,
    needs_metadata: bool,
}

impl Fetcher {
    pub(crate) fn new(config: FetchConfig) -> Self {
        Self {
            config,
            partitions: FxHashMap::default(),
            brokers: FxHashMap::default(),
            ready: VecDeque::new(),
            reserved: 0,
            in_hand: 0,
            next_id: 0,
            needs_metadata: false,
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
        if let Some(state) = self.partitions.get_mut(partition)
            && !state.queued
            && !state.paused
            && (!state.pieces.is_empty() || state.error.is_some())
        {
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
        self.needs_metadata
            || self.partitions.values().any(|state| {
                matches!(state.place, Place::Committed { asked: false } | Place::Reset { asked: false, .. })
            })
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
                Some(leader) if state.leader != Some(leader) => {
                    if state.leader.is_none_or(|old| old.broker != leader.broker) {
                        // The old leader's answer, if one is under way, is not waited for.
                        state.in_flight = None;
                    }
                    if matches!(state.place, Place::At { .. }) {
                        state.not_before = None;
                    }
                    state.leader = Some(leader);
                }
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
            match self.reset_place() {
                Some(place) => {
                    self.move_to(&partition, place);
                }
                None => {
                    self.move_to(&partition, Place::Nowhere);
                    let error = ConsumeError::TopicRecreated { partition: partition.clone() };
                    self.report(&partition, error, Place::Nowhere);
                }
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

    /// The brokers that lead something this consumer reads.
    pub(crate) fn leaders(&self) -> BTreeSet<i32> {
        self.partitions.values().filter_map(|state| Some(state.leader?.broker)).collect()
    }

    // ---- fetching

    /// Bytes fetched and not yet released by the reader.
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.in_hand + self.partitions.values().map(|state| state.buffered).sum::<usize>()
    }

    /// What to ask `broker` next.
    pub(crate) fn plan(&mut self, broker: i32, now: Instant) -> Planned {
        let state = self.brokers.entry(broker).or_default();
        if state.in_flight {
            return Planned::Wait(None);
        }
        if let Some(at) = state.not_before.filter(|at| now < *at) {
            return Planned::Wait(Some(at));
        }
        let mut wake_at: Option<Instant> = None;
        let mut askable: Vec<(u64, &TopicPartition)> = Vec::new();
        let mut leaders = HashSet::new();
        let mut active_bytes = self.in_hand;
        for (partition, state) in &self.partitions {
            if state.paused {
                continue;
            }
            active_bytes += state.buffered;
            let Some(leader) = state.leader else { continue };
            leaders.insert(leader.broker);
            if leader.broker != broker
                || state.in_flight.is_some()
                || state.error.is_some()
                || !matches!(state.place, Place::At { .. })
            {
                continue;
            }
            if let Some(at) = state.not_before.filter(|at| now < *at) {
                wake_at = Some(wake_at.map_or(at, |earlier| earlier.min(at)));
                continue;
            }
            askable.push((state.served, partition));
        }
        if askable.is_empty() {
            return Planned::Wait(wake_at);
        }
        let Some(max_bytes) = self.allowance(leaders.len(), active_bytes) else {
            return Planned::Wait(wake_at);
        };
        askable.sort_unstable();
        let order: Vec<TopicPartition> =
            askable.into_iter().map(|(_, partition)| partition.clone()).collect();

        let id = self.next_id();
        let mut parts = Vec::with_capacity(order.len());
        for partition in order {
            let Some(state) = self.partitions.get_mut(&partition) else { continue };
            let Place::At { fetch_offset, .. } = state.place else { continue };
            state.in_flight = Some(id);
            parts.push(FetchPart {
                topic_id: state.topic_id,
                epoch: state.epoch,
                offset: fetch_offset,
                leader_epoch: state.leader.map_or(-1, |leader| leader.epoch),
                max_bytes: state.max_bytes.min(max_bytes),
                partition,
            });
        }
        self.reserved += max_bytes;
        self.brokers.entry(broker).or_default().in_flight = true;
        Planned::Fetch(FetchPlan { id, broker, max_bytes, parts })
    }

    /// How many bytes one request may bring now: each broker has an equal share of the budget, so that one that
    /// answers slowly does not keep the others from asking.
    fn allowance(&self, brokers: usize, active_bytes: usize) -> Option<usize> {
        let budget = self.config.max_buffered_bytes;
        let share = (budget / brokers.max(1)).max(1);
        let free = budget.saturating_sub(self.buffered_bytes() + self.reserved);
        let ask = self.config.max_bytes.min(share).min(free);
        // Requests for the last few bytes would each bring one batch.
        let floor = self.config.max_partition_bytes.min(share.div_ceil(2)).max(1);
        if ask >= floor {
            Some(ask)
        } else if active_bytes == 0 && self.reserved == 0 {
            // Paused partitions hold the whole budget. They keep it, and the others go on in small steps.
            Some(floor)
        } else {
            None
        }
    }

    /// The request failed or was refused as a whole.
    pub(crate) fn failed(&mut self, plan: &FetchPlan, now: Instant) {
        self.finish(plan);
        self.brokers.entry(plan.broker).or_default().not_before = Some(now + BROKER_BACKOFF);
        self.needs_metadata = true;
    }

    fn finish(&mut self, plan: &FetchPlan) {
        self.reserved = self.reserved.saturating_sub(plan.max_bytes);
        self.brokers.entry(plan.broker).or_default().in_flight = false;
        for part in &plan.parts {
            if let Some(state) = self.partitions.get_mut(&part.partition)
                && state.in_flight == Some(plan.id)
            {
                state.in_flight = None;
            }
        }
    }

    /// Takes an answer in. Returns whether the reader has something new.
    pub(crate) fn answered(&mut self, plan: &FetchPlan, answers: Vec<PartitionAnswer>, now: Instant) -> bool {
        let valid: Vec<PartitionAnswer> = answers
            .into_iter()
            .filter(|answer| {
                plan.parts.get(answer.part).is_some_and(|part| {
                    self.partitions.get_mut(&part.partition).is_some_and(|state| {
                        // The position moved meanwhile, or the broker answers twice: void. Taking the mark
                        // keeps a second answer for the same partition out.
                        let asked = state.in_flight == Some(plan.id) && state.epoch == part.epoch;
                        if asked {
                            state.in_flight = None;
                        }
                        asked
                    })
                })
            })
            .collect();
        self.finish(plan);
        let before = self.ready.len();
        for answer in valid {
            if let Some(part) = plan.parts.get(answer.part) {
                self.take_answer(part, answer, now);
            }
        }
        self.ready.len() > before
    }

    fn take_answer(&mut self, part: &FetchPart, answer: PartitionAnswer, now: Instant) {
        let served = self.next_id();
        let Some(state) = self.partitions.get_mut(&part.partition) else { return };
        match answer.code {
            ErrorCode::None => {
                state.high_watermark = Some(answer.high_watermark);
                if answer.records.is_empty() {
                    return;
                }
                state.served = served;
                let scan = Scan::new(&self.config, part, answer);
                let (pieces, end, damage) = scan.run();
                self.take_pieces(&part.partition, pieces, end, now);
                if let Some(source) = damage.filter(|_| end == part.offset) {
                    let error =
                        ConsumeError::CorruptBatch { partition: part.partition.clone(), offset: end, source };
                    self.report_corrupt(&part.partition, error, now);
                }
            }
            ErrorCode::OffsetOutOfRange => {
                let Place::At { position, fetch_offset } = state.place else { return };
                if position.offset != fetch_offset {
                    // What is buffered is read first.
                    state.not_before = Some(now + PARTITION_BACKOFF);
                    return;
                }
                match self.reset_place() {
                    Some(place) => {
                        self.move_to(&part.partition, place);
                    }
                    None => {
                        let error = ConsumeError::NoOffset {
                            partition: part.partition.clone(),
                            position: Some(fetch_offset),
                        };
                        self.report(&part.partition, error, Place::Nowhere);
                    }
                }
            }
            code if code.is_retriable()
                || code.is_stale_metadata()
                || matches!(code, ErrorCode::UnknownServerError | ErrorCode::UnknownTopicId) =>
            {
                state.not_before = Some(now + PARTITION_BACKOFF);
                self.needs_metadata |= code != ErrorCode::CorruptMessage;
            }
            code => {
                state.not_before = Some(now + REPORTED_BACKOFF);
                let place = state.place;
                let error = ConsumeError::Refused { partition: part.partition.clone(), code };
                self.report(&part.partition, error, place);
            }
        }
    }

    fn take_pieces(
        &mut self,
        partition: &TopicPartition,
        pieces: Vec<PartitionRecords>,
        end: i64,
        now: Instant,
    ) {
        let Some(state) = self.partitions.get_mut(partition) else { return };
        let Place::At { position, fetch_offset } = &mut state.place else { return };
        if end <= *fetch_offset {
            // Not one whole batch: the broker cut it off. Kafka never does so to the first partition of a
            // request (KIP-74); for others, ask for more.
            state.max_bytes = state.max_bytes.saturating_mul(2).min(self.config.max_bytes);
            state.not_before = Some(now + PARTITION_BACKOFF);
            return;
        }
        state.max_bytes = self.config.max_partition_bytes;
        let all_read = position.offset == *fetch_offset;
        *fetch_offset = end;
        if pieces.is_empty() {
            // Only control, aborted or compacted batches: nothing for the reader, but a step forward.
            match state.pieces.back_mut() {
                Some(last) => last.next_offset = end,
                None if all_read => position.offset = end,
                // The reader holds the last piece; the position follows when it comes back for more.
                None => state.pieces.push_back(PartitionRecords {
                    partition: partition.clone(),
                    epoch: state.epoch,
                    position: end,
                    next_offset: end,
                    batches: VecDeque::new(),
                    high_watermark: -1,
                    max_decompressed: 0,
                    charge: 0,
                }),
            }
        }
        for piece in pieces {
            state.buffered += piece.charge;
            state.pieces.push_back(piece);
        }
        self.enqueue(partition);
    }

    /// What the reader gets next. Records stay charged to the budget until [`Fetcher::release`].
    pub(crate) fn next(&mut self) -> Option<Next> {
        while let Some(partition) = self.ready.pop_front() {
            let Some(state) = self.partitions.get_mut(&partition) else { continue };
            state.queued = false;
            if state.paused {
                continue;
            }
            if let Some(piece) = state.pieces.pop_front() {
                state.buffered = state.buffered.saturating_sub(piece.charge);
                self.in_hand += piece.charge;
                let (epoch, next_offset, is_empty) =
                    (piece.epoch, piece.next_offset, piece.batches.is_empty());
                self.enqueue(&partition);
                if is_empty {
                    self.read_to(&partition, epoch, Position { offset: next_offset, leader_epoch: -1 });
                    continue;
                }
                return Some(Next::Records(piece));
            }
            if let Some(error) = state.error.take() {
                return Some(Next::Error(error));
            }
        }
        None
    }

    /// The reader is through with records up to `position`.
    pub(crate) fn read_to(&mut self, partition: &TopicPartition, epoch: u64, to: Position) {
        if let Some(state) = self.partitions.get_mut(partition)
            && state.epoch == epoch
            && let Place::At { position, fetch_offset } = &mut state.place
        {
            *position = to;
            *fetch_offset = to.offset.max(*fetch_offset);
        }
    }

    /// The reader let go of so many bytes that [`Fetcher::next`] gave it.
    pub(crate) fn release(&mut self, bytes: usize) {
        self.in_hand = self.in_hand.saturating_sub(bytes);
    }

    /// Takes records back that the reader got and did not use, such as those of a partition that was paused.
    pub(crate) fn put_back(&mut self, records: PartitionRecords) {
        self.in_hand = self.in_hand.saturating_sub(records.charge);
        let partition = records.partition.clone();
        if let Some(state) = self.partitions.get_mut(&partition)
            && state.epoch == records.epoch
        {
            state.buffered += records.charge;
            state.pieces.push_front(records);
            self.enqueue(&partition);
        }
    }

    /// The batch at `offset` is damaged: fetch it again, in case the damage came about on the way. Returns the
    /// epoch that records from before it now count under.
    pub(crate) fn refetch(
        &mut self,
        partition: &TopicPartition,
        epoch: u64,
        offset: i64,
        now: Instant,
    ) -> Option<u64> {
        let state = self.partitions.get(partition).filter(|state| state.epoch == epoch)?;
        let Place::At { position, .. } = state.place else { return None };
        self.move_to(partition, Place::At { position, fetch_offset: offset.max(position.offset) });
        let state = self.partitions.get_mut(partition)?;
        state.not_before = Some(now + REPORTED_BACKOFF);
        Some(state.epoch)
    }

    fn report_corrupt(&mut self, partition: &TopicPartition, error: ConsumeError, now: Instant) {
        if let Some(state) = self.partitions.get_mut(partition) {
            state.not_before = Some(now + REPORTED_BACKOFF);
            let place = state.place;
            self.report(partition, error, place);
        }
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
}
