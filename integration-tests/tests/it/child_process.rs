//! A part of a test in a process of its own, so that it can be killed: this test binary again, with only one test selected,
//! which plays its part when the environment says which.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use integration_tests::TestResult;

/// A process. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct ChildProcess(Child);

impl ChildProcess {
    /// Starts the test of this name (`module::function`).
    pub(crate) fn start<V: AsRef<OsStr>>(
        test: &str,
        environment: impl IntoIterator<Item = (&'static str, V)>,
    ) -> TestResult<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args(["--exact", test, "--nocapture"])
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self(child))
    }

    /// What it prints, line by line. Somebody has to read it to the end: it must find a reader whenever its test harness
    /// prints.
    pub(crate) fn lines(&mut self) -> TestResult<std::io::Lines<BufReader<ChildStdout>>> {
        Ok(BufReader::new(self.0.stdout.take().ok_or("somebody reads it already")?).lines())
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) -> TestResult<ExitStatus> {
        self.0.kill()?;
        Ok(self.0.wait()?)
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> TestResult<Option<ExitStatus>> {
        Ok(self.0.try_wait()?)
    }

    /// Stops it where it is (`SIGSTOP`).
    pub(crate) fn pause(&self) -> TestResult {
        self.signal("-STOP")
    }

    /// Lets it go on (`SIGCONT`), as a machine that was away for a while.
    pub(crate) fn resume(&self) -> TestResult {
        self.signal("-CONT")
    }

    fn signal(&self, signal: &str) -> TestResult {
        let sent = Command::new("kill").args([signal, &self.0.id().to_string()]).status()?;
        if sent.success() { Ok(()) } else { Err(format!("kill {signal}: {sent}").into()) }
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Waits until the parent kills this process or goes away, which closes stdin: no child outlives its test.
pub(crate) async fn parent_is_gone() -> TestResult {
    tokio::task::spawn_blocking(|| std::io::stdin().lines().count()).await?;
    Ok(())
}
