//! How many faults may still happen, and which did.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::trace::lock;

/// The faults of a run. Clones are the same budget.
#[derive(Debug, Clone)]
pub struct FaultBudget(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    left: u32,
    used: BTreeMap<&'static str, u32>,
}

impl FaultBudget {
    /// At most that many faults.
    pub fn new(faults: u32) -> Self {
        Self(Arc::new(Mutex::new(Inner { left: faults, used: BTreeMap::new() })))
    }

    /// Whether one more of a kind may happen; it is then counted.
    pub fn take(&self, kind: &'static str) -> bool {
        let mut inner = lock(&self.0);
        let Some(left) = inner.left.checked_sub(1) else { return false };
        inner.left = left;
        *inner.used.entry(kind).or_default() += 1;
        true
    }

    /// How many of each kind happened.
    pub fn used(&self) -> BTreeMap<&'static str, u32> {
        lock(&self.0).used.clone()
    }
}
