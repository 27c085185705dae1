//! Makes a spec that differs as small as it can be.

use serde_json::Value as Json;

use crate::java::Java;
use crate::{Error, Verdict, judge, spec};

/// No more attempts than this; each runs both sides.
const ATTEMPTS: usize = 400;

/// Leaves out inputs and operators, and simplifies what is left, for as long as something differs.
pub(crate) fn shrink(java: &mut Java, spec: Json, what: String) -> Result<(Json, String), Error> {
    let (mut best, mut what) = (spec, what);
    let mut attempts = 0;
    loop {
        let mut smaller = None;
        for candidate in candidates(&best) {
            attempts += 1;
            if attempts > ATTEMPTS {
                return Ok((best, what));
            }
            if let Verdict::Differs(difference) = judge(java, &candidate)? {
                smaller = Some((candidate, difference));
                break;
            }
        }
        match smaller {
            Some((candidate, difference)) => (best, what) = (candidate, difference),
            None => return Ok((best, what)),
        }
    }
}

/// Smaller specs, the much smaller ones first.
fn candidates(spec: &Json) -> Vec<Json> {
    let mut candidates = Vec::new();
    let inputs = spec::input(spec);
    for size in [inputs.len() / 2, inputs.len() / 4, inputs.len() / 8, 1] {
        if size == 0 {
            continue;
        }
        // From the end: what comes after the difference is not needed.
        for start in (0..inputs.len()).step_by(size).rev() {
            let mut kept = inputs.to_vec();
            kept.drain(start..(start + size).min(inputs.len()));
            candidates.push(with(spec, "input", kept.into()));
        }
    }
    let ops = spec::ops(spec);
    for at in (0..ops.len()).rev() {
        candidates.extend(without_op(spec, at));
    }
    for (at, op) in ops.iter().enumerate() {
        for field in ["name", "store", "emit", "grace", "default", "records", "bytes"] {
            // With a cache every store has to say whether it uses it: Java's and our defaults differ.
            let needed = field == "store" && spec["cfg"]["cache"] == true;
            if op.get(field).is_some() && !needed {
                let mut ops = ops.to_vec();
                if let Some(op) = ops[at].as_object_mut() {
                    op.remove(field);
                }
                candidates.push(with(spec, "ops", ops.into()));
            }
        }
        for field in ["value", "key", "fn", "sub", "if"] {
            // Never one that can be null where it was not: a table's rows are not.
            let simple = if field == "key" {
                [Json::from("key"), Json::from(1)]
            } else {
                [Json::from(1), Json::from(0)]
            };
            for simple in simple {
                let now = op.get(field);
                if now.is_some_and(|now| *now != simple && now.is_array()) {
                    let mut ops = ops.to_vec();
                    ops[at][field] = simple;
                    candidates.push(with(spec, "ops", ops.into()));
                }
            }
        }
    }
    candidates
}

fn with(spec: &Json, field: &str, value: Json) -> Json {
    let mut spec = spec.clone();
    spec[field] = value;
    spec
}

/// The spec without an operator: what came after it follows what came before it, or goes too.
fn without_op(spec: &Json, at: usize) -> Vec<Json> {
    let ops = spec::ops(spec);
    let gone = spec::id(&ops[at]);
    let before = ops[at].get("in").filter(|before| before.is_string());
    let refers = |op: &Json| {
        ["in", "other"].iter().any(|field| match op.get(field) {
            Some(Json::String(id)) => id.split('.').next() == Some(&gone),
            Some(Json::Array(ids)) => ids.iter().any(|id| id.as_str() == Some(&gone)),
            _ => false,
        })
    };
    let mut specs = Vec::new();
    if let Some(before) = before {
        let mut relinked = ops.to_vec();
        relinked.remove(at);
        for op in &mut relinked {
            for field in ["in", "other"] {
                let is_gone =
                    op.get(field).and_then(Json::as_str).and_then(|id| id.split('.').next()) == Some(&gone);
                if is_gone {
                    op[field] = before.clone();
                }
            }
        }
        specs.push(with(spec, "ops", relinked.into()));
    }
    if !ops.iter().any(refers) {
        let mut fewer = ops.to_vec();
        fewer.remove(at);
        specs.push(with(spec, "ops", fewer.into()));
    }
    specs
}
