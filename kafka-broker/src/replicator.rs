//! The followers' side of replication: copies from leaders what they have appended, in this process.
//!
//! A leader that appends puts the partition into the inboxes of the nodes that follow it; each node has one task that
//! empties its inbox, so nobody polls. Copying is a step on two partitions, one lock at a time ([`copy_step`]), and a
//! batch in memory is the same memory on every node. What a fetch would tell the leader (how far the follower is) and
//! the follower (the high watermark) travels with the step.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kafka_wire::error_code::ErrorCode;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use uuid::Uuid;

use crate::api::off_thread;
use crate::cluster::elections::{self, AlterPartition};
use crate::cluster::image::Image;
use crate::partition::Copied;
use crate::replication_quota::Side;
use crate::state::BrokerState;

/// How much one step copies (`replica.fetch.max.bytes`).
#[cfg(not(test))]
const STEP_BYTES: usize = 1024 * 1024;
/// One batch for each step, so that tests stop everywhere.
#[cfg(test)]
const STEP_BYTES: usize = 1;
/// After so many steps the task lets others run.
const STEPS_PER_TURN: usize = 16;
/// How long a partition rests whose in-sync replicas the controller would not change, or whose limit is used up: it would
/// be the same at once. Java's followers come back with their next fetch, within `replica.fetch.wait.max.ms` (500).
const REST: Duration = Duration::from_millis(250);

/// Partitions in which a node's replica may have something to copy. Outlives the node's restarts.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    due: Mutex<BTreeSet<(Uuid, i32)>>,
    arrived: Notify,
    held: AtomicBool,
}

impl Inbox {
    pub(crate) fn push(&self, topic_id: Uuid, index: i32) {
        if self.due.lock().insert((topic_id, index)) {
            self.arrived.notify_one();
        }
    }

    /// Nothing is copied until [`release`](Self::release).
    pub(crate) fn hold(&self) {
        self.held.store(true, Ordering::SeqCst);
    }

    pub(crate) fn release(&self) {
        self.held.store(false, Ordering::SeqCst);
        self.arrived.notify_one();
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }

    pub(crate) fn next(&self) -> Option<(Uuid, i32)> {
        match self.is_held() {
            true => None,
            false => self.due.lock().pop_first(),
        }
    }

    /// The node stops: what it has to copy is found out anew when it starts.
    pub(crate) fn clear(&self) {
        self.due.lock().clear();
    }
}

/// Partitions in which nothing more may be done for a while.
#[derive(Debug, Default)]
struct Resting {
    partitions: BTreeSet<(Uuid, i32)>,
    /// Until when; `None` while none rests. The first counts, so that one after the other cannot put it off.
    until: Option<Instant>,
}

impl Resting {
    fn add(&mut self, partition: (Uuid, i32), now: Instant) {
        self.partitions.insert(partition);
        self.until.get_or_insert(now + REST);
    }

    /// They have rested.
    fn take(&mut self) -> BTreeSet<(Uuid, i32)> {
        self.until = None;
        std::mem::take(&mut self.partitions)
    }
}

/// Copies for one node until it is dropped, and lets leaders on this node notice who lags.
pub(crate) async fn run(state: Arc<BrokerState>) {
    let inbox = state.cluster.inbox(state.node_id);
    let lag_max_ms = state.config.replica_lag_time_max_ms();
    let period = Duration::from_millis(u64::try_from(lag_max_ms / 2).unwrap_or(0).max(1));
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut resting = Resting::default();
    loop {
        tokio::select! {
            biased;
            () = inbox.arrived.notified() => {
                let mut steps = 0;
                while let Some((topic_id, index)) = inbox.next() {
                    let copied = copy_all(&state, &inbox, topic_id, index, &mut steps).await;
                    if copied.is_err() {
                        resting.add((topic_id, index), Instant::now());
                    }
                }
            }
            () = sleep_until(resting.until.unwrap_or_else(Instant::now)), if resting.until.is_some() => {
                resting.take().into_iter().for_each(|(topic_id, index)| inbox.push(topic_id, index));
            }
            _ = ticks.tick() => shrink_isrs(&state).await,
        }
    }
}

/// Copies until there is nothing more; that there is, but nothing more may be done now, is an error.
async fn copy_all(
    state: &Arc<BrokerState>,
    inbox: &Inbox,
    topic_id: Uuid,
    index: i32,
    steps: &mut usize,
) -> Result<(), Rest> {
    loop {
        let proposal = match copy_step(state, topic_id, index) {
            Step::Done => break,
            Step::Throttled => return Err(Rest),
            Step::More(proposal) => proposal,
        };
        if flush_copied(state, topic_id, index).await.is_err() {
            break;
        }
        if let Some(proposal) = proposal {
            off_thread(state, move |state| alter_partition(state, &proposal)).await?;
        }
        *steps += 1;
        if steps.is_multiple_of(STEPS_PER_TURN) {
            tokio::task::yield_now().await;
        }
        if inbox.is_held() {
            inbox.push(topic_id, index);
            break;
        }
    }
    give_up_broken(state, topic_id, index).await
}

/// A log of this node is given up: the controller is asked for a leader whose disk works, and not to let anybody wait for
/// this replica. Of Kafka's brokers one with a broken folder halts, or says which folder is gone (`AssignReplicasToDirs`);
/// here only the log that broke goes.
async fn give_up_broken(state: &Arc<BrokerState>, topic_id: Uuid, index: i32) -> Result<(), Rest> {
    let Some(own) = state.topics.by_id(topic_id).and_then(|topic| topic.partition(index)) else {
        return Ok(());
    };
    if !own.is_broken() {
        return Ok(());
    }
    let node_id = state.node_id;
    let decide = move |image: &Image| elections::replica_failed(image, own.topic(), index, node_id);
    if state.cluster.read(|image, _| decide(image)).is_ok_and(|records| records.is_empty()) {
        return Ok(());
    }
    off_thread(state, move |state| {
        state.cluster.change(state.clock.now_ms(), decide).map_err(|refusal| {
            tracing::error!(topic = %topic_id, index, reason = refusal.message, "a broken log is still counted on");
            Rest
        })
    })
    .await
}

/// Nothing more may be done now: the controller refused what was proposed to it, or a limit is used up.
#[derive(Debug)]
pub(crate) struct Rest;

/// A limit on how fast replicas are copied, and the node that it is for.
struct Limit<'a> {
    side: Side,
    node: &'a BrokerState,
}

impl<'a> Limit<'a> {
    fn of(side: Side, leader: &'a BrokerState, follower: &'a BrokerState) -> Self {
        let node = match side {
            Side::Leader => leader,
            Side::Follower => follower,
        };
        Self { side, node }
    }

    fn is_exceeded(&self, now_ms: i64) -> bool {
        let limit = match self.side {
            Side::Leader => self.node.config.leader_throttled_rate(),
            Side::Follower => self.node.config.follower_throttled_rate(),
        };
        self.node.replication_quotas.is_exceeded(self.side, limit, now_ms)
    }

    fn record(&self, bytes: usize, now_ms: i64) {
        self.node.replication_quotas.record(self.side, bytes, now_ms);
    }
}

/// Whether there may be more to copy.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    Done,
    /// There is, but not now (KIP-73).
    Throttled,
    /// And what the leader wants to become of its in-sync replicas.
    More(Option<AlterPartition>),
}

/// Copies once from the leader to this node's replica, if it follows one.
pub(crate) fn copy_step(state: &BrokerState, topic_id: Uuid, index: i32) -> Step {
    let Some(own) = state.topics.by_id(topic_id).and_then(|topic| topic.partition(index)) else {
        return Step::Done;
    };
    let Some((leader_id, leader_epoch, history)) = own.follower() else { return Step::Done };
    // Its leader is not there, or does not lead yet: it calls when it does.
    let Some(leader) = state.cluster.node(leader_id) else { return Step::Done };
    let now_ms = state.clock.now_ms();
    let Some(led) = leader.topics.by_id(topic_id).and_then(|topic| topic.partition(index)) else {
        return Step::Done;
    };
    let limits: Vec<Limit<'_>> = led
        .throttles(leader_id, state.node_id)
        .into_iter()
        .map(|side| Limit::of(side, &leader, state))
        .collect();
    if limits.iter().any(|limit| limit.is_exceeded(now_ms)) {
        return Step::Throttled;
    }
    let copied = led.copy_for(state.node_id, leader_epoch, history, STEP_BYTES, now_ms);
    match copied {
        None => Step::Done,
        Some(Copied::Failed(error)) => {
            tracing::error!(partition = own.name(), %error, "the leader's log cannot be copied");
            Step::Done
        }
        Some(Copied::Align { alignment, producers }) => {
            match own.follow(leader_epoch, alignment, producers) {
                // The leader would ask for the same again, for ever.
                Ok(()) if own.follower().is_some_and(|now| now == (leader_id, leader_epoch, history)) => {
                    tracing::error!(
                        partition = own.name(),
                        ?alignment,
                        ?history,
                        "the replica stays as it is"
                    );
                    Step::Done
                }
                Ok(()) => Step::More(None),
                Err(error) => {
                    tracing::error!(partition = own.name(), %error, "the replica cannot be truncated");
                    Step::Done
                }
            }
        }
        Some(Copied::Batches(mut copied)) => {
            let size_bytes = copied.batches.iter().map(Bytes::len).sum();
            limits.iter().for_each(|limit| limit.record(size_bytes, now_ms));
            let expand = copied.expand.take();
            let is_last = copied.batches.is_empty() && expand.is_none();
            match own.copied(leader_epoch, copied, now_ms) {
                Ok(start) => {
                    let is_last = is_last && start.is_none();
                    let kept = start.map(|start| state.logs.keep_log_start(own.topic(), index, start));
                    if let Some(Err(error)) = kept {
                        tracing::error!(partition = own.name(), %error, "the log's start is not kept");
                    }
                    // One more step tells the leader how far this replica has come, and where it starts.
                    if is_last { Step::Done } else { Step::More(expand) }
                }
                Err(code) => {
                    tracing::error!(partition = own.name(), %code, "the leader's records cannot be appended");
                    Step::Done
                }
            }
        }
    }
}

/// Syncs what a step has copied, where every batch is to be synced.
async fn flush_copied(state: &BrokerState, topic_id: Uuid, index: i32) -> Result<(), ErrorCode> {
    match state.topics.by_id(topic_id).and_then(|topic| topic.partition(index)) {
        Some(own) => own.flush_copied(state.logs.may_block()).await,
        None => Ok(()),
    }
}

/// Asks the controller for a change of in-sync replicas, and tells the leader when it is refused.
pub(crate) fn alter_partition(state: &BrokerState, proposal: &AlterPartition) -> Result<(), Rest> {
    state.cluster.alter_partition(proposal, state.clock.now_ms()).map_err(|refusal| {
        tracing::info!(node_id = proposal.node_id, reason = refusal.message, "in-sync replicas not changed");
        let leader = state.cluster.node(proposal.node_id);
        let topic = leader.and_then(|leader| leader.topics.by_id(proposal.topic_id));
        if let Some(partition) = topic.and_then(|topic| topic.partition(proposal.index)) {
            partition.proposal_failed();
        }
        Rest
    })
}

/// Takes who lags out of the in-sync replicas of what this node leads.
pub(crate) async fn shrink_isrs(state: &Arc<BrokerState>) {
    let (lag_max_ms, now_ms) = (state.config.replica_lag_time_max_ms(), state.clock.now_ms());
    for partition in state.topics.all_partitions() {
        if let Some(proposal) = partition.shrink_isr(lag_max_ms, now_ms) {
            tracing::info!(partition = partition.name(), isr = ?proposal.isr, "in-sync replicas shrink");
            // Who still lags is proposed again with the next tick.
            off_thread(state, move |state| alter_partition(state, &proposal)).await.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by the simulation: a refused change of the in-sync replicas was proposed again at once, for ever.
    #[tokio::test(start_paused = true)]
    async fn refused_partitions_rest_for_a_quarter_of_a_second_from_the_first_one_on() {
        let (mut resting, now) = (Resting::default(), Instant::now());
        let partition = |index| (Uuid::from_u128(7), index);
        resting.add(partition(0), now);
        resting.add(partition(1), now + REST / 2);
        resting.add(partition(0), now + REST / 2);
        assert_eq!(resting.until, Some(now + Duration::from_millis(250)));
        assert_eq!(resting.take(), BTreeSet::from([partition(0), partition(1)]));
        assert_eq!(resting.until, None);
        resting.add(partition(1), now + REST);
        assert_eq!(resting.until, Some(now + 2 * REST));
    }
}
