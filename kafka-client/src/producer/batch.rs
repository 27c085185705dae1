//! A batch on its way from the first record to the leader's answer.

use std::sync::Arc;

use bytes::Bytes;
use kafka_wire::ErrorCode;
use kafka_wire::compression::Compression;
use kafka_wire::record_batch::{
    BatchBuilder, RecordBatch, Seal, SealError, add_to_sequence, reseal_for_producer,
};
use tokio::time::Instant;

use super::delivery::{Completion, Outcome};
use super::memory::Room;
use crate::TopicPartition;

/// A partition's name and its place in the sender's table.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) slot: usize,
    pub(super) name: TopicPartition,
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
    record_count: i32,
    pub(super) sequence: Option<Sequence>,
    /// Requests that carried it.
    pub(super) attempts: u32,
    pub(super) retry_at: Option<Instant>,
    /// A request that carried it got no answer, so it may be in the log.
    pub(super) possibly_written: bool,
    pub(super) last_error: Option<ErrorCode>,
    /// Place in the partition's order.
    pub(super) ordinal: u64,
}

#[derive(Debug)]
enum Contents {
    Building(BatchBuilder),
    Sealed(Bytes),
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
            contents: Contents::Building(builder),
            sequence: None,
            attempts: 0,
            retry_at: None,
            possibly_written: false,
            last_error: None,
            ordinal: 0,
        }
    }

    pub(super) fn record_count(&self) -> i32 {
        self.record_count
    }

    pub(super) fn size_bytes(&self) -> usize {
        match &self.contents {
            Contents::Building(builder) => builder.size_bytes(),
            Contents::Sealed(bytes) => bytes.len(),
        }
    }

    /// The bytes for the wire, sealed under `sequence`.
    pub(super) fn seal(
        &mut self,
        sequence: Option<Sequence>,
        compression: Compression,
    ) -> Result<Bytes, SealError> {
        let bytes = match std::mem::replace(&mut self.contents, Contents::Sealed(Bytes::new())) {
            Contents::Building(builder) => {
                let seal = sequence.map_or_else(Seal::default, |s| {
                    Seal::idempotent(s.identity.producer_id, s.identity.epoch, s.base)
                });
                builder.finish(&seal.compression(compression))?
            }
            Contents::Sealed(bytes) => match sequence {
                Some(s) if self.sequence != sequence => {
                    reseal_for_producer(bytes, s.identity.producer_id, s.identity.epoch, s.base)
                }
                _ => bytes,
            },
        };
        self.sequence = sequence;
        self.contents = Contents::Sealed(bytes.clone());
        Ok(bytes)
    }

    /// Cuts the batch in two (KIP-126). The halves keep the sequence numbers of their records and the batch's place.
    ///
    /// `Err` gives it back where it cannot be cut: one record, or bytes that cannot be read back.
    pub(super) fn split(self) -> Result<[Self; 2], Box<Self>> {
        let Some((builders, at)) = self.halves() else {
            return Err(Box::new(self));
        };
        let Self { lane, completion, created_at, room, sequence, attempts, ordinal, .. } = self;
        let mut room = room;
        let mut from = 0;
        let halves = builders.map(|builder| {
            let part = Completion::new(lane.name.clone());
            let mut half = Self::new(lane.clone(), part, created_at, room.take(), builder);
            // The halves are sealed anew under these numbers; `sequence` is what they are to have, not have.
            half.sequence = sequence.map(|s| Sequence { base: add_to_sequence(s.base, from), ..s });
            half.attempts = attempts;
            half.ordinal = ordinal;
            from = at;
            half
        });
        let [first, second] = &halves;
        let parts = vec![(0, first.completion.clone()), (at as u32, second.completion.clone())];
        completion.complete(Outcome::Split(parts));
        Ok(halves)
    }

    fn halves(&self) -> Option<([BatchBuilder; 2], i32)> {
        let Contents::Sealed(bytes) = &self.contents else {
            return None;
        };
        if self.record_count < 2 {
            return None;
        }
        let at = self.record_count / 2;
        let batch = RecordBatch::split_from(&mut bytes.clone()).ok()??;
        let mut builders = [0, 1].map(|_| BatchBuilder::new(bytes.len() / 2));
        // Our own bytes: what was compressed here may be decompressed here.
        for (index, record) in batch.records(usize::MAX).ok()?.enumerate() {
            let record = record.ok()?;
            let headers = record.headers.to_vec();
            let [first, second] = &mut builders;
            let half = if index < at as usize { first } else { second };
            half.append(record.timestamp, record.key.as_deref(), record.value.as_deref(), &headers);
        }
        (builders.iter().map(BatchBuilder::count).sum::<i32>() == self.record_count).then_some((builders, at))
    }
}
