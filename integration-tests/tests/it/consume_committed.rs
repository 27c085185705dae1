//! Reading committed transactions only. The transactions are written request by request.

use std::time::Duration;

use integration_tests::{Cluster, PATIENCE, TestResult, eventually, unique};
use kafka_client::consumer::{Consumer, IsolationLevel, OffsetReset};
use kafka_client::wire::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_client::wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_client::wire::messages::{
    AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest, ProduceRequest, ProducerId, TopicName,
    TransactionalId,
};
use kafka_client::wire::record_batch::{BatchBuilder, Seal};
use kafka_client::wire::{ErrorCode, StrBytes};
use kafka_client::{Client, Target, TopicPartition};
use tokio::time::timeout;

/// A transactional producer, by hand.
struct Transactions {
    client: Client,
    topic: String,
    id: String,
    producer: (ProducerId, i16),
    sequence: i32,
}

fn check(code: i16) -> TestResult {
    ErrorCode::from(code).into_result().map_err(|code| code.to_string().into())
}

impl Transactions {
    async fn open(client: &Client, topic: &str) -> TestResult<Self> {
        let id = unique("txn");
        let init = InitProducerIdRequest::default()
            .with_transactional_id(Some(TransactionalId(StrBytes::from_string(id.clone()))))
            .with_transaction_timeout_ms(60_000);
        let mut producer = (ProducerId(-1), -1);
        eventually("the coordinator is there", async || {
            let target = Target::TransactionCoordinator(id.clone());
            let answer = client.request(init.clone()).to(target).max_version(4).await?;
            producer = (answer.producer_id, answer.producer_epoch);
            Ok(answer.error_code == 0)
        })
        .await?;
        Ok(Self { client: client.clone(), topic: topic.to_owned(), id, producer, sequence: 0 })
    }

    fn coordinator(&self) -> Target {
        Target::TransactionCoordinator(self.id.clone())
    }

    fn transactional_id(&self) -> TransactionalId {
        TransactionalId(StrBytes::from_string(self.id.clone()))
    }

    fn topic_name(&self) -> TopicName {
        TopicName(StrBytes::from_string(self.topic.clone()))
    }

    async fn write(&mut self, values: &[&str]) -> TestResult {
        let topic = AddPartitionsToTxnTopic::default().with_name(self.topic_name()).with_partitions(vec![0]);
        let add = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(self.transactional_id())
            .with_v3_and_below_producer_id(self.producer.0)
            .with_v3_and_below_producer_epoch(self.producer.1)
            .with_v3_and_below_topics(vec![topic]);
        eventually("the last transaction is over", async || {
            let answer = self.client.request(add.clone()).to(self.coordinator()).max_version(3).await?;
            let of_partition = &answer.results_by_topic_v3_and_below[0].results_by_partition[0];
            Ok(of_partition.partition_error_code == 0)
        })
        .await?;
        let mut builder = BatchBuilder::new(1024);
        for value in values {
            builder.append(1_750_000_000_000, None, Some(value.as_bytes()), &[]);
        }
        let mut seal = Seal::idempotent(self.producer.0.0, self.producer.1, self.sequence);
        seal.transactional = true;
        self.sequence += i32::try_from(values.len())?;
        let data = PartitionProduceData::default().with_records(Some(builder.finish(&seal)?));
        let topic = TopicProduceData::default().with_name(self.topic_name()).with_partition_data(vec![data]);
        let produce = ProduceRequest::default()
            .with_transactional_id(Some(self.transactional_id()))
            .with_acks(-1)
            .with_timeout_ms(10_000)
            .with_topic_data(vec![topic]);
        let cluster = self.client.refresh_topics([&self.topic]).await?;
        let leader = cluster.leader(&self.topic, 0).ok_or("no leader")?.id;
        let answer = self.client.request(produce).to(Target::Broker(leader)).max_version(11).await?;
        check(answer.responses[0].partition_responses[0].error_code)
    }

    async fn end(&self, commit: bool) -> TestResult {
        let end = EndTxnRequest::default()
            .with_transactional_id(self.transactional_id())
            .with_producer_id(self.producer.0)
            .with_producer_epoch(self.producer.1)
            .with_committed(commit);
        check(self.client.request(end).to(self.coordinator()).max_version(3).await?.error_code)
    }
}

async fn values(consumer: &Consumer, count: usize) -> TestResult<Vec<String>> {
    let mut values = Vec::new();
    while values.len() < count {
        let record = timeout(PATIENCE, consumer.next()).await??.ok_or("the consumer ended")?;
        values.push(String::from_utf8(record.value.as_deref().unwrap_or_default().to_vec())?);
    }
    Ok(values)
}

#[tokio::test]
async fn aborted_records_and_markers_never_surface_and_open_transactions_hold_readers_back() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("committed", 1).await?;
    let at = TopicPartition::new(topic.as_str(), 0);
    let (mut first, mut second) =
        (Transactions::open(&client, &topic).await?, Transactions::open(&client, &topic).await?);
    first.write(&["a1", "a2"]).await?; // 0, 1: aborted
    second.write(&["b1"]).await?; // 2: committed
    first.write(&["a3"]).await?; // 3: aborted
    first.end(false).await?; // a marker at 4
    second.end(true).await?; // a marker at 5

    let reader = |isolation| {
        let builder = client.consumer().assign([at.clone()]).auto_offset_reset(OffsetReset::Earliest);
        builder.isolation_level(isolation).build()
    };
    let committed = reader(IsolationLevel::ReadCommitted)?;
    let everything = reader(IsolationLevel::ReadUncommitted)?;
    // An end is answered once it is decided; the markers follow.
    eventually("both markers are there", async || Ok(everything.end_offsets([&at]).await?[&at] == 6)).await?;
    first.write(&["c1", "c2"]).await?; // 6, 7: open
    assert_eq!(values(&everything, 6).await?, ["a1", "a2", "b1", "a3", "c1", "c2"]);
    assert_eq!(values(&committed, 1).await?, ["b1"]);
    assert!(timeout(Duration::from_secs(1), committed.next()).await.is_err(), "what is open is not read");
    eventually("the position is behind the markers", async || Ok(committed.position(&at).await? == 6))
        .await?;
    assert_eq!((committed.lag(&at), committed.high_watermark(&at)), (Some(0), Some(8)));
    assert_eq!(committed.end_offsets([&at]).await?[&at], 6);
    assert_eq!(everything.end_offsets([&at]).await?[&at], 8);
    first.end(true).await?;
    assert_eq!(values(&committed, 2).await?, ["c1", "c2"]);
    assert!(timeout(Duration::from_millis(300), committed.next()).await.is_err());
    eventually("the position is behind the last marker", async || Ok(committed.position(&at).await? == 9))
        .await?;
    cluster.shutdown().await;
    Ok(())
}
