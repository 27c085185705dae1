//! Compaction as a client sees it: of each key only the latest record stays, at the offset that it always had.

use bytes::Bytes;
use kafka_broker::{Broker, MemoryDisk};
use kafka_wire::messages::GroupId;
use kafka_wire::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_wire::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_wire::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_wire::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::messages::{
    CreateTopicsRequest, FetchRequest, FindCoordinatorRequest, OffsetCommitRequest, OffsetFetchRequest,
    ProduceRequest,
};
use kafka_wire::record_batch::{BatchBuilder, RecordBatch, Seal};

use crate::connection::{Connection, text, topic};

/// Virtual time that is enough for a look at the logs.
const A_WHILE: std::time::Duration = std::time::Duration::from_secs(60);

async fn produce(connection: &mut Connection, key: &str, value: Option<&str>, timestamp: i64) {
    let mut builder = BatchBuilder::new(128);
    builder.append(timestamp, Some(key.as_bytes()), value.map(str::as_bytes), &[]);
    let records = builder.finish(&Seal::default()).unwrap();
    let data = PartitionProduceData::default().with_records(Some(records));
    let topic = TopicProduceData::default().with_name(topic("t")).with_partition_data(vec![data]);
    let request = ProduceRequest::default().with_acks(-1).with_topic_data(vec![topic]);
    let answer = connection.call(&request, 9).await.responses[0].partition_responses[0].clone();
    assert_eq!(answer.error_code, 0, "{:?}", answer.error_message);
}

async fn records(connection: &mut Connection, name: &str) -> Vec<(i64, Bytes, Option<Bytes>)> {
    let partition = FetchPartition::default().with_partition_max_bytes(1 << 24);
    let topic = FetchTopic::default().with_topic(topic(name)).with_partitions(vec![partition]);
    let request = FetchRequest::default().with_max_bytes(i32::MAX).with_topics(vec![topic]);
    let answer = connection.call(&request, 12).await;
    let records = answer.responses[0].partitions[0].records.clone().unwrap();
    RecordBatch::iter(records)
        .flat_map(|batch| batch.unwrap().records(1 << 20).unwrap())
        .map(Result::unwrap)
        .map(|record| (record.offset, record.key.unwrap(), record.value))
        .collect()
}

async fn contents(connection: &mut Connection) -> Vec<(i64, String, Option<String>)> {
    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let records = records(connection, "t").await.into_iter();
    records.map(|(offset, key, value)| (offset, text(key), value.map(text))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_compacted_topic_keeps_the_latest_record_of_each_key_and_forgets_tombstones_in_time() {
    let broker = Broker::builder().start().await.unwrap();
    let mut connection = Connection::open(&broker).await;
    let configs = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0"),
        ("segment.ms", "10"),
        ("delete.retention.ms", "0"),
    ];
    let configs = configs.map(|(name, value)| {
        CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
    });
    let new = CreatableTopic::default()
        .with_name(topic("t"))
        .with_num_partitions(1)
        .with_replication_factor(1)
        .with_configs(configs.to_vec());
    let answer = connection.call(&CreateTopicsRequest::default().with_topics(vec![new]), 7).await;
    assert_eq!(answer.topics[0].error_code, 0);

    for (i, value) in ["1", "2", "3"].iter().enumerate() {
        produce(&mut connection, "a", Some(value), 1000 + i as i64).await;
        produce(&mut connection, "b", Some(value), 1000 + i as i64).await;
    }
    produce(&mut connection, "b", None, 1003).await;
    // Closes the segment; what it is in itself stays uncompacted.
    produce(&mut connection, "c", Some("1"), 2000).await;
    tokio::time::sleep(A_WHILE).await;
    let one = |text: &str| Some(text.to_owned());
    let seen = contents(&mut connection).await;
    assert_eq!(seen, [(4, "a".into(), one("3")), (6, "b".into(), None), (7, "c".into(), one("1"))]);
    produce(&mut connection, "c", Some("2"), 3000).await;
    tokio::time::sleep(A_WHILE).await;
    let seen = contents(&mut connection).await;
    assert_eq!(seen, [(4, "a".into(), one("3")), (7, "c".into(), one("1")), (8, "c".into(), one("2"))]);
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_finds_the_same_offsets_in_a_compacted_topic_after_a_restart() {
    const COMMITS: i64 = 600;
    let disk = MemoryDisk::default();
    let start = || async {
        let builder = Broker::builder().memory_disk(&disk).config("offsets.topic.num.partitions", "1");
        builder.config("offsets.topic.segment.bytes", "1048576").start().await.unwrap()
    };
    let group = |index: i64| GroupId(text(&format!("g{index}")));
    let broker = start().await;
    let mut connection = Connection::open(&broker).await;
    connection.create_topic("t", 1).await;
    let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g0")]);
    assert_eq!(connection.call(&find, 4).await.coordinators[0].error_code, 0);
    for offset in 0..COMMITS {
        let partition = OffsetCommitRequestPartition::default()
            .with_committed_offset(offset)
            .with_committed_metadata(Some(text(&"m".repeat(4000))));
        let topic =
            OffsetCommitRequestTopic::default().with_name(topic("t")).with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(group(offset % 3))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic]);
        let answer = connection.call(&request, 8).await;
        assert_eq!(answer.topics[0].partitions[0].error_code, 0);
    }
    tokio::time::sleep(A_WHILE).await;
    let left = records(&mut connection, "__consumer_offsets").await;
    assert!(left.len() < 300, "{} of {COMMITS} records are left", left.len());
    let groups: Vec<_> = (0..3)
        .map(|index| OffsetFetchRequestGroup::default().with_group_id(group(index)).with_topics(None))
        .collect();
    let fetch = OffsetFetchRequest::default().with_groups(groups);
    let before = connection.call(&fetch, 8).await.groups;
    let offsets: Vec<_> = before.iter().map(|it| it.topics[0].partitions[0].committed_offset).collect();
    assert_eq!(offsets, [COMMITS - 3, COMMITS - 2, COMMITS - 1]);
    broker.shutdown().await;

    let broker = start().await;
    let mut connection = Connection::open(&broker).await;
    assert_eq!(records(&mut connection, "__consumer_offsets").await, left);
    assert_eq!(connection.call(&fetch, 8).await.groups, before);
}
