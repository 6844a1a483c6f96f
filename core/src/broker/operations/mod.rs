//! What a broker can be asked, whatever the protocol: typed requests in, typed outcomes or a [`Refusal`] out.
//!
//! Nothing here knows of remoting: a gateway for another protocol calls the same operations with a [`ClientHandle`].
//! Each operation checks, decides under the tables' short mutex, has [`Tables::apply`] carry the change out, and says
//! what must be awaited before it may be acknowledged. No lock is held across an `await`.

mod admin;
mod locks;
mod membership;
mod offsets;
mod pull;
mod refusal;
mod send;
mod send_back;
mod topics;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use admin::{QueueProgress, QueueStatistics};
pub use locks::LockOutcome;
pub use membership::{Membership, Notice};
pub use offsets::{CommitRequest, Searched};
pub use pull::{PullRequest, Pulled, PulledCode, Subscribed};
pub use refusal::{Reason, Refusal};
pub use send::{SendRequest, Stored, Turn};
pub use send_back::SendBackRequest;
pub use topics::Attributes;

use super::persist::Saver;
use super::register::Registry;
use super::state::clients::ConnectionId;
use super::state::{Change, Effects, Tables};
use crate::config::{BrokerConfig, FlushDiskType};
use crate::runtime::Runtime;
use crate::store::Store;
use crate::types::address::SocketAddr;

/// Who asks, over which connection.
#[derive(Clone, Copy, Debug)]
pub struct ClientHandle {
    pub connection: ConnectionId,
    pub address: SocketAddr,
    /// The protocol version that the client announces (`MQVersion.java`).
    pub version: i32,
}

/// Counts since start, for runtime info.
#[derive(Debug, Default)]
pub struct Counters {
    pub messages_put: AtomicU64,
    pub messages_got: AtomicU64,
    pub unsupported: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

/// The operations of one broker. Shared by all its tasks.
pub struct Operations<R: Runtime> {
    pub(super) runtime: R,
    pub(super) config: BrokerConfig,
    /// What clients are told to dial, and what goes into message ids.
    pub(super) store_host: SocketAddr,
    pub(super) store: Store<R>,
    tables: Mutex<Tables>,
    pub(super) saver: Arc<Saver>,
    pub(super) registry: Arc<Registry>,
    pub(super) counters: Counters,
    unique_count: AtomicU64,
    unique_prefix: [u8; 10],
    pub(super) started_wall: crate::runtime::WallMillis,
}

impl<R: Runtime> Operations<R> {
    pub(super) fn new(
        runtime: R,
        config: BrokerConfig,
        store_host: SocketAddr,
        store: Store<R>,
        tables: Tables,
        saver: Arc<Saver>,
        registry: Arc<Registry>,
    ) -> Operations<R> {
        let unique_prefix = send::unique_prefix(store_host, runtime.random_u64());
        let started_wall = runtime.wall();
        Operations {
            runtime,
            config,
            store_host,
            store,
            tables: Mutex::new(tables),
            saver,
            registry,
            counters: Counters::default(),
            unique_count: AtomicU64::new(0),
            unique_prefix,
            started_wall,
        }
    }

    /// The tables, for a short look or a decision. Never held across an `await`.
    pub(super) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out a change decided under the same guard, and has the touched tables saved.
    fn apply(&self, tables: &mut Tables, change: Change<'_>) -> Effects {
        let effects = tables.apply(change, self.runtime.wall());
        self.saver.touch(effects.touched);
        if effects.touched.topics {
            self.registry.changed();
        }
        effects
    }

    /// Proposes a change that needs no look at the tables first.
    pub(super) fn propose(&self, change: Change<'_>) -> Effects {
        let mut tables = self.tables();
        self.apply(&mut tables, change)
    }

    /// Where replicas would dial.
    pub(super) fn ha_address(&self) -> SocketAddr {
        let port = self
            .config
            .network
            .ha_listen_port
            .unwrap_or_else(|| self.store_host.port().wrapping_add(1));
        SocketAddr::new(self.store_host.ip(), port)
    }

    pub fn broker_name(&self) -> &str {
        &self.config.identity.broker_name
    }

    pub(super) fn is_sync_flush(&self) -> bool {
        self.config.flush.disk_type == FlushDiskType::Sync
    }

    fn broker_is_writable(&self) -> bool {
        self.config.topics.broker_permission & 2 != 0
    }

    fn broker_is_readable(&self) -> bool {
        self.config.topics.broker_permission & 4 != 0
    }
}
