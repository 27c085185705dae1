use std::collections::BTreeMap;
use std::time::Duration;

use kafka_client::consumer::OffsetAndMetadata;
use kafka_client::{Client, TopicPartition};
use tokio::time::Instant;

use super::offsets::ListGroupOffsets;
use crate::offsets::{ListOffsets, ListedOffset, OffsetSpec};
use crate::operation::operation;
use crate::{AdminError, ItemResults};

/// How far a group is behind in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionLag {
    /// What the group committed; `None` if nothing.
    pub committed: Option<OffsetAndMetadata>,
    /// The offset that the next record gets: see [`GroupLag::read_committed`].
    pub end_offset: i64,
}

impl PartitionLag {
    /// How many offsets there are from the committed one to the end; `None` without a committed offset.
    ///
    /// Negative if the group is ahead of the log's end: the topic was made anew, or lost records in an unclean election.
    pub fn lag(&self) -> Option<i64> {
        self.committed.as_ref().map(|committed| self.end_offset.saturating_sub(committed.offset))
    }
}

/// See [`Admin::group_lag`](crate::Admin::group_lag).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct GroupLag {
    client: Client,
    timeout: Duration,
    group: String,
    partitions: Vec<TopicPartition>,
    read_committed: bool,
}

operation!(GroupLag => ItemResults<TopicPartition, PartitionLag>);

impl GroupLag {
    pub(crate) fn new(client: Client, timeout: Duration, group: String) -> Self {
        Self { client, timeout, group, partitions: Vec::new(), read_committed: false }
    }

    /// Tells of these partitions too, even if the group has committed nothing there.
    pub fn and_partitions(mut self, partitions: impl IntoIterator<Item = TopicPartition>) -> Self {
        self.partitions = partitions.into_iter().collect();
        self
    }

    /// Whether the end is where consumers with `isolation.level=read_committed` wait: the first open transaction.
    /// Default no: the high watermark.
    pub fn read_committed(mut self, read_committed: bool) -> Self {
        self.read_committed = read_committed;
        self
    }

    /// By topic and partition.
    async fn run(self) -> Result<ItemResults<TopicPartition, PartitionLag>, AdminError> {
        let deadline = Instant::now() + self.timeout;
        let committed = ListGroupOffsets::new(self.client.clone(), self.timeout, self.group).await?;
        let more = self.partitions.into_iter().map(|partition| (partition, Ok(None)));
        let committed: BTreeMap<_, _> = more
            .chain(committed.into_iter().map(|(partition, result)| (partition, result.map(Some))))
            .collect();
        let specs = committed.keys().map(|partition| (partition.clone(), OffsetSpec::Latest)).collect();
        let remaining = deadline.saturating_duration_since(Instant::now());
        let ends =
            ListOffsets::new(self.client, remaining, specs).read_committed(self.read_committed).await?;
        Ok(ItemResults::new(joined(committed, ends)))
    }
}

type Committed = BTreeMap<TopicPartition, Result<Option<OffsetAndMetadata>, AdminError>>;

fn joined(
    mut committed: Committed,
    ends: ItemResults<TopicPartition, ListedOffset>,
) -> Vec<(TopicPartition, Result<PartitionLag, AdminError>)> {
    let lags = ends.into_iter().filter_map(|(partition, end)| {
        let committed = committed.remove(&partition)?;
        let lag = committed.and_then(|committed| {
            // Without a record there is still an end.
            let end_offset = end?.offset.unwrap_or_default();
            Ok(PartitionLag { committed, end_offset })
        });
        Some((partition, lag))
    });
    lags.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_what_is_left_and_unknown_without_a_commit() {
        let lag = |committed: Option<i64>| {
            PartitionLag { committed: committed.map(OffsetAndMetadata::new), end_offset: 10 }.lag()
        };
        assert_eq!(
            (lag(Some(4)), lag(Some(10)), lag(Some(12)), lag(None)),
            (Some(6), Some(0), Some(-2), None)
        );
    }
}
