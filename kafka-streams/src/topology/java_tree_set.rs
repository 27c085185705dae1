//! `java.util.TreeSet`, as far as sets matter whose elements change after they were added.
//!
//! `describe()` keeps neighbours in such sets, ordered by sizes that go on growing. Where an element then lands depends on
//! the tree's shape, so this is the same red-black tree; a set whose elements do not change is simply sorted.

use std::cmp::Ordering;

#[derive(Debug)]
struct Entry {
    item: usize,
    is_red: bool,
    parent: Option<usize>,
    /// Left and right.
    children: [Option<usize>; 2],
}

/// A set of node ids.
#[derive(Debug, Default)]
pub(crate) struct TreeSet {
    entries: Vec<Entry>,
    root: Option<usize>,
}

const LEFT: usize = 0;
const RIGHT: usize = 1;

impl TreeSet {
    /// Adds an item unless one on its way compares equal.
    pub(crate) fn insert(&mut self, item: usize, compare: impl Fn(usize, usize) -> Ordering) {
        let (mut parent, mut side) = (None, LEFT);
        let mut at = self.root;
        while let Some(entry) = at.and_then(|at| self.entries.get(at)) {
            side = match compare(item, entry.item) {
                Ordering::Less => LEFT,
                Ordering::Greater => RIGHT,
                Ordering::Equal => return,
            };
            (parent, at) = (at, entry.children.get(side).copied().flatten());
        }
        let new = self.entries.len();
        self.entries.push(Entry { item, is_red: true, parent, children: [None; 2] });
        self.set_child(parent, side, Some(new));
        self.balance(new);
    }

    /// The items from left to right.
    pub(crate) fn items(&self) -> Vec<usize> {
        let (mut items, mut above, mut at) = (Vec::new(), Vec::new(), self.root);
        loop {
            while let Some(entry) = at {
                above.push(entry);
                at = self.child(entry, LEFT);
            }
            let Some(entry) = above.pop() else { return items };
            items.extend(self.entries.get(entry).map(|entry| entry.item));
            at = self.child(entry, RIGHT);
        }
    }

    fn child(&self, at: usize, side: usize) -> Option<usize> {
        self.entries.get(at)?.children.get(side).copied().flatten()
    }

    fn parent(&self, at: usize) -> Option<usize> {
        self.entries.get(at)?.parent
    }

    fn is_red(&self, at: Option<usize>) -> bool {
        at.and_then(|at| self.entries.get(at)).is_some_and(|entry| entry.is_red)
    }

    fn paint(&mut self, at: Option<usize>, red: bool) {
        if let Some(entry) = at.and_then(|at| self.entries.get_mut(at)) {
            entry.is_red = red;
        }
    }

    /// Hangs an entry below a parent, or makes it the root.
    fn set_child(&mut self, parent: Option<usize>, side: usize, child: Option<usize>) {
        match parent.and_then(|parent| self.entries.get_mut(parent)) {
            Some(entry) => entry.children[side] = child,
            None => self.root = child,
        }
        if let Some(entry) = child.and_then(|child| self.entries.get_mut(child)) {
            entry.parent = parent;
        }
    }

    /// On which side of its parent an entry is.
    fn side(&self, at: usize, parent: usize) -> usize {
        if self.child(parent, LEFT) == Some(at) { LEFT } else { RIGHT }
    }

    /// Turns the tree at an entry: its child on the other side takes its place.
    fn rotate(&mut self, at: usize, side: usize) {
        let other = 1 - side;
        let Some(riser) = self.child(at, other) else { return };
        let (above, inner) = (self.parent(at), self.child(riser, side));
        let place = above.map_or(LEFT, |above| self.side(at, above));
        self.set_child(above, place, Some(riser));
        self.set_child(Some(riser), side, Some(at));
        if let Some(entry) = self.entries.get_mut(at) {
            entry.children[other] = None;
        }
        if inner.is_some() {
            self.set_child(Some(at), other, inner);
        }
    }

    fn balance(&mut self, new: usize) {
        let mut at = new;
        while let Some(parent) = self.parent(at).filter(|parent| self.is_red(Some(*parent))) {
            let Some(grandparent) = self.parent(parent) else { break };
            let side = self.side(parent, grandparent);
            let uncle = self.child(grandparent, 1 - side);
            if self.is_red(uncle) {
                self.paint(Some(parent), false);
                self.paint(uncle, false);
                self.paint(Some(grandparent), true);
                at = grandparent;
                continue;
            }
            let mut parent = parent;
            if self.side(at, parent) != side {
                at = parent;
                self.rotate(at, side);
                parent = self.parent(at).unwrap_or(at);
            }
            self.paint(Some(parent), false);
            self.paint(Some(grandparent), true);
            self.rotate(grandparent, 1 - side);
        }
        self.paint(self.root, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_that_do_not_change_are_sorted() {
        let mut set = TreeSet::default();
        for item in [5, 3, 9, 1, 4, 8, 7, 2, 6, 0, 5, 3] {
            set.insert(item, |a, b| a.cmp(&b));
        }
        assert_eq!(set.items(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn what_grows_after_it_was_added_stays_where_it_is() {
        // Sizes by item; bigger ones come first, as in `describe()`.
        let mut sizes = [1, 1, 1];
        let mut set = TreeSet::default();
        set.insert(1, |a, b| sizes[b].cmp(&sizes[a]).then(a.cmp(&b)));
        set.insert(2, |a, b| sizes[b].cmp(&sizes[a]).then(a.cmp(&b)));
        sizes[1] = 3;
        set.insert(0, |a, b| sizes[b].cmp(&sizes[a]).then(a.cmp(&b)));
        assert_eq!(set.items(), [1, 0, 2]);
    }
}
