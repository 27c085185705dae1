use std::sync::Arc;

use super::aggregate::{Forwarding, flush_held};
use super::{Called, Change, Context, Node, NodeResult, Out, Record};
use crate::error::StreamsError;
use crate::serde::SharedSerde;
use crate::state::{KvStore, StoreToken, Stores, Version};

/// Reads a row of a table, whoever keeps it.
pub(crate) trait ValueGetter<K, V>: Send {
    /// The row and its timestamp.
    fn get(&mut self, key: &K, stores: &mut Stores) -> Result<Option<(V, i64)>, Box<StreamsError>>;

    /// As it was at a time, where that is known; otherwise as it is.
    fn get_at(
        &mut self,
        key: &K,
        _time: i64,
        stores: &mut Stores,
    ) -> Result<Option<(V, i64)>, Box<StreamsError>> {
        self.get(key, stores)
    }
}

pub(crate) type Getter<K, V> = Box<dyn ValueGetter<K, V>>;

/// The rows of a store.
pub(crate) struct StoreGetter<K, V>(pub(crate) StoreToken<KvStore<K, V>>);

impl<K: Send + 'static, V: Clone + Send + 'static> ValueGetter<K, V> for StoreGetter<K, V> {
    fn get(&mut self, key: &K, stores: &mut Stores) -> Result<Option<(V, i64)>, Box<StreamsError>> {
        Ok(stores.get(self.0)?.get(key)?.map(|(row, timestamp)| (row.clone(), timestamp)))
    }

    fn get_at(
        &mut self,
        key: &K,
        time: i64,
        stores: &mut Stores,
    ) -> Result<Option<(V, i64)>, Box<StreamsError>> {
        Ok(stores.get(self.0)?.get_at(key, time)?.map(|(row, since)| (row.clone(), since)))
    }
}

/// The rows of a table that derives each of its own from one of its parent's.
pub(crate) struct DerivedGetter<K, V, F> {
    pub(crate) parent: Getter<K, V>,
    pub(crate) derive: F,
}

impl<K, V, V2, F> ValueGetter<K, V2> for DerivedGetter<K, V, F>
where
    F: Fn(&K, V) -> Option<V2> + Send,
{
    fn get(&mut self, key: &K, stores: &mut Stores) -> Result<Option<(V2, i64)>, Box<StreamsError>> {
        let row = self.parent.get(key, stores)?;
        Ok(row.and_then(|(row, timestamp)| Some(((self.derive)(key, row)?, timestamp))))
    }

    fn get_at(
        &mut self,
        key: &K,
        time: i64,
        stores: &mut Stores,
    ) -> Result<Option<(V2, i64)>, Box<StreamsError>> {
        let row = self.parent.get_at(key, time, stores)?;
        Ok(row.and_then(|(row, since)| Some(((self.derive)(key, row)?, since))))
    }
}

/// Where a table's changes go: into its store, if it has one, and on.
pub(crate) struct TableOut<K, V> {
    pub(crate) store: Option<StoreToken<KvStore<K, V>>>,
    /// What the row was is what the store has, not what the change says.
    pub(crate) old_from_store: bool,
    pub(crate) forwarding: Forwarding,
    pub(crate) out: Out<K, Change<V>>,
}

impl<K: Send + 'static, V: Clone + Send + 'static> TableOut<K, V> {
    pub(crate) fn emit(&mut self, record: Record<K, Change<V>>, cx: &mut Context<'_>) -> NodeResult {
        let Record { key, value: Change { mut old, new, mut is_latest }, timestamp, headers } = record;
        let Forwarding { cached, send_old } = self.forwarding;
        if let Some(store) = self.store {
            let store = cx.stores.get(store)?;
            if cached {
                store.update_held(&key, &headers, send_old, |_| (new, timestamp))?;
                return Ok(());
            }
            if store.is_versioned() {
                if send_old && self.old_from_store {
                    old = store.get(&key)?.map(|(row, _)| row.clone());
                }
                is_latest = match store.put_version(&key, new.clone(), timestamp)? {
                    Version::NotPut => return Ok(()),
                    version => version == Version::Latest,
                };
            } else if send_old && self.old_from_store {
                store.update(&key, |row| {
                    old = row.map(|(row, _)| row);
                    (new.clone(), timestamp)
                })?;
            } else {
                store.put(&key, new.clone(), timestamp)?;
            }
            is_latest |= !store.is_versioned();
        }
        if !send_old {
            old = None;
        }
        self.out.forward(Record { key, value: Change { old, new, is_latest }, timestamp, headers }, cx)
    }

    pub(crate) fn flush(&mut self, cx: &mut Context<'_>) -> NodeResult {
        match self.store {
            Some(store) => flush_held(store, self.forwarding, &mut self.out, cx),
            None => Ok(()),
        }
    }
}

/// Reads a topic (or a stream) as updates of rows. Rows without a key are dropped.
pub(crate) struct TableSource<K, V> {
    pub(crate) key: SharedSerde<K>,
    pub(crate) out: TableOut<K, V>,
}

impl<K: Send + 'static, V: Clone + Send + 'static> Node<K, Option<V>> for TableSource<K, V> {
    fn process(&mut self, record: Record<K, Option<V>>, cx: &mut Context<'_>) -> NodeResult {
        let Record { key, value: new, timestamp, headers } = record;
        if self.key.is_null(&key) {
            cx.dropped += 1;
            return Ok(());
        }
        self.out.emit(Record { key, value: Change::new(None, new), timestamp, headers }, cx)
    }
}

impl<K: Send + 'static, V: Clone + Send + 'static> Called for TableSource<K, V> {
    fn flush(&mut self, cx: &mut Context<'_>) -> NodeResult {
        self.out.flush(cx)
    }
}

/// Rows that fail the predicate become tombstones: downstream must forget them.
pub(crate) struct TableFilter<K, V, F> {
    pub(crate) keep: Arc<F>,
    pub(crate) when: bool,
    /// Each update goes on, for it may change the past (KIP-914).
    pub(crate) versioned: bool,
    pub(crate) out: TableOut<K, V>,
}

impl<K, V, F> Node<K, Change<V>> for TableFilter<K, V, F>
where
    K: Send + 'static,
    V: Clone + Send + 'static,
    F: Fn(&K, &V) -> bool + Send + Sync,
{
    fn process(&mut self, record: Record<K, Change<V>>, cx: &mut Context<'_>) -> NodeResult {
        let Record { key, value: Change { old, new, is_latest }, timestamp, headers } = record;
        let keep = |row: &V| (self.keep)(&key, row) == self.when;
        let new = new.filter(&keep);
        let send_old = self.out.forwarding.send_old;
        let old = match self.out.store {
            _ if !send_old => None,
            Some(store) => cx.stores.get(store)?.get(&key)?.map(|(row, _)| row.clone()),
            None => old.filter(&keep),
        };
        // What downstream never had it need not forget.
        if send_old && !self.versioned && old.is_none() && new.is_none() {
            return Ok(());
        }
        self.out.emit(Record { key, value: Change { old, new, is_latest }, timestamp, headers }, cx)
    }
}

impl<K, V, F> Called for TableFilter<K, V, F>
where
    K: Send + 'static,
    V: Clone + Send + 'static,
    F: Fn(&K, &V) -> bool + Send + Sync + 'static,
{
    fn flush(&mut self, cx: &mut Context<'_>) -> NodeResult {
        self.out.flush(cx)
    }
}

pub(crate) struct TableMapValues<K, V, V2, F> {
    pub(crate) map: Arc<F>,
    pub(crate) out: TableOut<K, V2>,
    pub(crate) values: std::marker::PhantomData<fn(V)>,
}

impl<K, V, V2, F> Node<K, Change<V>> for TableMapValues<K, V, V2, F>
where
    K: Send + 'static,
    V: Send,
    V2: Clone + Send + 'static,
    F: Fn(&K, V) -> V2 + Send + Sync,
{
    fn process(&mut self, record: Record<K, Change<V>>, cx: &mut Context<'_>) -> NodeResult {
        let Record { key, value: Change { old, new, is_latest }, timestamp, headers } = record;
        let new = new.map(|row| (self.map)(&key, row));
        let old = match self.out.store {
            None if self.out.forwarding.send_old => old.map(|row| (self.map)(&key, row)),
            _ => None,
        };
        self.out.emit(Record { key, value: Change { old, new, is_latest }, timestamp, headers }, cx)
    }
}

impl<K, V, V2, F> Called for TableMapValues<K, V, V2, F>
where
    K: Send + 'static,
    V: Send + 'static,
    V2: Clone + Send + 'static,
    F: Fn(&K, V) -> V2 + Send + Sync + 'static,
{
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
}
