//! Which partition a record goes to.
//!
//! | [`Partitioning`] | with a key | null key | the same as |
//! |---|---|---|---|
//! | `Murmur2Random` (default) | murmur2 | sticky | Java's default; librdkafka's `murmur2_random` |
//! | `Murmur2` | murmur2 | murmur2 of nothing | librdkafka's `murmur2` |
//! | `ConsistentRandom` | crc32; an empty key as no key | sticky | librdkafka's default, `consistent_random` |
//! | `Consistent` | crc32 | partition 0 | librdkafka's `consistent` |
//! | `Fnv1aRandom`, `Fnv1a` | FNV-1a | sticky, FNV-1a of nothing | librdkafka's and Sarama's |
//! | `RoundRobin` | next partition | next partition | Java's `RoundRobinPartitioner` |
//! | `Sticky` | sticky | sticky | `partitioner.ignore.keys=true` |
//! | `Custom` | your own [`Partitioner`] | | |
//!
//! *Sticky* is the uniform sticky partitioner of KIP-794: a partition is kept until `batch.size` bytes went there, then
//! another one is drawn, the likelier the shorter its queue is (`partitioner.adaptive.partitioning.enable`).

mod hashes;
mod sticky;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use kafka_wire::murmur2::partition_for_key;

pub(super) use self::sticky::Sticky;

use self::hashes::{crc32, fnv1a};
use super::accumulator::PartitionBuffer;
use super::record::{Data, Record};

/// Chooses a partition for each record that names none.
///
/// It is called for every record, by whoever sends it: keep it short.
pub trait Partitioner: Send + Sync + fmt::Debug {
    /// The partition, or `None` for the sticky one. A number that the topic does not have fails the record.
    fn partition(&self, record: &Record<'_>, topic: &TopicView<'_>) -> Option<i32>;
}

/// How partitions are chosen; see the [module](self).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Partitioning {
    /// murmur2 of the key, as Java's producer and librdkafka's `murmur2_random`; sticky without a key.
    #[default]
    Murmur2Random,
    /// murmur2 of the key, of nothing without one.
    Murmur2,
    /// crc32 of the key as librdkafka's default does; sticky without a key or with an empty one.
    ConsistentRandom,
    /// crc32 of the key, 0 without one.
    Consistent,
    /// FNV-1a of the key as Sarama does; sticky without a key.
    Fnv1aRandom,
    /// FNV-1a of the key, of nothing without one.
    Fnv1a,
    /// One after the other, whatever the key.
    RoundRobin,
    /// Sticky whatever the key (`partitioner.ignore.keys`).
    Sticky,
    /// The application's own.
    Custom(Arc<dyn Partitioner>),
}

impl Partitioning {
    /// The application's own partitioner.
    pub fn custom(partitioner: impl Partitioner + 'static) -> Self {
        Self::Custom(Arc::new(partitioner))
    }
}

/// librdkafka's names (`partitioner`), and Java's class name of its round robin.
impl FromStr for Partitioning {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Ok(match name {
            "murmur2_random" => Self::Murmur2Random,
            "murmur2" => Self::Murmur2,
            "consistent_random" => Self::ConsistentRandom,
            "consistent" => Self::Consistent,
            "fnv1a_random" => Self::Fnv1aRandom,
            "fnv1a" => Self::Fnv1a,
            "random" => Self::Sticky,
            "org.apache.kafka.clients.producer.RoundRobinPartitioner" => Self::RoundRobin,
            _ => return Err(()),
        })
    }
}

/// What a [`Partitioner`] sees of the topic.
#[derive(Clone, Copy)]
pub struct TopicView<'a> {
    name: &'a str,
    partitions: &'a [Arc<PartitionBuffer>],
}

impl<'a> TopicView<'a> {
    pub(super) fn new(name: &'a str, partitions: &'a [Arc<PartitionBuffer>]) -> Self {
        Self { name, partitions }
    }

    /// The topic's name.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// How many partitions it has; never 0.
    pub fn partition_count(&self) -> i32 {
        i32::try_from(self.partitions.len()).unwrap_or(i32::MAX)
    }

    /// Whether the partition exists, has a leader, and its broker takes batches
    /// (`partitioner.availability.timeout.ms`).
    pub fn is_available(&self, partition: i32) -> bool {
        self.at(partition).is_some_and(|buffer| buffer.is_available())
    }

    /// How many batches of the partition are closed and wait to be sent.
    pub fn queued_batches(&self, partition: i32) -> u32 {
        self.at(partition).map_or(0, |buffer| buffer.queued())
    }

    fn at(&self, partition: i32) -> Option<&'a Arc<PartitionBuffer>> {
        self.partitions.get(usize::try_from(partition).ok()?)
    }

    fn remainder(&self, hash: u32) -> usize {
        hash as usize % self.partitions.len().max(1)
    }
}

impl fmt::Debug for TopicView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicView")
            .field("name", &self.name)
            .field("partitions", &self.partitions.len())
            .finish()
    }
}

/// Whether sticky choices follow the queues' lengths.
#[derive(Debug, Clone)]
pub(super) struct PartitioningOptions {
    pub(super) kind: Partitioning,
    pub(super) adaptive: bool,
}

impl PartitioningOptions {
    /// The place in `topic` of a record that names no partition.
    #[inline]
    pub(super) fn place(
        &self,
        record: &Record<'_>,
        key: Option<&[u8]>,
        topic: &TopicView<'_>,
        sticky: &Sticky,
    ) -> usize {
        match (&self.kind, key) {
            (Partitioning::Murmur2Random, Some(key)) => {
                partition_for_key(key, topic.partition_count()) as usize
            }
            (Partitioning::Murmur2Random, None) => self.stick(topic, sticky),
            _ => self.place_otherwise(record, topic, sticky),
        }
    }

    fn place_otherwise(&self, record: &Record<'_>, topic: &TopicView<'_>, sticky: &Sticky) -> usize {
        let key = record.key.as_ref().map(Data::as_bytes);
        match (&self.kind, key) {
            (Partitioning::Murmur2Random | Partitioning::Murmur2, Some(key)) => {
                partition_for_key(key, topic.partition_count()) as usize
            }
            (Partitioning::Murmur2, None) => partition_for_key(&[], topic.partition_count()) as usize,
            (Partitioning::ConsistentRandom, Some(key)) if !key.is_empty() => topic.remainder(crc32(key)),
            (Partitioning::Consistent, key) => topic.remainder(crc32(key.unwrap_or_default())),
            (Partitioning::Fnv1aRandom, Some(key)) => topic.remainder(fnv1a(key)),
            (Partitioning::Fnv1a, key) => topic.remainder(fnv1a(key.unwrap_or_default())),
            (Partitioning::RoundRobin, _) => sticky.next_round(topic.partitions.len(), |at| {
                topic.partitions.get(at).is_some_and(|buffer| buffer.is_available())
            }),
            (Partitioning::Custom(partitioner), _) => match partitioner.partition(record, topic) {
                Some(partition) => usize::try_from(partition).unwrap_or(usize::MAX),
                None => self.stick(topic, sticky),
            },
            (
                Partitioning::Murmur2Random
                | Partitioning::ConsistentRandom
                | Partitioning::Fnv1aRandom
                | Partitioning::Sticky,
                _,
            ) => self.stick(topic, sticky),
        }
    }

    #[inline]
    fn stick(&self, topic: &TopicView<'_>, sticky: &Sticky) -> usize {
        sticky.current(topic.partitions.len(), |at| {
            let buffer = topic.partitions.get(at).filter(|buffer| buffer.is_available())?;
            Some(if self.adaptive { buffer.queued() } else { 0 })
        })
    }
}
