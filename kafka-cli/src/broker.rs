//! `kafka broker`

use std::io::{self, Write};
use std::path::PathBuf;

use kafka_broker::{Broker, StartError};

use crate::args::key_value;
use crate::failure::{Failure, with_causes};
use crate::output::note;
use crate::signals::Interrupts;

/// Run a broker: one node or several, in memory or on disk
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The address to listen on; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    listen: String,

    /// The folder to keep everything in, made if it does not exist; without it everything is in memory
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// A configuration by Kafka's own key, such as log.retention.ms=60000; repeatable
    #[arg(long = "config", value_name = "KEY=VALUE", value_parser = key_value)]
    configs: Vec<(String, String)>,

    /// The node's number in the cluster (node.id)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(0..))]
    node_id: i32,

    /// How many nodes to run in this process; their numbers and ports count up
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    nodes: u8,
}

const AFTER_HELP: &str = "\
Examples:
  kafka broker                                   in memory, gone when it ends
  kafka broker --data ./kafka-data               survives restarts and crashes
  kafka broker --listen 0.0.0.0:9092 --config advertised.listeners=PLAINTEXT://myhost:9092
  kafka broker --nodes 3 --config default.replication.factor=3
  kafka broker --config num.partitions=8 --config auto.create.topics.enable=false

It prints one line when clients can connect. Ctrl-C or SIGTERM closes the logs and ends it with
exit code 0. Defaults are Kafka's, except that groups form at once
(group.initial.rebalance.delay.ms=0), short sessions are allowed and __consumer_offsets has 4
partitions.";

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    // Listened to from the start, so that a signal during recovery is not lost.
    let mut interrupts =
        Interrupts::new().map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")))?;
    let storage = match &args.data {
        Some(dir) => dir.display().to_string(),
        None => "in memory".to_owned(),
    };
    let mut builder = Broker::builder().listen(&args.listen).node_id(args.node_id).nodes(args.nodes.into());
    if let Some(dir) = &args.data {
        builder = builder.data_dir(dir);
    }
    for (key, value) in &args.configs {
        builder = builder.config(key, value);
    }
    let started = tokio::select! {
        started = builder.start() => started,
        () = interrupts.next() => return Err(Failure::Interrupted),
    };
    let broker = started.map_err(|error| failure(&args, &error))?;
    let line = format!("serving on {}, storage: {storage}", broker.bootstrap_servers());
    let mut stdout = io::stdout().lock();
    // A broker serves on when nobody reads its stdout.
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    drop(stdout);

    interrupts.next().await;
    tokio::select! {
        () = broker.shutdown() => Ok(()),
        () = interrupts.next() => {
            note("kafka: ended without closing the logs; the next start will recover them");
            Err(Failure::Interrupted)
        }
    }
}

fn failure(args: &Args, error: &StartError) -> Failure {
    let message = with_causes(error);
    match error {
        StartError::Config(_) => Failure::usage(format!("--config: {message}")),
        StartError::Listen { source, .. } => match source.kind() {
            io::ErrorKind::AddrInUse => Failure::failed(format!(
                "{message}\n  Another program has this port. Choose another with --listen, for instance --listen 127.0.0.1:0."
            )),
            io::ErrorKind::InvalidInput => Failure::usage(format!("--listen: {message}; expected HOST:PORT")),
            _ => Failure::failed(message),
        },
        StartError::FolderInUse { .. } => {
            Failure::failed(format!("{message}\n  Stop the other one, or choose another folder with --data."))
        }
        StartError::OtherNode { stored, .. } => {
            Failure::failed(format!("{message}\n  Start it with --node-id {stored}, not {}.", args.node_id))
        }
        _ => Failure::failed(message),
    }
}
