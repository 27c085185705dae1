//! Processors that an application writes itself: any code for each record, with stores and clocks.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use kafka_client::wire::record_batch::Headers;

use super::{Called, Context, Node, NodeName, NodeResult, Out, PunctuationType, Record, Schedule, StoreRef};
use crate::error::{RecordPosition, StreamsError, TaskId};

/// What the code of a processor may fail with. Any error becomes one with `?`.
pub type ProcessorError = Box<dyn std::error::Error + Send + Sync>;

/// The result of a processor's code.
pub type ProcessorResult = Result<(), ProcessorError>;

/// Code that takes records and forwards any number of records, of other types if it likes: Java's `Processor`.
///
/// Each task has one of its own, and calls it from one thread. See [`KStream::process`](crate::KStream::process).
pub trait Processor: Sized + Send + 'static {
    /// The keys it takes.
    type KIn: Send + 'static;
    /// The values it takes.
    type VIn: Send + 'static;
    /// The keys it forwards; `()` if it forwards nothing.
    type KOut: Send + 'static;
    /// The values it forwards; `()` if it forwards nothing.
    type VOut: Send + 'static;

    /// Called once the task's state is restored, before the first record: the place to make schedules.
    ///
    /// # Errors
    /// Whatever the application likes; the task fails with it.
    fn init(&mut self, _cx: &mut ProcessorContext<'_, Self>) -> ProcessorResult {
        Ok(())
    }

    /// Takes a record.
    ///
    /// # Errors
    /// Whatever the application likes; the [processing handler](crate::config::ProcessingHandler) decides what happens
    /// then.
    fn process(
        &mut self,
        record: Record<Self::KIn, Self::VIn>,
        cx: &mut ProcessorContext<'_, Self>,
    ) -> ProcessorResult;
}

/// A [`Processor`] that leaves keys as they are, so nothing after it needs to be partitioned again: Java's
/// `FixedKeyProcessor`.
pub trait FixedKeyProcessor: Sized + Send + 'static {
    /// The keys, in and out.
    type K: Send + 'static;
    /// The values it takes.
    type VIn: Send + 'static;
    /// The values it forwards.
    type VOut: Send + 'static;

    /// As [`Processor::init`].
    ///
    /// # Errors
    /// As [`Processor::init`].
    fn init(&mut self, _cx: &mut FixedKeyProcessorContext<'_, Self>) -> ProcessorResult {
        Ok(())
    }

    /// As [`Processor::process`].
    ///
    /// # Errors
    /// As [`Processor::process`].
    fn process(
        &mut self,
        record: FixedKeyRecord<Self::K, Self::VIn>,
        cx: &mut FixedKeyProcessorContext<'_, Self>,
    ) -> ProcessorResult;
}

/// A record whose key cannot be changed. Only the record that came in makes others.
#[derive(Debug, Clone)]
pub struct FixedKeyRecord<K, V>(Record<K, V>);

impl<K, V> FixedKeyRecord<K, V> {
    /// The key.
    pub fn key(&self) -> &K {
        &self.0.key
    }

    /// The value.
    pub fn value(&self) -> &V {
        &self.0.value
    }

    /// Milliseconds since 1970.
    pub fn timestamp(&self) -> i64 {
        self.0.timestamp
    }

    /// The headers.
    pub fn headers(&self) -> &Headers {
        &self.0.headers
    }

    /// The same record with another value.
    pub fn with_value<V2>(self, value: V2) -> FixedKeyRecord<K, V2> {
        FixedKeyRecord(self.0.with_value(value))
    }

    /// The same record with a value made of its own.
    pub fn map_value<V2>(self, map: impl FnOnce(&K, V) -> V2) -> FixedKeyRecord<K, V2> {
        let Record { key, value, timestamp, headers } = self.0;
        let value = map(&key, value);
        FixedKeyRecord(Record { key, value, timestamp, headers })
    }

    /// The same record with another timestamp, in milliseconds since 1970.
    pub fn with_timestamp(mut self, timestamp: i64) -> Self {
        self.0.timestamp = timestamp;
        self
    }

    /// The same record with other headers.
    pub fn with_headers(mut self, headers: Headers) -> Self {
        self.0.headers = headers;
        self
    }
}

/// A [`FixedKeyProcessor`] where a processor of either kind can be.
#[derive(Debug)]
pub struct FixedKey<P>(pub(crate) P);

/// A processor of either kind.
pub trait Operator: Sized + Send + 'static {
    /// As [`Processor::KIn`].
    type KIn: Send + 'static;
    /// As [`Processor::VIn`].
    type VIn: Send + 'static;
    /// As [`Processor::KOut`].
    type KOut: Send + 'static;
    /// As [`Processor::VOut`].
    type VOut: Send + 'static;

    /// As [`Processor::init`].
    ///
    /// # Errors
    /// As [`Processor::init`].
    fn start(&mut self, cx: &mut ProcessorContext<'_, Self>) -> ProcessorResult;

    /// As [`Processor::process`].
    ///
    /// # Errors
    /// As [`Processor::process`].
    fn take(
        &mut self,
        record: Record<Self::KIn, Self::VIn>,
        cx: &mut ProcessorContext<'_, Self>,
    ) -> ProcessorResult;
}

impl<P: Processor> Operator for P {
    type KIn = P::KIn;
    type VIn = P::VIn;
    type KOut = P::KOut;
    type VOut = P::VOut;

    fn start(&mut self, cx: &mut ProcessorContext<'_, Self>) -> ProcessorResult {
        self.init(cx)
    }

    fn take(
        &mut self,
        record: Record<P::KIn, P::VIn>,
        cx: &mut ProcessorContext<'_, Self>,
    ) -> ProcessorResult {
        self.process(record, cx)
    }
}

impl<P: FixedKeyProcessor> Operator for FixedKey<P> {
    type KIn = P::K;
    type VIn = P::VIn;
    type KOut = P::K;
    type VOut = P::VOut;

    fn start(&mut self, cx: &mut ProcessorContext<'_, Self>) -> ProcessorResult {
        self.0.init(cx)
    }

    fn take(&mut self, record: Record<P::K, P::VIn>, cx: &mut ProcessorContext<'_, Self>) -> ProcessorResult {
        self.0.process(FixedKeyRecord(record), cx)
    }
}

type Callback<O> = Arc<dyn Fn(&mut O, i64, &mut ProcessorContext<'_, O>) -> ProcessorResult + Send + Sync>;

/// What the code of any processor sees of its task.
pub struct TaskContext<'a> {
    pub(super) cx: Context<'a>,
    /// Of the record or the punctuation at hand.
    pub(super) timestamp: i64,
}

impl TaskContext<'_> {
    /// The task.
    pub fn task_id(&self) -> TaskId {
        self.cx.task
    }

    /// Where the input record is that led here; `None` in `init` and in punctuators.
    pub fn record_metadata(&self) -> Option<RecordPosition> {
        (self.cx.offset >= 0).then(|| self.cx.position())
    }

    /// The largest timestamp of the task's records so far, in milliseconds since 1970; -1 before the first
    /// (`currentStreamTimeMs`).
    pub fn stream_time(&self) -> i64 {
        self.cx.stream_time
    }

    /// The clock as of this turn of work, in milliseconds since 1970 (`currentSystemTimeMs`).
    pub fn wall_time(&self) -> i64 {
        self.cx.wall_time
    }

    /// One of the processor's stores.
    pub fn store<R: StoreRef>(&mut self, store: R) -> R::Access<'_> {
        store.access(self)
    }
}

impl fmt::Debug for TaskContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskContext").field("task", &self.cx.task).finish_non_exhaustive()
    }
}

/// What the code of a processor can do: forward records, make schedules, and all that [`TaskContext`] has.
pub struct ProcessorContext<'a, O: Operator> {
    task: TaskContext<'a>,
    node: usize,
    out: &'a mut Out<O::KOut, O::VOut>,
    callbacks: &'a mut Vec<Callback<O>>,
}

/// [`ProcessorContext`] of a [`FixedKeyProcessor`].
pub type FixedKeyProcessorContext<'a, P> = ProcessorContext<'a, FixedKey<P>>;

impl<'a, O: Operator> Deref for ProcessorContext<'a, O> {
    type Target = TaskContext<'a>;

    fn deref(&self) -> &TaskContext<'a> {
        &self.task
    }
}

impl<O: Operator> DerefMut for ProcessorContext<'_, O> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.task
    }
}

impl<O: Operator> fmt::Debug for ProcessorContext<'_, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessorContext").field("task", &self.task).finish_non_exhaustive()
    }
}

impl<O: Operator> ProcessorContext<'_, O> {
    /// Ends a schedule. Nothing happens if it ended before.
    pub fn cancel(&mut self, schedule: Schedule) {
        self.task.cx.schedules.cancel(schedule);
    }

    fn add_schedule(
        &mut self,
        start: Option<i64>,
        interval: Duration,
        clock: PunctuationType,
        callback: Callback<O>,
    ) -> Schedule {
        self.callbacks.push(callback);
        let (interval, callback) = (i64::try_from(interval.as_millis()), self.callbacks.len() - 1);
        let cx = &mut self.task.cx;
        let now = match clock {
            PunctuationType::StreamTime => cx.stream_time,
            PunctuationType::WallClockTime => cx.wall_time,
        };
        cx.schedules.add(self.node, callback, clock, start, interval.unwrap_or(i64::MAX), now)
    }

    fn pass(&mut self, record: Record<O::KOut, O::VOut>) -> ProcessorResult {
        self.out.forward(record, &mut self.task.cx).map_err(Into::into)
    }
}

impl<P: Processor> ProcessorContext<'_, P> {
    /// Pushes a record on to everything behind the processor, to the end of the chain.
    ///
    /// # Errors
    /// What failed behind the processor. To be returned by it: the record is not wholly processed.
    pub fn forward(&mut self, record: Record<P::KOut, P::VOut>) -> ProcessorResult {
        self.pass(record)
    }

    /// Calls a method again and again, with the time of the clock it waits for in milliseconds since 1970. Several times
    /// that pass at once make one call. `interval` is at least a millisecond.
    pub fn schedule(
        &mut self,
        interval: Duration,
        clock: PunctuationType,
        callback: impl Fn(&mut P, i64, &mut ProcessorContext<'_, P>) -> ProcessorResult + Send + Sync + 'static,
    ) -> Schedule {
        self.add_schedule(None, interval, clock, Arc::new(callback))
    }

    /// As [`ProcessorContext::schedule`], at times that are a multiple of the interval after `start`, in milliseconds
    /// since 1970, and not before it (KIP-1146).
    pub fn schedule_from(
        &mut self,
        start: i64,
        interval: Duration,
        clock: PunctuationType,
        callback: impl Fn(&mut P, i64, &mut ProcessorContext<'_, P>) -> ProcessorResult + Send + Sync + 'static,
    ) -> Schedule {
        self.add_schedule(Some(start), interval, clock, Arc::new(callback))
    }
}

impl<P: FixedKeyProcessor> ProcessorContext<'_, FixedKey<P>> {
    /// As for a [`Processor`], with a record that comes from one that came in.
    ///
    /// # Errors
    /// What failed behind the processor. To be returned by it: the record is not wholly processed.
    pub fn forward(&mut self, record: FixedKeyRecord<P::K, P::VOut>) -> ProcessorResult {
        self.pass(record.0)
    }

    /// As for a [`Processor`]: calls a method again and again.
    pub fn schedule(
        &mut self,
        interval: Duration,
        clock: PunctuationType,
        callback: impl Fn(&mut P, i64, &mut FixedKeyProcessorContext<'_, P>) -> ProcessorResult
        + Send
        + Sync
        + 'static,
    ) -> Schedule {
        let callback =
            move |fixed: &mut FixedKey<P>, time: i64, cx: &mut ProcessorContext<'_, FixedKey<P>>| {
                callback(&mut fixed.0, time, cx)
            };
        self.add_schedule(None, interval, clock, Arc::new(callback))
    }
}

/// The node of a processor.
pub(crate) struct ProcessorNode<O: Operator> {
    pub(crate) name: NodeName,
    pub(crate) operator: O,
    pub(crate) callbacks: Vec<Callback<O>>,
    pub(crate) out: Out<O::KOut, O::VOut>,
    /// Where the node lies in the task, known from `init` on.
    pub(crate) index: usize,
}

impl<O: Operator> ProcessorNode<O> {
    pub(crate) fn new(name: NodeName, operator: O, out: Out<O::KOut, O::VOut>) -> Self {
        Self { name, operator, callbacks: Vec::new(), out, index: 0 }
    }

    fn call(
        &mut self,
        timestamp: i64,
        cx: &mut Context<'_>,
        work: impl FnOnce(&mut O, &mut ProcessorContext<'_, O>) -> ProcessorResult,
    ) -> ProcessorResult {
        let mut own = ProcessorContext {
            task: TaskContext { cx: cx.reborrow(), timestamp },
            node: self.index,
            out: &mut self.out,
            callbacks: &mut self.callbacks,
        };
        let result = work(&mut self.operator, &mut own);
        let dropped = own.task.cx.dropped;
        cx.dropped += dropped;
        result
    }

    fn settle(&self, result: ProcessorResult, cx: &mut Context<'_>) -> NodeResult {
        let Err(error) = result else { return Ok(()) };
        // What failed behind this node says so itself.
        match error.downcast::<Box<StreamsError>>() {
            Ok(error) => Err(*error),
            Err(error) => cx.processing_failed(&self.name, error),
        }
    }
}

impl<O: Operator> Node<O::KIn, O::VIn> for ProcessorNode<O> {
    fn process(&mut self, record: Record<O::KIn, O::VIn>, cx: &mut Context<'_>) -> NodeResult {
        let result = self.call(record.timestamp, cx, |operator, cx| operator.take(record, cx));
        self.settle(result, cx)
    }
}

impl<O: Operator> Called for ProcessorNode<O> {
    fn init(&mut self, index: usize, cx: &mut Context<'_>) -> NodeResult {
        self.index = index;
        let result = self.call(cx.wall_time, cx, |operator, cx| operator.start(cx));
        // No record to go on without.
        result.map_err(|error| cx.processing_error(&self.name, error))
    }

    fn punctuate(&mut self, schedule: usize, timestamp: i64, cx: &mut Context<'_>) -> NodeResult {
        let Some(callback) = self.callbacks.get(schedule).map(Arc::clone) else { return Ok(()) };
        let result = self.call(timestamp, cx, |operator, cx| callback(operator, timestamp, cx));
        self.settle(result, cx)
    }
}
