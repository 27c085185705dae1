//! The group's task: carries out what [`Membership`] decides. Requests, rebalance callbacks and heartbeats run
//! side by side, so that a slow application or broker never keeps a heartbeat back.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kafka_wire::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_wire::messages::leave_group_request::MemberIdentity;
use kafka_wire::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_wire::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest,
};
use kafka_wire::{ErrorCode, Request, StrBytes};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::ConsumeError;
use super::listener::{Rebalance, RebalanceEvent};
use super::shared::{Command, Shared};
use super::upkeep::sleep_until;
use crate::TopicPartition;
use crate::cluster::Cluster;
use crate::group::classic::{Action, Failure, Identity, JoinAnswer, Joined, Membership};
use crate::group::protocol::PROTOCOL_TYPE;
use crate::net::{Call, Purpose, RequestError};

/// JoinGroup is answered when the rebalance ends; the coordinator gets this much longer than the members.
const JOIN_GRACE: Duration = Duration::from_secs(5);
/// How long leaving may take, rebalance callbacks and retries included, also when the consumer was dropped and
/// nobody waits for it.
pub(super) const LEAVE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the leader looks whether a topic that is subscribed to but does not exist was created.
const MISSING_TOPIC_INTERVAL: Duration = Duration::from_secs(1);
/// From this version on, LeaveGroup names its members in a list (KIP-345).
const LEAVE_WITH_MEMBERS_VERSION: i16 = 3;
/// From these versions on, a reason can be given (KIP-800).
const JOIN_WITH_REASON_VERSION: i16 = 8;
const LEAVE_WITH_REASON_VERSION: i16 = 5;
/// From these versions on, requests name the static member (KIP-345).
const JOIN_WITH_INSTANCE_VERSION: i16 = 5;
const WITH_INSTANCE_VERSION: i16 = 3;
/// From this version on, SyncGroup says which protocol it means (KIP-559).
const SYNC_WITH_PROTOCOL_VERSION: i16 = 5;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

enum Event {
    Joined(JoinAnswer),
    Counted(BTreeMap<Arc<str>, i32>),
    Synced(Result<Bytes, Failure>),
    HeartbeatAnswered(i32, Result<(), Failure>),
    Left,
}

struct GroupTask {
    shared: Arc<Shared>,
    membership: Membership,
    /// The exchange that the membership waits for: a newer one replaces it, and its answer is not heard.
    exchange: Option<BoxFuture<Event>>,
    /// Heartbeats and leaving.
    requests: FuturesUnordered<BoxFuture<Event>>,
    /// Handing partitions over to and back from the application, one step at a time.
    handover: Option<Handover>,
    handovers: VecDeque<Handover>,
    missing_topics_due: Option<Instant>,
}

struct Handover {
    is_release: bool,
    step: BoxFuture<()>,
}

/// Runs until the member has left; `closing` starts that.
pub(super) async fn run(
    shared: Arc<Shared>,
    membership: Membership,
    mut commands: mpsc::UnboundedReceiver<Command>,
    mut closing: watch::Receiver<bool>,
) {
    let mut returned = shared.returned.subscribe();
    let mut rounds = shared.client.metadata().subscribe();
    let tick = membership.config().heartbeat_interval;
    let mut task = GroupTask {
        shared,
        membership,
        exchange: None,
        requests: FuturesUnordered::new(),
        handover: None,
        handovers: VecDeque::new(),
        missing_topics_due: None,
    };
    task.watch_topics();
    let mut leave_by: Option<Instant> = None;
    loop {
        let now = Instant::now();
        if task.shared.take_polled() {
            task.membership.polled(now);
        }
        task.carry_out(now);
        if leave_by.is_some_and(|at| at <= now) || (task.membership.has_left() && task.is_idle()) {
            return;
        }
        task.ask_for_missing_topics(now);
        let wakes = [task.membership.wake_at(), leave_by, task.missing_topics_due, Some(now + tick)];
        let wake_at = wakes.into_iter().flatten().min();
        tokio::select! {
            event = next_exchange(&mut task.exchange) => task.handle(event),
            Some(event) = task.requests.next(), if !task.requests.is_empty() => task.handle(event),
            is_release = next_handover(&mut task.handover) => {
                if is_release {
                    task.membership.released(Instant::now());
                }
            }
            Some(command) = commands.recv() => task.obey(command),
            _ = rounds.changed() => task.watch_topics(),
            _ = returned.changed() => {}
            _ = closing.wait_for(|closing| *closing), if leave_by.is_none() => {
                leave_by = Some(Instant::now() + LEAVE_TIMEOUT);
                task.membership.leave();
            }
            () = sleep_until(wake_at) => {}
        }
    }
}

async fn next_exchange(exchange: &mut Option<BoxFuture<Event>>) -> Event {
    match exchange {
        Some(running) => {
            let event = running.await;
            *exchange = None;
            event
        }
        None => std::future::pending().await,
    }
}

async fn next_handover(handover: &mut Option<Handover>) -> bool {
    match handover {
        Some(running) => {
            (&mut running.step).await;
            let is_release = running.is_release;
            *handover = None;
            is_release
        }
        None => std::future::pending().await,
    }
}

impl GroupTask {
    fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.handover.is_none() && self.handovers.is_empty()
    }

    fn carry_out(&mut self, now: Instant) {
        while let Some(action) = self.membership.poll(now) {
            tracing::debug!(group = self.membership.config().group, ?action, "group");
            self.perform(action, now);
        }
        *self.shared.identity.lock() = Some(self.membership.identity());
        if self.handover.is_none() {
            self.handover = self.handovers.pop_front();
        }
    }

    fn handle(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Joined(answer) => self.membership.joined(now, answer),
            Event::Counted(counts) => self.membership.counted(counts),
            Event::Synced(answer) => self.membership.synced(now, answer),
            Event::HeartbeatAnswered(generation, answer) => {
                self.membership.heartbeat_answered(now, generation, answer);
            }
            Event::Left => {}
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Subscribe(topics) => {
                self.membership.subscribe(topics);
                self.watch_topics();
            }
            Command::EnforceRebalance => self.membership.enforce_rebalance(),
            Command::CommitRefused { generation, code } => {
                self.membership.commit_refused(Instant::now(), generation, code);
            }
        }
    }

    /// Keeps the group's topics in the client's metadata, and tells the membership how they are.
    fn watch_topics(&mut self) {
        let metadata = self.shared.client.metadata();
        for topic in self.membership.topics().iter().chain(self.membership.watched_topics()) {
            metadata.touch(topic);
        }
        let counts = count_partitions(&self.shared.client.cluster(), self.membership.watched_topics());
        self.membership.topics_changed(&counts);
    }

    fn ask_for_missing_topics(&mut self, now: Instant) {
        if self.missing_topics_due.is_some_and(|at| now < at) {
            return;
        }
        let cluster = self.shared.client.cluster();
        let watched = self.membership.watched_topics();
        let missing: Vec<&Arc<str>> = watched.iter().filter(|topic| cluster.topic(topic).is_none()).collect();
        self.missing_topics_due = (!missing.is_empty()).then_some(now + MISSING_TOPIC_INTERVAL);
        if !missing.is_empty() {
            self.shared.client.want_refresh(missing);
        }
    }

    fn perform(&mut self, action: Action, now: Instant) {
        let shared = Arc::clone(&self.shared);
        match action {
            Action::Join { member_id, protocols, reason } => {
                let rebalance_timeout = self.membership.config().max_poll_interval;
                let session_timeout = self.membership.config().session_timeout;
                let timeouts = (session_timeout, rebalance_timeout);
                self.exchange = Some(Box::pin(async move {
                    Event::Joined(join(&shared, member_id, protocols, reason, timeouts).await)
                }));
            }
            Action::CountPartitions(topics) => {
                self.exchange = Some(Box::pin(async move {
                    // Stale counts would be corrected by one more rebalance, so failing here is no harm.
                    let refreshed = shared.client.refresh_topics(&topics).await;
                    let cluster = refreshed.unwrap_or_else(|_| shared.client.cluster());
                    Event::Counted(count_partitions(&cluster, &topics))
                }));
            }
            Action::Sync { identity, protocol, assignments } => {
                self.exchange = Some(Box::pin(async move {
                    Event::Synced(sync(&shared, identity, protocol, assignments).await)
                }));
            }
            Action::Heartbeat(identity) => {
                self.requests.push(Box::pin(async move {
                    let generation = identity.generation;
                    Event::HeartbeatAnswered(generation, heartbeat(&shared, identity).await)
                }));
            }
            Action::Leave(identity) => {
                self.requests.push(Box::pin(async move {
                    leave(&shared, identity).await;
                    Event::Left
                }));
            }
            Action::ForgetCoordinator => self.shared.forget_coordinator(),
            Action::Release { partitions, lost } => {
                // What was to be given up before is part of this.
                self.handovers.retain(|handover| !handover.is_release);
                self.handover.take_if(|handover| handover.is_release);
                let deadline = now + self.membership.config().max_poll_interval;
                let step: BoxFuture<()> = if lost {
                    Box::pin(lose(shared, partitions))
                } else {
                    Box::pin(revoke(shared, partitions, deadline))
                };
                self.handovers.push_back(Handover { is_release: true, step });
            }
            Action::Assign { added, .. } => {
                let step = Box::pin(assign(shared, added));
                self.handovers.push_back(Handover { is_release: false, step });
            }
            Action::Fail(error) => self.shared.fail(error.into()),
        }
    }
}

fn count_partitions(cluster: &Cluster, topics: &[Arc<str>]) -> BTreeMap<Arc<str>, i32> {
    topics
        .iter()
        .filter_map(|topic| {
            let count = i32::try_from(cluster.partition_count(topic)?).ok()?;
            Some((Arc::clone(topic), count))
        })
        .collect()
}

// ---- partitions that come and go

/// Opens the gate again however the step ends.
struct Gate<'a>(&'a Shared);

impl<'a> Gate<'a> {
    fn close(shared: &'a Shared) -> Self {
        shared.set_gate(true);
        Self(shared)
    }
}

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        self.0.set_gate(false);
    }
}

async fn assign(shared: Arc<Shared>, added: Vec<TopicPartition>) {
    if added.is_empty() {
        return;
    }
    let _gate = Gate::close(&shared);
    shared.assign(added.clone(), true);
    if let Some(listener) = &shared.options.listener {
        listener.on_assigned(Rebalance { partitions: &added, shared: &shared }).await;
    }
    tracing::info!(partitions = ?added, "assigned");
    let _ = shared.events.send(RebalanceEvent::Assigned(added));
}

/// Waits until the application is done with what it has (it asks for more, or the consumer closes), commits, and
/// lets go.
async fn revoke(shared: Arc<Shared>, partitions: Vec<TopicPartition>, deadline: Instant) {
    if partitions.is_empty() {
        return;
    }
    let _gate = Gate::close(&shared);
    shared.begin_revoke(&partitions);
    let mut returned = shared.returned.subscribe();
    loop {
        returned.borrow_and_update();
        if !shared.reader_is_busy() || shared.is_closing() {
            break;
        }
        if tokio::time::timeout_at(deadline, returned.changed()).await.is_err() {
            break;
        }
    }
    if shared.options.auto_commit.is_some()
        && let Err(error) = shared.commit_done().await
    {
        tracing::warn!(%error, "could not commit before giving partitions up; some records will be read again");
    }
    if let Some(listener) = &shared.options.listener {
        listener.on_revoked(Rebalance { partitions: &partitions, shared: &shared }).await;
    }
    shared.unassign(&partitions);
    tracing::info!(?partitions, "revoked");
    let _ = shared.events.send(RebalanceEvent::Revoked(partitions));
}

async fn lose(shared: Arc<Shared>, partitions: Vec<TopicPartition>) {
    shared.unassign(&partitions);
    if partitions.is_empty() {
        return;
    }
    let _gate = Gate::close(&shared);
    if let Some(listener) = &shared.options.listener {
        listener.on_lost(Rebalance { partitions: &partitions, shared: &shared }).await;
    }
    tracing::warn!(?partitions, "lost");
    let _ = shared.events.send(RebalanceEvent::Lost(partitions));
}

// ---- requests

fn string(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn group_id(shared: &Shared) -> GroupId {
    GroupId(string(shared.options.group.as_deref().unwrap_or_default()))
}

fn millis(span: Duration) -> i32 {
    i32::try_from(span.as_millis()).unwrap_or(i32::MAX)
}

/// Asks the coordinator; `build` gets the version that will be sent.
async fn ask<R: Request>(
    shared: &Shared,
    purpose: Purpose,
    timeout: Duration,
    build: impl FnOnce(i16) -> R,
) -> Result<R::Response, Failure> {
    let unanswered = |error: RequestError| {
        if let RequestError::NoCoordinator { code, .. } = &error
            && !code.is_retriable()
        {
            return Failure::Refused(*code);
        }
        if error.is_retriable() {
            tracing::debug!(%error, "the coordinator did not answer");
        } else {
            shared.fail(ConsumeError::Request(error));
        }
        Failure::Unanswered
    };
    let connection = shared.coordinator(purpose).await.map_err(unanswered)?;
    let version = connection.version_of::<R>(i16::MAX).map_err(unanswered)?;
    connection.request(&build(version), Call::within(timeout)).await.map_err(unanswered)
}

fn check(code: i16) -> Result<(), Failure> {
    ErrorCode::from(code).into_result().map_err(Failure::Refused)
}

async fn join(
    shared: &Shared,
    member_id: String,
    protocols: Vec<(String, Bytes)>,
    reason: &'static str,
    (session_timeout, rebalance_timeout): (Duration, Duration),
) -> JoinAnswer {
    let protocols = protocols
        .into_iter()
        .map(|(name, metadata)| {
            JoinGroupRequestProtocol::default().with_name(string(&name)).with_metadata(metadata)
        })
        .collect();
    let timeout = shared.client.request_timeout().max(rebalance_timeout + JOIN_GRACE);
    let build = |version: i16| {
        let mut request = JoinGroupRequest::default()
            .with_group_id(group_id(shared))
            .with_session_timeout_ms(millis(session_timeout))
            .with_rebalance_timeout_ms(millis(rebalance_timeout))
            .with_member_id(string(&member_id))
            .with_protocol_type(StrBytes::from_static_str(PROTOCOL_TYPE))
            .with_protocols(protocols);
        if version >= JOIN_WITH_INSTANCE_VERSION {
            request.group_instance_id = shared.options.instance_id.as_deref().map(string);
        }
        if version >= JOIN_WITH_REASON_VERSION && !reason.is_empty() {
            request.reason = Some(StrBytes::from_static_str(reason));
        }
        request
    };
    let response = match ask(shared, Purpose::Coordinator, timeout, build).await {
        Ok(response) => response,
        Err(failure) => return JoinAnswer::Failed(failure),
    };
    match ErrorCode::from(response.error_code) {
        ErrorCode::None => JoinAnswer::Joined(Joined {
            member_id: response.member_id.to_string(),
            generation: response.generation_id,
            protocol: response.protocol_name.map(|name| name.to_string()).unwrap_or_default(),
            leader: response.leader.to_string(),
            skip_assignment: response.skip_assignment,
            members: response
                .members
                .into_iter()
                .map(|member| {
                    let instance = member.group_instance_id.map(|id| id.to_string());
                    (member.member_id.to_string(), instance, member.metadata)
                })
                .collect(),
        }),
        ErrorCode::MemberIdRequired => JoinAnswer::MemberIdRequired(response.member_id.to_string()),
        code => JoinAnswer::Failed(Failure::Refused(code)),
    }
}

async fn sync(
    shared: &Shared,
    identity: Identity,
    protocol: String,
    assignments: Vec<(String, Bytes)>,
) -> Result<Bytes, Failure> {
    let assignments = assignments
        .into_iter()
        .map(|(member_id, assignment)| {
            SyncGroupRequestAssignment::default()
                .with_member_id(string(&member_id))
                .with_assignment(assignment)
        })
        .collect();
    // Answered once the leader has assigned, which takes it at most a rebalance timeout.
    let timeout = shared.client.request_timeout().max(shared.options.max_poll_interval + JOIN_GRACE);
    let build = |version: i16| {
        let mut request = SyncGroupRequest::default()
            .with_group_id(group_id(shared))
            .with_generation_id(identity.generation)
            .with_member_id(string(&identity.member_id))
            .with_assignments(assignments);
        if version >= WITH_INSTANCE_VERSION {
            request.group_instance_id = identity.instance_id.as_deref().map(string);
        }
        if version >= SYNC_WITH_PROTOCOL_VERSION {
            request.protocol_type = Some(StrBytes::from_static_str(PROTOCOL_TYPE));
            request.protocol_name = Some(string(&protocol));
        }
        request
    };
    let response = ask(shared, Purpose::Coordinator, timeout, build).await?;
    check(response.error_code)?;
    Ok(response.assignment)
}

async fn heartbeat(shared: &Shared, identity: Identity) -> Result<(), Failure> {
    let build = |version: i16| {
        let mut request = HeartbeatRequest::default()
            .with_group_id(group_id(shared))
            .with_generation_id(identity.generation)
            .with_member_id(string(&identity.member_id));
        if version >= WITH_INSTANCE_VERSION {
            request.group_instance_id = identity.instance_id.as_deref().map(string);
        }
        request
    };
    let timeout = shared.client.request_timeout();
    check(ask(shared, Purpose::Coordinator, timeout, build).await?.error_code)
}

/// On a connection where no JoinGroup of ours is held back. Tries again while the caller waits: a member that
/// vanishes without a word holds its group up until its session ends.
async fn leave(shared: &Shared, identity: Identity) {
    if shared.stays_in_group.load(std::sync::atomic::Ordering::Acquire) {
        return;
    }
    let mut failures = 0;
    loop {
        let build = |version: i16| {
            let request = LeaveGroupRequest::default().with_group_id(group_id(shared));
            if version < LEAVE_WITH_MEMBERS_VERSION {
                return request.with_member_id(string(&identity.member_id));
            }
            let mut member = MemberIdentity::default().with_member_id(string(&identity.member_id));
            if version >= LEAVE_WITH_REASON_VERSION {
                member.reason = Some(StrBytes::from_static_str("the consumer is being closed"));
            }
            request.with_members(vec![member])
        };
        let answer = ask(shared, Purpose::Control, shared.client.request_timeout(), build).await;
        match answer.and_then(|response| check(response.error_code)) {
            Err(Failure::Refused(code)) if !code.is_retriable() => return,
            Err(_) => shared.forget_coordinator(),
            Ok(()) => return,
        }
        failures += 1;
        tokio::time::sleep(shared.client.retry_backoff().random_delay(failures)).await;
    }
}
