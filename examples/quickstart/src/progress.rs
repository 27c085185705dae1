//! How far the word count is: the numbers that every view shows.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// The counts as they arrive from the output topic, and what can be said of them.
pub(crate) struct Progress {
    counts: HashMap<String, i64>,
    words_total: i64,
    words_counted: i64,
    lines_total: u64,
    started_at: Instant,
    /// From a line's creation to the arrival of a count that it changed, in microseconds.
    latency: Histogram<u64>,
}

/// What a run came to, or how far it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    pub(crate) lines: u64,
    pub(crate) words: i64,
    pub(crate) distinct: usize,
    pub(crate) elapsed: Duration,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

impl Summary {
    /// Words counted in a second.
    pub(crate) fn words_per_second(&self) -> f64 {
        self.words as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

impl Progress {
    #[expect(clippy::expect_used, reason = "three significant digits are within hdrhistogram's bounds")]
    pub(crate) fn new(lines_total: u64, words_total: i64, started_at: Instant) -> Self {
        Self {
            counts: HashMap::new(),
            words_total,
            words_counted: 0,
            lines_total,
            started_at,
            latency: Histogram::new(3).expect("three significant digits are valid"),
        }
    }

    /// A count arrived. Counts of a word arrive in order, so the latest is the truth so far.
    pub(crate) fn record(&mut self, word: &str, count: i64) {
        match self.counts.get_mut(word) {
            Some(known) => self.words_counted += count - std::mem::replace(known, count),
            None => {
                self.words_counted += count;
                self.counts.insert(word.to_owned(), count);
            }
        }
    }

    /// A count arrived `age` after the newest line in it was created.
    pub(crate) fn record_latency(&mut self, age: Duration) {
        // The histogram grows to whatever it is given; only an age beyond its 64 bits could be refused.
        let _ = self.latency.record(u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
    }

    /// Whether every word that was fed has been counted.
    pub(crate) fn is_complete(&self) -> bool {
        self.words_counted >= self.words_total
    }

    /// The part of all words that has been counted, from 0 to 1.
    pub(crate) fn fraction(&self) -> f64 {
        if self.words_total == 0 {
            1.0
        } else {
            (self.words_counted as f64 / self.words_total as f64).clamp(0.0, 1.0)
        }
    }

    pub(crate) fn words_counted(&self) -> i64 {
        self.words_counted
    }

    pub(crate) fn words_total(&self) -> i64 {
        self.words_total
    }

    /// The most frequent words, most frequent first, equal ones in alphabetical order.
    pub(crate) fn top(&self, n: usize) -> Vec<(&str, i64)> {
        let mut all: Vec<(&str, i64)> =
            self.counts.iter().map(|(word, &count)| (word.as_str(), count)).collect();
        let by_rank = |a: &(&str, i64), b: &(&str, i64)| b.1.cmp(&a.1).then(a.0.cmp(b.0));
        if all.len() > n {
            all.select_nth_unstable_by(n, by_rank);
            all.truncate(n);
        }
        all.sort_by(by_rank);
        all
    }

    pub(crate) fn summary(&self, now: Instant) -> Summary {
        let at = |quantile| Duration::from_micros(self.latency.value_at_quantile(quantile));
        Summary {
            lines: self.lines_total,
            words: self.words_counted,
            distinct: self.counts.len(),
            elapsed: now.saturating_duration_since(self.started_at),
            p50: at(0.50),
            p99: at(0.99),
        }
    }

    /// The words whose count differs from `expected`, with both counts; empty when every count is exact.
    pub(crate) fn differences(&self, expected: &HashMap<String, i64>) -> Vec<Difference> {
        let mut found: Vec<Difference> = expected
            .iter()
            .filter_map(|(word, &expected)| {
                let counted = self.counts.get(word).copied().unwrap_or(0);
                (counted != expected).then(|| Difference { word: word.clone(), expected, counted })
            })
            .collect();
        found.extend(
            self.counts
                .iter()
                .filter(|(word, _)| !expected.contains_key(*word))
                .map(|(word, &counted)| Difference { word: word.clone(), expected: 0, counted }),
        );
        found.sort();
        found
    }
}

/// A word that the stream counted differently.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Difference {
    pub(crate) word: String,
    pub(crate) expected: i64,
    pub(crate) counted: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(total: i64) -> Progress {
        Progress::new(1, total, Instant::now())
    }

    #[test]
    fn the_latest_count_of_a_word_is_what_counts() {
        let mut progress = progress(5);
        for (word, count) in [("a", 1), ("b", 1), ("a", 3)] {
            progress.record(word, count);
        }
        assert!(!progress.is_complete());
        progress.record("b", 2);
        assert!(progress.is_complete());
        assert_eq!(progress.top(1), [("a", 3)]);
        assert_eq!(progress.differences(&HashMap::from([("a".into(), 3), ("b".into(), 2)])), []);
    }

    #[test]
    fn lost_doubled_and_invented_words_are_told() {
        let mut progress = progress(3);
        progress.record("doubled", 2);
        progress.record("invented", 1);
        let expected = HashMap::from([("doubled".to_owned(), 1), ("lost".to_owned(), 1)]);
        let words: Vec<_> = progress.differences(&expected).into_iter().map(|d| d.word).collect();
        assert_eq!(words, ["doubled", "invented", "lost"]);
    }

    #[test]
    fn latencies_are_told_by_their_quantiles() {
        let mut progress = progress(1);
        for millis in 1..=100 {
            progress.record_latency(Duration::from_millis(millis));
        }
        let summary = progress.summary(Instant::now());
        assert_eq!((summary.p50.as_millis(), summary.p99.as_millis()), (50, 99));
    }

    #[test]
    fn an_empty_input_is_complete_at_once() {
        assert!(progress(0).is_complete());
        assert_eq!(progress(0).fraction(), 1.0);
    }

    #[test]
    fn ties_are_in_alphabetical_order() {
        let mut progress = progress(4);
        for word in ["d", "b", "c", "a"] {
            progress.record(word, 1);
        }
        assert_eq!(progress.top(2), [("a", 1), ("b", 1)]);
    }
}
