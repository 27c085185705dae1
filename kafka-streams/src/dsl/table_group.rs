use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;

use super::options::SinkTarget;
use super::stream::SinkSpec;
use super::{Grouped, KTable, Store, attach_sink, source};
use crate::processor::{Change, Forwarding, Node, Outlets, TableAggregate, TableGroup, TaskBuilder};
use crate::serde::{Encoded, Serde, SerdeContext, SerdeError, SharedSerde};
use crate::topology::{NodeId, NodeKind, RepartitionSpec, StoreKind, TopicRef, naming};

/// A table whose rows belong to groups (`KGroupedTable`).
#[must_use = "a grouped table does nothing until it is aggregated"]
pub struct KGroupedTable<K, V> {
    graph: super::SharedGraph,
    node: NodeId,
    outlets: Arc<Outlets<K, Change<V>>>,
    grouped: Grouped<K, V>,
}

impl<K, V> std::fmt::Debug for KGroupedTable<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KGroupedTable").field("node", &self.node).finish_non_exhaustive()
    }
}

impl<K: Send + 'static, V: Send + 'static> KTable<K, V> {
    /// Groups rows anew: a name or a [`Grouped`], and each row's group and value. Rows with a null group or value belong
    /// to none. Always repartitions.
    ///
    /// ```
    /// use kafka_streams::{Store, testing::Example};
    ///
    /// Example::of(|builder| {
    ///     let teams = builder.table::<String, String>("players").group_by("by-team", |player, team| (team, player.clone()));
    ///     teams.count(Store::kv("sizes")).to_stream().to("out");
    /// })
    /// .pipe("players", [("ann", "red"), ("bob", "red"), ("ann", "blue")])
    /// .gives("out", [("red", 1), ("red", 2), ("red", 1), ("blue", 1)]);
    /// ```
    pub fn group_by<K2: PartialEq + Send + 'static, V2: Send + 'static>(
        self,
        grouped: impl Into<Grouped<K2, V2>>,
        select: impl Fn(&K, V) -> (K2, V2) + Send + Sync + 'static,
    ) -> KGroupedTable<K2, V2> {
        let grouped = grouped.into();
        let mut graph = self.graph.lock();
        let name = graph.name_or(grouped.name.clone(), naming::TABLE_SELECT);
        let node = graph.add_node(name, NodeKind::Processor { stores: Vec::new() }, vec![self.node]);
        graph.send_old(self.node);
        drop(graph);
        let outlets = Outlets::new();
        let (children, select) = (Arc::clone(&outlets), Arc::new(select));
        let (key, value) = (Arc::clone(&grouped.key), Arc::clone(&grouped.value));
        let factory = move |tasks: &mut TaskBuilder<'_>| {
            let group: Box<dyn Node<K, Change<V>>> = Box::new(TableGroup {
                key: Arc::clone(&key),
                value: Arc::clone(&value),
                select: Arc::clone(&select),
                out: children.build(tasks)?,
            });
            Ok(group)
        };
        self.outlets.attach(node, Arc::new(factory));
        KGroupedTable { graph: self.graph, node, outlets, grouped }
    }
}

impl<K: Send + 'static, V: Send + 'static> KGroupedTable<K, V> {
    /// How many rows each group has.
    ///
    /// ```
    /// use kafka_streams::{Store, testing::Example};
    ///
    /// Example::of(|builder| {
    ///     let teams = builder.table::<String, String>("players").group_by("by-team", |player, team| (team, player.clone()));
    ///     teams.count(Store::kv("sizes")).to_stream().to("out");
    /// })
    /// .pipe("players", [("ann", "red"), ("bob", "red"), ("ann", "blue")])
    /// .gives("out", [("red", 1), ("red", 2), ("red", 1), ("blue", 1)]);
    /// ```
    pub fn count(self, store: Store<K, i64>) -> KTable<K, i64> {
        let add = |_: &K, _: V, count: Option<i64>| Some(count.unwrap_or(0).wrapping_add(1));
        let subtract = |_: &K, _: V, count: i64| Some(count.wrapping_sub(1));
        self.aggregated(naming::TABLE_AGGREGATE, add, subtract, store)
    }

    /// Combines the values of each group: `add` puts a row's value to the result so far, `subtract` takes it out when the
    /// row changes or goes.
    ///
    /// ```
    /// use kafka_streams::{Store, testing::Example};
    ///
    /// Example::of(|builder| {
    ///     let teams = builder.table::<String, i64>("points").group_by("all", |_player, points| ("all".to_owned(), points));
    ///     teams.reduce(|sum, n| sum + n, |sum, n| sum - n, Store::kv("sums")).to_stream().to("out");
    /// })
    /// .pipe("points", [("ann", 5), ("bob", 2), ("ann", 1)])
    /// .gives("out", [("all", 5), ("all", 7), ("all", 3)]);
    /// ```
    pub fn reduce(
        self,
        add: impl Fn(V, V) -> V + Send + Sync + 'static,
        subtract: impl Fn(V, V) -> V + Send + Sync + 'static,
        store: Store<K, V>,
    ) -> KTable<K, V>
    where
        V: Clone,
    {
        let add = move |_: &K, value: V, row: Option<V>| match row {
            Some(row) => Some(add(row, value)),
            None => Some(value),
        };
        let subtract = move |_: &K, value: V, row: V| Some(subtract(row, value));
        self.aggregated(naming::TABLE_REDUCE, add, subtract, store)
    }

    /// Folds the values of each group into an accumulator that begins as `initial()`: `add` puts a row's value in,
    /// `subtract` takes it out when the row changes or goes.
    ///
    /// ```
    /// use kafka_streams::{Store, testing::Example};
    ///
    /// Example::of(|builder| {
    ///     let teams = builder.table::<String, i64>("points").group_by("all", |_player, points| ("all".to_owned(), points));
    ///     let sums = teams.aggregate(|| 0i64, |_, n, sum| *sum += n, |_, n, sum| *sum -= n, Store::kv("sums"));
    ///     sums.to_stream().to("out");
    /// })
    /// .pipe("points", [("ann", 5), ("bob", 2), ("ann", 1)])
    /// .gives("out", [("all", 5), ("all", 7), ("all", 3)]);
    /// ```
    pub fn aggregate<A: Clone + Send + 'static>(
        self,
        initial: impl Fn() -> A + Send + Sync + 'static,
        add: impl Fn(&K, V, &mut A) + Send + Sync + 'static,
        subtract: impl Fn(&K, V, &mut A) + Send + Sync + 'static,
        store: Store<K, A>,
    ) -> KTable<K, A> {
        let add = move |key: &K, value: V, row: Option<A>| {
            let mut row = row.unwrap_or_else(&initial);
            add(key, value, &mut row);
            Some(row)
        };
        let subtract = move |key: &K, value: V, mut row: A| {
            subtract(key, value, &mut row);
            Some(row)
        };
        self.aggregated(naming::TABLE_AGGREGATE, add, subtract, store)
    }

    fn aggregated<A: Clone + Send + 'static>(
        self,
        prefix: &str,
        add: impl Fn(&K, V, Option<A>) -> Option<A> + Send + Sync + 'static,
        subtract: impl Fn(&K, V, A) -> Option<A> + Send + Sync + 'static,
        store: Store<K, A>,
    ) -> KTable<K, A> {
        let Self { graph: shared, node: select, outlets: changes, grouped } = self;
        let mut graph = shared.lock();
        let store = match &store.name {
            Some(_) => store,
            // Java names the store of a reduction so too.
            None => {
                let name =
                    graph.generate_name(&format!("{}{}", naming::TABLE_AGGREGATE, naming::STATE_STORE));
                store.named(name)
            }
        };
        let spec = store.spec(StoreKind::KeyValue);
        let sink_name = graph.generate_name(naming::SINK);
        let source_name = graph.generate_name(naming::SOURCE);
        let name = graph.generate_name(prefix);
        let base = grouped.name.as_ref().unwrap_or(&spec.name);
        let topic_name: Arc<str> = Arc::from(format!("{base}{}", naming::REPARTITION_SUFFIX));
        let topic = TopicRef::Internal(Arc::clone(&topic_name));
        graph.repartitions.push(RepartitionSpec { name: topic_name, partitions: None });
        let sink = graph.add_node(sink_name, NodeKind::Sink { topic: Some(topic.clone()) }, vec![select]);
        let source_node = graph.add_source(source_name, vec![topic.clone()], None);
        let node = graph.add_table(name, spec, source_node);
        let arrived = Outlets::<K, Change<V>>::new();
        let serde: SharedSerde<Change<V>> = Arc::new(ChangeSerde(Arc::clone(&grouped.value)));
        graph.add_source_factory(
            source_node,
            source(source_node, Arc::clone(&grouped.key), Arc::clone(&serde), &arrived),
        );
        drop(graph);
        let sink_spec = SinkSpec {
            target: SinkTarget::Topic(topic),
            key: grouped.key,
            value: serde,
            partitioner: None,
            repartition: None,
        };
        attach_sink(&changes, sink, sink_spec);
        let outlets = Outlets::new();
        let (children, kept) = (Arc::clone(&outlets), store.clone());
        let (add, subtract) = (Arc::new(add), Arc::new(subtract));
        let factory = move |tasks: &mut TaskBuilder<'_>| {
            let info = tasks.table(node);
            let spec = info.store.unwrap_or_default();
            let aggregate = TableAggregate {
                store: tasks.key_value(&spec, &kept.key, &kept.value)?,
                add: Arc::clone(&add),
                subtract: Arc::clone(&subtract),
                forwarding: Forwarding { cached: kept.is_cached(), send_old: info.send_old },
                out: children.build(tasks)?,
                values: PhantomData,
            };
            Ok(tasks.called_if(kept.is_cached(), aggregate))
        };
        arrived.attach(node, Arc::new(factory));
        KTable::kept(&shared, node, outlets, store)
    }
}

/// A change of a row on its way to its group (`ChangedSerializer`, KIP-904): the value that was and a 0, the value that
/// is and a 1, or the size of the value that is, both values and a 2.
struct ChangeSerde<V>(SharedSerde<V>);

const WAS: u8 = 0;
const IS: u8 = 1;
const BOTH: u8 = 2;

impl<V: 'static> Serde<Change<V>> for ChangeSerde<V> {
    fn serialize(
        &self,
        cx: SerdeContext<'_>,
        change: &Change<V>,
        out: &mut Vec<u8>,
    ) -> Result<Encoded, SerdeError> {
        let kind = match (&change.old, &change.new) {
            (Some(old), Some(new)) => {
                let start = out.len();
                self.0.serialize(cx, new, out)?;
                // The size goes before what it is the size of.
                let mut size = Vec::with_capacity(5);
                put_varint(&mut size, (out.len() - start) as u32);
                out.splice(start..start, size);
                self.0.serialize(cx, old, out)?;
                BOTH
            }
            (Some(old), None) => {
                self.0.serialize(cx, old, out)?;
                WAS
            }
            (None, Some(new)) => {
                self.0.serialize(cx, new, out)?;
                IS
            }
            (None, None) => return Ok(Encoded::Null),
        };
        out.push(kind);
        Ok(Encoded::Bytes)
    }

    fn deserialize(&self, cx: SerdeContext<'_>, bytes: Option<&Bytes>) -> Result<Change<V>, SerdeError> {
        let bytes = bytes.ok_or(SerdeError::Null { type_name: "Change" })?;
        let malformed = || SerdeError::Length { expected: 1, actual: bytes.len() };
        let (kind, values) = bytes.split_last().ok_or_else(malformed)?;
        let values = bytes.slice(..values.len());
        let read = |bytes: &Bytes| self.0.deserialize(cx, Some(bytes));
        match *kind {
            WAS => Ok(Change::new(Some(read(&values)?), None)),
            IS => Ok(Change::new(None, Some(read(&values)?))),
            BOTH => {
                let (size, at) = take_varint(&values).ok_or_else(malformed)?;
                let end = at.checked_add(size).filter(|end| *end <= values.len()).ok_or_else(malformed)?;
                let new = read(&values.slice(at..end))?;
                Ok(Change::new(Some(read(&values.slice(end..))?), Some(new)))
            }
            _ => Err(malformed()),
        }
    }
}

/// Kafka's signed varint (`ByteUtils.writeVarint`) of a number that is not negative.
fn put_varint(out: &mut Vec<u8>, number: u32) {
    let mut zigzag = number << 1;
    while zigzag >= 0x80 {
        out.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

/// The number and where it ends.
fn take_varint(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut zigzag = 0u64;
    for (at, byte) in bytes.iter().take(5).enumerate() {
        zigzag |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return (zigzag & 1 == 0).then_some(((zigzag >> 1) as usize, at + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serde::HasSerde;

    fn change(old: Option<&str>, new: Option<&str>) -> Change<String> {
        Change::new(old.map(str::to_owned), new.map(str::to_owned))
    }

    #[test]
    fn changes_are_written_as_in_java_and_damaged_ones_are_errors() {
        let serde = ChangeSerde(String::serde());
        let long = "x".repeat(70);
        for (change, expected) in [
            (change(Some("a"), None), b"a\0".to_vec()),
            (change(None, Some("b")), b"b\x01".to_vec()),
            (change(Some("a"), Some("bc")), b"\x04bca\x02".to_vec()),
            (change(Some("a"), Some(&long)), format!("\u{0}{long}a\u{2}").into_bytes()),
        ] {
            let mut out = Vec::new();
            serde.serialize(SerdeContext::value("t"), &change, &mut out).unwrap();
            if change.new.as_deref() == Some(&long) {
                // 70 as a zigzag varint takes two bytes.
                assert_eq!(out[..2], [0x8c, 0x01]);
                assert_eq!(out[2..], expected[1..]);
            } else {
                assert_eq!(out, expected);
            }
            let bytes = Bytes::from(out);
            assert_eq!(serde.deserialize(SerdeContext::value("t"), Some(&bytes)).unwrap(), change);
        }
        for damaged in [&b""[..], b"a\x07", b"\x7fab\x02", b"\x80\x80\x80\x80\x80\x80\x02"] {
            assert!(serde.deserialize(SerdeContext::value("t"), Some(&Bytes::from_static(damaged))).is_err());
        }
    }
}
