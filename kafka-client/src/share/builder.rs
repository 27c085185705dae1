//! The options of a share consumer.

use std::collections::BTreeSet;
use std::time::Duration;

use super::ShareConsumer;
use crate::client::Client;
use crate::config::{ConfigError, Properties, invalid};

#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) group: String,
    pub(super) topics: BTreeSet<String>,
    pub(super) rack: Option<String>,
    pub(super) is_implicit: bool,
    pub(super) is_strict: bool,
    pub(super) max_records: i32,
    pub(super) fetch_max_wait: Duration,
    pub(super) fetch_min_bytes: i32,
    pub(super) fetch_max_bytes: i32,
    pub(super) max_decompressed: usize,
}

/// Options of a [`ShareConsumer`]; made by [`Client::share_consumer`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct ShareConsumerBuilder {
    client: Client,
    options: Options,
    from_properties: Result<(), ConfigError>,
}

impl Client {
    /// Options for a member of a share group (KIP-932). Defaults come from
    /// [`from_properties`](Self::from_properties) if the client was made by it.
    ///
    /// Where the group begins, how long its locks last and how often a record is delivered are the group's configuration
    /// on the cluster (`share.auto.offset.reset`, which is `latest` by default, and others).
    pub fn share_consumer(&self, group: impl Into<String>) -> ShareConsumerBuilder {
        let mut options = Options {
            group: group.into(),
            topics: BTreeSet::new(),
            rack: None,
            is_implicit: false,
            is_strict: false,
            max_records: 500,
            fetch_max_wait: Duration::from_millis(500),
            fetch_min_bytes: 1,
            fetch_max_bytes: 50 * 1024 * 1024,
            max_decompressed: 256 * 1024 * 1024,
        };
        // `build` tells what is wrong with a value, as it does for every other option.
        let from_properties = options.read(self.properties());
        ShareConsumerBuilder { client: self.clone(), options, from_properties }
    }
}

impl Options {
    fn read(&mut self, properties: &Properties) -> Result<(), ConfigError> {
        self.rack = properties.get("client.rack").filter(|rack| !rack.is_empty()).map(str::to_owned);
        self.is_implicit = properties.get("share.acknowledgement.mode") == Some("implicit");
        let mode = properties.get("share.acquire.mode");
        self.is_strict = mode.is_some_and(|mode| mode.eq_ignore_ascii_case("record_limit"));
        for (key, place) in [
            ("max.poll.records", &mut self.max_records),
            ("fetch.min.bytes", &mut self.fetch_min_bytes),
            ("fetch.max.bytes", &mut self.fetch_max_bytes),
        ] {
            if let Some(number) = properties.parsed(key, "a number")? {
                *place = number;
            }
        }
        if let Some(wait) = properties.millis("fetch.max.wait.ms")? {
            self.fetch_max_wait = wait;
        }
        Ok(())
    }
}

impl ShareConsumerBuilder {
    /// The topics to read, instead of those given before.
    pub fn topics<T: Into<String>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.options.topics = topics.into_iter().map(Into::into).collect();
        self
    }

    /// Records are accepted when they are dropped (Java's `share.acknowledgement.mode=implicit`). Default: dropping a
    /// record releases it.
    pub fn implicit_acknowledgement(mut self) -> Self {
        self.options.is_implicit = true;
        self
    }

    /// Records are released when they are dropped (Java's `share.acknowledgement.mode=explicit`). The default.
    pub fn explicit_acknowledgement(mut self) -> Self {
        self.options.is_implicit = false;
        self
    }

    /// How many records are asked for at a time of each broker (`max.poll.records`). Default 500; more come where a batch
    /// holds more, unless the [limit is strict](Self::record_limit).
    pub fn max_records(mut self, max_records: i32) -> Self {
        self.options.max_records = max_records;
        self
    }

    /// Never more than `max_records` at a time of each broker (`share.acquire.mode=record_limit`, KIP-1206): for work that
    /// takes long, so that no member holds what another could do.
    pub fn record_limit(mut self, max_records: i32) -> Self {
        self.options.is_strict = true;
        self.max_records(max_records)
    }

    /// The rack this member is in (`client.rack`).
    pub fn rack(mut self, rack: impl Into<String>) -> Self {
        self.options.rack = Some(rack.into());
        self
    }

    /// How long a broker waits for records (`fetch.max.wait.ms`). Default 500 ms. An acknowledgement waits as long for
    /// the fetch before it at the most.
    pub fn fetch_max_wait(mut self, wait: Duration) -> Self {
        self.options.fetch_max_wait = wait;
        self
    }

    /// For how many bytes a broker waits (`fetch.min.bytes`). Default 1; less is 1.
    pub fn fetch_min_bytes(mut self, bytes: i32) -> Self {
        self.options.fetch_min_bytes = bytes;
        self
    }

    /// The most bytes of one answer (`fetch.max.bytes`). Default 50 MiB; a larger first batch comes all the same.
    pub fn fetch_max_bytes(mut self, bytes: i32) -> Self {
        self.options.fetch_max_bytes = bytes;
        self
    }

    /// Starts the consumer, in the current tokio runtime. It joins the group in the background.
    ///
    /// # Errors
    /// An option makes no sense.
    pub fn build(self) -> Result<ShareConsumer, ConfigError> {
        self.from_properties?;
        let options = &self.options;
        if options.group.is_empty() {
            return Err(ConfigError::Missing { key: "group.id" });
        }
        if options.topics.is_empty() {
            return Err(ConfigError::Missing { key: "topics" });
        }
        for (key, value) in
            [("max.poll.records", options.max_records), ("fetch.max.bytes", options.fetch_max_bytes)]
        {
            if value <= 0 {
                return Err(invalid(key, value, "more than 0"));
            }
        }
        Ok(ShareConsumer::start(self.client, self.options))
    }
}
