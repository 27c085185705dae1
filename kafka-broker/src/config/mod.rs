//! What can be configured: Kafka's own keys, with type, default, bounds and documentation, for the broker, topics and groups.
//!
//! The tables in [`broker`], [`topic`] and [`group`] are the one place where a key is written down; parsing, validation, typo
//! hints and `DescribeConfigs` all read them. A key that is listed but has no effect yet says so in its documentation.

pub(crate) mod alter;
pub(crate) mod broker;
pub(crate) mod group;
pub(crate) mod topic;

use kafka_wire::spelling;

/// The type of a key's value, with the bounds that validation applies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Boolean,
    Short {
        min: i64,
    },
    Int {
        min: i64,
        max: i64,
    },
    Long {
        min: i64,
    },
    Double {
        min: f64,
        max: f64,
    },
    Text,
    OneOf(&'static [&'static str]),
    /// Comma-separated values, each of the given ones; any value when the slice is empty.
    List(&'static [&'static str]),
}

impl Kind {
    pub(crate) const fn int(min: i64) -> Self {
        Self::Int { min, max: i32::MAX as i64 }
    }

    pub(crate) const fn long(min: i64) -> Self {
        Self::Long { min }
    }

    /// The number that `DescribeConfigs` answers for the type (`DescribeConfigsResponse.ConfigType`).
    pub(crate) fn wire_type(self) -> i8 {
        match self {
            Self::Boolean => 1,
            Self::Text | Self::OneOf(_) => 2,
            Self::Int { .. } => 3,
            Self::Short { .. } => 4,
            Self::Long { .. } => 5,
            Self::Double { .. } => 6,
            Self::List(_) => 7,
        }
    }

    /// Checks a value and returns it in its normal form, or says what is wrong with it.
    pub(crate) fn check(self, value: &str) -> Result<String, String> {
        let value = value.trim();
        match self {
            Self::Boolean => match value.to_ascii_lowercase().as_str() {
                "true" => Ok("true".to_owned()),
                "false" => Ok("false".to_owned()),
                _ => Err("must be true or false".to_owned()),
            },
            Self::Short { min } => integer(value, min, i64::from(i16::MAX)),
            Self::Int { min, max } => integer(value, min, max),
            Self::Long { min } => integer(value, min, i64::MAX),
            Self::Double { min, max } => match value.parse::<f64>() {
                Ok(number) if number >= min && number <= max => Ok(value.to_owned()),
                Ok(_) => Err(format!("must be from {min} to {max}")),
                Err(_) => Err("must be a number".to_owned()),
            },
            Self::Text => Ok(value.to_owned()),
            Self::OneOf(allowed) => match allowed.contains(&value) {
                true => Ok(value.to_owned()),
                false => Err(format!("must be one of {}", allowed.join(", "))),
            },
            Self::List(allowed) => {
                let items: Vec<&str> =
                    value.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
                match items.iter().find(|item| !allowed.is_empty() && !allowed.contains(item)) {
                    Some(item) => Err(format!("{item} is not one of {}", allowed.join(", "))),
                    None => Ok(items.join(",")),
                }
            }
        }
    }
}

fn integer(value: &str, min: i64, max: i64) -> Result<String, String> {
    match value.parse::<i64>() {
        Ok(number) if (min..=max).contains(&number) => Ok(number.to_string()),
        Ok(_) if max == i64::MAX || max == i64::from(i32::MAX) => Err(format!("must be at least {min}")),
        Ok(_) => Err(format!("must be from {min} to {max}")),
        Err(_) => Err("must be a whole number".to_owned()),
    }
}

/// One key: its type, its default in text (`None`: unset) and what it does.
#[derive(Debug)]
pub(crate) struct ConfigDef {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) default: Option<&'static str>,
    pub(crate) doc: &'static str,
}

/// Why a configuration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No such key.
    #[error("unknown configuration {key}{}", hint(.nearest))]
    Unknown {
        /// The key that was given.
        key: String,
        /// A known key that is spelled nearly so.
        nearest: Option<&'static str>,
    },
    /// The value does not fit the key's type or bounds.
    #[error("invalid value {value} for configuration {key}: {problem}")]
    Invalid {
        /// The key.
        key: String,
        /// The value that was given.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
}

fn hint(nearest: &Option<&'static str>) -> String {
    nearest.map(|key| format!("; did you mean {key}?")).unwrap_or_default()
}

impl ConfigError {
    pub(crate) fn invalid(key: &str, value: &str, problem: impl Into<String>) -> Self {
        Self::Invalid { key: key.to_owned(), value: value.to_owned(), problem: problem.into() }
    }
}

/// Looks a key up in a table and checks its value.
pub(crate) fn check(
    table: &'static [ConfigDef],
    key: &str,
    value: &str,
) -> Result<(&'static ConfigDef, String), ConfigError> {
    let def = find(table, key).ok_or_else(|| ConfigError::Unknown {
        key: key.to_owned(),
        nearest: spelling::nearest(key, table.iter().map(|def| def.name)),
    })?;
    let value = def.kind.check(value).map_err(|problem| ConfigError::invalid(key, value, problem))?;
    Ok((def, value))
}

pub(crate) fn find(table: &'static [ConfigDef], key: &str) -> Option<&'static ConfigDef> {
    table.iter().find(|def| def.name == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_names_the_nearest_known_one() {
        let error = check(topic::TABLE, "retention.m", "5").unwrap_err();
        assert_eq!(error.to_string(), "unknown configuration retention.m; did you mean retention.ms?");
        let error = check(broker::TABLE, "something.else.entirely.of.our.own", "5").unwrap_err();
        assert_eq!(error.to_string(), "unknown configuration something.else.entirely.of.our.own");
    }

    #[test]
    fn every_default_passes_its_own_validation() {
        for def in topic::TABLE.iter().chain(broker::TABLE).chain(group::TABLE) {
            if let Some(default) = def.default {
                assert_eq!(def.kind.check(default).as_deref(), Ok(default), "{}", def.name);
            }
            assert!(def.doc.ends_with('.'), "{}", def.name);
        }
    }

    #[test]
    fn values_are_checked_against_type_and_bounds() {
        for (key, value) in [
            ("retention.ms", "-2"),
            ("retention.ms", "soon"),
            ("cleanup.policy", "delete,burn"),
            ("compression.type", "lzma"),
            ("preallocate", "yes"),
            ("min.cleanable.dirty.ratio", "1.5"),
        ] {
            assert!(
                matches!(check(topic::TABLE, key, value), Err(ConfigError::Invalid { .. })),
                "{key}={value}"
            );
        }
        assert_eq!(check(topic::TABLE, "cleanup.policy", " compact, delete ").unwrap().1, "compact,delete");
    }
}
