use std::sync::Arc;

use super::{KStream, SharedGraph, attach_stateless};
use crate::processor::{Change, Node, Out, Outlets, TableFilter, TableMapValues, ToStream};
use crate::topology::{NodeId, naming};

/// A table: rows by key, and the stream of their changes.
#[must_use = "a table nobody reads does nothing unless it has a store"]
pub struct KTable<K, V> {
    graph: SharedGraph,
    node: NodeId,
    outlets: Arc<Outlets<K, Change<V>>>,
}

/// A second use of the table.
impl<K: Clone, V: Clone> Clone for KTable<K, V> {
    fn clone(&self) -> Self {
        self.outlets.allow_fan_out(|record| record.clone());
        Self { graph: Arc::clone(&self.graph), node: self.node, outlets: Arc::clone(&self.outlets) }
    }
}

impl<K, V> std::fmt::Debug for KTable<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KTable").field("node", &self.node).finish_non_exhaustive()
    }
}

impl<K: Send + 'static, V: Send + 'static> KTable<K, V> {
    pub(crate) fn new(graph: &SharedGraph, node: NodeId, outlets: Arc<Outlets<K, Change<V>>>) -> Self {
        Self { graph: Arc::clone(graph), node, outlets }
    }

    fn then<V2: Send + 'static, N: Node<K, Change<V>> + 'static>(
        self,
        prefix: &str,
        make: impl Fn(Out<K, V2>) -> N + Send + Sync + 'static,
    ) -> (SharedGraph, NodeId, Arc<Outlets<K, V2>>) {
        let (node, outlets) = attach_stateless(&self.graph, self.node, &self.outlets, prefix, make);
        (self.graph, node, outlets)
    }

    /// Names the last operator.
    pub fn named(self, name: impl Into<String>) -> Self {
        self.graph.lock().rename(self.node, name.into());
        self
    }

    /// The rows for which `keep` is true; others are deleted downstream.
    pub fn filter(self, keep: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        self.filtered(keep, true)
    }

    /// The rows for which `drop` is false; others are deleted downstream.
    pub fn filter_not(self, drop: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        self.filtered(drop, false)
    }

    fn filtered(self, keep: impl Fn(&K, &V) -> bool + Send + Sync + 'static, when: bool) -> Self {
        let keep = Arc::new(keep);
        let (graph, node, outlets) =
            self.then(naming::TABLE_FILTER, move |out| TableFilter { keep: Arc::clone(&keep), when, out });
        Self { graph, node, outlets }
    }

    /// Turns each row into another one; keys stay, deletions stay deletions.
    pub fn map_values<V2: Send + 'static>(
        self,
        map: impl Fn(&K, V) -> V2 + Send + Sync + 'static,
    ) -> KTable<K, V2> {
        let map = Arc::new(map);
        let (graph, node, outlets) =
            self.then(naming::TABLE_MAP_VALUES, move |out| TableMapValues { map: Arc::clone(&map), out });
        KTable { graph, node, outlets }
    }

    /// The changes as a stream; `None` where a row was deleted.
    pub fn to_stream(self) -> KStream<K, Option<V>> {
        let (graph, node, outlets) = self.then(naming::TABLE_TO_STREAM, ToStream);
        KStream::new(&graph, node, outlets, false)
    }
}
