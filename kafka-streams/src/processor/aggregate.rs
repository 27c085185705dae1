use std::sync::Arc;

use kafka_client::wire::record_batch::Headers;

use super::{Change, Context, Node, NodeName, NodeResult, Out, Record};
use crate::serde::SharedSerde;
use crate::state::SharedStore;

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

/// `count`, `reduce`, `aggregate` and `to_table`: one row for each key.
pub(crate) struct Aggregate<K, V, A, U> {
    pub(crate) name: NodeName,
    pub(crate) store: SharedStore<K, A>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) update: Arc<U>,
    /// Forward a row's latest state once for each commit, not each update of it.
    pub(crate) cached: bool,
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
            return Ok(());
        }
        let mut store = self.store.lock();
        let updated = store
            .update(&key, timestamp, self.cached, |row| Some(self.update.update(&key, value, row)))
            .map_err(|source| cx.store_failed(&self.name, store.name(), source))?;
        drop(store);
        match updated {
            Some((new, timestamp)) if !self.cached => {
                let value = Change { old: None, new };
                self.out.forward(Record { key, value, timestamp, headers }, cx)
            }
            _ => Ok(()),
        }
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> NodeResult {
        if self.cached {
            let mut store = self.store.lock();
            let pending = store
                .take_unforwarded()
                .map_err(|source| cx.store_failed(&self.name, store.name(), source))?;
            drop(store);
            for (key, new, timestamp) in pending {
                let value = Change { old: None, new };
                self.out.forward(Record { key, value, timestamp, headers: Headers::default() }, cx)?;
            }
        }
        self.out.flush(cx)
    }
}
