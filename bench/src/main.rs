//! Runs this project and its peers against the same broker, in turn, and prints what each costs.
//!
//! The figure to compare is the client's CPU per record: user and system time of the whole client process, divided by
//! the records. Peers take turns in every round, so that a drifting machine hits all of them; the table shows medians.
//! How to get the peers stands in `bench/README.md`.
#![expect(clippy::print_stdout, reason = "the table is this program's output")]

mod measure;
mod peers;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::measure::{Measured, median};
use crate::peers::{Peer, Work};

/// Compares this project's client with its peers.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    work: Command,
    /// The cluster that all of them use.
    #[arg(long, global = true, default_value = "127.0.0.1:19092")]
    bootstrap_server: String,
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
    /// 100-byte records without keys to 4 partitions, acks=all, idempotent, linger 5 ms, not compressed.
    Produce,
    /// The same records from the beginning of the topic that `produce` fills.
    Consume,
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
    let mut found = Vec::new();
    for peer in Peer::ALL {
        if !options.peer.is_empty() && !options.peer.iter().any(|name| name == peer.name()) {
            continue;
        }
        match peer.find() {
            Ok(program) => found.push((peer, program, Vec::<Measured>::new())),
            Err(missing) => eprintln!("{} does not take part: {missing}", peer.name()),
        }
    }
    let work = match options.work {
        Command::Produce => Work::Produce,
        Command::Consume => Work::Consume,
    };
    let topic = format!("bench-{}", std::process::id());
    let ours = Peer::Ours.find()?;
    // The topic is made, and for consumers filled, by our own client.
    let filled = if work == Work::Consume { options.records } else { 1 };
    Peer::Ours.run(&ours, Work::Produce, &options.bootstrap_server, &topic, filled)?;
    for round in 1..=options.rounds {
        for (peer, program, results) in &mut found {
            let measured = peer.run(program, work, &options.bootstrap_server, &topic, options.records)?;
            eprintln!("round {round}: {}: {measured}", peer.name());
            results.push(measured);
        }
    }
    println!("| client | CPU per record | records a second | peak memory | runs |");
    println!("|---|---|---|---|---|");
    for (peer, _, results) in &found {
        println!(
            "| {} | {:.3} µs ({:.3}–{:.3}) | {:.2} M | {} | {} |",
            peer.name(),
            median(results, |m| m.cpu_micros_per_record()),
            results.iter().map(Measured::cpu_micros_per_record).fold(f64::INFINITY, f64::min),
            results.iter().map(Measured::cpu_micros_per_record).fold(0.0, f64::max),
            median(results, |m| m.records_per_second()) / 1e6,
            match median(results, |m| m.peak_bytes as f64) {
                0.0 => "not measured".to_owned(),
                bytes => format!("{:.0} MB", bytes / 1e6),
            },
            results.len(),
        );
    }
    Ok(())
}
