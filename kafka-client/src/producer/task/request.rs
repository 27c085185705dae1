//! The Produce request, and what the cluster says of the partitions in it.

use std::time::Duration;

use bytes::Bytes;
use kafka_wire::StrBytes;
use kafka_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::messages::{ProduceRequest, TopicName};

use super::super::batch::Lane;
use super::super::sender::{Acks, Leader, Part};
use crate::cluster::Cluster;

/// Produce by topic name; from version 13 on it goes by topic id (KIP-516).
const LAST_VERSION_WITH_NAMES: i16 = 12;
const MAX_PRODUCE_VERSION: i16 = 13;

/// What the cluster says of a lane.
pub(super) enum Standing {
    Led(Option<Leader>),
    /// Its topic has another id now.
    Recreated,
}

pub(super) fn standing(cluster: &Cluster, lane: &Lane) -> Standing {
    let Some(topic) = cluster.topic(&lane.name.topic) else {
        return Standing::Led(None);
    };
    if matches!((lane.topic_id, topic.id), (Some(ours), Some(theirs)) if ours != theirs) {
        return Standing::Recreated;
    }
    let leader = topic
        .partition(lane.name.partition)
        .and_then(|partition| Some(Leader { broker: partition.leader?, epoch: partition.leader_epoch }));
    Standing::Led(leader)
}

/// The request, its batches in the order in which it encodes them, and the newest version it can have.
pub(super) fn produce_request(
    mut parts: Vec<Part>,
    acks: Acks,
    timeout: Duration,
) -> (ProduceRequest, Vec<Bytes>, i16) {
    let topic_of = |part: &Part| (part.lane.topic_id, part.lane.name.topic.clone());
    parts.sort_by_cached_key(topic_of);
    let payloads = parts.iter().map(|part| part.bytes.clone()).collect();
    let has_ids = parts.iter().all(|part| part.lane.topic_id.is_some());
    let topics = parts
        .chunk_by(|a, b| (a.lane.topic_id, &a.lane.name.topic) == (b.lane.topic_id, &b.lane.name.topic))
        .map(|group| {
            let first = group.first();
            let name = first.map_or("", |part| &part.lane.name.topic);
            let partitions = group
                .iter()
                .map(|part| {
                    PartitionProduceData::default()
                        .with_index(part.lane.name.partition)
                        .with_records(Some(part.bytes.clone()))
                })
                .collect();
            // Each version takes what it knows of the two.
            TopicProduceData::default()
                .with_name(TopicName(StrBytes::from_string(name.to_owned())))
                .with_topic_id(first.and_then(|part| part.lane.topic_id).unwrap_or_default())
                .with_partition_data(partitions)
        })
        .collect();
    let request = ProduceRequest::default()
        .with_acks(acks.code())
        .with_timeout_ms(i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX))
        .with_topic_data(topics);
    let max_version = if has_ids { MAX_PRODUCE_VERSION } else { LAST_VERSION_WITH_NAMES };
    (request, payloads, max_version)
}
