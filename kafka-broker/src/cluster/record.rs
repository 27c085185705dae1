//! What can change in the cluster's metadata. Everything the controller knows is these records, replayed in order.
//!
//! They rest in `__cluster_metadata-0` in Kafka's own format (see [`codec`](super::codec)); here they carry exactly
//! what this broker acts on, in types that cannot hold what the schema's nullable fields could.

use uuid::Uuid;

/// One change of the metadata, named as Kafka's record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum MetadataRecord {
    Topic {
        name: String,
        id: Uuid,
    },
    Partition {
        topic_id: Uuid,
        index: i32,
        state: PartitionState,
    },
    RemoveTopic {
        id: Uuid,
    },
    /// `value: None` removes the key.
    Config {
        resource: ConfigResource,
        key: String,
        value: Option<String>,
    },
    FeatureLevel {
        name: String,
        level: i16,
    },
    /// Producer ids below `next` are handed out to a broker already.
    ProducerIds {
        next: i64,
    },
    RegisterBroker {
        node_id: i32,
        incarnation: Uuid,
        epoch: i64,
        host: String,
        port: u16,
        rack: Option<String>,
    },
    /// A registered broker went away, or came back.
    BrokerRegistrationChange {
        node_id: i32,
        epoch: i64,
        fenced: bool,
    },
}

/// The leader of a partition that has none.
pub(crate) const NO_LEADER: i32 = -1;

/// Who leads and holds a partition.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PartitionState {
    pub(crate) replicas: Vec<i32>,
    pub(crate) isr: Vec<i32>,
    /// [`NO_LEADER`] while no replica may lead.
    pub(crate) leader: i32,
    /// One more with each election: what readers and replicas fence by (KIP-320).
    pub(crate) leader_epoch: i32,
    /// One more with each change of any kind (KIP-497).
    pub(crate) partition_epoch: i32,
    /// Replicas that a reassignment adds, and that it takes away once those that stay are in sync (KIP-455). Both are among
    /// `replicas` until then.
    pub(crate) adding: Vec<i32>,
    pub(crate) removing: Vec<i32>,
}

impl PartitionState {
    /// A new partition: its first replica leads, all are in sync.
    pub(crate) fn new(replicas: Vec<i32>) -> Self {
        let leader = replicas.first().copied().unwrap_or(NO_LEADER);
        let (adding, removing) = Default::default();
        Self {
            isr: replicas.clone(),
            replicas,
            leader,
            leader_epoch: 0,
            partition_epoch: 0,
            adding,
            removing,
        }
    }

    /// Whether a reassignment is under way.
    pub(crate) fn is_reassigned(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    /// The replicas that are to be when no reassignment is under way any more.
    pub(crate) fn replicas_after_reassignment(&self) -> impl Iterator<Item = i32> + '_ {
        self.replicas.iter().copied().filter(|node| !self.removing.contains(node))
    }
}

/// What a configuration belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ConfigResource {
    Topic(String),
    /// A broker's id in text; empty for the default of all brokers.
    Broker(String),
    Group(String),
    /// Any other resource type of a newer writer: kept, without effect.
    Other(i8, String),
}

impl ConfigResource {
    /// `ConfigResource.Type` on the wire.
    pub(crate) const TOPIC: i8 = 2;
    pub(crate) const BROKER: i8 = 4;
    pub(crate) const GROUP: i8 = 32;

    pub(crate) fn new(kind: i8, name: String) -> Self {
        match kind {
            Self::TOPIC => Self::Topic(name),
            Self::BROKER => Self::Broker(name),
            Self::GROUP => Self::Group(name),
            other => Self::Other(other, name),
        }
    }

    pub(crate) fn parts(&self) -> (i8, &str) {
        match self {
            Self::Topic(name) => (Self::TOPIC, name),
            Self::Broker(name) => (Self::BROKER, name),
            Self::Group(name) => (Self::GROUP, name),
            Self::Other(kind, name) => (*kind, name),
        }
    }
}
