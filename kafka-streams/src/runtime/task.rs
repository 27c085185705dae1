use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use kafka_client::TopicPartition;

use crate::error::{StreamsError, TaskId};
use crate::handlers::ErrorHandling;
use crate::processor::{
    Context, Nodes, PunctuationType, RawRecord, RecordCollector, Schedules, SourceNode, TaskBuilder,
    TaskSettings, WaitingRecord,
};
use crate::state::Stores;
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
    /// The head's timestamp is the one that its source gave it.
    is_timed: bool,
    /// The largest timestamp of the records so far, -1 before the first.
    partition_time: i64,
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
                Some(record) => {
                    self.head = Some(record?);
                    self.is_timed = false;
                }
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

    /// The record at this offset is done with.
    fn pass(&mut self, offset: i64) {
        self.position = Some(offset.saturating_add(1));
        self.uncommitted = true;
    }
}

/// A sub-topology at work on one partition: its nodes, its stores and its input. No IO and no clock: records come by
/// [`Task::add`], the time with each call, and results leave by a collector.
pub(crate) struct Task {
    pub(crate) id: TaskId,
    inputs: Vec<Input>,
    sources: Vec<Box<dyn SourceNode>>,
    stores: Stores,
    nodes: Nodes,
    schedules: Schedules,
    errors: ErrorHandling,
    stream_time: i64,
    dropped: u64,
}

impl Task {
    pub(crate) fn new(
        topology: &TopologyInner,
        settings: &TaskSettings,
        id: TaskId,
    ) -> Result<Self, StreamsError> {
        let mut builder = TaskBuilder::new(topology, settings, id);
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
                    topic: topic.resolve(&settings.application_id),
                    sources: (first..sources.len()).collect(),
                    head: None,
                    is_timed: false,
                    partition_time: -1,
                    batches: VecDeque::new(),
                    position: None,
                    uncommitted: false,
                });
            }
        }
        let (stores, nodes) = (builder.stores, builder.nodes);
        let (schedules, errors) = (Schedules::default(), settings.errors.clone());
        Ok(Self { id, inputs, sources, stores, nodes, schedules, errors, stream_time: -1, dropped: 0 })
    }

    pub(crate) fn stores(&self) -> &Stores {
        &self.stores
    }

    pub(crate) fn stores_mut(&mut self) -> &mut Stores {
        &mut self.stores
    }

    /// Records that operators left out so far: too late, or without a key.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped + self.stores.iter().map(|store| store.dropped()).sum::<u64>()
    }

    pub(crate) fn add(&mut self, topic: &str, batch: RawBatch) {
        if let Some(input) = self.inputs.iter_mut().find(|input| *input.topic == *topic) {
            input.batches.push_back(batch);
        }
    }

    /// Calls `work` with what nodes see of the task. After a panic the task is not used again, so nobody sees what the
    /// panic left half done.
    fn with_context<T>(
        &mut self,
        wall_time: i64,
        collector: &mut dyn RecordCollector,
        work: impl FnOnce(&mut Work<'_>, &mut Context<'_>) -> Result<T, Box<StreamsError>>,
    ) -> Result<T, Box<StreamsError>> {
        let Self { id, inputs, sources, stores, nodes, schedules, errors, .. } = self;
        let mut record = None;
        let mut cx = Context {
            task: *id,
            topic: Arc::from(""),
            offset: -1,
            stream_time: self.stream_time,
            wall_time,
            dropped: 0,
            record: &mut record,
            schedules,
            errors,
            stores,
            nodes,
            collector,
        };
        let mut parts = Work { inputs, sources };
        let result = match catch_unwind(AssertUnwindSafe(|| work(&mut parts, &mut cx))) {
            Ok(result) => result,
            Err(panic) => Err(panicked(&cx, &*panic)),
        };
        let (stream_time, dropped) = (cx.stream_time, cx.dropped);
        self.stream_time = stream_time;
        self.dropped += dropped;
        result
    }

    /// The state is there: processors begin their work. To be called once, before anything is processed.
    pub(crate) fn initialize(
        &mut self,
        wall_time: i64,
        collector: &mut dyn RecordCollector,
    ) -> Result<(), Box<StreamsError>> {
        self.with_context(wall_time, collector, |_, cx| {
            // Children were built before their parents.
            (0..cx.nodes.len())
                .rev()
                .try_for_each(|index| Nodes::call(index, cx, |node, cx| node.init(index, cx)))
        })
    }

    /// Calls the punctuators that waited for this time on the wall clock.
    pub(crate) fn punctuate_wall_time(
        &mut self,
        wall_time: i64,
        collector: &mut dyn RecordCollector,
    ) -> Result<(), Box<StreamsError>> {
        if !self.schedules.is_due(PunctuationType::WallClockTime, wall_time) {
            return Ok(());
        }
        self.with_context(wall_time, collector, |_, cx| {
            punctuate(PunctuationType::WallClockTime, wall_time, cx)
        })
    }

    /// Processes up to `limit` records, the one with the smallest timestamp first. Returns how many.
    pub(crate) fn process(
        &mut self,
        limit: usize,
        wall_time: i64,
        collector: &mut dyn RecordCollector,
    ) -> Result<usize, Box<StreamsError>> {
        self.with_context(wall_time, collector, |work, cx| work.process(limit, cx))
    }

    /// First half of a commit: everything held back goes to the collector, and changelog records for what changed.
    /// Returns the offsets to commit once all that is acknowledged.
    pub(crate) fn prepare_commit(
        &mut self,
        wall_time: i64,
        collector: &mut dyn RecordCollector,
    ) -> Result<Vec<(TopicPartition, i64)>, Box<StreamsError>> {
        self.with_context(wall_time, collector, |_, cx| {
            // Children were built before their parents, and what parents push on may be held back by children.
            for index in (0..cx.nodes.len()).rev() {
                Nodes::call(index, cx, |node, cx| node.flush(cx))?;
            }
            let partition = cx.task.partition;
            cx.stores.iter_mut().try_for_each(|store| store.write_changelog(partition, cx.collector))
        })?;
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
        let task = self.id;
        for store in self.stores.iter_mut() {
            store.commit(None).map_err(|source| {
                Box::new(StreamsError::Store { task, store: Arc::clone(store.name()), source })
            })?;
        }
        self.inputs.iter_mut().for_each(|input| input.uncommitted = false);
        Ok(())
    }

    /// Applies records of a changelog to the stores that are restored from it.
    pub(crate) fn restore(
        &mut self,
        changelog: &str,
        records: &[RawRecord],
    ) -> Result<(), Box<StreamsError>> {
        let task = self.id;
        for store in self.stores.iter_mut().filter(|store| store.changelog().as_deref() == Some(changelog)) {
            store.restore(&mut records.iter().cloned()).map_err(|source| {
                Box::new(StreamsError::Store { task, store: Arc::clone(store.name()), source })
            })?;
        }
        Ok(())
    }

    /// The changelogs to restore from, and from which offset on; `None` is the beginning.
    pub(crate) fn changelogs(&self) -> BTreeMap<Arc<str>, Option<i64>> {
        self.stores.iter().filter_map(|store| Some((store.changelog()?, store.committed_offset()))).collect()
    }

    /// Whether the topic is input too: a store may hold what was processed of it, and no more.
    pub(crate) fn reads(&self, topic: &str) -> bool {
        self.inputs.iter().any(|input| *input.topic == *topic)
    }

    pub(crate) fn dirty_rows(&self) -> usize {
        self.stores.iter().map(|store| store.dirty_rows()).sum()
    }
}

/// The parts of a task that nodes do not see.
struct Work<'a> {
    inputs: &'a mut Vec<Input>,
    sources: &'a mut Vec<Box<dyn SourceNode>>,
}

impl Work<'_> {
    fn process(&mut self, limit: usize, cx: &mut Context<'_>) -> Result<usize, Box<StreamsError>> {
        let mut done = 0;
        while done < limit {
            let mut chosen: Option<(i64, usize)> = None;
            for index in 0..self.inputs.len() {
                let Some(timestamp) = self.head_time(index, cx)? else { continue };
                if chosen.is_none_or(|(least, _)| timestamp < least) {
                    chosen = Some((timestamp, index));
                }
            }
            let Some((timestamp, index)) = chosen else { break };
            let Some(input) = self.inputs.get_mut(index) else { break };
            let Some(record) = input.head.take() else { break };
            if !Arc::ptr_eq(&cx.topic, &input.topic) {
                cx.topic = Arc::clone(&input.topic);
            }
            let offset = record.offset;
            cx.offset = offset;
            cx.stream_time = cx.stream_time.max(timestamp);
            input.partition_time = input.partition_time.max(timestamp);
            *cx.record = Some(record);
            for source in &input.sources {
                let Some(source) = self.sources.get_mut(*source) else { continue };
                source.process(index, cx)?;
            }
            input.pass(offset);
            done += 1;
            if cx.schedules.is_due(PunctuationType::StreamTime, cx.stream_time) {
                punctuate(PunctuationType::StreamTime, cx.stream_time, cx)?;
            }
        }
        *cx.record = None;
        Ok(done)
    }

    /// The time of an input's next record. Records without a valid one are left out here.
    #[inline]
    fn head_time(&mut self, index: usize, cx: &mut Context<'_>) -> Result<Option<i64>, Box<StreamsError>> {
        let Some(input) = self.inputs.get_mut(index) else { return Ok(None) };
        loop {
            let available = input.advance().map_err(|reason| corrupt(cx.task, &input.topic, reason))?;
            let Some(head) = input.head.as_mut().filter(|_| available) else { return Ok(None) };
            let first = input.sources.first().and_then(|source| self.sources.get_mut(*source));
            let Some(source) = first.filter(|_| !input.is_timed) else { return Ok(Some(head.timestamp)) };
            let waiting = WaitingRecord {
                input: index,
                task: cx.task,
                topic: &input.topic,
                partition_time: input.partition_time,
                wall_time: cx.wall_time,
            };
            let error = match source.timestamp(head, &waiting) {
                Ok(timestamp) if timestamp >= 0 => {
                    head.timestamp = timestamp;
                    input.is_timed = true;
                    return Ok(Some(timestamp));
                }
                Ok(_) => None,
                Err(error) => Some(error),
            };
            let offset = head.offset;
            match error {
                Some(error) => {
                    *cx.record = input.head.take();
                    let settled = cx.settle(error);
                    *cx.record = None;
                    settled?;
                }
                None => {
                    input.head = None;
                    cx.dropped += 1;
                }
            }
            input.pass(offset);
        }
    }
}

/// Calls the punctuators that are due, outside of any record.
fn punctuate(clock: PunctuationType, now: i64, cx: &mut Context<'_>) -> Result<(), Box<StreamsError>> {
    *cx.record = None;
    let (topic, offset) =
        (std::mem::replace(&mut cx.topic, Arc::from("")), std::mem::replace(&mut cx.offset, -1));
    while let Some(entry) = cx.schedules.take_due(clock, now) {
        let (node, callback) = (entry.node, entry.callback);
        Nodes::call(node, cx, |node, cx| node.punctuate(callback, now, cx))?;
        cx.schedules.done(entry, now);
    }
    cx.topic = topic;
    cx.offset = offset;
    Ok(())
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
