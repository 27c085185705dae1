//! DescribeLogDirs (KIP-113): which replicas are on this node's disk, and how large they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_wire::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_wire::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName};

use super::text;
use crate::dispatch::RequestContext;
use crate::state::BrokerState;

pub(crate) async fn describe(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: DescribeLogDirsRequest,
    version: i16,
) -> DescribeLogDirsResponse {
    let asked: Option<BTreeSet<(&str, i32)>> = request.topics.as_ref().map(|topics| {
        let replicas = topics.iter().flat_map(|it| it.partitions.iter().map(|&index| (&**it.topic, index)));
        replicas.collect()
    });
    let mut topics: BTreeMap<Arc<str>, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
    for partition in state.topics.all_partitions() {
        let (topic, index) = (partition.topic(), partition.index());
        if asked.as_ref().is_some_and(|asked| !asked.contains(&(&**topic, index))) {
            continue;
        }
        // A replica that is where it belongs has no lag: only one that moves to another folder of its node can have one.
        if let Some(size_bytes) = partition.size_bytes() {
            let answer = DescribeLogDirsPartition::default()
                .with_partition_index(index)
                .with_partition_size(as_i64(size_bytes));
            topics.entry(Arc::clone(topic)).or_default().push(answer);
        }
    }
    let topics = topics.into_iter().map(|(name, partitions)| {
        DescribeLogDirsTopic::default().with_name(TopicName(text(&name))).with_partitions(partitions)
    });
    let mut folder =
        DescribeLogDirsResult::default().with_log_dir(text(&state.logs.name())).with_topics(topics.collect());
    if version >= 4 {
        // Without a volume both stay `UNKNOWN_VOLUME_BYTES`.
        if let Some((total, usable)) = state.logs.volume_bytes() {
            (folder.total_bytes, folder.usable_bytes) = (as_i64(total), as_i64(usable));
        }
    }
    DescribeLogDirsResponse::default().with_results(vec![folder])
}

fn as_i64(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
