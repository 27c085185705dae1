//! A group of the consumer protocol (KIP-848): the members say what they read and own, the coordinator decides who gets
//! what (Kafka's `ConsumerGroup` and the consumer half of its `GroupMetadataManager`).
//!
//! Three epochs run after each other. A change of members, subscriptions or topics raises the *group epoch*; the target
//! assignment that is computed then has that epoch; and each member comes to it by itself, by giving up what it is not to
//! have and waiting for what others have not given up ([`reconcile`]).
//!
//! - [`classic`]: members that still, or again, speak the classic protocol
//! - [`heartbeat`]: the one request that members send, joining and leaving included
//! - [`subscription`]: which topics members read, patterns among them
//! - [`member`], [`record`]: what there is to know, and how it rests

pub(super) mod classic;
mod describe;
mod heartbeat;
pub(crate) mod member;
#[cfg(test)]
mod migration_tests;
#[cfg(test)]
mod model;
mod reconcile;
pub(crate) mod record;
mod subscription;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_wire::{ErrorCode, Uuid};
use rustc_hash::FxHashSet;

pub(crate) use heartbeat::{ClusterView, Heartbeat};

use super::assignor::{Assignor, Partitions};
use super::record::GroupRecord;
use super::{Group, GroupConfig, Now};
use crate::config::group::ConsumerSettings;
use member::{Current, MemberState, Metadata};
use record::{ConsumerRecord, GroupEpoch, ResolvedRegex, TargetEpoch};

/// How soon a removal is tried again that could not be written (`CoordinatorTimerImpl`).
const RETRY_BACKOFF: Duration = Duration::from_millis(500);

/// The limits of consumer groups, by Kafka's keys.
#[derive(Debug, Clone)]
pub(crate) struct ConsumerGroupConfig {
    /// `group.consumer.session.timeout.ms` and its like, for groups that have no such settings of their own.
    pub(crate) settings: ConsumerSettings,
    /// `group.consumer.max.size`.
    pub(crate) max_size: usize,
    /// `group.consumer.assignors`; the first is the default.
    pub(crate) assignors: Vec<Assignor>,
    /// `group.consumer.migration.policy`: whether classic groups may become consumer groups while they live.
    pub(crate) upgrades: bool,
    /// The same the other way round.
    pub(crate) downgrades: bool,
}

/// Why a request was refused, in Kafka's code and words for a person.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refused {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
}

fn refuse<T>(code: ErrorCode, message: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { code, message: message.into() })
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Member {
    metadata: Arc<Metadata>,
    current: Arc<Current>,
}

/// By when a member has to be heard, and to have done what it was told to: to give something up.
#[derive(Debug, Clone, Copy)]
struct Timers {
    session: Instant,
    /// Of a classic member: to join or to sync.
    step: Option<Instant>,
}

/// The state is what the records say; only timers, `metadata_seen` and `settings` are not on record.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConsumerGroup {
    epoch: GroupEpoch,
    target_epoch: TargetEpoch,
    members: BTreeMap<String, Member>,
    targets: BTreeMap<String, Arc<Partitions>>,
    regexes: BTreeMap<String, Arc<ResolvedRegex>>,
    /// Member ids by group.instance.id.
    static_members: BTreeMap<String, String>,
    /// What any member owns.
    owned: FxHashSet<(Uuid, i32)>,
    timers: BTreeMap<String, Timers>,
    /// Up to where the cluster's metadata was looked at for what the group reads.
    metadata_seen: i64,
    /// As of the last request that brought the cluster's metadata along.
    settings: Option<ConsumerSettings>,
}

/// A group's state by Kafka's name (`ConsumerGroupState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupState {
    Empty,
    Assigning,
    Reconciling,
    Stable,
}

impl GroupState {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Assigning => "Assigning",
            Self::Reconciling => "Reconciling",
            Self::Stable => "Stable",
        }
    }
}

impl ConsumerGroup {
    /// Applies a record of this group.
    pub(super) fn replay(&mut self, record: &ConsumerRecord) {
        match record {
            ConsumerRecord::Group(value) => self.epoch = value.unwrap_or_default(),
            ConsumerRecord::TargetEpoch(value) => self.target_epoch = value.unwrap_or_default(),
            ConsumerRecord::Member(id, Some(metadata)) => {
                let member = self.members.entry(id.clone()).or_default();
                member.metadata = Arc::clone(metadata);
                if let Some(instance_id) = &metadata.instance_id {
                    self.static_members.insert(instance_id.clone(), id.clone());
                }
            }
            ConsumerRecord::Member(id, None) => {
                self.set_current(id, Arc::default());
                self.timers.remove(id);
                let Some(member) = self.members.remove(id) else { return };
                if let Some(instance_id) = &member.metadata.instance_id
                    && self.static_members.get(instance_id) == Some(id)
                {
                    self.static_members.remove(instance_id);
                }
            }
            ConsumerRecord::Current(id, Some(current)) => {
                self.members.entry(id.clone()).or_default();
                self.set_current(id, Arc::clone(current));
            }
            ConsumerRecord::Current(id, None) => self.set_current(id, Arc::default()),
            ConsumerRecord::Target(id, Some(target)) => {
                self.targets.insert(id.clone(), Arc::clone(target));
            }
            ConsumerRecord::Target(id, None) => {
                self.targets.remove(id);
            }
            ConsumerRecord::Regex(pattern, Some(resolved)) => {
                self.regexes.insert(pattern.clone(), Arc::clone(resolved));
            }
            ConsumerRecord::Regex(pattern, None) => {
                self.regexes.remove(pattern);
            }
        }
    }

    fn set_current(&mut self, member_id: &str, current: Arc<Current>) {
        let Some(member) = self.members.get_mut(member_id) else { return };
        for partition in member.current.owned() {
            self.owned.remove(&partition);
        }
        self.owned.extend(current.owned());
        member.current = current;
    }

    /// The whole log has been replayed: members have their time-outs from now on.
    pub(super) fn loaded(&mut self, config: &GroupConfig, now: Now) {
        let member_ids: Vec<String> = self.members.keys().cloned().collect();
        for member_id in member_ids {
            self.start_timers(&member_id, true, config, now);
        }
    }

    /// The member was heard from. `advanced`: it has something new to give up.
    fn start_timers(&mut self, member_id: &str, advanced: bool, config: &GroupConfig, now: Now) {
        let Some(member) = self.members.get(member_id) else { return };
        let session = now.at + member.session_timeout(self.settings.unwrap_or(config.consumer.settings));
        let running = self.timers.get(member_id).and_then(|timers| timers.step);
        let step = (member.current.state == MemberState::UnrevokedPartitions).then(|| {
            let fresh = now.at + super::classic::millis(member.metadata.rebalance_timeout_ms);
            running.filter(|_| !advanced).unwrap_or(fresh)
        });
        self.timers.insert(member_id.to_owned(), Timers { session, step });
    }

    /// What is due could not be written; it is tried again after a while.
    pub(super) fn postpone_timers(&mut self, now: Now) {
        let retry_at = now.at + RETRY_BACKOFF;
        for timers in self.timers.values_mut() {
            timers.session = timers.session.max(retry_at);
            timers.step = timers.step.map(|deadline| deadline.max(retry_at));
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.timers.values().flat_map(|timers| timers.step.into_iter().chain([timers.session])).min()
    }

    /// A member whose time is over.
    fn overdue(&self, now: Now) -> Option<String> {
        let is_due = |timers: &Timers| {
            timers.session <= now.at || timers.step.is_some_and(|deadline| deadline <= now.at)
        };
        self.timers.iter().find(|(_, timers)| is_due(timers)).map(|(id, _)| id.clone())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn member_count(&self) -> usize {
        self.members.len()
    }

    pub(super) fn state(&self) -> GroupState {
        if self.members.is_empty() {
            GroupState::Empty
        } else if self.epoch.epoch > self.target_epoch.epoch {
            GroupState::Assigning
        } else if self.members.values().all(|member| member.is_reconciled_to(self.target_epoch.epoch)) {
            GroupState::Stable
        } else {
            GroupState::Reconciling
        }
    }

    /// The tombstones of an empty group.
    pub(super) fn tombstones(&self, group_id: &str) -> Vec<GroupRecord> {
        let regexes = self.regexes.keys().map(|pattern| ConsumerRecord::Regex(pattern.clone(), None));
        let group = [ConsumerRecord::TargetEpoch(None), ConsumerRecord::Group(None)];
        regexes
            .chain(group)
            .map(|record| GroupRecord::Consumer { group: group_id.to_owned(), record })
            .collect()
    }

    /// Whether a commit may be taken (`ConsumerGroup.validateOffsetCommit`).
    ///
    /// An epoch that has passed still commits what the member had in it and still has (Kafka 4.3).
    pub(super) fn check_offset_commit(
        &self,
        member_id: &str,
        epoch: i32,
        version: i16,
        partitions: impl Iterator<Item = (Uuid, i32)>,
    ) -> Result<(), ErrorCode> {
        if epoch < 0 && self.members.is_empty() {
            return Ok(());
        }
        let member = self.members.get(member_id).ok_or(ErrorCode::UnknownMemberId)?;
        if member.metadata.classic.is_none() && version < EPOCH_COMMIT_VERSION {
            return Err(ErrorCode::UnsupportedVersion);
        }
        if epoch == member.current.epoch {
            return Ok(());
        }
        let stale = member.stale_epoch();
        if epoch > member.current.epoch {
            return Err(stale);
        }
        for (topic, partition) in partitions {
            let since = member.current.assigned.get(&topic).and_then(|all| all.get(&partition));
            if since.is_none_or(|&since| since > epoch) {
                return Err(stale);
            }
        }
        Ok(())
    }

    /// Whether offsets may be fetched by who says so; members say who they are from version 9 on.
    pub(super) fn check_offset_fetch(&self, member_id: Option<&str>, epoch: i32) -> Result<(), ErrorCode> {
        if member_id.is_none_or(str::is_empty) && epoch < 0 {
            return Ok(());
        }
        let member = self.members.get(member_id.unwrap_or_default()).ok_or(ErrorCode::UnknownMemberId)?;
        match member.current.epoch == epoch {
            true => Ok(()),
            false => Err(member.stale_epoch()),
        }
    }
}

/// From this version of OffsetCommit on a member commits with its epoch.
const EPOCH_COMMIT_VERSION: i16 = 9;

impl Member {
    fn session_timeout(&self, settings: ConsumerSettings) -> Duration {
        match &self.metadata.classic {
            Some(classic) => super::classic::millis(classic.session_timeout_ms),
            None => settings.session_timeout,
        }
    }

    fn is_reconciled_to(&self, epoch: i32) -> bool {
        self.current.state == MemberState::Stable && self.current.epoch == epoch
    }

    fn stale_epoch(&self) -> ErrorCode {
        match self.metadata.classic {
            Some(_) => ErrorCode::IllegalGeneration,
            None => ErrorCode::StaleMemberEpoch,
        }
    }
}

/// A step of a group. Its records are replayed as they are made, so that what follows sees them; the group as it was is
/// kept for the case that they cannot be written.
pub(super) struct Edit<'a> {
    pub(super) group_id: &'a str,
    pub(super) group: &'a mut ConsumerGroup,
    pub(super) config: &'a GroupConfig,
    pub(super) now: Now,
    records: Vec<GroupRecord>,
    before: Option<ConsumerGroup>,
}

/// The records that a step made, and the group from before it.
pub(super) struct Edited {
    pub(super) records: Vec<GroupRecord>,
    pub(super) before: Option<Group>,
}

impl<'a> Edit<'a> {
    pub(super) fn new(
        group_id: &'a str,
        group: &'a mut ConsumerGroup,
        config: &'a GroupConfig,
        now: Now,
    ) -> Self {
        Self { group_id, group, config, now, records: Vec::new(), before: None }
    }

    fn settings(&self) -> ConsumerSettings {
        self.group.settings.unwrap_or(self.config.consumer.settings)
    }

    /// Settings that were altered hold from now on.
    fn follow_settings(&mut self, view: ClusterView<'_>) {
        let settings = ConsumerSettings::of(view.image, self.group_id, self.config.consumer.settings);
        self.group.settings = Some(settings);
    }

    fn push(&mut self, record: ConsumerRecord) {
        if self.before.is_none() {
            self.before = Some(self.group.clone());
        }
        self.group.replay(&record);
        self.records.push(GroupRecord::Consumer { group: self.group_id.to_owned(), record });
    }

    pub(super) fn finish(self) -> Edited {
        Edited { records: self.records, before: self.before.map(Group::Consumer) }
    }

    /// Takes a step that leaves the group as it was if it fails.
    pub(super) fn attempt<R, E>(&mut self, step: impl FnOnce(&mut Self) -> Result<R, E>) -> Result<R, E> {
        let done = step(self);
        if done.is_err()
            && let Some(before) = self.before.take()
        {
            self.records.clear();
            *self.group = before;
        }
        done
    }

    /// Removes the first member whose time is over: it was not heard from, or did not give up what it had to.
    pub(super) fn expire(&mut self) -> bool {
        let Some(member_id) = self.group.overdue(self.now) else { return false };
        self.remove_member(&member_id);
        true
    }

    /// A member is gone: what it owned is free, and the others have to be assigned anew.
    fn remove_member(&mut self, member_id: &str) {
        self.push_removal(member_id);
        self.forget_unused_regexes();
        let epoch = GroupEpoch { epoch: self.group.epoch.epoch.saturating_add(1), ..self.group.epoch };
        self.push(ConsumerRecord::Group(Some(epoch)));
    }

    fn push_removal(&mut self, member_id: &str) {
        self.push(ConsumerRecord::Current(member_id.to_owned(), None));
        self.push(ConsumerRecord::Target(member_id.to_owned(), None));
        self.push(ConsumerRecord::Member(member_id.to_owned(), None));
    }
}
