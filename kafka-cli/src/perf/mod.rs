//! `kafka perf produce|consume|latency|transactions`: each prints one line of JSON.

mod consume;
mod latency;
mod produce;
mod transactions;
mod usage;

use std::time::Duration;

use clap::Subcommand;
use hdrhistogram::Histogram;
use kafka_admin::offsets::ListedOffset;
use kafka_admin::{Admin, NewTopic, OffsetSpec};
use kafka_client::TopicPartition;
use kafka_client::wire::ErrorCode;
use serde::Serialize;

use crate::connection::find_topic;
use crate::failure::Failure;
use crate::output::note;

pub(crate) use usage::Usage;

/// Measure producing, consuming, latency and transactions; each prints one line of JSON
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Every line has: records, bytes (of keys and values), seconds, records_per_second,
megabytes_per_second, cpu_seconds (user and system time of this process),
cpu_microseconds_per_record and peak_rss_bytes. Where latency is measured it has latency_ms with
p50, p99, p999 and max.

Examples:
  kafka perf produce --topic load --partitions 4 --records 5000000 --record-size 100
  kafka perf consume --topic load --records 5000000
  kafka perf latency --topic ping --records 10000 --rate 1000 --record-size 100")]
pub(crate) enum Command {
    Produce(produce::Args),
    Consume(consume::Args),
    Latency(latency::Args),
    Transactions(transactions::Args),
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Produce(args) => produce::run(args).await,
        Command::Consume(args) => consume::run(args).await,
        Command::Latency(args) => latency::run(args).await,
        Command::Transactions(args) => transactions::run(args).await,
    }
}

/// What every measurement reports.
#[derive(Debug, Serialize)]
struct Figures {
    records: u64,
    bytes: u64,
    seconds: f64,
    records_per_second: f64,
    megabytes_per_second: f64,
    #[serde(flatten)]
    usage: UsageFigures,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<Latency>,
}

/// Null where the system does not tell.
#[derive(Debug, Serialize)]
struct UsageFigures {
    cpu_seconds: Option<f64>,
    cpu_microseconds_per_record: Option<f64>,
    peak_rss_bytes: Option<u64>,
}

impl Figures {
    fn new(records: u64, bytes: u64, took: Duration, usage: Usage, latency: Option<&Latencies>) -> Self {
        let seconds = took.as_secs_f64();
        let per_second = |n: f64| round(n / seconds.max(1e-9));
        let cpu_seconds = usage.cpu.map(|cpu| cpu.as_secs_f64());
        Self {
            records,
            bytes,
            seconds: (seconds * 1e6).round() / 1e6,
            records_per_second: per_second(records as f64),
            megabytes_per_second: per_second(bytes as f64 / 1e6),
            usage: UsageFigures {
                cpu_seconds,
                cpu_microseconds_per_record: cpu_seconds.map(|s| round(s * 1e6 / records.max(1) as f64)),
                peak_rss_bytes: usage.peak_rss_bytes,
            },
            latency_ms: latency.and_then(Latencies::summary),
        }
    }
}

/// Three decimals are more than any of these measurements is good for.
fn round(figure: f64) -> f64 {
    (figure * 1e3).round() / 1e3
}

/// Latencies in milliseconds.
#[derive(Debug, PartialEq, Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
    /// How many records they are of.
    samples: u64,
}

/// Collects latencies, to three digits, from 1 µs to an hour.
#[derive(Debug)]
struct Latencies(Histogram<u64>);

const MAX_LATENCY_MICROS: u64 = 3_600_000_000;

impl Latencies {
    fn new() -> Result<Self, Failure> {
        Histogram::new_with_bounds(1, MAX_LATENCY_MICROS, 3)
            .map(Self)
            .map_err(|error| Failure::failed(format!("cannot make a histogram: {error}")))
    }

    fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(MAX_LATENCY_MICROS));
    }

    fn summary(&self) -> Option<Latency> {
        let ms = |micros: u64| micros as f64 / 1e3;
        (!self.0.is_empty()).then(|| Latency {
            p50: ms(self.0.value_at_quantile(0.5)),
            p99: ms(self.0.value_at_quantile(0.99)),
            p999: ms(self.0.value_at_quantile(0.999)),
            max: ms(self.0.max()),
            samples: self.0.len(),
        })
    }
}

/// Creates the topic if it is missing and returns its partitions.
async fn ensure_topic(admin: &Admin, topic: &str, partitions: i32) -> Result<Vec<TopicPartition>, Failure> {
    let created = match find_topic(admin, topic).await? {
        Some(_) => false,
        None => match admin.create_topics([NewTopic::new(topic, partitions, -1)]).await?.all() {
            Ok(_) => true,
            // Somebody else was faster.
            Err(error) if error.code() == Some(ErrorCode::TopicAlreadyExists) => false,
            Err(error) => return Err(error.into()),
        },
    };
    // On a cluster of several brokers a new topic takes a moment to be known, and to have leaders, everywhere.
    for _ in 0..50 {
        if let Some(description) = find_topic(admin, topic).await?
            && description.partitions.iter().all(|partition| partition.leader.is_some())
        {
            let count = description.partitions.len();
            if !created && usize::try_from(partitions) != Ok(count) {
                note(format!("topic {topic:?} exists with {count} partitions, not {partitions}"));
            }
            return Ok(description
                .partitions
                .iter()
                .map(|partition| TopicPartition::new(topic, partition.partition))
                .collect());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(Failure::failed(format!("topic {topic:?} has partitions without a leader")))
}

/// The next offset of each partition.
async fn end_offsets(
    admin: &Admin,
    partitions: &[TopicPartition],
) -> Result<Vec<(TopicPartition, i64)>, Failure> {
    let specs = partitions.iter().map(|partition| (partition.clone(), OffsetSpec::Latest));
    let offsets = admin.list_offsets(specs).await?.all()?;
    Ok(offsets
        .into_iter()
        .map(|(partition, ListedOffset { offset, .. })| (partition, offset.unwrap_or(0)))
        .collect())
}

/// Bytes that do not compress to nothing, the same in each run: printable, from a linear congruential generator.
fn payload(size: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        b'A' + (state >> 59) as u8 % 26
    };
    std::iter::repeat_with(next).take(size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_one_flat_line() {
        let usage = Usage { cpu: Some(Duration::from_millis(1500)), peak_rss_bytes: Some(4096) };
        let figures = Figures::new(5_000_000, 500_000_000, Duration::from_secs(2), usage, None);
        let json = serde_json::to_string(&figures).unwrap();
        assert_eq!(
            json,
            r#"{"records":5000000,"bytes":500000000,"seconds":2.0,"records_per_second":2500000.0,"megabytes_per_second":250.0,"cpu_seconds":1.5,"cpu_microseconds_per_record":0.3,"peak_rss_bytes":4096}"#
        );
    }

    #[test]
    fn latencies_are_told_in_milliseconds() {
        let mut latencies = Latencies::new().unwrap();
        assert_eq!(latencies.summary(), None);
        (1..=1000).for_each(|ms| latencies.record(Duration::from_millis(ms)));
        let told = latencies.summary().unwrap();
        assert!((told.p50 - 500.0).abs() < 1.0 && (told.p99 - 990.0).abs() < 2.0, "{told:?}");
        assert_eq!(told.samples, 1000);
        latencies.record(Duration::from_secs(1_000_000));
        assert!(latencies.summary().unwrap().max >= 3_600_000.0);
    }

    #[test]
    fn a_payload_is_printable_and_repeatable() {
        assert_eq!(payload(1000), payload(1000));
        assert!(payload(1000).iter().all(u8::is_ascii_uppercase));
        assert!(payload(0).is_empty());
    }
}
