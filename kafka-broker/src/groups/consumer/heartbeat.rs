//! ConsumerGroupHeartbeat: a member joins, stays, moves on towards its target, or leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kafka_wire::messages::consumer_group_heartbeat_response::{Assignment, TopicPartitions};
use kafka_wire::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use kafka_wire::{ErrorCode, Uuid};

use super::super::assignor::{Assignor, Partitions};
use super::super::record::text;
use super::super::{Caller, GroupConfig};
use super::member::{Assigned, Current, LEFT, LEFT_STATIC, MemberState, Metadata, each};
use super::reconcile::{self, Target};
use super::record::{ConsumerRecord, GroupEpoch, TargetEpoch};
use super::{ConsumerGroup, Edit, Member, Refused, refuse, subscription};
use crate::cluster::image::Image;

/// A member that waits for others is told to come back this soon, ...
const UNSETTLED_INTERVAL: Duration = Duration::from_millis(100);
/// ... for this long after the assignment changed. Kafka has neither: there it waits for its next regular heartbeat.
const UNSETTLED_FOR: Duration = Duration::from_secs(10);

/// The cluster's metadata, and the offset that it reflects.
#[derive(Clone, Copy)]
pub(crate) struct ClusterView<'a> {
    pub(crate) image: &'a Image,
    pub(crate) offset: i64,
}

/// One ConsumerGroupHeartbeat.
#[derive(Clone, Copy)]
pub(crate) struct Heartbeat<'a> {
    pub(crate) request: &'a ConsumerGroupHeartbeatRequest,
    pub(crate) version: i16,
    pub(crate) caller: &'a Caller,
    /// The id of a member that brings none, as clients of version 0 do.
    pub(crate) fresh: Uuid,
    pub(crate) view: ClusterView<'a>,
}

/// Whose heartbeat it is.
pub(super) enum Who {
    Member(String),
    Newcomer(String),
    /// A static member is back with another member id.
    Successor {
        of: String,
        id: String,
    },
}

impl Heartbeat<'_> {
    /// What every member has to heed (`GroupCoordinatorService.throwIfConsumerGroupHeartbeatRequestIsInvalid`).
    pub(in crate::groups) fn check(&self, config: &GroupConfig) -> Result<(), Refused> {
        let invalid = |message: &str| refuse(ErrorCode::InvalidRequest, message);
        let request = self.request;
        let names_itself = (self.version >= 1 || request.member_epoch > 0) && request.member_epoch != LEFT;
        if names_itself && request.member_id.trim().is_empty() {
            return invalid("MemberId can't be empty.");
        }
        if request.group_id.trim().is_empty() {
            return invalid("GroupId can't be empty.");
        }
        if request.instance_id.as_ref().is_some_and(|id| id.trim().is_empty()) {
            return invalid("InstanceId can't be empty.");
        }
        if request.rack_id.as_ref().is_some_and(|id| id.trim().is_empty()) {
            return invalid("RackId can't be empty.");
        }
        match request.member_epoch {
            0 => {
                if request.rebalance_timeout_ms == -1 {
                    return invalid("RebalanceTimeoutMs must be provided in first request.");
                }
                if request.topic_partitions.as_ref().is_none_or(|owned| !owned.is_empty()) {
                    return invalid("TopicPartitions must be empty when (re-)joining.");
                }
                if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none() {
                    return invalid(
                        "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.",
                    );
                }
            }
            LEFT_STATIC if request.instance_id.is_none() => return invalid("InstanceId can't be null."),
            epoch if epoch < LEFT_STATIC => return invalid("MemberEpoch is invalid."),
            _ => {}
        }
        match &request.server_assignor {
            Some(name)
                if !config.consumer.assignors.iter().any(|assignor| assignor.name() == name.as_str()) =>
            {
                let supported: Vec<&str> =
                    config.consumer.assignors.iter().copied().map(Assignor::name).collect();
                refuse(
                    ErrorCode::UnsupportedAssignor,
                    format!(
                        "ServerAssignor {} is not supported. Supported assignors: {}.",
                        name.as_str(),
                        supported.join(", ")
                    ),
                )
            }
            _ => Ok(()),
        }
    }

    /// What the member says it owns, if it says so.
    fn owned(&self) -> Option<Partitions> {
        let mut owned = Partitions::new();
        for topic in self.request.topic_partitions.as_ref()? {
            owned.entry(topic.topic_id).or_default().extend(topic.partitions.iter().copied());
        }
        Some(owned)
    }

    /// All that a member can say, so it may have missed all that it was told.
    fn is_full(&self) -> bool {
        let request = self.request;
        request.rebalance_timeout_ms != -1
            && (request.subscribed_topic_names.is_some() || request.subscribed_topic_regex.is_some())
            && request.topic_partitions.is_some()
    }

    /// The member's metadata with what this request changes of it.
    fn update(&self, metadata: &Metadata) -> Metadata {
        let request = self.request;
        let mut updated = Metadata {
            client_id: self.caller.client_id.clone(),
            client_host: self.caller.client_host.clone(),
            classic: None,
            ..metadata.clone()
        };
        if let Some(instance_id) = &request.instance_id {
            updated.instance_id = Some(instance_id.to_string());
        }
        if let Some(rack_id) = &request.rack_id {
            updated.rack_id = Some(rack_id.to_string());
        }
        if request.rebalance_timeout_ms != -1 {
            updated.rebalance_timeout_ms = request.rebalance_timeout_ms;
        }
        if let Some(assignor) = &request.server_assignor {
            updated.server_assignor = Some(assignor.to_string());
        }
        if let Some(topics) = &request.subscribed_topic_names {
            updated.topics = topics.iter().map(|topic| topic.to_string()).collect();
        }
        if let Some(regex) = &request.subscribed_topic_regex {
            updated.regex = Some(regex.to_string()).filter(|regex| !regex.is_empty());
        }
        updated
    }
}

impl Edit<'_> {
    /// Takes a heartbeat whose form is right.
    pub(in crate::groups) fn heartbeat(
        &mut self,
        heartbeat: &Heartbeat<'_>,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refused> {
        self.follow_settings(heartbeat.view);
        match heartbeat.request.member_epoch {
            LEFT | LEFT_STATIC => self.leave(heartbeat),
            _ => self.stay(heartbeat),
        }
    }

    fn stay(&mut self, heartbeat: &Heartbeat<'_>) -> Result<ConsumerGroupHeartbeatResponse, Refused> {
        let owned = heartbeat.owned();
        let who = self.identify(heartbeat, owned.as_ref())?;
        let known = match &who {
            Who::Member(id) | Who::Successor { of: id, .. } => self.group.members.get(id).cloned(),
            Who::Newcomer(_) => None,
        };
        let Member { metadata: before, current: was } = known.unwrap_or_default();
        let metadata = heartbeat.update(&before);
        if let Some(regex) = metadata.regex.as_ref().filter(|_| metadata.regex != before.regex) {
            // Before anything is changed: an invalid pattern must not leave a trace.
            subscription::compile(regex)?;
        }
        let is_newcomer = matches!(who, Who::Newcomer(_));
        let member_id = self.admit(who, &was);
        let narrowed = metadata.topics != before.topics || metadata.regex != before.regex;
        if is_newcomer || metadata != *before {
            self.push(ConsumerRecord::Member(member_id.clone(), Some(Arc::new(metadata))));
        }
        self.advance(&member_id, narrowed, is_newcomer, owned.as_ref(), heartbeat.view)?;
        Ok(self.respond(&member_id, heartbeat, &was))
    }

    /// Lets a member's new subscription, or its coming, have its effects, and brings it closer to its target.
    pub(super) fn advance(
        &mut self,
        member_id: &str,
        narrowed: bool,
        is_newcomer: bool,
        owned: Option<&Partitions>,
        view: ClusterView<'_>,
    ) -> Result<(), Refused> {
        if narrowed {
            self.forget_unused_regexes();
        }
        self.resolve_regexes(view)?;
        self.follow_metadata(narrowed || is_newcomer, view);
        self.assign_if_due(view.image);
        self.reconcile(member_id, narrowed, owned, view.image);
        Ok(())
    }

    /// Who sends the heartbeat, if it may. Changes nothing.
    fn identify(&self, heartbeat: &Heartbeat<'_>, owned: Option<&Partitions>) -> Result<Who, Refused> {
        let request = heartbeat.request;
        let (member_id, epoch) = (request.member_id.as_str(), request.member_epoch);
        let group_id = self.group_id;
        let Some(instance_id) = request.instance_id.as_deref() else {
            return match self.group.members.get(member_id) {
                Some(member) => {
                    check_epoch(member, epoch, owned)?;
                    Ok(Who::Member(member_id.to_owned()))
                }
                None if epoch == 0 => self.newcomer(heartbeat),
                None => refuse(
                    ErrorCode::UnknownMemberId,
                    format!("Member {member_id} is not a member of group {group_id}."),
                ),
            };
        };
        let holder = self.group.static_members.get(instance_id);
        let holder = holder.and_then(|id| Some((id.as_str(), self.group.members.get(id)?)));
        match holder {
            None if epoch == 0 => self.newcomer(heartbeat),
            None => refuse(ErrorCode::UnknownMemberId, format!("Instance id {instance_id} is unknown.")),
            Some((id, member)) if id == member_id => {
                if epoch == 0 && member.current.epoch == LEFT_STATIC {
                    return Ok(Who::Successor { of: id.to_owned(), id: id.to_owned() });
                }
                check_epoch(member, epoch, owned)?;
                Ok(Who::Member(id.to_owned()))
            }
            Some((id, member)) if epoch == 0 => match member.current.epoch {
                // A process that speaks the classic protocol gives way to one that does not.
                epoch if epoch == LEFT_STATIC || member.metadata.classic.is_some() => {
                    Ok(Who::Successor { of: id.to_owned(), id: new_id(heartbeat) })
                }
                _ => refuse(
                    ErrorCode::UnreleasedInstanceId,
                    format!(
                        "Static member {member_id} with instance id {instance_id} cannot join the group because the instance id is owned by {id} member."
                    ),
                ),
            },
            Some((id, _)) => fenced_instance(member_id, instance_id, id),
        }
    }

    fn newcomer(&self, heartbeat: &Heartbeat<'_>) -> Result<Who, Refused> {
        if self.group.members.len() >= self.config.consumer.max_size {
            return refuse(
                ErrorCode::GroupMaxSizeReached,
                format!(
                    "The consumer group has reached its maximum capacity of {} members.",
                    self.config.consumer.max_size
                ),
            );
        }
        Ok(Who::Newcomer(new_id(heartbeat)))
    }

    /// Puts a static member that is back in its predecessor's place, with its target and what it owned.
    pub(super) fn admit(&mut self, who: Who, was: &Current) -> String {
        let (of, id) = match who {
            Who::Member(id) | Who::Newcomer(id) => return id,
            Who::Successor { of, id } => (of, id),
        };
        let metadata = self.group.members.get(&of).map(|member| Arc::clone(&member.metadata));
        let target = self.group.targets.get(&of).cloned().unwrap_or_default();
        if of != id {
            self.push_removal(&of);
        }
        self.push(ConsumerRecord::Member(id.clone(), Some(metadata.unwrap_or_default())));
        self.push(ConsumerRecord::Target(id.clone(), Some(target)));
        let current =
            Current { epoch: 0, previous_epoch: 0, assigned: was.assigned.clone(), ..Current::default() };
        self.push(ConsumerRecord::Current(id.clone(), Some(Arc::new(current))));
        id
    }

    pub(super) fn bump_epoch(&mut self, metadata_hash: i64) {
        let epoch = self.group.epoch.epoch.saturating_add(1);
        self.push(ConsumerRecord::Group(Some(GroupEpoch { epoch, metadata_hash })));
    }

    /// Whether there is a group epoch without a target assignment, and the last one is not too young for another.
    pub(super) fn is_assignment_due(&self) -> bool {
        let interval = i64::try_from(self.settings().assignment_interval.as_millis()).unwrap_or(i64::MAX);
        let age_ms = self.now.ms.saturating_sub(self.group.target_epoch.at_ms);
        self.group.epoch.epoch > self.group.target_epoch.epoch && !(0..interval).contains(&age_ms)
    }

    /// Computes the target assignment of a new group epoch, unless the last one is too young.
    fn assign_if_due(&mut self, image: &Image) {
        if !self.is_assignment_due() {
            return;
        }
        let GroupEpoch { epoch, .. } = self.group.epoch;
        let spec = self.group.spec(image);
        let assigned = self.group.assignor(self.config).assign(&spec);
        let ids = spec.members.iter().map(|member| member.id.to_owned());
        let changed: Vec<(String, Partitions)> = ids
            .zip(assigned)
            .filter(|(id, partitions)| {
                self.group.targets.get(id).is_none_or(|target| **target != *partitions)
            })
            .collect();
        for (id, partitions) in changed {
            self.push(ConsumerRecord::Target(id, Some(Arc::new(partitions))));
        }
        self.push(ConsumerRecord::TargetEpoch(Some(TargetEpoch { epoch, at_ms: self.now.ms })));
    }

    fn reconcile(&mut self, member_id: &str, narrowed: bool, owned: Option<&Partitions>, image: &Image) {
        let group = &*self.group;
        let Some(member) = group.members.get(member_id) else { return };
        let mut target = group.targets.get(member_id).cloned().unwrap_or_default();
        let outdated = group.epoch.epoch > group.target_epoch.epoch;
        if outdated {
            // The target may be of a subscription that is no more.
            let read: BTreeSet<Uuid> =
                group.topics_of(&member.metadata, image).map(|(_, topic)| topic.id).collect();
            if target.keys().any(|topic| !read.contains(topic)) {
                Arc::make_mut(&mut target).retain(|topic, _| read.contains(topic));
            }
        }
        let to =
            Target { epoch: group.target_epoch.epoch, partitions: &target, narrowed: narrowed && outdated };
        let is_free = |topic, partition| !group.owned.contains(&(topic, partition));
        let next = reconcile::next(&member.current, &to, owned, is_free);
        let advanced =
            next.as_ref().is_some_and(|next| next.pending_revocation != member.current.pending_revocation);
        if let Some(next) = next {
            self.push(ConsumerRecord::Current(member_id.to_owned(), Some(Arc::new(next))));
        }
        self.group.start_timers(member_id, advanced, self.config, self.now);
    }

    fn respond(
        &self,
        member_id: &str,
        heartbeat: &Heartbeat<'_>,
        was: &Current,
    ) -> ConsumerGroupHeartbeatResponse {
        let current =
            self.group.members.get(member_id).map(|member| Arc::clone(&member.current)).unwrap_or_default();
        let epoch = heartbeat.request.member_epoch;
        // An epoch that has passed is that of a member that missed an answer.
        let tell =
            epoch == 0 || epoch != was.epoch || heartbeat.is_full() || !current.has_same_assignment(was);
        let interval = self.heartbeat_interval(&current);
        ConsumerGroupHeartbeatResponse::default()
            .with_member_id(Some(text(member_id)))
            .with_member_epoch(current.epoch)
            .with_heartbeat_interval_ms(i32::try_from(interval.as_millis()).unwrap_or(i32::MAX))
            .with_assignment(tell.then(|| assignment(&current.assigned)))
    }

    fn heartbeat_interval(&self, current: &Current) -> Duration {
        let regular = self.settings().heartbeat_interval;
        let age_ms = u64::try_from(self.now.ms.saturating_sub(self.group.target_epoch.at_ms)).unwrap_or(0);
        let waits = current.state == MemberState::UnreleasedPartitions
            || self.group.epoch.epoch > self.group.target_epoch.epoch;
        match waits && Duration::from_millis(age_ms) < UNSETTLED_FOR {
            true => regular.min(UNSETTLED_INTERVAL),
            false => regular,
        }
    }

    /// A member says goodbye: for good, or as a static member that will be back.
    fn leave(&mut self, heartbeat: &Heartbeat<'_>) -> Result<ConsumerGroupHeartbeatResponse, Refused> {
        let request = heartbeat.request;
        let (member_id, epoch) = (request.member_id.as_str(), request.member_epoch);
        let group_id = self.group_id;
        if let Some(instance_id) = request.instance_id.as_deref() {
            match self.group.static_members.get(instance_id) {
                None => {
                    return refuse(
                        ErrorCode::UnknownMemberId,
                        format!("Instance id {instance_id} is unknown."),
                    );
                }
                Some(holder) if holder != member_id => {
                    return fenced_instance(member_id, instance_id, holder);
                }
                Some(_) => {}
            }
        }
        let Some(member) = self.group.members.get(member_id) else {
            return refuse(
                ErrorCode::UnknownMemberId,
                format!("Member {member_id} is not a member of group {group_id}."),
            );
        };
        if epoch == LEFT_STATIC {
            // It has let go of everything; what it is to own is kept for it as long as its session lasts.
            let current = Current { epoch, pending_revocation: Assigned::new(), ..(*member.current).clone() };
            self.push(ConsumerRecord::Current(member_id.to_owned(), Some(Arc::new(current))));
            if let Some(timers) = self.group.timers.get_mut(member_id) {
                timers.step = None;
            }
        } else {
            self.remove_member(member_id);
        }
        Ok(ConsumerGroupHeartbeatResponse::default()
            .with_member_id(Some(text(member_id)))
            .with_member_epoch(epoch))
    }
}

impl ConsumerGroup {
    /// The assignor that most members ask for, the group's default if none does.
    pub(super) fn assignor(&self, config: &GroupConfig) -> Assignor {
        let mut votes: BTreeMap<Assignor, usize> = BTreeMap::new();
        let wanted = self.members.values().filter_map(|member| member.metadata.server_assignor.as_deref());
        for assignor in wanted.filter_map(Assignor::by_name) {
            *votes.entry(assignor).or_default() += 1;
        }
        let preferred = votes.into_iter().max_by_key(|(_, count)| *count).map(|(assignor, _)| assignor);
        preferred.or_else(|| config.consumer.assignors.first().copied()).unwrap_or(Assignor::Uniform)
    }
}

fn new_id(heartbeat: &Heartbeat<'_>) -> String {
    match heartbeat.request.member_id.as_str() {
        "" => heartbeat.fresh.to_string(),
        id => id.to_owned(),
    }
}

fn fenced_instance<T>(member_id: &str, instance_id: &str, holder: &str) -> Result<T, Refused> {
    refuse(
        ErrorCode::FencedInstanceId,
        format!("Static member {member_id} with instance id {instance_id} was fenced by member {holder}."),
    )
}

/// An epoch that has passed is taken from a member that missed the last answer, if it still has nothing that this answer
/// took away; joining again (0) is always in order.
fn check_epoch(member: &Member, epoch: i32, owned: Option<&Partitions>) -> Result<(), Refused> {
    let current = &member.current;
    if epoch == 0 || epoch == current.epoch {
        return Ok(());
    }
    if epoch > current.epoch {
        return refuse(
            ErrorCode::FencedMemberEpoch,
            format!(
                "The consumer group member has a greater member epoch ({epoch}) than the one known by the group coordinator ({}). The member must abandon all its partitions and rejoin.",
                current.epoch
            ),
        );
    }
    if epoch != current.previous_epoch || owned.is_none_or(|owned| !current.covers(owned)) {
        return refuse(
            ErrorCode::FencedMemberEpoch,
            format!(
                "The consumer group member has a smaller member epoch ({epoch}) than the one known by the group coordinator ({}). The member must abandon all its partitions and rejoin.",
                current.epoch
            ),
        );
    }
    Ok(())
}

fn assignment(assigned: &Assigned) -> Assignment {
    let mut topics: BTreeMap<Uuid, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in each(assigned) {
        topics.entry(topic).or_default().push(partition);
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        TopicPartitions::default().with_topic_id(topic).with_partitions(partitions)
    });
    Assignment::default().with_topic_partitions(topics.collect())
}
