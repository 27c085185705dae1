//! Looks into the stores of a running task.

use std::marker::PhantomData;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{KvStore, StoreError, StoreToken};
use crate::error::StreamsError;
use crate::runtime::task::Task;

/// A look into a store of a running task, uncommitted rows among the committed ones.
///
/// The task is held still while a row is read, between two turns of its work.
pub struct ReadOnlyKeyValueStore<K, V> {
    task: Arc<Mutex<Task>>,
    store: StoreToken<KvStore<K, V>>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> std::fmt::Debug for ReadOnlyKeyValueStore<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadOnlyKeyValueStore").finish_non_exhaustive()
    }
}

impl<K: Send + 'static, V: Clone + Send + 'static> ReadOnlyKeyValueStore<K, V> {
    /// `None` when the task has no store of this name and these types.
    pub(crate) fn find(task: &Arc<Mutex<Task>>, name: &str) -> Option<Self> {
        let store = task.lock().stores().find::<KvStore<K, V>>(name)?.ok()?;
        Some(Self { task: Arc::clone(task), store, types: PhantomData })
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&mut KvStore<K, V>) -> Result<T, Box<StreamsError>>,
    ) -> Result<T, StoreError> {
        let mut task = self.task.lock();
        task.stores_mut().get(self.store).and_then(read).map_err(|error| StoreError::from_streams(*error))
    }

    /// A key's row.
    ///
    /// # Errors
    /// When the storage fails or the row's bytes are no `V`.
    pub fn get(&self, key: &K) -> Result<Option<V>, StoreError> {
        Ok(self.get_with_timestamp(key)?.map(|(value, _)| value))
    }

    /// A key's row and the timestamp of its last change, in milliseconds since 1970.
    ///
    /// # Errors
    /// As [`ReadOnlyKeyValueStore::get`].
    pub fn get_with_timestamp(&self, key: &K) -> Result<Option<(V, i64)>, StoreError> {
        self.read(|store| Ok(store.get(key)?.map(|(value, timestamp)| (value.clone(), timestamp))))
    }

    /// The rows from `from` to `to`, both included as in Java, in the order of the keys' bytes.
    ///
    /// # Errors
    /// As [`ReadOnlyKeyValueStore::get`].
    pub fn range(&self, from: &K, to: &K) -> Result<Vec<(K, V)>, StoreError> {
        self.scan(Some(from), Some(to), false)
    }

    /// As [`ReadOnlyKeyValueStore::range`], against the order of the keys' bytes.
    ///
    /// # Errors
    /// As [`ReadOnlyKeyValueStore::get`].
    pub fn reverse_range(&self, from: &K, to: &K) -> Result<Vec<(K, V)>, StoreError> {
        self.scan(Some(from), Some(to), true)
    }

    /// Every row, in the order of the keys' bytes.
    ///
    /// # Errors
    /// As [`ReadOnlyKeyValueStore::get`].
    pub fn all(&self) -> Result<Vec<(K, V)>, StoreError> {
        self.scan(None, None, false)
    }

    /// Every row with the timestamp of its last change, in the order of the keys' bytes.
    ///
    /// # Errors
    /// As [`ReadOnlyKeyValueStore::get`].
    pub fn all_with_timestamps(&self) -> Result<Vec<(K, V, i64)>, StoreError> {
        self.read(|store| store.range(None, None, false))
    }

    fn scan(&self, from: Option<&K>, to: Option<&K>, reverse: bool) -> Result<Vec<(K, V)>, StoreError> {
        let rows = self.read(|store| store.range(from, to, reverse))?;
        Ok(rows.into_iter().map(|(key, value, _)| (key, value)).collect())
    }

    /// Roughly how many rows there are.
    pub fn approximate_entries(&self) -> u64 {
        self.read(|store| Ok(store.approximate_entries())).unwrap_or(0)
    }
}
