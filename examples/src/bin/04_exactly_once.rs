//! Reads words and writes them in capitals, exactly once: what is read, what is written and how far it came are one
//! transaction. Whoever reads committed records never sees a word twice, though the program may die at any time.

use std::error::Error;

use examples::Cluster;
use kafka_client::consumer::OffsetReset;
use kafka_client::exactly_once::ExactlyOnce;
use kafka_client::{Client, Record};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::start().await?;
    let (words, capitals) = (cluster.topic("words", 2).await?, cluster.topic("capitals", 2).await?);
    let client = Client::connect(cluster.bootstrap_servers()).await?;
    let text: Vec<&str> = "the quick brown fox jumps over the lazy dog".split(' ').collect();
    let producer = client.producer().build()?;
    producer.send_all(text.iter().map(|word| Record::to(&words).value(*word))).await?.all().await?;

    let group = cluster.unique("shouting");
    let mut session = ExactlyOnce::new(
        client.consumer().group(&group).topics([&words]).auto_offset_reset(OffsetReset::Earliest),
        // One for each instance, and the same after a restart.
        client.producer().transactional_id(format!("{group}-1")),
    )?;
    let mut count = 0;
    while count < text.len() {
        let Some((records, step)) = session.next().await? else { break };
        for record in records {
            let record = record?;
            let word = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).to_uppercase();
            println!("{word}");
            step.send(Record::to(&capitals).value(word)).await?;
            count += 1;
        }
        // Without it, as after an error above, the transaction is aborted and the records come again.
        step.done();
    }
    session.close().await?;
    cluster.shutdown().await
}
