use std::time::Duration;

use kafka_client::Client;
use kafka_wire::messages::leave_group_request::MemberIdentity as Leaving;
use kafka_wire::messages::{LeaveGroupRequest, LeaveGroupResponse};
use kafka_wire::{ErrorCode, StrBytes};

use super::consumer::DescribeConsumerGroups;
use crate::coordinator::{ask_about, group_id};
use crate::driver::{Answers, Effect, Key, Refusal};
use crate::operation::operation;
use crate::{AdminError, ItemResults, Resource};

/// What coordinators log when no reason is given (KIP-800).
const DEFAULT_REASON: &str = "member was removed by an admin";

/// Reasons are cut after this many characters (KIP-800).
const MAX_REASON_CHARS: usize = 255;

/// A member of a group, as an administrator names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MemberIdentity {
    /// A static member, by its `group.instance.id` (KIP-345).
    Instance(String),
    /// A dynamic member, by the id it has in the group.
    Member(String),
}

impl Key for MemberIdentity {
    fn resource(&self) -> Resource {
        match self {
            Self::Instance(id) | Self::Member(id) => Resource::Member(id.clone()),
        }
    }
}

/// Which members of a group are removed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MembersToRemove {
    /// Whoever is a member when the group is asked. Members that live join again.
    All,
    /// These.
    These(Vec<MemberIdentity>),
}

/// See [`Admin::remove_members`](crate::Admin::remove_members).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct RemoveMembers {
    client: Client,
    timeout: Duration,
    group: String,
    members: MembersToRemove,
    reason: String,
}

operation!(RemoveMembers => ItemResults<MemberIdentity, ()>);

impl RemoveMembers {
    pub(crate) fn new(client: Client, timeout: Duration, group: String, members: MembersToRemove) -> Self {
        Self { client, timeout, group, members, reason: DEFAULT_REASON.to_owned() }
    }

    /// Why, for the coordinator's log (KIP-800, Kafka 3.2). Cut after 255 characters.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }

    async fn run(self) -> Result<ItemResults<MemberIdentity, ()>, AdminError> {
        let started = tokio::time::Instant::now();
        let members = match self.members {
            MembersToRemove::These(members) => members,
            MembersToRemove::All => all(&self.client, &self.group, self.timeout).await?,
        };
        let reason: String = self.reason.chars().take(MAX_REASON_CHARS).collect();
        let request = |open: &[MemberIdentity]| leave(&self.group, open, &reason);
        let remaining = self.timeout.saturating_sub(started.elapsed());
        ask_about(&self.client, &self.group, members, Effect::Write, remaining, request, left).await
    }
}

async fn all(client: &Client, group: &str, timeout: Duration) -> Result<Vec<MemberIdentity>, AdminError> {
    let described = DescribeConsumerGroups::new(client.clone(), timeout, vec![group.to_owned()]).await?;
    let members = described.all()?.into_iter().flat_map(|(_, group)| group.members);
    let identities = members.map(|member| match member.instance_id {
        Some(instance) => MemberIdentity::Instance(instance),
        None => MemberIdentity::Member(member.id),
    });
    Ok(identities.collect())
}

fn leave(group: &str, members: &[MemberIdentity], reason: &str) -> LeaveGroupRequest {
    let members = members.iter().map(|member| {
        let leaving = Leaving::default().with_reason(Some(StrBytes::from_string(reason.to_owned())));
        match member {
            MemberIdentity::Instance(id) => {
                leaving.with_group_instance_id(Some(StrBytes::from_string(id.clone())))
            }
            MemberIdentity::Member(id) => leaving.with_member_id(StrBytes::from_string(id.clone())),
        }
    });
    LeaveGroupRequest::default().with_group_id(group_id(group)).with_members(members.collect())
}

fn left(answer: LeaveGroupResponse) -> Result<Answers<MemberIdentity, ()>, Refusal> {
    Refusal::check(answer.error_code, None)?;
    let members = answer.members.into_iter().map(|member| {
        let identity = match member.group_instance_id {
            Some(instance) => MemberIdentity::Instance(instance.to_string()),
            None => MemberIdentity::Member(member.member_id.to_string()),
        };
        (identity, ErrorCode::from(member.error_code).into_result().map_err(Refusal::from))
    });
    Ok(members.collect())
}

#[cfg(test)]
mod tests {
    use kafka_wire::messages::leave_group_response::MemberResponse;

    use super::*;

    #[test]
    fn static_and_dynamic_members_leave_with_a_reason_and_each_has_its_own_answer() {
        let instance = MemberIdentity::Instance("i".to_owned());
        let member = MemberIdentity::Member("m".to_owned());
        let request = leave("g", &[instance.clone(), member.clone()], "moved");
        let asked: Vec<_> = request
            .members
            .iter()
            .map(|it| (it.member_id.as_str(), it.group_instance_id.as_deref(), it.reason.as_deref()))
            .collect();
        assert_eq!(asked, [("", Some("i"), Some("moved")), ("m", None, Some("moved"))]);
        let answer = LeaveGroupResponse::default().with_members(vec![
            MemberResponse::default()
                .with_group_instance_id(Some(StrBytes::from_static_str("i")))
                .with_member_id(StrBytes::from_static_str("i-uuid")),
            MemberResponse::default()
                .with_group_instance_id(None)
                .with_member_id(StrBytes::from_static_str("m"))
                .with_error_code(ErrorCode::UnknownMemberId.code()),
        ]);
        let answers = left(answer).unwrap();
        assert_eq!(answers, [(instance, Ok(())), (member, Err(ErrorCode::UnknownMemberId.into()))]);
    }
}
