//! What a log needs to know of its topic's configuration, under Kafka's names.

use std::time::Duration;

/// Options of one log; defaults are Kafka's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogConfig {
    /// `segment.bytes`: a segment never grows beyond this.
    pub(crate) segment_bytes: u64,
    /// `segment.ms`: a segment older than this is closed at the next append.
    pub(crate) segment_ms: i64,
    /// `retention.ms`, -1 for ever.
    pub(crate) retention_ms: i64,
    /// `retention.bytes`, -1 for any size.
    pub(crate) retention_bytes: i64,
    /// `max.message.bytes`: the largest batch accepted.
    pub(crate) max_message_bytes: usize,
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
    /// `flush.messages`: sync after this many records; 1 syncs every append.
    pub(crate) flush_messages: i64,
}

impl Default for LogConfig {
    fn default() -> Self {
        let week_ms = Duration::from_secs(7 * 24 * 3600).as_millis() as i64;
        Self {
            segment_bytes: 1 << 30,
            segment_ms: week_ms,
            retention_ms: week_ms,
            retention_bytes: -1,
            max_message_bytes: 1_048_588,
            index_interval_bytes: 4096,
            log_append_time: false,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: Duration::from_secs(3600).as_millis() as i64,
            compacted: false,
            deleted: true,
            flush_messages: i64::MAX,
        }
    }
}
