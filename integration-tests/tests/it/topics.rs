//! The Admin client against the cluster: what is created is described, what is wrong is named.

use integration_tests::{Cluster, TestResult, eventually, unique};
use kafka_admin::{
    Admin, ConfigChange, ConfigResource, NewPartitions, NewTopic, OffsetSpec, RecordsToDelete,
};
use kafka_client::producer::Record;
use kafka_client::wire::ErrorCode;
use kafka_client::{Target, TopicPartition};
use kafka_wire::StrBytes;
use kafka_wire::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_wire::messages::{DescribeLogDirsRequest, TopicName};

#[tokio::test]
async fn a_topic_is_created_described_grown_and_deleted() -> TestResult {
    let cluster = Cluster::start().await?;
    let admin = Admin::new(cluster.client().await?);
    let name = unique("lifecycle");
    admin.create_topics([NewTopic::new(&name, 2, 1).config("cleanup.policy", "compact")]).await?.all()?;
    let listed = async || Ok(admin.list_topics().await?.iter().any(|topic| topic.name == name));
    eventually("it is listed", listed).await?;
    let described = admin.describe_topics([&name]).await?.all()?;
    assert_eq!(described[0].1.partitions.len(), 2);
    assert!(described[0].1.partitions.iter().all(|partition| partition.leader.is_some()));
    admin.create_partitions([NewPartitions::increase_to(&name, 5)]).await?.all()?;
    eventually("it has five partitions", async || {
        Ok(admin.describe_topics([&name]).await?.all()?[0].1.partitions.len() == 5)
    })
    .await?;
    let configs = admin.describe_configs([ConfigResource::Topic(name.clone())]).await?.all()?;
    let policy = configs[0].1.iter().find(|entry| entry.name == "cleanup.policy");
    let policy = policy.ok_or("cleanup.policy is not described")?;
    assert_eq!(policy.value.as_deref(), Some("compact"));
    admin.delete_topics([&name]).await?.all()?;
    eventually("it is gone", async || Ok(!listed().await?)).await?;
    Ok(())
}

#[tokio::test]
async fn every_bad_request_is_refused_with_kafkas_code_and_the_topics_name() -> TestResult {
    let cluster = Cluster::start().await?;
    let admin = Admin::new(cluster.client().await?);
    let name = cluster.topic("taken", 1).await?;
    let fresh = || unique("fresh");
    let too_long = "x".repeat(250);
    for (topic, expected) in [
        (NewTopic::new(&name, 1, 1), ErrorCode::TopicAlreadyExists),
        (NewTopic::new("bad name", 1, 1), ErrorCode::InvalidTopicException),
        (NewTopic::new("..", 1, 1), ErrorCode::InvalidTopicException),
        (NewTopic::new(&too_long, 1, 1), ErrorCode::InvalidTopicException),
        (NewTopic::new(fresh(), 0, 1), ErrorCode::InvalidPartitions),
        (NewTopic::new(fresh(), 1, 0), ErrorCode::InvalidReplicationFactor),
        (NewTopic::new(fresh(), 1, 9), ErrorCode::InvalidReplicationFactor),
        (NewTopic::new(fresh(), 1, 1).config("no.such.config", "1"), ErrorCode::InvalidConfig),
        (NewTopic::new(fresh(), 1, 1).config("retention.ms", "soon"), ErrorCode::InvalidConfig),
    ] {
        let named = topic.name().to_owned();
        let error =
            admin.create_topics([topic]).await?.all().err().ok_or_else(|| format!("{named} was created"))?;
        assert_eq!(error.code(), Some(expected), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn deleting_an_unknown_topic_and_shrinking_one_are_refused() -> TestResult {
    let cluster = Cluster::start().await?;
    let admin = Admin::new(cluster.client().await?);
    let error = admin.delete_topics([unique("ghost")]).await?.all().err().ok_or("deleted")?;
    assert_eq!(error.code(), Some(ErrorCode::UnknownTopicOrPartition));
    let topic = cluster.topic("shrink", 3).await?;
    let error = admin
        .create_partitions([NewPartitions::increase_to(&topic, 2)])
        .await?
        .all()
        .err()
        .ok_or("shrunk")?;
    assert_eq!(error.code(), Some(ErrorCode::InvalidPartitions));
    Ok(())
}

#[tokio::test]
async fn validate_only_creates_nothing() -> TestResult {
    let cluster = Cluster::start().await?;
    let admin = Admin::new(cluster.client().await?);
    let name = unique("dry-run");
    admin.create_topics([NewTopic::new(&name, 1, 1)]).validate_only(true).await?.all()?;
    assert!(!admin.list_topics().await?.iter().any(|topic| topic.name == name));
    Ok(())
}

#[tokio::test]
async fn the_cluster_describes_itself() -> TestResult {
    let cluster = Cluster::start().await?;
    let described = Admin::new(cluster.client().await?).describe_cluster().await?;
    assert_eq!(described.brokers.len(), 1);
    assert!(!described.cluster_id.is_empty());
    assert!(described.controller.is_some());
    Ok(())
}

#[tokio::test]
async fn a_changed_configuration_and_deleted_records_are_seen_at_once() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let admin = Admin::new(client.clone());
    let name = cluster.topic("altered", 1).await?;
    let resource = ConfigResource::Topic(name.clone());
    let producer = client.producer().build()?;
    for value in ["a", "b", "c"] {
        producer.send(Record::to(&*name).value(value)).await?.await?;
    }
    let changes = vec![
        ConfigChange::set("max.message.bytes", "100"),
        ConfigChange::append("cleanup.policy", "compact"),
    ];
    admin.incremental_alter_configs([(resource.clone(), changes)]).await?.all()?;
    eventually("the topic takes only small records", async || {
        let sent = producer.send(Record::to(&*name).key("k").value("x".repeat(1000))).await?.await;
        Ok(sent.is_err())
    })
    .await?;
    let entries = admin.describe_configs([resource.clone()]).await?.all()?.remove(0).1;
    let policy = entries.iter().find(|entry| entry.name == "cleanup.policy").ok_or("not described")?;
    assert_eq!((policy.value.as_deref(), policy.is_read_only), (Some("delete,compact"), false));
    let changes = vec![ConfigChange::delete("max.message.bytes"), ConfigChange::delete("cleanup.policy")];
    admin.incremental_alter_configs([(resource.clone(), changes)]).await?.all()?;

    let partition = TopicPartition::new(name.clone(), 0);
    let deleted =
        admin.delete_records([(partition.clone(), RecordsToDelete::BeforeOffset(2))]).await?.all()?;
    assert_eq!(deleted[0].1, 2);
    let earliest = admin.list_offsets([(partition.clone(), OffsetSpec::Earliest)]).await?.all()?.remove(0).1;
    assert_eq!(earliest.offset, Some(2));
    let refused = admin.delete_records([(partition, RecordsToDelete::BeforeOffset(1_000_000))]).await?.all();
    assert!(refused.is_err(), "{refused:?}");
    let nowhere = ConfigResource::Topic("nowhere".to_owned());
    let changes = vec![ConfigChange::set("retention.ms", "5")];
    assert!(admin.incremental_alter_configs([(nowhere, changes)]).await?.all().is_err());
    Ok(())
}

#[tokio::test]
async fn a_broker_says_how_large_the_replicas_in_its_folder_are() -> TestResult {
    let cluster = Cluster::start().await?;
    let client = cluster.client().await?;
    let (name, other) = (cluster.topic("sized", 2).await?, cluster.topic("not-asked", 1).await?);
    let producer = client.producer().build()?;
    producer.send(Record::to(&*name).partition(1).value("x".repeat(5000))).await?.await?;
    let asked = DescribableLogDirTopic::default()
        .with_topic(TopicName(StrBytes::from_string(name.clone())))
        .with_partitions(vec![0, 1, 7]);
    let request = DescribeLogDirsRequest::default().with_topics(Some(vec![asked]));
    let answer = client.request(request).to(Target::Any).await?;
    assert_eq!((answer.error_code, answer.results.len()), (0, 1));
    let folder = &answer.results[0];
    assert!(folder.error_code == 0 && !folder.log_dir.is_empty(), "{folder:?}");
    let [topic] = &folder.topics[..] else { return Err(format!("{folder:?}").into()) };
    assert_eq!(**topic.name, *name);
    let mut partitions: Vec<_> = topic
        .partitions
        .iter()
        .map(|it| (it.partition_index, it.partition_size > 5000, it.offset_lag))
        .collect();
    partitions.sort_unstable();
    assert_eq!(partitions, [(0, false, 0), (1, true, 0)]);
    let answer = client.request(DescribeLogDirsRequest::default().with_topics(None)).to(Target::Any).await?;
    assert!(answer.results[0].topics.iter().any(|it| **it.name == *other));
    Ok(())
}
