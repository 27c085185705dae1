//! Random specs from a seed: families of topologies, and inputs that walk around the boundaries of their windows.

mod input;
mod topology;

use serde_json::{Value as Json, json};

use crate::Error;

/// The families of topologies, each a theme.
pub const FAMILIES: [&str; 13] = [
    "stateless",
    "branches",
    "aggregate",
    "windows",
    "sessions",
    "tables",
    "table-groups",
    "stream-joins",
    "table-joins",
    "stream-table-joins",
    "suppress",
    "processors",
    "mixed",
];

/// SplitMix64: the same numbers for a seed wherever it runs.
pub(crate) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.next() % 100 < chance
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// A spec in the making.
pub(crate) struct Gen {
    pub(crate) random: Random,
    ops: Vec<Json>,
    topics: Vec<String>,
    /// Spans of time that matter: sizes, gaps, graces.
    boundaries: Vec<i64>,
    outputs: usize,
    /// Whether most things have names.
    named: bool,
    /// Whether stores are cached; then each says whether it is.
    cache: bool,
    /// Whether Java's stores are on RocksDB.
    rocksdb: bool,
}

/// The case of a seed: its family and its spec.
pub(crate) fn case(seed: u64, family: Option<&str>) -> Result<(&'static str, Json), Error> {
    let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5bd1_e995);
    let family = match family {
        Some(name) => FAMILIES
            .into_iter()
            .find(|family| *family == name)
            .ok_or_else(|| Error::NoFamily(name.to_owned()))?,
        None => *random.pick(&FAMILIES),
    };
    let mut made = Gen {
        named: random.percent(50),
        cache: random.percent(25),
        random,
        ops: Vec::new(),
        topics: Vec::new(),
        boundaries: Vec::new(),
        outputs: 0,
        rocksdb: false,
    };
    made.rocksdb = made.random.percent(15);
    made.family(family);
    let input = made.input();
    let spec = json!({
        "cfg": {"cache": made.cache, "rocksdb": made.rocksdb, "optimization": "none"},
        "ops": made.ops,
        "input": input,
    });
    Ok((family, spec))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ours;

    #[test]
    fn every_family_makes_specs_that_mean_something() {
        for seed in 0..300 {
            for family in FAMILIES {
                let (_, spec) = case(seed, Some(family)).unwrap();
                match ours::run(&spec) {
                    Err(ours::Unable::Bad(what)) => panic!("seed {seed} of {family}: {what}\n{spec}"),
                    Ok(answer) if answer.get("panic").is_some() => {
                        panic!("seed {seed} of {family}: {answer}\n{spec}")
                    }
                    _ => {}
                }
            }
        }
    }
}
