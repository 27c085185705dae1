//! A member of a classic group: JoinGroup, SyncGroup, Heartbeat, LeaveGroup as one state machine.
//!
//! Events and `now` go in, [`Action`]s come out; the shell sends the requests and gives up or takes over
//! partitions. Sources: KIP-62 (heartbeats apart from polling), KIP-345 (static members), KIP-394 (member ids),
//! KIP-429 (cooperative rebalancing), KIP-800 (reasons), KIP-814 (a static leader that comes back),
//! KIP-881 (racks).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_wire::ErrorCode;
use tokio::time::Instant;

use super::GroupError;
use super::assignor::{Assignment, Assignor, GroupState, Member, RebalanceProtocol, ReplicaRacks};
use super::heartbeat::{Heartbeat, Step};
use super::member::{Failure, GroupExit, Identity, NO_GENERATION, Pace};
use super::protocol::{self, Subscription};
use crate::TopicPartition;

#[derive(Debug, Clone)]
pub(crate) struct MembershipConfig {
    pub group: String,
    pub instance_id: Option<String>,
    pub rack: Option<String>,
    pub session_timeout: Duration,
    pub heartbeat_interval: Duration,
    /// Also the rebalance timeout, as in Java.
    pub max_poll_interval: Duration,
    /// In order of preference; not empty.
    pub assignors: Vec<Arc<dyn Assignor>>,
}

/// What the shell has to do next.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    Join {
        member_id: String,
        protocols: Vec<(String, Bytes)>,
        reason: Cow<'static, str>,
    },
    /// Tell [`Membership::counted`] how these topics are partitioned; this member leads.
    CountPartitions(Vec<Arc<str>>),
    Sync {
        identity: Identity,
        protocol: String,
        assignments: Vec<(String, Bytes)>,
    },
    Heartbeat(Identity),
    Leave(Identity),
    /// The coordinator is elsewhere or gone: look it up before the next request.
    ForgetCoordinator,
    /// Give these partitions up, then call [`Membership::released`]. Revoked ones may be committed first, lost
    /// ones may not: another member may have them already.
    Release {
        partitions: Vec<TopicPartition>,
        lost: bool,
    },
    /// Start reading `added`; `all` is what this member now owns.
    Assign {
        added: Vec<TopicPartition>,
        all: Vec<TopicPartition>,
    },
    Fail(GroupError),
}

/// What assignors must know of topics; those that do not exist are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Partitioning {
    pub counts: BTreeMap<Arc<str>, i32>,
    pub replica_racks: ReplicaRacks,
}

impl Partitioning {
    /// Whether a partition has a replica in a rack where `earlier` had none. That a rack is gone is no news: a broker
    /// that restarts has none for a while, and a rebalance for each restart would cost more than it brings.
    fn reaches_more_racks_than(&self, earlier: &Self) -> bool {
        self.replica_racks.iter().any(|(topic, partitions)| {
            let before = earlier.replica_racks.get(topic).map_or(&[][..], Vec::as_slice);
            partitions.iter().enumerate().any(|(at, racks)| match before.get(at) {
                Some(before) => !racks.is_subset(before),
                None => !racks.is_empty(),
            })
        })
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Joined {
    pub member_id: String,
    pub generation: i32,
    pub protocol: String,
    pub leader: String,
    /// The leader must not assign: a static leader came back and nothing changed (KIP-814).
    pub skip_assignment: bool,
    /// Member id, instance id and subscription of everyone; only the leader is told.
    pub members: Vec<(String, Option<String>, Bytes)>,
}

#[derive(Debug, Clone)]
pub(crate) enum JoinAnswer {
    Joined(Joined),
    /// Join again under this id (KIP-394).
    MemberIdRequired(String),
    Failed(Failure),
}

#[derive(Debug)]
enum State {
    /// Joins as soon as `not_before` has come.
    Unjoined {
        not_before: Instant,
    },
    Releasing(AfterRelease),
    Joining,
    /// Leading, and waiting for partition counts.
    Counting {
        members: Vec<Member>,
    },
    Syncing,
    Stable,
    /// Left because the application did not poll; joins when it does.
    Stale,
    Left,
}

#[derive(Debug)]
enum AfterRelease {
    Join { not_before: Instant },
    Adopt { partitions: BTreeSet<TopicPartition> },
    WaitForPoll,
    Leave(GroupExit),
    Nothing,
}

pub(crate) struct Membership {
    config: MembershipConfig,
    rebalance_protocol: RebalanceProtocol,
    topics: Vec<Arc<str>>,
    /// The topics that match its pattern are not known yet.
    awaits_topics: bool,
    member_id: String,
    generation: i32,
    protocol: String,
    owned: BTreeSet<TopicPartition>,
    /// What this member assigned by, while it leads.
    assigned_by: Option<Partitioning>,
    /// Whether a member of the group that it leads says where it is.
    has_racks: bool,
    /// The topics of all members, whether they exist or not, while it leads.
    watched_topics: Vec<Arc<str>>,
    state: State,
    rejoin_reason: Option<Cow<'static, str>>,
    heartbeat: Heartbeat,
    polled_at: Instant,
    pace: Pace,
    actions: VecDeque<Action>,
}

impl Membership {
    /// `None`: [`Membership::subscribe`] will tell, and nothing is joined before.
    pub(crate) fn new(config: MembershipConfig, topics: Option<Vec<Arc<str>>>, now: Instant) -> Self {
        let rebalance_protocol = if config
            .assignors
            .iter()
            .all(|assignor| assignor.protocols().contains(&RebalanceProtocol::Cooperative))
        {
            RebalanceProtocol::Cooperative
        } else {
            RebalanceProtocol::Eager
        };
        let heartbeat = Heartbeat::new(config.heartbeat_interval, config.session_timeout, now);
        Self {
            config,
            rebalance_protocol,
            awaits_topics: topics.is_none(),
            topics: topics.unwrap_or_default(),
            member_id: String::new(),
            generation: NO_GENERATION,
            protocol: String::new(),
            owned: BTreeSet::new(),
            assigned_by: None,
            has_racks: false,
            watched_topics: Vec::new(),
            state: State::Unjoined { not_before: now },
            rejoin_reason: None,
            heartbeat,
            polled_at: now,
            pace: Pace::default(),
            actions: VecDeque::new(),
        }
    }

    /// What commits must carry now.
    pub(crate) fn identity(&self) -> Identity {
        Identity {
            generation: self.generation,
            member_id: self.member_id.clone(),
            instance_id: self.config.instance_id.clone(),
        }
    }

    pub(crate) fn topics(&self) -> &[Arc<str>] {
        &self.topics
    }

    pub(crate) fn has_left(&self) -> bool {
        matches!(self.state, State::Left)
    }

    /// The next thing to do, if any. Call until it returns `None`, then again at [`Membership::wake_at`] or
    /// after an event.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Action> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Some(action);
            }
            if self.is_active() && now >= self.poll_deadline() {
                self.leave_for_silence();
                continue;
            }
            match &self.state {
                State::Unjoined { not_before } if now >= *not_before && !self.awaits_topics => {
                    self.begin_join();
                }
                State::Stable if self.rejoin_reason.is_some() => {
                    self.state = State::Unjoined { not_before: now };
                }
                _ if self.heartbeats() => match self.heartbeat.poll(now) {
                    Step::Send => self.actions.push_back(Action::Heartbeat(self.identity())),
                    Step::CoordinatorSilent => self.actions.push_back(Action::ForgetCoordinator),
                    Step::WaitUntil(_) => return None,
                },
                _ => return None,
            }
        }
    }

    /// When [`Membership::poll`] has something to say even without an event.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let mut wake_at: Option<Instant> = None;
        let mut consider = |at: Instant| wake_at = Some(wake_at.map_or(at, |earlier| earlier.min(at)));
        if let State::Unjoined { not_before } = &self.state
            && !self.awaits_topics
        {
            consider(*not_before);
        }
        if self.heartbeats() {
            consider(self.heartbeat.wake_at());
        }
        if self.is_active() {
            consider(self.poll_deadline());
        }
        wake_at
    }

    /// The application asked for records, or is still waiting for some.
    pub(crate) fn polled(&mut self, now: Instant) {
        self.polled_at = now;
        if matches!(self.state, State::Stale) {
            self.rejoin_reason = Some("the application polls again".into());
            self.state = State::Unjoined { not_before: now };
        }
    }

    /// Subscribes to other topics, which takes a rebalance.
    pub(crate) fn subscribe(&mut self, topics: Vec<Arc<str>>) {
        self.awaits_topics = false;
        if self.topics != topics {
            self.topics = topics;
            self.rejoin("the subscription changed");
        }
    }

    /// The application asks for a rebalance (KIP-568).
    pub(crate) fn enforce_rebalance(&mut self) {
        if self.is_member() {
            self.rejoin("the application asked for a rebalance");
        }
    }

    /// The cluster's metadata changed. The leader watches it for the group: new partitions need an assignment.
    pub(crate) fn topics_changed(&mut self, topics: &Partitioning) {
        if let Some(assigned_by) = &self.assigned_by
            && matches!(self.state, State::Stable | State::Syncing)
        {
            if assigned_by.counts != topics.counts {
                self.rejoin("the partitions of a subscribed topic changed");
            } else if self.has_racks && topics.reaches_more_racks_than(assigned_by) {
                self.rejoin("replicas of a subscribed topic are in other racks");
            }
        }
    }

    /// The topics of which [`Membership::topics_changed`] must be told; empty unless leading.
    pub(crate) fn watched_topics(&self) -> &[Arc<str>] {
        if self.assigned_by.is_some() { &self.watched_topics } else { &[] }
    }

    pub(crate) fn joined(&mut self, now: Instant, answer: JoinAnswer) {
        if !matches!(self.state, State::Joining) {
            return;
        }
        match answer {
            JoinAnswer::Joined(joined) => self.begin_sync(now, joined),
            JoinAnswer::MemberIdRequired(member_id) => {
                self.member_id = member_id;
                self.state = State::Unjoined { not_before: now };
            }
            JoinAnswer::Failed(failure) => self.handle_failure(now, failure),
        }
    }

    /// The answer to [`Action::CountPartitions`].
    pub(crate) fn counted(&mut self, topics: Partitioning) {
        let State::Counting { members } = &mut self.state else { return };
        let members = std::mem::take(members);
        self.has_racks = members.iter().any(|member| member.rack().is_some());
        let group = GroupState::new(topics.counts, members).with_replica_racks(topics.replica_racks);
        let Some(assignor) = self.config.assignors.iter().find(|a| a.name() == self.protocol) else {
            return self.fail(GroupError::Protocol {
                group: self.config.group.clone(),
                reason: format!("no assignor {} here", self.protocol),
            });
        };
        match assignor.assign(&group) {
            Ok(mut assignments) => {
                let encoded = group
                    .members
                    .iter()
                    .map(|member| {
                        let assignment = assignments.remove(&member.member_id).unwrap_or_default();
                        (member.member_id.clone(), protocol::encode_assignment(&assignment))
                    })
                    .collect();
                self.assigned_by =
                    Some(Partitioning { counts: group.topics, replica_racks: group.replica_racks });
                self.sync(encoded);
            }
            Err(source) => self.fail(GroupError::Assign { group: self.config.group.clone(), source }),
        }
    }

    pub(crate) fn synced(&mut self, now: Instant, answer: Result<Bytes, Failure>) {
        if !matches!(self.state, State::Syncing) {
            return;
        }
        let assignment = match answer {
            Ok(bytes) => protocol::decode_assignment(bytes),
            Err(failure) => return self.handle_failure(now, failure),
        };
        match assignment {
            Ok(assignment) => self.take_assignment(now, &assignment),
            Err(error) => self
                .fail(GroupError::Protocol { group: self.config.group.clone(), reason: error.to_string() }),
        }
    }

    /// `generation` is the one the heartbeat carried: an answer that outlived it says nothing about this one.
    pub(crate) fn heartbeat_answered(&mut self, now: Instant, generation: i32, answer: Result<(), Failure>) {
        if generation != self.generation || !self.heartbeats() {
            return;
        }
        match answer {
            Ok(()) => self.heartbeat.answered(now),
            Err(Failure::Refused(ErrorCode::RebalanceInProgress)) => {
                self.heartbeat.answered(now);
                self.rejoin("the group rebalances");
            }
            Err(Failure::Refused(code)) if !code.is_retriable() => {
                self.handle_failure(now, Failure::Refused(code));
            }
            Err(failure) => {
                self.heartbeat.failed(now, Pace::FIRST);
                if failure.is_about_coordinator() {
                    self.actions.push_back(Action::ForgetCoordinator);
                }
            }
        }
    }

    /// A commit under `generation` was refused in a way that ends the membership.
    pub(crate) fn commit_refused(&mut self, now: Instant, generation: i32, code: ErrorCode) {
        if generation == self.generation && self.heartbeats() {
            match code {
                ErrorCode::RebalanceInProgress => self.rejoin("the group rebalances"),
                ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration | ErrorCode::FencedInstanceId => {
                    self.handle_failure(now, Failure::Refused(code));
                }
                _ => {}
            }
        }
    }

    /// The partitions of the last [`Action::Release`] are given up.
    pub(crate) fn released(&mut self, now: Instant) {
        let State::Releasing(after) = &mut self.state else { return };
        match std::mem::replace(after, AfterRelease::Nothing) {
            AfterRelease::Join { not_before } => {
                // The partitions are gone; a second release must not be asked for.
                self.drop_unheld();
                self.state = State::Unjoined { not_before: not_before.max(now) };
            }
            AfterRelease::Adopt { partitions } => {
                self.adopt(partitions);
                self.rejoin("partitions were revoked for other members");
            }
            AfterRelease::WaitForPoll => self.state = State::Stale,
            AfterRelease::Leave(exit) => {
                self.owned.clear();
                let leaves = match exit {
                    GroupExit::Default => self.config.instance_id.is_none(),
                    GroupExit::Leave => true,
                    GroupExit::Remain => false,
                };
                if leaves && self.is_member() {
                    self.actions.push_back(Action::Leave(self.identity()));
                }
                self.forget_membership(true);
                self.state = State::Left;
            }
            AfterRelease::Nothing => self.state = State::Left,
        }
    }

    /// Gives everything up and leaves. Members that remain are the group's until their session ends (KIP-345).
    pub(crate) fn leave(&mut self, exit: GroupExit) {
        if self.has_left() {
            return;
        }
        self.release(self.owned.clone(), false, AfterRelease::Leave(exit));
    }

    fn is_member(&self) -> bool {
        !self.member_id.is_empty()
    }

    /// Whether the application's silence would cost the membership.
    fn is_active(&self) -> bool {
        self.generation != NO_GENERATION
            && !matches!(
                self.state,
                State::Stale
                    | State::Left
                    | State::Releasing(
                        AfterRelease::WaitForPoll | AfterRelease::Leave(_) | AfterRelease::Nothing
                    )
            )
    }

    /// In Joining the coordinator waits for us and not the other way round.
    fn heartbeats(&self) -> bool {
        self.generation != NO_GENERATION
            && matches!(
                self.state,
                State::Stable | State::Syncing | State::Counting { .. } | State::Releasing(_)
            )
    }

    fn poll_deadline(&self) -> Instant {
        self.polled_at + self.config.max_poll_interval
    }

    fn rejoin(&mut self, reason: impl Into<Cow<'static, str>>) {
        self.rejoin_reason.get_or_insert_with(|| reason.into());
    }

    /// What must be given up before joining: everything (eager), or what is no longer subscribed to.
    fn must_release_before_join(&self) -> BTreeSet<TopicPartition> {
        match self.rebalance_protocol {
            RebalanceProtocol::Eager => self.owned.clone(),
            RebalanceProtocol::Cooperative => self
                .owned
                .iter()
                .filter(|partition| !self.topics.contains(&partition.topic))
                .cloned()
                .collect(),
        }
    }

    fn drop_unheld(&mut self) {
        for partition in self.must_release_before_join() {
            self.owned.remove(&partition);
        }
    }

    fn begin_join(&mut self) {
        let State::Unjoined { not_before } = self.state else { return };
        let release = self.must_release_before_join();
        if !release.is_empty() {
            return self.release(release, false, AfterRelease::Join { not_before });
        }
        let owned: Vec<TopicPartition> = self.owned.iter().cloned().collect();
        let generation = (self.generation != NO_GENERATION).then_some(self.generation);
        let protocols = self
            .config
            .assignors
            .iter()
            .map(|assignor| {
                let metadata = protocol::encode_subscription(&Subscription {
                    topics: &self.topics,
                    owned: &owned,
                    generation: self.generation,
                    rack: self.config.rack.as_deref(),
                    user_data: assignor.subscription_user_data(&self.topics, generation),
                });
                (assignor.name().to_owned(), metadata)
            })
            .collect();
        self.assigned_by = None;
        self.state = State::Joining;
        self.actions.push_back(Action::Join {
            member_id: self.member_id.clone(),
            protocols,
            reason: self.rejoin_reason.take().unwrap_or_default(),
        });
    }

    fn begin_sync(&mut self, now: Instant, joined: Joined) {
        self.pace.succeeded();
        self.member_id = joined.member_id;
        self.generation = joined.generation;
        self.protocol = joined.protocol;
        self.heartbeat.restart(now);
        if joined.leader != self.member_id {
            return self.sync(Vec::new());
        }
        let mut members = Vec::with_capacity(joined.members.len());
        for (member_id, instance_id, metadata) in joined.members {
            match protocol::decode_subscription(member_id, instance_id, metadata) {
                Ok(member) => members.push(member),
                Err(error) => {
                    return self.fail(GroupError::Protocol {
                        group: self.config.group.clone(),
                        reason: error.to_string(),
                    });
                }
            }
        }
        if joined.skip_assignment {
            return self.sync(Vec::new());
        }
        let mut topics: BTreeSet<Arc<str>> =
            members.iter().flat_map(|member| member.topics.iter().cloned()).collect();
        if let Some(assignor) = self.config.assignors.iter().find(|a| a.name() == self.protocol) {
            topics.extend(assignor.extra_topics(&members));
        }
        self.watched_topics = topics.into_iter().collect();
        self.state = State::Counting { members };
        self.actions.push_back(Action::CountPartitions(self.watched_topics.clone()));
    }

    fn sync(&mut self, assignments: Vec<(String, Bytes)>) {
        self.state = State::Syncing;
        self.actions.push_back(Action::Sync {
            identity: self.identity(),
            protocol: self.protocol.clone(),
            assignments,
        });
    }

    fn take_assignment(&mut self, now: Instant, assignment: &Assignment) {
        self.pace.succeeded();
        self.heartbeat.restart(now);
        if let Some(assignor) = self.config.assignors.iter().find(|a| a.name() == self.protocol) {
            assignor.on_assignment(assignment, self.generation);
        }
        let assigned: BTreeSet<TopicPartition> = assignment.partitions.iter().cloned().collect();
        let revoked: BTreeSet<TopicPartition> = self.owned.difference(&assigned).cloned().collect();
        if revoked.is_empty() {
            self.adopt(assigned);
        } else {
            self.release(revoked, false, AfterRelease::Adopt { partitions: assigned });
        }
    }

    fn adopt(&mut self, assigned: BTreeSet<TopicPartition>) {
        let added = assigned.difference(&self.owned).cloned().collect();
        self.actions.push_back(Action::Assign { added, all: assigned.iter().cloned().collect() });
        self.owned = assigned;
        self.state = State::Stable;
    }

    fn release(&mut self, partitions: BTreeSet<TopicPartition>, lost: bool, after: AfterRelease) {
        // An older release that the shell has not begun is part of this one.
        self.actions.retain(|action| !matches!(action, Action::Release { .. }));
        self.state = State::Releasing(after);
        self.actions.push_back(Action::Release { partitions: partitions.into_iter().collect(), lost });
    }

    /// The membership is over as far as the coordinator is concerned: what we own may be someone else's.
    fn lose(&mut self, forget_member_id: bool, after: AfterRelease) {
        self.forget_membership(forget_member_id);
        let lost = std::mem::take(&mut self.owned);
        let after = match self.state {
            State::Releasing(AfterRelease::Leave(exit)) => AfterRelease::Leave(exit),
            _ => after,
        };
        self.release(lost, true, after);
    }

    fn forget_membership(&mut self, forget_member_id: bool) {
        self.generation = NO_GENERATION;
        self.assigned_by = None;
        if forget_member_id {
            self.member_id.clear();
        }
    }

    /// KIP-62: a member whose application stopped polling leaves by itself, so that others take over.
    fn leave_for_silence(&mut self) {
        let identity = self.identity();
        self.lose(true, AfterRelease::WaitForPoll);
        if identity.instance_id.is_none() {
            self.actions.push_back(Action::Leave(identity));
        }
    }

    fn fail(&mut self, error: GroupError) {
        self.lose(true, AfterRelease::Nothing);
        self.actions.push_back(Action::Fail(error));
    }

    fn handle_failure(&mut self, now: Instant, failure: Failure) {
        if failure.is_about_coordinator() {
            self.actions.push_back(Action::ForgetCoordinator);
        }
        let code = match failure {
            Failure::Refused(code) => code,
            Failure::Unanswered => {
                let not_before = now + self.pace.failed();
                self.state = State::Unjoined { not_before };
                return;
            }
        };
        match code {
            ErrorCode::RebalanceInProgress => {
                self.rejoin("the group rebalances");
                self.state = State::Unjoined { not_before: now };
            }
            // The coordinator still knows the member id, so it is kept; the partitions are lost either way.
            ErrorCode::IllegalGeneration => self.lose(false, AfterRelease::Join { not_before: now }),
            ErrorCode::UnknownMemberId => self.lose(true, AfterRelease::Join { not_before: now }),
            ErrorCode::FencedInstanceId => {
                let instance = self.config.instance_id.clone().unwrap_or_default();
                self.fail(GroupError::Fenced { group: self.config.group.clone(), instance });
            }
            code if code.is_retriable() => {
                let not_before = now + self.pace.failed();
                self.state = State::Unjoined { not_before };
            }
            code => self.fail(GroupError::Refused { group: self.config.group.clone(), code }),
        }
    }
}
