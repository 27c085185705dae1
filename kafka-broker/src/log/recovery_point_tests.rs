//! How much of a log is read again after a crash or a truncation, and that nothing is lost by reading less.

use proptest::prelude::*;

use super::tests::*;
use super::*;
use crate::checkpoint::{Checkpoint, RECOVERY_POINT_FILE};
use crate::storage::{MemoryDisk, UnsyncedTail};
use kafka_wire::record_batch::Seal;

fn small() -> LogConfig {
    LogConfig { segment_bytes: 300, index_interval_bytes: 10, ..LogConfig::default() }
}

/// Opens the log after a crash, with what the data folder knows.
fn restarted(disk: &MemoryDisk, config: &LogConfig) -> PartitionLog {
    let storage = disk.storage();
    let points = Checkpoint::load(&*storage, RECOVERY_POINT_FILE);
    let left = points.get("t", 0).map_or(Shutdown::Unclean, Shutdown::UncleanAfter);
    let mut log = open(&storage, config, left);
    log.keep_recovery_point_in(points.entry("t", 0));
    log
}

fn write_recovery_point(disk: &MemoryDisk, log: &mut PartitionLog) -> Option<i64> {
    log.note_recovery_point();
    let points = log.recovery_point.as_ref().unwrap().checkpoint();
    points.retain(&*disk.storage(), |_, _| true).unwrap();
    Checkpoint::load(&*disk.storage(), RECOVERY_POINT_FILE).get("t", 0)
}

fn lose_all_unsynced(disk: &MemoryDisk) {
    disk.lose_power(|_| UnsyncedTail { kept: 0, zeros: 0 });
}

/// Spoils a byte that only a check of the batch's checksum notices.
fn damage_first_batch(disk: &MemoryDisk) {
    let storage = disk.storage();
    let path = segment::file_name("t-0", 0, "log");
    let mut file = storage.open(&path).unwrap();
    let mut content = file.read_at(0, 1 << 20).unwrap().concat();
    content[65] ^= 1;
    file.truncate(0).unwrap();
    file.append(content.into()).unwrap();
}

fn numbered(from: i64, to: i64) -> Vec<(i64, String)> {
    (from..to).map(|i| (i, format!("v{i}"))).collect()
}

fn append(log: &mut PartitionLog, value: i64) {
    let sent =
        batch_with(&Seal::idempotent(value % 3, 0, (value / 3) as i32), &[(NOW, None, &format!("v{value}"))]);
    log.append(sent, Append { leader_epoch: (value / 5) as i32, ..client() }).unwrap();
}

#[test]
fn after_a_crash_only_what_lies_beyond_the_recovery_point_is_read_again() {
    let disk = MemoryDisk::default();
    let mut log = restarted(&disk, &small());
    (0..20).for_each(|i| append(&mut log, i));
    log.flush().unwrap();
    (20..30).for_each(|i| append(&mut log, i));
    let epochs = log.epochs.clone();
    assert!(write_recovery_point(&disk, &mut log).unwrap() > 10);
    drop(log);
    damage_first_batch(&disk);
    let mut log = restarted(&disk, &small());
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (0, 30));
    assert_eq!(read_from(&log, 3, 1000), numbered(3, 30));
    assert_eq!((log.producer_count(), &log.epochs), (3, &epochs));
    append(&mut log, 30);
    drop(log);
    // Without the recovery point everything is checked, and the damage is found.
    disk.storage().remove(RECOVERY_POINT_FILE).unwrap();
    assert_eq!(restarted(&disk, &small()).log_end_offset(), 0);
}

#[test]
fn what_recovery_found_survives_the_power_cut_that_follows() {
    let disk = MemoryDisk::default();
    let config = LogConfig { flush_messages: 1, ..small() };
    let mut log = restarted(&disk, &config);
    (0..10).for_each(|i| append(&mut log, i));
    drop(log);
    // The process is gone, the machine is not: the file system still has what was not synced.
    let log = restarted(&disk, &config);
    assert_eq!((log.high_watermark(), log.flushed_offset()), (10, 10));
    drop(log);
    lose_all_unsynced(&disk);
    assert_eq!(read_from(&restarted(&disk, &config), 0, 1000), numbered(0, 10));
}

#[test]
fn a_sync_that_began_before_a_truncation_says_nothing_about_what_came_after_it() {
    let disk = MemoryDisk::default();
    let mut log = restarted(&disk, &LogConfig::default());
    (0..10).for_each(|i| append(&mut log, i));
    let job = log.begin_flush();
    let result = job.run();
    log.truncate_to(4).unwrap();
    (4..12).for_each(|i| append(&mut log, i));
    log.end_flush(&job, result).unwrap();
    assert!(log.flushed_offset() <= 4, "{}", log.flushed_offset());
    log.flush().unwrap();
    assert_eq!(log.flushed_offset(), 12);
}

#[test]
fn records_that_were_shown_stay_when_every_batch_is_to_be_synced_from_now_on() {
    let disk = MemoryDisk::default();
    let mut log = restarted(&disk, &LogConfig::default());
    (0..5).for_each(|i| append(&mut log, i));
    assert_eq!(log.high_watermark(), 5);
    log.reconfigure(LogConfig { flush_messages: 1, ..LogConfig::default() });
    assert_eq!(log.high_watermark(), 5);
    append(&mut log, 5);
    assert_eq!(log.high_watermark(), 5);
    log.flush().unwrap();
    assert_eq!(log.high_watermark(), 6);
    log.truncate_to(2).unwrap();
    assert_eq!(log.high_watermark(), 2);
}

#[test]
fn a_truncation_reads_one_segment_and_lowers_the_recovery_point_first() {
    let disk = MemoryDisk::default();
    let mut log = restarted(&disk, &small());
    (0..30).for_each(|i| append(&mut log, i));
    log.flush().unwrap();
    write_recovery_point(&disk, &mut log).unwrap();
    damage_first_batch(&disk);
    log.truncate_to(13).unwrap();
    assert_eq!(log.log_end_offset(), 13);
    assert_eq!(read_from(&log, 3, 1000), numbered(3, 13));
    let point = Checkpoint::load(&*disk.storage(), RECOVERY_POINT_FILE).get("t", 0).unwrap();
    assert!(point <= 13, "{point}");
    // Producers go on where what is left ends.
    (13..20).for_each(|i| append(&mut log, i));
    assert_eq!(read_from(&log, 3, 1000), numbered(3, 20));
    assert_eq!(log.end_offset_for_epoch(2), Some((2, 15)));
}

#[test]
fn a_truncation_in_memory_reads_one_segment_too_and_keeps_producers() {
    let mut log = memory_log(small());
    (0..30).for_each(|i| append(&mut log, i));
    log.truncate_to(13).unwrap();
    (13..30).for_each(|i| append(&mut log, i));
    assert_eq!(read_from(&log, 0, 1000), numbered(0, 30));
}

#[test]
fn an_index_from_before_a_truncation_is_not_believed_after_a_crash() {
    let disk = MemoryDisk::default();
    let write = |log: &mut PartitionLog, values: std::ops::Range<i64>| {
        for i in values {
            log.append(batch(&[&format!("v{i}")]), client()).unwrap();
        }
    };
    let mut log = restarted(&disk, &small());
    write(&mut log, 0..7);
    drop(log);
    // Recovery writes the closed segment's index; then the segment is written anew, with batches of other sizes.
    let mut log = restarted(&disk, &small());
    log.truncate_to(0).unwrap();
    write(&mut log, 8..12);
    log.flush().unwrap();
    write_recovery_point(&disk, &mut log).unwrap();
    write(&mut log, 12..13);
    drop(log);
    let log = restarted(&disk, &small());
    assert_eq!(read_from(&log, 0, 1000), (0..5).map(|i| (i, format!("v{}", i + 8))).collect::<Vec<_>>());
}

#[derive(Debug, Clone)]
enum Step {
    Append(u8),
    Flush,
    WritePoint,
    Truncate(u8),
    DeleteRecords(u8),
    Crash { power: bool, torn: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1u8..8).prop_map(Step::Append),
        3 => Just(Step::Flush),
        3 => Just(Step::WritePoint),
        2 => any::<u8>().prop_map(Step::Truncate),
        1 => any::<u8>().prop_map(Step::DeleteRecords),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(power, torn)| Step::Crash { power, torn }),
    ]
}

proptest! {
    #[test]
    fn what_was_synced_survives_every_crash_whatever_was_cut_before(steps in prop::collection::vec(step(), 1..60)) {
        let disk = MemoryDisk::default();
        let mut log = restarted(&disk, &small());
        // Values in the log; a new one for each append, so that what was cut and written anew is told apart.
        let mut model: Vec<String> = Vec::new();
        let (mut next_value, mut synced) = (0, 0);
        for step in steps {
            match step {
                Step::Append(count) => for _ in 0..count {
                    let value = format!("v{next_value}");
                    next_value += 1;
                    log.append(batch(&[&value]), Append { leader_epoch: next_value / 7, ..client() }).unwrap();
                    model.push(value);
                },
                Step::Flush => {
                    log.flush().unwrap();
                    synced = model.len();
                }
                Step::WritePoint => { write_recovery_point(&disk, &mut log); }
                Step::Truncate(to) => {
                    let to = usize::from(to) % (model.len() + 1);
                    if to as i64 >= log.log_start_offset() {
                        log.truncate_to(to as i64).unwrap();
                        model.truncate(to);
                        synced = synced.min(to);
                    }
                }
                Step::DeleteRecords(to) => {
                    let to = i64::from(to) % (log.log_end_offset() + 1);
                    log.delete_records(to).unwrap();
                }
                Step::Crash { power, torn } => {
                    drop(log);
                    if power {
                        // The zero byte: what is cut exactly between two batches looks as if it were whole.
                        disk.lose_power(|unsynced| UnsyncedTail { kept: if torn { unsynced / 2 } else { 0 }, zeros: 1 });
                    }
                    log = restarted(&disk, &small());
                    let end = log.log_end_offset() as usize;
                    let expected = if power { synced..=model.len() } else { model.len()..=model.len() };
                    prop_assert!(expected.contains(&end), "{end} of {expected:?}");
                    model.truncate(end);
                    synced = end;
                }
            }
            let expected: Vec<(i64, String)> =
                (0..).zip(model.iter().cloned()).skip(log.log_start_offset() as usize).collect();
            prop_assert_eq!(read_from(&log, log.log_start_offset(), 1000), expected);
            prop_assert_eq!(log.log_end_offset(), model.len() as i64);
        }
    }
}
