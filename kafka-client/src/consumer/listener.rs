use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::fetch::Position;
use super::shared::Shared;
use super::{CommitError, OffsetReset};
use crate::TopicPartition;
use crate::group::GroupProtocol;

/// What a [`RebalanceListener`] returns.
pub type ListenerFuture<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Hears of partitions that come and go. The rebalance waits for it, up to `max.poll.interval`, and no record is
/// handed out meanwhile; heartbeats go on.
///
/// Every method does nothing unless it is written. Return `Box::pin(async move { … })`.
pub trait RebalanceListener: Send + Sync {
    /// New partitions are assigned; reading has not begun. Seek here to start elsewhere than at the committed
    /// offset.
    fn on_assigned<'a>(&'a self, rebalance: Rebalance<'a>) -> ListenerFuture<'a> {
        let _ = rebalance;
        Box::pin(std::future::ready(()))
    }

    /// Partitions are about to go to other members. Commits still count; with auto-commit they are done already.
    fn on_revoked<'a>(&'a self, rebalance: Rebalance<'a>) -> ListenerFuture<'a> {
        let _ = rebalance;
        Box::pin(std::future::ready(()))
    }

    /// Partitions are gone, and others may read them already: nothing about them can be committed.
    fn on_lost<'a>(&'a self, rebalance: Rebalance<'a>) -> ListenerFuture<'a> {
        let _ = rebalance;
        Box::pin(std::future::ready(()))
    }
}

/// The partitions that come or go, and what can be done about them meanwhile.
#[derive(Clone)]
pub struct Rebalance<'a> {
    pub(super) partitions: &'a [TopicPartition],
    pub(super) shared: &'a Arc<Shared>,
}

impl Rebalance<'_> {
    /// Which partitions.
    pub fn partitions(&self) -> &[TopicPartition] {
        self.partitions
    }

    /// Starts reading a partition at `offset`. False if it is not assigned.
    pub fn seek(&self, partition: &TopicPartition, offset: i64) -> bool {
        self.shared.seek(partition, Position { offset, leader_epoch: -1 })
    }

    /// Looks the place to start up anew. False if the partition is not assigned.
    pub fn seek_to(&self, partition: &TopicPartition, to: OffsetReset) -> bool {
        self.shared.seek_to(partition, to)
    }

    /// Hands out nothing of a partition until it is resumed. False if it is not assigned.
    pub fn pause(&self, partition: &TopicPartition) -> bool {
        self.shared.pause(partition)
    }

    /// The offset of the next record of a partition; `None` while it is not known.
    pub fn position(&self, partition: &TopicPartition) -> Option<i64> {
        self.shared.positions().get(partition).map(|position| position.offset)
    }

    /// Commits the positions of all assigned partitions, as [`Consumer::commit`](super::Consumer::commit).
    pub async fn commit(&self) -> Result<(), CommitError> {
        self.shared.commit_positions().await
    }
}

/// A change of the assignment, as [`Consumer::rebalances`](super::Consumer::rebalances) reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RebalanceEvent {
    /// The group speaks this protocol; told before the first partitions come.
    Protocol(GroupProtocol),
    /// These partitions came.
    Assigned(Vec<TopicPartition>),
    /// These went, in good order.
    Revoked(Vec<TopicPartition>),
    /// These are gone, and others may read them already.
    Lost(Vec<TopicPartition>),
}
