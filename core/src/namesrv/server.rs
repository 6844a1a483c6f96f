//! The running name server: connections, expiry of silent brokers, saving of KV configuration.
//!
//! Decisions are [`State`]'s. A request is answered on its connection's own task within the state's lock; only a change of KV
//! configuration waits, for one owner that saves it before it counts. Laws: what a put was acknowledged for is on
//! disk; a broker whose last connection has closed is gone before its connection counts as closed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_channel::{mpsc, oneshot};
use futures_util::StreamExt;

use super::kv::KvConfig;
use super::routes::{ConnectionId, Removed};
use super::state::{Answer, KvChange, State, kv_change_reply};
use crate::config::NameServerConfig;
use crate::protocol::Command;
use crate::remoting::{Limits, Peer, Replies, Server, Service};
use crate::runtime::{Disk, DiskError, Listener, NetError, Runtime, TaskSet};
use crate::store::json::{self, JsonError};
use crate::types::address::SocketAddr;

/// Changes of KV configuration that may wait to be saved: 64, an operator's commands. Beyond, one is refused.
const KV_CHANGES_WAITING_MAX: usize = 64;

const CLOSING: &str = "the name server is closing";

/// Why a name server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("listen on {address}: {source}")]
    Listen { address: SocketAddr, source: NetError },
    #[error("KV configuration: {0}")]
    Kv(#[from] JsonError),
}

/// A name server that answers. Dropping it cuts every connection.
pub struct NameServer<R: Runtime> {
    server: Server<R>,
    tasks: TaskSet<R>,
    shared: Arc<Shared>,
}

impl<R: Runtime> NameServer<R> {
    /// Reads the KV configuration, listens and answers.
    pub async fn start(runtime: R, config: NameServerConfig) -> Result<NameServer<R>, StartError> {
        let kv_path = config.kv_config_path.as_deref().map(anchored);
        let kv = match &kv_path {
            Some(path) => {
                make_folders(runtime.disk(), path).await.map_err(JsonError::from)?;
                json::load(runtime.disk(), path).await?.unwrap_or_default()
            }
            None => KvConfig::default(),
        };
        let address = config.listen();
        let listened = runtime.listen(address).await;
        let listener = listened.map_err(|source| StartError::Listen { address, source })?;
        let limits = Limits {
            idle_time_max: Duration::from_secs(u64::from(config.server_channel_max_idle_time_seconds)),
            ..Limits::default()
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(config, kv)),
            peers: Mutex::default(),
        });
        let (changes, waiting) = mpsc::channel(KV_CHANGES_WAITING_MAX);
        let mut tasks = TaskSet::new();
        tasks.spawn(
            &runtime,
            "name server expiry",
            expire(runtime.clone(), Arc::clone(&shared)),
        );
        let saving = save(runtime.clone(), Arc::clone(&shared), kv_path, waiting);
        tasks.spawn(&runtime, "name server KV configuration", saving);
        let front = Front {
            runtime: runtime.clone(),
            shared: Arc::clone(&shared),
            changes: Mutex::new(changes),
        };
        log::info!("name server listens on {}", listener.local_address());
        Ok(NameServer {
            server: Server::start(runtime, listener, Arc::new(front), limits),
            tasks,
            shared,
        })
    }

    /// The address bound, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Reads the state, for tests and views.
    pub fn with_state<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&lock(&self.shared.state))
    }

    /// Closes the port and every connection.
    pub async fn shutdown(mut self) {
        self.server.shutdown().await;
        self.tasks.shutdown().await;
    }
}

struct Shared {
    state: Mutex<State>,
    peers: Mutex<BTreeMap<ConnectionId, Peer>>,
}

impl Shared {
    /// Ends the connections of brokers that were removed for their silence.
    fn close(&self, removed: &[Removed]) {
        let peers = lock(&self.peers);
        for broker in removed {
            if let Some(peer) = peers.get(&broker.connection) {
                peer.close();
            }
        }
    }
}

/// A change, and whom to tell that it is saved or refused.
struct Waiting {
    change: KvChange,
    done: oneshot::Sender<Result<(), String>>,
}

struct Front<R: Runtime> {
    runtime: R,
    shared: Arc<Shared>,
    /// One sender: each clone would add to the limit.
    changes: Mutex<mpsc::Sender<Waiting>>,
}

impl<R: Runtime> Service for Front<R> {
    fn opened(&self, peer: &Peer) {
        lock(&self.shared.peers).insert(peer.id(), peer.clone());
    }

    fn closed(&self, peer: &Peer) {
        lock(&self.shared.peers).remove(&peer.id());
        for broker in lock(&self.shared.state).connection_closed(peer.id()) {
            log::warn!(
                "broker {} at {} removed: its connection closed",
                broker.broker_name,
                broker.address
            );
        }
    }

    async fn serve(&self, peer: &Peer, commands: &mut Vec<Command>, replies: &mut Replies) {
        for command in commands.drain(..) {
            let answer = lock(&self.shared.state).answer(peer.id(), self.runtime.mono(), &command);
            let reply = match answer {
                Answer::Reply(reply) => reply,
                Answer::Change(change) => kv_change_reply(&command, self.change(change).await),
            };
            replies.push(reply, Vec::new());
        }
    }
}

impl<R: Runtime> Front<R> {
    async fn change(&self, change: KvChange) -> Result<(), String> {
        let (done, decided) = oneshot::channel();
        let sent = lock(&self.changes).try_send(Waiting { change, done });
        sent.map_err(|error| match error.is_full() {
            true => format!("{KV_CHANGES_WAITING_MAX} changes are being saved"),
            false => CLOSING.to_owned(),
        })?;
        decided.await.map_err(|_| CLOSING.to_owned())?
    }
}

/// Looks for silent brokers.
async fn expire<R: Runtime>(runtime: R, shared: Arc<Shared>) {
    loop {
        let interval = lock(&shared.state).scan_interval();
        runtime.sleep(interval).await;
        let removed = lock(&shared.state).expire(runtime.mono());
        for broker in &removed {
            log::warn!(
                "broker {} at {} removed: silent for too long",
                broker.broker_name,
                broker.address
            );
        }
        shared.close(&removed);
    }
}

/// Decides and saves changes of KV configuration, one after another.
async fn save<R: Runtime>(
    runtime: R,
    shared: Arc<Shared>,
    path: Option<PathBuf>,
    mut waiting: mpsc::Receiver<Waiting>,
) {
    while let Some(Waiting { change, done }) = waiting.next().await {
        let mut kv = lock(&shared.state).kv().clone();
        let mut decided = change.apply(&mut kv).map_err(|refused| refused.to_string());
        if decided.is_ok()
            && let Some(path) = &path
        {
            decided = store(&runtime, path, &kv).await;
        }
        if decided.is_ok() {
            lock(&shared.state).set_kv(kv);
        }
        // The connection may have closed meanwhile.
        let _ = done.send(decided);
    }
}

async fn store<R: Runtime>(runtime: &R, path: &Path, kv: &KvConfig) -> Result<(), String> {
    let saved = json::save(runtime.disk(), path, kv).await;
    saved.map_err(|error| {
        log::error!("KV configuration is not saved: {error}");
        format!("not saved: {error}")
    })
}

/// The path with a folder in it.
fn anchored(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => path.to_path_buf(),
        _ => Path::new(".").join(path),
    }
}

/// Makes the folders above `path` and their names durable: what is saved below must not vanish with them. Folders that
/// are not ours may refuse to be synced; they were there before.
async fn make_folders<D: Disk>(disk: &D, path: &Path) -> Result<(), DiskError> {
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    disk.create_dir_all(folder).await?;
    for above in folder.ancestors().filter(|above| !above.as_os_str().is_empty()) {
        if let Err(error) = disk.sync_dir(above).await {
            log::debug!("not synced: {error}");
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
