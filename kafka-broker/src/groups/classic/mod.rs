//! A group of the classic protocol (`JoinGroup`, `SyncGroup`), as Kafka's `ClassicGroup` and the classic half of its
//! `GroupMetadataManager` have it: KIP-62 (session and rebalance timeouts), KIP-134 (initial delay), KIP-345 and KIP-814
//! (static members), KIP-394 (member id required).
//!
//! - [`join`]: JoinGroup, and what starts and ends a rebalance
//! - [`sync`]: SyncGroup, Heartbeat
//! - [`leave`]: LeaveGroup, silence, and the other deadlines
//! - [`migrate`]: to a consumer group, and back

mod join;
mod leave;
mod migrate;
mod subscription;
mod sync;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_wire::messages::JoinGroupRequest;
use kafka_wire::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_wire::records::GroupMetadataValue;
use kafka_wire::records::group_metadata_value::MemberMetadata;
use kafka_wire::{ErrorCode, StrBytes};

pub(crate) use join::Join;
pub(super) use join::Restore;
pub(super) use leave::{refusals as leave_refusals, response as leave_response};
pub(super) use subscription::{
    CONSUMER_PROTOCOL_TYPE, NamedPartitions, assignment, encode_assignment, subscription,
};
pub(super) use sync::refusal as sync_refusal;

use super::record::{GroupRecord, text};
use super::{CallId, Decision, GroupConfig, Now};

/// How long a member that never got its id may wait in a join before it is taken for gone (Kafka's
/// `CLASSIC_GROUP_NEW_MEMBER_JOIN_TIMEOUT_MS`): it cannot heartbeat yet.
const NEW_MEMBER_JOIN_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// Members of a group that were told their id and have not come back with it. Kafka has no bound here.
const MAX_PENDING_MEMBERS: usize = 10_000;

/// What a step needs besides the group: the time, the limits, and where its outcome goes.
pub(super) struct Cx<'a> {
    pub(super) group_id: &'a str,
    pub(super) config: &'a GroupConfig,
    pub(super) now: Now,
    pub(super) out: &'a mut Decision,
}

#[derive(Debug)]
pub(crate) struct ClassicGroup {
    generation: i32,
    /// `None`: a group that only holds offsets, made by a commit without members ("simple group").
    protocol_type: Option<String>,
    protocol: Option<String>,
    leader: Option<String>,
    state: State,
    /// When `state` was entered; `None` if an old record did not say.
    state_since_ms: Option<i64>,
    members: BTreeMap<String, Member>,
    /// Member ids by group.instance.id.
    static_members: BTreeMap<String, String>,
    /// Ids handed out with MEMBER_ID_REQUIRED, and until when they can be used.
    pending: BTreeMap<String, Instant>,
    /// Topics the members read; `None` if the protocol is not the consumer's or cannot be read.
    subscribed_topics: Option<BTreeSet<String>>,
}

#[derive(Debug)]
enum State {
    Empty,
    PreparingRebalance {
        deadline: Instant,
        initial: Option<InitialDelay>,
    },
    CompletingRebalance(PendingSync),
    /// With those who have not yet fetched their assignment.
    Stable(Option<PendingSync>),
}

/// The first rebalance of an empty group is held back for members that start at the same time (KIP-134).
#[derive(Debug, Clone, Copy)]
struct InitialDelay {
    delay: Duration,
    remaining: Duration,
    member_added: bool,
}

/// Members that have their join's answer and have not sent SyncGroup; those left at the deadline are removed.
#[derive(Debug)]
struct PendingSync {
    deadline: Instant,
    members: BTreeSet<String>,
}

#[derive(Debug, Clone)]
struct Member {
    instance_id: Option<String>,
    client_id: String,
    client_host: String,
    rebalance_timeout_ms: i32,
    session_timeout_ms: i32,
    /// Name and metadata of each protocol the member can use, the preferred first.
    protocols: Vec<(String, Bytes)>,
    assignment: Bytes,
    /// `None` while a parked join or sync stands in for heartbeats.
    expires_at: Option<Instant>,
    /// Has never been answered, so it cannot heartbeat and may expire inside its first join.
    is_new: bool,
    awaiting_join: Option<CallId>,
    awaiting_sync: Option<CallId>,
}

impl Member {
    fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| name == protocol);
        found.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }

    fn reset_session(&mut self, now: Now) {
        self.expires_at = Some(now.at + millis(self.session_timeout_ms));
    }

    fn has_satisfied_heartbeat(&self) -> bool {
        !self.is_new && (self.awaiting_join.is_some() || self.awaiting_sync.is_some())
    }
}

pub(super) fn millis(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

impl ClassicGroup {
    /// An empty group. `now`: when it was made.
    pub(super) fn new(now: Now) -> Self {
        Self {
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            state: State::Empty,
            state_since_ms: Some(now.ms),
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending: BTreeMap::new(),
            subscribed_topics: None,
        }
    }

    /// The group that a record describes: Empty or Stable. Its members have a session timeout from `now` to be heard.
    pub(super) fn replay(value: &GroupMetadataValue, now: Now) -> Self {
        let mut group = Self {
            generation: value.generation,
            protocol_type: Some(value.protocol_type.to_string()).filter(|name| !name.is_empty()),
            protocol: value.protocol.as_ref().map(ToString::to_string),
            leader: value.leader.as_ref().map(ToString::to_string),
            state: if value.members.is_empty() { State::Empty } else { State::Stable(None) },
            state_since_ms: (value.current_state_timestamp >= 0).then_some(value.current_state_timestamp),
            ..Self::new(now)
        };
        for stored in &value.members {
            let mut member = Member {
                instance_id: stored.group_instance_id.as_ref().map(ToString::to_string),
                client_id: stored.client_id.to_string(),
                client_host: stored.client_host.to_string(),
                // Version 0 of the record has no rebalance timeout.
                rebalance_timeout_ms: match stored.rebalance_timeout {
                    -1 => stored.session_timeout,
                    timeout => timeout,
                },
                session_timeout_ms: stored.session_timeout,
                protocols: vec![(group.protocol.clone().unwrap_or_default(), owned(&stored.subscription))],
                assignment: owned(&stored.assignment),
                expires_at: None,
                is_new: false,
                awaiting_join: None,
                awaiting_sync: None,
            };
            member.reset_session(now);
            group.insert(stored.member_id.to_string(), member);
        }
        group.subscribed_topics = group.read_subscribed_topics();
        group
    }

    /// The record that [`replay`](Self::replay) rebuilds the group from, with the given assignments.
    fn record(&self, group_id: &str, assignment_of: impl Fn(&str, &Member) -> Bytes) -> GroupRecord {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let members = self.members.iter().map(|(id, member)| {
            MemberMetadata::default()
                .with_member_id(text(id))
                .with_group_instance_id(member.instance_id.as_deref().map(text))
                .with_client_id(text(&member.client_id))
                .with_client_host(text(&member.client_host))
                .with_rebalance_timeout(member.rebalance_timeout_ms)
                .with_session_timeout(member.session_timeout_ms)
                .with_subscription(member.metadata(protocol))
                .with_assignment(assignment_of(id, member))
        });
        let value = GroupMetadataValue::default()
            .with_protocol_type(text(self.protocol_type.as_deref().unwrap_or_default()))
            .with_generation(self.generation)
            .with_protocol(self.protocol.as_deref().map(text))
            .with_leader(self.leader.as_deref().map(text))
            .with_current_state_timestamp(self.state_since_ms.unwrap_or(-1))
            .with_members(members.collect());
        GroupRecord::Group { group: group_id.to_owned(), value: Some(value) }
    }

    /// The group as it is now, written out.
    pub(super) fn current_record(&self, group_id: &str) -> GroupRecord {
        self.record(group_id, |_, member| member.assignment.clone())
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self.state, State::Empty)
    }

    pub(super) fn has_pending_members(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn protocol_type(&self) -> Option<&str> {
        self.protocol_type.as_deref()
    }

    /// Kafka's name of the state, as tools show it.
    pub(super) fn state_name(&self) -> &'static str {
        match self.state {
            State::Empty => "Empty",
            State::PreparingRebalance { .. } => "PreparingRebalance",
            State::CompletingRebalance(_) => "CompletingRebalance",
            State::Stable(_) => "Stable",
        }
    }

    /// The group as DescribeGroups shows it. Only a stable one shows its protocol, metadata and assignments.
    pub(super) fn describe(&self, version: i16) -> DescribedGroup {
        let stable = matches!(self.state, State::Stable(_));
        let protocol = self.protocol.as_deref().filter(|_| stable);
        let members = self.members.iter().map(|(id, member)| {
            DescribedGroupMember::default()
                .with_member_id(text(id))
                // Named from version 4 on.
                .with_group_instance_id(member.instance_id.as_deref().filter(|_| version >= 4).map(text))
                .with_client_id(text(&member.client_id))
                .with_client_host(text(&member.client_host))
                .with_member_metadata(protocol.map(|name| member.metadata(name)).unwrap_or_default())
                .with_member_assignment(protocol.map(|_| member.assignment.clone()).unwrap_or_default())
        });
        DescribedGroup::default()
            .with_group_state(StrBytes::from_static_str(self.state_name()))
            .with_protocol_type(text(self.protocol_type().unwrap_or_default()))
            .with_protocol_data(text(protocol.unwrap_or_default()))
            .with_members(members.collect())
    }

    fn uses_consumer_protocol(&self) -> bool {
        self.protocol_type.as_deref() == Some(subscription::CONSUMER_PROTOCOL_TYPE)
    }

    /// Whether offsets of `topic` are in use. A consumer group whose subscription is unknown may read any topic.
    pub(super) fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.subscribed_topics {
            Some(topics) => topics.contains(topic),
            None => self.uses_consumer_protocol(),
        }
    }

    /// From when an offset's retention counts: `None` if it does not expire now.
    pub(super) fn retention_base_ms(&self, committed_at_ms: i64) -> Option<i64> {
        match (&self.protocol_type, &self.state) {
            (None, _) => Some(committed_at_ms),
            (Some(_), State::Empty) => Some(self.state_since_ms.unwrap_or(committed_at_ms)),
            // KIP-211: a stable consumer group lets go of topics it no longer reads.
            (Some(_), State::Stable(_))
                if self.uses_consumer_protocol() && self.subscribed_topics.is_some() =>
            {
                Some(committed_at_ms)
            }
            (Some(_), _) => None,
        }
    }

    /// Whether offsets may be deleted at all while the group is as it is.
    pub(super) fn check_offset_delete(&self) -> Result<(), ErrorCode> {
        match self.is_empty() || self.uses_consumer_protocol() {
            true => Ok(()),
            false => Err(ErrorCode::NonEmptyGroup),
        }
    }

    /// Whether a commit may be taken (`ClassicGroup.validateOffsetCommit`).
    pub(super) fn check_offset_commit(
        &self,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
    ) -> Result<(), ErrorCode> {
        if generation < 0 && self.is_empty() {
            // An admin client, or a consumer that assigns its partitions itself.
            return Ok(());
        }
        if generation < 0 && member_id.is_empty() && instance_id.is_none() {
            return Err(ErrorCode::UnknownMemberId);
        }
        self.check_member(member_id, instance_id)?;
        if generation != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        match self.state {
            State::CompletingRebalance(_) => Err(ErrorCode::RebalanceInProgress),
            _ => Ok(()),
        }
    }

    /// A commit proves that its member lives.
    pub(super) fn note_commit(&mut self, member_id: &str, now: Now) {
        if matches!(self.state, State::Stable(_) | State::PreparingRebalance { .. })
            && let Some(member) = self.members.get_mut(member_id)
        {
            member.reset_session(now);
        }
    }

    /// Whether the ids name a present member, and no other holds its instance id.
    fn check_member(&self, member_id: &str, instance_id: Option<&str>) -> Result<(), ErrorCode> {
        if let Some(instance_id) = instance_id {
            match self.static_members.get(instance_id) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(holder) if holder != member_id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        match self.members.contains_key(member_id) {
            true => Ok(()),
            false => Err(ErrorCode::UnknownMemberId),
        }
    }

    fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    fn awaiting_join_count(&self) -> usize {
        self.members.values().filter(|member| member.awaiting_join.is_some()).count()
    }

    fn has_all_members_joined(&self) -> bool {
        self.pending.is_empty() && self.members.values().all(|member| member.awaiting_join.is_some())
    }

    fn rebalance_timeout(&self) -> Duration {
        millis(self.members.values().map(|member| member.rebalance_timeout_ms).max().unwrap_or(0))
    }

    fn transition(&mut self, state: State, now: Now) {
        self.state = state;
        self.state_since_ms = Some(now.ms);
    }

    fn insert(&mut self, member_id: String, member: Member) {
        if let Some(instance_id) = &member.instance_id {
            self.static_members.insert(instance_id.clone(), member_id.clone());
        }
        self.pending.remove(&member_id);
        self.leader.get_or_insert_with(|| member_id.clone());
        self.members.insert(member_id, member);
    }

    /// Forgets a member, present or pending. Its parked calls are the caller's to answer.
    fn remove(&mut self, member_id: &str) -> Option<Member> {
        self.pending.remove(member_id);
        self.no_longer_pending_sync(member_id);
        let member = self.members.remove(member_id)?;
        if let Some(instance_id) = &member.instance_id {
            self.static_members.remove(instance_id);
        }
        if self.is_leader(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
        Some(member)
    }

    fn no_longer_pending_sync(&mut self, member_id: &str) {
        match &mut self.state {
            State::CompletingRebalance(pending) => {
                pending.members.remove(member_id);
            }
            State::Stable(Some(pending)) => {
                pending.members.remove(member_id);
                if pending.members.is_empty() {
                    self.state = State::Stable(None);
                }
            }
            _ => {}
        }
    }

    /// Whether a member with these protocols can be in the group together with those that are.
    fn supports(&self, request: &JoinGroupRequest) -> bool {
        if self.is_empty() {
            return !request.protocol_type.is_empty() && !request.protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(request.protocol_type.as_str())
            && request.protocols.iter().any(|protocol| self.all_members_support(&protocol.name))
    }

    fn all_members_support(&self, protocol: &str) -> bool {
        self.members.values().all(|member| member.protocols.iter().any(|(name, _)| name == protocol))
    }

    /// The vote: each member names the first of its protocols that all support, the most votes win. Equal votes go
    /// to what the leader prefers (Kafka leaves it to a hash map's order).
    fn select_protocol(&self) -> Option<String> {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let vote = member.protocols.iter().find(|(name, _)| self.all_members_support(name));
            if let Some((name, _)) = vote {
                *votes.entry(name).or_default() += 1;
            }
        }
        let leader = self.leader.as_ref().and_then(|leader| self.members.get(leader));
        let rank = |name: &str| leader?.protocols.iter().position(|(preferred, _)| preferred == name);
        let winner = votes.iter().max_by_key(|(name, count)| (**count, std::cmp::Reverse(rank(name))));
        winner.map(|(name, _)| (*name).to_owned())
    }

    fn read_subscribed_topics(&self) -> Option<BTreeSet<String>> {
        if !self.uses_consumer_protocol() {
            return None;
        }
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            topics.extend(subscription::topics(&member.metadata(protocol))?);
        }
        Some(topics)
    }
}

/// A copy of its own, so that a group does not keep whole request frames alive.
fn owned(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
