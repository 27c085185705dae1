use std::sync::Arc;

use kafka_client::TopicPartition;
use kafka_client::wire::record_batch::Headers;

use super::{NodeResult, Nodes, ProcessorError, RawRecord, Schedules};
use crate::error::{Part, RecordPosition, StreamsError, TaskId};
use crate::handlers::ErrorHandling;
use crate::serde::SerdeError;
use crate::state::{RecordContext, Stores};

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
    /// The input record at hand, `None` outside of records.
    pub(crate) record: &'a mut Option<RawRecord>,
    pub(crate) schedules: &'a mut Schedules,
    pub(crate) errors: &'a ErrorHandling,
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

    /// The input record at hand, for what waits with a record that it led to.
    pub(crate) fn record_context(&self, timestamp: i64, headers: &Headers) -> RecordContext {
        RecordContext {
            timestamp,
            offset: self.offset,
            topic: Arc::clone(&self.topic),
            partition: self.task.partition,
            headers: headers.clone(),
        }
    }

    /// The same for a shorter time; what is [dropped](Context::dropped) there is counted from 0.
    pub(crate) fn reborrow(&mut self) -> Context<'_> {
        Context {
            task: self.task,
            topic: Arc::clone(&self.topic),
            offset: self.offset,
            stream_time: self.stream_time,
            wall_time: self.wall_time,
            dropped: 0,
            record: &mut *self.record,
            schedules: &mut *self.schedules,
            errors: self.errors,
            stores: &mut *self.stores,
            nodes: &mut *self.nodes,
            collector: &mut *self.collector,
        }
    }

    /// The application's code failed: the handler decides whether the record is left out or the task fails.
    #[cold]
    pub(crate) fn processing_failed(&mut self, node: &Arc<str>, error: ProcessorError) -> NodeResult {
        let error = self.processing_error(node, error);
        self.settle(error)
    }

    #[cold]
    pub(crate) fn processing_error(&self, node: &Arc<str>, error: ProcessorError) -> Box<StreamsError> {
        let (task, node, position) = (self.task, Arc::clone(node), self.position());
        Box::new(StreamsError::Processing { task, node, position, source: error.into() })
    }

    /// Does with an error what its handler says.
    #[cold]
    pub(crate) fn settle(&mut self, error: Box<StreamsError>) -> NodeResult {
        let verdict = self.errors.decide(&error, self.record.as_ref());
        if let Some((topic, letter)) = verdict.dead_letter {
            self.send(Outgoing {
                topic: &topic,
                partition: None,
                key: letter.key.as_deref(),
                partition_by: letter.key.as_deref(),
                value: letter.value.as_deref(),
                timestamp: letter.timestamp,
                headers: &letter.headers,
            })?;
        }
        if !verdict.resume {
            return Err(error);
        }
        tracing::warn!(%error, "record left out");
        self.dropped += 1;
        Ok(())
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
