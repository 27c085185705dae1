//! What rows were at earlier times (KIP-889): the versions of each key, in memory, over the latest ones that [`super::Rows`]
//! has.

use rustc_hash::FxHashMap;

use super::index::KeyBytes;

/// What became of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// It is the key's latest.
    Latest,
    /// A later one was there already.
    Earlier,
    /// It is older than the history goes, and was not kept.
    NotPut,
}

/// One version; it was the row until the next one's time.
struct At<V> {
    time: i64,
    /// `None`: there was no row then.
    value: Option<V>,
}

pub(crate) struct History<V> {
    /// How far back, in milliseconds.
    retention: i64,
    /// The latest time of all puts; -1 before the first.
    stream_time: i64,
    /// By time, one for each.
    versions: FxHashMap<KeyBytes, Vec<At<V>>>,
    pub(crate) dropped: u64,
}

impl<V> History<V> {
    pub(crate) fn new(retention: i64) -> Self {
        Self { retention, stream_time: -1, versions: FxHashMap::default(), dropped: 0 }
    }

    fn horizon(&self) -> i64 {
        self.stream_time.saturating_sub(self.retention)
    }

    pub(crate) fn put(&mut self, key: &[u8], value: Option<V>, time: i64) -> Version {
        if time < self.horizon() {
            self.dropped += 1;
            return Version::NotPut;
        }
        self.stream_time = self.stream_time.max(time);
        let horizon = self.horizon();
        let versions = match self.versions.get_mut(key) {
            Some(versions) => versions,
            None => self.versions.entry(KeyBytes::from_slice(key)).or_default(),
        };
        let place = versions.partition_point(|version| version.time < time);
        match versions.get_mut(place) {
            Some(same) if same.time == time => same.value = value,
            _ => versions.insert(place, At { time, value }),
        }
        let is_latest = place + 1 == versions.len();
        // The one that was the row at the horizon can still be asked for.
        let over = versions.partition_point(|version| version.time <= horizon).saturating_sub(1);
        versions.drain(..over);
        if is_latest { Version::Latest } else { Version::Earlier }
    }

    /// The row as it was at a time, and since when. Nothing is known of times before the history begins, but that the
    /// latest row was there already.
    pub(crate) fn get(&self, key: &[u8], time: i64) -> Option<(&V, i64)> {
        let versions = self.versions.get(key)?;
        let place = versions.partition_point(|version| version.time <= time).checked_sub(1)?;
        if time < self.horizon() && place + 1 < versions.len() {
            return None;
        }
        let version = versions.get(place)?;
        Some((version.value.as_ref()?, version.time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn rows_are_what_they_were_at_each_time() {
        let mut history = History::new(100);
        assert_eq!(history.put(b"k", Some("a"), 10), Version::Latest);
        assert_eq!(history.put(b"k", Some("c"), 30), Version::Latest);
        assert_eq!(history.put(b"k", Some("b"), 20), Version::Earlier);
        assert_eq!(history.put(b"k", None, 40), Version::Latest);
        let at = |history: &History<&'static str>, time| {
            history.get(b"k", time).map(|(value, since)| (*value, since))
        };
        assert_eq!(at(&history, 9), None);
        assert_eq!(at(&history, 19), Some(("a", 10)));
        assert_eq!(at(&history, 20), Some(("b", 20)));
        assert_eq!(at(&history, 39), Some(("c", 30)));
        assert_eq!(at(&history, 40), None);
        assert_eq!(history.put(b"other", Some("x"), 125), Version::Latest);
        assert_eq!(history.put(b"k", Some("late"), 24), Version::NotPut);
        assert_eq!(history.dropped, 1);
        // Before the history began at 25 nothing is known; what was the row then still is.
        assert_eq!((at(&history, 24), at(&history, 25)), (None, Some(("b", 20))));
        // A row that nothing followed is known for ever.
        history.put(b"third", Some("y"), 300);
        assert_eq!(history.get(b"other", 150), Some((&"x", 125)));
    }

    proptest! {
        #[test]
        fn versions_are_those_of_a_map_of_times(
            retention in 0i64..40,
            puts in prop::collection::vec((0..3u8, prop::option::of(0..9u8), 0i64..100), 0..60),
        ) {
            let mut history = History::new(retention);
            let mut model = BTreeMap::<u8, BTreeMap<i64, Option<u8>>>::new();
            let mut now = -1;
            for (key, value, time) in puts {
                let put = history.put(&[key], value, time);
                if time < now - retention {
                    prop_assert_eq!(put, Version::NotPut);
                    continue;
                }
                now = now.max(time);
                let versions = model.entry(key).or_default();
                versions.insert(time, value);
                let is_latest = versions.last_key_value().is_some_and(|(last, _)| *last == time);
                prop_assert_eq!(put, if is_latest { Version::Latest } else { Version::Earlier });
            }
            for key in 0..3 {
                for time in (now - retention)..=now {
                    let versions = model.get(&key).and_then(|versions| versions.range(..=time).next_back());
                    let expected = versions.and_then(|(since, value)| Some((value.as_ref()?, *since)));
                    prop_assert_eq!(history.get(&[key], time), expected, "{} at {}", key, time);
                }
            }
        }
    }
}
