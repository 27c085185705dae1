//! Share groups for Apache Kafka's own share consumers and tools (KIP-932).

use std::collections::BTreeSet;
use std::time::Duration;

use integration_tests::{Cluster, TestResult, eventually, unique};
use kafka_client::producer::Record;

use crate::interop::{kafka_tool, run};

async fn fill(cluster: &Cluster, topic: &str, values: std::ops::Range<usize>) -> TestResult {
    let producer = cluster.client().await?.producer().build()?;
    for value in values {
        drop(producer.send(Record::to(topic).value(format!("line {value}"))).await?);
    }
    producer.close(Duration::from_secs(30)).await?;
    Ok(())
}

/// Makes a share group read from the beginning.
async fn from_the_beginning(cluster: &Cluster, group: &str) -> TestResult {
    let mut configs = kafka_tool("kafka.admin.ConfigCommand")?;
    configs.args(["--bootstrap-server", cluster.bootstrap_servers(), "--entity-type", "groups"]);
    configs.args(["--entity-name", group, "--alter", "--add-config", "share.auto.offset.reset=earliest"]);
    run(&mut configs, "").await.map(drop)
}

#[tokio::test]
#[ignore = "needs java and Kafka's jars"]
async fn kafkas_console_share_consumer_reads_everything_once() -> TestResult {
    let cluster = Cluster::start().await?;
    let topic = cluster.topic("share-console", 3).await?;
    let group = unique("share");
    fill(&cluster, &topic, 0..500).await?;
    from_the_beginning(&cluster, &group).await?;
    let mut read = Vec::new();
    // A second consumer goes on where the first one stopped.
    for count in ["200", "300"] {
        let mut consume = kafka_tool("org.apache.kafka.tools.consumer.ConsoleShareConsumer")?;
        consume.args([
            "--bootstrap-server",
            cluster.bootstrap_servers(),
            "--topic",
            &topic,
            "--group",
            &group,
        ]);
        consume.args(["--max-messages", count, "--timeout-ms", "40000"]);
        let lines = run(&mut consume, "").await?;
        read.extend(lines.lines().map(str::to_owned));
    }
    assert_eq!(read.len(), 500);
    let distinct: BTreeSet<_> = read.iter().cloned().collect();
    assert_eq!(distinct, (0..500).map(|value| format!("line {value}")).collect());
    Ok(())
}

#[tokio::test]
#[ignore = "needs java and Kafka's jars"]
async fn kafkas_verifiable_share_consumer_accepts_and_the_group_tool_tells_how_far_it_came() -> TestResult {
    let cluster = Cluster::start().await?;
    let topic = cluster.topic("share-verifiable", 2).await?;
    let (group, server) = (unique("share"), cluster.bootstrap_servers());
    fill(&cluster, &topic, 0..300).await?;
    let mut consume = kafka_tool("org.apache.kafka.tools.VerifiableShareConsumer")?;
    consume.args(["--bootstrap-server", server, "--topic", &topic, "--group-id", &group]);
    consume.args(["--max-messages", "300", "--acknowledgement-mode", "sync"]);
    consume.args(["--offset-reset-strategy", "earliest"]);
    let events = run(&mut consume, "").await?;
    assert!(events.contains(r#""name":"offsets_acknowledged""#), "{events}");
    assert!(!events.contains(r#""success":false"#), "{events}");

    let tool = |arguments: &[&str]| -> TestResult<_> {
        let mut tool = kafka_tool("org.apache.kafka.tools.consumer.group.ShareGroupCommand")?;
        tool.args(["--bootstrap-server", server]).args(arguments);
        Ok(tool)
    };
    let listed = run(&mut tool(&["--list"])?, "").await?;
    assert!(listed.lines().any(|line| line.starts_with(&group)), "{listed}");
    // Where the group starts is not compared: Kafka writes down a new start some time after the acknowledgements.
    eventually("the tool tells that nothing is left", async || {
        let described = run(&mut tool(&["--describe", "--group", &group, "--offsets"])?, "").await?;
        let lines = described.lines().filter(|line| line.contains(&topic));
        let lags: Vec<i64> = lines.filter_map(|line| line.split_whitespace().nth(4)?.parse().ok()).collect();
        Ok(!lags.is_empty() && lags.iter().all(|&lag| lag == 0))
    })
    .await?;
    let reset = ["--reset-offsets", "--group", &group, "--topic", &topic, "--to-earliest", "--execute"];
    let reset = run(&mut tool(&reset)?, "").await?;
    assert!(reset.contains(&topic), "{reset}");
    let deleted = run(&mut tool(&["--delete-offsets", "--group", &group, "--topic", &topic])?, "").await?;
    assert!(!deleted.to_lowercase().contains("error"), "{deleted}");
    let deleted = run(&mut tool(&["--delete", "--group", &group])?, "").await?;
    assert!(deleted.contains("successful"), "{deleted}");
    Ok(())
}
