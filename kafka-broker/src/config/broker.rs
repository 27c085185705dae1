//! Broker configurations: Kafka's keys, and what the embedded profile changes.

use std::collections::BTreeMap;

use kafka_wire::error_code::ErrorCode;
use parking_lot::RwLock;

use crate::cluster::topics::Refusal;
use crate::groups::assignor::Assignor;

use super::{ConfigDef, ConfigError, Kind, check, find};

const NEVER: &str = "9223372036854775807";

/// Sends consumers to a follower in their rack (KIP-392).
const RACK_AWARE: &str = "org.apache.kafka.common.replica.RackAwareReplicaSelector";

macro_rules! keys {
    ($($name:literal $kind:expr, $default:expr, $doc:literal;)*) => {
        &[$(ConfigDef { name: $name, kind: $kind, default: $default, doc: $doc },)*]
    };
}

/// The broker keys that this broker knows, in order. A Kafka key that is not here is refused, not ignored.
#[rustfmt::skip]
pub(crate) const TABLE: &[ConfigDef] = keys! {
    "advertised.listeners" Kind::Text, None, "The address that clients are told to connect to, as PLAINTEXT://host:port; unset: the address listened on.";
    "auto.create.topics.enable" Kind::Boolean, Some("true"), "Whether a client that asks for an unknown topic by name creates it.";
    "broker.rack" Kind::Text, None, "The rack that the broker tells clients it is in.";
    "compression.gzip.level" Kind::Int { min: -1, max: 9 }, Some("-1"), "Default of the topic key compression.gzip.level.";
    "compression.lz4.level" Kind::Int { min: 1, max: 17 }, Some("9"), "Default of the topic key compression.lz4.level.";
    "compression.type" Kind::OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]), Some("producer"), "Default of the topic key compression.type.";
    "compression.zstd.level" Kind::Int { min: -131_072, max: 22 }, Some("3"), "Default of the topic key compression.zstd.level.";
    "connections.max.idle.ms" Kind::long(-1), Some("600000"), "A connection without a request for this long is closed, in milliseconds; -1 never.";
    "default.replication.factor" Kind::Int { min: 1, max: i16::MAX as i64 }, Some("1"), "Replicas of a topic that asks for -1.";
    "delete.topic.enable" Kind::Boolean, Some("true"), "Whether topics can be deleted.";
    "fetch.max.bytes" Kind::int(1024), Some("57671680"), "The most bytes that one fetch is answered with; a first batch above it is still answered whole.";
    "group.consumer.assignment.interval.ms" Kind::Int { min: 0, max: 15_000 }, Some("1000"), "How long a target assignment of a consumer group holds at least, in milliseconds.";
    "group.consumer.assignors" Kind::List(&["uniform", "range"]), Some("uniform,range"), "The assignors that members of consumer groups may ask for; the first is the default.";
    "group.consumer.heartbeat.interval.ms" Kind::int(1), Some("5000"), "How often members of consumer groups are told to heartbeat, in milliseconds.";
    "group.consumer.max.size" Kind::int(1), Some("2147483647"), "The most members of a consumer group.";
    "group.consumer.migration.policy" Kind::OneOf(&["disabled", "downgrade", "upgrade", "bidirectional"]), Some("bidirectional"), "Which way groups may change between the classic and the consumer protocol while they have members.";
    "group.consumer.session.timeout.ms" Kind::int(1), Some("45000"), "How long a member of a consumer group may be silent, in milliseconds.";
    "group.initial.rebalance.delay.ms" Kind::int(0), Some("3000"), "How long the first rebalance of an empty group waits for more members, in milliseconds.";
    "group.max.session.timeout.ms" Kind::int(0), Some("1800000"), "The longest session timeout that a group member may ask for, in milliseconds.";
    "group.max.size" Kind::int(1), Some("2147483647"), "The most members of a group.";
    "group.min.session.timeout.ms" Kind::int(0), Some("6000"), "The shortest session timeout that a group member may ask for, in milliseconds.";
    "group.share.delivery.count.limit" Kind::Int { min: 2, max: 10 }, Some("5"), "Default of the group key share.delivery.count.limit.";
    "group.share.heartbeat.interval.ms" Kind::int(1), Some("5000"), "Default of the group key share.heartbeat.interval.ms.";
    "group.share.max.share.sessions" Kind::int(1), Some("2000"), "The most share sessions of a node: members of share groups that fetch from it.";
    "group.share.max.size" Kind::Int { min: 1, max: 1000 }, Some("200"), "The most members of a share group.";
    "group.share.partition.max.record.locks" Kind::int(100), Some("2000"), "Default of the group key share.partition.max.record.locks.";
    "group.share.record.lock.duration.ms" Kind::int(1000), Some("30000"), "Default of the group key share.record.lock.duration.ms.";
    "group.share.session.timeout.ms" Kind::int(1), Some("45000"), "Default of the group key share.session.timeout.ms.";
    "follower.replication.throttled.rate" Kind::long(0), Some(NEVER), "How fast throttled replicas that are not in sync are copied to this broker, in bytes a second.";
    "leader.replication.throttled.rate" Kind::long(0), Some(NEVER), "How fast throttled replicas that are not in sync are copied from this broker, in bytes a second.";
    "log.cleaner.backoff.ms" Kind::long(0), Some("15000"), "How often logs are looked at for compaction, in milliseconds.";
    "log.cleaner.dedupe.buffer.size" Kind::long(1_048_576), Some("134217728"), "The most memory that compaction of a log takes for its keys, in bytes.";
    "log.cleaner.delete.retention.ms" Kind::long(0), Some("86400000"), "Default of the topic key delete.retention.ms.";
    "log.cleaner.enable" Kind::Boolean, Some("true"), "Whether logs are compacted at all.";
    "log.cleaner.max.compaction.lag.ms" Kind::long(1), Some(NEVER), "Default of the topic key max.compaction.lag.ms.";
    "log.cleaner.min.cleanable.ratio" Kind::Double { min: 0.0, max: 1.0 }, Some("0.5"), "Default of the topic key min.cleanable.dirty.ratio.";
    "log.cleaner.min.compaction.lag.ms" Kind::long(0), Some("0"), "Default of the topic key min.compaction.lag.ms.";
    "log.cleanup.policy" Kind::List(&["compact", "delete"]), Some("delete"), "Default of the topic key cleanup.policy.";
    "log.flush.interval.messages" Kind::long(1), Some(NEVER), "Default of the topic key flush.messages.";
    "log.flush.interval.ms" Kind::long(0), None, "Default of the topic key flush.ms.";
    "log.flush.offset.checkpoint.interval.ms" Kind::int(0), Some("60000"), "How often it is written down how much of the logs needs no recovery after a crash, in milliseconds.";
    "log.flush.scheduler.interval.ms" Kind::long(1), Some(NEVER), "How often logs are looked at for a sync that flush.ms asks for, in milliseconds.";
    "log.index.interval.bytes" Kind::int(0), Some("4096"), "Default of the topic key index.interval.bytes.";
    "log.index.size.max.bytes" Kind::int(4), Some("10485760"), "Default of the topic key segment.index.bytes.";
    "log.local.retention.bytes" Kind::long(-2), Some("-2"), "Default of the topic key local.retention.bytes.";
    "log.local.retention.ms" Kind::long(-2), Some("-2"), "Default of the topic key local.retention.ms.";
    "log.message.timestamp.after.max.ms" Kind::long(0), Some("3600000"), "Default of the topic key message.timestamp.after.max.ms.";
    "log.message.timestamp.before.max.ms" Kind::long(0), Some(NEVER), "Default of the topic key message.timestamp.before.max.ms.";
    "log.message.timestamp.type" Kind::OneOf(&["CreateTime", "LogAppendTime"]), Some("CreateTime"), "Default of the topic key message.timestamp.type.";
    "log.preallocate" Kind::Boolean, Some("false"), "Default of the topic key preallocate.";
    "log.retention.bytes" Kind::long(i64::MIN), Some("-1"), "Default of the topic key retention.bytes.";
    "log.retention.check.interval.ms" Kind::long(1), Some("300000"), "How often logs are looked at for segments to delete or to roll, in milliseconds.";
    "log.retention.hours" Kind::int(-1), Some("168"), "Default of the topic key retention.ms, in hours.";
    "log.retention.minutes" Kind::int(-1), None, "Default of the topic key retention.ms, in minutes; wins over log.retention.hours.";
    "log.retention.ms" Kind::long(-1), None, "Default of the topic key retention.ms; wins over log.retention.minutes.";
    "log.roll.hours" Kind::int(1), Some("168"), "Default of the topic key segment.ms, in hours.";
    "log.roll.jitter.hours" Kind::int(0), Some("0"), "Default of the topic key segment.jitter.ms, in hours.";
    "log.roll.jitter.ms" Kind::long(0), None, "Default of the topic key segment.jitter.ms; wins over log.roll.jitter.hours.";
    "log.roll.ms" Kind::long(1), None, "Default of the topic key segment.ms; wins over log.roll.hours.";
    "log.segment.bytes" Kind::int(1_048_576), Some("1073741824"), "Default of the topic key segment.bytes.";
    "log.segment.delete.delay.ms" Kind::long(0), Some("60000"), "Default of the topic key file.delete.delay.ms.";
    "max.connections" Kind::int(0), Some("2147483647"), "The most open connections; one more is closed at once.";
    "max.incremental.fetch.session.cache.slots" Kind::int(0), Some("1000"), "The most fetch sessions that a node remembers.";
    "max.request.partition.size.limit" Kind::int(1), Some("2000"), "The most partitions that one DescribeTopicPartitions answer holds.";
    "message.max.bytes" Kind::int(0), Some("1048588"), "Default of the topic key max.message.bytes.";
    "min.insync.replicas" Kind::int(1), Some("1"), "Default of the topic key min.insync.replicas.";
    "num.partitions" Kind::int(1), Some("1"), "Partitions of a topic that asks for -1, or that is created by asking for it.";
    "offset.metadata.max.bytes" Kind::int(0), Some("4096"), "The longest metadata that may come with a committed offset, in bytes.";
    "offsets.retention.check.interval.ms" Kind::long(1), Some("600000"), "How often committed offsets are looked at for expiry, in milliseconds.";
    "offsets.retention.minutes" Kind::int(1), Some("10080"), "How long committed offsets outlive their empty group, in minutes.";
    "offsets.topic.num.partitions" Kind::Int { min: 1, max: 10_000 }, Some("50"), "Partitions of __consumer_offsets. It must not change once the topic exists.";
    "offsets.topic.replication.factor" Kind::Short { min: 1 }, Some("3"), "Replicas of __consumer_offsets, at most as many as there are nodes.";
    "offsets.topic.segment.bytes" Kind::int(1), Some("104857600"), "Segment size of __consumer_offsets, in bytes.";
    "producer.id.expiration.ms" Kind::int(1), Some("86400000"), "How long a partition remembers an idle producer's sequence numbers, in milliseconds.";
    "replica.alter.log.dirs.io.max.bytes.per.second" Kind::long(0), Some(NEVER), "How fast replicas move between folders of this broker, in bytes a second. No effect: it has one.";
    "replica.high.watermark.checkpoint.interval.ms" Kind::long(0), Some("5000"), "How often it is written down up to where partitions are committed, in milliseconds.";
    "replica.lag.time.max.ms" Kind::long(1), Some("30000"), "A replica that was not caught up with its leader for this long is not in sync any more, in milliseconds.";
    "replica.selector.class" Kind::OneOf(&[RACK_AWARE, "org.apache.kafka.common.replica.LeaderSelector"]), None, "Which replica a consumer is told to read from; the rack-aware one: a follower in the consumer's rack.";
    "share.coordinator.state.topic.num.partitions" Kind::Int { min: 1, max: 10_000 }, Some("50"), "Partitions of __share_group_state. It must not change once the topic exists.";
    "share.coordinator.state.topic.replication.factor" Kind::Short { min: 1 }, Some("3"), "Replicas of __share_group_state, at most as many as there are nodes.";
    "share.coordinator.state.topic.segment.bytes" Kind::int(1), Some("104857600"), "Segment size of __share_group_state, in bytes.";
    "socket.request.max.bytes" Kind::int(1), Some("104857600"), "The largest request, in bytes; a connection that announces more is closed.";
    "transaction.abort.timed.out.transaction.cleanup.interval.ms" Kind::int(1), Some("10000"), "How often transactions are looked at for those that are open for too long, in milliseconds.";
    "transaction.max.timeout.ms" Kind::int(1), Some("900000"), "The longest transaction that a producer may ask for, in milliseconds.";
    "transaction.state.log.num.partitions" Kind::Int { min: 1, max: 10_000 }, Some("50"), "Partitions of __transaction_state. It must not change once the topic exists.";
    "transaction.state.log.replication.factor" Kind::Short { min: 1 }, Some("3"), "Replicas of __transaction_state, at most as many as there are nodes.";
    "transaction.state.log.segment.bytes" Kind::int(1), Some("104857600"), "Segment size of __transaction_state, in bytes.";
    "transactional.id.expiration.ms" Kind::int(1), Some("604800000"), "After how long without a transaction a transactional id is forgotten, in milliseconds.";
    "unclean.leader.election.enable" Kind::Boolean, Some("false"), "Default of the topic key unclean.leader.election.enable.";
};

/// Keys that Kafka would put in this broker's file but that are set by the builder, for a helpful refusal.
const SET_BY_BUILDER: &[(&str, &str)] = &[
    ("node.id", "Builder::node_id"),
    ("broker.id", "Builder::node_id"),
    ("log.dir", "Builder::data_dir"),
    ("log.dirs", "Builder::data_dir"),
    ("listeners", "Builder::listen"),
];

/// Which defaults a broker starts from; every `config` call wins over them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Profile {
    /// Kafka's defaults, except what makes tests wait or small brokers large:
    /// `group.consumer.assignment.interval.ms` 0 (Kafka: 1000), `group.consumer.heartbeat.interval.ms` 500 (5000),
    /// `group.initial.rebalance.delay.ms` 0 (3000), `group.min.session.timeout.ms` 1 (6000),
    /// `offsets.topic.num.partitions`, `share.coordinator.state.topic.num.partitions` and
    /// `transaction.state.log.num.partitions` 4 (50),
    /// `group.share.heartbeat.interval.ms` 500 (5000).
    #[default]
    Embedded,
    /// Kafka's defaults without exception.
    Kafka,
}

impl Profile {
    fn values(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Embedded => &[
                ("group.consumer.assignment.interval.ms", "0"),
                ("group.consumer.heartbeat.interval.ms", "500"),
                ("group.initial.rebalance.delay.ms", "0"),
                ("group.share.heartbeat.interval.ms", "500"),
                ("group.min.session.timeout.ms", "1"),
                ("offsets.topic.num.partitions", "4"),
                ("share.coordinator.state.topic.num.partitions", "4"),
                ("transaction.state.log.num.partitions", "4"),
            ],
            Self::Kafka => &[],
        }
    }
}

/// The broker's configuration: values that differ from the defaults, by Kafka's keys.
#[derive(Debug, Default)]
pub(crate) struct BrokerConfig {
    given: BTreeMap<&'static str, String>,
    /// What was altered while the broker ran (KIP-226): read from the metadata, wins over what was given at start.
    dynamic: RwLock<Dynamic>,
}

#[derive(Debug, Clone, Default)]
struct Dynamic {
    of_this_broker: BTreeMap<String, String>,
    of_all_brokers: BTreeMap<String, String>,
}

/// Who set a broker's value, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetBy {
    /// An alteration of this broker.
    DynamicBroker,
    /// An alteration of all brokers.
    DynamicDefault,
    /// The start.
    Static,
}

impl Clone for BrokerConfig {
    fn clone(&self) -> Self {
        Self { given: self.given.clone(), dynamic: RwLock::new(self.dynamic.read().clone()) }
    }
}

/// Keys besides the defaults of topic keys that may be altered while the broker runs: those that are looked up whenever
/// they are needed.
const DYNAMIC: &[&str] = &[
    "follower.replication.throttled.rate",
    "leader.replication.throttled.rate",
    "log.cleaner.backoff.ms",
    "log.cleaner.dedupe.buffer.size",
    "producer.id.expiration.ms",
    "replica.alter.log.dirs.io.max.bytes.per.second",
];

/// Whether a key may be altered while the broker runs (`DynamicBrokerConfig`). Of the keys that set a topic key's default
/// it is the most precise one.
pub(crate) fn is_dynamic(key: &str) -> bool {
    DYNAMIC.contains(&key)
        || super::topic::TABLE.iter().any(|def| {
            super::topic::broker_synonyms(def.name).first().is_some_and(|(first, _)| *first == key)
        })
}

/// The key's definition, for who would alter it while the broker runs.
pub(crate) fn find_alterable(key: &str) -> Result<&'static ConfigDef, Refusal> {
    match find(TABLE, key) {
        Some(def) if is_dynamic(key) => Ok(def),
        Some(_) => Err(Refusal {
            code: ErrorCode::InvalidRequest,
            message: format!("Cannot update these configs dynamically: Set({key})"),
        }),
        None => Err(Refusal {
            code: ErrorCode::InvalidConfig,
            message: format!("Unknown broker config name: {key}"),
        }),
    }
}

/// Checks one broker configuration as given by a client.
pub(crate) fn check_broker_config(
    key: &str,
    value: &str,
) -> Result<(&'static ConfigDef, String), ConfigError> {
    check(TABLE, key, value)
}

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $key:literal;)*) => {
        impl BrokerConfig {
            $($(#[$doc])* pub(crate) fn $name(&self) -> $type { self.parsed($key) })*
        }
    };
}

numbers! {
    auto_create_topics: bool = "auto.create.topics.enable";
    connections_max_idle_ms: i64 = "connections.max.idle.ms";
    default_replication_factor: i16 = "default.replication.factor";
    delete_topics: bool = "delete.topic.enable";
    fetch_max_bytes: i32 = "fetch.max.bytes";
    consumer_group_assignment_interval_ms: i32 = "group.consumer.assignment.interval.ms";
    consumer_group_heartbeat_interval_ms: i32 = "group.consumer.heartbeat.interval.ms";
    consumer_group_max_size: i32 = "group.consumer.max.size";
    consumer_group_migration_policy: String = "group.consumer.migration.policy";
    consumer_group_session_timeout_ms: i32 = "group.consumer.session.timeout.ms";
    group_initial_rebalance_delay_ms: i32 = "group.initial.rebalance.delay.ms";
    group_max_session_timeout_ms: i32 = "group.max.session.timeout.ms";
    group_max_size: i32 = "group.max.size";
    group_min_session_timeout_ms: i32 = "group.min.session.timeout.ms";
    cleaner_backoff_ms: i64 = "log.cleaner.backoff.ms";
    cleaner_buffer_bytes: usize = "log.cleaner.dedupe.buffer.size";
    cleaner_enabled: bool = "log.cleaner.enable";
    recovery_point_interval_ms: i64 = "log.flush.offset.checkpoint.interval.ms";
    high_watermark_interval_ms: i64 = "replica.high.watermark.checkpoint.interval.ms";
    flush_check_interval_ms: i64 = "log.flush.scheduler.interval.ms";
    retention_check_interval_ms: i64 = "log.retention.check.interval.ms";
    max_connections: usize = "max.connections";
    max_fetch_sessions: usize = "max.incremental.fetch.session.cache.slots";
    max_described_partitions: i32 = "max.request.partition.size.limit";
    num_partitions: i32 = "num.partitions";
    offset_metadata_max_bytes: usize = "offset.metadata.max.bytes";
    offsets_retention_check_interval_ms: i64 = "offsets.retention.check.interval.ms";
    offsets_retention_minutes: i64 = "offsets.retention.minutes";
    offsets_topic_partitions: i32 = "offsets.topic.num.partitions";
    offsets_topic_segment_bytes: i64 = "offsets.topic.segment.bytes";
    producer_id_expiration_ms: i64 = "producer.id.expiration.ms";
    follower_throttled_rate: i64 = "follower.replication.throttled.rate";
    leader_throttled_rate: i64 = "leader.replication.throttled.rate";
    replica_lag_time_max_ms: i64 = "replica.lag.time.max.ms";
    offsets_topic_replication_factor: i16 = "offsets.topic.replication.factor";
    share_max_group_size: usize = "group.share.max.size";
    share_session_timeout_ms: i64 = "group.share.session.timeout.ms";
    share_max_sessions: usize = "group.share.max.share.sessions";
    share_state_partitions: i32 = "share.coordinator.state.topic.num.partitions";
    share_state_replication_factor: i16 = "share.coordinator.state.topic.replication.factor";
    share_state_segment_bytes: i64 = "share.coordinator.state.topic.segment.bytes";
    transaction_abort_interval_ms: i32 = "transaction.abort.timed.out.transaction.cleanup.interval.ms";
    transaction_max_timeout_ms: i32 = "transaction.max.timeout.ms";
    transactional_id_expiration_ms: i32 = "transactional.id.expiration.ms";
    transactions_topic_partitions: i32 = "transaction.state.log.num.partitions";
    transactions_topic_replication_factor: i16 = "transaction.state.log.replication.factor";
    transactions_topic_segment_bytes: i64 = "transaction.state.log.segment.bytes";
    unclean_leader_election: bool = "unclean.leader.election.enable";
    socket_request_max_bytes: usize = "socket.request.max.bytes";
}

impl BrokerConfig {
    pub(crate) fn new(profile: Profile, given: &[(String, String)]) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for (key, value) in profile.values() {
            config.set(key, value)?;
        }
        for (key, value) in given {
            config.set(key, value)?;
        }
        Ok(config)
    }

    /// Sets one key after checking it.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        if let Some((_, setter)) = SET_BY_BUILDER.iter().find(|(known, _)| *known == key) {
            return Err(ConfigError::invalid(key, value, format!("it is set with {setter}")));
        }
        let (def, value) = check(TABLE, key, value)?;
        self.given.insert(def.name, value);
        Ok(())
    }

    /// The value that was given for a key at start, if one was.
    pub(crate) fn given(&self, key: &str) -> Option<&str> {
        self.given.get(key).map(String::as_str)
    }

    pub(crate) fn selects_by_rack(&self) -> bool {
        self.given("replica.selector.class") == Some(RACK_AWARE)
    }

    /// Replaces what was altered while the broker ran.
    pub(crate) fn set_dynamic(
        &self,
        of_this_broker: BTreeMap<String, String>,
        of_all_brokers: BTreeMap<String, String>,
    ) {
        *self.dynamic.write() = Dynamic { of_this_broker, of_all_brokers };
    }

    /// Every value that is set for a key, the one that holds first.
    pub(crate) fn set_values(&self, key: &str) -> Vec<(String, SetBy)> {
        let dynamic = self.dynamic.read();
        let values = [
            (dynamic.of_this_broker.get(key).map(String::as_str), SetBy::DynamicBroker),
            (dynamic.of_all_brokers.get(key).map(String::as_str), SetBy::DynamicDefault),
            (self.given(key), SetBy::Static),
        ];
        values.into_iter().filter_map(|(value, by)| Some((value?.to_owned(), by))).collect()
    }

    /// The value that is set for a key and holds.
    pub(crate) fn set_value(&self, key: &str) -> Option<(String, SetBy)> {
        self.set_values(key).into_iter().next()
    }

    /// What was altered for all brokers.
    pub(crate) fn dynamic_defaults(&self) -> BTreeMap<String, String> {
        self.dynamic.read().of_all_brokers.clone()
    }

    /// The assignors of consumer groups, the default first.
    pub(crate) fn consumer_group_assignors(&self) -> Vec<Assignor> {
        let names: String = self.parsed("group.consumer.assignors");
        names.split(',').filter_map(|name| Assignor::by_name(name.trim())).collect()
    }

    fn parsed<T: std::str::FromStr + Default>(&self, key: &str) -> T {
        let set = self.set_value(key).map(|(value, _)| value);
        let text = set.as_deref().or_else(|| find(TABLE, key)?.default);
        text.and_then(|text| text.parse().ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_profile_is_kafkas_but_for_its_documented_exceptions() {
        let embedded = BrokerConfig::new(Profile::Embedded, &[]).unwrap();
        assert_eq!(embedded.group_initial_rebalance_delay_ms(), 0);
        assert_eq!(embedded.num_partitions(), 1);
        let kafka = BrokerConfig::new(Profile::Kafka, &[]).unwrap();
        assert_eq!(kafka.group_initial_rebalance_delay_ms(), 3000);
        assert_eq!(kafka.offsets_topic_partitions(), 50);
        let given = [("offsets.topic.num.partitions".to_owned(), "7".to_owned())];
        assert_eq!(BrokerConfig::new(Profile::Embedded, &given).unwrap().offsets_topic_partitions(), 7);
    }

    #[test]
    fn keys_that_the_builder_sets_say_so() {
        let error = BrokerConfig::default().set("log.dirs", "/x").unwrap_err();
        assert!(error.to_string().contains("Builder::data_dir"), "{error}");
    }

    #[test]
    fn every_typed_key_has_a_default_of_its_type() {
        let config = BrokerConfig::default();
        assert!(config.auto_create_topics() && config.delete_topics());
        assert_eq!(config.max_connections(), i32::MAX as usize);
        assert_eq!(config.flush_check_interval_ms(), i64::MAX);
        assert_eq!(config.socket_request_max_bytes(), 104_857_600);
        assert_eq!(config.default_replication_factor(), 1);
    }
}
