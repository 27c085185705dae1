//! How long to wait before trying again: exponential with jitter (KIP-144, KIP-580).

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Delays that double from `initial` to `max`, each spread by 20 % either way so that clients do not return in step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Backoff {
    initial: Duration,
    max: Duration,
}

/// Kafka's `CommonClientConfigs.RETRY_BACKOFF_JITTER`.
const JITTER: f64 = 0.2;
/// Doublings beyond this exceed every maximum a caller could mean.
const MAX_DOUBLINGS: u32 = 30;

impl Backoff {
    /// A back-off from `initial` to `max`; `initial` is lowered to `max` where it is above.
    pub(crate) fn new(initial: Duration, max: Duration) -> Self {
        Self { initial: initial.min(max), max }
    }

    /// The delay after `failures` failures in a row (1 for the first), with jitter from `unit` in `0.0..1.0`.
    pub(crate) fn delay(&self, failures: u32, unit: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(MAX_DOUBLINGS);
        let plain = self.initial.saturating_mul(1 << doublings).min(self.max);
        plain.mul_f64(1.0 - JITTER + 2.0 * JITTER * unit.clamp(0.0, 1.0))
    }

    /// [`delay`](Self::delay) with random jitter, for shells.
    pub(crate) fn random_delay(&self, failures: u32) -> Duration {
        self.delay(failures, random_unit())
    }
}

/// A number in `0.0..1.0`, good enough to spread clients and to pick a broker; not for secrets.
pub(crate) fn random_unit() -> f64 {
    // 53 bits are what an f64 holds exactly.
    (random_u64() >> 11) as f64 / (1u64 << 53) as f64
}

thread_local! {
    static SEEDED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Makes every random choice of clients on this thread (jitter, the broker to ask, the sticky partition) follow from
/// `seed` from now on. On one thread and a paused clock a run of a client then always takes the same course.
pub fn seed_randomness(seed: u64) {
    SEEDED.set(Some(seed));
}

/// A random number without a dependency: each `RandomState` hashes with keys of its own.
pub(crate) fn random_u64() -> u64 {
    let Some(state) = SEEDED.get() else {
        return RandomState::new().build_hasher().finish();
    };
    // SplitMix64 (Steele, Lea and Flood, 2014).
    let state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    SEEDED.set(Some(state));
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let plain: Vec<_> = (1..=6).map(|n| backoff.delay(n, 0.5).as_millis()).collect();
        assert_eq!(plain, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.delay(u32::MAX, 0.5), Duration::from_secs(1));
    }

    #[test]
    fn jitter_stays_within_a_fifth() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        assert_eq!(backoff.delay(1, 0.0), Duration::from_millis(80));
        assert_eq!(backoff.delay(1, 1.0), Duration::from_millis(120));
        for _ in 0..100 {
            assert!((0.0..1.0).contains(&random_unit()));
        }
    }

    #[test]
    fn a_seed_decides_what_is_random() {
        let draw = || [random_u64(), random_u64(), random_u64()];
        seed_randomness(7);
        let first = draw();
        seed_randomness(7);
        assert_eq!(draw(), first);
        seed_randomness(8);
        assert_ne!(draw(), first);
        SEEDED.set(None);
    }
}
