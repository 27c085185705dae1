//! Streams of single partitions, acknowledgements in any order, typed records, and calls that are dropped half-way.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures::StreamExt;
use integration_tests::{Cluster, PATIENCE, TestResult, eventually, unique};
use kafka_client::consumer::{
    CloseOptions, Consumer, OffsetAndMetadata, OffsetReset, PartitionStream, PartitionStreams, StreamEnd,
    TypedError,
};
use kafka_client::group::GroupProtocol;
use kafka_client::producer::Record;
use kafka_client::{Client, TopicPartition};
use tokio::time::timeout;

async fn fill(client: &Client, topic: &str, partitions: i32, records: u32) -> TestResult {
    let producer = client.producer().build()?;
    for value in 0..records {
        let partition = value as i32 % partitions;
        drop(producer.send(Record::to(topic).partition(partition).value(value.to_string())).await?);
    }
    producer.close(PATIENCE).await?;
    Ok(())
}

fn member(client: &Client, protocol: GroupProtocol, group: &str, topic: &str) -> TestResult<Consumer> {
    let builder = client.consumer().group(group).topics([topic]).protocol(protocol);
    Ok(builder.auto_offset_reset(OffsetReset::Earliest).build()?)
}

/// Both partitions as streams, of each of which ten records were handed out.
async fn hold_two(consumer: &Consumer) -> TestResult<(PartitionStreams, Vec<PartitionStream>)> {
    let mut streams = consumer.partition_streams();
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = timeout(PATIENCE, streams.next()).await?.ok_or("the consumer ended")??;
        for _ in 0..10 {
            stream.next().await.ok_or("the stream ended")??;
        }
        held.push(stream);
    }
    Ok((streams, held))
}

#[tokio::test]
async fn each_partition_is_a_stream_in_order() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("streams", 4).await?;
    fill(&client, &topic, 4, 400).await?;
    let all = (0..4).map(|partition| TopicPartition::new(topic.as_str(), partition));
    let consumer = client.consumer().assign(all).auto_offset_reset(OffsetReset::Earliest).build()?;
    let mut streams = consumer.partition_streams();
    let mut readers = Vec::new();
    for _ in 0..4 {
        let mut stream = timeout(PATIENCE, streams.next()).await?.ok_or("the consumer ended")??;
        readers.push(tokio::spawn(async move {
            let mut offsets = Vec::new();
            while offsets.len() < 100 {
                let record = stream.next().await.ok_or("the stream ended")??;
                assert_eq!(record.partition, stream.topic_partition().partition);
                offsets.push(record.offset);
            }
            let ended = stream.next().await.is_none();
            TestResult::Ok((offsets, ended, stream.end_reason()))
        }));
    }
    eventually("all is read", async || Ok(consumer.positions().values().sum::<i64>() == 400)).await?;
    consumer.close().await?;
    for reader in readers {
        let (offsets, ended, reason) = timeout(PATIENCE, reader).await???;
        assert_eq!((offsets, ended, reason), ((0..100).collect(), true, Some(StreamEnd::Closed)));
    }
    assert!(streams.next().await.is_none());
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn a_revoked_stream_ends_and_the_rebalance_waits_until_it_is_released() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("revoke", 2).await?;
    let group = unique("g");
    fill(&client, &topic, 2, 100).await?;
    let first = member(&client, GroupProtocol::Classic, &group, &topic)?;
    let (mut streams, mut held) = hold_two(&first).await?;
    let second = member(&client, GroupProtocol::Classic, &group, &topic)?;
    let reader = {
        let second = second.clone();
        tokio::spawn(async move { second.next().await })
    };
    for stream in &mut held {
        assert_eq!(timeout(PATIENCE, stream.revoking()).await?, StreamEnd::Revoked);
        assert!(stream.next().await.is_none());
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(second.assignment().is_empty(), "the partitions are not let go of yet");
    // One is released with all that was handed out; the other is dropped, and gives its last record back.
    let (released, dropped) = (held.remove(0), held.remove(0));
    let expected: BTreeMap<i32, i64> =
        [(released.topic_partition().partition, 10), (dropped.topic_partition().partition, 9)].into();
    released.release();
    drop(dropped);
    let record = timeout(PATIENCE, reader).await???.ok_or("the consumer ended")?;
    assert_eq!(record.offset, expected[&record.partition]);
    // What stays goes on as a new stream, where the released one stopped.
    let mut again = timeout(PATIENCE, streams.next()).await?.ok_or("the consumer ended")??;
    let record = timeout(PATIENCE, again.next()).await?.ok_or("the stream ended")??;
    assert_eq!(record.offset, expected[&record.partition]);
    again.release();
    second.close().await?;
    first.close().await?;
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn only_the_stream_that_moves_ends_where_the_coordinator_assigns() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("moves", 2).await?;
    let group = unique("g");
    fill(&client, &topic, 2, 100).await?;
    let first = member(&client, GroupProtocol::Consumer, &group, &topic)?;
    let (_streams, mut held) = hold_two(&first).await?;
    let second = member(&client, GroupProtocol::Consumer, &group, &topic)?;
    let reader = {
        let second = second.clone();
        tokio::spawn(async move { second.next().await })
    };
    let [a, b] = held.as_mut_slice() else { return Err("two streams".into()) };
    let moved = timeout(PATIENCE, async {
        tokio::select! {
            end = a.revoking() => (0, end),
            end = b.revoking() => (1, end),
        }
    });
    let (moved, end) = moved.await?;
    assert_eq!(end, StreamEnd::Revoked);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(second.assignment().is_empty(), "the partition is not let go of yet");
    let gone = held.remove(moved);
    let partition = gone.topic_partition().partition;
    gone.release();
    let record = timeout(PATIENCE, reader).await???.ok_or("the consumer ended")?;
    assert_eq!((record.partition, record.offset), (partition, 10));
    let mut kept = held.remove(0);
    let record = timeout(PATIENCE, kept.next()).await?.ok_or("the stream ended")??;
    assert_eq!(record.offset, 10);
    kept.release();
    second.close().await?;
    first.close().await?;
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn acknowledgements_in_any_order_commit_up_to_the_first_that_is_missing() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("acks", 1).await?;
    let at = TopicPartition::new(topic.as_str(), 0);
    let group = unique("g");
    fill(&client, &topic, 1, 20).await?;
    let consumer = client
        .consumer()
        .group(&group)
        .topics([topic.as_str()])
        .auto_offset_reset(OffsetReset::Earliest)
        .acknowledgements(true)
        .max_unacknowledged(10)
        .auto_commit_interval(Duration::from_millis(50))
        .build()?;
    let mut records = Vec::new();
    for _ in 0..10 {
        records.push(timeout(PATIENCE, consumer.next()).await??.ok_or("the consumer ended")?);
    }
    assert!(timeout(Duration::from_millis(300), consumer.next()).await.is_err(), "ten may be out");
    for record in records.iter().rev().filter(|record| record.offset != 3) {
        consumer.ack(record);
    }
    assert_eq!(consumer.oldest_unacknowledged(&at), Some(3));
    let committed = async || TestResult::Ok(consumer.committed([&at]).await?.get(&at).map(|it| it.offset));
    eventually("three are committed", async || Ok(committed().await? == Some(3))).await?;
    // There is room again, and the commit stays before the one that is missing.
    for _ in 0..9 {
        consumer.ack(&timeout(PATIENCE, consumer.next()).await??.ok_or("the consumer ended")?);
    }
    consumer.commit().await?;
    assert_eq!(committed().await?, Some(3));
    consumer.ack(&records[3]);
    consumer.commit().await?;
    assert_eq!(committed().await?, Some(19));
    consumer.close().await?;
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn commits_in_the_background_keep_their_order_and_their_metadata() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("background", 1).await?;
    let at = TopicPartition::new(topic.as_str(), 0);
    let consumer = client.consumer().group(unique("g")).assign([at.clone()]).build()?;
    let commits: Vec<_> = (1..=20)
        .map(|offset| {
            let offset = OffsetAndMetadata::new(offset).with_metadata(format!("at {offset}"));
            consumer.commit_in_background([(at.clone(), offset)])
        })
        .collect();
    for commit in commits {
        timeout(PATIENCE, commit).await??;
    }
    let committed = consumer.committed([&at]).await?;
    assert_eq!((committed[&at].offset, committed[&at].metadata.as_str()), (20, "at 20"));
    drop(consumer.commit_in_background([(at.clone(), OffsetAndMetadata::new(21))]));
    consumer.close().await?;
    let other = client.consumer().group("other").assign([at.clone()]).build()?;
    assert!(other.committed([&at]).await?.is_empty());
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn a_member_that_remains_keeps_its_place_and_one_that_asks_is_assigned_anew() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("remain", 1).await?;
    let group = unique("g");
    // Of KIP-848 the coordinator decides when to assign anew.
    let consumer = member(&client, GroupProtocol::Classic, &group, &topic)?;
    let mut rebalances = consumer.rebalances();
    timeout(PATIENCE, rebalances.recv()).await??;
    let waiting = {
        let consumer = consumer.clone();
        tokio::spawn(async move { consumer.next().await })
    };
    assert!(consumer.enforce_rebalance());
    for _ in 0..2 {
        timeout(PATIENCE, rebalances.recv()).await??;
    }
    let admin = kafka_admin::Admin::new(client.clone());
    let members = async || {
        let groups = admin.describe_consumer_groups([group.as_str()]).await?.all()?;
        TestResult::Ok(groups.iter().map(|(_, described)| described.members.len()).sum::<usize>())
    };
    eventually("it is a member again", async || Ok(members().await? == 1)).await?;
    consumer.close_with(CloseOptions::within(PATIENCE).remain_in_group()).await?;
    assert_eq!(members().await?, 1, "until its session ends");
    timeout(PATIENCE, waiting).await???;
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn typed_records_are_read_and_what_is_not_of_the_type_is_an_error_with_the_record() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("typed", 1).await?;
    let producer = client.producer().build()?;
    for (key, value) in [("a", &7i64.to_be_bytes()[..]), ("b", b"no number"), ("c", &9i64.to_be_bytes())] {
        producer.send(Record::to(&topic).partition(0).key(key).value(value.to_vec())).await?.await?;
    }
    let at = TopicPartition::new(topic.as_str(), 0);
    let consumer = client.consumer().assign([at]).auto_offset_reset(OffsetReset::Earliest).build()?;
    let typed = consumer.typed::<Option<String>, i64>();
    let first = timeout(PATIENCE, typed.next()).await??.ok_or("the consumer ended")?;
    assert_eq!((first.key.as_deref(), first.value, first.record.offset), (Some("a"), 7, 0));
    let mut stream = pin!(typed.into_stream());
    match timeout(PATIENCE, stream.next()).await? {
        Some(Err(TypedError::Undecodable { record, is_key: false, .. })) => assert_eq!(record.offset, 1),
        other => return Err(format!("{other:?}").into()),
    }
    let third = timeout(PATIENCE, stream.next()).await?.ok_or("the consumer ended")??;
    assert_eq!((third.key.as_deref(), third.value), (Some("c"), 9));
    cluster.shutdown().await;
    Ok(())
}

/// Polls a future so many times, with time for others in between, and drops it if it is not ready by then.
async fn poll_and_drop<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..polls {
        let polled = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        tokio::task::yield_now().await;
    }
    None
}

#[tokio::test]
async fn calls_that_are_dropped_at_any_await_lose_and_double_nothing() -> TestResult {
    const RECORDS: u32 = 300;
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("cancel", 2).await?;
    let consumer = member(&client, GroupProtocol::Auto, &unique("g"), &topic)?;
    let filling = {
        let (client, topic) = (client.clone(), topic.clone());
        tokio::spawn(async move {
            let producer = client.producer().build()?;
            for value in 0..RECORDS {
                let record = Record::to(&topic).partition(value as i32 % 2).value(value.to_string());
                producer.send(record).await?.await?;
            }
            TestResult::Ok(())
        })
    };
    let mut seen: BTreeSet<(i32, i64)> = BTreeSet::new();
    let mut streams = consumer.partition_streams();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut add = |partition: i32, offset: i64| -> TestResult {
        let is_next = offset == 0 || seen.contains(&(partition, offset - 1));
        match seen.insert((partition, offset)) && is_next {
            true => Ok(()),
            false => Err(format!("{partition}@{offset} came twice or too early").into()),
        }
    };
    let mut read = 0;
    for round in 0usize.. {
        if read >= RECORDS {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{read} records came");
        let polls = round % 7;
        match round % 5 {
            0 => {
                if let Some(record) = poll_and_drop(polls, consumer.next()).await.transpose()?.flatten() {
                    add(record.partition, record.offset)?;
                    read += 1;
                }
            }
            1 => {
                if let Some(batch) = poll_and_drop(polls, consumer.next_batch()).await.transpose()?.flatten()
                {
                    let partition = batch.partition();
                    for record in batch {
                        add(partition, record?.offset)?;
                        read += 1;
                    }
                }
            }
            2 => drop(poll_and_drop(polls, consumer.commit()).await),
            3 => drop(poll_and_drop(polls, consumer.position(&TopicPartition::new(topic.as_str(), 0))).await),
            _ => {
                if let Some(stream) = poll_and_drop(polls, streams.next()).await.flatten() {
                    let mut stream = stream?;
                    for polls in 0..5 {
                        if let Some(record) = poll_and_drop(polls, stream.next()).await.flatten() {
                            let record = record?;
                            add(record.partition, record.offset)?;
                            read += 1;
                        }
                    }
                    stream.release();
                }
            }
        }
        tokio::task::yield_now().await;
    }
    timeout(PATIENCE, filling).await???;
    assert!(timeout(Duration::from_millis(200), consumer.next()).await.is_err(), "no record comes again");
    consumer.close().await?;
    cluster.shutdown().await;
    Ok(())
}
