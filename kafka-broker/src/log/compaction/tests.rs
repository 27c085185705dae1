use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kafka_wire::compression::Compression;
use kafka_wire::record_batch::{BatchBuilder, RecordBatch, Seal, end_transaction_marker};
use proptest::prelude::*;

use super::*;
use crate::log::tests::{NOW, client, open};
use crate::log::{Append, Origin, ReadError, Shutdown};
use crate::storage::{Faulty, Memory};

const PLENTY: usize = 1 << 20;

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 600,
        index_interval_bytes: 50,
        compacted: true,
        deleted: false,
        min_cleanable_dirty_ratio: 0.0,
        delete_retention_ms: 1000,
        ..LogConfig::default()
    }
}

fn memory_log(config: &LogConfig) -> PartitionLog {
    let storage: Arc<dyn Storage> = Arc::new(Memory::default());
    open(&storage, config, Shutdown::Unclean)
}

fn keyed(seal: &Seal, records: &[(&str, Option<&str>)]) -> Bytes {
    let mut builder = BatchBuilder::new(128);
    for (key, value) in records {
        builder.append(NOW, Some(key.as_bytes()), value.map(str::as_bytes), &[]);
    }
    builder.finish(seal).unwrap()
}

fn put(log: &mut PartitionLog, key: &str, value: Option<&str>) {
    log.append(keyed(&Seal::default(), &[(key, value)]), client()).unwrap();
}

fn compact(log: &mut PartitionLog, now_ms: i64, max_bytes: usize) -> bool {
    log.flush().unwrap();
    let Some(pass) = log.begin_compaction(now_ms, log.high_watermark(), max_bytes) else { return false };
    let compacted = pass.run().unwrap();
    log.finish_compaction(compacted).unwrap()
}

type Entry = (i64, String, Option<String>);

/// Every record that a reader from the beginning sees.
fn contents(log: &PartitionLog) -> Vec<Entry> {
    let text = |bytes: Option<Bytes>| bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
    batches(log)
        .iter()
        .filter(|batch| !batch.is_control())
        .flat_map(|batch| batch.records(1 << 20).unwrap())
        .map(Result::unwrap)
        .map(|record| (record.offset, text(record.key).unwrap(), text(record.value)))
        .collect()
}

fn batches(log: &PartitionLog) -> Vec<RecordBatch> {
    let mut found = Vec::new();
    let mut offset = log.log_start_offset();
    loop {
        let bytes = Bytes::from(log.read(offset, 300, true).unwrap().concat());
        if bytes.is_empty() {
            return found;
        }
        for batch in RecordBatch::iter(bytes) {
            let batch = batch.unwrap();
            batch.verify_crc().unwrap();
            offset = batch.next_offset();
            found.push(batch);
        }
    }
}

/// What a reader that keeps the last value of each key ends with.
fn table(entries: &[Entry]) -> BTreeMap<String, String> {
    let mut table = BTreeMap::new();
    for (_, key, value) in entries {
        match value {
            Some(value) => table.insert(key.clone(), value.clone()),
            None => table.remove(key),
        };
    }
    table
}

#[test]
fn only_the_latest_record_of_each_key_stays_and_keeps_its_offset() {
    let mut log = memory_log(&config());
    for i in 0..60 {
        put(&mut log, &format!("k{}", i % 3), Some(&format!("v{i}")));
    }
    log.roll().unwrap();
    assert!(compact(&mut log, NOW, PLENTY));
    let expected: Vec<Entry> = (57..60).map(|i| (i, format!("k{}", i % 3), Some(format!("v{i}")))).collect();
    assert_eq!(contents(&log), expected);
    assert_eq!((log.log_start_offset(), log.log_end_offset(), log.cleaned_offset()), (0, 60, 60));
    assert!(!compact(&mut log, NOW, PLENTY), "nothing is dirty any more");
    put(&mut log, "k0", Some("new"));
    assert_eq!(log.read(60, 100, true).unwrap().len(), 1);
    log.roll().unwrap();
    assert!(compact(&mut log, NOW, PLENTY));
    assert_eq!(contents(&log).iter().map(|entry| entry.0).collect::<Vec<_>>(), [58, 59, 60]);
}

#[test]
fn a_tombstone_is_seen_for_its_time_and_goes_then() {
    let mut log = memory_log(&config());
    put(&mut log, "a", Some("1"));
    put(&mut log, "b", Some("1"));
    put(&mut log, "a", None);
    log.roll().unwrap();
    compact(&mut log, NOW, PLENTY);
    assert_eq!(contents(&log), [(1, "b".into(), Some("1".into())), (2, "a".into(), None)]);
    let horizons: Vec<_> = batches(&log).iter().map(RecordBatch::delete_horizon).collect();
    assert_eq!(horizons, [None, Some(NOW + 1000)]);
    for (now_ms, stays) in [(NOW + 999, true), (NOW + 1000, false)] {
        put(&mut log, "c", Some("makes the log dirty"));
        log.roll().unwrap();
        compact(&mut log, now_ms, PLENTY);
        assert_eq!(contents(&log).iter().any(|entry| entry.1 == "a"), stays);
    }
}

#[test]
fn a_producers_last_batch_stays_without_records_so_that_its_sequence_is_known() {
    let storage: Arc<dyn Storage> = Arc::new(Faulty::default());
    let mut log = open(&storage, &config(), Shutdown::Unclean);
    let sent = keyed(&Seal::idempotent(9, 0, 5), &[("a", Some("old")), ("b", Some("old"))]);
    log.append(sent.clone(), client()).unwrap();
    put(&mut log, "a", Some("new"));
    put(&mut log, "b", Some("new"));
    log.roll().unwrap();
    compact(&mut log, NOW, PLENTY);
    assert_eq!(contents(&log).len(), 2);
    drop(log);
    let mut log = open(&storage, &config(), Shutdown::Unclean);
    assert!(log.append(sent, client()).unwrap().duplicate);
    let next = keyed(&Seal::idempotent(9, 0, 7), &[("a", Some("newer"))]);
    assert_eq!(log.append(next, client()).unwrap().base_offset, 4);
    log.roll().unwrap();
    compact(&mut log, NOW, PLENTY);
    // The producer went on: its older batch is of no use now.
    assert_eq!(batches(&log).iter().map(RecordBatch::base_offset).collect::<Vec<_>>(), [3, 4]);
}

#[test]
fn aborted_records_go_markers_follow_and_open_transactions_are_not_touched() {
    let mut log = memory_log(&config());
    let coordinator = Append { origin: Origin::Coordinator, ..client() };
    let transactional = |id: i64, sequence: i32| {
        let mut seal = Seal::idempotent(id, 0, sequence);
        seal.transactional = true;
        seal
    };
    let marker =
        |id: i64, commit: bool| end_transaction_marker(commit, 0, NOW, &Seal::idempotent(id, 0, -1)).unwrap();
    let append = |log: &mut PartitionLog, bytes: Bytes| {
        let batch = RecordBatch::header_only(bytes.clone()).unwrap();
        let guard = log.guard(batch.producer_id(), batch.producer_epoch());
        log.append(bytes, Append { guard, ..coordinator }).unwrap().base_offset
    };
    append(&mut log, keyed(&Seal::default(), &[("a", Some("kept"))]));
    append(&mut log, keyed(&transactional(1, 0), &[("a", Some("aborted"))]));
    append(&mut log, marker(1, false));
    append(&mut log, keyed(&transactional(2, 0), &[("b", Some("committed"))]));
    append(&mut log, marker(2, true));
    append(&mut log, keyed(&transactional(3, 0), &[("a", Some("open"))]));
    append(&mut log, keyed(&Seal::default(), &[("b", Some("after"))]));
    log.roll().unwrap();
    compact(&mut log, NOW, PLENTY);
    let seen = contents(&log);
    assert_eq!(seen.iter().map(|entry| entry.0).collect::<Vec<_>>(), [0, 3, 5, 6]);
    assert_eq!(log.cleaned_offset(), 5);
    assert_eq!(batches(&log).iter().filter(|batch| batch.is_control()).count(), 2);
}

#[test]
fn a_pass_whose_segments_changed_meanwhile_changes_nothing() {
    let storage: Arc<dyn Storage> = Arc::new(Memory::default());
    let config = LogConfig { deleted: true, retention_ms: 1000, ..config() };
    let mut log = open(&storage, &config, Shutdown::Unclean);
    for i in 0..60 {
        put(&mut log, &format!("k{}", i % 3), Some("some value"));
    }
    let pass = log.begin_compaction(NOW, log.high_watermark(), PLENTY).unwrap();
    log.enforce_retention(NOW + 5000, i64::MAX).unwrap();
    let compacted = pass.run().unwrap();
    assert!(!log.finish_compaction(compacted).unwrap());
    assert!(storage.list("t-0").unwrap().iter().all(|name| !name.contains("cleaned")));
    assert_eq!(contents(&log), []);
}

#[test]
fn a_pass_is_decided_by_dirt_age_and_commitment() {
    let segment = |index: i64| Candidate {
        base_offset: index * 10,
        end_offset: index * 10 + 10,
        size_bytes: 100,
        first_ms: NOW + index * 1000,
        last_ms: NOW + index * 1000 + 999,
    };
    let closed: Vec<Candidate> = (0..4).map(segment).collect();
    let decide = |cleaned, limit, config: &LogConfig, now_ms| {
        segments_to_compact(&closed, cleaned, limit, config, now_ms)
    };
    let half = LogConfig { min_cleanable_dirty_ratio: 0.5, ..config() };
    assert_eq!(decide(0, 40, &half, NOW), Some(4));
    assert_eq!(decide(0, 39, &half, NOW), Some(3));
    assert_eq!(decide(20, 40, &half, NOW), None, "half is not above half");
    assert_eq!(decide(15, 40, &half, NOW), Some(4), "a segment that is dirty in part is dirty");
    assert_eq!(decide(40, 40, &config(), NOW), None);
    let lagging = LogConfig { min_compaction_lag_ms: 1000, ..config() };
    assert_eq!(decide(0, 40, &lagging, NOW + 3000), Some(2));
    assert_eq!(decide(0, 40, &lagging, NOW), None);
    let overdue = LogConfig { max_compaction_lag_ms: 5000, min_cleanable_dirty_ratio: 0.9, ..config() };
    assert_eq!((decide(20, 40, &overdue, NOW + 7000), decide(20, 40, &overdue, NOW + 7001)), (None, Some(4)));
}

/// Puts records of two passes' worth into a log that plays a disk.
fn fill(log: &mut PartitionLog, round: usize) {
    for i in 0..30 {
        let value = (i % 7 != 3).then(|| format!("v{round}-{i}"));
        put(log, &format!("k{}", i % 5), value.as_deref());
    }
    log.roll().unwrap();
}

#[test]
fn a_crash_at_any_change_of_a_file_loses_nothing_and_the_next_pass_completes() {
    for crash_at in 0.. {
        let faulty = Arc::new(Faulty::default());
        let storage: Arc<dyn Storage> = faulty.clone();
        let mut log = open(&storage, &config(), Shutdown::Unclean);
        fill(&mut log, 1);
        compact(&mut log, NOW, PLENTY);
        fill(&mut log, 2);
        put(&mut log, "k0", Some("after the pass"));
        let expected = table(&contents(&log));
        log.flush().unwrap();
        faulty.crash_after(crash_at);
        if let Some(pass) = log.begin_compaction(NOW + 5000, log.high_watermark(), PLENTY)
            && let Ok(compacted) = pass.run()
        {
            let _ = log.finish_compaction(compacted);
        }
        let crashed = faulty.crashed();
        let end_offset = log.log_end_offset();
        let cleaned = log.cleaned_offset();
        drop(log);
        faulty.restart();
        let mut log = open(&storage, &config(), Shutdown::Unclean);
        log.restore_cleaned(cleaned);
        let seen = contents(&log);
        assert_eq!(table(&seen), expected, "crash at change {crash_at}");
        assert!(seen.is_sorted_by(|a, b| a.0 < b.0), "crash at change {crash_at}");
        assert_eq!((log.log_start_offset(), log.log_end_offset()), (0, end_offset));
        let names = storage.list("t-0").unwrap();
        assert!(names.iter().all(|name| !name.contains("cleaned") && !name.contains("swap")), "{names:?}");
        log.roll().unwrap();
        compact(&mut log, NOW + 10_000, PLENTY);
        assert_eq!(table(&contents(&log)), expected);
        if !crashed {
            assert!(crash_at > 10, "the pass changed too little to say anything");
            return;
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// One batch of keys with values or tombstones, in a codec.
    Put(Vec<(u8, Option<u16>)>, u8),
    Roll,
    Compact {
        memory: usize,
        later_ms: i64,
    },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let record = (0u8..8, proptest::option::weighted(0.8, any::<u16>()));
    prop_oneof![
        8 => (proptest::collection::vec(record, 1..6), 0u8..3).prop_map(|(records, codec)| Step::Put(records, codec)),
        1 => Just(Step::Roll),
        2 => (1usize..2000, 0i64..800).prop_map(|(memory, later_ms)| Step::Compact { memory, later_ms }),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn a_reader_always_ends_with_the_latest_values_and_offsets_never_change(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let storage: Arc<dyn Storage> = Arc::new(Faulty::default());
        let mut log = open(&storage, &config(), Shutdown::Unclean);
        let mut written: Vec<Entry> = Vec::new();
        let mut now_ms = NOW;
        for step in steps {
            match step {
                Step::Put(records, codec) => {
                    let codec = [Compression::None, Compression::Lz4, Compression::ZSTD][usize::from(codec)];
                    let records: Vec<_> = records
                        .into_iter()
                        .map(|(key, value)| (format!("k{key}"), value.map(|value| value.to_string())))
                        .collect();
                    let borrowed: Vec<_> =
                        records.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
                    let sealed = keyed(&Seal::default().compression(codec), &borrowed);
                    let base = log.append(sealed, client()).unwrap().base_offset;
                    written.extend((base..).zip(records).map(|(offset, (key, value))| (offset, key, value)));
                }
                Step::Roll => log.roll().unwrap(),
                Step::Compact { memory, later_ms } => {
                    now_ms += later_ms;
                    compact(&mut log, now_ms, memory);
                }
                Step::Restart => {
                    let cleaned = log.cleaned_offset();
                    log.close().unwrap();
                    drop(log);
                    log = open(&storage, &config(), Shutdown::Clean);
                    log.restore_cleaned(cleaned);
                }
            }
            let seen = contents(&log);
            prop_assert_eq!(table(&seen), table(&written));
            // A subset of what was written, in its order, each at its offset.
            prop_assert!(seen.is_sorted_by(|a, b| a.0 < b.0));
            prop_assert!(seen.iter().all(|entry| written.binary_search(entry).is_ok()));
        }
        log.roll().unwrap();
        for _ in 0..100 {
            if !compact(&mut log, now_ms, PLENTY) {
                break;
            }
        }
        let seen = contents(&log);
        prop_assert_eq!(table(&seen), table(&written));
        let keys: std::collections::BTreeSet<_> = seen.iter().map(|entry| &entry.1).collect();
        prop_assert_eq!(keys.len(), seen.len(), "each key is there once");
    }
}

#[test]
fn a_log_that_cannot_be_compacted_is_left_alone_until_it_is_opened_again() {
    let storage: Arc<dyn Storage> = Arc::new(Memory::default());
    let mut log = open(&storage, &config(), Shutdown::Unclean);
    for i in 0..30 {
        put(&mut log, "k", Some(&format!("v{i}")));
    }
    log.roll().unwrap();
    let before = contents(&log);
    // The first batch's length is no batch's any more.
    let mut file = storage.open("t-0/00000000000000000000.log").unwrap();
    let intact = file.read_at(0, usize::MAX).unwrap().concat();
    let mut broken = intact.clone();
    broken[8..12].copy_from_slice(&[0xff; 4]);
    file.truncate(0).unwrap();
    file.append(broken.into()).unwrap();
    let error = log.begin_compaction(NOW, 30, PLENTY).unwrap().run().unwrap_err();
    assert!(!matches!(error, ReadError::Storage(_)), "{error}");
    log.give_up_compaction();
    assert!(log.begin_compaction(NOW, 30, PLENTY).is_none());
    file.truncate(0).unwrap();
    file.append(intact.into()).unwrap();
    drop(log);
    let mut log = open(&storage, &config(), Shutdown::Unclean);
    assert_eq!(contents(&log), before);
    assert!(log.begin_compaction(NOW, 30, PLENTY).is_some());
}
