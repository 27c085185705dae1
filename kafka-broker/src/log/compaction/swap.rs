//! New segments take the place of old ones by renames that a crash may end anywhere (`UnifiedLog.replaceSegments`,
//! `LogLoader.removeTempFilesAndCollectSwapFiles`).

use std::io;

use kafka_wire::record_batch::RecordBatch;

use super::super::segment::{Segment, TXN_INDEX, base_offset_of, file_name};
use super::pass::Batches;
use crate::storage::Storage;

/// The log last: its name says whether the indexes beside it are of the new segment.
const PARTS: [&str; 4] = ["index", "timeindex", TXN_INDEX, "log"];

pub(super) fn cleaned_name(folder: &str, base_offset: i64, part: &str) -> String {
    file_name(folder, base_offset, &format!("{part}.cleaned"))
}

fn swap_name(folder: &str, base_offset: i64, part: &str) -> String {
    file_name(folder, base_offset, &format!("{part}.swap"))
}

/// Removes what a pass wrote that is not wanted any more.
pub(super) fn discard(storage: &dyn Storage, folder: &str, base_offset: i64) -> io::Result<()> {
    PARTS.iter().try_for_each(|part| storage.remove(&cleaned_name(folder, base_offset, part)))
}

/// Puts the new segment in the place of `replaced`. While a part is still called `.cleaned`, the old segments are what
/// holds; from the moment on that all are called `.swap`, the new one is.
pub(super) fn swap_in(
    storage: &dyn Storage,
    folder: &str,
    base_offset: i64,
    replaced: &[(i64, u64)],
) -> io::Result<()> {
    for part in PARTS {
        storage.rename(&cleaned_name(folder, base_offset, part), &swap_name(folder, base_offset, part))?;
    }
    for &(old, _) in replaced.iter().filter(|&&(old, _)| old != base_offset) {
        for suffix in ["log", "index", "timeindex", TXN_INDEX, "snapshot"] {
            storage.remove(&file_name(folder, old, suffix))?;
        }
    }
    for part in PARTS {
        storage.rename(&swap_name(folder, base_offset, part), &file_name(folder, base_offset, part))?;
    }
    Ok(())
}

/// Finishes or undoes what a crash interrupted. Returns whether there was anything.
pub(in crate::log) fn recover(storage: &dyn Storage, folder: &str) -> io::Result<bool> {
    storage.create_folder(folder)?;
    let names = storage.list(folder)?;
    let of = |kind: &str| -> Vec<(i64, &'static str)> {
        let found = names.iter().flat_map(|name| {
            PARTS
                .into_iter()
                .filter_map(move |part| Some((base_offset_of(name, &format!("{part}.{kind}"))?, part)))
        });
        found.collect()
    };
    let (cleaned, swapped) = (of("cleaned"), of("swap"));
    let first_cleaned = cleaned.iter().map(|&(base, _)| base).min();
    for &(base, part) in &cleaned {
        storage.remove(&cleaned_name(folder, base, part))?;
    }
    // Segments are swapped one after the other: what comes at or after an unfinished one was not begun (KAFKA-6264).
    let is_undone = |base: i64| first_cleaned.is_some_and(|first| base >= first);
    for &(base, part) in swapped.iter().filter(|&&(base, _)| is_undone(base)) {
        storage.remove(&swap_name(folder, base, part))?;
    }
    for &(base, part) in swapped.iter().filter(|&&(base, _)| !is_undone(base)) {
        if part == "log" {
            remove_covered(storage, folder, base, &names)?;
        }
    }
    for &(base, part) in swapped.iter().filter(|&&(base, _)| !is_undone(base)) {
        storage.rename(&swap_name(folder, base, part), &file_name(folder, base, part))?;
    }
    Ok(!cleaned.is_empty() || !swapped.is_empty())
}

/// Removes old segments that lie within the new one.
fn remove_covered(storage: &dyn Storage, folder: &str, base: i64, names: &[String]) -> io::Result<()> {
    let file = storage.open(&swap_name(folder, base, "log"))?;
    let mut end_offset = base;
    for batch in Batches::new(&*file) {
        end_offset = batch.as_ref().map_or(end_offset, RecordBatch::next_offset);
    }
    for old in names.iter().filter_map(|name| base_offset_of(name, "log")) {
        if old > base && old < end_offset {
            Segment::open(storage, folder, old)?.remove(storage, folder)?;
        }
    }
    Ok(())
}
