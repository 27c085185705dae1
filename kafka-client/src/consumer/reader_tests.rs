//! What a reader sees while seeks, pauses and rebalances happen around it. Fetched batches are put in by hand, so
//! nothing connects and no time passes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use kafka_wire::ErrorCode;
use kafka_wire::record_batch::{BatchBuilder, Seal};
use tokio::time::Instant;

use super::fetch::{Leader, PartitionAnswer, Planned, Position};
use super::shared::Shared;
use super::{CommitError, ConsumeError, ConsumerBuilder, ConsumerRecord};
use crate::TopicPartition;
use crate::client::Client;

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn batch(base_offset: i64, count: i64) -> Bytes {
    let mut builder = BatchBuilder::new(256);
    for offset in base_offset..base_offset + count {
        builder.append(1, Some(b"k"), Some(&offset.to_be_bytes()), &[]);
    }
    let mut seal = Seal::default();
    seal.base_offset = base_offset;
    builder.finish(&seal).unwrap()
}

fn options(configure: impl FnOnce(ConsumerBuilder) -> ConsumerBuilder) -> Shared {
    let client = Client::builder("localhost:1").build().unwrap();
    Shared::new(client.clone(), configure(client.consumer()).options).0
}

/// Two partitions, read from offset 0.
fn reader() -> Shared {
    let shared = options(|builder| builder);
    for partition in [tp(0), tp(1)] {
        shared.assign(vec![partition.clone()], false);
        shared.seek(&partition, Position { offset: 0, leader_epoch: -1 });
    }
    shared
}

/// As if the leader of one partition had answered with these bytes.
fn fetch(shared: &Shared, partition: i32, records: Bytes) -> i64 {
    let now = Instant::now() + Duration::from_secs(60);
    let mut fetcher = shared.fetcher.lock();
    fetcher.update_leaders(|p| (Some(Leader { broker: p.partition, epoch: 0 }), None));
    let Planned::Fetch(plan) = fetcher.plan(partition, now) else { panic!("nothing to ask") };
    let offset = plan.parts[0].offset;
    let answer = PartitionAnswer {
        part: 0,
        code: ErrorCode::None,
        high_watermark: 100,
        last_stable_offset: 100,
        log_start_offset: 0,
        diverging: None,
        preferred_replica: None,
        aborted: Vec::new(),
        records,
    };
    fetcher.answered(&plan, 0, vec![answer], now);
    drop(fetcher);
    shared.readable.tell(());
    offset
}

fn next(shared: &Shared) -> Option<ConsumerRecord> {
    if let Some(record) = shared.next_at_hand() {
        return Some(record);
    }
    shared.next_record().now_or_never().map(|result| result.unwrap().unwrap())
}

fn next_offset(shared: &Shared) -> Option<i64> {
    next(shared).map(|record| {
        assert_eq!(record.value.as_deref(), Some(&record.offset.to_be_bytes()[..]));
        record.offset
    })
}

fn done(shared: &Shared, partition: i32) -> i64 {
    shared.done_positions()[&tp(partition)].offset
}

fn position(shared: &Shared, partition: i32) -> i64 {
    shared.positions()[&tp(partition)].offset
}

#[test]
fn records_come_in_order_and_the_position_is_behind_the_last_one() {
    let shared = reader();
    fetch(&shared, 0, batch(0, 3));
    assert_eq!(next_offset(&shared), Some(0));
    assert_eq!(next_offset(&shared), Some(1));
    assert_eq!(position(&shared, 0), 2);
    assert_eq!(next_offset(&shared), Some(2));
    assert_eq!(next_offset(&shared), None);
    assert_eq!((position(&shared, 0), shared.fetcher.lock().buffered_bytes()), (3, 0));
}

#[test]
fn dropping_a_call_that_waits_loses_nothing() {
    let shared = reader();
    {
        let mut waiting = Box::pin(shared.next_record());
        assert!((&mut waiting).now_or_never().is_none());
        fetch(&shared, 0, batch(0, 2));
        // Woken, but dropped before it runs.
    }
    assert_eq!(next_offset(&shared), Some(0));
    assert_eq!(next_offset(&shared), Some(1));
}

#[test]
fn a_seek_takes_effect_before_the_next_record() {
    let shared = reader();
    fetch(&shared, 0, batch(0, 5));
    assert_eq!(next_offset(&shared), Some(0));
    shared.seek(&tp(0), Position { offset: 20, leader_epoch: -1 });
    assert_eq!(next_offset(&shared), None);
    assert_eq!(fetch(&shared, 0, batch(20, 1)), 20);
    assert_eq!(next_offset(&shared), Some(20));
}

#[test]
fn a_pause_keeps_the_rest_of_a_half_read_batch() {
    let shared = reader();
    fetch(&shared, 0, batch(0, 3));
    fetch(&shared, 1, batch(0, 1));
    assert_eq!(next(&shared).map(|r| (r.partition, r.offset)), Some((0, 0)));
    shared.pause(&tp(0));
    assert_eq!(next(&shared).map(|r| (r.partition, r.offset)), Some((1, 0)));
    assert!(next(&shared).is_none());
    assert_eq!(position(&shared, 0), 1);
    shared.resume(&tp(0));
    assert_eq!(next_offset(&shared), Some(1));
    assert_eq!(next_offset(&shared), Some(2));
}

#[test]
fn nothing_of_a_revoked_partition_is_handed_out() {
    let shared = reader();
    fetch(&shared, 0, batch(0, 3));
    assert_eq!(next_offset(&shared), Some(0));
    shared.unassign(&[tp(0)]);
    assert_eq!(next_offset(&shared), None);
    assert_eq!(shared.fetcher.lock().buffered_bytes(), 0);
}

#[test]
fn the_record_at_work_is_not_done_until_the_next_one_is_asked_for() {
    let shared = reader();
    fetch(&shared, 0, batch(0, 2));
    next(&shared);
    assert_eq!((position(&shared, 0), done(&shared, 0)), (1, 0));
    next(&shared);
    assert_eq!((position(&shared, 0), done(&shared, 0)), (2, 1));
    assert!(next(&shared).is_none());
    assert_eq!(done(&shared, 0), 2);
}

/// After an explicit commit the records of the batch at hand counted as done while the application worked on them: a
/// rebalance did not wait for it, and committed them.
#[test]
fn the_record_after_a_commit_is_at_work_again() {
    let shared = reader();
    fetch(&shared, 0, batch(0, 3));
    next(&shared);
    next(&shared);
    shared.finish_reading();
    assert_eq!((shared.reader_is_busy(), done(&shared, 0)), (false, 2));
    next(&shared);
    assert_eq!((shared.reader_is_busy(), done(&shared, 0)), (true, 2));
}

#[test]
fn the_batch_at_work_is_not_done_until_the_next_one_is_asked_for() {
    let shared = reader();
    fetch(&shared, 0, batch(0, 2));
    fetch(&shared, 1, batch(0, 4));
    let first = shared.next_batch().now_or_never().unwrap().unwrap().unwrap();
    assert_eq!((first.partition(), first.next_offset()), (0, 2));
    assert_eq!((position(&shared, 0), done(&shared, 0)), (2, 0));
    let second = shared.next_batch().now_or_never().unwrap().unwrap().unwrap();
    assert_eq!((second.partition(), done(&shared, 0), done(&shared, 1)), (1, 2, 0));
}

#[test]
fn a_batch_after_single_records_is_the_rest() {
    let shared = reader();
    fetch(&shared, 0, batch(0, 4));
    next(&shared);
    let rest = shared.next_batch().now_or_never().unwrap().unwrap().unwrap();
    let mut offsets = Vec::new();
    rest.for_each_view(|view| offsets.push(view.offset)).unwrap();
    assert_eq!((rest.position(), offsets), (1, vec![1, 2, 3]));
    assert_eq!(shared.fetcher.lock().buffered_bytes(), 0);
}

#[test]
fn a_rebalance_waits_for_the_reader_and_the_reader_for_the_rebalance() {
    let shared = reader();
    fetch(&shared, 0, batch(0, 3));
    assert_eq!(next_offset(&shared), Some(0));
    shared.set_gate(true);
    assert!(shared.reader_is_busy(), "the application may still work on record 0");
    let mut returned = shared.returned.follow();
    let mut waiting = Box::pin(shared.next_record());
    assert!((&mut waiting).now_or_never().is_none());
    assert!(returned.changed().now_or_never().is_some() && !shared.reader_is_busy());
    assert_eq!(done(&shared, 0), 1);
    returned.catch_up();
    shared.set_gate(false);
    assert_eq!(waiting.now_or_never().unwrap().unwrap().unwrap().offset, 1);
}

#[test]
fn a_corrupt_batch_is_an_error_that_names_it_after_all_good_records() {
    let shared = reader();
    let mut damaged = batch(2, 2).to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let mut log = BytesMut::from(&batch(0, 2)[..]);
    log.extend_from_slice(&damaged);
    fetch(&shared, 0, log.freeze());
    assert_eq!((next_offset(&shared), next_offset(&shared), next_offset(&shared)), (Some(0), Some(1), None));
    for _ in 0..2 {
        assert_eq!(fetch(&shared, 0, Bytes::from(damaged.clone())), 2, "it may have been damaged on the way");
        let error = shared.next_record().now_or_never().unwrap().unwrap_err();
        assert!(
            matches!(&error, ConsumeError::CorruptBatch { offset: 2, partition, .. } if *partition == tp(0))
        );
        assert!(error.is_retriable() && !error.is_fatal());
    }
    shared.seek(&tp(0), Position { offset: 4, leader_epoch: -1 });
    fetch(&shared, 0, batch(4, 1));
    assert_eq!(next_offset(&shared), Some(4));
    assert!(shared.fetcher.lock().buffered_bytes() >= batch(4, 1).len());
    assert_eq!(next_offset(&shared), None);
    assert_eq!(shared.fetcher.lock().buffered_bytes(), 0);
}

#[test]
fn readers_get_nothing_once_the_consumer_is_closed() {
    let shared = reader();
    let waiting = shared.next_record();
    let mut waiting = Box::pin(waiting);
    assert!((&mut waiting).now_or_never().is_none());
    shared.set_closed();
    assert!(waiting.now_or_never().unwrap().unwrap().is_none());
}

#[tokio::test]
async fn commits_need_a_group() {
    let shared = reader();
    assert!(matches!(shared.commit_positions().await, Err(CommitError::NoGroup)));
}

#[tokio::test]
async fn a_consumer_dropped_or_closed_without_a_broker_does_not_hang() {
    let client = Client::builder("localhost:1").build().unwrap();
    drop(client.consumer().group("g").topics(["t"]).build().unwrap());
    let consumer = client.consumer().assign([tp(0)]).build().unwrap();
    let other = consumer.clone();
    let reading = tokio::spawn(async move { other.next().await });
    tokio::task::yield_now().await;
    consumer.close().await.unwrap();
    assert!(reading.await.unwrap().unwrap().is_none());
}

#[test]
fn options_that_cannot_work_are_refused() {
    let client = Client::builder("localhost:1").build().unwrap();
    assert!(client.consumer().topics(["t"]).build().is_err(), "topics need a group");
    assert!(client.consumer().group("g").topics(["t"]).assign([tp(0)]).build().is_err());
    assert!(client.consumer().assign([tp(0)]).max_buffered_bytes(0).build().is_err());
    let late = Duration::from_secs(60);
    assert!(client.consumer().group("g").topics(["t"]).heartbeat_interval(late).build().is_err());
}
