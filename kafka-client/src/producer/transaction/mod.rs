//! Transactions: records of several partitions, and offsets of consumer groups, that become visible together or never
//! (KIP-98, KIP-447, KIP-890).
//!
//! ```no_run
//! # async fn f(client: kafka_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use kafka_client::producer::Record;
//!
//! let producer = client.producer().transactional_id("transfers").build()?;
//! let transaction = producer.begin().await?;
//! transaction.send(Record::to("accounts").key("alice").value("-10")).await?;
//! transaction.send(Record::to("accounts").key("bob").value("+10")).await?;
//! transaction.commit().await?; // waits for both records; if one was not written, neither ever shows
//! # Ok(()) }
//! ```

pub(crate) mod core;
#[cfg(test)]
mod core_tests;
pub(super) mod error;

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::timeout;

pub use self::error::{AbortCause, AbortError, BeginError, CommitError, CommitOffsetsError, FatalError};
pub(crate) use super::task::Begun;
use super::{Producer, Record, SendAllError, SendError, Shared};
use crate::TopicPartition;
use crate::consumer::OffsetAndMetadata;

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// All of it is visible.
    Committed,
    /// Nothing of it ever will be.
    Aborted,
}

/// For whom a transaction commits offsets, so that a consumer which has lost its partitions cannot (KIP-447).
///
/// [`Consumer::group_metadata`](crate::Consumer::group_metadata) gives it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct GroupMetadata {
    /// The group.
    pub group_id: String,
    /// The generation, or the member's epoch (KIP-848); -1 for who is no member.
    pub generation: i32,
    /// The member's id; empty for who is no member.
    pub member_id: String,
    /// The id of a static member (`group.instance.id`).
    pub instance_id: Option<String>,
}

impl GroupMetadata {
    /// A group whose offsets are committed by somebody who is not a member: only the transactional id fences him.
    pub fn of_group(group_id: impl Into<String>) -> Self {
        Self { group_id: group_id.into(), generation: -1, member_id: String::new(), instance_id: None }
    }
}

/// An open transaction; made by [`Producer::begin`].
///
/// What the producer or any of its clones sends while it is open is part of it. Dropping it aborts it in the background,
/// without blocking; the next [`begin`](Producer::begin) waits for that.
#[derive(Debug)]
#[must_use = "a transaction that is dropped is aborted"]
pub struct Transaction<'p> {
    producer: &'p Producer,
    open: Open,
    previous: Option<Outcome>,
}

/// A transaction that is open, and aborted if nobody ends it.
pub(crate) struct Open {
    shared: Option<Arc<Shared>>,
    /// Whoever asked for it has it.
    is_seen: bool,
}

impl Open {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared: Some(shared), is_seen: false }
    }

    pub(crate) async fn commit_offsets(
        &self,
        group: &GroupMetadata,
        offsets: BTreeMap<TopicPartition, OffsetAndMetadata>,
    ) -> Result<(), CommitOffsetsError> {
        let Some(shared) = self.shared.as_ref().filter(|_| !offsets.is_empty()) else { return Ok(()) };
        let committed = shared.commands.commit_offsets(group.clone(), offsets);
        shared.accumulator.wake.notify_one();
        committed.await.unwrap_or(Err(CommitOffsetsError::Closed))
    }

    pub(crate) async fn commit(mut self) -> Result<(), CommitError> {
        match self.end(true) {
            Some(ended) => ended.await.unwrap_or(Err(CommitError::Unresolved { fatal: None })).map(drop),
            None => Ok(()),
        }
    }

    pub(crate) async fn abort(mut self) -> Result<(), AbortError> {
        let Some(ended) = self.end(false) else { return Ok(()) };
        match ended.await {
            Ok(Ok(_) | Err(CommitError::Aborted(_))) => Ok(()),
            Ok(Err(CommitError::Fatal(fatal))) => Err(AbortError::Fatal(fatal)),
            Ok(Err(CommitError::Unresolved { .. })) | Err(_) => Err(AbortError::Unresolved),
        }
    }

    fn end(&mut self, commit: bool) -> Option<oneshot::Receiver<Result<Outcome, CommitError>>> {
        let shared = self.shared.take()?;
        let ended = shared.commands.end_transaction(commit, self.is_seen);
        shared.accumulator.wake.notify_one();
        Some(ended)
    }
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Open").field(&self.shared.is_some()).finish()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        drop(self.end(false));
    }
}

impl Producer {
    /// Begins a transaction.
    ///
    /// The first call fences every other producer of the same transactional id and aborts what it left open. A call waits
    /// until the transaction before has ended, up to `max.block`; [`Transaction::previous`] tells how it did, whoever
    /// stopped waiting for that. Dropping the future begins nothing.
    pub async fn begin(&self) -> Result<Transaction<'_>, BeginError> {
        let Begun { open, previous, .. } = self.begin_open().await?;
        let previous = previous.and_then(|previous| previous.outcome);
        Ok(Transaction { producer: self, open, previous })
    }

    pub(crate) async fn begin_open(&self) -> Result<Begun, BeginError> {
        let shared = self.shared();
        if shared.options.sender.transactional_id.is_none() {
            return Err(BeginError::NotTransactional);
        }
        if shared.accumulator.is_closed() {
            return Err(BeginError::Closed);
        }
        shared.ensure_started();
        let begun = shared.commands.begin_transaction();
        shared.accumulator.wake.notify_one();
        let waited = shared.options.max_block;
        match timeout(waited, begun).await {
            Ok(Ok(Ok(mut begun))) => {
                begun.open.is_seen = true;
                Ok(begun)
            }
            Ok(Ok(Err(fatal))) => Err(BeginError::Fatal(fatal)),
            Ok(Err(_)) => Err(BeginError::Closed),
            Err(_) => Err(BeginError::TimedOut { waited }),
        }
    }
}

impl<'p> Transaction<'p> {
    /// How this producer's transaction before this one ended; `None` if there was none, or if nobody knows
    /// ([`CommitError::Unresolved`]).
    pub fn previous(&self) -> Option<Outcome> {
        self.previous
    }

    /// The producer.
    pub fn producer(&self) -> &'p Producer {
        self.producer
    }

    /// [`Producer::send`] in this transaction: waits for room only. [`commit`](Self::commit) fails if the record is not
    /// written; who wants its offset sends by [`producer`](Self::producer).
    #[inline]
    pub async fn send(&self, record: Record<'_>) -> Result<(), SendError> {
        self.producer.send(record).await.map(drop)
    }

    /// [`Producer::send_all`] in this transaction.
    pub async fn send_all<'a, I>(&self, records: I) -> Result<(), SendAllError>
    where
        I: IntoIterator<Item = Record<'a>>,
    {
        self.producer.send_all(records).await.map(drop)
    }

    /// Commits a group's offsets with the transaction: they count if it is committed (KIP-447). An offset is that of the
    /// next record to read.
    ///
    /// If the consumer is no member of the group any more, or its partitions were given away since, the transaction can only
    /// be aborted. Dropping the future takes nothing back.
    pub async fn commit_offsets<P, I>(
        &self,
        group: &GroupMetadata,
        offsets: I,
    ) -> Result<(), CommitOffsetsError>
    where
        P: Borrow<TopicPartition>,
        I: IntoIterator<Item = (P, OffsetAndMetadata)>,
    {
        let offsets = offsets.into_iter().map(|(partition, at)| (partition.borrow().clone(), at)).collect();
        self.open.commit_offsets(group, offsets).await
    }

    /// Waits until every record is written, and commits.
    ///
    /// Tries for as long as the coordinator does not answer. Dropping the future does not take the commit back: the next
    /// [`begin`](Producer::begin) waits for it and tells how it went. A future that was never polled aborts.
    pub async fn commit(self) -> Result<(), CommitError> {
        self.open.commit().await
    }

    /// Aborts: nothing that was sent in the transaction ever shows to readers of committed records.
    ///
    /// Records that have not left yet fail with [`SendError::NoTransaction`]. Dropping the
    /// future does not take it back.
    pub async fn abort(self) -> Result<(), AbortError> {
        self.open.abort().await
    }
}
