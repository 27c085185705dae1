//! The group's task: carries out what [`Membership`] or [`ConsumerMembership`] decides. Requests, rebalance callbacks
//! and heartbeats run side by side, so that a slow application or broker never keeps a heartbeat back.

mod handover;
mod pattern;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kafka_wire::ErrorCode;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::handover::{Done, Handovers};
use self::pattern::PatternWatch;
use super::ConsumeError;
use super::listener::RebalanceEvent;
use super::shared::{Command, Shared};
use super::upkeep::sleep_until;
use crate::TopicPartition;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::group::GroupError;
use crate::group::classic::{Action, ActionOf, Membership};
use crate::group::consumer::{self, BeatAnswer, ConsumerMembership, ConsumerMembershipConfig};
use crate::group::member::{Failure, GroupExit, GroupProtocol, Identity, Topics};
use crate::group::partitions::{Partitioning, Partitions};
use crate::group::protocol::PROTOCOL_TYPE;
use crate::group::requests::{self, Heard, Host};
use crate::group::shell::{BoxFuture, LEAVE_TIMEOUT, UnderWay, wait_for_close};
use crate::net::{Pool, RequestError};

/// How often the leader looks whether a topic that is subscribed to but does not exist was created.
const MISSING_TOPIC_INTERVAL: Duration = Duration::from_secs(1);

enum Event {
    Heard(Heard),
    Counted(Partitioning),
    ConsumerHeartbeatAnswered(u64, Result<BeatAnswer, Failure>),
    TopicsNamed,
    TopicsListed,
    Left,
}

/// The member, in the protocol that it speaks.
enum Member {
    Classic(Membership<Partitions>),
    Consumer(ConsumerMembership),
}

macro_rules! either {
    ($member:expr, $inner:ident => $does:expr) => {
        match $member {
            Member::Classic($inner) => $does,
            Member::Consumer($inner) => $does,
        }
    };
}

impl Host for Shared {
    fn client(&self) -> &Client {
        &self.client
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn group(&self) -> &str {
        self.options.group.as_deref().unwrap_or_default()
    }

    fn protocol_type(&self) -> &str {
        PROTOCOL_TYPE
    }

    fn give_up(&self, error: RequestError) {
        self.fail(ConsumeError::Request(error));
    }
}

struct GroupTask {
    shared: Arc<Shared>,
    member: Member,
    /// Exchanges with the coordinator, and questions about topics.
    under_way: UnderWay<Event>,
    handovers: Handovers,
    missing_topics_due: Option<Instant>,
    /// A classic member looks itself for the topics that match its pattern.
    pattern: Option<PatternWatch>,
}

/// Runs until the member has left; `closing` starts that.
pub(super) async fn run(
    shared: Arc<Shared>,
    topics: Topics,
    mut commands: mpsc::UnboundedReceiver<Command>,
    mut closing: watch::Receiver<Option<GroupExit>>,
) {
    let mut returned = shared.returned.follow();
    let mut rounds = shared.client.metadata().subscribe();
    let tick = shared.options.heartbeat_interval;
    let mut task = GroupTask::new(shared, topics);
    task.watch_topics();
    let mut leave_by: Option<Instant> = None;
    loop {
        let now = Instant::now();
        if task.shared.take_polled() {
            either!(&mut task.member, member => member.polled(now));
        }
        task.carry_out(now);
        if leave_by.is_some_and(|at| at <= now) || (task.has_left() && task.is_idle()) {
            return;
        }
        task.ask_for_topics(now);
        let wakes = [task.wake_at(), leave_by, Some(now + tick)];
        let wake_at = wakes.into_iter().flatten().min();
        tokio::select! {
            // In this order, so that a run on a paused clock and one thread is always the same; what is due by time is
            // looked at after each event.
            biased;
            event = task.under_way.next() => task.handle(event),
            done = task.handovers.next() => task.handed_over(done),
            Some(command) = commands.recv() => task.obey(command),
            _ = rounds.changed() => task.watch_topics(),
            _ = returned.changed() => {}
            exit = wait_for_close(&mut closing), if leave_by.is_none() => {
                leave_by = Some(Instant::now() + LEAVE_TIMEOUT);
                either!(&mut task.member, member => member.leave(exit));
            }
            () = sleep_until(wake_at) => {}
        }
    }
}

impl GroupTask {
    fn new(shared: Arc<Shared>, topics: Topics) -> Self {
        let (member, pattern) = match shared.options.group_protocol() {
            GroupProtocol::Classic => classic_member(&shared, topics),
            GroupProtocol::Consumer | GroupProtocol::Auto => {
                (Member::Consumer(consumer_member(&shared, topics)), None)
            }
        };
        Self {
            shared,
            member,
            under_way: UnderWay::default(),
            handovers: Handovers::default(),
            missing_topics_due: None,
            pattern,
        }
    }

    fn has_left(&self) -> bool {
        either!(&self.member, member => member.has_left())
    }

    fn is_idle(&self) -> bool {
        self.under_way.is_idle() && self.handovers.is_empty()
    }

    fn wake_at(&self) -> Option<Instant> {
        let member = either!(&self.member, member => member.wake_at());
        let pattern = self.pattern.as_ref().and_then(PatternWatch::wake_at);
        [member, self.missing_topics_due, pattern].into_iter().flatten().min()
    }

    fn carry_out(&mut self, now: Instant) {
        loop {
            match &mut self.member {
                Member::Classic(member) => {
                    let Some(action) = member.poll(now) else { break };
                    tracing::debug!(group = self.shared.group(), ?action, "group");
                    self.perform(action, now);
                }
                Member::Consumer(member) => {
                    let Some(action) = member.poll(now) else { break };
                    tracing::debug!(group = self.shared.group(), ?action, "group");
                    self.perform_consumer(action, now);
                }
            }
        }
        // In this order: who finds that the change is over finds its generation.
        *self.shared.identity.lock() = Some(self.identity());
        let changes = matches!(&self.member, Member::Classic(member) if member.is_exchanging());
        self.shared.changes_generation.store(changes, Ordering::Release);
    }

    fn identity(&self) -> Identity {
        either!(&self.member, member => member.identity())
    }

    fn handed_over(&mut self, done: Done) {
        let now = Instant::now();
        match (done, &mut self.member) {
            (Done::Released, member) => either!(member, member => member.released(now)),
            (Done::Assigned, Member::Consumer(member)) => member.assigned(now),
            (Done::Assigned, Member::Classic(_)) => {}
        }
    }

    fn handle(&mut self, event: Event) {
        let now = Instant::now();
        match (event, &mut self.member) {
            (Event::Heard(heard), Member::Classic(member)) => heard.tell(member, now),
            (Event::Counted(topics), Member::Classic(member)) => member.assign(topics),
            (Event::ConsumerHeartbeatAnswered(number, answer), Member::Consumer(member)) => {
                let has_joined = answer.is_ok() && member.identity().generation < 0;
                match answer {
                    Ok(answer) => member.answered(now, number, answer),
                    Err(failure) => member.failed(now, number, failure),
                }
                if has_joined {
                    self.announce(GroupProtocol::Consumer);
                }
                self.watch_topics();
            }
            (Event::TopicsNamed, Member::Consumer(_)) => self.name_topics(true),
            (Event::TopicsListed, _) => self.match_topics(),
            (Event::Left, Member::Consumer(member)) => member.left(),
            _ => {}
        }
    }

    /// Says which protocol the group speaks, once.
    fn announce(&self, protocol: GroupProtocol) {
        if self.shared.group_protocol.lock().replace(protocol) != Some(protocol) {
            tracing::info!(group = self.shared.group(), ?protocol, "group protocol");
            let _ = self.shared.events.send(RebalanceEvent::Protocol(protocol));
        }
    }

    fn obey(&mut self, command: Command) {
        let now = Instant::now();
        match (command, &mut self.member) {
            (Command::Subscribe(topics), _) => self.subscribe(topics, now),
            (Command::EnforceRebalance, Member::Classic(member)) => member.enforce_rebalance(),
            // There the coordinator decides when to assign anew.
            (Command::EnforceRebalance, Member::Consumer(_)) => {}
            (Command::CommitRefused { generation, code }, member) => {
                either!(member, member => member.commit_refused(now, generation, code));
            }
        }
    }

    fn subscribe(&mut self, topics: Topics, now: Instant) {
        match (&mut self.member, topics) {
            (Member::Consumer(member), topics) => member.subscribe(topics, now),
            (Member::Classic(member), Topics::Named(topics)) => {
                self.pattern = None;
                member.subscribe(topics);
            }
            (Member::Classic(_), Topics::Matching(pattern)) => {
                self.pattern = watch_pattern(&self.shared, &pattern);
            }
        }
        self.watch_topics();
    }

    /// Keeps the group's topics in the client's metadata, and tells the member how they are.
    fn watch_topics(&mut self) {
        let metadata = self.shared.client.metadata();
        match &mut self.member {
            Member::Classic(member) => {
                for topic in member.topics().iter().chain(member.watched_topics()) {
                    metadata.touch(topic);
                }
                let topics = partitioning(&self.shared.client.cluster(), member.watched_topics());
                member.topics_changed(&topics);
            }
            Member::Consumer(member) => {
                if let Topics::Named(topics) = member.topics() {
                    topics.iter().for_each(|topic| metadata.touch(topic));
                }
                self.name_topics(false);
            }
        }
    }

    fn name_topics(&mut self, asked: bool) {
        if let Member::Consumer(member) = &mut self.member {
            let cluster = self.shared.client.cluster();
            let name = |id| cluster.topic_by_id(id).map(|topic| Arc::clone(&topic.name));
            member.named(Instant::now(), asked, name);
        }
    }

    fn match_topics(&mut self) {
        let Some(pattern) = &mut self.pattern else { return };
        let topics = pattern.matching(&self.shared.client.cluster(), Instant::now());
        if let Member::Classic(member) = &mut self.member {
            member.subscribe(topics);
        }
        self.watch_topics();
    }

    /// Topics that a leader misses, and those that may match a pattern by now.
    fn ask_for_topics(&mut self, now: Instant) {
        if self.pattern.as_mut().is_some_and(|pattern| pattern.is_due(now)) {
            let shared = Arc::clone(&self.shared);
            self.under_way.push(Box::pin(async move {
                // Without an answer what is known already is looked through again.
                let _ = shared.client.refresh_all_topics().await;
                Event::TopicsListed
            }));
        }
        let Member::Classic(member) = &self.member else {
            self.missing_topics_due = None;
            return;
        };
        if self.missing_topics_due.is_some_and(|at| now < at) {
            return;
        }
        let cluster = self.shared.client.cluster();
        let watched = member.watched_topics();
        let missing: Vec<&Arc<str>> = watched.iter().filter(|topic| cluster.topic(topic).is_none()).collect();
        self.missing_topics_due = (!missing.is_empty()).then_some(now + MISSING_TOPIC_INTERVAL);
        if !missing.is_empty() {
            self.shared.client.want_refresh(missing);
        }
    }

    fn perform(&mut self, action: ActionOf<Partitions>, now: Instant) {
        let shared = Arc::clone(&self.shared);
        match action {
            Action::Ask(ask) => {
                let terms = shared.options.terms();
                self.under_way.ask(shared, terms, ask, Event::Heard);
            }
            Action::Lead(topics) => {
                self.under_way.exchange(Box::pin(async move {
                    // Stale counts would be corrected by one more rebalance, so failing here is no harm.
                    let refreshed = shared.client.refresh_topics(&topics).await;
                    let cluster = refreshed.unwrap_or_else(|_| shared.client.cluster());
                    Event::Counted(partitioning(&cluster, &topics))
                }));
            }
            Action::ForgetCoordinator => shared.forget_coordinator(),
            Action::Release { what, lost } => self.release(what, lost, now),
            Action::Take(partitions) => {
                self.announce(GroupProtocol::Classic);
                self.handovers.assign(shared, partitions.added);
            }
            Action::Fail(error) => shared.fail(error.into()),
        }
    }

    fn perform_consumer(&mut self, action: consumer::Action, now: Instant) {
        use consumer::Action;
        let shared = Arc::clone(&self.shared);
        match action {
            Action::Heartbeat(beat) => {
                let number = beat.number;
                self.under_way.push(Box::pin(async move {
                    let answer = requests::consumer_heartbeat(&*shared, beat).await;
                    Event::ConsumerHeartbeatAnswered(number, answer)
                }));
            }
            Action::Leave(identity) => {
                self.under_way.push(Box::pin(async move {
                    requests::consumer_leave(&*shared, &identity).await;
                    Event::Left
                }));
            }
            Action::ForgetCoordinator => shared.forget_coordinator(),
            Action::NameTopics => {
                let names = self.ask_for_names();
                self.under_way.push(names);
            }
            Action::Release { partitions, lost } => self.release(partitions, lost, now),
            Action::Assign { added } => self.handovers.assign(shared, added),
            Action::Unsupported(code) => self.fall_back(code),
            Action::Fail(error) => shared.fail(error.into()),
        }
    }

    fn ask_for_names(&self) -> BoxFuture<Event> {
        let shared = Arc::clone(&self.shared);
        let names = match &self.member {
            Member::Consumer(member) => match member.topics() {
                Topics::Named(topics) => Some(topics.clone()),
                Topics::Matching(_) => None,
            },
            Member::Classic(_) => Some(Vec::new()),
        };
        Box::pin(async move {
            // Topics that stay nameless are asked about again.
            let _ = shared.client.refresh_once(names.as_deref()).await;
            Event::TopicsNamed
        })
    }

    fn release(&mut self, partitions: Vec<TopicPartition>, lost: bool, now: Instant) {
        let deadline = now + self.shared.options.max_poll_interval;
        self.handovers.release(Arc::clone(&self.shared), partitions, lost, deadline);
    }

    /// The coordinator does not serve KIP-848, or not to this group.
    fn fall_back(&mut self, code: ErrorCode) {
        if self.shared.options.group_protocol() == GroupProtocol::Auto
            && let Member::Consumer(member) = &self.member
        {
            tracing::info!(group = self.shared.group(), %code, "no KIP-848 here: using the classic protocol");
            let topics = member.topics().clone();
            (self.member, self.pattern) = classic_member(&self.shared, topics);
            return self.watch_topics();
        }
        let group = self.shared.group().to_owned();
        self.shared.fail(GroupError::ProtocolUnsupported { group, code }.into());
    }
}

fn consumer_member(shared: &Shared, topics: Topics) -> ConsumerMembership {
    let options = &shared.options;
    let config = ConsumerMembershipConfig {
        group: shared.group().to_owned(),
        member_id: random_member_id(),
        instance_id: options.instance_id.clone(),
        rack: options.rack.clone(),
        assignor: options.remote_assignor.clone(),
        max_poll_interval: options.max_poll_interval,
    };
    ConsumerMembership::new(config, topics, Instant::now())
}

fn classic_member(shared: &Shared, topics: Topics) -> (Member, Option<PatternWatch>) {
    let config = shared.options.membership(shared.group().to_owned());
    let (names, pattern) = match topics {
        Topics::Named(names) => (Some(names), None),
        Topics::Matching(pattern) => (None, watch_pattern(shared, &pattern)),
    };
    let duty = Partitions::new(shared.options.assignors.clone(), shared.options.rack.clone(), names);
    (Member::Classic(Membership::new(config, duty, Instant::now())), pattern)
}

/// Reports a pattern that cannot be used.
fn watch_pattern(shared: &Shared, pattern: &str) -> Option<PatternWatch> {
    let max_age = shared.client.config().metadata().max_age;
    match PatternWatch::new(pattern, shared.options.exclude_internal_topics, max_age) {
        Ok(watch) => Some(watch),
        Err(reason) => {
            let group = shared.group().to_owned();
            shared.fail(GroupError::Pattern { group, reason }.into());
            None
        }
    }
}

/// As Java's: a random UUID of version 4.
fn random_member_id() -> String {
    let bits = (u128::from(crate::backoff::random_u64()) << 64) | u128::from(crate::backoff::random_u64());
    let mut bytes = bits.to_be_bytes();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    kafka_wire::Uuid::from_bytes(bytes).to_string()
}

fn partitioning(cluster: &Cluster, topics: &[Arc<str>]) -> Partitioning {
    let mut seen = Partitioning::default();
    let racks_are_known = cluster.brokers().any(|broker| broker.rack.is_some());
    for topic in topics.iter().filter_map(|topic| cluster.topic(topic)) {
        let Ok(count) = i32::try_from(topic.partitions.len()) else { continue };
        seen.counts.insert(Arc::clone(&topic.name), count);
        if racks_are_known {
            let rack_of = |node: &i32| cluster.broker(*node)?.rack.clone();
            let racks = topic.partitions.iter().map(|of| of.replicas.iter().filter_map(rack_of).collect());
            seen.replica_racks.insert(Arc::clone(&topic.name), racks.collect());
        }
    }
    seen
}
