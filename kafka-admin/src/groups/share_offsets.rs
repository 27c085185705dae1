use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_client::{Client, TopicPartition};
use kafka_wire::messages::alter_share_group_offsets_request::{
    AlterShareGroupOffsetsRequestPartition, AlterShareGroupOffsetsRequestTopic,
};
use kafka_wire::messages::delete_share_group_offsets_request::DeleteShareGroupOffsetsRequestTopic;
use kafka_wire::messages::describe_share_group_offsets_request::{
    DescribeShareGroupOffsetsRequestGroup, DescribeShareGroupOffsetsRequestTopic,
};
use kafka_wire::messages::describe_share_group_offsets_response::DescribeShareGroupOffsetsResponseGroup;
use kafka_wire::messages::{
    AlterShareGroupOffsetsRequest, AlterShareGroupOffsetsResponse, DeleteShareGroupOffsetsRequest,
    DeleteShareGroupOffsetsResponse, DescribeShareGroupOffsetsRequest, TopicName,
};
use kafka_wire::{ErrorCode, StrBytes};

use crate::coordinator::{Coordinates, ask_about, ask_coordinator, group_id};
use crate::driver::{Answers, Effect, Refusal};
use crate::leaders::by_topic;
use crate::operation::operation;
use crate::{AdminError, ItemResults, Resource};

/// Where a share group is in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShareGroupOffset {
    /// Everything before this offset is done with (the share-partition start offset).
    pub start_offset: i64,
    /// The leader epoch of the partition; `None` if unknown.
    pub leader_epoch: Option<i32>,
    /// How many records are not yet acknowledged (KIP-1226); `None` from brokers before Kafka 4.2, or if unknown.
    pub lag: Option<i64>,
}

/// See [`Admin::list_share_group_offsets`](crate::Admin::list_share_group_offsets).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct ListShareGroupOffsets {
    client: Client,
    timeout: Duration,
    group: String,
    partitions: Option<Vec<TopicPartition>>,
}

operation!(ListShareGroupOffsets => ItemResults<TopicPartition, ShareGroupOffset>);

impl ListShareGroupOffsets {
    pub(crate) fn new(client: Client, timeout: Duration, group: String) -> Self {
        Self { client, timeout, group, partitions: None }
    }

    /// Only these partitions. Default: all that the group reads.
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = TopicPartition>) -> Self {
        self.partitions = Some(partitions.into_iter().collect());
        self
    }

    /// By topic and partition. Partitions that the group has not begun to read are left out.
    async fn run(self) -> Result<ItemResults<TopicPartition, ShareGroupOffset>, AdminError> {
        let topics = self.partitions.as_ref().map(|partitions| {
            let asked = partitions.iter().map(|partition| (partition, partition.partition));
            let topics = by_topic(asked).map(|(TopicName(name), asked)| {
                DescribeShareGroupOffsetsRequestTopic::default().with_topic_name(name).with_partitions(asked)
            });
            topics.collect::<Vec<_>>()
        });
        let group = DescribeShareGroupOffsetsRequestGroup::default()
            .with_group_id(StrBytes::from_string(self.group.clone()))
            .with_topics(topics);
        let request = &DescribeShareGroupOffsetsRequest::default().with_groups(vec![group]);
        let answer = ask_coordinator(
            &self.client,
            Coordinates::Group,
            &self.group,
            Effect::Read,
            self.timeout,
            async |coordinator| {
                let groups = coordinator.ask(request.clone()).await?.groups;
                let Some(group) = groups.into_iter().next() else {
                    return Ok(Err(ErrorCode::UnknownServerError.into()));
                };
                Ok(Refusal::check(group.error_code, group.error_message.clone()).map(|()| group))
            },
        );
        Ok(listed(answer.await?))
    }
}

fn listed(group: DescribeShareGroupOffsetsResponseGroup) -> ItemResults<TopicPartition, ShareGroupOffset> {
    let mut offsets = Vec::new();
    for topic in group.topics {
        let name: Arc<str> = Arc::from(topic.topic_name.as_str());
        for partition in topic.partitions {
            let key = TopicPartition::new(name.clone(), partition.partition_index);
            let result = match Refusal::check(partition.error_code, partition.error_message) {
                Ok(()) if partition.start_offset < 0 => continue,
                Ok(()) => Ok(ShareGroupOffset {
                    start_offset: partition.start_offset,
                    leader_epoch: Some(partition.leader_epoch).filter(|&epoch| epoch >= 0),
                    lag: Some(partition.lag).filter(|&lag| lag >= 0),
                }),
                Err(Refusal { code, message, .. }) => {
                    Err(AdminError::Refused { resource: Resource::Partition(key.clone()), code, message })
                }
            };
            offsets.push((key, result));
        }
    }
    offsets.sort_by(|(a, _), (b, _)| a.cmp(b));
    ItemResults::new(offsets)
}

/// See [`Admin::alter_share_group_offsets`](crate::Admin::alter_share_group_offsets).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct AlterShareGroupOffsets {
    client: Client,
    timeout: Duration,
    group: String,
    offsets: Vec<(TopicPartition, i64)>,
}

operation!(AlterShareGroupOffsets => ItemResults<TopicPartition, ()>);

impl AlterShareGroupOffsets {
    pub(crate) fn new(
        client: Client,
        timeout: Duration,
        group: String,
        offsets: Vec<(TopicPartition, i64)>,
    ) -> Self {
        Self { client, timeout, group, offsets }
    }

    async fn run(self) -> Result<ItemResults<TopicPartition, ()>, AdminError> {
        let partitions: Vec<_> = self.offsets.iter().map(|(partition, _)| partition.clone()).collect();
        let offsets: HashMap<TopicPartition, i64> = self.offsets.into_iter().collect();
        let request = |open: &[TopicPartition]| alter(&self.group, open, &offsets);
        ask_about(&self.client, &self.group, partitions, Effect::Write, self.timeout, request, altered).await
    }
}

fn alter(
    group: &str,
    partitions: &[TopicPartition],
    offsets: &HashMap<TopicPartition, i64>,
) -> AlterShareGroupOffsetsRequest {
    let asked = partitions.iter().filter_map(|partition| {
        let asked = AlterShareGroupOffsetsRequestPartition::default()
            .with_partition_index(partition.partition)
            .with_start_offset(*offsets.get(partition)?);
        Some((partition, asked))
    });
    let topics = by_topic(asked).map(|(name, asked)| {
        AlterShareGroupOffsetsRequestTopic::default().with_topic_name(name).with_partitions(asked)
    });
    AlterShareGroupOffsetsRequest::default().with_group_id(group_id(group)).with_topics(topics.collect())
}

fn altered(answer: AlterShareGroupOffsetsResponse) -> Result<Answers<TopicPartition, ()>, Refusal> {
    Refusal::check(answer.error_code, answer.error_message)?;
    let topics = answer.responses.into_iter().flat_map(|topic| {
        let name: Arc<str> = Arc::from(topic.topic_name.as_str());
        topic.partitions.into_iter().map(move |partition| {
            let result = Refusal::check(partition.error_code, partition.error_message);
            (TopicPartition::new(name.clone(), partition.partition_index), result)
        })
    });
    Ok(topics.collect())
}

/// See [`Admin::delete_share_group_offsets`](crate::Admin::delete_share_group_offsets).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct DeleteShareGroupOffsets {
    client: Client,
    timeout: Duration,
    group: String,
    topics: Vec<String>,
}

operation!(DeleteShareGroupOffsets => ItemResults<String, ()>);

impl DeleteShareGroupOffsets {
    pub(crate) fn new(client: Client, timeout: Duration, group: String, topics: Vec<String>) -> Self {
        Self { client, timeout, group, topics }
    }

    async fn run(self) -> Result<ItemResults<String, ()>, AdminError> {
        let request = |open: &[String]| {
            let topics = open.iter().map(|name| {
                DeleteShareGroupOffsetsRequestTopic::default()
                    .with_topic_name(TopicName(StrBytes::from_string(name.clone())))
            });
            DeleteShareGroupOffsetsRequest::default()
                .with_group_id(group_id(&self.group))
                .with_topics(topics.collect())
        };
        ask_about(&self.client, &self.group, self.topics, Effect::Write, self.timeout, request, deleted).await
    }
}

fn deleted(answer: DeleteShareGroupOffsetsResponse) -> Result<Answers<String, ()>, Refusal> {
    Refusal::check(answer.error_code, answer.error_message)?;
    let topics = answer
        .responses
        .into_iter()
        .map(|topic| (topic.topic_name.to_string(), Refusal::check(topic.error_code, topic.error_message)));
    Ok(topics.collect())
}
