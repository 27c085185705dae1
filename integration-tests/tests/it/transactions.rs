//! Transactions of the client's own producer.

use std::collections::BTreeMap;
use std::time::Duration;

use integration_tests::{Cluster, PATIENCE, TestResult, eventually, unique};
use kafka_client::consumer::{Consumer, IsolationLevel, OffsetAndMetadata, OffsetReset};
use kafka_client::producer::{
    AbortCause, CommitError, Compression, FatalError, GroupMetadata, Outcome, Producer, Record, SendError,
};
use kafka_client::{Client, TopicPartition};
use tokio::time::timeout;

fn producer(client: &Client, id: &str) -> TestResult<Producer> {
    Ok(client.producer().transactional_id(id).build()?)
}

fn reader(client: &Client, topic: &str, partitions: i32) -> TestResult<Consumer> {
    let all = (0..partitions).map(|partition| TopicPartition::new(topic, partition));
    let builder = client.consumer().assign(all).auto_offset_reset(OffsetReset::Earliest);
    Ok(builder.isolation_level(IsolationLevel::ReadCommitted).build()?)
}

/// So many values as a reader of committed records sees them; then nothing more comes.
async fn committed(client: &Client, topic: &str, partitions: i32, count: usize) -> TestResult<Vec<String>> {
    let consumer = reader(client, topic, partitions)?;
    let mut values = Vec::new();
    while values.len() < count {
        let record = timeout(PATIENCE, consumer.next()).await??.ok_or("the consumer ended")?;
        values.push(String::from_utf8(record.value.as_deref().unwrap_or_default().to_vec())?);
    }
    assert!(timeout(Duration::from_millis(300), consumer.next()).await.is_err(), "nothing more is to come");
    values.sort();
    Ok(values)
}

#[tokio::test]
async fn what_is_committed_shows_in_every_partition_and_what_is_aborted_never_does() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("tx", 3).await?;
    for compression in [Compression::None, Compression::Lz4] {
        let producer = client.producer().transactional_id(unique("tx")).compression(compression).build()?;
        let mut expected = Vec::new();
        for round in 0..6 {
            let transaction = producer.begin().await?;
            let previous = match round {
                0 => None,
                1 | 3 | 5 => Some(Outcome::Committed),
                _ => Some(Outcome::Aborted),
            };
            assert_eq!(transaction.previous(), previous);
            let values: Vec<String> = (0..20).map(|n| format!("{compression:?}-{round}-{n:02}")).collect();
            for (n, value) in (0..).zip(&values) {
                transaction.send(Record::to(&*topic).partition(n % 3).value(value)).await?;
            }
            match round {
                0 | 2 | 4 => {
                    transaction.commit().await?;
                    expected.extend(values);
                }
                1 => transaction.abort().await?,
                _ => drop(transaction),
            }
        }
        // The last one was dropped: the next waits for its end.
        let transaction = producer.begin().await?;
        assert_eq!(transaction.previous(), Some(Outcome::Aborted));
        transaction.commit().await?;
        let seen = committed(&client, &topic, 3, if compression == Compression::None { 60 } else { 120 });
        let seen: Vec<_> =
            seen.await?.into_iter().filter(|v| v.starts_with(&format!("{compression:?}-"))).collect();
        assert_eq!(seen, expected);
        producer.close(PATIENCE).await?;
    }
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn offsets_count_if_the_transaction_is_committed() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("tx-offsets", 1).await?;
    let (group, at) = (unique("g"), TopicPartition::new(topic.as_str(), 0));
    let producer = producer(&client, &unique("tx"))?;
    let consumer = client.consumer().group(&group).assign([at.clone()]).build()?;
    let metadata = consumer.group_metadata().ok_or("no group")?;
    assert_eq!(metadata, GroupMetadata::of_group(&group));
    for (offset, commits, expected) in [(5, false, None), (7, true, Some(7)), (9, false, Some(7))] {
        let transaction = producer.begin().await?;
        transaction.send(Record::to(&*topic).value("out")).await?;
        transaction.commit_offsets(&metadata, [(&at, OffsetAndMetadata::new(offset))]).await?;
        match commits {
            true => transaction.commit().await?,
            false => transaction.abort().await?,
        }
        let found = consumer.committed([&at]).await?.get(&at).map(|found| found.offset);
        assert_eq!(found, expected);
    }
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn the_last_producer_to_begin_fences_the_others_and_aborts_what_they_left() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("tx-fence", 1).await?;
    let id = unique("tx");
    let (old, new) = (producer(&client, &id)?, producer(&client, &id)?);
    let zombie = old.begin().await?;
    old.send(Record::to(&*topic).value("lost")).await?.await?;
    let transaction = new.begin().await?;
    transaction.send(Record::to(&*topic).value("kept")).await?;
    transaction.commit().await?;
    // The zombie's next record may be refused before its end is.
    zombie.send(Record::to(&*topic).value("late")).await?;
    let refused = zombie.commit().await.err().ok_or("a zombie committed")?;
    assert!(matches!(refused, CommitError::Fatal(FatalError::Fenced)), "{refused:?}");
    let again = old.begin().await.err().ok_or("a zombie began")?;
    assert!(again.is_fatal(), "{again:?}");
    assert_eq!(committed(&client, &topic, 1, 1).await?, ["kept"]);
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn a_record_that_is_not_written_spoils_its_transaction_and_not_the_next_one() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic_with("tx-spoilt", 1, &[("max.message.bytes", "1000")]).await?;
    let producer = producer(&client, &unique("tx"))?;
    let transaction = producer.begin().await?;
    transaction.send(Record::to(&*topic).value("good")).await?;
    let large = "x".repeat(5000);
    let delivery = producer.send(Record::to(&*topic).value(&large)).await?;
    assert!(matches!(delivery.await, Err(SendError::Refused { .. })));
    let refused = transaction.commit().await.err().ok_or("a spoilt transaction was committed")?;
    assert!(matches!(refused, CommitError::Aborted(AbortCause::Send(_))), "{refused:?}");
    assert!(refused.is_retriable());
    let transaction = producer.begin().await?;
    transaction.send(Record::to(&*topic).value("again")).await?;
    transaction.commit().await?;
    assert_eq!(committed(&client, &topic, 1, 1).await?, ["again"]);
    // Outside of a transaction nothing is written.
    let outside = producer.send(Record::to(&*topic).value("outside")).await?.await;
    assert!(matches!(outside, Err(SendError::NoTransaction)), "{outside:?}");
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn a_commit_that_nobody_waits_for_happens_and_the_next_transaction_tells() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("tx-cancel", 1).await?;
    let producer = producer(&client, &unique("tx"))?;
    let mut outcomes: BTreeMap<usize, Outcome> = BTreeMap::new();
    for polls in 0..4 {
        let transaction = producer.begin().await?;
        transaction.send(Record::to(&*topic).value(format!("{polls}"))).await?;
        let mut commit = Box::pin(transaction.commit());
        for _ in 0..polls {
            // A poll, and some time for the others.
            let _ = futures::poll!(&mut commit);
            tokio::task::yield_now().await;
        }
        drop(commit);
        let next = producer.begin().await?;
        outcomes.insert(polls, next.previous().ok_or("nothing ended")?);
        next.abort().await?;
    }
    assert_eq!(outcomes[&0], Outcome::Aborted);
    let expected: Vec<String> = (1..4).map(|polls| polls.to_string()).collect();
    assert!((1..4).all(|polls| outcomes[&polls] == Outcome::Committed), "{outcomes:?}");
    assert_eq!(committed(&client, &topic, 1, 3).await?, expected);
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn offsets_of_a_consumer_that_lost_its_membership_abort_the_transaction() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("tx-member", 1).await?;
    let group = unique("g");
    let consumer = client.consumer().group(&group).topics([&*topic]).build()?;
    eventually("the consumer is a member", async || {
        drop(consumer.poll_timeout(Duration::from_millis(50)).await?);
        Ok(!consumer.assignment().is_empty())
    })
    .await?;
    let metadata = consumer.group_metadata().ok_or("not a member")?;
    consumer.close().await?;
    let producer = producer(&client, &unique("tx"))?;
    let transaction = producer.begin().await?;
    let at = TopicPartition::new(topic.as_str(), 0);
    let refused = transaction.commit_offsets(&metadata, [(&at, OffsetAndMetadata::new(1))]).await;
    let refused = refused.err().ok_or("offsets of a stranger were taken")?;
    assert!(refused.is_retriable(), "{refused:?}");
    let aborted = transaction.commit().await.err().ok_or("committed")?;
    assert!(matches!(aborted, CommitError::Aborted(AbortCause::Offsets { .. })), "{aborted:?}");
    producer.begin().await?.commit().await?;
    cluster.shutdown().await;
    Ok(())
}
