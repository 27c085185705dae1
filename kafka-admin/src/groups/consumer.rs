use std::time::Duration;

use kafka_client::{Client, RequestError, TopicPartition};
use kafka_wire::ErrorCode;
use kafka_wire::messages::ConsumerGroupDescribeRequest;
use kafka_wire::messages::consumer_group_describe_response::{Assignment, DescribedGroup, Member};

use super::classic::{self, ClassicGroupDescription, ClassicMember};
use super::{GroupState, GroupType};
use crate::coordinator::{Coordinates, Coordinator, ask_each, group_id, partitions_of};
use crate::driver::{Effect, Refusal};
use crate::operation::operation;
use crate::{AdminError, ItemResults};

/// A group of consumers, of the classic protocol or of KIP-848.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerGroupDescription {
    /// The group's id.
    pub id: String,
    /// Its protocol: [`Classic`](GroupType::Classic) or [`Consumer`](GroupType::Consumer).
    pub group_type: GroupType,
    /// Its state.
    pub state: GroupState,
    /// The assignor in use.
    pub assignor: String,
    /// The version of the group's members and subscriptions; KIP-848 only.
    pub group_epoch: Option<i32>,
    /// The version of the assignment that members are moving to; KIP-848 only.
    pub assignment_epoch: Option<i32>,
    /// Its members.
    pub members: Vec<ConsumerMember>,
    /// Whether it only keeps offsets, of consumers that are assigned their partitions by hand.
    pub is_simple: bool,
    /// The broker that coordinates it.
    pub coordinator: i32,
}

/// A member of a group of consumers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerMember {
    /// Its id.
    pub id: String,
    /// Its `group.instance.id`, if it is a static member.
    pub instance_id: Option<String>,
    /// Its `client.rack`; KIP-848 only.
    pub rack: Option<String>,
    /// Its `client.id`.
    pub client_id: String,
    /// Where it connects from.
    pub host: String,
    /// The partitions it owns.
    pub assignment: Vec<TopicPartition>,
    /// The partitions it is to own; KIP-848 only.
    pub target_assignment: Option<Vec<TopicPartition>>,
    /// How far it has come; KIP-848 only.
    pub epoch: Option<i32>,
    /// The topics it subscribes to by name; KIP-848 only.
    pub topics: Vec<String>,
    /// The pattern it subscribes by (RE2); KIP-848 only.
    pub topic_pattern: Option<String>,
    /// Whether it still speaks the classic protocol in a KIP-848 group; `None` where that is not told (before Kafka 4.0).
    pub is_classic: Option<bool>,
}

/// See [`Admin::describe_consumer_groups`](crate::Admin::describe_consumer_groups).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct DescribeConsumerGroups {
    client: Client,
    timeout: Duration,
    ids: Vec<String>,
}

operation!(DescribeConsumerGroups => ItemResults<String, ConsumerGroupDescription>);

impl DescribeConsumerGroups {
    pub(crate) fn new(client: Client, timeout: Duration, ids: Vec<String>) -> Self {
        Self { client, timeout, ids }
    }

    async fn run(self) -> Result<ItemResults<String, ConsumerGroupDescription>, AdminError> {
        ask_each(
            &self.client,
            Coordinates::Group,
            self.ids,
            Effect::Read,
            self.timeout,
            async |coordinator, id| match describe(&coordinator, &id).await? {
                Some(described) => Ok(described),
                None => Ok(classic::describe(&coordinator, &id).await?.and_then(from_classic)),
            },
        )
        .await
    }
}

/// `None`: there is no KIP-848 group of that name, or the broker knows no such groups.
async fn describe(
    coordinator: &Coordinator,
    id: &str,
) -> Result<Option<Result<ConsumerGroupDescription, Refusal>>, RequestError> {
    let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![group_id(id)]);
    let answer = match coordinator.ask(request).await {
        Ok(answer) => answer,
        Err(RequestError::Unsupported(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(group) = answer.groups.into_iter().find(|group| group.group_id.as_str() == id) else {
        return Ok(Some(Err(ErrorCode::UnknownServerError.into())));
    };
    match Refusal::check(group.error_code, group.error_message.clone()) {
        Ok(()) => Ok(Some(Ok(described(group, coordinator.node)))),
        Err(Refusal { code: ErrorCode::GroupIdNotFound | ErrorCode::UnsupportedVersion, .. }) => Ok(None),
        Err(refusal) => Ok(Some(Err(refusal))),
    }
}

fn described(group: DescribedGroup, coordinator: i32) -> ConsumerGroupDescription {
    ConsumerGroupDescription {
        id: group.group_id.to_string(),
        group_type: GroupType::Consumer,
        state: GroupState::parse(&group.group_state),
        assignor: group.assignor_name.to_string(),
        group_epoch: Some(group.group_epoch),
        assignment_epoch: Some(group.assignment_epoch),
        members: group.members.into_iter().map(ConsumerMember::from).collect(),
        is_simple: false,
        coordinator,
    }
}

impl From<Member> for ConsumerMember {
    fn from(member: Member) -> Self {
        Self {
            id: member.member_id.to_string(),
            instance_id: member.instance_id.map(|id| id.to_string()),
            rack: member.rack_id.map(|rack| rack.to_string()),
            client_id: member.client_id.to_string(),
            host: member.client_host.to_string(),
            assignment: partitions(&member.assignment),
            target_assignment: Some(partitions(&member.target_assignment)),
            epoch: Some(member.member_epoch),
            topics: member.subscribed_topic_names.iter().map(|name| name.to_string()).collect(),
            topic_pattern: member
                .subscribed_topic_regex
                .map(|pattern| pattern.to_string())
                .filter(|pattern| !pattern.is_empty()),
            is_classic: match member.member_type {
                0 => Some(true),
                1 => Some(false),
                _ => None,
            },
        }
    }
}

fn partitions(assignment: &Assignment) -> Vec<TopicPartition> {
    let topics = assignment.topic_partitions.iter();
    topics.flat_map(|topic| partitions_of(&topic.topic_name, &topic.partitions)).collect()
}

fn from_classic(group: ClassicGroupDescription) -> Result<ConsumerGroupDescription, Refusal> {
    let is_simple = group.protocol_type.is_empty();
    if !is_simple && group.protocol_type != "consumer" {
        let message = format!("its members are no consumers but speak {:?}", group.protocol_type);
        return Err(Refusal { message: Some(message), ..ErrorCode::InconsistentGroupProtocol.into() });
    }
    Ok(ConsumerGroupDescription {
        id: group.id,
        group_type: GroupType::Classic,
        state: group.state,
        assignor: group.protocol,
        group_epoch: None,
        assignment_epoch: None,
        members: group.members.into_iter().map(ConsumerMember::from).collect(),
        is_simple,
        coordinator: group.coordinator,
    })
}

impl From<ClassicMember> for ConsumerMember {
    fn from(member: ClassicMember) -> Self {
        Self {
            assignment: member.partitions(),
            id: member.id,
            instance_id: member.instance_id,
            rack: None,
            client_id: member.client_id,
            host: member.host,
            target_assignment: None,
            epoch: None,
            topics: Vec::new(),
            topic_pattern: None,
            is_classic: Some(true),
        }
    }
}
