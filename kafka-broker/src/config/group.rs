//! Group configurations (`GroupConfig` of Apache Kafka 4.3, KIP-848 and KIP-932) and their typed form.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_wire::error_code::ErrorCode;

use super::broker::{self, BrokerConfig};
use super::{ConfigDef, ConfigError, Kind, check, find};
use crate::cluster::image::Image;
use crate::cluster::record::ConfigResource;
use crate::cluster::topics::Refusal;
use crate::state::BrokerState;

macro_rules! keys {
    ($($name:literal $kind:expr, $default:expr, $doc:literal;)*) => {
        &[$(ConfigDef { name: $name, kind: $kind, default: $default, doc: $doc },)*]
    };
}

/// The group keys that have an effect here, in order. A Kafka key that is not here is refused, not ignored.
#[rustfmt::skip]
pub(crate) const TABLE: &[ConfigDef] = keys! {
    "consumer.assignment.interval.ms" Kind::Int { min: 0, max: 15_000 }, Some("1000"), "How long a target assignment of a consumer group holds at least, in milliseconds.";
    "consumer.heartbeat.interval.ms" Kind::int(1), Some("5000"), "How often members of a consumer group are told to heartbeat, in milliseconds.";
    "consumer.session.timeout.ms" Kind::int(1), Some("45000"), "How long a member of a consumer group may be silent, in milliseconds.";
    "share.auto.offset.reset" Kind::Text, Some("latest"), "Where a share group begins that never read a partition: earliest, latest, or by_duration: and an ISO-8601 duration (KIP-1106).";
    "share.delivery.count.limit" Kind::Int { min: 2, max: 10 }, Some("5"), "How often a record is delivered to a share group before it is given up.";
    "share.heartbeat.interval.ms" Kind::int(1), Some("5000"), "How often members of a share group are told to heartbeat, in milliseconds.";
    "share.isolation.level" Kind::OneOf(&["read_committed", "read_uncommitted"]), Some("read_uncommitted"), "Whether a share group is given records of transactions that are open or were aborted (read_uncommitted).";
    "share.partition.max.record.locks" Kind::int(100), Some("2000"), "The most records of a partition that a share group has in flight.";
    "share.record.lock.duration.ms" Kind::int(1000), Some("30000"), "How long a member may keep a record before it is delivered to another, in milliseconds.";
    "share.session.timeout.ms" Kind::int(1), Some("45000"), "A member of a share group that is not heard of for this long is out, in milliseconds.";
};

/// The broker keys from which group keys take their values when a group has none.
const SYNONYMS: &[(&str, &str)] = &[
    ("consumer.assignment.interval.ms", "group.consumer.assignment.interval.ms"),
    ("consumer.heartbeat.interval.ms", "group.consumer.heartbeat.interval.ms"),
    ("consumer.session.timeout.ms", "group.consumer.session.timeout.ms"),
    ("share.delivery.count.limit", "group.share.delivery.count.limit"),
    ("share.heartbeat.interval.ms", "group.share.heartbeat.interval.ms"),
    ("share.partition.max.record.locks", "group.share.partition.max.record.locks"),
    ("share.record.lock.duration.ms", "group.share.record.lock.duration.ms"),
    ("share.session.timeout.ms", "group.share.session.timeout.ms"),
];

/// The broker key that a group key takes its value from.
pub(crate) fn broker_synonym(key: &str) -> Option<&'static str> {
    SYNONYMS.iter().find(|(known, _)| *known == key).map(|(_, broker)| *broker)
}

/// Checks one group configuration as given by a client.
pub(crate) fn check_group_config(
    key: &str,
    value: &str,
) -> Result<(&'static ConfigDef, String), ConfigError> {
    let (def, value) = check(TABLE, key, value)?;
    if def.name == "share.auto.offset.reset" && OffsetReset::parse(&value).is_none() {
        let problem = "must be earliest, latest or by_duration: and a duration like PT1H";
        return Err(ConfigError::invalid(key, &value, problem));
    }
    Ok((def, value))
}

/// The key's definition, for who would alter it.
pub(crate) fn find_alterable(key: &str) -> Result<&'static ConfigDef, Refusal> {
    find(TABLE, key).ok_or_else(|| Refusal {
        code: ErrorCode::InvalidConfig,
        message: format!("Unknown group config name: {key}"),
    })
}

/// The value that holds for a group without one of its own.
pub(crate) fn inherited(def: &ConfigDef, config: &BrokerConfig) -> String {
    let own = || def.default.unwrap_or_default().to_owned();
    let Some(key) = broker_synonym(def.name) else { return own() };
    let set = config.set_value(key).map(|(value, _)| value);
    set.or_else(|| find(broker::TABLE, key)?.default.map(str::to_owned)).unwrap_or_else(own)
}

/// Where a group begins that never read a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OffsetReset {
    Latest,
    Earliest,
    /// With the first record that is at most this old (KIP-1106).
    ByDuration(Duration),
}

impl OffsetReset {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "latest" => Some(Self::Latest),
            "earliest" => Some(Self::Earliest),
            other => other.strip_prefix("by_duration:").and_then(parse_duration).map(Self::ByDuration),
        }
    }
}

/// A duration of days, hours, minutes and seconds as ISO 8601 writes it: `P1DT2H3M4.5S`.
fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('P')?;
    let (days, time) = text.split_once('T').unwrap_or((text, ""));
    let mut seconds = 0.0;
    for (part, units) in
        [(days, &[('D', 86_400.0)][..]), (time, &[('H', 3600.0), ('M', 60.0), ('S', 1.0)][..])]
    {
        let mut rest = part;
        while let Some(at) = rest.find(|letter: char| letter.is_ascii_alphabetic()) {
            let (number, unit) = rest.split_at(at);
            let mut letters = unit.chars();
            let letter = letters.next()?;
            let (_, factor) = units.iter().find(|(known, _)| *known == letter)?;
            seconds += number.parse::<f64>().ok()? * factor;
            rest = letters.as_str();
        }
        if !rest.is_empty() {
            return None;
        }
    }
    (!text.is_empty()).then_some(())?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// The settings of a consumer group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ConsumerSettings {
    pub(crate) assignment_interval: Duration,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) session_timeout: Duration,
}

impl ConsumerSettings {
    /// What was set for the group itself, and `defaults` for the rest.
    pub(crate) fn of(image: &Image, group: &str, defaults: Self) -> Self {
        let Some(own) = image.configs(&ConfigResource::Group(group.to_owned())) else { return defaults };
        let millis = |key: &str, default: Duration| {
            let set = own.get(key).and_then(|value| value.parse().ok());
            set.map_or(default, Duration::from_millis)
        };
        Self {
            assignment_interval: millis("consumer.assignment.interval.ms", defaults.assignment_interval),
            heartbeat_interval: millis("consumer.heartbeat.interval.ms", defaults.heartbeat_interval),
            session_timeout: millis("consumer.session.timeout.ms", defaults.session_timeout),
        }
    }
}

/// The settings of a share group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct GroupSettings {
    pub(crate) auto_offset_reset: OffsetReset,
    pub(crate) delivery_count_limit: i16,
    pub(crate) heartbeat_interval_ms: i32,
    /// `share.isolation.level` is `read_committed`.
    pub(crate) is_committed: bool,
    pub(crate) record_locks: i64,
    pub(crate) lock_duration: Duration,
    pub(crate) session_timeout: Duration,
}

impl GroupSettings {
    /// The settings of a group, from its own configuration and the broker's.
    pub(crate) fn of(state: &BrokerState, group: &str) -> Self {
        let resource = ConfigResource::Group(group.to_owned());
        let own = state.cluster.read(|image, _| image.configs(&resource).cloned());
        Self::new(&own.unwrap_or_default(), &state.config)
    }

    fn new(own: &BTreeMap<String, String>, config: &BrokerConfig) -> Self {
        let value = |key: &str| {
            own.get(key)
                .cloned()
                .or_else(|| find(TABLE, key).map(|def| inherited(def, config)))
                .unwrap_or_default()
        };
        let number = |key: &str| value(key).parse::<u32>().unwrap_or_default();
        Self {
            auto_offset_reset: OffsetReset::parse(&value("share.auto.offset.reset"))
                .unwrap_or(OffsetReset::Latest),
            delivery_count_limit: i16::try_from(number("share.delivery.count.limit")).unwrap_or(i16::MAX),
            heartbeat_interval_ms: i32::try_from(number("share.heartbeat.interval.ms")).unwrap_or(i32::MAX),
            is_committed: value("share.isolation.level") == "read_committed",
            record_locks: number("share.partition.max.record.locks").into(),
            lock_duration: Duration::from_millis(number("share.record.lock.duration.ms").into()),
            session_timeout: Duration::from_millis(number("share.session.timeout.ms").into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_takes_what_it_was_not_given_from_the_broker() {
        let given = [("group.share.record.lock.duration.ms".to_owned(), "5000".to_owned())];
        let config = BrokerConfig::new(broker::Profile::Kafka, &given).unwrap();
        let own = [("share.auto.offset.reset", "earliest"), ("share.isolation.level", "read_committed")];
        let own = own.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let settings = GroupSettings::new(&own, &config);
        assert_eq!(settings.lock_duration, Duration::from_secs(5));
        assert_eq!((settings.auto_offset_reset, settings.is_committed), (OffsetReset::Earliest, true));
        assert_eq!((settings.delivery_count_limit, settings.record_locks), (5, 2000));
        assert_eq!(settings.session_timeout, Duration::from_secs(45));
    }

    #[test]
    fn offset_resets_are_kafkas() {
        for (text, reset) in [
            ("latest", Some(OffsetReset::Latest)),
            ("by_duration:PT1H30M", Some(OffsetReset::ByDuration(Duration::from_secs(5400)))),
            ("by_duration:P1DT0.5S", Some(OffsetReset::ByDuration(Duration::from_millis(86_400_500)))),
            ("by_duration:P", None),
            ("by_duration:PT5", None),
            ("by_duration:-PT1H", None),
            ("none", None),
        ] {
            assert_eq!(OffsetReset::parse(text), reset, "{text}");
        }
    }

    #[test]
    fn every_synonym_is_a_known_key_of_both() {
        for (group, broker) in SYNONYMS {
            let (group, broker) = (find(TABLE, group).unwrap(), find(broker::TABLE, broker).unwrap());
            assert_eq!(group.default, broker.default, "{}", group.name);
        }
    }
}
