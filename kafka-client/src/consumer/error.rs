use kafka_wire::ErrorCode;
use kafka_wire::record_batch::BatchError;

use crate::TopicPartition;
use crate::group::GroupError;
use crate::net::RequestError;

/// Why no record came.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumeError {
    /// A fetched batch is damaged. The position stays before it: the next call fetches it again, and a seek
    /// past `offset` skips it.
    #[error("corrupt batch in {partition} at offset {offset}: {source}")]
    CorruptBatch {
        /// Where.
        partition: TopicPartition,
        /// The batch's first offset, or the position if that lies inside the batch.
        offset: i64,
        /// What is wrong with it.
        source: BatchError,
    },
    /// The position lies outside the log (or there is none yet) and `auto.offset.reset` is `none`.
    #[error("no offset to read {partition} from: {}", describe_position(.position))]
    NoOffset {
        /// Which partition waits for a seek.
        partition: TopicPartition,
        /// The position that the leader refused; `None` if nothing was committed.
        position: Option<i64>,
    },
    /// Records that were read are not in the leader's log any more, as after an unclean election (KIP-320), and
    /// `auto.offset.reset` is `none`.
    #[error("the log of {partition} was truncated below offset {position}, which was read")]
    LogTruncated {
        /// Which partition waits for a seek.
        partition: TopicPartition,
        /// The position, behind what was read.
        position: i64,
        /// The first offset that is not what was read; `None` if the leader does not know.
        diverged_at: Option<i64>,
    },
    /// The topic was deleted and created again under the same name: positions in the old one mean nothing.
    #[error("topic of {partition} was deleted and created again")]
    TopicRecreated {
        /// Which partition waits for a seek.
        partition: TopicPartition,
    },
    /// The leader refuses to serve the partition.
    #[error("{partition} cannot be read: {code}")]
    Refused {
        /// Which partition.
        partition: TopicPartition,
        /// The leader's reason.
        code: ErrorCode,
    },
    /// The consumer is no longer a member of its group.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The committed offsets could not be read.
    #[error("committed offsets of group {group} cannot be read: {code}")]
    CommittedOffsets {
        /// The group.
        group: String,
        /// The coordinator's reason.
        code: ErrorCode,
    },
    /// A request failed in a way that trying again does not mend.
    #[error("consumer request failed: {0}")]
    Request(#[from] RequestError),
}

fn describe_position(position: &Option<i64>) -> String {
    match position {
        Some(offset) => format!("offset {offset} is out of range"),
        None => "nothing is committed".to_owned(),
    }
}

impl ConsumeError {
    /// Whether the next call may bring records although nothing was changed.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::CorruptBatch { source, .. } => matches!(source, BatchError::BadCrc { .. }),
            Self::Refused { code, .. } | Self::CommittedOffsets { code, .. } => code.is_retriable(),
            Self::Request(source) => source.is_retriable(),
            _ => false,
        }
    }

    /// Whether this consumer will never read again: close it and build another.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Group(_))
    }
}

/// Why offsets were not committed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The consumer has no `group.id`, so there is nowhere to commit to.
    #[error("this consumer has no group to commit offsets to")]
    NoGroup,
    /// The coordinator refused. After a rebalance (`ILLEGAL_GENERATION`, `UNKNOWN_MEMBER_ID`,
    /// `REBALANCE_IN_PROGRESS`) the partitions may be another member's.
    #[error("commit for group {group} refused: {code}")]
    Refused {
        /// The group.
        group: String,
        /// The partition, when the reason is its own.
        partition: Option<TopicPartition>,
        /// The coordinator's reason.
        code: ErrorCode,
    },
    /// The coordinator could not be asked, or did not answer.
    #[error("no answer from the coordinator of group {group}: {source}")]
    Request {
        /// The group.
        group: String,
        /// What the connection said.
        source: RequestError,
    },
    /// The consumer was closed.
    #[error("the consumer is closed")]
    Closed,
}

impl CommitError {
    /// Whether the same commit may succeed later.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Request { source, .. } => source.is_retriable(),
            Self::Refused { code, .. } => code.is_retriable(),
            _ => false,
        }
    }

    /// Whether the membership that the commit was made under is over, so that it can never succeed.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::NoGroup | Self::Closed => true,
            Self::Refused { code, .. } => matches!(
                code,
                ErrorCode::IllegalGeneration | ErrorCode::UnknownMemberId | ErrorCode::FencedInstanceId
            ),
            _ => false,
        }
    }

    /// Whether the coordinator may have stored the offsets all the same.
    pub fn possibly_written(&self) -> bool {
        matches!(self, Self::Request { source, .. } if source.possibly_written())
    }
}

/// Why offsets could not be looked up.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum OffsetsError {
    /// The partition is not assigned to this consumer.
    #[error("{partition} is not assigned to this consumer")]
    NotAssigned {
        /// Which one.
        partition: TopicPartition,
    },
    /// The leader, or the coordinator, refuses.
    #[error("offsets of {partition}: {code}")]
    Refused {
        /// Which partition.
        partition: TopicPartition,
        /// The reason.
        code: ErrorCode,
    },
    /// The consumer has no group whose committed offsets could be read.
    #[error("this consumer has no group")]
    NoGroup,
    /// No leader, coordinator or answer within the request timeout.
    #[error("offsets could not be looked up: {0}")]
    Request(#[from] RequestError),
}

impl OffsetsError {
    /// Whether asking again may succeed.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Refused { code, .. } => code.is_retriable(),
            Self::Request(source) => source.is_retriable(),
            _ => false,
        }
    }
}
