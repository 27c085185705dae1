//! Runs this project and its peers against the same broker, in turn, and prints what each costs.
//!
//! The figure to compare is the client's CPU per record: user and system time of the whole client process, divided by
//! the records. Peers take turns in every round, so that a drifting machine hits all of them; the table shows medians.
//! How to get the peers stands in `bench/README.md`.
#![expect(clippy::print_stdout, reason = "the table is this program's output")]

mod measure;
mod peers;

use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::measure::{Measured, median};
use crate::peers::{Codec, Each, Peer, Records, Work};

/// Compares this project's client with its peers.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    work: Command,
    /// A broker that all of them use: a name for the table, its address, and its process id if its processor time
    /// counts (repeatable).
    #[arg(long, global = true, value_name = "NAME=HOST:PORT[,PID]", default_value = "kafka=127.0.0.1:19092")]
    broker: Vec<Target>,
    /// Records in each run.
    #[arg(long, global = true, default_value_t = 5_000_000)]
    records: u64,
    /// Rounds; each peer runs once in each.
    #[arg(long, global = true, default_value_t = 3)]
    rounds: usize,
    /// Only these peers (repeatable): ours, java, librdkafka, franz-go, krafka.
    #[arg(long, global = true)]
    peer: Vec<String>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Command {
    /// Records without keys to 4 partitions, acks=all, idempotent, linger 5 ms.
    Produce {
        /// The size of each value.
        #[arg(long, value_name = "BYTES", default_value_t = 100)]
        record_size: u32,
        /// How batches are compressed. The values are then the same in every record.
        #[arg(long, value_enum, default_value = "none")]
        compression: Codec,
        /// Await every delivery, with this project's client; the others have no such switch.
        #[arg(long)]
        await_each: bool,
        /// Hand over so many records with each call, with this project's client.
        #[arg(long, value_name = "RECORDS", conflicts_with = "await_each")]
        at_once: Option<u32>,
    },
    /// Records of 100 bytes from the beginning of a topic with 4 partitions.
    Consume {
        /// How this project's client takes its records.
        #[arg(long, value_enum, default_value = "view")]
        each: Each,
    },
    /// Records of 100 bytes in transactions, to 4 partitions; krafka does not take part.
    Transactions {
        /// How many records a transaction has.
        #[arg(long, value_name = "RECORDS", default_value_t = 1000)]
        transaction_records: u64,
    },
    /// How this project's producer grows: partitions with keys spread over them, and tasks that send at once.
    Growth,
}

/// A broker to work against.
#[derive(Debug, Clone)]
struct Target {
    name: String,
    server: String,
    pid: Option<u32>,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, place) = text.split_once('=').ok_or("write NAME=HOST:PORT[,PID]")?;
        let (server, pid) = match place.split_once(',') {
            Some((server, pid)) => {
                (server, Some(pid.parse().map_err(|_| format!("{pid:?} is no process id"))?))
            }
            None => (place, None),
        };
        Ok(Self { name: name.to_owned(), server: server.to_owned(), pid })
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let work = match options.work {
        Command::Produce { record_size, compression, await_each, at_once } => {
            Work::Produce(Records { bytes: record_size, compression, await_each, at_once })
        }
        Command::Consume { each } => Work::Consume(each),
        Command::Transactions { transaction_records } => Work::Transactions { records: transaction_records },
        Command::Growth => return growth(options),
    };
    let mut found = Vec::new();
    for peer in Peer::ALL {
        if !options.peer.is_empty() && !options.peer.iter().any(|name| name == peer.name()) {
            continue;
        }
        match peer.find(work) {
            Ok(program) => found.push((peer, program)),
            Err(missing) => eprintln!("{} does not take part: {missing}", peer.name()),
        }
    }
    let topic = format!("bench-{}", std::process::id());
    // The topic is made, and for consumers filled, by our own client.
    let filled = if matches!(work, Work::Consume(_)) { options.records } else { 1 };
    let filling =
        Work::Produce(Records { bytes: 100, compression: Codec::None, await_each: false, at_once: None });
    let ours = Peer::ours()?;
    for broker in &options.broker {
        Peer::Ours.run(&ours, filling, &broker.server, &topic, filled, None)?;
    }
    let mut rows: Vec<_> = found
        .iter()
        .flat_map(|(peer, program)| options.broker.iter().map(move |broker| (*peer, program, broker)))
        .map(|row| (row, Vec::<Measured>::new()))
        .collect();
    for round in 1..=options.rounds {
        for ((peer, program, broker), results) in &mut rows {
            let measured = peer.run(program, work, &broker.server, &topic, options.records, broker.pid)?;
            eprintln!("round {round}: {} on {}: {measured}", peer.name(), broker.name);
            results.push(measured);
        }
    }
    println!(
        "| client | broker | client's CPU per record | broker's | records a second | client's peak memory | runs |"
    );
    println!("|---|---|---|---|---|---|---|");
    for ((peer, _, broker), results) in &rows {
        let (client, server) = (Measured::cpu_micros_per_record, Measured::broker_micros_per_record);
        println!(
            "| {} | {} | {} | {} | {:.2} M | {} | {} |",
            peer.name(),
            broker.name,
            spread(results, client),
            if broker.pid.is_some() { spread(results, server) } else { "not measured".to_owned() },
            median(results, Measured::records_per_second) / 1e6,
            match median(results, |m| m.peak_bytes as f64) {
                0.0 => "not measured".to_owned(),
                bytes => format!("{:.0} MB", bytes / 1e6),
            },
            results.len(),
        );
    }
    Ok(())
}

/// The median, and the lowest and highest.
fn spread(results: &[Measured], figure: fn(&Measured) -> f64) -> String {
    let lowest = results.iter().map(figure).fold(f64::INFINITY, f64::min);
    let highest = results.iter().map(figure).fold(0.0, f64::max);
    format!("{:.3} µs ({lowest:.3}–{highest:.3})", median(results, figure))
}

fn growth(options: &Options) -> Result<(), String> {
    let ours = Peer::ours()?;
    let broker = options.broker.first().ok_or("name a broker")?;
    println!("| partitions | tasks | CPU per record | records a second | peak memory |");
    println!("|---|---|---|---|---|");
    let partitions = [1, 10, 100, 1_000, 10_000].map(|partitions| (partitions, 1));
    let tasks = [100, 10_000].map(|tasks| (4, tasks));
    for (partitions, tasks) in partitions.into_iter().chain(tasks) {
        let topic = format!("growth-{}-{partitions}-{tasks}", std::process::id());
        let mut results = Vec::new();
        for _ in 0..options.rounds {
            let mut command = std::process::Command::new(&ours);
            command.args(["perf", "produce", "-b", &broker.server, "-t", &topic]);
            command.args(["-n", &options.records.to_string(), "--keys", "1000000"]);
            command.args(["--partitions", &partitions.to_string(), "--tasks", &tasks.to_string()]);
            let (output, wall, cpu, peak_bytes) =
                measure::run(&mut command, None).map_err(|error| error.to_string())?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into_owned());
            }
            let records = options.records;
            results.push(Measured { records, wall, cpu, peak_bytes, broker_cpu: Duration::ZERO });
        }
        println!(
            "| {partitions} | {tasks} | {} | {:.2} M | {:.0} MB |",
            spread(&results, Measured::cpu_micros_per_record),
            median(&results, Measured::records_per_second) / 1e6,
            median(&results, |m| m.peak_bytes as f64) / 1e6,
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_a_name_an_address_and_perhaps_a_process() {
        let target: Target = "ours=localhost:9092,17".parse().unwrap();
        assert_eq!(
            (target.name.as_str(), target.server.as_str(), target.pid),
            ("ours", "localhost:9092", Some(17))
        );
        assert!("localhost:9092".parse::<Target>().is_err());
        assert!("ours=localhost:9092,me".parse::<Target>().is_err());
    }
}
