//! Deterministic wake-ups: whoever waits first is woken first. Channels come from `futures-channel`.
//!
//! Not a scheduler and not a lock: values change under a short mutex, wakers run after it is released. Nothing here reads
//! time; combine with [`Runtime::timeout`](crate::runtime::Runtime::timeout).

mod notify;
mod progress;
mod watch;

pub use notify::{Notified, Notify};
pub use progress::{Progress, Reached};
pub use watch::{Watch, Watched};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks whether or not a holder has panicked: our critical sections leave no half-done state worth refusing.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Poll, Wake, Waker};

    use super::lock;

    /// Remembers who was woken, in order.
    #[derive(Default)]
    pub(super) struct Recorder {
        woken: Mutex<Vec<usize>>,
    }

    impl Recorder {
        pub(super) fn woken(&self) -> Vec<usize> {
            lock(&self.woken).clone()
        }
    }

    struct Named {
        name: usize,
        recorder: Arc<Recorder>,
    }

    impl Wake for Named {
        fn wake(self: Arc<Self>) {
            lock(&self.recorder.woken).push(self.name);
        }
    }

    pub(super) fn poll<F: Future>(future: &mut Pin<Box<F>>, recorder: &Arc<Recorder>, name: usize) -> Poll<F::Output> {
        let waker = Waker::from(Arc::new(Named {
            name,
            recorder: Arc::clone(recorder),
        }));
        future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}
