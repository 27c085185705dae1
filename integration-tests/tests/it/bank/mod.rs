//! A bank of 1,000 accounts. A feeder orders transfers, tellers move the money from topic to topic in transactions, and all
//! the while their sockets are cut, they are killed or fall asleep and come back as zombies, and the broker is killed. In
//! the end a reader of committed records finds every transfer booked once and the exact total.
//!
//! `KAFKA_TEST_BANK_ROUNDS` says how often everything happens (1), `KAFKA_TEST_BANK_SEED` in which order. Apache Kafka is
//! only killed if `KAFKA_TEST_BANK_RESTART` is a shell command that kills it and starts it again.

mod ledger;
mod roles;

use std::process::Command;
use std::time::{Duration, Instant};

use integration_tests::simulation::random::Random;
use integration_tests::{Cluster, TestResult, eventually, on_apache_kafka, unique};
use kafka_admin::{Admin, NewTopic, OffsetSpec};
use kafka_client::Client;
use tempfile::TempDir;
use tokio::time::sleep;

use self::ledger::{Books, PARTITIONS};
use self::roles::{Bank, FENCED, Role};
use crate::child_broker::ChildBroker;
use crate::child_process::ChildProcess;

const TELLERS: usize = 3;
/// What has to be booked after each fault before the next one.
const PROGRESS: i64 = 60;

/// The cluster that the bank runs on.
enum Host {
    Ours { folder: TempDir, broker: ChildBroker },
    Apache(Cluster),
}

impl Host {
    async fn start() -> TestResult<Self> {
        if on_apache_kafka() {
            return Ok(Self::Apache(Cluster::start().await?));
        }
        let folder = tempfile::tempdir()?;
        let broker = ChildBroker::start(folder.path(), "127.0.0.1:0")?;
        Ok(Self::Ours { folder, broker })
    }

    fn bootstrap_servers(&self) -> String {
        match self {
            Self::Ours { broker, .. } => broker.bootstrap_servers.clone(),
            Self::Apache(cluster) => cluster.bootstrap_servers().to_owned(),
        }
    }

    /// Kills the broker and starts it again, if that can be done.
    fn kill(&mut self) -> TestResult {
        match self {
            Self::Ours { folder, broker } => {
                broker.kill()?;
                let address = broker.bootstrap_servers.clone();
                *broker = ChildBroker::start(folder.path(), &address)?;
            }
            Self::Apache(_) => {
                let Ok(restart) = std::env::var("KAFKA_TEST_BANK_RESTART") else { return Ok(()) };
                let ended = Command::new("sh").args(["-c", &restart]).status()?;
                if !ended.success() {
                    return Err(format!("{restart}: {ended}").into());
                }
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// `kill -9`, and another process takes its place.
    Kill(Role),
    /// Stopped where it is; another takes its place, and then it goes on.
    Zombie(Role),
    Broker,
}

/// The processes, kept at work.
struct Staff {
    bank: Bank,
    random: Random,
    people: Vec<(Role, ChildProcess)>,
    restarts: usize,
}

impl Staff {
    fn hire(bank: Bank, random: Random) -> TestResult<Self> {
        let mut staff = Self { bank, random, people: Vec::new(), restarts: 0 };
        for role in (0..TELLERS).map(Role::Teller).chain([Role::Feeder]) {
            let process = staff.bank.employ(role, staff.random.next())?;
            staff.people.push((role, process));
        }
        Ok(staff)
    }

    fn person(&mut self, role: Role) -> TestResult<&mut ChildProcess> {
        let found = self.people.iter_mut().find(|(of, _)| *of == role);
        Ok(&mut found.ok_or("nobody has that role")?.1)
    }

    /// Puts a new process in a role's place and gives the old one.
    fn replace(&mut self, role: Role) -> TestResult<ChildProcess> {
        let new = self.bank.employ(role, self.random.next())?;
        Ok(std::mem::replace(self.person(role)?, new))
    }

    /// Replaces those who gave up: a producer or a consumer may, and then begins anew.
    fn keep_at_work(&mut self) -> TestResult {
        for at in 0..self.people.len() {
            let (role, process) = &mut self.people[at];
            if process.ended()?.is_some() {
                let role = *role;
                self.restarts += 1;
                drop(self.replace(role)?);
            }
        }
        Ok(())
    }

    /// Waits until so many more records are committed in a topic.
    async fn progress(&mut self, admin: &Admin, topic: &str) -> TestResult {
        let mut goal = None;
        eventually(&format!("{topic} grows"), async || {
            self.keep_at_work()?;
            sleep(Duration::from_millis(50)).await;
            let end = match committed_end(admin, topic).await {
                Ok(end) => end,
                // The broker is on its way.
                Err(_) => return Ok(false),
            };
            Ok(end >= *goal.get_or_insert(end + PROGRESS))
        })
        .await
    }
}

/// The sum of a topic's last stable offsets.
async fn committed_end(admin: &Admin, topic: &str) -> TestResult<i64> {
    let asked = (0..PARTITIONS).map(|partition| ((topic, partition), OffsetSpec::Latest));
    let listed =
        admin.list_offsets(asked).read_committed(true).timeout(Duration::from_secs(5)).await?.all()?;
    Ok(listed.iter().filter_map(|(_, it)| it.offset).sum())
}

fn faults(rounds: usize, random: &mut Random) -> Vec<Fault> {
    let mut faults = Vec::new();
    for _ in 0..rounds {
        let mut round = vec![
            Fault::Kill(Role::Teller(0)),
            Fault::Kill(Role::Teller(1)),
            Fault::Zombie(Role::Feeder),
            Fault::Broker,
            Fault::Zombie(Role::Teller(2)),
            Fault::Kill(Role::Feeder),
        ];
        while !round.is_empty() {
            faults.push(round.swap_remove(random.below(round.len() as u64) as usize));
        }
    }
    faults
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_money_comes_or_goes_whoever_dies() -> TestResult {
    let rounds = number("KAFKA_TEST_BANK_ROUNDS").unwrap_or(1) as usize;
    let seed = number("KAFKA_TEST_BANK_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("KAFKA_TEST_BANK_SEED={seed}");
    let mut random = Random::new(seed);
    let mut host = Host::start().await?;
    let bank = Bank { bootstrap_servers: host.bootstrap_servers(), name: unique("bank") };
    let client = Client::connect(&bank.bootstrap_servers).await?;
    let admin = Admin::new(client.clone());
    let topics = [bank.orders(), bank.debits(), bank.credits()];
    admin.create_topics(topics.iter().map(|topic| NewTopic::new(topic, PARTITIONS, 1))).await?.all()?;
    eventually("leaders serve the topics", async || {
        for topic in &topics {
            if committed_end(&admin, topic).await.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .await?;

    let started = Instant::now();
    let mut staff = Staff::hire(bank.clone(), Random::stream(seed, 2))?;
    let mut zombies = 0;
    staff.progress(&admin, &topics[2]).await?;
    for fault in faults(rounds, &mut random) {
        println!("{:?}: {fault:?}", started.elapsed());
        sleep(random.millis(0, 300)).await;
        match fault {
            Fault::Kill(role) => {
                staff.person(role)?.kill()?;
                drop(staff.replace(role)?);
            }
            Fault::Broker => host.kill()?,
            Fault::Zombie(role) => {
                staff.person(role)?.pause()?;
                let mut zombie = staff.replace(role)?;
                let topic = if role == Role::Feeder { &topics[0] } else { &topics[2] };
                staff.progress(&admin, topic).await?;
                zombie.resume()?;
                let mut code = None;
                eventually(&format!("the {role:?} of before learns that its time is over"), async || {
                    staff.keep_at_work()?;
                    code = zombie.ended()?.map(|status| status.code());
                    Ok(code.is_some())
                })
                .await?;
                zombies += usize::from(code == Some(Some(FENCED)));
                // A teller may lose its place in the group first.
                assert!(role != Role::Feeder || code == Some(Some(FENCED)), "a zombie ended with {code:?}");
            }
        }
        staff.progress(&admin, &topics[2]).await?;
    }

    // No more orders; everything that was ordered gets booked.
    staff.people.retain(|(role, _)| *role != Role::Feeder);
    let booked = eventually("all orders are booked", async || {
        staff.keep_at_work()?;
        sleep(Duration::from_millis(200)).await;
        Ok(Books::read(&client, &bank).await?.is_complete())
    });
    let booked = booked.await;
    let restarts = staff.restarts;
    drop(staff);
    // The audit says what is wrong if they are not.
    let count = Books::read(&client, &bank).await?.audit()?;
    booked?;
    println!("{count} transfers in {:?}, {restarts} gave up, {zombies} zombies fenced", started.elapsed());
    assert!(zombies > 0);
    if let Host::Apache(cluster) = host {
        cluster.shutdown().await;
    }
    Ok(())
}
