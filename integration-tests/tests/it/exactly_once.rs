//! Read, process, write: instances come, die and move partitions, and each record is worked on once.

use std::collections::BTreeMap;
use std::time::Duration;

use integration_tests::{Cluster, PATIENCE, TestResult, eventually, unique};
use kafka_client::consumer::{Consumer, IsolationLevel, OffsetAndMetadata, OffsetReset};
use kafka_client::exactly_once::ExactlyOnce;
use kafka_client::group::GroupProtocol;
use kafka_client::producer::{CommitError, FatalError, GroupMetadata, Record};
use kafka_client::{Client, TopicPartition};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

const PARTITIONS: i32 = 4;
const RECORDS: usize = 3000;

/// One instance: it copies, and now and then loses heart in the middle of a step.
async fn copy(
    client: Client,
    names: (String, String, String),
    id: String,
    protocol: GroupProtocol,
) -> TestResult {
    let (group, input, output) = names;
    let mut session = ExactlyOnce::new(
        client
            .consumer()
            .group(&group)
            .protocol(protocol)
            .topics([&*input])
            .auto_offset_reset(OffsetReset::Earliest)
            .max_partition_fetch_bytes(2000),
        client.producer().transactional_id(id).linger(Duration::ZERO),
    )?
    .commit_interval(Duration::from_millis(20));
    let mut steps = 0;
    while let Some((records, step)) = session.next().await? {
        steps += 1;
        for (at, record) in records.into_iter().enumerate() {
            let record = record?;
            step.send(Record::to(&*output).value(record.value.as_deref().unwrap_or_default())).await?;
            if steps % 61 == 0 && at == 10 {
                break;
            }
        }
        if steps % 61 != 0 {
            step.done();
        }
    }
    Ok(())
}

fn reader(client: &Client, topic: &str) -> TestResult<Consumer> {
    let all = (0..PARTITIONS).map(|partition| TopicPartition::new(topic, partition));
    let builder = client.consumer().assign(all).auto_offset_reset(OffsetReset::Earliest);
    Ok(builder.isolation_level(IsolationLevel::ReadCommitted).build()?)
}

async fn instances_die_and_every_record_is_copied_once(protocol: GroupProtocol) -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let input = cluster.topic("eos-in", PARTITIONS).await?;
    let output = cluster.topic("eos-out", PARTITIONS).await?;
    let producer = client.producer().batch_size(1000).build()?;
    for value in 0..RECORDS {
        let record = Record::to(&*input).partition(value as i32 % PARTITIONS).value(value.to_string());
        drop(producer.send(record).await?);
    }
    producer.close(PATIENCE).await?;
    let group = unique("eos");
    let names = (group.clone(), input.clone(), output.clone());
    let start = |instance: usize| -> JoinHandle<TestResult> {
        // The same transactional id after a restart.
        let id = format!("{group}-{instance}");
        tokio::spawn(copy(client.clone(), names.clone(), id, protocol))
    };
    let mut instances: Vec<_> = (0..3).map(start).collect();
    let check = reader(&client, &output)?;
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut kills = 0;
    let collect = async {
        while seen.len() < RECORDS {
            if let Some(records) = check.poll_timeout(Duration::from_millis(100)).await? {
                for record in records {
                    let value = String::from_utf8(record?.value.as_deref().unwrap_or_default().to_vec())?;
                    *seen.entry(value).or_default() += 1;
                }
            }
            if kills < 6 && seen.len() > kills * RECORDS / 8 {
                // As a crash: nothing is committed, nobody leaves the group.
                let at = kills % instances.len();
                instances[at].abort();
                instances[at] = start(at);
                kills += 1;
            }
            for instance in &mut instances {
                if instance.is_finished() {
                    return Err(format!("an instance ended: {:?}", instance.await).into());
                }
            }
        }
        TestResult::Ok(())
    };
    timeout(3 * PATIENCE, collect).await??;
    // What would be read twice would come now.
    sleep(Duration::from_millis(500)).await;
    instances.iter().for_each(JoinHandle::abort);
    let again = check.poll_timeout(Duration::from_millis(500)).await?;
    assert!(again.is_none_or(|records| records.into_iter().next().is_none()), "more than there was");
    let twice: Vec<_> = seen.iter().filter(|(_, times)| **times != 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert!(kills > 0);
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_of_a_kip_848_group_die_and_every_record_is_copied_once() -> TestResult {
    instances_die_and_every_record_is_copied_once(GroupProtocol::Consumer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_of_a_classic_group_die_and_every_record_is_copied_once() -> TestResult {
    instances_die_and_every_record_is_copied_once(GroupProtocol::Classic).await
}

#[tokio::test]
async fn a_session_that_closes_has_committed_everything_and_one_that_is_dropped_nothing_half() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let (input, output) = (cluster.topic("eos-close-in", 1).await?, cluster.topic("eos-close", 1).await?);
    let producer = client.producer().build()?;
    for value in ["a", "b", "c"] {
        producer.send(Record::to(&*input).value(value)).await?.await?;
    }
    let group = unique("eos");
    for (keeps, offset) in [(false, None), (true, Some(3))] {
        let mut session = ExactlyOnce::new(
            client.consumer().group(&group).topics([&*input]).auto_offset_reset(OffsetReset::Earliest),
            client.producer().transactional_id(&group),
        )?
        .commit_interval(Duration::from_secs(60));
        let mut count = 0;
        while count < 3 {
            let (records, step) = timeout(PATIENCE, session.next()).await??.ok_or("ended")?;
            for record in records {
                step.send(Record::to(&*output).value(record?.value.as_deref().unwrap_or_default())).await?;
                count += 1;
            }
            step.done();
        }
        match keeps {
            true => session.close().await?,
            false => drop(session),
        }
        let at = TopicPartition::new(input.as_str(), 0);
        let offsets = client.consumer().group(&group).assign([at.clone()]).build()?;
        eventually("the group's offset is settled", async || {
            Ok(offsets.committed([&at]).await?.get(&at).map(|found| found.offset) == offset)
        })
        .await?;
    }
    let at = TopicPartition::new(output.as_str(), 0);
    let builder = client.consumer().assign([at]).auto_offset_reset(OffsetReset::Earliest);
    let check = builder.isolation_level(IsolationLevel::ReadCommitted).build()?;
    let mut seen = Vec::new();
    while let Ok(record) = timeout(Duration::from_secs(1), check.next()).await {
        seen.push(record?.ok_or("ended")?.value.unwrap_or_default());
    }
    assert_eq!(seen, ["a", "b", "c"]);
    cluster.shutdown().await;
    Ok(())
}

/// Found by the bank on Apache Kafka: a teller that was killed between its offsets and its commit held up everybody for a
/// minute, until its transaction timed out. Whoever took its place waited for records before it began.
#[tokio::test]
async fn a_session_ends_what_its_predecessor_left_open_before_it_waits_for_records() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let input = cluster.topic("eos-left-in", 1).await?;
    client.producer().build()?.send(Record::to(&*input).value("a")).await?.await?;
    let group = unique("eos");
    // Longer than anybody here waits.
    let killed = client.producer().transactional_id(&group).transaction_timeout(10 * PATIENCE).build()?;
    let transaction = killed.begin().await?;
    let at = TopicPartition::new(input.as_str(), 0);
    let read = [(at, OffsetAndMetadata::new(1))];
    transaction.commit_offsets(&GroupMetadata::of_group(&group), read).await?;

    let mut session = ExactlyOnce::new(
        client.consumer().group(&group).topics([&*input]).auto_offset_reset(OffsetReset::Earliest),
        client.producer().transactional_id(&group),
    )?;
    let (records, step) = timeout(PATIENCE, session.next()).await??.ok_or("ended")?;
    assert_eq!(records.into_iter().count(), 1);
    step.done();
    session.close().await?;
    let ended = transaction.commit().await;
    assert!(matches!(ended, Err(CommitError::Fatal(FatalError::Fenced))), "{ended:?}");
    cluster.shutdown().await;
    Ok(())
}
