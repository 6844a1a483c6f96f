//! Making the log durable: one group in flight at a time, the next group is whatever was written meanwhile.
//!
//! Groups are synced by a task of the store, off the reactors. A sender that is alone (so were the last groups) syncs in
//! place: nobody else waits, and a thread hand-off costs 4-50 µs. No timer stands on this path.

use std::sync::atomic::Ordering;

use super::write::Written;
use super::{FlushMode, Shared, Store, StoreError};
use crate::probe::Fact;
use crate::runtime::{File, Runtime};
use crate::sync::lock;
use crate::types::PhysicalOffset;

/// Groups in a row with at most one waiter after which a waiter may sync in place.
const LONE_STREAK: u64 = 8;

/// What a timed flush looks at.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlushState {
    pub(super) dirty_bytes: u64,
    pub(super) since_last_ms: u64,
}

/// Whether a timed flush is due: with enough dirty pages, or after long enough with any.
pub(super) fn is_due(state: FlushState, least_pages: u64, thorough_ms: u64) -> bool {
    const PAGE_SIZE: u64 = 4096;
    state.dirty_bytes >= (least_pages * PAGE_SIZE).max(1)
        || (state.dirty_bytes > 0 && state.since_last_ms >= thorough_ms)
}

impl<R: Runtime> Store<R> {
    /// Waits until everything before `end` is on the device. Drop it (a time-out) and the flush goes on.
    pub async fn flushed(&self, end: PhysicalOffset) -> Result<(), StoreError> {
        let shared = &self.owner.shared;
        if shared.flushed.position() >= end.0 {
            return Ok(());
        }
        self.written(end).await?;
        if shared.may_sync_in_place() && shared.begin_flush() {
            let result = shared.flush_in_place();
            shared.end_flush();
            if shared.flushed.waiting() > 0 {
                shared.lone_flushes.store(0, Ordering::Relaxed);
            }
            // The flush task has not taken rings while we were at it.
            if lock(&shared.written).end > shared.flushed.position() {
                shared.flush_wanted.notify();
            }
            result?;
        }
        if shared.flushed.position() < end.0 {
            shared.flush_wanted.notify();
        }
        shared.flushed.reached(end.0).await
    }

    /// Asks for a flush without waiting: for sends that do not wait for the store under synchronous flush.
    pub fn flush_soon(&self) {
        self.owner.shared.flush_wanted.notify();
    }
}

impl<R: Runtime> Shared<R> {
    fn may_sync_in_place(&self) -> bool {
        self.config.sync_lone_in_place
            && self.lone_flushes.load(Ordering::Relaxed) >= LONE_STREAK
            && self.flushed.waiting() == 0
    }

    /// One group at a time: true if it is ours.
    pub(super) fn begin_flush(&self) -> bool {
        !self.flushing.swap(true, Ordering::AcqRel)
    }

    pub(super) fn end_flush(&self) {
        self.flushing.store(false, Ordering::Release);
    }

    /// Between [`begin_flush`](Shared::begin_flush) and [`end_flush`](Shared::end_flush).
    fn flush_in_place(&self) -> Result<(), StoreError> {
        let target = *lock(&self.written);
        for log_file in self.files.covering(self.flushed.position(), target.end) {
            log_file.file.sync_in_place().map_err(|error| self.poisoned(&error))?;
        }
        self.flush_done(target);
        Ok(())
    }

    /// Syncs what is written at its start, off the reactors.
    pub(super) async fn flush_group(&self) -> Result<(), StoreError> {
        let target = *lock(&self.written);
        let from = self.flushed.position();
        if target.end <= from {
            return Ok(());
        }
        if self.flushed.waiting() > 1 {
            self.lone_flushes.store(0, Ordering::Relaxed);
        } else {
            self.lone_flushes.fetch_add(1, Ordering::Relaxed);
        }
        for log_file in self.files.covering(from, target.end) {
            log_file.file.sync().await.map_err(|error| self.poisoned(&error))?;
        }
        self.flush_done(target);
        Ok(())
    }

    fn flush_done(&self, target: Written) {
        self.flush_groups.fetch_add(1, Ordering::Relaxed);
        self.runtime.announce(Fact::Flushed { upto: target.end });
        if self.config.flush_mode == FlushMode::Sync {
            // Visible before acknowledged: who reads his own write finds it.
            self.confirm(target);
        }
        self.flushed.advance(target.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timed_flush_waits_for_pages_but_not_for_ever() {
        let due = |dirty_bytes, since_last_ms| {
            let state = FlushState {
                dirty_bytes,
                since_last_ms,
            };
            is_due(state, 4, 10_000)
        };
        assert!(!due(0, 60_000));
        assert!(!due(4 * 4096 - 1, 500));
        assert!(due(4 * 4096, 500));
        assert!(due(1, 10_000));
        let state = FlushState {
            dirty_bytes: 1,
            since_last_ms: 0,
        };
        assert!(is_due(state, 0, 10_000));
    }
}
