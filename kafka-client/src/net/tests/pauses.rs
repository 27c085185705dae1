//! When a connection writes nothing, and when it ends for want of use.

use kafka_wire::messages::produce_response::{NodeEndpoint, PartitionProduceResponse, TopicProduceResponse};
use kafka_wire::messages::{ProduceRequest, ProduceResponse};

use super::*;
use crate::testing::Sums;

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Whether the peer hears nothing for that long.
async fn is_quiet(peer: &mut Peer, span: Duration) -> bool {
    tokio::time::timeout(span, peer.next()).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn any_answer_can_ask_for_a_pause_and_nothing_is_written_before_it_is_over() {
    let (connection, mut peer) = connected().await;
    let asked = connection.start(&question(), ask()).await.unwrap();
    let (header, _) = peer.next().await.unwrap();
    peer.answer::<MetadataRequest>(&header, &answer(1).with_throttle_time_ms(700)).await;
    asked.await.unwrap();
    assert_eq!(connection.muted_until(Instant::now()), Some(Instant::now() + millis(700)));

    let later = connection.start(&question(), ask()).await.unwrap();
    assert!(is_quiet(&mut peer, millis(699)).await);
    let (header, _) = peer.next().await.unwrap();
    assert_eq!(connection.muted_until(Instant::now()), None);
    peer.answer::<MetadataRequest>(&header, &answer(2)).await;
    assert_eq!(later.await.unwrap().controller_id.0, 2);
}

#[tokio::test(start_paused = true)]
async fn a_pause_at_the_end_of_a_produce_answer_is_heeded_and_what_is_in_flight_is_still_answered() {
    let (connection, mut peer) = connected().await;
    let produce = ProduceRequest::default();
    let first = connection.start(&produce, ask()).await.unwrap();
    let second = connection.start(&produce, ask()).await.unwrap();
    let (header, _) = peer.next().await.unwrap();
    let (next, _) = peer.next().await.unwrap();
    let topic = TopicProduceResponse::default()
        .with_partition_responses(vec![PartitionProduceResponse::default().with_index(7)]);
    let throttled = ProduceResponse::default()
        .with_responses(vec![topic])
        .with_node_endpoints(vec![NodeEndpoint::default().with_port(1)])
        .with_throttle_time_ms(1000);
    peer.answer::<ProduceRequest>(&header, &throttled).await;
    assert_eq!(first.await.unwrap().throttle_time_ms, 1000);
    let third = connection.start(&produce, ask()).await.unwrap();
    peer.answer::<ProduceRequest>(&next, &ProduceResponse::default()).await;
    second.await.unwrap();
    assert!(is_quiet(&mut peer, millis(999)).await);
    let (header, _) = peer.next().await.unwrap();
    peer.answer::<ProduceRequest>(&header, &ProduceResponse::default()).await;
    third.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_requests_time_out_begins_when_the_pause_is_over() {
    let (connection, mut peer) = connected().await;
    let asked = connection.start(&question(), ask()).await.unwrap();
    let (header, _) = peer.next().await.unwrap();
    peer.answer::<MetadataRequest>(&header, &answer(1).with_throttle_time_ms(60_000)).await;
    asked.await.unwrap();
    let began = Instant::now();
    let error = connection.request(&question(), ask()).await.unwrap_err();
    assert!(matches!(error, RequestError::Unanswered(ConnectionError::RequestTimeout { .. })), "{error}");
    assert_eq!(began.elapsed().as_secs(), 90);
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_weeks_is_a_pause_of_minutes() {
    let (connection, mut peer) = connected().await;
    let asked = connection.start(&question(), ask()).await.unwrap();
    let (header, _) = peer.next().await.unwrap();
    peer.answer::<MetadataRequest>(&header, &answer(1).with_throttle_time_ms(i32::MAX)).await;
    asked.await.unwrap();
    let now = Instant::now();
    assert_eq!(connection.muted_until(now), Some(now + Duration::from_secs(600)));
    assert!(!connection.is_closed());
    // It is no idleness either.
    tokio::time::sleep(Duration::from_secs(599)).await;
    assert!(!connection.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_nobody_uses_is_closed_and_one_that_waits_for_an_answer_is_not() {
    let (connection, mut peer) = connected().await;
    let slow = Call::within(Duration::from_secs(3600));
    tokio::time::sleep(Duration::from_secs(500)).await;
    let waiting = connection.start(&question(), slow).await.unwrap();
    let (header, _) = peer.next().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert!(!connection.is_closed());
    peer.answer::<MetadataRequest>(&header, &answer(1)).await;
    waiting.await.unwrap();
    let answered_at = Instant::now();
    assert!(peer.next().await.is_none());
    let idle = answered_at.elapsed().as_secs();
    assert!((540..=1080).contains(&idle), "{idle}");
    let error = connection.request(&question(), ask()).await.unwrap_err();
    assert!(matches!(error, RequestError::NotSent(ConnectionError::Idle { .. })), "{error}");
    assert!(error.is_retriable() && !error.possibly_written());
}

#[tokio::test(start_paused = true)]
async fn connections_requests_and_bytes_are_counted() {
    let sums = Sums::default();
    let _recording = ::metrics::set_default_local_recorder(&sums);
    let (connection, mut peer) = connected().await;
    let asked = connection.start(&question(), ask()).await.unwrap();
    let (header, _) = peer.next().await.unwrap();
    peer.answer::<MetadataRequest>(&header, &answer(1).with_throttle_time_ms(10)).await;
    asked.await.unwrap();
    for (name, expected) in [
        ("kafka_connections", 1.0),
        ("kafka_connection_creation_total", 1.0),
        ("kafka_connection_close_total", 0.0),
        // The handshake is one of them.
        ("kafka_request_size_bytes", 2.0),
        ("kafka_request_latency_seconds", 2.0),
        ("kafka_throttle_seconds", 1.0),
    ] {
        assert_eq!(sums.get(name), expected, "{name}");
    }
    assert!(sums.get("kafka_outgoing_byte_total") > 50.0);
    assert!(sums.get("kafka_incoming_byte_total") > 300.0);
    drop(connection);
    tokio::time::sleep(millis(20)).await;
    assert_eq!((sums.get("kafka_connections"), sums.get("kafka_connection_close_total")), (0.0, 1.0));
}
