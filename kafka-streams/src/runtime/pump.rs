use std::sync::Arc;
use std::time::Duration;

use kafka_client::TopicPartition;
use kafka_client::consumer::{Consumer, ListenerFuture, Rebalance, RebalanceListener};
use kafka_client::producer::Producer;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use super::worker::Command;
use super::{State, Status};
use crate::error::StreamsError;

/// How long the last results may take to be acknowledged once everything is committed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two tries to read after an error that may pass.
const READ_RETRY: Duration = Duration::from_millis(100);

/// Puts rebalances into the worker's queue and waits until it is done with them.
pub(super) struct Listener {
    /// The worker itself has the consumer that has this: only the pump keeps the queue open, so that the worker ends with
    /// the runtime.
    pub(super) commands: mpsc::WeakSender<Command>,
}

impl Listener {
    fn pass<'a>(
        &'a self,
        rebalance: Rebalance<'a>,
        command: fn(Vec<TopicPartition>, oneshot::Sender<()>) -> Command,
    ) -> ListenerFuture<'a> {
        Box::pin(async move {
            let (done, wait) = oneshot::channel();
            let Some(commands) = self.commands.upgrade() else { return };
            if commands.send(command(rebalance.partitions().to_vec(), done)).await.is_ok() {
                drop(commands);
                // The worker may end first, with an error that it reports itself.
                let _ = wait.await;
            }
        })
    }
}

impl RebalanceListener for Listener {
    fn on_assigned<'a>(&'a self, rebalance: Rebalance<'a>) -> ListenerFuture<'a> {
        self.pass(rebalance, Command::Assigned)
    }

    fn on_revoked<'a>(&'a self, rebalance: Rebalance<'a>) -> ListenerFuture<'a> {
        self.pass(rebalance, Command::Revoked)
    }

    fn on_lost<'a>(&'a self, rebalance: Rebalance<'a>) -> ListenerFuture<'a> {
        self.pass(rebalance, Command::Lost)
    }
}

/// Moves fetched batches from the consumer into the worker's queue, and takes everything down at the end.
pub(super) struct Pump {
    pub(super) consumer: Consumer,
    pub(super) producer: Producer,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) status: Arc<Status>,
    pub(super) closing: watch::Receiver<bool>,
    pub(super) worker_done: oneshot::Receiver<Result<(), StreamsError>>,
    pub(super) tick: Duration,
}

impl Pump {
    pub(super) async fn run(mut self) {
        let worker_ended = self.feed().await;
        if worker_ended.is_none() {
            self.status.set(State::PendingShutdown);
            let _ = self.commands.send(Command::Close).await;
        }
        let result = match worker_ended {
            Some(result) => result,
            None => (&mut self.worker_done).await.unwrap_or(Ok(())),
        };
        // From here on the listener finds nobody and lets rebalances pass.
        drop(self.commands);
        self.status.tasks.lock().clear();
        if let Err(error) = self.consumer.close().await {
            tracing::warn!(%error, "leaving the group");
        }
        if let Err(error) = self.producer.close(CLOSE_TIMEOUT).await {
            tracing::warn!(?error, "closing the producer");
        }
        if let Err(error) = result {
            self.status.fail(error);
        }
        let failed = self.status.error.lock().is_some();
        self.status.set(if failed { State::Error } else { State::NotRunning });
    }

    /// Runs until the application is closed (`None`), or the worker has ended.
    async fn feed(&mut self) -> Option<Result<(), StreamsError>> {
        let mut ticks = tokio::time::interval(self.tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let batch = tokio::select! {
                biased;
                // An error means that the handle was dropped: close as well.
                _ = self.closing.wait_for(|closing| *closing) => return None,
                result = &mut self.worker_done => return Some(result.unwrap_or(Ok(()))),
                _ = ticks.tick() => {
                    // A worker with a full queue looks at the clock anyway.
                    let _ = self.commands.try_send(Command::Tick);
                    continue;
                }
                batch = self.consumer.next_batch() => batch,
            };
            match batch {
                Ok(Some(batch)) => {
                    tokio::select! {
                        biased;
                        result = &mut self.worker_done => return Some(result.unwrap_or(Ok(()))),
                        _ = self.commands.send(Command::Batch(batch)) => {}
                    }
                }
                Ok(None) => return None,
                Err(error) if error.is_fatal() => {
                    let operation = "reading".to_owned();
                    self.status.fail(StreamsError::Cluster { operation, reason: error.to_string() });
                    return None;
                }
                Err(error) => {
                    tracing::warn!(%error, "reading");
                    tokio::time::sleep(READ_RETRY).await;
                }
            }
        }
    }
}
