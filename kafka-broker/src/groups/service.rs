//! The shell around the coordinators: it appends what they decide, hands out their answers and wakes them in time.
//!
//! Each partition of `__consumer_offsets` has one coordinator behind one lock. A lock rather than an owner task: a step
//! takes microseconds, its append is synchronous and nothing is awaited while the lock is held, so a task would only
//! add a queue and two wake-ups to every heartbeat and commit. Calls that have to wait leave a oneshot behind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kafka_wire::ErrorCode;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::consumer::ConsumerGroupConfig;
use super::record::GroupRecord;
use super::{CallId, Coordinator, Decision, GroupConfig, Now, Response, partition_for};
use crate::config::broker::BrokerConfig;
use crate::config::group::ConsumerSettings;
use crate::coordinator_log::{self, Entry};
use crate::partition::{Partition, Uncommitted};
use crate::state::BrokerState;
use crate::transactions::markers::Marker;

/// Where groups and offsets rest.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// How long an answer waits until the in-sync replicas have what it rests on (`offsets.commit.timeout.ms`).
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the timer sleeps when no coordinator has anything to wait for.
const IDLE: Duration = Duration::from_secs(600);

/// The group coordinators of this node.
pub(crate) struct Groups {
    config: GroupConfig,
    shards: Mutex<BTreeMap<i32, Arc<Mutex<Shard>>>>,
    /// Partitions that this node came to lead and whose coordinators are to be loaded.
    elected: Mutex<BTreeSet<i32>>,
    next_call: AtomicU64,
    timer: Notify,
    /// When the timer wakes by itself.
    timer_at: Mutex<Instant>,
}

/// A coordinator with the log it was loaded from and the calls it has yet to answer.
struct Shard {
    partition: Arc<Partition>,
    /// The leader epoch that it was loaded in.
    epoch: i32,
    coordinator: Coordinator,
    waiting: FxHashMap<CallId, oneshot::Sender<Response>>,
}

fn now(state: &BrokerState) -> Now {
    Now { at: Instant::now().into_std(), ms: state.clock.now_ms() }
}

impl GroupConfig {
    pub(crate) fn new(config: &BrokerConfig) -> Self {
        let millis = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
        let policy = config.consumer_group_migration_policy();
        Self {
            initial_rebalance_delay: millis(config.group_initial_rebalance_delay_ms().into()),
            min_session_timeout_ms: config.group_min_session_timeout_ms(),
            max_session_timeout_ms: config.group_max_session_timeout_ms(),
            max_size: usize::try_from(config.group_max_size()).unwrap_or(usize::MAX),
            offset_metadata_max_bytes: config.offset_metadata_max_bytes(),
            offsets_retention_ms: config.offsets_retention_minutes().saturating_mul(60_000),
            offsets_check_interval: millis(config.offsets_retention_check_interval_ms()),
            consumer: ConsumerGroupConfig {
                settings: ConsumerSettings {
                    assignment_interval: millis(config.consumer_group_assignment_interval_ms().into()),
                    heartbeat_interval: millis(config.consumer_group_heartbeat_interval_ms().into()),
                    session_timeout: millis(config.consumer_group_session_timeout_ms().into()),
                },
                max_size: usize::try_from(config.consumer_group_max_size()).unwrap_or(usize::MAX),
                assignors: config.consumer_group_assignors(),
                upgrades: matches!(policy.as_str(), "bidirectional" | "upgrade"),
                downgrades: matches!(policy.as_str(), "bidirectional" | "downgrade"),
            },
            share_session_timeout: millis(config.share_session_timeout_ms()),
        }
    }
}

impl Groups {
    pub(crate) fn new(config: GroupConfig) -> Self {
        Self {
            config,
            shards: Mutex::default(),
            elected: Mutex::default(),
            next_call: AtomicU64::new(0),
            timer: Notify::new(),
            timer_at: Mutex::new(Instant::now() + IDLE),
        }
    }

    /// Loads every coordinator whose partition exists, so that sessions and offsets expire without being asked for.
    pub(crate) fn load_all(&self, state: &BrokerState) {
        for index in 0..partition_count(state) {
            self.load(state, index);
        }
    }

    fn load(&self, state: &BrokerState, index: i32) {
        match self.with_partition(state, index, |_| ()) {
            // Another node's.
            Ok(()) | Err(ErrorCode::NotCoordinator) => {}
            Err(error) => tracing::error!(partition = index, %error, "group coordinator not loaded"),
        }
    }

    /// This node leads a coordinator's partition from now on, or does not any more: who waits is sent away, and what was
    /// loaded is forgotten. A new coordinator is loaded by its first call or by the timer, whichever comes first.
    pub(crate) fn leader_changed(&self, index: i32, is_elected: bool) {
        drop(self.shards.lock().remove(&index));
        if is_elected {
            self.elected.lock().insert(index);
            self.timer.notify_one();
        }
    }

    /// Puts a call to the coordinator of a group and waits for its answer.
    ///
    /// Dropping the future takes nothing back: the member that waited is heard from again or expires.
    pub(crate) async fn call(
        &self,
        state: &BrokerState,
        group_id: &str,
        step: impl FnOnce(&mut Coordinator, CallId, Now) -> Decision,
    ) -> Result<Response, ErrorCode> {
        let call = CallId(self.next_call.fetch_add(1, Ordering::Relaxed));
        let (sender, receiver) = oneshot::channel();
        let (partition, epoch) = self.with_group(state, group_id, |shard| {
            shard.waiting.insert(call, sender);
            let now = now(state);
            let decision = step(&mut shard.coordinator, call, now);
            shard.settle(decision, now);
            (Arc::clone(&shard.partition), shard.epoch)
        })?;
        // The coordinator is gone when its topic is, or when another node leads its partition.
        let response = receiver.await.map_err(|_| ErrorCode::NotCoordinator)?;
        // What the answer says must not be lost with this node (`offsets.commit.timeout.ms`).
        let committed = match partition.uncommitted(epoch) {
            Ok(Some(append)) => partition.committed(append, Instant::now() + COMMIT_TIMEOUT).await,
            Ok(None) => Ok(()),
            Err(code) => Err(code),
        };
        committed.map_err(|code| match code {
            ErrorCode::NotLeaderOrFollower => ErrorCode::NotCoordinator,
            _ => ErrorCode::CoordinatorNotAvailable,
        })?;
        Ok(response)
    }

    /// Looks at the coordinator of a group.
    pub(crate) fn read<R>(
        &self,
        state: &BrokerState,
        group_id: &str,
        look: impl FnOnce(&Coordinator) -> R,
    ) -> Result<R, ErrorCode> {
        self.with_group(state, group_id, |shard| look(&shard.coordinator))
    }

    /// Looks at every coordinator in turn.
    pub(crate) fn read_all<R>(
        &self,
        state: &BrokerState,
        mut look: impl FnMut(&Coordinator) -> R,
    ) -> Result<Vec<R>, ErrorCode> {
        let partitions = 0..partition_count(state);
        partitions
            .map(|index| self.with_partition(state, index, |shard| look(&shard.coordinator)))
            // What other nodes coordinate is theirs to tell.
            .filter(|looked| !matches!(looked, Err(ErrorCode::NotCoordinator)))
            .collect()
    }

    /// Appends the marker of a transaction that committed offsets in partition `index`, and lets them count, or not.
    pub(crate) fn end_transaction(
        &self,
        state: &BrokerState,
        index: i32,
        marker: Marker,
        batch: Bytes,
    ) -> Result<Option<Uncommitted>, ErrorCode> {
        let ended = self.with_partition(state, index, |shard| {
            let now = now(state);
            let appended = shard.partition.append_marker(batch, marker.bumps, now.ms);
            let uncommitted = appended.map_err(|refused| refused.code)?;
            shard.coordinator.transaction_ended(marker.producer_id, marker.is_commit, now);
            Ok(uncommitted)
        });
        ended?
    }

    /// The partition that holds a group.
    pub(crate) fn partition(&self, state: &BrokerState, group_id: &str) -> Result<Arc<Partition>, ErrorCode> {
        let index = partition_for(group_id, partition_count(state));
        state.topics.partition(OFFSETS_TOPIC, index).ok_or(ErrorCode::CoordinatorNotAvailable)
    }

    /// Forgets the offsets of topics that were deleted.
    pub(crate) fn topics_deleted(&self, state: &BrokerState, topics: &[String]) {
        for index in 0..partition_count(state) {
            let done = self.with_partition(state, index, |shard| {
                let decision = shard.coordinator.topics_deleted(topics);
                shard.settle(decision, now(state));
            });
            if let Err(error) = done
                && error != ErrorCode::NotCoordinator
            {
                tracing::warn!(partition = index, %error, "offsets of deleted topics remain");
            }
        }
    }

    fn with_group<R>(
        &self,
        state: &BrokerState,
        group_id: &str,
        run: impl FnOnce(&mut Shard) -> R,
    ) -> Result<R, ErrorCode> {
        self.with_partition(state, partition_for(group_id, partition_count(state)), run)
    }

    fn with_partition<R>(
        &self,
        state: &BrokerState,
        index: i32,
        run: impl FnOnce(&mut Shard) -> R,
    ) -> Result<R, ErrorCode> {
        // The topic is made by the first FindCoordinator.
        let partition =
            state.topics.partition(OFFSETS_TOPIC, index).ok_or(ErrorCode::CoordinatorNotAvailable)?;
        let epoch = partition.led_epoch().ok_or(ErrorCode::NotCoordinator)?;
        let known = self.shards.lock().get(&index).cloned();
        let shard = match known {
            Some(shard) => shard,
            None => {
                let loaded = Shard::load(partition.clone(), epoch, &self.config, now(state))?;
                // If another call loaded it as well, the first one in the map counts.
                Arc::clone(self.shards.lock().entry(index).or_insert_with(|| Arc::new(Mutex::new(loaded))))
            }
        };
        let mut shard = shard.lock();
        if !Arc::ptr_eq(&shard.partition, &partition) || shard.epoch != epoch {
            // The topic was deleted and made anew, or another node led it in between.
            *shard = Shard::load(partition, epoch, &self.config, now(state))?;
        }
        let result = run(&mut shard);
        let wake_up = Instant::from_std(shard.coordinator.next_wake_up());
        if wake_up < *self.timer_at.lock() {
            self.timer.notify_one();
        }
        Ok(result)
    }

    /// Does all that is due and returns when the next thing is.
    fn expire(&self, state: &BrokerState) -> Instant {
        let elected = std::mem::take(&mut *self.elected.lock());
        elected.into_iter().for_each(|index| self.load(state, index));
        let shards: Vec<_> = self.shards.lock().values().cloned().collect();
        let mut next = Instant::now() + IDLE;
        for shard in shards {
            let mut shard = shard.lock();
            shard.settle(Decision::default(), now(state));
            next = next.min(Instant::from_std(shard.coordinator.next_wake_up()));
        }
        next
    }
}

/// The timer of all coordinators. Runs until it is aborted.
pub(crate) async fn run(state: Arc<BrokerState>) {
    let groups = &state.groups;
    loop {
        // Until the new time is known every step that sets a deadline wakes the timer.
        *groups.timer_at.lock() = Instant::now() + IDLE;
        let next = groups.expire(&state);
        *groups.timer_at.lock() = next;
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(next) => {}
            () = groups.timer.notified() => {}
        }
    }
}

fn partition_count(state: &BrokerState) -> i32 {
    let topic = state.topics.by_name(OFFSETS_TOPIC);
    topic.map_or(0, |topic| i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX))
}

impl Shard {
    fn load(
        partition: Arc<Partition>,
        epoch: i32,
        config: &GroupConfig,
        now: Now,
    ) -> Result<Self, ErrorCode> {
        let mut coordinator = Coordinator::new(config.clone(), now);
        coordinator_log::replay_all(&partition, |entry| {
            match entry {
                Entry::Record { key, value, producer_id, .. } => {
                    let record = GroupRecord::decode(key, value)?;
                    record.iter().for_each(|record| match producer_id {
                        Some(producer_id) => coordinator.replay_pending(producer_id, record),
                        None => coordinator.replay(record, now),
                    });
                }
                Entry::Marker { producer_id, is_commit } => {
                    coordinator.transaction_ended(producer_id, is_commit, now);
                }
            }
            Ok(())
        })?;
        let decision = coordinator.loaded(now);
        let mut shard = Self { partition, epoch, coordinator, waiting: FxHashMap::default() };
        shard.settle(decision, now);
        Ok(shard)
    }

    /// Appends, answers, and goes on with whatever is due by now.
    fn settle(&mut self, mut decision: Decision, now: Now) {
        loop {
            let written = self.append(&decision, now);
            for answer in self.coordinator.finish(decision, written, now) {
                if let Some(waiting) = self.waiting.remove(&answer.call) {
                    // A client that has gone is not told; its member expires.
                    let _ = waiting.send(answer.response);
                }
            }
            match self.coordinator.expire(now) {
                Some(next) => decision = next,
                None => return,
            }
        }
    }

    fn append(&self, decision: &Decision, now: Now) -> Result<(), ErrorCode> {
        if decision.records.is_empty() {
            return Ok(());
        }
        let records = decision.records.iter().map(GroupRecord::encode);
        match decision.producer {
            Some(producer) => {
                coordinator_log::append_in_transaction(&self.partition, records, producer, now.ms)?;
            }
            None => drop(coordinator_log::append(&self.partition, records, now.ms)?),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use kafka_wire::StrBytes;
    use kafka_wire::messages::offset_commit_request::{
        OffsetCommitRequestPartition, OffsetCommitRequestTopic,
    };
    use kafka_wire::messages::{GroupId, OffsetCommitRequest, TopicName};
    use kafka_wire::record_batch::{BatchBuilder, Seal};

    use super::super::Commit;
    use super::*;
    use crate::Broker;
    use crate::log::Origin;

    fn commit(topic: &str, offset: i64) -> OffsetCommitRequest {
        let partition =
            OffsetCommitRequestPartition::default().with_partition_index(0).with_committed_offset(offset);
        let topic = OffsetCommitRequestTopic::default()
            .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
            .with_partitions(vec![partition]);
        OffsetCommitRequest::default()
            .with_group_id(GroupId(StrBytes::from_static_str("g")))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic])
    }

    async fn committed_offsets(broker: &Broker, commits: &[(&str, i64)]) {
        let state = broker.state();
        state.create_internal_topic(OFFSETS_TOPIC).unwrap();
        for (topic, offset) in commits {
            let request = commit(topic, *offset);
            let answer = state.groups.call(state, "g", |coordinator, call, now| {
                coordinator.commit(Commit { call, request: &request, version: 9, producer: None }, now)
            });
            let Ok(Response::OffsetCommit(response)) = answer.await else { panic!("another response") };
            assert_eq!(response.topics[0].partitions[0].error_code, 0);
        }
    }

    fn fetch(broker: &Broker, topic: &str) -> Result<Option<i64>, ErrorCode> {
        let state = broker.state();
        state.groups.read(state, "g", |coordinator| {
            coordinator.committed("g", topic, None, 0).map(|committed| committed.offset)
        })
    }

    #[tokio::test]
    async fn a_coordinator_is_loaded_from_its_log() {
        let broker = Broker::builder().start().await.unwrap();
        committed_offsets(&broker, &[("a", 1), ("b", 2), ("a", 3)]).await;
        broker.state().groups.shards.lock().clear();
        broker.state().groups.load_all(broker.state());
        assert_eq!(
            (fetch(&broker, "a"), fetch(&broker, "b"), fetch(&broker, "c")),
            (Ok(Some(3)), Ok(Some(2)), Ok(None))
        );
    }

    #[tokio::test]
    async fn a_record_that_is_no_groups_is_passed_over() {
        let broker = Broker::builder().start().await.unwrap();
        committed_offsets(&broker, &[("a", 1)]).await;
        let state = broker.state();
        let partition =
            state.topics.partition(OFFSETS_TOPIC, partition_for("g", partition_count(state))).unwrap();
        let mut batch = BatchBuilder::new(64);
        batch.append(0, Some(b"\x00\x01garbage"), Some(b"more"), &[]);
        batch.append(0, None, Some(b"no key"), &[]);
        partition.append(batch.finish(&Seal::default()).unwrap(), Origin::Coordinator, None, 0).unwrap();
        committed_offsets(&broker, &[("b", 2)]).await;
        state.groups.shards.lock().clear();
        assert_eq!((fetch(&broker, "a"), fetch(&broker, "b")), (Ok(Some(1)), Ok(Some(2))));
    }

    #[tokio::test]
    async fn a_coordinator_does_not_outlive_its_topic() {
        let broker = Broker::builder().start().await.unwrap();
        committed_offsets(&broker, &[("a", 1)]).await;
        let state = broker.state();
        let id = state.topics.by_name(OFFSETS_TOPIC).unwrap().id();
        state.delete_topic(OFFSETS_TOPIC, id).unwrap();
        assert_eq!(fetch(&broker, "a"), Err(ErrorCode::CoordinatorNotAvailable));
        state.create_internal_topic(OFFSETS_TOPIC).unwrap();
        assert_eq!(fetch(&broker, "a"), Ok(None));
    }
}
