//! What a consumer promises without a group: assigned partitions, in order, from where it was told.

use std::time::Duration;

use bytes::Bytes;
use integration_tests::{Cluster, PATIENCE, TestResult};
use kafka_client::consumer::OffsetReset;
use kafka_client::producer::Record;
use kafka_client::{Client, TopicPartition};
use tokio::time::timeout;

/// A record as a test looks at it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Read {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<(String, Option<Bytes>)>,
}

/// Everything that the topic holds now, each partition in order.
pub(crate) async fn read_all(client: &Client, topic: &str, partitions: i32) -> TestResult<Vec<Read>> {
    let all: Vec<TopicPartition> = (0..partitions).map(|p| TopicPartition::new(topic, p)).collect();
    let consumer = client.consumer().assign(all.clone()).auto_offset_reset(OffsetReset::Earliest).build()?;
    let mut unread = consumer.end_offsets(&all).await?;
    unread.retain(|_, end| *end > 0);
    let mut read = Vec::new();
    while !unread.is_empty() {
        let record = timeout(PATIENCE, consumer.next()).await??.ok_or("the consumer ended")?;
        let headers =
            record.headers.iter().map(|h| (h.key.to_owned(), h.value.map(Bytes::copy_from_slice))).collect();
        let of = TopicPartition::new(topic, record.partition);
        if unread.get(&of).is_some_and(|&end| record.offset + 1 >= end) {
            unread.remove(&of);
        }
        read.push(Read {
            partition: record.partition,
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key.clone(),
            value: record.value.clone(),
            headers,
        });
    }
    consumer.close().await?;
    Ok(read)
}

async fn fill(client: &Client, topic: &str, partition: i32, values: std::ops::Range<u32>) -> TestResult {
    let producer = client.producer().build()?;
    for value in values {
        drop(producer.send(Record::to(topic).partition(partition).value(value.to_string())).await?);
    }
    producer.close(Duration::from_secs(30)).await?;
    Ok(())
}

async fn next_value(consumer: &kafka_client::consumer::Consumer) -> TestResult<u32> {
    let record = timeout(PATIENCE, consumer.next()).await??.ok_or("the consumer ended")?;
    Ok(std::str::from_utf8(record.value.as_deref().unwrap_or_default())?.parse()?)
}

#[tokio::test]
async fn a_consumer_starts_at_the_end_unless_told_otherwise() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("latest", 1).await?;
    fill(&client, &topic, 0, 0..10).await?;
    let at = TopicPartition::new(topic.as_str(), 0);
    let consumer = client.consumer().assign([at.clone()]).build()?;
    // The position is known once the consumer has asked for the end.
    assert_eq!(consumer.position(&at).await?, 10);
    fill(&client, &topic, 0, 10..12).await?;
    assert_eq!((next_value(&consumer).await?, next_value(&consumer).await?), (10, 11));
    Ok(())
}

#[tokio::test]
async fn seeking_replays_and_skips() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("seek", 1).await?;
    fill(&client, &topic, 0, 0..1000).await?;
    let at = TopicPartition::new(topic.as_str(), 0);
    let consumer = client.consumer().assign([at.clone()]).auto_offset_reset(OffsetReset::Earliest).build()?;
    assert_eq!(next_value(&consumer).await?, 0);
    for target in [900u32, 5, 999, 0, 500] {
        consumer.seek(&at, i64::from(target))?;
        assert_eq!(next_value(&consumer).await?, target);
    }
    assert_eq!(next_value(&consumer).await?, 501);
    Ok(())
}

#[tokio::test]
async fn a_paused_partition_is_silent_and_loses_nothing() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("pause", 2).await?;
    fill(&client, &topic, 0, 0..500).await?;
    fill(&client, &topic, 1, 1000..1500).await?;
    let [first, second] = [0, 1].map(|p| TopicPartition::new(topic.as_str(), p));
    let consumer = client
        .consumer()
        .assign([first.clone(), second.clone()])
        .auto_offset_reset(OffsetReset::Earliest)
        .build()?;
    consumer.pause([first.clone()])?;
    for expected in 1000..1500 {
        assert_eq!(next_value(&consumer).await?, expected);
    }
    consumer.resume([first])?;
    for expected in 0..500 {
        assert_eq!(next_value(&consumer).await?, expected);
    }
    Ok(())
}

#[tokio::test]
async fn records_below_the_position_of_a_batch_are_not_shown() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("mid-batch", 1).await?;
    fill(&client, &topic, 0, 0..200).await?;
    let at = TopicPartition::new(topic.as_str(), 0);
    let consumer = client.consumer().assign([at.clone()]).build()?;
    consumer.seek(&at, 137)?;
    assert_eq!(next_value(&consumer).await?, 137);
    Ok(())
}

#[tokio::test]
async fn offsets_are_found_by_time() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("by-time", 1).await?;
    let producer = client.producer().build()?;
    let start = 1_750_000_000_000;
    for i in 0..100 {
        producer.send(Record::to(&topic).value("x").timestamp(start + 10 * i)).await?.await?;
    }
    let at = TopicPartition::new(topic.as_str(), 0);
    let consumer = client.consumer().assign([at.clone()]).build()?;
    for (time, offset) in
        [(start, Some(0)), (start + 55, Some(6)), (start + 990, Some(99)), (start + 991, None)]
    {
        let found = consumer.offsets_for_times([(at.clone(), time)]).await?;
        assert_eq!(
            found.get(&at).and_then(|found| found.as_ref()).map(|found| found.offset),
            offset,
            "{time}"
        );
    }
    Ok(())
}
