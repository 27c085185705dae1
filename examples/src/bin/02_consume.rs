//! Read partitions from a place of your choice, without a group: from the beginning, by time, batch by batch.

use std::error::Error;
use std::time::Duration;

use examples::Cluster;
use kafka_client::consumer::OffsetReset;
use kafka_client::{Client, Record, TopicPartition};

const FIRST_TIMESTAMP: i64 = 1_700_000_000_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::start().await?;
    let topic = cluster.topic("temperatures", 1).await?;
    let client = Client::connect(cluster.bootstrap_servers()).await?;

    let producer = client.producer().build()?;
    for second in 0..1_000 {
        let reading = Record::to(&topic).timestamp(FIRST_TIMESTAMP + second * 1_000);
        drop(producer.send(reading.key("kitchen").value(format!("{}", 20 + second % 5))).await?);
    }
    producer.close(Duration::from_secs(10)).await?;

    let partition = TopicPartition::new(topic, 0);
    let consumer = client
        .consumer()
        .assign([partition.clone()])
        .auto_offset_reset(OffsetReset::Earliest) // where to begin; without it, at the end
        .build()?;

    // Record by record. Keys and values are slices of what came over the wire: cloning them copies no bytes.
    for offset in 0..3 {
        let record = consumer.next().await?.ok_or("only a closed consumer ends")?;
        let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
        println!("{} offset {}: {value} degrees", record.topic_partition(), record.offset);
        assert_eq!((record.offset, value), (offset, format!("{}", 20 + offset)));
    }

    // By time: the first record that is at least so late.
    let noon = FIRST_TIMESTAMP + 900_000;
    let found = consumer.offsets_for_times([(partition.clone(), noon)]).await?;
    let there = found.get(&partition).copied().flatten().ok_or("there is a record that late")?;
    consumer.seek(&partition, there.offset)?;
    println!("reading on from offset {}", there.offset);

    // Batch by batch, to the end as it is now: the fastest way, it copies and allocates nothing for each record.
    let end = consumer.end_offsets([&partition]).await?.get(&partition).copied().ok_or("no end")?;
    let (mut records, mut degrees) = (0, 0);
    while consumer.position(&partition).await? < end {
        let batch = consumer.next_batch().await?.ok_or("only a closed consumer ends")?;
        batch.for_each_view(|record| {
            let value = std::str::from_utf8(record.value.unwrap_or_default()).unwrap_or_default();
            records += 1;
            degrees += value.parse::<i64>().unwrap_or_default();
        })?;
    }
    println!("{records} records since then, {} degrees on average", degrees / records);
    assert_eq!((records, degrees / records), (100, 22));

    consumer.close().await?;
    cluster.shutdown().await
}
