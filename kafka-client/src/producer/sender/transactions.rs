//! What differs where every batch is part of a transaction: a batch that fails spoils it, and one that is aborted sends
//! nothing more.

use std::time::Duration;

use kafka_wire::ErrorCode;
use tokio::time::Instant;

use super::super::batch::{Batch, Identity};
use super::super::error::SendError;
use super::super::transaction::core::{Reply, Transactions, Version};
use super::identity::IdentityState;
use super::{Action, Sender};

/// The end of a transaction before takes a few milliseconds; Java waits for 20.
const CONCURRENT_BACKOFF_MIN: Duration = Duration::from_millis(1);
const CONCURRENT_BACKOFF_MAX: Duration = Duration::from_millis(20);

impl Sender {
    /// The transactions of this producer, if it is a transactional one.
    pub(in super::super) fn transactions(&mut self) -> Option<&mut Transactions> {
        self.transactions.as_mut()
    }

    /// Whether a transaction is ending, and there is no other reason to wake up for it.
    pub(in super::super) fn is_ending_transaction(&self) -> bool {
        self.transactions.as_ref().is_some_and(Transactions::is_ending)
    }

    pub(super) fn wants_identity(&self) -> bool {
        self.transactions.as_ref().is_some_and(Transactions::wants_identity)
    }

    pub(super) fn is_aborting(&self) -> bool {
        self.transactions.as_ref().is_some_and(Transactions::drops_batches)
    }

    /// A batch is not sent again because its transaction is aborted.
    pub(super) fn drop_batch(&mut self, batch: &Batch) {
        if let Some(transactions) = &mut self.transactions
            && batch.sequence.is_some()
        {
            transactions.left_a_hole();
        }
        self.news.failed(batch, SendError::NoTransaction);
    }

    /// Goes on with the transaction: tells the core what became of its batches, and asks what it wants to have asked.
    pub(super) fn drive_transaction(
        &mut self,
        now: Instant,
        identity: Option<Identity>,
        actions: &mut Vec<Action>,
    ) {
        let Some(transactions) = &mut self.transactions else { return };
        transactions.identified();
        if let Some(error) = self.news.failure.take() {
            transactions.failed(&error);
        }
        if transactions.drops_batches() {
            let waiting: Vec<Batch> =
                self.partitions.iter_mut().flatten().flat_map(|queue| queue.drain_waiting()).collect();
            waiting.iter().for_each(|batch| self.drop_batch(batch));
            self.forget_idle();
        }
        let is_settled = self.active.is_empty();
        let (Some(transactions), Some(identity)) = (&mut self.transactions, identity) else { return };
        if let Some(ask) = transactions.poll(now, is_settled) {
            let version = transactions.version();
            actions.push(Action::Coordinate { ask, identity, version });
        } else if transactions.take_needs_epoch(false) {
            self.identity = IdentityState::expecting(Some(identity));
        }
    }

    /// A coordinator's reply, or that there is none; `speaks`: the version that it said the cluster speaks.
    pub(in super::super) fn coordinated(&mut self, now: Instant, reply: Reply, speaks: Option<Version>) {
        let failures_backoff = match reply {
            Reply::Refused(code) => self.delay_after(code, 1),
            _ => self.delay(1),
        };
        let backoff = self.config.retry_backoff;
        let Some(transactions) = &mut self.transactions else { return };
        if let Some(version) = speaks {
            transactions.speaks(version);
        }
        let is_concurrent = reply == Reply::Refused(ErrorCode::ConcurrentTransactions);
        let delay = |failures: u32| match failures {
            1 => failures_backoff,
            more if is_concurrent => concurrent_backoff(more),
            more => backoff.delay(more, 0.5),
        };
        let next = transactions.replied(now, reply, delay);
        if let Some(next) = next {
            self.identity = IdentityState::Known(next);
        }
        if transactions.take_needs_epoch(next.is_some())
            && let IdentityState::Known(current) = self.identity
        {
            self.identity = IdentityState::expecting(Some(current));
        }
    }

    /// How long to wait after so many failures, the last of which was `code`.
    pub(super) fn delay_after(&mut self, code: ErrorCode, failures: u32) -> Duration {
        match code {
            ErrorCode::ConcurrentTransactions => concurrent_backoff(failures),
            _ => self.delay(failures),
        }
    }
}

fn concurrent_backoff(failures: u32) -> Duration {
    let doubled = CONCURRENT_BACKOFF_MIN.saturating_mul(1 << failures.saturating_sub(1).min(5));
    doubled.min(CONCURRENT_BACKOFF_MAX)
}
