//! Peers for unit tests: a scripted one, and a broker of one topic, over in-memory pipes.

mod sums;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use kafka_wire::frame::{
    DEFAULT_MAX_FRAME_BYTES, FrameDecoder, decode_request, decode_request_header, encode_response,
};
use kafka_wire::messages::api_versions_response::ApiVersion;
use kafka_wire::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_wire::messages::produce_response::{
    LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_wire::messages::{
    ApiVersionsRequest, ApiVersionsResponse, BrokerId, InitProducerIdRequest, InitProducerIdResponse,
    MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse, ProducerId, RequestHeader,
};
use kafka_wire::record_batch::RecordBatch;
use kafka_wire::versions::{kafka_4_3, kafka_4_3_keys};
use kafka_wire::{ErrorCode, Request, StrBytes, Uuid};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::Notify;

use crate::net::Connector;

pub(crate) use sums::Sums;

/// The far end of a connection.
pub(crate) struct Peer {
    stream: DuplexStream,
    decoder: FrameDecoder,
}

impl Peer {
    /// A stream for the client and its far end.
    pub(crate) fn pair() -> (DuplexStream, Self) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        (near, Self { stream: far, decoder: FrameDecoder::new(DEFAULT_MAX_FRAME_BYTES) })
    }

    /// The next request; `None` once the client is gone.
    pub(crate) async fn next(&mut self) -> Option<(RequestHeader, Bytes)> {
        loop {
            if let Some(mut frame) = self.decoder.next_frame().unwrap() {
                let header = decode_request_header(&mut frame).unwrap();
                return Some((header, frame));
            }
            if self.stream.read_buf(self.decoder.read_buffer()).await.unwrap() == 0 {
                return None;
            }
        }
    }

    pub(crate) async fn answer<R: Request>(&mut self, header: &RequestHeader, response: &R::Response) {
        let version = header.request_api_version;
        let frame = encode_response::<R>(response, version, header.correlation_id, &[]).unwrap();
        self.raw(&frame.segments().concat()).await;
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        // The client may have hung up already, as it should on some of these bytes.
        let _ = self.stream.write_all(bytes).await;
    }

    /// Answers ApiVersions as Kafka 4.3 does.
    pub(crate) async fn shake_hands(&mut self) {
        let (header, _) = self.next().await.unwrap();
        self.answer::<ApiVersionsRequest>(&header, &kafka_4_3_versions()).await;
    }
}

pub(crate) fn kafka_4_3_versions() -> ApiVersionsResponse {
    let api = |key| {
        let range = kafka_4_3(key).unwrap();
        ApiVersion::default().with_api_key(key).with_min_version(range.min).with_max_version(range.max)
    };
    ApiVersionsResponse::default().with_api_keys(kafka_4_3_keys().map(api).collect())
}

/// A broker that knows topics by their first letter, `t`, and keeps all their records together, in as many copies of itself as there are connections.
#[derive(Clone)]
pub(crate) struct FakeBroker(Arc<Fake>);

struct Fake {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    partitions: i32,
    /// Values of the records of each partition.
    logs: BTreeMap<i32, Vec<Bytes>>,
    produce_requests: usize,
    /// Produce requests are taken and not answered.
    silent: bool,
    error: Option<ErrorCode>,
    topic_id: Uuid,
    throttle_ms: i32,
    /// Connections end when the next produce request comes.
    hang_up: bool,
    metadata_error: Option<ErrorCode>,
    /// The topics of each Metadata request, in the order of asking.
    metadata_asked: Vec<Vec<String>>,
    moved: bool,
}

impl FakeBroker {
    pub(crate) fn new(partitions: i32) -> Self {
        let state = Mutex::new(State { partitions, ..State::default() });
        Self(Arc::new(Fake { state, changed: Notify::new() }))
    }

    pub(crate) fn connector(&self) -> impl Connector {
        let broker = self.clone();
        move |_host: String, port: u16| {
            let (near, peer) = Peer::pair();
            tokio::spawn(broker.clone().serve(peer, port));
            async move { Ok::<_, io::Error>(near) }
        }
    }

    pub(crate) fn set_silent(&self, silent: bool) {
        self.0.state.lock().silent = silent;
        self.0.changed.notify_waiters();
    }

    pub(crate) fn set_partitions(&self, count: i32) {
        self.0.state.lock().partitions = count;
    }

    pub(crate) fn set_error(&self, error: Option<ErrorCode>) {
        self.0.state.lock().error = error;
    }

    /// The topic has this id from now on, and is empty if it had another one.
    pub(crate) fn set_topic_id(&self, id: u128) {
        let state = &mut *self.0.state.lock();
        state.topic_id = Uuid::from_u128(id);
        state.logs.clear();
    }

    pub(crate) fn set_throttle(&self, millis: i32) {
        self.0.state.lock().throttle_ms = millis;
    }

    /// All partitions are led by broker 2 from now on, at port 9093. Metadata does not know yet.
    pub(crate) fn move_leaders(&self) {
        self.0.state.lock().moved = true;
    }

    /// What Metadata says of every topic instead of its partitions.
    pub(crate) fn set_metadata_error(&self, error: Option<ErrorCode>) {
        self.0.state.lock().metadata_error = error;
    }

    /// The topics of each Metadata request since the last call.
    pub(crate) fn take_metadata_asked(&self) -> Vec<Vec<String>> {
        std::mem::take(&mut self.0.state.lock().metadata_asked)
    }

    /// Ends the connection on which the next produce request comes.
    pub(crate) fn hang_up_once(&self) {
        self.0.state.lock().hang_up = true;
    }

    pub(crate) fn produce_requests(&self) -> usize {
        self.0.state.lock().produce_requests
    }

    pub(crate) fn values(&self, partition: i32) -> Vec<Bytes> {
        self.0.state.lock().logs.get(&partition).cloned().unwrap_or_default()
    }

    pub(crate) fn all_values(&self) -> Vec<Bytes> {
        self.0.state.lock().logs.values().flatten().cloned().collect()
    }

    async fn serve(self, mut peer: Peer, port: u16) {
        while let Some((header, body)) = peer.next().await {
            let version = header.request_api_version;
            match header.request_api_key {
                ApiVersionsRequest::KEY => {
                    peer.answer::<ApiVersionsRequest>(&header, &kafka_4_3_versions()).await;
                }
                MetadataRequest::KEY => {
                    let request = decode_request::<MetadataRequest>(body, version).unwrap();
                    peer.answer::<MetadataRequest>(&header, &self.metadata(request)).await;
                }
                InitProducerIdRequest::KEY => {
                    let response = InitProducerIdResponse::default().with_producer_id(ProducerId(7));
                    peer.answer::<InitProducerIdRequest>(&header, &response).await;
                }
                ProduceRequest::KEY => {
                    let request = decode_request::<ProduceRequest>(body, version).unwrap();
                    let answered = request.acks != 0;
                    if std::mem::take(&mut self.0.state.lock().hang_up) {
                        return;
                    }
                    let response = self.produce(request, version, port).await;
                    if answered {
                        peer.answer::<ProduceRequest>(&header, &response).await;
                    }
                }
                other => panic!("unexpected API key {other}"),
            }
        }
    }

    fn metadata(&self, request: MetadataRequest) -> MetadataResponse {
        let broker = MetadataResponseBroker::default()
            .with_node_id(BrokerId(1))
            .with_host(StrBytes::from_static_str("fake"))
            .with_port(9092);
        let (count, topic_id, error) = {
            let state = self.0.state.lock();
            (state.partitions, state.topic_id, state.metadata_error)
        };
        let topic = |name: Option<kafka_wire::messages::TopicName>| {
            let topic = MetadataResponseTopic::default().with_name(name.clone());
            if let Some(error) = error {
                return topic.with_error_code(error.code());
            }
            if name.is_none_or(|name| !name.starts_with('t')) {
                return topic.with_error_code(ErrorCode::UnknownTopicOrPartition.code());
            }
            let partition = |at| {
                MetadataResponsePartition::default().with_partition_index(at).with_leader_id(BrokerId(1))
            };
            topic.with_topic_id(topic_id).with_partitions((0..count).map(partition).collect())
        };
        let asked = request.topics.unwrap_or_default();
        let names = asked.iter().flat_map(|topic| &topic.name).map(|name| name.to_string()).collect();
        self.0.state.lock().metadata_asked.push(names);
        MetadataResponse::default()
            .with_brokers(vec![broker])
            .with_controller_id(BrokerId(1))
            .with_topics(asked.into_iter().map(|asked| topic(asked.name)).collect())
    }

    async fn produce(&self, request: ProduceRequest, version: i16, port: u16) -> ProduceResponse {
        self.0.state.lock().produce_requests += 1;
        loop {
            let changed = self.0.changed.notified();
            if !self.0.state.lock().silent {
                break;
            }
            changed.await;
        }
        let state = &mut *self.0.state.lock();
        let mut topics = Vec::new();
        for topic in request.topic_data {
            let mut parts = Vec::new();
            for part in topic.partition_data {
                let log = state.logs.entry(part.index).or_default();
                let base_offset = log.len() as i64;
                let answer = PartitionProduceResponse::default().with_index(part.index);
                if state.moved && port == 9092 {
                    let leader = LeaderIdAndEpoch::default().with_leader_id(BrokerId(2)).with_leader_epoch(1);
                    let code = ErrorCode::NotLeaderOrFollower.code();
                    parts.push(answer.with_error_code(code).with_current_leader(leader));
                    continue;
                }
                // The name is not on the wire any more from version 13 on.
                let unknown = version >= 13 && topic.topic_id != state.topic_id;
                if let Some(code) = state.error.or(unknown.then_some(ErrorCode::UnknownTopicId)) {
                    parts.push(answer.with_error_code(code.code()).with_base_offset(-1));
                    continue;
                }
                let batch = RecordBatch::split_from(&mut part.records.unwrap()).unwrap().unwrap();
                batch.verify_crc().unwrap();
                log.extend(batch.records(1 << 24).unwrap().map(|record| record.unwrap().value.unwrap()));
                parts.push(answer.with_base_offset(base_offset).with_log_append_time_ms(-1));
            }
            topics.push(
                TopicProduceResponse::default()
                    .with_name(topic.name)
                    .with_topic_id(topic.topic_id)
                    .with_partition_responses(parts),
            );
        }
        let throttle = std::mem::take(&mut state.throttle_ms);
        let endpoint = NodeEndpoint::default()
            .with_node_id(BrokerId(2))
            .with_host(StrBytes::from_static_str("fake"))
            .with_port(9093);
        ProduceResponse::default()
            .with_node_endpoints(if state.moved { vec![endpoint] } else { Vec::new() })
            .with_responses(topics)
            .with_throttle_time_ms(throttle)
    }
}
