//! From the bytes of a Fetch answer to what a reader may see.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use kafka_wire::record_batch::{BatchError, ControlType, RecordBatch};

use super::budget::Charge;
use super::{FetchConfig, FetchPart, HAND_OVER_BYTES, PartitionAnswer, Position};
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
    /// After the last whole batch, and that batch's leader epoch.
    end: Position,
    /// Of the frame that the batches are slices of.
    charge: &'a Charge,
    pieces: Vec<PartitionRecords>,
}

/// What a scan found.
pub(super) struct Scanned {
    pub(super) pieces: Vec<PartitionRecords>,
    /// Where the next fetch goes on.
    pub(super) end: Position,
    pub(super) largest_batch: usize,
    /// What stopped the scan early.
    pub(super) damage: Option<BatchError>,
}

impl<'a> Scan<'a> {
    pub(super) fn new(
        config: &'a FetchConfig,
        part: &'a FetchPart,
        answer: PartitionAnswer,
        charge: &'a Charge,
    ) -> Self {
        let mut aborted = answer.aborted;
        aborted.sort_unstable_by_key(|(_, first_offset)| std::cmp::Reverse(*first_offset));
        Self {
            config,
            part,
            records: answer.records,
            high_watermark: answer.high_watermark,
            aborted,
            aborting: HashSet::new(),
            end: Position { offset: part.offset, leader_epoch: part.last_fetched_epoch },
            charge,
            pieces: Vec::new(),
        }
    }

    pub(super) fn run(mut self) -> Scanned {
        let mut damage = None;
        let mut largest_batch = 0;
        loop {
            match RecordBatch::split_from(&mut self.records) {
                Ok(Some(batch)) => {
                    largest_batch = largest_batch.max(batch.size_bytes());
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
        Scanned { pieces: self.pieces, end: self.end, largest_batch, damage }
    }

    fn take(&mut self, batch: RecordBatch) -> Result<(), BatchError> {
        let end = Position { offset: batch.next_offset(), leader_epoch: batch.leader_epoch() };
        if end.offset <= self.end.offset {
            // A batch from before the position: brokers answer with whole batches.
            return Ok(());
        }
        if self.is_hidden(&batch)? {
            if let Some(last) = self.pieces.last_mut() {
                last.end = end;
            }
            self.end = end;
            return Ok(());
        }
        let size = batch.size_bytes();
        match self.pieces.last_mut() {
            Some(last) if last.size + size <= HAND_OVER_BYTES => {
                last.size += size;
                last.end = end;
                last.batches.push_back(batch);
            }
            _ => self.pieces.push(PartitionRecords {
                partition: self.part.partition.clone(),
                epoch: self.part.epoch,
                position: self.end.offset,
                end,
                batches: VecDeque::from([batch]),
                high_watermark: self.high_watermark,
                max_decompressed: self.config.max_buffered_bytes.max(64 * 1024 * 1024),
                size,
                charge: Some(self.charge.clone()),
                budget: None,
            }),
        }
        self.end = end;
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
