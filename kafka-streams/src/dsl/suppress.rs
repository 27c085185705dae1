use std::sync::Arc;
use std::time::Duration;

use super::windows::millis;
use super::{GetterFactory, KTable, Windowed};
use crate::error::TopologyError;
use crate::processor::{Getter, Node, Outlets, Suppress, SuppressGetter, TaskBuilder};
use crate::serde::SharedSerde;
use crate::topology::{NodeKind, StoreKind, StoreSpec, TableInfo, naming};

/// How much a suppression may hold back, and what happens beyond that (`Suppressed.BufferConfig`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferConfig {
    max_records: u64,
    max_bytes: u64,
    stop_when_full: bool,
}

impl BufferConfig {
    /// As much as there is memory.
    pub fn unbounded() -> Self {
        Self { max_records: u64::MAX, max_bytes: u64::MAX, stop_when_full: true }
    }

    /// So many rows; the earliest ones are let go early beyond that.
    pub fn max_records(records: u64) -> Self {
        Self { max_records: records, max_bytes: u64::MAX, stop_when_full: false }
    }

    /// So many bytes of keys, values and what belongs to them; the earliest rows are let go early beyond that.
    pub fn max_bytes(bytes: u64) -> Self {
        Self { max_records: u64::MAX, max_bytes: bytes, stop_when_full: false }
    }

    /// And so many rows.
    pub fn with_max_records(self, records: u64) -> Self {
        Self { max_records: records, ..self }
    }

    /// And so many bytes.
    pub fn with_max_bytes(self, bytes: u64) -> Self {
        Self { max_bytes: bytes, ..self }
    }

    /// The application stops with an error instead of letting rows go early.
    pub fn shut_down_when_full(self) -> Self {
        Self { stop_when_full: true, ..self }
    }
}

/// Which changes of a table are held back, and how long (`Suppressed`, KIP-328).
pub struct Suppressed<K, V> {
    name: Option<String>,
    buffer: BufferConfig,
    wait: Option<i64>,
    time: fn(&K, i64) -> i64,
    logged: bool,
    serdes: Option<(SharedSerde<K>, SharedSerde<V>)>,
}

impl<K, V> Suppressed<K, V> {
    /// Each row's changes for so long from the first one, by the time of the records: only the last one goes on. Later
    /// changes do not make a row wait longer.
    pub fn until_time_limit(limit: Duration, buffer: BufferConfig) -> Self {
        let time = |_: &K, timestamp| timestamp;
        Self { name: None, buffer, wait: Some(millis(limit)), time, logged: true, serdes: None }
    }

    /// Names the operator; its buffer is then `name-store`.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// What is held back is lost with the task.
    pub fn without_changelog(mut self) -> Self {
        self.logged = false;
        self
    }

    /// With these serdes, where the table's own are not known: after `map_values` and joins without a store.
    pub fn serdes(mut self, key: SharedSerde<K>, value: SharedSerde<V>) -> Self {
        self.serdes = Some((key, value));
        self
    }
}

impl<K, V> Suppressed<Windowed<K>, V> {
    /// Each window's changes until it takes no more records: only the final one goes on. The buffer must be unbounded, or
    /// shut down when it is full.
    pub fn until_window_closes(buffer: BufferConfig) -> Self {
        let time = |window: &Windowed<K>, _| window.end;
        Self { name: None, buffer, wait: None, time, logged: true, serdes: None }
    }
}

impl<K: Send + 'static, V: Clone + Send + 'static> KTable<K, V> {
    /// Holds changes back: until a time limit, or until windows close.
    ///
    /// Other than in Java 4.3, a change that is let go says what the row was when it was let go last, not before its
    /// latest change; so what is aggregated from it stays right.
    ///
    /// ```
    /// use std::time::Duration;
    /// use kafka_streams::{BufferConfig, Suppressed};
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     builder.table::<String, i64>("in")
    ///         .suppress(Suppressed::until_time_limit(Duration::from_millis(10), BufferConfig::unbounded()))
    ///         .to_stream()
    ///         .to("out");
    /// })
    /// .pipe_at(0, "in", [("a", 1), ("a", 2)])
    /// .pipe_at(11, "in", [("b", 5)])
    /// .gives("out", [("a", 2)]);
    /// ```
    pub fn suppress(self, suppressed: Suppressed<K, V>) -> Self {
        let mut graph = self.graph.lock();
        let given = suppressed.name;
        let name = given.clone().unwrap_or_else(|| graph.generate_name(naming::TABLE_SUPPRESS));
        let store_name = match given {
            Some(name) => format!("{name}-store"),
            None => graph.generate_name(&format!("{}{}", naming::TABLE_SUPPRESS, naming::STATE_STORE)),
        };
        let BufferConfig { max_records, max_bytes, stop_when_full } = suppressed.buffer;
        let is_final = suppressed.wait.is_none();
        if is_final && !stop_when_full {
            graph.problems.push(TopologyError::EarlyResults { node: name.clone() });
        }
        let wait = match suppressed.wait.or_else(|| graph.window_grace(self.node)) {
            Some(wait) => wait,
            None => {
                graph.problems.push(TopologyError::NoWindows { node: name.clone() });
                0
            }
        };
        let serdes = match (suppressed.serdes, self.serdes.key.clone(), self.serdes.value.clone()) {
            (Some(serdes), ..) => Some(serdes),
            (None, Some(key), Some(value)) => Some((key, value)),
            _ => {
                graph.problems.push(TopologyError::SerdesUnknown { node: name.clone() });
                None
            }
        };
        let spec = StoreSpec {
            name: store_name.clone(),
            kind: StoreKind::KeyValue,
            logged: suppressed.logged,
            ..StoreSpec::default()
        };
        if graph.is_versioned(self.node) {
            graph.problems.push(TopologyError::VersionedTable { node: name.clone() });
        }
        // The buffer holds what a row was before (its "prior value").
        graph.send_old(self.node);
        let node = graph.add_node(name, NodeKind::Processor { stores: vec![store_name] }, vec![self.node]);
        graph.stores.push(spec.clone());
        graph.tables.insert(node, TableInfo { parents: vec![self.node], ..TableInfo::default() });
        drop(graph);
        let outlets = Outlets::new();
        let Some((key, value)) = serdes else {
            return KTable::new(&self.graph, node, outlets, self.getter);
        };
        let (children, buffer_spec) = (Arc::clone(&outlets), spec.clone());
        let (buffer_key, buffer_value, time) = (Arc::clone(&key), Arc::clone(&value), suppressed.time);
        let factory = move |tasks: &mut TaskBuilder<'_>| {
            let suppress: Box<dyn Node<K, crate::processor::Change<V>>> = Box::new(Suppress {
                name: tasks.name(node),
                buffer: tasks.suppress_buffer(&buffer_spec, &buffer_key, &buffer_value)?,
                time,
                wait,
                max_records,
                max_bytes,
                stop_when_full,
                drops_tombstones: is_final,
                observed: -1,
                out: children.build(tasks)?,
            });
            Ok(suppress)
        };
        self.outlets.attach(node, Arc::new(factory));
        let (parent, serdes) = (self.getter, self.serdes);
        let getter: GetterFactory<K, V> = Arc::new(move |tasks: &mut TaskBuilder<'_>| {
            let buffer = tasks.suppress_buffer(&spec, &key, &value)?;
            let getter: Getter<K, V> = Box::new(SuppressGetter { buffer, parent: parent(tasks)? });
            Ok(getter)
        });
        KTable::new(&self.graph, node, outlets, getter).with_serdes(serdes)
    }
}
