use std::time::Duration;

use kafka_client::consumer::OffsetAndMetadata;
use kafka_client::{Client, TopicPartition};

use crate::alter_configs::{ConfigChange, IncrementalAlterConfigs};
use crate::cluster::DescribeCluster;
use crate::configs::{ConfigResource, DescribeConfigs};
use crate::groups::{
    AlterGroupOffsets, AlterShareGroupOffsets, DeleteGroupOffsets, DeleteGroups, DeleteShareGroupOffsets,
    DescribeClassicGroups, DescribeConsumerGroups, DescribeShareGroups, GroupLag, ListGroupOffsets,
    ListGroups, ListShareGroupOffsets, MembersToRemove, RemoveMembers,
};
use crate::offsets::{ListOffsets, OffsetSpec};
use crate::partitions::{CreatePartitions, NewPartitions};
use crate::records::{DeleteRecords, RecordsToDelete};
use crate::topics::{CreateTopics, DeleteTopics, DescribeTopics, ListTopics, NewTopic};
use crate::transactions::{
    AbortTransaction, DescribeProducers, DescribeTransactions, FenceProducers, FindHangingTransactions,
    ListTransactions, TransactionToAbort,
};

/// How long an operation is tried as a whole by default, as `default.api.timeout.ms` of the Java client.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// A handle for administrative operations: cheap to clone, on the connections of its [`Client`].
///
/// Every operation goes to the broker that can answer it, is tried again while the reason for a refusal passes by itself
/// (`NOT_CONTROLLER`, `NOT_LEADER_OR_FOLLOWER`, a coordinator that is loading), and ends at its time-out. Dropping an
/// operation's future ends the wait, not a change that a broker has been asked for.
#[derive(Debug, Clone)]
pub struct Admin {
    client: Client,
    timeout: Duration,
}

impl Admin {
    /// Operations on the cluster of `client`, each with a time-out of 60 s.
    pub fn new(client: Client) -> Self {
        Self { client, timeout: DEFAULT_TIMEOUT }
    }

    /// How long operations are tried unless they are told otherwise (`default.api.timeout.ms`). Default 60 s.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The client underneath.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Creates topics.
    pub fn create_topics(&self, topics: impl IntoIterator<Item = NewTopic>) -> CreateTopics {
        CreateTopics::new(self.client.clone(), self.timeout, topics.into_iter().collect())
    }

    /// Deletes topics by name, with all their records.
    pub fn delete_topics<T: Into<String>>(&self, names: impl IntoIterator<Item = T>) -> DeleteTopics {
        DeleteTopics::new(self.client.clone(), self.timeout, strings(names))
    }

    /// Every topic's name, id and number of partitions.
    pub fn list_topics(&self) -> ListTopics {
        ListTopics::new(self.client.clone(), self.timeout)
    }

    /// Topics with their partitions, leaders and replicas.
    pub fn describe_topics<T: Into<String>>(&self, names: impl IntoIterator<Item = T>) -> DescribeTopics {
        DescribeTopics::new(self.client.clone(), self.timeout, strings(names))
    }

    /// Adds partitions to topics.
    pub fn create_partitions(&self, topics: impl IntoIterator<Item = NewPartitions>) -> CreatePartitions {
        CreatePartitions::new(self.client.clone(), self.timeout, topics.into_iter().collect())
    }

    /// The configurations of topics, brokers and the like.
    pub fn describe_configs(&self, resources: impl IntoIterator<Item = ConfigResource>) -> DescribeConfigs {
        DescribeConfigs::new(self.client.clone(), self.timeout, resources.into_iter().collect())
    }

    /// Changes single keys of configurations and leaves the others as they are. What changes holds at once.
    pub fn incremental_alter_configs(
        &self,
        changes: impl IntoIterator<Item = (ConfigResource, Vec<ConfigChange>)>,
    ) -> IncrementalAlterConfigs {
        IncrementalAlterConfigs::new(self.client.clone(), self.timeout, changes.into_iter().collect())
    }

    /// Deletes the oldest records of partitions. Answers with the first offset that each still has.
    ///
    /// Topics that are only compacted refuse it (`POLICY_VIOLATION`).
    pub fn delete_records(
        &self,
        records: impl IntoIterator<Item = (TopicPartition, RecordsToDelete)>,
    ) -> DeleteRecords {
        DeleteRecords::new(self.client.clone(), self.timeout, records.into_iter().collect())
    }

    /// The cluster's id, brokers and controller.
    pub fn describe_cluster(&self) -> DescribeCluster {
        DescribeCluster::new(self.client.clone(), self.timeout)
    }

    /// Offsets of partitions: the first, the next, or by time.
    pub fn list_offsets<P: Into<TopicPartition>>(
        &self,
        partitions: impl IntoIterator<Item = (P, OffsetSpec)>,
    ) -> ListOffsets {
        let specs = partitions.into_iter().map(|(partition, spec)| (partition.into(), spec)).collect();
        ListOffsets::new(self.client.clone(), self.timeout, specs)
    }

    /// Every group of the cluster, or those that the filters let pass.
    pub fn list_groups(&self) -> ListGroups {
        ListGroups::new(self.client.clone(), self.timeout)
    }

    /// Groups of consumers with their members, of the classic protocol or of KIP-848.
    pub fn describe_consumer_groups<T: Into<String>>(
        &self,
        ids: impl IntoIterator<Item = T>,
    ) -> DescribeConsumerGroups {
        DescribeConsumerGroups::new(self.client.clone(), self.timeout, strings(ids))
    }

    /// Groups of the classic protocol with their members, whatever the members are: consumers, Connect workers and so on.
    pub fn describe_classic_groups<T: Into<String>>(
        &self,
        ids: impl IntoIterator<Item = T>,
    ) -> DescribeClassicGroups {
        DescribeClassicGroups::new(self.client.clone(), self.timeout, strings(ids))
    }

    /// Share groups with their members (KIP-932).
    pub fn describe_share_groups<T: Into<String>>(
        &self,
        ids: impl IntoIterator<Item = T>,
    ) -> DescribeShareGroups {
        DescribeShareGroups::new(self.client.clone(), self.timeout, strings(ids))
    }

    /// Deletes groups of any type with what they committed. A group with members refuses it (`NON_EMPTY_GROUP`).
    pub fn delete_groups<T: Into<String>>(&self, ids: impl IntoIterator<Item = T>) -> DeleteGroups {
        DeleteGroups::new(self.client.clone(), self.timeout, strings(ids))
    }

    /// The offsets that a group of consumers has committed.
    pub fn list_group_offsets(&self, group: impl Into<String>) -> ListGroupOffsets {
        ListGroupOffsets::new(self.client.clone(), self.timeout, group.into())
    }

    /// Commits offsets for a group of consumers, which must have no members (`UNKNOWN_MEMBER_ID`). A group that does
    /// not exist is made.
    pub fn alter_group_offsets(
        &self,
        group: impl Into<String>,
        offsets: impl IntoIterator<Item = (TopicPartition, OffsetAndMetadata)>,
    ) -> AlterGroupOffsets {
        AlterGroupOffsets::new(self.client.clone(), self.timeout, group.into(), offsets.into_iter().collect())
    }

    /// Forgets offsets that a group of consumers committed. Topics that members subscribe to refuse it
    /// (`GROUP_SUBSCRIBED_TO_TOPIC`).
    pub fn delete_group_offsets(
        &self,
        group: impl Into<String>,
        partitions: impl IntoIterator<Item = TopicPartition>,
    ) -> DeleteGroupOffsets {
        let partitions = partitions.into_iter().collect();
        DeleteGroupOffsets::new(self.client.clone(), self.timeout, group.into(), partitions)
    }

    /// How far a group of consumers is behind in each partition: where the partition ends, less what is committed.
    pub fn group_lag(&self, group: impl Into<String>) -> GroupLag {
        GroupLag::new(self.client.clone(), self.timeout, group.into())
    }

    /// Makes members leave a group of consumers, as if their time was over.
    ///
    /// Older brokers refuse it to members that speak the protocol of KIP-848 (`UNKNOWN_MEMBER_ID`); Kafka 4.3 does not.
    pub fn remove_members(&self, group: impl Into<String>, members: MembersToRemove) -> RemoveMembers {
        RemoveMembers::new(self.client.clone(), self.timeout, group.into(), members)
    }

    /// Where a share group is in each partition.
    pub fn list_share_group_offsets(&self, group: impl Into<String>) -> ListShareGroupOffsets {
        ListShareGroupOffsets::new(self.client.clone(), self.timeout, group.into())
    }

    /// Sets where a share group goes on. It must have no members (`NON_EMPTY_GROUP`).
    pub fn alter_share_group_offsets(
        &self,
        group: impl Into<String>,
        offsets: impl IntoIterator<Item = (TopicPartition, i64)>,
    ) -> AlterShareGroupOffsets {
        let offsets = offsets.into_iter().collect();
        AlterShareGroupOffsets::new(self.client.clone(), self.timeout, group.into(), offsets)
    }

    /// Forgets what a share group knows of topics. It must have no members (`NON_EMPTY_GROUP`).
    pub fn delete_share_group_offsets<T: Into<String>>(
        &self,
        group: impl Into<String>,
        topics: impl IntoIterator<Item = T>,
    ) -> DeleteShareGroupOffsets {
        DeleteShareGroupOffsets::new(self.client.clone(), self.timeout, group.into(), strings(topics))
    }

    /// Every transactional id that the cluster remembers, or those that the filters let pass.
    pub fn list_transactions(&self) -> ListTransactions {
        ListTransactions::new(self.client.clone(), self.timeout)
    }

    /// Transactional ids with what their coordinators know of them. One that is not known is refused
    /// (`TRANSACTIONAL_ID_NOT_FOUND`).
    pub fn describe_transactions<T: Into<String>>(
        &self,
        ids: impl IntoIterator<Item = T>,
    ) -> DescribeTransactions {
        DescribeTransactions::new(self.client.clone(), self.timeout, strings(ids))
    }

    /// The producers that partitions remember, with their open transactions.
    pub fn describe_producers(
        &self,
        partitions: impl IntoIterator<Item = TopicPartition>,
    ) -> DescribeProducers {
        DescribeProducers::new(self.client.clone(), self.timeout, partitions.into_iter().collect())
    }

    /// Transactions that are open in partitions and that no coordinator knows, so that nobody will end them.
    pub fn find_hanging_transactions(
        &self,
        partitions: impl IntoIterator<Item = TopicPartition>,
    ) -> FindHangingTransactions {
        FindHangingTransactions::new(self.client.clone(), self.timeout, partitions.into_iter().collect())
    }

    /// Aborts a transaction in one partition, past its coordinator: only for one that
    /// [hangs](Self::find_hanging_transactions). Anything else would be half done.
    pub fn abort_transaction(&self, transaction: TransactionToAbort) -> AbortTransaction {
        AbortTransaction::new(self.client.clone(), self.timeout, transaction)
    }

    /// Fences every producer of transactional ids and aborts what they have open, as their next producer would. An id that
    /// is not known is made.
    pub fn fence_producers<T: Into<String>>(&self, ids: impl IntoIterator<Item = T>) -> FenceProducers {
        FenceProducers::new(self.client.clone(), self.timeout, strings(ids))
    }
}

fn strings<T: Into<String>>(names: impl IntoIterator<Item = T>) -> Vec<String> {
    names.into_iter().map(Into::into).collect()
}
