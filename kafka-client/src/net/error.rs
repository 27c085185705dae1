use std::io;
use std::sync::Arc;
use std::time::Duration;

use kafka_wire::ErrorCode;
use kafka_wire::frame::FrameError;
use kafka_wire::versions::UnsupportedApi;

use super::Address;

/// Why a connection could not be opened, or ended.
///
/// Cloned into every request that was waiting on the connection.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The broker's name has no address.
    #[error("cannot resolve {address}: {source}")]
    Resolve {
        /// The broker.
        address: Address,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// No stream could be opened.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The broker.
        address: Address,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Connecting and agreeing on versions took too long.
    #[error("no connection to {address} within {waited:?}")]
    SetupTimeout {
        /// The broker.
        address: Address,
        /// `socket.connection.setup.timeout`.
        waited: Duration,
    },
    /// The peer answered the version handshake with an error.
    #[error("{address} refused the version handshake: {code}")]
    Handshake {
        /// The broker.
        address: Address,
        /// Its answer.
        code: ErrorCode,
    },
    /// The peer closed the connection.
    #[error("{address} closed the connection")]
    Closed {
        /// The broker.
        address: Address,
    },
    /// Reading or writing failed.
    #[error("connection to {address} failed: {source}")]
    Io {
        /// The broker.
        address: Address,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The peer sent bytes that are no answer of Kafka's protocol.
    #[error("{address} sent an invalid answer: {source}")]
    InvalidFrame {
        /// The broker.
        address: Address,
        /// What is wrong with them.
        source: FrameError,
    },
    /// The peer answered another request than the oldest open one, or none at all.
    #[error("{address} answered request {received}, expected {expected:?}")]
    OutOfTurn {
        /// The broker.
        address: Address,
        /// The correlation id in the answer.
        received: i32,
        /// The correlation id of the oldest open request.
        expected: Option<i32>,
    },
    /// So many requests wait for the broker that no more are taken.
    #[error("too many requests wait for {address}")]
    Busy {
        /// The broker.
        address: Address,
    },
    /// Nobody used the connection for so long that the client closed it.
    #[error("connection to {address} closed after {idle:?} without a request")]
    Idle {
        /// The broker.
        address: Address,
        /// `connections.max.idle.ms`.
        idle: Duration,
    },
    /// A request was not answered in time; the connection was given up because its answer could still come.
    #[error("{address} did not answer within {waited:?}")]
    RequestTimeout {
        /// The broker.
        address: Address,
        /// The request's time-out.
        waited: Duration,
    },
}

impl ConnectionError {
    /// Whether a new connection may work where this one did not.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Handshake { code, .. } => code.is_retriable(),
            _ => true,
        }
    }

    /// A word for it, for the labels of metrics.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Resolve { .. } => "resolve",
            Self::Connect { .. } => "connect",
            Self::SetupTimeout { .. } => "setup_timeout",
            Self::Handshake { .. } => "handshake",
            Self::Closed { .. } => "closed_by_broker",
            Self::Io { .. } => "io",
            Self::InvalidFrame { .. } | Self::OutOfTurn { .. } => "protocol",
            Self::Busy { .. } => "busy",
            Self::Idle { .. } => "idle",
            Self::RequestTimeout { .. } => "request_timeout",
        }
    }
}

/// Why a request has no answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No byte of the request left the client.
    #[error("request not sent: {0}")]
    NotSent(#[source] ConnectionError),
    /// The request was sent, at least in part, and no answer came: it may have taken effect.
    #[error("request unanswered: {0}")]
    Unanswered(#[source] ConnectionError),
    /// The broker serves no version of the API that this client speaks.
    #[error(transparent)]
    Unsupported(#[from] UnsupportedApi),
    /// The request cannot be written in the version that the broker serves.
    #[error("cannot encode the request: {0}")]
    Encode(#[source] FrameError),
    /// The answer is not what its version says. The request took effect, or was refused; nobody can tell.
    #[error("cannot decode the answer of {address}: {source}")]
    Decode {
        /// The broker.
        address: Address,
        /// What is wrong with the answer.
        source: FrameError,
    },
    /// The cluster has no broker of this number (any more).
    #[error("broker {broker_id} is not part of the cluster")]
    UnknownBroker {
        /// The number.
        broker_id: i32,
    },
    /// The cluster has no controller at the moment.
    #[error("the cluster has no controller at the moment")]
    NoController,
    /// The cluster would not say who coordinates a group or a transaction.
    #[error("no coordinator for {key:?}: {code}")]
    NoCoordinator {
        /// The group or the transactional id.
        key: String,
        /// The broker's answer.
        code: ErrorCode,
    },
    /// The broker answered a request of the client's own, such as Metadata, with an error.
    #[error("the broker answered {code}")]
    Refused {
        /// The answer.
        code: ErrorCode,
    },
    /// Time ran out before the request could be sent to anybody.
    #[error("nobody could be asked within {waited:?}{}", last.as_ref().map(|e| format!(": {e}")).unwrap_or_default())]
    Timeout {
        /// How long it was tried.
        waited: Duration,
        /// What went wrong last.
        #[source]
        last: Option<Box<RequestError>>,
    },
    /// The client was closed.
    #[error("the client is closed")]
    ClientClosed,
}

impl RequestError {
    /// Whether the same request may succeed later without the caller changing anything.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::NotSent(cause) | Self::Unanswered(cause) => cause.is_retriable(),
            Self::NoCoordinator { code, .. } | Self::Refused { code } => code.is_retriable(),
            Self::UnknownBroker { .. } | Self::NoController | Self::Timeout { .. } => true,
            Self::Unsupported(_) | Self::Encode(_) | Self::Decode { .. } | Self::ClientClosed => false,
        }
    }

    /// Whether the request may have taken effect although there is no answer.
    pub fn possibly_written(&self) -> bool {
        matches!(self, Self::Unanswered(_) | Self::Decode { .. })
    }
}
