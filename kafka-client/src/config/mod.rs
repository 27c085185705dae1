//! Kafka's own configuration keys, for [`Client::from_properties`](crate::Client::from_properties).
//!
//! A file that configures a Java application, or one that uses librdkafka, configures this client: every key of both is
//! known, has Java's type, default and range, and is either used, or accepted because it needs no effect here, or
//! refused with the reason. A key that nobody knows is an error that names the nearest known one, so a misspelt key never
//! passes for its default.
//!
//! One set may configure a client, its producers and its consumers, as it does for Java's: each reads the keys that are
//! its own. What builders are told afterwards comes before what the keys say. Values that contradict each other (such as
//! `enable.idempotence=true` with `acks=1`) are refused when the client, producer or consumer is built.
//!
//! Spans longer than a year count as a year.
#![doc = include_str!("keys.md")]

mod keys;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use kafka_wire::spelling;

use self::keys::{ALIASES, Alias, Convert, Key, Kind, Meaning, REFUSED_FAMILIES, VALUE_ALIASES};
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
    /// A key of Kafka's, or a value of it, that this client does not support.
    #[error("{key}={value} is not supported: {why}")]
    Unsupported {
        /// The key.
        key: String,
        /// The value as it was given; empty for secrets.
        value: String,
        /// Why, and what to do instead if there is something.
        why: &'static str,
    },
    /// One option in Java's and in librdkafka's spelling, with different values.
    #[error("{first} and {second} are one option and have different values")]
    GivenTwice {
        /// A spelling.
        first: &'static str,
        /// The other one.
        second: &'static str,
    },
    /// `bootstrap.servers` cannot be understood.
    #[error(transparent)]
    Address(#[from] AddressError),
}

/// No span is longer, so that no sum of spans leaves the clock's range, nor the one in which timers are exact.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A span that can be added to the clock.
pub(crate) fn bounded(span: Duration) -> Duration {
    span.min(LONGEST)
}

/// A checked set of Kafka's configuration keys: every key is known, and every value is one that its key can have.
///
/// Keys are kept in Java's spelling. See the [module](self) for what is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties(BTreeMap<&'static str, String>);

impl Properties {
    /// Checks every key and every value. Where a key is given more than once, its last value counts.
    ///
    /// # Errors
    /// A key that is unknown or not supported, a value that does not fit, or two spellings of one option that disagree.
    pub fn new<K: AsRef<str>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, ConfigError> {
        let mut set: BTreeMap<&'static str, (String, &'static str)> = BTreeMap::new();
        for (name, value) in pairs {
            let (name, value) = (name.as_ref().trim(), value.into());
            let (key, spelling, value) = match ALIASES.iter().find(|alias| alias.name == name) {
                Some(alias) => (find(alias.key, &value)?, alias.name, convert(alias, &value)?),
                None => {
                    let key = find(name, &value)?;
                    (key, key.name, key.check(&value)?)
                }
            };
            let before = set.insert(key.name, (value.clone(), spelling));
            if let Some((other, first)) = before
                && first != spelling
                && other != value
            {
                return Err(ConfigError::GivenTwice { first, second: spelling });
            }
        }
        Ok(Self(set.into_iter().map(|(key, (value, _))| (key, value)).collect()))
    }

    /// These keys, and those of `defaults` that are not among them.
    #[must_use]
    pub fn or(mut self, defaults: Self) -> Self {
        for (key, value) in defaults.0 {
            self.0.entry(key).or_insert(value);
        }
        self
    }

    /// The keys that were given, in alphabetical order, with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(&key, value)| (key, value.as_str()))
    }

    /// The value of a key as text.
    pub fn get(&self, key: &str) -> Option<&str> {
        #[cfg(test)]
        tests::note_read(key);
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

    /// The value of a key in milliseconds, a fraction of one included; 0 for negative ones and at most a year.
    pub fn millis(&self, key: &'static str) -> Result<Option<Duration>, ConfigError> {
        let millis: Option<f64> = self.parsed(key, "a number of milliseconds")?;
        Ok(millis
            .map(|millis| Duration::try_from_secs_f64(millis.max(0.0) / 1000.0).map_or(LONGEST, bounded)))
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

/// The pairs, in alphabetical order.
impl IntoIterator for Properties {
    type Item = (&'static str, String);
    type IntoIter = std::collections::btree_map::IntoIter<&'static str, String>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

pub(crate) fn invalid(key: &'static str, value: impl fmt::Display, expected: &str) -> ConfigError {
    ConfigError::InvalidValue { key, value: value.to_string(), expected: expected.to_owned() }
}

fn find(name: &str, value: &str) -> Result<&'static Key, ConfigError> {
    if let Some(key) = keys::all().find(|key| key.name == name) {
        return Ok(key);
    }
    if let Some((_, why)) = REFUSED_FAMILIES.iter().find(|(start, _)| name.starts_with(start)) {
        // These may be passwords.
        let value = if value.is_empty() { "" } else { "..." }.to_owned();
        return Err(ConfigError::Unsupported { key: name.to_owned(), value, why });
    }
    Err(ConfigError::UnknownKey { key: name.to_owned(), nearest: nearest(name) })
}

fn convert(alias: &Alias, value: &str) -> Result<String, ConfigError> {
    let key = find(alias.key, value)?;
    let value = value.trim();
    let converted = match alias.convert {
        Convert::Same => None,
        Convert::Special(theirs, ours) => (value == theirs).then(|| ours.to_owned()),
        Convert::Kibibytes => {
            let bytes = value.parse::<i64>().ok().and_then(|kib| kib.checked_mul(1024));
            Some(bytes.ok_or_else(|| invalid(alias.name, value, "a number of KiB"))?.to_string())
        }
    };
    key.check(converted.as_deref().unwrap_or(value)).map_err(|error| match error {
        // In the words of whoever wrote it.
        ConfigError::InvalidValue { expected, .. } => invalid(alias.name, value, &expected),
        error => error,
    })
}

impl Key {
    /// The value as it is kept, if it fits.
    fn check(&'static self, given: &str) -> Result<String, ConfigError> {
        let renamed =
            VALUE_ALIASES.iter().find(|(key, theirs, _)| *key == self.name && *theirs == given.trim());
        let text = renamed.map_or(given, |(_, _, ours)| ours);
        let Some(value) = self.kind.parse(text) else {
            return Err(invalid(self.name, given, &self.kind.to_string()));
        };
        let unsupported =
            |why| Err(ConfigError::Unsupported { key: self.name.to_owned(), value: value.clone(), why });
        match self.meaning {
            Meaning::Refused(why) => unsupported(why),
            Meaning::Only(accepted, why) if !accepted.contains(&value.as_str()) => unsupported(why),
            Meaning::NoEffect(why) => {
                tracing::debug!(key = self.name, why, "accepted, without effect");
                Ok(value)
            }
            Meaning::Only(..) | Meaning::Used | Meaning::Differs(_) => Ok(value),
        }
    }
}

impl Kind {
    /// The value in its one spelling, if it is one of this kind.
    fn parse(self, text: &str) -> Option<String> {
        let trimmed = text.trim();
        match self {
            Self::Flag => {
                let value = trimmed.to_ascii_lowercase();
                matches!(value.as_str(), "true" | "false").then_some(value)
            }
            Self::Number(min, max, _) => whole(trimmed, min, max),
            Self::Millis(max) => whole(trimmed, 0, max).or_else(|| {
                let millis: f64 = trimmed.parse().ok()?;
                (0.0..=max as f64).contains(&millis).then(|| millis.to_string())
            }),
            Self::Level(min, max) => whole(trimmed, min, max).or_else(|| whole(trimmed, -1, -1)),
            Self::Word(words) => words.contains(&trimmed).then(|| trimmed.to_owned()),
            Self::AnyCaseWord(words) => {
                words.iter().find(|word| word.eq_ignore_ascii_case(trimmed)).map(|&word| word.to_owned())
            }
            Self::WordOr(words, start) => {
                (words.contains(&trimmed) || trimmed.starts_with(start)).then(|| trimmed.to_owned())
            }
            Self::Text => Some(text.to_owned()),
            Self::Name => (!trimmed.is_empty()).then(|| text.to_owned()),
        }
    }
}

fn whole(text: &str, min: i64, max: i64) -> Option<String> {
    let number: i64 = text.parse().ok()?;
    (min..=max).contains(&number).then(|| number.to_string())
}

/// What would fit, as errors and the table of keys say it.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = |f: &mut fmt::Formatter<'_>, words: &[&str]| match words {
            [] => Ok(()),
            [only] => f.write_str(only),
            [all @ .., last] => write!(f, "{} or {last}", all.join(", ")),
        };
        match *self {
            Self::Flag => f.write_str("true or false"),
            Self::Number(min, max, unit) => {
                match (min, max) {
                    (i64::MIN, _) => f.write_str("a number")?,
                    // What Java's types can hold is no limit that anybody thinks of.
                    (_, i64::MAX) => write!(f, "{min} or more")?,
                    (_, max) if max == i64::from(i32::MAX) => write!(f, "{min} to 2147483647")?,
                    (_, max) => write!(f, "{min} to {max}")?,
                }
                if unit.is_empty() { Ok(()) } else { write!(f, " {unit}") }
            }
            Self::Millis(_) => f.write_str("0 or more ms"),
            Self::Level(min, max) => write!(f, "{min} to {max}, or -1"),
            Self::Word(all) => words(f, all),
            Self::AnyCaseWord(all) => {
                words(f, all)?;
                f.write_str(", in any case")
            }
            Self::WordOr(all, start) => write!(f, "{} or {start}...", all.join(", ")),
            Self::Text => f.write_str("text"),
            Self::Name => f.write_str("text, not empty"),
        }
    }
}

/// The known key nearest to `key`, if it is near enough to be a slip.
fn nearest(key: &str) -> Option<&'static str> {
    let names = keys::all().map(|key| key.name).chain(ALIASES.iter().map(|alias| alias.name));
    spelling::nearest(key, names)
}
