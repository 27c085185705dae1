//! The latest offset of each key, in bounded memory (`SkimpyOffsetMap`).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use rustc_hash::FxBuildHasher;

/// What one key takes: two hashes, the offset, and the table's spare room when it has just grown.
const BYTES_PER_KEY: usize = 64;

/// Keys are known by 128 bits of hash, under random secrets of each map: nobody can choose two keys that meet, and by
/// chance two of a billion do with a probability of 10⁻²¹.
pub(super) struct OffsetMap {
    secrets: [RandomState; 2],
    offsets: HashMap<(u64, u64), i64, FxBuildHasher>,
    max_keys: usize,
    /// Every key up to this offset is in the map, -1 before the first.
    pub(super) latest_offset: i64,
}

impl OffsetMap {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            secrets: [RandomState::new(), RandomState::new()],
            offsets: HashMap::default(),
            max_keys: (max_bytes / BYTES_PER_KEY).max(1),
            latest_offset: -1,
        }
    }

    /// Whether `keys` more fit. One batch always does, so that every pass gets on.
    pub(super) fn has_room_for(&self, keys: usize) -> bool {
        self.offsets.is_empty() || self.offsets.len() + keys <= self.max_keys
    }

    pub(super) fn insert(&mut self, key: &[u8], offset: i64) {
        self.offsets.insert(self.hash(key), offset);
    }

    /// Whether a record with this key and offset is the latest one that the map knows of.
    pub(super) fn is_latest(&self, key: &[u8], offset: i64) -> bool {
        self.offsets.get(&self.hash(key)).is_none_or(|&latest| offset >= latest)
    }

    fn hash(&self, key: &[u8]) -> (u64, u64) {
        (self.secrets[0].hash_one(key), self.secrets[1].hash_one(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_offset_wins_and_memory_is_bounded() {
        let mut map = OffsetMap::new(10 * BYTES_PER_KEY);
        assert!(map.has_room_for(1000));
        for offset in 0..10i64 {
            map.insert(format!("k{}", offset % 5).as_bytes(), offset);
        }
        assert!(map.is_latest(b"k1", 6) && !map.is_latest(b"k1", 1) && map.is_latest(b"other", 0));
        assert!(map.has_room_for(5) && !map.has_room_for(6));
    }
}
