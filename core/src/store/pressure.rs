//! When appends are refused because the disk cannot follow, and how often that was: RocketMQ's codes with the cause said.
//!
//! | cause | limit | RocketMQ's answer |
//! |---|---|---|
//! | a group write under way for too long | `osPageCacheBusyTimeOutMills` | SYSTEM_BUSY, `[PCBUSY_CLEAN_QUEUE]` |
//! | too many bytes appended and not written | [`StoreConfig::pending_bytes_max`](super::StoreConfig::pending_bytes_max) | SYSTEM_BUSY |
//! | too much of the disk in use | `diskSpaceWarningLevelRatio` | SERVICE_NOT_AVAILABLE |
//! | too little of the disk free | `diskSpaceFreeBytesMin` (ours) | SERVICE_NOT_AVAILABLE |
//! | the next log file cannot be made | – | SYSTEM_ERROR, `create mapped file failed` |
//! | a write or sync of the log has failed | – | SERVICE_NOT_AVAILABLE until the broker is started again |
//!
//! Nothing here waits or touches a disk. Sources: `store/DefaultMessageStore.java` `isOSPageCacheBusy`,
//! `broker/latency/BrokerFastFailure.java`, `broker/processor/SendMessageProcessor.java` `handlePutMessageResult`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{AppendError, StoreConfig, StoreError};
use crate::runtime::{Mono, Space};

/// Since when somebody writes a group; whoever appends meanwhile looks at it without waiting.
#[derive(Debug, Default)]
pub(super) struct WriteClock {
    /// Nanoseconds of the runtime's clock plus one; 0 while nobody writes.
    since: AtomicU64,
}

impl WriteClock {
    pub(super) fn start(&self, now: Mono) {
        self.since.store(now.0.saturating_add(1), Ordering::Relaxed);
    }

    pub(super) fn stop(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// How long the write under way has taken so far; `now` is asked for only if there is one.
    pub(super) fn elapsed(&self, now: impl FnOnce() -> Mono) -> Option<Duration> {
        match self.since.load(Ordering::Relaxed) {
            0 => None,
            since => Some(now().since(Mono(since - 1))),
        }
    }
}

/// What was measured of the disk under the log.
#[derive(Debug)]
pub(super) struct DiskGauge {
    used_percent: AtomicU64,
    free_bytes: AtomicU64,
}

impl DiskGauge {
    /// Before the first look nothing is refused.
    pub(super) fn new() -> DiskGauge {
        DiskGauge {
            used_percent: AtomicU64::new(0),
            free_bytes: AtomicU64::new(u64::MAX),
        }
    }

    /// Notes a look at the disk. Gives the percentage in use.
    pub(super) fn note(&self, space: Space) -> u64 {
        let used = space.total_bytes.saturating_sub(space.available_bytes);
        let percent = used.saturating_mul(100).checked_div(space.total_bytes).unwrap_or(0);
        self.used_percent.store(percent, Ordering::Relaxed);
        if space.total_bytes > 0 {
            self.free_bytes.store(space.available_bytes, Ordering::Relaxed);
        }
        percent
    }

    pub(super) fn used_percent(&self) -> u64 {
        self.used_percent.load(Ordering::Relaxed)
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn check(&self, config: &StoreConfig) -> Result<(), AppendError> {
        let used_percent = self.used_percent();
        let limit_percent = config.disk_used_percent_full;
        if used_percent > limit_percent {
            return Err(AppendError::DiskFull {
                used_percent,
                limit_percent,
            });
        }
        let free_bytes = self.free_bytes();
        let limit_bytes = config.disk_free_bytes_min;
        if free_bytes < limit_bytes {
            return Err(AppendError::DiskSpaceLow {
                free_bytes,
                limit_bytes,
            });
        }
        Ok(())
    }
}

/// Appends refused since the start, by cause. What the sender did wrong is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefusalCounts {
    pub page_cache_busy: u64,
    pub pending_bytes: u64,
    pub disk_full: u64,
    pub disk_space_low: u64,
    pub no_file: u64,
    pub poisoned: u64,
}

impl RefusalCounts {
    pub(super) fn count(&mut self, error: &AppendError) {
        let counter = match error {
            AppendError::PageCacheBusy { .. } => &mut self.page_cache_busy,
            AppendError::Busy { .. } => &mut self.pending_bytes,
            AppendError::DiskFull { .. } => &mut self.disk_full,
            AppendError::DiskSpaceLow { .. } => &mut self.disk_space_low,
            AppendError::NoFile(_) => &mut self.no_file,
            AppendError::Store(StoreError::Poisoned(_)) => &mut self.poisoned,
            _ => return,
        };
        *counter += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_timed_from_its_start_to_its_end() {
        let clock = WriteClock::default();
        assert_eq!(clock.elapsed(|| unreachable!("nobody writes")), None);
        clock.start(Mono(0));
        assert_eq!(clock.elapsed(|| Mono(2_000_000)), Some(Duration::from_millis(2)));
        clock.stop();
        assert_eq!(clock.elapsed(|| unreachable!("nobody writes")), None);
    }

    #[test]
    fn a_disk_is_full_by_share_or_by_what_is_left() {
        let mut config = StoreConfig::new("store");
        let gauge = DiskGauge::new();
        let space = |total_bytes, available_bytes| Space {
            total_bytes,
            available_bytes,
        };
        config.disk_free_bytes_min = 50;
        assert!(gauge.check(&config).is_ok(), "not measured yet");
        assert_eq!(gauge.note(space(0, 0)), 0);
        assert!(gauge.check(&config).is_ok(), "a disk of no size says nothing");
        assert_eq!(gauge.note(space(1000, 100)), 90);
        assert!(gauge.check(&config).is_ok(), "the limits themselves are allowed");
        assert_eq!(gauge.note(space(1000, 90)), 91);
        let error = gauge.check(&config).unwrap_err();
        assert!(
            matches!(error, AppendError::DiskFull { used_percent: 91, .. }),
            "{error}"
        );
        gauge.note(space(400, 49));
        config.disk_used_percent_full = 99;
        let error = gauge.check(&config).unwrap_err();
        assert!(
            matches!(error, AppendError::DiskSpaceLow { free_bytes: 49, .. }),
            "{error}"
        );
    }

    #[test]
    fn refusals_are_counted_by_their_cause() {
        let mut counters = RefusalCounts::default();
        counters.count(&AppendError::PageCacheBusy {
            busy_ms: 2000,
            limit_ms: 1000,
        });
        counters.count(&AppendError::NoFile("no space".into()));
        counters.count(&AppendError::Store(StoreError::Poisoned("x".into())));
        counters.count(&AppendError::Empty);
        let expected = RefusalCounts {
            page_cache_busy: 1,
            no_file: 1,
            poisoned: 1,
            ..RefusalCounts::default()
        };
        assert_eq!(counters, expected);
    }
}
