//! What operators ask: which groups there are, who is in one, and to delete it.

use kafka_wire::messages::delete_groups_response::DeletableGroupResult;
use kafka_wire::messages::describe_groups_response::DescribedGroup;
use kafka_wire::messages::list_groups_response::ListedGroup;
use kafka_wire::messages::{DeleteGroupsResponse, GroupId};
use kafka_wire::{ErrorCode, StrBytes};

use super::classic::CONSUMER_PROTOCOL_TYPE;
use super::record::text;
use super::{CallId, Coordinator, Decision, Group, Response};

/// From this version on DescribeGroups says that a group does not exist (KIP-1043); before it is `Dead`.
const GROUP_ID_NOT_FOUND_VERSION: i16 = 6;

impl Coordinator {
    /// DescribeGroups, for one group.
    pub(crate) fn describe(&self, group_id: &GroupId, version: i16) -> DescribedGroup {
        match self.groups.get(group_id.as_str()) {
            Some(Group::Classic(group)) => group.describe(version).with_group_id(group_id.clone()),
            other => {
                let dead = DescribedGroup::default()
                    .with_group_id(group_id.clone())
                    .with_group_state(StrBytes::from_static_str("Dead"));
                if version < GROUP_ID_NOT_FOUND_VERSION {
                    return dead;
                }
                let message = match other {
                    Some(_) => format!("Group {} is not a classic group.", group_id.as_str()),
                    None => format!("Group {} not found.", group_id.as_str()),
                };
                dead.with_error_code(ErrorCode::GroupIdNotFound.code())
                    .with_error_message(Some(text(&message)))
            }
        }
    }

    /// ListGroups; empty filters let all pass, and both ignore case (KIP-518, KIP-848).
    pub(crate) fn list(&self, states: &[StrBytes], types: &[StrBytes]) -> Vec<ListedGroup> {
        let passes = |filter: &[StrBytes], value: &str| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
        };
        let groups = self.groups.iter().map(|(group_id, group)| {
            let (protocol_type, state, kind) = match group {
                Group::Classic(group) => {
                    (group.protocol_type().unwrap_or_default(), group.state_name(), "classic")
                }
                Group::Consumer(group) => (CONSUMER_PROTOCOL_TYPE, group.state().name(), "consumer"),
            };
            ListedGroup::default()
                .with_group_id(GroupId(text(group_id)))
                .with_protocol_type(text(protocol_type))
                .with_group_state(StrBytes::from_static_str(state))
                .with_group_type(StrBytes::from_static_str(kind))
        });
        let shares = self.shares.list().map(|(group_id, state)| {
            ListedGroup::default()
                .with_group_id(GroupId(text(group_id)))
                .with_protocol_type(StrBytes::from_static_str("share"))
                .with_group_state(StrBytes::from_static_str(state))
                .with_group_type(StrBytes::from_static_str("share"))
        });
        groups
            .chain(shares)
            .filter(|group| passes(states, &group.group_state) && passes(types, &group.group_type))
            .collect()
    }

    /// DeleteGroups, for the groups of this partition.
    pub(crate) fn delete_groups(&mut self, call: CallId, group_ids: &[GroupId]) -> Decision {
        let mut out = Decision::default();
        let mut results = Vec::with_capacity(group_ids.len());
        for group_id in group_ids {
            let error = match self.groups.get(group_id.as_str()) {
                None => self.delete_share_group(group_id, &mut out),
                Some(group) if !group.is_empty() => ErrorCode::NonEmptyGroup,
                Some(group) => {
                    out.records.extend(self.offset_tombstones(group_id));
                    out.records.extend(group.tombstones(group_id));
                    ErrorCode::None
                }
            };
            let result = DeletableGroupResult::default().with_group_id(group_id.clone());
            results.push(result.with_error_code(error.code()));
        }
        out.answer_when_written(
            call,
            Response::DeleteGroups(DeleteGroupsResponse::default().with_results(results)),
        );
        out
    }
}
