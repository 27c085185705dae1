use std::sync::Arc;

use kafka_client::TopicPartition;
use kafka_client::wire::record_batch::Headers;

use super::Nodes;
use crate::error::{Part, RecordPosition, StreamsError, TaskId};
use crate::serde::SerdeError;
use crate::state::Stores;

/// A record on its way to the cluster, borrowed from its sender's buffers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    pub(crate) topic: &'a Arc<str>,
    /// `None`: by murmur2 of the key, as Java's default partitioner.
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<&'a [u8]>,
    /// The part of the key that chooses the partition: without its window.
    pub(crate) partition_by: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) timestamp: i64,
    pub(crate) headers: &'a Headers,
}

/// Takes what tasks send: the producer at run time, a list in tests.
pub(crate) trait RecordCollector {
    fn send(&mut self, record: Outgoing<'_>) -> Result<(), String>;

    /// How many partitions a topic has.
    fn partitions(&mut self, topic: &Arc<str>) -> Result<i32, String>;
}

/// What a node sees of its task while a record is processed.
pub(crate) struct Context<'a> {
    pub(crate) task: TaskId,
    pub(crate) topic: Arc<str>,
    /// -1 outside of records.
    pub(crate) offset: i64,
    /// The largest timestamp of the task's records so far, -1 before the first.
    pub(crate) stream_time: i64,
    /// Milliseconds since 1970, as of this turn.
    pub(crate) wall_time: i64,
    /// Records that an operator left out: too late, or without a key.
    pub(crate) dropped: u64,
    pub(crate) stores: &'a mut Stores,
    pub(crate) nodes: &'a mut Nodes,
    pub(crate) collector: &'a mut dyn RecordCollector,
}

impl Context<'_> {
    pub(crate) fn position(&self) -> RecordPosition {
        RecordPosition {
            partition: TopicPartition::new(Arc::clone(&self.topic), self.task.partition),
            offset: self.offset,
        }
    }

    pub(crate) fn send(&mut self, record: Outgoing<'_>) -> Result<(), Box<StreamsError>> {
        let task = self.task;
        self.collector
            .send(record)
            .map_err(|reason| Box::new(StreamsError::Send { task, topic: Arc::clone(record.topic), reason }))
    }

    #[cold]
    pub(crate) fn serialize_failed(
        &self,
        node: &Arc<str>,
        topic: &Arc<str>,
        part: Part,
        source: SerdeError,
    ) -> Box<StreamsError> {
        Box::new(StreamsError::Serialize {
            task: self.task,
            node: Arc::clone(node),
            topic: Arc::clone(topic),
            position: self.position(),
            part,
            source,
        })
    }
}
