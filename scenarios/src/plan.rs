//! A plan: everything a run is made of, as data that people can read and edit.
//!
//! A seed only generates a plan ([`generate`](crate::generate)); what is run is the plan. Times are milliseconds of true
//! time since the nodes were booted. The plan's `seed` feeds the keyed draws of network, disks and workloads, so that taking one
//! fault out does not roll the dice of the others again. `docs/plan.md` describes the format.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Version of the format that this program writes. It reads all up to it.
pub const VERSION: u32 = 1;

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Version of the format, [`VERSION`].
    #[serde(default = "first_version")]
    pub version: u32,
    /// What the plan is for: the story of the bug it caught, or how it was generated.
    #[serde(default)]
    pub story: String,
    pub seed: u64,
    /// Seed of the order in which tasks run that are ready at the same time; without it, `seed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<u64>,
    /// For how long producers send and faults may strike.
    pub duration_ms: u64,
    /// Longest time given to consumers afterwards, without faults.
    #[serde(default = "drain_ms")]
    pub drain_ms: u64,
    #[serde(default)]
    pub network: Network,
    /// Sites switched on for the whole run, with their probability per asking.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sites: BTreeMap<String, f64>,
    /// The property that a run violates while `sites` are on: what this plan is kept for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
    pub name_servers: u32,
    pub brokers: Vec<BrokerPlan>,
    pub topics: Vec<TopicPlan>,
    pub groups: Vec<GroupPlan>,
    pub clients: Vec<ClientPlan>,
    #[serde(default)]
    pub faults: Vec<Fault>,
}

/// Plans written before there was a version.
fn first_version() -> u32 {
    1
}

fn drain_ms() -> u64 {
    180_000
}

/// The network without faults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    pub latency_us: u64,
    pub jitter_us: u64,
    /// A connection whose peer acknowledges nothing for this long is reset.
    pub user_timeout_ms: u64,
}

impl Default for Network {
    fn default() -> Network {
        Network {
            latency_us: 250,
            jitter_us: 500,
            user_timeout_ms: 30_000,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flush {
    Sync,
    Async,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerPlan {
    /// Broker name and node name at once.
    pub name: String,
    pub flush: Flush,
    /// Further RocketMQ properties, as in `broker.conf`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicPlan {
    pub name: String,
    /// On each broker.
    pub queues: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    Orderly,
    Concurrent,
}

/// A consumer group and what its listeners do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupPlan {
    pub name: String,
    pub order: Order,
    pub topics: Vec<String>,
    /// Most calls take up to this long.
    pub listen_ms: u64,
    /// A few take this long.
    #[serde(default)]
    pub slow_ms: u64,
    #[serde(default)]
    pub slow_percent: f64,
    /// Share of deliveries that the listener refuses.
    #[serde(default)]
    pub later_percent: f64,
}

/// A process with a producer, or members of groups, or both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientPlan {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub produces: Option<Produces>,
    #[serde(default)]
    pub joins: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Produces {
    pub topics: Vec<String>,
    pub per_second: u64,
    /// Sends after which the producer is done; without it, it sends for the whole duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<u64>,
    /// Bodies up to this size; most are small.
    pub size_max: u64,
    /// Share of sends that do not wait for the store (`waitStoreMsgOK=false`).
    #[serde(default)]
    pub unwaited_percent: f64,
    /// Share of sends that are batches of a few messages.
    #[serde(default)]
    pub batch_percent: f64,
    /// Share of sends without an answer.
    #[serde(default)]
    pub one_way_percent: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    pub at_ms: u64,
    #[serde(flatten)]
    pub what: FaultPlan,
}

/// Operations of a disk that fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskErrorKind {
    Read,
    Write,
    /// A part of it arrives.
    ShortWrite,
    /// What was written may be lost, whatever a later sync says.
    Sync,
}

/// What strikes. `for_ms` is how long until it is undone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum FaultPlan {
    /// The process dies; the page cache stays.
    Kill { node: String, for_ms: u64 },
    /// The machine dies; what was not synced is kept, torn or lost.
    PowerLoss { node: String, for_ms: u64 },
    /// Packets vanish between two sides.
    Cut {
        from: Vec<String>,
        to: Vec<String>,
        /// In both directions.
        both: bool,
        for_ms: u64,
    },
    /// The process stands still, its kernel does not.
    Pause { node: String, for_ms: u64 },
    /// The wall clock jumps, and stays there.
    ClockStep { node: String, by_ms: i64 },
    /// Both clocks of a node run fast or slow.
    ClockDrift {
        node: String,
        parts_per_million: i64,
        for_ms: u64,
    },
    /// Every sync takes longer.
    DiskSlow { node: String, sync_ms: u64, for_ms: u64 },
    /// The disk does not answer.
    DiskStall { node: String, for_ms: u64 },
    /// Some operations of a kind fail. At the end the process is started again, as an operator would: a log that has met a failed write or
    /// sync takes nothing more until then.
    DiskErrors {
        node: String,
        of: DiskErrorKind,
        percent: f64,
        for_ms: u64,
    },
    /// Nothing more fits on the disk. At the end there is room, and the process is started again.
    DiskFull { node: String, for_ms: u64 },
    /// Every packet from and to the node is late, and some are lost.
    Link {
        node: String,
        latency_ms: u64,
        loss_percent: f64,
        for_ms: u64,
    },
}

/// What can be read of a plan of any version.
#[derive(Deserialize)]
struct Versioned {
    #[serde(default = "first_version")]
    version: u32,
}

/// A plan that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("{path}: {reason}")]
    Syntax { path: String, reason: String },
    #[error("{path}: a plan of format {found}; this program reads formats 1 to {VERSION}: use a newer orrery-sim")]
    Version { path: String, found: u32 },
    #[error("{what} names {name}, which the plan does not have")]
    Unknown { what: &'static str, name: String },
    #[error("{0} twice in the plan")]
    Twice(String),
    #[error("a plan needs at least one {0}")]
    Missing(&'static str),
}

impl Plan {
    /// Reads TOML or JSON, by what the text looks like.
    pub fn read(path: &Path) -> Result<Plan, PlanError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| PlanError::Io {
            path: shown.clone(),
            source,
        })?;
        Plan::parse(&shown, &text)
    }

    pub fn parse(path: &str, text: &str) -> Result<Plan, PlanError> {
        let syntax = |reason: String| PlanError::Syntax {
            path: path.to_owned(),
            reason,
        };
        // The version first: fields of a newer format would only look wrong.
        let is_json = text.trim_start().starts_with('{');
        let versioned: Versioned = if is_json {
            serde_json::from_str(text).map_err(|error| syntax(error.to_string()))?
        } else {
            toml::from_str(text).map_err(|error| syntax(error.to_string()))?
        };
        if versioned.version == 0 || versioned.version > VERSION {
            return Err(PlanError::Version {
                path: path.to_owned(),
                found: versioned.version,
            });
        }
        let plan: Plan = if is_json {
            serde_json::from_str(text).map_err(|error| syntax(error.to_string()))?
        } else {
            toml::from_str(text).map_err(|error| syntax(error.to_string()))?
        };
        plan.check()?;
        Ok(plan)
    }

    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a plan is plain data")
    }

    /// Names of all nodes, in the order in which they get their addresses.
    pub fn nodes(&self) -> Vec<String> {
        let name_servers = (1..=self.name_servers).map(|number| format!("namesrv-{number}"));
        let brokers = self.brokers.iter().map(|broker| broker.name.clone());
        let clients = self.clients.iter().map(|client| client.name.clone());
        name_servers.chain(brokers).chain(clients).collect()
    }

    /// Takes out what names something that is no longer there, and groups that nobody joins: what they have not consumed says nothing.
    pub(crate) fn tidy(&mut self) {
        let clients = &self.clients;
        let is_joined = |group: &GroupPlan| clients.iter().any(|client| client.joins.contains(&group.name));
        self.groups.retain(is_joined);
        let nodes = self.nodes();
        let groups: Vec<String> = self.groups.iter().map(|group| group.name.clone()).collect();
        for client in &mut self.clients {
            client.joins.retain(|group| groups.contains(group));
        }
        self.faults.retain_mut(|fault| match &mut fault.what {
            FaultPlan::Cut { from, to, .. } => {
                from.retain(|node| nodes.contains(node));
                to.retain(|node| nodes.contains(node));
                !from.is_empty() && !to.is_empty()
            }
            what => what.nodes().iter().all(|node| nodes.contains(node)),
        });
    }

    /// Everything that is named exists, once.
    pub fn check(&self) -> Result<(), PlanError> {
        let nodes = self.nodes();
        unique(&nodes)?;
        let topics: Vec<String> = self.topics.iter().map(|topic| topic.name.clone()).collect();
        unique(&topics)?;
        let groups: Vec<String> = self.groups.iter().map(|group| group.name.clone()).collect();
        unique(&groups)?;
        let missing = [
            ("name server", self.name_servers == 0),
            ("broker", self.brokers.is_empty()),
            ("topic", self.topics.is_empty()),
        ];
        if let Some(&(what, _)) = missing.iter().find(|(_, is_missing)| *is_missing) {
            return Err(PlanError::Missing(what));
        }
        for group in &self.groups {
            known("a group", &topics, &group.topics)?;
        }
        for client in &self.clients {
            known("a client", &groups, &client.joins)?;
            if let Some(produces) = &client.produces {
                known("a producer", &topics, &produces.topics)?;
            }
        }
        self.faults
            .iter()
            .try_for_each(|fault| known("a fault", &nodes, &fault.what.nodes()))
    }
}

impl FaultPlan {
    pub fn nodes(&self) -> Vec<String> {
        match self {
            FaultPlan::Kill { node, .. }
            | FaultPlan::PowerLoss { node, .. }
            | FaultPlan::Pause { node, .. }
            | FaultPlan::ClockStep { node, .. }
            | FaultPlan::ClockDrift { node, .. }
            | FaultPlan::DiskSlow { node, .. }
            | FaultPlan::DiskStall { node, .. }
            | FaultPlan::DiskErrors { node, .. }
            | FaultPlan::DiskFull { node, .. }
            | FaultPlan::Link { node, .. } => vec![node.clone()],
            FaultPlan::Cut { from, to, .. } => from.iter().chain(to).cloned().collect(),
        }
    }

    /// How long until it is undone; `None` for what stays.
    pub fn for_ms(&self) -> Option<u64> {
        self.clone().for_ms_mut().copied()
    }

    /// As [`for_ms`](FaultPlan::for_ms), to be changed.
    pub(crate) fn for_ms_mut(&mut self) -> Option<&mut u64> {
        match self {
            FaultPlan::Kill { for_ms, .. }
            | FaultPlan::PowerLoss { for_ms, .. }
            | FaultPlan::Cut { for_ms, .. }
            | FaultPlan::Pause { for_ms, .. }
            | FaultPlan::ClockDrift { for_ms, .. }
            | FaultPlan::DiskSlow { for_ms, .. }
            | FaultPlan::DiskStall { for_ms, .. }
            | FaultPlan::DiskErrors { for_ms, .. }
            | FaultPlan::DiskFull { for_ms, .. }
            | FaultPlan::Link { for_ms, .. } => Some(for_ms),
            FaultPlan::ClockStep { .. } => None,
        }
    }
}

fn unique(names: &[String]) -> Result<(), PlanError> {
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(PlanError::Twice(pair[0].clone())),
        None => Ok(()),
    }
}

fn known(what: &'static str, all: &[String], used: &[String]) -> Result<(), PlanError> {
    match used.iter().find(|name| !all.contains(name)) {
        Some(name) => Err(PlanError::Unknown {
            what,
            name: name.clone(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::generate;

    #[test]
    fn a_plan_survives_toml_and_json() {
        for seed in 0..50 {
            let plan = generate(seed);
            assert_eq!(Plan::parse("p", &plan.to_toml()).unwrap(), plan);
            let json = serde_json::to_string(&plan).unwrap();
            assert_eq!(Plan::parse("p", &json).unwrap(), plan);
        }
    }

    #[test]
    fn a_name_that_nothing_has_is_refused() {
        let mut plan = generate(1);
        plan.faults.push(Fault {
            at_ms: 0,
            what: FaultPlan::Kill {
                node: "broker-z".into(),
                for_ms: 1,
            },
        });
        let error = Plan::parse("p", &plan.to_toml()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a fault names broker-z, which the plan does not have"
        );
    }

    #[test]
    fn a_wrong_key_is_named() {
        let error = Plan::parse("my.toml", "seed = 1\nduration = 5\n")
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("my.toml: "), "{error}");
        assert!(error.contains("duration"), "{error}");
    }
}
