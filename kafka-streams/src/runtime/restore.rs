use std::collections::BTreeMap;

use kafka_client::consumer::{Consumer, OffsetReset, OffsetsError};
use kafka_client::{Client, TopicPartition};

use super::blocking::Runtime;
use super::task::Task;
use crate::error::StreamsError;
use crate::processor::RawRecord;

fn failed(operation: &str, error: &dyn std::fmt::Display) -> Box<StreamsError> {
    Box::new(StreamsError::Cluster { operation: operation.to_owned(), reason: error.to_string() })
}

/// Fills the stores of new tasks from their changelogs, to the end as it is now; from topics that are input too, to where
/// the group has processed them.
pub(super) fn restore(
    runtime: &Runtime,
    client: &Client,
    member: &Consumer,
    tasks: &mut [Task],
) -> Result<(), Box<StreamsError>> {
    let mut stores = BTreeMap::<TopicPartition, (usize, Option<i64>)>::new();
    for (index, task) in tasks.iter().enumerate() {
        for (changelog, from) in task.changelogs() {
            stores.insert(TopicPartition::new(changelog, task.id.partition), (index, from));
        }
    }
    if stores.is_empty() {
        return Ok(());
    }
    let consumer = client
        .consumer()
        .assign(stores.keys().cloned())
        .auto_offset_reset(OffsetReset::Earliest)
        .build()
        .map_err(|error| failed("restoring", &error))?;
    let (edges, partitions) = (consumer.clone(), Vec::from_iter(stores.keys().cloned()));
    let edges = runtime.run(async move {
        Ok((edges.begin_offsets(&partitions).await?, edges.end_offsets(&partitions).await?))
    });
    let (begins, mut ends) = edges?.map_err(|error: OffsetsError| failed("restoring", &error))?;
    let is_input = |at: &TopicPartition| tasks.iter().any(|task| task.reads(&at.topic));
    let inputs: Vec<_> = stores.keys().filter(|at| is_input(at)).cloned().collect();
    if !inputs.is_empty() {
        let (member, asked) = (member.clone(), inputs.clone());
        let committed = runtime.run(async move { member.committed(asked).await })?;
        let committed = committed.map_err(|error| failed("restoring", &error))?;
        for input in &inputs {
            let processed = committed.get(input).map_or(0, |committed| committed.offset);
            ends.entry(input.clone()).and_modify(|end| *end = processed.min(*end));
        }
    }
    let mut missing = BTreeMap::new();
    for (partition, end) in ends {
        let begin = begins.get(&partition).copied().unwrap_or(0);
        let start = stores.get(&partition).and_then(|(_, from)| *from).unwrap_or(begin);
        if start < end {
            consumer.seek(&partition, start).map_err(|error| failed("restoring", &error))?;
            missing.insert(partition, end);
        }
    }
    while !missing.is_empty() {
        let next = consumer.clone();
        let batch = runtime.run(async move { next.next_batch().await })?;
        let Some(batch) = batch.map_err(|error| failed("restoring", &error))? else { break };
        let partition = batch.topic_partition().clone();
        let next_offset = batch.next_offset();
        let Some(task) = stores.get(&partition).and_then(|(index, _)| tasks.get_mut(*index)) else {
            continue;
        };
        let mut records = Vec::with_capacity(batch.record_count_bound());
        let end = missing.get(&partition).copied().unwrap_or(i64::MAX);
        for record in batch {
            let record = record.map_err(|error| failed("restoring", &error))?;
            if record.offset >= end {
                break;
            }
            records.push(RawRecord {
                offset: record.offset,
                timestamp: record.timestamp,
                key: record.key,
                value: record.value,
                headers: record.headers,
            });
        }
        task.restore(&partition.topic, &records)?;
        if missing.get(&partition).is_some_and(|end| next_offset >= *end) {
            missing.remove(&partition);
        }
    }
    if let Err(error) = runtime.run(async move { consumer.close().await })? {
        tracing::debug!(%error, "closing the restore consumer");
    }
    Ok(())
}
