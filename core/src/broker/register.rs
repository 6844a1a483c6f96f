//! Telling name servers which topics this broker has: all of them, each by a loop of its own, every 30 s and whenever
//! topics change. Always the full table: a registration with a single topic is refused by a name server that does not
//! know the broker yet, and a lost partial update would never be made up for.
//!
//! Sources: `BrokerOuterAPI.java` (`registerBrokerAll`), `BrokerController.java`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{FutureExt, future, select_biased};

use super::operations::Operations;
use super::state::clients::EXPIRY;
use crate::protocol::body::{Body, RegisterBrokerBody, TopicConfigSerializeWrapper};
use crate::protocol::code::request;
use crate::protocol::header::{BrokerIdentityHeader, RegisterBrokerHeader};
use crate::protocol::{Command, Text};
use crate::remoting::Connections;
use crate::runtime::Runtime;
use crate::sync::{Notify, Watch};

/// Pause after a registration that failed. Short, so that a name server that comes back knows of us soon.
const RETRY_PAUSE: Duration = Duration::from_secs(3);

/// How long a stopping broker waits for a name server to take it off the list; after that it expires there.
const UNREGISTER_TIMEOUT: Duration = Duration::from_secs(2);

/// What name servers have been told.
#[derive(Debug)]
pub(super) struct Registry {
    generation: AtomicU64,
    /// Per name server, the generation that it was told last.
    told: Vec<Watch<u64>>,
    bells: Vec<Notify>,
}

impl Registry {
    pub(super) fn new(name_server_count: usize) -> Registry {
        Registry {
            generation: AtomicU64::new(1),
            told: (0..name_server_count).map(|_| Watch::new(0)).collect(),
            bells: (0..name_server_count).map(|_| Notify::new()).collect(),
        }
    }

    /// Topics have changed.
    pub(super) fn changed(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        for bell in &self.bells {
            bell.notify();
        }
    }

    /// Waits until every name server has been told of the topics as they are now.
    pub(super) async fn registered_as_of_now(&self) {
        let wanted = self.generation.load(Ordering::SeqCst);
        for told in &self.told {
            told.until(|generation| *generation >= wanted).await;
        }
    }
}

/// Keeps one name server informed, until dropped.
pub(super) async fn run<R: Runtime>(
    operations: Arc<Operations<R>>,
    connections: Connections<R>,
    index: usize,
    address: String,
) {
    let timeout = operations.config.network.register_broker_timeout;
    let registry = operations.registry.clone();
    loop {
        let generation = registry.generation.load(Ordering::SeqCst);
        let command = registration(&operations);
        let pause = match connections.call(&address, command, timeout).await {
            Ok(reply) if reply.is_success() => {
                registry.told[index].set(generation);
                operations.config.register_period()
            }
            Ok(reply) => {
                log::warn!("name server {address} refuses: {} {}", reply.code, reply.remark_text());
                RETRY_PAUSE
            }
            Err(error) => {
                log::warn!("name server {address} is not reached: {error}");
                RETRY_PAUSE
            }
        };
        if registry.generation.load(Ordering::SeqCst) != generation && pause != RETRY_PAUSE {
            continue;
        }
        select_biased! {
            () = registry.bells[index].notified().fuse() => {}
            () = operations.runtime.sleep(pause).fuse() => {}
        }
    }
}

fn registration<R: Runtime>(operations: &Operations<R>) -> Command {
    let (version, snapshot) = {
        let tables = operations.tables();
        (tables.topics.version(), tables.topics.snapshot())
    };
    let mut table = BTreeMap::new();
    for config in snapshot {
        table.insert(config.topic_name.clone(), (*config).clone());
    }
    let body = RegisterBrokerBody {
        filter_server_list: Vec::new(),
        topic_config_serialize_wrapper: TopicConfigSerializeWrapper {
            data_version: version,
            topic_config_table: table,
            ..TopicConfigSerializeWrapper::default()
        },
    }
    .write();
    let identity = &operations.config.identity;
    let header = RegisterBrokerHeader {
        broker_name: Text::from(identity.broker_name.as_str()),
        broker_address: Text::from(operations.store_host.to_string()),
        cluster_name: Text::from(identity.cluster_name.as_str()),
        ha_server_address: Text::from(operations.ha_address().to_string()),
        broker_id: identity.broker_id,
        heartbeat_timeout_ms: Some(EXPIRY.as_millis() as i64),
        enable_acting_master: Some(false),
        compressed: false,
        body_crc32: (crc32fast::hash(&body) & 0x7FFF_FFFF) as i32,
        zone_name: None,
    };
    let mut command = Command::request(request::REGISTER_BROKER).with_body(body);
    header.write(&mut command.ext);
    command
}

/// Takes this broker off every name server's list.
pub(super) async fn unregister<R: Runtime>(operations: &Operations<R>, connections: &Connections<R>) {
    let identity = &operations.config.identity;
    let header = BrokerIdentityHeader {
        broker_name: Text::from(identity.broker_name.as_str()),
        broker_address: Text::from(operations.store_host.to_string()),
        cluster_name: Text::from(identity.cluster_name.as_str()),
        broker_id: identity.broker_id,
    };
    let calls = operations.config.network.namesrv_addresses.0.iter().map(|address| {
        let mut command = Command::request(request::UNREGISTER_BROKER);
        header.write(&mut command.ext);
        connections.call(address, command, UNREGISTER_TIMEOUT)
    });
    for result in future::join_all(calls).await {
        if let Err(error) = result {
            log::info!("a name server does not take the unregistration: {error}");
        }
    }
}
