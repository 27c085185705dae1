//! The fetcher against a model cluster, in any order of events: logs of batches with gaps and control records, brokers
//! with fetch sessions, followers, leaders that move and lose records, seeks, pauses, failures.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_wire::ErrorCode;
use kafka_wire::record_batch::{RecordBatch, end_transaction_marker, patch_leader_epoch};
use proptest::prelude::*;
use tokio::time::Instant;

use super::tests::{BUDGET, answer, at, batch, config, offsets, refusal, seal_of, tp};
use super::{Currency, FetchPlan, Fetcher, Leader, Next, PartitionAnswer, Planned, Position};
use crate::TopicPartition;
use crate::consumer::PartitionRecords;

#[derive(Debug, Clone)]
struct ModelBatch {
    base: i64,
    end: i64,
    epoch: i32,
    bytes: Bytes,
    is_visible: bool,
}

/// One partition's log: batches with their offsets, and whether readers see them.
#[derive(Debug)]
struct ModelLog {
    batches: Vec<ModelBatch>,
}

impl ModelLog {
    fn new(shapes: &[(u8, u8, bool)]) -> Self {
        let mut log = Self { batches: Vec::new() };
        let mut offset = 0;
        for (count, gap, control) in shapes {
            let count = if *control { 1 } else { i64::from(*count) };
            log.push(offset, count, 0, !*control);
            offset += count + i64::from(*gap);
        }
        log
    }

    fn push(&mut self, base: i64, count: i64, epoch: i32, is_visible: bool) {
        let bytes = match is_visible {
            true => batch(base, count, 60),
            false => end_transaction_marker(true, 0, 1, &seal_of(5, base)).unwrap(),
        };
        let mut bytes = bytes.to_vec();
        patch_leader_epoch(&mut bytes, epoch);
        self.batches.push(ModelBatch { base, end: base + count, epoch, bytes: bytes.into(), is_visible });
    }

    fn holds(&self, name: &BatchName) -> bool {
        self.batches.iter().any(|batch| (batch.base, batch.epoch) == *name)
    }

    fn end(&self) -> i64 {
        self.batches.last().map_or(0, |batch| batch.end)
    }

    /// Loses the last batches and gets others under a new epoch.
    fn lose(&mut self, batches: usize, epoch: i32) {
        self.batches.truncate(self.batches.len().saturating_sub(batches));
        let cut = self.end();
        self.push(cut, 3, epoch, true);
        self.push(cut + 3, 2, epoch, true);
    }

    /// The largest epoch that is not above `epoch`, and its end.
    fn end_of_epoch(&self, epoch: i32, leader_epoch: i32) -> Option<Position> {
        if epoch == leader_epoch {
            return Some(Position { offset: self.end(), leader_epoch });
        }
        let last = self.batches.iter().rev().find(|batch| batch.epoch <= epoch)?;
        // An epoch ends where the next one begins.
        let next = self.batches.iter().find(|batch| batch.epoch > last.epoch);
        let offset = next.map_or(self.end(), |next| next.base);
        Some(Position { offset, leader_epoch: last.epoch })
    }

    /// As a broker: whole batches up to a limit, at least one if `first`, with a cut tail if `cut`.
    fn read(&self, offset: i64, limit: usize, first: bool, cut: bool) -> Bytes {
        let mut out = BytesMut::new();
        for batch in self.batches.iter().filter(|batch| batch.end > offset) {
            if out.len() + batch.bytes.len() > limit && !(first && out.is_empty()) {
                if cut {
                    let tail = (limit - out.len().min(limit)).min(batch.bytes.len() - 1);
                    out.extend_from_slice(&batch.bytes[..tail]);
                }
                break;
            }
            out.extend_from_slice(&batch.bytes);
        }
        out.freeze()
    }

    /// The offsets that a reader of this log sees in a range.
    fn visible(&self, from: i64, to: i64) -> Vec<i64> {
        let visible = self.batches.iter().filter(|batch| batch.is_visible);
        visible.flat_map(|batch| batch.base..batch.end).filter(|offset| (from..to).contains(offset)).collect()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Ask(i32),
    Answer { pick: usize, cut: bool },
    Fail(usize),
    Read,
    Release,
    PutBack,
    Seek(i32, i64),
    Pause(i32),
    Resume(i32),
    Reassign(i32),
    MoveLeader(i32, i32),
    LoseRecords(i32, usize),
    OutOfRange(usize),
    ForgetSessions(i32),
    Redirect { pick: usize, follower: i32 },
    CheckEpochs,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3i32).prop_map(Step::Ask),
        6 => (any::<usize>(), any::<bool>()).prop_map(|(pick, cut)| Step::Answer { pick, cut }),
        1 => any::<usize>().prop_map(Step::Fail),
        6 => Just(Step::Read),
        4 => Just(Step::Release),
        1 => Just(Step::PutBack),
        1 => (0..4i32, 0..60i64).prop_map(|(p, o)| Step::Seek(p, o)),
        1 => (0..4i32).prop_map(Step::Pause),
        1 => (0..4i32).prop_map(Step::Resume),
        1 => (0..4i32).prop_map(Step::Reassign),
        1 => (0..4i32, 0..3i32).prop_map(|(p, b)| Step::MoveLeader(p, b)),
        1 => (0..4i32, 0..5usize).prop_map(|(p, n)| Step::LoseRecords(p, n)),
        1 => any::<usize>().prop_map(Step::OutOfRange),
        1 => (0..3i32).prop_map(Step::ForgetSessions),
        1 => (any::<usize>(), 0..3i32).prop_map(|(pick, follower)| Step::Redirect { pick, follower }),
        2 => Just(Step::CheckEpochs),
    ]
}

fn any_log() -> impl Strategy<Value = Vec<(u8, u8, bool)>> {
    prop::collection::vec((1..20u8, 0..4u8, prop::bool::weighted(0.2)), 0..30)
}

/// What the application has read of a partition since its last seek.
#[derive(Debug, Default)]
struct ReadSoFar {
    from: i64,
    to: i64,
    offsets: Vec<i64>,
    /// The batches that came from brokers, read or not.
    fetched: BTreeSet<BatchName>,
    /// The batches that were read, and where the last of them ended.
    read: BTreeSet<BatchName>,
    end: Option<Position>,
}

/// A batch's base offset and epoch: no other batch ever has both.
type BatchName = (i64, i32);

impl ReadSoFar {
    fn restart(&mut self, at: i64) {
        *self = Self { from: at, to: at, ..Self::default() };
    }

    /// Everything that was read is what the log holds: each record once, in order, nothing left out; but for what the
    /// leader lost since, until somebody notices.
    fn check(&self, log: &ModelLog) -> Result<(), TestCaseError> {
        let end_is_known = self.end.is_none_or(|end| {
            log.batches.iter().any(|batch| (batch.end, batch.epoch) == (end.offset, end.leader_epoch))
        });
        if end_is_known && self.read.iter().all(|name| log.holds(name)) {
            prop_assert_eq!(&self.offsets, &log.visible(self.from, self.to), "{:?}", self);
        }
        Ok(())
    }
}

/// What a model broker remembers of a session: the offset and epochs of each partition.
type BrokerSession = BTreeMap<TopicPartition, (i64, i32, i32)>;

struct World {
    fetcher: Fetcher,
    logs: Vec<ModelLog>,
    leaders: Vec<Leader>,
    in_flight: Vec<FetchPlan>,
    sessions: BTreeMap<i32, (i32, BrokerSession)>,
    next_session: i32,
    held: Vec<PartitionRecords>,
    read: Vec<ReadSoFar>,
    now: Instant,
    largest_batch: usize,
}

fn index(partition: &TopicPartition) -> usize {
    usize::try_from(partition.partition).unwrap()
}

impl World {
    fn new(logs: Vec<ModelLog>) -> Self {
        let sizes = logs.iter().flat_map(|log| &log.batches).map(|batch| batch.bytes.len());
        let largest_batch = sizes.max().unwrap_or(0).max(500);
        let mut fetcher = Fetcher::new(config());
        fetcher.assign((0..4).map(tp), false);
        let mut world = Self {
            fetcher,
            logs,
            leaders: (0..4).map(|p| Leader { broker: p % 3, epoch: 0 }).collect(),
            in_flight: Vec::new(),
            sessions: BTreeMap::new(),
            next_session: 0,
            held: Vec::new(),
            read: (0..4).map(|_| ReadSoFar::default()).collect(),
            now: Instant::now(),
            largest_batch,
        };
        world.settle_lookups();
        world
    }

    fn settle_lookups(&mut self) {
        for lookup in self.fetcher.take_resets(self.now) {
            self.read[index(&lookup.partition)].restart(0);
            self.fetcher.reset_found(&lookup.partition, lookup.epoch, at(0));
        }
        let leaders = self.leaders.clone();
        self.fetcher.update_leaders(|p| (Some(leaders[index(p)]), None));
    }

    fn check_epochs(&mut self) {
        for check in self.fetcher.take_epoch_checks(self.now) {
            let at = index(&check.partition);
            if check.leader == self.leaders[at] {
                let found = self.logs[at].end_of_epoch(check.position_epoch, check.leader.epoch);
                self.fetcher.epoch_checked(&check, found);
            } else {
                self.fetcher.epoch_check_failed(&check, false, self.now);
            }
        }
    }

    fn ask(&mut self, broker: i32) -> Result<(), TestCaseError> {
        let Planned::Fetch(plan) = self.fetcher.plan(broker, self.now) else { return Ok(()) };
        prop_assert!(
            self.in_flight.iter().all(|other| other.broker != broker),
            "one in flight for each broker"
        );
        let partitions: BTreeSet<&TopicPartition> = plan.parts.iter().map(|part| &part.partition).collect();
        prop_assert_eq!(partitions.len(), plan.parts.len());
        self.in_flight.push(plan);
        Ok(())
    }

    /// The session's id, or the code by which the broker refuses; checks that the request says what the plan means.
    fn take_session(&mut self, plan: &FetchPlan) -> Result<Result<i32, ErrorCode>, TestCaseError> {
        let request = &plan.session;
        let asked = |at: &usize| {
            let part = &plan.parts[*at];
            (part.partition.clone(), (part.offset, part.leader_epoch, part.last_fetched_epoch))
        };
        let wanted: BrokerSession = (0..plan.parts.len()).map(|at| asked(&at)).collect();
        if request.epoch == 0 {
            prop_assert_eq!(request.changed.len(), plan.parts.len());
            prop_assert!(request.forgotten.is_empty());
            self.sessions.remove(&request.id);
            self.next_session += 1;
            if self.next_session % 4 == 0 {
                return Ok(Ok(0));
            }
            self.sessions.insert(self.next_session, (1, wanted));
            return Ok(Ok(self.next_session));
        }
        let Some((epoch, session)) = self.sessions.get_mut(&request.id) else {
            return Ok(Err(ErrorCode::FetchSessionIdNotFound));
        };
        prop_assert_eq!(*epoch, request.epoch);
        *epoch += 1;
        for (partition, _) in &request.forgotten {
            prop_assert!(session.remove(partition).is_some(), "only what is known is forgotten");
        }
        session.extend(request.changed.iter().map(asked));
        prop_assert_eq!(session, &wanted, "the broker knows what is meant");
        Ok(Ok(request.id))
    }

    fn answer(&mut self, pick: usize, cut: bool, code: ErrorCode) -> Result<(), TestCaseError> {
        if self.in_flight.is_empty() {
            return Ok(());
        }
        let plan = self.in_flight.remove(pick % self.in_flight.len());
        let session = match self.take_session(&plan)? {
            Ok(id) => id,
            Err(code) => {
                self.fetcher.refused(&plan, code, self.now);
                return Ok(());
            }
        };
        let mut left = plan.max_bytes;
        let mut first = true;
        let mut answers = Vec::new();
        for (at, part) in plan.parts.iter().enumerate() {
            let (log, leader) = (&self.logs[index(&part.partition)], self.leaders[index(&part.partition)]);
            if code != ErrorCode::None {
                answers.push(refusal(at, code));
                continue;
            }
            if part.leader_epoch != leader.epoch {
                answers.push(refusal(at, ErrorCode::FencedLeaderEpoch));
                continue;
            }
            let known = log.end_of_epoch(part.last_fetched_epoch, leader.epoch);
            if let Some(end) = known.filter(|end| {
                part.last_fetched_epoch >= 0
                    && (end.leader_epoch < part.last_fetched_epoch || end.offset < part.offset)
            }) {
                let diverging = Some((end.leader_epoch, end.offset));
                answers.push(PartitionAnswer { diverging, ..answer(at, Bytes::new()) });
                continue;
            }
            let records = log.read(part.offset, part.max_bytes.min(left), first, cut);
            left = left.saturating_sub(records.len());
            first &= records.is_empty();
            let mut whole = records.clone();
            while let Ok(Some(batch)) = RecordBatch::split_from(&mut whole) {
                let fetched = &mut self.read[index(&part.partition)].fetched;
                fetched.insert((batch.base_offset(), batch.leader_epoch()));
            }
            // Within a session there is no answer where there is no news.
            if !records.is_empty() || plan.session.epoch == 0 {
                answers.push(answer(at, records));
            }
        }
        self.fetcher.answered(&plan, session, answers, self.now);
        Ok(())
    }

    fn redirect(&mut self, pick: usize, follower: i32) -> Result<(), TestCaseError> {
        if self.in_flight.is_empty() {
            return Ok(());
        }
        let plan = self.in_flight.remove(pick % self.in_flight.len());
        match self.take_session(&plan)? {
            Ok(session) => {
                let sent =
                    |at| PartitionAnswer { preferred_replica: Some(follower), ..answer(at, Bytes::new()) };
                let answers = (0..plan.parts.len()).map(sent).collect();
                self.fetcher.answered(&plan, session, answers, self.now);
            }
            Err(code) => self.fetcher.refused(&plan, code, self.now),
        }
        Ok(())
    }

    fn read(&mut self) -> Result<bool, TestCaseError> {
        let Some(next) = self.fetcher.next() else { return Ok(false) };
        let Next::Records(mut records) = next else {
            return Err(TestCaseError::fail(format!("{next:?}")));
        };
        records.verify().map_err(|(_, error)| TestCaseError::fail(error.to_string()))?;
        let partition = records.topic_partition().clone();
        prop_assert_eq!(self.fetcher.is_current(&partition, records.epoch), Currency::Current);
        let log = &self.logs[index(&partition)];
        let so_far = &mut self.read[index(&partition)];
        if records.position() < so_far.to {
            // Back to where the histories part, and only there.
            let is_behind = |name: &BatchName| name.0 >= records.position();
            prop_assert!(so_far.fetched.iter().any(|b| is_behind(b) && !log.holds(b)), "{:?}", so_far);
            so_far.offsets.retain(|offset| *offset < records.position());
            so_far.read.retain(|name| !is_behind(name));
            so_far.from = so_far.from.min(records.position());
        }
        so_far.offsets.extend(offsets(&records));
        prop_assert!(so_far.offsets.is_sorted_by(|a, b| a < b), "in order, nothing twice: {:?}", so_far);
        so_far.to = records.next_offset();
        so_far.read.extend(records.batches().map(|batch| (batch.base_offset(), batch.leader_epoch())));
        so_far.end = Some(records.end);
        self.fetcher.read_to(&partition, records.epoch, records.end);
        self.held.push(records);
        Ok(true)
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        self.now += Duration::from_millis(150);
        match step {
            Step::Ask(broker) => self.ask(*broker)?,
            Step::Answer { pick, cut } => self.answer(*pick, *cut, ErrorCode::None)?,
            Step::OutOfRange(pick) => self.answer(*pick, false, ErrorCode::OffsetOutOfRange)?,
            Step::Redirect { pick, follower } => self.redirect(*pick, *follower)?,
            Step::Fail(pick) => {
                if !self.in_flight.is_empty() {
                    let plan = self.in_flight.remove(pick % self.in_flight.len());
                    self.fetcher.failed(&plan, self.now);
                }
            }
            Step::Read => drop(self.read()?),
            Step::Release => self.held.clear(),
            Step::PutBack => {
                // The reader took the next records and found that it must not have them now.
                if let Some(Next::Records(records)) = self.fetcher.next() {
                    self.fetcher.put_back(records);
                }
            }
            Step::Seek(partition, offset) => {
                let at_partition = index(&tp(*partition));
                self.read[at_partition].check(&self.logs[at_partition])?;
                self.fetcher.seek(&tp(*partition), at(*offset));
                self.read[at_partition].restart(*offset);
            }
            Step::Pause(partition) => drop(self.fetcher.pause(&tp(*partition))),
            Step::Resume(partition) => drop(self.fetcher.resume(&tp(*partition))),
            Step::Reassign(partition) => {
                self.fetcher.unassign([&tp(*partition)]);
                self.fetcher.assign([tp(*partition)], false);
            }
            Step::MoveLeader(partition, broker) => {
                let leader = &mut self.leaders[index(&tp(*partition))];
                *leader = Leader { broker: *broker, epoch: leader.epoch + 1 };
            }
            Step::LoseRecords(partition, batches) => {
                let at = index(&tp(*partition));
                let leader = &mut self.leaders[at];
                *leader = Leader { broker: (leader.broker + 1) % 3, epoch: leader.epoch + 1 };
                self.logs[at].lose(*batches, leader.epoch);
            }
            Step::ForgetSessions(broker) => {
                self.sessions.retain(|id, _| id % 3 != *broker);
            }
            Step::CheckEpochs => self.check_epochs(),
        }
        self.settle_lookups();
        // A broker may exceed a request's limit by its first batch, so three brokers by three.
        prop_assert!(self.fetcher.buffered_bytes() <= BUDGET + 3 * self.largest_batch);
        Ok(())
    }

    fn is_done(&self) -> bool {
        (0..4).all(|p| {
            self.fetcher
                .position(&tp(p))
                .is_some_and(|position| position.offset >= self.logs[index(&tp(p))].end())
        })
    }
}

proptest! {
    #[test]
    fn every_record_is_read_once_in_order_within_the_budget(
        logs in prop::collection::vec(any_log(), 4),
        steps in prop::collection::vec(any_step(), 0..150),
    ) {
        let mut world = World::new(logs.iter().map(|shapes| ModelLog::new(shapes)).collect());
        for step in &steps {
            world.step(step)?;
        }
        // At last everything that is left is read.
        for partition in 0..4 {
            world.step(&Step::Resume(partition))?;
        }
        for _ in 0..2000 {
            world.step(&Step::CheckEpochs)?;
            for broker in 0..3 {
                world.step(&Step::Ask(broker))?;
            }
            while !world.in_flight.is_empty() {
                world.step(&Step::Answer { pick: 0, cut: false })?;
            }
            while world.read()? {}
            world.step(&Step::Release)?;
            if world.is_done() {
                break;
            }
        }
        prop_assert!(world.is_done(), "stalled at {:?}", world.fetcher.positions());
        for (so_far, log) in world.read.iter().zip(&world.logs) {
            // Whoever read lost records beyond the new end has nothing to notice it by but the end of the epoch.
            so_far.check(log)?;
        }
        prop_assert_eq!(world.fetcher.buffered_bytes(), 0, "all of the budget is free again");
    }
}
