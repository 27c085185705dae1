//! Which batches go to which broker now.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_wire::compression::Compression;
use tokio::time::Instant;

use super::super::batch::Identity;
use super::super::error::SendError;
use super::super::events::ProducerEvent;
use super::super::transaction::core::Transactions;
use super::queue::PartitionQueue;
use super::{Action, OpenRequest, Part, ProducePlan, RequestId, Sender};

#[derive(Debug, Default)]
pub(super) struct BrokerState {
    pub(super) link: Link,
    pub(super) in_flight: usize,
    /// Batches in those requests.
    pub(super) batches_in_flight: usize,
    /// Throttled (KIP-219), or not reachable: nothing is sent before this.
    pub(super) muted_until: Option<Instant>,
    pub(super) failures: u32,
    /// Since when batches wait for it and none leaves.
    blocked_since: Option<Instant>,
    is_wanted: bool,
    /// Whether the partitioner was told to avoid it.
    stalled: bool,
}

#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
pub(super) enum Link {
    #[default]
    Down,
    Connecting,
    Up,
}

impl Sender {
    /// A connection to the broker is up.
    pub(in super::super) fn connected(&mut self, broker: i32) {
        let state = self.brokers.entry(broker).or_default();
        state.link = Link::Up;
        state.failures = 0;
        state.muted_until = None;
    }

    /// There is no connection to the broker, or not any more.
    pub(in super::super) fn not_connected(&mut self, now: Instant, broker: i32) {
        let failures = self.brokers.entry(broker).or_default().failures.saturating_add(1);
        let muted_until = Some(now + self.delay(failures));
        let state = self.brokers.entry(broker).or_default();
        state.link = Link::Down;
        state.failures = failures;
        state.muted_until = muted_until;
    }

    /// The connection to the broker ended. Whether nothing was under way on it: then nothing failed, and the next batch
    /// gets a new one without a pause.
    pub(in super::super) fn ended_unused(&mut self, broker: i32) -> bool {
        let state = self.brokers.entry(broker).or_default();
        let unused = state.in_flight == 0 && state.link == Link::Up;
        if unused {
            state.link = Link::Down;
        }
        unused
    }

    /// The broker asked for a pause (KIP-219).
    pub(in super::super) fn throttled(&mut self, now: Instant, broker: i32, until: Instant) {
        let state = self.brokers.entry(broker).or_default();
        state.muted_until = state.muted_until.max(Some(until));
        let pause = until.saturating_duration_since(now);
        self.news.event(ProducerEvent::Throttled { broker, pause });
    }

    pub(super) fn plan(&mut self, now: Instant, identity: Option<Identity>, actions: &mut Vec<Action>) {
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
        self.note_stalled_brokers(now);
    }

    fn find_candidates(&mut self, now: Instant, identity: Option<Identity>, actions: &mut Vec<Action>) {
        let compresses = self.config.compression != Compression::None;
        for &slot in &self.active {
            let Some(Some(queue)) = self.partitions.get_mut(slot) else { continue };
            if compresses {
                for batch in queue.uncompressed() {
                    if let Some(work) = batch.take_uncompressed(self.next_ticket) {
                        let id = CompressionId { slot, ticket: self.next_ticket };
                        self.next_ticket += 1;
                        actions.push(Action::Compress { id, work });
                    }
                }
            }
            match queue.leader {
                Some(leader) => {
                    let may_leave = |transactions: &mut Transactions| transactions.may_send(&queue.lane.name);
                    if is_due(queue, now)
                        && queue.may_send(leader.broker, self.config.max_in_flight, identity)
                        && self.transactions.as_mut().is_none_or(may_leave)
                    {
                        self.candidates.push((leader.broker, slot));
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
            let Some(leader) = queue.leader else { continue };
            let Some((mut batch, sequence)) = queue.take_head(identity) else { continue };
            match batch.seal(sequence) {
                Ok(bytes) => {
                    size += bytes.len();
                    batch.attempts += 1;
                    batch.retry_at = None;
                    parts.push(Part {
                        lane: queue.lane.clone(),
                        bytes,
                        records: batch.record_count(),
                        raw_bytes: batch.raw_bytes(),
                        created_at: batch.created_at,
                        attempts: batch.attempts,
                    });
                    slots.push(slot);
                    queue.sent(id, leader, batch);
                }
                Err(error) => {
                    // Its numbers are spent; the leader's "out of order" will bring new ones.
                    self.news.failed(&batch, SendError::Encode { reason: error.to_string() });
                }
            }
        }
        if parts.is_empty() {
            return None;
        }
        self.next_request += 1;
        if let Some(transactions) = &mut self.transactions {
            transactions.sent();
        }
        if let Some(state) = self.brokers.get_mut(&broker) {
            state.in_flight += 1;
            state.batches_in_flight += slots.len();
            state.blocked_since = None;
        }
        self.requests.insert(id, OpenRequest { broker, slots });
        Some(ProducePlan { id, broker, parts })
    }

    /// A batch came back from the codec.
    pub(in super::super) fn compressed(&mut self, id: CompressionId, result: Result<Bytes, String>) {
        let Some(Some(queue)) = self.partitions.get_mut(id.slot) else { return };
        // It may have expired meanwhile.
        if let Some((batch, reason)) = queue.compressed(id.ticket, result) {
            self.news.failed(&batch, SendError::Encode { reason });
            self.forget_idle();
        }
    }

    /// Tells the partitioner which brokers take nothing (`partitioner.availability.timeout.ms`).
    fn note_stalled_brokers(&mut self, now: Instant) {
        let Some(limit) = self.config.availability_timeout else { return };
        self.brokers.values_mut().for_each(|state| state.is_wanted = false);
        for &slot in &self.active {
            if let Some(Some(queue)) = self.partitions.get(slot)
                && let Some(leader) = queue.leader
                && queue.head().is_some()
            {
                self.brokers.entry(leader.broker).or_default().is_wanted = true;
            }
        }
        for (&broker, state) in &mut self.brokers {
            state.blocked_since = state.is_wanted.then(|| state.blocked_since.unwrap_or(now));
            let stalled =
                state.blocked_since.is_some_and(|since| now.saturating_duration_since(since) >= limit);
            if stalled == state.stalled {
                continue;
            }
            state.stalled = stalled;
            for queue in self.partitions.iter().flatten() {
                if queue.leader.is_some_and(|leader| leader.broker == broker) {
                    queue.lane.load.set_stalled(stalled);
                }
            }
        }
    }

    /// When the partitioner is to be told of the next broker that takes nothing.
    pub(super) fn next_stall(&self) -> Option<Instant> {
        let limit = self.config.availability_timeout?;
        let blocked = self.brokers.values().filter(|state| !state.stalled);
        blocked.filter_map(|state| state.blocked_since).map(|since| since + limit).min()
    }

    /// How much more the brokers would take right now.
    pub(in super::super) fn appetite(&self) -> Appetite {
        let room = |state: &BrokerState| Room {
            bytes: self.config.max_in_flight.saturating_sub(state.in_flight) * self.config.max_request_bytes,
            batches: BATCHES_UNDER_WAY.saturating_sub(state.batches_in_flight),
        };
        let up = self.brokers.iter().filter(|(_, state)| state.link == Link::Up);
        let mut appetite = Appetite {
            left: up.map(|(&broker, state)| (broker, room(state))).collect(),
            others: self.brokers.values().any(|state| state.link != Link::Up),
        };
        for &slot in &self.active {
            let Some(Some(queue)) = self.partitions.get(slot) else { continue };
            let leader = queue.leader.map(|leader| leader.broker);
            for batch in queue.waiting() {
                appetite.took(leader, batch.size_bytes());
            }
        }
        appetite
    }

    /// The broker that leads the partition, as far as the sender was told.
    pub(in super::super) fn leader_of(&self, slot: usize) -> Option<i32> {
        Some(self.partitions.get(slot)?.as_ref()?.leader?.broker)
    }

    /// Whether the partitioner avoids the broker.
    pub(super) fn is_stalled(&self, broker: i32) -> bool {
        self.brokers.get(&broker).is_some_and(|state| state.stalled)
    }
}

/// What each connected broker would take beyond what waits for it. A broker that is not connected has no limit: somebody
/// must ask for the connection.
#[derive(Debug)]
pub(in super::super) struct Appetite {
    left: BTreeMap<i32, Room>,
    others: bool,
}

#[derive(Debug)]
struct Room {
    bytes: usize,
    batches: usize,
}

impl Room {
    fn is_gone(&self) -> bool {
        self.bytes == 0 || self.batches == 0
    }
}

/// While so many batches are on their way to a broker, those that are not full had better grow: with thousands of
/// partitions a request for each round of `linger.ms` would hold a record or two of each.
const BATCHES_UNDER_WAY: usize = 1000;

impl Appetite {
    /// Whether the partition's leader would take a batch.
    pub(in super::super) fn is_for(&self, leader: Option<i32>) -> bool {
        leader.and_then(|leader| self.left.get(&leader)).is_none_or(|left| !left.is_gone())
    }

    pub(in super::super) fn took(&mut self, leader: Option<i32>, bytes: usize) {
        if let Some(left) = leader.and_then(|leader| self.left.get_mut(&leader)) {
            left.bytes = left.bytes.saturating_sub(bytes);
            left.batches = left.batches.saturating_sub(1);
        }
    }

    /// Whether nobody would take anything.
    pub(in super::super) fn is_gone(&self) -> bool {
        !self.others && !self.left.is_empty() && self.left.values().all(Room::is_gone)
    }
}

/// Names a batch that is being compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct CompressionId {
    slot: usize,
    ticket: u64,
}

/// Whether the head is here and its back-off over.
fn is_due(queue: &PartitionQueue, now: Instant) -> bool {
    queue.head().is_some_and(|head| head.is_here() && head.retry_at.is_none_or(|at| at <= now))
}
