//! Changing configurations, key by key (KIP-339).

use std::time::Duration;

use futures::future;
use kafka_client::{Client, RequestError};
use kafka_wire::StrBytes;
use kafka_wire::messages::IncrementalAlterConfigsRequest;
use kafka_wire::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};

use crate::configs::by_target;
use crate::driver::{Answers, Effect, Refusal, drive};
use crate::operation::operation;
use crate::{AdminError, ConfigResource, ItemResults};

/// What to do to one key of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct ConfigChange {
    key: String,
    operation: i8,
    value: Option<String>,
}

impl ConfigChange {
    /// Gives the key a value.
    pub fn set(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: key.into(), operation: 0, value: Some(value.into()) }
    }

    /// Takes the key's value away: what it inherits, or its default, holds again.
    pub fn delete(key: impl Into<String>) -> Self {
        Self { key: key.into(), operation: 1, value: None }
    }

    /// Adds comma-separated items to a key whose value is a list, such as `cleanup.policy`.
    pub fn append(key: impl Into<String>, items: impl Into<String>) -> Self {
        Self { key: key.into(), operation: 2, value: Some(items.into()) }
    }

    /// Takes comma-separated items from a key whose value is a list.
    pub fn subtract(key: impl Into<String>, items: impl Into<String>) -> Self {
        Self { key: key.into(), operation: 3, value: Some(items.into()) }
    }

    fn request(&self) -> AlterableConfig {
        AlterableConfig::default()
            .with_name(StrBytes::from_string(self.key.clone()))
            .with_config_operation(self.operation)
            .with_value(self.value.clone().map(StrBytes::from_string))
    }
}

/// See [`Admin::incremental_alter_configs`](crate::Admin::incremental_alter_configs).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct IncrementalAlterConfigs {
    client: Client,
    timeout: Duration,
    changes: Vec<(ConfigResource, Vec<ConfigChange>)>,
    validate_only: bool,
}

operation!(IncrementalAlterConfigs => ItemResults<ConfigResource, ()>);

impl IncrementalAlterConfigs {
    pub(crate) fn new(
        client: Client,
        timeout: Duration,
        changes: Vec<(ConfigResource, Vec<ConfigChange>)>,
    ) -> Self {
        Self { client, timeout, changes, validate_only: false }
    }

    /// Only asks whether the changes could be made. Default no.
    pub fn validate_only(mut self, validate_only: bool) -> Self {
        self.validate_only = validate_only;
        self
    }

    async fn run(self) -> Result<ItemResults<ConfigResource, ()>, AdminError> {
        let resources: Vec<_> = self.changes.iter().map(|(resource, _)| resource.clone()).collect();
        let effect = if self.validate_only { Effect::Read } else { Effect::Write };
        drive(&self.client, resources, effect, self.timeout, |open, remaining| {
            let open: Vec<_> =
                self.changes.iter().filter(|(resource, _)| open.contains(resource)).cloned().collect();
            alter(self.client.clone(), open, self.validate_only, remaining)
        })
        .await
    }
}

/// A broker's own configuration is changed by that broker; everything else by any.
async fn alter(
    client: Client,
    changes: Vec<(ConfigResource, Vec<ConfigChange>)>,
    validate_only: bool,
    timeout: Duration,
) -> Result<Answers<ConfigResource, ()>, RequestError> {
    let requests = by_target(changes, |(resource, _)| resource.target()).map(|(target, changes)| {
        client.request(request(&changes, validate_only)).to(target).timeout(timeout)
    });
    let answers = future::try_join_all(requests.map(IntoFuture::into_future)).await?;
    let results = answers.into_iter().flat_map(|answer| answer.responses).filter_map(|result| {
        let resource = ConfigResource::from_parts(result.resource_type, &result.resource_name)?;
        Some((resource, Refusal::check(result.error_code, result.error_message)))
    });
    Ok(results.collect())
}

fn request(
    changes: &[(ConfigResource, Vec<ConfigChange>)],
    validate_only: bool,
) -> IncrementalAlterConfigsRequest {
    let resources = changes.iter().map(|(resource, changes)| {
        let (kind, name) = resource.parts();
        AlterConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(StrBytes::from_string(name))
            .with_configs(changes.iter().map(ConfigChange::request).collect())
    });
    IncrementalAlterConfigsRequest::default()
        .with_resources(resources.collect())
        .with_validate_only(validate_only)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deleted_key_has_no_value_on_the_wire() {
        let changes =
            vec![ConfigChange::set("a", "1"), ConfigChange::delete("b"), ConfigChange::append("c", "x")];
        let request = request(&[(ConfigResource::Topic("t".to_owned()), changes)], true);
        let configs = &request.resources[0].configs;
        let operations: Vec<_> = configs.iter().map(|it| (it.config_operation, it.value.is_some())).collect();
        assert_eq!((operations, request.validate_only), (vec![(0, true), (1, false), (2, true)], true));
    }
}
