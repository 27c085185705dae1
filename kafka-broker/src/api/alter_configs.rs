//! IncrementalAlterConfigs and AlterConfigs: changes of topics', brokers' and groups' configurations, which hold at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_wire::StrBytes;
use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::alter_configs_response::AlterConfigsResourceResponse as LegacyResponse;
use kafka_wire::messages::incremental_alter_configs_request::AlterConfigsResource;
use kafka_wire::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_wire::messages::{
    AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
};

use super::{off_thread, text};
use crate::cluster::image::Image;
use crate::cluster::record::{ConfigResource, MetadataRecord};
use crate::cluster::topics::{Refusal, refuse};
use crate::config::alter::{Change, Changed, Operation, Rules, incremental, replace};
use crate::config::{broker, group, topic};
use crate::dispatch::RequestContext;
use crate::state::BrokerState;

/// Dropping the future does not stop the change: it holds whole or not at all.
pub(crate) async fn incremental_alter_configs(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: IncrementalAlterConfigsRequest,
    _version: i16,
) -> IncrementalAlterConfigsResponse {
    off_thread(state, move |state| {
        let repeated = repeated(request.resources.iter().map(|it| (it.resource_type, &it.resource_name)));
        let responses = request.resources.iter().map(|resource| {
            let id = (resource.resource_type, resource.resource_name.to_string());
            let altered = match repeated.contains(&id) {
                true => refuse(ErrorCode::InvalidRequest, "Each resource must appear at most once."),
                false => changes_of(resource).and_then(|changes| {
                    alter(state, &resource_of(&id), request.validate_only, |own, rules| {
                        incremental(own, &changes, rules)
                    })
                }),
            };
            let (code, message) = outcome(altered);
            AlterConfigsResourceResponse::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone())
                .with_error_code(code)
                .with_error_message(message)
        });
        IncrementalAlterConfigsResponse::default().with_responses(responses.collect())
    })
    .await
}

/// Dropping the future does not stop the change: it holds whole or not at all.
pub(crate) async fn alter_configs(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: AlterConfigsRequest,
    _version: i16,
) -> AlterConfigsResponse {
    off_thread(state, move |state| {
        let repeated = repeated(request.resources.iter().map(|it| (it.resource_type, &it.resource_name)));
        let responses = request.resources.iter().map(|resource| {
            let id = (resource.resource_type, resource.resource_name.to_string());
            let values: Vec<_> = resource
                .configs
                .iter()
                .map(|config| (config.name.to_string(), config.value.as_ref().map(ToString::to_string)))
                .collect();
            let altered = match repeated.contains(&id) {
                true => refuse(ErrorCode::InvalidRequest, "Each resource must appear at most once."),
                false => alter(state, &resource_of(&id), request.validate_only, |own, rules| {
                    replace(own, &values, rules)
                }),
            };
            let (code, message) = outcome(altered);
            LegacyResponse::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone())
                .with_error_code(code)
                .with_error_message(message)
        });
        AlterConfigsResponse::default().with_responses(responses.collect())
    })
    .await
}

fn repeated<'a>(resources: impl Iterator<Item = (i8, &'a StrBytes)>) -> BTreeSet<(i8, String)> {
    let mut seen = BTreeSet::new();
    resources.map(|(kind, name)| (kind, name.to_string())).filter(|id| !seen.insert(id.clone())).collect()
}

fn resource_of((kind, name): &(i8, String)) -> ConfigResource {
    ConfigResource::new(*kind, name.clone())
}

fn changes_of(resource: &AlterConfigsResource) -> Result<Vec<Change>, Refusal> {
    let change = |config: &kafka_wire::messages::incremental_alter_configs_request::AlterableConfig| {
        let Some(operation) = Operation::from_id(config.config_operation) else {
            let message = format!("Unknown config operation {}", config.config_operation);
            return refuse(ErrorCode::InvalidRequest, message);
        };
        Ok(Change {
            key: config.name.to_string(),
            operation,
            value: config.value.as_ref().map(ToString::to_string),
        })
    };
    resource.configs.iter().map(change).collect()
}

fn outcome(altered: Result<(), Refusal>) -> (i16, Option<StrBytes>) {
    match altered {
        Ok(()) => (ErrorCode::None.code(), None),
        Err(refusal) => (refusal.code.code(), Some(text(&refusal.message))),
    }
}

/// Decides, writes and applies one resource's change as one step.
fn alter(
    state: &BrokerState,
    resource: &ConfigResource,
    validate_only: bool,
    decide: impl FnOnce(&BTreeMap<String, String>, &Rules<'_>) -> Result<Changed, Refusal>,
) -> Result<(), Refusal> {
    let mut controller = state.cluster.controller();
    controller.read(|image| check_exists(image, resource))?;
    let own = controller.read(|image| image.configs(resource).cloned().unwrap_or_default());
    let of_topic = |def| topic::inherited(def, &state.config);
    let of_broker = |def: &'static crate::config::ConfigDef| match state.config.set_value(def.name) {
        Some((value, _)) => value,
        None => def.default.unwrap_or_default().to_owned(),
    };
    let of_group = |def| group::inherited(def, &state.config);
    let rules = match resource {
        ConfigResource::Group(_) => {
            Rules { check: group::check_group_config, find: group::find_alterable, inherited: &of_group }
        }
        ConfigResource::Topic(_) => {
            Rules { check: topic::check_topic_config, find: topic::find_alterable, inherited: &of_topic }
        }
        _ => {
            Rules { check: broker::check_broker_config, find: broker::find_alterable, inherited: &of_broker }
        }
    };
    let changed = decide(&own, &rules)?;
    if validate_only || changed.is_empty() {
        return Ok(());
    }
    let records: Vec<MetadataRecord> = changed
        .into_iter()
        .map(|(key, value)| MetadataRecord::Config { resource: resource.clone(), key, value })
        .collect();
    controller.commit(&records, state.clock.now_ms())
}

fn check_exists(image: &Image, resource: &ConfigResource) -> Result<(), Refusal> {
    match resource {
        ConfigResource::Topic(name) if image.topic(name).is_none() => {
            refuse(ErrorCode::UnknownTopicOrPartition, format!("The topic '{name}' does not exist."))
        }
        ConfigResource::Group(name) if name.is_empty() => {
            refuse(ErrorCode::InvalidRequest, "Default group resources are not allowed.")
        }
        // A group is configured before it has members, usually.
        ConfigResource::Topic(_) | ConfigResource::Group(_) => Ok(()),
        ConfigResource::Broker(name) if name.is_empty() => Ok(()),
        ConfigResource::Broker(name) => match name.parse::<i32>() {
            Ok(id) if image.brokers().contains_key(&id) => Ok(()),
            Ok(id) => refuse(ErrorCode::InvalidRequest, format!("Unexpected broker id {id}")),
            Err(_) => {
                refuse(ErrorCode::InvalidRequest, format!("Broker id must be an integer, but it is: {name}"))
            }
        },
        ConfigResource::Other(kind, _) => {
            refuse(ErrorCode::InvalidRequest, format!("Unsupported resource type: {kind}"))
        }
    }
}

impl BrokerState {
    /// Lets this node follow changed configurations: a topic's own, or those that topics inherit.
    pub(crate) fn follow_configs(&self, records: &[MetadataRecord], image: &Image) {
        let changed: BTreeSet<&ConfigResource> = records
            .iter()
            .filter_map(|record| match record {
                MetadataRecord::Config { resource, .. } => Some(resource),
                _ => None,
            })
            .collect();
        if changed.iter().any(|resource| matches!(resource, ConfigResource::Broker(_))) {
            self.take_dynamic_config(image);
            image.topics().keys().for_each(|name| self.reconfigure_topic(name, image));
            return;
        }
        for resource in changed {
            if let ConfigResource::Topic(name) = resource {
                self.reconfigure_topic(name, image);
            }
        }
    }

    fn reconfigure_topic(&self, name: &str, image: &Image) {
        let Some(hosted) = self.topics.by_name(name) else { return };
        let own = image.configs(&ConfigResource::Topic(name.to_owned())).cloned().unwrap_or_default();
        let config = topic::TopicConfig::new(&own, &self.config);
        for partition in hosted.partitions() {
            partition.reconfigure(&config);
        }
    }

    /// Takes what was altered of this broker's configuration from the metadata.
    pub(crate) fn load_dynamic_config(&self) {
        self.cluster.read(|image, _| self.take_dynamic_config(image));
    }

    fn take_dynamic_config(&self, image: &Image) {
        let configs =
            |name: String| image.configs(&ConfigResource::Broker(name)).cloned().unwrap_or_default();
        self.config.set_dynamic(configs(self.node_id.to_string()), configs(String::new()));
    }
}
