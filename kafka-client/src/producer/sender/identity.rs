//! Who the producer is: its id and epoch, and when they change.

use kafka_wire::ErrorCode;
use tokio::time::Instant;

use super::super::batch::Identity;
use super::super::error::SendError;
use super::super::events::ProducerEvent;
use super::{Action, Sender};

#[derive(Debug)]
pub(super) enum IdentityState {
    NotNeeded,
    Unknown { retry_at: Option<Instant>, failures: u32 },
    Asked { failures: u32 },
    Known(Identity),
    Denied(ErrorCode),
}

impl IdentityState {
    pub(super) fn new(needed: bool) -> Self {
        if needed { Self::Unknown { retry_at: None, failures: 0 } } else { Self::NotNeeded }
    }
}

impl Sender {
    /// Takes the cluster's answer to InitProducerId.
    pub(in super::super) fn identified(&mut self, identity: Identity) {
        self.identity = IdentityState::Known(identity);
    }

    /// InitProducerId failed. Without idempotence's id nothing can be sent: unless it is worth another try, every
    /// batch fails.
    pub(in super::super) fn not_identified(&mut self, now: Instant, code: ErrorCode) {
        if code.is_retriable() {
            let failures = match self.identity {
                IdentityState::Asked { failures } => failures + 1,
                _ => 1,
            };
            let retry_at = Some(now + self.delay(failures));
            self.identity = IdentityState::Unknown { retry_at, failures };
            return;
        }
        self.identity = IdentityState::Denied(code);
        for queue in self.partitions.iter_mut().flatten() {
            for batch in queue.drain_waiting() {
                self.news.failed(&batch, SendError::NoProducerId { code });
            }
        }
    }

    /// The identity to send under; `Err` while there is none.
    pub(super) fn current_identity(
        &mut self,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> Result<Option<Identity>, ()> {
        match &self.identity {
            IdentityState::NotNeeded => Ok(None),
            IdentityState::Known(identity) => Ok(Some(*identity)),
            IdentityState::Asked { .. } | IdentityState::Denied(_) => Err(()),
            IdentityState::Unknown { retry_at, failures } => {
                if retry_at.is_none_or(|at| at <= now) {
                    self.identity = IdentityState::Asked { failures: *failures };
                    actions.push(Action::InitProducerId);
                }
                Err(())
            }
        }
    }

    /// A new epoch (KIP-360), unless the producer already moved on from the one that failed.
    pub(super) fn bump_epoch(&mut self, failed: Option<Identity>, cause: ErrorCode) {
        let IdentityState::Known(current) = self.identity else { return };
        if failed != Some(current) {
            return;
        }
        tracing::info!(producer_id = current.producer_id, epoch = current.epoch, code = %cause, "starting a new producer epoch");
        let next = match current.epoch.checked_add(1) {
            // A fenced epoch says that somebody else is ahead: only a new id is surely ours.
            Some(epoch) if epoch < i16::MAX && cause != ErrorCode::InvalidProducerEpoch => Some(epoch),
            _ => None,
        };
        self.identity = next
            .map_or(IdentityState::new(true), |epoch| IdentityState::Known(Identity { epoch, ..current }));
        let producer_id = current.producer_id;
        self.news.event(ProducerEvent::EpochBumped { producer_id, epoch: next, cause });
    }
}
