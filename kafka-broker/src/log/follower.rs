//! What only followers do to a log: take a leader's batches as they are, and cut what is not the leader's.

use std::io;

use bytes::Bytes;
use kafka_wire::record_batch::{NO_TIMESTAMP, RecordBatch};

use super::{AppendError, PartitionLog, ProducerState};

impl PartitionLog {
    /// Appends batches that the leader has, with their offsets and epochs. The bytes are kept, not copied.
    pub(crate) fn append_as_follower(&mut self, bytes: Bytes, now_ms: i64) -> Result<(), AppendError> {
        if self.offline {
            return Err(AppendError::Offline);
        }
        let batches = RecordBatch::iter(bytes.clone()).collect::<Result<Vec<_>, _>>()?;
        let size: usize = batches.iter().map(RecordBatch::size_bytes).sum();
        if let Some(first) = batches.first()
            && self.log_start_offset == self.log_end_offset
            && first.base_offset() < self.log_end_offset
            && first.last_offset() >= self.log_end_offset
        {
            // The leader's log starts inside a batch, of which records were deleted; batches are whole on every replica.
            // The caller moves the start back to where the leader has it.
            let producers = std::mem::take(&mut self.producers);
            self.begin_anew_at(first.base_offset(), producers)?;
        }
        let mut expected = self.log_end_offset;
        for batch in &batches {
            // A compacted leader has gaps, which stay gaps; nothing may go backwards.
            if batch.base_offset() < expected || batch.last_offset() < batch.base_offset() {
                return Err(out_of_order());
            }
            expected = batch.next_offset();
        }
        let Some(last) = batches.last().filter(|_| size == bytes.len()) else { return Err(out_of_order()) };
        let newest = batches.iter().map(RecordBatch::max_timestamp).max().unwrap_or(NO_TIMESTAMP);
        self.roll_if_due(bytes.len(), last.last_offset(), newest, now_ms)?;
        self.write(bytes, &batches)?;
        self.log_end_offset = expected;
        let mut new_epoch = false;
        self.note_producers(&batches, now_ms);
        for batch in &batches {
            new_epoch |= self.epochs.assign(batch.leader_epoch(), batch.base_offset());
        }
        if new_epoch {
            self.save_epochs();
        }
        Ok(())
    }

    /// Cuts everything from `offset` on, whole batches at a time. Never leaves an end beyond `offset`.
    pub(crate) fn truncate_to(&mut self, offset: i64) -> io::Result<()> {
        if offset >= self.log_end_offset {
            // An epoch may begin at the end of a log that retention has emptied, and it may not be the leader's
            // (`UnifiedLog.truncateTo`).
            if self.epochs.truncate_from_end(self.log_end_offset) {
                self.save_epochs();
            }
            return Ok(());
        }
        if self.segments.first().is_some_and(|first| first.base_offset > offset) {
            // Records were deleted here, by age perhaps, up to beyond what is kept (`LocalLog.truncateFullyAndStartAt`).
            return self.begin_anew_at(offset, ProducerState::default());
        }
        let (start, end) = (self.log_start_offset, self.log_end_offset);
        tracing::info!(log = self.folder, start, end, offset, "a log is cut");
        self.lower_recovery_point(offset)?;
        let cut = self.cut_from(offset);
        // Nobody knows what is left.
        self.offline |= cut.is_err();
        cut
    }

    /// Of the segments only the one that is cut is read again: the producers at its base are known.
    fn cut_from(&mut self, offset: i64) -> io::Result<()> {
        while self.segments.len() > 1
            && let Some(last) = self.segments.last()
            && last.base_offset >= offset
        {
            last.remove(&*self.storage, &self.folder)?;
            self.segments.pop();
        }
        let Some(mut active) = self.segments.pop() else { return Ok(()) };
        self.closing.retain(|closing| !closing.is_at_or_after(active.base_offset));
        let resumed = active
            .truncate_to(offset)
            .and_then(|()| self.load_producers_at(active.base_offset))
            .and_then(|is_known| is_known.then(|| self.recover_segment(&mut active)).transpose());
        self.segments.push(active);
        let log_start_offset = self.log_start_offset;
        match resumed? {
            Some(_) => {
                self.epochs.truncate_from_end(self.log_end_offset);
                self.save_epochs();
            }
            None => self.reload()?,
        }
        self.log_start_offset = self.log_start_offset.max(log_start_offset).min(self.log_end_offset);
        self.flushed_offset = self.flushed_offset.min(self.log_end_offset);
        self.shown_offset = self.shown_offset.min(self.log_end_offset);
        Ok(())
    }

    /// Drops everything; the next batch begins at `offset` or later. What `producers` wrote before may be sent again.
    pub(crate) fn restart_at(&mut self, offset: i64, producers: ProducerState) -> io::Result<()> {
        self.begin_anew_at(offset, producers)
    }

    /// What a follower whose log begins at `offset` has to know of those that wrote before. Kafka's does not: once it leads,
    /// it takes for new what they send again.
    pub(crate) fn producers_at(&self, offset: i64) -> ProducerState {
        self.producers.before(offset)
    }
}

fn out_of_order() -> AppendError {
    AppendError::Invalid { reason: "the leader's batches are out of order", records: Vec::new() }
}
