//! A batch on its way from the first record to the leader's answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::Bytes;
use kafka_wire::compression::{Compression, Compressor};
use kafka_wire::record_batch::{
    BATCH_HEADER_BYTES, BatchBuilder, RecordBatch, Seal, SealError, add_to_sequence, record_size_upper_bound,
    reseal_for_producer,
};
use kafka_wire::{ErrorCode, Uuid};
use tokio::time::Instant;

use super::buffers::Buffers;
use super::delivery::{Completion, Outcome};
use super::memory::Room;
use super::ratio::Ratio;
use crate::TopicPartition;

/// A partition of one incarnation of a topic, and its place in the sender's table. A topic that is deleted and made
/// anew has other lanes: neither batches nor sequence numbers move from one to the other (KIP-516).
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) slot: usize,
    pub(super) name: TopicPartition,
    /// `None` from brokers before Kafka 2.8.
    pub(super) topic_id: Option<Uuid>,
    /// How well the topic's records are compressed.
    pub(super) ratio: Arc<Ratio>,
    /// The producer writes in transactions.
    pub(super) transactional: bool,
    pub(super) load: Load,
}

/// What the partitioner wants to know of a partition.
#[derive(Debug, Default)]
pub(super) struct Load {
    /// Closed batches that wait to be sent.
    queued: AtomicU32,
    /// Its broker takes nothing for longer than `partitioner.availability.timeout.ms`.
    stalled: AtomicBool,
}

impl Lane {
    pub(super) fn new(
        slot: usize,
        name: TopicPartition,
        topic_id: Option<Uuid>,
        ratio: Arc<Ratio>,
        transactional: bool,
    ) -> Self {
        Self { slot, name, topic_id, ratio, transactional, load: Load::default() }
    }
}

impl Load {
    pub(super) fn queued(&self) -> u32 {
        self.queued.load(Ordering::Relaxed)
    }

    pub(super) fn set_queued(&self, batches: usize) {
        self.queued.store(u32::try_from(batches).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    pub(super) fn set_stalled(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Relaxed);
    }
}

/// Who writes: what InitProducerId gave (KIP-98).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) producer_id: i64,
    pub(super) epoch: i16,
}

/// Identity and number of a batch's first record. Assigned once; a retry keeps it, whoever leads by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sequence {
    pub(super) identity: Identity,
    pub(super) base: i32,
}

/// Records that travel together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) lane: Arc<Lane>,
    pub(super) completion: Arc<Completion>,
    pub(super) created_at: Instant,
    /// Memory of `buffer.memory`, given back when the batch is dropped.
    room: Option<Room>,
    contents: Contents,
    /// The numbers in the sealed bytes, which may be older than `sequence`.
    sealed_under: Option<Sequence>,
    record_count: i32,
    /// The batch's size before compression.
    raw_bytes: usize,
    pub(super) sequence: Option<Sequence>,
    /// Requests that carried it.
    pub(super) attempts: u32,
    pub(super) retry_at: Option<Instant>,
    /// A request that carried it got no answer, or one that may follow an append: it may be in the log.
    pub(super) possibly_written: bool,
    /// A request with it was lost: whatever is said of another one, its broker may still come to it.
    pub(super) may_still_arrive: bool,
    pub(super) last_error: Option<ErrorCode>,
    pub(super) place: Place,
}

/// Place in the partition's order: the batch's number, and for a part of a batch that was cut the number of records
/// before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Place {
    pub(super) ordinal: u64,
    first_record: i32,
}

impl Place {
    pub(super) fn new(ordinal: u64) -> Self {
        Self { ordinal, first_record: 0 }
    }
}

#[derive(Debug)]
enum Contents {
    Building(BatchBuilder),
    /// Somebody else compresses it, under this number.
    Away(u64),
    Sealed(Bytes),
}

/// A batch's records on their way through the codec, apart from the batch so that the batch keeps its place.
#[derive(Debug)]
pub(super) struct Uncompressed {
    builder: BatchBuilder,
    transactional: bool,
    buffers: Option<Arc<Buffers>>,
}

impl Uncompressed {
    pub(super) fn size_bytes(&self) -> usize {
        self.builder.size_bytes()
    }

    /// Compresses; takes as long as the codec does.
    pub(super) fn compress(
        self,
        codec: Compression,
        compressor: &mut Compressor,
    ) -> Result<Bytes, SealError> {
        let mut seal = Seal::default().compression(codec);
        seal.transactional = self.transactional;
        let compressed = self.builder.finish_compressed(&seal, compressor);
        if let Some(buffers) = self.buffers {
            buffers.give(self.builder.into_buffer());
        }
        compressed
    }
}

impl Batch {
    pub(super) fn new(
        lane: Arc<Lane>,
        completion: Arc<Completion>,
        created_at: Instant,
        room: Option<Room>,
        builder: BatchBuilder,
    ) -> Self {
        Self {
            lane,
            completion,
            created_at,
            room,
            record_count: builder.count(),
            raw_bytes: builder.size_bytes(),
            contents: Contents::Building(builder),
            sealed_under: None,
            sequence: None,
            attempts: 0,
            retry_at: None,
            possibly_written: false,
            may_still_arrive: false,
            last_error: None,
            place: Place::default(),
        }
    }

    pub(super) fn record_count(&self) -> i32 {
        self.record_count
    }

    /// The size before compression.
    pub(super) fn raw_bytes(&self) -> usize {
        self.raw_bytes
    }

    pub(super) fn size_bytes(&self) -> usize {
        match &self.contents {
            Contents::Building(_) | Contents::Away(_) => self.raw_bytes,
            Contents::Sealed(bytes) => bytes.len(),
        }
    }

    /// Whether its bytes are here.
    pub(super) fn is_here(&self) -> bool {
        !matches!(self.contents, Contents::Away(_))
    }

    /// Gives the records away to be compressed; [`compressed`](Self::compressed) brings them back. `None` where that
    /// was done before.
    pub(super) fn take_uncompressed(&mut self, ticket: u64) -> Option<Uncompressed> {
        match std::mem::replace(&mut self.contents, Contents::Away(ticket)) {
            Contents::Building(builder) => {
                let buffers = self.room.as_ref().map(|room| room.buffers().clone());
                Some(Uncompressed { builder, transactional: self.lane.transactional, buffers })
            }
            other => {
                self.contents = other;
                None
            }
        }
    }

    /// The number under which it was given away.
    pub(super) fn ticket(&self) -> Option<u64> {
        match self.contents {
            Contents::Away(ticket) => Some(ticket),
            Contents::Building(_) | Contents::Sealed(_) => None,
        }
    }

    pub(super) fn compressed(&mut self, bytes: Bytes) {
        self.lane.ratio.observe(self.raw_bytes, bytes.len());
        if let Some(room) = &mut self.room {
            room.shrink_to(bytes.len());
        }
        self.sealed_under = None;
        self.contents = Contents::Sealed(bytes);
    }

    /// The bytes for the wire, sealed under `sequence`. The batch must be [here](Self::is_here).
    pub(super) fn seal(&mut self, sequence: Option<Sequence>) -> Result<Bytes, SealError> {
        let bytes = match std::mem::replace(&mut self.contents, Contents::Sealed(Bytes::new())) {
            Contents::Building(builder) => {
                let mut seal = sequence.map_or_else(Seal::default, |s| {
                    Seal::idempotent(s.identity.producer_id, s.identity.epoch, s.base)
                });
                seal.transactional = self.lane.transactional;
                let buffer = builder.finish_in_place(&seal)?;
                match &self.room {
                    Some(room) => room.buffers().lend(buffer),
                    None => buffer.into(),
                }
            }
            Contents::Sealed(bytes) => match sequence {
                Some(s) if self.sealed_under != sequence => {
                    reseal_for_producer(bytes, s.identity.producer_id, s.identity.epoch, s.base)
                }
                _ => bytes,
            },
            Contents::Away(_) => Bytes::new(),
        };
        self.sealed_under = sequence;
        self.sequence = sequence;
        self.contents = Contents::Sealed(bytes.clone());
        Ok(bytes)
    }

    /// Cuts the batch (KIP-126): into parts of `batch_size` bytes before compression, or in halves where it is no
    /// larger. The parts keep the sequence numbers of their records and the batch's place.
    ///
    /// `Err` gives it back where it cannot be cut: one record, or bytes that cannot be read back.
    pub(super) fn split(self, batch_size: usize) -> Result<Vec<Self>, Box<Self>> {
        let limit = if self.raw_bytes > batch_size { batch_size } else { self.raw_bytes / 2 };
        let Some(builders) = self.cut(limit) else {
            return Err(Box::new(self));
        };
        let Self { lane, completion, created_at, room, sequence, attempts, place, .. } = self;
        let mut from = 0;
        let mut outcomes = Vec::with_capacity(builders.len());
        let mut parts: Vec<_> = builders
            .into_iter()
            .map(|builder| {
                let mut part =
                    Self::new(lane.clone(), Completion::new(lane.name.clone()), created_at, None, builder);
                part.sequence = sequence.map(|s| Sequence { base: add_to_sequence(s.base, from), ..s });
                part.attempts = attempts;
                part.place = Place { first_record: place.first_record + from, ..place };
                outcomes.push((from as u32, part.completion.clone()));
                from += part.record_count;
                part
            })
            .collect();
        // The last one usually ends last, and then the memory is free.
        if let Some(last) = parts.last_mut() {
            last.room = room;
        }
        completion.complete(Outcome::Split(outcomes));
        Ok(parts)
    }

    fn cut(&self, limit: usize) -> Option<Vec<BatchBuilder>> {
        let Contents::Sealed(bytes) = &self.contents else {
            return None;
        };
        let batch = RecordBatch::split_from(&mut bytes.clone()).ok()??;
        let mut done = Vec::new();
        let mut builder = BatchBuilder::new(limit.max(BATCH_HEADER_BYTES));
        for record in batch.records(self.raw_bytes).ok()? {
            let record = record.ok()?;
            let headers = record.headers.to_vec();
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            let fits = builder.size_bytes() + record_size_upper_bound(key, value, &headers) <= limit;
            if builder.count() > 0 && !fits {
                done.push(std::mem::replace(&mut builder, BatchBuilder::new(limit)));
            }
            builder.append(record.timestamp, key, value, &headers);
        }
        done.push(builder);
        let whole = done.iter().map(BatchBuilder::count).sum::<i32>() == self.record_count;
        (done.len() > 1 && whole).then_some(done)
    }
}
