//! Records of stream-stream joins that wait for a partner (KIP-633), in Java's format: the key is the record's time, its
//! side and its key; the value is the list of values of that key and time.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::stores::RowStore;
use super::{Order, Rows, RowsConfig};
use crate::error::StreamsError;
use crate::serde::{Encoded, Serde, SerdeContext, SerdeError, SharedSerde};

type Failure = Box<StreamsError>;

/// A side of a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

impl Side {
    pub(crate) fn other(self) -> Self {
        match self {
            Side::Left => Side::Right,
            Side::Right => Side::Left,
        }
    }

    /// As a byte of a key.
    fn byte(self) -> u8 {
        match self {
            Side::Left => 1,
            Side::Right => 0,
        }
    }
}

/// A value of either side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Either<L, R> {
    Left(L),
    Right(R),
}

const KEY_AT: usize = 9;

pub(crate) struct OuterJoinStore<K, L, R> {
    rows: Rows<Vec<Either<L, R>>>,
    key: SharedSerde<K>,
    /// The latest time of both sides' records; -1 before the first, and again after a restart.
    stream_time: i64,
    /// No record that waits is earlier.
    earliest: i64,
    bytes: Vec<u8>,
}

impl<K: 'static, L: Clone + 'static, R: Clone + 'static> OuterJoinStore<K, L, R> {
    /// The rows' serde is to be [`either_list`].
    pub(crate) fn new(rows: RowsConfig<Vec<Either<L, R>>>, key: SharedSerde<K>) -> Self {
        let rows = Rows::new(RowsConfig { order: Order::Ordered, ..rows });
        Self { rows, key, stream_time: -1, earliest: i64::MAX, bytes: Vec::new() }
    }

    fn encode_key(&mut self, key: &K, side: Side, timestamp: i64) -> Result<(), Failure> {
        self.bytes.clear();
        self.bytes.extend_from_slice(&timestamp.to_be_bytes());
        self.bytes.push(side.byte());
        let cx = SerdeContext::key(self.rows.topic());
        match self.key.serialize(cx, key, &mut self.bytes) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.rows.place().failed(error)),
        }
    }

    /// Time goes on, whichever side's record came. Returns the latest.
    pub(crate) fn advance(&mut self, timestamp: i64) -> i64 {
        self.stream_time = self.stream_time.max(timestamp);
        self.stream_time
    }

    /// Whether even the earliest record has yet to wait, each waiting so long.
    pub(crate) fn nobody_waits_until(&self, wait: i64) -> bool {
        self.earliest.saturating_add(wait) >= self.stream_time
    }

    /// A record found no partner yet.
    pub(crate) fn wait(
        &mut self,
        key: &K,
        side: Side,
        timestamp: i64,
        value: Either<L, R>,
    ) -> Result<(), Failure> {
        self.earliest = self.earliest.min(timestamp);
        self.encode_key(key, side, timestamp)?;
        self.rows.update(&self.bytes, |row| {
            let mut values = row.map(|(values, _)| values).unwrap_or_default();
            values.push(value);
            (Some(values), timestamp)
        })
    }

    /// The records of a key, side and time have a partner now.
    pub(crate) fn matched(&mut self, key: &K, side: Side, timestamp: i64, now: i64) -> Result<(), Failure> {
        self.encode_key(key, side, timestamp)?;
        match self.rows.get(&self.bytes)?.is_some() {
            true => self.rows.put(&self.bytes, None, now),
            false => Ok(()),
        }
    }

    /// Takes the records that waited so long by their side, in the order of their times.
    #[expect(clippy::type_complexity, reason = "the parts of a record")]
    pub(crate) fn take_over(
        &mut self,
        left_waits: i64,
        right_waits: i64,
        now: i64,
    ) -> Result<Vec<(K, i64, Either<L, R>)>, Failure> {
        let (mut over, mut open) = (Vec::new(), (false, false));
        let mut earliest = i64::MAX;
        let stream_time = self.stream_time;
        self.rows.scan(&[], None, false, &mut |row, values, _| {
            let Some((time, side)) = row.first_chunk().map(|time| i64::from_be_bytes(*time)).zip(row.get(8))
            else {
                return ControlFlow::Continue(());
            };
            earliest = time;
            if open == (true, true) {
                return ControlFlow::Break(());
            }
            let is_left = *side == Side::Left.byte();
            if time.saturating_add(if is_left { left_waits } else { right_waits }) >= stream_time {
                match is_left {
                    true => open.0 = true,
                    false => open.1 = true,
                }
            } else {
                over.push((Bytes::copy_from_slice(row), time, values.clone()));
            }
            ControlFlow::Continue(())
        })?;
        self.earliest = earliest;
        let mut records = Vec::with_capacity(over.len());
        for (row, time, values) in over {
            let bytes = row.slice(KEY_AT.min(row.len())..);
            for value in values {
                let key = self.key.deserialize(SerdeContext::key(self.rows.topic()), Some(&bytes));
                records.push((key.map_err(|error| self.rows.place().failed(error))?, time, value));
            }
            self.rows.put(&row, None, now)?;
        }
        Ok(records)
    }
}

impl<K: Send + 'static, L: Clone + Send + 'static, R: Clone + Send + 'static> RowStore
    for OuterJoinStore<K, L, R>
{
    type Value = Vec<Either<L, R>>;

    fn rows(&self) -> &Rows<Self::Value> {
        &self.rows
    }

    fn rows_mut(&mut self) -> &mut Rows<Self::Value> {
        &mut self.rows
    }

    fn restored_key(&mut self, key: &[u8]) -> Option<Bytes> {
        let time = key.first_chunk().map(|time| i64::from_be_bytes(*time))?;
        self.earliest = self.earliest.min(time);
        (key.len() >= KEY_AT).then(|| Bytes::copy_from_slice(key))
    }
}

/// The serde of a list of values of either side: Java's `ListSerde` of `LeftOrRightValue`.
pub(crate) fn either_list<L: 'static, R: 'static>(
    left: SharedSerde<L>,
    right: SharedSerde<R>,
) -> SharedSerde<Vec<Either<L, R>>> {
    Arc::new(EitherList { left, right })
}

struct EitherList<L, R> {
    left: SharedSerde<L>,
    right: SharedSerde<R>,
}

/// `ListSerde`: sizes vary, so each one is written.
const VARIABLE_SIZE: u8 = 1;

impl<L: 'static, R: 'static> Serde<Vec<Either<L, R>>> for EitherList<L, R> {
    fn serialize(
        &self,
        cx: SerdeContext<'_>,
        values: &Vec<Either<L, R>>,
        out: &mut Vec<u8>,
    ) -> Result<Encoded, SerdeError> {
        out.push(VARIABLE_SIZE);
        out.extend_from_slice(&(values.len() as u32).to_be_bytes());
        for value in values {
            let length_at = out.len();
            out.extend_from_slice(&[0; 4]);
            match value {
                Either::Left(value) => {
                    out.push(1);
                    self.left.serialize(cx, value, out)?;
                }
                Either::Right(value) => {
                    out.push(0);
                    self.right.serialize(cx, value, out)?;
                }
            }
            let length = (out.len() - length_at - 4) as u32;
            if let Some(place) = out.get_mut(length_at..).and_then(|rest| rest.first_chunk_mut::<4>()) {
                *place = length.to_be_bytes();
            }
        }
        Ok(Encoded::Bytes)
    }

    fn deserialize(
        &self,
        cx: SerdeContext<'_>,
        bytes: Option<&Bytes>,
    ) -> Result<Vec<Either<L, R>>, SerdeError> {
        let bytes = bytes.ok_or(SerdeError::Null { type_name: "list" })?;
        let too_short = || SerdeError::Length { expected: 5, actual: bytes.len() };
        let number = |at: usize| {
            let chunk = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
            chunk.map(|chunk| u32::from_be_bytes(*chunk) as usize).ok_or_else(too_short)
        };
        let count = number(1)?;
        let (mut at, mut values) = (5, Vec::new());
        for _ in 0..count {
            let length = number(at)?;
            let entry = at + 4..(at + 4).saturating_add(length);
            if length == 0 || entry.end > bytes.len() {
                return Err(too_short());
            }
            let value = bytes.slice(entry.start + 1..entry.end);
            values.push(match bytes.get(entry.start) {
                Some(0) => Either::Right(self.right.deserialize(cx, Some(&value))?),
                _ => Either::Left(self.left.deserialize(cx, Some(&value))?),
            });
            at = entry.end;
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serde::HasSerde;

    #[test]
    fn waiting_values_are_written_as_in_java() {
        let serde = either_list(String::serde(), i32::serde());
        let values = vec![Either::Left("A".to_owned()), Either::Right(7)];
        let mut out = Vec::new();
        serde.serialize(SerdeContext::value("t"), &values, &mut out).unwrap();
        assert_eq!(out, [1, 0, 0, 0, 2, 0, 0, 0, 2, 1, b'A', 0, 0, 0, 5, 0, 0, 0, 0, 7]);
        let bytes = Bytes::from(out);
        assert_eq!(serde.deserialize(SerdeContext::value("t"), Some(&bytes)).unwrap(), values);
        for cut in 0..bytes.len() {
            assert!(serde.deserialize(SerdeContext::value("t"), Some(&bytes.slice(..cut))).is_err(), "{cut}");
        }
    }
}
