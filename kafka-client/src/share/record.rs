//! A record that is this consumer's for a while.

use std::ops::Deref;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::shared::{Origin, Ready, Shared};
use super::{AcknowledgeError, AcknowledgeType};
use crate::consumer::ConsumerRecord;

/// A record of a share group, locked for this consumer until it says what became of it.
///
/// Dropping it releases it, so that an early return or a panic loses no record: it is delivered again, to anybody. With
/// [`implicit`](super::ShareConsumerBuilder::implicit_acknowledgement) acknowledgement dropping it accepts it, unless the
/// thread panics.
#[must_use = "a record that is dropped is released"]
pub struct ShareRecord {
    record: ConsumerRecord,
    delivery_count: i16,
    claim: Option<Claim>,
}

struct Claim {
    shared: Arc<Shared>,
    origin: Origin,
    until: Instant,
}

impl ShareRecord {
    pub(super) fn new(shared: &Arc<Shared>, ready: Ready) -> Self {
        let claim = Claim { shared: Arc::clone(shared), origin: ready.origin, until: ready.until };
        Self { record: ready.record, delivery_count: ready.delivery_count, claim: Some(claim) }
    }

    /// How often the record was delivered, this time included: 1 for the first.
    pub fn delivery_count(&self) -> i16 {
        self.delivery_count
    }

    /// Until when the record is this consumer's, by this machine's clock.
    pub fn locked_until(&self) -> Option<Instant> {
        self.claim.as_ref().map(|claim| claim.until)
    }

    /// It is processed. The record itself may be kept.
    ///
    /// The broker is told in the background; [`commit`](super::ShareConsumer::commit) waits for it.
    pub fn accept(mut self) -> ConsumerRecord {
        self.say(AcknowledgeType::Accept);
        self.record.clone()
    }

    /// To be delivered again, to anybody.
    pub fn release(mut self) {
        self.say(AcknowledgeType::Release);
    }

    /// It cannot be processed by anybody: not to be delivered again.
    pub fn reject(mut self) {
        self.say(AcknowledgeType::Reject);
    }

    /// Needs more time: the lock begins anew (KIP-1222). Returns when the broker has said so.
    ///
    /// Dropping the future takes nothing back; the lock may or may not begin anew.
    ///
    /// # Errors
    /// The record may be somebody else's already, or the broker is older than Kafka 4.2.
    pub async fn renew(&mut self) -> Result<(), AcknowledgeError> {
        let Some(claim) = &mut self.claim else { return Err(AcknowledgeError::Closed) };
        let (sender, receiver) = oneshot::channel();
        let offset = self.record.offset;
        claim.shared.say(claim.origin, offset, AcknowledgeType::Renew, claim.until, Some(sender));
        claim.until = receiver.await.unwrap_or(Err(AcknowledgeError::Closed))?;
        Ok(())
    }

    /// Reads the record with `deserialize`. If that fails the record is released, whatever the mode of acknowledgement:
    /// a newer member may be able to read it.
    ///
    /// # Errors
    /// What `deserialize` said.
    pub fn read<T, E>(&mut self, deserialize: impl FnOnce(&ConsumerRecord) -> Result<T, E>) -> Result<T, E> {
        let read = deserialize(&self.record);
        if read.is_err() {
            self.say(AcknowledgeType::Release);
        }
        read
    }

    fn say(&mut self, kind: AcknowledgeType) {
        if let Some(claim) = self.claim.take() {
            claim.shared.say(claim.origin, self.record.offset, kind, claim.until, None);
        }
    }
}

impl Deref for ShareRecord {
    type Target = ConsumerRecord;

    fn deref(&self) -> &ConsumerRecord {
        &self.record
    }
}

impl Drop for ShareRecord {
    fn drop(&mut self) {
        let is_implicit = self.claim.as_ref().is_some_and(|claim| claim.shared.options.is_implicit);
        match is_implicit && !std::thread::panicking() {
            true => self.say(AcknowledgeType::Accept),
            false => self.say(AcknowledgeType::Release),
        }
    }
}

impl std::fmt::Debug for ShareRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShareRecord")
            .field("record", &self.record)
            .field("delivery_count", &self.delivery_count)
            .finish_non_exhaustive()
    }
}
