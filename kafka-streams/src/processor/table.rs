use std::sync::Arc;

use super::{Change, Context, Node, NodeName, NodeResult, Out, Record};
use crate::serde::SharedSerde;
use crate::state::SharedStore;

/// Reads a topic (or a stream) as updates of rows. Rows without a key are dropped.
pub(crate) struct TableSource<K, V> {
    pub(crate) name: NodeName,
    pub(crate) key: SharedSerde<K>,
    /// `None` for a table that nobody looks into.
    pub(crate) store: Option<SharedStore<K, V>>,
    pub(crate) out: Out<K, Change<V>>,
}

impl<K: Send + 'static, V: Clone + Send + 'static> Node<K, Option<V>> for TableSource<K, V> {
    fn process(&mut self, record: Record<K, Option<V>>, cx: &mut Context<'_>) -> NodeResult {
        let Record { key, value: new, timestamp, headers } = record;
        if self.key.is_null(&key) {
            return Ok(());
        }
        if let Some(store) = &self.store {
            let mut store = store.lock();
            store
                .put_at(&key, new.clone(), timestamp)
                .map_err(|source| cx.store_failed(&self.name, store.name(), source))?;
        }
        self.out.forward(Record { key, value: Change { old: None, new }, timestamp, headers }, cx)
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> NodeResult {
        self.out.flush(cx)
    }
}

/// Rows that fail the predicate become tombstones: downstream must forget them.
pub(crate) struct TableFilter<K, V, F> {
    pub(crate) keep: Arc<F>,
    pub(crate) when: bool,
    pub(crate) out: Out<K, Change<V>>,
}

impl<K: Send, V: Send, F: Fn(&K, &V) -> bool + Send + Sync> Node<K, Change<V>> for TableFilter<K, V, F> {
    fn process(&mut self, record: Record<K, Change<V>>, cx: &mut Context<'_>) -> NodeResult {
        let Record { key, value: Change { old, new }, timestamp, headers } = record;
        let keep = |row: &V| (self.keep)(&key, row) == self.when;
        let value = Change { old: old.filter(keep), new: new.filter(keep) };
        self.out.forward(Record { key, value, timestamp, headers }, cx)
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> NodeResult {
        self.out.flush(cx)
    }
}

pub(crate) struct TableMapValues<K, V2, F> {
    pub(crate) map: Arc<F>,
    pub(crate) out: Out<K, Change<V2>>,
}

impl<K, V, V2, F> Node<K, Change<V>> for TableMapValues<K, V2, F>
where
    K: Send,
    V2: Send,
    F: Fn(&K, V) -> V2 + Send + Sync,
{
    fn process(&mut self, record: Record<K, Change<V>>, cx: &mut Context<'_>) -> NodeResult {
        let Record { key, value: Change { old, new }, timestamp, headers } = record;
        let value =
            Change { old: old.map(|row| (self.map)(&key, row)), new: new.map(|row| (self.map)(&key, row)) };
        self.out.forward(Record { key, value, timestamp, headers }, cx)
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> NodeResult {
        self.out.flush(cx)
    }
}

/// Deleted rows go on as nulls.
pub(crate) struct ToStream<K, V>(pub(crate) Out<K, Option<V>>);

impl<K: Send, V: Send> Node<K, Change<V>> for ToStream<K, V> {
    fn process(&mut self, record: Record<K, Change<V>>, cx: &mut Context<'_>) -> NodeResult {
        let Record { key, value, timestamp, headers } = record;
        self.0.forward(Record { key, value: value.new, timestamp, headers }, cx)
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> NodeResult {
        self.0.flush(cx)
    }
}
