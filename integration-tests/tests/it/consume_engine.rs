//! What the consumer's engine does about replicas: it reads nearby, notices what was lost, and does not mistake a topic
//! made anew for the old one.

use std::time::Duration;

use integration_tests::{Cluster, PATIENCE, TestResult, eventually, unique};
use kafka_admin::{Admin, NewTopic};
use kafka_broker::Broker;
use kafka_client::consumer::{ConsumeError, Consumer, OffsetReset, TopicRecreation};
use kafka_client::producer::{Acks, Compression, Record};
use kafka_client::wire::StrBytes;
use kafka_client::wire::messages::ElectLeadersRequest;
use kafka_client::wire::messages::TopicName;
use kafka_client::wire::messages::elect_leaders_request::TopicPartitions;
use kafka_client::{Client, Target, TopicPartition};
use tokio::time::timeout;

async fn send(client: &Client, topic: &str, values: &[&str]) -> TestResult {
    let producer = client.producer().acks(Acks::Leader).idempotence(false).build()?;
    for value in values {
        producer.send(Record::to(topic).partition(0).value(value.to_string())).await?.await?;
    }
    producer.close(PATIENCE).await?;
    Ok(())
}

async fn next_value(consumer: &Consumer) -> TestResult<(i64, String)> {
    let record = timeout(PATIENCE, consumer.next()).await??.ok_or("the consumer ended")?;
    let value = record.value.as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
    Ok((record.offset, value))
}

/// On several nodes of our broker: racks and lost records need a hand on the cluster.
async fn nodes(replicas: i16) -> TestResult<(Broker, Client, String)> {
    let selector = "org.apache.kafka.common.replica.RackAwareReplicaSelector";
    let mut builder = Broker::builder().nodes(3).config("replica.selector.class", selector);
    for (node, rack) in [(1, "a"), (2, "b"), (3, "c")] {
        builder = builder.node_config(node, "broker.rack", rack);
    }
    let broker = builder.start().await?;
    let client = Client::connect(broker.bootstrap_servers()).await?;
    let topic = unique("engine");
    Admin::new(client.clone()).create_topics([NewTopic::new(&topic, 1, replicas)]).await?.all()?;
    Ok((broker, client, topic))
}

#[tokio::test]
async fn a_consumer_reads_from_the_follower_in_its_rack_and_from_the_leader_when_that_is_gone() -> TestResult
{
    let (broker, client, topic) = nodes(2).await?;
    assert_eq!(broker.control().leader(&topic, 0).ok_or("no topic")?.replicas, [1, 2]);
    send(&client, &topic, &["a", "b"]).await?;
    let at = TopicPartition::new(topic.as_str(), 0);
    let near = client.consumer().assign([at]).auto_offset_reset(OffsetReset::Earliest).rack("b").build()?;
    assert_eq!(next_value(&near).await?, (0, "a".to_owned()));
    assert_eq!(next_value(&near).await?, (1, "b".to_owned()));
    // What the follower does not have is not read, although the leader has it: so it is the follower that is read.
    broker.control().hold_replication(2);
    send(&client, &topic, &["c"]).await?;
    assert!(timeout(Duration::from_millis(700), near.next()).await.is_err());
    broker.control().release_replication(2);
    assert_eq!(next_value(&near).await?, (2, "c".to_owned()));
    broker.control().stop(2).await?;
    send(&client, &topic, &["d"]).await?;
    assert_eq!(next_value(&near).await?, (3, "d".to_owned()));
    broker.shutdown().await;
    Ok(())
}

/// Reads `kept` and `lost`, then a leader is elected that never had `lost` and gets `new` instead.
async fn lose_a_record(reset: OffsetReset) -> TestResult<(Broker, Consumer, TopicPartition)> {
    let (broker, client, topic) = nodes(2).await?;
    let at = TopicPartition::new(topic.as_str(), 0);
    let consumer = client.consumer().assign([at.clone()]).auto_offset_reset(reset).build()?;
    consumer.seek(&at, 0)?;
    send(&client, &topic, &["kept"]).await?;
    assert_eq!(next_value(&consumer).await?, (0, "kept".to_owned()));
    eventually("the follower has it", async || {
        Ok(broker.control().leader(&topic, 0).is_some_and(|it| it.isr.len() == 2))
    })
    .await?;
    broker.control().hold_replication(2);
    // Node 2 leaves the in-sync replicas, so that what it lacks counts as committed.
    broker.control().stop(2).await?;
    send(&client, &topic, &["lost", "gone"]).await?;
    assert_eq!(next_value(&consumer).await?, (1, "lost".to_owned()));
    assert_eq!(next_value(&consumer).await?, (2, "gone".to_owned()));
    broker.control().start(2).await?;
    broker.control().crash(1).await?;
    let asked = TopicPartitions::default()
        .with_topic(TopicName(StrBytes::from_string(topic.clone())))
        .with_partitions(vec![0]);
    let elect = ElectLeadersRequest::default()
        .with_election_type(1)
        .with_timeout_ms(10_000)
        .with_topic_partitions(Some(vec![asked]));
    client.request(elect).to(Target::Controller).max_version(2).await?;
    eventually("node 2 leads", async || {
        Ok(broker.control().leader(&topic, 0).is_some_and(|it| it.leader == Some(2)))
    })
    .await?;
    send(&client, &topic, &["new"]).await?;
    Ok((broker, consumer, at))
}

#[tokio::test]
async fn a_reader_of_lost_records_goes_on_where_the_histories_part() -> TestResult {
    let (broker, consumer, _) = lose_a_record(OffsetReset::Latest).await?;
    assert_eq!(next_value(&consumer).await?, (1, "new".to_owned()));
    broker.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn a_reader_of_lost_records_without_a_policy_is_told_where_the_histories_part() -> TestResult {
    let (broker, consumer, at) = lose_a_record(OffsetReset::None).await?;
    let error = timeout(PATIENCE, consumer.next()).await?.err().ok_or("a record came")?;
    assert!(matches!(error, ConsumeError::LogTruncated { position: 3, diverged_at: Some(1), .. }), "{error}");
    consumer.seek(&at, 1)?;
    assert_eq!(next_value(&consumer).await?, (1, "new".to_owned()));
    broker.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn a_topic_made_anew_is_never_read_with_positions_of_the_old_one() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let admin = Admin::new(client.clone());
    for policy in [TopicRecreation::Earliest, TopicRecreation::Fail] {
        let topic = cluster.topic("anew", 1).await?;
        let at = TopicPartition::new(topic.as_str(), 0);
        let consumer = client
            .consumer()
            .assign([at.clone()])
            .auto_offset_reset(OffsetReset::Latest)
            .on_topic_recreation(policy)
            .build()?;
        consumer.seek(&at, 0)?;
        send(&client, &topic, &["a", "b"]).await?;
        assert_eq!(next_value(&consumer).await?.1, "a");
        assert_eq!(next_value(&consumer).await?.1, "b");
        admin.delete_topics([topic.as_str()]).await?.all()?;
        eventually("it is made anew", async || {
            Ok(admin.create_topics([NewTopic::new(&topic, 1, 1)]).await?.all().is_ok())
        })
        .await?;
        // More than the old topic had, so that the old position is a valid one.
        eventually("it takes records", async || Ok(send(&client, &topic, &["c"]).await.is_ok())).await?;
        send(&client, &topic, &["d", "e", "f"]).await?;
        if policy == TopicRecreation::Fail {
            // On the way, the topic may be unknown for a moment.
            let error = loop {
                match timeout(PATIENCE, consumer.next()).await? {
                    Err(ConsumeError::Refused { .. }) => {}
                    other => break other.err().ok_or("a record came")?,
                }
            };
            assert!(matches!(error, ConsumeError::TopicRecreated { .. }), "{error}");
            consumer.seek(&at, 0)?;
        }
        let first = loop {
            match timeout(PATIENCE, consumer.next()).await? {
                Err(ConsumeError::Refused { .. }) => {}
                other => break other?.ok_or("the consumer ended")?,
            }
        };
        assert_eq!((first.offset, first.value.as_deref()), (0, Some(&b"c"[..])));
    }
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn a_reader_starts_so_long_ago() -> TestResult {
    let cluster = Cluster::start().await?;
    let topic = cluster.topic("by-duration", 1).await?;
    let properties =
        [("bootstrap.servers", cluster.bootstrap_servers()), ("auto.offset.reset", "by_duration:PT1H")];
    let client = Client::from_properties(properties)?;
    let producer = client.producer().build()?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as i64;
    for (value, minutes_ago) in [("old", 120), ("older", 90), ("new", 30), ("newer", 1)] {
        let record = Record::to(&topic).partition(0).value(value).timestamp(now - minutes_ago * 60_000);
        producer.send(record).await?.await?;
    }
    let at = TopicPartition::new(topic.as_str(), 0);
    let consumer = client.consumer().assign([at.clone()]).build()?;
    assert_eq!(next_value(&consumer).await?, (2, "new".to_owned()));
    assert_eq!(consumer.lag(&at), Some(1));
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn what_is_fetched_ahead_stays_within_the_budget_whatever_the_backlog() -> TestResult {
    const BUDGET: usize = 256 * 1024;
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    for compression in [Compression::None, Compression::GZIP] {
        let topic = cluster.topic("backlog", 4).await?;
        let producer = client.producer().compression(compression).build()?;
        let records = 20_000;
        for number in 0..records {
            let value = format!("{number:0200}");
            drop(producer.send(Record::to(&topic).partition(number % 4).value(value)).await?);
        }
        producer.close(PATIENCE).await?;
        let all = (0..4).map(|partition| TopicPartition::new(topic.as_str(), partition));
        let consumer = client
            .consumer()
            .assign(all)
            .auto_offset_reset(OffsetReset::Earliest)
            .max_buffered_bytes(BUDGET)
            .build()?;
        let mut largest = 0;
        for _ in 0..records {
            timeout(PATIENCE, consumer.next()).await??.ok_or("the consumer ended")?;
            largest = largest.max(consumer.buffered_bytes());
        }
        assert!((1..=BUDGET).contains(&largest), "{largest} bytes");
        consumer.close().await?;
    }
    cluster.shutdown().await;
    Ok(())
}
