//! Two members of a group share a topic; when one leaves, the other takes over where it committed.
//!
//! What a member did not commit is read again by the next one (at least once), so this program commits after the work
//! is done. Members of a real application are processes; here they are two consumers of one.

use std::collections::BTreeSet;
use std::error::Error;
use std::time::Duration;

use examples::Cluster;
use kafka_client::consumer::{Consumer, OffsetReset};
use kafka_client::{Client, Record};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::start().await?;
    let (topic, group) = (cluster.topic("jobs", 4).await?, cluster.unique("workers"));
    let client = Client::connect(cluster.bootstrap_servers()).await?;
    let member = || {
        client
            .consumer()
            .group(&group)
            .topics([&topic])
            .auto_offset_reset(OffsetReset::Earliest) // for partitions that nobody committed yet
            .enable_auto_commit(false)
            .build()
    };
    let (first, second) = (member()?, member()?);
    owns(&first, 2).await?;
    owns(&second, 2).await?;
    println!("first reads {:?}, second {:?}", first.assignment(), second.assignment());
    assert!(first.assignment().is_disjoint(&second.assignment()));

    let producer = client.producer().build()?;
    for job in 0..1_000 {
        drop(producer.send(Record::to(&topic).partition(job % 4).value(job.to_string())).await?);
    }
    producer.close(Duration::from_secs(10)).await?;

    let mut done = work(&first, 250).await?;
    let by_second = work(&second, 250).await?;
    assert!(done.is_disjoint(&by_second), "no job was done by both");
    done.extend(by_second);

    second.close().await?; // leaves at once; without it, the group waits for the session time-out
    owns(&first, 4).await?;
    println!("second left; first reads {:?}", first.assignment());
    let rest = work(&first, 500).await?;
    assert!(done.is_disjoint(&rest), "what was committed is not read again");
    done.extend(rest);
    assert_eq!(done, (0..1_000).collect());
    println!("all {} jobs done, each once", done.len());

    first.close().await?;
    cluster.shutdown().await
}

/// Does so many jobs, then commits them.
async fn work(member: &Consumer, jobs: usize) -> Result<BTreeSet<i32>, Box<dyn Error>> {
    let mut done = BTreeSet::new();
    while done.len() < jobs {
        let record = member.next().await?.ok_or("only a closed consumer ends")?;
        done.insert(std::str::from_utf8(&record.value.unwrap_or_default())?.parse()?);
    }
    member.commit().await?;
    Ok(done)
}

/// Waits until the group gave a member so many partitions.
async fn owns(member: &Consumer, partitions: usize) -> Result<(), Box<dyn Error>> {
    let mut rebalances = member.rebalances();
    while member.assignment().len() != partitions {
        tokio::time::timeout(Duration::from_secs(30), rebalances.recv()).await??;
    }
    Ok(())
}
