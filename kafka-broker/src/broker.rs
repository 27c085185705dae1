//! The handle of a running broker, and how one is started.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::task::JoinError;

use crate::clock::Clock;
use crate::cluster::topics::Refusal;
use crate::cluster::{Cluster, ReplayError, elections};
use crate::config::ConfigError;
use crate::config::broker::{BrokerConfig, Profile};
use crate::control::Control;
use crate::folder::Logs;
use crate::node::{Node, Running};
use crate::storage::MemoryDisk;

/// Nodes share a process, so there is no point in more.
const MAX_NODES: usize = 64;
/// What an in-memory connection buffers in each direction.
const IN_MEMORY_BUFFER_BYTES: usize = 256 * 1024;

/// A running broker.
///
/// Dropping it closes its ports and its connections at once, without waiting and without a last sync to disk; what was
/// acknowledged is found again at the next start. [`shutdown`](Self::shutdown) is the orderly way.
pub struct Broker {
    addr: SocketAddr,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) clock: Clock,
    profile: Profile,
    configs: Configs,
    pub(crate) nodes: Mutex<BTreeMap<i32, Slot>>,
    #[cfg(test)]
    first: Arc<crate::state::BrokerState>,
}

/// A node, and what runs of it.
pub(crate) struct Slot {
    pub(crate) node: Node,
    pub(crate) running: Option<Running>,
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
    /// There is no such number of nodes.
    #[error("a broker has 1 to {MAX_NODES} nodes, not {nodes}")]
    Nodes {
        /// What was asked for.
        nodes: usize,
    },
    /// Each node needs a disk of its own.
    #[error("{disks} disks in memory are given for {nodes} nodes")]
    MemoryDisks {
        /// The disks that were given.
        disks: usize,
        /// The nodes that were asked for.
        nodes: usize,
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
    memory_disks: Vec<MemoryDisk>,
    listen: String,
    node_id: i32,
    nodes: usize,
    profile: Profile,
    configs: Configs,
}

/// What was set, for every node or for one.
#[derive(Debug, Clone, Default)]
struct Configs(Vec<(Option<i32>, String, String)>);

impl Configs {
    /// What holds for a node; the last call for a key wins.
    fn of(&self, node_id: i32) -> Vec<(String, String)> {
        let meant = self.0.iter().filter(|(node, ..)| node.is_none_or(|node| node == node_id));
        meant.map(|(_, key, value)| (key.clone(), value.clone())).collect()
    }
}

impl Builder {
    /// The folder to keep everything in; it is created if it does not exist. Default: nothing is kept, all is in
    /// memory.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(path.into());
        self
    }

    /// Keeps everything on a disk in memory, where the next broker finds it, instead of in a folder. Several nodes need a
    /// call each, in the order of their ids.
    pub fn memory_disk(mut self, disk: &MemoryDisk) -> Self {
        self.memory_disks.push(disk.clone());
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

    /// How many nodes the broker has, each with a listener, logs and an id of its own. Default 1, at most 64.
    ///
    /// Ids count up from [`node_id`](Self::node_id), ports from the one of [`listen`](Self::listen) unless that is 0. A
    /// data folder then holds one folder for each node, `node-1` and so on; one that was made for a single node cannot be
    /// used for several, nor the other way round. Topics get one replica unless `default.replication.factor` or their
    /// creator says otherwise.
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
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
        self.configs.0.push((None, key.into(), value.into()));
        self
    }

    /// As [`config`](Self::config), for one node: its `broker.rack`, say.
    pub fn node_config(mut self, node_id: i32, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.0.push((Some(node_id), key.into(), value.into()));
        self
    }

    /// Starts the broker. When this returns, clients can connect.
    ///
    /// Must be called inside a tokio runtime with I/O and time enabled; the broker's tasks run there. Dropping the
    /// future before it is ready leaves no task behind.
    pub async fn start(self) -> Result<Broker, StartError> {
        if !(1..=MAX_NODES).contains(&self.nodes) {
            return Err(StartError::Nodes { nodes: self.nodes });
        }
        if !self.memory_disks.is_empty() && self.memory_disks.len() != self.nodes {
            return Err(StartError::MemoryDisks { disks: self.memory_disks.len(), nodes: self.nodes });
        }
        let config = BrokerConfig::new(self.profile, &self.configs.of(self.node_id))?;
        let clock = Clock::start();
        let mut listeners = Vec::with_capacity(self.nodes);
        for (number, node_id) in (0..self.nodes).zip(self.node_id..) {
            let listen = nth_address(&self.listen, number);
            let listen_error = |source| StartError::Listen { addr: listen.clone(), source };
            let listener = TcpListener::bind(&listen).await.map_err(listen_error)?;
            let addr = listener.local_addr().map_err(listen_error)?;
            let (host, port) = advertised(&config, &self.listen, addr, number)?;
            listeners.push((node_id, listener, addr, host, port));
        }
        let node_ids: Vec<i32> = listeners.iter().map(|(node_id, ..)| *node_id).collect();
        let opened = self.open(config, node_ids.clone(), clock).await?;
        let is_alone = node_ids.len() == 1;
        let mut nodes = BTreeMap::new();
        let mut first = None;
        for ((node_id, listener, addr, host, port), logs) in listeners.into_iter().zip(opened.logs) {
            let node = Node { node_id, addr, host, port, logs };
            let config = BrokerConfig::new(self.profile, &self.configs.of(node_id))?;
            let running = node.start(listener, config, clock, &opened.cluster, is_alone).await?;
            first.get_or_insert((addr, Arc::clone(&running.state)));
            nodes.insert(node_id, Slot { node, running: Some(running) });
        }
        let Some((addr, _state)) = first else { return Err(StartError::Nodes { nodes: 0 }) };
        Ok(Broker {
            addr,
            #[cfg(test)]
            first: _state,
            cluster: opened.cluster,
            clock,
            profile: self.profile,
            configs: self.configs,
            nodes: Mutex::new(nodes),
        })
    }

    /// Opens the data of every node and replays the metadata, which lies with the first one.
    async fn open(
        &self,
        config: BrokerConfig,
        node_ids: Vec<i32>,
        clock: Clock,
    ) -> Result<Opened, StartError> {
        let (data_dir, memory_disks) = (self.data_dir.clone(), self.memory_disks.clone());
        let may_block = data_dir.is_some() && memory_disks.is_empty();
        let open = move || {
            let mut all: Vec<Logs> = Vec::with_capacity(node_ids.len());
            for (number, &node_id) in node_ids.iter().enumerate() {
                let cluster_id = all.first().map(|first| first.cluster_id().to_owned());
                let folder = data_dir.as_ref().map(|folder| match node_ids.len() {
                    1 => folder.clone(),
                    _ => folder.join(format!("node-{node_id}")),
                });
                all.push(match memory_disks.get(number) {
                    Some(disk) => Logs::open_memory_disk(disk, cluster_id.as_deref())?,
                    None => Logs::open(folder.as_deref(), node_id, cluster_id.as_deref())?,
                });
            }
            let Some((first, &voter)) = all.first().zip(node_ids.first()) else {
                return Err(StartError::Nodes { nodes: 0 });
            };
            let cluster = Cluster::open(first.metadata_log()?, voter)?;
            fence_absent(&cluster, &node_ids, &config, clock)?;
            Ok(Opened { cluster: Arc::new(cluster), logs: all })
        };
        // Files are opened on a thread that serves nobody.
        match may_block {
            false => open(),
            true => match tokio::task::spawn_blocking(open).await.map_err(JoinError::try_into_panic) {
                Ok(opened) => opened,
                Err(Ok(panic)) => std::panic::resume_unwind(panic),
                // Only a runtime that is shutting down refuses work, and it drops this future next.
                Err(Err(_)) => std::future::pending().await,
            },
        }
    }
}

struct Opened {
    cluster: Arc<Cluster>,
    logs: Vec<Logs>,
}

/// Tells the controller that nodes of an earlier run are not part of this one.
fn fence_absent(
    cluster: &Cluster,
    node_ids: &[i32],
    config: &BrokerConfig,
    clock: Clock,
) -> Result<(), StartError> {
    let known: Vec<i32> = cluster.read(|image, _| image.live_brokers().map(|(node_id, _)| node_id).collect());
    for node_id in known.into_iter().filter(|node_id| !node_ids.contains(node_id)) {
        let unclean = config.unclean_leader_election();
        let fenced = cluster.change(clock.now_ms(), |image| Ok(elections::fence(image, node_id, unclean)));
        fenced.map_err(|Refusal { message, .. }| StartError::Metadata { reason: message })?;
    }
    Ok(())
}

/// `host:port`, with the port counted up; 0 stays 0.
fn nth_address(listen: &str, number: usize) -> String {
    let port = listen.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<usize>().ok()?)));
    match port {
        Some((host, port @ 1..)) => format!("{host}:{}", port + number),
        _ => listen.to_owned(),
    }
}

/// The host and port that clients are told: what is configured, else the address listened on.
///
/// A configured port is that of the first node; the others' count up from it.
fn advertised(
    config: &BrokerConfig,
    listen: &str,
    addr: SocketAddr,
    number: usize,
) -> Result<(String, u16), StartError> {
    if let Some(value) = config.given("advertised.listeners") {
        let invalid = || StartError::AdvertisedListener { value: value.to_owned() };
        let (host, port) =
            value.strip_prefix("PLAINTEXT://").and_then(|it| it.rsplit_once(':')).ok_or_else(invalid)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        // Port 0 stands for the port that was taken, so that a fixed name goes with a free port.
        let port: u16 = port.parse().map_err(|_| invalid())?;
        let port = match port {
            0 => addr.port(),
            port => u16::try_from(usize::from(port) + number).map_err(|_| invalid())?,
        };
        return if host.is_empty() { Err(invalid()) } else { Ok((host.to_owned(), port)) };
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

impl Broker {
    /// A broker's settings, to be completed and started.
    pub fn builder() -> Builder {
        Builder {
            data_dir: None,
            memory_disks: Vec::new(),
            listen: "127.0.0.1:0".to_owned(),
            node_id: 1,
            nodes: 1,
            profile: Profile::default(),
            configs: Configs::default(),
        }
    }

    /// What to give a client as `bootstrap.servers`: the advertised `host:port` of every node, running or not.
    pub fn bootstrap_servers(&self) -> String {
        let nodes = self.nodes.lock();
        let servers = nodes.values().map(|Slot { node, .. }| match node.host.contains(':') {
            true => format!("[{}]:{}", node.host, node.port),
            false => format!("{}:{}", node.host, node.port),
        });
        servers.collect::<Vec<_>>().join(",")
    }

    /// The address that the first node listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A test's hand on the broker: stops and starts nodes, moves leaders, delays and loses requests.
    pub fn control(&self) -> Control<'_> {
        Control::new(self)
    }

    #[cfg(test)]
    pub(crate) fn state(&self) -> &Arc<crate::state::BrokerState> {
        &self.first
    }

    pub(crate) fn config_of(&self, node_id: i32) -> Result<BrokerConfig, ConfigError> {
        BrokerConfig::new(self.profile, &self.configs.of(node_id))
    }

    /// Opens a connection in memory to the first node that runs: the same protocol without a socket.
    ///
    /// Waits while many such connections are being accepted. After the broker has stopped, the connection is closed
    /// from the start. Dropping the future opens nothing.
    pub async fn connect(&self) -> DuplexStream {
        self.connect_where(|_| true).await
    }

    /// [`connect`](Self::connect) to one node; closed from the start if it does not run.
    pub async fn connect_to(&self, node_id: i32) -> DuplexStream {
        self.connect_where(|id| id == node_id).await
    }

    /// [`connect`](Self::connect) to the node that is advertised at a port; closed from the start if it does not run. What
    /// a client's connector needs, which is told where to connect by host and port.
    pub async fn connect_to_port(&self, port: u16) -> DuplexStream {
        let node_id = {
            let nodes = self.nodes.lock();
            nodes.values().find(|slot| slot.node.port == port).map(|slot| slot.node.node_id)
        };
        self.connect_where(|id| Some(id) == node_id).await
    }

    async fn connect_where(&self, is_meant: impl Fn(i32) -> bool) -> DuplexStream {
        let (client, server) = tokio::io::duplex(IN_MEMORY_BUFFER_BYTES);
        let in_memory = {
            let nodes = self.nodes.lock();
            let mut meant = nodes.iter().filter(|(node_id, _)| is_meant(**node_id));
            meant.find_map(|(_, slot)| slot.running.as_ref()).map(|running| running.in_memory.clone())
        };
        if let Some(in_memory) = in_memory {
            // A refused stream is dropped, which the client end sees as a closed connection.
            let _ = in_memory.send(server).await;
        }
        client
    }

    /// Stops accepting, waits for requests in progress, closes all connections, syncs the logs to disk and marks the
    /// folders as cleanly closed, which makes the next start quick.
    ///
    /// Dropping the future stops the broker at once instead, as dropping the handle does.
    pub async fn shutdown(self) {
        let mut nodes = std::mem::take(&mut *self.nodes.lock());
        let running = nodes.values_mut().filter_map(|slot| slot.running.take());
        let closes: Vec<_> = running.map(Running::close).collect();
        for close in closes {
            close.await;
        }
        let cluster = Arc::clone(&self.cluster);
        let close = move || cluster.controller().close();
        let may_block = nodes.values().any(|slot| slot.node.logs.may_block());
        let closed = match may_block {
            false => close(),
            true => tokio::task::spawn_blocking(close).await.unwrap_or_else(|error| Err(error.into())),
        };
        if let Err(error) = closed {
            tracing::error!(%error, "the metadata log was not closed");
        }
        tracing::info!(addr = %self.addr, "broker stopped");
    }
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nodes: Vec<i32> = self.nodes.lock().keys().copied().collect();
        f.debug_struct("Broker").field("addr", &self.addr).field("nodes", &nodes).finish_non_exhaustive()
    }
}
