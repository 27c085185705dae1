//! A member of a consumer group (KIP-848): one request, ConsumerGroupHeartbeat, as a state machine.
//!
//! Events and `now` go in, [`Action`]s come out. The coordinator names the partitions this member should have; the
//! member gives up what is not among them (commit, then the application lets go), takes over what is new, and only
//! then says so. Sources: KIP-848, KIP-1082 (member ids are the client's, patterns), and what Java's
//! `AbstractMembershipManager` and `ConsumerHeartbeatRequestManager` do where the KIP leaves a choice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use kafka_wire::{ErrorCode, Uuid};
use tokio::time::Instant;

use super::GroupError;
use super::member::{Failure, GroupExit, Identity, NO_GENERATION, Pace, Topics};
use crate::TopicPartition;

/// The epoch of a heartbeat that joins (`JOIN_GROUP_MEMBER_EPOCH`).
const JOIN_EPOCH: i32 = 0;
/// The epoch of a heartbeat that leaves.
const LEAVE_EPOCH: i32 = -1;
/// The epoch of a static member's heartbeat that will be back: its partitions wait for it.
const LEAVE_STATIC_EPOCH: i32 = -2;

/// Until the coordinator says how often it wants to hear from members.
const FIRST_INTERVAL: Duration = Duration::from_secs(5);
/// What a coordinator may ask for; anything else is a slip or malice.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(3600));

/// A partition by its topic's id, which survives neither deletion nor recreation of the topic.
pub(crate) type PartitionId = (Uuid, i32);

#[derive(Debug, Clone)]
pub(crate) struct ConsumerMembershipConfig {
    pub group: String,
    /// Made by the client, for as long as it lives (KIP-1082).
    pub member_id: String,
    pub instance_id: Option<String>,
    pub rack: Option<String>,
    /// The coordinator's assignor; its own choice if `None`.
    pub assignor: Option<String>,
    /// Also the rebalance timeout: how long giving partitions up may take.
    pub max_poll_interval: Duration,
}

/// A heartbeat to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Beat {
    /// Tells its answer from others.
    pub number: u64,
    /// The member epoch is the generation.
    pub identity: Identity,
    /// What the coordinator does not know yet; everything after a failure.
    pub news: News,
}

/// Fields of a heartbeat that are left out where nothing changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct News {
    pub rack: Option<String>,
    pub rebalance_timeout: Option<Duration>,
    pub topics: Option<Vec<Arc<str>>>,
    /// Empty: none any more.
    pub pattern: Option<Arc<str>>,
    pub assignor: Option<String>,
    pub owned: Option<Vec<PartitionId>>,
}

/// What the coordinator answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BeatAnswer {
    pub epoch: i32,
    pub interval: Duration,
    /// What this member should have; `None` if that did not change.
    pub assignment: Option<Vec<PartitionId>>,
}

/// What the shell has to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Then call [`ConsumerMembership::answered`] or [`ConsumerMembership::failed`].
    Heartbeat(Beat),
    /// Tell the coordinator that this member goes, then call [`ConsumerMembership::left`].
    Leave(Identity),
    /// The coordinator is elsewhere or gone: look it up before the next request.
    ForgetCoordinator,
    /// Ask brokers about the subscribed topics, then call [`ConsumerMembership::named`].
    NameTopics,
    /// Give these partitions up, then call [`ConsumerMembership::released`]. Revoked ones may be committed first,
    /// lost ones may not: another member may have them already.
    Release {
        partitions: Vec<TopicPartition>,
        lost: bool,
    },
    /// Start reading these, then call [`ConsumerMembership::assigned`].
    Assign {
        added: Vec<TopicPartition>,
    },
    /// The coordinator does not know this protocol, or the group cannot be changed to it; nothing was joined.
    Unsupported(ErrorCode),
    Fail(GroupError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Joining,
    Member,
    /// What it had is lost; waits for the application to notice.
    Losing(AfterLoss),
    /// Left because the application did not poll; joins when it does.
    Stale,
    /// Gives everything up, still as a member.
    Leaving(GroupExit),
    Left,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AfterLoss {
    Join,
    WaitForPoll,
    Nothing,
}

/// How far the member is on its way to what the coordinator wants it to have.
#[derive(Debug)]
enum Reconciliation {
    Idle,
    Releasing { to: BTreeMap<PartitionId, TopicPartition> },
    Assigning { to: BTreeMap<PartitionId, TopicPartition> },
}

pub(crate) struct ConsumerMembership {
    config: ConsumerMembershipConfig,
    topics: Topics,
    state: State,
    epoch: i32,
    /// What this member reads.
    owned: BTreeMap<PartitionId, TopicPartition>,
    /// What it should read.
    target: BTreeSet<PartitionId>,
    reconciliation: Reconciliation,
    /// The target changed, and the coordinator has not been told what became of it. It waits for that also where
    /// nothing had to be done.
    owes_acknowledgement: bool,
    names: BTreeMap<Uuid, Arc<str>>,
    naming: bool,
    name_again_at: Instant,
    /// What the coordinator knows, as far as heartbeats that were answered tell; `None` means: tell it everything.
    told: Option<Told>,
    used_pattern: bool,
    beats: u64,
    in_flight: Option<InFlight>,
    due_at: Instant,
    interval: Duration,
    /// The coordinator may take this member for one of the group's.
    may_be_member: bool,
    /// Its LeaveGroup is under way; joining meanwhile could be undone by it.
    is_leaving: bool,
    polled_since_stale: bool,
    polled_at: Instant,
    pace: Pace,
    naming_pace: Pace,
    actions: VecDeque<Action>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    topics: Topics,
    owned: Option<Vec<PartitionId>>,
}

#[derive(Debug)]
struct InFlight {
    number: u64,
    sent_at: Instant,
    tells: Told,
}

impl ConsumerMembership {
    pub(crate) fn new(config: ConsumerMembershipConfig, topics: Topics, now: Instant) -> Self {
        Self {
            config,
            topics,
            state: State::Joining,
            epoch: JOIN_EPOCH,
            owned: BTreeMap::new(),
            target: BTreeSet::new(),
            reconciliation: Reconciliation::Idle,
            owes_acknowledgement: false,
            names: BTreeMap::new(),
            naming: false,
            name_again_at: now,
            told: None,
            used_pattern: false,
            beats: 0,
            in_flight: None,
            due_at: now,
            interval: FIRST_INTERVAL,
            may_be_member: false,
            is_leaving: false,
            polled_since_stale: false,
            polled_at: now,
            pace: Pace::default(),
            naming_pace: Pace::default(),
            actions: VecDeque::new(),
        }
    }

    /// What commits must carry now.
    pub(crate) fn identity(&self) -> Identity {
        let generation = if self.epoch > JOIN_EPOCH { self.epoch } else { NO_GENERATION };
        self.identity_with(generation)
    }

    fn identity_with(&self, generation: i32) -> Identity {
        Identity {
            generation,
            member_id: self.config.member_id.clone(),
            instance_id: self.config.instance_id.clone(),
        }
    }

    pub(crate) fn topics(&self) -> &Topics {
        &self.topics
    }

    pub(crate) fn has_left(&self) -> bool {
        self.state == State::Left
    }

    /// The next thing to do, if any. Call until it returns `None`, then again at
    /// [`ConsumerMembership::wake_at`] or after an event.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Action> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Some(action);
            }
            if self.state == State::Member && now >= self.poll_deadline() {
                self.leave_for_silence();
            } else if self.state == State::Member && self.reconcile(now) {
                // There is something to do, or something else to do next.
            } else if self.state == State::Stale && self.polled_since_stale && !self.is_leaving {
                self.join_at(now);
            } else if self.beats() && self.in_flight.is_none() && now >= self.due_at {
                self.beat(now);
            } else {
                return None;
            }
        }
    }

    /// When [`ConsumerMembership::poll`] has something to say even without an event.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let beat_at = (self.beats() && self.in_flight.is_none()).then_some(self.due_at);
        let is_member = self.state == State::Member;
        let silent_at = is_member.then(|| self.poll_deadline());
        let is_idle = matches!(self.reconciliation, Reconciliation::Idle);
        let names = is_member && is_idle && !self.naming && self.has_nameless();
        let name_at = names.then_some(self.name_again_at);
        [beat_at, silent_at, name_at].into_iter().flatten().min()
    }

    /// The application asked for records, or is still waiting for some.
    pub(crate) fn polled(&mut self, now: Instant) {
        self.polled_at = now;
        self.polled_since_stale = true;
    }

    /// Subscribes to something else; the coordinator hears it with the next heartbeat, which is due at once.
    pub(crate) fn subscribe(&mut self, topics: Topics, now: Instant) {
        if self.topics != topics {
            self.topics = topics;
            self.beat_at_once(now);
        }
    }

    /// The names of topics, as brokers know them now: the answer to [`Action::NameTopics`], or news that came by
    /// itself.
    pub(crate) fn named(&mut self, now: Instant, asked: bool, name: impl Fn(Uuid) -> Option<Arc<str>>) {
        for (id, _) in &self.target {
            if !self.names.contains_key(id)
                && let Some(name) = name(*id)
            {
                self.names.insert(*id, name);
            }
        }
        if asked {
            self.naming = false;
            self.name_again_at = now + self.naming_pace.failed();
        }
        if !self.has_nameless() {
            self.naming_pace.succeeded();
        }
    }

    pub(crate) fn answered(&mut self, now: Instant, number: u64, answer: BeatAnswer) {
        if answer.epoch <= JOIN_EPOCH {
            return self.failed(now, number, Failure::Unanswered);
        }
        let Some(sent) = self.in_flight.take_if(|sent| sent.number == number) else { return };
        self.pace.succeeded();
        self.interval = answer.interval.clamp(INTERVALS.0, INTERVALS.1);
        self.told = Some(sent.tells);
        self.epoch = answer.epoch;
        self.due_at = (sent.sent_at + self.interval).max(now);
        if self.state == State::Joining {
            self.state = State::Member;
        }
        if let Some(assignment) = answer.assignment {
            let target = assignment.into_iter().collect();
            self.owes_acknowledgement |= self.target != target;
            self.target = target;
            self.names.retain(|id, _| self.target.iter().any(|(wanted, _)| wanted == id));
        }
        // Partitions that came or went meanwhile are acknowledged by the next step of the reconciliation.
        if self.told.as_ref().is_some_and(|told| told.topics != self.topics) {
            self.due_at = now;
        }
    }

    pub(crate) fn failed(&mut self, now: Instant, number: u64, failure: Failure) {
        if self.in_flight.take_if(|sent| sent.number == number).is_none() {
            return;
        }
        // Whatever this heartbeat told may have been heard or not.
        self.told = None;
        self.due_at = now + self.pace.failed();
        if failure.is_about_coordinator() {
            self.actions.push_back(Action::ForgetCoordinator);
        }
        let Failure::Refused(code) = failure else { return };
        let joined_before = self.epoch > JOIN_EPOCH;
        let group = || self.config.group.clone();
        match code {
            code if code.is_retriable() => {}
            ErrorCode::FencedMemberEpoch | ErrorCode::StaleMemberEpoch | ErrorCode::UnknownMemberId => {
                self.lose(AfterLoss::Join);
            }
            // The group is gone, and this member with it.
            ErrorCode::GroupIdNotFound if joined_before => self.lose(AfterLoss::Join),
            ErrorCode::GroupIdNotFound | ErrorCode::UnsupportedVersion if !joined_before => {
                self.state = State::Left;
                self.may_be_member = false;
                self.actions.push_back(Action::Unsupported(code));
            }
            ErrorCode::FencedInstanceId => {
                let instance = self.config.instance_id.clone().unwrap_or_default();
                self.fail(GroupError::Fenced { group: group(), instance });
            }
            ErrorCode::UnreleasedInstanceId => {
                let instance = self.config.instance_id.clone().unwrap_or_default();
                self.may_be_member = false;
                self.fail(GroupError::InstanceInUse { group: group(), instance });
            }
            code => self.fail(GroupError::Refused { group: group(), code }),
        }
    }

    /// A commit under `epoch` was refused: the coordinator and this member differ about the membership, and the next
    /// heartbeat tells in what.
    pub(crate) fn commit_refused(&mut self, now: Instant, epoch: i32, code: ErrorCode) {
        let is_telling = matches!(
            code,
            ErrorCode::StaleMemberEpoch
                | ErrorCode::FencedMemberEpoch
                | ErrorCode::UnknownMemberId
                | ErrorCode::FencedInstanceId
        );
        if is_telling && epoch == self.epoch {
            self.told = None;
            self.beat_at_once(now);
        }
    }

    /// The partitions of the last [`Action::Release`] are given up.
    pub(crate) fn released(&mut self, now: Instant) {
        match self.state {
            State::Losing(AfterLoss::Join) => self.join_at(self.due_at.max(now)),
            State::Losing(AfterLoss::WaitForPoll) => {
                self.state = State::Stale;
                self.polled_since_stale = false;
            }
            State::Losing(AfterLoss::Nothing) => self.state = State::Left,
            State::Leaving(exit) => {
                self.owned.clear();
                self.say_goodbye(exit);
                self.forget_membership();
                self.state = State::Left;
            }
            State::Member => {
                let Reconciliation::Releasing { to } =
                    std::mem::replace(&mut self.reconciliation, Reconciliation::Idle)
                else {
                    return;
                };
                self.owned.retain(|id, _| to.contains_key(id));
                self.take_over(now, to);
            }
            State::Joining | State::Stale | State::Left => {}
        }
    }

    /// The partitions of the last [`Action::Assign`] are taken over.
    pub(crate) fn assigned(&mut self, now: Instant) {
        match std::mem::replace(&mut self.reconciliation, Reconciliation::Idle) {
            Reconciliation::Assigning { to } => {
                self.owned = to;
                self.owes_acknowledgement = true;
                self.beat_at_once(now);
            }
            other => self.reconciliation = other,
        }
    }

    /// The coordinator heard, or will not hear, that this member left.
    pub(crate) fn left(&mut self) {
        self.is_leaving = false;
    }

    /// Gives everything up and leaves.
    pub(crate) fn leave(&mut self, exit: GroupExit) {
        match self.state {
            State::Left | State::Leaving(_) => {}
            State::Losing(_) => self.state = State::Losing(AfterLoss::Nothing),
            State::Joining | State::Member | State::Stale => {
                let held = self.take_held();
                self.owned = held.clone();
                self.state = State::Leaving(exit);
                self.release(held, false);
            }
        }
    }

    fn beats(&self) -> bool {
        match self.state {
            State::Joining | State::Member => true,
            State::Leaving(_) => self.epoch > JOIN_EPOCH,
            State::Losing(_) | State::Stale | State::Left => false,
        }
    }

    fn poll_deadline(&self) -> Instant {
        self.polled_at + self.config.max_poll_interval
    }

    /// What the coordinator must not give to others. What is just being taken over is among that: a coordinator that
    /// is told that a member owns less than it assigned takes the rest back without waiting (`ownsRevokedPartitions` of
    /// `CurrentAssignmentBuilder`).
    fn held_ids(&self) -> Vec<PartitionId> {
        match &self.reconciliation {
            Reconciliation::Assigning { to } => to.keys().copied().collect(),
            Reconciliation::Idle | Reconciliation::Releasing { .. } => self.owned.keys().copied().collect(),
        }
    }

    fn has_nameless(&self) -> bool {
        self.target.iter().any(|(id, _)| !self.names.contains_key(id))
    }

    fn beat_at_once(&mut self, now: Instant) {
        if self.state != State::Joining {
            self.due_at = now;
        }
    }

    fn join_at(&mut self, at: Instant) {
        self.state = State::Joining;
        self.due_at = at;
    }

    fn beat(&mut self, now: Instant) {
        let joining = self.epoch == JOIN_EPOCH;
        let tells = Told { topics: self.topics.clone(), owned: Some(self.held_ids()) };
        let told = self.told.as_ref().filter(|_| !joining);
        let mut news = News::default();
        if told.is_none() {
            news.rack = self.config.rack.clone();
            news.rebalance_timeout = Some(self.config.max_poll_interval);
            news.assignor = self.config.assignor.clone();
        }
        if told.is_none_or(|told| told.topics != tells.topics) {
            match &tells.topics {
                Topics::Named(names) => {
                    news.topics = Some(names.clone());
                    // Version 0 has no field for it, so it is only mentioned where there was one.
                    news.pattern = self.used_pattern.then(|| Arc::from(""));
                }
                Topics::Matching(pattern) => {
                    self.used_pattern = true;
                    news.topics = Some(Vec::new());
                    news.pattern = Some(Arc::clone(pattern));
                }
            }
        }
        if told.is_none_or(|told| told.owned != tells.owned) {
            news.owned = tells.owned.clone();
        }
        self.beats += 1;
        self.may_be_member = true;
        self.in_flight = Some(InFlight { number: self.beats, sent_at: now, tells });
        let identity = self.identity_with(self.epoch);
        self.actions.push_back(Action::Heartbeat(Beat { number: self.beats, identity, news }));
    }

    /// Takes the next step towards the target; whether there is something to do. Partitions whose topic has no name
    /// yet wait, the others do not.
    fn reconcile(&mut self, now: Instant) -> bool {
        if !matches!(self.reconciliation, Reconciliation::Idle) {
            return false;
        }
        if !self.naming && now >= self.name_again_at && self.has_nameless() {
            self.naming = true;
            self.actions.push_back(Action::NameTopics);
            return true;
        }
        let to: BTreeMap<PartitionId, TopicPartition> = self
            .target
            .iter()
            .filter_map(|id| {
                let name = self.names.get(&id.0)?;
                Some((*id, TopicPartition::new(Arc::clone(name), id.1)))
            })
            .collect();
        if to == self.owned {
            if self.in_flight.is_none()
                && std::mem::take(&mut self.owes_acknowledgement)
                && let Some(told) = &mut self.told
            {
                told.owned = None;
                self.beat_at_once(now);
            }
            return false;
        }
        let revoked: BTreeMap<_, _> = self
            .owned
            .iter()
            .filter(|(id, _)| !to.contains_key(*id))
            .map(|(id, p)| (*id, p.clone()))
            .collect();
        if revoked.is_empty() {
            self.take_over(now, to);
        } else {
            self.reconciliation = Reconciliation::Releasing { to };
            self.release(revoked, false);
        }
        true
    }

    fn take_over(&mut self, now: Instant, to: BTreeMap<PartitionId, TopicPartition>) {
        let added: Vec<TopicPartition> =
            to.iter().filter(|(id, _)| !self.owned.contains_key(*id)).map(|(_, p)| p.clone()).collect();
        if added.is_empty() {
            self.owned = to;
            self.owes_acknowledgement = true;
            self.beat_at_once(now);
        } else {
            self.reconciliation = Reconciliation::Assigning { to };
            self.actions.push_back(Action::Assign { added });
        }
    }

    /// Everything the shell holds or is about to hold for this member.
    fn take_held(&mut self) -> BTreeMap<PartitionId, TopicPartition> {
        let mut held = std::mem::take(&mut self.owned);
        if let Reconciliation::Assigning { to } =
            std::mem::replace(&mut self.reconciliation, Reconciliation::Idle)
        {
            held.extend(to);
        }
        held
    }

    fn release(&mut self, partitions: BTreeMap<PartitionId, TopicPartition>, lost: bool) {
        // An older release that the shell has not begun is part of this one.
        self.actions.retain(|action| !matches!(action, Action::Release { .. }));
        self.actions.push_back(Action::Release { partitions: partitions.into_values().collect(), lost });
    }

    /// The coordinator does not count this member among the group's any more: what it has may be someone else's.
    fn lose(&mut self, after: AfterLoss) {
        let closing = matches!(self.state, State::Leaving(_) | State::Losing(AfterLoss::Nothing));
        let held = self.take_held();
        self.forget_membership();
        self.state = State::Losing(if closing { AfterLoss::Nothing } else { after });
        self.release(held, true);
    }

    fn forget_membership(&mut self) {
        self.epoch = JOIN_EPOCH;
        self.told = None;
        self.in_flight = None;
        self.target.clear();
        self.owes_acknowledgement = false;
        self.names.clear();
    }

    /// A member whose application stopped polling leaves by itself, so that others take over.
    fn leave_for_silence(&mut self) {
        tracing::warn!(
            group = self.config.group,
            interval = ?self.config.max_poll_interval,
            "no call for records within max.poll.interval: leaving the group until there is one"
        );
        self.lose(AfterLoss::WaitForPoll);
        self.say_goodbye(GroupExit::Default);
    }

    fn say_goodbye(&mut self, exit: GroupExit) {
        let is_static = self.config.instance_id.is_some();
        let epoch = match exit {
            GroupExit::Remain if !is_static => None,
            GroupExit::Leave => Some(LEAVE_EPOCH),
            GroupExit::Default | GroupExit::Remain if is_static => Some(LEAVE_STATIC_EPOCH),
            GroupExit::Default | GroupExit::Remain => Some(LEAVE_EPOCH),
        };
        if let Some(epoch) = epoch.filter(|_| self.may_be_member) {
            self.is_leaving = true;
            self.actions.push_back(Action::Leave(self.identity_with(epoch)));
        }
        self.may_be_member = false;
    }

    fn fail(&mut self, error: GroupError) {
        self.lose(AfterLoss::Nothing);
        self.actions.push_back(Action::Fail(error));
    }
}
