//! The shared handle: configuration, connections and what is known of the cluster.

mod bootstrap;
mod builder;
mod request;
mod snapshot;

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use kafka_wire::messages::metadata_request::MetadataRequestTopic;
use kafka_wire::messages::{FindCoordinatorRequest, MetadataRequest, MetadataResponse, TopicName};
use kafka_wire::{ErrorCode, Request, StrBytes};
use tokio::time::Instant;

pub use builder::ClientBuilder;
pub use request::{ClientRequest, Target};
pub use snapshot::{ClientSnapshot, MetadataSnapshot};

use self::bootstrap::{Bootstrap, candidates, choose};
use crate::backoff::{Backoff, random_unit};
use crate::cluster::{self, Asked, Cluster, CoordinatorKind, Coordinators, Metadata, Source};
use crate::config::{ConfigError, Properties};
use crate::error::Error;
use crate::net::{
    Address, Call, Connection, ConnectionError, Node, Pool, Purpose, Readiness, RequestError,
    metadata_refreshed,
};

/// Older brokers may answer with leader epochs that they made up (KAFKA-9212).
const FIRST_VERSION_WITH_RELIABLE_EPOCHS: i16 = 9;

/// A handle to a Kafka cluster: cheap to clone, shared by every producer, consumer and request.
///
/// Connections open when they are needed and close when the last handle and the last open request are gone. Dropping it
/// never blocks.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: ClientBuilder,
    bootstrap: Bootstrap,
    pool: Pool,
    metadata: Arc<Metadata>,
    coordinators: Coordinators,
    retry_backoff: Backoff,
    refreshing: OnceLock<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.metadata.close();
    }
}

impl Client {
    /// Connects to the cluster behind `bootstrap` (`host:port,host:port`) with default options.
    ///
    /// Fails when no broker answers within 10 s. Dropping the future ends the attempt.
    pub async fn connect(bootstrap: impl Into<String>) -> Result<Self, Error> {
        Self::builder(bootstrap).connect().await
    }

    /// Options for a client of the cluster behind `bootstrap` (`host:port,host:port`).
    pub fn builder(bootstrap: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(bootstrap)
    }

    /// A client from Kafka's own configuration keys, such as a Java application's `client.properties`.
    ///
    /// Keys of producers and consumers become the defaults of this client's. An unknown key is an error that names the
    /// nearest known one. Nothing connects before the client is used.
    pub fn from_properties<K: AsRef<str>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, ConfigError> {
        ClientBuilder::from_properties(Properties::new(pairs)?)?.build()
    }

    fn start(config: ClientBuilder, bootstrap: Vec<Address>) -> Self {
        let inner = Inner {
            bootstrap: Bootstrap::new(bootstrap, config.dns_lookup),
            pool: new_pool(&config),
            metadata: Arc::new(Metadata::new(config.metadata())),
            coordinators: Coordinators::default(),
            retry_backoff: config.retry_backoff_policy(),
            refreshing: OnceLock::new(),
            config,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The cluster as it was described last; empty until something was asked.
    pub fn cluster(&self) -> Arc<Cluster> {
        self.inner.metadata.snapshot()
    }

    /// Asks a broker for topics by name and returns the new snapshot.
    ///
    /// A topic that does not exist is no error here: see [`Cluster::topic_error`]. Retriable failures are tried again for
    /// `default.api.timeout`. Dropping the future is harmless.
    pub async fn refresh_topics<T: AsRef<str>>(
        &self,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<Arc<Cluster>, RequestError> {
        let topics: Vec<Arc<str>> = topics.into_iter().map(|topic| Arc::from(topic.as_ref())).collect();
        self.refresh_within(Some(&topics), self.inner.config.api_timeout).await
    }

    /// Asks a broker for every topic of the cluster and returns the new snapshot. As [`refresh_topics`](Self::refresh_topics).
    pub async fn refresh_all_topics(&self) -> Result<Arc<Cluster>, RequestError> {
        self.refresh_within(None, self.inner.config.api_timeout).await
    }

    /// Sends a request of Kafka's protocol, in the newest version that both ends know.
    ///
    /// ```no_run
    /// # async fn f(client: kafka_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use kafka_client::{Target, wire::messages::DescribeClusterRequest};
    /// let answer = client.request(DescribeClusterRequest::default()).to(Target::Controller).await?;
    /// # Ok(()) }
    /// ```
    pub fn request<R: Request>(&self, request: R) -> ClientRequest<R> {
        ClientRequest::new(self.clone(), request)
    }

    /// The configuration keys given to [`from_properties`](Self::from_properties); empty otherwise.
    pub fn properties(&self) -> &Properties {
        &self.inner.config.properties
    }

    /// What the client knows and whom it is connected to right now.
    pub fn debug_snapshot(&self) -> ClientSnapshot {
        let now = Instant::now();
        ClientSnapshot { metadata: self.inner.metadata.show(now), connections: self.inner.pool.show(now) }
    }

    pub(crate) fn config(&self) -> &ClientBuilder {
        &self.inner.config
    }

    /// For the labels of metrics and spans; empty if none is sent.
    pub(crate) fn client_id(&self) -> Arc<str> {
        self.inner.config.client_id.clone().unwrap_or_else(|| Arc::from(""))
    }

    pub(crate) fn retry_backoff(&self) -> Backoff {
        self.inner.retry_backoff
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        self.inner.config.request_timeout
    }

    pub(crate) fn metadata(&self) -> &Arc<Metadata> {
        &self.inner.metadata
    }

    /// Says that the snapshot is stale for `topics`, without waiting for a new one.
    pub(crate) fn want_refresh<'a>(&self, topics: impl IntoIterator<Item = &'a Arc<str>>) {
        self.ensure_refreshing();
        self.inner.metadata.want(topics);
    }

    /// One round of asking for `topics` (all of the cluster's if `None`), shared with everybody who asks.
    pub(crate) async fn refresh_once(
        &self,
        topics: Option<&[Arc<str>]>,
    ) -> Result<Arc<Cluster>, RequestError> {
        self.ensure_refreshing();
        match self.inner.metadata.round(topics).await.error {
            None => Ok(self.cluster()),
            Some(error) => Err(error),
        }
    }

    /// Rounds of asking until one succeeds or the time is over.
    pub(crate) async fn refresh_within(
        &self,
        topics: Option<&[Arc<str>]>,
        waited: Duration,
    ) -> Result<Arc<Cluster>, RequestError> {
        let deadline = Instant::now() + waited;
        let mut last = None;
        loop {
            match tokio::time::timeout_at(deadline, self.refresh_once(topics)).await {
                Ok(Ok(cluster)) => return Ok(cluster),
                Ok(Err(error)) if error.is_retriable() => last = Some(Box::new(error)),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(RequestError::Timeout { waited, last }),
            }
        }
    }

    /// The connection to a broker of the cluster, opened if needed.
    pub(crate) async fn broker_connection(
        &self,
        id: i32,
        purpose: Purpose,
    ) -> Result<Connection, RequestError> {
        let mut node = self.node(id);
        if node.is_none() {
            self.refresh_once(Some(&[])).await?;
            node = self.node(id);
        }
        let node = node.ok_or(RequestError::UnknownBroker { broker_id: id })?;
        self.inner.pool.connection(&node, purpose).await.map_err(RequestError::NotSent)
    }

    /// The connection to the coordinator of a group or a transaction, found and opened if needed.
    ///
    /// Callers that are told `NOT_COORDINATOR`, or lose the connection, say [`forget_coordinator`](Self::forget_coordinator).
    pub(crate) async fn coordinator_connection(
        &self,
        kind: CoordinatorKind,
        key: &str,
    ) -> Result<Connection, RequestError> {
        let node = self.coordinator(kind, key).await?;
        self.inner.pool.connection(&node, Purpose::Coordinator).await.map_err(RequestError::NotSent)
    }

    /// The coordinator of a group or a transaction, asked for if it is not known.
    pub(crate) async fn coordinator(&self, kind: CoordinatorKind, key: &str) -> Result<Node, RequestError> {
        if let Some(node) = self.inner.coordinators.get(kind, key) {
            return Ok(node);
        }
        let connection = self.any_connection(Purpose::Control).await?;
        let version = connection.version_of::<FindCoordinatorRequest>(i16::MAX)?;
        let question = cluster::question(kind, key, version);
        let response = connection.request(&question, Call::within(self.request_timeout())).await?;
        let node = cluster::answer(key, response)?;
        self.inner.coordinators.remember(kind, key, node.clone());
        Ok(node)
    }

    /// Connections that nobody else uses. Brokers answer a connection's requests one after the other, so a
    /// JoinGroup or a Fetch that is held back would hold back those of every other consumer on this handle; and
    /// members of one group that share a connection could wait for each other until the rebalance times out.
    pub(crate) fn own_connections(&self) -> Pool {
        new_pool(&self.inner.config)
    }

    pub(crate) fn forget_coordinator(&self, kind: CoordinatorKind, key: &str) {
        self.inner.coordinators.forget(kind, key);
    }

    /// A connection to whichever broker can be asked soonest.
    pub(crate) async fn any_connection(&self, purpose: Purpose) -> Result<Connection, RequestError> {
        self.inner.any_connection(purpose).await
    }

    pub(crate) fn node(&self, id: i32) -> Option<Node> {
        let cluster = self.cluster();
        cluster.broker(id).map(|broker| Node { id, address: broker.address.clone() })
    }

    /// The refreshing task starts with the first question, which is asked from inside a runtime.
    fn ensure_refreshing(&self) {
        self.inner.refreshing.get_or_init(|| {
            // Weak, so that the task does not keep alive the client whose end it waits for.
            let source = WeakClient(Arc::downgrade(&self.inner));
            tokio::spawn(cluster::run(self.inner.metadata.clone(), source));
        });
    }
}

fn new_pool(config: &ClientBuilder) -> Pool {
    Pool::new(config.stream_connector(), config.connection(), config.dialing())
}

impl Inner {
    /// Servers that are not known to be down are tried until one does not refuse; of those that are, one.
    async fn any_connection(&self, purpose: Purpose) -> Result<Connection, RequestError> {
        let mut failed = None;
        loop {
            let connector = self.pool.connector();
            let bootstrap = self.bootstrap.nodes(connector, self.config.setup_timeout).await;
            let now = Instant::now();
            let cluster = self.metadata.snapshot();
            let sources = self.metadata.sources();
            let nodes = candidates(sources, &cluster, bootstrap.as_deref().unwrap_or_default());
            let ready = |node: Node| {
                let readiness = self.pool.readiness(&node, purpose, now);
                (node, readiness)
            };
            let chosen = choose(nodes.into_iter().map(ready).collect(), random_unit());
            // At least one bootstrap server was given; without brokers either, its name did not resolve.
            let (node, readiness) = match (chosen, bootstrap) {
                (Some(chosen), _) => chosen,
                (None, Err(error)) => return Err(RequestError::NotSent(error)),
                (None, Ok(_)) => return Err(RequestError::ClientClosed),
            };
            if readiness > Readiness::Untried
                && let Some(error) = failed.take()
            {
                return Err(RequestError::NotSent(error));
            }
            match self.pool.connection(&node, purpose).await {
                Ok(connection) => return Ok(connection),
                // Time-outs would add up.
                Err(error @ ConnectionError::SetupTimeout { .. }) => {
                    return Err(RequestError::NotSent(error));
                }
                Err(error) => failed = Some(error),
            }
        }
    }

    async fn fetch_metadata(&self, asked: Asked) -> Result<MetadataResponse, RequestError> {
        let topic = |name: &Arc<str>| {
            let name = TopicName(StrBytes::from_string(name.to_string()));
            MetadataRequestTopic::default().with_name(Some(name))
        };
        let request = MetadataRequest::default()
            .with_topics(match asked {
                Asked::All => None,
                Asked::Topics(names) => Some(names.iter().map(topic).collect()),
            })
            .with_allow_auto_topic_creation(self.config.auto_create_topics);
        let connection = self.any_connection(Purpose::Control).await?;
        let version = connection.version_of::<MetadataRequest>(i16::MAX)?;
        let mut response = connection.request(&request, Call::within(self.config.request_timeout)).await?;
        if version < FIRST_VERSION_WITH_RELIABLE_EPOCHS {
            let partitions = response.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
            partitions.for_each(|partition| partition.leader_epoch = -1);
        }
        if ErrorCode::from(response.error_code).is_ok() {
            metadata_refreshed(self.config.client_id.as_ref());
        }
        Ok(response)
    }
}

#[derive(Debug)]
struct WeakClient(Weak<Inner>);

impl Source for WeakClient {
    async fn fetch(&self, asked: Asked) -> Option<Result<MetadataResponse, RequestError>> {
        let inner = self.0.upgrade()?;
        Some(inner.fetch_metadata(asked).await)
    }

    fn rebootstrap(&self) {
        if let Some(inner) = self.0.upgrade() {
            inner.bootstrap.forget();
            inner.coordinators.forget_all();
            inner.pool.let_go();
        }
    }
}
