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
//!   partition's order until the answer comes, and nothing follows it before.
//!
//! - `queue`: one partition's batches, waiting and in flight
//! - `plan`: which batches go to which broker now
//! - `answers`: what an answer, or its absence, means for a batch
//! - `identity`: the producer's id and epoch
//! - `transactions`: what differs where batches are part of a transaction
//! - `news`: what the shell tells to those who watch

mod answers;
#[cfg(test)]
mod guarantees;
mod identity;
#[cfg(test)]
mod model;
mod news;
mod plan;
mod queue;
#[cfg(test)]
mod tests;
mod transactions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_wire::ErrorCode;
use kafka_wire::compression::Compression;
use tokio::time::Instant;

pub(super) use self::news::{News, Settled};
pub(super) use self::plan::CompressionId;

use self::identity::IdentityState;
use self::news::Newsroom;
use self::plan::{BrokerState, Link};
use self::queue::{End, PartitionQueue};
use super::batch::{Batch, Identity, Lane, Uncompressed};
use super::delivery::Completion;
use super::error::SendError;
use super::events::{DataLoss, ProducerEvent};
use super::snapshot::{BrokerSnapshot, ProducerSnapshot};
use super::transaction::core::{Ask, Transactions, Version};
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
    /// What a batch that is too large for a broker is cut to.
    pub(super) batch_size: usize,
    /// How often a batch may be sent again.
    pub(super) retries: u32,
    pub(super) on_data_loss: DataLoss,
    /// The partitioner avoids brokers that take nothing for this long.
    pub(super) availability_timeout: Option<Duration>,
    /// Every batch is part of a transaction of this id.
    pub(super) transactional_id: Option<Arc<str>>,
}

/// Names a request until its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RequestId(u64);

#[derive(Debug)]
pub(super) enum Action {
    /// Ask for a producer id, then call [`Sender::identified`] or [`Sender::not_identified`]. `expected`: who the producer
    /// is, whose next epoch is asked for (KIP-360).
    InitProducerId { expected: Option<Identity> },
    /// Ask a coordinator, then call [`Sender::coordinated`].
    Coordinate { ask: Ask, identity: Identity, version: Version },
    /// Connect to a broker, then call [`Sender::connected`] or [`Sender::not_connected`].
    Connect { broker: i32 },
    /// Send a request, then call [`Sender::answered`] or [`Sender::failed`].
    Send(ProducePlan),
    /// Compress a batch, then call [`Sender::compressed`]. It keeps its place meanwhile.
    Compress { id: CompressionId, work: Uncompressed },
    /// The leader of this partition is not known, or not the one that was thought.
    RefreshMetadata { lane: Arc<Lane> },
}

/// One Produce request: at most one batch for each partition.
#[derive(Debug)]
pub(super) struct ProducePlan {
    pub(super) id: RequestId,
    pub(super) broker: i32,
    pub(super) parts: Vec<Part>,
}

/// A batch in a request.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) lane: Arc<Lane>,
    pub(super) bytes: Bytes,
    pub(super) records: i32,
    /// Its size before compression.
    pub(super) raw_bytes: usize,
    pub(super) created_at: Instant,
    /// Requests that carried it, with this one.
    pub(super) attempts: u32,
}

/// Who leads a partition, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leader {
    pub(super) broker: i32,
    pub(super) epoch: i32,
}

/// What the leader said of one batch.
#[derive(Debug, Clone)]
pub(super) struct PartAnswer {
    pub(super) code: ErrorCode,
    pub(super) base_offset: i64,
    pub(super) log_append_time: Option<i64>,
    /// -1 where the broker does not know.
    pub(super) log_start_offset: i64,
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
    /// Of a transactional producer.
    transactions: Option<Transactions>,
    jitter: u64,
    /// Candidates of one poll, kept for its memory: broker and slot.
    candidates: Vec<(i32, usize)>,
    /// Names the next batch that is given to be compressed.
    next_ticket: u64,
    news: Newsroom,
}

#[derive(Debug)]
struct OpenRequest {
    broker: i32,
    slots: Vec<usize>,
}

impl Sender {
    pub(super) fn new(config: SenderConfig, seed: u64) -> Self {
        Self {
            identity: IdentityState::new(config.idempotent),
            transactions: config.transactional_id.is_some().then(Transactions::new),
            news: Newsroom::default(),
            config,
            partitions: Vec::new(),
            active: Vec::new(),
            brokers: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_request: 0,
            jitter: seed | 1,
            candidates: Vec::new(),
            next_ticket: 0,
        }
    }

    /// Takes a closed batch.
    pub(super) fn enqueue(&mut self, batch: Batch) {
        if let IdentityState::Denied(code) = self.identity {
            self.news.failed(&batch, SendError::NoProducerId { code });
            return;
        }
        if self.transactions.as_ref().is_some_and(|transactions| !transactions.accepts()) {
            self.news.failed(&batch, SendError::NoTransaction);
            return;
        }
        let lane = &batch.lane;
        let slot = lane.slot;
        if self.partitions.len() <= slot {
            self.partitions.resize_with(slot + 1, || None);
        }
        let Some(place) = self.partitions.get_mut(slot) else { return };
        let queue = place.get_or_insert_with(|| PartitionQueue::new(lane.clone()));
        if let Some(end) = queue.ended() {
            self.news.failed(&batch, end.error(&batch));
            return;
        }
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
    pub(super) fn set_leader(&mut self, slot: usize, leader: Option<Leader>) {
        let Some(Some(queue)) = self.partitions.get_mut(slot) else { return };
        if queue.leader == leader {
            return;
        }
        if let (Some(from), Some(to)) = (queue.leader, leader)
            && from.broker != to.broker
        {
            let partition = queue.lane.name.clone();
            self.news.event(ProducerEvent::LeaderMoved { partition, from: from.broker, to: to.broker });
        }
        queue.leader_changed(leader);
        let lane = queue.lane.clone();
        lane.load.set_stalled(leader.is_some_and(|leader| self.is_stalled(leader.broker)));
    }

    /// Takes what happened since the last time.
    pub(super) fn take_news(&mut self) -> impl Iterator<Item = News> + '_ {
        self.news.news.drain(..)
    }

    /// Everything that can be done now. Call it after every event and when [`next_wake`](Self::next_wake) says.
    pub(super) fn poll(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.expire(now);
        self.forget_idle();
        if self.active.is_empty() && !self.wants_identity() {
            return;
        }
        if let Ok(identity) = self.current_identity(now, actions) {
            self.drive_transaction(now, identity, actions);
            self.plan(now, identity, actions);
            // Partitions that batches wait for.
            self.drive_transaction(now, identity, actions);
        }
    }

    /// When [`poll`](Self::poll) is due after that of `now`, if nothing happens before.
    pub(super) fn next_wake(&self, now: Instant) -> Option<Instant> {
        let mut wake: Option<Instant> = None;
        let mut at = |due: Instant| wake = Some(wake.map_or(due, |wake| wake.min(due)));
        if let IdentityState::Unknown { retry_at: Some(retry_at), .. } = self.identity
            && (!self.active.is_empty() || self.wants_identity())
        {
            at(retry_at);
        }
        if let Some(retry_at) =
            self.transactions.as_ref().and_then(|transactions| transactions.next_wake(now))
        {
            at(retry_at);
        }
        if let Some(stall) = self.next_stall() {
            at(stall);
        }
        for &slot in &self.active {
            let Some(Some(queue)) = self.partitions.get(slot) else { continue };
            if let Some(oldest) = queue.oldest() {
                at(oldest + self.config.delivery_timeout);
            }
            let Some(head) = queue.head() else { continue };
            let muted = queue.leader.and_then(|l| self.brokers.get(&l.broker)).and_then(|b| b.muted_until);
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

    /// Fills in what the sender knows.
    pub(super) fn show(&self, now: Instant, snapshot: &mut ProducerSnapshot) {
        snapshot.identity = match &self.identity {
            IdentityState::Known(identity) => Some((identity.producer_id, identity.epoch)),
            _ => None,
        };
        let partitions = self.active.iter().filter_map(|&slot| self.partitions.get(slot)?.as_ref());
        snapshot.partitions = partitions.map(|queue| queue.show(now)).collect();
        let broker = |(&id, state): (&i32, &BrokerState)| BrokerSnapshot {
            id,
            is_connected: state.link == Link::Up,
            requests_in_flight: state.in_flight,
            muted_for: state.muted_until.and_then(|until| until.checked_duration_since(now)),
        };
        snapshot.brokers = self.brokers.iter().map(broker).collect();
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

    fn forget_idle(&mut self) {
        let partitions = &mut self.partitions;
        self.active.retain(|&slot| match partitions.get_mut(slot) {
            Some(place) => {
                let idle = place.as_ref().is_none_or(PartitionQueue::is_idle);
                if idle && place.as_ref().is_some_and(|queue| queue.ended() == Some(End::TopicRecreated)) {
                    *place = None;
                }
                !idle
            }
            None => false,
        });
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
