//! `kafka perf produce`

use std::time::{Duration, Instant};

use kafka_admin::Admin;
use kafka_client::producer::{Acks, Delivery, Producer, Record, SendError};
use kafka_client::wire::compression::Compression;
use serde::Serialize;
use tokio::sync::mpsc;

use super::{Figures, Latencies, Usage, end_offsets, ensure_topic, payload};
use crate::connection::Connection;
use crate::failure::{Failure, with_causes};
use crate::output::{grouped, print_json};
use crate::produce::{acks, compression};
use crate::progress;

/// Send records as fast as they are taken and report rate, latency and processor time
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Records have no key: whole batches go to one partition after another. Their values are random
letters. Deliveries are dropped, but for a sample whose latency, from send to acknowledgement, is
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

    /// Await every delivery
    #[arg(long)]
    await_each: bool,

    #[command(flatten)]
    connection: Connection,
}

/// Enough samples for a p999.
const SAMPLES: u64 = 50_000;
/// Deliveries cross to the task that awaits them in such groups, so that the crossing costs nothing per record.
const GROUP: usize = 512;
/// So many groups wait at most: more records than the producer's buffer holds of 100 bytes each.
const GROUPS: usize = 1024;
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

/// A delivery that is awaited, and when its record was sent if its latency counts.
type Open = (Delivery, Option<Instant>);

async fn send(args: &Args, producer: &Producer, sent: mpsc::Sender<Vec<Open>>) -> Result<(), Failure> {
    let size = args.record_size as usize;
    // Each record begins elsewhere, so that a codec does not see the same bytes again and again.
    let letters = payload(size + 4096);
    let topic = producer.topic(&args.topic);
    let sample_every = (args.records / SAMPLES).max(1);
    let bar = progress::bar(args.records, "sent");
    let mut group = Vec::with_capacity(GROUP);
    for n in 0..args.records {
        let from = (n.wrapping_mul(61) % 4096) as usize;
        let value = letters.get(from..from + size).unwrap_or_default();
        let sampled_at = n.is_multiple_of(sample_every).then(Instant::now);
        let delivery = producer
            .send(Record::to(&topic).value(value))
            .await
            .map_err(|error| Failure::failed(with_causes(&error)))?;
        if args.await_each || sampled_at.is_some() {
            group.push((delivery, sampled_at));
            if group.len() == GROUP || (!args.await_each && group.len() >= 16) {
                let full = std::mem::replace(&mut group, Vec::with_capacity(GROUP));
                if sent.send(full).await.is_err() {
                    // A delivery failed; the rest would only wait for the same.
                    return Ok(());
                }
            }
        }
        if n.is_multiple_of(BAR_STEP) {
            bar.set_position(n);
        }
    }
    let _ = sent.send(group).await;
    bar.finish_and_clear();
    Ok(())
}

struct Awaited {
    latencies: Latencies,
    first_error: Option<SendError>,
}

/// Ends with the first failure, which the sender notices by its closed channel.
async fn await_deliveries(mut deliveries: mpsc::Receiver<Vec<Open>>) -> Result<Awaited, Failure> {
    let mut awaited = Awaited { latencies: Latencies::new()?, first_error: None };
    while let Some(group) = deliveries.recv().await {
        for (delivery, sent_at) in group {
            match (delivery.await, sent_at) {
                (Ok(_), Some(sent_at)) => awaited.latencies.record(sent_at.elapsed()),
                (Ok(_), None) => {}
                (Err(error), _) => {
                    awaited.first_error = Some(error);
                    return Ok(awaited);
                }
            }
        }
    }
    Ok(awaited)
}
