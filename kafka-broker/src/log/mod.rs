//! One partition's log: segments of batches in Kafka's own on-disk format, in memory or on disk.
//!
//! A batch is checked, given its offsets and leader epoch (both outside its checksum) and stored as it came. Everything
//! here is synchronous and takes the time as an argument; locks, tasks and clocks are the caller's.

mod config;
mod error;
mod index;
mod leader_epoch;
mod producer_state;
mod segment;
mod validate;

#[cfg(test)]
mod recovery_tests;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kafka_wire::record_batch::{
    NO_TIMESTAMP, RecordBatch, patch_base_offset, patch_leader_epoch, set_log_append_time,
};

pub(crate) use config::LogConfig;
pub(crate) use error::{AppendError, LogError, ReadError};

use crate::storage::Storage;
use leader_epoch::LeaderEpochs;
use producer_state::{ProducerState, Verdict};
use segment::Segment;

/// Batches are copied into shared chunks of this size, so that a small batch costs no allocation of its own.
const CHUNK_BYTES: usize = 256 * 1024;

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
}

/// The circumstances of an append.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Append {
    pub(crate) leader_epoch: i32,
    pub(crate) origin: Origin,
    pub(crate) now_ms: i64,
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
}

/// How a log was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shutdown {
    /// Closed in order: indexes and snapshots are believed.
    Clean,
    /// Anything may be torn: everything is read and checked.
    Unclean,
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
    chunk: BytesMut,
    unflushed_records: i64,
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
            chunk: BytesMut::new(),
            unflushed_records: 0,
            offline: false,
        };
        log.load(shutdown).map_err(failed)?;
        Ok(log)
    }

    fn load(&mut self, shutdown: Shutdown) -> io::Result<()> {
        self.storage.create_folder(&self.folder)?;
        let names = self.storage.list(&self.folder)?;
        let mut base_offsets: Vec<i64> =
            names.iter().filter_map(|name| segment::base_offset_of(name, "log")).collect();
        base_offsets.sort_unstable();
        if base_offsets.is_empty() {
            base_offsets.push(0);
        }
        self.log_start_offset = base_offsets[0];
        self.log_end_offset = self.log_start_offset;
        let snapshot = names
            .iter()
            .filter_map(|name| segment::base_offset_of(name, "snapshot"))
            .max()
            .filter(|_| shutdown == Shutdown::Clean);
        for base_offset in base_offsets {
            let mut segment = Segment::open(&*self.storage, &self.folder, base_offset)?;
            if base_offset < self.log_end_offset {
                // A segment that begins inside the one before it can only be what a torn roll left.
                segment.remove(&*self.storage, &self.folder)?;
                continue;
            }
            match shutdown {
                // Producers and epochs of the segments before are known only once those are read too.
                Shutdown::Clean if !self.load_closed(&mut segment)? => return self.reload(),
                Shutdown::Clean => {}
                Shutdown::Unclean => self.recover_segment(&mut segment)?,
            }
            self.segments.push(segment);
        }
        if shutdown == Shutdown::Unclean {
            self.write_indexes()?;
            return self.write_epochs();
        }
        if !self.load_producers(snapshot)? {
            return self.reload();
        }
        let text = self.storage.read(&self.path(EPOCH_FILE))?.unwrap_or_default();
        match LeaderEpochs::from_text(&String::from_utf8_lossy(&text)) {
            Some(epochs) => self.epochs = epochs,
            None if self.log_end_offset > self.log_start_offset => return self.reload(),
            None => {}
        }
        Ok(())
    }

    /// Writes the rebuilt indexes of the closed segments: nothing else would, and every later start would miss them.
    fn write_indexes(&mut self) -> io::Result<()> {
        if let [closed @ .., _] = &mut self.segments[..]
            && self.storage.is_durable()
        {
            for segment in closed {
                segment.close_indexes(&*self.storage, &self.folder)?;
            }
        }
        Ok(())
    }

    /// A clean end that cannot be believed is an unclean one.
    fn reload(&mut self) -> io::Result<()> {
        self.segments.clear();
        self.producers = ProducerState::default();
        self.epochs = LeaderEpochs::default();
        self.load(Shutdown::Unclean)
    }

    fn load_closed(&mut self, segment: &mut Segment) -> io::Result<bool> {
        if !segment.load_indexes(&*self.storage, &self.folder)? {
            return Ok(false);
        }
        match segment.scan_end() {
            Ok(next_offset) => self.log_end_offset = next_offset,
            Err(ReadError::Storage(error)) => return Err(error),
            Err(_) => return Ok(false),
        }
        Ok(true)
    }

    fn recover_segment(&mut self, segment: &mut Segment) -> io::Result<()> {
        let (producers, epochs) = (&mut self.producers, &mut self.epochs);
        let (next_offset, cut) = segment.recover(self.config.index_interval_bytes, |batch| {
            producers.appended(batch);
            epochs.assign(batch.leader_epoch(), batch.base_offset());
        })?;
        if cut > 0 {
            tracing::warn!(log = self.folder, offset = next_offset, bytes = cut, "cut a torn tail");
        }
        self.log_end_offset = next_offset;
        Ok(())
    }

    /// `false` when the snapshot is not of this log's end, or damaged.
    fn load_producers(&mut self, snapshot: Option<i64>) -> io::Result<bool> {
        if snapshot != Some(self.log_end_offset) {
            // A new log has none; one that retention emptied has, and still knows its producers.
            return Ok(self.log_end_offset == self.log_start_offset);
        }
        let path = segment::file_name(&self.folder, self.log_end_offset, "snapshot");
        let bytes = self.storage.read(&path)?.unwrap_or_default();
        let Some(producers) = ProducerState::from_bytes(&bytes) else { return Ok(false) };
        self.producers = producers;
        Ok(true)
    }

    /// Appends batches. After an error the log is as it was before.
    pub(crate) fn append(&mut self, batches: Bytes, append: Append) -> Result<Appended, AppendError> {
        if self.offline {
            return Err(AppendError::Offline);
        }
        let batches = self.check(batches, append)?;
        if let [batch] = &batches[..]
            && append.origin == Origin::Client
            && batch.producer_id() >= 0
            && let Verdict::Duplicate(known) = self.producers.check(batch)?
        {
            return Ok(Appended {
                base_offset: known.base_offset,
                last_offset: known.last_offset,
                log_append_time: self.config.log_append_time.then_some(known.timestamp),
                log_start_offset: self.log_start_offset,
                duplicate: true,
            });
        }
        let base_offset = self.log_end_offset;
        let (bytes, batches) = self.place(&batches, append);
        let Some(last) = batches.last() else { return Err(AppendError::BatchCount { count: 0 }) };
        let (last_offset, next_offset) = (last.last_offset(), last.next_offset());
        let newest = batches.iter().map(RecordBatch::max_timestamp).max().unwrap_or(NO_TIMESTAMP);
        self.roll_if_due(bytes.len(), last_offset, newest, append.now_ms)?;
        let size_before = self.segments.last().map_or(0, Segment::size_bytes);
        self.write(bytes, &batches)?;
        self.unflushed_records += next_offset - base_offset;
        if self.unflushed_records >= self.config.flush_messages
            && let Err(error) = self.flush()
        {
            // The log is offline; nobody may read what was not acknowledged and may be gone after a restart.
            if let Some(active) = self.segments.last_mut()
                && let Err(undo) = active.cut(size_before)
            {
                tracing::error!(log = self.folder, %undo, "what could not be synced could not be cut");
            }
            return Err(error.into());
        }

        self.log_end_offset = next_offset;
        for batch in &batches {
            self.producers.appended(batch);
        }
        self.epochs.assign(append.leader_epoch, base_offset);
        Ok(Appended {
            base_offset,
            last_offset,
            log_append_time: self.config.log_append_time.then_some(append.now_ms),
            log_start_offset: self.log_start_offset,
            duplicate: false,
        })
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

    /// Copies the batches together and gives them their offsets.
    fn place(&mut self, batches: &[RecordBatch], append: Append) -> (Bytes, Vec<RecordBatch>) {
        let size: usize = batches.iter().map(RecordBatch::size_bytes).sum();
        if self.chunk.capacity() < size {
            self.chunk = BytesMut::with_capacity(size.max(CHUNK_BYTES));
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

    fn write(&mut self, bytes: Bytes, batches: &[RecordBatch]) -> Result<(), AppendError> {
        let Some(active) = self.segments.last_mut() else { return Err(AppendError::Offline) };
        let before = active.size_bytes();
        let Err(error) = active.append(bytes, batches, self.config.index_interval_bytes) else {
            return Ok(());
        };
        if let Err(undo) = active.cut(before) {
            tracing::error!(log = self.folder, %error, %undo, "a failed write could not be undone");
            self.offline = true;
        }
        Err(error.into())
    }

    /// Closes the active segment when it is full, or when its records span more than `segment.ms`.
    ///
    /// By the records' own time, as `LogSegment.timeWaitedForRoll` has it: by the clock, records of last year would each
    /// get a segment of their own.
    fn roll_if_due(&mut self, size: usize, last_offset: i64, newest: i64, now_ms: i64) -> io::Result<()> {
        let Some(active) = self.segments.last_mut() else { return Ok(()) };
        let full = active.size_bytes() + size as u64 > self.config.segment_bytes.min(i32::MAX as u64);
        let far = last_offset - active.base_offset > i64::from(i32::MAX);
        let seen_ms = active.seen(now_ms);
        let age_ms = match active.first_timestamp {
            Some(first) if first >= 0 => newest.saturating_sub(first),
            _ => now_ms.saturating_sub(seen_ms),
        };
        let old = age_ms > self.config.segment_ms;
        if !active.is_empty() && (full || far || old) {
            self.roll()?;
        }
        Ok(())
    }

    /// Closes the active segment and begins a new one at the log's end.
    pub(crate) fn roll(&mut self) -> io::Result<()> {
        if self.segments.last().is_none_or(Segment::is_empty) {
            return Ok(());
        }
        let next = Segment::open(&*self.storage, &self.folder, self.log_end_offset)?;
        self.close_active()?;
        if let Some(active) = self.segments.last_mut() {
            active.seal();
        }
        self.segments.push(next);
        Ok(())
    }

    /// Makes the active segment durable with what a fast start needs: its indexes and the producers at its end.
    fn close_active(&mut self) -> io::Result<()> {
        let Some(active) = self.segments.last_mut() else { return Ok(()) };
        if !self.storage.is_durable() {
            return Ok(());
        }
        active.sync()?;
        active.close_indexes(&*self.storage, &self.folder)?;
        let snapshot = segment::file_name(&self.folder, self.log_end_offset, "snapshot");
        self.storage.replace(&snapshot, &self.producers.to_bytes())
    }

    /// Syncs what was appended since the last flush.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        // Closed segments were synced when they were closed.
        if self.unflushed_records > 0
            && let Some(active) = self.segments.last()
            && let Err(error) = active.sync()
        {
            // After a failed sync nobody knows which pages are on disk, and a second sync may lie about them.
            self.offline = true;
            return Err(error);
        }
        self.unflushed_records = 0;
        Ok(())
    }

    /// Leaves the log so that the next [`open`](Self::open) can be told [`Shutdown::Clean`].
    pub(crate) fn close(&mut self) -> io::Result<()> {
        if self.offline {
            return Err(io::Error::other("the log is offline"));
        }
        self.close_active()?;
        self.write_epochs()?;
        self.remove_stale_snapshots()
    }

    /// Snapshots of ends that the log has left behind would only confuse a reader of the folder.
    fn remove_stale_snapshots(&self) -> io::Result<()> {
        for name in self.storage.list(&self.folder)? {
            let Some(offset) = segment::base_offset_of(&name, "snapshot") else { continue };
            let in_use =
                offset == self.log_end_offset || self.segments.iter().any(|s| s.base_offset == offset);
            if !in_use {
                self.storage.remove(&self.path(&name))?;
            }
        }
        Ok(())
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

    /// Lets old segments go by `retention.ms` and `retention.bytes`. Returns how many went.
    pub(crate) fn enforce_retention(&mut self, now_ms: i64) -> io::Result<usize> {
        if !self.config.deleted {
            return Ok(0);
        }
        let expired = |segment: &mut Segment, retention_ms: i64| {
            let seen_ms = segment.seen(now_ms);
            // Records without a time age from when the segment was first seen; Kafka takes the file's time then.
            let newest = if segment.max_timestamp >= 0 { segment.max_timestamp } else { seen_ms };
            retention_ms >= 0 && !segment.is_empty() && now_ms.saturating_sub(newest) > retention_ms
        };
        // The active segment goes too once all of it is expired: it is closed first (Kafka's `deletableSegments`).
        if self.segments.last_mut().is_some_and(|active| expired(active, self.config.retention_ms)) {
            self.roll()?;
        }
        let mut excess = match self.config.retention_bytes {
            limit if limit >= 0 => self.size_bytes().saturating_sub(limit.unsigned_abs()),
            _ => 0,
        };
        let mut gone = 0;
        while self.segments.len() > 1 {
            let next_base = self.segments[1].base_offset;
            let oldest = &mut self.segments[0];
            let size = oldest.size_bytes();
            let by_size = excess >= size && size > 0;
            if !by_size && !expired(oldest, self.config.retention_ms) && next_base > self.log_start_offset {
                break;
            }
            // A file that cannot be removed keeps its segment, and is tried again.
            oldest.remove(&*self.storage, &self.folder)?;
            excess = excess.saturating_sub(size);
            self.segments.remove(0);
            self.advance_log_start(next_base);
            gone += 1;
        }
        Ok(gone)
    }

    fn advance_log_start(&mut self, offset: i64) {
        if offset > self.log_start_offset {
            self.log_start_offset = offset;
            self.epochs.truncate_from_start(offset);
        }
    }

    /// Forgets producers that were silent for `expiration_ms`.
    pub(crate) fn expire_producers(&mut self, now_ms: i64, expiration_ms: i64) {
        self.producers.expire(now_ms, expiration_ms);
    }

    pub(crate) fn log_start_offset(&self) -> i64 {
        self.log_start_offset
    }

    pub(crate) fn log_end_offset(&self) -> i64 {
        self.log_end_offset
    }

    /// One replica: what is appended is committed.
    pub(crate) fn high_watermark(&self) -> i64 {
        self.log_end_offset
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

    #[cfg(test)]
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

    fn write_epochs(&self) -> io::Result<()> {
        self.storage.replace(&self.path(EPOCH_FILE), self.epochs.to_text().as_bytes())
    }

    fn path(&self, file: &str) -> String {
        format!("{}/{file}", self.folder)
    }
}
