//! Offsets on the cluster's side: committing, reading what was committed, and looking up by timestamp.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kafka_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_wire::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_wire::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_wire::messages::{
    BrokerId, GroupId, ListOffsetsRequest, ListOffsetsResponse, OffsetCommitRequest, OffsetFetchRequest,
    OffsetFetchResponse,
};
use kafka_wire::{ErrorCode, StrBytes};
use tokio::time::Instant;

use super::fetch::Position;
use super::shared::{Command, Shared};
use super::{CommitError, IsolationLevel, OffsetReset, OffsetsError};
use crate::TopicPartition;
use crate::client::{Client, Target};
use crate::cluster::CoordinatorKind;
use crate::group::member::{Identity, NO_GENERATION};
use crate::group::requests;
use crate::net::{Call, Connection, Purpose, RequestError};
use crate::topic_partition::{by_topic, string, topic_name};

/// Version 10 differs by a time-out for brokers that look into remote storage.
const LIST_OFFSETS_MAX_VERSION: i16 = 9;
/// From this version on, OffsetFetch names groups (KIP-709).
const OFFSET_FETCH_GROUPS_VERSION: i16 = 8;
/// From this version on, OffsetFetch can wait for transactions (KIP-447).
const OFFSET_FETCH_STABLE_VERSION: i16 = 7;

const LATEST_TIMESTAMP: i64 = -1;
const EARLIEST_TIMESTAMP: i64 = -2;

/// An offset to commit, or one that was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OffsetAndMetadata {
    /// The offset of the next record to read.
    pub offset: i64,
    /// The leader epoch of the record before it, if known (KIP-320).
    pub leader_epoch: Option<i32>,
    /// Anything the application wants to keep with it. The broker's limit is 4096 bytes
    /// (`offset.metadata.max.bytes`).
    pub metadata: String,
}

impl OffsetAndMetadata {
    /// An offset without metadata.
    pub fn new(offset: i64) -> Self {
        Self { offset, leader_epoch: None, metadata: String::new() }
    }

    /// The same with metadata.
    pub fn with_metadata(mut self, metadata: impl Into<String>) -> Self {
        self.metadata = metadata.into();
        self
    }
}

impl From<Position> for OffsetAndMetadata {
    fn from(position: Position) -> Self {
        Self {
            offset: position.offset,
            leader_epoch: (position.leader_epoch >= 0).then_some(position.leader_epoch),
            metadata: String::new(),
        }
    }
}

/// Where a timestamp lies in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct OffsetAndTimestamp {
    /// The first offset whose record has the timestamp or a later one.
    pub offset: i64,
    /// That record's timestamp, in milliseconds since 1970; -1 for the beginning and the end of a log.
    pub timestamp: i64,
    /// Its leader epoch, -1 if unknown.
    pub leader_epoch: i32,
}

impl OffsetReset {
    /// The timestamp that ListOffsets takes; `now` is the time since 1970.
    pub(super) fn timestamp(self, now: Duration) -> i64 {
        let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        match self {
            Self::Earliest | Self::LastConsumed => EARLIEST_TIMESTAMP,
            Self::Latest | Self::None => LATEST_TIMESTAMP,
            Self::Timestamp(timestamp) => timestamp.max(0),
            Self::ByDuration(span) => millis(now.saturating_sub(span)),
        }
    }
}

/// The time since 1970 by the system's clock.
pub(super) fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn is_about_coordinator(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable)
}

impl Shared {
    /// A connection to the group's coordinator on which no JoinGroup blocks the way.
    pub(super) async fn coordinator(&self, purpose: Purpose) -> Result<Connection, RequestError> {
        requests::coordinator(self, purpose).await
    }

    pub(super) fn forget_coordinator(&self) {
        if let Some(group) = &self.options.group {
            self.client.forget_coordinator(CoordinatorKind::Group, group);
        }
    }

    /// Commits the position of every assigned partition.
    pub(super) async fn commit_positions(&self) -> Result<(), CommitError> {
        let positions = self.positions_to_commit();
        self.commit_offsets(positions.into_iter().map(|(tp, at)| (tp, at.into())).collect()).await
    }

    /// Commits what the application is done with, if it moved since the last commit.
    pub(super) async fn commit_done(&self) -> Result<(), CommitError> {
        let done = self.done_positions();
        let moved: BTreeMap<TopicPartition, OffsetAndMetadata> = {
            let committed = self.committed.lock();
            done.into_iter()
                .filter(|(partition, at)| committed.get(partition) != Some(&at.offset))
                .map(|(partition, at)| (partition, at.into()))
                .collect()
        };
        self.commit_offsets(moved).await
    }

    pub(super) async fn commit_offsets(
        &self,
        offsets: BTreeMap<TopicPartition, OffsetAndMetadata>,
    ) -> Result<(), CommitError> {
        let Some(group) = self.options.group.clone() else { return Err(CommitError::NoGroup) };
        if offsets.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let deadline = began + self.client.request_timeout();
        let mut failures = 0;
        loop {
            let changed = self.changes_generation.load(Ordering::Acquire);
            let identity = self.identity.lock().clone();
            let error = match self.try_commit(&group, identity.as_ref(), &offsets).await {
                Ok(()) => break,
                Err(error) => error,
            };
            let goes_on = match &error {
                // The epoch moved on while the commit was under way; a heartbeat's answer brings the new one (KIP-848).
                CommitError::Refused { code: ErrorCode::StaleMemberEpoch, .. } => true,
                CommitError::Refused {
                    code: ErrorCode::RebalanceInProgress | ErrorCode::IllegalGeneration,
                    ..
                } => (changed || self.is_overtaken(identity.as_ref())) && self.are_assigned(offsets.keys()),
                error => error.is_retriable(),
            };
            failures += 1;
            let retry_at = Instant::now() + self.client.retry_backoff().random_delay(failures);
            if !goes_on || retry_at >= deadline {
                return Err(error);
            }
            tokio::time::sleep_until(retry_at).await;
        }
        self.metrics.committed(began);
        let mut committed = self.committed.lock();
        committed.extend(offsets.into_iter().map(|(partition, at)| (partition, at.offset)));
        Ok(())
    }

    /// Whether there is, or is about to be, a later generation than that of `identity`. A cooperative member keeps
    /// partitions from one to the next, and what it commits of them is refused until it knows the new one. Who lost
    /// them to it has let go of them before another member has them, so that no commit can come too late.
    fn is_overtaken(&self, identity: Option<&Identity>) -> bool {
        let is_member = |identity: &&Identity| identity.generation != NO_GENERATION;
        let changes = self.changes_generation.load(Ordering::Acquire);
        let now = self.identity.lock();
        changes || now.as_ref().filter(is_member).is_some_and(|now| identity.is_some_and(|then| then != now))
    }

    fn are_assigned<'a>(&self, mut partitions: impl Iterator<Item = &'a TopicPartition>) -> bool {
        let fetcher = self.fetcher.lock();
        partitions.all(|partition| fetcher.is_assigned(partition))
    }

    async fn try_commit(
        &self,
        group: &str,
        identity: Option<&Identity>,
        offsets: &BTreeMap<TopicPartition, OffsetAndMetadata>,
    ) -> Result<(), CommitError> {
        let unanswered = |source| CommitError::Request { group: group.to_owned(), source };
        let connection = self.coordinator(Purpose::Control).await.map_err(unanswered)?;
        let generation = identity.map_or(NO_GENERATION, |identity| identity.generation);
        let topics = by_topic(offsets.iter().map(|(partition, at)| (partition.clone(), at)))
            .into_iter()
            .map(|(topic, partitions)| {
                let partitions = partitions
                    .into_iter()
                    .map(|(index, at)| {
                        OffsetCommitRequestPartition::default()
                            .with_partition_index(index)
                            .with_committed_offset(at.offset)
                            .with_committed_leader_epoch(at.leader_epoch.unwrap_or(-1))
                            .with_committed_metadata(Some(string(&at.metadata)))
                    })
                    .collect();
                OffsetCommitRequestTopic::default().with_name(topic_name(&topic)).with_partitions(partitions)
            })
            .collect();
        let mut request = OffsetCommitRequest::default()
            .with_group_id(GroupId(string(group)))
            .with_generation_id_or_member_epoch(generation)
            .with_topics(topics);
        if let Some(identity) = identity {
            request = request
                .with_member_id(string(&identity.member_id))
                .with_group_instance_id(identity.instance_id.as_deref().map(string));
        }
        let call = Call::within(self.client.request_timeout());
        let response = connection.request(&request, call).await.map_err(|source| {
            self.forget_coordinator();
            unanswered(source)
        })?;
        for topic in &response.topics {
            for partition in &topic.partitions {
                let code = ErrorCode::from(partition.error_code);
                if code.is_ok() {
                    continue;
                }
                if is_about_coordinator(code) {
                    self.forget_coordinator();
                }
                let _ = self.commands.send(Command::CommitRefused { generation, code });
                let partition = TopicPartition::new(topic.name.as_str(), partition.partition_index);
                return Err(CommitError::Refused {
                    group: group.to_owned(),
                    partition: Some(partition),
                    code,
                });
            }
        }
        Ok(())
    }

    /// What the group committed; partitions without a committed offset are left out.
    pub(super) async fn fetch_committed(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, OffsetAndMetadata>, OffsetsError> {
        let Some(group) = self.options.group.clone() else { return Err(OffsetsError::NoGroup) };
        if partitions.is_empty() {
            return Ok(BTreeMap::new());
        }
        let began = Instant::now();
        let connection = self.coordinator(Purpose::Control).await?;
        let version = connection.version_of::<OffsetFetchRequest>(i16::MAX)?;
        let request = offset_fetch_request(&group, partitions, version);
        let response = connection
            .request(&request, Call::within(self.client.request_timeout()))
            .await
            .inspect_err(|_| self.forget_coordinator())?;
        self.metrics.read_committed_offsets(began);
        let refused = |partition: TopicPartition, code: ErrorCode| {
            if is_about_coordinator(code) {
                self.forget_coordinator();
            }
            OffsetsError::Refused { partition, code }
        };
        let (code, found) = offset_fetch_answer(response);
        if let (Some(first), Err(code)) = (partitions.first(), code.into_result()) {
            return Err(refused(first.clone(), code));
        }
        let mut committed = BTreeMap::new();
        for (partition, code, at) in found {
            code.into_result().map_err(|code| refused(partition.clone(), code))?;
            if at.offset >= 0 {
                committed.insert(partition, at);
            }
        }
        Ok(committed)
    }
}

fn offset_fetch_request(group: &str, partitions: &[TopicPartition], version: i16) -> OffsetFetchRequest {
    let topics = by_topic(partitions.iter().map(|partition| (partition.clone(), ())));
    let indexes = |partitions: Vec<(i32, ())>| partitions.into_iter().map(|(index, ())| index).collect();
    let group = GroupId(string(group));
    let request = OffsetFetchRequest::default().with_require_stable(version >= OFFSET_FETCH_STABLE_VERSION);
    if version >= OFFSET_FETCH_GROUPS_VERSION {
        let topics = topics.into_iter().map(|(topic, partitions)| {
            OffsetFetchRequestTopics::default()
                .with_name(topic_name(&topic))
                .with_partition_indexes(indexes(partitions))
        });
        request.with_groups(vec![
            OffsetFetchRequestGroup::default().with_group_id(group).with_topics(Some(topics.collect())),
        ])
    } else {
        let topics = topics.into_iter().map(|(topic, partitions)| {
            OffsetFetchRequestTopic::default()
                .with_name(topic_name(&topic))
                .with_partition_indexes(indexes(partitions))
        });
        request.with_group_id(group).with_topics(Some(topics.collect()))
    }
}

type CommittedOffset = (TopicPartition, ErrorCode, OffsetAndMetadata);

/// The error of the group, and what was found, in either shape of the answer.
fn offset_fetch_answer(response: OffsetFetchResponse) -> (ErrorCode, Vec<CommittedOffset>) {
    let mut code = ErrorCode::from(response.error_code);
    let mut found = Vec::new();
    let mut add = |topic: &Arc<str>, index, offset, epoch: i32, metadata: Option<StrBytes>, code: i16| {
        let at = OffsetAndMetadata {
            offset,
            leader_epoch: (epoch >= 0).then_some(epoch),
            metadata: metadata.map(|text| text.to_string()).unwrap_or_default(),
        };
        found.push((TopicPartition::new(Arc::clone(topic), index), ErrorCode::from(code), at));
    };
    for topic in response.topics {
        let name: Arc<str> = Arc::from(topic.name.as_str());
        for p in topic.partitions {
            add(
                &name,
                p.partition_index,
                p.committed_offset,
                p.committed_leader_epoch,
                p.metadata,
                p.error_code,
            );
        }
    }
    if let Some(group) = response.groups.into_iter().next() {
        code = ErrorCode::from(group.error_code);
        for topic in group.topics {
            let name: Arc<str> = Arc::from(topic.name.as_str());
            for p in topic.partitions {
                add(
                    &name,
                    p.partition_index,
                    p.committed_offset,
                    p.committed_leader_epoch,
                    p.metadata,
                    p.error_code,
                );
            }
        }
    }
    (code, found)
}

/// Asks the leaders where timestamps lie; `None` where no record has the timestamp or a later one. Tries again
/// until `waited` is over.
pub(super) async fn list_offsets(
    client: &Client,
    isolation: IsolationLevel,
    timestamps: BTreeMap<TopicPartition, i64>,
    waited: Duration,
) -> Result<BTreeMap<TopicPartition, Option<OffsetAndTimestamp>>, OffsetsError> {
    let deadline = Instant::now() + waited;
    let mut open = timestamps;
    let mut found = BTreeMap::new();
    let mut failures = 0;
    let cluster = client.cluster();
    if open.keys().any(|partition| cluster.partition(&partition.topic, partition.partition).is_none()) {
        let topics: Vec<Arc<str>> = open.keys().map(|partition| Arc::clone(&partition.topic)).collect();
        client.refresh_within(Some(&topics), waited).await?;
    }
    loop {
        let mut last = None;
        for (partition, answer) in list_offsets_once(client, isolation, &open).await {
            match answer {
                Ok(offset) => {
                    open.remove(&partition);
                    found.insert(partition, offset);
                }
                Err(error) if error.is_retriable() => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        let Some(last) = last.filter(|_| !open.is_empty()) else { return Ok(found) };
        failures += 1;
        let retry_at = Instant::now() + client.retry_backoff().random_delay(failures);
        if retry_at >= deadline {
            return Err(last);
        }
        tokio::time::sleep_until(retry_at).await;
        let topics: Vec<Arc<str>> = open.keys().map(|partition| Arc::clone(&partition.topic)).collect();
        match tokio::time::timeout_at(deadline, client.refresh_once(Some(&topics))).await {
            Ok(Err(error)) if !error.is_retriable() => return Err(error.into()),
            Ok(_) => {}
            Err(_) => return Err(last),
        }
    }
}

/// A partition, the timestamp to look for, and the leader epoch as we know it.
type Asked = (TopicPartition, (i64, i32));
type Listed = Result<Option<OffsetAndTimestamp>, OffsetsError>;

/// One request to each leader, side by side.
pub(super) async fn list_offsets_once(
    client: &Client,
    isolation: IsolationLevel,
    timestamps: &BTreeMap<TopicPartition, i64>,
) -> Vec<(TopicPartition, Listed)> {
    let cluster = client.cluster();
    let mut answers = Vec::new();
    let mut by_leader: BTreeMap<i32, Vec<Asked>> = BTreeMap::new();
    for (partition, timestamp) in timestamps {
        match cluster.partition(&partition.topic, partition.partition) {
            Some(known) if known.leader.is_some() => {
                let leader = known.leader.unwrap_or_default();
                by_leader
                    .entry(leader)
                    .or_default()
                    .push((partition.clone(), (*timestamp, known.leader_epoch)));
            }
            _ => {
                let code = cluster.topic_error(&partition.topic).unwrap_or(ErrorCode::LeaderNotAvailable);
                answers.push((
                    partition.clone(),
                    Err(OffsetsError::Refused { partition: partition.clone(), code }),
                ));
            }
        }
    }
    let requests = by_leader.into_iter().map(|(leader, partitions)| async move {
        let asked: Vec<TopicPartition> = partitions.iter().map(|(partition, _)| partition.clone()).collect();
        let request = list_offsets_request(isolation, partitions);
        let response =
            client.request(request).to(Target::Broker(leader)).max_version(LIST_OFFSETS_MAX_VERSION).await;
        match response {
            Ok(response) => list_offsets_answer(response, &asked),
            Err(error) => asked
                .into_iter()
                .map(|partition| (partition, Err(OffsetsError::Request(error.clone()))))
                .collect(),
        }
    });
    answers.extend(futures::future::join_all(requests).await.into_iter().flatten());
    answers
}

fn list_offsets_request(isolation: IsolationLevel, partitions: Vec<Asked>) -> ListOffsetsRequest {
    let topics = by_topic(partitions)
        .into_iter()
        .map(|(topic, partitions)| {
            let partitions = partitions
                .into_iter()
                .map(|(index, (timestamp, leader_epoch))| {
                    ListOffsetsPartition::default()
                        .with_partition_index(index)
                        .with_timestamp(timestamp)
                        .with_current_leader_epoch(leader_epoch)
                })
                .collect();
            ListOffsetsTopic::default().with_name(topic_name(&topic)).with_partitions(partitions)
        })
        .collect();
    ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_isolation_level(isolation.code())
        .with_topics(topics)
}

fn list_offsets_answer(
    response: ListOffsetsResponse,
    asked: &[TopicPartition],
) -> Vec<(TopicPartition, Listed)> {
    let mut by_partition = HashMap::new();
    for topic in response.topics {
        let name: Arc<str> = Arc::from(topic.name.as_str());
        for data in topic.partitions {
            by_partition.insert(TopicPartition::new(Arc::clone(&name), data.partition_index), data);
        }
    }
    asked
        .iter()
        .map(|partition| {
            let answer = match by_partition.remove(partition) {
                Some(data) => match ErrorCode::from(data.error_code).into_result() {
                    Ok(()) => Ok((data.offset >= 0).then_some(OffsetAndTimestamp {
                        offset: data.offset,
                        timestamp: data.timestamp,
                        leader_epoch: data.leader_epoch,
                    })),
                    Err(code) => Err(OffsetsError::Refused { partition: partition.clone(), code }),
                },
                None => {
                    let code = ErrorCode::UnknownServerError;
                    Err(OffsetsError::Refused { partition: partition.clone(), code })
                }
            };
            (partition.clone(), answer)
        })
        .collect()
}
