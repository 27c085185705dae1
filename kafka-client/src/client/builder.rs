use std::sync::Arc;
use std::time::Duration;

use kafka_wire::frame::DEFAULT_MAX_FRAME_BYTES;

use super::Client;
use crate::backoff::Backoff;
use crate::config::{ConfigError, Properties};
use crate::error::Error;
use crate::net::{Address, Connector, TcpConnector};

/// Options of a [`Client`]. Defaults are the Java client's unless said otherwise.
#[derive(Debug, Clone)]
#[must_use = "nothing happens before `build` or `connect`"]
pub struct ClientBuilder {
    pub(super) bootstrap: String,
    pub(super) client_id: Option<Arc<str>>,
    pub(super) request_timeout: Duration,
    pub(super) api_timeout: Duration,
    pub(super) setup_timeout: Duration,
    pub(super) reconnect_backoff: (Duration, Duration),
    pub(super) retry_backoff: (Duration, Duration),
    pub(super) metadata_max_age: Duration,
    pub(super) max_frame_bytes: usize,
    pub(super) auto_create_topics: bool,
    pub(super) connector: Arc<dyn Connector>,
    pub(super) properties: Properties,
}

impl ClientBuilder {
    pub(super) fn new(bootstrap: impl Into<String>) -> Self {
        Self {
            bootstrap: bootstrap.into(),
            client_id: Some(Arc::from("kafka-client-rust")),
            request_timeout: Duration::from_secs(30),
            api_timeout: Duration::from_secs(60),
            setup_timeout: Duration::from_secs(10),
            reconnect_backoff: (Duration::from_millis(50), Duration::from_secs(1)),
            retry_backoff: (Duration::from_millis(100), Duration::from_secs(1)),
            metadata_max_age: Duration::from_secs(5 * 60),
            max_frame_bytes: DEFAULT_MAX_FRAME_BYTES,
            auto_create_topics: false,
            connector: Arc::new(TcpConnector),
            properties: Properties::default(),
        }
    }

    /// Options that start from Kafka's own keys, as [`Client::from_properties`] does.
    pub fn from_properties(properties: Properties) -> Result<Self, ConfigError> {
        let bootstrap =
            properties.get("bootstrap.servers").ok_or(ConfigError::Missing { key: "bootstrap.servers" })?;
        let mut builder = Self::new(bootstrap);
        if let Some(id) = properties.get("client.id") {
            builder.client_id = Some(Arc::from(id));
        }
        for (key, place) in [
            ("request.timeout.ms", &mut builder.request_timeout),
            ("default.api.timeout.ms", &mut builder.api_timeout),
            ("socket.connection.setup.timeout.ms", &mut builder.setup_timeout),
            ("reconnect.backoff.ms", &mut builder.reconnect_backoff.0),
            ("reconnect.backoff.max.ms", &mut builder.reconnect_backoff.1),
            ("retry.backoff.ms", &mut builder.retry_backoff.0),
            ("retry.backoff.max.ms", &mut builder.retry_backoff.1),
            ("metadata.max.age.ms", &mut builder.metadata_max_age),
        ] {
            if let Some(span) = properties.millis(key)? {
                *place = span;
            }
        }
        if let Some(limit) = properties.bytes("receive.message.max.bytes")? {
            builder.max_frame_bytes = limit;
        }
        if let Some(create) = properties.flag("allow.auto.create.topics")? {
            builder.auto_create_topics = create;
        }
        builder.properties = properties;
        Ok(builder)
    }

    /// The name that brokers log and apply quotas to (`client.id`). Default `kafka-client-rust`.
    pub fn client_id(mut self, id: impl Into<Arc<str>>) -> Self {
        self.client_id = Some(id.into());
        self
    }

    /// How long one request waits for its answer before its connection is given up (`request.timeout.ms`).
    /// Default 30 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How long a call keeps trying as a whole (`default.api.timeout.ms`). Default 60 s.
    pub fn api_timeout(mut self, timeout: Duration) -> Self {
        self.api_timeout = timeout;
        self
    }

    /// How long connecting and agreeing on versions may take (`socket.connection.setup.timeout.ms`), and how long
    /// [`connect`](Self::connect) keeps trying. Default 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.setup_timeout = timeout;
        self
    }

    /// The pause before connecting again after a failure, growing from the first to the second value
    /// (`reconnect.backoff.ms`, `reconnect.backoff.max.ms`). Default 50 ms to 1 s, with jitter.
    pub fn reconnect_backoff(mut self, initial: Duration, max: Duration) -> Self {
        self.reconnect_backoff = (initial, max);
        self
    }

    /// The pause before trying a request again, growing from the first to the second value (`retry.backoff.ms`,
    /// `retry.backoff.max.ms`). Default 100 ms to 1 s, with jitter.
    pub fn retry_backoff(mut self, initial: Duration, max: Duration) -> Self {
        self.retry_backoff = (initial, max);
        self
    }

    /// How often metadata is refreshed when nothing else asks for it (`metadata.max.age.ms`). Default 5 minutes.
    pub fn metadata_max_age(mut self, age: Duration) -> Self {
        self.metadata_max_age = age;
        self
    }

    /// The largest answer in bytes that is accepted from a broker. Default 100 MiB.
    pub fn max_frame_bytes(mut self, limit: usize) -> Self {
        self.max_frame_bytes = limit;
        self
    }

    /// Whether brokers may create a topic because this client asked about it (`allow.auto.create.topics`, and the
    /// broker's `auto.create.topics.enable`). Default no, unlike Java: a mistyped name should be an error.
    pub fn auto_create_topics(mut self, create: bool) -> Self {
        self.auto_create_topics = create;
        self
    }

    /// Where streams to brokers come from. Default plain TCP.
    pub fn connector(mut self, connector: impl Connector) -> Self {
        self.connector = Arc::new(connector);
        self
    }

    /// The client. Nothing connects before it is used.
    pub fn build(self) -> Result<Client, ConfigError> {
        for (key, span) in [
            ("request.timeout.ms", self.request_timeout),
            ("default.api.timeout.ms", self.api_timeout),
            ("socket.connection.setup.timeout.ms", self.setup_timeout),
        ] {
            if span.is_zero() {
                return Err(crate::config::invalid(key, 0, "more than 0"));
            }
        }
        let bootstrap = Address::parse_list(&self.bootstrap)?;
        Ok(Client::start(self, bootstrap))
    }

    /// The client, once a broker answered.
    ///
    /// Fails when none did within [`connect_timeout`](Self::connect_timeout). Dropping the future ends the attempt.
    pub async fn connect(self) -> Result<Client, Error> {
        let timeout = self.setup_timeout;
        let client = self.build()?;
        client.refresh_within(Some(&[]), timeout).await?;
        Ok(client)
    }

    pub(super) fn backoffs(&self) -> (Backoff, Backoff) {
        let (reconnect, retry) = (self.reconnect_backoff, self.retry_backoff);
        (Backoff::new(reconnect.0, reconnect.1), Backoff::new(retry.0, retry.1))
    }
}
