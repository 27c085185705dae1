//! What the application says of records, until the broker that gave them has heard it. Pure.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use kafka_wire::ErrorCode;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::membership::TopicIdPartition;
use super::{AcknowledgeError, AcknowledgeOutcome, AcknowledgeType};
use crate::TopicPartition;

/// What is said of one record.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) kind: AcknowledgeType,
    /// Until when the record is ours.
    pub(super) until: Instant,
    /// Which [`commit`](super::ShareConsumer::commit) waits for it at the earliest.
    round: u64,
    /// Who waits for a renewal.
    pub(super) renewed: Option<oneshot::Sender<Result<Instant, AcknowledgeError>>>,
}

/// A run of records of which the same is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SaidRun {
    pub(super) first: i64,
    /// Inclusive.
    pub(super) last: i64,
    pub(super) kind: AcknowledgeType,
}

/// A lock ends by the broker's clock, which began a moment before ours. One record that is too late has the broker refuse all
/// that is said of its partition in the same request.
const NEARLY_LATE: Duration = Duration::from_millis(250);

type ByOffset = BTreeMap<i64, Said>;

/// What one broker has to be told, by partition and offset.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<TopicIdPartition, ByOffset>,
    in_flight: BTreeMap<TopicIdPartition, ByOffset>,
    /// When the oldest of those that wait came.
    pub(super) since: Option<Instant>,
}

impl Queue {
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether all that waits is of these partitions.
    pub(super) fn is_about(&self, partitions: &BTreeSet<TopicIdPartition>) -> bool {
        self.waiting.keys().all(|partition| partitions.contains(partition))
    }

    pub(super) fn renews(&self) -> bool {
        self.waiting.values().any(|said| said.values().any(|said| said.kind == AcknowledgeType::Renew))
    }

    /// Something is said. Returns what was said of the same record before and nobody has been told.
    pub(super) fn push(
        &mut self,
        partition: TopicIdPartition,
        offset: i64,
        said: Said,
        now: Instant,
    ) -> Option<Settled> {
        self.since.get_or_insert(now);
        let before = self.waiting.entry(partition).or_default().insert(offset, said);
        before.map(|said| Settled::superseded(partition, offset, said))
    }

    /// Takes what waits, as runs: it is in flight from now on. What may be too late goes only when nothing else waits, in a
    /// request of its own.
    pub(super) fn take(&mut self, now: Instant) -> BTreeMap<TopicIdPartition, Vec<SaidRun>> {
        let is_safe = |said: &Said| said.until > now + NEARLY_LATE;
        let any_safe = self.waiting.values().any(|said| said.values().any(is_safe));
        let mut runs: BTreeMap<TopicIdPartition, Vec<SaidRun>> = BTreeMap::new();
        for (partition, said) in std::mem::take(&mut self.waiting) {
            for (offset, said) in said {
                if any_safe && !is_safe(&said) {
                    self.waiting.entry(partition).or_default().insert(offset, said);
                    continue;
                }
                let of_partition = runs.entry(partition).or_default();
                match of_partition.last_mut() {
                    Some(run) if run.last + 1 == offset && run.kind == said.kind => run.last = offset,
                    _ => of_partition.push(SaidRun { first: offset, last: offset, kind: said.kind }),
                }
                self.in_flight.entry(partition).or_default().insert(offset, said);
            }
        }
        if self.waiting.is_empty() {
            self.since = None;
        }
        runs
    }

    /// Gives back what is not to be sent: one record whose lock has ended, or whose partition has another leader, would
    /// have the broker refuse all that is said of its partition.
    pub(super) fn take_late(
        &mut self,
        now: Instant,
        is_ours: impl Fn(TopicIdPartition) -> bool,
    ) -> Vec<Settled> {
        let mut late = Vec::new();
        for (&partition, said) in &mut self.waiting {
            let error = match is_ours(partition) {
                true => AcknowledgeError::LockExpired,
                false => AcknowledgeError::LeaderMoved,
            };
            let is_late = |said: &Said| error == AcknowledgeError::LeaderMoved || said.until <= now;
            let gone: Vec<i64> =
                said.iter().filter(|(_, said)| is_late(said)).map(|(offset, _)| *offset).collect();
            late.extend(gone.into_iter().filter_map(|offset| {
                let said = said.remove(&offset)?;
                Some(Settled { partition, offset, said, result: Err(error.clone()) })
            }));
        }
        self.waiting.retain(|_, said| !said.is_empty());
        if self.waiting.is_empty() {
            self.since = None;
        }
        late
    }

    /// The broker has answered for a partition, or will not.
    pub(super) fn settle(
        &mut self,
        partition: TopicIdPartition,
        result: &Result<(), AcknowledgeError>,
    ) -> Vec<Settled> {
        let said = self.in_flight.remove(&partition).unwrap_or_default();
        said.into_iter()
            .map(|(offset, said)| Settled { partition, offset, said, result: result.clone() })
            .collect()
    }

    /// The same for all that are in flight: the request failed as a whole, or its answer leaves partitions out.
    pub(super) fn settle_all(&mut self, result: &Result<(), AcknowledgeError>) -> Vec<Settled> {
        let partitions: Vec<_> = self.in_flight.keys().copied().collect();
        partitions.into_iter().flat_map(|partition| self.settle(partition, result)).collect()
    }

    /// The broker did not look at what is in flight: it waits again. Returns that of which something newer was said
    /// meanwhile.
    pub(super) fn put_back(&mut self, now: Instant) -> Vec<Settled> {
        let mut superseded = Vec::new();
        if !self.in_flight.is_empty() {
            self.since.get_or_insert(now);
        }
        for (partition, said) in std::mem::take(&mut self.in_flight) {
            let waiting = self.waiting.entry(partition).or_default();
            for (offset, said) in said {
                match waiting.entry(offset) {
                    Entry::Vacant(entry) => drop(entry.insert(said)),
                    Entry::Occupied(_) => superseded.push(Settled::superseded(partition, offset, said)),
                }
            }
        }
        superseded
    }

    /// Nothing can be told any more.
    pub(super) fn give_up(&mut self, error: &AcknowledgeError) -> Vec<Settled> {
        let mut settled = self.settle_all(&Err(error.clone()));
        for (partition, said) in std::mem::take(&mut self.waiting) {
            let failed = |(offset, said)| Settled { partition, offset, said, result: Err(error.clone()) };
            settled.extend(said.into_iter().map(failed));
        }
        settled
    }
}

/// What became of what was said of one record.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) partition: TopicIdPartition,
    pub(super) offset: i64,
    pub(super) said: Said,
    pub(super) result: Result<(), AcknowledgeError>,
}

impl Settled {
    fn superseded(partition: TopicIdPartition, offset: i64, said: Said) -> Self {
        Self { partition, offset, said, result: Err(AcknowledgeError::Superseded) }
    }
}

/// Who waits for what became of records.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    round: u64,
    /// How many records of each round have not been settled.
    open: BTreeMap<u64, usize>,
    commits: VecDeque<Commit>,
}

#[derive(Debug)]
struct Commit {
    round: u64,
    outcomes: Vec<AcknowledgeOutcome>,
    done: oneshot::Sender<Vec<AcknowledgeOutcome>>,
}

impl Rounds {
    /// Something was said of a record.
    pub(super) fn say(
        &mut self,
        kind: AcknowledgeType,
        until: Instant,
        renewed: Option<oneshot::Sender<Result<Instant, AcknowledgeError>>>,
    ) -> Said {
        *self.open.entry(self.round).or_default() += 1;
        Said { kind, until, round: self.round, renewed }
    }

    /// Waits for all that was said so far.
    pub(super) fn commit(&mut self) -> oneshot::Receiver<Vec<AcknowledgeOutcome>> {
        let (done, receiver) = oneshot::channel();
        self.commits.push_back(Commit { round: self.round, outcomes: Vec::new(), done });
        self.round += 1;
        self.answer_commits();
        receiver
    }

    /// Whether somebody waits.
    pub(super) fn is_awaited(&self) -> bool {
        !self.commits.is_empty()
    }

    /// Notes what became of records; neighbours with the same outcome are told as one.
    pub(super) fn settled(
        &mut self,
        settled: Vec<Settled>,
        name: impl Fn(TopicIdPartition) -> Option<TopicPartition>,
    ) -> Vec<AcknowledgeOutcome> {
        let mut outcomes: Vec<AcknowledgeOutcome> = Vec::new();
        for Settled { partition, offset, said, result } in settled {
            if let Some(open) = self.open.get_mut(&said.round) {
                *open = open.saturating_sub(1);
            }
            self.open.retain(|_, open| *open > 0);
            let Some(partition) = name(partition) else { continue };
            let outcome =
                AcknowledgeOutcome { partition, first: offset, last: offset, kind: said.kind, result };
            for commit in self.commits.iter_mut().filter(|commit| commit.round >= said.round) {
                merge(&mut commit.outcomes, outcome.clone());
            }
            merge(&mut outcomes, outcome);
        }
        self.answer_commits();
        outcomes
    }

    fn answer_commits(&mut self) {
        let oldest_open = self.open.keys().next().copied().unwrap_or(u64::MAX);
        while self.commits.front().is_some_and(|commit| commit.round < oldest_open) {
            if let Some(commit) = self.commits.pop_front() {
                // Who does not wait any more is not told.
                let _ = commit.done.send(commit.outcomes);
            }
        }
    }
}

fn merge(outcomes: &mut Vec<AcknowledgeOutcome>, outcome: AcknowledgeOutcome) {
    match outcomes.last_mut() {
        Some(last)
            if last.partition == outcome.partition
                && last.last.checked_add(1) == Some(outcome.first)
                && last.kind == outcome.kind
                && last.result == outcome.result =>
        {
            last.last = outcome.last;
        }
        _ => outcomes.push(outcome),
    }
}

/// What a broker's error code says of an acknowledgement.
pub(super) fn result_of(code: i16) -> Result<(), AcknowledgeError> {
    match ErrorCode::from(code) {
        ErrorCode::None => Ok(()),
        ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch => Err(AcknowledgeError::LeaderMoved),
        code => Err(AcknowledgeError::Refused { code }),
    }
}

#[cfg(test)]
mod tests {
    use kafka_wire::Uuid;

    use super::*;

    const A: TopicIdPartition = (Uuid::from_u128(1), 0);
    const B: TopicIdPartition = (Uuid::from_u128(1), 1);

    fn name(partition: TopicIdPartition) -> Option<TopicPartition> {
        Some(TopicPartition::new("t", partition.1))
    }

    #[test]
    fn neighbours_of_which_the_same_is_said_are_one_run() {
        let now = Instant::now();
        let (mut queue, mut rounds) = (Queue::default(), Rounds::default());
        let until = now + Duration::from_secs(30);
        for (offset, kind) in [
            (0, AcknowledgeType::Accept),
            (1, AcknowledgeType::Accept),
            (2, AcknowledgeType::Reject),
            (4, AcknowledgeType::Reject),
        ] {
            queue.push(A, offset, rounds.say(kind, until, None), now);
        }
        let runs: Vec<_> = queue.take(now)[&A].iter().map(|run| (run.first, run.last)).collect();
        assert_eq!(runs, [(0, 1), (2, 2), (4, 4)]);
        assert_eq!(queue.settle(A, &Ok(())).len(), 4);
        assert!(queue.settle_all(&Ok(())).is_empty());
    }

    /// A session was lost before an acknowledgement was sent, and the record came again in the next one: the first word
    /// was forgotten, and whoever had asked for a commit waited for it forever.
    #[test]
    fn a_newer_word_on_a_record_settles_the_one_before() {
        let now = Instant::now();
        let (mut queue, mut rounds) = (Queue::default(), Rounds::default());
        let until = now + Duration::from_secs(30);
        assert!(queue.push(A, 0, rounds.say(AcknowledgeType::Accept, until, None), now).is_none());
        let mut commit = rounds.commit();
        let before = queue.push(A, 0, rounds.say(AcknowledgeType::Release, until, None), now);
        rounds.settled(before.into_iter().collect(), name);
        let outcomes = commit.try_recv().unwrap();
        assert_eq!(outcomes[0].result, Err(AcknowledgeError::Superseded));
        // The same where the first one was on its way to a broker that did not look at it.
        queue.take(now);
        let mut commit = rounds.commit();
        queue.push(A, 0, rounds.say(AcknowledgeType::Accept, until, None), now);
        rounds.settled(queue.put_back(now), name);
        assert_eq!(commit.try_recv().unwrap()[0].result, Err(AcknowledgeError::Superseded));
        queue.take(now);
        assert_eq!(queue.settle(A, &Ok(()))[0].said.kind, AcknowledgeType::Accept);
    }

    #[test]
    fn what_expired_or_moved_is_not_sent_and_the_rest_is() {
        let now = Instant::now();
        let (mut queue, mut rounds) = (Queue::default(), Rounds::default());
        let late = now + Duration::from_secs(30);
        queue.push(A, 0, rounds.say(AcknowledgeType::Accept, now, None), now);
        queue.push(A, 1, rounds.say(AcknowledgeType::Accept, late, None), now);
        queue.push(B, 0, rounds.say(AcknowledgeType::Accept, late, None), now);
        let failed = queue.take_late(now, |partition| partition == A);
        assert_eq!(queue.take(now).keys().collect::<Vec<_>>(), [&A]);
        let errors: Vec<_> = failed.iter().map(|settled| settled.result.clone()).collect();
        assert_eq!(errors, [Err(AcknowledgeError::LockExpired), Err(AcknowledgeError::LeaderMoved)]);
    }

    #[test]
    fn what_may_be_too_late_goes_alone_and_takes_nothing_along() {
        let now = Instant::now();
        let (mut queue, mut rounds) = (Queue::default(), Rounds::default());
        queue.push(A, 0, rounds.say(AcknowledgeType::Accept, now + NEARLY_LATE, None), now);
        queue.push(A, 1, rounds.say(AcknowledgeType::Accept, now + 2 * NEARLY_LATE, None), now);
        let first = |runs: BTreeMap<TopicIdPartition, Vec<SaidRun>>| runs[&A][0].first;
        assert_eq!(first(queue.take(now)), 1);
        assert_eq!(queue.settle_all(&Ok(())).len(), 1);
        assert!(queue.since.is_some());
        assert_eq!(first(queue.take(now)), 0);
    }

    #[test]
    fn a_commit_waits_for_what_was_said_before_and_not_for_what_came_after() {
        let now = Instant::now();
        let (mut queue, mut rounds) = (Queue::default(), Rounds::default());
        let until = now + Duration::from_secs(30);
        queue.push(A, 0, rounds.say(AcknowledgeType::Accept, until, None), now);
        queue.push(A, 1, rounds.say(AcknowledgeType::Accept, until, None), now);
        let mut commit = rounds.commit();
        queue.push(B, 7, rounds.say(AcknowledgeType::Release, until, None), now);
        queue.take(now);
        let moved = Err(AcknowledgeError::LeaderMoved);
        rounds.settled(queue.settle(B, &moved), name);
        assert!(commit.try_recv().is_err());
        rounds.settled(queue.settle(A, &Ok(())), name);
        let outcomes = commit.try_recv().unwrap();
        assert_eq!(outcomes.len(), 1);
        assert_eq!((outcomes[0].first, outcomes[0].last, outcomes[0].result.clone()), (0, 1, Ok(())));
        // Nothing is open: the next one is answered at once.
        assert_eq!(rounds.commit().try_recv().unwrap(), []);
    }
}
