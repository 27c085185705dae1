//! The project's own chores; `cargo xtask` lists them.
#![expect(clippy::print_stdout, reason = "a program for the terminal")]

mod fuzz;
mod generate;
mod jars;
mod kafka;
mod parity;
mod peers;
mod simulate;
mod test;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const HELP: &str = "\
cargo xtask test                 formats, lints, tests on our broker, then on Apache Kafka if java and mvn are there
cargo xtask foreign              only what other clients do on our broker, all of which must be there
cargo xtask generate [--check]   write (or compare) the Rust generated from the schemas in Apache Kafka's jars
cargo xtask vectors              write kafka-wire/tests/vectors again, by Apache Kafka's own classes
cargo xtask fuzz [TARGET [SECS]]  fuzz one target or all (needs cargo-fuzz and a nightly toolchain)
cargo xtask simulate [--seeds N] [--seed S] [--profile P]  producers against a cluster that fails (all, calm, network,
                                 restarts, disk, retention, nodes, power, topics); --seed replays a run, --from N
                                 begins there
cargo xtask parity [--seed N] [--cases N] [--family F] [--differences N] [--spec FILE]  random topologies and inputs,
                                 run by kafka-streams and by Java's TopologyTestDriver, and compared
cargo xtask kafka start [PORT]   start a real Apache Kafka on 127.0.0.1:PORT (19092)
cargo xtask kafka stop [PORT]    stop it
cargo xtask kafka run CLASS ...  run one of Kafka's tools, e.g. org.apache.kafka.tools.TopicCommand
cargo xtask kafka jars           print the folder of Kafka's jars, for java -cp
cargo xtask peers                build other clients' programs for the tests and bench: eval \"$(cargo xtask peers)\"

Apache Kafka comes from Maven Central once, into a folder of the user's cache; KAFKA_JARS names another one.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let root = root();
    let done = match arguments.as_slice() {
        ["test"] => return test::run(&root),
        ["foreign"] => return test::foreign(&root),
        ["vectors"] => kafka::write_vectors(&root),
        ["fuzz", rest @ ..] => fuzz::run(&root, rest),
        ["parity", rest @ ..] => parity::run(&root, rest),
        ["peers"] => peers::run(&root),
        ["simulate", rest @ ..] => simulate::run(&root, rest),
        ["kafka", rest @ ..] => kafka::run(&root, rest),
        ["generate"] => generate::run(&root, false),
        ["generate", "--check"] => generate::run(&root, true),
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        other => {
            eprint!("unknown command: {}\n\n{HELP}", other.join(" "));
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's folder.
fn root() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder.parent().unwrap_or(crate_folder).to_path_buf()
}
