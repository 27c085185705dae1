//! Connections: one for each broker and class of traffic, opened when first needed.

mod address;
mod connection;
mod connector;
mod dial;
mod dns;
mod error;
pub mod metrics;
mod pool;
#[cfg(test)]
mod tests;

pub use address::{Address, AddressError};
pub use connector::{BoxStream, Connecting, Connector, Endpoint, Naming, Resolving, Stream, TcpConnector};
pub use dns::{AddressFamily, DnsLookup};
pub use error::{ConnectionError, RequestError};
pub use pool::ConnectionSnapshot;

pub(crate) use connection::{Call, Connection, ConnectionConfig};
pub(crate) use dial::DialPolicy;
pub(crate) use metrics::metadata_refreshed;
pub(crate) use pool::{Node, Pool, Readiness};

/// What a connection is for. Classes of traffic do not share one, so that a produce never waits behind a long poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// Produce requests.
    Produce,
    /// Fetch requests, which the broker may hold for `fetch.max.wait`.
    Fetch,
    /// Group and transaction coordination; JoinGroup may be held for a whole rebalance.
    Coordinator,
    /// Everything else: metadata, offsets, administration.
    Control,
}

impl Purpose {
    /// For labels of metrics and spans.
    fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Fetch => "fetch",
            Self::Coordinator => "coordinator",
            Self::Control => "control",
        }
    }
}
