//! The group coordinator: who is in a group, what each member reads, and how far the group has read.
//!
//! A [`Coordinator`] is the state of one partition of `__consumer_offsets` and decides without clock, socket or log: a
//! call and [`Now`] in, a [`Decision`] out. Its records are appended, then [`Coordinator::finish`] replays them and says
//! which calls are answered. The same replay rebuilds the state after a restart (Kafka's `CoordinatorRuntime`).
//! [`service`] is the shell around it.
//!
//! What a rebalance is waiting for (parked joins and syncs, sessions) is not on record, in Kafka neither: after a restart
//! a group is Empty or Stable, and its members are heard from or expire.
//!
//! Classic groups and those of the consumer protocol (KIP-848) are here; streams groups (KIP-1071) are
//! further variants of [`Group`], with their records in [`record`].

mod admin;
pub(crate) mod assignor;
pub(crate) mod classic;
pub(crate) mod consumer;
mod consumers;
#[cfg(test)]
mod model;
mod offsets;
pub(crate) mod record;
pub(crate) mod service;
pub(crate) mod share;
pub(crate) mod shares;
#[cfg(test)]
mod testing;
pub(crate) mod transactions;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_wire::ErrorCode;
use kafka_wire::messages::leave_group_request::MemberIdentity;
use kafka_wire::messages::{
    ConsumerGroupHeartbeatResponse, DeleteGroupsResponse, HeartbeatRequest, HeartbeatResponse,
    JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse, OffsetCommitResponse, OffsetDeleteResponse,
    ShareGroupHeartbeatResponse, SyncGroupRequest, SyncGroupResponse,
};

use classic::{ClassicGroup, Join};
use consumer::{ClusterView, ConsumerGroup, ConsumerGroupConfig, Edit};
use offsets::Offsets;
pub(crate) use offsets::{Commit, commit_refusal};
use record::GroupRecord;
use share::ShareGroups;
use transactions::PendingOffsets;
pub(crate) use transactions::TxnProducer;

/// The time of a decision: monotonic for deadlines, and milliseconds since 1970 for records.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Now {
    pub(crate) at: Instant,
    pub(crate) ms: i64,
}

/// Names a call whose answer may have to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CallId(pub(crate) u64);

/// Who sent a request, as groups remember and show it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caller {
    pub(crate) client_id: String,
    /// As Kafka prints an address: `/127.0.0.1`.
    pub(crate) client_host: String,
}

/// The limits that groups work within, by Kafka's keys.
#[derive(Debug, Clone)]
pub(crate) struct GroupConfig {
    /// `group.initial.rebalance.delay.ms`.
    pub(crate) initial_rebalance_delay: Duration,
    /// `group.min.session.timeout.ms`.
    pub(crate) min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub(crate) max_session_timeout_ms: i32,
    /// `group.max.size`.
    pub(crate) max_size: usize,
    /// `offset.metadata.max.bytes`.
    pub(crate) offset_metadata_max_bytes: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub(crate) offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub(crate) offsets_check_interval: Duration,
    pub(crate) consumer: ConsumerGroupConfig,
    /// `group.share.session.timeout.ms`.
    pub(crate) share_session_timeout: Duration,
}

/// What a step decided.
#[derive(Debug, Default)]
#[must_use = "the records have to be appended and the decision finished"]
pub(crate) struct Decision {
    /// To be appended in one batch.
    pub(crate) records: Vec<GroupRecord>,
    /// The records are of this producer's transaction: they count once that is committed.
    pub(crate) producer: Option<TxnProducer>,
    /// Good whatever becomes of the records.
    answers: Vec<Answer>,
    /// What waits for the append.
    after: Vec<After>,
    /// The records are replayed already; this is what to go back to if they are not written.
    undo: Option<Undo>,
}

/// A group as it was before a step; `None`: it was not there.
#[derive(Debug)]
struct Undo {
    group: String,
    before: Option<Group>,
}

/// An answer to a call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) call: CallId,
    pub(crate) response: Response,
}

/// The responses that a coordinator gives to calls that may change its state.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Response {
    JoinGroup(JoinGroupResponse),
    SyncGroup(SyncGroupResponse),
    Heartbeat(HeartbeatResponse),
    LeaveGroup(LeaveGroupResponse),
    OffsetCommit(OffsetCommitResponse),
    OffsetDelete(OffsetDeleteResponse),
    DeleteGroups(DeleteGroupsResponse),
    ConsumerGroupHeartbeat(ConsumerGroupHeartbeatResponse),
    ShareGroupHeartbeat(ShareGroupHeartbeatResponse),
    /// An answer that the handler makes up by itself.
    Done(Result<(), ErrorCode>),
}

/// What happens once the fate of a decision's records is known.
#[derive(Debug)]
enum After {
    /// Answer as it is, or with the error.
    Answer(Answer),
    /// A group that could not be put on record did not come to be.
    Created {
        group: String,
    },
    Assigned {
        group: String,
        generation: i32,
        assignments: BTreeMap<String, Bytes>,
    },
    StaticReplaced(StaticReplacement),
}

/// A static member whose new id is being written.
#[derive(Debug)]
struct StaticReplacement {
    group: String,
    old_id: String,
    new_id: String,
    old_leader: Option<String>,
    restore: classic::Restore,
    /// The client knows how to be a leader that does not assign.
    skip_assignment: bool,
}

impl Decision {
    fn answer(&mut self, call: CallId, response: Response) {
        self.answers.push(Answer { call, response });
    }

    fn answer_when_written(&mut self, call: CallId, response: Response) {
        self.after.push(After::Answer(Answer { call, response }));
    }
}

/// A group, by its protocol.
#[derive(Debug)]
enum Group {
    Classic(ClassicGroup),
    Consumer(ConsumerGroup),
}

impl Group {
    fn is_empty(&self) -> bool {
        match self {
            Self::Classic(group) => group.is_empty(),
            Self::Consumer(group) => group.is_empty(),
        }
    }

    /// Whether nobody is in the group or about to be.
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Classic(group) => group.is_empty() && !group.has_pending_members(),
            Self::Consumer(group) => group.is_empty(),
        }
    }

    fn is_subscribed_to(&self, topic: &str) -> bool {
        match self {
            Self::Classic(group) => group.is_subscribed_to(topic),
            Self::Consumer(group) => group.is_subscribed_to(topic),
        }
    }

    /// From when an offset's retention counts: `None` if it does not expire now.
    fn retention_base_ms(&self, committed_at_ms: i64) -> Option<i64> {
        match self {
            Self::Classic(group) => group.retention_base_ms(committed_at_ms),
            // As long as a topic is read its offsets are kept, which the caller looks at.
            Self::Consumer(_) => Some(committed_at_ms),
        }
    }

    /// What makes an empty group be forgotten.
    fn tombstones(&self, group_id: &str) -> Vec<GroupRecord> {
        match self {
            Self::Classic(_) => vec![GroupRecord::Group { group: group_id.to_owned(), value: None }],
            Self::Consumer(group) => group.tombstones(group_id),
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        match self {
            Self::Classic(group) => group.next_deadline(),
            Self::Consumer(group) => group.next_deadline(),
        }
    }
}

/// The groups of one partition of `__consumer_offsets`.
#[derive(Debug)]
pub(crate) struct Coordinator {
    config: GroupConfig,
    groups: BTreeMap<String, Group>,
    /// Share groups have a file and deadlines of their own; a group's id is only in one of both maps.
    shares: ShareGroups,
    offsets: Offsets,
    pending: PendingOffsets,
    /// Hints when to look at a group; a group's own deadlines decide. At most one live hint for each deadline moved
    /// forward, so that a heartbeat, which moves one back, costs nothing here.
    wake_ups: BinaryHeap<Reverse<(Instant, String)>>,
    /// The earliest hint of each group.
    hinted: BTreeMap<String, Instant>,
    offsets_check_at: Instant,
}

impl Coordinator {
    pub(crate) fn new(config: GroupConfig, now: Now) -> Self {
        let offsets_check_at = now.at + config.offsets_check_interval;
        Self {
            config,
            groups: BTreeMap::new(),
            shares: ShareGroups::default(),
            offsets: Offsets::default(),
            pending: PendingOffsets::default(),
            wake_ups: BinaryHeap::new(),
            hinted: BTreeMap::new(),
            offsets_check_at,
        }
    }

    /// Applies a record of the log, as it was appended or as it is read back.
    pub(crate) fn replay(&mut self, record: &GroupRecord, now: Now) {
        match record {
            GroupRecord::Offset { group, topic, partition, value } => {
                self.replay_offset(group, topic, *partition, value.clone(), now);
            }
            GroupRecord::Group { group, value: None } => {
                if let Some(Group::Classic(_)) = self.groups.get(group) {
                    self.groups.remove(group);
                }
            }
            GroupRecord::Consumer { group, record } => self.replay_consumer(group, record),
            GroupRecord::Share(record) => self.shares.replay(record),
            GroupRecord::Group { group, value: Some(value) } => {
                self.groups.insert(group.clone(), Group::Classic(ClassicGroup::replay(value, now)));
                self.hint(group);
            }
        }
    }

    /// The whole log has been replayed: members have a session timeout from now on to be heard.
    pub(crate) fn loaded(&mut self, now: Now) -> Decision {
        let mut out = Decision::default();
        self.shares.loaded(now.at + self.config.share_session_timeout);
        let group_ids: Vec<String> = self.groups.keys().cloned().collect();
        for group_id in group_ids {
            if let Some(Group::Consumer(group)) = self.groups.get_mut(&group_id) {
                group.loaded(&self.config, now);
                self.hint(&group_id);
            }
            self.step(&group_id, now, &mut out, |group, cx| group.loaded(cx));
        }
        out
    }

    /// JoinGroup.
    pub(crate) fn join(&mut self, join: Join<'_>, view: ClusterView<'_>, now: Now) -> Decision {
        let mut out = Decision::default();
        let (request, group_id) = (join.request, join.request.group_id.as_str());
        let timeouts = self.config.min_session_timeout_ms..=self.config.max_session_timeout_ms;
        let refused = if group_id.is_empty() {
            Some(ErrorCode::InvalidGroupId)
        } else if !timeouts.contains(&request.session_timeout_ms) {
            Some(ErrorCode::InvalidSessionTimeout)
        } else if !request.member_id.is_empty() && !self.groups.contains_key(group_id) {
            Some(ErrorCode::UnknownMemberId)
        } else if self.shares.contains(group_id) {
            Some(ErrorCode::InconsistentGroupProtocol)
        } else {
            None
        };
        if let Some(error) = refused {
            out.answer(join.call, Join::refusal(&request.member_id, error));
            return out;
        }
        let tombstones = match self.groups.get(group_id) {
            Some(Group::Consumer(group)) if group.is_empty() => Some(group.tombstones(group_id)),
            Some(Group::Consumer(_)) => {
                self.join_consumers(&join, view, &mut out, now);
                return out;
            }
            Some(Group::Classic(_)) => None,
            None => Some(Vec::new()),
        };
        let Some(tombstones) = tombstones else {
            self.step(group_id, now, &mut out, |group, cx| group.join(join, cx));
            return out;
        };
        // A new group, or one that takes the place of an empty consumer group.
        let before = self.groups.insert(group_id.to_owned(), Group::Classic(ClassicGroup::new(now)));
        self.step(group_id, now, &mut out, |group, cx| group.join(join, cx));
        if self.groups.get(group_id).is_some_and(Group::is_abandoned) {
            // Refused: no group came of it.
            self.groups.remove(group_id);
            self.groups.extend(before.map(|before| (group_id.to_owned(), before)));
        } else if out.records.is_empty() {
            out.records.extend(tombstones);
            out.records.push(ClassicGroup::new(now).current_record(group_id));
            out.after.push(After::Created { group: group_id.to_owned() });
        }
        out
    }

    /// SyncGroup.
    pub(crate) fn sync(
        &mut self,
        call: CallId,
        request: &SyncGroupRequest,
        view: ClusterView<'_>,
        now: Now,
    ) -> Decision {
        let mut out = Decision::default();
        let group_id = request.group_id.as_str();
        if group_id.is_empty() {
            out.answer(call, classic::sync_refusal(ErrorCode::InvalidGroupId));
            return out;
        }
        let synced =
            self.edit_consumers(group_id, &mut out, now, |edit| edit.classic_sync(request, view.image));
        if let Some(synced) = synced {
            let response = synced.map(|assignment| {
                let response = SyncGroupResponse::default()
                    .with_protocol_type(request.protocol_type.clone())
                    .with_protocol_name(request.protocol_name.clone());
                Response::SyncGroup(response.with_assignment(assignment))
            });
            out.answer(call, response.unwrap_or_else(classic::sync_refusal));
        } else if !self.step(group_id, now, &mut out, |group, cx| group.sync(call, request, cx)) {
            out.answer(call, classic::sync_refusal(ErrorCode::UnknownMemberId));
        }
        out
    }

    /// Heartbeat.
    pub(crate) fn heartbeat(&mut self, call: CallId, request: &HeartbeatRequest, now: Now) -> Decision {
        let mut out = Decision::default();
        let group_id = request.group_id.as_str();
        let mut heard = Err(ErrorCode::UnknownMemberId);
        if group_id.is_empty() {
            heard = Err(ErrorCode::InvalidGroupId);
        } else if let Some(of_consumers) =
            self.edit_consumers(group_id, &mut out, now, |edit| edit.classic_heartbeat(request))
        {
            heard = of_consumers;
        } else {
            self.step(group_id, now, &mut out, |group, cx| {
                heard = group.heartbeat(request, cx);
            });
        }
        let error = heard.err().unwrap_or(ErrorCode::None);
        out.answer(call, Response::Heartbeat(HeartbeatResponse::default().with_error_code(error.code())));
        out
    }

    /// LeaveGroup. Before version 3 the caller makes a list of the one member.
    pub(crate) fn leave(&mut self, call: CallId, request: &LeaveGroupRequest, now: Now) -> Decision {
        let mut out = Decision::default();
        let group_id = request.group_id.as_str();
        let mut response = LeaveGroupResponse::default();
        if group_id.is_empty() {
            response.error_code = ErrorCode::InvalidGroupId.code();
        } else {
            let leave_one = |edit: &mut Edit<'_>, member: &MemberIdentity| {
                classic::leave_response(member, edit.classic_leave(member))
            };
            let mut members = self.edit_consumers(group_id, &mut out, now, |edit| {
                request.members.iter().map(|member| leave_one(edit, member)).collect()
            });
            self.step(group_id, now, &mut out, |group, cx| {
                // Not for a group that became a classic one by this very request.
                members.get_or_insert_with(|| group.leave(&request.members, cx));
            });
            response.members = members.unwrap_or_else(|| classic::leave_refusals(&request.members));
        }
        out.answer_when_written(call, Response::LeaveGroup(response));
        out
    }

    /// The first thing that is due by now, if anything is. To be asked until there is nothing more.
    pub(crate) fn expire(&mut self, now: Now) -> Option<Decision> {
        while let Some(Reverse((at, group_id))) = self.wake_ups.peek().cloned() {
            if at > now.at {
                break;
            }
            let mut out = Decision::default();
            let mut expired = false;
            match self.edit_consumers(&group_id, &mut out, now, |edit| edit.expire()) {
                Some(done) => expired = done,
                None => {
                    self.step(&group_id, now, &mut out, |group, cx| expired = group.expire(cx));
                }
            }
            if expired {
                return Some(out);
            }
            self.wake_ups.pop();
            if self.hinted.get(&group_id) == Some(&at) {
                self.hinted.remove(&group_id);
                self.hint(&group_id);
            }
        }
        if let Some(expired) = self.shares.expire(now) {
            return Some(expired);
        }
        if self.offsets_check_at <= now.at {
            self.offsets_check_at = now.at + self.config.offsets_check_interval.max(Duration::from_millis(1));
            return Some(self.expire_offsets(now));
        }
        None
    }

    /// When [`expire`](Self::expire) is to be asked again.
    pub(crate) fn next_wake_up(&self) -> Instant {
        let group = self.wake_ups.peek().map(|Reverse((at, _))| *at);
        let deadlines = [Some(self.offsets_check_at), group, self.shares.next_deadline()];
        deadlines.into_iter().flatten().min().unwrap_or(self.offsets_check_at)
    }

    /// Applies the records of a decision if they are `written`, and says which calls to answer.
    pub(crate) fn finish(
        &mut self,
        decision: Decision,
        written: Result<(), ErrorCode>,
        now: Now,
    ) -> Vec<Answer> {
        let Decision { records, producer, answers, after, undo } = decision;
        let written = written.map_err(append_error);
        if let Some(Undo { group, before }) = undo {
            match (written, before) {
                (Ok(()), _) => {}
                (Err(_), Some(mut before)) => {
                    if let Group::Consumer(group) = &mut before {
                        group.postpone_timers(now);
                    }
                    self.groups.insert(group.clone(), before);
                    self.hint(&group);
                }
                (Err(_), None) => {
                    self.groups.remove(&group);
                }
            }
        } else if let Some(producer) = producer {
            let written = records.iter().filter(|_| written.is_ok());
            written.for_each(|record| self.replay_pending(producer.producer_id, record));
        } else if written.is_ok() {
            for record in &records {
                match record {
                    // A living group is ahead of its record: it knows parked calls, and protocols not chosen.
                    GroupRecord::Group { group, value: Some(_) } if self.groups.contains_key(group) => {}
                    record => self.replay(record, now),
                }
            }
        }
        let mut out = Decision { answers, ..Decision::default() };
        for after in after {
            match after {
                After::Answer(answer) => out.answers.push(answer.with_outcome(written)),
                After::Created { group } => {
                    if let Err(error) = written
                        && let Some(Group::Classic(mut group)) = self.groups.remove(&group)
                    {
                        group.refuse_all(error, &mut out);
                    }
                }
                After::Assigned { group, generation, assignments } => {
                    self.step(&group, now, &mut out, |group, cx| {
                        group.assigned(generation, assignments, written, cx);
                    });
                }
                After::StaticReplaced(replaced) => {
                    let group = replaced.group.clone();
                    self.step(&group, now, &mut out, |group, cx| {
                        group.static_replaced(replaced, written, cx);
                    });
                }
            }
        }
        out.answers
    }

    /// Runs a step of a classic group and notes its next deadline. False if there is no such group.
    fn step(
        &mut self,
        group_id: &str,
        now: Now,
        out: &mut Decision,
        step: impl FnOnce(&mut ClassicGroup, &mut classic::Cx<'_>),
    ) -> bool {
        let Some(Group::Classic(group)) = self.groups.get_mut(group_id) else { return false };
        step(group, &mut classic::Cx { group_id, config: &self.config, now, out });
        self.hint(group_id);
        true
    }

    /// Makes sure that the group is looked at when it is due.
    fn hint(&mut self, group_id: &str) {
        let Some(deadline) = self.groups.get(group_id).and_then(Group::next_deadline) else { return };
        if self.hinted.get(group_id).is_none_or(|hinted| deadline < *hinted) {
            self.hinted.insert(group_id.to_owned(), deadline);
            self.wake_ups.push(Reverse((deadline, group_id.to_owned())));
        }
    }
}

impl Answer {
    /// The answer if all went well, or the same one with an error.
    fn with_outcome(mut self, written: Result<(), ErrorCode>) -> Self {
        let Err(error) = written else { return self };
        let code = error.code();
        match &mut self.response {
            Response::JoinGroup(response) => response.error_code = code,
            Response::SyncGroup(response) => response.error_code = code,
            Response::Heartbeat(response) => response.error_code = code,
            Response::LeaveGroup(response) => {
                response.error_code = code;
                response.members.clear();
            }
            Response::OffsetCommit(response) => {
                for partition in response.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
                    partition.error_code = code;
                }
            }
            Response::OffsetDelete(response) => {
                response.error_code = code;
                response.topics.clear();
            }
            Response::ConsumerGroupHeartbeat(response) => {
                *response = ConsumerGroupHeartbeatResponse::default().with_error_code(code);
            }
            Response::ShareGroupHeartbeat(response) => {
                *response = ShareGroupHeartbeatResponse::default().with_error_code(code);
            }
            Response::Done(result) => *result = Err(error),
            Response::DeleteGroups(response) => {
                for result in &mut response.results {
                    result.error_code = code;
                }
            }
        }
        self
    }
}

/// What a member is told when the log refuses a record (`GroupMetadataManager.appendGroupMetadataErrorToResponseError`).
fn append_error(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::UnknownTopicOrPartition | ErrorCode::NotEnoughReplicas | ErrorCode::RequestTimedOut => {
            ErrorCode::CoordinatorNotAvailable
        }
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge | ErrorCode::InvalidFetchSize => {
            ErrorCode::UnknownServerError
        }
        other => other,
    }
}

/// Which partition of `__consumer_offsets` holds a group: `Utils.abs(groupId.hashCode()) % partitions`.
pub(crate) fn partition_for(group_id: &str, partitions: i32) -> i32 {
    let hash =
        group_id.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    // Kafka's abs of the smallest integer is 0.
    let hash = if hash == i32::MIN { 0 } else { hash.abs() };
    hash % partitions.max(1)
}
