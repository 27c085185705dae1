//! A bank in a run: instances take orders from one topic and book each as a debit and a credit in another, in transactions,
//! while they crash, come back, or go on as zombies beside their own successors. Afterwards a reader of committed records
//! finds both halves of each order once, and so the total unchanged.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kafka_admin::{Admin, NewTopic};
use kafka_client::consumer::{Consumer, IsolationLevel, OffsetReset};
use kafka_client::exactly_once::ExactlyOnce;
use kafka_client::group::GroupProtocol;
use kafka_client::{Client, Record, TopicPartition};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::check::Violation;
use super::groups::client;
use super::network::{Line, Network};
use super::plan::Plan;
use super::random::Random;
use super::trace::{Trace, lock};
use crate::TestResult;

const ORDERS: &str = "orders";
const LEDGER: &str = "ledger";
const GROUP: &str = "clerks";
const ACCOUNTS: u64 = 1000;
/// What is in calm all orders are booked after the group's and the transactions' time-outs at the latest.
const SETTLES_WITHIN: Duration = Duration::from_secs(240);
/// Orders come in batches of so many, and so do the steps in which they are booked.
const BATCH: usize = 5;

/// The bank and what its instances do.
#[derive(Debug, Clone)]
pub struct BankPlan {
    /// How many orders there are.
    pub orders: u32,
    /// How many instances work at a time.
    pub instances: u32,
    /// Partitions of either topic.
    pub partitions: i32,
    /// The protocol of the instances' group.
    pub protocol: GroupProtocol,
    /// How long a transaction is open.
    pub commit_interval: Duration,
    /// `transaction.timeout.ms`.
    pub transaction_timeout: Duration,
    /// `session.timeout.ms`.
    pub session_timeout: Duration,
    /// The longest time an order takes.
    pub work: Duration,
    /// How long an instance lives, at most.
    pub life: Duration,
    /// The share of steps that an instance gives up.
    pub given_up: f64,
    /// The share of instances that go on as zombies beside their successors.
    pub zombies: f64,
    /// How the books are read at the end. Anything but committed records only is to prove that the check notices.
    pub reader: IsolationLevel,
}

impl BankPlan {
    pub(super) fn draw(random: &mut Random) -> Self {
        Self {
            orders: random.between(20, 200) as u32,
            instances: random.between(1, 4) as u32,
            partitions: random.pick(&[1, 2, 4], 2),
            protocol: random.pick(&[GroupProtocol::Classic, GroupProtocol::Consumer], GroupProtocol::Classic),
            commit_interval: Duration::from_millis(random.pick(&[0, 20, 100, 1000], 100)),
            transaction_timeout: Duration::from_millis(random.pick(&[1000, 5000, 60_000], 5000)),
            session_timeout: Duration::from_millis(random.pick(&[1000, 3000, 10_000], 3000)),
            work: Duration::from_millis(random.pick(&[0, 5, 50], 5)),
            life: random.millis(500, 10_000),
            given_up: random.pick(&[0.0, 0.01, 0.05], 0.0),
            zombies: random.pick(&[0.0, 0.3, 0.8], 0.3),
            reader: IsolationLevel::ReadCommitted,
        }
    }
}

/// The bank of a run.
pub(super) struct Bank {
    plan: Plan,
    bank: BankPlan,
    network: Network,
    trace: Trace,
    calm: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    violations: Arc<Mutex<Vec<Violation>>>,
    seats: JoinSet<()>,
}

impl Bank {
    /// Writes the orders and lets the instances come. `None` in a plan without a bank.
    ///
    /// # Errors
    /// The orders cannot be written, in calm.
    pub(super) async fn open(plan: &Plan, network: &Network, trace: &Trace) -> TestResult<Option<Self>> {
        let Some(bank) = plan.bank.clone() else { return Ok(None) };
        let client = client(plan, &network.line())?;
        let replicas = i16::try_from(plan.nodes)?;
        let topics = [ORDERS, LEDGER].map(|name| {
            let topic = NewTopic::new(name, bank.partitions, replicas);
            topic.config("min.insync.replicas", if plan.nodes > 1 { "2" } else { "1" })
        });
        Admin::new(client.clone()).create_topics(topics).await?.all()?;
        let producer = client.producer().build()?;
        let orders: Vec<u32> = (0..bank.orders).collect();
        for (batch, orders) in (0..).zip(orders.chunks(BATCH)) {
            let texts: Vec<String> = orders.iter().map(u32::to_string).collect();
            let partition = batch % bank.partitions;
            let records = texts.iter().map(|text| Record::to(ORDERS).partition(partition).value(text));
            producer.send_all(records).await?.all().await?;
        }
        producer.close(Duration::from_secs(10)).await?;

        let (calm, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let violations: Arc<Mutex<Vec<Violation>>> = Arc::default();
        let mut seats = JoinSet::new();
        let numbers = Arc::new(AtomicU32::new(0));
        for number in 0..bank.instances {
            let seat = Seat {
                number,
                plan: plan.clone(),
                bank: bank.clone(),
                network: network.clone(),
                trace: trace.clone(),
                calm: Arc::clone(&calm),
                over: Arc::clone(&over),
                numbers: Arc::clone(&numbers),
                random: Random::stream(plan.seed, 3000 + u64::from(number)),
            };
            seats.spawn(seat.run());
        }
        let (network, trace, plan) = (network.clone(), trace.clone(), plan.clone());
        Ok(Some(Self { plan, bank, network, trace, calm, over, violations, seats }))
    }

    /// From now on instances come and stay.
    pub(super) fn calm(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    /// Waits until every order is booked, closes the bank and looks at the books.
    ///
    /// # Errors
    /// The books cannot be read.
    pub(super) async fn settle(mut self) -> TestResult<Vec<Violation>> {
        let mut books = Books::open(&self.plan, &self.bank, &self.network)?;
        let patience = SETTLES_WITHIN + self.bank.transaction_timeout * 2 + self.bank.session_timeout * 6;
        let deadline = Instant::now() + patience;
        while !books.has_all(self.bank.orders) && Instant::now() < deadline {
            books.read(Duration::from_millis(500)).await?;
        }
        self.over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.seats.join_next().await {
            ended?;
        }
        // What is still open is aborted by now, and what should not be there would show.
        sleep(self.bank.transaction_timeout + Duration::from_secs(30)).await;
        books.read(Duration::from_secs(5)).await?;
        let mut violations = std::mem::take(&mut *lock(&self.violations));
        violations.extend(books.check(self.bank.orders));
        self.trace.note(format_args!("{} entries in the books", books.entries));
        Ok(violations)
    }
}

/// The ledger as a reader of committed records sees it.
struct Books {
    reader: Consumer,
    /// How often each order's debit and credit are there.
    booked: BTreeMap<u32, (u32, u32)>,
    balances: BTreeMap<u64, i64>,
    entries: usize,
}

/// Accounts and amount of an order.
fn order(number: u32) -> (u64, u64, i64) {
    let number = u64::from(number);
    let from = number.wrapping_mul(7919) % ACCOUNTS;
    (from, (from + 1 + number % (ACCOUNTS - 1)) % ACCOUNTS, 1 + (number % 100) as i64)
}

impl Books {
    fn open(plan: &Plan, bank: &BankPlan, network: &Network) -> TestResult<Self> {
        let all = (0..bank.partitions).map(|partition| TopicPartition::new(LEDGER, partition));
        let client = client(plan, &network.line())?;
        let builder = client.consumer().assign(all).auto_offset_reset(OffsetReset::Earliest);
        let reader = builder.isolation_level(bank.reader).build()?;
        Ok(Self { reader, booked: BTreeMap::new(), balances: BTreeMap::new(), entries: 0 })
    }

    fn has_all(&self, orders: u32) -> bool {
        self.booked.len() == orders as usize
            && self.booked.values().all(|&(debits, credits)| debits > 0 && credits > 0)
    }

    /// Reads until nothing more comes for so long.
    async fn read(&mut self, patience: Duration) -> TestResult {
        while let Ok(next) = timeout(patience, self.reader.next()).await {
            let Some(record) = next? else { return Err("the reader ended".into()) };
            let text = String::from_utf8(record.value.as_deref().unwrap_or_default().to_vec())?;
            let parts: Vec<i64> = text.split(' ').map(str::parse).collect::<Result<_, _>>()?;
            let [number, account, amount] = parts[..] else { return Err(text.into()) };
            let (debits, credits) = self.booked.entry(u32::try_from(number)?).or_default();
            *(if amount < 0 { debits } else { credits }) += 1;
            *self.balances.entry(u64::try_from(account)?).or_default() += amount;
            self.entries += 1;
        }
        Ok(())
    }

    fn check(&self, orders: u32) -> Vec<Violation> {
        let mut violations = Vec::new();
        for number in 0..orders {
            let (debits, credits) = self.booked.get(&number).copied().unwrap_or_default();
            if (debits, credits) != (1, 1) {
                let wrong =
                    format!("order {number} is booked {debits} times as a debit, {credits} as a credit");
                violations.push(Violation::Other(wrong));
            }
        }
        let total: i64 = self.balances.values().sum();
        if total != 0 {
            violations.push(Violation::Other(format!("the bank has {total} too many")));
        }
        violations
    }
}

/// A place that one instance after the other takes, all with the same transactional id.
struct Seat {
    number: u32,
    plan: Plan,
    bank: BankPlan,
    network: Network,
    trace: Trace,
    calm: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    numbers: Arc<AtomicU32>,
    random: Random,
}

/// How an instance ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Departure {
    /// As its process does.
    Crashes,
    /// It is dropped, and cleans up behind itself.
    Dropped,
    Closes,
    /// It goes on.
    Zombie,
}

impl Seat {
    async fn run(mut self) {
        let mut zombies = JoinSet::new();
        sleep(self.random.millis(0, 500)).await;
        while !self.over.load(Ordering::Relaxed) {
            let instance = self.numbers.fetch_add(1, Ordering::Relaxed);
            let random = Random::stream(self.plan.seed, 10_000 + u64::from(instance));
            let line = self.network.line();
            let clerk = Clerk {
                instance,
                bank: self.bank.clone(),
                trace: self.trace.clone(),
                calm: Arc::clone(&self.calm),
                over: Arc::clone(&self.over),
                random,
            };
            match self.session(&line) {
                Ok(session) => {
                    self.trace.note(format_args!("instance {instance} takes seat {}", self.number));
                    self.live(clerk, session, &line, &mut zombies).await;
                }
                Err(error) => self.trace.note(format_args!("instance {instance} is not made: {error}")),
            }
            sleep(self.random.millis(0, 500)).await;
        }
        // Zombies see that it is over as well.
        while zombies.join_next().await.is_some() {}
    }

    fn session(&self, line: &Line) -> TestResult<ExactlyOnce> {
        let client: Client = client(&self.plan, line)?;
        let mut consumer = client
            .consumer()
            .group(GROUP)
            .topics([ORDERS])
            .protocol(self.bank.protocol)
            .max_poll_interval(Duration::from_secs(10))
            // A batch at a time.
            .max_partition_fetch_bytes(1)
            .auto_offset_reset(OffsetReset::Earliest);
        if self.bank.protocol == GroupProtocol::Classic {
            consumer = consumer
                .session_timeout(self.bank.session_timeout)
                .heartbeat_interval(self.bank.session_timeout / 4);
        }
        let producer = client
            .producer()
            .transactional_id(format!("clerk-{}", self.number))
            .transaction_timeout(self.bank.transaction_timeout)
            .linger(self.plan.linger)
            .max_in_flight(self.plan.max_in_flight)
            .delivery_timeout(Duration::from_secs(120))
            .request_timeout(self.plan.request_timeout);
        Ok(ExactlyOnce::new(consumer, producer)?.commit_interval(self.bank.commit_interval))
    }

    async fn live(
        &mut self,
        mut clerk: Clerk,
        mut session: ExactlyOnce,
        line: &Line,
        zombies: &mut JoinSet<()>,
    ) {
        let until = Instant::now() + self.random.millis(100, self.bank.life.as_millis() as u64);
        let departure = match self.random.chance(self.bank.zombies) {
            true => Departure::Zombie,
            false => self.random.pick(
                &[Departure::Crashes, Departure::Crashes, Departure::Dropped, Departure::Closes],
                Departure::Crashes,
            ),
        };
        let instance = clerk.instance;
        if !clerk.work(&mut session, Some(until)).await {
            self.trace.note(format_args!("instance {instance} has to end"));
            return;
        }
        self.trace.note(format_args!("instance {instance} {departure:?}"));
        match departure {
            Departure::Crashes => line.cut_off(),
            Departure::Dropped => {}
            Departure::Closes => {
                if let Ok(Err(error)) = timeout(Duration::from_secs(60), session.close()).await {
                    self.trace.note(format_args!("instance {instance} closes: {error}"));
                }
            }
            Departure::Zombie => {
                zombies.spawn(async move {
                    let ended = timeout(Duration::from_secs(60), clerk.work(&mut session, None)).await;
                    clerk.trace.note(format_args!("zombie {instance} ends: {ended:?}"));
                });
            }
        }
    }
}

/// An instance.
struct Clerk {
    instance: u32,
    bank: BankPlan,
    trace: Trace,
    calm: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    random: Random,
}

impl Clerk {
    /// Books orders until it is time to go; false if the session cannot go on. In calm, nobody goes.
    async fn work(&mut self, session: &mut ExactlyOnce, until: Option<Instant>) -> bool {
        loop {
            let calm = self.calm.load(Ordering::Relaxed);
            let is_time = until.is_some_and(|until| Instant::now() >= until);
            if self.over.load(Ordering::Relaxed) || (!calm && is_time) {
                return true;
            }
            let patience = self.random.millis(50, 1000);
            match timeout(patience, self.step(session, calm)).await {
                // Cut off somewhere in the middle: the step is given up, and comes again.
                Err(_) | Ok(Ok(true)) => {}
                Ok(Ok(false)) => return false,
                Ok(Err(error)) => {
                    self.trace.note(format_args!("instance {}: {error}", self.instance));
                    return false;
                }
            }
        }
    }

    async fn step(&mut self, session: &mut ExactlyOnce, calm: bool) -> TestResult<bool> {
        let Some((records, step)) = session.next().await? else { return Ok(false) };
        for record in records {
            let record = record?;
            let text = String::from_utf8(record.value.as_deref().unwrap_or_default().to_vec())?;
            let number = text.parse()?;
            self.trace.note(format_args!("instance {} books {number}", self.instance));
            let (from, to, amount) = order(number);
            for (account, amount) in [(from, -amount), (to, amount)] {
                let entry = format!("{number} {account} {amount}");
                let partition = (account % self.bank.partitions as u64) as i32;
                step.send(Record::to(LEDGER).partition(partition).value(&entry)).await?;
                sleep(self.random.millis(0, self.bank.work.as_millis() as u64)).await;
            }
            if !calm && self.random.chance(self.bank.given_up) {
                return Ok(true);
            }
        }
        step.done();
        Ok(true)
    }
}
