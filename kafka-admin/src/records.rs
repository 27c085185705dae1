//! Deleting the oldest records of partitions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_client::{Client, RequestError, TopicPartition};
use kafka_wire::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_wire::messages::{DeleteRecordsRequest, DeleteRecordsResponse};

use crate::driver::{Answers, Effect, Refusal, drive, millis};
use crate::leaders::{ask_leaders, by_topic};
use crate::operation::operation;
use crate::{AdminError, ItemResults};

/// Up to where a partition's records are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RecordsToDelete {
    /// All records before this offset.
    BeforeOffset(i64),
    /// Everything that consumers can read when the leader gets the request (its high watermark).
    All,
}

impl RecordsToDelete {
    fn offset(self) -> i64 {
        match self {
            Self::BeforeOffset(offset) => offset,
            Self::All => -1,
        }
    }
}

/// See [`Admin::delete_records`](crate::Admin::delete_records).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct DeleteRecords {
    client: Client,
    timeout: Duration,
    records: Vec<(TopicPartition, RecordsToDelete)>,
}

operation!(DeleteRecords => ItemResults<TopicPartition, i64>);

impl DeleteRecords {
    pub(crate) fn new(
        client: Client,
        timeout: Duration,
        records: Vec<(TopicPartition, RecordsToDelete)>,
    ) -> Self {
        Self { client, timeout, records }
    }

    /// The first offset that each partition still has.
    async fn run(self) -> Result<ItemResults<TopicPartition, i64>, AdminError> {
        let partitions: Vec<_> = self.records.iter().map(|(partition, _)| partition.clone()).collect();
        let records: HashMap<TopicPartition, RecordsToDelete> = self.records.into_iter().collect();
        drive(&self.client, partitions, Effect::Write, self.timeout, |open, remaining| {
            let wanted = open.into_iter().filter_map(|partition| {
                let records = *records.get(&partition)?;
                Some((partition, records))
            });
            ask_leaders(
                self.client.clone(),
                wanted.collect(),
                remaining,
                move |wanted| request(wanted, remaining),
                may_repeat,
                deleted,
            )
        })
        .await
    }
}

/// Deleting up to an offset twice is deleting once. "All" a second time would take what was written in between.
fn may_repeat(wanted: &[(TopicPartition, RecordsToDelete)], error: &RequestError) -> bool {
    !error.possibly_written()
        || wanted.iter().all(|(_, records)| matches!(records, RecordsToDelete::BeforeOffset(_)))
}

fn request(wanted: &[(TopicPartition, RecordsToDelete)], timeout: Duration) -> DeleteRecordsRequest {
    let asked = wanted.iter().map(|(partition, records)| {
        let asked = DeleteRecordsPartition::default()
            .with_partition_index(partition.partition)
            .with_offset(records.offset());
        (partition, asked)
    });
    let topics = by_topic(asked)
        .map(|(name, asked)| DeleteRecordsTopic::default().with_name(name).with_partitions(asked));
    DeleteRecordsRequest::default().with_topics(topics.collect()).with_timeout_ms(millis(timeout))
}

fn deleted(answer: DeleteRecordsResponse) -> Answers<TopicPartition, i64> {
    let topics = answer.topics.into_iter().flat_map(|topic| {
        let name: Arc<str> = Arc::from(topic.name.as_str());
        topic.partitions.into_iter().map(move |partition| {
            let key = TopicPartition::new(name.clone(), partition.partition_index);
            let result = Refusal::check(partition.error_code, None).map(|()| partition.low_watermark);
            (key, result)
        })
    });
    topics.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_the_same_twice_is_sent_twice() {
        let lost = RequestError::Timeout { waited: Duration::from_secs(1), last: None };
        let partition = TopicPartition::new("a", 0);
        let before = vec![(partition.clone(), RecordsToDelete::BeforeOffset(5))];
        let all = vec![(partition, RecordsToDelete::All)];
        assert!(may_repeat(&before, &lost));
        assert_eq!(may_repeat(&all, &lost), !lost.possibly_written());
        assert_eq!(request(&all, Duration::from_secs(1)).topics[0].partitions[0].offset, -1);
    }
}
