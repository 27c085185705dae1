//! A disk that dies under a replica: the partition goes on with those whose disks work.

use std::sync::Arc;
use std::time::Duration;

use integration_tests::{PATIENCE, TestResult, eventually, show_logs, unique};
use kafka_admin::{Admin, NewTopic};
use kafka_broker::{Broker, MemoryDisk};
use kafka_client::Client;
use kafka_client::producer::Record;
use tokio::time::timeout;

use crate::consume::read_all;

/// Only on our broker: Apache Kafka's halts when its only log folder fails, which no test can ask it for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_disk_fails_neither_leads_nor_is_waited_for_until_its_node_restarts() -> TestResult {
    show_logs();
    let topic = unique("dying-disk");
    let disks: Vec<MemoryDisk> = (0..3).map(|_| MemoryDisk::default()).collect();
    let mut builder = Broker::builder().nodes(3).node_id(1).config("min.insync.replicas", "2");
    // Nobody leaves the in-sync replicas because of being slow.
    builder = builder.config("replica.lag.time.max.ms", "1000000");
    for disk in &disks {
        builder = builder.memory_disk(disk);
    }
    let broker = Arc::new(builder.start().await?);
    let client = Client::connect(&broker.bootstrap_servers()).await?;
    let admin = Admin::new(client.clone());
    admin.create_topics([NewTopic::new(&topic, 1, 3).config("flush.messages", "1")]).await?.all()?;
    let in_sync = |nodes: usize| {
        let now = broker.control().leader(&topic, 0);
        now.is_some_and(|now| now.leader.is_some() && now.isr.len() == nodes)
    };
    eventually("all replicas are in sync", async || Ok(in_sync(3))).await?;
    // Not the voter's disk, which the metadata is on.
    broker.control().move_leader(&topic, 0, 2).await?;

    let producer = client.producer().linger(Duration::ZERO).build()?;
    let mut written = Vec::new();
    for number in 0..30u32 {
        if number == 10 {
            disks[1].fail_syncs(true);
        }
        let record = Record::to(&topic).value(number.to_string());
        let delivery = producer.send(record).await?;
        written.push((timeout(PATIENCE, delivery).await??.offset, number.to_string()));
    }
    let now = broker.control().leader(&topic, 0).ok_or("no such partition")?;
    assert!(now.leader != Some(2) && !now.isr.contains(&2), "{now:?}");

    disks[1].fail_syncs(false);
    broker.control().crash(2).await?;
    broker.control().start(2).await?;
    eventually("the replica is in sync again", async || Ok(in_sync(3))).await?;

    // A follower's disk: what needs the follower's sync is acknowledged without it.
    broker.control().move_leader(&topic, 0, 1).await?;
    disks[2].fail_syncs(true);
    for number in 30..40u32 {
        let delivery = producer.send(Record::to(&topic).value(number.to_string())).await?;
        written.push((timeout(PATIENCE, delivery).await??.offset, number.to_string()));
    }
    let now = broker.control().leader(&topic, 0).ok_or("no such partition")?;
    assert_eq!((now.leader, now.isr), (Some(1), vec![1, 2]));
    broker.control().move_leader(&topic, 0, 2).await?;
    let read = read_all(&client, &topic, 1).await?;
    let text = |value: &Option<bytes::Bytes>| {
        String::from_utf8_lossy(value.as_deref().unwrap_or_default()).into_owned()
    };
    let read: Vec<(i64, String)> = read.iter().map(|record| (record.offset, text(&record.value))).collect();
    assert_eq!(read, written);
    producer.close(PATIENCE).await?;
    Ok(())
}
