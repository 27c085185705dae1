//! How soon groups settle on this broker, over in-memory connections: a group of many members over many partitions that
//! all start at once, with each protocol, and many small groups at the same time.
//!
//! `cargo run --release -p kafka-broker --example group_settle [MEMBERS PARTITIONS GROUPS]` (100, 1000 and 1000)

use std::collections::BTreeSet;
use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes};
use kafka_broker::Broker;
use kafka_wire::frame::{self, FrameDecoder};
use kafka_wire::messages::create_topics_request::CreatableTopic;
use kafka_wire::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_wire::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_wire::messages::*;
use kafka_wire::{ErrorCode, Request, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const TOPIC: &str = "t";
/// What Java's consumer does by default.
const CLASSIC_HEARTBEAT: Duration = Duration::from_secs(3);

struct Connection {
    stream: DuplexStream,
    decoder: FrameDecoder,
}

impl Connection {
    async fn open(broker: &Broker) -> Self {
        Self { stream: broker.connect().await, decoder: FrameDecoder::new(64 << 20) }
    }

    async fn call<R: Request>(&mut self, request: &R, version: i16) -> Outcome<R::Response> {
        let frame = frame::encode_request(request, version, 1, Some("settle"), &[])?;
        self.stream.write_all(&frame.segments().concat()).await?;
        loop {
            if let Some(answer) = self.decoder.next_frame()? {
                return Ok(frame::decode_response::<R>(answer, version)?);
            }
            if self.stream.read_buf(self.decoder.read_buffer()).await? == 0 {
                return Err("the broker closed the connection".into());
            }
        }
    }
}

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

/// What a member of a group says about its progress: how many partitions it has, in which epoch or generation.
type Progress = watch::Sender<(usize, i32)>;

/// A member of the consumer protocol that gives up and takes at once, and heartbeats as it is told.
async fn consumer(broker: Arc<Broker>, group: String, member: usize, progress: Progress) -> Outcome<()> {
    let mut connection = Connection::open(&broker).await;
    let mut request = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(GroupId(text(&group)))
        .with_member_id(text(&format!("member-{member}")))
        .with_rebalance_timeout_ms(60_000)
        .with_subscribed_topic_names(Some(vec![TopicName(text(TOPIC))]))
        .with_topic_partitions(Some(vec![]));
    loop {
        let answer = connection.call(&request, 1).await?;
        if answer.error_code != 0 {
            return Err(format!("{}: {:?}", ErrorCode::from(answer.error_code), answer.error_message).into());
        }
        request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(request.group_id)
            .with_member_id(request.member_id)
            .with_member_epoch(answer.member_epoch)
            .with_subscribed_topic_names(None)
            .with_topic_partitions(None);
        let before = *progress.borrow();
        let mut owned = before.0;
        if let Some(assignment) = answer.assignment {
            owned = assignment.topic_partitions.iter().map(|topic| topic.partitions.len()).sum();
            let topics = assignment.topic_partitions.into_iter().map(|topic| {
                consumer_group_heartbeat_request::TopicPartitions::default()
                    .with_topic_id(topic.topic_id)
                    .with_partitions(topic.partitions)
            });
            request.topic_partitions = Some(topics.collect());
        }
        progress.send_replace((owned, answer.member_epoch));
        if owned >= before.0 || request.topic_partitions.is_none() {
            let interval = u64::try_from(answer.heartbeat_interval_ms)?;
            tokio::time::sleep(Duration::from_millis(interval)).await;
        }
    }
}

/// A member of the classic protocol; the leader deals the partitions out.
async fn classic(broker: Arc<Broker>, group: String, partitions: usize, progress: Progress) -> Outcome<()> {
    let mut connection = Connection::open(&broker).await;
    let mut member_id = text("");
    loop {
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t\xff\xff\xff\xff"));
        let join = JoinGroupRequest::default()
            .with_group_id(GroupId(text(&group)))
            .with_session_timeout_ms(45_000)
            .with_rebalance_timeout_ms(60_000)
            .with_member_id(member_id.clone())
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        let joined = connection.call(&join, 9).await?;
        member_id = joined.member_id.clone();
        if joined.error_code != 0 {
            continue;
        }
        let count = joined.members.len().max(1);
        let assignments = joined.members.iter().enumerate().map(|(at, member)| {
            let mine: Vec<usize> = (0..partitions).filter(|partition| partition % count == at).collect();
            let mut bytes = Vec::new();
            bytes.put_slice(b"\0\0\0\0\0\x01\0\x01t");
            bytes.put_i32(i32::try_from(mine.len()).unwrap_or(i32::MAX));
            mine.iter().for_each(|&partition| bytes.put_i32(i32::try_from(partition).unwrap_or(-1)));
            bytes.put_i32(-1);
            SyncGroupRequestAssignment::default()
                .with_member_id(member.member_id.clone())
                .with_assignment(bytes.into())
        });
        let sync = SyncGroupRequest::default()
            .with_group_id(GroupId(text(&group)))
            .with_generation_id(joined.generation_id)
            .with_member_id(member_id.clone())
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("range")))
            .with_assignments(assignments.collect());
        let synced = connection.call(&sync, 5).await?;
        if synced.error_code != 0 {
            continue;
        }
        let count = synced.assignment.get(9..13).and_then(|count| <[u8; 4]>::try_from(count).ok());
        let owned = usize::try_from(count.map_or(0, i32::from_be_bytes))?;
        progress.send_replace((owned, joined.generation_id));
        let heartbeat = HeartbeatRequest::default()
            .with_group_id(GroupId(text(&group)))
            .with_generation_id(joined.generation_id)
            .with_member_id(member_id.clone());
        loop {
            tokio::time::sleep(CLASSIC_HEARTBEAT).await;
            if connection.call(&heartbeat, 4).await?.error_code != 0 {
                break;
            }
        }
    }
}

/// Starts a group and waits until its members have all partitions, in one epoch, evenly.
async fn settle(
    broker: &Arc<Broker>,
    group: &str,
    is_classic: bool,
    members: usize,
    partitions: usize,
) -> Outcome<Duration> {
    let began = Instant::now();
    let mut receivers = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for member in 0..members {
        let (progress, receiver) = watch::channel((0, 0));
        receivers.push(receiver);
        let (broker, group) = (Arc::clone(broker), group.to_owned());
        match is_classic {
            true => tasks.spawn(classic(broker, group, partitions, progress)),
            false => tasks.spawn(consumer(broker, group, member, progress)),
        };
    }
    loop {
        if let Some(ended) = tasks.try_join_next() {
            ended??;
        }
        let now: Vec<(usize, i32)> = receivers.iter().map(|receiver| *receiver.borrow()).collect();
        let epochs: BTreeSet<i32> = now.iter().map(|(_, epoch)| *epoch).collect();
        let owned: usize = now.iter().map(|(owned, _)| owned).sum();
        let least = now.iter().map(|(owned, _)| *owned).min().unwrap_or(0);
        if epochs.len() == 1 && owned == partitions && least >= partitions / members {
            return Ok(began.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut numbers = std::env::args().skip(1).map(|arg| arg.parse::<usize>());
    let members = numbers.next().transpose()?.unwrap_or(100);
    let partitions = numbers.next().transpose()?.unwrap_or(1000);
    let groups = numbers.next().transpose()?.unwrap_or(1000);
    let builder = Broker::builder().config("max.connections", "100000");
    let broker = builder.config("group.initial.rebalance.delay.ms", "100").start().await?;
    let broker = Arc::new(broker);
    let mut connection = Connection::open(&broker).await;
    let topic = CreatableTopic::default()
        .with_name(TopicName(text(TOPIC)))
        .with_num_partitions(i32::try_from(partitions)?)
        .with_replication_factor(1);
    connection.call(&CreateTopicsRequest::default().with_topics(vec![topic]), 7).await?;
    let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g")]);
    connection.call(&find, 6).await?;

    let mut out = std::io::stdout();
    for (name, is_classic) in [("consumer", false), ("classic", true)] {
        let took = settle(&broker, name, is_classic, members, partitions).await?;
        writeln!(out, "{name}: {members} members over {partitions} partitions settled in {took:.2?}")?;
    }
    for (name, is_classic) in [("consumer", false), ("classic", true)] {
        let began = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for group in 0..groups {
            let broker = Arc::clone(&broker);
            tasks.spawn(async move {
                settle(&broker, &format!("{name}-{group}"), is_classic, 2, partitions).await
            });
        }
        let mut slowest = Duration::ZERO;
        while let Some(took) = tasks.join_next().await {
            slowest = slowest.max(took??);
        }
        let all = began.elapsed();
        writeln!(
            out,
            "{name}: {groups} groups of 2 at once settled in {all:.2?}, the slowest in {slowest:.2?}"
        )?;
    }
    Ok(())
}
