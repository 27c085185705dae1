use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use kafka_wire::StrBytes;
use kafka_wire::messages::TopicName;

/// A topic's name and a partition's number.
///
/// Cloning one costs a reference count: the name is shared.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// Names a partition of a topic.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }

    /// The topic's name.
    pub fn topic(&self) -> &str {
        &self.topic
    }
}

/// `topic-partition`, as Kafka's own logs write it.
impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

impl fmt::Debug for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<T: Into<Arc<str>>> From<(T, i32)> for TopicPartition {
    fn from((topic, partition): (T, i32)) -> Self {
        Self::new(topic, partition)
    }
}

/// Text for a request.
pub(crate) fn string(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// A topic's name for a request.
pub(crate) fn topic_name(topic: &str) -> TopicName {
    TopicName(string(topic))
}

/// Partitions as most requests have them: topic by topic.
pub(crate) fn by_topic<V>(
    partitions: impl IntoIterator<Item = (TopicPartition, V)>,
) -> BTreeMap<Arc<str>, Vec<(i32, V)>> {
    let mut topics: BTreeMap<Arc<str>, Vec<(i32, V)>> = BTreeMap::new();
    for (partition, value) in partitions {
        topics.entry(partition.topic).or_default().push((partition.partition, value));
    }
    topics
}
