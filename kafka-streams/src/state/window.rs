//! One row for each key and window, or several where duplicates are kept.
//!
//! A row's key is its segment, then what the changelog has: the key's bytes, the window's start and a sequence number.
//! Segments make it cheap to forget what is over; retention is Java's: a row is visible while its start is later than
//! the store's time less the retention.

use std::ops::ControlFlow;

use bytes::Bytes;
use kafka_client::wire::record_batch::Headers;

use super::stores::RowStore;
use super::{HeldRow, Order, Rows, RowsConfig};
use crate::error::StreamsError;
use crate::serde::{Encoded, SerdeContext, SharedSerde};

type Failure = Box<StreamsError>;

const SEGMENT_BYTES: usize = 8;
const START_BYTES: usize = 8;
const SEQUENCE_BYTES: usize = 4;
/// `AbstractRocksDBSegmentedBytesStore`: no segment is shorter than this.
const SHORTEST_SEGMENT_MS: i64 = 60_000;

/// The segments of a store whose rows are kept for a time.
#[derive(Debug)]
pub(super) struct Segments {
    interval: i64,
    retention: i64,
    /// The latest time that was put, -1 before the first.
    pub(super) stream_time: i64,
    /// Rows in segments before this one are gone.
    first: i64,
    /// Rows that came too late.
    pub(super) dropped: u64,
}

impl Segments {
    pub(super) fn new(retention: i64) -> Self {
        Self {
            interval: (retention / 2).max(SHORTEST_SEGMENT_MS),
            retention,
            stream_time: -1,
            first: 0,
            dropped: 0,
        }
    }

    pub(super) fn of(&self, time: i64) -> i64 {
        time / self.interval
    }

    /// The earliest time that is visible.
    pub(super) fn earliest(&self) -> i64 {
        self.stream_time.saturating_sub(self.retention).saturating_add(1).max(0)
    }

    /// The segments in which visible rows of these times lie.
    pub(super) fn between(&self, from: i64, to: i64) -> std::ops::RangeInclusive<i64> {
        self.of(from.max(self.earliest()))..=self.of(to.min(self.stream_time.max(0)))
    }

    /// Time goes on. Returns the segment before which everything is over, if that moved.
    pub(super) fn advance(&mut self, time: i64) -> Option<i64> {
        self.stream_time = self.stream_time.max(time);
        let first = self.of(self.earliest());
        (first > self.first).then(|| {
            self.first = first;
            first
        })
    }

    pub(super) fn is_over(&self, time: i64) -> bool {
        time < self.earliest()
    }

    /// As [`Segments::is_over`] of a row that is put: then it is dropped, and counted.
    pub(super) fn drops(&mut self, time: i64) -> bool {
        let is_over = self.is_over(time);
        self.dropped += u64::from(is_over);
        is_over
    }
}

/// How a window store is kept, beside its rows.
pub(crate) struct WindowStoreConfig {
    pub(crate) retention_ms: i64,
    /// Stretches of time are looked at for each record; otherwise windows are known by their starts.
    pub(crate) scanned: bool,
}

pub(crate) struct WindowStore<K, V> {
    rows: Rows<V>,
    key: SharedSerde<K>,
    segments: Segments,
    scanned: bool,
    sequence: u32,
    from: Vec<u8>,
}

impl<K: 'static, V: Clone + 'static> WindowStore<K, V> {
    pub(crate) fn new(rows: RowsConfig<V>, key: SharedSerde<K>, config: &WindowStoreConfig) -> Self {
        Self {
            rows: Rows::new(RowsConfig {
                order: match config.scanned {
                    true => Order::Grouped(START_BYTES + SEQUENCE_BYTES),
                    false => Order::Hashed,
                },
                prefix: SEGMENT_BYTES,
                ..rows
            }),
            scanned: config.scanned,
            key,
            segments: Segments::new(config.retention_ms),
            sequence: 0,
            from: Vec::new(),
        }
    }

    /// The key's bytes with room for the segment before them; `false` for null.
    fn encode_key(&mut self, key: &K) -> Result<bool, Failure> {
        self.from.clear();
        self.from.extend_from_slice(&[0; SEGMENT_BYTES]);
        let cx = SerdeContext::key(self.rows.topic());
        match self.key.serialize(cx, key, &mut self.from) {
            Ok(encoded) => Ok(encoded == Encoded::Bytes),
            Err(error) => Err(self.rows.place().failed(error)),
        }
    }

    /// Makes `from` the whole key of a row; the key's bytes are there.
    fn complete(&mut self, start: i64, sequence: u32) {
        let segment = self.segments.of(start);
        if let Some(place) = self.from.first_chunk_mut::<SEGMENT_BYTES>() {
            *place = segment.to_be_bytes();
        }
        self.from.extend_from_slice(&start.to_be_bytes());
        self.from.extend_from_slice(&sequence.to_be_bytes());
    }

    /// The store's time: of the latest row.
    pub(crate) fn stream_time(&self) -> i64 {
        self.segments.stream_time
    }

    /// Whether a row of this time would be kept and found again.
    pub(crate) fn keeps(&self, time: i64) -> bool {
        let Segments { stream_time, retention, .. } = &self.segments;
        time > time.max(*stream_time).saturating_sub(*retention)
    }

    fn advance(&mut self, start: i64) -> Result<(), Failure> {
        match self.segments.advance(start) {
            Some(first) => self.rows.expire(&first.to_be_bytes()),
            None => Ok(()),
        }
    }

    /// Changes the row of a window; `change` gets what it is. The latest time a window has begun moves the store's time.
    pub(crate) fn update(
        &mut self,
        key: &K,
        start: i64,
        change: impl FnOnce(Option<(V, i64)>) -> (Option<V>, i64),
    ) -> Result<(), Failure> {
        self.advance(start)?;
        if !self.encode_key(key)? {
            return Ok(());
        }
        self.complete(start, 0);
        if self.segments.drops(start) {
            let (value, timestamp) = change(None);
            return self.rows.log_update(&self.from, value.as_ref(), timestamp, &Headers::default());
        }
        self.rows.update(&self.from, change)
    }

    /// As [`WindowStore::update`], held back until the commit.
    pub(crate) fn update_held(
        &mut self,
        key: &K,
        start: i64,
        headers: &Headers,
        keep_before: bool,
        change: impl FnOnce(Option<(V, i64)>) -> (Option<V>, i64),
    ) -> Result<(), Failure> {
        self.advance(start)?;
        if self.segments.drops(start) || !self.encode_key(key)? {
            return Ok(());
        }
        self.complete(start, 0);
        self.rows.update_held(&self.from, headers, keep_before, change)
    }

    /// What is held back, in the order of the last changes: key, start and row.
    pub(crate) fn take_held(&mut self) -> Result<Vec<(K, i64, HeldRow<V>)>, Failure> {
        let held = self.rows.take_held();
        let rows = held.into_iter().map(|row| {
            let key_end = row.key.len().saturating_sub(START_BYTES + SEQUENCE_BYTES).max(SEGMENT_BYTES);
            let key = row.key.slice(SEGMENT_BYTES..key_end);
            Ok((self.decode_key(&key)?, start_at(&row.key, key_end), row))
        });
        rows.collect()
    }

    /// The bytes of a key, by which rows of one time are ordered.
    pub(crate) fn key_bytes(&mut self, key: &K) -> Result<Bytes, Failure> {
        self.encode_key(key)?;
        Ok(Bytes::copy_from_slice(self.from.get(SEGMENT_BYTES..).unwrap_or_default()))
    }

    fn decode_key(&self, key: &Bytes) -> Result<K, Failure> {
        let key = self.key.deserialize(SerdeContext::key(self.rows.topic()), Some(key));
        key.map_err(|error| self.rows.place().failed(error))
    }

    /// A row of a window and its timestamp.
    pub(crate) fn get(&mut self, key: &K, start: i64) -> Result<Option<(&V, i64)>, Failure> {
        if self.segments.is_over(start) || !self.encode_key(key)? {
            return Ok(None);
        }
        self.complete(start, 0);
        self.rows.get(&self.from)
    }

    /// Sets or deletes the row of a window. One that is too late changes nothing; a changelog of all updates has it
    /// nevertheless, as in Java.
    pub(crate) fn put(
        &mut self,
        key: &K,
        start: i64,
        value: Option<V>,
        timestamp: i64,
    ) -> Result<(), Failure> {
        self.advance(start)?;
        if !self.encode_key(key)? {
            return Ok(());
        }
        self.complete(start, 0);
        if self.segments.drops(start) {
            return self.rows.log_update(&self.from, value.as_ref(), timestamp, &Headers::default());
        }
        self.rows.put(&self.from, value, timestamp)
    }

    /// Adds a row where duplicates are kept. A null changes nothing, nor does a row that is too late; a changelog of
    /// all updates has them nevertheless, as in Java, with the headers.
    pub(crate) fn add(
        &mut self,
        key: &K,
        start: i64,
        value: Option<V>,
        timestamp: i64,
        headers: &Headers,
    ) -> Result<(), Failure> {
        self.advance(start)?;
        // As Java counts: from 1, without the sign bit.
        self.sequence = self.sequence.wrapping_add(1) & 0x7fff_ffff;
        if !self.encode_key(key)? {
            return Ok(());
        }
        self.complete(start, self.sequence);
        self.rows.log_update(&self.from, value.as_ref(), timestamp, headers)?;
        if self.segments.drops(start) || value.is_none() {
            return Ok(());
        }
        self.rows.put_logged(&self.from, value, timestamp)
    }

    /// Looks at the visible rows of a key whose windows begin between two times, both included, in the order of time,
    /// or against it. `visit` gets each start.
    pub(crate) fn fetch(
        &mut self,
        key: &K,
        from: i64,
        to: i64,
        reverse: bool,
        visit: &mut dyn FnMut(i64, &V, i64) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        let from = from.max(self.segments.earliest());
        // Stores whose windows are known by their starts are not looked at like this.
        if to < from || !self.scanned || !self.encode_key(key)? {
            return Ok(());
        }
        let key_end = self.from.len();
        let mut segments: Vec<i64> = self.segments.between(from, to).collect();
        if reverse {
            segments.reverse();
        }
        let mut stopped = false;
        for segment in segments {
            if let Some(place) = self.from.first_chunk_mut::<SEGMENT_BYTES>() {
                *place = segment.to_be_bytes();
            }
            let (from, to) = (from.to_be_bytes(), to.to_be_bytes());
            self.rows.scan_group(&self.from, &from, &to, reverse, &mut |row, value, timestamp| {
                let flow = visit(start_at(row, key_end), value, timestamp);
                stopped = flow.is_break();
                flow
            })?;
            if stopped {
                break;
            }
        }
        Ok(())
    }

    /// The visible rows of all keys whose windows begin between two times, both included.
    pub(crate) fn fetch_all(&self, from: i64, to: i64) -> Result<Vec<(K, i64, V, i64)>, Failure> {
        let from = from.max(self.segments.earliest());
        if to < from {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        let segments = self.segments.between(from, to);
        let (first, end) = (segments.start().to_be_bytes(), segments.end().saturating_add(1).to_be_bytes());
        self.rows.scan(&first, Some(&end), false, &mut |row, value, timestamp| {
            let Some(key_end) = row.len().checked_sub(START_BYTES + SEQUENCE_BYTES) else {
                return ControlFlow::Continue(());
            };
            let start = start_at(row, key_end);
            if (from..=to).contains(&start) {
                let key = row.get(SEGMENT_BYTES..key_end).unwrap_or_default();
                found.push((Bytes::copy_from_slice(key), start, value.clone(), timestamp));
            }
            ControlFlow::Continue(())
        })?;
        let rows = found
            .into_iter()
            .map(|(key, start, value, timestamp)| Ok((self.decode_key(&key)?, start, value, timestamp)));
        rows.collect()
    }
}

fn start_at(row: &[u8], at: usize) -> i64 {
    row.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| i64::from_be_bytes(*bytes))
}

impl<K: Send + 'static, V: Clone + Send + 'static> RowStore for WindowStore<K, V> {
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
        let at = key.len().checked_sub(START_BYTES + SEQUENCE_BYTES)?;
        let start = start_at(key, at);
        if let Some(sequence) = key.last_chunk::<SEQUENCE_BYTES>() {
            self.sequence = self.sequence.max(u32::from_be_bytes(*sequence) & 0x7fff_ffff);
        }
        // Rows that are over by now are forgotten with the next one that is put.
        self.segments.stream_time = self.segments.stream_time.max(start);
        (start >= 0 && !self.segments.is_over(start)).then(|| prefixed(self.segments.of(start), key))
    }
}

pub(super) fn prefixed(segment: i64, key: &[u8]) -> Bytes {
    let mut row = Vec::with_capacity(SEGMENT_BYTES + key.len());
    row.extend_from_slice(&segment.to_be_bytes());
    row.extend_from_slice(key);
    row.into()
}
