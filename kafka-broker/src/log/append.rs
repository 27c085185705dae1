//! Appending: checks, offsets, and the segment that takes the batches.

use std::hash::Hasher;
use std::io;

use bytes::{Bytes, BytesMut};
use kafka_wire::record_batch::{
    NO_TIMESTAMP, RecordBatch, patch_base_offset, patch_leader_epoch, set_log_append_time,
};
use rustc_hash::FxHasher;

use super::producer_state::Verdict;
use super::segment::Segment;
use super::{Append, AppendError, Appended, Origin, PartitionLog, validate};
use crate::prefault::prefault;

/// Batches are copied into shared chunks of this size, so that a small batch costs no allocation of its own.
const CHUNK_BYTES: usize = 256 * 1024;

/// From this size on a log in memory takes its chunks' pages in advance: it fills them soon, and a topic that stays small
/// takes no memory that it does not use.
const PREFAULT_FROM_BYTES: u64 = 1 << 20;

impl PartitionLog {
    /// Appends batches. After an error the log is as it was before.
    ///
    /// When [`Appended::flush_due`] says so, the answer has to wait until a [`FlushJob`](super::FlushJob) succeeded.
    pub(crate) fn append(&mut self, batches: Bytes, append: Append) -> Result<Appended, AppendError> {
        if self.offline {
            return Err(AppendError::Offline);
        }
        let mut batches = self.check(batches, append)?;
        if let [batch] = &mut batches[..]
            && append.origin == Origin::Client
        {
            if batch.producer_id() >= 0
                && let Verdict::Duplicate(known) = self.producers.check(batch, append.guard)?
            {
                return Ok(Appended {
                    base_offset: known.base_offset,
                    last_offset: known.last_offset,
                    log_append_time: self.config.log_append_time.then_some(known.timestamp),
                    log_start_offset: self.log_start_offset,
                    duplicate: true,
                    // The first answer may have been lost together with a sync that did not happen.
                    flush_due: self.config.flush_messages <= 1 && known.last_offset >= self.flushed_offset,
                });
            }
            self.convert(batch)?;
        }
        if append.origin != Origin::Client {
            for batch in &batches {
                match batch.is_control() {
                    true => {
                        self.producers.check_marker(batch, append.origin == Origin::MarkerOfOwnEpoch)?;
                    }
                    false => self.producers.check_transaction(batch, append.guard)?,
                }
            }
        }
        let base_offset = self.log_end_offset;
        let (bytes, batches) = self.place(&batches, append);
        let Some(last) = batches.last() else { return Err(AppendError::BatchCount { count: 0 }) };
        let (last_offset, next_offset) = (last.last_offset(), last.next_offset());
        let newest = batches.iter().map(RecordBatch::max_timestamp).max().unwrap_or(NO_TIMESTAMP);
        let limit = self.config.segment_bytes;
        if bytes.len() as u64 > limit {
            return Err(AppendError::LargerThanSegment { size: bytes.len(), limit });
        }
        self.roll_if_due(bytes.len(), last_offset, newest, append.now_ms)?;
        self.write(bytes, &batches)?;
        self.log_end_offset = next_offset;
        self.note_producers(&batches, append.now_ms);
        if self.epochs.assign(append.leader_epoch, base_offset) {
            self.save_epochs();
        }
        Ok(Appended {
            base_offset,
            last_offset,
            log_append_time: self.config.log_append_time.then_some(append.now_ms),
            log_start_offset: self.log_start_offset,
            duplicate: false,
            flush_due: self.is_flush_due(),
        })
    }

    /// Takes written batches into what is known of their producers and of transactions.
    pub(super) fn note_producers(&mut self, batches: &[RecordBatch], now_ms: i64) {
        for batch in batches {
            let aborted = self.producers.appended(batch, now_ms);
            if let (Some(aborted), Some(active)) = (aborted, self.segments.last_mut()) {
                active.aborted.push(aborted);
            }
        }
    }

    fn check(&self, batches: Bytes, append: Append) -> Result<Vec<RecordBatch>, AppendError> {
        let mut rest = batches;
        let mut found = Vec::with_capacity(1);
        while let Some(batch) = RecordBatch::split_from(&mut rest)? {
            found.push(batch);
        }
        if !rest.is_empty() {
            return Err(AppendError::Invalid { reason: "the last batch is cut short", records: Vec::new() });
        }
        if append.origin == Origin::Client {
            let [batch] = &found[..] else { return Err(AppendError::BatchCount { count: found.len() }) };
            validate::check_client_batch(batch, &self.config, append.now_ms)?;
        }
        Ok(found)
    }

    /// Gives the batch the topic's codec if it has another one, which may make it too large.
    fn convert(&self, batch: &mut RecordBatch) -> Result<(), AppendError> {
        let Some(codec) = self.config.compression else { return Ok(()) };
        if batch.compression()? != codec.kind() {
            *batch = batch.recompress(codec, validate::MAX_DECOMPRESSED_BYTES)?;
            let (size, limit) = (batch.size_bytes(), self.config.max_message_bytes);
            if size > limit {
                return Err(AppendError::TooLarge { size, limit });
            }
        }
        Ok(())
    }

    /// Copies the batches together and gives them their offsets.
    fn place(&mut self, batches: &[RecordBatch], append: Append) -> (Bytes, Vec<RecordBatch>) {
        let size: usize = batches.iter().map(RecordBatch::size_bytes).sum();
        if self.chunk.capacity() < size {
            self.chunk = BytesMut::with_capacity(size.max(CHUNK_BYTES));
            // Memory that a disk's tail has let go of is used again; a log in memory takes more and more.
            if !self.storage.is_durable() && self.size_bytes() >= PREFAULT_FROM_BYTES {
                prefault(self.chunk.spare_capacity_mut());
            }
        }
        let mut offset = self.log_end_offset;
        for batch in batches {
            let at = self.chunk.len();
            self.chunk.extend_from_slice(batch.bytes());
            let placed = &mut self.chunk[at..];
            patch_base_offset(placed, offset);
            patch_leader_epoch(placed, append.leader_epoch);
            if self.config.log_append_time {
                set_log_append_time(placed, append.now_ms);
            }
            offset += i64::from(batch.last_offset_delta()) + 1;
        }
        let bytes = self.chunk.split().freeze();
        // What was parsed a moment ago parses again.
        let placed = RecordBatch::iter(bytes.clone()).map_while(Result::ok).collect();
        (bytes, placed)
    }

    pub(super) fn write(&mut self, bytes: Bytes, batches: &[RecordBatch]) -> Result<(), AppendError> {
        let Some(active) = self.segments.last_mut() else { return Err(AppendError::Offline) };
        let before = active.size_bytes();
        if self.config.preallocate && before == 0 {
            active.reserve(self.config.segment_bytes);
        }
        let Err(error) = active.append(bytes, batches, self.config.index_interval_bytes) else {
            return Ok(());
        };
        if let Err(undo) = active.cut(before) {
            tracing::error!(log = self.folder, %error, %undo, "a failed write could not be undone");
            self.offline = true;
        }
        Err(error.into())
    }

    /// Closes the active segment when it or its index is full, or when its records span more than `segment.ms`.
    ///
    /// By the records' own time, as `LogSegment.timeWaitedForRoll` has it: by the clock, records of last year would each
    /// get a segment of their own.
    pub(super) fn roll_if_due(
        &mut self,
        size: usize,
        last_offset: i64,
        newest: i64,
        now_ms: i64,
    ) -> io::Result<()> {
        let seed = self.seed();
        let Some(active) = self.segments.last_mut() else { return Ok(()) };
        let full = active.size_bytes() + size as u64 > self.config.segment_bytes.min(i32::MAX as u64)
            || active.is_index_full(self.config.index_bytes);
        let far = last_offset - active.base_offset > i64::from(i32::MAX);
        let seen_ms = active.seen(now_ms);
        let age_ms = match active.first_timestamp {
            Some(first) if first >= 0 => newest.saturating_sub(first),
            _ => now_ms.saturating_sub(seen_ms),
        };
        let old = age_ms > self.config.max_segment_ms(seed, active.base_offset);
        if !active.is_empty() && (full || far || old) {
            self.roll()?;
        }
        Ok(())
    }

    /// What makes the jitter of this log's segments differ from other logs'.
    fn seed(&self) -> u64 {
        let mut hasher = FxHasher::default();
        hasher.write(self.folder.as_bytes());
        hasher.finish()
    }

    /// Closes the active segment and begins a new one at the log's end. Nothing is synced here: a
    /// [`FlushJob`](super::FlushJob) does that without the log's lock.
    pub(crate) fn roll(&mut self) -> io::Result<()> {
        if self.segments.last().is_none_or(Segment::is_empty) {
            return Ok(());
        }
        let next = Segment::open(&*self.storage, &self.folder, self.log_end_offset)?;
        self.close_active(self.log_end_offset)?;
        if let Some(active) = self.segments.last_mut() {
            active.seal();
        }
        self.segments.push(next);
        Ok(())
    }
}
