//! What handlers read of a partition that this node holds.

use bytes::Bytes;
use kafka_wire::error_code::ErrorCode;
use parking_lot::MappedMutexGuard;

use crate::log::{AbortedTxn, ActiveProducer, FoundOffset, ReadError};
use crate::replica::{Replica, Role, keep_below};
use crate::scatter::Records;

/// The log of a partition, locked, with answers in the wire's terms.
pub(crate) struct Log<'a> {
    pub(super) replica: MappedMutexGuard<'a, Replica>,
    pub(super) leader_epoch: i32,
}

fn unreadable(error: &ReadError) -> ErrorCode {
    let code = error.error_code();
    if code != ErrorCode::OffsetOutOfRange {
        tracing::error!(%error, "log cannot be read");
    }
    code
}

impl Log<'_> {
    pub(crate) fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }

    pub(crate) fn log_start_offset(&self) -> i64 {
        self.replica.log.log_start_offset()
    }

    pub(crate) fn log_end_offset(&self) -> i64 {
        self.replica.log.log_end_offset()
    }

    pub(crate) fn high_watermark(&self) -> i64 {
        self.replica.high_watermark()
    }

    /// Up to where readers of committed records may read.
    pub(crate) fn last_stable_offset(&self) -> i64 {
        self.replica.log.last_stable_offset(self.high_watermark())
    }

    /// The end of what a reader may see.
    pub(crate) fn readable_end(&self, is_committed: bool) -> i64 {
        if is_committed { self.last_stable_offset() } else { self.high_watermark() }
    }

    /// The aborted transactions that have records from `from` up to and without `to`.
    pub(crate) fn aborted_between(&self, from: i64, to: i64) -> Vec<AbortedTxn> {
        self.replica.log.aborted_between(from, to)
    }

    pub(crate) fn active_producers(&self) -> Vec<ActiveProducer> {
        self.replica.log.active_producers()
    }

    /// Whether the high watermark has reached this leader's epoch: before, it may be lower than clients have seen it
    /// (KIP-207).
    pub(crate) fn is_high_watermark_known(&self) -> bool {
        match &self.replica.role {
            Role::Leader(leading) => leading.core.has_reached_epoch(),
            Role::Sole | Role::Follower { .. } => true,
        }
    }

    /// As the leader: the in-sync follower among `nodes` that has the record at `offset` (KIP-392).
    pub(crate) fn follower_near(&self, nodes: &[i32], offset: i64) -> Option<i32> {
        match &self.replica.role {
            Role::Leader(leading) if !nodes.is_empty() => leading.core.follower_among(nodes, offset),
            _ => None,
        }
    }

    /// The epoch in which the record at `offset` was appended, -1 if that is not known.
    pub(crate) fn epoch_at(&self, offset: i64) -> i32 {
        self.replica.log.epoch_at(offset).unwrap_or(-1)
    }

    /// The largest epoch not above `epoch`, and where it ended (OffsetForLeaderEpoch).
    pub(crate) fn end_offset_for_epoch(&self, epoch: i32) -> Option<(i32, i64)> {
        match epoch == self.leader_epoch {
            // The current epoch ends where the log does, even before its first record.
            true => Some((epoch, self.log_end_offset())),
            false => self.replica.log.end_offset_for_epoch(epoch),
        }
    }

    /// The first record with the largest timestamp, if it lies before `end`.
    pub(crate) fn max_timestamp(&self, end: i64) -> Result<Option<FoundOffset>, ErrorCode> {
        let found = self.replica.log.offset_for_max_timestamp().map_err(|error| unreadable(&error))?;
        Ok(found.filter(|found| found.offset < end))
    }

    /// The first record with `timestamp` or a later one, if it lies before `end`.
    pub(crate) fn by_timestamp(&self, timestamp: i64, end: i64) -> Result<Option<FoundOffset>, ErrorCode> {
        let found = self.replica.log.offset_for_timestamp(timestamp).map_err(|error| unreadable(&error))?;
        Ok(found.filter(|found| found.offset < end))
    }

    /// Where a reader's history parts from this log's, if it does: the last epoch that both may have, and where it
    /// ends here (KIP-595).
    pub(crate) fn diverging(&self, epoch: i32, offset: i64) -> Result<Option<(i32, i64)>, ErrorCode> {
        let (known, end) = self.replica.log.end_offset_for_epoch(epoch).ok_or(ErrorCode::OffsetOutOfRange)?;
        Ok((known < epoch || end < offset).then_some((known, end)))
    }

    /// Whole batches from the one that holds `offset` on, up to `max_bytes`, none that reaches beyond `end` (see
    /// [`readable_end`](Self::readable_end)); with `at_least_one`, the first one even if it is larger.
    pub(crate) fn read_records(
        &self,
        offset: i64,
        end: i64,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<Records, ErrorCode> {
        self.read_before(offset, end, max_bytes, at_least_one).map(Records::new)
    }

    /// As [`read_records`](Self::read_records), as it is in memory: one or more batches each.
    pub(crate) fn read_before(
        &self,
        offset: i64,
        end: i64,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<Vec<Bytes>, ErrorCode> {
        let log = &self.replica.log;
        let mut batches = log.read(offset, max_bytes, at_least_one).map_err(|error| unreadable(&error))?;
        if end < log.log_end_offset() {
            keep_below(&mut batches, end);
        }
        Ok(batches)
    }

    /// The same in one piece, for readers inside the broker, which see everything.
    pub(crate) fn read(&self, offset: i64, max_bytes: usize, at_least_one: bool) -> Result<Bytes, ErrorCode> {
        let batches = self.replica.log.read(offset, max_bytes, at_least_one);
        batches.map(|batches| Records::new(batches).into_bytes()).map_err(|error| unreadable(&error))
    }
}
