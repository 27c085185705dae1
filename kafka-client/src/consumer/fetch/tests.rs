//! The fetcher against a model cluster: logs of batches with gaps, control records and aborted transactions.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_wire::ErrorCode;
use kafka_wire::record_batch::{BatchBuilder, Seal, end_transaction_marker};
use proptest::prelude::*;
use tokio::time::Instant;

use super::{Currency, FetchConfig, FetchPlan, Fetcher, Leader, Next, PartitionAnswer, Planned, Position};
use crate::TopicPartition;
use crate::consumer::{ConsumeError, IsolationLevel, OffsetReset, PartitionRecords};

const BUDGET: usize = 8 * 1024;

fn config() -> FetchConfig {
    FetchConfig {
        max_buffered_bytes: BUDGET,
        max_bytes: 4 * 1024,
        max_partition_bytes: 1024,
        isolation: IsolationLevel::ReadUncommitted,
        reset: OffsetReset::Earliest,
    }
}

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn at(offset: i64) -> Position {
    Position { offset, leader_epoch: -1 }
}

/// A batch of `count` records whose values are their offsets.
fn batch(base_offset: i64, count: i64, padding: usize) -> Bytes {
    transactional_batch(base_offset, count, padding, None)
}

fn transactional_batch(base_offset: i64, count: i64, padding: usize, producer: Option<i64>) -> Bytes {
    let mut builder = BatchBuilder::new(256);
    for offset in base_offset..base_offset + count {
        let mut value = offset.to_be_bytes().to_vec();
        value.resize(8 + padding, b'.');
        builder.append(1, None, Some(&value), &[]);
    }
    let mut seal = producer.map_or_else(Seal::default, |id| seal_of(id, base_offset));
    seal.transactional = producer.is_some();
    seal.base_offset = base_offset;
    builder.finish(&seal).unwrap()
}

fn seal_of(producer: i64, base_offset: i64) -> Seal {
    let mut seal = Seal::idempotent(producer, 0, 0);
    seal.base_offset = base_offset;
    seal
}

fn fetcher_at(config: FetchConfig, partitions: &[i32], offset: i64) -> Fetcher {
    let mut fetcher = Fetcher::new(config);
    fetcher.assign(partitions.iter().map(|p| tp(*p)), false);
    for partition in partitions {
        fetcher.seek(&tp(*partition), at(offset));
    }
    fetcher.update_leaders(|_| (Some(Leader { broker: 1, epoch: 0 }), None));
    fetcher
}

fn plan(fetcher: &mut Fetcher, broker: i32, now: Instant) -> FetchPlan {
    match fetcher.plan(broker, now) {
        Planned::Fetch(plan) => plan,
        Planned::Wait(at) => panic!("nothing to ask: {at:?}"),
    }
}

fn answer(part: usize, records: Bytes) -> PartitionAnswer {
    PartitionAnswer { part, code: ErrorCode::None, high_watermark: 100, aborted: Vec::new(), records }
}

fn refusal(part: usize, code: ErrorCode) -> PartitionAnswer {
    PartitionAnswer { code, ..answer(part, Bytes::new()) }
}

fn next_records(fetcher: &mut Fetcher) -> PartitionRecords {
    match fetcher.next() {
        Some(Next::Records(records)) => records,
        other => panic!("no records: {other:?}"),
    }
}

fn offsets(records: &PartitionRecords) -> Vec<i64> {
    let mut offsets = Vec::new();
    records
        .for_each_view(|view| {
            let value = view.value.unwrap();
            assert_eq!(value[..8], view.offset.to_be_bytes(), "a record of another offset");
            offsets.push(view.offset);
        })
        .unwrap();
    offsets
}

fn read_all(fetcher: &mut Fetcher, records: PartitionRecords) -> Vec<i64> {
    let read = offsets(&records);
    fetcher.read_to(&records.partition.clone(), records.epoch, at(records.next_offset()));
    fetcher.release(records.charge);
    read
}

#[test]
fn records_below_the_position_are_skipped_and_the_position_follows_the_reader() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0], 3);
    let asked = plan(&mut fetcher, 1, now);
    assert_eq!((asked.parts[0].offset, asked.parts[0].max_bytes), (3, 1024));
    assert!(fetcher.answered(&asked, vec![answer(0, batch(0, 6, 0))], now));
    assert_eq!(fetcher.position(&tp(0)), Some(at(3)), "buffered is not read");
    assert_eq!(plan(&mut fetcher, 1, now).parts[0].offset, 6, "the next fetch goes on behind it");
    let records = next_records(&mut fetcher);
    assert_eq!(read_all(&mut fetcher, records), [3, 4, 5]);
    assert_eq!(fetcher.position(&tp(0)), Some(at(6)));
}

#[test]
fn one_request_is_in_flight_for_each_broker() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0, 1], 0);
    fetcher.update_leaders(|p| (Some(Leader { broker: p.partition, epoch: 0 }), None));
    let first = plan(&mut fetcher, 0, now);
    assert_eq!(fetcher.plan(0, now), Planned::Wait(None));
    assert_eq!(plan(&mut fetcher, 1, now).parts.len(), 1);
    fetcher.answered(&first, vec![], now);
    assert_eq!(plan(&mut fetcher, 0, now).parts[0].partition, tp(0));
}

#[test]
fn a_full_budget_stops_asking_until_the_reader_lets_go() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0], 0);
    let mut next = 0;
    while let Planned::Fetch(asked) = fetcher.plan(1, now) {
        fetcher.answered(&asked, vec![answer(0, batch(next, 1, asked.parts[0].max_bytes - 100))], now);
        next += 1;
    }
    assert!(fetcher.buffered_bytes() <= BUDGET && fetcher.buffered_bytes() > BUDGET - 1024);
    let records = next_records(&mut fetcher);
    assert_eq!(fetcher.plan(1, now), Planned::Wait(None), "the reader still holds it");
    let charge = records.charge;
    fetcher.release(charge);
    assert_eq!(plan(&mut fetcher, 1, now).parts[0].offset, next);
}

#[test]
fn paused_partitions_keep_their_records_and_do_not_starve_others() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0, 1], 0);
    let mut next = 0;
    while let Planned::Fetch(asked) = fetcher.plan(1, now) {
        let part = asked.parts.iter().position(|part| part.partition == tp(0)).unwrap();
        fetcher.answered(&asked, vec![answer(part, batch(next, 1, 900))], now);
        next += 1;
    }
    fetcher.pause(&tp(0));
    assert!(fetcher.next().is_none());
    let asked = plan(&mut fetcher, 1, now);
    assert_eq!(asked.parts.len(), 1);
    fetcher.answered(&asked, vec![answer(0, batch(0, 2, 0))], now);
    let records = next_records(&mut fetcher);
    assert_eq!((records.partition(), read_all(&mut fetcher, records)), (1, vec![0, 1]));
    fetcher.resume(&tp(0));
    for offset in 0..next {
        let records = next_records(&mut fetcher);
        assert_eq!((records.partition(), read_all(&mut fetcher, records)), (0, vec![offset]));
    }
}

#[test]
fn an_answer_from_before_a_seek_is_discarded() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0], 0);
    let asked = plan(&mut fetcher, 1, now);
    fetcher.seek(&tp(0), at(50));
    assert!(!fetcher.answered(&asked, vec![answer(0, batch(0, 6, 0))], now));
    assert!(fetcher.next().is_none());
    assert_eq!(plan(&mut fetcher, 1, now).parts[0].offset, 50);
}

#[test]
fn records_of_a_revoked_partition_are_void_even_when_it_comes_back() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0], 0);
    let asked = plan(&mut fetcher, 1, now);
    fetcher.answered(&asked, vec![answer(0, batch(0, 6, 0))], now);
    let records = next_records(&mut fetcher);
    fetcher.unassign([&tp(0)]);
    fetcher.assign([tp(0)], true);
    assert_eq!(fetcher.is_current(&tp(0), records.epoch), Currency::Void);
    fetcher.read_to(&tp(0), records.epoch, at(6));
    assert_eq!(fetcher.position(&tp(0)), None, "the new assignment has its own position");
}

#[test]
fn an_offset_out_of_range_follows_the_reset_policy() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0], 7);
    let asked = plan(&mut fetcher, 1, now);
    fetcher.answered(&asked, vec![refusal(0, ErrorCode::OffsetOutOfRange)], now);
    let lookups = fetcher.take_resets(now);
    assert_eq!((lookups.len(), lookups[0].reset), (1, OffsetReset::Earliest));
    assert_eq!(fetcher.take_resets(now).len(), 0, "asked once");
    fetcher.reset_found(&tp(0), lookups[0].epoch, at(20));
    assert_eq!(plan(&mut fetcher, 1, now).parts[0].offset, 20);
}

#[test]
fn an_offset_out_of_range_without_a_policy_is_reported_once_and_waits_for_a_seek() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(FetchConfig { reset: OffsetReset::None, ..config() }, &[0], 7);
    let asked = plan(&mut fetcher, 1, now);
    fetcher.answered(&asked, vec![refusal(0, ErrorCode::OffsetOutOfRange)], now);
    let Some(Next::Error(ConsumeError::NoOffset { position, .. })) = fetcher.next() else { panic!() };
    assert_eq!(position, Some(7));
    assert!(fetcher.next().is_none());
    assert_eq!(fetcher.plan(1, now + Duration::from_secs(60)), Planned::Wait(None));
    fetcher.seek(&tp(0), at(9));
    assert_eq!(plan(&mut fetcher, 1, now).parts[0].offset, 9);
}

#[test]
fn a_reset_that_a_seek_overtook_is_dropped() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0], 0);
    fetcher.seek_to(&tp(0), OffsetReset::Latest);
    let lookup = fetcher.take_resets(now).remove(0);
    fetcher.seek(&tp(0), at(5));
    fetcher.reset_found(&tp(0), lookup.epoch, at(1000));
    assert_eq!(fetcher.position(&tp(0)), Some(at(5)));
}

#[test]
fn a_leader_that_moved_asks_for_metadata_and_the_new_leader_is_asked() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0], 0);
    fetcher.take_needs_metadata();
    let asked = plan(&mut fetcher, 1, now);
    fetcher.answered(&asked, vec![refusal(0, ErrorCode::NotLeaderOrFollower)], now);
    assert!(fetcher.take_needs_metadata());
    assert!(matches!(fetcher.plan(1, now), Planned::Wait(Some(_))), "it rests meanwhile");
    fetcher.update_leaders(|_| (Some(Leader { broker: 2, epoch: 1 }), None));
    let asked = plan(&mut fetcher, 2, now);
    assert_eq!((asked.parts[0].offset, asked.parts[0].leader_epoch), (0, 1));
}

#[test]
fn a_topic_made_anew_does_not_inherit_positions() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0], 40);
    let leader = Some(Leader { broker: 1, epoch: 0 });
    fetcher.update_leaders(|_| (leader, Some(kafka_wire::Uuid::from_u128(1))));
    fetcher.update_leaders(|_| (leader, Some(kafka_wire::Uuid::from_u128(2))));
    assert_eq!(fetcher.position(&tp(0)), None);
    assert_eq!(fetcher.take_resets(now).len(), 1);
}

#[test]
fn batches_that_compaction_or_control_records_emptied_do_not_stall_the_position() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0], 0);
    let asked = plan(&mut fetcher, 1, now);
    let marker = end_transaction_marker(true, 0, 1, &seal_of(9, 0)).unwrap();
    fetcher.answered(&asked, vec![answer(0, marker)], now);
    assert!(fetcher.next().is_none());
    assert_eq!(fetcher.position(&tp(0)), Some(at(1)));
    assert_eq!(plan(&mut fetcher, 1, now).parts[0].offset, 1);
}

#[test]
fn a_batch_cut_by_the_limit_is_asked_for_with_a_higher_one() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0], 0);
    let asked = plan(&mut fetcher, 1, now);
    let cut = batch(0, 1, 1500).slice(..1024);
    fetcher.answered(&asked, vec![answer(0, cut)], now);
    let later = now + Duration::from_secs(1);
    assert_eq!(plan(&mut fetcher, 1, later).parts[0].max_bytes, 2048);
}

#[test]
fn read_committed_hides_aborted_transactions_and_nothing_else() {
    let now = Instant::now();
    let config = FetchConfig { isolation: IsolationLevel::ReadCommitted, ..config() };
    let mut fetcher = fetcher_at(config, &[0], 0);
    let mut log = BytesMut::new();
    log.extend_from_slice(&transactional_batch(0, 2, 0, Some(7))); // aborted
    log.extend_from_slice(&transactional_batch(2, 1, 0, Some(8))); // committed
    log.extend_from_slice(&batch(3, 1, 0));
    log.extend_from_slice(&end_transaction_marker(false, 0, 1, &seal_of(7, 4)).unwrap());
    log.extend_from_slice(&end_transaction_marker(true, 0, 1, &seal_of(8, 5)).unwrap());
    log.extend_from_slice(&transactional_batch(6, 1, 0, Some(7))); // the next transaction of 7, committed
    log.extend_from_slice(&end_transaction_marker(true, 0, 1, &seal_of(7, 7)).unwrap());
    let asked = plan(&mut fetcher, 1, now);
    let answer = PartitionAnswer { aborted: vec![(7, 0)], ..answer(0, log.freeze()) };
    fetcher.answered(&asked, vec![answer], now);
    let records = next_records(&mut fetcher);
    assert_eq!(read_all(&mut fetcher, records), [2, 3, 6]);
    assert_eq!(fetcher.position(&tp(0)), Some(at(8)));
}

#[test]
fn a_damaged_checksum_names_the_batch_and_keeps_what_came_before() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0], 0);
    let mut log = BytesMut::from(&batch(0, 2, 0)[..]);
    let mut damaged = batch(2, 2, 0).to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    log.extend_from_slice(&damaged);
    let asked = plan(&mut fetcher, 1, now);
    fetcher.answered(&asked, vec![answer(0, log.freeze())], now);
    let mut records = next_records(&mut fetcher);
    let (offset, _) = records.verify().unwrap_err();
    assert_eq!(offset, 2);
    assert_eq!((offsets(&records), records.next_offset()), (vec![0, 1], 2));
    let charge = records.charge;
    fetcher.release(charge);
    fetcher.refetch(&tp(0), records.epoch, 2, now).unwrap();
    assert_eq!(plan(&mut fetcher, 1, now + Duration::from_secs(2)).parts[0].offset, 2);
}

#[test]
fn bytes_that_are_no_batch_are_reported_after_the_records_before_them() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0], 0);
    let asked = plan(&mut fetcher, 1, now);
    fetcher.answered(&asked, vec![answer(0, Bytes::from(vec![0xff; 100]))], now);
    assert!(matches!(fetcher.next(), Some(Next::Error(ConsumeError::CorruptBatch { offset: 0, .. }))));
    assert!(fetcher.next().is_none());
}

/// One partition's log in the model: batches with their offsets, and whether readers see them.
struct ModelLog {
    batches: Vec<(i64, i64, Bytes, bool)>,
}

impl ModelLog {
    fn new(shapes: &[(u8, u8, bool)]) -> Self {
        let mut offset = 0;
        let batches = shapes
            .iter()
            .map(|(count, gap, control)| {
                let count = if *control { 1 } else { i64::from(*count) };
                let base = offset;
                offset += count + i64::from(*gap);
                let bytes = if *control {
                    end_transaction_marker(true, 0, 1, &seal_of(5, base)).unwrap()
                } else {
                    batch(base, count, 60)
                };
                (base, base + count, bytes, !*control)
            })
            .collect();
        Self { batches }
    }

    fn end(&self) -> i64 {
        self.batches.last().map_or(0, |(_, end, _, _)| *end)
    }

    /// As a broker: whole batches up to a limit, at least one if `first`, with a cut tail if `cut`.
    fn read(&self, offset: i64, limit: usize, first: bool, cut: bool) -> Bytes {
        let mut out = BytesMut::new();
        for (_, end, bytes, _) in &self.batches {
            if *end <= offset {
                continue;
            }
            if out.len() + bytes.len() > limit && !(first && out.is_empty()) {
                if cut {
                    out.extend_from_slice(&bytes[..(limit - out.len().min(limit)).min(bytes.len() - 1)]);
                }
                break;
            }
            out.extend_from_slice(bytes);
        }
        out.freeze()
    }

    fn next_visible(&self, offset: i64) -> Option<i64> {
        self.batches
            .iter()
            .filter(|(_, _, _, visible)| *visible)
            .find_map(|(base, end, _, _)| (*end > offset).then_some((*base).max(offset)))
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
    OutOfRange(usize),
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
        1 => any::<usize>().prop_map(Step::OutOfRange),
    ]
}

fn any_log() -> impl Strategy<Value = Vec<(u8, u8, bool)>> {
    prop::collection::vec((1..20u8, 0..4u8, prop::bool::weighted(0.2)), 0..30)
}

struct World {
    fetcher: Fetcher,
    logs: Vec<ModelLog>,
    leaders: BTreeMap<TopicPartition, i32>,
    in_flight: Vec<FetchPlan>,
    held: Vec<PartitionRecords>,
    /// Where the reader is, by the model.
    expected: BTreeMap<TopicPartition, i64>,
    now: Instant,
    largest_batch: usize,
}

impl World {
    fn settle_lookups(&mut self) {
        for lookup in self.fetcher.take_resets(self.now) {
            self.expected.insert(lookup.partition.clone(), 0);
            self.fetcher.reset_found(&lookup.partition, lookup.epoch, at(0));
        }
        let leaders = self.leaders.clone();
        self.fetcher.update_leaders(|p| (Some(Leader { broker: leaders[p], epoch: 0 }), None));
    }

    fn answer(&mut self, pick: usize, cut: bool, code: ErrorCode) {
        if self.in_flight.is_empty() {
            return;
        }
        let plan = self.in_flight.remove(pick % self.in_flight.len());
        let mut left = plan.max_bytes;
        let mut first = true;
        let mut answers = Vec::new();
        for (index, part) in plan.parts.iter().enumerate() {
            if code != ErrorCode::None {
                answers.push(refusal(index, code));
                continue;
            }
            let log = &self.logs[part.partition.partition as usize];
            let records = log.read(part.offset, part.max_bytes.min(left), first, cut);
            left = left.saturating_sub(records.len());
            first &= records.is_empty();
            answers.push(answer(index, records));
        }
        self.fetcher.answered(&plan, answers, self.now);
    }

    fn read(&mut self) -> Result<bool, TestCaseError> {
        let Some(next) = self.fetcher.next() else { return Ok(false) };
        let Next::Records(mut records) = next else {
            return Err(TestCaseError::fail(format!("{next:?}")));
        };
        records.verify().map_err(|(_, error)| TestCaseError::fail(error.to_string()))?;
        let partition = records.topic_partition().clone();
        prop_assert_eq!(self.fetcher.is_current(&partition, records.epoch), Currency::Current);
        let log = &self.logs[partition.partition as usize];
        let mut expected = self.expected[&partition];
        for offset in offsets(&records) {
            prop_assert_eq!(
                Some(offset),
                log.next_visible(expected),
                "in order, nothing twice, nothing left out"
            );
            expected = offset + 1;
        }
        // Whatever lies between is invisible.
        prop_assert!(log.next_visible(expected).is_none_or(|next| next >= records.next_offset()));
        self.expected.insert(partition.clone(), records.next_offset().max(expected));
        self.fetcher.read_to(&partition, records.epoch, at(records.next_offset()));
        self.held.push(records);
        Ok(true)
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        self.now += Duration::from_millis(150);
        match step {
            Step::Ask(broker) => {
                if let Planned::Fetch(plan) = self.fetcher.plan(*broker, self.now) {
                    self.in_flight.push(plan);
                }
            }
            Step::Answer { pick, cut } => self.answer(*pick, *cut, ErrorCode::None),
            Step::OutOfRange(pick) => self.answer(*pick, false, ErrorCode::OffsetOutOfRange),
            Step::Fail(pick) => {
                if !self.in_flight.is_empty() {
                    let plan = self.in_flight.remove(pick % self.in_flight.len());
                    self.fetcher.failed(&plan, self.now);
                }
            }
            Step::Read => drop(self.read()?),
            Step::Release => {
                for records in self.held.drain(..) {
                    self.fetcher.release(records.charge);
                }
            }
            Step::PutBack => {
                // The reader took the next records and found that it must not have them now.
                if let Some(Next::Records(records)) = self.fetcher.next() {
                    self.fetcher.put_back(records);
                }
            }
            Step::Seek(partition, offset) => {
                self.fetcher.seek(&tp(*partition), at(*offset));
                self.expected.insert(tp(*partition), *offset);
            }
            Step::Pause(partition) => drop(self.fetcher.pause(&tp(*partition))),
            Step::Resume(partition) => drop(self.fetcher.resume(&tp(*partition))),
            Step::Reassign(partition) => {
                self.fetcher.unassign([&tp(*partition)]);
                self.fetcher.assign([tp(*partition)], false);
            }
            Step::MoveLeader(partition, broker) => {
                self.leaders.insert(tp(*partition), *broker);
            }
        }
        self.settle_lookups();
        // A broker may exceed a request's limit by its first batch, so three brokers by three.
        prop_assert!(self.fetcher.buffered_bytes() <= BUDGET + 3 * self.largest_batch + 1024);
        Ok(())
    }
}

proptest! {
    #[test]
    fn every_record_is_read_once_in_order_within_the_budget(
        logs in prop::collection::vec(any_log(), 4),
        steps in prop::collection::vec(any_step(), 0..150),
    ) {
        let logs: Vec<ModelLog> = logs.iter().map(|shapes| ModelLog::new(shapes)).collect();
        let largest_batch = logs.iter().flat_map(|log| &log.batches).map(|(_, _, b, _)| b.len()).max().unwrap_or(0);
        let mut fetcher = Fetcher::new(config());
        fetcher.assign((0..4).map(tp), false);
        let mut world = World {
            fetcher,
            logs,
            leaders: (0..4).map(|p| (tp(p), p % 3)).collect(),
            in_flight: Vec::new(),
            held: Vec::new(),
            expected: BTreeMap::new(),
            now: Instant::now(),
            largest_batch,
        };
        world.settle_lookups();
        for step in &steps {
            world.step(step)?;
        }
        // At last everything that is left is read.
        for partition in 0..4 {
            world.step(&Step::Resume(partition))?;
        }
        for _ in 0..2000 {
            for broker in 0..3 {
                world.step(&Step::Ask(broker))?;
            }
            while !world.in_flight.is_empty() {
                world.step(&Step::Answer { pick: 0, cut: false })?;
            }
            while world.read()? {}
            world.step(&Step::Release)?;
            let done = (0..4).all(|p| {
                let position = world.fetcher.position(&tp(p)).map_or(0, |position| position.offset);
                position >= world.logs[p as usize].end()
            });
            if done {
                break;
            }
        }
        for partition in 0..4 {
            let position = world.fetcher.position(&tp(partition)).unwrap().offset;
            prop_assert!(position >= world.logs[partition as usize].end(), "partition {partition} stalled at {position}");
        }
        prop_assert_eq!(world.fetcher.buffered_bytes(), 0, "all of the budget is free again");
    }
}
