//! Threads that do nothing but wait for disks: some to sync, others to read ahead.
//!
//! They are apart from tokio's blocking pool, so that a group commit never queues behind cold reads. At most
//! [`THREAD_COUNT_MAX`] sync and [`READER_COUNT_MAX`] read; each ends when the disk handle and all its files are gone. Those that read
//! also check what they read, at a lower priority than the workers that serve requests; so does the one that begins write-outs.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Syncs of different files that run at the same time: log, consume queues, tables and one to spare. More queue up.
const THREAD_COUNT_MAX: usize = 4;

/// Reads under way at the same time, each of up to some MiB.
const READER_COUNT_MAX: usize = 2;
/// What threads are nicer than others that no request waits for: one gets about a third of what a worker gets that wants the same core.
pub(crate) const BACKGROUND_NICENESS: i32 = 5;

type Job = Box<dyn FnOnce() + Send>;

/// The owner's side. Dropping it ends the threads once the queue is empty.
pub struct SyncThreads {
    shared: Arc<Shared>,
}

impl Default for SyncThreads {
    fn default() -> Self {
        SyncThreads::of_kind(Kind {
            name: "sync",
            count_max: THREAD_COUNT_MAX,
            niceness: 0,
        })
    }
}

struct Kind {
    name: &'static str,
    count_max: usize,
    niceness: i32,
}

struct Shared {
    kind: Kind,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    idle_count: usize,
    thread_count: usize,
    closed: bool,
}

impl SyncThreads {
    /// Threads that read ahead.
    pub(crate) fn for_reading() -> SyncThreads {
        SyncThreads::of_kind(Kind {
            name: "read",
            count_max: READER_COUNT_MAX,
            niceness: BACKGROUND_NICENESS,
        })
    }

    /// A single thread that begins write-outs: calls that wait for nothing but a full queue of the device.
    pub(crate) fn for_write_out() -> SyncThreads {
        SyncThreads::of_kind(Kind {
            name: "out",
            count_max: 1,
            niceness: BACKGROUND_NICENESS,
        })
    }

    fn of_kind(kind: Kind) -> SyncThreads {
        SyncThreads {
            shared: Arc::new(Shared {
                kind,
                state: Mutex::default(),
                work: Condvar::new(),
            }),
        }
    }

    /// Runs `job` on one of the threads; the receiver completes with its result.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        self.push(Box::new(move || {
            let _ = sender.send(job());
        }));
        receiver
    }

    fn push(&self, job: Job) {
        let mut state = self.shared.lock();
        state.jobs.push_back(job);
        let short = state.jobs.len() > state.idle_count;
        if short && state.thread_count < self.shared.kind.count_max {
            let shared = Arc::clone(&self.shared);
            let name = format!("orrery-{}-{}", shared.kind.name, state.thread_count);
            match std::thread::Builder::new().name(name).spawn(move || shared.work()) {
                Ok(_) => state.thread_count += 1,
                Err(error) if state.thread_count > 0 => log::warn!("no further sync thread: {error}"),
                Err(error) => {
                    // Without any thread the job runs here: slower for others, but never lost.
                    log::error!("no sync thread: {error}");
                    let job = state.jobs.pop_back();
                    drop(state);
                    if let Some(job) = job {
                        job();
                    }
                    return;
                }
            }
        }
        drop(state);
        self.shared.work.notify_one();
    }
}

impl Drop for SyncThreads {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A job runs outside of the lock, so a poisoned state is still a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        if self.kind.niceness != 0
            && let Err(error) = rustix::process::setpriority_process(None, self.kind.niceness)
        {
            log::warn!("threads {} keep their priority: {error}", self.kind.name);
        }
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.lock();
            } else if state.closed {
                return;
            } else {
                state.idle_count += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle_count -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_run_side_by_side_and_all_of_them_run() {
        let threads = SyncThreads::default();
        let barrier = Arc::new(std::sync::Barrier::new(THREAD_COUNT_MAX));
        let results: Vec<_> = (0..THREAD_COUNT_MAX * 3)
            .map(|index| {
                let barrier = Arc::clone(&barrier);
                threads.run(move || {
                    barrier.wait();
                    index
                })
            })
            .collect();
        for (index, result) in results.into_iter().enumerate() {
            assert_eq!(result.blocking_recv(), Ok(index));
        }
    }

    #[test]
    fn threads_end_with_their_owner_after_the_last_job() {
        let threads = SyncThreads::default();
        let result = threads.run(|| 7);
        let shared = Arc::downgrade(&threads.shared);
        drop(threads);
        assert_eq!(result.blocking_recv(), Ok(7));
        while shared.strong_count() > 0 {
            std::thread::yield_now();
        }
    }
}
