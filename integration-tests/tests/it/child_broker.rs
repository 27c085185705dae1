//! A broker in a process of its own, so that it can be killed.
//!
//! The process is this test binary again: the parent runs it with [`DATA_DIR`] set and only [`serve`] selected.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use integration_tests::TestResult;
use kafka_broker::Broker;

const DATA_DIR: &str = "KAFKA_TEST_CHILD_DATA_DIR";
const LISTEN: &str = "KAFKA_TEST_CHILD_LISTEN";
const READY: &str = "child broker ready at ";

/// A broker process. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct ChildBroker {
    process: Child,
    pub(crate) bootstrap_servers: String,
}

impl ChildBroker {
    /// Starts a broker on `data_dir`; `listen` is `127.0.0.1:0` or the address of a broker that was killed.
    pub(crate) fn start(data_dir: &Path, listen: &str) -> TestResult<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["--exact", "child_broker::serve", "--nocapture"])
            .env(DATA_DIR, data_dir)
            .env(LISTEN, listen)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(process.stdout.take().ok_or("the child has no stdout")?).lines();
        while let Some(line) = lines.next() {
            if let Some((_, address)) = line?.split_once(READY) {
                let bootstrap_servers = address.to_owned();
                // The child must find a reader whenever its test harness prints.
                std::thread::spawn(move || lines.count());
                return Ok(Self { process, bootstrap_servers });
            }
        }
        Err(format!("the child broker ended before it served: {}", process.wait()?).into())
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) -> TestResult {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for ChildBroker {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Not a test of its own: the body of the child process, and nothing at all in an ordinary run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve() -> TestResult {
    let Some(data_dir) = std::env::var_os(DATA_DIR) else {
        return Ok(());
    };
    let listen = std::env::var(LISTEN)?;
    let broker = Broker::builder().data_dir(data_dir).listen(listen).start().await?;
    println!("{READY}{}", broker.bootstrap_servers());
    // The parent kills this process, or goes away, which closes stdin: no broker outlives its test.
    tokio::task::spawn_blocking(|| std::io::stdin().lines().count()).await?;
    Ok(())
}
