use std::sync::Arc;
use std::time::Duration;

use kafka_wire::frame::DEFAULT_MAX_FRAME_BYTES;

use super::Client;
use crate::backoff::Backoff;
use crate::cluster::{MetadataConfig, MetadataRecovery};
use crate::config::{ConfigError, Properties, bounded};
use crate::error::Error;
use crate::net::{Address, AddressFamily, ConnectionConfig, Connector, DialPolicy, DnsLookup, TcpConnector};

/// What Java's `metadata.max.idle.ms` allows.
const MIN_METADATA_MAX_IDLE: Duration = Duration::from_secs(5);

/// Options of a [`Client`]. Defaults are the Java client's unless said otherwise.
#[derive(Debug, Clone)]
#[must_use = "nothing happens before `build` or `connect`"]
pub struct ClientBuilder {
    pub(super) bootstrap: String,
    pub(super) client_id: Option<Arc<str>>,
    pub(super) request_timeout: Duration,
    pub(super) api_timeout: Duration,
    pub(super) setup_timeout: Duration,
    setup_timeout_max: Duration,
    connections_max_idle: Duration,
    send_buffer_bytes: Option<u32>,
    receive_buffer_bytes: Option<u32>,
    pub(super) dns_lookup: DnsLookup,
    address_family: AddressFamily,
    reconnect_backoff: (Duration, Duration),
    retry_backoff: (Duration, Duration),
    pub(crate) metadata_max_age: Duration,
    metadata_max_idle: Duration,
    metadata_recovery: MetadataRecovery,
    rebootstrap_trigger: Duration,
    max_frame_bytes: usize,
    pub(super) auto_create_topics: bool,
    connector: Option<Arc<dyn Connector>>,
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
            setup_timeout_max: Duration::from_secs(30),
            connections_max_idle: Duration::from_secs(9 * 60),
            send_buffer_bytes: None,
            receive_buffer_bytes: None,
            dns_lookup: DnsLookup::default(),
            address_family: AddressFamily::default(),
            reconnect_backoff: (Duration::from_millis(50), Duration::from_secs(1)),
            retry_backoff: (Duration::from_millis(100), Duration::from_secs(1)),
            metadata_max_age: Duration::from_secs(5 * 60),
            metadata_max_idle: Duration::from_secs(5 * 60),
            metadata_recovery: MetadataRecovery::default(),
            rebootstrap_trigger: Duration::from_secs(5 * 60),
            max_frame_bytes: DEFAULT_MAX_FRAME_BYTES,
            auto_create_topics: false,
            connector: None,
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
        if let Some(timeout) = properties.millis("socket.connection.setup.timeout.ms")? {
            builder = builder.connect_timeout(timeout);
        }
        for (key, place) in [
            ("request.timeout.ms", &mut builder.request_timeout),
            ("default.api.timeout.ms", &mut builder.api_timeout),
            ("socket.connection.setup.timeout.max.ms", &mut builder.setup_timeout_max),
            ("connections.max.idle.ms", &mut builder.connections_max_idle),
            ("reconnect.backoff.ms", &mut builder.reconnect_backoff.0),
            ("reconnect.backoff.max.ms", &mut builder.reconnect_backoff.1),
            ("retry.backoff.ms", &mut builder.retry_backoff.0),
            ("retry.backoff.max.ms", &mut builder.retry_backoff.1),
            ("metadata.max.age.ms", &mut builder.metadata_max_age),
            ("metadata.max.idle.ms", &mut builder.metadata_max_idle),
            ("metadata.recovery.rebootstrap.trigger.ms", &mut builder.rebootstrap_trigger),
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
        for (key, place) in [
            ("send.buffer.bytes", &mut builder.send_buffer_bytes),
            ("receive.buffer.bytes", &mut builder.receive_buffer_bytes),
        ] {
            // -1 leaves it to the system.
            if let Some(bytes) = properties.parsed::<i64>(key, "a number of bytes, or -1")? {
                *place = u32::try_from(bytes).ok();
            }
        }
        match properties.get("client.dns.lookup") {
            Some("resolve_canonical_bootstrap_servers_only") => {
                builder.dns_lookup = DnsLookup::CanonicalBootstrapOnly;
            }
            Some(_) => builder.dns_lookup = DnsLookup::UseAllDnsIps,
            None => {}
        }
        match properties.get("broker.address.family") {
            Some("v4") => builder.address_family = AddressFamily::V4,
            Some("v6") => builder.address_family = AddressFamily::V6,
            Some(_) => builder.address_family = AddressFamily::Any,
            None => {}
        }
        match properties.get("metadata.recovery.strategy") {
            Some("none") => builder.metadata_recovery = MetadataRecovery::None,
            Some(_) => builder.metadata_recovery = MetadataRecovery::Rebootstrap,
            None => {}
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

    /// How long connecting to one address and agreeing on versions may take (`socket.connection.setup.timeout.ms`), and
    /// how long [`connect`](Self::connect) keeps trying. Default 10 s.
    ///
    /// It doubles with each attempt in a row that gets no answer, up to
    /// [`connect_timeout_max`](Self::connect_timeout_max), which is raised to this value where it is less, and has
    /// jitter of a fifth (KIP-601).
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.setup_timeout = timeout;
        self.setup_timeout_max = self.setup_timeout_max.max(timeout);
        self
    }

    /// What [`connect_timeout`](Self::connect_timeout) grows to (`socket.connection.setup.timeout.max.ms`). Default 30 s.
    pub fn connect_timeout_max(mut self, timeout: Duration) -> Self {
        self.setup_timeout_max = timeout;
        self
    }

    /// Closes connections over which nothing was asked for this long (`connections.max.idle.ms`); zero for never.
    /// Default 9 minutes, less than brokers' 10.
    pub fn connections_max_idle(mut self, idle: Duration) -> Self {
        self.connections_max_idle = idle;
        self
    }

    /// The size of sockets' send buffers (`send.buffer.bytes`). Default `None`: the system sizes them by the connection's
    /// speed. Without effect on a [`connector`](Self::connector) of your own.
    pub fn send_buffer_bytes(mut self, bytes: Option<u32>) -> Self {
        self.send_buffer_bytes = bytes;
        self
    }

    /// The size of sockets' receive buffers (`receive.buffer.bytes`). As [`send_buffer_bytes`](Self::send_buffer_bytes).
    pub fn receive_buffer_bytes(mut self, bytes: Option<u32>) -> Self {
        self.receive_buffer_bytes = bytes;
        self
    }

    /// What bootstrap servers' names stand for (`client.dns.lookup`). Default: all of their addresses.
    pub fn dns_lookup(mut self, lookup: DnsLookup) -> Self {
        self.dns_lookup = lookup;
        self
    }

    /// Which of a broker's addresses are used (librdkafka's `broker.address.family`). Default: all.
    pub fn address_family(mut self, family: AddressFamily) -> Self {
        self.address_family = family;
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

    /// How long a topic stays among those that are refreshed after it was used last (`metadata.max.idle.ms`). Default 5
    /// minutes, at least 5 s.
    pub fn metadata_max_idle(mut self, idle: Duration) -> Self {
        self.metadata_max_idle = idle;
        self
    }

    /// What to do when none of the brokers that are known can be asked (`metadata.recovery.strategy`). Default: ask the
    /// bootstrap servers again.
    pub fn metadata_recovery(mut self, recovery: MetadataRecovery) -> Self {
        self.metadata_recovery = recovery;
        self
    }

    /// Brokers that gave no metadata for this long are given up for the bootstrap servers, if
    /// [`metadata_recovery`](Self::metadata_recovery) says so (`metadata.recovery.rebootstrap.trigger.ms`, KIP-1102).
    /// Default 5 minutes.
    pub fn rebootstrap_trigger(mut self, after: Duration) -> Self {
        self.rebootstrap_trigger = after;
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
        self.connector = Some(Arc::new(connector));
        self
    }

    /// The client. Nothing connects before it is used. Spans longer than a year count as a year.
    ///
    /// # Errors
    /// A time-out of zero, a [`metadata_max_idle`](Self::metadata_max_idle) below 5 s, or a bootstrap server that is not
    /// `host:port`.
    pub fn build(mut self) -> Result<Client, ConfigError> {
        for (key, span) in [
            ("request.timeout.ms", self.request_timeout),
            ("default.api.timeout.ms", self.api_timeout),
            ("socket.connection.setup.timeout.ms", self.setup_timeout),
            ("socket.connection.setup.timeout.max.ms", self.setup_timeout_max),
        ] {
            if span.is_zero() {
                return Err(crate::config::invalid(key, 0, "more than 0"));
            }
        }
        if self.metadata_max_idle < MIN_METADATA_MAX_IDLE {
            let given = self.metadata_max_idle.as_millis();
            return Err(crate::config::invalid("metadata.max.idle.ms", given, "5000 or more"));
        }
        for span in [
            &mut self.request_timeout,
            &mut self.api_timeout,
            &mut self.setup_timeout,
            &mut self.setup_timeout_max,
            &mut self.connections_max_idle,
            &mut self.reconnect_backoff.0,
            &mut self.reconnect_backoff.1,
            &mut self.retry_backoff.0,
            &mut self.retry_backoff.1,
            &mut self.metadata_max_age,
            &mut self.metadata_max_idle,
            &mut self.rebootstrap_trigger,
        ] {
            *span = bounded(*span);
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

    pub(super) fn retry_backoff_policy(&self) -> Backoff {
        Backoff::new(self.retry_backoff.0, self.retry_backoff.1)
    }

    pub(super) fn dialing(&self) -> DialPolicy {
        DialPolicy {
            setup_timeout: Backoff::new(self.setup_timeout, self.setup_timeout_max),
            reconnect_backoff: Backoff::new(self.reconnect_backoff.0, self.reconnect_backoff.1),
            address_family: self.address_family,
        }
    }

    pub(super) fn connection(&self) -> ConnectionConfig {
        ConnectionConfig {
            client_id: self.client_id.clone(),
            max_frame_bytes: self.max_frame_bytes,
            memory: Some(Arc::default()),
            max_idle: Some(self.connections_max_idle).filter(|idle| !idle.is_zero()),
        }
    }

    pub(crate) fn metadata(&self) -> MetadataConfig {
        MetadataConfig {
            max_age: self.metadata_max_age,
            max_idle: self.metadata_max_idle,
            retry_backoff: self.retry_backoff_policy(),
            recovery: self.metadata_recovery,
            rebootstrap_trigger: self.rebootstrap_trigger,
        }
    }

    pub(super) fn stream_connector(&self) -> Arc<dyn Connector> {
        let (send, receive) = (self.send_buffer_bytes, self.receive_buffer_bytes);
        self.connector.clone().unwrap_or_else(|| Arc::new(TcpConnector::with_buffers(send, receive)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder(pairs: &[(&'static str, &str)]) -> ClientBuilder {
        let all = [("bootstrap.servers", "b:9092")].into_iter().chain(pairs.iter().copied());
        ClientBuilder::from_properties(Properties::new(all).unwrap()).unwrap()
    }

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn keys_of_connections_and_metadata_reach_those_who_heed_them() {
        let builder = builder(&[
            ("client.dns.lookup", "resolve_canonical_bootstrap_servers_only"),
            ("connections.max.idle.ms", "1"),
            ("metadata.max.age.ms", "2"),
            ("metadata.max.idle.ms", "5003"),
            ("metadata.recovery.strategy", "NONE"),
            ("metadata.recovery.rebootstrap.trigger.ms", "4"),
            ("socket.connection.setup.timeout.ms", "5"),
            ("socket.connection.setup.timeout.max.ms", "6"),
            ("socket.send.buffer.bytes", "7"),
            ("receive.buffer.bytes", "-1"),
            ("broker.address.family", "v6"),
        ]);
        assert_eq!(builder.dialing().address_family, AddressFamily::V6);
        assert_eq!(builder.dns_lookup, DnsLookup::CanonicalBootstrapOnly);
        assert_eq!(builder.connection().max_idle, Some(millis(1)));
        assert_eq!((builder.send_buffer_bytes, builder.receive_buffer_bytes), (Some(7), None));
        let setup = builder.dialing().setup_timeout;
        assert_eq!([1, 2].map(|attempt| setup.delay(attempt, 0.5)), [millis(5), millis(6)]);
        let metadata = builder.metadata();
        assert_eq!(metadata.recovery, MetadataRecovery::None);
        assert_eq!(
            [metadata.max_age, metadata.max_idle, metadata.rebootstrap_trigger],
            [2, 5003, 4].map(millis)
        );
    }

    #[test]
    fn a_time_out_alone_raises_its_maximum_and_no_idleness_is_not_a_time() {
        let long = builder(&[("socket.connection.setup.timeout.ms", "60000")]);
        assert_eq!(long.dialing().setup_timeout.delay(1, 0.5), millis(60_000));
        for never in ["0", "-1"] {
            assert_eq!(builder(&[("connections.max.idle.ms", never)]).connection().max_idle, None);
        }
    }

    #[test]
    fn spans_that_cannot_work_are_refused_and_endless_ones_are_a_year() {
        let client = || Client::builder("b:9092");
        for (builder, key) in [
            (client().connect_timeout(Duration::ZERO), "socket.connection.setup.timeout.ms"),
            (client().connect_timeout_max(Duration::ZERO), "socket.connection.setup.timeout.max.ms"),
            (client().metadata_max_idle(millis(4999)), "metadata.max.idle.ms"),
            (client().request_timeout(Duration::ZERO), "request.timeout.ms"),
        ] {
            let error = builder.build().unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        let client = client()
            .request_timeout(Duration::MAX)
            .connect_timeout(Duration::MAX)
            .metadata_max_age(Duration::MAX)
            .connections_max_idle(Duration::MAX)
            .reconnect_backoff(Duration::MAX, Duration::MAX)
            .build();
        let config = &client.unwrap().inner.config;
        let year = millis(365 * 24 * 60 * 60 * 1000);
        assert_eq!((config.request_timeout, config.metadata_max_age), (year, year));
        assert_eq!(config.connection().max_idle, Some(year));
    }
}
