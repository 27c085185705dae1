//! Deleting the oldest records of partitions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future;
use kafka_client::{Client, RequestError, Target, TopicPartition};
use kafka_wire::ErrorCode;
use kafka_wire::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_wire::messages::{DeleteRecordsRequest, DeleteRecordsResponse};

use crate::driver::{Answers, Effect, Refusal, drive, millis};
use crate::offsets::route;
use crate::operation::operation;
use crate::topics::topic_name;
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
            delete(self.client.clone(), wanted.collect(), remaining)
        })
        .await
    }
}

type Wanted = Vec<(TopicPartition, RecordsToDelete)>;

/// One request to each leader.
async fn delete(
    client: Client,
    wanted: Wanted,
    timeout: Duration,
) -> Result<Answers<TopicPartition, i64>, RequestError> {
    let mut topics: Vec<&str> = wanted.iter().map(|(partition, _)| partition.topic()).collect();
    topics.sort_unstable();
    topics.dedup();
    let cluster = match tokio::time::timeout(timeout, client.refresh_topics(topics)).await {
        Ok(cluster) => cluster?,
        Err(_) => return Err(RequestError::Timeout { waited: timeout, last: None }),
    };
    let (by_leader, mut answers) = route(&cluster, wanted);
    let requests = by_leader.into_iter().map(|(leader, wanted)| {
        let answer = client.request(request(&wanted, timeout)).to(Target::Broker(leader)).timeout(timeout);
        async move { (wanted, answer.await) }
    });
    for (wanted, answer) in future::join_all(requests).await {
        match answer {
            Ok(answer) => answers.extend(deleted(answer)),
            Err(error) if error.is_retriable() && may_repeat(&wanted, &error) => {
                let passing = |(partition, _)| (partition, Err(ErrorCode::LeaderNotAvailable.into()));
                answers.extend(wanted.into_iter().map(passing));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(answers)
}

/// Deleting up to an offset twice is deleting once. "All" a second time would take what was written in between.
fn may_repeat(wanted: &Wanted, error: &RequestError) -> bool {
    !error.possibly_written()
        || wanted.iter().all(|(_, records)| matches!(records, RecordsToDelete::BeforeOffset(_)))
}

fn request(wanted: &Wanted, timeout: Duration) -> DeleteRecordsRequest {
    let mut topics: BTreeMap<&str, Vec<DeleteRecordsPartition>> = BTreeMap::new();
    for (partition, records) in wanted {
        let asked = DeleteRecordsPartition::default()
            .with_partition_index(partition.partition)
            .with_offset(records.offset());
        topics.entry(partition.topic()).or_default().push(asked);
    }
    let topics = topics.into_iter().map(|(name, partitions)| {
        DeleteRecordsTopic::default().with_name(topic_name(name)).with_partitions(partitions)
    });
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
