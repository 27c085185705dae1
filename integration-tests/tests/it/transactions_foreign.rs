//! Transactions of librdkafka and franz-go, by the programs in `bench/c` and `bench/go`.
//!
//! They are ignored where nobody says that the programs are there: `cargo xtask test` builds and runs them where it can,
//! and says plainly where it cannot; `cargo xtask peers` names them to whoever runs these tests alone.

use std::path::PathBuf;

use integration_tests::{Cluster, PATIENCE, TestResult, unique};
use kafka_client::TopicPartition;
use kafka_client::producer::Record;
use tokio::process::Command;

use crate::interop::run;
use crate::transactions_java::committed;

/// The program that a variable names.
fn program(variable: &str) -> TestResult<Command> {
    let program = std::env::var_os(variable).map(PathBuf::from);
    let program = program.ok_or_else(|| format!("{variable} is not set (`cargo xtask peers` prints it)"))?;
    Ok(Command::new(program))
}

/// Records in transactions, as fast as they come; some are of one record, and the last is smaller than the others.
async fn produces(variable: &str) -> TestResult {
    let cluster = Cluster::start().await?;
    let topic = cluster.topic("foreign-tx", 1).await?;
    for (records, per_transaction) in [("20", "1"), ("2050", "100")] {
        let mut produce = program(variable)?;
        produce.args(["produce", cluster.bootstrap_servers(), &topic, records, per_transaction, "100"]);
        run(&mut produce, "").await?;
    }
    assert_eq!(committed(&cluster, &topic).await?.values().sum::<usize>(), 2070);
    cluster.shutdown().await;
    Ok(())
}

/// Consume, copy, commit both; each third transaction is aborted and its records read again.
async fn copies_exactly_once(variable: &str) -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let (input, output) = (cluster.topic("foreign-in", 1).await?, cluster.topic("foreign-out", 1).await?);
    let group = unique("foreign");
    let producer = client.producer().build()?;
    for value in 0..1000 {
        drop(producer.send(Record::to(&*input).value(value.to_string())).await?);
    }
    producer.close(PATIENCE).await?;
    let mut copy = program(variable)?;
    copy.args(["copy", cluster.bootstrap_servers(), &group, &input, &output, "1000", "70", "3"]);
    run(&mut copy, "").await?;
    let seen = committed(&cluster, &output).await?;
    assert_eq!(seen.len(), 1000);
    assert!(seen.values().all(|&times| times == 1), "{seen:?}");

    // The offsets were committed with the records, and some of what is written was aborted.
    let consumer = client.consumer().group(&group).enable_auto_commit(false).build()?;
    let at = TopicPartition::new(&*input, 0);
    assert_eq!(consumer.committed([&at]).await?.get(&at).map(|place| place.offset), Some(1000));
    let end = consumer.end_offsets([&TopicPartition::new(&*output, 0)]).await?;
    assert!(end.values().all(|&end| end > 1000 + 1000 / 70), "{end:?}");
    cluster.shutdown().await;
    Ok(())
}

#[tokio::test]
#[ignore = "needs librdkafka"]
async fn librdkafka_produces_in_transactions() -> TestResult {
    produces("RDKAFKA_TRANSACTIONS").await
}

#[tokio::test]
#[ignore = "needs librdkafka"]
async fn librdkafka_copies_exactly_once_though_it_aborts() -> TestResult {
    copies_exactly_once("RDKAFKA_TRANSACTIONS").await
}

#[tokio::test]
#[ignore = "needs franz-go"]
async fn franz_go_produces_in_transactions() -> TestResult {
    produces("FRANZ_GO_TRANSACTIONS").await
}

#[tokio::test]
#[ignore = "needs franz-go"]
async fn franz_go_copies_exactly_once_though_it_aborts() -> TestResult {
    copies_exactly_once("FRANZ_GO_TRANSACTIONS").await
}
