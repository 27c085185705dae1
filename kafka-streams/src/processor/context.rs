use std::sync::Arc;

use kafka_client::TopicPartition;
use kafka_client::wire::record_batch::Headers;

use crate::error::{Part, RecordPosition, StreamsError, TaskId};
use crate::serde::SerdeError;
use crate::state::StoreError;

/// A record on its way to the cluster, borrowed from its sender's buffers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    pub(crate) topic: &'a Arc<str>,
    /// `None`: by murmur2 of the key, as Java's default partitioner.
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) timestamp: i64,
    pub(crate) headers: &'a Headers,
}

/// Takes what tasks send: the producer at run time, a list in tests.
pub(crate) trait RecordCollector {
    fn send(&mut self, record: Outgoing<'_>) -> Result<(), String>;
}

/// What a node sees of its task while a record is processed.
pub(crate) struct Context<'a> {
    pub(crate) task: TaskId,
    pub(crate) topic: Arc<str>,
    pub(crate) offset: i64,
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

    #[cold]
    pub(crate) fn store_failed(
        &self,
        node: &Arc<str>,
        store: &Arc<str>,
        source: StoreError,
    ) -> Box<StreamsError> {
        Box::new(StreamsError::Store {
            task: self.task,
            node: Arc::clone(node),
            store: Arc::clone(store),
            source,
        })
    }
}
