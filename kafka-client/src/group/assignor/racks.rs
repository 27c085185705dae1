//! Which members find a replica in their own rack (KIP-881): they fetch from it (KIP-392) and no byte crosses racks.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{GroupState, Member};

/// Whether rack-aware assignment can make a difference for `topics` and `members`: some member's rack has a replica,
/// and not every partition has one in all racks (`AbstractPartitionAssignor.useRackAwareAssignment`).
pub(super) fn matter<'a>(
    group: &'a GroupState,
    topics: impl IntoIterator<Item = &'a Arc<str>>,
    members: impl IntoIterator<Item = &'a Member>,
) -> bool {
    let member_racks: BTreeSet<&str> = members.into_iter().filter_map(Member::rack).collect();
    if member_racks.is_empty() {
        return false;
    }
    let partitions: Vec<BTreeSet<&str>> = topics
        .into_iter()
        .flat_map(|topic| {
            let count = group.topics.get(topic).copied().unwrap_or_default();
            (0..count).map(|partition| group.replica_racks(topic, partition).collect())
        })
        .collect();
    let all: BTreeSet<&str> = partitions.iter().flatten().copied().collect();
    !member_racks.is_disjoint(&all) && partitions.iter().any(|racks| *racks != all)
}

/// Whether `member` has a replica of the partition at hand, or does not say where it is.
pub(super) fn match_member(group: &GroupState, member: &Member, topic: &str, partition: i32) -> bool {
    member.rack().is_none_or(|rack| group.replica_racks(topic, partition).any(|of| of == rack))
}
