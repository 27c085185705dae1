use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use kafka_wire::compression::CompressionType;
use kafka_wire::record_batch::{
    BatchError, Headers, Record, RecordBatch, RecordView, Records, TimestampType,
};

use super::ConsumeError;
use super::fetch::Position;
use super::fetch::budget::{Budget, Charge};
use crate::TopicPartition;
use crate::producer::{TRACEPARENT, TraceParent};

/// A record as a consumer got it. Key, value and headers are slices of the fetched batch: cheap to clone, and
/// they keep the batch in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerRecord {
    /// The topic's name, shared by all its records.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
    /// The record's offset in its partition.
    pub offset: i64,
    /// Milliseconds since 1970; see [`ConsumerRecord::timestamp_type`].
    pub timestamp: i64,
    /// Whether the producer or the broker set the timestamp.
    pub timestamp_type: TimestampType,
    /// The key; `None` is Kafka's null.
    pub key: Option<Bytes>,
    /// The value; `None` is Kafka's null, a tombstone on compacted topics.
    pub value: Option<Bytes>,
    /// The headers, parsed when looked at.
    pub headers: Headers,
    /// The leader epoch of the batch, -1 if unknown.
    pub leader_epoch: i32,
}

// What is larger is not moved inline.
const _: () = assert!(size_of::<Option<ConsumerRecord>>() <= 128);

impl ConsumerRecord {
    /// Where the record lies.
    pub fn topic_partition(&self) -> TopicPartition {
        TopicPartition::new(Arc::clone(&self.topic), self.partition)
    }

    /// The trace that the record was sent in, by its `traceparent` header (W3C trace context), if it has a valid one.
    pub fn trace_parent(&self) -> Option<TraceParent> {
        let header = self.headers.last(TRACEPARENT)?.value?;
        std::str::from_utf8(header).ok()?.parse().ok()
    }

    #[inline]
    pub(crate) fn new(partition: &TopicPartition, batch: &RecordBatch, record: Record) -> Self {
        Self {
            topic: Arc::clone(&partition.topic),
            partition: partition.partition,
            offset: record.offset,
            timestamp: record.timestamp,
            timestamp_type: batch.timestamp_type(),
            key: record.key,
            value: record.value,
            headers: record.headers,
            leader_epoch: batch.leader_epoch(),
        }
    }
}

/// Some consecutive fetched batches of one partition, decoded as they are read.
///
/// [`PartitionRecords::for_each_view`] is the fastest way through: nothing is counted, copied or allocated for
/// a record. Iterating by value yields [`ConsumerRecord`]s that own slices.
#[derive(Debug)]
pub struct PartitionRecords {
    pub(super) partition: TopicPartition,
    /// The assignment or seek that these records answer; a later one makes them void.
    pub(super) epoch: u64,
    /// The position when these records were fetched; a batch may begin before it.
    pub(super) position: i64,
    /// The position behind these records.
    pub(super) end: Position,
    pub(super) batches: VecDeque<RecordBatch>,
    pub(super) high_watermark: i64,
    pub(super) max_decompressed: usize,
    /// Bytes of the batches.
    pub(super) size: usize,
    /// What the frame of these records takes from the consumer's byte budget; `None` once the application has them.
    pub(super) charge: Option<Charge>,
    /// Where decompressed bytes are counted.
    pub(super) budget: Option<Arc<Budget>>,
}

impl PartitionRecords {
    /// The partition that all these records are from.
    pub fn topic_partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// The topic's name.
    pub fn topic(&self) -> &str {
        &self.partition.topic
    }

    /// The partition's number.
    pub fn partition(&self) -> i32 {
        self.partition.partition
    }

    /// The consumer's position before these records: the lowest offset that can appear.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// The consumer's position after these records: what to commit once they are processed.
    pub fn next_offset(&self) -> i64 {
        self.end.offset
    }

    /// The leader epoch of the last batch, -1 if unknown; belongs to [`PartitionRecords::next_offset`].
    pub fn leader_epoch(&self) -> i32 {
        self.end.leader_epoch
    }

    /// The partition's high watermark when the leader answered: how far consumers can read.
    pub fn high_watermark(&self) -> i64 {
        self.high_watermark
    }

    /// At most so many records: those of the first batch that lie below the position count too.
    pub fn record_count_bound(&self) -> usize {
        self.batches.iter().map(|batch| usize::try_from(batch.record_count()).unwrap_or(0)).sum()
    }

    /// The size of the batches as fetched, before decompression, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.batches.iter().map(RecordBatch::size_bytes).sum()
    }

    /// The batches themselves, as the producer sealed them. The first may begin before
    /// [`PartitionRecords::position`].
    pub fn batches(&self) -> impl Iterator<Item = &RecordBatch> {
        self.batches.iter()
    }

    /// Calls `each` for every record, borrowed.
    ///
    /// # Errors
    /// [`ConsumeError::CorruptBatch`] where a batch cannot be decompressed or parsed; records before it were
    /// passed on.
    pub fn for_each_view(&self, mut each: impl FnMut(RecordView<'_>)) -> Result<(), ConsumeError> {
        for batch in &self.batches {
            let corrupt = |source| corrupt(&self.partition, batch, self.position, source);
            let mut records = batch.records(self.max_decompressed).map_err(corrupt)?;
            let _decompressed = self.count_decompressed(batch, &records);
            while let Some(view) = records.next_view() {
                let view = view.map_err(corrupt)?;
                if view.offset >= self.position {
                    each(view);
                }
            }
        }
        Ok(())
    }

    /// Takes what a batch was decompressed into from the budget while it is needed.
    fn count_decompressed(&self, batch: &RecordBatch, records: &Records) -> Option<Charge> {
        let is_compressed = batch.compression().is_ok_and(|codec| codec != CompressionType::None);
        let budget = self.budget.as_ref().filter(|_| is_compressed)?;
        Some(budget.decompressed(records.body_bytes()))
    }

    /// What these records take in memory besides the bytes of their batches. Of the smallest batches it is as much as those.
    pub(super) fn overhead_bytes(&self) -> usize {
        size_of::<Self>() + self.batches.capacity() * size_of::<RecordBatch>()
    }

    /// Copies the batches out of the frame they came in, so that it can go.
    pub(super) fn detach(&mut self, charge: Charge) {
        for batch in &mut self.batches {
            let mut copy = Bytes::copy_from_slice(batch.bytes());
            if let Ok(Some(copy)) = RecordBatch::split_from(&mut copy) {
                *batch = copy;
            }
        }
        self.charge = Some(charge);
    }

    /// Drops what lies at `end` or behind it.
    pub(super) fn cut_at(&mut self, end: Position) {
        while let Some(last) = self.batches.back()
            && last.next_offset() > end.offset
        {
            self.size = self.size.saturating_sub(last.size_bytes());
            self.batches.pop_back();
        }
        self.end = end;
    }

    /// Checks every batch's checksum. A bad one is cut off with all behind it and returned, unless it is the
    /// first: then nothing is left.
    pub(super) fn verify(&mut self) -> Result<(), (i64, BatchError)> {
        for index in 0..self.batches.len() {
            let Some(batch) = self.batches.get(index) else { break };
            if let Err(error) = batch.verify_crc() {
                let offset = batch.base_offset().max(self.position);
                self.batches.truncate(index);
                let leader_epoch = self.batches.back().map_or(-1, RecordBatch::leader_epoch);
                self.end = Position { offset, leader_epoch };
                return Err((offset, error));
            }
        }
        Ok(())
    }
}

fn corrupt(
    partition: &TopicPartition,
    batch: &RecordBatch,
    position: i64,
    source: BatchError,
) -> ConsumeError {
    ConsumeError::CorruptBatch {
        partition: partition.clone(),
        offset: batch.base_offset().max(position),
        source,
    }
}

impl IntoIterator for PartitionRecords {
    type Item = Result<ConsumerRecord, ConsumeError>;
    type IntoIter = IntoRecords;

    fn into_iter(self) -> IntoRecords {
        IntoRecords { rest: self, current: None, done_to: None }
    }
}

/// Iterates the records of [`PartitionRecords`]. Over after an error.
#[derive(Debug)]
pub struct IntoRecords {
    rest: PartitionRecords,
    current: Option<(RecordBatch, Records, Option<Charge>)>,
    /// The offset after the last record that was yielded.
    done_to: Option<(i64, i32)>,
}

impl IntoRecords {
    pub(super) fn records(&self) -> &PartitionRecords {
        &self.rest
    }

    /// The position after the last yielded record and its leader epoch; `None` before the first.
    pub(super) fn done_to(&self) -> Option<(i64, i32)> {
        self.done_to
    }

    /// What was not yielded yet, to be read later.
    pub(super) fn into_rest(mut self) -> PartitionRecords {
        if let Some((batch, ..)) = self.current.take() {
            self.rest.batches.push_front(batch);
        }
        if let Some((offset, _)) = self.done_to {
            self.rest.position = offset;
        }
        self.rest
    }
}

impl Iterator for IntoRecords {
    type Item = Result<ConsumerRecord, ConsumeError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((batch, records, _)) = &mut self.current {
                match records.next() {
                    Some(Ok(record)) if record.offset < self.rest.position => continue,
                    Some(Ok(record)) => {
                        self.done_to = Some((record.offset.saturating_add(1), batch.leader_epoch()));
                        return Some(Ok(ConsumerRecord::new(&self.rest.partition, batch, record)));
                    }
                    Some(Err(source)) => {
                        let error = corrupt(&self.rest.partition, batch, self.rest.position, source);
                        self.current = None;
                        self.rest.batches.clear();
                        return Some(Err(error));
                    }
                    None => self.current = None,
                }
            }
            let batch = self.rest.batches.pop_front()?;
            match batch.records(self.rest.max_decompressed) {
                Ok(records) => {
                    let decompressed = self.rest.count_decompressed(&batch, &records);
                    self.current = Some((batch, records, decompressed));
                }
                Err(source) => {
                    let error = corrupt(&self.rest.partition, &batch, self.rest.position, source);
                    self.rest.batches.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}
