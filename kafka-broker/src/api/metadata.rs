//! Metadata: who the brokers are, and which topics there are. May create the topics that are asked for.

use std::sync::Arc;

use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::metadata_request::MetadataRequestTopic;
use kafka_wire::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_wire::messages::{BrokerId, MetadataRequest, MetadataResponse, TopicName};
use uuid::Uuid;

use super::{CLUSTER_OPERATIONS, OPERATIONS_NOT_ASKED, TOPIC_OPERATIONS, off_thread, text};
use crate::cluster::image::{Image, TopicImage, is_internal};
use crate::cluster::topic_name;
use crate::cluster::topics::NewTopic;
use crate::dispatch::RequestContext;
use crate::state::BrokerState;

pub(crate) async fn handle(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: MetadataRequest,
    version: i16,
) -> MetadataResponse {
    // In v0 an empty list asks for all topics and null does not exist; from v1 on empty means none.
    let asked = match request.topics {
        Some(topics) if version == 0 && topics.is_empty() => None,
        asked => asked,
    };
    // Before v4 the flag does not exist and asking creates; the decoder's default is true there.
    let may_create = request.allow_auto_topic_creation && state.config.auto_create_topics();
    if let Some(asked) = asked.as_deref().filter(|_| may_create) {
        let missing = missing(state, asked);
        if !missing.is_empty() {
            off_thread(state, move |state| create_missing(state, &missing)).await;
        }
    }
    let operations = match request.include_topic_authorized_operations {
        true => TOPIC_OPERATIONS,
        false => OPERATIONS_NOT_ASKED,
    };
    let topics = state.cluster.read(|image, _| match &asked {
        None => image.topics().iter().map(|(name, topic)| describe(image, name, topic, operations)).collect(),
        Some(asked) => asked.iter().map(|topic| look_up(image, topic, operations)).collect(),
    });
    let mut response = MetadataResponse::default()
        .with_brokers(brokers(state))
        .with_cluster_id(Some(state.cluster_id.clone()))
        .with_controller_id(BrokerId(state.node_id))
        .with_topics(topics);
    if (8..=10).contains(&version) {
        response.cluster_authorized_operations = match request.include_cluster_authorized_operations {
            true => CLUSTER_OPERATIONS,
            false => OPERATIONS_NOT_ASKED,
        };
    }
    response
}

fn brokers(state: &BrokerState) -> Vec<MetadataResponseBroker> {
    state.cluster.read(|image, _| {
        image
            .live_brokers()
            .map(|(node_id, broker)| {
                MetadataResponseBroker::default()
                    .with_node_id(BrokerId(node_id))
                    .with_host(text(&broker.host))
                    .with_port(i32::from(broker.port))
                    .with_rack(broker.rack.as_deref().map(text))
            })
            .collect()
    })
}

/// The legal names among those asked for that no topic has.
fn missing(state: &BrokerState, asked: &[MetadataRequestTopic]) -> Vec<String> {
    state.cluster.read(|image, _| {
        let names =
            asked.iter().filter(|topic| topic.topic_id.is_nil()).filter_map(|topic| topic.name.as_ref());
        names
            .map(|name| name.to_string())
            .filter(|name| image.topic(name).is_none() && topic_name::check(name).is_ok())
            .collect()
    })
}

/// Creates topics with default settings. Why one could not be created is in the log; the answer says that it is
/// unknown.
fn create_missing(state: &BrokerState, missing: &[String]) {
    for name in missing {
        let result = match is_internal(name) {
            true => state.create_internal_topic(name),
            false => {
                let defaults = NewTopic { partitions: -1, replication_factor: -1, ..NewTopic::default() };
                state.create_topic(&NewTopic { name: name.clone(), ..defaults }).map(|_| ())
            }
        };
        if let Err(refusal) = result {
            tracing::info!(topic = name, reason = refusal.message, "topic not created on demand");
        }
    }
}

fn look_up(image: &Image, asked: &MetadataRequestTopic, operations: i32) -> MetadataResponseTopic {
    if !asked.topic_id.is_nil() {
        return match image.topic_by_id(asked.topic_id) {
            Some((name, topic)) => describe(image, name, topic, operations),
            None => failed(None, asked.topic_id, ErrorCode::UnknownTopicId, operations),
        };
    }
    let Some(name) = &asked.name else {
        return failed(None, Uuid::nil(), ErrorCode::InvalidTopicException, operations);
    };
    match image.topic(name) {
        Some(topic) => describe(image, name, topic, operations),
        None if topic_name::check(name).is_err() => {
            failed(Some(name.clone()), Uuid::nil(), ErrorCode::InvalidTopicException, operations)
        }
        None => failed(Some(name.clone()), Uuid::nil(), ErrorCode::UnknownTopicOrPartition, operations),
    }
}

fn failed(name: Option<TopicName>, id: Uuid, code: ErrorCode, operations: i32) -> MetadataResponseTopic {
    // Only v12 and later may carry a null name (KIP-516), and only they can ask by id.
    MetadataResponseTopic::default()
        .with_error_code(code.code())
        .with_is_internal(name.as_ref().is_some_and(|name| is_internal(name)))
        .with_name(name)
        .with_topic_id(id)
        .with_topic_authorized_operations(operations)
}

fn describe(image: &Image, name: &str, topic: &TopicImage, operations: i32) -> MetadataResponseTopic {
    let ids = |nodes: &[i32]| nodes.iter().copied().map(BrokerId).collect();
    let partitions = topic
        .partitions
        .iter()
        .map(|(&index, partition)| {
            // A leader that is not there cannot be asked, and one that does not exist is waited for.
            let code = match image.is_live(partition.leader) {
                true => ErrorCode::None,
                false => ErrorCode::LeaderNotAvailable,
            };
            let offline = partition.replicas.iter().copied().filter(|&node| !image.is_live(node));
            MetadataResponsePartition::default()
                .with_error_code(code.code())
                .with_offline_replicas(offline.map(BrokerId).collect())
                .with_partition_index(index)
                .with_leader_id(BrokerId(partition.leader))
                .with_leader_epoch(partition.leader_epoch)
                .with_replica_nodes(ids(&partition.replicas))
                .with_isr_nodes(ids(&partition.isr))
        })
        .collect();
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(text(name))))
        .with_topic_id(topic.id)
        .with_is_internal(is_internal(name))
        .with_partitions(partitions)
        .with_topic_authorized_operations(operations)
}
