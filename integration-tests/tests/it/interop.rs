//! Foreign clients against the cluster: kcat (librdkafka) and Apache Kafka's own console tools.
//!
//! They are ignored where nobody says that the programs are there: `cargo xtask test` runs them where they are, and says
//! plainly where they are not.

use std::path::PathBuf;
use std::process::Stdio;

use integration_tests::{Cluster, PATIENCE, TestResult, eventually};
use kafka_client::producer::Record;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::consume::read_all;

/// Runs a program with `input` on its stdin and gives back its stdout.
pub(crate) async fn run(command: &mut Command, input: &str) -> TestResult<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().ok_or("no stdin")?;
    stdin.write_all(input.as_bytes()).await?;
    drop(stdin);
    let output = timeout(PATIENCE, child.wait_with_output()).await??;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(stdout)
    } else {
        Err(format!("{}: {stdout}{}", output.status, String::from_utf8_lossy(&output.stderr)).into())
    }
}

/// One of Kafka's own tools.
pub(crate) fn kafka_tool(class: &str) -> TestResult<Command> {
    let jars = std::env::var_os("KAFKA_JARS")
        .ok_or("KAFKA_JARS does not name the folder of Kafka's jars (`cargo xtask kafka jars` prints it)")?;
    let mut command = Command::new("java");
    command.arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=error");
    command.arg("-cp").arg(PathBuf::from(jars).join("*")).arg(class);
    Ok(command)
}

fn lines(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("line {i}")).collect()
}

#[tokio::test]
#[ignore = "needs kcat"]
async fn kcat_reads_what_we_write_and_we_read_what_kcat_writes() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("kcat", 1).await?;
    let sent = lines(1000);
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let mut produce = Command::new("kcat");
        produce.args([
            "-P",
            "-b",
            cluster.bootstrap_servers(),
            "-t",
            &topic,
            "-X",
            "enable.idempotence=true",
            "-z",
            codec,
        ]);
        run(&mut produce, &sent.join("\n")).await?;
    }
    let read = read_all(&client, &topic, 1).await?;
    let values: Vec<_> =
        read.iter().map(|r| String::from_utf8_lossy(r.value.as_deref().unwrap_or_default())).collect();
    assert_eq!(values, [&sent[..]; 5].concat());

    let producer = client.producer().build()?;
    let ours = cluster.topic("for-kcat", 1).await?;
    for line in &sent {
        drop(producer.send(Record::to(&ours).key("k").value(line.clone())).await?);
    }
    producer.flush().await;
    let mut consume = Command::new("kcat");
    consume.args([
        "-C",
        "-b",
        cluster.bootstrap_servers(),
        "-t",
        &ours,
        "-o",
        "beginning",
        "-e",
        "-q",
        "-f",
        "%k %s\n",
    ]);
    let read = run(&mut consume, "").await?;
    let expected: Vec<_> = sent.iter().map(|line| format!("k {line}")).collect();
    assert_eq!(read.lines().collect::<Vec<_>>(), expected);
    Ok(())
}

#[tokio::test]
#[ignore = "needs java and Kafka's jars"]
async fn kafkas_console_producer_and_consumer_work() -> TestResult {
    let mut produce = kafka_tool("org.apache.kafka.tools.ConsoleProducer")?;
    let mut consume = kafka_tool("org.apache.kafka.tools.consumer.ConsoleConsumer")?;
    let cluster = Cluster::start().await?;
    let topic = cluster.topic("console", 1).await?;
    let sent = lines(200);
    let server = cluster.bootstrap_servers();
    produce.args(["--bootstrap-server", server, "--topic", &topic]);
    run(&mut produce, &(sent.join("\n") + "\n")).await?;
    let read = read_all(&cluster.client().await?, &topic, 1).await?;
    assert_eq!(read.len(), 200);
    consume.args([
        "--bootstrap-server",
        server,
        "--topic",
        &topic,
        "--from-beginning",
        "--max-messages",
        "200",
    ]);
    consume.args(["--group", &topic]);
    let read = run(&mut consume, "").await?;
    assert_eq!(read.lines().collect::<Vec<_>>(), sent);
    Ok(())
}

#[tokio::test]
#[ignore = "needs java and Kafka's jars"]
async fn kafkas_topic_tool_creates_describes_and_deletes() -> TestResult {
    const CLASS: &str = "org.apache.kafka.tools.TopicCommand";
    let mut create = kafka_tool(CLASS)?;
    let cluster = Cluster::start().await?;
    let topic = integration_tests::unique("by-java");
    let server = cluster.bootstrap_servers();
    create.args(["--bootstrap-server", server, "--create", "--topic", &topic, "--partitions", "3"]);
    create.args(["--config", "retention.ms=1000"]);
    run(&mut create, "").await?;
    let mut describe = kafka_tool(CLASS)?;
    describe.args(["--bootstrap-server", server, "--describe", "--topic", &topic]);
    let described = run(&mut describe, "").await?;
    assert!(
        described.contains("PartitionCount: 3") && described.contains("retention.ms=1000"),
        "{described}"
    );
    let mut delete = kafka_tool(CLASS)?;
    delete.args(["--bootstrap-server", server, "--delete", "--topic", &topic]);
    run(&mut delete, "").await?;
    let mut list = kafka_tool(CLASS)?;
    list.args(["--bootstrap-server", server, "--list"]);
    assert!(!run(&mut list, "").await?.contains(&topic));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs java and Kafka's jars"]
async fn kafkas_tools_see_three_nodes_and_bring_the_preferred_leader_back() -> TestResult {
    let broker = kafka_broker::Broker::builder().nodes(3).start().await?;
    let servers = broker.bootstrap_servers();
    let topics = |args: &[&str]| {
        let mut command = kafka_tool("org.apache.kafka.tools.TopicCommand")?;
        command.args(["--bootstrap-server", &servers, "--topic", "t"]).args(args);
        TestResult::Ok(command)
    };
    run(&mut topics(&["--create", "--partitions", "1", "--replication-factor", "3"])?, "").await?;
    broker.control().stop(1).await?;
    let described = run(&mut topics(&["--describe"])?, "").await?;
    assert!(described.contains("Leader: 2\tReplicas: 1,2,3\tIsr: 2,3"), "{described}");
    let under_replicated = run(&mut topics(&["--describe", "--under-replicated-partitions"])?, "").await?;
    assert!(under_replicated.contains("Partition: 0"), "{under_replicated}");
    broker.control().start(1).await?;
    let in_sync = async || Ok(broker.control().leader("t", 0).is_some_and(|now| now.isr.len() == 3));
    eventually("node 1 is in sync again", in_sync).await?;
    let mut elect = kafka_tool("org.apache.kafka.tools.LeaderElectionCommand")?;
    elect.args(["--bootstrap-server", &servers, "--election-type", "preferred"]);
    elect.args(["--topic", "t", "--partition", "0"]);
    let elected = run(&mut elect, "").await?;
    assert!(elected.contains("Successfully completed leader election"), "{elected}");
    let described = run(&mut topics(&["--describe"])?, "").await?;
    assert!(described.contains("Leader: 1\tReplicas: 1,2,3\tIsr: 1,2,3"), "{described}");
    broker.shutdown().await;
    Ok(())
}

#[tokio::test]
#[ignore = "needs java and KAFKA_JARS"]
async fn a_produced_and_compacted_folder_passes_kafkas_own_checks() -> TestResult {
    let dir = tempfile::tempdir()?;
    let broker = kafka_broker::Broker::builder()
        .data_dir(dir.path())
        .config("log.cleaner.backoff.ms", "20")
        .start()
        .await?;
    let client = kafka_client::Client::connect(&broker.bootstrap_servers()).await?;
    let admin = kafka_admin::Admin::new(client.clone());
    let compacted = kafka_admin::NewTopic::new("compacted", 1, 1)
        .config("cleanup.policy", "compact")
        .config("min.cleanable.dirty.ratio", "0")
        .config("segment.ms", "1000");
    let plain = kafka_admin::NewTopic::new("plain", 1, 1).config("compression.type", "zstd");
    admin.create_topics([compacted, plain]).await?.all()?;
    let producer = client.producer().build()?;
    for (round, timestamp) in [(0, 1_000_000), (1, 1_002_000), (2, 1_004_000)] {
        for i in 0..500 {
            let record = Record::to("compacted").key(format!("k{}", i % 50)).value(format!("{round}-{i}"));
            let delivery = producer.send(record.timestamp(timestamp)).await?;
            let value = format!("value {i}");
            drop(producer.send(Record::to("plain").value(value)).await?);
            if i == 499 {
                delivery.await?;
            }
        }
    }
    producer.flush().await;
    let log = dir.path().join("compacted-0/00000000000000000000.log");
    integration_tests::eventually("the log is compacted", async || {
        let names = std::fs::read_dir(dir.path().join("compacted-0"))?;
        let logs = names.filter(|name| {
            name.as_ref().is_ok_and(|name| name.path().extension().is_some_and(|it| it == "log"))
        });
        Ok(logs.count() == 2 && std::fs::metadata(&log)?.len() < 5000)
    })
    .await?;
    broker.shutdown().await;

    for topic in ["compacted-0", "plain-0"] {
        for entry in std::fs::read_dir(dir.path().join(topic))? {
            let path = entry?.path();
            let check = match path.extension().and_then(|it| it.to_str()) {
                Some("log") => "--deep-iteration",
                Some("index" | "timeindex") => "--index-sanity-check",
                _ => continue,
            };
            let mut dump = kafka_tool("org.apache.kafka.tools.DumpLogSegments")?;
            let text = run(dump.arg(check).arg("--files").arg(&path), "").await?;
            let is_sound = !text.contains("isvalid: false") && !text.contains("isValid: false");
            assert!(is_sound && !text.contains("Found"), "{}: {text}", path.display());
        }
    }
    Ok(())
}

/// A `VerifiableConsumer` of Kafka's that runs until it is dropped.
fn verifiable_consumer(server: &str, group: &str, protocol: &str) -> TestResult<tokio::process::Child> {
    let mut command = kafka_tool("org.apache.kafka.tools.VerifiableConsumer")?;
    command.args(["--bootstrap-server", server, "--topic", group, "--group-id", group]);
    command.args(["--group-protocol", protocol, "--reset-policy", "earliest"]);
    command.args(["--assignment-strategy", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor"]);
    Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn()?)
}

/// What `kafka-consumer-groups --describe` says of a group, with these further arguments.
pub(crate) async fn described(server: &str, group: &str, args: &[&str]) -> TestResult<String> {
    let mut describe = kafka_tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand")?;
    describe.args(["--bootstrap-server", server, "--describe", "--group", group]).args(args);
    run(&mut describe, "").await
}

/// Members by the columns of `--members --verbose`: how many partitions each has.
fn partition_counts(members: &str) -> Vec<usize> {
    let rows = members.lines().filter(|line| line.contains("consumer-") && !line.contains("CONSUMER-ID"));
    rows.filter_map(|row| row.split_whitespace().nth(4)?.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs java and Kafka's jars"]
async fn javas_consumers_of_both_protocols_share_a_group_that_changes_its_protocol_with_them() -> TestResult {
    let cluster = Cluster::start().await?;
    let group = cluster.topic("both-protocols", 4).await?;
    let server = cluster.bootstrap_servers();
    let all_have = async |expected: &[usize]| {
        eventually("the group is assigned", async || {
            let members = described(server, &group, &["--members", "--verbose"]).await.unwrap_or_default();
            Ok(partition_counts(&members) == expected)
        })
        .await
    };
    let classic = verifiable_consumer(server, &group, "classic")?;
    all_have(&[4]).await?;
    let consumer = verifiable_consumer(server, &group, "consumer")?;
    all_have(&[2, 2]).await?;
    let state = described(server, &group, &["--state"]).await?;
    assert!(state.contains("uniform") && state.contains("Stable"), "{state}");
    let mut list = kafka_tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand")?;
    list.args(["--bootstrap-server", server, "--list", "--type", "consumer"]);
    assert!(run(&mut list, "").await?.contains(&group));
    drop((classic, consumer));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs java and Kafka's jars"]
async fn javas_console_consumer_reads_by_pattern_in_a_consumer_group() -> TestResult {
    let cluster = Cluster::start().await?;
    let topic = cluster.topic("by-pattern", 3).await?;
    let producer = cluster.client().await?.producer().build()?;
    let sent = lines(300);
    for line in &sent {
        drop(producer.send(Record::to(&topic).value(line.clone())).await?);
    }
    producer.flush().await;
    let pattern = format!("{}.*", &topic[..topic.len() - 1]);
    let mut consume = kafka_tool("org.apache.kafka.tools.consumer.ConsoleConsumer")?;
    consume.args(["--bootstrap-server", cluster.bootstrap_servers(), "--include", &pattern]);
    consume.args(["--group", &topic, "--from-beginning", "--max-messages", "300"]);
    consume.args(["--command-property", "group.protocol=consumer"]);
    let read = run(&mut consume, "").await?;
    let mut read: Vec<&str> = read.lines().collect();
    read.sort_unstable();
    let mut expected: Vec<&str> = sent.iter().map(String::as_str).collect();
    expected.sort_unstable();
    assert_eq!(read, expected);
    Ok(())
}
