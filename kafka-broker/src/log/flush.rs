//! Making a log durable without holding its lock, and leaving it in order.
//!
//! Syncing takes as long as the device likes, so it is a job that is taken under the log's lock, run without it and
//! reported afterwards. One job covers everything appended before it was taken: appends that wait for the same job share
//! its sync, which is all that group commit is.

use std::io;
use std::sync::Arc;

use super::PartitionLog;
use super::segment::{self, Segment};
use crate::checkpoint::CheckpointEntry;
use crate::storage::{Storage, SyncHandle};

/// A segment to which nothing is appended any more, until it and its indexes are on disk.
#[derive(Debug)]
pub(super) struct Closing {
    base_offset: i64,
    data: Arc<dyn SyncHandle>,
    /// Indexes and the snapshot of the producers at the segment's end, by path.
    files: Vec<(String, Vec<u8>)>,
}

impl Closing {
    pub(super) fn is_of(&self, base_offset: i64) -> bool {
        self.base_offset == base_offset
    }

    pub(super) fn is_at_or_after(&self, base_offset: i64) -> bool {
        self.base_offset >= base_offset
    }
}

/// What is to be synced. Run it on a thread that may block.
#[derive(Debug)]
pub(crate) struct FlushJob {
    storage: Arc<dyn Storage>,
    closing: Vec<Arc<Closing>>,
    active: Option<Arc<dyn SyncHandle>>,
    /// Everything before this offset is durable afterwards, unless the log was cut meanwhile.
    up_to: i64,
    truncations: u64,
}

/// Why a flush failed.
#[derive(Debug)]
pub(crate) enum FlushError {
    /// Nobody knows which records are on disk.
    Records(io::Error),
    /// The records are safe; an index or a snapshot is not, and is tried again later.
    Indexes(io::Error),
}

impl From<FlushError> for io::Error {
    fn from(error: FlushError) -> Self {
        match error {
            FlushError::Records(error) | FlushError::Indexes(error) => error,
        }
    }
}

impl FlushJob {
    /// Syncs; blocks for as long as that takes.
    pub(crate) fn run(&self) -> Result<(), FlushError> {
        for segment in &self.closing {
            segment.data.sync().map_err(FlushError::Records)?;
        }
        if let Some(active) = &self.active {
            active.sync().map_err(FlushError::Records)?;
        }
        self.closing.iter().try_for_each(|segment| self.write_files(segment)).map_err(FlushError::Indexes)
    }

    fn write_files(&self, segment: &Closing) -> io::Result<()> {
        for (path, content) in &segment.files {
            if self.storage.read(path)?.as_deref() != Some(content) {
                self.storage.replace(path, content)?;
            }
        }
        Ok(())
    }
}

impl PartitionLog {
    /// Whether more was appended since the last flush than `flush.messages` allows: the answer then waits for one.
    pub(crate) fn is_flush_due(&self) -> bool {
        self.storage.is_durable() && self.unflushed_records() >= self.config.flush_messages
    }

    /// Whether a closed segment is not on disk yet.
    pub(crate) fn has_closed_segments_to_flush(&self) -> bool {
        !self.closing.is_empty()
    }

    fn unflushed_records(&self) -> i64 {
        self.log_end_offset - self.flushed_offset
    }

    /// Everything before this offset would survive a power cut.
    pub(crate) fn flushed_offset(&self) -> i64 {
        self.flushed_offset
    }

    /// Whether the log is given up because nobody knows what its files hold.
    pub(crate) fn is_offline(&self) -> bool {
        self.offline
    }

    /// What a sync of everything appended so far has to do.
    pub(crate) fn begin_flush(&self) -> FlushJob {
        let active = self.segments.last().filter(|_| self.unflushed_records() > 0);
        FlushJob {
            storage: Arc::clone(&self.storage),
            closing: self.closing.clone(),
            active: active.map(Segment::sync_handle),
            up_to: self.log_end_offset,
            truncations: self.truncations,
        }
    }

    /// Only the closed segments: what is due after a roll, when no append asked for durability.
    pub(crate) fn begin_flush_of_closed(&self) -> FlushJob {
        let up_to = self.segments.last().map_or(0, |active| active.base_offset);
        FlushJob {
            storage: Arc::clone(&self.storage),
            closing: self.closing.clone(),
            active: None,
            up_to: up_to.min(self.log_end_offset),
            truncations: self.truncations,
        }
    }

    /// Takes note of what a job came to. After a failed sync of records the log is offline: nobody knows which pages are
    /// on disk, and a second sync may lie about them.
    pub(crate) fn end_flush(&mut self, job: &FlushJob, result: Result<(), FlushError>) -> io::Result<()> {
        if let Err(FlushError::Records(error)) = result {
            self.offline = true;
            return Err(error);
        }
        if job.truncations == self.truncations {
            self.flushed_offset = self.flushed_offset.max(job.up_to);
        }
        for done in &job.closing {
            // The segment may have gone while its files were written.
            if !self.segments.iter().any(|segment| segment.base_offset == done.base_offset) {
                for (path, _) in done.files.iter().filter(|(path, _)| !path.ends_with(".snapshot")) {
                    self.storage.remove(path)?;
                }
            }
        }
        if result.is_ok() {
            self.closing.retain(|segment| !job.closing.iter().any(|done| Arc::ptr_eq(done, segment)));
        }
        Ok(result?)
    }

    /// Syncs what was appended since the last flush, here and now.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let job = self.begin_flush();
        let result = job.run();
        self.end_flush(&job, result)
    }

    /// The active segment takes no more: remembers what is to be written of it, with the producers at its end, which is
    /// where the next one begins.
    pub(super) fn close_active(&mut self, next_base_offset: i64) -> io::Result<()> {
        let snapshot = segment::file_name(&self.folder, next_base_offset, "snapshot");
        if !self.storage.is_durable() {
            // Truncation needs it, and memory is not synced.
            return self.storage.replace(&snapshot, &self.producers.to_bytes());
        }
        let Some(active) = self.segments.last_mut() else { return Ok(()) };
        let mut files = active.finish_indexes(&self.folder);
        files.push((snapshot, self.producers.to_bytes()));
        let (base_offset, data) = (active.base_offset, active.sync_handle());
        self.closing.retain(|segment| segment.base_offset != base_offset);
        self.closing.push(Arc::new(Closing { base_offset, data, files }));
        Ok(())
    }

    /// The snapshot of the producers at the base of a segment, from wherever it is by now.
    pub(super) fn snapshot_at(&self, base_offset: i64) -> io::Result<Option<Vec<u8>>> {
        let path = segment::file_name(&self.folder, base_offset, "snapshot");
        let files = self.closing.iter().flat_map(|closing| &closing.files);
        match files.rev().find(|(it, _)| *it == path) {
            Some((_, content)) => Ok(Some(content.clone())),
            None => self.storage.read(&path),
        }
    }

    /// Keeps where recovery would begin in the data folder, from the next [`note_recovery_point`] on.
    ///
    /// [`note_recovery_point`]: Self::note_recovery_point
    pub(crate) fn keep_recovery_point_in(&mut self, entry: CheckpointEntry) {
        self.recovery_point = Some(entry);
    }

    /// Takes note of how much of the log needs no recovery: what is on disk with its indexes and its epochs.
    pub(crate) fn note_recovery_point(&mut self) {
        if self.epochs_unsaved {
            self.save_epochs();
        }
        if let Some(entry) = self.recovery_point.as_ref().filter(|_| !self.epochs_unsaved && !self.offline) {
            let closing = self.closing.iter().map(|segment| segment.base_offset).min();
            entry.note(self.flushed_offset.min(closing.unwrap_or(i64::MAX)));
        }
    }

    /// Before the log is cut at `offset`: what is appended there again is not on disk.
    pub(super) fn lower_recovery_point(&mut self, offset: i64) -> io::Result<()> {
        self.truncations += 1;
        match &self.recovery_point {
            Some(entry) => entry.lower(&*self.storage, offset),
            None => Ok(()),
        }
    }

    /// Leaves the log so that the next [`open`](Self::open) can be told [`Shutdown::Clean`](super::Shutdown::Clean).
    pub(crate) fn close(&mut self) -> io::Result<()> {
        if self.offline {
            return Err(io::Error::other("the log is offline"));
        }
        self.close_active(self.log_end_offset)?;
        if let Some(active) = self.segments.last_mut() {
            active.seal();
        }
        self.flush()?;
        self.write_epochs()?;
        self.note_recovery_point();
        self.remove_stale_files()
    }

    /// Snapshots of ends that the log has left behind, and indexes that a sync wrote of a segment that went meanwhile,
    /// would only confuse a reader of the folder.
    fn remove_stale_files(&self) -> io::Result<()> {
        for name in self.storage.list(&self.folder)? {
            let indexed = ["index", "timeindex", segment::TXN_INDEX]
                .iter()
                .find_map(|it| segment::base_offset_of(&name, it));
            if indexed.is_some_and(|base| self.segments.iter().all(|s| s.base_offset != base)) {
                self.storage.remove(&self.path(&name))?;
            }
            let Some(offset) = segment::base_offset_of(&name, "snapshot") else { continue };
            let in_use =
                offset == self.log_end_offset || self.segments.iter().any(|s| s.base_offset == offset);
            if !in_use {
                self.storage.remove(&self.path(&name))?;
            }
        }
        Ok(())
    }
}
