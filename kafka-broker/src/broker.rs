//! The handle of a running broker, and how one is started.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use kafka_wire::StrBytes;
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle};

use crate::clock::Clock;
use crate::cluster::record::MetadataRecord;
use crate::cluster::topics::Refusal;
use crate::cluster::{Cluster, METADATA_VERSION, ReplayError};
use crate::config::ConfigError;
use crate::config::broker::{BrokerConfig, Profile};
use crate::folder::Logs;
use crate::groups::GroupConfig;
use crate::groups::service::Groups;
use crate::state::BrokerState;
use crate::storage::MemoryDisk;
use crate::{groups, ids, maintenance, server};

/// In-memory connections that wait to be accepted; one more waits in [`Broker::connect`].
const IN_MEMORY_BACKLOG: usize = 128;
/// What an in-memory connection buffers in each direction.
const IN_MEMORY_BUFFER_BYTES: usize = 256 * 1024;

/// A running broker.
///
/// Dropping it closes its port and its connections at once, without waiting and without a last sync to disk; what was
/// acknowledged is found again at the next start. [`shutdown`](Self::shutdown) is the orderly way.
pub struct Broker {
    addr: SocketAddr,
    in_memory: mpsc::Sender<DuplexStream>,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
    state: Arc<BrokerState>,
}

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A configuration is unknown or has a value that it cannot have.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}")]
    Listen {
        /// The address that was asked for.
        addr: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// `advertised.listeners` is not of the form `PLAINTEXT://host:port`.
    #[error("advertised.listeners must be PLAINTEXT://host:port, not {value}")]
    AdvertisedListener {
        /// What was given.
        value: String,
    },
    /// Another broker works on the data folder.
    #[error("data folder {} is in use by another broker", .path.display())]
    FolderInUse {
        /// The folder.
        path: PathBuf,
    },
    /// The data folder belongs to another node.
    #[error("data folder {} belongs to node {stored}, not to node {given}", .path.display())]
    OtherNode {
        /// The folder.
        path: PathBuf,
        /// The node id in the folder's `meta.properties`.
        stored: i32,
        /// The node id of this broker.
        given: i32,
    },
    /// The data folder cannot be read or written.
    #[error("data folder {}: {reason}", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What failed.
        reason: String,
    },
    /// The metadata in the data folder cannot be used.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The metadata log cannot be written.
    #[error("the metadata log cannot be written: {reason}")]
    Metadata {
        /// What failed.
        reason: String,
    },
}

/// Collects what a broker starts with. Made by [`Broker::builder`].
#[derive(Debug, Clone)]
pub struct Builder {
    data_dir: Option<PathBuf>,
    memory_disk: Option<MemoryDisk>,
    listen: String,
    node_id: i32,
    profile: Profile,
    configs: Vec<(String, String)>,
}

impl Builder {
    /// The folder to keep everything in; it is created if it does not exist. Default: nothing is kept, all is in
    /// memory.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(path.into());
        self
    }

    /// Keeps everything on a disk in memory, where the next broker finds it, instead of in a folder.
    pub fn memory_disk(mut self, disk: &MemoryDisk) -> Self {
        self.memory_disk = Some(disk.clone());
        self
    }

    /// The address to listen on, as `host:port`. Default `127.0.0.1:0`, which takes a free port.
    pub fn listen(mut self, addr: impl Into<String>) -> Self {
        self.listen = addr.into();
        self
    }

    /// The node's id (`node.id`). Default 1.
    pub fn node_id(mut self, node_id: i32) -> Self {
        self.node_id = node_id;
        self
    }

    /// Which defaults to start from. Default [`Profile::Embedded`].
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// Sets a configuration by Kafka's key, such as `num.partitions` or `log.retention.ms`. The last call for a key
    /// wins.
    pub fn config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.push((key.into(), value.into()));
        self
    }

    /// Starts the broker. When this returns, clients can connect.
    ///
    /// Must be called inside a tokio runtime with I/O and time enabled; the broker's tasks run there. Dropping the
    /// future before it is ready leaves no task behind.
    pub async fn start(self) -> Result<Broker, StartError> {
        let config = BrokerConfig::new(self.profile, &self.configs)?;
        let clock = Clock::start();
        let listen_error = |source| StartError::Listen { addr: self.listen.clone(), source };
        let listener = TcpListener::bind(&self.listen).await.map_err(listen_error)?;
        let addr = listener.local_addr().map_err(listen_error)?;
        let (host, port) = advertised(&config, &self.listen, addr)?;

        let Self { data_dir, memory_disk, node_id, .. } = self;
        let in_memory = memory_disk.is_some() || data_dir.is_none();
        let open = move || {
            let logs = match memory_disk {
                Some(disk) => Logs::open_memory_disk(&disk)?,
                None => Logs::open(data_dir.as_deref(), node_id)?,
            };
            open_state(config, logs, node_id, clock, host, port)
        };
        // Recovering logs from disk takes a while, which the threads that serve connections are not to notice.
        let opened = match in_memory {
            true => Ok(open()),
            false => tokio::task::spawn_blocking(open).await,
        };
        let state = match opened.map_err(JoinError::try_into_panic) {
            Ok(state) => state?,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // Only a runtime that is shutting down refuses work, and it drops this future next.
            Err(Err(_)) => std::future::pending().await,
        };

        let (in_memory, accept_in_memory) = mpsc::channel(IN_MEMORY_BACKLOG);
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(server::run(Arc::clone(&state), listener, accept_in_memory, stopped));
        let tasks = vec![
            tokio::spawn(maintenance::run(Arc::clone(&state))),
            tokio::spawn(groups::service::run(Arc::clone(&state))),
        ];
        tracing::info!(%addr, node_id = state.node_id, cluster_id = state.cluster_id.as_str(), "broker started");
        Ok(Broker { addr, in_memory, stop: Some(stop), server, tasks, state })
    }
}

/// The host and port that clients are told: what is configured, else the address listened on.
fn advertised(config: &BrokerConfig, listen: &str, addr: SocketAddr) -> Result<(String, u16), StartError> {
    if let Some(value) = config.given("advertised.listeners") {
        let invalid = || StartError::AdvertisedListener { value: value.to_owned() };
        let (host, port) =
            value.strip_prefix("PLAINTEXT://").and_then(|it| it.rsplit_once(':')).ok_or_else(invalid)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        // Port 0 stands for the port that was taken, so that a fixed name goes with a free port.
        let port = port.parse().map_err(|_| invalid())?;
        return match host.is_empty() {
            true => Err(invalid()),
            false => Ok((host.to_owned(), if port == 0 { addr.port() } else { port })),
        };
    }
    let host = match listen.rsplit_once(':') {
        // "Every interface" is no address to connect to.
        _ if addr.ip().is_unspecified() => "localhost".to_owned(),
        Some((host, _)) if host.parse::<std::net::IpAddr>().is_err() && !host.starts_with('[') => {
            host.to_owned()
        }
        _ => addr.ip().to_string(),
    };
    Ok((host, addr.port()))
}

fn open_state(
    config: BrokerConfig,
    logs: Logs,
    node_id: i32,
    clock: Clock,
    host: String,
    port: u16,
) -> Result<Arc<BrokerState>, StartError> {
    let meta = logs.metadata_log()?;
    let cluster = Cluster::open(meta, node_id)?;
    let state = Arc::new(BrokerState {
        node_id,
        cluster_id: StrBytes::from_string(logs.cluster_id().to_owned()),
        directory_id: logs.directory_id(),
        host: StrBytes::from_string(host.clone()),
        port,
        fetch_max_bytes: config.fetch_max_bytes(),
        groups: Groups::new(GroupConfig::new(&config)),
        config,
        clock,
        cluster,
        topics: Default::default(),
        logs,
        producer_ids: Default::default(),
    });
    register(&state, host, port)?;
    state.load_dynamic_config();
    state.host_all();
    state.groups.load_all(&state);
    Ok(state)
}

/// Registers this node with the controller, as each start of a Kafka broker does, and sets the metadata version when
/// the log is new.
fn register(state: &BrokerState, host: String, port: u16) -> Result<(), StartError> {
    let mut controller = state.cluster.controller();
    let mut records = Vec::new();
    if controller.read(|image| image.features().is_empty()) {
        records.push(MetadataRecord::FeatureLevel {
            name: "metadata.version".to_owned(),
            level: METADATA_VERSION,
        });
    }
    let epoch = state.cluster.read(|_, offset| offset) + 1 + i64::try_from(records.len()).unwrap_or(0);
    records.push(MetadataRecord::RegisterBroker {
        node_id: state.node_id,
        incarnation: ids::random(),
        epoch,
        host,
        port,
        rack: state.config.given("broker.rack").map(str::to_owned),
    });
    let committed = controller.commit(&records, state.clock.now_ms());
    committed.map_err(|Refusal { message, .. }| StartError::Metadata { reason: message })
}

impl Broker {
    /// A broker's settings, to be completed and started.
    pub fn builder() -> Builder {
        Builder {
            data_dir: None,
            memory_disk: None,
            listen: "127.0.0.1:0".to_owned(),
            node_id: 1,
            profile: Profile::default(),
            configs: Vec::new(),
        }
    }

    /// What to give a client as `bootstrap.servers`: the advertised `host:port`.
    pub fn bootstrap_servers(&self) -> String {
        match self.state.host.contains(':') {
            true => format!("[{}]:{}", self.state.host.as_str(), self.state.port),
            false => format!("{}:{}", self.state.host.as_str(), self.state.port),
        }
    }

    /// The address listened on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    #[cfg(test)]
    pub(crate) fn state(&self) -> &Arc<BrokerState> {
        &self.state
    }

    /// Opens a connection in memory: the same protocol without a socket.
    ///
    /// Waits while many such connections are being accepted. After the broker has stopped, the connection is closed
    /// from the start. Dropping the future opens nothing.
    pub async fn connect(&self) -> DuplexStream {
        let (client, server) = tokio::io::duplex(IN_MEMORY_BUFFER_BYTES);
        // A refused stream is dropped, which the client end sees as a closed connection.
        let _ = self.in_memory.send(server).await;
        client
    }

    /// Stops accepting, waits for requests in progress, closes all connections, syncs the logs to disk and marks the
    /// folder as cleanly closed, which makes the next start quick.
    ///
    /// Dropping the future stops the broker at once instead, as dropping the handle does.
    pub async fn shutdown(mut self) {
        // Requests first, so that what is written below is the end of it. A task that panicked has ended as well.
        drop(self.stop.take());
        let _ = (&mut self.server).await;
        for task in &mut self.tasks {
            task.abort();
            let _ = task.await;
        }
        maintenance::on_disk_thread(&self.state, maintenance::close).await;
        tracing::info!(addr = %self.addr, "broker stopped");
    }
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker")
            .field("addr", &self.addr)
            .field("node_id", &self.state.node_id)
            .finish_non_exhaustive()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.server.abort();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
