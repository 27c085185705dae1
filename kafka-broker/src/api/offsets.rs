//! OffsetCommit, OffsetFetch, OffsetDelete: names and ids of topics are resolved here, the rest is the coordinator's.

use std::sync::Arc;

use kafka_wire::Uuid;
use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::offset_commit_request::OffsetCommitRequestTopic;
use kafka_wire::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_wire::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_wire::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_wire::messages::*;

use super::groups::failure;
use super::text;
use crate::dispatch::RequestContext;
use crate::groups::record::CommittedOffset;
use crate::groups::{Commit, Coordinator, Response, commit_refusal};
use crate::state::BrokerState;

/// From this version on topics go by id (KIP-848).
const TOPIC_ID_VERSION: i16 = 10;
/// From this version on one request may ask for many groups (KIP-709).
const MANY_GROUPS_VERSION: i16 = 8;
/// What an offset that was never committed looks like.
const NO_OFFSET: i64 = -1;

pub(crate) async fn offset_commit(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    mut request: OffsetCommitRequest,
    version: i16,
) -> OffsetCommitResponse {
    let refused = take_unknown(state, &mut request, version);
    let answer = match request.topics.is_empty() && !refused.is_empty() {
        // Nothing is left for the coordinator to judge.
        true => Ok(Response::OffsetCommit(OffsetCommitResponse::default())),
        false => {
            let call = state.groups.call(state, &request.group_id, |coordinator, call, now| {
                coordinator.commit(Commit { call, request: &request, version, producer: None }, now)
            });
            call.await
        }
    };
    let mut response = match answer {
        Ok(Response::OffsetCommit(response)) => response,
        other => commit_refusal(&request, ErrorCode::from(failure(other))),
    };
    for Refused { known_at, topic } in refused {
        // The coordinator answers topics in the order of the request.
        match known_at.and_then(|at| response.topics.get_mut(at)) {
            Some(known) => known.partitions.extend(topic.partitions),
            None => response.topics.push(topic),
        }
    }
    for topic in &mut response.topics {
        match version < TOPIC_ID_VERSION {
            true => topic.topic_id = Uuid::nil(),
            false => topic.name = Default::default(),
        }
    }
    response
}

/// Partitions of a commit that do not exist, and where the rest of their topic remains in the request.
pub(super) struct Refused {
    pub(super) known_at: Option<usize>,
    pub(super) topic: OffsetCommitResponseTopic,
}

/// Takes topics and partitions that do not exist out of a commit. What remains has both its name and its id.
pub(super) fn take_unknown(
    state: &BrokerState,
    request: &mut OffsetCommitRequest,
    version: i16,
) -> Vec<Refused> {
    let mut refused = Vec::new();
    let mut kept = 0;
    request.topics.retain_mut(|topic: &mut OffsetCommitRequestTopic| {
        let hosted = match version < TOPIC_ID_VERSION {
            true => state.topics.by_name(&topic.name).ok_or(ErrorCode::UnknownTopicOrPartition),
            false => state.topics.by_id(topic.topic_id).ok_or(ErrorCode::UnknownTopicId),
        };
        let mut unknown = Vec::new();
        if let Ok(hosted) = &hosted {
            topic.name = TopicName(text(hosted.name()));
            topic.topic_id = hosted.id();
        }
        topic.partitions.retain(|partition| {
            let error = match &hosted {
                Err(error) => *error,
                Ok(hosted) if hosted.partition(partition.partition_index).is_some() => return true,
                Ok(_) => ErrorCode::UnknownTopicOrPartition,
            };
            unknown.push(
                OffsetCommitResponsePartition::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(error.code()),
            );
            false
        });
        if !unknown.is_empty() || hosted.is_err() {
            let answer = OffsetCommitResponseTopic::default()
                .with_name(topic.name.clone())
                .with_topic_id(topic.topic_id)
                .with_partitions(unknown);
            refused.push(Refused { known_at: (!topic.partitions.is_empty()).then_some(kept), topic: answer });
        }
        let keep = !topic.partitions.is_empty();
        kept += usize::from(keep);
        keep
    });
    refused
}

pub(crate) async fn offset_fetch(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: OffsetFetchRequest,
    version: i16,
) -> OffsetFetchResponse {
    if version >= MANY_GROUPS_VERSION {
        let groups =
            request.groups.iter().map(|group| fetch_group(state, group, request.require_stable, version));
        return OffsetFetchResponse::default().with_groups(groups.collect());
    }
    let topics = request.topics.map(|topics| {
        let topics = topics.into_iter().map(|topic| {
            OffsetFetchRequestTopics::default()
                .with_name(topic.name)
                .with_partition_indexes(topic.partition_indexes)
        });
        topics.collect()
    });
    let group = OffsetFetchRequestGroup::default().with_group_id(request.group_id).with_topics(topics);
    single_group(fetch_group(state, &group, request.require_stable, version), version)
}

/// The answer before [`MANY_GROUPS_VERSION`].
fn single_group(group: OffsetFetchResponseGroup, version: i16) -> OffsetFetchResponse {
    let topics = group.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|partition| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_committed_offset(partition.committed_offset)
                .with_committed_leader_epoch(partition.committed_leader_epoch)
                .with_metadata(partition.metadata)
                .with_error_code(partition.error_code)
        });
        OffsetFetchResponseTopic::default().with_name(topic.name).with_partitions(partitions.collect())
    });
    let response = OffsetFetchResponse::default().with_topics(topics.collect());
    // Version 1 has room for errors at the partitions only, where they are as well.
    if version >= 2 { response.with_error_code(group.error_code) } else { response }
}

fn fetch_group(
    state: &BrokerState,
    request: &OffsetFetchRequestGroup,
    require_stable: bool,
    version: i16,
) -> OffsetFetchResponseGroup {
    let group_id = &request.group_id;
    let fetched = state.groups.read(state, group_id, |coordinator| {
        coordinator.check_offset_fetch(group_id, request.member_id.as_deref(), request.member_epoch)?;
        let mut fetched: Vec<OffsetFetchResponseTopics> = match &request.topics {
            Some(topics) => {
                topics.iter().map(|topic| fetch_topic(state, coordinator, group_id, topic, version)).collect()
            }
            None => fetch_all(state, coordinator, group_id, version),
        };
        if require_stable {
            hide_unstable(state, coordinator, group_id, &mut fetched);
        }
        Ok(fetched)
    });
    let fetched = fetched.and_then(|fetched| fetched);
    let answer = OffsetFetchResponseGroup::default().with_group_id(group_id.clone());
    match fetched {
        Ok(topics) => answer.with_topics(topics),
        Err(error) => {
            let topics = request.topics.iter().flatten().map(|topic| refused_topic(topic, error));
            let topics = if version < 2 { topics.collect() } else { Vec::new() };
            answer.with_error_code(error.code()).with_topics(topics)
        }
    }
}

/// Offsets that a transaction may be about to change are not told (KIP-447).
fn hide_unstable(
    state: &BrokerState,
    coordinator: &Coordinator,
    group_id: &str,
    topics: &mut [OffsetFetchResponseTopics],
) {
    for topic in topics {
        let by_id = state.topics.by_id(topic.topic_id);
        let name = by_id.as_ref().map_or(topic.name.as_str(), |hosted| hosted.name());
        for answer in &mut topic.partitions {
            if answer.error_code == 0 && coordinator.is_unstable(group_id, name, answer.partition_index) {
                *answer = partition(answer.partition_index, None)
                    .with_error_code(ErrorCode::UnstableOffsetCommit.code());
            }
        }
    }
}

fn fetch_topic(
    state: &BrokerState,
    coordinator: &Coordinator,
    group_id: &str,
    topic: &OffsetFetchRequestTopics,
    version: i16,
) -> OffsetFetchResponseTopics {
    let hosted = match version < TOPIC_ID_VERSION {
        true => state.topics.by_name(&topic.name),
        false => match state.topics.by_id(topic.topic_id) {
            Some(hosted) => Some(hosted),
            None => return refused_topic(topic, ErrorCode::UnknownTopicId),
        },
    };
    let name = hosted.as_ref().map_or(topic.name.as_str(), |hosted| hosted.name());
    let id = hosted.as_ref().map(|hosted| hosted.id());
    let partitions = topic
        .partition_indexes
        .iter()
        .map(|&index| partition(index, coordinator.committed(group_id, name, id, index)));
    answer_to(topic).with_partitions(partitions.collect())
}

/// Every offset of the group, of topics that still exist if the answer names them by id.
fn fetch_all(
    state: &BrokerState,
    coordinator: &Coordinator,
    group_id: &str,
    version: i16,
) -> Vec<OffsetFetchResponseTopics> {
    let topics = coordinator.committed_topics(group_id).filter_map(|(name, committed)| {
        let answer = match version < TOPIC_ID_VERSION {
            true => OffsetFetchResponseTopics::default().with_name(TopicName(text(name))),
            false => OffsetFetchResponseTopics::default().with_topic_id(state.topics.by_name(name)?.id()),
        };
        let partitions = committed.iter().map(|(&index, committed)| partition(index, Some(committed)));
        Some(answer.with_partitions(partitions.collect()))
    });
    topics.collect()
}

fn answer_to(topic: &OffsetFetchRequestTopics) -> OffsetFetchResponseTopics {
    OffsetFetchResponseTopics::default().with_name(topic.name.clone()).with_topic_id(topic.topic_id)
}

fn refused_topic(topic: &OffsetFetchRequestTopics, error: ErrorCode) -> OffsetFetchResponseTopics {
    let partitions =
        topic.partition_indexes.iter().map(|&index| partition(index, None).with_error_code(error.code()));
    answer_to(topic).with_partitions(partitions.collect())
}

fn partition(index: i32, committed: Option<&CommittedOffset>) -> OffsetFetchResponsePartitions {
    let answer = OffsetFetchResponsePartitions::default().with_partition_index(index);
    match committed {
        None => answer
            .with_committed_offset(NO_OFFSET)
            .with_committed_leader_epoch(-1)
            .with_metadata(Some(text(""))),
        Some(committed) => answer
            .with_committed_offset(committed.offset)
            .with_committed_leader_epoch(committed.leader_epoch)
            .with_metadata(Some(text(&committed.metadata))),
    }
}

pub(crate) async fn offset_delete(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: OffsetDeleteRequest,
    _version: i16,
) -> OffsetDeleteResponse {
    let answer = state
        .groups
        .call(state, &request.group_id, |coordinator, call, _| coordinator.delete_offsets(call, &request));
    match answer.await {
        Ok(Response::OffsetDelete(response)) => response,
        other => OffsetDeleteResponse::default().with_error_code(failure(other)),
    }
}
