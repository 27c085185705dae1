//! Read, process, write: exactly once, though processes die and partitions move.
//!
//! What a group's members read, what they write, and how far they have read become one transaction (KIP-98, KIP-447). After
//! a crash, or when a transaction is aborted, the same records are read again and nothing of the first try shows.
//!
//! ```no_run
//! # async fn f(client: kafka_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use kafka_client::Record;
//! use kafka_client::exactly_once::ExactlyOnce;
//!
//! let mut session = ExactlyOnce::new(
//!     client.consumer().group("shouting").topics(["words"]),
//!     client.producer().transactional_id("shouting-1"),
//! )?;
//! while let Some((records, step)) = session.next().await? {
//!     for record in records {
//!         let record = record?;
//!         let word = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).to_uppercase();
//!         step.send(Record::to("WORDS").value(word)).await?;
//!     }
//!     step.done();
//! }
//! # Ok(()) }
//! ```
//!
//! Give each instance a transactional id of its own, the same after a restart; the group's members may be of any number.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kafka_wire::ErrorCode;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::TopicPartition;
use crate::config::ConfigError;
use crate::consumer::{
    ConsumeError, Consumer, ConsumerBuilder, IsolationLevel, ListenerFuture, OffsetAndMetadata,
    PartitionRecords, Rebalance, RebalanceListener,
};
use crate::producer::transaction::{Begun, Open};
use crate::producer::{
    AbortCause, BeginError, CommitError, CommitOffsetsError, Outcome, Producer, ProducerBuilder, Record,
    SendError,
};

/// A transaction is committed after so long by default, as Kafka Streams does with exactly-once.
const COMMIT_INTERVAL: Duration = Duration::from_millis(100);

/// How often the time until a commit is halved at most, once for each transaction in a row that was refused.
const MAX_HALVINGS: u32 = 8;

/// Why a session cannot go on. Start another one: it begins behind what was committed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExactlyOnceError {
    /// Reading failed.
    #[error(transparent)]
    Consume(#[from] ConsumeError),
    /// No transaction could begin.
    #[error(transparent)]
    Begin(#[from] BeginError),
    /// A transaction was not committed, and would not be the next time either, or nobody knows whether it was.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl ExactlyOnceError {
    /// Whether the same session may go on: call [`ExactlyOnce::next`] again.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Begin(error) => error.is_retriable(),
            Self::Consume(_) | Self::Commit(_) => false,
        }
    }
}

/// A consumer and a producer whose work is one; see the [module](self).
#[derive(Debug)]
pub struct ExactlyOnce {
    consumer: Consumer,
    producer: Producer,
    commit_interval: Duration,
    rebalances: Arc<Rebalances>,
    round: Option<Round>,
    /// What an instance before this one left open has ended.
    is_sole: bool,
    /// A transaction that has begun and has no records yet.
    begun: Option<Begun>,
    /// Records that wait for a transaction.
    waiting: Option<PartitionRecords>,
    /// Where to go back to if a transaction turns out to be aborted whose end was not waited for.
    unresolved: Option<Unresolved>,
    /// Transactions in a row that were refused, and until when no other one is begun.
    failures: u32,
    not_before: Option<Instant>,
}

#[derive(Debug)]
struct Unresolved {
    serial: u64,
    from: BTreeMap<TopicPartition, Beginning>,
}

/// Where a transaction began to read a partition. Whoever has the partition after this assignment begins at what is
/// committed, be it the same member.
#[derive(Debug, Clone, Copy)]
struct Beginning {
    assigned_in: u64,
    offset: i64,
}

/// The records of one transaction.
#[derive(Debug)]
struct Round {
    open: Open,
    serial: u64,
    commit_at: Instant,
    /// Where it began in each partition, and how far it has come.
    from: BTreeMap<TopicPartition, Beginning>,
    to: BTreeMap<TopicPartition, OffsetAndMetadata>,
    /// Some of its records were not processed.
    is_spoilt: bool,
}

/// Records that are being processed: part of the transaction that is open. Say [`done`](Self::done) at the end; a step that
/// is dropped before, for instance because of an error, aborts the transaction, and its records come again.
#[derive(Debug)]
#[must_use = "a step that is dropped before it is `done` aborts the transaction"]
pub struct Step<'s> {
    session: &'s mut ExactlyOnce,
    partition: TopicPartition,
    to: OffsetAndMetadata,
    is_done: bool,
}

/// What the session and the consumer's rebalances tell each other.
#[derive(Debug, Default)]
struct Rebalances {
    /// Partitions are to go to others: what was read of them has to be committed first.
    is_asked: AtomicBool,
    asked: Notify,
    answered: Notify,
    /// The session is gone.
    is_over: AtomicBool,
    /// Partitions that others may read already.
    lost: Mutex<BTreeSet<TopicPartition>>,
}

struct Listener(Arc<Rebalances>);

impl RebalanceListener for Listener {
    fn on_revoked<'a>(&'a self, _rebalance: Rebalance<'a>) -> ListenerFuture<'a> {
        Box::pin(async move {
            let rebalances = &self.0;
            rebalances.is_asked.store(true, Ordering::SeqCst);
            rebalances.asked.notify_one();
            loop {
                let answered = rebalances.answered.notified();
                let is_over = rebalances.is_over.load(Ordering::SeqCst);
                if is_over || !rebalances.is_asked.load(Ordering::SeqCst) {
                    return;
                }
                answered.await;
            }
        })
    }

    fn on_lost<'a>(&'a self, rebalance: Rebalance<'a>) -> ListenerFuture<'a> {
        Box::pin(async move {
            self.0.lost.lock().extend(rebalance.partitions().iter().cloned());
        })
    }
}

impl Rebalances {
    fn is_asked(&self) -> bool {
        self.is_asked.load(Ordering::SeqCst)
    }

    fn answer(&self) {
        self.is_asked.store(false, Ordering::SeqCst);
        self.answered.notify_waiters();
    }
}

impl ExactlyOnce {
    /// A session of a consumer in a group and a producer with a transactional id. The consumer reads committed records only
    /// and commits nothing by itself; a rebalance listener of its own is replaced.
    pub fn new(consumer: ConsumerBuilder, producer: ProducerBuilder) -> Result<Self, ConfigError> {
        let rebalances = Arc::new(Rebalances::default());
        let consumer = consumer
            .isolation_level(IsolationLevel::ReadCommitted)
            .enable_auto_commit(false)
            .rebalance_listener(Listener(Arc::clone(&rebalances)))
            .build()?;
        Ok(Self {
            consumer,
            producer: producer.build()?,
            commit_interval: COMMIT_INTERVAL,
            rebalances,
            round: None,
            is_sole: false,
            begun: None,
            waiting: None,
            unresolved: None,
            failures: 0,
            not_before: None,
        })
    }

    /// How long a transaction is open before it is committed, at the end of the step under way. Default 100 ms. Less shows
    /// results sooner, more costs less. More than half of the producer's `transaction.timeout.ms` counts as that half: the
    /// coordinator would abort one transaction after the other. While transactions are refused, each is shorter.
    pub fn commit_interval(mut self, interval: Duration) -> Self {
        self.commit_interval = interval;
        self
    }

    /// The consumer.
    pub fn consumer(&self) -> &Consumer {
        &self.consumer
    }

    /// The producer. What it sends outside of a step fails.
    pub fn producer(&self) -> &Producer {
        &self.producer
    }

    /// The next records to process; commits the transaction before when its time is over or when partitions move. `None`
    /// once the consumer was closed, with everything committed.
    ///
    /// The first call ends what an instance before this one, with the same transactional id, left open. Transactions that
    /// can be tried again are: their records come again. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<(PartitionRecords, Step<'_>)>, ExactlyOnceError> {
        if !self.is_sole {
            // Not when there are records: whoever gets its partitions is not told where to begin as long as their offsets
            // hang in a transaction (KIP-447), so there might be none until that times out.
            self.begun = Some(self.producer.begin_open().await?);
            self.is_sole = true;
        }
        loop {
            self.resolve().await?;
            let is_due =
                self.round.as_ref().is_some_and(|round| round.is_spoilt || round.commit_at <= Instant::now());
            if is_due || self.rebalances.is_asked() {
                self.end_round().await?;
                self.rebalances.answer();
                continue;
            }
            self.not_before = self.not_before.filter(|&at| at > Instant::now());
            if self.not_before.is_none()
                && let Some((records, assigned_in)) = self.ready().await?
            {
                return Ok(Some(self.hand_out(records, assigned_in)));
            }
            let commit_at = self.round.as_ref().map(|round| round.commit_at);
            let wake_at = commit_at.into_iter().chain(self.not_before).min();
            tokio::select! {
                // In this order: whoever always has records waiting still commits.
                biased;
                () = self.rebalances.asked.notified() => {}
                () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => {}
                records = self.consumer.next_batch(), if self.waiting.is_none() => match records? {
                    Some(records) => self.waiting = Some(records),
                    None => {
                        self.end_round().await?;
                        return Ok(None);
                    }
                },
            }
        }
    }

    /// Commits what was processed, leaves the group and closes the producer.
    ///
    /// Dropping the future may leave the last transaction to be aborted: its records come again, to whoever reads next.
    pub async fn close(mut self) -> Result<(), ExactlyOnceError> {
        self.resolve().await?;
        self.end_round().await?;
        self.rebalances.is_over.store(true, Ordering::SeqCst);
        self.rebalances.answer();
        // What matters is committed; the group finds out by itself that the member has gone.
        if let Err(error) = self.consumer.close().await {
            tracing::debug!(%error, "the consumer did not leave its group");
        }
        drop(self.producer.close(Duration::from_secs(1)).await);
        Ok(())
    }

    /// Finds out how a transaction ended whose end was not waited for.
    async fn resolve(&mut self) -> Result<(), ExactlyOnceError> {
        if self.unresolved.is_none() {
            return Ok(());
        }
        let begun = self.producer.begin_open().await?;
        let previous = begun.previous;
        self.begun = Some(begun);
        let Some(unresolved) = self.unresolved.take() else { return Ok(()) };
        match previous.filter(|previous| previous.serial == unresolved.serial).and_then(|it| it.outcome) {
            Some(Outcome::Committed) => Ok(()),
            Some(Outcome::Aborted) => {
                self.go_back_to(unresolved.from);
                Ok(())
            }
            None => Err(CommitError::Unresolved { fatal: None }.into()),
        }
    }

    /// The records that wait and their assignment, once there is a transaction for them.
    async fn ready(&mut self) -> Result<Option<(PartitionRecords, u64)>, ExactlyOnceError> {
        if self.waiting.is_none() {
            return Ok(None);
        }
        if self.round.is_none() {
            let Begun { open, serial, .. } = match self.begun.take() {
                Some(begun) => begun,
                None => self.producer.begin_open().await?,
            };
            self.rebalances.lost.lock().clear();
            let longest = self.commit_interval.min(self.producer.transaction_timeout() / 2);
            // What is sent in that time may take too long to be written; less of it may not.
            let interval = longest / (1 << self.failures.min(MAX_HALVINGS));
            self.round = Some(Round {
                open,
                serial,
                commit_at: Instant::now() + interval,
                from: BTreeMap::new(),
                to: BTreeMap::new(),
                is_spoilt: false,
            });
        }
        // Since they were read a seek or a rebalance may have made them void: somebody else may have processed them.
        let current = |records: PartitionRecords| {
            let assigned_in = self.consumer.assignment_of(&records)?;
            Some((records, assigned_in))
        };
        Ok(self.waiting.take().and_then(current))
    }

    fn hand_out(&mut self, records: PartitionRecords, assigned_in: u64) -> (PartitionRecords, Step<'_>) {
        let partition = records.topic_partition().clone();
        if let Some(round) = &mut self.round {
            let here = Beginning { assigned_in, offset: records.position() };
            let from = round.from.entry(partition.clone()).or_insert(here);
            if from.assigned_in != assigned_in {
                // It went and came back: what was read of it before is void, and what is read now comes again.
                round.is_spoilt = true;
                *from = here;
            }
        }
        let mut to = OffsetAndMetadata::new(records.next_offset());
        to.leader_epoch = Some(records.leader_epoch()).filter(|&epoch| epoch >= 0);
        (records, Step { session: self, partition, to, is_done: false })
    }

    /// Commits the round, or aborts it and goes back to where it began.
    async fn end_round(&mut self) -> Result<(), ExactlyOnceError> {
        let Some(round) = self.round.take() else { return Ok(()) };
        let from = round.from.clone();
        self.unresolved = Some(Unresolved { serial: round.serial, from: from.clone() });
        let ended = self.commit(round).await;
        self.unresolved = None;
        if !ended? {
            self.go_back_to(from);
        }
        Ok(())
    }

    /// Whether the round is committed; if not, it is aborted, and may be tried again.
    async fn commit(&mut self, round: Round) -> Result<bool, CommitError> {
        let is_lost = {
            let lost = self.rebalances.lost.lock();
            round.from.iter().any(|(partition, from)| {
                lost.contains(partition) || !self.consumer.has_kept(partition, from.assigned_in)
            })
        };
        // With the membership of now: partitions that went since were committed before, or are lost.
        let group = self.consumer.group_metadata().filter(|_| !is_lost);
        let Some(group) = group.filter(|_| !round.is_spoilt) else {
            tracing::info!(is_lost, unprocessed = round.is_spoilt, "the transaction is aborted");
            // However that goes, nothing of it shows.
            drop(round.open.abort().await);
            return Ok(false);
        };
        let cause = match round.open.commit_offsets(&group, round.to).await {
            Ok(()) => match round.open.commit().await {
                Err(CommitError::Aborted(cause)) => cause,
                ended => {
                    self.failures = 0;
                    return ended.map(|()| true);
                }
            },
            Err(CommitOffsetsError::Abort(cause)) => {
                drop(round.open.abort().await);
                cause
            }
            Err(CommitOffsetsError::Fatal(fatal)) => return Err(CommitError::Fatal(fatal)),
            Err(CommitOffsetsError::Closed) => return Err(CommitError::Unresolved { fatal: None }),
        };
        if let AbortCause::Offsets { code, .. } = cause {
            // Or it would be refused again and again, until a heartbeat tells.
            self.consumer.offsets_refused(group.generation, code);
        }
        if may_succeed(&cause) {
            self.failures += 1;
            self.not_before = Some(Instant::now() + self.consumer.retry_delay(self.failures));
            tracing::info!(%cause, "the transaction is aborted, its records are read again");
            return Ok(false);
        }
        Err(CommitError::Aborted(cause))
    }

    fn go_back_to(&mut self, from: BTreeMap<TopicPartition, Beginning>) {
        // Records that wait are of no transaction yet: those of partitions that are read again are void by that.
        for (partition, Beginning { assigned_in, offset }) in from {
            if self.consumer.has_kept(&partition, assigned_in)
                && let Err(error) = self.consumer.seek(&partition, offset)
            {
                tracing::debug!(%partition, %error, "not read again here");
            }
        }
    }
}

/// Whether the same records may be written the next time.
fn may_succeed(cause: &AbortCause) -> bool {
    match cause {
        AbortCause::Send(error) => {
            error.is_retriable()
                || error.possibly_written()
                || matches!(**error, SendError::Refused { code, .. } if is_of_one_transaction(code))
        }
        // Partitions that moved are read by somebody else, or again.
        AbortCause::Offsets { code, .. } => {
            code.is_retriable()
                || matches!(
                    code,
                    ErrorCode::IllegalGeneration
                        | ErrorCode::UnknownMemberId
                        | ErrorCode::StaleMemberEpoch
                        | ErrorCode::FencedMemberEpoch
                        | ErrorCode::RebalanceInProgress
                        | ErrorCode::TransactionAbortable
                        | ErrorCode::InvalidTxnState
                )
        }
        AbortCause::Coordinator { .. } => true,
    }
}

/// Whether a leader refuses this producer's transaction, not its records: the next one has another epoch, and whoever was
/// fenced learns it when it begins (KIP-588, KIP-890).
fn is_of_one_transaction(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::InvalidProducerEpoch
            | ErrorCode::InvalidTxnState
            | ErrorCode::TransactionAbortable
            | ErrorCode::OutOfOrderSequenceNumber
            | ErrorCode::UnknownProducerId
    )
}

impl Drop for ExactlyOnce {
    fn drop(&mut self) {
        self.rebalances.is_over.store(true, Ordering::SeqCst);
        self.rebalances.answer();
    }
}

impl Step<'_> {
    /// Sends a record as part of the transaction.
    ///
    /// Waits for room only; that it is not written is noticed by the commit. Dropping the future before it is ready means
    /// that the record was not taken.
    pub async fn send(&self, record: Record<'_>) -> Result<(), SendError> {
        self.session.producer.send(record).await.map(drop)
    }

    /// The partition that the records are from.
    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// The records are processed: how far they go is committed with what was sent.
    pub fn done(mut self) {
        self.is_done = true;
        if let Some(round) = &mut self.session.round {
            round.to.insert(self.partition.clone(), self.to.clone());
        }
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        if let Some(round) = self.session.round.as_mut().filter(|_| !self.is_done) {
            round.is_spoilt = true;
        }
    }
}
