use std::sync::Arc;

use super::stream::RepartitionNames;
use super::table::Serdes;
use super::windowed::{Fold, MergeFold, session_aggregate, sliding_aggregate, time_aggregate};
use super::windows::millis;
use super::{
    Emit, KGroupedStream, KStream, KTable, SessionWindows, SharedGraph, SlidingWindows, Store, TimeWindows,
    Windowed, Windows, store_getter,
};
use crate::error::{StreamsError, TopologyError};
use crate::processor::{
    Aggregate, Change, Forward, Forwarding, Getter, Node, Out, Outlets, SessionGetter, TaskBuilder,
    WindowGetter,
};
use crate::serde::SharedSerde;
use crate::topology::{Copartitioned, NodeId, NodeKind, StoreKind, StoreSpec, TableInfo, naming};

/// One of the streams that fill an aggregate.
trait Input<K, A>: Send {
    /// Sends the stream through a topic if its key changed; without a name of its own that is named after the store.
    fn repartition(&mut self, store_name: &str, store_is_named: bool);
    fn graph(&self) -> &SharedGraph;
    fn parent(&self) -> NodeId;
    fn attach(&self, node: NodeId, plan: &Arc<Plan<K, A>>);
    fn attach_windowed(&self, node: NodeId, plan: &Arc<WindowPlan<K, A>>);
}

type Initial<A> = Arc<dyn Fn() -> A + Send + Sync>;
type MergeSessions<K, A> = Arc<dyn Fn(&K, &mut A, A) + Send + Sync>;

/// What the inputs' nodes have in common.
struct Plan<K, A> {
    merge: NodeId,
    store: Store<K, A>,
    initial: Initial<A>,
    outlets: Arc<Outlets<K, Change<A>>>,
}

struct WindowPlan<K, A> {
    merge: NodeId,
    store: Store<K, A>,
    initial: Initial<A>,
    cut: Cut<K, A>,
    outlets: Arc<Outlets<Windowed<K>, Change<A>>>,
}

/// How the streams are cut into windows.
enum Cut<K, A> {
    Time(TimeWindows),
    Sliding(SlidingWindows),
    Session(SessionWindows, MergeSessions<K, A>),
}

struct Grouped<K, V, F> {
    stream: KStream<K, V>,
    name: Option<String>,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    add: Arc<F>,
}

/// Where all inputs' results come together.
fn merged<K: Send + 'static, V: Send + 'static>(
    tasks: &mut TaskBuilder<'_>,
    merge: NodeId,
    outlets: &Arc<Outlets<K, V>>,
) -> Result<Out<K, V>, StreamsError> {
    let outlets = Arc::clone(outlets);
    Ok(Out::One(tasks.relay(merge, move |tasks| Ok(Forward(outlets.build(tasks)?)))?))
}

impl<K, V, A, F> Input<K, A> for Grouped<K, V, F>
where
    K: Clone + Send + 'static,
    V: Send + 'static,
    A: Clone + Send + 'static,
    F: Fn(&K, &V, &mut A) + Send + Sync + 'static,
{
    fn repartition(&mut self, store_name: &str, store_is_named: bool) {
        if !self.stream.repartition_required {
            return;
        }
        let given = self.name.is_some() || store_is_named;
        let base = self.name.clone().unwrap_or_else(|| store_name.to_owned());
        let names = RepartitionNames { base, given, partitions: None };
        let stream = KStream::new(
            &self.stream.graph,
            self.stream.node,
            Arc::clone(&self.stream.outlets),
            self.stream.repartition_required,
        );
        self.stream = stream.repartition_with(names, Arc::clone(&self.key), Arc::clone(&self.value));
    }

    fn graph(&self) -> &SharedGraph {
        &self.stream.graph
    }

    fn parent(&self) -> NodeId {
        self.stream.node
    }

    fn attach(&self, node: NodeId, plan: &Arc<Plan<K, A>>) {
        let (plan, value, add) = (Arc::clone(plan), Arc::clone(&self.value), Arc::clone(&self.add));
        let initial = Arc::clone(&plan.initial);
        let update = Arc::new(move |key: &K, value: V, row: Option<A>| {
            let mut row = row.unwrap_or_else(&*initial);
            add(key, &value, &mut row);
            row
        });
        let factory = move |tasks: &mut TaskBuilder<'_>| {
            let info = tasks.table(plan.merge);
            let spec = info.store.unwrap_or_default();
            let aggregate = Aggregate {
                store: tasks.key_value(&spec, &plan.store.key, &plan.store.value)?,
                value: Arc::clone(&value),
                update: Arc::clone(&update),
                forwarding: Forwarding { cached: plan.store.is_cached(), send_old: info.send_old },
                out: merged(tasks, plan.merge, &plan.outlets)?,
            };
            Ok(tasks.called_if(plan.store.is_cached(), aggregate))
        };
        self.stream.outlets.attach(node, Arc::new(factory));
    }

    fn attach_windowed(&self, node: NodeId, plan: &Arc<WindowPlan<K, A>>) {
        let (plan, value, add) = (Arc::clone(plan), Arc::clone(&self.value), Arc::clone(&self.add));
        let factory = move |tasks: &mut TaskBuilder<'_>| -> Result<Box<dyn Node<K, V>>, StreamsError> {
            let (add, begin, initial) =
                (Arc::clone(&add), Arc::clone(&plan.initial), Arc::clone(&plan.initial));
            let add = move |key: &K, value: &V, row: Option<A>| {
                let mut row = row.unwrap_or_else(&*begin);
                add(key, value, &mut row);
                row
            };
            let fold = Fold { initial: move || Some(initial()), add };
            let out = merged(tasks, plan.merge, &plan.outlets)?;
            let store = (&plan.store, Emit::OnUpdate);
            match &plan.cut {
                Cut::Time(windows) => {
                    time_aggregate(tasks, plan.merge, store, Arc::new(*windows), Arc::new(fold), out)
                }
                Cut::Sliding(windows) => {
                    sliding_aggregate(tasks, plan.merge, store, (*windows, &value), Arc::new(fold), out)
                }
                Cut::Session(windows, merge) => {
                    let (merge, empty) = (Arc::clone(merge), Arc::clone(&plan.initial));
                    let merge = move |key: &K, merged: Option<A>, session: A| {
                        let mut merged = merged.unwrap_or_else(&*empty);
                        merge(key, &mut merged, session);
                        merged
                    };
                    let update = Arc::new(MergeFold { fold, merge });
                    session_aggregate(tasks, plan.merge, store, *windows, update, out)
                }
            }
        };
        self.stream.outlets.attach(node, Arc::new(factory));
    }
}

/// Grouped streams of different values that fill one aggregate (`CogroupedKStream`, KIP-150).
#[must_use = "cogrouped streams do nothing until they are aggregated"]
pub struct CogroupedKStream<K, A> {
    inputs: Vec<Box<dyn Input<K, A>>>,
}

impl<K, A> std::fmt::Debug for CogroupedKStream<K, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CogroupedKStream").field("inputs", &self.inputs.len()).finish()
    }
}

impl<K: Clone + Send + 'static, V: Send + 'static> KGroupedStream<K, V> {
    /// Begins an aggregate that several streams fill, each in its own way.
    ///
    /// ```
    /// use kafka_streams::{Store, StreamsBuilder, testing::TestDriver};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let builder = StreamsBuilder::new();
    /// let deposits = builder.stream::<String, i64>("deposits").group_by_key("deposits-by-account");
    /// let fees = builder.stream::<String, String>("fees").group_by_key("fees-by-account");
    /// deposits
    ///     .cogroup(|_, cents, balance: &mut i64| *balance += cents)
    ///     .cogroup(fees, |_, kind, balance| *balance -= if kind == "transfer" { 5 } else { 1 })
    ///     .aggregate(|| 0, Store::kv("balances"))
    ///     .to_stream()
    ///     .to("balances-out");
    /// let mut driver = TestDriver::new(&builder.build()?)?;
    /// driver.input::<String, i64>("deposits").pipe("ann".into(), 100, 0)?;
    /// driver.input::<String, String>("fees").pipe("ann".into(), "transfer".into(), 1)?;
    /// let balances = driver.output::<String, i64>("balances-out").read_all()?;
    /// assert_eq!(balances, [("ann".to_owned(), 100), ("ann".to_owned(), 95)]);
    /// # Ok(()) }
    /// ```
    pub fn cogroup<A: Clone + Send + 'static>(
        self,
        add: impl Fn(&K, &V, &mut A) + Send + Sync + 'static,
    ) -> CogroupedKStream<K, A> {
        CogroupedKStream { inputs: Vec::new() }.cogroup(self, add)
    }
}

impl<K: Clone + Send + 'static, A: Clone + Send + 'static> CogroupedKStream<K, A> {
    /// One more stream, and what its records add.
    ///
    /// ```
    /// use kafka_streams::{Grouped, Store, testing::Example};
    ///
    /// Example::of(|builder| {
    ///     let lengths = builder.stream::<String, String>("texts").group_by_key(Grouped::auto());
    ///     let numbers = builder.stream::<String, i64>("numbers").group_by_key(Grouped::auto());
    ///     let both = lengths
    ///         .cogroup(|_key, text, sum: &mut i64| *sum += text.len() as i64)
    ///         .cogroup(numbers, |_key, n, sum| *sum += n);
    ///     both.aggregate(|| 0, Store::kv("sums")).to_stream().to("out");
    /// })
    /// .pipe_at(3, "texts", [("a", "four")])
    /// .pipe_at(4, "numbers", [("a", 10)])
    /// .gives("out", [("a", 4), ("a", 14)]);
    /// ```
    pub fn cogroup<V: Send + 'static>(
        mut self,
        other: KGroupedStream<K, V>,
        add: impl Fn(&K, &V, &mut A) + Send + Sync + 'static,
    ) -> Self {
        let KGroupedStream { stream, grouped } = other;
        let (name, key, value) = (grouped.name, grouped.key, grouped.value);
        self.inputs.push(Box::new(Grouped { stream, name, key, value, add: Arc::new(add) }));
        self
    }

    /// Folds all streams' records of a key into an accumulator that begins as `initial()`.
    ///
    /// ```
    /// use kafka_streams::{Grouped, Store, testing::Example};
    ///
    /// Example::of(|builder| {
    ///     let lengths = builder.stream::<String, String>("texts").group_by_key(Grouped::auto());
    ///     let numbers = builder.stream::<String, i64>("numbers").group_by_key(Grouped::auto());
    ///     let both = lengths
    ///         .cogroup(|_key, text, sum: &mut i64| *sum += text.len() as i64)
    ///         .cogroup(numbers, |_key, n, sum| *sum += n);
    ///     both.aggregate(|| 0, Store::kv("sums")).to_stream().to("out");
    /// })
    /// .pipe_at(3, "texts", [("a", "four")])
    /// .pipe_at(4, "numbers", [("a", 10)])
    /// .gives("out", [("a", 4), ("a", 14)]);
    /// ```
    pub fn aggregate(
        self,
        initial: impl Fn() -> A + Send + Sync + 'static,
        store: Store<K, A>,
    ) -> KTable<K, A> {
        let placed = self.place(store, |_| StoreKind::KeyValue);
        let Placed { inputs, nodes, graph, merge, store } = placed;
        let outlets = Outlets::new();
        let (kept, initial) = (store.clone(), Arc::new(initial));
        let plan = Arc::new(Plan { merge, store: kept, initial, outlets: Arc::clone(&outlets) });
        inputs.iter().zip(nodes).for_each(|(input, node)| input.attach(node, &plan));
        let serdes = Serdes::from(&store);
        KTable::new(&graph, merge, outlets, store_getter(merge, store)).with_serdes(serdes)
    }

    /// As [`CogroupedKStream::aggregate`], by tumbling or hopping windows.
    ///
    /// ```
    /// use std::time::Duration;
    /// use kafka_streams::{Grouped, TimeWindows, Store};
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let lengths = builder.stream::<String, String>("texts").group_by_key(Grouped::auto());
    ///     let numbers = builder.stream::<String, i64>("numbers").group_by_key(Grouped::auto());
    ///     let both = lengths
    ///         .cogroup(|_key, text, sum: &mut i64| *sum += text.len() as i64)
    ///         .cogroup(numbers, |_key, n, sum| *sum += n);
    ///     both.aggregate_in(TimeWindows::tumbling(Duration::from_millis(10)), || 0, Store::window("sums")).to_stream().map(|window, n| (format!("{} from {}", window.key, window.start), n)).to("out");
    /// })
    /// .pipe_at(3, "texts", [("a", "four")])
    /// .pipe_at(4, "numbers", [("a", 10)])
    /// .gives("out", [("a from 0", 4), ("a from 0", 14)]);
    /// ```
    pub fn aggregate_in(
        self,
        windows: TimeWindows,
        initial: impl Fn() -> A + Send + Sync + 'static,
        store: Store<K, A>,
    ) -> KTable<Windowed<K>, A> {
        let (size, grace) = (windows.size_ms(), windows.grace_ms());
        let kind =
            move |retention_ms| StoreKind::Window { retention_ms, retain_duplicates: false, scanned: false };
        self.windowed(Cut::Time(windows), size.saturating_add(grace), kind, (size, grace), initial, store)
    }

    /// As [`CogroupedKStream::aggregate`], by sliding windows.
    ///
    /// ```
    /// use std::time::Duration;
    /// use kafka_streams::{Grouped, SlidingWindows, Store};
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let lengths = builder.stream::<String, String>("texts").group_by_key(Grouped::auto());
    ///     let numbers = builder.stream::<String, i64>("numbers").group_by_key(Grouped::auto());
    ///     let both = lengths
    ///         .cogroup(|_key, text, sum: &mut i64| *sum += text.len() as i64)
    ///         .cogroup(numbers, |_key, n, sum| *sum += n);
    ///     let near = SlidingWindows::of(Duration::from_millis(10));
    ///     both.aggregate_in_sliding(near, || 0, Store::window("sums")).to_stream().map(|window, n| (format!("{} until {}", window.key, window.end), n)).to("out");
    /// })
    /// .pipe_at(20, "texts", [("a", "four")])
    /// .pipe_at(21, "numbers", [("a", 10)])
    /// .gives("out", [("a until 20", 4), ("a until 31", 10), ("a until 21", 14)]);
    /// ```
    pub fn aggregate_in_sliding(
        self,
        windows: SlidingWindows,
        initial: impl Fn() -> A + Send + Sync + 'static,
        store: Store<K, A>,
    ) -> KTable<Windowed<K>, A> {
        let needed = windows.difference.saturating_mul(2).saturating_add(windows.grace);
        let kind =
            move |retention_ms| StoreKind::Window { retention_ms, retain_duplicates: false, scanned: true };
        let times = (windows.difference, windows.grace);
        self.windowed(Cut::Sliding(windows), needed, kind, times, initial, store)
    }

    /// As [`CogroupedKStream::aggregate`], by sessions; `merge` adds a later session's accumulator to an earlier one's.
    ///
    /// ```
    /// use std::time::Duration;
    /// use kafka_streams::{Grouped, SessionWindows, Store};
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let lengths = builder.stream::<String, String>("texts").group_by_key(Grouped::auto());
    ///     let numbers = builder.stream::<String, i64>("numbers").group_by_key(Grouped::auto());
    ///     let both = lengths
    ///         .cogroup(|_key, text, sum: &mut i64| *sum += text.len() as i64)
    ///         .cogroup(numbers, |_key, n, sum| *sum += n);
    ///     let sessions = SessionWindows::gap(Duration::from_millis(5));
    ///     both.aggregate_in_sessions(sessions, || 0, |_key, sum, other| *sum += other, Store::session("sums"))
    ///         .to_stream().map(|window, n| (format!("{} from {}", window.key, window.start), n)).to("out");
    /// })
    /// .pipe_at(3, "texts", [("a", "four")])
    /// .pipe_at(4, "numbers", [("a", 10)])
    /// .gives("out", [("a from 3", Some(4)), ("a from 3", None), ("a from 3", Some(14))]);
    /// ```
    pub fn aggregate_in_sessions(
        self,
        windows: SessionWindows,
        initial: impl Fn() -> A + Send + Sync + 'static,
        merge: impl Fn(&K, &mut A, A) + Send + Sync + 'static,
        store: Store<K, A>,
    ) -> KTable<Windowed<K>, A> {
        let needed = windows.gap.saturating_add(windows.grace);
        let kind = move |retention_ms| StoreKind::Session { retention_ms };
        self.windowed(Cut::Session(windows, Arc::new(merge)), needed, kind, (0, needed), initial, store)
    }

    fn windowed(
        self,
        cut: Cut<K, A>,
        needed: i64,
        kind: impl Fn(i64) -> StoreKind,
        (size_ms, grace_ms): (i64, i64),
        initial: impl Fn() -> A + Send + Sync + 'static,
        store: Store<K, A>,
    ) -> KTable<Windowed<K>, A> {
        let asked = store.retention.map_or(needed, millis);
        let placed = self.place(store, |problems| {
            if asked < needed {
                let node = "a windowed aggregate of several streams".to_owned();
                problems.push(TopologyError::RetentionTooShort {
                    node,
                    retention_ms: asked,
                    needed_ms: needed,
                });
            }
            kind(asked.max(needed))
        });
        let Placed { inputs, nodes, graph, merge, store } = placed;
        if let Some(info) = graph.lock().tables.get_mut(&merge) {
            info.window_grace = Some(grace_ms);
        }
        let is_session = matches!(cut, Cut::Session(..));
        let outlets = Outlets::new();
        let (kept, initial) = (store.clone(), Arc::new(initial));
        let plan = Arc::new(WindowPlan { merge, store: kept, initial, cut, outlets: Arc::clone(&outlets) });
        inputs.iter().zip(nodes).for_each(|(input, node)| input.attach_windowed(node, &plan));
        let size = std::time::Duration::from_millis(u64::try_from(size_ms).unwrap_or(0));
        let key = match is_session {
            true => Windowed::session_serde(Arc::clone(&store.key)),
            false => Windowed::time_serde(Arc::clone(&store.key), size),
        };
        let serdes = Serdes { key: Some(key), value: Some(Arc::clone(&store.value)) };
        let getter = move |tasks: &mut TaskBuilder<'_>| {
            let spec = tasks.table(merge).store.unwrap_or_default();
            let getter: Getter<Windowed<K>, A> = match is_session {
                true => Box::new(SessionGetter(tasks.session(&spec, &store.key, &store.value)?)),
                false => WindowGetter::boxed(tasks.window(&spec, &store.key, &store.value)?),
            };
            Ok(getter)
        };
        KTable::new(&graph, merge, outlets, Arc::new(getter)).with_serdes(serdes)
    }

    /// Names everything in Java's order: the store, the repartition topics, a node for each input and the one where
    /// they meet.
    fn place(
        self,
        store: Store<K, A>,
        kind: impl FnOnce(&mut Vec<TopologyError>) -> StoreKind,
    ) -> Placed<K, A> {
        let mut inputs = self.inputs;
        // There is always one: `KGroupedStream::cogroup` makes the first.
        let graph = inputs.first().map(|input| Arc::clone(input.graph())).unwrap_or_default();
        let store_is_named = store.name.is_some();
        let store_name = store.name.clone().unwrap_or_else(|| {
            graph.lock().generate_name(&format!("{}{}", naming::COGROUP_AGGREGATE, naming::STATE_STORE))
        });
        for input in &mut inputs {
            input.repartition(&store_name, store_is_named);
        }
        let store = store.named(store_name.clone());
        let mut locked = graph.lock();
        let spec: StoreSpec = store.spec(kind(&mut locked.problems));
        locked.stores.push(spec.clone());
        let mut nodes = Vec::with_capacity(inputs.len());
        for input in &inputs {
            let name = locked.generate_name(naming::COGROUP_AGGREGATE);
            let foreign = !Arc::ptr_eq(&graph, input.graph());
            if foreign {
                locked.problems.push(TopologyError::ForeignStream { node: name.clone() });
            }
            let parents = if foreign { Vec::new() } else { vec![input.parent()] };
            nodes.push(locked.add_node(
                name,
                NodeKind::Processor { stores: vec![store_name.clone()] },
                parents,
            ));
        }
        let name = locked.generate_name(naming::COGROUP_MERGE);
        let merge = locked.add_node(name, NodeKind::Processor { stores: Vec::new() }, nodes.clone());
        locked.copartitioned.push(Copartitioned { node: merge, sides: nodes.clone() });
        locked.tables.insert(merge, TableInfo { store: Some(spec), ..TableInfo::default() });
        drop(locked);
        Placed { inputs, nodes, graph, merge, store }
    }
}

/// Cogrouped streams' places in the topology.
struct Placed<K, A> {
    inputs: Vec<Box<dyn Input<K, A>>>,
    nodes: Vec<NodeId>,
    graph: SharedGraph,
    merge: NodeId,
    store: Store<K, A>,
}
