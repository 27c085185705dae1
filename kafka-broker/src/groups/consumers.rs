//! Consumer groups (KIP-848) as the coordinator holds them, beside those of the classic protocol.

use kafka_wire::messages::consumer_group_describe_response::DescribedGroup;
use kafka_wire::messages::{ConsumerGroupHeartbeatResponse, GroupId};
use kafka_wire::{ErrorCode, StrBytes};

use super::consumer::record::ConsumerRecord;
use super::consumer::{ConsumerGroup, Edit, Heartbeat, Refused};
use super::record::{GroupRecord, text};
use super::{CallId, Coordinator, Decision, Group, Now, Response, Undo};
use crate::cluster::image::Image;

impl Coordinator {
    /// ConsumerGroupHeartbeat.
    pub(crate) fn consumer_heartbeat(
        &mut self,
        call: CallId,
        heartbeat: &Heartbeat<'_>,
        now: Now,
    ) -> Decision {
        let mut out = Decision::default();
        let answered =
            heartbeat.check(&self.config).and_then(|()| self.try_heartbeat(heartbeat, &mut out, now));
        match answered {
            Ok(response) => out.answer_when_written(call, Response::ConsumerGroupHeartbeat(response)),
            Err(Refused { code, message }) => {
                let response = ConsumerGroupHeartbeatResponse::default()
                    .with_error_code(code.code())
                    .with_error_message(Some(text(&message)));
                out.answer(call, Response::ConsumerGroupHeartbeat(response));
            }
        }
        out
    }

    fn try_heartbeat(
        &mut self,
        heartbeat: &Heartbeat<'_>,
        out: &mut Decision,
        now: Now,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refused> {
        let group_id = heartbeat.request.group_id.as_str();
        let not_found = |message: String| Refused { code: ErrorCode::GroupIdNotFound, message };
        let joins = heartbeat.request.member_epoch == 0;
        match self.groups.get_mut(group_id) {
            Some(Group::Consumer(group)) => {
                let mut edit = Edit::new(group_id, group, &self.config, now);
                let answered = edit.heartbeat(heartbeat);
                if answered.is_err() {
                    edit.revert();
                }
                out.take_edit(edit);
                self.hint(group_id);
                answered
            }
            Some(Group::Classic(group)) if joins && group.is_empty() && !group.has_pending_members() => {
                let tombstone = GroupRecord::Group { group: group_id.to_owned(), value: None };
                self.found(heartbeat, Some(tombstone), out, now)
            }
            None if joins => self.found(heartbeat, None, out, now),
            Some(_) => Err(not_found(format!("Group {group_id} is not a consumer group."))),
            None => Err(not_found(format!("Consumer group {group_id} not found."))),
        }
    }

    /// A first member makes the group; an empty classic one gives way to it.
    fn found(
        &mut self,
        heartbeat: &Heartbeat<'_>,
        tombstone: Option<GroupRecord>,
        out: &mut Decision,
        now: Now,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refused> {
        let group_id = heartbeat.request.group_id.as_str();
        let mut group = ConsumerGroup::default();
        let mut edit = Edit::new(group_id, &mut group, &self.config, now);
        let response = edit.heartbeat(heartbeat)?;
        out.records.extend(tombstone);
        out.records.extend(edit.finish().records);
        let before = self.groups.insert(group_id.to_owned(), Group::Consumer(group));
        out.undo = Some(Undo { group: group_id.to_owned(), before });
        self.hint(group_id);
        Ok(response)
    }

    pub(super) fn replay_consumer(&mut self, group_id: &str, record: &ConsumerRecord) {
        if let ConsumerRecord::Group(None) = record {
            if let Some(Group::Consumer(_)) = self.groups.get(group_id) {
                self.groups.remove(group_id);
            }
            return;
        }
        let is_simple =
            |group: &Group| matches!(group, Group::Classic(group) if group.protocol_type().is_none());
        if !record.is_tombstone() && self.groups.get(group_id).is_none_or(is_simple) {
            self.groups.insert(group_id.to_owned(), Group::Consumer(ConsumerGroup::default()));
        }
        if let Some(Group::Consumer(group)) = self.groups.get_mut(group_id) {
            group.replay(record);
        }
    }

    /// Whether who asks for offsets may have them: a member of a consumer group says its epoch (OffsetFetch from version 9
    /// on), everyone else nothing.
    pub(crate) fn check_offset_fetch(
        &self,
        group_id: &str,
        member_id: Option<&str>,
        epoch: i32,
    ) -> Result<(), ErrorCode> {
        match self.groups.get(group_id) {
            Some(Group::Consumer(group)) => group.check_offset_fetch(member_id, epoch),
            Some(Group::Classic(_)) | None => Ok(()),
        }
    }

    /// ConsumerGroupDescribe, for one group.
    pub(crate) fn describe_consumer_group(
        &self,
        group_id: &GroupId,
        version: i16,
        image: &Image,
    ) -> DescribedGroup {
        match self.groups.get(group_id.as_str()) {
            Some(Group::Consumer(group)) => {
                group.describe(&self.config, version, image).with_group_id(group_id.clone())
            }
            other => {
                let message = match other {
                    Some(_) => format!("Group {} is not a consumer group.", group_id.as_str()),
                    None => format!("Group {} not found.", group_id.as_str()),
                };
                DescribedGroup::default()
                    .with_group_id(group_id.clone())
                    .with_group_state(StrBytes::from_static_str("Dead"))
                    .with_error_code(ErrorCode::GroupIdNotFound.code())
                    .with_error_message(Some(text(&message)))
            }
        }
    }
}

impl Decision {
    pub(super) fn take_edit(&mut self, edit: Edit<'_>) {
        let group = edit.group_id.to_owned();
        let edited = edit.finish();
        if let Some(before) = edited.before {
            self.records = edited.records;
            self.undo = Some(Undo { group, before: Some(before) });
        }
    }
}
