//! Transactions while the broker is killed with `kill -9` and comes back, on a data folder.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use integration_tests::{PATIENCE, TestResult, eventually};
use kafka_admin::transactions::TransactionToAbort;
use kafka_admin::{Admin, NewTopic};
use kafka_client::consumer::{IsolationLevel, OffsetReset};
use kafka_client::producer::{CommitError, Outcome, Producer, Record};
use kafka_client::{Client, TopicPartition};
use tokio::time::{sleep, timeout};

use crate::child_broker::ChildBroker;

const TOPIC: &str = "killed";
const PARTITIONS: i32 = 2;
/// Records of a transaction in each partition.
const EACH: i32 = 3;
const KILLS: u64 = 8;

type Told = Result<Outcome, String>;

/// How many records of each transaction a reader of committed records finds in each partition.
async fn found(client: &Client) -> TestResult<BTreeMap<u32, [usize; PARTITIONS as usize]>> {
    let all: Vec<_> = (0..PARTITIONS).map(|partition| TopicPartition::new(TOPIC, partition)).collect();
    let builder = client.consumer().assign(all.clone()).auto_offset_reset(OffsetReset::Earliest);
    let reader = builder.isolation_level(IsolationLevel::ReadCommitted).build()?;
    let ends = reader.end_offsets(&all).await?;
    let mut found = BTreeMap::<u32, [usize; PARTITIONS as usize]>::new();
    for at in &all {
        while reader.position(at).await? < ends[at] {
            let batch = timeout(PATIENCE, reader.poll_timeout(Duration::from_millis(200))).await??;
            for record in batch.into_iter().flatten() {
                let record = record?;
                let number = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).parse()?;
                found.entry(number).or_default()[record.partition as usize] += 1;
            }
        }
    }
    Ok(found)
}

/// One transaction after the other until it is over; returns how each ended, as far as the client knows.
async fn tell(
    producer: Producer,
    begun: Arc<AtomicU32>,
    over: Arc<AtomicBool>,
) -> TestResult<BTreeMap<u32, Told>> {
    let mut told = BTreeMap::new();
    while !over.load(Ordering::SeqCst) {
        let number = begun.fetch_add(1, Ordering::SeqCst);
        let open = match producer.begin().await {
            Ok(open) => open,
            Err(error) if error.is_retriable() => continue,
            Err(error) => return Err(error.into()),
        };
        for at in 0..EACH * PARTITIONS {
            let record = Record::to(TOPIC).partition(at % PARTITIONS).value(number.to_string());
            drop(producer.send(record).await);
        }
        // Each fifth is aborted on purpose.
        let ended = match number % 5 {
            4 => open.abort().await.map(|()| Outcome::Aborted).map_err(|error| error.to_string()),
            _ => match open.commit().await {
                Ok(()) => Ok(Outcome::Committed),
                Err(CommitError::Aborted(_)) => Ok(Outcome::Aborted),
                Err(error) => Err(error.to_string()),
            },
        };
        told.insert(number, ended);
    }
    Ok(told)
}

/// Kills come at any moment, so also between an end's two phases, when the coordinator has the decision on record and
/// the markers are still to be written. What the client tells of each transaction is what a reader finds afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_client_tells_of_a_transaction_is_true_though_the_broker_is_killed() -> TestResult {
    integration_tests::show_logs();
    let folder = tempfile::tempdir()?;
    let mut broker = ChildBroker::start(folder.path(), "127.0.0.1:0")?;
    let address = broker.bootstrap_servers.clone();
    let client = Client::connect(&address).await?;
    Admin::new(client.clone()).create_topics([NewTopic::new(TOPIC, PARTITIONS, 1)]).await?.all()?;
    let (begun, over) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let producer = client.producer().transactional_id("teller").linger(Duration::ZERO).build()?;
    let teller = tokio::spawn(tell(producer, Arc::clone(&begun), Arc::clone(&over)));
    let goes_on = async || {
        let before = begun.load(Ordering::SeqCst);
        eventually("transactions go on", async || Ok(begun.load(Ordering::SeqCst) > before + 20)).await
    };
    for round in 0..KILLS {
        goes_on().await?;
        // Not always at the same point of a transaction, which takes about a millisecond.
        sleep(Duration::from_micros(130 * round)).await;
        broker.kill()?;
        broker = ChildBroker::start(folder.path(), &address)?;
    }
    goes_on().await?;
    over.store(true, Ordering::SeqCst);
    let told = timeout(PATIENCE, teller).await???;

    let whole = [EACH as usize; PARTITIONS as usize];
    let found = found(&Client::connect(&address).await?).await?;
    for (number, ended) in &told {
        let shows = found.get(number);
        match ended {
            Ok(Outcome::Committed) => assert_eq!(shows, Some(&whole), "{number} was committed"),
            Ok(_) => assert_eq!(shows, None, "{number} was aborted"),
            Err(error) => {
                return Err(format!("{number}: the client goes on and does not know: {error}").into());
            }
        }
    }
    assert!(found.keys().all(|number| told.contains_key(number)));
    assert!(told.values().any(|ended| *ended == Ok(Outcome::Committed)));
    Ok(())
}

/// A coordinator that lost its log knows nothing of what is open in a partition, and nobody will end it: the one case in
/// which somebody has to look and to decide.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_its_coordinator_has_forgotten_is_found_and_aborted() -> TestResult {
    integration_tests::show_logs();
    let folder = tempfile::tempdir()?;
    let mut broker = ChildBroker::start(folder.path(), "127.0.0.1:0")?;
    let address = broker.bootstrap_servers.clone();
    let client = Client::connect(&address).await?;
    let admin = Admin::new(client.clone());
    admin.create_topics([NewTopic::new(TOPIC, PARTITIONS, 1)]).await?.all()?;
    let producer = client.producer().transactional_id("lost").build()?;
    let open = producer.begin().await?;
    producer.send(Record::to(TOPIC).partition(0).value("1")).await?.await?;
    broker.kill()?;
    for entry in std::fs::read_dir(folder.path())? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("__transaction_state-")) {
            std::fs::remove_dir_all(path)?;
        }
    }
    let _broker = ChildBroker::start(folder.path(), &address)?;
    let admin = Admin::new(Client::connect(&address).await?);
    let all = || (0..PARTITIONS).map(|partition| TopicPartition::new(TOPIC, partition));
    let find = async || -> TestResult<_> {
        let found = admin.find_hanging_transactions(all()).older_than(Duration::ZERO).await?.all()?;
        Ok(found.into_iter().flat_map(|(_, hanging)| hanging).collect::<Vec<_>>())
    };
    let found = find().await?;
    let [hanging] = &found[..] else { return Err(format!("not one: {found:?}").into()) };
    assert_eq!(hanging.partition, TopicPartition::new(TOPIC, 0));
    assert_eq!(hanging.producer.transaction_start_offset, Some(0));
    let abort = TransactionToAbort::of(hanging.partition.clone(), &hanging.producer);
    admin.abort_transaction(abort.ok_or("it is open")?).await?;
    assert_eq!(find().await?, []);
    drop(open);
    Ok(())
}
