//! One pass over the closed segments: first the latest offset of each dirty key, then new segments without what is older.

use std::io;

use bytes::Bytes;
use kafka_wire::record_batch::{BatchError, ControlType, RecordBatch, batch_length};
use rustc_hash::{FxHashMap, FxHashSet};

use super::offset_map::OffsetMap;
use super::{Compacted, Compaction, Group, Source, swap};
use crate::log::segment::Segment;
use crate::log::{AbortedTxn, ReadError};
use crate::storage::{File, read_exact};

/// How much of a segment is read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// A batch may decompress to at most this much; the log took it under the same limit.
const MAX_DECOMPRESSED_BYTES: usize = 256 << 20;

/// The batches of a segment's file, whole.
pub(super) struct Batches<'a> {
    file: &'a dyn File,
    position: u64,
    chunk: Bytes,
}

impl<'a> Batches<'a> {
    pub(super) fn new(file: &'a dyn File) -> Self {
        Self { file, position: 0, chunk: Bytes::new() }
    }

    fn read(&mut self) -> Result<Option<RecordBatch>, ReadError> {
        if let Some(batch) = RecordBatch::split_from(&mut self.chunk)? {
            self.position += batch.size_bytes() as u64;
            return Ok(Some(batch));
        }
        if self.position >= self.file.len() {
            return Ok(None);
        }
        self.chunk = Bytes::from(self.file.read_at(self.position, CHUNK_BYTES)?.concat());
        if let Some(size) = batch_length(&self.chunk)?
            && size > self.chunk.len()
        {
            self.chunk = read_exact(self.file, self.position, size)?;
        }
        match RecordBatch::split_from(&mut self.chunk)? {
            Some(batch) => {
                self.position += batch.size_bytes() as u64;
                Ok(Some(batch))
            }
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a batch is cut short").into()),
        }
    }
}

impl Iterator for Batches<'_> {
    type Item = Result<RecordBatch, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.read();
        if next.is_err() {
            self.position = self.file.len();
            self.chunk = Bytes::new();
        }
        next.transpose()
    }
}

/// What became of the transactions in the range (`CleanedTransactionMetadata`).
#[derive(Debug, Default)]
struct Transactions {
    /// By producer: first and last offset of transactions that were aborted.
    aborted: FxHashMap<i64, Vec<(i64, i64)>>,
    /// The first offset of a transaction that is still open.
    first_open: Option<i64>,
}

impl Transactions {
    fn find(sources: &[Source]) -> Result<Self, ReadError> {
        let mut open: FxHashMap<i64, i64> = FxHashMap::default();
        let mut found = Self::default();
        for source in sources {
            for batch in Batches::new(&*source.file) {
                let batch = batch?;
                if !batch.is_transactional() {
                    continue;
                }
                match batch.control_type()? {
                    None => {
                        open.entry(batch.producer_id()).or_insert(batch.base_offset());
                    }
                    Some(ControlType::Abort) => {
                        if let Some(first) = open.remove(&batch.producer_id()) {
                            let range = (first, batch.last_offset());
                            found.aborted.entry(batch.producer_id()).or_default().push(range);
                        }
                    }
                    Some(_) => {
                        open.remove(&batch.producer_id());
                    }
                }
            }
        }
        found.first_open = open.into_values().min();
        Ok(found)
    }

    fn is_aborted(&self, batch: &RecordBatch) -> bool {
        batch.is_transactional()
            && !batch.is_control()
            && self.aborted.get(&batch.producer_id()).is_some_and(|ranges| {
                ranges.iter().any(|&(first, last)| (first..=last).contains(&batch.base_offset()))
            })
    }
}

impl Compaction {
    /// Reads and writes as much as the closed segments are large; run it on a thread that may block.
    pub(crate) fn run(self) -> Result<Compacted, ReadError> {
        let transactions = Transactions::find(&self.sources)?;
        let map = self.map_dirty_keys(&transactions)?;
        let mut groups = Vec::new();
        // Which transactions have data, by producer: a marker stays at least as long as that.
        let mut observed = FxHashSet::default();
        for sources in self.group(&map) {
            match self.compact(sources, &map, &transactions, &mut observed) {
                Ok(group) => groups.push(group),
                Err(error) => {
                    for group in &groups {
                        swap::discard(&*self.storage, &self.folder, group.segment.base_offset)?;
                    }
                    if let Some(first) = sources.first() {
                        swap::discard(&*self.storage, &self.folder, first.base_offset)?;
                    }
                    return Err(error);
                }
            }
        }
        // Empty segments and batches without keys have no place in the map but are done as well.
        Ok(Compacted { groups, cleaned_offset: (map.latest_offset + 1).max(self.first_dirty) })
    }

    /// The keys from the first dirty offset on, as many as fit.
    fn map_dirty_keys(&self, transactions: &Transactions) -> Result<OffsetMap, ReadError> {
        let mut map = OffsetMap::new(self.max_bytes);
        map.latest_offset = self.first_dirty - 1;
        for source in self.sources.iter().filter(|source| source.end_offset > self.first_dirty) {
            for batch in Batches::new(&*source.file) {
                let batch = batch?;
                if batch.last_offset() < self.first_dirty {
                    continue;
                }
                let keys = usize::try_from(batch.record_count()).unwrap_or(0);
                let is_open = transactions.first_open.is_some_and(|first| batch.last_offset() >= first);
                if is_open || !map.has_room_for(keys) {
                    return Ok(map);
                }
                if !batch.is_control() && !transactions.is_aborted(&batch) {
                    let mut records = batch.records(MAX_DECOMPRESSED_BYTES)?;
                    while let Some(record) = records.next_view() {
                        let record = record?;
                        if let Some(key) = record.key.filter(|_| record.offset >= self.first_dirty) {
                            map.insert(key, record.offset);
                        }
                    }
                }
                map.latest_offset = batch.last_offset();
            }
            map.latest_offset = map.latest_offset.max(source.end_offset - 1);
        }
        Ok(map)
    }

    /// Neighbours that fit into one segment together become one (`Cleaner.groupSegmentsBySize`).
    fn group(&self, map: &OffsetMap) -> Vec<&[Source]> {
        let sources = self.sources.iter().take_while(|source| source.base_offset <= map.latest_offset);
        let mut rest = &self.sources[..sources.count()];
        let mut groups = Vec::new();
        while let Some(first) = rest.first() {
            let mut size = 0;
            let fits = |source: &&Source| {
                size += source.size_bytes;
                size <= self.config.segment_bytes
                    && source.end_offset - first.base_offset <= i64::from(i32::MAX)
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (group, after) = rest.split_at(count);
            groups.push(group);
            rest = after;
        }
        groups
    }

    fn compact(
        &self,
        sources: &[Source],
        map: &OffsetMap,
        transactions: &Transactions,
        observed: &mut FxHashSet<i64>,
    ) -> Result<Group, ReadError> {
        let base_offset = sources.first().map_or(0, |source| source.base_offset);
        swap::discard(&*self.storage, &self.folder, base_offset)?;
        let mut segment = Segment::open_as(&*self.storage, &self.folder, base_offset, "log.cleaned")?;
        for source in sources {
            segment.seen(source.seen_ms);
            for batch in Batches::new(&*source.file) {
                if let Some(kept) = self.filter(&batch?, map, transactions, observed)? {
                    // The index says what the markers say: without its marker, an entry would hide what comes later.
                    let marked =
                        |txn: &&AbortedTxn| kept.is_control() && txn.last_offset == kept.last_offset();
                    segment.aborted.extend(source.aborted.iter().find(marked));
                    let bytes = kept.bytes().clone();
                    segment.append(bytes, &[kept], self.config.index_interval_bytes)?;
                }
            }
        }
        for (part, content) in segment.finished_indexes() {
            let path = swap::cleaned_name(&self.folder, base_offset, part);
            self.storage.replace(&path, &content)?;
        }
        segment.sync_handle().sync()?;
        segment.seal();
        let replaced = sources.iter().map(|source| (source.base_offset, source.size_bytes)).collect();
        Ok(Group { replaced, segment })
    }

    /// What stays of a batch (`Cleaner.cleanInto`, `MemoryRecords.filterTo`).
    fn filter(
        &self,
        batch: &RecordBatch,
        map: &OffsetMap,
        transactions: &Transactions,
        observed: &mut FxHashSet<i64>,
    ) -> Result<Option<RecordBatch>, BatchError> {
        let new_horizon = self.now_ms.saturating_add(self.config.delete_retention_ms);
        let horizon = batch.delete_horizon();
        let is_past_horizon = horizon.is_some_and(|horizon| self.now_ms >= horizon);
        let empty = || match self.last_offsets.get(&batch.producer_id()) {
            // A producer's last batch keeps its sequence known, records or not.
            Some(&last) if last == batch.last_offset() => batch.without_records().map(Some),
            _ => Ok(None),
        };
        if batch.base_offset() > map.latest_offset {
            return Ok(Some(batch.clone()));
        }
        if batch.is_control() {
            let has_data = observed.remove(&batch.producer_id());
            return match (has_data, horizon) {
                (true, _) => Ok(Some(batch.clone())),
                (false, None) => batch.retain(MAX_DECOMPRESSED_BYTES, Some(new_horizon), |_| true),
                (false, Some(_)) if is_past_horizon => Ok(None),
                (false, Some(_)) => Ok(Some(batch.clone())),
            };
        }
        if batch.is_transactional() {
            observed.insert(batch.producer_id());
        }
        if transactions.is_aborted(batch) {
            return empty();
        }
        let mut has_tombstones = false;
        let mut keep = |record: &kafka_wire::record_batch::RecordView<'_>| {
            if record.offset > map.latest_offset {
                return true;
            }
            let is_latest = record.key.is_some_and(|key| map.is_latest(key, record.offset));
            let stays = is_latest && (record.value.is_some() || !is_past_horizon);
            has_tombstones |= stays && record.value.is_none();
            stays
        };
        let Some(kept) = batch.retain(MAX_DECOMPRESSED_BYTES, None, &mut keep)? else { return empty() };
        if has_tombstones && horizon.is_none() {
            return kept.retain(MAX_DECOMPRESSED_BYTES, Some(new_horizon), |_| true);
        }
        Ok(Some(kept))
    }
}
