//! What can go wrong with a log, in the log's own words.

use std::io;
use std::sync::Arc;

use kafka_wire::ErrorCode;
use kafka_wire::record_batch::BatchError;

use super::producer_state::SequenceError;

/// Why nothing was appended.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AppendError {
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error("a produce request holds exactly one batch for each partition, this one holds {count}")]
    BatchCount { count: usize },
    #[error("{reason}")]
    Invalid {
        reason: &'static str,
        /// The offending records, by their index in the batch, with what is wrong with each (KIP-467).
        records: Vec<(i32, String)>,
    },
    #[error("record {index} has timestamp {timestamp}, outside of {earliest} to {latest}")]
    InvalidTimestamp {
        /// The first offending record.
        index: i32,
        timestamp: i64,
        earliest: i64,
        latest: i64,
        /// All of them.
        records: Vec<(i32, String)>,
    },
    #[error("a batch of {size} bytes exceeds max.message.bytes ({limit})")]
    TooLarge { size: usize, limit: usize },
    #[error("a batch of {size} bytes exceeds segment.bytes ({limit})")]
    LargerThanSegment { size: usize, limit: u64 },
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// The write failed; the log is as it was before.
    #[error("the log cannot be written: {source}")]
    Storage { source: Arc<io::Error> },
    /// An earlier failure could not be undone.
    #[error("the log is offline because an earlier write could not be undone")]
    Offline,
}

impl AppendError {
    /// What the client is told.
    pub(crate) fn error_code(&self) -> ErrorCode {
        match self {
            Self::Batch(BatchError::UnsupportedMagic { .. }) => ErrorCode::UnsupportedForMessageFormat,
            Self::Batch(_) => ErrorCode::CorruptMessage,
            Self::BatchCount { .. } | Self::Invalid { .. } => ErrorCode::InvalidRecord,
            Self::InvalidTimestamp { .. } => ErrorCode::InvalidTimestamp,
            Self::TooLarge { .. } => ErrorCode::MessageTooLarge,
            Self::LargerThanSegment { .. } => ErrorCode::RecordListTooLarge,
            Self::Sequence(SequenceError::OutsideOfTransaction { .. } | SequenceError::Unverified { .. }) => {
                ErrorCode::InvalidTxnState
            }
            Self::Sequence(SequenceError::CoordinatorFenced { .. }) => {
                ErrorCode::TransactionCoordinatorFenced
            }
            Self::Sequence(SequenceError::OutOfOrder { .. }) => ErrorCode::OutOfOrderSequenceNumber,
            Self::Sequence(SequenceError::Fenced { .. }) => ErrorCode::InvalidProducerEpoch,
            Self::Storage { .. } | Self::Offline => ErrorCode::KafkaStorageError,
        }
    }

    /// Records to blame, by index in the batch (KIP-467).
    pub(crate) fn record_errors(&self) -> &[(i32, String)] {
        match self {
            Self::Invalid { records, .. } | Self::InvalidTimestamp { records, .. } => records,
            _ => &[],
        }
    }
}

impl From<io::Error> for AppendError {
    fn from(error: io::Error) -> Self {
        Self::Storage { source: Arc::new(error) }
    }
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ReadError {
    #[error("offset {offset} is outside of {start} to {end}")]
    OutOfRange { offset: i64, start: i64, end: i64 },
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error("the log cannot be read: {0}")]
    Storage(#[from] io::Error),
}

impl ReadError {
    /// What the client is told.
    pub(crate) fn error_code(&self) -> ErrorCode {
        match self {
            Self::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            Self::Batch(_) => ErrorCode::CorruptMessage,
            Self::Storage(_) => ErrorCode::KafkaStorageError,
        }
    }
}

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("log {folder}: {source}")]
pub(crate) struct LogError {
    pub(crate) folder: String,
    pub(crate) source: io::Error,
}

/// Why the log's start did not move.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DeleteRecordsError {
    #[error("offset {offset} is above the high watermark {high_watermark}")]
    OutOfRange { offset: i64, high_watermark: i64 },
    #[error("the records cannot be deleted because cleanup.policy does not contain delete")]
    Policy,
    #[error("old segments cannot be removed: {0}")]
    Storage(#[from] io::Error),
}

impl DeleteRecordsError {
    /// What the client is told.
    pub(crate) fn error_code(&self) -> ErrorCode {
        match self {
            Self::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            Self::Policy => ErrorCode::PolicyViolation,
            Self::Storage(_) => ErrorCode::KafkaStorageError,
        }
    }
}
