//! A broker: it stores what producers send, hands it to consumers, and keeps over kill and power loss what it promised.
//!
//! ```text
//!              connections
//!                   │ turns of requests
//!    dispatch ─► handlers ─► operations ─► store        messages
//!                   │             └──────► state        topics, groups, offsets, locks, clients
//!          held pulls, flush waits              │
//!                   │                       persist     JSON files
//!     long_poll, acknowledger, schedule, register: one task each
//! ```
//!
//! Not here: the files of messages ([`store`](crate::store)), frames and connections ([`remoting`](crate::remoting)).
//! Invariants: a send is acknowledged only after its record was written, and under synchronous flush flushed; a topic,
//! group or new lock owner is answered only after it is durable; all that consumers can notice changes by
//! [`state::Change`].

mod dispatch;
mod handlers;
mod long_poll;
pub mod operations;
mod persist;
mod recovery;
mod register;
mod schedule;
mod settings;
pub mod state;

use std::sync::Arc;
use std::time::Duration;

use self::handlers::{Handlers, HeldPull};
use self::long_poll::LongPolls;
pub use self::operations::Operations;
use self::persist::Saver;
pub use self::persist::{SaveError, Table};
use self::register::Registry;
use crate::config::BrokerConfig;
use crate::protocol::Command;
use crate::remoting::{Connections, Inbound, Limits, Peer, Server};
use crate::runtime::{Listener as _, NetError, Runtime, TaskSet};
use crate::store::{Arrivals, OpenError, Pending, Store, StoreConfig, StoreError};
use crate::types::address::SocketAddr;

/// How long a start waits for name servers to know of this broker. Beyond, it serves all the same and goes on trying.
const REGISTRATION_WAIT: Duration = Duration::from_secs(3);

/// Period of looking for clients that have fallen silent (`ClientHousekeepingService.java`).
const EXPIRY_PERIOD: Duration = Duration::from_secs(10);

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("broker cannot listen on {address}: {error}")]
    Listen { address: SocketAddr, error: NetError },
    #[error("broker's own address: {0}")]
    Address(NetError),
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error(
        "{root} holds {pending}, which this broker keeps but does not deliver. \
         Let the official broker finish them, or start with acceptPendingState=true to serve everything else"
    )]
    Pending { root: String, pending: Pending },
    #[error("what is pending in the store cannot be counted: {0}")]
    PendingUnknown(StoreError),
    #[error("broker's tables cannot be saved")]
    Tables(#[from] SaveError),
}

/// A running broker. Dropping it stops it as a kill would; [`shutdown`](Broker::shutdown) stops it in order.
pub struct Broker<R: Runtime> {
    operations: Arc<Operations<R>>,
    server: Server<R>,
    connections: Connections<R>,
    registrations: TaskSet<R>,
    tasks: TaskSet<R>,
}

impl<R: Runtime> Broker<R> {
    /// Opens and recovers the store, loads the tables, listens, registers with the name servers.
    pub async fn start(runtime: R, config: BrokerConfig) -> Result<Broker<R>, StartError> {
        let polls = Arc::new(LongPolls::<HeldPull>::new(config.admission.pull_queue_capacity));
        let arrivals: Arc<dyn Arrivals> = polls.clone();
        let (store, recovery) = Store::open(&runtime, StoreConfig::from(&config), arrivals).await?;
        let loaded = persist::load(&runtime, &config).await;
        check_pending(&config, &store, &loaded.tables.offsets).await?;
        let recovery::Fitted { tables, is_set_back } = recovery::fit(&runtime, &config, &store, &recovery, loaded);

        let address = config.listen();
        let listener = runtime.listen(address).await;
        let listener = listener.map_err(|error| StartError::Listen { address, error })?;
        let advertised = settings::advertised(&runtime, &config, listener.local_address()).await;
        let store_host = advertised.map_err(StartError::Address)?;

        let saver = Arc::new(Saver::new());
        let registry = Arc::new(Registry::new(config.network.namesrv_addresses.0.len()));
        let operations = Arc::new(Operations::new(
            runtime.clone(),
            config,
            store_host,
            store,
            tables,
            saver,
            registry,
        ));
        persist::save_start(&operations, is_set_back).await?;

        let handlers = Arc::new(Handlers::new(operations.clone(), polls.clone()));
        let mut broker = Broker {
            server: Server::start(runtime.clone(), listener, handlers.clone(), limits(&operations.config)),
            connections: Connections::new(runtime, Arc::new(NothingAsked)),
            registrations: TaskSet::new(),
            tasks: TaskSet::new(),
            operations,
        };
        broker.spawn_tasks(&handlers, polls);
        let registered = broker.operations.registry.registered_as_of_now();
        // Not in time is no failure: see REGISTRATION_WAIT.
        let _ = broker.operations.runtime.timeout(REGISTRATION_WAIT, registered).await;
        Ok(broker)
    }

    fn spawn_tasks(&mut self, handlers: &Arc<Handlers<R>>, polls: Arc<LongPolls<HeldPull>>) {
        let runtime = self.operations.runtime.clone();
        let tasks = &mut self.tasks;
        tasks.spawn(&runtime, "broker saver", persist::run(self.operations.clone()));
        let carrying = persist::end_carrying_cuts(self.operations.clone());
        tasks.spawn(&runtime, "broker cuts", carrying);
        let own = handlers.clone();
        tasks.spawn(
            &runtime,
            "broker acknowledger",
            async move { own.run_acknowledger().await },
        );
        let own = handlers.clone();
        tasks.spawn(&runtime, "broker woken pulls", async move { own.run_woken().await });
        let (own, clock) = (polls.clone(), runtime.clone());
        tasks.spawn(
            &runtime,
            "broker pull timer",
            async move { own.run_timer(&clock).await },
        );
        let operations = self.operations.clone();
        tasks.spawn(&runtime, "broker delay levels", async move {
            schedule::run(operations, &polls.schedule_bell).await;
        });
        let own = handlers.clone();
        tasks.spawn(&runtime, "broker client expiry", async move {
            loop {
                own.operations.runtime.sleep(EXPIRY_PERIOD).await;
                let notices = own.operations.expire_clients();
                own.notify(notices);
            }
        });
        let name_servers = self.operations.config.network.namesrv_addresses.0.clone();
        for (index, address) in name_servers.into_iter().enumerate() {
            let operations = self.operations.clone();
            let registering = register::run(operations, self.connections.clone(), index, address);
            self.registrations.spawn(&runtime, "broker registration", registering);
        }
    }

    /// The address bound.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// What this broker can be asked: for gateways that speak other protocols.
    pub fn operations(&self) -> &Arc<Operations<R>> {
        &self.operations
    }

    /// The store below: for whoever inspects it.
    pub fn store(&self) -> &Store<R> {
        &self.operations.store
    }

    /// Leaves the name servers, ends the connections, saves the tables, closes the store.
    pub async fn shutdown(mut self) {
        self.registrations.shutdown().await;
        register::unregister(&self.operations, &self.connections).await;
        self.server.shutdown().await;
        self.tasks.shutdown().await;
        persist::save_all(&self.operations).await;
        self.connections.shutdown().await;
        if let Err(error) = self.operations.store.close().await {
            log::error!("store is not closed in order: {error}");
        }
    }
}

/// Refuses a store with state that only RocketMQ works on, unless that is accepted. The store is closed in order: what
/// comes next may be the official broker, and that cuts the log after an unclean stop.
async fn check_pending<R: Runtime>(
    config: &BrokerConfig,
    store: &Store<R>,
    offsets: &state::offsets::Offsets,
) -> Result<(), StartError> {
    let committed = |group: &str, topic: &str, queue_id| offsets.get(group, topic, queue_id).unwrap_or(0);
    let counted = store.count_pending(committed).await;
    let root = config.store.root_dir.display();
    let refused = match counted {
        Ok(pending) if pending.is_empty() => return Ok(()),
        Ok(pending) if config.store.accept_pending_state => {
            log::warn!("{root} holds {pending}: kept, not delivered (acceptPendingState=true)");
            return Ok(());
        }
        Ok(pending) => StartError::Pending {
            root: root.to_string(),
            pending,
        },
        Err(error) => StartError::PendingUnknown(error),
    };
    if let Err(error) = store.close().await {
        log::error!("store is not closed in order: {error}");
    }
    Err(refused)
}

fn limits(config: &BrokerConfig) -> Limits {
    Limits {
        idle_time_max: Duration::from_secs(u64::from(config.network.server_channel_max_idle_time_seconds)),
        ..Limits::default()
    }
}

/// Name servers ask nothing of a broker.
struct NothingAsked;

impl Inbound for NothingAsked {
    fn request(&self, address: &str, peer: &Peer, command: Command) {
        log::warn!("name server {address} asks {}, which no broker answers", command.code);
        let reply = Command::not_supported(&command);
        peer.answer_later(&command).reply(reply, Vec::new());
    }
}
