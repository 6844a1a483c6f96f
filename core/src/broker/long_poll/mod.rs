//! Long polling: a pull that finds nothing waits for the next message of its queue. What waits (`T`) is the protocol's.
//!
//! The store tells of each visible message on the sender's path; all that happens there is a look-up and a move to the
//! woken list. Two tasks do the rest: one answers what was woken, one lets go of what has waited long enough.

mod waiters;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::{FutureExt, select_biased};

pub(super) use self::waiters::Wanted;
use self::waiters::{Full, Waiters};
use super::state::clients::ConnectionId;
use super::state::topics::SCHEDULE_TOPIC;
use crate::runtime::Runtime;
use crate::store::Arrivals;
use crate::sync::Notify;

pub(super) struct LongPolls<T> {
    waiters: Mutex<Waiters<T>>,
    /// Count of waiters, so that an arrival with nobody waiting takes no lock.
    waiting: AtomicUsize,
    woken: Mutex<Vec<T>>,
    bell: Notify,
    timer_bell: Notify,
    /// Rung when a delayed message is stored.
    pub(super) schedule_bell: Notify,
}

/// What became of something that was to wait.
pub(super) enum Held<T> {
    Waits,
    /// A message came in the meantime: look again.
    Again(T),
    /// Too many wait.
    Full(T),
}

impl<T: Send> LongPolls<T> {
    pub(super) fn new(count_max: usize) -> LongPolls<T> {
        LongPolls {
            waiters: Mutex::new(Waiters::new(count_max)),
            waiting: AtomicUsize::new(0),
            woken: Mutex::new(Vec::new()),
            bell: Notify::new(),
            timer_bell: Notify::new(),
            schedule_bell: Notify::new(),
        }
    }

    /// Lets `held` wait. `end` tells the queue's end once it stands in the table: a message that came between the
    /// caller's look and now would wake nobody.
    pub(super) fn hold(&self, wanted: &Wanted<'_>, held: T, end: impl FnOnce() -> i64) -> Held<T> {
        let mut waiters = self.waiters();
        let before = waiters.next_deadline();
        let id = match waiters.hold(wanted, held) {
            Ok(id) => id,
            Err(Full(held)) => return Held::Full(held),
        };
        self.waiting.store(waiters.len(), Ordering::SeqCst);
        drop(waiters);
        if end() > wanted.offset {
            let mut waiters = self.waiters();
            let taken = waiters.take(id);
            self.waiting.store(waiters.len(), Ordering::SeqCst);
            // Gone already: an arrival has woken it, it will be answered.
            return taken.map_or(Held::Waits, Held::Again);
        }
        if before.is_none_or(|before| wanted.deadline < before) {
            self.timer_bell.notify();
        }
        Held::Waits
    }

    /// Drops what waits on behalf of a closed connection.
    pub(super) fn forget(&self, connection: ConnectionId) {
        let mut waiters = self.waiters();
        waiters.forget(connection);
        self.waiting.store(waiters.len(), Ordering::SeqCst);
    }

    /// Waits for something to be woken, by a message or by time.
    pub(super) async fn woken(&self) -> Vec<T> {
        loop {
            let woken = std::mem::take(&mut *self.woken.lock().unwrap_or_else(PoisonError::into_inner));
            if !woken.is_empty() {
                return woken;
            }
            self.bell.notified().await;
        }
    }

    /// Wakes what has waited long enough, until dropped.
    pub(super) async fn run_timer<R: Runtime>(&self, runtime: &R) {
        loop {
            let next = self.waiters().next_deadline();
            match next {
                None => self.timer_bell.notified().await,
                Some(deadline) => {
                    let wait = deadline.since(runtime.mono());
                    select_biased! {
                        () = self.timer_bell.notified().fuse() => {}
                        () = runtime.sleep(wait).fuse() => {}
                    }
                }
            }
            let mut waiters = self.waiters();
            let due = waiters.due(runtime.mono());
            self.waiting.store(waiters.len(), Ordering::SeqCst);
            drop(waiters);
            self.wake(due);
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    fn wake(&self, mut held: Vec<T>) {
        if held.is_empty() {
            return;
        }
        self.woken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .append(&mut held);
        self.bell.notify();
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters<T>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + 'static> Arrivals for LongPolls<T> {
    fn arrived(&self, topic: &str, queue_id: i32, next_offset: i64, tags_code: i64) {
        if topic == SCHEDULE_TOPIC {
            self.schedule_bell.notify();
        }
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut woken = Vec::new();
        let mut waiters = self.waiters();
        waiters.arrived(topic, queue_id, next_offset, tags_code, &mut woken);
        self.waiting.store(waiters.len(), Ordering::SeqCst);
        drop(waiters);
        self.wake(woken);
    }
}
