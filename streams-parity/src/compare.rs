//! What differs between two answers to a spec.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Map, Value as Json};

use crate::spec;

/// The first thing that differs, for a person to read.
pub(crate) fn difference(spec: &Json, java: &Json, ours: &Json) -> Option<String> {
    if let Some(panic) = ours.get("panic") {
        return Some(format!("ours panics: {panic}"));
    }
    let (theirs_failed, ours_failed) = (java.get("error"), ours.get("error"));
    let at_build = |answer: &Json| answer.get("describe").is_none();
    if at_build(java) != at_build(ours) {
        let said = |error: Option<&Json>| error.map_or_else(|| "takes it".to_owned(), Json::to_string);
        return Some(format!("topology: Java {}; ours {}", said(theirs_failed), said(ours_failed)));
    }
    describe(text(java, "describe"), text(ours, "describe")).or_else(|| steps(spec, java, ours)).or_else(
        || match (theirs_failed, ours_failed) {
            (Some(error), None) => Some(format!("Java fails and ours does not: {error}")),
            (None, Some(error)) => Some(format!("ours fails and Java does not: {error}")),
            // What is there after a failure is not promised.
            (Some(_), Some(_)) => None,
            (None, None) => stores(java, ours).or_else(|| dropped(spec, java, ours)),
        },
    )
}

fn text<'a>(answer: &'a Json, field: &str) -> &'a str {
    answer.get(field).and_then(Json::as_str).unwrap_or_default()
}

fn describe(java: &str, ours: &str) -> Option<String> {
    if java == ours {
        return None;
    }
    let mut lines = java.lines().zip(ours.lines());
    let at = lines.position(|(java, ours)| java != ours).unwrap_or(0);
    let line = |text: &str| text.lines().nth(at).unwrap_or("(nothing more)").trim().to_owned();
    let (first, second) = (line(java), line(ours));
    Some(format!("describe() line {at}\n  Java: {first}\n  ours: {second}\n-- Java\n{java}-- ours\n{ours}"))
}

fn steps(spec: &Json, java: &Json, ours: &Json) -> Option<String> {
    let of = |answer: &Json| answer.get("steps").map(|steps| spec::items(steps).to_vec()).unwrap_or_default();
    let empty = Map::new();
    for (at, (java, ours)) in of(java).iter().zip(of(ours).iter()).enumerate() {
        let (java, ours) = (java.as_object().unwrap_or(&empty), ours.as_object().unwrap_or(&empty));
        let topics: BTreeSet<&String> = java.keys().chain(ours.keys()).collect();
        let inputs = spec::input_topics(spec);
        for topic in topics {
            if inputs.contains(&topic.as_str()) || same_records(java.get(topic), ours.get(topic)) {
                continue;
            }
            let input = spec::input(spec).get(at).map(Json::to_string).unwrap_or_default();
            let mut what = format!("after input {at}, {input}, topic {topic}");
            for (side, records) in [("Java", java.get(topic)), ("ours", ours.get(topic))] {
                let _ = write!(what, "\n  {side}:");
                for record in records.map(spec::items).unwrap_or_default() {
                    let _ = write!(what, "\n    {}", readable(record));
                }
            }
            return Some(what);
        }
    }
    None
}

/// Whether a topic got the same. A record that Java sends without a timestamp gets the wall clock's from its producer: those of suppress's changelog.
fn same_records(java: Option<&Json>, ours: Option<&Json>) -> bool {
    let records = |of: Option<&Json>| of.map(|of| spec::items(of).to_vec()).unwrap_or_default();
    let (java, ours) = (records(java), records(ours));
    let same = |(java, ours): (&Json, &Json)| {
        (0..4).all(|field| java.get(field) == ours.get(field) || (field == 2 && java[field].is_null()))
    };
    if java.len() != ours.len() {
        return false;
    }
    if java.iter().zip(&ours).all(same) {
        return true;
    }
    // What a commit finds in suppress's buffer Java writes in the order of a hash set.
    let is_suppress = java.iter().any(|record| record[2].is_null());
    let sorted = |mut records: Vec<Json>| {
        for record in &mut records {
            record[2] = Json::Null;
        }
        records.sort_by_key(Json::to_string);
        records
    };
    is_suppress && sorted(java) == sorted(ours)
}

/// A record with its bytes as text where they are text.
fn readable(record: &Json) -> String {
    let field = |at: usize| match record.get(at).and_then(Json::as_str) {
        None => "null".to_owned(),
        Some(hex) => {
            let digits = hex.as_bytes().chunks(2);
            let bytes = digits.map(|pair| {
                let pair = std::str::from_utf8(pair).unwrap_or_default();
                u8::from_str_radix(pair, 16).unwrap_or(0)
            });
            bytes.flat_map(std::ascii::escape_default).map(char::from).collect()
        }
    };
    let rest = |at: usize| record.get(at).map(Json::to_string).unwrap_or_default();
    format!("{} = {} @{} {}", field(0), field(1), rest(2), rest(3))
}

fn stores(java: &Json, ours: &Json) -> Option<String> {
    let ours = ours.get("stores").and_then(Json::as_object)?;
    ours.iter().find_map(|(name, rows)| {
        let theirs = java.get("stores").and_then(|stores| stores.get(name))?;
        let same = {
            let (theirs, ours) = (spec::items(theirs), spec::items(rows));
            // Processors' stores have no timestamps in Java.
            let same = |(java, ours): (&Json, &Json)| spec::items(ours).starts_with(spec::items(java));
            theirs.len() == ours.len() && theirs.iter().zip(ours).all(same)
        };
        (!same).then(|| format!("store {name}\n  Java: {theirs}\n  ours: {rows}"))
    })
}

/// Java's persistent stores drop a late row, and count it, only once its whole segment is over; those in memory at once,
/// as ours.
fn dropped(spec: &Json, java: &Json, ours: &Json) -> Option<String> {
    let segments = spec::ops(spec).iter().any(|op| matches!(spec::operator(op), "window" | "join"));
    if segments && spec["cfg"]["rocksdb"] == true {
        return None;
    }
    let count = |answer: &Json| answer.get("dropped").and_then(Json::as_u64).unwrap_or(0);
    let (java, ours) = (count(java), count(ours));
    (java != ours).then(|| format!("dropped records: Java {java}, ours {ours}"))
}
