//! A live word count: real text, through a producer, a stream processor and a consumer, on the embedded broker.
//!
//! `cargo run --release -p quickstart` is all it takes. At the end every count is checked against a plain count of the
//! same files.

mod input;
mod pipeline;
mod progress;
mod view;
mod words;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

use crate::input::Input;
use crate::pipeline::{End, Pipeline, PipelineError};
use crate::progress::{Difference, Progress, Summary};
use crate::view::{View, grouped, millis};
use crate::words::PlainCount;

/// Counts the words of real text with Kafka Streams in Rust, and shows the counts as they change.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Examples:
  quickstart                                     this repository's text, on an embedded broker in memory
  quickstart --input /usr/share/doc              another folder
  quickstart --repeat 50 --json                  under load, with the result as one JSON object
  quickstart --bootstrap-server localhost:9092   the same on any Kafka cluster

Exit codes: 0 counted exactly, 1 an error or a wrong count, 2 bad arguments or input, 130 interrupted."
)]
struct Options {
    /// A text file, or a folder whose text files are all read [default: this repository].
    #[arg(long, value_name = "PATH")]
    input: Option<PathBuf>,

    /// Feed the input this many times.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    repeat: u64,

    /// Use this Kafka cluster instead of the embedded broker.
    #[arg(long, value_name = "HOST:PORT")]
    bootstrap_server: Option<String>,

    /// Partitions of the topics, and with them how many tasks count in parallel.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..=1000))]
    partitions: i32,

    /// How long to wait for a cluster to answer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,

    /// Print nothing but the result, as one JSON object.
    #[arg(long)]
    json: bool,
}

/// How often the view is drawn.
const FRAME: Duration = Duration::from_millis(100);

const EXIT_FAILED: u8 = 1;
const EXIT_BAD_INPUT: u8 = 2;
const EXIT_INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let options = Options::parse();
    let path = options.input.clone().unwrap_or_else(repository);
    let input = match Input::read(&path) {
        Ok(input) => input,
        Err(error) => return fail(&error, EXIT_BAD_INPUT),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, EXIT_FAILED),
    };
    match runtime.block_on(run(&options, &path, input)) {
        Ok(code) => code,
        Err(error) => fail(&error, EXIT_FAILED),
    }
}

/// The folder this program was built from, or the current one where that is gone.
fn repository() -> PathBuf {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    built_from.canonicalize().unwrap_or_else(|_| PathBuf::from("."))
}

async fn run(options: &Options, path: &Path, input: Input) -> Result<ExitCode, PipelineError> {
    let mut view = View::new(options.json);
    view.say(&format!(
        "{}: {} lines of {} files, {} times{}",
        path.display(),
        grouped(input.lines.len() as u64),
        grouped(input.files),
        options.repeat,
        if input.lossy_lines == 0 {
            String::new()
        } else {
            format!("; {} lines are not UTF-8 and are read lossily", grouped(input.lossy_lines))
        },
    ));
    let expected = PlainCount::of(&input.lines, options.repeat);
    let lines = input.lines.len() as u64 * options.repeat;

    let mut pipeline = Pipeline::start(pipeline::Options {
        bootstrap_servers: options.bootstrap_server.clone(),
        partitions: options.partitions,
        timeout: Duration::from_secs(options.timeout),
    })
    .await?;
    view.say(&format!("counting on {}", pipeline.description()));
    let mut progress = Progress::new(lines, expected.total(), Instant::now());
    pipeline.feed(input.lines, expected.words_in_line, options.repeat);

    let mut shown_at = Instant::now();
    let end = loop {
        if progress.is_complete() {
            break End::Complete;
        }
        if let Some(end) = pipeline.next_counts(&mut progress, FRAME).await? {
            break end;
        }
        if shown_at.elapsed() >= FRAME {
            shown_at = Instant::now();
            view.update(&progress, shown_at);
        }
    };
    let summary = progress.summary(Instant::now());
    view.update(&progress, Instant::now());
    view.finish();
    pipeline.close().await?;

    match end {
        End::Interrupted => {
            if !options.json {
                eprintln!(
                    "interrupted after {} words; offsets are committed",
                    grouped(summary.words.unsigned_abs())
                );
            }
            Ok(ExitCode::from(EXIT_INTERRUPTED))
        }
        End::Complete => {
            let differences = progress.differences(&expected.counts);
            report(options.json, &summary, &differences, input.lossy_lines);
            Ok(if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
        }
    }
}

#[expect(clippy::print_stdout, reason = "the result is this program's output")]
fn report(json: bool, summary: &Summary, differences: &[Difference], lossy_lines: u64) {
    let exact = differences.is_empty();
    if json {
        let millis = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        let result = serde_json::json!({
            "exact": exact,
            "lines": summary.lines,
            "lossy_lines": lossy_lines,
            "words": summary.words,
            "distinct": summary.distinct,
            "seconds": millis(summary.elapsed) / 1e3,
            "words_per_second": summary.words_per_second().round(),
            "latency_ms": { "p50": millis(summary.p50), "p99": millis(summary.p99) },
        });
        println!("{result}");
        return;
    }
    println!(
        "{} lines, {} words in {:.2} s: {} words/s, latency p50 {} p99 {}",
        grouped(summary.lines),
        grouped(summary.words.unsigned_abs()),
        summary.elapsed.as_secs_f64(),
        grouped(summary.words_per_second() as u64),
        millis(summary.p50),
        millis(summary.p99),
    );
    if exact {
        println!("exact: {} distinct words", grouped(summary.distinct as u64));
        return;
    }
    println!("WRONG: {} words differ from the plain count", grouped(differences.len() as u64));
    for difference in differences.iter().take(10) {
        println!("  {}: counted {}, expected {}", difference.word, difference.counted, difference.expected);
    }
}

fn fail(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprint!("quickstart: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        eprint!(": {cause}");
        source = cause.source();
    }
    eprintln!();
    ExitCode::from(code)
}
