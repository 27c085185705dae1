//! Control batches: the records that brokers write for themselves and no application sees.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::EndTxnMarker;
use kafka_protocol::protocol::Encodable;

use super::{BatchBuilder, BatchError, RecordBatch, Seal, SealError};

/// What a control record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ControlType {
    /// The producer's open transaction is aborted.
    Abort,
    /// The producer's open transaction is committed.
    Commit,
    /// A KRaft leader began its epoch.
    LeaderChange,
    /// A type that Kafka added later.
    Other(i16),
}

/// Control keys are a version and a type, two bytes each; readers ignore the version.
const KEY_VERSION: i16 = 0;

impl ControlType {
    fn from_key(key: &[u8]) -> Option<Self> {
        let kind = key.get(2..)?.first_chunk::<2>()?;
        Some(match i16::from_be_bytes(*kind) {
            0 => Self::Abort,
            1 => Self::Commit,
            2 => Self::LeaderChange,
            other => Self::Other(other),
        })
    }
}

impl RecordBatch {
    /// What the control record of this batch says; `None` for ordinary batches.
    pub fn control_type(&self) -> Result<Option<ControlType>, BatchError> {
        if !self.is_control() {
            return Ok(None);
        }
        let malformed = |reason| BatchError::BadRecord { base_offset: self.base_offset(), index: 0, reason };
        // A control record is a few bytes and never compressed.
        let mut records = self.records(self.size_bytes())?;
        let record = records.next_view().ok_or_else(|| malformed("a control batch holds no record"))??;
        let key = record.key.ok_or_else(|| malformed("a control record has no key"))?;
        ControlType::from_key(key).map(Some).ok_or_else(|| malformed("a control record's key is too short"))
    }
}

/// The batch that ends a producer's transaction (`EndTransactionMarker`).
///
/// `seal` names the producer, its epoch, the offset and the leader epoch.
pub fn end_transaction_marker(
    commit: bool,
    coordinator_epoch: i32,
    timestamp: i64,
    seal: &Seal,
) -> Result<Bytes, SealError> {
    let mut key = [0u8; 4];
    key[..2].copy_from_slice(&KEY_VERSION.to_be_bytes());
    key[2..].copy_from_slice(&i16::from(commit).to_be_bytes());
    // A marker's value carries its own version before the message.
    let mut value = BytesMut::from(&0i16.to_be_bytes()[..]);
    // Encoding one i32 into memory cannot fail; were it to, the value would be short and readers would say so.
    let _ = EndTxnMarker::default().with_coordinator_epoch(coordinator_epoch).encode(&mut value, 0);
    let mut batch = BatchBuilder::new(128);
    batch.append(timestamp, Some(&key), Some(&value), &[]);
    batch.finish(&Seal { control: true, transactional: true, ..seal.clone() })
}
