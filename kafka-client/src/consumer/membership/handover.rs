//! Partitions that come and go, as the application sees it: one step at a time, and none while records are handed out.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::time::Instant;

use super::super::listener::{Rebalance, RebalanceEvent};
use super::super::shared::Shared;
use crate::TopicPartition;

type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a step was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    Released,
    Assigned,
}

struct Step {
    what: Done,
    work: BoxFuture,
}

/// The steps in order; one is under way.
#[derive(Default)]
pub(super) struct Handovers {
    current: Option<Step>,
    waiting: VecDeque<Step>,
}

impl Handovers {
    pub(super) fn is_empty(&self) -> bool {
        self.current.is_none() && self.waiting.is_empty()
    }

    /// Lets the application give partitions up, by `deadline`. What was to be given up before is part of this.
    pub(super) fn release(
        &mut self,
        shared: Arc<Shared>,
        partitions: Vec<TopicPartition>,
        lost: bool,
        deadline: Instant,
    ) {
        self.waiting.retain(|step| step.what != Done::Released);
        self.current.take_if(|step| step.what == Done::Released);
        let work: BoxFuture = if lost {
            Box::pin(lose(shared, partitions))
        } else {
            Box::pin(revoke(shared, partitions, deadline))
        };
        self.waiting.push_back(Step { what: Done::Released, work });
    }

    pub(super) fn assign(&mut self, shared: Arc<Shared>, added: Vec<TopicPartition>) {
        self.waiting.push_back(Step { what: Done::Assigned, work: Box::pin(assign(shared, added)) });
    }

    /// Ends when the step under way does. Dropping the future takes nothing back.
    pub(super) async fn next(&mut self) -> Done {
        if self.current.is_none() {
            self.current = self.waiting.pop_front();
        }
        match &mut self.current {
            Some(step) => {
                (&mut step.work).await;
                let what = step.what;
                self.current = None;
                what
            }
            None => std::future::pending().await,
        }
    }
}

/// Opens the gate again however the step ends.
struct Gate<'a>(&'a Shared);

impl<'a> Gate<'a> {
    fn close(shared: &'a Shared) -> Self {
        shared.set_gate(true);
        Self(shared)
    }
}

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        self.0.set_gate(false);
    }
}

async fn assign(shared: Arc<Shared>, added: Vec<TopicPartition>) {
    if added.is_empty() {
        return;
    }
    let _gate = Gate::close(&shared);
    shared.assign(added.clone(), true);
    if let Some(listener) = &shared.options.listener {
        listener.on_assigned(Rebalance { partitions: &added, shared: &shared }).await;
    }
    tracing::info!(partitions = ?added, "assigned");
    let _ = shared.events.send(RebalanceEvent::Assigned(added));
}

/// Waits until the application is done with what it has (it asks for more, or the consumer closes), commits, and
/// lets go.
async fn revoke(shared: Arc<Shared>, partitions: Vec<TopicPartition>, deadline: Instant) {
    if partitions.is_empty() {
        return;
    }
    let _gate = Gate::close(&shared);
    shared.begin_revoke(&partitions);
    let mut returned = shared.returned.follow();
    loop {
        returned.catch_up();
        if !shared.reader_is_busy() || shared.is_closing() {
            break;
        }
        if tokio::time::timeout_at(deadline, returned.changed()).await.is_err() {
            break;
        }
    }
    if shared.options.auto_commit.is_some()
        && let Err(error) = shared.commit_done().await
    {
        tracing::warn!(%error, "could not commit before giving partitions up; some records will be read again");
    }
    if let Some(listener) = &shared.options.listener {
        listener.on_revoked(Rebalance { partitions: &partitions, shared: &shared }).await;
    }
    shared.unassign(&partitions);
    tracing::info!(?partitions, "revoked");
    let _ = shared.events.send(RebalanceEvent::Revoked(partitions));
}

async fn lose(shared: Arc<Shared>, partitions: Vec<TopicPartition>) {
    shared.unassign(&partitions);
    if partitions.is_empty() {
        return;
    }
    let _gate = Gate::close(&shared);
    if let Some(listener) = &shared.options.listener {
        listener.on_lost(Rebalance { partitions: &partitions, shared: &shared }).await;
    }
    tracing::warn!(?partitions, "lost");
    let _ = shared.events.send(RebalanceEvent::Lost(partitions));
}
