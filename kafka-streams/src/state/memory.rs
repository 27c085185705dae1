//! The simplest base there is, as a model for tests of what lies above.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use super::{EntryVisitor, KeyValueStore, StoreError, WriteBatch};

#[derive(Debug, Default)]
pub(crate) struct MemoryBase {
    entries: BTreeMap<Bytes, Bytes>,
    changelog_offset: Option<i64>,
}

impl KeyValueStore for MemoryBase {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.entries.get(key).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        reverse: bool,
        visit: EntryVisitor<'_>,
    ) -> Result<(), StoreError> {
        if to.is_some_and(|to| to <= from) {
            return Ok(());
        }
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        let mut range = self.entries.range::<[u8], _>((Bound::Included(from), to));
        while let Some((key, value)) = if reverse { range.next_back() } else { range.next() } {
            if visit(key, value) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
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

    fn delete_range(&mut self, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        self.entries.retain(|key, _| key.as_ref() < from || key.as_ref() >= to);
        Ok(())
    }

    fn committed_offset(&self) -> Option<i64> {
        self.changelog_offset
    }

    fn approximate_entries(&self) -> u64 {
        self.entries.len() as u64
    }
}
