//! Create, describe, grow and delete topics, and ask how far a group is.
//!
//! An operation on several items has an outcome for each: `.all()?` where every one must succeed, a `match` where not.

use std::error::Error;
use std::time::Duration;

use examples::Cluster;
use kafka_admin::{Admin, AdminError, ConfigResource, NewPartitions, NewTopic};
use kafka_client::consumer::OffsetReset;
use kafka_client::wire::ErrorCode;
use kafka_client::{Client, Record, TopicPartition};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::start().await?;
    let (events, group) = (cluster.unique("events"), cluster.unique("readers"));
    let client = Client::connect(cluster.bootstrap_servers()).await?;
    let admin = Admin::new(client.clone()).with_timeout(Duration::from_secs(20));

    let description = admin.describe_cluster().await?;
    println!("cluster {}: {} broker(s)", description.cluster_id, description.brokers.len());

    let topic = NewTopic::new(&events, 2, 1).config("retention.ms", "86400000");
    admin.create_topics([topic.clone()]).validate_only(true).await?.all()?; // would it work?
    admin.create_topics([topic.clone()]).await?.all()?;
    match admin.create_topics([topic]).await?.get(&events) {
        Some(Err(AdminError::Refused { code: ErrorCode::TopicAlreadyExists, message, .. })) => {
            println!("once more: {}", message.as_deref().unwrap_or_default());
        }
        other => return Err(format!("expected that the topic exists, got {other:?}").into()),
    }

    admin.create_partitions([NewPartitions::increase_to(&events, 3)]).await?.all()?;
    for (name, topic) in admin.describe_topics([&events]).await?.all()? {
        let leaders: Vec<_> = topic.partitions.iter().map(|partition| partition.leader).collect();
        println!("{name}: {} partitions, led by {leaders:?}", leaders.len());
        assert_eq!(leaders.len(), 3);
    }
    for (_, entries) in admin.describe_configs([ConfigResource::Topic(events.clone())]).await?.all()? {
        let retention = entries.iter().find(|entry| entry.name == "retention.ms").ok_or("no retention.ms")?;
        println!("retention.ms = {:?}, set on {:?}", retention.value, retention.source);
        assert_eq!(retention.value.as_deref(), Some("86400000"));
    }

    // A group's lag: where each partition ends, less where the group is.
    let partition = TopicPartition::new(events.as_str(), 0);
    let producer = client.producer().build()?;
    for number in 0..10 {
        producer.send(Record::to(&events).partition(0).value(number.to_string())).await?.await?;
    }
    let consumer =
        client.consumer().group(&group).topics([&events]).auto_offset_reset(OffsetReset::Earliest).build()?;
    for _ in 0..4 {
        consumer.next().await?.ok_or("only a closed consumer ends")?;
    }
    consumer.close().await?; // commits
    let lag = admin.group_lag(&group).await?;
    let Some(Ok(in_partition)) = lag.get(&partition) else {
        return Err(format!("no offset was committed: {lag:?}").into());
    };
    println!("{group} is {:?} records behind in {partition}", in_partition.lag());
    assert_eq!(in_partition.lag(), Some(6));

    admin.delete_topics([&events]).await?.all()?;
    assert!(!admin.list_topics().await?.iter().any(|topic| topic.name == events));
    cluster.shutdown().await
}
