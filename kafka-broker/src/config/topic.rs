//! Topic configurations (`LogConfig` and `TopicConfig` of Apache Kafka 4.3) and their typed form.

use std::collections::BTreeMap;

use kafka_wire::compression::Compression;
use kafka_wire::error_code::ErrorCode;

use super::broker::BrokerConfig;
use super::{ConfigDef, ConfigError, Kind, check};
use crate::cluster::topics::Refusal;
use crate::log::LogConfig;
use crate::replication_quota::ThrottledReplicas;

const NEVER: &str = "9223372036854775807";

macro_rules! keys {
    ($($name:literal $kind:expr, $default:expr, $doc:literal;)*) => {
        &[$(ConfigDef { name: $name, kind: $kind, default: $default, doc: $doc },)*]
    };
}

/// Every topic key of Kafka 4.3.
#[rustfmt::skip]
pub(crate) const TABLE: &[ConfigDef] = keys! {
    "cleanup.policy" Kind::List(&["compact", "delete"]), Some("delete"), "How old segments go away: delete by age or size, compact to the last value of each key, or both.";
    "compression.gzip.level" Kind::Int { min: -1, max: 9 }, Some("-1"), "The gzip level when compression.type is gzip; -1 is the library's default.";
    "compression.lz4.level" Kind::Int { min: 1, max: 17 }, Some("9"), "The lz4 level when compression.type is lz4.";
    "compression.type" Kind::OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]), Some("producer"), "How batches rest in the log; producer keeps what the producer chose, anything else compresses batches anew.";
    "compression.zstd.level" Kind::Int { min: -131_072, max: 22 }, Some("3"), "The zstd level when compression.type is zstd.";
    "delete.retention.ms" Kind::long(0), Some("86400000"), "How long compaction keeps tombstones, in milliseconds.";
    "file.delete.delay.ms" Kind::long(0), Some("60000"), "How long a deleted segment's file stays before it is removed, in milliseconds. No effect: a read in progress does not need the file's name, so it is removed at once.";
    "flush.messages" Kind::long(1), Some(NEVER), "Sync the log to disk after this many records.";
    "flush.ms" Kind::long(0), Some(NEVER), "Sync the log to disk when its oldest unsynced record is this old, in milliseconds.";
    "follower.replication.throttled.replicas" Kind::List(&[]), Some(""), "Replicas that are copied at most at follower.replication.throttled.rate while they are not in sync, as partition:broker; * for all.";
    "index.interval.bytes" Kind::int(0), Some("4096"), "About how many bytes of log lie between two entries of the offset index.";
    "leader.replication.throttled.replicas" Kind::List(&[]), Some(""), "Replicas whose followers copy at most at leader.replication.throttled.rate while they are not in sync, as partition:broker; * for all.";
    "local.retention.bytes" Kind::long(-2), Some("-2"), "Size kept locally with tiered storage; -2 follows retention.bytes. No effect without tiered storage.";
    "local.retention.ms" Kind::long(-2), Some("-2"), "Age kept locally with tiered storage; -2 follows retention.ms. No effect without tiered storage.";
    "max.compaction.lag.ms" Kind::long(1), Some(NEVER), "A record is compacted at the latest after this long, in milliseconds.";
    "max.message.bytes" Kind::int(0), Some("1048588"), "The largest record batch accepted, in bytes, as it arrives.";
    "message.timestamp.after.max.ms" Kind::long(0), Some("3600000"), "How far ahead of the broker's clock a record's timestamp may be, in milliseconds.";
    "message.timestamp.before.max.ms" Kind::long(0), Some(NEVER), "How far behind the broker's clock a record's timestamp may be, in milliseconds.";
    "message.timestamp.type" Kind::OneOf(&["CreateTime", "LogAppendTime"]), Some("CreateTime"), "Whether a record carries the producer's timestamp or the time of its append.";
    "min.cleanable.dirty.ratio" Kind::Double { min: 0.0, max: 1.0 }, Some("0.5"), "The share of uncompacted bytes from which a log is worth compacting.";
    "min.compaction.lag.ms" Kind::long(0), Some("0"), "A record stays uncompacted at least this long, in milliseconds.";
    "min.insync.replicas" Kind::int(1), Some("1"), "How many replicas must hold a record before acks=all is answered.";
    "preallocate" Kind::Boolean, Some("false"), "Whether a segment takes its full size on disk when its first record is written. No effect but on Linux.";
    "remote.log.copy.disable" Kind::Boolean, Some("false"), "Whether tiered storage stops copying. No effect without tiered storage.";
    "remote.log.delete.on.disable" Kind::Boolean, Some("false"), "Whether tiered data is deleted when tiering is switched off. No effect without tiered storage.";
    "remote.storage.enable" Kind::Boolean, Some("false"), "Whether the topic is tiered. Tiered storage does not exist here: true is refused.";
    "retention.bytes" Kind::long(i64::MIN), Some("-1"), "The size above which a partition's oldest segments are deleted; -1 has no limit.";
    "retention.ms" Kind::long(-1), Some("604800000"), "The age at which a segment is deleted, in milliseconds; -1 keeps it forever.";
    "segment.bytes" Kind::int(1_048_576), Some("1073741824"), "The size at which a new segment is started, in bytes.";
    "segment.index.bytes" Kind::int(4), Some("10485760"), "The size at which an index is full and a new segment is started, in bytes.";
    "segment.jitter.ms" Kind::long(0), Some("0"), "At most this much is taken off segment.ms at random, in milliseconds.";
    "segment.ms" Kind::long(1), Some("604800000"), "The age at which a new segment is started, in milliseconds.";
    "unclean.leader.election.enable" Kind::Boolean, Some("false"), "Whether a replica that is not in sync may lead. No effect with one node.";
};

/// The broker keys from which a topic key takes its value when the topic has none, first set one wins, and the factor
/// from their unit to the topic key's (`ServerTopicConfigSynonyms`).
#[rustfmt::skip]
pub(crate) fn broker_synonyms(topic_key: &str) -> &'static [(&'static str, i64)] {
    match topic_key {
        "cleanup.policy" => &[("log.cleanup.policy", 1)],
        "compression.gzip.level" => &[("compression.gzip.level", 1)],
        "compression.lz4.level" => &[("compression.lz4.level", 1)],
        "compression.type" => &[("compression.type", 1)],
        "compression.zstd.level" => &[("compression.zstd.level", 1)],
        "delete.retention.ms" => &[("log.cleaner.delete.retention.ms", 1)],
        "file.delete.delay.ms" => &[("log.segment.delete.delay.ms", 1)],
        "flush.messages" => &[("log.flush.interval.messages", 1)],
        "flush.ms" => &[("log.flush.interval.ms", 1), ("log.flush.scheduler.interval.ms", 1)],
        "index.interval.bytes" => &[("log.index.interval.bytes", 1)],
        "local.retention.bytes" => &[("log.local.retention.bytes", 1)],
        "local.retention.ms" => &[("log.local.retention.ms", 1)],
        "max.compaction.lag.ms" => &[("log.cleaner.max.compaction.lag.ms", 1)],
        "max.message.bytes" => &[("message.max.bytes", 1)],
        "message.timestamp.after.max.ms" => &[("log.message.timestamp.after.max.ms", 1)],
        "message.timestamp.before.max.ms" => &[("log.message.timestamp.before.max.ms", 1)],
        "message.timestamp.type" => &[("log.message.timestamp.type", 1)],
        "min.cleanable.dirty.ratio" => &[("log.cleaner.min.cleanable.ratio", 1)],
        "min.compaction.lag.ms" => &[("log.cleaner.min.compaction.lag.ms", 1)],
        "min.insync.replicas" => &[("min.insync.replicas", 1)],
        "preallocate" => &[("log.preallocate", 1)],
        "retention.bytes" => &[("log.retention.bytes", 1)],
        "retention.ms" => &[("log.retention.ms", 1), ("log.retention.minutes", 60_000), ("log.retention.hours", 3_600_000)],
        "segment.bytes" => &[("log.segment.bytes", 1)],
        "segment.index.bytes" => &[("log.index.size.max.bytes", 1)],
        "segment.jitter.ms" => &[("log.roll.jitter.ms", 1), ("log.roll.jitter.hours", 3_600_000)],
        "segment.ms" => &[("log.roll.ms", 1), ("log.roll.hours", 3_600_000)],
        "unclean.leader.election.enable" => &[("unclean.leader.election.enable", 1)],
        _ => &[],
    }
}

/// Checks one topic configuration as given by a client.
pub(crate) fn check_topic_config(
    key: &str,
    value: &str,
) -> Result<(&'static ConfigDef, String), ConfigError> {
    let (def, value) = check(TABLE, key, value)?;
    if def.name == "remote.storage.enable" && value == "true" {
        return Err(ConfigError::invalid(key, &value, "tiered storage is not supported"));
    }
    if def.name.ends_with(".replication.throttled.replicas") && ThrottledReplicas::parse(&value).is_none() {
        let problem = "must be the literal '*' or a list of replicas in the following format: \
                       [partitionId]:[brokerId],[partitionId]:[brokerId],...";
        return Err(ConfigError::invalid(key, &value, problem));
    }
    Ok((def, value))
}

/// The key's definition, for who would alter it.
pub(crate) fn find_alterable(key: &str) -> Result<&'static ConfigDef, Refusal> {
    let unknown =
        || Refusal { code: ErrorCode::InvalidConfig, message: format!("Unknown topic config name: {key}") };
    super::find(TABLE, key).ok_or_else(unknown)
}

/// The value that holds for a topic without an own one: what the broker was given, else Kafka's default.
pub(crate) fn inherited(def: &ConfigDef, broker: &BrokerConfig) -> String {
    for &(key, factor) in broker_synonyms(def.name) {
        if let Some((value, _)) = broker.set_value(key) {
            return scaled(&value, factor);
        }
    }
    def.default.unwrap_or_default().to_owned()
}

fn scaled(value: &str, factor: i64) -> String {
    match value.parse::<i64>() {
        // A negative retention means "no limit" in every unit.
        Ok(number) if factor != 1 && number >= 0 => number.saturating_mul(factor).to_string(),
        Ok(_) if factor != 1 => "-1".to_owned(),
        _ => value.to_owned(),
    }
}

/// The effective configuration of a topic, typed. Only what the broker acts on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TopicConfig {
    pub(crate) log: LogConfig,
    pub(crate) min_insync_replicas: i64,
    /// `flush.ms`, `i64::MAX` for never.
    pub(crate) flush_ms: i64,
    pub(crate) throttled_leaders: ThrottledReplicas,
    pub(crate) throttled_followers: ThrottledReplicas,
}

impl TopicConfig {
    /// Merges a topic's own values over what it inherits from the broker.
    pub(crate) fn new(own: &BTreeMap<String, String>, broker: &BrokerConfig) -> Self {
        let text = |key: &str| match own.get(key) {
            Some(value) => value.clone(),
            None => super::find(TABLE, key).map(|def| inherited(def, broker)).unwrap_or_default(),
        };
        // Values were checked when they were set; one that an older version accepted falls back to its default.
        let number = |key: &str| -> i64 {
            let default =
                || super::find(TABLE, key).and_then(|def| def.default?.parse().ok()).unwrap_or(i64::MAX);
            text(key).parse().unwrap_or_else(|_| default())
        };
        let size = |key: &str| usize::try_from(number(key)).unwrap_or(0);
        let policy = text("cleanup.policy");
        let log = LogConfig {
            segment_bytes: number("segment.bytes").unsigned_abs(),
            segment_ms: number("segment.ms"),
            segment_jitter_ms: number("segment.jitter.ms"),
            index_bytes: size("segment.index.bytes"),
            retention_ms: number("retention.ms"),
            retention_bytes: number("retention.bytes"),
            max_message_bytes: size("max.message.bytes"),
            compression: compression(&text, &number),
            index_interval_bytes: size("index.interval.bytes"),
            log_append_time: text("message.timestamp.type") == "LogAppendTime",
            timestamp_before_max_ms: number("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: number("message.timestamp.after.max.ms"),
            compacted: policy.split(',').any(|item| item == "compact"),
            deleted: policy.split(',').any(|item| item == "delete"),
            delete_retention_ms: number("delete.retention.ms"),
            min_cleanable_dirty_ratio: text("min.cleanable.dirty.ratio").parse().unwrap_or(0.5),
            min_compaction_lag_ms: number("min.compaction.lag.ms"),
            max_compaction_lag_ms: number("max.compaction.lag.ms"),
            preallocate: text("preallocate") == "true",
            flush_messages: number("flush.messages"),
        };
        let throttled =
            |key: &str| ThrottledReplicas::parse(&text(key)).unwrap_or(ThrottledReplicas::Listed(Vec::new()));
        Self {
            log,
            min_insync_replicas: number("min.insync.replicas"),
            flush_ms: number("flush.ms"),
            throttled_leaders: throttled("leader.replication.throttled.replicas"),
            throttled_followers: throttled("follower.replication.throttled.replicas"),
        }
    }
}

/// The codec of `compression.type` at its level; `None` for `producer`.
fn compression(text: &dyn Fn(&str) -> String, number: &dyn Fn(&str) -> i64) -> Option<Compression> {
    Some(match text("compression.type").as_str() {
        "uncompressed" => Compression::None,
        "gzip" => match u32::try_from(number("compression.gzip.level")) {
            Ok(level @ 1..=9) => Compression::Gzip(level),
            // -1, the library's own default.
            _ => Compression::GZIP,
        },
        "snappy" => Compression::Snappy,
        "lz4" => Compression::Lz4,
        "zstd" => Compression::Zstd(i32::try_from(number("compression.zstd.level")).unwrap_or(3)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_without_settings_has_the_logs_own_defaults() {
        let config = TopicConfig::new(&BTreeMap::new(), &BrokerConfig::default());
        assert_eq!(config.log, LogConfig::default());
    }

    fn broker(given: &[(&str, &str)]) -> BrokerConfig {
        let mut config = BrokerConfig::default();
        for (key, value) in given {
            config.set(key, value).unwrap();
        }
        config
    }

    #[test]
    fn a_topic_inherits_the_most_precise_broker_key_and_overrides_it() {
        let own = BTreeMap::new();
        assert_eq!(TopicConfig::new(&own, &broker(&[])).log.retention_ms, 604_800_000);
        assert_eq!(
            TopicConfig::new(&own, &broker(&[("log.retention.hours", "2")])).log.retention_ms,
            7_200_000
        );
        let both = broker(&[("log.retention.hours", "2"), ("log.retention.ms", "5")]);
        assert_eq!(TopicConfig::new(&own, &both).log.retention_ms, 5);
        assert_eq!(TopicConfig::new(&own, &broker(&[("log.retention.minutes", "-1")])).log.retention_ms, -1);
        let own = BTreeMap::from([("retention.ms".to_owned(), "77".to_owned())]);
        assert_eq!(TopicConfig::new(&own, &both).log.retention_ms, 77);
    }

    #[test]
    fn every_synonym_is_a_known_broker_key() {
        for def in TABLE {
            for (key, _) in broker_synonyms(def.name) {
                assert!(super::super::find(super::super::broker::TABLE, key).is_some(), "{key}");
            }
        }
    }

    #[test]
    fn tiered_storage_is_refused_instead_of_pretended() {
        assert!(check_topic_config("remote.storage.enable", "true").is_err());
        assert!(check_topic_config("remote.storage.enable", "false").is_ok());
    }
}
