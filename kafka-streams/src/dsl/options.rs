use std::sync::Arc;
use std::time::Duration;

use super::external;
use super::windows::millis;
use crate::processor::{
    ExtractedFrom, Partitions, Record, StreamPartitioner, TimestampExtractor, TopicChooser,
};
use crate::serde::{HasSerde, SharedSerde};
use crate::state::ChangelogRecords;
use crate::topology::{StoreKind, StoreSpec, TopicRef};

/// What a source reads. A topic's name, or several, become one by `into()`.
pub struct Consumed<K, V> {
    pub(crate) topics: Vec<TopicRef>,
    pub(crate) name: Option<String>,
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) timestamps: TimestampExtractor<K, V>,
}

impl<K, V> Consumed<K, V> {
    /// Reads these topics with serdes of one's own.
    pub fn with<T: AsRef<str>>(
        topics: impl IntoIterator<Item = T>,
        key: SharedSerde<K>,
        value: SharedSerde<V>,
    ) -> Self {
        let topics = topics.into_iter().map(|topic| external(topic.as_ref())).collect();
        Self { topics, name: None, key, value, timestamps: TimestampExtractor::FailOnInvalidTimestamp }
    }

    /// Names the source node.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Which time the records have. Default: the one they were written with.
    pub fn timestamps(mut self, extractor: TimestampExtractor<K, V>) -> Self {
        self.timestamps = extractor;
        self
    }

    /// The records have the times that this function says; see [`TimestampExtractor::Custom`].
    pub fn timestamps_by(
        self,
        extract: impl Fn(&ExtractedFrom<'_, K, V>) -> i64 + Send + Sync + 'static,
    ) -> Self {
        self.timestamps(TimestampExtractor::custom(extract))
    }

    /// Reads values with this serde.
    pub fn value_serde(mut self, serde: SharedSerde<V>) -> Self {
        self.value = serde;
        self
    }
}

impl<K: HasSerde, V: HasSerde> Consumed<K, V> {
    /// Reads these topics with the types' own serdes.
    pub fn topics<T: AsRef<str>>(topics: impl IntoIterator<Item = T>) -> Self {
        Self::with(topics, K::serde(), V::serde())
    }
}

impl<K: HasSerde, V: HasSerde> From<&str> for Consumed<K, V> {
    fn from(topic: &str) -> Self {
        Self::topics([topic])
    }
}

impl<K: HasSerde, V: HasSerde> From<String> for Consumed<K, V> {
    fn from(topic: String) -> Self {
        Self::topics([topic])
    }
}

impl<K: HasSerde, V: HasSerde, const N: usize> From<[&str; N]> for Consumed<K, V> {
    fn from(topics: [&str; N]) -> Self {
        Self::topics(topics)
    }
}

impl<K: HasSerde, V: HasSerde> From<Vec<String>> for Consumed<K, V> {
    fn from(topics: Vec<String>) -> Self {
        Self::topics(topics)
    }
}

/// Which topic a sink writes to.
pub(crate) enum SinkTarget<K, V> {
    Topic(TopicRef),
    ByRecord(TopicChooser<K, V>),
}

/// Where a stream is written. A topic's name becomes one by `into()`.
pub struct Produced<K, V> {
    pub(crate) target: SinkTarget<K, V>,
    pub(crate) partitioner: Option<StreamPartitioner<K, V>>,
    pub(crate) name: Option<String>,
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
}

impl<K, V> Produced<K, V> {
    /// Writes to this topic with serdes of one's own.
    pub fn with(topic: impl AsRef<str>, key: SharedSerde<K>, value: SharedSerde<V>) -> Self {
        Self {
            target: SinkTarget::Topic(external(topic.as_ref())),
            partitioner: None,
            name: None,
            key,
            value,
        }
    }

    /// Writes each record to the topic that `choose` says (`TopicNameExtractor`), with serdes of one's own. The topics
    /// must be there.
    pub fn by_record_with<T: AsRef<str>>(
        choose: impl Fn(&Record<K, V>) -> T + Send + Sync + 'static,
        key: SharedSerde<K>,
        value: SharedSerde<V>,
    ) -> Self {
        let choose = move |record: &Record<K, V>, topic: &mut String| topic.push_str(choose(record).as_ref());
        Self { target: SinkTarget::ByRecord(Arc::new(choose)), partitioner: None, name: None, key, value }
    }

    /// Chooses each record's partitions by topic, key, value and the number of partitions (`StreamPartitioner`,
    /// KIP-837). Default: by the key, as Java's producer does.
    pub fn partitioner(
        mut self,
        partitioner: impl Fn(&str, &K, &V, i32) -> Partitions + Send + Sync + 'static,
    ) -> Self {
        self.partitioner = Some(Arc::new(partitioner));
        self
    }

    /// Names the sink node.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

impl<K: HasSerde, V: HasSerde> Produced<K, V> {
    /// Writes to this topic with the types' own serdes.
    pub fn to(topic: impl AsRef<str>) -> Self {
        Self::with(topic, K::serde(), V::serde())
    }
}

impl<K: HasSerde, V: HasSerde> Produced<K, V> {
    /// Writes each record to the topic that `choose` says, with the types' own serdes.
    pub fn by_record<T: AsRef<str>>(choose: impl Fn(&Record<K, V>) -> T + Send + Sync + 'static) -> Self {
        Self::by_record_with(choose, K::serde(), V::serde())
    }
}

impl<K: HasSerde, V: HasSerde> From<&str> for Produced<K, V> {
    fn from(topic: &str) -> Self {
        Self::to(topic)
    }
}

impl<K: HasSerde, V: HasSerde> From<String> for Produced<K, V> {
    fn from(topic: String) -> Self {
        Self::to(topic)
    }
}

macro_rules! named_serdes {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        pub struct $type<K, V> {
            pub(crate) name: Option<String>,
            pub(crate) key: SharedSerde<K>,
            pub(crate) value: SharedSerde<V>,
        }

        impl<K, V> $type<K, V> {
            /// With serdes of one's own, without a name.
            pub fn with(key: SharedSerde<K>, value: SharedSerde<V>) -> Self {
                Self { name: None, key, value }
            }

            /// Names it: the repartition topic is then `applicationId-name-repartition`, whatever else the topology
            /// gains or loses.
            pub fn named(mut self, name: impl Into<String>) -> Self {
                self.name = Some(name.into());
                self
            }
        }

        impl<K: HasSerde, V: HasSerde> $type<K, V> {
            /// With a generated name, which changes when the topology does.
            pub fn auto() -> Self {
                Self::with(K::serde(), V::serde())
            }
        }

        impl<K: HasSerde, V: HasSerde> From<&str> for $type<K, V> {
            fn from(name: &str) -> Self {
                Self::auto().named(name)
            }
        }
    };
}

named_serdes!(
    /// How a stream is grouped: a name and the serdes for the repartition topic.
    Grouped
);
/// How a stream is repartitioned: a name, the serdes for the repartition topic, and how it is partitioned.
pub struct Repartitioned<K, V> {
    pub(crate) name: Option<String>,
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) partitions: Option<i32>,
    pub(crate) partitioner: Option<StreamPartitioner<K, V>>,
}

impl<K, V> Repartitioned<K, V> {
    /// With serdes of one's own, without a name.
    pub fn with(key: SharedSerde<K>, value: SharedSerde<V>) -> Self {
        Self { name: None, key, value, partitions: None, partitioner: None }
    }

    /// Names it: the repartition topic is then `applicationId-name-repartition`, whatever else the topology gains or
    /// loses.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// How many partitions the topic has. Default: as many as the largest topic upstream.
    pub fn partitions(mut self, partitions: i32) -> Self {
        self.partitions = Some(partitions.max(1));
        self
    }

    /// As [`Produced::partitioner`].
    pub fn partitioner(
        mut self,
        partitioner: impl Fn(&str, &K, &V, i32) -> Partitions + Send + Sync + 'static,
    ) -> Self {
        self.partitioner = Some(Arc::new(partitioner));
        self
    }
}

impl<K: HasSerde, V: HasSerde> Repartitioned<K, V> {
    /// With a generated name, which changes when the topology does.
    pub fn auto() -> Self {
        Self::with(K::serde(), V::serde())
    }
}

impl<K: HasSerde, V: HasSerde> From<&str> for Repartitioned<K, V> {
    fn from(name: &str) -> Self {
        Self::auto().named(name)
    }
}

/// A key-value state store: what it is called and how it behaves.
pub struct Store<K, V> {
    pub(crate) name: Option<String>,
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) logged: bool,
    pub(crate) records: ChangelogRecords,
    pub(crate) cached: bool,
    pub(crate) retention: Option<Duration>,
    pub(crate) history: Option<Duration>,
}

impl<K, V> Clone for Store<K, V> {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), key: Arc::clone(&self.key), value: Arc::clone(&self.value), ..*self }
    }
}

impl<K, V> Store<K, V> {
    /// A store with serdes of one's own and a generated name.
    pub fn with(key: SharedSerde<K>, value: SharedSerde<V>) -> Self {
        let (logged, records, cached) = (true, ChangelogRecords::EachCommit, false);
        Self { name: None, key, value, logged, records, cached, retention: None, history: None }
    }

    /// What the topology knows of it.
    pub(crate) fn spec(&self, kind: StoreKind) -> StoreSpec {
        let kind = match (kind, self.history) {
            (StoreKind::KeyValue, Some(history)) => StoreKind::Versioned { history_ms: millis(history) },
            (kind, _) => kind,
        };
        StoreSpec {
            name: self.name.clone().unwrap_or_default(),
            kind,
            logged: self.logged,
            records: self.records,
            changelog: None,
        }
    }

    /// Names it: its changelog is `applicationId-name-changelog`.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Forwards a row's latest state once for each commit instead of every update, as Java's record cache.
    pub fn cached(mut self) -> Self {
        self.cached = true;
        self
    }

    /// Whether the rows are kept even if nobody needs them.
    pub(crate) fn is_kept(&self) -> bool {
        self.name.is_some() || self.history.is_some()
    }

    pub(crate) fn is_cached(&self) -> bool {
        self.cached && self.history.is_none()
    }

    /// Keeps what rows were so long ago, by the time of the records (KIP-889): a stream that is joined with the table
    /// meets the rows as they were at its records' times, and updates that come late change the past only, or nothing
    /// if they are older than that. Never [cached](Store::cached); each update is in the changelog. The history is
    /// in memory. Stores of windows ignore it.
    pub fn history(mut self, history: Duration) -> Self {
        self.history = Some(history);
        self
    }

    /// When the changelog gets a record. Default: [`ChangelogRecords::EachCommit`].
    pub fn changelog_records(mut self, records: ChangelogRecords) -> Self {
        self.records = records;
        self
    }

    /// How long a window or session is kept, at least its size and grace, which is the default too
    /// (`Materialized.withRetention`). Stores without windows ignore it.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = Some(retention);
        self
    }

    /// Keeps no changelog: the state is lost with the task.
    pub fn without_changelog(mut self) -> Self {
        self.logged = false;
        self
    }
}

impl<K: HasSerde, V: HasSerde> Store<K, V> {
    /// A key-value store of this name.
    pub fn kv(name: impl Into<String>) -> Self {
        Self::auto().named(name)
    }

    /// A store of this name for the rows of windows; the same as [`Store::kv`], to read well.
    pub fn window(name: impl Into<String>) -> Self {
        Self::kv(name)
    }

    /// A store of this name for the rows of sessions; the same as [`Store::kv`], to read well.
    pub fn session(name: impl Into<String>) -> Self {
        Self::kv(name)
    }

    /// A store of this name that knows what rows were so long ago; see [`Store::history`].
    pub fn versioned(name: impl Into<String>, history: Duration) -> Self {
        Self::kv(name).history(history)
    }

    /// A key-value store with a generated name, which changes when the topology does.
    pub fn auto() -> Self {
        Self::with(K::serde(), V::serde())
    }
}
