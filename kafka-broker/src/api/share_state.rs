//! InitializeShareGroupState, ReadShareGroupState, WriteShareGroupState, DeleteShareGroupState and
//! ReadShareGroupStateSummary (KIP-932): what brokers ask of a share coordinator.
//!
//! Nodes of this broker ask each other without a request; these are for brokers, and tools, that are elsewhere.

use std::sync::Arc;

use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::*;

use super::text;
use crate::dispatch::RequestContext;
use crate::share::ShareKey;
use crate::share::partition::StateBatch;
use crate::share::state::record::ShareRecord;
use crate::share::state::service::change_here;
use crate::share::state::{ShareCoordinator, Write};
use crate::state::BrokerState;

/// Answers partition by partition, each with its own outcome.
macro_rules! answer {
    ($state:ident, $request:ident, $response:ident, $topic:path, $partition:path, |$key:ident, $asked:ident| $decide:expr) => {{
        let mut results = Vec::with_capacity($request.topics.len());
        for topic in &$request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for $asked in &topic.partitions {
                let $key = ShareKey::new(&$request.group_id, topic.topic_id, $asked.partition);
                let outcome: Result<$partition, ErrorCode> = decide($state, &$key, $decide).await;
                let answer = outcome.unwrap_or_else(|code| {
                    <$partition>::default()
                        .with_error_code(code.code())
                        .with_error_message(Some(text(code.name())))
                });
                partitions.push(answer.with_partition($asked.partition));
            }
            results.push(<$topic>::default().with_topic_id(topic.topic_id).with_partitions(partitions));
        }
        $response::default().with_results(results)
    }};
}

/// Lets the coordinator decide, if it is here, and waits until what it decided is on record.
async fn decide<R>(
    state: &BrokerState,
    key: &ShareKey,
    decide: impl FnOnce(&ShareCoordinator, i64) -> Result<(Option<ShareRecord>, R), ErrorCode>,
) -> Result<R, ErrorCode> {
    if key.group.is_empty() {
        return Err(ErrorCode::InvalidRequest);
    }
    let topic = state.topics.by_id(key.topic_id).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    topic.partition(key.partition).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let (answer, pending) = change_here(state, key, decide)?;
    pending.committed().await?;
    Ok(answer)
}

/// Dropping the future takes nothing back.
pub(crate) async fn initialize(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: InitializeShareGroupStateRequest,
    _version: i16,
) -> InitializeShareGroupStateResponse {
    use initialize_share_group_state_response::{InitializeStateResult, PartitionResult};
    answer!(
        state,
        request,
        InitializeShareGroupStateResponse,
        InitializeStateResult,
        PartitionResult,
        |key, asked| |coordinator: &ShareCoordinator, now_ms| {
            let record = coordinator.initialize(&key, asked.state_epoch, asked.start_offset, now_ms)?;
            Ok((Some(record), PartitionResult::default()))
        }
    )
}

/// Dropping the future takes nothing back.
pub(crate) async fn read(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: ReadShareGroupStateRequest,
    _version: i16,
) -> ReadShareGroupStateResponse {
    use read_share_group_state_response::{PartitionResult, ReadStateResult, StateBatch as Batch};
    answer!(state, request, ReadShareGroupStateResponse, ReadStateResult, PartitionResult, |key, asked| {
        |coordinator: &ShareCoordinator, _| {
            let (record, recorded) = coordinator.read(&key, asked.leader_epoch)?;
            let batches = recorded.batches().into_iter().map(|batch| {
                Batch::default()
                    .with_first_offset(batch.first)
                    .with_last_offset(batch.last)
                    .with_delivery_state(batch.state)
                    .with_delivery_count(batch.delivery_count)
            });
            let answer = PartitionResult::default()
                .with_state_epoch(recorded.state_epoch)
                .with_start_offset(recorded.start_offset)
                .with_state_batches(batches.collect());
            Ok((record, answer))
        }
    })
}

/// Dropping the future takes nothing back.
pub(crate) async fn write(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: WriteShareGroupStateRequest,
    _version: i16,
) -> WriteShareGroupStateResponse {
    use write_share_group_state_response::{PartitionResult, WriteStateResult};
    answer!(state, request, WriteShareGroupStateResponse, WriteStateResult, PartitionResult, |key, asked| {
        |coordinator: &ShareCoordinator, now_ms| {
            let batches = asked.state_batches.iter().map(|batch| StateBatch {
                first: batch.first_offset,
                last: batch.last_offset,
                state: batch.delivery_state,
                delivery_count: batch.delivery_count,
            });
            let batches: Vec<_> = batches.collect();
            let makes_sense = |batch: &StateBatch| {
                0 <= batch.first && batch.first <= batch.last && matches!(batch.state, 0 | 2 | 4)
            };
            if !batches.iter().all(makes_sense) {
                return Err(ErrorCode::InvalidRequest);
            }
            let write = Write {
                state_epoch: asked.state_epoch,
                leader_epoch: asked.leader_epoch,
                start_offset: asked.start_offset,
                delivery_complete_count: asked.delivery_complete_count,
                batches,
            };
            Ok((Some(coordinator.write(&key, &write, now_ms)?), PartitionResult::default()))
        }
    })
}

/// Dropping the future takes nothing back.
pub(crate) async fn delete(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: DeleteShareGroupStateRequest,
    _version: i16,
) -> DeleteShareGroupStateResponse {
    use delete_share_group_state_response::{DeleteStateResult, PartitionResult};
    answer!(
        state,
        request,
        DeleteShareGroupStateResponse,
        DeleteStateResult,
        PartitionResult,
        |key, asked| |coordinator: &ShareCoordinator, _| {
            Ok((coordinator.delete(&key), PartitionResult::default()))
        }
    )
}

pub(crate) async fn summary(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: ReadShareGroupStateSummaryRequest,
    _version: i16,
) -> ReadShareGroupStateSummaryResponse {
    use read_share_group_state_summary_response::{PartitionResult, ReadStateSummaryResult};
    answer!(
        state,
        request,
        ReadShareGroupStateSummaryResponse,
        ReadStateSummaryResult,
        PartitionResult,
        |key, asked| |coordinator: &ShareCoordinator, _| {
            let answer = PartitionResult::default();
            let answer = match coordinator.get(&key) {
                Some(recorded) => answer
                    .with_state_epoch(recorded.state_epoch)
                    .with_leader_epoch(recorded.leader_epoch)
                    .with_start_offset(recorded.start_offset)
                    .with_delivery_complete_count(recorded.delivery_complete_count),
                // Nothing is known of it, which is no error.
                None => answer.with_start_offset(-1).with_delivery_complete_count(-1),
            };
            Ok((None, answer))
        }
    )
}
