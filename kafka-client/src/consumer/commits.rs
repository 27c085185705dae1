//! Commits in the background, one at a time and in the order of the calls, so that an older offset never overwrites a
//! newer one. What waits meanwhile is put together.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::shared::Shared;
use super::{CommitError, OffsetAndMetadata};
use crate::TopicPartition;

/// A commit that goes on in the background: awaiting it tells how it went, dropping it does not stop it.
#[derive(Debug)]
#[must_use = "a commit that is not awaited fails in silence"]
pub struct BackgroundCommit(oneshot::Receiver<Result<(), CommitError>>);

impl Future for BackgroundCommit {
    type Output = Result<(), CommitError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(ready!(Pin::new(&mut self.0).poll(cx)).unwrap_or(Err(CommitError::Closed)))
    }
}

#[derive(Debug, Default)]
pub(super) struct CommitQueue(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    is_running: bool,
    offsets: BTreeMap<TopicPartition, OffsetAndMetadata>,
    waiters: Vec<oneshot::Sender<Result<(), CommitError>>>,
}

impl Shared {
    /// Must be called inside a runtime.
    pub(super) fn commit_in_background(
        self: &Arc<Self>,
        offsets: BTreeMap<TopicPartition, OffsetAndMetadata>,
    ) -> BackgroundCommit {
        let (waiter, told) = oneshot::channel();
        let mut queue = self.commits.0.lock();
        queue.offsets.extend(offsets);
        queue.waiters.push(waiter);
        if !std::mem::replace(&mut queue.is_running, true) {
            tokio::spawn(Arc::clone(self).run_commits());
        }
        BackgroundCommit(told)
    }

    async fn run_commits(self: Arc<Self>) {
        loop {
            let (offsets, waiters) = {
                let mut queue = self.commits.0.lock();
                if queue.waiters.is_empty() {
                    queue.is_running = false;
                    return;
                }
                (std::mem::take(&mut queue.offsets), std::mem::take(&mut queue.waiters))
            };
            let result = self.commit_offsets(offsets).await;
            if let Err(error) = &result {
                tracing::warn!(%error, "commit in the background failed");
            }
            for waiter in waiters {
                let _ = waiter.send(result.clone());
            }
        }
    }

    /// Resolves once what waits now is committed, or was refused.
    pub(super) async fn commits_done(self: &Arc<Self>) {
        let is_idle = !self.commits.0.lock().is_running;
        if !is_idle {
            let _ = self.commit_in_background(BTreeMap::new()).await;
        }
    }
}
