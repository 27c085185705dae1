//! `kafka perf consume`

use std::time::{Duration, Instant};

use kafka_admin::Admin;
use kafka_client::TopicPartition;
use kafka_client::consumer::{ConsumeError, Consumer, OffsetReset};

use super::{Figures, Usage};
use crate::args::positive_duration;
use crate::connection::{Connection, existing_topic};
use crate::failure::{Failure, with_causes};
use crate::output::{grouped, print_json};
use crate::progress;

/// Read a topic from its beginning and report rate and processor time
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Checksums are checked. Whole batches are read, so it may be some more than --records, but for
--each record. The time starts with the first request and, with --group, includes joining the group.

Example:
  kafka perf consume --topic load --records 5000000")]
pub(crate) struct Args {
    /// The topic to read
    #[arg(short, long)]
    topic: String,

    /// How many records to read
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,

    /// Read as a member of this group, from where it has committed
    #[arg(short, long)]
    group: Option<String>,

    /// How records are taken: looked at where they lie in the fetched batches (view), owned, a
    /// batch at a time (batch), or each by a call of its own (record)
    #[arg(
        long,
        value_name = "view|batch|record",
        value_enum,
        hide_possible_values = true,
        default_value = "view"
    )]
    each: Each,

    /// Fail when no record came for this long
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = positive_duration)]
    timeout: Duration,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Each {
    View,
    Batch,
    Record,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.connect().await?;
    let topic = existing_topic(&Admin::new(client.clone()), &args.topic).await?;
    let started = Instant::now();
    let builder = client.consumer().auto_offset_reset(OffsetReset::Earliest);
    let builder = match &args.group {
        Some(group) => builder.group(group).topics([&args.topic]),
        None => builder
            .assign(topic.partitions.iter().map(|p| TopicPartition::new(args.topic.as_str(), p.partition))),
    };
    let consumer = builder.build()?;
    let bar = progress::bar(args.records, "read");
    let mut read = Read::default();
    while read.records < args.records {
        let more = match args.each {
            Each::View => read.views(&consumer, args.timeout).await,
            Each::Batch => read.batch(&consumer, args.timeout).await,
            Each::Record => read.some_records(&consumer, args.records, args.timeout).await,
        };
        if !more.map_err(|error| Failure::failed(with_causes(&error)))? {
            bar.finish_and_clear();
            return Err(Failure::failed(format!(
                "no record for {:?} after {} of {} records",
                args.timeout,
                grouped(read.records),
                grouped(args.records)
            )));
        }
        bar.set_position(read.records);
    }
    let took = started.elapsed();
    let usage = Usage::now();
    bar.finish_and_clear();
    consumer.close().await.map_err(|error| Failure::failed(with_causes(&error)))?;
    print_json(&Figures::new(read.records, read.bytes, took, usage, None))
}

/// What was read so far. Each way to read answers whether any record came in time.
#[derive(Debug, Default)]
struct Read {
    records: u64,
    bytes: u64,
}

impl Read {
    fn count(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) {
        self.records += 1;
        self.bytes += (key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len)) as u64;
    }

    async fn views(&mut self, consumer: &Consumer, timeout: Duration) -> Result<bool, ConsumeError> {
        let Some(batch) = consumer.poll_timeout(timeout).await? else { return Ok(false) };
        batch.for_each_view(|record| self.count(record.key, record.value))?;
        Ok(true)
    }

    async fn batch(&mut self, consumer: &Consumer, timeout: Duration) -> Result<bool, ConsumeError> {
        let Some(batch) = consumer.poll_timeout(timeout).await? else { return Ok(false) };
        for record in batch {
            let record = record?;
            self.count(record.key.as_deref(), record.value.as_deref());
        }
        Ok(true)
    }

    /// Many records under one timer, which would cost more than a record does.
    async fn some_records(
        &mut self,
        consumer: &Consumer,
        wanted: u64,
        timeout: Duration,
    ) -> Result<bool, ConsumeError> {
        let before = self.records;
        let until = wanted.min(before + 10_000);
        let reading = async {
            while self.records < until {
                let Some(record) = consumer.next().await? else { break };
                self.count(record.key.as_deref(), record.value.as_deref());
            }
            Ok::<(), ConsumeError>(())
        };
        if let Ok(read) = tokio::time::timeout(timeout, reading).await {
            read?;
        }
        Ok(self.records > before)
    }
}
