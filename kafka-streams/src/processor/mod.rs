//! Operators as typed nodes that push records into each other.
//!
//! A task builds a sub-topology once, as concrete nodes that own what lies behind them. Between two nodes a
//! record moves by one virtual call with its own types: nothing is boxed, cloned, locked or serialized. What more
//! than one node reaches (a store, a node with several parents, a node that a commit or a clock calls) lies in the
//! task, in `Stores` and `Nodes`, and is reached by a typed token.

mod aggregate;
mod build;
mod context;
mod custom;
mod fallible;
mod foreign_key_join;
mod nodes;
mod schedules;
mod self_join;
mod session_aggregate;
mod sink;
mod source;
mod split;
mod stateless;
mod store_access;
mod stream_join;
mod suppress;
mod table;
mod table_join;
mod timestamp;
mod window_aggregate;

pub(crate) use aggregate::{Aggregate, Forwarding, TableAggregate, Update};
pub(crate) use build::{NodeFactory, Outlets, SourceFactory, TaskBuilder, TaskSettings};
pub(crate) use context::{Context, Outgoing, RecordCollector};
pub(crate) use custom::ProcessorNode;
pub use custom::{
    FixedKey, FixedKeyProcessor, FixedKeyProcessorContext, FixedKeyRecord, Operator, Processor,
    ProcessorContext, ProcessorError, ProcessorResult, TaskContext,
};
pub(crate) use fallible::{TryFilter, TryFlatMap, TryMapValues};
pub(crate) use foreign_key_join::{
    Encoder, ForeignTableJoin, ResponseJoin, SubscriptionKeys, SubscriptionReceive, SubscriptionSend,
};
pub(crate) use nodes::{Called, NodeToken, Nodes, Relay};
pub(crate) use schedules::Schedules;
pub use schedules::{PunctuationType, Schedule};
pub(crate) use self_join::SelfJoin;
pub(crate) use session_aggregate::{Merge, SessionAggregate, SessionGetter};
pub(crate) use sink::{Destination, Sink, TopicChooser};
pub use sink::{Partitions, StreamPartitioner};
pub(crate) use source::{RawRecord, Source, SourceNode, Waiting as WaitingRecord};
pub(crate) use split::{Arm, Predicate, Split};
pub(crate) use stateless::{
    Filter, FlatMap, FlatMapValues, ForEach, Forward, Map, MapValues, Peek, SelectKey,
};
pub use store_access::{
    KeyValueAccess, KeyValueRef, SessionAccess, SessionRef, StoreRef, WindowAccess, WindowRef,
};
pub(crate) use stream_join::{FromLeft, FromRight, JoinBoth, JoinFrom, StreamJoinSide, Unmatched, Waiting};
pub(crate) use suppress::{Suppress, SuppressGetter};
pub(crate) use table::{
    DerivedGetter, Getter, StoreGetter, TableFilter, TableMapValues, TableOut, TableSource, ToStream,
    ValueGetter,
};
pub(crate) use table_join::{
    JoinGetter, PatientJoin, StreamTableJoin, TableGroup, TableJoinKind, TableJoinSide, TableMerge,
};
pub use timestamp::{Extract, ExtractedFrom, TimestampExtractor};
pub(crate) use window_aggregate::{
    Closing, SlidingAggregate, WindowAggregate, WindowGetter, WindowUpdate, WindowedOut,
};

use kafka_client::wire::record_batch::Headers;

use crate::error::StreamsError;

/// A record between two operators.
#[derive(Debug, Clone)]
pub struct Record<K, V> {
    /// The key.
    pub key: K,
    /// The value.
    pub value: V,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// The input record's headers.
    pub headers: Headers,
}

impl<K, V> Record<K, V> {
    /// The same record with another value.
    pub fn with_value<V2>(self, value: V2) -> Record<K, V2> {
        Record { key: self.key, value, timestamp: self.timestamp, headers: self.headers }
    }
}

/// An update of a table's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<V> {
    /// The row before, where something downstream needs it; `None` otherwise, and for a row that was not there.
    pub old: Option<V>,
    /// The row now; `None` when it was deleted.
    pub new: Option<V>,
    /// False for an update of a versioned table that came after a later one (KIP-914).
    pub is_latest: bool,
}

impl<V> Change<V> {
    /// The latest change of a row.
    pub(crate) fn new(old: Option<V>, new: Option<V>) -> Self {
        Self { old, new, is_latest: true }
    }
}

pub(crate) type NodeResult = Result<(), Box<StreamsError>>;

/// A running operator that takes records of these types.
pub(crate) trait Node<K, V>: Send {
    /// Takes one record and pushes results on, to the end of the chain, before it returns.
    fn process(&mut self, record: Record<K, V>, cx: &mut Context<'_>) -> NodeResult;
}

/// Where a node's results go.
pub(crate) enum Out<K, V> {
    None,
    One(Box<dyn Node<K, V>>),
    /// The clone function comes from the handle that was cloned: only then need values be cloned at all.
    Many(Vec<Box<dyn Node<K, V>>>, CloneRecord<K, V>),
}

pub(crate) type CloneRecord<K, V> = fn(&Record<K, V>) -> Record<K, V>;

impl<K, V> Out<K, V> {
    #[inline]
    pub(crate) fn forward(&mut self, record: Record<K, V>, cx: &mut Context<'_>) -> NodeResult {
        match self {
            Out::None => Ok(()),
            Out::One(node) => node.process(record, cx),
            Out::Many(nodes, clone) => {
                let Some((last, others)) = nodes.split_last_mut() else { return Ok(()) };
                for node in others {
                    node.process(clone(&record), cx)?;
                }
                last.process(record, cx)
            }
        }
    }
}

/// A node's name, for errors.
pub(crate) type NodeName = std::sync::Arc<str>;
