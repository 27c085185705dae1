//! Who is compared, where each is found and how each is asked to do the same work.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::ValueEnum;

use crate::measure::{self, Measured};

/// What a client is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Produce(Records),
    /// Records of 100 bytes, so many in each transaction; not by krafka.
    Transactions {
        records: u64,
    },
    /// Reads what was produced.
    Consume(Each),
}

/// How this project's client takes the records it reads; the others have one way each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Each {
    /// Looked at where they lie in the fetched batches.
    View,
    /// Owned, a batch at a time.
    Batch,
    /// Each by a call of its own.
    Record,
}

impl Each {
    fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Batch => "batch",
            Self::Record => "record",
        }
    }
}

/// The records to produce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Records {
    pub(crate) bytes: u32,
    pub(crate) compression: Codec,
    /// Only this project's client can be asked for it.
    pub(crate) await_each: bool,
    /// So is this one: how many records are handed over with each call.
    pub(crate) at_once: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Codec {
    /// Kafka's name of it, which all of the clients use.
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// A Kafka client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Ours,
    Java,
    Librdkafka,
    FranzGo,
    Krafka,
}

/// franz-go's benchmark never ends; it is stopped after this long and its own lines say what it did.
const FRANZ_GO_SECONDS: u64 = 8;

impl Peer {
    pub(crate) const ALL: [Peer; 5] = [Self::Ours, Self::Java, Self::Librdkafka, Self::FranzGo, Self::Krafka];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Java => "java",
            Self::Librdkafka => "librdkafka",
            Self::FranzGo => "franz-go",
            Self::Krafka => "krafka",
        }
    }

    /// This project's own program, which lies beside this one.
    pub(crate) fn ours() -> Result<PathBuf, String> {
        let me = env::current_exe().map_err(|error| error.to_string())?;
        let path = me.with_file_name("kafka");
        if path.exists() { Ok(path) } else { Err(format!("{} does not exist", path.display())) }
    }

    /// The program (for Java: the folder of Kafka's jars) for some work, or what is missing.
    pub(crate) fn find(self, work: Work) -> Result<PathBuf, String> {
        let from_env = |variable: &str, what: &str| {
            env::var_os(variable).map(PathBuf::from).ok_or_else(|| format!("set {variable} to {what}"))
        };
        let path = match self {
            Self::Ours => return Self::ours(),
            Self::Java => from_env("KAFKA_JARS", "the folder that `cargo xtask kafka jars` prints")?,
            Self::Librdkafka if matches!(work, Work::Transactions { .. }) => {
                from_env("RDKAFKA_TRANSACTIONS", "what `cargo xtask peers` prints")?
            }
            Self::FranzGo if matches!(work, Work::Transactions { .. }) => {
                from_env("FRANZ_GO_TRANSACTIONS", "what `cargo xtask peers` prints")?
            }
            Self::Krafka if matches!(work, Work::Transactions { .. }) => {
                return Err("it has no benchmark of transactions".to_owned());
            }
            Self::Librdkafka => from_env("RDKAFKA_PERFORMANCE", "librdkafka's examples/rdkafka_performance")?,
            Self::FranzGo => from_env("FRANZ_GO_BENCH", "the binary of franz-go's examples/bench")?,
            Self::Krafka => from_env(
                "KRAFKA_BENCH",
                "a program `BENCH produce|consume SERVER TOPIC RECORDS [BYTES CODEC]`",
            )?,
        };
        if path.exists() { Ok(path) } else { Err(format!("{} does not exist", path.display())) }
    }

    /// Does the work once. `broker` is the broker's process, whose processor time is measured as well.
    pub(crate) fn run(
        self,
        program: &PathBuf,
        work: Work,
        server: &str,
        topic: &str,
        records: u64,
        broker: Option<u32>,
    ) -> Result<Measured, String> {
        let n = records.to_string();
        let mut command = Command::new(program);
        let mut stop_after = None;
        match (self, work) {
            (Self::Ours, Work::Produce(Records { bytes, compression, await_each, at_once })) => {
                command.args(["perf", "produce", "-b", server, "-t", topic, "--partitions", "4", "-n", &n]);
                command.args(["--record-size", &bytes.to_string(), "-z", compression.name()]);
                // Where bytes are compressed, every client sends one value again and again: some can do nothing else.
                command.args((compression != Codec::None).then_some("--same-value"));
                command.args(await_each.then_some("--await-each"));
                if let Some(records) = at_once {
                    command.args(["--at-once", &records.to_string()]);
                }
            }
            (Self::Ours, Work::Consume(each)) => {
                command.args(["perf", "consume", "-b", server, "-t", topic, "-n", &n, "--each", each.name()]);
            }
            (Self::Ours, Work::Transactions { records }) => {
                command.args([
                    "perf",
                    "transactions",
                    "-b",
                    server,
                    "-t",
                    topic,
                    "--partitions",
                    "4",
                    "-n",
                    &n,
                ]);
                command.args(["--transaction-records", &records.to_string()]);
            }
            (Self::Java, Work::Transactions { records }) => {
                let classes = java_classes(program).map_err(|error| format!("javac: {error}"))?;
                command = Command::new("java");
                command.arg("-Xmx1g").arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=error").arg("-cp");
                command.arg(format!("{}:{}", program.join("*").display(), classes.display()));
                command.args(["Transactions", server, topic, &n, &records.to_string(), "100"]);
            }
            (_, Work::Transactions { records }) => {
                command.args(["produce", server, topic, &n, &records.to_string(), "100"]);
            }
            (Self::Java, work) => {
                command = Command::new("java");
                command.arg("-Xmx1g").arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=error").arg("-cp");
                command.arg(program.join("*"));
                if let Work::Produce(Records { bytes, compression, .. }) = work {
                    command.args(["org.apache.kafka.tools.ProducerPerformance", "--topic", topic]);
                    command.args(["--num-records", &n, "--throughput", "-1"]);
                    if compression == Codec::None {
                        command.args(["--record-size", &bytes.to_string()]);
                    } else {
                        let file =
                            one_value(bytes).map_err(|error| format!("a file with a value: {error}"))?;
                        command.arg("--payload-file").arg(file);
                    }
                    command.args(["--producer-props", &format!("bootstrap.servers={server}")]);
                    command.args(["acks=all", "linger.ms=5", "batch.size=131072"]);
                    command.arg(format!("compression.type={}", compression.name()));
                } else {
                    command.args(["org.apache.kafka.tools.ConsumerPerformance", "--topic", topic]);
                    command.args(["--num-records", &n, "--bootstrap-server", server, "--timeout", "20000"]);
                }
            }
            (Self::Librdkafka, Work::Produce(Records { bytes, compression, .. })) => {
                command.args([
                    "-P",
                    "-t",
                    topic,
                    "-s",
                    &bytes.to_string(),
                    "-c",
                    &n,
                    "-b",
                    server,
                    "-a",
                    "-1",
                ]);
                command.args(["-X", "enable.idempotence=true", "-X", "linger.ms=5"]);
                command.args(["-X", &format!("compression.codec={}", compression.name())]);
                command.args(["-X", "queue.buffering.max.messages=1000000", "-q"]);
            }
            (Self::Librdkafka, Work::Consume(_)) => {
                command.args(["-C", "-t", topic, "-p", "0", "-p", "1", "-p", "2", "-p", "3", "-c", &n]);
                command.args(["-b", server, "-o", "beginning", "-q", "-X", "fetch.queue.backoff.ms=1"]);
            }
            (Self::FranzGo, work) => {
                command.args(["-brokers", server, "-topic", topic, "-pprof", "", "-static-record"]);
                if let Work::Produce(Records { bytes, compression, .. }) = work {
                    command.args(["-record-bytes", &bytes.to_string(), "-linger", "5ms"]);
                    command.args(["-compression", compression.name()]);
                } else {
                    command.arg("-consume");
                }
                stop_after = Some(Duration::from_secs(FRANZ_GO_SECONDS));
            }
            (Self::Krafka, Work::Produce(Records { bytes, compression, .. })) => {
                command.args(["produce", server, topic, &n, &bytes.to_string(), compression.name()]);
            }
            (Self::Krafka, Work::Consume(_)) => {
                command.args(["consume", server, topic, &n]);
            }
        }
        let broker_before = broker.map(measure::cpu_of).unwrap_or_default();
        let (output, wall, cpu, peak_bytes) =
            measure::run(&mut command, stop_after).map_err(|error| format!("{}: {error}", self.name()))?;
        let broker_cpu = broker.map(measure::cpu_of).unwrap_or_default().saturating_sub(broker_before);
        let said = String::from_utf8_lossy(&output.stdout);
        if stop_after.is_none() && !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{} failed ({}): {said}{why}", self.name(), output.status));
        }
        let (records, wall) = if stop_after.is_some() { franz_go_work(&said) } else { (records, wall) };
        Ok(Measured { records, wall, cpu, peak_bytes, broker_cpu })
    }
}

/// The folder of the compiled Java program, so that its compilation costs no run anything.
fn java_classes(jars: &Path) -> io::Result<PathBuf> {
    let folder = env::temp_dir().join("bench-java-classes");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("java/Transactions.java");
    let output =
        Command::new("javac").arg("-d").arg(&folder).arg("-cp").arg(jars.join("*")).arg(source).output()?;
    match output.status.success() {
        true => Ok(folder),
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}

/// A file with one value of letters, for a client that reads its values from a file.
fn one_value(bytes: u32) -> io::Result<PathBuf> {
    let file = env::temp_dir().join(format!("bench-value-{bytes}"));
    let letters: String = (0..bytes).map(|n| char::from(b'a' + (n.wrapping_mul(n) / 7 % 26) as u8)).collect();
    fs::write(&file, letters)?;
    Ok(file)
}

/// Sums franz-go's lines, one a second: `12.34 MiB/s; 129.41k records/s`. Seconds without records, such as those after
/// the end of a topic, do not count as time at work.
fn franz_go_work(said: &str) -> (u64, Duration) {
    let thousands: Vec<f64> = said
        .lines()
        .filter_map(|line| line.split_once("; ")?.1.split_once("k records/s")?.0.trim().parse().ok())
        .filter(|&thousands| thousands > 0.0)
        .collect();
    ((thousands.iter().sum::<f64>() * 1000.0) as u64, Duration::from_secs(thousands.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn franz_gos_lines_are_summed_without_its_idle_seconds() {
        let said =
            "1.00 MiB/s; 10.50k records/s\n2.00 MiB/s; 20.00k records/s\n0.00 MiB/s; 0.00k records/s\n";
        assert_eq!(franz_go_work(said), (30_500, Duration::from_secs(2)));
        assert_eq!(franz_go_work("starting\n"), (0, Duration::ZERO));
    }
}
