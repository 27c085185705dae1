use std::sync::Arc;

use super::stream::RepartitionNames;
use super::{Grouped, KStream, KTable, Store};
use crate::processor::{Aggregate, Forwarding, Outlets, TaskBuilder, Update};
use crate::topology::{NodeId, StoreKind, naming};

/// A stream whose records belong to their keys' groups.
#[must_use = "a grouped stream does nothing until it is aggregated"]
pub struct KGroupedStream<K, V> {
    pub(crate) stream: KStream<K, V>,
    pub(crate) grouped: Grouped<K, V>,
}

impl<K: Send + 'static, V: Send + 'static> KGroupedStream<K, V> {
    /// How many records each key has. Null keys and values are not counted.
    ///
    /// ```
    /// use kafka_streams::{Grouped, Store, testing::Example};
    ///
    /// Example::of(|builder| {
    ///     let groups = builder.stream::<String, i64>("in").group_by_key(Grouped::auto());
    ///     groups.count(Store::kv("counts")).to_stream().to("out");
    /// })
    /// .pipe("in", [("a", 7), ("a", 8)])
    /// .gives("out", [("a", 1), ("a", 2)]);
    /// ```
    pub fn count(self, store: Store<K, i64>) -> KTable<K, i64> {
        let add = |_: &K, _: V, count: Option<i64>| count.unwrap_or(0).wrapping_add(1);
        self.aggregated(store, naming::AGGREGATE, add)
    }

    /// Combines each key's values two by two: the result so far and the next value.
    ///
    /// ```
    /// use kafka_streams::{Grouped, Store, testing::Example};
    ///
    /// Example::of(|builder| {
    ///     let groups = builder.stream::<String, i64>("in").group_by_key(Grouped::auto());
    ///     groups.reduce(|largest, n| largest.max(n), Store::kv("largest")).to_stream().to("out");
    /// })
    /// .pipe("in", [("a", 7), ("a", 3)])
    /// .gives("out", [("a", 7), ("a", 7)]);
    /// ```
    pub fn reduce(
        self,
        combine: impl Fn(V, V) -> V + Send + Sync + 'static,
        store: Store<K, V>,
    ) -> KTable<K, V>
    where
        V: Clone,
    {
        let update = move |_: &K, value: V, row: Option<V>| match row {
            Some(row) => combine(row, value),
            None => value,
        };
        self.aggregated(store, naming::REDUCE, update)
    }

    /// Folds each key's values into an accumulator that begins as `initial()`.
    ///
    /// ```
    /// use kafka_streams::{Grouped, Store, testing::Example};
    ///
    /// Example::of(|builder| {
    ///     let groups = builder.stream::<String, i64>("in").group_by_key(Grouped::auto());
    ///     let texts = groups.aggregate(String::new, |_key, n, text| text.push_str(&n.to_string()), Store::kv("texts"));
    ///     texts.to_stream().to("out");
    /// })
    /// .pipe("in", [("a", 7), ("a", 8)])
    /// .gives("out", [("a", "7"), ("a", "78")]);
    /// ```
    pub fn aggregate<A: Clone + Send + 'static>(
        self,
        initial: impl Fn() -> A + Send + Sync + 'static,
        add: impl Fn(&K, V, &mut A) + Send + Sync + 'static,
        store: Store<K, A>,
    ) -> KTable<K, A> {
        let update = move |key: &K, value: V, row: Option<A>| {
            let mut row = row.unwrap_or_else(&initial);
            add(key, value, &mut row);
            row
        };
        self.aggregated(store, naming::AGGREGATE, update)
    }

    fn aggregated<A: Clone + Send + 'static, U: Update<K, V, A>>(
        self,
        store: Store<K, A>,
        prefix: &str,
        update: U,
    ) -> KTable<K, A> {
        let value = Arc::clone(&self.grouped.value);
        let Placed { stream, node, store } = self.place(store, prefix, StoreKind::KeyValue);
        let outlets = Outlets::new();
        let (children, kept, update) = (Arc::clone(&outlets), store.clone(), Arc::new(update));
        let factory = move |tasks: &mut TaskBuilder<'_>| {
            let info = tasks.table(node);
            let spec = info.store.unwrap_or_default();
            let aggregate = Aggregate {
                store: tasks.key_value(&spec, &kept.key, &kept.value)?,
                value: Arc::clone(&value),
                update: Arc::clone(&update),
                forwarding: Forwarding { cached: kept.is_cached(), send_old: info.send_old },
                out: children.build(tasks)?,
            };
            Ok(tasks.called_if(kept.is_cached(), aggregate))
        };
        stream.outlets.attach(node, Arc::new(factory));
        KTable::kept(&stream.graph, node, outlets, store)
    }

    /// Names the aggregation and its store, repartitions the stream if its key changed, and adds the node.
    pub(crate) fn place<A>(self, store: Store<K, A>, prefix: &str, kind: StoreKind) -> Placed<K, V, A> {
        let Self { stream, grouped } = self;
        let mut graph = stream.graph.lock();
        let given = store.name.is_some();
        let store_name = store
            .name
            .clone()
            .unwrap_or_else(|| graph.generate_name(&format!("{prefix}{}", naming::STATE_STORE)));
        let name = graph.generate_name(prefix);
        drop(graph);
        let stream = if stream.repartition_required {
            let given = grouped.name.is_some() || given;
            let base = grouped.name.unwrap_or_else(|| store_name.clone());
            let names = RepartitionNames { base, given, partitions: None };
            stream.repartition_with(names, grouped.key, grouped.value)
        } else {
            stream
        };
        let store = store.named(store_name);
        let node = stream.graph.lock().add_table(name, store.spec(kind), stream.node);
        Placed { stream, node, store }
    }
}

/// An aggregation's place in the topology.
pub(crate) struct Placed<K, V, A> {
    pub(crate) stream: KStream<K, V>,
    pub(crate) node: NodeId,
    pub(crate) store: Store<K, A>,
}

impl<K, V> std::fmt::Debug for KGroupedStream<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KGroupedStream").field("stream", &self.stream).finish_non_exhaustive()
    }
}
