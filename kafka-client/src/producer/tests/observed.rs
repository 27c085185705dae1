//! What those who watch a producer see.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::testing::Sums;

#[derive(Debug, Default, Clone)]
struct Witness(Arc<Mutex<Vec<String>>>);

impl ProducerInterceptor for Witness {
    fn on_send<'a>(&self, record: Record<'a>) -> Record<'a> {
        record.header("seen", "yes").partition(1)
    }

    fn on_acknowledgement(&self, batch: &AcknowledgedBatch<'_>) {
        let fate = match batch.base_offset() {
            Ok(offset) => format!("at {offset}"),
            Err(error) => format!("{error}"),
        };
        self.0.lock().push(format!("{} of {}: {fate}", batch.record_count(), batch.partition()));
    }
}

#[tokio::test(start_paused = true)]
async fn an_interceptor_changes_records_and_learns_what_became_of_batches() {
    let broker = FakeBroker::new(2);
    let witness = Witness::default();
    let client = client(&broker);
    let producer = client.producer().interceptor(witness.clone()).build().unwrap();
    drop(producer.try_send(record("too early")));
    producer.send(record("a")).await.unwrap().await.unwrap();
    producer.send_all([record("b"), record("c")]).await.unwrap().all().await.unwrap();
    assert_eq!(broker.values(1).len(), 3);
    broker.set_error(Some(ErrorCode::TopicAuthorizationFailed));
    producer.send(record("d")).await.unwrap().await.unwrap_err();
    tokio::task::yield_now().await;
    let seen = witness.0.lock().clone();
    assert_eq!(seen[..2], ["1 of t-1: at 0", "2 of t-1: at 1"]);
    assert!(seen[2].contains("TOPIC_AUTHORIZATION_FAILED"), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn throttling_and_failed_batches_are_events() {
    let broker = FakeBroker::new(1);
    let producer = client(&broker).producer().build().unwrap();
    drop(producer.send(record("nobody listens")).await.unwrap().await.unwrap());
    let mut events = producer.events();
    broker.set_throttle(700);
    producer.send(record("a")).await.unwrap().await.unwrap();
    let started = Instant::now();
    producer.send(record("b")).await.unwrap().await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(600), "{:?}", started.elapsed());
    assert!(matches!(events.recv().await, Ok(ProducerEvent::Throttled { broker: 1, .. })));
    broker.set_error(Some(ErrorCode::InvalidRecord));
    producer.send(record("c")).await.unwrap().await.unwrap_err();
    assert!(matches!(events.recv().await, Ok(ProducerEvent::BatchFailed { records: 1, .. })));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_shows_where_records_are() {
    let broker = FakeBroker::new(1);
    let producer = client(&broker).producer().batch_size(1000).buffer_memory(10_000).build().unwrap();
    assert_eq!(producer.debug_snapshot().await.buffer_available_bytes, 10_000);
    producer.send(record("warm")).await.unwrap().await.unwrap();
    broker.set_silent(true);
    let waiting = producer.send(record("a")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let shown = producer.debug_snapshot().await;
    assert_eq!((shown.buffer_available_bytes, shown.identity), (9000, Some((7, 0))));
    let partition = &shown.partitions[0];
    assert_eq!(
        (partition.leader, partition.in_flight_batches, partition.next_sequence),
        (Some(1), 1, Some(2))
    );
    assert!(shown.brokers[0].is_connected && shown.brokers[0].requests_in_flight == 1);
    drop(producer.try_send(record("open")).unwrap());
    let open = producer.debug_snapshot().await.open_batches;
    assert_eq!((open.len(), open[0].records), (1, 1));
    broker.set_silent(false);
    waiting.await.unwrap();
    producer.flush().await;
    assert!(producer.debug_snapshot().await.partitions.is_empty());
}

#[tokio::test(start_paused = true)]
async fn records_batches_retries_and_errors_are_counted() {
    let sums = Sums::default();
    let _recording = ::metrics::set_default_local_recorder(&sums);
    let broker = FakeBroker::new(1);
    let producer = client(&broker).producer().build().unwrap();
    producer.send_all((0..10).map(|_| record("a"))).await.unwrap().all().await.unwrap();
    broker.set_error(Some(ErrorCode::NotEnoughReplicas));
    let retried = producer.send(record("b")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    broker.set_error(None);
    retried.await.unwrap();
    broker.set_error(Some(ErrorCode::InvalidRecord));
    producer.send(record("c")).await.unwrap().await.unwrap_err();
    producer.flush().await;
    tokio::task::yield_now().await;
    for (name, expected) in [
        ("record_send_total", 12.0),
        ("record_retry_total", 1.0),
        ("record_error_total", 1.0),
        ("delivery_seconds", 3.0),
        ("record_queue_time_seconds", 3.0),
        ("request_latency_seconds", 4.0),
        ("requests_in_flight", 0.0),
        ("flush_seconds", 1.0),
        ("metadata_wait_seconds", 1.0),
        ("buffer_total_bytes", 32.0 * 1024.0 * 1024.0),
        ("buffer_available_bytes", 32.0 * 1024.0 * 1024.0),
    ] {
        assert_eq!(sums.get(&format!("kafka_producer_{name}")), expected, "{name}");
    }
    assert!(sums.get("kafka_producer_byte_total") > 100.0);
}

/// Remembers the fields of spans.
#[derive(Debug, Default, Clone)]
struct Fields(Arc<Mutex<BTreeMap<String, String>>>);

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0.lock().insert(field.name().to_owned(), format!("{value:?}").replace('"', ""));
    }
}

impl tracing::Subscriber for Fields {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target() == "kafka_client::producer"
    }

    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        span.record(&mut self.clone());
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        values.record(&mut self.clone());
    }

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn a_span_for_each_batch_has_opentelemetrys_names() {
    let fields = Fields::default();
    // While there is just one subscriber, a span that another test's thread meets first is off for every thread.
    let _second = tracing::Dispatch::new(Fields::default());
    let _subscribed = tracing::subscriber::set_default(fields.clone());
    let broker = FakeBroker::new(1);
    let producer = client(&broker).producer().build().unwrap();
    producer.send_all([record("a"), record("b")]).await.unwrap().all().await.unwrap();
    let fields = fields.0.lock();
    for (name, expected) in [
        ("otel.name", "send t"),
        ("otel.kind", "producer"),
        ("messaging.system", "kafka"),
        ("messaging.operation.type", "send"),
        ("messaging.destination.name", "t"),
        ("messaging.destination.partition.id", "0"),
        ("messaging.batch.message_count", "2"),
        ("messaging.kafka.offset", "0"),
    ] {
        assert_eq!(fields.get(name).map(String::as_str), Some(expected), "{name}");
    }
}
