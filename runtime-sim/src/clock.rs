//! A node's two clocks. Both drift at the node's rate; the wall clock can also step. All arithmetic is integer.

use orrery_core::runtime::{Mono, WallMillis};

/// True time zero as wall-clock time: 2026-01-01T00:00:00Z.
pub(crate) const WALL_ORIGIN_MS: i64 = 1_767_225_600_000;

const BILLION: u128 = 1_000_000_000;

pub(crate) struct Clock {
    /// True time of the last change of rate, and what the clock showed then.
    origin_true_ns: u64,
    origin_ns: u64,
    /// Gained nanoseconds per true second.
    drift_ppb: i64,
    /// What the monotonic clock shows beyond the elapsed time above; changes at a reboot.
    mono_offset_ns: i64,
    wall_offset_ns: i64,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock {
            origin_true_ns: 0,
            origin_ns: 0,
            drift_ppb: 0,
            mono_offset_ns: 0,
            wall_offset_ns: 0,
        }
    }

    pub(crate) fn mono(&self, true_ns: u64) -> Mono {
        Mono(self.elapsed_ns(true_ns).saturating_add_signed(self.mono_offset_ns))
    }

    pub(crate) fn wall(&self, true_ns: u64) -> WallMillis {
        let ns = self.elapsed_ns(true_ns) as i128 + i128::from(self.wall_offset_ns);
        WallMillis(WALL_ORIGIN_MS + ns.div_euclid(1_000_000) as i64)
    }

    /// The first true time at which the monotonic clock shows at least `mono`.
    pub(crate) fn true_time_of(&self, mono: Mono) -> u64 {
        let elapsed = mono.0.saturating_add_signed(self.mono_offset_ns.saturating_neg());
        let ahead = u128::from(elapsed.saturating_sub(self.origin_ns));
        let true_ns = (ahead * BILLION).div_ceil(self.rate());
        self.origin_true_ns
            .saturating_add(u64::try_from(true_ns).unwrap_or(u64::MAX))
    }

    /// Runs fast (positive) or slow from now on, by parts per billion. Limited to ±50 %.
    pub(crate) fn set_drift(&mut self, true_ns: u64, drift_ppb: i64) {
        self.origin_ns = self.elapsed_ns(true_ns);
        self.origin_true_ns = self.origin_true_ns.max(true_ns);
        self.drift_ppb = drift_ppb.clamp(-500_000_000, 500_000_000);
    }

    pub(crate) fn step_wall(&mut self, by_ms: i64) {
        self.wall_offset_ns = self.wall_offset_ns.saturating_add(by_ms.saturating_mul(1_000_000));
    }

    /// After a reboot the monotonic clock starts again, near zero.
    pub(crate) fn reboot(&mut self, true_ns: u64, shows_ns: u64) {
        self.mono_offset_ns = (shows_ns as i64).saturating_sub(self.elapsed_ns(true_ns) as i64);
    }

    fn elapsed_ns(&self, true_ns: u64) -> u64 {
        let since = u128::from(true_ns.saturating_sub(self.origin_true_ns));
        self.origin_ns + u64::try_from(since * self.rate() / BILLION).unwrap_or(u64::MAX / 2)
    }

    fn rate(&self) -> u128 {
        (BILLION as i128 + i128::from(self.drift_ppb)) as u128
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drifting_clock_never_goes_back_and_inverts_exactly() {
        let mut clock = Clock::new();
        let mut shown = Mono(0);
        for step in 1..2000u64 {
            let now = step * 7_777_777;
            if step % 100 == 0 {
                clock.set_drift(now, (step as i64 % 7 - 3) * 100_000_000);
            }
            assert!(clock.mono(now) >= shown);
            shown = clock.mono(now);
            let target = Mono(shown.0 + 12_345_678);
            let at = clock.true_time_of(target);
            assert!(clock.mono(at) >= target);
            assert!(clock.mono(at - 2) < target);
        }
    }

    #[test]
    fn wall_and_monotonic_time_are_skewed_apart() {
        let mut clock = Clock::new();
        clock.step_wall(-5_000);
        assert_eq!(clock.mono(3_000_000_000), Mono(3_000_000_000));
        assert_eq!(clock.wall(3_000_000_000).0, WALL_ORIGIN_MS - 2_000);
        clock.reboot(3_000_000_000, 42);
        assert_eq!(clock.mono(3_000_000_001), Mono(43));
        assert_eq!(clock.wall(3_000_000_000).0, WALL_ORIGIN_MS - 2_000);
    }
}
