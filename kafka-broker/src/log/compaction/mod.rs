//! Compaction: of each key, only the latest record stays (`LogCleaner`, `Cleaner`).
//!
//! A pass is decided on under the log's lock ([`PartitionLog::begin_compaction`]), run without it on the closed segments'
//! files ([`Compaction::run`]), and its new segments take the place of the old ones under the lock again
//! ([`PartitionLog::finish_compaction`]). Files change names as Kafka's do, so that a crash at any moment leaves either the
//! old segments or the new ones: `.cleaned` while they are written, `.swap` while they replace.

mod offset_map;
mod pass;
mod swap;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::segment::Segment;
use super::{AbortedTxn, LogConfig, PartitionLog};
use crate::storage::{File, Storage};

/// A closed segment as the decision sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Candidate {
    base_offset: i64,
    /// Where the next segment begins.
    end_offset: i64,
    size_bytes: u64,
    /// The time of the first batch, of the last one; when the segment was first seen, where records have no time.
    first_ms: i64,
    last_ms: i64,
}

/// How many of the closed segments a pass takes, or `None` when it is not worth it or not allowed yet
/// (`LogCleanerManager.grabFilthiestCompactedLog`).
///
/// `closed` are all closed segments in order; everything before `cleaned_offset` was compacted before; nothing at or after
/// `limit` may be touched.
fn segments_to_compact(
    closed: &[Candidate],
    cleaned_offset: i64,
    limit: i64,
    config: &LogConfig,
    now_ms: i64,
) -> Option<usize> {
    let first_dirty = closed.iter().position(|segment| segment.end_offset > cleaned_offset)?;
    let newest_allowed = now_ms.saturating_sub(config.min_compaction_lag_ms);
    let too_young = |segment: &Candidate| {
        segment.end_offset > limit || (config.min_compaction_lag_ms > 0 && segment.last_ms > newest_allowed)
    };
    let (clean, dirty) = closed.split_at(first_dirty);
    let cleanable = &dirty[..dirty.iter().position(too_young).unwrap_or(dirty.len())];
    let bytes = |segments: &[Candidate]| segments.iter().map(|segment| segment.size_bytes).sum::<u64>();
    let (clean_bytes, dirty_bytes) = (bytes(clean), bytes(cleanable));
    if dirty_bytes == 0 {
        return None;
    }
    let ratio = dirty_bytes as f64 / (clean_bytes + dirty_bytes) as f64;
    let overdue = cleanable
        .iter()
        .any(|segment| now_ms.saturating_sub(segment.first_ms) > config.max_compaction_lag_ms);
    (ratio > config.min_cleanable_dirty_ratio || overdue).then_some(clean.len() + cleanable.len())
}

/// A closed segment's file, to be read without the log.
#[derive(Debug)]
struct Source {
    base_offset: i64,
    end_offset: i64,
    size_bytes: u64,
    seen_ms: i64,
    file: Box<dyn File>,
    aborted: Vec<AbortedTxn>,
}

/// A pass that was decided on.
#[derive(Debug)]
pub(crate) struct Compaction {
    storage: Arc<dyn Storage>,
    folder: String,
    config: LogConfig,
    sources: Vec<Source>,
    first_dirty: i64,
    /// The last offset of each idempotent producer: its batch stays, without records if need be.
    last_offsets: FxHashMap<i64, i64>,
    max_bytes: usize,
    now_ms: i64,
}

/// New segments, each with the old ones that it replaces.
#[derive(Debug)]
pub(crate) struct Compacted {
    groups: Vec<Group>,
    /// Everything before this offset is compacted.
    cleaned_offset: i64,
}

#[derive(Debug)]
struct Group {
    /// Base offset and size of each replaced segment.
    replaced: Vec<(i64, u64)>,
    segment: Segment,
}

impl PartitionLog {
    /// Decides on a pass; `None`: there is nothing to do. What is not committed, from `high_watermark` on, stays as it is.
    /// The map of the keys takes at most `max_bytes`.
    pub(crate) fn begin_compaction(
        &mut self,
        now_ms: i64,
        high_watermark: i64,
        max_bytes: usize,
    ) -> Option<Compaction> {
        if !self.config.compacted || self.offline || self.uncleanable {
            return None;
        }
        let first_dirty = match self.cleaned_offset {
            // A checkpoint of another life of the log says nothing (`cleanableOffsets`).
            offset if offset < self.log_start_offset || offset > self.log_end_offset => self.log_start_offset,
            offset => offset,
        };
        let mut closed = Vec::new();
        for at in 0..self.segments.len().saturating_sub(1) {
            let end_offset = self.segments[at + 1].base_offset;
            let segment = &mut self.segments[at];
            // A sync that is under way writes the segment's old indexes: it has to be over first.
            if self.closing.iter().any(|closing| closing.is_of(segment.base_offset)) {
                break;
            }
            let seen_ms = segment.seen(now_ms);
            let or_seen = |time_ms: i64| if time_ms >= 0 { time_ms } else { seen_ms };
            closed.push(Candidate {
                base_offset: segment.base_offset,
                end_offset,
                size_bytes: segment.size_bytes(),
                first_ms: or_seen(segment.first_timestamp.unwrap_or(-1)),
                last_ms: or_seen(segment.max_timestamp),
            });
        }
        let count = segments_to_compact(&closed, first_dirty, high_watermark, &self.config, now_ms)?;
        let sources = self.segments.iter_mut().zip(&closed).take(count).map(|(segment, candidate)| Source {
            base_offset: candidate.base_offset,
            end_offset: candidate.end_offset,
            size_bytes: candidate.size_bytes,
            seen_ms: segment.seen(now_ms),
            file: segment.reader(),
            aborted: segment.aborted.clone(),
        });
        Some(Compaction {
            storage: Arc::clone(&self.storage),
            folder: self.folder.clone(),
            config: self.config.clone(),
            sources: sources.collect(),
            first_dirty,
            last_offsets: self.producers.last_offsets(),
            max_bytes,
            now_ms,
        })
    }

    /// Lets the new segments take the old ones' place. `false` when the log changed meanwhile and nothing was done.
    ///
    /// After an error the log is offline, because its files are between two states; the next start sorts them out.
    pub(crate) fn finish_compaction(&mut self, compacted: Compacted) -> io::Result<bool> {
        let unchanged = |group: &Group| {
            let from = self.segments.iter().position(|it| Some(it.base_offset) == group.first_base());
            from.is_some_and(|from| {
                let closed = self.segments.len() - 1;
                let end = from + group.replaced.len();
                end <= closed
                    && self.segments[from..end]
                        .iter()
                        .map(|segment| (segment.base_offset, segment.size_bytes()))
                        .eq(group.replaced.iter().copied())
            })
        };
        if self.offline || !compacted.groups.iter().all(unchanged) {
            for group in &compacted.groups {
                swap::discard(&*self.storage, &self.folder, group.segment.base_offset)?;
            }
            return Ok(false);
        }
        for group in compacted.groups {
            if let Err(error) = self.replace(group) {
                self.offline = true;
                return Err(error);
            }
        }
        self.cleaned_offset = compacted.cleaned_offset;
        Ok(true)
    }

    fn replace(&mut self, group: Group) -> io::Result<()> {
        let Some(from) = self.segments.iter().position(|it| Some(it.base_offset) == group.first_base())
        else {
            return Ok(());
        };
        let to = from + group.replaced.len();
        swap::swap_in(&*self.storage, &self.folder, group.segment.base_offset, &group.replaced)?;
        self.closing.retain(|closing| !group.replaced.iter().any(|(base, _)| closing.is_of(*base)));
        self.segments.splice(from..to, [group.segment]);
        Ok(())
    }

    /// Leaves the log as it is until it is opened again, because a pass came upon records that cannot be read
    /// (`LogCleanerManager.markPartitionUncleanable`).
    pub(crate) fn give_up_compaction(&mut self) {
        self.uncleanable = true;
    }

    /// Up to where the log is compacted.
    pub(crate) fn cleaned_offset(&self) -> i64 {
        self.cleaned_offset
    }

    /// Restores up to where compaction had come before a restart.
    pub(crate) fn restore_cleaned(&mut self, offset: i64) {
        // After a crash in the middle of a swap some of the old segments may be back: all is looked at again.
        if !self.swap_interrupted {
            self.cleaned_offset = offset;
        }
    }
}

impl Group {
    fn first_base(&self) -> Option<i64> {
        self.replaced.first().map(|&(base, _)| base)
    }
}

pub(super) use swap::recover as recover_swaps;
