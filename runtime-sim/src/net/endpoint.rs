//! What a process holds: listeners, streams, and their halves.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use orrery_core::runtime::{Listener, NetError, NetErrorKind, Reader, Stream, Writer};

use super::connection::{Inbox, Kernel};
use super::{ConnectionId, End, ListenerState, SEGMENT_SIZE_MAX};
use crate::process::Process;
use crate::state::State;
use crate::timer::{Sleep, timeout};

fn error(kind: NetErrorKind) -> NetError {
    let message = match kind {
        NetErrorKind::Refused => "connection refused",
        NetErrorKind::Reset => "connection reset by peer",
        NetErrorKind::TimedOut => "connection timed out",
        NetErrorKind::AddressInUse => "address in use",
        NetErrorKind::NameNotFound => "name not found",
        NetErrorKind::Other => "connection is closed",
    };
    NetError::new(kind, message)
}

fn ended() -> NetError {
    NetError::new(NetErrorKind::Other, "the process has ended")
}

/// A bound port of a process.
pub struct SimListener {
    process: Arc<Process>,
    id: u64,
    address: SocketAddr,
}

impl SimListener {
    pub(crate) fn bind(process: Arc<Process>, address: SocketAddr) -> Result<SimListener, NetError> {
        if !process.is_alive() {
            return Err(ended());
        }
        let node = process.node;
        let (id, address) = process.world.with(|state| {
            if state.net.host_of(node, address.ip()) != Some(node) {
                return Err(NetError::new(
                    NetErrorKind::Other,
                    format!("{} is no address of this node", address.ip()),
                ));
            }
            let net = &mut state.net;
            let mut port = address.port();
            if port == 0 {
                port = net.next_port(node);
                while net.listeners.contains_key(&(node, port)) {
                    port = net.next_port(node);
                }
            } else if net.listeners.contains_key(&(node, port)) {
                return Err(NetError::new(
                    NetErrorKind::AddressInUse,
                    format!("{address} is in use"),
                ));
            }
            let address = SocketAddr::new(address.ip(), port);
            net.listener_count += 1;
            let id = net.listener_count;
            let listener = ListenerState {
                id,
                address,
                backlog: VecDeque::new(),
                waiting: Vec::new(),
            };
            net.listeners.insert((node, port), listener);
            state.core.trace(node, "listen", &[u64::from(port)], &[]);
            Ok((id, address))
        })?;
        Ok(SimListener { process, id, address })
    }

    fn take_next(&self, state: &mut State) -> Option<SimStream> {
        let key = (self.process.node, self.address.port());
        let listener = state
            .net
            .listeners
            .get_mut(&key)
            .filter(|listener| listener.id == self.id)?;
        let id = listener.backlog.pop_front()?;
        let [peer, local] = state.net.addresses(id)?;
        state.core.trace(self.process.node, "accept", &[id], &[]);
        Some(SimStream::new(self.process.clone(), id, End::Server, local, peer))
    }
}

impl Listener for SimListener {
    type Stream = SimStream;

    async fn accept(&self) -> Result<SimStream, NetError> {
        poll_fn(|cx| {
            if !self.process.is_alive() {
                return Poll::Ready(Err(ended()));
            }
            self.process.world.with(|state| {
                if let Some(stream) = self.take_next(state) {
                    return Poll::Ready(Ok(stream));
                }
                let key = (self.process.node, self.address.port());
                if let Some(listener) = state.net.listeners.get_mut(&key)
                    && !listener.waiting.iter().any(|waker| waker.will_wake(cx.waker()))
                {
                    listener.waiting.push(cx.waker().clone());
                }
                Poll::Pending
            })
        })
        .await
    }

    fn local_address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        if !self.process.is_alive() {
            return; // the kernel has closed it
        }
        let key = (self.process.node, self.address.port());
        self.process.world.with(|state| {
            if state
                .net
                .listeners
                .get(&key)
                .is_some_and(|listener| listener.id == self.id)
                && let Some(listener) = state.net.listeners.remove(&key)
            {
                for id in listener.backlog {
                    state.net.refuse(&mut state.core, id);
                }
            }
        });
    }
}

impl fmt::Debug for SimListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimListener({})", self.address)
    }
}

/// An attempt to connect; gone when dropped before it has become a stream.
struct Connecting {
    process: Arc<Process>,
    id: ConnectionId,
    is_stream: bool,
}

impl Connecting {
    async fn established(&self) -> Result<(), NetError> {
        poll_fn(|cx| {
            if !self.process.is_alive() {
                return Poll::Ready(Err(ended()));
            }
            self.process.world.with(|state| {
                let Some(side) = state.net.side(self.id, End::Client) else {
                    return Poll::Ready(Err(ended()));
                };
                match (side.error, side.kernel) {
                    (Some(kind), _) => Poll::Ready(Err(error(kind))),
                    (None, Kernel::Opening) => {
                        side.writer = Some(cx.waker().clone());
                        Poll::Pending
                    }
                    (None, _) => {
                        side.writer = None;
                        Poll::Ready(Ok(()))
                    }
                }
            })
        })
        .await
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        if self.process.is_alive() && !self.is_stream {
            self.process
                .world
                .with(|state| state.net.abandon(&mut state.core, self.id));
        }
    }
}

/// An open connection of a process.
pub struct SimStream {
    reader: SimReader,
    writer: SimWriter,
    local: SocketAddr,
    peer: SocketAddr,
}

impl SimStream {
    fn new(process: Arc<Process>, id: ConnectionId, end: End, local: SocketAddr, peer: SocketAddr) -> SimStream {
        let half = Half { process, id, end };
        SimStream {
            reader: SimReader(half.clone()),
            writer: SimWriter(half),
            local,
            peer,
        }
    }

    pub(crate) async fn connect(
        process: Arc<Process>,
        address: SocketAddr,
        patience: Duration,
    ) -> Result<SimStream, NetError> {
        if !process.is_alive() {
            return Err(ended());
        }
        let node = process.node;
        let id = process
            .world
            .with(|state| state.net.connect(&mut state.core, node, address));
        let mut attempt = Connecting {
            process: process.clone(),
            id,
            is_stream: false,
        };
        let sleep = Sleep::on_node(process.world.clone(), node, patience);
        match timeout(sleep, attempt.established()).await {
            Ok(Ok(())) => {
                let addresses = process.world.with(|state| state.net.addresses(id));
                let [local, peer] = addresses.ok_or_else(ended)?;
                attempt.is_stream = true;
                Ok(SimStream::new(process, id, End::Client, local, peer))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                process
                    .world
                    .with(|state| state.core.effects(node).connects_timed_out += 1);
                Err(NetError::new(
                    NetErrorKind::TimedOut,
                    format!("{address} did not answer within {patience:?}"),
                ))
            }
        }
    }
}

impl Stream for SimStream {
    type Reader = SimReader;
    type Writer = SimWriter;

    fn peer_address(&self) -> SocketAddr {
        self.peer
    }

    fn local_address(&self) -> SocketAddr {
        self.local
    }

    fn split(self) -> (SimReader, SimWriter) {
        (self.reader, self.writer)
    }
}

impl fmt::Debug for SimStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimStream({} -> {})", self.local, self.peer)
    }
}

#[derive(Clone)]
struct Half {
    process: Arc<Process>,
    id: ConnectionId,
    end: End,
}

/// The receiving half.
pub struct SimReader(Half);

impl Reader for SimReader {
    async fn read(&mut self, buffer: &mut BytesMut, limit: usize) -> Result<usize, NetError> {
        assert!(limit > 0, "a read needs room for a byte");
        let half = &self.0;
        poll_fn(|cx| {
            if !half.process.is_alive() {
                return Poll::Ready(Err(ended()));
            }
            half.process.world.with(
                |state| match state.net.read(&mut state.core, half.id, half.end, buffer, limit) {
                    Inbox::Bytes(count) => Poll::Ready(Ok(count)),
                    Inbox::End => Poll::Ready(Ok(0)),
                    Inbox::Failed(kind) => Poll::Ready(Err(error(kind))),
                    Inbox::Empty => {
                        if let Some(side) = state.net.side(half.id, half.end) {
                            side.reader = Some(cx.waker().clone());
                        }
                        Poll::Pending
                    }
                },
            )
        })
        .await
    }
}

impl Drop for SimReader {
    fn drop(&mut self) {
        let Half { process, id, end } = &self.0;
        if process.is_alive() {
            process
                .world
                .with(|state| state.net.drop_reader(&mut state.core, *id, *end));
        }
    }
}

/// The sending half.
pub struct SimWriter(Half);

impl Writer for SimWriter {
    async fn write_all(&mut self, chunks: &mut VecDeque<Bytes>) -> Result<(), NetError> {
        let half = &self.0;
        poll_fn(|cx| {
            if !half.process.is_alive() {
                return Poll::Ready(Err(ended()));
            }
            half.process.world.with(|state| {
                loop {
                    while chunks.front().is_some_and(Bytes::is_empty) {
                        chunks.pop_front();
                    }
                    let room = match state.net.writable(&mut state.core, half.id, half.end) {
                        Ok(room) => room,
                        Err(kind) => return Poll::Ready(Err(error(kind))),
                    };
                    if chunks.is_empty() {
                        return Poll::Ready(Ok(()));
                    }
                    if room == 0 {
                        state.net.wait_writable(&mut state.core, half.id, half.end, cx.waker());
                        return Poll::Pending;
                    }
                    let segment = take_up_to(chunks, room.min(SEGMENT_SIZE_MAX));
                    state.net.write(&mut state.core, half.id, half.end, segment);
                }
            })
        })
        .await
    }

    async fn close(&mut self) -> Result<(), NetError> {
        let half = &self.0;
        if !half.process.is_alive() {
            return Err(ended());
        }
        half.process.world.with(|state| {
            let failed = state.net.side(half.id, half.end).and_then(|side| side.error);
            state.net.close_writer(&mut state.core, half.id, half.end);
            failed.map_or(Ok(()), |kind| Err(error(kind)))
        })
    }
}

impl Drop for SimWriter {
    fn drop(&mut self) {
        let Half { process, id, end } = &self.0;
        if process.is_alive() {
            process
                .world
                .with(|state| state.net.drop_writer(&mut state.core, *id, *end));
        }
    }
}

/// The first bytes of the queue as one slice; without a copy if they lie in one chunk.
fn take_up_to(chunks: &mut VecDeque<Bytes>, limit: usize) -> Bytes {
    let front = chunks.front_mut().expect("caller has checked");
    if front.len() >= limit {
        let bytes = front.split_to(limit);
        if front.is_empty() {
            chunks.pop_front();
        }
        return bytes;
    }
    if chunks.len() == 1 {
        return chunks.pop_front().expect("there is one");
    }
    let size: usize = chunks.iter().map(Bytes::len).sum();
    let mut segment = BytesMut::with_capacity(size.min(limit));
    while segment.len() < limit
        && let Some(chunk) = chunks.front_mut()
    {
        let count = chunk.len().min(limit - segment.len());
        segment.extend_from_slice(&chunk.split_to(count));
        if chunk.is_empty() {
            chunks.pop_front();
        }
    }
    segment.freeze()
}
