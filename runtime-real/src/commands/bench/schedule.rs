//! When requests are meant to be sent, at a fixed rate. A latency counted from here includes the time a request waited because
//! earlier ones were slow: what "coordinated omission" leaves out.

use std::time::{Duration, Instant};

/// The intended times of one connection. They depend on start and rate alone, never on replies.
pub(super) struct Schedule {
    start: Instant,
    interval_ns: f64,
    taken: u64,
}

impl Schedule {
    /// Connection `index` of `count` that share `rate` requests a second: they take turns.
    pub(super) fn new(rate: f64, index: usize, count: usize, start: Instant) -> Schedule {
        let mut schedule = Schedule {
            start,
            interval_ns: 1e9 * count as f64 / rate,
            taken: 0,
        };
        schedule.start += Duration::from_nanos((1e9 * index as f64 / rate) as u64);
        schedule
    }

    /// The next intended time.
    pub(super) fn next(&self) -> Instant {
        self.start + Duration::from_nanos((self.taken as f64 * self.interval_ns) as u64)
    }

    /// Takes the next intended time if it has come.
    pub(super) fn take(&mut self, now: Instant) -> Option<Instant> {
        let next = self.next();
        (next <= now).then(|| {
            self.taken += 1;
            next
        })
    }

    /// Forgets what is overdue: the measured part begins without the debt of the warm-up.
    pub(super) fn restart(&mut self, now: Instant) {
        while self.next() < now {
            let behind = now.duration_since(self.next()).as_nanos() as f64 / self.interval_ns;
            self.taken += (behind as u64).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intended_times_do_not_drift_and_connections_take_turns() {
        let start = Instant::now();
        let at = |schedule: &Schedule| schedule.next().duration_since(start).as_nanos();
        let mut second = Schedule::new(3000.0, 1, 2, start);
        assert_eq!(at(&second), 333_333);
        for _ in 0..1_500_000 {
            assert!(second.take(start + Duration::from_secs(3600)).is_some());
        }
        assert_eq!(
            at(&second) / 1000,
            1_000_000_333,
            "1.5 M at 1,500 a second take 1,000 s"
        );
    }

    #[test]
    fn a_stall_makes_every_time_within_it_overdue() {
        let start = Instant::now();
        let mut schedule = Schedule::new(1000.0, 0, 1, start);
        assert_eq!(schedule.take(start), Some(start));
        assert_eq!(schedule.take(start), None);
        let later = start + Duration::from_micros(10_500);
        let mut overdue = Vec::new();
        while let Some(intended) = schedule.take(later) {
            overdue.push(later.duration_since(intended).as_micros());
        }
        assert_eq!(overdue, [9500, 8500, 7500, 6500, 5500, 4500, 3500, 2500, 1500, 500]);
    }

    #[test]
    fn a_restart_keeps_the_grid_and_drops_the_debt() {
        let start = Instant::now();
        let mut schedule = Schedule::new(1000.0, 0, 1, start);
        let later = start + Duration::from_micros(10_500);
        schedule.restart(later);
        assert_eq!(schedule.next(), start + Duration::from_millis(11));
        schedule.restart(later);
        assert_eq!(schedule.take(later), None);
    }
}
