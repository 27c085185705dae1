//! Share groups (KIP-932): queues over partitions. Members share a partition's records instead of its ownership.
//!
//! - [`partition`]: which records of a partition are in flight and with whom, pure
//! - [`session`]: which partitions a member fetches, so that a fetch names only changes, pure
//! - [`state`]: the share coordinator, which keeps how far groups have come in `__share_group_state`
//! - [`service`]: the shell that joins them with the partitions' logs
//! - [`runs`]: offsets with states, as runs
//!
//! Who is in a share group is the group coordinator's: [`groups::share`](crate::groups::share).

pub(crate) mod partition;
mod runs;
pub(crate) mod service;
pub(crate) mod session;
pub(crate) mod state;

use kafka_wire::Uuid;

use crate::ids;

/// Names a share partition: a partition, for a share group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ShareKey {
    pub(crate) group: String,
    pub(crate) topic_id: Uuid,
    pub(crate) partition: i32,
}

impl ShareKey {
    pub(crate) fn new(group: &str, topic_id: Uuid, partition: i32) -> Self {
        Self { group: group.to_owned(), topic_id, partition }
    }

    /// What decides which share coordinator it belongs to (`SharePartitionKey.asCoordinatorKey`).
    pub(crate) fn coordinator_key(&self) -> String {
        format!("{}:{}:{}", self.group, ids::to_text(self.topic_id), self.partition)
    }

    /// Whether that is a key of a share partition, as FindCoordinator gets it.
    pub(crate) fn is_coordinator_key(key: &str) -> bool {
        let mut parts = key.rsplitn(3, ':');
        let partition = parts.next().and_then(|partition| partition.parse::<i32>().ok());
        let topic_id = parts.next().and_then(ids::from_text);
        partition.is_some_and(|partition| partition >= 0)
            && topic_id.is_some()
            && parts.next().is_some_and(|group| !group.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_key_is_group_topic_and_partition() {
        let key = ShareKey::new("a:b", Uuid::from_u128(1), 3).coordinator_key();
        assert_eq!(key, "a:b:AAAAAAAAAAAAAAAAAAAAAQ:3");
        assert!(ShareKey::is_coordinator_key(&key));
        for bad in ["", "g", "g:3", ":AAAAAAAAAAAAAAAAAAAAAQ:3", "g:AAAAAAAAAAAAAAAAAAAAAQ:-1", "g:no:1"] {
            assert!(!ShareKey::is_coordinator_key(bad), "{bad}");
        }
    }
}
