//! Where the row of a key is: by hash, by hash of what rows of a stretch of time have in common, or in order.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::ops::Bound;

use hashbrown::HashTable;
use rustc_hash::{FxBuildHasher, FxHashMap};
use smallvec::SmallVec;

/// A key's bytes; short ones lie in place, so that a look-up touches as little memory as it can.
pub(super) type KeyBytes = SmallVec<[u8; 32]>;

/// How rows are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// One by one; a range is sorted when somebody asks for it.
    Hashed,
    /// Rows whose keys differ in their last bytes only, so many, belong together and are in order: those of one key at
    /// different times.
    Grouped(usize),
    /// All of them, by their keys.
    Ordered,
}

/// What tells the rows of a group apart: the last bytes of their keys, as a number.
type Tail = u128;
type Group = SmallVec<[(Tail, u32); 1]>;

pub(super) enum Index {
    Hashed(HashTable<u32>),
    Grouped { tail: usize, groups: FxHashMap<KeyBytes, Group>, len: usize },
    Ordered(BTreeMap<KeyBytes, u32>),
}

/// The keys of rows by their places.
pub(super) trait Keys {
    fn key(&self, at: u32) -> &[u8];
}

fn hash(key: &[u8]) -> u64 {
    FxBuildHasher.hash_one(key)
}

fn tail_of(bytes: &[u8]) -> Tail {
    bytes.iter().fold(0, |tail, byte| tail << 8 | Tail::from(*byte))
}

impl Index {
    pub(super) fn new(order: Order) -> Self {
        match order {
            Order::Hashed => Index::Hashed(HashTable::new()),
            Order::Grouped(tail) => Index::Grouped { tail, groups: FxHashMap::default(), len: 0 },
            Order::Ordered => Index::Ordered(BTreeMap::new()),
        }
    }

    #[inline]
    pub(super) fn get(&self, key: &[u8], keys: &impl Keys) -> Option<u32> {
        match self {
            Index::Hashed(table) => table.find(hash(key), |at| keys.key(*at) == key).copied(),
            Index::Grouped { tail, groups, .. } => {
                let (group, last) = key.split_at_checked(key.len().saturating_sub(*tail))?;
                let group = groups.get(group)?;
                let place = group.binary_search_by_key(&tail_of(last), |(tail, _)| *tail).ok()?;
                group.get(place).map(|(_, at)| *at)
            }
            Index::Ordered(map) => map.get(key).copied(),
        }
    }

    /// Adds a key that is not there.
    pub(super) fn insert(&mut self, key: &[u8], at: u32, keys: &impl Keys) {
        match self {
            Index::Hashed(table) => {
                table.insert_unique(hash(key), at, |at| hash(keys.key(*at)));
            }
            Index::Grouped { tail, groups, len } => {
                let (group, last) = key.split_at(key.len().saturating_sub(*tail));
                let last = tail_of(last);
                let group = match groups.get_mut(group) {
                    Some(group) => group,
                    None => groups.entry(KeyBytes::from_slice(group)).or_default(),
                };
                // Mostly the latest.
                let place = match group.last() {
                    Some((latest, _)) if *latest >= last => group.partition_point(|(tail, _)| *tail < last),
                    _ => group.len(),
                };
                group.insert(place, (last, at));
                *len += 1;
            }
            Index::Ordered(map) => {
                map.insert(KeyBytes::from_slice(key), at);
            }
        }
    }

    pub(super) fn remove(&mut self, key: &[u8], keys: &impl Keys) {
        match self {
            Index::Hashed(table) => {
                if let Ok(entry) = table.find_entry(hash(key), |at| keys.key(*at) == key) {
                    entry.remove();
                }
            }
            Index::Grouped { tail, groups, len } => {
                let (prefix, last) = key.split_at(key.len().saturating_sub(*tail));
                let Some(group) = groups.get_mut(prefix) else { return };
                if let Ok(place) = group.binary_search_by_key(&tail_of(last), |(tail, _)| *tail) {
                    group.remove(place);
                    *len -= 1;
                }
                if group.is_empty() {
                    groups.remove(prefix);
                }
            }
            Index::Ordered(map) => {
                map.remove(key);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Index::Hashed(table) => table.len(),
            Index::Grouped { len, .. } => *len,
            Index::Ordered(map) => map.len(),
        }
    }

    pub(super) fn clear(&mut self) {
        match self {
            Index::Hashed(table) => table.clear(),
            Index::Grouped { groups, len, .. } => {
                groups.clear();
                *len = 0;
            }
            Index::Ordered(map) => map.clear(),
        }
    }

    /// Removes the keys below `to` for which `goes` says so.
    pub(super) fn take_below(&mut self, to: &[u8], keys: &impl Keys, mut goes: impl FnMut(u32) -> bool) {
        match self {
            Index::Hashed(table) => table.retain(|at| keys.key(*at) >= to || !goes(*at)),
            Index::Grouped { groups, len, .. } => groups.retain(|_, group| {
                group.retain(|(_, at)| {
                    let stays = keys.key(*at) >= to || !goes(*at);
                    *len -= usize::from(!stays);
                    stays
                });
                !group.is_empty()
            }),
            Index::Ordered(map) => {
                let rest = map.split_off(to);
                let below = std::mem::replace(map, rest);
                map.extend(below.into_iter().filter(|(_, at)| !goes(*at)));
            }
        }
    }

    /// Places in the order of the keys' bytes, from `from` (included) to `to` (excluded).
    pub(super) fn range<'a>(
        &'a self,
        from: &[u8],
        to: Option<&[u8]>,
        reverse: bool,
        keys: &'a impl Keys,
    ) -> Box<dyn Iterator<Item = u32> + 'a> {
        if to.is_some_and(|to| to <= from) {
            return Box::new(std::iter::empty());
        }
        let inside = |at: &u32| {
            let key = keys.key(*at);
            key >= from && to.is_none_or(|to| key < to)
        };
        let mut found: Vec<u32> = match self {
            Index::Ordered(map) => {
                let to = to.map_or(Bound::Unbounded, Bound::Excluded);
                let range = map.range::<[u8], _>((Bound::Included(from), to)).map(|(_, at)| *at);
                return if reverse { Box::new(range.rev()) } else { Box::new(range) };
            }
            Index::Hashed(table) => table.iter().copied().filter(inside).collect(),
            Index::Grouped { groups, .. } => {
                groups.values().flatten().map(|(_, at)| *at).filter(inside).collect()
            }
        };
        found.sort_unstable_by_key(|at| keys.key(*at));
        if reverse {
            found.reverse();
        }
        Box::new(found.into_iter())
    }

    /// Places of a group's rows, in order: from the tail that begins with `from` to the one that begins with `to`, both
    /// included. `None` if rows are not grouped.
    pub(super) fn group(
        &self,
        prefix: &[u8],
        from: &[u8],
        to: &[u8],
    ) -> Option<impl DoubleEndedIterator<Item = u32> + '_> {
        let Index::Grouped { tail, groups, .. } = self else { return None };
        let open = |bytes: &[u8]| 8 * tail.saturating_sub(bytes.len());
        let from = tail_of(from) << open(from);
        let to = tail_of(to) << open(to) | ((1u128 << open(to)) - 1);
        let group = groups.get(prefix).map_or(&[][..], |group| group.as_slice());
        let first = group.partition_point(|(tail, _)| *tail < from);
        let end = group.partition_point(|(tail, _)| *tail <= to);
        Some(group.get(first..end.max(first)).unwrap_or_default().iter().map(|(_, at)| *at))
    }
}
