//! One row for each key and session.
//!
//! A row's key is the segment of the session's end, then what the changelog has: the key's bytes, the end and the start.

use std::ops::ControlFlow;

use bytes::Bytes;
use kafka_client::wire::record_batch::Headers;

use super::stores::RowStore;
use super::window::{Segments, prefixed};
use super::{HeldRow, Order, Rows, RowsConfig};
use crate::error::StreamsError;
use crate::serde::{Encoded, SerdeContext, SharedSerde};

type Failure = Box<StreamsError>;

const SEGMENT_BYTES: usize = 8;
const TIMES_BYTES: usize = 16;

pub(crate) struct SessionStore<K, V> {
    rows: Rows<V>,
    key: SharedSerde<K>,
    segments: Segments,
    from: Vec<u8>,
}

/// A session that was found.
pub(crate) struct Session<V> {
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) value: V,
}

impl<K: 'static, V: Clone + 'static> SessionStore<K, V> {
    pub(crate) fn new(rows: RowsConfig<V>, key: SharedSerde<K>, retention_ms: i64) -> Self {
        Self {
            rows: Rows::new(RowsConfig { order: Order::Grouped(TIMES_BYTES), prefix: SEGMENT_BYTES, ..rows }),
            key,
            segments: Segments::new(retention_ms),
            from: Vec::new(),
        }
    }

    fn encode_key(&mut self, key: &K) -> Result<bool, Failure> {
        self.from.clear();
        self.from.extend_from_slice(&[0; SEGMENT_BYTES]);
        let cx = SerdeContext::key(self.rows.topic());
        match self.key.serialize(cx, key, &mut self.from) {
            Ok(encoded) => Ok(encoded == Encoded::Bytes),
            Err(error) => Err(self.rows.place().failed(error)),
        }
    }

    fn set_segment(&mut self, segment: i64) {
        if let Some(place) = self.from.first_chunk_mut::<SEGMENT_BYTES>() {
            *place = segment.to_be_bytes();
        }
    }

    fn complete(&mut self, start: i64, end: i64) {
        self.set_segment(self.segments.of(end));
        self.from.extend_from_slice(&end.to_be_bytes());
        self.from.extend_from_slice(&start.to_be_bytes());
    }

    pub(crate) fn stream_time(&self) -> i64 {
        self.segments.stream_time
    }

    /// Sets or deletes a session. The latest end moves the store's time.
    pub(crate) fn put(
        &mut self,
        key: &K,
        start: i64,
        end: i64,
        value: Option<V>,
        timestamp: i64,
    ) -> Result<(), Failure> {
        if let Some(first) = self.segments.advance(end) {
            self.rows.expire(&first.to_be_bytes())?;
        }
        if !self.encode_key(key)? {
            return Ok(());
        }
        self.complete(start, end);
        if self.segments.drops(end) {
            // It changes nothing, but Java's changelog has it.
            return self.rows.log_update(&self.from, value.as_ref(), timestamp, &Headers::default());
        }
        self.rows.put(&self.from, value, timestamp)
    }

    /// As [`SessionStore::put`], held back until the commit.
    #[expect(clippy::too_many_arguments, reason = "the parts of one row")]
    pub(crate) fn put_held(
        &mut self,
        key: &K,
        start: i64,
        end: i64,
        value: Option<V>,
        timestamp: i64,
        headers: &Headers,
        keep_before: bool,
    ) -> Result<(), Failure> {
        if let Some(first) = self.segments.advance(end) {
            self.rows.expire(&first.to_be_bytes())?;
        }
        if self.segments.drops(end) || !self.encode_key(key)? {
            return Ok(());
        }
        self.complete(start, end);
        self.rows.update_held(&self.from, headers, keep_before, |_| (value, timestamp))
    }

    /// What is held back, in the order of the last changes: key, start, end and row.
    #[expect(clippy::type_complexity, reason = "the parts of one row")]
    pub(crate) fn take_held(&mut self) -> Result<Vec<(K, i64, i64, HeldRow<V>)>, Failure> {
        let held = self.rows.take_held();
        let rows = held.into_iter().map(|row| {
            let (start, end) = times(&row.key);
            let key_end = row.key.len().saturating_sub(TIMES_BYTES).max(SEGMENT_BYTES);
            let key = self.decode_key(&row.key.slice(SEGMENT_BYTES..key_end))?;
            Ok((key, start, end, row))
        });
        rows.collect()
    }

    /// The bytes of a key, by which sessions of one time are ordered.
    pub(crate) fn key_bytes(&mut self, key: &K) -> Result<Bytes, Failure> {
        self.encode_key(key)?;
        Ok(Bytes::copy_from_slice(self.from.get(SEGMENT_BYTES..).unwrap_or_default()))
    }

    fn decode_key(&self, key: &Bytes) -> Result<K, Failure> {
        let key = self.key.deserialize(SerdeContext::key(self.rows.topic()), Some(key));
        key.map_err(|error| self.rows.place().failed(error))
    }

    /// The value of a session.
    pub(crate) fn get(&mut self, key: &K, start: i64, end: i64) -> Result<Option<(&V, i64)>, Failure> {
        if self.segments.is_over(end) || !self.encode_key(key)? {
            return Ok(None);
        }
        self.complete(start, end);
        self.rows.get(&self.from)
    }

    /// The visible sessions of a key that end at `earliest_end` or later and begin at `latest_start` or earlier, by end
    /// and start.
    pub(crate) fn find(
        &mut self,
        key: &K,
        earliest_end: i64,
        latest_start: i64,
    ) -> Result<Vec<Session<V>>, Failure> {
        let mut found = Vec::new();
        let earliest_end = earliest_end.max(self.segments.earliest());
        if !self.encode_key(key)? {
            return Ok(found);
        }
        for segment in self.segments.between(earliest_end, i64::MAX) {
            self.set_segment(segment);
            let (from, to) = (earliest_end.to_be_bytes(), i64::MAX.to_be_bytes());
            self.rows.scan_group(&self.from, &from, &to, false, &mut |row, value, _| {
                let (start, end) = times(row);
                if start <= latest_start {
                    found.push(Session { start, end, value: value.clone() });
                }
                ControlFlow::Continue(())
            })?;
        }
        Ok(found)
    }

    /// Every visible session: key, start, end, value and timestamp.
    #[expect(clippy::type_complexity, reason = "the parts of one row")]
    pub(crate) fn all(&self) -> Result<Vec<(K, i64, i64, V, i64)>, Failure> {
        let mut found = Vec::new();
        let earliest = self.segments.earliest();
        self.rows.scan(&[], None, false, &mut |row, value, timestamp| {
            let (start, end) = times(row);
            let key_end = row.len().saturating_sub(TIMES_BYTES);
            if let Some(key) = row.get(SEGMENT_BYTES..key_end).filter(|_| end >= earliest) {
                found.push((Bytes::copy_from_slice(key), start, end, value.clone(), timestamp));
            }
            ControlFlow::Continue(())
        })?;
        let rows = found.into_iter().map(|(key, start, end, value, timestamp)| {
            Ok((self.decode_key(&key)?, start, end, value, timestamp))
        });
        rows.collect()
    }
}

/// Start and end, which are the last bytes of a row's key the other way round.
fn times(row: &[u8]) -> (i64, i64) {
    let Some(times) = row.last_chunk::<TIMES_BYTES>() else { return (0, -1) };
    let at = |from: usize| {
        times.get(from..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| i64::from_be_bytes(*bytes))
    };
    (at(8), at(0))
}

impl<K: Send + 'static, V: Clone + Send + 'static> RowStore for SessionStore<K, V> {
    type Value = V;

    fn rows(&self) -> &Rows<V> {
        &self.rows
    }

    fn rows_mut(&mut self) -> &mut Rows<V> {
        &mut self.rows
    }

    fn dropped(&self) -> u64 {
        self.segments.dropped
    }

    fn restored_key(&mut self, key: &[u8]) -> Option<Bytes> {
        if key.len() < TIMES_BYTES {
            return None;
        }
        let (_, end) = times(key);
        self.segments.stream_time = self.segments.stream_time.max(end);
        (end >= 0 && !self.segments.is_over(end)).then(|| prefixed(self.segments.of(end), key))
    }
}
