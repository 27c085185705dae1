//! One byte budget for everything that is fetched: whatever holds memory holds a [`Charge`], and dropping it gives the
//! bytes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: AtomicUsize,
    /// The largest decompressed batch of late: room is left for one.
    largest_body: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0), largest_body: AtomicUsize::new(0) })
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// What fetching may use: the limit without the room for decompression.
    pub(super) fn for_fetching(&self) -> usize {
        let largest = self.largest_body.load(Ordering::Relaxed);
        self.limit - largest.min(self.limit / 2)
    }

    /// Forgets large bodies bit by bit.
    pub(super) fn decay(&self) {
        let largest = self.largest_body.load(Ordering::Relaxed);
        self.largest_body.store(largest - largest.div_ceil(64).min(largest), Ordering::Relaxed);
    }

    /// A batch is being decompressed into so many bytes.
    pub(crate) fn decompressed(self: &Arc<Self>, bytes: usize) -> Charge {
        self.largest_body.fetch_max(bytes, Ordering::Relaxed);
        self.charge(bytes)
    }

    pub(super) fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.used.fetch_add(bytes, Ordering::AcqRel);
        Charge(Arc::new(Held { bytes, budget: Arc::clone(self) }))
    }
}

/// Bytes taken from the budget. Slices of one frame share its charge, because any of them keeps all of it in memory.
#[derive(Debug, Clone)]
pub(crate) struct Charge(Arc<Held>);

#[derive(Debug)]
struct Held {
    bytes: usize,
    budget: Arc<Budget>,
}

impl Charge {
    pub(super) fn bytes(&self) -> usize {
        self.0.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}
