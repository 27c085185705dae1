//! The steps of an exactly-once session, on virtual time: in memory and on a paused clock, so on our broker only.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use integration_tests::TestResult;
use kafka_admin::groups::MembersToRemove;
use kafka_admin::{Admin, NewTopic};
use kafka_broker::Broker;
use kafka_client::consumer::{IsolationLevel, OffsetReset};
use kafka_client::exactly_once::{ExactlyOnce, ExactlyOnceError};
use kafka_client::group::GroupProtocol;
use kafka_client::producer::{CommitError, FatalError, Record};
use kafka_client::{Client, TopicPartition};
use tokio::time::{sleep, timeout};

const INPUT: &str = "in";
const OUTPUT: &str = "out";
const GROUP: &str = "steps";
const PARTITIONS: i32 = 2;
/// Records of each partition.
const EACH: usize = 40;
/// A step takes so long: no time passes by itself, and then no transaction would ever be committed.
const WORK: Duration = Duration::from_millis(30);
/// Of virtual time. Who has nothing for so long will get nothing more.
const IDLE: Duration = Duration::from_secs(60);

/// A cluster with records to work on.
async fn filled() -> TestResult<Client> {
    let broker = Arc::new(Broker::builder().start().await?);
    let connector = move |_host: String, _port: u16| {
        let broker = broker.clone();
        async move { Ok::<_, std::io::Error>(broker.connect().await) }
    };
    let client = Client::builder("broker:9092").connector(connector).build()?;
    let topics = [NewTopic::new(INPUT, PARTITIONS, 1), NewTopic::new(OUTPUT, 1, 1)];
    Admin::new(client.clone()).create_topics(topics).await?.all()?;
    let producer = client.producer().batch_size(0).build()?;
    for value in 0..EACH as i32 * PARTITIONS {
        let record = Record::to(INPUT).partition(value % PARTITIONS).value(value.to_string());
        producer.send(record).await?.await?;
    }
    Ok(client)
}

/// One record at a time, so that there are many steps.
fn session(client: &Client, id: &str) -> TestResult<ExactlyOnce> {
    let consumer = client.consumer().group(GROUP).topics([INPUT]).auto_offset_reset(OffsetReset::Earliest);
    // An admin can have members of such a group forgotten.
    let consumer = consumer.protocol(GroupProtocol::Classic);
    let producer = client.producer().transactional_id(id).linger(Duration::ZERO);
    Ok(ExactlyOnce::new(consumer.max_partition_fetch_bytes(1), producer)?)
}

/// How often each value is in the output, for a reader of committed records.
async fn committed(client: &Client) -> TestResult<BTreeMap<String, usize>> {
    let at = TopicPartition::new(OUTPUT, 0);
    let builder = client.consumer().assign([at.clone()]).auto_offset_reset(OffsetReset::Earliest);
    let reader = builder.isolation_level(IsolationLevel::ReadCommitted).build()?;
    let end = reader.end_offsets([&at]).await?[&at];
    let mut seen = BTreeMap::new();
    while reader.position(&at).await? < end {
        for record in reader.poll_timeout(Duration::from_secs(1)).await?.into_iter().flatten() {
            let value = String::from_utf8(record?.value.as_deref().unwrap_or_default().to_vec())?;
            *seen.entry(value).or_default() += 1;
        }
    }
    Ok(seen)
}

fn once_each(seen: &BTreeMap<String, usize>) {
    let wrong: Vec<_> = seen.iter().filter(|(_, times)| **times != 1).collect();
    assert!(wrong.is_empty(), "not once: {wrong:?}");
    assert_eq!(seen.len(), EACH * PARTITIONS as usize);
}

/// Copies the next records; `None` if the session has nothing for a long time.
async fn copy(session: &mut ExactlyOnce, is_done: bool) -> TestResult<Option<Vec<String>>> {
    let Ok(next) = timeout(IDLE, session.next()).await else { return Ok(None) };
    let Some((records, step)) = next? else { return Ok(None) };
    let mut values = Vec::new();
    for record in records {
        let value = String::from_utf8(record?.value.as_deref().unwrap_or_default().to_vec())?;
        step.send(Record::to(OUTPUT).value(&value)).await?;
        values.push(value);
    }
    sleep(WORK).await;
    if is_done {
        step.done();
    }
    Ok(Some(values))
}

#[tokio::test(start_paused = true)]
async fn what_an_aborted_transaction_read_comes_again_and_nothing_of_it_shows() -> TestResult {
    let client = filled().await?;
    let mut session = session(&client, "one")?;
    let mut steps = 0;
    let mut given_up = 0;
    while let Some(values) = copy(&mut session, steps % 5 != 4).await? {
        given_up += if steps % 5 == 4 { values.len() } else { 0 };
        steps += 1;
    }
    session.close().await?;
    assert!(given_up > 5);
    once_each(&committed(&client).await?);
    Ok(())
}

/// Found by reading: records that waited for their transaction were thrown away when the one before was aborted, though
/// nobody would read them again.
#[tokio::test(start_paused = true)]
async fn a_call_for_records_may_be_dropped_wherever_it_waits() -> TestResult {
    let client = filled().await?;
    let mut session = session(&client, "one")?.commit_interval(Duration::from_millis(20));
    let (mut calls, mut idle) = (0, 0);
    while idle < 5 {
        calls += 1;
        let mut waited = 0;
        let next = {
            let mut next = pin!(timeout(IDLE, session.next()));
            poll_fn(|context| match next.as_mut().poll(context) {
                Poll::Ready(next) => Poll::Ready(Some(next)),
                Poll::Pending => {
                    waited += 1;
                    if waited > calls % 7 { Poll::Ready(None) } else { Poll::Pending }
                }
            })
            .await
        };
        match next {
            // Dropped; time goes on.
            None => sleep(Duration::from_millis(calls % 11)).await,
            Some(Err(_)) => idle += 1,
            Some(Ok(next)) => {
                let Some((records, step)) = next? else { break };
                for record in records {
                    step.send(Record::to(OUTPUT).value(record?.value.as_deref().unwrap_or_default())).await?;
                }
                sleep(WORK).await;
                if calls % 13 != 0 {
                    step.done();
                }
            }
        }
    }
    session.close().await?;
    once_each(&committed(&client).await?);
    Ok(())
}

/// Found by the simulation: a member that its group had forgotten committed the same records again and again, without a
/// pause, until a heartbeat told it.
#[tokio::test(start_paused = true)]
async fn a_member_that_its_group_has_forgotten_joins_again_at_once() -> TestResult {
    let client = filled().await?;
    let mut session = session(&client, "one")?;
    let first = copy(&mut session, true).await?.ok_or("no records")?;
    Admin::new(client.clone()).remove_members(GROUP, MembersToRemove::All).await?.all()?;
    let (mut steps, mut again) = (0, 0);
    while let Some(values) = copy(&mut session, true).await? {
        steps += 1;
        again += usize::from(values == first);
        assert!(again < 4 && steps < 20 * EACH, "{again} times of {steps}");
    }
    session.close().await?;
    assert!(again > 0, "what was not committed comes again");
    once_each(&committed(&client).await?);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_transactional_id_is_taken_over_ends_and_leaves_nothing_half_done() -> TestResult {
    let client = filled().await?;
    let mut zombie = session(&client, "one")?;
    copy(&mut zombie, true).await?.ok_or("no records")?;
    let mut successor = session(&client, "one")?;
    let ended = loop {
        let (old, new) = tokio::join!(
            timeout(Duration::from_secs(5), zombie.next()),
            timeout(Duration::from_secs(5), copy(&mut successor, true)),
        );
        if let Ok(new) = new {
            new?;
        }
        match old {
            Ok(Err(error)) => break error,
            Ok(Ok(Some((_, step)))) => step.done(),
            Ok(Ok(None)) => return Err("the zombie's consumer was closed".into()),
            Err(_) => {}
        }
    };
    let is_fenced = matches!(
        ended,
        ExactlyOnceError::Commit(CommitError::Fatal(FatalError::Fenced))
            | ExactlyOnceError::Begin(kafka_client::producer::BeginError::Fatal(FatalError::Fenced))
    );
    assert!(is_fenced && !ended.is_retriable(), "{ended}");
    drop(zombie);
    while copy(&mut successor, true).await?.is_some() {}
    successor.close().await?;
    let seen = committed(&client).await?;
    assert!(seen.values().all(|&times| times == 1), "{seen:?}");
    Ok(())
}
