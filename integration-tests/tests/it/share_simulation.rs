//! Members of a share group that accept, release, reject, renew, hold records too long and vanish, while connections are
//! cut, nodes stop and crash, and leaders and coordinators move: on virtual time, a seed decides everything.
//!
//! What holds whatever happens: what a broker has confirmed as accepted or rejected is never delivered again; a record is
//! given to somebody else only when its lock has ended, was given up, or was lost with a session or a leader; deliveries
//! are counted without a gap, and nobody gets more than the limit; in the end every record is done.
//!
//! Of our broker only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use integration_tests::TestResult;
use integration_tests::simulation::random::Random;
use integration_tests::simulation::{watchdog, watched};
use kafka_admin::{Admin, ConfigChange, ConfigResource, NewTopic};
use kafka_broker::Broker;
use kafka_client::producer::Record;
use kafka_client::share::{AcknowledgeOutcome, AcknowledgeType, ShareConsumer, ShareRecord};
use kafka_client::{Client, TopicPartition};
use parking_lot::Mutex;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::time::{Instant, sleep, timeout};

const TOPIC: &str = "jobs";
const GROUP: &str = "workers";
const PARTITIONS: i32 = 2;
const NODES: i32 = 3;
const MEMBERS: u64 = 3;
const RECORDS: u64 = 300;
const LOCK: Duration = Duration::from_secs(8);
const DELIVERIES: i16 = 10;
/// Of virtual time.
const FAULTY: Duration = Duration::from_secs(60);
const FOREVER: Duration = Duration::from_secs(3600);

/// A record in somebody's hands.
#[derive(Debug, Clone)]
struct Delivery {
    member: u64,
    /// When its lock began, by the member's clock, which is everybody's.
    from: Instant,
    /// When the lock ended: by itself, or because the member gave the record up.
    until: Instant,
    count: i16,
    said: Option<AcknowledgeType>,
    /// When a broker was known to have taken what was said.
    confirmed: Option<Instant>,
}

struct Ledger {
    began: Instant,
    records: BTreeMap<(i32, i64), Vec<Delivery>>,
    /// When sessions, locks or counts may have been lost: at these moments all rules but the first may be bent.
    disturbed: BTreeSet<Instant>,
    violations: Vec<String>,
}

impl Ledger {
    fn new() -> Self {
        let (records, disturbed, violations) = Default::default();
        Self { began: Instant::now(), records, disturbed, violations }
    }

    fn disturb(&mut self) {
        self.disturbed.insert(Instant::now());
    }

    fn is_disturbed(&self, from: Instant, to: Instant) -> bool {
        self.disturbed.range(from.min(to)..=from.max(to)).next().is_some()
    }

    fn delivered(&mut self, member: u64, record: &ShareRecord) {
        let until = record.locked_until().unwrap_or_else(Instant::now);
        let from = until - LOCK;
        let count = record.delivery_count();
        let delivery = Delivery { member, from, until, count, said: None, confirmed: None };
        let place = (record.partition, record.offset);
        let before = self.records.get(&place).cloned().unwrap_or_default();
        let mut complaints = Vec::new();
        if !(1..=DELIVERIES).contains(&count) {
            complaints.push("a count beyond the limit".to_owned());
        }
        for earlier in &before {
            let is_final = matches!(earlier.said, Some(AcknowledgeType::Accept | AcknowledgeType::Reject));
            if is_final && earlier.confirmed.is_some_and(|confirmed| confirmed < from) {
                complaints.push(format!("delivered though it was done: {earlier:?}"));
            }
        }
        if let Some(last) = before.last() {
            let is_disturbed = self.is_disturbed(last.from, from);
            if last.until > from && !is_disturbed {
                complaints.push(format!("locked twice: {last:?}"));
            }
            // A member that is busy lets locks of records end that it has not looked at.
            let unseen = u32::try_from(count - last.count - 1).ok();
            let is_time = |unseen: u32| last.until + LOCK * unseen <= from;
            if !unseen.is_some_and(is_time) && !is_disturbed {
                complaints.push(format!("counted wrongly: {last:?}"));
            }
            let is_released = last.said == Some(AcknowledgeType::Release) && last.confirmed.is_some();
            if is_released && count <= last.count {
                complaints.push(format!("a count that was put on record is lost: {last:?}"));
            }
        } else if self.began + LOCK * u32::from(count.unsigned_abs() - 1) > from && self.disturbed.is_empty()
        {
            complaints.push("never delivered before".to_owned());
        }
        self.violations
            .extend(complaints.into_iter().map(|complaint| format!("{place:?} {delivery:?}: {complaint}")));
        self.records.entry(place).or_default().push(delivery);
    }

    fn last(&mut self, member: u64, place: (i32, i64)) -> Option<&mut Delivery> {
        self.records.get_mut(&place)?.iter_mut().rfind(|delivery| delivery.member == member)
    }

    /// A member says something of a record.
    fn said(&mut self, member: u64, record: &ShareRecord, kind: AcknowledgeType) {
        let now = Instant::now();
        if let Some(delivery) = self.last(member, (record.partition, record.offset)) {
            delivery.said = Some(kind);
            delivery.until = match kind {
                AcknowledgeType::Renew => now + LOCK,
                _ => delivery.until.min(now),
            };
        }
    }

    fn told(&mut self, member: u64, outcome: &AcknowledgeOutcome) {
        if outcome.result.is_err() {
            return;
        }
        for offset in outcome.first..=outcome.last {
            let said = self.last(member, (outcome.partition.partition, offset));
            if let Some(delivery) = said.filter(|delivery| delivery.said == Some(outcome.kind)) {
                delivery.confirmed.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Whether a record is done, as far as anybody outside of the broker can tell.
    fn is_done(&self, place: (i32, i64)) -> bool {
        let deliveries = self.records.get(&place).map(Vec::as_slice).unwrap_or_default();
        let is_said = deliveries
            .iter()
            .any(|it| matches!(it.said, Some(AcknowledgeType::Accept | AcknowledgeType::Reject)));
        // Deliveries that were lost on their way count as well.
        let unseen = i16::try_from(self.disturbed.len()).unwrap_or(i16::MAX);
        is_said
            || deliveries.iter().map(|it| it.count).max().unwrap_or(0).saturating_add(unseen) >= DELIVERIES
    }
}

fn client(broker: &Arc<Broker>) -> TestResult<Client> {
    let servers = broker.bootstrap_servers();
    let broker = Arc::clone(broker);
    let connector = move |_host: String, port: u16| {
        let broker = Arc::clone(&broker);
        async move { Ok::<_, std::io::Error>(broker.connect_to_port(port).await) }
    };
    Ok(Client::builder(&servers).connector(connector).build()?)
}

/// A member that does as the numbers say, and joins anew whenever it has closed; from `calm` on it accepts everything.
async fn work(
    number: u64,
    mut random: Random,
    broker: Arc<Broker>,
    ledger: Arc<Mutex<Ledger>>,
    calm: Instant,
    end: Instant,
) -> TestResult {
    while Instant::now() < end {
        let builder = client(&broker)?.share_consumer(GROUP).topics([TOPIC]);
        let builder = if random.chance(0.5) { builder.record_limit(5) } else { builder.max_records(20) };
        let consumer = builder.build()?;
        let mut outcomes = consumer.acknowledgements();
        let leaves_at = (Instant::now() + random.millis(5_000, 40_000)).max(calm).min(end);
        let leaves_early = random.chance(0.5);
        let leaves_at = if leaves_early {
            leaves_at.min(Instant::now() + random.millis(2_000, 20_000))
        } else {
            leaves_at
        };
        let leaves_at = if Instant::now() >= calm { end } else { leaves_at };
        let mut hear = || loop {
            match outcomes.try_recv() {
                Ok(outcome) => ledger.lock().told(number, &outcome),
                Err(TryRecvError::Lagged(_)) => {}
                Err(_) => break,
            }
        };
        while Instant::now() < leaves_at {
            if let Ok(next) = timeout(random.millis(1, 2_000), consumer.next()).await {
                let record = next?.ok_or("the consumer ended")?;
                ledger.lock().delivered(number, &record);
                let is_calm = Instant::now() >= calm;
                handle(number, record, if is_calm { 99 } else { random.below(100) }, &ledger).await?;
            }
            if random.chance(0.1) {
                let committed = timeout(FOREVER, consumer.commit()).await;
                committed.map_err(|_| "a commit does not end")?;
            }
            hear();
        }
        // Whatever it holds is somebody else's at once.
        ledger.lock().disturb();
        leave(consumer, random.chance(0.5)).await;
        hear();
        ledger.lock().disturb();
    }
    Ok(())
}

async fn handle(number: u64, mut record: ShareRecord, choice: u64, ledger: &Mutex<Ledger>) -> TestResult {
    let say = |record: &ShareRecord, kind| ledger.lock().said(number, record, kind);
    match choice {
        0..15 => {
            say(&record, AcknowledgeType::Release);
            record.release();
        }
        15..20 => {
            say(&record, AcknowledgeType::Release);
            drop(record);
        }
        20..25 => {
            say(&record, AcknowledgeType::Reject);
            record.reject();
        }
        25..30 => {
            // Too long.
            sleep(LOCK + Duration::from_millis(500)).await;
            record.reject();
        }
        30..35 => {
            sleep(LOCK / 2).await;
            if timeout(FOREVER, record.renew()).await.map_err(|_| "a renewal does not end")?.is_ok() {
                say(&record, AcknowledgeType::Renew);
                sleep(LOCK / 2 + Duration::from_millis(500)).await;
            }
            say(&record, AcknowledgeType::Accept);
            record.accept();
        }
        _ => {
            say(&record, AcknowledgeType::Accept);
            record.accept();
        }
    }
    Ok(())
}

async fn leave(consumer: ShareConsumer, politely: bool) {
    if politely {
        consumer.close(Duration::from_secs(10)).await;
    } else {
        drop(consumer);
        // It closes in the background; what it says there was said before.
        sleep(Duration::from_secs(6)).await;
    }
}

/// One thing goes wrong.
async fn fault(random: &mut Random, broker: &Broker) -> TestResult {
    let control = broker.control();
    let node = 1 + i32::try_from(random.below(NODES as u64))?;
    match random.below(5) {
        0 => control.cut_connections(node)?,
        1 => {
            control.stop(node).await?;
            sleep(random.millis(100, 3_000)).await;
            control.start(node).await?;
        }
        2 => {
            control.crash(node).await?;
            sleep(random.millis(100, 3_000)).await;
            control.start(node).await?;
        }
        of => {
            let moves = |topic: &str| if of == 3 { topic == TOPIC } else { topic.starts_with("__") };
            for ((topic, partition), now) in control.leaders() {
                let next = now.isr.iter().copied().find(|&node| Some(node) != now.leader);
                if moves(&topic)
                    && random.chance(0.7)
                    && let Some(next) = next
                {
                    control.move_leader(&topic, partition, next).await?;
                }
            }
        }
    }
    // Only one node at a time is behind.
    let in_sync = || control.leaders().values().all(|now| now.isr.len() == NODES as usize);
    while !in_sync() {
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn run(seed: u64) -> TestResult<Vec<String>> {
    let broker = Arc::new(Broker::builder().nodes(NODES as usize).start().await?);
    let all = client(&broker)?;
    let admin = Admin::new(all.clone());
    admin.create_topics([NewTopic::new(TOPIC, PARTITIONS, NODES as i16)]).await?.all()?;
    let configs = [
        ("share.auto.offset.reset", "earliest".to_owned()),
        ("share.record.lock.duration.ms", LOCK.as_millis().to_string()),
        ("share.delivery.count.limit", DELIVERIES.to_string()),
    ];
    let configs = configs.iter().map(|(key, value)| ConfigChange::set(*key, value.clone())).collect();
    admin.incremental_alter_configs([(ConfigResource::Group(GROUP.to_owned()), configs)]).await?.all()?;
    let ledger = Arc::new(Mutex::new(Ledger::new()));
    let calm = Instant::now() + FAULTY;
    let end = calm + FAULTY;
    let members: Vec<_> = (0..MEMBERS)
        .map(|number| {
            let random = Random::stream(seed, number + 1);
            tokio::spawn(work(number, random, Arc::clone(&broker), Arc::clone(&ledger), calm, end))
        })
        .collect();
    let producer = all.producer().build()?;
    let mut random = Random::stream(seed, 0);
    let mut written = BTreeSet::new();
    let mut due = Instant::now() + random.millis(1_000, 8_000);
    let faulty = random.chance(0.8);
    for value in 0..RECORDS {
        let partition = i32::try_from(random.below(PARTITIONS as u64))?;
        let delivery = producer.send(Record::to(TOPIC).partition(partition).value(value.to_string())).await?;
        let at = timeout(FOREVER, delivery).await.map_err(|_| "a send does not end")??;
        written.insert((at.partition, at.offset));
        if faulty && Instant::now() >= due {
            ledger.lock().disturb();
            timeout(FOREVER, fault(&mut random, &broker)).await.map_err(|_| "a fault does not end")??;
            ledger.lock().disturb();
            due = Instant::now() + random.millis(1_000, 8_000);
        }
        sleep(random.millis(0, 300)).await;
    }
    for member in members {
        timeout(FOREVER, member).await.map_err(|_| "a member does not end")???;
    }
    let mut violations = std::mem::take(&mut ledger.lock().violations);
    let undone = |place: &&(i32, i64)| !ledger.lock().is_done(**place);
    violations.extend(written.iter().filter(undone).map(|place| format!("{place:?} was never done")));
    // The broker's own count of what is left.
    let offsets = admin.list_share_group_offsets(GROUP).await?.all()?;
    for (partition, place) in offsets.iter().map(|(partition, place)| (partition as &TopicPartition, place)) {
        if place.lag.is_some_and(|lag| lag != 0) {
            violations.push(format!("{partition} is behind: {place:?}"));
        }
    }
    Ok(violations)
}

fn simulate(seed: u64) -> TestResult<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
    let name = format!("share group, seed {seed}");
    watched(watchdog::LONGEST, &name, || runtime.block_on(run(seed)))
}

/// `SHARE_SEEDS=FROM..TO` runs others than the usual.
#[test]
fn every_record_of_a_share_group_is_done_once_whatever_happens() -> TestResult {
    let seeds = std::env::var("SHARE_SEEDS").unwrap_or_else(|_| "0..4".to_owned());
    let (from, to) = seeds.split_once("..").ok_or("SHARE_SEEDS=FROM..TO")?;
    for seed in from.parse::<u64>()?..to.parse()? {
        let violations = simulate(seed).map_err(|error| format!("seed {seed}: {error}"))?;
        assert!(
            violations.is_empty(),
            "seed {seed}: {}: {:#?}",
            violations.len(),
            &violations[..violations.len().min(5)]
        );
    }
    Ok(())
}
