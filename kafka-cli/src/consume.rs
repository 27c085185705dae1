//! `kafka consume`

use std::io::{self, BufWriter, Write};
use std::time::Duration;

use futures::FutureExt;
use kafka_admin::{Admin, TopicDescription};
use kafka_client::consumer::{Consumer, ConsumerRecord, OffsetReset};
use kafka_client::{Client, TopicPartition};

use crate::args::positive_duration;
use crate::connection::{Connection, existing_topic};
use crate::failure::{Failure, with_causes};
use crate::format::{Format, format};
use crate::output::{count, note};
use crate::signals::Interrupts;

/// Print a topic's records as they come
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The topic to read
    #[arg(short, long)]
    topic: String,

    /// Start at the oldest record instead of the newest; in a group, only where it has committed nothing
    #[arg(long)]
    from_beginning: bool,

    /// Read as a member of this group: members share the partitions, and the group remembers how far it is
    #[arg(short, long)]
    group: Option<String>,

    /// Read only this partition; repeatable
    #[arg(short, long, value_name = "N", conflicts_with = "group", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Vec<i32>,

    /// End after so many records
    #[arg(short = 'n', long, value_name = "N")]
    max_messages: Option<u64>,

    /// End when no record came for this long, such as 5s; default: wait for ever
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    timeout: Option<Duration>,

    /// How a record is written: value, key-value, json, or a template such as '%k\t%v\n'
    #[arg(short, long, default_value = "value", value_parser = format)]
    format: Format,

    #[command(flatten)]
    connection: Connection,
}

const AFTER_HELP: &str = "\
Examples:
  kafka consume --topic orders                                  what comes from now on
  kafka consume --topic orders --from-beginning --timeout 1s    all there is
  kafka consume --topic orders --group billing                  goes on where the group stopped
  kafka consume --topic orders --format json -n 10
  kafka consume --topic orders --format '%p/%o %k=%v\\n'

Templates: %t topic, %p partition, %o offset, %T timestamp in ms, %k key, %v value, %K and %V
their lengths (-1 for null), %h headers, %% a percent sign; \\n \\t \\xHH as usual, nothing is
added at the end. A null key or value is written as null. JSON has base64 where bytes are not UTF-8.

Ctrl-C commits what was printed, leaves the group and exits with 130. How many records were read
is told on stderr.";

/// How much output is collected while records keep coming.
const OUTPUT_BUFFER: usize = 64 * 1024;

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let mut interrupts =
        Interrupts::new().map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")))?;
    let client = args.connection.connect().await?;
    let admin = Admin::new(client.clone()).with_timeout(args.connection.connect_timeout);
    let topic = existing_topic(&admin, &args.topic).await?;
    let consumer = consumer(&args, &client, &topic)?;

    let mut printer = Printer { consumer: &consumer, format: &args.format, printed: 0 };
    let ended = tokio::select! {
        ended = printer.run(args.max_messages, args.timeout) => ended,
        () = interrupts.next() => Err(Failure::Interrupted),
    };
    let printed = printer.printed;
    let closed = tokio::select! {
        closed = close(&consumer) => closed,
        () = interrupts.next() => Err(Failure::Interrupted),
    };
    if !matches!(ended, Err(Failure::OutputClosed)) {
        note(format!("{} read", count(printed, "record")));
    }
    ended.and(closed)
}

fn consumer(args: &Args, client: &Client, topic: &TopicDescription) -> Result<Consumer, Failure> {
    let reset = if args.from_beginning { OffsetReset::Earliest } else { OffsetReset::Latest };
    let builder = client.consumer().auto_offset_reset(reset);
    let builder = match &args.group {
        Some(group) => builder.group(group).topics([&args.topic]),
        None => {
            let all: Vec<i32> = topic.partitions.iter().map(|partition| partition.partition).collect();
            if let Some(unknown) = args.partition.iter().find(|partition| !all.contains(partition)) {
                let message =
                    format!("topic {:?} has no partition {unknown}, it has {}", topic.name, all.len());
                return Err(Failure::failed(message));
            }
            let wanted = if args.partition.is_empty() { all } else { args.partition.clone() };
            builder.assign(wanted.into_iter().map(|id| TopicPartition::new(args.topic.as_str(), id)))
        }
    };
    Ok(builder.build()?)
}

/// Commits what was printed, where there is a group to commit for, and leaves it.
async fn close(consumer: &Consumer) -> Result<(), Failure> {
    consumer.close().await.map_err(|error| Failure::failed(with_causes(&error)))
}

struct Printer<'a> {
    consumer: &'a Consumer,
    format: &'a Format,
    printed: u64,
}

impl Printer<'_> {
    /// Prints until there is enough or nothing came for `patience`. Dropping the future loses no output: what is
    /// buffered is written when it is dropped.
    async fn run(&mut self, enough: Option<u64>, patience: Option<Duration>) -> Result<(), Failure> {
        let mut out = BufWriter::with_capacity(OUTPUT_BUFFER, io::stdout());
        while enough.is_none_or(|enough| self.printed < enough) {
            let next = match self.consumer.next().now_or_never() {
                Some(next) => next,
                None => {
                    // Nobody should wait for output that is there.
                    out.flush()?;
                    match self.wait(patience).await {
                        Some(next) => next,
                        None => break,
                    }
                }
            };
            match next {
                Ok(Some(record)) => self.print(&mut out, &record)?,
                Ok(None) => break,
                Err(error) => {
                    out.flush()?;
                    return Err(Failure::failed(with_causes(&error)));
                }
            }
        }
        Ok(out.flush()?)
    }

    /// `None` when the patience is at its end.
    async fn wait(
        &self,
        patience: Option<Duration>,
    ) -> Option<Result<Option<ConsumerRecord>, kafka_client::consumer::ConsumeError>> {
        match patience {
            Some(patience) => tokio::time::timeout(patience, self.consumer.next()).await.ok(),
            None => Some(self.consumer.next().await),
        }
    }

    fn print(&mut self, out: &mut impl Write, record: &ConsumerRecord) -> io::Result<()> {
        self.format.write(out, record)?;
        self.printed += 1;
        Ok(())
    }
}
