//! What producing and fetching promise.

use bytes::Bytes;
use kafka_broker::Broker;
use kafka_wire::Uuid;
use kafka_wire::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_wire::messages::fetch_response::PartitionData;
use kafka_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::messages::produce_response::PartitionProduceResponse;
use kafka_wire::messages::{FetchRequest, ProduceRequest};
use kafka_wire::record_batch::{RecordBatch, Seal};

use crate::connection::{Connection, batch, sealed, text, topic};

fn produce(name: &str, partition: i32, records: Bytes, acks: i16) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(records));
    let topic = TopicProduceData::default().with_name(topic(name)).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(acks).with_timeout_ms(1000).with_topic_data(vec![topic])
}

async fn produced(connection: &mut Connection, request: ProduceRequest) -> PartitionProduceResponse {
    connection.call(&request, 9).await.responses[0].partition_responses[0].clone()
}

fn fetch(offset: i64, partition_max_bytes: i32) -> FetchRequest {
    let partition =
        FetchPartition::default().with_fetch_offset(offset).with_partition_max_bytes(partition_max_bytes);
    let topic = FetchTopic::default().with_topic(topic("t")).with_partitions(vec![partition]);
    FetchRequest::default().with_max_bytes(i32::MAX).with_topics(vec![topic])
}

async fn fetched(connection: &mut Connection, request: FetchRequest) -> PartitionData {
    connection.call(&request, 12).await.responses[0].partitions[0].clone()
}

fn values(data: &PartitionData) -> Vec<String> {
    let batches = RecordBatch::iter(data.records.clone().unwrap());
    let records = batches.flat_map(|batch| batch.unwrap().records(1 << 20).unwrap());
    records.map(|record| String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap()).collect()
}

async fn open() -> (Broker, Connection) {
    let broker = Broker::builder().start().await.unwrap();
    let mut connection = Connection::open(&broker).await;
    connection.create_topic("t", 1).await;
    (broker, connection)
}

#[tokio::test]
async fn records_come_back_in_order_from_any_offset() {
    let (_broker, mut connection) = open().await;
    for values in [&["a", "b"][..], &["c"], &["d", "e", "f"]] {
        assert_eq!(produced(&mut connection, produce("t", 0, batch(values), -1)).await.error_code, 0);
    }
    assert_eq!(values(&fetched(&mut connection, fetch(0, 1 << 20)).await), ["a", "b", "c", "d", "e", "f"]);
    // A fetch answers whole batches: the reader skips what lies before its offset.
    assert_eq!(values(&fetched(&mut connection, fetch(4, 1 << 20)).await), ["d", "e", "f"]);
    assert!(values(&fetched(&mut connection, fetch(6, 1 << 20)).await).is_empty());
    for offset in [7, -1] {
        assert_eq!(fetched(&mut connection, fetch(offset, 1 << 20)).await.error_code, 1);
    }
}

#[tokio::test]
async fn the_first_batch_comes_even_if_it_is_larger_than_every_limit() {
    let (_broker, mut connection) = open().await;
    for _ in 0..2 {
        produced(&mut connection, produce("t", 0, batch(&["0123456789"; 100]), -1)).await;
    }
    assert_eq!(values(&fetched(&mut connection, fetch(0, 1)).await).len(), 100);
    assert_eq!(values(&fetched(&mut connection, fetch(0, 1).with_max_bytes(1)).await).len(), 100);
}

#[tokio::test]
async fn bad_batches_are_refused_and_leave_no_trace() {
    let (_broker, mut connection) = open().await;
    let mut flipped = batch(&["payload"]).to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    let torn = batch(&["payload"]).slice(..50);
    assert_eq!(produced(&mut connection, produce("t", 0, flipped.into(), -1)).await.error_code, 2);
    let two = [batch(&["a"]), batch(&["b"])].concat();
    for records in [Bytes::new(), two.into(), torn] {
        assert_eq!(produced(&mut connection, produce("t", 0, records, -1)).await.error_code, 87);
    }
    let large = "x".repeat(2_000_000);
    assert_eq!(produced(&mut connection, produce("t", 0, batch(&[&large]), -1)).await.error_code, 10);
    assert_eq!(fetched(&mut connection, fetch(0, 1 << 20)).await.high_watermark, 0);
}

#[tokio::test]
async fn unknown_places_and_impossible_wishes_have_their_own_codes() {
    let (_broker, mut connection) = open().await;
    assert_eq!(produced(&mut connection, produce("nowhere", 0, batch(&["a"]), -1)).await.error_code, 3);
    assert_eq!(produced(&mut connection, produce("t", 7, batch(&["a"]), -1)).await.error_code, 3);
    assert_eq!(produced(&mut connection, produce("t", 0, batch(&["a"]), 2)).await.error_code, 21);
    let mut seal = Seal::idempotent(1, 0, 0);
    seal.transactional = true;
    assert_eq!(produced(&mut connection, produce("t", 0, sealed(&["a"], &seal), -1)).await.error_code, 53);
    let topic = TopicProduceData::default()
        .with_topic_id(Uuid::from_u128(5))
        .with_partition_data(vec![PartitionProduceData::default().with_records(Some(batch(&["a"])))]);
    let request = ProduceRequest::default().with_acks(-1).with_topic_data(vec![topic]);
    let answer = connection.call(&request, 13).await;
    assert_eq!(answer.responses[0].partition_responses[0].error_code, 100);
}

#[tokio::test]
async fn a_resent_idempotent_batch_is_written_once_and_answered_with_its_first_offset() {
    let (_broker, mut connection) = open().await;
    let sequenced = |sequence| sealed(&["a", "b"], &Seal::idempotent(77, 0, sequence));
    for _ in 0..3 {
        let answer = produced(&mut connection, produce("t", 0, sequenced(0), -1)).await;
        assert_eq!((answer.error_code, answer.base_offset), (0, 0));
    }
    let next = produced(&mut connection, produce("t", 0, sequenced(2), -1)).await;
    assert_eq!((next.error_code, next.base_offset), (0, 2));
    let gap = produced(&mut connection, produce("t", 0, sequenced(9), -1)).await;
    assert_eq!(gap.error_code, 45);
    assert_eq!(fetched(&mut connection, fetch(0, 1 << 20)).await.high_watermark, 4);
}

#[tokio::test]
async fn without_acks_success_is_silent_and_failure_closes_the_connection() {
    let (broker, mut connection) = open().await;
    connection.send(&produce("t", 0, batch(&["a"]), 0), 9).await;
    assert_eq!(values(&fetched(&mut connection, fetch(0, 1 << 20)).await), ["a"]);
    connection.send(&produce("nowhere", 0, batch(&["a"]), 0), 9).await;
    assert_eq!(connection.receive_frame().await, None);
    assert_eq!(values(&fetched(&mut Connection::open(&broker).await, fetch(0, 1 << 20)).await), ["a"]);
}

#[tokio::test]
async fn clients_cannot_write_to_the_coordinators_topics() {
    let (_broker, mut connection) = open().await;
    let request =
        kafka_wire::messages::FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g")]);
    connection.call(&request, 4).await;
    assert_eq!(
        produced(&mut connection, produce("__consumer_offsets", 0, batch(&["a"]), -1)).await.error_code,
        17
    );
}

#[tokio::test]
async fn a_deleted_topic_is_unknown_by_name_and_by_id() {
    let (_broker, mut connection) = open().await;
    produced(&mut connection, produce("t", 0, batch(&["old"]), -1)).await;
    let request = kafka_wire::messages::DeleteTopicsRequest::default().with_topic_names(vec![topic("t")]);
    connection.call(&request, 5).await;
    assert_eq!(fetched(&mut connection, fetch(0, 1 << 20)).await.error_code, 3);
    connection.create_topic("t", 1).await;
    let again = fetched(&mut connection, fetch(0, 1 << 20)).await;
    assert_eq!((again.error_code, again.high_watermark), (0, 0));
}

#[tokio::test]
async fn a_client_of_before_zstandard_cannot_write_it() {
    let (_broker, mut connection) = open().await;
    let mut builder = kafka_wire::record_batch::BatchBuilder::new(128);
    builder.append(1_750_000_000_000, None, Some(b"x"), &[]);
    let zstd = Seal::default().compression(kafka_wire::compression::Compression::ZSTD);
    let records = builder.finish(&zstd).unwrap();
    for (version, code) in [(6, 76), (7, 0)] {
        let answer = connection.call(&produce("t", 0, records.clone(), -1), version).await;
        assert_eq!(answer.responses[0].partition_responses[0].error_code, code, "version {version}");
    }
}
