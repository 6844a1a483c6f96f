//! A bell: one ring wakes one waiter, or is remembered for the next one.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use super::lock;

/// Rings without a waiter are remembered once, however many.
#[derive(Debug, Default)]
pub struct Notify {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    rung: bool,
    next_ticket: u64,
    waiters: BTreeMap<u64, Waiter>,
}

#[derive(Debug)]
enum Waiter {
    Waiting(Waker),
    Rung,
}

impl Notify {
    pub fn new() -> Notify {
        Notify::default()
    }

    /// Wakes the waiter that has waited longest, or lets the next one pass at once.
    pub fn notify(&self) {
        let waker = {
            let mut state = lock(&self.state);
            let waiting = state
                .waiters
                .values_mut()
                .find(|waiter| matches!(waiter, Waiter::Waiting(_)));
            match waiting {
                Some(waiter) => std::mem::replace(waiter, Waiter::Rung),
                None => {
                    state.rung = true;
                    return;
                }
            }
        };
        if let Waiter::Waiting(waker) = waker {
            waker.wake();
        }
    }

    /// Waits for a ring.
    pub fn notified(&self) -> Notified<'_> {
        Notified {
            notify: self,
            ticket: None,
        }
    }
}

/// Future of [`Notify::notified`]. A ring given to one that is dropped goes to the next.
#[derive(Debug)]
pub struct Notified<'a> {
    notify: &'a Notify,
    ticket: Option<u64>,
}

impl Future for Notified<'_> {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let notify = self.notify;
        let mut state = lock(&notify.state);
        let Some(ticket) = self.ticket else {
            if std::mem::take(&mut state.rung) {
                return Poll::Ready(());
            }
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            state.waiters.insert(ticket, Waiter::Waiting(context.waker().clone()));
            self.ticket = Some(ticket);
            return Poll::Pending;
        };
        match state.waiters.get_mut(&ticket) {
            Some(Waiter::Waiting(waker)) => {
                waker.clone_from(context.waker());
                Poll::Pending
            }
            _ => {
                state.waiters.remove(&ticket);
                drop(state);
                self.ticket = None;
                Poll::Ready(())
            }
        }
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let removed = lock(&self.notify.state).waiters.remove(&ticket);
        if let Some(Waiter::Rung) = removed {
            self.notify.notify();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::{Recorder, poll};
    use super::*;

    #[test]
    fn a_ring_without_a_waiter_is_remembered_once() {
        let notify = Notify::new();
        notify.notify();
        notify.notify();
        let recorder = Arc::new(Recorder::default());
        let mut first = Box::pin(notify.notified());
        assert!(poll(&mut first, &recorder, 1).is_ready());
        let mut second = Box::pin(notify.notified());
        assert!(poll(&mut second, &recorder, 2).is_pending());
    }

    #[test]
    fn waiters_are_woken_in_the_order_in_which_they_came() {
        let notify = Notify::new();
        let recorder = Arc::new(Recorder::default());
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(notify.notified())).collect();
        for (name, future) in waiting.iter_mut().enumerate() {
            assert!(poll(future, &recorder, name).is_pending());
        }
        drop(waiting.remove(0));
        notify.notify();
        notify.notify();
        assert_eq!(recorder.woken(), [1, 2]);
    }

    #[test]
    fn a_ring_given_to_a_dropped_waiter_goes_to_the_next() {
        let notify = Notify::new();
        let recorder = Arc::new(Recorder::default());
        let mut first = Box::pin(notify.notified());
        let mut second = Box::pin(notify.notified());
        assert!(poll(&mut first, &recorder, 1).is_pending());
        assert!(poll(&mut second, &recorder, 2).is_pending());
        notify.notify();
        drop(first);
        assert!(poll(&mut second, &recorder, 2).is_ready());
    }
}
