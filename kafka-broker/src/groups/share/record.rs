//! What rests in `__consumer_offsets` of share groups: Kafka's own keys and values.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kafka_wire::Uuid;
use kafka_wire::records::share_group_current_member_assignment_value::TopicPartitions as CurrentPartitions;
use kafka_wire::records::share_group_state_partition_metadata_value::TopicPartitionsInfo;
use kafka_wire::records::share_group_target_assignment_member_value::TopicPartition as TargetPartitions;
use kafka_wire::records::{
    self, RecordError, ShareGroupCurrentMemberAssignmentKey, ShareGroupCurrentMemberAssignmentValue,
    ShareGroupMemberMetadataKey, ShareGroupMemberMetadataValue, ShareGroupMetadataKey,
    ShareGroupMetadataValue, ShareGroupStatePartitionMetadataKey, ShareGroupStatePartitionMetadataValue,
    ShareGroupTargetAssignmentMemberKey, ShareGroupTargetAssignmentMemberValue,
    ShareGroupTargetAssignmentMetadataKey, ShareGroupTargetAssignmentMetadataValue,
};

use crate::api::text;
use crate::coordinator_log::KeyValue;

const VERSION: i16 = 0;
/// `MemberState.STABLE`: members of share groups know no other.
const STABLE: i8 = 1;

/// Partitions by topic.
pub(crate) type Assignment = BTreeMap<Uuid, BTreeSet<i32>>;

/// One change of a share group. `None` as a value is a tombstone.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ShareGroupRecord {
    pub(crate) group: String,
    pub(crate) change: Change,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    Group(Option<GroupMetadata>),
    Member {
        member: String,
        value: Option<MemberMetadata>,
    },
    /// The epoch of the target assignment.
    TargetEpoch(Option<i32>),
    Target {
        member: String,
        value: Option<Assignment>,
    },
    Current {
        member: String,
        value: Option<Current>,
    },
    /// The topics whose partitions the share coordinator knows.
    Initialized(Option<Initialized>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupMetadata {
    pub(crate) epoch: i32,
    /// Stands for the topics as they are when the epoch began.
    pub(crate) topics_hash: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct MemberMetadata {
    pub(crate) rack_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    /// Sorted.
    pub(crate) topics: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Current {
    pub(crate) epoch: i32,
    pub(crate) previous_epoch: i32,
    pub(crate) assigned: Assignment,
}

/// Name and partitions by topic id.
pub(crate) type Initialized = BTreeMap<Uuid, (String, BTreeSet<i32>)>;

impl ShareGroupRecord {
    /// Key and value as they rest in the log.
    pub(crate) fn encode(&self) -> Result<KeyValue, RecordError> {
        let group = text(&self.group);
        match &self.change {
            Change::Group(value) => {
                let key = ShareGroupMetadataKey::default().with_group_id(group);
                let value = value.map(|value| {
                    ShareGroupMetadataValue::default()
                        .with_epoch(value.epoch)
                        .with_metadata_hash(value.topics_hash)
                });
                pair(&key, value.as_ref())
            }
            Change::Member { member, value } => {
                let key =
                    ShareGroupMemberMetadataKey::default().with_group_id(group).with_member_id(text(member));
                let value = value.as_ref().map(|value| {
                    ShareGroupMemberMetadataValue::default()
                        .with_rack_id(value.rack_id.as_deref().map(text))
                        .with_client_id(text(&value.client_id))
                        .with_client_host(text(&value.client_host))
                        .with_subscribed_topic_names(value.topics.iter().map(|topic| text(topic)).collect())
                });
                pair(&key, value.as_ref())
            }
            Change::TargetEpoch(value) => {
                let key = ShareGroupTargetAssignmentMetadataKey::default().with_group_id(group);
                let value = value.map(|epoch| {
                    ShareGroupTargetAssignmentMetadataValue::default().with_assignment_epoch(epoch)
                });
                pair(&key, value.as_ref())
            }
            Change::Target { member, value } => {
                let key = ShareGroupTargetAssignmentMemberKey::default()
                    .with_group_id(group)
                    .with_member_id(text(member));
                let value = value.as_ref().map(|assignment| {
                    let partitions = assignment.iter().map(|(topic_id, partitions)| {
                        TargetPartitions::default()
                            .with_topic_id(*topic_id)
                            .with_partitions(partitions.iter().copied().collect())
                    });
                    ShareGroupTargetAssignmentMemberValue::default()
                        .with_topic_partitions(partitions.collect())
                });
                pair(&key, value.as_ref())
            }
            Change::Current { member, value } => {
                let key = ShareGroupCurrentMemberAssignmentKey::default()
                    .with_group_id(group)
                    .with_member_id(text(member));
                let value = value.as_ref().map(|current| {
                    let partitions = current.assigned.iter().map(|(topic_id, partitions)| {
                        CurrentPartitions::default()
                            .with_topic_id(*topic_id)
                            .with_partitions(partitions.iter().copied().collect())
                    });
                    ShareGroupCurrentMemberAssignmentValue::default()
                        .with_member_epoch(current.epoch)
                        .with_previous_member_epoch(current.previous_epoch)
                        .with_state(STABLE)
                        .with_assigned_partitions(partitions.collect())
                });
                pair(&key, value.as_ref())
            }
            Change::Initialized(value) => {
                let key = ShareGroupStatePartitionMetadataKey::default().with_group_id(group);
                let value = value.as_ref().map(|topics| {
                    let topics = topics.iter().map(|(topic_id, (name, partitions))| {
                        TopicPartitionsInfo::default()
                            .with_topic_id(*topic_id)
                            .with_topic_name(text(name))
                            .with_partitions(partitions.iter().copied().collect())
                    });
                    ShareGroupStatePartitionMetadataValue::default().with_initialized_topics(topics.collect())
                });
                pair(&key, value.as_ref())
            }
        }
    }

    /// Reads a record of the log; `None` for kinds that are not share groups'.
    pub(crate) fn decode(key: Bytes, value: Option<Bytes>) -> Result<Option<Self>, RecordError> {
        let (group, change) = match records::key_type(&key)? {
            ShareGroupMetadataKey::API_KEY => {
                let key: ShareGroupMetadataKey = records::decode_key(key)?;
                let value = decoded(value, |value: ShareGroupMetadataValue| GroupMetadata {
                    epoch: value.epoch,
                    topics_hash: value.metadata_hash,
                })?;
                (key.group_id, Change::Group(value))
            }
            ShareGroupMemberMetadataKey::API_KEY => {
                let key: ShareGroupMemberMetadataKey = records::decode_key(key)?;
                let value = decoded(value, |value: ShareGroupMemberMetadataValue| MemberMetadata {
                    rack_id: value.rack_id.as_deref().map(str::to_owned),
                    client_id: value.client_id.to_string(),
                    client_host: value.client_host.to_string(),
                    topics: value.subscribed_topic_names.iter().map(ToString::to_string).collect(),
                })?;
                (key.group_id, Change::Member { member: key.member_id.to_string(), value })
            }
            ShareGroupTargetAssignmentMetadataKey::API_KEY => {
                let key: ShareGroupTargetAssignmentMetadataKey = records::decode_key(key)?;
                let epoch = |value: ShareGroupTargetAssignmentMetadataValue| value.assignment_epoch;
                (key.group_id, Change::TargetEpoch(decoded(value, epoch)?))
            }
            ShareGroupTargetAssignmentMemberKey::API_KEY => {
                let key: ShareGroupTargetAssignmentMemberKey = records::decode_key(key)?;
                let value = decoded(value, |value: ShareGroupTargetAssignmentMemberValue| {
                    let topics = value.topic_partitions.into_iter();
                    topics.map(|topic| (topic.topic_id, topic.partitions.into_iter().collect())).collect()
                })?;
                (key.group_id, Change::Target { member: key.member_id.to_string(), value })
            }
            ShareGroupCurrentMemberAssignmentKey::API_KEY => {
                let key: ShareGroupCurrentMemberAssignmentKey = records::decode_key(key)?;
                let value = decoded(value, |value: ShareGroupCurrentMemberAssignmentValue| {
                    let topics = value.assigned_partitions.into_iter();
                    Current {
                        epoch: value.member_epoch,
                        previous_epoch: value.previous_member_epoch,
                        assigned: topics
                            .map(|topic| (topic.topic_id, topic.partitions.into_iter().collect()))
                            .collect(),
                    }
                })?;
                (key.group_id, Change::Current { member: key.member_id.to_string(), value })
            }
            ShareGroupStatePartitionMetadataKey::API_KEY => {
                let key: ShareGroupStatePartitionMetadataKey = records::decode_key(key)?;
                let value = decoded(value, |value: ShareGroupStatePartitionMetadataValue| {
                    let topics = value.initialized_topics.into_iter();
                    topics
                        .map(|topic| {
                            let partitions = topic.partitions.into_iter().collect();
                            (topic.topic_id, (topic.topic_name.to_string(), partitions))
                        })
                        .collect()
                })?;
                (key.group_id, Change::Initialized(value))
            }
            _ => return Ok(None),
        };
        Ok(Some(Self { group: group.to_string(), change }))
    }
}

fn pair<K: records::Record, V: records::Record>(key: &K, value: Option<&V>) -> Result<KeyValue, RecordError> {
    let value = value.map(|value| records::encode_value(value, VERSION)).transpose()?;
    Ok((records::encode_key(key)?, value))
}

fn decoded<V: records::Record, T>(
    value: Option<Bytes>,
    read: impl FnOnce(V) -> T,
) -> Result<Option<T>, RecordError> {
    Ok(value.map(records::decode_value::<V>).transpose()?.map(read))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_reads_back_as_it_was_written() {
        let id = Uuid::from_u128(9);
        let assigned: Assignment = [(id, [0, 2].into())].into();
        let member = || "m".to_owned();
        let metadata = MemberMetadata {
            rack_id: None,
            client_id: "c".into(),
            client_host: "/h".into(),
            topics: vec!["t".into()],
        };
        let changes = [
            Change::Group(Some(GroupMetadata { epoch: 3, topics_hash: -5 })),
            Change::Group(None),
            Change::Member { member: member(), value: Some(metadata) },
            Change::Member { member: member(), value: None },
            Change::TargetEpoch(Some(3)),
            Change::Target { member: member(), value: Some(assigned.clone()) },
            Change::Current {
                member: member(),
                value: Some(Current { epoch: 3, previous_epoch: 2, assigned }),
            },
            Change::Initialized(Some([(id, ("t".to_owned(), [0, 1, 2].into()))].into())),
        ];
        for change in changes {
            let record = ShareGroupRecord { group: "g".into(), change };
            let (key, value) = record.encode().unwrap();
            assert_eq!(ShareGroupRecord::decode(key, value).unwrap(), Some(record));
        }
        assert_eq!(ShareGroupRecord::decode(Bytes::from_static(b"\x00\x02\x00\x01g"), None).unwrap(), None);
    }
}
