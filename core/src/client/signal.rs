//! Two ways for tasks of a consumer to wait for each other: a signal that remembers one ring, and a queue of work.
//!
//! Neither blocks the side that rings or pushes. The work queue is bounded by whoever fills it (the flow limits of the
//! process queues); items leave it in order.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use futures_channel::oneshot;
use futures_util::task::AtomicWaker;

use super::instance::lock;

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

/// Many producers, many workers, each item to one worker, first in first out.
#[derive(Debug)]
pub(super) struct WorkQueue<T> {
    state: Mutex<WorkState<T>>,
}

#[derive(Debug)]
struct WorkState<T> {
    items: VecDeque<T>,
    idle: VecDeque<oneshot::Sender<()>>,
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

    /// Adds an item and wakes the worker that has waited longest. Dropped after `close`.
    pub(super) fn push(&self, item: T) {
        let mut state = lock(&self.state);
        if state.is_closed {
            return;
        }
        state.items.push_back(item);
        while let Some(worker) = state.idle.pop_front() {
            if worker.send(()).is_ok() {
                return;
            }
        }
    }

    /// The next item and what `begin` makes of it, or `None` once closed. `begin` is called for one item at a time, in the
    /// order of the items, however many workers there are: it must be short.
    pub(super) async fn pop<B>(&self, mut begin: impl FnMut(&T) -> B) -> Option<(T, B)> {
        loop {
            let woken = {
                let mut state = lock(&self.state);
                if state.is_closed {
                    return None;
                }
                if let Some(item) = state.items.pop_front() {
                    let begun = begin(&item);
                    return Some((item, begun));
                }
                let (sender, receiver) = oneshot::channel();
                state.idle.push_back(sender);
                receiver
            };
            let _ = woken.await;
        }
    }

    /// Drops what is queued and lets every worker end after what it has in hand.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.is_closed = true;
        state.items.clear();
        state.idle.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn pop(queue: &WorkQueue<i32>) -> impl Future<Output = Option<i32>> + '_ {
        queue.pop(|_| ()).map(|popped| popped.map(|(item, ())| item))
    }

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
    fn work_goes_to_one_worker_each_and_begins_in_order() {
        let queue = WorkQueue::new();
        let mut waiting = Box::pin(pop(&queue));
        assert!(waiting.as_mut().now_or_never().is_none());
        queue.push(1);
        queue.push(2);
        // Whoever comes first gets the first item, even if another was woken for it.
        assert_eq!(pop(&queue).now_or_never(), Some(Some(1)));
        assert_eq!(waiting.now_or_never(), Some(Some(2)));
    }

    #[test]
    fn a_worker_that_left_is_not_waited_for() {
        let queue = WorkQueue::new();
        let mut gone = Box::pin(pop(&queue));
        assert!(gone.as_mut().now_or_never().is_none());
        let mut waiting = Box::pin(pop(&queue));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(gone);
        queue.push(1);
        assert_eq!(waiting.now_or_never(), Some(Some(1)));
    }

    #[test]
    fn closing_ends_waiting_and_later_workers() {
        let queue = WorkQueue::new();
        let mut waiting = Box::pin(pop(&queue));
        assert!(waiting.as_mut().now_or_never().is_none());
        queue.close();
        assert_eq!(waiting.now_or_never(), Some(None));
        queue.push(1);
        assert_eq!(pop(&queue).now_or_never(), Some(None));
    }
}
