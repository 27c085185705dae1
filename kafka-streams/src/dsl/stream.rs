use std::sync::Arc;

use super::options::SinkTarget;
use super::{
    Grouped, KGroupedStream, KTable, Produced, Repartitioned, SharedGraph, SplitStream, Store,
    attach_stateless, attach_table, source, source_of,
};
use crate::error::{StreamsError, TopologyError};
use crate::processor::{
    Destination, Filter, FlatMap, FlatMapValues, ForEach, Forward, Map, MapValues, Node, NodeFactory,
    NodeName, Out, Outlets, Peek, SelectKey, Sink, StreamPartitioner, TaskBuilder, TimestampExtractor,
};
use crate::serde::SharedSerde;
use crate::topology::{
    AnyOutlets, ImpliedRepartition, NodeId, NodeKind, RepartitionSpec, Rewire, StoreKind, TableInfo,
    TopicRef, naming,
};

/// A stream of records. See [the module](crate::dsl) for why methods consume it.
#[must_use = "a stream does nothing until it is written, grouped or looked at"]
pub struct KStream<K, V> {
    pub(crate) graph: SharedGraph,
    pub(crate) node: NodeId,
    pub(crate) outlets: Arc<Outlets<K, V>>,
    /// The key changed since the records were partitioned by it.
    pub(crate) repartition_required: bool,
}

/// A second use of the stream: from here on each record is cloned for all uses but the last.
impl<K: Clone, V: Clone> Clone for KStream<K, V> {
    fn clone(&self) -> Self {
        self.outlets.allow_fan_out(|record| record.clone());
        Self {
            graph: Arc::clone(&self.graph),
            node: self.node,
            outlets: Arc::clone(&self.outlets),
            repartition_required: self.repartition_required,
        }
    }
}

impl<K, V> std::fmt::Debug for KStream<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KStream").field("node", &self.node).finish_non_exhaustive()
    }
}

/// The names of the nodes around a repartition topic.
pub(crate) struct RepartitionNames {
    /// The topic's name without `-repartition`.
    pub(crate) base: String,
    /// Whether a user chose it: then the nodes are named after it.
    pub(crate) given: bool,
    pub(crate) partitions: Option<i32>,
}

impl RepartitionNames {
    fn topic(&self) -> Arc<str> {
        Arc::from(format!("{}{}", self.base, naming::REPARTITION_SUFFIX))
    }
}

impl<K: Send + 'static, V: Send + 'static> KStream<K, V> {
    pub(crate) fn new(
        graph: &SharedGraph,
        node: NodeId,
        outlets: Arc<Outlets<K, V>>,
        repartition_required: bool,
    ) -> Self {
        Self { graph: Arc::clone(graph), node, outlets, repartition_required }
    }

    fn then<K2: Send + 'static, V2: Send + 'static, N: Node<K, V> + 'static>(
        self,
        prefix: &str,
        changes_key: bool,
        make: impl Fn(Out<K2, V2>) -> N + Send + Sync + 'static,
    ) -> KStream<K2, V2> {
        self.then_named(prefix, changes_key, move |_, out| make(out))
    }

    /// For nodes that need their name, for errors.
    pub(crate) fn then_named<K2: Send + 'static, V2: Send + 'static, N: Node<K, V> + 'static>(
        self,
        prefix: &str,
        changes_key: bool,
        make: impl Fn(NodeName, Out<K2, V2>) -> N + Send + Sync + 'static,
    ) -> KStream<K2, V2> {
        let (node, outlets) = attach_stateless(&self.graph, self.node, &self.outlets, prefix, make);
        let optimizer = &mut self.graph.lock().optimizer;
        if changes_key {
            optimizer.key_changing.insert(node);
            optimizer.outlets.insert(node, Arc::clone(&outlets) as AnyOutlets);
        } else if matches!(prefix, naming::MAP_VALUES | naming::FLAT_MAP_VALUES) {
            optimizer.value_changing.insert(node);
        }
        KStream::new(&self.graph, node, outlets, self.repartition_required || changes_key)
    }

    /// Names the last operator.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     builder.stream::<String, i64>("in").filter(|_key, n| *n > 1).named("large-ones").to("out");
    /// })
    /// .pipe("in", [("a", 1), ("b", 2)])
    /// .gives("out", [("b", 2)]);
    /// ```
    pub fn named(self, name: impl Into<String>) -> Self {
        self.graph.lock().rename(self.node, name.into());
        self
    }

    /// Keeps the records for which `keep` is true.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     builder.stream::<String, i64>("in").filter(|_key, n| *n > 1).to("out");
    /// })
    /// .pipe("in", [("a", 1), ("b", 2)])
    /// .gives("out", [("b", 2)]);
    /// ```
    pub fn filter(self, keep: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        let keep = Arc::new(keep);
        self.then(naming::FILTER, false, move |out| Filter { keep: Arc::clone(&keep), when: true, out })
    }

    /// Keeps the records for which `drop` is false.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     builder.stream::<String, i64>("in").filter_not(|_key, n| *n > 1).to("out");
    /// })
    /// .pipe("in", [("a", 1), ("b", 2)])
    /// .gives("out", [("a", 1)]);
    /// ```
    pub fn filter_not(self, drop: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        let keep = Arc::new(drop);
        self.then(naming::FILTER, false, move |out| Filter { keep: Arc::clone(&keep), when: false, out })
    }

    /// Turns each record into another one. Grouping after it repartitions.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     builder.stream::<String, i64>("in").map(|key, n| (key.to_uppercase(), n * 10)).to("out");
    /// })
    /// .pipe("in", [("a", 1), ("b", 2)])
    /// .gives("out", [("A", 10), ("B", 20)]);
    /// ```
    pub fn map<K2: Send + 'static, V2: Send + 'static>(
        self,
        map: impl Fn(K, V) -> (K2, V2) + Send + Sync + 'static,
    ) -> KStream<K2, V2> {
        let map = Arc::new(map);
        self.then(naming::MAP, true, move |out| Map { map: Arc::clone(&map), out })
    }

    /// Turns each value into another one; keys stay.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     builder.stream::<String, i64>("in").map_values(|_key, n| n * 10).to("out");
    /// })
    /// .pipe("in", [("a", 1), ("b", 2)])
    /// .gives("out", [("a", 10), ("b", 20)]);
    /// ```
    pub fn map_values<V2: Send + 'static>(
        self,
        map: impl Fn(&K, V) -> V2 + Send + Sync + 'static,
    ) -> KStream<K, V2> {
        let map = Arc::new(map);
        self.then(naming::MAP_VALUES, false, move |out| MapValues { map: Arc::clone(&map), out })
    }

    /// Turns each record into any number of records. Grouping after it repartitions.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     builder.stream::<String, i64>("in").flat_map(|key, n| [(key.clone(), n), (key, -n)]).to("out");
    /// })
    /// .pipe("in", [("a", 1)])
    /// .gives("out", [("a", 1), ("a", -1)]);
    /// ```
    pub fn flat_map<K2: Send + 'static, V2: Send + 'static, I: IntoIterator<Item = (K2, V2)> + 'static>(
        self,
        map: impl Fn(K, V) -> I + Send + Sync + 'static,
    ) -> KStream<K2, V2> {
        let map = Arc::new(map);
        self.then(naming::FLAT_MAP, true, move |out| FlatMap { map: Arc::clone(&map), out })
    }

    /// Turns each value into any number of values; each result takes a clone of the key, the last one the key itself.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let lines = builder.stream::<String, String>("in");
    ///     lines.flat_map_values(|_key, line| line.split(' ').map(str::to_owned).collect::<Vec<_>>()).to("out");
    /// })
    /// .pipe("in", [("a", "hello kafka")])
    /// .gives("out", [("a", "hello"), ("a", "kafka")]);
    /// ```
    pub fn flat_map_values<V2: Send + 'static, I: IntoIterator<Item = V2> + 'static>(
        self,
        map: impl Fn(&K, V) -> I + Send + Sync + 'static,
    ) -> KStream<K, V2>
    where
        K: Clone,
    {
        let map = Arc::new(map);
        self.then(naming::FLAT_MAP_VALUES, false, move |out| FlatMapValues { map: Arc::clone(&map), out })
    }

    /// Gives each record a new key. Grouping after it repartitions.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     builder.stream::<String, i64>("in").select_key(|_key, n| format!("key-{n}")).to("out");
    /// })
    /// .pipe("in", [("a", 1)])
    /// .gives("out", [("key-1", 1)]);
    /// ```
    pub fn select_key<K2: Send + 'static>(
        self,
        select: impl Fn(&K, &V) -> K2 + Send + Sync + 'static,
    ) -> KStream<K2, V> {
        let select = Arc::new(select);
        self.then(naming::KEY_SELECT, true, move |out| SelectKey { select: Arc::clone(&select), out })
    }

    /// Looks at each record and passes it on.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     builder.stream::<String, i64>("in").peek(|key, n| println!("{key} is {n}")).to("out");
    /// })
    /// .pipe("in", [("a", 1)])
    /// .gives("out", [("a", 1)]);
    /// ```
    pub fn peek(self, look: impl Fn(&K, &V) + Send + Sync + 'static) -> Self {
        let look = Arc::new(look);
        self.then(naming::PEEK, false, move |out| Peek { look: Arc::clone(&look), out })
    }

    /// Hands each record over; the stream ends here. `foreach` in Java.
    ///
    /// ```
    /// use std::sync::atomic::{AtomicI64, Ordering};
    /// use std::sync::Arc;
    /// use kafka_streams::testing::Example;
    ///
    /// let sum = Arc::new(AtomicI64::new(0));
    /// let add = Arc::clone(&sum);
    /// Example::of(|builder| {
    ///     builder.stream::<String, i64>("in").for_each(move |_key, n| {
    ///         add.fetch_add(n, Ordering::Relaxed);
    ///     });
    /// })
    /// .pipe("in", [("a", 1), ("b", 2)]);
    /// assert_eq!(sum.load(Ordering::Relaxed), 3);
    /// ```
    pub fn for_each(self, each: impl Fn(K, V) + Send + Sync + 'static) {
        let each = Arc::new(each);
        let _ = self.then::<(), (), _>(naming::FOR_EACH, false, move |_| ForEach(Arc::clone(&each)));
    }

    /// Splits the stream into branches, each with the records that its predicate takes first.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let mut numbers = builder.stream::<String, i64>("in").split();
    ///     numbers.branch(|_key, n| *n > 1).to("large");
    ///     numbers.default_branch().to("small");
    /// })
    /// .pipe("in", [("a", 1), ("b", 2)])
    /// .gives("large", [("b", 2)])
    /// .gives("small", [("a", 1)]);
    /// ```
    pub fn split(self) -> SplitStream<K, V> {
        SplitStream::new(&self)
    }

    /// Both streams' records, in no particular order between them.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let other = builder.stream("other");
    ///     builder.stream::<String, i64>("in").merge(other).to("out");
    /// })
    /// .pipe("in", [("a", 1)])
    /// .pipe("other", [("b", 2)])
    /// .gives("out", [("a", 1), ("b", 2)]);
    /// ```
    pub fn merge(self, other: KStream<K, V>) -> Self {
        let foreign = !Arc::ptr_eq(&self.graph, &other.graph);
        let mut graph = self.graph.lock();
        let name = graph.generate_name(naming::MERGE);
        if foreign {
            graph.problems.push(TopologyError::ForeignStream { node: name.clone() });
        }
        let parents = if foreign { vec![self.node] } else { vec![self.node, other.node] };
        let node = graph.add_node(name, NodeKind::Processor { stores: Vec::new() }, parents);
        let outlets = Outlets::new();
        graph.optimizer.merges.insert(node);
        graph.optimizer.outlets.insert(node, Arc::clone(&outlets) as AnyOutlets);
        drop(graph);
        // A stream merged with itself has each of its records once, as in Java.
        let others = (!Arc::ptr_eq(&self.outlets, &other.outlets)).then_some(&other.outlets);
        for parent in std::iter::once(&self.outlets).chain(others) {
            let children = Arc::clone(&outlets);
            let factory = move |tasks: &mut TaskBuilder<'_>| {
                tasks.relay(node, |tasks| Ok(Forward(children.build(tasks)?)))
            };
            parent.attach(node, Arc::new(factory));
        }
        KStream::new(&self.graph, node, outlets, self.repartition_required || other.repartition_required)
    }

    /// Writes the stream to a topic: a name or a [`Produced`].
    ///
    /// ```
    /// use kafka_streams::{Produced, testing::Example};
    ///
    /// Example::of(|builder| {
    ///     builder.stream::<String, i64>("in").to(Produced::by_record(|record| if record.value > 1 { "large" } else { "small" }));
    /// })
    /// .pipe("in", [("a", 1), ("b", 2)])
    /// .gives("large", [("b", 2)])
    /// .gives("small", [("a", 1)]);
    /// ```
    pub fn to(self, topic: impl Into<Produced<K, V>>) {
        let produced = topic.into();
        let mut graph = self.graph.lock();
        let name = graph.name_or(produced.name, naming::SINK);
        let topic = match &produced.target {
            SinkTarget::Topic(topic) => Some(topic.clone()),
            SinkTarget::ByRecord(_) => None,
        };
        let node = graph.add_node(name, NodeKind::Sink { topic }, vec![self.node]);
        drop(graph);
        let Produced { target, key, value, partitioner, .. } = produced;
        attach_sink(&self.outlets, node, SinkSpec { target, key, value, partitioner, repartition: None });
    }

    /// Groups by the key as it is. Repartitions only if the key changed since the records were read.
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
    pub fn group_by_key(self, grouped: impl Into<Grouped<K, V>>) -> KGroupedStream<K, V> {
        KGroupedStream { stream: self, grouped: grouped.into() }
    }

    /// Groups by another key: a name or a [`Grouped`], and the key of each record. Always repartitions.
    ///
    /// ```
    /// use kafka_streams::{Store, testing::Example};
    ///
    /// Example::of(|builder| {
    ///     let words = builder.stream::<String, String>("in").group_by("by-word", |_key, word| word.clone());
    ///     words.count(Store::kv("counts")).to_stream().to("out");
    /// })
    /// .pipe("in", [("x", "a"), ("y", "a")])
    /// .gives("out", [("a", 1), ("a", 2)]);
    /// ```
    pub fn group_by<K2: Send + 'static>(
        self,
        grouped: impl Into<Grouped<K2, V>>,
        select: impl Fn(&K, &V) -> K2 + Send + Sync + 'static,
    ) -> KGroupedStream<K2, V> {
        let grouped = grouped.into();
        let stream = self.select_key(select);
        let stream = match &grouped.name {
            Some(name) => stream.named(name.clone()),
            None => stream,
        };
        KGroupedStream { stream, grouped }
    }

    /// Sends the records through a topic of their own, partitioned by their key.
    ///
    /// ```
    /// use kafka_streams::{Repartitioned, testing::Example};
    ///
    /// Example::of(|builder| {
    ///     let by_name = builder.stream::<String, i64>("in").select_key(|_key, n| format!("n{n}"));
    ///     by_name.repartition(Repartitioned::from("by-name").partitions(4)).to("out");
    /// })
    /// .pipe("in", [("a", 1)])
    /// .gives("out", [("n1", 1)]);
    /// ```
    pub fn repartition(self, repartitioned: impl Into<Repartitioned<K, V>>) -> Self {
        let options = repartitioned.into();
        let given = options.name.is_some();
        let partitions = options.partitions;
        // The one place where Java burns no number for a given name.
        let base = options.name.unwrap_or_else(|| self.graph.lock().generate_name(naming::REPARTITION));
        let names = RepartitionNames { base, given, partitions };
        self.repartition_by(names, options.key, options.value, options.partitioner).0
    }

    pub(crate) fn repartition_with(
        self,
        names: RepartitionNames,
        key: SharedSerde<K>,
        value: SharedSerde<V>,
    ) -> Self {
        let rewire = rewire(&key, &value);
        let topic = names.topic();
        let (stream, [filter, sink]) = self.repartition_by(names, key, value, None);
        let source = stream.node;
        let implied = ImpliedRepartition { filter, sink, source, topic, rewire };
        stream.graph.lock().optimizer.repartitions.push(implied);
        stream
    }

    /// The stream behind the topic, and the nodes before it.
    fn repartition_by(
        self,
        names: RepartitionNames,
        key: SharedSerde<K>,
        value: SharedSerde<V>,
        partitioner: Option<StreamPartitioner<K, V>>,
    ) -> (Self, [NodeId; 2]) {
        let topic_name = names.topic();
        let topic = TopicRef::Internal(Arc::clone(&topic_name));
        let mut graph = self.graph.lock();
        let given = |part: &str| names.given.then(|| format!("{topic_name}-{part}"));
        let sink_name = graph.name_or(given("sink"), naming::SINK);
        let filter_name = graph.name_or(given("filter"), naming::FILTER);
        let source_name = graph.name_or(given("source"), naming::SOURCE);
        graph.repartitions.push(RepartitionSpec { name: topic_name, partitions: names.partitions });
        let filter = graph.add_node(filter_name, NodeKind::Processor { stores: Vec::new() }, vec![self.node]);
        let sink = graph.add_node(sink_name, NodeKind::Sink { topic: Some(topic.clone()) }, vec![filter]);
        let node = graph.add_source(source_name, vec![topic.clone()], None);
        let outlets = Outlets::new();
        graph.add_source_factory(node, source(node, Arc::clone(&key), Arc::clone(&value), &outlets));
        drop(graph);
        let (target, repartition) = (SinkTarget::Topic(topic), Some(node));
        let write = sink_factory(sink, SinkSpec { target, key, value, partitioner, repartition });
        let behind = Arc::clone(&outlets);
        let factory = move |tasks: &mut TaskBuilder<'_>| -> Result<Box<dyn Node<K, V>>, StreamsError> {
            match tasks.topology.graph.optimizer.bypassed.contains(&sink) {
                true => Ok(Box::new(Forward(behind.build(tasks)?))),
                false => write(tasks),
            }
        };
        self.outlets.attach(sink, Arc::new(factory));
        (KStream::new(&self.graph, node, outlets, false), [filter, sink])
    }
}

impl<K: Send + 'static, V: Clone + Send + 'static> KStream<K, V> {
    /// The latest value of each key; a null value deletes the row. Rows are kept if the store has a name, or as soon as
    /// a join or a grouping needs them.
    ///
    /// ```
    /// use kafka_streams::{Store, testing::Example};
    ///
    /// Example::of(|builder| {
    ///     let latest = builder.stream::<String, i64>("in").to_table(Store::kv("latest"));
    ///     latest.filter(|_key, n| *n > 1).to_stream().to("out");
    /// })
    /// .pipe("in", [("a", 2), ("a", 1)])
    /// .gives("out", [("a", Some(2)), ("a", None)]);
    /// ```
    pub fn to_table(self, store: Store<K, V>) -> KTable<K, V> {
        let mut graph = self.graph.lock();
        let name = graph.generate_name(naming::TO_TABLE);
        let store_name = store
            .name
            .clone()
            .unwrap_or_else(|| graph.generate_name(&format!("{}{}", naming::TO_TABLE, naming::STATE_STORE)));
        drop(graph);
        let stream = if self.repartition_required {
            // Named after the operator, whatever the store is called.
            let names = RepartitionNames { base: name.clone(), given: false, partitions: None };
            self.repartition_with(names, Arc::clone(&store.key), Arc::clone(&store.value))
        } else {
            self
        };
        let is_kept = store.is_kept();
        let store = store.named(store_name);
        let mut graph = stream.graph.lock();
        let node = graph.add_node(name, NodeKind::Processor { stores: Vec::new() }, vec![stream.node]);
        let info = TableInfo { lazy_store: Some(store.spec(StoreKind::KeyValue)), ..TableInfo::default() };
        graph.tables.insert(node, info);
        if is_kept {
            graph.keep_rows(node);
        }
        drop(graph);
        let outlets = Outlets::new();
        let rows = Outlets::<K, Option<V>>::new();
        let (children, value) = (Arc::clone(&rows), Arc::clone(&store.value));
        let row = Arc::new(move |_: &K, row: V| (!value.is_null(&row)).then_some(row));
        let factory = move |tasks: &mut TaskBuilder<'_>| {
            let out = children.build(tasks)?;
            let node: Box<dyn Node<K, V>> = Box::new(MapValues { map: Arc::clone(&row), out });
            Ok(node)
        };
        stream.outlets.attach(node, Arc::new(factory));
        attach_table(node, store.clone(), &rows, &outlets);
        KTable::kept(&stream.graph, node, outlets, store)
    }
}

/// What a sink needs to know.
pub(crate) struct SinkSpec<K, V> {
    pub(crate) target: SinkTarget<K, V>,
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) partitioner: Option<StreamPartitioner<K, V>>,
    /// The source behind a repartition topic.
    pub(crate) repartition: Option<NodeId>,
}

pub(crate) fn attach_sink<K: Send + 'static, V: Send + 'static>(
    outlets: &Outlets<K, V>,
    node: NodeId,
    spec: SinkSpec<K, V>,
) {
    outlets.attach(node, sink_factory(node, spec));
}

/// How a repartition topic with these serdes is put behind a node; see [`crate::topology::Rewire`].
fn rewire<K: Send + 'static, V: Send + 'static>(key: &SharedSerde<K>, value: &SharedSerde<V>) -> Rewire {
    let (key, value) = (Arc::clone(key), Arc::clone(value));
    Arc::new(move |outlets, sink, source, topic| {
        let outlets = Arc::clone(outlets).downcast::<Outlets<K, V>>().ok()?;
        let (key, value) = (Arc::clone(&key), Arc::clone(&value));
        let spec = SinkSpec {
            target: SinkTarget::Topic(topic.clone()),
            key: Arc::clone(&key),
            value: Arc::clone(&value),
            partitioner: None,
            repartition: Some(source),
        };
        attach_sink(&outlets, sink, spec);
        let timestamps = TimestampExtractor::FailOnInvalidTimestamp;
        Some(source_of(source, key, value, timestamps, move |tasks| outlets.build_where(tasks, Some(sink))))
    })
}

fn sink_factory<K: Send + 'static, V: Send + 'static>(
    node: NodeId,
    spec: SinkSpec<K, V>,
) -> NodeFactory<K, V> {
    let SinkSpec { target, key, value, partitioner, repartition } = spec;
    let factory = move |tasks: &mut TaskBuilder<'_>| -> Result<Box<dyn Node<K, V>>, StreamsError> {
        // Before a repartition topic: a record without a key belongs to no group, but a left join may take it.
        let drop_null_keys = repartition.is_some_and(|source| !tasks.topology.graph.takes_null_keys(source));
        Ok(Box::new(Sink {
            name: tasks.name(node),
            destination: match &target {
                SinkTarget::Topic(topic) => Destination::Topic(tasks.topic(topic)),
                SinkTarget::ByRecord(choose) => Destination::by_record(Arc::clone(choose)),
            },
            key: Arc::clone(&key),
            value: Arc::clone(&value),
            partitioner: partitioner.clone(),
            drop_null_keys,
            key_bytes: Vec::new(),
            value_bytes: Vec::new(),
        }))
    };
    Arc::new(factory)
}
