//! How much CPU it takes to read a topic: prints one JSON line.
//!
//! `cargo run --release -p kafka-client --example consume_speed -- HOST:PORT TOPIC RECORDS [view|owned|next] [GROUP]`

use std::time::Instant;

use kafka_client::Client;
use kafka_client::consumer::OffsetReset;

type Error = Box<dyn std::error::Error>;

/// User and system CPU seconds of this process so far (`/proc/self/stat`, 100 ticks a second on Linux).
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut ticks = fields.split(' ').skip(11).map_while(|field| field.parse::<f64>().ok());
    Some((ticks.next()? + ticks.next()?) / 100.0)
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, topic, wanted, rest @ ..] = arguments.as_slice() else {
        return Err("usage: consume_speed HOST:PORT TOPIC RECORDS [view|owned|next] [GROUP]".into());
    };
    let wanted: u64 = wanted.parse()?;
    let mode = rest.first().map_or("view", String::as_str);

    let client = Client::connect(server.as_str()).await?;
    let (began, cpu_before) = (Instant::now(), cpu_seconds());
    let builder = client.consumer().auto_offset_reset(OffsetReset::Earliest);
    let consumer = match rest.get(1) {
        Some(group) => builder.group(group).topics([topic]).build()?,
        None => {
            let cluster = client.refresh_topics([topic]).await?;
            let partitions = cluster.partition_count(topic).ok_or("no such topic")?;
            let all = (0..i32::try_from(partitions)?).map(|p| (topic.as_str(), p).into());
            builder.assign(all).build()?
        }
    };

    let (mut records, mut bytes) = (0u64, 0u64);
    while records < wanted {
        if mode == "next" {
            let Some(record) = consumer.next().await? else { break };
            records += 1;
            bytes += record.value.map_or(0, |value| value.len() as u64);
            continue;
        }
        let Some(batch) = consumer.next_batch().await? else { break };
        if mode == "owned" {
            for record in batch {
                records += 1;
                bytes += record?.value.map_or(0, |value| value.len() as u64);
            }
        } else {
            batch.for_each_view(|view| {
                records += 1;
                bytes += view.value.map_or(0, |value| value.len() as u64);
            })?;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let cpu = cpu_seconds().zip(cpu_before).map_or(0.0, |(after, before)| after - before);
    consumer.close().await?;
    #[expect(clippy::print_stdout, reason = "the program's answer")]
    {
        println!(
            "{{\"mode\":\"{mode}\",\"records\":{records},\"bytes\":{bytes},\"seconds\":{seconds:.3},\
             \"records_per_second\":{:.0},\"cpu_seconds\":{cpu:.2},\"cpu_us_per_record\":{:.4}}}",
            records as f64 / seconds,
            cpu * 1e6 / records as f64,
        );
    }
    Ok(())
}
