//! The `consumer` protocol type: what members write into JoinGroup and SyncGroup, as Java's `ConsumerProtocol`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_wire::messages::TopicName;
use kafka_wire::messages::consumer_protocol_assignment::{self, ConsumerProtocolAssignment};
use kafka_wire::messages::consumer_protocol_subscription::{self, ConsumerProtocolSubscription};
use kafka_wire::{Decodable, Encodable, StrBytes};

use super::assignor::{Assignment, Member};
use crate::TopicPartition;
use crate::topic_partition::string;

/// The protocol type under which consumers join (`ConsumerProtocol.PROTOCOL_TYPE`).
pub(crate) const PROTOCOL_TYPE: &str = "consumer";

/// KIP-881's; readers of older versions ignore what they do not know.
const SUBSCRIPTION_VERSION: i16 = 3;
/// All versions of the assignment look alike so far.
const ASSIGNMENT_VERSION: i16 = 3;

/// Why another member's bytes could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what} in the group protocol")]
pub(crate) struct ProtocolError {
    what: &'static str,
}

/// What a member says of itself when it joins.
#[derive(Debug, Clone, Default)]
pub(crate) struct Subscription<'a> {
    pub topics: &'a [Arc<str>],
    pub owned: &'a [TopicPartition],
    pub generation: i32,
    pub rack: Option<&'a str>,
    pub user_data: Option<Bytes>,
}

pub(crate) fn encode_subscription(subscription: &Subscription<'_>) -> Bytes {
    let mut topics: Vec<StrBytes> = subscription.topics.iter().map(|topic| string(topic)).collect();
    topics.sort();
    let owned = by_topic(subscription.owned)
        .into_iter()
        .map(|(topic, partitions)| {
            consumer_protocol_subscription::TopicPartition::default()
                .with_topic(TopicName(string(&topic)))
                .with_partitions(partitions)
        })
        .collect();
    let message = ConsumerProtocolSubscription::default()
        .with_topics(topics)
        .with_user_data(subscription.user_data.clone())
        .with_owned_partitions(owned)
        .with_generation_id(subscription.generation)
        .with_rack_id(subscription.rack.map(string));
    encode(&message, SUBSCRIPTION_VERSION)
}

pub(crate) fn decode_subscription(
    member_id: String,
    instance_id: Option<String>,
    metadata: Bytes,
) -> Result<Member, ProtocolError> {
    let malformed = || ProtocolError { what: "subscription" };
    let (version, mut body) = split_version(metadata).ok_or_else(malformed)?;
    let version = version.min(SUBSCRIPTION_VERSION);
    check_subscription(&body, version).ok_or_else(malformed)?;
    let message = ConsumerProtocolSubscription::decode(&mut body, version).map_err(|_| malformed())?;
    Ok(Member {
        member_id,
        instance_id,
        topics: message.topics.iter().map(|topic| Arc::from(topic.as_str())).collect(),
        owned: flatten(message.owned_partitions.iter().map(|t| (t.topic.as_str(), &t.partitions))),
        generation: (version >= 2 && message.generation_id >= 0).then_some(message.generation_id),
        rack: message.rack_id.map(|rack| rack.to_string()),
        user_data: message.user_data,
    })
}

pub(crate) fn encode_assignment(assignment: &Assignment) -> Bytes {
    let message = ConsumerProtocolAssignment::default()
        .with_assigned_partitions(assigned_partitions(&assignment.partitions))
        .with_user_data(assignment.user_data.clone());
    encode(&message, ASSIGNMENT_VERSION)
}

/// An empty assignment means that the leader gave this member nothing.
pub(crate) fn decode_assignment(assignment: Bytes) -> Result<Assignment, ProtocolError> {
    if assignment.is_empty() {
        return Ok(Assignment::default());
    }
    let malformed = || ProtocolError { what: "assignment" };
    let (version, mut body) = split_version(assignment).ok_or_else(malformed)?;
    check_assignment(&body).ok_or_else(malformed)?;
    let message = ConsumerProtocolAssignment::decode(&mut body, version.min(ASSIGNMENT_VERSION))
        .map_err(|_| malformed())?;
    Ok(Assignment {
        partitions: flatten(message.assigned_partitions.iter().map(|t| (t.topic.as_str(), &t.partitions))),
        user_data: message.user_data,
    })
}

/// Partitions by topic, as subscriptions, assignments and the sticky assignor's user data write them. `None` if a
/// topic's name is too long to be written.
pub(crate) fn put_partitions(buffer: &mut BytesMut, partitions: &[TopicPartition]) -> Option<()> {
    let topics = assigned_partitions(partitions);
    buffer.put_i32(i32::try_from(topics.len()).ok()?);
    topics.iter().try_for_each(|topic| topic.encode(buffer, ASSIGNMENT_VERSION)).ok()
}

/// Reads what [`put_partitions`] writes. `None` if these bytes are something else.
pub(crate) fn take_partitions(bytes: &mut Bytes) -> Option<Vec<TopicPartition>> {
    Shape(bytes).array(6, Shape::topic_partitions)?;
    let count = bytes.try_get_i32().ok()?;
    let topics: Vec<_> = (0..count)
        .map(|_| consumer_protocol_assignment::TopicPartition::decode(bytes, ASSIGNMENT_VERSION))
        .collect::<Result<_, _>>()
        .ok()?;
    Some(flatten(topics.iter().map(|t| (t.topic.as_str(), &t.partitions))))
}

fn assigned_partitions(partitions: &[TopicPartition]) -> Vec<consumer_protocol_assignment::TopicPartition> {
    by_topic(partitions)
        .into_iter()
        .map(|(topic, partitions)| {
            consumer_protocol_assignment::TopicPartition::default()
                .with_topic(TopicName(string(&topic)))
                .with_partitions(partitions)
        })
        .collect()
}

fn by_topic(partitions: &[TopicPartition]) -> BTreeMap<Arc<str>, Vec<i32>> {
    let mut topics: BTreeMap<Arc<str>, Vec<i32>> = BTreeMap::new();
    for partition in partitions {
        topics.entry(Arc::clone(&partition.topic)).or_default().push(partition.partition);
    }
    topics
}

fn flatten<'a>(topics: impl Iterator<Item = (&'a str, &'a Vec<i32>)>) -> Vec<TopicPartition> {
    topics
        .flat_map(|(topic, partitions)| {
            let topic: Arc<str> = Arc::from(topic);
            partitions.iter().map(move |partition| TopicPartition::new(Arc::clone(&topic), *partition))
        })
        .collect()
}

/// Encoding into memory fails only where a string exceeds the protocol's 32 KiB; such a member joins with
/// nothing, and the coordinator's answer says what is wrong.
fn encode<M: Encodable>(message: &M, version: i16) -> Bytes {
    let mut buffer = BytesMut::new();
    buffer.put_i16(version);
    if message.encode(&mut buffer, version).is_err() {
        buffer.clear();
    }
    buffer.freeze()
}

fn split_version(mut bytes: Bytes) -> Option<(i16, Bytes)> {
    let version = bytes.try_get_i16().ok()?;
    (version >= 0).then_some((version, bytes))
}

/// The generated decoder trusts lengths; these bytes come from another member, so walk them first.
fn check_subscription(body: &[u8], version: i16) -> Option<()> {
    let mut shape = Shape(body);
    shape.array(2, Shape::string)?;
    shape.nullable_bytes()?;
    if version >= 1 {
        shape.array(6, Shape::topic_partitions)?;
    }
    Some(())
}

fn check_assignment(body: &[u8]) -> Option<()> {
    let mut shape = Shape(body);
    shape.array(6, Shape::topic_partitions)?;
    shape.nullable_bytes()
}

struct Shape<'a>(&'a [u8]);

impl Shape<'_> {
    fn skip(&mut self, length: usize) -> Option<()> {
        self.0 = self.0.get(length..)?;
        Some(())
    }

    fn length(&mut self) -> Option<i32> {
        let length = i32::from_be_bytes(*self.0.first_chunk::<4>()?);
        self.skip(4)?;
        Some(length)
    }

    fn string(&mut self) -> Option<()> {
        let length = i16::from_be_bytes(*self.0.first_chunk::<2>()?);
        self.skip(2)?;
        self.skip(usize::try_from(length).ok()?)
    }

    fn nullable_bytes(&mut self) -> Option<()> {
        match self.length()? {
            -1 => Some(()),
            length => self.skip(usize::try_from(length).ok()?),
        }
    }

    fn topic_partitions(&mut self) -> Option<()> {
        self.string()?;
        let partitions = usize::try_from(self.length()?).ok()?;
        self.skip(partitions.checked_mul(4)?)
    }

    fn array(&mut self, element_min: usize, element: fn(&mut Self) -> Option<()>) -> Option<()> {
        let count = usize::try_from(self.length()?).ok()?;
        if count > self.0.len() / element_min {
            return None;
        }
        (0..count).try_for_each(|_| element(self))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_subscription_reads_back_as_it_was_written() {
        let topics: Vec<Arc<str>> = vec![Arc::from("a"), Arc::from("b")];
        let owned = [TopicPartition::new("a", 1), TopicPartition::new("b", 0)];
        let bytes = encode_subscription(&Subscription {
            topics: &topics,
            owned: &owned,
            generation: 7,
            rack: Some("r1"),
            user_data: Some(Bytes::from_static(b"mine")),
        });
        let member = decode_subscription("m".into(), None, bytes).unwrap();
        assert_eq!(member.topics, topics);
        assert_eq!(member.owned, owned);
        assert_eq!(member.generation, Some(7));
        assert_eq!(member.rack.as_deref(), Some("r1"));
        assert_eq!(member.user_data.as_deref(), Some(&b"mine"[..]));
    }

    #[test]
    fn a_subscription_of_version_0_has_neither_partitions_nor_generation() {
        // Version 0, the topic `a`, user data null: what old Java clients send.
        let bytes = Bytes::from_static(&[0, 0, 0, 0, 0, 1, 0, 1, b'a', 0xff, 0xff, 0xff, 0xff]);
        let member = decode_subscription("m".into(), None, bytes).unwrap();
        assert_eq!(member.topics, [Arc::from("a")]);
        assert_eq!((member.owned.len(), member.generation), (0, None));
    }

    #[test]
    fn a_version_of_the_future_is_read_as_the_latest_known() {
        let mut bytes = BytesMut::from(
            &encode_assignment(&Assignment {
                partitions: vec![TopicPartition::new("t", 3)],
                user_data: None,
            })[..],
        );
        bytes[1] = 9;
        let assignment = decode_assignment(bytes.freeze()).unwrap();
        assert_eq!(assignment.partitions, [TopicPartition::new("t", 3)]);
    }

    #[test]
    fn a_count_beyond_the_bytes_is_refused_before_anything_is_allocated() {
        let huge = Bytes::from_static(&[0, 1, 0x7f, 0xff, 0xff, 0xff]);
        assert!(decode_assignment(huge.clone()).is_err());
        assert!(decode_subscription("m".into(), None, huge).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = Bytes::from(bytes);
            let _ = decode_assignment(bytes.clone());
            let _ = decode_subscription("m".into(), None, bytes);
        }
    }
}
