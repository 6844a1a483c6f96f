//! TCP on tokio: no Nagle delay, vectored writes, reads sized by what the peer has been sending.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use orrery_core::runtime::{Listener, NetError, NetErrorKind, Reader, Stream, Writer};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections the kernel completes before they are accepted; it cuts this to `net.core.somaxconn`.
const BACKLOG: u32 = 4096;
/// Chunks of one system call. More than 64 gain nothing, and the array lives on the stack.
const SLICE_COUNT_MAX: usize = 64;
/// Smallest and largest space offered to one read. A quiet connection holds the smallest.
const READ_BYTES_MIN: usize = 4 * 1024;
const READ_BYTES_MAX: usize = 256 * 1024;

pub(crate) async fn listen(address: SocketAddr) -> Result<RealListener, NetError> {
    let bind = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // A port whose last connections are in TIME_WAIT is free.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let local = listener.local_addr()?;
        Ok(RealListener { listener, local })
    };
    bind().map_err(|error| net_error(&format!("listen on {address}"), &error))
}

pub(crate) async fn connect(address: SocketAddr, timeout: Duration) -> Result<RealStream, NetError> {
    let what = || format!("connect to {address}");
    match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => RealStream::new(stream).map_err(|error| net_error(&what(), &error)),
        Ok(Err(error)) => Err(net_error(&what(), &error)),
        Err(_) => Err(NetError::new(
            NetErrorKind::TimedOut,
            format!("{}: no answer within {} ms", what(), timeout.as_millis()),
        )),
    }
}

/// IPv4 addresses come first: RocketMQ's formats prefer them.
pub(crate) async fn resolve(host_and_port: String) -> Result<Vec<SocketAddr>, NetError> {
    if let Ok(address) = host_and_port.parse() {
        return Ok(vec![address]);
    }
    let not_found = |why: String| NetError::new(NetErrorKind::NameNotFound, format!("resolve {host_and_port}: {why}"));
    let mut addresses: Vec<SocketAddr> = tokio::net::lookup_host(&host_and_port)
        .await
        .map_err(|error| not_found(error.to_string()))?
        .collect();
    if addresses.is_empty() {
        return Err(not_found("no address".to_owned()));
    }
    addresses.sort_by_key(SocketAddr::is_ipv6);
    Ok(addresses)
}

pub struct RealListener {
    listener: TcpListener,
    local: SocketAddr,
}

impl Listener for RealListener {
    type Stream = RealStream;

    async fn accept(&self) -> Result<RealStream, NetError> {
        let accepted = self
            .listener
            .accept()
            .await
            .and_then(|(stream, _)| RealStream::new(stream));
        accepted.map_err(|error| net_error("accept", &error))
    }

    fn local_address(&self) -> SocketAddr {
        self.local
    }
}

pub struct RealStream {
    stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
}

impl RealStream {
    fn new(stream: TcpStream) -> io::Result<RealStream> {
        stream.set_nodelay(true)?;
        let peer = stream.peer_addr()?;
        let local = stream.local_addr()?;
        Ok(RealStream { stream, peer, local })
    }
}

impl Stream for RealStream {
    type Reader = RealReader;
    type Writer = RealWriter;

    fn peer_address(&self) -> SocketAddr {
        self.peer
    }

    fn local_address(&self) -> SocketAddr {
        self.local
    }

    fn split(self) -> (RealReader, RealWriter) {
        let (reader, writer) = self.stream.into_split();
        let reader = RealReader {
            half: reader,
            offer_bytes: READ_BYTES_MIN,
        };
        (reader, RealWriter { half: writer })
    }
}

pub struct RealReader {
    half: OwnedReadHalf,
    /// Space offered to the next read: grows while reads fill it, shrinks while they do not.
    offer_bytes: usize,
}

impl Reader for RealReader {
    async fn read(&mut self, buffer: &mut BytesMut, limit: usize) -> Result<usize, NetError> {
        let offer = self.offer_bytes.min(limit);
        if buffer.capacity() - buffer.len() < offer {
            buffer.reserve(offer);
        }
        let space = (buffer.capacity() - buffer.len()).min(limit);
        let mut target = buffer.limit(space);
        let read = self.half.read_buf(&mut target).await;
        let count = read.map_err(|error| net_error("read", &error))?;
        if count == space {
            self.offer_bytes = (self.offer_bytes * 4).min(READ_BYTES_MAX);
        } else if count < self.offer_bytes / 8 {
            self.offer_bytes = (self.offer_bytes / 2).max(READ_BYTES_MIN);
        }
        Ok(count)
    }
}

pub struct RealWriter {
    half: OwnedWriteHalf,
}

impl Writer for RealWriter {
    async fn write_all(&mut self, chunks: &mut VecDeque<Bytes>) -> Result<(), NetError> {
        while !chunks.is_empty() {
            let written = poll_fn(|context| {
                let mut slices = [IoSlice::new(&[]); SLICE_COUNT_MAX];
                let mut count = 0;
                for (slice, chunk) in slices.iter_mut().zip(chunks.iter()) {
                    *slice = IoSlice::new(chunk);
                    count += 1;
                }
                Pin::new(&mut self.half).poll_write_vectored(context, &slices[..count])
            })
            .await
            .map_err(|error| net_error("write", &error))?;
            if written == 0 && chunks.iter().take(SLICE_COUNT_MAX).any(|chunk| !chunk.is_empty()) {
                return Err(NetError::new(
                    NetErrorKind::Reset,
                    "write: the connection takes no bytes",
                ));
            }
            advance(chunks, written);
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<(), NetError> {
        self.half.shutdown().await.map_err(|error| net_error("close", &error))
    }
}

/// Drops `written` bytes from the front, and empty chunks with them.
fn advance(chunks: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(chunk) = chunks.front_mut() {
        if chunk.len() > written {
            chunk.advance(written);
            return;
        }
        written -= chunk.len();
        chunks.pop_front();
    }
    debug_assert_eq!(written, 0);
}

fn net_error(what: &str, error: &io::Error) -> NetError {
    let kind = match error.kind() {
        ErrorKind::ConnectionRefused => NetErrorKind::Refused,
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::NotConnected
        | ErrorKind::UnexpectedEof => NetErrorKind::Reset,
        ErrorKind::TimedOut => NetErrorKind::TimedOut,
        ErrorKind::AddrInUse => NetErrorKind::AddressInUse,
        _ => NetErrorKind::Other,
    };
    NetError::new(kind, format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advancing_stops_inside_a_chunk_and_drops_empty_ones() {
        let mut chunks: VecDeque<Bytes> = [&b"ab"[..], b"", b"cdef"].into_iter().map(Bytes::from_static).collect();
        advance(&mut chunks, 3);
        assert_eq!(chunks, [Bytes::from_static(b"def")]);
        advance(&mut chunks, 3);
        assert!(chunks.is_empty());
    }
}
