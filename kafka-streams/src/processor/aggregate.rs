use std::sync::Arc;

use super::{Called, Change, Context, Node, NodeResult, Out, Record};
use crate::serde::SharedSerde;
use crate::state::{HeldRow, KvStore, StoreToken};

/// How a record changes its key's row: the row before (if any) and the record's value give the row after.
pub(crate) trait Update<K, V, A>: Send + Sync + 'static {
    fn update(&self, key: &K, value: V, row: Option<A>) -> A;
}

impl<K, V, A, F: Fn(&K, V, Option<A>) -> A + Send + Sync + 'static> Update<K, V, A> for F {
    #[inline]
    fn update(&self, key: &K, value: V, row: Option<A>) -> A {
        self(key, value, row)
    }
}

/// How a stateful node passes changes on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Forwarding {
    /// A row's latest state once for each commit, not each update of it.
    pub(crate) cached: bool,
    /// Something downstream needs the rows before.
    pub(crate) send_old: bool,
}

/// `count`, `reduce` and `aggregate` of streams: one row for each key.
pub(crate) struct Aggregate<K, V, A, U> {
    pub(crate) store: StoreToken<KvStore<K, A>>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) update: Arc<U>,
    pub(crate) forwarding: Forwarding,
    pub(crate) out: Out<K, Change<A>>,
}

impl<K, V, A, U> Node<K, V> for Aggregate<K, V, A, U>
where
    K: Send + 'static,
    V: Send + 'static,
    A: Clone + Send + 'static,
    U: Update<K, V, A>,
{
    fn process(&mut self, record: Record<K, V>, cx: &mut Context<'_>) -> NodeResult {
        let Record { key, value, timestamp, headers } = record;
        // A null value says nothing about the row (Java's KStreamAggregate); a null key has none.
        if self.value.is_null(&value) {
            cx.dropped += 1;
            return Ok(());
        }
        let store = cx.stores.get(self.store)?;
        // A row's time is that of its latest record, in whatever order they come.
        let latest =
            |row: &Option<(A, i64)>| row.as_ref().map_or(timestamp, |(_, before)| timestamp.max(*before));
        if self.forwarding.cached {
            let has_key = store.update_held(&key, &headers, self.forwarding.send_old, |row| {
                let latest = latest(&row);
                (Some(self.update.update(&key, value, row.map(|(row, _)| row))), latest)
            })?;
            cx.dropped += u64::from(!has_key);
            return Ok(());
        }
        let (mut change, mut time) = (Change::new(None, None), timestamp);
        let has_key = store.update(&key, |row| {
            time = latest(&row);
            let row = row.map(|(row, _)| row);
            if self.forwarding.send_old {
                change.old.clone_from(&row);
            }
            let row = self.update.update(&key, value, row);
            change.new = Some(row.clone());
            (Some(row), time)
        })?;
        if !has_key {
            cx.dropped += 1;
            return Ok(());
        }
        self.out.forward(Record { key, value: change, timestamp: time, headers }, cx)
    }
}

impl<K, V, A, U> Called for Aggregate<K, V, A, U>
where
    K: Send + 'static,
    V: Send + 'static,
    A: Clone + Send + 'static,
    U: Update<K, V, A>,
{
    fn flush(&mut self, cx: &mut Context<'_>) -> NodeResult {
        flush_held(self.store, self.forwarding, &mut self.out, cx)
    }
}

/// Passes on what a cache held back, each row in its latest state with the context of its latest record.
pub(crate) fn flush_held<K: Send + 'static, V: Clone + Send + 'static>(
    store: StoreToken<KvStore<K, V>>,
    forwarding: Forwarding,
    out: &mut Out<K, Change<V>>,
    cx: &mut Context<'_>,
) -> NodeResult {
    if !forwarding.cached {
        return Ok(());
    }
    for (key, row) in cx.stores.get(store)?.take_held()? {
        let HeldRow { before, value, timestamp, headers, .. } = row;
        // A row that came and went between two commits was never there.
        if forwarding.send_old && before.is_none() && value.is_none() {
            continue;
        }
        out.forward(Record { key, value: Change::new(before, value), timestamp, headers }, cx)?;
    }
    Ok(())
}

/// `count`, `reduce` and `aggregate` of grouped tables: what a row was is taken out of its old group before what it is
/// goes into its new one.
pub(crate) struct TableAggregate<K, V, A, S, T> {
    pub(crate) store: StoreToken<KvStore<K, A>>,
    pub(crate) add: Arc<S>,
    pub(crate) subtract: Arc<T>,
    pub(crate) forwarding: Forwarding,
    pub(crate) out: Out<K, Change<A>>,
    pub(crate) values: std::marker::PhantomData<fn(V)>,
}

impl<K, V, A, S, T> Node<K, Change<V>> for TableAggregate<K, V, A, S, T>
where
    K: Send + 'static,
    V: Send + 'static,
    A: Clone + Send + 'static,
    S: Fn(&K, V, Option<A>) -> Option<A> + Send + Sync + 'static,
    T: Fn(&K, V, A) -> Option<A> + Send + Sync + 'static,
{
    fn process(&mut self, record: Record<K, Change<V>>, cx: &mut Context<'_>) -> NodeResult {
        let Record { key, value, timestamp, headers } = record;
        let (mut change, mut time) = (Change::new(None, None), timestamp);
        let forwarding = self.forwarding;
        let apply = |row: Option<(A, i64)>| {
            let (row, before) = row.map_or((None, timestamp), |(row, before)| (Some(row), before));
            time = timestamp.max(before);
            if forwarding.send_old && !forwarding.cached {
                change.old.clone_from(&row);
            }
            // KTableAggregate: nothing is subtracted from a row that is not there.
            let row = match (value.old, row) {
                (Some(old), Some(row)) => (self.subtract)(&key, old, row),
                (_, row) => row,
            };
            let row = match value.new {
                Some(new) => (self.add)(&key, new, row),
                None => row,
            };
            if !forwarding.cached {
                change.new.clone_from(&row);
            }
            (row, time)
        };
        let store = cx.stores.get(self.store)?;
        if forwarding.cached {
            store.update_held(&key, &headers, forwarding.send_old, apply)?;
            return Ok(());
        }
        store.update(&key, apply)?;
        self.out.forward(Record { key, value: change, timestamp: time, headers }, cx)
    }
}

impl<K, V, A, S, T> Called for TableAggregate<K, V, A, S, T>
where
    K: Send + 'static,
    V: Send + 'static,
    A: Clone + Send + 'static,
    S: Fn(&K, V, Option<A>) -> Option<A> + Send + Sync + 'static,
    T: Fn(&K, V, A) -> Option<A> + Send + Sync + 'static,
{
    fn flush(&mut self, cx: &mut Context<'_>) -> NodeResult {
        flush_held(self.store, self.forwarding, &mut self.out, cx)
    }
}
