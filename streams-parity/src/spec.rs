//! What a spec is: JSON that both sides read.
//!
//! ```json
//! {"cfg": {"cache": false, "rocksdb": false, "optimization": "none"},
//!  "ops": [{"id": "a", "op": "stream", "topics": ["in1"]},
//!          {"id": "b", "op": "groupBy", "in": "a", "key": ["sub", "val", 0, 1]},
//!          {"id": "c", "op": "window", "in": "b", "type": "sliding", "size": 10, "grace": 5},
//!          {"id": "d", "op": "count", "in": "c", "store": {"name": "s"}},
//!          {"id": "e", "op": "toStream", "in": "d"},
//!          {"id": "f", "op": "to", "in": "e", "topic": "out"}],
//!  "input": [["in1", {"s": "k1"}, {"s": "ab"}, 5], ["@wall", 1000], ["in1", null, 7, 3, "header"]]}
//! ```
//!
//! `in` and `other` name the operators before; expressions are those of [`crate::value`]. A topology by hand is `papi`
//! instead of `ops`. An answer is `describe`, `steps` (for each input what each topic got: key, value, timestamp and
//! headers), `stores`, `dropped`, and `error` if it was refused or failed.

use serde_json::Value as Json;

pub(crate) fn items(of: &Json) -> &[Json] {
    of.as_array().map(Vec::as_slice).unwrap_or_default()
}

pub(crate) fn ops(spec: &Json) -> &[Json] {
    spec.get("ops").map(items).unwrap_or_default()
}

pub(crate) fn input(spec: &Json) -> &[Json] {
    spec.get("input").map(items).unwrap_or_default()
}

pub(crate) fn id(op: &Json) -> String {
    op.get("id").and_then(Json::as_str).unwrap_or_default().to_owned()
}

pub(crate) fn operator(op: &Json) -> &str {
    op.get("op").and_then(Json::as_str).unwrap_or_default()
}

/// The topics that sources read.
pub(crate) fn input_topics(spec: &Json) -> Vec<&str> {
    let sources = ops(spec).iter().filter(|op| matches!(operator(op), "stream" | "table" | "global"));
    let topics = sources.flat_map(|op| {
        let several = op.get("topics").map(items).unwrap_or_default();
        several.iter().chain(op.get("topic"))
    });
    topics.filter_map(Json::as_str).collect()
}
