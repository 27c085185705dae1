//! Kafka Streams: count the words of a topic that grows.
//!
//! Words of equal spelling are brought together by a repartition topic; the counts are kept in a store whose changes go
//! to a changelog topic, from which another instance would restore them. More instances with the same application id
//! share the work.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use examples::Cluster;
use kafka_client::consumer::OffsetReset;
use kafka_client::{Client, Record, TopicPartition};
use kafka_streams::{KafkaStreams, Store, StreamsBuilder, StreamsConfig};

const LINES: [&str; 3] = ["The quick brown fox", "jumps over the lazy dog", "The dog sleeps"];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::start().await?;
    let (lines, counts) = (cluster.topic("lines", 2).await?, cluster.topic("counts", 1).await?);

    let builder = StreamsBuilder::new();
    builder
        .stream::<(), String>(lines.as_str())
        .flat_map_values(|_, line| line.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>())
        .group_by("by-word", |_, word| word.clone())
        .count(Store::kv("word-counts"))
        .to_stream()
        .to(counts.as_str());
    let topology = builder.build()?;
    println!("{}", topology.describe());
    let config = StreamsConfig::new(cluster.unique("word-count"), cluster.bootstrap_servers())
        .commit_interval(Duration::from_secs(1))
        .linger(Duration::ZERO);
    let streams = KafkaStreams::new(topology, config).start().await?;

    let client = Client::connect(cluster.bootstrap_servers()).await?;
    let producer = client.producer().build()?;
    for line in LINES {
        producer.send(Record::to(&lines).value(line)).await?.await?;
    }

    // Every change of a count is a record: key = the word, value = the count as Java's Long serde writes it.
    let changes = client
        .consumer()
        .assign([TopicPartition::new(counts, 0)])
        .auto_offset_reset(OffsetReset::Earliest)
        .build()?;
    let mut latest = BTreeMap::<String, i64>::new();
    while latest.values().sum::<i64>() < 12 {
        let change = tokio::select! {
            change = changes.next() => change?.ok_or("only a closed consumer ends")?,
            stopped = streams.stopped() => return Err(format!("no more counts: {stopped:?}").into()),
        };
        let word = String::from_utf8(change.key.unwrap_or_default().to_vec())?;
        let count = i64::from_be_bytes(change.value.as_deref().unwrap_or_default().try_into()?);
        println!("{word}: {count}");
        latest.insert(word, count);
    }
    assert_eq!((latest["the"], latest["dog"], latest.len()), (3, 2, 9));

    // The state can be asked, too, in each task of this instance.
    let mut counted = None;
    for store in streams.stores::<String, i64>("word-counts") {
        counted = counted.or(store.get(&"the".to_owned())?);
    }
    assert_eq!(counted, Some(3));

    streams.close(Duration::from_secs(20)).await?;
    cluster.shutdown().await
}
