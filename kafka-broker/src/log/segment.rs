//! One segment: a file of batches with its two sparse indexes.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use kafka_wire::record_batch::{BATCH_HEADER_BYTES, BatchError, NO_TIMESTAMP, RecordBatch, batch_length};

use super::error::ReadError;
use super::index::{OffsetIndex, TimeIndex};
use super::transactions::{self, AbortedTxn};
use crate::storage::{File, Storage, SyncHandle, read_exact};

/// How much is read at once while batches are walked. Index entries lie closer together than this by default.
const WALK_BYTES: usize = 8 * 1024;

/// How many bytes of batches recovery looks at at once.
const RECOVERY_BYTES: usize = 1 << 20;

/// The suffix of the index of aborted transactions.
pub(super) const TXN_INDEX: &str = "txnindex";

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) base_offset: i64,
    file: Box<dyn File>,
    offsets: OffsetIndex,
    times: TimeIndex,
    bytes_since_entry: usize,
    /// When the first batch was written, by its own timestamp: what `segment.ms` counts from.
    pub(super) first_timestamp: Option<i64>,
    pub(super) max_timestamp: i64,
    max_timestamp_offset: i64,
    /// When this process first looked at the segment: the age of records that carry no time.
    seen_ms: Option<i64>,
    /// Transactions whose abort marker is here, in the order of the markers.
    pub(super) aborted: Vec<AbortedTxn>,
}

/// Where a batch lies in its segment, and the header fields that walking needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Located {
    position: u64,
    size: usize,
    last_offset: i64,
    max_timestamp: i64,
}

/// The name of a segment's file: 20 digits of its base offset, as Kafka names it.
pub(super) fn file_name(folder: &str, base_offset: i64, suffix: &str) -> String {
    format!("{folder}/{base_offset:020}.{suffix}")
}

/// The base offset in a segment file's name.
pub(super) fn base_offset_of(name: &str, suffix: &str) -> Option<i64> {
    let digits = name.strip_suffix(suffix)?.strip_suffix('.')?;
    (digits.len() == 20).then(|| digits.parse().ok())?
}

impl Segment {
    /// Opens the segment's file, new or old, without any index.
    pub(super) fn open(storage: &dyn Storage, folder: &str, base_offset: i64) -> io::Result<Self> {
        Self::open_as(storage, folder, base_offset, "log")
    }

    /// Opens the segment's file under the name that it has for now.
    pub(super) fn open_as(
        storage: &dyn Storage,
        folder: &str,
        base_offset: i64,
        suffix: &str,
    ) -> io::Result<Self> {
        Ok(Self {
            base_offset,
            file: storage.open(&file_name(folder, base_offset, suffix))?,
            offsets: OffsetIndex::default(),
            times: TimeIndex::default(),
            bytes_since_entry: 0,
            first_timestamp: None,
            max_timestamp: NO_TIMESTAMP,
            max_timestamp_offset: -1,
            seen_ms: None,
            aborted: Vec::new(),
        })
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.file.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.file.len() == 0
    }

    /// Appends whole batches that were given their offsets. After an error the file may hold a part of them.
    pub(super) fn append(
        &mut self,
        bytes: Bytes,
        batches: &[RecordBatch],
        index_interval: usize,
    ) -> io::Result<()> {
        let mut position = self.file.len();
        self.file.append(bytes)?;
        for batch in batches {
            self.note(batch, position, index_interval);
            position += batch.size_bytes() as u64;
        }
        Ok(())
    }

    /// Takes a batch at `position` into the indexes, as Kafka's `LogSegment.append` does.
    fn note(&mut self, batch: &RecordBatch, position: u64, index_interval: usize) {
        let last_offset = batch.last_offset();
        if batch.max_timestamp() > self.max_timestamp {
            self.max_timestamp = batch.max_timestamp();
            self.max_timestamp_offset = last_offset;
        }
        self.first_timestamp.get_or_insert(batch.max_timestamp());
        if self.bytes_since_entry > index_interval {
            self.offsets.push(self.relative(last_offset), position as u32);
            self.times.push(self.max_timestamp, self.relative(self.max_timestamp_offset));
            self.bytes_since_entry = 0;
        }
        self.bytes_since_entry += batch.size_bytes();
    }

    /// Offsets of a segment lie within `u32` of its base: the log rolls before they do not.
    fn relative(&self, offset: i64) -> u32 {
        u32::try_from(offset - self.base_offset).unwrap_or(0)
    }

    /// Cuts the file after a failed append. The indexes know nothing of what is cut.
    pub(super) fn cut(&mut self, size_bytes: u64) -> io::Result<()> {
        self.file.truncate(size_bytes)
    }

    /// Cuts the batch that holds `offset` and all after it. The indexes have to be rebuilt.
    pub(super) fn truncate_to(&mut self, offset: i64) -> io::Result<()> {
        let mut keep = self.file.len();
        for located in self.walk(u64::from(self.offsets.position(self.relative(offset)))) {
            let located = located.map_err(io::Error::other)?;
            if located.last_offset >= offset {
                keep = located.position;
                break;
            }
        }
        self.file.truncate(keep)
    }

    /// When the segment was first seen, which is `now_ms` if it was not before.
    pub(super) fn seen(&mut self, now_ms: i64) -> i64 {
        *self.seen_ms.get_or_insert(now_ms)
    }

    /// Takes room for so many bytes in advance.
    pub(super) fn reserve(&self, bytes: u64) {
        self.file.reserve(bytes);
    }

    /// No more is appended.
    pub(super) fn seal(&mut self) {
        self.file.seal();
    }

    pub(super) fn sync_handle(&self) -> Arc<dyn SyncHandle> {
        self.file.sync_handle()
    }

    /// The segment's file for a reader that outlives the segment.
    pub(super) fn reader(&self) -> Box<dyn File> {
        self.file.reader()
    }

    /// Whether an index has as many entries as `index_bytes` hold (`segment.index.bytes`).
    pub(super) fn is_index_full(&self, index_bytes: usize) -> bool {
        self.offsets.is_full(index_bytes) || self.times.is_full(index_bytes)
    }

    /// Whole batches from the one that holds `offset` on, at most `max_bytes`, or one batch if `minimum_one` and the
    /// first is larger; and whether that reaches the segment's end. Empty when the segment ends before `offset`.
    pub(super) fn read(
        &self,
        offset: i64,
        max_bytes: usize,
        minimum_one: bool,
    ) -> Result<(Vec<Bytes>, bool), ReadError> {
        let start = u64::from(self.offsets.position(self.relative(offset.max(self.base_offset))));
        let Some(first) =
            self.walk(start).find(|located| !matches!(located, Ok(batch) if batch.last_offset < offset))
        else {
            return Ok((Vec::new(), true));
        };
        let first = first?;
        let pieces = if first.size > max_bytes {
            match minimum_one {
                true => self.file.read_at(first.position, first.size)?,
                false => Vec::new(),
            }
        } else {
            let mut pieces = self.file.read_at(first.position, max_bytes)?;
            trim_to_whole_batches(&mut pieces)?;
            pieces
        };
        let end = first.position + pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        Ok((pieces, end >= self.file.len()))
    }

    /// The first record at or after `offset` whose timestamp is at least `timestamp`: its offset, timestamp and epoch.
    pub(super) fn find_timestamp(
        &self,
        timestamp: i64,
        from_offset: i64,
        limit: usize,
    ) -> Result<Option<(i64, i64, i32)>, ReadError> {
        let start = u64::from(self.offsets.position(self.times.offset(timestamp)));
        for located in self.walk(start) {
            let located = located?;
            if located.max_timestamp < timestamp || located.last_offset < from_offset {
                continue;
            }
            let mut bytes = read_exact(&*self.file, located.position, located.size)?;
            let Some(batch) = RecordBatch::split_from(&mut bytes)? else { break };
            let mut records = batch.records(limit)?;
            while let Some(record) = records.next_view() {
                let record = record?;
                if record.timestamp >= timestamp && record.offset >= from_offset {
                    return Ok(Some((record.offset, record.timestamp, batch.leader_epoch())));
                }
            }
        }
        Ok(None)
    }

    /// The batches from `position` on, by their headers.
    fn walk(&self, position: u64) -> impl Iterator<Item = Result<Located, ReadError>> + '_ {
        let mut position = position;
        // The last piece that was read, and where it begins.
        let mut window = (0u64, Bytes::new());
        std::iter::from_fn(move || {
            if position >= self.file.len() {
                return None;
            }
            let result = self.header(position, &mut window);
            match &result {
                Ok(located) => position += located.size as u64,
                Err(_) => position = u64::MAX,
            }
            Some(result)
        })
    }

    fn header(&self, position: u64, window: &mut (u64, Bytes)) -> Result<Located, ReadError> {
        let within = |window: &(u64, Bytes)| {
            let from = usize::try_from(position.checked_sub(window.0)?).ok()?;
            window.1.get(from..from + BATCH_HEADER_BYTES).map(|_| window.1.slice(from..))
        };
        let header = match within(window) {
            Some(header) => header,
            None => {
                // Pieces hold whole batches, so a header never lies across two of them.
                let piece = self.file.read_at(position, WALK_BYTES)?.into_iter().next().unwrap_or_default();
                *window = (position, piece.clone());
                piece
            }
        };
        let cut =
            || io::Error::new(io::ErrorKind::UnexpectedEof, format!("no whole batch at position {position}"));
        let size = batch_length(&header)?.filter(|_| header.len() >= BATCH_HEADER_BYTES).ok_or_else(cut)?;
        let header = RecordBatch::header_only(header).ok_or_else(cut)?;
        Ok(Located {
            position,
            size,
            last_offset: header.last_offset(),
            max_timestamp: header.max_timestamp(),
        })
    }

    /// Reads everything, cuts the file at the first bad byte and rebuilds the indexes.
    ///
    /// Calls `each` with every sound batch. Returns the offset after the last one and how many bytes were cut.
    pub(super) fn recover(
        &mut self,
        index_interval: usize,
        mut each: impl FnMut(&RecordBatch),
    ) -> io::Result<(i64, u64)> {
        self.offsets = OffsetIndex::default();
        self.times = TimeIndex::default();
        self.bytes_since_entry = 0;
        (self.max_timestamp, self.max_timestamp_offset) = (NO_TIMESTAMP, -1);
        self.first_timestamp = None;
        let mut next_offset = self.base_offset;
        let mut position = 0;
        let len = self.file.len();
        while position < len {
            let Some(sound) = self.sound_batches(position, next_offset)? else { break };
            for batch in sound {
                self.note(&batch, position, index_interval);
                position += batch.size_bytes() as u64;
                next_offset = batch.next_offset();
                each(&batch);
            }
        }
        let cut = len - position;
        if cut > 0 {
            self.file.truncate(position)?;
        }
        Ok((next_offset, cut))
    }

    /// The sound batches that lie in the next piece of the file; `None` when the first one is not sound.
    fn sound_batches(&self, position: u64, mut next_offset: i64) -> io::Result<Option<Vec<RecordBatch>>> {
        let mut bytes = one_piece(self.file.read_at(position, RECOVERY_BYTES)?);
        if let Ok(Some(size)) = batch_length(&bytes)
            && size > bytes.len()
        {
            if position + size as u64 > self.file.len() {
                return Ok(None);
            }
            bytes = read_exact(&*self.file, position, size)?;
        }
        let mut sound = Vec::new();
        while let Ok(Some(batch)) = RecordBatch::split_from(&mut bytes) {
            let in_order = batch.base_offset() >= next_offset && batch.last_offset() >= batch.base_offset();
            if !in_order || batch.verify_crc().is_err() {
                break;
            }
            next_offset = batch.next_offset();
            sound.push(batch);
        }
        Ok((!sound.is_empty()).then_some(sound))
    }

    /// Loads the index files of a segment that was closed in order; `false` when they cannot be believed.
    pub(super) fn load_indexes(&mut self, storage: &dyn Storage, folder: &str) -> io::Result<bool> {
        let read = |suffix: &str| storage.read(&file_name(folder, self.base_offset, suffix));
        let (Some(offsets), Some(times)) = (read("index")?, read("timeindex")?) else {
            return Ok(false);
        };
        let (Some(offsets), Some(times)) =
            (OffsetIndex::from_bytes(&offsets, self.file.len()), TimeIndex::from_bytes(&times))
        else {
            return Ok(false);
        };
        let aborted = read(TXN_INDEX)?.unwrap_or_default();
        let Some(aborted) = transactions::index_from_bytes(&aborted) else { return Ok(false) };
        self.offsets = offsets;
        self.times = times;
        self.aborted = aborted;
        Ok(true)
    }

    /// Finds out what only the batches know, with loaded indexes: the times, and the offset after the last batch. Walks
    /// from the last index entry; the largest timestamp before that is the last time entry's.
    pub(super) fn scan_end(&mut self) -> Result<i64, ReadError> {
        let start = u64::from(self.offsets.position(u32::MAX));
        let mut newest = self.times.last().map_or((NO_TIMESTAMP, -1), |(timestamp, relative)| {
            (timestamp, self.base_offset + i64::from(relative))
        });
        let mut next_offset = self.base_offset;
        let mut end = start;
        for located in self.walk(start) {
            let located = located?;
            if located.max_timestamp > newest.0 {
                newest = (located.max_timestamp, located.last_offset);
            }
            next_offset = located.last_offset + 1;
            end = located.position + located.size as u64;
        }
        if end != self.file.len() {
            return Err(BatchError::BadLength { base_offset: next_offset, length: 0 }.into());
        }
        let first = self.walk(0).next().transpose()?;
        self.first_timestamp = first.map(|located| located.max_timestamp);
        (self.max_timestamp, self.max_timestamp_offset) = newest;
        Ok(next_offset)
    }

    /// The index files by path, with a last time entry as Kafka adds when a segment becomes inactive.
    pub(super) fn finish_indexes(&mut self, folder: &str) -> Vec<(String, Vec<u8>)> {
        let files = self.finished_indexes().into_iter();
        // Kafka makes the index of aborted transactions with the first one.
        let files = files.filter(|(suffix, content)| *suffix != TXN_INDEX || !content.is_empty());
        files.map(|(suffix, content)| (file_name(folder, self.base_offset, suffix), content)).collect()
    }

    /// The same by suffix.
    pub(super) fn finished_indexes(&mut self) -> [(&'static str, Vec<u8>); 3] {
        if self.max_timestamp_offset >= 0 {
            self.times.push(self.max_timestamp, self.relative(self.max_timestamp_offset));
        }
        [
            ("index", self.offsets.to_bytes()),
            ("timeindex", self.times.to_bytes()),
            (TXN_INDEX, transactions::index_to_bytes(&self.aborted)),
        ]
    }

    pub(super) fn remove(&self, storage: &dyn Storage, folder: &str) -> io::Result<()> {
        for suffix in ["log", "snapshot"] {
            storage.remove(&file_name(folder, self.base_offset, suffix))?;
        }
        self.remove_indexes(storage, folder)
    }

    pub(super) fn remove_indexes(&self, storage: &dyn Storage, folder: &str) -> io::Result<()> {
        ["index", "timeindex", TXN_INDEX]
            .iter()
            .try_for_each(|suffix| storage.remove(&file_name(folder, self.base_offset, suffix)))
    }
}

fn one_piece(mut pieces: Vec<Bytes>) -> Bytes {
    match pieces.len() {
        1 => pieces.remove(0),
        _ => Bytes::from(pieces.concat()),
    }
}

/// Drops the cut batch at the end, if there is one. Pieces hold whole batches but for that.
fn trim_to_whole_batches(pieces: &mut Vec<Bytes>) -> Result<(), ReadError> {
    let Some(last) = pieces.last_mut() else { return Ok(()) };
    let mut whole = 0;
    while let Some(size) = batch_length(last.get(whole..).unwrap_or_default())? {
        if whole + size > last.len() {
            break;
        }
        whole += size;
    }
    last.truncate(whole);
    if whole == 0 {
        pieces.pop();
    }
    Ok(())
}
