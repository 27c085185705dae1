//! `topology.optimization`: fewer topics and stores for the same results (`InternalStreamsBuilder.optimizeTopology`).

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Graph, NodeId, NodeKind, RepartitionSpec, TopicRef};
use crate::processor::SourceFactory;

/// What a topology may be rewritten to (`topology.optimization`). An application that runs already must not change it:
/// its internal topics would be others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Optimizations {
    pub(crate) reuse_source_topics: bool,
    pub(crate) merge_repartition_topics: bool,
    pub(crate) single_store_self_join: bool,
}

impl Optimizations {
    /// Nothing is rewritten: the default, as Java's `none`.
    pub fn none() -> Self {
        Self::default()
    }

    /// All there are, as Java's `all`.
    pub fn all() -> Self {
        Self { reuse_source_topics: true, merge_repartition_topics: true, single_store_self_join: true }
    }

    /// A table that is read from a topic has no changelog: it is restored from the topic
    /// (`reuse.ktable.source.topics`). The topic must be compacted, or at least keep each key's last record.
    pub fn reuse_source_topics(mut self) -> Self {
        self.reuse_source_topics = true;
        self
    }

    /// Operators that need a stream by its new key share one repartition topic, right behind the operator that changed
    /// the key (`merge.repartition.topics`).
    pub fn merge_repartition_topics(mut self) -> Self {
        self.merge_repartition_topics = true;
        self
    }

    /// A stream that is joined with itself is kept once (`single.store.self.join`).
    pub fn single_store_self_join(mut self) -> Self {
        self.single_store_self_join = true;
        self
    }
}

/// The outlets of a node, with the types of its records.
pub(crate) type AnyOutlets = Arc<dyn Any + Send + Sync>;

/// Puts a repartition topic behind a node: the sink into its outlets, and what the source reads goes to those that the
/// topic is for. `None` if the node's records have other types.
pub(crate) type Rewire =
    Arc<dyn Fn(&AnyOutlets, NodeId, NodeId, &TopicRef) -> Option<SourceFactory> + Send + Sync>;

/// A repartition topic that the DSL put in, not the user.
#[derive(Clone)]
pub(crate) struct ImpliedRepartition {
    pub(crate) filter: NodeId,
    pub(crate) sink: NodeId,
    pub(crate) source: NodeId,
    pub(crate) topic: Arc<str>,
    pub(crate) rewire: Rewire,
}

/// The join of two streams, in case they are one.
#[derive(Debug, Clone)]
pub(crate) struct StreamJoin {
    pub(crate) merge: NodeId,
    pub(crate) windowed: [NodeId; 2],
    pub(crate) joins: [NodeId; 2],
    pub(crate) kept: String,
    /// The other stream's store, and where records wait for partners.
    pub(crate) dropped: Vec<String>,
}

/// What is known for rewriting, and what was rewritten.
#[derive(Clone, Default)]
pub(crate) struct Optimizer {
    pub(crate) wanted: Optimizations,
    pub(crate) key_changing: BTreeSet<NodeId>,
    pub(crate) value_changing: BTreeSet<NodeId>,
    pub(crate) merges: BTreeSet<NodeId>,
    /// Of the nodes that a repartition topic can be moved to.
    pub(crate) outlets: BTreeMap<NodeId, AnyOutlets>,
    pub(crate) repartitions: Vec<ImpliedRepartition>,
    pub(crate) stream_joins: Vec<StreamJoin>,
    pub(crate) source_tables: Vec<(NodeId, TopicRef)>,

    pub(crate) removed: BTreeSet<NodeId>,
    /// Sinks of removed repartition topics: what they got goes on at once.
    pub(crate) bypassed: BTreeSet<NodeId>,
    /// Nodes that read a merged repartition topic instead of its writer, and the topic's sink.
    pub(crate) moved: BTreeMap<NodeId, NodeId>,
    pub(crate) self_joins: BTreeSet<NodeId>,
    /// Nodes that came late, by the node that they come after.
    inserted: BTreeMap<NodeId, [NodeId; 3]>,
}

impl Graph {
    /// Rewrites what was asked for. Each part of the graph is rewritten once.
    pub(crate) fn optimize(&mut self) {
        if self.optimizer.wanted.reuse_source_topics {
            self.reuse_source_topics();
        }
        if self.optimizer.wanted.merge_repartition_topics {
            self.merge_repartition_topics();
        }
        if self.optimizer.wanted.single_store_self_join {
            self.rewrite_self_joins();
        }
    }

    /// The nodes in the order in which Java's builder writes them down.
    pub(crate) fn in_order(&self) -> Vec<NodeId> {
        let optimizer = &self.optimizer;
        let late: BTreeSet<NodeId> = optimizer.inserted.values().flatten().copied().collect();
        let mut order = Vec::with_capacity(self.nodes.len());
        for id in (0..self.nodes.len()).filter(|id| !late.contains(id)) {
            order.push(id);
            order.extend(optimizer.inserted.get(&id).into_iter().flatten());
        }
        order.retain(|id| !optimizer.removed.contains(id));
        order
    }

    fn reuse_source_topics(&mut self) {
        for (table, topic) in std::mem::take(&mut self.optimizer.source_tables) {
            let Some(store) = self.tables.get_mut(&table).and_then(|info| info.store.as_mut()) else {
                continue;
            };
            (store.logged, store.changelog) = (true, Some(topic));
            let store = store.clone();
            self.stores
                .iter_mut()
                .filter(|spec| spec.name == store.name)
                .for_each(|spec| *spec = store.clone());
        }
    }

    fn rewrite_self_joins(&mut self) {
        for join in std::mem::take(&mut self.optimizer.stream_joins) {
            let [left, right] = join.windowed;
            let parents = |node: NodeId| self.nodes.get(node).map(|node| node.parents.clone());
            if parents(left) != parents(right) {
                continue;
            }
            if let Some(merge) = self.nodes.get_mut(join.merge) {
                merge.parents = vec![left];
                merge.kind = NodeKind::Processor { stores: vec![join.kept] };
            }
            self.stores.retain(|store| !join.dropped.contains(&store.name));
            self.optimizer.removed.extend([right].into_iter().chain(join.joins));
            self.optimizer.self_joins.insert(join.merge);
        }
    }

    fn merge_repartition_topics(&mut self) {
        let mut by_changer = BTreeMap::<NodeId, Vec<ImpliedRepartition>>::new();
        for repartition in std::mem::take(&mut self.optimizer.repartitions) {
            if let Some(changer) = self.where_to_repartition(&repartition) {
                by_changer.entry(changer).or_default().push(repartition);
            }
        }
        for (changer, repartitions) in by_changer {
            self.merge_behind(changer, &repartitions);
        }
    }

    /// The operator that changed the key, or the merge of several; `None` if values changed since.
    fn where_to_repartition(&self, repartition: &ImpliedRepartition) -> Option<NodeId> {
        let Optimizer { key_changing, value_changing, merges, .. } = &self.optimizer;
        let changer = self.find_upstream(repartition.filter, &|id| key_changing.contains(&id))?;
        let either = |id| key_changing.contains(&id) || value_changing.contains(&id);
        if self.find_upstream(repartition.filter, &either) != Some(changer) {
            return None;
        }
        let mut at = repartition.filter;
        loop {
            let [parent] = self.nodes.get(at)?.parents[..] else { return None };
            if parent == changer || merges.contains(&parent) {
                return Some(parent);
            }
            at = parent;
        }
    }

    /// The node that Java finds (`InternalStreamsBuilder.findParentNodeMatching`): the last parent has the last word.
    fn find_upstream(&self, node: NodeId, is_it: &dyn Fn(NodeId) -> bool) -> Option<NodeId> {
        if is_it(node) {
            return Some(node);
        }
        let mut found = None;
        for parent in &self.nodes.get(node)?.parents {
            if is_it(*parent) {
                return Some(*parent);
            }
            found = self.find_upstream(*parent, is_it);
        }
        found
    }

    fn merge_behind(&mut self, changer: NodeId, repartitions: &[ImpliedRepartition]) {
        let Some(first) = repartitions.first() else { return };
        let Some(outlets) = self.optimizer.outlets.get(&changer).cloned() else { return };
        let topic = TopicRef::Internal(Arc::clone(&first.topic));
        let [filter, sink, source] = [0, 1, 2].map(|next| self.nodes.len() + next);
        let Some(factory) = (first.rewire)(&outlets, sink, source, &topic) else { return };
        // Whatever the first topic's nodes were called: these ones are named after the topic.
        let name = |part: &str| format!("{}-{part}", first.topic);
        self.add_node(name("filter"), NodeKind::Processor { stores: Vec::new() }, vec![changer]);
        self.add_node(name("sink"), NodeKind::Sink { topic: Some(topic.clone()) }, vec![filter]);
        let kind = NodeKind::Source { topics: vec![topic], factories: vec![factory] };
        self.add_node(name("source"), kind, Vec::new());
        self.optimizer.inserted.insert(changer, [filter, sink, source]);
        for repartition in repartitions {
            self.bypass(repartition, changer, [sink, source]);
        }
        self.repartitions.retain(|spec| repartitions.iter().all(|old| old.topic != spec.name));
        self.repartitions.push(RepartitionSpec { name: Arc::clone(&first.topic), partitions: None });
    }

    /// Takes a repartition topic out; the way to it begins at the merged one.
    fn bypass(&mut self, repartition: &ImpliedRepartition, changer: NodeId, [sink, source]: [NodeId; 2]) {
        let mut child = repartition.filter;
        while let Some(parent) = self.nodes.get(child).and_then(|node| node.parents.first().copied()) {
            if parent == changer {
                // In the outlets a repartition topic is its sink.
                let attached = if child == repartition.filter { repartition.sink } else { child };
                self.optimizer.moved.insert(attached, sink);
                self.replace_parent(child, changer, source);
                break;
            }
            if parent == source {
                break;
            }
            child = parent;
        }
        let before = self.nodes.get(repartition.filter).and_then(|node| node.parents.first().copied());
        let before = before.unwrap_or(source);
        for id in 0..self.nodes.len() {
            self.replace_parent(id, repartition.source, before);
        }
        let sides = self.copartitioned.iter_mut().flat_map(|join| &mut join.sides);
        sides.filter(|side| **side == repartition.source).for_each(|side| *side = before);
        let ImpliedRepartition { filter, sink, source, .. } = *repartition;
        self.optimizer.removed.extend([filter, sink, source]);
        self.optimizer.bypassed.insert(sink);
    }

    fn replace_parent(&mut self, node: NodeId, old: NodeId, new: NodeId) {
        let parents = self.nodes.get_mut(node).map(|node| &mut node.parents);
        parents.into_iter().flatten().filter(|parent| **parent == old).for_each(|parent| *parent = new);
    }
}
