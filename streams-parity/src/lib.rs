//! Whether kafka-streams does what Java's Kafka Streams does: random topologies and inputs, run by both test drivers.
//!
//! Compared are the topology's text, what every topic got after each input (bytes, timestamps, headers; changelogs and
//! repartition topics too), the rows of stores, how many records were dropped, and whether it was refused.

mod compare;
mod generate;
mod java;
mod library;
mod ours;
mod shrink;
mod spec;
mod value;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value as Json;

pub use generate::FAMILIES;

/// Why nothing could be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Java's side does not run.
    #[error("java: {0}")]
    Java(String),
    /// There is no family of this name.
    #[error("there is no family {0}")]
    NoFamily(String),
}

/// What to compare.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of Apache Kafka's jars.
    pub jars: PathBuf,
    /// The first case's seed; the next one's is one more.
    pub seed: u64,
    /// How many cases.
    pub cases: u64,
    /// Only this family of topologies, one of [`FAMILIES`].
    pub family: Option<String>,
    /// Stop after so many differences.
    pub differences: usize,
}

/// A case in which the two differ.
#[derive(Debug, Clone)]
pub struct Difference {
    /// Its family.
    pub family: &'static str,
    /// Its seed.
    pub seed: u64,
    /// The smallest spec that was found to differ.
    pub spec: Json,
    /// The first thing that differs.
    pub what: String,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Cases compared, by family.
    pub compared: BTreeMap<&'static str, u64>,
    /// Cases that kafka-streams cannot run, by what it lacks.
    pub not_built: BTreeMap<String, u64>,
    /// Cases that both sides refused or failed in alike.
    pub refused: u64,
    /// Where they differ.
    pub differences: Vec<Difference>,
}

/// How a case ended.
enum Verdict {
    Same { refused: bool },
    NotBuilt(String),
    Bad(String),
    Differs(String),
}

fn judge(java: &mut java::Java, spec: &Json) -> Result<Verdict, Error> {
    let topics = spec::input_topics(spec);
    let is_read = |input: &Json| {
        let topic = input.get(0).and_then(Json::as_str).unwrap_or_default();
        topic == "@wall" || topics.contains(&topic)
    };
    if topics.is_empty() || !spec::input(spec).iter().all(is_read) {
        // Java cannot run an empty topology nor feed a topic that nobody reads; there is nothing to compare.
        return Ok(Verdict::Bad("a topic that nobody reads".to_owned()));
    }
    let ours = match ours::run(spec) {
        Ok(ours) => ours,
        Err(ours::Unable::NotBuilt(what)) => return Ok(Verdict::NotBuilt(what)),
        Err(ours::Unable::Bad(what)) => return Ok(Verdict::Bad(what)),
    };
    let theirs = java.run(spec)?;
    if let Some(bad) = theirs.get("bad") {
        return Ok(Verdict::Bad(bad.to_string()));
    }
    Ok(match compare::difference(spec, &theirs, &ours) {
        Some(what) => Verdict::Differs(what),
        None => Verdict::Same { refused: theirs.get("error").is_some() },
    })
}

/// Compares case after case, and makes each that differs as small as it can.
///
/// # Errors
/// When Java does not run.
pub fn run(options: &Options) -> Result<Report, Error> {
    let mut java = java::Java::start(&options.jars)?;
    let mut report = Report::default();
    for seed in options.seed..options.seed.saturating_add(options.cases) {
        let (family, spec) = generate::case(seed, options.family.as_deref())?;
        match judge(&mut java, &spec)? {
            Verdict::Same { refused } => {
                *report.compared.entry(family).or_default() += 1;
                report.refused += u64::from(refused);
            }
            Verdict::NotBuilt(what) => *report.not_built.entry(what).or_default() += 1,
            Verdict::Bad(what) => {
                *report.not_built.entry(format!("(a spec that means nothing: {what})")).or_default() += 1;
            }
            Verdict::Differs(what) => {
                *report.compared.entry(family).or_default() += 1;
                let (spec, what) = shrink::shrink(&mut java, spec, what)?;
                report.differences.push(Difference { family, seed, spec, what });
                if report.differences.len() >= options.differences {
                    break;
                }
            }
        }
    }
    Ok(report)
}

/// Runs one spec on both sides and says what differs, if anything.
///
/// # Errors
/// When Java does not run.
pub fn run_spec(jars: &std::path::Path, spec: &Json) -> Result<Option<String>, Error> {
    let mut java = java::Java::start(jars)?;
    Ok(match judge(&mut java, spec)? {
        Verdict::Same { .. } => None,
        Verdict::NotBuilt(what) => Some(format!("not built: {what}")),
        Verdict::Bad(what) => Some(format!("the spec means nothing: {what}")),
        Verdict::Differs(what) => Some(what),
    })
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for difference in &self.differences {
            let Difference { family, seed, spec, what } = difference;
            writeln!(f, "== {family}, --seed {seed} --cases 1\n{spec}\n{what}\n")?;
        }
        for (family, cases) in &self.compared {
            let different = self.differences.iter().filter(|difference| difference.family == *family).count();
            writeln!(f, "{family}: {cases} cases, {different} differ")?;
        }
        for (what, cases) in &self.not_built {
            writeln!(f, "not built: {what}: {cases} cases")?;
        }
        let compared: u64 = self.compared.values().sum();
        write!(
            f,
            "{compared} cases compared, {} refused alike, {} differ",
            self.refused,
            self.differences.len()
        )
    }
}
