//! What all connections share: the metadata, the hosted partitions, and the changes that touch both.

use std::sync::Arc;

use kafka_wire::StrBytes;
use kafka_wire::error_code::ErrorCode;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::clock::Clock;
use crate::cluster::record::{ConfigResource, MetadataRecord, PartitionState};
use crate::cluster::topics::{self as decisions, CreatedTopic, Limits, NewTopic, Refusal, refuse};
use crate::cluster::{Cluster, Controller};
use crate::config::broker::BrokerConfig;
use crate::config::topic::TopicConfig;
use crate::folder::Logs;
use crate::groups::service::Groups;
use crate::ids;
use crate::partition::{Hosted, Partition};
use crate::topics::{HostedTopic, Topics};

/// How many producer ids the controller hands out at once (`ProducerIdsBlock.PRODUCER_ID_BLOCK_SIZE`).
const PRODUCER_ID_BLOCK: i64 = 1000;

/// The state of a broker.
pub(crate) struct BrokerState {
    pub(crate) node_id: i32,
    pub(crate) cluster_id: StrBytes,
    pub(crate) directory_id: Uuid,
    /// Where clients are told to connect.
    pub(crate) host: StrBytes,
    pub(crate) port: u16,
    pub(crate) config: BrokerConfig,
    /// `fetch.max.bytes`, looked up once because every fetch needs it.
    pub(crate) fetch_max_bytes: i32,
    pub(crate) clock: Clock,
    pub(crate) cluster: Cluster,
    pub(crate) topics: Topics,
    pub(crate) logs: Logs,
    pub(crate) producer_ids: Mutex<ProducerIds>,
    pub(crate) groups: Groups,
}

/// The block of producer ids in use.
#[derive(Debug, Default)]
pub(crate) struct ProducerIds {
    next: i64,
    end: i64,
}

impl BrokerState {
    /// Hosts every partition that the image knows. Called once, at start.
    pub(crate) fn host_all(&self) {
        self.cluster.read(|image, _| {
            if let Err(error) = self.logs.remove_strays(|id| image.topic_by_id(id).is_some()) {
                tracing::warn!(%error, "files of deleted partitions remain");
            }
            for (name, topic) in image.topics() {
                let hosted = HostedTopic::new(name.as_str().into(), topic.id);
                let own = image.configs(&ConfigResource::Topic(name.clone()));
                let config = TopicConfig::new(&own.cloned().unwrap_or_default(), &self.config);
                self.open_partitions(
                    &hosted,
                    topic.partitions.iter().map(|(&index, state)| (index, state)),
                    &config,
                );
                self.topics.insert(Arc::new(hosted));
            }
        });
    }

    /// Opens the logs of new partitions. One that cannot be opened exists but answers with a storage error.
    fn open_partitions<'a>(
        &self,
        topic: &HostedTopic,
        partitions: impl Iterator<Item = (i32, &'a PartitionState)>,
        config: &TopicConfig,
    ) {
        for (index, state) in partitions {
            let log = match self.logs.open_partition(topic.name(), topic.id(), index, config) {
                Ok(log) => Hosted::Online(Box::new(log)),
                Err(error) => {
                    tracing::error!(topic = &**topic.name(), partition = index, %error, "log cannot be opened");
                    Hosted::Failed
                }
            };
            let name = Arc::clone(topic.name());
            topic.push(Partition::new(name, index, state.leader_epoch, config, log));
        }
    }

    fn limits(&self, max_partitions: usize) -> Limits {
        Limits {
            max_partitions,
            partitions: self.config.num_partitions(),
            replication_factor: self.config.default_replication_factor(),
        }
    }

    /// What creating the topic would give, without doing it.
    pub(crate) fn check_topic(
        &self,
        topic: &NewTopic,
        max_partitions: usize,
    ) -> Result<CreatedTopic, Refusal> {
        let limits = self.limits(max_partitions);
        let decided = self.cluster.read(|image, _| decisions::create(image, topic, limits, Uuid::nil()));
        decided.map(|(_, created)| created)
    }

    pub(crate) fn create_topic(&self, topic: &NewTopic) -> Result<CreatedTopic, Refusal> {
        self.create_topic_within(topic, decisions::MAX_PARTITIONS_PER_REQUEST)
    }

    /// Creates a topic of at most `max_partitions` partitions.
    pub(crate) fn create_topic_within(
        &self,
        topic: &NewTopic,
        max_partitions: usize,
    ) -> Result<CreatedTopic, Refusal> {
        let limits = self.limits(max_partitions);
        let mut controller = self.cluster.controller();
        let id = ids::random();
        let (records, created) = controller.read(|image| decisions::create(image, topic, limits, id))?;
        controller.commit(&records, self.clock.now_ms())?;
        let hosted = HostedTopic::new(topic.name.as_str().into(), created.id);
        let config = TopicConfig::new(&created.configs, &self.config);
        self.open_partitions(
            &hosted,
            created.image.partitions.iter().map(|(&index, state)| (index, state)),
            &config,
        );
        self.topics.insert(Arc::new(hosted));
        Ok(created)
    }

    /// Creates a coordinator's topic if it does not exist, with the settings that the coordinator needs
    /// (`DefaultAutoTopicCreationManager`).
    pub(crate) fn create_internal_topic(&self, name: &str) -> Result<(), Refusal> {
        if self.topics.by_name(name).is_some() {
            return Ok(());
        }
        let partitions = match name {
            "__consumer_offsets" => self.config.offsets_topic_partitions(),
            _ => return refuse(ErrorCode::InvalidTopicException, format!("{name} is not served yet")),
        };
        let segment_bytes = self.config.offsets_topic_segment_bytes().max(1024 * 1024).to_string();
        let configs = [
            ("cleanup.policy", "compact"),
            ("compression.type", "producer"),
            ("segment.bytes", segment_bytes.as_str()),
        ];
        let topic = NewTopic {
            name: name.to_owned(),
            partitions,
            // One node holds one replica, whatever offsets.topic.replication.factor would like.
            replication_factor: 1,
            assignments: Vec::new(),
            configs: configs.map(|(key, value)| (key.to_owned(), Some(value.to_owned()))).to_vec(),
        };
        match self.create_topic(&topic) {
            Ok(_) => Ok(()),
            Err(refusal) if refusal.code == ErrorCode::TopicAlreadyExists => Ok(()),
            Err(refusal) => Err(refusal),
        }
    }

    pub(crate) fn grow_topic(
        &self,
        name: &str,
        count: i32,
        assignments: Option<&[Vec<i32>]>,
        validate_only: bool,
    ) -> Result<(), Refusal> {
        let mut controller = self.cluster.controller();
        let records = controller.read(|image| decisions::grow(image, name, count, assignments))?;
        if validate_only {
            return Ok(());
        }
        controller.commit(&records, self.clock.now_ms())?;
        let added = records.iter().filter_map(|record| match record {
            MetadataRecord::Partition { index, state, .. } => Some((*index, state)),
            _ => None,
        });
        if let Some(topic) = self.topics.by_name(name) {
            self.open_partitions(&topic, added, &self.topic_config(&controller, name));
        }
        Ok(())
    }

    fn topic_config(&self, controller: &Controller<'_>, name: &str) -> TopicConfig {
        let resource = ConfigResource::Topic(name.to_owned());
        let own = controller.read(|image| image.configs(&resource).cloned().unwrap_or_default());
        TopicConfig::new(&own, &self.config)
    }

    pub(crate) fn delete_topic(&self, name: &str, id: Uuid) -> Result<(), Refusal> {
        if !self.config.delete_topics() {
            return refuse(ErrorCode::TopicDeletionDisabled, "Topic deletion is disabled.");
        }
        let mut controller = self.cluster.controller();
        if controller.read(|image| image.topic_by_id(id).is_none()) {
            return refuse(
                ErrorCode::UnknownTopicOrPartition,
                "This server does not host this topic-partition.",
            );
        }
        controller.commit(&[MetadataRecord::RemoveTopic { id }], self.clock.now_ms())?;
        let Some(topic) = self.topics.remove(id) else { return Ok(()) };
        for (partition, index) in topic.partitions().iter().zip(0..) {
            let removed = match partition.delete() {
                Some(log) => log.delete(),
                None => self.logs.remove(name, index),
            };
            if let Err(error) = removed {
                // The folder is recognised by its topic id at the next start and removed then.
                tracing::warn!(topic = name, partition = index, %error, "deleted partition's files remain");
            }
        }
        drop(controller);
        self.groups.topics_deleted(self, &[name.to_owned()]);
        Ok(())
    }

    /// An id that no producer of this cluster had before, restarts included.
    pub(crate) fn next_producer_id(&self) -> Result<i64, Refusal> {
        let mut ids = self.producer_ids.lock();
        if ids.next >= ids.end {
            let mut controller = self.cluster.controller();
            let next = controller.read(|image| image.next_producer_id());
            let end = next.saturating_add(PRODUCER_ID_BLOCK);
            controller.commit(&[MetadataRecord::ProducerIds { next: end }], self.clock.now_ms())?;
            *ids = ProducerIds { next, end };
        }
        let id = ids.next;
        ids.next += 1;
        Ok(id)
    }
}
