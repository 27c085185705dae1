//! Members of the classic protocol in a consumer group, while it moves from one protocol to the other: JoinGroup is their
//! heartbeat that says everything, SyncGroup tells them what they own, and Heartbeat whether to join again.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use kafka_wire::messages::leave_group_request::MemberIdentity;
use kafka_wire::messages::{HeartbeatRequest, JoinGroupResponse, SyncGroupRequest};
use kafka_wire::{ErrorCode, Uuid};

use super::super::assignor::Partitions;
use super::super::classic::{
    CONSUMER_PROTOCOL_TYPE, ClassicGroup, Join, NamedPartitions, assignment, encode_assignment, millis,
    subscription,
};
use super::super::record::text;
use super::heartbeat::{ClusterView, Who};
use super::member::{ClassicMetadata, Current, MemberState, Metadata, each};
use super::record::{ConsumerRecord, GroupEpoch, TargetEpoch};
use super::{ConsumerGroup, Edit, Member, Refused, refuse};
use crate::cluster::image::Image;

/// How a classic member is refused.
pub(in crate::groups) enum JoinRefusal {
    Code(ErrorCode),
    /// It is to come back with this id (KIP-394).
    MemberIdRequired(String),
}

impl Edit<'_> {
    /// Takes over the members of a classic group, with what they own.
    pub(in crate::groups) fn take_over(
        &mut self,
        classic: &ClassicGroup,
        view: ClusterView<'_>,
    ) -> Result<(), Refused> {
        let epoch = classic.generation_id();
        self.push(ConsumerRecord::Group(Some(GroupEpoch { epoch, metadata_hash: 0 })));
        for migrant in classic.migrants() {
            let read = subscription(&migrant.subscription).zip(assignment(migrant.assignment));
            let Some((subscribed, assigned)) = read else {
                return refuse(
                    ErrorCode::GroupIdNotFound,
                    format!(
                        "Cannot upgrade the classic group {} to consumer group because the embedded consumer protocol is malformed.",
                        self.group_id
                    ),
                );
            };
            let id = || migrant.id.to_owned();
            let metadata = Metadata {
                instance_id: migrant.instance_id.map(str::to_owned),
                rack_id: subscribed.rack_id,
                client_id: migrant.client_id.to_owned(),
                client_host: migrant.client_host.to_owned(),
                topics: subscribed.topics.into_iter().collect(),
                regex: None,
                rebalance_timeout_ms: migrant.rebalance_timeout_ms,
                server_assignor: None,
                classic: Some(ClassicMetadata {
                    session_timeout_ms: migrant.session_timeout_ms,
                    protocols: migrant.protocols.to_vec(),
                }),
            };
            let mut target = by_id(&assigned, view.image);
            for (topic, partitions) in &mut target {
                // An assignor of a client's own may have assigned a partition twice: the first has it.
                partitions.retain(|partition| !self.group.owned.contains(&(*topic, *partition)));
            }
            target.retain(|_, partitions| !partitions.is_empty());
            let assigned = target.iter().map(|(topic, partitions)| {
                (*topic, partitions.iter().map(|partition| (*partition, epoch)).collect())
            });
            let current =
                Current { epoch, previous_epoch: epoch, assigned: assigned.collect(), ..Current::default() };
            self.push(ConsumerRecord::Member(id(), Some(Arc::new(metadata))));
            self.push(ConsumerRecord::Target(id(), Some(Arc::new(target))));
            self.push(ConsumerRecord::Current(id(), Some(Arc::new(current))));
            self.group.start_timers(migrant.id, true, self.config, self.now);
        }
        self.push(ConsumerRecord::TargetEpoch(Some(TargetEpoch { epoch, at_ms: 0 })));
        Ok(())
    }

    /// JoinGroup.
    pub(in crate::groups) fn classic_join(
        &mut self,
        join: &Join<'_>,
        view: ClusterView<'_>,
    ) -> Result<JoinGroupResponse, JoinRefusal> {
        let request = join.request;
        let protocols = join.protocols();
        if !self.group.supports_classic(&request.protocol_type, &protocols) {
            return Err(JoinRefusal::Code(ErrorCode::InconsistentGroupProtocol));
        }
        let subscribed = protocols.first().and_then(|(_, metadata)| subscription(metadata));
        let subscribed = subscribed.ok_or(JoinRefusal::Code(ErrorCode::InconsistentGroupProtocol))?;
        let who = self.identify_classic(join)?;
        let known = match &who {
            Who::Member(id) | Who::Successor { of: id, .. } => self.group.members.get(id).cloned(),
            Who::Newcomer(_) => None,
        };
        let Member { metadata: before, current: was } = known.unwrap_or_default();
        let is_newcomer = matches!(who, Who::Newcomer(_));
        let protocol_name = protocols.first().map(|(name, _)| text(name));
        let metadata = Metadata {
            instance_id: join.instance_id().map(str::to_owned),
            rack_id: subscribed.rack_id,
            client_id: join.caller.client_id.clone(),
            client_host: join.caller.client_host.clone(),
            topics: subscribed.topics.into_iter().collect(),
            regex: None,
            rebalance_timeout_ms: join.rebalance_timeout_ms(),
            server_assignor: None,
            classic: Some(ClassicMetadata { session_timeout_ms: request.session_timeout_ms, protocols }),
        };
        let member_id = self.admit(who, &was);
        let narrowed = metadata.topics != before.topics || metadata.regex != before.regex;
        if is_newcomer || metadata != *before {
            self.push(ConsumerRecord::Member(member_id.clone(), Some(Arc::new(metadata))));
        }
        let owned = by_id(&subscribed.owned, view.image);
        let advanced = self.advance(&member_id, narrowed, is_newcomer, Some(&owned), view);
        advanced.map_err(|refused| JoinRefusal::Code(refused.code))?;
        // By then it has to fetch what it got.
        let deadline = self.now.at + millis(join.rebalance_timeout_ms());
        self.group.set_step_deadline(&member_id, Some(deadline));
        let epoch = self.group.members.get(&member_id).map_or(0, |member| member.current.epoch);
        Ok(JoinGroupResponse::default()
            .with_generation_id(epoch)
            .with_protocol_type(Some(text(CONSUMER_PROTOCOL_TYPE)))
            .with_protocol_name(protocol_name)
            .with_member_id(text(&member_id)))
    }

    fn identify_classic(&self, join: &Join<'_>) -> Result<Who, JoinRefusal> {
        let member_id = join.member_id();
        let is_known = self.group.members.contains_key(member_id);
        if !is_known && self.group.members.len() >= self.config.consumer.max_size {
            return Err(JoinRefusal::Code(ErrorCode::GroupMaxSizeReached));
        }
        if join.has_to_return_with_id() {
            return Err(JoinRefusal::MemberIdRequired(join.new_member_id()));
        }
        let id = if member_id.is_empty() { join.new_member_id() } else { member_id.to_owned() };
        let Some(instance_id) = join.instance_id() else {
            return Ok(if is_known { Who::Member(id) } else { Who::Newcomer(id) });
        };
        match self.group.static_members.get(instance_id) {
            Some(holder) if holder == member_id => Ok(Who::Member(id)),
            Some(holder) if member_id.is_empty() => Ok(Who::Successor { of: holder.clone(), id }),
            Some(_) => Err(JoinRefusal::Code(ErrorCode::FencedInstanceId)),
            None if member_id.is_empty() => Ok(Who::Newcomer(id)),
            None => Err(JoinRefusal::Code(ErrorCode::UnknownMemberId)),
        }
    }

    /// SyncGroup: what the member owns now.
    pub(in crate::groups) fn classic_sync(
        &mut self,
        request: &SyncGroupRequest,
        image: &Image,
    ) -> Result<Bytes, ErrorCode> {
        let member_id = request.member_id.as_str();
        let (member, classic) = self.group.classic_member(member_id, request.group_instance_id.as_deref())?;
        if member.current.epoch != request.generation_id {
            return Err(ErrorCode::IllegalGeneration);
        }
        let protocol = classic.protocols.first().map(|(name, _)| name.as_str());
        let type_differs =
            request.protocol_type.as_deref().is_some_and(|name| name != CONSUMER_PROTOCOL_TYPE);
        let name_differs = request.protocol_name.as_deref().is_some_and(|name| Some(name) != protocol);
        if type_differs || name_differs {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        // Who has to revoke goes through with that first.
        let behind = self.is_behind(member) && member.current.state != MemberState::UnrevokedPartitions;
        let assigned = encode_assignment(&by_name(each(&member.current.assigned), image));
        if behind {
            self.expect_join(member_id);
            return Err(ErrorCode::RebalanceInProgress);
        }
        self.heard_from(member_id, |_| None);
        Ok(assigned)
    }

    /// Heartbeat: REBALANCE_IN_PROGRESS when there is something to be had by joining again.
    pub(in crate::groups) fn classic_heartbeat(
        &mut self,
        request: &HeartbeatRequest,
    ) -> Result<(), ErrorCode> {
        let member_id = request.member_id.as_str();
        let (member, _) = self.group.classic_member(member_id, request.group_instance_id.as_deref())?;
        if member.current.epoch != request.generation_id {
            return Err(ErrorCode::IllegalGeneration);
        }
        let has_news = self.is_behind(member)
            || match member.current.state {
                MemberState::Stable => false,
                MemberState::UnrevokedPartitions => true,
                MemberState::UnreleasedPartitions => !self.group.waits_for_others(member_id, member),
            };
        self.heard_from(member_id, |step| step);
        match has_news {
            true => {
                self.expect_join(member_id);
                Err(ErrorCode::RebalanceInProgress)
            }
            false => Ok(()),
        }
    }

    /// LeaveGroup, for one member.
    pub(in crate::groups) fn classic_leave(&mut self, identity: &MemberIdentity) -> Result<(), ErrorCode> {
        let instance_id = identity.group_instance_id.as_deref();
        let member_id = match (identity.member_id.as_str(), instance_id) {
            // An administrator removes whoever has the instance id, whatever protocol it speaks.
            ("", Some(instance_id)) => {
                self.group.static_members.get(instance_id).cloned().ok_or(ErrorCode::UnknownMemberId)?
            }
            (member_id, _) => {
                self.group.classic_member(member_id, instance_id)?;
                member_id.to_owned()
            }
        };
        self.remove_member(&member_id);
        Ok(())
    }

    /// Whether joining again brings a member on: its target has changed, or will be computed then. A group epoch whose
    /// target is not due yet is no reason: the member would join and sync without a pause until it is.
    fn is_behind(&self, member: &Member) -> bool {
        member.current.epoch < self.group.target_epoch.epoch || self.is_assignment_due()
    }

    fn heard_from(&mut self, member_id: &str, step: impl FnOnce(Option<Instant>) -> Option<Instant>) {
        let before = self.group.timers.get(member_id).and_then(|timers| timers.step);
        self.group.start_timers(member_id, false, self.config, self.now);
        self.group.set_step_deadline(member_id, step(before));
    }

    /// The member was told to join again and has its rebalance time-out for it.
    fn expect_join(&mut self, member_id: &str) {
        let Some(member) = self.group.members.get(member_id) else { return };
        let deadline = self.now.at + millis(member.metadata.rebalance_timeout_ms);
        let before = self.group.timers.get(member_id).and_then(|timers| timers.step);
        self.group.set_step_deadline(member_id, Some(before.unwrap_or(deadline)));
    }
}

impl ConsumerGroup {
    /// Whether a classic member with these protocols can be together with the classic members that there are.
    fn supports_classic(&self, protocol_type: &str, protocols: &[(String, Bytes)]) -> bool {
        let others = self.members.values().filter_map(|member| member.metadata.classic.as_ref());
        let shared = |name: &String| {
            others.clone().all(|other| other.protocols.iter().any(|(theirs, _)| theirs == name))
        };
        protocol_type == CONSUMER_PROTOCOL_TYPE && protocols.iter().map(|(name, _)| name).any(shared)
    }

    fn classic_member(
        &self,
        member_id: &str,
        instance_id: Option<&str>,
    ) -> Result<(&Member, &ClassicMetadata), ErrorCode> {
        if let Some(instance_id) = instance_id {
            match self.static_members.get(instance_id) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(holder) if holder != member_id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        let member = self.members.get(member_id).ok_or(ErrorCode::UnknownMemberId)?;
        let classic = member.metadata.classic.as_ref().ok_or(ErrorCode::UnknownMemberId)?;
        Ok((member, classic))
    }

    /// Whether all that the member is still to get is owned by others.
    fn waits_for_others(&self, member_id: &str, member: &Member) -> bool {
        let Some(target) = self.targets.get(member_id) else { return false };
        let assigned = &member.current.assigned;
        target.iter().all(|(topic, partitions)| {
            let held = assigned.get(topic);
            let missing =
                partitions.iter().filter(|partition| held.is_none_or(|held| !held.contains_key(partition)));
            missing.into_iter().all(|partition| self.owned.contains(&(*topic, *partition)))
        })
    }

    fn set_step_deadline(&mut self, member_id: &str, deadline: Option<Instant>) {
        if let Some(timers) = self.timers.get_mut(member_id) {
            timers.step = deadline;
        }
    }

    /// Whether none of the members speaks the consumer protocol.
    pub(in crate::groups) fn has_only_classic_members(&self) -> bool {
        !self.members.is_empty() && self.members.values().all(|member| member.metadata.classic.is_some())
    }

    /// The classic group of the members, and what it takes to be rid of this one.
    pub(in crate::groups) fn downgrade(
        &self,
        group_id: &str,
        now: super::Now,
    ) -> (ClassicGroup, Vec<super::GroupRecord>) {
        let members = self.members.iter().map(|(id, member)| (id.as_str(), &*member.metadata));
        let group = ClassicGroup::of_members(self.epoch.epoch, members, now);
        let removed = self.members.keys().flat_map(|id| {
            [
                ConsumerRecord::Current(id.clone(), None),
                ConsumerRecord::Target(id.clone(), None),
                ConsumerRecord::Member(id.clone(), None),
            ]
        });
        let removed =
            removed.map(|record| super::GroupRecord::Consumer { group: group_id.to_owned(), record });
        let mut records: Vec<_> = removed.collect();
        records.extend(self.tombstones(group_id));
        records.push(group.current_record(group_id));
        (group, records)
    }
}

fn by_id(named: &NamedPartitions, image: &Image) -> Partitions {
    let mut partitions = Partitions::new();
    for (name, indexes) in named {
        if let Some(topic) = image.topic(name) {
            let known = indexes.iter().filter(|index| topic.partitions.contains_key(index)).copied();
            partitions.entry(topic.id).or_default().extend(known);
        }
    }
    partitions
}

fn by_name(partitions: impl Iterator<Item = (Uuid, i32)>, image: &Image) -> NamedPartitions {
    let mut named = NamedPartitions::new();
    for (topic, partition) in partitions {
        let Some((name, _)) = image.topic_by_id(topic) else { continue };
        match named.last_mut() {
            Some((last, indexes)) if last == name => indexes.push(partition),
            _ => named.push((name.to_owned(), vec![partition])),
        }
    }
    named
}
