use std::marker::PhantomData;
use std::sync::Arc;

use super::stream::RepartitionNames;
use super::table::Serdes;
use super::windows::millis;
use super::{
    GetterFactory, JoinWindows, Joined, KStream, KTable, Store, StreamJoined, store_getter, table_out,
};
use crate::error::TopologyError;
use crate::processor::{
    Change, Forward, Forwarding, FromLeft, FromRight, Getter, JoinBoth, JoinFrom, JoinGetter, Node, Outlets,
    PatientJoin, SelfJoin, StreamJoinSide, StreamTableJoin, TableJoinKind, TableJoinSide, TableMerge,
    TableOut, TaskBuilder, Unmatched, Waiting,
};
use crate::serde::SharedSerde;
use crate::state::{Side, either_list};
use crate::topology::{Copartitioned, NodeKind, StoreKind, StoreSpec, StreamJoin, TableInfo, naming};

/// Which records without a partner are results too.
#[derive(Debug, Clone, Copy)]
struct Outer {
    left: bool,
    right: bool,
}

impl<K: Clone + Send + 'static, V: Clone + Send + 'static> KStream<K, V> {
    /// Joins records of one key that are near each other in time; both streams must be partitioned alike, and are
    /// repartitioned if their keys changed. Result time: the later one's.
    ///
    /// ```
    /// use std::time::Duration;
    /// use kafka_streams::JoinWindows;
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let (left, right) = (builder.stream::<String, String>("left"), builder.stream::<String, String>("right"));
    ///     let near = JoinWindows::within(Duration::from_millis(5));
    ///     left.join(right, |_key, l, r| format!("{l}{r}"), near, "pairs").to("out");
    /// })
    /// .pipe_at(10, "left", [("a", "l")])
    /// .pipe_at(12, "right", [("a", "r")])
    /// .pipe_at(99, "right", [("a", "too late")])
    /// .gives("out", [("a", "lr")]);
    /// ```
    pub fn join<V2: Clone + Send + 'static, O: Send + 'static>(
        self,
        other: KStream<K, V2>,
        joiner: impl Fn(&K, &V, &V2) -> O + Send + Sync + 'static,
        windows: JoinWindows,
        joined: impl Into<StreamJoined<K, V, V2>>,
    ) -> KStream<K, O> {
        let both = move |key: &K, left: Option<&V>, right: Option<&V2>| Some(joiner(key, left?, right?));
        self.joined(other, both, windows, joined.into(), Outer { left: false, right: false })
    }

    /// As [`KStream::join`], and a record of this stream that finds no partner while it could is a result of its own.
    ///
    /// ```
    /// use std::time::Duration;
    /// use kafka_streams::JoinWindows;
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let (left, right) = (builder.stream::<String, String>("left"), builder.stream::<String, String>("right"));
    ///     let near = JoinWindows::within(Duration::from_millis(5));
    ///     left.left_join(right, |_key, l, r| format!("{l}{}", r.map_or("-", String::as_str)), near, "pairs").to("out");
    /// })
    /// .pipe_at(10, "left", [("a", "l")])
    /// .pipe_at(99, "left", [("a", "m")])
    /// // Nobody came until its time was over.
    /// .gives("out", [("a", "l-")]);
    /// ```
    pub fn left_join<V2: Clone + Send + 'static, O: Send + 'static>(
        self,
        other: KStream<K, V2>,
        joiner: impl Fn(&K, &V, Option<&V2>) -> O + Send + Sync + 'static,
        windows: JoinWindows,
        joined: impl Into<StreamJoined<K, V, V2>>,
    ) -> KStream<K, O> {
        let both = move |key: &K, left: Option<&V>, right: Option<&V2>| Some(joiner(key, left?, right));
        self.joined(other, both, windows, joined.into(), Outer { left: true, right: false })
    }

    /// As [`KStream::join`], and a record of either stream that finds no partner while it could is a result of its own.
    ///
    /// ```
    /// use std::time::Duration;
    /// use kafka_streams::JoinWindows;
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let (left, right) = (builder.stream::<String, String>("left"), builder.stream::<String, String>("right"));
    ///     let near = JoinWindows::within(Duration::from_millis(5));
    ///     left.outer_join(right, |_key, l, r| format!("{}{}", l.map_or("-", String::as_str), r.map_or("-", String::as_str)), near, "pairs").to("out");
    /// })
    /// .pipe_at(10, "right", [("a", "r")])
    /// .pipe_at(99, "left", [("a", "l")])
    /// .gives("out", [("a", "-r")]);
    /// ```
    pub fn outer_join<V2: Clone + Send + 'static, O: Send + 'static>(
        self,
        other: KStream<K, V2>,
        joiner: impl Fn(&K, Option<&V>, Option<&V2>) -> O + Send + Sync + 'static,
        windows: JoinWindows,
        joined: impl Into<StreamJoined<K, V, V2>>,
    ) -> KStream<K, O> {
        let both = move |key: &K, left: Option<&V>, right: Option<&V2>| Some(joiner(key, left, right));
        self.joined(other, both, windows, joined.into(), Outer { left: true, right: true })
    }

    fn joined<V2, O, J>(
        self,
        other: KStream<K, V2>,
        joiner: J,
        windows: JoinWindows,
        joined: StreamJoined<K, V, V2>,
        outer: Outer,
    ) -> KStream<K, O>
    where
        V2: Clone + Send + 'static,
        O: Send + 'static,
        J: JoinBoth<K, V, V2, O>,
    {
        let name = joined.name.as_deref();
        let this =
            self.repartitioned_for_join(name.map(|name| format!("{name}-left")), &joined.key, &joined.left);
        let other = other.repartitioned_for_join(
            name.map(|name| format!("{name}-right")),
            &joined.key,
            &joined.right,
        );
        let foreign = !Arc::ptr_eq(&this.graph, &other.graph);
        let mut graph = this.graph.lock();
        let this_suffix = if outer.right { "-outer-this-join" } else { "-this-join" };
        let other_suffix = if outer.left { "-outer-other-join" } else { "-other-join" };
        let named = |suffix: &str| name.map(|name| format!("{name}{suffix}"));
        let this_windowed = graph.name_or(named("-this-windowed"), naming::WINDOWED);
        let other_windowed = graph.name_or(named("-other-windowed"), naming::WINDOWED);
        let generated_this =
            graph.generate_name(if outer.right { naming::OUTER_THIS } else { naming::JOIN_THIS });
        let generated_other =
            graph.generate_name(if outer.left { naming::OUTER_OTHER } else { naming::JOIN_OTHER });
        let merge_name = graph.name_or(named("-merge"), naming::MERGE);
        if foreign {
            graph.problems.push(TopologyError::ForeignStream { node: merge_name.clone() });
        }
        let store = |generated: &str, suffix: &str| StoreSpec {
            name: match &joined.store_name {
                Some(base) => format!("{base}{suffix}-store"),
                None => format!("{generated}-store"),
            },
            kind: StoreKind::Window {
                retention_ms: windows.retention(),
                retain_duplicates: true,
                scanned: true,
            },
            logged: joined.logged,
            records: joined.records,
            changelog: None,
        };
        let own = store(&generated_this, this_suffix);
        let others = store(&generated_other, other_suffix);
        let shared = outer.left.then(|| StoreSpec {
            name: match &joined.store_name {
                Some(base) if outer.right => format!("{base}-outer-shared-join-store"),
                Some(base) => format!("{base}-left-shared-join-store"),
                // It has the number of this side's join.
                None => {
                    let number = generated_this.rsplit('-').next().unwrap_or_default();
                    format!("{}{number}-store", naming::OUTER_SHARED)
                }
            },
            kind: StoreKind::KeyValue,
            ..own.clone()
        });
        let processor = |stores: &[&StoreSpec]| NodeKind::Processor {
            stores: stores.iter().map(|store| store.name.clone()).collect(),
        };
        let shared_slice: Vec<&StoreSpec> = shared.iter().collect();
        let left_windowed = graph.add_node(this_windowed, processor(&[&own]), vec![this.node]);
        let right_parent = if foreign { this.node } else { other.node };
        let right_windowed = graph.add_node(other_windowed, processor(&[&others]), vec![right_parent]);
        let join_stores = |store| [&[store][..], &shared_slice].concat();
        let this_name = named(this_suffix).unwrap_or(generated_this);
        let other_name = named(other_suffix).unwrap_or(generated_other);
        let join_this = graph.add_node(this_name, processor(&join_stores(&others)), vec![left_windowed]);
        let join_other = graph.add_node(other_name, processor(&join_stores(&own)), vec![right_windowed]);
        let merge = graph.add_node(merge_name, processor(&[]), vec![join_this, join_other]);
        graph.relaxed_null_keys.extend((outer.left || outer.right).then_some(merge));
        graph.copartitioned.push(Copartitioned { node: merge, sides: vec![this.node, right_parent] });
        graph.optimizer.stream_joins.push(StreamJoin {
            merge,
            windowed: [left_windowed, right_windowed],
            joins: [join_this, join_other],
            kept: own.name.clone(),
            dropped: [Some(&others), shared.as_ref()].into_iter().flatten().map(|s| s.name.clone()).collect(),
        });
        graph.stores.extend([Some(own.clone()), Some(others.clone()), shared.clone()].into_iter().flatten());
        drop(graph);

        let outlets = Outlets::new();
        let joiner = Arc::new(joiner);
        let plan =
            Arc::new(JoinPlan { merge, own, others, shared, windows, joined, outlets: Arc::clone(&outlets) });
        let (left, from_left, both) = (Arc::clone(&plan), Arc::clone(&joiner), Arc::clone(&joiner));
        let factory = move |tasks: &mut TaskBuilder<'_>| {
            if tasks.topology.graph.optimizer.self_joins.contains(&merge) {
                return left.self_join(tasks, &both);
            }
            let side: Box<dyn Node<K, V>> = Box::new(StreamJoinSide {
                side: Side::Left,
                key: Arc::clone(&left.joined.key),
                value: Arc::clone(&left.joined.left),
                own: tasks.window(&left.own, &left.joined.key, &left.joined.left)?,
                other: tasks.window(&left.others, &left.joined.key, &left.joined.right)?,
                before: left.windows.before,
                after: left.windows.after,
                outer: outer.left,
                unmatched: left.unmatched(tasks)?,
                joiner: FromLeft(Arc::clone(&from_left)),
                both: Box::new(FromLeft(Arc::clone(&both))),
                keep: Waiting::Left,
                out: left.out(tasks)?,
                found: Vec::new(),
            });
            Ok(side)
        };
        this.outlets.attach(left_windowed, Arc::new(factory));
        let right = plan;
        let factory = move |tasks: &mut TaskBuilder<'_>| {
            let side: Box<dyn Node<K, V2>> = Box::new(StreamJoinSide {
                side: Side::Right,
                key: Arc::clone(&right.joined.key),
                value: Arc::clone(&right.joined.right),
                own: tasks.window(&right.others, &right.joined.key, &right.joined.right)?,
                other: tasks.window(&right.own, &right.joined.key, &right.joined.left)?,
                before: right.windows.after,
                after: right.windows.before,
                outer: outer.right,
                unmatched: right.unmatched(tasks)?,
                joiner: FromRight(Arc::clone(&joiner)),
                both: Box::new(FromLeft(Arc::clone(&joiner))),
                keep: Waiting::Right,
                out: right.out(tasks)?,
                found: Vec::new(),
            });
            Ok(side)
        };
        other.outlets.attach(right_windowed, Arc::new(factory));
        KStream::new(&this.graph, merge, outlets, false)
    }
}

/// What both sides of a stream-stream join are built from.
struct JoinPlan<K, L, R, O> {
    merge: usize,
    own: StoreSpec,
    others: StoreSpec,
    shared: Option<StoreSpec>,
    windows: JoinWindows,
    joined: StreamJoined<K, L, R>,
    outlets: Arc<Outlets<K, O>>,
}

impl<K, L, R, O> JoinPlan<K, L, R, O>
where
    K: Clone + Send + 'static,
    L: Clone + Send + 'static,
    R: Clone + Send + 'static,
    O: Send + 'static,
{
    fn unmatched(
        &self,
        tasks: &mut TaskBuilder<'_>,
    ) -> Result<Option<Unmatched<K, L, R>>, crate::error::StreamsError> {
        let Some(spec) = &self.shared else { return Ok(None) };
        let JoinWindows { before, after, grace } = self.windows;
        let values = either_list(Arc::clone(&self.joined.left), Arc::clone(&self.joined.right));
        Ok(Some(Unmatched {
            store: tasks.outer_join(spec, &self.joined.key, &values)?,
            left_waits: after.saturating_add(grace),
            right_waits: before.saturating_add(grace),
            grace,
        }))
    }

    /// Both sides at once, when they are one stream.
    fn self_join<J: JoinBoth<K, L, R, O>>(
        &self,
        tasks: &mut TaskBuilder<'_>,
        joiner: &Arc<J>,
    ) -> Result<Box<dyn Node<K, L>>, crate::error::StreamsError> {
        Ok(Box::new(SelfJoin {
            key: Arc::clone(&self.joined.key),
            value: Arc::clone(&self.joined.left),
            store: tasks.window(&self.own, &self.joined.key, &self.joined.left)?,
            before: self.windows.before,
            after: self.windows.after,
            joiner: Arc::clone(joiner),
            out: self.out(tasks)?,
            results: Vec::new(),
            right: PhantomData,
        }))
    }

    fn out(
        &self,
        tasks: &mut TaskBuilder<'_>,
    ) -> Result<crate::processor::Out<K, O>, crate::error::StreamsError> {
        let outlets = &self.outlets;
        let merge = tasks.relay(self.merge, |tasks| Ok(Forward(outlets.build(tasks)?)))?;
        Ok(crate::processor::Out::One(merge))
    }
}

impl<K: Send + 'static, V: Send + 'static> KStream<K, V> {
    /// The stream, sent through a topic if its key changed since it was partitioned.
    fn repartitioned_for_join(
        self,
        name: Option<String>,
        key: &SharedSerde<K>,
        value: &SharedSerde<V>,
    ) -> Self {
        if !self.repartition_required {
            return self;
        }
        let given = name.is_some();
        let base = name.unwrap_or_else(|| {
            let graph = self.graph.lock();
            graph.nodes.get(self.node).map(|node| node.name.clone()).unwrap_or_default()
        });
        // A name that the user gave to the operator before is a given one too.
        let given = given || !naming::is_generated(&base);
        self.repartition_with(
            RepartitionNames { base, given, partitions: None },
            Arc::clone(key),
            Arc::clone(value),
        )
    }

    /// Joins each record with its key's row, as it is when the record comes. Records without a row are left out. Result
    /// time: the record's. The table must be partitioned as the stream is.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let names = builder.table::<String, String>("names");
    ///     let clicks = builder.stream::<String, String>("clicks");
    ///     clicks.join_table(&names, |_key, click, name| format!("{name}: {click}"), "named").to("out");
    /// })
    /// .pipe("clicks", [("a", "early")])
    /// .pipe("names", [("a", "Ann")])
    /// .pipe("clicks", [("a", "buy")])
    /// .gives("out", [("a", "Ann: buy")]);
    /// ```
    pub fn join_table<T: Send + 'static, O: Send + 'static>(
        self,
        table: &KTable<K, T>,
        joiner: impl Fn(&K, V, &T) -> O + Send + Sync + 'static,
        joined: impl Into<Joined<K, V>>,
    ) -> KStream<K, O> {
        let joiner = move |key: &K, value: V, row: Option<&T>| row.map(|row| joiner(key, value, row));
        self.with_table(table, joiner, joined.into(), false)
    }

    /// As [`KStream::join_table`], and records without a row are results too.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let names = builder.table::<String, String>("names");
    ///     let clicks = builder.stream::<String, String>("clicks");
    ///     clicks.left_join_table(&names, |_key, click, name| format!("{}: {click}", name.map_or("?", String::as_str)), "named").to("out");
    /// })
    /// .pipe("clicks", [("a", "early")])
    /// .pipe("names", [("a", "Ann")])
    /// .pipe("clicks", [("a", "buy")])
    /// .gives("out", [("a", "?: early"), ("a", "Ann: buy")]);
    /// ```
    pub fn left_join_table<T: Send + 'static, O: Send + 'static>(
        self,
        table: &KTable<K, T>,
        joiner: impl Fn(&K, V, Option<&T>) -> O + Send + Sync + 'static,
        joined: impl Into<Joined<K, V>>,
    ) -> KStream<K, O> {
        let joiner = move |key: &K, value: V, row: Option<&T>| Some(joiner(key, value, row));
        self.with_table(table, joiner, joined.into(), true)
    }

    fn with_table<T: Send + 'static, O: Send + 'static>(
        self,
        table: &KTable<K, T>,
        joiner: impl Fn(&K, V, Option<&T>) -> Option<O> + Send + Sync + 'static,
        joined: Joined<K, V>,
        left: bool,
    ) -> KStream<K, O> {
        let stream = self.repartitioned_for_join(joined.name.clone(), &joined.key, &joined.value);
        let mut graph = stream.graph.lock();
        let prefix = if left { naming::LEFT_JOIN } else { naming::JOIN };
        let name = graph.name_or(joined.name, prefix);
        let foreign = !Arc::ptr_eq(&stream.graph, &table.graph);
        let stores = if foreign {
            graph.problems.push(TopologyError::ForeignStream { node: name.clone() });
            Vec::new()
        } else {
            graph.keep_rows(table.node)
        };
        let waiting = joined.grace.map(|grace| {
            let grace = millis(grace);
            if graph.history(table.node).is_none_or(|history| history < grace) {
                graph.problems.push(TopologyError::HistoryTooShort { node: name.clone(), grace_ms: grace });
            }
            let spec = StoreSpec { name: format!("{name}-Buffer"), logged: true, ..StoreSpec::default() };
            graph.stores.push(spec.clone());
            (spec, grace)
        });
        let stores = stores.into_iter().chain(waiting.iter().map(|(spec, _)| spec.name.clone())).collect();
        let node = graph.add_node(name, NodeKind::Processor { stores }, vec![stream.node]);
        graph.relaxed_null_keys.extend(left.then_some(node));
        if !foreign {
            graph.copartitioned.push(Copartitioned { node, sides: vec![stream.node, table.node] });
        }
        drop(graph);
        let outlets = Outlets::new();
        let (children, rows, joiner) = (Arc::clone(&outlets), Arc::clone(&table.getter), Arc::new(joiner));
        let (key, value) = (joined.key, joined.value);
        let factory = move |tasks: &mut TaskBuilder<'_>| {
            let join = StreamTableJoin {
                key: Arc::clone(&key),
                value: Arc::clone(&value),
                rows: rows(tasks)?,
                left,
                joiner: Arc::clone(&joiner),
                out: children.build(tasks)?,
            };
            let join: Box<dyn Node<K, V>> = match &waiting {
                Some((spec, grace)) => {
                    let buffer = tasks.join_buffer(spec, &key, &value)?;
                    Box::new(PatientJoin { buffer, grace: *grace, join })
                }
                None => Box::new(join),
            };
            Ok(join)
        };
        stream.outlets.attach(node, Arc::new(factory));
        KStream::new(&stream.graph, node, outlets, false)
    }
}

impl<K: Send + 'static, V: Clone + Send + 'static> KTable<K, V> {
    /// Joins rows of one key: there is a row while both tables have one. Result time: the later one's. Both tables must
    /// be partitioned alike.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let (names, towns) = (builder.table::<String, String>("names"), builder.table::<String, String>("towns"));
    ///     names.join(towns, |_key, name, town| format!("{name}, {town}"), "people").to_stream().to("out");
    /// })
    /// .pipe("names", [("a", "Ann")])
    /// .pipe("towns", [("a", "Oslo")])
    /// .gives("out", [("a", "Ann, Oslo")]);
    /// ```
    pub fn join<V2: Clone + Send + 'static, O: Clone + Send + 'static>(
        self,
        other: KTable<K, V2>,
        joiner: impl Fn(&K, &V, &V2) -> O + Send + Sync + 'static,
        joined: impl Into<TableJoined<K, O>>,
    ) -> KTable<K, O> {
        let both = move |key: &K, left: Option<&V>, right: Option<&V2>| Some(joiner(key, left?, right?));
        self.joined(other, both, joined.into(), TableJoinKind::Inner)
    }

    /// As [`KTable::join`], with a row wherever this table has one.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let (names, towns) = (builder.table::<String, String>("names"), builder.table::<String, String>("towns"));
    ///     names.left_join(towns, |_key, name, town| format!("{name}, {}", town.map_or("?", String::as_str)), "people").to_stream().to("out");
    /// })
    /// .pipe("names", [("a", "Ann")])
    /// .pipe("towns", [("a", "Oslo")])
    /// .gives("out", [("a", "Ann, ?"), ("a", "Ann, Oslo")]);
    /// ```
    pub fn left_join<V2: Clone + Send + 'static, O: Clone + Send + 'static>(
        self,
        other: KTable<K, V2>,
        joiner: impl Fn(&K, &V, Option<&V2>) -> O + Send + Sync + 'static,
        joined: impl Into<TableJoined<K, O>>,
    ) -> KTable<K, O> {
        let both = move |key: &K, left: Option<&V>, right: Option<&V2>| Some(joiner(key, left?, right));
        self.joined(other, both, joined.into(), TableJoinKind::Left)
    }

    /// As [`KTable::join`], with a row wherever either table has one.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let (names, towns) = (builder.table::<String, String>("names"), builder.table::<String, String>("towns"));
    ///     names.outer_join(towns, |_key, name, town| format!("{name:?}, {town:?}"), "people").to_stream().to("out");
    /// })
    /// .pipe("towns", [("a", "Oslo")])
    /// .gives("out", [("a", "None, Some(\"Oslo\")")]);
    /// ```
    pub fn outer_join<V2: Clone + Send + 'static, O: Clone + Send + 'static>(
        self,
        other: KTable<K, V2>,
        joiner: impl Fn(&K, Option<&V>, Option<&V2>) -> O + Send + Sync + 'static,
        joined: impl Into<TableJoined<K, O>>,
    ) -> KTable<K, O> {
        let both = move |key: &K, left: Option<&V>, right: Option<&V2>| Some(joiner(key, left, right));
        self.joined(other, both, joined.into(), TableJoinKind::Outer)
    }

    fn joined<V2, O, J>(
        self,
        other: KTable<K, V2>,
        joiner: J,
        joined: TableJoined<K, O>,
        kind: TableJoinKind,
    ) -> KTable<K, O>
    where
        V2: Clone + Send + 'static,
        O: Clone + Send + 'static,
        J: JoinBoth<K, V, V2, O>,
    {
        let foreign = !Arc::ptr_eq(&self.graph, &other.graph);
        let mut graph = self.graph.lock();
        let store = joined.store.map(|store| match &store.name {
            Some(_) => store,
            None => {
                let name = graph.generate_name(&format!("{}{}", naming::TABLE_MERGE, naming::STATE_STORE));
                store.named(name)
            }
        });
        let name = joined.name;
        let named = |suffix: &str| name.as_ref().map(|name| format!("{name}{suffix}"));
        let merge_name = graph.name_or(name.clone(), naming::TABLE_MERGE);
        let this_name = graph.name_or(named("-join-this"), naming::TABLE_JOIN_THIS);
        let other_name = graph.name_or(named("-join-other"), naming::TABLE_JOIN_OTHER);
        if foreign {
            graph.problems.push(TopologyError::ForeignStream { node: merge_name.clone() });
        }
        if matches!(kind, TableJoinKind::Left | TableJoinKind::Outer) {
            graph.send_old(self.node);
        }
        let (this_stores, other_stores) = match foreign {
            true => (Vec::new(), Vec::new()),
            false => {
                if kind == TableJoinKind::Outer {
                    graph.send_old(other.node);
                }
                (graph.keep_rows(self.node), graph.keep_rows(other.node))
            }
        };
        let other_parent = if foreign { self.node } else { other.node };
        let join_this =
            graph.add_node(this_name, NodeKind::Processor { stores: other_stores }, vec![self.node]);
        let join_other =
            graph.add_node(other_name, NodeKind::Processor { stores: this_stores }, vec![other_parent]);
        let stores = store.iter().filter_map(|store| store.name.clone()).collect();
        let merge = graph.add_node(merge_name, NodeKind::Processor { stores }, vec![join_this, join_other]);
        graph.copartitioned.push(Copartitioned { node: merge, sides: vec![self.node, other_parent] });
        let spec = store.as_ref().map(|store| store.spec(StoreKind::KeyValue));
        graph.stores.extend(spec.clone());
        graph.tables.insert(
            merge,
            TableInfo {
                store: spec,
                parents: vec![self.node, other_parent],
                old_from_parents: true,
                ..TableInfo::default()
            },
        );
        drop(graph);

        let outlets = Outlets::<K, Change<O>>::new();
        let joiner = Arc::new(joiner);
        let (children, kept) = (Arc::clone(&outlets), store.clone());
        let merged = Arc::new(move |tasks: &mut TaskBuilder<'_>| {
            tasks.relay(merge, |tasks| {
                let out = match &kept {
                    Some(store) => table_out(tasks, merge, store, false, &children)?,
                    None => TableOut {
                        store: None,
                        old_from_store: false,
                        forwarding: Forwarding { cached: false, send_old: tasks.table(merge).send_old },
                        out: children.build(tasks)?,
                    },
                };
                Ok(TableMerge(out))
            })
        });
        let key = Arc::clone(&joined.key);
        let other_kind = if kind == TableJoinKind::Left { TableJoinKind::Right } else { kind };
        attach_side(
            &self.outlets,
            join_this,
            merge,
            kind,
            &key,
            &other.getter,
            FromLeft(Arc::clone(&joiner)),
            &merged,
        );
        attach_side(
            &other.outlets,
            join_other,
            merge,
            other_kind,
            &key,
            &self.getter,
            FromRight(Arc::clone(&joiner)),
            &merged,
        );
        let serdes = match &store {
            Some(store) => Serdes::from(store),
            None => Serdes { key: Some(joined.key), value: None },
        };
        let getter: GetterFactory<K, O> = match store {
            Some(store) => store_getter(merge, store),
            None => {
                let (left, right) = (self.getter, other.getter);
                Arc::new(move |tasks: &mut TaskBuilder<'_>| {
                    let (left, right, joiner) = (left(tasks)?, right(tasks)?, Arc::clone(&joiner));
                    let getter: Getter<K, O> = Box::new(JoinGetter { left, right, kind, joiner });
                    Ok(getter)
                })
            }
        };
        KTable::new(&self.graph, merge, outlets, getter).with_serdes(serdes)
    }
}

type MergeFactory<K, O> = dyn Fn(&mut TaskBuilder<'_>) -> Result<Box<dyn Node<K, Change<O>>>, crate::error::StreamsError>
    + Send
    + Sync;

#[expect(clippy::too_many_arguments, reason = "both sides of a join, spelled out once each")]
fn attach_side<K, This, Other, O, J>(
    from: &Outlets<K, Change<This>>,
    node: usize,
    merge: usize,
    kind: TableJoinKind,
    key: &SharedSerde<K>,
    rows: &GetterFactory<K, Other>,
    joiner: J,
    merged: &Arc<
        impl Fn(&mut TaskBuilder<'_>) -> Result<Box<dyn Node<K, Change<O>>>, crate::error::StreamsError>
        + Send
        + Sync
        + 'static,
    >,
) where
    K: Send + 'static,
    This: Send + 'static,
    Other: Send + 'static,
    O: Send + 'static,
    J: JoinFrom<K, This, Other, O> + Clone + Sync,
{
    let (key, rows) = (Arc::clone(key), Arc::clone(rows));
    let merged: Arc<MergeFactory<K, O>> = Arc::clone(merged) as _;
    let factory = move |tasks: &mut TaskBuilder<'_>| {
        let side: Box<dyn Node<K, Change<This>>> = Box::new(TableJoinSide {
            kind,
            key: Arc::clone(&key),
            other: rows(tasks)?,
            send_old: tasks.table(merge).send_old,
            joiner: joiner.clone(),
            out: crate::processor::Out::One(merged(tasks)?),
        });
        Ok(side)
    };
    from.attach(node, Arc::new(factory));
}

/// How two tables are joined: the key's serde, a name, and a store for the result if it shall have one.
pub struct TableJoined<K, O> {
    name: Option<String>,
    key: SharedSerde<K>,
    store: Option<Store<K, O>>,
}

impl<K, O> TableJoined<K, O> {
    /// With a serde of one's own for keys and a generated name; rows are joined when they are asked for.
    pub fn with(key: SharedSerde<K>) -> Self {
        Self { name: None, key, store: None }
    }

    /// Names the operators.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Keeps the result in a store.
    pub fn kept_in(mut self, store: Store<K, O>) -> Self {
        self.store = Some(store);
        self
    }
}

impl<K: crate::serde::HasSerde, O> TableJoined<K, O> {
    /// With the type's own serde for keys and a generated name.
    pub fn auto() -> Self {
        Self::with(K::serde())
    }
}

impl<K: crate::serde::HasSerde, O> From<&str> for TableJoined<K, O> {
    fn from(name: &str) -> Self {
        Self::auto().named(name)
    }
}

impl<K, O> From<Store<K, O>> for TableJoined<K, O> {
    fn from(store: Store<K, O>) -> Self {
        Self::with(Arc::clone(&store.key)).kept_in(store)
    }
}
