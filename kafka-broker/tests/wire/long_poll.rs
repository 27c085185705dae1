//! Fetches that wait, on virtual time.

use std::time::Duration;

use kafka_broker::Broker;
use kafka_wire::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::messages::{DeleteTopicsRequest, FetchRequest, MetadataRequest, ProduceRequest};
use tokio::time::Instant;

use crate::connection::{Connection, batch, topic};

const VERSION: i16 = 12;

fn fetch(max_wait_ms: i32, min_bytes: i32) -> FetchRequest {
    let partitions = (0..2).map(|index| {
        FetchPartition::default().with_partition(index).with_fetch_offset(0).with_partition_max_bytes(1 << 20)
    });
    FetchRequest::default()
        .with_max_bytes(1 << 20)
        .with_max_wait_ms(max_wait_ms)
        .with_min_bytes(min_bytes)
        .with_topics(vec![FetchTopic::default().with_topic(topic("t")).with_partitions(partitions.collect())])
}

async fn produce(connection: &mut Connection, partition: i32) {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch(&["value"])));
    let topic = TopicProduceData::default().with_name(topic("t")).with_partition_data(vec![data]);
    let answer =
        connection.call(&ProduceRequest::default().with_acks(-1).with_topic_data(vec![topic]), 9).await;
    assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
}

async fn open() -> (Broker, Connection, Connection) {
    let broker = Broker::builder().start().await.unwrap();
    let mut writer = Connection::open(&broker).await;
    writer.create_topic("t", 2).await;
    let reader = Connection::open(&broker).await;
    (broker, writer, reader)
}

#[tokio::test(start_paused = true)]
async fn an_empty_fetch_is_answered_at_its_deadline() {
    let (_broker, _writer, mut reader) = open().await;
    let start = Instant::now();
    let answer = reader.call(&fetch(700, 1), VERSION).await;
    assert_eq!(start.elapsed().as_millis(), 700);
    assert!(answer.responses[0].partitions.iter().all(|it| it.records.as_ref().unwrap().is_empty()));
    let start = Instant::now();
    reader.call(&fetch(0, 1), VERSION).await;
    reader.call(&fetch(700, 0), VERSION).await;
    assert_eq!(start.elapsed().as_millis(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_append_to_any_of_its_partitions_answers_a_waiting_fetch() {
    let (_broker, mut writer, mut reader) = open().await;
    let start = Instant::now();
    let id = reader.send(&fetch(60_000, 1), VERSION).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    produce(&mut writer, 1).await;
    let answer = reader.receive::<FetchRequest>(VERSION, id).await;
    assert!(!answer.responses[0].partitions[1].records.as_ref().unwrap().is_empty());
    assert_eq!(start.elapsed().as_millis(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_wants_many_bytes_waits_for_all_of_them() {
    let (_broker, mut writer, mut reader) = open().await;
    let one = i32::try_from(batch(&["value"]).len()).unwrap();
    let start = Instant::now();
    let id = reader.send(&fetch(60_000, 3 * one), VERSION).await;
    for partition in [0, 1, 0] {
        tokio::time::sleep(Duration::from_millis(100)).await;
        produce(&mut writer, partition).await;
    }
    reader.receive::<FetchRequest>(VERSION, id).await;
    assert_eq!(start.elapsed().as_millis(), 300);
}

#[tokio::test(start_paused = true)]
async fn deleting_a_topic_answers_the_fetches_that_wait_on_it() {
    let (_broker, mut writer, mut reader) = open().await;
    let id = reader.send(&fetch(60_000, 1), VERSION).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    writer.call(&DeleteTopicsRequest::default().with_topic_names(vec![topic("t")]), 5).await;
    let answer = reader.receive::<FetchRequest>(VERSION, id).await;
    assert_eq!(answer.responses[0].partitions[0].error_code, 3);
}

#[tokio::test(start_paused = true)]
async fn requests_behind_a_waiting_fetch_are_answered_in_order() {
    let (_broker, _writer, mut reader) = open().await;
    let first = reader.send(&fetch(500, 1), VERSION).await;
    let second = reader.send(&MetadataRequest::default().with_topics(None), 9).await;
    reader.receive::<FetchRequest>(VERSION, first).await;
    assert_eq!(reader.receive::<MetadataRequest>(9, second).await.topics.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_stops_closes_waiting_connections() {
    let (broker, _writer, mut reader) = open().await;
    reader.send(&fetch(60_000, 1), VERSION).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let addr = broker.addr();
    broker.shutdown().await;
    assert_eq!(reader.receive_frame().await, None);
    // The port is free again.
    drop(std::net::TcpListener::bind(addr).unwrap());
}
