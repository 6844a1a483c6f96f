//! A process on a node: the [`Runtime`] that core sees, and its tasks.
//!
//! A process ends when its main future ends, when it is killed, or when the power goes. From then on its handles do
//! nothing: destructors of its futures cannot write, send or spawn.

use std::any::Any;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use madsim::runtime::NodeHandle;
use madsim::task::{JoinHandle, NodeId as MadsimId};
use orrery_core::probe::Fact;
use orrery_core::runtime::{Elapsed, Mono, NetError, NetErrorKind, Runtime, Task, TaskEnd, WallMillis};

use crate::disk::SimDisk;
use crate::net::{SimListener, SimStream};
use crate::random::Draw;
use crate::run::Panic;
use crate::timer::{Sleep, timeout};
use crate::world::{NodeId, World};

/// What a node does when it boots.
pub(crate) type Boot = Arc<dyn Fn(SimRuntime) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

pub(crate) struct Process {
    pub(crate) world: World,
    pub(crate) node: usize,
    pub(crate) incarnation: u64,
    alive: AtomicBool,
    handle: NodeHandle,
}

impl Process {
    pub(crate) fn new(world: World, node: usize, incarnation: u64, handle: NodeHandle) -> Process {
        Process {
            world,
            node,
            incarnation,
            alive: AtomicBool::new(true),
            handle,
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    pub(crate) fn end(&self) {
        self.alive.store(false, Ordering::Relaxed);
    }

    pub(crate) fn madsim_id(&self) -> MadsimId {
        self.handle.id()
    }
}

/// A process's view of the world. Cheap to clone.
#[derive(Clone)]
pub struct SimRuntime {
    process: Arc<Process>,
    disk: SimDisk,
}

impl SimRuntime {
    pub(crate) fn new(process: Arc<Process>) -> SimRuntime {
        SimRuntime {
            disk: SimDisk::new(process.clone()),
            process,
        }
    }

    pub fn node(&self) -> NodeId {
        NodeId(self.process.node)
    }

    pub fn world(&self) -> &World {
        &self.process.world
    }

    /// False once the process has ended.
    pub fn is_alive(&self) -> bool {
        self.process.is_alive()
    }
}

impl Runtime for SimRuntime {
    const SITES: bool = true;

    type Listener = SimListener;
    type Stream = SimStream;
    type Disk = SimDisk;
    type Task<T: Send + 'static> = SimTask<T>;

    fn mono(&self) -> Mono {
        let node = self.process.node;
        self.world()
            .with(|state| state.core.hosts[node].clock.mono(state.core.local_now(node)))
    }

    fn wall(&self) -> WallMillis {
        let node = self.process.node;
        self.world()
            .with(|state| state.core.hosts[node].clock.wall(state.core.local_now(node)))
    }

    fn utc_offset_seconds(&self, _at: WallMillis) -> i32 {
        let node = self.process.node;
        self.world().with(|state| state.core.hosts[node].utc_offset_seconds)
    }

    fn random_u64(&self) -> u64 {
        let node = self.process.node;
        let incarnation = self.process.incarnation;
        self.world().with(|state| {
            let host = &mut state.core.hosts[node];
            host.random_count += 1;
            Draw::new(state.core.seed, "random")
                .with(host.identity)
                .with(incarnation)
                .with(host.random_count)
                .bits()
        })
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + 'static {
        Sleep::on_node(self.world().clone(), self.process.node, duration)
    }

    fn timeout<F>(&self, duration: Duration, future: F) -> impl Future<Output = Result<F::Output, Elapsed>> + Send
    where
        F: Future + Send,
    {
        timeout(
            Sleep::on_node(self.world().clone(), self.process.node, duration),
            future,
        )
    }

    fn spawn<F>(&self, name: &'static str, future: F) -> SimTask<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        SimTask(self.process.handle.spawn(Guarded {
            process: self.process.clone(),
            name,
            future,
        }))
    }

    async fn yield_now(&self) {
        let mut yielded = false;
        std::future::poll_fn(|cx| {
            if yielded {
                return Poll::Ready(());
            }
            yielded = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }

    async fn listen(&self, address: SocketAddr) -> Result<SimListener, NetError> {
        SimListener::bind(self.process.clone(), address)
    }

    async fn connect(&self, address: SocketAddr, timeout: Duration) -> Result<SimStream, NetError> {
        SimStream::connect(self.process.clone(), address, timeout).await
    }

    async fn resolve(&self, host_and_port: &str) -> Result<Vec<SocketAddr>, NetError> {
        let not_found = || {
            NetError::new(
                NetErrorKind::NameNotFound,
                format!("`{host_and_port}` is no known host:port"),
            )
        };
        if let Ok(address) = host_and_port.parse() {
            return Ok(vec![address]);
        }
        let (host, port) = host_and_port.rsplit_once(':').ok_or_else(not_found)?;
        let port: u16 = port.parse().map_err(|_| not_found())?;
        let ips = self.world().with(|state| state.net.resolve(host));
        if ips.is_empty() {
            return Err(not_found());
        }
        Ok(ips
            .into_iter()
            .map(|ip| SocketAddr::new(IpAddr::V4(ip), port))
            .collect())
    }

    fn disk(&self) -> &SimDisk {
        &self.disk
    }

    fn announce(&self, fact: Fact<'_>) {
        if self.is_alive() {
            self.world().with(|state| state.announce(self.process.node, fact));
        }
    }

    fn ask_site(&self, name: &'static str) -> bool {
        let node = self.process.node;
        self.world().with(|state| {
            let identity = state.core.hosts[node].identity;
            state.sites.ask(state.core.seed, identity, name)
        })
    }
}

pin_project_lite::pin_project! {
    /// A task's future: its panics become findings of the run instead of its end.
    struct Guarded<F> {
        process: Arc<Process>,
        name: &'static str,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Guarded<F> {
    type Output = Result<F::Output, TaskEnd>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        catch_unwind(AssertUnwindSafe(|| this.future.poll(cx)))
            .map(|poll| poll.map(Ok))
            .unwrap_or_else(|panic| {
                this.process
                    .world
                    .record_panic(this.process.node, this.name, message(&*panic));
                Poll::Ready(Err(TaskEnd::Panicked))
            })
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a value that is no text".to_owned())
}

impl World {
    fn record_panic(&self, node: usize, task: &'static str, message: String) {
        self.with(|state| {
            state.core.trace(node, "panic", &[], message.as_bytes());
            let panic = Panic {
                time: Duration::from_nanos(state.core.now),
                node: state.core.hosts[node].name.clone(),
                task,
                message,
            };
            state.panics.push(panic);
        });
    }
}

/// A task of a process. Dropping the handle cancels it.
pub struct SimTask<T>(JoinHandle<Result<T, TaskEnd>>);

impl<T: Send + 'static> Task<T> for SimTask<T> {
    fn cancel(&self) {
        self.0.abort();
    }

    fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> Future for SimTask<T> {
    type Output = Result<T, TaskEnd>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|result| result.unwrap_or(Err(TaskEnd::Cancelled)))
    }
}

impl<T> Drop for SimTask<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
