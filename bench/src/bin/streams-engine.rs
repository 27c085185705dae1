//! The Streams engine alone: one task on one thread, without a broker. Prints records a second for each topology; how
//! Java's engine compares stands in `bench/README.md`.
#![expect(clippy::print_stdout, reason = "the table is this program's output")]

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use kafka_streams::serde::HasSerde;
use kafka_streams::testing::{RawInput, TaskRunner};
use kafka_streams::{
    ChangelogRecords, Grouped, JoinWindows, Joined, KStream, Produced, Store, StreamJoined, StreamsBuilder,
    TimeWindows, Topology, Windowed,
};

/// Measures the Streams engine.
#[derive(Debug, Parser)]
struct Options {
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Records of each run.
    #[arg(long, default_value_t = 2_000_000)]
    records: usize,
    /// Distinct keys.
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Records between two commits.
    #[arg(long, default_value_t = 100_000)]
    commit: usize,
    /// Runs of each topology; the best one counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only this topology.
    #[arg(long)]
    only: Option<String>,
    /// Runs Java's engine too, with the jars of this folder (kafka-streams, kafka-streams-test-utils, rocksdbjni).
    #[arg(long, value_name = "FOLDER")]
    java: Option<String>,
}

/// What Java's engine does with the same work: records a second by topology.
fn java(options: &Options, jars: &str) -> Outcome<BTreeMap<String, f64>> {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/java/StreamsEngine.java");
    let numbers = [options.records as u64, options.keys, options.commit as u64, options.rounds as u64];
    let output = Command::new("java")
        .args(["-Xmx3g", "-cp", &format!("{jars}/*"), program])
        .args(numbers.map(|number| number.to_string()))
        .stderr(Stdio::null())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().last().unwrap_or_default().trim_matches(['{', '}']);
    let figure = |part: &str| {
        let (name, figure) = part.split_once(':')?;
        Some((name.trim().trim_matches('"').to_owned(), figure.trim().parse().ok()?))
    };
    let figures: BTreeMap<_, _> = line.split(',').filter_map(figure).collect();
    if figures.is_empty() { Err(format!("{program} printed no figures").into()) } else { Ok(figures) }
}

type Outcome<T> = Result<T, Box<dyn Error>>;

fn text(builder: &StreamsBuilder, topic: &str) -> KStream<String, String> {
    builder.stream(topic)
}

fn first(_: &String, mut value: String) -> String {
    value.truncate(100);
    value
}

fn stateless(maps: usize) -> Outcome<Topology> {
    let builder = StreamsBuilder::new();
    let mut stream = text(&builder, "in").filter(|_, value| !value.is_empty());
    for _ in 0..maps {
        stream = stream.map_values(first);
    }
    stream.to("out");
    Ok(builder.build()?)
}

fn count(store: Store<String, i64>) -> Outcome<Topology> {
    let builder = StreamsBuilder::new();
    text(&builder, "in").group_by_key(Grouped::auto()).count(store).to_stream().to("out");
    Ok(builder.build()?)
}

fn window() -> Outcome<Topology> {
    let builder = StreamsBuilder::new();
    let size = Duration::from_secs(10);
    text(&builder, "in")
        .group_by_key(Grouped::auto())
        .windowed_by(TimeWindows::tumbling(size))
        .count(Store::window("counts"))
        .to_stream()
        .to(Produced::with("out", Windowed::time_serde(String::serde(), size), Option::<i64>::serde()));
    Ok(builder.build()?)
}

fn stream_table_join() -> Outcome<Topology> {
    let builder = StreamsBuilder::new();
    let table = builder.table::<String, String>("table");
    text(&builder, "in").left_join_table(&table, |_, value, _| value, Joined::auto()).to("out");
    Ok(builder.build()?)
}

fn stream_stream_join() -> Outcome<Topology> {
    let builder = StreamsBuilder::new();
    let right = text(&builder, "right");
    text(&builder, "in")
        .join(
            right,
            |_, left, _| left.clone(),
            JoinWindows::within(Duration::from_millis(500)),
            StreamJoined::auto(),
        )
        .to("out");
    Ok(builder.build()?)
}

/// The same pseudo-random numbers in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Records of random keys, one each millisecond.
fn records(count: usize, keys: u64) -> Vec<RawInput> {
    let value = Bytes::from(vec![b'x'; 100]);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    (0..count)
        .map(|at| {
            let key = Bytes::from(format!("k{:07}", random.below(keys)));
            (Some(key), Some(value.clone()), 1_700_000_000_000 + at as i64)
        })
        .collect()
}

/// Records a second.
fn run(topology: &Topology, topics: &[&str], input: &[RawInput], commit: usize) -> Outcome<f64> {
    let mut runner = TaskRunner::new(topology, ChangelogRecords::EachCommit)?;
    let start = Instant::now();
    for chunk in input.chunks(commit) {
        for batch in chunk.chunks(1_000) {
            let share = batch.len() / topics.len();
            for (topic, part) in topics.iter().zip(batch.chunks(share.max(1))) {
                runner.add(topic, part.to_vec());
            }
            runner.process()?;
        }
        runner.commit()?;
    }
    let elapsed = start.elapsed();
    black_box(runner.sent());
    Ok(input.len() as f64 / elapsed.as_secs_f64())
}

fn main() -> Outcome<()> {
    let options = Options::parse();
    let input = records(options.records, options.keys);
    let hot = records(options.records, 1_000);
    let counts = || Store::kv("counts");
    let topologies: Vec<(&str, Topology, &[&str], &[RawInput])> = vec![
        ("stateless", stateless(1)?, &["in"], &input),
        ("map8", stateless(8)?, &["in"], &input),
        ("count_memory", count(counts())?, &["in"], &input),
        ("count_hot_cached", count(counts().cached())?, &["in"], &hot),
        ("window_memory", window()?, &["in"], &input),
        ("stream_table_join", stream_table_join()?, &["in"], &input),
        ("stream_stream_join", stream_stream_join()?, &["in", "right"], &input),
    ];
    let java = options.java.as_ref().map(|jars| java(&options, jars)).transpose()?.unwrap_or_default();
    let mut found = Vec::new();
    for (name, topology, topics, input) in topologies {
        if options.only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        let mut best = 0.0f64;
        for _ in 0..options.rounds.max(1) {
            best = best.max(run(&topology, topics, input, options.commit)?);
        }
        if !options.json {
            // Java keeps windows in RocksDB unless told otherwise.
            let theirs = java.get(name).or_else(|| java.get(&name.replace("memory", "rocksdb")));
            let theirs = theirs.map(|theirs| format!("  Java {theirs:10.0}, {:.1} times", best / theirs));
            println!("{name:20} {best:12.0} records/s {:8.1} ns{}", 1e9 / best, theirs.unwrap_or_default());
        }
        found.push(format!("\"{name}\": {best:.0}"));
    }
    if options.json {
        println!("{{{}}}", found.join(", "));
    }
    Ok(())
}
