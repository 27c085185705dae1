//! What became of each item of a command that changes several.

use kafka_admin::AdminError;
use serde::Serialize;

use crate::failure::{Failure, with_causes};
use crate::output::{print_json, print_line};

#[derive(Debug, Serialize)]
pub(crate) struct Outcome<'a> {
    pub(crate) name: &'a str,
    /// `created`, `deleted`, `removed`, `aborted`, `fenced`, `exists`, `missing`, `valid` or `failed`.
    pub(crate) outcome: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) partitions: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) replication_factor: Option<i16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

impl<'a> Outcome<'a> {
    pub(crate) fn new(name: &'a str, outcome: &'a str) -> Self {
        Self { name, outcome, id: None, partitions: None, replication_factor: None, error: None }
    }

    pub(crate) fn failed(name: &'a str, error: &AdminError) -> Self {
        Self { error: Some(with_causes(error)), ..Self::new(name, "failed") }
    }

    /// The outcome of an item that is done or has failed, for [`report`].
    pub(crate) fn or_failed<V>(
        done: &'static str,
    ) -> impl for<'b> Fn(&'b str, &Result<V, AdminError>) -> Outcome<'b> {
        move |name, result| match result {
            Ok(_) => Outcome::new(name, done),
            Err(error) => Outcome::failed(name, error),
        }
    }
}

/// Prints what became of each item; fails if one failed, after all of them were told.
pub(crate) fn report<'r, V: 'r>(
    results: impl IntoIterator<Item = (&'r str, &'r Result<V, AdminError>)>,
    json: bool,
    outcome: impl for<'a> Fn(&'a str, &Result<V, AdminError>) -> Outcome<'a>,
) -> Result<(), Failure> {
    let mut failures = Vec::new();
    for (name, result) in results {
        let outcome = outcome(name, result);
        failures.extend(outcome.error.clone());
        match json {
            true => print_json(&outcome)?,
            false if outcome.error.is_none() => print_line(described(&outcome))?,
            false => {}
        }
    }
    Failure::all(failures)
}

fn described(outcome: &Outcome<'_>) -> String {
    let counts = match (outcome.partitions, outcome.replication_factor) {
        (Some(1), Some(replicas)) => format!(" (1 partition, replication factor {replicas})"),
        (Some(partitions), Some(replicas)) => {
            format!(" ({partitions} partitions, replication factor {replicas})")
        }
        _ => String::new(),
    };
    format!("{}: {}{counts}", outcome.name, outcome.outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_told_in_one_line() {
        let mut outcome = Outcome::new("orders", "created");
        assert_eq!(described(&outcome), "orders: created");
        (outcome.partitions, outcome.replication_factor) = (Some(3), Some(1));
        assert_eq!(described(&outcome), "orders: created (3 partitions, replication factor 1)");
        let json = serde_json::to_string(&outcome).unwrap();
        assert_eq!(json, r#"{"name":"orders","outcome":"created","partitions":3,"replication_factor":1}"#);
    }
}
