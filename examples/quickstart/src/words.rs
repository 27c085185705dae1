//! What a word is, and the plain count that the stream's result is checked against.

use std::collections::HashMap;

use bytes::Bytes;

/// The words of a line: runs of letters and digits, in lower case.
pub(crate) fn words(line: &str) -> impl Iterator<Item = String> {
    line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(lowercase)
}

/// Most words are ASCII, where lower case needs no tables.
fn lowercase(word: &str) -> String {
    if word.is_ascii() { word.to_ascii_lowercase() } else { word.to_lowercase() }
}

/// A count without Kafka: one map, one loop.
#[derive(Debug, Default)]
pub(crate) struct PlainCount {
    /// How often each word occurs in all repetitions.
    pub(crate) counts: HashMap<String, i64>,
    /// How many words each line holds.
    pub(crate) words_in_line: Vec<u32>,
}

impl PlainCount {
    pub(crate) fn of(lines: &[Bytes], repeat: u64) -> Self {
        let mut count = Self::default();
        for line in lines {
            let mut in_line = 0;
            for word in words(&String::from_utf8_lossy(line)) {
                *count.counts.entry(word).or_insert(0) += repeat.cast_signed();
                in_line += 1;
            }
            count.words_in_line.push(in_line);
        }
        count
    }

    /// All words of all repetitions.
    pub(crate) fn total(&self) -> i64 {
        self.counts.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_lower_case_runs_of_letters_and_digits() {
        let found: Vec<_> = words("The Quick-brown fox, Ärger; x86_64!").collect();
        assert_eq!(found, ["the", "quick", "brown", "fox", "ärger", "x86", "64"]);
        assert_eq!(words(" \t--").count(), 0);
    }

    #[test]
    fn repeating_the_input_multiplies_every_count() {
        let lines = [Bytes::from_static(b"a b a"), Bytes::from_static(b"B")];
        let count = PlainCount::of(&lines, 3);
        assert_eq!(count.counts, HashMap::from([("a".to_owned(), 6), ("b".to_owned(), 6)]));
        assert_eq!((count.words_in_line.as_slice(), count.total()), (&[3, 1][..], 12));
    }
}
