use std::fmt;
use std::time::Duration;

use kafka_wire::ErrorCode;

use super::{Deliveries, Record};
use crate::TopicPartition;
use crate::net::RequestError;

/// Why a record was not acknowledged.
///
/// [`is_retriable`](Self::is_retriable), [`is_fatal`](Self::is_fatal) and [`possibly_written`](Self::possibly_written)
/// answer what callers ask next.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
// A tag as wide as what stands behind it: with one byte, results of `send` are copied in pieces that straddle their
// fields, and each copy has to wait for the ones before it (measured: 20 ns for a record).
#[repr(u64)]
pub enum SendError {
    /// No topic can have this name: 1 to 249 of `a-z A-Z 0-9 . _ -`, and neither `.` nor `..`.
    #[error("invalid topic name {topic:?}")]
    InvalidTopic {
        /// The name.
        topic: String,
    },
    /// The cluster says that it has no such topic.
    #[error("unknown topic {topic:?}")]
    UnknownTopic {
        /// The name.
        topic: String,
    },
    /// The topic has fewer partitions.
    #[error("topic {topic:?} has no partition {partition}: it has {count}")]
    UnknownPartition {
        /// The topic.
        topic: String,
        /// The partition that was asked for.
        partition: i32,
        /// How many the topic has.
        count: usize,
    },
    /// The cluster will not tell about the topic, for instance because access is denied.
    #[error("topic {topic:?} cannot be used: {code}")]
    TopicRefused {
        /// The topic.
        topic: String,
        /// The broker's answer.
        code: ErrorCode,
    },
    /// Nobody told in time who leads the topic (`max.block`).
    #[error("no metadata of topic {topic:?} within {waited:?}{}", last.as_ref().map(|e| format!(": {e}")).unwrap_or_default())]
    NoMetadata {
        /// The topic.
        topic: String,
        /// `max.block`.
        waited: Duration,
        /// What went wrong last.
        #[source]
        last: Option<Box<RequestError>>,
    },
    /// The record fits no request, or not the buffer.
    #[error("record of {size} bytes exceeds {limit_name} ({limit} bytes)")]
    RecordTooLarge {
        /// The record's size in bytes, encoded.
        size: usize,
        /// The limit in bytes.
        limit: usize,
        /// Which limit: `max.request.size` or `buffer.memory`.
        limit_name: &'static str,
    },
    /// The buffer stayed full (`buffer.memory`, `max.block`).
    #[error("no room in the producer's buffer within {waited:?}")]
    BufferFull {
        /// `max.block`.
        waited: Duration,
    },
    /// The leader refused the record's batch.
    #[error("the leader of {partition} refused the batch: {code}")]
    Refused {
        /// The partition.
        partition: TopicPartition,
        /// Its answer.
        code: ErrorCode,
        /// Whether an earlier attempt that got no answer may have written it.
        possibly_written: bool,
    },
    /// The record could not be written within `delivery.timeout`; it is not in the log.
    #[error("{partition} was not written within {waited:?}{}", last.map(|c| format!(": {c}")).unwrap_or_default())]
    Expired {
        /// The partition.
        partition: TopicPartition,
        /// `delivery.timeout`.
        waited: Duration,
        /// What the leader answered last.
        last: Option<ErrorCode>,
    },
    /// A request carrying the record left the client and no answer came: it may be in the log.
    #[error("no answer from the leader of {partition} within {waited:?}")]
    Unanswered {
        /// The partition.
        partition: TopicPartition,
        /// `delivery.timeout`, or how long until the producer was closed.
        waited: Duration,
    },
    /// The topic was deleted and made anew while the record was on its way to the old one.
    #[error("the topic of {partition} was deleted and made anew")]
    TopicRecreated {
        /// The partition of the old topic.
        partition: TopicPartition,
        /// Whether a request that got no answer may have written it, to the old topic.
        possibly_written: bool,
    },
    /// The leader lost records of this partition that it had acknowledged, and the producer was told to stop there
    /// ([`DataLoss::Stop`](super::DataLoss::Stop)).
    #[error("the leader of {partition} lost acknowledged records")]
    DataLoss {
        /// The partition.
        partition: TopicPartition,
        /// Whether a request that got no answer may have written it.
        possibly_written: bool,
    },
    /// The batch could not be compressed.
    #[error("cannot encode a batch: {reason}")]
    Encode {
        /// The codec's words.
        reason: String,
    },
    /// The cluster gave the producer no id, which idempotence needs.
    #[error("no producer id: {code}")]
    NoProducerId {
        /// The broker's answer.
        code: ErrorCode,
    },
    /// The record belongs to no transaction: the producer is a transactional one, and none was open, or it was aborted
    /// before the record left.
    #[error("no transaction is open, or it was aborted before the record left")]
    NoTransaction,
    /// The producer was closed.
    #[error("the producer is closed")]
    Closed,
}

impl SendError {
    /// Whether sending the record again may succeed without anything being changed.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::NoMetadata { .. }
            | Self::BufferFull { .. }
            | Self::Expired { .. }
            | Self::TopicRecreated { .. }
            | Self::Unanswered { .. } => true,
            Self::Refused { code, .. } | Self::TopicRefused { code, .. } | Self::NoProducerId { code } => {
                code.is_retriable()
            }
            Self::InvalidTopic { .. }
            | Self::UnknownTopic { .. }
            | Self::UnknownPartition { .. }
            | Self::RecordTooLarge { .. }
            | Self::DataLoss { .. }
            | Self::Encode { .. }
            | Self::NoTransaction
            | Self::Closed => false,
        }
    }

    /// Whether every other record of this producer will fail too.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Closed | Self::NoProducerId { .. })
    }

    /// Whether the record may be in the log although it was not acknowledged: sending it again may write it twice.
    pub fn possibly_written(&self) -> bool {
        matches!(
            self,
            Self::Unanswered { .. }
                | Self::Refused { possibly_written: true, .. }
                | Self::TopicRecreated { possibly_written: true, .. }
                | Self::DataLoss { possibly_written: true, .. }
        )
    }
}

/// Why `send_all` ended before its last record.
#[derive(Debug, thiserror::Error)]
#[error("{} records were taken, and then one was not", sent.len())]
pub struct SendAllError {
    /// What becomes of the records that were taken.
    pub sent: Deliveries,
    /// Why the next one was not.
    pub source: SendError,
}

/// Why `try_send` did not take a record.
#[non_exhaustive]
pub enum TrySendError<'a> {
    /// There is no room in the buffer, or nothing is known of the topic yet. The record comes back.
    Full(Box<Record<'a>>),
    /// The record can never be sent like this.
    Failed(SendError),
}

impl fmt::Debug for TrySendError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("Full"),
            Self::Failed(error) => f.debug_tuple("Failed").field(error).finish(),
        }
    }
}

impl fmt::Display for TrySendError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(record) => write!(f, "no room for a record of topic {:?} right now", record.topic()),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for TrySendError<'_> {}
