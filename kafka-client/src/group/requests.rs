//! The requests of group members, as both protocols' shells send them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_wire::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_wire::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_wire::messages::leave_group_request::MemberIdentity;
use kafka_wire::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_wire::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, GroupId, HeartbeatRequest,
    JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest, TopicName,
};
use kafka_wire::{ErrorCode, Request, StrBytes};
use tokio::time::Instant;

use super::classic::{Ask, JoinAnswer, Joined, Membership};
use super::consumer::{Beat, BeatAnswer, PartitionId};
use super::duty::{Duty, Term};
use super::member::{Failure, Identity};
use crate::client::Client;
use crate::cluster::CoordinatorKind;
use crate::net::{Call, Connection, Pool, Purpose, RequestError};
use crate::topic_partition::string;

/// JoinGroup is answered when the rebalance ends; the coordinator gets this much longer than the members.
const JOIN_GRACE: Duration = Duration::from_secs(5);
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
/// From this version on, a member of KIP-848 can subscribe by a pattern (KIP-1082).
const HEARTBEAT_WITH_PATTERN_VERSION: i16 = 1;
/// The longest reason that is worth sending (`JoinGroupRequest.maybeTruncateReason`).
const MAX_REASON_CHARS: usize = 255;

/// Whose requests they are.
pub(crate) trait Host: Send + Sync {
    fn client(&self) -> &Client;
    /// The member's own connections: a JoinGroup that is held back blocks nobody else.
    fn pool(&self) -> &Pool;
    fn group(&self) -> &str;
    fn protocol_type(&self) -> &str;
    /// A request failed in a way that trying again does not mend.
    fn give_up(&self, error: RequestError);
}

/// A connection to the group's coordinator.
pub(crate) async fn coordinator<H: Host + ?Sized>(
    host: &H,
    purpose: Purpose,
) -> Result<Connection, RequestError> {
    let node = host.client().coordinator(CoordinatorKind::Group, host.group()).await?;
    let connection = host.pool().connection(&node, purpose).await.map_err(RequestError::NotSent);
    if connection.is_err() {
        forget_coordinator(host);
    }
    connection
}

pub(crate) fn forget_coordinator<H: Host + ?Sized>(host: &H) {
    host.client().forget_coordinator(CoordinatorKind::Group, host.group());
}

fn group_id(host: &impl Host) -> GroupId {
    GroupId(string(host.group()))
}

fn millis(span: Duration) -> i32 {
    i32::try_from(span.as_millis()).unwrap_or(i32::MAX)
}

fn check(code: i16) -> Result<(), Failure> {
    ErrorCode::from(code).into_result().map_err(Failure::Refused)
}

/// Asks the coordinator; `build` gets the version that will be sent.
async fn ask<R: Request>(
    host: &impl Host,
    purpose: Purpose,
    timeout: Duration,
    build: impl FnOnce(i16) -> Result<R, Failure>,
) -> Result<R::Response, Failure> {
    let unanswered = |error: RequestError| {
        match &error {
            RequestError::NoCoordinator { code, .. } if !code.is_retriable() => {
                return Failure::Refused(*code);
            }
            RequestError::Unsupported(_) => return Failure::Refused(ErrorCode::UnsupportedVersion),
            error if error.is_retriable() => tracing::debug!(%error, "the coordinator did not answer"),
            _ => host.give_up(error),
        }
        Failure::Unanswered
    };
    let connection = coordinator(host, purpose).await.map_err(unanswered)?;
    let version = connection.version_of::<R>(i16::MAX).map_err(unanswered)?;
    connection.request(&build(version)?, Call::within(timeout)).await.map_err(unanswered)
}

// ---- the classic protocol

/// What the coordinator must know of a member besides what it offers.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub instance_id: Option<String>,
    pub session_timeout: Duration,
    pub rebalance_timeout: Duration,
}

impl Terms {
    /// JoinGroup and SyncGroup are answered when everybody has come, or not in time.
    fn patience(&self, host: &impl Host) -> Duration {
        host.client().request_timeout().max(self.rebalance_timeout + JOIN_GRACE)
    }
}

/// What came of an [`Ask`].
pub(crate) enum Heard {
    Joined(JoinAnswer),
    Synced(Result<Bytes, Failure>),
    /// Of the heartbeat of that generation.
    Heartbeat(i32, Result<(), Failure>),
    Left,
}

impl Heard {
    pub(crate) fn tell<D: Duty>(self, member: &mut Membership<D>, now: Instant) {
        match self {
            Self::Joined(answer) => member.joined(now, answer),
            Self::Synced(answer) => member.synced(now, answer),
            Self::Heartbeat(generation, answer) => member.heartbeat_answered(now, generation, answer),
            Self::Left => {}
        }
    }
}

impl Ask {
    /// Whether the member waits for the answer: a newer such request replaces this one, whose answer is not heard.
    pub(crate) fn is_exchange(&self) -> bool {
        matches!(self, Self::Join { .. } | Self::Sync { .. })
    }

    pub(crate) async fn send(self, host: &impl Host, terms: &Terms) -> Heard {
        match self {
            Self::Join { member_id, protocols, reason } => {
                Heard::Joined(join(host, &member_id, terms, protocols, &reason).await)
            }
            Self::Sync { identity, protocol, assignments } => {
                Heard::Synced(sync(host, &identity, &protocol, assignments, terms).await)
            }
            Self::Heartbeat(identity) => {
                Heard::Heartbeat(identity.generation, heartbeat(host, &identity).await)
            }
            Self::Leave(identity) => {
                leave(host, &identity).await;
                Heard::Left
            }
        }
    }
}

/// Without a reason if that is empty.
async fn join(
    host: &impl Host,
    member_id: &str,
    terms: &Terms,
    protocols: Vec<(String, Bytes)>,
    reason: &str,
) -> JoinAnswer {
    let timeout = terms.patience(host);
    let build = |version: i16| {
        let protocols = protocols.into_iter().map(|(name, metadata)| {
            JoinGroupRequestProtocol::default().with_name(string(&name)).with_metadata(metadata)
        });
        let mut request = JoinGroupRequest::default()
            .with_group_id(group_id(host))
            .with_session_timeout_ms(millis(terms.session_timeout))
            .with_rebalance_timeout_ms(millis(terms.rebalance_timeout))
            .with_member_id(string(member_id))
            .with_protocol_type(string(host.protocol_type()))
            .with_protocols(protocols.collect());
        if version >= JOIN_WITH_INSTANCE_VERSION {
            request.group_instance_id = terms.instance_id.as_deref().map(string);
        }
        if version >= JOIN_WITH_REASON_VERSION && !reason.is_empty() {
            let reason: String = reason.chars().take(MAX_REASON_CHARS).collect();
            request.reason = Some(StrBytes::from_string(reason));
        }
        Ok(request)
    };
    let response = match ask(host, Purpose::Coordinator, timeout, build).await {
        Ok(response) => response,
        Err(failure) => return JoinAnswer::Failed(failure),
    };
    match ErrorCode::from(response.error_code) {
        ErrorCode::None => JoinAnswer::Joined(Joined {
            term: Term {
                generation: response.generation_id,
                member_id: response.member_id.to_string(),
                leader: response.leader.to_string(),
                protocol: response.protocol_name.map(|name| name.to_string()).unwrap_or_default(),
            },
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

/// Answered once the leader has assigned.
async fn sync(
    host: &impl Host,
    identity: &Identity,
    protocol: &str,
    assignments: Vec<(String, Bytes)>,
    terms: &Terms,
) -> Result<Bytes, Failure> {
    let timeout = terms.patience(host);
    let build = |version: i16| {
        let assignments = assignments.into_iter().map(|(member_id, assignment)| {
            SyncGroupRequestAssignment::default()
                .with_member_id(string(&member_id))
                .with_assignment(assignment)
        });
        let mut request = SyncGroupRequest::default()
            .with_group_id(group_id(host))
            .with_generation_id(identity.generation)
            .with_member_id(string(&identity.member_id))
            .with_assignments(assignments.collect());
        if version >= WITH_INSTANCE_VERSION {
            request.group_instance_id = identity.instance_id.as_deref().map(string);
        }
        if version >= SYNC_WITH_PROTOCOL_VERSION {
            request.protocol_type = Some(string(host.protocol_type()));
            request.protocol_name = Some(string(protocol));
        }
        Ok(request)
    };
    let response = ask(host, Purpose::Coordinator, timeout, build).await?;
    check(response.error_code)?;
    Ok(response.assignment)
}

async fn heartbeat(host: &impl Host, identity: &Identity) -> Result<(), Failure> {
    let build = |version: i16| {
        let mut request = HeartbeatRequest::default()
            .with_group_id(group_id(host))
            .with_generation_id(identity.generation)
            .with_member_id(string(&identity.member_id));
        if version >= WITH_INSTANCE_VERSION {
            request.group_instance_id = identity.instance_id.as_deref().map(string);
        }
        Ok(request)
    };
    let timeout = host.client().request_timeout();
    check(ask(host, Purpose::Coordinator, timeout, build).await?.error_code)
}

/// On a connection where no JoinGroup of ours is held back.
async fn leave(host: &impl Host, identity: &Identity) {
    let mut goodbye = Goodbye::default();
    while goodbye.must_be_repeated(host, leave_once(host, identity).await).await {}
}

async fn leave_once(host: &impl Host, identity: &Identity) -> Result<(), Failure> {
    let build = |version: i16| {
        let request = LeaveGroupRequest::default().with_group_id(group_id(host));
        if version < LEAVE_WITH_MEMBERS_VERSION {
            return Ok(request.with_member_id(string(&identity.member_id)));
        }
        let mut member = MemberIdentity::default()
            .with_member_id(string(&identity.member_id))
            .with_group_instance_id(identity.instance_id.as_deref().map(string));
        if version >= LEAVE_WITH_REASON_VERSION {
            member.reason = Some(StrBytes::from_static_str("the member is being closed"));
        }
        Ok(request.with_members(vec![member]))
    };
    check(ask(host, Purpose::Control, host.client().request_timeout(), build).await?.error_code)
}

/// Leaving is tried again while the caller waits: a member that vanishes without a word holds its group up until its
/// session ends.
#[derive(Default)]
struct Goodbye {
    failures: u32,
}

impl Goodbye {
    async fn must_be_repeated(&mut self, host: &impl Host, outcome: Result<(), Failure>) -> bool {
        match outcome {
            Ok(()) => return false,
            Err(Failure::Refused(code)) if !code.is_retriable() => return false,
            Err(_) => forget_coordinator(host),
        }
        self.failures += 1;
        tokio::time::sleep(host.client().retry_backoff().random_delay(self.failures)).await;
        true
    }
}

// ---- KIP-848

pub(crate) async fn consumer_heartbeat(host: &impl Host, beat: Beat) -> Result<BeatAnswer, Failure> {
    let timeout = host.client().request_timeout();
    let build = |version: i16| consumer_heartbeat_request(host, beat, version);
    let response = ask(host, Purpose::Coordinator, timeout, build).await?;
    if let Some(message) = response.error_message.as_deref().filter(|_| response.error_code != 0) {
        tracing::debug!(group = host.group(), message, "the coordinator refused a heartbeat");
    }
    check(response.error_code)?;
    Ok(BeatAnswer {
        epoch: response.member_epoch,
        interval: Duration::from_millis(u64::try_from(response.heartbeat_interval_ms).unwrap_or_default()),
        assignment: partitions_of(response),
    })
}

fn partitions_of(response: ConsumerGroupHeartbeatResponse) -> Option<Vec<PartitionId>> {
    let topics = response.assignment?.topic_partitions;
    let partitions = |topic: kafka_wire::messages::consumer_group_heartbeat_response::TopicPartitions| {
        topic.partitions.into_iter().map(move |partition| (topic.topic_id, partition))
    };
    Some(topics.into_iter().flat_map(partitions).collect())
}

fn consumer_heartbeat_request(
    host: &impl Host,
    Beat { identity, news, .. }: Beat,
    version: i16,
) -> Result<ConsumerGroupHeartbeatRequest, Failure> {
    if news.pattern.is_some() && version < HEARTBEAT_WITH_PATTERN_VERSION {
        return Err(Failure::Refused(ErrorCode::UnsupportedVersion));
    }
    let names = |topics: Vec<Arc<str>>| topics.iter().map(|topic| TopicName(string(topic))).collect();
    Ok(ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group_id(host))
        .with_member_id(string(&identity.member_id))
        .with_member_epoch(identity.generation)
        .with_instance_id(identity.instance_id.as_deref().map(string))
        .with_rack_id(news.rack.as_deref().map(string))
        .with_rebalance_timeout_ms(news.rebalance_timeout.map_or(-1, millis))
        .with_subscribed_topic_names(news.topics.map(names))
        .with_subscribed_topic_regex(news.pattern.as_deref().map(string))
        .with_server_assignor(news.assignor.as_deref().map(string))
        .with_topic_partitions(news.owned.map(by_topic_id)))
}

/// From partitions in order.
fn by_topic_id(partitions: Vec<PartitionId>) -> Vec<TopicPartitions> {
    let mut topics: Vec<TopicPartitions> = Vec::new();
    for (id, partition) in partitions {
        match topics.last_mut().filter(|topic| topic.topic_id == id) {
            Some(topic) => topic.partitions.push(partition),
            None => {
                topics.push(TopicPartitions::default().with_topic_id(id).with_partitions(vec![partition]));
            }
        }
    }
    topics
}

/// The identity's generation is the epoch that says for how long (KIP-848: -1, or -2 for a static member that will be
/// back).
pub(crate) async fn consumer_leave(host: &impl Host, identity: &Identity) {
    let mut goodbye = Goodbye::default();
    while goodbye.must_be_repeated(host, consumer_leave_once(host, identity).await).await {}
}

async fn consumer_leave_once(host: &impl Host, identity: &Identity) -> Result<(), Failure> {
    let build = |_| {
        Ok(ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group_id(host))
            .with_member_id(string(&identity.member_id))
            .with_member_epoch(identity.generation)
            .with_instance_id(identity.instance_id.as_deref().map(string))
            .with_rebalance_timeout_ms(-1))
    };
    check(ask(host, Purpose::Control, host.client().request_timeout(), build).await?.error_code)
}
