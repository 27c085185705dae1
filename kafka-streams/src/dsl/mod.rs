//! The DSL: handles that write the graph down and keep the types.
//!
//! Methods consume their handle. To use a stream twice, clone the handle: this is where `K` and `V` must be `Clone`,
//! and the only place where records are cloned.

mod cogroup;
mod fallible;
mod foreign_key_join;
mod grouped;
mod join;
mod joined;
mod options;
mod process;
mod split;
mod stream;
mod suppress;
mod table;
mod table_group;
mod windowed;
mod windows;

use std::sync::Arc;

use parking_lot::Mutex;

pub use cogroup::CogroupedKStream;
pub use foreign_key_join::ForeignKeyJoined;
pub use grouped::KGroupedStream;
pub use join::TableJoined;
pub use joined::{JoinWindows, Joined, StreamJoined};
pub use options::{Consumed, Grouped, Produced, Repartitioned, Store};
pub use process::{ProcessorStores, StoreHandle};
pub use split::SplitStream;
pub use stream::KStream;
pub(crate) use stream::attach_sink;
pub use suppress::{BufferConfig, Suppressed};
pub use table::KTable;
pub use table_group::KGroupedTable;
pub use windowed::{SessionWindowedKStream, SlidingWindowedKStream, TimeWindowedKStream, WindowedBy};
pub use windows::{Emit, SessionWindows, SlidingWindows, TimeWindows, UnlimitedWindows, Windowed, Windows};

use crate::error::{InvalidTopology, StreamsError};
use crate::processor::{
    Change, Forwarding, Node, NodeName, Out, Outlets, Source, SourceFactory, StoreGetter, TableOut,
    TableSource, TaskBuilder, TimestampExtractor,
};
use crate::serde::{Nullable, SharedSerde};
use crate::topology::{
    Graph, NodeId, NodeKind, Optimizations, StoreKind, TableInfo, TopicRef, Topology, naming,
};
pub(crate) use table::GetterFactory;

pub(crate) type SharedGraph = Arc<Mutex<Graph>>;

/// Where a topology begins.
#[derive(Clone, Default)]
pub struct StreamsBuilder {
    graph: SharedGraph,
}

impl std::fmt::Debug for StreamsBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamsBuilder").field("nodes", &self.graph.lock().nodes.len()).finish()
    }
}

impl StreamsBuilder {
    /// An empty builder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads topics as streams of facts: a name, several names, or a [`Consumed`].
    ///
    /// Null keys or values need `Option<_>` as the type; `()` ignores what is there.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     builder.stream::<String, i64>(["in", "also-in"]).to("out");
    /// })
    /// .pipe("in", [("a", 1)])
    /// .pipe("also-in", [("b", 2)])
    /// .gives("out", [("a", 1), ("b", 2)]);
    /// ```
    pub fn stream<K: Send + 'static, V: Send + 'static>(
        &self,
        topics: impl Into<Consumed<K, V>>,
    ) -> KStream<K, V> {
        let consumed = topics.into();
        let outlets = Outlets::new();
        let mut graph = self.graph.lock();
        let name = graph.name_or(consumed.name, naming::SOURCE);
        let node = graph.add_source(name, consumed.topics, None);
        graph.add_source_factory(
            node,
            timed_source(node, consumed.key, consumed.value, consumed.timestamps, &outlets),
        );
        drop(graph);
        KStream::new(&self.graph, node, outlets, false)
    }

    /// Reads a topic as a table: the latest value of each key. Nobody can look into it; see
    /// [`StreamsBuilder::table_in`].
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     builder.table::<String, i64>("in").map_values(|_key, n| n * 10).to_stream().to("out");
    /// })
    /// .pipe("in", [("a", Some(1)), ("a", None)])
    /// .gives("out", [("a", Some(10)), ("a", None)]);
    /// ```
    pub fn table<K: Send + 'static, V: Clone + Send + 'static>(
        &self,
        topic: impl Into<Consumed<K, V>>,
    ) -> KTable<K, V> {
        self.table_source(topic.into(), None)
    }

    /// Reads a topic as a table that is kept in a store.
    ///
    /// ```
    /// use kafka_streams::{Store, StreamsBuilder, testing::TestDriver};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let builder = StreamsBuilder::new();
    /// let _ = builder.table_in::<String, i64>("in", Store::kv("rows"));
    /// let mut driver = TestDriver::new(&builder.build()?)?;
    /// driver.input("in").pipe("a".to_owned(), 1i64, 0)?;
    /// assert_eq!(driver.store::<String, i64>("rows")?.get(&"a".to_owned())?, Some(1));
    /// # Ok(()) }
    /// ```
    pub fn table_in<K: Send + 'static, V: Clone + Send + 'static>(
        &self,
        topic: impl Into<Consumed<K, V>>,
        store: Store<K, V>,
    ) -> KTable<K, V> {
        self.table_source(topic.into(), Some(store))
    }

    fn table_source<K: Send + 'static, V: Clone + Send + 'static>(
        &self,
        consumed: Consumed<K, V>,
        store: Option<Store<K, V>>,
    ) -> KTable<K, V> {
        let mut graph = self.graph.lock();
        let given = store.as_ref().and_then(|store| store.name.clone());
        let store_name = given.unwrap_or_else(|| {
            let topic = consumed.topics.first().map(|topic| topic.name().to_owned()).unwrap_or_default();
            graph.generate_name(&format!("{topic}-{}", naming::STATE_STORE))
        });
        let source_name =
            graph.name_or(consumed.name.as_ref().map(|name| format!("{name}-source")), naming::SOURCE);
        let name = graph.name_or(consumed.name, naming::TABLE_SOURCE);
        let topic = consumed.topics.first().cloned();
        let source_node = graph.add_source(source_name, consumed.topics, None);
        let node = graph.add_node(name, NodeKind::Processor { stores: Vec::new() }, vec![source_node]);
        let rows = Outlets::<K, Option<V>>::new();
        let nullable: SharedSerde<Option<V>> = Arc::new(Nullable(Arc::clone(&consumed.value)));
        let timestamps = consumed.timestamps.nullable();
        let read = timed_source(source_node, Arc::clone(&consumed.key), nullable, timestamps, &rows);
        graph.add_source_factory(source_node, read);
        // A table that nobody looks into has no store, until a join or a grouping needs its rows.
        let is_kept = store.is_some();
        let store = store.unwrap_or_else(|| Store::with(consumed.key, consumed.value)).named(store_name);
        let info = TableInfo { lazy_store: Some(store.spec(StoreKind::KeyValue)), ..TableInfo::default() };
        graph.tables.insert(node, info);
        graph.optimizer.source_tables.extend(topic.map(|topic| (node, topic)));
        if is_kept {
            graph.keep_rows(node);
        }
        drop(graph);
        let outlets = Outlets::new();
        attach_table(node, store.clone(), &rows, &outlets);
        KTable::kept(&self.graph, node, outlets, store)
    }

    /// Rewrites the topology by these rules when it is built (`topology.optimization`). Default: by none.
    pub fn optimize(self, optimizations: Optimizations) -> Self {
        self.graph.lock().optimizer.wanted = optimizations;
        self
    }

    /// Checks the topology and finishes it. What is optimised is so for good: build once.
    ///
    /// # Errors
    /// Every problem there is: names used twice or not valid, overlapping sources, no source at all.
    pub fn build(&self) -> Result<Topology, InvalidTopology> {
        let mut graph = self.graph.lock();
        graph.optimize();
        Topology::new(graph.clone())
    }
}

/// Puts a processor without a store, named by its prefix and the next number, behind a node.
fn attach_stateless<K, V, K2, V2, N>(
    graph: &SharedGraph,
    parent: NodeId,
    parent_outlets: &Outlets<K, V>,
    prefix: &str,
    make: impl Fn(NodeName, Out<K2, V2>) -> N + Send + Sync + 'static,
) -> (NodeId, Arc<Outlets<K2, V2>>)
where
    K: Send + 'static,
    V: Send + 'static,
    K2: Send + 'static,
    V2: Send + 'static,
    N: Node<K, V> + 'static,
{
    let mut graph = graph.lock();
    let name = graph.generate_name(prefix);
    let node = graph.add_node(name, NodeKind::Processor { stores: Vec::new() }, vec![parent]);
    drop(graph);
    let outlets = Outlets::new();
    let children = Arc::clone(&outlets);
    let factory = move |tasks: &mut TaskBuilder<'_>| {
        let made: Box<dyn Node<K, V>> = Box::new(make(tasks.name(node), children.build(tasks)?));
        Ok(made)
    };
    parent_outlets.attach(node, Arc::new(factory));
    (node, outlets)
}

/// Reads an internal topic: records have the time that this library wrote them with.
pub(crate) fn source<K: Send + 'static, V: Send + 'static>(
    node: usize,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    outlets: &Arc<Outlets<K, V>>,
) -> SourceFactory {
    timed_source(node, key, value, TimestampExtractor::FailOnInvalidTimestamp, outlets)
}

fn timed_source<K: Send + 'static, V: Send + 'static>(
    node: usize,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    timestamps: TimestampExtractor<K, V>,
    outlets: &Arc<Outlets<K, V>>,
) -> SourceFactory {
    let outlets = Arc::clone(outlets);
    source_of(node, key, value, timestamps, move |tasks| outlets.build(tasks))
}

/// A source whose records go where `out` says.
pub(crate) fn source_of<K: Send + 'static, V: Send + 'static>(
    node: usize,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    timestamps: TimestampExtractor<K, V>,
    out: impl Fn(&mut TaskBuilder<'_>) -> Result<Out<K, V>, StreamsError> + Send + Sync + 'static,
) -> SourceFactory {
    Arc::new(move |tasks| {
        let name = tasks.name(node);
        let out = out(tasks)?;
        let (key, value, timestamps) = (Arc::clone(&key), Arc::clone(&value), timestamps.clone());
        Ok(Box::new(Source { name, key, value, timestamps, decoded: Vec::new(), out }))
    })
}

/// Puts a table that takes rows as they come behind a node.
pub(crate) fn attach_table<K: Send + 'static, V: Clone + Send + 'static>(
    node: NodeId,
    store: Store<K, V>,
    from: &Outlets<K, Option<V>>,
    to: &Arc<Outlets<K, Change<V>>>,
) {
    let to = Arc::clone(to);
    let factory = move |tasks: &mut TaskBuilder<'_>| {
        let out = table_out(tasks, node, &store, true, &to)?;
        let source = TableSource { key: Arc::clone(&store.key), out };
        Ok(tasks.called_if(store.is_cached(), source))
    };
    from.attach(node, Arc::new(factory));
}

/// Where the changes of table `node` go, as the topology has it.
pub(crate) fn table_out<K: Send + 'static, V: Clone + Send + 'static>(
    tasks: &mut TaskBuilder<'_>,
    node: NodeId,
    store: &Store<K, V>,
    old_from_store: bool,
    to: &Outlets<K, Change<V>>,
) -> Result<TableOut<K, V>, StreamsError> {
    let info = tasks.table(node);
    let token = match &info.store {
        Some(spec) => Some(tasks.key_value(spec, &store.key, &store.value)?),
        None => None,
    };
    let forwarding = Forwarding { cached: store.is_cached() && token.is_some(), send_old: info.send_old };
    Ok(TableOut { store: token, old_from_store, forwarding, out: to.build(tasks)? })
}

/// Reads the rows of table `node` from its store.
pub(crate) fn store_getter<K: Send + 'static, V: Clone + Send + 'static>(
    node: NodeId,
    store: Store<K, V>,
) -> GetterFactory<K, V> {
    Arc::new(move |tasks| {
        let Some(spec) = tasks.table(node).store else {
            return Err(StreamsError::TypeMismatch { name: tasks.name(node) });
        };
        Ok(Box::new(StoreGetter(tasks.key_value(&spec, &store.key, &store.value)?)))
    })
}

pub(crate) fn external(topic: &str) -> TopicRef {
    TopicRef::External(Arc::from(topic))
}
