//! One partition's log: segments of batches in Kafka's own on-disk format, in memory or on disk.
//!
//! A batch is checked, given its offsets and leader epoch (both outside its checksum) and stored as it came. Everything
//! here is synchronous and takes the time as an argument; locks, tasks and clocks are the caller's.

mod append;
mod compaction;
mod config;
mod error;
mod flush;
mod follower;
mod index;
mod leader_epoch;
mod load;
mod producer_state;
mod retention;
mod segment;
mod transactions;
mod validate;

#[cfg(test)]
mod recovery_point_tests;
#[cfg(test)]
mod recovery_tests;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

pub(crate) use config::LogConfig;
pub(crate) use error::{AppendError, DeleteRecordsError, LogError, ReadError};
pub(crate) use flush::{FlushError, FlushJob};
pub(crate) use producer_state::{ActiveProducer, ProducerState};
pub(crate) use transactions::AbortedTxn;

use crate::checkpoint::CheckpointEntry;
use crate::storage::Storage;
use flush::Closing;
use leader_epoch::LeaderEpochs;
use segment::Segment;

/// Looking for a time decompresses at most this much of one batch.
const MAX_DECOMPRESSED_BYTES: usize = 256 << 20;

const EPOCH_FILE: &str = "leader-epoch-checkpoint";

/// Who appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A produce request: everything is checked.
    Client,
    /// The broker itself: any number of batches, which are known to be sound.
    Coordinator,
    /// The same with the marker of a transaction whose end has an epoch of its own (KIP-890).
    MarkerOfOwnEpoch,
}

/// The circumstances of an append.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Append {
    pub(crate) leader_epoch: i32,
    pub(crate) origin: Origin,
    pub(crate) now_ms: i64,
    /// What [`PartitionLog::guard`] gave before the transaction was confirmed.
    pub(crate) guard: Option<u64>,
}

/// Where batches went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Appended {
    pub(crate) base_offset: i64,
    pub(crate) last_offset: i64,
    /// The records' time under `LogAppendTime`.
    pub(crate) log_append_time: Option<i64>,
    pub(crate) log_start_offset: i64,
    /// The producer had sent the batch before; nothing was written now.
    pub(crate) duplicate: bool,
    /// `flush.messages` asks for a sync: the producer is answered once the log is flushed up to `last_offset`.
    pub(crate) flush_due: bool,
}

/// How a log was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shutdown {
    /// Closed in order: indexes and snapshots are believed.
    Clean,
    /// Anything may be torn: everything is read and checked.
    Unclean,
    /// Segments that end at or before this offset were on disk with their indexes; everything else may be torn.
    UncleanAfter(i64),
}

/// A record found by its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FoundOffset {
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    pub(crate) leader_epoch: i32,
}

/// One partition's log.
#[derive(Debug)]
pub(crate) struct PartitionLog {
    storage: Arc<dyn Storage>,
    folder: String,
    config: LogConfig,
    /// By base offset; never empty; only the last one is appended to.
    segments: Vec<Segment>,
    log_start_offset: i64,
    log_end_offset: i64,
    producers: ProducerState,
    epochs: LeaderEpochs,
    /// The file does not say what `epochs` says.
    epochs_unsaved: bool,
    chunk: BytesMut,
    flushed_offset: i64,
    /// Consumers could read up to here before `flush.messages` was set to 1: what they saw does not go away.
    shown_offset: i64,
    /// How often the log was cut: a sync that began before says nothing about what was appended since.
    truncations: u64,
    /// Where the data folder says that recovery begins.
    recovery_point: Option<CheckpointEntry>,
    /// Compaction has been over everything before this offset.
    cleaned_offset: i64,
    /// Compaction failed on what the log holds, as it would the next time.
    uncleanable: bool,
    /// The last swap of compacted segments ended in a crash.
    swap_interrupted: bool,
    /// Closed segments that are not on disk yet.
    closing: Vec<Arc<Closing>>,
    /// A failed write could not be undone: what the file holds is not known.
    offline: bool,
}

impl PartitionLog {
    /// Opens the log in `folder`, or begins it, and recovers what an unclean end left behind.
    pub(crate) fn open(
        storage: Arc<dyn Storage>,
        folder: &str,
        config: LogConfig,
        shutdown: Shutdown,
    ) -> Result<Self, LogError> {
        let failed = |source| LogError { folder: folder.to_owned(), source };
        let mut log = Self {
            storage,
            folder: folder.to_owned(),
            config,
            segments: Vec::new(),
            log_start_offset: 0,
            log_end_offset: 0,
            producers: ProducerState::default(),
            epochs: LeaderEpochs::default(),
            epochs_unsaved: false,
            chunk: BytesMut::new(),
            flushed_offset: 0,
            shown_offset: 0,
            truncations: 0,
            recovery_point: None,
            cleaned_offset: 0,
            uncleanable: false,
            swap_interrupted: false,
            closing: Vec::new(),
            offline: false,
        };
        log.swap_interrupted = compaction::recover_swaps(&*log.storage, folder).map_err(failed)?;
        let shutdown = if log.swap_interrupted { Shutdown::Unclean } else { shutdown };
        log.load(shutdown).map_err(failed)?;
        Ok(log)
    }

    /// Deletes the log's folder. Reads of what was handed out before go on.
    pub(crate) fn delete(self) -> io::Result<()> {
        self.storage.remove_folder(&self.folder)
    }

    /// Whole batches from the one that holds `offset` on: at most `max_bytes`, or one if `minimum_one_batch` and it is
    /// larger. Empty at the log's end.
    pub(crate) fn read(
        &self,
        offset: i64,
        max_bytes: usize,
        minimum_one_batch: bool,
    ) -> Result<Vec<Bytes>, ReadError> {
        if offset < self.log_start_offset || offset > self.log_end_offset {
            return Err(ReadError::OutOfRange {
                offset,
                start: self.log_start_offset,
                end: self.log_end_offset,
            });
        }
        let after = self.segments.partition_point(|segment| segment.base_offset <= offset);
        let mut found: Vec<Bytes> = Vec::new();
        let mut left = max_bytes;
        // Unlike Kafka's, a read goes on in the next segment, so that a fetch is as large as there is data for it.
        for segment in &self.segments[after.saturating_sub(1)..] {
            let (pieces, at_end) = segment.read(offset, left, minimum_one_batch && found.is_empty())?;
            left = left.saturating_sub(pieces.iter().map(Bytes::len).sum());
            found.extend(pieces);
            if !at_end {
                // The limit ended the read inside this segment: going on would leave a gap.
                break;
            }
        }
        Ok(found)
    }

    /// The first record at or after the time, if there is one.
    pub(crate) fn offset_for_timestamp(&self, timestamp: i64) -> Result<Option<FoundOffset>, ReadError> {
        for segment in self.segments.iter().filter(|segment| segment.max_timestamp >= timestamp) {
            let found = segment.find_timestamp(timestamp, self.log_start_offset, MAX_DECOMPRESSED_BYTES)?;
            if let Some((offset, timestamp, leader_epoch)) = found {
                return Ok(Some(FoundOffset { offset, timestamp, leader_epoch }));
            }
        }
        Ok(None)
    }

    /// The first record with the largest timestamp (KIP-734).
    pub(crate) fn offset_for_max_timestamp(&self) -> Result<Option<FoundOffset>, ReadError> {
        let newest = self.segments.iter().map(|segment| segment.max_timestamp).max();
        match newest {
            Some(newest) if self.log_end_offset > self.log_start_offset => self.offset_for_timestamp(newest),
            _ => Ok(None),
        }
    }

    pub(crate) fn log_start_offset(&self) -> i64 {
        self.log_start_offset
    }

    pub(crate) fn log_end_offset(&self) -> i64 {
        self.log_end_offset
    }

    /// Up to where this replica alone lets consumers read: to its end, or to what is synced if every batch is to be
    /// synced before anyone may rely on it.
    pub(crate) fn high_watermark(&self) -> i64 {
        match self.config.flush_messages <= 1 && self.storage.is_durable() {
            true => self.flushed_offset.max(self.shown_offset),
            false => self.log_end_offset,
        }
    }

    /// Up to where readers of committed records may read: nothing before it waits for a transaction's end.
    pub(crate) fn last_stable_offset(&self, high_watermark: i64) -> i64 {
        let unstable = self.producers.first_unstable_offset(high_watermark);
        unstable.map_or(high_watermark, |first| first.max(self.log_start_offset).min(high_watermark))
    }

    /// The high watermark has moved: what lies before it need not be remembered for [`last_stable_offset`](Self::last_stable_offset).
    pub(crate) fn settle_transactions(&mut self, high_watermark: i64) {
        self.producers.settle(high_watermark);
    }

    /// Before the coordinator is asked whether a transaction includes this log; `None`: it has begun here.
    pub(crate) fn guard(&mut self, producer_id: i64, epoch: i16) -> Option<u64> {
        self.producers.guard(producer_id, epoch)
    }

    /// The aborted transactions that have records from `from` up to and without `to` (`LocalLog.collectAbortedTransactions`).
    pub(crate) fn aborted_between(&self, from: i64, to: i64) -> Vec<AbortedTxn> {
        let after = self.segments.partition_point(|segment| segment.base_offset <= from);
        let mut found = Vec::new();
        for txn in self.segments[after.saturating_sub(1)..].iter().flat_map(|segment| &segment.aborted) {
            if txn.last_offset >= from && txn.first_offset < to {
                found.push(*txn);
            }
            if txn.last_stable_offset >= to {
                break;
            }
        }
        found
    }

    /// The producers that are known, for DescribeProducers.
    pub(crate) fn active_producers(&self) -> Vec<ActiveProducer> {
        self.producers.active()
    }

    /// Changes what the log is kept by; holds from the next append and the next look of the maintenance on.
    pub(crate) fn reconfigure(&mut self, config: LogConfig) {
        self.shown_offset = self.high_watermark();
        self.config = config;
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.segments.iter().map(Segment::size_bytes).sum()
    }

    #[cfg(test)]
    pub(crate) fn segment_count(&self) -> usize {
        self.segments.len()
    }

    #[cfg(test)]
    pub(crate) fn producer_count(&self) -> usize {
        self.producers.len()
    }

    /// The epoch of the last record.
    pub(crate) fn latest_epoch(&self) -> Option<i32> {
        self.epochs.latest()
    }

    /// The epoch that the record at `offset` was written in.
    pub(crate) fn epoch_at(&self, offset: i64) -> Option<i32> {
        self.epochs.at(offset)
    }

    /// The largest epoch not above `epoch` and the offset where it ended (OffsetForLeaderEpoch).
    pub(crate) fn end_offset_for_epoch(&self, epoch: i32) -> Option<(i32, i64)> {
        self.epochs.end_offset(epoch, self.log_end_offset)
    }

    fn write_epochs(&mut self) -> io::Result<()> {
        self.epochs_unsaved = true;
        self.storage.replace(&self.path(EPOCH_FILE), self.epochs.to_text().as_bytes())?;
        self.epochs_unsaved = false;
        Ok(())
    }

    /// Writes the epochs as soon as they changed (`LeaderEpochFileCache`). A failure costs nothing yet, because the batches
    /// say the same: it is made good at the next change or at the log's close.
    fn save_epochs(&mut self) {
        if self.storage.is_durable()
            && let Err(error) = self.write_epochs()
        {
            tracing::warn!(log = self.folder, %error, "leader epochs cannot be written");
        }
    }

    fn path(&self, file: &str) -> String {
        format!("{}/{file}", self.folder)
    }
}
