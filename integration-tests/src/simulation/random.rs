//! Random numbers that follow from a seed, the same on every machine and with every release of every crate.

use std::time::Duration;

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and good enough to choose faults.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Numbers that follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A stream of its own for each purpose, so that what one purpose draws does not shift what the others get.
    pub fn stream(seed: u64, purpose: u64) -> Self {
        let mut own = Self(seed ^ purpose.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        own.next();
        Self(own.next())
    }

    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "a source that never ends is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or(0)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// `true` in that share of draws.
    pub fn chance(&mut self, share: f64) -> bool {
        // 53 bits are what an f64 holds exactly.
        ((self.next() >> 11) as f64 / (1u64 << 53) as f64) < share
    }

    /// One of several; `default` stands for an empty choice.
    pub fn pick<T: Copy>(&mut self, choice: &[T], default: T) -> T {
        choice.get(self.below(choice.len() as u64) as usize).copied().unwrap_or(default)
    }

    /// A number of whole milliseconds from `low` to `high`, both included.
    pub fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_for_ever() {
        let mut random = Random::new(42);
        assert_eq!(random.next(), 13_679_457_532_755_275_413);
        assert_ne!(Random::stream(1, 1).next(), Random::stream(1, 2).next());
    }

    #[test]
    fn numbers_stay_within_their_bounds() {
        let mut random = Random::new(1);
        for _ in 0..1000 {
            assert!((3..=5).contains(&random.between(3, 5)));
            assert!(random.below(7) < 7);
        }
        assert_eq!(random.below(0), 0);
        let hits = (0..10_000).filter(|_| random.chance(0.25)).count();
        assert!((2200..2800).contains(&hits), "{hits}");
    }
}
