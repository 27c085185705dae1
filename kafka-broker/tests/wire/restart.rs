//! What a data folder keeps from one broker to the next.

use std::collections::BTreeMap;
use std::path::Path;

use kafka_broker::{Broker, StartError};
use kafka_wire::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_wire::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_wire::messages::describe_configs_request::DescribeConfigsResource;
use kafka_wire::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_wire::messages::metadata_response::MetadataResponseTopic;
use kafka_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest, FetchRequest,
    InitProducerIdRequest, MetadataRequest, ProduceRequest,
};
use kafka_wire::record_batch::{RecordBatch, Seal};

use crate::connection::{Connection, batch, sealed, text, topic};

async fn start(path: &Path) -> (Broker, Connection) {
    let broker = Broker::builder().data_dir(path).start().await.unwrap();
    let connection = Connection::open(&broker).await;
    (broker, connection)
}

async fn topics(connection: &mut Connection) -> BTreeMap<String, MetadataResponseTopic> {
    let request = MetadataRequest::default().with_topics(None).with_allow_auto_topic_creation(false);
    let answer = connection.call(&request, 12).await;
    answer.topics.into_iter().map(|topic| (topic.name.as_ref().unwrap().to_string(), topic)).collect()
}

async fn produce(connection: &mut Connection, name: &str, records: bytes::Bytes) -> i64 {
    let data = PartitionProduceData::default().with_records(Some(records));
    let topic = TopicProduceData::default().with_name(topic(name)).with_partition_data(vec![data]);
    let answer =
        connection.call(&ProduceRequest::default().with_acks(-1).with_topic_data(vec![topic]), 9).await;
    let partition = &answer.responses[0].partition_responses[0];
    assert_eq!(partition.error_code, 0, "{:?}", partition.error_message);
    partition.base_offset
}

async fn values(connection: &mut Connection, name: &str) -> Vec<String> {
    let partition = FetchPartition::default().with_partition_max_bytes(1 << 24);
    let topic = FetchTopic::default().with_topic(topic(name)).with_partitions(vec![partition]);
    let request = FetchRequest::default().with_max_bytes(i32::MAX).with_topics(vec![topic]);
    let answer = connection.call(&request, 12).await;
    let records = answer.responses[0].partitions[0].records.clone().unwrap();
    RecordBatch::iter(records)
        .flat_map(|batch| batch.unwrap().records(1 << 20).unwrap())
        .map(|record| String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_ids_configurations_and_records_survive_an_orderly_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, mut connection) = start(dir.path()).await;
    let config =
        CreatableTopicConfig::default().with_name(text("retention.ms")).with_value(Some(text("123456789")));
    let new = CreatableTopic::default()
        .with_name(topic("configured"))
        .with_num_partitions(3)
        .with_replication_factor(1)
        .with_configs(vec![config]);
    connection.call(&CreateTopicsRequest::default().with_topics(vec![new]), 7).await;
    connection.create_topic("doomed", 2).await;
    connection.create_topic("grown", 1).await;
    let grow =
        CreatePartitionsTopic::default().with_name(topic("grown")).with_count(4).with_assignments(None);
    connection.call(&CreatePartitionsRequest::default().with_topics(vec![grow]), 3).await;
    connection.call(&DeleteTopicsRequest::default().with_topic_names(vec![topic("doomed")]), 5).await;
    assert_eq!(produce(&mut connection, "grown", batch(&["a", "b"])).await, 0);
    let before = topics(&mut connection).await;
    broker.shutdown().await;

    let (broker, mut connection) = start(dir.path()).await;
    let after = topics(&mut connection).await;
    assert_eq!(after, before);
    assert_eq!(after.keys().collect::<Vec<_>>(), ["configured", "grown"]);
    assert_eq!(after["grown"].partitions.len(), 4);
    assert_eq!(values(&mut connection, "grown").await, ["a", "b"]);
    assert_eq!(produce(&mut connection, "grown", batch(&["c"])).await, 2);
    let resource = DescribeConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text("configured"))
        .with_configuration_keys(Some(vec![text("retention.ms")]));
    let answer = connection.call(&DescribeConfigsRequest::default().with_resources(vec![resource]), 4).await;
    assert_eq!(answer.results[0].configs[0].value.as_ref().unwrap().as_str(), "123456789");
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_broker_that_is_just_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for round in 0..3 {
        let (broker, mut connection) = loop {
            // Dropping does not wait, so the folder may be held for a moment longer.
            match Broker::builder().data_dir(dir.path()).start().await {
                Ok(broker) => {
                    let connection = Connection::open(&broker).await;
                    break (broker, connection);
                }
                Err(StartError::FolderInUse { .. }) => tokio::task::yield_now().await,
                Err(other) => panic!("{other}"),
            }
        };
        if round == 0 {
            connection.create_topic("t", 1).await;
        }
        assert_eq!(values(&mut connection, "t").await, expected);
        for number in 0..10 {
            let value = format!("{round}-{number}");
            produce(&mut connection, "t", batch(&[&value])).await;
            expected.push(value);
        }
        drop(broker);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotent_batch_is_known_again_after_a_restart_and_ids_are_not_given_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, mut connection) = start(dir.path()).await;
    connection.create_topic("t", 1).await;
    let init = InitProducerIdRequest::default().with_transactional_id(None);
    let id = connection.call(&init, 4).await.producer_id.0;
    produce(&mut connection, "t", sealed(&["a", "b"], &Seal::idempotent(id, 0, 0))).await;
    broker.shutdown().await;
    let (broker, mut connection) = start(dir.path()).await;
    assert_eq!(produce(&mut connection, "t", sealed(&["a", "b"], &Seal::idempotent(id, 0, 0))).await, 0);
    assert_eq!(produce(&mut connection, "t", sealed(&["c"], &Seal::idempotent(id, 0, 2))).await, 2);
    assert!(connection.call(&init, 4).await.producer_id.0 > id);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_takes_a_deleted_ones_name_starts_empty() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, mut connection) = start(dir.path()).await;
    connection.create_topic("t", 1).await;
    produce(&mut connection, "t", batch(&["old"])).await;
    connection.call(&DeleteTopicsRequest::default().with_topic_names(vec![topic("t")]), 5).await;
    connection.create_topic("t", 1).await;
    assert_eq!(values(&mut connection, "t").await, Vec::<String>::new());
    produce(&mut connection, "t", batch(&["new"])).await;
    broker.shutdown().await;
    let (_broker, mut connection) = start(dir.path()).await;
    assert_eq!(values(&mut connection, "t").await, ["new"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_in_use_or_of_another_node_is_refused_in_so_many_words() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, _connection) = start(dir.path()).await;
    let second = Broker::builder().data_dir(dir.path()).start().await.unwrap_err();
    assert!(second.to_string().ends_with("is in use by another broker"), "{second}");
    broker.shutdown().await;
    let other = Broker::builder().data_dir(dir.path()).node_id(2).start().await.unwrap_err();
    assert!(other.to_string().ends_with("belongs to node 1, not to node 2"), "{other}");
    Broker::builder().data_dir(dir.path()).start().await.unwrap();
}
