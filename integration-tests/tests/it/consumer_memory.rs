//! What a consumer takes from the operating system while its reader is slow: a process of its own, asked by `VmHWM`.

use std::fs::read_to_string;
use std::time::Duration;

use integration_tests::{Cluster, PATIENCE, TestResult, eventually};
use kafka_client::consumer::OffsetReset;
use kafka_client::producer::{Compression, Record};
use kafka_client::{Client, TopicPartition};
use tokio::time::{sleep, timeout};

use crate::child_process::ChildProcess;

const BOOTSTRAP: &str = "KAFKA_TEST_MEMORY_BOOTSTRAP";
const TOPIC: &str = "KAFKA_TEST_MEMORY_TOPIC";
const TOOK: &str = "took ";
const PARTITIONS: i32 = 4;
const BUDGET: usize = 48 * 1024 * 1024;
/// Everything else that a consumer needs: tables of codecs, what the allocator keeps, tasks.
const BESIDES: usize = 16 * 1024 * 1024;

/// The most that was resident so far, in bytes.
fn peak() -> TestResult<usize> {
    let status = read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<usize>()? * 1024)
}

/// Not a test of its own: the body of a child process, and nothing at all in an ordinary run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_slowly() -> TestResult {
    let Ok(bootstrap) = std::env::var(BOOTSTRAP) else { return Ok(()) };
    let topic = std::env::var(TOPIC)?;
    let client = Client::connect(&bootstrap).await?;
    let all = || (0..PARTITIONS).map(|partition| TopicPartition::new(topic.as_str(), partition));
    let before = peak()?;
    let consumer = client
        .consumer()
        .assign(all())
        .auto_offset_reset(OffsetReset::Earliest)
        .max_buffered_bytes(BUDGET)
        .build()?;
    let total: i64 = consumer.end_offsets(all()).await?.values().sum();
    for number in 0..total {
        if number % (total / 40) == 0 {
            sleep(Duration::from_millis(20)).await;
        }
        timeout(PATIENCE, consumer.next()).await??.ok_or("the consumer ended")?;
        assert!(consumer.buffered_bytes() <= BUDGET, "{}", consumer.buffered_bytes());
    }
    println!("{TOOK}{}", peak()? - before);
    consumer.close().await?;
    Ok(())
}

async fn takes(cluster: &Cluster, compression: Compression, records: i64, value: &[u8]) -> TestResult<usize> {
    let topic = cluster.topic("memory", PARTITIONS).await?;
    let client = cluster.client().await?;
    let producer = client.producer().compression(compression).build()?;
    for number in 0..records {
        let partition = (number % i64::from(PARTITIONS)) as i32;
        drop(producer.send(Record::to(&topic).partition(partition).value(value.to_vec())).await?);
    }
    producer.close(PATIENCE).await?;
    let environment = [(BOOTSTRAP, cluster.bootstrap_servers().to_owned()), (TOPIC, topic)];
    let mut reader = ChildProcess::start("consumer_memory::read_slowly", environment)?;
    let lines = reader.lines()?;
    let told = tokio::task::spawn_blocking(move || {
        let took = |line: String| line.split_once(TOOK).map(|(_, bytes)| bytes.to_owned());
        // To the end, because the child waits for a reader.
        lines.map_while(Result::ok).filter_map(took).last()
    });
    let took = timeout(4 * PATIENCE, told).await??.ok_or("the reader failed")?.parse()?;
    eventually("it ends", async || Ok(reader.ended()?.is_some())).await?;
    Ok(took)
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_s_process_stays_within_its_budget_and_16_mb() -> TestResult {
    let cluster = Cluster::start().await?;
    let noise: Vec<u8> = (0..10_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let zeros = vec![0; 10_000];
    for (compression, records, value) in
        [(Compression::None, 15_000, &noise), (Compression::ZSTD, 40_000, &zeros)]
    {
        let took = takes(&cluster, compression, records, value).await?;
        println!("{compression:?}: {took} bytes");
        assert!(took <= BUDGET + BESIDES, "{took} bytes with {compression:?}");
    }
    cluster.shutdown().await;
    Ok(())
}
