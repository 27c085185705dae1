//! Rows that are held back (KIP-328): by time and key, in Java's changelog format.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use kafka_client::wire::record_batch::{Header, Headers};
use rustc_hash::FxHashMap;

use super::buffer_value::{BufferValue, RecordContext, decode, encode};
use super::stores::StorePlace;
use super::{StoreError, TaskStore};
use crate::error::StreamsError;
use crate::processor::{Change, Outgoing, RawRecord, RecordCollector};
use crate::serde::{Encoded, SerdeContext, SharedSerde, to_bytes};

type Failure = Box<StreamsError>;

/// Changelog records carry their format's version: context, values and time in one value.
const VERSION_HEADER: &str = "v";
const VERSION: &[u8] = &[3];
/// A row that is let go.
pub(crate) struct Released<K, V> {
    pub(crate) key: K,
    pub(crate) change: Change<V>,
    pub(crate) context: RecordContext,
}

pub(crate) struct SuppressBuffer<K, V> {
    place: StorePlace,
    changelog: Option<Arc<str>>,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    times: FxHashMap<Bytes, i64>,
    held: BTreeMap<(i64, Bytes), BufferValue>,
    bytes: u64,
    dirty: BTreeSet<Bytes>,
}

impl<K: 'static, V: 'static> SuppressBuffer<K, V> {
    pub(crate) fn new(
        place: StorePlace,
        changelog: Option<Arc<str>>,
        key: SharedSerde<K>,
        value: SharedSerde<V>,
    ) -> Self {
        Self {
            place,
            changelog,
            key,
            value,
            times: FxHashMap::default(),
            held: BTreeMap::new(),
            bytes: 0,
            dirty: BTreeSet::new(),
        }
    }

    fn topic(&self) -> &str {
        self.changelog.as_ref().unwrap_or(&self.place.name)
    }

    fn key_bytes(&self, key: &K) -> Result<Option<Bytes>, Failure> {
        to_bytes(&*self.key, SerdeContext::key(self.topic()), key).map_err(|error| self.place.failed(error))
    }

    fn value_bytes(&self, value: Option<&V>) -> Result<Option<Bytes>, Failure> {
        let Some(value) = value else { return Ok(None) };
        let mut out = Vec::new();
        let encoded = self.value.serialize(SerdeContext::value(self.topic()), value, &mut out);
        let encoded = encoded.map_err(|error| self.place.failed(error))?;
        Ok((encoded == Encoded::Bytes).then(|| out.into()))
    }

    fn read(&self, value: Option<&Bytes>) -> Result<Option<V>, Failure> {
        let Some(value) = value else { return Ok(None) };
        let read = self.value.deserialize(SerdeContext::value(self.topic()), Some(value));
        read.map(Some).map_err(|error| self.place.failed(error))
    }

    /// Holds a change back. A row that is held already keeps its place in time.
    pub(crate) fn put(
        &mut self,
        time: i64,
        key: &K,
        change: &Change<V>,
        context: RecordContext,
    ) -> Result<(), Failure> {
        let Some(key) = self.key_bytes(key)? else { return Ok(()) };
        let (old, new) = (self.value_bytes(change.old.as_ref())?, self.value_bytes(change.new.as_ref())?);
        let place = (self.times.get(&key).copied().unwrap_or(time), key);
        let before = self.held.remove(&place);
        self.bytes -= before.as_ref().map_or(0, |held| held.size(&place.1));
        let prior = before.map_or_else(|| old.clone(), |held| held.prior);
        let held = BufferValue { prior, old, new, context };
        self.bytes += held.size(&place.1);
        self.times.insert(place.1.clone(), place.0);
        self.dirty.insert(place.1.clone());
        self.held.insert(place, held);
        Ok(())
    }

    /// The earliest time that is held.
    pub(crate) fn earliest(&self) -> Option<i64> {
        self.held.first_key_value().map(|((time, _), _)| *time)
    }

    pub(crate) fn len(&self) -> u64 {
        self.held.len() as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Lets the earliest row go. What it was is what downstream knows, not the step before its last one.
    pub(crate) fn release(&mut self) -> Result<Option<Released<K, V>>, Failure> {
        let Some(((_, key), held)) = self.held.pop_first() else { return Ok(None) };
        self.times.remove(&key);
        self.bytes -= held.size(&key);
        self.dirty.insert(key.clone());
        let change = Change::new(self.read(held.prior.as_ref())?, self.read(held.new.as_ref())?);
        let key = self.key.deserialize(SerdeContext::key(self.topic()), Some(&key));
        let key = key.map_err(|error| self.place.failed(error))?;
        Ok(Some(Released { key, change, context: held.context }))
    }

    /// A row as downstream knows it; `None` if it is not held.
    #[expect(clippy::option_option, reason = "held and not there is not the same as not held")]
    pub(crate) fn prior(&self, key: &K) -> Result<Option<Option<V>>, Failure> {
        let Some(key) = self.key_bytes(key)? else { return Ok(None) };
        let held = self.times.get(&key).and_then(|time| self.held.get(&(*time, key)));
        held.map(|held| self.read(held.prior.as_ref())).transpose()
    }
}

impl<K: Send + 'static, V: Send + 'static> TaskStore for SuppressBuffer<K, V>
where
    Self: Any,
{
    fn name(&self) -> &Arc<str> {
        &self.place.name
    }

    fn changelog(&self) -> Option<Arc<str>> {
        self.changelog.clone()
    }

    fn dirty_rows(&self) -> usize {
        self.dirty.len()
    }

    fn write_changelog(
        &mut self,
        partition: i32,
        collector: &mut dyn RecordCollector,
    ) -> Result<(), Failure> {
        let Some(topic) = &self.changelog else { return Ok(()) };
        let version: Headers =
            [Header { key: VERSION_HEADER.into(), value: Some(Bytes::from_static(VERSION)) }]
                .into_iter()
                .collect();
        let none = Headers::default();
        for key in &self.dirty {
            let time = self.times.get(key).copied();
            let held = time.and_then(|time| self.held.get(&(time, key.clone())));
            let value = time.zip(held).map(|(time, held)| encode(time, held));
            let record = Outgoing {
                topic,
                partition: Some(partition),
                key: Some(key),
                partition_by: None,
                value: value.as_deref(),
                timestamp: held.map_or(0, |held| held.context.timestamp),
                headers: if value.is_some() { &version } else { &none },
            };
            collector.send(record).map_err(|reason| {
                Box::new(StreamsError::Send { task: self.place.task, topic: Arc::clone(topic), reason })
            })?;
        }
        Ok(())
    }

    fn commit(&mut self, _: Option<i64>) -> Result<(), StoreError> {
        self.dirty.clear();
        Ok(())
    }

    fn restore(&mut self, records: &mut dyn Iterator<Item = RawRecord>) -> Result<(), StoreError> {
        for record in records {
            let Some(key) = record.key.as_ref().map(|key| Bytes::copy_from_slice(key)) else { continue };
            if let Some(time) = self.times.remove(&key)
                && let Some(held) = self.held.remove(&(time, key.clone()))
            {
                self.bytes -= held.size(&key);
            }
            let Some(value) = &record.value else { continue };
            let (time, held) = decode(value).ok_or(StoreError::Malformed { size: value.len() })?;
            self.bytes += held.size(&key);
            self.times.insert(key.clone(), time);
            self.held.insert((time, key), held);
        }
        Ok(())
    }

    fn committed_offset(&self) -> Option<i64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_rows_are_written_as_in_java_and_damaged_ones_are_errors() {
        let headers = [Header { key: "h".into(), value: None }].into_iter().collect();
        let context = RecordContext { timestamp: 1, offset: 2, topic: Arc::from("t"), partition: 3, headers };
        let prior = Some(Bytes::from_static(b"p"));
        let held =
            BufferValue { prior: prior.clone(), old: prior, new: Some(Bytes::from_static(b"nn")), context };
        let bytes = encode(9, &held);
        let mut expected = Vec::new();
        expected.extend([0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, b't', 0, 0, 0, 3]);
        expected.extend([0, 0, 0, 1, 0, 0, 0, 1, b'h', 255, 255, 255, 255]);
        expected
            .extend([0, 0, 0, 1, b'p', 255, 255, 255, 254, 0, 0, 0, 2, b'n', b'n', 0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(bytes, expected);
        let bytes = Bytes::from(bytes);
        assert_eq!(decode(&bytes), Some((9, held)));
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes.slice(..cut)), None, "{cut}");
        }
    }
}
