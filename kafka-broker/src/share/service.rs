//! The shell around share partitions: it reads the log for them, puts on record what they decide, ends locks in time, and
//! wakes members that wait.
//!
//! A share partition is where its partition's leader is. It stands behind a lock of its own: the log is read, the share
//! coordinator's log is written, and nothing is awaited while the lock is held.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_wire::ErrorCode;
use kafka_wire::record_batch::RecordBatch;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ShareKey;
use super::partition::{
    Acknowledgement, Acquire, AcquireMode, Acquired, Limits, LogBatch, SharePartition, Transition,
};
use super::session::Sessions;
use super::state::Write;
use super::state::service::{Pending, change};
use crate::config::broker::BrokerConfig;
use crate::config::group::{GroupSettings, OffsetReset};
use crate::dispatch::ConnectionId;
use crate::log::AbortedTxn;
use crate::partition::Partition;
use crate::scatter::Records;
use crate::state::BrokerState;
use crate::waiter::{WaitList, Waiter};

/// How long the timer sleeps when no lock is held.
const IDLE: Duration = Duration::from_secs(600);
/// How many reads in a row may find nothing but aborted transactions before others have their turn.
const ABORTED_READS: usize = 16;

/// The share partitions that this node leads, and the sessions of their members.
pub(crate) struct Shares {
    partitions: Mutex<FxHashMap<ShareKey, Arc<Shared>>>,
    pub(crate) sessions: Mutex<Sessions>,
    timer: Notify,
    /// When the timer wakes by itself.
    timer_at: Mutex<Instant>,
}

/// A share partition.
pub(crate) struct Shared {
    key: ShareKey,
    partition: Arc<Partition>,
    loaded: Mutex<Option<Loaded>>,
    waiters: WaitList,
}

struct Loaded {
    leader_epoch: i32,
    state_epoch: i32,
    core: SharePartition,
    /// Somebody else leads it, or the group's offsets were altered or deleted: to be loaded anew.
    is_fenced: bool,
}

/// What a member asks for in one partition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) member: &'a Arc<str>,
    pub(crate) max_records: i64,
    pub(crate) max_bytes: usize,
    pub(crate) batch_size: i64,
    pub(crate) mode: AcquireMode,
}

/// What it got.
#[derive(Debug, Default)]
pub(crate) struct Given {
    pub(crate) acquired: Vec<Acquired>,
    /// The batches that hold what was acquired, and no more.
    pub(crate) records: Records,
}

impl Given {
    pub(crate) fn count(&self) -> i64 {
        self.acquired.iter().map(|run| run.last - run.first + 1).sum()
    }
}

impl Shares {
    pub(crate) fn new(config: &BrokerConfig) -> Self {
        Self {
            partitions: Mutex::default(),
            sessions: Mutex::new(Sessions::new(config.share_max_sessions())),
            timer: Notify::new(),
            timer_at: Mutex::new(Instant::now() + IDLE),
        }
    }

    /// The share partition of a group, if its topic exists.
    pub(crate) fn get(&self, state: &BrokerState, key: &ShareKey) -> Result<Arc<Shared>, ErrorCode> {
        let topic = state.topics.by_id(key.topic_id).ok_or(ErrorCode::UnknownTopicId)?;
        let partition = topic.partition(key.partition).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        partition.led_epoch().ok_or(ErrorCode::NotLeaderOrFollower)?;
        if let Some(known) = self.partitions.lock().get(key) {
            return Ok(Arc::clone(known));
        }
        // Not what anybody may make up: only what the group coordinator has had initialized.
        let is_initialized = super::state::service::read(state, key, |recorded| recorded.is_some());
        if !is_initialized.map_err(to_client)? {
            return Err(ErrorCode::UnknownTopicOrPartition);
        }
        let shared =
            Shared { key: key.clone(), partition, loaded: Mutex::new(None), waiters: WaitList::default() };
        // If another fetch came first, its one counts.
        let mut partitions = self.partitions.lock();
        let shared = partitions.entry(key.clone()).or_insert_with(|| Arc::new(shared));
        Ok(Arc::clone(shared))
    }

    /// The share partitions of a group that are here.
    pub(crate) fn of_group(&self, group: &str) -> Vec<Arc<Shared>> {
        let partitions = self.partitions.lock();
        partitions
            .iter()
            .filter(|(key, _)| key.group == group)
            .map(|(_, shared)| Arc::clone(shared))
            .collect()
    }

    /// A member's session has ended: what it holds on this node becomes available.
    pub(crate) fn release(&self, state: &BrokerState, group: &str, member: &str) -> Vec<Pending> {
        let of_group = self.of_group(group);
        let released = of_group.iter().map(|shared| shared.release(state, member));
        released
            .filter_map(|released| {
                released
                    .inspect_err(|error| tracing::debug!(group, member, %error, "records not released"))
                    .ok()
            })
            .collect()
    }

    /// A connection is gone, and with it the share sessions that were opened on it (`ShareSessionCache`).
    pub(crate) fn connection_lost(&self, state: &BrokerState, connection: ConnectionId) {
        let lost = self.sessions.lock().connection_lost(connection);
        for (group, member) in lost {
            tracing::debug!(group, member, "share session ended: its connection is lost");
            // Nobody waits until it is committed.
            drop(self.release(state, &group, &member));
        }
    }

    /// What was loaded of a group is no longer so.
    pub(crate) fn forget(&self, group: &str) {
        let mut gone = Vec::new();
        self.partitions.lock().retain(|key, shared| {
            let stays = key.group != group;
            if !stays {
                gone.push(Arc::clone(shared));
            }
            stays
        });
        // Not under the map's lock: whoever holds a share partition may look into the map.
        for shared in gone {
            *shared.loaded.lock() = None;
            shared.waiters.wake_all();
        }
    }

    /// A lock that ends at `at` was given.
    fn locked_until(&self, at: Instant) {
        if at < *self.timer_at.lock() {
            self.timer.notify_one();
        }
    }

    /// Ends all locks that are due and returns when the next is.
    fn expire(&self, state: &BrokerState) -> Instant {
        let mut next = Instant::now() + IDLE;
        let all: Vec<_> = self.partitions.lock().values().cloned().collect();
        for shared in all {
            if state.topics.by_id(shared.key.topic_id).is_none() {
                self.partitions.lock().remove(&shared.key);
                continue;
            }
            if let Some(deadline) = shared.expire(state) {
                next = next.min(deadline);
            }
        }
        next
    }
}

/// Ends locks in time. Runs until it is aborted.
pub(crate) async fn run(state: Arc<BrokerState>) {
    let shares = &state.shares;
    loop {
        // Until the new time is known every lock wakes the timer.
        *shares.timer_at.lock() = Instant::now() + IDLE;
        let next = shares.expire(&state);
        *shares.timer_at.lock() = next;
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(next) => {}
            () = shares.timer.notified() => {}
        }
    }
}

impl Shared {
    /// Wakes `waiter` when there may be something to acquire, until what is returned is dropped.
    pub(crate) fn register(self: &Arc<Self>, waiter: &Arc<Waiter>) -> ShareRegistration {
        self.waiters.add(waiter);
        ShareRegistration {
            _appends: self.partition.register(waiter),
            shared: Arc::clone(self),
            waiter: Arc::clone(waiter),
        }
    }

    /// How many bytes a fetch could read now, up to `max_bytes`.
    pub(crate) fn readable_bytes(&self, state: &BrokerState, max_bytes: usize) -> Result<usize, ErrorCode> {
        self.with(state, |loaded| {
            if !loaded.core.can_acquire() {
                return Ok(0);
            }
            let is_committed = GroupSettings::of(state, &self.key.group).is_committed;
            let batches = self.read(loaded, max_bytes, is_committed)?;
            Ok(batches.iter().map(|(_, bytes)| bytes.len()).sum())
        })
    }

    /// Gives a member records, if there are any.
    pub(crate) fn acquire(&self, state: &BrokerState, ask: &Ask<'_>) -> Result<(Given, Pending), ErrorCode> {
        let settings = GroupSettings::of(state, &self.key.group);
        let now = Instant::now();
        let given = self.with(state, |loaded| {
            loaded.core.set_limits(limits(&settings));
            let mut pending = Pending::default();
            let log_start = self.partition.lock()?.log_start_offset();
            if log_start > loaded.core.start_offset() {
                let moved = loaded.core.log_starts_at(log_start);
                pending = self.put_on_record(state, loaded, moved)?;
            }
            for _ in 0..ABORTED_READS {
                if !loaded.core.can_acquire() {
                    break;
                }
                let batches = self.read(loaded, ask.max_bytes, settings.is_committed)?;
                let read: Vec<LogBatch> = batches.iter().map(|(batch, _)| *batch).collect();
                let acquired = loaded.core.acquire(&Acquire {
                    member: ask.member,
                    read: &read,
                    max_records: ask.max_records,
                    batch_size: ask.batch_size,
                    mode: ask.mode,
                    now: now.into_std(),
                });
                if let (Some(first), Some(last)) = (acquired.first(), acquired.last()) {
                    let is_given = |batch: &LogBatch| {
                        batch.last_offset >= first.first
                            && batch.base_offset <= last.last
                            && !batch.is_aborted
                    };
                    let given = batches.into_iter().filter(|(batch, _)| is_given(batch));
                    let records = Records::new(given.map(|(_, bytes)| bytes).collect());
                    return Ok((Given { records, acquired }, pending));
                }
                if read.is_empty() {
                    break;
                }
            }
            Ok((Given::default(), pending))
        })?;
        if !given.0.acquired.is_empty() {
            state.shares.locked_until(now + settings.lock_duration);
        }
        Ok(given)
    }

    /// Takes a member's word on records it holds.
    pub(crate) fn acknowledge(
        &self,
        state: &BrokerState,
        member: &str,
        acknowledgements: &[Acknowledgement],
    ) -> Result<Pending, ErrorCode> {
        let now = Instant::now().into_std();
        self.step(state, |core| {
            core.acknowledge(member, acknowledgements, now).map_err(|refused| {
                tracing::debug!(partition = self.partition.name(), group = self.key.group, %refused, "not acknowledged");
                refused.error_code()
            })
        })
    }

    /// A member has closed its session: what it holds becomes available.
    pub(crate) fn release(&self, state: &BrokerState, member: &str) -> Result<Pending, ErrorCode> {
        self.step(state, |core| Ok(core.release_member(member)))
    }

    fn expire(&self, state: &BrokerState) -> Option<Instant> {
        // Another leader's locks are not this one's; they end when it loads the partition.
        self.loaded.lock().as_ref()?;
        let now = Instant::now().into_std();
        let ended = self.step(state, |core| Ok(core.expire(now)));
        if let Err(error) = ended {
            tracing::warn!(partition = self.partition.name(), group = self.key.group, %error, "locks not ended");
            // What is not on record is not so: to be tried again.
            return Some(Instant::now() + Duration::from_secs(1));
        }
        let deadline = self.loaded.lock().as_ref()?.core.next_deadline();
        deadline.map(Instant::from_std)
    }

    fn step(
        &self,
        state: &BrokerState,
        step: impl FnOnce(&mut SharePartition) -> Result<Transition, ErrorCode>,
    ) -> Result<Pending, ErrorCode> {
        let pending = self.with(state, |loaded| {
            let transition = step(&mut loaded.core)?;
            self.put_on_record(state, loaded, transition)
        })?;
        self.waiters.wake_all();
        Ok(pending)
    }

    fn put_on_record(
        &self,
        state: &BrokerState,
        loaded: &mut Loaded,
        transition: Transition,
    ) -> Result<Pending, ErrorCode> {
        if transition.is_empty() {
            loaded.core.commit(transition);
            return Ok(Pending::default());
        }
        let write = Write {
            state_epoch: loaded.state_epoch,
            leader_epoch: loaded.leader_epoch,
            start_offset: transition.start_offset,
            delivery_complete_count: transition.delivery_complete_count,
            batches: transition.batches.clone(),
        };
        let written = change(state, &self.key, |coordinator, now_ms| {
            Ok((Some(coordinator.write(&self.key, &write, now_ms)?), ()))
        });
        match written {
            Ok(((), pending)) => {
                loaded.core.commit(transition);
                Ok(pending)
            }
            Err(error) => {
                loaded.core.roll_back(transition);
                loaded.is_fenced = matches!(
                    error,
                    ErrorCode::FencedLeaderEpoch | ErrorCode::FencedStateEpoch | ErrorCode::InvalidRequest
                );
                Err(uninitialized(error))
            }
        }
    }

    /// Runs on the loaded share partition, in the epoch in which this node leads now.
    fn with<R>(
        &self,
        state: &BrokerState,
        run: impl FnOnce(&mut Loaded) -> Result<R, ErrorCode>,
    ) -> Result<R, ErrorCode> {
        let leader_epoch = self.partition.led_epoch().ok_or(ErrorCode::NotLeaderOrFollower)?;
        let mut slot = self.loaded.lock();
        let loaded = match slot.take() {
            Some(loaded) if loaded.leader_epoch == leader_epoch => Ok(loaded),
            _ => self.load(state, leader_epoch),
        };
        let result = loaded.and_then(|loaded| run(slot.insert(loaded)));
        if slot.as_ref().is_some_and(|loaded| loaded.is_fenced) {
            *slot = None;
        }
        result.map_err(to_client)
    }

    fn load(&self, state: &BrokerState, leader_epoch: i32) -> Result<Loaded, ErrorCode> {
        let settings = GroupSettings::of(state, &self.key.group);
        let read = change(state, &self.key, |coordinator, _| coordinator.read(&self.key, leader_epoch));
        let (recorded, _) = read.map_err(uninitialized)?;
        let state_epoch = recorded.state_epoch;
        if recorded.start_offset >= 0 {
            let core = SharePartition::new(recorded.start_offset, &recorded.batches(), limits(&settings));
            return Ok(Loaded { leader_epoch, state_epoch, core, is_fenced: false });
        }
        let start_offset = self.first_offset(state, &settings)?;
        // On record at once, so that a restart before the first acknowledgement passes nothing over.
        let write = Write {
            state_epoch,
            leader_epoch,
            start_offset,
            delivery_complete_count: 0,
            batches: Vec::new(),
        };
        change(state, &self.key, |coordinator, now_ms| {
            Ok((Some(coordinator.write(&self.key, &write, now_ms)?), ()))
        })?;
        let core = SharePartition::new(start_offset, &[], limits(&settings));
        Ok(Loaded { leader_epoch, state_epoch, core, is_fenced: false })
    }

    /// Where a group begins that never read the partition (`share.auto.offset.reset`).
    fn first_offset(&self, state: &BrokerState, settings: &GroupSettings) -> Result<i64, ErrorCode> {
        let log = self.partition.lock()?;
        Ok(match settings.auto_offset_reset {
            OffsetReset::Latest => log.high_watermark(),
            OffsetReset::Earliest => log.log_start_offset(),
            OffsetReset::ByDuration(duration) => {
                let duration = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
                let from = state.clock.now_ms().saturating_sub(duration);
                log.by_timestamp(from, log.high_watermark())?
                    .map_or(log.high_watermark(), |found| found.offset)
            }
        })
    }

    /// The log's batches from the next fetch offset on: those that all replicas in sync have, and with `is_committed`
    /// those whose transactions have ended.
    fn read(
        &self,
        loaded: &mut Loaded,
        max_bytes: usize,
        is_committed: bool,
    ) -> Result<Vec<(LogBatch, Bytes)>, ErrorCode> {
        let offset = loaded.core.next_fetch_offset();
        let log = self.partition.lock()?;
        let end = log.readable_end(is_committed);
        if offset >= end {
            return Ok(Vec::new());
        }
        let mut batches = Vec::new();
        for mut bytes in log.read_before(offset, end, max_bytes, true)? {
            loop {
                let rest = bytes.clone();
                let Ok(Some(batch)) = RecordBatch::split_from(&mut bytes) else { break };
                batches.push((batch, rest.slice(..rest.len() - bytes.len())));
            }
        }
        let next = batches.last().map_or(offset, |(batch, _)| batch.next_offset());
        let aborted = if is_committed { log.aborted_between(offset, next) } else { Vec::new() };
        drop(log);
        let is_aborted = |batch: &RecordBatch| {
            let within = |txn: &AbortedTxn| {
                txn.producer_id == batch.producer_id()
                    && (txn.first_offset..=txn.last_offset).contains(&batch.base_offset())
            };
            batch.is_transactional() && !batch.is_control() && aborted.iter().any(within)
        };
        let placed = |(batch, bytes): (RecordBatch, Bytes)| {
            let (base_offset, last_offset) = (batch.base_offset(), batch.last_offset());
            (LogBatch { base_offset, last_offset, is_aborted: is_aborted(&batch) }, bytes)
        };
        Ok(batches.into_iter().map(placed).collect())
    }
}

fn limits(settings: &GroupSettings) -> Limits {
    Limits {
        delivery_count: settings.delivery_count_limit,
        record_locks: settings.record_locks,
        lock_duration: settings.lock_duration,
    }
}

/// What the share coordinator says when it has no such state: the group coordinator has not heard yet of a member that
/// subscribes to the topic, or the group's offsets were deleted.
fn uninitialized(error: ErrorCode) -> ErrorCode {
    if error == ErrorCode::InvalidRequest { ErrorCode::UnknownTopicOrPartition } else { error }
}

/// What members are told of a failure of the share coordinator (`SharePartition.fetchPersisterError`).
fn to_client(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::NotCoordinator | ErrorCode::CoordinatorLoadInProgress => {
            ErrorCode::CoordinatorNotAvailable
        }
        ErrorCode::FencedLeaderEpoch | ErrorCode::FencedStateEpoch => ErrorCode::NotLeaderOrFollower,
        error => error,
    }
}

/// Keeps a waiter in the lists of a share partition.
pub(crate) struct ShareRegistration {
    _appends: crate::partition::Registration,
    shared: Arc<Shared>,
    waiter: Arc<Waiter>,
}

impl Drop for ShareRegistration {
    fn drop(&mut self) {
        self.shared.waiters.remove(&self.waiter);
    }
}
