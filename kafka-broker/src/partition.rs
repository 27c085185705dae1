//! One partition on one node: its replica behind a lock, and the calls that wait for its next records.
//!
//! An append runs in the task of the connection that brought it, under the partition's lock. Handing it to an owner
//! task would cost a queue, two wake-ups and a cache line's journey for work that takes a microsecond; the lock is
//! contended only when two connections write one partition at the same moment.
//!
//! Every node has every partition of the cluster: those that it holds no replica of know at least who leads them. A
//! partition with one replica takes no notice of replication: its high watermark is what its log says.

mod copying;
mod reading;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use kafka_wire::error_code::ErrorCode;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use crate::cluster::record::{NO_LEADER, PartitionState};
use crate::config::topic::TopicConfig;
use crate::group_commit::GroupCommit;
use crate::log::{Append, AppendError, Appended, Origin, PartitionLog};
use crate::replica::{Hosted, Place, Replica, Role};
use crate::replication_quota::ThrottledReplicas;
use crate::replicator::Inbox;
use crate::waiter::{WaitList, Waiter};

pub(crate) use copying::Copied;
pub(crate) use reading::Log;

/// A partition as one node sees it.
pub(crate) struct Partition {
    topic: Arc<str>,
    topic_id: Uuid,
    index: i32,
    is_synced_by_time: AtomicBool,
    state: Mutex<State>,
    group_commit: GroupCommit,
    waiters: WaitList,
    /// Told when the high watermark of a partition with several replicas moves, or its leader changes.
    commits: Notify,
}

/// What stands behind the lock.
struct State {
    leader: i32,
    leader_epoch: i32,
    partition_epoch: i32,
    is_led_here: bool,
    min_insync_replicas: usize,
    throttled_leaders: ThrottledReplicas,
    throttled_followers: ThrottledReplicas,
    hosted: Hosted,
    /// Where this node's replicator is told of the partition; known once the controller has spoken of it.
    inbox: Option<Arc<Inbox>>,
}

/// Whose log will do for a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    Leader,
    /// Consumers may read committed records from followers (KIP-392).
    AnyReplica,
}

/// Where an append went.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Written {
    pub(crate) base_offset: i64,
    /// -1 unless the topic's records carry the time of their append.
    pub(crate) log_append_time_ms: i64,
    pub(crate) log_start_offset: i64,
    /// `acks=all` has to wait: other replicas do not have it yet.
    pub(crate) uncommitted: Option<Uncommitted>,
    /// The answer has to wait for a sync.
    pub(crate) unflushed: Option<Unflushed>,
    /// A segment was closed that somebody has to sync.
    pub(crate) has_closed_segment: bool,
}

/// What [`Partition::flushed`] waits for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Unflushed {
    end_offset: i64,
    /// How many bytes become readable by the sync.
    readable: Option<usize>,
}

/// What [`Partition::committed`] waits for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Uncommitted {
    pub(crate) end_offset: i64,
    pub(crate) leader_epoch: i32,
}

/// Why nothing was appended.
#[derive(Debug, Clone)]
pub(crate) struct ProduceError {
    pub(crate) code: ErrorCode,
    pub(crate) message: Option<String>,
    /// Records of the batch, by index, that are to blame (KIP-467).
    pub(crate) record_errors: Vec<(i32, String)>,
}

impl From<ErrorCode> for ProduceError {
    fn from(code: ErrorCode) -> Self {
        Self { code, message: None, record_errors: Vec::new() }
    }
}

/// What a change by the controller did to this node's part in a partition.
#[derive(Default)]
pub(crate) struct Applied {
    /// This node leads it, and did not in this epoch before.
    pub(crate) elected: bool,
    /// This node led it and does not any more, or not in the same epoch.
    pub(crate) resigned: bool,
    /// The log of a replica that is not this node's any more.
    pub(crate) removed: Option<Box<PartitionLog>>,
    /// Whom to tell that there may be more to copy: this node where it follows, and who follows it, for they may have
    /// looked too early: before it led, or while it waited for what the controller makes of another's joining.
    pub(crate) call: Vec<i32>,
}

impl Partition {
    /// A partition that nothing is known of yet but its name.
    pub(crate) fn new(topic: Arc<str>, topic_id: Uuid, index: i32, config: &TopicConfig) -> Self {
        Self {
            topic,
            topic_id,
            index,
            is_synced_by_time: AtomicBool::new(config.flush_ms != i64::MAX),
            state: Mutex::new(State {
                leader: NO_LEADER,
                leader_epoch: -1,
                partition_epoch: -1,
                is_led_here: false,
                min_insync_replicas: min_insync(config),
                throttled_leaders: config.throttled_leaders.clone(),
                throttled_followers: config.throttled_followers.clone(),
                hosted: Hosted::Absent,
                inbox: None,
            }),
            group_commit: GroupCommit::default(),
            waiters: WaitList::default(),
            commits: Notify::new(),
        }
    }

    pub(crate) fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    pub(crate) fn index(&self) -> i32 {
        self.index
    }

    /// Who leads it, in which epoch.
    pub(crate) fn leader(&self) -> (i32, i32) {
        let state = self.state.lock();
        (state.leader, state.leader_epoch)
    }

    /// The epoch in which this node leads it, if it does.
    pub(crate) fn led_epoch(&self) -> Option<i32> {
        let state = self.state.lock();
        state.is_led_here.then_some(state.leader_epoch)
    }

    /// Whether the topic sets `flush.ms`.
    pub(crate) fn is_synced_by_time(&self) -> bool {
        self.is_synced_by_time.load(Ordering::Relaxed)
    }

    /// The topic's configuration changed.
    pub(crate) fn reconfigure(&self, config: &TopicConfig) {
        self.is_synced_by_time.store(config.flush_ms != i64::MAX, Ordering::Relaxed);
        let mut state = self.state.lock();
        state.min_insync_replicas = min_insync(config);
        state.throttled_leaders = config.throttled_leaders.clone();
        state.throttled_followers = config.throttled_followers.clone();
        let Some(replica) = state.replica() else { return };
        replica.log.reconfigure(config.log.clone());
        let end = replica.log.log_end_offset();
        if let Role::Leader(leading) = &mut replica.role
            && let Some(bytes) = leading.core.set_min_insync(min_insync(config), end)
        {
            drop(state);
            self.waiters.appended(bytes);
            self.commits.notify_waiters();
        }
    }

    /// The leader's log, locked.
    pub(crate) fn lock(&self) -> Result<Log<'_>, ErrorCode> {
        self.lock_in_epoch(-1)
    }

    /// The leader's log, locked, if the epoch that a client believes in is ours (KIP-320). Negative: it does not say.
    pub(crate) fn lock_in_epoch(&self, claimed: i32) -> Result<Log<'_>, ErrorCode> {
        self.lock_for(Readers::Leader, claimed)
    }

    /// As [`lock_in_epoch`](Self::lock_in_epoch), for readers who may be content with a follower.
    pub(crate) fn lock_for(&self, readers: Readers, claimed: i32) -> Result<Log<'_>, ErrorCode> {
        let state = self.state.lock();
        let leader_epoch = state.leader_epoch;
        match claimed {
            claimed if claimed < 0 || claimed == leader_epoch => {}
            claimed if claimed < leader_epoch => return Err(ErrorCode::FencedLeaderEpoch),
            _ => return Err(ErrorCode::UnknownLeaderEpoch),
        }
        if !(readers == Readers::AnyReplica && matches!(state.hosted, Hosted::Online(_))) {
            state.leads()?;
        }
        match MutexGuard::try_map(state, State::replica) {
            Ok(replica) => Ok(Log { replica, leader_epoch }),
            Err(_) => Err(ErrorCode::KafkaStorageError),
        }
    }

    /// Appends what a client sent.
    ///
    /// `guard` is what [`guard`](Self::guard) gave before the coordinator confirmed the batch's transaction.
    pub(crate) fn produce(
        &self,
        records: Bytes,
        acks: i16,
        guard: Option<u64>,
        now_ms: i64,
    ) -> Result<Written, ProduceError> {
        self.append_as_leader(records, Origin::Client, acks, guard, now_ms).map(|(_, written)| written)
    }

    /// What the first write of a transaction has to show once its coordinator has confirmed it; `None`: the transaction
    /// has begun here (KIP-890).
    pub(crate) fn guard(&self, producer_id: i64, epoch: i16) -> Result<Option<u64>, ErrorCode> {
        let mut state = self.state.lock();
        state.leads()?;
        let replica = state.replica().ok_or(ErrorCode::KafkaStorageError)?;
        Ok(replica.log.guard(producer_id, epoch))
    }

    /// Appends batches of the broker's own.
    pub(crate) fn append(
        &self,
        records: Bytes,
        origin: Origin,
        guard: Option<u64>,
        now_ms: i64,
    ) -> Result<Appended, ProduceError> {
        self.append_as_leader(records, origin, -1, guard, now_ms).map(|(appended, _)| appended)
    }

    /// Appends the marker of a transaction; what is returned has to be [committed](Self::committed) before the
    /// coordinator may believe in it. `bumps`: the transaction's end has an epoch of its own (KIP-890).
    pub(crate) fn append_marker(
        &self,
        marker: Bytes,
        bumps: bool,
        now_ms: i64,
    ) -> Result<Option<Uncommitted>, ProduceError> {
        let origin = if bumps { Origin::MarkerOfOwnEpoch } else { Origin::Coordinator };
        let (_, written) = self.append_as_leader(marker, origin, -1, None, now_ms)?;
        // Readers of committed records may go on over more than the marker's own bytes.
        self.waiters.wake_all();
        Ok(written.uncommitted)
    }

    /// Appends and wakes who waits for the records: readers, or the followers that have to copy them first.
    fn append_as_leader(
        &self,
        records: Bytes,
        origin: Origin,
        acks: i16,
        guard: Option<u64>,
        now_ms: i64,
    ) -> Result<(Appended, Written), ProduceError> {
        let size_bytes = records.len();
        let mut state = self.state.lock();
        state.leads()?;
        let leader_epoch = state.leader_epoch;
        let replica = state.replica().ok_or(ErrorCode::KafkaStorageError)?;
        if let Role::Leader(leading) = &replica.role
            && acks == -1
            && !leading.core.has_min_insync()
        {
            return Err(ErrorCode::NotEnoughReplicas.into());
        }
        let before = replica.log.log_end_offset();
        let append = Append { leader_epoch, origin, now_ms, guard };
        let appended = match replica.log.append(records, append) {
            // A coordinator's records are applied when this returns, so they are synced here.
            Ok(appended) if appended.flush_due && origin != Origin::Client => {
                replica.log.flush().map(|()| appended).map_err(AppendError::from)
            }
            result => result,
        };
        let appended = match appended {
            Ok(appended) => appended,
            Err(error) => {
                self.resign_if_broken(&state);
                return Err(self.refusal(error));
            }
        };
        let has_closed_segment = replica.log.has_closed_segments_to_flush();
        let hidden = replica.log.high_watermark() <= appended.last_offset;
        let mut readable = (!appended.duplicate).then_some(size_bytes);
        let mut uncommitted = None;
        if let Role::Leader(leading) = &mut replica.role {
            let end_offset = appended.last_offset + 1;
            if !appended.duplicate {
                readable = leading.core.appended(before, end_offset, size_bytes, now_ms);
                leading.inboxes.iter().for_each(|inbox| inbox.push(self.topic_id, self.index));
            }
            if acks == -1 && leading.core.high_watermark() < end_offset {
                uncommitted = Some(Uncommitted { end_offset, leader_epoch });
            }
        }
        replica.settle_transactions();
        drop(state);
        let mut unflushed = (appended.flush_due && origin == Origin::Client)
            .then_some(Unflushed { end_offset: appended.last_offset + 1, readable: None });
        match &mut unflushed {
            Some(unflushed) if hidden => unflushed.readable = readable,
            _ => readable.into_iter().for_each(|size_bytes| self.waiters.appended(size_bytes)),
        }
        let written = Written {
            base_offset: appended.base_offset,
            log_append_time_ms: appended.log_append_time.unwrap_or(-1),
            log_start_offset: appended.log_start_offset,
            uncommitted,
            unflushed,
            has_closed_segment: has_closed_segment && self.group_commit.takes_closed(),
        };
        Ok((appended, written))
    }

    /// Waits until an append is durable, together with whatever else is appended meanwhile.
    pub(crate) async fn flushed(&self, append: Unflushed, may_block: bool) -> Result<(), ErrorCode> {
        self.group_commit.flush(self, append.end_offset, may_block).await?;
        append.readable.into_iter().for_each(|size_bytes| self.waiters.appended(size_bytes));
        Ok(())
    }

    /// Makes closed segments durable.
    pub(crate) async fn flush_closed(&self, may_block: bool) {
        self.group_commit.flush_closed(self, may_block).await;
    }

    fn refusal(&self, error: AppendError) -> ProduceError {
        let code = error.error_code();
        if code == ErrorCode::KafkaStorageError {
            tracing::error!(topic = &*self.topic, partition = self.index, %error, "append failed");
        }
        ProduceError { code, message: Some(error.to_string()), record_errors: error.record_errors().to_vec() }
    }

    /// Waits until all in-sync replicas have an append, the leader changes, or the time is up.
    ///
    /// Dropping the future takes nothing back.
    pub(crate) async fn committed(&self, append: Uncommitted, deadline: Instant) -> Result<(), ErrorCode> {
        loop {
            let mut moved = pin!(self.commits.notified());
            moved.as_mut().enable();
            if let Some(result) = self.is_committed(append) {
                return result;
            }
            if tokio::time::timeout_at(deadline, moved).await.is_err() {
                return Err(ErrorCode::RequestTimedOut);
            }
        }
    }

    /// `checkEnoughReplicasReachOffset`; `None`: not yet.
    pub(crate) fn is_committed(&self, append: Uncommitted) -> Option<Result<(), ErrorCode>> {
        let mut state = self.state.lock();
        if !state.is_led_here || state.leader_epoch != append.leader_epoch {
            return Some(Err(ErrorCode::NotLeaderOrFollower));
        }
        let Some(replica) = state.replica() else { return Some(Err(ErrorCode::KafkaStorageError)) };
        match &replica.role {
            Role::Leader(leading) if leading.core.high_watermark() < append.end_offset => None,
            Role::Leader(leading) if !leading.core.has_min_insync() => {
                Some(Err(ErrorCode::NotEnoughReplicasAfterAppend))
            }
            _ => Some(Ok(())),
        }
    }

    /// What is to be waited for so that everything appended here so far, in that epoch, is committed; `None`: it is.
    pub(crate) fn uncommitted(&self, leader_epoch: i32) -> Result<Option<Uncommitted>, ErrorCode> {
        let mut state = self.state.lock();
        if !state.is_led_here || state.leader_epoch != leader_epoch {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        let replica = state.replica().ok_or(ErrorCode::KafkaStorageError)?;
        let end_offset = replica.log.log_end_offset();
        Ok(match &replica.role {
            Role::Leader(leading) if leading.core.high_watermark() < end_offset => {
                Some(Uncommitted { end_offset, leader_epoch })
            }
            _ => None,
        })
    }

    /// Takes the controller's word on who holds and leads the partition. `open` opens the log of a new replica and says
    /// up to where it is known to be committed.
    pub(crate) fn apply(
        &self,
        change: &PartitionState,
        place: &Place<'_>,
        open: impl FnOnce() -> Option<(PartitionLog, i64)>,
    ) -> Applied {
        let mut state = self.state.lock();
        if matches!(state.hosted, Hosted::Deleted) {
            return Applied::default();
        }
        let mut applied = Applied::default();
        let same_epoch = state.leader_epoch == change.leader_epoch && state.leader == change.leader;
        let led = std::mem::replace(&mut state.is_led_here, change.leader == place.node_id);
        applied.resigned = led && !(same_epoch && state.is_led_here);
        applied.elected = state.is_led_here && !(same_epoch && led);
        state.leader = change.leader;
        state.leader_epoch = change.leader_epoch;
        state.partition_epoch = change.partition_epoch;
        let is_replica = change.replicas.contains(&place.node_id);
        match (&state.hosted, is_replica) {
            (Hosted::Absent, true) => {
                state.hosted = match open() {
                    Some((log, high_watermark)) => Hosted::Online(Replica::new(log, high_watermark)),
                    None => Hosted::Failed,
                };
            }
            (Hosted::Online(_) | Hosted::Failed, false) => {
                if let Hosted::Online(replica) = std::mem::replace(&mut state.hosted, Hosted::Absent) {
                    applied.removed = Some(replica.log);
                }
            }
            _ => {}
        }
        state.inbox = Some((place.inbox)(place.node_id));
        let (min_insync, leads) = (state.min_insync_replicas, state.is_led_here);
        let readable = state.replica().and_then(|it| it.assume(change, same_epoch, min_insync, place));
        self.resign_if_broken(&state);
        drop(state);
        let may_copy = |node: i32| node != change.leader && (node == place.node_id || leads);
        applied.call = change.replicas.iter().copied().filter(|&node| may_copy(node)).collect();
        match same_epoch {
            false => self.waiters.wake_all(),
            true => readable.into_iter().for_each(|bytes| self.waiters.appended(bytes)),
        }
        self.commits.notify_waiters();
        applied
    }

    /// As the leader: moves the log's start to `offset`, or to the high watermark if it is -1; followers do the same.
    /// Returns the log's start.
    pub(crate) fn delete_records(&self, offset: i64) -> Result<i64, ErrorCode> {
        let mut state = self.state.lock();
        state.leads()?;
        let replica = state.replica().ok_or(ErrorCode::KafkaStorageError)?;
        let high_watermark = replica.high_watermark();
        if offset > high_watermark {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        let offset = if offset == -1 { high_watermark } else { offset };
        let start = replica.log.delete_records(offset).map_err(|error| {
            tracing::debug!(topic = &*self.topic, partition = self.index, %error, "records not deleted");
            error.error_code()
        })?;
        if let Role::Leader(leading) = &replica.role {
            leading.inboxes.iter().for_each(|inbox| inbox.push(self.topic_id, self.index));
        }
        Ok(start)
    }

    /// As the leader: waits until records before `offset` are deleted on every replica whose node is there, and returns up
    /// to where they are (`DelayedDeleteRecords`).
    ///
    /// Dropping the future takes nothing back.
    pub(crate) async fn deleted(
        &self,
        offset: i64,
        is_live: impl Fn(i32) -> bool,
        deadline: Instant,
    ) -> Result<i64, ErrorCode> {
        loop {
            let mut moved = pin!(self.commits.notified());
            moved.as_mut().enable();
            let low_watermark = self.low_watermark(&is_live)?;
            if low_watermark >= offset {
                return Ok(low_watermark);
            }
            if tokio::time::timeout_at(deadline, moved).await.is_err() {
                return Err(ErrorCode::RequestTimedOut);
            }
        }
    }

    fn low_watermark(&self, is_live: impl Fn(i32) -> bool) -> Result<i64, ErrorCode> {
        let mut state = self.state.lock();
        state.leads()?;
        let replica = state.replica().ok_or(ErrorCode::KafkaStorageError)?;
        let log_start_offset = replica.log.log_start_offset();
        Ok(match &replica.role {
            Role::Leader(leading) => leading.core.low_watermark(log_start_offset, is_live),
            _ => log_start_offset,
        })
    }

    /// How many bytes of records this node's replica holds, if it has one.
    pub(crate) fn size_bytes(&self) -> Option<u64> {
        self.state.lock().replica().map(|replica| replica.log.size_bytes())
    }

    /// Up to where this replica knows its records to be committed.
    pub(crate) fn high_watermark(&self) -> Option<i64> {
        self.state.lock().replica().map(|replica| replica.high_watermark())
    }

    /// Wakes `waiter` on appends until the registration is dropped.
    pub(crate) fn register(self: &Arc<Self>, waiter: &Arc<Waiter>) -> Registration {
        self.waiters.add(waiter);
        Registration { partition: Arc::clone(self), waiter: Arc::clone(waiter) }
    }

    /// Takes the log away because the topic was deleted; calls that wait are answered.
    pub(crate) fn delete(&self) -> Option<Box<PartitionLog>> {
        self.leave(Hosted::Deleted)
    }

    /// Takes the log away because the node stops.
    pub(crate) fn take(&self) -> Option<Box<PartitionLog>> {
        self.leave(Hosted::Failed)
    }

    fn leave(&self, instead: Hosted) -> Option<Box<PartitionLog>> {
        let hosted = std::mem::replace(&mut self.state.lock().hosted, instead);
        self.waiters.wake_all();
        self.commits.notify_waiters();
        match hosted {
            Hosted::Online(replica) => Some(replica.log),
            Hosted::Absent | Hosted::Failed | Hosted::Deleted => None,
        }
    }

    /// Whether a replica of it is on this node, whatever its state.
    pub(crate) fn is_hosted(&self) -> bool {
        matches!(self.state.lock().hosted, Hosted::Online(_) | Hosted::Failed)
    }

    /// Runs work that is not a client's on the log, if there is one.
    pub(crate) fn maintain<R>(&self, work: impl FnOnce(&mut PartitionLog) -> R) -> Option<R> {
        self.maintain_committed(|log, _| work(log))
    }

    /// The same, for work that has to know up to where the log is committed.
    pub(crate) fn maintain_committed<R>(&self, work: impl FnOnce(&mut PartitionLog, i64) -> R) -> Option<R> {
        let mut state = self.state.lock();
        let done = state.replica().map(|replica| {
            let high_watermark = replica.high_watermark();
            work(&mut replica.log, high_watermark)
        });
        self.resign_if_broken(&state);
        done
    }

    /// Whether this node's replica has a log that is given up: it should not lead, nor count as in sync.
    pub(crate) fn is_broken(&self) -> bool {
        self.state.lock().is_broken()
    }

    /// Lets this node's replicator tell the controller.
    fn resign_if_broken(&self, state: &State) {
        if let Some(inbox) = state.inbox.as_ref().filter(|_| state.is_broken()) {
            inbox.push(self.topic_id, self.index);
        }
    }

    /// `topic-index`, as Kafka names the partition in logs and folders.
    pub(crate) fn name(&self) -> String {
        format!("{}-{}", self.topic, self.index)
    }
}

fn min_insync(config: &TopicConfig) -> usize {
    usize::try_from(config.min_insync_replicas).unwrap_or(1)
}

impl State {
    fn replica(&mut self) -> Option<&mut Replica> {
        match &mut self.hosted {
            Hosted::Online(replica) => Some(replica),
            Hosted::Absent | Hosted::Failed | Hosted::Deleted => None,
        }
    }

    fn is_broken(&self) -> bool {
        match &self.hosted {
            Hosted::Online(replica) => replica.log.is_offline(),
            Hosted::Failed => true,
            Hosted::Absent | Hosted::Deleted => false,
        }
    }

    /// Whether clients are in the right place.
    fn leads(&self) -> Result<(), ErrorCode> {
        match self.hosted {
            Hosted::Deleted => Err(ErrorCode::UnknownTopicOrPartition),
            _ if self.is_led_here => Ok(()),
            _ => Err(ErrorCode::NotLeaderOrFollower),
        }
    }
}

/// Keeps a waiter in a partition's list.
pub(crate) struct Registration {
    partition: Arc<Partition>,
    waiter: Arc<Waiter>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.partition.waiters.remove(&self.waiter);
    }
}
