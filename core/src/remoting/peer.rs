//! The other end of a connection, as a handle that everyone may hold.
//!
//! State machine without IO: late replies, notifications and calls are encoded into a queue under a short lock, and the
//! connection's task is woken to write it. Invariants: a call's entry is gone once it is replied, given up, or the connection is
//! closed; `owed` counts the responders alive; after `shut` nothing is queued and no call waits.

use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_channel::oneshot;
use futures_util::task::AtomicWaker;

use super::{CallError, Limits, replies};
use crate::protocol::Command;
use crate::protocol::frame::{self, HeaderType, Outgoing};
use crate::protocol::send_reply::SendReply;
use crate::runtime::{Mono, Runtime};
use crate::sync::lock;
use crate::types::Map;
use crate::types::address::SocketAddr;

/// The other end of a connection. A cheap handle; it outlives the connection.
#[derive(Clone)]
pub struct Peer(Arc<Shared>);

struct Shared {
    identity: Identity,
    limits: Limits,
    header_type: HeaderType,
    /// The connection's task waits here.
    waker: AtomicWaker,
    /// Something is queued or has changed that the task must look at.
    stirred: AtomicBool,
    closing: AtomicBool,
    open: AtomicBool,
    late_count: Arc<AtomicU64>,
    /// When the peer was heard last.
    heard: AtomicU64,
    queue: Mutex<Queue>,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    pub(super) id: u64,
    pub(super) remote: SocketAddr,
    pub(super) local: SocketAddr,
}

struct Queue {
    out: Outgoing,
    /// Requests of ours that wait for a reply.
    calls: Map<i32, Call>,
    next_opaque: i32,
    /// Calls queued so far, and how many of them the task has taken to write.
    queued_count: u64,
    taken_count: u64,
    /// Requests of the peer that will be answered later.
    owed_count: usize,
    /// Callers that wait for room.
    room: Vec<oneshot::Sender<()>>,
}

struct Call {
    /// This was the n-th call queued.
    number: u64,
    reply: oneshot::Sender<Result<Command, CallError>>,
}

impl Peer {
    pub(super) fn new(identity: Identity, limits: Limits, header_type: HeaderType, late_count: Arc<AtomicU64>) -> Peer {
        Peer(Arc::new(Shared {
            identity,
            limits,
            header_type,
            waker: AtomicWaker::new(),
            stirred: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            open: AtomicBool::new(true),
            late_count,
            heard: AtomicU64::new(0),
            queue: Mutex::new(Queue {
                out: Outgoing::new(limits.frame),
                calls: Map::default(),
                // Some clients take 0 for "none" (ali-ons).
                next_opaque: 1,
                queued_count: 0,
                taken_count: 0,
                owed_count: 0,
                room: Vec::new(),
            }),
        }))
    }

    /// Unique among the connections of one server or client, ascending.
    pub fn id(&self) -> u64 {
        self.0.identity.id
    }

    pub fn remote_address(&self) -> SocketAddr {
        self.0.identity.remote
    }

    /// Our own address on this connection.
    pub fn local_address(&self) -> SocketAddr {
        self.0.identity.local
    }

    pub fn is_open(&self) -> bool {
        self.0.open.load(Ordering::Acquire)
    }

    /// Ends the connection. What is queued is still written if the socket takes it at once.
    pub fn close(&self) {
        self.0.closing.store(true, Ordering::Release);
        self.stir();
    }

    /// Promises an answer to `request` from elsewhere. Dropping the responder drops the promise silently.
    pub fn answer_later(&self, request: &Command) -> Responder {
        lock(&self.0.queue).owed_count += 1;
        Responder {
            peer: self.clone(),
            opaque: request.opaque,
            one_way: request.is_one_way(),
        }
    }

    /// Sends a one-way request. Lost if the connection ends first.
    pub fn notify(&self, mut command: Command) {
        if !self.is_open() {
            return;
        }
        command.flag = frame::FLAG_ONE_WAY;
        let mut queue = lock(&self.0.queue);
        command.opaque = queue.take_opaque();
        if let Err(error) = frame::encode(&command, Vec::new(), &mut queue.out) {
            log::warn!(
                "notification of code {} to {}: {error}",
                command.code,
                self.remote_address()
            );
        }
        self.queued(queue);
    }

    /// Sends a request and waits for its reply.
    pub async fn call<R: Runtime>(
        &self,
        runtime: &R,
        command: Command,
        timeout: Duration,
    ) -> Result<Command, CallError> {
        let call = self.begin(command, Vec::new())?;
        runtime
            .timeout(timeout, call.reply())
            .await
            .unwrap_or_else(|_| Err(no_reply_within(timeout)))
    }

    /// Queues a request.
    pub(super) fn begin(&self, mut command: Command, chunks: Vec<Bytes>) -> Result<PendingCall, CallError> {
        let (sender, receiver) = oneshot::channel();
        command.flag = 0;
        let mut queue = lock(&self.0.queue);
        if !self.is_open() {
            return Err(CallError::NotSent("the connection is closed".to_owned()));
        }
        let opaque = queue.take_opaque();
        command.opaque = opaque;
        self.encode_request(&command, chunks, &mut queue)?;
        queue.queued_count += 1;
        let number = queue.queued_count;
        queue.calls.insert(opaque, Call { number, reply: sender });
        drop(queue);
        self.stir();
        Ok(PendingCall {
            peer: self.clone(),
            opaque,
            receiver,
        })
    }

    /// Queues a request that wants no reply.
    pub(super) fn begin_one_way(&self, mut command: Command, chunks: Vec<Bytes>) -> Result<(), CallError> {
        command.flag = frame::FLAG_ONE_WAY;
        let mut queue = lock(&self.0.queue);
        if !self.is_open() {
            return Err(CallError::NotSent("the connection is closed".to_owned()));
        }
        command.opaque = queue.take_opaque();
        self.encode_request(&command, chunks, &mut queue)?;
        drop(queue);
        self.stir();
        Ok(())
    }

    fn encode_request(&self, command: &Command, chunks: Vec<Bytes>, queue: &mut Queue) -> Result<(), CallError> {
        // The binary header has no room for the codes of pop.
        let fits_binary = i16::try_from(command.code).is_ok();
        let header_type = if fits_binary {
            self.0.header_type
        } else {
            HeaderType::Json
        };
        frame::encode_as(header_type, command, chunks, &mut queue.out)
            .map_err(|error| CallError::NotSent(error.to_string()))
    }

    /// Waits until fewer bytes are queued than calls may queue, or the connection is closed.
    pub(super) async fn room(&self) {
        loop {
            let waiting = {
                let mut queue = lock(&self.0.queue);
                if queue.out.size() < self.0.limits.call_queue_size_max || !self.is_open() {
                    return;
                }
                let (sender, receiver) = oneshot::channel();
                queue.room.push(sender);
                receiver
            };
            let _ = waiting.await;
        }
    }

    /// The reply to a call of ours has arrived.
    pub(super) fn complete(&self, reply: Command) {
        let call = lock(&self.0.queue).calls.remove(&reply.opaque);
        match call {
            Some(call) => {
                let _ = call.reply.send(Ok(reply));
            }
            None => {
                self.0.late_count.fetch_add(1, Ordering::Relaxed);
                log::debug!(
                    "{self:?}: reply to {}, which nobody waits for, is dropped",
                    reply.opaque
                );
            }
        }
    }

    /// Moves what is queued behind `out`. From here on its calls may have left.
    pub(super) fn take_queued(&self, out: &mut Outgoing) {
        if !self.0.stirred.swap(false, Ordering::AcqRel) {
            return;
        }
        let room = {
            let mut queue = lock(&self.0.queue);
            queue.taken_count = queue.queued_count;
            out.append(&mut queue.out);
            std::mem::take(&mut queue.room)
        };
        for waiting in room {
            let _ = waiting.send(());
        }
    }

    /// Bytes of the peer have arrived.
    pub(super) fn heard(&self, now: Mono) {
        self.0.heard.store(now.0, Ordering::Relaxed);
    }

    /// A call has timed out: closes the connection if the peer has been silent for long. Its host may be gone without a
    /// trace; the next call then finds out by connecting.
    pub(super) fn suspect(&self, now: Mono) {
        let heard = Mono(self.0.heard.load(Ordering::Relaxed));
        let silence = now.since(heard);
        if silence >= self.0.limits.silence_time_max {
            log::debug!("{self:?}: silent for {} ms, closing", silence.as_millis());
            self.close();
        }
    }

    /// How many more answers the peer may be owed.
    pub(super) fn allowance(&self) -> usize {
        let owed_count = lock(&self.0.queue).owed_count;
        self.0.limits.owed_count_max.saturating_sub(owed_count)
    }

    pub(super) fn is_closing(&self) -> bool {
        self.0.closing.load(Ordering::Acquire)
    }

    /// Waits for something that the connection's task must look at.
    pub(super) async fn stirring(&self) {
        self.wait_for(&self.0.stirred).await;
    }

    /// Waits for [`close`](Peer::close).
    pub(super) async fn closing(&self) {
        self.wait_for(&self.0.closing).await;
    }

    async fn wait_for(&self, flag: &AtomicBool) {
        poll_fn(|context| {
            if flag.load(Ordering::Acquire) {
                return Poll::Ready(());
            }
            self.0.waker.register(context.waker());
            if flag.load(Ordering::Acquire) {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }

    /// The connection is over, for `reason`: fails every call, drops what is queued.
    pub(super) fn shut(&self, reason: &str) {
        let (calls, room, taken_count) = {
            let mut queue = lock(&self.0.queue);
            self.0.open.store(false, Ordering::Release);
            queue.out = Outgoing::new(self.0.limits.frame);
            let calls = std::mem::take(&mut queue.calls);
            (calls, std::mem::take(&mut queue.room), queue.taken_count)
        };
        let mut calls: Vec<Call> = calls.into_values().collect();
        calls.sort_unstable_by_key(|call| call.number);
        for call in calls {
            let error = if call.number > taken_count {
                CallError::NotSent(reason.to_owned())
            } else {
                CallError::Unknown(reason.to_owned())
            };
            let _ = call.reply.send(Err(error));
        }
        drop(room);
    }

    /// Something was queued: wakes the task, or ends a connection that does not drain.
    fn queued(&self, queue: std::sync::MutexGuard<'_, Queue>) {
        let size = queue.out.size();
        drop(queue);
        if size > self.0.limits.queue_size_max {
            log::warn!("{self:?}: {size} bytes wait to be read by the peer, closing");
            self.close();
        } else {
            self.stir();
        }
    }

    fn stir(&self) {
        self.0.stirred.store(true, Ordering::Release);
        self.0.waker.wake();
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {} with {}", self.id(), self.remote_address())
    }
}

/// The same connection.
impl PartialEq for Peer {
    fn eq(&self, other: &Peer) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Peer {}

impl Queue {
    fn take_opaque(&mut self) -> i32 {
        let opaque = self.next_opaque;
        self.next_opaque = if opaque == i32::MAX { 1 } else { opaque + 1 };
        opaque
    }
}

/// The right to answer one request from anywhere, later.
#[derive(Debug)]
pub struct Responder {
    peer: Peer,
    opaque: i32,
    one_way: bool,
}

impl Responder {
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Number of the request.
    pub fn opaque(&self) -> i32 {
        self.opaque
    }

    /// Answers. Nothing is sent if the request was one-way or the connection is over.
    pub fn reply(self, mut reply: Command, chunks: Vec<Bytes>) {
        if self.one_way || !self.peer.is_open() {
            return;
        }
        reply.opaque = self.opaque;
        let mut queue = lock(&self.peer.0.queue);
        replies::put(&reply, chunks, &mut queue.out);
        self.peer.queued(queue);
    }

    /// As [`reply`](Responder::reply), to a send that was stored.
    pub fn reply_send(self, reply: &SendReply<'_>) {
        if self.one_way || !self.peer.is_open() {
            return;
        }
        debug_assert_eq!(reply.opaque, self.opaque);
        let mut queue = lock(&self.peer.0.queue);
        replies::put_send(reply, &mut queue.out);
        self.peer.queued(queue);
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        let was_full = {
            let mut queue = lock(&self.peer.0.queue);
            queue.owed_count -= 1;
            queue.owed_count + 1 == self.peer.0.limits.owed_count_max
        };
        if was_full {
            self.peer.stir();
        }
    }
}

/// A call that waits for its reply. Dropping it gives it up.
pub(super) struct PendingCall {
    peer: Peer,
    opaque: i32,
    receiver: oneshot::Receiver<Result<Command, CallError>>,
}

impl PendingCall {
    pub(super) async fn reply(mut self) -> Result<Command, CallError> {
        let received = (&mut self.receiver).await;
        received.unwrap_or_else(|_| Err(CallError::Unknown("the connection is closed".to_owned())))
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        // Most calls end with their reply, which has taken the entry already.
        if self.receiver.try_recv().is_ok_and(|received| received.is_none()) {
            lock(&self.peer.0.queue).calls.remove(&self.opaque);
        }
    }
}

pub(super) fn no_reply_within(timeout: Duration) -> CallError {
    CallError::Unknown(format!("no reply within {} ms", timeout.as_millis()))
}
