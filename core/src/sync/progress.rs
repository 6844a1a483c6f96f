//! A position that only grows, and those who wait for it: flush waits, replica waits.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use super::lock;

/// Starts at a position, advances, or fails for good. Waiters are woken in the order of what they wait for, then of arrival.
#[derive(Debug)]
pub struct Progress<E> {
    state: Mutex<State<E>>,
}

#[derive(Debug)]
struct State<E> {
    position: u64,
    failure: Option<E>,
    next_ticket: u64,
    waiters: BTreeMap<(u64, u64), Waker>,
}

impl<E: Clone> Progress<E> {
    pub fn new(position: u64) -> Progress<E> {
        Progress {
            state: Mutex::new(State {
                position,
                failure: None,
                next_ticket: 0,
                waiters: BTreeMap::new(),
            }),
        }
    }

    pub fn position(&self) -> u64 {
        lock(&self.state).position
    }

    /// Number of futures that wait.
    pub fn waiting(&self) -> usize {
        lock(&self.state).waiters.len()
    }

    /// Moves on and wakes whoever waited for `position` or less. Ignored if not ahead, or after a failure.
    pub fn advance(&self, position: u64) {
        let woken = {
            let mut state = lock(&self.state);
            if state.failure.is_some() || position <= state.position {
                return;
            }
            state.position = position;
            let later = state.waiters.split_off(&(position + 1, 0));
            std::mem::replace(&mut state.waiters, later)
        };
        for waker in woken.into_values() {
            waker.wake();
        }
    }

    /// From now on every wait for more than the position reached fails with this (the first) error.
    pub fn fail(&self, error: E) {
        let woken = {
            let mut state = lock(&self.state);
            state.failure.get_or_insert(error);
            std::mem::take(&mut state.waiters)
        };
        for waker in woken.into_values() {
            waker.wake();
        }
    }

    /// The error it has failed with.
    pub fn failure(&self) -> Option<E> {
        lock(&self.state).failure.clone()
    }

    /// Waits until the position is at least `wanted`.
    pub fn reached(&self, wanted: u64) -> Reached<'_, E> {
        Reached {
            progress: self,
            wanted,
            ticket: None,
        }
    }
}

/// Future of [`Progress::reached`].
#[derive(Debug)]
pub struct Reached<'a, E> {
    progress: &'a Progress<E>,
    wanted: u64,
    ticket: Option<u64>,
}

impl<E: Clone> Future for Reached<'_, E> {
    type Output = Result<(), E>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), E>> {
        let mut state = lock(&self.progress.state);
        if state.position >= self.wanted {
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = &state.failure {
            return Poll::Ready(Err(error.clone()));
        }
        let ticket = self.ticket.unwrap_or(state.next_ticket);
        state.next_ticket = state.next_ticket.max(ticket + 1);
        state.waiters.insert((self.wanted, ticket), context.waker().clone());
        drop(state);
        self.ticket = Some(ticket);
        Poll::Pending
    }
}

impl<E> Drop for Reached<'_, E> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            lock(&self.progress.state).waiters.remove(&(self.wanted, ticket));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::{Recorder, poll};
    use super::*;

    #[test]
    fn an_advance_wakes_those_it_reaches_in_order() {
        let progress: Progress<()> = Progress::new(10);
        let recorder = Arc::new(Recorder::default());
        let wanted = [30, 20, 40, 20];
        let mut waiting: Vec<_> = wanted
            .iter()
            .map(|wanted| Box::pin(progress.reached(*wanted)))
            .collect();
        for (name, future) in waiting.iter_mut().enumerate() {
            assert!(poll(future, &recorder, name).is_pending());
        }
        progress.advance(30);
        assert_eq!(recorder.woken(), [1, 3, 0]);
        assert!(poll(&mut waiting[0], &recorder, 0).is_ready());
        assert!(poll(&mut waiting[2], &recorder, 2).is_pending());
        drop(waiting);
        assert_eq!(progress.waiting(), 0);
    }

    #[test]
    fn after_a_failure_only_what_was_reached_is_granted() {
        let progress = Progress::new(10);
        let recorder = Arc::new(Recorder::default());
        let mut far = Box::pin(progress.reached(11));
        assert!(poll(&mut far, &recorder, 1).is_pending());
        progress.fail("broken");
        progress.advance(100);
        assert_eq!(recorder.woken(), [1]);
        assert_eq!(poll(&mut far, &recorder, 1), Poll::Ready(Err("broken")));
        let mut near = Box::pin(progress.reached(10));
        assert_eq!(poll(&mut near, &recorder, 2), Poll::Ready(Ok(())));
    }
}
