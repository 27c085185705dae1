//! Connections on a paused clock, against scripted peers that fall silent or lie.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kafka_wire::ErrorCode;
use kafka_wire::frame::FrameError;
use kafka_wire::messages::{
    ApiVersionsRequest, ApiVersionsResponse, BrokerId, MetadataRequest, MetadataResponse,
};
use tokio::time::Instant;

use super::*;
use crate::Client;
use crate::testing::{Peer, kafka_4_3_versions};

const TIMEOUT: Duration = Duration::from_secs(30);

const CONFIG: ConnectionConfig =
    ConnectionConfig { client_id: None, max_frame_bytes: 1 << 20, max_idle: Some(Duration::from_secs(540)) };

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
async fn hostile_answers_are_typed_errors() {
    // A length beyond the limit, a negative one, an answer to nobody's question, a frame too short for its header.
    type Case = (&'static [u8], fn(&ConnectionError) -> bool);
    let cases: [Case; 4] = [
        (&[0x7f, 0xff, 0xff, 0xff], |e| {
            matches!(e, ConnectionError::InvalidFrame { source: FrameError::TooLarge { .. }, .. })
        }),
        (&[0xff, 0xff, 0xff, 0xff], |e| {
            matches!(e, ConnectionError::InvalidFrame { source: FrameError::NegativeLength { .. }, .. })
        }),
        (&[0, 0, 0, 4, 0, 0, 3, 0xe7], |e| {
            matches!(e, ConnectionError::OutOfTurn { received: 999, expected: Some(_), .. })
        }),
        (&[0, 0, 0, 2, 0, 0], |e| {
            matches!(e, ConnectionError::InvalidFrame { source: FrameError::TooShort { .. }, .. })
        }),
    ];
    for (bytes, expected) in cases {
        let (connection, mut peer) = connected().await;
        let waiting = connection.start(&question(), ask()).await.unwrap();
        peer.next().await.unwrap();
        peer.raw(bytes).await;
        match waiting.await.unwrap_err() {
            RequestError::Unanswered(error) => assert!(expected(&error), "{bytes:?}: {error}"),
            other => panic!("{bytes:?}: {other}"),
        }
        assert!(connection.is_closed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_answer_is_refused_and_the_connection_lives_on() {
    let (connection, mut peer) = connected().await;
    let waiting = connection.start(&question(), ask()).await.unwrap();
    let (header, _) = peer.next().await.unwrap();
    let mut frame = vec![0, 0, 0, 7];
    frame.extend(header.correlation_id.to_be_bytes());
    frame.extend([0, 0, 0]);
    peer.raw(&frame).await;
    let error = waiting.await.unwrap_err();
    assert!(matches!(error, RequestError::Decode { .. }), "{error}");
    assert!(!connection.is_closed());
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

#[tokio::test(start_paused = true)]
async fn a_refused_handshake_names_the_code() {
    let (stream, mut peer) = Peer::pair();
    let open = open(stream);
    let script = async {
        let (header, _) = peer.next().await.unwrap();
        let refusal =
            ApiVersionsResponse::default().with_error_code(ErrorCode::ClusterAuthorizationFailed.code());
        peer.answer::<ApiVersionsRequest>(&header, &refusal).await;
    };
    let (connection, ()) = tokio::join!(open, script);
    let error = connection.unwrap_err();
    assert!(
        matches!(error, ConnectionError::Handshake { code: ErrorCode::ClusterAuthorizationFailed, .. }),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_cluster_is_an_error_within_the_time_out_and_is_not_hammered() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    let refuse = move |_host: String, _port: u16| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Err::<tokio::io::DuplexStream, _>(io::Error::from(io::ErrorKind::ConnectionRefused)) }
    };
    let started = Instant::now();
    let error = Client::builder("nowhere:9092").connector(refuse).connect().await.unwrap_err();
    assert!(error.to_string().contains("nowhere:9092"), "{error}");
    assert_eq!(started.elapsed().as_secs(), 10);
    assert!((5..40).contains(&attempts.load(Ordering::Relaxed)), "{attempts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_accepts_and_says_nothing_times_out() {
    let mute = |_host: String, _port: u16| async {
        let (near, far) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            let _open = far;
            std::future::pending::<()>().await;
        });
        Ok::<_, io::Error>(near)
    };
    let started = Instant::now();
    let timeout = Duration::from_secs(3);
    let client = Client::builder("mute:9092").connector(mute).connect_timeout(timeout);
    assert!(client.connect().await.is_err());
    assert_eq!(started.elapsed(), timeout);
}
