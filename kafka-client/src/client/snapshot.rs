//! The state of a client at a glance, for logs and bug reports.

use std::sync::Arc;
use std::time::Duration;

use crate::net::ConnectionSnapshot;

/// What a client knows and whom it is connected to; see [`Client::debug_snapshot`](super::Client::debug_snapshot).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientSnapshot {
    /// The state of metadata.
    pub metadata: MetadataSnapshot,
    /// Connections that are up or were tried, by broker. Consumers have connections of their own, which are not among
    /// them.
    pub connections: Vec<ConnectionSnapshot>,
}

/// How fresh metadata is, and what it is about.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MetadataSnapshot {
    /// How long ago a broker answered last; `None` before the first answer.
    pub age: Option<Duration>,
    /// How often in a row it could not be refreshed.
    pub failures: u32,
    /// Whether somebody waits for a refresh that has not begun.
    pub is_wanted: bool,
    /// Whether only bootstrap servers are asked, because the brokers were given up (KIP-899, KIP-1102).
    pub is_rebootstrapping: bool,
    /// The topics that are refreshed, by name, and how long ago each was used.
    pub topics_in_use: Vec<(Arc<str>, Duration)>,
}
