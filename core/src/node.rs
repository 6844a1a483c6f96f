//! The composition root: what runs in one process, for any runtime. The whole wiring at a glance.

use crate::broker::{self, Broker};
use crate::config::{Addresses, BrokerConfig, NameServerConfig};
use crate::namesrv::{self, NameServer};
use crate::runtime::Runtime;
use crate::types::address::SocketAddr;

/// What a node is made of. A broker without name servers in its configuration uses the node's own.
#[derive(Clone, Debug, Default)]
pub struct NodeConfig {
    pub name_server: Option<NameServerConfig>,
    pub broker: Option<BrokerConfig>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    NameServer(#[from] namesrv::StartError),
    #[error(transparent)]
    Broker(#[from] broker::StartError),
}

pub struct Node<R: Runtime> {
    name_server: Option<NameServer<R>>,
    broker: Option<Broker<R>>,
}

impl<R: Runtime> Node<R> {
    pub async fn start(runtime: R, config: NodeConfig) -> Result<Node<R>, StartError> {
        let mut node = Node {
            name_server: None,
            broker: None,
        };
        if let Some(config) = config.name_server {
            node.name_server = Some(NameServer::start(runtime.clone(), config).await?);
        }
        if let Some(mut config) = config.broker {
            if let (Some(own), []) = (node.name_server_address(), &config.network.namesrv_addresses.0[..]) {
                let reachable = if own.ip().is_unspecified() {
                    SocketAddr::from(([127, 0, 0, 1], own.port()))
                } else {
                    own
                };
                config.network.namesrv_addresses = Addresses(vec![reachable.to_string()]);
            }
            node.broker = Some(Broker::start(runtime, config).await?);
        }
        Ok(node)
    }

    pub fn name_server_address(&self) -> Option<SocketAddr> {
        self.name_server.as_ref().map(NameServer::address)
    }

    pub fn broker_address(&self) -> Option<SocketAddr> {
        self.broker.as_ref().map(Broker::address)
    }

    /// Ends the broker first, so that it still reaches its name server.
    pub async fn shutdown(self) {
        if let Some(broker) = self.broker {
            broker.shutdown().await;
        }
        if let Some(name_server) = self.name_server {
            name_server.shutdown().await;
        }
    }
}
