//! A member of a classic group: JoinGroup, SyncGroup, Heartbeat, LeaveGroup as one state machine.
//!
//! Events and `now` go in, [`Action`]s come out; the shell sends the requests and gives up or takes over
//! what its [`Duty`] is about. Sources: KIP-62 (heartbeats apart from polling), KIP-345 (static members), KIP-394
//! (member ids), KIP-800 (reasons), KIP-814 (a static leader that comes back).

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_wire::ErrorCode;
use tokio::time::Instant;

use super::GroupError;
use super::duty::{Duty, Entry, Term, Unfit};
use super::heartbeat::{Heartbeat, Step};
use super::member::{Failure, GroupExit, Identity, NO_GENERATION, Pace};
use super::partitions::{Partitioning, Partitions};

#[derive(Debug, Clone)]
pub(crate) struct MembershipConfig {
    pub group: String,
    pub instance_id: Option<String>,
    pub session_timeout: Duration,
    pub heartbeat_interval: Duration,
    /// For how long the application may be silent, if that is bounded.
    pub max_poll_interval: Option<Duration>,
}

/// What a member asks the coordinator.
#[derive(Debug, PartialEq)]
pub(crate) enum Ask {
    Join { member_id: String, protocols: Vec<(String, Bytes)>, reason: Cow<'static, str> },
    Sync { identity: Identity, protocol: String, assignments: Vec<(String, Bytes)> },
    Heartbeat(Identity),
    Leave(Identity),
}

/// What the shell of a member with this duty has to do next.
pub(crate) type ActionOf<D> = Action<<D as Duty>::Question, <D as Duty>::Held, <D as Duty>::Taken>;

#[derive(Debug, PartialEq)]
pub(crate) enum Action<Q, H, T> {
    Ask(Ask),
    /// This member leads: tell [`Membership::assign`] what it must know for that.
    Lead(Q),
    /// The coordinator is elsewhere or gone: look it up before the next request.
    ForgetCoordinator,
    /// Give this up, then call [`Membership::released`]. What is revoked may be committed first, what is lost may not:
    /// another member may have it already.
    Release {
        what: H,
        lost: bool,
    },
    Take(T),
    Fail(GroupError),
}

#[derive(Debug, Clone)]
pub(crate) struct Joined {
    pub term: Term,
    /// The leader must not assign: a static leader came back and nothing changed (KIP-814).
    pub skip_assignment: bool,
    /// Everyone; only the leader is told.
    pub members: Vec<Entry>,
}

#[derive(Debug, Clone)]
pub(crate) enum JoinAnswer {
    Joined(Joined),
    /// Join again under this id (KIP-394).
    MemberIdRequired(String),
    Failed(Failure),
}

#[derive(Debug)]
enum State<A> {
    /// Joins as soon as `not_before` has come.
    Unjoined {
        not_before: Instant,
    },
    Releasing(AfterRelease<A>),
    Joining,
    /// Leading, and waiting for what it must know to assign.
    Assigning,
    Syncing,
    Stable,
    /// Left because the application did not poll; joins when it does.
    Stale,
    Left,
}

#[derive(Debug)]
enum AfterRelease<A> {
    Join { not_before: Instant },
    Adopt(A),
    WaitForPoll,
    Nothing,
}

pub(crate) struct Membership<D: Duty> {
    config: MembershipConfig,
    duty: D,
    /// What the coordinator said last. Without a generation this is no member, with a member id it may be known.
    term: Term,
    state: State<D::Assignment>,
    /// Asked to leave; does so once everything is given up. An exchange goes on until then, because commits of what is
    /// given up may need the generation that it brings.
    leaving: Option<GroupExit>,
    rejoin_reason: Option<Cow<'static, str>>,
    heartbeat: Heartbeat,
    polled_at: Instant,
    pace: Pace,
    actions: VecDeque<ActionOf<D>>,
}

impl Membership<Partitions> {
    pub(crate) fn topics(&self) -> &[Arc<str>] {
        self.duty.topics()
    }

    /// Subscribes to other topics, which takes a rebalance.
    pub(crate) fn subscribe(&mut self, topics: Vec<Arc<str>>) {
        if self.duty.subscribe(topics) {
            self.rejoin("the subscription changed");
        }
    }

    /// The topics of which [`Membership::topics_changed`] must be told; empty unless leading.
    pub(crate) fn watched_topics(&self) -> &[Arc<str>] {
        self.duty.watched_topics()
    }

    /// The cluster's metadata changed. The leader watches it for the group: new partitions need an assignment.
    pub(crate) fn topics_changed(&mut self, topics: &Partitioning) {
        if matches!(self.state, State::Stable | State::Syncing)
            && let Some(reason) = self.duty.news_of(topics)
        {
            self.rejoin(reason);
        }
    }
}

impl<D: Duty> Membership<D> {
    pub(crate) fn new(config: MembershipConfig, duty: D, now: Instant) -> Self {
        let heartbeat = Heartbeat::new(config.heartbeat_interval, config.session_timeout, now);
        Self {
            config,
            duty,
            term: Term { generation: NO_GENERATION, ..Term::default() },
            state: State::Unjoined { not_before: now },
            leaving: None,
            rejoin_reason: None,
            heartbeat,
            polled_at: now,
            pace: Pace::default(),
            actions: VecDeque::new(),
        }
    }

    pub(crate) fn term(&self) -> &Term {
        &self.term
    }

    pub(crate) fn duty_mut(&mut self) -> &mut D {
        &mut self.duty
    }

    /// What commits must carry now.
    pub(crate) fn identity(&self) -> Identity {
        Identity {
            generation: self.term.generation,
            member_id: self.term.member_id.clone(),
            instance_id: self.config.instance_id.clone(),
        }
    }

    pub(crate) fn has_left(&self) -> bool {
        matches!(self.state, State::Left)
    }

    /// Whether the group changes from one generation to the next: commits under either may be refused meanwhile.
    pub(crate) fn is_exchanging(&self) -> bool {
        matches!(self.state, State::Joining | State::Assigning | State::Syncing)
    }

    /// The next thing to do, if any. Call until it returns `None`, then again at [`Membership::wake_at`] or
    /// after an event.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<ActionOf<D>> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Some(action);
            }
            if self.poll_deadline().is_some_and(|deadline| now >= deadline) {
                self.leave_for_silence();
                continue;
            }
            if self.leaving.is_some() && matches!(self.state, State::Unjoined { .. } | State::Stable) {
                self.state = State::Releasing(AfterRelease::Nothing);
            }
            match &self.state {
                State::Unjoined { not_before } if now >= *not_before && self.duty.is_ready() => {
                    self.begin_join();
                }
                State::Stable if self.rejoin_reason.is_some() => {
                    self.state = State::Unjoined { not_before: now };
                }
                _ if self.heartbeats() => match self.heartbeat.poll(now) {
                    Step::Send => self.actions.push_back(Action::Ask(Ask::Heartbeat(self.identity()))),
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
            && self.duty.is_ready()
        {
            consider(*not_before);
        }
        if self.heartbeats() {
            consider(self.heartbeat.wake_at());
        }
        if let Some(deadline) = self.poll_deadline() {
            consider(deadline);
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

    /// The application asks for a rebalance (KIP-568).
    pub(crate) fn enforce_rebalance(&mut self) {
        if self.is_member() {
            self.rejoin("the application asked for a rebalance");
        }
    }

    pub(crate) fn joined(&mut self, now: Instant, answer: JoinAnswer) {
        if !matches!(self.state, State::Joining) {
            return;
        }
        match answer {
            JoinAnswer::Joined(joined) => self.begin_sync(now, joined),
            JoinAnswer::MemberIdRequired(member_id) => {
                self.term.member_id = member_id;
                self.state = State::Unjoined { not_before: now };
            }
            JoinAnswer::Failed(failure) => self.handle_failure(now, failure),
        }
    }

    /// The answer to [`Action::Lead`].
    pub(crate) fn assign(&mut self, answer: D::Answer) {
        if !matches!(self.state, State::Assigning) {
            return;
        }
        match self.duty.assign(&self.term, answer) {
            Ok(assignments) => self.sync(assignments),
            Err(unfit) => self.fail_with(unfit),
        }
    }

    pub(crate) fn synced(&mut self, now: Instant, answer: Result<Bytes, Failure>) {
        if !matches!(self.state, State::Syncing) {
            return;
        }
        let assignment = match answer {
            Ok(bytes) => bytes,
            Err(failure) => return self.handle_failure(now, failure),
        };
        self.pace.succeeded();
        self.heartbeat.restart(now);
        if self.leaving.is_some() {
            self.state = State::Releasing(AfterRelease::Nothing);
            return;
        }
        match self.duty.read(&self.term, assignment) {
            Ok(assignment) => match self.duty.revoked_by(&assignment) {
                None => self.adopt(assignment),
                Some(revoked) => self.release(revoked, false, AfterRelease::Adopt(assignment)),
            },
            Err(unfit) => self.fail_with(unfit),
        }
    }

    /// `generation` is the one the heartbeat carried: an answer that outlived it says nothing about this one.
    pub(crate) fn heartbeat_answered(&mut self, now: Instant, generation: i32, answer: Result<(), Failure>) {
        if generation != self.term.generation || !self.heartbeats() {
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
        if generation == self.term.generation && self.heartbeats() {
            // Not so RebalanceInProgress: the coordinator waits for assignments then, and not for members.
            if matches!(
                code,
                ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration | ErrorCode::FencedInstanceId
            ) {
                self.handle_failure(now, Failure::Refused(code));
            }
        }
    }

    /// What the last [`Action::Release`] named is given up.
    pub(crate) fn released(&mut self, now: Instant) {
        if let Some(exit) = self.leaving.filter(|_| !self.has_left()) {
            return self.say_goodbye(exit);
        }
        let State::Releasing(after) = &mut self.state else { return };
        match std::mem::replace(after, AfterRelease::Nothing) {
            AfterRelease::Join { not_before } => {
                // A second release must not be asked for.
                self.duty.drop_unheld();
                self.state = State::Unjoined { not_before: not_before.max(now) };
            }
            AfterRelease::Adopt(assignment) => {
                self.adopt(assignment);
                self.rejoin("partitions were revoked for other members");
            }
            AfterRelease::WaitForPoll => self.state = State::Stale,
            AfterRelease::Nothing => self.state = State::Left,
        }
    }

    /// Gives everything up and leaves. Members that remain are the group's until their session ends (KIP-345).
    pub(crate) fn leave(&mut self, exit: GroupExit) {
        if self.has_left() || self.leaving.replace(exit).is_some() {
            return;
        }
        let held = self.duty.held();
        if self.is_exchanging() {
            self.ask_to_release(held, false);
        } else {
            self.release(held, false, AfterRelease::Nothing);
        }
    }

    fn say_goodbye(&mut self, exit: GroupExit) {
        let leaves = match exit {
            GroupExit::Default => self.config.instance_id.is_none(),
            GroupExit::Leave => true,
            GroupExit::Remain => false,
        };
        if leaves && self.is_member() {
            self.actions.push_back(Action::Ask(Ask::Leave(self.identity())));
        }
        self.forget_membership(true);
        self.state = State::Left;
    }

    fn is_member(&self) -> bool {
        !self.term.member_id.is_empty()
    }

    /// Whether the application's silence would cost the membership.
    fn is_active(&self) -> bool {
        self.term.generation != NO_GENERATION
            && self.leaving.is_none()
            && !matches!(
                self.state,
                State::Stale
                    | State::Left
                    | State::Releasing(AfterRelease::WaitForPoll | AfterRelease::Nothing)
            )
    }

    /// In Joining the coordinator waits for us and not the other way round.
    fn heartbeats(&self) -> bool {
        self.term.generation != NO_GENERATION
            && matches!(self.state, State::Stable | State::Syncing | State::Assigning | State::Releasing(_))
    }

    /// When the member leaves unless the application polls.
    fn poll_deadline(&self) -> Option<Instant> {
        let bound = self.config.max_poll_interval.filter(|_| self.is_active())?;
        Some(self.polled_at + bound)
    }

    /// Joins as soon as that is possible, again if it is under way.
    pub(crate) fn rejoin(&mut self, reason: impl Into<Cow<'static, str>>) {
        self.rejoin_reason.get_or_insert_with(|| reason.into());
    }

    fn begin_join(&mut self) {
        let State::Unjoined { not_before } = self.state else { return };
        if let Some(held) = self.duty.unheld_to_join() {
            return self.release(held, false, AfterRelease::Join { not_before });
        }
        let protocols = self.duty.offer(self.term.generation);
        self.state = State::Joining;
        self.actions.push_back(Action::Ask(Ask::Join {
            member_id: self.term.member_id.clone(),
            protocols,
            reason: self.rejoin_reason.take().unwrap_or_default(),
        }));
    }

    fn begin_sync(&mut self, now: Instant, joined: Joined) {
        self.pace.succeeded();
        self.heartbeat.restart(now);
        self.term = joined.term;
        if joined.skip_assignment || self.term.leader != self.term.member_id {
            return self.sync(Vec::new());
        }
        match self.duty.lead(&self.term, joined.members) {
            Ok(question) => {
                self.state = State::Assigning;
                self.actions.push_back(Action::Lead(question));
            }
            Err(unfit) => self.fail_with(unfit),
        }
    }

    fn sync(&mut self, assignments: Vec<(String, Bytes)>) {
        self.state = State::Syncing;
        self.actions.push_back(Action::Ask(Ask::Sync {
            identity: self.identity(),
            protocol: self.term.protocol.clone(),
            assignments,
        }));
    }

    fn adopt(&mut self, assignment: D::Assignment) {
        let taken = self.duty.adopt(assignment);
        self.actions.push_back(Action::Take(taken));
        self.state = State::Stable;
    }

    fn release(&mut self, what: D::Held, lost: bool, after: AfterRelease<D::Assignment>) {
        self.state = State::Releasing(after);
        self.ask_to_release(what, lost);
    }

    fn ask_to_release(&mut self, what: D::Held, lost: bool) {
        // An older release that the shell has not begun is part of this one.
        self.actions.retain(|action| !matches!(action, Action::Release { .. }));
        self.actions.push_back(Action::Release { what, lost });
    }

    /// The membership is over as far as the coordinator is concerned: what we own may be someone else's.
    fn lose(&mut self, forget_member_id: bool, after: AfterRelease<D::Assignment>) {
        let lost = self.duty.held();
        self.forget_membership(forget_member_id);
        self.release(lost, true, after);
    }

    fn forget_membership(&mut self, forget_member_id: bool) {
        self.duty.clear();
        self.term.generation = NO_GENERATION;
        if forget_member_id {
            self.term.member_id.clear();
        }
    }

    /// KIP-62: a member whose application stopped polling leaves by itself, so that others take over.
    fn leave_for_silence(&mut self) {
        let identity = self.identity();
        self.lose(true, AfterRelease::WaitForPoll);
        if identity.instance_id.is_none() {
            self.actions.push_back(Action::Ask(Ask::Leave(identity)));
        }
    }

    /// The coordinator knows nothing of this failure: others need not wait until the session ends.
    fn fail_with(&mut self, unfit: Unfit) {
        let identity = self.identity();
        let error = unfit.of(&self.config.group);
        self.fail(error);
        if identity.instance_id.is_none() {
            self.actions.push_back(Action::Ask(Ask::Leave(identity)));
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
