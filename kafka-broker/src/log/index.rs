//! The sparse indexes of a segment: where an offset lies, and from which offset on a time is reached.
//!
//! Files are Kafka's: `.index` holds (offset - base, position) pairs of four bytes each, `.timeindex` (timestamp of eight
//! bytes, offset - base of four). Entries live in memory; files are written when a segment is closed, because recovery
//! rebuilds the open segment's entries anyway.

/// One index entry for about every `index.interval.bytes` of a segment.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct OffsetIndex {
    entries: Vec<(u32, u32)>,
}

const OFFSET_ENTRY_BYTES: usize = 8;
const TIME_ENTRY_BYTES: usize = 12;

impl OffsetIndex {
    /// The batch at `position` ends with the offset `relative` to the segment's base.
    pub(super) fn push(&mut self, relative: u32, position: u32) {
        self.entries.push((relative, position));
    }

    /// Whether an entry more would not fit into a file of `file_bytes`.
    pub(super) fn is_full(&self, file_bytes: usize) -> bool {
        self.entries.len() >= file_bytes / OFFSET_ENTRY_BYTES
    }

    /// A position at or before the batch that holds the offset `relative` to the segment's base.
    pub(super) fn position(&self, relative: u32) -> u32 {
        let after = self.entries.partition_point(|&(entry, _)| entry <= relative);
        after.checked_sub(1).and_then(|at| self.entries.get(at)).map_or(0, |&(_, position)| position)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.entries
            .iter()
            .flat_map(|(relative, position)| [relative.to_be_bytes(), position.to_be_bytes()].concat())
            .collect()
    }

    /// `None` unless the bytes are entries in order, all within a segment of `segment_bytes`.
    pub(super) fn from_bytes(bytes: &[u8], segment_bytes: u64) -> Option<Self> {
        let (chunks, rest) = bytes.as_chunks::<OFFSET_ENTRY_BYTES>();
        let entries: Vec<(u32, u32)> = chunks
            .iter()
            .map(|&[r0, r1, r2, r3, p0, p1, p2, p3]| {
                (u32::from_be_bytes([r0, r1, r2, r3]), u32::from_be_bytes([p0, p1, p2, p3]))
            })
            .collect();
        let in_order = entries.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
        let within = entries.last().is_none_or(|&(_, position)| u64::from(position) < segment_bytes);
        (rest.is_empty() && in_order && within).then_some(Self { entries })
    }
}

/// From which offset on a timestamp has been reached. Both grow from entry to entry.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct TimeIndex {
    entries: Vec<(i64, u32)>,
}

impl TimeIndex {
    /// The largest timestamp so far, and the offset (relative to the segment's base) of the batch that brought it.
    pub(super) fn push(&mut self, timestamp: i64, relative: u32) {
        if self.entries.last().is_none_or(|&(last, offset)| timestamp > last && relative > offset) {
            self.entries.push((timestamp, relative));
        }
    }

    /// Whether the entry that closes the segment would be the last to fit into a file of `file_bytes`.
    pub(super) fn is_full(&self, file_bytes: usize) -> bool {
        self.entries.len() + 1 >= file_bytes / TIME_ENTRY_BYTES
    }

    /// An offset (relative to the segment's base) before which every timestamp is below `timestamp`.
    pub(super) fn offset(&self, timestamp: i64) -> u32 {
        let after = self.entries.partition_point(|&(entry, _)| entry < timestamp);
        after.checked_sub(1).and_then(|at| self.entries.get(at)).map_or(0, |&(_, relative)| relative)
    }

    /// The last entry: the largest timestamp of the segment once it is closed.
    pub(super) fn last(&self) -> Option<(i64, u32)> {
        self.entries.last().copied()
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let entry = |(timestamp, relative): &(i64, u32)| {
            timestamp.to_be_bytes().into_iter().chain(relative.to_be_bytes()).collect::<Vec<_>>()
        };
        self.entries.iter().flat_map(entry).collect()
    }

    /// `None` unless the bytes are entries in order.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (chunks, rest) = bytes.as_chunks::<TIME_ENTRY_BYTES>();
        let entries: Vec<(i64, u32)> = chunks
            .iter()
            .map(|&[t0, t1, t2, t3, t4, t5, t6, t7, r0, r1, r2, r3]| {
                (i64::from_be_bytes([t0, t1, t2, t3, t4, t5, t6, t7]), u32::from_be_bytes([r0, r1, r2, r3]))
            })
            .collect();
        let in_order = entries.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
        (rest.is_empty() && in_order).then_some(Self { entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_at_or_before_the_batch_of_the_offset() {
        let mut index = OffsetIndex::default();
        index.push(9, 100);
        index.push(19, 200);
        assert_eq!([0, 8, 9, 18, 19, 1000].map(|offset| index.position(offset)), [0, 0, 100, 100, 200, 200]);
        let bytes = index.to_bytes();
        assert_eq!(OffsetIndex::from_bytes(&bytes, 201), Some(index));
        assert_eq!(OffsetIndex::from_bytes(&bytes, 200), None);
        assert_eq!(OffsetIndex::from_bytes(&bytes[1..], 500), None);
    }

    #[test]
    fn time_entries_only_grow() {
        let mut index = TimeIndex::default();
        for (timestamp, relative) in [(10, 1), (5, 2), (20, 3), (20, 4)] {
            index.push(timestamp, relative);
        }
        assert_eq!([0, 10, 11, 20, 21].map(|timestamp| index.offset(timestamp)), [0, 0, 1, 1, 3]);
        assert_eq!(TimeIndex::from_bytes(&index.to_bytes()), Some(index));
    }
}
