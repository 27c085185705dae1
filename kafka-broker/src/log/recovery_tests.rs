use super::tests::*;
use super::*;
use crate::storage::{Fault, Faulty};
use kafka_wire::ErrorCode;
use kafka_wire::record_batch::Seal;

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
    log.enforce_retention(NOW + 1000).unwrap();
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
    log.enforce_retention(NOW + 5000).unwrap();
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
    log.append(batch(&["kept"]), client()).unwrap();
    faulty.fail_syncs(true);
    let error = log.append(batch(&["lost"]), client()).unwrap_err();
    assert_eq!(error.error_code(), ErrorCode::KafkaStorageError);
    assert_eq!((log.log_end_offset(), read_from(&log, 0, 1000)), (1, vec![(0, "kept".to_owned())]));
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
    assert!(log.enforce_retention(NOW + 40 * day).unwrap() > 0);
    assert_eq!(log.log_start_offset(), 20);
}
