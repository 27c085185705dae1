//! The snapshot. How it changes stands in `update`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kafka_wire::{ErrorCode, Uuid};
use rustc_hash::FxBuildHasher;

use crate::net::Address;

/// The cluster as brokers described it last: an immutable snapshot.
///
/// It holds the topics somebody asked for, not every topic of the cluster. A partition's leader never goes back to an
/// older leader epoch, whatever a lagging broker says, unless the topic was deleted and made anew.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    pub(super) cluster_id: Option<Arc<str>>,
    pub(super) controller_id: Option<i32>,
    pub(super) brokers: BTreeMap<i32, Arc<Broker>>,
    pub(super) topics: HashMap<Arc<str>, Arc<Topic>, FxBuildHasher>,
    pub(super) topic_names: HashMap<Uuid, Arc<str>, FxBuildHasher>,
    pub(super) topic_errors: HashMap<Arc<str>, ErrorCode, FxBuildHasher>,
    /// Topics that were said to be missing, as they were last, in case a lagging broker still has an older picture.
    pub(super) gone: HashMap<Arc<str>, Arc<Topic>, FxBuildHasher>,
}

/// A broker of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Broker {
    /// Its number, `node.id`.
    pub id: i32,
    /// Where it listens for clients.
    pub address: Address,
    /// Its rack, if it has one.
    pub rack: Option<Arc<str>>,
}

/// A topic of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Its id; a topic made anew under an old name has another. `None` from brokers before Kafka 2.8.
    pub id: Option<Uuid>,
    /// Whether it is one of Kafka's own, such as `__consumer_offsets`.
    pub is_internal: bool,
    /// Its partitions, in order from 0.
    pub partitions: Vec<Partition>,
}

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Partition {
    /// Its number, from 0.
    pub id: i32,
    /// The broker that leads it; `None` while there is no leader.
    pub leader: Option<i32>,
    /// Counts leader changes; -1 where the broker does not tell.
    pub leader_epoch: i32,
    /// The brokers that keep a copy.
    pub replicas: Vec<i32>,
    /// The replicas that are in sync.
    pub isr: Vec<i32>,
    /// The replicas whose disk or broker is down.
    pub offline_replicas: Vec<i32>,
}

impl Broker {
    /// A broker as an answer describes it; `None` if the port is none.
    pub(crate) fn described(id: i32, host: &str, port: i32, rack: Option<&str>) -> Option<Self> {
        let address = Address::new(host, u16::try_from(port).ok()?);
        Some(Self { id, address, rack: rack.map(Arc::from) })
    }
}

impl Topic {
    /// The partition with this number.
    pub fn partition(&self, id: i32) -> Option<&Partition> {
        usize::try_from(id).ok().and_then(|at| self.partitions.get(at))
    }
}

/// What a metadata request asked for, and so what its answer replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    All,
    Topics(Vec<Arc<str>>),
}

impl Cluster {
    /// The cluster's id, once a broker told it.
    pub fn cluster_id(&self) -> Option<&str> {
        self.cluster_id.as_deref()
    }

    /// The broker that takes administrative requests.
    pub fn controller(&self) -> Option<&Arc<Broker>> {
        self.broker(self.controller_id?)
    }

    /// The broker with this number.
    pub fn broker(&self, id: i32) -> Option<&Arc<Broker>> {
        self.brokers.get(&id)
    }

    /// The brokers, by number.
    pub fn brokers(&self) -> impl ExactSizeIterator<Item = &Arc<Broker>> {
        self.brokers.values()
    }

    /// A topic by name, if it was asked for and exists.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    /// A topic by id.
    pub fn topic_by_id(&self, id: Uuid) -> Option<&Arc<Topic>> {
        self.topic(self.topic_names.get(&id)?)
    }

    /// The topics that were asked for and exist, in no order.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    /// Why a topic that was asked for is not in the snapshot, or not whole.
    pub fn topic_error(&self, name: &str) -> Option<ErrorCode> {
        self.topic_errors.get(name).copied()
    }

    /// How many partitions a topic has.
    pub fn partition_count(&self, topic: &str) -> Option<usize> {
        self.topic(topic).map(|topic| topic.partitions.len())
    }

    /// A partition of a topic.
    pub fn partition(&self, topic: &str, partition: i32) -> Option<&Partition> {
        self.topic(topic)?.partition(partition)
    }

    /// The broker that leads a partition.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<&Arc<Broker>> {
        self.broker(self.partition(topic, partition)?.leader?)
    }
}
