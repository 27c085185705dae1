//! Truncation (KIP-320): after an unclean election a leader may lack what was read from its predecessor. Both ways to
//! notice end here: asking a new leader where an epoch ended, and a Fetch answer that names where histories part.

use tokio::time::Instant;

use super::{Check, EpochCheck, Fetcher, PARTITION_BACKOFF, Place, Position};
use crate::TopicPartition;
use crate::consumer::ConsumeError;

impl Fetcher {
    /// The positions to compare with their leaders' histories; each is asked for once.
    pub(crate) fn take_epoch_checks(&mut self, now: Instant) -> Vec<EpochCheck> {
        let mut checks = Vec::new();
        for (partition, state) in &mut self.partitions {
            let is_due = state.is_due(now);
            if let (Place::At { fetch, check, .. }, Some(leader)) = (&mut state.place, state.leader)
                && *check == Check::Due
                && is_due
            {
                *check = Check::Asked;
                checks.push(EpochCheck {
                    partition: partition.clone(),
                    epoch: state.epoch,
                    leader,
                    position_epoch: fetch.leader_epoch,
                });
            }
        }
        checks
    }

    /// The leader answered: the largest epoch it has that is not above the position's, and that epoch's end. `None`: it
    /// knows no such epoch.
    pub(crate) fn epoch_checked(&mut self, asked: &EpochCheck, found: Option<Position>) {
        let Some(state) = self.partitions.get_mut(&asked.partition) else { return };
        let Place::At { fetch, check, .. } = &mut state.place else { return };
        // Since then there was a seek, or another leader.
        if state.epoch != asked.epoch || *check != Check::Asked || state.leader != Some(asked.leader) {
            return;
        }
        *check = Check::Done;
        if found.is_none_or(|found| found.offset < fetch.offset) {
            self.truncated(&asked.partition, found);
        }
    }

    /// The leader did not answer, or cannot be asked: `give_up` if it never will (brokers before Kafka 2.1).
    pub(crate) fn epoch_check_failed(&mut self, asked: &EpochCheck, give_up: bool, now: Instant) {
        let Some(state) = self.partitions.get_mut(&asked.partition) else { return };
        if let Place::At { check, .. } = &mut state.place
            && state.epoch == asked.epoch
            && *check == Check::Asked
        {
            *check = if give_up { Check::Done } else { Check::Due };
            if !give_up {
                state.not_before = Some(now + PARTITION_BACKOFF);
                self.needs_metadata = true;
            }
        }
    }

    /// What was fetched from `end` on is not in the leader's log; `None`: nobody knows since when.
    pub(super) fn truncated(&mut self, partition: &TopicPartition, end: Option<Position>) {
        let Some(state) = self.partitions.get_mut(partition) else { return };
        let Place::At { position, fetch, .. } = &mut state.place else { return };
        let seen_to = position.offset.max(state.handed_to);
        if let Some(end) = end.filter(|end| end.offset >= seen_to) {
            // The reader has seen nothing of it: what is buffered behind is dropped, and all is well.
            if end.offset < fetch.offset {
                *fetch = end;
                while let Some(last) = state.pieces.back_mut() {
                    if last.position < end.offset {
                        last.cut_at(end);
                        break;
                    }
                    state.pieces.pop_back();
                }
                if position.offset == end.offset {
                    position.leader_epoch = end.leader_epoch;
                }
            } else {
                // The same offsets, but of another history than the epoch that was read says.
                fetch.leader_epoch = end.leader_epoch;
            }
            return;
        }
        if position.leader_epoch < 0 && state.handed_to <= position.offset {
            // Nothing was read since a seek: whatever the log is now, the position is what was asked for.
            *fetch = *position;
            state.pieces.clear();
            return;
        }
        tracing::warn!(%partition, seen_to, ?end, "records that were read are lost");
        let place = match end {
            // As Java: where histories part is a better place to go on than where the policy points.
            Some(end) if self.config.reset != crate::consumer::OffsetReset::None => {
                Some(Place::at_checked(end))
            }
            Some(_) => None,
            None => self.reset_place(partition),
        };
        match place {
            Some(place) => {
                self.move_to(partition, place);
            }
            None => {
                self.move_to(partition, Place::Nowhere);
                let error = ConsumeError::LogTruncated {
                    partition: partition.clone(),
                    position: seen_to,
                    diverged_at: end.map(|end| end.offset),
                };
                self.report(partition, error, Place::Nowhere);
            }
        }
    }
}
