//! DeleteRecords: moves the start of logs forward.

use std::sync::Arc;

use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_wire::messages::{DeleteRecordsRequest, DeleteRecordsResponse};

use super::off_thread;
use crate::dispatch::RequestContext;
use crate::state::BrokerState;

/// What Kafka answers as the low watermark of a partition that did not change.
const INVALID_LOW_WATERMARK: i64 = -1;

/// Files of whole segments go at once. Dropping the future does not stop the work.
pub(crate) async fn delete_records(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: DeleteRecordsRequest,
    _version: i16,
) -> DeleteRecordsResponse {
    off_thread(state, move |state| {
        let topics = request.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                let deleted = delete(state, &topic.name, partition.partition_index, partition.offset);
                let (low_watermark, code) = match deleted {
                    Ok(low_watermark) => (low_watermark, ErrorCode::None),
                    Err(code) => (INVALID_LOW_WATERMARK, code),
                };
                DeleteRecordsPartitionResult::default()
                    .with_partition_index(partition.partition_index)
                    .with_low_watermark(low_watermark)
                    .with_error_code(code.code())
            });
            let partitions = partitions.collect();
            DeleteRecordsTopicResult::default().with_name(topic.name).with_partitions(partitions)
        });
        DeleteRecordsResponse::default().with_topics(topics.collect())
    })
    .await
}

fn delete(state: &BrokerState, topic: &str, index: i32, offset: i64) -> Result<i64, ErrorCode> {
    let hosted = state.topics.by_name(topic).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    // `ReplicaManager.deleteRecordsOnLocalLog`: what coordinators wrote is theirs.
    if hosted.is_internal() {
        return Err(ErrorCode::InvalidTopicException);
    }
    let partition = hosted.partition(index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let low_watermark = partition.delete_records(offset)?;
    state.logs.keep_log_start(topic, index, low_watermark).map_err(|error| {
        tracing::error!(partition = partition.name(), %error, "the log's start is not kept");
        ErrorCode::KafkaStorageError
    })?;
    Ok(low_watermark)
}
