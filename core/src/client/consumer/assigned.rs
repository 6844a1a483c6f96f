//! One queue in the hands of this consumer, from assignment to revocation.
//!
//! Law: a delivery starts only under the state's mutex, while the queue is not revoked and, for an orderly consumer, while
//! its lock is valid on our own clock. So nothing starts after `revoke` has returned.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use crate::client::instance::lock;
use crate::client::message::MessageView;
use crate::client::observer::{RevokeReason, Session};
use crate::client::process_queue::ProcessQueue;
use crate::client::signal::Ringer;
use crate::runtime::Mono;
use crate::types::MessageQueue;

/// A queue this consumer holds.
pub(super) struct Assigned {
    pub(super) session_id: u64,
    pub(super) queue: MessageQueue,
    /// Rings when the process queue has room again.
    pub(super) room: Ringer,
    /// Orderly: rings when there is something to deliver, or the end has come.
    pub(super) work: Ringer,
    state: Mutex<State>,
}

/// What changes while it is held.
pub(super) struct State {
    pub(super) process: ProcessQueue,
    /// Orderly: fetched and not processed, in order.
    pub(super) pending: VecDeque<MessageView>,
    /// What was last sent to be committed; commits of one session do not go back.
    pub(super) committed: i64,
    /// Broker id to pull from next, as the broker suggested.
    pub(super) suggested_broker: i64,
    /// Orderly: the queue lock counts until then, on our own clock, measured from before it was asked for.
    pub(super) locked_until: Option<Mono>,
    /// Set once. Nothing is delivered and nothing fetched afterwards.
    pub(super) revoked: Option<RevokeReason>,
}

/// Where and how a queue is taken.
pub(super) struct Start {
    pub(super) session_id: u64,
    pub(super) queue: MessageQueue,
    pub(super) offset: i64,
    pub(super) locked_until: Option<Mono>,
}

impl Assigned {
    pub(super) fn new(start: Start, room: Ringer, work: Ringer) -> Assigned {
        Assigned {
            session_id: start.session_id,
            queue: start.queue,
            room,
            work,
            state: Mutex::new(State {
                process: ProcessQueue::new(start.offset),
                pending: VecDeque::new(),
                committed: start.offset,
                suggested_broker: 0,
                locked_until: start.locked_until,
                revoked: None,
            }),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn session<'a>(&'a self, client_id: &'a str, group: &'a str, is_orderly: bool) -> Session<'a> {
        Session {
            id: self.session_id,
            client_id,
            group,
            queue: &self.queue,
            is_orderly,
        }
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.state().revoked.is_some()
    }

    /// Marks offsets as processed and makes room.
    pub(super) fn processed(&self, offsets: impl IntoIterator<Item = i64>) {
        let mut state = self.state();
        for offset in offsets {
            state.process.processed(offset);
        }
        drop(state);
        self.room.ring();
    }
}

impl State {
    /// Whether a delivery may start now. An orderly queue needs its lock.
    pub(super) fn may_deliver(&self, now: Mono, is_locking: bool) -> bool {
        self.revoked.is_none() && (!is_locking || self.is_locked(now))
    }

    pub(super) fn is_locked(&self, now: Mono) -> bool {
        self.locked_until.is_some_and(|until| now < until)
    }

    /// Takes a renewal that was asked for at a time when the lock counted. False if it has lapsed meanwhile: somebody
    /// else may have had the queue, so the lock is lost even if the broker granted it again.
    pub(super) fn renew(&mut self, now: Mono, until: Mono) -> bool {
        if !self.is_locked(now) {
            return false;
        }
        self.locked_until = Some(until);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client::signal::bell;

    fn assigned(locked_until: Option<Mono>) -> Assigned {
        let start = Start {
            session_id: 1,
            queue: MessageQueue {
                topic: "T".into(),
                broker_name: "b".into(),
                queue_id: 0,
            },
            offset: 5,
            locked_until,
        };
        Assigned::new(start, bell().0, bell().0)
    }

    #[test]
    fn nothing_is_delivered_after_the_lock_has_lapsed() {
        let queue = assigned(Some(Mono(100)));
        assert!(queue.state().may_deliver(Mono(99), true));
        assert!(!queue.state().may_deliver(Mono(100), true));
        assert!(queue.state().may_deliver(Mono(100), false));
        assert!(!assigned(None).state().may_deliver(Mono(0), true));
    }

    #[test]
    fn a_renewal_that_comes_too_late_does_not_revive_the_lock() {
        let queue = assigned(Some(Mono(100)));
        assert!(queue.state().renew(Mono(99), Mono(300)));
        assert!(queue.state().is_locked(Mono(200)));
        assert!(!queue.state().renew(Mono(300), Mono(300) + Duration::from_secs(30)));
        assert!(!queue.state().is_locked(Mono(300)));
    }

    #[test]
    fn nothing_is_delivered_after_revocation() {
        let queue = assigned(None);
        queue.state().revoked = Some(RevokeReason::Rebalance);
        assert!(!queue.state().may_deliver(Mono(0), false));
        assert!(queue.is_revoked());
    }
}
