//! Two members share a group: the second joins while the first reads, then leaves again. Prints what each of them
//! sees, and checks that together they read every record at least once.
//!
//! `cargo run -p kafka-client --example group_members -- HOST:PORT TOPIC GROUP [range|cooperative]`

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kafka_client::consumer::{Consumer, ConsumerBuilder, OffsetReset};
use kafka_client::group::{CooperativeStickyAssignor, RangeAssignor};
use kafka_client::{Client, TopicPartition};
use tokio::task::JoinHandle;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Seen = BTreeSet<(TopicPartition, i64)>;

/// Reads until the consumer is closed, a little slower than it could.
fn read(consumer: Consumer) -> JoinHandle<Result<Seen, Error>> {
    tokio::spawn(async move {
        let mut seen = Seen::new();
        while let Some(batch) = consumer.next_batch().await? {
            let partition = batch.topic_partition().clone();
            batch.for_each_view(|view| {
                seen.insert((partition.clone(), view.offset));
            })?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(seen)
    })
}

#[expect(clippy::print_stdout, reason = "the program's output")]
fn say(began: Instant, text: &str) {
    println!("{:7.3} s  {text}", began.elapsed().as_secs_f64());
}

fn report(began: Instant, name: &'static str, consumer: &Consumer) {
    let mut events = consumer.rebalances();
    tokio::spawn(async move {
        while let Ok(event) = events.recv().await {
            say(began, &format!("{name}: {event:?}"));
        }
    });
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, topic, group, rest @ ..] = arguments.as_slice() else {
        return Err("usage: group_members HOST:PORT TOPIC GROUP [range|cooperative]".into());
    };
    let client = Client::connect(server.as_str()).await?;
    let builder = || -> ConsumerBuilder {
        let builder = client.consumer().group(group).topics([topic]).auto_offset_reset(OffsetReset::Earliest);
        let builder = builder.max_partition_fetch_bytes(64 * 1024);
        match rest.first().map(String::as_str) {
            Some("cooperative") => builder.assignor(CooperativeStickyAssignor),
            _ => builder.assignor(RangeAssignor),
        }
    };
    let began = Instant::now();
    let first = builder().build()?;
    report(began, "first", &first);
    let end: i64 = {
        let count = i32::try_from(client.refresh_topics([topic]).await?.partition_count(topic).unwrap_or(0))?;
        let partitions = (0..count).map(|p| TopicPartition::new(topic.as_str(), p));
        first.end_offsets(partitions).await?.values().sum()
    };
    let reading_first = read(first.clone());
    tokio::time::sleep(Duration::from_secs(1)).await;

    say(began, "a second member joins");
    let second = builder().build()?;
    report(began, "second", &second);
    let reading_second = read(second.clone());
    tokio::time::sleep(Duration::from_secs(6)).await;
    say(began, &format!("first has {:?}, second has {:?}", first.assignment(), second.assignment()));

    say(began, "the second leaves");
    second.close().await?;
    let mut seen = reading_second.await??;
    say(began, &format!("the second read {} records", seen.len()));
    let count_second = seen.len();

    // Wait until the first is at the end of everything.
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let assigned = first.assignment();
        let position: i64 = first.positions().values().sum();
        if position >= end && !assigned.is_empty() {
            break;
        }
    }
    first.close().await?;
    let seen_first = reading_first.await??;
    let both = seen_first.len() + count_second;
    seen.extend(seen_first);
    let distinct = seen.len();
    say(
        began,
        &format!("{end} records in the topic, {distinct} distinct read, {} read twice", both - distinct),
    );
    if i64::try_from(distinct)? < end { Err("some records were not read".into()) } else { Ok(()) }
}
