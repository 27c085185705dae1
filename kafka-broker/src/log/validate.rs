//! What a client's batch must be before it may rest in a log (Kafka's `LogValidator`).

use kafka_wire::compression::CompressionType;
use kafka_wire::record_batch::{BatchError, NO_TIMESTAMP, RecordBatch, TimestampType};

use super::config::LogConfig;
use super::error::AppendError;

/// A batch may decompress to at most this much: far above what any client builds, far below what hurts.
pub(super) const MAX_DECOMPRESSED_BYTES: usize = 256 << 20;

/// How many offending records an answer names.
const MAX_NAMED_RECORDS: usize = 100;

/// Checks one batch of a produce request. Everything is read here, so that what consumers get later always parses.
pub(super) fn check_client_batch(
    batch: &RecordBatch,
    config: &LogConfig,
    now_ms: i64,
) -> Result<(), AppendError> {
    if batch.size_bytes() > config.max_message_bytes {
        return Err(AppendError::TooLarge { size: batch.size_bytes(), limit: config.max_message_bytes });
    }
    batch.verify_crc()?;
    if batch.is_control() {
        return Err(invalid("clients may not write control batches"));
    }
    if batch.record_count() <= 0 || batch.record_count() - 1 != batch.last_offset_delta() {
        return Err(invalid("the record count does not agree with the offsets"));
    }
    if batch.producer_id() >= 0 && (batch.base_sequence() < 0 || batch.producer_epoch() < 0) {
        return Err(invalid("an idempotent producer's batch needs an epoch and a sequence"));
    }
    if batch.is_transactional() && batch.producer_id() < 0 {
        return Err(invalid("a transaction needs a producer"));
    }
    if batch.timestamp_type() == TimestampType::LogAppendTime {
        return Err(invalid("clients may not set the log append time"));
    }
    check_records(batch, config, now_ms)
}

fn check_records(batch: &RecordBatch, config: &LogConfig, now_ms: i64) -> Result<(), AppendError> {
    let earliest = now_ms.saturating_sub(config.timestamp_before_max_ms);
    let latest = now_ms.saturating_add(config.timestamp_after_max_ms);
    let compressed = batch.compression()? != CompressionType::None;
    let mut records = batch.records(MAX_DECOMPRESSED_BYTES)?;
    let mut offending = Vec::new();
    let mut outside: Option<AppendError> = None;
    let mut index = 0;
    let base_offset = batch.base_offset();
    while let Some(record) = records.next_view() {
        let record = record.map_err(|error| malformed(error, compressed))?;
        if record.offset - base_offset != i64::from(index) {
            return Err(invalid("the records' offsets are not consecutive"));
        }
        if config.compacted && record.key.is_none() && offending.len() < MAX_NAMED_RECORDS {
            offending.push((index, "a compacted topic takes no record without a key".to_owned()));
        }
        // A record without a time is within any bounds (`LogValidator.validateTimestamp`).
        let bounded = !config.log_append_time && record.timestamp != NO_TIMESTAMP;
        if bounded && (record.timestamp < earliest || record.timestamp > latest) {
            let timestamp = record.timestamp;
            if offending.len() < MAX_NAMED_RECORDS {
                offending
                    .push((index, format!("timestamp {timestamp} is outside of {earliest} to {latest}")));
            }
            outside.get_or_insert(AppendError::InvalidTimestamp {
                index,
                timestamp,
                earliest,
                latest,
                records: Vec::new(),
            });
        }
        index += 1;
    }
    if index != batch.record_count() {
        return Err(invalid("the batch holds fewer records than it announces"));
    }
    if offending.is_empty() {
        return Ok(());
    }
    if let Some(AppendError::InvalidTimestamp { index, timestamp, earliest, latest, .. }) = outside {
        let records = offending;
        return Err(AppendError::InvalidTimestamp { index, timestamp, earliest, latest, records });
    }
    Err(AppendError::Invalid { reason: "records without a key on a compacted topic", records: offending })
}

/// Bytes that pass the checksum but are no records are the client's doing; Kafka calls that an invalid record, and data
/// that does not decompress corrupt.
fn malformed(error: BatchError, compressed: bool) -> AppendError {
    match error {
        BatchError::BadRecord { reason, index, .. } if !compressed => {
            AppendError::Invalid { reason, records: vec![(index, reason.to_owned())] }
        }
        error => AppendError::Batch(error),
    }
}

fn invalid(reason: &'static str) -> AppendError {
    AppendError::Invalid { reason, records: Vec::new() }
}
