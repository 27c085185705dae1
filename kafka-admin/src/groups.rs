//! Listing and describing groups, and the offsets that they committed.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future;
use kafka_client::{Client, RequestError, Target, TopicPartition};
use kafka_wire::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_wire::messages::{
    BrokerId, DescribeGroupsRequest, FindCoordinatorRequest, GroupId, ListGroupsRequest, OffsetFetchRequest,
    OffsetFetchResponse,
};
use kafka_wire::{ErrorCode, StrBytes};

use crate::driver::{Answers, Effect, Key, Refusal, drive, drive_one};
use crate::operation::operation;
use crate::{AdminError, ItemResults, Resource};

/// A group's id as a key of results.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Group(String);

impl Key for Group {
    fn resource(&self) -> Resource {
        Resource::Group(self.0.clone())
    }
}

/// A group as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupListing {
    /// The group's id.
    pub id: String,
    /// What its members speak among themselves: `consumer` for consumers, empty for offsets without members.
    pub protocol_type: String,
    /// Kafka's name of its state, such as `Stable`; empty from brokers before Kafka 2.6.
    pub state: String,
    /// `classic`, `consumer`, `share` or `streams`; empty from brokers before Kafka 3.7.
    pub group_type: String,
}

/// See [`Admin::list_groups`](crate::Admin::list_groups).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct ListGroups {
    client: Client,
    timeout: Duration,
}

operation!(ListGroups => Vec<GroupListing>);

impl ListGroups {
    pub(crate) fn new(client: Client, timeout: Duration) -> Self {
        Self { client, timeout }
    }

    /// Sorted by id.
    async fn run(self) -> Result<Vec<GroupListing>, AdminError> {
        drive_one(&self.client, Effect::Read, self.timeout, |remaining| list(self.client.clone(), remaining))
            .await
    }
}

/// Every broker knows the groups that it coordinates.
async fn list(client: Client, timeout: Duration) -> Result<Result<Vec<GroupListing>, Refusal>, RequestError> {
    let cluster = match tokio::time::timeout(timeout, client.refresh_topics(std::iter::empty::<&str>())).await
    {
        Ok(cluster) => cluster?,
        Err(_) => return Err(RequestError::Timeout { waited: timeout, last: None }),
    };
    let requests = cluster.brokers().map(|broker| {
        let request = client.request(ListGroupsRequest::default());
        request.to(Target::Broker(broker.id)).timeout(timeout).into_future()
    });
    let mut groups = BTreeMap::new();
    for answer in future::try_join_all(requests).await? {
        if let Err(refusal) = Refusal::check(answer.error_code, None) {
            return Ok(Err(refusal));
        }
        for group in answer.groups {
            let id = group.group_id.to_string();
            let listing = GroupListing {
                id: id.clone(),
                protocol_type: group.protocol_type.to_string(),
                state: group.group_state.to_string(),
                group_type: group.group_type.to_string(),
            };
            groups.insert(id, listing);
        }
    }
    Ok(Ok(groups.into_values().collect()))
}

/// A classic group with its members.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupDescription {
    /// The group's id.
    pub id: String,
    /// Kafka's name of its state, such as `Stable`. A group that does not exist is `Dead`.
    pub state: String,
    /// What its members speak among themselves: `consumer` for consumers.
    pub protocol_type: String,
    /// The assignor in use.
    pub protocol: String,
    /// Its members.
    pub members: Vec<MemberDescription>,
    /// The broker that coordinates it.
    pub coordinator: i32,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberDescription {
    /// The id that the coordinator gave it.
    pub id: String,
    /// Its `group.instance.id`, if it is a static member.
    pub instance_id: Option<String>,
    /// Its `client.id`.
    pub client_id: String,
    /// Where it connects from.
    pub host: String,
    /// The partitions it owns; empty where the members are no consumers.
    pub assignment: Vec<TopicPartition>,
}

/// See [`Admin::describe_groups`](crate::Admin::describe_groups).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct DescribeGroups {
    client: Client,
    timeout: Duration,
    ids: Vec<String>,
}

operation!(DescribeGroups => ItemResults<String, GroupDescription>);

impl DescribeGroups {
    pub(crate) fn new(client: Client, timeout: Duration, ids: Vec<String>) -> Self {
        Self { client, timeout, ids }
    }

    async fn run(self) -> Result<ItemResults<String, GroupDescription>, AdminError> {
        let results = drive(
            &self.client,
            self.ids.into_iter().map(Group),
            Effect::Read,
            self.timeout,
            |open, remaining| describe(self.client.clone(), open, remaining),
        )
        .await?;
        Ok(ItemResults::new(results.into_iter().map(|(group, result)| (group.0, result)).collect()))
    }
}

async fn describe(
    client: Client,
    groups: Vec<Group>,
    timeout: Duration,
) -> Result<Answers<Group, GroupDescription>, RequestError> {
    let asked = groups.into_iter().map(|group| {
        let client = client.clone();
        async move {
            let result = describe_one(&client, &group.0, timeout).await?;
            Ok((group, result))
        }
    });
    future::try_join_all(asked).await
}

async fn describe_one(
    client: &Client,
    id: &str,
    timeout: Duration,
) -> Result<Result<GroupDescription, Refusal>, RequestError> {
    let coordinator = match coordinator(client, id, timeout).await? {
        Ok(coordinator) => coordinator,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let request = DescribeGroupsRequest::default().with_groups(vec![group_id(id)]);
    let answer = client.request(request).to(Target::Broker(coordinator)).timeout(timeout).await?;
    let Some(group) = answer.groups.into_iter().find(|group| group.group_id.as_str() == id) else {
        return Ok(Err(ErrorCode::UnknownServerError.into()));
    };
    Ok(match ErrorCode::from(group.error_code) {
        // Since version 6 a group that does not exist is an error (KIP-1043); before, it is `Dead`. One answer for both.
        ErrorCode::GroupIdNotFound => {
            Ok(description(group.with_group_state(StrBytes::from_static_str("Dead")), coordinator))
        }
        _ => Refusal::check(group.error_code, group.error_message.clone())
            .map(|()| description(group, coordinator)),
    })
}

fn description(group: DescribedGroup, coordinator: i32) -> GroupDescription {
    let is_consumer = group.protocol_type.as_str() == "consumer";
    GroupDescription {
        id: group.group_id.to_string(),
        state: group.group_state.to_string(),
        protocol_type: group.protocol_type.to_string(),
        protocol: group.protocol_data.to_string(),
        members: group.members.into_iter().map(|m| member(m, is_consumer)).collect(),
        coordinator,
    }
}

fn member(member: DescribedGroupMember, is_consumer: bool) -> MemberDescription {
    MemberDescription {
        id: member.member_id.to_string(),
        instance_id: member.group_instance_id.map(|id| id.to_string()),
        client_id: member.client_id.to_string(),
        host: member.client_host.to_string(),
        assignment: if is_consumer { assignment(&member.member_assignment) } else { Vec::new() },
    }
}

/// What a `ConsumerProtocolAssignment` says, nothing if it cannot be read: members write it, not the broker, so it may
/// hold anything. Read by hand because nothing but its first array matters and its bytes must not be able to ask for
/// memory.
fn assignment(mut bytes: &[u8]) -> Vec<TopicPartition> {
    fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
        let (head, rest) = bytes.split_first_chunk::<N>()?;
        *bytes = rest;
        Some(*head)
    }
    fn read(bytes: &mut &[u8]) -> Option<Vec<TopicPartition>> {
        let mut partitions = Vec::new();
        let _version = take::<2>(bytes)?;
        for _ in 0..i32::from_be_bytes(take(bytes)?) {
            let length = usize::try_from(i16::from_be_bytes(take(bytes)?)).ok()?;
            let (name, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            let topic: std::sync::Arc<str> = std::sync::Arc::from(std::str::from_utf8(name).ok()?);
            for _ in 0..i32::from_be_bytes(take(bytes)?) {
                partitions.push(TopicPartition::new(topic.clone(), i32::from_be_bytes(take(bytes)?)));
            }
        }
        Some(partitions)
    }
    read(&mut bytes).unwrap_or_default()
}

/// An offset that a group has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupOffset {
    /// The offset that the group reads next.
    pub offset: i64,
    /// The leader epoch of the last record it read; `None` if unknown.
    pub leader_epoch: Option<i32>,
    /// What the group wrote beside it.
    pub metadata: String,
}

/// See [`Admin::list_group_offsets`](crate::Admin::list_group_offsets).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct ListGroupOffsets {
    client: Client,
    timeout: Duration,
    group: String,
}

operation!(ListGroupOffsets => ItemResults<TopicPartition, GroupOffset>);

/// From version 8 one request may ask about several groups; up to here it has one group at its top.
const ONE_GROUP: i16 = 7;

impl ListGroupOffsets {
    pub(crate) fn new(client: Client, timeout: Duration, group: String) -> Self {
        Self { client, timeout, group }
    }

    /// Every partition with a committed offset, by name and number; none if the group does not exist.
    async fn run(self) -> Result<ItemResults<TopicPartition, GroupOffset>, AdminError> {
        let group = Group(self.group.clone());
        let results = drive(&self.client, [group], Effect::Read, self.timeout, |_, remaining| {
            let (client, group) = (self.client.clone(), self.group.clone());
            async move {
                let answer = committed(&client, &group, remaining).await?;
                Ok(vec![(Group(group), answer)])
            }
        });
        match results.await?.into_iter().next() {
            Some((_, result)) => Ok(offsets(result?)),
            None => Err(AdminError::Missing { resource: Resource::Group(self.group) }),
        }
    }
}

async fn committed(
    client: &Client,
    group: &str,
    timeout: Duration,
) -> Result<Result<OffsetFetchResponse, Refusal>, RequestError> {
    let coordinator = match coordinator(client, group, timeout).await? {
        Ok(coordinator) => coordinator,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let request = OffsetFetchRequest::default().with_group_id(group_id(group)).with_topics(None);
    let request = client.request(request).to(Target::Broker(coordinator)).max_version(ONE_GROUP);
    let answer = request.timeout(timeout).await?;
    Ok(Refusal::check(answer.error_code, None).map(|()| answer))
}

fn offsets(answer: OffsetFetchResponse) -> ItemResults<TopicPartition, GroupOffset> {
    let mut offsets = Vec::new();
    for topic in answer.topics {
        let name: std::sync::Arc<str> = std::sync::Arc::from(topic.name.as_str());
        for partition in topic.partitions {
            let key = TopicPartition::new(name.clone(), partition.partition_index);
            let result = match ErrorCode::from(partition.error_code) {
                ErrorCode::None if partition.committed_offset < 0 => continue,
                ErrorCode::None => Ok(GroupOffset {
                    offset: partition.committed_offset,
                    leader_epoch: Some(partition.committed_leader_epoch).filter(|&epoch| epoch >= 0),
                    metadata: partition.metadata.map(|text| text.to_string()).unwrap_or_default(),
                }),
                code => Err(AdminError::Refused { resource: key.resource(), code, message: None }),
            };
            offsets.push((key, result));
        }
    }
    offsets.sort_by(|(a, _), (b, _)| a.cmp(b));
    ItemResults::new(offsets)
}

/// From version 4 one request may ask about several groups; up to here it has one key at its top.
const ONE_KEY: i16 = 3;

/// Who coordinates a group, asked anew each time: an administrator asks rarely.
async fn coordinator(
    client: &Client,
    group: &str,
    timeout: Duration,
) -> Result<Result<i32, Refusal>, RequestError> {
    let request = FindCoordinatorRequest::default().with_key(StrBytes::from_string(group.to_owned()));
    let answer = client.request(request).to(Target::Any).timeout(timeout).max_version(ONE_KEY).await?;
    let BrokerId(node) = answer.node_id;
    Ok(Refusal::check(answer.error_code, answer.error_message).map(|()| node))
}

fn group_id(id: &str) -> GroupId {
    GroupId(StrBytes::from_string(id.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_read_and_garbage_is_no_partition() {
        let mut bytes = vec![0, 1];
        bytes.extend(1i32.to_be_bytes());
        bytes.extend([0, 1, b't']);
        bytes.extend(2i32.to_be_bytes());
        bytes.extend(0i32.to_be_bytes());
        bytes.extend(3i32.to_be_bytes());
        bytes.extend((-1i32).to_be_bytes());
        assert_eq!(assignment(&bytes), [TopicPartition::new("t", 0), TopicPartition::new("t", 3)]);
        for end in 0..bytes.len() - 4 {
            assert!(assignment(&bytes[..end]).is_empty());
        }
        let huge = [0, 1, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0x7f, 0xff, 0xff, 0xff];
        assert!(assignment(&huge).is_empty());
    }

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
        let offsets = offsets(OffsetFetchResponse::default().with_topics(vec![topic])).all().unwrap();
        assert_eq!(offsets.len(), 1);
        assert_eq!((&offsets[0].0, offsets[0].1.offset), (&TopicPartition::new("t", 1), 5));
    }
}
