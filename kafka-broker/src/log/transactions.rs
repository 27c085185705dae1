//! What a log knows of transactions: which are open, which ended lately, and where the aborted ones lie.
//!
//! The index of aborted transactions is Kafka's (`TransactionIndex`, `AbortedTxn`): one file for each segment, which holds
//! the transactions whose abort marker lies in it, and exists only if there is one.

use std::collections::BTreeSet;

use bytes::{Buf, BufMut};
use kafka_wire::record_batch::{BatchError, ControlType, RecordBatch};
use rustc_hash::FxHashMap;

const INDEX_VERSION: i16 = 0;
const INDEX_ENTRY_BYTES: usize = 2 + 8 + 8 + 8 + 8;

/// A transaction that was aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AbortedTxn {
    pub(crate) producer_id: i64,
    pub(crate) first_offset: i64,
    /// Where its marker is.
    pub(crate) last_offset: i64,
    /// Up to where everything was decided once the marker was there.
    pub(crate) last_stable_offset: i64,
}

/// The index file of a segment.
pub(super) fn index_to_bytes(aborted: &[AbortedTxn]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(aborted.len() * INDEX_ENTRY_BYTES);
    for txn in aborted {
        bytes.put_i16(INDEX_VERSION);
        bytes.put_i64(txn.producer_id);
        bytes.put_i64(txn.first_offset);
        bytes.put_i64(txn.last_offset);
        bytes.put_i64(txn.last_stable_offset);
    }
    bytes
}

/// `None` unless the bytes are whole entries of this version in the order of their markers.
pub(super) fn index_from_bytes(mut bytes: &[u8]) -> Option<Vec<AbortedTxn>> {
    let mut aborted: Vec<AbortedTxn> = Vec::with_capacity(bytes.len() / INDEX_ENTRY_BYTES);
    while !bytes.is_empty() {
        if bytes.len() < INDEX_ENTRY_BYTES || bytes.get_i16() != INDEX_VERSION {
            return None;
        }
        let txn = AbortedTxn {
            producer_id: bytes.get_i64(),
            first_offset: bytes.get_i64(),
            last_offset: bytes.get_i64(),
            last_stable_offset: bytes.get_i64(),
        };
        if aborted.last().is_some_and(|last| last.last_offset >= txn.last_offset) {
            return None;
        }
        aborted.push(txn);
    }
    Some(aborted)
}

/// What a marker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) is_commit: bool,
    pub(super) coordinator_epoch: i32,
    pub(super) timestamp: i64,
}

impl Marker {
    /// The marker in a control batch; `None` for other batches, and for a control batch that compaction emptied.
    pub(super) fn of(batch: &RecordBatch) -> Result<Option<Self>, BatchError> {
        if !batch.is_control() || batch.record_count() == 0 {
            return Ok(None);
        }
        let is_commit = match batch.control_type()? {
            Some(ControlType::Commit) => true,
            Some(ControlType::Abort) => false,
            _ => return Ok(None),
        };
        let mut records = batch.records(batch.size_bytes())?;
        let Some(record) = records.next_view().transpose()? else { return Ok(None) };
        // Two bytes of version, then the coordinator's epoch.
        let epoch = record.value.and_then(|value| value.get(2..)?.first_chunk::<4>());
        let coordinator_epoch = epoch.map_or(-1, |epoch| i32::from_be_bytes(*epoch));
        Ok(Some(Self { is_commit, coordinator_epoch, timestamp: record.timestamp }))
    }
}

/// Transactions that keep a log's end from being stable.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Unstable {
    /// First offset and producer of each open transaction.
    open: BTreeSet<(i64, i64)>,
    /// First and last offset of transactions that ended, until the high watermark has passed their markers.
    ended: BTreeSet<(i64, i64)>,
    /// Producers whose transaction the coordinator is asked about before its first write
    /// (`VerificationStateEntry`): a marker that comes in between makes the answer worthless.
    verified: FxHashMap<i64, u64>,
    next_guard: u64,
}

impl Unstable {
    pub(super) fn begin(&mut self, producer_id: i64, first_offset: i64) {
        self.open.insert((first_offset, producer_id));
        self.verified.remove(&producer_id);
    }

    pub(super) fn end(&mut self, producer_id: i64, first_offset: i64, last_offset: i64) {
        self.open.remove(&(first_offset, producer_id));
        self.ended.insert((first_offset, last_offset));
    }

    /// The first offset that is not decided yet.
    pub(super) fn first_open(&self) -> Option<i64> {
        self.open.first().map(|&(first, _)| first)
    }

    /// The same for readers, who do not see a marker before the high watermark has passed it.
    pub(super) fn first_unstable(&self, high_watermark: i64) -> Option<i64> {
        let ended = self.ended.iter().find(|&&(_, last)| last >= high_watermark).map(|&(first, _)| first);
        self.first_open().into_iter().chain(ended).min()
    }

    /// Forgets ended transactions whose markers every reader sees.
    pub(super) fn settle(&mut self, high_watermark: i64) {
        self.ended.retain(|&(_, last)| last >= high_watermark);
    }

    /// Before the coordinator is asked: what the append has to show afterwards.
    pub(super) fn guard(&mut self, producer_id: i64) -> u64 {
        let next = &mut self.next_guard;
        *self.verified.entry(producer_id).or_insert_with(|| {
            *next += 1;
            *next
        })
    }

    pub(super) fn is_guarded(&self, producer_id: i64, guard: u64) -> bool {
        self.verified.get(&producer_id) == Some(&guard)
    }

    pub(super) fn drop_guard(&mut self, producer_id: i64) {
        self.verified.remove(&producer_id);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A file may hold anything: what is believed of it is what was written.
        #[test]
        fn an_index_of_any_bytes_is_refused_or_is_what_would_be_written(
            bytes in prop::collection::vec(0..3u8, 0..INDEX_ENTRY_BYTES * 4),
        ) {
            if let Some(aborted) = index_from_bytes(&bytes) {
                prop_assert_eq!(index_to_bytes(&aborted), bytes);
            }
        }

        #[test]
        fn an_index_is_read_as_it_was_written_and_not_if_it_is_cut(
            ends in prop::collection::btree_set(0..1_000_000i64, 1..20),
            cut in 1..INDEX_ENTRY_BYTES,
        ) {
            let aborted: Vec<_> = ends
                .iter()
                .map(|&last_offset| AbortedTxn {
                    producer_id: last_offset % 7,
                    first_offset: last_offset / 2,
                    last_offset,
                    last_stable_offset: last_offset + 1,
                })
                .collect();
            let bytes = index_to_bytes(&aborted);
            prop_assert_eq!(index_from_bytes(&bytes), Some(aborted));
            prop_assert_eq!(index_from_bytes(&bytes[..bytes.len() - cut]), None);
        }
    }
}
