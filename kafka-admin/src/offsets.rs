//! Looking up offsets of partitions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_client::{Client, TopicPartition};
use kafka_wire::ErrorCode;
use kafka_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_wire::messages::list_offsets_response::ListOffsetsPartitionResponse;
use kafka_wire::messages::{BrokerId, ListOffsetsRequest, ListOffsetsResponse};

use crate::driver::{Answers, Effect, Refusal, drive, millis};
use crate::leaders::{ask_leaders, by_topic};
use crate::operation::operation;
use crate::{AdminError, ItemResults};

/// Which offset of a partition to look up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OffsetSpec {
    /// The first offset that is still there.
    Earliest,
    /// The offset that the next record gets: the high watermark, or with
    /// [`read_committed`](ListOffsets::read_committed) the end of the last finished transaction.
    Latest,
    /// The offset of the record with the largest timestamp (KIP-734).
    MaxTimestamp,
    /// The first offset whose timestamp, in milliseconds since 1970, is this or later.
    Timestamp(i64),
}

impl OffsetSpec {
    /// As requests carry it (Kafka's `ListOffsetsRequest`).
    fn timestamp(self) -> i64 {
        match self {
            Self::Latest => -1,
            Self::Earliest => -2,
            Self::MaxTimestamp => -3,
            Self::Timestamp(timestamp) => timestamp.max(0),
        }
    }
}

/// An offset that was looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedOffset {
    /// The offset; `None` where no record is that late, or there is no record.
    pub offset: Option<i64>,
    /// The timestamp of the record there, for the specs that are about time.
    pub timestamp: Option<i64>,
    /// The leader epoch of the record there; `None` if unknown.
    pub leader_epoch: Option<i32>,
}

impl From<ListOffsetsPartitionResponse> for ListedOffset {
    fn from(partition: ListOffsetsPartitionResponse) -> Self {
        Self {
            offset: Some(partition.offset).filter(|&offset| offset >= 0),
            timestamp: Some(partition.timestamp).filter(|&timestamp| timestamp >= 0),
            leader_epoch: Some(partition.leader_epoch).filter(|&epoch| epoch >= 0),
        }
    }
}

/// See [`Admin::list_offsets`](crate::Admin::list_offsets).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct ListOffsets {
    client: Client,
    timeout: Duration,
    specs: Vec<(TopicPartition, OffsetSpec)>,
    read_committed: bool,
}

operation!(ListOffsets => ItemResults<TopicPartition, ListedOffset>);

impl ListOffsets {
    pub(crate) fn new(client: Client, timeout: Duration, specs: Vec<(TopicPartition, OffsetSpec)>) -> Self {
        Self { client, timeout, specs, read_committed: false }
    }

    /// Whether [`OffsetSpec::Latest`] ends before open transactions. Default no.
    pub fn read_committed(mut self, read_committed: bool) -> Self {
        self.read_committed = read_committed;
        self
    }

    async fn run(self) -> Result<ItemResults<TopicPartition, ListedOffset>, AdminError> {
        let partitions: Vec<_> = self.specs.iter().map(|(partition, _)| partition.clone()).collect();
        let specs: HashMap<TopicPartition, OffsetSpec> = self.specs.into_iter().collect();
        drive(&self.client, partitions, Effect::Read, self.timeout, |open, remaining| {
            let wanted = open.into_iter().filter_map(|partition| {
                let spec = *specs.get(&partition)?;
                Some((partition, spec))
            });
            ask_leaders(
                self.client.clone(),
                wanted.collect(),
                remaining,
                move |wanted| request(wanted, self.read_committed, remaining),
                |_, _| true,
                listed,
            )
        })
        .await
    }
}

fn request(
    wanted: &[(TopicPartition, OffsetSpec)],
    read_committed: bool,
    timeout: Duration,
) -> ListOffsetsRequest {
    let asked = wanted.iter().map(|(partition, spec)| {
        let asked = ListOffsetsPartition::default()
            .with_partition_index(partition.partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(spec.timestamp());
        (partition, asked)
    });
    let topics = by_topic(asked)
        .map(|(name, asked)| ListOffsetsTopic::default().with_name(name).with_partitions(asked));
    ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_isolation_level(i8::from(read_committed))
        .with_topics(topics.collect())
        .with_timeout_ms(millis(timeout))
}

fn listed(answer: ListOffsetsResponse) -> Answers<TopicPartition, ListedOffset> {
    let topics = answer.topics.into_iter().flat_map(|topic| {
        let name: Arc<str> = Arc::from(topic.name.as_str());
        topic.partitions.into_iter().map(move |partition| {
            let key = TopicPartition::new(name.clone(), partition.partition_index);
            // The leader may just have lost it; metadata said that it exists.
            let result = match ErrorCode::from(partition.error_code) {
                ErrorCode::UnknownTopicOrPartition => Err(ErrorCode::NotLeaderOrFollower.into()),
                _ => Refusal::check(partition.error_code, None).map(|()| partition.into()),
            };
            (key, result)
        })
    });
    topics.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_holds_each_topic_once() {
        let wanted = [
            (TopicPartition::new("b", 1), OffsetSpec::Latest),
            (TopicPartition::new("a", 0), OffsetSpec::Earliest),
            (TopicPartition::new("b", 0), OffsetSpec::Timestamp(17)),
        ];
        let request = request(&wanted, true, Duration::from_secs(1));
        assert_eq!(request.isolation_level, 1);
        let topics: Vec<_> = request
            .topics
            .iter()
            .map(|t| {
                let asked: Vec<_> = t.partitions.iter().map(|p| (p.partition_index, p.timestamp)).collect();
                (t.name.as_str(), asked)
            })
            .collect();
        assert_eq!(topics, [("a", vec![(0, -2)]), ("b", vec![(1, -1), (0, 17)])]);
    }

    #[test]
    fn no_record_is_no_offset() {
        let none =
            ListOffsetsPartitionResponse::default().with_offset(-1).with_timestamp(-1).with_leader_epoch(-1);
        assert_eq!(
            ListedOffset::from(none),
            ListedOffset { offset: None, timestamp: None, leader_epoch: None }
        );
    }
}
