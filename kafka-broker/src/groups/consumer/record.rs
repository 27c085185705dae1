//! What of a consumer group rests in `__consumer_offsets`: Kafka's own records (KIP-848), all in version 0.

use std::sync::Arc;

use bytes::Bytes;
use kafka_wire::StrBytes;
use kafka_wire::records::consumer_group_current_member_assignment_value::TopicPartitions as CurrentPartitions;
use kafka_wire::records::consumer_group_member_metadata_value::{ClassicMemberMetadata, ClassicProtocol};
use kafka_wire::records::consumer_group_target_assignment_member_value::TopicPartition as TargetPartitions;
use kafka_wire::records::{self, *};

use super::super::assignor::Partitions;
use super::super::record::text;
use super::member::{Assigned, ClassicMetadata, Current, MemberState, Metadata};

/// The version of all values.
const VERSION: i16 = 0;

/// A change of a consumer group. `None` is a tombstone; names are member ids and patterns.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ConsumerRecord {
    Group(Option<GroupEpoch>),
    Member(String, Option<Arc<Metadata>>),
    TargetEpoch(Option<TargetEpoch>),
    Target(String, Option<Arc<Partitions>>),
    Current(String, Option<Arc<Current>>),
    Regex(String, Option<Arc<ResolvedRegex>>),
}

/// The group's epoch, and what of the topics it read when it came.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct GroupEpoch {
    pub(crate) epoch: i32,
    pub(crate) metadata_hash: i64,
}

/// The epoch of the target assignment, and when it was computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TargetEpoch {
    pub(crate) epoch: i32,
    /// 0: unknown.
    pub(crate) at_ms: i64,
}

/// Groups begin with an assignment of nothing in epoch 1 (`ModernGroup` of Kafka 4.3): 0 is said by who joins.
const FIRST_EPOCH: i32 = 1;

impl Default for GroupEpoch {
    fn default() -> Self {
        Self { epoch: FIRST_EPOCH, metadata_hash: 0 }
    }
}

impl Default for TargetEpoch {
    fn default() -> Self {
        Self { epoch: FIRST_EPOCH, at_ms: 0 }
    }
}

/// The topics that match a pattern.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ResolvedRegex {
    /// Sorted.
    pub(crate) topics: Vec<String>,
    /// The metadata's offset at that time.
    pub(crate) version: i64,
    pub(crate) at_ms: i64,
}

impl ConsumerRecord {
    /// The kinds of keys that this reads.
    pub(crate) fn is_key(api_key: i16) -> bool {
        matches!(
            api_key,
            ConsumerGroupMetadataKey::API_KEY
                | ConsumerGroupMemberMetadataKey::API_KEY
                | ConsumerGroupTargetAssignmentMetadataKey::API_KEY
                | ConsumerGroupTargetAssignmentMemberKey::API_KEY
                | ConsumerGroupCurrentMemberAssignmentKey::API_KEY
                | ConsumerGroupRegularExpressionKey::API_KEY
        )
    }

    pub(crate) fn is_tombstone(&self) -> bool {
        match self {
            Self::Group(value) => value.is_none(),
            Self::Member(_, value) => value.is_none(),
            Self::TargetEpoch(value) => value.is_none(),
            Self::Target(_, value) => value.is_none(),
            Self::Current(_, value) => value.is_none(),
            Self::Regex(_, value) => value.is_none(),
        }
    }

    /// Key and value as they rest in the log.
    pub(crate) fn encode(&self, group: &str) -> Result<(Bytes, Option<Bytes>), RecordError> {
        let group = text(group);
        let (key, value) = match self {
            Self::Group(value) => (
                records::encode_key(&ConsumerGroupMetadataKey::default().with_group_id(group))?,
                value.map(|value| {
                    let GroupEpoch { epoch, metadata_hash } = value;
                    let value = ConsumerGroupMetadataValue::default();
                    encode(&value.with_epoch(epoch).with_metadata_hash(metadata_hash))
                }),
            ),
            Self::Member(id, value) => {
                let key = ConsumerGroupMemberMetadataKey::default();
                let key = records::encode_key(&key.with_group_id(group).with_member_id(text(id)))?;
                (key, value.as_ref().map(|value| encode(&metadata_value(value))))
            }
            Self::TargetEpoch(value) => {
                let key = ConsumerGroupTargetAssignmentMetadataKey::default().with_group_id(group);
                let value = value.map(|TargetEpoch { epoch, at_ms }| {
                    let value = ConsumerGroupTargetAssignmentMetadataValue::default();
                    encode(&value.with_assignment_epoch(epoch).with_assignment_timestamp(at_ms))
                });
                (records::encode_key(&key)?, value)
            }
            Self::Target(id, value) => {
                let key = ConsumerGroupTargetAssignmentMemberKey::default();
                let key = records::encode_key(&key.with_group_id(group).with_member_id(text(id)))?;
                (key, value.as_ref().map(|value| encode(&target_value(value))))
            }
            Self::Current(id, value) => {
                let key = ConsumerGroupCurrentMemberAssignmentKey::default();
                let key = records::encode_key(&key.with_group_id(group).with_member_id(text(id)))?;
                (key, value.as_ref().map(|value| encode(&current_value(value))))
            }
            Self::Regex(pattern, value) => {
                let key = ConsumerGroupRegularExpressionKey::default();
                let key =
                    records::encode_key(&key.with_group_id(group).with_regular_expression(text(pattern)))?;
                let value = value.as_ref().map(|resolved| {
                    let value = ConsumerGroupRegularExpressionValue::default()
                        .with_topics(resolved.topics.iter().map(|topic| text(topic)).collect())
                        .with_version(resolved.version)
                        .with_timestamp(resolved.at_ms);
                    encode(&value)
                });
                (key, value)
            }
        };
        Ok((key, value.transpose()?))
    }

    /// Reads a record whose key [`is_key`](Self::is_key); the group, and what changes of it.
    pub(crate) fn decode(key: Bytes, value: Option<Bytes>) -> Result<(String, Self), RecordError> {
        Ok(match records::key_type(&key)? {
            ConsumerGroupMetadataKey::API_KEY => {
                let key: ConsumerGroupMetadataKey = records::decode_key(key)?;
                let value = decode::<ConsumerGroupMetadataValue>(value)?;
                let value =
                    value.map(|value| GroupEpoch { epoch: value.epoch, metadata_hash: value.metadata_hash });
                (key.group_id.to_string(), Self::Group(value))
            }
            ConsumerGroupMemberMetadataKey::API_KEY => {
                let key: ConsumerGroupMemberMetadataKey = records::decode_key(key)?;
                let value = decode(value)?.map(|value| Arc::new(metadata(&value)));
                (key.group_id.to_string(), Self::Member(key.member_id.to_string(), value))
            }
            ConsumerGroupTargetAssignmentMetadataKey::API_KEY => {
                let key: ConsumerGroupTargetAssignmentMetadataKey = records::decode_key(key)?;
                let value = decode::<ConsumerGroupTargetAssignmentMetadataValue>(value)?;
                let value = value.map(|value| TargetEpoch {
                    epoch: value.assignment_epoch,
                    at_ms: value.assignment_timestamp,
                });
                (key.group_id.to_string(), Self::TargetEpoch(value))
            }
            ConsumerGroupTargetAssignmentMemberKey::API_KEY => {
                let key: ConsumerGroupTargetAssignmentMemberKey = records::decode_key(key)?;
                let value = decode(value)?.map(|value| Arc::new(target(&value)));
                (key.group_id.to_string(), Self::Target(key.member_id.to_string(), value))
            }
            ConsumerGroupCurrentMemberAssignmentKey::API_KEY => {
                let key: ConsumerGroupCurrentMemberAssignmentKey = records::decode_key(key)?;
                let value = decode(value)?.map(|value| Arc::new(current(&value)));
                (key.group_id.to_string(), Self::Current(key.member_id.to_string(), value))
            }
            _ => {
                let key: ConsumerGroupRegularExpressionKey = records::decode_key(key)?;
                let value = decode::<ConsumerGroupRegularExpressionValue>(value)?.map(|value| {
                    let topics = value.topics.iter().map(ToString::to_string).collect();
                    Arc::new(ResolvedRegex { topics, version: value.version, at_ms: value.timestamp })
                });
                (key.group_id.to_string(), Self::Regex(key.regular_expression.to_string(), value))
            }
        })
    }
}

fn encode<V: Record>(value: &V) -> Result<Bytes, RecordError> {
    records::encode_value(value, VERSION)
}

fn decode<V: Record>(value: Option<Bytes>) -> Result<Option<V>, RecordError> {
    value.map(records::decode_value::<V>).transpose()
}

fn owned(text: &Option<StrBytes>) -> Option<String> {
    text.as_ref().map(ToString::to_string)
}

fn metadata_value(metadata: &Metadata) -> ConsumerGroupMemberMetadataValue {
    let classic = metadata.classic.as_ref().map(|classic| {
        let protocols = classic.protocols.iter().map(|(name, metadata)| {
            ClassicProtocol::default().with_name(text(name)).with_metadata(metadata.clone())
        });
        ClassicMemberMetadata::default()
            .with_session_timeout_ms(classic.session_timeout_ms)
            .with_supported_protocols(protocols.collect())
    });
    ConsumerGroupMemberMetadataValue::default()
        .with_instance_id(metadata.instance_id.as_deref().map(text))
        .with_rack_id(metadata.rack_id.as_deref().map(text))
        .with_client_id(text(&metadata.client_id))
        .with_client_host(text(&metadata.client_host))
        .with_subscribed_topic_names(metadata.topics.iter().map(|topic| text(topic)).collect())
        .with_subscribed_topic_regex(metadata.regex.as_deref().map(text))
        .with_rebalance_timeout_ms(metadata.rebalance_timeout_ms)
        .with_server_assignor(metadata.server_assignor.as_deref().map(text))
        .with_classic_member_metadata(classic)
}

fn metadata(value: &ConsumerGroupMemberMetadataValue) -> Metadata {
    let classic = value.classic_member_metadata.as_ref().map(|classic| ClassicMetadata {
        session_timeout_ms: classic.session_timeout_ms,
        protocols: classic
            .supported_protocols
            .iter()
            .map(|protocol| (protocol.name.to_string(), Bytes::copy_from_slice(&protocol.metadata)))
            .collect(),
    });
    Metadata {
        instance_id: owned(&value.instance_id),
        rack_id: owned(&value.rack_id),
        client_id: value.client_id.to_string(),
        client_host: value.client_host.to_string(),
        topics: value.subscribed_topic_names.iter().map(ToString::to_string).collect(),
        // Kafka wrote an empty one for none.
        regex: owned(&value.subscribed_topic_regex).filter(|pattern| !pattern.is_empty()),
        rebalance_timeout_ms: value.rebalance_timeout_ms,
        server_assignor: owned(&value.server_assignor),
        classic,
    }
}

fn target_value(target: &Partitions) -> ConsumerGroupTargetAssignmentMemberValue {
    let partitions = target.iter().map(|(topic, partitions)| {
        TargetPartitions::default()
            .with_topic_id(*topic)
            .with_partitions(partitions.iter().copied().collect())
    });
    ConsumerGroupTargetAssignmentMemberValue::default().with_topic_partitions(partitions.collect())
}

fn target(value: &ConsumerGroupTargetAssignmentMemberValue) -> Partitions {
    let topics = value.topic_partitions.iter();
    topics.map(|topic| (topic.topic_id, topic.partitions.iter().copied().collect())).collect()
}

fn current_value(current: &Current) -> ConsumerGroupCurrentMemberAssignmentValue {
    let partitions = |assigned: &Assigned| -> Vec<CurrentPartitions> {
        let topics = assigned.iter().map(|(topic, partitions)| {
            CurrentPartitions::default()
                .with_topic_id(*topic)
                .with_partitions(partitions.keys().copied().collect())
                .with_assignment_epochs(Some(partitions.values().copied().collect()))
        });
        topics.collect()
    };
    ConsumerGroupCurrentMemberAssignmentValue::default()
        .with_member_epoch(current.epoch)
        .with_previous_member_epoch(current.previous_epoch)
        .with_state(current.state.code())
        .with_assigned_partitions(partitions(&current.assigned))
        .with_partitions_pending_revocation(partitions(&current.pending_revocation))
}

fn current(value: &ConsumerGroupCurrentMemberAssignmentValue) -> Current {
    let partitions = |topics: &[CurrentPartitions]| -> Assigned {
        let topics = topics.iter().map(|topic| {
            let epoch = |at: usize| {
                let epochs = topic.assignment_epochs.as_ref();
                // Written before there were such epochs (Kafka 4.2 and older): as of the member's.
                epochs.and_then(|epochs| epochs.get(at)).copied().unwrap_or(value.member_epoch)
            };
            let epochs = topic.partitions.iter().enumerate().map(|(at, partition)| (*partition, epoch(at)));
            (topic.topic_id, epochs.collect())
        });
        topics.collect()
    };
    Current {
        epoch: value.member_epoch,
        previous_epoch: value.previous_member_epoch,
        state: MemberState::from_code(value.state),
        assigned: partitions(&value.assigned_partitions),
        pending_revocation: partitions(&value.partitions_pending_revocation),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use kafka_wire::Uuid;

    use super::*;

    #[test]
    fn every_kind_reads_back_as_it_was_written_and_so_does_its_tombstone() {
        let topic = Uuid::from_u128(7);
        let metadata = Metadata {
            instance_id: Some("i".into()),
            rack_id: Some("r".into()),
            client_id: "c".into(),
            client_host: "/::1".into(),
            topics: ["a".to_owned(), "b".to_owned()].into(),
            regex: Some("a.*".into()),
            rebalance_timeout_ms: 5,
            server_assignor: Some("range".into()),
            classic: Some(ClassicMetadata {
                session_timeout_ms: 6,
                protocols: vec![("range".into(), Bytes::from_static(b"x"))],
            }),
        };
        let current = Current {
            epoch: 5,
            previous_epoch: 4,
            state: MemberState::UnrevokedPartitions,
            assigned: BTreeMap::from([(topic, BTreeMap::from([(0, 3), (1, 5)]))]),
            pending_revocation: BTreeMap::from([(topic, BTreeMap::from([(2, 1)]))]),
        };
        let target = Partitions::from([(topic, BTreeSet::from([0, 1]))]);
        let resolved = ResolvedRegex { topics: vec!["ab".into()], version: 9, at_ms: 10 };
        let m = || "m".to_owned();
        let pairs = [
            (
                ConsumerRecord::Group(Some(GroupEpoch { epoch: 5, metadata_hash: -3 })),
                ConsumerRecord::Group(None),
            ),
            (ConsumerRecord::Member(m(), Some(metadata.into())), ConsumerRecord::Member(m(), None)),
            (
                ConsumerRecord::TargetEpoch(Some(TargetEpoch { epoch: 5, at_ms: 8 })),
                ConsumerRecord::TargetEpoch(None),
            ),
            (ConsumerRecord::Target(m(), Some(target.into())), ConsumerRecord::Target(m(), None)),
            (ConsumerRecord::Current(m(), Some(current.into())), ConsumerRecord::Current(m(), None)),
            (ConsumerRecord::Regex(m(), Some(resolved.into())), ConsumerRecord::Regex(m(), None)),
        ];
        for (record, tombstone) in pairs {
            assert!(tombstone.is_tombstone() && !record.is_tombstone());
            for record in [record, tombstone] {
                let (key, value) = record.encode("g").unwrap();
                assert!(ConsumerRecord::is_key(records::key_type(&key).unwrap()));
                assert_eq!(ConsumerRecord::decode(key, value).unwrap(), ("g".to_owned(), record));
            }
        }
    }
}
