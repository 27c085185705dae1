//! Operators as typed nodes that push records into each other.
//!
//! A task builds a sub-topology once, as concrete nodes that own what lies behind them. Between two nodes a
//! record moves by one virtual call with its own types: nothing is boxed, cloned or serialized.

mod aggregate;
mod build;
mod context;
mod sink;
mod source;
mod split;
mod stateless;
mod table;

use std::sync::Arc;

pub(crate) use aggregate::{Aggregate, Update};
pub(crate) use build::{Outlets, SourceFactory, TaskBuilder};
pub(crate) use context::{Context, Outgoing, RecordCollector};
pub(crate) use sink::Sink;
pub(crate) use source::{RawRecord, Source, SourceNode};
pub(crate) use split::{Arm, Predicate, Split};
pub(crate) use stateless::{
    Filter, FlatMap, FlatMapValues, ForEach, Forward, Map, MapValues, Peek, SelectKey, Shared,
};
pub(crate) use table::{TableFilter, TableMapValues, TableSource, ToStream};

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

/// An update of a table's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<V> {
    /// The row before, where something downstream needs it; `None` otherwise, and for a row that was not there.
    pub old: Option<V>,
    /// The row now; `None` when it was deleted.
    pub new: Option<V>,
}

pub(crate) type NodeResult = Result<(), Box<StreamsError>>;

/// A running operator that takes records of these types.
pub(crate) trait Node<K, V>: Send {
    /// Takes one record and pushes results on, to the end of the chain, before it returns.
    fn process(&mut self, record: Record<K, V>, cx: &mut Context<'_>) -> NodeResult;

    /// Pushes on what is held back until a commit. Parents come first; shared nodes are called by each parent.
    fn flush(&mut self, cx: &mut Context<'_>) -> NodeResult;
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

    pub(crate) fn flush(&mut self, cx: &mut Context<'_>) -> NodeResult {
        match self {
            Out::None => Ok(()),
            Out::One(node) => node.flush(cx),
            Out::Many(nodes, _) => nodes.iter_mut().try_for_each(|node| node.flush(cx)),
        }
    }
}

/// A node's name, for errors.
pub(crate) type NodeName = Arc<str>;
