//! TCP as core needs it: listen, accept, connect, two independent halves, half-close.

use std::collections::VecDeque;
use std::future::Future;

use crate::types::address::SocketAddr;
use bytes::{Bytes, BytesMut};

/// What went wrong on the network, coarse enough to be the same on every platform and in simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetErrorKind {
    /// The peer's host is up, nothing listens on that port.
    Refused,
    /// The connection was reset by the peer or by the network.
    Reset,
    /// No answer within the time allowed.
    TimedOut,
    /// The address is taken.
    AddressInUse,
    /// The name does not resolve.
    NameNotFound,
    /// Anything else; the message says what.
    Other,
}

/// A failed network operation.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct NetError {
    pub kind: NetErrorKind,
    pub message: String,
}

impl NetError {
    pub fn new(kind: NetErrorKind, message: impl Into<String>) -> NetError {
        NetError {
            kind,
            message: message.into(),
        }
    }
}

/// A bound TCP listener. Dropping it closes the port.
pub trait Listener: Send + Sync + 'static {
    type Stream: Stream;

    /// Waits for the next connection.
    fn accept(&self) -> impl Future<Output = Result<Self::Stream, NetError>> + Send;

    /// The address bound, with the real port.
    fn local_address(&self) -> SocketAddr;
}

/// An open TCP connection.
pub trait Stream: Send + 'static {
    type Reader: Reader;
    type Writer: Writer;

    fn peer_address(&self) -> SocketAddr;
    fn local_address(&self) -> SocketAddr;

    /// Two halves that live in different tasks. The connection closes when both are dropped.
    fn split(self) -> (Self::Reader, Self::Writer);
}

/// The receiving half.
pub trait Reader: Send + 'static {
    /// Appends what has arrived to `buffer`, at most `limit` bytes, waiting for at least one.
    /// `Ok(0)` says that the peer has closed its sending half.
    fn read(&mut self, buffer: &mut BytesMut, limit: usize) -> impl Future<Output = Result<usize, NetError>> + Send;
}

/// The sending half. Dropping it without [`close`](Writer::close) closes the connection in order if nothing unread is
/// left, else resets it, as TCP does.
pub trait Writer: Send + 'static {
    /// Writes all chunks in order (vectored where the system can) and empties the queue. Waits while the peer does
    /// not read: back-pressure is the caller's to feel. After an error an unknown prefix has been sent.
    fn write_all(&mut self, chunks: &mut VecDeque<Bytes>) -> impl Future<Output = Result<(), NetError>> + Send;

    /// Half-close: the peer reads everything written so far, then end of stream. Our reader goes on.
    fn close(&mut self) -> impl Future<Output = Result<(), NetError>> + Send;
}
