//! What a share consumer promises: every record is done by somebody, and what nobody has done is delivered again.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use integration_tests::{Cluster, PATIENCE, TestResult, eventually, unique};
use kafka_admin::{Admin, ConfigChange, ConfigResource, NewTopic};
use kafka_broker::Broker;
use kafka_client::Client;
use kafka_client::producer::Record;
use kafka_client::share::{AcknowledgeError, AcknowledgeType, ShareConsumer, ShareRecord};
use tokio::time::timeout;

async fn fill(client: &Client, topic: &str, values: std::ops::Range<u32>) -> TestResult {
    let producer = client.producer().build()?;
    for value in values {
        drop(producer.send(Record::to(topic).value(value.to_string())).await?);
    }
    producer.close(PATIENCE).await?;
    Ok(())
}

/// Makes a share group read from the beginning, and configures it further.
async fn configure(client: &Client, group: &str, more: &[(&str, &str)]) -> TestResult {
    let admin = Admin::new(client.clone());
    let configs = [("share.auto.offset.reset", "earliest")].iter().chain(more);
    let ops: Vec<_> = configs.map(|(key, value)| ConfigChange::set(*key, *value)).collect();
    admin.incremental_alter_configs([(ConfigResource::Group(group.to_owned()), ops)]).await?.all()?;
    Ok(())
}

fn member(client: &Client, group: &str, topic: &str) -> TestResult<ShareConsumer> {
    Ok(client.share_consumer(group).topics([topic]).build()?)
}

async fn next(consumer: &ShareConsumer) -> TestResult<ShareRecord> {
    Ok(timeout(PATIENCE, consumer.next()).await??.ok_or("the consumer ended")?)
}

fn value(record: &ShareRecord) -> TestResult<u32> {
    Ok(std::str::from_utf8(record.value.as_deref().unwrap_or_default())?.parse()?)
}

fn locked(done: &Mutex<Vec<u32>>) -> std::sync::MutexGuard<'_, Vec<u32>> {
    done.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn close(consumer: &ShareConsumer) {
    consumer.close(PATIENCE).await;
}

#[tokio::test]
async fn members_share_partitions_and_every_record_is_done_once() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("share", 2).await?;
    let group = unique("share");
    configure(&client, &group, &[]).await?;
    fill(&client, &topic, 0..600).await?;
    // More members than partitions.
    let members: Vec<_> = (0..3).map(|_| member(&client, &group, &topic)).collect::<TestResult<_>>()?;
    let done = Arc::new(Mutex::new(Vec::new()));
    let tasks: Vec<_> = members
        .iter()
        .map(|member| {
            let (member, done) = (member.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                while let Some(record) = member.next().await? {
                    let number = value(&record)?;
                    record.accept();
                    locked(&done).push(number);
                }
                TestResult::Ok(())
            })
        })
        .collect();
    eventually("all are done", async || Ok(locked(&done).len() >= 600)).await?;
    for member in &members {
        let outcomes = timeout(PATIENCE, member.commit()).await?;
        assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()), "{outcomes:?}");
        close(member).await;
    }
    for task in tasks {
        task.await??;
    }
    let done = locked(&done);
    assert_eq!(done.len(), 600);
    assert_eq!(done.iter().copied().collect::<BTreeSet<_>>(), (0..600).collect());
    Ok(())
}

#[tokio::test]
async fn what_is_released_comes_again_and_what_is_rejected_does_not() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("share-acks", 1).await?;
    let group = unique("share");
    configure(&client, &group, &[]).await?;
    fill(&client, &topic, 0..4).await?;
    let consumer = member(&client, &group, &topic)?;
    let batch = timeout(PATIENCE, consumer.next_batch(4)).await??;
    let mut rest = batch.into_iter();
    let mut take = || rest.next().ok_or("fewer records than expected");
    take()?.accept();
    take()?.reject();
    take()?.release();
    // As a task that panics does.
    drop(take()?);
    let outcomes = timeout(PATIENCE, consumer.commit()).await?;
    let kinds: Vec<_> = outcomes.iter().map(|it| (it.first, it.last, it.kind, it.result.is_ok())).collect();
    assert_eq!(
        kinds,
        [
            (0, 0, AcknowledgeType::Accept, true),
            (1, 1, AcknowledgeType::Reject, true),
            (2, 3, AcknowledgeType::Release, true)
        ]
    );
    for expected in [2, 3] {
        let mut record = next(&consumer).await?;
        assert_eq!((value(&record)?, record.delivery_count()), (expected, 2));
        // What cannot be read is released.
        assert!(record.read(|_| Err::<(), _>("garbage")).is_err());
    }
    let again = next(&consumer).await?;
    assert_eq!((value(&again)?, again.delivery_count()), (2, 3));
    drop(again);
    close(&consumer).await;
    assert!(consumer.next().await?.is_none());
    Ok(())
}

#[tokio::test]
async fn a_strict_limit_gives_no_record_too_many_and_a_closed_member_gives_back_what_it_had() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("share-limit", 1).await?;
    let group = unique("share");
    configure(&client, &group, &[]).await?;
    fill(&client, &topic, 0..10).await?;
    let first = client.share_consumer(&group).topics([&topic]).record_limit(3).build()?;
    let held = timeout(PATIENCE, first.next_batch(10)).await??;
    assert_eq!(held.len(), 3);
    let second = member(&client, &group, &topic)?;
    let other = next(&second).await?;
    assert_eq!(value(&other)?, 3);
    close(&first).await;
    drop(held);
    let mut seen = BTreeSet::from([value(&other)?]);
    other.accept();
    while seen.len() < 10 {
        let record = next(&second).await?;
        // What the closed member had was delivered once.
        assert_eq!(record.delivery_count(), if value(&record)? < 3 { 2 } else { 1 });
        seen.insert(value(&record)?);
        record.accept();
    }
    assert_eq!(seen, (0..10).collect());
    close(&second).await;
    Ok(())
}

#[tokio::test]
async fn a_lock_that_is_renewed_holds_and_one_that_is_not_ends() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("share-renew", 1).await?;
    let group = unique("share");
    // The shortest that Kafka allows.
    let lock = if integration_tests::on_apache_kafka() { 15_000 } else { 2_000 };
    configure(&client, &group, &[("share.record.lock.duration.ms", &lock.to_string())]).await?;
    fill(&client, &topic, 0..2).await?;
    let lock = Duration::from_millis(lock);
    let consumer = client.share_consumer(&group).topics([&topic]).record_limit(2).build()?;
    let mut both = timeout(PATIENCE, consumer.next_batch(2)).await??;
    let (Some(forgotten), Some(mut kept)) = (both.pop(), both.pop()) else {
        return Err("fewer than two records".into());
    };
    assert_eq!((value(&kept)?, value(&forgotten)?), (0, 1));
    tokio::time::sleep(lock / 2).await;
    kept.renew().await?;
    // The other one's lock ends, and somebody else gets it.
    let second = member(&client, &group, &topic)?;
    let again = next(&second).await?;
    assert_eq!((value(&again)?, again.delivery_count()), (1, 2));
    again.accept();
    kept.accept();
    forgotten.accept();
    let outcomes = timeout(PATIENCE, consumer.commit()).await?;
    let results: Vec<_> = outcomes.iter().map(|it| (it.first, it.result.clone())).collect();
    assert!(results.contains(&(0, Ok(()))), "{results:?}");
    let too_late = |error: &AcknowledgeError| {
        matches!(error, AcknowledgeError::LockExpired | AcknowledgeError::Refused { .. })
    };
    let forgotten = results.iter().find(|(offset, _)| *offset == 1);
    assert!(matches!(forgotten, Some((_, Err(error))) if too_late(error)), "{results:?}");
    close(&consumer).await;
    close(&second).await;
    Ok(())
}

#[tokio::test]
async fn dropping_the_call_for_a_record_loses_none() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("share-cancel", 1).await?;
    let group = unique("share");
    configure(&client, &group, &[]).await?;
    let consumer = client.share_consumer(&group).topics([&topic]).implicit_acknowledgement().build()?;
    let mut numbers = Vec::new();
    for round in 0..20 {
        fill(&client, &topic, round..round + 1).await?;
        loop {
            // Mostly dropped before there is anything.
            if let Ok(record) = timeout(Duration::from_millis(3), consumer.next()).await {
                // Accepted when it is dropped.
                numbers.push(value(&record?.ok_or("the consumer ended")?)?);
                break;
            }
        }
    }
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());
    let outcomes = timeout(PATIENCE, consumer.commit()).await?;
    assert!(outcomes.iter().all(|it| it.result.is_ok()), "{outcomes:?}");
    close(&consumer).await;
    Ok(())
}

/// A process that is killed closes nothing: its connections just end, long before its locks do.
#[test]
fn a_member_that_vanishes_gives_back_what_it_had_at_once() -> TestResult {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let (vanishing, staying) = (runtime()?, runtime()?);
    let topic_and_group = async {
        let cluster = Cluster::start().await?;
        let client = cluster.client().await?;
        let (topic, group) = (cluster.topic("share-vanished", 1).await?, unique("share"));
        configure(&client, &group, &[("share.record.lock.duration.ms", "60000")]).await?;
        fill(&client, &topic, 0..10).await?;
        TestResult::Ok((cluster, topic, group))
    };
    let (cluster, topic, group) = staying.block_on(topic_and_group)?;
    let held = vanishing.block_on(async {
        let consumer = member(&cluster.client().await?, &group, &topic)?;
        let mut held = Vec::new();
        while held.len() < 10 {
            held.push(next(&consumer).await?);
        }
        TestResult::Ok((consumer, held))
    })?;
    // Its tasks and sockets with it.
    vanishing.shutdown_background();
    staying.block_on(async {
        let consumer = member(&cluster.client().await?, &group, &topic)?;
        let began = std::time::Instant::now();
        for expected in 0..10 {
            let record = next(&consumer).await?;
            assert_eq!((value(&record)?, record.delivery_count()), (expected, 2));
            record.accept();
        }
        assert!(began.elapsed() < Duration::from_secs(45), "only when its locks ended");
        assert!(timeout(PATIENCE, consumer.commit()).await?.iter().all(|it| it.result.is_ok()));
        close(&consumer).await;
        drop(held);
        TestResult::Ok(())
    })
}

#[tokio::test]
async fn a_group_of_committed_records_gets_none_of_aborted_or_open_transactions() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let topic = cluster.topic("share-committed", 1).await?;
    let (careful, careless) = (unique("share-careful"), unique("share-careless"));
    configure(&client, &careful, &[("share.isolation.level", "read_committed")]).await?;
    configure(&client, &careless, &[]).await?;
    let producer = client.producer().transactional_id(unique("share-tx")).build()?;
    let mut value_of = 0u32;
    for (records, commits) in [(3, false), (2, true), (4, false), (1, true)] {
        let transaction = producer.begin().await?;
        for _ in 0..records {
            transaction.send(Record::to(&*topic).value(value_of.to_string())).await?;
            value_of += 1;
        }
        // What was not sent yet would not be sent at all.
        producer.flush().await;
        match commits {
            true => transaction.commit().await?,
            false => transaction.abort().await?,
        }
    }
    let open = producer.begin().await?;
    open.send(Record::to(&*topic).value("10")).await?;
    let take = async |consumer: &ShareConsumer, count: usize| {
        let mut taken = Vec::new();
        while taken.len() < count {
            let record = next(consumer).await?;
            assert_eq!(record.delivery_count(), 1);
            taken.push(value(&record)?);
            record.accept();
        }
        assert!(timeout(PATIENCE, consumer.commit()).await?.iter().all(|it| it.result.is_ok()));
        TestResult::Ok(taken)
    };
    let reads_all = member(&client, &careless, &topic)?;
    assert_eq!(take(&reads_all, 11).await?, (0..11).collect::<Vec<_>>());
    let consumer = member(&client, &careful, &topic)?;
    assert_eq!(take(&consumer, 3).await?, [3, 4, 9]);
    // It is in the log, and others have it, but nobody knows yet what becomes of it.
    assert!(timeout(Duration::from_secs(1), consumer.next()).await.is_err());
    open.commit().await?;
    assert_eq!(take(&consumer, 1).await?, [10]);
    close(&reads_all).await;
    close(&consumer).await;
    Ok(())
}

/// Of our broker only: it is stopped and started on its folder.
#[tokio::test]
async fn a_share_group_goes_on_after_the_broker_was_restarted() -> TestResult {
    let folder = tempfile::tempdir()?;
    let start = || Broker::builder().data_dir(folder.path()).start();
    let (topic, group) = (unique("share-restart"), unique("share"));
    let broker = start().await?;
    let client = Client::connect(broker.bootstrap_servers()).await?;
    Admin::new(client.clone()).create_topics([NewTopic::new(&topic, 1, 1)]).await?.all()?;
    configure(&client, &group, &[]).await?;
    fill(&client, &topic, 0..10).await?;
    let consumer = member(&client, &group, &topic)?;
    let mut batch = timeout(PATIENCE, consumer.next_batch(10)).await??;
    while batch.len() < 10 {
        batch.push(next(&consumer).await?);
    }
    // All but 4 and 7.
    for record in batch {
        match value(&record)? {
            4 | 7 => record.release(),
            _ => drop(record.accept()),
        }
    }
    assert!(timeout(PATIENCE, consumer.commit()).await?.iter().all(|it| it.result.is_ok()));
    close(&consumer).await;
    drop(client);
    broker.shutdown().await;

    let broker = start().await?;
    let client = Client::connect(broker.bootstrap_servers()).await?;
    let consumer = member(&client, &group, &topic)?;
    for expected in [4, 7] {
        let record = next(&consumer).await?;
        assert_eq!((value(&record)?, record.delivery_count()), (expected, 2));
        record.accept();
    }
    fill(&client, &topic, 10..11).await?;
    assert_eq!(value(&next(&consumer).await?)?, 10);
    close(&consumer).await;
    broker.shutdown().await;
    Ok(())
}

/// Of our broker only: leaders of partitions, and with them share coordinators and locks, move from node to node.
#[tokio::test]
async fn leaders_move_and_every_record_is_done_by_somebody() -> TestResult {
    const PARTITIONS: i32 = 3;
    integration_tests::show_logs();
    let broker = Arc::new(Broker::builder().nodes(3).start().await?);
    let client = Client::connect(broker.bootstrap_servers()).await?;
    let (topic, group) = (unique("share-nodes"), unique("share"));
    Admin::new(client.clone()).create_topics([NewTopic::new(&topic, PARTITIONS, 3)]).await?.all()?;
    configure(
        &client,
        &group,
        &[("share.record.lock.duration.ms", "3000"), ("share.delivery.count.limit", "10")],
    )
    .await?;
    let members = [member(&client, &group, &topic)?, member(&client, &group, &topic)?];
    let accepted = Arc::new(Mutex::new(Vec::new()));
    let workers: Vec<_> = members
        .iter()
        .map(|member| {
            let (member, accepted) = (member.clone(), Arc::clone(&accepted));
            tokio::spawn(async move {
                while let Some(record) = member.next().await? {
                    locked(&accepted).push(value(&record)?);
                    record.accept();
                }
                TestResult::Ok(())
            })
        })
        .collect();
    let moving = async {
        for round in 0..4u32 {
            fill(&client, &topic, round * 100..(round + 1) * 100).await?;
            for name in [topic.as_str(), "__share_group_state", "__consumer_offsets"] {
                for ((_, partition), now) in
                    broker.control().leaders().into_iter().filter(|((topic, _), _)| topic == name)
                {
                    let at = now.isr.iter().position(|&node| Some(node) == now.leader).unwrap_or(0);
                    if let Some(&next) = now.isr.get((at + 1) % now.isr.len().max(1)) {
                        broker.control().move_leader(name, partition, next).await?;
                    }
                }
            }
        }
        TestResult::Ok(())
    };
    moving.await?;
    let done = || locked(&accepted).iter().copied().collect::<BTreeSet<u32>>();
    eventually("all are done", async || Ok(done() == (0..400).collect())).await?;
    for member in &members {
        close(member).await;
    }
    for worker in workers {
        worker.await??;
    }
    Ok(())
}
