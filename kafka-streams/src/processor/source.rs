use std::sync::Arc;

use bytes::Bytes;
use kafka_client::TopicPartition;
use kafka_client::wire::record_batch::Headers;

use super::{Context, ExtractedFrom, NodeName, NodeResult, Out, Record, TimestampExtractor};
use crate::error::{Part, RecordPosition, StreamsError, TaskId};
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

/// Where a record is that waits for its turn, and what is known of the time.
pub(crate) struct Waiting<'a> {
    /// The number of the partition among those of the task.
    pub(crate) input: usize,
    pub(crate) task: TaskId,
    pub(crate) topic: &'a Arc<str>,
    pub(crate) partition_time: i64,
    pub(crate) wall_time: i64,
}

/// Where a sub-topology begins: bytes become types.
pub(crate) trait SourceNode: Send {
    /// The time of a record that waits; negative if the record is to be left out.
    fn timestamp(&mut self, raw: &RawRecord, at: &Waiting<'_>) -> Result<i64, Box<StreamsError>>;

    /// Takes the record at hand, which waited at this input.
    fn process(&mut self, input: usize, cx: &mut Context<'_>) -> NodeResult;
}

pub(crate) struct Source<K, V> {
    pub(crate) name: NodeName,
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) timestamps: TimestampExtractor<K, V>,
    /// What was read to see the time, by input.
    pub(crate) decoded: Vec<(usize, K, V)>,
    pub(crate) out: Out<K, V>,
}

impl<K: Send + 'static, V: Send + 'static> Source<K, V> {
    fn decode(&self, raw: &RawRecord, topic: &Arc<str>, task: TaskId) -> Result<(K, V), Box<StreamsError>> {
        let failed = |part, source| {
            let position = position(topic, task, raw.offset);
            Box::new(StreamsError::Deserialize { task, node: Arc::clone(&self.name), position, part, source })
        };
        let key = self.key.deserialize(SerdeContext::key(topic), raw.key.as_ref());
        let key = key.map_err(|source| failed(Part::Key, source))?;
        let value = self.value.deserialize(SerdeContext::value(topic), raw.value.as_ref());
        Ok((key, value.map_err(|source| failed(Part::Value, source))?))
    }

    #[cold]
    fn invalid(&self, raw: &RawRecord, at: &Waiting<'_>) -> Box<StreamsError> {
        let (task, node, timestamp) = (at.task, Arc::clone(&self.name), raw.timestamp);
        let position = position(at.topic, task, raw.offset);
        Box::new(StreamsError::InvalidTimestamp { task, node, position, timestamp })
    }
}

fn position(topic: &Arc<str>, task: TaskId, offset: i64) -> RecordPosition {
    RecordPosition { partition: TopicPartition::new(Arc::clone(topic), task.partition), offset }
}

impl<K: Send + 'static, V: Send + 'static> SourceNode for Source<K, V> {
    fn timestamp(&mut self, raw: &RawRecord, at: &Waiting<'_>) -> Result<i64, Box<StreamsError>> {
        match &self.timestamps {
            TimestampExtractor::WallclockTimestamp => Ok(at.wall_time),
            TimestampExtractor::Custom(extract) => {
                let (key, value) = self.decode(raw, at.topic, at.task)?;
                let timestamp = extract(&ExtractedFrom {
                    key: &key,
                    value: &value,
                    timestamp: raw.timestamp,
                    headers: &raw.headers,
                    topic: at.topic,
                    partition: at.task.partition,
                    offset: raw.offset,
                    partition_time: at.partition_time,
                });
                if timestamp >= 0 {
                    self.decoded.push((at.input, key, value));
                }
                Ok(timestamp)
            }
            _ if raw.timestamp >= 0 => Ok(raw.timestamp),
            TimestampExtractor::LogAndSkipOnInvalidTimestamp => {
                tracing::warn!(topic = %at.topic, offset = raw.offset, "record without a timestamp left out");
                Ok(raw.timestamp)
            }
            TimestampExtractor::UsePartitionTimeOnInvalidTimestamp if at.partition_time >= 0 => {
                Ok(at.partition_time)
            }
            _ => Err(self.invalid(raw, at)),
        }
    }

    fn process(&mut self, input: usize, cx: &mut Context<'_>) -> NodeResult {
        let Some(raw) = cx.record.as_ref() else { return Ok(()) };
        let decoded = self.decoded.iter().position(|(of, ..)| *of == input);
        let read = match decoded {
            Some(at) => {
                let (_, key, value) = self.decoded.swap_remove(at);
                Ok((key, value))
            }
            None => self.decode(raw, &cx.topic, cx.task),
        };
        let (timestamp, headers) = (raw.timestamp, raw.headers.clone());
        match read {
            Ok((key, value)) => self.out.forward(Record { key, value, timestamp, headers }, cx),
            Err(error) => cx.settle(error),
        }
    }
}
