//! A [`FetchPlan`] as Kafka's Fetch request, and the answer as the fetcher takes it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use kafka_wire::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_wire::messages::{BrokerId, FetchRequest, FetchResponse, TopicName};
use kafka_wire::{ErrorCode, StrBytes, Uuid};

use super::session::FINAL_EPOCH;
use super::{FetchPlan, PartitionAnswer};
use crate::consumer::IsolationLevel;

/// Sessions begin with this version (KIP-227); racks (KIP-392), the epoch of the last record (KIP-595).
const SESSION_VERSION: i16 = 7;
const RACK_VERSION: i16 = 11;
const LAST_FETCHED_EPOCH_VERSION: i16 = 12;

#[derive(Debug, Clone)]
pub(crate) struct FetchOptions {
    pub max_wait: Duration,
    pub min_bytes: i32,
    pub isolation: IsolationLevel,
    pub rack: Option<String>,
}

/// The request; topics carry name and id, and the version decides which goes out.
pub(crate) fn request(plan: &FetchPlan, options: &FetchOptions, version: i16) -> FetchRequest {
    let has_sessions = version >= SESSION_VERSION;
    let all: Vec<usize>;
    let asked = match has_sessions {
        true => &plan.session.changed,
        false => {
            all = (0..plan.parts.len()).collect();
            &all
        }
    };
    // The order of the parts is the order in which the broker serves them, so only neighbours are put together.
    let mut topics: Vec<FetchTopic> = Vec::new();
    for part in asked.iter().filter_map(|&index| plan.parts.get(index)) {
        let mut partition = FetchPartition::default()
            .with_partition(part.partition.partition)
            .with_current_leader_epoch(part.leader_epoch)
            .with_fetch_offset(part.offset)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(clamp(part.max_bytes));
        if version >= LAST_FETCHED_EPOCH_VERSION {
            partition.last_fetched_epoch = part.last_fetched_epoch;
        }
        match topics.last_mut() {
            Some(last) if last.topic.as_str() == &*part.partition.topic => last.partitions.push(partition),
            _ => topics.push(
                FetchTopic::default()
                    .with_topic(name(&part.partition.topic))
                    .with_topic_id(part.topic_id.unwrap_or_default())
                    .with_partitions(vec![partition]),
            ),
        }
    }
    let mut request = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(i32::try_from(options.max_wait.as_millis()).unwrap_or(i32::MAX))
        .with_min_bytes(options.min_bytes)
        .with_max_bytes(clamp(plan.max_bytes))
        .with_isolation_level(options.isolation.code())
        .with_topics(topics);
    if has_sessions {
        request.session_id = plan.session.id;
        request.session_epoch = plan.session.epoch;
        request.forgotten_topics_data = forgotten(plan);
    }
    if version >= RACK_VERSION
        && let Some(rack) = &options.rack
    {
        request.rack_id = StrBytes::from_string(rack.clone());
    }
    request
}

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

fn forgotten(plan: &FetchPlan) -> Vec<ForgottenTopic> {
    let mut topics: Vec<ForgottenTopic> = Vec::new();
    for (partition, id) in &plan.session.forgotten {
        let id = id.unwrap_or_default();
        match topics.last_mut() {
            Some(last) if last.topic_id == id && last.topic.as_str() == &*partition.topic => {
                last.partitions.push(partition.partition);
            }
            _ => topics.push(
                ForgottenTopic::default()
                    .with_topic(name(&partition.topic))
                    .with_topic_id(id)
                    .with_partitions(vec![partition.partition]),
            ),
        }
    }
    topics
}

/// Ends a session, so that the broker need not remember it until it is evicted.
pub(crate) fn close_session(id: i32) -> FetchRequest {
    FetchRequest::default().with_replica_id(BrokerId(-1)).with_session_id(id).with_session_epoch(FINAL_EPOCH)
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
pub(crate) fn answers(plan: &FetchPlan, response: FetchResponse) -> (Vec<PartitionAnswer>, Vec<LeaderHint>) {
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
                last_stable_offset: data.last_stable_offset,
                log_start_offset: data.log_start_offset,
                diverging: (data.diverging_epoch.end_offset >= 0)
                    .then_some((data.diverging_epoch.epoch, data.diverging_epoch.end_offset)),
                preferred_replica: Some(data.preferred_read_replica.0).filter(|replica| *replica >= 0),
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
    (answers, hints)
}

impl IsolationLevel {
    pub(crate) fn code(self) -> i8 {
        match self {
            Self::ReadUncommitted => 0,
            Self::ReadCommitted => 1,
        }
    }
}
