//! A cluster in a few lines: partition logs that check sequences as Kafka's `ProducerStateManager` does, and
//! connections whose requests and answers a test can hold, lose and cut.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_wire::ErrorCode;
use kafka_wire::compression::{Compression, Compressor};
use kafka_wire::record_batch::{BatchBuilder, RecordBatch, add_to_sequence};
use tokio::time::Instant;

use super::super::batch::{Batch, Identity, Lane};
use super::super::delivery::{Completion, Delivery};
use super::super::ratio::Ratio;
use super::{
    Acks, Action, CompressionId, DataLoss, Leader, News, Part, PartAnswer, ProducePlan, ProducerEvent,
    Sender, SenderConfig, Uncompressed,
};
use crate::TopicPartition;
use crate::backoff::Backoff;

pub(super) const BROKERS: i32 = 2;
/// What Kafka keeps to recognise duplicates.
const BATCHES_KEPT: usize = 5;

/// One partition: replicated, so that any broker can lead it.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) records: Vec<u32>,
    producers: BTreeMap<i64, ProducerState>,
}

#[derive(Debug, Default)]
struct ProducerState {
    epoch: i16,
    /// Base and last sequence, and base offset.
    batches: VecDeque<(i32, i32, i64)>,
}

/// How the leader treats the next batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Fine,
    /// Not written, and says so.
    Refuses(ErrorCode),
    /// Written, and says otherwise.
    WritesAndComplains,
}

impl Log {
    fn append(&mut self, bytes: &Bytes, mood: Mood) -> (ErrorCode, i64) {
        let batch = RecordBatch::split_from(&mut bytes.clone()).unwrap().unwrap();
        batch.verify_crc().unwrap();
        if let Mood::Refuses(code) = mood {
            return (code, -1);
        }
        let written = self.append_checked(&batch);
        match (mood, written) {
            (Mood::WritesAndComplains, Ok(_)) => (ErrorCode::RequestTimedOut, -1),
            (_, Ok(offset)) => (ErrorCode::None, offset),
            (_, Err(code)) => (code, -1),
        }
    }

    fn append_checked(&mut self, batch: &RecordBatch) -> Result<i64, ErrorCode> {
        let offset = self.records.len() as i64;
        if batch.producer_id() >= 0 {
            let (base, last) = (batch.base_sequence(), batch.last_sequence());
            let known = self.producers.contains_key(&batch.producer_id());
            let state = self.producers.entry(batch.producer_id()).or_default();
            if batch.producer_epoch() < state.epoch {
                return Err(ErrorCode::InvalidProducerEpoch);
            }
            if batch.producer_epoch() > state.epoch || !known {
                if base != 0 && known {
                    return Err(ErrorCode::OutOfOrderSequenceNumber);
                }
                *state = ProducerState { epoch: batch.producer_epoch(), batches: VecDeque::new() };
            } else if let Some(&(_, _, at)) = state.batches.iter().find(|&&(b, l, _)| (b, l) == (base, last))
            {
                return Ok(at);
            } else if let Some(&(_, newest, _)) = state.batches.back()
                && base != add_to_sequence(newest, 1)
            {
                return Err(ErrorCode::OutOfOrderSequenceNumber);
            }
            state.batches.push_back((base, last, offset));
            if state.batches.len() > BATCHES_KEPT {
                state.batches.pop_front();
            }
        }
        for record in batch.records(1 << 20).unwrap() {
            let value = record.unwrap().value.unwrap();
            self.records.push(u32::from_be_bytes(value.as_ref().try_into().unwrap()));
        }
        Ok(offset)
    }
}

/// A connection: what was sent and not processed, and what was processed and not answered.
#[derive(Debug, Default)]
struct Wire {
    unprocessed: VecDeque<ProducePlan>,
    unanswered: VecDeque<(ProducePlan, Vec<PartAnswer>)>,
}

/// The sender, a cluster, and everything between them.
pub(super) struct World {
    pub(super) sender: Sender,
    pub(super) now: Instant,
    pub(super) started: Instant,
    pub(super) lanes: Vec<Arc<Lane>>,
    pub(super) logs: Vec<Log>,
    pub(super) leaders: Vec<i32>,
    wires: BTreeMap<i32, Wire>,
    /// Requests of cut connections that a broker still has in hand.
    zombies: Vec<ProducePlan>,
    pub(super) deliveries: Vec<(usize, u32, Delivery)>,
    next_record: u32,
    next_producer_id: i64,
    /// Tells the sender of leaders at once; a test that turns it off tells them itself.
    pub(super) fresh_metadata: bool,
    pub(super) refuse_larger_than: Option<usize>,
    /// What leaders say of where their logs start.
    pub(super) log_start_offset: i64,
    /// Grows with every change of leadership.
    pub(super) leader_epoch: i32,
    compression: Compression,
    /// Batches are with the codec until a test brings them back.
    pub(super) hold_compression: bool,
    held: Vec<(CompressionId, Uncompressed)>,
}

pub(super) fn config() -> SenderConfig {
    SenderConfig {
        acks: Acks::All,
        idempotent: true,
        max_in_flight: 5,
        max_request_bytes: 1 << 20,
        delivery_timeout: Duration::from_secs(120),
        retry_backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(1)),
        compression: Compression::None,
        batch_size: 16 * 1024,
        retries: u32::MAX,
        on_data_loss: DataLoss::Continue,
        availability_timeout: None,
        transactional_id: None,
    }
}

impl World {
    pub(super) fn new(config: SenderConfig, partitions: usize) -> Self {
        let now = Instant::now();
        let ratio = Arc::new(Ratio::new());
        let lane = |slot| {
            let name = TopicPartition::new("t", slot as i32);
            Arc::new(Lane::new(slot, name, None, ratio.clone(), false))
        };
        Self {
            compression: config.compression,
            sender: Sender::new(config, 7),
            now,
            started: now,
            lanes: (0..partitions).map(lane).collect(),
            logs: (0..partitions).map(|_| Log::default()).collect(),
            leaders: (0..partitions).map(|p| p as i32 % BROKERS).collect(),
            wires: BTreeMap::new(),
            zombies: Vec::new(),
            deliveries: Vec::new(),
            next_record: 0,
            next_producer_id: 1000,
            fresh_metadata: true,
            refuse_larger_than: None,
            log_start_offset: 0,
            leader_epoch: 0,
            hold_compression: false,
            held: Vec::new(),
        }
    }

    /// Hands a batch of `count` records to the sender.
    pub(super) fn send(&mut self, partition: usize, count: usize) {
        let lane = self.lanes[partition].clone();
        let completion = Completion::new(lane.name.clone());
        let mut builder = BatchBuilder::new(1024);
        for _ in 0..count {
            let id = self.next_record;
            self.next_record += 1;
            let index = builder.append(1_000, None, Some(&id.to_be_bytes()), &[]);
            self.deliveries.push((partition, id, Delivery::new(completion.clone(), index as u32, 1_000)));
        }
        self.sender.enqueue(Batch::new(lane, completion, self.now, None, builder));
        self.tell_leaders();
        self.act();
    }

    pub(super) fn tell_leaders(&mut self) {
        if self.fresh_metadata {
            for (slot, &leader) in self.leaders.iter().enumerate() {
                let leader = Leader { broker: leader, epoch: self.leader_epoch };
                self.sender.set_leader(slot, Some(leader));
            }
        }
    }

    pub(super) fn advance(&mut self, span: Duration) {
        self.now += span;
        self.act();
    }

    /// Lets the sender decide; connections and producer ids come at once.
    pub(super) fn act(&mut self) {
        let mut actions = Vec::new();
        loop {
            self.sender.poll(self.now, &mut actions);
            if actions.is_empty() && (self.held.is_empty() || self.hold_compression) {
                return;
            }
            if !self.hold_compression {
                while !self.held.is_empty() {
                    self.bring_back(0);
                }
            }
            let taken = std::mem::take(&mut actions);
            for action in taken {
                match action {
                    Action::InitProducerId { .. } => {
                        let producer_id = self.next_producer_id;
                        self.next_producer_id += 1;
                        self.sender.identified(Identity { producer_id, epoch: 0 });
                    }
                    Action::Connect { broker } => self.sender.connected(broker),
                    Action::Send(plan) => {
                        self.wires.entry(plan.broker).or_default().unprocessed.push_back(plan);
                    }
                    Action::RefreshMetadata { .. } => self.tell_leaders(),
                    Action::Compress { id, work } => self.held.push((id, work)),
                    Action::Coordinate { .. } => unreachable!("no transactions here"),
                }
            }
        }
    }

    /// The codec is done with the `at`th of the batches it holds.
    pub(super) fn bring_back(&mut self, at: usize) {
        let (id, work) = self.held.remove(at);
        self.sender.compressed(
            id,
            work.compress(self.compression, &mut Compressor::default()).map_err(|e| e.to_string()),
        );
    }

    /// Producer epoch and first sequence number of the batches on the way to `broker`, in order.
    pub(super) fn numbers_on_the_way(&self, broker: i32) -> Vec<(i16, i32)> {
        let plans = self.wires.get(&broker).into_iter().flat_map(|wire| &wire.unprocessed);
        plans
            .flat_map(|plan| &plan.parts)
            .map(|part| {
                let batch = RecordBatch::split_from(&mut part.bytes.clone()).unwrap().unwrap();
                (batch.producer_epoch(), batch.base_sequence())
            })
            .collect()
    }

    /// What happened since the last time, events only.
    pub(super) fn events(&mut self) -> Vec<ProducerEvent> {
        let event = |news| match news {
            News::Event(event) => Some(event),
            News::Settled(_) => None,
        };
        self.sender.take_news().filter_map(event).collect()
    }

    /// Numbers of the partition go on at `next`, for the producer and for the leader.
    pub(super) fn skip_to_sequence(&mut self, partition: usize, next: i32) {
        let queue = self.sender.partitions[partition].as_mut().unwrap();
        queue.set_next_sequence(next);
        let offset = self.logs[partition].records.len() as i64 - 1;
        let state = self.logs[partition].producers.values_mut().last().unwrap();
        state.batches.push_back((next - 1, next - 1, offset));
    }

    /// The partition's leader restarted: of each producer it remembers the last batch.
    pub(super) fn restart_leader(&mut self, partition: usize) {
        for state in self.logs[partition].producers.values_mut() {
            state.batches.drain(..state.batches.len().saturating_sub(1));
        }
    }

    /// Retention took the whole log, and with it what the leader knew of producers.
    pub(super) fn forget_producers(&mut self, partition: usize) {
        self.logs[partition].producers.clear();
        self.log_start_offset = self.logs[partition].records.len() as i64;
    }

    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Requests on the way to `broker`.
    pub(super) fn on_the_way(&self, broker: i32) -> usize {
        self.wires.get(&broker).map_or(0, |wire| wire.unprocessed.len())
    }

    /// The broker takes the next request of its connection.
    pub(super) fn process(&mut self, broker: i32, mood: Mood) -> bool {
        let Some(plan) = self.wires.get_mut(&broker).and_then(|wire| wire.unprocessed.pop_front()) else {
            return false;
        };
        let answers = self.write(&plan, mood);
        self.wires.entry(broker).or_default().unanswered.push_back((plan, answers));
        true
    }

    fn write(&mut self, plan: &ProducePlan, mood: Mood) -> Vec<PartAnswer> {
        let write = |Part { lane, bytes, .. }: &Part| {
            let (code, base_offset) = if self.leaders[lane.slot] != plan.broker {
                (ErrorCode::NotLeaderOrFollower, -1)
            } else if self.refuse_larger_than.is_some_and(|limit| bytes.len() > limit) {
                (ErrorCode::MessageTooLarge, -1)
            } else {
                self.logs[lane.slot].append(bytes, mood)
            };
            PartAnswer { code, base_offset, log_append_time: None, log_start_offset: self.log_start_offset }
        };
        plan.parts.iter().map(write).collect()
    }

    /// The oldest answer of the broker arrives.
    pub(super) fn answer(&mut self, broker: i32) -> bool {
        let Some((plan, answers)) = self.wires.get_mut(&broker).and_then(|wire| wire.unanswered.pop_front())
        else {
            return false;
        };
        let find = |lane: &Lane| {
            let at = plan.parts.iter().position(|part| part.lane.slot == lane.slot)?;
            answers.get(at).cloned()
        };
        let mut actions = Vec::new();
        self.sender.answered(self.now, plan.id, find, &mut actions);
        self.tell_leaders();
        self.act();
        true
    }

    /// The connection breaks: answers are lost, and the broker may have what was sent in hand still.
    pub(super) fn cut(&mut self, broker: i32, in_hand: bool) {
        let Some(Wire { unprocessed, unanswered }) = self.wires.remove(&broker) else { return };
        let ids: Vec<_> =
            unanswered.iter().map(|(plan, _)| plan.id).chain(unprocessed.iter().map(|p| p.id)).collect();
        if in_hand {
            self.zombies.extend(unprocessed);
        }
        self.sender.not_connected(self.now, broker);
        let mut actions = Vec::new();
        for id in ids {
            self.sender.failed(self.now, id, true, &mut actions);
        }
        self.tell_leaders();
        self.act();
    }

    /// A broker gets round to the request of a connection that is long gone.
    pub(super) fn haunt(&mut self) {
        if !self.zombies.is_empty() {
            let plan = self.zombies.remove(0);
            self.write(&plan, Mood::Fine);
        }
    }

    pub(super) fn move_leader(&mut self, partition: usize) {
        self.leaders[partition] = (self.leaders[partition] + 1) % BROKERS;
        self.leader_epoch += 1;
    }

    /// Everything works from here on; ends when every batch is settled.
    pub(super) fn settle(&mut self) {
        self.fresh_metadata = true;
        self.tell_leaders();
        for _ in 0..100_000 {
            let mut busy = false;
            for broker in 0..BROKERS {
                busy |= self.process(broker, Mood::Fine);
                busy |= self.answer(broker);
            }
            if self.sender.is_idle() {
                return;
            }
            if !busy {
                self.advance(Duration::from_millis(50));
            }
        }
        panic!("the sender never came to an end: {:?}", self.sender);
    }
}
