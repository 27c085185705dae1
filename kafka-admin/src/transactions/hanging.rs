use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use kafka_client::{Client, TopicPartition};
use kafka_wire::ErrorCode;
use tokio::time::Instant;

use super::{
    ActiveProducer, DescribeProducers, DescribeTransactions, ListTransactions, TransactionDescription,
};
use crate::operation::operation;
use crate::{AdminError, ItemResults};

/// The highest `transaction.max.timeout.ms` of a cluster that leaves it at its default: a coordinator ends what is open for
/// longer.
const DEFAULT_OLDER_THAN: Duration = Duration::from_secs(15 * 60);

/// A transaction that is open in a partition and that no coordinator will end: readers of committed records wait in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HangingTransaction {
    /// The partition.
    pub partition: TopicPartition,
    /// The producer, as the partition remembers it.
    pub producer: ActiveProducer,
}

/// See [`Admin::find_hanging_transactions`](crate::Admin::find_hanging_transactions).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct FindHangingTransactions {
    client: Client,
    timeout: Duration,
    partitions: Vec<TopicPartition>,
    broker: Option<i32>,
    older_than: Duration,
}

operation!(FindHangingTransactions => ItemResults<TopicPartition, Vec<HangingTransaction>>);

impl FindHangingTransactions {
    pub(crate) fn new(client: Client, timeout: Duration, partitions: Vec<TopicPartition>) -> Self {
        Self { client, timeout, partitions, broker: None, older_than: DEFAULT_OLDER_THAN }
    }

    /// What this broker's replicas know. Default: each partition's leader is asked.
    pub fn on_broker(mut self, id: i32) -> Self {
        self.broker = Some(id);
        self
    }

    /// Only transactions whose producer has not written to the partition for so long. It should be at least the cluster's
    /// `transaction.max.timeout.ms`. Default 15 minutes.
    pub fn older_than(mut self, age: Duration) -> Self {
        self.older_than = age;
        self
    }

    /// In each partition, sorted by producer id.
    async fn run(self) -> Result<ItemResults<TopicPartition, Vec<HangingTransaction>>, AdminError> {
        let deadline = Instant::now() + self.timeout;
        let remaining = || deadline.saturating_duration_since(Instant::now());
        let described = self.producers(self.partitions.clone(), remaining()).await?;
        let before_ms = millis_ago(self.older_than);
        let suspects: Vec<HangingTransaction> = described
            .iter()
            .filter_map(|(partition, producers)| Some((partition, producers.as_ref().ok()?)))
            .flat_map(|(partition, producers)| suspects(partition, producers, before_ms))
            .collect();
        let hanging = match suspects.is_empty() {
            true => suspects,
            false => {
                let known = self.coordinators_knowledge(&suspects, remaining).await?;
                let unknown: Vec<_> = suspects.into_iter().filter(|it| is_hanging(it, &known)).collect();
                // One that ended after its partition was asked is not known to its coordinator either.
                let partitions: BTreeSet<_> = unknown.iter().map(|it| it.partition.clone()).collect();
                let still = self.producers(partitions.into_iter().collect(), remaining()).await?;
                unknown.into_iter().filter(|it| is_still_open(it, &still)).collect()
            }
        };
        let results = described.into_iter().map(|(partition, producers)| {
            let here = producers
                .map(|_| hanging.iter().filter(|it| it.partition == partition).cloned().collect::<Vec<_>>());
            (partition, here)
        });
        Ok(ItemResults::new(results.collect()))
    }

    async fn producers(
        &self,
        partitions: Vec<TopicPartition>,
        timeout: Duration,
    ) -> Result<ItemResults<TopicPartition, Vec<ActiveProducer>>, AdminError> {
        let operation = DescribeProducers::new(self.client.clone(), timeout, partitions);
        match self.broker {
            Some(id) => operation.on_broker(id).await,
            None => operation.await,
        }
    }

    /// What coordinators say of the producers' transactions, by producer id.
    async fn coordinators_knowledge(
        &self,
        suspects: &[HangingTransaction],
        remaining: impl Fn() -> Duration,
    ) -> Result<HashMap<i64, TransactionDescription>, AdminError> {
        let producer_ids: BTreeSet<i64> = suspects.iter().map(|it| it.producer.producer_id).collect();
        let listed = ListTransactions::new(self.client.clone(), remaining()).of_producers(producer_ids);
        let ids: Vec<String> = listed.await?.into_iter().map(|listing| listing.transactional_id).collect();
        let mut known = HashMap::new();
        for (_, description) in DescribeTransactions::new(self.client.clone(), remaining(), ids).await? {
            match description {
                Ok(description) => drop(known.insert(description.producer_id, description)),
                // It was forgotten since it was listed.
                Err(error) if error.code() == Some(ErrorCode::TransactionalIdNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(known)
    }
}

fn millis_ago(age: Duration) -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let then = now.saturating_sub(age).as_millis();
    i64::try_from(then).unwrap_or(i64::MAX)
}

fn suspects<'a>(
    partition: &'a TopicPartition,
    producers: &'a [ActiveProducer],
    before_ms: i64,
) -> impl Iterator<Item = HangingTransaction> + 'a {
    let open = producers
        .iter()
        .filter(move |it| it.transaction_start_offset.is_some() && it.last_timestamp_ms <= before_ms);
    open.map(|producer| HangingTransaction { partition: partition.clone(), producer: producer.clone() })
}

/// Whether no coordinator has the partition in a transaction of the producer.
fn is_hanging(suspect: &HangingTransaction, known: &HashMap<i64, TransactionDescription>) -> bool {
    known
        .get(&suspect.producer.producer_id)
        .is_none_or(|description| !description.partitions.contains(&suspect.partition))
}

fn is_still_open(
    suspect: &HangingTransaction,
    now: &ItemResults<TopicPartition, Vec<ActiveProducer>>,
) -> bool {
    let Some(Ok(producers)) = now.get(&suspect.partition) else { return true };
    let (id, start) = (suspect.producer.producer_id, suspect.producer.transaction_start_offset);
    producers.iter().any(|it| it.producer_id == id && it.transaction_start_offset == start)
}

#[cfg(test)]
mod tests {
    use super::super::TransactionState;
    use super::*;

    fn producer(producer_id: i64, start: Option<i64>, last_timestamp_ms: i64) -> ActiveProducer {
        ActiveProducer {
            producer_id,
            producer_epoch: 0,
            last_sequence: 0,
            last_timestamp_ms,
            coordinator_epoch: None,
            transaction_start_offset: start,
        }
    }

    #[test]
    fn an_old_open_transaction_is_suspected_and_a_coordinator_that_knows_it_clears_it() {
        let at = TopicPartition::new("t", 0);
        let producers = [
            producer(1, Some(5), 10),
            producer(2, None, 10),
            producer(3, Some(6), 99),
            producer(4, Some(7), 50),
        ];
        let suspects: Vec<_> = suspects(&at, &producers, 50).collect();
        let ids: Vec<_> = suspects.iter().map(|it| it.producer.producer_id).collect();
        assert_eq!(ids, [1, 4]);
        let description = |partitions| TransactionDescription {
            coordinator: 0,
            state: TransactionState::Ongoing,
            producer_id: 1,
            producer_epoch: 0,
            transaction_timeout: Duration::from_secs(60),
            started: None,
            partitions,
        };
        let known = HashMap::from([(1, description(vec![at.clone()]))]);
        assert_eq!(suspects.iter().map(|it| is_hanging(it, &known)).collect::<Vec<_>>(), [false, true]);
        let elsewhere = HashMap::from([(1, description(vec![TopicPartition::new("t", 1)]))]);
        assert!(is_hanging(&suspects[0], &elsewhere));
    }

    #[test]
    fn what_ended_or_was_begun_anew_meanwhile_does_not_hang() {
        let at = TopicPartition::new("t", 0);
        let suspect = HangingTransaction { partition: at.clone(), producer: producer(1, Some(5), 0) };
        for (now, expected) in [(Some(5), true), (Some(9), false), (None, false)] {
            let now = ItemResults::new(vec![(at.clone(), Ok(vec![producer(1, now, 0)]))]);
            assert_eq!(is_still_open(&suspect, &now), expected);
        }
    }
}
