//! `cargo xtask test`: everything that has to hold before a change is taken, in one command.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::jars::{Jars, KAFKA_VERSION};
use crate::{generate, kafka, peers};

/// The oldest Rust that the workspace promises to build with (`rust-version` in Cargo.toml).
const MSRV: &str = "1.88";
/// The oldest Java that Kafka 4's broker runs on.
const MIN_JAVA: u32 = 17;
/// How the integration tests of foreign clients begin: what needs kcat, what needs java and Kafka's jars, what needs all.
const KCAT_TESTS: [&str; 2] = ["interop::kcat", "foreign_groups::kcat"];
const JAVA_TESTS: [&str; 6] = [
    "interop::kafkas",
    "interop::javas",
    "share_java::",
    "transactions_java::",
    "reassignments::kafkas",
    "foreign_groups::javas",
];
const TOGETHER_TESTS: &str = "foreign_groups::everybody";
/// No example may take longer; each starts a broker of its own and needs about a second.
const EXAMPLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Runs all steps, stops at the first that fails, and ends with `N passed, N failed`.
pub(crate) fn run(root: &Path) -> ExitCode {
    let mut run = Run { root, counts: Counts::default(), done: Vec::new(), notes: Vec::new() };
    let result = run.steps();
    run.summary(&result);
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Only what other clients do on our broker; unlike in [`run`], one that is missing is a failure.
pub(crate) fn foreign(root: &Path) -> ExitCode {
    let mut run = Run { root, counts: Counts::default(), done: Vec::new(), notes: Vec::new() };
    let result =
        run.step("foreign clients on our broker", Run::foreign_clients).and_then(|()| match &*run.notes {
            [] => Ok(()),
            [..] => Err("not every client is there".to_owned()),
        });
    run.summary(&result);
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[derive(Clone, Copy, Default)]
struct Counts {
    passed: u64,
    failed: u64,
}

struct Run<'a> {
    root: &'a Path,
    counts: Counts,
    done: Vec<(String, Duration)>,
    notes: Vec<String>,
}

impl Run<'_> {
    fn steps(&mut self) -> Result<(), String> {
        self.step("set-up", Self::set_up)?;
        self.step("format", |run| run.cargo(&["fmt", "--all", "--check"]))?;
        self.step("lints", |run| {
            run.cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])
        })?;
        self.step("unit, property and integration tests on our broker", |run| {
            run.tests(&["--workspace", "--lib", "--bins", "--tests"], &[])
        })?;
        self.step("documentation tests", |run| run.tests(&["--workspace", "--doc"], &[]))?;
        self.step("documentation", |run| {
            let mut doc = run.command("cargo", &["doc", "--quiet", "--workspace", "--no-deps"]);
            run.status(doc.env("RUSTDOCFLAGS", "-D warnings"))
        })?;
        self.step("licences and bans", Self::deny)?;
        self.step("oldest Rust", Self::oldest_rust)?;
        self.step("examples", Self::examples)?;
        self.step("foreign clients on our broker", Self::foreign_clients)?;
        self.step("kafka-streams beside Java's", Self::parity)?;
        self.step("Apache Kafka", Self::apache_kafka)
    }

    fn step(&mut self, name: &str, work: impl FnOnce(&mut Self) -> Result<(), String>) -> Result<(), String> {
        println!("== {name}");
        let began = Instant::now();
        let result = work(self).map_err(|error| format!("{name}: {error}"));
        self.done.push((name.to_owned(), began.elapsed()));
        result
    }

    fn summary(&mut self, result: &Result<(), String>) {
        println!("\n== summary");
        for (at, (name, took)) in self.done.iter().enumerate() {
            let failed = result.is_err() && at + 1 == self.done.len();
            println!("{} {name} ({:.1} s)", if failed { "FAILED" } else { "ok    " }, took.as_secs_f64());
        }
        for note in &self.notes {
            println!("note: {note}");
        }
        if let Err(error) = result {
            println!("error: {error}");
            // A step that is no test still counts: the last line must not read like success.
            self.counts.failed = self.counts.failed.max(1);
        }
        println!("{} passed, {} failed", self.counts.passed, self.counts.failed);
    }

    /// What a fresh machine with rustup's minimal profile lacks.
    fn set_up(&mut self) -> Result<(), String> {
        if !succeeds("cc", &["--version"]) {
            return Err("no C compiler (cc), which zstd needs: apt-get install build-essential".into());
        }
        for (component, probe) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
            if !succeeds("cargo", &[probe, "--version"]) {
                self.status(&mut self.command("rustup", &["component", "add", component]))?;
            }
        }
        Ok(())
    }

    fn deny(&mut self) -> Result<(), String> {
        if !succeeds("cargo", &["deny", "--version"]) {
            self.note("licences and bans were not checked: cargo-deny is missing (cargo install --locked cargo-deny)");
            return Ok(());
        }
        // Advisories change without us, so they are for a person to ask for: `cargo deny check advisories`.
        self.cargo(&["deny", "--log-level", "error", "check", "bans", "licenses", "sources"])
    }

    fn oldest_rust(&mut self) -> Result<(), String> {
        let toolchains = Command::new("rustup").args(["toolchain", "list"]).output();
        let toolchains = toolchains.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        if !toolchains.is_ok_and(|list| list.lines().any(|line| line.starts_with(MSRV))) {
            self.note(&format!(
                "Rust {MSRV} was not tried, only clippy's incompatible_msrv and the resolver looked: no such toolchain \
                 (rustup toolchain install {MSRV})"
            ));
            return Ok(());
        }
        self.status(&mut self.command("rustup", &["run", MSRV, "cargo", "check", "--quiet", "--workspace"]))
    }

    fn examples(&mut self) -> Result<(), String> {
        // The whole workspace, so that dependencies keep the features, and thus the builds, that the tests used.
        self.cargo(&["build", "--quiet", "--workspace", "--bins"])?;
        let mut programs = Vec::new();
        for entry in
            fs::read_dir(self.root.join("examples/src/bin")).into_iter().flatten().filter_map(Result::ok)
        {
            programs.extend(entry.path().file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
        programs.sort();
        for program in &programs {
            let output = self.program(program, &[])?;
            println!("{program}: {}", output.lines().last().unwrap_or_default());
        }
        let output = self.program("quickstart", &["--json", "--input", "ARCHITECTURE.md"])?;
        let result: serde_json::Value =
            serde_json::from_str(output.trim()).map_err(|error| format!("quickstart: {error}: {output}"))?;
        if result.get("exact") != Some(&serde_json::Value::Bool(true)) {
            return Err(format!("quickstart: not exact: {output}"));
        }
        println!("quickstart: {}", output.trim());
        Ok(())
    }

    /// Runs a program of the workspace, built before, and returns what it prints.
    fn program(&self, name: &str, arguments: &[&str]) -> Result<String, String> {
        let program = self.target_folder().join("debug").join(name);
        let mut child = Command::new(&program)
            .args(arguments)
            .current_dir(self.root)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let mut output = child.stdout.take().ok_or("no output")?;
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = std::io::Read::read_to_string(&mut output, &mut text);
            text
        });
        let deadline = Instant::now() + EXAMPLE_TIMEOUT;
        let status = loop {
            match child.try_wait().map_err(|error| format!("{name}: {error}"))? {
                Some(status) => break status,
                None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                None => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("{name} did not end within {EXAMPLE_TIMEOUT:?}"));
                }
            }
        };
        let text = reader.join().map_err(|_| format!("{name}: its output could not be read"))?;
        if status.success() { Ok(text) } else { Err(format!("{name}: {status}\n{text}")) }
    }

    /// What other clients there are: tests that are ignored where their programs are not installed.
    fn foreign_clients(&mut self) -> Result<(), String> {
        let foreign = Foreign::find(self.root)?;
        for (name, missing) in &foreign.missing {
            self.note(&format!("{name} was NOT tried on our broker: {missing}"));
        }
        if foreign.tests.is_empty() {
            return Ok(());
        }
        let mut arguments = vec!["--workspace", "--test", "it", "--", "--ignored"];
        arguments.extend(&foreign.tests);
        self.tests(&arguments, &foreign.environment())
    }

    /// Random topologies and inputs in both test drivers.
    fn parity(&mut self) -> Result<(), String> {
        if let Err(missing) = kafka_can_run() {
            self.note(&format!("kafka-streams was NOT compared with Java's Kafka Streams: {missing}"));
            return Ok(());
        }
        let jars = Jars::find_or_fetch(self.root)?;
        let folder = jars.folder.to_string_lossy().into_owned();
        self.tests(&["--workspace", "--test", "java", "--", "--ignored"], &[("KAFKA_JARS", &folder)])
    }

    /// The same integration suite on the real thing, and what needs its jars.
    fn apache_kafka(&mut self) -> Result<(), String> {
        if let Err(missing) = kafka_can_run() {
            self.note(&format!(
                "the integration suite did NOT run on Apache Kafka, only on our broker: {missing} \
                 (apt-get install default-jdk-headless maven)"
            ));
            return Ok(());
        }
        let jars = Jars::find_or_fetch(self.root)?;
        if succeeds("unzip", &["-v"]) {
            generate::run(self.root, true)?;
        } else {
            self.note("generated files were not compared with Kafka's schemas: unzip is missing");
        }
        self.java_reads_our_batches(&jars)?;
        let broker = kafka::Broker::start(&jars)?;
        println!("Apache Kafka {KAFKA_VERSION} listens at 127.0.0.1:{}", broker.port);
        let bootstrap = format!("127.0.0.1:{}", broker.port);
        let foreign = Foreign::find(self.root)?;
        let mut arguments = vec!["--workspace", "--test", "it", "--", "--include-ignored"];
        for tests in &foreign.untried {
            arguments.extend(["--skip", tests]);
        }
        let mut environment = foreign.environment();
        environment.extend([("KAFKA_TEST_BROKER", "apache"), ("KAFKA_TEST_BOOTSTRAP", &*bootstrap)]);
        self.tests(&arguments, &environment)
    }

    /// The unit tests left every kind of batch behind, in every codec.
    fn java_reads_our_batches(&self, jars: &Jars) -> Result<(), String> {
        let batches = self.target_folder().join("tmp/our-batches.tsv");
        let program = self.root.join("kafka-wire/tests/vectors/BatchVectors.java");
        self.status(kafka::java(jars, "error").arg(program).arg("verify").arg(batches))
    }

    /// `cargo test`, with its output passed on and its results added up.
    fn tests(&mut self, arguments: &[&str], environment: &[(&str, &str)]) -> Result<(), String> {
        let mut test = self.command("cargo", &["test", "--quiet", "--no-fail-fast"]);
        test.args(arguments).envs(environment.iter().copied()).stdout(Stdio::piped());
        let mut child = test.spawn().map_err(|error| format!("cargo: {error}"))?;
        let mut failed = 0;
        for line in BufReader::new(child.stdout.take().ok_or("no output")?).lines().map_while(Result::ok) {
            if let Some(counts) = parse_result(&line) {
                self.counts.passed += counts.passed;
                self.counts.failed += counts.failed;
                failed += counts.failed;
                if counts.passed + counts.failed == 0 {
                    continue;
                }
            }
            if !line.is_empty() && line != "running 0 tests" {
                println!("{line}");
            }
        }
        let status = child.wait().map_err(|error| format!("cargo: {error}"))?;
        match (status.success(), failed) {
            (true, _) => Ok(()),
            (false, 0) => Err(format!("cargo test: {status}")),
            (false, failed) => Err(format!("{failed} tests failed")),
        }
    }

    fn note(&mut self, note: &str) {
        println!("{note}");
        self.notes.push(note.to_owned());
    }

    fn cargo(&self, arguments: &[&str]) -> Result<(), String> {
        self.status(&mut self.command("cargo", arguments))
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.root);
        command
    }

    fn status(&self, command: &mut Command) -> Result<(), String> {
        let program = command.get_program().to_string_lossy().into_owned();
        let status = command.status().map_err(|error| format!("{program}: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("{program}: {status}")) }
    }

    fn target_folder(&self) -> PathBuf {
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.root.join("target"), PathBuf::from)
    }
}

/// The clients that are not ours and are on this machine.
#[derive(Default)]
struct Foreign {
    /// How the tests begin that can run, and those that cannot.
    tests: Vec<&'static str>,
    untried: Vec<&'static str>,
    environment: Vec<(&'static str, String)>,
    /// Which of them are not there, and why.
    missing: Vec<(&'static str, String)>,
}

impl Foreign {
    /// Builds what can be built.
    fn find(root: &Path) -> Result<Self, String> {
        let mut found = Self::default();
        if succeeds("kcat", &["-V"]) {
            found.tests.extend(KCAT_TESTS);
        } else {
            found.missing.push(("kcat (librdkafka)", "it is missing (apt-get install kcat)".to_owned()));
            found.untried.extend(KCAT_TESTS);
        }
        for peer in peers::ALL {
            match peer.find_or_build(root) {
                Ok(program) => {
                    found.tests.push(peer.tests);
                    found.environment.push((peer.variable, program.to_string_lossy().into_owned()));
                }
                Err(missing) => {
                    found.missing.push((peer.name, missing));
                    found.untried.push(peer.tests);
                }
            }
        }
        match kafka_can_run() {
            Ok(()) => {
                let jars = Jars::find_or_fetch(root)?;
                found.tests.extend(JAVA_TESTS);
                found.environment.push(("KAFKA_JARS", jars.folder.to_string_lossy().into_owned()));
            }
            Err(missing) => {
                found.missing.push(("Apache Kafka's own tools", missing));
                found.untried.extend(JAVA_TESTS);
            }
        }
        let together = if found.missing.is_empty() { &mut found.tests } else { &mut found.untried };
        together.push(TOGETHER_TESTS);
        Ok(found)
    }

    fn environment(&self) -> Vec<(&str, &str)> {
        self.environment.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }
}

/// Whether this machine has what Apache Kafka needs, or what is missing.
fn kafka_can_run() -> Result<(), String> {
    match kafka::java_version() {
        None => Err("java is missing".to_owned()),
        Some(version) if version < MIN_JAVA => Err(format!("java is {version}, Kafka needs {MIN_JAVA}")),
        Some(_) if succeeds("mvn", &["--version"]) || std::env::var_os("KAFKA_JARS").is_some() => Ok(()),
        Some(_) => Err("mvn is missing".to_owned()),
    }
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// `test result: ok. 3 passed; 0 failed; …`
fn parse_result(line: &str) -> Option<Counts> {
    let results = line.trim_start().strip_prefix("test result: ")?;
    let number = |word: &str| -> Option<u64> {
        let before = results.split(word).next()?.trim_end();
        before.rsplit([' ', '.']).next()?.parse().ok()
    };
    Some(Counts { passed: number(" passed")?, failed: number(" failed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_cargo_test_are_understood() {
        let counts =
            parse_result("test result: ok. 13 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out");
        assert!(counts.is_some_and(|counts| (counts.passed, counts.failed) == (13, 0)));
        let counts = parse_result("test result: FAILED. 1 passed; 12 failed; 0 ignored; finished in 0.12s");
        assert!(counts.is_some_and(|counts| (counts.passed, counts.failed) == (1, 12)));
        assert!(parse_result("running 3 tests").is_none());
    }
}
