//! Connections on a paused clock, against scripted peers.

mod hostile;
mod pauses;
mod pool;

use std::time::Duration;

use kafka_wire::ErrorCode;
use kafka_wire::messages::{ApiVersionsRequest, BrokerId, MetadataRequest, MetadataResponse};
use tokio::time::Instant;

use super::*;
use crate::testing::{Peer, kafka_4_3_versions};

const TIMEOUT: Duration = Duration::from_secs(30);

const CONFIG: ConnectionConfig = ConnectionConfig {
    client_id: None,
    max_frame_bytes: 1 << 20,
    memory: None,
    max_idle: Some(Duration::from_secs(540)),
};

/// Opens a connection over one end of a pipe.
async fn open(stream: tokio::io::DuplexStream) -> Result<Connection, ConnectionError> {
    let node = Node { id: 1, address: Address::new("peer", 1) };
    Connection::open(Box::new(stream), &node, Purpose::Control, &CONFIG, TIMEOUT).await
}

async fn connected() -> (Connection, Peer) {
    let (stream, mut peer) = Peer::pair();
    let (connection, ()) = tokio::join!(open(stream), peer.shake_hands());
    (connection.unwrap(), peer)
}

fn question() -> MetadataRequest {
    MetadataRequest::default()
}

fn ask() -> Call<'static> {
    Call::within(TIMEOUT)
}

fn answer(controller: i32) -> MetadataResponse {
    MetadataResponse::default().with_controller_id(BrokerId(controller))
}

#[tokio::test(start_paused = true)]
async fn requests_are_pipelined_and_answered_in_order() {
    let (connection, mut peer) = connected().await;
    let first = connection.start(&question(), ask()).await.unwrap();
    let second = connection.start(&question(), ask()).await.unwrap();
    for controller in [1, 2] {
        let (header, _) = peer.next().await.unwrap();
        peer.answer::<MetadataRequest>(&header, &answer(controller)).await;
    }
    assert_eq!(second.await.unwrap().controller_id.0, 2);
    assert_eq!(first.await.unwrap().controller_id.0, 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_gets_no_answer_ends_the_connection_and_all_that_wait_on_it() {
    let (connection, mut peer) = connected().await;
    let started = Instant::now();
    let first = connection.start(&question(), ask()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let second = connection.start(&question(), ask()).await.unwrap();
    peer.next().await.unwrap();
    for answer in [first, second] {
        let error = answer.await.unwrap_err();
        assert!(matches!(error, RequestError::Unanswered(ConnectionError::RequestTimeout { .. })), "{error}");
        assert!(error.is_retriable() && error.possibly_written());
    }
    assert_eq!(started.elapsed().as_secs(), TIMEOUT.as_secs());
    assert!(connection.is_closed());
    let error = connection.request(&question(), ask()).await.unwrap_err();
    assert!(matches!(error, RequestError::NotSent(_)) && !error.possibly_written(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_waits_for_does_not_disturb_the_next_one() {
    let (connection, mut peer) = connected().await;
    drop(connection.start(&question(), ask()).await.unwrap());
    let kept = connection.start(&question(), ask()).await.unwrap();
    for controller in [1, 2] {
        let (header, _) = peer.next().await.unwrap();
        peer.answer::<MetadataRequest>(&header, &answer(controller)).await;
    }
    assert_eq!(kept.await.unwrap().controller_id.0, 2);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_hangs_up_fails_what_is_open() {
    let (connection, mut peer) = connected().await;
    let waiting = connection.start(&question(), ask()).await.unwrap();
    peer.next().await.unwrap();
    drop(peer);
    let error = waiting.await.unwrap_err();
    assert!(matches!(error, RequestError::Unanswered(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_connection_ends_with_its_last_handle() {
    let (connection, mut peer) = connected().await;
    let waiting = connection.start(&question(), ask()).await.unwrap();
    drop(connection);
    // The open request is still answered, and then the peer sees the end.
    let (header, _) = peer.next().await.unwrap();
    peer.answer::<MetadataRequest>(&header, &answer(3)).await;
    assert_eq!(waiting.await.unwrap().controller_id.0, 3);
    assert!(peer.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_older_broker_is_asked_again_in_a_version_that_it_knows() {
    let (stream, mut peer) = Peer::pair();
    let open = open(stream);
    let script = async {
        let (mut header, _) = peer.next().await.unwrap();
        assert!(header.request_api_version > 2);
        let mut ours = kafka_4_3_versions();
        ours.error_code = ErrorCode::UnsupportedVersion.code();
        ours.api_keys.retain(|api| api.api_key == 18);
        ours.api_keys[0].max_version = 2;
        header.request_api_version = 0;
        peer.answer::<ApiVersionsRequest>(&header, &ours).await;
        let (header, _) = peer.next().await.unwrap();
        assert_eq!(header.request_api_version, 2);
        peer.answer::<ApiVersionsRequest>(&header, &kafka_4_3_versions()).await;
    };
    let (connection, ()) = tokio::join!(open, script);
    assert!(connection.unwrap().version_of::<MetadataRequest>(i16::MAX).is_ok());
}
