use std::sync::Arc;

use bytes::Bytes;
use kafka_client::wire::record_batch::Headers;

use super::{Context, NodeName, NodeResult, Out, Record};
use crate::error::{Part, StreamsError};
use crate::serde::{SerdeContext, SharedSerde};

/// A record as it was fetched: slices of its batch.
#[derive(Debug, Clone)]
pub(crate) struct RawRecord {
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Headers,
}

/// Where a sub-topology begins: bytes become types.
pub(crate) trait SourceNode: Send {
    /// An error that is [`StreamsError::Deserialize`] came before anything was done with the record.
    fn process(&mut self, raw: &RawRecord, cx: &mut Context<'_>) -> NodeResult;
}

pub(crate) struct Source<K, V> {
    pub(crate) name: NodeName,
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) out: Out<K, V>,
}

impl<K: Send + 'static, V: Send + 'static> SourceNode for Source<K, V> {
    fn process(&mut self, raw: &RawRecord, cx: &mut Context<'_>) -> NodeResult {
        let failed = |part, source| {
            Box::new(StreamsError::Deserialize {
                task: cx.task,
                node: Arc::clone(&self.name),
                position: cx.position(),
                part,
                source,
            })
        };
        let key = self
            .key
            .deserialize(SerdeContext::key(&cx.topic), raw.key.as_ref())
            .map_err(|source| failed(Part::Key, source))?;
        let value = self
            .value
            .deserialize(SerdeContext::value(&cx.topic), raw.value.as_ref())
            .map_err(|source| failed(Part::Value, source))?;
        let record = Record { key, value, timestamp: raw.timestamp, headers: raw.headers.clone() };
        self.out.forward(record, cx)
    }
}
