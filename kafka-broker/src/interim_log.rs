//! A partition's log in memory: a list of batches, without segments and without a disk. It holds the place of the
//! segmented log, with the same promises to clients: checked batches, offsets without gaps, each idempotent batch once.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use kafka_wire::error_code::ErrorCode;
use kafka_wire::record_batch::{
    BatchError, NO_PRODUCER_ID, RecordBatch, add_to_sequence, patch_base_offset, patch_leader_epoch,
    set_log_append_time,
};
use rustc_hash::FxHashMap;

use crate::config::topic::TopicConfig;

/// How many batches of a producer are remembered (`ProducerStateEntry.NUM_BATCHES_TO_RETAIN`).
const BATCHES_PER_PRODUCER: usize = 5;
/// A batch is decompressed to at most this to look at its records.
const MAX_DECOMPRESSED_BYTES: usize = 64 * 1024 * 1024;

/// Who appends: a client's batches are checked more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Client,
    Coordinator,
}

/// What goes along with batches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Append {
    pub(crate) leader_epoch: i32,
    pub(crate) origin: Origin,
    pub(crate) now_ms: i64,
}

/// Where batches went.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Appended {
    pub(crate) base_offset: i64,
    pub(crate) last_offset: i64,
    pub(crate) log_append_time: Option<i64>,
    pub(crate) log_start_offset: i64,
    /// The batch was there already; its first offsets are told again.
    pub(crate) duplicate: bool,
}

/// Why nothing was appended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    #[error(transparent)]
    Corrupt(#[from] BatchError),
    #[error("the batch of {size} bytes is larger than max.message.bytes ({limit})")]
    TooLarge { size: usize, limit: i64 },
    #[error("{0}")]
    InvalidRecord(&'static str),
    #[error("timestamp {timestamp} is out of the range that the topic accepts")]
    InvalidTimestamp { timestamp: i64 },
    #[error("producer {producer_id} sent sequence {sequence}; {expected} was expected")]
    OutOfOrder { producer_id: i64, sequence: i32, expected: i32 },
    #[error("producer {producer_id} sent with epoch {epoch}; its epoch is {current}")]
    StaleEpoch { producer_id: i64, epoch: i16, current: i16 },
}

impl AppendError {
    pub(crate) fn error_code(&self) -> ErrorCode {
        match self {
            Self::Corrupt(_) => ErrorCode::CorruptMessage,
            Self::TooLarge { .. } => ErrorCode::MessageTooLarge,
            Self::InvalidRecord(_) => ErrorCode::InvalidRecord,
            Self::InvalidTimestamp { .. } => ErrorCode::InvalidTimestamp,
            Self::OutOfOrder { .. } => ErrorCode::OutOfOrderSequenceNumber,
            Self::StaleEpoch { .. } => ErrorCode::InvalidProducerEpoch,
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct PartitionLog {
    config: TopicConfig,
    batches: VecDeque<RecordBatch>,
    size_bytes: usize,
    start: i64,
    end: i64,
    producers: FxHashMap<i64, Producer>,
}

#[derive(Debug)]
struct Producer {
    epoch: i16,
    recent: VecDeque<Sequenced>,
}

#[derive(Debug, Clone, Copy)]
struct Sequenced {
    first: i32,
    last: i32,
    base_offset: i64,
    last_offset: i64,
    log_append_time: Option<i64>,
}

impl PartitionLog {
    pub(crate) fn new(config: TopicConfig) -> Self {
        Self {
            config,
            batches: VecDeque::new(),
            size_bytes: 0,
            start: 0,
            end: 0,
            producers: FxHashMap::default(),
        }
    }

    /// Appends all of `records` or nothing.
    pub(crate) fn append(&mut self, records: Bytes, append: Append) -> Result<Appended, AppendError> {
        let batches: Vec<RecordBatch> = RecordBatch::iter(records).collect::<Result<_, _>>()?;
        for batch in &batches {
            batch.verify_crc()?;
            if append.origin == Origin::Client {
                self.check(batch, append.now_ms)?;
                if let Some(known) = self.check_sequence(batch)? {
                    return Ok(self.appended(known, true));
                }
            }
        }
        let base_offset = self.end;
        let log_append_time =
            (append.origin == Origin::Client && self.config.log_append_time).then_some(append.now_ms);
        for batch in batches {
            let mut bytes = BytesMut::from(batch.bytes().as_ref());
            patch_base_offset(&mut bytes, self.end);
            patch_leader_epoch(&mut bytes, append.leader_epoch);
            if let Some(now_ms) = log_append_time {
                set_log_append_time(&mut bytes, now_ms);
            }
            if let Some(batch) = RecordBatch::split_from(&mut bytes.freeze())? {
                self.remember(&batch, log_append_time);
                self.end = batch.next_offset();
                self.size_bytes += batch.size_bytes();
                self.batches.push_back(batch);
            }
        }
        let last_offset = self.end - 1;
        Ok(self.appended(Sequenced { first: -1, last: -1, base_offset, last_offset, log_append_time }, false))
    }

    fn appended(&self, at: Sequenced, duplicate: bool) -> Appended {
        Appended {
            base_offset: at.base_offset,
            last_offset: at.last_offset,
            log_append_time: at.log_append_time,
            log_start_offset: self.start,
            duplicate,
        }
    }

    fn check(&self, batch: &RecordBatch, now_ms: i64) -> Result<(), AppendError> {
        let size = batch.size_bytes();
        if i64::try_from(size).unwrap_or(i64::MAX) > self.config.max_message_bytes {
            return Err(AppendError::TooLarge { size, limit: self.config.max_message_bytes });
        }
        if batch.is_control() || batch.is_transactional() {
            return Err(AppendError::InvalidRecord("control and transactional batches are not accepted"));
        }
        if batch.record_count() < 1 || batch.record_count() - 1 != batch.last_offset_delta() {
            return Err(AppendError::InvalidRecord("the batch's record count and last offset do not agree"));
        }
        let timestamp = batch.max_timestamp();
        let ahead = timestamp.saturating_sub(now_ms) > self.config.timestamp_after_max_ms;
        let behind = now_ms.saturating_sub(timestamp) > self.config.timestamp_before_max_ms;
        if !self.config.log_append_time && timestamp >= 0 && (ahead || behind) {
            return Err(AppendError::InvalidTimestamp { timestamp });
        }
        if self.config.compacted {
            for record in batch.records(MAX_DECOMPRESSED_BYTES)? {
                if record?.key.is_none() {
                    return Err(AppendError::InvalidRecord(
                        "a compacted topic accepts no record without a key",
                    ));
                }
            }
        }
        Ok(())
    }

    /// The first append of a batch that is sent again, or why its sequence does not follow (`ProducerAppendInfo`).
    fn check_sequence(&self, batch: &RecordBatch) -> Result<Option<Sequenced>, AppendError> {
        let producer_id = batch.producer_id();
        let Some(producer) = self.producers.get(&producer_id) else { return Ok(None) };
        let (epoch, sequence) = (batch.producer_epoch(), batch.base_sequence());
        if epoch < producer.epoch {
            return Err(AppendError::StaleEpoch { producer_id, epoch, current: producer.epoch });
        }
        if epoch > producer.epoch {
            return match sequence {
                0 => Ok(None),
                _ => Err(AppendError::OutOfOrder { producer_id, sequence, expected: 0 }),
            };
        }
        let same = |known: &&Sequenced| known.first == sequence && known.last == batch.last_sequence();
        if let Some(known) = producer.recent.iter().find(same) {
            return Ok(Some(*known));
        }
        let expected = producer.recent.back().map_or(sequence, |last| add_to_sequence(last.last, 1));
        match sequence == expected {
            true => Ok(None),
            false => Err(AppendError::OutOfOrder { producer_id, sequence, expected }),
        }
    }

    fn remember(&mut self, batch: &RecordBatch, log_append_time: Option<i64>) {
        if batch.producer_id() == NO_PRODUCER_ID {
            return;
        }
        let epoch = batch.producer_epoch();
        let fresh = || Producer { epoch, recent: VecDeque::new() };
        let producer = self.producers.entry(batch.producer_id()).or_insert_with(fresh);
        if producer.epoch != epoch {
            *producer = fresh();
        }
        if producer.recent.len() == BATCHES_PER_PRODUCER {
            producer.recent.pop_front();
        }
        producer.recent.push_back(Sequenced {
            first: batch.base_sequence(),
            last: batch.last_sequence(),
            base_offset: batch.base_offset(),
            last_offset: batch.last_offset(),
            log_append_time,
        });
    }

    /// Whole batches from the one that holds `offset` on.
    pub(crate) fn read(
        &self,
        offset: i64,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<Vec<Bytes>, BatchError> {
        let from = self.batches.partition_point(|batch| batch.last_offset() < offset);
        let mut read = Vec::new();
        let mut left = max_bytes;
        for batch in self.batches.range(from..) {
            if batch.size_bytes() > left && !(at_least_one && read.is_empty()) {
                break;
            }
            left = left.saturating_sub(batch.size_bytes());
            read.push(batch.bytes().clone());
        }
        Ok(read)
    }

    /// The first record with this timestamp or a later one: its timestamp and offset.
    pub(crate) fn offset_for_timestamp(&self, timestamp: i64) -> Result<Option<(i64, i64)>, BatchError> {
        let Some(batch) = self.batches.iter().find(|batch| batch.max_timestamp() >= timestamp) else {
            return Ok(None);
        };
        for record in batch.records(MAX_DECOMPRESSED_BYTES)? {
            let record = record?;
            if record.timestamp >= timestamp {
                return Ok(Some((record.timestamp, record.offset)));
            }
        }
        Ok(None)
    }

    /// The first record with the largest timestamp.
    pub(crate) fn offset_for_max_timestamp(&self) -> Result<Option<(i64, i64)>, BatchError> {
        match self.batches.iter().map(RecordBatch::max_timestamp).max() {
            Some(timestamp) => self.offset_for_timestamp(timestamp),
            None => Ok(None),
        }
    }

    /// Drops what retention.ms and retention.bytes allow to go.
    pub(crate) fn apply_retention(&mut self, now_ms: i64) {
        let TopicConfig { deleted, retention_ms, retention_bytes, .. } = self.config;
        while let Some(batch) = self.batches.front().filter(|_| deleted) {
            let old = retention_ms >= 0 && now_ms.saturating_sub(batch.max_timestamp()) > retention_ms;
            let rest = i64::try_from(self.size_bytes - batch.size_bytes()).unwrap_or(i64::MAX);
            let surplus = retention_bytes >= 0 && rest >= retention_bytes;
            if !old && !surplus {
                break;
            }
            self.start = batch.next_offset();
            self.size_bytes -= batch.size_bytes();
            self.batches.pop_front();
        }
    }

    pub(crate) fn log_start_offset(&self) -> i64 {
        self.start
    }

    pub(crate) fn log_end_offset(&self) -> i64 {
        self.end
    }

    pub(crate) fn high_watermark(&self) -> i64 {
        self.end
    }
}
