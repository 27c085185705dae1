//! A broker in a process of its own, so that it can be killed: [`serve`], with [`DATA_DIR`] set.

use std::path::Path;

use integration_tests::TestResult;
use kafka_broker::Broker;

use crate::child_process::{ChildProcess, parent_is_gone};

const DATA_DIR: &str = "KAFKA_TEST_CHILD_DATA_DIR";
const LISTEN: &str = "KAFKA_TEST_CHILD_LISTEN";
const READY: &str = "child broker ready at ";

/// A broker process. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct ChildBroker {
    process: ChildProcess,
    pub(crate) bootstrap_servers: String,
}

impl ChildBroker {
    /// Starts a broker on `data_dir`; `listen` is `127.0.0.1:0` or the address of a broker that was killed.
    pub(crate) fn start(data_dir: &Path, listen: &str) -> TestResult<Self> {
        let environment = [(DATA_DIR, data_dir.as_os_str()), (LISTEN, listen.as_ref())];
        let mut process = ChildProcess::start("child_broker::serve", environment)?;
        let mut lines = process.lines()?;
        while let Some(line) = lines.next() {
            if let Some((_, address)) = line?.split_once(READY) {
                let bootstrap_servers = address.to_owned();
                std::thread::spawn(move || lines.count());
                return Ok(Self { process, bootstrap_servers });
            }
        }
        Err(format!("the child broker ended before it served: {}", process.kill()?).into())
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) -> TestResult {
        self.process.kill().map(drop)
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
    parent_is_gone().await
}
