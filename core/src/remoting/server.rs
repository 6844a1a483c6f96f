//! The accepting end: connections in, one task each.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::{FutureExt, select_biased};

use super::peer::Identity;
use super::{Limits, Peer, Replies, Service, connection};
use crate::protocol::Command;
use crate::protocol::frame::HeaderType;
use crate::runtime::{Listener, Runtime, Stream, TaskSet};
use crate::sync::lock;
use crate::types::address::SocketAddr;

/// Pause after a failed accept, doubled from one to the next: descriptors that have run out come back in time.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long a shutdown waits for connections to write what they have. Then they are cut.
const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(1);

/// A listening server. Dropping it cuts every connection.
pub struct Server<R: Runtime> {
    address: SocketAddr,
    peers: Arc<Peers>,
    stop: oneshot::Sender<()>,
    task: R::Task<()>,
}

/// The open connections.
#[derive(Default)]
struct Peers {
    open: Mutex<BTreeMap<u64, Peer>>,
    late_count: Arc<AtomicU64>,
}

impl<R: Runtime> Server<R> {
    /// Serves the connections of `listener` with `service`.
    pub fn start<S: Service>(runtime: R, listener: R::Listener, service: Arc<S>, limits: Limits) -> Server<R> {
        let address = listener.local_address();
        let peers = Arc::new(Peers::default());
        let (stop, stopped) = oneshot::channel();
        let service = Arc::new(Registered {
            peers: Arc::clone(&peers),
            service,
        });
        let accepting = accept(runtime.clone(), listener, service, limits, stopped);
        let task = runtime.spawn("remoting server", accepting);
        Server {
            address,
            peers,
            stop,
            task,
        }
    }

    /// The address bound, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn connection_count(&self) -> usize {
        lock(&self.peers.open).len()
    }

    /// Replies of clients that nobody waited for any more.
    pub fn late_reply_count(&self) -> u64 {
        self.peers.late_count.load(Ordering::Relaxed)
    }

    /// Closes the port and every connection; returns when all their tasks have ended or are cut.
    pub async fn shutdown(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

async fn accept<R: Runtime, S: Service>(
    runtime: R,
    listener: R::Listener,
    service: Arc<Registered<S>>,
    limits: Limits,
    stopped: oneshot::Receiver<()>,
) {
    let mut tasks = TaskSet::<R>::new();
    let mut stopped = stopped.fuse();
    let mut next_id = 1;
    let mut pause = ACCEPT_PAUSE_MIN;
    loop {
        let accepted = {
            let mut accepting = pin!(listener.accept().fuse());
            select_biased! {
                _ = stopped => break,
                accepted = accepting => accepted,
            }
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                log::warn!("{error}; next try in {} ms", pause.as_millis());
                runtime.sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
                continue;
            }
        };
        pause = ACCEPT_PAUSE_MIN;
        let peers = &service.peers;
        if lock(&peers.open).len() >= limits.connection_count_max {
            let remote = stream.peer_address();
            log::warn!(
                "{} connections are open, {remote} is refused",
                limits.connection_count_max
            );
            continue;
        }
        let identity = Identity {
            id: next_id,
            remote: stream.peer_address(),
            local: stream.local_address(),
        };
        next_id += 1;
        let peer = Peer::new(identity, limits, HeaderType::Json, Arc::clone(&peers.late_count));
        lock(&peers.open).insert(peer.id(), peer.clone());
        let serving = connection::run(runtime.clone(), stream, peer, Arc::clone(&service), limits);
        tasks.spawn(&runtime, "remoting connection", serving);
    }
    drop(listener);
    for peer in lock(&service.peers.open).values() {
        peer.close();
    }
    let _ = runtime.timeout(SHUTDOWN_TIME_MAX, tasks.join()).await;
}

/// The service, with the table of connections kept.
struct Registered<S> {
    peers: Arc<Peers>,
    service: Arc<S>,
}

impl<S: Service> Service for Registered<S> {
    fn opened(&self, peer: &Peer) {
        self.service.opened(peer);
    }

    fn closed(&self, peer: &Peer) {
        lock(&self.peers.open).remove(&peer.id());
        self.service.closed(peer);
    }

    fn serve(
        &self,
        peer: &Peer,
        commands: &mut Vec<Command>,
        replies: &mut Replies,
    ) -> impl Future<Output = ()> + Send {
        self.service.serve(peer, commands, replies)
    }
}
