//! What a log needs to know of its topic's configuration, under Kafka's names.

use std::time::Duration;

use kafka_wire::compression::Compression;

/// Options of one log; defaults are Kafka's.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LogConfig {
    /// `segment.bytes`: a segment never grows beyond this.
    pub(crate) segment_bytes: u64,
    /// `segment.ms`: a segment older than this is closed at the next append.
    pub(crate) segment_ms: i64,
    /// `segment.jitter.ms`: up to this is taken off `segment.ms`, so that logs do not all roll at once.
    pub(crate) segment_jitter_ms: i64,
    /// `segment.index.bytes`: a segment with so large an index is full.
    pub(crate) index_bytes: usize,
    /// `retention.ms`, -1 for ever.
    pub(crate) retention_ms: i64,
    /// `retention.bytes`, -1 for any size.
    pub(crate) retention_bytes: i64,
    /// `max.message.bytes`: the largest batch accepted.
    pub(crate) max_message_bytes: usize,
    /// `compression.type` with its level; `None` keeps the producer's choice.
    pub(crate) compression: Option<Compression>,
    /// `index.interval.bytes`: how many bytes lie between two index entries.
    pub(crate) index_interval_bytes: usize,
    /// `message.timestamp.type`.
    pub(crate) log_append_time: bool,
    /// `message.timestamp.before.max.ms`: how far in the past a record may be.
    pub(crate) timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`: how far in the future a record may be.
    pub(crate) timestamp_after_max_ms: i64,
    /// `cleanup.policy` contains `compact`: records need keys.
    pub(crate) compacted: bool,
    /// `cleanup.policy` contains `delete`: old segments go.
    pub(crate) deleted: bool,
    /// `delete.retention.ms`: how long compaction keeps a tombstone (KIP-534).
    pub(crate) delete_retention_ms: i64,
    /// `min.cleanable.dirty.ratio`: the share of dirty bytes above which compaction is worth it.
    pub(crate) min_cleanable_dirty_ratio: f64,
    /// `min.compaction.lag.ms`: a record stays uncompacted at least this long.
    pub(crate) min_compaction_lag_ms: i64,
    /// `max.compaction.lag.ms`: a record is compacted at the latest after this long (KIP-354).
    pub(crate) max_compaction_lag_ms: i64,
    /// `preallocate`: a segment takes its room on disk when it begins.
    pub(crate) preallocate: bool,
    /// `flush.messages`: sync after this many records; 1 syncs every append.
    pub(crate) flush_messages: i64,
}

impl Default for LogConfig {
    fn default() -> Self {
        let week_ms = Duration::from_secs(7 * 24 * 3600).as_millis() as i64;
        Self {
            segment_bytes: 1 << 30,
            segment_ms: week_ms,
            segment_jitter_ms: 0,
            index_bytes: 10 << 20,
            retention_ms: week_ms,
            retention_bytes: -1,
            max_message_bytes: 1_048_588,
            compression: None,
            index_interval_bytes: 4096,
            log_append_time: false,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: Duration::from_secs(3600).as_millis() as i64,
            compacted: false,
            deleted: true,
            delete_retention_ms: Duration::from_secs(24 * 3600).as_millis() as i64,
            min_cleanable_dirty_ratio: 0.5,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: i64::MAX,
            preallocate: false,
            flush_messages: i64::MAX,
        }
    }
}

impl LogConfig {
    /// How old the segment with this base offset may become (`LogConfig.maxSegmentMs`): a compacted topic's records must
    /// leave the active segment in time for `max.compaction.lag.ms`.
    ///
    /// The jitter is derived from `seed` and the offset, so that a log rolls the same way whenever it is looked at.
    pub(super) fn max_segment_ms(&self, seed: u64, base_offset: i64) -> i64 {
        let limit = match self.compacted {
            true => self.segment_ms.min(self.max_compaction_lag_ms),
            false => self.segment_ms,
        };
        let most = self.segment_jitter_ms.min(self.segment_ms).max(0).unsigned_abs();
        // SplitMix64's finalizer: neighbouring offsets give unrelated numbers.
        let mut mixed = seed ^ base_offset.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let jitter = if most == 0 { 0 } else { (mixed % most) as i64 };
        limit.saturating_sub(jitter).max(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_takes_at_most_what_it_may_off_and_differs_between_segments() {
        let config = LogConfig { segment_ms: 1000, segment_jitter_ms: 400, ..LogConfig::default() };
        let ages: Vec<i64> = (0..100).map(|base| config.max_segment_ms(7, base)).collect();
        assert!(ages.iter().all(|age| (601..=1000).contains(age)), "{ages:?}");
        assert!(ages.iter().collect::<std::collections::BTreeSet<_>>().len() > 50);
        assert_eq!(LogConfig::default().max_segment_ms(7, 3), 7 * 24 * 3600 * 1000);
        let compacted = LogConfig { compacted: true, max_compaction_lag_ms: 50, ..LogConfig::default() };
        assert_eq!(compacted.max_segment_ms(7, 3), 50);
    }
}
