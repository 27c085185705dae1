//! What a data folder promises: after `kill -9` every acknowledged record is there, once and in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use integration_tests::TestResult;
use kafka_admin::{Admin, NewTopic};
use kafka_broker::Broker;
use kafka_client::Client;
use kafka_client::producer::Record;

use crate::child_broker::ChildBroker;
use crate::consume::read_all;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_record_survives_kill_9_during_produce() -> TestResult {
    integration_tests::show_logs();
    let folder = tempfile::tempdir()?;
    let mut broker = ChildBroker::start(folder.path(), "127.0.0.1:0")?;
    let address = broker.bootstrap_servers.clone();
    let client = Client::connect(&address).await?;
    Admin::new(client.clone()).create_topics([NewTopic::new("survivors", 2, 1)]).await?.all()?;

    // One task sends without a pause and counts, in order of sending, what was acknowledged in each partition.
    let acknowledged = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let producer = client.producer().linger(Duration::from_millis(1)).build()?;
    let sender = tokio::spawn({
        let (acknowledged, producer) = (Arc::clone(&acknowledged), producer.clone());
        async move {
            for i in 0u64.. {
                let partition = (i % 2) as i32;
                let record = Record::to("survivors").partition(partition).value((i / 2).to_string());
                let Ok(delivery) = producer.send(record).await else { break };
                let acknowledged = Arc::clone(&acknowledged);
                tokio::spawn(async move {
                    if delivery.await.is_ok() {
                        acknowledged[partition as usize].fetch_max(i / 2 + 1, Ordering::SeqCst);
                    }
                });
                if i % 100 == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    });

    for round in 1..=3u64 {
        let before = acknowledged[0].load(Ordering::SeqCst);
        while acknowledged[0].load(Ordering::SeqCst) < before + 500 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        broker.kill()?;
        broker = ChildBroker::start(folder.path(), &address)?;
        let reader = Client::connect(&address).await?;
        let promised = [acknowledged[0].load(Ordering::SeqCst), acknowledged[1].load(Ordering::SeqCst)];
        let read = read_all(&reader, "survivors", 2).await?;
        for partition in 0..2 {
            let mut values = Vec::new();
            for record in read.iter().filter(|record| record.partition == partition) {
                values
                    .push(std::str::from_utf8(record.value.as_deref().unwrap_or_default())?.parse::<u64>()?);
            }
            // Idempotence across the crash: a retried batch is not written twice, and nothing is skipped.
            let expected: Vec<u64> = (0..values.len() as u64).collect();
            assert_eq!(values, expected, "partition {partition} after kill {round}");
            assert!(values.len() as u64 >= promised[partition as usize], "an acknowledged record is lost");
        }
    }
    sender.abort();
    Ok(())
}

#[tokio::test]
async fn topics_configs_records_and_group_offsets_survive_an_orderly_restart() -> TestResult {
    let folder = tempfile::tempdir()?;
    let broker = Broker::builder().data_dir(folder.path()).start().await?;
    let client = Client::connect(broker.bootstrap_servers()).await?;
    let topic = NewTopic::new("kept", 3, 1).config("retention.ms", "123456789");
    Admin::new(client.clone()).create_topics([topic]).await?.all()?;
    let id = client.refresh_topics(["kept"]).await?.topic("kept").map(|topic| topic.id);
    let producer = client.producer().build()?;
    for i in 0..30 {
        producer.send(Record::to("kept").partition(i % 3).value(i.to_string())).await?.await?;
    }
    let consumer = client
        .consumer()
        .group("keepers")
        .topics(["kept"])
        .auto_offset_reset(kafka_client::consumer::OffsetReset::Earliest)
        .enable_auto_commit(false)
        .build()?;
    for _ in 0..30 {
        consumer.next().await?.ok_or("the consumer ended")?;
    }
    consumer.commit().await?;
    consumer.close().await?;
    broker.shutdown().await;

    let broker = Broker::builder().data_dir(folder.path()).start().await?;
    let client = Client::connect(broker.bootstrap_servers()).await?;
    assert_eq!(client.refresh_topics(["kept"]).await?.topic("kept").map(|topic| topic.id), id);
    assert_eq!(read_all(&client, "kept", 3).await?.len(), 30);
    let producer = client.producer().build()?;
    producer.send(Record::to("kept").partition(0).value("after")).await?.await?;
    let consumer = client.consumer().group("keepers").topics(["kept"]).build()?;
    let next = tokio::time::timeout(integration_tests::PATIENCE, consumer.next()).await??.ok_or("ended")?;
    assert_eq!(next.value.as_deref(), Some(&b"after"[..]));
    broker.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn a_folder_that_another_broker_holds_is_refused_by_name() -> TestResult {
    let folder = tempfile::tempdir()?;
    let broker = Broker::builder().data_dir(folder.path()).start().await?;
    let error =
        Broker::builder().data_dir(folder.path()).start().await.err().ok_or("two brokers share a folder")?;
    assert!(error.to_string().contains(&*folder.path().to_string_lossy()), "{error}");
    broker.shutdown().await;
    Broker::builder().data_dir(folder.path()).start().await?.shutdown().await;
    Ok(())
}
