//! Decides which batches go to which broker, when, and what an answer means for them.
//!
//! Pure: events and `now` in, [`Action`]s out. It completes batches itself, since that is data too. What it keeps:
//!
//! - A batch gets its identity and sequence number once, when it first leaves; retries keep both, whoever leads the
//!   partition by then, so that a leader which has it already answers so (KIP-98).
//! - A leader that does not know the producer takes any sequence number. So the first batch for a partition goes alone.
//! - When the leader finds a gap and nothing sent before the batch is open any more, the gap is real: the batch, and
//!   whatever follows it, cannot be in the log. Only then do they get new numbers, under a new epoch (KIP-360).
//!   Batches whose fate is unknown are first offered again under their old numbers.
//! - A caller is told after `delivery.timeout` whatever happens; a batch in flight at that time stays in its
//!   partition's order until the answer comes.

#[cfg(test)]
mod model;
mod queue;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_wire::ErrorCode;
use kafka_wire::compression::Compression;
use tokio::time::Instant;

use self::queue::{PartitionQueue, Returned};
use super::batch::{Batch, Identity, Lane};
use super::delivery::{Completion, Outcome};
use super::error::SendError;
use crate::backoff::Backoff;

/// How many brokers acknowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Acks {
    /// Nobody: a record counts as sent when it left. Loss is not noticed.
    None,
    /// The leader.
    Leader,
    /// Every in-sync replica (Kafka's default).
    #[default]
    All,
}

impl Acks {
    /// The number on the wire.
    pub(crate) fn code(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Leader => 1,
            Self::All => -1,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct SenderConfig {
    pub(super) acks: Acks,
    pub(super) idempotent: bool,
    /// Requests for each broker, and so batches for each partition. Kafka keeps five batches of each idempotent
    /// producer to recognise duplicates, so five is also the most that can be.
    pub(super) max_in_flight: usize,
    pub(super) max_request_bytes: usize,
    pub(super) delivery_timeout: Duration,
    pub(super) retry_backoff: Backoff,
    pub(super) compression: Compression,
}

/// Names a request until its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RequestId(u64);

#[derive(Debug)]
pub(super) enum Action {
    /// Ask for a producer id, then call [`Sender::identified`] or [`Sender::not_identified`].
    InitProducerId,
    /// Connect to a broker, then call [`Sender::connected`] or [`Sender::not_connected`].
    Connect { broker: i32 },
    /// Send a request, then call [`Sender::answered`] or [`Sender::failed`].
    Send(ProducePlan),
    /// The leader of this partition is not known, or not the one that was thought.
    RefreshMetadata { lane: Arc<Lane> },
}

/// One Produce request: at most one batch for each partition.
#[derive(Debug)]
pub(super) struct ProducePlan {
    pub(super) id: RequestId,
    pub(super) broker: i32,
    pub(super) parts: Vec<(Arc<Lane>, Bytes)>,
}

/// What the leader said of one batch.
#[derive(Debug, Clone)]
pub(super) struct PartAnswer {
    pub(super) code: ErrorCode,
    pub(super) base_offset: i64,
    pub(super) log_append_time: Option<i64>,
}

#[derive(Debug)]
pub(super) struct Sender {
    config: SenderConfig,
    /// By the lane's slot.
    partitions: Vec<Option<PartitionQueue>>,
    /// Slots that have batches.
    active: Vec<usize>,
    brokers: BTreeMap<i32, BrokerState>,
    /// Slots of the batches in each open request.
    requests: BTreeMap<RequestId, OpenRequest>,
    next_request: u64,
    identity: IdentityState,
    jitter: u64,
    /// Candidates of one poll, kept for its memory: broker and slot.
    candidates: Vec<(i32, usize)>,
}

#[derive(Debug)]
struct OpenRequest {
    broker: i32,
    slots: Vec<usize>,
}

#[derive(Debug, Default)]
struct BrokerState {
    link: Link,
    in_flight: usize,
    /// Throttled (KIP-219), or not reachable: nothing is sent before this.
    muted_until: Option<Instant>,
    failures: u32,
}

#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
enum Link {
    #[default]
    Down,
    Connecting,
    Up,
}

#[derive(Debug)]
enum IdentityState {
    NotNeeded,
    Unknown { retry_at: Option<Instant>, failures: u32 },
    Asked { failures: u32 },
    Known(Identity),
    Denied(ErrorCode),
}

impl Sender {
    pub(super) fn new(config: SenderConfig, seed: u64) -> Self {
        let identity = if config.idempotent {
            IdentityState::Unknown { retry_at: None, failures: 0 }
        } else {
            IdentityState::NotNeeded
        };
        Self {
            config,
            partitions: Vec::new(),
            active: Vec::new(),
            brokers: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_request: 0,
            identity,
            jitter: seed | 1,
            candidates: Vec::new(),
        }
    }

    /// Takes a closed batch.
    pub(super) fn enqueue(&mut self, batch: Batch) {
        if let IdentityState::Denied(code) = self.identity {
            batch.completion.complete(Outcome::Failed(SendError::NoProducerId { code }));
            return;
        }
        let lane = &batch.lane;
        let slot = lane.slot;
        if self.partitions.len() <= slot {
            self.partitions.resize_with(slot + 1, || None);
        }
        let Some(place) = self.partitions.get_mut(slot) else { return };
        let queue = place.get_or_insert_with(|| PartitionQueue::new(lane.clone()));
        if queue.is_idle() {
            self.active.push(slot);
        }
        queue.push(batch);
    }

    /// Whether the sender has this partition and so wants to know its leader.
    pub(super) fn lanes(&self) -> impl Iterator<Item = &Arc<Lane>> {
        self.partitions.iter().flatten().map(|queue| &queue.lane)
    }

    /// Whether a lane is new to the sender: its leader has never been told.
    pub(super) fn is_new(&self, lane: &Lane) -> bool {
        self.partitions.get(lane.slot).is_none_or(Option::is_none)
    }

    /// Tells who leads a partition.
    pub(super) fn set_leader(&mut self, slot: usize, leader: Option<i32>) {
        let Some(Some(queue)) = self.partitions.get_mut(slot) else { return };
        if queue.leader != leader {
            queue.leader_changed(leader);
        }
    }

    /// Takes the cluster's answer to InitProducerId.
    pub(super) fn identified(&mut self, identity: Identity) {
        self.identity = IdentityState::Known(identity);
    }

    /// InitProducerId failed. Without idempotence's id nothing can be sent: unless it is worth another try, every
    /// batch fails.
    pub(super) fn not_identified(&mut self, now: Instant, code: ErrorCode) {
        if code.is_retriable() {
            let failures = match self.identity {
                IdentityState::Asked { failures } => failures + 1,
                _ => 1,
            };
            let retry_at = Some(now + self.delay(failures));
            self.identity = IdentityState::Unknown { retry_at, failures };
            return;
        }
        self.identity = IdentityState::Denied(code);
        for queue in self.partitions.iter_mut().flatten() {
            for batch in queue.drain_waiting() {
                batch.completion.complete(Outcome::Failed(SendError::NoProducerId { code }));
            }
        }
    }

    /// A connection to the broker is up.
    pub(super) fn connected(&mut self, broker: i32) {
        let state = self.brokers.entry(broker).or_default();
        state.link = Link::Up;
        state.failures = 0;
        state.muted_until = None;
    }

    /// There is no connection to the broker, or not any more.
    pub(super) fn not_connected(&mut self, now: Instant, broker: i32) {
        let failures = self.brokers.entry(broker).or_default().failures.saturating_add(1);
        let muted_until = Some(now + self.delay(failures));
        let state = self.brokers.entry(broker).or_default();
        state.link = Link::Down;
        state.failures = failures;
        state.muted_until = muted_until;
    }

    /// The broker asked for a pause (KIP-219).
    pub(super) fn throttled(&mut self, broker: i32, until: Instant) {
        let state = self.brokers.entry(broker).or_default();
        state.muted_until = state.muted_until.max(Some(until));
    }

    /// The answer to a request; `answer_for` finds what it says of a partition.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        id: RequestId,
        mut answer_for: impl FnMut(&Lane) -> Option<PartAnswer>,
        actions: &mut Vec<Action>,
    ) {
        for slot in self.close_request(id) {
            let Some(Some(queue)) = self.partitions.get_mut(slot) else { continue };
            let Some(returned) = queue.returned(id) else { continue };
            match answer_for(&returned.batch.lane) {
                Some(answer) => self.take_answer(now, slot, returned, &answer, actions),
                // The broker left it out: nobody knows.
                None => self.take_failure(now, slot, returned, true),
            }
        }
        self.forget_idle();
    }

    /// A request has no answer; `possibly_written` unless no byte of it left.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        id: RequestId,
        possibly_written: bool,
        actions: &mut Vec<Action>,
    ) {
        for slot in self.close_request(id) {
            let Some(Some(queue)) = self.partitions.get_mut(slot) else { continue };
            let Some(returned) = queue.returned(id) else { continue };
            actions.push(Action::RefreshMetadata { lane: queue.lane.clone() });
            self.take_failure(now, slot, returned, possibly_written);
        }
        self.forget_idle();
    }

    /// Everything that can be done now. Call it after every event and when [`next_wake`](Self::next_wake) says.
    pub(super) fn poll(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.expire(now);
        self.forget_idle();
        if self.active.is_empty() {
            return;
        }
        let identity = match &mut self.identity {
            IdentityState::NotNeeded => None,
            IdentityState::Known(identity) => Some(*identity),
            IdentityState::Asked { .. } | IdentityState::Denied(_) => return,
            IdentityState::Unknown { retry_at, failures } => {
                if retry_at.is_none_or(|at| at <= now) {
                    self.identity = IdentityState::Asked { failures: *failures };
                    actions.push(Action::InitProducerId);
                }
                return;
            }
        };
        self.plan(now, identity, actions);
    }

    /// When [`poll`](Self::poll) is due if nothing happens before.
    pub(super) fn next_wake(&self, now: Instant) -> Option<Instant> {
        let mut wake: Option<Instant> = None;
        let mut at = |due: Instant| wake = Some(wake.map_or(due, |wake| wake.min(due)));
        if let IdentityState::Unknown { retry_at: Some(retry_at), .. } = self.identity
            && !self.active.is_empty()
        {
            at(retry_at);
        }
        for &slot in &self.active {
            let Some(Some(queue)) = self.partitions.get(slot) else { continue };
            if let Some(oldest) = queue.oldest() {
                at(oldest + self.config.delivery_timeout);
            }
            let Some(head) = queue.head() else { continue };
            let muted = queue.leader.and_then(|id| self.brokers.get(&id)).and_then(|b| b.muted_until);
            for due in [head.retry_at, queue.ask_leader_at, muted].into_iter().flatten() {
                if due > now {
                    at(due);
                }
            }
        }
        wake
    }

    /// The batches that are not settled yet.
    pub(super) fn unsettled(&self) -> impl Iterator<Item = &Arc<Completion>> {
        self.partitions.iter().flatten().flat_map(|queue| queue.batches().map(|batch| &batch.completion))
    }

    /// Whether no batch is left.
    pub(super) fn is_idle(&self) -> bool {
        self.active.is_empty()
    }

    /// Whether no connected broker takes another request before it answered one.
    pub(super) fn is_saturated(&self) -> bool {
        let mut up = self.brokers.values().filter(|broker| broker.link == Link::Up).peekable();
        up.peek().is_some() && up.all(|broker| broker.in_flight >= self.config.max_in_flight)
    }

    /// Gives up everything: the producer is closed for good.
    pub(super) fn abort(&mut self, now: Instant) {
        for queue in self.partitions.iter_mut().flatten() {
            let lane = queue.lane.clone();
            queue.expire(now, |batch, in_flight| {
                let error = if in_flight || batch.possibly_written {
                    let waited = now.duration_since(batch.created_at);
                    SendError::Unanswered { partition: lane.name.clone(), waited }
                } else {
                    SendError::Closed
                };
                batch.completion.complete(Outcome::Failed(error));
            });
        }
        self.forget_idle();
    }

    fn close_request(&mut self, id: RequestId) -> Vec<usize> {
        let Some(OpenRequest { broker, slots }) = self.requests.remove(&id) else {
            return Vec::new();
        };
        if let Some(state) = self.brokers.get_mut(&broker) {
            state.in_flight = state.in_flight.saturating_sub(1);
        }
        slots
    }

    fn take_answer(
        &mut self,
        now: Instant,
        slot: usize,
        returned: Returned,
        answer: &PartAnswer,
        actions: &mut Vec<Action>,
    ) {
        let Returned { mut batch, expired, first_in_line } = returned;
        batch.last_error = Some(answer.code);
        let Some(Some(queue)) = self.partitions.get_mut(slot) else { return };
        if matches!(answer.code, ErrorCode::None | ErrorCode::DuplicateSequenceNumber) {
            queue.written(batch.sequence.map(|s| s.identity));
        }
        match answer.code {
            ErrorCode::None => {
                let PartAnswer { base_offset, log_append_time, .. } = *answer;
                batch.completion.complete(Outcome::Written { base_offset, log_append_time });
            }
            // Written before, and the leader has forgotten where.
            ErrorCode::DuplicateSequenceNumber => {
                batch.completion.complete(Outcome::Written { base_offset: -1, log_append_time: None });
            }
            ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge
                if batch.record_count() > 1 && !expired =>
            {
                match batch.split() {
                    Ok(halves) => halves.into_iter().for_each(|half| queue.put_back(half)),
                    Err(whole) => refuse(&whole, answer.code),
                }
            }
            // A gap. Before this batch there is another one open: that one comes first, then this one fits.
            // It needs no back-off of its own: it is held until that one is through.
            ErrorCode::OutOfOrderSequenceNumber if !first_in_line => {
                self.retry(now, slot, batch, expired, Duration::ZERO);
            }
            // The gap is real (an earlier batch expired or was refused), or the leader forgot or fenced the producer.
            ErrorCode::OutOfOrderSequenceNumber
            | ErrorCode::UnknownProducerId
            | ErrorCode::InvalidProducerEpoch
                if batch.sequence.is_some() =>
            {
                batch.possibly_written = false;
                queue.request_restart();
                self.bump_epoch(batch.sequence.map(|s| s.identity), answer.code);
                let delay = self.delay(batch.attempts);
                self.retry(now, slot, batch, expired, delay);
            }
            code if code.is_retriable() => {
                if code.is_stale_metadata() {
                    actions.push(Action::RefreshMetadata { lane: queue.lane.clone() });
                }
                // The leader may have written it and lost the answer of its followers.
                batch.possibly_written |=
                    matches!(code, ErrorCode::RequestTimedOut | ErrorCode::NotEnoughReplicasAfterAppend);
                let delay = self.delay(batch.attempts);
                self.retry(now, slot, batch, expired, delay);
            }
            code => refuse(&batch, code),
        }
    }

    fn take_failure(&mut self, now: Instant, slot: usize, returned: Returned, possibly_written: bool) {
        let Returned { mut batch, expired, .. } = returned;
        batch.possibly_written |= possibly_written;
        batch.last_error = Some(ErrorCode::NetworkException);
        let delay = self.delay(batch.attempts);
        self.retry(now, slot, batch, expired, delay);
    }

    /// Puts a batch back in line, unless its caller was told already.
    fn retry(&mut self, now: Instant, slot: usize, mut batch: Batch, expired: bool, delay: Duration) {
        if expired {
            return;
        }
        batch.retry_at = (!delay.is_zero()).then(|| now + delay);
        if let Some(Some(queue)) = self.partitions.get_mut(slot) {
            queue.put_back(batch);
        }
    }

    /// A new epoch (KIP-360), unless the producer already moved on from the one that failed.
    fn bump_epoch(&mut self, failed: Option<Identity>, code: ErrorCode) {
        let IdentityState::Known(current) = self.identity else { return };
        if failed != Some(current) {
            return;
        }
        tracing::info!(producer_id = current.producer_id, epoch = current.epoch, %code, "starting a new producer epoch");
        self.identity = match current.epoch.checked_add(1) {
            // A fenced epoch says that somebody else is ahead: only a new id is surely ours.
            Some(epoch) if epoch < i16::MAX && code != ErrorCode::InvalidProducerEpoch => {
                IdentityState::Known(Identity { epoch, ..current })
            }
            _ => IdentityState::Unknown { retry_at: None, failures: 0 },
        };
    }

    fn expire(&mut self, now: Instant) {
        let timeout = self.config.delivery_timeout;
        let Some(limit) = now.checked_sub(timeout) else { return };
        for &slot in &self.active {
            let Some(Some(queue)) = self.partitions.get_mut(slot) else { continue };
            if queue.oldest().is_none_or(|oldest| oldest > limit) {
                continue;
            }
            let partition = queue.lane.name.clone();
            queue.expire(limit, |batch, in_flight| {
                let partition = partition.clone();
                let error = if in_flight || batch.possibly_written {
                    SendError::Unanswered { partition, waited: timeout }
                } else {
                    SendError::Expired { partition, waited: timeout, last: batch.last_error }
                };
                batch.completion.complete(Outcome::Failed(error));
            });
        }
    }

    fn forget_idle(&mut self) {
        let partitions = &self.partitions;
        self.active.retain(|&slot| matches!(partitions.get(slot), Some(Some(queue)) if !queue.is_idle()));
    }

    fn plan(&mut self, now: Instant, identity: Option<Identity>, actions: &mut Vec<Action>) {
        self.find_candidates(now, identity, actions);
        // Whoever came last comes first next time, should a request fill up.
        if !self.active.is_empty() {
            self.active.rotate_left(1);
        }
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.sort_by_key(|&(broker, _)| broker);
        for group in candidates.chunk_by(|a, b| a.0 == b.0) {
            let Some(&(broker, _)) = group.first() else { continue };
            let state = self.brokers.entry(broker).or_default();
            if state.muted_until.is_some_and(|until| until > now) {
                continue;
            }
            match state.link {
                Link::Connecting => {}
                Link::Down => {
                    state.link = Link::Connecting;
                    actions.push(Action::Connect { broker });
                }
                Link::Up => {
                    while self.brokers.get(&broker).is_some_and(|b| b.in_flight < self.config.max_in_flight) {
                        match self.plan_request(now, broker, group, identity) {
                            Some(plan) => actions.push(Action::Send(plan)),
                            None => break,
                        }
                    }
                }
            }
        }
        candidates.clear();
        self.candidates = candidates;
    }

    fn find_candidates(&mut self, now: Instant, identity: Option<Identity>, actions: &mut Vec<Action>) {
        for &slot in &self.active {
            let Some(Some(queue)) = self.partitions.get_mut(slot) else { continue };
            match queue.leader {
                Some(broker) => {
                    if is_due(queue, now) && queue.may_send(broker, self.config.max_in_flight, identity) {
                        self.candidates.push((broker, slot));
                    }
                }
                None => {
                    if queue.ask_leader_at.is_none_or(|at| at <= now) {
                        queue.ask_leader_at = Some(now + self.config.retry_backoff.delay(1, 0.5));
                        actions.push(Action::RefreshMetadata { lane: queue.lane.clone() });
                    }
                }
            }
        }
    }

    /// One request with the next batch of as many of the partitions as fit.
    fn plan_request(
        &mut self,
        now: Instant,
        broker: i32,
        group: &[(i32, usize)],
        identity: Option<Identity>,
    ) -> Option<ProducePlan> {
        let id = RequestId(self.next_request);
        let mut parts = Vec::new();
        let mut slots = Vec::new();
        let mut size = 0;
        for &(_, slot) in group {
            let Some(Some(queue)) = self.partitions.get_mut(slot) else { continue };
            let Some(head) = queue.head() else { continue };
            let fits = parts.is_empty() || size + head.size_bytes() <= self.config.max_request_bytes;
            if !fits || !is_due(queue, now) || !queue.may_send(broker, self.config.max_in_flight, identity) {
                continue;
            }
            let Some((mut batch, sequence)) = queue.take_head(identity) else { continue };
            match batch.seal(sequence, self.config.compression) {
                Ok(bytes) => {
                    size += bytes.len();
                    batch.attempts += 1;
                    batch.retry_at = None;
                    parts.push((queue.lane.clone(), bytes));
                    slots.push(slot);
                    queue.sent(id, broker, batch);
                }
                Err(error) => {
                    // Its numbers are spent; the leader's "out of order" will bring new ones.
                    let reason = error.to_string();
                    batch.completion.complete(Outcome::Failed(SendError::Encode { reason }));
                }
            }
        }
        if parts.is_empty() {
            return None;
        }
        self.next_request += 1;
        self.requests.insert(id, OpenRequest { broker, slots });
        if let Some(state) = self.brokers.get_mut(&broker) {
            state.in_flight += 1;
        }
        Some(ProducePlan { id, broker, parts })
    }

    fn delay(&mut self, failures: u32) -> Duration {
        // xorshift64: spreads retries, and replays from a seed.
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        let unit = (self.jitter >> 11) as f64 / (1u64 << 53) as f64;
        self.config.retry_backoff.delay(failures, unit)
    }
}

/// Whether the head's back-off is over.
fn is_due(queue: &PartitionQueue, now: Instant) -> bool {
    queue.head().is_some_and(|head| head.retry_at.is_none_or(|at| at <= now))
}

fn refuse(batch: &Batch, code: ErrorCode) {
    batch.completion.complete(Outcome::Failed(SendError::Refused {
        partition: batch.lane.name.clone(),
        code,
        possibly_written: batch.possibly_written,
    }));
}
