use super::tests::*;
use super::*;
use crate::storage::{Fault, Faulty};
use kafka_wire::record_batch::{RecordBatch, Seal};

fn small() -> LogConfig {
    LogConfig { segment_bytes: 200, index_interval_bytes: 10, ..LogConfig::default() }
}

#[test]
fn old_timestamps_do_not_close_a_segment_at_every_append() {
    for timestamp in [5, -1, NOW - 30 * 24 * 3600 * 1000] {
        let mut log = memory_log(LogConfig::default());
        for _ in 0..20 {
            log.append(batch_with(&Seal::default(), &[(timestamp, None, "x")]), client()).unwrap();
        }
        assert_eq!(log.segment_count(), 1, "timestamp {timestamp}");
    }
}

#[test]
fn a_damaged_segment_in_the_middle_leaves_no_place_where_a_reader_stands_still() {
    let storage: Arc<dyn Storage> = Arc::new(Faulty::default());
    let mut log = open(&storage, &small(), Shutdown::Unclean);
    for _ in 0..12 {
        log.append(batch(&["x"]), client()).unwrap();
    }
    assert!(log.segment_count() > 3);
    let second = log.segments[1].base_offset;
    drop(log);
    let mut file = storage.open(&segment::file_name("t-0", second, "log")).unwrap();
    let half = file.len() / 2 + 10;
    file.truncate(half).unwrap();
    let log = open(&storage, &small(), Shutdown::Unclean);
    let mut stuck = Vec::new();
    for offset in 0..log.log_end_offset() {
        if log.read(offset, 1 << 20, true).unwrap().is_empty() {
            stuck.push(offset);
        }
    }
    assert!(
        stuck.is_empty(),
        "offsets below the end {} at which nothing is ever read: {stuck:?}",
        log.log_end_offset()
    );
}

#[test]
fn a_lost_index_file_loses_no_producer_and_no_epoch() {
    let storage: Arc<dyn Storage> = Arc::new(Faulty::default());
    let mut log = open(&storage, &small(), Shutdown::Unclean);
    for i in 0..12i64 {
        let epoch = Append { leader_epoch: i as i32 / 3, ..client() };
        log.append(batch_with(&Seal::idempotent(i, 0, 0), &[(NOW, None, "x")]), epoch).unwrap();
    }
    let last = log.segments.last().unwrap().base_offset;
    assert_eq!((log.producer_count(), log.epoch_at(0)), (12, Some(0)));
    log.close().unwrap();
    drop(log);
    storage.remove(&segment::file_name("t-0", last, "index")).unwrap();
    let log = open(&storage, &small(), Shutdown::Clean);
    assert_eq!((log.producer_count(), log.epoch_at(0)), (12, Some(0)));
}

#[test]
fn records_without_a_timestamp_outlive_the_first_retention_check() {
    let mut log = memory_log(LogConfig::default());
    log.append(batch_with(&Seal::default(), &[(-1, None, "x")]), client()).unwrap();
    log.enforce_retention(NOW + 1000, i64::MAX).unwrap();
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (0, 1));
}

#[test]
fn no_timestamp_is_within_any_bounds() {
    let mut log = memory_log(LogConfig { timestamp_before_max_ms: 1000, ..LogConfig::default() });
    log.append(batch_with(&Seal::default(), &[(-1, None, "x")]), client()).unwrap();
}

#[test]
fn a_failed_append_after_a_roll_keeps_everything() {
    // A write that fails in a fresh segment, then a restart.
    for fault in [Fault::Full, Fault::Torn] {
        for after in 0..6 {
            let faulty = Arc::new(Faulty::default());
            let storage: Arc<dyn Storage> = faulty.clone();
            let mut log = open(&storage, &small(), Shutdown::Unclean);
            faulty.plan(fault, after, 2);
            let mut acked = Vec::new();
            for i in 0..12 {
                let value = format!("v{i}");
                if let Ok(done) = log.append(batch(&[&value]), client()) {
                    acked.push((done.base_offset, value));
                }
            }
            assert_eq!(acked.len(), 10);
            assert_eq!(read_from(&log, 0, 1000), acked);
            drop(log);
            assert_eq!(read_from(&open(&storage, &small(), Shutdown::Unclean), 0, 1000), acked);
        }
    }
}

#[test]
fn indexes_rebuilt_after_a_crash_are_written_for_the_next_clean_start() {
    let storage: Arc<dyn Storage> = Arc::new(Faulty::default());
    let mut log = open(&storage, &small(), Shutdown::Unclean);
    for _ in 0..12 {
        log.append(batch(&["x"]), client()).unwrap();
    }
    drop(log);
    storage.remove("t-0/00000000000000000000.index").unwrap();
    let mut log = open(&storage, &small(), Shutdown::Unclean);
    log.close().unwrap();
    assert!(storage.read("t-0/00000000000000000000.index").unwrap().is_some());
}

#[test]
fn a_clean_restart_of_an_emptied_log_still_knows_a_resent_batch() {
    let storage: Arc<dyn Storage> = Arc::new(Faulty::default());
    let config = LogConfig { retention_ms: 1000, ..LogConfig::default() };
    let mut log = open(&storage, &config, Shutdown::Unclean);
    let sent = batch_with(&Seal::idempotent(7, 0, 0), &[(NOW, None, "x")]);
    log.append(sent.clone(), client()).unwrap();
    log.enforce_retention(NOW + 5000, i64::MAX).unwrap();
    assert!(log.append(sent.clone(), client()).unwrap().duplicate);
    log.close().unwrap();
    drop(log);
    let mut log = open(&storage, &config, Shutdown::Clean);
    assert!(log.append(sent, client()).unwrap().duplicate);
}

#[test]
fn what_could_not_be_synced_is_neither_acknowledged_nor_read() {
    let faulty = Arc::new(Faulty::default());
    let storage: Arc<dyn Storage> = faulty.clone();
    let mut log = open(&storage, &LogConfig { flush_messages: 1, ..LogConfig::default() }, Shutdown::Unclean);
    assert!(log.append(batch(&["kept"]), client()).unwrap().flush_due);
    assert_eq!(log.high_watermark(), 0);
    log.flush().unwrap();
    assert_eq!(log.high_watermark(), 1);
    faulty.fail_syncs(true);
    assert!(log.append(batch(&["lost"]), client()).unwrap().flush_due);
    log.flush().unwrap_err();
    assert_eq!(log.high_watermark(), 1);
    faulty.fail_syncs(false);
    assert!(matches!(log.append(batch(&["later"]), client()), Err(AppendError::Offline)));
}

#[test]
fn closed_segments_on_disk_keep_nothing_in_memory_and_read_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(crate::storage::Disk::new(folder.path()));
    let mut log = open(&storage, &small(), Shutdown::Unclean);
    for i in 0..12 {
        log.append(batch(&[&format!("v{i}")]), client()).unwrap();
    }
    let expected: Vec<_> = (0..12).map(|i| (i, format!("v{i}"))).collect();
    assert_eq!(read_from(&log, 0, 1000), expected);
    let (one, two) = (log.read(0, 100, true).unwrap(), log.read(0, 100, true).unwrap());
    assert_ne!(one[0].as_ptr(), two[0].as_ptr());
}

#[test]
fn segments_still_close_by_time() {
    let day = 24 * 3600 * 1000;
    let mut log = memory_log(LogConfig::default());
    for i in 0..20 {
        log.append(
            batch_with(&Seal::default(), &[(NOW + i * day, None, "x")]),
            Append { now_ms: NOW + i * day, ..client() },
        )
        .unwrap();
    }
    assert_eq!(log.segment_count(), 3);
    let mut log = memory_log(LogConfig::default());
    for i in 0..20 {
        log.append(
            batch_with(&Seal::default(), &[(-1, None, "x")]),
            Append { now_ms: NOW + i * day, ..client() },
        )
        .unwrap();
    }
    assert_eq!(log.segment_count(), 3);
    assert!(log.enforce_retention(NOW + 40 * day, i64::MAX).unwrap() > 0);
    assert_eq!(log.log_start_offset(), 20);
}

#[test]
fn one_sync_covers_every_append_before_it_and_none_after_it() {
    let faulty = Arc::new(Faulty::default());
    let storage: Arc<dyn Storage> = faulty.clone();
    let mut log = open(&storage, &LogConfig { flush_messages: 1, ..LogConfig::default() }, Shutdown::Unclean);
    for _ in 0..10 {
        log.append(batch(&["x"]), client()).unwrap();
    }
    let job = log.begin_flush();
    log.append(batch(&["later"]), client()).unwrap();
    let before = faulty.syncs();
    let result = job.run();
    log.end_flush(&job, result).unwrap();
    assert_eq!((faulty.syncs() - before, log.flushed_offset(), log.high_watermark()), (1, 10, 10));
}

#[test]
fn closing_a_segment_syncs_nothing_until_its_job_runs_and_a_removed_segment_leaves_no_file() {
    let faulty = Arc::new(Faulty::default());
    let storage: Arc<dyn Storage> = faulty.clone();
    let mut log = open(&storage, &LogConfig { retention_ms: 1000, ..small() }, Shutdown::Unclean);
    for _ in 0..12 {
        log.append(batch(&["x"]), client()).unwrap();
    }
    assert_eq!(faulty.syncs(), 0);
    assert!(log.has_closed_segments_to_flush());
    let job = log.begin_flush_of_closed();
    log.enforce_retention(NOW + 10_000, i64::MAX).unwrap();
    let result = job.run();
    log.end_flush(&job, result).unwrap();
    log.flush().unwrap();
    log.close().unwrap();
    let mut names = storage.list("t-0").unwrap();
    names.sort();
    let expected = ["index", "log", "snapshot", "timeindex"].map(|suffix| format!("{:020}.{suffix}", 12));
    assert_eq!(names, [&expected[..], &["leader-epoch-checkpoint".to_owned()]].concat());
}

#[test]
fn a_full_index_closes_the_segment() {
    let config = LogConfig { index_bytes: 80, index_interval_bytes: 0, ..LogConfig::default() };
    let mut log = memory_log(config);
    for i in 0..40i64 {
        log.append(batch_with(&Seal::default(), &[(NOW + i, None, "x")]), client()).unwrap();
    }
    assert!(log.segment_count() >= 5, "{}", log.segment_count());
}

#[test]
fn batches_rest_in_the_topics_codec_whatever_the_producers_was() {
    use kafka_wire::compression::{Compression, CompressionType};
    let value = "to be compressed ".repeat(40);
    for (topic, sent, rests) in [
        (None, Compression::Lz4, CompressionType::Lz4),
        (Some(Compression::ZSTD), Compression::Lz4, CompressionType::Zstd),
        (Some(Compression::None), Compression::Snappy, CompressionType::None),
        (Some(Compression::GZIP), Compression::None, CompressionType::Gzip),
    ] {
        let mut log = memory_log(LogConfig { compression: topic, ..LogConfig::default() });
        let seal = Seal::idempotent(4, 0, 0).compression(sent);
        let sent = batch_with(&seal, &[(NOW, None, &value)]);
        log.append(sent.clone(), client()).unwrap();
        assert!(log.append(sent, client()).unwrap().duplicate);
        let mut bytes = Bytes::from(log.read(0, 1 << 20, true).unwrap().concat());
        let stored = RecordBatch::split_from(&mut bytes).unwrap().unwrap();
        assert_eq!((stored.compression().unwrap(), stored.base_sequence()), (rests, 0));
        assert_eq!(read_from(&log, 0, 1000), [(0, value.clone())]);
    }
    let small =
        LogConfig { compression: Some(Compression::None), max_message_bytes: 300, ..LogConfig::default() };
    let squeezed = batch_with(&Seal::default().compression(Compression::ZSTD), &[(NOW, None, &value)]);
    assert!(matches!(memory_log(small).append(squeezed, client()), Err(AppendError::TooLarge { .. })));
}

#[test]
fn a_batch_larger_than_a_segment_is_refused() {
    let mut log = memory_log(small());
    let error = log.append(batch(&[&"x".repeat(300)]), client()).unwrap_err();
    assert_eq!(error.error_code(), kafka_wire::ErrorCode::RecordListTooLarge);
}

#[test]
fn every_record_outside_the_time_bounds_is_named() {
    let mut log = memory_log(LogConfig { timestamp_before_max_ms: 1000, ..LogConfig::default() });
    let records = [(NOW, None, "a"), (NOW - 5000, None, "b"), (NOW, None, "c"), (NOW + 4_000_000, None, "d")];
    let error = log.append(batch_with(&Seal::default(), &records), client()).unwrap_err();
    assert_eq!(error.error_code(), kafka_wire::ErrorCode::InvalidTimestamp);
    assert_eq!(error.record_errors().iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn deleted_records_are_out_of_range_and_whole_segments_before_the_start_go() {
    let storage: Arc<dyn Storage> = Arc::new(Faulty::default());
    let mut log = open(&storage, &small(), Shutdown::Unclean);
    for _ in 0..12 {
        log.append(batch(&["x"]), client()).unwrap();
    }
    assert_eq!(log.delete_records(7).unwrap(), 7);
    assert!(log.segments[0].base_offset > 3 && log.segments[0].base_offset <= 7);
    assert!(matches!(log.read(6, 100, true), Err(ReadError::OutOfRange { start: 7, .. })));
    assert_eq!(log.delete_records(3).unwrap(), 7);
    for offset in [13, -2] {
        let error = log.delete_records(offset).unwrap_err();
        assert_eq!(error.error_code(), kafka_wire::ErrorCode::OffsetOutOfRange);
    }
    log.close().unwrap();
    let mut log = open(&storage, &small(), Shutdown::Clean);
    log.restore_log_start(7).unwrap();
    assert_eq!(log.log_start_offset(), 7);
    assert_eq!(log.delete_records(-1).unwrap(), 12);
    log.restore_log_start(20).unwrap();
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (20, 20));
    assert_eq!(log.append(batch(&["next"]), client()).unwrap().base_offset, 20);
    let mut compacted = memory_log(LogConfig { compacted: true, deleted: false, ..LogConfig::default() });
    assert!(matches!(compacted.delete_records(0), Err(DeleteRecordsError::Policy)));
}

#[test]
fn a_producer_that_copies_old_records_is_remembered_while_it_is_active() {
    let mut log = memory_log(LogConfig::default());
    let old = batch_with(&Seal::idempotent(7, 0, 0), &[(NOW - 30 * 24 * 3600 * 1000, None, "x")]);
    log.append(old.clone(), client()).unwrap();
    log.expire_producers(NOW + 1000, 24 * 3600 * 1000);
    assert!(log.append(old.clone(), client()).unwrap().duplicate);
    log.expire_producers(NOW + 24 * 3600 * 1000, 24 * 3600 * 1000);
    assert!(!log.append(old, client()).unwrap().duplicate);
}

#[test]
fn a_crash_forgets_no_producer_whose_batches_retention_deleted() {
    let storage: Arc<dyn Storage> = Arc::new(Faulty::default());
    let mut log = open(&storage, &small(), Shutdown::Unclean);
    let sent = batch_with(&Seal::idempotent(7, 0, 0), &[(NOW, None, "x")]);
    log.append(sent.clone(), client()).unwrap();
    for _ in 0..12 {
        log.append(batch(&["x"]), client()).unwrap();
    }
    log.flush().unwrap();
    log.delete_records(-1).unwrap();
    drop(log);
    let mut log = open(&storage, &small(), Shutdown::Unclean);
    assert!(log.append(sent, client()).unwrap().duplicate);
}

/// Found by the simulation: a follower that came back after retention had emptied its leader's log led next, and wrote again
/// what it did not know any more.
#[test]
fn a_follower_that_begins_anew_knows_the_producers_that_its_leader_knows() {
    let mut leader = memory_log(LogConfig::default());
    let sent = [7, 8].map(|id| batch_with(&Seal::idempotent(id, 0, 0), &[(NOW, None, "x")]));
    for batch in &sent {
        leader.append(batch.clone(), client()).unwrap();
    }
    let storage: Arc<dyn Storage> = Arc::new(Faulty::default());
    let mut log = open(&storage, &small(), Shutdown::Unclean);
    log.restart_at(1, leader.producers_at(1)).unwrap();
    assert_eq!(log.producer_count(), 1, "the second one has written nothing yet");
    log.append_as_follower(Bytes::from(leader.read(1, 1 << 20, true).unwrap().concat()), NOW).unwrap();
    let are_known = |log: &mut PartitionLog| {
        sent.iter().all(|batch| log.append(batch.clone(), client()).unwrap().duplicate)
    };
    assert!(are_known(&mut log));
    drop(log);
    assert!(are_known(&mut open(&storage, &small(), Shutdown::Unclean)));
}

#[test]
fn an_epoch_is_on_disk_from_its_first_batch_on() {
    let storage: Arc<dyn Storage> = Arc::new(Faulty::default());
    let mut log = open(&storage, &LogConfig::default(), Shutdown::Unclean);
    let kept = || String::from_utf8(storage.read("t-0/leader-epoch-checkpoint").unwrap().unwrap()).unwrap();
    for leader_epoch in [0, 0, 3, 3] {
        log.append(batch(&["x"]), Append { leader_epoch, ..client() }).unwrap();
    }
    assert_eq!(kept(), "0\n2\n0 0\n3 2\n");
    log.delete_records(3).unwrap();
    assert_eq!(kept(), "0\n1\n3 3\n");
    log.restart_at(9, ProducerState::default()).unwrap();
    assert_eq!(kept(), "0\n0\n");
    let mut leader = memory_log(LogConfig::default());
    leader.restart_at(9, ProducerState::default()).unwrap();
    leader.append(batch(&["x"]), Append { leader_epoch: 4, ..client() }).unwrap();
    log.append_as_follower(Bytes::from(leader.read(9, 1 << 20, true).unwrap().concat()), NOW).unwrap();
    assert_eq!(kept(), "0\n1\n4 9\n");
}
