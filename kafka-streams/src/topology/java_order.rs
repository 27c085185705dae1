//! The order in which Java's `HashMap` and `HashSet` iterate over strings.
//!
//! `describe()` iterates over such maps, so its text can only be the same if this order is.

/// Sorts as a `HashSet<String>` filled in this order iterates.
pub(crate) fn hash_set_order<T: AsRef<str>>(items: &mut [T]) {
    hash_set_order_from(items, 16);
}

/// As [`hash_set_order`] of a `HashSet` that was made for so many items.
pub(crate) fn hash_set_order_from<T: AsRef<str>>(items: &mut [T], capacity: usize) {
    let mut buckets: u32 = u32::try_from(capacity.next_power_of_two()).unwrap_or(16);
    while items.len() as f64 > f64::from(buckets) * 0.75 {
        buckets = buckets.saturating_mul(2);
    }
    items.sort_by_key(|item| {
        let hash = string_hash(item.as_ref());
        (hash ^ (hash >> 16)) & (buckets - 1)
    });
}

/// `String.hashCode`: over UTF-16 units.
fn string_hash(text: &str) -> u32 {
    text.encode_utf16().fold(0, |hash: u32, unit| hash.wrapping_mul(31).wrapping_add(u32::from(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_hash_as_in_java() {
        assert_eq!(string_hash("hello"), 99_162_322);
        assert_eq!(string_hash(""), 0);
    }

    #[test]
    fn small_sets_iterate_by_bucket() {
        let mut topics = ["z", "a", "m"];
        hash_set_order(&mut topics);
        assert_eq!(topics, ["a", "z", "m"]);
    }
}
