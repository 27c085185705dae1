//! Configurations that change while a broker runs, and records that are deleted: both hold at once and after a restart.

use kafka_broker::{Broker, StartError};
use kafka_wire::messages::alter_configs_request as legacy;
use kafka_wire::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_wire::messages::describe_configs_request::DescribeConfigsResource;
use kafka_wire::messages::describe_configs_response::DescribeConfigsResourceResult;
use kafka_wire::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::messages::{
    AlterConfigsRequest, DeleteRecordsRequest, DescribeConfigsRequest, IncrementalAlterConfigsRequest,
    ListOffsetsRequest, ProduceRequest,
};

use crate::connection::{Connection, batch, text, topic};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;

async fn alter(
    connection: &mut Connection,
    kind: i8,
    name: &str,
    (key, operation, value): (&str, i8, Option<&str>),
) -> i16 {
    let config = AlterableConfig::default()
        .with_name(text(key))
        .with_config_operation(operation)
        .with_value(value.map(text));
    let resource = AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    connection.call(&request, 1).await.responses[0].error_code
}

async fn described(
    connection: &mut Connection,
    kind: i8,
    name: &str,
    key: &str,
) -> Option<DescribeConfigsResourceResult> {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configuration_keys(Some(vec![text(key)]));
    let request =
        DescribeConfigsRequest::default().with_resources(vec![resource]).with_include_synonyms(true);
    connection.call(&request, 4).await.results[0].configs.first().cloned()
}

/// The value of a topic's key, and the sources of its synonyms.
async fn of_topic(connection: &mut Connection, key: &str) -> (String, Vec<i8>) {
    let config = described(connection, TOPIC, "t", key).await.unwrap();
    (config.value.unwrap().to_string(), config.synonyms.iter().map(|synonym| synonym.source).collect())
}

async fn produce(connection: &mut Connection, values: &[&str]) -> i16 {
    let data = PartitionProduceData::default().with_records(Some(batch(values)));
    let topic = TopicProduceData::default().with_name(topic("t")).with_partition_data(vec![data]);
    let request = ProduceRequest::default().with_acks(-1).with_topic_data(vec![topic]);
    connection.call(&request, 9).await.responses[0].partition_responses[0].error_code
}

async fn delete(connection: &mut Connection, name: &str, offset: i64) -> (i16, i64) {
    let partition = DeleteRecordsPartition::default().with_offset(offset);
    let topic = DeleteRecordsTopic::default().with_name(topic(name)).with_partitions(vec![partition]);
    let answer = connection.call(&DeleteRecordsRequest::default().with_topics(vec![topic]), 2).await;
    let partition = &answer.topics[0].partitions[0];
    (partition.error_code, partition.low_watermark)
}

/// A dropped broker's tasks hold the folder until the runtime comes to end them.
async fn after_a_crash(path: &std::path::Path) -> Broker {
    loop {
        match Broker::builder().data_dir(path).start().await {
            Err(StartError::FolderInUse { .. }) => tokio::task::yield_now().await,
            started => return started.unwrap(),
        }
    }
}

async fn earliest(connection: &mut Connection) -> i64 {
    offset_of(connection, -2).await
}

async fn latest(connection: &mut Connection) -> i64 {
    offset_of(connection, -1).await
}

async fn offset_of(connection: &mut Connection, time: i64) -> i64 {
    let partition = ListOffsetsPartition::default().with_timestamp(time);
    let topic = ListOffsetsTopic::default().with_name(topic("t")).with_partitions(vec![partition]);
    connection.call(&ListOffsetsRequest::default().with_topics(vec![topic]), 7).await.topics[0].partitions[0]
        .offset
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_topic_behaves_so_at_once_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::builder().data_dir(dir.path()).start().await.unwrap();
    let mut connection = Connection::open(&broker).await;
    connection.create_topic("t", 1).await;
    let large = "x".repeat(2000);
    assert_eq!(produce(&mut connection, &[&large]).await, 0);
    assert_eq!(alter(&mut connection, TOPIC, "t", ("max.message.bytes", SET, Some("1000"))).await, 0);
    assert_eq!(produce(&mut connection, &[&large]).await, 10);
    assert_eq!(alter(&mut connection, TOPIC, "t", ("cleanup.policy", APPEND, Some("compact"))).await, 0);
    assert_eq!(of_topic(&mut connection, "cleanup.policy").await, ("delete,compact".to_owned(), vec![1, 5]));
    // A compacted topic takes no record without a key.
    assert_eq!(produce(&mut connection, &["no key"]).await, 87);
    drop(connection);
    broker.shutdown().await;

    let broker = Broker::builder().data_dir(dir.path()).start().await.unwrap();
    let mut connection = Connection::open(&broker).await;
    assert_eq!(of_topic(&mut connection, "max.message.bytes").await, ("1000".to_owned(), vec![1, 5]));
    assert_eq!(alter(&mut connection, TOPIC, "t", ("cleanup.policy", DELETE, None)).await, 0);
    assert_eq!(produce(&mut connection, &[&large]).await, 10);
    assert_eq!(produce(&mut connection, &["no key"]).await, 0);
    // The old request makes what it lists all there is.
    let config =
        legacy::AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text("5")));
    let resource = legacy::AlterConfigsResource::default()
        .with_resource_type(TOPIC)
        .with_resource_name(text("t"))
        .with_configs(vec![config]);
    let request = AlterConfigsRequest::default().with_resources(vec![resource]);
    assert_eq!(connection.call(&request, 2).await.responses[0].error_code, 0);
    assert_eq!(of_topic(&mut connection, "max.message.bytes").await.1, [5]);
    assert_eq!(produce(&mut connection, &[&large]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_broker_changes_what_its_topics_inherit() {
    let broker = Broker::builder().config("message.max.bytes", "50000").start().await.unwrap();
    let mut connection = Connection::open(&broker).await;
    connection.create_topic("t", 1).await;
    let large = "x".repeat(2000);
    assert_eq!(of_topic(&mut connection, "max.message.bytes").await, ("50000".to_owned(), vec![4, 5]));
    assert_eq!(alter(&mut connection, BROKER, "", ("message.max.bytes", SET, Some("1000"))).await, 0);
    assert_eq!(produce(&mut connection, &[&large]).await, 10);
    assert_eq!(alter(&mut connection, BROKER, "1", ("message.max.bytes", SET, Some("9000"))).await, 0);
    assert_eq!(produce(&mut connection, &[&large]).await, 0);
    let (value, sources) = of_topic(&mut connection, "max.message.bytes").await;
    assert_eq!((value.as_str(), sources), ("9000", vec![2, 3, 4, 5]));
    let config = described(&mut connection, BROKER, "1", "message.max.bytes").await.unwrap();
    assert_eq!((config.config_source, config.read_only), (2, false));
    assert!(described(&mut connection, BROKER, "", "num.partitions").await.is_none());
    assert_eq!(alter(&mut connection, BROKER, "1", ("message.max.bytes", DELETE, None)).await, 0);
    assert_eq!(of_topic(&mut connection, "max.message.bytes").await.0, "1000");
    for (kind, name, change, code) in [
        (BROKER, "1", ("num.partitions", SET, Some("5")), 42),
        (BROKER, "77", ("message.max.bytes", SET, Some("5")), 42),
        (TOPIC, "nowhere", ("retention.ms", SET, Some("5")), 3),
        (TOPIC, "t", ("retention.ms", SET, Some("soon")), 40),
        (16, "metrics", ("interval.ms", SET, Some("5")), 42),
    ] {
        assert_eq!(alter(&mut connection, kind, name, change).await, code, "{name} {change:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_records_stay_deleted_after_an_orderly_end_and_after_none() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::builder().data_dir(dir.path()).start().await.unwrap();
    let mut connection = Connection::open(&broker).await;
    connection.create_topic("t", 1).await;
    assert_eq!(produce(&mut connection, &["a", "b", "c", "d"]).await, 0);
    assert_eq!(delete(&mut connection, "t", 2).await, (0, 2));
    assert_eq!(delete(&mut connection, "t", 5).await, (1, -1));
    assert_eq!(delete(&mut connection, "nowhere", 0).await, (3, -1));
    assert_eq!(earliest(&mut connection).await, 2);
    drop(connection);
    broker.shutdown().await;

    let broker = Broker::builder().data_dir(dir.path()).start().await.unwrap();
    let mut connection = Connection::open(&broker).await;
    assert_eq!(earliest(&mut connection).await, 2);
    assert_eq!(delete(&mut connection, "t", -1).await, (0, 4));
    drop((connection, broker));

    let broker = after_a_crash(dir.path()).await;
    let mut connection = Connection::open(&broker).await;
    assert_eq!(earliest(&mut connection).await, 4);
    assert_eq!(alter(&mut connection, TOPIC, "t", ("cleanup.policy", SET, Some("compact"))).await, 0);
    assert_eq!(delete(&mut connection, "t", -1).await, (44, -1));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_sync_for_every_batch_all_that_is_acknowledged_is_readable_and_outlives_the_broker() {
    let dir = tempfile::tempdir().unwrap();
    let builder = Broker::builder().data_dir(dir.path()).config("log.flush.interval.messages", "1");
    let broker = builder.start().await.unwrap();
    Connection::open(&broker).await.create_topic("t", 1).await;
    let mut producers = Vec::new();
    for _ in 0..8 {
        let mut connection = Connection::open(&broker).await;
        producers.push(tokio::spawn(async move {
            for _ in 0..10 {
                assert_eq!(produce(&mut connection, &["x"]).await, 0);
            }
        }));
    }
    for producer in producers {
        producer.await.unwrap();
    }
    let mut connection = Connection::open(&broker).await;
    assert_eq!(latest(&mut connection).await, 80);
    drop((connection, broker));
    let broker = after_a_crash(dir.path()).await;
    assert_eq!(latest(&mut Connection::open(&broker).await).await, 80);
}
