//! What streams of single partitions need of the shared state.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::fetch::Position;
use super::shared::{Cursor, Shared};
use super::streams::{Lease, StreamEnd};
use super::{ConsumeError, ConsumerRecord};
use crate::TopicPartition;

impl Shared {
    /// A lease for an assigned partition that has none, unless a rebalance is under way.
    pub(super) fn lease_next(&self) -> Option<Arc<Lease>> {
        if self.is_gated() {
            return None;
        }
        // What a reader of single records holds goes back to its partition.
        let at_work = self.give_back_cursor();
        let mut leases = self.leases.lock();
        let mut fetcher = self.fetcher.lock();
        let is_free = |partition: &TopicPartition| {
            !leases.contains_key(partition) && at_work.as_ref() != Some(partition)
        };
        let partition = fetcher.assignment().into_iter().find(is_free)?;
        let lease = Lease::new(partition.clone());
        fetcher.lease(&partition, Arc::clone(&lease.data));
        leases.insert(partition, Arc::clone(&lease));
        Some(lease)
    }

    /// The next record of a stream, if there is one at hand.
    pub(super) fn take_from_lease(
        &self,
        lease: &Lease,
        cursor: &mut Option<Cursor>,
    ) -> Option<Result<ConsumerRecord, ConsumeError>> {
        {
            let mut progress = lease.progress.lock();
            progress.done = progress.handed;
        }
        self.revalidate(cursor);
        let taken = self.take_record_from(cursor, || self.fetcher.lock().next_of(&lease.partition))?;
        if let (Ok(record), Some(cursor)) = (&taken, cursor) {
            let handed = Position { offset: record.offset + 1, leader_epoch: record.leader_epoch };
            let mut progress = lease.progress.lock();
            let epoch = cursor.epoch();
            if progress.epoch != epoch {
                // The first of an assignment or a seek: what came before says nothing about it.
                let before = Position { offset: record.offset, leader_epoch: -1 };
                (progress.epoch, progress.done) = (epoch, Some(before));
            }
            progress.done.get_or_insert(Position { offset: record.offset, leader_epoch: -1 });
            progress.handed = Some(handed);
        }
        Some(taken)
    }

    /// A stream was let go of.
    pub(super) fn end_lease(&self, lease: &Arc<Lease>, cursor: Option<Cursor>, is_released: bool) {
        let progress = *lease.progress.lock();
        {
            let mut leases = self.leases.lock();
            let mut fetcher = self.fetcher.lock();
            let is_current = fetcher.is_at(&lease.partition, progress.epoch);
            if let (true, Some(handed)) = (is_current, progress.handed) {
                fetcher.read_to(&lease.partition, progress.epoch, handed);
            }
            if let Some(cursor) = cursor {
                fetcher.put_back(cursor.into_rest());
            }
            let undone = progress.done.filter(|_| !is_released && !self.options.acknowledgements);
            if let (true, Some(done)) = (is_current, undone.filter(|_| progress.done != progress.handed)) {
                fetcher.seek(&lease.partition, done);
            }
            if leases.get(&lease.partition).is_some_and(|known| Arc::ptr_eq(known, lease)) {
                leases.remove(&lease.partition);
                fetcher.end_lease(&lease.partition);
            }
        }
        self.returned.tell(());
        self.invalidate();
    }

    /// Ends the streams of partitions that are to be given up. The rebalance waits until they are let go of; see
    /// [`Shared::reader_is_busy`].
    pub(super) fn begin_revoke(&self, partitions: &[TopicPartition]) {
        self.end_streams(partitions, StreamEnd::Revoked);
    }

    pub(super) fn end_streams(&self, partitions: &[TopicPartition], reason: StreamEnd) {
        let leases = self.leases.lock();
        partitions.iter().filter_map(|partition| leases.get(partition)).for_each(|lease| lease.end(reason));
    }

    /// Whether some stream has ended and was not let go of.
    pub(super) fn streams_are_busy(&self) -> bool {
        self.leases.lock().values().any(|lease| lease.has_ended())
    }

    /// Ends all streams and waits for their readers.
    pub(super) async fn close_streams(&self, deadline: Instant) {
        self.leases.lock().values().for_each(|lease| lease.end(StreamEnd::Closed));
        let mut returned = self.returned.follow();
        while {
            returned.catch_up();
            self.streams_are_busy()
        } {
            if tokio::time::timeout_at(deadline, returned.changed()).await.is_err() {
                tracing::warn!("the consumer closes although streams of its partitions are still held");
                break;
            }
        }
    }

    /// Tells the group that the application lives.
    pub(super) fn stream_polled(&self) {
        self.polled.store(true, Ordering::Relaxed);
    }

    /// Where streams are, told to the fetcher.
    pub(super) fn fold_leases(&self) {
        let leases = self.leases.lock();
        let mut fetcher = self.fetcher.lock();
        for lease in leases.values() {
            let progress = *lease.progress.lock();
            if let Some(handed) = progress.handed {
                fetcher.read_to(&lease.partition, progress.epoch, handed);
            }
        }
    }

    /// What streams are done with, where that is less than what they handed out.
    pub(super) fn undone_in_leases(&self) -> Vec<(TopicPartition, Position)> {
        let leases = self.leases.lock();
        let fetcher = self.fetcher.lock();
        let mut undone = Vec::new();
        for lease in leases.values() {
            let progress = *lease.progress.lock();
            if let Some(done) = progress.done
                && progress.done != progress.handed
                && fetcher.is_at(&lease.partition, progress.epoch)
            {
                undone.push((lease.partition.clone(), done));
            }
        }
        undone
    }
}
