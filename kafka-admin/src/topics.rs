//! Creating, deleting, listing and describing topics.

use std::time::Duration;

use kafka_client::{Client, RequestError, Target};
use kafka_wire::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_wire::messages::create_topics_response::CreatableTopicResult;
use kafka_wire::messages::metadata_request::MetadataRequestTopic;
use kafka_wire::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};
use kafka_wire::messages::{BrokerId, CreateTopicsRequest, DeleteTopicsRequest, MetadataRequest, TopicName};
use kafka_wire::{ErrorCode, StrBytes, Uuid};

use crate::driver::{Answers, Effect, Refusal, drive, drive_one, millis};
use crate::operation::operation;
use crate::{AdminError, ItemResults};

/// A topic to create.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct NewTopic {
    name: String,
    partitions: i32,
    replication_factor: i16,
    configs: Vec<(String, String)>,
    assignments: Vec<Vec<i32>>,
}

impl NewTopic {
    /// A topic with that many partitions, each on that many brokers. -1 stands for the cluster's default
    /// (`num.partitions`, `default.replication.factor`; KIP-464).
    pub fn new(name: impl Into<String>, partitions: i32, replication_factor: i16) -> Self {
        Self {
            name: name.into(),
            partitions,
            replication_factor,
            configs: Vec::new(),
            assignments: Vec::new(),
        }
    }

    /// A topic with the cluster's default number of partitions and replicas.
    pub fn with_defaults(name: impl Into<String>) -> Self {
        Self::new(name, -1, -1)
    }

    /// Sets a configuration of the topic, such as `cleanup.policy`.
    pub fn config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.push((key.into(), value.into()));
        self
    }

    /// Sets configurations of the topic.
    pub fn configs<K: Into<String>, V: Into<String>>(
        mut self,
        configs: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.configs.extend(configs.into_iter().map(|(key, value)| (key.into(), value.into())));
        self
    }

    /// Says which brokers keep each partition, the preferred leader first. Decides the number of partitions and of
    /// replicas.
    pub fn assignments(mut self, replicas: impl IntoIterator<Item = Vec<i32>>) -> Self {
        self.assignments = replicas.into_iter().collect();
        self.partitions = -1;
        self.replication_factor = -1;
        self
    }

    /// The topic's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn request(&self) -> CreatableTopic {
        let configs = self.configs.iter().map(|(key, value)| {
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_string(key.clone()))
                .with_value(Some(StrBytes::from_string(value.clone())))
        });
        let assignments = self.assignments.iter().zip(0..).map(|(replicas, partition)| {
            CreatableReplicaAssignment::default()
                .with_partition_index(partition)
                .with_broker_ids(replicas.iter().copied().map(BrokerId).collect())
        });
        CreatableTopic::default()
            .with_name(topic_name(&self.name))
            .with_num_partitions(self.partitions)
            .with_replication_factor(self.replication_factor)
            .with_configs(configs.collect())
            .with_assignments(assignments.collect())
    }
}

pub(crate) fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

/// What was created, as far as the broker says (since Kafka 2.4, KIP-525).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CreatedTopic {
    /// The topic's id; `None` from brokers before Kafka 2.8 and for a dry run.
    pub id: Option<Uuid>,
    /// How many partitions it has.
    pub partitions: Option<i32>,
    /// On how many brokers each of them is kept.
    pub replication_factor: Option<i16>,
}

impl From<CreatableTopicResult> for CreatedTopic {
    fn from(result: CreatableTopicResult) -> Self {
        Self {
            id: Some(result.topic_id).filter(|id| !id.is_nil()),
            partitions: Some(result.num_partitions).filter(|&count| count > 0),
            replication_factor: Some(result.replication_factor).filter(|&count| count > 0),
        }
    }
}

/// See [`Admin::create_topics`](crate::Admin::create_topics).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct CreateTopics {
    client: Client,
    timeout: Duration,
    topics: Vec<NewTopic>,
    validate_only: bool,
}

operation!(CreateTopics => ItemResults<String, CreatedTopic>);

impl CreateTopics {
    pub(crate) fn new(client: Client, timeout: Duration, topics: Vec<NewTopic>) -> Self {
        Self { client, timeout, topics, validate_only: false }
    }

    /// Only asks whether the topics could be created. Default no.
    pub fn validate_only(mut self, validate_only: bool) -> Self {
        self.validate_only = validate_only;
        self
    }

    async fn run(self) -> Result<ItemResults<String, CreatedTopic>, AdminError> {
        let names: Vec<String> = self.topics.iter().map(|topic| topic.name.clone()).collect();
        let effect = if self.validate_only { Effect::Read } else { Effect::Write };
        drive(&self.client, names, effect, self.timeout, |open, remaining| {
            let answer = self
                .client
                .request(create_request(&self.topics, &open, remaining, self.validate_only))
                .to(Target::Controller)
                .timeout(remaining);
            async move {
                let created = answer.await?.topics.into_iter().map(|topic| {
                    let refused = Refusal::check(topic.error_code, topic.error_message.clone());
                    let mut created = CreatedTopic::from(topic.clone());
                    // Apache Kafka makes up an id for a dry run; the topic would have another.
                    created.id = created.id.filter(|_| !self.validate_only);
                    (topic.name.to_string(), refused.map(|()| created))
                });
                Ok(created.collect())
            }
        })
        .await
    }
}

/// A topic that was given twice is sent twice, so that the controller refuses it instead of one of the two winning.
fn create_request(
    topics: &[NewTopic],
    open: &[String],
    timeout: Duration,
    validate: bool,
) -> CreateTopicsRequest {
    let open: std::collections::HashSet<&str> = open.iter().map(String::as_str).collect();
    let topics = topics.iter().filter(|topic| open.contains(topic.name.as_str())).map(NewTopic::request);
    CreateTopicsRequest::default()
        .with_topics(topics.collect())
        .with_timeout_ms(millis(timeout))
        .with_validate_only(validate)
}

/// See [`Admin::delete_topics`](crate::Admin::delete_topics).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct DeleteTopics {
    client: Client,
    timeout: Duration,
    names: Vec<String>,
}

operation!(DeleteTopics => ItemResults<String, ()>);

/// From version 6 a topic is named or given by id; up to here the request is a plain list of names.
const DELETE_BY_NAME: i16 = 5;

impl DeleteTopics {
    pub(crate) fn new(client: Client, timeout: Duration, names: Vec<String>) -> Self {
        Self { client, timeout, names }
    }

    async fn run(self) -> Result<ItemResults<String, ()>, AdminError> {
        drive(&self.client, self.names, Effect::Write, self.timeout, |open, remaining| {
            let names = open.iter().map(|name| topic_name(name)).collect();
            let request =
                DeleteTopicsRequest::default().with_topic_names(names).with_timeout_ms(millis(remaining));
            let answer = self
                .client
                .request(request)
                .to(Target::Controller)
                .timeout(remaining)
                .max_version(DELETE_BY_NAME);
            async move {
                let deleted = answer.await?.responses.into_iter().filter_map(|topic| {
                    Some((topic.name?.to_string(), Refusal::check(topic.error_code, topic.error_message)))
                });
                Ok(deleted.collect())
            }
        })
        .await
    }
}

/// A topic as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicListing {
    /// The topic's name.
    pub name: String,
    /// Its id; `None` from brokers before Kafka 2.8.
    pub id: Option<Uuid>,
    /// Whether it is one of Kafka's own, such as `__consumer_offsets`.
    pub is_internal: bool,
    /// How many partitions it has.
    pub partitions: usize,
    /// On how many brokers each partition is kept: the most of any partition, 0 if there is none.
    pub replication_factor: usize,
}

/// See [`Admin::list_topics`](crate::Admin::list_topics).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct ListTopics {
    client: Client,
    timeout: Duration,
    include_internal: bool,
}

operation!(ListTopics => Vec<TopicListing>);

impl ListTopics {
    pub(crate) fn new(client: Client, timeout: Duration) -> Self {
        Self { client, timeout, include_internal: false }
    }

    /// Lists Kafka's own topics too. Default no.
    pub fn include_internal(mut self, include: bool) -> Self {
        self.include_internal = include;
        self
    }

    /// Sorted by name.
    async fn run(self) -> Result<Vec<TopicListing>, AdminError> {
        let described = drive_one(&self.client, Effect::Read, self.timeout, |remaining| {
            let answer = metadata(&self.client, None, remaining);
            async move { Ok(Ok(answer.await?)) }
        });
        let mut topics: Vec<_> = described
            .await?
            .into_iter()
            .filter_map(|topic| listing(&topic))
            .filter(|topic| self.include_internal || !topic.is_internal)
            .collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }
}

fn listing(topic: &MetadataResponseTopic) -> Option<TopicListing> {
    Some(TopicListing {
        name: topic.name.as_ref()?.to_string(),
        id: Some(topic.topic_id).filter(|id| !id.is_nil()),
        is_internal: topic.is_internal,
        partitions: topic.partitions.len(),
        replication_factor: topic.partitions.iter().map(|p| p.replica_nodes.len()).max().unwrap_or_default(),
    })
}

/// A topic with its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicDescription {
    /// The topic's name.
    pub name: String,
    /// Its id; `None` from brokers before Kafka 2.8.
    pub id: Option<Uuid>,
    /// Whether it is one of Kafka's own, such as `__consumer_offsets`.
    pub is_internal: bool,
    /// Its partitions, by number.
    pub partitions: Vec<PartitionDescription>,
}

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionDescription {
    /// The partition's number, from 0.
    pub partition: i32,
    /// The broker that leads it; `None` while there is no leader.
    pub leader: Option<i32>,
    /// Counts leader changes; -1 where the broker does not tell.
    pub leader_epoch: i32,
    /// The brokers that keep a copy, the preferred leader first.
    pub replicas: Vec<i32>,
    /// The replicas that are in sync.
    pub isr: Vec<i32>,
    /// The replicas whose disk or broker is down.
    pub offline_replicas: Vec<i32>,
}

impl From<MetadataResponseTopic> for TopicDescription {
    fn from(topic: MetadataResponseTopic) -> Self {
        let mut partitions: Vec<PartitionDescription> =
            topic.partitions.into_iter().map(Into::into).collect();
        partitions.sort_by_key(|partition| partition.partition);
        Self {
            name: topic.name.map(|name| name.to_string()).unwrap_or_default(),
            id: Some(topic.topic_id).filter(|id| !id.is_nil()),
            is_internal: topic.is_internal,
            partitions,
        }
    }
}

impl From<MetadataResponsePartition> for PartitionDescription {
    fn from(partition: MetadataResponsePartition) -> Self {
        let ids = |ids: Vec<BrokerId>| ids.into_iter().map(|id| id.0).collect();
        Self {
            partition: partition.partition_index,
            leader: Some(partition.leader_id.0).filter(|&id| id >= 0),
            leader_epoch: partition.leader_epoch,
            replicas: ids(partition.replica_nodes),
            isr: ids(partition.isr_nodes),
            offline_replicas: ids(partition.offline_replicas),
        }
    }
}

/// See [`Admin::describe_topics`](crate::Admin::describe_topics).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct DescribeTopics {
    client: Client,
    timeout: Duration,
    names: Vec<String>,
}

operation!(DescribeTopics => ItemResults<String, TopicDescription>);

impl DescribeTopics {
    pub(crate) fn new(client: Client, timeout: Duration, names: Vec<String>) -> Self {
        Self { client, timeout, names }
    }

    async fn run(self) -> Result<ItemResults<String, TopicDescription>, AdminError> {
        drive(&self.client, self.names, Effect::Read, self.timeout, |open, remaining| {
            describe(self.client.clone(), open, remaining)
        })
        .await
    }
}

async fn describe(
    client: Client,
    names: Vec<String>,
    timeout: Duration,
) -> Result<Answers<String, TopicDescription>, RequestError> {
    let topics = metadata(&client, Some(&names), timeout).await?;
    let described = topics.into_iter().filter_map(|topic| {
        let name = topic.name.as_ref()?.to_string();
        let result = match ErrorCode::from(topic.error_code) {
            // Partitions without a leader are part of the description, not a reason to withhold it.
            ErrorCode::None | ErrorCode::LeaderNotAvailable => Ok(topic.into()),
            code => Err(code.into()),
        };
        Some((name, result))
    });
    Ok(described.collect())
}

/// Asks any broker for topics, all of them if `names` is `None`, without creating any.
async fn metadata(
    client: &Client,
    names: Option<&[String]>,
    timeout: Duration,
) -> Result<Vec<MetadataResponseTopic>, RequestError> {
    let topics = names.map(|names| {
        names.iter().map(|name| MetadataRequestTopic::default().with_name(Some(topic_name(name)))).collect()
    });
    let request = MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(false);
    Ok(client.request(request).to(Target::Any).timeout(timeout).await?.topics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_try_asks_only_for_the_topics_that_are_still_open() {
        let topics = [NewTopic::new("a", 3, 1), NewTopic::with_defaults("b").config("retention.ms", "1")];
        let request = create_request(&topics, &["b".to_owned()], Duration::from_secs(1), false);
        assert_eq!(request.timeout_ms, 1000);
        assert_eq!(request.topics.len(), 1);
        let topic = &request.topics[0];
        assert_eq!((topic.name.as_str(), topic.num_partitions, topic.replication_factor), ("b", -1, -1));
        assert_eq!(topic.configs[0].name.as_str(), "retention.ms");
    }

    #[test]
    fn assignments_decide_the_counts() {
        let topic = NewTopic::new("a", 3, 1).assignments([vec![1, 2], vec![2, 1]]).request();
        assert_eq!((topic.num_partitions, topic.replication_factor), (-1, -1));
        assert_eq!(topic.assignments[1].partition_index, 1);
        assert_eq!(topic.assignments[1].broker_ids, [BrokerId(2), BrokerId(1)]);
    }

    #[test]
    fn partitions_are_described_in_order_and_without_a_leader_where_there_is_none() {
        let partition = |id, leader| {
            MetadataResponsePartition::default().with_partition_index(id).with_leader_id(BrokerId(leader))
        };
        let topic: TopicDescription =
            MetadataResponseTopic::default().with_partitions(vec![partition(1, -1), partition(0, 4)]).into();
        let leaders: Vec<_> = topic.partitions.iter().map(|p| (p.partition, p.leader)).collect();
        assert_eq!(leaders, [(0, Some(4)), (1, None)]);
        assert_eq!(topic.id, None);
    }
}
