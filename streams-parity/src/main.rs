//! `cargo xtask parity` runs this: cases, and what differs.
#![expect(clippy::print_stdout, reason = "a program for the terminal")]

use std::path::PathBuf;
use std::process::ExitCode;

use streams_parity::{FAMILIES, Options};

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool, Box<dyn std::error::Error>> {
    let jars = std::env::var_os("KAFKA_JARS")
        .ok_or("KAFKA_JARS does not name the folder of Kafka's jars (`cargo xtask kafka jars` prints it)")?;
    let mut options =
        Options { jars: PathBuf::from(jars), seed: 1, cases: 2000, family: None, differences: 10 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--seed" => options.seed = value()?.parse()?,
            "--cases" => options.cases = value()?.parse()?,
            "--family" => options.family = Some(value()?),
            "--differences" => options.differences = value()?.parse()?,
            "--spec" => {
                let spec = serde_json::from_str(&std::fs::read_to_string(value()?)?)?;
                let difference = streams_parity::run_spec(&options.jars, &spec)?;
                println!("{}", difference.as_deref().unwrap_or("the same"));
                return Ok(difference.is_none());
            }
            other => {
                let families = FAMILIES.join(", ");
                return Err(format!("unknown argument {other}: --seed, --cases, --family ({families}), --differences, --spec FILE").into());
            }
        }
    }
    let report = streams_parity::run(&options)?;
    println!("{report}");
    Ok(report.differences.is_empty())
}
