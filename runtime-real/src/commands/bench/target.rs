//! Where the load goes: the brokers and queues of a topic, as a name server tells them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, bail};
use orrery_core::protocol::Command;
use orrery_core::protocol::code::{request, response};
use orrery_core::runtime::Runtime;
use orrery_runtime_real::Real;
use serde::Deserialize;

use super::Shared;
use super::connection::Connection;

/// Template of topics that a first send creates.
pub(super) const DEFAULT_TOPIC: &str = "TBW102";
/// Queues of a topic that a first send creates, as Java clients ask for.
pub(super) const DEFAULT_QUEUE_COUNT: u16 = 4;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Write,
    Read,
}

/// One master broker and how many queues of the topic it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) broker_name: String,
    pub(super) queue_count: u16,
}

/// The masters that serve the topic, at least one.
pub(super) async fn find(shared: &Shared, real: &Real, purpose: Purpose) -> anyhow::Result<Vec<Target>> {
    if let Some(broker) = &shared.broker {
        return Ok(vec![Target {
            address: resolve(real, broker).await?,
            broker_name: String::new(),
            queue_count: shared.queues,
        }]);
    }
    let namesrv = &shared.namesrv;
    let address = resolve(real, namesrv).await?;
    let mut connection = Connection::open(real, address).await.with_context(|| {
        format!("name server {namesrv} does not answer; start one with `orrery up`, or name one with -n")
    })?;
    if let Some(route) = route(&mut connection, real, &shared.topic).await? {
        return targets(real, &route, purpose, u16::MAX).await;
    }
    match (purpose, route(&mut connection, real, DEFAULT_TOPIC).await?) {
        (Purpose::Write, Some(route)) => targets(real, &route, purpose, DEFAULT_QUEUE_COUNT).await,
        (Purpose::Read, _) => bail!("no topic {} at {namesrv}; send to it first", shared.topic),
        (Purpose::Write, None) => {
            bail!(
                "no topic {} at {namesrv}, and no broker there creates topics",
                shared.topic
            )
        }
    }
}

async fn resolve(real: &Real, host_and_port: &str) -> anyhow::Result<SocketAddr> {
    let first = real.resolve(host_and_port).await?.into_iter().next();
    first.with_context(|| format!("{host_and_port} has no address"))
}

async fn route(connection: &mut Connection, real: &Real, topic: &str) -> anyhow::Result<Option<Route>> {
    let command = Command::request(request::GET_ROUTEINFO_BY_TOPIC)
        .with("topic", topic)
        .with("acceptStandardJsonOnly", "true");
    let reply = connection.call(real, &command).await?;
    match reply.code {
        response::SUCCESS => Ok(Some(
            serde_json::from_slice(&reply.body).context("the name server's route")?,
        )),
        response::TOPIC_NOT_EXIST => Ok(None),
        code => bail!("name server: code {code}: {}", reply.remark_text()),
    }
}

async fn targets(real: &Real, route: &Route, purpose: Purpose, queue_count_max: u16) -> anyhow::Result<Vec<Target>> {
    let mut targets = Vec::new();
    for queue in &route.queue_datas {
        let (permission, queue_count) = match purpose {
            Purpose::Write => (2, queue.write_queue_nums),
            Purpose::Read => (4, queue.read_queue_nums),
        };
        let broker = route
            .broker_datas
            .iter()
            .find(|broker| broker.broker_name == queue.broker_name);
        let Some(master) = broker.and_then(|broker| broker.broker_addrs.get("0")) else {
            continue;
        };
        if queue.perm & permission != 0 && queue_count > 0 {
            targets.push(Target {
                address: resolve(real, master).await?,
                broker_name: queue.broker_name.clone(),
                queue_count: queue_count.min(queue_count_max),
            });
        }
    }
    if targets.is_empty() {
        bail!("the topic has no queue on a master broker");
    }
    Ok(targets)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Route {
    queue_datas: Vec<QueueData>,
    broker_datas: Vec<BrokerData>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct QueueData {
    broker_name: String,
    perm: u32,
    read_queue_nums: u16,
    write_queue_nums: u16,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BrokerData {
    broker_name: String,
    broker_addrs: BTreeMap<String, String>,
}
