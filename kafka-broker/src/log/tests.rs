use std::sync::Arc;

use bytes::Bytes;
use kafka_wire::ErrorCode;
use kafka_wire::compression::Compression;
use kafka_wire::record_batch::{BatchBuilder, RecordBatch, Seal};
use proptest::prelude::*;

use super::*;
use crate::storage::{Disk, Fault, Faulty, Memory};

pub(super) const NOW: i64 = 1_750_000_000_000;

pub(super) fn batch_with(seal: &Seal, values: &[(i64, Option<&str>, &str)]) -> Bytes {
    let mut builder = BatchBuilder::new(128);
    for (timestamp, key, value) in values {
        builder.append(*timestamp, key.map(str::as_bytes), Some(value.as_bytes()), &[]);
    }
    builder.finish(seal).unwrap()
}

pub(super) fn batch(values: &[&str]) -> Bytes {
    let records: Vec<_> = values.iter().map(|value| (NOW, None, *value)).collect();
    batch_with(&Seal::default(), &records)
}

pub(super) fn client() -> Append {
    Append { leader_epoch: 0, origin: Origin::Client, now_ms: NOW, guard: None }
}

pub(super) fn open(storage: &Arc<dyn Storage>, config: &LogConfig, shutdown: Shutdown) -> PartitionLog {
    PartitionLog::open(Arc::clone(storage), "t-0", config.clone(), shutdown).unwrap()
}

pub(super) fn memory_log(config: LogConfig) -> PartitionLog {
    let storage: Arc<dyn Storage> = Arc::new(Memory::default());
    open(&storage, &config, Shutdown::Unclean)
}

/// All records from `offset` on, as (offset, value), read in steps of `max_bytes`.
pub(super) fn read_from(log: &PartitionLog, mut offset: i64, max_bytes: usize) -> Vec<(i64, String)> {
    let mut found = Vec::new();
    loop {
        let pieces = log.read(offset, max_bytes, true).unwrap();
        if pieces.is_empty() {
            return found;
        }
        for batch in RecordBatch::iter(Bytes::from(pieces.concat())) {
            let batch = batch.unwrap();
            batch.verify_crc().unwrap();
            for record in batch.records(1 << 20).unwrap() {
                let record = record.unwrap();
                if record.offset >= offset {
                    found.push((record.offset, String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
                }
            }
            offset = batch.next_offset();
        }
    }
}

#[test]
fn batches_get_consecutive_offsets_and_the_leaders_epoch() {
    let mut log = memory_log(LogConfig::default());
    let first = log.append(batch(&["a", "b"]), client()).unwrap();
    let second = log.append(batch(&["c"]), Append { leader_epoch: 4, ..client() }).unwrap();
    assert_eq!((first.base_offset, first.last_offset, second.base_offset), (0, 1, 2));
    assert_eq!(read_from(&log, 1, 1), [(1, "b".into()), (2, "c".into())]);
    assert_eq!(
        (log.epoch_at(1), log.latest_epoch(), log.end_offset_for_epoch(0)),
        (Some(0), Some(4), Some((0, 2)))
    );
    assert!(matches!(log.read(4, 1, true), Err(ReadError::OutOfRange { offset: 4, start: 0, end: 3 })));
    assert_eq!(log.read(3, 1, true).unwrap(), Vec::<Bytes>::new());
}

#[test]
fn bad_batches_are_refused_with_kafkas_code_and_leave_no_trace() {
    let mut log = memory_log(LogConfig { max_message_bytes: 500, compacted: true, ..LogConfig::default() });
    let keyed = |value: &str| batch_with(&Seal::default(), &[(NOW, Some("k"), value)]);
    let mut corrupt = keyed("x").to_vec();
    *corrupt.last_mut().unwrap() ^= 1;
    let two = Bytes::from([keyed("a"), keyed("b")].concat());
    let future = batch_with(&Seal::default(), &[(NOW + 3_700_000, Some("k"), "x")]);
    let mut control = Seal::default();
    control.control = true;
    for (bytes, code) in [
        (Bytes::from(corrupt), ErrorCode::CorruptMessage),
        (keyed(&"x".repeat(600)), ErrorCode::MessageTooLarge),
        (two, ErrorCode::InvalidRecord),
        (batch(&["no key"]), ErrorCode::InvalidRecord),
        (future, ErrorCode::InvalidTimestamp),
        (batch_with(&control, &[(NOW, Some("k"), "x")]), ErrorCode::InvalidRecord),
        (Bytes::from_static(b"garbage that is no batch"), ErrorCode::UnsupportedForMessageFormat),
        (Bytes::new(), ErrorCode::InvalidRecord),
    ] {
        let error = log.append(bytes, client()).unwrap_err();
        assert_eq!(error.error_code(), code, "{error}");
    }
    assert_eq!(log.append(keyed("fine"), client()).unwrap().base_offset, 0);
}

#[test]
fn records_that_pass_the_checksum_but_do_not_parse_are_refused() {
    for codec in [Compression::None, Compression::Lz4] {
        let sound = batch_with(&Seal::default().compression(codec), &[(NOW, None, "x"), (NOW, None, "y")]);
        // One record fewer than announced, under a fresh checksum.
        let mut lying = sound.to_vec();
        lying[23..27].copy_from_slice(&2i32.to_be_bytes());
        lying[57..61].copy_from_slice(&3i32.to_be_bytes());
        let lying = kafka_wire::record_batch::reseal_for_producer(lying.into(), -1, -1, -1);
        let error = memory_log(LogConfig::default()).append(lying, client()).unwrap_err();
        assert!(
            matches!(error.error_code(), ErrorCode::InvalidRecord | ErrorCode::CorruptMessage),
            "{error}"
        );
    }
}

#[test]
fn a_resent_batch_is_acknowledged_with_its_first_offset_and_not_written_again() {
    let mut log = memory_log(LogConfig::default());
    let send = |first: i32| batch_with(&Seal::idempotent(9, 0, first), &[(NOW, None, "a"), (NOW, None, "b")]);
    log.append(send(0), client()).unwrap();
    log.append(send(2), client()).unwrap();
    let again = log.append(send(0), client()).unwrap();
    assert!(again.duplicate);
    assert_eq!((again.base_offset, again.last_offset, log.log_end_offset()), (0, 1, 4));
    let gap = log.append(send(6), client()).unwrap_err();
    assert_eq!(gap.error_code(), ErrorCode::OutOfOrderSequenceNumber);
}

#[test]
fn the_brokers_time_is_stamped_on_every_record() {
    let mut log = memory_log(LogConfig { log_append_time: true, ..LogConfig::default() });
    let appended = log.append(batch_with(&Seal::default(), &[(5, None, "old")]), client()).unwrap();
    assert_eq!(appended.log_append_time, Some(NOW));
    let found = log.offset_for_timestamp(NOW - 1).unwrap().unwrap();
    assert_eq!((found.offset, found.timestamp), (0, NOW));
}

#[test]
fn records_are_found_by_time_across_segments_and_inside_batches() {
    for codec in [Compression::None, Compression::ZSTD] {
        let mut log =
            memory_log(LogConfig { segment_bytes: 400, index_interval_bytes: 50, ..LogConfig::default() });
        for i in 0..60i64 {
            let seal = Seal::default().compression(codec);
            log.append(
                batch_with(&seal, &[(NOW + 20 * i, None, "x"), (NOW + 20 * i + 10, None, "y")]),
                client(),
            )
            .unwrap();
        }
        assert!(log.segment_count() > 5);
        for offset in 0..120i64 {
            let found = log.offset_for_timestamp(NOW + 10 * offset - 3).unwrap().unwrap();
            assert_eq!((found.offset, found.timestamp), (offset, NOW + 10 * offset));
        }
        assert_eq!(log.offset_for_timestamp(NOW + 1191).unwrap(), None);
        assert_eq!(log.offset_for_max_timestamp().unwrap().unwrap().offset, 119);
    }
}

#[test]
fn retention_lets_whole_old_segments_go_and_moves_the_start() {
    let config = LogConfig { segment_bytes: 300, retention_ms: 1000, ..LogConfig::default() };
    let mut log = memory_log(config);
    for i in 0..20 {
        log.append(batch_with(&Seal::default(), &[(NOW + 100 * i, None, "some text in a record")]), client())
            .unwrap();
    }
    assert!(log.enforce_retention(NOW + 1500, i64::MAX).unwrap() > 0);
    assert!(log.log_start_offset() > 0 && log.log_start_offset() < 10);
    assert!(matches!(log.read(0, 100, true), Err(ReadError::OutOfRange { .. })));
    log.enforce_retention(NOW + 100_000, i64::MAX).unwrap();
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (20, 20));
    assert_eq!(log.append(batch(&["next"]), client()).unwrap().base_offset, 20);

    let mut log = memory_log(LogConfig { segment_bytes: 300, retention_bytes: 700, ..LogConfig::default() });
    for _ in 0..20 {
        log.append(batch(&["some text in a record"]), client()).unwrap();
    }
    log.enforce_retention(NOW, i64::MAX).unwrap();
    assert!(log.size_bytes() <= 1000 && log.size_bytes() > 300, "{}", log.size_bytes());
}

#[test]
fn retention_leaves_what_is_not_committed() {
    let by_age = LogConfig { segment_bytes: 300, retention_ms: 1000, ..LogConfig::default() };
    let by_size = LogConfig { segment_bytes: 300, retention_bytes: 0, ..LogConfig::default() };
    for config in [by_age, by_size] {
        let mut log = memory_log(config);
        for _ in 0..20 {
            log.append(batch(&["some text in a record"]), client()).unwrap();
        }
        for high_watermark in [0, 9, 19] {
            log.enforce_retention(NOW + 100_000, high_watermark).unwrap();
            let start = log.log_start_offset();
            assert!(start <= high_watermark && high_watermark - start < 4, "{start} of {high_watermark}");
            assert_eq!(log.log_end_offset(), 20);
        }
    }
}

#[test]
fn a_full_disk_acknowledges_nothing_and_the_next_append_works_when_there_is_room() {
    for fault in [Fault::Full, Fault::Torn] {
        let faulty = Arc::new(Faulty::default());
        let storage: Arc<dyn Storage> = faulty.clone();
        let mut log = open(&storage, &LogConfig::default(), Shutdown::Unclean);
        log.append(batch(&["a"]), client()).unwrap();
        faulty.plan(fault, 0, 1);
        let error = log.append(batch(&["lost"]), client()).unwrap_err();
        assert_eq!(error.error_code(), ErrorCode::KafkaStorageError);
        assert_eq!(log.append(batch(&["b"]), client()).unwrap().base_offset, 1);
        let expected = [(0, "a".to_owned()), (1, "b".to_owned())];
        assert_eq!(read_from(&log, 0, 100), expected);
        drop(log);
        assert_eq!(read_from(&open(&storage, &LogConfig::default(), Shutdown::Unclean), 0, 100), expected);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append { records: usize, epoch_step: i32 },
    AppendFromProducer { producer: i64, records: usize },
    Resend { producer: i64 },
    Roll,
    Read { from: usize, max_bytes: usize },
    Restart { clean: bool },
    Tear { bytes: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1usize..8, 0i32..2).prop_map(|(records, epoch_step)| Step::Append { records, epoch_step }),
        4 => (0i64..3, 1usize..4).prop_map(|(producer, records)| Step::AppendFromProducer { producer, records }),
        2 => (0i64..3).prop_map(|producer| Step::Resend { producer }),
        1 => Just(Step::Roll),
        4 => (0usize..100, 1usize..2000).prop_map(|(from, max_bytes)| Step::Read { from, max_bytes }),
        1 => any::<bool>().prop_map(|clean| Step::Restart { clean }),
        1 => (1u64..400).prop_map(|bytes| Step::Tear { bytes }),
    ]
}

/// Runs the steps on a log and on a plain list of values.
fn behaves_like_a_list(storage: &Arc<dyn Storage>, steps: &[Step]) -> Result<(), TestCaseError> {
    let config = LogConfig { segment_bytes: 900, index_interval_bytes: 100, ..LogConfig::default() };
    let mut log = open(storage, &config, Shutdown::Unclean);
    let mut model: Vec<String> = Vec::new();
    // Per producer: the next sequence, and the last batch with where it went.
    let mut producers: [(i32, Option<(Bytes, i64)>); 3] = Default::default();
    let mut epoch = 0;
    let mut counter = 0;
    for step in steps {
        let mut values = |count: usize| -> Vec<String> {
            (0..count)
                .map(|_| {
                    counter += 1;
                    format!("value {counter}")
                })
                .collect()
        };
        match *step {
            Step::Append { records, epoch_step } => {
                epoch += epoch_step;
                let values = values(records);
                let refs: Vec<_> = values.iter().map(String::as_str).collect();
                let appended = log.append(batch(&refs), Append { leader_epoch: epoch, ..client() }).unwrap();
                prop_assert_eq!(appended.base_offset, model.len() as i64);
                model.extend(values);
            }
            Step::AppendFromProducer { producer, records } => {
                let (next, last) = &mut producers[producer as usize];
                let values = values(records);
                let refs: Vec<_> = values.iter().map(|value| (NOW, None, value.as_str())).collect();
                let bytes = batch_with(&Seal::idempotent(producer, 0, *next), &refs);
                let appended = log.append(bytes.clone(), Append { leader_epoch: epoch, ..client() }).unwrap();
                prop_assert!(!appended.duplicate);
                prop_assert_eq!(appended.base_offset, model.len() as i64);
                *next += records as i32;
                *last = Some((bytes, appended.base_offset));
                model.extend(values);
            }
            Step::Resend { producer } => {
                if let Some((bytes, base_offset)) = &producers[producer as usize].1 {
                    let again = log.append(bytes.clone(), client()).unwrap();
                    prop_assert!(again.duplicate);
                    prop_assert_eq!(again.base_offset, *base_offset);
                }
            }
            Step::Roll => log.roll().unwrap(),
            Step::Read { from, max_bytes } => {
                let from = from.min(model.len());
                let read = read_from(&log, from as i64, max_bytes);
                let expected: Vec<_> = (from as i64..).zip(model[from..].iter().cloned()).collect();
                prop_assert_eq!(read, expected);
            }
            Step::Restart { clean } => {
                if clean {
                    log.close().unwrap();
                }
                drop(log);
                log = open(storage, &config, if clean { Shutdown::Clean } else { Shutdown::Unclean });
            }
            Step::Tear { bytes } => {
                // The process dies with its last bytes half written: junk or a cut batch at the end of the last segment.
                let name = storage
                    .list("t-0")
                    .unwrap()
                    .into_iter()
                    .filter(|name| name.ends_with(".log"))
                    .max()
                    .unwrap();
                drop(log);
                let torn = batch(&["never acknowledged"]);
                let cut = (bytes as usize).min(torn.len() - 1);
                storage.open(&format!("t-0/{name}")).unwrap().append(torn.slice(..cut)).unwrap();
                log = open(storage, &config, Shutdown::Unclean);
            }
        }
        prop_assert_eq!(log.log_end_offset(), model.len() as i64);
        prop_assert_eq!(log.latest_epoch().unwrap_or(0) <= epoch, true);
    }
    let all: Vec<_> = (0..).zip(model).collect();
    prop_assert_eq!(read_from(&log, 0, 700), all.clone());
    drop(log);
    // Opening twice gives the same.
    for _ in 0..2 {
        prop_assert_eq!(read_from(&open(storage, &config, Shutdown::Unclean), 0, 300), all.clone());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_log_in_memory_behaves_like_a_list(steps in proptest::collection::vec(step(), 1..40)) {
        // `Faulty` is memory that writes its indexes and snapshots.
        let storage: Arc<dyn Storage> = Arc::new(Faulty::default());
        behaves_like_a_list(&storage, &steps)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_log_on_disk_behaves_like_a_list(steps in proptest::collection::vec(step(), 1..30)) {
        let folder = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(Disk::new(folder.path()));
        behaves_like_a_list(&storage, &steps)?;
    }

    #[test]
    fn every_cut_of_a_segment_recovers_to_a_prefix_of_whole_batches(sizes in proptest::collection::vec(1usize..4, 1..6), cut in any::<prop::sample::Index>()) {
        let storage: Arc<dyn Storage> = Arc::new(Faulty::default());
        let mut log = open(&storage, &LogConfig::default(), Shutdown::Unclean);
        let mut ends = vec![(0, 0)];
        for size in sizes {
            log.append(batch(&vec!["some value"; size]), client()).unwrap();
            ends.push((log.size_bytes(), log.log_end_offset()));
        }
        let cut = cut.index(log.size_bytes() as usize + 1) as u64;
        drop(log);
        storage.open("t-0/00000000000000000000.log").unwrap().truncate(cut).unwrap();
        let (_, expected) = ends.into_iter().rfind(|&(size, _)| size <= cut).unwrap();
        let log = open(&storage, &LogConfig::default(), Shutdown::Unclean);
        prop_assert_eq!(log.log_end_offset(), expected);
        prop_assert_eq!(read_from(&log, 0, 100).len() as i64, expected);
    }
}

#[test]
fn a_clean_close_is_believed_only_while_its_files_fit() {
    let storage: Arc<dyn Storage> = Arc::new(Faulty::default());
    let config = LogConfig { segment_bytes: 200, index_interval_bytes: 10, ..LogConfig::default() };
    let mut log = open(&storage, &config, Shutdown::Unclean);
    for i in 0..10 {
        log.append(batch_with(&Seal::idempotent(1, 0, i), &[(NOW + i64::from(i), None, "x")]), client())
            .unwrap();
    }
    log.close().unwrap();
    drop(log);
    let names = storage.list("t-0").unwrap().into_iter().filter(|name| !name.ends_with(".log"));
    let files: Vec<(String, Vec<u8>)> = names
        .map(|name| format!("t-0/{name}"))
        .map(|path| (path.clone(), storage.read(&path).unwrap().unwrap()))
        .collect();
    assert!(files.len() > 5, "{files:?}");
    for (path, intact) in &files {
        files.iter().for_each(|(path, intact)| storage.replace(path, intact).unwrap());
        let mut damaged = intact.clone();
        damaged.push(7);
        storage.replace(path, &damaged).unwrap();
        let log = open(&storage, &config, Shutdown::Clean);
        assert_eq!(read_from(&log, 0, 50).len(), 10, "{path}");
        assert_eq!(log.offset_for_timestamp(NOW + 7).unwrap().unwrap().offset, 7, "{path}");
        assert_eq!(log.producer_count(), 1, "{path}");
    }
}

#[test]
fn reads_in_memory_share_the_logs_bytes() {
    let mut log = memory_log(LogConfig::default());
    log.append(batch(&["a"]), client()).unwrap();
    let (once, twice) = (log.read(0, 1000, true).unwrap(), log.read(0, 1000, true).unwrap());
    assert_eq!(once[0].as_ptr(), twice[0].as_ptr());
}

/// A follower that retention has emptied, and whose leader comes from before that epoch, would be told to cut for ever.
#[test]
fn a_log_that_need_not_be_cut_forgets_the_epoch_that_begins_at_its_end() {
    let mut log = memory_log(LogConfig::default());
    for leader_epoch in [3, 5] {
        log.append(batch(&["a"]), Append { leader_epoch, ..client() }).unwrap();
    }
    log.delete_records(2).unwrap();
    log.roll().unwrap();
    assert_eq!(log.latest_epoch(), Some(5));
    log.truncate_to(2).unwrap();
    assert_eq!((log.latest_epoch(), log.log_end_offset()), (None, 2));
}

/// Otherwise a follower whose old segments were deleted by age keeps an end beyond its leader's, and is
/// told to cut for ever.
#[test]
fn a_log_that_starts_beyond_where_it_is_cut_begins_anew_there() {
    let mut log = memory_log(LogConfig::default());
    log.append(batch(&["a", "b", "c", "d", "e"]), client()).unwrap();
    log.restart_at(5, ProducerState::default()).unwrap();
    log.truncate_to(3).unwrap();
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (3, 3));
    assert_eq!(log.latest_epoch(), None);
    let mut leader = memory_log(LogConfig::default());
    leader.append(batch(&["a", "b", "c"]), client()).unwrap();
    leader.append(batch(&["x", "y"]), client()).unwrap();
    log.append_as_follower(leader.read(3, 1 << 20, true).unwrap().concat().into(), 0).unwrap();
    assert_eq!(read_from(&log, 3, 1 << 20), read_from(&leader, 3, 1 << 20));
}

/// Found by the simulation: a follower that was down while records were deleted up to the middle of a batch was sent that
/// batch for ever, and never took it.
#[test]
fn a_follower_can_begin_in_the_middle_of_a_batch() {
    let mut leader = memory_log(LogConfig::default());
    leader.append(batch(&["a", "b", "c", "d", "e"]), client()).unwrap();
    leader.delete_records(3).unwrap();
    let mut follower = memory_log(LogConfig::default());
    follower.restart_at(3, ProducerState::default()).unwrap();
    let copied = leader.read(3, 1 << 20, true).unwrap().concat();
    follower.append_as_follower(copied.clone().into(), 0).unwrap();
    follower.restore_log_start(3).unwrap();
    assert_eq!((follower.log_start_offset(), follower.log_end_offset()), (3, 5));
    assert_eq!(read_from(&follower, 3, 1 << 20), read_from(&leader, 3, 1 << 20));
    // Only an empty log may go back.
    assert!(follower.append_as_follower(copied.into(), 0).is_err());
}
