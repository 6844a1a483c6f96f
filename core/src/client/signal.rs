//! Two ways for tasks of a consumer to wait for each other: a signal that remembers one ring, and a queue of work.
//!
//! Neither blocks the side that rings or pushes. The work queue is bounded by whoever fills it (the flow limits of the
//! process queues); it serves waiting workers in the order in which they asked.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use futures_channel::oneshot;
use futures_util::task::AtomicWaker;

/// Rings a [`Bell`]. Rings that nobody has waited for yet collapse into one.
#[derive(Clone, Debug)]
pub(super) struct Ringer(Arc<BellState>);

/// Waits for a ring; one task at a time.
#[derive(Debug)]
pub(super) struct Bell(Arc<BellState>);

#[derive(Debug, Default)]
struct BellState {
    has_rung: AtomicBool,
    waiter: AtomicWaker,
}

pub(super) fn bell() -> (Ringer, Bell) {
    let state = Arc::new(BellState::default());
    (Ringer(state.clone()), Bell(state))
}

impl Ringer {
    pub(super) fn ring(&self) {
        self.0.has_rung.store(true, Ordering::SeqCst);
        self.0.waiter.wake();
    }
}

impl Bell {
    /// Returns at once if it rang since the last wait.
    pub(super) async fn rung(&mut self) {
        let state = &self.0;
        poll_fn(|context| {
            state.waiter.register(context.waker());
            if state.has_rung.swap(false, Ordering::SeqCst) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await
    }
}

/// Many producers, many workers, each item to one worker.
#[derive(Debug)]
pub(super) struct WorkQueue<T> {
    state: Mutex<WorkState<T>>,
}

#[derive(Debug)]
struct WorkState<T> {
    items: VecDeque<T>,
    idle: VecDeque<oneshot::Sender<T>>,
    is_closed: bool,
}

impl<T> WorkQueue<T> {
    pub(super) fn new() -> WorkQueue<T> {
        WorkQueue {
            state: Mutex::new(WorkState {
                items: VecDeque::new(),
                idle: VecDeque::new(),
                is_closed: false,
            }),
        }
    }

    /// Hands `item` to the worker that has waited longest, or keeps it for the next that asks. Dropped after `close`.
    pub(super) fn push(&self, item: T) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_closed {
            return;
        }
        let mut item = item;
        while let Some(worker) = state.idle.pop_front() {
            match worker.send(item) {
                Ok(()) => return,
                Err(returned) => item = returned,
            }
        }
        state.items.push_back(item);
    }

    /// The next item, or `None` once closed.
    pub(super) async fn pop(&self) -> Option<T> {
        let receiver = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.is_closed {
                return None;
            }
            if let Some(item) = state.items.pop_front() {
                return Some(item);
            }
            let (sender, receiver) = oneshot::channel();
            state.idle.push_back(sender);
            receiver
        };
        receiver.await.ok()
    }

    /// Drops what is queued and lets every worker end after what it has in hand.
    pub(super) fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_closed = true;
        state.items.clear();
        state.idle.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn rings_collapse_and_are_remembered() {
        let (ringer, mut bell) = bell();
        assert!(bell.rung().now_or_never().is_none());
        for _ in 0..5 {
            ringer.ring();
        }
        assert!(bell.rung().now_or_never().is_some());
        assert!(bell.rung().now_or_never().is_none());
    }

    #[test]
    fn work_goes_to_one_worker_each_in_order() {
        let queue = WorkQueue::new();
        let mut first = Box::pin(queue.pop());
        assert!(first.as_mut().now_or_never().is_none());
        queue.push(1);
        queue.push(2);
        assert_eq!(queue.pop().now_or_never(), Some(Some(2)));
        assert_eq!(first.now_or_never(), Some(Some(1)));
    }

    #[test]
    fn work_of_a_worker_that_left_goes_to_the_next() {
        let queue = WorkQueue::new();
        let mut gone = Box::pin(queue.pop());
        assert!(gone.as_mut().now_or_never().is_none());
        drop(gone);
        queue.push(1);
        assert_eq!(queue.pop().now_or_never(), Some(Some(1)));
    }

    #[test]
    fn closing_ends_waiting_and_later_workers() {
        let queue = WorkQueue::<i32>::new();
        let mut waiting = Box::pin(queue.pop());
        assert!(waiting.as_mut().now_or_never().is_none());
        queue.close();
        assert_eq!(waiting.now_or_never(), Some(None));
        queue.push(1);
        assert_eq!(queue.pop().now_or_never(), Some(None));
    }
}
