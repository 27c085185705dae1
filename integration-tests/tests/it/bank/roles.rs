//! Who works at the bank, each in a process of its own: the feeder that orders transfers, and tellers that book them.

use std::time::Duration;

use integration_tests::TestResult;
use kafka_client::Client;
use kafka_client::consumer::OffsetReset;
use kafka_client::exactly_once::{ExactlyOnce, ExactlyOnceError};
use kafka_client::group::GroupProtocol;
use kafka_client::producer::{BeginError, CommitError, FatalError, Producer, Record, Transaction};
use tokio::io::{copy_bidirectional, duplex};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::ledger::{Transfer, committed};
use crate::child_process::{ChildProcess, parent_is_gone};
use integration_tests::simulation::random::Random;

const BOOTSTRAP: &str = "KAFKA_TEST_BANK_BOOTSTRAP";
const NAME: &str = "KAFKA_TEST_BANK_NAME";
const ROLE: &str = "KAFKA_TEST_BANK_ROLE";
const SEED: &str = "KAFKA_TEST_BANK_ROLE_SEED";

/// How a process ends that another one with its transactional id has fenced.
pub(super) const FENCED: i32 = 3;

/// Transfers of one of the feeder's transactions.
const ORDERED_AT_ONCE: u64 = 20;
const FEEDER_PAUSE: Duration = Duration::from_millis(20);
/// As short as Kafka's coordinators allow by default, so that a member that is killed is missed soon.
const SESSION_TIMEOUT: Duration = Duration::from_secs(6);
/// A socket is cut at some time up to this age.
const SOCKET_LIFE: (u64, u64) = (300, 4000);
/// What a socket holds on its way to be cut.
const SOCKET_BYTES: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Feeder,
    Teller(usize),
}

impl Role {
    fn name(self) -> String {
        match self {
            Self::Feeder => "feeder".to_owned(),
            Self::Teller(number) => format!("teller-{number}"),
        }
    }

    fn parse(name: &str) -> Option<Self> {
        match name.strip_prefix("teller-") {
            Some(number) => number.parse().ok().map(Self::Teller),
            None => (name == "feeder").then_some(Self::Feeder),
        }
    }
}

/// The bank as its processes know it.
#[derive(Debug, Clone)]
pub(super) struct Bank {
    pub(super) bootstrap_servers: String,
    /// What its topics, its group and its transactional ids begin with.
    pub(super) name: String,
}

impl Bank {
    /// Transfers that are ordered.
    pub(super) fn orders(&self) -> String {
        format!("{}-orders", self.name)
    }

    /// What was taken from accounts.
    pub(super) fn debits(&self) -> String {
        format!("{}-debits", self.name)
    }

    /// What was given to accounts.
    pub(super) fn credits(&self) -> String {
        format!("{}-credits", self.name)
    }

    /// A process that plays a role. What it does at random follows from the seed.
    pub(super) fn employ(&self, role: Role, seed: u64) -> TestResult<ChildProcess> {
        let environment = [
            (BOOTSTRAP, self.bootstrap_servers.clone()),
            (NAME, self.name.clone()),
            (ROLE, role.name()),
            (SEED, seed.to_string()),
        ];
        let mut process = ChildProcess::start("bank::roles::work", environment)?;
        let lines = process.lines()?;
        std::thread::spawn(move || lines.count());
        Ok(process)
    }

    fn transactional_id(&self, role: Role) -> String {
        format!("{}-{}", self.name, role.name())
    }
}

/// Not a test of its own: the body of a child process, and nothing at all in an ordinary run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work() -> TestResult {
    let Some(role) = std::env::var(ROLE).ok().as_deref().and_then(Role::parse) else { return Ok(()) };
    integration_tests::show_logs();
    let bank = Bank { bootstrap_servers: std::env::var(BOOTSTRAP)?, name: std::env::var(NAME)? };
    let client = client(&bank, std::env::var(SEED)?.parse()?)?;
    tokio::spawn(async {
        drop(parent_is_gone().await);
        std::process::exit(0);
    });
    let ended = match role {
        Role::Feeder => feed(&bank, &client).await,
        Role::Teller(number) => tell(&bank, &client, number).await,
    };
    let code = match ended {
        Ok(()) => 0,
        Err(error) if is_fenced(&*error) => FENCED,
        Err(error) => {
            eprintln!("{}: {error}", role.name());
            1
        }
    };
    // Not by returning: somebody still reads stdin.
    std::process::exit(code)
}

/// Whether the transactional id has gone to another producer.
fn is_fenced(error: &(dyn std::error::Error + 'static)) -> bool {
    let fatal = |error: &CommitError| match error {
        CommitError::Fatal(fatal) | CommitError::Unresolved { fatal: Some(fatal) } => {
            *fatal == FatalError::Fenced
        }
        _ => false,
    };
    let begin = |error: &BeginError| matches!(error, BeginError::Fatal(FatalError::Fenced));
    error.downcast_ref().is_some_and(fatal)
        || error.downcast_ref().is_some_and(begin)
        || error.downcast_ref().is_some_and(|error| match error {
            ExactlyOnceError::Begin(error) => begin(error),
            ExactlyOnceError::Commit(error) => fatal(error),
            _ => false,
        })
}

/// A client whose sockets are cut now and then, with whatever is on its way.
fn client(bank: &Bank, seed: u64) -> TestResult<Client> {
    let random = std::sync::Mutex::new(Random::new(seed));
    let connector = move |host: String, port: u16| {
        let life = random.lock().map(|mut random| random.millis(SOCKET_LIFE.0, SOCKET_LIFE.1));
        let life = life.unwrap_or(Duration::from_secs(1));
        async move {
            let mut socket = TcpStream::connect((host, port)).await?;
            socket.set_nodelay(true)?;
            let (near, mut far) = duplex(SOCKET_BYTES);
            tokio::spawn(async move { timeout(life, copy_bidirectional(&mut socket, &mut far)).await });
            Ok(near)
        }
    };
    Ok(Client::builder(&bank.bootstrap_servers).connector(connector).build()?)
}

/// Orders transfer after transfer, each once, wherever the feeder before was killed.
async fn feed(bank: &Bank, client: &Client) -> TestResult {
    let id = bank.transactional_id(Role::Feeder);
    let producer = client.producer().transactional_id(id).build()?;
    // From here on nobody else orders anything, and what was begun has ended: the orders can be counted.
    let mut transaction = begin(&producer).await?;
    let orders = bank.orders();
    let mut next = committed(client, &orders).await?.len() as u64;
    loop {
        let mut end = next;
        for id in next..next + ORDERED_AT_ONCE {
            let transfer = Transfer::nth(id).to_string();
            let order = Record::to(&*orders).key(id.to_string()).value(transfer);
            if transaction.send(order).await.is_err() {
                // The commit says why, and what it means for the transaction.
                break;
            }
            end = id + 1;
        }
        match transaction.commit().await {
            Ok(()) => next = end,
            Err(error) if error.is_retriable() => {}
            Err(error) => return Err(error.into()),
        }
        sleep(FEEDER_PAUSE).await;
        transaction = begin(&producer).await?;
    }
}

async fn begin(producer: &Producer) -> Result<Transaction<'_>, BeginError> {
    loop {
        match producer.begin().await {
            Err(error) if error.is_retriable() => {}
            begun => return begun,
        }
    }
}

/// Books transfers: takes from one account and gives to the other.
async fn tell(bank: &Bank, client: &Client, number: usize) -> TestResult {
    let role = Role::Teller(number);
    let mut consumer = client
        .consumer()
        .group(&bank.name)
        .protocol(GroupProtocol::Classic)
        .session_timeout(SESSION_TIMEOUT)
        .heartbeat_interval(Duration::from_millis(500))
        .topics([bank.orders()])
        .auto_offset_reset(OffsetReset::Earliest);
    // Static members take their place again at once; of others the group waits for the end of the session.
    if number.is_multiple_of(2) {
        consumer = consumer.group_instance_id(role.name());
    }
    let producer = client.producer().transactional_id(bank.transactional_id(role)).linger(Duration::ZERO);
    let mut session = ExactlyOnce::new(consumer, producer)?.commit_interval(Duration::from_millis(30));
    let (debits, credits) = (bank.debits(), bank.credits());
    loop {
        let (records, step) = match session.next().await {
            Ok(Some(given)) => given,
            Ok(None) => return Ok(()),
            Err(error) if error.is_retriable() => continue,
            Err(error) => return Err(error.into()),
        };
        for record in records {
            let transfer = Transfer::parse(&record?)?;
            let text = transfer.to_string();
            step.send(Record::to(&*debits).key(transfer.from.to_string()).value(&text)).await?;
            step.send(Record::to(&*credits).key(transfer.to.to_string()).value(&text)).await?;
        }
        step.done();
    }
}
