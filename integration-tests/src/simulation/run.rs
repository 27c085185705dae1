//! One run: producers and their callers on one side, a cluster on the other, faults between them, and at the end the
//! comparison of what was told with what is in the log.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kafka_client::producer::{Acks, Compression, Producer};
use kafka_client::{Client, Record, seed_randomness};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::bank::Bank;
use super::budget::FaultBudget;
use super::chaos::{Chaos, read_all};
use super::check::{Incarnation, Violation, Written, check};
use super::groups::Group;
use super::history::{History, Outcome};
use super::network::Network;
use super::plan::{End, Plan, SLACK};
use super::random::Random;
use super::raw::{Raw, TOPIC};
use super::sender::Sender;
use super::site::Site;
use super::trace::Trace;
use crate::TestResult;

/// Nothing in a run takes so long: something waits for what never comes.
const FOREVER: Duration = Duration::from_secs(24 * 3600);
/// The deadline of an orderly close.
const CLOSE: Duration = Duration::from_secs(5);

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// Promises that were broken; none in a good run.
    pub violations: Vec<Violation>,
    /// What happened, in order. Ends with the log.
    pub trace: Vec<String>,
    /// How many records were given to producers.
    pub records: u32,
    /// How many of them were acknowledged.
    pub acknowledged: u32,
    /// How many faults of each kind happened.
    pub faults: BTreeMap<&'static str, u32>,
    /// Virtual time.
    pub took: Duration,
}

/// Runs a plan. Must be called on a current-thread runtime with a paused clock: then the same plan gives the same
/// report, and hours take milliseconds.
pub async fn run(plan: &Plan) -> Report {
    let trace = Trace::start();
    let started = Instant::now();
    let budget = FaultBudget::new(plan.max_faults);
    let history = History::default();
    let mut run =
        Run { plan, trace: trace.clone(), started, history: history.clone(), violations: Vec::new() };
    match timeout(FOREVER, run.go(&budget)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => run.violations.push(Violation::Other(format!("the run ended early: {error}"))),
        Err(_) => run.violations.push(Violation::Other("the run never ended".to_owned())),
    }
    let records = history.records();
    let acknowledged = records.iter().filter(|sent| matches!(sent.outcome, Outcome::Acknowledged { .. }));
    Report {
        acknowledged: acknowledged.count() as u32,
        violations: run.violations,
        trace: trace.lines(),
        records: records.len() as u32,
        faults: budget.used(),
        took: started.elapsed(),
    }
}

struct Run<'a> {
    plan: &'a Plan,
    trace: Trace,
    started: Instant,
    history: History,
    violations: Vec<Violation>,
}

impl Run<'_> {
    async fn go(&mut self, budget: &FaultBudget) -> TestResult {
        let plan = self.plan;
        seed_randomness(plan.seed);
        kafka_broker::seed_randomness(plan.seed);
        let site = Site::new(plan);
        site.start().await?;
        Raw::connect(&site).await?.create_topic(plan).await?;
        let network = Network::new(plan, site.clone(), budget.clone(), self.trace.clone());

        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut senders = JoinSet::new();
        let mut producers = Vec::new();
        for index in 0..plan.producers {
            let producer = producer(plan, &site, &network)?;
            for task in 0..plan.senders {
                let sender = Sender {
                    number: index * plan.senders + task,
                    producer: producer.clone(),
                    history: self.history.clone(),
                    trace: self.trace.clone(),
                    started: self.started,
                    started_ms: since_1970.as_millis() as i64,
                    random: Random::stream(plan.seed, 1000 + u64::from(index * plan.senders + task)),
                };
                senders.spawn(sender.run(plan.clone()));
            }
            producers.push(producer);
        }
        let group = Group::start(plan, &network, &self.trace);
        let bank = Bank::open(plan, &network, &self.trace).await?;
        network.begin_faults();
        let mut observers = JoinSet::new();
        let deletes = plan.deletes_by_age() || plan.faults.record_deletions > 0;
        // Offsets that were lost, or of a topic that is gone, come again with other records.
        let is_lossy = plan.unclean || plan.faults.power_cuts + plan.faults.node_power_cuts > 0;
        if deletes && !is_lossy && plan.acks != Acks::Leader && plan.faults.recreations == 0 {
            for partition in 0..plan.partitions {
                observers.spawn(observe(site.clone(), partition));
            }
        }
        let chaos = Chaos {
            plan: plan.clone(),
            site: site.clone(),
            network: network.clone(),
            budget: budget.clone(),
            trace: self.trace.clone(),
            started: self.started,
        };
        let chaos = tokio::spawn(chaos.run());
        let incidents;
        match plan.end {
            End::Flush => {
                self.wait_for_senders(&mut senders).await;
                incidents = chaos.await??;
                group.iter().for_each(Group::calm);
                bank.iter().for_each(Bank::calm);
                self.flush_and_close(&producers, &site, &network).await?;
            }
            End::Close(deadline) => {
                sleep_until(self.started + plan.chaos / 2).await;
                for producer in &producers {
                    self.close(producer, deadline).await.ok();
                }
                self.wait_for_senders(&mut senders).await;
                incidents = chaos.await??;
            }
            End::Drop => {
                self.wait_for_senders(&mut senders).await;
                drop(std::mem::take(&mut producers));
                incidents = chaos.await??;
            }
        }
        self.wait_for_answers().await;
        drop(producers);
        // What is still on its way may be written until now, and must not matter.
        sleep(plan.lateness + plan.latency + Duration::from_secs(2)).await;
        let mut log = read_all(&site).await?;
        if let Some(group) = group {
            self.violations.extend(group.settle(&site, &log).await?);
        }
        if let Some(bank) = bank {
            self.violations.extend(bank.settle().await?);
        }
        self.compare_replicas(&site, &log).await?;
        site.shut_down().await;
        while let Some(observed) = observers.join_next().await {
            let (partition, records) = observed?;
            let written: &mut Written = log.entry(partition).or_default();
            let mut all: BTreeMap<i64, Option<u64>> = records;
            all.extend(written.records.drain(..));
            written.records = all.into_iter().collect();
        }
        let mut topics = incidents.deleted;
        topics.push(Incarnation { log, ..incidents.present });
        for (number, topic) in topics.iter().enumerate() {
            for (partition, written) in &topic.log {
                self.trace.note(format_args!(
                    "topic {number}, partition {partition} from {} to {}: {:?}",
                    written.log_start_offset, written.next_offset, written.records
                ));
            }
        }
        let promises = plan.promises(&incidents.power_cuts, (incidents.starts, incidents.down));
        self.violations.extend(check(&self.history.records(), &topics, &promises));
        Ok(())
    }

    /// Lets each node lead in turn: what it shows must be what the leaders had.
    async fn compare_replicas(&mut self, site: &Site, expected: &BTreeMap<i32, Written>) -> TestResult {
        for node_id in site.nodes().filter(|_| self.plan.nodes > 1) {
            for (&partition, before) in expected {
                let was = site.leader(partition).unwrap_or_default();
                let broker = site.broker().ok_or("no node runs")?;
                broker.control().move_leader(TOPIC, partition, node_id).await?;
                drop(broker);
                let mut found = Written::default();
                // A new leader learns from its followers how far the partition is committed.
                for _ in 0..100 {
                    let mut raw = Raw::connect_to_leader(site, partition).await?;
                    found = raw.read(partition, 0, Duration::ZERO).await?;
                    if found.next_offset == before.next_offset {
                        break;
                    }
                    sleep(Duration::from_millis(10)).await;
                }
                // Each replica deletes by age by itself.
                let start = found.log_start_offset.max(before.log_start_offset);
                let kept = |written: &Written| {
                    let kept = written.records.iter().filter(|(offset, _)| *offset >= start);
                    (kept.copied().collect::<Vec<_>>(), written.next_offset)
                };
                if kept(&found) != kept(before) {
                    self.trace.note(format_args!("node {node_id} has {found:?}"));
                    self.violations.push(Violation::ReplicasDiffer {
                        partition,
                        node_id: was,
                        other: node_id,
                    });
                }
            }
        }
        Ok(())
    }

    /// Every call of `send` ends by itself.
    async fn wait_for_senders(&mut self, senders: &mut JoinSet<Vec<Violation>>) {
        let plan = self.plan;
        let each = plan.max_block + plan.delivery_timeout + Duration::from_secs(1);
        let limit = plan.chaos + each * (plan.records + 1);
        let all = async {
            while let Some(ended) = senders.join_next().await {
                match ended {
                    Ok(found) => self.violations.extend(found),
                    Err(error) => self.violations.push(Violation::Other(format!("a sender ended: {error}"))),
                }
            }
        };
        if timeout(limit, all).await.is_err() {
            self.violations.push(Violation::Other(format!("a sender still waits after {limit:?}")));
            senders.abort_all();
        }
    }

    /// Every record that was taken is answered within the delivery timeout, which the checker looks at; here it only
    /// gets its chance.
    async fn wait_for_answers(&self) {
        let deadline = Instant::now() + self.plan.delivery_timeout + Duration::from_secs(60);
        while Instant::now() < deadline {
            if self.history.records().iter().all(|sent| sent.outcome != Outcome::Open) {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn flush_and_close(
        &mut self,
        producers: &[Producer],
        site: &Site,
        network: &Network,
    ) -> TestResult {
        let limit = self.plan.delivery_timeout + SLACK;
        for producer in producers {
            if let Err(error) = producer.flush_within(limit).await {
                self.violations.push(Violation::Other(format!("flush: {error}")));
            }
        }
        // A buffer that leaks would take fewer records now than a new one.
        let fresh = producer(self.plan, site, network)?;
        for producer in producers.iter().chain([&fresh]) {
            // With a record it gets to know the topic, if it did not: `max.block` may be short.
            for _ in 0..1000 {
                match producer.send(filling()).await {
                    Ok(delivery) => {
                        drop(delivery);
                        break;
                    }
                    Err(_) => sleep(Duration::from_millis(100)).await,
                }
            }
            producer.flush().await;
            // A batch that was given up keeps its memory while the request that carries it is under way.
            let deadline = Instant::now() + self.plan.request_timeout + SLACK;
            while in_flight(producer).await > 0 && Instant::now() < deadline {
                sleep(Duration::from_millis(100)).await;
            }
        }
        let room = fill(&fresh);
        for producer in producers {
            let left = fill(producer);
            // Batches that are compressed take room by the ratio their producer has seen so far.
            if left != room && self.plan.compression == Compression::None {
                let leak = format!("the buffer has room for {left} records after all, not for {room}");
                self.violations.push(Violation::Other(leak));
            }
        }
        for producer in producers.iter().chain([&fresh]) {
            if let Err(error) = self.close(producer, self.plan.delivery_timeout + CLOSE).await {
                self.violations.push(Violation::Other(format!("close in calm: {error}")));
            }
        }
        Ok(())
    }

    async fn close(
        &mut self,
        producer: &Producer,
        deadline: Duration,
    ) -> Result<(), kafka_client::producer::FlushTimeout> {
        self.trace.note(format_args!("close within {deadline:?}"));
        let began = Instant::now();
        let closed = producer.close(deadline).await;
        let took = began.elapsed();
        self.trace.note(format_args!("closed after {took:?}: {closed:?}"));
        if took > deadline + SLACK {
            let late = format!("close took {took:?}, its deadline was {deadline:?}");
            self.violations.push(Violation::Other(late));
        }
        closed
    }
}

/// How many batches a producer has sent that are not answered.
async fn in_flight(producer: &Producer) -> usize {
    producer.debug_snapshot().await.partitions.iter().map(|it| it.in_flight_batches).sum()
}

/// A record of no consequence.
fn filling() -> Record<'static> {
    Record::to(TOPIC).partition(0).value(&[0xFF; 300]).timestamp(0)
}

/// How many of them the buffer takes.
fn fill(producer: &Producer) -> u32 {
    let mut taken = 0;
    while taken < 100_000 {
        match producer.try_send(filling()) {
            Ok(delivery) => drop(delivery),
            Err(_) => break,
        }
        taken += 1;
    }
    taken
}

fn producer(plan: &Plan, site: &Site, network: &Network) -> TestResult<Producer> {
    let client = Client::builder(site.bootstrap_servers())
        .connector(network.clone())
        .request_timeout(plan.request_timeout)
        .api_timeout(plan.delivery_timeout.max(plan.request_timeout))
        .connect_timeout(plan.request_timeout)
        .build()?;
    let builder = client
        .producer()
        .acks(plan.acks)
        .idempotence(plan.idempotent)
        .linger(plan.linger)
        .batch_size(plan.batch_size)
        .buffer_memory(plan.buffer_memory)
        .max_request_size(plan.max_request_size)
        .max_in_flight(plan.max_in_flight)
        .max_block(plan.max_block)
        .delivery_timeout(plan.delivery_timeout)
        .compression(plan.compression);
    Ok(builder.build()?)
}

/// Reads along, so that what is deleted was seen. Ends with the cluster; a restarted one is found again.
async fn observe(site: Site, partition: i32) -> (i32, BTreeMap<i64, Option<u64>>) {
    let mut seen = BTreeMap::new();
    let mut next = 0;
    let mut failures = 0;
    while failures < 100 {
        if let Ok(mut raw) = Raw::connect_to_leader(&site, partition).await {
            while let Ok(written) = raw.read(partition, next, Duration::from_secs(1)).await {
                failures = 0;
                next = written.next_offset;
                seen.extend(written.records);
            }
        }
        failures += 1;
        sleep(Duration::from_millis(100)).await;
    }
    (partition, seen)
}
