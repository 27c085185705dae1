//! Send records, and learn where each one was written.
//!
//! `send` waits only for room in the producer's memory; the delivery that it returns tells, when awaited, where the
//! record is, or why it is nowhere. Records with equal keys go to one partition and keep their order there; the
//! producer is idempotent by default, so a retry never writes a record twice.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use examples::Cluster;
use kafka_client::producer::Compression;
use kafka_client::{Client, Record, SendError};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::start().await?;
    let orders = cluster.topic("orders", 3).await?;

    let client = Client::connect(cluster.bootstrap_servers()).await?;
    let producer =
        client.producer().linger(Duration::from_millis(5)).compression(Compression::Lz4).build()?;

    // One record, and its place. This costs a round trip, so it is not the way to send many.
    let order = Record::to(&orders).key("customer-7").value("2 apples").header("source", "web");
    let written = producer.send(order).await?.await?;
    println!("written to {} at offset {}", written.topic_partition(), written.offset);

    // Many: send them all, then look at the outcomes. Batches of them travel while this loop goes on.
    let mut deliveries = Vec::new();
    for number in 0..10_000 {
        let customer = format!("customer-{}", number % 100);
        let order = Record::to(&orders).key(&customer).value(format!("order {number}"));
        deliveries.push((customer.clone(), producer.send(order).await?));
    }
    let mut partition_of = BTreeMap::new();
    let mut per_partition = BTreeMap::<i32, u32>::new();
    for (customer, delivery) in deliveries {
        let written = delivery.await?;
        *per_partition.entry(written.partition).or_default() += 1;
        let partition = *partition_of.entry(customer).or_insert(written.partition);
        assert_eq!(partition, written.partition, "a key stays in its partition");
    }
    println!("10,000 records by partition: {per_partition:?}");
    assert_eq!(per_partition.values().sum::<u32>(), 10_000);

    // What cannot be written says why, as data and in words. Here nothing was sent; after a lost connection,
    // `possibly_written` would be true.
    let nowhere = Record::to(&orders).partition(99).value("?");
    let error = match producer.send(nowhere).await {
        Ok(delivery) => delivery.await.err(),
        Err(error) => Some(error),
    };
    let error = error.ok_or("there is no partition 99")?;
    println!("refused: {error} (retriable: {})", error.is_retriable());
    assert!(matches!(error, SendError::UnknownPartition { partition: 99, .. }) && !error.possibly_written());

    // Waits until everything sent so far has an outcome, also the deliveries that nobody awaits.
    producer.close(Duration::from_secs(10)).await?;
    cluster.shutdown().await
}
