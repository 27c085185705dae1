//! What can become of a transaction: one error for each operation, so that what to do next is told by the type.

use std::time::Duration;

use kafka_wire::ErrorCode;

use super::super::error::SendError;
use crate::net::RequestError;

/// Why the producer can do no more: it has to be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FatalError {
    /// Another producer has the transactional id now, or an operator took it from this one. Whatever this one left open is
    /// aborted.
    #[error("another producer has taken over the transactional id")]
    Fenced,
    /// The cluster will not let this producer write in transactions.
    #[error("the cluster refuses transactions: {code}")]
    Refused {
        /// Its answer.
        code: ErrorCode,
    },
}

/// Why a transaction cannot be committed. It is aborted, and the next one may well succeed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AbortCause {
    /// A record was not written.
    #[error("a record was not written: {0}")]
    Send(#[source] Box<SendError>),
    /// The group's coordinator does not take the offsets, for instance because the consumer is no member any more.
    #[error("the offsets of group {group:?} were refused: {code}")]
    Offsets {
        /// The group.
        group: String,
        /// The coordinator's answer.
        code: ErrorCode,
    },
    /// The transaction's coordinator aborted it, or wants it aborted, for instance because it was open for longer than
    /// `transaction.timeout`.
    #[error("the transaction's coordinator aborts it: {code}")]
    Coordinator {
        /// Its answer.
        code: ErrorCode,
    },
}

/// Why no transaction was begun.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BeginError {
    /// The producer has no `transactional_id`.
    #[error("the producer has no transactional id")]
    NotTransactional,
    /// The coordinator gave no producer id in time, an earlier transaction has not ended yet, or another one of this
    /// producer is open (`max.block`). Worth another try.
    #[error("no transaction could begin within {waited:?}")]
    TimedOut {
        /// `max.block`.
        waited: Duration,
    },
    /// No transaction of this producer can begin any more.
    #[error(transparent)]
    Fatal(#[from] FatalError),
    /// The producer was closed.
    #[error("the producer is closed")]
    Closed,
}

/// Why a transaction was not committed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// It was aborted: nothing of it is visible. Begin again, from the records of before.
    #[error("the transaction was aborted: {0}")]
    Aborted(#[source] AbortCause),
    /// It was not committed, and the producer can do no more.
    #[error("the transaction was not committed: {0}")]
    Fatal(#[source] FatalError),
    /// The transaction may be committed: the coordinator's answer was lost, and it could not be asked again before the
    /// producer was closed, fenced or forgotten.
    #[error("it is not known whether the transaction was committed{}", fatal.as_ref().map(|it| format!(": {it}")).unwrap_or_default())]
    Unresolved {
        /// Why the producer can do no more, if so.
        #[source]
        fatal: Option<FatalError>,
    },
}

/// Why it is not known that a transaction was aborted.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AbortError {
    /// The producer can do no more; its coordinator aborts what it left open.
    #[error(transparent)]
    Fatal(#[from] FatalError),
    /// The producer was closed before the coordinator answered. It aborts the transaction when its time is over.
    #[error("the producer was closed before the coordinator answered")]
    Unresolved,
}

/// Why offsets are not part of the transaction.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CommitOffsetsError {
    /// The transaction can only be aborted.
    #[error("the transaction has to be aborted: {0}")]
    Abort(#[source] AbortCause),
    /// The producer can do no more.
    #[error(transparent)]
    Fatal(#[from] FatalError),
    /// The producer was closed.
    #[error("the producer is closed")]
    Closed,
}

impl BeginError {
    /// Whether the same may succeed later.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::TimedOut { .. })
    }

    /// Whether this producer will never begin a transaction again.
    pub fn is_fatal(&self) -> bool {
        !self.is_retriable()
    }
}

impl CommitError {
    /// Whether the work may be done again in a new transaction of the same producer.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Aborted(_))
    }

    /// Whether this producer will never begin a transaction again.
    pub fn is_fatal(&self) -> bool {
        !self.is_retriable()
    }

    /// Whether the transaction may be committed all the same.
    pub fn possibly_written(&self) -> bool {
        matches!(self, Self::Unresolved { .. })
    }
}

impl CommitOffsetsError {
    /// Whether the work may be done again in a new transaction of the same producer.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Abort(_))
    }

    /// Whether this producer will never begin a transaction again.
    pub fn is_fatal(&self) -> bool {
        !self.is_retriable()
    }
}

/// The code that stands for a request's error.
pub(in super::super) fn code_of(error: &RequestError) -> Option<ErrorCode> {
    matches!(error, RequestError::Unsupported(_)).then_some(ErrorCode::UnsupportedVersion)
}
