use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::{Entry, KeyValueStore, StoreError, WriteBatch};

/// State in memory, restored from its changelog after each start.
#[derive(Debug, Default)]
pub struct MemoryStore {
    entries: BTreeMap<Bytes, Bytes>,
    changelog_offset: Option<i64>,
}

impl KeyValueStore for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.entries.get(key).cloned())
    }

    fn range(&self, from: Option<&[u8]>, to: Option<&[u8]>) -> Result<Vec<Entry>, StoreError> {
        if let (Some(from), Some(to)) = (from, to)
            && from >= to
        {
            return Ok(Vec::new());
        }
        let from = from.map_or(Bound::Unbounded, Bound::Included);
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        let entries = self.entries.range::<[u8], _>((from, to));
        Ok(entries.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn write(&mut self, batch: WriteBatch) -> Result<(), StoreError> {
        for (key, value) in batch.entries {
            match value {
                Some(value) => self.entries.insert(key, value),
                None => self.entries.remove(&key),
            };
        }
        self.changelog_offset = batch.changelog_offset.or(self.changelog_offset);
        Ok(())
    }

    fn committed_offset(&self) -> Option<i64> {
        self.changelog_offset
    }

    fn approximate_entries(&self) -> u64 {
        self.entries.len() as u64
    }
}
