//! Every metric of the consumer's table (`kafka_client`, `consumer/metrics.rs`) reaches the application's recorder. In
//! memory and on a paused clock, so on our broker only.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use integration_tests::TestResult;
use kafka_admin::{Admin, NewTopic};
use kafka_broker::Broker;
use kafka_client::{Client, OffsetReset, Record, TopicPartition};
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use tokio::time::{sleep, timeout};

const EXPECTED: [&str; 15] = [
    "kafka_consumer_assigned_partitions",
    "kafka_consumer_buffered_bytes",
    "kafka_consumer_bytes_consumed_total",
    "kafka_consumer_commit_latency_seconds",
    "kafka_consumer_committed_latency_seconds",
    "kafka_consumer_fetch_latency_seconds",
    "kafka_consumer_fetch_size_bytes",
    "kafka_consumer_fetch_throttle_seconds",
    "kafka_consumer_poll_wait_seconds",
    "kafka_consumer_preferred_read_replica",
    "kafka_consumer_records_consumed_total",
    "kafka_consumer_records_lag",
    "kafka_consumer_records_lead",
    "kafka_consumer_time_between_polls_seconds",
    "kafka_consumer_unacknowledged",
];

/// The names of what was recorded, not merely registered.
#[derive(Debug, Default, Clone)]
struct Names(Arc<Mutex<BTreeSet<String>>>);

impl Names {
    fn get(&self) -> BTreeSet<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn of(&self, key: &Key) -> Arc<Named> {
        Arc::new(Named(self.clone(), key.name().to_owned()))
    }
}

struct Named(Names, String);

impl Named {
    fn note(&self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).insert(self.1.clone());
    }
}

impl CounterFn for Named {
    fn increment(&self, _: u64) {
        self.note();
    }
    fn absolute(&self, _: u64) {
        self.note();
    }
}

impl GaugeFn for Named {
    fn increment(&self, _: f64) {
        self.note();
    }
    fn decrement(&self, _: f64) {
        self.note();
    }
    fn set(&self, _: f64) {
        self.note();
    }
}

impl HistogramFn for Named {
    fn record(&self, _: f64) {
        self.note();
    }
}

impl Recorder for Names {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.of(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.of(key))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.of(key))
    }
}

/// More than the gauges' interval, of virtual time.
const A_WHILE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn every_metric_that_the_docs_name_is_recorded() -> TestResult {
    let names = Names::default();
    let _recorder = metrics::set_default_local_recorder(&names);
    let broker = Arc::new(Broker::builder().start().await?);
    let connector = move |_host: String, _port: u16| {
        let broker = broker.clone();
        async move { Ok::<_, std::io::Error>(broker.connect().await) }
    };
    let client = Client::builder("broker:9092").connector(connector).build()?;
    Admin::new(client.clone()).create_topics([NewTopic::new("t", 1, 1)]).await?.all()?;
    let producer = client.producer().build()?;
    producer.send(Record::to("t").value("v")).await?.await?;
    let consumer = client
        .consumer()
        .group("metrics")
        .topics(["t"])
        .auto_offset_reset(OffsetReset::Earliest)
        .acknowledgements(true)
        .build()?;
    for _ in 0..2 {
        let record = timeout(A_WHILE, consumer.next()).await??.ok_or("the consumer ended")?;
        consumer.ack(&record);
        sleep(A_WHILE).await;
        producer.send(Record::to("t").value("v")).await?.await?;
    }
    consumer.commit().await?;
    consumer.committed([TopicPartition::new("t", 0)]).await?;
    sleep(A_WHILE).await;
    let recorded = names.get();
    let missing: Vec<&str> = EXPECTED.into_iter().filter(|name| !recorded.contains(*name)).collect();
    assert!(missing.is_empty(), "{missing:?} of {recorded:?}");
    // And nothing of the consumer's is recorded that the list, and so the docs, do not name.
    let unknown: Vec<&String> = recorded
        .iter()
        .filter(|name| name.starts_with("kafka_consumer_") && !EXPECTED.contains(&name.as_str()))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    Ok(())
}
