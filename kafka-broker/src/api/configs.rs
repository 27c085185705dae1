//! DescribeConfigs: every known key of a topic, of the broker or of a group, with where its value comes from.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_wire::StrBytes;
use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::describe_configs_request::DescribeConfigsResource;
use kafka_wire::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_wire::messages::{DescribeConfigsRequest, DescribeConfigsResponse};

use super::text;
use crate::cluster::record::ConfigResource;
use crate::cluster::topic_name;
use crate::config::broker::SetBy;
use crate::config::topic::broker_synonyms;
use crate::config::{ConfigDef, broker, group, topic};
use crate::dispatch::RequestContext;
use crate::state::BrokerState;

/// Where a value comes from: `DescribeConfigsResponse.ConfigSource`.
mod source {
    pub(super) const TOPIC: i8 = 1;
    pub(super) const DYNAMIC_BROKER: i8 = 2;
    pub(super) const DYNAMIC_DEFAULT_BROKER: i8 = 3;
    pub(super) const STATIC_BROKER: i8 = 4;
    pub(super) const DEFAULT: i8 = 5;
    pub(super) const GROUP: i8 = 8;
}

fn source_of(by: SetBy) -> i8 {
    match by {
        SetBy::DynamicBroker => source::DYNAMIC_BROKER,
        SetBy::DynamicDefault => source::DYNAMIC_DEFAULT_BROKER,
        SetBy::Static => source::STATIC_BROKER,
    }
}

/// One key's effective value.
pub(crate) struct Entry {
    pub(crate) def: &'static ConfigDef,
    pub(crate) value: String,
    pub(crate) source: i8,
}

/// Every topic key with the value that holds for a topic with the given own values.
pub(crate) fn topic_entries(state: &BrokerState, own: &BTreeMap<String, String>) -> Vec<Entry> {
    topic::TABLE
        .iter()
        .map(|def| match own.get(def.name) {
            Some(value) => Entry { def, value: value.clone(), source: source::TOPIC },
            None => {
                let set = broker_synonyms(def.name).iter().find_map(|(key, _)| state.config.set_value(key));
                let source = set.map_or(source::DEFAULT, |(_, by)| source_of(by));
                Entry { def, value: topic::inherited(def, &state.config), source }
            }
        })
        .collect()
}

pub(crate) async fn describe_configs(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: DescribeConfigsRequest,
    version: i16,
) -> DescribeConfigsResponse {
    let show = Show {
        synonyms: request.include_synonyms,
        documentation: version >= 3 && request.include_documentation,
        types: version >= 3,
    };
    let results = request.resources.iter().map(|resource| describe(state, resource, show)).collect();
    DescribeConfigsResponse::default().with_results(results)
}

#[derive(Debug, Clone, Copy)]
struct Show {
    synonyms: bool,
    documentation: bool,
    types: bool,
}

fn describe(state: &BrokerState, resource: &DescribeConfigsResource, show: Show) -> DescribeConfigsResult {
    let answer = DescribeConfigsResult::default()
        .with_resource_type(resource.resource_type)
        .with_resource_name(resource.resource_name.clone());
    let described = match resource.resource_type {
        ConfigResource::TOPIC => describe_topic(state, &resource.resource_name, show),
        ConfigResource::BROKER => describe_broker(state, &resource.resource_name, show),
        ConfigResource::GROUP => describe_group(state, &resource.resource_name, show),
        other => Err((ErrorCode::InvalidRequest, format!("Unsupported resource type: {other}"))),
    };
    match described {
        Ok(mut configs) => {
            // Null and empty both ask for all keys (`ConfigHelper.describeConfigs`).
            if let Some(keys) = resource.configuration_keys.as_ref().filter(|keys| !keys.is_empty()) {
                configs.retain(|config| keys.contains(&config.name));
            }
            answer.with_configs(configs)
        }
        Err((code, message)) => answer.with_error_code(code.code()).with_error_message(Some(text(&message))),
    }
}

type Described = Result<Vec<DescribeConfigsResourceResult>, (ErrorCode, String)>;

fn describe_topic(state: &BrokerState, name: &str, show: Show) -> Described {
    topic_name::check(name).map_err(|problem| (ErrorCode::InvalidTopicException, problem))?;
    let own = state.cluster.read(|image, _| {
        image.topic(name)?;
        Some(image.configs(&ConfigResource::Topic(name.to_owned())).cloned().unwrap_or_default())
    });
    let own = own.ok_or_else(|| {
        (ErrorCode::UnknownTopicOrPartition, "This server does not host this topic-partition.".to_owned())
    })?;
    let synonyms = |entry: &Entry| {
        let own = own.get(entry.def.name).map(|value| synonym(entry.def.name, value, source::TOPIC));
        let broker = broker_synonyms(entry.def.name).iter().flat_map(|(key, _)| broker_synonym(state, key));
        own.into_iter().chain(broker).collect()
    };
    Ok(topic_entries(state, &own).iter().map(|entry| result(entry, show, false, synonyms)).collect())
}

fn describe_group(state: &BrokerState, name: &str, show: Show) -> Described {
    if name.is_empty() {
        return Err((ErrorCode::InvalidRequest, "Group name must not be empty.".to_owned()));
    }
    let resource = ConfigResource::Group(name.to_owned());
    let own = state.cluster.read(|image, _| image.configs(&resource).cloned()).unwrap_or_default();
    let entries = group::TABLE.iter().map(|def| match own.get(def.name) {
        Some(value) => Entry { def, value: value.clone(), source: source::GROUP },
        None => {
            let set = group::broker_synonym(def.name).and_then(|key| state.config.set_value(key));
            let source = set.map_or(source::DEFAULT, |(_, by)| source_of(by));
            Entry { def, value: group::inherited(def, &state.config), source }
        }
    });
    let synonyms = |entry: &Entry| {
        let own = own.get(entry.def.name).map(|value| synonym(entry.def.name, value, source::GROUP));
        let broker = group::broker_synonym(entry.def.name).into_iter();
        own.into_iter().chain(broker.flat_map(|key| broker_synonym(state, key))).collect()
    };
    Ok(entries.map(|entry| result(&entry, show, false, synonyms)).collect())
}

fn describe_broker(state: &BrokerState, name: &str, show: Show) -> Described {
    if name.is_empty() {
        // The defaults of all brokers: what was altered, and nothing else.
        let altered = state.config.dynamic_defaults();
        let entries = altered.iter().filter_map(|(key, value)| {
            let def = crate::config::find(broker::TABLE, key)?;
            Some(Entry { def, value: value.clone(), source: source::DYNAMIC_DEFAULT_BROKER })
        });
        let synonyms = |entry: &Entry| vec![synonym(entry.def.name, &entry.value, entry.source)];
        return Ok(entries.map(|entry| result(&entry, show, false, synonyms)).collect());
    }
    if name.parse() != Ok(state.node_id) {
        let message = format!("Unexpected broker id, expected {} but received {name}", state.node_id);
        return Err((ErrorCode::InvalidRequest, message));
    }
    let table = broker::TABLE.iter().map(|def| {
        let (value, source) = match state.config.set_value(def.name) {
            Some((value, by)) => (Some(value), source_of(by)),
            None => (def.default.map(str::to_owned), source::DEFAULT),
        };
        (def, value, source)
    });
    Ok(table
        .map(|(def, value, source)| {
            let entry = Entry { def, value: value.clone().unwrap_or_default(), source };
            let read_only = !broker::is_dynamic(def.name);
            let answer = result(&entry, show, read_only, |entry| broker_synonym(state, entry.def.name));
            answer.with_value(value.as_deref().map(text))
        })
        .collect())
}

fn result(
    entry: &Entry,
    show: Show,
    read_only: bool,
    synonyms: impl FnOnce(&Entry) -> Vec<DescribeConfigsSynonym>,
) -> DescribeConfigsResourceResult {
    let mut answer = DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(entry.def.name))
        .with_value(Some(text(&entry.value)))
        .with_read_only(read_only)
        .with_config_source(entry.source);
    if show.synonyms {
        answer.synonyms = synonyms(entry);
    }
    if show.types {
        answer.config_type = entry.def.kind.wire_type();
    }
    if show.documentation {
        answer.documentation = Some(StrBytes::from_static_str(entry.def.doc));
    }
    answer
}

/// What a broker key contributes: its set values, then its default.
fn broker_synonym(state: &BrokerState, key: &str) -> Vec<DescribeConfigsSynonym> {
    let set = state.config.set_values(key).into_iter();
    let set = set.map(|(value, by)| synonym(key, &value, source_of(by)));
    let default = crate::config::find(broker::TABLE, key).and_then(|def| def.default);
    set.chain(default.map(|value| synonym(key, value, source::DEFAULT))).collect()
}

fn synonym(key: &str, value: &str, source: i8) -> DescribeConfigsSynonym {
    DescribeConfigsSynonym::default().with_name(text(key)).with_value(Some(text(value))).with_source(source)
}
