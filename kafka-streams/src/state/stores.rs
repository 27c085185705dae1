//! The stores of a task, reached by typed tokens.

use std::any::Any;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;

use super::{Rows, StoreError, WriteBatch};
use crate::error::{StreamsError, TaskId};
use crate::processor::{RawRecord, RecordCollector};

/// What a task does with each of its stores, whatever their types.
pub(crate) trait TaskStore: Any + Send {
    fn name(&self) -> &Arc<str>;
    /// The topic that the state is restored from, if there is one.
    fn changelog(&self) -> Option<Arc<str>>;
    /// Rows that changed since the last commit.
    fn dirty_rows(&self) -> usize;
    /// Rows that were put too late to be kept.
    fn dropped(&self) -> u64 {
        0
    }
    /// Sends what changed. The rows stay uncommitted until [`TaskStore::commit`].
    fn write_changelog(
        &mut self,
        partition: i32,
        collector: &mut dyn RecordCollector,
    ) -> Result<(), Box<StreamsError>>;
    /// Moves what changed into the base.
    fn commit(&mut self, changelog_offset: Option<i64>) -> Result<(), StoreError>;
    /// Applies records of the changelog.
    fn restore(&mut self, records: &mut dyn Iterator<Item = RawRecord>) -> Result<(), StoreError>;
    /// Where to restore from; `None` is the beginning.
    fn committed_offset(&self) -> Option<i64>;
}

/// A store that is rows with keys of its own making.
pub(crate) trait RowStore: Any + Send {
    type Value: Clone + Send + 'static;

    fn rows(&self) -> &Rows<Self::Value>;

    fn rows_mut(&mut self) -> &mut Rows<Self::Value>;

    /// As [`TaskStore::dropped`].
    fn dropped(&self) -> u64 {
        0
    }

    /// A changelog record's key as the key of its row, copied: a fetched slice keeps its whole batch in memory, and rows
    /// live longer than that. `None` for a row whose time is over, or that no version of this library wrote.
    fn restored_key(&mut self, key: &[u8]) -> Option<Bytes>;

    /// Sees a changelog record before its row does. Whether the row takes it.
    fn is_restored(&mut self, _key: &[u8], _record: &RawRecord) -> Result<bool, StoreError> {
        Ok(true)
    }
}

impl<S: RowStore> TaskStore for S {
    fn name(&self) -> &Arc<str> {
        &self.rows().place().name
    }

    fn changelog(&self) -> Option<Arc<str>> {
        self.rows().changelog().cloned()
    }

    fn dirty_rows(&self) -> usize {
        self.rows().dirty_rows()
    }

    fn dropped(&self) -> u64 {
        RowStore::dropped(self)
    }

    fn write_changelog(
        &mut self,
        partition: i32,
        collector: &mut dyn RecordCollector,
    ) -> Result<(), Box<StreamsError>> {
        self.rows_mut().write_changelog(partition, collector)
    }

    fn commit(&mut self, changelog_offset: Option<i64>) -> Result<(), StoreError> {
        self.rows_mut().commit(changelog_offset)
    }

    fn restore(&mut self, records: &mut dyn Iterator<Item = RawRecord>) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for record in records {
            batch.changelog_offset = Some(record.offset.saturating_add(1));
            let Some(key) = record.key.as_ref().and_then(|key| self.restored_key(key)) else { continue };
            if self.is_restored(&key, &record)? {
                self.rows_mut().restore(&mut batch, key, &record)?;
            }
        }
        self.rows_mut().restored(batch)
    }

    fn committed_offset(&self) -> Option<i64> {
        self.rows().committed_offset()
    }
}

/// The stores of a task.
#[derive(Default)]
pub(crate) struct Stores {
    slots: Vec<Box<dyn TaskStore>>,
}

/// Where a store of this type lies.
pub(crate) struct StoreToken<S> {
    index: usize,
    store: PhantomData<fn() -> S>,
}

impl<S> Clone for StoreToken<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for StoreToken<S> {}

impl Stores {
    pub(crate) fn add<S: TaskStore>(&mut self, store: S) -> StoreToken<S> {
        self.slots.push(Box::new(store));
        StoreToken { index: self.slots.len() - 1, store: PhantomData }
    }

    /// The token of the store of this name; `Some(Err)` if it is of another type.
    pub(crate) fn find<S: TaskStore>(&self, name: &str) -> Option<Result<StoreToken<S>, StreamsError>> {
        let index = self.slots.iter().position(|store| **store.name() == *name)?;
        let any: &dyn Any = &**self.slots.get(index)?;
        Some(match any.is::<S>() {
            true => Ok(StoreToken { index, store: PhantomData }),
            false => Err(StreamsError::TypeMismatch { name: Arc::from(name) }),
        })
    }

    /// The store of a token.
    ///
    /// # Errors
    /// The token is of another task: a mistake of this crate.
    #[inline]
    pub(crate) fn get<S: TaskStore>(&mut self, token: StoreToken<S>) -> Result<&mut S, Box<StreamsError>> {
        let any: Option<&mut dyn Any> = match self.slots.get_mut(token.index) {
            Some(store) => Some(&mut **store),
            None => None,
        };
        any.and_then(|any| any.downcast_mut()).ok_or_else(wrong_token)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Box<dyn TaskStore>> {
        self.slots.iter_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &dyn TaskStore> {
        self.slots.iter().map(|store| &**store)
    }
}

#[cold]
fn wrong_token() -> Box<StreamsError> {
    Box::new(StreamsError::TypeMismatch { name: Arc::from("a store") })
}

/// Where a store belongs, for its errors.
#[derive(Debug, Clone)]
pub(crate) struct StorePlace {
    pub(crate) task: TaskId,
    pub(crate) name: Arc<str>,
}

impl StorePlace {
    #[cold]
    pub(crate) fn failed(&self, source: impl Into<StoreError>) -> Box<StreamsError> {
        let source = source.into();
        Box::new(StreamsError::Store { task: self.task, store: Arc::clone(&self.name), source })
    }
}
