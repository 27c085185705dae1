//! A consumer group in a run: its members come, stall, crash and go as the seed says, each on its own line into the
//! network. What they were handed out is compared with the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kafka_client::consumer::{
    CloseOptions, Consumer, ConsumerRecord, ListenerFuture, OffsetReset, Rebalance, RebalanceListener,
};
use kafka_client::group::GroupProtocol;
use kafka_client::group::assignor::{
    Assignor, CooperativeStickyAssignor, RangeAssignor, RoundRobinAssignor, StickyAssignor,
};
use kafka_client::{Client, TopicPartition};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::chaos::read_all;
use super::check::{Violation, Written};
use super::network::{Line, Network};
use super::plan::Plan;
use super::random::Random;
use super::raw::TOPIC;
use super::site::Site;
use super::trace::{Trace, lock};
use crate::TestResult;

const GROUP: &str = "g";
/// What is in calm settled after the group's own time-outs at the latest.
const SETTLES_WITHIN: Duration = Duration::from_secs(120);
/// The deadline of an orderly close.
const CLOSE: Duration = Duration::from_secs(10);
/// How often a run looks whether the group has settled.
const LOOK: Duration = Duration::from_millis(500);

/// Which protocols the members speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// The classic one.
    Classic,
    /// That of KIP-848.
    Consumer,
    /// Each member, each time it joins, one of both: the group is moved to and fro while it lives.
    Mixed,
}

/// The assignor of members that speak the classic protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "Kafka's names")]
pub enum Strategy {
    Range,
    RoundRobin,
    Sticky,
    CooperativeSticky,
}

impl Strategy {
    fn assignor(self) -> Arc<dyn Assignor> {
        match self {
            Self::Range => Arc::new(RangeAssignor),
            Self::RoundRobin => Arc::new(RoundRobinAssignor),
            Self::Sticky => Arc::new(StickyAssignor::default()),
            Self::CooperativeSticky => Arc::new(CooperativeStickyAssignor),
        }
    }
}

/// A group and what its members do.
#[derive(Debug, Clone)]
pub struct GroupPlan {
    /// How many members there are at a time.
    pub members: u32,
    /// Which protocols they speak.
    pub speaks: Speaks,
    /// How partitions are assigned under the classic protocol.
    pub strategy: Strategy,
    /// The share of members that have a `group.instance.id`.
    pub static_members: f64,
    /// Whether positions are committed in the background; otherwise by members, now and then and when partitions go.
    pub auto_commit: bool,
    /// `auto.commit.interval.ms`.
    pub auto_commit_interval: Duration,
    /// `session.timeout.ms`.
    pub session_timeout: Duration,
    /// `heartbeat.interval.ms`.
    pub heartbeat_interval: Duration,
    /// `max.poll.interval.ms`.
    pub max_poll_interval: Duration,
    /// The longest time a record takes.
    pub work: Duration,
    /// How long a member stays, at most.
    pub stay: Duration,
    /// How often a member stalls after a record.
    pub stalls: f64,
    /// The share of members that end as their process does.
    pub crashes: f64,
}

impl GroupPlan {
    pub(super) fn draw(random: &mut Random) -> Self {
        let session_timeout = Duration::from_millis(random.pick(&[1000, 3000, 10_000], 3000));
        let speaks = [Speaks::Classic, Speaks::Consumer, Speaks::Mixed];
        let strategies =
            [Strategy::Range, Strategy::RoundRobin, Strategy::Sticky, Strategy::CooperativeSticky];
        Self {
            members: random.between(1, 4) as u32,
            speaks: random.pick(&speaks, Speaks::Classic),
            strategy: random.pick(&strategies, Strategy::Range),
            static_members: random.pick(&[0.0, 0.0, 0.5, 1.0], 0.0),
            auto_commit: random.chance(0.6),
            auto_commit_interval: Duration::from_millis(random.pick(&[50, 500, 5000], 500)),
            session_timeout,
            heartbeat_interval: session_timeout / random.between(3, 10) as u32,
            max_poll_interval: Duration::from_millis(random.pick(&[2000, 10_000, 60_000], 10_000)),
            work: Duration::from_millis(random.pick(&[0, 5, 50], 5)),
            stay: random.millis(500, 10_000),
            stalls: random.pick(&[0.0, 0.0, 0.01], 0.0),
            crashes: random.pick(&[0.0, 0.3, 0.9], 0.0),
        }
    }

    fn longest_rebalance(&self) -> Duration {
        (self.session_timeout + self.max_poll_interval) * 3
    }
}

/// What happened in the group. Clones are the same ledger.
#[derive(Debug, Clone)]
struct Ledger {
    trace: Trace,
    inner: Arc<Mutex<Entries>>,
    members: Arc<AtomicU32>,
    calm: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    /// Whether nothing happens that a coordinator could mistake for a member's end.
    undisturbed: bool,
}

#[derive(Debug, Default)]
struct Entries {
    owners: BTreeMap<i32, BTreeSet<u32>>,
    /// The last offset that a member was handed out since the partition came.
    handed_out: BTreeMap<(u32, i32), i64>,
    processed: BTreeSet<(i32, i64)>,
    violations: Vec<Violation>,
}

impl Ledger {
    fn assigned(&self, member: u32, partitions: &[TopicPartition]) {
        self.trace.note(format_args!("member {member} gets {}", list(partitions)));
        let mut entries = lock(&self.inner);
        let entries = &mut *entries;
        for partition in partitions.iter().map(|it| it.partition) {
            let owners = entries.owners.entry(partition).or_default();
            owners.insert(member);
            entries.handed_out.remove(&(member, partition));
            if owners.len() > 1 && self.undisturbed {
                let members = owners.iter().copied().collect();
                entries.violations.push(Violation::OwnedTwice { partition, members });
            }
        }
    }

    fn released(&self, member: u32, partitions: &[TopicPartition], how: &str) {
        self.trace.note(format_args!("member {member} {how} {}", list(partitions)));
        let mut entries = lock(&self.inner);
        for partition in partitions {
            entries.owners.entry(partition.partition).or_default().remove(&member);
        }
    }

    fn gone(&self, member: u32, how: &str) {
        self.trace.note(format_args!("member {member} {how}"));
        let mut entries = lock(&self.inner);
        entries.owners.values_mut().for_each(|owners| {
            owners.remove(&member);
        });
    }

    fn handed_out(&self, member: u32, record: &ConsumerRecord) {
        let (partition, offset) = (record.partition, record.offset);
        self.trace.note(format_args!("member {member} has {partition}@{offset}"));
        let mut entries = lock(&self.inner);
        if !entries.owners.get(&partition).is_some_and(|owners| owners.contains(&member)) {
            let astray = format!("member {member} was handed out {partition}@{offset}, and does not own it");
            entries.violations.push(Violation::Other(astray));
        }
        if let Some(last) = entries.handed_out.insert((member, partition), offset)
            && last >= offset
        {
            let again = format!("member {member} was handed out {partition}@{offset} after {last}");
            entries.violations.push(Violation::Other(again));
        }
    }

    fn processed(&self, record: &ConsumerRecord) {
        lock(&self.inner).processed.insert((record.partition, record.offset));
    }

    /// Behind what the owner of each partition was handed out.
    fn to_be_committed(&self) -> BTreeMap<i32, i64> {
        let entries = lock(&self.inner);
        let owners = entries.owners.iter().flat_map(|(&partition, owners)| {
            owners
                .iter()
                .filter_map(|&owner| entries.handed_out.get(&(owner, partition)))
                .max()
                .map(|last| (partition, last + 1))
        });
        owners.collect()
    }

    fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

fn list(partitions: &[TopicPartition]) -> String {
    format!("{:?}", partitions.iter().map(|partition| partition.partition).collect::<Vec<_>>())
}

/// Notes what a member owns, and commits before partitions go if nobody else does.
struct Notes {
    member: u32,
    ledger: Ledger,
    commits: bool,
}

impl RebalanceListener for Notes {
    fn on_assigned<'a>(&'a self, rebalance: Rebalance<'a>) -> ListenerFuture<'a> {
        self.ledger.assigned(self.member, rebalance.partitions());
        Box::pin(std::future::ready(()))
    }

    fn on_revoked<'a>(&'a self, rebalance: Rebalance<'a>) -> ListenerFuture<'a> {
        Box::pin(async move {
            if self.commits
                && let Err(error) = rebalance.commit().await
            {
                self.ledger.trace.note(format_args!("member {} on revoke: {error}", self.member));
            }
            self.ledger.released(self.member, rebalance.partitions(), "gives up");
        })
    }

    fn on_lost<'a>(&'a self, rebalance: Rebalance<'a>) -> ListenerFuture<'a> {
        self.ledger.released(self.member, rebalance.partitions(), "loses");
        Box::pin(std::future::ready(()))
    }
}

/// The group of a run.
pub(super) struct Group {
    plan: Plan,
    network: Network,
    ledger: Ledger,
    seats: JoinSet<()>,
}

impl Group {
    /// Lets its members join. `None` in a plan without a group.
    pub(super) fn start(plan: &Plan, network: &Network, trace: &Trace) -> Option<Self> {
        let group = plan.group.as_ref()?;
        let faults = &plan.faults;
        let nodes_end = faults.restarts + faults.kills + faults.node_stops + faults.node_crashes;
        let frames = faults.cut_request
            + faults.cut_answer
            + faults.lose_request
            + faults.lose_answer
            + faults.late_request
            + faults.late_answer
            + faults.refuse_connect
            + faults.hang_connect;
        let undisturbed =
            nodes_end + faults.node_cuts + faults.held_replications == 0 && frames + group.stalls == 0.0;
        let ledger = Ledger {
            trace: trace.clone(),
            inner: Arc::default(),
            members: Arc::default(),
            calm: Arc::default(),
            over: Arc::default(),
            undisturbed,
        };
        let mut seats = JoinSet::new();
        for number in 0..group.members {
            let seat = Seat {
                number,
                plan: plan.clone(),
                group: group.clone(),
                network: network.clone(),
                ledger: ledger.clone(),
                random: Random::stream(plan.seed, 2000 + u64::from(number)),
            };
            seats.spawn(seat.run());
        }
        Some(Self { plan: plan.clone(), network: network.clone(), ledger, seats })
    }

    /// From now on members join and stay.
    pub(super) fn calm(&self) {
        self.ledger.calm.store(true, Ordering::Relaxed);
    }

    /// Waits until the group has processed the whole log, ends it, and looks at what it left.
    ///
    /// # Errors
    /// The log cannot be read, or the committed offsets.
    pub(super) async fn settle(
        mut self,
        site: &Site,
        log: &BTreeMap<i32, Written>,
    ) -> TestResult<Vec<Violation>> {
        let limit = self.plan.group.as_ref().map_or(Duration::ZERO, GroupPlan::longest_rebalance);
        let deadline = Instant::now() + SETTLES_WITHIN + limit;
        while !(self.everything_is_owned(log) && self.unprocessed(log).is_empty()) {
            if Instant::now() > deadline {
                let owners = format!("{:?}", lock(&self.ledger.inner).owners);
                self.ledger.trace.note(format_args!("owners: {owners}"));
                if !self.everything_is_owned(log) {
                    let unsettled = format!("the group has not settled: {owners}");
                    lock(&self.ledger.inner).violations.push(Violation::Other(unsettled));
                }
                // What was deleted by age meanwhile, nobody could read.
                let log = read_all(site).await?;
                let skipped = self.unprocessed(&log).into_iter();
                let skipped = skipped.map(|(partition, offset)| Violation::Skipped { partition, offset });
                lock(&self.ledger.inner).violations.extend(skipped);
                break;
            }
            sleep(LOOK).await;
        }
        let due = self.ledger.to_be_committed();
        self.ledger.over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.seats.join_next().await {
            ended?;
        }
        self.check_committed(log, &due).await?;
        Ok(std::mem::take(&mut lock(&self.ledger.inner).violations))
    }

    fn everything_is_owned(&self, log: &BTreeMap<i32, Written>) -> bool {
        let entries = lock(&self.ledger.inner);
        log.keys().all(|partition| entries.owners.get(partition).is_some_and(|owners| owners.len() == 1))
    }

    fn unprocessed(&self, log: &BTreeMap<i32, Written>) -> Vec<(i32, i64)> {
        let entries = lock(&self.ledger.inner);
        let places = log.iter().flat_map(|(&partition, written)| {
            let kept = written.records.iter().filter(|(offset, _)| *offset >= written.log_start_offset);
            kept.map(move |&(offset, _)| (partition, offset))
        });
        places.filter(|place| !entries.processed.contains(place)).collect()
    }

    /// Members that left in order have committed what they were handed out.
    async fn check_committed(&self, log: &BTreeMap<i32, Written>, due: &BTreeMap<i32, i64>) -> TestResult {
        let client = client(&self.plan, &self.network.line())?;
        let reader = client.consumer().group(GROUP).enable_auto_commit(false).build()?;
        let partitions: Vec<_> = log.keys().map(|&partition| TopicPartition::new(TOPIC, partition)).collect();
        let committed = reader.committed(&partitions).await?;
        for (partition, written) in log {
            let place = committed.get(&TopicPartition::new(TOPIC, *partition));
            let offset = place.map_or(0, |place| place.offset);
            let (end, due) = (written.next_offset, due.get(partition).copied().unwrap_or(0));
            if offset > end || (offset < due && !self.plan.deletes_by_age()) {
                let wrong = format!("{offset} is committed of partition {partition}: not {due} to {end}");
                lock(&self.ledger.inner).violations.push(Violation::Other(wrong));
            }
        }
        Ok(())
    }
}

pub(super) fn client(plan: &Plan, line: &Line) -> TestResult<Client> {
    let bootstrap = Site::bootstrap_of(plan.nodes);
    let builder = Client::builder(bootstrap).connector(line.clone()).request_timeout(plan.request_timeout);
    Ok(builder.connect_timeout(plan.request_timeout).api_timeout(Duration::from_secs(60)).build()?)
}

/// A place in the group that one member after the other takes.
struct Seat {
    number: u32,
    plan: Plan,
    group: GroupPlan,
    network: Network,
    ledger: Ledger,
    random: Random,
}

/// How a member ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Departure {
    Crashes,
    Leaves,
    Remains,
    Dropped,
}

impl Seat {
    async fn run(mut self) {
        sleep(self.random.millis(0, 1000)).await;
        while !self.ledger.is_over() {
            let line = self.network.line();
            let member = self.ledger.members.fetch_add(1, Ordering::Relaxed);
            match self.join(member, &line) {
                Ok(consumer) => self.live(member, consumer, &line).await,
                Err(error) => self.ledger.trace.note(format_args!("member {member} is not made: {error}")),
            }
            sleep(self.random.millis(0, 2000)).await;
        }
    }

    fn join(&mut self, member: u32, line: &Line) -> TestResult<Consumer> {
        let group = &self.group;
        let classic = match group.speaks {
            Speaks::Classic => true,
            Speaks::Consumer => false,
            Speaks::Mixed => self.random.chance(0.5),
        };
        let is_static = f64::from(self.number) < group.static_members * f64::from(group.members);
        self.ledger.trace.note(format_args!("member {member} joins: classic {classic}, static {is_static}"));
        let notes = Notes { member, ledger: self.ledger.clone(), commits: !group.auto_commit };
        let mut builder = client(&self.plan, line)?
            .consumer()
            .group(GROUP)
            .topics([TOPIC])
            .auto_offset_reset(OffsetReset::Earliest)
            .enable_auto_commit(group.auto_commit)
            .auto_commit_interval(group.auto_commit_interval)
            .max_poll_interval(group.max_poll_interval)
            .rebalance_listener(notes);
        builder = match classic {
            true => builder
                .protocol(GroupProtocol::Classic)
                .assignors([group.strategy.assignor()])
                .session_timeout(group.session_timeout)
                .heartbeat_interval(group.heartbeat_interval),
            false => builder.protocol(GroupProtocol::Consumer),
        };
        if is_static {
            builder = builder.group_instance_id(format!("instance-{}", self.number));
        }
        Ok(builder.build()?)
    }

    async fn live(&mut self, member: u32, consumer: Consumer, line: &Line) {
        let leaves_at = Instant::now() + self.random.millis(100, self.group.stay.as_millis() as u64);
        let departure = match self.random.chance(self.group.crashes) {
            true => Departure::Crashes,
            false => self.random.pick(
                &[Departure::Leaves, Departure::Leaves, Departure::Remains, Departure::Dropped],
                Departure::Leaves,
            ),
        };
        let mut uncommitted = 0;
        while !self.ledger.is_over() {
            let calm = self.ledger.is_calm();
            if !calm && Instant::now() >= leaves_at {
                return self.depart(member, consumer, line, departure).await;
            }
            let patience = self.random.millis(1, 1000);
            match timeout(patience, consumer.next()).await {
                Err(_) => {}
                Ok(Ok(Some(record))) => {
                    self.ledger.handed_out(member, &record);
                    sleep(self.random.millis(0, self.group.work.as_millis() as u64)).await;
                    if !calm && self.random.chance(self.group.stalls) {
                        let stall = self.group.max_poll_interval.mul_f64(1.5);
                        self.ledger.trace.note(format_args!("member {member} stalls for {stall:?}"));
                        sleep(stall).await;
                    }
                    // In the middle of its work: the record must come again.
                    if !calm && departure == Departure::Crashes && Instant::now() >= leaves_at {
                        return self.depart(member, consumer, line, departure).await;
                    }
                    self.ledger.processed(&record);
                    uncommitted += 1;
                }
                Ok(Ok(None)) => return self.ledger.gone(member, "ended"),
                Ok(Err(error)) => {
                    self.ledger.trace.note(format_args!("member {member}: {error}"));
                    if error.is_fatal() {
                        return self.depart(member, consumer, line, Departure::Leaves).await;
                    }
                    sleep(Duration::from_millis(10)).await;
                }
            }
            if !self.group.auto_commit && uncommitted > 10 {
                self.commit(member, &consumer).await;
                uncommitted = 0;
            }
        }
        self.depart(member, consumer, line, Departure::Leaves).await;
    }

    async fn commit(&self, member: u32, consumer: &Consumer) {
        if let Err(error) = consumer.commit().await {
            self.ledger.trace.note(format_args!("member {member} commits: {error}"));
        }
    }

    async fn depart(&mut self, member: u32, consumer: Consumer, line: &Line, how: Departure) {
        if how == Departure::Crashes {
            line.cut_off();
            drop(consumer);
            return self.ledger.gone(member, "crashes");
        }
        if !self.group.auto_commit {
            self.commit(member, &consumer).await;
        }
        if how == Departure::Dropped {
            self.ledger.gone(member, "is dropped");
            return drop(consumer);
        }
        let options = CloseOptions::within(CLOSE);
        let options = if how == Departure::Remains { options.remain_in_group() } else { options };
        if let Err(error) = consumer.close_with(options).await {
            self.ledger.trace.note(format_args!("member {member} closes: {error}"));
        }
        self.ledger.gone(member, "closed");
    }
}
