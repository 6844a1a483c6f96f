//! The world as core sees it: a clock, a network, disks, randomness and tasks.
//!
//! A [`Runtime`] is a cheap handle to *one node's* world. Everything is an instance method, so that a
//! simulated node has a clock, a disk and an address of its own. Futures are native (`impl Future + Send`),
//! nothing is boxed. Drivers (accept loops, pumps, timers) are generic over `R: Runtime`; tables, codecs and
//! decisions are plain types that take `now` as a value.
//!
//! Two implementations exist: `orrery-runtime-real` (tokio) and `orrery-runtime-sim` (madsim). Both pass the
//! suite in [`conformance`].

mod clock;
pub mod conformance;
mod disk;
mod net;
mod task;

use std::future::Future;
use std::time::Duration;

pub use clock::{Mono, WallMillis};
pub use disk::{Disk, DiskError, DiskErrorKind, DiskTotals, Entry, File, OpenMode, Source, Space};
pub use net::{Listener, NetError, NetErrorKind, Reader, Stream, Writer};
pub use task::{Elapsed, Task, TaskEnd, TaskSet};

use crate::probe::Fact;
use crate::types::address::SocketAddr;

/// One node's clock, network, disks, randomness and tasks.
pub trait Runtime: Clone + Send + Sync + 'static {
    /// True only in simulation. [`site`] is constant `false` where this is false, so that
    /// no site (a seeded defect or an unlikely choice) and not even its name reaches the production binary.
    const SITES: bool;

    type Listener: Listener<Stream = Self::Stream>;
    type Stream: Stream;
    type Disk: Disk;
    type Task<T: Send + 'static>: Task<T>;

    /// Monotonic time of this node. Never goes back, may drift from the wall clock.
    fn mono(&self) -> Mono;

    /// Wall-clock time of this node in milliseconds since the Unix epoch. May step in both directions.
    fn wall(&self) -> WallMillis;

    /// Seconds by which this machine's local time is ahead of UTC at `at`, daylight saving included. Ask at each use.
    fn utc_offset_seconds(&self, at: WallMillis) -> i32;

    /// 64 uniformly random bits. In simulation a function of the seed.
    fn random_u64(&self) -> u64;

    /// Completes once `duration` has passed on this node's monotonic clock. Grain 1 ms: may be late, never early.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + 'static;

    /// Runs `future` for at most `duration`, polling it before the timer. The future is dropped on time-out.
    fn timeout<F>(&self, duration: Duration, future: F) -> impl Future<Output = Result<F::Output, Elapsed>> + Send
    where
        F: Future + Send;

    /// Starts a task named `name`. Its owner is whoever holds the handle: dropping the handle cancels the task at
    /// its next suspension point.
    fn spawn<F>(&self, name: &'static str, future: F) -> Self::Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static;

    /// As [`spawn`](Runtime::spawn), for work that takes much processor time and that no request waits for: it yields the
    /// processor to all other tasks of this node where the runtime can arrange it. Elsewhere it is `spawn`.
    fn spawn_background<F>(&self, name: &'static str, future: F) -> Self::Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.spawn(name, future)
    }

    /// Lets other tasks of this node run.
    fn yield_now(&self) -> impl Future<Output = ()> + Send;

    /// Binds a TCP listener. Port 0 picks a free port.
    fn listen(&self, address: SocketAddr) -> impl Future<Output = Result<Self::Listener, NetError>> + Send;

    /// Opens a TCP connection (no Nagle delay). Gives up with [`NetErrorKind::TimedOut`] after `timeout`.
    fn connect(
        &self,
        address: SocketAddr,
        timeout: Duration,
    ) -> impl Future<Output = Result<Self::Stream, NetError>> + Send;

    /// Resolves `host:port`. An IP address resolves to itself without a look-up.
    fn resolve(&self, host_and_port: &str) -> impl Future<Output = Result<Vec<SocketAddr>, NetError>> + Send;

    /// The disks of this node.
    fn disk(&self) -> &Self::Disk;

    /// Announces a fact for checkers and metrics. Costs nothing in production.
    fn announce(&self, fact: Fact<'_>);

    /// Answers a site: true when the run has switched `name` on and, for a probabilistic site, its draw says so.
    /// Only [`site`] calls this.
    fn ask_site(&self, name: &'static str) -> bool;
}

/// A place where the simulator may choose: a seeded defect, or a legal but unlikely behaviour.
///
/// Constant `false` outside simulation; the branch and the name disappear at compile time.
#[inline(always)]
pub fn site<R: Runtime>(runtime: &R, name: &'static str) -> bool {
    R::SITES && runtime.ask_site(name)
}
