//! One row for each key.

use bytes::Bytes;
use kafka_client::wire::record_batch::Headers;

use super::history::{History, Version};
use super::stores::RowStore;
use super::{ChangelogRecords, HeldRow, Rows, RowsConfig, StoreError};
use crate::error::StreamsError;
use crate::processor::RawRecord;
use crate::serde::{Encoded, SerdeContext, SharedSerde};

type Failure = Box<StreamsError>;

/// Rows with the timestamp of their last change, as Java's timestamped key-value stores.
pub(crate) struct KvStore<K, V> {
    rows: Rows<V>,
    /// What the rows were before, if that is kept; the rows are the latest then.
    history: Option<History<V>>,
    key: SharedSerde<K>,
    key_bytes: Vec<u8>,
}

impl<K: 'static, V: Clone + 'static> KvStore<K, V> {
    pub(crate) fn new(config: RowsConfig<V>, key: SharedSerde<K>) -> Self {
        Self { rows: Rows::new(config), history: None, key, key_bytes: Vec::new() }
    }

    /// Knows what rows were so many milliseconds ago.
    pub(crate) fn versioned(config: RowsConfig<V>, key: SharedSerde<K>, history_ms: i64) -> Self {
        // Each version is restored, not only the latest of each commit.
        let config = RowsConfig { records: config.records.and(Some(ChangelogRecords::EachUpdate)), ..config };
        Self { history: Some(History::new(history_ms)), ..Self::new(config, key) }
    }

    pub(crate) fn is_versioned(&self) -> bool {
        self.history.is_some()
    }

    /// Serializes the key into `key_bytes`; `false` for null, which has no row.
    fn encode_key(&mut self, key: &K) -> Result<bool, Failure> {
        self.key_bytes.clear();
        let cx = SerdeContext::key(self.rows.topic());
        match self.key.serialize(cx, key, &mut self.key_bytes) {
            Ok(encoded) => Ok(encoded == Encoded::Bytes),
            Err(error) => Err(self.rows.place().failed(error)),
        }
    }

    pub(crate) fn get(&mut self, key: &K) -> Result<Option<(&V, i64)>, Failure> {
        if self.encode_key(key)? { self.rows.get(&self.key_bytes) } else { Ok(None) }
    }

    /// Changes a key's row; see [`Rows::update`]. Nothing happens for a null key.
    #[inline]
    pub(crate) fn update(
        &mut self,
        key: &K,
        change: impl FnOnce(Option<(V, i64)>) -> (Option<V>, i64),
    ) -> Result<bool, Failure> {
        if !self.encode_key(key)? {
            return Ok(false);
        }
        if self.history.is_some() {
            let row = self.rows.get(&self.key_bytes)?.map(|(row, timestamp)| (row.clone(), timestamp));
            let (value, timestamp) = change(row);
            self.put_version(key, value, timestamp)?;
            return Ok(true);
        }
        self.rows.update(&self.key_bytes, change)?;
        Ok(true)
    }

    /// As [`KvStore::update`], held back until the commit.
    pub(crate) fn update_held(
        &mut self,
        key: &K,
        headers: &Headers,
        keep_before: bool,
        change: impl FnOnce(Option<(V, i64)>) -> (Option<V>, i64),
    ) -> Result<bool, Failure> {
        if !self.encode_key(key)? {
            return Ok(false);
        }
        self.rows.update_held(&self.key_bytes, headers, keep_before, change)?;
        Ok(true)
    }

    /// Sets or deletes a row without a look at what it was.
    pub(crate) fn put(&mut self, key: &K, value: Option<V>, timestamp: i64) -> Result<(), Failure> {
        self.put_version(key, value, timestamp).map(drop)
    }

    /// As [`KvStore::put`], and what became of it.
    pub(crate) fn put_version(
        &mut self,
        key: &K,
        value: Option<V>,
        timestamp: i64,
    ) -> Result<Version, Failure> {
        if !self.encode_key(key)? {
            return Ok(Version::NotPut);
        }
        let version = match &mut self.history {
            Some(history) => history.put(&self.key_bytes, value.clone(), timestamp),
            None => Version::Latest,
        };
        match version {
            Version::Latest => self.rows.put(&self.key_bytes, value, timestamp)?,
            // As in Java, the changelog has what was not kept too.
            Version::Earlier | Version::NotPut => {
                self.rows.log_update(&self.key_bytes, value.as_ref(), timestamp, &Headers::default())?;
            }
        }
        Ok(version)
    }

    /// The row as it was at a time, and since when; the latest row where no history is kept.
    pub(crate) fn get_at(&mut self, key: &K, time: i64) -> Result<Option<(&V, i64)>, Failure> {
        if !self.encode_key(key)? {
            return Ok(None);
        }
        match &self.history {
            Some(history) => Ok(history.get(&self.key_bytes, time)),
            None => self.rows.get(&self.key_bytes),
        }
    }

    /// What is held back, in the order of the last changes.
    pub(crate) fn take_held(&mut self) -> Result<Vec<(K, HeldRow<V>)>, Failure> {
        let held = self.rows.take_held();
        held.into_iter().map(|row| Ok((self.decode_key(&row.key)?, row))).collect()
    }

    /// The values of all keys whose bytes begin so, in their order. Meant for rows that are [`super::Order::Ordered`].
    pub(crate) fn with_prefix(&self, prefix: &[u8]) -> Result<Vec<V>, Failure> {
        let mut found = Vec::new();
        self.rows.scan(prefix, end_of_prefix(prefix).as_deref(), false, &mut |_, value, _| {
            found.push(value.clone());
            std::ops::ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    fn decode_key(&self, bytes: &Bytes) -> Result<K, Failure> {
        let key = self.key.deserialize(SerdeContext::key(self.rows.topic()), Some(bytes));
        key.map_err(|error| self.rows.place().failed(error))
    }

    /// The rows between two keys' bytes (`to` included), in their order.
    pub(crate) fn range(
        &mut self,
        from: Option<&K>,
        to: Option<&K>,
        reverse: bool,
    ) -> Result<Vec<(K, V, i64)>, Failure> {
        let mut bound = |key: Option<&K>| match key {
            Some(key) => Ok(self.encode_key(key)?.then(|| self.key_bytes.clone())),
            None => Ok::<_, Failure>(None),
        };
        let (from, mut to) = (bound(from)?, bound(to)?);
        // The smallest key beyond one that is included.
        to.iter_mut().for_each(|to| to.push(0));
        let mut found = Vec::new();
        self.rows.scan(
            from.as_deref().unwrap_or_default(),
            to.as_deref(),
            reverse,
            &mut |key, value, timestamp| {
                found.push((Bytes::copy_from_slice(key), value.clone(), timestamp));
                std::ops::ControlFlow::Continue(())
            },
        )?;
        found
            .into_iter()
            .map(|(key, value, timestamp)| Ok((self.decode_key(&key)?, value, timestamp)))
            .collect()
    }

    pub(crate) fn approximate_entries(&self) -> u64 {
        self.rows.approximate_entries()
    }
}

/// The first key beyond all that begin with `prefix`; `None` if there is none.
fn end_of_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix.get(..=last)?.to_vec();
    *end.last_mut()? += 1;
    Some(end)
}

impl<K: Send + 'static, V: Clone + Send + 'static> RowStore for KvStore<K, V> {
    type Value = V;

    fn rows(&self) -> &Rows<V> {
        &self.rows
    }

    fn rows_mut(&mut self) -> &mut Rows<V> {
        &mut self.rows
    }

    fn dropped(&self) -> u64 {
        self.history.as_ref().map_or(0, |history| history.dropped)
    }

    fn restored_key(&mut self, key: &[u8]) -> Option<Bytes> {
        Some(Bytes::copy_from_slice(key))
    }

    fn is_restored(&mut self, key: &[u8], record: &RawRecord) -> Result<bool, StoreError> {
        let Some(history) = &mut self.history else { return Ok(true) };
        let value = self.rows.restored_value(record)?;
        Ok(history.put(key, value, record.timestamp) == Version::Latest)
    }
}
