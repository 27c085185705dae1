//! Clusters that lack what newer ones have: a relay in between takes APIs out of what the broker says it serves.

use std::io;

use bytes::Bytes;
use integration_tests::{Cluster, PATIENCE, TestResult, unique};
use kafka_client::consumer::{ConsumeError, OffsetReset};
use kafka_client::group::{GroupError, GroupProtocol};
use kafka_client::wire::Request;
use kafka_client::wire::frame::{decode_response, encode_response, peek_correlation_id};
use kafka_client::wire::messages::{ApiVersionsRequest, ConsumerGroupHeartbeatRequest};
use kafka_client::{Client, Record};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, copy, duplex, split};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A connection to a broker of before KIP-848.
async fn without_kip_848(host: String, port: u16) -> io::Result<DuplexStream> {
    let broker = TcpStream::connect((host.as_str(), port)).await?;
    broker.set_nodelay(true)?;
    let (near, far) = duplex(64 * 1024);
    tokio::spawn(async move {
        // The end of either side is the end of the connection.
        let _ = relay(far, broker).await;
    });
    Ok(near)
}

async fn frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    let mut bytes = vec![0; stream.read_u32().await? as usize];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes.into())
}

/// A client asks a new connection for its versions first.
async fn relay(client: DuplexStream, mut broker: TcpStream) -> TestResult {
    let (mut from_client, mut to_client) = split(client);
    let (mut from_broker, mut to_broker) = broker.split();
    let question = frame(&mut from_client).await?;
    assert_eq!(question[..2], ApiVersionsRequest::KEY.to_be_bytes());
    let version = i16::from_be_bytes([question[2], question[3]]);
    to_broker.write_u32(question.len() as u32).await?;
    to_broker.write_all(&question).await?;
    let answer = frame(&mut from_broker).await?;
    let correlation_id = peek_correlation_id(&answer)?;
    let mut served = decode_response::<ApiVersionsRequest>(answer, version)?;
    served.api_keys.retain(|api| api.api_key != ConsumerGroupHeartbeatRequest::KEY);
    let told = encode_response::<ApiVersionsRequest>(&served, version, correlation_id, &[])?;
    for segment in told.into_segments() {
        to_client.write_all(&segment).await?;
    }
    tokio::select! {
        _ = copy(&mut from_client, &mut to_broker) => {}
        _ = copy(&mut from_broker, &mut to_client) => {}
    }
    Ok(())
}

#[tokio::test]
async fn on_a_cluster_without_kip_848_consumers_join_classic_groups_and_say_so() -> TestResult {
    let cluster = Cluster::start().await?;
    let topic = cluster.topic("older", 2).await?;
    let client = Client::builder(cluster.bootstrap_servers()).connector(without_kip_848).build()?;
    let producer = client.producer().build()?;
    for partition in 0..2 {
        producer.send(Record::to(&topic).partition(partition).value("v")).await?.await?;
    }
    let group = unique("older");
    let start = |protocol| {
        let builder = client.consumer().group(&group).topics([&topic]).protocol(protocol);
        builder.auto_offset_reset(OffsetReset::Earliest).build()
    };
    let flexible = start(GroupProtocol::Auto)?;
    for _ in 0..2 {
        timeout(PATIENCE, flexible.next()).await??.ok_or("the consumer ended")?;
    }
    assert_eq!(flexible.group_protocol(), Some(GroupProtocol::Classic));
    flexible.close().await?;

    let strict = start(GroupProtocol::Consumer)?;
    let error = timeout(PATIENCE, strict.next()).await?.err().ok_or("it reads")?;
    assert!(matches!(&error, ConsumeError::Group(GroupError::ProtocolUnsupported { .. })), "{error:?}");
    Ok(())
}
