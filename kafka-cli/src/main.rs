//! The `kafka` command line: a broker, topics, groups, transactions, producing, consuming and measuring.
//!
//! Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

mod args;
mod broker;
mod connection;
mod consume;
mod failure;
mod format;
mod groups;
mod outcome;
mod output;
mod perf;
mod produce;
mod progress;
mod signals;
mod stdin;
mod topics;
mod transactions;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// A Kafka broker and tools for any Kafka cluster, in one program.
#[derive(Debug, Parser)]
#[command(name = "kafka", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Try it:
  kafka broker                                         a broker on 127.0.0.1:9092, in memory
  kafka topics create orders --partitions 3            in another terminal
  echo 'hello' | kafka produce --topic orders
  kafka consume --topic orders --from-beginning

Every command but `broker` talks to --bootstrap-server, by default 127.0.0.1:9092, and works
with any Kafka cluster. `kafka COMMAND --help` has examples.

Exit codes: 0 done, 1 failed (the reason is on stderr), 2 wrong usage, 130 interrupted by Ctrl-C.
Environment: RUST_LOG sets what is logged to stderr, such as info or kafka_client=debug.";

#[derive(Debug, Subcommand)]
enum Command {
    Broker(broker::Args),
    #[command(subcommand)]
    Topics(topics::Command),
    #[command(subcommand)]
    Groups(groups::Command),
    #[command(subcommand)]
    Transactions(transactions::Command),
    Produce(produce::Args),
    Consume(consume::Args),
    #[command(subcommand)]
    Perf(perf::Command),
}

impl Command {
    async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Broker(args) => broker::run(args).await,
            Self::Topics(command) => topics::run(command).await,
            Self::Groups(command) => groups::run(command).await,
            Self::Transactions(command) => transactions::run(command).await,
            Self::Produce(args) => produce::run(args).await,
            Self::Consume(args) => consume::run(args).await,
            Self::Perf(command) => perf::run(command).await,
        }
    }

    /// What is logged unless `RUST_LOG` says otherwise. The client's warnings about a server that cannot be reached
    /// are left out: a command that fails says so itself, once.
    fn log_filter(&self) -> &'static str {
        match self {
            Self::Broker(_) => "warn",
            _ => "warn,kafka_client=error",
        }
    }
}

/// A thread that is blocked reading stdin does not keep the program from ending.
const SHUTDOWN: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| cli.command.log_filter().into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::failed(format!("cannot start threads: {error}")).report(),
    };
    let result = runtime.block_on(cli.command.run());
    runtime.shutdown_timeout(SHUTDOWN);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_command_and_option_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_says_what_it_does() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} has no description", command.get_name());
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {} has no help", command.get_name(), arg.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
