//! The broker's address, out of the configuration.

use crate::config::BrokerConfig;
use crate::runtime::{NetError, NetErrorKind, Runtime};
use crate::types::address::{IpAddr, Ipv4Addr, SocketAddr};

/// The address that clients are told: `brokerIP1`, else the one bound, else this host's own.
pub(super) async fn advertised<R: Runtime>(
    runtime: &R,
    config: &BrokerConfig,
    bound: SocketAddr,
) -> Result<SocketAddr, NetError> {
    let port = bound.port();
    let Some(name) = &config.network.broker_ip1 else {
        let ip = if bound.ip().is_unspecified() {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        } else {
            bound.ip()
        };
        return Ok(SocketAddr::new(ip, port));
    };
    if let Ok(ip) = name.parse() {
        return Ok(SocketAddr::new(ip, port));
    }
    let found = runtime.resolve(&format!("{name}:{port}")).await?;
    let first = found.first().copied();
    first.ok_or_else(|| NetError::new(NetErrorKind::NameNotFound, format!("brokerIP1={name} has no address")))
}
