//! Fetch: reads batches, and waits for them when there are too few (long poll).
//!
//! Fetch sessions (KIP-227) are answered with session id 0, as Kafka does when its session cache is full: the client
//! then names all its partitions in each request.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_wire::error_code::ErrorCode;
use kafka_wire::frame::{self, FrameError};
use kafka_wire::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_wire::messages::fetch_response::{
    EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use kafka_wire::messages::{BrokerId, FetchRequest, FetchResponse};
use tokio::time::Instant;

use super::{endpoints, text};
use crate::dispatch::Answer;
use crate::partition::Partition;
use crate::scatter::{Records, fill_in};
use crate::state::BrokerState;
use crate::waiter::Waiter;

/// Topics are named by id from this version on (KIP-516).
const TOPIC_ID_VERSION: i16 = 13;
/// The longest wait that is granted: a client that asks for more asks again.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// An answer and the record batches in it, which are not copied into its frame.
pub(crate) struct Fetched {
    response: FetchResponse,
    records: Vec<Records>,
}

impl Fetched {
    pub(crate) fn encode(&self, version: i16, correlation_id: i32) -> Result<Answer, FrameError> {
        let payloads: Vec<Bytes> = self.records.iter().map(Records::for_message).collect();
        let frame =
            frame::encode_response::<FetchRequest>(&self.response, version, correlation_id, &payloads)?;
        Ok(Answer { size_bytes: frame.size_bytes(), segments: fill_in(frame, &self.records) })
    }
}

pub(crate) async fn handle(state: &Arc<BrokerState>, request: FetchRequest, version: i16) -> Fetched {
    if let Some(code) = session_error(&request, version) {
        let response = FetchResponse::default().with_error_code(code.code());
        return Fetched { response, records: Vec::new() };
    }
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)).min(MAX_WAIT);
    let fetch = Fetch {
        topics: request.topics.iter().map(|topic| resolve(state, topic, version)).collect(),
        max_bytes: usize::try_from(request.max_bytes.min(state.fetch_max_bytes)).unwrap_or(0),
        min_bytes: usize::try_from(request.min_bytes).unwrap_or(0),
        version,
    };
    let mut round = fetch.read();
    if !round.is_enough(&fetch) && !wait.is_zero() {
        let deadline = Instant::now() + wait;
        let waiter = Waiter::new();
        let _registrations: Vec<_> =
            fetch.partitions().map(|partition| partition.register(&waiter)).collect();
        // An append between the first read and the registration woke nobody, so the wait begins with a read.
        loop {
            waiter.expect(fetch.min_bytes);
            round = fetch.read();
            if round.is_enough(&fetch) {
                break;
            }
            let arrived = waiter.found(round.size_bytes);
            if !arrived && tokio::time::timeout_at(deadline, waiter.woken()).await.is_err() {
                break;
            }
        }
    }
    let mut response = FetchResponse::default().with_responses(round.responses);
    if version >= 16 && !round.leaders.is_empty() {
        response.node_endpoints = node_endpoints(state, &round.leaders);
    }
    Fetched { response, records: round.records }
}

/// Where the leaders are that the answer names (KIP-951).
fn node_endpoints(state: &BrokerState, leaders: &BTreeSet<i32>) -> Vec<NodeEndpoint> {
    let endpoints = endpoints(state, leaders).into_iter().map(|(node_id, broker)| {
        let endpoint = NodeEndpoint::default()
            .with_node_id(BrokerId(node_id))
            .with_host(text(&broker.host))
            .with_port(i32::from(broker.port));
        endpoint.with_rack(broker.rack.as_deref().map(text))
    });
    endpoints.collect()
}

/// A client that continues a session does not list its partitions, so it must be sent back to a full fetch. As this
/// broker never opens one, only a client of another broker (before a restart, say) gets here.
fn session_error(request: &FetchRequest, version: i16) -> Option<ErrorCode> {
    const FINAL_EPOCH: i32 = -1;
    const INITIAL_EPOCH: i32 = 0;
    if version < 7 || matches!(request.session_epoch, FINAL_EPOCH | INITIAL_EPOCH) {
        return None;
    }
    Some(ErrorCode::FetchSessionIdNotFound)
}

/// A fetch with its partitions looked up.
struct Fetch<'a> {
    topics: Vec<ResolvedTopic<'a>>,
    max_bytes: usize,
    min_bytes: usize,
    version: i16,
}

struct ResolvedTopic<'a> {
    asked: &'a FetchTopic,
    partitions: Vec<(&'a FetchPartition, Result<Arc<Partition>, ErrorCode>)>,
}

fn resolve<'a>(state: &BrokerState, asked: &'a FetchTopic, version: i16) -> ResolvedTopic<'a> {
    let (hosted, unknown) = match version >= TOPIC_ID_VERSION {
        true => (state.topics.by_id(asked.topic_id), ErrorCode::UnknownTopicId),
        false => (state.topics.by_name(&asked.topic), ErrorCode::UnknownTopicOrPartition),
    };
    let partitions = asked
        .partitions
        .iter()
        .map(|partition| {
            let found = match &hosted {
                Some(hosted) => {
                    hosted.partition(partition.partition).ok_or(ErrorCode::UnknownTopicOrPartition)
                }
                None => Err(unknown),
            };
            (partition, found)
        })
        .collect();
    ResolvedTopic { asked, partitions }
}

/// What one pass over the partitions gave.
struct Round {
    responses: Vec<FetchableTopicResponse>,
    records: Vec<Records>,
    size_bytes: usize,
    failed: bool,
    /// Who leads the partitions that were asked for in the wrong place.
    leaders: BTreeSet<i32>,
}

impl Round {
    /// Errors are told at once, and so is enough data (`DelayedFetch`).
    fn is_enough(&self, fetch: &Fetch<'_>) -> bool {
        self.failed || self.size_bytes >= fetch.min_bytes || fetch.partitions().next().is_none()
    }
}

impl Fetch<'_> {
    fn partitions(&self) -> impl Iterator<Item = &Arc<Partition>> {
        self.topics.iter().flat_map(|topic| &topic.partitions).filter_map(|(_, found)| found.as_ref().ok())
    }

    fn read(&self) -> Round {
        let mut round = Round {
            responses: Vec::with_capacity(self.topics.len()),
            records: Vec::new(),
            size_bytes: 0,
            failed: false,
            leaders: BTreeSet::new(),
        };
        for topic in &self.topics {
            let mut answer = FetchableTopicResponse::default();
            if self.version >= TOPIC_ID_VERSION {
                answer.topic_id = topic.asked.topic_id;
            } else {
                answer.topic = topic.asked.topic.clone();
            }
            answer.partitions = topic
                .partitions
                .iter()
                .map(|(asked, found)| {
                    let read = match found {
                        Ok(partition) => self.read_partition(partition, asked, &mut round),
                        Err(code) => Err(*code),
                    };
                    read.unwrap_or_else(|code| {
                        round.failed = true;
                        self.failed(asked.partition, found.as_ref().ok(), code, &mut round)
                    })
                })
                .collect();
            round.responses.push(answer);
        }
        round
    }

    fn read_partition(
        &self,
        partition: &Partition,
        asked: &FetchPartition,
        round: &mut Round,
    ) -> Result<PartitionData, ErrorCode> {
        let log = partition.lock_in_epoch(asked.current_leader_epoch)?;
        let mut answer = PartitionData::default()
            .with_partition_index(asked.partition)
            .with_high_watermark(log.high_watermark())
            .with_last_stable_offset(log.high_watermark())
            .with_records(Some(Bytes::new()));
        if self.version >= 5 {
            answer.log_start_offset = log.log_start_offset();
        }
        // KIP-595's check for truncation: a reader whose last batch is not of this log's history is told where they
        // part.
        if self.version >= 12
            && asked.last_fetched_epoch >= 0
            && let Some((epoch, end_offset)) = log.diverging(asked.last_fetched_epoch, asked.fetch_offset)?
        {
            round.failed = true;
            return Ok(answer.with_diverging_epoch(
                EpochEndOffset::default().with_epoch(epoch).with_end_offset(end_offset),
            ));
        }
        if asked.fetch_offset < log.log_start_offset() || asked.fetch_offset > log.log_end_offset() {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        // The first batch of the whole answer comes even if it is larger than every limit (KIP-74), so that a large
        // record cannot stop its consumer.
        let first = round.size_bytes == 0;
        let left = self.max_bytes.saturating_sub(round.size_bytes);
        let limit = left.min(usize::try_from(asked.partition_max_bytes).unwrap_or(0));
        if (limit > 0 || first) && asked.fetch_offset < log.high_watermark() {
            let records = log.read_records(asked.fetch_offset, limit, first)?;
            round.size_bytes += records.size_bytes();
            answer.records = Some(records.for_message());
            round.records.push(records);
        }
        Ok(answer)
    }

    fn failed(
        &self,
        index: i32,
        partition: Option<&Arc<Partition>>,
        code: ErrorCode,
        round: &mut Round,
    ) -> PartitionData {
        let mut answer = PartitionData::default()
            .with_partition_index(index)
            .with_error_code(code.code())
            .with_high_watermark(-1)
            .with_last_stable_offset(-1)
            .with_records(Some(Bytes::new()));
        if let (true, Some(partition)) = (is_leader_question(code) && self.version >= 12, partition) {
            let (leader, leader_epoch) = partition.leader();
            answer.current_leader =
                LeaderIdAndEpoch::default().with_leader_id(BrokerId(leader)).with_leader_epoch(leader_epoch);
            round.leaders.insert(leader);
        }
        answer
    }
}

/// Whether the answer should name the leader (KIP-951).
fn is_leader_question(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch)
}
