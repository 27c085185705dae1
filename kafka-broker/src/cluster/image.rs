//! The metadata at one point: what replaying the records so far gives.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use uuid::Uuid;

use super::record::{ConfigResource, MetadataRecord, PartitionState};

/// The cluster's metadata. Changes only by [`replay`](Self::replay).
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Image {
    topics: BTreeMap<String, TopicImage>,
    names: FxHashMap<Uuid, String>,
    brokers: BTreeMap<i32, BrokerImage>,
    configs: BTreeMap<ConfigResource, BTreeMap<String, String>>,
    features: BTreeMap<String, i16>,
    next_producer_id: i64,
}

/// One topic.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TopicImage {
    pub(crate) id: Uuid,
    pub(crate) partitions: BTreeMap<i32, PartitionState>,
}

impl TopicImage {
    /// Replicas of the topic's first partition, as `CreateTopics` and `DescribeTopics` count them.
    pub(crate) fn replication_factor(&self) -> i16 {
        let replicas = self.partitions.values().next().map_or(0, |partition| partition.replicas.len());
        i16::try_from(replicas).unwrap_or(i16::MAX)
    }
}

/// One registered broker.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BrokerImage {
    pub(crate) epoch: i64,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) rack: Option<String>,
    /// It is registered, but not there.
    pub(crate) fenced: bool,
}

impl Image {
    /// Applies one record. A record about a topic that does not exist has no effect: replay never fails.
    pub(crate) fn replay(&mut self, record: &MetadataRecord) {
        match record {
            MetadataRecord::Topic { name, id } => {
                if let Some(old) =
                    self.topics.insert(name.clone(), TopicImage { id: *id, partitions: BTreeMap::new() })
                {
                    self.names.remove(&old.id);
                }
                self.names.insert(*id, name.clone());
            }
            MetadataRecord::Partition { topic_id, index, state } => {
                if let Some(topic) = self.names.get(topic_id).and_then(|name| self.topics.get_mut(name)) {
                    topic.partitions.insert(*index, state.clone());
                }
            }
            MetadataRecord::RemoveTopic { id } => {
                if let Some(name) = self.names.remove(id) {
                    self.topics.remove(&name);
                    self.configs.remove(&ConfigResource::Topic(name));
                }
            }
            MetadataRecord::Config { resource, key, value } => match value {
                Some(value) => {
                    self.configs.entry(resource.clone()).or_default().insert(key.clone(), value.clone());
                }
                None => {
                    if let Some(configs) = self.configs.get_mut(resource) {
                        configs.remove(key);
                        if configs.is_empty() {
                            self.configs.remove(resource);
                        }
                    }
                }
            },
            MetadataRecord::FeatureLevel { name, level } => {
                match level {
                    0 => self.features.remove(name),
                    _ => self.features.insert(name.clone(), *level),
                };
            }
            MetadataRecord::ProducerIds { next } => self.next_producer_id = *next,
            MetadataRecord::RegisterBroker { node_id, incarnation: _, epoch, host, port, rack } => {
                let (host, rack) = (host.clone(), rack.clone());
                let broker = BrokerImage { epoch: *epoch, host, port: *port, rack, fenced: false };
                self.brokers.insert(*node_id, broker);
            }
            MetadataRecord::BrokerRegistrationChange { node_id, epoch, fenced } => {
                if let Some(broker) = self.brokers.get_mut(node_id)
                    && broker.epoch == *epoch
                {
                    broker.fenced = *fenced;
                }
            }
        }
    }

    /// All topics by name.
    pub(crate) fn topics(&self) -> &BTreeMap<String, TopicImage> {
        &self.topics
    }

    pub(crate) fn topic(&self, name: &str) -> Option<&TopicImage> {
        self.topics.get(name)
    }

    pub(crate) fn topic_by_id(&self, id: Uuid) -> Option<(&str, &TopicImage)> {
        let name = self.names.get(&id)?;
        Some((name, self.topics.get(name)?))
    }

    pub(crate) fn brokers(&self) -> &BTreeMap<i32, BrokerImage> {
        &self.brokers
    }

    /// The brokers that are there, by id.
    pub(crate) fn live_brokers(&self) -> impl Iterator<Item = (i32, &BrokerImage)> {
        self.brokers.iter().filter(|(_, broker)| !broker.fenced).map(|(&node_id, broker)| (node_id, broker))
    }

    pub(crate) fn is_live(&self, node_id: i32) -> bool {
        self.brokers.get(&node_id).is_some_and(|broker| !broker.fenced)
    }

    pub(crate) fn partition(&self, topic: &str, index: i32) -> Option<&PartitionState> {
        self.topics.get(topic)?.partitions.get(&index)
    }

    pub(crate) fn features(&self) -> &BTreeMap<String, i16> {
        &self.features
    }

    pub(crate) fn next_producer_id(&self) -> i64 {
        self.next_producer_id
    }

    /// The values that were set for a resource, and nothing inherited.
    pub(crate) fn configs(&self, resource: &ConfigResource) -> Option<&BTreeMap<String, String>> {
        self.configs.get(resource)
    }
}

/// Whether clients are told that a topic is internal (`Topic.isInternal`).
pub(crate) fn is_internal(topic: &str) -> bool {
    matches!(topic, "__consumer_offsets" | "__transaction_state" | "__share_group_state")
}
