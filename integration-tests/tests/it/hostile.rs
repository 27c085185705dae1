//! What a broken or hostile peer sends: the connection ends with a reason, and everyone else is served on.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use integration_tests::{Cluster, PATIENCE, TestResult};

use kafka_wire::frame::{self, FrameDecoder};
use kafka_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::messages::{ApiVersionsRequest, MetadataRequest, ProduceRequest, TopicName};
use kafka_wire::record_batch::{BatchBuilder, Seal};
use kafka_wire::{ErrorCode, Request, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A connection without a client: it sends whatever it is given.
struct Raw {
    socket: TcpStream,
    decoder: FrameDecoder,
}

impl Raw {
    async fn connect(cluster: &Cluster) -> TestResult<Self> {
        let socket = TcpStream::connect(cluster.bootstrap_servers()).await?;
        Ok(Self { socket, decoder: FrameDecoder::new(frame::DEFAULT_MAX_FRAME_BYTES) })
    }

    async fn send(&mut self, bytes: &[u8]) -> TestResult {
        Ok(self.socket.write_all(bytes).await?)
    }

    async fn call<R: Request>(&mut self, request: &R, version: i16) -> TestResult<R::Response> {
        let encoded = frame::encode_request(request, version, 1, Some("raw"), &[])?;
        self.send(&encoded.segments().concat()).await?;
        let answer = timeout(PATIENCE, self.frame()).await??.ok_or("the broker closed the connection")?;
        Ok(frame::decode_response::<R>(answer, version)?)
    }

    async fn frame(&mut self) -> TestResult<Option<Bytes>> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Some(frame));
            }
            if self.socket.read_buf(self.decoder.read_buffer()).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Waits until the broker ends the connection; whether by FIN or by RST is the kernel's affair.
    async fn is_closed(&mut self) -> bool {
        matches!(timeout(PATIENCE, self.frame()).await, Ok(Ok(None) | Err(_)))
    }
}

async fn still_serves(cluster: &Cluster) -> TestResult {
    let answer = Raw::connect(cluster).await?.call(&ApiVersionsRequest::default(), 0).await?;
    assert_eq!(ErrorCode::from(answer.error_code), ErrorCode::None);
    Ok(())
}

#[tokio::test]
async fn an_oversized_frame_ends_its_connection_only() -> TestResult {
    let cluster = Cluster::start().await?;
    let mut peer = Raw::connect(&cluster).await?;
    peer.send(&(i32::MAX).to_be_bytes()).await?;
    assert!(peer.is_closed().await);
    still_serves(&cluster).await
}

#[tokio::test]
async fn a_negative_length_and_another_protocol_end_the_connection() -> TestResult {
    let cluster = Cluster::start().await?;
    let hello: [&[u8]; 3] =
        [&(-1i32).to_be_bytes(), b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00"];
    for hello in hello {
        let mut peer = Raw::connect(&cluster).await?;
        peer.send(hello).await?;
        assert!(peer.is_closed().await, "{hello:?}");
    }
    still_serves(&cluster).await
}

#[tokio::test]
async fn a_count_that_cannot_be_true_ends_the_connection_without_taking_memory() -> TestResult {
    let cluster = Cluster::start().await?;
    // Metadata v1 of two billion topics, in a frame of some twenty bytes.
    let mut body = BytesMut::new();
    body.put_i16(MetadataRequest::KEY);
    body.put_i16(1);
    body.put_i32(7);
    body.put_i16(-1);
    body.put_i32(i32::MAX);
    let mut peer = Raw::connect(&cluster).await?;
    peer.send(&[&(body.len() as i32).to_be_bytes()[..], &body].concat()).await?;
    assert!(peer.is_closed().await);
    still_serves(&cluster).await
}

#[tokio::test]
async fn a_peer_that_stops_in_the_middle_of_a_frame_disturbs_nobody() -> TestResult {
    let cluster = Cluster::start().await?;
    let request =
        frame::encode_request(&MetadataRequest::default(), 12, 1, Some("raw"), &[])?.segments().concat();
    for cut in 1..request.len() {
        let mut peer = Raw::connect(&cluster).await?;
        peer.send(&request[..cut]).await?;
    }
    still_serves(&cluster).await
}

#[tokio::test]
async fn random_frames_never_stop_the_broker() -> TestResult {
    let cluster = Cluster::start().await?;
    // A linear congruence is random enough, and the same in every run.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    for round in 0..200u8 {
        let mut body: Vec<u8> = (0..random()).map(|_| random()).collect();
        if body.len() >= 4 {
            // A known API in a low version gets further than noise does.
            body[..4].copy_from_slice(&[0, round % 70, 0, random() % 8]);
        }
        let mut peer = Raw::connect(&cluster).await?;
        peer.send(&[&(body.len() as i32).to_be_bytes()[..], &body].concat()).await?;
        let _ = timeout(Duration::from_millis(5), peer.frame()).await;
    }
    still_serves(&cluster).await
}

#[tokio::test]
async fn a_newer_api_versions_request_is_answered_in_version_0() -> TestResult {
    let cluster = Cluster::start().await?;
    // KIP-511: the client learns from UNSUPPORTED_VERSION which versions it may use.
    let mut body = BytesMut::new();
    body.put_i16(ApiVersionsRequest::KEY);
    body.put_i16(1000);
    body.put_i32(7);
    body.put_i16(-1);
    body.put_bytes(0, 8);
    let mut peer = Raw::connect(&cluster).await?;
    peer.send(&[&(body.len() as i32).to_be_bytes()[..], &body].concat()).await?;
    let answer = timeout(PATIENCE, peer.frame()).await??.ok_or("closed")?;
    let answer = frame::decode_response::<ApiVersionsRequest>(answer, 0)?;
    assert_eq!(ErrorCode::from(answer.error_code), ErrorCode::UnsupportedVersion);
    assert!(!answer.api_keys.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_corrupt_batch_is_refused_and_a_sound_one_after_it_is_written_at_offset_0() -> TestResult {
    let cluster = Cluster::start().await?;
    let topic = cluster.topic("corrupt", 1).await?;
    let mut builder = BatchBuilder::new(128);
    builder.append(1_700_000_000_000, None, Some(b"sound"), &[]);
    let sound = builder.finish(&Seal::default())?;
    let mut corrupt = sound.to_vec();
    if let Some(last) = corrupt.last_mut() {
        *last ^= 1;
    }
    let mut peer = Raw::connect(&cluster).await?;
    for (batch, expected, offset) in
        [(Bytes::from(corrupt), ErrorCode::CorruptMessage, -1), (sound, ErrorCode::None, 0)]
    {
        let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(10_000).with_topic_data(vec![
            TopicProduceData::default()
                .with_name(TopicName(StrBytes::from_string(topic.clone())))
                .with_partition_data(vec![
                    PartitionProduceData::default().with_index(0).with_records(Some(batch)),
                ]),
        ]);
        let answer = peer.call(&request, 9).await?;
        let partition = &answer.responses[0].partition_responses[0];
        assert_eq!(ErrorCode::from(partition.error_code), expected);
        assert_eq!(partition.base_offset, offset);
    }
    Ok(())
}
