//! The whole producer on a paused clock, against a broker in memory.

mod buffer;
mod observed;
mod partitions;
mod topics;

use std::time::Duration;

use futures::FutureExt;
use kafka_wire::ErrorCode;
use tokio::time::Instant;

use super::*;
use crate::testing::FakeBroker;

fn client(broker: &FakeBroker) -> Client {
    Client::builder("fake:9092").connector(broker.connector()).build().unwrap()
}

fn record(value: &str) -> Record<'_> {
    Record::to("t").partition(0).value(value)
}

#[tokio::test(start_paused = true)]
async fn a_record_waits_for_linger_and_no_longer() {
    let broker = FakeBroker::new(1);
    let producer = client(&broker).producer().linger(Duration::from_millis(50)).build().unwrap();
    producer.send(record("warm")).await.unwrap().await.unwrap();
    let started = Instant::now();
    let delivery = producer.send(record("a")).await.unwrap();
    assert!(started.elapsed().is_zero());
    let acknowledged = delivery.await.unwrap();
    assert_eq!((acknowledged.partition, acknowledged.offset), (0, 1));
    assert!((50..60).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_does_not_linger() {
    let broker = FakeBroker::new(1);
    let producer =
        client(&broker).producer().linger(Duration::from_secs(60)).batch_size(1000).build().unwrap();
    let value = "x".repeat(300);
    let started = Instant::now();
    let mut deliveries = Vec::new();
    for _ in 0..3 {
        deliveries.push(producer.send(record(&value)).await.unwrap());
    }
    // The third record has no place beside the first two, and opens a batch that lingers.
    let third = deliveries.pop().unwrap();
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert!(third.now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn flush_sends_at_once_and_waits_for_every_acknowledgement() {
    let broker = FakeBroker::new(4);
    let producer = client(&broker).producer().linger(Duration::from_secs(60)).build().unwrap();
    let mut deliveries = Vec::new();
    for partition in 0..4 {
        deliveries.push(producer.send(record("a").partition(partition)).await.unwrap());
    }
    let started = Instant::now();
    producer.flush().await;
    assert!(started.elapsed() < Duration::from_secs(1));
    assert!(deliveries.into_iter().all(|delivery| delivery.now_or_never().unwrap().is_ok()));
    assert_eq!(broker.produce_requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn records_whose_delivery_and_producer_are_dropped_are_sent_all_the_same() {
    let broker = FakeBroker::new(2);
    let producer = client(&broker).producer().linger(Duration::from_secs(60)).build().unwrap();
    for _ in 0..100 {
        drop(producer.send(Record::to("t").key("k").value("v")).await.unwrap());
    }
    drop(producer);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(broker.all_values().len(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_full_buffer_makes_send_wait_and_hands_try_sends_record_back() {
    let broker = FakeBroker::new(1);
    let producer = client(&broker)
        .producer()
        .batch_size(1000)
        .buffer_memory(2000)
        .max_block(Duration::from_secs(5))
        .build()
        .unwrap();
    producer.send(record("warm")).await.unwrap().await.unwrap();
    broker.set_silent(true);
    let value = "x".repeat(700);
    for _ in 0..2 {
        drop(producer.send(record(&value)).await.unwrap());
    }
    match producer.try_send(record(&value)) {
        Err(TrySendError::Full(record)) => assert_eq!(record.topic(), "t"),
        other => panic!("{other:?}"),
    }
    let error = producer.send(record(&value)).await.unwrap_err();
    assert!(matches!(error, SendError::BufferFull { .. }) && error.is_retriable(), "{error}");
    let waiting = producer.send(record(&value));
    broker.set_silent(false);
    waiting.await.unwrap().await.unwrap();
    assert_eq!(broker.values(0).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_topic_an_impossible_name_and_a_missing_partition_are_told_apart() {
    let broker = FakeBroker::new(1);
    let producer = client(&broker).producer().build().unwrap();
    let started = Instant::now();
    let error = producer.send(Record::to("nope").value("x")).await.unwrap_err();
    assert!(matches!(error, SendError::UnknownTopic { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5));
    let error = producer.send(Record::to("not a name").value("x")).await.unwrap_err();
    assert!(matches!(error, SendError::InvalidTopic { .. }), "{error}");
    let error = producer.send(record("x").partition(1)).await.unwrap_err();
    assert!(matches!(error, SendError::UnknownPartition { count: 1, .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_record_beyond_the_limits_is_refused_before_it_is_copied() {
    let broker = FakeBroker::new(1);
    let producer = client(&broker).producer().max_request_size(1000).build().unwrap();
    let error = producer.send(record(&"x".repeat(1000))).await.unwrap_err();
    assert!(matches!(error, SendError::RecordTooLarge { limit_name: "max.request.size", .. }), "{error}");
    producer.send(record("fits")).await.unwrap().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn close_delivers_what_was_sent_and_refuses_what_comes_later() {
    let broker = FakeBroker::new(1);
    let producer = client(&broker).producer().linger(Duration::from_secs(60)).build().unwrap();
    let delivery = producer.send(record("a")).await.unwrap();
    producer.close(Duration::from_secs(5)).await.unwrap();
    delivery.await.unwrap();
    let error = producer.send(record("b")).await.unwrap_err();
    assert!(matches!(error, SendError::Closed) && error.is_fatal(), "{error}");
}

/// A flush that came after the task had ended once waited for ever.
#[tokio::test(start_paused = true)]
async fn flush_and_close_return_at_once_when_the_producer_is_closed() {
    let broker = FakeBroker::new(1);
    let producer = client(&broker).producer().build().unwrap();
    producer.send(record("a")).await.unwrap().await.unwrap();
    producer.close(Duration::from_secs(1)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    tokio::time::timeout(Duration::from_secs(60), producer.flush()).await.unwrap();
    producer.close(Duration::from_secs(60)).await.unwrap();
    assert!(began.elapsed().is_zero());
}

#[tokio::test(start_paused = true)]
async fn close_gives_up_at_its_deadline_and_says_what_may_be_written() {
    let broker = FakeBroker::new(1);
    let producer = client(&broker).producer().build().unwrap();
    producer.send(record("warm")).await.unwrap().await.unwrap();
    broker.set_silent(true);
    let delivery = producer.send(record("a")).await.unwrap();
    let started = Instant::now();
    let error = producer.close(Duration::from_secs(5)).await.unwrap_err();
    assert_eq!((error.batches, started.elapsed().as_secs()), (1, 5));
    assert!(delivery.await.unwrap_err().possibly_written());
}

#[tokio::test(start_paused = true)]
async fn a_refused_batch_fails_with_the_brokers_code() {
    let broker = FakeBroker::new(1);
    let producer = client(&broker).producer().build().unwrap();
    broker.set_error(Some(ErrorCode::TopicAuthorizationFailed));
    let error = producer.send(record("a")).await.unwrap().await.unwrap_err();
    assert!(
        matches!(&error, SendError::Refused { code: ErrorCode::TopicAuthorizationFailed, .. }),
        "{error}"
    );
    assert!(!error.is_retriable() && !error.possibly_written());
    broker.set_error(None);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_never_answers_costs_delivery_timeout() {
    let broker = FakeBroker::new(1);
    let client =
        Client::builder("fake:9092").connector(broker.connector()).request_timeout(Duration::from_secs(10));
    let client = client.build().unwrap();
    let producer = client.producer().delivery_timeout(Duration::from_secs(20)).build().unwrap();
    producer.send(record("warm")).await.unwrap().await.unwrap();
    broker.set_silent(true);
    let started = Instant::now();
    let error = producer.send(record("a")).await.unwrap().await.unwrap_err();
    assert!(matches!(error, SendError::Unanswered { .. }), "{error}");
    assert_eq!(started.elapsed().as_secs(), 20);
}

#[tokio::test(start_paused = true)]
async fn without_acks_a_record_counts_as_sent_when_it_left() {
    let broker = FakeBroker::new(1);
    let producer = client(&broker).producer().acks(Acks::None).build().unwrap();
    let acknowledged = producer.send(record("a")).await.unwrap().await.unwrap();
    assert_eq!(acknowledged.offset, -1);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(broker.values(0), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn compressed_batches_arrive_whole() {
    for compression in [Compression::Snappy, Compression::GZIP, Compression::Lz4, Compression::ZSTD] {
        let broker = FakeBroker::new(1);
        let producer = client(&broker).producer().compression(compression).build().unwrap();
        for i in 0..500 {
            drop(producer.send(record(&format!("record {i}"))).await.unwrap());
        }
        producer.flush().await;
        let expected: Vec<_> = (0..500).map(|i| format!("record {i}")).collect();
        assert_eq!(broker.values(0), expected, "{compression:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn keys_go_where_javas_producer_sends_them() {
    let broker = FakeBroker::new(7);
    let producer = client(&broker).producer().build().unwrap();
    let topic = producer.topic("t");
    for key in ["21", "foobar", "abc", ""] {
        let delivery = topic.send(topic.record().key(key).value("v")).await.unwrap();
        let expected = kafka_wire::murmur2::partition_for_key(key.as_bytes(), 7);
        assert_eq!(delivery.await.unwrap().partition, expected, "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn partitions_that_a_topic_grows_are_used_once_they_are_known() {
    let broker = FakeBroker::new(1);
    let client = client(&broker);
    let producer = client.producer().build().unwrap();
    producer.send(record("a")).await.unwrap().await.unwrap();
    broker.set_partitions(3);
    client.refresh_topics(["t"]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let acknowledged = producer.send(record("b").partition(2)).await.unwrap().await.unwrap();
    assert_eq!((acknowledged.partition, acknowledged.offset), (2, 0));
    // The old partition kept its place in the sequence.
    assert_eq!(producer.send(record("c")).await.unwrap().await.unwrap().offset, 1);
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let broker = FakeBroker::new(1);
    let build = |change: fn(ProducerBuilder) -> ProducerBuilder| change(client(&broker).producer()).build();
    assert!(build(|p| p.acks(Acks::Leader).idempotence(true)).is_err());
    assert!(build(|p| p.acks(Acks::Leader)).is_ok());
    assert!(build(|p| p.max_in_flight(6)).is_err());
    assert!(build(|p| p.idempotence(false).max_in_flight(6)).is_ok());
    // Linger and a request of 30 s may take longer.
    assert!(build(|p| p.delivery_timeout(Duration::from_secs(30))).is_err());
    assert!(build(|p| p.delivery_timeout(Duration::from_secs(30)).linger(Duration::ZERO)).is_ok());
    assert!(build(|p| p.linger(Duration::from_secs(600))).is_ok());
    assert!(build(|p| p.batch_size(usize::MAX)).is_err());
}

#[test]
fn javas_property_names_configure_the_producer() {
    let client = Client::from_properties([
        ("bootstrap.servers", "a:1"),
        ("acks", "1"),
        ("compression.type", "zstd"),
        ("compression.zstd.level", "7"),
        ("linger.ms", "20"),
        ("group.id", "left to the consumer"),
    ])
    .unwrap();
    let shown = format!("{:?}", client.producer().build().unwrap());
    assert!(shown.contains("Leader") && shown.contains("Zstd(7)"), "{shown}");
    let error =
        Client::from_properties([("bootstrap.servers", "a:1"), ("acks", "2")]).unwrap_err().to_string();
    assert!(error.contains("acks") && error.contains('2'), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_producer_whose_connection_was_closed_for_want_of_use_goes_on_without_a_failure() {
    let broker = FakeBroker::new(1);
    let idle = Duration::from_secs(60);
    let client = Client::builder("fake:9092").connections_max_idle(idle).connector(broker.connector());
    let producer = client.build().unwrap().producer().linger(Duration::ZERO).retries(0).build().unwrap();
    for _ in 0..3 {
        let began = Instant::now();
        producer.send(record("a")).await.unwrap().await.unwrap();
        assert!(began.elapsed() < Duration::from_millis(20), "{:?}", began.elapsed());
        tokio::time::sleep(Duration::from_secs(100)).await;
    }
    assert_eq!(broker.values(0).len(), 3);
}
