use std::time::Duration;

use kafka_client::{Client, RequestError, TopicPartition};
use kafka_wire::ErrorCode;
use kafka_wire::messages::DescribeGroupsRequest;
use kafka_wire::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};

use super::GroupState;
use crate::coordinator::{Coordinates, Coordinator, ask_each, group_id};
use crate::driver::{Effect, Refusal};
use crate::operation::operation;
use crate::{AdminError, ItemResults};

/// A group of the classic protocol, whatever its members are.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassicGroupDescription {
    /// The group's id.
    pub id: String,
    /// Its state.
    pub state: GroupState,
    /// What its members speak among themselves: `consumer`, `connect` and so on; empty for offsets without members.
    pub protocol_type: String,
    /// The assignor in use.
    pub protocol: String,
    /// Its members.
    pub members: Vec<ClassicMember>,
    /// The broker that coordinates it.
    pub coordinator: i32,
}

/// A member of a classic group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassicMember {
    /// The id that the coordinator gave it.
    pub id: String,
    /// Its `group.instance.id`, if it is a static member.
    pub instance_id: Option<String>,
    /// Its `client.id`.
    pub client_id: String,
    /// Where it connects from.
    pub host: String,
    /// What it told the others when it joined, in the protocol type's own format.
    pub metadata: Vec<u8>,
    /// What the leader assigned it, in the protocol type's own format.
    pub assignment: Vec<u8>,
}

impl ClassicMember {
    /// The partitions that a consumer is assigned; empty if [`assignment`](Self::assignment) is not a consumer's.
    pub fn partitions(&self) -> Vec<TopicPartition> {
        assignment(&self.assignment)
    }
}

/// See [`Admin::describe_classic_groups`](crate::Admin::describe_classic_groups).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct DescribeClassicGroups {
    client: Client,
    timeout: Duration,
    ids: Vec<String>,
}

operation!(DescribeClassicGroups => ItemResults<String, ClassicGroupDescription>);

impl DescribeClassicGroups {
    pub(crate) fn new(client: Client, timeout: Duration, ids: Vec<String>) -> Self {
        Self { client, timeout, ids }
    }

    async fn run(self) -> Result<ItemResults<String, ClassicGroupDescription>, AdminError> {
        ask_each(
            &self.client,
            Coordinates::Group,
            self.ids,
            Effect::Read,
            self.timeout,
            async |coordinator, id| describe(&coordinator, &id).await,
        )
        .await
    }
}

pub(super) async fn describe(
    coordinator: &Coordinator,
    id: &str,
) -> Result<Result<ClassicGroupDescription, Refusal>, RequestError> {
    let request = DescribeGroupsRequest::default().with_groups(vec![group_id(id)]);
    let answer = coordinator.ask(request).await?;
    let Some(group) = answer.groups.into_iter().find(|group| group.group_id.as_str() == id) else {
        return Ok(Err(ErrorCode::UnknownServerError.into()));
    };
    Ok(described(group, coordinator.node))
}

fn described(group: DescribedGroup, coordinator: i32) -> Result<ClassicGroupDescription, Refusal> {
    Refusal::check(group.error_code, group.error_message)?;
    let state = GroupState::parse(&group.group_state);
    // Before version 6 a group that does not exist is `Dead` (KIP-1043). One answer for both.
    if state == GroupState::Dead && group.protocol_type.is_empty() {
        return Err(ErrorCode::GroupIdNotFound.into());
    }
    Ok(ClassicGroupDescription {
        id: group.group_id.to_string(),
        state,
        protocol_type: group.protocol_type.to_string(),
        protocol: group.protocol_data.to_string(),
        members: group.members.into_iter().map(ClassicMember::from).collect(),
        coordinator,
    })
}

impl From<DescribedGroupMember> for ClassicMember {
    fn from(member: DescribedGroupMember) -> Self {
        Self {
            id: member.member_id.to_string(),
            instance_id: member.group_instance_id.map(|id| id.to_string()),
            client_id: member.client_id.to_string(),
            host: member.client_host.to_string(),
            metadata: member.member_metadata.to_vec(),
            assignment: member.member_assignment.to_vec(),
        }
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

#[cfg(test)]
mod tests {
    use kafka_wire::StrBytes;

    use super::*;

    #[test]
    fn a_group_that_does_not_exist_is_the_same_error_from_brokers_of_all_ages() {
        let dead = DescribedGroup::default().with_group_state(StrBytes::from_static_str("Dead"));
        assert_eq!(described(dead, 1).unwrap_err().code, ErrorCode::GroupIdNotFound);
        let unknown = DescribedGroup::default().with_error_code(ErrorCode::GroupIdNotFound.code());
        assert_eq!(described(unknown, 1).unwrap_err().code, ErrorCode::GroupIdNotFound);
    }

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
}
