use std::collections::BTreeMap;
use std::time::Duration;

use kafka_client::Client;
use kafka_wire::StrBytes;
use kafka_wire::messages::list_groups_response::ListedGroup;
use kafka_wire::messages::{ListGroupsRequest, ListGroupsResponse};

use super::{GroupState, GroupType};
use crate::AdminError;
use crate::brokers::ask_all_brokers;
use crate::driver::{Effect, Refusal, drive_one};
use crate::operation::operation;

/// A group as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupListing {
    /// The group's id.
    pub id: String,
    /// What its members speak among themselves: `consumer` for consumers, empty for offsets without members.
    pub protocol_type: String,
    /// Its state; unknown from brokers before Kafka 2.6.
    pub state: GroupState,
    /// Its type; unknown from brokers before Kafka 3.7.
    pub group_type: GroupType,
}

impl From<ListedGroup> for GroupListing {
    fn from(group: ListedGroup) -> Self {
        Self {
            id: group.group_id.to_string(),
            protocol_type: group.protocol_type.to_string(),
            state: GroupState::parse(&group.group_state),
            group_type: GroupType::parse(&group.group_type),
        }
    }
}

/// See [`Admin::list_groups`](crate::Admin::list_groups).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct ListGroups {
    client: Client,
    timeout: Duration,
    states: Vec<GroupState>,
    types: Vec<GroupType>,
    protocol_types: Vec<String>,
}

operation!(ListGroups => Vec<GroupListing>);

impl ListGroups {
    pub(crate) fn new(client: Client, timeout: Duration) -> Self {
        Self { client, timeout, states: Vec::new(), types: Vec::new(), protocol_types: Vec::new() }
    }

    /// Only groups in these states (KIP-518, Kafka 2.6). Default: any.
    pub fn in_states(mut self, states: impl IntoIterator<Item = GroupState>) -> Self {
        self.states = states.into_iter().collect();
        self
    }

    /// Only groups of these types (KIP-848, Kafka 3.7). Default: any.
    pub fn of_types(mut self, types: impl IntoIterator<Item = GroupType>) -> Self {
        self.types = types.into_iter().collect();
        self
    }

    /// Only groups whose members speak one of these among themselves (KIP-1043); empty is a group of offsets alone.
    /// Default: any.
    pub fn with_protocol_types<T: Into<String>>(mut self, types: impl IntoIterator<Item = T>) -> Self {
        self.protocol_types = types.into_iter().map(Into::into).collect();
        self
    }

    /// Only what Kafka calls consumer groups: both protocols' groups of consumers, and offsets without members, which
    /// consumers with assigned partitions commit.
    pub fn consumer_groups(self) -> Self {
        self.of_types([GroupType::Classic, GroupType::Consumer]).with_protocol_types(["", "consumer"])
    }

    /// Sorted by id.
    async fn run(self) -> Result<Vec<GroupListing>, AdminError> {
        let request = ListGroupsRequest::default()
            .with_states_filter(self.states.iter().map(|it| StrBytes::from_static_str(it.name())).collect())
            .with_types_filter(self.types.iter().map(|it| StrBytes::from_static_str(it.name())).collect());
        // Every broker knows the groups that it coordinates.
        let answers = drive_one(&self.client, Effect::Read, self.timeout, |remaining| {
            ask_all_brokers(self.client.clone(), request.clone(), remaining, |answer: &ListGroupsResponse| {
                Refusal::check(answer.error_code, None)
            })
        });
        let answers = answers.await?.into_iter().map(|(_, answer)| answer);
        Ok(merged(answers.collect(), &self.protocol_types))
    }
}

/// A group that has just moved is known to two coordinators; it is listed once.
fn merged(answers: Vec<ListGroupsResponse>, protocol_types: &[String]) -> Vec<GroupListing> {
    let listings = answers.into_iter().flat_map(|answer| answer.groups).map(GroupListing::from);
    let wanted = |it: &GroupListing| protocol_types.is_empty() || protocol_types.contains(&it.protocol_type);
    let by_id: BTreeMap<String, GroupListing> =
        listings.filter(wanted).map(|listing| (listing.id.clone(), listing)).collect();
    by_id.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::group_id;

    #[test]
    fn groups_of_all_brokers_are_listed_once_by_id_and_by_their_protocol_type() {
        let group = |id, protocol_type| {
            ListedGroup::default()
                .with_group_id(group_id(id))
                .with_protocol_type(StrBytes::from_static_str(protocol_type))
                .with_group_type(StrBytes::from_static_str("classic"))
        };
        let answer = |groups| ListGroupsResponse::default().with_groups(groups);
        let answers = vec![
            answer(vec![group("b", "consumer"), group("c", "connect")]),
            answer(vec![group("a", ""), group("b", "consumer")]),
        ];
        let ids = |types: &[&str]| {
            let types: Vec<String> = types.iter().map(|it| it.to_string()).collect();
            merged(answers.clone(), &types).into_iter().map(|it| it.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(&[]), ["a", "b", "c"]);
        assert_eq!(ids(&["", "consumer"]), ["a", "b"]);
        assert_eq!(ids(&["connect"]), ["c"]);
        assert_eq!(merged(answers.clone(), &[])[0].group_type, GroupType::Classic);
    }
}
