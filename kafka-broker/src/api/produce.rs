//! Produce: appends batches to partitions, in the connection's own task, under each partition's lock.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kafka_wire::StrBytes;
use kafka_wire::compression::CompressionType;
use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_wire::messages::{BrokerId, ProduceRequest, ProduceResponse};
use kafka_wire::record_batch::RecordBatch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::transactions::verify;
use super::{endpoints, text};
use crate::dispatch::Hangup;
use crate::partition::{Partition, ProduceError, Uncommitted, Written};
use crate::state::BrokerState;
use crate::topics::HostedTopic;

/// Topics are named by id from this version on (KIP-516).
const TOPIC_ID_VERSION: i16 = 13;
/// Clients know Zstandard from this version on (KIP-110).
const ZSTD_VERSION: i16 = 7;
/// Answers name the leader from this version on (KIP-951).
const HINT_VERSION: i16 = 10;
/// Clients know TRANSACTION_ABORTABLE from this version on (KIP-890).
const ABORTABLE_VERSION: i16 = 11;
/// The first write to a partition adds it to the transaction from this version on (KIP-890).
const IMPLICIT_ADD_VERSION: i16 = 12;

/// `None`: the producer wants no answer (`acks=0`).
///
/// Dropping the future takes nothing back.
pub(crate) async fn handle(
    state: &Arc<BrokerState>,
    request: ProduceRequest,
    version: i16,
) -> Result<Option<ProduceResponse>, Hangup> {
    let refused = refusal_of_all(&request);
    let transactional_id = request.transactional_id.clone();
    let acks = request.acks;
    let now_ms = state.clock.now_ms();
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let mut responses = Vec::with_capacity(request.topic_data.len());
    let mut waiting = Vec::new();
    for topic in request.topic_data {
        let hosted = look_up(state, &topic, version);
        let mut partitions = Vec::with_capacity(topic.partition_data.len());
        for data in topic.partition_data {
            let index = data.index;
            let outcome = match (&refused, &hosted) {
                (Some(refused), _) => Err(refused.clone()),
                (None, Err(code)) => Err(ProduceError::from(*code)),
                (None, Ok(_)) if version < ZSTD_VERSION && is_zstd(&data) => {
                    Err(ErrorCode::UnsupportedCompressionType.into())
                }
                (None, Ok(hosted)) => {
                    match guard(state, transactional_id.as_deref(), hosted, &data, version).await {
                        Ok(guard) => append(state, hosted, data, acks, guard, now_ms),
                        Err(refused) => Err(refused),
                    }
                }
            };
            let outcome = outcome.map(|(written, partition, flushed)| {
                if written.uncommitted.is_some() || flushed.is_some() {
                    let (at, append) = ((responses.len(), partitions.len()), written.uncommitted);
                    waiting.push(Waiting { at, partition, append, flushed });
                }
                written
            });
            if let (0, Err(error)) = (acks, &outcome) {
                let topic = topic.name.to_string();
                return Err(Hangup::UnansweredProduce { topic, partition: index, code: error.code });
            }
            partitions.push(partition_response(hosted.as_ref().ok(), index, outcome, version));
        }
        let mut answer = TopicProduceResponse::default().with_partition_responses(partitions);
        if version >= TOPIC_ID_VERSION {
            answer.topic_id = topic.topic_id;
        } else {
            answer.name = topic.name;
        }
        responses.push(answer);
    }
    if !waiting.is_empty() && acks != 0 {
        await_replicas(waiting, &mut responses, Instant::now() + timeout, version).await;
    }
    Ok((acks != 0).then(|| {
        let mut response = ProduceResponse::default().with_responses(responses);
        if version >= HINT_VERSION {
            response.node_endpoints = node_endpoints(state, &response.responses);
        }
        response
    }))
}

/// An append that `acks=all` or `flush.messages` waits for, and where its answer is.
struct Waiting {
    at: (usize, usize),
    partition: Arc<Partition>,
    append: Option<Uncommitted>,
    flushed: Option<JoinHandle<Result<(), ErrorCode>>>,
}

impl Waiting {
    async fn done(&mut self, deadline: Instant) -> Result<(), ErrorCode> {
        if let Some(flushed) = self.flushed.take() {
            flushed.await.unwrap_or(Err(ErrorCode::KafkaStorageError))?;
        }
        match self.append {
            Some(append) => self.partition.committed(append, deadline).await,
            None => Ok(()),
        }
    }
}

/// Waits until the in-sync replicas have everything (`DelayedProduce`). What is late or lost its leader becomes an error:
/// it may or may not survive.
async fn await_replicas(
    waiting: Vec<Waiting>,
    responses: &mut [TopicProduceResponse],
    deadline: Instant,
    version: i16,
) {
    for mut one in waiting {
        let Err(code) = one.done(deadline).await else { continue };
        let Waiting { at, partition, .. } = one;
        let topic = responses.get_mut(at.0);
        if let Some(answer) = topic.and_then(|topic| topic.partition_responses.get_mut(at.1)) {
            let log_start_offset = answer.log_start_offset;
            *answer = refused(Some(&partition), answer.index, &code.into(), version);
            answer.log_start_offset = log_start_offset;
        }
    }
}

/// Where the leaders are that the answer names (KIP-951).
fn node_endpoints(state: &BrokerState, responses: &[TopicProduceResponse]) -> Vec<NodeEndpoint> {
    let partitions = responses.iter().flat_map(|topic| &topic.partition_responses);
    let leaders: BTreeSet<i32> =
        partitions.map(|it| it.current_leader.leader_id.0).filter(|&leader| leader >= 0).collect();
    if leaders.is_empty() {
        return Vec::new();
    }
    let endpoints = endpoints(state, &leaders).into_iter().map(|(node_id, broker)| {
        NodeEndpoint::default()
            .with_node_id(BrokerId(node_id))
            .with_host(text(&broker.host))
            .with_port(i32::from(broker.port))
            .with_rack(broker.rack.as_deref().map(text))
    });
    endpoints.collect()
}

/// Whether the first batch is compressed with Zstandard; the log looks at the rest.
fn is_zstd(data: &PartitionProduceData) -> bool {
    let header = data.records.clone().and_then(RecordBatch::header_only);
    header.is_some_and(|batch| matches!(batch.compression(), Ok(CompressionType::Zstd)))
}

/// Why nothing of the request can be appended.
fn refusal_of_all(request: &ProduceRequest) -> Option<ProduceError> {
    if !matches!(request.acks, -1..=1) {
        return Some(ErrorCode::InvalidRequiredAcks.into());
    }
    None
}

/// Before the first write of a transaction its coordinator confirms that the partition belongs to it (KIP-890). Returns
/// what the append has to show for that; `None`: it needs nothing.
async fn guard(
    state: &Arc<BrokerState>,
    transactional_id: Option<&StrBytes>,
    topic: &HostedTopic,
    data: &PartitionProduceData,
    version: i16,
) -> Result<Option<u64>, ProduceError> {
    let header = data.records.clone().and_then(RecordBatch::header_only);
    let Some(batch) = header.filter(RecordBatch::is_transactional) else { return Ok(None) };
    let invalid = |message: &str| ProduceError {
        code: ErrorCode::InvalidTxnState,
        message: Some(message.to_owned()),
        record_errors: Vec::new(),
    };
    // Nobody may write in no transaction's name (`KafkaApis.handleProduceRequest`).
    let id = transactional_id.ok_or(ErrorCode::TransactionalIdAuthorizationFailed)?;
    if topic.is_internal() {
        return Err(ErrorCode::InvalidTopicException.into());
    }
    let partition = topic.partition(data.index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let producer = (batch.producer_id(), batch.producer_epoch());
    let adds = version >= IMPLICIT_ADD_VERSION;
    match verify(state, id, producer, &partition, adds).await {
        Ok(guard) => Ok(guard),
        Err(ErrorCode::ProducerFenced) => Err(ErrorCode::InvalidProducerEpoch.into()),
        // Producers of before do not retry these, but this one.
        Err(
            ErrorCode::NotCoordinator
            | ErrorCode::CoordinatorNotAvailable
            | ErrorCode::CoordinatorLoadInProgress,
        ) => Err(ErrorCode::NotEnoughReplicas.into()),
        Err(ErrorCode::ConcurrentTransactions) if !adds => Err(ErrorCode::NotEnoughReplicas.into()),
        Err(ErrorCode::TransactionAbortable) if version < ABORTABLE_VERSION => {
            Err(invalid("the partition was not added to the transaction"))
        }
        Err(code) => Err(code.into()),
    }
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

/// What became of an append, and the sync that its answer waits for.
type Outcome = (Written, Arc<Partition>, Option<JoinHandle<Result<(), ErrorCode>>>);

fn append(
    state: &BrokerState,
    topic: &HostedTopic,
    data: PartitionProduceData,
    acks: i16,
    guard: Option<u64>,
    now_ms: i64,
) -> Result<Outcome, ProduceError> {
    // Clients may not write to the coordinators' topics (`ReplicaManager.appendRecordsToLeader`).
    if topic.is_internal() {
        return Err(ErrorCode::InvalidTopicException.into());
    }
    let partition = topic.partition(data.index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let written = partition.produce(data.records.unwrap_or_default(), acks, guard, now_ms)?;
    // Tasks of their own: a client that goes away must not keep what it wrote from becoming durable and readable.
    let may_block = state.logs.may_block();
    if written.has_closed_segment {
        let partition = Arc::clone(&partition);
        tokio::spawn(async move { partition.flush_closed(may_block).await });
    }
    let flushed = written.unflushed.map(|append| {
        let partition = Arc::clone(&partition);
        tokio::spawn(async move { partition.flushed(append, may_block).await })
    });
    Ok((written, partition, flushed))
}

fn partition_response(
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
            let partition = match error.code {
                ErrorCode::NotLeaderOrFollower => topic.and_then(|topic| topic.partition(index)),
                _ => None,
            };
            refused(partition.as_ref(), index, &error, version)
        }
    }
}

fn refused(
    partition: Option<&Arc<Partition>>,
    index: i32,
    error: &ProduceError,
    version: i16,
) -> PartitionProduceResponse {
    let mut answer = PartitionProduceResponse::default()
        .with_index(index)
        .with_error_code(error.code.code())
        .with_base_offset(-1)
        .with_log_append_time_ms(-1);
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
    if version >= HINT_VERSION
        && error.code == ErrorCode::NotLeaderOrFollower
        && let Some(partition) = partition
    {
        let (leader, leader_epoch) = partition.leader();
        answer.current_leader =
            LeaderIdAndEpoch::default().with_leader_id(BrokerId(leader)).with_leader_epoch(leader_epoch);
    }
    answer
}
