//! The logical graph: nodes, stores and topics, cut into sub-topologies. No IO and no types of keys or values.

mod description;
mod java_order;
mod java_tree_set;
pub(crate) mod naming;
mod optimize;
mod subtopology;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use description::{NodeDescription, NodeDescriptionKind, SubTopologyDescription, TopologyDescription};
pub use optimize::Optimizations;
pub(crate) use optimize::{AnyOutlets, ImpliedRepartition, Optimizer, Rewire, StreamJoin};
pub(crate) use subtopology::SubTopology;

use crate::error::{InvalidTopology, TopologyError};
use crate::processor::SourceFactory;
use crate::state::ChangelogRecords;

/// A node's place in [`Graph::nodes`].
pub(crate) type NodeId = usize;

/// A topic as the topology names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum TopicRef {
    /// A topic of the user's.
    External(Arc<str>),
    /// A repartition topic: on the cluster its name begins with the application's id.
    Internal(Arc<str>),
}

impl TopicRef {
    pub(crate) fn name(&self) -> &str {
        match self {
            TopicRef::External(name) | TopicRef::Internal(name) => name,
        }
    }

    /// The name on the cluster.
    pub(crate) fn resolve(&self, application_id: &str) -> Arc<str> {
        match self {
            TopicRef::External(name) => Arc::clone(name),
            TopicRef::Internal(name) => Arc::from(format!("{application_id}-{name}")),
        }
    }
}

/// `applicationId-store-changelog`.
pub(crate) fn changelog_topic(application_id: &str, store: &str) -> Arc<str> {
    Arc::from(format!("{application_id}-{store}-changelog"))
}

#[derive(Clone)]
pub(crate) enum NodeKind {
    Source {
        topics: Vec<TopicRef>,
        factories: Vec<SourceFactory>,
    },
    Processor {
        stores: Vec<String>,
    },
    /// Without a topic: each record says its own.
    Sink {
        topic: Option<TopicRef>,
    },
}

#[derive(Clone)]
pub(crate) struct GraphNode {
    pub(crate) name: String,
    pub(crate) kind: NodeKind,
    pub(crate) parents: Vec<NodeId>,
}

/// What a store holds, as far as topics and time matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum StoreKind {
    #[default]
    KeyValue,
    /// Key-value, and what rows were before (KIP-889).
    Versioned {
        history_ms: i64,
    },
    /// `scanned`: for each record the rows of a stretch of time are looked at, not those of known windows.
    Window {
        retention_ms: i64,
        retain_duplicates: bool,
        scanned: bool,
    },
    Session {
        retention_ms: i64,
    },
}

#[derive(Debug, Clone, Default)]
pub(crate) struct StoreSpec {
    pub(crate) name: String,
    pub(crate) kind: StoreKind,
    pub(crate) logged: bool,
    pub(crate) records: ChangelogRecords,
    /// A topic that has the store's content already, instead of a changelog.
    pub(crate) changelog: Option<TopicRef>,
}

/// What is known of a table beside its types.
#[derive(Debug, Clone, Default)]
pub(crate) struct TableInfo {
    /// The store that has its rows.
    pub(crate) store: Option<StoreSpec>,
    /// A store that it gets as soon as somebody needs its rows.
    pub(crate) lazy_store: Option<StoreSpec>,
    /// Tables whose rows it derives its own from while it has no store.
    pub(crate) parents: Vec<NodeId>,
    /// What its rows were follows from what its parents' were, even when it has a store.
    pub(crate) old_from_parents: bool,
    /// Each change says what the row was.
    pub(crate) send_old: bool,
    /// How long after their ends its windows take records, if it has windows.
    pub(crate) window_grace: Option<i64>,
}

#[derive(Debug, Clone)]
pub(crate) struct RepartitionSpec {
    pub(crate) name: Arc<str>,
    /// A number of partitions the user asked for; otherwise that of the topics upstream.
    pub(crate) partitions: Option<i32>,
}

/// The inputs of a join: records of one key must be in partitions of one number.
#[derive(Debug, Clone)]
pub(crate) struct Copartitioned {
    /// The join.
    pub(crate) node: NodeId,
    pub(crate) sides: Vec<NodeId>,
}

/// What the DSL writes down while it is used.
#[derive(Clone, Default)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<GraphNode>,
    pub(crate) stores: Vec<StoreSpec>,
    pub(crate) repartitions: Vec<RepartitionSpec>,
    pub(crate) tables: BTreeMap<NodeId, TableInfo>,
    /// Left and outer joins, which take records without a key (KIP-962).
    pub(crate) relaxed_null_keys: BTreeSet<NodeId>,
    pub(crate) copartitioned: Vec<Copartitioned>,
    pub(crate) problems: Vec<TopologyError>,
    pub(crate) optimizer: Optimizer,
    next_index: u32,
    /// A node whose number is given back if it is named before another number is taken, and the counter then.
    unnumbered: Option<(NodeId, u32)>,
}

impl Graph {
    /// One counter numbers nodes and stores. A name that the user gives burns a number too, so that naming one
    /// node renames no other.
    pub(crate) fn generate_name(&mut self, prefix: &str) -> String {
        let index = self.next_index;
        self.next_index = index.wrapping_add(1);
        format!("{prefix}{index:010}")
    }

    pub(crate) fn name_or(&mut self, given: Option<String>, prefix: &str) -> String {
        let generated = self.generate_name(prefix);
        given.unwrap_or(generated)
    }

    pub(crate) fn add_node(&mut self, name: String, kind: NodeKind, parents: Vec<NodeId>) -> NodeId {
        self.nodes.push(GraphNode { name, kind, parents });
        self.nodes.len() - 1
    }

    /// Adds a table and the store that it keeps its rows in.
    pub(crate) fn add_table(&mut self, name: String, store: StoreSpec, parent: NodeId) -> NodeId {
        let stores = vec![store.name.clone()];
        let node = self.add_node(name, NodeKind::Processor { stores }, vec![parent]);
        self.stores.push(store.clone());
        self.tables.insert(node, TableInfo { store: Some(store), ..TableInfo::default() });
        node
    }

    /// A table's rows are going to be looked up: some table upstream must keep them. Returns the stores that do.
    pub(crate) fn keep_rows(&mut self, table: NodeId) -> Vec<String> {
        self.materialize(table);
        let Some(info) = self.tables.get(&table) else { return Vec::new() };
        if let Some(store) = &info.store {
            return vec![store.name.clone()];
        }
        let parents = info.parents.clone();
        let is_join = parents.len() > 1;
        let found: Vec<String> = parents.into_iter().flat_map(|parent| self.keep_rows(parent)).collect();
        let (capacity, mut known) = (found.len(), BTreeSet::new());
        let mut stores: Vec<String> = found.into_iter().filter(|store| known.insert(store.clone())).collect();
        if is_join {
            // KTableKTableAbstractJoinValueGetterSupplier.storeNames goes through a set.
            java_order::hash_set_order_from(&mut stores, capacity);
        }
        stores
    }

    /// How long after their ends the windows of a table's keys take records; `None` if they are no windows
    /// (`GraphGraceSearchUtil`).
    pub(crate) fn window_grace(&self, table: NodeId) -> Option<i64> {
        let info = self.tables.get(&table)?;
        info.window_grace
            .or_else(|| info.parents.iter().filter_map(|parent| self.window_grace(*parent)).max())
    }

    /// Whether a table's rows are known for earlier times too.
    pub(crate) fn is_versioned(&self, table: NodeId) -> bool {
        self.history(table).is_some()
    }

    /// How far back a table's rows are known, in milliseconds; `None` if they are not.
    pub(crate) fn history(&self, table: NodeId) -> Option<i64> {
        let info = self.tables.get(&table)?;
        match info.store.as_ref().or(info.lazy_store.as_ref()).map(|store| store.kind) {
            Some(StoreKind::Versioned { history_ms }) => Some(history_ms),
            // A join's rows are known as they are now only.
            None if !info.old_from_parents => {
                let known = info.parents.iter().map(|parent| self.history(*parent));
                known.collect::<Option<Vec<_>>>()?.into_iter().min()
            }
            _ => None,
        }
    }

    fn materialize(&mut self, table: NodeId) {
        let Some(info) = self.tables.get_mut(&table) else { return };
        if let Some(store) = info.lazy_store.take() {
            info.store = Some(store.clone());
            if let Some(GraphNode { kind: NodeKind::Processor { stores }, .. }) = self.nodes.get_mut(table) {
                stores.push(store.name.clone());
            }
            self.stores.push(store);
        }
    }

    /// Somebody needs to know what a table's rows were (`KTableImpl.enableSendingOldValues`).
    pub(crate) fn send_old(&mut self, table: NodeId) {
        self.materialize(table);
        let Some(info) = self.tables.get_mut(&table) else { return };
        if std::mem::replace(&mut info.send_old, true) || (info.store.is_some() && !info.old_from_parents) {
            return;
        }
        for parent in info.parents.clone() {
            self.send_old(parent);
        }
    }

    /// As [`Graph::send_old`], if that takes no new store. Whether it does.
    pub(crate) fn send_old_if_kept(&mut self, table: NodeId) -> bool {
        let Some(info) = self.tables.get(&table) else { return false };
        if info.send_old {
            return true;
        }
        if info.store.is_some() {
            self.send_old(table);
            return true;
        }
        let parents = info.parents.clone();
        if parents.is_empty() || !parents.into_iter().all(|parent| self.send_old_if_kept(parent)) {
            return false;
        }
        if let Some(info) = self.tables.get_mut(&table) {
            info.send_old = true;
        }
        true
    }

    /// Adds a source, or joins the one that reads the same topics already.
    pub(crate) fn add_source(
        &mut self,
        name: String,
        topics: Vec<TopicRef>,
        factory: Option<SourceFactory>,
    ) -> NodeId {
        let set: BTreeSet<&TopicRef> = topics.iter().collect();
        for (id, node) in self.nodes.iter_mut().enumerate() {
            let NodeKind::Source { topics: known, factories } = &mut node.kind else { continue };
            let known: BTreeSet<&TopicRef> = known.iter().collect();
            if known == set {
                factories.extend(factory);
                return id;
            }
            if let Some(topic) = known.intersection(&set).next() {
                self.problems.push(TopologyError::OverlappingSources {
                    topic: topic.name().to_owned(),
                    first: node.name.clone(),
                    second: name.clone(),
                });
            }
        }
        if topics.is_empty() {
            self.problems.push(TopologyError::NoTopic { node: name.clone() });
        }
        self.add_node(name, NodeKind::Source { topics, factories: factory.into_iter().collect() }, Vec::new())
    }

    pub(crate) fn add_source_factory(&mut self, source: NodeId, factory: SourceFactory) {
        if let Some(GraphNode { kind: NodeKind::Source { factories, .. }, .. }) = self.nodes.get_mut(source) {
            factories.push(factory);
        }
    }

    /// A name for this node burns no number: so it is in Java for processors.
    pub(crate) fn give_back_number(&mut self, node: NodeId) {
        self.unnumbered = Some((node, self.next_index));
    }

    pub(crate) fn rename(&mut self, node: NodeId, name: String) {
        if self.unnumbered == Some((node, self.next_index)) {
            self.next_index = self.next_index.wrapping_sub(1);
            self.unnumbered = None;
        }
        if let Some(node) = self.nodes.get_mut(node) {
            node.name = name;
        }
    }

    /// The topics that the records at a node were read from, in its own sub-topology.
    pub(crate) fn topics_upstream(&self, node: NodeId) -> BTreeSet<TopicRef> {
        let (mut seen, mut ahead, mut found) = (BTreeSet::new(), vec![node], BTreeSet::new());
        while let Some(id) = ahead.pop() {
            let Some(node) = self.nodes.get(id).filter(|_| seen.insert(id)) else { continue };
            if let NodeKind::Source { topics, .. } = &node.kind {
                found.extend(topics.iter().cloned());
            }
            ahead.extend(&node.parents);
        }
        found
    }

    /// Whether a record without a key is still of use behind a node: some join downstream takes it.
    pub(crate) fn takes_null_keys(&self, node: NodeId) -> bool {
        let mut seen = BTreeSet::new();
        let mut ahead = vec![node];
        while let Some(node) = ahead.pop() {
            if self.relaxed_null_keys.contains(&node) {
                return true;
            }
            if !seen.insert(node) {
                continue;
            }
            let internal = match self.nodes.get(node).map(|node| &node.kind) {
                Some(NodeKind::Sink { topic: Some(TopicRef::Internal(topic)) }) => Some(topic),
                _ => None,
            };
            let follows = |next: &GraphNode| match (&next.kind, internal) {
                (NodeKind::Source { topics, .. }, Some(topic)) => {
                    topics.contains(&TopicRef::Internal(Arc::clone(topic)))
                }
                _ => next.parents.contains(&node),
            };
            ahead.extend(self.nodes.iter().enumerate().filter(|(_, next)| follows(next)).map(|(id, _)| id));
        }
        false
    }

    fn problems(&self) -> Vec<TopologyError> {
        let mut problems = self.problems.clone();
        if !self.nodes.iter().any(|node| matches!(node.kind, NodeKind::Source { .. })) {
            problems.push(TopologyError::NoSource);
        }
        let duplicates = |names: &mut dyn Iterator<Item = String>| {
            let mut counts = BTreeMap::<String, usize>::new();
            names.for_each(|name| *counts.entry(name).or_default() += 1);
            counts.into_iter().filter(|(_, count)| *count > 1).map(|(name, _)| name).collect::<Vec<_>>()
        };
        let present = self.in_order().into_iter().filter_map(|id| self.nodes.get(id));
        let nodes = duplicates(&mut present.map(|node| node.name.clone()));
        problems.extend(nodes.into_iter().map(|name| TopologyError::DuplicateNode { name }));
        let stores = duplicates(&mut self.stores.iter().map(|store| store.name.clone()));
        problems.extend(stores.into_iter().map(|name| TopologyError::DuplicateStore { name }));
        let topics = duplicates(&mut self.repartitions.iter().map(|spec| spec.name.to_string()));
        problems.extend(topics.into_iter().map(|name| TopologyError::DuplicateRepartition { name }));
        let topics = self.nodes.iter().flat_map(|node| match &node.kind {
            NodeKind::Source { topics, .. } => topics.clone(),
            NodeKind::Sink { topic } => topic.clone().into_iter().collect(),
            NodeKind::Processor { .. } => Vec::new(),
        });
        let names: BTreeSet<String> = topics
            .map(|topic| topic.name().to_owned())
            .chain(self.stores.iter().map(|store| store.name.clone()))
            .chain(self.nodes.iter().map(|node| node.name.clone()))
            .filter(|name| !naming::is_valid(name))
            .collect();
        problems.extend(names.into_iter().map(|name| TopologyError::InvalidName { name }));
        problems
    }
}

pub(crate) struct TopologyInner {
    pub(crate) graph: Graph,
    pub(crate) subtopologies: Vec<SubTopology>,
}

/// A finished topology: what [`crate::KafkaStreams`] runs and [`crate::testing::TestDriver`] tests. Cheap to
/// clone.
#[derive(Clone)]
pub struct Topology {
    pub(crate) inner: Arc<TopologyInner>,
}

impl std::fmt::Debug for Topology {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Topology").field(&self.describe()).finish()
    }
}

impl Topology {
    pub(crate) fn new(graph: Graph) -> Result<Self, InvalidTopology> {
        let problems = graph.problems();
        if !problems.is_empty() {
            return Err(InvalidTopology { problems });
        }
        let subtopologies = subtopology::cut(&graph);
        Ok(Self { inner: Arc::new(TopologyInner { graph, subtopologies }) })
    }

    /// The topology in words; `to_string()` of it is what Java's `describe()` prints.
    pub fn describe(&self) -> TopologyDescription {
        description::describe(&self.inner.graph, &self.inner.subtopologies)
    }

    /// The user's topics that are read, without internal ones.
    pub fn source_topics(&self) -> Vec<Arc<str>> {
        let topics = self.inner.subtopologies.iter().flat_map(|sub| &sub.source_topics);
        let set: BTreeSet<Arc<str>> = topics
            .filter_map(|topic| match topic {
                TopicRef::External(name) => Some(Arc::clone(name)),
                TopicRef::Internal(_) => None,
            })
            .collect();
        set.into_iter().collect()
    }
}
