//! Our side: a spec becomes a topology of kafka-streams, and runs in its test driver.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;
use kafka_client::wire::record_batch::Header;
use kafka_streams::serde::{HasSerde, SharedSerde};
use kafka_streams::testing::TestDriver;
use kafka_streams::{
    BufferConfig, ChangelogRecords, Consumed, Emit, Grouped, JoinWindows, Joined, KGroupedStream,
    KGroupedTable, KStream, KTable, Produced, SessionWindowedKStream, SessionWindows, SlidingWindowedKStream,
    SlidingWindows, Store, StreamJoined, StreamsBuilder, Suppressed, TableJoined, TimeWindowedKStream,
    TimeWindows, UnlimitedWindows, Windowed,
};
use serde_json::{Map, Value as Json, json};

use crate::library::{Kind, Library, Values};
use crate::spec;
use crate::value::{Cell, Env, Val, eval, truth};

/// Why a spec was not run.
#[derive(Debug)]
pub(crate) enum Unable {
    /// It asks for what kafka-streams does not have.
    NotBuilt(String),
    /// It means nothing: an operator on a handle that cannot have it.
    Bad(String),
}

type Made<T> = Result<T, Unable>;

struct Stream<K, V> {
    stream: KStream<K, V>,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
}

struct Table<K, V> {
    table: KTable<K, V>,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
}

/// What can be done with a stream of any types.
trait StreamOps {
    fn filter(&self, op: &Json, keep: bool) -> Handle;
    fn map_values(&self, op: &Json) -> Handle;
    fn map(&self, op: &Json) -> Handle;
    fn select_key(&self, op: &Json) -> Handle;
    fn flat_map(&self, op: &Json) -> Handle;
    fn flat_map_values(&self, op: &Json) -> Handle;
    fn peek(&self, op: &Json) -> Handle;
    fn to(&self, op: &Json) -> Made<()>;
    /// The stream, if its keys and values are plain.
    fn plain(&self) -> Option<KStream<Val, Val>> {
        None
    }
}

/// What can be done with a table of any types.
trait TableOps {
    fn filter(&self, op: &Json, keep: bool) -> Made<Handle>;
    fn map_values(&self, op: &Json) -> Made<Handle>;
    fn to_stream(&self, op: &Json) -> Handle;
    fn group_by(&self, op: &Json) -> Handle;
    fn suppress(&self, op: &Json) -> Made<Handle>;
    fn plain(&self) -> Option<KTable<Val, Val>> {
        None
    }
}

enum Handle {
    Stream(Box<dyn StreamOps>),
    Table(Box<dyn TableOps>),
    Grouped(KGroupedStream<Val, Val>),
    GroupedTable(KGroupedTable<Val, Val>),
    Time(TimeWindowedKStream<Val, Val, TimeWindows>, Duration),
    Unlimited(TimeWindowedKStream<Val, Val, UnlimitedWindows>),
    Sliding(SlidingWindowedKStream<Val, Val>, Duration),
    Session(SessionWindowedKStream<Val, Val>),
}

fn stream<K: Cell, V: Cell>(stream: KStream<K, V>, key: SharedSerde<K>, value: SharedSerde<V>) -> Handle
where
    Stream<K, V>: StreamOps,
{
    Handle::Stream(Box::new(Stream { stream, key, value }))
}

fn plain_stream(of: KStream<Val, Val>) -> Handle {
    Handle::Stream(Box::new(Stream { stream: of, key: Val::serde(), value: Val::serde() }))
}

fn plain_table(of: KTable<Val, Val>) -> Handle {
    Handle::Table(Box::new(Table { table: of, key: Val::serde(), value: Val::serde() }))
}

/// An expression of an operator as a closure of key and value.
fn of_pair<K: Cell, V: Cell>(op: &Json, field: &str) -> impl Fn(&K, &V) -> Val + Send + Sync + 'static {
    let expression = op.get(field).cloned().unwrap_or(Json::Null);
    move |key, value| {
        let (key, value) = (key.val(), value.val());
        eval(&expression, Env { key: Some(&key), val: Some(&value), ..Env::default() })
    }
}

/// An expression as a closure of two or three values: of (key, agg, val) or (key, val, other).
fn of_fold(op: &Json, field: &str) -> impl Fn(&Val, &Val, &Val) -> Val + Send + Sync + 'static {
    let expression = op.get(field).cloned().unwrap_or(Json::Null);
    move |key, agg, val| {
        eval(&expression, Env { key: Some(key), val: Some(val), agg: Some(agg), ..Env::default() })
    }
}

fn of_merge(op: &Json) -> impl Fn(&Val, &Val, &Val) -> Val + Send + Sync + 'static {
    let expression = op.get("merge").cloned().unwrap_or(Json::Null);
    move |key, agg, other| {
        eval(&expression, Env { key: Some(key), agg: Some(agg), other: Some(other), ..Env::default() })
    }
}

fn of_join(op: &Json) -> impl Fn(&Val, Option<&Val>, Option<&Val>) -> Val + Send + Sync + 'static {
    let expression = op.get("fn").cloned().unwrap_or(Json::Null);
    move |key, val, other| eval(&expression, Env { key: Some(key), val, other, ..Env::default() })
}

fn initial(op: &Json) -> impl Fn() -> Val + Send + Sync + 'static {
    let expression = op.get("init").cloned().unwrap_or(Json::Null);
    move || eval(&expression, Env::default())
}

fn name(op: &Json) -> Option<&str> {
    op.get("name").and_then(Json::as_str)
}

fn ms(op: &Json, field: &str) -> Duration {
    Duration::from_millis(op.get(field).and_then(Json::as_u64).unwrap_or(0))
}

fn store<V: HasSerde>(op: &Json) -> Made<Store<Val, V>> {
    let store = op.get("store").unwrap_or(&Json::Null);
    if store.get("versioned").is_some() {
        return Err(Unable::NotBuilt("versioned stores".to_owned()));
    }
    let mut made = Store::auto();
    if let Some(name) = name(store) {
        made = made.named(name);
    }
    if store.get("caching") == Some(&Json::Bool(true)) {
        made = made.cached();
    }
    if store.get("logging") == Some(&Json::Bool(false)) {
        made = made.without_changelog();
    }
    if store.get("retention").is_some() {
        made = made.retention(ms(store, "retention"));
    }
    Ok(made)
}

fn stream_named<K: Send + 'static, V: Send + 'static>(of: KStream<K, V>, op: &Json) -> KStream<K, V> {
    match name(op) {
        Some(name) => of.named(name),
        None => of,
    }
}

fn table_named<K: Send + 'static, V: Send + 'static>(of: KTable<K, V>, op: &Json) -> KTable<K, V> {
    match name(op) {
        Some(name) => of.named(name),
        None => of,
    }
}

/// The operators that are the same for all types; `plain` is said for the plain ones only.
macro_rules! stream_ops {
    ($key:ty, $value:ty $(, $plain:item)?) => {
        impl StreamOps for Stream<$key, $value> {
            fn filter(&self, op: &Json, keep: bool) -> Handle {
                let test = of_pair::<$key, $value>(op, "if");
                let test = move |key: &$key, value: &$value| truth(&test(key, value));
                let of = self.stream.clone();
                let of = if keep { of.filter(test) } else { of.filter_not(test) };
                stream(stream_named(of, op), self.key.clone(), self.value.clone())
            }

            fn map_values(&self, op: &Json) -> Handle {
                let map = of_pair::<$key, $value>(op, "value");
                let of = self.stream.clone().map_values(move |key, value| map(key, &value));
                stream(stream_named(of, op), self.key.clone(), Val::serde())
            }

            fn map(&self, op: &Json) -> Handle {
                let (keys, values) = (of_pair::<$key, $value>(op, "key"), of_pair::<$key, $value>(op, "value"));
                let of = self.stream.clone().map(move |key, value| (keys(&key, &value), values(&key, &value)));
                plain_stream(stream_named(of, op))
            }

            fn select_key(&self, op: &Json) -> Handle {
                let of = self.stream.clone().select_key(of_pair::<$key, $value>(op, "key"));
                stream(stream_named(of, op), Val::serde(), self.value.clone())
            }

            fn flat_map(&self, op: &Json) -> Handle {
                let pairs = op.get("pairs").cloned().unwrap_or(Json::Null);
                let of = self.stream.clone().flat_map(move |key: $key, value: $value| {
                    let (key, value) = (key.val(), value.val());
                    let env = Env { key: Some(&key), val: Some(&value), ..Env::default() };
                    let pairs = spec::items(&pairs).iter();
                    pairs.map(|pair| (eval(&pair[0], env), eval(&pair[1], env))).collect::<Vec<_>>()
                });
                plain_stream(stream_named(of, op))
            }

            fn flat_map_values(&self, op: &Json) -> Handle {
                let values = op.get("values").cloned().unwrap_or(Json::Null);
                let of = self.stream.clone().flat_map_values(move |key: &$key, value: $value| {
                    let (key, value) = (key.val(), value.val());
                    let env = Env { key: Some(&key), val: Some(&value), ..Env::default() };
                    spec::items(&values).iter().map(|each| eval(each, env)).collect::<Vec<_>>()
                });
                stream(stream_named(of, op), self.key.clone(), Val::serde())
            }

            fn peek(&self, op: &Json) -> Handle {
                let of = self.stream.clone().peek(|_, _| {});
                stream(stream_named(of, op), self.key.clone(), self.value.clone())
            }

            fn to(&self, op: &Json) -> Made<()> {
                let Some(topic) = op.get("topic").and_then(Json::as_str) else {
                    return Err(Unable::NotBuilt("dynamic topics".to_owned()));
                };
                let produced = Produced::with(topic, self.key.clone(), self.value.clone());
                self.stream.clone().to(match name(op) {
                    Some(name) => produced.named(name),
                    None => produced,
                });
                Ok(())
            }

            $($plain)?
        }
    };
}

stream_ops!(
    Val,
    Val,
    fn plain(&self) -> Option<KStream<Val, Val>> {
        Some(self.stream.clone())
    }
);
stream_ops!(Val, Option<Val>);
stream_ops!(Val, Option<i64>);
stream_ops!(Windowed<Val>, Val);
stream_ops!(Windowed<Val>, Option<Val>);
stream_ops!(Windowed<Val>, Option<i64>);

macro_rules! table_ops {
    ($key:ty, $value:ty, |$filtered:ident, $filter_op:ident, $test:ident, $keep:ident| $filter:expr,
     |$mapped:ident, $map_op:ident, $map:ident| $map_values:expr, $closes:expr $(, $plain:item)?) => {
        impl TableOps for Table<$key, $value> {
            fn filter(&self, $filter_op: &Json, $keep: bool) -> Made<Handle> {
                let test = of_pair::<$key, $value>($filter_op, "if");
                let $test = move |key: &$key, value: &$value| truth(&test(key, value));
                let $filtered = self.table.clone();
                let table = table_named($filter, $filter_op);
                Ok(Handle::Table(Box::new(Table { table, key: self.key.clone(), value: self.value.clone() })))
            }

            fn map_values(&self, $map_op: &Json) -> Made<Handle> {
                let map = of_pair::<$key, $value>($map_op, "value");
                let $map = move |key: &$key, value: $value| map(key, &value);
                let $mapped = self.table.clone();
                let table = table_named($map_values, $map_op);
                Ok(Handle::Table(Box::new(Table { table, key: self.key.clone(), value: Val::serde() })))
            }

            fn to_stream(&self, op: &Json) -> Handle {
                let value: SharedSerde<Option<$value>> =
                    std::sync::Arc::new(kafka_streams::serde::Nullable(self.value.clone()));
                if op.get("key").is_some() {
                    let select = of_pair::<$key, Option<$value>>(op, "key");
                    let of = self.table.clone().to_stream_with_key(select);
                    return stream(stream_named(of, op), Val::serde(), value);
                }
                stream(stream_named(self.table.clone().to_stream(), op), self.key.clone(), value)
            }

            fn group_by(&self, op: &Json) -> Handle {
                let (keys, values) = (of_pair::<$key, $value>(op, "key"), of_pair::<$key, $value>(op, "value"));
                let select = move |key: &$key, value: $value| (keys(key, &value), values(key, &value));
                Handle::GroupedTable(self.table.clone().group_by(grouped(op), select))
            }

            fn suppress(&self, op: &Json) -> Made<Handle> {
                let until: fn(BufferConfig) -> Option<Suppressed<$key, $value>> = $closes;
                let suppressed = match op.get("until").and_then(Json::as_u64) {
                    Some(limit) => Suppressed::until_time_limit(Duration::from_millis(limit), buffer(op)),
                    None => until(buffer(op)).map_or_else(|| bad(op, "until"), Ok)?,
                };
                let mut suppressed = suppressed.serdes(self.key.clone(), self.value.clone());
                if let Some(name) = name(op) {
                    suppressed = suppressed.named(name);
                }
                let table = self.table.clone().suppress(suppressed);
                Ok(Handle::Table(Box::new(Table { table, key: self.key.clone(), value: self.value.clone() })))
            }

            $($plain)?
        }
    };
}

macro_rules! plain_key_table_ops {
    ($value:ty $(, $plain:item)?) => {
        table_ops!(
            Val,
            $value,
            |table, op, test, keep| match (op.get("store").is_some(), keep) {
                (false, true) => table.filter(test),
                (false, false) => table.filter_not(test),
                (true, true) => table.filter_in(test, store(op)?),
                (true, false) => table.filter_not_in(test, store(op)?),
            },
            |table, op, map| match op.get("store") {
                None => table.map_values(map),
                Some(_) => table.map_values_in(map, store(op)?),
            },
            |_| None
            $(, $plain)?
        );
    };
}

macro_rules! windowed_table_ops {
    ($value:ty) => {
        table_ops!(
            Windowed<Val>,
            $value,
            |table, op, test, keep| match (op.get("store").is_some(), keep) {
                (false, true) => table.filter(test),
                (false, false) => table.filter_not(test),
                _ => return Err(Unable::Bad("a store of windowed keys that are not aggregated".to_owned())),
            },
            |table, op, map| match op.get("store") {
                None => table.map_values(map),
                Some(_) =>
                    return Err(Unable::Bad("a store of windowed keys that are not aggregated".to_owned())),
            },
            |buffer| Some(Suppressed::until_window_closes(buffer))
        );
    };
}

plain_key_table_ops!(
    Val,
    fn plain(&self) -> Option<KTable<Val, Val>> {
        Some(self.table.clone())
    }
);
plain_key_table_ops!(i64);
windowed_table_ops!(Val);
windowed_table_ops!(i64);

fn buffer(op: &Json) -> BufferConfig {
    let limit = |field: &str| op.get(field).and_then(Json::as_u64);
    let buffer = match (limit("records"), limit("bytes")) {
        (Some(records), _) => BufferConfig::max_records(records),
        (None, Some(bytes)) => BufferConfig::max_bytes(bytes),
        (None, None) => BufferConfig::unbounded(),
    };
    // As in Java, whose types say so.
    let strict =
        op.get("full").is_some_and(|full| full == "shutdown") || op.get("until").is_some_and(Json::is_string);
    if strict { buffer.shut_down_when_full() } else { buffer }
}

fn grouped(op: &Json) -> Grouped<Val, Val> {
    let grouped = Grouped::auto();
    match name(op) {
        Some(name) => grouped.named(name),
        None => grouped,
    }
}

#[derive(Default)]
struct Builder {
    builder: StreamsBuilder,
    handles: HashMap<String, Handle>,
}

fn bad<T>(op: &Json, field: &str) -> Made<T> {
    Err(Unable::Bad(format!("{field} of {op}")))
}

impl Builder {
    fn stream(&self, op: &Json, field: &str) -> Made<&dyn StreamOps> {
        match op.get(field).and_then(Json::as_str).and_then(|id| self.handles.get(id)) {
            Some(Handle::Stream(stream)) => Ok(&**stream),
            _ => bad(op, field),
        }
    }

    fn plain_stream(&self, op: &Json, field: &str) -> Made<KStream<Val, Val>> {
        self.stream(op, field)?.plain().map_or_else(|| bad(op, field), Ok)
    }

    fn plain_table(&self, op: &Json, field: &str) -> Made<KTable<Val, Val>> {
        match op.get(field).and_then(Json::as_str).and_then(|id| self.handles.get(id)) {
            Some(Handle::Table(table)) => table.plain().map_or_else(|| bad(op, field), Ok),
            _ => bad(op, field),
        }
    }

    /// Groupings and windows are used once.
    fn take(&mut self, op: &Json) -> Made<Handle> {
        let id = op.get("in").and_then(Json::as_str).unwrap_or_default();
        self.handles.remove(id).map_or_else(|| bad(op, "in"), Ok)
    }

    fn build(&mut self, op: &Json) -> Made<()> {
        let id = spec::id(op);
        let table = match op.get("in").and_then(Json::as_str).and_then(|id| self.handles.get(id)) {
            Some(Handle::Table(table)) => Some(table),
            _ => None,
        };
        let made = match (spec::operator(op), table) {
            ("stream", _) => {
                let topics = op.get("topics").map(spec::items).unwrap_or_default();
                let consumed = Consumed::topics(topics.iter().filter_map(Json::as_str));
                let consumed = match name(op) {
                    Some(name) => consumed.named(name),
                    None => consumed,
                };
                plain_stream(self.builder.stream::<Val, Val>(consumed))
            }
            ("table", _) => {
                let consumed = Consumed::topics(op.get("topic").and_then(Json::as_str));
                let consumed = match name(op) {
                    Some(name) => consumed.named(name),
                    None => consumed,
                };
                plain_table(match op.get("store") {
                    Some(_) => self.builder.table_in::<Val, Val>(consumed, store(op)?),
                    None => self.builder.table::<Val, Val>(consumed),
                })
            }
            ("filter", Some(table)) => table.filter(op, true)?,
            ("filterNot", Some(table)) => table.filter(op, false)?,
            ("mapValues", Some(table)) => table.map_values(op)?,
            ("toStream", Some(table)) => table.to_stream(op),
            ("groupBy", Some(table)) => table.group_by(op),
            ("suppress", Some(table)) => table.suppress(op)?,
            ("filter", None) => self.stream(op, "in")?.filter(op, true),
            ("filterNot", None) => self.stream(op, "in")?.filter(op, false),
            ("mapValues", None) => self.stream(op, "in")?.map_values(op),
            ("map", _) => self.stream(op, "in")?.map(op),
            ("selectKey", _) => self.stream(op, "in")?.select_key(op),
            ("flatMap", _) => self.stream(op, "in")?.flat_map(op),
            ("flatMapValues", _) => self.stream(op, "in")?.flat_map_values(op),
            ("peek", _) => self.stream(op, "in")?.peek(op),
            ("foreach", _) => {
                self.plain_stream(op, "in")?.for_each(|_, _| {});
                return Ok(());
            }
            ("merge", _) => {
                let merged = self.plain_stream(op, "in")?.merge(self.plain_stream(op, "other")?);
                plain_stream(stream_named(merged, op))
            }
            ("split", _) => return self.split(op),
            ("repartition", _) => {
                if op.get("partitions").is_some() {
                    return Err(Unable::NotBuilt("a number of partitions".to_owned()));
                }
                let options = kafka_streams::dsl::Repartitioned::auto();
                let options = match name(op) {
                    Some(name) => options.named(name),
                    None => options,
                };
                plain_stream(self.plain_stream(op, "in")?.repartition(options))
            }
            ("toTable", _) if name(op).is_some() => {
                return Err(Unable::NotBuilt(
                    "a named toTable, whose repartition nodes are named too".to_owned(),
                ));
            }
            ("toTable", _) => plain_table(table_named(self.plain_stream(op, "in")?.to_table(store(op)?), op)),
            ("to", _) => return self.stream(op, "in")?.to(op),
            ("groupByKey", _) => Handle::Grouped(self.plain_stream(op, "in")?.group_by_key(grouped(op))),
            ("groupBy", None) => {
                let select = of_pair::<Val, Val>(op, "key");
                Handle::Grouped(self.plain_stream(op, "in")?.group_by(grouped(op), select))
            }
            ("process" | "processValues", _) => self.process(op)?,
            ("window", _) => self.window(op)?,
            ("count" | "reduce" | "aggregate", _) => self.aggregate(op)?,
            ("join", _) => self.join_streams(op)?,
            ("joinTable", _) => self.join_table(op)?,
            ("joinTables", _) => self.join_tables(op)?,
            (operator, _) => return Err(Unable::NotBuilt(operator.to_owned())),
        };
        self.handles.insert(id, made);
        Ok(())
    }

    /// Branch i (from 1) is the handle `ID.i`, the default branch `ID.0`.
    fn split(&mut self, op: &Json) -> Made<()> {
        let id = spec::id(op);
        let mut split = self.plain_stream(op, "in")?.split();
        if let Some(name) = name(op) {
            split = split.named(name);
        }
        for (at, branch) in op.get("branches").map(spec::items).unwrap_or_default().iter().enumerate() {
            let test = of_pair::<Val, Val>(branch, "if");
            let test = move |key: &Val, value: &Val| truth(&test(key, value));
            let stream = match name(branch) {
                Some(name) => split.branch_named(name, test),
                None => split.branch(test),
            };
            self.handles.insert(format!("{id}.{}", at + 1), plain_stream(stream));
        }
        if let Some(default) = op.get("default") {
            let stream = match name(default) {
                Some(name) => split.default_branch_named(name),
                None => split.default_branch(),
            };
            self.handles.insert(format!("{id}.0"), plain_stream(stream));
        }
        Ok(())
    }

    fn process(&self, op: &Json) -> Made<Handle> {
        let stream = self.plain_stream(op, "in")?;
        let kind = op.get("lib").and_then(Json::as_str).and_then(Kind::named);
        let Some(kind) = kind else { return bad(op, "lib") };
        let ticks = matches!(kind, Kind::StreamTick | Kind::WallTick);
        let keeps_keys = spec::operator(op) == "processValues";
        if (kind == Kind::Twice) == op.get("store").is_some() || (keeps_keys && ticks) {
            return bad(op, "lib");
        }
        let store = match op.get("store") {
            Some(_) => Some(self.builder.add_store(store::<Val>(op)?)),
            None => None,
        };
        let made = match (&store, keeps_keys) {
            (None, false) => stream.process((), move |()| Library { kind, store: None }),
            (None, true) => stream.process_values((), move |()| Values(Library { kind, store: None })),
            (Some(store), false) => stream.process(store, move |store| Library { kind, store: Some(store) }),
            (Some(store), true) => {
                stream.process_values(store, move |store| Values(Library { kind, store: Some(store) }))
            }
        };
        Ok(plain_stream(stream_named(made, op)))
    }

    fn window(&mut self, op: &Json) -> Made<Handle> {
        let Handle::Grouped(grouped) = self.take(op)? else { return bad(op, "in") };
        let (size, grace) = (ms(op, "size"), ms(op, "grace"));
        let emit = match op.get("emit").and_then(Json::as_str) {
            Some("close") => Emit::OnClose,
            _ => Emit::OnUpdate,
        };
        Ok(match op.get("type").and_then(Json::as_str) {
            Some("tumbling") => {
                let windows = TimeWindows::tumbling(size).grace(grace);
                Handle::Time(grouped.windowed_by(windows).emit(emit), size)
            }
            Some("hopping") => {
                let windows = TimeWindows::hopping(size, ms(op, "advance")).grace(grace);
                Handle::Time(grouped.windowed_by(windows).emit(emit), size)
            }
            Some("unlimited") => {
                let start = op.get("start").and_then(Json::as_i64).unwrap_or(0);
                Handle::Unlimited(grouped.windowed_by(UnlimitedWindows::start_on(start)).emit(emit))
            }
            Some("sliding") => {
                let windows = SlidingWindows::of(size).grace(grace);
                Handle::Sliding(grouped.windowed_by(windows).emit(emit), size)
            }
            Some("session") => {
                let windows = SessionWindows::gap(size).grace(grace);
                Handle::Session(grouped.windowed_by(windows).emit(emit))
            }
            _ => return bad(op, "type"),
        })
    }

    fn aggregate(&mut self, op: &Json) -> Made<Handle> {
        let kind = spec::operator(op);
        let add = of_fold(op, "fn");
        let reduce = {
            let fold = of_fold(op, "fn");
            move |agg: Val, value: Val| fold(&Val::Null, &agg, &value)
        };
        let add = move |key: &Val, value: &Val, agg: &mut Val| *agg = add(key, agg, value);
        let fold = |key: &Val, value: Val, agg: &mut Val| add(key, &value, agg);
        macro_rules! windowed {
            ($stream:expr, $serde:expr) => {
                match kind {
                    "count" => keyed(table_named($stream.count(store(op)?), op), $serde, i64::serde()),
                    "reduce" => {
                        keyed(table_named($stream.reduce(reduce, store(op)?), op), $serde, Val::serde())
                    }
                    _ => {
                        let fold = move |key: &Val, value: &Val, agg: &mut Val| add(key, value, agg);
                        let table = $stream.aggregate(initial(op), fold, store(op)?);
                        keyed(table_named(table, op), $serde, Val::serde())
                    }
                }
            };
        }
        let _ = &fold;
        Ok(match self.take(op)? {
            Handle::Grouped(grouped) => match kind {
                "count" => keyed(table_named(grouped.count(store(op)?), op), Val::serde(), i64::serde()),
                "reduce" => plain_table(table_named(grouped.reduce(reduce, store(op)?), op)),
                _ => {
                    let fold = move |key: &Val, value: Val, agg: &mut Val| add(key, &value, agg);
                    plain_table(table_named(grouped.aggregate(initial(op), fold, store(op)?), op))
                }
            },
            Handle::GroupedTable(_) if name(op).is_some() => {
                return Err(Unable::NotBuilt(
                    "named aggregates of tables, whose repartition nodes are named too".to_owned(),
                ));
            }
            Handle::GroupedTable(grouped) => {
                let sub = of_fold(op, "sub");
                match kind {
                    "count" => keyed(table_named(grouped.count(store(op)?), op), Val::serde(), i64::serde()),
                    "reduce" => {
                        let sub = move |agg: Val, value: Val| sub(&Val::Null, &agg, &value);
                        plain_table(table_named(grouped.reduce(reduce, sub, store(op)?), op))
                    }
                    _ => {
                        let fold = move |key: &Val, value: Val, agg: &mut Val| add(key, &value, agg);
                        let sub = move |key: &Val, value: Val, agg: &mut Val| *agg = sub(key, agg, &value);
                        plain_table(table_named(grouped.aggregate(initial(op), fold, sub, store(op)?), op))
                    }
                }
            }
            Handle::Time(stream, size) => windowed!(stream, Windowed::time_serde(Val::serde(), size)),
            Handle::Unlimited(stream) => windowed!(stream, Windowed::time_serde(Val::serde(), Duration::MAX)),
            Handle::Sliding(stream, size) => windowed!(stream, Windowed::time_serde(Val::serde(), size)),
            Handle::Session(stream) => {
                let serde = Windowed::session_serde(Val::serde());
                match kind {
                    "count" => keyed(table_named(stream.count(store(op)?), op), serde, i64::serde()),
                    "reduce" => {
                        keyed(table_named(stream.reduce(reduce, store(op)?), op), serde, Val::serde())
                    }
                    _ => {
                        let fold = move |key: &Val, value: &Val, agg: &mut Val| add(key, value, agg);
                        let merge = of_merge(op);
                        let merge =
                            move |key: &Val, agg: &mut Val, other: Val| *agg = merge(key, agg, &other);
                        let table = stream.aggregate(initial(op), fold, merge, store(op)?);
                        keyed(table_named(table, op), serde, Val::serde())
                    }
                }
            }
            Handle::Stream(_) | Handle::Table(_) => return bad(op, "in"),
        })
    }

    fn join_streams(&self, op: &Json) -> Made<Handle> {
        let (left, right) = (self.plain_stream(op, "in")?, self.plain_stream(op, "other")?);
        let windows = JoinWindows::within(Duration::ZERO)
            .before(ms(op, "before"))
            .after(ms(op, "after"))
            .grace(ms(op, "grace"));
        let mut joined = StreamJoined::auto();
        if let Some(name) = name(op) {
            joined = joined.named(name);
        }
        if let Some(store) = op.get("store").and_then(name) {
            joined = joined.stores_named(store);
        }
        let joiner = of_join(op);
        Ok(plain_stream(match op.get("kind").and_then(Json::as_str) {
            Some("left") => {
                left.left_join(right, move |key, left, right| joiner(key, Some(left), right), windows, joined)
            }
            Some("outer") => left.outer_join(right, joiner, windows, joined),
            _ => left.join(
                right,
                move |key, left, right| joiner(key, Some(left), Some(right)),
                windows,
                joined,
            ),
        }))
    }

    fn join_table(&self, op: &Json) -> Made<Handle> {
        if op.get("grace").is_some() {
            return Err(Unable::NotBuilt("stream-table joins with grace".to_owned()));
        }
        let (stream, table) = (self.plain_stream(op, "in")?, self.plain_table(op, "other")?);
        let mut joined = Joined::auto();
        if let Some(name) = name(op) {
            joined = joined.named(name);
        }
        let joiner = of_join(op);
        Ok(plain_stream(match op.get("kind").and_then(Json::as_str) {
            Some("left") => {
                let joiner = move |key: &Val, value: Val, row: Option<&Val>| joiner(key, Some(&value), row);
                stream.left_join_table(&table, joiner, joined)
            }
            _ => {
                let joiner = move |key: &Val, value: Val, row: &Val| joiner(key, Some(&value), Some(row));
                stream.join_table(&table, joiner, joined)
            }
        }))
    }

    fn join_tables(&self, op: &Json) -> Made<Handle> {
        let (left, right) = (self.plain_table(op, "in")?, self.plain_table(op, "other")?);
        let mut joined = TableJoined::auto();
        if let Some(name) = name(op) {
            joined = joined.named(name);
        }
        if op.get("store").is_some() {
            joined = joined.kept_in(store(op)?);
        }
        let joiner = of_join(op);
        Ok(plain_table(match op.get("kind").and_then(Json::as_str) {
            Some("left") => {
                left.left_join(right, move |_, left, right| joiner(&Val::Null, Some(left), right), joined)
            }
            Some("outer") => {
                left.outer_join(right, move |_, left, right| joiner(&Val::Null, left, right), joined)
            }
            _ => left.join(right, move |_, left, right| joiner(&Val::Null, Some(left), Some(right)), joined),
        }))
    }
}

fn keyed<K: Cell, V: Cell>(table: KTable<K, V>, key: SharedSerde<K>, value: SharedSerde<V>) -> Handle
where
    Table<K, V>: TableOps,
{
    Handle::Table(Box::new(Table { table, key, value }))
}

fn hex(bytes: Option<&[u8]>) -> Json {
    bytes
        .map_or(Json::Null, |bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into())
}

/// Runs a spec: the same JSON as Java's side answers.
pub(crate) fn run(spec: &Json) -> Result<Json, Unable> {
    let outcome = catch_unwind(AssertUnwindSafe(|| run_unguarded(spec)));
    outcome.unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().cloned();
        let message = message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Ok(json!({"panic": message.unwrap_or_default()}))
    })
}

fn run_unguarded(spec: &Json) -> Result<Json, Unable> {
    if spec.get("papi").is_some() {
        return Err(Unable::NotBuilt("topologies by hand".to_owned()));
    }
    let config = spec.get("cfg").unwrap_or(&Json::Null);
    if config.get("optimization").is_some_and(|level| level != "none") {
        return Err(Unable::NotBuilt("optimizations".to_owned()));
    }
    let mut builder = Builder::default();
    for op in spec::ops(spec) {
        builder.build(op)?;
    }
    let mut answer = Map::new();
    let error = |message: String| json!({"class": "ours", "message": message});
    let topology = match builder.builder.build() {
        Ok(topology) => topology,
        Err(refused) => {
            answer.insert("error".to_owned(), error(refused.to_string()));
            return Ok(answer.into());
        }
    };
    answer.insert("describe".to_owned(), topology.describe().to_string().into());
    let driver =
        TestDriver::new(&topology).and_then(|driver| driver.changelog_records(ChangelogRecords::EachUpdate));
    let mut driver = match driver {
        Ok(driver) => driver,
        Err(failed) => {
            answer.insert("error".to_owned(), error(failed.to_string()));
            return Ok(answer.into());
        }
    };
    let mut steps = Vec::new();
    for input in spec::input(spec) {
        if let Err(failed) = pipe(&mut driver, input) {
            answer.insert("error".to_owned(), error(failed));
            break;
        }
        steps.push(produced(&mut driver, spec));
    }
    answer.insert("steps".to_owned(), steps.into());
    answer.insert("stores".to_owned(), stores(&driver, spec).into());
    answer.insert("dropped".to_owned(), driver.dropped_records().into());
    Ok(answer.into())
}

fn pipe(driver: &mut TestDriver, input: &Json) -> Result<(), String> {
    let field = |at: usize| input.get(at).unwrap_or(&Json::Null);
    let done = match field(0).as_str().unwrap_or_default() {
        "@wall" => driver.advance_wall_time(field(1).as_i64().unwrap_or(0)),
        topic => {
            let constant = |at| eval(field(at), Env::default());
            let headers: Vec<Header> =
                field(4).as_str().map(|value| Header::new("h", value.to_owned())).into_iter().collect();
            let timestamp = field(3).as_i64().unwrap_or(0);
            driver.input::<Val, Val>(topic).pipe_with_headers(constant(1), constant(2), timestamp, &headers)
        }
    };
    done.map_err(|error| error.to_string())
}

fn produced(driver: &mut TestDriver, spec: &Json) -> Json {
    let inputs = spec::input_topics(spec);
    let mut step = Map::new();
    for topic in driver.topics() {
        if inputs.contains(&&*topic) {
            continue;
        }
        let records =
            driver.output::<Option<Bytes>, Option<Bytes>>(&topic).read_records().unwrap_or_default();
        let records: Vec<Json> = records
            .iter()
            .map(|record| {
                let headers: Vec<Json> =
                    record.headers.iter().map(|header| json!([header.key, hex(header.value)])).collect();
                json!([hex(record.key.as_deref()), hex(record.value.as_deref()), record.timestamp, headers])
            })
            .collect();
        if !records.is_empty() {
            step.insert(topic, records.into());
        }
    }
    step.into()
}

/// The rows of the key-value stores that have a name in the spec.
fn stores(driver: &TestDriver, spec: &Json) -> Map<String, Json> {
    let mut stores = Map::new();
    let names = spec::ops(spec).iter().filter_map(|op| op.get("store").and_then(name));
    for name in names {
        let rows: Option<Vec<Json>> = if let Ok(store) = driver.store::<Val, Val>(name) {
            let rows = store.all_with_timestamps().unwrap_or_default();
            Some(rows.iter().map(|(key, value, time)| json!([key.shown(), value.shown(), time])).collect())
        } else if let Ok(store) = driver.store::<Val, i64>(name) {
            let rows = store.all_with_timestamps().unwrap_or_default();
            Some(
                rows.iter()
                    .map(|(key, value, time)| json!([key.shown(), value.val().shown(), time]))
                    .collect(),
            )
        } else {
            None
        };
        if let Some(rows) = rows {
            stores.insert(name.to_owned(), rows.into());
        }
    }
    stores
}
