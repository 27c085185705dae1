//! The reader's side: what it gets, and what it says about it.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Fetcher, Next, Place, Position, REPORTED_BACKOFF};
use crate::TopicPartition;
use crate::consumer::PartitionRecords;

impl Fetcher {
    /// What the reader gets next. Records take from the budget until they are dropped.
    pub(crate) fn next(&mut self) -> Option<Next> {
        while let Some(partition) = self.ready.pop_front() {
            let Some(state) = self.partitions.get_mut(&partition) else { continue };
            state.queued = false;
            if state.paused || state.lease.is_some() {
                continue;
            }
            if let Some(next) = self.take_next(&partition) {
                return Some(next);
            }
        }
        None
    }

    /// As [`Fetcher::next`], of one partition.
    pub(crate) fn next_of(&mut self, partition: &TopicPartition) -> Option<Next> {
        if self.partitions.get(partition)?.paused {
            return None;
        }
        self.take_next(partition)
    }

    fn take_next(&mut self, partition: &TopicPartition) -> Option<Next> {
        loop {
            let state = self.partitions.get_mut(partition)?;
            let Some(piece) = state.pieces.pop_front() else {
                return state.error.take().map(Next::Error);
            };
            state.handed_to = piece.end.offset;
            let Some(last) = piece.batches.back() else {
                let (epoch, end) = (piece.epoch, piece.end);
                self.read_to(partition, epoch, end);
                continue;
            };
            state.handed_timestamp = Some(last.max_timestamp()).filter(|timestamp| *timestamp >= 0);
            self.enqueue(partition);
            return Some(Next::Records(piece));
        }
    }

    /// The reader is through with records up to `position`.
    pub(crate) fn read_to(&mut self, partition: &TopicPartition, epoch: u64, to: Position) {
        if let Some(state) = self.partitions.get_mut(partition)
            && state.epoch == epoch
            && let Place::At { position, fetch, .. } = &mut state.place
        {
            *position = to;
            if to.offset > fetch.offset {
                *fetch = to;
            }
        }
    }

    /// Takes records back that the reader got and did not use, such as those of a partition that was paused.
    pub(crate) fn put_back(&mut self, records: PartitionRecords) {
        let partition = records.partition.clone();
        if let Some(state) = self.partitions.get_mut(&partition)
            && state.epoch == records.epoch
        {
            state.handed_to = records.position;
            state.pieces.push_front(records);
            self.enqueue(&partition);
        }
    }

    /// The batch at `offset` is damaged: fetch it again, in case the damage came about on the way. Returns the
    /// epoch that records from before it now count under.
    pub(crate) fn refetch(
        &mut self,
        partition: &TopicPartition,
        epoch: u64,
        offset: i64,
        now: Instant,
    ) -> Option<u64> {
        let state = self.partitions.get(partition).filter(|state| state.epoch == epoch)?;
        let Place::At { position, check, .. } = state.place else { return None };
        let fetch = Position { offset: offset.max(position.offset), leader_epoch: position.leader_epoch };
        self.move_to(partition, Place::At { position, fetch, check });
        let state = self.partitions.get_mut(partition)?;
        state.not_before = Some(now + REPORTED_BACKOFF);
        // Records from before the damage may still be with the reader.
        state.handed_to = fetch.offset;
        Some(state.epoch)
    }

    /// A reader of its own takes a partition over: it is told of data, and [`Fetcher::next`] leaves it alone.
    pub(crate) fn lease(&mut self, partition: &TopicPartition, data: Arc<Notify>) {
        if let Some(state) = self.partitions.get_mut(partition) {
            data.notify_one();
            state.lease = Some(data);
        }
    }

    pub(crate) fn end_lease(&mut self, partition: &TopicPartition) {
        if let Some(state) = self.partitions.get_mut(partition) {
            state.lease = None;
            self.enqueue(partition);
        }
    }
}
