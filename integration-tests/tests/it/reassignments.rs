//! Partitions that move to other nodes (KIP-455) while they are served: slowly where a limit says so (KIP-73), over
//! restarts of the whole cluster, and at the command of Kafka's own tool.

use std::time::Duration;

use integration_tests::{PATIENCE, TestResult, eventually, unique};
use kafka_admin::{Admin, ConfigChange, ConfigResource, NewTopic};
use kafka_broker::{Broker, MemoryDisk};
use kafka_client::producer::Record;
use kafka_client::{Client, Target};

use kafka_wire::StrBytes;
use kafka_wire::messages::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use kafka_wire::messages::{
    AlterPartitionReassignmentsRequest, BrokerId, ListPartitionReassignmentsRequest, TopicName,
};

use crate::consume::read_all;
use crate::interop::{kafka_tool, run};

const VALUE_BYTES: usize = 1000;
const RECORDS: usize = 3000;

async fn start(disks: &[MemoryDisk]) -> TestResult<(Broker, Client)> {
    let mut builder = Broker::builder().nodes(disks.len());
    for disk in disks {
        builder = builder.memory_disk(disk);
    }
    let broker = builder.start().await?;
    let client = Client::connect(&broker.bootstrap_servers()).await?;
    Ok((broker, client))
}

/// A topic of one partition on the first node, with three megabytes in it.
async fn filled(client: &Client, topic: &str) -> TestResult {
    let new = NewTopic::new(topic, 1, 1).assignments([vec![1]]);
    Admin::new(client.clone()).create_topics([new]).await?.all()?;
    let producer = client.producer().build()?;
    for number in 0..RECORDS {
        drop(producer.send(Record::to(topic).value(format!("{number:0VALUE_BYTES$}"))).await?);
    }
    producer.close(PATIENCE).await?;
    Ok(())
}

async fn is_whole(client: &Client, topic: &str) -> TestResult {
    let read = read_all(client, topic, 1).await?;
    let values: Vec<String> = read
        .iter()
        .map(|record| String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned())
        .collect();
    assert_eq!(values.len(), RECORDS);
    assert!(values.iter().enumerate().all(|(number, value)| *value == format!("{number:0VALUE_BYTES$}")));
    Ok(())
}

async fn configure(client: &Client, resource: ConfigResource, change: ConfigChange) -> TestResult {
    Admin::new(client.clone()).incremental_alter_configs([(resource, vec![change])]).await?.all()?;
    Ok(())
}

async fn reassign(client: &Client, topic: &str, nodes: &[i32]) -> TestResult {
    let nodes = nodes.iter().copied().map(BrokerId).collect();
    let partition = ReassignablePartition::default().with_partition_index(0).with_replicas(Some(nodes));
    let topic = ReassignableTopic::default()
        .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partitions(vec![partition]);
    let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]);
    let answer = client.request(request).to(Target::Controller).await?;
    assert_eq!(answer.responses[0].partitions[0].error_code, 0, "{answer:?}");
    Ok(())
}

async fn is_under_way(client: &Client, topic: &str) -> TestResult<bool> {
    let request = ListPartitionReassignmentsRequest::default().with_topics(None);
    let answer = client.request(request).to(Target::Controller).await?;
    Ok(answer.topics.iter().any(|it| **it.name == *topic))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throttled_reassignment_waits_goes_on_after_a_restart_and_ends_without_its_limit() -> TestResult {
    for (side, node) in [("leader", 1), ("follower", 2)] {
        let disks = [MemoryDisk::default(), MemoryDisk::default()];
        let (broker, client) = start(&disks).await?;
        let topic = unique("throttled");
        filled(&client, &topic).await?;
        let (listed, rate) =
            (format!("{side}.replication.throttled.replicas"), format!("{side}.replication.throttled.rate"));
        let throttled = ConfigChange::set(listed, format!("0:{node}"));
        configure(&client, ConfigResource::Topic(topic.clone()), throttled).await?;
        // At this rate it would last two days: all that is copied is the first burst.
        configure(&client, ConfigResource::Broker(node), ConfigChange::set(&rate, "10")).await?;
        reassign(&client, &topic, &[2]).await?;
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert!(is_under_way(&client, &topic).await?, "{side}");
        is_whole(&client, &topic).await?;
        broker.shutdown().await;

        let (broker, client) = start(&disks).await?;
        eventually("it serves again", async || Ok(read_all(&client, &topic, 1).await.is_ok())).await?;
        assert!(is_under_way(&client, &topic).await?, "{side}");
        configure(&client, ConfigResource::Broker(node), ConfigChange::delete(&rate)).await?;
        eventually("the partition has moved", async || Ok(!is_under_way(&client, &topic).await?)).await?;
        let now = broker.control().leader(&topic, 0).ok_or("no such partition")?;
        assert_eq!((now.leader, now.replicas, now.isr), (Some(2), vec![2], vec![2]));
        is_whole(&client, &topic).await?;
        broker.shutdown().await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs java and Kafka's jars"]
async fn kafkas_reassignment_tool_moves_verifies_lists_and_cancels() -> TestResult {
    let broker = Broker::builder().nodes(4).start().await?;
    let client = Client::connect(&broker.bootstrap_servers()).await?;
    let topic = unique("by-tool");
    filled(&client, &topic).await?;
    let folder = tempfile::tempdir()?;
    let plan = folder.path().join("plan.json");
    let target = |nodes: &str| {
        let text = format!(
            r#"{{"version":1,"partitions":[{{"topic":"{topic}","partition":0,"replicas":[{nodes}]}}]}}"#
        );
        std::fs::write(&plan, text)
    };
    let tool = async |arguments: &[&str], with_plan: bool| {
        let mut tool = kafka_tool("org.apache.kafka.tools.reassign.ReassignPartitionsCommand")?;
        tool.args(["--bootstrap-server", &broker.bootstrap_servers()]).args(arguments);
        if with_plan {
            tool.arg("--reassignment-json-file").arg(&plan);
        }
        run(&mut tool, "").await
    };
    target("3,4")?;
    let told = tool(&["--execute"], true).await?;
    assert!(told.contains("Successfully started partition reassignment"), "{told}");
    eventually("the partition has moved", async || Ok(!is_under_way(&client, &topic).await?)).await?;
    let told = tool(&["--verify"], true).await?;
    assert!(told.contains(&format!("Reassignment of partition {topic}-0 is completed.")), "{told}");

    // Ten bytes a second: what is begun does not end.
    target("1,2")?;
    let told = tool(&["--execute", "--throttle", "10"], true).await?;
    assert!(told.contains("The inter-broker throttle limit was set to 10 B/s"), "{told}");
    let told = tool(&["--list"], false).await?;
    assert!(told.contains(&format!("{topic}-0: replicas: 1,2,3,4")), "{told}");
    let told = tool(&["--cancel"], true).await?;
    assert!(told.contains("Successfully cancelled partition reassignment"), "{told}");
    let now = broker.control().leader(&topic, 0).ok_or("no such partition")?;
    assert_eq!((now.replicas, now.isr.len()), (vec![3, 4], 2));
    let told = tool(&["--list"], false).await?;
    assert!(told.contains("No partition reassignments found."), "{told}");
    is_whole(&client, &topic).await?;
    broker.shutdown().await;
    Ok(())
}
