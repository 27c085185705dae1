//! What a test does to a running broker: stop and start nodes, move leaders, hold replication, cut connections, delay and
//! lose requests.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_wire::error_code::ErrorCode;
use tokio::net::TcpListener;

use crate::Fault;
use crate::broker::{Broker, StartError};
use crate::cluster::elections;
use crate::cluster::topics::Refusal;
use crate::node::Running;

/// How long [`Control::move_leader`] waits for a new replica to catch up.
const MOVE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often it looks.
const MOVE_POLL: Duration = Duration::from_millis(5);

/// A test's hand on a running broker. Made by [`Broker::control`].
#[derive(Debug, Clone, Copy)]
pub struct Control<'a> {
    broker: &'a Broker,
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The broker has no such node.
    #[error("there is no node {node_id}")]
    UnknownNode {
        /// The node that was asked for.
        node_id: i32,
    },
    /// The node runs already, or does not run.
    #[error("node {node_id} {}", if *.runs { "runs already" } else { "does not run" })]
    WrongState {
        /// The node.
        node_id: i32,
        /// Whether it runs.
        runs: bool,
    },
    /// The controller refused the change.
    #[error("{message}")]
    Refused {
        /// Kafka's code for the reason.
        code: ErrorCode,
        /// The reason in words.
        message: String,
    },
    /// The node cannot be started again.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The new replica did not catch up in time, because its node or its leader is held or stopped.
    #[error("node {node_id} did not catch up with {topic}-{partition} in {MOVE_TIMEOUT:?}")]
    NotCaughtUp {
        /// The topic.
        topic: String,
        /// The partition's index.
        partition: i32,
        /// The node that was to lead.
        node_id: i32,
    },
}

impl From<Refusal> for ControlError {
    fn from(Refusal { code, message }: Refusal) -> Self {
        Self::Refused { code, message }
    }
}

/// Who leads and holds a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionLeader {
    /// The leading node, if there is one.
    pub leader: Option<i32>,
    /// One more with each election.
    pub leader_epoch: i32,
    /// The nodes that hold a replica; the first one is preferred as the leader.
    pub replicas: Vec<i32>,
    /// The nodes whose replica is in sync.
    pub isr: Vec<i32>,
}

impl<'a> Control<'a> {
    pub(crate) fn new(broker: &'a Broker) -> Self {
        Self { broker }
    }

    /// The ids of all nodes, running or not.
    pub fn nodes(&self) -> Vec<i32> {
        self.broker.nodes.lock().keys().copied().collect()
    }

    /// Whether a node runs.
    pub fn is_running(&self, node_id: i32) -> bool {
        self.broker.nodes.lock().get(&node_id).is_some_and(|slot| slot.running.is_some())
    }

    /// Stops a node in an orderly way (Kafka's controlled shutdown): its leaders move to replicas in sync, requests in
    /// progress are answered, logs are closed.
    ///
    /// Dropping the future stops the node at once instead.
    ///
    /// # Errors
    /// The node is unknown or does not run, or the metadata cannot be written.
    pub async fn stop(&self, node_id: i32) -> Result<(), ControlError> {
        let running = self.take(node_id)?;
        let fenced = self.fence(node_id);
        running.close().await;
        fenced
    }

    /// Ends a node as a crash does: connections break, nothing is answered any more and no log is closed. The controller
    /// notices at once.
    ///
    /// # Errors
    /// The node is unknown or does not run, or the metadata cannot be written.
    pub async fn crash(&self, node_id: i32) -> Result<(), ControlError> {
        self.take(node_id)?.crash().await;
        self.fence(node_id)
    }

    /// Starts a node that was stopped or crashed, at its old address and on its old data. When this returns, clients can
    /// connect to it; it is in sync once it has caught up.
    ///
    /// # Errors
    /// The node is unknown or runs already, its address was taken, or its data cannot be read.
    pub async fn start(&self, node_id: i32) -> Result<(), ControlError> {
        let (node, is_alone) = {
            let nodes = self.broker.nodes.lock();
            let slot = nodes.get(&node_id).ok_or(ControlError::UnknownNode { node_id })?;
            if slot.running.is_some() {
                return Err(ControlError::WrongState { node_id, runs: true });
            }
            (slot.node.reopened()?, nodes.len() == 1)
        };
        let listener = TcpListener::bind(node.addr).await;
        let listener =
            listener.map_err(|source| StartError::Listen { addr: node.addr.to_string(), source })?;
        let config = self.broker.config_of(node_id).map_err(StartError::from)?;
        let running = node.start(listener, config, self.broker.clock, &self.broker.cluster, is_alone).await?;
        if let Some(slot) = self.broker.nodes.lock().get_mut(&node_id) {
            slot.node = node;
            slot.running = Some(running);
        }
        Ok(())
    }

    /// Moves a partition's leader to a node. A node that holds no replica gets one, and takes the place of the leader so
    /// far among the replicas once it has everything.
    ///
    /// # Errors
    /// The partition is unknown, the node does not run, or it holds a replica that is not in sync.
    pub async fn move_leader(&self, topic: &str, partition: i32, node_id: i32) -> Result<(), ControlError> {
        let change = |decide: fn(&_, &str, i32, i32) -> Result<_, _>, node_id: i32| {
            let now_ms = self.broker.clock.now_ms();
            self.broker.cluster.change(now_ms, |image| decide(image, topic, partition, node_id))
        };
        let Some(before) = self.leader(topic, partition) else {
            return Ok(change(elections::move_leader, node_id)?);
        };
        if before.replicas.contains(&node_id) {
            return Ok(change(elections::move_leader, node_id)?);
        }
        change(elections::add_replica, node_id)?;
        let caught_up = async {
            while !self.leader(topic, partition).is_some_and(|now| now.isr.contains(&node_id)) {
                tokio::time::sleep(MOVE_POLL).await;
            }
        };
        if tokio::time::timeout(MOVE_TIMEOUT, caught_up).await.is_err() {
            change(elections::remove_replica, node_id)?;
            return Err(ControlError::NotCaughtUp { topic: topic.to_owned(), partition, node_id });
        }
        change(elections::move_leader, node_id)?;
        match before.leader {
            Some(leader) => Ok(change(elections::remove_replica, leader)?),
            None => Ok(()),
        }
    }

    /// Who leads and holds a partition; `None` if it does not exist.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<PartitionLeader> {
        self.broker.cluster.read(|image, _| {
            let state = image.partition(topic, partition)?;
            Some(PartitionLeader {
                leader: (state.leader >= 0).then_some(state.leader),
                leader_epoch: state.leader_epoch,
                replicas: state.replicas.clone(),
                isr: state.isr.clone(),
            })
        })
    }

    /// Every partition of every topic with who leads and holds it.
    pub fn leaders(&self) -> BTreeMap<(String, i32), PartitionLeader> {
        let names: Vec<(String, i32)> = self.broker.cluster.read(|image, _| {
            let topics = image.topics().iter();
            topics.flat_map(|(name, it)| it.partitions.keys().map(|&index| (name.clone(), index))).collect()
        });
        names.into_iter().filter_map(|key| Some((key.clone(), self.leader(&key.0, key.1)?))).collect()
    }

    /// Lets a node copy nothing from its leaders until [`release_replication`](Self::release_replication): it falls
    /// behind, and leaves the in-sync replicas after `replica.lag.time.max.ms`.
    pub fn hold_replication(&self, node_id: i32) {
        self.broker.cluster.inbox(node_id).hold();
    }

    /// Ends [`hold_replication`](Self::hold_replication).
    pub fn release_replication(&self, node_id: i32) {
        self.broker.cluster.inbox(node_id).release();
    }

    /// Closes all connections of a node; clients may connect again.
    ///
    /// # Errors
    /// The node is unknown or does not run.
    pub fn cut_connections(&self, node_id: i32) -> Result<(), ControlError> {
        self.with_running(node_id, Running::cut_connections)
    }

    /// The next `times` requests of an API (by Kafka's key, 0 is Produce) that reach a node suffer a fault. Faults of one
    /// API happen in the order in which they were asked for; a node that stops forgets them.
    ///
    /// # Errors
    /// The node is unknown or does not run.
    pub fn fault(&self, node_id: i32, api_key: i16, fault: Fault, times: usize) -> Result<(), ControlError> {
        self.with_running(node_id, |running| running.state.faults.add(api_key, fault, times))
    }

    /// Forgets the faults that have not happened yet.
    ///
    /// # Errors
    /// The node is unknown or does not run.
    pub fn clear_faults(&self, node_id: i32) -> Result<(), ControlError> {
        self.with_running(node_id, |running| running.state.faults.clear())
    }

    fn with_running<R>(&self, node_id: i32, run: impl FnOnce(&Running) -> R) -> Result<R, ControlError> {
        let nodes = self.broker.nodes.lock();
        let slot = nodes.get(&node_id).ok_or(ControlError::UnknownNode { node_id })?;
        slot.running.as_ref().map(run).ok_or(ControlError::WrongState { node_id, runs: false })
    }

    fn take(&self, node_id: i32) -> Result<Running, ControlError> {
        let mut nodes = self.broker.nodes.lock();
        let slot = nodes.get_mut(&node_id).ok_or(ControlError::UnknownNode { node_id })?;
        slot.running.take().ok_or(ControlError::WrongState { node_id, runs: false })
    }

    /// Tells the controller that a node is gone.
    fn fence(&self, node_id: i32) -> Result<(), ControlError> {
        let unclean = self.broker.config_of(node_id).map_err(StartError::from)?.unclean_leader_election();
        let now_ms = self.broker.clock.now_ms();
        Ok(self.broker.cluster.change(now_ms, |image| Ok(elections::fence(image, node_id, unclean)))?)
    }
}
