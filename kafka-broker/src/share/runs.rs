//! A map from offsets to what is known of them, kept as runs of neighbours that are alike.

use std::collections::BTreeMap;

/// Disjoint runs of offsets, in order, each with one value for all of its offsets.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Runs<T> {
    /// First offset to last offset (inclusive) and value.
    runs: BTreeMap<i64, (i64, T)>,
}

/// One run, cut to what was asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Run<T> {
    pub(crate) first: i64,
    /// Inclusive.
    pub(crate) last: i64,
    pub(crate) value: T,
}

impl<T> Run<T> {
    /// How many offsets it has.
    pub(crate) fn count(&self) -> i64 {
        self.last - self.first + 1
    }
}

impl<T> Default for Runs<T> {
    fn default() -> Self {
        Self { runs: BTreeMap::new() }
    }
}

impl<T: Clone + PartialEq> Runs<T> {
    /// All runs in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Run<&T>> {
        self.runs.iter().map(|(&first, (last, value))| Run { first, last: *last, value })
    }

    /// The runs that have offsets from `first` to `last`, cut to them.
    pub(crate) fn within(&self, first: i64, last: i64) -> impl Iterator<Item = Run<&T>> {
        let from = self.runs.range(..=first).next_back().map_or(first, |(&start, _)| start);
        self.runs
            .range(from..=last.max(from))
            .map(move |(&start, (end, value))| Run { first: start.max(first), last: (*end).min(last), value })
            .filter(|run| run.first <= run.last)
    }

    /// Gives all offsets from `first` to `last` one value, whatever they had before.
    pub(crate) fn set(&mut self, first: i64, last: i64, value: T) {
        self.clear(first, last);
        self.runs.insert(first, (last, value));
        self.join(last.saturating_add(1));
        self.join(first);
    }

    /// Forgets the offsets from `first` to `last`.
    pub(crate) fn clear(&mut self, first: i64, last: i64) {
        self.cut(first);
        self.cut(last.saturating_add(1));
        let gone: Vec<i64> = self.runs.range(first..=last).map(|(&first, _)| first).collect();
        for first in gone {
            self.runs.remove(&first);
        }
    }

    /// Forgets everything before `offset`.
    pub(crate) fn clear_below(&mut self, offset: i64) {
        self.cut(offset);
        self.runs = self.runs.split_off(&offset);
    }

    /// Makes `offset` the first of its run.
    fn cut(&mut self, offset: i64) {
        let Some((_, (last, value))) = self.runs.range_mut(..offset).next_back() else { return };
        if *last >= offset {
            let tail = (std::mem::replace(last, offset - 1), value.clone());
            self.runs.insert(offset, tail);
        }
    }

    /// Makes one run of the run that begins at `offset` and the one before, if they are alike.
    fn join(&mut self, offset: i64) {
        let Some((last, value)) = self.runs.get(&offset) else { return };
        let last = *last;
        let Some((&before, (before_last, before_value))) = self.runs.range(..offset).next_back() else {
            return;
        };
        if before_last.saturating_add(1) == offset && before_value == value {
            self.runs.remove(&offset);
            if let Some(run) = self.runs.get_mut(&before) {
                run.0 = last;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn offsets(runs: &Runs<u8>) -> BTreeMap<i64, u8> {
        runs.iter().flat_map(|run| (run.first..=run.last).map(|offset| (offset, *run.value))).collect()
    }

    proptest! {
        #[test]
        fn runs_are_a_map_of_offsets_whose_like_neighbours_are_one(
            steps in proptest::collection::vec((0u8..4, 0i64..40, 0i64..10, 0u8..3), 1..40),
        ) {
            let mut runs = Runs::default();
            let mut model: BTreeMap<i64, u8> = BTreeMap::new();
            for (step, first, more, value) in steps {
                let last = first + more;
                match step {
                    0 | 1 => {
                        runs.set(first, last, value);
                        model.extend((first..=last).map(|offset| (offset, value)));
                    }
                    2 => {
                        runs.clear(first, last);
                        model.retain(|offset, _| !(first..=last).contains(offset));
                    }
                    _ => {
                        runs.clear_below(first);
                        model.retain(|&offset, _| offset >= first);
                    }
                }
                prop_assert_eq!(offsets(&runs), model.clone());
                let within: BTreeMap<i64, u8> = runs
                    .within(first, last)
                    .flat_map(|run| (run.first..=run.last).map(|offset| (offset, *run.value)))
                    .collect();
                model
                    .iter()
                    .filter(|(offset, _)| (first..=last).contains(*offset))
                    .for_each(|(offset, value)| assert_eq!(within.get(offset), Some(value)));
                prop_assert_eq!(within.len(), model.range(first..=last).count());
            }
        }
    }

    #[test]
    fn neighbours_that_are_alike_become_one_run() {
        let mut runs = Runs::default();
        runs.set(0, 4, 'a');
        runs.set(5, 9, 'a');
        runs.set(3, 3, 'b');
        runs.set(3, 3, 'a');
        assert_eq!(runs.iter().count(), 1);
        assert_eq!(runs.iter().next().map(|run| run.count()), Some(10));
    }
}
