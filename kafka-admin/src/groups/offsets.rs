use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_client::consumer::OffsetAndMetadata;
use kafka_client::{Client, TopicPartition};
use kafka_wire::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_wire::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_wire::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_wire::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest,
    OffsetFetchResponse,
};
use kafka_wire::{ErrorCode, StrBytes};

use crate::coordinator::{Coordinates, ask_about, ask_coordinator, group_id};
use crate::driver::{Answers, Effect, Refusal};
use crate::leaders::by_topic;
use crate::operation::operation;
use crate::{AdminError, ItemResults, Resource};

/// See [`Admin::list_group_offsets`](crate::Admin::list_group_offsets).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct ListGroupOffsets {
    client: Client,
    timeout: Duration,
    group: String,
    partitions: Option<Vec<TopicPartition>>,
    require_stable: bool,
}

operation!(ListGroupOffsets => ItemResults<TopicPartition, OffsetAndMetadata>);

/// From version 8 one request may ask about several groups; up to here it has one group at its top.
const ONE_GROUP: i16 = 7;

impl ListGroupOffsets {
    pub(crate) fn new(client: Client, timeout: Duration, group: String) -> Self {
        Self { client, timeout, group, partitions: None, require_stable: false }
    }

    /// Only these partitions. Default: all that the group has committed.
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = TopicPartition>) -> Self {
        self.partitions = Some(partitions.into_iter().collect());
        self
    }

    /// Whether to wait for transactions that are about to commit offsets (KIP-447); they are
    /// `UNSTABLE_OFFSET_COMMIT` until then. Default no.
    pub fn require_stable(mut self, require_stable: bool) -> Self {
        self.require_stable = require_stable;
        self
    }

    /// By topic and partition. What has no committed offset is left out: everything, if the group does not exist.
    async fn run(self) -> Result<ItemResults<TopicPartition, OffsetAndMetadata>, AdminError> {
        let topics = self.partitions.as_ref().map(|partitions| {
            let asked = partitions.iter().map(|partition| (partition, partition.partition));
            let topics = by_topic(asked).map(|(name, asked)| {
                OffsetFetchRequestTopic::default().with_name(name).with_partition_indexes(asked)
            });
            topics.collect::<Vec<_>>()
        });
        let request = OffsetFetchRequest::default()
            .with_group_id(group_id(&self.group))
            .with_topics(topics)
            .with_require_stable(self.require_stable);
        let request = &request;
        let answer = ask_coordinator(
            &self.client,
            Coordinates::Group,
            &self.group,
            Effect::Read,
            self.timeout,
            async |coordinator| {
                let answer = coordinator.ask_up_to(request.clone(), ONE_GROUP).await?;
                Ok(fetched(answer))
            },
        );
        Ok(listed(answer.await?))
    }
}

/// An offset that a transaction is about to commit makes the whole answer one to be asked for again.
fn fetched(answer: OffsetFetchResponse) -> Result<OffsetFetchResponse, Refusal> {
    Refusal::check(answer.error_code, None)?;
    let unstable = ErrorCode::UnstableOffsetCommit.code();
    match answer.topics.iter().flat_map(|topic| &topic.partitions).any(|it| it.error_code == unstable) {
        true => Err(ErrorCode::UnstableOffsetCommit.into()),
        false => Ok(answer),
    }
}

fn listed(answer: OffsetFetchResponse) -> ItemResults<TopicPartition, OffsetAndMetadata> {
    let mut offsets = Vec::new();
    for topic in answer.topics {
        let name: Arc<str> = Arc::from(topic.name.as_str());
        for partition in topic.partitions {
            let key = TopicPartition::new(name.clone(), partition.partition_index);
            let result = match ErrorCode::from(partition.error_code) {
                ErrorCode::None if partition.committed_offset < 0 => continue,
                ErrorCode::None => {
                    let metadata = partition.metadata.map(|text| text.to_string()).unwrap_or_default();
                    let mut at = OffsetAndMetadata::new(partition.committed_offset).with_metadata(metadata);
                    at.leader_epoch = Some(partition.committed_leader_epoch).filter(|&epoch| epoch >= 0);
                    Ok(at)
                }
                code => {
                    let resource = Resource::Partition(key.clone());
                    Err(AdminError::Refused { resource, code, message: None })
                }
            };
            offsets.push((key, result));
        }
    }
    offsets.sort_by(|(a, _), (b, _)| a.cmp(b));
    ItemResults::new(offsets)
}

/// See [`Admin::alter_group_offsets`](crate::Admin::alter_group_offsets).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct AlterGroupOffsets {
    client: Client,
    timeout: Duration,
    group: String,
    offsets: Vec<(TopicPartition, OffsetAndMetadata)>,
}

operation!(AlterGroupOffsets => ItemResults<TopicPartition, ()>);

impl AlterGroupOffsets {
    pub(crate) fn new(
        client: Client,
        timeout: Duration,
        group: String,
        offsets: Vec<(TopicPartition, OffsetAndMetadata)>,
    ) -> Self {
        Self { client, timeout, group, offsets }
    }

    async fn run(self) -> Result<ItemResults<TopicPartition, ()>, AdminError> {
        let partitions: Vec<_> = self.offsets.iter().map(|(partition, _)| partition.clone()).collect();
        let offsets: HashMap<TopicPartition, OffsetAndMetadata> = self.offsets.into_iter().collect();
        let request = |open: &[TopicPartition]| commit(&self.group, open, &offsets);
        ask_about(&self.client, &self.group, partitions, Effect::Write, self.timeout, request, committed)
            .await
    }
}

/// As a consumer without a group's membership commits.
fn commit(
    group: &str,
    partitions: &[TopicPartition],
    offsets: &HashMap<TopicPartition, OffsetAndMetadata>,
) -> OffsetCommitRequest {
    let asked = partitions.iter().filter_map(|partition| {
        let at = offsets.get(partition)?;
        let asked = OffsetCommitRequestPartition::default()
            .with_partition_index(partition.partition)
            .with_committed_offset(at.offset)
            .with_committed_leader_epoch(at.leader_epoch.unwrap_or(-1))
            .with_committed_metadata(Some(StrBytes::from_string(at.metadata.clone())));
        Some((partition, asked))
    });
    let topics = by_topic(asked)
        .map(|(name, asked)| OffsetCommitRequestTopic::default().with_name(name).with_partitions(asked));
    OffsetCommitRequest::default().with_group_id(group_id(group)).with_topics(topics.collect())
}

fn committed(answer: OffsetCommitResponse) -> Result<Answers<TopicPartition, ()>, Refusal> {
    let topics = answer.topics.into_iter().flat_map(|topic| {
        let codes = topic.partitions.into_iter().map(|it| (it.partition_index, it.error_code));
        outcomes(&topic.name, codes)
    });
    Ok(topics.collect())
}

/// See [`Admin::delete_group_offsets`](crate::Admin::delete_group_offsets).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct DeleteGroupOffsets {
    client: Client,
    timeout: Duration,
    group: String,
    partitions: Vec<TopicPartition>,
}

operation!(DeleteGroupOffsets => ItemResults<TopicPartition, ()>);

impl DeleteGroupOffsets {
    pub(crate) fn new(
        client: Client,
        timeout: Duration,
        group: String,
        partitions: Vec<TopicPartition>,
    ) -> Self {
        Self { client, timeout, group, partitions }
    }

    async fn run(self) -> Result<ItemResults<TopicPartition, ()>, AdminError> {
        let request = |open: &[TopicPartition]| delete(&self.group, open);
        ask_about(&self.client, &self.group, self.partitions, Effect::Write, self.timeout, request, deleted)
            .await
    }
}

fn delete(group: &str, partitions: &[TopicPartition]) -> OffsetDeleteRequest {
    let asked = partitions.iter().map(|partition| {
        (partition, OffsetDeleteRequestPartition::default().with_partition_index(partition.partition))
    });
    let topics = by_topic(asked)
        .map(|(name, asked)| OffsetDeleteRequestTopic::default().with_name(name).with_partitions(asked));
    OffsetDeleteRequest::default().with_group_id(group_id(group)).with_topics(topics.collect())
}

fn deleted(answer: OffsetDeleteResponse) -> Result<Answers<TopicPartition, ()>, Refusal> {
    Refusal::check(answer.error_code, None)?;
    let topics = answer.topics.into_iter().flat_map(|topic| {
        let codes = topic.partitions.into_iter().map(|it| (it.partition_index, it.error_code));
        outcomes(&topic.name, codes)
    });
    Ok(topics.collect())
}

/// What an answer says of each partition of a topic.
fn outcomes(name: &str, codes: impl Iterator<Item = (i32, i16)>) -> Answers<TopicPartition, ()> {
    let name: Arc<str> = Arc::from(name);
    codes
        .map(|(index, code)| (TopicPartition::new(name.clone(), index), Refusal::check(code, None)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_without_a_committed_offset_is_left_out() {
        use kafka_wire::messages::TopicName;
        use kafka_wire::messages::offset_fetch_response::{
            OffsetFetchResponsePartition, OffsetFetchResponseTopic,
        };
        let partition = |id, offset| {
            OffsetFetchResponsePartition::default().with_partition_index(id).with_committed_offset(offset)
        };
        let topic = OffsetFetchResponseTopic::default()
            .with_name(TopicName(StrBytes::from_static_str("t")))
            .with_partitions(vec![partition(1, 5), partition(0, -1)]);
        let offsets = listed(OffsetFetchResponse::default().with_topics(vec![topic])).all().unwrap();
        assert_eq!(offsets.len(), 1);
        assert_eq!((&offsets[0].0, offsets[0].1.offset), (&TopicPartition::new("t", 1), 5));
    }

    #[test]
    fn an_offset_that_a_transaction_is_about_to_commit_is_asked_for_again() {
        use kafka_wire::messages::offset_fetch_response::{
            OffsetFetchResponsePartition, OffsetFetchResponseTopic,
        };
        let code = ErrorCode::UnstableOffsetCommit;
        let partition = OffsetFetchResponsePartition::default().with_error_code(code.code());
        let topic = OffsetFetchResponseTopic::default().with_partitions(vec![partition]);
        let refusal = fetched(OffsetFetchResponse::default().with_topics(vec![topic])).unwrap_err();
        assert_eq!(refusal.code, code);
        assert!(refusal.passes());
    }

    #[test]
    fn a_commit_holds_each_topic_once_and_belongs_to_no_member() {
        let (a, b) = (TopicPartition::new("t", 0), TopicPartition::new("t", 1));
        let offsets = [(a.clone(), OffsetAndMetadata::new(7).with_metadata("m"))].into_iter().collect();
        let request = commit("g", &[a, b], &offsets);
        assert_eq!((request.generation_id_or_member_epoch, request.member_id.as_str()), (-1, ""));
        assert_eq!(request.topics.len(), 1);
        let asked: Vec<_> =
            request.topics[0].partitions.iter().map(|it| (it.partition_index, it.committed_offset)).collect();
        assert_eq!(asked, [(0, 7)]);
    }
}
