//! Fetch: reads batches, and waits for them when there are too few (long poll). What a client fetches is remembered in
//! [sessions](crate::fetch_session); a client in the rack of a follower is sent there (KIP-392).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_wire::Uuid;
use kafka_wire::error_code::ErrorCode;
use kafka_wire::frame::FrameError;
use kafka_wire::messages::fetch_request::FetchPartition;
use kafka_wire::messages::fetch_response::{
    AbortedTransaction, EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use kafka_wire::messages::{BrokerId, FetchRequest, FetchResponse, ProducerId, TopicName};
use tokio::time::Instant;

use super::{endpoints, text};
use crate::dispatch::Answer;
use crate::fetch_session::{Cached, Context};
use crate::ids;
use crate::partition::{Log, Partition, Readers};
use crate::scatter::{self, Records};
use crate::state::BrokerState;
use crate::waiter::Waiter;

/// Topics are named by id from this version on (KIP-516).
const TOPIC_ID_VERSION: i16 = 13;
/// Clients name their rack, and may read from followers, from this version on (KIP-392).
const RACK_VERSION: i16 = 11;
/// The longest wait that is granted: a client that asks for more asks again.
const MAX_WAIT: Duration = Duration::from_secs(600);
pub(super) const READ_COMMITTED: i8 = 1;

/// An answer and the record batches in it, which are not copied into its frame.
pub(crate) struct Fetched {
    response: FetchResponse,
    records: Vec<Records>,
}

impl Fetched {
    pub(crate) fn encode(&self, version: i16, correlation_id: i32) -> Result<Answer, FrameError> {
        scatter::encode::<FetchRequest>(&self.response, &self.records, version, correlation_id)
    }
}

pub(crate) async fn handle(state: &Arc<BrokerState>, request: FetchRequest, version: i16) -> Fetched {
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)).min(MAX_WAIT);
    let is_consumer = request.replica_id.0 < 0;
    let limits = Limits {
        max_bytes: usize::try_from(request.max_bytes.min(state.fetch_max_bytes)).unwrap_or(0),
        min_bytes: usize::try_from(request.min_bytes).unwrap_or(0),
        version,
        is_committed: request.isolation_level == READ_COMMITTED,
        readers: if is_consumer && version >= RACK_VERSION { Readers::AnyReplica } else { Readers::Leader },
        near: if is_consumer { state.nodes_near(&request.rack_id) } else { Vec::new() },
    };
    let begun = state.fetch_sessions.lock().begin(request, version, state.clock.now_ms());
    let context = match begun {
        Ok(context) => context,
        Err(code) => return refused(code),
    };
    let mut round = {
        let fetch = Fetch::new(state, &context, &limits);
        fetch.long_poll(wait).await
    };
    let finished = state.fetch_sessions.lock().finish(
        context,
        &mut round.answers,
        state.clock.now_ms(),
        ids::random_i32,
    );
    let session_id = match finished {
        Ok(id) => id,
        Err(code) => return refused(code),
    };
    let mut response = FetchResponse::default().with_responses(by_topic(round.names, round.answers));
    if version >= 7 {
        response.session_id = session_id;
    }
    if version >= 16 && !round.leaders.is_empty() {
        response.node_endpoints = node_endpoints(state, &round.leaders);
    }
    Fetched { response, records: round.records }
}

fn refused(code: ErrorCode) -> Fetched {
    Fetched { response: FetchResponse::default().with_error_code(code.code()), records: Vec::new() }
}

/// Neighbours of one topic share its entry; answers that were left out leave no trace.
fn by_topic(names: Vec<Name>, answers: Vec<Option<PartitionData>>) -> Vec<FetchableTopicResponse> {
    let mut topics: Vec<FetchableTopicResponse> = Vec::new();
    for ((topic, topic_id), answer) in names.into_iter().zip(answers) {
        let Some(answer) = answer else { continue };
        match topics.last_mut() {
            Some(last) if last.topic == topic && last.topic_id == topic_id => last.partitions.push(answer),
            _ => topics.push(
                FetchableTopicResponse::default()
                    .with_topic(topic)
                    .with_topic_id(topic_id)
                    .with_partitions(vec![answer]),
            ),
        }
    }
    topics
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

/// What holds for all partitions of a fetch.
struct Limits {
    max_bytes: usize,
    min_bytes: usize,
    version: i16,
    is_committed: bool,
    readers: Readers,
    /// Nodes in the client's rack that it is sent to where they follow.
    near: Vec<i32>,
}

/// A fetch with its partitions looked up.
struct Fetch<'a> {
    limits: &'a Limits,
    partitions: Vec<(&'a Cached, Result<Arc<Partition>, ErrorCode>)>,
}

fn resolve(state: &BrokerState, asked: &Cached, version: i16) -> Result<Arc<Partition>, ErrorCode> {
    let (hosted, unknown) = match version >= TOPIC_ID_VERSION {
        true => (state.topics.by_id(asked.topic_id), ErrorCode::UnknownTopicId),
        false => (state.topics.by_name(&asked.topic), ErrorCode::UnknownTopicOrPartition),
    };
    hosted.ok_or(unknown)?.partition(asked.asked.partition).ok_or(ErrorCode::UnknownTopicOrPartition)
}

type Name = (TopicName, Uuid);

/// What one pass over the partitions gave.
struct Round {
    names: Vec<Name>,
    answers: Vec<Option<PartitionData>>,
    records: Vec<Records>,
    size_bytes: usize,
    /// Some partition has something to tell that does not wait for records.
    is_urgent: bool,
    /// Who leads the partitions that were asked for in the wrong place.
    leaders: BTreeSet<i32>,
}

impl<'a> Fetch<'a> {
    fn new(state: &BrokerState, context: &'a Context, limits: &'a Limits) -> Self {
        let resolve = |asked: &'a Cached| (asked, resolve(state, asked, limits.version));
        Self { limits, partitions: context.partitions.iter().map(resolve).collect() }
    }

    fn found(&self) -> impl Iterator<Item = &Arc<Partition>> {
        self.partitions.iter().filter_map(|(_, found)| found.as_ref().ok())
    }

    async fn long_poll(&self, wait: Duration) -> Round {
        let mut round = self.read();
        if self.is_enough(&round) || wait.is_zero() {
            return round;
        }
        let deadline = Instant::now() + wait;
        let waiter = Waiter::new();
        let _registrations: Vec<_> = self.found().map(|partition| partition.register(&waiter)).collect();
        // An append between the first read and the registration woke nobody, so the wait begins with a read.
        loop {
            waiter.expect(self.limits.min_bytes);
            round = self.read();
            if self.is_enough(&round) {
                return round;
            }
            let arrived = waiter.found(round.size_bytes);
            if !arrived && tokio::time::timeout_at(deadline, waiter.woken()).await.is_err() {
                return round;
            }
        }
    }

    /// Errors are told at once, and so is enough data (`DelayedFetch`).
    fn is_enough(&self, round: &Round) -> bool {
        round.is_urgent || round.size_bytes >= self.limits.min_bytes || self.found().next().is_none()
    }

    fn read(&self) -> Round {
        let mut round = Round {
            names: Vec::with_capacity(self.partitions.len()),
            answers: Vec::with_capacity(self.partitions.len()),
            records: Vec::new(),
            size_bytes: 0,
            is_urgent: false,
            leaders: BTreeSet::new(),
        };
        for (cached, found) in &self.partitions {
            let asked = &cached.asked;
            let read = match found {
                Ok(partition) => self.read_partition(partition, asked, &mut round),
                Err(code) => Err(*code),
            };
            let answer = read.unwrap_or_else(|code| {
                round.is_urgent = true;
                self.failed(asked.partition, found.as_ref().ok(), code, &mut round)
            });
            round.names.push((cached.topic.clone(), cached.topic_id));
            round.answers.push(Some(answer));
        }
        round
    }

    fn read_partition(
        &self,
        partition: &Partition,
        asked: &FetchPartition,
        round: &mut Round,
    ) -> Result<PartitionData, ErrorCode> {
        let version = self.limits.version;
        let log = partition.lock_for(self.limits.readers, asked.current_leader_epoch)?;
        let mut answer = PartitionData::default()
            .with_partition_index(asked.partition)
            .with_high_watermark(log.high_watermark())
            .with_last_stable_offset(log.last_stable_offset())
            .with_aborted_transactions(self.limits.is_committed.then(Vec::new))
            .with_records(Some(Bytes::new()));
        if version >= 5 {
            answer.log_start_offset = log.log_start_offset();
        }
        if let Some(follower) = log.follower_near(&self.limits.near, asked.fetch_offset) {
            round.is_urgent = true;
            return Ok(answer.with_preferred_read_replica(BrokerId(follower)));
        }
        // KIP-595's check for truncation: a reader whose last batch is not of this log's history is told where they
        // part.
        if version >= 12
            && asked.last_fetched_epoch >= 0
            && let Some((epoch, end_offset)) = log.diverging(asked.last_fetched_epoch, asked.fetch_offset)?
        {
            round.is_urgent = true;
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
        let left = self.limits.max_bytes.saturating_sub(round.size_bytes);
        let limit = left.min(usize::try_from(asked.partition_max_bytes).unwrap_or(0));
        let end = log.readable_end(self.limits.is_committed);
        if (limit > 0 || first) && asked.fetch_offset < end {
            let records = log.read_records(asked.fetch_offset, end, limit, first)?;
            if self.limits.is_committed {
                let to = records.next_offset().unwrap_or(end);
                answer.aborted_transactions = Some(aborted(&log, asked.fetch_offset, to));
            }
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
            .with_aborted_transactions(self.limits.is_committed.then(Vec::new))
            .with_records(Some(Bytes::new()));
        if let (true, Some(partition)) = (is_leader_question(code) && self.limits.version >= 12, partition) {
            let (leader, leader_epoch) = partition.leader();
            answer.current_leader =
                LeaderIdAndEpoch::default().with_leader_id(BrokerId(leader)).with_leader_epoch(leader_epoch);
            round.leaders.insert(leader);
        }
        answer
    }
}

/// What a reader of committed records has to pass over.
fn aborted(log: &Log<'_>, from: i64, to: i64) -> Vec<AbortedTransaction> {
    let aborted = log.aborted_between(from, to).into_iter().map(|txn| {
        AbortedTransaction::default()
            .with_producer_id(ProducerId(txn.producer_id))
            .with_first_offset(txn.first_offset)
    });
    aborted.collect()
}

/// Whether the answer should name the leader (KIP-951).
fn is_leader_question(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch)
}
