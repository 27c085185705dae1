use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use kafka_client::TopicPartition;

use crate::config::DeserializationHandler;
use crate::error::{StreamsError, TaskId};
use crate::processor::{Context, RawRecord, RecordCollector, SourceNode, TaskBuilder};
use crate::state::{ChangelogError, TaskStore};
use crate::topology::{NodeKind, TopologyInner};

/// Fetched records of one partition, decoded as they are taken.
pub(crate) struct RawBatch {
    pub(crate) records: Box<dyn Iterator<Item = Result<RawRecord, String>> + Send>,
    /// The partition's position once all of them are processed.
    pub(crate) next_offset: i64,
}

/// One source partition of a task.
struct Input {
    topic: Arc<str>,
    /// The source nodes that read it.
    sources: Vec<usize>,
    head: Option<RawRecord>,
    batches: VecDeque<RawBatch>,
    /// The offset to commit: of the next record that was not processed.
    position: Option<i64>,
    uncommitted: bool,
}

impl Input {
    /// Has the next record in `head`, if there is one.
    fn advance(&mut self) -> Result<bool, String> {
        while self.head.is_none() {
            let Some(batch) = self.batches.front_mut() else { return Ok(false) };
            match batch.records.next() {
                Some(record) => self.head = Some(record?),
                None => {
                    if self.position.is_none_or(|at| at < batch.next_offset) {
                        self.position = Some(batch.next_offset);
                        self.uncommitted = true;
                    }
                    self.batches.pop_front();
                }
            }
        }
        Ok(true)
    }
}

/// A sub-topology at work on one partition: its nodes, its stores and its input. No IO: records come by
/// [`Task::add`] and leave by a collector.
pub(crate) struct Task {
    pub(crate) id: TaskId,
    inputs: Vec<Input>,
    sources: Vec<Box<dyn SourceNode>>,
    stores: Vec<Box<dyn TaskStore>>,
    handles: BTreeMap<Arc<str>, Box<dyn Any + Send>>,
    handler: DeserializationHandler,
}

impl Task {
    pub(crate) fn new(
        topology: &TopologyInner,
        application_id: &str,
        id: TaskId,
        handler: DeserializationHandler,
    ) -> Result<Self, StreamsError> {
        let mut builder = TaskBuilder::new(topology, application_id);
        let mut sources = Vec::new();
        let mut inputs = Vec::<Input>::new();
        let nodes = topology.subtopologies.get(id.subtopology).map(|sub| &sub.nodes);
        for node in nodes.into_iter().flatten().filter_map(|id| topology.graph.nodes.get(*id)) {
            let NodeKind::Source { topics, factories } = &node.kind else { continue };
            let built =
                factories.iter().map(|factory| factory(&mut builder)).collect::<Result<Vec<_>, _>>()?;
            let first = sources.len();
            sources.extend(built);
            for topic in topics {
                inputs.push(Input {
                    topic: topic.resolve(application_id),
                    sources: (first..sources.len()).collect(),
                    head: None,
                    batches: VecDeque::new(),
                    position: None,
                    uncommitted: false,
                });
            }
        }
        let (stores, handles) = (builder.stores, builder.handles);
        Ok(Self { id, inputs, sources, stores, handles, handler })
    }

    pub(crate) fn stores(&self) -> &[Box<dyn TaskStore>] {
        &self.stores
    }

    pub(crate) fn handle(&self, store: &str) -> Option<&(dyn Any + Send)> {
        self.handles.get(store).map(|handle| &**handle)
    }

    /// The stores by name, for readers outside the task's thread.
    pub(crate) fn take_handles(&mut self) -> BTreeMap<Arc<str>, Box<dyn Any + Send>> {
        std::mem::take(&mut self.handles)
    }

    pub(crate) fn add(&mut self, topic: &str, batch: RawBatch) {
        if let Some(input) = self.inputs.iter_mut().find(|input| *input.topic == *topic) {
            input.batches.push_back(batch);
        }
    }

    /// Processes up to `limit` records, the one with the smallest timestamp first. Returns how many.
    pub(crate) fn process(
        &mut self,
        limit: usize,
        collector: &mut dyn RecordCollector,
    ) -> Result<usize, Box<StreamsError>> {
        let mut cx = Context { task: self.id, topic: Arc::from(""), offset: -1, collector };
        // After a panic the task is not used again, so nobody sees what the panic left half done.
        match catch_unwind(AssertUnwindSafe(|| self.run(limit, &mut cx))) {
            Ok(result) => result,
            Err(panic) => Err(panicked(&cx, &*panic)),
        }
    }

    fn run(&mut self, limit: usize, cx: &mut Context<'_>) -> Result<usize, Box<StreamsError>> {
        let mut done = 0;
        while done < limit {
            let mut chosen: Option<(i64, usize)> = None;
            for (index, input) in self.inputs.iter_mut().enumerate() {
                let available = input.advance().map_err(|reason| corrupt(self.id, &input.topic, reason))?;
                let Some(head) = input.head.as_ref().filter(|_| available) else { continue };
                if chosen.is_none_or(|(least, _)| head.timestamp < least) {
                    chosen = Some((head.timestamp, index));
                }
            }
            let Some((_, index)) = chosen else { break };
            let Some(input) = self.inputs.get_mut(index) else { break };
            let Some(record) = input.head.take() else { break };
            if !Arc::ptr_eq(&cx.topic, &input.topic) {
                cx.topic = Arc::clone(&input.topic);
            }
            cx.offset = record.offset;
            for source in &input.sources {
                let Some(source) = self.sources.get_mut(*source) else { continue };
                if let Err(error) = source.process(&record, cx) {
                    self.handler.handle(error)?;
                }
            }
            input.position = Some(record.offset.saturating_add(1));
            input.uncommitted = true;
            done += 1;
        }
        Ok(done)
    }

    /// First half of a commit: everything held back goes to the collector, and a changelog record for each changed
    /// row. Returns the offsets to commit once all that is acknowledged.
    pub(crate) fn prepare_commit(
        &mut self,
        collector: &mut dyn RecordCollector,
    ) -> Result<Vec<(TopicPartition, i64)>, Box<StreamsError>> {
        let mut cx = Context { task: self.id, topic: Arc::from(""), offset: -1, collector };
        let flushed = catch_unwind(AssertUnwindSafe(|| {
            self.sources.iter_mut().try_for_each(|source| source.flush(&mut cx))
        }));
        match flushed {
            Ok(result) => result?,
            Err(panic) => return Err(panicked(&cx, &*panic)),
        }
        for store in &self.stores {
            store.write_changelog(self.id.partition, cx.collector).map_err(|error| {
                Box::new(match error {
                    ChangelogError::Store(source) => self.store_failed(&**store, source),
                    ChangelogError::Send(reason) => {
                        StreamsError::Send { task: self.id, topic: store.name(), reason }
                    }
                })
            })?;
        }
        for input in &mut self.inputs {
            input.advance().map_err(|reason| corrupt(self.id, &input.topic, reason))?;
        }
        let offsets = self.inputs.iter().filter(|input| input.uncommitted).filter_map(|input| {
            Some((TopicPartition::new(Arc::clone(&input.topic), self.id.partition), input.position?))
        });
        Ok(offsets.collect())
    }

    /// Second half: the offsets are committed, so the stores may keep what changed.
    pub(crate) fn finish_commit(&mut self) -> Result<(), Box<StreamsError>> {
        for store in &self.stores {
            store.commit(None).map_err(|source| Box::new(self.store_failed(&**store, source)))?;
        }
        self.inputs.iter_mut().for_each(|input| input.uncommitted = false);
        Ok(())
    }

    pub(crate) fn dirty_rows(&self) -> usize {
        self.stores.iter().map(|store| store.dirty_rows()).sum()
    }

    fn store_failed(&self, store: &dyn TaskStore, source: crate::state::StoreError) -> StreamsError {
        StreamsError::Store { task: self.id, node: store.name(), store: store.name(), source }
    }
}

fn corrupt(task: TaskId, topic: &Arc<str>, reason: String) -> Box<StreamsError> {
    let partition = TopicPartition::new(Arc::clone(topic), task.partition);
    Box::new(StreamsError::Corrupt { task, partition, reason })
}

fn panicked(cx: &Context<'_>, panic: &(dyn Any + Send)) -> Box<StreamsError> {
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    Box::new(StreamsError::Panicked { task: cx.task, position: cx.position(), message })
}
