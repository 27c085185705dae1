//! ListOffsets: a partition's first, last or by-time offset.

use std::collections::HashMap;
use std::sync::Arc;

use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::list_offsets_request::ListOffsetsPartition;
use kafka_wire::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_wire::messages::{ListOffsetsRequest, ListOffsetsResponse};

use super::fetch::READ_COMMITTED;
use crate::dispatch::RequestContext;
use crate::log::FoundOffset;
use crate::partition::Partition;
use crate::state::BrokerState;

/// Timestamps that mean something else (`ListOffsetsRequest`).
mod special {
    pub(super) const LATEST: i64 = -1;
    pub(super) const EARLIEST: i64 = -2;
    pub(super) const MAX_TIMESTAMP: i64 = -3;
    pub(super) const EARLIEST_LOCAL: i64 = -4;
    pub(super) const LATEST_TIERED: i64 = -5;
    pub(super) const EARLIEST_PENDING_UPLOAD: i64 = -6;
}

pub(crate) async fn handle(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: ListOffsetsRequest,
    version: i16,
) -> ListOffsetsResponse {
    let is_committed = request.isolation_level == READ_COMMITTED;
    let topics = request
        .topics
        .iter()
        .map(|topic| {
            let hosted = state.topics.by_name(&topic.name);
            let mut asked_for = HashMap::new();
            topic.partitions.iter().for_each(|it| *asked_for.entry(it.partition_index).or_insert(0) += 1);
            let partitions = topic.partitions.iter().map(|asked| {
                let index = asked.partition_index;
                let partition = hosted.as_ref().and_then(|hosted| hosted.partition(index));
                let found = match partition {
                    // Which of two answers would be meant? (`KafkaApis.handleListOffsetRequest`)
                    _ if asked_for.get(&index) != Some(&1) => Err(ErrorCode::InvalidRequest),
                    Some(partition) => find(&partition, asked, is_committed, version),
                    None => Err(ErrorCode::UnknownTopicOrPartition),
                };
                let answer = ListOffsetsPartitionResponse::default().with_partition_index(index);
                match found {
                    Ok(found) => {
                        let answer = answer.with_offset(found.offset).with_timestamp(found.timestamp);
                        if version >= 4 { answer.with_leader_epoch(found.leader_epoch) } else { answer }
                    }
                    Err(code) => answer.with_error_code(code.code()).with_offset(-1).with_timestamp(-1),
                }
            });
            ListOffsetsTopicResponse::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions.collect())
        })
        .collect();
    ListOffsetsResponse::default().with_topics(topics)
}

fn find(
    partition: &Partition,
    asked: &ListOffsetsPartition,
    is_committed: bool,
    version: i16,
) -> Result<FoundOffset, ErrorCode> {
    let log = partition.lock_in_epoch(asked.current_leader_epoch)?;
    let needs_end = asked.timestamp >= special::LATEST || asked.timestamp == special::MAX_TIMESTAMP;
    if needs_end && !log.is_high_watermark_known() {
        // KIP-207: a new leader does not tell an end that lies before what clients have seen.
        return Err(if version >= 5 { ErrorCode::OffsetNotAvailable } else { ErrorCode::LeaderNotAvailable });
    }
    let at = |offset: i64| FoundOffset { offset, timestamp: -1, leader_epoch: log.epoch_at(offset) };
    let end = log.readable_end(is_committed);
    let none = FoundOffset { offset: -1, timestamp: -1, leader_epoch: -1 };
    Ok(match asked.timestamp {
        special::LATEST => FoundOffset { leader_epoch: log.leader_epoch(), ..at(end) },
        special::EARLIEST => at(log.log_start_offset()),
        special::EARLIEST_LOCAL if version >= 8 => at(log.log_start_offset()),
        special::MAX_TIMESTAMP if version >= 7 => log.max_timestamp(end)?.unwrap_or(none),
        special::LATEST_TIERED if version >= 9 => none,
        special::EARLIEST_PENDING_UPLOAD if version >= 11 => none,
        timestamp if timestamp < 0 => return Err(ErrorCode::UnsupportedVersion),
        timestamp => log.by_timestamp(timestamp, end)?.unwrap_or(none),
    })
}
