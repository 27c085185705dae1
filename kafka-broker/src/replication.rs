//! What the leader of a replicated partition knows of its followers: how far each has come, who is in sync, and up to
//! where the partition is committed. Pure: the caller passes offsets and the time.
//!
//! The rules are those of Kafka's `Partition` and `Replica`. The high watermark is the smallest end among the in-sync
//! replicas; while a change of them is under way, among those of before *and* after (`maximalIsr`), because the
//! controller may elect any of them. It does not move while fewer than `min.insync.replicas` are in sync (KIP-966).

use std::collections::VecDeque;

/// A replica's end that the leader has not heard of yet.
const UNKNOWN: i64 = -1;

/// One follower, as its leader sees it.
#[derive(Debug, Clone)]
struct Follower {
    node_id: i32,
    log_start_offset: i64,
    log_end_offset: i64,
    /// When it last had everything that the leader had.
    caught_up_ms: i64,
    /// When it fetched last, and the leader's end then.
    fetched_ms: i64,
    leader_end_at_fetch: i64,
}

/// The leader's view of a partition with more than one replica.
#[derive(Debug)]
pub(crate) struct Leader {
    node_id: i32,
    followers: Vec<Follower>,
    isr: Vec<i32>,
    /// What the controller was asked to make of the in-sync replicas.
    pending_isr: Option<Vec<i32>>,
    /// `min.insync.replicas`, at most the number of replicas (`effectiveMinIsr`).
    min_insync: usize,
    /// Where this leader's epoch begins: who is behind it may lack what an earlier leader committed.
    epoch_start_offset: i64,
    high_watermark: i64,
    /// Ends and sizes of appends that are not committed yet.
    uncommitted: VecDeque<(i64, usize)>,
}

/// What a follower's fetch brought about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Bytes that readers may see from now on; `None` when the high watermark stayed.
    pub(crate) committed_bytes: Option<usize>,
    /// In-sync replicas to propose to the controller.
    pub(crate) expand_to: Option<Vec<i32>>,
}

impl Leader {
    /// Leads from `log_end_offset` on, with what was known to be committed so far.
    pub(crate) fn new(
        node_id: i32,
        replicas: &[i32],
        isr: &[i32],
        min_insync: usize,
        log_end_offset: i64,
        high_watermark: i64,
        now_ms: i64,
    ) -> Self {
        let followers = replicas.iter().filter(|&&replica| replica != node_id).map(|&replica| Follower {
            node_id: replica,
            log_start_offset: UNKNOWN,
            log_end_offset: UNKNOWN,
            // A new leader gives everyone the full time to catch up (`Replica.resetReplicaState`).
            caught_up_ms: if isr.contains(&replica) { now_ms } else { 0 },
            fetched_ms: 0,
            leader_end_at_fetch: UNKNOWN,
        });
        let mut leader = Self {
            node_id,
            followers: followers.collect(),
            isr: isr.to_vec(),
            pending_isr: None,
            min_insync: min_insync.min(replicas.len()),
            epoch_start_offset: log_end_offset,
            high_watermark,
            uncommitted: VecDeque::new(),
        };
        leader.advance(log_end_offset);
        leader
    }

    pub(crate) fn high_watermark(&self) -> i64 {
        self.high_watermark
    }

    pub(crate) fn followers(&self) -> impl Iterator<Item = i32> + '_ {
        self.followers.iter().map(|follower| follower.node_id)
    }

    /// The in-sync follower among `nodes` that has the record at `offset` and is the furthest
    /// (`RackAwareReplicaSelector`).
    pub(crate) fn follower_among(&self, nodes: &[i32], offset: i64) -> Option<i32> {
        let able = self.followers.iter().filter(|it| {
            nodes.contains(&it.node_id) && self.isr.contains(&it.node_id) && it.log_end_offset >= offset
        });
        able.max_by_key(|it| (it.log_end_offset, it.caught_up_ms)).map(|it| it.node_id)
    }

    /// Whether enough replicas are in sync for a write that all of them must have.
    pub(crate) fn has_min_insync(&self) -> bool {
        self.isr.len() >= self.min_insync
    }

    /// The leader's log grew from `from` to `to`. Returns the bytes that are committed by that alone.
    pub(crate) fn appended(&mut self, from: i64, to: i64, size_bytes: usize, now_ms: i64) -> Option<usize> {
        for follower in self.followers.iter_mut().filter(|follower| follower.log_end_offset == from) {
            follower.caught_up_ms = follower.caught_up_ms.max(now_ms);
        }
        self.uncommitted.push_back((to, size_bytes));
        self.advance(to)
    }

    /// A follower fetches from `offset`, so it has everything before.
    pub(crate) fn fetched(
        &mut self,
        node_id: i32,
        offset: i64,
        log_end_offset: i64,
        now_ms: i64,
    ) -> Progress {
        let Some(follower) = self.followers.iter_mut().find(|follower| follower.node_id == node_id) else {
            return Progress::default();
        };
        if offset >= log_end_offset {
            follower.caught_up_ms = follower.caught_up_ms.max(now_ms);
        } else if offset >= follower.leader_end_at_fetch {
            // It has all that there was when it came the last time (`Replica.updateFetchState`).
            follower.caught_up_ms = follower.caught_up_ms.max(follower.fetched_ms);
        }
        follower.log_end_offset = offset;
        follower.fetched_ms = now_ms;
        follower.leader_end_at_fetch = log_end_offset;
        let committed_bytes = self.advance(log_end_offset);
        let joins = self.pending_isr.is_none()
            && !self.isr.contains(&node_id)
            && offset >= self.high_watermark
            && offset >= self.epoch_start_offset;
        let expand_to = joins.then(|| self.isr.iter().copied().chain([node_id]).collect::<Vec<_>>());
        if let Some(isr) = &expand_to {
            self.pending_isr = Some(isr.clone());
        }
        Progress { committed_bytes, expand_to }
    }

    /// A follower says where its log starts. Returns whether that is news.
    pub(crate) fn starts_at(&mut self, node_id: i32, log_start_offset: i64) -> bool {
        let follower = self.followers.iter_mut().find(|follower| follower.node_id == node_id);
        follower.is_some_and(|it| {
            std::mem::replace(&mut it.log_start_offset, log_start_offset) != log_start_offset
        })
    }

    /// What is deleted on every replica whose node is there (`Partition.lowWatermarkIfLeader`).
    pub(crate) fn low_watermark(&self, log_start_offset: i64, is_live: impl Fn(i32) -> bool) -> i64 {
        let live = self.followers.iter().filter(|follower| is_live(follower.node_id));
        live.map(|follower| follower.log_start_offset).fold(log_start_offset, i64::min)
    }

    /// The in-sync replicas without those that were not caught up for `lag_max_ms`, if there are any.
    pub(crate) fn shrink(&mut self, log_end_offset: i64, lag_max_ms: i64, now_ms: i64) -> Option<Vec<i32>> {
        if self.pending_isr.is_some() {
            return None;
        }
        let lags = |follower: &&Follower| {
            follower.log_end_offset != log_end_offset
                && now_ms.saturating_sub(follower.caught_up_ms) > lag_max_ms
        };
        let out: Vec<i32> = self.followers.iter().filter(lags).map(|follower| follower.node_id).collect();
        let isr: Vec<i32> = self.isr.iter().copied().filter(|node| !out.contains(node)).collect();
        if isr.len() == self.isr.len() {
            return None;
        }
        self.pending_isr = Some(isr.clone());
        Some(isr)
    }

    /// The controller refused the proposal, or has something newer to tell.
    pub(crate) fn proposal_failed(&mut self) {
        self.pending_isr = None;
    }

    /// The controller's word on replicas and who is in sync, in the same leader epoch.
    pub(crate) fn update(
        &mut self,
        replicas: &[i32],
        isr: &[i32],
        min_insync: usize,
        log_end_offset: i64,
    ) -> Option<usize> {
        self.isr = isr.to_vec();
        self.pending_isr = None;
        self.min_insync = min_insync.min(replicas.len());
        self.followers.retain(|follower| replicas.contains(&follower.node_id));
        for &replica in replicas {
            if replica != self.node_id && self.followers().all(|known| known != replica) {
                self.followers.push(Follower {
                    node_id: replica,
                    log_start_offset: UNKNOWN,
                    log_end_offset: UNKNOWN,
                    caught_up_ms: 0,
                    fetched_ms: 0,
                    leader_end_at_fetch: UNKNOWN,
                });
            }
        }
        self.advance(log_end_offset)
    }

    /// `min.insync.replicas` was changed.
    pub(crate) fn set_min_insync(&mut self, min_insync: usize, log_end_offset: i64) -> Option<usize> {
        self.min_insync = min_insync.min(self.followers.len() + 1);
        self.advance(log_end_offset)
    }

    /// Whether everything that earlier leaders committed is known to be committed.
    pub(crate) fn has_reached_epoch(&self) -> bool {
        self.high_watermark >= self.epoch_start_offset
    }

    /// Whether a follower is in sync, by the controller's word.
    pub(crate) fn is_in_sync(&self, node_id: i32) -> bool {
        self.isr.contains(&node_id)
    }

    fn must_have(&self, node_id: i32) -> bool {
        let pending = self.pending_isr.as_ref().is_some_and(|isr| isr.contains(&node_id));
        pending || self.isr.contains(&node_id)
    }

    fn advance(&mut self, log_end_offset: i64) -> Option<usize> {
        if !self.has_min_insync() {
            return None;
        }
        let ends = self.followers.iter().filter(|it| self.must_have(it.node_id)).map(|it| it.log_end_offset);
        let committed = ends.fold(log_end_offset, i64::min);
        if committed <= self.high_watermark {
            return None;
        }
        self.high_watermark = committed;
        let mut bytes = 0;
        while let Some(&(end, size)) = self.uncommitted.front()
            && end <= committed
        {
            bytes += size;
            self.uncommitted.pop_front();
        }
        Some(bytes)
    }
}

/// A replica's history, as far as its leader asks: its start, its last epoch and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct History {
    /// The epoch of the last record; `None` without records.
    pub(crate) last_epoch: Option<i32>,
    pub(crate) log_start_offset: i64,
    pub(crate) log_end_offset: i64,
}

/// What a follower has to do before it can copy from its leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alignment {
    /// Its log is the beginning of the leader's.
    Aligned,
    /// What follows this offset is not the leader's. The last epoch that both may have comes along: the follower cuts
    /// where that epoch ends in its own log, if that is earlier.
    TruncateTo { epoch: i32, end_offset: i64 },
    /// The leader has nothing from where the follower ends: everything is dropped, and copying begins here.
    StartAt(i64),
}

/// Compares a follower's history with the leader's (KIP-101, KIP-279, KIP-595).
///
/// `leader_end_of` tells the largest epoch in the leader's log that is not above the one given, and where it ends.
pub(crate) fn align(
    follower: History,
    leader_start: i64,
    leader_end: i64,
    leader_end_of: impl Fn(i32) -> Option<(i32, i64)>,
) -> Alignment {
    let end = follower.log_end_offset;
    if end < leader_start {
        return Alignment::StartAt(leader_start);
    }
    match follower.last_epoch.map(|last| (last, leader_end_of(last))) {
        Some((last, Some((epoch, end_offset)))) if epoch < last || end_offset < end => {
            Alignment::TruncateTo { epoch, end_offset }
        }
        // The leader's history begins after all of the follower's epochs: what the follower has from there on is not the
        // leader's (`LeaderEpochFileCache.endOffsetFor`). What lies before may be a log that retention has emptied.
        Some((_, None)) if end > leader_start => {
            Alignment::TruncateTo { epoch: -1, end_offset: leader_start }
        }
        _ if end > leader_end => Alignment::TruncateTo { epoch: -1, end_offset: leader_end },
        _ => Alignment::Aligned,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAG: i64 = 30_000;

    fn leader(isr: &[i32], min_insync: usize) -> Leader {
        Leader::new(1, &[1, 2, 3], isr, min_insync, 0, 0, 0)
    }

    #[test]
    fn a_record_is_committed_when_all_in_sync_replicas_have_it() {
        let mut leader = leader(&[1, 2, 3], 1);
        leader.fetched(2, 0, 0, 0);
        leader.fetched(3, 0, 0, 0);
        assert_eq!(leader.appended(0, 5, 100, 1), None);
        assert_eq!(leader.fetched(2, 5, 5, 2), Progress::default());
        assert_eq!(leader.fetched(3, 3, 5, 2), Progress { committed_bytes: Some(0), expand_to: None });
        assert_eq!(leader.high_watermark(), 3);
        assert_eq!(leader.fetched(3, 5, 5, 3).committed_bytes, Some(100));
        assert_eq!(leader.high_watermark(), 5);
    }

    #[test]
    fn who_lags_for_too_long_leaves_and_is_waited_for_until_the_controller_agrees() {
        let mut leader = leader(&[1, 2, 3], 1);
        leader.fetched(2, 0, 0, 0);
        leader.fetched(3, 0, 0, 0);
        // Idle for long, then an append: the clock of both begins with it.
        leader.appended(0, 1, 10, 100_000);
        leader.fetched(2, 1, 1, 100_001);
        assert_eq!(leader.shrink(1, LAG, 100_000 + LAG), None);
        assert_eq!(leader.shrink(1, LAG, 100_001 + LAG), Some(vec![1, 2]));
        assert_eq!(leader.shrink(1, LAG, 100_002 + LAG), None, "one proposal at a time");
        assert_eq!(leader.high_watermark(), 0, "3 may still be elected");
        assert_eq!(leader.update(&[1, 2, 3], &[1, 2], 1, 1), Some(10));
        assert_eq!(leader.high_watermark(), 1);
    }

    #[test]
    fn who_catches_up_joins_and_counts_from_the_proposal_on() {
        let mut leader = leader(&[1, 2], 1);
        leader.fetched(2, 0, 0, 0);
        leader.appended(0, 4, 10, 0);
        leader.fetched(2, 4, 4, 0);
        assert_eq!(leader.fetched(3, 2, 4, 0).expand_to, None, "behind the high watermark");
        assert_eq!(leader.fetched(3, 4, 4, 0).expand_to, Some(vec![1, 2, 3]));
        leader.appended(4, 6, 10, 0);
        assert_eq!(leader.fetched(2, 6, 6, 0).committed_bytes, None, "3 may be elected from now on");
        assert_eq!(leader.fetched(3, 6, 6, 0).committed_bytes, Some(10));
    }

    #[test]
    fn nothing_is_committed_below_the_minimum_of_in_sync_replicas() {
        let mut leader = leader(&[1], 2);
        assert!(!leader.has_min_insync());
        assert_eq!(leader.appended(0, 1, 10, 0), None);
        leader.fetched(2, 1, 1, 0);
        assert_eq!(leader.update(&[1, 2, 3], &[1, 2], 2, 1), Some(10));
        assert!(Leader::new(1, &[1, 2], &[1, 2], 9, 0, 0, 0).has_min_insync(), "at most all replicas");
    }

    #[test]
    fn a_follower_that_joined_behind_the_new_epoch_is_not_in_sync() {
        let mut leader = Leader::new(1, &[1, 2], &[1], 2, 10, 4, 0);
        assert_eq!(leader.fetched(2, 6, 10, 0).expand_to, None);
        assert_eq!(leader.fetched(2, 10, 10, 0).expand_to, Some(vec![1, 2]));
    }

    #[test]
    fn what_is_deleted_on_every_replica_that_is_there_is_the_low_watermark() {
        let mut leader = leader(&[1, 2, 3], 1);
        assert_eq!(leader.low_watermark(7, |_| true), UNKNOWN);
        assert!(leader.starts_at(2, 7) && !leader.starts_at(2, 7) && leader.starts_at(3, 4));
        assert_eq!(leader.low_watermark(7, |_| true), 4);
        assert_eq!(leader.low_watermark(7, |node| node != 3), 7);
    }

    #[test]
    fn histories_that_part_are_cut_where_they_part() {
        let history =
            |last_epoch, log_end_offset| History { last_epoch, log_start_offset: 0, log_end_offset };
        // The leader: epoch 0 up to 10, epoch 2 up to 20.
        let leader = |asked: i32| match asked {
            ..0 => None,
            0 | 1 => Some((0, 10)),
            _ => Some((2, 20)),
        };
        let check = |follower| align(follower, 0, 20, leader);
        assert_eq!(check(history(None, 0)), Alignment::Aligned);
        assert_eq!(check(history(Some(0), 7)), Alignment::Aligned);
        assert_eq!(check(history(Some(2), 20)), Alignment::Aligned);
        assert_eq!(check(history(Some(0), 12)), Alignment::TruncateTo { epoch: 0, end_offset: 10 });
        assert_eq!(check(history(Some(1), 8)), Alignment::TruncateTo { epoch: 0, end_offset: 10 });
        assert_eq!(check(history(Some(2), 25)), Alignment::TruncateTo { epoch: 2, end_offset: 20 });
        assert_eq!(align(history(Some(0), 3), 5, 20, leader), Alignment::StartAt(5));
        // A leader whose history begins later than all of the follower's.
        let unknown = |end| align(history(Some(4), end), 5, 20, |_| None);
        assert_eq!(unknown(9), Alignment::TruncateTo { epoch: -1, end_offset: 5 });
        assert_eq!(unknown(5), Alignment::Aligned, "what it has was deleted, but it knows its producers");
    }
}
