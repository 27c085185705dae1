use std::sync::Arc;

use super::{Context, Node, NodeName, NodeResult, Outgoing, Record};
use crate::error::Part;
use crate::serde::{Encoded, SerdeContext, SharedSerde};

/// Where a sub-topology ends: types become bytes, in two buffers that are used again for each record.
pub(crate) struct Sink<K, V> {
    pub(crate) name: NodeName,
    pub(crate) topic: Arc<str>,
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    /// Before a repartition topic: a record without a key belongs to no group.
    pub(crate) drop_null_keys: bool,
    pub(crate) key_bytes: Vec<u8>,
    pub(crate) value_bytes: Vec<u8>,
}

impl<K: Send + 'static, V: Send + 'static> Node<K, V> for Sink<K, V> {
    fn process(&mut self, record: Record<K, V>, cx: &mut Context<'_>) -> NodeResult {
        self.key_bytes.clear();
        self.value_bytes.clear();
        let key = self
            .key
            .serialize(SerdeContext::key(&self.topic), &record.key, &mut self.key_bytes)
            .map_err(|source| cx.serialize_failed(&self.name, &self.topic, Part::Key, source))?;
        if key == Encoded::Null && self.drop_null_keys {
            return Ok(());
        }
        let value = self
            .value
            .serialize(SerdeContext::value(&self.topic), &record.value, &mut self.value_bytes)
            .map_err(|source| cx.serialize_failed(&self.name, &self.topic, Part::Value, source))?;
        cx.send(Outgoing {
            topic: &self.topic,
            partition: None,
            partition_by: self.key.partition_bytes(&self.key_bytes),
            key: (key == Encoded::Bytes).then_some(self.key_bytes.as_slice()),
            value: (value == Encoded::Bytes).then_some(self.value_bytes.as_slice()),
            timestamp: record.timestamp,
            headers: &record.headers,
        })
    }
}
