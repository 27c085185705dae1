//! Stream processing against the cluster: every word is counted once, also by an application that was restarted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use integration_tests::{Cluster, PATIENCE, TestResult, unique};
use kafka_client::Client;
use kafka_client::TopicPartition;
use kafka_client::consumer::OffsetReset;
use kafka_client::producer::Record;
use kafka_streams::{KafkaStreams, State, Store, StreamsBuilder, StreamsConfig};
use tokio::time::timeout;

const PARTITIONS: i32 = 3;

/// A word count with topics and an application id of its own.
struct WordCount {
    cluster: Cluster,
    client: Client,
    application: String,
    lines: String,
    counts: String,
}

impl WordCount {
    async fn new() -> TestResult<Self> {
        let cluster = Cluster::start().await?;
        let client = cluster.client().await?;
        let lines = cluster.topic("lines", PARTITIONS).await?;
        let counts = cluster.topic("word-counts", PARTITIONS).await?;
        Ok(Self { cluster, client, application: unique("word-count"), lines, counts })
    }

    /// Starts an instance of the application.
    async fn start(&self, cached: bool) -> TestResult<KafkaStreams> {
        let builder = StreamsBuilder::new();
        let store = Store::kv("counts");
        builder
            .stream::<(), String>(self.lines.as_str())
            .flat_map_values(|_, line| line.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>())
            .group_by("by-word", |_, word| word.clone())
            .count(if cached { store.cached() } else { store })
            .to_stream()
            .to(self.counts.as_str());
        let config = StreamsConfig::new(&self.application, self.cluster.bootstrap_servers())
            .commit_interval(Duration::from_millis(100))
            .linger(Duration::from_millis(5));
        Ok(KafkaStreams::new(builder.build()?, config).start().await?)
    }

    async fn produce(&self, lines: std::ops::Range<usize>) -> TestResult {
        let producer = self.client.producer().build()?;
        for i in lines {
            let line = format!("all share word{} and word{}", i % 17, i % 5);
            drop(producer.send(Record::to(&self.lines).value(line)).await?);
        }
        Ok(producer.close(Duration::from_secs(30)).await?)
    }

    /// Reads counts until the latest ones are `expected`.
    async fn expect(&self, expected: &BTreeMap<String, i64>) -> TestResult {
        let all = (0..PARTITIONS).map(|partition| TopicPartition::new(self.counts.as_str(), partition));
        let consumer = self.client.consumer().assign(all).auto_offset_reset(OffsetReset::Earliest).build()?;
        let mut latest = BTreeMap::new();
        while latest != *expected {
            let record = timeout(PATIENCE, consumer.next())
                .await
                .map_err(|_| format!("the counts stopped at {latest:?}, not at {expected:?}"))??
                .ok_or("the consumer ended")?;
            let word = String::from_utf8(record.key.unwrap_or_default().to_vec())?;
            let count =
                record.value.as_deref().and_then(|value| value.first_chunk::<8>()).ok_or("no count")?;
            latest.insert(word, i64::from_be_bytes(*count));
        }
        Ok(())
    }
}

fn plain_count(lines: std::ops::Range<usize>) -> BTreeMap<String, i64> {
    let mut counts = BTreeMap::new();
    for i in lines {
        for word in ["all", "share", "and", &format!("word{}", i % 17), &format!("word{}", i % 5)] {
            *counts.entry(word.to_owned()).or_insert(0) += 1;
        }
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_word_is_counted_once_with_and_without_a_cache() -> TestResult {
    for cached in [false, true] {
        let app = WordCount::new().await?;
        app.produce(0..500).await?;
        let streams = app.start(cached).await?;
        app.produce(500..2000).await?;
        app.expect(&plain_count(0..2000)).await?;
        assert_eq!(streams.state(), State::Running);
        streams.close(PATIENCE).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_application_restores_its_counts_and_goes_on() -> TestResult {
    let app = WordCount::new().await?;
    for round in 0..3 {
        let streams = app.start(round % 2 == 0).await?;
        app.produce(round * 300..(round + 1) * 300).await?;
        app.expect(&plain_count(0..(round + 1) * 300)).await?;
        streams.close(PATIENCE).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_share_the_work_and_hand_their_state_over() -> TestResult {
    let app = WordCount::new().await?;
    let first = app.start(false).await?;
    app.produce(0..500).await?;
    app.expect(&plain_count(0..500)).await?;
    let second = app.start(false).await?;
    app.produce(500..1000).await?;
    app.expect(&plain_count(0..1000)).await?;
    first.close(PATIENCE).await?;
    app.produce(1000..1500).await?;
    app.expect(&plain_count(0..1500)).await?;
    second.close(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn a_missing_source_topic_is_named() -> TestResult {
    let cluster = Cluster::start().await?;
    let missing = unique("no-such-topic");
    let builder = StreamsBuilder::new();
    builder.stream::<String, String>(missing.as_str()).for_each(|_, _| {});
    let config = StreamsConfig::new(unique("lost"), cluster.bootstrap_servers());
    let error = KafkaStreams::new(builder.build()?, config).start().await.err().ok_or("it started")?;
    assert!(error.to_string().contains(&missing), "{error}");
    Ok(())
}

#[test]
fn an_application_whose_runtime_is_shut_down_ends_without_a_panic() -> TestResult {
    let application = Arc::new(Mutex::new(String::new()));
    let panicked = Arc::new(AtomicBool::new(false));
    let (mine, seen, before) = (Arc::clone(&application), Arc::clone(&panicked), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        let thread = std::thread::current();
        let mine = mine.lock().map(|name| name.clone()).unwrap_or_default();
        if !mine.is_empty() && thread.name().is_some_and(|name| name.starts_with(&mine)) {
            seen.store(true, Ordering::SeqCst);
        }
        before(info);
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut states = runtime.block_on(async {
        let app = WordCount::new().await?;
        if let Ok(mut name) = application.lock() {
            name.clone_from(&app.application);
        }
        app.produce(0..500).await?;
        let streams = app.start(true).await?;
        app.expect(&plain_count(0..500)).await?;
        TestResult::Ok(streams.states())
    })?;
    runtime.shutdown_timeout(PATIENCE);
    // The worker's thread holds the last sender of states.
    let ended = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    ended.block_on(async { timeout(PATIENCE, async { while states.changed().await.is_ok() {} }).await })?;
    assert!(!panicked.load(Ordering::SeqCst));
    Ok(())
}
