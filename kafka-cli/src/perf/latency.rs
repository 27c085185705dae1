//! `kafka perf latency`

use std::time::{Duration, Instant};

use kafka_admin::Admin;
use kafka_client::consumer::{Consumer, OffsetReset};
use kafka_client::producer::{Acks, Producer, Record};
use kafka_client::wire::compression::Compression;

use super::{Figures, Latencies, Usage, end_offsets, ensure_topic, payload};
use crate::args::positive_duration;
use crate::connection::Connection;
use crate::failure::{Failure, with_causes};
use crate::output::{grouped, print_json};
use crate::produce::{acks, compression};
use crate::progress;

/// Send records at a steady rate, read them back and report how long they took from end to end
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A record's latency runs from when it was due to be sent until a consumer in the same process has
it, so a stall of the producer counts for every record that was due meanwhile.

Example:
  kafka perf latency --topic ping --records 10000 --rate 1000 --record-size 100")]
pub(crate) struct Args {
    /// The topic to send to; it is created if it is missing
    #[arg(short, long)]
    topic: String,

    /// How many partitions the topic gets if it is created
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,

    /// How many records to send
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,

    /// How many records to send each second
    #[arg(short, long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rate: u64,

    /// The size of each value in bytes, at least 24
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(STAMP as i64..))]
    record_size: u32,

    /// How batches are compressed: none, gzip, snappy, lz4 or zstd, with a level as in zstd:9
    #[arg(short = 'z', long, value_name = "CODEC", default_value = "none", value_parser = compression)]
    compression: Compression,

    /// How long a batch that is not full waits for more records, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    linger_ms: u64,

    /// How many brokers must acknowledge: all in-sync replicas, the leader (1) or none (0)
    #[arg(long, value_name = "all|1|0", default_value = "all", value_parser = acks)]
    acks: Acks,

    /// Fail when no record came back for this long
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = positive_duration)]
    timeout: Duration,

    #[command(flatten)]
    connection: Connection,
}

/// A value begins with the run's mark (16 bytes) and when it was due, in nanoseconds since the run began (8 bytes).
const STAMP: usize = 24;

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.connect().await?;
    let admin = Admin::new(client.clone());
    let partitions = ensure_topic(&admin, &args.topic, args.partitions).await?;
    let ends = end_offsets(&admin, &partitions).await?;
    let producer = client
        .producer()
        .acks(args.acks)
        .compression(args.compression)
        .linger(Duration::from_millis(args.linger_ms))
        .build()?;
    let consumer = client.consumer().auto_offset_reset(OffsetReset::Earliest).assign(partitions).build()?;
    for (partition, end) in &ends {
        consumer.seek(partition, *end).map_err(|error| Failure::failed(with_causes(&error)))?;
    }

    let run = Run { mark: mark(), began: Instant::now() };
    let pacing = pace(&args, run, producer.clone());
    let received = receive(&args, run, &consumer).await;
    let took = run.began.elapsed();
    let usage = Usage::now();
    // When nothing came back, the reason why nothing could be sent is the better message.
    let paced = match &received {
        Ok(_) => pacing.join(),
        Err(_) if pacing.is_finished() => pacing.join(),
        Err(_) => Ok(Ok(())),
    };
    paced.unwrap_or_else(|_| Err(Failure::failed("the sending thread panicked")))?;
    let latencies = received?;
    consumer.close().await.map_err(|error| Failure::failed(with_causes(&error)))?;
    let bytes = args.records * u64::from(args.record_size);
    print_json(&Figures::new(args.records, bytes, took, usage, Some(&latencies)))
}

#[derive(Debug, Clone, Copy)]
struct Run {
    mark: u128,
    began: Instant,
}

/// Tells this run's records from others in the topic.
fn mark() -> u128 {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_1970.unwrap_or_default().as_nanos() << 32 | u128::from(std::process::id())
}

/// When a record is due, from the beginning of the run.
fn due(n: u64, rate: u64) -> Duration {
    let nanos = u128::from(n) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Sends from a thread of its own: tokio's timers count whole milliseconds, a sleeping thread wakes within 0.1 ms.
fn pace(args: &Args, run: Run, producer: Producer) -> std::thread::JoinHandle<Result<(), Failure>> {
    let runtime = tokio::runtime::Handle::current();
    let (records, rate, topic) = (args.records, args.rate, args.topic.clone());
    let mut value = payload(args.record_size as usize);
    std::thread::spawn(move || {
        let topic = producer.topic(&topic);
        for n in 0..records {
            let due = due(n, rate);
            let early = due.saturating_sub(run.began.elapsed());
            if !early.is_zero() {
                std::thread::sleep(early);
            }
            stamp(&mut value, run.mark, due);
            let sent = runtime.block_on(producer.send(Record::to(&topic).value(&value)));
            drop(sent.map_err(|error| Failure::failed(with_causes(&error)))?);
        }
        Ok(())
    })
}

fn stamp(value: &mut [u8], mark: u128, due: Duration) {
    if let Some((head, rest)) = value.split_first_chunk_mut::<16>() {
        *head = mark.to_be_bytes();
        if let Some(head) = rest.first_chunk_mut::<8>() {
            *head = u64::try_from(due.as_nanos()).unwrap_or(u64::MAX).to_be_bytes();
        }
    }
}

/// When the record was due, if it is one of this run.
fn read_stamp(value: &[u8], mark: u128) -> Option<Duration> {
    let (head, rest) = value.split_first_chunk::<16>()?;
    let nanos = u64::from_be_bytes(*rest.first_chunk::<8>()?);
    (u128::from_be_bytes(*head) == mark).then(|| Duration::from_nanos(nanos))
}

async fn receive(args: &Args, run: Run, consumer: &Consumer) -> Result<Latencies, Failure> {
    let mut latencies = Latencies::new()?;
    let bar = progress::bar(args.records, "received");
    let mut received = 0_u64;
    while received < args.records {
        let batch = consumer.poll_timeout(args.timeout).await;
        let Some(batch) = batch.map_err(|error| Failure::failed(with_causes(&error)))? else {
            bar.finish_and_clear();
            let (received, records) = (grouped(received), grouped(args.records));
            let message = format!("no record for {:?} after {received} of {records} records", args.timeout);
            return Err(Failure::failed(message));
        };
        let now = run.began.elapsed();
        batch
            .for_each_view(|record| {
                if let Some(due) = record.value.and_then(|value| read_stamp(value, run.mark)) {
                    latencies.record(now.saturating_sub(due));
                    received += 1;
                }
            })
            .map_err(|error| Failure::failed(with_causes(&error)))?;
        bar.set_position(received);
    }
    bar.finish_and_clear();
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_due_evenly_and_for_ever() {
        assert_eq!(due(0, 1000), Duration::ZERO);
        assert_eq!(due(1500, 1000), Duration::from_millis(1500));
        assert_eq!(due(1, 3), Duration::from_nanos(333_333_333));
        assert_eq!(due(u64::MAX, 1), Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn a_stamp_is_read_by_its_own_run_only() {
        let mut value = payload(100);
        stamp(&mut value, 7, Duration::from_micros(5));
        assert_eq!(read_stamp(&value, 7), Some(Duration::from_micros(5)));
        assert_eq!(read_stamp(&value, 8), None);
        assert_eq!(read_stamp(b"short", 7), None);
    }
}
