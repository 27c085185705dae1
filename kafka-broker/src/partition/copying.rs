//! Replication between two nodes' replicas of one partition: what a leader hands out and what a follower does with it.
//! One side's lock at a time; [`replicator`](crate::replicator) carries things across.

use bytes::Bytes;
use kafka_wire::error_code::ErrorCode;

use super::{Partition, Unflushed};
use crate::cluster::elections::AlterPartition;
use crate::log::{ProducerState, ReadError};
use crate::replica::{Replica, Role};
use crate::replication::{Alignment, History};
use crate::replication_quota::Side;

/// What a leader has for a follower.
pub(crate) enum Copied {
    Align {
        alignment: Alignment,
        /// Producers at the offset where the follower's log is to begin anew.
        producers: ProducerState,
    },
    Batches(Batches),
    /// The leader's log cannot be read.
    Failed(ReadError),
}

/// What a follower appends, and what it learns on the way.
pub(crate) struct Batches {
    pub(crate) batches: Vec<Bytes>,
    pub(crate) high_watermark: i64,
    pub(crate) log_start_offset: i64,
    /// What the leader wants to become of its in-sync replicas now that the follower has come so far.
    pub(crate) expand: Option<AlterPartition>,
}

impl Partition {
    /// As a follower: who leads, in which epoch, and this replica's history.
    pub(crate) fn follower(&self) -> Option<(i32, i32, History)> {
        let mut state = self.state.lock();
        let (leader, leader_epoch) = (state.leader, state.leader_epoch);
        // What a log that is given up holds is nothing for a leader to count on.
        let replica = state.replica().filter(|replica| !replica.is_leader() && !replica.log.is_offline())?;
        Some((leader, leader_epoch, replica.history()))
    }

    /// As a follower: syncs what was copied if `flush.messages` asks for it. The leader is told of it afterwards only, so
    /// that what all replicas have is on all their disks.
    pub(crate) async fn flush_copied(&self, may_block: bool) -> Result<(), ErrorCode> {
        let due = self.maintain(|log| log.is_flush_due().then(|| log.log_end_offset())).flatten();
        match due {
            Some(end_offset) => self.flushed(Unflushed { end_offset, readable: None }, may_block).await,
            None => Ok(()),
        }
    }

    /// Which limits hold for what `follower` copies from `leader`, asked on the leader's node: none once it is in sync.
    pub(crate) fn throttles(&self, leader: i32, follower: i32) -> Vec<Side> {
        let mut state = self.state.lock();
        if let Some(Replica { role: Role::Leader(leading), .. }) = state.replica()
            && leading.core.is_in_sync(follower)
        {
            return Vec::new();
        }
        let sides = [
            (Side::Leader, &state.throttled_leaders, leader),
            (Side::Follower, &state.throttled_followers, follower),
        ];
        let throttled = sides.into_iter().filter(|(_, listed, node)| listed.contains(self.index, *node));
        throttled.map(|(side, ..)| side).collect()
    }

    /// As the leader: what a follower with that history gets next. `None`: not the leader in that epoch.
    pub(crate) fn copy_for(
        &self,
        node_id: i32,
        leader_epoch: i32,
        follower: History,
        max_bytes: usize,
        now_ms: i64,
    ) -> Option<Copied> {
        let mut state = self.state.lock();
        if !state.is_led_here || state.leader_epoch != leader_epoch {
            return None;
        }
        let (leader, partition_epoch) = (state.leader, state.partition_epoch);
        let replica = state.replica()?;
        match replica.align(follower) {
            Alignment::Aligned => {}
            alignment => {
                let producers = match alignment {
                    Alignment::StartAt(offset) => replica.log.producers_at(offset),
                    _ => ProducerState::default(),
                };
                return Some(Copied::Align { alignment, producers });
            }
        }
        let (log_start_offset, end) = (replica.log.log_start_offset(), replica.log.log_end_offset());
        let Role::Leader(leading) = &mut replica.role else { return None };
        let has_deleted = leading.core.starts_at(node_id, follower.log_start_offset);
        let progress = leading.core.fetched(node_id, follower.log_end_offset, end, now_ms);
        let high_watermark = leading.core.high_watermark();
        if progress.committed_bytes.is_some() {
            // The others learn how far the commit has come, as they would with their next fetch.
            leading.inboxes.iter().for_each(|inbox| inbox.push(self.topic_id, self.index));
        }
        let read = match follower.log_end_offset < end {
            true => replica.log.read(follower.log_end_offset, max_bytes, true),
            false => Ok(Vec::new()),
        };
        drop(state);
        if let Some(bytes) = progress.committed_bytes {
            self.waiters.appended(bytes);
        }
        if has_deleted || progress.committed_bytes.is_some() {
            self.commits.notify_waiters();
        }
        let expand = progress.expand_to.map(|isr| AlterPartition {
            topic_id: self.topic_id,
            index: self.index,
            node_id: leader,
            leader_epoch,
            partition_epoch,
            isr,
        });
        Some(match read {
            Ok(batches) => Copied::Batches(Batches { batches, high_watermark, log_start_offset, expand }),
            Err(error) => Copied::Failed(error),
        })
    }

    /// As a follower: goes on from what [`copy_for`](Self::copy_for) gave. Nothing happens if the leader has changed.
    /// Returns the log's start if it followed the leader's.
    pub(crate) fn copied(
        &self,
        leader_epoch: i32,
        copied: Batches,
        now_ms: i64,
    ) -> Result<Option<i64>, ErrorCode> {
        let mut state = self.state.lock();
        if state.leader_epoch != leader_epoch {
            return Ok(None);
        }
        let Some(replica) = state.replica().filter(|replica| !replica.is_leader()) else { return Ok(None) };
        let mut batches = copied.batches.into_iter();
        let appended = batches.try_for_each(|batches| replica.log.append_as_follower(batches, now_ms));
        if replica.follow_high_watermark(copied.high_watermark) {
            // Consumers may read here as well (KIP-392). How many bytes that is nobody counts: they look.
            self.waiters.wake_all();
        }
        appended.map_err(|error| self.refusal(error).code)?;
        replica.settle_transactions();
        // Records that were deleted on the leader are deleted here as soon as they are here.
        let start = copied.log_start_offset.min(replica.log.log_end_offset());
        if start <= replica.log.log_start_offset() {
            return Ok(None);
        }
        replica.log.restore_log_start(start).map_err(|error| self.refusal(error.into()).code)?;
        Ok(Some(start))
    }

    /// As a follower: cuts what is not the leader's.
    pub(crate) fn follow(
        &self,
        leader_epoch: i32,
        alignment: Alignment,
        producers: ProducerState,
    ) -> std::io::Result<()> {
        let mut state = self.state.lock();
        if state.leader_epoch != leader_epoch {
            return Ok(());
        }
        match state.replica().filter(|replica| !replica.is_leader()) {
            Some(replica) => replica.follow(alignment, producers),
            None => Ok(()),
        }
    }

    /// As the leader: the in-sync replicas without those that lag (`replica.lag.time.max.ms`).
    pub(crate) fn shrink_isr(&self, lag_max_ms: i64, now_ms: i64) -> Option<AlterPartition> {
        let mut state = self.state.lock();
        let (node_id, leader_epoch, partition_epoch) =
            (state.leader, state.leader_epoch, state.partition_epoch);
        let replica = state.replica()?;
        let end = replica.log.log_end_offset();
        let Role::Leader(leading) = &mut replica.role else { return None };
        let isr = leading.core.shrink(end, lag_max_ms, now_ms)?;
        let (topic_id, index) = (self.topic_id, self.index);
        Some(AlterPartition { topic_id, index, node_id, leader_epoch, partition_epoch, isr })
    }

    /// The controller refused a change of the in-sync replicas.
    pub(crate) fn proposal_failed(&self) {
        if let Some(Replica { role: Role::Leader(leading), .. }) = self.state.lock().replica() {
            leading.core.proposal_failed();
        }
    }
}
