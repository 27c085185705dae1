//! The shell around the transaction coordinators: it finds the one that is asked for, appends what it decides and
//! replays it, and lets time pass.
//!
//! All nodes are in this process, so a partition's leader asks the coordinator on whichever node it is, under that
//! coordinator's lock; Kafka sends AddPartitionsToTxn for it (`AddPartitionsToTxnManager`).

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use kafka_wire::ErrorCode;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::{Coordinator, Ending, Step, TransactionRecord, markers};
use crate::config::broker::BrokerConfig;
use crate::coordinator_log;
use crate::groups::partition_for;
use crate::partition::{Partition, Uncommitted};
use crate::state::BrokerState;

/// Where transactional ids rest.
pub(crate) const TRANSACTIONS_TOPIC: &str = "__transaction_state";
/// How long a call waits for the end of the transaction before it, which usually takes less than a round trip
/// (`add.partitions.to.txn.retry.backoff.max.ms`).
const CONCURRENT_TIMEOUT: Duration = Duration::from_millis(100);
/// How long an answer waits until the in-sync replicas have what it rests on.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The transaction coordinators of this node.
pub(crate) struct Transactions {
    pub(crate) max_timeout_ms: i32,
    expiration_ms: i64,
    check_interval: Duration,
    shards: Mutex<BTreeMap<i32, Arc<Mutex<Shard>>>>,
    /// Partitions that this node came to lead and whose coordinators are to be loaded.
    elected: Mutex<BTreeSet<i32>>,
    /// Transactional ids whose partitions are to be told how their transactions end.
    ending: Mutex<BTreeSet<String>>,
    woken: Notify,
    /// A transaction has come to its end.
    over: Notify,
}

/// A coordinator with the log it was loaded from.
struct Shard {
    partition: Arc<Partition>,
    /// The leader epoch that it was loaded in, which is the coordinator's epoch.
    epoch: i32,
    coordinator: Coordinator,
}

/// A record that other replicas may not have yet.
#[must_use = "nothing may rest on the record before it is committed"]
pub(crate) struct Pending(Option<(Arc<Partition>, Uncommitted)>);

impl Pending {
    /// Waits until all in-sync replicas have it.
    ///
    /// Dropping the future takes nothing back.
    pub(crate) async fn committed(self) -> Result<(), ErrorCode> {
        let Some((partition, append)) = self.0 else { return Ok(()) };
        let committed = partition.committed(append, Instant::now() + WRITE_TIMEOUT).await;
        committed.map_err(|code| match code {
            ErrorCode::NotLeaderOrFollower => ErrorCode::NotCoordinator,
            _ => ErrorCode::CoordinatorNotAvailable,
        })
    }
}

impl Transactions {
    pub(crate) fn new(config: &BrokerConfig) -> Self {
        let interval_ms = config.transaction_abort_interval_ms();
        Self {
            max_timeout_ms: config.transaction_max_timeout_ms(),
            expiration_ms: config.transactional_id_expiration_ms().into(),
            check_interval: Duration::from_millis(u64::try_from(interval_ms).unwrap_or(1).max(1)),
            shards: Mutex::default(),
            elected: Mutex::default(),
            ending: Mutex::default(),
            woken: Notify::new(),
            over: Notify::new(),
        }
    }

    /// Loads every coordinator whose partition is led here, so that transactions end without being asked for.
    pub(crate) fn load_all(&self, state: &BrokerState) {
        self.elected.lock().extend(0..partition_count(state));
        self.woken.notify_one();
    }

    /// This node leads a coordinator's partition from now on, or does not any more.
    pub(crate) fn leader_changed(&self, index: i32, is_elected: bool) {
        drop(self.shards.lock().remove(&index));
        if is_elected {
            self.elected.lock().insert(index);
            self.woken.notify_one();
        }
    }

    /// Lets the coordinator of a transactional id decide, and puts on record what it decided. The answer may be given once
    /// the record is committed.
    fn change<T>(
        &self,
        state: &BrokerState,
        id: &str,
        decide: impl FnOnce(&Coordinator, i64) -> Result<Step<T>, ErrorCode>,
    ) -> Result<(T, Pending), ErrorCode> {
        self.with_shard(state, partition_for(id, partition_count(state)), |shard| {
            let now_ms = state.clock.now_ms();
            let step = decide(&shard.coordinator, now_ms)?;
            if let Some(record) = step.record {
                self.write(shard, &[record], now_ms)?;
            }
            Ok((step.answer, shard.pending()?))
        })?
    }

    /// Looks at the coordinator of a transactional id.
    pub(crate) fn read<R>(
        &self,
        state: &BrokerState,
        id: &str,
        look: impl FnOnce(&Coordinator) -> R,
    ) -> Result<R, ErrorCode> {
        let index = partition_for(id, partition_count(state));
        self.with_shard(state, index, |shard| look(&shard.coordinator))
    }

    /// Looks at every coordinator of this node in turn.
    pub(crate) fn read_all<R>(&self, state: &BrokerState, mut look: impl FnMut(&Coordinator) -> R) -> Vec<R> {
        let looked = (0..partition_count(state))
            .map(|index| self.with_shard(state, index, |shard| look(&shard.coordinator)));
        looked.filter_map(Result::ok).collect()
    }

    /// How a transaction ends, with its coordinator's epoch, once that is on record everywhere it has to be.
    pub(super) async fn ending(
        &self,
        state: &BrokerState,
        id: &str,
    ) -> Result<Option<(Ending, i32)>, ErrorCode> {
        let index = partition_for(id, partition_count(state));
        let (ending, epoch, pending) = self.with_shard(state, index, |shard| {
            Ok::<_, ErrorCode>((shard.coordinator.ending(id), shard.epoch, shard.pending()?))
        })??;
        pending.committed().await?;
        Ok(ending.map(|ending| (ending, epoch)))
    }

    /// All partitions know.
    pub(super) fn complete(&self, state: &BrokerState, id: &str, ending: &Ending) -> Result<(), ErrorCode> {
        self.with_shard(state, partition_for(id, partition_count(state)), |shard| {
            let now_ms = state.clock.now_ms();
            match shard.coordinator.complete(id, ending, now_ms) {
                Some(record) => self.write(shard, &[record], now_ms),
                None => Ok(()),
            }
        })??;
        self.over.notify_waiters();
        Ok(())
    }

    fn write(&self, shard: &mut Shard, records: &[TransactionRecord], now_ms: i64) -> Result<(), ErrorCode> {
        coordinator_log::append(&shard.partition, records.iter().map(TransactionRecord::encode), now_ms)?;
        for record in records {
            shard.coordinator.replay(record);
            if shard.coordinator.ending(&record.id).is_some() {
                self.ending.lock().insert(record.id.clone());
                self.woken.notify_one();
            }
        }
        Ok(())
    }

    fn with_shard<R>(
        &self,
        state: &BrokerState,
        index: i32,
        run: impl FnOnce(&mut Shard) -> R,
    ) -> Result<R, ErrorCode> {
        // The topic is made by the first FindCoordinator.
        let partition =
            state.topics.partition(TRANSACTIONS_TOPIC, index).ok_or(ErrorCode::CoordinatorNotAvailable)?;
        let epoch = partition.led_epoch().ok_or(ErrorCode::NotCoordinator)?;
        let known = self.shards.lock().get(&index).cloned();
        let shard = match known {
            Some(shard) => shard,
            None => {
                let loaded = self.load(partition.clone(), epoch)?;
                // If another call loaded it as well, the first one in the map counts.
                Arc::clone(self.shards.lock().entry(index).or_insert_with(|| Arc::new(Mutex::new(loaded))))
            }
        };
        let mut shard = shard.lock();
        if !Arc::ptr_eq(&shard.partition, &partition) || shard.epoch != epoch {
            *shard = self.load(partition, epoch)?;
        }
        Ok(run(&mut shard))
    }

    fn load(&self, partition: Arc<Partition>, epoch: i32) -> Result<Shard, ErrorCode> {
        let mut coordinator = Coordinator::default();
        coordinator_log::replay(&partition, |_, key, value| {
            TransactionRecord::decode(key, value)?.iter().for_each(|record| coordinator.replay(record));
            Ok(())
        })?;
        // Some of their partitions may know already; they are told once more, as in Kafka.
        self.ending.lock().extend(coordinator.endings().map(str::to_owned));
        self.woken.notify_one();
        Ok(Shard { partition, epoch, coordinator })
    }

    /// Loads what this node came to lead, and does what is due.
    fn tick(&self, state: &BrokerState, is_check: bool) {
        let elected = std::mem::take(&mut *self.elected.lock());
        for index in elected {
            match self.with_shard(state, index, |_| ()) {
                Ok(()) | Err(ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable) => {}
                Err(error) => {
                    tracing::error!(partition = index, %error, "transaction coordinator not loaded");
                }
            }
        }
        if !is_check {
            return;
        }
        let indexes: Vec<i32> = self.shards.lock().keys().copied().collect();
        for index in indexes {
            let expired = self.with_shard(state, index, |shard| {
                let now_ms = state.clock.now_ms();
                let due = shard.coordinator.expire(self.expiration_ms, now_ms);
                if due.is_empty() { Ok(()) } else { self.write(shard, &due, now_ms) }
            });
            if let Ok(Err(error)) | Err(error) = expired {
                tracing::warn!(partition = index, %error, "transactions that are due were not ended");
            }
        }
    }
}

impl Shard {
    fn pending(&self) -> Result<Pending, ErrorCode> {
        let append = self.partition.uncommitted(self.epoch).map_err(|_| ErrorCode::NotCoordinator)?;
        Ok(Pending(append.map(|append| (Arc::clone(&self.partition), append))))
    }
}

/// Puts a question of a partition's leader to the coordinator, on whichever node it is: see [`change`].
pub(crate) async fn ask<T>(
    state: &Arc<BrokerState>,
    id: &str,
    decide: impl FnMut(&Coordinator, i64) -> Result<Step<T>, ErrorCode>,
) -> Result<T, ErrorCode> {
    change(&coordinator(state, id)?, id, decide).await
}

/// Lets this node's coordinator decide, and waits until that is on record everywhere it has to be. Where the transaction
/// before is still being ended, it waits for that first, though not for long, and has it decide again.
///
/// Dropping the future takes nothing back.
pub(crate) async fn change<T>(
    state: &Arc<BrokerState>,
    id: &str,
    mut decide: impl FnMut(&Coordinator, i64) -> Result<Step<T>, ErrorCode>,
) -> Result<T, ErrorCode> {
    let deadline = Instant::now() + CONCURRENT_TIMEOUT;
    loop {
        let mut over = pin!(state.transactions.over.notified());
        // Before it decides, so that no end is missed.
        over.as_mut().enable();
        match state.transactions.change(state, id, &mut decide) {
            Ok((answer, pending)) => return pending.committed().await.map(|()| answer),
            Err(ErrorCode::ConcurrentTransactions) if timeout_at(deadline, over).await.is_ok() => {}
            Err(code) => return Err(code),
        }
    }
}

/// The node of a transactional id's coordinator.
fn coordinator(state: &Arc<BrokerState>, id: &str) -> Result<Arc<BrokerState>, ErrorCode> {
    let index = partition_for(id, partition_count(state));
    let partition =
        state.topics.partition(TRANSACTIONS_TOPIC, index).ok_or(ErrorCode::CoordinatorNotAvailable)?;
    match partition.leader().0 {
        leader if leader == state.node_id => Ok(Arc::clone(state)),
        leader => state.cluster.node(leader).ok_or(ErrorCode::CoordinatorNotAvailable),
    }
}

/// Ends transactions and lets time pass. Runs until it is aborted.
pub(crate) async fn run(state: Arc<BrokerState>) {
    let transactions = &state.transactions;
    let mut telling: JoinSet<String> = JoinSet::new();
    let mut told: BTreeSet<String> = BTreeSet::new();
    let mut check_at = Instant::now() + transactions.check_interval;
    loop {
        let is_check = tokio::select! {
            biased;
            Some(done) = telling.join_next(), if !telling.is_empty() => {
                if let Ok(id) = done {
                    told.remove(&id);
                }
                false
            }
            () = transactions.woken.notified() => false,
            () = tokio::time::sleep_until(check_at) => true,
        };
        if is_check {
            check_at = Instant::now() + transactions.check_interval;
        }
        transactions.tick(&state, is_check);
        // One at a time for each id: what comes meanwhile waits for its turn.
        let due: Vec<String> = {
            let mut ending = transactions.ending.lock();
            let due = ending.iter().filter(|id| !told.contains(*id)).cloned().collect::<Vec<_>>();
            due.iter().for_each(|id| {
                ending.remove(id);
            });
            due
        };
        for id in due {
            told.insert(id.clone());
            let state = Arc::clone(&state);
            telling.spawn(async move {
                markers::tell(&state, &id).await;
                id
            });
        }
    }
}

fn partition_count(state: &BrokerState) -> i32 {
    let topic = state.topics.by_name(TRANSACTIONS_TOPIC);
    topic.map_or(0, |topic| i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX))
}
