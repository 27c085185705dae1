//! Which time a record has.

use std::fmt;
use std::sync::Arc;

use kafka_client::wire::record_batch::Headers;

/// A record as a [`TimestampExtractor::Custom`] sees it.
#[derive(Debug)]
#[non_exhaustive]
pub struct ExtractedFrom<'a, K, V> {
    /// The key.
    pub key: &'a K,
    /// The value.
    pub value: &'a V,
    /// The timestamp it was written with, in milliseconds since 1970; -1 for none.
    pub timestamp: i64,
    /// The headers.
    pub headers: &'a Headers,
    /// The topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The largest time of the partition's records so far, -1 before the first.
    pub partition_time: i64,
}

/// A function that says what time a record has.
pub type Extract<K, V> = Arc<dyn Fn(&ExtractedFrom<'_, K, V>) -> i64 + Send + Sync>;

/// Which time the records of a source have (`TimestampExtractor`). Records are taken in this order from a task's
/// partitions, and windows and joins go by it.
#[non_exhaustive]
pub enum TimestampExtractor<K, V> {
    /// The record's own; an invalid one (negative) stops the application. The default, as Java's
    /// `FailOnInvalidTimestamp`.
    FailOnInvalidTimestamp,
    /// The record's own; one with an invalid one is left out (`LogAndSkipOnInvalidTimestamp`).
    LogAndSkipOnInvalidTimestamp,
    /// The record's own, or the largest of the partition so far if it is invalid; the application stops if there is
    /// none (`UsePartitionTimeOnInvalidTimestamp`).
    UsePartitionTimeOnInvalidTimestamp,
    /// The time at which the record is processed (`WallclockTimestampExtractor`).
    WallclockTimestamp,
    /// What this function says. A record for which it is negative is left out.
    Custom(Extract<K, V>),
}

impl<K, V> TimestampExtractor<K, V> {
    /// What a function says.
    pub fn custom(extract: impl Fn(&ExtractedFrom<'_, K, V>) -> i64 + Send + Sync + 'static) -> Self {
        Self::Custom(Arc::new(extract))
    }
}

impl<K: 'static, V: 'static> TimestampExtractor<K, V> {
    /// The same where a value can be missing; such a record keeps its own time.
    pub(crate) fn nullable(self) -> TimestampExtractor<K, Option<V>> {
        match self {
            Self::FailOnInvalidTimestamp => TimestampExtractor::FailOnInvalidTimestamp,
            Self::LogAndSkipOnInvalidTimestamp => TimestampExtractor::LogAndSkipOnInvalidTimestamp,
            Self::UsePartitionTimeOnInvalidTimestamp => {
                TimestampExtractor::UsePartitionTimeOnInvalidTimestamp
            }
            Self::WallclockTimestamp => TimestampExtractor::WallclockTimestamp,
            Self::Custom(extract) => {
                TimestampExtractor::custom(move |from: &ExtractedFrom<'_, K, Option<V>>| {
                    let ExtractedFrom {
                        key,
                        value,
                        timestamp,
                        headers,
                        topic,
                        partition,
                        offset,
                        partition_time,
                    } = *from;
                    match value {
                        Some(value) => extract(&ExtractedFrom {
                            key,
                            value,
                            timestamp,
                            headers,
                            topic,
                            partition,
                            offset,
                            partition_time,
                        }),
                        None => timestamp,
                    }
                })
            }
        }
    }
}

impl<K, V> Clone for TimestampExtractor<K, V> {
    fn clone(&self) -> Self {
        match self {
            Self::FailOnInvalidTimestamp => Self::FailOnInvalidTimestamp,
            Self::LogAndSkipOnInvalidTimestamp => Self::LogAndSkipOnInvalidTimestamp,
            Self::UsePartitionTimeOnInvalidTimestamp => Self::UsePartitionTimeOnInvalidTimestamp,
            Self::WallclockTimestamp => Self::WallclockTimestamp,
            Self::Custom(extract) => Self::Custom(Arc::clone(extract)),
        }
    }
}

impl<K, V> fmt::Debug for TimestampExtractor<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FailOnInvalidTimestamp => "FailOnInvalidTimestamp",
            Self::LogAndSkipOnInvalidTimestamp => "LogAndSkipOnInvalidTimestamp",
            Self::UsePartitionTimeOnInvalidTimestamp => "UsePartitionTimeOnInvalidTimestamp",
            Self::WallclockTimestamp => "WallclockTimestamp",
            Self::Custom(_) => "Custom",
        })
    }
}
