//! Share groups (KIP-932) as the coordinator holds them, beside those of the other protocols.

use kafka_wire::messages::share_group_describe_response::DescribedGroup;
use kafka_wire::messages::{GroupId, ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse};
use kafka_wire::{ErrorCode, StrBytes, Uuid};

use super::record::{GroupRecord, text};
use super::share::record::Initialized;
use super::share::{ShareGroups, ShareHeartbeat, TopicLookup};
use super::{CallId, Coordinator, Decision, Now, Response};

/// What an operator has done to the offsets of a share group that the share coordinator keeps.
#[derive(Debug, Clone)]
pub(crate) enum OffsetsChange {
    /// These partitions have offsets now.
    Set(Initialized),
    /// These topics have none any more.
    Deleted(Vec<Uuid>),
}

impl Coordinator {
    /// ShareGroupHeartbeat.
    pub(crate) fn share_heartbeat(&mut self, heartbeat: &ShareHeartbeat<'_>, now: Now) -> Decision {
        let mut out = Decision::default();
        let group_id = heartbeat.request.group_id.as_str();
        if self.groups.contains_key(group_id) {
            let message = format!("Group {group_id} is not a share group.");
            let response = ShareGroupHeartbeatResponse::default()
                .with_error_code(ErrorCode::GroupIdNotFound.code())
                .with_error_message(Some(text(&message)));
            out.answer(heartbeat.call, Response::ShareGroupHeartbeat(response));
        } else {
            self.shares.heartbeat(heartbeat, now, &mut out);
        }
        out
    }

    /// The partitions that a heartbeat makes a group read and that the share coordinator does not know yet, and the epoch
    /// with which it is to be told of them.
    pub(crate) fn share_uninitialized(
        &self,
        request: &ShareGroupHeartbeatRequest,
        topics: &TopicLookup<'_>,
    ) -> (i32, Initialized) {
        if self.groups.contains_key(request.group_id.as_str()) {
            return (0, Initialized::new());
        }
        let epoch = self.shares.initialized(&request.group_id).map_or(0, |(epoch, _)| epoch);
        (epoch, self.shares.uninitialized(request, topics))
    }

    /// The epoch of a share group and the partitions that have offsets.
    pub(crate) fn share_offsets(&self, group_id: &str) -> Result<(i32, Initialized), ErrorCode> {
        let known = self.shares.initialized(group_id);
        known.map(|(epoch, topics)| (epoch, topics.clone())).ok_or(ErrorCode::GroupIdNotFound)
    }

    /// Whether an operator may change the offsets of a share group: only while nobody is in it. An altered group need not
    /// exist yet.
    pub(crate) fn check_share_offsets(&self, group_id: &str, may_create: bool) -> Result<(), ErrorCode> {
        match self.shares.has_members(group_id) {
            Some(true) => Err(ErrorCode::NonEmptyGroup),
            Some(false) => Ok(()),
            None if may_create && !self.groups.contains_key(group_id) => Ok(()),
            None => Err(ErrorCode::GroupIdNotFound),
        }
    }

    /// Puts on record what an operator has done to the offsets of a share group.
    pub(crate) fn share_offsets_changed(
        &mut self,
        call: CallId,
        group_id: &str,
        change: &OffsetsChange,
    ) -> Decision {
        let mut out = Decision::default();
        let checked = self.check_share_offsets(group_id, matches!(change, OffsetsChange::Set(_)));
        if checked.is_err() {
            out.answer(call, Response::Done(checked));
            return out;
        }
        if !self.shares.contains(group_id) {
            out.records.push(GroupRecord::Share(ShareGroups::creation(group_id)));
        }
        let record = self.shares.with_initialized(group_id, |topics| match change {
            OffsetsChange::Set(set) => {
                for (id, (name, partitions)) in set {
                    topics
                        .entry(*id)
                        .or_insert_with(|| (name.clone(), Default::default()))
                        .1
                        .extend(partitions);
                }
            }
            OffsetsChange::Deleted(ids) => topics.retain(|id, _| !ids.contains(id)),
        });
        out.records.push(GroupRecord::Share(record));
        out.answer_when_written(call, Response::Done(Ok(())));
        out
    }

    /// ShareGroupDescribe, for one group.
    pub(crate) fn describe_share_group(
        &self,
        group_id: &GroupId,
        topic_name: impl Fn(Uuid) -> Option<String>,
    ) -> DescribedGroup {
        if let Some(described) = self.shares.describe(group_id, topic_name) {
            return described;
        }
        let message = match self.groups.contains_key(group_id.as_str()) {
            true => format!("Group {} is not a share group.", group_id.as_str()),
            false => format!("Group {} not found.", group_id.as_str()),
        };
        DescribedGroup::default()
            .with_group_id(group_id.clone())
            .with_group_state(StrBytes::from_static_str("Dead"))
            .with_error_code(ErrorCode::GroupIdNotFound.code())
            .with_error_message(Some(text(&message)))
    }

    /// DeleteGroups, for a share group.
    pub(super) fn delete_share_group(&self, group_id: &str, out: &mut Decision) -> ErrorCode {
        match self.shares.has_members(group_id) {
            None => ErrorCode::GroupIdNotFound,
            Some(true) => ErrorCode::NonEmptyGroup,
            Some(false) => {
                out.records.extend(self.shares.tombstones(group_id).into_iter().map(GroupRecord::Share));
                ErrorCode::None
            }
        }
    }
}
