//! The most anonymous memory a process was seen with while something ran.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::processes;

const INTERVAL: Duration = Duration::from_millis(20);

pub(super) struct Sampler {
    over: Arc<AtomicBool>,
    max_bytes: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    pub(super) fn start(pid: u32) -> Sampler {
        let (over, max_bytes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (seen, max) = (Arc::clone(&over), Arc::clone(&max_bytes));
        let thread = thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                max.fetch_max(processes::anonymous_bytes(&[pid]), Ordering::Relaxed);
                thread::sleep(INTERVAL);
            }
        });
        Sampler {
            over,
            max_bytes,
            thread: Some(thread),
        }
    }

    /// The maximum so far; `None` if the process was never seen.
    pub(super) fn end(mut self) -> Option<u64> {
        self.join();
        Some(self.max_bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0)
    }

    fn join(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.join();
    }
}
