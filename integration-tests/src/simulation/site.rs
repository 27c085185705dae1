//! The cluster of a run: nodes that start, stop in order, or end in the middle of what they do, on disks that outlive
//! them.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kafka_broker::{Broker, MemoryDisk};
use tokio::io::DuplexStream;

use super::plan::{Plan, Sabotage};
use super::raw::TOPIC;
use super::trace::lock;
use crate::TestResult;

/// Where clients are told to find the first node; the others' ports count up.
const FIRST_PORT: u16 = 9092;
/// The first node's id; the others' count up.
const FIRST_NODE: i32 = 1;

/// A cluster's place. Clones are the same place.
#[derive(Debug, Clone)]
pub struct Site {
    disks: Arc<[MemoryDisk]>,
    configs: Vec<(&'static str, String)>,
    running: Arc<Mutex<Option<Arc<Broker>>>>,
}

impl Site {
    /// A place with empty disks.
    pub fn new(plan: &Plan) -> Self {
        let mut configs = plan.broker_configs.clone();
        // The port that is really taken differs from run to run, and its length would show in every answer.
        configs.push(("advertised.listeners", format!("PLAINTEXT://node:{FIRST_PORT}")));
        // A topic that was deleted is made anew by the run, with the partitions and the settings of its plan.
        configs.push(("auto.create.topics.enable", "false".to_owned()));
        let disks: Arc<[MemoryDisk]> = (0..plan.nodes).map(|_| MemoryDisk::default()).collect();
        disks.iter().for_each(|disk| disk.ignore_syncs(plan.sabotage == Some(Sabotage::LyingDisks)));
        Self { disks, configs, running: Arc::default() }
    }

    /// The ids of the nodes.
    pub fn nodes(&self) -> impl Iterator<Item = i32> + use<> {
        (FIRST_NODE..).take(self.disks.len())
    }

    /// What clients are given as `bootstrap.servers`.
    pub fn bootstrap_servers(&self) -> String {
        Self::bootstrap_of(self.disks.len() as u32)
    }

    /// The same for so many nodes.
    pub(super) fn bootstrap_of(nodes: u32) -> String {
        let ports = (FIRST_PORT..).take(nodes as usize);
        ports.map(|port| format!("node:{port}")).collect::<Vec<_>>().join(",")
    }

    /// Which node clients find at a port.
    pub fn node_at(&self, port: u16) -> Option<i32> {
        self.nodes().find(|node| i32::from(FIRST_PORT) + (node - FIRST_NODE) == i32::from(port))
    }

    /// All disks, in the order of the nodes.
    pub fn disks(&self) -> &[MemoryDisk] {
        &self.disks
    }

    /// A node's disk.
    pub fn disk(&self, node_id: i32) -> Option<&MemoryDisk> {
        self.disks.get(usize::try_from(node_id - FIRST_NODE).ok()?)
    }

    /// Starts all nodes.
    ///
    /// # Errors
    /// Why they do not start, for instance because a disk fails.
    pub async fn start(&self) -> TestResult {
        let mut builder = Broker::builder().node_id(FIRST_NODE).nodes(self.disks.len());
        for disk in self.disks.iter() {
            builder = builder.memory_disk(disk);
        }
        for (key, value) in &self.configs {
            builder = builder.config(*key, value);
        }
        let broker = at_once(builder.start()).ok_or("a broker waits before it has started")??;
        *lock(&self.running) = Some(Arc::new(broker));
        Ok(())
    }

    /// Starts one node of a cluster that runs otherwise.
    ///
    /// # Errors
    /// Why it does not start.
    pub async fn start_node(&self, node_id: i32) -> TestResult {
        let Some(broker) = self.broker() else { return Ok(()) };
        if !broker.control().is_running(node_id) {
            at_once(broker.control().start(node_id)).ok_or("a node waits before it has started")??;
        }
        Ok(())
    }

    /// Stops all nodes in order; they are gone when this returns.
    pub async fn shut_down(&self) {
        let Some(mut broker) = lock(&self.running).take() else { return };
        loop {
            match Arc::try_unwrap(broker) {
                Ok(broker) => return broker.shutdown().await,
                // Somebody connects just now.
                Err(shared) => broker = shared,
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Drops all nodes as they are.
    pub async fn kill(&self) {
        drop(lock(&self.running).take());
        // Their tasks end when they are next looked at.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    /// Whether there are nodes.
    pub fn is_up(&self) -> bool {
        lock(&self.running).is_some()
    }

    /// Whether a node runs.
    pub fn runs(&self, node_id: i32) -> bool {
        self.broker().is_some_and(|broker| broker.control().is_running(node_id))
    }

    /// The nodes, for whoever needs them for a moment.
    pub fn broker(&self) -> Option<Arc<Broker>> {
        lock(&self.running).clone()
    }

    /// The node that leads a partition of the topic, if one does.
    pub fn leader(&self, partition: i32) -> Option<i32> {
        self.broker()?.control().leader(TOPIC, partition)?.leader
    }

    /// How many partitions the topic has; 0 if it does not exist.
    pub fn partitions(&self) -> i32 {
        let leaders = self.broker().map(|broker| broker.control().leaders()).unwrap_or_default();
        leaders.keys().filter(|(topic, _)| topic == TOPIC).count() as i32
    }

    /// Whether every replica of every partition is in sync.
    pub fn is_in_sync(&self) -> bool {
        let leaders = self.broker().map(|broker| broker.control().leaders()).unwrap_or_default();
        leaders.values().all(|now| now.leader.is_some() && now.isr.len() == now.replicas.len())
    }

    /// A connection to a node, if it runs.
    pub async fn connect(&self, node_id: i32) -> Option<DuplexStream> {
        let broker = self.broker().filter(|broker| broker.control().is_running(node_id))?;
        Some(broker.connect_to(node_id).await)
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
