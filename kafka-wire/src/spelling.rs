//! What somebody meant who wrote a word that nobody knows.

/// Longer input is no slip of a known word, and comparing it would cost time.
const MAX_BYTES: usize = 256;

/// The known word with the fewest edits to `word` in any case, if they are few enough to be a slip: a third of it, or two.
///
/// ```
/// use kafka_wire::spelling::nearest;
/// assert_eq!(nearest("Lingr.ms", ["linger.ms", "batch.size"]), Some("linger.ms"));
/// assert_eq!(nearest("colour", ["linger.ms", "batch.size"]), None);
/// ```
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > MAX_BYTES {
        return None;
    }
    let lower = word.to_ascii_lowercase();
    let distances = known.into_iter().map(|known| (edit_distance(&lower, known), known));
    let slips = (word.len() / 3).max(2);
    distances.min().filter(|&(distance, _)| distance <= slips).map(|(_, known)| known)
}

/// Levenshtein's distance, by bytes.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let best = (diagonal + usize::from(x != y)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, best);
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_insertions_deletions_and_changes() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("abc", "abc"), 0);
    }

    #[test]
    fn of_equally_near_words_the_first_by_name_is_meant_and_a_long_one_is_no_slip() {
        assert_eq!(nearest("retention.s", ["retention.ys", "retention.ms"]), Some("retention.ms"));
        let long = "a".repeat(MAX_BYTES + 1);
        assert_eq!(nearest(&long, [long.as_str()]), None);
    }
}
