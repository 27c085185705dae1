//! AlterPartitionReassignments and ListPartitionReassignments (KIP-455).

use std::sync::Arc;

use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use kafka_wire::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_wire::messages::list_partition_reassignments_response::{
    OngoingPartitionReassignment, OngoingTopicReassignment,
};
use kafka_wire::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, BrokerId,
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, TopicName,
};

use super::{off_thread, text};
use crate::cluster::image::{Image, TopicImage};
use crate::cluster::reassignments;
use crate::cluster::topics::{Refusal, refuse};
use crate::dispatch::RequestContext;
use crate::state::BrokerState;

/// Each partition is decided on by itself. Dropping the future does not stop the work.
pub(crate) async fn alter(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: AlterPartitionReassignmentsRequest,
    _version: i16,
) -> AlterPartitionReassignmentsResponse {
    off_thread(state, move |state| {
        let may_resize = request.allow_replication_factor_change;
        let topics = request.topics.into_iter().map(|topic| alter_topic(state, topic, may_resize));
        AlterPartitionReassignmentsResponse::default()
            .with_allow_replication_factor_change(may_resize)
            .with_responses(topics.collect())
    })
    .await
}

fn alter_topic(state: &BrokerState, topic: ReassignableTopic, may_resize: bool) -> ReassignableTopicResponse {
    let partitions = topic.partitions.iter().map(|partition| {
        let answer = ReassignablePartitionResponse::default().with_partition_index(partition.partition_index);
        match alter_partition(state, &topic.name, partition, may_resize) {
            Ok(()) => answer.with_error_message(None),
            Err(Refusal { code, message }) => {
                answer.with_error_code(code.code()).with_error_message(Some(text(&message)))
            }
        }
    });
    let partitions = partitions.collect();
    ReassignableTopicResponse::default().with_name(topic.name).with_partitions(partitions)
}

fn alter_partition(
    state: &BrokerState,
    topic: &str,
    asked: &ReassignablePartition,
    may_resize: bool,
) -> Result<(), Refusal> {
    let target: Option<Vec<i32>> =
        asked.replicas.as_ref().map(|replicas| replicas.iter().map(|node| node.0).collect());
    let unclean = state.config.unclean_leader_election();
    state.cluster.change(state.clock.now_ms(), |image| {
        // KIP-860: a tool that computed its plan from an old assignment does not change the replication factor.
        if let (false, Some(target), Some(current)) =
            (may_resize, &target, image.partition(topic, asked.partition_index))
            && target.len() != current.replicas_after_reassignment().count()
        {
            return refuse(
                ErrorCode::InvalidReplicationFactor,
                "The replication factor is changed but the request does not allow it.",
            );
        }
        reassignments::alter(image, topic, asked.partition_index, target.as_deref(), unclean)
    })
}

/// What is under way; of topics that do not exist nothing is said.
pub(crate) async fn list(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: ListPartitionReassignmentsRequest,
    _version: i16,
) -> ListPartitionReassignmentsResponse {
    let topics = state.cluster.read(|image, _| match &request.topics {
        Some(asked) => asked
            .iter()
            .filter_map(|asked| {
                let found = image.topic(&asked.name)?;
                ongoing(&asked.name, found, asked.partition_indexes.iter().copied())
            })
            .collect(),
        None => all_ongoing(image),
    });
    ListPartitionReassignmentsResponse::default().with_error_message(None).with_topics(topics)
}

fn all_ongoing(image: &Image) -> Vec<OngoingTopicReassignment> {
    let topics = image.topics().iter();
    topics.filter_map(|(name, topic)| ongoing(name, topic, topic.partitions.keys().copied())).collect()
}

fn ongoing(
    name: &str,
    topic: &TopicImage,
    indexes: impl Iterator<Item = i32>,
) -> Option<OngoingTopicReassignment> {
    let nodes = |nodes: &[i32]| nodes.iter().copied().map(BrokerId).collect::<Vec<_>>();
    let partitions = indexes.filter_map(|index| {
        let state = topic.partitions.get(&index).filter(|state| state.is_reassigned())?;
        Some(
            OngoingPartitionReassignment::default()
                .with_partition_index(index)
                .with_replicas(nodes(&state.replicas))
                .with_adding_replicas(nodes(&state.adding))
                .with_removing_replicas(nodes(&state.removing)),
        )
    });
    let partitions: Vec<_> = partitions.collect();
    (!partitions.is_empty()).then(|| {
        OngoingTopicReassignment::default().with_name(TopicName(text(name))).with_partitions(partitions)
    })
}
