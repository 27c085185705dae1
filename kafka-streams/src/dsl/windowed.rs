use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::grouped::Placed;
use super::table::Serdes;
use super::windows::millis;
use super::{Emit, KGroupedStream, KTable, SessionWindows, SlidingWindows, Store, Windowed, Windows};
use crate::error::{StreamsError, TopologyError};
use crate::processor::{
    Change, Closing, Forwarding, Merge, Node, Out, Outlets, SessionAggregate, SessionGetter,
    SlidingAggregate, TaskBuilder, WindowAggregate, WindowGetter, WindowUpdate, WindowedOut,
};
use crate::serde::SharedSerde;
use crate::topology::{StoreKind, naming};

/// An initial value and what a record adds to it.
pub(super) struct Fold<I, F> {
    pub(super) initial: I,
    pub(super) add: F,
}

impl<K, V, A, I, F> WindowUpdate<K, V, A> for Fold<I, F>
where
    I: Fn() -> Option<A> + Send + Sync + 'static,
    F: Fn(&K, &V, Option<A>) -> A + Send + Sync + 'static,
{
    fn initial(&self) -> Option<A> {
        (self.initial)()
    }

    fn update(&self, key: &K, value: &V, row: Option<A>) -> A {
        let row = row.or_else(&self.initial);
        (self.add)(key, value, row)
    }
}

/// A fold whose results can be merged.
pub(super) struct MergeFold<I, F, M> {
    pub(super) fold: Fold<I, F>,
    pub(super) merge: M,
}

impl<K, V, A, I, F, M> WindowUpdate<K, V, A> for MergeFold<I, F, M>
where
    I: Fn() -> Option<A> + Send + Sync + 'static,
    F: Fn(&K, &V, Option<A>) -> A + Send + Sync + 'static,
    M: Send + Sync + 'static,
{
    fn initial(&self) -> Option<A> {
        (self.fold.initial)()
    }

    fn update(&self, key: &K, value: &V, row: Option<A>) -> A {
        (self.fold.add)(key, value, row)
    }
}

impl<K, V, A, I, F, M> Merge<K, V, A> for MergeFold<I, F, M>
where
    I: Fn() -> Option<A> + Send + Sync + 'static,
    F: Fn(&K, &V, Option<A>) -> A + Send + Sync + 'static,
    M: Fn(&K, Option<A>, A) -> A + Send + Sync + 'static,
{
    fn merge(&self, key: &K, merged: Option<A>, session: A) -> A {
        (self.merge)(key, merged, session)
    }
}

/// Windows that a grouped stream can be cut into.
pub trait WindowedBy<K, V> {
    /// The stream that is cut so.
    type Stream;

    /// Cuts the stream.
    fn cut(self, grouped: KGroupedStream<K, V>) -> Self::Stream;
}

impl<K, V, W: Windows> WindowedBy<K, V> for W {
    type Stream = TimeWindowedKStream<K, V, W>;

    fn cut(self, grouped: KGroupedStream<K, V>) -> Self::Stream {
        TimeWindowedKStream { grouped, windows: self, emit: Emit::OnUpdate }
    }
}

impl<K, V> WindowedBy<K, V> for SlidingWindows {
    type Stream = SlidingWindowedKStream<K, V>;

    fn cut(self, grouped: KGroupedStream<K, V>) -> Self::Stream {
        SlidingWindowedKStream { grouped, windows: self, emit: Emit::OnUpdate }
    }
}

impl<K, V> WindowedBy<K, V> for SessionWindows {
    type Stream = SessionWindowedKStream<K, V>;

    fn cut(self, grouped: KGroupedStream<K, V>) -> Self::Stream {
        SessionWindowedKStream { grouped, windows: self, emit: Emit::OnUpdate }
    }
}

impl<K, V> KGroupedStream<K, V> {
    /// Cuts each key's records by time: [`super::TimeWindows`], [`super::UnlimitedWindows`], [`SlidingWindows`],
    /// [`SessionWindows`], or windows of one's own.
    ///
    /// ```
    /// use std::time::Duration;
    /// use kafka_streams::{Grouped, TimeWindows, Store};
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let groups = builder.stream::<String, i64>("in").group_by_key(Grouped::auto());
    ///     groups.windowed_by(TimeWindows::tumbling(Duration::from_millis(10))).count(Store::window("counts")).to_stream().map(|window, n| (format!("{} from {}", window.key, window.start), n)).to("out");
    /// })
    /// .pipe_at(3, "in", [("a", 7), ("a", 8)])
    /// .pipe_at(12, "in", [("a", 9)])
    /// .gives("out", [("a from 0", 1), ("a from 0", 2), ("a from 10", 1)]);
    /// ```
    pub fn windowed_by<W: WindowedBy<K, V>>(self, windows: W) -> W::Stream {
        windows.cut(self)
    }
}

macro_rules! windowed_stream {
    ($(#[$doc:meta])* $type:ident $(<$w:ident>)?, $windows:ty) => {
        $(#[$doc])*
        #[must_use = "a windowed stream does nothing until it is aggregated"]
        pub struct $type<K, V $(, $w)?> {
            grouped: KGroupedStream<K, V>,
            windows: $windows,
            emit: Emit,
        }

        impl<K, V $(, $w)?> std::fmt::Debug for $type<K, V $(, $w)?> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($type)).field("emit", &self.emit).finish_non_exhaustive()
            }
        }

        impl<K, V $(, $w)?> $type<K, V $(, $w)?> {
            /// When results are forwarded (`emitStrategy`). Default: [`Emit::OnUpdate`].
            ///
            /// ```
            /// use std::time::Duration;
            /// use kafka_streams::{Emit, Grouped, TimeWindows, Store};
            /// use kafka_streams::testing::Example;
            ///
            /// Example::of(|builder| {
            ///     let groups = builder.stream::<String, i64>("in").group_by_key(Grouped::auto());
            ///     let windows = groups.windowed_by(TimeWindows::tumbling(Duration::from_millis(10)));
            ///     // One result for each window, once it is over.
            ///     windows.emit(Emit::OnClose).count(Store::window("counts")).to_stream().map(|window, n| (format!("{} from {}", window.key, window.start), n)).to("out");
            /// })
            /// .pipe_at(3, "in", [("a", 7), ("a", 8)])
            /// .pipe_at(12, "in", [("a", 9)])
            /// .gives("out", [("a from 0", 2)]);
            /// ```
            pub fn emit(self, emit: Emit) -> Self {
                Self { emit, ..self }
            }
        }
    };
}

windowed_stream!(
    /// A grouped stream cut into windows that follow from timestamps (`TimeWindowedKStream`).
    TimeWindowedKStream<W>, W
);
windowed_stream!(
    /// A grouped stream cut into sliding windows.
    SlidingWindowedKStream, SlidingWindows
);
windowed_stream!(
    /// A grouped stream cut into sessions (`SessionWindowedKStream`).
    SessionWindowedKStream, SessionWindows
);

/// `count`, `reduce` and `aggregate`, which differ only in what they call.
macro_rules! folds {
    ($type:ident $(<$w:ident: $bound:ident>)?) => {
        impl<K, V $(, $w: $bound)?> $type<K, V $(, $w)?>
        where
            K: Clone + Send + 'static,
            V: Send + 'static,
        {
            /// How many records each key has in each window.
            ///
            /// ```
            /// use std::time::Duration;
            /// use kafka_streams::{Grouped, TimeWindows, Store};
            /// use kafka_streams::testing::Example;
            ///
            /// Example::of(|builder| {
            ///     let groups = builder.stream::<String, i64>("in").group_by_key(Grouped::auto());
            ///     groups.windowed_by(TimeWindows::tumbling(Duration::from_millis(10))).count(Store::window("counts")).to_stream().map(|window, n| (format!("{} from {}", window.key, window.start), n)).to("out");
            /// })
            /// .pipe_at(3, "in", [("a", 7), ("a", 8)])
            /// .pipe_at(12, "in", [("a", 9)])
            /// .gives("out", [("a from 0", 1), ("a from 0", 2), ("a from 10", 1)]);
            /// ```
            pub fn count(self, store: Store<K, i64>) -> KTable<Windowed<K>, i64> {
                let add = |_: &K, _: &V, count: Option<i64>| count.unwrap_or(0).wrapping_add(1);
                self.folded(naming::AGGREGATE, store, Fold { initial: || Some(0), add })
            }

            /// Combines the values of each key and window two by two: the result so far and the next value.
            ///
            /// ```
            /// use std::time::Duration;
            /// use kafka_streams::{Grouped, TimeWindows, Store};
            /// use kafka_streams::testing::Example;
            ///
            /// Example::of(|builder| {
            ///     let groups = builder.stream::<String, i64>("in").group_by_key(Grouped::auto());
            ///     let windows = groups.windowed_by(TimeWindows::tumbling(Duration::from_millis(10)));
            ///     windows.reduce(|sum, n| sum + n, Store::window("sums")).to_stream().map(|window, n| (format!("{} from {}", window.key, window.start), n)).to("out");
            /// })
            /// .pipe_at(3, "in", [("a", 7), ("a", 8)])
            /// .pipe_at(12, "in", [("a", 9)])
            /// .gives("out", [("a from 0", 7), ("a from 0", 15), ("a from 10", 9)]);
            /// ```
            pub fn reduce(
                self,
                combine: impl Fn(V, V) -> V + Send + Sync + 'static,
                store: Store<K, V>,
            ) -> KTable<Windowed<K>, V>
            where
                V: Clone,
            {
                let add = move |_: &K, value: &V, row: Option<V>| match row {
                    Some(row) => combine(row, value.clone()),
                    None => value.clone(),
                };
                self.folded(naming::REDUCE, store, Fold { initial: || None, add })
            }

            /// Folds the values of each key and window into an accumulator that begins as `initial()`.
            ///
            /// ```
            /// use std::time::Duration;
            /// use kafka_streams::{Grouped, TimeWindows, Store};
            /// use kafka_streams::testing::Example;
            ///
            /// Example::of(|builder| {
            ///     let groups = builder.stream::<String, i64>("in").group_by_key(Grouped::auto());
            ///     let windows = groups.windowed_by(TimeWindows::tumbling(Duration::from_millis(10)));
            ///     windows.aggregate(|| 0i64, |_key, n, sum| *sum += n, Store::window("sums")).to_stream().map(|window, n| (format!("{} from {}", window.key, window.start), n)).to("out");
            /// })
            /// .pipe_at(3, "in", [("a", 7), ("a", 8)])
            /// .pipe_at(12, "in", [("a", 9)])
            /// .gives("out", [("a from 0", 7), ("a from 0", 15), ("a from 10", 9)]);
            /// ```
            pub fn aggregate<A: Clone + Send + 'static>(
                self,
                initial: impl Fn() -> A + Send + Sync + 'static,
                add: impl Fn(&K, &V, &mut A) + Send + Sync + 'static,
                store: Store<K, A>,
            ) -> KTable<Windowed<K>, A> {
                let initial = Arc::new(initial);
                let begin = Arc::clone(&initial);
                let add = move |key: &K, value: &V, row: Option<A>| {
                    let mut row = row.unwrap_or_else(&*begin);
                    add(key, value, &mut row);
                    row
                };
                self.folded(naming::AGGREGATE, store, Fold { initial: move || Some(initial()), add })
            }
        }
    };
}

folds!(TimeWindowedKStream<W: Windows>);
folds!(SlidingWindowedKStream);

/// How long rows are kept: as long as they can change, and longer if asked for.
fn retention<K, V>(
    grouped: &KGroupedStream<K, V>,
    asked: Option<std::time::Duration>,
    needed: i64,
    what: &str,
) -> i64 {
    let Some(asked) = asked.map(millis) else { return needed };
    if asked < needed {
        let problem = TopologyError::RetentionTooShort {
            node: what.to_owned(),
            retention_ms: asked,
            needed_ms: needed,
        };
        grouped.stream.graph.lock().problems.push(problem);
    }
    asked.max(needed)
}

fn window_table<K, A>(
    placed: Placed<K, impl Send + 'static, A>,
    outlets: Arc<Outlets<Windowed<K>, Change<A>>>,
    size_ms: i64,
    grace_ms: i64,
) -> KTable<Windowed<K>, A>
where
    K: Clone + Send + 'static,
    A: Clone + Send + 'static,
{
    let (node, store) = (placed.node, placed.store);
    if let Some(info) = placed.stream.graph.lock().tables.get_mut(&node) {
        info.window_grace = Some(grace_ms);
    }
    let size = Duration::from_millis(u64::try_from(size_ms).unwrap_or(0));
    let key = Windowed::time_serde(Arc::clone(&store.key), size);
    let serdes = Serdes { key: Some(key), value: Some(Arc::clone(&store.value)) };
    let getter = move |tasks: &mut TaskBuilder<'_>| {
        let spec = tasks.table(node).store.unwrap_or_default();
        Ok(WindowGetter::boxed(tasks.window(&spec, &store.key, &store.value)?))
    };
    KTable::new(&placed.stream.graph, node, outlets, Arc::new(getter)).with_serdes(serdes)
}

fn windowed_out<K, A>(
    tasks: &mut TaskBuilder<'_>,
    node: usize,
    store: &Store<K, A>,
    emit: Emit,
    out: Out<Windowed<K>, Change<A>>,
) -> Result<WindowedOut<K, A>, StreamsError>
where
    K: Clone + Send + 'static,
    A: Clone + Send + 'static,
{
    let info = tasks.table(node);
    let spec = info.store.unwrap_or_default();
    Ok(WindowedOut {
        store: tasks.window(&spec, &store.key, &store.value)?,
        key: Arc::clone(&store.key),
        forwarding: Forwarding { cached: store.is_cached(), send_old: info.send_old },
        emit,
        observed: -1,
        closing: Closing::default(),
        out,
    })
}

/// A node that aggregates by windows, for the table `node`.
pub(super) fn time_aggregate<K, V, A, U, W>(
    tasks: &mut TaskBuilder<'_>,
    node: usize,
    (store, emit): (&Store<K, A>, Emit),
    windows: Arc<W>,
    update: Arc<U>,
    out: Out<Windowed<K>, Change<A>>,
) -> Result<Box<dyn Node<K, V>>, StreamsError>
where
    K: Clone + Send + 'static,
    V: Send + 'static,
    A: Clone + Send + 'static,
    U: WindowUpdate<K, V, A>,
    W: Windows,
{
    let out = windowed_out(tasks, node, store, emit, out)?;
    let aggregate = WindowAggregate { windows, update, out, matched: Vec::new(), values: PhantomData };
    Ok(tasks.called_if(store.is_cached(), aggregate))
}

/// As [`time_aggregate`], by sliding windows.
pub(super) fn sliding_aggregate<K, V, A, U>(
    tasks: &mut TaskBuilder<'_>,
    node: usize,
    (store, emit): (&Store<K, A>, Emit),
    (windows, value): (SlidingWindows, &SharedSerde<V>),
    update: Arc<U>,
    out: Out<Windowed<K>, Change<A>>,
) -> Result<Box<dyn Node<K, V>>, StreamsError>
where
    K: Clone + Send + 'static,
    V: Send + 'static,
    A: Clone + Send + 'static,
    U: WindowUpdate<K, V, A>,
{
    let out = windowed_out(tasks, node, store, emit, out)?;
    let value = Arc::clone(value);
    Ok(tasks.called_if(store.is_cached(), SlidingAggregate { windows, value, update, out }))
}

/// As [`time_aggregate`], by sessions.
pub(super) fn session_aggregate<K, V, A, U>(
    tasks: &mut TaskBuilder<'_>,
    node: usize,
    (store, emit): (&Store<K, A>, Emit),
    windows: SessionWindows,
    update: Arc<U>,
    out: Out<Windowed<K>, Change<A>>,
) -> Result<Box<dyn Node<K, V>>, StreamsError>
where
    K: Clone + Send + 'static,
    V: Send + 'static,
    A: Clone + Send + 'static,
    U: Merge<K, V, A>,
{
    let info = tasks.table(node);
    let spec = info.store.unwrap_or_default();
    let aggregate = SessionAggregate {
        store: tasks.session(&spec, &store.key, &store.value)?,
        key: Arc::clone(&store.key),
        windows,
        update,
        forwarding: Forwarding { cached: store.is_cached(), send_old: info.send_old },
        emit,
        observed: -1,
        open: BTreeMap::new(),
        knows_restored: false,
        out,
        values: PhantomData,
    };
    Ok(tasks.called_if(store.is_cached(), aggregate))
}

impl<K: Clone + Send + 'static, V: Send + 'static, W: Windows> TimeWindowedKStream<K, V, W> {
    fn folded<A: Clone + Send + 'static, U: WindowUpdate<K, V, A>>(
        self,
        prefix: &str,
        store: Store<K, A>,
        update: U,
    ) -> KTable<Windowed<K>, A> {
        let Self { grouped, windows, emit } = self;
        let needed = windows.size_ms().saturating_add(windows.grace_ms());
        let retention_ms = retention(&grouped, store.retention, needed, "a windowed aggregate");
        let placed = grouped.place(
            store,
            prefix,
            StoreKind::Window { retention_ms, retain_duplicates: false, scanned: false },
        );
        let outlets = Outlets::new();
        let (children, kept, node) = (Arc::clone(&outlets), placed.store.clone(), placed.node);
        let (size_ms, grace_ms) = (windows.size_ms(), windows.grace_ms());
        let (windows, update) = (Arc::new(windows), Arc::new(update));
        let factory = move |tasks: &mut TaskBuilder<'_>| {
            let out = children.build(tasks)?;
            time_aggregate(tasks, node, (&kept, emit), Arc::clone(&windows), Arc::clone(&update), out)
        };
        placed.stream.outlets.attach(node, Arc::new(factory));
        window_table(placed, outlets, size_ms, grace_ms)
    }
}

impl<K: Clone + Send + 'static, V: Send + 'static> SlidingWindowedKStream<K, V> {
    fn folded<A: Clone + Send + 'static, U: WindowUpdate<K, V, A>>(
        self,
        prefix: &str,
        store: Store<K, A>,
        update: U,
    ) -> KTable<Windowed<K>, A> {
        let Self { grouped, windows, emit } = self;
        let needed = windows.difference.saturating_mul(2).saturating_add(windows.grace);
        let retention_ms = retention(&grouped, store.retention, needed, "an aggregate of sliding windows");
        let value: SharedSerde<V> = Arc::clone(&grouped.grouped.value);
        let placed = grouped.place(
            store,
            prefix,
            StoreKind::Window { retention_ms, retain_duplicates: false, scanned: true },
        );
        let outlets = Outlets::new();
        let (children, kept, node) = (Arc::clone(&outlets), placed.store.clone(), placed.node);
        let update = Arc::new(update);
        let factory = move |tasks: &mut TaskBuilder<'_>| {
            let out = children.build(tasks)?;
            sliding_aggregate(tasks, node, (&kept, emit), (windows, &value), Arc::clone(&update), out)
        };
        placed.stream.outlets.attach(node, Arc::new(factory));
        window_table(placed, outlets, windows.difference, windows.grace)
    }
}

impl<K: Clone + Send + 'static, V: Send + 'static> SessionWindowedKStream<K, V> {
    /// How many records each session has.
    ///
    /// ```
    /// use std::time::Duration;
    /// use kafka_streams::{Grouped, SessionWindows, Store};
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let groups = builder.stream::<String, i64>("in").group_by_key(Grouped::auto());
    ///     groups.windowed_by(SessionWindows::gap(Duration::from_millis(5))).count(Store::session("counts")).to_stream().map(|window, n| (format!("{} from {}", window.key, window.start), n)).to("out");
    /// })
    /// .pipe_at(3, "in", [("a", 7), ("a", 8)])
    /// .pipe_at(12, "in", [("a", 9)])
    /// .gives("out", [("a from 3", Some(1)), ("a from 3", Some(2)), ("a from 12", Some(1))]);
    /// ```
    pub fn count(self, store: Store<K, i64>) -> KTable<Windowed<K>, i64> {
        let add = |_: &K, _: &V, count: Option<i64>| count.unwrap_or(0).wrapping_add(1);
        let merge = |_: &K, merged: Option<i64>, session: i64| merged.unwrap_or(0).wrapping_add(session);
        self.folded(naming::AGGREGATE, store, MergeFold { fold: Fold { initial: || Some(0), add }, merge })
    }

    /// Combines the values of each session two by two, and sessions that become one: the earlier and the later.
    ///
    /// ```
    /// use std::time::Duration;
    /// use kafka_streams::{Grouped, SessionWindows, Store};
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let groups = builder.stream::<String, i64>("in").group_by_key(Grouped::auto());
    ///     let sessions = groups.windowed_by(SessionWindows::gap(Duration::from_millis(5)));
    ///     sessions.reduce(|sum, n| sum + n, Store::session("sums"))
    ///         .to_stream().map(|window, n| (format!("{} from {}", window.key, window.start), n)).to("out");
    /// })
    /// .pipe_at(3, "in", [("a", 7)])
    /// .pipe_at(4, "in", [("a", 1)])
    /// .gives("out", [("a from 3", Some(7)), ("a from 3", None), ("a from 3", Some(8))]);
    /// ```
    pub fn reduce(
        self,
        combine: impl Fn(V, V) -> V + Send + Sync + 'static,
        store: Store<K, V>,
    ) -> KTable<Windowed<K>, V>
    where
        V: Clone,
    {
        let combine = Arc::new(combine);
        let both = Arc::clone(&combine);
        let add = move |_: &K, value: &V, row: Option<V>| match row {
            Some(row) => combine(row, value.clone()),
            None => value.clone(),
        };
        let merge = move |_: &K, merged: Option<V>, session: V| match merged {
            Some(merged) => both(merged, session),
            None => session,
        };
        self.folded(naming::REDUCE, store, MergeFold { fold: Fold { initial: || None, add }, merge })
    }

    /// Folds the values of each session into an accumulator that begins as `initial()`; `merge` adds a later session's to
    /// an earlier one's when a record joins them.
    ///
    /// ```
    /// use std::time::Duration;
    /// use kafka_streams::{Grouped, SessionWindows, Store};
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let groups = builder.stream::<String, i64>("in").group_by_key(Grouped::auto());
    ///     let sessions = groups.windowed_by(SessionWindows::gap(Duration::from_millis(5)));
    ///     let sums = sessions.aggregate(
    ///         || 0i64,
    ///         |_key, n, sum| *sum += n,
    ///         // Two sessions become one.
    ///         |_key, sum, other| *sum += other,
    ///         Store::session("sums"),
    ///     );
    ///     sums.to_stream().map(|window, n| (format!("{} from {}", window.key, window.start), n)).to("out");
    /// })
    /// .pipe_at(3, "in", [("a", 7)])
    /// .gives("out", [("a from 3", 7)]);
    /// ```
    pub fn aggregate<A: Clone + Send + 'static>(
        self,
        initial: impl Fn() -> A + Send + Sync + 'static,
        add: impl Fn(&K, &V, &mut A) + Send + Sync + 'static,
        merge: impl Fn(&K, &mut A, A) + Send + Sync + 'static,
        store: Store<K, A>,
    ) -> KTable<Windowed<K>, A> {
        let initial = Arc::new(initial);
        let (begin, empty) = (Arc::clone(&initial), Arc::clone(&initial));
        let add = move |key: &K, value: &V, row: Option<A>| {
            let mut row = row.unwrap_or_else(&*begin);
            add(key, value, &mut row);
            row
        };
        let merge = move |key: &K, merged: Option<A>, session: A| {
            let mut merged = merged.unwrap_or_else(&*empty);
            merge(key, &mut merged, session);
            merged
        };
        let fold = Fold { initial: move || Some(initial()), add };
        self.folded(naming::AGGREGATE, store, MergeFold { fold, merge })
    }

    fn folded<A: Clone + Send + 'static, U: Merge<K, V, A>>(
        self,
        prefix: &str,
        store: Store<K, A>,
        update: U,
    ) -> KTable<Windowed<K>, A> {
        let Self { grouped, windows, emit } = self;
        let needed = windows.gap.saturating_add(windows.grace);
        let retention_ms = retention(&grouped, store.retention, needed, "an aggregate of sessions");
        let placed = grouped.place(store, prefix, StoreKind::Session { retention_ms });
        let outlets = Outlets::new();
        let (children, kept, node) = (Arc::clone(&outlets), placed.store.clone(), placed.node);
        let update = Arc::new(update);
        let factory = move |tasks: &mut TaskBuilder<'_>| {
            let out = children.build(tasks)?;
            session_aggregate(tasks, node, (&kept, emit), windows, Arc::clone(&update), out)
        };
        placed.stream.outlets.attach(node, Arc::new(factory));
        let store = placed.store;
        if let Some(info) = placed.stream.graph.lock().tables.get_mut(&node) {
            info.window_grace = Some(windows.gap.saturating_add(windows.grace));
        }
        let serdes = Serdes {
            key: Some(Windowed::session_serde(Arc::clone(&store.key))),
            value: Some(Arc::clone(&store.value)),
        };
        let getter = move |tasks: &mut TaskBuilder<'_>| {
            let spec = tasks.table(node).store.unwrap_or_default();
            let getter: crate::processor::Getter<Windowed<K>, A> =
                Box::new(SessionGetter(tasks.session(&spec, &store.key, &store.value)?));
            Ok(getter)
        };
        KTable::new(&placed.stream.graph, node, outlets, Arc::new(getter)).with_serdes(serdes)
    }
}
