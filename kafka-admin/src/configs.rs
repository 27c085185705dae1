//! Describing configurations.

use std::fmt;
use std::time::Duration;

use futures::future;
use kafka_client::{Client, RequestError, Target};
use kafka_wire::messages::DescribeConfigsRequest;
use kafka_wire::messages::describe_configs_request::DescribeConfigsResource;
use kafka_wire::messages::describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult};
use kafka_wire::{StrBytes, protocol};

use crate::driver::{Answers, Effect, Refusal, drive};
use crate::operation::operation;
use crate::{AdminError, ItemResults, Resource};

/// Something that has a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConfigResource {
    /// A topic, by name.
    Topic(String),
    /// A broker, by number.
    Broker(i32),
    /// What all brokers share.
    BrokerDefaults,
    /// A group, by id (KIP-848).
    Group(String),
    /// A set of client metrics, by name (KIP-714).
    ClientMetrics(String),
}

impl ConfigResource {
    /// The number of the kind and the name, as requests carry them (Kafka's `ConfigResource.Type`).
    pub(crate) fn parts(&self) -> (i8, String) {
        match self {
            Self::Topic(name) => (2, name.clone()),
            Self::Broker(id) => (4, id.to_string()),
            Self::BrokerDefaults => (4, String::new()),
            Self::ClientMetrics(name) => (16, name.clone()),
            Self::Group(id) => (32, id.clone()),
        }
    }

    pub(crate) fn from_parts(kind: i8, name: &str) -> Option<Self> {
        match (kind, name) {
            (2, name) => Some(Self::Topic(name.to_owned())),
            (4, "") => Some(Self::BrokerDefaults),
            (4, id) => id.parse().ok().map(Self::Broker),
            (16, name) => Some(Self::ClientMetrics(name.to_owned())),
            (32, id) => Some(Self::Group(id.to_owned())),
            _ => None,
        }
    }

    /// A broker's configuration is known to that broker only.
    pub(crate) fn target(&self) -> Target {
        match self {
            Self::Broker(id) => Target::Broker(*id),
            _ => Target::Any,
        }
    }
}

impl From<ConfigResource> for Resource {
    fn from(resource: ConfigResource) -> Self {
        match resource {
            ConfigResource::Topic(name) => Self::Topic(name),
            ConfigResource::Broker(id) => Self::Broker(id),
            ConfigResource::BrokerDefaults => Self::Cluster,
            ConfigResource::Group(id) => Self::Group(id),
            ConfigResource::ClientMetrics(name) => Self::ClientMetrics(name),
        }
    }
}

impl fmt::Display for ConfigResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Resource::from(self.clone()).fmt(f)
    }
}

/// Where a configuration's value comes from (Kafka's `ConfigEntry.ConfigSource`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConfigSource {
    /// Set on the topic.
    Topic,
    /// Set on this broker while it runs.
    DynamicBroker,
    /// Set on all brokers while they run.
    DynamicDefaultBroker,
    /// From the broker's properties file.
    StaticBroker,
    /// Kafka's default.
    Default,
    /// Set on one broker's loggers.
    BrokerLogger,
    /// Set on a set of client metrics.
    ClientMetrics,
    /// Set on the group.
    Group,
    /// A source that this version does not know.
    Other(i8),
}

impl From<i8> for ConfigSource {
    fn from(source: i8) -> Self {
        match source {
            1 => Self::Topic,
            2 => Self::DynamicBroker,
            3 => Self::DynamicDefaultBroker,
            4 => Self::StaticBroker,
            5 => Self::Default,
            6 => Self::BrokerLogger,
            7 => Self::ClientMetrics,
            8 => Self::Group,
            other => Self::Other(other),
        }
    }
}

/// One key of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigEntry {
    /// The key.
    pub name: String,
    /// The value; `None` where there is none or it is secret.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// Whether it cannot be changed while the broker runs.
    pub is_read_only: bool,
    /// Whether it is secret.
    pub is_sensitive: bool,
}

impl ConfigEntry {
    /// Whether nobody set it.
    pub fn is_default(&self) -> bool {
        self.source == ConfigSource::Default
    }
}

impl From<DescribeConfigsResourceResult> for ConfigEntry {
    fn from(entry: DescribeConfigsResourceResult) -> Self {
        Self {
            name: entry.name.to_string(),
            value: entry.value.map(|value| value.to_string()),
            source: entry.config_source.into(),
            is_read_only: entry.read_only,
            is_sensitive: entry.is_sensitive,
        }
    }
}

/// See [`Admin::describe_configs`](crate::Admin::describe_configs).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct DescribeConfigs {
    client: Client,
    timeout: Duration,
    resources: Vec<ConfigResource>,
}

operation!(DescribeConfigs => ItemResults<ConfigResource, Vec<ConfigEntry>>);

impl DescribeConfigs {
    pub(crate) fn new(client: Client, timeout: Duration, resources: Vec<ConfigResource>) -> Self {
        Self { client, timeout, resources }
    }

    /// The entries of each resource, sorted by key.
    async fn run(self) -> Result<ItemResults<ConfigResource, Vec<ConfigEntry>>, AdminError> {
        drive(&self.client, self.resources, Effect::Read, self.timeout, |open, remaining| {
            describe(self.client.clone(), open, remaining)
        })
        .await
    }
}

async fn describe(
    client: Client,
    resources: Vec<ConfigResource>,
    timeout: Duration,
) -> Result<Answers<ConfigResource, Vec<ConfigEntry>>, RequestError> {
    let requests = by_target(resources, ConfigResource::target)
        .map(|(target, resources)| client.request(request(&resources)).to(target).timeout(timeout));
    let answers = future::try_join_all(requests.map(IntoFuture::into_future)).await?;
    Ok(answers.into_iter().flat_map(|answer| answer.results).filter_map(described).collect())
}

/// Whom to ask about what: each broker about its own configuration, any about all the others at once.
pub(crate) fn by_target<T>(
    items: Vec<T>,
    target: impl Fn(&T) -> Target,
) -> impl Iterator<Item = (Target, Vec<T>)> {
    let (brokers, anywhere): (Vec<_>, Vec<_>) =
        items.into_iter().partition(|item| target(item) != Target::Any);
    let brokers = brokers.into_iter().map(move |broker| (target(&broker), vec![broker]));
    brokers.chain((!anywhere.is_empty()).then_some((Target::Any, anywhere)))
}

/// All keys of each resource.
fn request(resources: &[ConfigResource]) -> DescribeConfigsRequest {
    let resources = resources.iter().map(|resource| {
        let (kind, name) = resource.parts();
        DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(protocol::StrBytes::from_string(name))
            .with_configuration_keys(None::<Vec<StrBytes>>)
    });
    DescribeConfigsRequest::default().with_resources(resources.collect())
}

fn described(result: DescribeConfigsResult) -> Option<(ConfigResource, Result<Vec<ConfigEntry>, Refusal>)> {
    let resource = ConfigResource::from_parts(result.resource_type, &result.resource_name)?;
    let entries = Refusal::check(result.error_code, result.error_message).map(|()| {
        let mut entries: Vec<ConfigEntry> = result.configs.into_iter().map(Into::into).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    });
    Some((resource, entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_survive_the_wire() {
        for resource in [
            ConfigResource::Topic("a".to_owned()),
            ConfigResource::Broker(3),
            ConfigResource::BrokerDefaults,
            ConfigResource::Group("g".to_owned()),
            ConfigResource::ClientMetrics("m".to_owned()),
        ] {
            let (kind, name) = resource.parts();
            assert_eq!(ConfigResource::from_parts(kind, &name), Some(resource));
        }
        assert_eq!(ConfigResource::from_parts(4, "x"), None);
        assert_eq!(ConfigResource::from_parts(99, ""), None);
    }

    #[test]
    fn a_brokers_configuration_is_asked_of_that_broker() {
        assert_eq!(ConfigResource::Broker(3).target(), Target::Broker(3));
        assert_eq!(ConfigResource::Topic("a".to_owned()).target(), Target::Any);
    }
}
