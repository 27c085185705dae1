//! `kafka perf transactions`

use std::time::{Duration, Instant};

use kafka_admin::Admin;
use kafka_client::producer::{Record, Transaction};
use kafka_client::wire::compression::Compression;
use serde::Serialize;

use super::{Figures, Latencies, Usage, ensure_topic, payload, round};
use crate::connection::Connection;
use crate::failure::{Failure, with_causes};
use crate::output::print_json;
use crate::produce::compression;
use crate::progress;

/// Send records in transactions and report rate, processor time and how long a transaction takes
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
latency_ms is of whole transactions, from their beginning to the answer that they are committed.

Example:
  kafka perf transactions --topic load --records 1000000 --transaction-records 1000")]
pub(crate) struct Args {
    /// The topic to send to; it is created if it is missing
    #[arg(short, long)]
    topic: String,

    /// How many partitions the topic gets if it is created
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,

    /// How many records to send
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,

    /// How many records a transaction has
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    transaction_records: u64,

    /// The transactional id [default: perf- and the process's number]
    #[arg(long, value_name = "ID")]
    transactional_id: Option<String>,

    /// The size of each value in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    record_size: u32,

    /// How batches are compressed: none, gzip, snappy, lz4 or zstd, with a level as in zstd:9
    #[arg(short = 'z', long, value_name = "CODEC", default_value = "none", value_parser = compression)]
    compression: Compression,

    /// How long a batch that is not full waits for more records, in milliseconds; a commit sends it at once
    #[arg(long, value_name = "MS", default_value_t = 5)]
    linger_ms: u64,

    /// The size of a full batch in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 131_072)]
    batch_size: u32,

    /// Hand all records of a transaction over at once
    #[arg(long)]
    at_once: bool,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    figures: Figures,
    transactions: u64,
    transactions_per_second: f64,
}

fn failed(error: impl std::error::Error) -> Failure {
    Failure::failed(with_causes(&error))
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.connect().await?;
    ensure_topic(&Admin::new(client.clone()), &args.topic, args.partitions).await?;
    let id = args.transactional_id.clone().unwrap_or_else(|| format!("perf-{}", std::process::id()));
    let producer = client
        .producer()
        .transactional_id(id)
        .compression(args.compression)
        .linger(Duration::from_millis(args.linger_ms))
        .batch_size(args.batch_size as usize)
        .build()?;
    // The first one finds the coordinator, and leaders.
    let first = producer.begin().await.map_err(failed)?;
    first.abort().await.map_err(failed)?;

    let value = payload(args.record_size as usize);
    let bar = progress::bar(args.records, "sent");
    let mut latencies = Latencies::new()?;
    let (mut transactions, mut left) = (0, args.records);
    let started = Instant::now();
    while left > 0 {
        let count = left.min(args.transaction_records);
        let began = Instant::now();
        let transaction = producer.begin().await.map_err(failed)?;
        send(&args, &transaction, &value, count).await?;
        transaction.commit().await.map_err(failed)?;
        latencies.record(began.elapsed());
        transactions += 1;
        left -= count;
        bar.inc(count);
    }
    let took = started.elapsed();
    let usage = Usage::now();
    bar.finish_and_clear();
    let bytes = args.records * u64::from(args.record_size);
    print_json(&Report {
        figures: Figures::new(args.records, bytes, took, usage, Some(&latencies)),
        transactions,
        transactions_per_second: round(transactions as f64 / took.as_secs_f64().max(1e-9)),
    })
}

async fn send(args: &Args, transaction: &Transaction<'_>, value: &[u8], count: u64) -> Result<(), Failure> {
    if args.at_once {
        let records = (0..count).map(|_| Record::to(&*args.topic).value(value));
        return transaction.send_all(records).await.map_err(failed);
    }
    let topic = transaction.producer().topic(&args.topic);
    for _ in 0..count {
        transaction.send(topic.record().value(value)).await.map_err(failed)?;
    }
    Ok(())
}
