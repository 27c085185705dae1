//! OffsetForLeaderEpoch (KIP-101, KIP-320): where an epoch ended, so that a reader finds out that it read what was lost.

use std::sync::Arc;

use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use kafka_wire::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use kafka_wire::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

use crate::dispatch::RequestContext;
use crate::partition::Partition;
use crate::state::BrokerState;

pub(crate) async fn offset_for_leader_epoch(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: OffsetForLeaderEpochRequest,
    _version: i16,
) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.iter().map(|topic| {
        let hosted = state.topics.by_name(&topic.topic);
        let partitions = topic.partitions.iter().map(|asked| {
            let found = match hosted.as_ref().and_then(|hosted| hosted.partition(asked.partition)) {
                Some(partition) => end_offset(&partition, asked),
                None => Err(ErrorCode::UnknownTopicOrPartition),
            };
            let answer = EpochEndOffset::default().with_partition(asked.partition);
            match found {
                Ok((epoch, end_offset)) => answer.with_leader_epoch(epoch).with_end_offset(end_offset),
                Err(code) => answer.with_error_code(code.code()).with_leader_epoch(-1).with_end_offset(-1),
            }
        });
        OffsetForLeaderTopicResult::default()
            .with_topic(topic.topic.clone())
            .with_partitions(partitions.collect())
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}

/// -1 for both when the log knows no such epoch.
fn end_offset(partition: &Partition, asked: &OffsetForLeaderPartition) -> Result<(i32, i64), ErrorCode> {
    let log = partition.lock_in_epoch(asked.current_leader_epoch)?;
    Ok(log.end_offset_for_epoch(asked.leader_epoch).unwrap_or((-1, -1)))
}
