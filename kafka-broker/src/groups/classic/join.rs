//! JoinGroup, and the rebalance from its first join to the generation that all members agree on.

use std::time::Duration;

use bytes::Bytes;
use kafka_wire::messages::join_group_response::JoinGroupResponseMember;
use kafka_wire::messages::{JoinGroupRequest, JoinGroupResponse};
use kafka_wire::{ErrorCode, Uuid};

use super::super::record::text;
use super::super::{After, CallId, Caller, Decision, Response, StaticReplacement};
use super::{
    ClassicGroup, Cx, InitialDelay, MAX_PENDING_MEMBERS, Member, NEW_MEMBER_JOIN_TIMEOUT, PendingSync, State,
    millis, owned,
};

/// From this version on a member must come back with the id it is given (KIP-394).
const MEMBER_ID_REQUIRED_VERSION: i16 = 4;
/// From this version on a static leader that comes back is told to skip the assignment (KIP-814).
const SKIP_ASSIGNMENT_VERSION: i16 = 9;

/// The most protocols that a member may offer. Clients have one for each assignor; Kafka has no bound.
const MAX_PROTOCOLS: usize = 100;
/// A rebalance without joined members is not tried again sooner, even when the members' own timeout is zero.
const STATIC_MEMBERS_RETRY_MIN: Duration = Duration::from_secs(1);

/// One JoinGroup call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Join<'a> {
    pub(crate) call: CallId,
    pub(crate) request: &'a JoinGroupRequest,
    pub(crate) version: i16,
    pub(crate) caller: &'a Caller,
    /// Makes a new member's id unique. The core draws no random numbers itself.
    pub(crate) fresh: Uuid,
}

impl Join<'_> {
    pub(in crate::groups) fn member_id(&self) -> &str {
        &self.request.member_id
    }

    pub(in crate::groups) fn instance_id(&self) -> Option<&str> {
        self.request.group_instance_id.as_deref()
    }

    pub(in crate::groups) fn new_member_id(&self) -> String {
        format!("{}-{}", self.instance_id().unwrap_or(&self.caller.client_id), self.fresh)
    }

    /// Whether the member is only told its id (KIP-394).
    pub(in crate::groups) fn has_to_return_with_id(&self) -> bool {
        let is_unknown = self.member_id().is_empty() && self.instance_id().is_none();
        is_unknown && self.version >= MEMBER_ID_REQUIRED_VERSION
    }

    /// In order of preference, each name once.
    pub(in crate::groups) fn protocols(&self) -> Vec<(String, Bytes)> {
        let mut protocols: Vec<(String, Bytes)> = Vec::with_capacity(self.request.protocols.len());
        for protocol in &self.request.protocols {
            if protocols.iter().all(|(name, _)| *name != *protocol.name) {
                protocols.push((protocol.name.to_string(), owned(&protocol.metadata)));
            }
        }
        protocols
    }

    pub(in crate::groups) fn rebalance_timeout_ms(&self) -> i32 {
        // Version 0 knows only the session timeout.
        match self.version {
            0 => self.request.session_timeout_ms,
            _ => self.request.rebalance_timeout_ms,
        }
    }

    /// The answer that a join is refused with.
    pub(crate) fn refusal(member_id: &str, error: ErrorCode) -> Response {
        let response = JoinGroupResponse::default()
            .with_error_code(error.code())
            .with_generation_id(-1)
            .with_protocol_name(None)
            .with_member_id(text(member_id));
        Response::JoinGroup(response)
    }

    fn refuse(&self, member_id: &str, error: ErrorCode, cx: &mut Cx<'_>) {
        cx.out.answer(self.call, Self::refusal(member_id, error));
    }
}

impl ClassicGroup {
    /// Takes a join: it is answered, or parked until the generation is complete.
    pub(in crate::groups) fn join(&mut self, join: Join<'_>, cx: &mut Cx<'_>) {
        let member_id = join.member_id();
        if !self.has_room_for(member_id, cx.config.max_size) {
            if let Some(mut member) = self.remove(member_id) {
                refuse_parked(&mut member, "", ErrorCode::GroupMaxSizeReached, cx.out);
            }
            join.refuse("", ErrorCode::GroupMaxSizeReached, cx);
        } else if join.request.protocols.len() > MAX_PROTOCOLS || !self.supports(join.request) {
            join.refuse(member_id, ErrorCode::InconsistentGroupProtocol, cx);
        } else if member_id.is_empty() {
            self.join_as_new(join, cx);
        } else if self.pending.contains_key(member_id) && join.instance_id().is_none() {
            self.add_and_rebalance(join, member_id.to_owned(), cx);
        } else if let Err(error) = self.check_member(member_id, join.instance_id()) {
            join.refuse(member_id, error, cx);
        } else {
            self.rejoin(join, cx);
        }
    }

    /// While a rebalance is prepared, the members that have joined count; otherwise those that are in.
    fn has_room_for(&self, member_id: &str, max_size: usize) -> bool {
        let member = self.members.get(member_id);
        match self.state {
            State::Empty => true,
            State::PreparingRebalance { .. } => {
                member.is_some_and(|member| member.awaiting_join.is_some())
                    || self.awaiting_join_count() < max_size
            }
            State::CompletingRebalance(_) | State::Stable(_) => {
                member.is_some() || self.members.len() < max_size
            }
        }
    }

    fn join_as_new(&mut self, join: Join<'_>, cx: &mut Cx<'_>) {
        let new_id = join.new_member_id();
        if let Some(instance_id) = join.instance_id() {
            match self.static_members.get(instance_id).cloned() {
                Some(old_id) => self.replace_static_member(join, &old_id, new_id, cx),
                None => self.add_and_rebalance(join, new_id, cx),
            }
        } else if !join.has_to_return_with_id() {
            self.add_and_rebalance(join, new_id, cx);
        } else if self.pending.len() >= MAX_PENDING_MEMBERS {
            join.refuse("", ErrorCode::GroupMaxSizeReached, cx);
        } else {
            let expires_at = cx.now.at + millis(join.request.session_timeout_ms);
            self.pending.insert(new_id.clone(), expires_at);
            join.refuse(&new_id, ErrorCode::MemberIdRequired, cx);
        }
    }

    fn rejoin(&mut self, join: Join<'_>, cx: &mut Cx<'_>) {
        let member_id = join.member_id();
        let is_leader = self.is_leader(member_id);
        let Some(member) = self.members.get(member_id) else {
            return join.refuse(member_id, ErrorCode::UnknownMemberId, cx);
        };
        let unchanged = member.protocols == join.protocols();
        let current_generation = match self.state {
            // A member reached Empty only by mistake; it starts over.
            State::Empty => return join.refuse(member_id, ErrorCode::UnknownMemberId, cx),
            State::PreparingRebalance { .. } => false,
            // It did not get the answer of its last join.
            State::CompletingRebalance(_) => unchanged,
            // A leader that joins again asks for a new assignment: of its topics, say, which its metadata does not show.
            State::Stable(_) => unchanged && !is_leader,
        };
        if current_generation {
            let response = self.generation_response(member_id);
            cx.out.answer(join.call, Response::JoinGroup(response));
        } else {
            self.park(join, member_id, cx);
            self.rebalance_or_complete(cx);
        }
    }

    /// Parks a join at its member, with whatever the request changes about the member.
    fn park(&mut self, join: Join<'_>, member_id: &str, cx: &mut Cx<'_>) {
        let Some(member) = self.members.get_mut(member_id) else { return };
        member.protocols = join.protocols();
        member.rebalance_timeout_ms = join.rebalance_timeout_ms();
        member.session_timeout_ms = join.request.session_timeout_ms;
        if let Some(earlier) = member.awaiting_join.replace(join.call) {
            // The client gave up on it and joined anew, on another connection.
            cx.out.answer(earlier, Join::refusal(member_id, ErrorCode::RebalanceInProgress));
        }
    }

    fn add_and_rebalance(&mut self, join: Join<'_>, member_id: String, cx: &mut Cx<'_>) {
        if let State::PreparingRebalance { initial: Some(initial), .. } = &mut self.state {
            initial.member_added = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(join.request.protocol_type.to_string());
        }
        let member = Member {
            instance_id: join.instance_id().map(str::to_owned),
            client_id: join.caller.client_id.clone(),
            client_host: join.caller.client_host.clone(),
            rebalance_timeout_ms: join.rebalance_timeout_ms(),
            session_timeout_ms: join.request.session_timeout_ms,
            protocols: join.protocols(),
            assignment: Bytes::new(),
            expires_at: Some(cx.now.at + NEW_MEMBER_JOIN_TIMEOUT),
            is_new: true,
            awaiting_join: Some(join.call),
            awaiting_sync: None,
        };
        self.insert(member_id, member);
        self.rebalance_or_complete(cx);
    }

    /// A known instance with a new process (KIP-345): the new id takes the place of the old one, which is fenced.
    fn replace_static_member(&mut self, join: Join<'_>, old_id: &str, new_id: String, cx: &mut Cx<'_>) {
        let old_leader = self.leader.clone();
        let Some(before) = self.rename_member(old_id, &new_id, cx) else { return };
        self.park(join, &new_id, cx);
        if let Some(member) = self.members.get_mut(&new_id) {
            member.reset_session(cx.now);
        }
        match self.state {
            State::Stable(_) if self.select_protocol() == self.protocol => {
                // The assignment stays good. The new id is answered once it is on record.
                cx.out.records.push(self.current_record(cx.group_id));
                cx.out.after.push(After::StaticReplaced(StaticReplacement {
                    group: cx.group_id.to_owned(),
                    old_id: old_id.to_owned(),
                    new_id,
                    old_leader,
                    restore: Restore { before },
                    skip_assignment: join.version >= SKIP_ASSIGNMENT_VERSION,
                }));
            }
            // In CompletingRebalance the leader may already assign to the old id.
            State::Stable(_) | State::CompletingRebalance(_) => self.prepare_rebalance(cx),
            State::PreparingRebalance { .. } | State::Empty => self.complete_join_if_all_joined(cx),
        }
    }

    /// Moves a static member to another id, fencing what is parked under the old one. Returns it as it was.
    fn rename_member(&mut self, old_id: &str, new_id: &str, cx: &mut Cx<'_>) -> Option<Member> {
        let mut member = self.members.remove(old_id)?;
        refuse_parked(&mut member, old_id, ErrorCode::FencedInstanceId, cx.out);
        let before = member.clone();
        if let Some(instance_id) = &member.instance_id {
            self.static_members.insert(instance_id.clone(), new_id.to_owned());
        }
        if self.is_leader(old_id) {
            self.leader = Some(new_id.to_owned());
        }
        self.members.insert(new_id.to_owned(), member);
        Some(before)
    }

    /// The record of a replaced static member is written (its join is answered), or not (the old id is back).
    pub(in crate::groups) fn static_replaced(
        &mut self,
        replaced: StaticReplacement,
        written: Result<(), ErrorCode>,
        cx: &mut Cx<'_>,
    ) {
        let StaticReplacement { old_id, new_id, old_leader, restore, skip_assignment, .. } = replaced;
        let Some(call) = self.members.get_mut(&new_id).and_then(|member| member.awaiting_join.take()) else {
            return;
        };
        match written {
            Ok(()) => {
                if let Some(member) = self.members.get_mut(&new_id) {
                    member.is_new = false;
                }
                let mut response = self.generation_response(&new_id);
                if skip_assignment {
                    response.skip_assignment = self.is_leader(&new_id);
                } else {
                    // Told of the old leader's id, a leader of an older version does not assign.
                    response.members.clear();
                    response.leader = text(old_leader.as_deref().unwrap_or_default());
                }
                cx.out.answer(call, Response::JoinGroup(response));
            }
            Err(error) => {
                self.rename_member(&new_id, &old_id, cx);
                let mut before = restore.before;
                before.reset_session(cx.now);
                self.members.insert(old_id, before);
                cx.out.answer(call, Join::refusal("", error));
            }
        }
    }

    /// Starts a rebalance where one can start; where one runs, completes it if this was the last member.
    pub(super) fn rebalance_or_complete(&mut self, cx: &mut Cx<'_>) {
        match self.state {
            State::PreparingRebalance { .. } => self.complete_join_if_all_joined(cx),
            State::Empty | State::CompletingRebalance(_) | State::Stable(_) => self.prepare_rebalance(cx),
        }
    }

    /// The first rebalance waits out its delay even when all known members have joined.
    pub(super) fn complete_join_if_all_joined(&mut self, cx: &mut Cx<'_>) {
        if matches!(self.state, State::PreparingRebalance { initial: None, .. })
            && self.has_all_members_joined()
        {
            self.complete_join(cx);
        }
    }

    pub(super) fn prepare_rebalance(&mut self, cx: &mut Cx<'_>) {
        if matches!(self.state, State::CompletingRebalance(_)) {
            self.fail_syncs(ErrorCode::RebalanceInProgress, cx);
        }
        let timeout = self.rebalance_timeout();
        let (wait, initial) = if self.is_empty() {
            let delay = cx.config.initial_rebalance_delay;
            let remaining = timeout.saturating_sub(delay);
            (delay, Some(InitialDelay { delay, remaining, member_added: false }))
        } else {
            (timeout, None)
        };
        self.transition(State::PreparingRebalance { deadline: cx.now.at + wait, initial }, cx.now);
        self.complete_join_if_all_joined(cx);
    }

    /// The deadline of the join phase has come.
    pub(super) fn join_deadline(&mut self, cx: &mut Cx<'_>) {
        if let State::PreparingRebalance { deadline, initial: Some(initial) } = &mut self.state
            && initial.member_added
            && initial.remaining > Duration::ZERO
        {
            let delay = cx.config.initial_rebalance_delay.min(initial.remaining);
            let remaining = initial.remaining.saturating_sub(initial.delay);
            *initial = InitialDelay { delay, remaining, member_added: false };
            *deadline = cx.now.at + delay;
            return;
        }
        self.complete_join(cx);
    }

    /// Ends the join phase: who has not joined is out (static members stay), who has joined learns the generation.
    pub(super) fn complete_join(&mut self, cx: &mut Cx<'_>) {
        let absent: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| member.awaiting_join.is_none() && member.instance_id.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for member_id in absent {
            self.remove(&member_id);
        }
        if !self.elect_joined_leader() && !self.members.is_empty() {
            // Only silent static members are left: they have their session timeouts to come or to go.
            let deadline = cx.now.at + self.rebalance_timeout().max(STATIC_MEMBERS_RETRY_MIN);
            self.transition(State::PreparingRebalance { deadline, initial: None }, cx.now);
            return;
        }
        self.generation = self.generation.wrapping_add(1).max(1);
        if self.members.is_empty() {
            self.protocol = None;
            self.subscribed_topics = self.read_subscribed_topics();
            self.transition(State::Empty, cx.now);
            cx.out.records.push(self.current_record(cx.group_id));
        } else {
            self.protocol = self.select_protocol();
            self.subscribed_topics = self.read_subscribed_topics();
            let deadline = cx.now.at + self.rebalance_timeout();
            let members = self.members.keys().cloned().collect();
            self.transition(State::CompletingRebalance(PendingSync { deadline, members }), cx.now);
            self.answer_joins(cx);
        }
    }

    /// Keeps the leader if it has joined, else takes another that has. False if none has.
    fn elect_joined_leader(&mut self) -> bool {
        let joined = |member: &Member| member.awaiting_join.is_some();
        let leader = self.leader.as_ref().and_then(|leader| self.members.get(leader));
        if leader.is_some_and(joined) {
            return true;
        }
        match self.members.iter().find(|(_, member)| joined(member)) {
            Some((member_id, _)) => {
                self.leader = Some(member_id.clone());
                true
            }
            None => false,
        }
    }

    fn answer_joins(&mut self, cx: &mut Cx<'_>) {
        let member_ids: Vec<String> = self.members.keys().cloned().collect();
        for member_id in member_ids {
            let response = self.generation_response(&member_id);
            if let Some(member) = self.members.get_mut(&member_id) {
                member.is_new = false;
                member.reset_session(cx.now);
                if let Some(call) = member.awaiting_join.take() {
                    cx.out.answer(call, Response::JoinGroup(response));
                }
            }
        }
    }

    /// What a member is told of the current generation; the leader gets all members' metadata.
    fn generation_response(&self, member_id: &str) -> JoinGroupResponse {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let members = match self.is_leader(member_id) {
            false => Vec::new(),
            true => self
                .members
                .iter()
                .map(|(id, member)| {
                    JoinGroupResponseMember::default()
                        .with_member_id(text(id))
                        .with_group_instance_id(member.instance_id.as_deref().map(text))
                        .with_metadata(member.metadata(protocol))
                })
                .collect(),
        };
        JoinGroupResponse::default()
            .with_generation_id(self.generation)
            .with_protocol_type(self.protocol_type.as_deref().map(text))
            .with_protocol_name(Some(text(protocol)))
            .with_leader(text(self.leader.as_deref().unwrap_or_default()))
            .with_member_id(text(member_id))
            .with_members(members)
    }
}

/// A static member as it was before another id took its place.
#[derive(Debug)]
pub(in crate::groups) struct Restore {
    before: Member,
}

/// Answers whatever a member has parked, before it goes.
pub(super) fn refuse_parked(member: &mut Member, member_id: &str, error: ErrorCode, out: &mut Decision) {
    if let Some(call) = member.awaiting_join.take() {
        out.answer(call, Join::refusal(member_id, error));
    }
    if let Some(call) = member.awaiting_sync.take() {
        out.answer(call, super::sync::refusal(error));
    }
}
