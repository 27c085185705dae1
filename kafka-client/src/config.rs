//! Kafka's own configuration keys, for [`Client::from_properties`](crate::Client::from_properties).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::net::AddressError;

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No such key.
    #[error("unknown configuration key {key:?}{}", nearest.map(|n| format!("; did you mean {n:?}?")).unwrap_or_default())]
    UnknownKey {
        /// The key as it was given.
        key: String,
        /// The known key that is spelt most like it.
        nearest: Option<&'static str>,
    },
    /// A key that must be given is not.
    #[error("missing configuration key {key:?}")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A value that does not fit its key.
    #[error("invalid value {value:?} for {key}: expected {expected}")]
    InvalidValue {
        /// The key.
        key: &'static str,
        /// The value as it was given.
        value: String,
        /// What would fit.
        expected: String,
    },
    /// `bootstrap.servers` cannot be understood.
    #[error(transparent)]
    Address(#[from] AddressError),
}

/// A checked set of Kafka's configuration keys: every key is known.
///
/// One file may configure the client, its producers and its consumers, as it does for Java's: each takes the keys
/// that are its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties(BTreeMap<&'static str, String>);

/// Every key that is understood: what is listed here has an effect. Names are Apache Kafka's.
const KNOWN_KEYS: &[&str] = &[
    // the client
    "bootstrap.servers",
    "client.id",
    "request.timeout.ms",
    "default.api.timeout.ms",
    "socket.connection.setup.timeout.ms",
    "reconnect.backoff.ms",
    "reconnect.backoff.max.ms",
    "retry.backoff.ms",
    "retry.backoff.max.ms",
    "metadata.max.age.ms",
    "allow.auto.create.topics",
    // producers
    "acks",
    "batch.size",
    "buffer.memory",
    "compression.type",
    "compression.gzip.level",
    "compression.zstd.level",
    "delivery.timeout.ms",
    "enable.idempotence",
    "linger.ms",
    "max.block.ms",
    "max.in.flight.requests.per.connection",
    "max.request.size",
    // consumers
    "auto.commit.interval.ms",
    "auto.offset.reset",
    "check.crcs",
    "enable.auto.commit",
    "fetch.max.bytes",
    "fetch.max.wait.ms",
    "fetch.min.bytes",
    "group.id",
    "group.instance.id",
    "heartbeat.interval.ms",
    "isolation.level",
    "max.partition.fetch.bytes",
    "max.poll.interval.ms",
    "partition.assignment.strategy",
    "session.timeout.ms",
];

impl Properties {
    /// Checks every key of a map; values are checked when they are used.
    pub fn new<K: AsRef<str>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, ConfigError> {
        let mut known = BTreeMap::new();
        for (key, value) in pairs {
            let key = key.as_ref();
            let Some(&name) = KNOWN_KEYS.iter().find(|&&name| name == key) else {
                return Err(ConfigError::UnknownKey { key: key.to_owned(), nearest: nearest(key) });
            };
            known.insert(name, value.into());
        }
        Ok(Self(known))
    }

    /// The value of a key as text.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The value of a key, parsed; `expected` says in an error what would have fitted.
    pub fn parsed<T: FromStr>(&self, key: &'static str, expected: &str) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.trim().parse() {
            Ok(parsed) => Ok(Some(parsed)),
            Err(_) => Err(invalid(key, value, expected)),
        }
    }

    /// The value of a key in milliseconds.
    pub fn millis(&self, key: &'static str) -> Result<Option<Duration>, ConfigError> {
        Ok(self.parsed(key, "a number of milliseconds, 0 or more")?.map(Duration::from_millis))
    }

    /// The value of a key in bytes.
    pub fn bytes(&self, key: &'static str) -> Result<Option<usize>, ConfigError> {
        self.parsed(key, "a number of bytes, 0 or more")
    }

    /// The value of a key as `true` or `false`.
    pub fn flag(&self, key: &'static str) -> Result<Option<bool>, ConfigError> {
        self.parsed(key, "true or false")
    }
}

pub(crate) fn invalid(key: &'static str, value: impl fmt::Display, expected: &str) -> ConfigError {
    ConfigError::InvalidValue { key, value: value.to_string(), expected: expected.to_owned() }
}

/// The known key nearest to `key`, if it is near enough to be a slip.
fn nearest(key: &str) -> Option<&'static str> {
    // Longer input cannot be a slip of a known key and would cost time.
    if key.len() > 100 {
        return None;
    }
    let slips = (key.len() / 3).max(2);
    KNOWN_KEYS
        .iter()
        .map(|&known| (edit_distance(key, known), known))
        .min()
        .filter(|&(distance, _)| distance <= slips)
        .map(|(_, known)| known)
}

/// Levenshtein's distance, by bytes.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let best = (diagonal + usize::from(x != y)).min(left + 1).min(*cell + 1);
            diagonal = *cell;
            *cell = best;
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_names_the_nearest_one() {
        let error = Properties::new([("bootstrap.server", "a:1")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"unknown configuration key "bootstrap.server"; did you mean "bootstrap.servers"?"#
        );
        let error = Properties::new([("colour", "red")]).unwrap_err();
        assert_eq!(error.to_string(), r#"unknown configuration key "colour""#);
    }

    #[test]
    fn values_are_parsed_by_kind() {
        let properties = Properties::new([("linger.ms", "7"), ("batch.size", "many")]).unwrap();
        assert_eq!(properties.millis("linger.ms").unwrap(), Some(Duration::from_millis(7)));
        assert_eq!(properties.millis("delivery.timeout.ms").unwrap(), None);
        let error = properties.bytes("batch.size").unwrap_err();
        assert!(error.to_string().contains("batch.size") && error.to_string().contains("many"), "{error}");
    }

    #[test]
    fn distances_are_levenshteins() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("abc", "abc"), 0);
    }
}
