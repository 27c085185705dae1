//! Opening a log: believing what an orderly end left, and checking everything after any other end.

use std::io;

use super::leader_epoch::LeaderEpochs;
use super::producer_state::ProducerState;
use super::segment::{self, Segment};
use super::{EPOCH_FILE, PartitionLog, ReadError, Shutdown};

impl PartitionLog {
    pub(super) fn load(&mut self, shutdown: Shutdown) -> io::Result<()> {
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
        let believed = match shutdown {
            Shutdown::Clean => base_offsets.len(),
            Shutdown::Unclean => 0,
            // A segment ends where the next one begins.
            Shutdown::UncleanAfter(point) => {
                base_offsets.partition_point(|&base| base <= point).saturating_sub(1)
            }
        };
        let mut recovered_from = None;
        let mut is_torn = false;
        for (at, base_offset) in base_offsets.into_iter().enumerate() {
            let mut segment = Segment::open(&*self.storage, &self.folder, base_offset)?;
            // A segment that begins inside the one before it can only be what a torn roll left. What comes after a torn
            // end was written later, and would leave a hole that no leader fills (`LogLoader.recoverLog`).
            if base_offset < self.log_end_offset || is_torn {
                segment.remove(&*self.storage, &self.folder)?;
                continue;
            }
            if at < believed {
                // Producers and epochs of the segments before are known only once those are read too.
                if !self.load_closed(&mut segment)? {
                    return self.reload();
                }
            } else {
                match recovered_from {
                    // Its index is rebuilt and written: nothing else would, and every later start would miss it.
                    Some(_) => self.close_active(base_offset)?,
                    None if !self.resume_at(base_offset)? => return self.reload(),
                    None => recovered_from = Some(base_offset),
                }
                is_torn = self.recover_segment(&mut segment)?;
            }
            self.segments.push(segment);
        }
        if let Some(base_offset) = recovered_from {
            // The file system knew these records, which says nothing about the disk.
            self.flushed_offset = base_offset;
            self.flush()?;
            self.flushed_offset = self.log_end_offset;
            return self.write_epochs();
        }
        self.flushed_offset = self.log_end_offset;
        let snapshot = names.iter().filter_map(|name| segment::base_offset_of(name, "snapshot")).max();
        if !self.load_producers(snapshot)? {
            return self.reload();
        }
        match self.read_epochs()? {
            Some(epochs) => self.epochs = epochs,
            None if self.log_end_offset > self.log_start_offset => return self.reload(),
            None => {}
        }
        Ok(())
    }

    fn read_epochs(&self) -> io::Result<Option<LeaderEpochs>> {
        let text = self.storage.read(&self.path(EPOCH_FILE))?.unwrap_or_default();
        Ok(LeaderEpochs::from_text(&String::from_utf8_lossy(&text)))
    }

    /// Producers and epochs as they were where a segment begins. `false`: that is not known.
    fn resume_at(&mut self, base_offset: i64) -> io::Result<bool> {
        if base_offset > self.log_start_offset {
            let Some(mut epochs) = self.read_epochs()? else { return Ok(false) };
            epochs.truncate_from_end(base_offset);
            self.epochs = epochs;
        }
        self.load_producers_at(base_offset)
    }

    /// A clean end that cannot be believed is an unclean one.
    pub(super) fn reload(&mut self) -> io::Result<()> {
        self.segments.clear();
        self.closing.clear();
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

    /// Whether something had to be cut.
    pub(super) fn recover_segment(&mut self, segment: &mut Segment) -> io::Result<bool> {
        let (producers, epochs) = (&mut self.producers, &mut self.epochs);
        let mut aborted = Vec::new();
        let (next_offset, cut) = segment.recover(self.config.index_interval_bytes, |batch| {
            aborted.extend(producers.appended(batch, batch.max_timestamp()));
            epochs.assign(batch.leader_epoch(), batch.base_offset());
        })?;
        segment.aborted = aborted;
        // What they say may have been cut, and is written again when the segment is closed.
        segment.remove_indexes(&*self.storage, &self.folder)?;
        if cut > 0 {
            tracing::warn!(log = self.folder, offset = next_offset, bytes = cut, "cut a torn tail");
        }
        self.log_end_offset = next_offset;
        Ok(cut > 0)
    }

    /// The producers at a segment's base. `false`: they are not known. Those of the first segment are, whatever is there:
    /// producers whose batches retention deleted are known from the snapshot alone.
    pub(super) fn load_producers_at(&mut self, base_offset: i64) -> io::Result<bool> {
        let snapshot = self.snapshot_at(base_offset)?.unwrap_or_default();
        let producers = ProducerState::from_bytes(&snapshot);
        let is_known = producers.is_some() || self.segments.is_empty();
        self.producers = producers.unwrap_or_default();
        Ok(is_known)
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
}
