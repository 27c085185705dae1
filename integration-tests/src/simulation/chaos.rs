//! What happens to the cluster during a run, at times that the seed decides: nodes end and start, leaders move, disks
//! fail, the power is cut, an admin deletes and makes things. And how all is made well again.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_broker::{Control, UnsyncedTail};
use tokio::time::{Instant, sleep, sleep_until};

use super::budget::FaultBudget;
use super::check::{Incarnation, Written};
use super::network::Network;
use super::plan::Plan;
use super::random::Random;
use super::raw::{Raw, TOPIC};
use super::site::Site;
use super::trace::Trace;
use crate::TestResult;

/// Its partitions' leaders are the groups' coordinators.
const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// In calm every replica is back in sync within this time.
const RECOVERY: Duration = Duration::from_secs(120);

/// Something that is done to the cluster.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    StopAll,
    KillAll,
    CutPowerOfAll,
    StartAll,
    FailWrites {
        node: i32,
        after: u32,
        times: u64,
        torn: bool,
    },
    FailSyncs(i32),
    Sync(i32),
    Stop(i32),
    Crash(i32),
    CutPower(i32),
    Start(i32),
    MoveCoordinator {
        partition: u64,
        to: u64,
    },
    MoveLeader {
        partition: u64,
        to: u64,
    },
    Hold(i32),
    Release(i32),
    CutConnections(i32),
    /// Deletes that share of a partition's records.
    DeleteRecords {
        partition: u64,
        share: u64,
    },
    DeleteTopic,
    CreateTopic,
    AddPartition,
}

impl Step {
    /// What a fault is called; `None` for a step that makes good again.
    fn kind(self) -> Option<&'static str> {
        Some(match self {
            Self::StartAll | Self::Start(_) | Self::Release(_) | Self::Sync(_) | Self::CreateTopic => {
                return None;
            }
            Self::StopAll => "cluster stopped",
            Self::KillAll => "cluster killed",
            Self::CutPowerOfAll => "power cut",
            Self::FailWrites { .. } => "writes failed",
            Self::FailSyncs(_) => "syncs failed",
            Self::Stop(_) => "node stopped",
            Self::Crash(_) => "node crashed",
            Self::CutPower(_) => "node without power",
            Self::MoveCoordinator { .. } => "coordinator moved",
            Self::MoveLeader { .. } => "leader moved",
            Self::Hold(_) => "replication held",
            Self::CutConnections(_) => "connections of a node cut",
            Self::DeleteRecords { .. } => "records deleted",
            Self::DeleteTopic => "topic deleted",
            Self::AddPartition => "partition added",
        })
    }
}

/// A fault, and what makes it good again after a while.
type FaultAndUndo = (Step, Option<Step>);

/// The steps of a run, each with its time.
fn steps(plan: &Plan) -> Vec<(Duration, Step)> {
    let mut random = Random::stream(plan.seed, 3);
    let faults = &plan.faults;
    let span = plan.chaos.as_millis() as u64;
    let mut steps = Vec::new();
    let mut add = |random: &mut Random, count: u32, step: &dyn Fn(i32, &mut Random) -> FaultAndUndo| {
        for _ in 0..count {
            let at = random.millis(0, span);
            let node = 1 + random.below(u64::from(plan.nodes)) as i32;
            let down = random.millis(0, 1000) * random.pick(&[0, 1, 1, 5], 1);
            let (fault, undo) = step(node, random);
            steps.push((at, fault));
            // Whatever a node left open has ended by then.
            steps.extend(undo.map(|undo| (at + down.max(Duration::from_millis(2)), undo)));
        }
    };
    let again = Some(Step::StartAll);
    add(&mut random, faults.restarts, &|_, _| (Step::StopAll, again));
    add(&mut random, faults.kills, &|_, _| (Step::KillAll, again));
    add(&mut random, faults.power_cuts, &|_, _| (Step::CutPowerOfAll, again));
    add(&mut random, faults.disk_failures, &|node, random| {
        let (after, times, torn) = (random.below(20) as u32, random.between(1, 3), random.chance(0.5));
        (Step::FailWrites { node, after, times, torn }, None)
    });
    add(&mut random, faults.sync_failures, &|node, _| (Step::FailSyncs(node), Some(Step::Sync(node))));
    add(&mut random, faults.node_stops, &|node, _| (Step::Stop(node), Some(Step::Start(node))));
    add(&mut random, faults.node_crashes, &|node, _| (Step::Crash(node), Some(Step::Start(node))));
    add(&mut random, faults.node_power_cuts, &|node, _| (Step::CutPower(node), Some(Step::Start(node))));
    add(&mut random, faults.coordinator_moves, &|_, random| {
        (Step::MoveCoordinator { partition: random.next(), to: random.next() }, None)
    });
    add(&mut random, faults.leader_moves, &|_, random| {
        (Step::MoveLeader { partition: random.next(), to: random.next() }, None)
    });
    add(&mut random, faults.held_replications, &|node, _| (Step::Hold(node), Some(Step::Release(node))));
    add(&mut random, faults.node_cuts, &|node, _| (Step::CutConnections(node), None));
    add(&mut random, faults.record_deletions, &|_, random| {
        (Step::DeleteRecords { partition: random.next(), share: random.between(0, 100) }, None)
    });
    add(&mut random, faults.recreations, &|_, _| (Step::DeleteTopic, Some(Step::CreateTopic)));
    add(&mut random, faults.added_partitions, &|_, _| (Step::AddPartition, None));
    steps.sort_by_key(|(at, _)| *at);
    steps
}

/// What the checker has to know of a run's chaos.
#[derive(Debug, Default)]
pub(super) struct Incidents {
    /// When power was cut, since the start of the run.
    pub(super) power_cuts: Vec<Duration>,
    /// How often all nodes were started again.
    pub(super) starts: u32,
    /// How long there was none, in all.
    pub(super) down: Duration,
    /// The topic's earlier incarnations.
    pub(super) deleted: Vec<Incarnation>,
    /// What is known of the present one, beside its log.
    pub(super) present: Incarnation,
}

/// The chaos of a run.
pub(super) struct Chaos {
    pub(super) plan: Plan,
    pub(super) site: Site,
    pub(super) network: Network,
    pub(super) budget: FaultBudget,
    pub(super) trace: Trace,
    pub(super) started: Instant,
}

impl Chaos {
    /// Takes all steps, makes everything well again, and tells what the checker has to know.
    ///
    /// # Errors
    /// The cluster does not recover.
    pub(super) async fn run(self) -> TestResult<Incidents> {
        let mut incidents = Incidents::default();
        let mut tails = Random::stream(self.plan.seed, 4);
        let mut down_since = None;
        for (at, step) in steps(&self.plan) {
            sleep_until(self.started + at).await;
            if step.kind().is_some_and(|kind| !self.budget.take(kind)) {
                continue;
            }
            match self.take(step, &mut tails, &mut incidents).await {
                Ok(()) => self.trace.note(format_args!("{step:?}")),
                Err(error) => self.trace.note(format_args!("{step:?}: {error}")),
            }
            match (self.site.is_up(), down_since) {
                (false, None) => down_since = Some(Instant::now()),
                (true, Some(since)) => {
                    incidents.starts += 1;
                    incidents.down += since.elapsed();
                    down_since = None;
                }
                _ => {}
            }
        }
        sleep_until(self.started + self.plan.chaos).await;
        self.heal().await?;
        Ok(incidents)
    }

    async fn take(&self, step: Step, tails: &mut Random, incidents: &mut Incidents) -> TestResult {
        let site = &self.site;
        let broker = site.broker();
        let control = || broker.as_ref().map(|broker| broker.control()).ok_or("no node runs");
        match step {
            Step::StopAll => {
                drop(broker);
                site.shut_down().await;
            }
            Step::KillAll | Step::CutPowerOfAll => {
                drop(broker);
                site.kill().await;
                self.network.sever_all();
                if step == Step::CutPowerOfAll {
                    incidents.power_cuts.push(self.started.elapsed());
                    site.disks().iter().for_each(|disk| disk.lose_power(|bytes| tail(bytes, tails)));
                }
            }
            Step::StartAll => {
                if !site.is_up() {
                    site.start().await?;
                }
            }
            Step::FailWrites { node, after, times, torn } => {
                site.disk(node).into_iter().for_each(|disk| disk.fail_writes(after, times, torn));
            }
            Step::FailSyncs(node) => site.disk(node).into_iter().for_each(|disk| disk.fail_syncs(true)),
            Step::Sync(node) => site.disk(node).into_iter().for_each(|disk| disk.fail_syncs(false)),
            Step::Stop(node) => control()?.stop(node).await?,
            Step::Crash(node) => {
                self.network.sever(node);
                control()?.crash(node).await?;
            }
            Step::CutPower(node) => {
                self.network.sever(node);
                control()?.crash(node).await?;
                incidents.power_cuts.push(self.started.elapsed());
                site.disk(node).into_iter().for_each(|disk| disk.lose_power(|bytes| tail(bytes, tails)));
            }
            Step::Start(node) => site.start_node(node).await?,
            Step::MoveLeader { partition, to } => {
                move_leader(&control()?, TOPIC, pick(partition, site.partitions()), to).await?;
            }
            Step::MoveCoordinator { partition, to } => {
                let control = control()?;
                let coordinators =
                    control.leaders().keys().filter(|(topic, _)| topic == OFFSETS_TOPIC).count();
                move_leader(&control, OFFSETS_TOPIC, pick(partition, coordinators as i32), to).await?;
            }
            Step::Hold(node) => control()?.hold_replication(node),
            Step::Release(node) => control()?.release_replication(node),
            Step::CutConnections(node) => control()?.cut_connections(node)?,
            Step::DeleteRecords { partition, share } => {
                let partition = pick(partition, site.partitions());
                let mut raw = Raw::connect_to_leader(site, partition).await?;
                let offset = raw.end_offset(partition).await? * share as i64 / 100;
                let asked = incidents.present.deleted_up_to.entry(partition).or_default();
                *asked = offset.max(*asked);
                raw.delete_records(partition, offset).await?;
                let surely = incidents.present.surely_deleted_up_to.entry(partition).or_default();
                *surely = offset.max(*surely);
            }
            Step::DeleteTopic => self.delete_topic(incidents).await?,
            Step::CreateTopic => self.create_topic().await?,
            Step::AddPartition => {
                let count = site.partitions() + 1;
                Raw::connect(site).await?.add_partitions(count).await?;
            }
        }
        Ok(())
    }

    async fn delete_topic(&self, incidents: &mut Incidents) -> TestResult {
        // Whoever has not been told yet when the topic goes is not promised that its record was there.
        let log = read_all(&self.site).await.unwrap_or_default();
        Raw::connect(&self.site).await?.delete_topic().await?;
        let deleted_at = Some(self.started.elapsed());
        let present = std::mem::take(&mut incidents.present);
        incidents.deleted.push(Incarnation { log, deleted_at, ..present });
        Ok(())
    }

    async fn create_topic(&self) -> TestResult {
        match self.site.partitions() {
            0 => Raw::connect(&self.site).await?.create_topic(&self.plan).await,
            _ => Ok(()),
        }
    }

    /// Ends all faults; afterwards every node runs, on a disk that works, and every replica is in sync.
    async fn heal(&self) -> TestResult {
        let site = &self.site;
        self.network.end_faults();
        if self.plan.faults.disk_failures + self.plan.faults.sync_failures > 0 {
            // A partition whose log failed serves again after a restart.
            for disk in site.disks() {
                disk.fail_writes(0, 0, false);
                disk.fail_syncs(false);
            }
            site.kill().await;
            self.network.sever_all();
            sleep(Duration::from_millis(2)).await;
        }
        if !site.is_up() {
            site.start().await?;
        }
        for node in site.nodes() {
            site.start_node(node).await?;
            site.broker().into_iter().for_each(|broker| broker.control().release_replication(node));
        }
        self.create_topic().await?;
        let deadline = Instant::now() + RECOVERY;
        while !site.is_in_sync() {
            if Instant::now() > deadline {
                let leaders = site.broker().map(|broker| broker.control().leaders());
                return Err(format!("replicas are not in sync after {RECOVERY:?}: {leaders:?}").into());
            }
            sleep(Duration::from_millis(100)).await;
        }
        self.trace.note(format_args!("no more faults"));
        Ok(())
    }
}

/// Lets one of the replicas in sync lead.
async fn move_leader(control: &Control<'_>, topic: &str, partition: i32, to: u64) -> TestResult {
    let now = control.leader(topic, partition).ok_or("no such partition")?;
    let to = now.isr.get((to % now.isr.len().max(1) as u64) as usize).ok_or("nobody in sync")?;
    Ok(control.move_leader(topic, partition, *to).await?)
}

/// One of `count` things, 0 if there are none.
fn pick(drawn: u64, count: i32) -> i32 {
    drawn.checked_rem(count.max(0) as u64).unwrap_or(0) as i32
}

/// What is left of that many bytes: mostly a part, sometimes followed by zeros.
fn tail(bytes: u64, random: &mut Random) -> UnsyncedTail {
    let kept = match random.below(4) {
        0 => 0,
        1 => bytes,
        _ => random.below(bytes),
    };
    let zeros = if random.chance(0.3) { random.below(bytes - kept + 1) } else { 0 };
    UnsyncedTail { kept, zeros }
}

/// Every partition, as its leader has it.
pub(super) async fn read_all(site: &Site) -> TestResult<BTreeMap<i32, Written>> {
    let mut log = BTreeMap::new();
    for partition in 0..site.partitions() {
        let mut raw = Raw::connect_to_leader(site, partition).await?;
        log.insert(partition, raw.read(partition, 0, Duration::ZERO).await?);
    }
    Ok(log)
}
