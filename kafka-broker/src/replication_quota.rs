//! How fast replicas are copied that are not in sync (KIP-73): a reassignment must not take the network from clients.
//!
//! A node counts what it copies of throttled replicas, as their leader and as their follower, over ten seconds
//! (`replication.quota.window.num` and `replication.quota.window.size.seconds` at Kafka's defaults). Once a limit is
//! exceeded nothing more of them is copied until the average is below it again, as in Kafka's `ReplicationQuotaManager`.

use std::collections::VecDeque;

use parking_lot::Mutex;

const WINDOW_MS: i64 = 1000;
/// Whole windows besides the one that is under way.
const WINDOWS: i64 = 10;

/// Which side of a copy a limit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Leader,
    Follower,
}

/// Replicas that are throttled (`leader.replication.throttled.replicas` and the follower's).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ThrottledReplicas {
    All,
    /// Partition and node.
    Listed(Vec<(i32, i32)>),
}

impl ThrottledReplicas {
    /// `*`, or `partition:node` separated by commas; `None` if it is neither.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.trim() == "*" {
            return Some(Self::All);
        }
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let replicas = items.map(|item| {
            let (partition, node) = item.split_once(':')?;
            Some((partition.parse().ok()?, node.parse().ok()?))
        });
        replicas.collect::<Option<_>>().map(Self::Listed)
    }

    pub(crate) fn contains(&self, partition: i32, node: i32) -> bool {
        match self {
            Self::All => true,
            Self::Listed(replicas) => replicas.contains(&(partition, node)),
        }
    }
}

/// What a node has copied lately of throttled replicas.
#[derive(Debug, Default)]
pub(crate) struct ReplicationQuotas {
    leader: Mutex<Copied>,
    follower: Mutex<Copied>,
}

impl ReplicationQuotas {
    pub(crate) fn record(&self, side: Side, bytes: usize, now_ms: i64) {
        self.of(side).lock().record(bytes, now_ms);
    }

    /// Whether more was copied than `limit` bytes a second allow.
    pub(crate) fn is_exceeded(&self, side: Side, limit: i64, now_ms: i64) -> bool {
        limit != i64::MAX && self.of(side).lock().bytes_per_second(now_ms) > limit
    }

    fn of(&self, side: Side) -> &Mutex<Copied> {
        match side {
            Side::Leader => &self.leader,
            Side::Follower => &self.follower,
        }
    }
}

/// Bytes by window; the windows are those of the clock.
#[derive(Debug, Default)]
struct Copied {
    windows: VecDeque<(i64, i64)>,
}

impl Copied {
    fn record(&mut self, bytes: usize, now_ms: i64) {
        let (window, bytes) = (now_ms.div_euclid(WINDOW_MS), i64::try_from(bytes).unwrap_or(i64::MAX));
        match self.windows.back_mut() {
            // A clock that goes back goes on counting where it was.
            Some((last, sum)) if *last >= window => *sum = sum.saturating_add(bytes),
            _ => self.windows.push_back((window, bytes)),
        }
        self.forget(window);
    }

    fn forget(&mut self, window: i64) {
        while self.windows.front().is_some_and(|&(first, _)| first < window - WINDOWS) {
            self.windows.pop_front();
        }
    }

    /// Over all windows, those without a copy included: a first burst is measured against all of them.
    fn bytes_per_second(&mut self, now_ms: i64) -> i64 {
        self.forget(now_ms.div_euclid(WINDOW_MS));
        let sum = self.windows.iter().fold(0i64, |sum, &(_, bytes)| sum.saturating_add(bytes));
        let span_ms = WINDOWS * WINDOW_MS + now_ms.rem_euclid(WINDOW_MS);
        i64::try_from(i128::from(sum) * 1000 / i128::from(span_ms)).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_copied_too_much_waits_until_the_average_is_below_the_limit_again() {
        let quotas = ReplicationQuotas::default();
        let is_exceeded = |now_ms| quotas.is_exceeded(Side::Leader, 1000, now_ms);
        assert!(!is_exceeded(0));
        quotas.record(Side::Leader, 10_000, 0);
        assert!(!is_exceeded(0), "that is what ten seconds allow");
        quotas.record(Side::Leader, 5000, 500);
        assert!(is_exceeded(500));
        assert!(is_exceeded(4_999), "15,000 bytes in 10 to 11 seconds");
        assert!(is_exceeded(10_500));
        assert!(!is_exceeded(11_000), "what was copied in the first second does not count any more");
        assert!(!quotas.is_exceeded(Side::Follower, 0, 500), "the other side has copied nothing");
        assert!(!quotas.is_exceeded(Side::Leader, i64::MAX, 500));
    }

    #[test]
    fn replicas_are_listed_by_partition_and_node() {
        let listed = ThrottledReplicas::parse("0:1, 2:101").unwrap();
        assert!(listed.contains(0, 1) && listed.contains(2, 101) && !listed.contains(1, 2));
        assert!(ThrottledReplicas::parse("*").unwrap().contains(7, 7));
        assert!(!ThrottledReplicas::parse("").unwrap().contains(0, 0));
        for wrong in ["0", "a:1", "1:b", "1:2:3", "0:1,*"] {
            assert_eq!(ThrottledReplicas::parse(wrong), None, "{wrong}");
        }
    }
}
