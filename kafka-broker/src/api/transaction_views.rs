//! DescribeProducers, DescribeTransactions, ListTransactions: how transactions are looked at (KIP-664, KIP-994, KIP-1152).

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_wire::StrBytes;
use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::describe_producers_response::{PartitionResponse, ProducerState, TopicResponse};
use kafka_wire::messages::describe_transactions_response::{TopicData, TransactionState};
use kafka_wire::messages::list_transactions_response::TransactionState as Listed;
use kafka_wire::messages::*;
use regex::Regex;

use super::text;
use crate::dispatch::RequestContext;
use crate::log::ActiveProducer;
use crate::state::BrokerState;
use crate::transactions::{State, Transaction};

pub(crate) async fn describe_producers(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: DescribeProducersRequest,
    _version: i16,
) -> DescribeProducersResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partition_indexes.iter().map(|&index| {
            let partition = state.topics.partition(&topic.name, index);
            let active = partition
                .ok_or(ErrorCode::UnknownTopicOrPartition)
                .and_then(|partition| partition.lock().map(|log| log.active_producers()));
            let answer = PartitionResponse::default().with_partition_index(index);
            match active {
                Ok(active) => answer.with_active_producers(active.iter().map(producer).collect()),
                Err(code) => answer.with_error_code(code.code()).with_error_message(Some(text(code.name()))),
            }
        });
        TopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
    });
    DescribeProducersResponse::default().with_topics(topics.collect())
}

fn producer(active: &ActiveProducer) -> ProducerState {
    ProducerState::default()
        .with_producer_id(ProducerId(active.producer_id))
        .with_producer_epoch(active.epoch.into())
        .with_last_sequence(active.last_sequence)
        .with_last_timestamp(active.last_timestamp)
        .with_coordinator_epoch(active.coordinator_epoch)
        .with_current_txn_start_offset(active.txn_first_offset.unwrap_or(-1))
}

pub(crate) async fn describe_transactions(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: DescribeTransactionsRequest,
    _version: i16,
) -> DescribeTransactionsResponse {
    let described = request.transactional_ids.iter().map(|id| {
        let answer = TransactionState::default().with_transactional_id(id.clone());
        if id.is_empty() {
            return answer.with_error_code(ErrorCode::InvalidRequest.code());
        }
        match state.transactions.read(state, id, |coordinator| coordinator.get(id).cloned()) {
            Ok(Some(transaction)) => describe(answer, &transaction),
            Ok(None) => answer.with_error_code(ErrorCode::TransactionalIdNotFound.code()),
            Err(code) => answer.with_error_code(code.code()),
        }
    });
    DescribeTransactionsResponse::default().with_transaction_states(described.collect())
}

fn describe(answer: TransactionState, transaction: &Transaction) -> TransactionState {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in &transaction.partitions {
        topics.entry(topic).or_default().push(*partition);
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        TopicData::default().with_topic(TopicName(text(topic))).with_partitions(partitions)
    });
    answer
        .with_transaction_state(StrBytes::from_static_str(transaction.state.name()))
        .with_transaction_timeout_ms(transaction.timeout_ms)
        .with_transaction_start_time_ms(transaction.started_ms)
        .with_producer_id(ProducerId(transaction.producer_id))
        .with_producer_epoch(transaction.epoch)
        .with_topics(topics.collect())
}

pub(crate) async fn list_transactions(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: ListTransactionsRequest,
    _version: i16,
) -> ListTransactionsResponse {
    let pattern = match request.transactional_id_pattern.as_deref().filter(|pattern| !pattern.is_empty()) {
        // The whole id has to match.
        Some(pattern) => match Regex::new(&format!("^(?:{pattern})$")) {
            Ok(pattern) => Some(pattern),
            Err(_) => {
                let code = ErrorCode::InvalidRegularExpression.code();
                return ListTransactionsResponse::default().with_error_code(code);
            }
        },
        None => None,
    };
    let is_known = |name: &&StrBytes| State::ALL.iter().any(|state| state.name() == name.as_str());
    let (known, unknown): (Vec<&StrBytes>, Vec<&StrBytes>) = request.state_filters.iter().partition(is_known);
    let now_ms = state.clock.now_ms();
    let is_wanted = |id: &str, transaction: &Transaction| {
        let in_state = request.state_filters.is_empty()
            || known.iter().any(|name| name.as_str() == transaction.state.name());
        let of_producer = request.producer_id_filters.is_empty()
            || request.producer_id_filters.contains(&ProducerId(transaction.producer_id));
        let runs_ms = now_ms.saturating_sub(transaction.started_ms);
        let runs_long =
            request.duration_filter < 0 || (transaction.started_ms >= 0 && runs_ms > request.duration_filter);
        in_state && of_producer && runs_long && pattern.as_ref().is_none_or(|pattern| pattern.is_match(id))
    };
    let listed = state.transactions.read_all(state, |coordinator| {
        let wanted = coordinator.transactions().filter(|(id, transaction)| is_wanted(id, transaction));
        let listed = wanted.map(|(id, transaction)| {
            Listed::default()
                .with_transactional_id(TransactionalId(text(id)))
                .with_producer_id(ProducerId(transaction.producer_id))
                .with_transaction_state(StrBytes::from_static_str(transaction.state.name()))
        });
        listed.collect::<Vec<_>>()
    });
    ListTransactionsResponse::default()
        .with_unknown_state_filters(unknown.into_iter().cloned().collect())
        .with_transaction_states(listed.concat())
}
