//! AddPartitionsToTxn, AddOffsetsToTxn, EndTxn, TxnOffsetCommit, WriteTxnMarkers: what transactional producers and
//! coordinators ask for (KIP-98, KIP-360, KIP-447, KIP-890).

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_wire::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use kafka_wire::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_wire::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_wire::messages::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
};
use kafka_wire::messages::*;

use super::groups::failure;
use super::offsets::take_unknown;
use crate::dispatch::RequestContext;
use crate::groups::service::OFFSETS_TOPIC;
use crate::groups::{Commit, Response, TxnProducer, commit_refusal};
use crate::partition::Partition;
use crate::state::BrokerState;
use crate::transactions::markers::{self, Marker};
use crate::transactions::service::{ask, change};
use crate::transactions::{EPOCH_BUMP_VERSION, End, Identity, Step, TopicPartition};

/// From this version on one request may be of many transactions, and may only ask (KIP-890).
const BATCHED_VERSION: i16 = 4;
/// Clients of before know no PRODUCER_FENCED (KIP-588).
const PRODUCER_FENCED_VERSION: i16 = 2;
/// From this version on EndTxn bumps the epoch.
const END_BUMP_VERSION: i16 = 5;
/// From this version on the first commit of offsets adds their partition to the transaction.
const OFFSETS_ADD_VERSION: i16 = 5;

fn known_to(version: i16, code: ErrorCode) -> ErrorCode {
    match code {
        ErrorCode::ProducerFenced if version < PRODUCER_FENCED_VERSION => ErrorCode::InvalidProducerEpoch,
        code => code,
    }
}

/// Makes sure that a partition is in the producer's transaction before its first write there: asks the coordinator, or
/// for a client that `adds` implicitly has it added (KIP-890). Returns what the append has to show for that; `None`: it
/// needs nothing, the transaction has begun there.
pub(super) async fn verify(
    state: &Arc<BrokerState>,
    id: &str,
    producer: Identity,
    partition: &Partition,
    adds: bool,
) -> Result<Option<u64>, ErrorCode> {
    if partition.guard(producer.0, producer.1)?.is_none() {
        return Ok(None);
    }
    let at: TopicPartition = (partition.topic().to_string(), partition.index());
    let partitions = BTreeSet::from([at.clone()]);
    ask(state, id, |coordinator, now_ms| {
        // From before the coordinator's word on: a marker that comes later makes it worthless.
        let guard = partition.guard(producer.0, producer.1)?;
        if adds {
            let added = coordinator.add(id, producer, &partitions, EPOCH_BUMP_VERSION, now_ms)?;
            return Ok(Step { record: added.record, answer: guard });
        }
        coordinator.verify(id, producer, &at)?;
        Ok(Step { record: None, answer: guard })
    })
    .await
}

pub(crate) async fn add_partitions(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: AddPartitionsToTxnRequest,
    version: i16,
) -> AddPartitionsToTxnResponse {
    if version < BATCHED_VERSION {
        let producer = (request.v3_and_below_producer_id.0, request.v3_and_below_producer_epoch);
        let id = &request.v3_and_below_transactional_id;
        let topics = &request.v3_and_below_topics;
        let results = add_to(state, id, producer, topics, false, version).await;
        return AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(results);
    }
    let mut results = Vec::with_capacity(request.transactions.len());
    for asked in &request.transactions {
        let producer = (asked.producer_id.0, asked.producer_epoch);
        let (id, verify_only) = (&asked.transactional_id, asked.verify_only);
        let topics = add_to(state, id, producer, &asked.topics, verify_only, version).await;
        results.push(
            AddPartitionsToTxnResult::default()
                .with_transactional_id(asked.transactional_id.clone())
                .with_topic_results(topics),
        );
    }
    AddPartitionsToTxnResponse::default().with_results_by_transaction(results)
}

async fn add_to(
    state: &Arc<BrokerState>,
    id: &str,
    producer: Identity,
    topics: &[AddPartitionsToTxnTopic],
    verify_only: bool,
    version: i16,
) -> Vec<AddPartitionsToTxnTopicResult> {
    let all = || {
        topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(move |&partition| (topic.name.to_string(), partition))
        })
    };
    let is_known = |(topic, partition): &TopicPartition| state.topics.partition(topic, *partition).is_some();
    let has_unknown = !all().all(|at| is_known(&at));
    let mut added = Ok(());
    if !verify_only && !has_unknown {
        // Whoever sends more than version 4 adds for a client that speaks transaction version 2.
        let client = if version > BATCHED_VERSION { EPOCH_BUMP_VERSION } else { 0 };
        let partitions: BTreeSet<TopicPartition> = all().collect();
        added = change(state, id, |coordinator, now_ms| {
            coordinator.add(id, producer, &partitions, client, now_ms)
        })
        .await;
    }
    let result = |topic: &AddPartitionsToTxnTopic, index: i32| {
        let at = (topic.name.to_string(), index);
        let outcome = match (is_known(&at), has_unknown) {
            (false, _) => Err(ErrorCode::UnknownTopicOrPartition),
            // All or none are added.
            (true, true) => Err(ErrorCode::OperationNotAttempted),
            (true, false) if verify_only => {
                let verified =
                    state.transactions.read(state, id, |coordinator| coordinator.verify(id, producer, &at));
                verified.and_then(|verified| verified)
            }
            (true, false) => added,
        };
        let code = outcome.err().map_or(0, |code| known_to(version, code).code());
        AddPartitionsToTxnPartitionResult::default()
            .with_partition_index(index)
            .with_partition_error_code(code)
    };
    let results = topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|&index| result(topic, index));
        AddPartitionsToTxnTopicResult::default()
            .with_name(topic.name.clone())
            .with_results_by_partition(partitions.collect())
    });
    results.collect()
}

pub(crate) async fn add_offsets(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: AddOffsetsToTxnRequest,
    version: i16,
) -> AddOffsetsToTxnResponse {
    let added = add_offsets_partition(state, &request).await;
    let code = added.err().map_or(0, |code| known_to(version, code).code());
    AddOffsetsToTxnResponse::default().with_error_code(code)
}

async fn add_offsets_partition(
    state: &Arc<BrokerState>,
    request: &AddOffsetsToTxnRequest,
) -> Result<(), ErrorCode> {
    let id = request.transactional_id.as_str();
    if id.is_empty() {
        return Err(ErrorCode::InvalidRequest);
    }
    state.create_internal_topic(OFFSETS_TOPIC).map_err(|_| ErrorCode::CoordinatorNotAvailable)?;
    let index = state.groups.partition(state, &request.group_id)?.index();
    let partitions = BTreeSet::from([(OFFSETS_TOPIC.to_owned(), index)]);
    let producer = (request.producer_id.0, request.producer_epoch);
    change(state, id, |coordinator, now_ms| coordinator.add(id, producer, &partitions, 0, now_ms)).await
}

/// Dropping the future takes nothing back: what was decided happens.
pub(crate) async fn end(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: EndTxnRequest,
    version: i16,
) -> EndTxnResponse {
    let id = request.transactional_id.as_str();
    let end = End {
        id,
        producer: (request.producer_id.0, request.producer_epoch),
        is_commit: request.committed,
        version: if version >= END_BUMP_VERSION { EPOCH_BUMP_VERSION } else { 0 },
    };
    let new_producer_id = || state.next_producer_id().map_err(|refusal| refusal.code);
    let ended = change(state, id, |coordinator, now_ms| coordinator.end(end, new_producer_id, now_ms)).await;
    let response = EndTxnResponse::default();
    match ended {
        Ok((producer_id, epoch)) if version >= END_BUMP_VERSION => {
            response.with_producer_id(ProducerId(producer_id)).with_producer_epoch(epoch)
        }
        Ok(_) => response,
        Err(code) => response.with_error_code(known_to(version, code).code()),
    }
}

pub(crate) async fn txn_offset_commit(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: TxnOffsetCommitRequest,
    version: i16,
) -> TxnOffsetCommitResponse {
    /// The last version of OffsetCommit that names topics.
    const BY_NAME: i16 = 9;
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(partition.partition_index)
                .with_committed_offset(partition.committed_offset)
                .with_committed_leader_epoch(partition.committed_leader_epoch)
                .with_committed_metadata(partition.committed_metadata.clone())
        });
        OffsetCommitRequestTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    let mut commit = OffsetCommitRequest::default()
        .with_group_id(request.group_id.clone())
        .with_generation_id_or_member_epoch(request.generation_id)
        .with_member_id(request.member_id.clone())
        .with_group_instance_id(request.group_instance_id.clone())
        .with_topics(topics.collect());
    let refused = take_unknown(state, &mut commit, BY_NAME);
    let answer = match guard_offsets(state, &request, version).await {
        Ok(guard) => {
            let producer =
                TxnProducer { producer_id: request.producer_id.0, epoch: request.producer_epoch, guard };
            let call = state.groups.call(state, &request.group_id, |coordinator, call, now| {
                let commit = Commit { call, request: &commit, version: BY_NAME, producer: Some(producer) };
                coordinator.commit(commit, now)
            });
            call.await
        }
        Err(code) => Err(code),
    };
    let mut response = match answer {
        Ok(Response::OffsetCommit(response)) => response,
        Err(code) => commit_refusal(&commit, code),
        other => commit_refusal(&commit, ErrorCode::from(failure(other))),
    };
    for one in refused {
        match one.known_at.and_then(|at| response.topics.get_mut(at)) {
            Some(known) => known.partitions.extend(one.topic.partitions),
            None => response.topics.push(one.topic),
        }
    }
    let topics = response.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|partition| {
            let code = match ErrorCode::from(partition.error_code) {
                // Transactional producers know these by their older names.
                ErrorCode::StaleMemberEpoch | ErrorCode::GroupIdNotFound => ErrorCode::IllegalGeneration,
                code => code,
            };
            TxnOffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(code.code())
        });
        TxnOffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions.collect())
    });
    TxnOffsetCommitResponse::default().with_topics(topics.collect())
}

/// Makes sure that the group's partition is in the transaction. Returns what the append has to show.
async fn guard_offsets(
    state: &Arc<BrokerState>,
    request: &TxnOffsetCommitRequest,
    version: i16,
) -> Result<Option<u64>, ErrorCode> {
    if request.group_id.is_empty() {
        return Err(ErrorCode::InvalidGroupId);
    }
    let partition = state.groups.partition(state, &request.group_id)?;
    let producer = (request.producer_id.0, request.producer_epoch);
    let adds = version >= OFFSETS_ADD_VERSION;
    let verified = verify(state, &request.transactional_id, producer, &partition, adds).await;
    verified.map_err(|code| match code {
        ErrorCode::NotLeaderOrFollower => ErrorCode::NotCoordinator,
        ErrorCode::NotCoordinator => ErrorCode::CoordinatorNotAvailable,
        ErrorCode::ProducerFenced => ErrorCode::InvalidProducerEpoch,
        // Older clients do not retry it here.
        ErrorCode::ConcurrentTransactions if !adds => ErrorCode::CoordinatorLoadInProgress,
        ErrorCode::TransactionAbortable if !adds => ErrorCode::InvalidTxnState,
        code => code,
    })
}

/// What coordinators elsewhere, and who ends hanging transactions (KIP-664), have written.
pub(crate) async fn write_markers(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: WriteTxnMarkersRequest,
    _version: i16,
) -> WriteTxnMarkersResponse {
    let mut results = Vec::with_capacity(request.markers.len());
    for asked in &request.markers {
        let marker = Marker {
            producer_id: asked.producer_id.0,
            epoch: asked.producer_epoch,
            is_commit: asked.transaction_result,
            coordinator_epoch: asked.coordinator_epoch,
            bumps: false,
        };
        let mut topics = Vec::with_capacity(asked.topics.len());
        for topic in &asked.topics {
            let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
            for &index in &topic.partition_indexes {
                let written = markers::write(state, &(topic.name.to_string(), index), marker).await;
                partitions.push(
                    WritableTxnMarkerPartitionResult::default()
                        .with_partition_index(index)
                        .with_error_code(written.err().map_or(0, ErrorCode::code)),
                );
            }
            topics.push(
                WritableTxnMarkerTopicResult::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions),
            );
        }
        results
            .push(WritableTxnMarkerResult::default().with_producer_id(asked.producer_id).with_topics(topics));
    }
    WriteTxnMarkersResponse::default().with_markers(results)
}
