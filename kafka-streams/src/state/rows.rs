//! Rows by key: values as the application's types, over a store of bytes or alone.
//!
//! What changed since the last commit lives here as values: however often a row changes, it is serialized once for
//! the changelog and the base, and aborting is dropping the rows. Without a base (state in memory) all rows stay here.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use kafka_client::wire::record_batch::Headers;

use super::index::{Index, KeyBytes, Keys, Order};
use super::stores::StorePlace;
use super::{KeyValueStore, StoreError, WriteBatch};
use crate::error::StreamsError;
use crate::processor::{Outgoing, RawRecord, RecordCollector};
use crate::serde::{Encoded, SerdeContext, SharedSerde};

type Failure = Box<StreamsError>;

/// When a changelog gets a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ChangelogRecords {
    /// One for each row that changed, at the commit: the topic is compacted and only the last one counts. The default.
    #[default]
    EachCommit,
    /// One for each change, as Java's stores without a cache write: the whole history, for who reads the changelog.
    EachUpdate,
}

/// How rows are kept.
pub(crate) struct RowsConfig<V> {
    pub(crate) place: StorePlace,
    pub(crate) changelog: Option<Arc<str>>,
    /// `None`: the changelog is a topic that others write.
    pub(crate) records: Option<ChangelogRecords>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) order: Order,
    /// So many bytes of a key are for the store's own order and not in the changelog.
    pub(crate) prefix: usize,
    pub(crate) base: Option<Box<dyn KeyValueStore>>,
}

/// What downstream has not seen of a cached row.
struct Held<V> {
    before: Option<V>,
    /// There was a row before, whether or not anybody wants to know which.
    existed: bool,
    headers: Headers,
}

struct Row<V> {
    key: KeyBytes,
    /// `None`: the row is deleted, or never was.
    value: Option<V>,
    timestamp: i64,
    dirty: bool,
    /// The order of changes, for rows that are held.
    updated: u64,
    held: Option<Box<Held<V>>>,
}

/// A row as a cache gives it away at a commit.
pub(crate) struct HeldRow<V> {
    pub(crate) key: Bytes,
    pub(crate) before: Option<V>,
    pub(crate) value: Option<V>,
    pub(crate) timestamp: i64,
    pub(crate) headers: Headers,
}

impl<V> Keys for Vec<Row<V>> {
    #[inline]
    fn key(&self, at: u32) -> &[u8] {
        self.get(at as usize).map_or(&[], |row| &row.key)
    }
}

struct Logged {
    key: Bytes,
    value: Option<Bytes>,
    timestamp: i64,
    headers: Headers,
}

pub(crate) struct Rows<V> {
    config: RowsConfig<V>,
    index: Index,
    rows: Vec<Row<V>>,
    free: Vec<u32>,
    /// Rows that changed since the last commit, in the order in which they first did.
    dirty: Vec<u32>,
    held: Vec<u32>,
    updates: u64,
    log: Vec<Logged>,
    buffer: Vec<u8>,
    looked_up: Option<(V, i64)>,
}

/// Which rows of a base are looked at; `length` is that of their keys, if others lie between them.
struct Stretch<'a> {
    from: &'a [u8],
    to: Option<&'a [u8]>,
    reverse: bool,
    length: Option<usize>,
}

/// Looks at rows one by one, in the order of their keys' bytes.
pub(crate) type Visitor<'v, V> = &'v mut dyn FnMut(&[u8], &V, i64) -> ControlFlow<()>;

impl<V: Clone + 'static> Rows<V> {
    pub(crate) fn new(config: RowsConfig<V>) -> Self {
        Self {
            index: Index::new(config.order),
            config,
            rows: Vec::new(),
            free: Vec::new(),
            dirty: Vec::new(),
            held: Vec::new(),
            updates: 0,
            log: Vec::new(),
            buffer: Vec::new(),
            looked_up: None,
        }
    }

    pub(crate) fn place(&self) -> &StorePlace {
        &self.config.place
    }

    pub(crate) fn changelog(&self) -> Option<&Arc<str>> {
        self.config.changelog.as_ref()
    }

    /// The topic that serdes are told: the changelog, or the store's name for want of one.
    pub(crate) fn topic(&self) -> &Arc<str> {
        self.config.changelog.as_ref().unwrap_or(&self.config.place.name)
    }

    /// Where the row of a key is, brought here from the base if it is there; an empty row if there is none.
    fn entry(&mut self, key: &[u8]) -> Result<u32, Failure> {
        if let Some(at) = self.index.get(key, &self.rows) {
            return Ok(at);
        }
        let (value, timestamp) = match self.read_base(key)? {
            Some((value, timestamp)) => (Some(value), timestamp),
            None => (None, 0),
        };
        Ok(self.insert(key, value, timestamp))
    }

    fn insert(&mut self, key: &[u8], value: Option<V>, timestamp: i64) -> u32 {
        let key_bytes = KeyBytes::from_slice(key);
        let row = Row { key: key_bytes, value, timestamp, dirty: false, updated: 0, held: None };
        let at = match self.free.pop() {
            Some(at) => at,
            None => u32::try_from(self.rows.len()).unwrap_or(u32::MAX),
        };
        match self.rows.get_mut(at as usize) {
            Some(slot) => *slot = row,
            None => self.rows.push(row),
        }
        self.index.insert(key, at, &self.rows);
        at
    }

    fn read_base(&self, key: &[u8]) -> Result<Option<(V, i64)>, Failure> {
        let Some(base) = &self.config.base else { return Ok(None) };
        let found = base.get(key).map_err(|error| self.config.place.failed(error))?;
        found.map(|stored| self.decode(&stored)).transpose()
    }

    /// A row and its timestamp.
    pub(crate) fn get(&mut self, key: &[u8]) -> Result<Option<(&V, i64)>, Failure> {
        if let Some(at) = self.index.get(key, &self.rows) {
            return Ok(self.rows.get(at as usize).and_then(|row| Some((row.value.as_ref()?, row.timestamp))));
        }
        // Not kept as a row: what is only read must not fill the memory until the next commit.
        self.looked_up = self.read_base(key)?;
        Ok(self.looked_up.as_ref().map(|(value, timestamp)| (value, *timestamp)))
    }

    /// Changes a row: `change` gets what it is and gives what it will be, with its timestamp.
    #[inline]
    pub(crate) fn update(
        &mut self,
        key: &[u8],
        change: impl FnOnce(Option<(V, i64)>) -> (Option<V>, i64),
    ) -> Result<(), Failure> {
        let at = self.entry(key)?;
        if let Some(row) = self.rows.get_mut(at as usize) {
            let timestamp = row.timestamp;
            let (value, timestamp) = change(row.value.take().map(|value| (value, timestamp)));
            row.value = value;
            row.timestamp = timestamp;
        }
        self.changed(at)
    }

    /// Changes a row whose result is held back until the next commit. `keep_before`: the row as downstream knows it is
    /// wanted then.
    pub(crate) fn update_held(
        &mut self,
        key: &[u8],
        headers: &Headers,
        keep_before: bool,
        change: impl FnOnce(Option<(V, i64)>) -> (Option<V>, i64),
    ) -> Result<(), Failure> {
        let at = self.entry(key)?;
        self.updates += 1;
        if let Some(row) = self.rows.get_mut(at as usize) {
            match &mut row.held {
                Some(held) => held.headers.clone_from(headers),
                None => {
                    let before = if keep_before { row.value.clone() } else { None };
                    let existed = row.value.is_some();
                    row.held = Some(Box::new(Held { before, existed, headers: headers.clone() }));
                    self.held.push(at);
                }
            }
            row.updated = self.updates;
            let timestamp = row.timestamp;
            let (value, timestamp) = change(row.value.take().map(|value| (value, timestamp)));
            row.value = value;
            row.timestamp = timestamp;
        }
        self.changed(at)
    }

    /// Sets or deletes a row without a look at what it was.
    pub(crate) fn put(&mut self, key: &[u8], value: Option<V>, timestamp: i64) -> Result<(), Failure> {
        let at = self.set(key, value, timestamp);
        self.changed(at)
    }

    #[inline]
    fn set(&mut self, key: &[u8], value: Option<V>, timestamp: i64) -> u32 {
        let at = match self.index.get(key, &self.rows) {
            Some(at) => at,
            None => self.insert(key, None, 0),
        };
        if let Some(row) = self.rows.get_mut(at as usize) {
            row.value = value;
            row.timestamp = timestamp;
        }
        at
    }

    #[inline]
    fn changed(&mut self, at: u32) -> Result<(), Failure> {
        self.mark(at);
        if self.config.records == Some(ChangelogRecords::EachUpdate)
            && let Some(row) = self.rows.get(at as usize)
            && row.held.is_none()
        {
            let logged =
                logged(&self.config, &row.key, row.value.as_ref(), row.timestamp, &Headers::default())?;
            self.log.extend(logged);
        }
        Ok(())
    }

    #[inline]
    fn mark(&mut self, at: u32) {
        if let Some(row) = self.rows.get_mut(at as usize)
            && !std::mem::replace(&mut row.dirty, true)
        {
            self.dirty.push(at);
        }
    }

    /// An update for a changelog of all updates, whether or not it changes a row.
    pub(crate) fn log_update(
        &mut self,
        key: &[u8],
        value: Option<&V>,
        timestamp: i64,
        headers: &Headers,
    ) -> Result<(), Failure> {
        if self.config.records == Some(ChangelogRecords::EachUpdate) {
            self.log.extend(logged(&self.config, key, value, timestamp, headers)?);
        }
        Ok(())
    }

    /// As [`Rows::put`] for an update that [`Rows::log_update`] knows of.
    pub(crate) fn put_logged(&mut self, key: &[u8], value: Option<V>, timestamp: i64) -> Result<(), Failure> {
        let at = self.set(key, value, timestamp);
        self.mark(at);
        Ok(())
    }

    /// What is held back, in the order of the last changes. A row that came and went meanwhile never was.
    pub(crate) fn take_held(&mut self) -> Vec<HeldRow<V>> {
        let (rows, mut held) = (&mut self.rows, std::mem::take(&mut self.held));
        held.sort_by_key(|at| rows.get(*at as usize).map(|row| row.updated));
        let taken = held.iter().filter_map(|at| {
            let row = rows.get_mut(*at as usize)?;
            let Held { before, existed, headers } = *row.held.take()?;
            if !existed && row.value.is_none() {
                row.dirty = false;
                return None;
            }
            let (value, timestamp) = (row.value.clone(), row.timestamp);
            let key = Bytes::copy_from_slice(&row.key);
            Some(HeldRow { key, before, value, timestamp, headers })
        });
        taken.collect()
    }

    /// Looks at the rows from `from` (included) to `to` (excluded; `None` is the end), uncommitted ones among them.
    pub(crate) fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        reverse: bool,
        visit: Visitor<'_, V>,
    ) -> Result<(), Failure> {
        let here = self.index.range(from, to, reverse, &self.rows);
        self.merge(here, Stretch { from, to, reverse, length: None }, visit)
    }

    /// Looks at the rows whose keys are `prefix` and a tail of so many bytes as the order says: from the one that begins
    /// with `from` to the one that begins with `to`, both included.
    pub(crate) fn scan_group(
        &self,
        prefix: &[u8],
        from: &[u8],
        to: &[u8],
        reverse: bool,
        visit: Visitor<'_, V>,
    ) -> Result<(), Failure> {
        let Order::Grouped(tail) = self.config.order else { return Ok(()) };
        let Some(mut group) = self.index.group(prefix, from, to) else { return Ok(()) };
        if self.config.base.is_none() {
            while let Some(at) = if reverse { group.next_back() } else { group.next() } {
                let Some(Row { key, value: Some(value), timestamp, .. }) = self.rows.get(at as usize) else {
                    continue;
                };
                if visit(key, value, *timestamp).is_break() {
                    break;
                }
            }
            return Ok(());
        }
        let from: Vec<u8> = [prefix, from].concat();
        let mut to: Vec<u8> = [prefix, to].concat();
        to.resize(prefix.len() + tail + 1, 0xff);
        // Longer keys that begin with this one lie between its rows.
        let length = Some(prefix.len() + tail);
        let here: Box<dyn Iterator<Item = u32>> =
            if reverse { Box::new(group.rev()) } else { Box::new(group) };
        self.merge(here, Stretch { from: &from, to: Some(&to), reverse, length }, visit)
    }

    /// Rows that are here and rows of the base, as one.
    fn merge(
        &self,
        here: Box<dyn Iterator<Item = u32> + '_>,
        stretch: Stretch<'_>,
        visit: Visitor<'_, V>,
    ) -> Result<(), Failure> {
        let Stretch { from, to, reverse, length } = stretch;
        let mut here = here.filter_map(|at| self.rows.get(at as usize)).peekable();
        let mut see = |row: &Row<V>| match &row.value {
            Some(value) => visit(&row.key, value, row.timestamp),
            None => ControlFlow::Continue(()),
        };
        let Some(base) = &self.config.base else {
            let _ = here.try_for_each(see);
            return Ok(());
        };
        let (mut failure, mut stopped) = (None, false);
        base.scan(from, to, reverse, &mut |key, stored| {
            if length.is_some_and(|length| length != key.len()) {
                return ControlFlow::Continue(());
            }
            while let Some(row) = here.peek() {
                let order = if reverse { key.cmp(&row.key) } else { row.key.as_slice().cmp(key) };
                if order.is_gt() {
                    break;
                }
                let Some(row) = here.next() else { break };
                if see(row).is_break() {
                    stopped = true;
                    return ControlFlow::Break(());
                }
                // A row that is in both is newer here.
                if order.is_eq() {
                    return ControlFlow::Continue(());
                }
            }
            match self.decode(&Bytes::copy_from_slice(stored)) {
                Ok((value, timestamp)) => {
                    let (key, value) = (KeyBytes::from_slice(key), Some(value));
                    let flow = see(&Row { key, value, timestamp, dirty: false, updated: 0, held: None });
                    stopped = flow.is_break();
                    flow
                }
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            }
        })
        .map_err(|error| self.config.place.failed(error))?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        if !stopped {
            let _ = here.try_for_each(see);
        }
        Ok(())
    }

    /// Forgets rows whose time is over, those with keys below `to`, without a word to the changelog: its own retention
    /// does the same.
    pub(crate) fn expire(&mut self, to: &[u8]) -> Result<(), Failure> {
        let (rows, free) = (&self.rows, &mut self.free);
        self.index.take_below(to, rows, |at| {
            // What a commit has yet to pass on goes with a later call.
            let goes = rows.get(at as usize).is_some_and(|row| !row.dirty);
            if goes {
                free.push(at);
            }
            goes
        });
        match &mut self.config.base {
            Some(base) => base.delete_range(&[], to).map_err(|error| self.config.place.failed(error)),
            None => Ok(()),
        }
    }

    pub(crate) fn dirty_rows(&self) -> usize {
        self.dirty.len()
    }

    pub(crate) fn approximate_entries(&self) -> u64 {
        let base = self.config.base.as_ref().map_or(0, |base| base.approximate_entries());
        base.saturating_add(self.index.len() as u64)
    }

    pub(crate) fn write_changelog(
        &mut self,
        partition: i32,
        collector: &mut dyn RecordCollector,
    ) -> Result<(), Failure> {
        let Some(topic) = self.config.changelog.clone().filter(|_| self.config.records.is_some()) else {
            return Ok(());
        };
        let headers = Headers::default();
        let task = self.config.place.task;
        let mut send = |key: &[u8], value: Option<&[u8]>, timestamp: i64, headers: &Headers| {
            let topic = &topic;
            let partition = Some(partition);
            let record =
                Outgoing { topic, partition, key: Some(key), partition_by: None, value, timestamp, headers };
            collector
                .send(record)
                .map_err(|reason| Box::new(StreamsError::Send { task, topic: Arc::clone(topic), reason }))
        };
        for Logged { key, value, timestamp, headers } in self.log.drain(..) {
            send(&key, value.as_deref(), timestamp, &headers)?;
        }
        if self.config.records == Some(ChangelogRecords::EachUpdate) && self.held_never() {
            return Ok(());
        }
        let rows = &self.rows;
        if self.updates > 0 {
            self.dirty.sort_by_key(|at| rows.get(*at as usize).map(|row| row.updated));
        }
        let mut out = std::mem::take(&mut self.buffer);
        let changed = self.dirty.iter().filter_map(|at| self.rows.get(*at as usize)).filter(|row| row.dirty);
        for row in changed {
            out.clear();
            let is_some = serialize(&self.config, &topic, row.value.as_ref(), &mut out)?;
            let key = row.key.get(self.config.prefix..).unwrap_or_default();
            send(key, is_some.then_some(out.as_slice()), row.timestamp, &headers)?;
        }
        self.buffer = out;
        Ok(())
    }

    /// No row was ever held back, so each change is in the log.
    fn held_never(&self) -> bool {
        self.updates == 0
    }

    /// Moves what changed into the base; in memory there is nothing to move.
    pub(crate) fn commit(&mut self, changelog_offset: Option<i64>) -> Result<(), StoreError> {
        let dirty = std::mem::take(&mut self.dirty);
        if self.config.base.is_some() {
            let mut entries = Vec::with_capacity(dirty.len());
            for row in dirty.iter().filter_map(|at| self.rows.get(*at as usize)) {
                entries.push((Bytes::copy_from_slice(&row.key), self.encode(row)?));
            }
            if let Some(base) = &mut self.config.base {
                base.write(WriteBatch { entries, changelog_offset })?;
            }
            self.index.clear();
            self.rows.clear();
            self.free.clear();
            return Ok(());
        }
        for at in &dirty {
            let Some(row) = self.rows.get_mut(*at as usize) else { continue };
            row.dirty = false;
            if row.value.is_none() {
                let key = row.key.clone();
                self.index.remove(&key, &self.rows);
                self.free.push(*at);
            }
        }
        self.dirty = dirty;
        self.dirty.clear();
        Ok(())
    }

    /// Applies a changelog record; `key` with the store's own prefix.
    pub(crate) fn restore(
        &mut self,
        batch: &mut WriteBatch,
        key: Bytes,
        record: &RawRecord,
    ) -> Result<(), StoreError> {
        let value = record.value.as_ref();
        if self.config.base.is_some() {
            let stored = value.map(|value| {
                let mut stored = Vec::with_capacity(8 + value.len());
                stored.extend_from_slice(&record.timestamp.to_be_bytes());
                stored.extend_from_slice(value);
                Bytes::from(stored)
            });
            batch.entries.push((key, stored));
            return Ok(());
        }
        let value = self.restored_value(record)?;
        match (self.index.get(&key, &self.rows), value) {
            (Some(at), Some(value)) => {
                if let Some(row) = self.rows.get_mut(at as usize) {
                    row.value = Some(value);
                    row.timestamp = record.timestamp;
                }
            }
            (Some(at), None) => {
                self.index.remove(&key, &self.rows);
                self.free.push(at);
            }
            (None, Some(value)) => {
                self.insert(&key, Some(value), record.timestamp);
            }
            (None, None) => {}
        }
        Ok(())
    }

    /// The value of a changelog record.
    pub(crate) fn restored_value(&self, record: &RawRecord) -> Result<Option<V>, StoreError> {
        let Some(value) = &record.value else { return Ok(None) };
        // A copy: a fetched slice would keep its whole batch in memory.
        let (cx, copy) = (SerdeContext::value(self.topic()), Bytes::copy_from_slice(value));
        Ok(Some(self.config.value.deserialize(cx, Some(&copy))?))
    }

    pub(crate) fn restored(&mut self, batch: WriteBatch) -> Result<(), StoreError> {
        match &mut self.config.base {
            Some(base) => base.write(batch),
            None => Ok(()),
        }
    }

    pub(crate) fn committed_offset(&self) -> Option<i64> {
        self.config.base.as_ref().and_then(|base| base.committed_offset())
    }

    /// A stored value is its timestamp, 8 bytes big endian, and its bytes, as Java's `ValueAndTimestamp`.
    fn decode(&self, stored: &Bytes) -> Result<(V, i64), Failure> {
        let Some(timestamp) = stored.get(..8).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok()) else {
            return Err(self.config.place.failed(StoreError::Malformed { size: stored.len() }));
        };
        let cx = SerdeContext::value(self.topic());
        let value = self.config.value.deserialize(cx, Some(&stored.slice(8..)));
        Ok((value.map_err(|error| self.config.place.failed(error))?, i64::from_be_bytes(timestamp)))
    }

    fn encode(&self, row: &Row<V>) -> Result<Option<Bytes>, StoreError> {
        let Some(value) = &row.value else { return Ok(None) };
        let mut out = Vec::with_capacity(16);
        out.extend_from_slice(&row.timestamp.to_be_bytes());
        let encoded = self.config.value.serialize(SerdeContext::value(self.topic()), value, &mut out)?;
        Ok((encoded == Encoded::Bytes).then(|| out.into()))
    }
}

/// An update as its changelog has it; `None` where there is no changelog.
fn logged<V: 'static>(
    config: &RowsConfig<V>,
    key: &[u8],
    value: Option<&V>,
    timestamp: i64,
    headers: &Headers,
) -> Result<Option<Logged>, Failure> {
    let Some(topic) = &config.changelog else { return Ok(None) };
    let mut out = Vec::new();
    let value = serialize(config, topic, value, &mut out)?.then(|| out.into());
    let key = Bytes::copy_from_slice(key.get(config.prefix..).unwrap_or_default());
    Ok(Some(Logged { key, value, timestamp, headers: headers.clone() }))
}

/// False for null.
fn serialize<V: 'static>(
    config: &RowsConfig<V>,
    topic: &str,
    value: Option<&V>,
    out: &mut Vec<u8>,
) -> Result<bool, Failure> {
    let Some(value) = value else { return Ok(false) };
    match config.value.serialize(SerdeContext::value(topic), value, out) {
        Ok(encoded) => Ok(encoded == Encoded::Bytes),
        Err(error) => Err(config.place.failed(error)),
    }
}
