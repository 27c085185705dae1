//! From a request frame to the handler of its API, and back to an answer's frame.
//!
//! The list in this file is the one place that says which APIs exist here: `ApiVersions` advertises it and
//! [`dispatch`] follows it, so an API cannot be advertised without a handler.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use kafka_wire::error_code::ErrorCode;
use kafka_wire::frame::{self, EncodedFrame, FrameError};
use kafka_wire::messages::api_versions_response::ApiVersion;
use kafka_wire::messages::*;
use kafka_wire::versions::kafka_4_3;
use kafka_wire::{Request, StrBytes, VersionRange};

use crate::api;
use crate::faults::Fault;
use crate::state::BrokerState;

/// What a handler may want to know about a request besides its body.
#[derive(Debug, Clone)]
pub(crate) struct RequestContext {
    /// What the client calls itself, if it says so.
    pub(crate) client_id: Option<StrBytes>,
    /// Where the client connects from, as `/host`; what `DescribeGroups` shows.
    pub(crate) client_host: Arc<str>,
}

/// A connection, unlike every other one of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ConnectionId(pub(crate) u64);

impl ConnectionId {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Why a connection is closed instead of answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Hangup {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("API key {api_key} is not served")]
    UnservedApi { api_key: i16 },
    #[error("API key {api_key} is not served in version {version}")]
    UnservedVersion { api_key: i16, version: i16 },
    /// With `acks=0` there is no answer, so closing is the only way to tell the producer (`KafkaApis`).
    #[error("a produce request with acks=0 failed on {topic}-{partition}: {code}")]
    UnansweredProduce { topic: String, partition: i32, code: ErrorCode },
    #[error("a fault was asked for: {0:?}")]
    Fault(Fault),
}

/// A frame that answers a request, as segments for a vectored write.
pub(crate) struct Answer {
    pub(crate) segments: Vec<Bytes>,
    pub(crate) size_bytes: usize,
}

impl From<EncodedFrame> for Answer {
    fn from(frame: EncodedFrame) -> Self {
        Self { size_bytes: frame.size_bytes(), segments: frame.into_segments() }
    }
}

/// What this broker serves of an API: what Apache Kafka 4.3 serves and the codec knows.
fn served<R: Request>() -> VersionRange {
    match kafka_4_3(R::KEY) {
        Some(range) => range.intersect(&R::VERSIONS),
        None => VersionRange { min: 0, max: -1 },
    }
}

macro_rules! apis {
    ($($request:ident => $handler:path,)*) => {
        /// The versions served of an API key, or `None` when it is not served at all.
        pub(crate) fn served_versions(api_key: i16) -> Option<VersionRange> {
            match api_key {
                ProduceRequest::KEY => Some(served::<ProduceRequest>()),
                FetchRequest::KEY => Some(served::<FetchRequest>()),
                ShareFetchRequest::KEY => Some(served::<ShareFetchRequest>()),
                ApiVersionsRequest::KEY => Some(served::<ApiVersionsRequest>()),
                $($request::KEY => Some(served::<$request>()),)*
                _ => None,
            }
        }

        async fn serve(
            state: &Arc<BrokerState>,
            context: &RequestContext,
            api_key: i16,
            version: i16,
            correlation_id: i32,
            body: Bytes,
        ) -> Result<EncodedFrame, Hangup> {
            match api_key {
                $($request::KEY => {
                    let request = frame::decode_request::<$request>(body, version)?;
                    let response = $handler(state, context, request, version).await;
                    Ok(frame::encode_response::<$request>(&response, version, correlation_id, &[])?)
                })*
                _ => Err(Hangup::UnservedApi { api_key }),
            }
        }
    };
}

apis! {
    ListOffsetsRequest => api::list_offsets::handle,
    MetadataRequest => api::metadata::handle,
    FindCoordinatorRequest => api::coordinators::find_coordinator,
    OffsetCommitRequest => api::offsets::offset_commit,
    OffsetFetchRequest => api::offsets::offset_fetch,
    OffsetDeleteRequest => api::offsets::offset_delete,
    JoinGroupRequest => api::groups::join_group,
    SyncGroupRequest => api::groups::sync_group,
    HeartbeatRequest => api::groups::heartbeat,
    LeaveGroupRequest => api::groups::leave_group,
    ConsumerGroupHeartbeatRequest => api::groups::consumer_group_heartbeat,
    ConsumerGroupDescribeRequest => api::groups::consumer_group_describe,
    DescribeGroupsRequest => api::groups::describe_groups,
    ListGroupsRequest => api::groups::list_groups,
    DeleteGroupsRequest => api::groups::delete_groups,
    CreateTopicsRequest => api::topics::create_topics,
    DeleteTopicsRequest => api::topics::delete_topics,
    CreatePartitionsRequest => api::topics::create_partitions,
    InitProducerIdRequest => api::producer_ids::init_producer_id,
    DescribeConfigsRequest => api::configs::describe_configs,
    AlterConfigsRequest => api::alter_configs::alter_configs,
    IncrementalAlterConfigsRequest => api::alter_configs::incremental_alter_configs,
    DeleteRecordsRequest => api::records::delete_records,
    DescribeLogDirsRequest => api::log_dirs::describe,
    DescribeClusterRequest => api::cluster::describe_cluster,
    DescribeTopicPartitionsRequest => api::cluster::describe_topic_partitions,
    DescribeQuorumRequest => api::cluster::describe_quorum,
    ElectLeadersRequest => api::elections::elect_leaders,
    AlterPartitionReassignmentsRequest => api::reassignments::alter,
    ListPartitionReassignmentsRequest => api::reassignments::list,
    ShareAcknowledgeRequest => api::share_fetch::acknowledge,
    ShareGroupHeartbeatRequest => api::share_groups::heartbeat,
    ShareGroupDescribeRequest => api::share_groups::describe,
    InitializeShareGroupStateRequest => api::share_state::initialize,
    ReadShareGroupStateRequest => api::share_state::read,
    WriteShareGroupStateRequest => api::share_state::write,
    DeleteShareGroupStateRequest => api::share_state::delete,
    ReadShareGroupStateSummaryRequest => api::share_state::summary,
    DescribeShareGroupOffsetsRequest => api::share_offsets::describe,
    AlterShareGroupOffsetsRequest => api::share_offsets::alter,
    DeleteShareGroupOffsetsRequest => api::share_offsets::delete,
    AddPartitionsToTxnRequest => api::transactions::add_partitions,
    AddOffsetsToTxnRequest => api::transactions::add_offsets,
    EndTxnRequest => api::transactions::end,
    TxnOffsetCommitRequest => api::transactions::txn_offset_commit,
    WriteTxnMarkersRequest => api::transactions::write_markers,
    DescribeProducersRequest => api::transaction_views::describe_producers,
    DescribeTransactionsRequest => api::transaction_views::describe_transactions,
    ListTransactionsRequest => api::transaction_views::list_transactions,
    OffsetForLeaderEpochRequest => api::epochs::offset_for_leader_epoch,
}

/// Every served API with its advertised range.
pub(crate) fn advertised() -> Vec<ApiVersion> {
    kafka_wire::versions::kafka_4_3_keys()
        .filter_map(|api_key| Some((api_key, served_versions(api_key)?)))
        .map(|(api_key, range)| {
            // librdkafka refuses a broker that does not list Produce from 0; Kafka lists it and serves it from 3.
            let min = if api_key == ProduceRequest::KEY { 0 } else { range.min };
            ApiVersion::default().with_api_key(api_key).with_min_version(min).with_max_version(range.max)
        })
        .collect()
}

/// Serves one request frame. `None`: the request wants no answer.
pub(crate) async fn dispatch(
    state: &Arc<BrokerState>,
    client_host: &Arc<str>,
    connection: ConnectionId,
    mut frame: Bytes,
) -> Result<Option<Answer>, Hangup> {
    let header = frame::decode_request_header(&mut frame)?;
    let (api_key, version, correlation_id) =
        (header.request_api_key, header.request_api_version, header.correlation_id);
    let range = served_versions(api_key).ok_or(Hangup::UnservedApi { api_key })?;
    if version < range.min || version > range.max {
        if api_key == ApiVersionsRequest::KEY {
            // KIP-511: a client of the future learns from a v0 answer what to ask for.
            let response = api::api_versions::unsupported(range);
            let frame = frame::encode_response::<ApiVersionsRequest>(&response, 0, correlation_id, &[])?;
            return Ok(Some(frame.into()));
        }
        return Err(Hangup::UnservedVersion { api_key, version });
    }
    let fault = state.faults.next(api_key);
    match fault {
        Some(Fault::LateRequest(delay)) => tokio::time::sleep(delay).await,
        Some(fault @ Fault::LostRequest) => return Err(Hangup::Fault(fault)),
        _ => {}
    }
    let context = RequestContext { client_id: header.client_id, client_host: Arc::clone(client_host) };
    let frame = match api_key {
        ProduceRequest::KEY => {
            let request = frame::decode_request::<ProduceRequest>(frame, version)?;
            match api::produce::handle(state, request, version).await? {
                Some(response) => {
                    frame::encode_response::<ProduceRequest>(&response, version, correlation_id, &[])?
                }
                None => return Ok(None),
            }
        }
        FetchRequest::KEY => {
            let request = frame::decode_request::<FetchRequest>(frame, version)?;
            let answer = api::fetch::handle(state, request, version).await.encode(version, correlation_id)?;
            return deliver(answer, fault).await;
        }
        ShareFetchRequest::KEY => {
            let request = frame::decode_request::<ShareFetchRequest>(frame, version)?;
            let answer = api::share_fetch::fetch(state, connection, request).await;
            let answer = answer.encode(version, correlation_id)?;
            return deliver(answer, fault).await;
        }
        ApiVersionsRequest::KEY => {
            let request = frame::decode_request::<ApiVersionsRequest>(frame, version)?;
            let response = api::api_versions::handle(state, &request, version);
            frame::encode_response::<ApiVersionsRequest>(&response, version, correlation_id, &[])?
        }
        _ => serve(state, &context, api_key, version, correlation_id, frame).await?,
    };
    deliver(frame.into(), fault).await
}

/// Lets an answer go, unless a fault keeps it.
async fn deliver(answer: Answer, fault: Option<Fault>) -> Result<Option<Answer>, Hangup> {
    match fault {
        Some(Fault::LateAnswer(delay)) => tokio::time::sleep(delay).await,
        Some(fault @ Fault::LostAnswer) => return Err(Hangup::Fault(fault)),
        _ => {}
    }
    Ok(Some(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_advertised_range_is_served_but_for_produce_which_starts_at_zero() {
        let advertised = advertised();
        assert!(advertised.len() > 10);
        for api in advertised {
            let served = served_versions(api.api_key).unwrap();
            assert!(served.min <= served.max, "{}", api.api_key);
            assert_eq!(api.max_version, served.max);
            let expected = if api.api_key == ProduceRequest::KEY { 0 } else { served.min };
            assert_eq!(api.min_version, expected);
        }
    }
}
