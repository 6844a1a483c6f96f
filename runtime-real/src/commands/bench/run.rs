//! The course of a run: warm-up, the part that counts, the end.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use orrery_core::runtime::Runtime;
use orrery_runtime_real::Real;
use tokio::sync::Notify;

use super::Shared;
use super::counters::Counters;
use super::report::{Counts, Part, Usage, Used};

/// How long replies may take after the last request.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(6);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Warmup,
    Measured,
    Ending,
}

/// What the tasks of a run share.
pub(super) struct Run {
    phase: AtomicU8,
    /// Messages that may still be asked for in the measured phase.
    budget: AtomicU64,
    counts: Mutex<Counts>,
    ending: Notify,
}

impl Run {
    /// Without a warm-up the first message counts. A quantity of 0: no end in messages.
    pub(super) fn new(shared: &Shared) -> Run {
        let first = if shared.warmup().is_zero() {
            Phase::Measured
        } else {
            Phase::Warmup
        };
        Run {
            phase: AtomicU8::new(first as u8),
            budget: AtomicU64::new(if shared.quantity == 0 {
                u64::MAX
            } else {
                shared.quantity
            }),
            counts: Mutex::new(Counts::new()),
            ending: Notify::new(),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Warmup,
            1 => Phase::Measured,
            _ => Phase::Ending,
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        if phase == Phase::Ending {
            self.ending.notify_waiters();
        }
    }

    /// Runs `work` until it is done or the run ends, whichever comes first; `None` for the latter.
    pub(super) async fn until_ending<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let ending = self.ending.notified();
        if self.phase() == Phase::Ending {
            return None;
        }
        tokio::select! {
            biased;
            done = work => Some(done),
            () = ending => None,
        }
    }

    /// Takes up to `wanted` messages from what may still be asked for.
    pub(super) fn take(&self, wanted: u64) -> u64 {
        let left = self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            Some(left.saturating_sub(wanted))
        });
        left.map_or(0, |left| left.min(wanted))
    }

    /// Nothing more may be asked for.
    pub(super) fn is_spent(&self) -> bool {
        self.budget.load(Ordering::Relaxed) == 0
    }

    /// Ends the run for every task that waits.
    pub(super) fn end(&self) {
        self.enter(Phase::Ending);
    }

    /// Counts `part`, if anything counts yet, and clears it.
    pub(super) fn add(&self, part: &mut Part) {
        if self.phase() == Phase::Warmup {
            part.clear();
        } else {
            self.counts().add(part);
        }
    }

    /// The counts of a run that is over.
    pub(super) fn take_counts(&self) -> Counts {
        std::mem::replace(&mut *self.counts(), Counts::new())
    }

    pub(super) fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leads the work through the phases until `joined` says that it is done, or its time is over. Calls `report` with the length of the last window every interval.
pub(super) async fn conduct(
    run: &Run,
    shared: &Shared,
    real: &Real,
    brokers: &[SocketAddr],
    joined: impl Future<Output = ()> + Send,
    mut report: impl FnMut(&Counts, Duration),
) -> Used {
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut stopped = false;
    if !shared.warmup().is_zero() {
        tokio::select! {
            _ = &mut interrupted => stopped = true,
            () = real.sleep(shared.warmup()) => {}
        }
    }
    // Asked before anything counts: the question costs a connection.
    let server = Counters::ask(real, brokers).await;
    if run.phase() == Phase::Warmup {
        run.enter(Phase::Measured);
    }
    let usage = Usage::start(&shared.broker_pids, server);
    let started = Instant::now();
    let interval = Duration::from_millis(shared.report_interval);
    let mut reported = started;
    {
        tokio::pin!(joined);
        while !stopped {
            let left = shared
                .measured()
                .map_or(Duration::MAX, |all| all.saturating_sub(started.elapsed()));
            let window = interval.saturating_sub(reported.elapsed());
            tokio::select! {
                _ = &mut interrupted => stopped = true,
                () = &mut joined => break,
                () = real.sleep(window.min(left)) => {
                    if left <= window {
                        stopped = true;
                    } else {
                        report(&run.counts(), reported.elapsed());
                        reported = Instant::now();
                    }
                }
            }
        }
        run.enter(Phase::Ending);
        if stopped && real.timeout(DRAIN_TIMEOUT, joined).await.is_err() {
            log::warn!("some requests were not answered within {} s", DRAIN_TIMEOUT.as_secs());
        }
    }
    let mut used = usage.end();
    usage.add_server(&mut used, Counters::ask(real, brokers).await);
    used
}
