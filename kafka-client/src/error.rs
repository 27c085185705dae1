use crate::config::ConfigError;
use crate::consumer::{CommitError, ConsumeError, OffsetsError};
use crate::group::GroupMemberError;
use crate::net::RequestError;
use crate::producer::{FlushTimeout, SendError};

/// Any error of this crate, for programs that do not tell them apart. Each operation has an error type of its own that
/// converts into this one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A request has no answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A record was not acknowledged.
    #[error(transparent)]
    Send(#[from] SendError),
    /// Not every record was acknowledged in time.
    #[error(transparent)]
    Flush(#[from] FlushTimeout),
    /// No record came.
    #[error(transparent)]
    Consume(#[from] ConsumeError),
    /// Offsets were not committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Offsets could not be looked up.
    #[error(transparent)]
    Offsets(#[from] OffsetsError),
    /// A member of a group is none any more.
    #[error(transparent)]
    GroupMember(#[from] GroupMemberError),
}

impl Error {
    /// Whether the same call may succeed later without the caller changing anything.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Config(_) | Self::GroupMember(_) => false,
            Self::Request(error) => error.is_retriable(),
            Self::Send(error) => error.is_retriable(),
            Self::Flush(_) => true,
            Self::Consume(error) => error.is_retriable(),
            Self::Commit(error) => error.is_retriable(),
            Self::Offsets(error) => error.is_retriable(),
        }
    }

    /// Whether the call may have taken effect although it failed.
    pub fn possibly_written(&self) -> bool {
        match self {
            Self::Config(_) | Self::Consume(_) | Self::Offsets(_) | Self::GroupMember(_) => false,
            Self::Request(error) => error.possibly_written(),
            Self::Send(error) => error.possibly_written(),
            Self::Flush(_) => true,
            Self::Commit(error) => error.possibly_written(),
        }
    }
}
