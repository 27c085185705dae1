//! The producer: records are encoded at `send`, travel in batches, and are acknowledged through [`Delivery`].
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use kafka_client::{Client, producer::Record};
//!
//! let client = Client::connect("localhost:9092").await?;
//! let producer = client.producer().build()?;
//! let written = producer.send(Record::to("orders").key("42").value("paid")).await?.await?;
//! println!("{} at offset {}", written.partition, written.offset);
//! # Ok(()) }
//! ```
//!
//! Watching it: [`Producer::events`], [`Producer::debug_snapshot`], [`ProducerInterceptor`], [`metrics`], and a span of
//! target `kafka_client::producer` for each batch. Choosing partitions: [`partitioner`].
//!
//! - `accumulator`: the path of a record, up to its batch
//! - `waiting`: what a record may have to wait for before
//! - `sender`: the pure core that decides which batch goes where and what an answer means
//! - `task`: the shell that owns connections and timers
//! - [`transaction`]: records that become visible together

mod accumulator;
mod batch;
mod buffers;
mod config;
mod delivery;
mod error;
mod events;
mod interceptor;
mod memory;
pub mod metrics;
pub mod partitioner;
mod ratio;
mod record;
mod sender;
mod sending;
mod snapshot;
mod task;
#[cfg(test)]
mod tests;
mod trace_context;
pub mod transaction;
mod waiting;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::Instant;

pub use config::ProducerBuilder;
pub use delivery::{Acknowledgement, Deliveries, Delivery};
pub use error::{SendAllError, SendError, TrySendError};
pub use events::{DataLoss, ProducerEvent};
pub use interceptor::{AcknowledgedBatch, ProducerInterceptor};
pub use kafka_wire::compression::Compression;
pub use partitioner::{Partitioner, Partitioning};
pub use record::{Data, Record, TopicRef};
pub use sender::Acks;
pub use sending::Sending;
pub use snapshot::{BrokerSnapshot, OpenBatchSnapshot, PartitionSnapshot, ProducerSnapshot};
pub use trace_context::{InvalidTraceParent, TRACEPARENT, TraceContext, TraceParent};
pub use transaction::{
    AbortCause, AbortError, BeginError, CommitError, CommitOffsetsError, FatalError, GroupMetadata, Outcome,
    Transaction,
};

use self::accumulator::{Accumulator, AccumulatorConfig, NotNow, TopicState};
use self::interceptor::Interceptors;
use self::metrics::Wait;
use self::sender::SenderConfig;
use self::task::Commands;
use crate::client::Client;

/// Sends records; made by [`Client::producer`].
///
/// Cheap to clone; clones share buffers, connections and identity. When the last one is gone, what was sent is still
/// delivered in the background, within `delivery.timeout`. Dropping it never blocks; [`close`](Self::close) waits.
#[derive(Clone)]
pub struct Producer {
    handle: Arc<Handle>,
}

/// A topic of a producer: records sent by it skip the look-up of the name.
#[derive(Clone)]
pub struct TopicHandle {
    producer: Producer,
    topic: Arc<TopicState>,
}

/// Not everything was delivered before the deadline of [`Producer::close`] or [`Producer::flush_within`].
#[derive(Debug, Clone, thiserror::Error)]
#[error("{batches} batches were not acknowledged within {waited:?}")]
pub struct FlushTimeout {
    /// How many batches were open when the wait began. Their deliveries tell of each.
    pub batches: usize,
    /// The deadline.
    pub waited: Duration,
}

#[derive(Debug, Clone)]
pub(crate) struct ProducerOptions {
    sender: SenderConfig,
    max_block: Duration,
    request_timeout: Duration,
    transaction_timeout: Duration,
    interceptors: Interceptors,
}

/// What the task and the handles share.
struct Shared {
    client: Client,
    options: ProducerOptions,
    accumulator: Accumulator,
    commands: Commands,
    started: OnceLock<()>,
    events: broadcast::Sender<ProducerEvent>,
    /// For the labels of metrics and spans.
    client_id: ::metrics::SharedString,
}

/// Tells the task when the last producer is gone.
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.accumulator.refuse_new();
        self.0.accumulator.wake.notify_one();
    }
}

/// So many events wait for a listener that is slow; it is told how many it missed.
const EVENTS_KEPT: usize = 256;

impl Client {
    /// Options for a producer. Defaults come from [`Client::from_properties`] if the client was made by it.
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder::new(self.clone())
    }
}

impl Producer {
    fn start(client: Client, accumulator: AccumulatorConfig, options: ProducerOptions) -> Self {
        let shared = Shared {
            client_id: client.client_id().into(),
            client,
            options,
            accumulator: Accumulator::new(accumulator),
            commands: Commands::default(),
            started: OnceLock::new(),
            events: broadcast::Sender::new(EVENTS_KEPT),
        };
        Self { handle: Arc::new(Handle(Arc::new(shared))) }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.0
    }

    /// Puts a record into its partition's batch, waiting for metadata and for room if it must (`max.block`).
    ///
    /// The record is encoded when this returns; what becomes of it is told by the [`Delivery`], which may be dropped.
    /// Dropping the future before it is ready means that the record was not taken.
    #[inline]
    pub fn send<'a>(&'a self, record: Record<'a>) -> Sending<'a> {
        Sending::new(self, None, record)
    }

    /// Puts a record into its partition's batch if that is possible right now.
    pub fn try_send<'a>(&self, record: Record<'a>) -> Result<Delivery, TrySendError<'a>> {
        let record = self.intercepted(record);
        match self.shared().accumulator.append(&record, &mut None) {
            Ok(delivery) => Ok(delivery),
            Err(why) => self.try_send_otherwise(record, why),
        }
    }

    /// [`send`](Self::send) for many records, in their order: neighbours in a partition share its lock, and one handle
    /// tells of them all. The iterator runs under that lock: it must not itself send by the same producer.
    ///
    /// `max.block` is granted to each record that has to wait. A record that is not taken ends the call: the error has the
    /// deliveries of those before it, and those behind it were not looked at. So does dropping the future.
    pub async fn send_all<'a, I>(&self, records: I) -> Result<Deliveries, SendAllError>
    where
        I: IntoIterator<Item = Record<'a>>,
    {
        let records = records.into_iter();
        let interceptors = &self.shared().options.interceptors;
        if interceptors.is_empty() {
            self.send_each(records, false).await
        } else {
            // Nor are interceptors called under a lock.
            self.send_each(records.map(|record| interceptors.on_send(record)), true).await
        }
    }

    async fn send_each<'a>(
        &self,
        mut records: impl Iterator<Item = Record<'a>>,
        one_by_one: bool,
    ) -> Result<Deliveries, SendAllError> {
        let mut sent = Deliveries::default();
        loop {
            let (record, why) =
                match self.shared().accumulator.append_all(&mut records, one_by_one, &mut sent) {
                    Ok(()) => return Ok(sent),
                    Err((_, NotNow::Failed(source))) => return Err(SendAllError { sent, source: *source }),
                    Err(stopped) => stopped,
                };
            match Box::pin(self.send_slowly(record, why)).await {
                Ok(delivery) => sent.push_delivery(&delivery),
                Err(source) => return Err(SendAllError { sent, source }),
            }
        }
    }

    /// A handle to a topic, for senders of many records.
    pub fn topic(&self, name: &str) -> TopicHandle {
        TopicHandle { producer: self.clone(), topic: self.shared().accumulator.topic(name) }
    }

    /// Sends all open batches and waits until every record sent so far is acknowledged or has failed; each delivery
    /// tells which. Takes up to `delivery.timeout`. Dropping the future only ends the wait.
    pub async fn flush(&self) {
        let since = Instant::now();
        for batch in self.unsettled().await {
            batch.settled().await;
        }
        metrics::waited(&self.shared().client_id, Wait::Flush, since);
    }

    /// [`flush`](Self::flush) with a limit.
    pub async fn flush_within(&self, limit: Duration) -> Result<(), FlushTimeout> {
        let deadline = Instant::now() + limit;
        let open = tokio::time::timeout_at(deadline, self.unsettled()).await.unwrap_or_default();
        let batches = open.len();
        let settled = async {
            for batch in open {
                batch.settled().await;
            }
        };
        tokio::time::timeout_at(deadline, settled).await.map_err(|_| FlushTimeout { batches, waited: limit })
    }

    /// Refuses new records, delivers those that were sent, and ends the producer and all its clones.
    ///
    /// What is not acknowledged within `deadline` fails. An open transaction is aborted. Dropping the future leaves the rest to the background.
    pub async fn close(&self, deadline: Duration) -> Result<(), FlushTimeout> {
        let shared = self.shared();
        shared.accumulator.refuse_new();
        let until = Instant::now() + deadline;
        let is_transactional = shared.options.sender.transactional_id.is_some();
        if is_transactional && shared.started.get().is_some() {
            // An open transaction could never be committed; one that is being committed is waited for.
            let ended = shared.commands.end_transaction(false, true);
            shared.accumulator.wake.notify_one();
            drop(tokio::time::timeout_at(until, ended).await);
        }
        let flushed = self.flush_within(until.saturating_duration_since(Instant::now())).await;
        shared.commands.abort();
        shared.accumulator.wake.notify_one();
        flushed
    }

    /// What happens to this producer's batches from now on: leaders that move, throttling, batches that are split or
    /// fail, new epochs, possible data loss.
    ///
    /// A listener that falls more than 256 events behind misses the oldest. Costs nothing while nobody listens.
    pub fn events(&self) -> broadcast::Receiver<ProducerEvent> {
        self.shared().events.subscribe()
    }

    /// `transaction.timeout.ms`.
    pub(crate) fn transaction_timeout(&self) -> Duration {
        self.shared().options.transaction_timeout
    }

    /// Where the producer's records are right now.
    pub async fn debug_snapshot(&self) -> ProducerSnapshot {
        let shared = self.shared();
        let idle = shared.accumulator.show();
        if shared.started.get().is_none() {
            return idle;
        }
        let shown = shared.commands.inspect();
        shared.accumulator.wake.notify_one();
        // The task is gone: nothing is left but the buffer.
        shown.await.unwrap_or(idle)
    }

    #[inline]
    fn intercepted<'a>(&self, record: Record<'a>) -> Record<'a> {
        let interceptors = &self.shared().options.interceptors;
        if interceptors.is_empty() { record } else { interceptors.on_send(record) }
    }

    async fn unsettled(&self) -> Vec<Arc<delivery::Completion>> {
        let shared = self.shared();
        if shared.started.get().is_none() {
            return Vec::new();
        }
        let listed = shared.commands.flush();
        shared.accumulator.wake.notify_one();
        // The task is gone: so is everything it had.
        listed.await.unwrap_or_default()
    }
}

impl Shared {
    fn ensure_started(self: &Arc<Self>) {
        self.started.get_or_init(|| {
            tokio::spawn(task::run(self.clone()));
        });
    }
}

impl TopicHandle {
    /// The topic's name.
    pub fn name(&self) -> &str {
        &self.topic.name
    }

    /// A record for this topic.
    pub fn record(&self) -> Record<'_> {
        Record::to(self)
    }

    /// [`Producer::send`], to this topic whatever the record says.
    #[inline]
    pub fn send<'a>(&'a self, record: Record<'a>) -> Sending<'a> {
        Sending::new(&self.producer, Some(self), record)
    }

    /// [`Producer::try_send`], to this topic whatever the record says.
    pub fn try_send<'a>(&'a self, record: Record<'a>) -> Result<Delivery, TrySendError<'a>> {
        self.producer.try_send(record.retarget(TopicRef::Handle(self)))
    }

    /// The producer it belongs to.
    pub fn producer(&self) -> &Producer {
        &self.producer
    }

    fn belongs_to(&self, accumulator: &Accumulator) -> bool {
        std::ptr::eq(&self.producer.shared().accumulator, accumulator)
    }

    fn state(&self) -> &TopicState {
        &self.topic
    }

    fn shared_state(&self) -> Arc<TopicState> {
        self.topic.clone()
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("options", &self.shared().options).finish_non_exhaustive()
    }
}

impl fmt::Debug for TopicHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TopicHandle").field(&self.topic.name).finish()
    }
}

#[expect(dead_code, reason = "checks at compile time that futures and handles may cross threads")]
fn assert_send(producer: &Producer, record: Record<'static>) {
    fn is_send<T: Send>(_: T) {}
    is_send(producer.send(record.clone()));
    is_send(producer.send_all([record]));
    is_send(producer.flush());
    is_send(producer.close(Duration::ZERO));
    fn is_future<T: Future + Send + 'static>() {}
    is_future::<Delivery>();
}
