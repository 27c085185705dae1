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
    /// `expected`: who the producer was, for a new epoch from the transaction's coordinator.
    Unknown {
        retry_at: Option<Instant>,
        failures: u32,
        expected: Option<Identity>,
    },
    Asked {
        failures: u32,
        expected: Option<Identity>,
    },
    Known(Identity),
    Denied(ErrorCode),
}

impl IdentityState {
    pub(super) fn new(needed: bool) -> Self {
        if needed { Self::expecting(None) } else { Self::NotNeeded }
    }

    pub(super) fn expecting(expected: Option<Identity>) -> Self {
        Self::Unknown { retry_at: None, failures: 0, expected }
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
            let (failures, expected) = match self.identity {
                IdentityState::Asked { failures, expected } => (failures + 1, expected),
                _ => (1, None),
            };
            let retry_at = Some(now + self.delay_after(code, failures));
            self.identity = IdentityState::Unknown { retry_at, failures, expected };
            return;
        }
        if let Some(transactions) = &mut self.transactions {
            transactions.denied(code);
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
            &IdentityState::Unknown { retry_at, failures, expected } => {
                if retry_at.is_none_or(|at| at <= now) {
                    self.identity = IdentityState::Asked { failures, expected };
                    actions.push(Action::InitProducerId { expected });
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
