//! `kafka perf produce`

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use kafka_admin::Admin;
use kafka_client::producer::{Acks, Deliveries, Delivery, Producer, Record, SendError, TopicHandle};
use kafka_client::wire::compression::Compression;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Figures, Latencies, Usage, end_offsets, ensure_topic, payload};
use crate::connection::Connection;
use crate::failure::{Failure, with_causes};
use crate::output::{grouped, print_json};
use crate::produce::{acks, compression};
use crate::progress;

/// Send records as fast as they are taken and report rate, latency and processor time
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Without --keys, whole batches go to one partition after another. Values are random letters,
another run of them in each record. Deliveries are dropped, but for a sample whose latency, from send to acknowledgement, is
reported; --await-each awaits every one of them while later records are being sent. At the end the
partitions' offsets must have grown by exactly --records, else the exit code is 1; so nobody else
should write to the topic meanwhile.

Example:
  kafka perf produce --topic load --partitions 4 --records 5000000 --record-size 100")]
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

    /// The size of each value in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    record_size: u32,

    /// How batches are compressed: none, gzip, snappy, lz4 or zstd, with a level as in zstd:9
    #[arg(short = 'z', long, value_name = "CODEC", default_value = "none", value_parser = compression)]
    compression: Compression,

    /// How long a batch that is not full waits for more records, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5)]
    linger_ms: u64,

    /// The size of a full batch in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 131_072)]
    batch_size: u32,

    /// How many brokers must acknowledge: all in-sync replicas, the leader (1) or none (0)
    #[arg(long, value_name = "all|1|0", default_value = "all", value_parser = acks)]
    acks: Acks,

    /// Give record n the key n modulo N, which spreads records over the partitions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    keys: Option<u64>,

    /// Send the same value in every record
    #[arg(long)]
    same_value: bool,

    /// How many tasks share the work of sending
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    tasks: u64,

    /// Hand over so many records with each call, and await all of their deliveries together
    #[arg(long, value_name = "N", conflicts_with_all = ["await_each", "one_by_one"], value_parser = clap::value_parser!(u64).range(1..=100_000))]
    at_once: Option<u64>,

    /// Await every delivery
    #[arg(long)]
    await_each: bool,

    /// Await every delivery before the next record: one record in flight for each task
    #[arg(long, conflicts_with = "await_each")]
    one_by_one: bool,

    #[command(flatten)]
    connection: Connection,
}

/// Enough samples for a p999.
const SAMPLES: u64 = 50_000;
/// Deliveries cross to the task that awaits them in such groups, so that the crossing costs nothing per record.
const GROUP: usize = 512;
/// Sampled records are few; their latency must not wait for many of them.
const SAMPLED_GROUP: usize = 16;
/// So many groups wait at most: more records than the producer's buffer holds of 100 bytes each.
const GROUPS: usize = 1024;
/// Values begin at one of so many places of the same letters.
const STARTS: usize = 4096;
/// How often, in records, the progress bar is moved.
const BAR_STEP: u64 = 16 * 1024;

#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    figures: Figures,
    /// How much the partitions have grown: equal to `records`.
    written: i64,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.connect().await?;
    let admin = Admin::new(client.clone());
    let partitions = ensure_topic(&admin, &args.topic, args.partitions).await?;
    let before = end_offsets(&admin, &partitions).await?;
    let producer = client
        .producer()
        .acks(args.acks)
        .compression(args.compression)
        .linger(Duration::from_millis(args.linger_ms))
        .batch_size(args.batch_size as usize)
        .build()?;

    let started = Instant::now();
    let (sent, deliveries) = mpsc::channel(GROUPS);
    let awaiting = tokio::spawn(await_deliveries(deliveries));
    let sending = send(&args, &producer, sent).await;
    producer.flush().await;
    let took = started.elapsed();
    let usage = Usage::now();
    let outcome = awaiting.await.map_err(|error| Failure::failed(error.to_string()))??;
    sending?;
    if let Some(error) = outcome.first_error {
        return Err(Failure::failed(with_causes(&error)));
    }

    let after = end_offsets(&admin, &partitions).await?;
    let total = |offsets: &[(_, i64)]| offsets.iter().map(|(_, offset)| offset).sum::<i64>();
    let written = total(&after) - total(&before);
    let bytes = args.records * u64::from(args.record_size);
    let latency = (args.acks != Acks::None).then_some(&outcome.latencies);
    print_json(&Report { figures: Figures::new(args.records, bytes, took, usage, latency), written })?;
    // Without acknowledgements records may be lost, which is what acks=0 is for.
    if args.acks != Acks::None && u64::try_from(written) != Ok(args.records) {
        let written = grouped(u64::try_from(written).unwrap_or(0));
        return Err(Failure::failed(format!("{} records sent, {written} written", grouped(args.records))));
    }
    Ok(())
}

/// What the sending tasks tell of records.
enum Sent {
    /// To be awaited one by one; of some, by their place among these, it counts since when.
    Each {
        deliveries: Vec<Delivery>,
        sampled: Vec<(usize, Instant)>,
    },
    /// Sent together, at this time.
    Together(Deliveries, Instant),
    Acknowledged(Duration),
}

/// Sends what one task has to send: its share of the records, beginning with number `first`.
struct Sending {
    args: Args,
    topic: TopicHandle,
    letters: Arc<[u8]>,
    sample_every: u64,
    bar: ProgressBar,
    sent: mpsc::Sender<Sent>,
}

async fn send(args: &Args, producer: &Producer, sent: mpsc::Sender<Sent>) -> Result<(), Failure> {
    // Each record begins elsewhere, so that a codec does not see the same bytes again and again.
    let letters: Arc<[u8]> = payload(args.record_size as usize + STARTS).into();
    let sample_every = if args.one_by_one { 1 } else { (args.records / SAMPLES).max(1) };
    let bar = progress::bar(args.records, "sent");
    let mut sending = JoinSet::new();
    let mut first = 0;
    for task in 0..args.tasks {
        let next = (task + 1) * args.records / args.tasks;
        let task = Sending {
            args: args.clone(),
            topic: producer.topic(&args.topic),
            letters: Arc::clone(&letters),
            sample_every,
            bar: bar.clone(),
            sent: sent.clone(),
        };
        sending.spawn(task.run(first..next));
        first = next;
    }
    while let Some(sent) = sending.join_next().await {
        sent.map_err(|error| Failure::failed(error.to_string()))??;
    }
    bar.finish_and_clear();
    Ok(())
}

impl Sending {
    async fn run(self, records: Range<u64>) -> Result<(), Failure> {
        match self.args.at_once {
            Some(at_once) => self.run_at_once(records, at_once).await,
            None => self.run_each(records).await,
        }
    }

    async fn run_at_once(self, records: Range<u64>, at_once: u64) -> Result<(), Failure> {
        for first in records.clone().step_by(at_once as usize) {
            let next = records.end.min(first + at_once);
            let keys: Vec<_> = (first..next).filter_map(|n| self.key(n)).collect();
            let together = (first..next).map(|n| {
                let record = Record::to(&self.topic).value(self.value(n));
                match keys.get((n - first) as usize) {
                    Some(key) => record.key(key),
                    None => record,
                }
            });
            let started = Instant::now();
            let deliveries = self.topic.producer().send_all(together).await;
            let deliveries = deliveries.map_err(|error| Failure::failed(with_causes(&error)))?;
            if self.sent.send(Sent::Together(deliveries, started)).await.is_err() {
                // A delivery failed; the rest would only wait for the same.
                return Ok(());
            }
            self.bar.inc(next - first);
        }
        Ok(())
    }

    fn value(&self, n: u64) -> &[u8] {
        let from = if self.args.same_value { 0 } else { (n.wrapping_mul(61) % STARTS as u64) as usize };
        self.letters.get(from..from + self.args.record_size as usize).unwrap_or_default()
    }

    fn key(&self, n: u64) -> Option<[u8; 8]> {
        self.args.keys.map(|keys| (n % keys).to_be_bytes())
    }

    async fn run_each(self, records: Range<u64>) -> Result<(), Failure> {
        let group_size = if self.args.await_each { GROUP } else { SAMPLED_GROUP };
        let mut deliveries = Vec::with_capacity(group_size);
        let mut sampled = Vec::new();
        for n in records {
            let key = self.key(n);
            let record = Record::to(&self.topic).value(self.value(n));
            let record = match &key {
                Some(key) => record.key(key),
                None => record,
            };
            let sampled_at = n.is_multiple_of(self.sample_every).then(Instant::now);
            let failed = |error: SendError| Failure::failed(with_causes(&error));
            let delivery = self.topic.send(record).await.map_err(failed)?;
            let mut told = None;
            match sampled_at {
                Some(sampled_at) if self.args.one_by_one => {
                    delivery.await.map_err(failed)?;
                    told = Some(Sent::Acknowledged(sampled_at.elapsed()));
                }
                Some(sampled_at) => {
                    sampled.push((deliveries.len(), sampled_at));
                    deliveries.push(delivery);
                }
                None if self.args.await_each => deliveries.push(delivery),
                None => drop(delivery),
            }
            if deliveries.len() == group_size {
                let deliveries = std::mem::replace(&mut deliveries, Vec::with_capacity(group_size));
                told = Some(Sent::Each { deliveries, sampled: std::mem::take(&mut sampled) });
            }
            if let Some(told) = told
                && self.sent.send(told).await.is_err()
            {
                // A delivery failed; the rest would only wait for the same.
                return Ok(());
            }
            if n.is_multiple_of(BAR_STEP) {
                self.bar.inc(BAR_STEP);
            }
        }
        // Nobody listens after a failure.
        let _ = self.sent.send(Sent::Each { deliveries, sampled }).await;
        Ok(())
    }
}

struct Awaited {
    latencies: Latencies,
    first_error: Option<SendError>,
}

/// Ends with the first failure, which the sender notices by its closed channel.
async fn await_deliveries(mut sent: mpsc::Receiver<Sent>) -> Result<Awaited, Failure> {
    let mut awaited = Awaited { latencies: Latencies::new()?, first_error: None };
    while let Some(sent) = sent.recv().await {
        if let Err(error) = awaited.take(sent).await {
            awaited.first_error = Some(error);
            break;
        }
    }
    Ok(awaited)
}

impl Awaited {
    async fn take(&mut self, sent: Sent) -> Result<(), SendError> {
        match sent {
            Sent::Acknowledged(latency) => self.latencies.record(latency),
            Sent::Together(deliveries, sent_at) => {
                deliveries.all().await?;
                self.latencies.record(sent_at.elapsed());
            }
            Sent::Each { deliveries, sampled } => {
                let mut sampled = sampled.into_iter().peekable();
                for (at, delivery) in deliveries.into_iter().enumerate() {
                    delivery.await?;
                    if let Some((_, sent_at)) = sampled.next_if(|(place, _)| *place == at) {
                        self.latencies.record(sent_at.elapsed());
                    }
                }
            }
        }
        Ok(())
    }
}
