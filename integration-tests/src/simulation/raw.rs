//! A connection without a client, for what a run does beside the producers: it makes and deletes topics, deletes records
//! and reads the log back.

use std::time::Duration;

use bytes::Bytes;
use kafka_client::wire::frame::{DEFAULT_MAX_FRAME_BYTES, FrameDecoder, decode_response, encode_request};
use kafka_client::wire::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_client::wire::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_client::wire::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_client::wire::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_client::wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_client::wire::messages::{
    BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    FetchRequest, ListOffsetsRequest, TopicName,
};
use kafka_client::wire::record_batch::RecordBatch;
use kafka_client::wire::{ErrorCode, Request, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::check::Written;
use super::plan::Plan;
use super::site::Site;
use crate::TestResult;

/// The one topic of a run.
pub(super) const TOPIC: &str = "t";
/// The number of records that are there to fill the buffer: nobody asks what became of them.
const FILLING: u64 = u64::MAX;
/// What one fetch returns at most, and what a batch may decompress to.
const FETCH_BYTES: i32 = 64 << 20;
/// The timestamp that stands for the first offset (`ListOffsetsRequest.EARLIEST_TIMESTAMP`).
const EARLIEST: i64 = -2;
/// The one that stands for the end (`ListOffsetsRequest.LATEST_TIMESTAMP`).
const LATEST: i64 = -1;
/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(600);

/// See the module's documentation.
pub(super) struct Raw {
    stream: DuplexStream,
    decoder: FrameDecoder,
}

impl Raw {
    /// A connection to the first node that runs, past the network, which has no faults then.
    pub(super) async fn connect(site: &Site) -> TestResult<Self> {
        let node = site.nodes().find(|&node| site.runs(node)).ok_or("no node runs")?;
        Self::connect_to(site, node).await
    }

    /// A connection to the node that leads a partition.
    pub(super) async fn connect_to_leader(site: &Site, partition: i32) -> TestResult<Self> {
        let leader = site.leader(partition).ok_or("the partition has no leader")?;
        Self::connect_to(site, leader).await
    }

    async fn connect_to(site: &Site, node: i32) -> TestResult<Self> {
        let stream = site.connect(node).await.ok_or("the node does not run")?;
        Ok(Self { stream, decoder: FrameDecoder::new(DEFAULT_MAX_FRAME_BYTES) })
    }

    pub(super) async fn call<R: Request>(&mut self, request: &R, version: i16) -> TestResult<R::Response> {
        let encoded = encode_request(request, version, 1, Some("simulation"), &[])?;
        self.stream.write_all(&encoded.segments().concat()).await?;
        let answer = tokio::time::timeout(PATIENCE, self.frame()).await??;
        Ok(decode_response::<R>(answer, version)?)
    }

    async fn frame(&mut self) -> TestResult<Bytes> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(frame);
            }
            if self.stream.read_buf(self.decoder.read_buffer()).await? == 0 {
                return Err("the broker closed the connection".into());
            }
        }
    }

    pub(super) async fn create_topic(&mut self, plan: &Plan) -> TestResult {
        let config = |(key, value): &(&'static str, String)| {
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_static_str(key))
                .with_value(Some(StrBytes::from_string(value.clone())))
        };
        let topic = CreatableTopic::default()
            .with_name(topic_name())
            .with_num_partitions(plan.partitions)
            .with_replication_factor(plan.nodes as i16)
            .with_configs(plan.topic_configs.iter().map(config).collect());
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
        let answer = self.call(&request, 7).await?;
        accepted("create topic", answer.topics.iter().map(|topic| topic.error_code))
    }

    pub(super) async fn delete_topic(&mut self) -> TestResult {
        let request =
            DeleteTopicsRequest::default().with_topic_names(vec![topic_name()]).with_timeout_ms(10_000);
        let answer = self.call(&request, 4).await?;
        accepted("delete topic", answer.responses.iter().map(|topic| topic.error_code))
    }

    /// Grows the topic to `count` partitions.
    pub(super) async fn add_partitions(&mut self, count: i32) -> TestResult {
        let topic = CreatePartitionsTopic::default().with_name(topic_name()).with_count(count);
        let request = CreatePartitionsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
        let answer = self.call(&request, 3).await?;
        accepted("create partitions", answer.results.iter().map(|topic| topic.error_code))
    }

    /// Deletes a partition's records before `offset`.
    pub(super) async fn delete_records(&mut self, partition: i32, offset: i64) -> TestResult {
        let partition = DeleteRecordsPartition::default().with_partition_index(partition).with_offset(offset);
        let topic = DeleteRecordsTopic::default().with_name(topic_name()).with_partitions(vec![partition]);
        let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(1000);
        let answer = self.call(&request, 2).await?;
        let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
        accepted("delete records", partitions.map(|partition| partition.error_code))
    }

    async fn first_offset(&mut self, partition: i32) -> TestResult<i64> {
        self.offset(partition, EARLIEST).await
    }

    /// The offset after the last record that consumers may see.
    pub(super) async fn end_offset(&mut self, partition: i32) -> TestResult<i64> {
        self.offset(partition, LATEST).await
    }

    async fn offset(&mut self, partition: i32, timestamp: i64) -> TestResult<i64> {
        let asked = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(timestamp);
        let topic = ListOffsetsTopic::default().with_name(topic_name()).with_partitions(vec![asked]);
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
        let answer = self.call(&request, 7).await?;
        let found = answer.topics.iter().flat_map(|topic| &topic.partitions).next().ok_or("no offset")?;
        ErrorCode::from(found.error_code).into_result().map_err(|code| format!("list offsets: {code}"))?;
        Ok(found.offset)
    }

    /// Reads a partition from its first offset, or from `from` if that is later, to its end.
    pub(super) async fn read(&mut self, partition: i32, from: i64, wait: Duration) -> TestResult<Written> {
        let mut written = Written::default();
        let mut next = from;
        loop {
            let asked = FetchPartition::default()
                .with_partition(partition)
                .with_current_leader_epoch(-1)
                .with_fetch_offset(next)
                .with_partition_max_bytes(FETCH_BYTES);
            let topic = FetchTopic::default().with_topic(topic_name()).with_partitions(vec![asked]);
            let wait = if next == from { wait } else { Duration::ZERO };
            let request = FetchRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_max_wait_ms(wait.as_millis() as i32)
                .with_min_bytes(1)
                .with_max_bytes(FETCH_BYTES)
                .with_session_epoch(-1)
                .with_topics(vec![topic]);
            let answer = self.call(&request, 12).await?;
            let data = answer
                .responses
                .into_iter()
                .flat_map(|topic| topic.partitions)
                .next()
                .ok_or("a fetch without an answer for its partition")?;
            written.log_start_offset = data.log_start_offset.max(written.log_start_offset);
            match ErrorCode::from(data.error_code) {
                ErrorCode::None => {}
                ErrorCode::OffsetOutOfRange => {
                    let first = self.first_offset(partition).await?;
                    if first <= next {
                        return Err(
                            format!("partition {partition} begins at {first} and lacks {next}").into()
                        );
                    }
                    next = first;
                    continue;
                }
                code => return Err(format!("fetch of partition {partition} at {next}: {code}").into()),
            }
            let batches = data.records.unwrap_or_default();
            if batches.is_empty() {
                written.next_offset = next;
                return Ok(written);
            }
            for batch in RecordBatch::iter(batches) {
                let batch = batch?;
                batch.verify_crc()?;
                next = batch.next_offset();
                for record in batch.records(FETCH_BYTES as usize)? {
                    let record = record?;
                    let number = record.value.as_deref().and_then(|value| value.first_chunk().copied());
                    match number.map(u64::from_be_bytes) {
                        Some(FILLING) => {}
                        number => written.records.push((record.offset, number)),
                    }
                }
            }
        }
    }
}

fn topic_name() -> TopicName {
    TopicName(StrBytes::from_static_str(TOPIC))
}

fn accepted(what: &str, mut codes: impl Iterator<Item = i16>) -> TestResult {
    let refused = codes.find_map(|code| ErrorCode::from(code).into_result().err());
    refused.map_or(Ok(()), |code| Err(format!("{what}: {code}").into()))
}
