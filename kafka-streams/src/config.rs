//! How an application runs.

use std::sync::Arc;
use std::time::Duration;

use crate::handlers::ErrorHandling;
pub use crate::handlers::{DeserializationHandler, ErrorAction, FailedRecord, ProcessingHandler};

/// The configuration of [`crate::KafkaStreams`].
#[derive(Debug, Clone)]
pub struct StreamsConfig {
    pub(crate) application_id: String,
    pub(crate) bootstrap_servers: String,
    pub(crate) commit_interval: Duration,
    pub(crate) replication_factor: i16,
    pub(crate) errors: ErrorHandling,
    pub(crate) linger: Duration,
    pub(crate) max_uncommitted_rows: usize,
}

impl StreamsConfig {
    /// An application by its id (`application.id`: its consumer group, and the prefix of its internal topics) and
    /// the brokers to ask first (`bootstrap.servers`).
    pub fn new(application_id: impl Into<String>, bootstrap_servers: impl Into<String>) -> Self {
        Self {
            application_id: application_id.into(),
            bootstrap_servers: bootstrap_servers.into(),
            commit_interval: Duration::from_secs(30),
            replication_factor: -1,
            errors: ErrorHandling::default(),
            linger: Duration::from_millis(100),
            max_uncommitted_rows: 1_000_000,
        }
    }

    /// How often progress is committed (`commit.interval.ms`). Default 30 s. Cached stores forward at commits.
    pub fn commit_interval(mut self, interval: Duration) -> Self {
        self.commit_interval = interval;
        self
    }

    /// Replicas of internal topics (`replication.factor`). Default -1: the brokers' own default.
    pub fn replication_factor(mut self, replicas: i16) -> Self {
        self.replication_factor = replicas;
        self
    }

    /// What to do with unreadable input (`deserialization.exception.handler`).
    pub fn deserialization_handler(mut self, handler: DeserializationHandler) -> Self {
        self.errors.deserialization = handler;
        self
    }

    /// What to do when the application's code fails with an error (`processing.exception.handler`).
    pub fn processing_handler(mut self, handler: ProcessingHandler) -> Self {
        self.errors.processing = handler;
        self
    }

    /// Where records go that could not be read or processed, whether the application stops or goes on
    /// (`errors.dead.letter.queue.topic.name`). Default: nowhere. [`ProcessingHandler::Custom`] decides for itself.
    pub fn dead_letter_queue(mut self, topic: impl AsRef<str>) -> Self {
        self.errors.dead_letter = Some(Arc::from(topic.as_ref()));
        self
    }

    /// How long results wait for more to share a batch (the producer's `linger.ms`). Default 100 ms, as Java Streams.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Commit early once a task's stores hold this many changed rows in memory. Default 1,000,000.
    pub fn max_uncommitted_rows(mut self, rows: usize) -> Self {
        self.max_uncommitted_rows = rows.max(1);
        self
    }
}
