//! DescribeShareGroupOffsets, AlterShareGroupOffsets and DeleteShareGroupOffsets (KIP-932, KIP-1226): how far share groups
//! have come, and setting it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::*;
use kafka_wire::{StrBytes, Uuid};

use super::share_groups::create_state_topic;
use super::text;
use crate::dispatch::RequestContext;
use crate::groups::Response;
use crate::groups::share::record::Initialized;
use crate::groups::shares::OffsetsChange;
use crate::share::ShareKey;
use crate::share::state::service::{change, read};
use crate::state::BrokerState;

use alter_share_group_offsets_response::{
    AlterShareGroupOffsetsResponsePartition, AlterShareGroupOffsetsResponseTopic,
};
use delete_share_group_offsets_response::DeleteShareGroupOffsetsResponseTopic;
use describe_share_group_offsets_request::DescribeShareGroupOffsetsRequestGroup;
use describe_share_group_offsets_response::{
    DescribeShareGroupOffsetsResponseGroup, DescribeShareGroupOffsetsResponsePartition,
    DescribeShareGroupOffsetsResponseTopic,
};

pub(crate) async fn describe(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: DescribeShareGroupOffsetsRequest,
    _version: i16,
) -> DescribeShareGroupOffsetsResponse {
    let groups = request.groups.iter().map(|group| {
        describe_group(state, group).unwrap_or_else(|code| {
            DescribeShareGroupOffsetsResponseGroup::default()
                .with_group_id(group.group_id.clone())
                .with_error_code(code.code())
                .with_error_message(Some(text(code.name())))
        })
    });
    DescribeShareGroupOffsetsResponse::default().with_groups(groups.collect())
}

fn describe_group(
    state: &BrokerState,
    asked: &DescribeShareGroupOffsetsRequestGroup,
) -> Result<DescribeShareGroupOffsetsResponseGroup, ErrorCode> {
    let group = asked.group_id.as_str();
    let (_, known) = state.groups.read(state, group, |coordinator| coordinator.share_offsets(group))??;
    let topics = match &asked.topics {
        None => known
            .iter()
            .map(|(&id, (name, partitions))| {
                let partitions = partitions.iter().map(|&index| describe_partition(state, group, id, index));
                topic_answer(text(name), id, partitions.collect())
            })
            .collect(),
        Some(topics) => topics
            .iter()
            .map(|topic| {
                let hosted = state.topics.by_name(&topic.topic_name);
                let id = hosted.as_ref().map_or(Uuid::nil(), |hosted| hosted.id());
                let partitions = topic.partitions.iter().map(|&index| match &hosted {
                    Some(_) => describe_partition(state, group, id, index),
                    None => {
                        partition_answer(index).with_error_code(ErrorCode::UnknownTopicOrPartition.code())
                    }
                });
                topic_answer(topic.topic_name.clone(), id, partitions.collect())
            })
            .collect(),
    };
    Ok(DescribeShareGroupOffsetsResponseGroup::default()
        .with_group_id(asked.group_id.clone())
        .with_topics(topics))
}

fn topic_answer(
    name: StrBytes,
    id: Uuid,
    partitions: Vec<DescribeShareGroupOffsetsResponsePartition>,
) -> DescribeShareGroupOffsetsResponseTopic {
    DescribeShareGroupOffsetsResponseTopic::default()
        .with_topic_name(name)
        .with_topic_id(id)
        .with_partitions(partitions)
}

/// The group has never read it.
fn partition_answer(index: i32) -> DescribeShareGroupOffsetsResponsePartition {
    DescribeShareGroupOffsetsResponsePartition::default()
        .with_partition_index(index)
        .with_start_offset(-1)
        .with_lag(-1)
}

fn describe_partition(
    state: &BrokerState,
    group: &str,
    topic_id: Uuid,
    index: i32,
) -> DescribeShareGroupOffsetsResponsePartition {
    let answer = partition_answer(index);
    let key = ShareKey::new(group, topic_id, index);
    let recorded = read(state, &key, |recorded| {
        recorded.map(|it| (it.start_offset, it.leader_epoch, it.delivery_complete_count))
    });
    match recorded {
        Ok(Some((start_offset, leader_epoch, done))) if start_offset >= 0 => {
            // What is beyond the start and not done yet (KIP-1226).
            let end = end_offset(state, topic_id, index).filter(|_| done >= 0);
            let lag = end.map_or(-1, |end| (end - start_offset - i64::from(done)).max(0));
            answer.with_start_offset(start_offset).with_leader_epoch(leader_epoch).with_lag(lag)
        }
        Ok(_) => answer,
        Err(code) => answer.with_error_code(code.code()).with_error_message(Some(text(code.name()))),
    }
}

/// The high watermark, from whichever node leads.
fn end_offset(state: &BrokerState, topic_id: Uuid, index: i32) -> Option<i64> {
    let (leader, _) = state.topics.by_id(topic_id)?.partition(index)?.leader();
    let node = state.cluster.node(leader)?;
    node.topics.by_id(topic_id)?.partition(index)?.high_watermark()
}

/// Dropping the future takes nothing back.
pub(crate) async fn alter(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: AlterShareGroupOffsetsRequest,
    _version: i16,
) -> AlterShareGroupOffsetsResponse {
    let refused = |code: ErrorCode| {
        AlterShareGroupOffsetsResponse::default()
            .with_error_code(code.code())
            .with_error_message(Some(text(code.name())))
    };
    let group = request.group_id.as_str();
    if let Err(code) = check(state, group, true) {
        return refused(code);
    }
    if let Err(code) = create_state_topic(state).await {
        return refused(code);
    }
    let mut set = Initialized::new();
    let mut responses = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let hosted = state.topics.by_name(&topic.topic_name);
        let id = hosted.as_ref().map_or(Uuid::nil(), |hosted| hosted.id());
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            let index = partition.partition_index;
            let exists = hosted.as_ref().is_some_and(|hosted| hosted.partition(index).is_some());
            let done = match exists {
                true => set_start(state, &ShareKey::new(group, id, index), partition.start_offset).await,
                false => Err(ErrorCode::UnknownTopicOrPartition),
            };
            if done.is_ok() {
                let name = || (topic.topic_name.to_string(), BTreeSet::new());
                set.entry(id).or_insert_with(name).1.insert(index);
            }
            let answer = AlterShareGroupOffsetsResponsePartition::default().with_partition_index(index);
            partitions.push(match done {
                Ok(()) => answer,
                Err(code) => answer.with_error_code(code.code()).with_error_message(Some(text(code.name()))),
            });
        }
        responses.push(
            AlterShareGroupOffsetsResponseTopic::default()
                .with_topic_name(topic.topic_name.clone())
                .with_topic_id(id)
                .with_partitions(partitions),
        );
    }
    match put_on_record(state, group, &OffsetsChange::Set(set)).await {
        Ok(()) => AlterShareGroupOffsetsResponse::default().with_responses(responses),
        Err(code) => refused(code),
    }
}

/// Begins a new state epoch: whoever has the old state loaded is fenced.
async fn set_start(state: &BrokerState, key: &ShareKey, start_offset: i64) -> Result<(), ErrorCode> {
    let (_, pending) = change(state, key, |coordinator, now_ms| {
        let epoch = coordinator.get(key).map_or(0, |recorded| recorded.state_epoch.saturating_add(1));
        Ok((Some(coordinator.initialize(key, epoch, start_offset, now_ms)?), ()))
    })?;
    pending.committed().await
}

/// Dropping the future takes nothing back.
pub(crate) async fn delete(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: DeleteShareGroupOffsetsRequest,
    _version: i16,
) -> DeleteShareGroupOffsetsResponse {
    let refused = |code: ErrorCode| {
        DeleteShareGroupOffsetsResponse::default()
            .with_error_code(code.code())
            .with_error_message(Some(text(code.name())))
    };
    let group = request.group_id.as_str();
    let known = match check(state, group, false)
        .and_then(|()| state.groups.read(state, group, |coordinator| coordinator.share_offsets(group))?)
    {
        Ok((_, known)) => known,
        Err(code) => return refused(code),
    };
    let by_name: BTreeMap<&str, (Uuid, &BTreeSet<i32>)> =
        known.iter().map(|(id, (name, partitions))| (name.as_str(), (*id, partitions))).collect();
    let mut deleted = Vec::new();
    let mut responses = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let found = by_name.get(topic.topic_name.as_str());
        let done = match found {
            Some((id, partitions)) => delete_states(state, group, *id, partitions).await,
            None => Err(ErrorCode::UnknownTopicOrPartition),
        };
        let id = found.map_or(Uuid::nil(), |(id, _)| *id);
        let answer = DeleteShareGroupOffsetsResponseTopic::default()
            .with_topic_name(topic.topic_name.clone())
            .with_topic_id(id);
        responses.push(match done {
            Ok(()) => {
                deleted.push(id);
                answer
            }
            Err(code) => answer.with_error_code(code.code()).with_error_message(Some(text(code.name()))),
        });
    }
    match put_on_record(state, group, &OffsetsChange::Deleted(deleted)).await {
        Ok(()) => DeleteShareGroupOffsetsResponse::default().with_responses(responses),
        Err(code) => refused(code),
    }
}

/// Deletes all that the share coordinator knows of a group, which was deleted with these offsets.
pub(super) async fn delete_group(state: &BrokerState, group: &str, known: &Initialized) {
    for (&id, (_, partitions)) in known {
        if let Err(error) = delete_states(state, group, id, partitions).await {
            tracing::warn!(group, %id, %error, "state of a deleted share group remains");
        }
    }
    forget(state, group);
}

async fn delete_states(
    state: &BrokerState,
    group: &str,
    topic_id: Uuid,
    partitions: &BTreeSet<i32>,
) -> Result<(), ErrorCode> {
    for &partition in partitions {
        let key = ShareKey::new(group, topic_id, partition);
        let (_, pending) = change(state, &key, |coordinator, _| Ok((coordinator.delete(&key), ())))?;
        pending.committed().await?;
    }
    Ok(())
}

fn check(state: &BrokerState, group: &str, may_create: bool) -> Result<(), ErrorCode> {
    if group.is_empty() {
        return Err(ErrorCode::InvalidGroupId);
    }
    state.groups.read(state, group, |coordinator| coordinator.check_share_offsets(group, may_create))?
}

async fn put_on_record(state: &BrokerState, group: &str, change: &OffsetsChange) -> Result<(), ErrorCode> {
    let answer = state
        .groups
        .call(state, group, |coordinator, call, _| coordinator.share_offsets_changed(call, group, change));
    let done = match answer.await? {
        Response::Done(done) => done,
        _ => Err(ErrorCode::UnknownServerError),
    };
    forget(state, group);
    done
}

/// What leaders have loaded of the group is not so any more.
fn forget(state: &BrokerState, group: &str) {
    state.cluster.nodes().iter().for_each(|node| node.shares.forget(group));
}
