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
}

/// All producers that wrote to a log.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct ProducerState {
    producers: FxHashMap<i64, Producer>,
}

impl ProducerState {
    /// What an idempotent batch is, before it is appended.
    pub(super) fn check(&self, batch: &RecordBatch) -> Result<Verdict, SequenceError> {
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

    /// A batch was appended at `now_ms`, or found in the log.
    pub(super) fn appended(&mut self, batch: &RecordBatch, now_ms: i64) {
        if batch.producer_id() < 0 || batch.is_control() {
            return;
        }
        let producer = self.producers.entry(batch.producer_id()).or_insert_with(|| Producer {
            epoch: batch.producer_epoch(),
            batches: VecDeque::with_capacity(REMEMBERED_BATCHES),
            last_timestamp: batch.max_timestamp(),
            seen_ms: now_ms,
        });
        if producer.epoch != batch.producer_epoch() {
            producer.epoch = batch.producer_epoch();
            producer.batches.clear();
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
    }

    /// Forgets producers that were silent for `expiration_ms` (`producer.id.expiration.ms`).
    ///
    /// Kafka goes by the records' time alone and so forgets, at the next look, a producer that copies old records.
    pub(super) fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        self.producers.retain(|_, producer| {
            now_ms.saturating_sub(producer.last_timestamp.max(producer.seen_ms)) < expiration_ms
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
            let Some(last) = producer.batches.back() else { continue };
            entries.put_i64(producer_id);
            entries.put_i16(producer.epoch);
            entries.put_i32(last.last_sequence);
            entries.put_i64(last.last_offset);
            entries.put_i32((last.last_offset - last.base_offset) as i32);
            entries.put_i64(last.timestamp);
            // No coordinator epoch and no open transaction.
            entries.put_i32(-1);
            entries.put_i64(-1);
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
        let mut producers = FxHashMap::default();
        for _ in 0..count {
            let producer_id = bytes.get_i64();
            let epoch = bytes.get_i16();
            let last_sequence = bytes.get_i32();
            let last_offset = bytes.get_i64();
            let delta = bytes.get_i32();
            let timestamp = bytes.get_i64();
            bytes.advance(12);
            let known = KnownBatch {
                first_sequence: first_of(last_sequence, delta),
                last_sequence,
                base_offset: last_offset.wrapping_sub(i64::from(delta)),
                last_offset,
                timestamp,
            };
            let producer =
                Producer { epoch, batches: [known].into(), last_timestamp: timestamp, seen_ms: timestamp };
            producers.insert(producer_id, producer);
        }
        Some(Self { producers })
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
            let Ok(Verdict::Duplicate(found)) = state.check(old) else { panic!("{old:?}") };
            assert_eq!(found.base_offset, old.base_offset());
        }
        assert!(matches!(
            state.check(&batches[0]),
            Err(SequenceError::OutOfOrder { expected: 12, found: 0, .. })
        ));
        assert_eq!(state.check(&batch(0, 12, 1, 0)), Ok(Verdict::Next));
        assert!(matches!(state.check(&batch(0, 13, 1, 0)), Err(SequenceError::OutOfOrder { .. })));
    }

    #[test]
    fn a_new_epoch_begins_at_zero_and_fences_the_old_one() {
        let mut state = known(&[batch(3, 10, 1, 0)]);
        assert!(matches!(
            state.check(&batch(4, 11, 1, 1)),
            Err(SequenceError::OutOfOrder { expected: 0, .. })
        ));
        assert_eq!(state.check(&batch(4, 0, 1, 1)), Ok(Verdict::Next));
        state.appended(&batch(4, 0, 1, 1), 7);
        assert!(matches!(
            state.check(&batch(3, 11, 1, 2)),
            Err(SequenceError::Fenced { found: 3, current: 4, .. })
        ));
    }

    #[test]
    fn sequences_wrap_and_unknown_producers_may_begin_anywhere() {
        assert_eq!(ProducerState::default().check(&batch(0, 77, 1, 0)), Ok(Verdict::Next));
        let state = known(&[batch(0, i32::MAX - 1, 2, 0)]);
        assert_eq!(state.check(&batch(0, 0, 1, 2)), Ok(Verdict::Next));
    }

    #[test]
    fn a_snapshot_keeps_each_producers_last_batch_and_damage_is_noticed() {
        let state = known(&[batch(0, 0, 3, 0), batch(0, 3, 2, 3)]);
        let bytes = state.to_bytes();
        let loaded = ProducerState::from_bytes(&bytes).unwrap();
        assert!(
            matches!(loaded.check(&batch(0, 3, 2, 0)), Ok(Verdict::Duplicate(known)) if known.base_offset == 3)
        );
        assert_eq!(loaded.check(&batch(0, 5, 1, 5)), Ok(Verdict::Next));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(ProducerState::from_bytes(&damaged), None, "byte {at}");
            assert_eq!(ProducerState::from_bytes(&bytes[..at]), None);
        }
    }
}
