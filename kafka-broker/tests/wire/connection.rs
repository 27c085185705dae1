//! A connection that speaks frames, for tests.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use kafka_broker::Broker;
use kafka_wire::Request;
use kafka_wire::frame::{self, FrameDecoder};
use kafka_wire::messages::create_topics_request::CreatableTopic;
use kafka_wire::messages::{ApiVersionsRequest, ApiVersionsResponse, CreateTopicsRequest, TopicName};
use kafka_wire::record_batch::{BatchBuilder, Seal};
use kafka_wire::{StrBytes, Uuid};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

pub(crate) struct Connection {
    stream: DuplexStream,
    decoder: FrameDecoder,
    next_id: AtomicI32,
}

impl Connection {
    pub(crate) async fn open(broker: &Broker) -> Self {
        Self::over(broker.connect().await)
    }

    /// A connection to one of several nodes.
    pub(crate) async fn open_to(broker: &Broker, node_id: i32) -> Self {
        Self::over(broker.connect_to(node_id).await)
    }

    fn over(stream: DuplexStream) -> Self {
        Self { stream, decoder: FrameDecoder::new(64 << 20), next_id: AtomicI32::new(1) }
    }

    /// Sends a request and decodes its answer.
    pub(crate) async fn call<R: Request>(&mut self, request: &R, version: i16) -> R::Response {
        let id = self.send(request, version).await;
        self.receive::<R>(version, id).await
    }

    /// Sends a request without waiting; the answer will carry the returned id.
    pub(crate) async fn send<R: Request>(&mut self, request: &R, version: i16) -> i32 {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let frame = frame::encode_request(request, version, id, Some("test"), &[])
            .unwrap_or_else(|error| panic!("{error}"));
        self.send_bytes(&frame.segments().concat()).await;
        id
    }

    pub(crate) async fn receive<R: Request>(&mut self, version: i16, id: i32) -> R::Response {
        let answer = self.receive_frame().await.expect("the broker closed the connection");
        assert_eq!(frame::peek_correlation_id(&answer).unwrap(), id);
        frame::decode_response::<R>(answer, version)
            .unwrap_or_else(|error| panic!("key {} v{version}: {error}", R::KEY))
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        // The broker may have closed the connection already; the test sees that when it reads.
        let _ = self.stream.write_all(bytes).await;
    }

    /// The next frame, or `None` when the broker closed the connection.
    pub(crate) async fn receive_frame(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(frame);
            }
            if self.stream.read_buf(self.decoder.read_buffer()).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    pub(crate) async fn api_versions(&mut self) -> ApiVersionsResponse {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("test"))
            .with_client_software_version(StrBytes::from_static_str("1"));
        self.call(&request, 4).await
    }

    /// Creates a topic and returns its id.
    pub(crate) async fn create_topic(&mut self, name: &str, partitions: i32) -> Uuid {
        let topic = CreatableTopic::default()
            .with_name(topic(name))
            .with_num_partitions(partitions)
            .with_replication_factor(1);
        let answer = self.call(&CreateTopicsRequest::default().with_topics(vec![topic]), 7).await;
        assert_eq!(answer.topics[0].error_code, 0, "{:?}", answer.topics[0].error_message);
        answer.topics[0].topic_id
    }
}

pub(crate) fn topic(name: &str) -> TopicName {
    TopicName(text(name))
}

pub(crate) fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

/// The timestamp of each batch's first record: the time of the test run, because a log closes a segment whose records
/// are a week old.
pub(crate) fn first_timestamp() -> i64 {
    static FIRST: OnceLock<i64> = OnceLock::new();
    *FIRST.get_or_init(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        i64::try_from(now.as_millis()).unwrap()
    })
}

/// A batch of one record for each value.
pub(crate) fn batch(values: &[&str]) -> Bytes {
    sealed(values, &Seal::default())
}

pub(crate) fn sealed(values: &[&str], seal: &Seal) -> Bytes {
    let mut builder = BatchBuilder::new(1024);
    for (value, timestamp) in values.iter().zip(first_timestamp()..) {
        builder.append(timestamp, None, Some(value.as_bytes()), &[]);
    }
    builder.finish(seal).unwrap()
}
