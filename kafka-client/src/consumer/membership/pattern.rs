//! Which topics match a pattern: classic members find that out themselves.

use std::sync::Arc;
use std::time::Duration;

use regex::Regex;
use tokio::time::Instant;

use crate::cluster::Cluster;

/// A pattern, and when to look again.
#[derive(Debug)]
pub(super) struct PatternWatch {
    pattern: Regex,
    exclude_internal: bool,
    interval: Duration,
    /// `None` while the topics are asked for.
    due: Option<Instant>,
}

impl PatternWatch {
    /// Java looks with each refresh of its metadata, so at least every `interval`.
    pub(super) fn new(pattern: &str, exclude_internal: bool, interval: Duration) -> Result<Self, String> {
        // The whole name has to match, as for Java's clients and for the coordinator of KIP-848.
        let pattern = Regex::new(&format!("^(?:{pattern})$")).map_err(|error| error.to_string())?;
        Ok(Self { pattern, exclude_internal, interval, due: Some(Instant::now()) })
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.due
    }

    /// Whether to ask for the cluster's topics now; then call [`PatternWatch::matching`].
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        self.due.take_if(|at| *at <= now).is_some()
    }

    pub(super) fn matching(&mut self, cluster: &Cluster, now: Instant) -> Vec<Arc<str>> {
        self.due = Some(now + self.interval);
        let mut topics: Vec<Arc<str>> = cluster
            .topics()
            .filter(|topic| {
                !(self.exclude_internal && topic.is_internal) && self.pattern.is_match(&topic.name)
            })
            .map(|topic| Arc::clone(&topic.name))
            .collect();
        topics.sort_unstable();
        topics
    }
}
