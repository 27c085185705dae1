use std::time::Duration;

use kafka_client::{Client, RequestError, TopicPartition};
use kafka_wire::ErrorCode;
use kafka_wire::messages::ShareGroupDescribeRequest;
use kafka_wire::messages::share_group_describe_response::{DescribedGroup, Member};

use super::GroupState;
use crate::coordinator::{Coordinates, Coordinator, ask_each, group_id, partitions_of};
use crate::driver::{Effect, Refusal};
use crate::operation::operation;
use crate::{AdminError, ItemResults};

/// A share group (KIP-932).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShareGroupDescription {
    /// The group's id.
    pub id: String,
    /// Its state: [`Stable`](GroupState::Stable), [`Empty`](GroupState::Empty) or [`Dead`](GroupState::Dead).
    pub state: GroupState,
    /// The assignor in use.
    pub assignor: String,
    /// The version of the group's members and subscriptions.
    pub group_epoch: i32,
    /// The version of the assignment.
    pub assignment_epoch: i32,
    /// Its members.
    pub members: Vec<ShareMember>,
    /// The broker that coordinates it.
    pub coordinator: i32,
}

/// A member of a share group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShareMember {
    /// Its id.
    pub id: String,
    /// Its `client.rack`.
    pub rack: Option<String>,
    /// Its `client.id`.
    pub client_id: String,
    /// Where it connects from.
    pub host: String,
    /// The partitions it fetches from, perhaps together with others.
    pub assignment: Vec<TopicPartition>,
    /// How far it has come.
    pub epoch: i32,
    /// The topics it subscribes to.
    pub topics: Vec<String>,
}

/// See [`Admin::describe_share_groups`](crate::Admin::describe_share_groups).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct DescribeShareGroups {
    client: Client,
    timeout: Duration,
    ids: Vec<String>,
}

operation!(DescribeShareGroups => ItemResults<String, ShareGroupDescription>);

impl DescribeShareGroups {
    pub(crate) fn new(client: Client, timeout: Duration, ids: Vec<String>) -> Self {
        Self { client, timeout, ids }
    }

    async fn run(self) -> Result<ItemResults<String, ShareGroupDescription>, AdminError> {
        ask_each(&self.client, Coordinates::Group, self.ids, Effect::Read, self.timeout, describe).await
    }
}

async fn describe(
    coordinator: Coordinator,
    id: String,
) -> Result<Result<ShareGroupDescription, Refusal>, RequestError> {
    let request = ShareGroupDescribeRequest::default().with_group_ids(vec![group_id(&id)]);
    let answer = coordinator.ask(request).await?;
    let Some(group) = answer.groups.into_iter().find(|group| group.group_id.as_str() == id) else {
        return Ok(Err(ErrorCode::UnknownServerError.into()));
    };
    let refused = Refusal::check(group.error_code, group.error_message.clone());
    Ok(refused.map(|()| described(group, coordinator.node)))
}

fn described(group: DescribedGroup, coordinator: i32) -> ShareGroupDescription {
    ShareGroupDescription {
        id: group.group_id.to_string(),
        state: GroupState::parse(&group.group_state),
        assignor: group.assignor_name.to_string(),
        group_epoch: group.group_epoch,
        assignment_epoch: group.assignment_epoch,
        members: group.members.into_iter().map(ShareMember::from).collect(),
        coordinator,
    }
}

impl From<Member> for ShareMember {
    fn from(member: Member) -> Self {
        let assigned = member.assignment.topic_partitions.iter();
        Self {
            id: member.member_id.to_string(),
            rack: member.rack_id.map(|rack| rack.to_string()),
            client_id: member.client_id.to_string(),
            host: member.client_host.to_string(),
            assignment: assigned
                .flat_map(|topic| partitions_of(&topic.topic_name, &topic.partitions))
                .collect(),
            epoch: member.member_epoch,
            topics: member.subscribed_topic_names.iter().map(|name| name.to_string()).collect(),
        }
    }
}
