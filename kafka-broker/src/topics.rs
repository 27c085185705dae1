//! The topics of the cluster as this node sees them, by name and by id.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use uuid::Uuid;

use crate::cluster::image::is_internal;
use crate::partition::Partition;

/// A topic with its partitions.
pub(crate) struct HostedTopic {
    name: Arc<str>,
    id: Uuid,
    /// By index; a partition that is created later is pushed.
    partitions: RwLock<Vec<Arc<Partition>>>,
}

impl HostedTopic {
    pub(crate) fn new(name: Arc<str>, id: Uuid) -> Self {
        Self { name, id, partitions: RwLock::default() }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    pub(crate) fn is_internal(&self) -> bool {
        is_internal(&self.name)
    }

    pub(crate) fn partition(&self, index: i32) -> Option<Arc<Partition>> {
        self.partitions.read().get(usize::try_from(index).ok()?).cloned()
    }

    pub(crate) fn partitions(&self) -> Vec<Arc<Partition>> {
        self.partitions.read().clone()
    }

    /// Adds the partition with the next index.
    pub(crate) fn push(&self, partition: Arc<Partition>) {
        self.partitions.write().push(partition);
    }
}

/// All hosted topics.
#[derive(Default)]
pub(crate) struct Topics {
    registry: RwLock<Registry>,
}

#[derive(Default)]
struct Registry {
    by_name: HashMap<Arc<str>, Arc<HostedTopic>>,
    by_id: FxHashMap<Uuid, Arc<HostedTopic>>,
}

impl Topics {
    pub(crate) fn by_name(&self, name: &str) -> Option<Arc<HostedTopic>> {
        self.registry.read().by_name.get(name).cloned()
    }

    pub(crate) fn by_id(&self, id: Uuid) -> Option<Arc<HostedTopic>> {
        self.registry.read().by_id.get(&id).cloned()
    }

    /// A partition by its topic's name and its index.
    pub(crate) fn partition(&self, topic: &str, index: i32) -> Option<Arc<Partition>> {
        self.by_name(topic)?.partition(index)
    }

    pub(crate) fn insert(&self, topic: Arc<HostedTopic>) {
        let mut registry = self.registry.write();
        registry.by_name.insert(Arc::clone(topic.name()), Arc::clone(&topic));
        registry.by_id.insert(topic.id(), topic);
    }

    pub(crate) fn remove(&self, id: Uuid) -> Option<Arc<HostedTopic>> {
        let mut registry = self.registry.write();
        let topic = registry.by_id.remove(&id)?;
        registry.by_name.remove(topic.name());
        Some(topic)
    }

    /// Every partition, for work in the background.
    pub(crate) fn all_partitions(&self) -> Vec<Arc<Partition>> {
        let topics: Vec<_> = self.registry.read().by_id.values().cloned().collect();
        topics.iter().flat_map(|topic| topic.partitions()).collect()
    }
}
