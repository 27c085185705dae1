//! Making a log durable without holding its lock, and leaving it in order.
//!
//! Syncing takes as long as the device likes, so it is a job that is taken under the log's lock, run without it and
//! reported afterwards. One job covers everything appended before it was taken: appends that wait for the same job share
//! its sync, which is all that group commit is.

use std::io;
use std::sync::Arc;

use super::PartitionLog;
use super::segment::{self, Segment};
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
}

/// What is to be synced. Run it on a thread that may block.
#[derive(Debug)]
pub(crate) struct FlushJob {
    storage: Arc<dyn Storage>,
    closing: Vec<Arc<Closing>>,
    active: Option<Arc<dyn SyncHandle>>,
    /// Everything before this offset is durable afterwards.
    up_to: i64,
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
        }
    }

    /// Takes note of what a job came to. After a failed sync of records the log is offline: nobody knows which pages are
    /// on disk, and a second sync may lie about them.
    pub(crate) fn end_flush(&mut self, job: &FlushJob, result: Result<(), FlushError>) -> io::Result<()> {
        if let Err(FlushError::Records(error)) = result {
            self.offline = true;
            return Err(error);
        }
        self.flushed_offset = self.flushed_offset.max(job.up_to.min(self.log_end_offset));
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

    /// The active segment takes no more: remembers what is to be written of it, with the producers at its end.
    pub(super) fn close_active(&mut self) {
        let Some(active) = self.segments.last_mut().filter(|_| self.storage.is_durable()) else { return };
        let mut files = active.finish_indexes(&self.folder);
        let snapshot = segment::file_name(&self.folder, self.log_end_offset, "snapshot");
        files.push((snapshot, self.producers.to_bytes()));
        let (base_offset, data) = (active.base_offset, active.sync_handle());
        self.closing.retain(|segment| segment.base_offset != base_offset);
        self.closing.push(Arc::new(Closing { base_offset, data, files }));
    }

    /// Leaves the log so that the next [`open`](Self::open) can be told [`Shutdown::Clean`](super::Shutdown::Clean).
    pub(crate) fn close(&mut self) -> io::Result<()> {
        if self.offline {
            return Err(io::Error::other("the log is offline"));
        }
        self.close_active();
        self.flush()?;
        self.write_epochs()?;
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
