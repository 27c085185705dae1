//! SyncGroup and Heartbeat: the generation's assignment, and the members' signs of life.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_wire::ErrorCode;
use kafka_wire::messages::{HeartbeatRequest, SyncGroupRequest, SyncGroupResponse};

use super::super::record::text;
use super::super::{After, CallId, Response};
use super::{ClassicGroup, Cx, PendingSync, State, owned};

/// The answer that a sync is refused with.
pub(in crate::groups) fn refusal(error: ErrorCode) -> Response {
    Response::SyncGroup(SyncGroupResponse::default().with_error_code(error.code()))
}

impl ClassicGroup {
    /// Takes a sync. Followers are parked until the leader's assignment is on record.
    pub(in crate::groups) fn sync(&mut self, call: CallId, request: &SyncGroupRequest, cx: &mut Cx<'_>) {
        if let Err(error) = self.check_sync(request) {
            return cx.out.answer(call, refusal(error));
        }
        let member_id = request.member_id.as_str();
        self.no_longer_pending_sync(member_id);
        match self.state {
            State::Empty => cx.out.answer(call, refusal(ErrorCode::UnknownMemberId)),
            State::PreparingRebalance { .. } => cx.out.answer(call, refusal(ErrorCode::RebalanceInProgress)),
            State::Stable(_) => cx.out.answer(call, Response::SyncGroup(self.sync_response(member_id))),
            State::CompletingRebalance(_) => {
                let Some(member) = self.members.get_mut(member_id) else { return };
                if let Some(earlier) = member.awaiting_sync.replace(call) {
                    cx.out.answer(earlier, refusal(ErrorCode::RebalanceInProgress));
                }
                if self.is_leader(member_id) {
                    self.write_assignment(request, cx);
                }
            }
        }
    }

    fn check_sync(&self, request: &SyncGroupRequest) -> Result<(), ErrorCode> {
        if self.is_empty() {
            return Err(ErrorCode::UnknownMemberId);
        }
        self.check_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        // Named from version 5 on (KIP-559).
        let differs = |theirs: Option<&str>, ours: Option<&str>| matches!((theirs, ours), (Some(theirs), Some(ours)) if theirs != ours);
        if differs(request.protocol_type.as_deref(), self.protocol_type.as_deref())
            || differs(request.protocol_name.as_deref(), self.protocol.as_deref())
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        Ok(())
    }

    /// Members that the leader left out get empty assignments; assignments of strangers are dropped.
    fn write_assignment(&self, request: &SyncGroupRequest, cx: &mut Cx<'_>) {
        let assignments: BTreeMap<String, Bytes> = request
            .assignments
            .iter()
            .filter(|entry| self.members.contains_key(entry.member_id.as_str()))
            .map(|entry| (entry.member_id.to_string(), owned(&entry.assignment)))
            .collect();
        let mut record = self.record(cx.group_id, |id, _| assignments.get(id).cloned().unwrap_or_default());
        if let super::GroupRecord::Group { value: Some(value), .. } = &mut record {
            // The record describes the group as it will be, Stable from now on.
            value.current_state_timestamp = cx.now.ms;
        }
        cx.out.records.push(record);
        cx.out.after.push(After::Assigned {
            group: cx.group_id.to_owned(),
            generation: self.generation,
            assignments,
        });
    }

    /// The leader's assignment is on record: the group is stable. Or it could not be written: all have to join again.
    pub(in crate::groups) fn assigned(
        &mut self,
        generation: i32,
        mut assignments: BTreeMap<String, Bytes>,
        written: Result<(), ErrorCode>,
        cx: &mut Cx<'_>,
    ) {
        let State::CompletingRebalance(pending) = &mut self.state else { return };
        if generation != self.generation {
            return;
        }
        if let Err(error) = written {
            self.fail_syncs(error, cx);
            return self.prepare_rebalance(cx);
        }
        let still_out = std::mem::take(&mut pending.members);
        let deadline = pending.deadline;
        let late = (!still_out.is_empty()).then_some(PendingSync { deadline, members: still_out });
        self.transition(State::Stable(late), cx.now);
        for (member_id, member) in &mut self.members {
            member.assignment = assignments.remove(member_id).unwrap_or_default();
        }
        let waiting: Vec<(String, CallId)> = self
            .members
            .iter_mut()
            .filter_map(|(id, member)| Some((id.clone(), member.awaiting_sync.take()?)))
            .collect();
        for (member_id, call) in waiting {
            cx.out.answer(call, Response::SyncGroup(self.sync_response(&member_id)));
            if let Some(member) = self.members.get_mut(&member_id) {
                // It may have outlived its session while it waited.
                member.reset_session(cx.now);
            }
        }
    }

    /// Answers every parked sync with an error and forgets the assignments of a generation that did not come to be.
    pub(super) fn fail_syncs(&mut self, error: ErrorCode, cx: &mut Cx<'_>) {
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
            if let Some(call) = member.awaiting_sync.take() {
                member.reset_session(cx.now);
                cx.out.answer(call, refusal(error));
            }
        }
    }

    fn sync_response(&self, member_id: &str) -> SyncGroupResponse {
        let assignment = self.members.get(member_id).map(|member| member.assignment.clone());
        SyncGroupResponse::default()
            .with_protocol_type(self.protocol_type.as_deref().map(text))
            .with_protocol_name(self.protocol.as_deref().map(text))
            .with_assignment(assignment.unwrap_or_default())
    }

    /// A heartbeat keeps its member alive in every state, and tells it when to join again.
    pub(in crate::groups) fn heartbeat(
        &mut self,
        request: &HeartbeatRequest,
        cx: &Cx<'_>,
    ) -> Result<(), ErrorCode> {
        self.check_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        let Some(member) = self.members.get_mut(request.member_id.as_str()) else {
            return Err(ErrorCode::UnknownMemberId);
        };
        match self.state {
            State::Empty => return Err(ErrorCode::UnknownMemberId),
            State::PreparingRebalance { .. } | State::CompletingRebalance(_) | State::Stable(_) => {
                member.reset_session(cx.now);
            }
        }
        match self.state {
            State::PreparingRebalance { .. } => Err(ErrorCode::RebalanceInProgress),
            _ => Ok(()),
        }
    }
}
