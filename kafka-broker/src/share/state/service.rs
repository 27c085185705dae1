//! The shell around the share coordinators: it finds the one that is asked for, appends what it decides and replays it.
//!
//! All nodes are in this process, so a leader of a share partition calls the coordinator on whichever node it is, under
//! that coordinator's lock; Kafka sends WriteShareGroupState and its siblings for it (`DefaultStatePersister`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_wire::ErrorCode;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::super::ShareKey;
use super::ShareCoordinator;
use super::record::ShareRecord;
use crate::coordinator_log;
use crate::groups::partition_for;
use crate::partition::{Partition, Uncommitted};
use crate::state::BrokerState;

/// Where the state of share groups rests.
pub(crate) const SHARE_STATE_TOPIC: &str = "__share_group_state";
/// How long an answer waits until the in-sync replicas have what it rests on (`share.coordinator.write.timeout.ms`).
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The share coordinators of this node.
#[derive(Default)]
pub(crate) struct ShareStates {
    shards: Mutex<BTreeMap<i32, Arc<Mutex<Shard>>>>,
}

/// A coordinator with the log it was loaded from.
struct Shard {
    partition: Arc<Partition>,
    /// The leader epoch that it was loaded in.
    epoch: i32,
    coordinator: ShareCoordinator,
    /// The log begins here as far as this coordinator cares.
    pruned_below: i64,
}

/// An append that other replicas may not have yet.
#[derive(Default)]
pub(crate) struct Pending {
    append: Option<(Arc<Partition>, Uncommitted)>,
}

impl Pending {
    /// Waits until all in-sync replicas have it.
    ///
    /// Dropping the future takes nothing back.
    pub(crate) async fn committed(self) -> Result<(), ErrorCode> {
        let Some((partition, append)) = self.append else { return Ok(()) };
        let committed = partition.committed(append, Instant::now() + WRITE_TIMEOUT).await;
        committed.map_err(|_| ErrorCode::CoordinatorNotAvailable)
    }
}

/// Lets the coordinator of a share partition decide, and puts on record what it decided.
///
/// Nothing is awaited, so a caller may hold the share partition's own lock.
pub(crate) fn change<R>(
    state: &BrokerState,
    key: &ShareKey,
    decide: impl FnOnce(&ShareCoordinator, i64) -> Result<(Option<ShareRecord>, R), ErrorCode>,
) -> Result<(R, Pending), ErrorCode> {
    let partition = partition_of(state, key)?;
    let (leader, _) = partition.leader();
    match leader == state.node_id {
        true => state.share_states.change(state, partition.index(), decide),
        false => {
            let node = state.cluster.node(leader).ok_or(ErrorCode::CoordinatorNotAvailable)?;
            node.share_states.change(&node, partition.index(), decide)
        }
    }
}

/// The same, if the coordinator is on this node.
pub(crate) fn change_here<R>(
    state: &BrokerState,
    key: &ShareKey,
    decide: impl FnOnce(&ShareCoordinator, i64) -> Result<(Option<ShareRecord>, R), ErrorCode>,
) -> Result<(R, Pending), ErrorCode> {
    let partition = partition_of(state, key)?;
    state.share_states.change(state, partition.index(), decide)
}

/// The partition in which the state rests.
fn partition_of(state: &BrokerState, key: &ShareKey) -> Result<Arc<Partition>, ErrorCode> {
    let topic = state.topics.by_name(SHARE_STATE_TOPIC).ok_or(ErrorCode::CoordinatorNotAvailable)?;
    let count = i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX);
    let index = partition_for(&key.coordinator_key(), count);
    topic.partition(index).ok_or(ErrorCode::CoordinatorNotAvailable)
}

/// Looks at what is on record of a share partition.
pub(crate) fn read<R>(
    state: &BrokerState,
    key: &ShareKey,
    look: impl FnOnce(Option<&super::Recorded>) -> R,
) -> Result<R, ErrorCode> {
    change(state, key, |coordinator, _| Ok((None, look(coordinator.get(key))))).map(|(looked, _)| looked)
}

impl ShareStates {
    fn change<R>(
        &self,
        state: &BrokerState,
        index: i32,
        decide: impl FnOnce(&ShareCoordinator, i64) -> Result<(Option<ShareRecord>, R), ErrorCode>,
    ) -> Result<(R, Pending), ErrorCode> {
        let partition =
            state.topics.partition(SHARE_STATE_TOPIC, index).ok_or(ErrorCode::CoordinatorNotAvailable)?;
        let epoch = partition.led_epoch().ok_or(ErrorCode::NotCoordinator)?;
        let known = self.shards.lock().get(&index).cloned();
        let shard = match known {
            Some(shard) => shard,
            None => {
                let loaded = Shard::load(Arc::clone(&partition), epoch)?;
                // If another call loaded it as well, the first one in the map counts.
                Arc::clone(self.shards.lock().entry(index).or_insert_with(|| Arc::new(Mutex::new(loaded))))
            }
        };
        let mut shard = shard.lock();
        if !Arc::ptr_eq(&shard.partition, &partition) || shard.epoch != epoch {
            // The topic was deleted and made anew, or another node led it in between.
            *shard = Shard::load(partition, epoch)?;
        }
        let now_ms = state.clock.now_ms();
        let (record, answer) = decide(&shard.coordinator, now_ms)?;
        let pending = match record {
            Some(record) => shard.append(&record, now_ms)?,
            None => Pending::default(),
        };
        Ok((answer, pending))
    }
}

impl Shard {
    fn load(partition: Arc<Partition>, epoch: i32) -> Result<Self, ErrorCode> {
        let mut coordinator = ShareCoordinator::default();
        coordinator_log::replay(&partition, |offset, key, value| {
            let record = ShareRecord::decode(key, value)?;
            record.into_iter().for_each(|record| coordinator.replay(offset, &record));
            Ok(())
        })?;
        Ok(Self { partition, epoch, coordinator, pruned_below: 0 })
    }

    fn append(&mut self, record: &ShareRecord, now_ms: i64) -> Result<Pending, ErrorCode> {
        let appended = coordinator_log::append(&self.partition, std::iter::once(record.encode()), now_ms)?;
        self.coordinator.replay(appended.base_offset, record);
        if matches!(record, ShareRecord::Snapshot { .. }) {
            self.prune();
        }
        let append = self.partition.uncommitted(self.epoch).map_err(|_| ErrorCode::NotCoordinator)?;
        Ok(Pending { append: append.map(|append| (Arc::clone(&self.partition), append)) })
    }

    /// Gives up what the snapshots make redundant (`ShareCoordinatorService.performRecordPruning`).
    fn prune(&mut self) {
        let Some(redundant_below) = self.coordinator.redundant_below() else { return };
        if redundant_below <= self.pruned_below {
            return;
        }
        // What is not committed yet is for the next snapshot to prune.
        if self.partition.delete_records(redundant_below).is_ok() {
            self.pruned_below = redundant_below;
        }
    }
}
