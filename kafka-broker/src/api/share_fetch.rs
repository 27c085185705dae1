//! ShareFetch and ShareAcknowledge (KIP-932): records for members of share groups, and what they say of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kafka_wire::error_code::ErrorCode;
use kafka_wire::frame::FrameError;
use kafka_wire::messages::share_acknowledge_request::AcknowledgementBatch as AcknowledgeBatch;
use kafka_wire::messages::share_fetch_request::AcknowledgementBatch as FetchBatch;
use kafka_wire::messages::{
    ShareAcknowledgeRequest, ShareAcknowledgeResponse, ShareFetchRequest, ShareFetchResponse,
    share_acknowledge_response, share_fetch_response,
};
use share_fetch_response::{AcquiredRecords, PartitionData, ShareFetchableTopicResponse};
use tokio::time::Instant;

use super::{endpoints, text};
use crate::config::group::GroupSettings;
use crate::dispatch::{Answer, ConnectionId, RequestContext};
use crate::scatter::{self, Records};
use crate::share::ShareKey;
use crate::share::partition::{AcknowledgeType, Acknowledgement, AcquireMode};
use crate::share::service::{Ask, Given, Shared};
use crate::share::session::{FINAL_EPOCH, INITIAL_EPOCH, TopicIdPartition};
use crate::share::state::service::Pending;
use crate::state::BrokerState;
use crate::waiter::Waiter;

/// The longest wait that is granted: a client that asks for more asks again.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// An answer and the record batches in it, which are not copied into its frame.
#[derive(Default)]
pub(crate) struct ShareFetched {
    response: ShareFetchResponse,
    records: Vec<Records>,
}

impl ShareFetched {
    pub(crate) fn encode(&self, version: i16, correlation_id: i32) -> Result<Answer, FrameError> {
        scatter::encode::<ShareFetchRequest>(&self.response, &self.records, version, correlation_id)
    }

    fn refused(code: ErrorCode, message: &str) -> Self {
        let response = ShareFetchResponse::default()
            .with_error_code(code.code())
            .with_error_message(Some(text(message)));
        Self { response, records: Vec::new() }
    }
}

/// What a member says of its records, by partition.
type Acknowledgements = BTreeMap<TopicIdPartition, Result<Vec<Acknowledgement>, ErrorCode>>;

/// Dropping the future leaves what was acquired with the member until its locks end, or its session does.
pub(crate) async fn fetch(
    state: &Arc<BrokerState>,
    connection: ConnectionId,
    request: ShareFetchRequest,
) -> ShareFetched {
    let (Some(group), Some(member)) = (named(&request.group_id), named(&request.member_id)) else {
        return ShareFetched::refused(ErrorCode::InvalidRequest, "A group and a member must be named.");
    };
    let epoch = request.share_session_epoch;
    let listed: Vec<TopicIdPartition> = request
        .topics
        .iter()
        .flat_map(|topic| {
            topic.partitions.iter().map(|partition| (topic.topic_id, partition.partition_index))
        })
        .collect();
    let forgotten: Vec<TopicIdPartition> = request
        .forgotten_topics_data
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|&partition| (topic.topic_id, partition)))
        .collect();
    let acknowledgements: Acknowledgements = request
        .topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(move |partition| (topic.topic_id, partition)))
        .filter(|(_, partition)| !partition.acknowledgement_batches.is_empty())
        .map(|(topic_id, partition)| {
            let batches = partition.acknowledgement_batches.iter().map(FetchBatch::parts);
            ((topic_id, partition.partition_index), checked(batches, request.is_renew_ack))
        })
        .collect();
    if request.is_renew_ack
        && (request.max_bytes != 0 || request.max_records != 0 || request.max_wait_ms != 0)
    {
        // KIP-1222: renewing is not to wait for records.
        return ShareFetched::refused(
            ErrorCode::InvalidRequest,
            "A fetch that renews must not fetch records.",
        );
    }
    if epoch == INITIAL_EPOCH && !acknowledgements.is_empty() {
        return ShareFetched::refused(
            ErrorCode::InvalidRequest,
            "Nothing can be acknowledged in a fetch that opens a session.",
        );
    }
    let opened = match epoch {
        FINAL_EPOCH if state.shares.sessions.lock().is_open(group, member) => Ok(None),
        FINAL_EPOCH => Err(ErrorCode::ShareSessionNotFound),
        _ => {
            let mut sessions = state.shares.sessions.lock();
            sessions.fetch(group, member, connection, epoch, &listed, &forgotten).map(Some)
        }
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(code) => return ShareFetched::refused(code, code.name()),
    };
    let acknowledged = acknowledge_all(state, group, member, &acknowledgements).await;
    let mut answer = Answering { group, acknowledged, ..Answering::default() };
    match opened {
        None => close(state, group, member).await,
        Some(_) if request.is_renew_ack => {}
        Some(opened) => {
            answer.names_all = opened.is_new;
            answer.fetch(state, member, &request, &opened.partitions).await;
        }
    }
    answer.finish(state)
}

/// Ends a session: what the member holds on this node becomes available.
async fn close(state: &Arc<BrokerState>, group: &str, member: &str) {
    state.shares.sessions.lock().close(group, member);
    for pending in state.shares.release(state, group, member) {
        // What could not be committed is released when this node loads the partition again.
        let _ = pending.committed().await;
    }
}

fn named(name: &Option<kafka_wire::StrBytes>) -> Option<&str> {
    name.as_deref().filter(|name| !name.is_empty())
}

/// First and last offset, and the types.
type BatchParts<'a> = (i64, i64, &'a [i8]);

trait Parts {
    fn parts(&self) -> BatchParts<'_>;
}

impl Parts for FetchBatch {
    fn parts(&self) -> BatchParts<'_> {
        (self.first_offset, self.last_offset, &self.acknowledge_types)
    }
}

impl Parts for AcknowledgeBatch {
    fn parts(&self) -> BatchParts<'_> {
        (self.first_offset, self.last_offset, &self.acknowledge_types)
    }
}

/// Batches in order, each with one type for all its records or one for each (`KafkaApis.validateAcknowledgementBatches`).
fn checked<'a>(
    batches: impl Iterator<Item = BatchParts<'a>>,
    may_renew: bool,
) -> Result<Vec<Acknowledgement>, ErrorCode> {
    let mut checked: Vec<Acknowledgement> = Vec::new();
    for (first, last, types) in batches {
        let follows = checked.last().is_none_or(|before| before.last < first);
        let count = last.checked_sub(first).and_then(|more| usize::try_from(more).ok()).map(|more| more + 1);
        let fits = types.len() == 1 || (!types.is_empty() && count == Some(types.len()));
        if !follows || first < 0 || count.is_none() || !fits {
            return Err(ErrorCode::InvalidRequest);
        }
        let types: Option<Vec<_>> = types.iter().map(|&code| AcknowledgeType::from_code(code)).collect();
        let types = types.ok_or(ErrorCode::InvalidRequest)?;
        if !may_renew && types.contains(&AcknowledgeType::Renew) {
            return Err(ErrorCode::InvalidRequest);
        }
        checked.push(Acknowledgement { first, last, types });
    }
    Ok(checked)
}

/// Takes the member's word partition by partition; each has its own outcome.
async fn acknowledge_all(
    state: &Arc<BrokerState>,
    group: &str,
    member: &str,
    acknowledgements: &Acknowledgements,
) -> BTreeMap<TopicIdPartition, ErrorCode> {
    let decided: Vec<(TopicIdPartition, Result<Pending, ErrorCode>)> = acknowledgements
        .iter()
        .map(|(&(topic_id, partition), batches)| {
            let key = ShareKey::new(group, topic_id, partition);
            let decided = batches
                .as_ref()
                .map_err(|code| *code)
                .and_then(|batches| state.shares.get(state, &key)?.acknowledge(state, member, batches));
            ((topic_id, partition), decided)
        })
        .collect();
    let mut outcomes = BTreeMap::new();
    for (partition, decided) in decided {
        let outcome = match decided {
            Ok(pending) => pending.committed().await,
            Err(code) => Err(code),
        };
        outcomes.insert(partition, outcome.err().unwrap_or(ErrorCode::None));
    }
    outcomes
}

/// A fetch's answer as it grows.
#[derive(Default)]
struct Answering<'a> {
    group: &'a str,
    acknowledged: BTreeMap<TopicIdPartition, ErrorCode>,
    given: BTreeMap<TopicIdPartition, Given>,
    failed: BTreeMap<TopicIdPartition, ErrorCode>,
    /// The answer names partitions that have nothing as well.
    names_all: bool,
    fetched: Vec<TopicIdPartition>,
}

impl Answering<'_> {
    /// Acquires what there is, and waits for it if there is too little.
    async fn fetch(
        &mut self,
        state: &Arc<BrokerState>,
        member: &str,
        request: &ShareFetchRequest,
        partitions: &[TopicIdPartition],
    ) {
        self.fetched = partitions.to_vec();
        let mut shares: Vec<(TopicIdPartition, Arc<Shared>)> = Vec::new();
        for &(topic_id, index) in partitions {
            match state.shares.get(state, &ShareKey::new(self.group, topic_id, index)) {
                Ok(shared) => shares.push(((topic_id, index), shared)),
                Err(code) => {
                    self.failed.insert((topic_id, index), code);
                }
            }
        }
        let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)).min(MAX_WAIT);
        let deadline = Instant::now() + wait;
        let waiter = Waiter::new();
        let _registrations: Vec<_> = shares.iter().map(|(_, shared)| shared.register(&waiter)).collect();
        let member: Arc<str> = member.into();
        loop {
            // An append or a release from here on wakes.
            waiter.expect(1);
            let is_late = Instant::now() >= deadline || wait.is_zero();
            if is_late || self.has_enough(state, request, &shares) {
                self.acquire(state, &member, request, &shares).await;
            }
            if is_late || !self.given.is_empty() || !self.failed.is_empty() || shares.is_empty() {
                return;
            }
            // Past the deadline what there is is enough.
            let _ = tokio::time::timeout_at(deadline, waiter.woken()).await;
        }
    }

    fn has_enough(
        &mut self,
        state: &BrokerState,
        request: &ShareFetchRequest,
        shares: &[(TopicIdPartition, Arc<Shared>)],
    ) -> bool {
        let min_bytes = usize::try_from(request.min_bytes).unwrap_or(0);
        if min_bytes <= 1 {
            return true;
        }
        let mut bytes = 0;
        for (partition, shared) in shares {
            match shared.readable_bytes(state, min_bytes) {
                Ok(readable) => bytes += readable,
                Err(code) => {
                    self.failed.insert(*partition, code);
                }
            }
            if bytes >= min_bytes {
                return true;
            }
        }
        false
    }

    async fn acquire(
        &mut self,
        state: &BrokerState,
        member: &Arc<str>,
        request: &ShareFetchRequest,
        shares: &[(TopicIdPartition, Arc<Shared>)],
    ) {
        let mut max_records = i64::from(request.max_records);
        let mut max_bytes = usize::try_from(request.max_bytes.min(state.fetch_max_bytes)).unwrap_or(0);
        let mut written = Vec::new();
        for (partition, shared) in shares {
            if max_records <= 0 || max_bytes == 0 {
                break;
            }
            let ask = Ask {
                member,
                max_records,
                max_bytes,
                batch_size: i64::from(request.batch_size.max(1)),
                mode: if request.share_acquire_mode == 1 {
                    AcquireMode::RecordLimit
                } else {
                    AcquireMode::default()
                },
            };
            match shared.acquire(state, &ask) {
                Ok((given, pending)) => {
                    written.push(pending);
                    if !given.acquired.is_empty() {
                        max_records -= given.count();
                        max_bytes = max_bytes.saturating_sub(given.records.size_bytes());
                        self.given.insert(*partition, given);
                    }
                }
                Err(code) => {
                    self.failed.insert(*partition, code);
                }
            }
        }
        for pending in written {
            // Acquiring is not on record; what may be is a start that moved with the log's.
            if let Err(error) = pending.committed().await {
                tracing::debug!(%error, "a moved start is not committed yet");
            }
        }
    }

    fn finish(mut self, state: &BrokerState) -> ShareFetched {
        let mut named: BTreeSet<TopicIdPartition> = self.acknowledged.keys().copied().collect();
        named.extend(self.given.keys().chain(self.failed.keys()));
        if self.names_all {
            named.extend(&self.fetched);
        }
        let mut fetched = ShareFetched::default();
        let mut leaders = BTreeSet::new();
        for (topic_id, index) in named {
            let mut data = PartitionData::default().with_partition_index(index);
            let acknowledged = self.acknowledged.get(&(topic_id, index)).copied().unwrap_or(ErrorCode::None);
            let failed = self.failed.get(&(topic_id, index)).copied().unwrap_or(ErrorCode::None);
            data.acknowledge_error_code = acknowledged.code();
            data.error_code = failed.code();
            if let Some((leader, epoch)) = leader_to_name(state, topic_id, index, [acknowledged, failed]) {
                leaders.insert(leader);
                data.current_leader = share_fetch_response::LeaderIdAndEpoch::default()
                    .with_leader_id(leader)
                    .with_leader_epoch(epoch);
            }
            if let Some(given) = self.given.remove(&(topic_id, index)) {
                data.records = given.records.for_message();
                data.acquired_records = given
                    .acquired
                    .iter()
                    .map(|run| {
                        AcquiredRecords::default()
                            .with_first_offset(run.first)
                            .with_last_offset(run.last)
                            .with_delivery_count(run.delivery_count)
                    })
                    .collect();
                fetched.records.push(given.records);
            }
            match fetched.response.responses.last_mut() {
                Some(topic) if topic.topic_id == topic_id => topic.partitions.push(data),
                _ => fetched.response.responses.push(
                    ShareFetchableTopicResponse::default()
                        .with_topic_id(topic_id)
                        .with_partitions(vec![data]),
                ),
            }
        }
        fetched.response.acquisition_lock_timeout_ms = lock_timeout_ms(state, self.group);
        fetched.response.node_endpoints = endpoints(state, &leaders)
            .into_iter()
            .map(|(node_id, broker)| {
                share_fetch_response::NodeEndpoint::default()
                    .with_node_id(node_id)
                    .with_host(text(&broker.host))
                    .with_port(i32::from(broker.port))
                    .with_rack(broker.rack.as_deref().map(text))
            })
            .collect();
        fetched
    }
}

fn lock_timeout_ms(state: &BrokerState, group: &str) -> i32 {
    i32::try_from(GroupSettings::of(state, group).lock_duration.as_millis()).unwrap_or(i32::MAX)
}

/// Who leads, for a client that is in the wrong place.
fn leader_to_name(
    state: &BrokerState,
    topic_id: kafka_wire::Uuid,
    index: i32,
    errors: [ErrorCode; 2],
) -> Option<(i32, i32)> {
    let asks = errors
        .iter()
        .any(|code| matches!(code, ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch));
    let partition = state.topics.by_id(topic_id).filter(|_| asks)?.partition(index)?;
    Some(partition.leader())
}

/// Dropping the future takes nothing back.
pub(crate) async fn acknowledge(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: ShareAcknowledgeRequest,
    version: i16,
) -> ShareAcknowledgeResponse {
    let refused = |code: ErrorCode, message: &str| {
        ShareAcknowledgeResponse::default()
            .with_error_code(code.code())
            .with_error_message(Some(text(message)))
    };
    let (Some(group), Some(member)) = (named(&request.group_id), named(&request.member_id)) else {
        return refused(ErrorCode::InvalidRequest, "A group and a member must be named.");
    };
    let epoch = request.share_session_epoch;
    let session = match epoch {
        FINAL_EPOCH if state.shares.sessions.lock().is_open(group, member) => Ok(()),
        FINAL_EPOCH => Err(ErrorCode::ShareSessionNotFound),
        _ => state.shares.sessions.lock().acknowledge(group, member, epoch),
    };
    if let Err(code) = session {
        return refused(code, code.name());
    }
    let acknowledgements: Acknowledgements = request
        .topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(move |partition| (topic.topic_id, partition)))
        .map(|(topic_id, partition)| {
            let batches = partition.acknowledgement_batches.iter().map(AcknowledgeBatch::parts);
            ((topic_id, partition.partition_index), checked(batches, request.is_renew_ack))
        })
        .collect();
    let outcomes = acknowledge_all(state, group, member, &acknowledgements).await;
    if epoch == FINAL_EPOCH {
        close(state, group, member).await;
    }
    let mut response = ShareAcknowledgeResponse::default();
    let mut leaders = BTreeSet::new();
    for ((topic_id, index), code) in outcomes {
        let mut data = share_acknowledge_response::PartitionData::default()
            .with_partition_index(index)
            .with_error_code(code.code());
        if let Some((leader, epoch)) = leader_to_name(state, topic_id, index, [code, ErrorCode::None]) {
            leaders.insert(leader);
            data.current_leader = share_acknowledge_response::LeaderIdAndEpoch::default()
                .with_leader_id(leader)
                .with_leader_epoch(epoch);
        }
        match response.responses.last_mut() {
            Some(topic) if topic.topic_id == topic_id => topic.partitions.push(data),
            _ => response.responses.push(
                share_acknowledge_response::ShareAcknowledgeTopicResponse::default()
                    .with_topic_id(topic_id)
                    .with_partitions(vec![data]),
            ),
        }
    }
    if version >= 2 {
        response.acquisition_lock_timeout_ms = lock_timeout_ms(state, group);
    }
    response.node_endpoints = endpoints(state, &leaders)
        .into_iter()
        .map(|(node_id, broker)| {
            share_acknowledge_response::NodeEndpoint::default()
                .with_node_id(node_id)
                .with_host(text(&broker.host))
                .with_port(i32::from(broker.port))
                .with_rack(broker.rack.as_deref().map(text))
        })
        .collect();
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_come_in_order_with_one_type_for_all_or_one_for_each() {
        let check = |batches: &[BatchParts<'_>]| checked(batches.iter().copied(), false).map(|it| it.len());
        assert_eq!(check(&[(0, 9, &[1]), (10, 11, &[1, 2])]), Ok(2));
        for bad in [
            &[(5, 4, &[1][..])][..],
            &[(0, 2, &[1, 1])],
            &[(0, 2, &[])],
            &[(0, 2, &[5])],
            &[(0, 2, &[4])],
            &[(-1, 2, &[1])],
            &[(i64::MIN, i64::MAX, &[1])],
            &[(0, 5, &[1]), (5, 6, &[1])],
        ] {
            assert_eq!(check(bad), Err(ErrorCode::InvalidRequest), "{bad:?}");
        }
        assert!(checked([(0, 2, &[4][..])].into_iter(), true).is_ok());
    }
}
