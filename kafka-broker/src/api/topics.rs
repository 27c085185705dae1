//! CreateTopics, DeleteTopics and CreatePartitions: each entry succeeds or fails on its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_wire::messages::create_topics_request::CreatableTopic;
use kafka_wire::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_wire::messages::delete_topics_request::DeleteTopicState;
use kafka_wire::messages::delete_topics_response::DeletableTopicResult;
use kafka_wire::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, TopicName,
};

use super::configs::{Entry, topic_entries};
use super::{off_thread, text};
use crate::cluster::topics::{CreatedTopic, MAX_PARTITIONS_PER_REQUEST, NewTopic, Refusal};
use crate::dispatch::RequestContext;
use crate::state::BrokerState;

pub(crate) async fn create_topics(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: CreateTopicsRequest,
    version: i16,
) -> CreateTopicsResponse {
    off_thread(state, move |state| create_each(state, &request, version)).await
}

fn create_each(
    state: &Arc<BrokerState>,
    request: &CreateTopicsRequest,
    version: i16,
) -> CreateTopicsResponse {
    let mut count = BTreeMap::new();
    for topic in &request.topics {
        *count.entry(topic.name.to_string()).or_insert(0) += 1;
    }
    let mut answered = BTreeSet::new();
    let mut room = MAX_PARTITIONS_PER_REQUEST;
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let name = topic.name.as_str();
        if !answered.insert(name) {
            continue;
        }
        let result = if count.get(name).is_some_and(|&count| count > 1) {
            Err(Refusal { code: ErrorCode::InvalidRequest, message: "Duplicate topic name.".to_owned() })
        } else if request.validate_only {
            state.check_topic(&new_topic(topic), room)
        } else {
            state.create_topic_within(&new_topic(topic), room)
        };
        if let Ok(created) = &result {
            room = room.saturating_sub(created.image.partitions.len());
        }
        results.push(create_result(state, &topic.name, result, version));
    }
    CreateTopicsResponse::default().with_topics(results)
}

fn new_topic(topic: &CreatableTopic) -> NewTopic {
    NewTopic {
        name: topic.name.to_string(),
        partitions: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments: topic
            .assignments
            .iter()
            .map(|assignment| (assignment.partition_index, ids(&assignment.broker_ids)))
            .collect(),
        configs: topic
            .configs
            .iter()
            .map(|config| (config.name.to_string(), config.value.as_ref().map(ToString::to_string)))
            .collect(),
    }
}

fn ids(brokers: &[kafka_wire::messages::BrokerId]) -> Vec<i32> {
    brokers.iter().map(|broker| broker.0).collect()
}

/// An array that is null breaks Java's Admin, which reads `configs` of every answer from v5 on; it is empty instead.
fn create_result(
    state: &BrokerState,
    name: &TopicName,
    result: Result<CreatedTopic, Refusal>,
    version: i16,
) -> CreatableTopicResult {
    let answer = CreatableTopicResult::default().with_name(name.clone());
    match result {
        Ok(created) => {
            let answer = answer.with_topic_id(created.id);
            if version < 5 {
                return answer;
            }
            let configs = topic_entries(state, &created.configs).iter().map(created_config).collect();
            answer
                .with_num_partitions(i32::try_from(created.image.partitions.len()).unwrap_or(i32::MAX))
                .with_replication_factor(created.image.replication_factor())
                .with_configs(Some(configs))
        }
        Err(refusal) => {
            answer.with_error_code(refusal.code.code()).with_error_message(Some(text(&refusal.message)))
        }
    }
}

fn created_config(entry: &Entry) -> CreatableTopicConfigs {
    CreatableTopicConfigs::default()
        .with_name(text(entry.def.name))
        .with_value(Some(text(&entry.value)))
        .with_config_source(entry.source)
}

pub(crate) async fn delete_topics(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: DeleteTopicsRequest,
    version: i16,
) -> DeleteTopicsResponse {
    off_thread(state, move |state| delete_each(state, request, version)).await
}

fn delete_each(state: &Arc<BrokerState>, request: DeleteTopicsRequest, version: i16) -> DeleteTopicsResponse {
    let asked: Vec<DeleteTopicState> = match version {
        0..=5 => request
            .topic_names
            .into_iter()
            .map(|name| DeleteTopicState::default().with_name(Some(name)))
            .collect(),
        _ => request.topics,
    };
    let responses = asked.into_iter().map(|topic| delete_one(state, topic, version)).collect();
    DeleteTopicsResponse::default().with_responses(responses)
}

fn delete_one(state: &Arc<BrokerState>, asked: DeleteTopicState, version: i16) -> DeletableTopicResult {
    let answer = DeletableTopicResult::default().with_topic_id(asked.topic_id);
    let found = match (&asked.name, asked.topic_id.is_nil()) {
        (Some(_), false) => {
            Err((ErrorCode::InvalidRequest, "You may not specify both topic name and topic id."))
        }
        (None, true) => Err((ErrorCode::InvalidRequest, "Neither topic name nor id were specified.")),
        (Some(name), true) => state
            .cluster
            .read(|image, _| image.topic(name).map(|topic| (name.to_string(), topic.id)))
            .ok_or((ErrorCode::UnknownTopicOrPartition, "This server does not host this topic-partition.")),
        (None, false) => state
            .cluster
            .read(|image, _| {
                image.topic_by_id(asked.topic_id).map(|(name, topic)| (name.to_owned(), topic.id))
            })
            .ok_or((ErrorCode::UnknownTopicId, "This server does not host this topic ID.")),
    };
    let (outcome, answer) = match found {
        Err((code, message)) => (Err((code, message.to_owned())), answer.with_name(asked.name)),
        Ok((name, id)) => {
            let outcome = state.delete_topic(&name, id).map_err(|refusal| (refusal.code, refusal.message));
            (outcome, answer.with_name(Some(TopicName(text(&name)))).with_topic_id(id))
        }
    };
    match outcome {
        Ok(()) => answer,
        Err((code, message)) => {
            let message = (version >= 5).then(|| text(&message));
            answer.with_error_code(code.code()).with_error_message(message)
        }
    }
}

pub(crate) async fn create_partitions(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: CreatePartitionsRequest,
    _version: i16,
) -> CreatePartitionsResponse {
    off_thread(state, move |state| grow_each(state, &request)).await
}

fn grow_each(state: &Arc<BrokerState>, request: &CreatePartitionsRequest) -> CreatePartitionsResponse {
    let mut seen = BTreeSet::new();
    let results = request
        .topics
        .iter()
        .map(|topic| {
            let assignments: Option<Vec<Vec<i32>>> = topic
                .assignments
                .as_ref()
                .map(|all| all.iter().map(|assignment| ids(&assignment.broker_ids)).collect());
            let result = match seen.insert(topic.name.to_string()) {
                false => Err(Refusal {
                    code: ErrorCode::InvalidRequest,
                    message: "Duplicate topic name.".to_owned(),
                }),
                true => {
                    state.grow_topic(&topic.name, topic.count, assignments.as_deref(), request.validate_only)
                }
            };
            let answer = CreatePartitionsTopicResult::default().with_name(topic.name.clone());
            match result {
                Ok(()) => answer,
                Err(refusal) => answer
                    .with_error_code(refusal.code.code())
                    .with_error_message(Some(text(&refusal.message))),
            }
        })
        .collect();
    CreatePartitionsResponse::default().with_results(results)
}
