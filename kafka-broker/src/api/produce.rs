//! Produce: appends batches to partitions, in the connection's own task, under each partition's lock.

use std::sync::Arc;

use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_wire::messages::{BrokerId, ProduceRequest, ProduceResponse};

use super::text;
use crate::dispatch::Hangup;
use crate::partition::{ProduceError, Written};
use crate::state::BrokerState;
use crate::topics::HostedTopic;

/// Topics are named by id from this version on (KIP-516).
const TOPIC_ID_VERSION: i16 = 13;

/// `None`: the producer wants no answer (`acks=0`).
pub(crate) fn handle(
    state: &Arc<BrokerState>,
    request: ProduceRequest,
    version: i16,
) -> Result<Option<ProduceResponse>, Hangup> {
    let refused = refusal_of_all(&request);
    let acks = request.acks;
    let now_ms = state.clock.now_ms();
    let mut responses = Vec::with_capacity(request.topic_data.len());
    for topic in request.topic_data {
        let hosted = look_up(state, &topic, version);
        let mut partitions = Vec::with_capacity(topic.partition_data.len());
        for data in topic.partition_data {
            let index = data.index;
            let outcome = match (&refused, &hosted) {
                (Some(refused), _) => Err(refused.clone()),
                (None, Err(code)) => Err(ProduceError::from(*code)),
                (None, Ok(hosted)) => append(hosted, data, acks, now_ms),
            };
            if let (0, Err(error)) = (acks, &outcome) {
                let topic = topic.name.to_string();
                return Err(Hangup::UnansweredProduce { topic, partition: index, code: error.code });
            }
            partitions.push(partition_response(state, hosted.as_ref().ok(), index, outcome, version));
        }
        let mut answer = TopicProduceResponse::default().with_partition_responses(partitions);
        if version >= TOPIC_ID_VERSION {
            answer.topic_id = topic.topic_id;
        } else {
            answer.name = topic.name;
        }
        responses.push(answer);
    }
    Ok((acks != 0).then(|| ProduceResponse::default().with_responses(responses)))
}

/// Why nothing of the request can be appended.
fn refusal_of_all(request: &ProduceRequest) -> Option<ProduceError> {
    if !matches!(request.acks, -1..=1) {
        return Some(ErrorCode::InvalidRequiredAcks.into());
    }
    // A transactional write without a transaction coordinator could never be committed.
    request.transactional_id.as_ref().map(|_| ProduceError {
        code: ErrorCode::InvalidTxnState,
        message: Some("transactions are not supported yet".to_owned()),
        record_errors: Vec::new(),
    })
}

fn look_up(
    state: &BrokerState,
    topic: &TopicProduceData,
    version: i16,
) -> Result<Arc<HostedTopic>, ErrorCode> {
    if version >= TOPIC_ID_VERSION {
        state.topics.by_id(topic.topic_id).ok_or(ErrorCode::UnknownTopicId)
    } else {
        state.topics.by_name(&topic.name).ok_or(ErrorCode::UnknownTopicOrPartition)
    }
}

fn append(
    topic: &HostedTopic,
    data: PartitionProduceData,
    acks: i16,
    now_ms: i64,
) -> Result<Written, ProduceError> {
    // Clients may not write to the coordinators' topics (`ReplicaManager.appendRecordsToLeader`).
    if topic.is_internal() {
        return Err(ErrorCode::InvalidTopicException.into());
    }
    let partition = topic.partition(data.index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    if acks == -1 && partition.min_insync_replicas() > 1 {
        return Err(ErrorCode::NotEnoughReplicas.into());
    }
    partition.produce(data.records.unwrap_or_default(), now_ms)
}

fn partition_response(
    state: &BrokerState,
    topic: Option<&Arc<HostedTopic>>,
    index: i32,
    outcome: Result<Written, ProduceError>,
    version: i16,
) -> PartitionProduceResponse {
    let answer = PartitionProduceResponse::default().with_index(index);
    match outcome {
        Ok(written) => {
            let answer = answer
                .with_base_offset(written.base_offset)
                .with_log_append_time_ms(written.log_append_time_ms);
            if version >= 5 { answer.with_log_start_offset(written.log_start_offset) } else { answer }
        }
        Err(error) => {
            let mut answer =
                answer.with_error_code(error.code.code()).with_base_offset(-1).with_log_append_time_ms(-1);
            if version >= 8 {
                answer.error_message = error.message.as_deref().map(text);
                answer.record_errors = error
                    .record_errors
                    .iter()
                    .map(|(index, message)| {
                        BatchIndexAndErrorMessage::default()
                            .with_batch_index(*index)
                            .with_batch_index_error_message(Some(text(message)))
                    })
                    .collect();
            }
            // KIP-951: a producer that came to the wrong place learns the right one at once.
            if version >= 10 && error.code == ErrorCode::NotLeaderOrFollower {
                let epoch = topic.and_then(|topic| topic.partition(index)).map_or(-1, |it| it.leader_epoch());
                answer.current_leader = LeaderIdAndEpoch::default()
                    .with_leader_id(BrokerId(state.node_id))
                    .with_leader_epoch(epoch);
            }
            answer
        }
    }
}
