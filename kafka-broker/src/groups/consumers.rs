//! Consumer groups (KIP-848) as the coordinator holds them, beside those of the classic protocol.

use kafka_wire::messages::consumer_group_describe_response::DescribedGroup;
use kafka_wire::messages::{ConsumerGroupHeartbeatResponse, GroupId};
use kafka_wire::{ErrorCode, StrBytes};

use super::classic::{ClassicGroup, Join};
use super::consumer::classic::JoinRefusal;
use super::consumer::record::ConsumerRecord;
use super::consumer::{ClusterView, ConsumerGroup, Edit, Heartbeat, Refused};
use super::record::{GroupRecord, text};
use super::{CallId, Coordinator, Decision, Group, GroupConfig, Now, Response, Undo};
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
        let answered =
            self.edit_consumers(group_id, out, now, |edit| edit.attempt(|edit| edit.heartbeat(heartbeat)));
        if let Some(answered) = answered {
            return answered;
        }
        match self.groups.get(group_id) {
            Some(Group::Classic(group)) if joins && self.config.allows_upgrade(group) => {
                self.found(heartbeat, out, now)
            }
            None if joins => self.found(heartbeat, out, now),
            Some(_) => Err(not_found(format!("Group {group_id} is not a consumer group."))),
            None => Err(not_found(format!("Consumer group {group_id} not found."))),
        }
    }

    /// A first member makes the group. A classic one gives way to it: an empty one just so, one of consumers with its
    /// members.
    fn found(
        &mut self,
        heartbeat: &Heartbeat<'_>,
        out: &mut Decision,
        now: Now,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refused> {
        let group_id = heartbeat.request.group_id.as_str();
        let mut group = ConsumerGroup::default();
        let mut edit = Edit::new(group_id, &mut group, &self.config, now);
        let classic = match self.groups.get(group_id) {
            Some(Group::Classic(classic)) => Some(classic),
            _ => None,
        };
        if let Some(classic) = classic.filter(|classic| !classic.is_empty()) {
            edit.take_over(classic, heartbeat.view)?;
        }
        let response = edit.heartbeat(heartbeat)?;
        let tombstone = GroupRecord::Group { group: group_id.to_owned(), value: None };
        out.records.extend(classic.map(|_| tombstone));
        out.records.extend(edit.finish().records);
        let mut before = self.groups.insert(group_id.to_owned(), Group::Consumer(group));
        if let Some(Group::Classic(classic)) = &mut before {
            classic.give_way(out);
        }
        out.undo = Some(Undo { group: group_id.to_owned(), before });
        self.hint(group_id);
        Ok(response)
    }

    /// A consumer group whose last member of its own protocol is gone becomes a classic one.
    pub(super) fn downgrade_if_classic(&mut self, group_id: &str, out: &mut Decision, now: Now) {
        let Some(Group::Consumer(group)) = self.groups.get(group_id) else { return };
        let fits = group.has_only_classic_members() && group.member_count() <= self.config.max_size;
        if !self.config.consumer.downgrades || !fits {
            return;
        }
        let (classic, records) = group.downgrade(group_id, now);
        out.records.extend(records);
        let before = self.groups.insert(group_id.to_owned(), Group::Classic(classic));
        out.undo.get_or_insert(Undo { group: group_id.to_owned(), before });
        self.step(group_id, now, out, |group, cx| group.rebalance(cx));
    }

    /// JoinGroup into a consumer group.
    pub(super) fn join_consumers(
        &mut self,
        join: &Join<'_>,
        view: ClusterView<'_>,
        out: &mut Decision,
        now: Now,
    ) {
        let group_id = join.request.group_id.as_str();
        let joined = self
            .edit_consumers(group_id, out, now, |edit| edit.attempt(|edit| edit.classic_join(join, view)));
        match joined {
            None => {}
            Some(Ok(response)) => out.answer_when_written(join.call, Response::JoinGroup(response)),
            Some(Err(JoinRefusal::Code(code))) => {
                out.answer(join.call, Join::refusal(join.member_id(), code));
            }
            Some(Err(JoinRefusal::MemberIdRequired(id))) => {
                out.answer(join.call, Join::refusal(&id, ErrorCode::MemberIdRequired));
            }
        }
    }

    /// A step of a consumer group; `None` if the group is not one.
    pub(super) fn edit_consumers<R>(
        &mut self,
        group_id: &str,
        out: &mut Decision,
        now: Now,
        step: impl FnOnce(&mut Edit<'_>) -> R,
    ) -> Option<R> {
        let Some(Group::Consumer(group)) = self.groups.get_mut(group_id) else { return None };
        let mut edit = Edit::new(group_id, group, &self.config, now);
        let result = step(&mut edit);
        out.take_edit(edit);
        self.hint(group_id);
        self.downgrade_if_classic(group_id, out, now);
        Some(result)
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

impl GroupConfig {
    /// Whether the group may become a consumer group.
    fn allows_upgrade(&self, group: &ClassicGroup) -> bool {
        let is_abandoned = group.is_empty() && !group.has_pending_members();
        let fits = group.member_count() <= self.consumer.max_size;
        is_abandoned || (self.consumer.upgrades && group.is_of_consumers() && fits)
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
