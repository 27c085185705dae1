use std::time::{Duration, SystemTime};

use kafka_client::{Client, TopicPartition};
use kafka_wire::messages::describe_transactions_response::TransactionState as Described;
use kafka_wire::messages::{DescribeTransactionsRequest, DescribeTransactionsResponse};

use super::{TransactionState, transactional_id};
use crate::coordinator::{Coordinates, ask_each, partitions_of};
use crate::driver::{Effect, Refusal};
use crate::operation::operation;
use crate::{AdminError, ItemResults};

/// What a transactional id's coordinator knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionDescription {
    /// The broker that coordinates it.
    pub coordinator: i32,
    /// Its state.
    pub state: TransactionState,
    /// The producer id that its producer writes with.
    pub producer_id: i64,
    /// The producer's epoch: a smaller one is fenced.
    pub producer_epoch: i16,
    /// How long a transaction may be open before it is aborted (`transaction.timeout.ms`).
    pub transaction_timeout: Duration,
    /// When the open transaction was begun, or the last one if none is open.
    pub started: Option<SystemTime>,
    /// The partitions of the open transaction; of one that is being ended, those that have not been told. In order.
    pub partitions: Vec<TopicPartition>,
}

/// See [`Admin::describe_transactions`](crate::Admin::describe_transactions).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct DescribeTransactions {
    client: Client,
    timeout: Duration,
    ids: Vec<String>,
}

operation!(DescribeTransactions => ItemResults<String, TransactionDescription>);

impl DescribeTransactions {
    pub(crate) fn new(client: Client, timeout: Duration, ids: Vec<String>) -> Self {
        Self { client, timeout, ids }
    }

    async fn run(self) -> Result<ItemResults<String, TransactionDescription>, AdminError> {
        let kind = Coordinates::Transaction;
        ask_each(&self.client, kind, self.ids, Effect::Read, self.timeout, async |coordinator, id| {
            let ids = vec![transactional_id(&id)];
            let request = DescribeTransactionsRequest::default().with_transactional_ids(ids);
            Ok(read(coordinator.node, coordinator.ask(request).await?, &id))
        })
        .await
    }
}

fn read(
    coordinator: i32,
    answer: DescribeTransactionsResponse,
    id: &str,
) -> Result<TransactionDescription, Refusal> {
    let mut states = answer.transaction_states.into_iter();
    let Some(state) = states.find(|state| state.transactional_id.as_str() == id) else {
        return Err(kafka_wire::ErrorCode::UnknownServerError.into());
    };
    Refusal::check(state.error_code, None)?;
    Ok(described(coordinator, &state))
}

fn described(coordinator: i32, state: &Described) -> TransactionDescription {
    let millis = |millis| u64::try_from(millis).ok().map(Duration::from_millis);
    let partitions = state.topics.iter().flat_map(|topic| partitions_of(&topic.topic, &topic.partitions));
    let mut partitions: Vec<_> = partitions.collect();
    partitions.sort();
    TransactionDescription {
        coordinator,
        state: TransactionState::parse(&state.transaction_state),
        producer_id: state.producer_id.0,
        producer_epoch: state.producer_epoch,
        transaction_timeout: millis(i64::from(state.transaction_timeout_ms)).unwrap_or_default(),
        started: millis(state.transaction_start_time_ms)
            .and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since)),
        partitions,
    }
}

#[cfg(test)]
mod tests {
    use kafka_wire::messages::TopicName;
    use kafka_wire::messages::describe_transactions_response::TopicData;
    use kafka_wire::{ErrorCode, StrBytes};

    use super::*;

    fn state(id: &str) -> Described {
        Described::default()
            .with_transactional_id(transactional_id(id))
            .with_transaction_start_time_ms(-1)
            .with_transaction_timeout_ms(60_000)
    }

    #[test]
    fn an_id_that_never_began_a_transaction_began_at_no_time() {
        let answer = DescribeTransactionsResponse::default().with_transaction_states(vec![state("a")]);
        let description = read(3, answer, "a").unwrap();
        assert_eq!((description.coordinator, description.started), (3, None));
        assert_eq!(description.transaction_timeout, Duration::from_secs(60));
    }

    #[test]
    fn partitions_are_in_order_and_an_answer_about_another_id_is_none() {
        let topic = TopicData::default()
            .with_topic(TopicName(StrBytes::from_static_str("t")))
            .with_partitions(vec![2, 0]);
        let open = state("a").with_topics(vec![topic]).with_transaction_start_time_ms(5);
        let answer = DescribeTransactionsResponse::default().with_transaction_states(vec![open]);
        let description = read(0, answer.clone(), "a").unwrap();
        assert_eq!(description.partitions, [TopicPartition::new("t", 0), TopicPartition::new("t", 2)]);
        assert_eq!(description.started, Some(SystemTime::UNIX_EPOCH + Duration::from_millis(5)));
        assert_eq!(read(0, answer, "b"), Err(ErrorCode::UnknownServerError.into()));
    }
}
