//! What a log remembers of its idempotent producers, so that a resent batch is recognised and a gap is refused.
//!
//! The rules are Kafka's (`ProducerStateEntry`, `ProducerAppendInfo`): the last five batches of each producer are known; a
//! batch with the same epoch, first and last sequence as one of them is a duplicate; anything else must follow the last
//! sequence exactly. The snapshot file is Kafka's too (`ProducerStateManager`): version 1, CRC-32C, then entries.

use std::collections::VecDeque;

use bytes::{Buf, BufMut};
use crc32c::crc32c;
use kafka_wire::record_batch::{RecordBatch, add_to_sequence};
use rustc_hash::FxHashMap;

use super::transactions::{AbortedTxn, Marker, Unstable};

/// Five, because a producer has at most five batches in flight (`ProducerStateEntry.NUM_BATCHES_TO_RETAIN`).
const REMEMBERED_BATCHES: usize = 5;

const SNAPSHOT_VERSION: i16 = 1;
const SNAPSHOT_ENTRY_BYTES: usize = 8 + 2 + 4 + 8 + 4 + 8 + 4 + 8;

/// A batch as its producer's duplicates are recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KnownBatch {
    pub(super) first_sequence: i32,
    pub(super) last_sequence: i32,
    pub(super) base_offset: i64,
    pub(super) last_offset: i64,
    pub(super) timestamp: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Producer {
    epoch: i16,
    batches: VecDeque<KnownBatch>,
    last_timestamp: i64,
    /// When the last batch was appended, by the broker's clock; its own time may be years back.
    seen_ms: i64,
    /// The epoch of the coordinator that ended its last transaction; -1: none did.
    coordinator_epoch: i32,
    /// Where its open transaction begins in this log.
    txn_first_offset: Option<i64>,
}

impl Producer {
    fn new(epoch: i16, timestamp: i64, seen_ms: i64) -> Self {
        Self {
            epoch,
            batches: VecDeque::with_capacity(REMEMBERED_BATCHES),
            last_timestamp: timestamp,
            seen_ms,
            coordinator_epoch: -1,
            txn_first_offset: None,
        }
    }

    fn bump_to(&mut self, epoch: i16) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.batches.clear();
        }
    }
}

/// A producer as DescribeProducers shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ActiveProducer {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
    /// -1: it wrote nothing in this epoch.
    pub(crate) last_sequence: i32,
    pub(crate) last_timestamp: i64,
    pub(crate) coordinator_epoch: i32,
    pub(crate) txn_first_offset: Option<i64>,
}

/// What a producer's batch is to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Next,
    Duplicate(KnownBatch),
}

/// Why a producer's batch is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SequenceError {
    #[error("producer {producer_id} sent sequence {found}, expected {expected}")]
    OutOfOrder { producer_id: i64, found: i32, expected: i32 },
    #[error("producer {producer_id} has epoch {found}, the log knows {current}")]
    Fenced { producer_id: i64, found: i16, current: i16 },
    #[error("producer {producer_id} wrote outside of its transaction, which is open")]
    OutsideOfTransaction { producer_id: i64 },
    #[error(
        "the coordinator did not confirm that the partition is in the transaction of producer {producer_id}"
    )]
    Unverified { producer_id: i64 },
    #[error("a marker for producer {producer_id} is of coordinator epoch {found}, the log knows {current}")]
    CoordinatorFenced { producer_id: i64, found: i32, current: i32 },
}

/// All producers that wrote to a log.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct ProducerState {
    producers: FxHashMap<i64, Producer>,
    unstable: Unstable,
}

impl ProducerState {
    /// What an idempotent batch is, before it is appended.
    ///
    /// `guard` is what [`guard`](Self::guard) gave before the coordinator confirmed the transaction.
    pub(super) fn check(&self, batch: &RecordBatch, guard: Option<u64>) -> Result<Verdict, SequenceError> {
        let verdict = self.check_sequence(batch)?;
        if verdict == Verdict::Next {
            self.check_transaction(batch, guard)?;
        }
        Ok(verdict)
    }

    pub(super) fn check_transaction(
        &self,
        batch: &RecordBatch,
        guard: Option<u64>,
    ) -> Result<(), SequenceError> {
        let producer_id = batch.producer_id();
        if producer_id < 0 {
            return Ok(());
        }
        let producer = self.producers.get(&producer_id);
        let is_open = producer.is_some_and(|producer| producer.txn_first_offset.is_some());
        let goes_on = is_open && producer.is_some_and(|producer| producer.epoch == batch.producer_epoch());
        match batch.is_transactional() {
            true if goes_on => Ok(()),
            // A marker since the coordinator was asked would leave the transaction without an end.
            true if guard.is_some_and(|guard| self.unstable.is_guarded(producer_id, guard)) => Ok(()),
            true => Err(SequenceError::Unverified { producer_id }),
            false if is_open => Err(SequenceError::OutsideOfTransaction { producer_id }),
            false => Ok(()),
        }
    }

    /// What to show at the first write of a transaction, once the coordinator has confirmed it; `None`: the transaction
    /// has begun here, nobody need be asked (KIP-890).
    pub(super) fn guard(&mut self, producer_id: i64, epoch: i16) -> Option<u64> {
        let producer = self.producers.get(&producer_id);
        let is_open = producer.is_some_and(|it| it.txn_first_offset.is_some() && it.epoch == epoch);
        (!is_open).then(|| self.unstable.guard(producer_id))
    }

    /// Whether a coordinator may write this marker. `bumps`: each transaction has an epoch of its own, so a marker of an
    /// open one's epoch is late (transaction version 2, `ProducerAppendInfo.checkProducerEpoch`).
    pub(super) fn check_marker(&self, batch: &RecordBatch, bumps: bool) -> Result<(), SequenceError> {
        let Ok(Some(marker)) = Marker::of(batch) else { return Ok(()) };
        let producer_id = batch.producer_id();
        let Some(producer) = self.producers.get(&producer_id) else { return Ok(()) };
        let (found, current) = (batch.producer_epoch(), producer.epoch);
        let is_late = bumps && found == current && producer.txn_first_offset.is_some();
        if found < current || is_late {
            return Err(SequenceError::Fenced { producer_id, found, current });
        }
        let (found, current) = (marker.coordinator_epoch, producer.coordinator_epoch);
        if found < current {
            return Err(SequenceError::CoordinatorFenced { producer_id, found, current });
        }
        Ok(())
    }

    fn check_sequence(&self, batch: &RecordBatch) -> Result<Verdict, SequenceError> {
        let (producer_id, epoch) = (batch.producer_id(), batch.producer_epoch());
        let first = batch.base_sequence();
        // A producer that is not known may be one whose state expired: any sequence is taken (KIP-360).
        let Some(producer) = self.producers.get(&producer_id) else {
            return Ok(Verdict::Next);
        };
        if epoch < producer.epoch {
            return Err(SequenceError::Fenced { producer_id, found: epoch, current: producer.epoch });
        }
        if epoch > producer.epoch {
            return match first {
                0 => Ok(Verdict::Next),
                found => Err(SequenceError::OutOfOrder { producer_id, found, expected: 0 }),
            };
        }
        let last = batch.last_sequence();
        let known = producer
            .batches
            .iter()
            .find(|known| (known.first_sequence, known.last_sequence) == (first, last));
        if let Some(&known) = known {
            return Ok(Verdict::Duplicate(known));
        }
        let expected = producer.batches.back().map_or(first, |known| add_to_sequence(known.last_sequence, 1));
        if first == expected {
            Ok(Verdict::Next)
        } else {
            Err(SequenceError::OutOfOrder { producer_id, found: first, expected })
        }
    }

    /// A batch was appended at `now_ms`, or found in the log. Returns the transaction that it aborts.
    pub(super) fn appended(&mut self, batch: &RecordBatch, now_ms: i64) -> Option<AbortedTxn> {
        if batch.producer_id() < 0 {
            return None;
        }
        if batch.is_control() {
            return self.marked(batch, Marker::of(batch).ok().flatten()?, now_ms);
        }
        let (producer_id, epoch) = (batch.producer_id(), batch.producer_epoch());
        let producer = self
            .producers
            .entry(producer_id)
            .or_insert_with(|| Producer::new(epoch, batch.max_timestamp(), now_ms));
        producer.bump_to(epoch);
        if batch.is_transactional() && producer.txn_first_offset.is_none() {
            producer.txn_first_offset = Some(batch.base_offset());
            self.unstable.begin(producer_id, batch.base_offset());
        }
        if producer.batches.len() == REMEMBERED_BATCHES {
            producer.batches.pop_front();
        }
        producer.last_timestamp = batch.max_timestamp();
        producer.seen_ms = producer.seen_ms.max(now_ms);
        producer.batches.push_back(KnownBatch {
            first_sequence: batch.base_sequence(),
            last_sequence: batch.last_sequence(),
            base_offset: batch.base_offset(),
            last_offset: batch.last_offset(),
            timestamp: batch.max_timestamp(),
        });
        None
    }

    /// A marker fences older epochs even where its producer never wrote (`ProducerAppendInfo.appendEndTxnMarker`).
    fn marked(&mut self, batch: &RecordBatch, marker: Marker, now_ms: i64) -> Option<AbortedTxn> {
        let (producer_id, epoch) = (batch.producer_id(), batch.producer_epoch());
        let producer = self
            .producers
            .entry(producer_id)
            .or_insert_with(|| Producer::new(epoch, marker.timestamp, now_ms));
        producer.bump_to(epoch);
        producer.coordinator_epoch = marker.coordinator_epoch;
        producer.last_timestamp = marker.timestamp;
        producer.seen_ms = producer.seen_ms.max(now_ms);
        self.unstable.drop_guard(producer_id);
        let first_offset = producer.txn_first_offset.take()?;
        let last_offset = batch.last_offset();
        self.unstable.end(producer_id, first_offset, last_offset);
        let last_stable_offset = self.unstable.first_open().unwrap_or(last_offset + 1);
        (!marker.is_commit).then_some(AbortedTxn {
            producer_id,
            first_offset,
            last_offset,
            last_stable_offset,
        })
    }

    /// What was known where the log had come to `offset`. Producers that wrote since in the last batches known are left
    /// out: whoever takes those batches learns of them again.
    pub(super) fn before(&self, offset: i64) -> Self {
        let mut before = Self::default();
        for (&producer_id, producer) in &self.producers {
            let mut producer = producer.clone();
            let wrote = !producer.batches.is_empty();
            producer.batches.retain(|batch| batch.last_offset < offset);
            if wrote && producer.batches.is_empty() {
                continue;
            }
            producer.txn_first_offset = producer.txn_first_offset.filter(|&first| first < offset);
            if let Some(first_offset) = producer.txn_first_offset {
                before.unstable.begin(producer_id, first_offset);
            }
            before.producers.insert(producer_id, producer);
        }
        before
    }

    /// The first offset that readers of committed records may not see yet, whatever the high watermark says.
    pub(super) fn first_unstable_offset(&self, high_watermark: i64) -> Option<i64> {
        self.unstable.first_unstable(high_watermark)
    }

    /// The high watermark has moved.
    pub(super) fn settle(&mut self, high_watermark: i64) {
        self.unstable.settle(high_watermark);
    }

    /// Every producer that is known, by id.
    pub(super) fn active(&self) -> Vec<ActiveProducer> {
        let mut active: Vec<_> = self
            .producers
            .iter()
            .map(|(&producer_id, producer)| ActiveProducer {
                producer_id,
                epoch: producer.epoch,
                last_sequence: producer.batches.back().map_or(-1, |last| last.last_sequence),
                last_timestamp: producer.last_timestamp,
                coordinator_epoch: producer.coordinator_epoch,
                txn_first_offset: producer.txn_first_offset,
            })
            .collect();
        active.sort_by_key(|producer| producer.producer_id);
        active
    }

    /// Forgets producers that were silent for `expiration_ms` (`producer.id.expiration.ms`).
    ///
    /// Kafka goes by the records' time alone and so forgets, at the next look, a producer that copies old records.
    pub(super) fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        self.producers.retain(|_, producer| {
            producer.txn_first_offset.is_some()
                || now_ms.saturating_sub(producer.last_timestamp.max(producer.seen_ms)) < expiration_ms
        });
    }

    /// The last offset that each producer wrote.
    pub(super) fn last_offsets(&self) -> FxHashMap<i64, i64> {
        let last = |(&id, producer): (&i64, &Producer)| Some((id, producer.batches.back()?.last_offset));
        self.producers.iter().filter_map(last).collect()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.producers.len()
    }

    /// Kafka's snapshot file; it knows only the last batch of each producer.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut producers: Vec<_> = self.producers.iter().collect();
        producers.sort_by_key(|&(&producer_id, _)| producer_id);
        let mut entries = Vec::with_capacity(4 + producers.len() * SNAPSHOT_ENTRY_BYTES);
        entries.put_i32(producers.len() as i32);
        for (&producer_id, producer) in producers {
            let last = producer.batches.back();
            entries.put_i64(producer_id);
            entries.put_i16(producer.epoch);
            entries.put_i32(last.map_or(-1, |last| last.last_sequence));
            entries.put_i64(last.map_or(-1, |last| last.last_offset));
            entries.put_i32(last.map_or(0, |last| (last.last_offset - last.base_offset) as i32));
            entries.put_i64(producer.last_timestamp);
            entries.put_i32(producer.coordinator_epoch);
            entries.put_i64(producer.txn_first_offset.unwrap_or(-1));
        }
        let mut bytes = Vec::with_capacity(6 + entries.len());
        bytes.put_i16(SNAPSHOT_VERSION);
        bytes.put_u32(crc32c(&entries));
        bytes.extend_from_slice(&entries);
        bytes
    }

    /// `None` unless the bytes are a whole snapshot of this version with a matching checksum.
    pub(super) fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        if bytes.try_get_i16().ok()? != SNAPSHOT_VERSION || bytes.try_get_u32().ok()? != crc32c(bytes) {
            return None;
        }
        let count = usize::try_from(bytes.try_get_i32().ok()?).ok()?;
        if bytes.len() != count.checked_mul(SNAPSHOT_ENTRY_BYTES)? {
            return None;
        }
        let mut state = Self::default();
        for _ in 0..count {
            let producer_id = bytes.get_i64();
            let epoch = bytes.get_i16();
            let last_sequence = bytes.get_i32();
            let last_offset = bytes.get_i64();
            let delta = bytes.get_i32();
            let timestamp = bytes.get_i64();
            let mut producer = Producer::new(epoch, timestamp, timestamp);
            producer.coordinator_epoch = bytes.get_i32();
            producer.txn_first_offset = Some(bytes.get_i64()).filter(|&first| first >= 0);
            if last_offset >= 0 {
                producer.batches.push_back(KnownBatch {
                    first_sequence: first_of(last_sequence, delta),
                    last_sequence,
                    base_offset: last_offset.wrapping_sub(i64::from(delta)),
                    last_offset,
                    timestamp,
                });
            }
            if let Some(first) = producer.txn_first_offset {
                state.unstable.begin(producer_id, first);
            }
            state.producers.insert(producer_id, producer);
        }
        Some(state)
    }
}

/// The first sequence of a batch from its last, across the wrap at `i32::MAX`.
fn first_of(last_sequence: i32, delta: i32) -> i32 {
    let first = i64::from(last_sequence) - i64::from(delta);
    (if first < 0 { first + i64::from(i32::MAX) + 1 } else { first }) as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_wire::record_batch::{BatchBuilder, Seal};

    fn batch(epoch: i16, first: i32, count: i32, offset: i64) -> RecordBatch {
        let mut builder = BatchBuilder::new(128);
        for _ in 0..count {
            builder.append(7, None, None, &[]);
        }
        let mut seal = Seal::idempotent(42, epoch, first);
        seal.base_offset = offset;
        RecordBatch::split_from(&mut builder.finish(&seal).unwrap()).unwrap().unwrap()
    }

    fn known(batches: &[RecordBatch]) -> ProducerState {
        let mut state = ProducerState::default();
        for batch in batches {
            state.appended(batch, 7);
        }
        state
    }

    #[test]
    fn the_last_five_batches_are_recognised_and_older_ones_are_not() {
        let batches: Vec<_> = (0..6).map(|i| batch(0, i * 2, 2, i64::from(i) * 2)).collect();
        let state = known(&batches);
        for old in &batches[1..] {
            let Ok(Verdict::Duplicate(found)) = state.check(old, None) else { panic!("{old:?}") };
            assert_eq!(found.base_offset, old.base_offset());
        }
        assert!(matches!(
            state.check(&batches[0], None),
            Err(SequenceError::OutOfOrder { expected: 12, found: 0, .. })
        ));
        assert_eq!(state.check(&batch(0, 12, 1, 0), None), Ok(Verdict::Next));
        assert!(matches!(state.check(&batch(0, 13, 1, 0), None), Err(SequenceError::OutOfOrder { .. })));
    }

    #[test]
    fn a_new_epoch_begins_at_zero_and_fences_the_old_one() {
        let mut state = known(&[batch(3, 10, 1, 0)]);
        assert!(matches!(
            state.check(&batch(4, 11, 1, 1), None),
            Err(SequenceError::OutOfOrder { expected: 0, .. })
        ));
        assert_eq!(state.check(&batch(4, 0, 1, 1), None), Ok(Verdict::Next));
        state.appended(&batch(4, 0, 1, 1), 7);
        assert!(matches!(
            state.check(&batch(3, 11, 1, 2), None),
            Err(SequenceError::Fenced { found: 3, current: 4, .. })
        ));
    }

    #[test]
    fn sequences_wrap_and_unknown_producers_may_begin_anywhere() {
        assert_eq!(ProducerState::default().check(&batch(0, 77, 1, 0), None), Ok(Verdict::Next));
        let state = known(&[batch(0, i32::MAX - 1, 2, 0)]);
        assert_eq!(state.check(&batch(0, 0, 1, 2), None), Ok(Verdict::Next));
    }

    #[test]
    fn a_snapshot_keeps_each_producers_last_batch_and_damage_is_noticed() {
        let state = known(&[batch(0, 0, 3, 0), batch(0, 3, 2, 3)]);
        let bytes = state.to_bytes();
        let loaded = ProducerState::from_bytes(&bytes).unwrap();
        assert!(
            matches!(loaded.check(&batch(0, 3, 2, 0), None), Ok(Verdict::Duplicate(known)) if known.base_offset == 3)
        );
        assert_eq!(loaded.check(&batch(0, 5, 1, 5), None), Ok(Verdict::Next));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(ProducerState::from_bytes(&damaged), None, "byte {at}");
            assert_eq!(ProducerState::from_bytes(&bytes[..at]), None);
        }
    }
}
