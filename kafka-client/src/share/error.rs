//! What can go wrong with a share consumer.

use kafka_wire::ErrorCode;

use crate::TopicPartition;

/// Why a share consumer has no more records. All of these are final.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// The coordinator refuses this member.
    #[error("share group {group} refused the member: {code}: {message}")]
    Refused {
        /// The group.
        group: String,
        /// The coordinator's answer.
        code: ErrorCode,
        /// What it said about it.
        message: String,
    },
    /// The cluster has no share groups: it is older than Kafka 4.1, or `share.version` is 0.
    #[error("the cluster does not serve share groups (KIP-932): {reason}")]
    Unsupported {
        /// What is missing.
        reason: String,
    },
}

/// Why the broker does not know what was said of a record. The record may be delivered again, to anybody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcknowledgeError {
    /// The record was kept longer than its lock lasts (`share.record.lock.duration.ms`).
    #[error("the lock of the record ended before it was acknowledged")]
    LockExpired,
    /// Another broker leads the partition now; the locks of the one before are gone.
    #[error("the partition has another leader than the one that gave the record")]
    LeaderMoved,
    /// The broker refused it.
    #[error("the broker refused the acknowledgement: {code}")]
    Refused {
        /// Its answer.
        code: ErrorCode,
    },
    /// No answer came: it may have taken effect.
    #[error("the acknowledgement was not answered: {reason}")]
    Unanswered {
        /// What happened.
        reason: String,
    },
    /// Something newer was said of the record before the broker was told: the record had been delivered again, or a renewal
    /// was followed by another word.
    #[error("something newer was said of the record first")]
    Superseded,
    /// The consumer was closed before.
    #[error("the consumer is closed")]
    Closed,
}

impl AcknowledgeError {
    /// Whether it may have taken effect all the same.
    pub fn possibly_written(&self) -> bool {
        matches!(self, Self::Unanswered { .. })
    }
}

/// What is said of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AcknowledgeType {
    /// The offset was given but has no record: compacted away, or a control record. Said by the consumer itself.
    Gap,
    /// Processed.
    Accept,
    /// To be delivered again, to anybody.
    Release,
    /// Not to be delivered again.
    Reject,
    /// Still being processed: the lock begins anew (KIP-1222).
    Renew,
}

impl AcknowledgeType {
    pub(super) fn code(self) -> i8 {
        match self {
            Self::Gap => 0,
            Self::Accept => 1,
            Self::Release => 2,
            Self::Reject => 3,
            Self::Renew => 4,
        }
    }
}

/// What became of acknowledgements of neighbouring records.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AcknowledgeOutcome {
    /// The partition.
    pub partition: TopicPartition,
    /// The first record's offset.
    pub first: i64,
    /// The last record's offset.
    pub last: i64,
    /// What was said.
    pub kind: AcknowledgeType,
    /// Whether the broker took it.
    pub result: Result<(), AcknowledgeError>,
}
