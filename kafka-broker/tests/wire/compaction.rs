//! Compaction as a client sees it: of each key only the latest record stays, at the offset that it always had.

use kafka_broker::Broker;
use kafka_wire::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_wire::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::messages::{CreateTopicsRequest, FetchRequest, ProduceRequest};
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

async fn contents(connection: &mut Connection) -> Vec<(i64, String, Option<String>)> {
    let partition = FetchPartition::default().with_partition_max_bytes(1 << 24);
    let topic = FetchTopic::default().with_topic(topic("t")).with_partitions(vec![partition]);
    let request = FetchRequest::default().with_max_bytes(i32::MAX).with_topics(vec![topic]);
    let answer = connection.call(&request, 12).await;
    let records = answer.responses[0].partitions[0].records.clone().unwrap();
    let text = |bytes: bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    RecordBatch::iter(records)
        .flat_map(|batch| batch.unwrap().records(1 << 20).unwrap())
        .map(Result::unwrap)
        .map(|record| (record.offset, text(record.key.unwrap()), record.value.map(text)))
        .collect()
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
