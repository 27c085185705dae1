//! How much smaller a topic's records become (KIP-126), so that a batch is filled until it is `batch.size` on the wire.

use std::sync::atomic::{AtomicU32, Ordering};

/// Up at once, down slowly: an optimistic estimate makes batches that are too large, a pessimistic one only smaller
/// ones (`CompressionRatioEstimator`).
const UP: f32 = 0.05;
const DOWN: f32 = 0.005;

/// Below this an estimate says more about the last records than about the next.
const LEAST: f32 = 0.05;

/// The estimated ratio of compressed to uncompressed size, of one topic and the producer's codec.
#[derive(Debug)]
pub(super) struct Ratio(AtomicU32);

impl Ratio {
    pub(super) fn new() -> Self {
        Self(AtomicU32::new(1.0f32.to_bits()))
    }

    pub(super) fn get(&self) -> f32 {
        f32::from_bits(self.0.load(Ordering::Relaxed))
    }

    /// A batch of `raw` bytes became `compressed` bytes.
    pub(super) fn observe(&self, raw: usize, compressed: usize) {
        if raw == 0 {
            return;
        }
        let (seen, known) = (compressed as f32 / raw as f32, self.get());
        let next = if seen > known { seen.max(known + UP) } else { seen.max(known - DOWN) };
        self.set(next.max(LEAST));
    }

    /// A batch was too large for the broker: the estimate cannot be trusted.
    pub(super) fn reset(&self) {
        self.set(1.0);
    }

    /// How many bytes before compression make `batch_size` after it, but no more than `limit`.
    pub(super) fn stretch(&self, batch_size: usize, limit: usize) -> usize {
        let ratio = self.get();
        if ratio >= 1.0 {
            batch_size
        } else {
            ((batch_size as f32 / ratio) as usize).clamp(batch_size, limit.max(batch_size))
        }
    }

    fn set(&self, ratio: f32) {
        self.0.store(ratio.to_bits(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_falls_slowly_and_rises_at_once() {
        let ratio = Ratio::new();
        for _ in 0..100 {
            ratio.observe(1000, 200);
        }
        assert!((ratio.get() - 0.5).abs() < 0.01, "{}", ratio.get());
        ratio.observe(1000, 900);
        assert!((ratio.get() - 0.9).abs() < 0.01, "{}", ratio.get());
    }

    #[test]
    fn batches_are_filled_beyond_batch_size_when_they_shrink_and_never_beyond_a_request() {
        let ratio = Ratio::new();
        assert_eq!(ratio.stretch(1000, 50_000), 1000);
        (0..1000).for_each(|_| ratio.observe(1000, 250));
        assert_eq!(ratio.stretch(1000, 50_000), 4000);
        assert_eq!(ratio.stretch(1000, 3000), 3000);
        ratio.reset();
        assert_eq!(ratio.stretch(1000, 50_000), 1000);
    }
}
