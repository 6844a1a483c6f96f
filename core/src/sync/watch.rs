//! The latest value of something, and waiting for it to be as one wants. Values in between may be missed.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use super::lock;

#[derive(Debug)]
pub struct Watch<T> {
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    value: T,
    next_ticket: u64,
    waiters: BTreeMap<u64, Waker>,
}

impl<T: Clone> Watch<T> {
    pub fn new(value: T) -> Watch<T> {
        Watch {
            state: Mutex::new(State {
                value,
                next_ticket: 0,
                waiters: BTreeMap::new(),
            }),
        }
    }

    pub fn get(&self) -> T {
        lock(&self.state).value.clone()
    }

    /// Replaces the value and wakes every waiter, in order of arrival.
    pub fn set(&self, value: T) {
        let woken = {
            let mut state = lock(&self.state);
            state.value = value;
            std::mem::take(&mut state.waiters)
        };
        for waker in woken.into_values() {
            waker.wake();
        }
    }

    /// Waits until the value is as wanted, and gives it.
    pub fn until<F: Fn(&T) -> bool>(&self, wanted: F) -> Watched<'_, T, F> {
        Watched {
            watch: self,
            wanted,
            ticket: None,
        }
    }
}

/// Future of [`Watch::until`].
#[derive(Debug)]
pub struct Watched<'a, T, F> {
    watch: &'a Watch<T>,
    wanted: F,
    ticket: Option<u64>,
}

impl<T: Clone, F: Fn(&T) -> bool + Unpin> Future for Watched<'_, T, F> {
    type Output = T;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let watch = self.watch;
        let mut state = lock(&watch.state);
        if (self.wanted)(&state.value) {
            return Poll::Ready(state.value.clone());
        }
        let ticket = self.ticket.unwrap_or(state.next_ticket);
        state.next_ticket = state.next_ticket.max(ticket + 1);
        state.waiters.insert(ticket, context.waker().clone());
        self.ticket = Some(ticket);
        Poll::Pending
    }
}

impl<T, F> Drop for Watched<'_, T, F> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            lock(&self.watch.state).waiters.remove(&ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::{Recorder, poll};
    use super::*;

    #[test]
    fn a_waiter_sees_the_value_it_wants() {
        let watch = Watch::new(1);
        let recorder = Arc::new(Recorder::default());
        let mut first = Box::pin(watch.until(|value| *value >= 3));
        let mut second = Box::pin(watch.until(|value| *value >= 2));
        assert!(poll(&mut first, &recorder, 1).is_pending());
        assert!(poll(&mut second, &recorder, 2).is_pending());
        watch.set(2);
        assert_eq!(recorder.woken(), [1, 2]);
        assert!(poll(&mut first, &recorder, 1).is_pending());
        assert_eq!(poll(&mut second, &recorder, 2), Poll::Ready(2));
        watch.set(4);
        assert_eq!(poll(&mut first, &recorder, 1), Poll::Ready(4));
    }
}
