//! Inputs: few keys, short values, nulls, and a walk through time.

use serde_json::{Value as Json, json};

use super::Gen;

const KEYS: [&str; 4] = ["a", "b", "k1", "k2"];
const LETTERS: [char; 5] = ['a', 'b', 'c', '1', '2'];

impl Gen {
    pub(super) fn input(&mut self) -> Json {
        let longest = if self.random.percent(25) { 56 } else { 15 };
        let count = 5 + self.random.below(longest);
        let keys = 2 + self.random.below(3);
        let mut now: i64 = self.random.below(40) as i64;
        let mut input = Vec::new();
        for _ in 0..count {
            if self.random.percent(4) {
                input.push(json!(["@wall", self.random.pick(&[0, 1, 999, 1000, 1001])]));
                continue;
            }
            now = self.step(now);
            let topic = self.random.pick(&self.topics.clone()).clone();
            let key =
                if self.random.percent(5) { Json::Null } else { json!({"s": KEYS[self.random.below(keys)]}) };
            let mut record = vec![topic.into(), key, self.value(), now.into()];
            if self.random.percent(10) {
                record.push(format!("h{}", self.random.below(3)).into());
            }
            input.push(record.into());
        }
        input.into()
    }

    fn value(&mut self) -> Json {
        match self.random.below(20) {
            0 | 1 => Json::Null,
            2..=4 => (self.random.below(12) as i64 - 3).into(),
            _ => {
                let length = 1 + self.random.below(4);
                let text: String = (0..length).map(|_| *self.random.pick(&LETTERS)).collect();
                json!({"s": text})
            }
        }
    }

    /// The next timestamp: mostly a little later, at times around a boundary, before or after; never negative.
    fn step(&mut self, now: i64) -> i64 {
        let boundary = match self.boundaries.len() {
            0 => 10,
            _ => *self.random.pick(&self.boundaries.clone()),
        };
        let around = self.random.below(3) as i64 - 1;
        let step = match self.random.below(20) {
            0..=3 => 0,
            4..=9 => self.random.below(4) as i64,
            10..=12 => boundary + around,
            13 => 2 * boundary + around,
            14 => 5 * boundary + self.random.below(20) as i64,
            15 | 16 => -(self.random.below(5) as i64),
            17 | 18 => -(boundary + around),
            _ => -(2 * boundary + around),
        };
        (now + step).max(0)
    }
}
