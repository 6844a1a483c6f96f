//! Tasks have a name, an owner and an end.

use std::future::Future;

use super::Runtime;

/// The time allowed is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("time-out")]
pub struct Elapsed;

/// Why a task ended without a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskEnd {
    #[error("task was cancelled")]
    Cancelled,
    #[error("task panicked")]
    Panicked,
}

/// The owner's handle of a running task. Dropping it cancels the task.
pub trait Task<T>: Future<Output = Result<T, TaskEnd>> + Send + Unpin {
    /// Asks the task to end at its next suspension point. Await the handle to know that it has.
    fn cancel(&self);

    fn is_finished(&self) -> bool;
}

/// The tasks of one owner. Dropping the set cancels them all.
pub struct TaskSet<R: Runtime> {
    tasks: Vec<R::Task<()>>,
    reap_at: usize,
}

impl<R: Runtime> Default for TaskSet<R> {
    fn default() -> Self {
        TaskSet {
            tasks: Vec::new(),
            reap_at: TaskSet::<R>::REAP_COUNT_MIN,
        }
    }
}

impl<R: Runtime> TaskSet<R> {
    const REAP_COUNT_MIN: usize = 32;

    pub fn new() -> Self {
        Self::default()
    }

    pub fn spawn<F>(&mut self, runtime: &R, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.add(runtime.spawn(name, future));
    }

    /// As [`spawn`](TaskSet::spawn), by [`Runtime::spawn_background`].
    pub fn spawn_background<F>(&mut self, runtime: &R, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.add(runtime.spawn_background(name, future));
    }

    fn add(&mut self, task: R::Task<()>) {
        if self.tasks.len() >= self.reap_at {
            self.tasks.retain(|task| !task.is_finished());
            self.reap_at = (self.tasks.len() * 2).max(Self::REAP_COUNT_MIN);
        }
        self.tasks.push(task);
    }

    pub fn len(&self) -> usize {
        self.tasks.iter().filter(|task| !task.is_finished()).count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cancels every task and waits until each has ended.
    pub async fn shutdown(&mut self) {
        for task in &self.tasks {
            task.cancel();
        }
        for task in self.tasks.drain(..) {
            let _ = task.await;
        }
    }

    /// Waits until every task has ended by itself.
    pub async fn join(&mut self) {
        for task in self.tasks.drain(..) {
            let _ = task.await;
        }
    }
}
