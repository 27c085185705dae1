//! A stream for each partition, so that partitions are worked on side by side. A stream ends when its partition goes to
//! another member, and the rebalance waits until it is let go of.

use std::fmt;
use std::sync::Arc;

use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::fetch::Position;
use super::shared::{Cursor, Waiting};
use super::{ConsumeError, Consumer, ConsumerRecord};
use crate::TopicPartition;

/// Why a [`PartitionStream`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamEnd {
    /// The partition is about to go to another member, which waits until the stream is let go of.
    Revoked,
    /// The partition is gone, and another member may read it already.
    Lost,
    /// The consumer was closed.
    Closed,
}

/// A partition that is read by a stream of its own.
pub(super) struct Lease {
    pub(super) partition: TopicPartition,
    /// There may be something to read.
    pub(super) data: Arc<Notify>,
    end: watch::Sender<Option<StreamEnd>>,
    pub(super) progress: Mutex<Progress>,
}

/// How far a stream's reader is.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Progress {
    /// The assignment or seek that the positions belong to.
    pub(super) epoch: u64,
    /// Behind the last record that was handed out, and behind the last one that is done.
    pub(super) handed: Option<Position>,
    pub(super) done: Option<Position>,
}

impl Lease {
    pub(super) fn new(partition: TopicPartition) -> Arc<Self> {
        let (end, progress) = (watch::Sender::new(None), Mutex::default());
        Arc::new(Self { partition, data: Arc::new(Notify::new()), end, progress })
    }

    /// Ends the stream, unless it has ended for another reason.
    pub(super) fn end(&self, reason: StreamEnd) {
        self.end.send_if_modified(|end| end.is_none() && end.replace(reason).is_none());
    }

    pub(super) fn has_ended(&self) -> bool {
        self.end.borrow().is_some()
    }
}

/// The partitions of a consumer as streams of their own; made by [`Consumer::partition_streams`].
#[derive(Debug)]
pub struct PartitionStreams {
    consumer: Consumer,
}

impl Consumer {
    /// Each assigned partition as a stream of its own, from the position on, for work on many partitions side by side.
    ///
    /// A partition with a stream is not read by [`Consumer::next`] and [`Consumer::next_batch`]. Its stream ends when a
    /// rebalance takes it away; the rebalance then waits, at most `max.poll.interval`, until the stream is
    /// [released](PartitionStream::release) or dropped, and commits before the next member goes on.
    pub fn partition_streams(&self) -> PartitionStreams {
        PartitionStreams { consumer: self.clone() }
    }
}

impl PartitionStreams {
    /// The next partition that was assigned and has no stream; waits for one. `None` once the consumer is closed.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// What concerns the whole consumer; see [`ConsumeError::is_fatal`].
    pub async fn next(&mut self) -> Option<Result<PartitionStream, ConsumeError>> {
        self.consumer.ensure_started();
        let shared = self.consumer.shared();
        let mut readable = shared.readable.follow();
        let mut waiting = None;
        loop {
            readable.catch_up();
            if let Some(failure) = shared.take_failure() {
                return Some(Err(failure));
            }
            if shared.is_closed() {
                return None;
            }
            if let Some(lease) = shared.lease_next() {
                let consumer = self.consumer.clone();
                return Some(Ok(PartitionStream { consumer, lease, cursor: None, is_released: false }));
            }
            waiting.get_or_insert_with(|| Waiting::new(&shared.waiting));
            readable.changed().await.ok()?;
        }
    }

    /// The streams as a [`Stream`].
    pub fn into_stream(self) -> impl Stream<Item = Result<PartitionStream, ConsumeError>> + Send {
        futures::stream::unfold(self, |mut streams| async move { Some((streams.next().await?, streams)) })
    }
}

/// The records of one partition, in order.
///
/// A record is done once the next one is asked for, or the stream is released; with
/// [`acknowledgements`](super::ConsumerBuilder::acknowledgements), once it is acknowledged. Dropping the stream gives the
/// record that was handed out last back: whoever reads the partition next gets it again.
pub struct PartitionStream {
    consumer: Consumer,
    lease: Arc<Lease>,
    cursor: Option<Cursor>,
    is_released: bool,
}

impl fmt::Debug for PartitionStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionStream")
            .field("partition", &self.lease.partition)
            .field("end", &self.end_reason())
            .finish_non_exhaustive()
    }
}

impl PartitionStream {
    /// The partition.
    pub fn topic_partition(&self) -> &TopicPartition {
        &self.lease.partition
    }

    /// The next record; waits for one. `None` once the stream has ended: see [`PartitionStream::end_reason`].
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// What concerns this partition.
    pub async fn next(&mut self) -> Option<Result<ConsumerRecord, ConsumeError>> {
        let shared = Arc::clone(self.consumer.shared());
        let mut end = self.lease.end.subscribe();
        let mut waiting = None;
        loop {
            shared.stream_polled();
            if end.borrow_and_update().is_some() {
                return None;
            }
            if let Some(item) = shared.take_from_lease(&self.lease, &mut self.cursor) {
                return Some(item);
            }
            waiting.get_or_insert_with(|| Waiting::new(&shared.waiting));
            tokio::select! {
                biased;
                () = self.lease.data.notified() => {}
                changed = end.changed() => changed.ok()?,
            }
        }
    }

    /// The records as a [`Stream`] that ends as [`PartitionStream::next`] does; the partition is let go of with it.
    pub fn into_stream(self) -> impl Stream<Item = Result<ConsumerRecord, ConsumeError>> + Send {
        futures::stream::unfold(self, |mut stream| async move { Some((stream.next().await?, stream)) })
    }

    /// The application is done with a record, in any order; see [`Consumer::ack`].
    pub fn ack(&self, record: &ConsumerRecord) {
        self.consumer.ack(record);
    }

    /// Why the stream ended; `None` while it has not.
    pub fn end_reason(&self) -> Option<StreamEnd> {
        *self.lease.end.borrow()
    }

    /// Waits until the stream ends: a reason to finish quickly what is under way.
    pub async fn revoking(&self) -> StreamEnd {
        let mut end = self.lease.end.subscribe();
        let ended = end.wait_for(Option::is_some).await.ok().and_then(|end| *end);
        // The sender is the lease's own; it cannot be gone.
        ended.unwrap_or(StreamEnd::Closed)
    }

    /// Lets go of the partition: everything that was handed out is done.
    pub fn release(mut self) {
        self.is_released = true;
    }
}

impl Drop for PartitionStream {
    fn drop(&mut self) {
        self.consumer.shared().end_lease(&self.lease, self.cursor.take(), self.is_released);
    }
}
