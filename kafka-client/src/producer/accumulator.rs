//! Records are encoded here, straight into their partition's open batch; closed batches go to the sender.
//!
//! The path of a record takes one lock, that of its partition, and neither allocates nor touches a channel. All else
//! happens once a batch: memory, completion, clock, and waking the sender.

mod bulk;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use kafka_wire::Uuid;
use kafka_wire::record_batch::{BATCH_HEADER_BYTES, BatchBuilder, record_size_upper_bound};
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxBuildHasher;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::batch::{Batch, Lane};
use super::delivery::{Completion, Delivery};
use super::error::SendError;
use super::memory::{Memory, Room};
use super::partitioner::{PartitioningOptions, Sticky, TopicView};
use super::ratio::Ratio;
use super::record::{Data, Record, TopicRef};
use super::snapshot::{OpenBatchSnapshot, ProducerSnapshot};
use crate::TopicPartition;

#[derive(Debug, Clone)]
pub(super) struct AccumulatorConfig {
    pub(super) batch_size: usize,
    pub(super) linger: Duration,
    pub(super) buffer_memory: usize,
    pub(super) max_request_bytes: usize,
    /// Whether batches are compressed: then they are filled until they are `batch_size` on the wire.
    pub(super) compresses: bool,
    pub(super) transactional: bool,
    pub(super) partitioning: PartitioningOptions,
}

#[derive(Debug)]
pub(super) struct Accumulator {
    config: AccumulatorConfig,
    memory: Arc<Memory>,
    topics: RwLock<HashMap<Arc<str>, Arc<TopicState>, FxBuildHasher>>,
    lanes: AtomicUsize,
    inbox: Mutex<Inbox>,
    /// Wakes the sender's task.
    pub(super) wake: Notify,
    closed: AtomicBool,
}

/// What the sender's task has not seen yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// Closed batches, of each partition in order.
    pub(super) closed: Vec<Batch>,
    /// Partitions that opened a batch and are not on the task's list.
    pub(super) opened: Vec<Arc<PartitionBuffer>>,
    /// The task wakes by itself within `linger` from now on: a batch that opens need not wake it.
    armed: bool,
    /// No broker takes more requests: the task will wake when one answers, and a batch that closes need not wake it.
    busy: bool,
}

#[derive(Debug)]
pub(super) struct TopicState {
    pub(super) name: Arc<str>,
    partitions: Partitions,
    sticky: Arc<Sticky>,
    ratio: Arc<Ratio>,
}

/// A topic's partitions as every record looks them up: set once, and replaced only where a topic grew or was made anew,
/// so that most look-ups are one plain load.
#[derive(Debug, Default)]
struct Partitions {
    first: OnceLock<Arc<Vec<Arc<PartitionBuffer>>>>,
    grown: ArcSwapOption<Vec<Arc<PartitionBuffer>>>,
    has_grown: AtomicBool,
}

impl Partitions {
    #[inline]
    fn with<T>(&self, look: impl FnOnce(Option<&Arc<Vec<Arc<PartitionBuffer>>>>) -> T) -> T {
        if self.has_grown.load(Ordering::Acquire) {
            return look(self.grown.load().as_ref());
        }
        look(self.first.get())
    }

    fn get(&self) -> Option<Arc<Vec<Arc<PartitionBuffer>>>> {
        self.with(|known| known.cloned())
    }

    fn set(&self, partitions: Vec<Arc<PartitionBuffer>>) {
        if let Err(partitions) = self.first.set(Arc::new(partitions)) {
            self.grown.store(Some(partitions));
            self.has_grown.store(true, Ordering::Release);
        }
    }
}

/// A partition and its open batch.
#[derive(Debug)]
pub(super) struct PartitionBuffer {
    pub(super) lane: Arc<Lane>,
    index: usize,
    /// Whether it has a leader, for the partitioner.
    available: AtomicBool,
    sticky: Arc<Sticky>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    batch: Option<OpenBatch>,
    /// On the task's list of partitions whose linger it watches.
    listed: bool,
    /// The producer ended: nobody will come for a batch.
    closed: bool,
    /// The topic was made anew, and other buffers took this one's place.
    retired: bool,
    /// How large the last batch became, up to a power of two: what the next one is granted.
    expected: usize,
}

#[derive(Debug)]
struct OpenBatch {
    builder: BatchBuilder,
    completion: Arc<Completion>,
    created_at: Instant,
    room: Room,
    /// How large it may become in `room`.
    granted: usize,
    /// No record is appended past this size.
    limit: usize,
    /// The wall clock in milliseconds, read now and then.
    clock: i64,
}

/// A record in a batch.
struct Taken<'a> {
    completion: &'a Arc<Completion>,
    index: u32,
    timestamp: i64,
}

impl Taken<'_> {
    #[inline]
    fn delivery(&self) -> Delivery {
        Delivery::new(self.completion.clone(), self.index, self.timestamp)
    }
}

/// Why a record was not appended at once.
#[derive(Debug)]
pub(super) enum NotNow {
    /// Nothing is known of the topic.
    NeedsTopic,
    /// The record names a partition beyond the `count` that are known; the topic may have grown.
    NeedsPartition { partition: i32, count: usize },
    /// A batch cannot be opened before this much memory is there.
    NeedsRoom(u32),
    /// In a box, so that what every record's answer is made of stays small.
    Failed(Box<SendError>),
}

// Together they are no larger than a delivery.
const _: () = assert!(size_of::<Result<Delivery, NotNow>>() == size_of::<Delivery>());

/// What a partition's first batch is granted at once, however many partitions there are.
const FIRST_BATCH_BYTES: usize = 1024;
/// Of a slow stream each record reads the clock; of a fast one, which fills batches, one in so many does.
const CLOCK_EVERY: i32 = 16;

impl Accumulator {
    pub(super) fn new(config: AccumulatorConfig) -> Self {
        Self {
            memory: Memory::new(config.buffer_memory),
            config,
            topics: RwLock::default(),
            lanes: AtomicUsize::new(0),
            inbox: Mutex::default(),
            wake: Notify::new(),
            closed: AtomicBool::new(false),
        }
    }

    /// Appends a record, opening a batch in `room` or in memory that is free right now.
    pub(super) fn append(&self, record: &Record<'_>, room: &mut Option<Room>) -> Result<Delivery, NotNow> {
        match &record.topic {
            TopicRef::Handle(handle) if handle.belongs_to(self) => {
                self.append_to(handle.state(), record, room)
            }
            _ => match self.topics.read().get(record.topic()) {
                Some(topic) => self.append_to(topic, record, room),
                None => Err(NotNow::NeedsTopic),
            },
        }
    }

    pub(super) fn append_to(
        &self,
        topic: &TopicState,
        record: &Record<'_>,
        room: &mut Option<Room>,
    ) -> Result<Delivery, NotNow> {
        topic.partitions.with(|partitions| match partitions {
            Some(partitions) => self.append_among(topic, partitions, record, room),
            None => Err(NotNow::NeedsTopic),
        })
    }

    #[inline]
    fn append_among(
        &self,
        topic: &TopicState,
        partitions: &[Arc<PartitionBuffer>],
        record: &Record<'_>,
        room: &mut Option<Room>,
    ) -> Result<Delivery, NotNow> {
        let buffer = self.place(topic, partitions, record)?;
        let mut open = buffer.open.lock();
        self.append_locked(buffer, &mut open, record, room, |taken| taken.delivery())
    }

    /// Where the record goes.
    #[inline]
    fn place<'a>(
        &self,
        topic: &TopicState,
        partitions: &'a [Arc<PartitionBuffer>],
        record: &Record<'_>,
    ) -> Result<&'a Arc<PartitionBuffer>, NotNow> {
        let at = match record.wanted_partition() {
            Some(partition) => usize::try_from(partition).unwrap_or(usize::MAX),
            None => {
                let key = record.key.as_ref().map(Data::as_bytes);
                let view = TopicView::new(&topic.name, partitions);
                self.config.partitioning.place(record, key, &view, &topic.sticky)
            }
        };
        partitions.get(at).ok_or_else(|| {
            let count = partitions.len();
            match record.wanted_partition() {
                Some(partition) if partition >= 0 => NotNow::NeedsPartition { partition, count },
                wanted => NotNow::Failed(Box::new(SendError::UnknownPartition {
                    topic: topic.name.to_string(),
                    partition: wanted.or(i32::try_from(at).ok()).unwrap_or(-1),
                    count,
                })),
            }
        })
    }

    /// Appends to a partition whose lock is held; `take` makes of the place what the caller wants to have.
    #[inline]
    fn append_locked<T>(
        &self,
        buffer: &Arc<PartitionBuffer>,
        open: &mut Open,
        record: &Record<'_>,
        room: &mut Option<Room>,
        take: impl FnOnce(Taken<'_>) -> T,
    ) -> Result<T, NotNow> {
        let key = record.key.as_ref().map(Data::as_bytes);
        let value = record.value.as_ref().map(Data::as_bytes);
        let size = record_size_upper_bound(key, value, record.headers());
        if let Some(batch) = &mut open.batch {
            if batch.builder.size_bytes() + size <= batch.granted || batch.widen(&self.memory, size) {
                let clock = if batch.builder.count() % CLOCK_EVERY == 0 || batch.builder.count() < 4 {
                    batch.clock = now_millis();
                    batch.clock
                } else {
                    batch.clock
                };
                let timestamp = record.wanted_timestamp().unwrap_or(clock);
                let index = batch.builder.append(timestamp, key, value, record.headers());
                let taken = take(Taken { completion: &batch.completion, index: index as u32, timestamp });
                // A batch that the next record of this size would not fit is full.
                if batch.builder.size_bytes() + size > batch.limit {
                    self.close(buffer, open);
                }
                return Ok(taken);
            }
            self.close(buffer, open);
        }
        self.open(buffer, open, record, (key, value), size, room, take)
    }

    /// Opens a batch with a record.
    #[cold]
    #[expect(clippy::too_many_arguments, reason = "the rest of `append_locked`, kept out of its way")]
    fn open<T>(
        &self,
        buffer: &Arc<PartitionBuffer>,
        open: &mut Open,
        record: &Record<'_>,
        (key, value): (Option<&[u8]>, Option<&[u8]>),
        size: usize,
        room: &mut Option<Room>,
        take: impl FnOnce(Taken<'_>) -> T,
    ) -> Result<T, NotNow> {
        if open.closed || self.closed.load(Ordering::Relaxed) {
            return Err(NotNow::Failed(SendError::Closed.into()));
        }
        if open.retired {
            return Err(NotNow::NeedsTopic);
        }
        let whole = BATCH_HEADER_BYTES + size;
        let limits = [
            ("max.request.size", self.config.max_request_bytes),
            ("buffer.memory", self.config.buffer_memory),
        ];
        for (limit_name, limit) in limits {
            if whole > limit {
                return Err(NotNow::Failed(
                    SendError::RecordTooLarge { size: whole, limit, limit_name }.into(),
                ));
            }
        }
        let share = if self.config.compresses {
            buffer.lane.ratio.stretch(self.config.batch_size, self.config.max_request_bytes)
        } else {
            self.config.batch_size
        };
        // No record fits a batch that would fit no request.
        let limit = share.min(self.config.max_request_bytes).max(whole).min(self.config.buffer_memory);
        // It begins as large as the last one became, so that thousands of partitions share the memory (KIP-1332); of
        // few partitions each can have all.
        let fair_share = self.config.buffer_memory / (4 * self.lanes.load(Ordering::Relaxed).max(1));
        let granted = open.expected.max(fair_share).max(FIRST_BATCH_BYTES).max(whole).min(limit);
        let needed = u32::try_from(granted).unwrap_or(u32::MAX);
        let room = match room.take() {
            Some(room) if room.bytes >= granted => room,
            _ => self.memory.try_take(needed).ok_or(NotNow::NeedsRoom(needed))?,
        };
        let clock = now_millis();
        let timestamp = record.wanted_timestamp().unwrap_or(clock);
        let completion = Completion::new(buffer.lane.name.clone());
        let mut builder = BatchBuilder::with_buffer(room.buffers().take(BatchBuilder::buffer_bytes(granted)));
        let index = builder.append(timestamp, key, value, record.headers());
        let taken = take(Taken { completion: &completion, index: index as u32, timestamp });
        let created_at = Instant::now();
        let full = builder.size_bytes() + size > limit;
        open.batch = Some(OpenBatch { builder, completion, created_at, room, granted, limit, clock });
        if full {
            self.close(buffer, open);
        } else if !open.listed {
            open.listed = true;
            let mut inbox = self.inbox.lock();
            inbox.opened.push(buffer.clone());
            let armed = inbox.armed;
            drop(inbox);
            if !armed {
                self.wake.notify_one();
            }
        }
        Ok(taken)
    }

    /// Hands the open batch to the sender. The partition's lock is held, which keeps its batches in order.
    fn close(&self, buffer: &PartitionBuffer, open: &mut Open) {
        let Some(batch) = buffer.take(open, self.config.batch_size) else { return };
        let mut inbox = self.inbox.lock();
        let tell = inbox.closed.is_empty() && !inbox.busy;
        inbox.closed.push(batch);
        drop(inbox);
        if tell {
            self.wake.notify_one();
        }
    }

    /// Waits in line for memory. Dropping the future leaves the line.
    pub(super) async fn room(&self, bytes: u32) -> Option<Room> {
        let mut waiting = pin!(self.memory.take(bytes));
        if let Poll::Ready(room) = futures::poll!(&mut waiting) {
            return room;
        }
        // While anybody waits, no batch lingers.
        self.wake.notify_one();
        waiting.await
    }

    /// The topic's state, made if it is new; its partitions may not be known yet.
    pub(super) fn topic(&self, name: &str) -> Arc<TopicState> {
        if let Some(topic) = self.topics.read().get(name) {
            return topic.clone();
        }
        let mut topics = self.topics.write();
        if let Some(topic) = topics.get(name) {
            return topic.clone();
        }
        let name: Arc<str> = Arc::from(name);
        let topic = Arc::new(TopicState {
            name: name.clone(),
            partitions: Partitions::default(),
            sticky: Arc::new(Sticky::new()),
            ratio: Arc::new(Ratio::new()),
        });
        topics.insert(name, topic.clone());
        topic
    }

    pub(super) fn topics(&self) -> Vec<Arc<TopicState>> {
        self.topics.read().values().cloned().collect()
    }

    /// Makes buffers for partitions up to `leaders.len()`, and notes which have a leader.
    ///
    /// A topic that was made anew (`topic_id` is another one) gets other buffers: what is in the old ones was meant for
    /// the old topic, and is left to the sender's task to fail.
    pub(super) fn install(
        &self,
        topic: &TopicState,
        topic_id: Option<Uuid>,
        leaders: impl ExactSizeIterator<Item = bool>,
    ) {
        // Serialises installers: two could give a partition two buffers.
        let _topics = self.topics.write();
        let known = topic.partitions.get();
        let old_id = known.as_ref().and_then(|known| known.first()).and_then(|first| first.lane.topic_id);
        let anew = matches!((old_id, topic_id), (Some(old), Some(new)) if old != new);
        let kept = known.as_ref().filter(|_| !anew);
        let kept_count = kept.map_or(0, |kept| kept.len());
        let mut grown =
            (anew || leaders.len() > kept_count).then(|| kept.map(|kept| kept.to_vec()).unwrap_or_default());
        for (index, available) in leaders.enumerate() {
            if let Some(buffer) = kept.and_then(|kept| kept.get(index)) {
                buffer.available.store(available, Ordering::Relaxed);
            } else if let Some(grown) = &mut grown {
                let slot = self.lanes.fetch_add(1, Ordering::Relaxed);
                let name = TopicPartition::new(topic.name.clone(), index as i32);
                // All lanes of a topic have one id; that of the first, should an old broker have told none.
                let topic_id = if anew || kept_count == 0 { topic_id } else { old_id };
                let lane = Lane::new(slot, name, topic_id, topic.ratio.clone(), self.config.transactional);
                grown.push(Arc::new(PartitionBuffer {
                    lane: Arc::new(lane),
                    index,
                    available: AtomicBool::new(available),
                    sticky: topic.sticky.clone(),
                    open: Mutex::default(),
                }));
            }
        }
        if let Some(grown) = grown {
            topic.partitions.set(grown);
        }
        if anew {
            for buffer in known.iter().flat_map(|known| known.iter()) {
                let mut open = buffer.open.lock();
                open.retired = true;
                self.close(buffer, &mut open);
            }
        }
    }

    /// Moves what is new to the sender's task.
    pub(super) fn take_inbox(&self, closed: &mut Vec<Batch>, opened: &mut Vec<Arc<PartitionBuffer>>) {
        let mut inbox = self.inbox.lock();
        closed.append(&mut inbox.closed);
        opened.append(&mut inbox.opened);
    }

    /// Notes what will wake the task anyway; `false` if it should not sleep, since there is news.
    pub(super) fn may_sleep(&self, armed: bool, busy: bool) -> bool {
        let mut inbox = self.inbox.lock();
        inbox.armed = armed;
        inbox.busy = busy;
        (inbox.closed.is_empty() || busy) && (inbox.opened.is_empty() || armed)
    }

    /// Fills in what callers share.
    pub(super) fn show(&self) -> ProducerSnapshot {
        let mut open_batches = Vec::new();
        for topic in self.topics() {
            let Some(partitions) = topic.partitions.get() else { continue };
            for buffer in partitions.iter() {
                if let Some(batch) = &buffer.open.lock().batch {
                    open_batches.push(OpenBatchSnapshot {
                        partition: buffer.lane.name.clone(),
                        records: batch.builder.count(),
                        size_bytes: batch.builder.size_bytes(),
                        age: batch.created_at.elapsed(),
                    });
                }
            }
        }
        ProducerSnapshot {
            buffer_total_bytes: self.memory.total(),
            buffer_available_bytes: self.memory.available(),
            waiting_senders: self.memory.waiting(),
            open_batches,
            ..ProducerSnapshot::default()
        }
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Whether somebody waits for memory.
    pub(super) fn is_exhausted(&self) -> bool {
        self.memory.is_exhausted()
    }

    /// How long a batch that is not full waits for more records.
    pub(super) fn linger(&self) -> Duration {
        self.config.linger
    }

    /// Closes the partition's batch if it has been open for `age`.
    pub(super) fn close_aged(&self, buffer: &PartitionBuffer, now: Instant, age: Duration) -> Lingering {
        let mut open = buffer.open.lock();
        match &open.batch {
            None => {
                open.listed = false;
                Lingering::Nothing
            }
            Some(batch) => {
                let due_at = batch.created_at + age;
                if due_at > now {
                    return Lingering::Until(due_at);
                }
                open.listed = false;
                // `take` answers because there is a batch.
                buffer.take(&mut open, self.config.batch_size).map_or(Lingering::Nothing, Lingering::Closed)
            }
        }
    }

    /// Refuses records from now on.
    pub(super) fn refuse_new(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Takes what is left and lets nobody open another batch: the sender's task is about to end.
    pub(super) fn end(&self) -> Vec<Batch> {
        self.memory.close();
        let mut left = Vec::new();
        for topic in self.topics() {
            let Some(partitions) = topic.partitions.get() else { continue };
            for buffer in partitions.iter() {
                let mut open = buffer.open.lock();
                open.closed = true;
                left.extend(buffer.take(&mut open, self.config.batch_size));
            }
        }
        left.append(&mut self.inbox.lock().closed);
        left
    }
}

impl TopicState {
    pub(super) fn is_known(&self) -> bool {
        self.partitions.get().is_some()
    }

    pub(super) fn partition_count(&self) -> usize {
        self.partitions.with(|known| known.map_or(0, |known| known.len()))
    }

    pub(super) fn has_partition(&self, partition: i32) -> bool {
        usize::try_from(partition).is_ok_and(|at| at < self.partition_count())
    }
}

/// What [`Accumulator::close_aged`] found.
#[derive(Debug)]
pub(super) enum Lingering {
    Nothing,
    Until(Instant),
    Closed(Batch),
}

impl OpenBatch {
    /// Doubles the batch's share of the memory, within its limit, so that another record fits. False if it cannot: the
    /// batch is full then.
    #[cold]
    fn widen(&mut self, memory: &Arc<Memory>, record: usize) -> bool {
        let needed = self.builder.size_bytes() + record;
        let wanted = (2 * self.granted).max(needed).min(self.limit);
        let Ok(more) = u32::try_from(wanted.saturating_sub(self.room.bytes)) else { return false };
        if needed > wanted {
            return false;
        }
        if more > 0 {
            let Some(more) = memory.try_take(more) else { return false };
            self.room.add(more);
        }
        self.granted = wanted;
        true
    }
}

impl PartitionBuffer {
    pub(super) fn is_available(&self) -> bool {
        self.available.load(Ordering::Relaxed) && !self.lane.load.is_stalled()
    }

    pub(super) fn queued(&self) -> u32 {
        self.lane.load.queued()
    }

    fn take(&self, open: &mut Open, share: usize) -> Option<Batch> {
        let OpenBatch { builder, completion, created_at, room, .. } = open.batch.take()?;
        open.expected = builder.size_bytes().next_power_of_two();
        self.sticky.closed(self.index, builder.size_bytes(), share);
        Some(Batch::new(self.lane.clone(), completion, created_at, Some(room), builder))
    }
}

/// Milliseconds since 1970; 0 if the clock stands before that.
pub(super) fn now_millis() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
