//! What a request to alter a configuration changes: the own values and the request in, changed keys out
//! (`ConfigurationControlManager`, `ConfigAdminManager`).

use std::collections::{BTreeMap, BTreeSet};

use kafka_wire::error_code::ErrorCode;

use super::{ConfigDef, ConfigError, Kind};
use crate::cluster::topics::{Refusal, refuse};

/// What to do to a key (`AlterConfigOp.OpType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Set,
    /// Back to what is inherited.
    Delete,
    /// Adds items to a list.
    Append,
    /// Takes items from a list.
    Subtract,
}

impl Operation {
    /// The operation with this number on the wire.
    pub(crate) fn from_id(id: i8) -> Option<Self> {
        Some(match id {
            0 => Self::Set,
            1 => Self::Delete,
            2 => Self::Append,
            3 => Self::Subtract,
            _ => return None,
        })
    }
}

/// One key of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) key: String,
    pub(crate) operation: Operation,
    pub(crate) value: Option<String>,
}

/// Keys with their new values; `None` removes the key.
pub(crate) type Changed = Vec<(String, Option<String>)>;

/// A key's definition, and its value in normal form.
pub(crate) type Checked = Result<(&'static ConfigDef, String), ConfigError>;

/// The kind of resource whose configuration is altered.
pub(crate) struct Rules<'a> {
    /// Checks a key and its value.
    pub(crate) check: fn(&str, &str) -> Checked,
    /// The definition of a key, if it may be altered at all.
    pub(crate) find: fn(&str) -> Result<&'static ConfigDef, Refusal>,
    /// What a key is without an own value.
    pub(crate) inherited: &'a dyn Fn(&'static ConfigDef) -> String,
}

/// Applies changes one by one (`IncrementalAlterConfigs`). Only what really changes comes out.
pub(crate) fn incremental(
    own: &BTreeMap<String, String>,
    changes: &[Change],
    rules: &Rules<'_>,
) -> Result<Changed, Refusal> {
    refuse_duplicates(changes.iter().map(|change| change.key.as_str()))?;
    let nulls: Vec<&str> = changes
        .iter()
        .filter(|change| change.operation != Operation::Delete && change.value.is_none())
        .map(|change| change.key.as_str())
        .collect();
    if !nulls.is_empty() {
        let message = format!("Null value not supported for : {}", nulls.join(", "));
        return refuse(ErrorCode::InvalidRequest, message);
    }
    let mut changed = Vec::new();
    for change in changes {
        let def = (rules.find)(&change.key)?;
        let current = own.get(def.name);
        let given = change.value.as_deref().unwrap_or_default();
        let value = match change.operation {
            Operation::Delete => None,
            Operation::Set => Some(given.to_owned()),
            Operation::Append | Operation::Subtract => {
                if !matches!(def.kind, Kind::List(_)) {
                    let verb = if change.operation == Operation::Append { "APPEND" } else { "SUBTRACT" };
                    let message = format!("Can't {verb} to key {} because its type is not LIST.", def.name);
                    return refuse(ErrorCode::InvalidConfig, message);
                }
                let before = current.cloned().unwrap_or_else(|| (rules.inherited)(def));
                Some(edit_list(&before, given, change.operation == Operation::Append))
            }
        };
        push(&mut changed, def, current, value, rules)?;
    }
    Ok(changed)
}

/// Makes the given values the only own ones (`AlterConfigs`).
pub(crate) fn replace(
    own: &BTreeMap<String, String>,
    values: &[(String, Option<String>)],
    rules: &Rules<'_>,
) -> Result<Changed, Refusal> {
    refuse_duplicates(values.iter().map(|(key, _)| key.as_str()))?;
    let mut changed = Vec::new();
    let mut named = BTreeSet::new();
    for (key, value) in values {
        let def = (rules.find)(key)?;
        named.insert(def.name);
        push(&mut changed, def, own.get(def.name), value.clone(), rules)?;
    }
    let dropped = own.keys().filter(|key| !named.contains(key.as_str()));
    changed.extend(dropped.map(|key| (key.clone(), None)));
    Ok(changed)
}

fn push(
    changed: &mut Changed,
    def: &'static ConfigDef,
    current: Option<&String>,
    value: Option<String>,
    rules: &Rules<'_>,
) -> Result<(), Refusal> {
    let value = match value {
        None => None,
        Some(value) => match (rules.check)(def.name, &value) {
            Ok((_, value)) => Some(value),
            Err(error) => return refuse(ErrorCode::InvalidConfig, error.to_string()),
        },
    };
    if current != value.as_ref() {
        changed.push((def.name.to_owned(), value));
    }
    Ok(())
}

fn refuse_duplicates<'a>(keys: impl Iterator<Item = &'a str>) -> Result<(), Refusal> {
    let mut seen = BTreeSet::new();
    for key in keys {
        if !seen.insert(key) {
            return refuse(ErrorCode::InvalidRequest, format!("Error due to duplicate config keys: {key}"));
        }
    }
    Ok(())
}

fn edit_list(before: &str, given: &str, append: bool) -> String {
    let items = |text: &str| -> Vec<String> {
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    };
    let (mut list, given) = (items(before), items(given));
    if append {
        for item in given {
            if !list.contains(&item) {
                list.push(item);
            }
        }
    } else {
        list.retain(|item| !given.contains(item));
    }
    list.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::topic;

    fn rules<'a>() -> Rules<'a> {
        Rules {
            check: topic::check_topic_config,
            find: topic::find_alterable,
            inherited: &|def| def.default.unwrap_or_default().to_owned(),
        }
    }

    fn own(values: &[(&str, &str)]) -> BTreeMap<String, String> {
        values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn change(key: &str, operation: Operation, value: Option<&str>) -> Change {
        Change { key: key.to_owned(), operation, value: value.map(str::to_owned) }
    }

    fn key_value(key: &str, value: Option<&str>) -> (String, Option<String>) {
        (key.to_owned(), value.map(str::to_owned))
    }

    #[test]
    fn each_operation_changes_only_its_key_and_only_if_the_value_differs() {
        let before = own(&[("retention.ms", "5"), ("segment.ms", "7")]);
        let changes = [
            change("retention.ms", Operation::Set, Some("5")),
            change("segment.ms", Operation::Delete, None),
            change("cleanup.policy", Operation::Append, Some("compact")),
            change("flush.ms", Operation::Delete, None),
        ];
        let changed = incremental(&before, &changes, &rules()).unwrap();
        assert_eq!(
            changed,
            [key_value("segment.ms", None), key_value("cleanup.policy", Some("delete,compact"))]
        );
        let before = own(&[("cleanup.policy", "delete,compact")]);
        let changed =
            incremental(&before, &[change("cleanup.policy", Operation::Subtract, Some("delete"))], &rules());
        assert_eq!(changed.unwrap(), [key_value("cleanup.policy", Some("compact"))]);
    }

    #[test]
    fn what_is_not_given_any_more_goes_when_all_is_replaced() {
        let before = own(&[("retention.ms", "5"), ("segment.ms", "7")]);
        let changed = replace(&before, &[key_value("retention.ms", Some("6"))], &rules()).unwrap();
        assert_eq!(changed, [key_value("retention.ms", Some("6")), key_value("segment.ms", None)]);
    }

    #[test]
    fn refusals_have_kafkas_codes() {
        for (changes, code) in [
            (vec![change("retention.ms", Operation::Append, Some("5"))], ErrorCode::InvalidConfig),
            (vec![change("retention.ms", Operation::Set, None)], ErrorCode::InvalidRequest),
            (vec![change("retention.ms", Operation::Set, Some("soon"))], ErrorCode::InvalidConfig),
            (vec![change("no.such.key", Operation::Set, Some("5"))], ErrorCode::InvalidConfig),
            (
                vec![
                    change("retention.ms", Operation::Set, Some("5")),
                    change("retention.ms", Operation::Delete, None),
                ],
                ErrorCode::InvalidRequest,
            ),
        ] {
            assert_eq!(incremental(&own(&[]), &changes, &rules()).unwrap_err().code, code, "{changes:?}");
        }
    }
}
