//! `cargo xtask parity`: kafka-streams beside Java's Kafka Streams.

use std::path::Path;
use std::process::Command;

use crate::jars::Jars;

pub(crate) fn run(root: &Path, arguments: &[&str]) -> Result<(), String> {
    let jars = Jars::find_or_fetch(root)?;
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root).args(["run", "--quiet", "-p", "streams-parity", "--"]).args(arguments);
    let status = cargo.env("KAFKA_JARS", &jars.folder).status().map_err(|error| format!("cargo: {error}"))?;
    if status.success() { Ok(()) } else { Err("the two differ; see above".to_owned()) }
}
