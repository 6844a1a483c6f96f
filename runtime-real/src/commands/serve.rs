//! `orrery up`, `orrery namesrv` and `orrery broker`: a process that serves until it is told to stop.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use orrery_core::config::{Addresses, BrokerConfig, NameServerConfig, UnknownKey};
use orrery_core::node::{Node, NodeConfig, StartError};
use orrery_runtime_real::Real;

use super::Failure;
use super::stop::Stop;

#[derive(Args)]
pub(crate) struct Up {
    /// Folder for messages and settings; created if absent
    #[arg(long, default_value = "orrery-data")]
    dir: PathBuf,
    /// Address that clients connect to. Other than loopback: listens on every interface
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    host: Ipv4Addr,
    /// Port of the name server; 0 picks a free one
    #[arg(long, default_value_t = 9876, value_name = "PORT")]
    namesrv_port: u16,
    /// Port of the broker; 0 picks a free one
    #[arg(long, default_value_t = 10911, value_name = "PORT")]
    broker_port: u16,
}

#[derive(Args)]
pub(crate) struct NameServer {
    /// RocketMQ properties file
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on, over the file's
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
}

#[derive(Args)]
pub(crate) struct Broker {
    /// RocketMQ properties file
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name servers, over the file's
    #[arg(short, long, value_name = "HOST:PORT;HOST:PORT")]
    namesrv: Option<String>,
}

/// Name server and broker in one process, without a file or a flag.
pub(crate) async fn up(arguments: Up, real: Real) -> Result<u8, Failure> {
    let mut stop = Stop::listen()?;
    let bind = match arguments.host {
        host if host.is_loopback() => IpAddr::V4(host),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let dir = std::path::absolute(&arguments.dir)?;
    let name_server = NameServerConfig {
        bind_address: bind,
        listen_port: arguments.namesrv_port,
        kv_config_path: Some(dir.join("namesrv").join("kvConfig.json")),
        ..NameServerConfig::default()
    };
    let mut broker = BrokerConfig::default();
    broker.network.bind_address = bind;
    broker.network.listen_port = arguments.broker_port;
    broker.network.broker_ip1 = Some(arguments.host.to_string());
    broker.store.root_dir = dir.join("store");
    let config = NodeConfig {
        name_server: Some(name_server),
        broker: Some(broker),
    };
    let node = Node::start(real, config)
        .await
        .map_err(|error| explain(error, &arguments, &dir))?;
    greet(&node, &arguments, &dir);
    stop.wait().await;
    eprintln!("stopping");
    node.shutdown().await;
    Ok(0)
}

fn explain(error: StartError, arguments: &Up, dir: &Path) -> Failure {
    let advice = match &error {
        StartError::NameServer(_) => format!(
            "name server on port {}: is one running already? Stop it, or choose another port with --namesrv-port",
            arguments.namesrv_port
        ),
        StartError::Broker(_) => format!(
            "broker on port {} with data in {}: is one running already? Stop it, or choose others with --broker-port and --dir",
            arguments.broker_port,
            dir.display()
        ),
    };
    Failure::Operation(anyhow!(error).context(advice))
}

fn greet(node: &Node<Real>, arguments: &Up, dir: &Path) {
    let port = |address: Option<SocketAddr>| address.map_or(0, |address| address.port());
    let (namesrv_port, broker_port) = (port(node.name_server_address()), port(node.broker_address()));
    let host = arguments.host;
    let orrery = std::env::args().next().unwrap_or_else(|| "orrery".to_owned());
    let server = match (host, namesrv_port) {
        (Ipv4Addr::LOCALHOST, 9876) => String::new(),
        _ => format!(" -n {host}:{namesrv_port}"),
    };
    println!(
        "Orrery {} is up\n\n  name server  {host}:{namesrv_port}\n  broker       {host}:{broker_port}\n  data         {}\n\n\
         Try, in another terminal:\n\n  \
         {orrery} produce{server} --topic hello \"first message\"\n  \
         {orrery} consume{server} --topic hello --from first\n  \
         {orrery} bench producer{server} -w 64 -s 1024 --seconds 10\n\nCtrl-C stops it.",
        env!("CARGO_PKG_VERSION"),
        dir.display()
    );
}

pub(crate) async fn name_server(arguments: NameServer, real: Real) -> Result<u8, Failure> {
    let mut stop = Stop::listen()?;
    let mut config = match &arguments.config {
        None => NameServerConfig::default(),
        Some(path) => configured(path, NameServerConfig::from_properties)?,
    };
    if let Some(listen) = arguments.listen {
        config.bind_address = listen.ip();
        config.listen_port = listen.port();
    }
    let config = NodeConfig {
        name_server: Some(config),
        broker: None,
    };
    let node = Node::start(real, config).await?;
    if let Some(address) = node.name_server_address() {
        println!("name server on {address}");
    }
    stop.wait().await;
    node.shutdown().await;
    Ok(0)
}

pub(crate) async fn broker(arguments: Broker, real: Real) -> Result<u8, Failure> {
    let mut stop = Stop::listen()?;
    let mut config = match &arguments.config {
        None => BrokerConfig::default(),
        Some(path) => configured(path, BrokerConfig::from_properties)?,
    };
    if let Some(namesrv) = &arguments.namesrv {
        let text = format!("namesrvAddr={namesrv}");
        let (from_flag, _) = BrokerConfig::from_properties("-n", &text).map_err(Failure::usage)?;
        config.network.namesrv_addresses = from_flag.network.namesrv_addresses;
    }
    if config.network.broker_ip1.is_none() {
        config.network.broker_ip1 = Some(own_address(&config.network.namesrv_addresses).to_string());
    }
    let (name, ip) = (
        config.identity.broker_name.clone(),
        config.network.broker_ip1.clone().unwrap_or_default(),
    );
    let node = Node::start(
        real,
        NodeConfig {
            name_server: None,
            broker: Some(config),
        },
    )
    .await?;
    if let Some(address) = node.broker_address() {
        println!("broker {name} on {address}, known as {ip}:{}", address.port());
    }
    stop.wait().await;
    node.shutdown().await;
    Ok(0)
}

/// Reads a properties file; says once which of its keys mean nothing here.
fn configured<C, E>(path: &Path, read: impl FnOnce(&str, &str) -> Result<(C, Vec<UnknownKey>), E>) -> Result<C, Failure>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let name = path.display().to_string();
    let text = fs::read_to_string(path)
        .with_context(|| name.clone())
        .map_err(Failure::Usage)?;
    let (config, unknown) = read(&name, &text).map_err(Failure::usage)?;
    if !unknown.is_empty() {
        let keys: Vec<String> = unknown
            .iter()
            .map(|key| format!("{} (line {})", key.key, key.line))
            .collect();
        log::warn!("{name}: without effect here: {}", keys.join(", "));
    }
    Ok(config)
}

/// The address of this machine on the way to the first name server; loopback if there is none. Sends nothing.
fn own_address(name_servers: &Addresses) -> IpAddr {
    let probe = || {
        let name_server = name_servers.0.first()?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect(name_server.as_str()).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    probe().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}
