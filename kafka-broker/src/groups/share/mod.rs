//! Share groups as the group coordinator knows them (KIP-932): members, epochs and the target assignment.
//!
//! A member is told its assignment and has it from then on: several members may have a partition, so nobody waits for
//! anybody to give one up. A heartbeat changes a copy of the group by the records it would write; the records change the
//! group itself when they are in the log.

mod assignor;
pub(crate) mod record;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kafka_wire::messages::share_group_describe_response::{
    Assignment as DescribedAssignment, DescribedGroup, Member as DescribedMember,
    TopicPartitions as DescribedPartitions,
};
use kafka_wire::messages::share_group_heartbeat_response::{Assignment as AnswerAssignment, TopicPartitions};
use kafka_wire::messages::{GroupId, ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse, TopicName};
use kafka_wire::{ErrorCode, Uuid};

use super::{CallId, Caller, Decision, Now, Response};
use crate::api::text;
use crate::cluster::image::Image;
use crate::config::group::GroupSettings;
use record::{Assignment, Change, Current, GroupMetadata, Initialized, MemberMetadata, ShareGroupRecord};

/// The epoch with which a member joins.
const JOIN_EPOCH: i32 = 0;
/// The epoch with which it leaves.
const LEAVE_EPOCH: i32 = -1;
/// A removal that could not be put on record is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);
/// The only assignor of share groups.
const ASSIGNOR: &str = "simple";

/// Looks up a topic: its id and how many partitions it has.
pub(crate) type TopicLookup<'a> = dyn Fn(&str) -> Option<(Uuid, i32)> + 'a;

/// A topic's id and how many partitions it has, as the metadata says.
pub(crate) fn look_up(image: &Image, topic: &str) -> Option<(Uuid, i32)> {
    let topic = image.topic(topic)?;
    Some((topic.id, i32::try_from(topic.partitions.len()).ok()?))
}

/// A heartbeat with all that its answer depends on.
pub(crate) struct ShareHeartbeat<'a> {
    pub(crate) call: CallId,
    pub(crate) request: &'a ShareGroupHeartbeatRequest,
    pub(crate) caller: &'a Caller,
    pub(crate) settings: &'a GroupSettings,
    /// `group.share.max.size`.
    pub(crate) max_size: usize,
    pub(crate) topics: &'a TopicLookup<'a>,
    /// What the share coordinator was told of for this heartbeat.
    pub(crate) initialized: &'a Initialized,
}

/// The share groups of one partition of `__consumer_offsets`.
#[derive(Debug, Default)]
pub(crate) struct ShareGroups {
    groups: BTreeMap<String, ShareGroup>,
    /// When members are given up: not on record, as in Kafka.
    sessions: BTreeMap<(String, String), Instant>,
    deadlines: BTreeSet<(Instant, String, String)>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct ShareGroup {
    epoch: i32,
    topics_hash: i64,
    target_epoch: i32,
    members: BTreeMap<String, Member>,
    targets: BTreeMap<String, Assignment>,
    initialized: Initialized,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Member {
    metadata: MemberMetadata,
    current: Current,
}

impl ShareGroup {
    fn replay(&mut self, change: &Change) {
        match change {
            Change::Group(Some(metadata)) => {
                self.epoch = metadata.epoch;
                self.topics_hash = metadata.topics_hash;
            }
            Change::Group(None) => {}
            Change::Member { member, value: Some(metadata) } => {
                self.members.entry(member.clone()).or_default().metadata = metadata.clone();
            }
            Change::Member { member, value: None } => {
                self.members.remove(member);
            }
            Change::TargetEpoch(epoch) => self.target_epoch = epoch.unwrap_or(0),
            Change::Target { member, value: Some(assignment) } => {
                self.targets.insert(member.clone(), assignment.clone());
            }
            Change::Target { member, value: None } => {
                self.targets.remove(member);
            }
            Change::Current { member, value } => {
                if let Some(member) = self.members.get_mut(member) {
                    member.current = value.clone().unwrap_or_default();
                }
            }
            Change::Initialized(initialized) => self.initialized = initialized.clone().unwrap_or_default(),
        }
    }

    fn topics(&self) -> BTreeSet<&str> {
        self.members.values().flat_map(|member| &member.metadata.topics).map(String::as_str).collect()
    }

    /// What members may be given of a topic: what the share coordinator knows.
    fn partitions_of(&self, topic: &str, topics: &TopicLookup<'_>) -> Vec<(Uuid, i32)> {
        let Some((id, count)) = topics(topic) else { return Vec::new() };
        let Some((_, initialized)) = self.initialized.get(&id) else { return Vec::new() };
        (0..count).filter(|index| initialized.contains(index)).map(|index| (id, index)).collect()
    }
}

/// A copy of a group that changes as its records will change the group.
struct Draft<'a> {
    group_id: &'a str,
    group: ShareGroup,
    records: Vec<ShareGroupRecord>,
}

impl Draft<'_> {
    fn change(&mut self, change: Change) {
        self.group.replay(&change);
        self.records.push(ShareGroupRecord { group: self.group_id.to_owned(), change });
    }

    fn remove(&mut self, member: &str) {
        let member = || member.to_owned();
        self.change(Change::Current { member: member(), value: None });
        self.change(Change::Target { member: member(), value: None });
        self.change(Change::Member { member: member(), value: None });
    }

    /// Begins a new epoch and computes its target assignment.
    fn rebalance(&mut self, topics: &TopicLookup<'_>) {
        let epoch = self.group.epoch.saturating_add(1);
        self.change(Change::Group(Some(GroupMetadata {
            epoch,
            topics_hash: topics_hash(&self.group, topics),
        })));
        let subscriptions = self.group.members.iter().map(|(id, member)| {
            let names = member.metadata.topics.iter();
            (id.clone(), names.flat_map(|topic| self.group.partitions_of(topic, topics)).collect())
        });
        let targets = assignor::assign(&subscriptions.collect(), &self.group.targets);
        for (member, assignment) in targets {
            if self.group.targets.get(&member) != Some(&assignment) {
                self.change(Change::Target { member, value: Some(assignment) });
            }
        }
        self.change(Change::TargetEpoch(Some(epoch)));
    }
}

/// Changes whenever the topics that the group reads do.
fn topics_hash(group: &ShareGroup, topics: &TopicLookup<'_>) -> i64 {
    // FNV-1a: on record, so it must not change from one build to the next.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut mix = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for topic in group.topics() {
        let partitions = group.partitions_of(topic, topics);
        let Some((id, _)) = partitions.first() else { continue };
        mix(id.as_bytes());
        partitions.iter().for_each(|(_, index)| mix(&index.to_be_bytes()));
    }
    hash.cast_signed()
}

impl ShareGroups {
    /// Applies a record of the log, as it was appended or as it is read back.
    pub(crate) fn replay(&mut self, record: &ShareGroupRecord) {
        match &record.change {
            Change::Group(None) => {
                self.groups.remove(&record.group);
            }
            change => self.groups.entry(record.group.clone()).or_default().replay(change),
        }
        if let Change::Member { member, value: None } = &record.change {
            self.forget(&record.group, member);
        }
    }

    /// The whole log has been replayed: members have a session timeout from now on to be heard.
    pub(crate) fn loaded(&mut self, until: Instant) {
        let members: Vec<_> = self
            .groups
            .iter()
            .flat_map(|(group_id, group)| {
                group.members.keys().map(|member| (group_id.clone(), member.clone()))
            })
            .collect();
        for (group_id, member) in members {
            self.heard_from(&group_id, &member, until);
        }
    }

    pub(crate) fn contains(&self, group_id: &str) -> bool {
        self.groups.contains_key(group_id)
    }

    /// Whether it has members; `None`: there is no such group.
    pub(crate) fn has_members(&self, group_id: &str) -> Option<bool> {
        self.groups.get(group_id).map(|group| !group.members.is_empty())
    }

    /// Ids and states of all groups.
    pub(crate) fn list(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.groups.iter().map(|(group_id, group)| (group_id.as_str(), state_name(group)))
    }

    /// The epoch of a group, and the topics that the share coordinator knows for it.
    pub(crate) fn initialized(&self, group_id: &str) -> Option<(i32, &Initialized)> {
        self.groups.get(group_id).map(|group| (group.epoch, &group.initialized))
    }

    /// The partitions that a heartbeat makes the group read and that the share coordinator does not know yet.
    pub(crate) fn uninitialized(
        &self,
        request: &ShareGroupHeartbeatRequest,
        topics: &TopicLookup<'_>,
    ) -> Initialized {
        let empty = ShareGroup::default();
        let group = self.groups.get(request.group_id.as_str()).unwrap_or(&empty);
        let asked = request.subscribed_topic_names.iter().flatten().map(|topic| topic.as_str());
        let names: BTreeSet<&str> = group.topics().into_iter().chain(asked).collect();
        let mut missing = Initialized::new();
        for name in names {
            let Some((id, count)) = topics(name) else { continue };
            let known = group.initialized.get(&id).map(|(_, partitions)| partitions);
            let unknown: BTreeSet<i32> =
                (0..count).filter(|index| known.is_none_or(|known| !known.contains(index))).collect();
            if !unknown.is_empty() {
                missing.insert(id, (name.to_owned(), unknown));
            }
        }
        missing
    }

    /// ShareGroupHeartbeat: joins, stays or leaves.
    pub(crate) fn heartbeat(&mut self, heartbeat: &ShareHeartbeat<'_>, now: Now, out: &mut Decision) {
        let answered = match check(heartbeat.request) {
            Ok(()) if heartbeat.request.member_epoch == LEAVE_EPOCH => self.leave(heartbeat),
            Ok(()) => self.stay(heartbeat, now),
            Err(refused) => Err(refused),
        };
        match answered {
            Ok((response, records)) => {
                out.records.extend(records.into_iter().map(super::record::GroupRecord::Share));
                out.answer_when_written(heartbeat.call, Response::ShareGroupHeartbeat(response));
            }
            Err((code, message)) => {
                let response = ShareGroupHeartbeatResponse::default()
                    .with_error_code(code.code())
                    .with_error_message(Some(text(&message)));
                out.answer(heartbeat.call, Response::ShareGroupHeartbeat(response));
            }
        }
    }

    fn stay(&mut self, heartbeat: &ShareHeartbeat<'_>, now: Now) -> Outcome {
        let ShareHeartbeat { request, caller, settings, topics, .. } = *heartbeat;
        let (group_id, member_id) = (request.group_id.as_str(), request.member_id.as_str());
        let known = self.groups.get(group_id);
        let member = known.and_then(|group| group.members.get(member_id));
        if request.member_epoch != JOIN_EPOCH {
            check_epoch(group_id, member_id, member, request.member_epoch)?;
        } else if member.is_none() && known.is_some_and(|group| group.members.len() >= heartbeat.max_size) {
            return refuse(
                ErrorCode::GroupMaxSizeReached,
                format!(
                    "The share group has reached its maximum capacity of {} members.",
                    heartbeat.max_size
                ),
            );
        }
        let mut metadata = member.map(|member| member.metadata.clone()).unwrap_or_default();
        metadata.client_id.clone_from(&caller.client_id);
        metadata.client_host.clone_from(&caller.client_host);
        if let Some(rack_id) = &request.rack_id {
            metadata.rack_id = Some(rack_id.to_string());
        }
        if let Some(names) = &request.subscribed_topic_names {
            let names: BTreeSet<String> = names.iter().map(|topic| topic.to_string()).collect();
            metadata.topics = names.into_iter().collect();
        }
        let mut draft = Draft { group_id, group: known.cloned().unwrap_or_default(), records: Vec::new() };
        let subscribes_anew = member.is_none_or(|member| member.metadata.topics != metadata.topics);
        if member.is_none_or(|member| member.metadata != metadata) {
            draft.change(Change::Member { member: member_id.to_owned(), value: Some(metadata) });
        }
        if !heartbeat.initialized.is_empty() {
            let mut all = draft.group.initialized.clone();
            for (id, (name, partitions)) in heartbeat.initialized {
                all.entry(*id).or_insert_with(|| (name.clone(), BTreeSet::new())).1.extend(partitions);
            }
            draft.change(Change::Initialized(Some(all)));
        }
        if subscribes_anew || draft.group.topics_hash != topics_hash(&draft.group, topics) {
            draft.rebalance(topics);
        }
        let epoch = draft.group.target_epoch;
        let assigned = draft.group.targets.get(member_id).cloned().unwrap_or_default();
        let had = draft.group.members.get(member_id).map(|member| member.current.clone()).unwrap_or_default();
        if had.epoch != epoch || had.assigned != assigned {
            let current = Current { epoch, previous_epoch: had.epoch, assigned: assigned.clone() };
            draft.change(Change::Current { member: member_id.to_owned(), value: Some(current) });
        }
        let tells = request.member_epoch == JOIN_EPOCH
            || request.subscribed_topic_names.is_some()
            || had.assigned != assigned
            // The answer to the heartbeat before may have been lost.
            || request.member_epoch != had.epoch;
        let response = ShareGroupHeartbeatResponse::default()
            .with_member_id(Some(text(member_id)))
            .with_member_epoch(epoch)
            .with_heartbeat_interval_ms(settings.heartbeat_interval_ms)
            .with_assignment(tells.then(|| answer_assignment(&assigned)));
        let until = now.at + settings.session_timeout;
        self.heard_from(group_id, member_id, until);
        Ok((response, draft.records))
    }

    fn leave(&mut self, heartbeat: &ShareHeartbeat<'_>) -> Outcome {
        let (group_id, member_id) =
            (heartbeat.request.group_id.as_str(), heartbeat.request.member_id.as_str());
        let group = self.groups.get(group_id).filter(|group| group.members.contains_key(member_id));
        let Some(group) = group else {
            return refuse(
                ErrorCode::UnknownMemberId,
                format!("Member {member_id} is not a member of group {group_id}."),
            );
        };
        let mut draft = Draft { group_id, group: group.clone(), records: Vec::new() };
        draft.remove(member_id);
        draft.rebalance(heartbeat.topics);
        let response = ShareGroupHeartbeatResponse::default()
            .with_member_id(Some(text(member_id)))
            .with_member_epoch(LEAVE_EPOCH);
        Ok((response, draft.records))
    }

    /// The first member whose session has ended is removed, if there is one. The others learn of it by their next
    /// heartbeats: the removal begins a new epoch.
    pub(crate) fn expire(&mut self, now: Now) -> Option<Decision> {
        let (until, group_id, member_id) = self.deadlines.first().cloned()?;
        if until > now.at {
            return None;
        }
        // To be tried again if it cannot be put on record; if it is, its replay ends the session.
        self.heard_from(&group_id, &member_id, now.at + RETRY);
        let mut out = Decision::default();
        if let Some(group) = self.groups.get(&group_id).filter(|group| group.members.contains_key(&member_id))
        {
            let mut draft = Draft { group_id: &group_id, group: group.clone(), records: Vec::new() };
            draft.remove(&member_id);
            // With the hash of no topics: the next heartbeat sees that it does not fit and assigns anew.
            let epoch = draft.group.epoch.saturating_add(1);
            draft.change(Change::Group(Some(GroupMetadata { epoch, topics_hash: 0 })));
            out.records.extend(draft.records.into_iter().map(super::record::GroupRecord::Share));
        }
        Some(out)
    }

    /// When the first session ends.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(until, ..)| *until)
    }

    /// The records that make an empty group go away.
    pub(crate) fn tombstones(&self, group_id: &str) -> Vec<ShareGroupRecord> {
        let changes = [Change::Initialized(None), Change::TargetEpoch(None), Change::Group(None)];
        changes.map(|change| ShareGroupRecord { group: group_id.to_owned(), change }).into()
    }

    /// The record after which the topics that the share coordinator knows are those of `change`.
    pub(crate) fn with_initialized(
        &self,
        group_id: &str,
        change: impl FnOnce(&mut Initialized),
    ) -> ShareGroupRecord {
        let mut initialized =
            self.groups.get(group_id).map(|group| group.initialized.clone()).unwrap_or_default();
        change(&mut initialized);
        ShareGroupRecord { group: group_id.to_owned(), change: Change::Initialized(Some(initialized)) }
    }

    /// The record with which a group begins that has no member: one whose offsets are set before anybody reads.
    pub(crate) fn creation(group_id: &str) -> ShareGroupRecord {
        let change = Change::Group(Some(GroupMetadata { epoch: 0, topics_hash: 0 }));
        ShareGroupRecord { group: group_id.to_owned(), change }
    }

    /// ShareGroupDescribe, for one group.
    pub(crate) fn describe(
        &self,
        group_id: &GroupId,
        topic_name: impl Fn(Uuid) -> Option<String>,
    ) -> Option<DescribedGroup> {
        let group = self.groups.get(group_id.as_str())?;
        let members = group.members.iter().map(|(member_id, member)| {
            let partitions = member.current.assigned.iter().filter_map(|(id, indexes)| {
                Some(
                    DescribedPartitions::default()
                        .with_topic_id(*id)
                        .with_topic_name(TopicName(text(&topic_name(*id)?)))
                        .with_partitions(indexes.iter().copied().collect()),
                )
            });
            DescribedMember::default()
                .with_member_id(text(member_id))
                .with_rack_id(member.metadata.rack_id.as_deref().map(text))
                .with_member_epoch(member.current.epoch)
                .with_client_id(text(&member.metadata.client_id))
                .with_client_host(text(&member.metadata.client_host))
                .with_subscribed_topic_names(
                    member.metadata.topics.iter().map(|topic| TopicName(text(topic))).collect(),
                )
                .with_assignment(DescribedAssignment::default().with_topic_partitions(partitions.collect()))
        });
        Some(
            DescribedGroup::default()
                .with_group_id(group_id.clone())
                .with_group_state(text(state_name(group)))
                .with_group_epoch(group.epoch)
                .with_assignment_epoch(group.target_epoch)
                .with_assignor_name(text(ASSIGNOR))
                .with_members(members.collect()),
        )
    }

    fn heard_from(&mut self, group_id: &str, member_id: &str, until: Instant) {
        self.forget(group_id, member_id);
        self.sessions.insert((group_id.to_owned(), member_id.to_owned()), until);
        self.deadlines.insert((until, group_id.to_owned(), member_id.to_owned()));
    }

    fn forget(&mut self, group_id: &str, member_id: &str) {
        let member = (group_id.to_owned(), member_id.to_owned());
        if let Some(until) = self.sessions.remove(&member) {
            self.deadlines.remove(&(until, member.0, member.1));
        }
    }
}

type Outcome = Result<(ShareGroupHeartbeatResponse, Vec<ShareGroupRecord>), (ErrorCode, String)>;

fn refuse<T>(code: ErrorCode, message: impl Into<String>) -> Result<T, (ErrorCode, String)> {
    Err((code, message.into()))
}

fn state_name(group: &ShareGroup) -> &'static str {
    if group.members.is_empty() { "Empty" } else { "Stable" }
}

/// What is wrong with a heartbeat whatever the group is like.
fn check(request: &ShareGroupHeartbeatRequest) -> Result<(), (ErrorCode, String)> {
    let invalid = |message: &str| refuse(ErrorCode::InvalidRequest, message);
    if request.group_id.is_empty() {
        return invalid("GroupId can't be empty.");
    }
    if request.member_id.is_empty() {
        return invalid("MemberId can't be empty.");
    }
    if request.member_epoch < LEAVE_EPOCH {
        return invalid("MemberEpoch is invalid.");
    }
    if request.rack_id.as_ref().is_some_and(|rack_id| rack_id.is_empty()) {
        return invalid("RackId can't be empty.");
    }
    if request.member_epoch == JOIN_EPOCH && request.subscribed_topic_names.as_ref().is_none_or(Vec::is_empty)
    {
        return invalid("SubscribedTopicNames must be set in first request.");
    }
    Ok(())
}

/// A member may be one epoch behind: the answer that told it may have been lost (`throwIfShareGroupMemberEpochIsInvalid`).
fn check_epoch(
    group_id: &str,
    member_id: &str,
    member: Option<&Member>,
    epoch: i32,
) -> Result<(), (ErrorCode, String)> {
    let Some(member) = member else {
        return refuse(
            ErrorCode::UnknownMemberId,
            format!("Member {member_id} is not a member of group {group_id}."),
        );
    };
    let Current { epoch: current, previous_epoch, .. } = member.current;
    if epoch == current || epoch == previous_epoch {
        return Ok(());
    }
    let kind = if epoch > current { "greater" } else { "smaller" };
    refuse(
        ErrorCode::FencedMemberEpoch,
        format!(
            "The share group member has a {kind} member epoch ({epoch}) than the one known by the group coordinator \
             ({current}). The member must abandon all its partitions and rejoin."
        ),
    )
}

fn answer_assignment(assigned: &Assignment) -> AnswerAssignment {
    let topics = assigned.iter().map(|(topic_id, indexes)| {
        TopicPartitions::default().with_topic_id(*topic_id).with_partitions(indexes.iter().copied().collect())
    });
    AnswerAssignment::default().with_topic_partitions(topics.collect())
}
