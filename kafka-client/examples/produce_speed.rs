//! How many records a second a producer sends, and what one costs in CPU: `produce_speed HOST:PORT [RECORDS]`.
//!
//! 100-byte records without keys to the 4 partitions of topic `speed`, acks=all, idempotent, linger 5 ms, no
//! compression. The CPU time is the whole process's, user and system, from `/proc/self/stat`.

use std::time::Instant;

use kafka_client::wire::StrBytes;
use kafka_client::wire::messages::create_topics_request::CreatableTopic;
use kafka_client::wire::messages::{CreateTopicsRequest, TopicName};
use kafka_client::{Client, Target};

const PARTITIONS: i32 = 4;
const RECORD_BYTES: usize = 100;
/// `USER_HZ`, which Linux fixes for `/proc`.
const TICKS_PER_SECOND: f64 = 100.0;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "printing the figures is what it is for")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let bootstrap = args.next().unwrap_or_else(|| "127.0.0.1:9092".to_owned());
    let records: usize = args.next().map_or(Ok(5_000_000), |n| n.parse())?;

    let client = Client::connect(bootstrap).await?;
    let topic = CreatableTopic::default()
        .with_name(TopicName(StrBytes::from_static_str("speed")))
        .with_num_partitions(PARTITIONS)
        .with_replication_factor(1);
    let create = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
    client.request(create).to(Target::Controller).await?;

    let producer = client.producer().build()?;
    let speed = producer.topic("speed");
    let value = vec![b'x'; RECORD_BYTES];
    // Metadata, producer id and connections are not what is measured.
    producer.send(speed.record().value(&value)).await?.await?;

    let (started, cpu_before) = (Instant::now(), cpu_seconds()?);
    let mut last = None;
    for _ in 0..records {
        last = Some(producer.send(speed.record().value(&value)).await?);
    }
    let sent = started.elapsed();
    producer.flush().await;
    let (elapsed, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds()? - cpu_before);
    if let Some(last) = last {
        last.await?;
    }
    println!(
        "{records} records in {elapsed:.2} s ({:.2} s to hand over): {:.0} records/s, {:.3} us CPU per record",
        sent.as_secs_f64(),
        records as f64 / elapsed,
        cpu * 1e6 / records as f64,
    );
    Ok(())
}

/// User and system time of this process so far.
fn cpu_seconds() -> Result<f64, Box<dyn std::error::Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field is the program's name in parentheses; utime and stime are the 14th and 15th.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).ok_or("no such field");
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}
