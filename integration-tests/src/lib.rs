//! A cluster to test against: the embedded broker, or Apache Kafka.
//!
//! The same suite runs on both. By default every [`Cluster`] is a broker of its own, in memory and in this process.
//! With `KAFKA_TEST_BROKER=apache` it is the Apache Kafka that listens at `KAFKA_TEST_BOOTSTRAP` (host:port), shared by
//! all tests; `cargo xtask test` starts one and sets both. Tests therefore name their topics and groups with
//! [`unique`].

pub mod simulation;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kafka_admin::{Admin, NewTopic, OffsetSpec};
use kafka_broker::Broker;
use kafka_client::Client;

/// Long enough for a slow machine, short enough for a person: no step of a test may take longer.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whatever a test may fail with.
pub type TestResult<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Where a test's records go.
#[derive(Debug)]
pub struct Cluster {
    bootstrap_servers: String,
    broker: Option<Broker>,
}

impl Cluster {
    /// The cluster this run is about.
    pub async fn start() -> TestResult<Self> {
        show_logs();
        if !on_apache_kafka() {
            return Self::start_ours().await;
        }
        let bootstrap_servers = std::env::var("KAFKA_TEST_BOOTSTRAP").map_err(
            |_| "KAFKA_TEST_BROKER=apache needs KAFKA_TEST_BOOTSTRAP=host:port; `cargo xtask test` sets both",
        )?;
        Ok(Self { bootstrap_servers, broker: None })
    }

    /// The embedded broker, whatever the run is about: for tests of what only it can do.
    pub async fn start_ours() -> TestResult<Self> {
        let broker = Broker::builder().start().await?;
        Ok(Self { bootstrap_servers: broker.bootstrap_servers(), broker: Some(broker) })
    }

    /// `host:port`.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// A new client of this cluster.
    pub async fn client(&self) -> TestResult<Client> {
        Ok(Client::connect(&self.bootstrap_servers).await?)
    }

    /// A topic of its own for a test, with that many partitions, whose leaders serve it.
    pub async fn topic(&self, name: &str, partitions: i32) -> TestResult<String> {
        self.topic_with(name, partitions, &[]).await
    }

    /// [`topic`](Self::topic), with a configuration.
    pub async fn topic_with(
        &self,
        name: &str,
        partitions: i32,
        configs: &[(&str, &str)],
    ) -> TestResult<String> {
        let topic = unique(name);
        let new = NewTopic::new(&topic, partitions, 1).configs(configs.iter().copied());
        let admin = Admin::new(self.client().await?);
        admin.create_topics([new]).await?.all()?;
        let ends = || (0..partitions).map(|partition| ((topic.as_str(), partition), OffsetSpec::Latest));
        eventually("its leaders serve it", async || Ok(admin.list_offsets(ends()).await?.all().is_ok()))
            .await?;
        Ok(topic)
    }

    /// Stops the embedded broker, if it is one.
    pub async fn shutdown(self) {
        if let Some(broker) = self.broker {
            broker.shutdown().await;
        }
    }
}

/// Asks again until it is so. A change of Apache Kafka's controller reaches its brokers some time after the answer.
///
/// # Errors
/// What asking said, or that it was not so within [`PATIENCE`].
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> TestResult<bool>) -> TestResult {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await? {
        if Instant::now() > deadline {
            return Err(format!("waited {PATIENCE:?} in vain until {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Shows what the libraries log, to the extent that `RUST_LOG` asks for; without it, nothing.
pub fn show_logs() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

/// Whether this run is about Apache Kafka.
pub fn on_apache_kafka() -> bool {
    std::env::var("KAFKA_TEST_BROKER").is_ok_and(|broker| broker == "apache")
}

/// `name` with a suffix that no other test, run or process has.
pub fn unique(name: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{name}-{:x}-{}", since_1970.as_nanos(), COUNTER.fetch_add(1, Ordering::Relaxed))
}
