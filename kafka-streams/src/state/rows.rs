//! Rows by key: values as the application's types, over a store of bytes or alone.
//!
//! What changed since the last commit lives here as values: however often a row changes, it is serialized once for
//! the changelog and the base, and aborting is dropping the rows. Without a base (state in memory) all rows stay here.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;
use kafka_client::wire::record_batch::Headers;
use rustc_hash::FxHashMap;

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
    pub(crate) records: ChangelogRecords,
    pub(crate) value: SharedSerde<V>,
    /// Whether rows are scanned while records are processed; otherwise keys are hashed.
    pub(crate) ordered: bool,
    /// So many bytes of a key are for the store's own order and not in the changelog.
    pub(crate) prefix: usize,
    pub(crate) base: Option<Box<dyn KeyValueStore>>,
}

enum Index {
    Hashed(FxHashMap<Bytes, u32>),
    Ordered(BTreeMap<Bytes, u32>),
}

impl Index {
    #[inline]
    fn get(&self, key: &[u8]) -> Option<u32> {
        match self {
            Index::Hashed(map) => map.get(key).copied(),
            Index::Ordered(map) => map.get(key).copied(),
        }
    }

    fn insert(&mut self, key: Bytes, at: u32) {
        match self {
            Index::Hashed(map) => map.insert(key, at),
            Index::Ordered(map) => map.insert(key, at),
        };
    }

    fn remove(&mut self, key: &[u8]) {
        match self {
            Index::Hashed(map) => map.remove(key),
            Index::Ordered(map) => map.remove(key),
        };
    }

    fn len(&self) -> usize {
        match self {
            Index::Hashed(map) => map.len(),
            Index::Ordered(map) => map.len(),
        }
    }

    fn clear(&mut self) {
        match self {
            Index::Hashed(map) => map.clear(),
            Index::Ordered(map) => map.clear(),
        }
    }

    /// Removes the keys from `from` to `to`, in no particular order.
    fn take(&mut self, from: &[u8], to: &[u8]) -> Vec<(Bytes, u32)> {
        match self {
            Index::Ordered(map) => {
                let mut taken = map.split_off(from);
                let mut rest = taken.split_off(to);
                map.append(&mut rest);
                taken.into_iter().collect()
            }
            Index::Hashed(map) => {
                let mut taken = Vec::new();
                map.retain(|key, at| {
                    let stays = key.as_ref() < from || key.as_ref() >= to;
                    if !stays {
                        taken.push((key.clone(), *at));
                    }
                    stays
                });
                taken
            }
        }
    }

    /// Places in the order of the keys' bytes, from `from` (included) to `to` (excluded).
    fn range(&self, from: &[u8], to: Option<&[u8]>, reverse: bool) -> Box<dyn Iterator<Item = u32> + '_> {
        if to.is_some_and(|to| to <= from) {
            return Box::new(std::iter::empty());
        }
        match self {
            Index::Ordered(map) => {
                let range = map
                    .range::<[u8], _>((Bound::Included(from), to.map_or(Bound::Unbounded, Bound::Excluded)));
                match reverse {
                    true => Box::new(range.rev().map(|(_, at)| *at)),
                    false => Box::new(range.map(|(_, at)| *at)),
                }
            }
            Index::Hashed(map) => {
                let inside = |key: &[u8]| key >= from && to.is_none_or(|to| key < to);
                let mut found: Vec<_> = map.iter().filter(|(key, _)| inside(key)).collect();
                found.sort_unstable();
                if reverse {
                    found.reverse();
                }
                Box::new(found.into_iter().map(|(_, at)| *at))
            }
        }
    }
}

/// What downstream has not seen of a cached row.
struct Held<V> {
    before: Option<V>,
    headers: Headers,
}

struct Row<V> {
    key: Bytes,
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

struct Logged {
    key: Bytes,
    value: Option<Bytes>,
    timestamp: i64,
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

/// Looks at rows one by one, in the order of their keys' bytes.
pub(crate) type Visitor<'v, V> = &'v mut dyn FnMut(&[u8], &V, i64) -> ControlFlow<()>;

impl<V: Clone + 'static> Rows<V> {
    pub(crate) fn new(config: RowsConfig<V>) -> Self {
        let index = match config.ordered {
            true => Index::Ordered(BTreeMap::new()),
            false => Index::Hashed(FxHashMap::default()),
        };
        Self {
            config,
            index,
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
        if let Some(at) = self.index.get(key) {
            return Ok(at);
        }
        let (value, timestamp) = match self.read_base(key)? {
            Some((value, timestamp)) => (Some(value), timestamp),
            None => (None, 0),
        };
        Ok(self.insert(Bytes::copy_from_slice(key), value, timestamp))
    }

    fn insert(&mut self, key: Bytes, value: Option<V>, timestamp: i64) -> u32 {
        let row = Row { key: key.clone(), value, timestamp, dirty: false, updated: 0, held: None };
        let at = match self.free.pop() {
            Some(at) => at,
            None => u32::try_from(self.rows.len()).unwrap_or(u32::MAX),
        };
        match self.rows.get_mut(at as usize) {
            Some(slot) => *slot = row,
            None => self.rows.push(row),
        }
        self.index.insert(key, at);
        at
    }

    fn read_base(&self, key: &[u8]) -> Result<Option<(V, i64)>, Failure> {
        let Some(base) = &self.config.base else { return Ok(None) };
        let found = base.get(key).map_err(|error| self.config.place.failed(error))?;
        found.map(|stored| self.decode(&stored)).transpose()
    }

    /// A row and its timestamp.
    pub(crate) fn get(&mut self, key: &[u8]) -> Result<Option<(&V, i64)>, Failure> {
        if let Some(at) = self.index.get(key) {
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
                    row.held = Some(Box::new(Held { before, headers: headers.clone() }));
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
        let at = match self.index.get(key) {
            Some(at) => at,
            None => self.insert(Bytes::copy_from_slice(key), None, 0),
        };
        if let Some(row) = self.rows.get_mut(at as usize) {
            row.value = value;
            row.timestamp = timestamp;
        }
        self.changed(at)
    }

    #[inline]
    fn changed(&mut self, at: u32) -> Result<(), Failure> {
        let Some(row) = self.rows.get_mut(at as usize) else { return Ok(()) };
        if !row.dirty {
            row.dirty = true;
            self.dirty.push(at);
        }
        if self.config.records == ChangelogRecords::EachUpdate
            && row.held.is_none()
            && let Some(topic) = &self.config.changelog
        {
            let mut out = Vec::new();
            let value = serialize(&self.config, topic, row.value.as_ref(), &mut out)?;
            let key = row.key.slice(self.config.prefix.min(row.key.len())..);
            let (value, timestamp) = (value.then(|| out.into()), row.timestamp);
            self.log.push(Logged { key, value, timestamp });
        }
        Ok(())
    }

    /// What is held back, in the order of the last changes.
    pub(crate) fn take_held(&mut self) -> Vec<HeldRow<V>> {
        let (rows, mut held) = (&mut self.rows, std::mem::take(&mut self.held));
        held.sort_by_key(|at| rows.get(*at as usize).map(|row| row.updated));
        let taken = held.iter().filter_map(|at| {
            let row = rows.get_mut(*at as usize)?;
            let Held { before, headers } = *row.held.take()?;
            let (key, value, timestamp) = (row.key.clone(), row.value.clone(), row.timestamp);
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
        let mut here =
            self.index.range(from, to, reverse).filter_map(|at| self.rows.get(at as usize)).peekable();
        let mut see = |row: &Row<V>| match &row.value {
            Some(value) => visit(&row.key, value, row.timestamp),
            None => ControlFlow::Continue(()),
        };
        let Some(base) = &self.config.base else {
            let _ = here.try_for_each(see);
            return Ok(());
        };
        // Rows that are here and in the base are newer here.
        let mut failure = None;
        let mut stopped = false;
        base.scan(from, to, reverse, &mut |key, stored| {
            while let Some(row) = here.peek() {
                let order = if reverse { key.cmp(&row.key) } else { row.key.as_ref().cmp(key) };
                if order.is_gt() {
                    break;
                }
                let Some(row) = here.next() else { break };
                if see(row).is_break() {
                    stopped = true;
                    return ControlFlow::Break(());
                }
                if order.is_eq() {
                    return ControlFlow::Continue(());
                }
            }
            match self.decode(&Bytes::copy_from_slice(stored)) {
                Ok((value, timestamp)) => {
                    let row = Row {
                        key: Bytes::copy_from_slice(key),
                        value: Some(value),
                        timestamp,
                        dirty: false,
                        updated: 0,
                        held: None,
                    };
                    let flow = see(&row);
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

    /// Forgets rows whose time is over, from `from` to `to`, without a word to the changelog: its own retention does
    /// the same.
    pub(crate) fn expire(&mut self, from: &[u8], to: &[u8]) -> Result<(), Failure> {
        for (key, at) in self.index.take(from, to) {
            let Some(row) = self.rows.get_mut(at as usize) else { continue };
            // What a commit has yet to pass on goes with a later call.
            if row.dirty {
                self.index.insert(key, at);
            } else {
                row.value = None;
                self.free.push(at);
            }
        }
        match &mut self.config.base {
            Some(base) => base.delete_range(from, to).map_err(|error| self.config.place.failed(error)),
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
        let Some(topic) = self.config.changelog.clone() else { return Ok(()) };
        let headers = Headers::default();
        let task = self.config.place.task;
        let mut send = |key: &[u8], value: Option<&[u8]>, timestamp: i64| {
            let (topic, headers) = (&topic, &headers);
            let partition = Some(partition);
            let record =
                Outgoing { topic, partition, key: Some(key), partition_by: None, value, timestamp, headers };
            collector
                .send(record)
                .map_err(|reason| Box::new(StreamsError::Send { task, topic: Arc::clone(topic), reason }))
        };
        for Logged { key, value, timestamp } in self.log.drain(..) {
            send(&key, value.as_deref(), timestamp)?;
        }
        if self.config.records == ChangelogRecords::EachUpdate && self.held_never() {
            return Ok(());
        }
        let rows = &self.rows;
        if self.updates > 0 {
            self.dirty.sort_by_key(|at| rows.get(*at as usize).map(|row| row.updated));
        }
        let mut out = std::mem::take(&mut self.buffer);
        for row in self.dirty.iter().filter_map(|at| self.rows.get(*at as usize)) {
            out.clear();
            let is_some = serialize(&self.config, &topic, row.value.as_ref(), &mut out)?;
            let key = row.key.get(self.config.prefix..).unwrap_or_default();
            send(key, is_some.then_some(out.as_slice()), row.timestamp)?;
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
                entries.push((row.key.clone(), self.encode(row)?));
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
                if self.index.get(&row.key) == Some(*at) {
                    self.index.remove(&row.key);
                }
                row.key = Bytes::new();
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
        let value = match value {
            // A copy: a fetched slice would keep its whole batch in memory.
            Some(value) => {
                let (cx, copy) = (SerdeContext::value(self.topic()), Bytes::copy_from_slice(value));
                Some(self.config.value.deserialize(cx, Some(&copy))?)
            }
            None => None,
        };
        match (self.index.get(&key), value) {
            (Some(at), Some(value)) => {
                if let Some(row) = self.rows.get_mut(at as usize) {
                    row.value = Some(value);
                    row.timestamp = record.timestamp;
                }
            }
            (Some(at), None) => {
                self.index.remove(&key);
                self.free.push(at);
            }
            (None, Some(value)) => {
                self.insert(key, Some(value), record.timestamp);
            }
            (None, None) => {}
        }
        Ok(())
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
