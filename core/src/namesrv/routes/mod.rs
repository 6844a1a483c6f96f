//! The route table: which broker holds how many queues of which topic, and which brokers are alive.
//!
//! Pure: `now` is a value, connections are numbers, nothing is sent. Behaviour follows
//! `org.apache.rocketmq.namesrv.routeinfo.RouteInfoManager` of Apache RocketMQ 5.5.0; where this table differs it says
//! so. What a reader sees lives in [`view`](self).
//!
//! Invariants ([`Routes::check_invariants`]): a broker set has a member; within a set an address stands once; a topic has
//! queues on at least one broker; a broker named by a topic exists.
//!
//! The Java table keeps liveness by cluster and address beside the sets, so that a broker that comes back under another
//! name leaves its old name behind for ever. Here liveness is part of the member and goes with it.

mod view;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::protocol::body::DataVersion;
use crate::runtime::Mono;

pub use view::{BrokerView, RouteView, TopicListView};

/// Id of the primary of a broker set (`MixAll.MASTER_ID`).
pub const MASTER_ID: i64 = 0;

/// Silence after which a broker is removed, unless it asked for another span
/// (`RouteInfoManager.DEFAULT_BROKER_CHANNEL_EXPIRED_TIME`).
pub const MEMBER_TIMEOUT: Duration = Duration::from_secs(120);

/// Brokers in all sets: 4,096. A name server is asked by every client every 30 s and answers from memory; beyond, a
/// registration is refused.
pub const MEMBERS_MAX: usize = 4_096;

/// Topics times brokers: 1,000,000, about 200 MB. Beyond, a registration is refused.
pub const QUEUES_MAX: usize = 1_000_000;

/// Longest name or address that is registered: 255 bytes. Beyond, a registration is refused.
pub const NAME_BYTES_MAX: usize = 255;

const PERMISSION_WRITE: i32 = 2;
const PERMISSION_READ: i32 = 4;

/// The number of a connection, unique while the process lives.
pub type ConnectionId = u64;

/// Queues of one topic on one broker set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queues {
    pub read_count: i32,
    pub write_count: i32,
    /// Bits: 4 read, 2 write, 1 inherit.
    pub permission: i32,
    /// Bits: 1 unit, 2 unit subscription.
    pub system_flag: i32,
}

/// What a broker says about itself.
#[derive(Clone, Debug)]
pub struct Registration {
    pub cluster: String,
    pub broker_name: String,
    pub broker_id: i64,
    /// What clients dial.
    pub address: String,
    /// What replicas dial.
    pub ha_address: String,
    /// `None`: a broker from before acting masters, whose replicas never register topics.
    pub acting_master: Option<bool>,
    pub zone_name: Option<String>,
    /// Silence that this broker asks to be forgiven.
    pub timeout: Duration,
    pub data_version: DataVersion,
    pub topics: Vec<(String, Queues)>,
    pub connection: ConnectionId,
}

/// What became of a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registered {
    /// The table holds it. A replica learns its primary, if that is alive.
    Accepted { master: Option<MasterAddresses> },
    /// Another address with a higher state version holds the id. Answered as a success, without effect.
    Outdated,
    /// Only a full table may come first, and this had one topic.
    Incomplete,
    /// A limit of this table, or a conflict with what it holds.
    Refused(RefusedRegistration),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedRegistration {
    #[error("broker name {name} belongs to cluster {cluster}")]
    OtherCluster { name: String, cluster: String },
    #[error("a name or address is empty or longer than {NAME_BYTES_MAX} bytes")]
    Name,
    #[error("{MEMBERS_MAX} brokers are registered")]
    TooManyBrokers,
    #[error("{QUEUES_MAX} topics are registered")]
    TooManyTopics,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MasterAddresses {
    pub address: String,
    pub ha_address: String,
}

/// Switches that change what the table does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteOptions {
    /// A full registration removes the topics that it no longer names.
    pub delete_missing_topics: bool,
    /// A set without a primary shows its lowest replica as one, if the topic cannot be written.
    pub support_acting_master: bool,
}

/// A broker that is alive.
#[derive(Clone, Debug)]
struct Member {
    address: String,
    ha_address: String,
    heard: Mono,
    timeout: Duration,
    data_version: DataVersion,
    connection: ConnectionId,
}

#[derive(Clone, Debug)]
struct BrokerSet {
    cluster: String,
    acting_master: bool,
    zone_name: Option<String>,
    members: BTreeMap<i64, Member>,
}

/// A broker that was removed, and the connection it spoke on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    pub broker_name: String,
    pub address: String,
    pub connection: ConnectionId,
}

/// The table.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    options: RouteOptions,
    brokers: BTreeMap<String, BrokerSet>,
    topics: BTreeMap<String, BTreeMap<String, Queues>>,
    /// Sum of the sizes of the inner maps of `topics`.
    queue_count: usize,
}

impl Routes {
    pub fn new(options: RouteOptions) -> Routes {
        Routes {
            options,
            ..Routes::default()
        }
    }

    pub fn set_options(&mut self, options: RouteOptions) {
        self.options = options;
    }

    /// Takes a registration (`RouteInfoManager.registerBroker`).
    pub fn register(&mut self, registration: Registration, now: Mono) -> Registered {
        if let Err(refused) = self.check_limits(&registration) {
            return Registered::Refused(refused);
        }
        let name = registration.broker_name.as_str();
        let set = self.brokers.get(name);
        let holder = set.and_then(|set| set.members.get(&registration.broker_id));
        if let Some(holder) = holder
            && holder.address != registration.address
            && holder.data_version.state_version > registration.data_version.state_version
        {
            return Registered::Outdated;
        }
        let first = holder.is_none();
        if first && registration.topics.len() == 1 {
            return Registered::Incomplete;
        }
        let version_is_new = holder.is_none_or(|holder| {
            holder.address != registration.address || holder.data_version != registration.data_version
        });

        let set = self.brokers.entry(name.to_owned()).or_insert_with(|| BrokerSet {
            cluster: registration.cluster.clone(),
            acting_master: false,
            zone_name: None,
            members: BTreeMap::new(),
        });
        set.cluster.clone_from(&registration.cluster);
        set.acting_master = registration.acting_master.unwrap_or(false);
        set.zone_name.clone_from(&registration.zone_name);
        // A broker that changed its role keeps its address: the old id goes.
        set.members
            .retain(|id, member| *id == registration.broker_id || member.address != registration.address);
        let member = Member {
            address: registration.address.clone(),
            ha_address: registration.ha_address.clone(),
            heard: now,
            timeout: registration.timeout,
            data_version: registration.data_version,
            connection: registration.connection,
        };
        set.members.insert(registration.broker_id, member);

        let lowest_id = set.members.keys().next().copied();
        let is_master = registration.broker_id == MASTER_ID;
        let is_prime_replica =
            registration.acting_master.is_some() && !is_master && lowest_id == Some(registration.broker_id);
        let read_only = is_prime_replica && set.acting_master;
        let master = set.members.get(&MASTER_ID).filter(|_| !is_master);
        let master = master.map(|master| MasterAddresses {
            address: master.address.clone(),
            ha_address: master.ha_address.clone(),
        });
        if is_master || is_prime_replica {
            self.take_topics(registration, version_is_new, read_only);
        }
        Registered::Accepted { master }
    }

    /// A sign of life from a broker; false if it is not registered (`updateBrokerInfoUpdateTimestamp`).
    pub fn heard(&mut self, broker_name: &str, address: &str, now: Mono) -> bool {
        let Some(set) = self.brokers.get_mut(broker_name) else {
            return false;
        };
        let Some(member) = set.members.values_mut().find(|member| member.address == address) else {
            return false;
        };
        member.heard = now;
        true
    }

    /// Removes a broker that says goodbye. Idempotent.
    pub fn unregister(&mut self, broker_name: &str, address: &str) -> Option<Removed> {
        let set = self.brokers.get(broker_name)?;
        let (id, _) = set.members.iter().find(|(_, member)| member.address == address)?;
        let id = *id;
        self.remove_members([(broker_name.to_owned(), id)]).pop()
    }

    /// Removes the brokers whose last registration came on a connection that has ended. A broker that has registered
    /// again on another connection stays.
    pub fn connection_closed(&mut self, connection: ConnectionId) -> Vec<Removed> {
        self.remove_where(|member| member.connection == connection)
    }

    /// Removes the brokers that have been silent for longer than their time-out.
    pub fn expire(&mut self, now: Mono) -> Vec<Removed> {
        self.remove_where(|member| now.since(member.heard) > member.timeout)
    }

    /// Clears the write bit of every topic of a broker set; answers how many topics it has.
    pub fn wipe_write_permission(&mut self, broker_name: &str) -> usize {
        self.change_permission(broker_name, |permission| permission & !PERMISSION_WRITE)
    }

    /// Makes every topic of a broker set readable and writable; answers how many topics it has.
    pub fn add_write_permission(&mut self, broker_name: &str) -> usize {
        self.change_permission(broker_name, |_| PERMISSION_READ | PERMISSION_WRITE)
    }

    /// Forgets a topic everywhere, or on the brokers of one cluster.
    pub fn delete_topic(&mut self, topic: &str, cluster: Option<&str>) {
        let Some(queues) = self.topics.get_mut(topic) else {
            return;
        };
        let before = queues.len();
        match cluster {
            None => queues.clear(),
            Some(cluster) => {
                let brokers = &self.brokers;
                queues.retain(|name, _| brokers.get(name).is_none_or(|set| set.cluster != cluster));
            }
        }
        self.queue_count -= before - queues.len();
        if queues.is_empty() {
            self.topics.remove(topic);
        }
    }

    /// Adds queues of a topic by hand (217). Nothing happens if one of the brokers is unknown.
    pub fn register_topic(&mut self, topic: &str, queues: Vec<(String, Queues)>) -> Result<(), RefusedRegistration> {
        if queues.is_empty() || queues.iter().any(|(name, _)| !self.brokers.contains_key(name)) {
            return Ok(());
        }
        if topic.is_empty() || topic.len() > NAME_BYTES_MAX {
            return Err(RefusedRegistration::Name);
        }
        if self.queue_count + queues.len() > QUEUES_MAX {
            return Err(RefusedRegistration::TooManyTopics);
        }
        for (name, queues) in queues {
            self.set_queues(topic, &name, queues);
        }
        Ok(())
    }

    /// Panics if the table contradicts itself.
    pub fn check_invariants(&self) {
        for (name, set) in &self.brokers {
            assert!(!set.members.is_empty(), "broker set {name} has no member");
            let mut addresses: Vec<&str> = set.members.values().map(|member| member.address.as_str()).collect();
            addresses.sort_unstable();
            addresses.dedup();
            assert_eq!(addresses.len(), set.members.len(), "an address stands twice in {name}");
        }
        for (topic, queues) in &self.topics {
            assert!(!queues.is_empty(), "topic {topic} has no queues");
            for name in queues.keys() {
                assert!(
                    self.brokers.contains_key(name),
                    "topic {topic} names the unknown broker {name}"
                );
            }
        }
        let count: usize = self.topics.values().map(BTreeMap::len).sum();
        assert_eq!(self.queue_count, count, "the number of queues is wrong");
    }

    fn check_limits(&self, registration: &Registration) -> Result<(), RefusedRegistration> {
        let names = [&registration.cluster, &registration.broker_name, &registration.address];
        let topics = registration.topics.iter().map(|(topic, _)| topic);
        if names
            .into_iter()
            .chain(topics)
            .any(|name| name.is_empty() || name.len() > NAME_BYTES_MAX)
        {
            return Err(RefusedRegistration::Name);
        }
        let set = self.brokers.get(&registration.broker_name);
        if let Some(set) = set
            && set.cluster != registration.cluster
            && set
                .members
                .values()
                .any(|member| member.address != registration.address)
        {
            return Err(RefusedRegistration::OtherCluster {
                name: registration.broker_name.clone(),
                cluster: set.cluster.clone(),
            });
        }
        let is_known = set.is_some_and(|set| set.members.contains_key(&registration.broker_id));
        if !is_known && self.brokers.values().map(|set| set.members.len()).sum::<usize>() >= MEMBERS_MAX {
            return Err(RefusedRegistration::TooManyBrokers);
        }
        let name = &registration.broker_name;
        let is_new = |topic: &str| self.topics.get(topic).is_none_or(|queues| !queues.contains_key(name));
        let new_count = registration.topics.iter().filter(|(topic, _)| is_new(topic)).count();
        if self.queue_count + new_count > QUEUES_MAX {
            return Err(RefusedRegistration::TooManyTopics);
        }
        Ok(())
    }

    /// Rules 5 and 6: topics are replaced when the data version is new, or where the topic is not known yet.
    fn take_topics(&mut self, registration: Registration, version_is_new: bool, read_only: bool) {
        let name = registration.broker_name;
        if self.options.delete_missing_topics {
            let named: std::collections::BTreeSet<&str> =
                registration.topics.iter().map(|(topic, _)| topic.as_str()).collect();
            self.remove_queues(&name, |topic| !named.contains(topic));
        }
        for (topic, mut queues) in registration.topics {
            let is_known = self.topics.get(&topic).is_some_and(|queues| queues.contains_key(&name));
            if is_known && !version_is_new {
                continue;
            }
            if read_only {
                queues.permission &= !PERMISSION_WRITE;
            }
            self.set_queues(&topic, &name, queues);
        }
    }

    fn set_queues(&mut self, topic: &str, broker_name: &str, queues: Queues) {
        let of_topic = match self.topics.get_mut(topic) {
            Some(of_topic) => of_topic,
            None => self.topics.entry(topic.to_owned()).or_default(),
        };
        if of_topic.insert(broker_name.to_owned(), queues).is_none() {
            self.queue_count += 1;
        }
    }

    fn remove_queues(&mut self, broker_name: &str, leaves: impl Fn(&str) -> bool) {
        let mut removed_count = 0;
        self.topics.retain(|topic, queues| {
            if leaves(topic) && queues.remove(broker_name).is_some() {
                removed_count += 1;
            }
            !queues.is_empty()
        });
        self.queue_count -= removed_count;
    }

    fn remove_where(&mut self, leaves: impl Fn(&Member) -> bool) -> Vec<Removed> {
        let mut leaving = Vec::new();
        for (name, set) in &self.brokers {
            let ids = set.members.iter().filter(|(_, member)| leaves(member));
            leaving.extend(ids.map(|(id, _)| (name.clone(), *id)));
        }
        self.remove_members(leaving)
    }

    /// Removes members; a set without members takes its queues along, a set without a primary that allows an acting one
    /// becomes read only (`cleanTopicByUnRegisterRequests`).
    fn remove_members(&mut self, leaving: impl IntoIterator<Item = (String, i64)>) -> Vec<Removed> {
        let mut removed = Vec::new();
        for (broker_name, id) in leaving {
            let Some(set) = self.brokers.get_mut(&broker_name) else {
                continue;
            };
            let Some(member) = set.members.remove(&id) else {
                continue;
            };
            let has_master = set.members.contains_key(&MASTER_ID);
            let acting_master = set.acting_master;
            if set.members.is_empty() {
                self.brokers.remove(&broker_name);
                self.remove_queues(&broker_name, |_| true);
            } else if acting_master && !has_master {
                self.wipe_write_permission(&broker_name);
            }
            removed.push(Removed {
                broker_name,
                address: member.address,
                connection: member.connection,
            });
        }
        removed
    }

    fn change_permission(&mut self, broker_name: &str, change: impl Fn(i32) -> i32) -> usize {
        let of_broker = self
            .topics
            .values_mut()
            .filter_map(|queues| queues.get_mut(broker_name));
        let mut count = 0;
        for queues in of_broker {
            queues.permission = change(queues.permission);
            count += 1;
        }
        count
    }
}
