use std::sync::Arc;
use std::time::Duration;

use kafka_client::{Client, TopicPartition};
use kafka_wire::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use kafka_wire::messages::{ProducerId, WriteTxnMarkersRequest, WriteTxnMarkersResponse};

use super::ActiveProducer;
use crate::driver::{Answers, Effect, Refusal, drive};
use crate::leaders::{ask_leaders, by_topic};
use crate::operation::operation;
use crate::{AdminError, Resource};

/// One partition's part of a transaction, to be aborted there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionToAbort {
    /// The partition.
    pub partition: TopicPartition,
    /// The producer's id.
    pub producer_id: i64,
    /// The producer's epoch; another one is refused (`INVALID_PRODUCER_EPOCH`).
    pub producer_epoch: i16,
    /// An epoch of the transaction's coordinator; one below the last that the partition saw is refused
    /// (`TRANSACTION_COORDINATOR_FENCED`).
    pub coordinator_epoch: i32,
}

impl TransactionToAbort {
    /// A producer's transaction in a partition, whose coordinator has not ended any there yet (epoch 0).
    pub fn new(partition: TopicPartition, producer_id: i64, producer_epoch: i16) -> Self {
        Self { partition, producer_id, producer_epoch, coordinator_epoch: 0 }
    }

    /// The epoch of the coordinator that is spoken for.
    pub fn coordinator_epoch(mut self, epoch: i32) -> Self {
        self.coordinator_epoch = epoch;
        self
    }

    /// The open transaction of a producer as [`describe_producers`](crate::Admin::describe_producers) shows it; `None` if
    /// it has none open.
    pub fn of(partition: TopicPartition, producer: &ActiveProducer) -> Option<Self> {
        producer.transaction_start_offset?;
        let epoch = i16::try_from(producer.producer_epoch).ok()?;
        // 0 is at most any coordinator's epoch.
        let coordinator_epoch = producer.coordinator_epoch.unwrap_or(0);
        Some(Self::new(partition, producer.producer_id, epoch).coordinator_epoch(coordinator_epoch))
    }
}

/// See [`Admin::abort_transaction`](crate::Admin::abort_transaction).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct AbortTransaction {
    client: Client,
    timeout: Duration,
    transaction: TransactionToAbort,
}

operation!(AbortTransaction => ());

impl AbortTransaction {
    pub(crate) fn new(client: Client, timeout: Duration, transaction: TransactionToAbort) -> Self {
        Self { client, timeout, transaction }
    }

    async fn run(self) -> Result<(), AdminError> {
        let transaction = &self.transaction;
        let partition = transaction.partition.clone();
        // A second marker could end the producer's next transaction, which has the same epoch in version 1: never repeated.
        let results =
            drive(&self.client, [partition.clone()], Effect::Write, self.timeout, |open, remaining| {
                let wanted = open.into_iter().map(|partition| (partition, ())).collect();
                ask_leaders(
                    self.client.clone(),
                    wanted,
                    remaining,
                    |wanted| request(wanted, transaction),
                    |_, error| !error.possibly_written(),
                    written,
                )
            });
        match results.await?.into_iter().next() {
            Some((_, result)) => result,
            None => Err(AdminError::Missing { resource: Resource::Partition(partition) }),
        }
    }
}

fn request(wanted: &[(TopicPartition, ())], transaction: &TransactionToAbort) -> WriteTxnMarkersRequest {
    let topics = by_topic(wanted.iter().map(|(partition, ())| (partition, partition.partition))).map(
        |(name, indexes)| WritableTxnMarkerTopic::default().with_name(name).with_partition_indexes(indexes),
    );
    let marker = WritableTxnMarker::default()
        .with_producer_id(ProducerId(transaction.producer_id))
        .with_producer_epoch(transaction.producer_epoch)
        .with_coordinator_epoch(transaction.coordinator_epoch)
        .with_transaction_result(false)
        .with_topics(topics.collect());
    WriteTxnMarkersRequest::default().with_markers(vec![marker])
}

fn written(answer: WriteTxnMarkersResponse) -> Answers<TopicPartition, ()> {
    let topics = answer.markers.into_iter().flat_map(|marker| marker.topics);
    let partitions = topics.flat_map(|topic| {
        let name: Arc<str> = Arc::from(topic.name.as_str());
        topic.partitions.into_iter().map(move |partition| {
            let key = TopicPartition::new(name.clone(), partition.partition_index);
            (key, Refusal::check(partition.error_code, None))
        })
    });
    partitions.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_producer_is_aborted_as_it_was_described_and_only_with_a_transaction_open() {
        let partition = TopicPartition::new("t", 3);
        let mut producer = ActiveProducer {
            producer_id: 7,
            producer_epoch: 2,
            last_sequence: 0,
            last_timestamp_ms: 0,
            coordinator_epoch: None,
            transaction_start_offset: None,
        };
        assert_eq!(TransactionToAbort::of(partition.clone(), &producer), None);
        producer.transaction_start_offset = Some(12);
        let transaction = TransactionToAbort::of(partition.clone(), &producer).unwrap();
        assert_eq!(transaction, TransactionToAbort::new(partition.clone(), 7, 2));
        let marker = &request(&[(partition, ())], &transaction).markers[0];
        assert_eq!((marker.producer_epoch, marker.coordinator_epoch), (2, 0));
        assert!(!marker.transaction_result);
        assert_eq!(marker.topics[0].partition_indexes, [3]);
    }
}
