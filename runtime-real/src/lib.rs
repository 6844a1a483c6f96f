//! The production runtime: core's [`Runtime`] on tokio, real sockets, real files and real clocks.
//!
//! It is not a place for broker logic, and it never links the simulator: madsim overrides libc symbols in whatever
//! links it (`tests/binary.rs` looks for them in the `orrery` binary).
//!
//! Invariants: [`Runtime::SITES`] is false, so no seeded defect exists here, not even its name. Nothing that waits for a disk
//! runs on a worker that other connections need (see [`disk`]).

pub mod disk;
mod mapping;
mod net;
mod random;
mod read_once;
mod sync_threads;
mod zone;

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use orrery_core::probe::Fact;
use orrery_core::runtime::{Elapsed, Mono, NetError, Runtime, Task, TaskEnd, WallMillis};
use rustix::process::{getpriority_process, setpriority_process};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

pub use disk::{RealDisk, RealFile, RealLock};
pub use net::{RealListener, RealReader, RealStream, RealWriter};
use sync_threads::BACKGROUND_NICENESS;
pub use sync_threads::SyncThreads;

/// Origin of [`Runtime::mono`], the same for all handles of the process.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A handle to this process's world.
#[derive(Clone)]
pub struct Real {
    handle: Handle,
    /// Where background tasks run.
    background: Handle,
    disk: RealDisk,
}

impl Real {
    /// Builds a tokio runtime with `workers` threads (one per core if `None`) and runs `main` on it to its end.
    pub fn run<F, M>(workers: Option<usize>, main: M) -> io::Result<F::Output>
    where
        M: FnOnce(Real) -> F,
        F: Future,
    {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let thread_count = AtomicUsize::new(0);
        builder.enable_all().thread_name_fn(move || {
            let number = thread_count.fetch_add(1, Ordering::Relaxed);
            format!("orrery-worker-{number}")
        });
        if let Some(workers) = workers {
            builder.worker_threads(workers);
        }
        let runtime = builder.build()?;
        let background = background()?;
        let mut real = Real::on(runtime.handle().clone());
        real.background = background.handle().clone();
        let output = runtime.block_on(main(real));
        // A cold read still stuck in the kernel must not keep the process from ending.
        runtime.shutdown_timeout(Duration::from_secs(5));
        background.shutdown_timeout(Duration::from_secs(5));
        Ok(output)
    }

    /// A handle on a tokio runtime that somebody else owns; background tasks run on it like all others.
    pub fn on(handle: Handle) -> Real {
        LazyLock::force(&ORIGIN);
        Real {
            background: handle.clone(),
            handle,
            disk: RealDisk::default(),
        }
    }
}

/// One thread of lower priority, apart from the workers: the kernel may take a processor from it while it is busy, without a
/// connection waiting in its queue.
fn background() -> io::Result<tokio::runtime::Runtime> {
    // Fixed here: a thread that one of its threads starts inherits the value.
    let niceness = getpriority_process(None)? + BACKGROUND_NICENESS;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(1)
        .thread_name("orrery-behind")
        .on_thread_start(move || {
            if let Err(error) = setpriority_process(None, niceness) {
                log::warn!("the background thread keeps its priority: {error}");
            }
        })
        .build()
}

impl Runtime for Real {
    const SITES: bool = false;

    type Listener = RealListener;
    type Stream = RealStream;
    type Disk = RealDisk;
    type Task<T: Send + 'static> = RealTask<T>;

    #[inline]
    fn mono(&self) -> Mono {
        Mono(u64::try_from(ORIGIN.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    #[inline]
    fn wall(&self) -> WallMillis {
        WallMillis(wall_millis(SystemTime::now()))
    }

    fn utc_offset_seconds(&self, at: WallMillis) -> i32 {
        zone::utc_offset_seconds(at)
    }

    fn random_u64(&self) -> u64 {
        random::next_u64()
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + 'static {
        tokio::time::sleep(duration)
    }

    fn timeout<F>(&self, duration: Duration, future: F) -> impl Future<Output = Result<F::Output, Elapsed>> + Send
    where
        F: Future + Send,
    {
        let limited = tokio::time::timeout(duration, future);
        async move { limited.await.map_err(|_| Elapsed) }
    }

    fn spawn<F>(&self, _name: &'static str, future: F) -> RealTask<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        RealTask(self.handle.spawn(future))
    }

    fn spawn_background<F>(&self, _name: &'static str, future: F) -> RealTask<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        RealTask(self.background.spawn(async move {
            let mut future = pin!(future);
            poll_fn(|context| {
                let polled = future.as_mut().poll(context);
                if polled.is_pending() {
                    // A low priority alone decides at the next tick only, 4 ms later.
                    std::thread::yield_now();
                }
                polled
            })
            .await
        }))
    }

    fn yield_now(&self) -> impl Future<Output = ()> + Send {
        tokio::task::yield_now()
    }

    fn listen(&self, address: SocketAddr) -> impl Future<Output = Result<RealListener, NetError>> + Send {
        net::listen(address)
    }

    fn connect(
        &self,
        address: SocketAddr,
        timeout: Duration,
    ) -> impl Future<Output = Result<RealStream, NetError>> + Send {
        net::connect(address, timeout)
    }

    fn resolve(&self, host_and_port: &str) -> impl Future<Output = Result<Vec<SocketAddr>, NetError>> + Send {
        net::resolve(host_and_port.to_owned())
    }

    fn disk(&self) -> &RealDisk {
        &self.disk
    }

    #[inline(always)]
    fn announce(&self, _fact: Fact<'_>) {}

    #[inline(always)]
    fn ask_site(&self, _name: &'static str) -> bool {
        false
    }
}

/// A tokio task that ends with its handle.
pub struct RealTask<T>(JoinHandle<T>);

impl<T: Send + 'static> Task<T> for RealTask<T> {
    fn cancel(&self) {
        self.0.abort();
    }

    fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> Future for RealTask<T> {
    type Output = Result<T, TaskEnd>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map_err(|error| {
            if error.is_panic() {
                TaskEnd::Panicked
            } else {
                TaskEnd::Cancelled
            }
        })
    }
}

impl<T> Drop for RealTask<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Milliseconds since the Unix epoch; negative before it.
pub(crate) fn wall_millis(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |millis| -millis),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_background_task_runs_beside_the_workers_with_lower_priority() {
        let nice = || getpriority_process(None).unwrap();
        let (usual, background, reading) = Real::run(Some(1), async |real| {
            let usual = real.spawn("usual", async move { nice() }).await.unwrap();
            let background = real.spawn_background("background", async move {
                tokio::task::yield_now().await;
                (nice(), tokio::task::spawn_blocking(nice).await.unwrap())
            });
            let (background, reading) = background.await.unwrap();
            (usual, background, reading)
        })
        .unwrap();
        assert_eq!(background, (usual + BACKGROUND_NICENESS).min(19));
        assert_eq!(reading, background, "what it waits for is no more urgent");
    }
}
