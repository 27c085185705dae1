//! From the graph to running nodes: each handle of the DSL keeps typed factories of what was attached to it.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Called, CloneRecord, Node, NodeName, NodeToken, Nodes, Out, Relay, SourceNode};
use crate::error::{StreamsError, TaskId};
use crate::handlers::ErrorHandling;
use crate::serde::{HasSerde, SharedSerde};
use crate::state::{
    ChangelogRecords, Either, JoinBuffer, KvStore, Order, OuterJoinStore, RowsConfig, SessionStore,
    StorePlace, StoreToken, Stores, Subscription, SuppressBuffer, TaskStore, WindowStore, WindowStoreConfig,
};
use crate::topology::{NodeId, StoreKind, StoreSpec, TableInfo, TopicRef, TopologyInner, changelog_topic};

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
        self.build_where(tasks, None)
    }

    /// As [`Outlets::build`], of what was moved behind the repartition topic of this sink, or, without one, of what was
    /// not moved.
    pub(crate) fn build_where(
        &self,
        tasks: &mut TaskBuilder<'_>,
        moved_behind: Option<NodeId>,
    ) -> Result<Out<K, V>, StreamsError> {
        let moved = &tasks.topology.graph.optimizer.moved;
        let factories: Vec<_> = {
            let factories = self.factories.lock();
            factories
                .iter()
                .filter(|(node, _)| tasks.knows(*node) && moved.get(node).copied() == moved_behind)
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

/// How tasks are put together, beside the topology.
#[derive(Debug, Clone, Default)]
pub(crate) struct TaskSettings {
    pub(crate) application_id: String,
    /// For all stores, whatever each one asks for.
    pub(crate) changelog_records: Option<ChangelogRecords>,
    pub(crate) errors: ErrorHandling,
}

/// Puts one task together.
pub(crate) struct TaskBuilder<'a> {
    pub(crate) topology: &'a TopologyInner,
    pub(crate) settings: &'a TaskSettings,
    id: TaskId,
    shared: BTreeMap<NodeId, Box<dyn Any>>,
    pub(crate) stores: Stores,
    pub(crate) nodes: Nodes,
}

impl<'a> TaskBuilder<'a> {
    pub(crate) fn new(topology: &'a TopologyInner, settings: &'a TaskSettings, id: TaskId) -> Self {
        Self {
            topology,
            settings,
            id,
            shared: BTreeMap::new(),
            stores: Stores::default(),
            nodes: Nodes::default(),
        }
    }

    pub(crate) fn name(&self, node: NodeId) -> NodeName {
        self.topology
            .graph
            .nodes
            .get(node)
            .map_or_else(|| Arc::from(""), |node| Arc::from(node.name.as_str()))
    }

    /// A node as a place where serdes may fail.
    pub(crate) fn place(&self, node: NodeId) -> StorePlace {
        StorePlace { task: self.id, name: self.name(node) }
    }

    /// Whether the node was there when the topology was built, and was not optimised away.
    pub(crate) fn knows(&self, node: NodeId) -> bool {
        let graph = &self.topology.graph;
        let optimizer = &graph.optimizer;
        node < graph.nodes.len() && (!optimizer.removed.contains(&node) || optimizer.bypassed.contains(&node))
    }

    pub(crate) fn topic(&self, topic: &TopicRef) -> Arc<str> {
        topic.resolve(&self.settings.application_id)
    }

    /// What the topology says of a table.
    pub(crate) fn table(&self, node: NodeId) -> TableInfo {
        self.topology.graph.tables.get(&node).cloned().unwrap_or_default()
    }

    /// One of several ways to a node, which whichever parent comes first builds.
    pub(crate) fn relay<K, V, N: Node<K, V> + Called>(
        &mut self,
        node: NodeId,
        build: impl FnOnce(&mut Self) -> Result<N, StreamsError>,
    ) -> Result<Box<dyn Node<K, V>>, StreamsError> {
        let token = self.token(node, build)?;
        Ok(Box::new(Relay(token)))
    }

    /// The token of a node, built if it is not yet there.
    pub(crate) fn token<N: Called>(
        &mut self,
        node: NodeId,
        build: impl FnOnce(&mut Self) -> Result<N, StreamsError>,
    ) -> Result<NodeToken<N>, StreamsError> {
        if let Some(known) = self.shared.get(&node) {
            let known = known.downcast_ref::<NodeToken<N>>();
            return known.copied().ok_or_else(|| StreamsError::TypeMismatch { name: self.name(node) });
        }
        let built = build(self)?;
        let token = self.nodes.add(built);
        self.shared.insert(node, Box::new(token));
        Ok(token)
    }

    /// A node that commits call if it holds something back until then.
    pub(crate) fn called_if<K, V, N: Node<K, V> + Called>(
        &mut self,
        called: bool,
        node: N,
    ) -> Box<dyn Node<K, V>> {
        match called {
            true => Box::new(Relay(self.nodes.add(node))),
            false => Box::new(node),
        }
    }

    /// The store of this name, opened by whichever node comes first.
    fn store<S: TaskStore>(
        &mut self,
        spec: &StoreSpec,
        open: impl FnOnce(StorePlace, Option<Arc<str>>) -> S,
    ) -> Result<StoreToken<S>, StreamsError> {
        if let Some(known) = self.stores.find(&spec.name) {
            return known;
        }
        let changelog = spec.logged.then(|| match &spec.changelog {
            Some(topic) => self.topic(topic),
            None => changelog_topic(&self.settings.application_id, &spec.name),
        });
        let place = StorePlace { task: self.id, name: Arc::from(spec.name.as_str()) };
        Ok(self.stores.add(open(place, changelog)))
    }

    pub(crate) fn key_value<K: Send + 'static, V: Clone + Send + 'static>(
        &mut self,
        spec: &StoreSpec,
        key: &SharedSerde<K>,
        value: &SharedSerde<V>,
    ) -> Result<StoreToken<KvStore<K, V>>, StreamsError> {
        let records = self.rows_template(spec, value);
        self.store(spec, |place, changelog| {
            let (config, key) = (RowsConfig { place, changelog, ..records }, Arc::clone(key));
            match spec.kind {
                StoreKind::Versioned { history_ms } => KvStore::versioned(config, key, history_ms),
                _ => KvStore::new(config, key),
            }
        })
    }

    /// The store of a foreign-key join: by the bytes of both keys, in their order.
    pub(crate) fn subscriptions<K: Clone + Send + 'static>(
        &mut self,
        spec: &StoreSpec,
        subscription: &SharedSerde<Subscription<K>>,
    ) -> Result<StoreToken<KvStore<Bytes, Subscription<K>>>, StreamsError> {
        let records = self.rows_template(spec, subscription);
        self.store(spec, |place, changelog| {
            KvStore::new(RowsConfig { place, changelog, order: Order::Ordered, ..records }, Bytes::serde())
        })
    }

    pub(crate) fn window<K: Send + 'static, V: Clone + Send + 'static>(
        &mut self,
        spec: &StoreSpec,
        key: &SharedSerde<K>,
        value: &SharedSerde<V>,
    ) -> Result<StoreToken<WindowStore<K, V>>, StreamsError> {
        let records = self.rows_template(spec, value);
        let config = match spec.kind {
            StoreKind::Window { retention_ms, scanned, .. } => WindowStoreConfig { retention_ms, scanned },
            _ => WindowStoreConfig { retention_ms: i64::MAX, scanned: true },
        };
        self.store(spec, |place, changelog| {
            WindowStore::new(RowsConfig { place, changelog, ..records }, Arc::clone(key), &config)
        })
    }

    pub(crate) fn session<K: Send + 'static, V: Clone + Send + 'static>(
        &mut self,
        spec: &StoreSpec,
        key: &SharedSerde<K>,
        value: &SharedSerde<V>,
    ) -> Result<StoreToken<SessionStore<K, V>>, StreamsError> {
        let records = self.rows_template(spec, value);
        let retention = match spec.kind {
            StoreKind::Session { retention_ms } => retention_ms,
            _ => i64::MAX,
        };
        self.store(spec, |place, changelog| {
            SessionStore::new(RowsConfig { place, changelog, ..records }, Arc::clone(key), retention)
        })
    }

    pub(crate) fn outer_join<K, L, R>(
        &mut self,
        spec: &StoreSpec,
        key: &SharedSerde<K>,
        values: &SharedSerde<Vec<Either<L, R>>>,
    ) -> Result<StoreToken<OuterJoinStore<K, L, R>>, StreamsError>
    where
        K: Send + 'static,
        L: Clone + Send + 'static,
        R: Clone + Send + 'static,
    {
        let records = self.rows_template(spec, values);
        self.store(spec, |place, changelog| {
            OuterJoinStore::new(RowsConfig { place, changelog, ..records }, Arc::clone(key))
        })
    }

    pub(crate) fn join_buffer<K: Send + 'static, V: Send + 'static>(
        &mut self,
        spec: &StoreSpec,
        key: &SharedSerde<K>,
        value: &SharedSerde<V>,
    ) -> Result<StoreToken<JoinBuffer<K, V>>, StreamsError> {
        self.store(spec, |place, changelog| {
            JoinBuffer::new(place, changelog, Arc::clone(key), Arc::clone(value))
        })
    }

    pub(crate) fn suppress_buffer<K: Send + 'static, V: Send + 'static>(
        &mut self,
        spec: &StoreSpec,
        key: &SharedSerde<K>,
        value: &SharedSerde<V>,
    ) -> Result<StoreToken<SuppressBuffer<K, V>>, StreamsError> {
        self.store(spec, |place, changelog| {
            SuppressBuffer::new(place, changelog, Arc::clone(key), Arc::clone(value))
        })
    }

    /// A configuration that still lacks its place.
    fn rows_template<V>(&self, spec: &StoreSpec, value: &SharedSerde<V>) -> RowsConfig<V> {
        RowsConfig {
            place: StorePlace { task: self.id, name: Arc::from("") },
            changelog: None,
            // A topic that is somebody else's is read only.
            records: match spec.changelog {
                Some(_) => None,
                None => Some(self.settings.changelog_records.unwrap_or(spec.records)),
            },
            value: Arc::clone(value),
            order: Order::Hashed,
            prefix: 0,
            base: None,
        }
    }
}
