//! Three nodes under load: leaders that move, nodes that stop and crash. What a producer was told is there: every
//! acknowledged record, once, in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use integration_tests::{PATIENCE, TestResult, eventually, show_logs, unique};
use kafka_admin::{Admin, NewTopic, OffsetSpec};
use kafka_broker::Broker;
use kafka_client::Client;
use kafka_client::consumer::OffsetReset;
use kafka_client::producer::Record;
use tokio::time::timeout;

use crate::consume::read_all;

const PARTITIONS: i32 = 4;

async fn three_nodes(topic: &str) -> TestResult<(Arc<Broker>, Client)> {
    show_logs();
    let broker = Broker::builder().nodes(3).config("min.insync.replicas", "2").start().await?;
    let client = Client::connect(&broker.bootstrap_servers()).await?;
    let admin = Admin::new(client.clone());
    admin.create_topics([NewTopic::new(topic, PARTITIONS, 3)]).await?.all()?;
    let ends = || (0..PARTITIONS).map(|partition| ((topic, partition), OffsetSpec::Latest));
    eventually("its leaders serve it", async || Ok(admin.list_offsets(ends()).await?.all().is_ok())).await?;
    Ok((Arc::new(broker), client))
}

/// Waits until every replica of the topic is in sync.
async fn all_in_sync(broker: &Broker, topic: &str) -> TestResult {
    let in_sync =
        || (0..PARTITIONS).all(|p| broker.control().leader(topic, p).is_some_and(|now| now.isr.len() == 3));
    eventually("all replicas are in sync", async || Ok(in_sync())).await
}

/// Moves every leader to its next replica.
async fn rotate(broker: &Broker, topic: &str) -> TestResult {
    for partition in 0..PARTITIONS {
        let now = broker.control().leader(topic, partition).ok_or("no such partition")?;
        let at = now.isr.iter().position(|&node| Some(node) == now.leader).unwrap_or(0);
        let next = now.isr[(at + 1) % now.isr.len()];
        broker.control().move_leader(topic, partition, next).await?;
    }
    Ok(())
}

/// Sends numbered records until told to stop. Returns what was acknowledged, by partition: offsets and numbers.
async fn send(
    client: Client,
    topic: String,
    stop: Arc<AtomicBool>,
) -> TestResult<BTreeMap<i32, Vec<(i64, u64)>>> {
    let producer = client.producer().linger(Duration::from_millis(1)).build()?;
    let mut deliveries = Vec::new();
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..100 {
            let partition = (number % PARTITIONS as u64) as i32;
            let record = Record::to(&topic).partition(partition).value(number.to_string());
            deliveries.push((number, producer.send(record).await?));
            number += 1;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut acknowledged: BTreeMap<i32, Vec<(i64, u64)>> = BTreeMap::new();
    for (number, delivery) in deliveries {
        let written = delivery.await.map_err(|error| format!("record {number}: {error}"))?;
        acknowledged.entry(written.partition).or_default().push((written.offset, number));
    }
    producer.close(PATIENCE).await?;
    Ok(acknowledged)
}

/// Every record was acknowledged, so each partition holds exactly them, in the order in which they were sent.
async fn check(client: &Client, topic: &str, acknowledged: BTreeMap<i32, Vec<(i64, u64)>>) -> TestResult {
    let read = read_all(client, topic, PARTITIONS).await?;
    for (partition, acknowledged) in acknowledged {
        let found: Vec<(i64, u64)> = read
            .iter()
            .filter(|record| record.partition == partition)
            .map(|record| {
                let value = record.value.as_ref().map(|value| String::from_utf8_lossy(value).into_owned());
                Ok((record.offset, value.unwrap_or_default().parse()?))
            })
            .collect::<TestResult<_>>()?;
        assert!(acknowledged.len() > 100, "partition {partition}: {}", acknowledged.len());
        assert!(found == acknowledged, "partition {partition} does not hold what was acknowledged, in order");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_record_is_lost_or_doubled_while_leaders_move() -> TestResult {
    let topic = unique("moving");
    let (broker, client) = three_nodes(&topic).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let sending = tokio::spawn(send(client.clone(), topic.clone(), Arc::clone(&stop)));
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        rotate(&broker, &topic).await?;
    }
    stop.store(true, Ordering::Relaxed);
    let acknowledged = timeout(PATIENCE, sending).await???;
    check(&client, &topic, acknowledged).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_record_is_lost_or_doubled_while_nodes_stop_and_crash() -> TestResult {
    let topic = unique("failing");
    let (broker, client) = three_nodes(&topic).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let sending = tokio::spawn(send(client.clone(), topic.clone(), Arc::clone(&stop)));
    for (round, node) in (0..6).zip([1, 2, 3].into_iter().cycle()) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        match round % 2 {
            0 => broker.control().stop(node).await?,
            _ => broker.control().crash(node).await?,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        broker.control().start(node).await?;
        all_in_sync(&broker, &topic).await?;
    }
    stop.store(true, Ordering::Relaxed);
    let acknowledged = timeout(PATIENCE, sending).await???;
    check(&client, &topic, acknowledged).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_goes_on_when_its_coordinator_and_its_leaders_go() -> TestResult {
    let topic = unique("group");
    let (broker, client) = three_nodes(&topic).await?;
    let producer = client.producer().build()?;
    let consumer = client
        .consumer()
        .group(unique("g"))
        .topics([topic.as_str()])
        .auto_offset_reset(OffsetReset::Earliest)
        .build()?;
    let mut seen = Vec::new();
    for round in 0..3u64 {
        for number in 0..100 {
            let value = (round * 100 + number).to_string();
            let record = Record::to(&topic).partition((number % PARTITIONS as u64) as i32).value(value);
            producer.send(record).await?.await?;
        }
        while seen.len() < (round as usize + 1) * 100 {
            let record = timeout(PATIENCE, consumer.next()).await??.ok_or("the consumer ended")?;
            let value = record.value.as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
            seen.push(value.parse::<u64>()?);
        }
        consumer.commit().await?;
        let node = [1, 2, 3][round as usize % 3];
        broker.control().stop(node).await?;
        broker.control().start(node).await?;
        all_in_sync(&broker, &topic).await?;
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, (0..300).collect::<Vec<_>>());
    consumer.close().await?;
    producer.close(PATIENCE).await?;
    Ok(())
}
