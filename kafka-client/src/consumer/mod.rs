//! The consumer: reads records, alone or as a member of a group.
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use kafka_client::{Client, consumer::OffsetReset};
//!
//! let client = Client::connect("localhost:9092").await?;
//! let consumer =
//!     client.consumer().group("billing").topics(["orders"]).auto_offset_reset(OffsetReset::Earliest).build()?;
//! while let Some(record) = consumer.next().await? {
//!     println!("{}-{}@{}: {:?}", record.topic, record.partition, record.offset, record.value);
//! }
//! # Ok(()) }
//! ```
//!
//! Fetching goes on in the background, one request at a time for each broker, into one byte budget
//! ([`ConsumerBuilder::max_buffered_bytes`]). Batches stay as they were fetched until the reader gets to them.
//!
//! Heartbeats go on whatever the application does. A rebalance that takes partitions away waits until the
//! application asks for more records, commits or closes, at most `max.poll.interval`: what it was handed is then
//! done, and is committed before another member goes on from there.

mod acks;
mod builder;
mod commits;
mod epochs;
mod error;
mod fetch;
mod leases;
mod listener;
mod membership;
pub mod metrics;
mod offsets;
mod records;
mod shared;
mod streams;
mod typed;
mod upkeep;

#[cfg(test)]
mod reader_tests;

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use builder::ConsumerBuilder;
pub use commits::BackgroundCommit;
pub use error::{CommitError, ConsumeError, OffsetsError};
pub use listener::{ListenerFuture, Rebalance, RebalanceEvent, RebalanceListener};
pub use offsets::{OffsetAndMetadata, OffsetAndTimestamp};
pub use records::{ConsumerRecord, IntoRecords, PartitionRecords};
pub use streams::{PartitionStream, PartitionStreams, StreamEnd};
pub use typed::{TypedConsumer, TypedError, TypedRecord};

use crate::TopicPartition;
use crate::client::Client;
use crate::group::member::NO_GENERATION;
use crate::group::member::Topics;
use crate::group::{GroupExit, GroupProtocol};
use crate::net::RequestError;
use crate::producer::GroupMetadata;
use builder::Options;
use fetch::Position;
use shared::{Command, Shared};
pub(crate) use upkeep::sleep_until;

/// Where to start without a committed offset, or when the position is out of range (`auto.offset.reset`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum OffsetReset {
    /// At the oldest record that is kept.
    Earliest,
    /// At the end: only records that come from now on. The default, as in Java.
    #[default]
    Latest,
    /// At the first record with this timestamp or a later one, in milliseconds since 1970; at the end if there
    /// is none.
    Timestamp(i64),
    /// At the first record of so long ago or later (`by_duration:PT1H`, KIP-1106), counted from when the place is
    /// looked up.
    ByDuration(Duration),
    /// At the first record with the timestamp of the last record that this consumer handed out of the partition, or a
    /// later one: after records were lost to retention or a truncation, little is read twice and nothing is left out
    /// that is there. Where nothing was handed out yet, at the oldest record.
    LastConsumed,
    /// Nowhere: report [`ConsumeError::NoOffset`] and wait for a seek.
    None,
}

/// What to do about a topic that was deleted and created again under the same name while it was read. Positions in the
/// old one mean nothing in the new one, and are never carried over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum TopicRecreation {
    /// Go on where `auto.offset.reset` says; with [`OffsetReset::None`], report it. The default.
    #[default]
    Reset,
    /// Go on at the new topic's beginning: none of its records can have been read.
    Earliest,
    /// Report [`ConsumeError::TopicRecreated`] and wait for a seek.
    Fail,
}

/// Whether records of open and aborted transactions are read (`isolation.level`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum IsolationLevel {
    /// Every record, as it is written. The default, as in Java.
    #[default]
    ReadUncommitted,
    /// Records of transactions only once they are committed, and nothing beyond the first open one.
    ReadCommitted,
}

/// How long [`Consumer::close`] tries to commit and to leave the group.
const CLOSE_TIMEOUT: Duration = crate::group::shell::LEAVE_TIMEOUT;

/// Reads records of topics or partitions; made by [`Client::consumer`].
///
/// Cheap to clone: clones read from the same place, each record goes to one of them. All methods take `&self` and
/// are cancel-safe: dropping a call for records loses none. Dropping the last clone never blocks; the membership
/// is given up in the background. [`Consumer::close`] commits, leaves and waits for both.
#[derive(Clone)]
pub struct Consumer {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    /// Told to the group's task: give everything up and leave.
    closing: watch::Sender<Option<GroupExit>>,
    /// Told to the other tasks when that is done.
    closed: watch::Sender<bool>,
    start: Mutex<Option<Start>>,
    group: Mutex<Option<JoinHandle<()>>>,
}

/// What the tasks need, until a runtime is there to start them.
struct Start {
    topics: Option<Topics>,
    commands: mpsc::UnboundedReceiver<Command>,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("group", &self.shared().options.group)
            .field("assignment", &self.assignment())
            .finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.begin_close();
        self.shared.set_closed();
        self.closing.send_replace(Some(GroupExit::Default));
        if self.group.lock().is_none() {
            self.closed.send_replace(true);
        }
        // With a group, its task leaves first and then ends the others; see `run_group`.
    }
}

impl Consumer {
    fn start(
        client: Client,
        options: Options,
        topics: Option<Topics>,
        partitions: Vec<TopicPartition>,
    ) -> Self {
        let (shared, commands) = Shared::new(client, options);
        let shared = Arc::new(shared);
        shared.assign_exactly(partitions.into_iter().collect());
        let consumer = Self {
            handle: Arc::new(Handle {
                shared,
                closing: watch::Sender::new(None),
                closed: watch::Sender::new(false),
                start: Mutex::new(Some(Start { topics, commands })),
                group: Mutex::new(None),
            }),
        };
        if tokio::runtime::Handle::try_current().is_ok() {
            consumer.ensure_started();
        }
        consumer
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// Starts the tasks, once; called from inside a runtime.
    fn ensure_started(&self) {
        let Some(Start { topics, commands }) = self.handle.start.lock().take() else { return };
        let shared = Arc::clone(self.shared());
        let handle = &self.handle;
        tokio::spawn(upkeep::run(Arc::clone(&shared), handle.closed.subscribe()));
        let Some(topics) = topics else { return };
        let task = membership::run(shared, topics, commands, handle.closing.subscribe());
        let closed = handle.closed.clone();
        *handle.group.lock() = Some(tokio::spawn(async move {
            task.await;
            closed.send_replace(true);
        }));
    }

    /// The next record, in order for each partition; waits for one. `None` once the consumer is closed.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// See [`ConsumeError`]; unless it [is fatal](ConsumeError::is_fatal), later calls go on with what can be
    /// read.
    pub async fn next(&self) -> Result<Option<ConsumerRecord>, ConsumeError> {
        if let Some(record) = self.shared().next_at_hand() {
            return Ok(Some(record));
        }
        self.ensure_started();
        self.shared().next_record().await
    }

    /// The next fetched records of one partition, undecoded; waits for some. `None` once the consumer is closed.
    ///
    /// The fastest way to read: see [`PartitionRecords::for_each_view`]. With the next call they count as
    /// processed. Dropping the future loses nothing.
    pub async fn next_batch(&self) -> Result<Option<PartitionRecords>, ConsumeError> {
        self.ensure_started();
        self.shared().next_batch().await
    }

    /// As [`Consumer::next_batch`], but gives up after `timeout` with `None`.
    pub async fn poll_timeout(&self, timeout: Duration) -> Result<Option<PartitionRecords>, ConsumeError> {
        match tokio::time::timeout(timeout, self.next_batch()).await {
            Ok(result) => result,
            Err(_) => Ok(None),
        }
    }

    /// The records as a [`Stream`] that ends when the consumer is closed, or after a fatal error.
    pub fn stream(&self) -> impl Stream<Item = Result<ConsumerRecord, ConsumeError>> + Send + use<> {
        self.clone().into_stream()
    }

    /// As [`Consumer::stream`], taking this clone.
    pub fn into_stream(self) -> impl Stream<Item = Result<ConsumerRecord, ConsumeError>> + Send + use<> {
        futures::stream::unfold(Some(self), |consumer| async move {
            let consumer = consumer?;
            match consumer.next().await {
                Ok(Some(record)) => Some((Ok(record), Some(consumer))),
                Ok(None) => None,
                Err(error) => {
                    let rest = (!error.is_fatal()).then_some(consumer);
                    Some((Err(error), rest))
                }
            }
        })
    }

    // ---- assignment

    /// The partitions that this consumer reads now.
    pub fn assignment(&self) -> BTreeSet<TopicPartition> {
        self.shared().fetcher.lock().assignment()
    }

    /// For whom a transaction commits this consumer's offsets
    /// ([`Transaction::commit_offsets`](crate::producer::Transaction::commit_offsets)): its membership of this moment, so
    /// that the offsets are refused once its partitions are another's (KIP-447).
    ///
    /// `None` for a consumer without a group, and for one that is not a member right now. A consumer that has a group but
    /// was [assigned](Self::assign) its partitions commits as nobody's member.
    pub fn group_metadata(&self) -> Option<GroupMetadata> {
        let group_id = self.shared().options.group.clone()?;
        let Some(identity) = self.shared().identity.lock().clone() else {
            let is_assigned = self.handle.group.lock().is_none();
            return is_assigned.then(|| GroupMetadata::of_group(group_id));
        };
        let is_member = !identity.member_id.is_empty() && identity.generation > NO_GENERATION;
        is_member.then(|| GroupMetadata {
            generation: identity.generation,
            member_id: identity.member_id,
            instance_id: identity.instance_id,
            ..GroupMetadata::of_group(group_id)
        })
    }

    /// Names the assignment that records were read under; `None` if they are void by now: their partition went, perhaps
    /// to come back, or was read from elsewhere.
    pub(crate) fn assignment_of(&self, records: &PartitionRecords) -> Option<u64> {
        let fetcher = self.shared().fetcher.lock();
        let is_current = fetcher.is_at(&records.partition, records.epoch);
        fetcher.assigned_in(&records.partition).filter(|_| is_current)
    }

    /// Whether a partition has been this member's ever since that assignment.
    pub(crate) fn has_kept(&self, partition: &TopicPartition, assigned_in: u64) -> bool {
        self.shared().fetcher.lock().assigned_in(partition) == Some(assigned_in)
    }

    /// The group's coordinator refused offsets that somebody else committed for this member, who may have to join again.
    pub(crate) fn offsets_refused(&self, generation: i32, code: kafka_wire::ErrorCode) {
        let _ = self.shared().commands.send(Command::CommitRefused { generation, code });
    }

    /// How long to wait after so many failures in a row.
    pub(crate) fn retry_delay(&self, failures: u32) -> Duration {
        self.shared().client.retry_backoff().random_delay(failures)
    }

    /// Reads exactly these partitions from now on; those that stay keep their position. Members of a group are
    /// assigned by it: for them this does nothing and returns false.
    pub fn assign(&self, partitions: impl IntoIterator<Item = TopicPartition>) -> bool {
        if self.handle.group.lock().is_some() {
            return false;
        }
        self.shared().assign_exactly(partitions.into_iter().collect());
        true
    }

    /// Subscribes to these topics instead, with a rebalance. Returns false if this consumer is no member of a
    /// group.
    pub fn subscribe<T: AsRef<str>>(&self, topics: impl IntoIterator<Item = T>) -> bool {
        let topics = topics.into_iter().map(|topic| Arc::from(topic.as_ref())).collect();
        self.change_subscription(Topics::Named(topics))
    }

    /// Subscribes to every topic that matches instead, as [`ConsumerBuilder::pattern`]. Returns false if this consumer
    /// is no member of a group.
    pub fn subscribe_pattern(&self, pattern: &str) -> bool {
        self.change_subscription(Topics::Matching(Arc::from(pattern)))
    }

    fn change_subscription(&self, topics: Topics) -> bool {
        self.handle.group.lock().is_some() && self.shared().commands.send(Command::Subscribe(topics)).is_ok()
    }

    /// Joins the group anew, so that its leader assigns once more (KIP-568): after something changed that the group does
    /// not see. Returns false if this consumer is no member of a group.
    pub fn enforce_rebalance(&self) -> bool {
        self.handle.group.lock().is_some() && self.shared().commands.send(Command::EnforceRebalance).is_ok()
    }

    /// Which protocol the group speaks: [`GroupProtocol::Classic`] or [`GroupProtocol::Consumer`], once the first
    /// partitions came.
    pub fn group_protocol(&self) -> Option<GroupProtocol> {
        *self.shared().group_protocol.lock()
    }

    /// What happens to the assignment from now on. A receiver that falls far behind misses the oldest events.
    pub fn rebalances(&self) -> broadcast::Receiver<RebalanceEvent> {
        self.shared().events.subscribe()
    }

    /// This member's id in its group, once it joined.
    pub fn member_id(&self) -> Option<String> {
        let identity = self.shared().identity.lock();
        identity.as_ref().map(|identity| identity.member_id.clone()).filter(|id| !id.is_empty())
    }

    // ---- positions

    /// The offset of the next record that will be handed out of a partition. Waits until it is known, which after
    /// an assignment takes a question or two to the cluster, up to the client's `request.timeout`.
    pub async fn position(&self, partition: &TopicPartition) -> Result<i64, OffsetsError> {
        self.ensure_started();
        let shared = self.shared();
        let waited = shared.client.request_timeout();
        let mut changes = shared.readable.follow();
        let known = async {
            loop {
                changes.catch_up();
                if let Some(position) = shared.positions().get(partition) {
                    return Ok(position.offset);
                }
                if !shared.fetcher.lock().is_assigned(partition) || changes.changed().await.is_err() {
                    return Err(OffsetsError::NotAssigned { partition: partition.clone() });
                }
            }
        };
        let timed_out = |_| Err(OffsetsError::Request(RequestError::Timeout { waited, last: None }));
        tokio::time::timeout(waited, known).await.unwrap_or_else(timed_out)
    }

    /// The offset of the next record of every assigned partition, where it is known already.
    pub fn positions(&self) -> BTreeMap<TopicPartition, i64> {
        self.shared().positions().into_iter().map(|(partition, at)| (partition, at.offset)).collect()
    }

    /// The high watermark of a partition as of the last fetch: how far records are committed by its replicas.
    pub fn high_watermark(&self, partition: &TopicPartition) -> Option<i64> {
        self.shared().fetcher.lock().ends(partition).map(|ends| ends.high_watermark)
    }

    /// How many offsets lie between the position and the last one that can be read, as of the last fetch; the end is
    /// the high watermark, or the last stable offset with [`IsolationLevel::ReadCommitted`]. `None` until both are
    /// known.
    pub fn lag(&self, partition: &TopicPartition) -> Option<i64> {
        self.shared().positions();
        self.shared().fetcher.lock().lag(partition)
    }

    /// Goes on reading a partition at `offset`.
    ///
    /// # Errors
    /// It is not assigned, here and in the methods below.
    pub fn seek(&self, partition: &TopicPartition, offset: i64) -> Result<(), OffsetsError> {
        let to = Position { offset, leader_epoch: -1 };
        self.for_assigned([partition], |shared, partition| shared.seek(partition, to))
    }

    /// Goes on reading a partition at the place that is looked up now.
    pub fn seek_to(&self, partition: &TopicPartition, to: OffsetReset) -> Result<(), OffsetsError> {
        self.for_assigned([partition], |shared, partition| shared.seek_to(partition, to))
    }

    /// Goes on reading these partitions at their beginning.
    pub fn seek_to_beginning<P: Borrow<TopicPartition>>(
        &self,
        partitions: impl IntoIterator<Item = P>,
    ) -> Result<(), OffsetsError> {
        self.for_assigned(partitions, |shared, partition| shared.seek_to(partition, OffsetReset::Earliest))
    }

    /// Goes on reading these partitions at their end.
    pub fn seek_to_end<P: Borrow<TopicPartition>>(
        &self,
        partitions: impl IntoIterator<Item = P>,
    ) -> Result<(), OffsetsError> {
        self.for_assigned(partitions, |shared, partition| shared.seek_to(partition, OffsetReset::Latest))
    }

    /// Hands out nothing of these partitions until they are resumed. What is fetched already is kept.
    pub fn pause<P: Borrow<TopicPartition>>(
        &self,
        partitions: impl IntoIterator<Item = P>,
    ) -> Result<(), OffsetsError> {
        self.for_assigned(partitions, Shared::pause)
    }

    /// Ends a pause.
    pub fn resume<P: Borrow<TopicPartition>>(
        &self,
        partitions: impl IntoIterator<Item = P>,
    ) -> Result<(), OffsetsError> {
        self.for_assigned(partitions, Shared::resume)
    }

    /// Does it to all that are assigned, and names the first that is not.
    fn for_assigned<P: Borrow<TopicPartition>>(
        &self,
        partitions: impl IntoIterator<Item = P>,
        act: impl Fn(&Shared, &TopicPartition) -> bool,
    ) -> Result<(), OffsetsError> {
        let mut result = Ok(());
        for partition in partitions {
            let partition: &TopicPartition = partition.borrow();
            if !act(self.shared(), partition) && result.is_ok() {
                result = Err(OffsetsError::NotAssigned { partition: partition.clone() });
            }
        }
        result
    }

    /// The partitions that are paused.
    pub fn paused(&self) -> BTreeSet<TopicPartition> {
        self.shared().fetcher.lock().paused()
    }

    /// Bytes that are fetched and not yet handed out.
    pub fn buffered_bytes(&self) -> usize {
        self.shared().fetcher.lock().buffered_bytes()
    }

    // ---- commits

    /// Commits the position of every assigned partition: all that was handed out counts as processed (of streams of
    /// single partitions, all but the last record; with acknowledgements, what was acknowledged), and a rebalance
    /// does not wait for the application to ask for more. Tries again for the client's `request.timeout` where that can
    /// help.
    ///
    /// Dropping the future may leave the offsets committed or not.
    pub async fn commit(&self) -> Result<(), CommitError> {
        self.ensure_started();
        // A rebalance that waits for the application need not wait any longer.
        self.shared().finish_reading();
        self.shared().commit_positions().await
    }

    /// Commits these offsets; an offset is the one of the next record to read. As [`Consumer::commit`].
    pub async fn commit_offsets(
        &self,
        offsets: impl IntoIterator<Item = (TopicPartition, OffsetAndMetadata)>,
    ) -> Result<(), CommitError> {
        self.ensure_started();
        self.shared().commit_offsets(offsets.into_iter().collect()).await
    }

    /// As [`Consumer::commit_offsets`], in the background: one commit at a time, in the order of the calls. Call it
    /// inside a runtime. [`Consumer::close`] waits for it.
    pub fn commit_in_background(
        &self,
        offsets: impl IntoIterator<Item = (TopicPartition, OffsetAndMetadata)>,
    ) -> BackgroundCommit {
        self.ensure_started();
        self.shared().commit_in_background(offsets.into_iter().collect())
    }

    // ---- acknowledgements

    /// The application is done with a record, in any order. What is committed goes up to the first record that is not
    /// acknowledged. Of a consumer without [`acknowledgements`](ConsumerBuilder::acknowledgements), and for a partition
    /// that has gone to another member, it does nothing.
    pub fn ack(&self, record: &ConsumerRecord) {
        let partition = record.topic_partition();
        self.shared().acknowledge(&partition, record.offset, record.offset.saturating_add(1));
    }

    /// As [`Consumer::ack`], for offsets of a partition: those of a [`PartitionRecords`] that was processed are
    /// `records.position()..records.next_offset()`.
    pub fn ack_offsets(&self, partition: &TopicPartition, offsets: std::ops::Range<i64>) {
        self.shared().acknowledge(partition, offsets.start, offsets.end);
    }

    /// The first offset of a partition that was handed out and is not acknowledged: what a commit waits for.
    pub fn oldest_unacknowledged(&self, partition: &TopicPartition) -> Option<i64> {
        self.shared().oldest_unacknowledged(partition)
    }

    /// What the group committed for these partitions; those without a committed offset are left out.
    pub async fn committed<P: Borrow<TopicPartition>>(
        &self,
        partitions: impl IntoIterator<Item = P>,
    ) -> Result<BTreeMap<TopicPartition, OffsetAndMetadata>, OffsetsError> {
        let partitions: Vec<TopicPartition> = partitions.into_iter().map(|p| p.borrow().clone()).collect();
        let client = &self.shared().client;
        let deadline = Instant::now() + client.request_timeout();
        let mut failures = 0;
        loop {
            let error = match self.shared().fetch_committed(&partitions).await {
                Ok(committed) => return Ok(committed),
                Err(error) => error,
            };
            failures += 1;
            let retry_at = Instant::now() + client.retry_backoff().random_delay(failures);
            if !error.is_retriable() || retry_at >= deadline {
                return Err(error);
            }
            tokio::time::sleep_until(retry_at).await;
        }
    }

    // ---- offsets of the log

    /// The first offset of each partition.
    pub async fn begin_offsets<P: Borrow<TopicPartition>>(
        &self,
        partitions: impl IntoIterator<Item = P>,
    ) -> Result<BTreeMap<TopicPartition, i64>, OffsetsError> {
        self.edge_offsets(partitions, OffsetReset::Earliest).await
    }

    /// The offset after the last record of each partition that this consumer can read, given its isolation level.
    pub async fn end_offsets<P: Borrow<TopicPartition>>(
        &self,
        partitions: impl IntoIterator<Item = P>,
    ) -> Result<BTreeMap<TopicPartition, i64>, OffsetsError> {
        self.edge_offsets(partitions, OffsetReset::Latest).await
    }

    async fn edge_offsets<P: Borrow<TopicPartition>>(
        &self,
        partitions: impl IntoIterator<Item = P>,
        edge: OffsetReset,
    ) -> Result<BTreeMap<TopicPartition, i64>, OffsetsError> {
        let timestamps =
            partitions.into_iter().map(|p| (p.borrow().clone(), edge.timestamp(Duration::ZERO))).collect();
        let found = self.list_offsets(timestamps).await?;
        Ok(found.into_iter().filter_map(|(partition, at)| Some((partition, at?.offset))).collect())
    }

    /// For each partition, the first record with this timestamp (in milliseconds since 1970) or a later one;
    /// `None` where there is none.
    pub async fn offsets_for_times(
        &self,
        timestamps: impl IntoIterator<Item = (TopicPartition, i64)>,
    ) -> Result<BTreeMap<TopicPartition, Option<OffsetAndTimestamp>>, OffsetsError> {
        let timestamps =
            timestamps.into_iter().map(|(partition, timestamp)| (partition, timestamp.max(0))).collect();
        self.list_offsets(timestamps).await
    }

    async fn list_offsets(
        &self,
        timestamps: BTreeMap<TopicPartition, i64>,
    ) -> Result<BTreeMap<TopicPartition, Option<OffsetAndTimestamp>>, OffsetsError> {
        let shared = self.shared();
        let waited = shared.client.request_timeout();
        offsets::list_offsets(&shared.client, shared.options.isolation, timestamps, waited).await
    }

    /// Says that the application is at work on what it got, for as long as the guard lives: `max.poll.interval` begins
    /// anew when the last guard is dropped, and until then slowness does not cost the membership.
    ///
    /// Heartbeats go out in the background whatever the application does. A rebalance still waits for the
    /// application at most `max.poll.interval`. A guard that is never dropped hides an application that hangs: hold
    /// it for the work of known slowness, not for the consumer's whole life.
    ///
    /// ```no_run
    /// # async fn transcode(_: kafka_client::ConsumerRecord) {}
    /// # async fn f(consumer: kafka_client::Consumer) -> Result<(), Box<dyn std::error::Error>> {
    /// while let Some(record) = consumer.next().await? {
    ///     let _working = consumer.in_progress();
    ///     transcode(record).await; // Takes an hour.
    /// }
    /// # Ok(()) }
    /// ```
    pub fn in_progress(&self) -> InProgress {
        let shared = Arc::clone(self.shared());
        shared.begin_work();
        InProgress { shared }
    }

    // ---- the end

    /// Stops reading, commits what was handed out if auto-commit is on, and leaves the group (static members
    /// stay, KIP-345). Other clones get `None` from then on. Waits up to 30 s.
    ///
    /// # Errors
    /// The last commit failed. The consumer is closed all the same. Dropping the future leaves the rest to the
    /// background.
    pub async fn close(&self) -> Result<(), CommitError> {
        self.close_with(CloseOptions::default()).await
    }

    /// As [`Consumer::close`], within a time and with a word on the membership (KIP-1092).
    ///
    /// # Errors
    /// As [`Consumer::close`].
    pub async fn close_with(&self, options: CloseOptions) -> Result<(), CommitError> {
        let deadline = Instant::now() + options.within;
        let shared = self.shared();
        if shared.is_closed() {
            return Ok(());
        }
        // The caller is not in a call for records, and says that it needs no more.
        shared.finish_reading();
        shared.close_streams(deadline).await;
        let _ = tokio::time::timeout_at(deadline, shared.commits_done()).await;
        let mut committed = Ok(());
        if shared.options.auto_commit.is_some() && shared.options.group.is_some() {
            self.ensure_started();
            committed = match tokio::time::timeout_at(deadline, shared.commit_done()).await {
                Ok(result) => result,
                Err(_) => Err(CommitError::Closed),
            };
        }
        shared.begin_close();
        shared.set_closed();
        self.handle.closing.send_replace(Some(options.exit));
        let group = self.handle.group.lock().take();
        if let Some(mut group) = group {
            let _ = tokio::time::timeout_at(deadline, &mut group).await;
        }
        self.handle.closed.send_replace(true);
        committed
    }
}

/// While it lives, its consumer is not thrown out of the group for slowness; see [`Consumer::in_progress`].
#[must_use = "the work counts as done when this is dropped"]
pub struct InProgress {
    shared: Arc<Shared>,
}

impl fmt::Debug for InProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProgress").field("group", &self.shared.options.group).finish_non_exhaustive()
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.shared.end_work();
    }
}

/// How to close a consumer; see [`Consumer::close_with`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct CloseOptions {
    within: Duration,
    exit: GroupExit,
}

impl Default for CloseOptions {
    /// Within 30 s; dynamic members leave the group, static ones stay.
    fn default() -> Self {
        Self { within: CLOSE_TIMEOUT, exit: GroupExit::Default }
    }
}

impl CloseOptions {
    /// Within this time; what is not done then goes on in the background, as far as it can.
    pub fn within(within: Duration) -> Self {
        Self { within, ..Self::default() }
    }

    /// Stays a member until the session ends (KIP-1092): a restart within it causes no rebalance for the others.
    pub fn remain_in_group(mut self) -> Self {
        self.exit = GroupExit::Remain;
        self
    }

    /// Leaves the group, as a static member too (KIP-1092): its partitions go to the others at once.
    pub fn leave_group(mut self) -> Self {
        self.exit = GroupExit::Leave;
        self
    }
}
