//! From the graph to running nodes: each handle of the DSL keeps typed factories of what was attached to it.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::{CloneRecord, Node, NodeName, Out, SourceNode};
use crate::error::StreamsError;
use crate::serde::SharedSerde;
use crate::state::{KeyValueStore, MemoryStore, SharedStore, TaskStore, TypedStore};
use crate::topology::{NodeId, TopicRef, TopologyInner, changelog_topic};

pub(crate) type NodeFactory<K, V> =
    Arc<dyn Fn(&mut TaskBuilder<'_>) -> Result<Box<dyn Node<K, V>>, StreamsError> + Send + Sync>;

pub(crate) type SourceFactory =
    Arc<dyn Fn(&mut TaskBuilder<'_>) -> Result<Box<dyn SourceNode>, StreamsError> + Send + Sync>;

/// What was attached to one handle of the DSL.
pub(crate) struct Outlets<K, V> {
    factories: Mutex<Vec<(NodeId, NodeFactory<K, V>)>>,
    clone: OnceLock<CloneRecord<K, V>>,
}

impl<K, V> Outlets<K, V> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { factories: Mutex::new(Vec::new()), clone: OnceLock::new() })
    }

    pub(crate) fn attach(&self, node: NodeId, factory: NodeFactory<K, V>) {
        self.factories.lock().push((node, factory));
    }

    pub(crate) fn allow_fan_out(&self, clone: CloneRecord<K, V>) {
        // Every caller passes the one clone function of these types.
        let _ = self.clone.set(clone);
    }

    /// Builds everything that is attached and belongs to the topology: the builder may have grown since.
    pub(crate) fn build(&self, tasks: &mut TaskBuilder<'_>) -> Result<Out<K, V>, StreamsError> {
        let factories: Vec<_> = {
            let factories = self.factories.lock();
            factories
                .iter()
                .filter(|(node, _)| tasks.knows(*node))
                .map(|(_, factory)| Arc::clone(factory))
                .collect()
        };
        let mut nodes = factories.iter().map(|factory| factory(tasks)).collect::<Result<Vec<_>, _>>()?;
        Ok(match (nodes.len(), self.clone.get()) {
            (0, _) => Out::None,
            (_, Some(clone)) if nodes.len() > 1 => Out::Many(nodes, *clone),
            // Two consumers need two handles, and the second one comes from a clone.
            _ => nodes.pop().map_or(Out::None, Out::One),
        })
    }
}

/// Puts one task together.
pub(crate) struct TaskBuilder<'a> {
    pub(crate) topology: &'a TopologyInner,
    pub(crate) application_id: &'a str,
    shared: BTreeMap<NodeId, Box<dyn Any>>,
    pub(crate) handles: BTreeMap<Arc<str>, Box<dyn Any + Send>>,
    pub(crate) stores: Vec<Box<dyn TaskStore>>,
}

impl<'a> TaskBuilder<'a> {
    pub(crate) fn new(topology: &'a TopologyInner, application_id: &'a str) -> Self {
        Self {
            topology,
            application_id,
            shared: BTreeMap::new(),
            handles: BTreeMap::new(),
            stores: Vec::new(),
        }
    }

    pub(crate) fn name(&self, node: NodeId) -> NodeName {
        self.topology
            .graph
            .nodes
            .get(node)
            .map_or_else(|| Arc::from(""), |node| Arc::from(node.name.as_str()))
    }

    /// Whether the node was there when the topology was built.
    pub(crate) fn knows(&self, node: NodeId) -> bool {
        node < self.topology.graph.nodes.len()
    }

    pub(crate) fn topic(&self, topic: &TopicRef) -> Arc<str> {
        topic.resolve(self.application_id)
    }

    /// The node that several parents share, built by whichever comes first.
    pub(crate) fn shared_node<T: Clone + 'static>(
        &mut self,
        node: NodeId,
        build: impl FnOnce(&mut Self) -> Result<T, StreamsError>,
    ) -> Result<T, StreamsError> {
        if let Some(known) = self.shared.get(&node) {
            return known
                .downcast_ref::<T>()
                .cloned()
                .ok_or_else(|| StreamsError::TypeMismatch { name: self.name(node) });
        }
        let built = build(self)?;
        self.shared.insert(node, Box::new(built.clone()));
        Ok(built)
    }

    /// The store of this name, opened by whichever node comes first.
    pub(crate) fn store<K: Send + 'static, V: Clone + Send + 'static>(
        &mut self,
        name: &str,
        logged: bool,
        key: &SharedSerde<K>,
        value: &SharedSerde<V>,
    ) -> Result<SharedStore<K, V>, StreamsError> {
        if let Some(known) = self.handles.get(name) {
            return known
                .downcast_ref::<SharedStore<K, V>>()
                .cloned()
                .ok_or_else(|| StreamsError::TypeMismatch { name: Arc::from(name) });
        }
        let base: Box<dyn KeyValueStore> = Box::new(MemoryStore::default());
        let changelog = changelog_topic(self.application_id, name);
        let name: Arc<str> = Arc::from(name);
        let store =
            TypedStore::new(Arc::clone(&name), changelog, logged, Arc::clone(key), Arc::clone(value), base);
        let store: SharedStore<K, V> = Arc::new(Mutex::new(store));
        self.handles.insert(name, Box::new(Arc::clone(&store)));
        self.stores.push(Box::new(Arc::clone(&store)));
        Ok(store)
    }
}
