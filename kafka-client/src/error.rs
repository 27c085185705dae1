use crate::config::ConfigError;
use crate::net::RequestError;

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
}

impl Error {
    /// Whether the same call may succeed later without the caller changing anything.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Config(_) => false,
            Self::Request(error) => error.is_retriable(),
        }
    }

    /// Whether the call may have taken effect although it failed.
    pub fn possibly_written(&self) -> bool {
        match self {
            Self::Config(_) => false,
            Self::Request(error) => error.possibly_written(),
        }
    }
}
