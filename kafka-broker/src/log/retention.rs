//! What makes a log's beginning go away: age, size, and `DeleteRecords`.

use std::io;

use super::segment::{self, Segment};
use super::{DeleteRecordsError, PartitionLog, ProducerState};

impl PartitionLog {
    /// Lets old segments go by `retention.ms` and `retention.bytes`, and those that lie before the log's start whatever
    /// the policy. What is not committed stays (`UnifiedLog.deletableSegments`). Returns how many went.
    pub(crate) fn enforce_retention(&mut self, now_ms: i64, high_watermark: i64) -> io::Result<usize> {
        if !self.config.deleted {
            return self.remove_before_start();
        }
        let retention_ms = self.config.retention_ms;
        // The active segment goes too once all of it is expired: it is closed first (Kafka's `deletableSegments`).
        if high_watermark >= self.log_end_offset
            && let Some(active) = self.segments.last_mut()
            && !active.is_empty()
            && is_expired(active, retention_ms, now_ms)
        {
            self.roll()?;
        }
        let mut excess = match self.config.retention_bytes {
            limit if limit >= 0 => self.size_bytes().saturating_sub(limit.unsigned_abs()),
            _ => 0,
        };
        let mut gone = 0;
        while let [oldest, next, ..] = &mut self.segments[..] {
            let next_base = next.base_offset;
            let size = oldest.size_bytes();
            let by_size = excess >= size && size > 0;
            let before_start = next_base <= self.log_start_offset;
            let may_go = next_base <= high_watermark;
            if !before_start && !(may_go && (by_size || is_expired(oldest, retention_ms, now_ms))) {
                break;
            }
            self.remove_oldest(next_base)?;
            excess = excess.saturating_sub(size);
            gone += 1;
        }
        Ok(gone)
    }

    /// Moves the log's start to `offset`, or to the high watermark if it is -1, and lets whole segments before it go.
    /// An offset below the start changes nothing. Returns the log's start.
    pub(crate) fn delete_records(&mut self, offset: i64) -> Result<i64, DeleteRecordsError> {
        const HIGH_WATERMARK: i64 = -1;
        if !self.config.deleted {
            return Err(DeleteRecordsError::Policy);
        }
        let high_watermark = self.high_watermark();
        let offset = if offset == HIGH_WATERMARK { high_watermark } else { offset };
        if offset < 0 || offset > high_watermark {
            return Err(DeleteRecordsError::OutOfRange { offset, high_watermark });
        }
        self.advance_log_start(offset);
        self.remove_before_start()?;
        Ok(self.log_start_offset)
    }

    /// Restores a start that [`delete_records`](Self::delete_records) moved before a restart. A log that lost more than
    /// was deleted begins anew there (`UnifiedLog.truncateFullyAndStartAt`).
    pub(crate) fn restore_log_start(&mut self, offset: i64) -> io::Result<()> {
        if offset > self.log_end_offset {
            return self.begin_anew_at(offset, ProducerState::default());
        }
        self.advance_log_start(offset);
        self.remove_before_start().map(drop)
    }

    fn remove_before_start(&mut self) -> io::Result<usize> {
        let mut gone = 0;
        while let [_, next, ..] = &self.segments[..] {
            let next_base = next.base_offset;
            if next_base > self.log_start_offset {
                break;
            }
            self.remove_oldest(next_base)?;
            gone += 1;
        }
        Ok(gone)
    }

    /// A file that cannot be removed keeps its segment, and is tried again.
    fn remove_oldest(&mut self, next_base: i64) -> io::Result<()> {
        if let Some(oldest) = self.segments.first() {
            oldest.remove(&*self.storage, &self.folder)?;
            self.segments.remove(0);
            self.advance_log_start(next_base);
        }
        Ok(())
    }

    pub(super) fn begin_anew_at(&mut self, offset: i64, producers: ProducerState) -> io::Result<()> {
        let (start, end) = (self.log_start_offset, self.log_end_offset);
        tracing::info!(log = self.folder, start, end, offset, "a log begins anew");
        self.lower_recovery_point(offset)?;
        for segment in &self.segments {
            segment.remove(&*self.storage, &self.folder)?;
        }
        // Only now: a segment that began at the same offset had a file of the same name.
        let next = Segment::open(&*self.storage, &self.folder, offset)?;
        self.closing.clear();
        if producers != ProducerState::default() {
            // Whoever opens this log again finds them at its beginning.
            let snapshot = segment::file_name(&self.folder, offset, "snapshot");
            self.storage.replace(&snapshot, &producers.to_bytes())?;
        }
        self.producers = producers;
        self.epochs = Default::default();
        (self.log_start_offset, self.log_end_offset) = (offset, offset);
        (self.flushed_offset, self.shown_offset) = (offset, offset);
        self.segments = vec![next];
        self.save_epochs();
        Ok(())
    }

    fn advance_log_start(&mut self, offset: i64) {
        if offset > self.log_start_offset {
            self.log_start_offset = offset;
            if self.epochs.truncate_from_start(offset) {
                self.save_epochs();
            }
        }
    }

    /// Forgets producers that were silent for `expiration_ms`.
    pub(crate) fn expire_producers(&mut self, now_ms: i64, expiration_ms: i64) {
        self.producers.expire(now_ms, expiration_ms);
    }
}

fn is_expired(segment: &mut Segment, retention_ms: i64, now_ms: i64) -> bool {
    let seen_ms = segment.seen(now_ms);
    // Records without a time age from when the segment was first seen; Kafka takes the file's time then.
    let newest = if segment.max_timestamp >= 0 { segment.max_timestamp } else { seen_ms };
    retention_ms >= 0 && now_ms.saturating_sub(newest) > retention_ms
}
