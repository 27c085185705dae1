//! Frames that no client should send: the connection closes, the broker goes on.

use std::time::Duration;

use kafka_broker::Broker;
use kafka_wire::Request;
use kafka_wire::frame;
use kafka_wire::messages::{ApiVersionsRequest, MetadataRequest, ProduceRequest};
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

use crate::connection::Connection;

fn framed(body: &[u8]) -> Vec<u8> {
    let mut bytes = i32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// A header of the second kind with the given key and version, and nothing after it.
fn header(api_key: i16, version: i16) -> Vec<u8> {
    let mut bytes = api_key.to_be_bytes().to_vec();
    bytes.extend_from_slice(&version.to_be_bytes());
    bytes.extend_from_slice(&7i32.to_be_bytes());
    bytes.extend_from_slice(&(-1i16).to_be_bytes());
    bytes
}

async fn assert_hangs_up(broker: &Broker, bytes: &[u8]) {
    let mut connection = Connection::open(broker).await;
    connection.send_bytes(bytes).await;
    assert_eq!(connection.receive_frame().await, None);
    assert_eq!(Connection::open(broker).await.api_versions().await.error_code, 0);
}

#[tokio::test]
async fn frames_that_are_no_requests_close_their_connection_only() {
    let broker = Broker::builder().start().await.unwrap();
    let oversized = (100 * 1024 * 1024 + 1i32).to_be_bytes();
    for (what, bytes) in [
        ("a negative length", (-1i32).to_be_bytes().to_vec()),
        ("a length above the limit", oversized.to_vec()),
        ("an HTTP request", b"GET / HTTP/1.1\r\nHost: kafka\r\n\r\n".to_vec()),
        ("a TLS hello", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]),
        ("an empty frame", framed(&[])),
        ("half a header", framed(&[0, 3, 0])),
        ("an unknown API", framed(&header(999, 0))),
        ("an API that left Kafka", framed(&header(4, 0))),
        ("an API that only controllers serve", framed(&header(52, 0))),
        ("a version above the served ones", framed(&header(MetadataRequest::KEY, 99))),
        ("a negative version", framed(&header(MetadataRequest::KEY, -1))),
        ("a version of Produce that is only advertised", framed(&header(ProduceRequest::KEY, 2))),
        ("a body that is missing", framed(&header(MetadataRequest::KEY, 4))),
    ] {
        println!("{what}");
        assert_hangs_up(&broker, &bytes).await;
    }
}

#[tokio::test]
async fn every_truncation_of_a_request_closes_the_connection_or_is_waited_for() {
    let broker = Broker::builder().start().await.unwrap();
    let request = MetadataRequest::default().with_topics(None).with_allow_auto_topic_creation(false);
    let whole = frame::encode_request(&request, 12, 1, Some("me"), &[]).unwrap().segments().concat();
    for length in 4..whole.len() {
        // The frame is complete, its content is not.
        let cut = framed(&whole[4..length]);
        let mut connection = Connection::open(&broker).await;
        connection.send_bytes(&cut).await;
        assert_eq!(connection.receive_frame().await, None, "cut at {length}");
    }
    assert_eq!(Connection::open(&broker).await.api_versions().await.error_code, 0);
}

#[tokio::test]
async fn what_was_asked_before_a_bad_frame_is_still_answered() {
    let broker = Broker::builder().start().await.unwrap();
    let mut connection = Connection::open(&broker).await;
    let good = frame::encode_request(&ApiVersionsRequest::default(), 0, 5, None, &[]).unwrap();
    let mut bytes = good.segments().concat();
    bytes.extend_from_slice(&framed(&header(999, 0)));
    connection.send_bytes(&bytes).await;
    let answer = connection.receive_frame().await.unwrap();
    assert_eq!(frame::peek_correlation_id(&answer).unwrap(), 5);
    assert_eq!(connection.receive_frame().await, None);
}

#[tokio::test]
async fn an_announced_frame_that_never_comes_does_not_hold_up_others() {
    let broker = Broker::builder().start().await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..50 {
        let mut stream = broker.connect().await;
        stream.write_all(&(90 * 1024 * 1024i32).to_be_bytes()).await.unwrap();
        silent.push(stream);
    }
    assert_eq!(Connection::open(&broker).await.api_versions().await.error_code, 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_after_connections_max_idle_ms() {
    let broker = Broker::builder().config("connections.max.idle.ms", "5000").start().await.unwrap();
    let mut connection = Connection::open(&broker).await;
    assert_eq!(connection.api_versions().await.error_code, 0);
    let closed = tokio::time::timeout(Duration::from_secs(6), connection.receive_frame()).await;
    assert_eq!(closed, Ok(None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_bodies_never_stop_the_broker(
        key in 0i16..93, version in 0i16..14, body in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let broker = Broker::builder().start().await.unwrap();
            let mut connection = Connection::open(&broker).await;
            let mut frame = header(key, version);
            frame.extend_from_slice(&body);
            connection.send_bytes(&framed(&frame)).await;
            // Some random bodies are requests: either way the next connection is served.
            let _ = tokio::time::timeout(Duration::from_secs(700), connection.receive_frame()).await;
            assert_eq!(Connection::open(&broker).await.api_versions().await.error_code, 0);
        });
    }
}
