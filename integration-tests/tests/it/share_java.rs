//! Share groups for Apache Kafka's own share consumers and tools (KIP-932).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use integration_tests::{Cluster, TestResult, eventually, unique};
use kafka_client::producer::Record;
use parking_lot::Mutex;

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

/// Our consumer reads a share group until it is stopped.
struct Ours {
    consumer: kafka_client::share::ShareConsumer,
    read: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<TestResult>,
}

impl Ours {
    async fn start(cluster: &Cluster, group: &str, topic: &str) -> TestResult<Self> {
        let consumer =
            cluster.client().await?.share_consumer(group).topics([topic]).record_limit(10).build()?;
        let read = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn({
            let (consumer, read) = (consumer.clone(), Arc::clone(&read));
            async move {
                while let Some(record) = consumer.next().await? {
                    let done = record.accept();
                    read.lock().push(
                        String::from_utf8_lossy(done.value.as_deref().unwrap_or_default()).into_owned(),
                    );
                    // Slow enough to leave others something.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Ok(())
            }
        });
        Ok(Self { consumer, read, task })
    }

    /// Everything it read, once each, and acknowledged.
    async fn stop(self) -> TestResult<BTreeSet<String>> {
        let outcomes = self.consumer.commit().await;
        assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()), "{outcomes:?}");
        self.consumer.close(Duration::from_secs(30)).await;
        self.task.await??;
        let read = self.read.lock().clone();
        let distinct: BTreeSet<_> = read.iter().cloned().collect();
        assert_eq!(distinct.len(), read.len());
        Ok(distinct)
    }
}

#[tokio::test]
#[ignore = "needs java and Kafka's jars"]
async fn kafkas_console_share_consumer_and_ours_share_a_group_of_more_members_than_partitions() -> TestResult
{
    let cluster = Cluster::start().await?;
    let topic = cluster.topic("share-mixed", 1).await?;
    let group = unique("share");
    from_the_beginning(&cluster, &group).await?;
    let ours = Ours::start(&cluster, &group, &topic).await?;
    let mut consume = kafka_tool("org.apache.kafka.tools.consumer.ConsoleShareConsumer")?;
    consume.args(["--bootstrap-server", cluster.bootstrap_servers(), "--topic", &topic, "--group", &group]);
    consume.args(["--max-messages", "40", "--timeout-ms", "50000"]);
    let (theirs, written) = tokio::join!(run(&mut consume, ""), async {
        // One after the other, until the other one has had its share and left.
        let admin = kafka_admin::Admin::new(cluster.client().await?);
        let mut members = 0;
        let mut written = 0;
        let joined = async || -> TestResult<usize> {
            let described = admin.describe_share_groups([&group]).await?.all().unwrap_or_default();
            Ok(described.iter().map(|(_, group)| group.members.len()).sum())
        };
        while members < 2 {
            members = joined().await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        while joined().await? == 2 && written < 5000 {
            fill(&cluster, &topic, written..written + 20).await?;
            written += 20;
        }
        TestResult::Ok(written)
    });
    let (theirs, written) = (theirs?, written?);
    let theirs: BTreeSet<String> = theirs.lines().map(str::to_owned).collect();
    assert_eq!(theirs.len(), 40);
    eventually("the rest is read", async || Ok(ours.read.lock().len() + theirs.len() >= written)).await?;
    let ours = ours.stop().await?;
    assert!(!ours.is_empty() && ours.is_disjoint(&theirs), "{:?}", ours.intersection(&theirs));
    let all: BTreeSet<String> = (0..written).map(|value| format!("line {value}")).collect();
    assert_eq!(&ours | &theirs, all);
    Ok(())
}

/// It says only how much it read; ours reads the rest.
#[tokio::test]
#[ignore = "needs java and Kafka's jars"]
async fn kafkas_share_consumer_performance_reads_and_ours_reads_the_rest() -> TestResult {
    let cluster = Cluster::start().await?;
    let topic = cluster.topic("share-performance", 2).await?;
    let group = unique("share");
    from_the_beginning(&cluster, &group).await?;
    fill(&cluster, &topic, 0..2000).await?;
    let mut measure = kafka_tool("org.apache.kafka.tools.ShareConsumerPerformance")?;
    measure.args(["--bootstrap-server", cluster.bootstrap_servers(), "--topic", &topic, "--group", &group]);
    measure.args(["--num-records", "900", "--timeout", "50000", "--hide-header", "--threads", "2"]);
    for property in ["share.acquire.mode=record_limit", "max.poll.records=100"] {
        measure.args(["--command-property", property]);
    }
    let measured = run(&mut measure, "").await?;
    // start.time, end.time, data.consumed.in.MB, MB.sec, nMsg.sec, data.consumed.in.nMsg, ...
    let counts: Vec<&str> = measured.lines().last().unwrap_or_default().split(", ").collect();
    let ours = Ours::start(&cluster, &group, &topic).await?;
    let expected = |count: usize| counts.iter().any(|column| column.parse() == Ok(2000 - count));
    eventually("the rest is read", async || Ok(expected(ours.read.lock().len())))
        .await
        .map_err(|error| format!("{error}: ours read {}, theirs: {measured}", ours.read.lock().len()))?;
    let rest = ours.stop().await?;
    assert!(!rest.is_empty() && expected(rest.len()), "{}: {measured}", rest.len());
    Ok(())
}
