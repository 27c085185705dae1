//! What a broker's answer to a fetch gives: records, and offsets of which something is to be said at once. Pure.

use bytes::Bytes;
use kafka_wire::messages::share_fetch_response::{AcquiredRecords, PartitionData};
use kafka_wire::record_batch::RecordBatch;

use super::AcknowledgeType;
use crate::TopicPartition;
use crate::consumer::ConsumerRecord;

/// Of how many offsets without a record something is said after one answer. What a broker claims beyond is not believed,
/// and its locks end by themselves.
pub(super) const MAX_SAID: usize = 1 << 17;

pub(super) enum Read {
    /// A record and how often it was delivered.
    Record(ConsumerRecord, i16),
    /// There is no record for the application at an offset that was given.
    Nothing(i64, AcknowledgeType),
}

/// The acquired records of a partition, and what to say at once of acquired offsets without one: of `left_to_say` at the
/// most, which becomes less by that.
pub(super) fn read(
    partition: &TopicPartition,
    data: PartitionData,
    max_decompressed: usize,
    left_to_say: &mut usize,
) -> Vec<Read> {
    let mut bytes: Bytes = data.records;
    // The first acquired offset of which nothing is said yet.
    let mut open =
        Open { runs: data.acquired_records, run: 0, offset: i64::MIN, reads: Vec::new(), left_to_say };
    let broken = loop {
        let batch = match RecordBatch::split_from(&mut bytes) {
            Ok(Some(batch)) => batch,
            Ok(None) => break (!bytes.is_empty()).then(|| "a batch is cut".to_owned()),
            Err(error) => break Some(error.to_string()),
        };
        if batch.is_control() {
            continue;
        }
        let records = batch.verify_crc().and_then(|()| batch.records(max_decompressed));
        let corrupt = match records {
            Ok(records) => records.into_iter().find_map(|record| match record {
                Ok(record) => {
                    open.skip_to(record.offset, AcknowledgeType::Gap);
                    if let Some(delivery_count) = open.take(record.offset) {
                        let record = ConsumerRecord::new(partition, &batch, record);
                        open.reads.push(Read::Record(record, delivery_count));
                    }
                    None
                }
                Err(error) => Some(error),
            }),
            Err(error) => Some(error),
        };
        if let Some(error) = corrupt {
            // Nobody can read it: to be delivered again would help nobody (`ShareCompletedFetch`).
            tracing::warn!(%partition, offset = batch.base_offset(), %error, "corrupt batch rejected");
            open.skip_to(batch.base_offset(), AcknowledgeType::Gap);
            open.skip_to(batch.next_offset(), AcknowledgeType::Reject);
        }
    };
    let rest = match broken {
        None => AcknowledgeType::Gap,
        // Where the answer breaks off nobody knows what is missing.
        Some(reason) => {
            tracing::warn!(%partition, reason, "a broken answer: what is missing is released");
            AcknowledgeType::Release
        }
    };
    open.skip_to(i64::MAX, rest);
    open.reads
}

/// Goes through acquired offsets in order.
struct Open<'a> {
    runs: Vec<AcquiredRecords>,
    run: usize,
    /// Everything before is done.
    offset: i64,
    reads: Vec<Read>,
    left_to_say: &'a mut usize,
}

impl Open<'_> {
    /// Says `kind` of everything acquired before `end`.
    fn skip_to(&mut self, end: i64, kind: AcknowledgeType) {
        while let Some(run) = self.runs.get(self.run) {
            let mut at = run.first_offset.max(self.offset);
            while at <= run.last_offset && at < end && *self.left_to_say > 0 {
                self.reads.push(Read::Nothing(at, kind));
                *self.left_to_say -= 1;
                at += 1;
            }
            // Runs may overlap.
            self.offset = self.offset.max(at.min(end));
            if run.last_offset >= end {
                break;
            }
            self.run += 1;
        }
        self.offset = self.offset.max(end);
    }

    /// The delivery count of an acquired offset.
    fn take(&mut self, offset: i64) -> Option<i16> {
        let run = self.runs.get(self.run)?;
        if offset < run.first_offset || offset > run.last_offset || offset < self.offset {
            return None;
        }
        self.offset = offset.saturating_add(1);
        Some(run.delivery_count)
    }
}

#[cfg(test)]
mod tests {
    use kafka_wire::record_batch::{BatchBuilder, Seal, patch_base_offset};
    use proptest::prelude::*;

    use super::*;

    /// A batch of records whose values are their offsets.
    fn batch(base_offset: i64, count: i64) -> Vec<u8> {
        let mut builder = BatchBuilder::new(64);
        for offset in 0..count {
            builder.append(1000, None, Some((base_offset + offset).to_string().as_bytes()), &[]);
        }
        let mut bytes = builder.finish(&Seal::default()).unwrap().to_vec();
        patch_base_offset(&mut bytes, base_offset);
        bytes
    }

    fn acquired(runs: &[(i64, i64)]) -> Vec<AcquiredRecords> {
        let run = |&(first, last): &(i64, i64)| {
            AcquiredRecords::default().with_first_offset(first).with_last_offset(last).with_delivery_count(1)
        };
        runs.iter().map(run).collect()
    }

    /// What is read: offsets of records, and the others with what is said of them.
    fn answer(records: Vec<u8>, runs: &[(i64, i64)]) -> (Vec<i64>, Vec<(i64, AcknowledgeType)>) {
        let data =
            PartitionData::default().with_records(records.into()).with_acquired_records(acquired(runs));
        let (mut given, mut said, mut left) = (Vec::new(), Vec::new(), MAX_SAID);
        for read in read(&TopicPartition::new("t", 0), data, 1 << 20, &mut left) {
            match read {
                Read::Record(record, _) => given.push(record.offset),
                Read::Nothing(offset, kind) => said.push((offset, kind)),
            }
        }
        assert_eq!(left, MAX_SAID - said.len());
        (given, said)
    }

    #[test]
    fn only_what_was_acquired_is_given_and_what_is_not_there_is_a_gap() {
        let records = [batch(0, 4), batch(6, 2)].concat();
        let (given, said) = answer(records, &[(1, 6)]);
        assert_eq!(given, [1, 2, 3, 6]);
        assert_eq!(said, [(4, AcknowledgeType::Gap), (5, AcknowledgeType::Gap)]);
    }

    #[test]
    fn a_corrupt_batch_is_rejected_and_what_is_cut_off_is_released() {
        let mut corrupt = batch(2, 2);
        *corrupt.last_mut().unwrap() ^= 1;
        let (given, said) = answer([batch(0, 2), corrupt, batch(4, 1)].concat(), &[(0, 4)]);
        assert_eq!(given, [0, 1, 4]);
        assert_eq!(said, [(2, AcknowledgeType::Reject), (3, AcknowledgeType::Reject)]);
        let whole = [batch(0, 2), batch(2, 2)].concat();
        let (given, said) = answer(whole[..whole.len() - 1].to_vec(), &[(0, 3)]);
        assert_eq!(given, [0, 1]);
        assert_eq!(said, [(2, AcknowledgeType::Release), (3, AcknowledgeType::Release)]);
    }

    #[test]
    fn absurd_ranges_cost_little_and_give_nothing_twice() {
        let (given, said) = answer(batch(5, 2), &[(i64::MIN, i64::MAX), (0, i64::MAX), (5, 6), (6, 5)]);
        assert!(given.len() <= 2);
        assert_eq!(said.len(), MAX_SAID);
        let (given, said) = answer(batch(5, 3), &[(5, 6), (5, 6), (6, 7)]);
        assert_eq!((given, said), (vec![5, 6, 7], Vec::new()));
        let (given, _) = answer(batch(i64::MAX - 3, 2), &[(i64::MAX - 3, i64::MAX)]);
        assert_eq!(given, [i64::MAX - 3, i64::MAX - 2]);
    }

    proptest! {
        #[test]
        fn whatever_a_broker_answers_no_offset_is_spoken_of_twice(
            bases in prop::collection::vec((-3i64..40, 1i64..5), 0..6),
            runs in prop::collection::vec((-3i64..40, -3i64..40), 0..6),
            flip in prop::option::of((0usize..400, any::<u8>())),
            cut in 0usize..60,
        ) {
            let mut bytes: Vec<u8> = bases.iter().flat_map(|&(base, count)| batch(base.max(0), count)).collect();
            if let Some((at, mask)) = flip
                && let Some(byte) = bytes.get_mut(at)
            {
                *byte ^= mask;
            }
            bytes.truncate(bytes.len().saturating_sub(cut));
            let (given, said) = answer(bytes, &runs);
            let mut seen = std::collections::BTreeSet::new();
            for offset in given.iter().chain(said.iter().map(|(offset, _)| offset)) {
                prop_assert!(seen.insert(*offset), "{offset} twice");
                prop_assert!(runs.iter().any(|&(first, last)| (first..=last).contains(offset)), "{offset} unasked");
            }
        }
    }
}
