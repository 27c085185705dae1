//! One byte budget for everything that is fetched: whatever holds memory holds a [`Charge`], and dropping it gives the
//! bytes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: AtomicUsize,
    /// Of that, what batches are decompressed into now.
    bodies: AtomicUsize,
    /// The most that this was of late: so much room is left.
    most_bodies: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let [used, bodies, most_bodies] = std::array::from_fn(|_| AtomicUsize::new(0));
        Arc::new(Self { limit, used, bodies, most_bodies })
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// What fetching may use: the limit without the room for decompression.
    pub(super) fn for_fetching(&self) -> usize {
        let most = self.most_bodies.load(Ordering::Relaxed);
        self.limit - most.min(self.limit / 2)
    }

    /// Forgets large bodies bit by bit.
    pub(super) fn decay(&self) {
        let most = self.most_bodies.load(Ordering::Relaxed);
        self.most_bodies.store(most - most.div_ceil(64).min(most), Ordering::Relaxed);
    }

    /// A batch is being decompressed into so many bytes.
    pub(crate) fn decompressed(self: &Arc<Self>, bytes: usize) -> Charge {
        let bodies = self.bodies.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.most_bodies.fetch_max(bodies, Ordering::Relaxed);
        self.take(bytes, true)
    }

    pub(super) fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.take(bytes, false)
    }

    fn take(self: &Arc<Self>, bytes: usize, is_body: bool) -> Charge {
        self.used.fetch_add(bytes, Ordering::AcqRel);
        Charge(Arc::new(Held { bytes: AtomicUsize::new(bytes), is_body, budget: Arc::clone(self) }))
    }
}

/// Bytes taken from the budget. Slices of one frame share its charge, because any of them keeps all of it in memory.
#[derive(Debug, Clone)]
pub(crate) struct Charge(Arc<Held>);

#[derive(Debug)]
struct Held {
    bytes: AtomicUsize,
    is_body: bool,
    budget: Arc<Budget>,
}

impl Charge {
    pub(super) fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Takes more, until the same moment.
    pub(super) fn add(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.0.budget.used.fetch_add(bytes, Ordering::AcqRel);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = *self.bytes.get_mut();
        self.budget.used.fetch_sub(bytes, Ordering::AcqRel);
        if self.is_body {
            self.budget.bodies.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}
