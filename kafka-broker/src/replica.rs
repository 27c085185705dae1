//! A node's replica of one partition: its log, and whether it leads, follows or is the only one.

use std::sync::Arc;

use bytes::Bytes;
use kafka_wire::record_batch::RecordBatch;

use crate::cluster::record::PartitionState;
use crate::log::{PartitionLog, ProducerState};
use crate::replication::{Alignment, History, Leader, align};
use crate::replicator::Inbox;

/// What a node has of a partition.
pub(crate) enum Hosted {
    /// No replica: others hold the partition.
    Absent,
    Online(Replica),
    /// The log could not be opened, or broke: clients are told to come back.
    Failed,
    /// The topic is gone.
    Deleted,
}

pub(crate) struct Replica {
    pub(crate) log: Box<PartitionLog>,
    pub(crate) role: Role,
}

pub(crate) enum Role {
    /// Leads, and no other replica exists: what the log holds is committed.
    Sole,
    Leader(Box<Leading>),
    Follower {
        high_watermark: i64,
    },
}

/// A leader with whom it has to tell of appends.
pub(crate) struct Leading {
    pub(crate) core: Leader,
    pub(crate) inboxes: Vec<Arc<Inbox>>,
}

/// Where a node stands: what a replica needs to know when the controller changes its partition.
pub(crate) struct Place<'a> {
    pub(crate) node_id: i32,
    pub(crate) now_ms: i64,
    /// Where a node is told that there is more to copy.
    pub(crate) inbox: &'a dyn Fn(i32) -> Arc<Inbox>,
}

impl Replica {
    pub(crate) fn new(log: PartitionLog, high_watermark: i64) -> Self {
        let high_watermark = high_watermark.clamp(log.log_start_offset(), log.log_end_offset());
        Self { log: Box::new(log), role: Role::Follower { high_watermark } }
    }

    pub(crate) fn is_leader(&self) -> bool {
        !matches!(self.role, Role::Follower { .. })
    }

    /// The offset after the last record that cannot be lost any more.
    pub(crate) fn high_watermark(&self) -> i64 {
        match &self.role {
            Role::Sole => self.log.high_watermark(),
            Role::Leader(leading) => leading.core.high_watermark().min(self.log.high_watermark()),
            Role::Follower { high_watermark } => *high_watermark,
        }
    }

    /// Forgets what the high watermark has left behind of ended transactions.
    pub(crate) fn settle_transactions(&mut self) {
        let high_watermark = self.high_watermark();
        self.log.settle_transactions(high_watermark);
    }

    /// Takes the role that the controller gives. Returns how many bytes became readable by that alone.
    pub(crate) fn assume(
        &mut self,
        state: &PartitionState,
        same_epoch: bool,
        min_insync: usize,
        place: &Place<'_>,
    ) -> Option<usize> {
        let (end, high_watermark) = (self.log.log_end_offset(), self.high_watermark());
        if state.leader != place.node_id {
            self.role = Role::Follower { high_watermark };
            return None;
        }
        if state.replicas.len() == 1 {
            let was_sole = matches!(self.role, Role::Sole);
            self.role = Role::Sole;
            return (!was_sole).then_some(0);
        }
        let inboxes = state.replicas.iter().filter(|&&node| node != place.node_id);
        let inboxes: Vec<_> = inboxes.map(|&node| (place.inbox)(node)).collect();
        match &mut self.role {
            Role::Leader(leading) if same_epoch => {
                leading.inboxes = inboxes;
                leading.core.update(&state.replicas, &state.isr, min_insync, end)
            }
            _ => {
                let core = Leader::new(
                    place.node_id,
                    &state.replicas,
                    &state.isr,
                    min_insync,
                    end,
                    high_watermark,
                    place.now_ms,
                );
                let gained = core.high_watermark() > high_watermark;
                self.role = Role::Leader(Box::new(Leading { core, inboxes }));
                gained.then_some(0)
            }
        }
    }

    pub(crate) fn history(&self) -> History {
        History {
            last_epoch: self.log.latest_epoch(),
            log_start_offset: self.log.log_start_offset(),
            log_end_offset: self.log.log_end_offset(),
        }
    }

    /// Compares a follower's history with this log.
    pub(crate) fn align(&self, follower: History) -> Alignment {
        let log = &self.log;
        align(follower, log.log_start_offset(), log.log_end_offset(), |epoch| log.end_offset_for_epoch(epoch))
    }

    /// Cuts the log back to where it is the leader's, as far as `alignment` tells; one that begins anew takes the
    /// leader's `producers` over.
    pub(crate) fn follow(&mut self, alignment: Alignment, producers: ProducerState) -> std::io::Result<()> {
        match alignment {
            Alignment::Aligned => return Ok(()),
            Alignment::StartAt(offset) => self.log.restart_at(offset, producers)?,
            Alignment::TruncateTo { epoch, end_offset } => {
                let own_end = match (epoch, self.log.end_offset_for_epoch(epoch)) {
                    (0.., Some((_, own_end))) => own_end,
                    (0.., None) => self.log.log_start_offset(),
                    _ => end_offset,
                };
                self.log.truncate_to(end_offset.min(own_end))?;
            }
        }
        let (start, end) = (self.log.log_start_offset(), self.log.log_end_offset());
        if let Role::Follower { high_watermark } = &mut self.role {
            *high_watermark = (*high_watermark).clamp(start, end);
        }
        Ok(())
    }

    /// Takes over what the leader says is committed. Returns whether that is news.
    pub(crate) fn follow_high_watermark(&mut self, leaders: i64) -> bool {
        let end = self.log.log_end_offset();
        let Role::Follower { high_watermark } = &mut self.role else { return false };
        let before = *high_watermark;
        *high_watermark = before.max(leaders.min(end));
        *high_watermark > before
    }
}

/// Drops whole batches from the end of what was read, so that none at or above `offset` is left.
pub(crate) fn keep_below(batches: &mut Vec<Bytes>, offset: i64) {
    let mut kept = Vec::with_capacity(batches.len());
    for piece in batches.drain(..) {
        let mut whole = 0;
        for batch in RecordBatch::iter(piece.clone()).map_while(Result::ok) {
            if batch.next_offset() > offset {
                break;
            }
            whole += batch.size_bytes();
        }
        let cut = whole < piece.len();
        if whole > 0 {
            kept.push(piece.slice(..whole));
        }
        if cut {
            break;
        }
    }
    *batches = kept;
}
