//! What the fetcher does about single events; `model_tests` lets them happen in any order.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_wire::ErrorCode;
use kafka_wire::record_batch::{BatchBuilder, Seal, end_transaction_marker, patch_leader_epoch};
use tokio::time::Instant;

use super::{
    Currency, EpochCheck, FetchConfig, FetchPlan, Fetcher, Leader, Next, PartitionAnswer, Planned, Position,
};
use crate::TopicPartition;
use crate::consumer::{ConsumeError, IsolationLevel, OffsetReset, PartitionRecords, TopicRecreation};

pub(super) const BUDGET: usize = 8 * 1024;

pub(super) fn config() -> FetchConfig {
    FetchConfig {
        max_buffered_bytes: BUDGET,
        max_bytes: 4 * 1024,
        max_partition_bytes: 1024,
        isolation: IsolationLevel::ReadUncommitted,
        reset: OffsetReset::Earliest,
        recreation: TopicRecreation::Reset,
        preferred_replica_lifetime: Duration::from_secs(300),
    }
}

pub(super) fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

pub(super) fn at(offset: i64) -> Position {
    Position { offset, leader_epoch: -1 }
}

/// A batch of `count` records whose values are their offsets.
pub(super) fn batch(base_offset: i64, count: i64, padding: usize) -> Bytes {
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

pub(super) fn seal_of(producer: i64, base_offset: i64) -> Seal {
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

pub(super) fn answer(part: usize, records: Bytes) -> PartitionAnswer {
    PartitionAnswer {
        part,
        code: ErrorCode::None,
        high_watermark: 100,
        last_stable_offset: 90,
        log_start_offset: 0,
        diverging: None,
        preferred_replica: None,
        aborted: Vec::new(),
        records,
    }
}

pub(super) fn refusal(part: usize, code: ErrorCode) -> PartitionAnswer {
    PartitionAnswer { code, ..answer(part, Bytes::new()) }
}

fn next_records(fetcher: &mut Fetcher) -> PartitionRecords {
    match fetcher.next() {
        Some(Next::Records(records)) => records,
        other => panic!("no records: {other:?}"),
    }
}

pub(super) fn offsets(records: &PartitionRecords) -> Vec<i64> {
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
    fetcher.read_to(&records.partition.clone(), records.epoch, records.end);
    read
}

#[test]
fn records_below_the_position_are_skipped_and_the_position_follows_the_reader() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0], 3);
    let asked = plan(&mut fetcher, 1, now);
    assert_eq!((asked.parts[0].offset, asked.parts[0].max_bytes), (3, 1024));
    assert!(fetcher.answered(&asked, 0, vec![answer(0, batch(0, 6, 0))], now));
    assert_eq!(fetcher.position(&tp(0)), Some(at(3)), "buffered is not read");
    assert_eq!(plan(&mut fetcher, 1, now).parts[0].offset, 6, "the next fetch goes on behind it");
    let records = next_records(&mut fetcher);
    assert_eq!(read_all(&mut fetcher, records), [3, 4, 5]);
    assert_eq!(fetcher.position(&tp(0)).unwrap().offset, 6);
}

#[test]
fn one_request_is_in_flight_for_each_broker() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0, 1], 0);
    fetcher.update_leaders(|p| (Some(Leader { broker: p.partition, epoch: 0 }), None));
    let first = plan(&mut fetcher, 0, now);
    assert_eq!(fetcher.plan(0, now), Planned::Wait(None));
    assert_eq!(plan(&mut fetcher, 1, now).parts.len(), 1);
    fetcher.answered(&first, 0, vec![], now);
    assert_eq!(plan(&mut fetcher, 0, now).parts[0].partition, tp(0));
}

#[test]
fn a_full_budget_stops_asking_until_the_reader_lets_go() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0], 0);
    let mut next = 0;
    while let Planned::Fetch(asked) = fetcher.plan(1, now) {
        assert!(fetcher.buffered_bytes() + asked.max_bytes <= BUDGET);
        fetcher.answered(&asked, 0, vec![answer(0, batch(next, 1, asked.parts[0].max_bytes - 100))], now);
        next += 1;
    }
    assert!(fetcher.buffered_bytes() <= BUDGET && fetcher.buffered_bytes() > BUDGET - 3 * 1024);
    let records = next_records(&mut fetcher);
    assert_eq!(fetcher.plan(1, now), Planned::Wait(None), "the reader still holds it");
    drop(records);
    assert_eq!(plan(&mut fetcher, 1, now).parts[0].offset, next);
}

#[test]
fn paused_partitions_keep_their_records_and_do_not_starve_others() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0, 1], 0);
    let mut next = 0;
    while let Planned::Fetch(asked) = fetcher.plan(1, now) {
        let part = asked.parts.iter().position(|part| part.partition == tp(0)).unwrap();
        fetcher.answered(&asked, 0, vec![answer(part, batch(next, 1, 900))], now);
        next += 1;
    }
    fetcher.pause(&tp(0));
    assert!(fetcher.next().is_none());
    let asked = plan(&mut fetcher, 1, now);
    assert_eq!(asked.parts.len(), 1);
    fetcher.answered(&asked, 0, vec![answer(0, batch(0, 2, 0))], now);
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
    assert!(!fetcher.answered(&asked, 0, vec![answer(0, batch(0, 6, 0))], now));
    assert!(fetcher.next().is_none());
    assert_eq!(plan(&mut fetcher, 1, now).parts[0].offset, 50);
}

#[test]
fn records_of_a_revoked_partition_are_void_even_when_it_comes_back() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0], 0);
    let asked = plan(&mut fetcher, 1, now);
    fetcher.answered(&asked, 0, vec![answer(0, batch(0, 6, 0))], now);
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
    fetcher.answered(&asked, 0, vec![refusal(0, ErrorCode::OffsetOutOfRange)], now);
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
    fetcher.answered(&asked, 0, vec![refusal(0, ErrorCode::OffsetOutOfRange)], now);
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
    fetcher.answered(&asked, 0, vec![refusal(0, ErrorCode::NotLeaderOrFollower)], now);
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
    fetcher.answered(&asked, 0, vec![answer(0, marker)], now);
    assert!(fetcher.next().is_none());
    assert_eq!(fetcher.position(&tp(0)).unwrap().offset, 1);
    assert_eq!(plan(&mut fetcher, 1, now).parts[0].offset, 1);
}

#[test]
fn a_batch_cut_by_the_limit_is_asked_for_with_a_higher_one() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0], 0);
    let asked = plan(&mut fetcher, 1, now);
    let cut = batch(0, 1, 1500).slice(..1024);
    fetcher.answered(&asked, 0, vec![answer(0, cut)], now);
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
    fetcher.answered(&asked, 0, vec![answer], now);
    let records = next_records(&mut fetcher);
    assert_eq!(read_all(&mut fetcher, records), [2, 3, 6]);
    assert_eq!(fetcher.position(&tp(0)).unwrap().offset, 8);
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
    fetcher.answered(&asked, 0, vec![answer(0, log.freeze())], now);
    let mut records = next_records(&mut fetcher);
    let (offset, _) = records.verify().unwrap_err();
    assert_eq!(offset, 2);
    assert_eq!((offsets(&records), records.next_offset()), (vec![0, 1], 2));
    let epoch = records.epoch;
    drop(records);
    fetcher.refetch(&tp(0), epoch, 2, now).unwrap();
    assert_eq!(plan(&mut fetcher, 1, now + Duration::from_secs(2)).parts[0].offset, 2);
}

#[test]
fn bytes_that_are_no_batch_are_reported_after_the_records_before_them() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0], 0);
    let asked = plan(&mut fetcher, 1, now);
    fetcher.answered(&asked, 0, vec![answer(0, Bytes::from(vec![0xff; 100]))], now);
    assert!(matches!(fetcher.next(), Some(Next::Error(ConsumeError::CorruptBatch { offset: 0, .. }))));
    assert!(fetcher.next().is_none());
}

/// As `batch`, appended in a leader epoch.
pub(super) fn epoch_batch(base_offset: i64, count: i64, epoch: i32) -> Bytes {
    let mut bytes = batch(base_offset, count, 0).to_vec();
    patch_leader_epoch(&mut bytes, epoch);
    bytes.into()
}

fn led_by(fetcher: &mut Fetcher, broker: i32, epoch: i32) {
    fetcher.update_leaders(|_| (Some(Leader { broker, epoch }), None));
}

/// Has read offsets 0 and 1 and buffered 2 to 5, all of epoch 0, when a leader of epoch 1 takes over.
fn after_an_election(config: FetchConfig, now: Instant) -> (Fetcher, EpochCheck) {
    let mut fetcher = fetcher_at(config, &[0], 0);
    for (from, to) in [(0, 2), (2, 4), (4, 6)] {
        let asked = plan(&mut fetcher, 1, now);
        fetcher.answered(&asked, 0, vec![answer(0, epoch_batch(from, to - from, 0))], now);
    }
    let records = next_records(&mut fetcher);
    assert_eq!(read_all(&mut fetcher, records), [0, 1]);
    led_by(&mut fetcher, 2, 1);
    assert_eq!(fetcher.plan(2, now), Planned::Wait(None), "first it is checked");
    let check = fetcher.take_epoch_checks(now).remove(0);
    assert_eq!((check.position_epoch, check.leader.epoch), (0, 1));
    assert!(fetcher.take_epoch_checks(now).is_empty(), "asked once");
    (fetcher, check)
}

#[test]
fn a_new_leader_that_has_everything_is_read_on() {
    let now = Instant::now();
    let (mut fetcher, check) = after_an_election(config(), now);
    fetcher.epoch_checked(&check, Some(Position { offset: 6, leader_epoch: 0 }));
    let asked = plan(&mut fetcher, 2, now);
    assert_eq!((asked.parts[0].offset, asked.parts[0].last_fetched_epoch), (6, 0));
    let records = next_records(&mut fetcher);
    assert_eq!(read_all(&mut fetcher, records), [2, 3]);
}

#[test]
fn what_is_buffered_and_lost_is_dropped_and_the_reader_notices_nothing() {
    let now = Instant::now();
    let (mut fetcher, check) = after_an_election(config(), now);
    fetcher.epoch_checked(&check, Some(Position { offset: 4, leader_epoch: 0 }));
    let asked = plan(&mut fetcher, 2, now);
    assert_eq!(asked.parts[0].offset, 4);
    fetcher.answered(&asked, 0, vec![answer(0, epoch_batch(4, 1, 1))], now);
    for expected in [&[2, 3][..], &[4]] {
        let records = next_records(&mut fetcher);
        assert_eq!(read_all(&mut fetcher, records), expected);
    }
}

#[test]
fn records_that_were_read_and_lost_send_the_reader_back_to_where_histories_part() {
    let now = Instant::now();
    let (mut fetcher, check) = after_an_election(config(), now);
    fetcher.epoch_checked(&check, Some(Position { offset: 1, leader_epoch: 0 }));
    assert!(fetcher.next().is_none());
    assert_eq!(fetcher.position(&tp(0)).unwrap().offset, 1);
    assert_eq!(plan(&mut fetcher, 2, now).parts[0].offset, 1);
}

#[test]
fn records_that_were_read_and_lost_are_reported_without_a_reset_policy() {
    let now = Instant::now();
    let (mut fetcher, check) = after_an_election(FetchConfig { reset: OffsetReset::None, ..config() }, now);
    fetcher.epoch_checked(&check, Some(Position { offset: 1, leader_epoch: 0 }));
    let Some(Next::Error(error)) = fetcher.next() else { panic!() };
    assert!(matches!(error, ConsumeError::LogTruncated { position: 2, diverged_at: Some(1), .. }), "{error}");
    assert_eq!(fetcher.plan(2, now), Planned::Wait(None), "it waits for a seek");
}

#[test]
fn a_fetch_answer_tells_of_a_truncation_as_well() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0], 0);
    let asked = plan(&mut fetcher, 1, now);
    fetcher.answered(&asked, 0, vec![answer(0, epoch_batch(0, 4, 2))], now);
    let records = next_records(&mut fetcher);
    read_all(&mut fetcher, records);
    let asked = plan(&mut fetcher, 1, now);
    assert_eq!(asked.parts[0].last_fetched_epoch, 2);
    fetcher.answered(
        &asked,
        0,
        vec![PartitionAnswer { diverging: Some((1, 3)), ..answer(0, Bytes::new()) }],
        now,
    );
    assert_eq!(fetcher.position(&tp(0)), Some(Position { offset: 3, leader_epoch: 1 }));
}

#[test]
fn a_committed_position_with_an_epoch_is_checked_and_an_old_broker_is_not_asked_twice() {
    let now = Instant::now();
    let mut fetcher = Fetcher::new(config());
    fetcher.assign([tp(0)], true);
    led_by(&mut fetcher, 1, 5);
    let (partition, epoch) = fetcher.take_committed_lookups(now).remove(0);
    fetcher.committed(&partition, epoch, Some(Position { offset: 9, leader_epoch: 4 }));
    let check = fetcher.take_epoch_checks(now).remove(0);
    fetcher.epoch_check_failed(&check, false, now);
    assert!(fetcher.take_epoch_checks(now).is_empty(), "it rests first");
    let later = now + Duration::from_secs(1);
    let check = fetcher.take_epoch_checks(later).remove(0);
    fetcher.epoch_check_failed(&check, true, later);
    assert_eq!(plan(&mut fetcher, 1, later).parts[0].offset, 9);
}

#[test]
fn a_follower_is_read_until_it_fails_or_its_time_is_over() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0], 0);
    let redirect = |fetcher: &mut Fetcher, now| {
        let asked = plan(fetcher, 1, now);
        let sent = PartitionAnswer { preferred_replica: Some(2), ..answer(0, Bytes::new()) };
        fetcher.answered(&asked, 0, vec![sent], now);
        assert!(fetcher.take_sources_changed());
        assert_eq!(fetcher.sources().into_iter().collect::<Vec<_>>(), [2]);
    };
    redirect(&mut fetcher, now);
    let Planned::Wait(Some(expiry)) = fetcher.plan(1, now) else {
        panic!("the leader is asked again some day")
    };
    let asked = plan(&mut fetcher, 2, now);
    // A follower may lag: out of range there means nothing.
    fetcher.answered(&asked, 0, vec![refusal(0, ErrorCode::OffsetOutOfRange)], now);
    assert!(fetcher.take_sources_changed());
    redirect(&mut fetcher, now);
    let asked = plan(&mut fetcher, 2, now);
    fetcher.failed(&asked, now);
    assert!(fetcher.take_sources_changed());
    redirect(&mut fetcher, now);
    assert_eq!(expiry, now + Duration::from_secs(300));
    assert_eq!(plan(&mut fetcher, 1, expiry).parts[0].offset, 0);
}

#[test]
fn out_of_range_at_a_follower_resets_nothing_until_the_leader_says_so_too() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0], 7);
    let asked = plan(&mut fetcher, 1, now);
    let sent = PartitionAnswer { preferred_replica: Some(2), ..answer(0, Bytes::new()) };
    fetcher.answered(&asked, 0, vec![sent], now);
    let asked = plan(&mut fetcher, 2, now);
    fetcher.answered(&asked, 0, vec![refusal(0, ErrorCode::OffsetOutOfRange)], now);
    assert!(fetcher.take_resets(now).is_empty(), "a follower may lag behind");
    assert!(fetcher.next().is_none(), "nothing to tell the reader");
    assert_eq!(fetcher.position(&tp(0)).unwrap().offset, 7);
    let asked = plan(&mut fetcher, 1, now);
    assert_eq!(asked.parts[0].offset, 7);
    fetcher.answered(&asked, 0, vec![refusal(0, ErrorCode::OffsetOutOfRange)], now);
    assert_eq!(fetcher.take_resets(now)[0].reset, OffsetReset::Earliest);
}

#[test]
fn the_lag_ends_where_the_reader_may_read() {
    let now = Instant::now();
    for (isolation, lag) in [(IsolationLevel::ReadUncommitted, 98), (IsolationLevel::ReadCommitted, 88)] {
        let mut fetcher = fetcher_at(FetchConfig { isolation, ..config() }, &[0], 0);
        assert_eq!(fetcher.lag(&tp(0)), None);
        let asked = plan(&mut fetcher, 1, now);
        fetcher.answered(&asked, 0, vec![answer(0, batch(0, 2, 0))], now);
        let records = next_records(&mut fetcher);
        read_all(&mut fetcher, records);
        assert_eq!(fetcher.lag(&tp(0)), Some(lag));
    }
}

#[test]
fn an_offset_out_of_range_goes_back_to_the_time_of_the_last_record() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(FetchConfig { reset: OffsetReset::LastConsumed, ..config() }, &[0], 0);
    let asked = plan(&mut fetcher, 1, now);
    fetcher.answered(&asked, 0, vec![refusal(0, ErrorCode::OffsetOutOfRange)], now);
    let lookup = fetcher.take_resets(now).remove(0);
    assert_eq!(lookup.reset, OffsetReset::Earliest, "nothing was read yet");
    fetcher.reset_found(&tp(0), lookup.epoch, at(0));
    let asked = plan(&mut fetcher, 1, now);
    fetcher.answered(&asked, 0, vec![answer(0, batch(0, 2, 0))], now);
    let records = next_records(&mut fetcher);
    read_all(&mut fetcher, records);
    let asked = plan(&mut fetcher, 1, now);
    fetcher.answered(&asked, 0, vec![refusal(0, ErrorCode::OffsetOutOfRange)], now);
    assert_eq!(fetcher.take_resets(now)[0].reset, OffsetReset::Timestamp(1));
}

#[test]
fn a_topic_made_anew_is_reported_or_read_from_its_beginning_as_asked() {
    for (recreation, reset) in
        [(TopicRecreation::Fail, None), (TopicRecreation::Earliest, Some(OffsetReset::Earliest))]
    {
        let config = FetchConfig { reset: OffsetReset::Latest, recreation, ..config() };
        let mut fetcher = fetcher_at(config, &[0], 40);
        for id in [1, 2] {
            let leader = Some(Leader { broker: 1, epoch: 0 });
            fetcher.update_leaders(|_| (leader, Some(kafka_wire::Uuid::from_u128(id))));
        }
        assert_eq!(fetcher.take_resets(Instant::now()).first().map(|lookup| lookup.reset), reset);
        let told = fetcher.next();
        assert_eq!(matches!(told, Some(Next::Error(ConsumeError::TopicRecreated { .. }))), reset.is_none());
    }
}

#[test]
fn a_refused_session_is_begun_anew_at_once() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0], 0);
    let asked = plan(&mut fetcher, 1, now);
    fetcher.answered(&asked, 77, vec![answer(0, Bytes::new())], now);
    let asked = plan(&mut fetcher, 1, now);
    assert_eq!((asked.session.id, asked.session.epoch, asked.session.changed.len()), (77, 1, 0));
    fetcher.refused(&asked, ErrorCode::FetchSessionIdNotFound, now);
    let asked = plan(&mut fetcher, 1, now);
    assert_eq!((asked.session.id, asked.session.epoch, asked.session.changed.len()), (0, 0, 1));
}

#[test]
fn one_small_piece_keeps_the_budget_of_its_frame_until_it_is_copied_out_of_it() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0, 1], 0);
    let asked = plan(&mut fetcher, 1, now);
    let frame = vec![answer(0, batch(0, 1, 0)), answer(1, batch(0, 1, 6000))];
    fetcher.answered(&asked, 0, frame, now);
    fetcher.pause(&tp(0));
    let large = next_records(&mut fetcher);
    assert_eq!(read_all(&mut fetcher, large), [0]);
    assert!(fetcher.buffered_bytes() > 6000, "a slice keeps all of its frame");
    let asked = plan(&mut fetcher, 1, now);
    assert!(fetcher.buffered_bytes() < 500 && asked.max_bytes > 4000);
    fetcher.resume(&tp(0));
    let small = next_records(&mut fetcher);
    assert_eq!(read_all(&mut fetcher, small), [0]);
    assert_eq!(fetcher.buffered_bytes(), 0);
}

#[test]
fn what_tiny_batches_take_besides_their_bytes_is_counted_and_reckoned_with() {
    let now = Instant::now();
    let budget = 1024 * 1024;
    let config = FetchConfig {
        max_buffered_bytes: budget,
        max_bytes: budget,
        max_partition_bytes: budget / 10,
        ..config()
    };
    let mut fetcher = fetcher_at(config, &[0], 0);
    let mut offset = 0;
    for round in 0..20 {
        let Planned::Fetch(asked) = fetcher.plan(1, now) else { break };
        let mut records = Vec::new();
        while records.len() + 100 <= asked.max_bytes {
            records.extend_from_slice(&batch(offset, 1, 0));
            offset += 1;
        }
        let bytes = records.len();
        let before = fetcher.buffered_bytes();
        fetcher.answered(&asked, 0, vec![answer(0, records.into())], now);
        let taken = fetcher.buffered_bytes() - before;
        assert!(taken > bytes + bytes / 4, "{taken} for {bytes}");
        assert!(round == 0 || taken <= asked.reserved + asked.reserved / 4, "{taken} of {asked:?}");
    }
    assert!(fetcher.buffered_bytes() <= budget, "{}", fetcher.buffered_bytes());
}

#[test]
fn a_record_above_the_budget_passes_alone() {
    let now = Instant::now();
    let mut fetcher = fetcher_at(config(), &[0, 1], 0);
    fetcher.update_leaders(|p| (Some(Leader { broker: p.partition, epoch: 0 }), None));
    let asked = plan(&mut fetcher, 0, now);
    fetcher.answered(&asked, 0, vec![answer(0, batch(0, 1, 2 * BUDGET))], now);
    assert_eq!((fetcher.plan(0, now), fetcher.plan(1, now)), (Planned::Wait(None), Planned::Wait(None)));
    let giant = next_records(&mut fetcher);
    assert_eq!(fetcher.plan(1, now), Planned::Wait(None), "the reader has it");
    assert_eq!(read_all(&mut fetcher, giant), [0]);
    let asked = plan(&mut fetcher, 0, now);
    assert_eq!(fetcher.plan(1, now), Planned::Wait(None), "another giant may come");
    fetcher.answered(&asked, 0, vec![answer(0, Bytes::new())], now);
    assert_eq!(plan(&mut fetcher, 1, now).parts.len(), 1);
}
