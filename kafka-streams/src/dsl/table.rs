use std::marker::PhantomData;
use std::sync::Arc;

use super::{KStream, SharedGraph, Store, attach_stateless, store_getter, table_out};
use crate::error::StreamsError;
use crate::processor::{
    Change, DerivedGetter, Forwarding, Getter, Node, Outlets, TableFilter, TableMapValues, TableOut,
    TaskBuilder, ToStream,
};
use crate::serde::SharedSerde;
use crate::topology::{NodeId, NodeKind, StoreKind, naming};

/// Makes the reader of a table's rows in a task.
pub(crate) type GetterFactory<K, V> =
    Arc<dyn Fn(&mut TaskBuilder<'_>) -> Result<Getter<K, V>, StreamsError> + Send + Sync>;

/// A table: rows by key, and the stream of their changes.
#[must_use = "a table nobody reads does nothing unless it has a store"]
pub struct KTable<K, V> {
    pub(crate) graph: SharedGraph,
    pub(crate) node: NodeId,
    pub(crate) outlets: Arc<Outlets<K, Change<V>>>,
    pub(crate) getter: GetterFactory<K, V>,
    pub(crate) serdes: Serdes<K, V>,
}

/// The serdes of a table's rows, as far as they are known.
pub(crate) struct Serdes<K, V> {
    pub(crate) key: Option<SharedSerde<K>>,
    pub(crate) value: Option<SharedSerde<V>>,
}

impl<K, V> Clone for Serdes<K, V> {
    fn clone(&self) -> Self {
        Self { key: self.key.clone(), value: self.value.clone() }
    }
}

impl<K, V> From<&Store<K, V>> for Serdes<K, V> {
    fn from(store: &Store<K, V>) -> Self {
        Self { key: Some(Arc::clone(&store.key)), value: Some(Arc::clone(&store.value)) }
    }
}

/// A second use of the table.
impl<K: Clone, V: Clone> Clone for KTable<K, V> {
    fn clone(&self) -> Self {
        self.outlets.allow_fan_out(|record| record.clone());
        Self {
            graph: Arc::clone(&self.graph),
            node: self.node,
            outlets: Arc::clone(&self.outlets),
            getter: Arc::clone(&self.getter),
            serdes: self.serdes.clone(),
        }
    }
}

impl<K, V> std::fmt::Debug for KTable<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KTable").field("node", &self.node).finish_non_exhaustive()
    }
}

impl<K: Send + 'static, V: Send + 'static> KTable<K, V> {
    pub(crate) fn new(
        graph: &SharedGraph,
        node: NodeId,
        outlets: Arc<Outlets<K, Change<V>>>,
        getter: GetterFactory<K, V>,
    ) -> Self {
        Self { graph: Arc::clone(graph), node, outlets, getter, serdes: Serdes { key: None, value: None } }
    }

    pub(crate) fn with_serdes(self, serdes: impl Into<Serdes<K, V>>) -> Self {
        Self { serdes: serdes.into(), ..self }
    }

    /// Names the last operator.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     builder.table::<String, i64>("in").filter(|_key, n| *n > 1).named("large").to_stream().to("out");
    /// })
    /// .pipe("in", [("a", 2)])
    /// .gives("out", [("a", 2)]);
    /// ```
    pub fn named(self, name: impl Into<String>) -> Self {
        self.graph.lock().rename(self.node, name.into());
        self
    }

    /// The changes as a stream; `None` where a row was deleted.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     builder.table::<String, i64>("in").to_stream().to("out");
    /// })
    /// .pipe("in", [("a", Some(1)), ("a", None)])
    /// .gives("out", [("a", Some(1)), ("a", None)]);
    /// ```
    pub fn to_stream(self) -> KStream<K, Option<V>> {
        let (node, outlets) =
            attach_stateless(&self.graph, self.node, &self.outlets, naming::TABLE_TO_STREAM, |_, out| {
                ToStream(out)
            });
        KStream::new(&self.graph, node, outlets, false)
    }

    /// The changes as a stream with another key for each row. Grouping after it repartitions.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     builder.table::<String, i64>("in").to_stream_with_key(|key, _n| key.to_uppercase()).to("out");
    /// })
    /// .pipe("in", [("a", 1)])
    /// .gives("out", [("A", 1)]);
    /// ```
    pub fn to_stream_with_key<K2: Send + 'static>(
        self,
        select: impl Fn(&K, &Option<V>) -> K2 + Send + Sync + 'static,
    ) -> KStream<K2, Option<V>> {
        self.to_stream().select_key(select)
    }
}

impl<K: Send + 'static, V: Clone + Send + 'static> KTable<K, V> {
    /// A table whose rows are in a store of its own, or will be as soon as somebody needs them.
    pub(crate) fn kept(
        graph: &SharedGraph,
        node: NodeId,
        outlets: Arc<Outlets<K, Change<V>>>,
        store: Store<K, V>,
    ) -> Self {
        let serdes = Serdes::from(&store);
        Self::new(graph, node, outlets, store_getter(node, store)).with_serdes(serdes)
    }
}

/// Where a derived table's changes go when it has no store.
fn unkept<K: Send + 'static, V: Send + 'static>(
    tasks: &mut TaskBuilder<'_>,
    node: NodeId,
    to: &Outlets<K, Change<V>>,
) -> Result<TableOut<K, V>, StreamsError> {
    let forwarding = Forwarding { cached: false, send_old: tasks.table(node).send_old };
    Ok(TableOut { store: None, old_from_store: false, forwarding, out: to.build(tasks)? })
}

impl<K: Send + 'static, V: Clone + Send + 'static> KTable<K, V> {
    /// Adds a table that derives its rows from this one's. A number is burnt for the name of a store that there could be.
    fn derive<V2: Clone + Send + 'static, N: Node<K, Change<V>> + crate::processor::Called>(
        self,
        prefix: &str,
        store: Option<Store<K, V2>>,
        old_from_store: bool,
        derive: impl Fn(&K, V) -> Option<V2> + Clone + Send + Sync + 'static,
        make: impl Fn(TableOut<K, V2>) -> N + Send + Sync + 'static,
    ) -> KTable<K, V2> {
        let mut graph = self.graph.lock();
        let store = store.map(|store| match &store.name {
            Some(_) => store,
            None => {
                let name = graph.generate_name(&format!("{prefix}{}", naming::STATE_STORE));
                store.named(name)
            }
        });
        let name = graph.generate_name(prefix);
        let node = match &store {
            Some(store) => graph.add_table(name, store.spec(StoreKind::KeyValue), self.node),
            None => graph.add_node(name, NodeKind::Processor { stores: Vec::new() }, vec![self.node]),
        };
        graph.tables.entry(node).or_default().parents = vec![self.node];
        drop(graph);
        let outlets = Outlets::new();
        let (children, kept) = (Arc::clone(&outlets), store.clone());
        let factory = move |tasks: &mut TaskBuilder<'_>| {
            let out = match &kept {
                Some(store) => table_out(tasks, node, store, old_from_store, &children)?,
                None => unkept(tasks, node, &children)?,
            };
            Ok(tasks.called_if(kept.as_ref().is_some_and(|store| store.is_cached()), make(out)))
        };
        self.outlets.attach(node, Arc::new(factory));
        let parent = self.getter;
        let serdes = match &store {
            Some(store) => Serdes::from(store),
            None => Serdes { key: self.serdes.key, value: None },
        };
        let getter: GetterFactory<K, V2> = match store {
            Some(store) => store_getter(node, store),
            None => Arc::new(move |tasks: &mut TaskBuilder<'_>| {
                let getter: Getter<K, V2> =
                    Box::new(DerivedGetter { parent: parent(tasks)?, derive: derive.clone() });
                Ok(getter)
            }),
        };
        KTable::new(&self.graph, node, outlets, getter).with_serdes(serdes)
    }

    /// The rows for which `keep` is true; others are deleted downstream.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     builder.table::<String, i64>("in").filter(|_key, n| *n > 1).to_stream().to("out");
    /// })
    /// .pipe("in", [("a", 2), ("a", 1)])
    /// .gives("out", [("a", Some(2)), ("a", None)]);
    /// ```
    pub fn filter(self, keep: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        self.filtered(keep, true, None)
    }

    /// As [`KTable::filter`], the rows kept in a store of their own.
    ///
    /// ```
    /// use kafka_streams::{Store, testing::Example};
    ///
    /// Example::of(|builder| {
    ///     builder.table::<String, i64>("in").filter_in(|_key, n| *n > 1, Store::kv("large")).to_stream().to("out");
    /// })
    /// .pipe("in", [("a", 2), ("a", 1)])
    /// .gives("out", [("a", Some(2)), ("a", None)]);
    /// ```
    pub fn filter_in(
        self,
        keep: impl Fn(&K, &V) -> bool + Send + Sync + 'static,
        store: Store<K, V>,
    ) -> Self {
        self.filtered(keep, true, Some(store))
    }

    /// The rows for which `drop` is false; others are deleted downstream.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     builder.table::<String, i64>("in").filter_not(|_key, n| *n > 1).to_stream().to("out");
    /// })
    /// .pipe("in", [("a", 2), ("a", 1)])
    /// .gives("out", [("a", None), ("a", Some(1))]);
    /// ```
    pub fn filter_not(self, drop: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        self.filtered(drop, false, None)
    }

    /// As [`KTable::filter_not`], the rows kept in a store of their own.
    ///
    /// ```
    /// use kafka_streams::{Store, testing::Example};
    ///
    /// Example::of(|builder| {
    ///     builder.table::<String, i64>("in").filter_not_in(|_key, n| *n > 1, Store::kv("small")).to_stream().to("out");
    /// })
    /// .pipe("in", [("a", 1), ("a", 2)])
    /// .gives("out", [("a", Some(1)), ("a", None)]);
    /// ```
    pub fn filter_not_in(
        self,
        drop: impl Fn(&K, &V) -> bool + Send + Sync + 'static,
        store: Store<K, V>,
    ) -> Self {
        self.filtered(drop, false, Some(store))
    }

    fn filtered(
        self,
        keep: impl Fn(&K, &V) -> bool + Send + Sync + 'static,
        when: bool,
        store: Option<Store<K, V>>,
    ) -> Self {
        let keep = Arc::new(keep);
        let value = self.serdes.value.clone();
        // Where it costs no store, what a row was tells which deletions nobody downstream has use for.
        let (knows_old, versioned) = {
            let mut graph = self.graph.lock();
            (graph.send_old_if_kept(self.node), graph.is_versioned(self.node))
        };
        let test = Arc::clone(&keep);
        let derive = move |key: &K, row: V| (test(key, &row) == when).then_some(row);
        // The filter itself asks the store what the row was.
        let mut filtered = self.derive(naming::TABLE_FILTER, store, false, derive, move |out| TableFilter {
            keep: Arc::clone(&keep),
            when,
            versioned,
            out,
        });
        filtered.serdes.value = filtered.serdes.value.or(value);
        if let Some(info) = filtered.graph.lock().tables.get_mut(&filtered.node) {
            info.send_old = knows_old;
        }
        filtered
    }

    /// Turns each row into another one; keys stay, deletions stay deletions.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     builder.table::<String, i64>("in").map_values(|_key, n| n * 10).to_stream().to("out");
    /// })
    /// .pipe("in", [("a", 2)])
    /// .gives("out", [("a", 20)]);
    /// ```
    pub fn map_values<V2: Clone + Send + 'static>(
        self,
        map: impl Fn(&K, V) -> V2 + Send + Sync + 'static,
    ) -> KTable<K, V2> {
        self.mapped(map, None)
    }

    /// As [`KTable::map_values`], the rows kept in a store of their own.
    ///
    /// ```
    /// use kafka_streams::{Store, testing::Example};
    ///
    /// Example::of(|builder| {
    ///     builder.table::<String, i64>("in").map_values_in(|_key, n| n * 10, Store::kv("tens")).to_stream().to("out");
    /// })
    /// .pipe("in", [("a", 2)])
    /// .gives("out", [("a", 20)]);
    /// ```
    pub fn map_values_in<V2: Clone + Send + 'static>(
        self,
        map: impl Fn(&K, V) -> V2 + Send + Sync + 'static,
        store: Store<K, V2>,
    ) -> KTable<K, V2> {
        self.mapped(map, Some(store))
    }

    fn mapped<V2: Clone + Send + 'static>(
        self,
        map: impl Fn(&K, V) -> V2 + Send + Sync + 'static,
        store: Option<Store<K, V2>>,
    ) -> KTable<K, V2> {
        let map = Arc::new(map);
        let each = Arc::clone(&map);
        let derive = move |key: &K, row: V| Some(each(key, row));
        self.derive(naming::TABLE_MAP_VALUES, store, true, derive, move |out| TableMapValues {
            map: Arc::clone(&map),
            out,
            values: PhantomData,
        })
    }
}
