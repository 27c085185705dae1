//! DeleteRecords: moves the start of logs forward.

use std::sync::Arc;
use std::time::Duration;

use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_wire::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use tokio::time::Instant;

use super::off_thread;
use crate::dispatch::RequestContext;
use crate::partition::Partition;
use crate::state::BrokerState;

/// What Kafka answers as the low watermark of a partition that did not change.
const INVALID_LOW_WATERMARK: i64 = -1;

/// Files of whole segments go at once, here; the answer waits until the other replicas have done so too, so that no leader to
/// come has the records again (KIP-107). Dropping the future does not stop the work.
pub(crate) async fn delete_records(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: DeleteRecordsRequest,
    _version: i16,
) -> DeleteRecordsResponse {
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let deadline = Instant::now() + timeout;
    let deleted = off_thread(state, move |state| {
        let topics = request.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                let index = partition.partition_index;
                (index, delete(state, &topic.name, index, partition.offset))
            });
            (partitions.collect::<Vec<_>>(), topic.name)
        });
        topics.collect::<Vec<_>>()
    })
    .await;
    let mut topics = Vec::with_capacity(deleted.len());
    for (partitions, name) in deleted {
        let mut results = Vec::with_capacity(partitions.len());
        for (index, deleted) in partitions {
            let deleted = match deleted {
                Ok((partition, start)) => {
                    let is_live = |node_id| state.cluster.read(|image, _| image.is_live(node_id));
                    partition.deleted(start, is_live, deadline).await
                }
                Err(code) => Err(code),
            };
            let (low_watermark, code) = match deleted {
                Ok(low_watermark) => (low_watermark, ErrorCode::None),
                Err(code) => (INVALID_LOW_WATERMARK, code),
            };
            let result = DeleteRecordsPartitionResult::default()
                .with_partition_index(index)
                .with_low_watermark(low_watermark)
                .with_error_code(code.code());
            results.push(result);
        }
        topics.push(DeleteRecordsTopicResult::default().with_name(name).with_partitions(results));
    }
    DeleteRecordsResponse::default().with_topics(topics)
}

/// Deletes on this node, and returns where the log starts now.
fn delete(
    state: &BrokerState,
    topic: &str,
    index: i32,
    offset: i64,
) -> Result<(Arc<Partition>, i64), ErrorCode> {
    let hosted = state.topics.by_name(topic).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    // `ReplicaManager.deleteRecordsOnLocalLog`: what coordinators wrote is theirs.
    if hosted.is_internal() {
        return Err(ErrorCode::InvalidTopicException);
    }
    let partition = hosted.partition(index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let start = partition.delete_records(offset)?;
    state.logs.keep_log_start(topic, index, start).map_err(|error| {
        tracing::error!(partition = partition.name(), %error, "the log's start is not kept");
        ErrorCode::KafkaStorageError
    })?;
    Ok((partition, start))
}
