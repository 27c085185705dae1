//! Running a topology on a cluster: a group member that feeds tasks on a thread of their own.
//!
//! The network side (consumer, producer, heartbeats) lives on tokio; tasks compute on one thread, fed by a bounded
//! queue of fetched batches. Rebalances come through the same queue, so a task has seen all that was handed out
//! before it is given up.

mod blocking;
mod internal_topics;
mod pump;
mod restore;

pub(crate) mod task;
mod widths;
mod worker;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kafka_client::Client;
use kafka_client::consumer::OffsetReset;
use kafka_client::group::assignor::RangeAssignor;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::config::StreamsConfig;
use crate::error::{StreamsError, TaskId};
use crate::state::ReadOnlyKeyValueStore;
use crate::topology::Topology;
use internal_topics::Layout;
use pump::{Listener, Pump};
use worker::Worker;

/// How many fetched batches (one partition's share of one fetch each) wait for the tasks.
const QUEUED_BATCHES: usize = 32;

/// How often the tasks look at the clock while no records come: each commit interval, within these limits. The longest is
/// how late a punctuator may be, as with Java's `poll.ms`.
const SHORTEST_TICK: Duration = Duration::from_millis(1);
const LONGEST_TICK: Duration = Duration::from_millis(100);

/// What an application is doing; Java's `KafkaStreams.State`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Not started.
    Created,
    /// Waiting for partitions, or restoring the state that belongs to them.
    Rebalancing,
    /// Processing.
    Running,
    /// Committing and leaving the group.
    PendingShutdown,
    /// Closed.
    NotRunning,
    /// Stopped by an error; [`KafkaStreams::error`] says which.
    Error,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Created => "CREATED",
            State::Rebalancing => "REBALANCING",
            State::Running => "RUNNING",
            State::PendingShutdown => "PENDING_SHUTDOWN",
            State::NotRunning => "NOT_RUNNING",
            State::Error => "ERROR",
        }
    }

    fn is_over(self) -> bool {
        matches!(self, State::NotRunning | State::Error)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

type Tasks = BTreeMap<TaskId, Arc<Mutex<task::Task>>>;

/// What the handle, the pump and the worker share.
struct Status {
    state: watch::Sender<State>,
    error: Mutex<Option<StreamsError>>,
    /// What runs here now, for those who look into the stores.
    tasks: Mutex<Tasks>,
}

impl Status {
    /// Shutting down and being over are never left for an earlier state.
    fn set(&self, state: State) {
        self.state.send_if_modified(|now| {
            let backwards = matches!(state, State::Rebalancing | State::Running)
                && (now.is_over() || *now == State::PendingShutdown);
            if backwards || *now == State::Error || *now == state {
                return false;
            }
            tracing::info!(from = %now, to = %state, "streams state");
            *now = state;
            true
        });
    }

    fn fail(&self, error: StreamsError) {
        tracing::error!(%error, "streams failed");
        self.error.lock().get_or_insert(error);
    }
}

/// An application: a topology at work.
///
/// Dropping a started one closes it in the background.
pub struct KafkaStreams {
    topology: Topology,
    config: StreamsConfig,
    status: Arc<Status>,
    closing: watch::Sender<bool>,
}

impl fmt::Debug for KafkaStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaStreams")
            .field("application_id", &self.config.application_id)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl KafkaStreams {
    /// An application that is not started.
    pub fn new(topology: Topology, config: StreamsConfig) -> Self {
        let status = Status {
            state: watch::Sender::new(State::Created),
            error: Mutex::new(None),
            tasks: Mutex::new(BTreeMap::new()),
        };
        Self { topology, config, status: Arc::new(status), closing: watch::Sender::new(false) }
    }

    /// Creates the internal topics that are missing, joins the group and begins to process, in the background.
    ///
    /// Dropping the future leaves at most internal topics behind.
    ///
    /// # Errors
    /// The cluster cannot be reached, a source topic does not exist, or an internal topic exists with another number
    /// of partitions.
    pub async fn start(self) -> Result<Self, StreamsError> {
        let config = &self.config;
        let cluster = |operation: &str, error: &dyn fmt::Display| StreamsError::Cluster {
            operation: operation.to_owned(),
            reason: error.to_string(),
        };
        let client = Client::builder(config.bootstrap_servers.clone())
            .client_id(config.application_id.clone())
            .connect()
            .await
            .map_err(|error| cluster("connecting", &error))?;
        let layout = Layout::prepare(&client, &self.topology, config).await?;
        let producer = client
            .producer()
            .linger(config.linger)
            .build()
            .map_err(|error| cluster("making a producer", &error))?;
        let (commands, received) = mpsc::channel(QUEUED_BATCHES);
        let consumer = client
            .consumer()
            .group(config.application_id.clone())
            .topics(layout.source_topics())
            .auto_offset_reset(OffsetReset::Earliest)
            .assignor(RangeAssignor)
            .enable_auto_commit(false)
            .rebalance_listener(Listener { commands: commands.downgrade() })
            .build()
            .map_err(|error| cluster("making a consumer", &error))?;
        self.status.set(State::Rebalancing);
        let worker = Worker::new(
            self.topology.clone(),
            config.clone(),
            layout,
            client,
            producer.clone(),
            consumer.clone(),
            Arc::clone(&self.status),
        );
        let worker_done = worker.spawn(received).map_err(|error| cluster("starting a thread", &error))?;
        let pump = Pump {
            consumer,
            producer,
            commands,
            status: Arc::clone(&self.status),
            closing: self.closing.subscribe(),
            worker_done,
            tick: config.commit_interval.clamp(SHORTEST_TICK, LONGEST_TICK),
        };
        tokio::spawn(pump.run());
        Ok(self)
    }

    /// What it is doing now.
    pub fn state(&self) -> State {
        *self.status.state.borrow()
    }

    /// Its state and every change of it.
    pub fn states(&self) -> watch::Receiver<State> {
        self.status.state.subscribe()
    }

    /// Why it stopped, in state [`State::Error`].
    pub fn error(&self) -> Option<StreamsError> {
        self.status.error.lock().clone()
    }

    /// The topology.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Views of a store, one for each of its tasks that runs here now. Empty when there is none of this name and
    /// these types.
    pub fn stores<K: Send + 'static, V: Clone + Send + 'static>(
        &self,
        name: &str,
    ) -> Vec<ReadOnlyKeyValueStore<K, V>> {
        let tasks = self.status.tasks.lock().clone();
        tasks.values().filter_map(|task| ReadOnlyKeyValueStore::find(task, name)).collect()
    }

    /// Waits until it stopped: `Ok` after a close, the error otherwise.
    ///
    /// # Errors
    /// Why it stopped.
    pub async fn stopped(&self) -> Result<(), StreamsError> {
        let mut states = self.states();
        // The sender is in `self`, so the wait ends with a state.
        let _ = states.wait_for(|state| state.is_over()).await;
        self.error().map_or(Ok(()), Err)
    }

    /// Stops taking records, commits what was processed and leaves the group. Dropping the future changes nothing: it
    /// goes on in the background, as it does when the deadline passes.
    ///
    /// # Errors
    /// [`StreamsError::DeadlinePassed`], or the error that stopped it before.
    pub async fn close(&self, deadline: Duration) -> Result<(), StreamsError> {
        if self.state() == State::Created {
            self.status.set(State::NotRunning);
            return Ok(());
        }
        self.closing.send_replace(true);
        tokio::time::timeout(deadline, self.stopped()).await.unwrap_or(Err(StreamsError::DeadlinePassed))
    }
}
