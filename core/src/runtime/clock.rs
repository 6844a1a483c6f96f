//! Monotonic and wall time are different things: intervals are measured on one, stored times come from the other.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Monotonic time of one node: nanoseconds since an arbitrary origin. Comparable only on the node that read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mono(pub u64);

impl Mono {
    /// Time since `earlier`, zero if `earlier` is later.
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Mono;
    fn add(self, duration: Duration) -> Mono {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Mono(self.0.saturating_add(nanos))
    }
}

/// Wall-clock time: milliseconds since the Unix epoch, as RocketMQ stores and sends it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallMillis(pub i64);

impl WallMillis {
    /// Milliseconds from `earlier` to `self`; negative if the clock stepped back.
    pub fn millis_since(self, earlier: WallMillis) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for WallMillis {
    type Output = WallMillis;
    fn add(self, duration: Duration) -> WallMillis {
        WallMillis(
            self.0
                .saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)),
        )
    }
}

impl Sub<Duration> for WallMillis {
    type Output = WallMillis;
    fn sub(self, duration: Duration) -> WallMillis {
        WallMillis(
            self.0
                .saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)),
        )
    }
}

impl fmt::Display for WallMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}
