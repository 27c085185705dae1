//! `kafka perf consume`

use std::time::{Duration, Instant};

use kafka_admin::Admin;
use kafka_client::TopicPartition;
use kafka_client::consumer::OffsetReset;

use super::{Figures, Usage};
use crate::args::positive_duration;
use crate::connection::{Connection, existing_topic};
use crate::failure::{Failure, with_causes};
use crate::output::{grouped, print_json};
use crate::progress;

/// Read a topic from its beginning and report rate and processor time
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Records are looked at where they lie in the fetched batches; their checksums are checked. The time
starts with the first request and, with --group, includes joining the group.

Example:
  kafka perf consume --topic load --records 5000000")]
pub(crate) struct Args {
    /// The topic to read
    #[arg(short, long)]
    topic: String,

    /// How many records to read; whole batches are read, so it may be some more
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,

    /// Read as a member of this group, from where it has committed
    #[arg(short, long)]
    group: Option<String>,

    /// Fail when no record came for this long
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = positive_duration)]
    timeout: Duration,

    #[command(flatten)]
    connection: Connection,
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
    let (mut records, mut bytes) = (0_u64, 0_u64);
    while records < args.records {
        let batch = consumer.poll_timeout(args.timeout).await;
        let Some(batch) = batch.map_err(|error| Failure::failed(with_causes(&error)))? else {
            bar.finish_and_clear();
            let message = format!(
                "no record for {:?} after {} of {} records",
                args.timeout,
                grouped(records),
                grouped(args.records)
            );
            return Err(Failure::failed(message));
        };
        batch
            .for_each_view(|record| {
                records += 1;
                bytes += (record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len)) as u64;
            })
            .map_err(|error| Failure::failed(with_causes(&error)))?;
        bar.set_position(records);
    }
    let took = started.elapsed();
    let usage = Usage::now();
    bar.finish_and_clear();
    consumer.close().await.map_err(|error| Failure::failed(with_causes(&error)))?;
    print_json(&Figures::new(records, bytes, took, usage, None))
}
