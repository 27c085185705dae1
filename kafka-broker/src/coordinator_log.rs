//! How a coordinator's records rest in its partition of an internal topic: appended as one batch, and read back whole.

use bytes::Bytes;
use kafka_wire::ErrorCode;
use kafka_wire::record_batch::{BatchBuilder, ControlType, RecordBatch, Seal};
use kafka_wire::records::RecordError;

use crate::groups::TxnProducer;
use crate::log::{Appended, Origin};
use crate::partition::Partition;

/// How much of the log one read asks for while a coordinator loads (`offsets.load.buffer.size`).
const LOAD_BYTES: usize = 5 * 1024 * 1024;
/// No batch of the coordinator's own is larger; one of Kafka's could be compressed.
const MAX_DECOMPRESSED_BYTES: usize = 64 * 1024 * 1024;

/// A key and its value; `None` as a value is a tombstone.
pub(crate) type KeyValue = (Bytes, Option<Bytes>);

/// Appends records as one batch, so that a crash keeps all of them or none.
pub(crate) fn append(
    partition: &Partition,
    records: impl Iterator<Item = Result<KeyValue, RecordError>>,
    now_ms: i64,
) -> Result<Appended, ErrorCode> {
    append_sealed(partition, records, &Seal::default(), None, now_ms)
}

/// The same as part of a producer's transaction: the records count once it is committed.
pub(crate) fn append_in_transaction(
    partition: &Partition,
    records: impl Iterator<Item = Result<KeyValue, RecordError>>,
    producer: TxnProducer,
    now_ms: i64,
) -> Result<Appended, ErrorCode> {
    let mut seal = Seal::default();
    (seal.producer_id, seal.producer_epoch) = (producer.producer_id, producer.epoch);
    seal.transactional = true;
    append_sealed(partition, records, &seal, producer.guard, now_ms)
}

fn append_sealed(
    partition: &Partition,
    records: impl Iterator<Item = Result<KeyValue, RecordError>>,
    seal: &Seal,
    guard: Option<u64>,
    now_ms: i64,
) -> Result<Appended, ErrorCode> {
    let batch = encode(records, seal, now_ms).map_err(|reason| {
        tracing::error!(partition = partition.name(), reason, "a coordinator's records cannot be encoded");
        ErrorCode::UnknownServerError
    })?;
    partition.append(batch, Origin::Coordinator, guard, now_ms).map_err(|refused| match refused.code {
        ErrorCode::NotLeaderOrFollower => ErrorCode::NotCoordinator,
        ErrorCode::NotEnoughReplicas => ErrorCode::CoordinatorNotAvailable,
        code => code,
    })
}

fn encode(
    records: impl Iterator<Item = Result<KeyValue, RecordError>>,
    seal: &Seal,
    now_ms: i64,
) -> Result<Bytes, String> {
    let mut batch = BatchBuilder::new(1024);
    for record in records {
        let (key, value) = record.map_err(|error| error.to_string())?;
        batch.append(now_ms, Some(&key), value.as_deref(), &[]);
    }
    batch.finish(seal).map_err(|error| error.to_string())
}

/// What is read back of a coordinator's log.
pub(crate) enum Entry {
    Record {
        offset: i64,
        key: Bytes,
        value: Option<Bytes>,
        /// The producer whose transaction the record is part of.
        producer_id: Option<i64>,
    },
    /// The end of a producer's transaction.
    Marker { producer_id: i64, is_commit: bool },
}

/// Reads the whole partition, which no transaction writes to: offset, key and value of each record.
pub(crate) fn replay(
    partition: &Partition,
    mut apply: impl FnMut(i64, Bytes, Option<Bytes>) -> Result<(), RecordError>,
) -> Result<(), ErrorCode> {
    replay_all(partition, |entry| match entry {
        Entry::Record { offset, key, value, .. } => apply(offset, key, value),
        Entry::Marker { .. } => Ok(()),
    })
}

/// Reads the whole partition. A record that cannot be read is passed over, loudly.
pub(crate) fn replay_all(
    partition: &Partition,
    mut apply: impl FnMut(Entry) -> Result<(), RecordError>,
) -> Result<(), ErrorCode> {
    let (mut offset, end) = {
        let log = partition.lock()?;
        (log.log_start_offset(), log.log_end_offset())
    };
    let passed_over = |offset: i64, reason: &dyn std::fmt::Display| {
        tracing::error!(partition = partition.name(), offset, %reason, "a coordinator's record passed over");
    };
    while offset < end {
        let mut bytes = partition.lock()?.read(offset, LOAD_BYTES, true)?;
        let before = offset;
        while let Ok(Some(batch)) = RecordBatch::split_from(&mut bytes) {
            offset = offset.max(batch.next_offset());
            if batch.is_control() {
                let ended = match batch.control_type() {
                    Ok(Some(ControlType::Commit)) => Some(true),
                    Ok(Some(ControlType::Abort)) => Some(false),
                    _ => None,
                };
                if let Some(is_commit) = ended {
                    let marker = Entry::Marker { producer_id: batch.producer_id(), is_commit };
                    if let Err(error) = apply(marker) {
                        passed_over(batch.base_offset(), &error);
                    }
                }
                continue;
            }
            let producer_id = batch.is_transactional().then(|| batch.producer_id());
            let records = match batch.records(MAX_DECOMPRESSED_BYTES) {
                Ok(records) => records,
                Err(error) => {
                    passed_over(batch.base_offset(), &error);
                    continue;
                }
            };
            for record in records {
                let record = match record {
                    Ok(record) => record,
                    Err(error) => {
                        passed_over(batch.base_offset(), &error);
                        break;
                    }
                };
                let Some(key) = record.key else { continue };
                let entry = Entry::Record { offset: record.offset, key, value: record.value, producer_id };
                if let Err(error) = apply(entry) {
                    passed_over(record.offset, &error);
                }
            }
        }
        if offset == before {
            tracing::error!(
                partition = partition.name(),
                offset,
                "a coordinator's log cannot be read further"
            );
            return Err(ErrorCode::KafkaStorageError);
        }
    }
    Ok(())
}
