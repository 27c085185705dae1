//! One node: what its connections share. The metadata is the cluster's; partitions, logs and groups are the node's own.

use std::sync::Arc;

use kafka_wire::StrBytes;
use kafka_wire::error_code::ErrorCode;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::clock::Clock;
use crate::cluster::image::{BrokerImage, Image};
use crate::cluster::record::{ConfigResource, MetadataRecord, PartitionState};
use crate::cluster::topics::{self as decisions, CreatedTopic, Limits, NewTopic, Refusal, refuse};
use crate::cluster::{Cluster, Controller};
use crate::config::broker::BrokerConfig;
use crate::config::topic::TopicConfig;
use crate::faults::Faults;
use crate::fetch_session::FetchSessions;
use crate::folder::Logs;
use crate::groups::service::{Groups, OFFSETS_TOPIC};
use crate::ids;
use crate::partition::Partition;
use crate::replica::Place;
use crate::replication_quota::ReplicationQuotas;
use crate::share::service::Shares;
use crate::share::state::service::{SHARE_STATE_TOPIC, ShareStates};
use crate::topics::{HostedTopic, Topics};
use crate::transactions::service::{TRANSACTIONS_TOPIC, Transactions};

/// How many producer ids the controller hands out at once (`ProducerIdsBlock.PRODUCER_ID_BLOCK_SIZE`).
const PRODUCER_ID_BLOCK: i64 = 1000;

/// The state of a node.
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
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) topics: Topics,
    pub(crate) logs: Logs,
    pub(crate) producer_ids: Mutex<ProducerIds>,
    pub(crate) groups: Groups,
    pub(crate) fetch_sessions: Mutex<FetchSessions>,
    pub(crate) shares: Shares,
    pub(crate) share_states: ShareStates,
    pub(crate) transactions: Transactions,
    pub(crate) replication_quotas: ReplicationQuotas,
    pub(crate) faults: Faults,
}

/// The block of producer ids in use.
#[derive(Debug, Default)]
pub(crate) struct ProducerIds {
    next: i64,
    end: i64,
}

/// Nodes that are to look whether they have something to copy.
struct Call {
    topic_id: Uuid,
    index: i32,
    nodes: Vec<i32>,
}

impl BrokerState {
    /// Hosts every partition that the image knows, and joins the cluster. Called once, at start, with the right to
    /// change the metadata, so that no change is missed.
    pub(crate) fn host_all(self: &Arc<Self>, controller: &Controller<'_>) {
        let calls = controller.read(|image| {
            let mut calls = Vec::new();
            if let Err(error) = self.logs.remove_strays(|id| image.topic_by_id(id).is_some()) {
                tracing::warn!(%error, "files of deleted partitions remain");
            }
            for (name, topic) in image.topics() {
                let hosted = HostedTopic::new(name.as_str().into(), topic.id);
                for (&index, partition) in &topic.partitions {
                    calls.push(self.apply_partition(&hosted, index, partition, image));
                }
                self.topics.insert(Arc::new(hosted));
            }
            calls
        });
        self.cluster.join(self);
        self.call(calls);
    }

    /// Acts on changes that were committed; `image` has them already.
    pub(crate) fn apply(&self, records: &[MetadataRecord], image: &Image) {
        // Topics become visible with their partitions.
        let mut new: Vec<HostedTopic> = Vec::new();
        let mut calls = Vec::new();
        for record in records {
            match record {
                MetadataRecord::Topic { name, id } => new.push(HostedTopic::new(name.as_str().into(), *id)),
                MetadataRecord::Partition { topic_id, index, state } => {
                    if let Some(topic) = new.iter().find(|topic| topic.id() == *topic_id) {
                        calls.push(self.apply_partition(topic, *index, state, image));
                    } else if let Some(topic) = self.topics.by_id(*topic_id) {
                        calls.push(self.apply_partition(&topic, *index, state, image));
                    }
                }
                MetadataRecord::RemoveTopic { id } => self.remove_topic(*id),
                _ => {}
            }
        }
        new.into_iter().for_each(|topic| self.topics.insert(Arc::new(topic)));
        self.call(calls);
        self.follow_configs(records, image);
    }

    /// Tells followers that there may be more to copy, once whom they ask can be found.
    fn call(&self, calls: Vec<Call>) {
        for Call { topic_id, index, nodes } in calls {
            nodes.iter().for_each(|&node| self.cluster.inbox(node).push(topic_id, index));
        }
    }

    #[must_use = "the followers wait for the call"]
    fn apply_partition(
        &self,
        topic: &HostedTopic,
        index: i32,
        change: &PartitionState,
        image: &Image,
    ) -> Call {
        let own = image.configs(&ConfigResource::Topic(topic.name().to_string()));
        let config = || TopicConfig::new(&own.cloned().unwrap_or_default(), &self.config);
        let partition = match topic.partition(index) {
            Some(partition) => partition,
            None => {
                let name = Arc::clone(topic.name());
                let partition = Arc::new(Partition::new(name, topic.id(), index, &config()));
                topic.push(Arc::clone(&partition));
                partition
            }
        };
        let place = Place {
            node_id: self.node_id,
            now_ms: self.clock.now_ms(),
            inbox: &|node_id| self.cluster.inbox(node_id),
        };
        let applied = partition.apply(change, &place, || {
            match self.logs.open_partition(topic.name(), topic.id(), index, &config()) {
                Ok(log) => Some((log, self.logs.high_watermark(topic.name(), index))),
                Err(error) => {
                    tracing::error!(topic = &**topic.name(), partition = index, %error, "log cannot be opened");
                    None
                }
            }
        });
        if let Some(Err(error)) = applied.removed.map(|log| log.delete()) {
            tracing::warn!(partition = partition.name(), %error, "files of a replica that moved away remain");
        }
        if &**topic.name() == OFFSETS_TOPIC && (applied.elected || applied.resigned) {
            self.groups.leader_changed(index, applied.elected);
        }
        if &**topic.name() == TRANSACTIONS_TOPIC && (applied.elected || applied.resigned) {
            self.transactions.leader_changed(index, applied.elected);
        }
        Call { topic_id: topic.id(), index, nodes: applied.call }
    }

    fn remove_topic(&self, id: Uuid) {
        let Some(topic) = self.topics.remove(id) else { return };
        for partition in topic.partitions() {
            let is_hosted = partition.is_hosted();
            let removed = match partition.delete() {
                Some(log) => log.delete(),
                None if is_hosted => self.logs.remove(topic.name(), partition.index()),
                None => Ok(()),
            };
            if let Err(error) = removed {
                // The folder is recognised by its topic id at the next start and removed then.
                tracing::warn!(partition = partition.name(), %error, "deleted partition's files remain");
            }
        }
    }

    /// The nodes that a client in `rack` is sent to for reading where they follow (KIP-392): none if this node is as
    /// near, or `replica.selector.class` does not ask for it.
    pub(crate) fn nodes_near(&self, rack: &str) -> Vec<i32> {
        if rack.is_empty() || !self.config.selects_by_rack() || self.config.given("broker.rack") == Some(rack)
        {
            return Vec::new();
        }
        let is_near = |broker: &BrokerImage| broker.rack.as_deref() == Some(rack);
        self.cluster.read(|image, _| {
            image.live_brokers().filter(|(_, broker)| is_near(broker)).map(|(node_id, _)| node_id).collect()
        })
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
        Ok(created)
    }

    /// Creates a coordinator's topic if it does not exist, with the settings that the coordinator needs
    /// (`DefaultAutoTopicCreationManager`).
    pub(crate) fn create_internal_topic(&self, name: &str) -> Result<(), Refusal> {
        if self.topics.by_name(name).is_some() {
            return Ok(());
        }
        let (partitions, replication_factor, segment_bytes, cleanup_policy) = match name {
            OFFSETS_TOPIC => (
                self.config.offsets_topic_partitions(),
                self.config.offsets_topic_replication_factor(),
                self.config.offsets_topic_segment_bytes(),
                "compact",
            ),
            // Updates build upon one another: none may go before a snapshot makes it redundant.
            SHARE_STATE_TOPIC => (
                self.config.share_state_partitions(),
                self.config.share_state_replication_factor(),
                self.config.share_state_segment_bytes(),
                "delete",
            ),
            TRANSACTIONS_TOPIC => (
                self.config.transactions_topic_partitions(),
                self.config.transactions_topic_replication_factor(),
                self.config.transactions_topic_segment_bytes(),
                "compact",
            ),
            _ => return refuse(ErrorCode::InvalidTopicException, format!("{name} is not served yet")),
        };
        let nodes = self.cluster.read(|image, _| image.live_brokers().count());
        let nodes = i16::try_from(nodes).unwrap_or(i16::MAX).max(1);
        let segment_bytes = segment_bytes.max(1024 * 1024).to_string();
        let mut configs = vec![
            ("cleanup.policy", cleanup_policy),
            ("compression.type", "producer"),
            ("segment.bytes", segment_bytes.as_str()),
        ];
        if cleanup_policy == "delete" {
            configs.push(("retention.ms", "-1"));
        }
        let configs = configs.into_iter();
        let topic = NewTopic {
            name: name.to_owned(),
            partitions,
            // As many as there are nodes, up to what is asked for: a small cluster has coordinators too.
            replication_factor: replication_factor.min(nodes),
            assignments: Vec::new(),
            configs: configs.map(|(key, value)| (key.to_owned(), Some(value.to_owned()))).collect(),
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
        controller.commit(&records, self.clock.now_ms())
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
        drop(controller);
        for node in self.cluster.nodes() {
            node.groups.topics_deleted(&node, &[name.to_owned()]);
        }
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
