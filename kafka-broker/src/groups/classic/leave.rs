//! LeaveGroup, and those who leave without a word: sessions, pending ids and syncs that run out.

use std::time::Instant;

use kafka_wire::ErrorCode;
use kafka_wire::messages::leave_group_request::MemberIdentity;
use kafka_wire::messages::leave_group_response::MemberResponse;

use super::super::Decision;
use super::join::refuse_parked;
use super::{ClassicGroup, Cx, State};

/// The answers to a LeaveGroup for a group that is not there.
pub(in crate::groups) fn refusals(members: &[MemberIdentity]) -> Vec<MemberResponse> {
    members.iter().map(|member| response(member, Err(ErrorCode::UnknownMemberId))).collect()
}

pub(in crate::groups) fn response(member: &MemberIdentity, left: Result<(), ErrorCode>) -> MemberResponse {
    MemberResponse::default()
        .with_member_id(member.member_id.clone())
        .with_group_instance_id(member.group_instance_id.clone())
        .with_error_code(left.err().unwrap_or(ErrorCode::None).code())
}

impl ClassicGroup {
    /// Removes members by id, or static ones by instance id alone (KIP-345).
    pub(in crate::groups) fn leave(
        &mut self,
        members: &[MemberIdentity],
        cx: &mut Cx<'_>,
    ) -> Vec<MemberResponse> {
        let mut responses = Vec::with_capacity(members.len());
        for member in members {
            let left = self.leave_one(&member.member_id, member.group_instance_id.as_deref(), cx);
            responses.push(response(member, left));
        }
        if responses.iter().any(|response| response.error_code == ErrorCode::None.code()) {
            match self.state {
                State::Empty => {}
                State::PreparingRebalance { .. } => self.complete_join_if_all_joined(cx),
                State::CompletingRebalance(_) | State::Stable(_) => self.prepare_rebalance(cx),
            }
        }
        responses
    }

    fn leave_one(
        &mut self,
        member_id: &str,
        instance_id: Option<&str>,
        cx: &mut Cx<'_>,
    ) -> Result<(), ErrorCode> {
        if member_id.is_empty() {
            let member_id = instance_id.and_then(|instance_id| self.static_members.get(instance_id)).cloned();
            return match member_id {
                Some(member_id) => {
                    self.evict(&member_id, cx);
                    Ok(())
                }
                None => Err(ErrorCode::UnknownMemberId),
            };
        }
        if self.pending.remove(member_id).is_some() {
            return Ok(());
        }
        self.check_member(member_id, instance_id)?;
        self.evict(member_id, cx);
        Ok(())
    }

    /// The group has been read back from the log; it may hold more members than may be now.
    pub(in crate::groups) fn loaded(&mut self, cx: &mut Cx<'_>) {
        if self.members.len() > cx.config.max_size {
            self.prepare_rebalance(cx);
        }
    }

    /// Answers everything that is parked, before the group itself goes.
    pub(in crate::groups) fn refuse_all(&mut self, error: ErrorCode, out: &mut Decision) {
        for (member_id, member) in &mut self.members {
            refuse_parked(member, member_id, error, out);
        }
    }

    /// Removes a member. What it has parked is answered UNKNOWN_MEMBER_ID, so that a client that is alive joins anew.
    fn evict(&mut self, member_id: &str, cx: &mut Cx<'_>) {
        if let Some(mut member) = self.remove(member_id) {
            refuse_parked(&mut member, "", ErrorCode::UnknownMemberId, cx.out);
        }
    }

    /// When [`expire`](Self::expire) has something to do next.
    pub(in crate::groups) fn next_deadline(&self) -> Option<Instant> {
        let phase = match &self.state {
            State::Empty | State::Stable(None) => None,
            State::PreparingRebalance { deadline, .. } => Some(*deadline),
            State::CompletingRebalance(pending) | State::Stable(Some(pending)) => Some(pending.deadline),
        };
        let sessions = self.members.values().filter_map(|member| member.expires_at);
        phase.into_iter().chain(sessions).chain(self.pending.values().copied()).min()
    }

    /// Does the first thing that is due by now, if any; sessions come before the phase that waits for them.
    pub(in crate::groups) fn expire(&mut self, cx: &mut Cx<'_>) -> bool {
        let due = |deadline: &Instant| *deadline <= cx.now.at;
        if let Some(member_id) = self.pending.iter().find(|(_, at)| due(at)).map(|(id, _)| id.clone()) {
            self.remove(&member_id);
            self.complete_if_last_is_gone(cx);
            return true;
        }
        let silent = self.members.iter_mut().find(|(_, member)| member.expires_at.as_ref().is_some_and(due));
        if let Some((member_id, member)) = silent {
            if member.has_satisfied_heartbeat() {
                // Its parked call stands for it; the answer starts a new session.
                member.expires_at = None;
                return true;
            }
            let member_id = member_id.clone();
            self.evict(&member_id, cx);
            match self.state {
                State::CompletingRebalance(_) | State::Stable(_) => self.prepare_rebalance(cx),
                State::PreparingRebalance { .. } | State::Empty => self.complete_if_last_is_gone(cx),
            }
            return true;
        }
        match &self.state {
            State::PreparingRebalance { deadline, .. } if due(deadline) => self.join_deadline(cx),
            State::CompletingRebalance(pending) | State::Stable(Some(pending)) if due(&pending.deadline) => {
                for member_id in pending.members.clone() {
                    self.evict(&member_id, cx);
                }
                self.prepare_rebalance(cx);
            }
            _ => return false,
        }
        true
    }

    /// The member that was waited for is gone: the others need wait no longer, not even for the initial delay.
    fn complete_if_last_is_gone(&mut self, cx: &mut Cx<'_>) {
        if matches!(self.state, State::PreparingRebalance { .. }) && self.has_all_members_joined() {
            self.complete_join(cx);
        }
    }
}
