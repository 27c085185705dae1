//! The broker of a run: started, stopped in order, or dropped in the middle of what it does.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use kafka_broker::{Broker, MemoryDisk};
use tokio::io::DuplexStream;
use tokio::sync::Mutex;

use super::plan::Plan;
use crate::TestResult;

/// A broker's place. Clones are the same place.
#[derive(Debug, Clone)]
pub struct Node {
    disk: MemoryDisk,
    configs: Vec<(&'static str, String)>,
    running: Arc<Mutex<Option<Broker>>>,
}

impl Node {
    /// A place with an empty disk.
    pub fn new(plan: &Plan) -> Self {
        let mut configs = plan.broker_configs.clone();
        // The port that is really taken differs from run to run, and its length would show in every answer.
        configs.push(("advertised.listeners", "PLAINTEXT://node:9092".to_owned()));
        Self { disk: MemoryDisk::default(), configs, running: Arc::default() }
    }

    /// The disk.
    pub fn disk(&self) -> &MemoryDisk {
        &self.disk
    }

    /// Starts the broker.
    ///
    /// # Errors
    /// Why it does not start, for instance because its disk fails.
    pub async fn start(&self) -> TestResult {
        let mut builder = Broker::builder().memory_disk(&self.disk);
        for (key, value) in &self.configs {
            builder = builder.config(*key, value);
        }
        let broker = at_once(builder.start()).ok_or("a broker waits before it has started")??;
        *self.running.lock().await = Some(broker);
        Ok(())
    }

    /// Stops the broker in order; it is gone when this returns.
    pub async fn shut_down(&self) {
        let running = self.running.lock().await.take();
        if let Some(broker) = running {
            broker.shutdown().await;
        }
    }

    /// Drops the broker as it is.
    pub async fn kill(&self) {
        drop(self.running.lock().await.take());
        // Its tasks end when they are next looked at.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    /// Whether there is a broker.
    pub async fn is_up(&self) -> bool {
        self.running.lock().await.is_some()
    }

    /// A connection, if there is a broker.
    pub async fn connect(&self) -> Option<DuplexStream> {
        let running = self.running.lock().await;
        match &*running {
            Some(broker) => Some(broker.connect().await),
            None => None,
        }
    }
}

/// Polls a future that needs nobody else until it is ready. Nothing else runs meanwhile: it happens in one moment.
fn at_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(tokio::task::unconstrained(future));
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..1000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        std::thread::yield_now();
    }
    None
}
