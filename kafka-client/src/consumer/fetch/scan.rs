//! From the bytes of a Fetch answer to what a reader may see.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use kafka_wire::record_batch::{BatchError, ControlType, RecordBatch};

use super::{FetchConfig, FetchPart, HAND_OVER_BYTES, PartitionAnswer};
use crate::consumer::{IsolationLevel, PartitionRecords};

/// Goes over one partition's fetched batches: drops what the reader must not see, cuts the rest into pieces.
pub(super) struct Scan<'a> {
    config: &'a FetchConfig,
    part: &'a FetchPart,
    records: Bytes,
    high_watermark: i64,
    /// Sorted by first offset, latest first.
    aborted: Vec<(i64, i64)>,
    /// Producers whose transaction is aborted here.
    aborting: HashSet<i64>,
    offset: i64,
    pieces: Vec<PartitionRecords>,
}

impl<'a> Scan<'a> {
    pub(super) fn new(config: &'a FetchConfig, part: &'a FetchPart, answer: PartitionAnswer) -> Self {
        let mut aborted = answer.aborted;
        aborted.sort_unstable_by_key(|(_, first_offset)| std::cmp::Reverse(*first_offset));
        Self {
            config,
            part,
            records: answer.records,
            high_watermark: answer.high_watermark,
            aborted,
            aborting: HashSet::new(),
            offset: part.offset,
            pieces: Vec::new(),
        }
    }

    /// The pieces, the offset after the last whole batch, and what stopped the scan early.
    pub(super) fn run(mut self) -> (Vec<PartitionRecords>, i64, Option<BatchError>) {
        let mut damage = None;
        loop {
            match RecordBatch::split_from(&mut self.records) {
                Ok(Some(batch)) => {
                    if let Err(error) = self.take(batch) {
                        damage = Some(error);
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    damage = Some(error);
                    break;
                }
            }
        }
        (self.pieces, self.offset, damage)
    }

    fn take(&mut self, batch: RecordBatch) -> Result<(), BatchError> {
        let next_offset = batch.next_offset();
        if next_offset <= self.offset {
            // A batch from before the position: brokers answer with whole batches.
            return Ok(());
        }
        if self.is_hidden(&batch)? {
            self.offset = next_offset;
            if let Some(last) = self.pieces.last_mut() {
                last.next_offset = next_offset;
            }
            return Ok(());
        }
        let size = batch.size_bytes();
        match self.pieces.last_mut() {
            Some(last) if last.charge + size <= HAND_OVER_BYTES => {
                last.charge += size;
                last.next_offset = next_offset;
                last.batches.push_back(batch);
            }
            _ => self.pieces.push(PartitionRecords {
                partition: self.part.partition.clone(),
                epoch: self.part.epoch,
                position: self.offset,
                next_offset,
                batches: VecDeque::from([batch]),
                high_watermark: self.high_watermark,
                max_decompressed: self.config.max_buffered_bytes.max(64 * 1024 * 1024),
                charge: size,
            }),
        }
        self.offset = next_offset;
        Ok(())
    }

    /// Control batches always; under `read_committed` also those of aborted transactions.
    fn is_hidden(&mut self, batch: &RecordBatch) -> Result<bool, BatchError> {
        if self.config.isolation == IsolationLevel::ReadCommitted {
            // A transaction counts as aborted from its first offset until its marker.
            while self.aborted.last().is_some_and(|(_, first)| *first <= batch.last_offset()) {
                if let Some((producer, _)) = self.aborted.pop() {
                    self.aborting.insert(producer);
                }
            }
            if batch.is_control() {
                batch.verify_crc()?;
                if batch.control_type()? == Some(ControlType::Abort) {
                    self.aborting.remove(&batch.producer_id());
                }
            } else if batch.is_transactional() && self.aborting.contains(&batch.producer_id()) {
                return Ok(true);
            }
        }
        Ok(batch.is_control())
    }
}
