//! Transactions of Apache Kafka's own producer and tools.

use std::collections::BTreeMap;
use std::time::Duration;

use integration_tests::{Cluster, PATIENCE, TestResult, eventually, unique};
use kafka_client::TopicPartition;
use kafka_client::consumer::{IsolationLevel, OffsetReset};
use kafka_client::producer::Record;
use tokio::time::timeout;

use crate::interop::{kafka_tool, run};

/// How often a reader of committed records sees each value.
pub(crate) async fn committed(cluster: &Cluster, topic: &str) -> TestResult<BTreeMap<String, usize>> {
    let client = cluster.client().await?;
    let at = TopicPartition::new(topic, 0);
    let builder = client.consumer().assign([at.clone()]).auto_offset_reset(OffsetReset::Earliest);
    let consumer = builder.isolation_level(IsolationLevel::ReadCommitted).build()?;
    let end = consumer.end_offsets([&at]).await?[&at];
    let mut seen = BTreeMap::new();
    while consumer.position(&at).await? < end {
        let polled = timeout(PATIENCE, consumer.poll_timeout(Duration::from_millis(200))).await??;
        for record in polled.into_iter().flatten() {
            let value = String::from_utf8(record?.value.as_deref().unwrap_or_default().to_vec())?;
            *seen.entry(value).or_default() += 1;
        }
    }
    Ok(seen)
}

#[tokio::test]
#[ignore = "needs java and Kafka's jars"]
async fn kafkas_message_copier_copies_exactly_once_though_it_aborts_at_random() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    for modes in [&["--group-mode", "--use-group-metadata"][..], &[]] {
        let (input, output) = (cluster.topic("copy-in", 1).await?, cluster.topic("copy-out", 1).await?);
        let producer = client.producer().build()?;
        for value in 0..2000 {
            drop(producer.send(Record::to(&*input).value(value.to_string())).await?);
        }
        producer.close(PATIENCE).await?;
        let mut copier = kafka_tool("org.apache.kafka.tools.TransactionalMessageCopier")?;
        copier.args(["--broker-list", cluster.bootstrap_servers()]);
        copier.args(["--input-topic", &input, "--input-partition", "0", "--output-topic", &output]);
        copier.args(["--max-messages", "-1", "--consumer-group", &unique("copier")]);
        copier.args(["--transaction-size", "100", "--transactional-id", &unique("copier")]);
        copier.arg("--enable-random-aborts").args(modes);
        run(&mut copier, "").await?;
        let seen = committed(&cluster, &output).await?;
        assert_eq!(seen.len(), 2000);
        assert!(seen.values().all(|&times| times == 1), "{seen:?}");
    }
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test]
#[ignore = "needs java and Kafka's jars"]
async fn kafkas_producer_performance_commits_its_transactions() -> TestResult {
    let cluster = Cluster::start().await?;
    let topic = cluster.topic("perf-tx", 1).await?;
    let mut perf = kafka_tool("org.apache.kafka.tools.ProducerPerformance")?;
    perf.args(["--topic", &topic, "--num-records", "20000", "--record-size", "10", "--throughput", "-1"]);
    perf.args(["--bootstrap-server", cluster.bootstrap_servers(), "--transaction-duration-ms", "20"]);
    let told = run(&mut perf, "").await?;
    assert!(told.contains("20000 records sent"), "{told}");
    assert_eq!(committed(&cluster, &topic).await?.values().sum::<usize>(), 20_000);
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test]
#[ignore = "needs java and Kafka's jars"]
async fn kafkas_transaction_tool_lists_describes_and_aborts() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let (topic, id) = (cluster.topic("tool-tx", 1).await?, unique("tool"));
    let tool = async |arguments: &[&str]| -> TestResult<String> {
        let mut tool = kafka_tool("org.apache.kafka.tools.TransactionsCommand")?;
        tool.args(["--bootstrap-server", cluster.bootstrap_servers()]).args(arguments);
        run(&mut tool, "").await
    };
    let producer = client.producer().transactional_id(&id).build()?;
    let transaction = producer.begin().await?;
    let written = producer.send(Record::to(&*topic).value("open")).await?.await?;
    let listed = tool(&["list"]).await?;
    assert!(listed.lines().any(|line| line.contains(&id) && line.contains("Ongoing")), "{listed}");
    let described = tool(&["describe", "--transactional-id", &id]).await?;
    assert!(described.contains(&format!("{topic}-0")), "{described}");
    let producers = tool(&["describe-producers", "--topic", &topic, "--partition", "0"]).await?;
    let of_ours = producers.lines().last().unwrap_or_default();
    let start = of_ours.split_whitespace().last().ok_or("no producer")?;
    assert_eq!(start, written.offset.to_string(), "{producers}");
    tool(&["abort", "--topic", &topic, "--partition", "0", "--start-offset", start]).await?;
    eventually("the transaction is gone from the partition", async || {
        let producers = tool(&["describe-producers", "--topic", &topic, "--partition", "0"]).await?;
        Ok(producers.lines().last().is_some_and(|line| line.trim_end().ends_with("None")))
    })
    .await?;
    assert!(committed(&cluster, &topic).await?.is_empty());
    drop(transaction);
    cluster.shutdown().await;
    Ok(())
}
