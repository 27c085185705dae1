//! The share coordinator: how far share groups have come, on record in `__share_group_state` (`ShareCoordinatorShard`).
//!
//! A [`ShareCoordinator`] is the state of one partition of that topic. It decides and does not write: a call in, a
//! [`ShareRecord`] and an answer out; the record is appended, then [replayed](ShareCoordinator::replay). [`service`] is
//! the shell around it.

pub(crate) mod record;
pub(crate) mod service;

use std::collections::BTreeMap;

use kafka_wire::ErrorCode;

use self::record::{ShareRecord, Snapshot, Update};
use super::ShareKey;
use super::partition::StateBatch;
use super::runs::Runs;

/// After how many updates everything is written anew (`share.coordinator.snapshot.update.records.per.snapshot`), so that
/// the updates before need not be kept.
const UPDATES_PER_SNAPSHOT: u32 = 500;

/// What is on record of one share partition.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recorded {
    snapshot_epoch: i32,
    pub(crate) state_epoch: i32,
    pub(crate) leader_epoch: i32,
    /// -1: not decided yet.
    pub(crate) start_offset: i64,
    /// -1: not known.
    pub(crate) delivery_complete_count: i32,
    created_at_ms: i64,
    /// State and delivery count, as they are written.
    states: Runs<(i8, i16)>,
    updates: u32,
    /// Where the last snapshot is in the log.
    snapshot_offset: i64,
}

impl Recorded {
    pub(crate) fn batches(&self) -> Vec<StateBatch> {
        let batch = |run: super::runs::Run<&(i8, i16)>| StateBatch {
            first: run.first,
            last: run.last,
            state: run.value.0,
            delivery_count: run.value.1,
        };
        self.states.iter().map(batch).collect()
    }

    fn overlay(&mut self, start_offset: i64, batches: &[StateBatch]) {
        for batch in batches.iter().filter(|batch| batch.first <= batch.last) {
            self.states.set(batch.first, batch.last, (batch.state, batch.delivery_count));
        }
        if start_offset >= 0 {
            self.start_offset = start_offset;
        }
        self.states.clear_below(self.start_offset);
    }

    fn snapshot(&self, now_ms: i64) -> Snapshot {
        Snapshot {
            snapshot_epoch: self.snapshot_epoch.saturating_add(1),
            state_epoch: self.state_epoch,
            leader_epoch: self.leader_epoch,
            start_offset: self.start_offset,
            delivery_complete_count: self.delivery_complete_count,
            created_at_ms: self.created_at_ms,
            written_at_ms: now_ms,
            batches: self.batches(),
        }
    }
}

/// What a leader of a share partition puts on record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Write {
    pub(crate) state_epoch: i32,
    pub(crate) leader_epoch: i32,
    pub(crate) start_offset: i64,
    pub(crate) delivery_complete_count: i32,
    pub(crate) batches: Vec<StateBatch>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct ShareCoordinator {
    states: BTreeMap<ShareKey, Recorded>,
}

impl ShareCoordinator {
    /// Applies a record of the log at `offset`, as it was appended or as it is read back.
    pub(crate) fn replay(&mut self, offset: i64, record: &ShareRecord) {
        match record {
            ShareRecord::Snapshot { key, value: None } => {
                self.states.remove(key);
            }
            ShareRecord::Snapshot { key, value: Some(value) } => {
                let mut recorded = Recorded {
                    snapshot_epoch: value.snapshot_epoch,
                    state_epoch: value.state_epoch,
                    leader_epoch: value.leader_epoch,
                    start_offset: value.start_offset,
                    delivery_complete_count: value.delivery_complete_count,
                    created_at_ms: value.created_at_ms,
                    states: Runs::default(),
                    updates: 0,
                    snapshot_offset: offset,
                };
                recorded.overlay(value.start_offset, &value.batches);
                self.states.insert(key.clone(), recorded);
            }
            ShareRecord::Update { key, value } => {
                let Some(recorded) = self.states.get_mut(key) else { return };
                // One of before the snapshot is in the snapshot.
                if value.snapshot_epoch < recorded.snapshot_epoch {
                    return;
                }
                recorded.leader_epoch = value.leader_epoch;
                recorded.delivery_complete_count = value.delivery_complete_count;
                recorded.overlay(value.start_offset, &value.batches);
                recorded.updates += 1;
            }
        }
    }

    /// What is on record.
    pub(crate) fn get(&self, key: &ShareKey) -> Option<&Recorded> {
        self.states.get(key)
    }

    /// Up to where the log holds nothing that the snapshots do not say.
    pub(crate) fn redundant_below(&self) -> Option<i64> {
        self.states.values().map(|recorded| recorded.snapshot_offset).min()
    }

    /// InitializeShareGroupState: from now on there is a state, which begins at `start_offset` (-1: to be decided by who
    /// reads first). A later state epoch begins anew.
    pub(crate) fn initialize(
        &self,
        key: &ShareKey,
        state_epoch: i32,
        start_offset: i64,
        now_ms: i64,
    ) -> Result<ShareRecord, ErrorCode> {
        let known = self.states.get(key);
        if known.is_some_and(|known| known.state_epoch > state_epoch) {
            return Err(ErrorCode::FencedStateEpoch);
        }
        let value = Snapshot {
            snapshot_epoch: known.map_or(0, |known| known.snapshot_epoch.saturating_add(1)),
            state_epoch,
            // Kafka's default for "nobody has read it".
            leader_epoch: known.map_or(0, |known| known.leader_epoch),
            start_offset,
            delivery_complete_count: if start_offset < 0 { -1 } else { 0 },
            created_at_ms: known.map_or(now_ms, |known| known.created_at_ms),
            written_at_ms: now_ms,
            batches: Vec::new(),
        };
        Ok(ShareRecord::Snapshot { key: key.clone(), value: Some(value) })
    }

    /// ReadShareGroupState: what a new leader of the share partition begins with. From now on leaders of older epochs are
    /// fenced.
    pub(crate) fn read(
        &self,
        key: &ShareKey,
        leader_epoch: i32,
    ) -> Result<(Option<ShareRecord>, Recorded), ErrorCode> {
        let recorded = self.states.get(key).ok_or(ErrorCode::InvalidRequest)?;
        if recorded.leader_epoch > leader_epoch {
            return Err(ErrorCode::FencedLeaderEpoch);
        }
        let record = (recorded.leader_epoch < leader_epoch).then(|| ShareRecord::Update {
            key: key.clone(),
            value: Update {
                snapshot_epoch: recorded.snapshot_epoch,
                leader_epoch,
                start_offset: -1,
                delivery_complete_count: recorded.delivery_complete_count,
                batches: Vec::new(),
            },
        });
        Ok((record, recorded.clone()))
    }

    /// WriteShareGroupState.
    pub(crate) fn write(&self, key: &ShareKey, write: &Write, now_ms: i64) -> Result<ShareRecord, ErrorCode> {
        let recorded = self.states.get(key).ok_or(ErrorCode::InvalidRequest)?;
        if recorded.leader_epoch > write.leader_epoch {
            return Err(ErrorCode::FencedLeaderEpoch);
        }
        if recorded.state_epoch > write.state_epoch {
            return Err(ErrorCode::FencedStateEpoch);
        }
        if recorded.updates < UPDATES_PER_SNAPSHOT {
            let value = Update {
                snapshot_epoch: recorded.snapshot_epoch,
                leader_epoch: write.leader_epoch,
                start_offset: write.start_offset,
                delivery_complete_count: write.delivery_complete_count,
                batches: write.batches.clone(),
            };
            return Ok(ShareRecord::Update { key: key.clone(), value });
        }
        let mut whole = recorded.clone();
        whole.leader_epoch = write.leader_epoch;
        whole.delivery_complete_count = write.delivery_complete_count;
        whole.overlay(write.start_offset, &write.batches);
        Ok(ShareRecord::Snapshot { key: key.clone(), value: Some(whole.snapshot(now_ms)) })
    }

    /// DeleteShareGroupState.
    pub(crate) fn delete(&self, key: &ShareKey) -> Option<ShareRecord> {
        self.states.contains_key(key).then(|| ShareRecord::Snapshot { key: key.clone(), value: None })
    }
}

#[cfg(test)]
mod tests {
    use kafka_wire::Uuid;
    use proptest::prelude::*;

    use super::*;

    fn key() -> ShareKey {
        ShareKey::new("g", Uuid::from_u128(7), 3)
    }

    fn write(start_offset: i64, batches: &[(i64, i64, i8)]) -> Write {
        let batch =
            |&(first, last, state): &(i64, i64, i8)| StateBatch { first, last, state, delivery_count: 1 };
        Write {
            state_epoch: 1,
            leader_epoch: 2,
            start_offset,
            delivery_complete_count: 0,
            batches: batches.iter().map(batch).collect(),
        }
    }

    /// As the shell does, by way of the bytes in the log.
    fn append(coordinator: &mut ShareCoordinator, log: &mut Vec<ShareRecord>, record: ShareRecord) {
        let (key, value) = record.encode().unwrap();
        assert_eq!(ShareRecord::decode(key, value).unwrap().as_ref(), Some(&record));
        coordinator.replay(i64::try_from(log.len()).unwrap(), &record);
        log.push(record);
    }

    fn initialized() -> (ShareCoordinator, Vec<ShareRecord>) {
        let (mut coordinator, mut log) = (ShareCoordinator::default(), Vec::new());
        let record = coordinator.initialize(&key(), 1, 0, 100).unwrap();
        append(&mut coordinator, &mut log, record);
        (coordinator, log)
    }

    #[test]
    fn leaders_of_before_and_states_of_before_are_fenced() {
        let (mut coordinator, mut log) = initialized();
        let (record, _) = coordinator.read(&key(), 2).unwrap();
        append(&mut coordinator, &mut log, record.unwrap());
        assert_eq!(coordinator.read(&key(), 1).unwrap_err(), ErrorCode::FencedLeaderEpoch);
        let mut late = write(5, &[]);
        late.leader_epoch = 1;
        assert_eq!(coordinator.write(&key(), &late, 0), Err(ErrorCode::FencedLeaderEpoch));
        let anew = coordinator.initialize(&key(), 2, 50, 0).unwrap();
        append(&mut coordinator, &mut log, anew);
        assert_eq!(coordinator.write(&key(), &write(5, &[]), 0), Err(ErrorCode::FencedStateEpoch));
        assert_eq!(coordinator.initialize(&key(), 1, 0, 0), Err(ErrorCode::FencedStateEpoch));
        assert_eq!(coordinator.get(&key()).unwrap().start_offset, 50);
    }

    #[test]
    fn what_was_never_initialized_is_neither_read_nor_written() {
        let coordinator = ShareCoordinator::default();
        assert_eq!(coordinator.read(&key(), 0).unwrap_err(), ErrorCode::InvalidRequest);
        assert_eq!(coordinator.write(&key(), &write(0, &[]), 0), Err(ErrorCode::InvalidRequest));
        assert_eq!(coordinator.delete(&key()), None);
    }

    #[test]
    fn a_deleted_state_is_gone() {
        let (mut coordinator, mut log) = initialized();
        let record = coordinator.delete(&key()).unwrap();
        append(&mut coordinator, &mut log, record);
        assert!(coordinator.get(&key()).is_none());
    }

    proptest! {
        #[test]
        fn the_state_is_the_writes_laid_over_one_another_whatever_became_a_snapshot(
            writes in prop::collection::vec((0i64..3, prop::collection::vec((0i64..40, 0i64..6, 0i8..3), 0..3)), 1..8),
            repeats in 1usize..200,
        ) {
            let (mut coordinator, mut log) = initialized();
            let mut model: BTreeMap<i64, i8> = BTreeMap::new();
            let mut start = 0;
            for (by, batches) in writes {
                start += by;
                let batches: Vec<_> =
                    batches.iter().map(|&(first, more, state)| (start + first, start + first + more, state * 2)).collect();
                for _ in 0..repeats {
                    let record = coordinator.write(&key(), &write(start, &batches), 0).unwrap();
                    append(&mut coordinator, &mut log, record);
                }
                for (first, last, state) in batches {
                    model.extend((first..=last).map(|offset| (offset, state)));
                }
                model.retain(|&offset, _| offset >= start);
            }
            let states = |coordinator: &ShareCoordinator| -> BTreeMap<i64, i8> {
                let batches = coordinator.get(&key()).unwrap().batches();
                batches.iter().flat_map(|it| (it.first..=it.last).map(|offset| (offset, it.state))).collect()
            };
            prop_assert_eq!(states(&coordinator), model);
            // From the last snapshot on is enough.
            let from = usize::try_from(coordinator.redundant_below().unwrap()).unwrap();
            prop_assert!(log.len() - from <= UPDATES_PER_SNAPSHOT as usize + 1);
            let mut restarted = ShareCoordinator::default();
            for (offset, record) in log.iter().enumerate().skip(from) {
                restarted.replay(i64::try_from(offset).unwrap(), record);
            }
            prop_assert_eq!(restarted.get(&key()), coordinator.get(&key()));
        }
    }
}
