//! `kafka produce`

use std::collections::VecDeque;
use std::time::Duration;

use futures::FutureExt;
use kafka_admin::Admin;
use kafka_client::producer::{Acks, Delivery, Producer, Record, SendError};
use kafka_client::wire::compression::Compression;

use crate::args::{Separator, positive_duration, separator};
use crate::connection::{Connection, existing_topic};
use crate::failure::{Failure, with_causes};
use crate::output::{count, note};
use crate::signals::Interrupts;
use crate::stdin;

/// Send each line of stdin as a record
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The topic to send to; it must exist
    #[arg(short, long)]
    topic: String,

    /// What separates a line's key from its value, such as ':' or '\t'; default: records have no key
    #[arg(short, long, value_name = "SEPARATOR", value_parser = separator)]
    key_separator: Option<Separator>,

    /// What separates a line's headers (name=value,name=value) from the rest; default: no headers
    #[arg(short = 'H', long, value_name = "SEPARATOR", value_parser = separator)]
    header_separator: Option<Separator>,

    /// A key or value that is written like this is null, such as NULL; a null value deletes its key on a
    /// compacted topic
    #[arg(long, value_name = "TEXT")]
    null_marker: Option<String>,

    /// How batches are compressed: none, gzip, snappy, lz4 or zstd, with a level as in zstd:9
    #[arg(short = 'z', long, value_name = "CODEC", default_value = "none", value_parser = compression)]
    compression: Compression,

    /// How many brokers must acknowledge: all in-sync replicas, the leader (1) or none (0)
    #[arg(long, value_name = "all|1|0", default_value = "all", value_parser = acks)]
    acks: Acks,

    /// How long each record may take to be acknowledged, retries included
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = positive_duration)]
    timeout: Duration,

    #[command(flatten)]
    connection: Connection,
}

const AFTER_HELP: &str = "\
Examples:
  echo 'hello' | kafka produce --topic greetings
  kafka produce --topic orders --key-separator : < orders.txt         42:paid
  kafka produce --topic orders -H '\\t' -k : < orders.txt              source=web<TAB>42:paid
  seq 1000000 | kafka produce --topic numbers --compression zstd

Lines are bytes: they need not be UTF-8. An empty line is an empty record. When the input ends, or
at Ctrl-C, everything read is sent and awaited, and stderr tells how many records were
acknowledged. The exit code is 1 if a record was not.";

pub(crate) fn compression(text: &str) -> Result<Compression, String> {
    text.parse().map_err(|_| "expected none, gzip, snappy, lz4 or zstd, with a level as in zstd:9".to_owned())
}

pub(crate) fn acks(text: &str) -> Result<Acks, String> {
    match text {
        "all" | "-1" => Ok(Acks::All),
        "1" => Ok(Acks::Leader),
        "0" => Ok(Acks::None),
        _ => Err("expected all, 1 or 0".to_owned()),
    }
}

/// Deliveries that are waited for at most; then the oldest must settle before the next line is read.
const MAX_OPEN: usize = 100_000;

/// The producer's default; a time-out shorter than that shortens it.
const LINGER: Duration = Duration::from_millis(5);

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let mut interrupts =
        Interrupts::new().map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")))?;
    let client = args.connection.connect().await?;
    existing_topic(&Admin::new(client.clone()).with_timeout(args.timeout), &args.topic).await?;
    let producer = client
        .producer()
        .acks(args.acks)
        .compression(args.compression)
        .linger(LINGER.min(args.timeout / 2))
        .request_timeout(args.timeout / 2)
        .delivery_timeout(args.timeout)
        .max_block(args.timeout)
        .build()?;
    let mut sending =
        Sending { producer: &producer, args: &args, line: 0, open: VecDeque::new(), tally: Tally::default() };
    let ended = tokio::select! {
        ended = sending.send_all() => ended,
        () = interrupts.next() => Err(Failure::Interrupted),
    };
    let finished = tokio::select! {
        () = sending.settle_all() => ended,
        () = interrupts.next() => Err(Failure::Interrupted),
    };
    let tally = sending.tally;
    note(tally.summary(args.acks));
    match (finished, tally.first_error) {
        (Ok(()), Some(error)) => Err(Failure::failed(with_causes(&error))),
        (finished, _) => finished,
    }
}

#[derive(Debug, Default)]
struct Tally {
    acknowledged: u64,
    failed: u64,
    first_error: Option<SendError>,
}

impl Tally {
    fn count(&mut self, settled: Result<(), SendError>) {
        match settled {
            Ok(()) => self.acknowledged += 1,
            Err(error) => {
                self.failed += 1;
                self.first_error.get_or_insert(error);
            }
        }
    }

    fn summary(&self, acks: Acks) -> String {
        let verb = if acks == Acks::None { "sent" } else { "acknowledged" };
        let failed = match self.failed {
            0 => String::new(),
            n => format!(", {} not", crate::output::grouped(n)),
        };
        format!("{} {verb}{failed}", count(self.acknowledged, "record"))
    }
}

struct Sending<'a> {
    producer: &'a Producer,
    args: &'a Args,
    line: u64,
    open: VecDeque<Delivery>,
    tally: Tally,
}

impl Sending<'_> {
    /// Sends every line. Dropping the future loses at most the line in hand.
    async fn send_all(&mut self) -> Result<(), Failure> {
        let mut chunks = stdin::lines();
        while let Some(chunk) = chunks.recv().await {
            let chunk = chunk.map_err(|error| Failure::failed(format!("cannot read stdin: {error}")))?;
            for line in stdin::split_lines(&chunk) {
                self.line += 1;
                let record = self
                    .args
                    .record(line)
                    .map_err(|problem| Failure::failed(format!("line {}: {problem}", self.line)))?;
                match self.producer.send(record).await {
                    Ok(delivery) => self.open.push_back(delivery),
                    Err(error) => {
                        return Err(Failure::failed(format!("line {}: {}", self.line, with_causes(&error))));
                    }
                }
                if self.open.len() >= MAX_OPEN {
                    self.settle_oldest().await;
                }
            }
            while let Some(settled) = self.open.front_mut().and_then(|delivery| delivery.now_or_never()) {
                self.open.pop_front();
                self.tally.count(settled.map(drop));
            }
            // A producer that cannot deliver will not deliver the rest of the input either.
            if self.tally.failed > 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn settle_oldest(&mut self) {
        if let Some(oldest) = self.open.front_mut() {
            let settled = oldest.await;
            self.open.pop_front();
            self.tally.count(settled.map(drop));
        }
    }

    async fn settle_all(&mut self) {
        while !self.open.is_empty() {
            self.settle_oldest().await;
        }
    }
}

impl Args {
    /// What a line says.
    fn record<'a>(&'a self, line: &'a [u8]) -> Result<Record<'a>, String> {
        let mut record = Record::to(self.topic.as_str());
        let mut rest = line;
        if let Some(separator) = &self.header_separator {
            let (headers, after) = separator.split(rest).ok_or("there is no header separator")?;
            for header in headers.split(|&byte| byte == b',').filter(|header| !header.is_empty()) {
                let at = header.iter().position(|&byte| byte == b'=').ok_or("a header is not name=value")?;
                let (name, value) =
                    (header.get(..at).unwrap_or_default(), header.get(at + 1..).unwrap_or_default());
                let name = std::str::from_utf8(name).map_err(|_| "a header's name is not UTF-8")?;
                record = match self.is_null(value) {
                    true => record.null_header(name),
                    false => record.header(name, value.to_vec()),
                };
            }
            rest = after;
        }
        if let Some(separator) = &self.key_separator {
            let (key, value) = separator.split(rest).ok_or("there is no key separator")?;
            if !self.is_null(key) {
                record = record.key(key);
            }
            rest = value;
        }
        Ok(if self.is_null(rest) { record } else { record.value(rest) })
    }

    fn is_null(&self, bytes: &[u8]) -> bool {
        self.null_marker.as_ref().is_some_and(|marker| marker.as_bytes() == bytes)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(options: &[&str]) -> Args {
        Line::try_parse_from(["produce", "--topic", "t"].iter().chain(options)).unwrap().args
    }

    fn refused(args: &Args, line: &[u8]) -> String {
        args.record(line).err().unwrap()
    }

    #[test]
    fn a_line_is_a_value_unless_there_are_separators() {
        let record = format!("{:?}", args(&[]).record(b"a:b").unwrap());
        assert!(record.contains("key: None"), "{record}");
        let record = format!("{:?}", args(&["-k", ":"]).record(b"a:b").unwrap());
        assert!(!record.contains("key: None") && !record.contains("value: None"), "{record}");
    }

    #[test]
    fn a_line_that_lacks_its_separator_is_refused() {
        assert_eq!(refused(&args(&["-k", ":"]), b"no key"), "there is no key separator");
        let both = args(&["-k", ":", "-H", r"\t"]);
        assert_eq!(refused(&both, b"k:v"), "there is no header separator");
        assert_eq!(refused(&both, b"h\tk:v"), "a header is not name=value");
        assert_eq!(refused(&both, b"\xff=1\tk:v"), "a header's name is not UTF-8");
        assert!(both.record(b"a=1,b=\tk:v").is_ok());
        assert!(both.record(b"\tk:v").is_ok());
    }

    #[test]
    fn the_null_marker_makes_a_tombstone() {
        let record = format!("{:?}", args(&["-k", ":", "--null-marker", "NULL"]).record(b"k:NULL").unwrap());
        assert!(record.contains("value: None"), "{record}");
    }

    #[test]
    fn what_was_not_acknowledged_is_told() {
        let mut tally = Tally { acknowledged: 1200, ..Tally::default() };
        assert_eq!(tally.summary(Acks::All), "1,200 records acknowledged");
        tally.failed = 3;
        assert_eq!(tally.summary(Acks::All), "1,200 records acknowledged, 3 not");
        assert_eq!(tally.summary(Acks::None), "1,200 records sent, 3 not");
    }
}
