//! One node of a broker: its listener, its tasks and its state, which stop and start together.

use std::net::SocketAddr;
use std::sync::Arc;

use kafka_wire::StrBytes;
use parking_lot::Mutex;
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};

use crate::broker::StartError;
use crate::cleaner;
use crate::clock::Clock;
use crate::cluster::elections;
use crate::cluster::record::MetadataRecord;
use crate::cluster::topics::Refusal;
use crate::cluster::{Cluster, FEATURES, Feature};
use crate::config::broker::BrokerConfig;
use crate::fetch_session::FetchSessions;
use crate::folder::Logs;
use crate::groups::service::Groups;
use crate::groups::{self, GroupConfig};
use crate::share::service::Shares;
use crate::state::BrokerState;
use crate::transactions::service::Transactions;
use crate::{ids, maintenance, replicator, server, share, transactions};

/// In-memory connections that wait to be accepted; one more waits in `Broker::connect`.
const IN_MEMORY_BACKLOG: usize = 128;

/// What a node is, whether it runs or not.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) node_id: i32,
    pub(crate) addr: SocketAddr,
    /// Where clients are told to connect.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) logs: Logs,
}

/// A node at work. Dropping it ends its tasks and connections at once.
pub(crate) struct Running {
    pub(crate) state: Arc<BrokerState>,
    pub(crate) in_memory: mpsc::Sender<DuplexStream>,
    commands: Option<mpsc::UnboundedSender<server::Command>>,
    server: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
}

impl Node {
    /// The same node with its logs as they are now, for its next start.
    pub(crate) fn reopened(&self) -> Result<Self, StartError> {
        let logs = self
            .logs
            .reopened()
            .map_err(|error| StartError::Folder { path: self.logs.path(), reason: error.to_string() })?;
        Ok(Self { node_id: self.node_id, addr: self.addr, host: self.host.clone(), port: self.port, logs })
    }

    /// Opens the logs, joins the cluster and serves.
    pub(crate) async fn start(
        &self,
        listener: TcpListener,
        config: BrokerConfig,
        clock: Clock,
        cluster: &Arc<Cluster>,
        is_alone: bool,
    ) -> Result<Running, StartError> {
        let (node_id, logs, cluster) = (self.node_id, self.logs.clone(), Arc::clone(cluster));
        let (host, port) = (self.host.clone(), self.port);
        let may_block = logs.may_block();
        let open = move || open_state(config, logs, node_id, clock, cluster, host, port);
        // Recovering logs from disk takes a while, which the threads that serve connections are not to notice.
        let opened = match may_block {
            false => Ok(open()),
            true => tokio::task::spawn_blocking(open).await,
        };
        let state = match opened.map_err(JoinError::try_into_panic) {
            Ok(state) => state?,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // Only a runtime that is shutting down refuses work, and it drops this future next.
            Err(Err(_)) => std::future::pending().await,
        };
        let (in_memory, accept_in_memory) = mpsc::channel(IN_MEMORY_BACKLOG);
        let (commands, commanded) = mpsc::unbounded_channel();
        let server = tokio::spawn(server::run(Arc::clone(&state), listener, accept_in_memory, commanded));
        let mut tasks = vec![
            tokio::spawn(maintenance::run(Arc::clone(&state))),
            tokio::spawn(cleaner::run(Arc::clone(&state))),
            tokio::spawn(groups::service::run(Arc::clone(&state))),
            tokio::spawn(share::service::run(Arc::clone(&state))),
            tokio::spawn(transactions::service::run(Arc::clone(&state))),
        ];
        if !is_alone {
            tasks.push(tokio::spawn(replicator::run(Arc::clone(&state))));
        }
        tracing::info!(addr = %self.addr, node_id, cluster_id = state.cluster_id.as_str(), "node started");
        Ok(Running { state, in_memory, commands: Some(commands), server, tasks })
    }
}

impl Running {
    /// Closes all connections of the node; clients may connect again.
    pub(crate) fn cut_connections(&self) {
        if let Some(commands) = &self.commands {
            let _ = commands.send(server::Command::CutConnections);
        }
    }

    /// Stops accepting, waits for requests in progress, closes all connections, and closes the logs.
    pub(crate) async fn close(mut self) {
        // Requests first, so that what is written below is the end of it. A task that panicked has ended as well.
        drop(self.commands.take());
        let _ = (&mut self.server).await;
        self.end_tasks().await;
        maintenance::on_disk_thread(&self.state, maintenance::close).await;
        self.state.cluster.leave(self.state.node_id);
        tracing::info!(node_id = self.state.node_id, "node stopped");
    }

    /// Ends everything at once, as a crash does: requests in progress are not answered and no log is closed.
    pub(crate) async fn crash(mut self) {
        self.state.cluster.leave(self.state.node_id);
        self.server.abort();
        let _ = (&mut self.server).await;
        self.end_tasks().await;
        // Whatever still runs finds no logs any more.
        for partition in self.state.topics.all_partitions() {
            drop(partition.take());
        }
        tracing::info!(node_id = self.state.node_id, "node crashed");
    }

    async fn end_tasks(&mut self) {
        for task in &mut self.tasks {
            task.abort();
            let _ = task.await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.abort();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Opens a node's logs and joins it to the cluster; nothing is served yet.
pub(crate) fn open_state(
    config: BrokerConfig,
    logs: Logs,
    node_id: i32,
    clock: Clock,
    cluster: Arc<Cluster>,
    host: String,
    port: u16,
) -> Result<Arc<BrokerState>, StartError> {
    let state = Arc::new(BrokerState {
        node_id,
        cluster_id: StrBytes::from_string(logs.cluster_id().to_owned()),
        directory_id: logs.directory_id(),
        host: StrBytes::from_string(host.clone()),
        port,
        fetch_max_bytes: config.fetch_max_bytes(),
        groups: Groups::new(GroupConfig::new(&config)),
        fetch_sessions: Mutex::new(FetchSessions::new(config.max_fetch_sessions())),
        shares: Shares::new(&config),
        share_states: Default::default(),
        transactions: Transactions::new(&config),
        config,
        clock,
        cluster,
        topics: Default::default(),
        logs,
        producer_ids: Default::default(),
        replication_quotas: Default::default(),
        faults: Default::default(),
    });
    join(&state, host, port)?;
    state.groups.load_all(&state);
    state.transactions.load_all(&state);
    Ok(state)
}

/// Registers this node with the controller, as each start of a Kafka broker does, hosts its partitions and elects it
/// where it is waited for.
fn join(state: &Arc<BrokerState>, host: String, port: u16) -> Result<(), StartError> {
    let now_ms = state.clock.now_ms();
    let written = |committed: Result<(), Refusal>| {
        committed.map_err(|Refusal { message, .. }| StartError::Metadata { reason: message })
    };
    let mut controller = state.cluster.controller();
    let unset = |feature: &&Feature| !controller.read(|image| image.features().contains_key(feature.name));
    let mut records: Vec<MetadataRecord> = FEATURES
        .iter()
        .filter(unset)
        .map(|feature| MetadataRecord::FeatureLevel {
            name: feature.name.to_owned(),
            level: feature.max_level,
        })
        .collect();
    let epoch = state.cluster.read(|_, offset| offset) + 1 + i64::try_from(records.len()).unwrap_or(0);
    records.push(MetadataRecord::RegisterBroker {
        node_id: state.node_id,
        incarnation: ids::random(),
        epoch,
        host,
        port,
        rack: state.config.given("broker.rack").map(str::to_owned),
    });
    written(controller.commit(&records, now_ms))?;
    state.load_dynamic_config();
    state.host_all(&controller);
    let unclean = state.config.unclean_leader_election();
    let elected = controller.read(|image| elections::elect_offline(image, unclean));
    written(controller.commit(&elected, now_ms))
}
