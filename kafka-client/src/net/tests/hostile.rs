//! Peers that lie: a clear error for everybody who waits, the connection closed, and never a panic.

use kafka_wire::frame::FrameError;
use kafka_wire::messages::api_versions_response::ApiVersion;
use kafka_wire::messages::{ApiVersionsResponse, FetchRequest};

use proptest::prelude::*;

use super::*;

#[tokio::test(start_paused = true)]
async fn hostile_answers_are_typed_errors() {
    // A length beyond the limit, a negative one, an answer to another question, a frame too short for its header, and
    // one without anything.
    type Case = (&'static [u8], fn(&ConnectionError) -> bool);
    let cases: [Case; 5] = [
        (&[0x7f, 0xff, 0xff, 0xff], |e| {
            matches!(e, ConnectionError::InvalidFrame { source: FrameError::TooLarge { .. }, .. })
        }),
        (&[0xff, 0xff, 0xff, 0xff], |e| {
            matches!(e, ConnectionError::InvalidFrame { source: FrameError::NegativeLength { .. }, .. })
        }),
        (&[0, 0, 0, 4, 0, 0, 3, 0xe7], |e| {
            matches!(e, ConnectionError::OutOfTurn { received: 999, expected: Some(_), .. })
        }),
        (&[0, 0, 0, 0], |e| {
            matches!(e, ConnectionError::InvalidFrame { source: FrameError::TooShort { .. }, .. })
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
async fn an_answer_that_nobody_asked_for_ends_the_connection() {
    let (connection, mut peer) = connected().await;
    peer.raw(&[0, 0, 0, 4, 0, 0, 0, 1]).await;
    assert!(peer.next().await.is_none());
    assert!(connection.is_closed());
    let error = connection.request(&question(), ask()).await.unwrap_err();
    let nobodys = |e: &ConnectionError| matches!(e, ConnectionError::OutOfTurn { expected: None, .. });
    assert!(matches!(&error, RequestError::NotSent(cause) if nobodys(cause)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn answers_in_the_wrong_order_end_the_connection_before_anybody_gets_anothers() {
    let (connection, mut peer) = connected().await;
    let first = connection.start(&question(), ask()).await.unwrap();
    let second = connection.start(&question(), ask()).await.unwrap();
    peer.next().await.unwrap();
    let (header, _) = peer.next().await.unwrap();
    peer.answer::<MetadataRequest>(&header, &answer(2)).await;
    for answer in [first, second] {
        let error = answer.await.unwrap_err();
        assert!(error.is_retriable() && error.possibly_written(), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_sends_its_answer_twice_is_not_believed() {
    let (connection, mut peer) = connected().await;
    let first = connection.start(&question(), ask()).await.unwrap();
    let second = connection.start(&question(), ask()).await.unwrap();
    let (header, _) = peer.next().await.unwrap();
    for _ in 0..2 {
        peer.answer::<MetadataRequest>(&header, &answer(2)).await;
    }
    assert_eq!(first.await.unwrap().controller_id.0, 2);
    assert!(second.await.is_err() && connection.is_closed());
}

/// What becomes of a handshake that is answered by these bytes, in each version that it is tried in.
async fn handshake(
    response: ApiVersionsResponse,
    version: Option<i16>,
) -> Result<Connection, ConnectionError> {
    let (stream, mut peer) = Peer::pair();
    let script = async {
        while let Some((mut header, _)) = peer.next().await {
            header.request_api_version = version.unwrap_or(header.request_api_version);
            peer.answer::<ApiVersionsRequest>(&header, &response).await;
        }
    };
    tokio::select! {
        biased;
        opened = tokio::time::timeout(TIMEOUT, open(stream)) => opened.unwrap(),
        () = script => panic!("the client hung up without a word"),
    }
}

fn api(key: i16, min: i16, max: i16) -> ApiVersion {
    ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(max)
}

#[tokio::test(start_paused = true)]
async fn api_versions_that_make_no_sense_are_an_error_of_each_request_and_not_a_version() {
    for ranges in [
        vec![],
        vec![api(3, 9, 1)],
        vec![api(3, -5, -1)],
        vec![api(3, 1000, i16::MAX)],
        vec![api(3, i16::MIN, i16::MIN), api(3, i16::MAX, i16::MAX), api(-7, 0, 1)],
    ] {
        let response = ApiVersionsResponse::default().with_api_keys(ranges.clone());
        let connection = handshake(response, None).await.unwrap();
        for error in [
            connection.version_of::<MetadataRequest>(i16::MAX).unwrap_err(),
            connection.request(&question(), ask()).await.unwrap_err(),
            connection.version_of::<FetchRequest>(i16::MAX).unwrap_err(),
        ] {
            assert!(matches!(error, RequestError::Unsupported(_)), "{ranges:?}: {error}");
            assert!(!error.is_retriable() && !error.possibly_written());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_refuses_every_version_is_given_up() {
    let refusal = |max| {
        ApiVersionsResponse::default()
            .with_error_code(ErrorCode::UnsupportedVersion.code())
            .with_api_keys(vec![api(18, 0, max)])
    };
    for max in [i16::MIN, -1, 0, 2, i16::MAX] {
        let error = handshake(refusal(max), Some(0)).await.unwrap_err();
        let code = ErrorCode::UnsupportedVersion;
        assert!(matches!(error, ConnectionError::Handshake { code: c, .. } if c == code), "{max}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_is_cut_short_names_what_is_wrong() {
    let (stream, mut peer) = Peer::pair();
    let script = async {
        let (header, _) = peer.next().await.unwrap();
        let mut frame = vec![0, 0, 0, 6];
        frame.extend(header.correlation_id.to_be_bytes());
        frame.extend([0, 0]);
        peer.raw(&frame).await;
    };
    let (opened, ()) = tokio::join!(open(stream), script);
    let error = opened.unwrap_err();
    assert!(matches!(error, ConnectionError::InvalidFrame { .. }), "{error}");
    assert!(peer.next().await.is_none());
}

/// What a peer that is out of its mind sends.
#[derive(Debug, Clone)]
enum Noise {
    Answer,
    Frame { correlation_id: i32, body: Vec<u8> },
    Bytes(Vec<u8>),
    Pause(u64),
}

fn noise() -> impl Strategy<Value = Noise> {
    let body = || prop::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        3 => Just(Noise::Answer),
        3 => (0..8i32, body()).prop_map(|(correlation_id, body)| Noise::Frame { correlation_id, body }),
        1 => body().prop_map(Noise::Bytes),
        1 => (0..40_000u64).prop_map(Noise::Pause),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a peer sends and whenever, everybody who waits is answered, one way or the other, and in time.
    #[test]
    fn nobody_waits_for_ever_and_nothing_panics(
        noise in prop::collection::vec(noise(), 0..12),
        requests in 1usize..6,
        shakes_hands in prop::bool::weighted(0.8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (stream, mut peer) = Peer::pair();
            let peer = tokio::spawn(async move {
                if shakes_hands {
                    peer.shake_hands().await;
                }
                for noise in noise {
                    match noise {
                        Noise::Answer => match peer.next().await {
                            Some((header, _)) => peer.answer::<MetadataRequest>(&header, &answer(1)).await,
                            None => return,
                        },
                        Noise::Frame { correlation_id, body } => {
                            let length = i32::try_from(body.len()).unwrap() + 4;
                            let frame = [&length.to_be_bytes()[..], &correlation_id.to_be_bytes(), &body];
                            peer.raw(&frame.concat()).await;
                        }
                        Noise::Bytes(bytes) => peer.raw(&bytes).await,
                        Noise::Pause(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
                    }
                }
                // Then it falls silent.
                std::future::pending::<()>().await;
            });
            let opened = tokio::time::timeout(2 * TIMEOUT, open(stream)).await.unwrap();
            if let Ok(connection) = opened {
                let mut waiting = Vec::new();
                for _ in 0..requests {
                    waiting.extend(connection.start(&question(), ask()).await);
                }
                // Pauses that the peer asked for come on top.
                let longest = 2 * TIMEOUT + Duration::from_secs(1200);
                for answer in waiting {
                    let _ = tokio::time::timeout(longest, answer).await.unwrap();
                }
            }
            peer.abort();
        });
    }
}
