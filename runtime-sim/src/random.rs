//! Keyed randomness: a decision depends on the seed and on what it decides about, never on how many decisions came
//! before it. Removing one fault or message from a run does not re-roll the others.

use std::time::Duration;

/// A random value named by a path of words, for example `(seed, "latency", from, to, connection, sequence)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64, purpose: &str) -> Draw {
        purpose.bytes().fold(Draw(seed ^ 0x6f72_7265_7279_2031), |draw, byte| {
            draw.with(u64::from(byte))
        })
    }

    /// The draw for one more word of identity.
    #[must_use]
    pub fn with(self, word: u64) -> Draw {
        Draw(mix(self.0.rotate_left(23) ^ word.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// 64 uniform bits.
    pub fn bits(self) -> u64 {
        mix(self.0 ^ 0xd1b5_4a32_d192_ed03)
    }

    /// Uniform in `0..bound`; 0 for an empty range.
    pub fn below(self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    pub fn happens(self, probability: f64) -> bool {
        probability > 0.0 && ((self.bits() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    /// Uniform in `low..=high`.
    pub fn between(self, low: Duration, high: Duration) -> Duration {
        let (low, high) = (low.as_nanos() as u64, high.as_nanos() as u64);
        Duration::from_nanos(low + self.below(high.saturating_sub(low) + 1))
    }
}

/// The finaliser of SplitMix64.
fn mix(mut word: u64) -> u64 {
    word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_uniform_enough_and_depend_on_every_word() {
        let hits = (0..10_000).filter(|&n| Draw::new(1, "x").with(n).happens(0.25)).count();
        assert!((2300..2700).contains(&hits), "{hits}");
        let base = Draw::new(1, "x").with(3);
        assert_ne!(base, Draw::new(2, "x").with(3));
        assert_ne!(base, Draw::new(1, "y").with(3));
        assert_ne!(base, Draw::new(1, "x").with(4));
        assert_ne!(base.with(1).with(2), base.with(2).with(1));
        assert!((0..1000).all(|n| base.with(n).below(7) < 7));
    }
}
