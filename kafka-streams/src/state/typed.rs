//! A typed store: the writes since the last commit, as values, over a store of bytes.
//!
//! Until a commit a row lives as a value: however often it changes, it is serialized once for the changelog and
//! the store, and aborting is dropping the map.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kafka_client::wire::record_batch::Headers;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::{KeyValueStore, StoreError, WriteBatch};
use crate::processor::{Outgoing, RawRecord, RecordCollector};
use crate::serde::{Encoded, SerdeContext, SharedSerde};

pub(crate) type SharedStore<K, V> = Arc<Mutex<TypedStore<K, V>>>;

/// A row that changed since the last commit.
struct Dirty<V> {
    key: Bytes,
    value: Option<V>,
    timestamp: i64,
    /// Downstream has not seen this state yet.
    unforwarded: bool,
}

/// Rows with the timestamp of their last change, as Java's timestamped key-value stores.
pub(crate) struct TypedStore<K, V> {
    name: Arc<str>,
    changelog: Arc<str>,
    logged: bool,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    /// Places in `dirty`, which keeps the order in which rows changed first.
    index: FxHashMap<Bytes, usize>,
    dirty: Vec<Dirty<V>>,
    base: Box<dyn KeyValueStore>,
    key_bytes: Vec<u8>,
}

impl<K: 'static, V: Clone + 'static> TypedStore<K, V> {
    pub(crate) fn new(
        name: Arc<str>,
        changelog: Arc<str>,
        logged: bool,
        key: SharedSerde<K>,
        value: SharedSerde<V>,
        base: Box<dyn KeyValueStore>,
    ) -> Self {
        Self {
            name,
            changelog,
            logged,
            key,
            value,
            index: FxHashMap::default(),
            dirty: Vec::new(),
            base,
            key_bytes: Vec::new(),
        }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Serializes the key into `key_bytes`; `false` for null.
    fn encode_key(&mut self, key: &K) -> Result<bool, StoreError> {
        self.key_bytes.clear();
        let encoded = self.key.serialize(SerdeContext::key(&self.changelog), key, &mut self.key_bytes)?;
        Ok(encoded == Encoded::Bytes)
    }

    /// Changes a key's row. Returns the row after and its timestamp, or `None` for a null key: it has no row.
    pub(crate) fn update(
        &mut self,
        key: &K,
        timestamp: i64,
        hold_back: bool,
        change: impl FnOnce(Option<V>) -> Option<V>,
    ) -> Result<Option<(Option<V>, i64)>, StoreError> {
        if !self.encode_key(key)? {
            return Ok(None);
        }
        if let Some(&at) = self.index.get(self.key_bytes.as_slice())
            && let Some(row) = self.dirty.get_mut(at)
        {
            // A row's time is that of its latest record, in whatever order they come.
            row.timestamp = if row.value.is_some() { row.timestamp.max(timestamp) } else { timestamp };
            row.value = change(row.value.take());
            row.unforwarded |= hold_back;
            return Ok(Some((if hold_back { None } else { row.value.clone() }, row.timestamp)));
        }
        let before = self.base.get(&self.key_bytes)?.map(|bytes| self.decode(&bytes)).transpose()?;
        let (row, timestamp) = match before {
            Some((row, before)) => (Some(row), timestamp.max(before)),
            None => (None, timestamp),
        };
        let value = change(row);
        let after = if hold_back { None } else { value.clone() };
        let key = Bytes::copy_from_slice(&self.key_bytes);
        self.index.insert(key.clone(), self.dirty.len());
        self.dirty.push(Dirty { key, value, timestamp, unforwarded: hold_back });
        Ok(Some((after, timestamp)))
    }

    /// Sets or deletes a row, whatever was there: the last record wins, not the latest timestamp.
    pub(crate) fn put_at(&mut self, key: &K, value: Option<V>, timestamp: i64) -> Result<(), StoreError> {
        if !self.encode_key(key)? {
            return Ok(());
        }
        if let Some(&at) = self.index.get(self.key_bytes.as_slice())
            && let Some(row) = self.dirty.get_mut(at)
        {
            row.value = value;
            row.timestamp = timestamp;
            return Ok(());
        }
        let key = Bytes::copy_from_slice(&self.key_bytes);
        self.index.insert(key.clone(), self.dirty.len());
        self.dirty.push(Dirty { key, value, timestamp, unforwarded: false });
        Ok(())
    }

    pub(crate) fn get(&self, key: &K) -> Result<Option<(V, i64)>, StoreError> {
        let mut key_bytes = Vec::new();
        if self.key.serialize(SerdeContext::key(&self.changelog), key, &mut key_bytes)? == Encoded::Null {
            return Ok(None);
        }
        if let Some(row) = self.index.get(key_bytes.as_slice()).and_then(|at| self.dirty.get(*at)) {
            return Ok(row.value.clone().map(|value| (value, row.timestamp)));
        }
        self.base.get(&key_bytes)?.map(|bytes| self.decode(&bytes)).transpose()
    }

    /// The rows whose keys' bytes lie between the bounds, uncommitted ones among them.
    fn scan(&self, from: Option<&[u8]>, to: Option<&[u8]>) -> Result<Vec<(K, V)>, StoreError> {
        let mut rows = BTreeMap::new();
        for (key, bytes) in self.base.range(from, to)? {
            let (value, _) = self.decode(&bytes)?;
            rows.insert(key, value);
        }
        for row in &self.dirty {
            if from.is_some_and(|from| row.key.as_ref() < from) || to.is_some_and(|to| row.key.as_ref() >= to)
            {
                continue;
            }
            match &row.value {
                Some(value) => rows.insert(row.key.clone(), value.clone()),
                None => rows.remove(&row.key),
            };
        }
        rows.into_iter().map(|(key, value)| Ok((self.decode_key(&key)?, value))).collect()
    }

    /// What cached nodes have not passed on: the latest state of each row.
    pub(crate) fn take_unforwarded(&mut self) -> Result<Vec<(K, Option<V>, i64)>, StoreError> {
        let mut pending = Vec::new();
        for at in 0..self.dirty.len() {
            let Some(row) = self.dirty.get_mut(at) else { break };
            if !std::mem::take(&mut row.unforwarded) {
                continue;
            }
            let (key, value, timestamp) = (row.key.clone(), row.value.clone(), row.timestamp);
            pending.push((self.decode_key(&key)?, value, timestamp));
        }
        Ok(pending)
    }

    fn decode_key(&self, bytes: &Bytes) -> Result<K, StoreError> {
        Ok(self.key.deserialize(SerdeContext::key(&self.changelog), Some(bytes))?)
    }

    /// A stored value is its timestamp, 8 bytes big endian, and its bytes, as Java's `ValueAndTimestamp`.
    fn decode(&self, stored: &Bytes) -> Result<(V, i64), StoreError> {
        let malformed = StoreError::Malformed { size: stored.len() };
        let Some(timestamp) = stored.get(..8).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok()) else {
            return Err(malformed);
        };
        let value = self.value.deserialize(SerdeContext::value(&self.changelog), Some(&stored.slice(8..)))?;
        Ok((value, i64::from_be_bytes(timestamp)))
    }

    fn encode(&self, row: &Dirty<V>) -> Result<Option<Bytes>, StoreError> {
        let Some(value) = &row.value else { return Ok(None) };
        let mut out = Vec::with_capacity(16);
        out.extend_from_slice(&row.timestamp.to_be_bytes());
        let encoded = self.value.serialize(SerdeContext::value(&self.changelog), value, &mut out)?;
        Ok((encoded == Encoded::Bytes).then(|| out.into()))
    }
}

/// Why a changelog record was not written.
pub(crate) enum ChangelogError {
    Store(StoreError),
    Send(String),
}

/// What a task does with each of its stores, whatever their types.
pub(crate) trait TaskStore: Send {
    fn name(&self) -> Arc<str>;
    /// The changelog topic, if there is one.
    fn changelog(&self) -> Option<Arc<str>>;
    fn dirty_rows(&self) -> usize;
    /// Sends one record for each row that changed. The rows stay uncommitted until [`TaskStore::commit`].
    fn write_changelog(
        &self,
        partition: i32,
        collector: &mut dyn RecordCollector,
    ) -> Result<(), ChangelogError>;
    /// Moves what changed into the store.
    fn commit(&self, changelog_offset: Option<i64>) -> Result<(), StoreError>;
    /// Applies records of the changelog.
    fn restore(&self, records: &mut dyn Iterator<Item = RawRecord>) -> Result<(), StoreError>;
    /// Where to restore from; `None` is the beginning.
    fn committed_offset(&self) -> Option<i64>;
}

impl<K: Send + 'static, V: Clone + Send + 'static> TaskStore for SharedStore<K, V> {
    fn name(&self) -> Arc<str> {
        Arc::clone(&self.lock().name)
    }

    fn changelog(&self) -> Option<Arc<str>> {
        let store = self.lock();
        store.logged.then(|| Arc::clone(&store.changelog))
    }

    fn dirty_rows(&self) -> usize {
        self.lock().dirty.len()
    }

    fn write_changelog(
        &self,
        partition: i32,
        collector: &mut dyn RecordCollector,
    ) -> Result<(), ChangelogError> {
        let store = self.lock();
        if !store.logged {
            return Ok(());
        }
        let headers = Headers::default();
        let mut value = Vec::new();
        for row in &store.dirty {
            value.clear();
            let encoded = match &row.value {
                Some(row) => store
                    .value
                    .serialize(SerdeContext::value(&store.changelog), row, &mut value)
                    .map_err(|source| ChangelogError::Store(source.into()))?,
                None => Encoded::Null,
            };
            // The changelog's value is the plain one; its timestamp is the record's.
            collector
                .send(Outgoing {
                    topic: &store.changelog,
                    partition: Some(partition),
                    key: Some(&row.key),
                    value: (encoded == Encoded::Bytes).then_some(value.as_slice()),
                    timestamp: row.timestamp,
                    headers: &headers,
                })
                .map_err(ChangelogError::Send)?;
        }
        Ok(())
    }

    fn commit(&self, changelog_offset: Option<i64>) -> Result<(), StoreError> {
        let mut store = self.lock();
        let entries = store
            .dirty
            .iter()
            .map(|row| Ok((row.key.clone(), store.encode(row)?)))
            .collect::<Result<Vec<_>, StoreError>>()?;
        store.base.write(WriteBatch { entries, changelog_offset })?;
        store.dirty.clear();
        store.index.clear();
        Ok(())
    }

    fn restore(&self, records: &mut dyn Iterator<Item = RawRecord>) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        let mut latest = BTreeMap::new();
        for record in records {
            batch.changelog_offset = Some(record.offset.saturating_add(1));
            let Some(key) = record.key else { continue };
            let value = record.value.map(|value| {
                let mut stored = Vec::with_capacity(8 + value.len());
                stored.extend_from_slice(&record.timestamp.to_be_bytes());
                stored.extend_from_slice(&value);
                Bytes::from(stored)
            });
            // Fetched slices keep their whole batch in memory; rows live longer than that.
            latest.insert(Bytes::copy_from_slice(&key), value);
        }
        batch.entries = latest.into_iter().collect();
        self.lock().base.write(batch)
    }

    fn committed_offset(&self) -> Option<i64> {
        self.lock().base.committed_offset()
    }
}

/// A look into a store of a running task, uncommitted rows among the committed ones.
pub struct ReadOnlyKeyValueStore<K, V>(pub(crate) SharedStore<K, V>);

impl<K: 'static, V: Clone + 'static> ReadOnlyKeyValueStore<K, V> {
    /// A key's row.
    ///
    /// # Errors
    /// When the storage fails or the row's bytes are no `V`.
    pub fn get(&self, key: &K) -> Result<Option<V>, StoreError> {
        Ok(self.0.lock().get(key)?.map(|(value, _)| value))
    }

    /// A key's row and the timestamp of its last change, in milliseconds since 1970.
    ///
    /// # Errors
    /// As [`ReadOnlyKeyValueStore::get`].
    pub fn get_with_timestamp(&self, key: &K) -> Result<Option<(V, i64)>, StoreError> {
        self.0.lock().get(key)
    }

    /// The rows from `from` (included) to `to` (excluded), in the order of the keys' bytes.
    ///
    /// # Errors
    /// As [`ReadOnlyKeyValueStore::get`].
    pub fn range(&self, from: &K, to: &K) -> Result<Vec<(K, V)>, StoreError> {
        let store = self.0.lock();
        let cx = SerdeContext::key(&store.changelog);
        let (mut low, mut high) = (Vec::new(), Vec::new());
        store.key.serialize(cx, from, &mut low)?;
        store.key.serialize(cx, to, &mut high)?;
        store.scan(Some(&low), Some(&high))
    }

    /// Every row, in the order of the keys' bytes.
    ///
    /// # Errors
    /// As [`ReadOnlyKeyValueStore::get`].
    pub fn all(&self) -> Result<Vec<(K, V)>, StoreError> {
        self.0.lock().scan(None, None)
    }

    /// Roughly how many rows there are.
    pub fn approximate_entries(&self) -> u64 {
        let store = self.0.lock();
        store.base.approximate_entries().saturating_add(store.dirty.len() as u64)
    }
}
