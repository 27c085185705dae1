//! The state of a producer at a glance, for logs and bug reports.

use std::time::Duration;

use crate::TopicPartition;

/// Where the records of a producer are; see [`Producer::debug_snapshot`](super::Producer::debug_snapshot).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ProducerSnapshot {
    /// `buffer.memory` in bytes.
    pub buffer_total_bytes: usize,
    /// What of it is free.
    pub buffer_available_bytes: usize,
    /// Senders that wait for memory.
    pub waiting_senders: usize,
    /// Producer id and epoch, once the cluster gave them.
    pub identity: Option<(i64, i16)>,
    /// Batches that still take records.
    pub open_batches: Vec<OpenBatchSnapshot>,
    /// Partitions with batches closed or in flight.
    pub partitions: Vec<PartitionSnapshot>,
    /// Brokers that were needed so far.
    pub brokers: Vec<BrokerSnapshot>,
}

/// A batch that still takes records.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OpenBatchSnapshot {
    /// Its partition.
    pub partition: TopicPartition,
    /// How many records it has.
    pub records: i32,
    /// Its size in bytes, before compression.
    pub size_bytes: usize,
    /// How long ago it was opened.
    pub age: Duration,
}

/// A partition's batches.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PartitionSnapshot {
    /// The partition.
    pub partition: TopicPartition,
    /// Who leads it, if that is known.
    pub leader: Option<i32>,
    /// Closed batches that wait to be sent, for the first time or again.
    pub waiting_batches: usize,
    /// Batches whose answer is awaited.
    pub in_flight_batches: usize,
    /// The number that the next new batch gets, if the partition has any.
    pub next_sequence: Option<i32>,
    /// How long ago the oldest batch was opened.
    pub oldest_batch: Option<Duration>,
}

/// A broker as the producer sees it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BrokerSnapshot {
    /// Its number.
    pub id: i32,
    /// Whether there is a connection.
    pub is_connected: bool,
    /// Requests whose answer is awaited.
    pub requests_in_flight: usize,
    /// How long nothing will be sent to it: throttled, or after a failed connection.
    pub muted_for: Option<Duration>,
}
