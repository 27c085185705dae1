//! The snapshot, and the rule by which an answer of a broker changes it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kafka_wire::messages::MetadataResponse;
use kafka_wire::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};
use kafka_wire::{ErrorCode, Uuid};
use rustc_hash::FxBuildHasher;

use crate::net::Address;

/// The cluster as brokers described it last: an immutable snapshot.
///
/// It holds the topics somebody asked for, not every topic of the cluster. A partition's leader never goes back to an
/// older leader epoch, whatever a lagging broker says, unless the topic was deleted and made anew.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    cluster_id: Option<Arc<str>>,
    controller_id: Option<i32>,
    brokers: BTreeMap<i32, Arc<Broker>>,
    topics: HashMap<Arc<str>, Arc<Topic>, FxBuildHasher>,
    topic_names: HashMap<Uuid, Arc<str>, FxBuildHasher>,
    topic_errors: HashMap<Arc<str>, ErrorCode, FxBuildHasher>,
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

    /// The snapshot after a broker answered `asked`.
    pub(crate) fn updated(&self, response: MetadataResponse, asked: &Asked) -> Self {
        let mut next = self.clone();
        next.cluster_id = response.cluster_id.map(|id| Arc::from(id.as_str())).or(next.cluster_id);
        next.controller_id = (response.controller_id.0 >= 0).then_some(response.controller_id.0);
        if !response.brokers.is_empty() {
            next.brokers = response
                .brokers
                .into_iter()
                .filter_map(|broker| {
                    let port = u16::try_from(broker.port).ok()?;
                    let broker = Broker {
                        id: broker.node_id.0,
                        address: Address::new(broker.host.as_str(), port),
                        rack: broker.rack.map(|rack| Arc::from(rack.as_str())),
                    };
                    Some((broker.id, Arc::new(broker)))
                })
                .collect();
        }
        if *asked == Asked::All {
            next.topics.clear();
            next.topic_errors.clear();
        }
        for topic in response.topics {
            next.take_topic(topic, self);
        }
        next.topic_names =
            next.topics.values().filter_map(|topic| Some((topic.id?, topic.name.clone()))).collect();
        next
    }

    fn take_topic(&mut self, topic: MetadataResponseTopic, before: &Self) {
        let Some(name) = topic.name.as_ref().map(|name| name.as_str()) else {
            return;
        };
        let known = before.topics.get(name);
        let name = known.map_or_else(|| Arc::from(name), |known| known.name.clone());
        let code = ErrorCode::from(topic.error_code);
        if code.is_ok() {
            self.topic_errors.remove(&name);
        } else {
            self.topic_errors.insert(name.clone(), code);
            // While a leader is being elected the old picture is still the best one; a topic that is gone is gone.
            if !matches!(code, ErrorCode::LeaderNotAvailable | ErrorCode::RequestTimedOut) {
                self.topics.remove(&name);
            }
            return;
        }
        let id = Some(topic.topic_id).filter(|id| !id.is_nil());
        let same = known.filter(|known| known.id == id || known.id.is_none() || id.is_none());
        let mut partitions: Vec<Partition> = topic.partitions.into_iter().map(partition).collect();
        partitions.sort_by_key(|partition| partition.id);
        partitions.dedup_by_key(|partition| partition.id);
        // Numbers are positions from here on; a hole could only come from a broker that is out of its mind.
        let whole = partitions.iter().zip(0..).take_while(|(partition, at)| partition.id == *at).count();
        partitions.truncate(whole);
        if let Some(same) = same {
            for partition in &mut partitions {
                if let Some(known) = same.partition(partition.id)
                    && known.leader_epoch > partition.leader_epoch
                {
                    *partition = known.clone();
                }
            }
        }
        let topic = Topic { name: name.clone(), id, is_internal: topic.is_internal, partitions };
        self.topics.insert(name, Arc::new(topic));
    }

    /// The snapshot after an answer named a newer leader (KIP-951); `None` where it does not.
    pub(crate) fn with_leader(&self, topic: &str, partition: i32, leader: i32, epoch: i32) -> Option<Self> {
        let known = self.topic(topic)?;
        if leader < 0
            || !self.brokers.contains_key(&leader)
            || known.partition(partition)?.leader_epoch >= epoch
        {
            return None;
        }
        let mut changed = Topic::clone(known);
        let at = usize::try_from(partition).ok()?;
        let slot = changed.partitions.get_mut(at)?;
        slot.leader = Some(leader);
        slot.leader_epoch = epoch;
        let mut next = self.clone();
        next.topics.insert(changed.name.clone(), Arc::new(changed));
        Some(next)
    }

    /// The snapshot with a broker that an answer named as the place of a new leader (KIP-951); `None` where it is known.
    pub(crate) fn with_broker(&self, broker: Broker) -> Option<Self> {
        if self.brokers.contains_key(&broker.id) {
            return None;
        }
        let mut next = self.clone();
        next.brokers.insert(broker.id, Arc::new(broker));
        Some(next)
    }

    /// The snapshot without topics that nobody uses any more.
    pub(crate) fn without_topics(&self, unused: &[Arc<str>]) -> Self {
        let mut next = self.clone();
        for name in unused {
            if let Some(topic) = next.topics.remove(name)
                && let Some(id) = topic.id
            {
                next.topic_names.remove(&id);
            }
            next.topic_errors.remove(name);
        }
        next
    }
}

fn partition(partition: MetadataResponsePartition) -> Partition {
    let ids = |ids: Vec<kafka_wire::messages::BrokerId>| ids.into_iter().map(|id| id.0).collect();
    Partition {
        id: partition.partition_index,
        leader: Some(partition.leader_id.0).filter(|&id| id >= 0),
        leader_epoch: partition.leader_epoch,
        replicas: ids(partition.replica_nodes),
        isr: ids(partition.isr_nodes),
        offline_replicas: ids(partition.offline_replicas),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_wire::StrBytes;
    use kafka_wire::messages::metadata_response::MetadataResponseBroker;
    use kafka_wire::messages::{BrokerId, TopicName};

    fn answer(topic_id: u128, leaders: &[(i32, i32)]) -> MetadataResponse {
        let brokers = (1..=3)
            .map(|id| {
                MetadataResponseBroker::default()
                    .with_node_id(BrokerId(id))
                    .with_host(StrBytes::from_string(format!("b{id}")))
                    .with_port(9092)
            })
            .collect();
        let partitions = leaders
            .iter()
            .zip(0..)
            .map(|(&(leader, epoch), at)| {
                MetadataResponsePartition::default()
                    .with_partition_index(at)
                    .with_leader_id(BrokerId(leader))
                    .with_leader_epoch(epoch)
            })
            .collect();
        MetadataResponse::default().with_controller_id(BrokerId(2)).with_brokers(brokers).with_topics(vec![
            MetadataResponseTopic::default()
                .with_name(Some(TopicName(StrBytes::from_static_str("t"))))
                .with_topic_id(Uuid::from_u128(topic_id))
                .with_partitions(partitions),
        ])
    }

    fn asked() -> Asked {
        Asked::Topics(vec![Arc::from("t")])
    }

    #[test]
    fn a_lagging_broker_does_not_take_a_leader_back() {
        let now = Cluster::default().updated(answer(1, &[(1, 5), (2, 5)]), &asked());
        let later = now.updated(answer(1, &[(3, 4), (3, 6)]), &asked());
        assert_eq!(later.leader("t", 0).unwrap().id, 1);
        assert_eq!(later.leader("t", 1).unwrap().id, 3);
        assert_eq!(later.controller().unwrap().id, 2);
    }

    #[test]
    fn a_topic_made_anew_starts_over() {
        let now = Cluster::default().updated(answer(1, &[(1, 5)]), &asked());
        let anew = now.updated(answer(2, &[(3, 0)]), &asked());
        assert_eq!(anew.leader("t", 0).unwrap().id, 3);
        assert!(anew.topic_by_id(Uuid::from_u128(1)).is_none());
        assert_eq!(&*anew.topic_by_id(Uuid::from_u128(2)).unwrap().name, "t");
    }

    #[test]
    fn a_deleted_topic_leaves_the_snapshot_and_says_why() {
        let now = Cluster::default().updated(answer(1, &[(1, 5)]), &asked());
        let mut gone = answer(1, &[]);
        gone.topics[0].error_code = ErrorCode::UnknownTopicOrPartition.code();
        let later = now.updated(gone, &asked());
        assert!(later.topic("t").is_none());
        assert_eq!(later.topic_error("t"), Some(ErrorCode::UnknownTopicOrPartition));
    }

    #[test]
    fn a_produce_answer_that_names_a_newer_leader_is_believed() {
        let now = Cluster::default().updated(answer(1, &[(1, 5)]), &asked());
        assert!(now.with_leader("t", 0, 2, 5).is_none());
        assert!(now.with_leader("t", 0, 9, 6).is_none());
        assert_eq!(now.with_leader("t", 0, 2, 6).unwrap().leader("t", 0).unwrap().id, 2);
    }

    #[test]
    fn partition_numbers_with_holes_do_not_shift_others() {
        let mut holed = answer(1, &[(1, 0), (2, 0), (3, 0)]);
        holed.topics[0].partitions.remove(1);
        let now = Cluster::default().updated(holed, &asked());
        assert_eq!(now.partition_count("t"), Some(1));
    }
}
