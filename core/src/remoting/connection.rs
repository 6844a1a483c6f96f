//! One connection, one task: read, serve, write.

use std::future::pending;
use std::pin::{Pin, pin};
use std::sync::Arc;

use bytes::BytesMut;
use futures_util::{FutureExt, select_biased};

use super::{Limits, Peer, Replies, Service};
use crate::protocol::frame::{self, FrameError, Outgoing};
use crate::protocol::{Command, ExtFields};
use crate::runtime::{Elapsed, Mono, NetError, Reader, Runtime, Stream, Writer};

/// First byte of a TLS ClientHello; a frame begins with 0 or 1.
const TLS_HANDSHAKE: u8 = 0x16;

/// Emptied field lists that a connection keeps, 48 KiB at most: no more than its last turn needed.
const SPARE_COUNT_MAX: usize = 64;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("closed by us")]
    Closed,
    #[error("closed by the peer")]
    ClosedByPeer,
    #[error("no traffic for {} s", .0.as_secs())]
    Idle(std::time::Duration),
    #[error("the peer has not read for {} s", .0.as_secs())]
    NotReading(std::time::Duration),
    #[error("the peer speaks TLS, which this port does not")]
    Tls,
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Network(#[from] NetError),
}

impl End {
    /// The peer's fault, which its operator may want to know.
    fn is_noteworthy(&self) -> bool {
        matches!(self, End::NotReading(_) | End::Tls | End::Frame(_))
    }
}

/// Runs a connection until it ends, however that happens.
pub(super) async fn run<R: Runtime, S: Service>(
    runtime: R,
    stream: R::Stream,
    peer: Peer,
    service: Arc<S>,
    limits: Limits,
) {
    let mut guard = Guard {
        peer: peer.clone(),
        service: Arc::clone(&service),
        reason: "the connection's task was stopped".to_owned(),
    };
    peer.heard(runtime.mono());
    service.opened(&peer);
    let (reader, writer) = stream.split();
    let connection = Connection::<R, S> {
        last_traffic: runtime.mono(),
        out: Outgoing::new(limits.frame),
        replies: Replies::new(limits.frame),
        buffer: BytesMut::new(),
        commands: Vec::new(),
        spare_fields: Vec::new(),
        broken: None,
        greeted: false,
        read_since_yield: 0,
        runtime,
        reader,
        writer,
        peer,
        service,
        limits,
    };
    let end = connection.run().await;
    guard.reason = end.to_string();
    if end.is_noteworthy() {
        log::warn!("{:?}: {end}", guard.peer);
    } else {
        log::debug!("{:?}: {end}", guard.peer);
    }
}

/// Closes the peer and tells the service, also when the task is cancelled or panics.
struct Guard<S: Service> {
    peer: Peer,
    service: Arc<S>,
    reason: String,
}

impl<S: Service> Drop for Guard<S> {
    fn drop(&mut self) {
        self.peer.shut(&self.reason);
        self.service.closed(&self.peer);
    }
}

struct Connection<R: Runtime, S: Service> {
    runtime: R,
    reader: <R::Stream as Stream>::Reader,
    writer: <R::Stream as Stream>::Writer,
    peer: Peer,
    service: Arc<S>,
    limits: Limits,
    buffer: BytesMut,
    commands: Vec<Command>,
    /// Emptied field lists of the last turn's requests, for the next ones.
    spare_fields: Vec<ExtFields>,
    replies: Replies,
    out: Outgoing,
    /// What follows the frames read so far is none: to be reported once those are answered.
    broken: Option<FrameError>,
    /// The first byte has been looked at.
    greeted: bool,
    last_traffic: Mono,
    read_since_yield: usize,
}

enum Event {
    Stirred,
    Read(Result<usize, NetError>),
    Timer,
}

/// Whether the buffer may hold more whole frames.
#[derive(PartialEq)]
enum Rest {
    Perhaps,
    None,
    /// There may be, but the peer is owed too many answers.
    NotNow,
}

impl<R: Runtime, S: Service> Connection<R, S> {
    async fn run(mut self) -> End {
        let idle_time_max = self.limits.idle_time_max;
        let mut timer = pin!(self.runtime.sleep(idle_time_max));
        loop {
            let rest = self.serve_arrived().await;
            if let Err(end) = self.write_queued().await {
                return end;
            }
            if let Some(error) = self.broken.take() {
                return error.into();
            }
            if self.peer.is_closing() {
                return End::Closed;
            }
            if rest == Rest::Perhaps || self.read_since_yield >= self.limits.turn_size_max {
                self.read_since_yield = 0;
                self.runtime.yield_now().await;
            }
            if rest == Rest::Perhaps {
                continue;
            }
            match self.wait(timer.as_mut(), rest).await {
                Event::Stirred => {}
                Event::Read(Ok(0)) => return End::ClosedByPeer,
                Event::Read(Ok(size)) => {
                    self.read_since_yield += size;
                    self.last_traffic = self.runtime.mono();
                    self.peer.heard(self.last_traffic);
                    if let Err(end) = self.greet() {
                        return end;
                    }
                }
                Event::Read(Err(error)) => return error.into(),
                Event::Timer => {
                    let quiet = self.runtime.mono().since(self.last_traffic);
                    if quiet >= idle_time_max {
                        return End::Idle(idle_time_max);
                    }
                    timer.set(self.runtime.sleep(idle_time_max - quiet));
                }
            }
        }
    }

    /// Replies first: they free what requests hold.
    async fn wait(&mut self, timer: Pin<&mut (impl Future<Output = ()> + Send)>, rest: Rest) -> Event {
        let limit = self.limits.turn_size_max;
        let (reader, buffer) = (&mut self.reader, &mut self.buffer);
        let read = async {
            if rest == Rest::NotNow {
                return pending().await;
            }
            reader.read(buffer, limit).await
        };
        let mut read = pin!(read.fuse());
        let mut stirring = pin!(self.peer.stirring().fuse());
        select_biased! {
            () = stirring => Event::Stirred,
            read = read => Event::Read(read),
            () = timer.fuse() => Event::Timer,
        }
    }

    fn greet(&mut self) -> Result<(), End> {
        if !self.greeted {
            self.greeted = true;
            if self.buffer.first() == Some(&TLS_HANDSHAKE) {
                return Err(End::Tls);
            }
        }
        Ok(())
    }

    /// Serves the whole frames that are there, at most one helping of them.
    async fn serve_arrived(&mut self) -> Rest {
        if self.buffer.is_empty() {
            return Rest::None;
        }
        let count_max = self.peer.allowance().min(self.limits.turn_count_max);
        if count_max == 0 {
            return Rest::NotNow;
        }
        let rest = self.decode(count_max);
        if !self.commands.is_empty() {
            self.replies.expect(&self.commands);
            self.service
                .serve(&self.peer, &mut self.commands, &mut self.replies)
                .await;
            self.spare_fields.clear();
            let served = self.commands.drain(..);
            let spare = served.take(SPARE_COUNT_MAX).map(|command| command.ext.emptied());
            self.spare_fields.extend(spare);
            self.out.append(self.replies.outgoing());
        }
        rest
    }

    fn decode(&mut self, count_max: usize) -> Rest {
        while self.commands.len() < count_max {
            let mut fields = self.spare_fields.pop().unwrap_or_default();
            let decoded = frame::decode_into(&mut self.buffer, &self.limits.frame, &mut fields);
            match decoded {
                Ok(Some(reply)) if reply.is_reply() => self.peer.complete(reply),
                Ok(Some(request)) => self.commands.push(request),
                Ok(None) => {
                    self.spare_fields.push(fields);
                    return Rest::None;
                }
                Err(error) => {
                    self.broken = Some(error);
                    return Rest::None;
                }
            }
        }
        Rest::Perhaps
    }

    /// Writes the turn's replies and what others have queued.
    async fn write_queued(&mut self) -> Result<(), End> {
        self.peer.take_queued(&mut self.out);
        if self.out.is_empty() {
            return Ok(());
        }
        let time_max = self.limits.write_time_max;
        let chunks = self.out.take();
        let write = self.runtime.timeout(time_max, self.writer.write_all(chunks));
        let mut write = pin!(write.fuse());
        let mut closing = pin!(self.peer.closing().fuse());
        let written = select_biased! {
            written = write => written,
            () = closing => return Err(End::Closed),
        };
        match written {
            Ok(Ok(())) => {
                self.last_traffic = self.runtime.mono();
                Ok(())
            }
            Ok(Err(error)) => Err(error.into()),
            Err(Elapsed) => Err(End::NotReading(time_max)),
        }
    }
}
