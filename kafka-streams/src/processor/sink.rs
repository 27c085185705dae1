use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{Context, Node, NodeName, NodeResult, Outgoing, Record};
use crate::error::{Part, StreamsError};
use crate::serde::{Encoded, SerdeContext, SharedSerde};

/// Which partitions a record is written to (KIP-837).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Partitions {
    /// The one that Java's default partitioner chooses: by murmur2 of the key's bytes, or any for a record without a key.
    Default,
    /// This one.
    One(i32),
    /// Each of these; none, and the record is dropped.
    Many(Vec<i32>),
    /// None: the record is dropped.
    Drop,
}

/// Chooses the partitions of a record by topic, key, value and the number of partitions (`StreamPartitioner`).
pub type StreamPartitioner<K, V> = Arc<dyn Fn(&str, &K, &V, i32) -> Partitions + Send + Sync>;

/// Writes the name of a record's topic (`TopicNameExtractor`).
pub(crate) type TopicChooser<K, V> = Arc<dyn Fn(&Record<K, V>, &mut String) + Send + Sync>;

/// Where a sink's records go.
pub(crate) enum Destination<K, V> {
    Topic(Arc<str>),
    ByRecord { choose: TopicChooser<K, V>, name: String, known: FxHashMap<String, Arc<str>> },
}

impl<K, V> Destination<K, V> {
    pub(crate) fn by_record(choose: TopicChooser<K, V>) -> Self {
        Self::ByRecord { choose, name: String::new(), known: FxHashMap::default() }
    }

    /// A topic is the same `Arc` each time: collectors know topics by it.
    fn of(&mut self, record: &Record<K, V>) -> Arc<str> {
        match self {
            Self::Topic(topic) => Arc::clone(topic),
            Self::ByRecord { choose, name, known } => {
                name.clear();
                choose(record, name);
                match known.get(name.as_str()) {
                    Some(topic) => Arc::clone(topic),
                    None => {
                        let topic: Arc<str> = Arc::from(name.as_str());
                        known.insert(name.clone(), Arc::clone(&topic));
                        topic
                    }
                }
            }
        }
    }
}

/// Where a sub-topology ends: types become bytes, in two buffers that are used again for each record.
pub(crate) struct Sink<K, V> {
    pub(crate) name: NodeName,
    pub(crate) destination: Destination<K, V>,
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) partitioner: Option<StreamPartitioner<K, V>>,
    /// Before a repartition topic: a record without a key belongs to no group.
    pub(crate) drop_null_keys: bool,
    pub(crate) key_bytes: Vec<u8>,
    pub(crate) value_bytes: Vec<u8>,
}

impl<K: Send + 'static, V: Send + 'static> Node<K, V> for Sink<K, V> {
    fn process(&mut self, record: Record<K, V>, cx: &mut Context<'_>) -> NodeResult {
        self.key_bytes.clear();
        self.value_bytes.clear();
        let topic = self.destination.of(&record);
        let key = self
            .key
            .serialize(SerdeContext::key(&topic), &record.key, &mut self.key_bytes)
            .map_err(|source| cx.serialize_failed(&self.name, &topic, Part::Key, source))?;
        if key == Encoded::Null && self.drop_null_keys {
            return Ok(());
        }
        let value = self
            .value
            .serialize(SerdeContext::value(&topic), &record.value, &mut self.value_bytes)
            .map_err(|source| cx.serialize_failed(&self.name, &topic, Part::Value, source))?;
        let outgoing = Outgoing {
            topic: &topic,
            partition: None,
            partition_by: self.key.partition_bytes(&self.key_bytes),
            key: (key == Encoded::Bytes).then_some(self.key_bytes.as_slice()),
            value: (value == Encoded::Bytes).then_some(self.value_bytes.as_slice()),
            timestamp: record.timestamp,
            headers: &record.headers,
        };
        match &self.partitioner {
            None => cx.send(outgoing),
            Some(partitioner) => send_partitioned(partitioner, &record, outgoing, cx),
        }
    }
}

fn send_partitioned<K, V>(
    partitioner: &StreamPartitioner<K, V>,
    record: &Record<K, V>,
    outgoing: Outgoing<'_>,
    cx: &mut Context<'_>,
) -> NodeResult {
    let (task, topic) = (cx.task, outgoing.topic);
    let failed = |reason| Box::new(StreamsError::Send { task, topic: Arc::clone(topic), reason });
    let count = cx.collector.partitions(topic).map_err(failed)?;
    let chosen = match partitioner(topic, &record.key, &record.value, count) {
        Partitions::Default => return cx.send(outgoing),
        Partitions::One(partition) => vec![partition],
        Partitions::Many(partitions) => partitions,
        Partitions::Drop => Vec::new(),
    };
    if let Some(partition) = chosen.iter().find(|partition| !(0..count).contains(*partition)) {
        return Err(failed(format!("the partitioner chose partition {partition} of {count}")));
    }
    if chosen.is_empty() {
        // As Java counts it.
        cx.dropped += 1;
    }
    chosen.into_iter().try_for_each(|partition| cx.send(Outgoing { partition: Some(partition), ..outgoing }))
}
