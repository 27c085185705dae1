//! A [`FetchPlan`] as Kafka's Fetch request, and the answer as the fetcher takes it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use kafka_wire::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_wire::messages::{BrokerId, FetchRequest, FetchResponse, TopicName};
use kafka_wire::{ErrorCode, StrBytes, Uuid};

use super::{FetchPlan, PartitionAnswer};
use crate::consumer::IsolationLevel;

/// The fetch is whole and opens no session (KIP-227).
const NO_SESSION_ID: i32 = 0;
const NO_SESSION_EPOCH: i32 = -1;

#[derive(Debug, Clone)]
pub(crate) struct FetchOptions {
    pub max_wait: Duration,
    pub min_bytes: i32,
    pub isolation: IsolationLevel,
    pub rack: Option<String>,
}

/// The request; topics carry name and id, and the version decides which goes out.
pub(crate) fn request(plan: &FetchPlan, options: &FetchOptions) -> FetchRequest {
    // The order of the parts is the order in which the broker serves them, so only neighbours are put together.
    let mut topics: Vec<FetchTopic> = Vec::new();
    for part in &plan.parts {
        let partition = FetchPartition::default()
            .with_partition(part.partition.partition)
            .with_current_leader_epoch(part.leader_epoch)
            .with_fetch_offset(part.offset)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(clamp(part.max_bytes));
        match topics.last_mut() {
            Some(last) if last.topic.as_str() == &*part.partition.topic => last.partitions.push(partition),
            _ => topics.push(
                FetchTopic::default()
                    .with_topic(TopicName(StrBytes::from_string(part.partition.topic.to_string())))
                    .with_topic_id(part.topic_id.unwrap_or_default())
                    .with_partitions(vec![partition]),
            ),
        }
    }
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(i32::try_from(options.max_wait.as_millis()).unwrap_or(i32::MAX))
        .with_min_bytes(options.min_bytes)
        .with_max_bytes(clamp(plan.max_bytes))
        .with_isolation_level(options.isolation.code())
        .with_session_id(NO_SESSION_ID)
        .with_session_epoch(NO_SESSION_EPOCH)
        .with_topics(topics)
        .with_rack_id(StrBytes::from_string(options.rack.clone().unwrap_or_default()))
}

/// Whether the request can go out in versions that know topics by id only (13 and later, KIP-516).
pub(crate) fn has_topic_ids(plan: &FetchPlan) -> bool {
    plan.parts.iter().all(|part| part.topic_id.is_some())
}

fn clamp(bytes: usize) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}

/// A newer leader that the answer names (KIP-951): part, broker, leader epoch.
pub(crate) type LeaderHint = (usize, i32, i32);

/// The parts of the answer that were asked for; anything else is ignored.
pub(crate) fn answers(
    plan: &FetchPlan,
    response: FetchResponse,
) -> Result<(Vec<PartitionAnswer>, Vec<LeaderHint>), ErrorCode> {
    ErrorCode::from(response.error_code).into_result()?;
    let mut by_name: HashMap<(&str, i32), usize> = HashMap::with_capacity(plan.parts.len());
    let mut names: BTreeMap<Uuid, &str> = BTreeMap::new();
    for (index, part) in plan.parts.iter().enumerate() {
        by_name.insert((&part.partition.topic, part.partition.partition), index);
        if let Some(id) = part.topic_id {
            names.insert(id, &part.partition.topic);
        }
    }
    let mut answers = Vec::new();
    let mut hints = Vec::new();
    for topic in response.responses {
        let name = if topic.topic.is_empty() {
            names.get(&topic.topic_id).copied().unwrap_or_default()
        } else {
            topic.topic.as_str()
        };
        for data in topic.partitions {
            let Some(&part) = by_name.get(&(name, data.partition_index)) else { continue };
            if data.current_leader.leader_id.0 >= 0 {
                hints.push((part, data.current_leader.leader_id.0, data.current_leader.leader_epoch));
            }
            answers.push(PartitionAnswer {
                part,
                code: ErrorCode::from(data.error_code),
                high_watermark: data.high_watermark,
                aborted: data
                    .aborted_transactions
                    .unwrap_or_default()
                    .iter()
                    .map(|aborted| (aborted.producer_id.0, aborted.first_offset))
                    .collect(),
                records: data.records.unwrap_or_default(),
            });
        }
    }
    Ok((answers, hints))
}

impl IsolationLevel {
    pub(crate) fn code(self) -> i8 {
        match self {
            Self::ReadUncommitted => 0,
            Self::ReadCommitted => 1,
        }
    }
}
