//! Records of a stream that wait for a table's late updates (KIP-923): by time, in Java's changelog format.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kafka_client::wire::record_batch::Headers;

use super::buffer_value::{BufferValue, RecordContext, decode, encode};
use super::stores::StorePlace;
use super::{StoreError, TaskStore};
use crate::error::StreamsError;
use crate::processor::{Outgoing, RawRecord, RecordCollector};
use crate::serde::{SerdeContext, SharedSerde, to_bytes};

type Failure = Box<StreamsError>;

/// `PrefixedWindowKeySchemas.TimeFirstWindowKeySchema`: this byte, the time, the key, a sequence number.
const TIME_FIRST: u8 = 0;
const KEY_AT: usize = 9;
const SEQUENCE_BYTES: usize = 4;

pub(crate) struct JoinBuffer<K, V> {
    place: StorePlace,
    changelog: Option<Arc<str>>,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    waiting: BTreeMap<Bytes, BufferValue>,
    /// The latest time of the records that came here.
    stream_time: i64,
    sequence: u32,
    /// Each step since the last commit, as in Java.
    log: Vec<(Bytes, Option<Bytes>)>,
}

impl<K: 'static, V: 'static> JoinBuffer<K, V> {
    pub(crate) fn new(
        place: StorePlace,
        changelog: Option<Arc<str>>,
        key: SharedSerde<K>,
        value: SharedSerde<V>,
    ) -> Self {
        let (waiting, log) = (BTreeMap::new(), Vec::new());
        Self { place, changelog, key, value, waiting, stream_time: -1, sequence: 0, log }
    }

    fn topic(&self) -> &str {
        self.changelog.as_ref().unwrap_or(&self.place.name)
    }

    fn log(&mut self, key: Bytes, value: Option<&BufferValue>) {
        if self.changelog.is_some() {
            // Java writes no time for when it was put here.
            self.log.push((key, value.map(|value| encode(0, value).into())));
        }
    }

    /// Lets a record wait; `false` if its time to wait is over already.
    pub(crate) fn put(
        &mut self,
        key: &K,
        value: &V,
        context: RecordContext,
        grace: i64,
    ) -> Result<bool, Failure> {
        let time = context.timestamp;
        if self.stream_time.saturating_sub(grace) > time {
            return Ok(false);
        }
        let failed = |error| self.place.failed(error);
        let key = to_bytes(&*self.key, SerdeContext::key(self.topic()), key).map_err(failed)?;
        let new = to_bytes(&*self.value, SerdeContext::value(self.topic()), value).map_err(failed)?;
        self.stream_time = self.stream_time.max(time);
        self.sequence = self.sequence.wrapping_add(1) & 0x7fff_ffff;
        let key = key.as_deref().unwrap_or_default();
        let place =
            [&[TIME_FIRST][..], &time.to_be_bytes(), key, &self.sequence.to_be_bytes()].concat().into();
        let value = BufferValue { prior: None, old: None, new, context };
        self.log(Bytes::clone(&place), Some(&value));
        self.waiting.insert(place, value);
        Ok(true)
    }

    /// The earliest record whose time to wait is over.
    pub(crate) fn take_over(&mut self, grace: i64) -> Result<Option<(K, V, RecordContext)>, Failure> {
        let over = self.stream_time.saturating_sub(grace);
        let Some(first) = self.waiting.first_entry().filter(|first| first.get().context.timestamp <= over)
        else {
            return Ok(None);
        };
        let (place, BufferValue { new, context, .. }) = first.remove_entry();
        let failed = |error| self.place.failed(error);
        let key = place.slice(KEY_AT..place.len() - SEQUENCE_BYTES);
        let key = self.key.deserialize(SerdeContext::key(self.topic()), Some(&key)).map_err(failed)?;
        let value =
            self.value.deserialize(SerdeContext::value(self.topic()), new.as_ref()).map_err(failed)?;
        self.log(place, None);
        Ok(Some((key, value, context)))
    }
}

impl<K: Send + 'static, V: Send + 'static> TaskStore for JoinBuffer<K, V>
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
        self.log.len()
    }

    fn write_changelog(
        &mut self,
        partition: i32,
        collector: &mut dyn RecordCollector,
    ) -> Result<(), Failure> {
        let Some(topic) = &self.changelog else { return Ok(()) };
        let headers = Headers::default();
        for (key, value) in &self.log {
            let record = Outgoing {
                topic,
                partition: Some(partition),
                key: Some(key),
                partition_by: None,
                value: value.as_deref(),
                timestamp: self.stream_time.max(0),
                headers: &headers,
            };
            collector.send(record).map_err(|reason| {
                Box::new(StreamsError::Send { task: self.place.task, topic: Arc::clone(topic), reason })
            })?;
        }
        Ok(())
    }

    fn commit(&mut self, _: Option<i64>) -> Result<(), StoreError> {
        self.log.clear();
        Ok(())
    }

    fn restore(&mut self, records: &mut dyn Iterator<Item = RawRecord>) -> Result<(), StoreError> {
        for record in records {
            let Some(key) = record.key.as_ref().map(|key| Bytes::copy_from_slice(key)) else { continue };
            let Some(sequence) = key.get(KEY_AT..).and_then(<[u8]>::last_chunk::<SEQUENCE_BYTES>) else {
                return Err(StoreError::Malformed { size: key.len() });
            };
            self.sequence = self.sequence.max(u32::from_be_bytes(*sequence));
            match &record.value {
                Some(value) => {
                    let (_, value) = decode(value).ok_or(StoreError::Malformed { size: value.len() })?;
                    self.stream_time = self.stream_time.max(value.context.timestamp);
                    self.waiting.insert(key, value);
                }
                None => {
                    self.waiting.remove(&key);
                }
            }
        }
        Ok(())
    }

    fn committed_offset(&self) -> Option<i64> {
        None
    }
}
