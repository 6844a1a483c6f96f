//! The dialling end: one connection per address, shared by all calls to it.
//!
//! A connection is opened by the first call that needs it and reopened by the next call after it was lost, not before a short pause.
//! Calls wait for the connection within their time-out. Requests are pipelined; whatever queues while the task writes leaves in
//! one write. Not here: choosing addresses and trying again.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_channel::oneshot;

use super::peer::{Identity, no_reply_within};
use super::{CallError, Limits, Peer, Replies, Service, connection};
use crate::protocol::Command;
use crate::protocol::frame::HeaderType;
use crate::runtime::{Elapsed, Mono, Runtime, Stream, TaskSet};
use crate::sync::lock;

/// Pause between attempts to connect to one address: doubled from failure to failure, reset by a success.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What a client does with requests of a server.
pub trait Inbound: Send + Sync + 'static {
    /// The server at `address` asks. Must not block; answer through [`Peer::answer_later`].
    fn request(&self, address: &str, peer: &Peer, command: Command);

    /// The connection to `address` is over.
    fn closed(&self, address: &str) {
        let _ = address;
    }
}

/// A client's connections. A cheap handle; dropping the last one closes them.
pub struct Connections<R: Runtime> {
    shared: Arc<Shared<R>>,
    /// Apart from what the tasks hold, so that dropping the last handle cancels them.
    tasks: Arc<Mutex<TaskSet<R>>>,
}

struct Shared<R> {
    runtime: R,
    inbound: Arc<dyn Inbound>,
    limits: Limits,
    header_type: HeaderType,
    slots: Mutex<BTreeMap<String, Slot>>,
    next_id: AtomicU64,
    is_shut: AtomicBool,
    late_count: Arc<AtomicU64>,
}

/// The state of an address.
enum Slot {
    Connecting {
        waiting: Vec<oneshot::Sender<Result<Peer, CallError>>>,
        failures: u32,
    },
    Open(Peer),
    /// No attempt before that time.
    Lost {
        not_before: Mono,
        failures: u32,
    },
}

impl<R: Runtime> Clone for Connections<R> {
    fn clone(&self) -> Self {
        Connections {
            shared: Arc::clone(&self.shared),
            tasks: Arc::clone(&self.tasks),
        }
    }
}

impl<R: Runtime> Connections<R> {
    pub fn new(runtime: R, inbound: Arc<dyn Inbound>) -> Connections<R> {
        Connections::with(runtime, inbound, Limits::default(), HeaderType::Json)
    }

    pub fn with(runtime: R, inbound: Arc<dyn Inbound>, limits: Limits, header_type: HeaderType) -> Connections<R> {
        Connections {
            shared: Arc::new(Shared {
                runtime,
                inbound,
                limits,
                header_type,
                slots: Mutex::new(BTreeMap::new()),
                next_id: AtomicU64::new(1),
                is_shut: AtomicBool::new(false),
                late_count: Arc::new(AtomicU64::new(0)),
            }),
            tasks: Arc::new(Mutex::new(TaskSet::new())),
        }
    }

    /// Sends `command` to `address` (`host:port`) and waits for the reply, whatever its code.
    pub async fn call(&self, address: &str, command: Command, timeout: Duration) -> Result<Command, CallError> {
        self.call_with(address, command, Vec::new(), timeout).await
    }

    /// As [`call`](Connections::call), with a body of `command.body` and then `chunks`.
    pub async fn call_with(
        &self,
        address: &str,
        command: Command,
        chunks: Vec<Bytes>,
        timeout: Duration,
    ) -> Result<Command, CallError> {
        let mut asked = None;
        let calling = async {
            let peer = self.connected(address).await?;
            peer.room().await;
            let call = peer.begin(command, chunks)?;
            asked = Some(peer);
            call.reply().await
        };
        let replied = self.shared.runtime.timeout(timeout, calling).await;
        match (replied, asked) {
            (Ok(replied), _) => replied,
            (Err(Elapsed), Some(peer)) => {
                peer.suspect(self.shared.runtime.mono());
                Err(no_reply_within(timeout))
            }
            (Err(Elapsed), None) => Err(not_connected_within(timeout)),
        }
    }

    /// Sends `command` to `address` and does not wait for it to be served, nor know whether it was.
    pub async fn one_way(&self, address: &str, command: Command) -> Result<(), CallError> {
        let sending = async {
            let peer = self.connected(address).await?;
            peer.room().await;
            peer.begin_one_way(command, Vec::new())
        };
        let timeout = self.shared.limits.connect_time_max;
        let sent = self.shared.runtime.timeout(timeout, pin!(sending)).await;
        sent.unwrap_or_else(|_| Err(not_connected_within(timeout)))
    }

    /// Ends the connection to `address`, if there is one.
    pub fn close(&self, address: &str) {
        if let Some(Slot::Open(peer)) = lock(&self.shared.slots).get(address) {
            peer.close();
        }
    }

    /// Addresses with an open connection.
    pub fn open_addresses(&self) -> Vec<String> {
        let slots = lock(&self.shared.slots);
        let open = slots.iter().filter(|(_, slot)| matches!(slot, Slot::Open(_)));
        open.map(|(address, _)| address.clone()).collect()
    }

    /// Replies that came after their call had been given up.
    pub fn late_reply_count(&self) -> u64 {
        self.shared.late_count.load(Ordering::Relaxed)
    }

    /// Ends every connection, writing what is queued, and waits for their tasks. Later calls fail as not sent.
    pub async fn shutdown(&self) {
        self.shared.is_shut.store(true, Ordering::Release);
        for slot in lock(&self.shared.slots).values() {
            if let Slot::Open(peer) = slot {
                peer.close();
            }
        }
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        let _ = self.shared.runtime.timeout(PAUSE_MAX, tasks.join()).await;
    }

    /// The open connection to `address`.
    async fn connected(&self, address: &str) -> Result<Peer, CallError> {
        if self.shared.is_shut.load(Ordering::Acquire) {
            return Err(shut_down());
        }
        let connecting = {
            let mut slots = lock(&self.shared.slots);
            let mut failures = 0;
            let mut pause = Duration::ZERO;
            match slots.get_mut(address) {
                Some(Slot::Open(peer)) if peer.is_open() => return Ok(peer.clone()),
                Some(Slot::Connecting { waiting, .. }) => Some(subscribe(waiting)),
                Some(Slot::Lost {
                    not_before,
                    failures: before,
                }) => {
                    failures = *before;
                    pause = not_before.since(self.shared.runtime.mono());
                    None
                }
                Some(Slot::Open(_)) | None => None,
            }
            .unwrap_or_else(|| {
                let mut waiting = Vec::new();
                let receiver = subscribe(&mut waiting);
                slots.insert(address.to_owned(), Slot::Connecting { waiting, failures });
                let connecting = connect(Arc::clone(&self.shared), address.to_owned(), pause);
                lock(&self.tasks).spawn(&self.shared.runtime, "remoting client connection", connecting);
                receiver
            })
        };
        let connected = connecting.await;
        connected.unwrap_or_else(|_| Err(shut_down()))
    }
}

type Connected = Result<Peer, CallError>;

fn subscribe(waiting: &mut Vec<oneshot::Sender<Connected>>) -> oneshot::Receiver<Connected> {
    let (sender, receiver) = oneshot::channel();
    waiting.push(sender);
    receiver
}

fn shut_down() -> CallError {
    CallError::NotSent("the client is shut down".to_owned())
}

fn not_connected_within(timeout: Duration) -> CallError {
    CallError::NotSent(format!("no connection within {} ms", timeout.as_millis()))
}

/// The task of an address: opens the connection after `pause`, tells who waits, and runs it to its end.
async fn connect<R: Runtime>(shared: Arc<Shared<R>>, address: String, pause: Duration) {
    let runtime = shared.runtime.clone();
    if !pause.is_zero() {
        runtime.sleep(pause).await;
    }
    let stream = match open(&shared, &address).await {
        Ok(stream) => stream,
        Err(error) => return shared.lost(&address, &error),
    };
    let identity = Identity {
        id: shared.next_id.fetch_add(1, Ordering::Relaxed),
        remote: stream.peer_address(),
        local: stream.local_address(),
    };
    let late_count = Arc::clone(&shared.late_count);
    let peer = Peer::new(identity, shared.limits, shared.header_type, late_count);
    let limits = shared.limits;
    let slot = lock(&shared.slots).insert(address.clone(), Slot::Open(peer.clone()));
    if let Some(Slot::Connecting { waiting, .. }) = slot {
        for waiting in waiting {
            let _ = waiting.send(Ok(peer.clone()));
        }
    }
    let service = Arc::new(Dialled { shared, address });
    connection::run(runtime, stream, peer, service, limits).await;
}

async fn open<R: Runtime>(shared: &Shared<R>, address: &str) -> Result<R::Stream, String> {
    let resolved = shared.runtime.resolve(address).await;
    let resolved = resolved.map_err(|error| error.to_string())?;
    let first = resolved.first().ok_or_else(|| format!("{address} has no address"))?;
    let connected = shared.runtime.connect(*first, shared.limits.connect_time_max).await;
    connected.map_err(|error| error.to_string())
}

impl<R: Runtime> Shared<R> {
    /// No connection to `address`: fails those who wait for it.
    fn lost(&self, address: &str, reason: &str) {
        let mut slots = lock(&self.slots);
        let before = slots.remove(address);
        let failures = match &before {
            Some(Slot::Connecting { failures, .. }) => failures + 1,
            _ => 0,
        };
        let pause = PAUSE_MIN.saturating_mul(1 << failures.min(10)).min(PAUSE_MAX);
        let not_before = self.runtime.mono() + pause;
        slots.insert(address.to_owned(), Slot::Lost { not_before, failures });
        drop(slots);
        if let Some(Slot::Connecting { waiting, .. }) = before {
            for waiting in waiting {
                let _ = waiting.send(Err(CallError::NotSent(reason.to_owned())));
            }
        }
    }
}

/// The client's side of a connection, as a service: requests of the server go to the inbound handler.
struct Dialled<R> {
    shared: Arc<Shared<R>>,
    address: String,
}

impl<R: Runtime> Service for Dialled<R> {
    fn closed(&self, peer: &Peer) {
        let ours = matches!(lock(&self.shared.slots).get(&self.address), Some(Slot::Open(open)) if open == peer);
        if ours {
            self.shared.lost(&self.address, "the connection is closed");
        }
        self.shared.inbound.closed(&self.address);
    }

    async fn serve(&self, peer: &Peer, commands: &mut Vec<Command>, _: &mut Replies) {
        for command in commands.drain(..) {
            self.shared.inbound.request(&self.address, peer, command);
        }
    }
}
