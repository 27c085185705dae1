//! Joins with tables: of a stream's records with rows, and of rows with rows.

use std::sync::Arc;

use super::stream_join::{JoinBoth, JoinFrom};
use super::table::TableOut;
use super::{Called, Change, Context, Getter, Node, NodeResult, Out, Record, ValueGetter};
use crate::error::StreamsError;
use crate::serde::SharedSerde;
use crate::state::{JoinBuffer, RecordContext, StoreToken, Stores};

/// A stream's records with the rows of their keys as they are now.
pub(crate) struct StreamTableJoin<K, V, T, O, J> {
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) rows: Getter<K, T>,
    /// A record without a row is a result too.
    pub(crate) left: bool,
    pub(crate) joiner: Arc<J>,
    pub(crate) out: Out<K, O>,
}

impl<K, V, T, O, J> Node<K, V> for StreamTableJoin<K, V, T, O, J>
where
    K: Send + 'static,
    V: Send + 'static,
    T: Send + 'static,
    O: Send + 'static,
    J: Fn(&K, V, Option<&T>) -> Option<O> + Send + Sync + 'static,
{
    fn process(&mut self, record: Record<K, V>, cx: &mut Context<'_>) -> NodeResult {
        let Record { key, value, timestamp, headers } = record;
        let no_key = self.key.is_null(&key);
        if self.value.is_null(&value) || (no_key && !self.left) {
            cx.dropped += 1;
            return Ok(());
        }
        let row = if no_key { None } else { self.rows.get_at(&key, timestamp, cx.stores)? };
        if row.is_none() && !self.left {
            return Ok(());
        }
        match (self.joiner)(&key, value, row.as_ref().map(|(row, _)| row)) {
            Some(value) => self.out.forward(Record { key, value, timestamp, headers }, cx),
            None => Ok(()),
        }
    }
}

/// As [`StreamTableJoin`], each record once no update of the table can come that it should have met (KIP-923).
pub(crate) struct PatientJoin<K, V, T, O, J> {
    pub(crate) buffer: StoreToken<JoinBuffer<K, V>>,
    pub(crate) grace: i64,
    pub(crate) join: StreamTableJoin<K, V, T, O, J>,
}

impl<K, V, T, O, J> Node<K, V> for PatientJoin<K, V, T, O, J>
where
    K: Send + 'static,
    V: Send + 'static,
    T: Send + 'static,
    O: Send + 'static,
    J: Fn(&K, V, Option<&T>) -> Option<O> + Send + Sync + 'static,
{
    fn process(&mut self, record: Record<K, V>, cx: &mut Context<'_>) -> NodeResult {
        // What is dropped need not wait; what has no key has nothing to wait for.
        if self.join.key.is_null(&record.key) || self.join.value.is_null(&record.value) {
            return self.join.process(record, cx);
        }
        let context = cx.record_context(record.timestamp, &record.headers);
        if !cx.stores.get(self.buffer)?.put(&record.key, &record.value, context, self.grace)? {
            return self.join.process(record, cx);
        }
        while let Some((key, value, context)) = cx.stores.get(self.buffer)?.take_over(self.grace)? {
            let RecordContext { timestamp, offset, topic, headers, .. } = context;
            // Downstream sees the record's own place.
            let now = (std::mem::replace(&mut cx.topic, topic), std::mem::replace(&mut cx.offset, offset));
            let result = self.join.process(Record { key, value, timestamp, headers }, cx);
            (cx.topic, cx.offset) = now;
            result?;
        }
        Ok(())
    }
}

/// Which rows need a partner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableJoinKind {
    /// This side's and the other's.
    Inner,
    /// The other's only: this is the left side of a left join.
    Left,
    /// This side's only: this is the right side of a left join.
    Right,
    /// Neither.
    Outer,
}

/// One side of the join of two tables: its row has changed, the other one is as it is.
pub(crate) struct TableJoinSide<K, Other, O, J> {
    pub(crate) kind: TableJoinKind,
    pub(crate) key: SharedSerde<K>,
    pub(crate) other: Getter<K, Other>,
    pub(crate) send_old: bool,
    pub(crate) joiner: J,
    pub(crate) out: Out<K, Change<O>>,
}

impl<K, This, Other, O, J> Node<K, Change<This>> for TableJoinSide<K, Other, O, J>
where
    K: Send + 'static,
    This: Send + 'static,
    Other: Send + 'static,
    O: Send + 'static,
    J: JoinFrom<K, This, Other, O>,
{
    fn process(&mut self, record: Record<K, Change<This>>, cx: &mut Context<'_>) -> NodeResult {
        let Record { key, value: Change { old, new, is_latest }, timestamp, headers } = record;
        if self.key.is_null(&key) || !is_latest {
            cx.dropped += 1;
            return Ok(());
        }
        let other = self.other.get(&key, cx.stores)?;
        let needs_other = matches!(self.kind, TableJoinKind::Inner | TableJoinKind::Right);
        if other.is_none() && (needs_other || (new.is_none() && old.is_none())) {
            return Ok(());
        }
        let (other, timestamp) = match &other {
            Some((row, other_time)) => (Some(row), timestamp.max(*other_time)),
            None => (None, timestamp),
        };
        let needs_this = matches!(self.kind, TableJoinKind::Inner | TableJoinKind::Left);
        let join = |this: Option<&This>| match this.is_some() || !needs_this && other.is_some() {
            true => self.joiner.join(&key, this, other),
            false => None,
        };
        let old = if self.send_old { join(old.as_ref()) } else { None };
        let value = Change::new(old, join(new.as_ref()));
        self.out.forward(Record { key, value, timestamp, headers }, cx)
    }
}

/// Where both sides' results come together (`KTableKTableJoinMerger`).
pub(crate) struct TableMerge<K, V>(pub(crate) TableOut<K, V>);

impl<K: Send + 'static, V: Clone + Send + 'static> Node<K, Change<V>> for TableMerge<K, V> {
    fn process(&mut self, record: Record<K, Change<V>>, cx: &mut Context<'_>) -> NodeResult {
        self.0.emit(record, cx)
    }
}

impl<K: Send + 'static, V: Clone + Send + 'static> Called for TableMerge<K, V> {
    fn flush(&mut self, cx: &mut Context<'_>) -> NodeResult {
        self.0.flush(cx)
    }
}

/// The rows of a join that has no store: joined when they are asked for.
pub(crate) struct JoinGetter<K, L, R, J> {
    pub(crate) left: Getter<K, L>,
    pub(crate) right: Getter<K, R>,
    /// As seen from the left.
    pub(crate) kind: TableJoinKind,
    pub(crate) joiner: Arc<J>,
}

impl<K, L, R, O, J> ValueGetter<K, O> for JoinGetter<K, L, R, J>
where
    L: Send,
    R: Send,
    J: JoinBoth<K, L, R, O>,
{
    fn get(&mut self, key: &K, stores: &mut Stores) -> Result<Option<(O, i64)>, Box<StreamsError>> {
        let left = self.left.get(key, stores)?;
        if left.is_none() && self.kind != TableJoinKind::Outer {
            return Ok(None);
        }
        let right = self.right.get(key, stores)?;
        let timestamp = match (&left, &right) {
            (None, None) => return Ok(None),
            (_, None) if self.kind == TableJoinKind::Inner => return Ok(None),
            (Some((_, left)), Some((_, right))) => *left.max(right),
            (Some((_, time)), None) | (None, Some((_, time))) => *time,
        };
        let joined =
            self.joiner.join(key, left.as_ref().map(|(row, _)| row), right.as_ref().map(|(row, _)| row));
        Ok(joined.map(|row| (row, timestamp)))
    }
}

/// Sends each change of a row to the group it belongs to (`KTableRepartitionMap`): what was goes first.
pub(crate) struct TableGroup<K2, V2, F> {
    pub(crate) key: SharedSerde<K2>,
    pub(crate) value: SharedSerde<V2>,
    pub(crate) select: Arc<F>,
    pub(crate) out: Out<K2, Change<V2>>,
}

impl<K, V, K2, V2, F> Node<K, Change<V>> for TableGroup<K2, V2, F>
where
    K: Send,
    V: Send,
    K2: PartialEq + Send + 'static,
    V2: Send + 'static,
    F: Fn(&K, V) -> (K2, V2) + Send + Sync,
{
    fn process(&mut self, record: Record<K, Change<V>>, cx: &mut Context<'_>) -> NodeResult {
        let Record { key, value: Change { old, new, is_latest }, timestamp, headers } = record;
        if !is_latest {
            cx.dropped += 1;
            return Ok(());
        }
        let group = |row: V| {
            let (key, value) = (self.select)(&key, row);
            (!self.key.is_null(&key) && !self.value.is_null(&value)).then_some((key, value))
        };
        let (old, new) = (old.and_then(&group), new.and_then(&group));
        let mut send = |key: K2, old: Option<V2>, new: Option<V2>| {
            let headers = headers.clone();
            self.out.forward(Record { key, value: Change::new(old, new), timestamp, headers }, cx)
        };
        match (old, new) {
            (Some((before, old)), Some((after, new))) if before == after => send(after, Some(old), Some(new)),
            (old, new) => {
                if let Some((key, old)) = old {
                    send(key, Some(old), None)?;
                }
                new.map_or(Ok(()), |(key, new)| send(key, None, Some(new)))
            }
        }
    }
}
