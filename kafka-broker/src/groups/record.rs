//! What rests in `__consumer_offsets`, and how: Kafka's own keys and values, in the versions Kafka 4.3 writes.

use bytes::Bytes;
use kafka_wire::records::{
    self, GroupMetadataKey, GroupMetadataValue, OffsetCommitKey, OffsetCommitValue, RecordError,
};
use kafka_wire::{StrBytes, Uuid};

use super::consumer::record::ConsumerRecord;
use super::share::record::ShareGroupRecord;

/// `GroupMetadataValue` with static members (KIP-345); the flexible version 4 is read, not written.
const GROUP_METADATA_VERSION: i16 = 3;
/// `OffsetCommitValue` with the topic's id (KIP-848, Kafka 4.1).
const OFFSET_COMMIT_VERSION: i16 = 4;
/// The only version that holds an expiry of its own, which OffsetCommit asked for before version 5.
const OFFSET_COMMIT_VERSION_WITH_EXPIRY: i16 = 1;

/// One change of a coordinator's persistent state. `None` as a value is a tombstone.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum GroupRecord {
    Offset { group: String, topic: String, partition: i32, value: Option<CommittedOffset> },
    Group { group: String, value: Option<GroupMetadataValue> },
    Consumer { group: String, record: ConsumerRecord },
    Share(ShareGroupRecord),
}

/// A committed offset with what came along (Kafka's `OffsetAndMetadata`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommittedOffset {
    pub(crate) offset: i64,
    /// -1: unknown.
    pub(crate) leader_epoch: i32,
    pub(crate) metadata: String,
    pub(crate) committed_at_ms: i64,
    /// When it expires, if the commit said so itself.
    pub(crate) expires_at_ms: Option<i64>,
    /// Nil: unknown.
    pub(crate) topic_id: Uuid,
}

impl GroupRecord {
    /// Key and value as they rest in the log.
    pub(crate) fn encode(&self) -> Result<(Bytes, Option<Bytes>), RecordError> {
        match self {
            Self::Group { group, value } => {
                let key = records::encode_key(&GroupMetadataKey::default().with_group(text(group)))?;
                let value = value.as_ref().map(|value| records::encode_value(value, GROUP_METADATA_VERSION));
                Ok((key, value.transpose()?))
            }
            Self::Offset { group, topic, partition, value } => {
                let key = OffsetCommitKey::default()
                    .with_group(text(group))
                    .with_topic(text(topic))
                    .with_partition(*partition);
                let value = value.as_ref().map(CommittedOffset::encode);
                Ok((records::encode_key(&key)?, value.transpose()?))
            }
            Self::Consumer { group, record } => record.encode(group),
            Self::Share(record) => record.encode(),
        }
    }

    /// Reads a record of the log; `None` for kinds that no part of this coordinator acts on.
    pub(crate) fn decode(key: Bytes, value: Option<Bytes>) -> Result<Option<Self>, RecordError> {
        match records::key_type(&key)? {
            OffsetCommitKey::API_KEY => {
                let key: OffsetCommitKey = records::decode_key(key)?;
                let value = value.map(records::decode_value::<OffsetCommitValue>).transpose()?;
                Ok(Some(Self::Offset {
                    group: key.group.to_string(),
                    topic: key.topic.to_string(),
                    partition: key.partition,
                    value: value.map(CommittedOffset::from_value),
                }))
            }
            GroupMetadataKey::API_KEY => {
                let key: GroupMetadataKey = records::decode_key(key)?;
                let value = value.map(records::decode_value::<GroupMetadataValue>).transpose()?;
                Ok(Some(Self::Group { group: key.group.to_string(), value }))
            }
            kind if ConsumerRecord::is_key(kind) => {
                let (group, record) = ConsumerRecord::decode(key, value)?;
                Ok(Some(Self::Consumer { group, record }))
            }
            _ => Ok(ShareGroupRecord::decode(key, value)?.map(Self::Share)),
        }
    }
}

impl CommittedOffset {
    fn encode(&self) -> Result<Bytes, RecordError> {
        let value = OffsetCommitValue::default()
            .with_offset(self.offset)
            .with_metadata(text(&self.metadata))
            .with_commit_timestamp(self.committed_at_ms);
        match self.expires_at_ms {
            Some(at) => {
                records::encode_value(&value.with_expire_timestamp(at), OFFSET_COMMIT_VERSION_WITH_EXPIRY)
            }
            None => {
                let value = value.with_leader_epoch(self.leader_epoch).with_topic_id(self.topic_id);
                records::encode_value(&value, OFFSET_COMMIT_VERSION)
            }
        }
    }

    fn from_value(value: OffsetCommitValue) -> Self {
        Self {
            offset: value.offset,
            leader_epoch: value.leader_epoch,
            metadata: value.metadata.to_string(),
            committed_at_ms: value.commit_timestamp,
            expires_at_ms: (value.expire_timestamp >= 0).then_some(value.expire_timestamp),
            topic_id: value.topic_id,
        }
    }
}

pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(expires_at_ms: Option<i64>) -> GroupRecord {
        GroupRecord::Offset {
            group: "g".into(),
            topic: "t".into(),
            partition: 7,
            value: Some(CommittedOffset {
                offset: 42,
                leader_epoch: -1,
                metadata: "note".into(),
                committed_at_ms: 1000,
                expires_at_ms,
                topic_id: Uuid::nil(),
            }),
        }
    }

    #[test]
    fn an_offset_reads_back_as_it_was_written_and_says_its_version() {
        for (record, version) in [(offset(None), 4), (offset(Some(5000)), 1)] {
            let (key, value) = record.encode().unwrap();
            assert_eq!(&key[..2], &[0, 1]);
            assert_eq!(value.as_ref().unwrap()[..2], [0, version]);
            assert_eq!(GroupRecord::decode(key, value).unwrap(), Some(record));
        }
    }

    #[test]
    fn a_group_is_written_in_version_3_as_kafka_does() {
        let value = GroupMetadataValue::default().with_protocol(None).with_leader(None).with_generation(3);
        let record = GroupRecord::Group { group: "g".into(), value: Some(value) };
        let (key, value) = record.encode().unwrap();
        assert_eq!(&key[..], b"\x00\x02\x00\x01g");
        assert_eq!(value.as_ref().unwrap()[..2], [0, 3]);
        assert_eq!(GroupRecord::decode(key, value).unwrap(), Some(record));
    }

    #[test]
    fn kinds_of_later_coordinators_are_passed_over_and_garbage_is_an_error() {
        let streams_group_key = Bytes::from_static(b"\x00\x11\x00\x01g");
        assert_eq!(GroupRecord::decode(streams_group_key, None).unwrap(), None);
        assert!(GroupRecord::decode(Bytes::from_static(b"\x00"), None).is_err());
        assert!(GroupRecord::decode(Bytes::from_static(b"\x00\x01\x00\x09g"), None).is_err());
    }
}
