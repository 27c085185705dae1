//! Offsets that transactions commit: they are pending until the transaction's marker says whether they count (KIP-98).

use std::collections::BTreeMap;

use super::record::{CommittedOffset, GroupRecord};
use super::{Coordinator, Now};

/// The producer in whose transaction offsets are committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TxnProducer {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
    /// What the log gave before the transaction was confirmed.
    pub(crate) guard: Option<u64>,
}

type At = (String, String, i32);

/// Offsets by the producer whose transaction is open, then by group, topic and partition.
#[derive(Debug, Default)]
pub(super) struct PendingOffsets {
    by_producer: BTreeMap<i64, BTreeMap<At, CommittedOffset>>,
}

impl PendingOffsets {
    pub(super) fn of_group<'a>(&'a self, group: &'a str) -> impl Iterator<Item = (&'a str, i32)> {
        let pending = self.by_producer.values().flat_map(BTreeMap::keys);
        pending.filter(move |at| at.0 == group).map(|(_, topic, partition)| (topic.as_str(), *partition))
    }
}

impl Coordinator {
    /// Applies a record that a transaction wrote.
    pub(crate) fn replay_pending(&mut self, producer_id: i64, record: &GroupRecord) {
        if let GroupRecord::Offset { group, topic, partition, value: Some(value) } = record {
            let pending = self.pending.by_producer.entry(producer_id).or_default();
            pending.insert((group.clone(), topic.clone(), *partition), value.clone());
        }
    }

    /// A producer's transaction ended: what it committed counts from now on, or never did.
    pub(crate) fn transaction_ended(&mut self, producer_id: i64, is_commit: bool, now: Now) {
        let Some(pending) = self.pending.by_producer.remove(&producer_id).filter(|_| is_commit) else {
            return;
        };
        for ((group, topic, partition), value) in pending {
            self.replay_offset(&group, &topic, partition, Some(value), now);
        }
    }

    /// Whether an open transaction has committed an offset of this partition (KIP-447).
    pub(crate) fn is_unstable(&self, group: &str, topic: &str, partition: i32) -> bool {
        self.pending.of_group(group).any(|pending| pending == (topic, partition))
    }
}
