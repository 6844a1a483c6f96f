//! Who is connected: producers and consumers by connection, and what each group subscribes to. Not what groups have
//! consumed. Soft state: it dies with the broker and comes back with the next heartbeats.
//!
//! Invariants: an entry of a group names a connection that the connection table names with that group; a group
//! without members does not exist; a connection belongs to one client id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::subscription::Subscription;
use crate::protocol::body::{ConsumeFromWhere, ConsumeType, MessageModel};
use crate::runtime::Mono;
use crate::types::Map;
use crate::types::address::SocketAddr;

/// A connection, numbered by the server.
pub type ConnectionId = u64;

/// A client silent for this long is forgotten (`ConsumerManager.java`, `CHANNEL_EXPIRED_TIMEOUT`).
pub const EXPIRY: Duration = Duration::from_secs(120);

/// Groups one heartbeat may name; the rest is ignored. Far above what a client has.
pub const GROUPS_PER_CLIENT_MAX: usize = 10_000;

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    pub client_id: String,
    pub language: &'static str,
    pub version: i32,
    pub address: SocketAddr,
}

/// What a heartbeat says about one consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerEntry {
    pub group: String,
    pub consume_type: ConsumeType,
    pub message_model: MessageModel,
    pub consume_from_where: ConsumeFromWhere,
    /// `None`: unchanged since the last full heartbeat (`withoutSub`).
    pub subscriptions: Option<Vec<Subscription>>,
}

/// A heartbeat, as the tables see it.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    pub client: ClientInfo,
    pub producers: Vec<String>,
    pub consumers: Vec<ConsumerEntry>,
    /// Hash of the subscriptions by the client's own rule; 0 from clients that do not compute it.
    pub fingerprint: i32,
}

#[derive(Clone, Debug)]
pub struct Member {
    pub client: Arc<ClientInfo>,
    pub seen: Mono,
}

#[derive(Clone, Debug, Default)]
pub struct ConsumerGroup {
    pub consume_type: ConsumeType,
    pub message_model: MessageModel,
    pub consume_from_where: ConsumeFromWhere,
    pub members: BTreeMap<ConnectionId, Member>,
    pub subscriptions: BTreeMap<String, Arc<Subscription>>,
    fingerprint: i32,
}

impl ConsumerGroup {
    pub fn is_broadcasting(&self) -> bool {
        self.message_model == MessageModel::Broadcasting
    }

    /// Client ids, each once even while a client is changing its connection.
    pub fn client_ids(&self) -> Vec<String> {
        let ids: BTreeSet<&str> = self
            .members
            .values()
            .map(|member| member.client.client_id.as_str())
            .collect();
        ids.into_iter().map(str::to_owned).collect()
    }

    fn subscribe(&mut self, subscriptions: Vec<Subscription>) -> bool {
        let mut changed = false;
        let named: BTreeSet<String> = subscriptions.iter().map(|each| each.topic.clone()).collect();
        for subscription in subscriptions {
            match self.subscriptions.get_mut(&subscription.topic) {
                None => {
                    changed = true;
                    self.subscriptions
                        .insert(subscription.topic.clone(), Arc::new(subscription));
                }
                Some(known) if subscription.version > known.version => *known = Arc::new(subscription),
                Some(_) => {}
            }
        }
        let before = self.subscriptions.len();
        self.subscriptions.retain(|topic, _| named.contains(topic));
        changed | (self.subscriptions.len() != before)
    }
}

#[derive(Clone, Debug)]
struct Connection {
    client: Arc<ClientInfo>,
    consumers: BTreeSet<String>,
    producers: BTreeSet<String>,
}

/// What a heartbeat changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeartbeatOutcome {
    /// Groups whose members or subscriptions are not what they were.
    pub changed_groups: Vec<String>,
    /// True when the client must send its subscriptions in full.
    pub subscriptions_wanted: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Clients {
    connections: BTreeMap<ConnectionId, Connection>,
    consumers: Map<String, ConsumerGroup>,
    producers: Map<String, BTreeMap<ConnectionId, Member>>,
}

impl Clients {
    pub(super) fn heartbeat(&mut self, connection: ConnectionId, beat: &Heartbeat, now: Mono) -> HeartbeatOutcome {
        let mut outcome = HeartbeatOutcome::default();
        let client = self.connect(connection, &beat.client);
        let member = || Member {
            client: client.clone(),
            seen: now,
        };
        let known = self.connections.get_mut(&connection).expect("connected above");
        for group in beat
            .producers
            .iter()
            .filter(|group| !group.is_empty())
            .take(GROUPS_PER_CLIENT_MAX)
        {
            self.producers
                .entry(group.clone())
                .or_default()
                .insert(connection, member());
            known.producers.insert(group.clone());
        }
        for entry in beat
            .consumers
            .iter()
            .filter(|entry| !entry.group.is_empty())
            .take(GROUPS_PER_CLIENT_MAX)
        {
            let is_new_group = !self.consumers.contains_key(&entry.group);
            if is_new_group && entry.subscriptions.is_none() {
                outcome.subscriptions_wanted = true;
            }
            let group = self.consumers.entry(entry.group.clone()).or_default();
            group.consume_type = entry.consume_type;
            group.message_model = entry.message_model;
            group.consume_from_where = entry.consume_from_where;
            let joined = group.members.insert(connection, member()).is_none();
            known.consumers.insert(entry.group.clone());
            let resubscribed = match &entry.subscriptions {
                Some(subscriptions) => {
                    group.fingerprint = beat.fingerprint;
                    group.subscribe(subscriptions.clone())
                }
                None => {
                    outcome.subscriptions_wanted |= group.fingerprint != beat.fingerprint;
                    false
                }
            };
            if joined | resubscribed {
                outcome.changed_groups.push(entry.group.clone());
            }
        }
        outcome
    }

    fn connect(&mut self, connection: ConnectionId, info: &ClientInfo) -> Arc<ClientInfo> {
        if let Some(known) = self.connections.get(&connection) {
            if *known.client == *info {
                return known.client.clone();
            }
            self.leave(connection);
        }
        let client = Arc::new(info.clone());
        self.connections.insert(
            connection,
            Connection {
                client: client.clone(),
                consumers: BTreeSet::new(),
                producers: BTreeSet::new(),
            },
        );
        client
    }

    /// Removes a connection; returns the consumer groups that lost a member.
    pub(super) fn leave(&mut self, connection: ConnectionId) -> Vec<String> {
        let Some(known) = self.connections.remove(&connection) else {
            return Vec::new();
        };
        for group in &known.producers {
            self.leave_producers(group, connection);
        }
        let left: Vec<String> = known.consumers.into_iter().collect();
        for group in &left {
            self.leave_consumers(group, connection);
        }
        left
    }

    /// Removes a client from one producer or consumer group, or both; true if a consumer group lost a member.
    pub(super) fn unregister(
        &mut self,
        connection: ConnectionId,
        producer_group: Option<&str>,
        consumer_group: Option<&str>,
    ) -> bool {
        if let Some(group) = producer_group {
            self.leave_producers(group, connection);
        }
        let left = consumer_group.is_some_and(|group| self.leave_consumers(group, connection));
        if let Some(known) = self.connections.get_mut(&connection) {
            if let Some(group) = producer_group {
                known.producers.remove(group);
            }
            if let Some(group) = consumer_group {
                known.consumers.remove(group);
            }
        }
        left
    }

    /// Members silent since before `oldest` are removed; returns the consumer groups that lost one.
    pub(super) fn expire(&mut self, oldest: Mono) -> Vec<String> {
        let mut gone: Vec<(ConnectionId, String)> = Vec::new();
        for (name, group) in &self.consumers {
            let silent = group.members.iter().filter(|(_, member)| member.seen < oldest);
            gone.extend(silent.map(|(connection, _)| (*connection, name.clone())));
        }
        gone.sort();
        let mut changed = Vec::new();
        for (connection, group) in gone {
            if self.unregister(connection, None, Some(&group)) {
                changed.push(group);
            }
        }
        let mut gone: Vec<(ConnectionId, String)> = Vec::new();
        for (name, members) in &self.producers {
            let silent = members.iter().filter(|(_, member)| member.seen < oldest);
            gone.extend(silent.map(|(connection, _)| (*connection, name.clone())));
        }
        for (connection, group) in gone {
            self.unregister(connection, Some(&group), None);
        }
        self.connections
            .retain(|_, known| !(known.consumers.is_empty() && known.producers.is_empty()));
        changed.sort();
        changed.dedup();
        changed
    }

    fn leave_producers(&mut self, group: &str, connection: ConnectionId) {
        if let Some(members) = self.producers.get_mut(group) {
            members.remove(&connection);
            if members.is_empty() {
                self.producers.remove(group);
            }
        }
    }

    fn leave_consumers(&mut self, group: &str, connection: ConnectionId) -> bool {
        let Some(members) = self.consumers.get_mut(group).map(|group| &mut group.members) else {
            return false;
        };
        let left = members.remove(&connection).is_some();
        if members.is_empty() {
            self.consumers.remove(group);
        }
        left
    }

    pub fn consumer_group(&self, group: &str) -> Option<&ConsumerGroup> {
        self.consumers.get(group)
    }

    pub fn producer_group(&self, group: &str) -> Option<&BTreeMap<ConnectionId, Member>> {
        self.producers.get(group)
    }

    /// The client id that a connection announced.
    pub fn client_id(&self, connection: ConnectionId) -> Option<&str> {
        Some(&self.connections.get(&connection)?.client.client_id)
    }

    /// Groups with a member that subscribes to the topic, sorted.
    pub fn groups_subscribed_to(&self, topic: &str) -> Vec<String> {
        let with_topic = self
            .consumers
            .iter()
            .filter(|(_, group)| group.subscriptions.contains_key(topic));
        let mut groups: Vec<String> = with_topic.map(|(name, _)| name.clone()).collect();
        groups.sort();
        groups
    }

    pub fn connection_count(&self) -> usize {
        self.connections.len()
    }

    pub fn check_invariants(&self) {
        for (name, group) in &self.consumers {
            assert!(!group.members.is_empty(), "a group without members does not exist");
            for connection in group.members.keys() {
                assert!(
                    self.connections[connection].consumers.contains(name),
                    "a member is connected"
                );
            }
        }
        for (name, members) in &self.producers {
            assert!(!members.is_empty(), "a group without members does not exist");
            for connection in members.keys() {
                assert!(
                    self.connections[connection].producers.contains(name),
                    "a producer is connected"
                );
            }
        }
        for (id, connection) in &self.connections {
            for group in &connection.consumers {
                assert!(
                    self.consumers[group].members.contains_key(id),
                    "a connection's group knows it"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn beat(client: &str, group: &str, topics: &[(&str, i64)]) -> Heartbeat {
        Heartbeat {
            client: ClientInfo {
                client_id: client.to_owned(),
                language: "JAVA",
                version: 513,
                address: "127.0.0.1:5".parse().unwrap(),
            },
            producers: vec!["p".to_owned()],
            consumers: vec![ConsumerEntry {
                group: group.to_owned(),
                consume_type: ConsumeType::Passively,
                message_model: MessageModel::Clustering,
                consume_from_where: ConsumeFromWhere::LastOffset,
                subscriptions: Some(
                    topics
                        .iter()
                        .map(|(topic, version)| Subscription::tags(topic, "*", *version))
                        .collect(),
                ),
            }],
            fingerprint: 0,
        }
    }

    #[test]
    fn joining_and_leaving_change_the_group_and_repeating_does_not() {
        let mut clients = Clients::default();
        let first = clients.heartbeat(1, &beat("a", "g", &[("T", 1)]), Mono(0));
        assert_eq!(first.changed_groups, ["g"]);
        assert!(
            clients
                .heartbeat(1, &beat("a", "g", &[("T", 1)]), Mono(1))
                .changed_groups
                .is_empty()
        );
        assert_eq!(
            clients
                .heartbeat(2, &beat("b", "g", &[("T", 1)]), Mono(1))
                .changed_groups,
            ["g"]
        );
        assert_eq!(clients.consumer_group("g").unwrap().client_ids(), ["a", "b"]);
        assert_eq!(clients.leave(1), ["g"]);
        assert_eq!(clients.consumer_group("g").unwrap().client_ids(), ["b"]);
        assert_eq!(clients.leave(2), ["g"]);
        assert!(clients.consumer_group("g").is_none());
        assert!(clients.producer_group("p").is_none());
        clients.check_invariants();
    }

    #[test]
    fn a_client_with_two_connections_is_listed_once() {
        let mut clients = Clients::default();
        clients.heartbeat(1, &beat("a", "g", &[("T", 1)]), Mono(0));
        clients.heartbeat(2, &beat("a", "g", &[("T", 1)]), Mono(0));
        assert_eq!(clients.consumer_group("g").unwrap().client_ids(), ["a"]);
    }

    #[test]
    fn the_newest_heartbeat_decides_the_subscriptions() {
        let mut clients = Clients::default();
        clients.heartbeat(1, &beat("a", "g", &[("T", 5), ("U", 5)]), Mono(0));
        let outcome = clients.heartbeat(1, &beat("a", "g", &[("T", 4)]), Mono(0));
        assert_eq!(outcome.changed_groups, ["g"], "U is gone");
        let group = clients.consumer_group("g").unwrap();
        assert_eq!(group.subscriptions["T"].version, 5, "an older version does not win");
        assert_eq!(clients.groups_subscribed_to("T"), ["g"]);
        assert!(clients.groups_subscribed_to("U").is_empty());
    }

    #[test]
    fn a_heartbeat_without_subscriptions_keeps_those_known_or_asks_for_them() {
        let mut clients = Clients::default();
        let mut short = beat("a", "g", &[]);
        short.fingerprint = 7;
        short.consumers[0].subscriptions = None;
        assert!(clients.heartbeat(1, &short, Mono(0)).subscriptions_wanted);
        let mut full = beat("a", "g", &[("T", 1)]);
        full.fingerprint = 7;
        clients.heartbeat(1, &full, Mono(0));
        assert!(!clients.heartbeat(1, &short, Mono(0)).subscriptions_wanted);
        assert!(clients.consumer_group("g").unwrap().subscriptions.contains_key("T"));
    }

    #[test]
    fn silent_members_expire() {
        let mut clients = Clients::default();
        clients.heartbeat(1, &beat("a", "g", &[("T", 1)]), Mono(10));
        clients.heartbeat(2, &beat("b", "g", &[("T", 1)]), Mono(20));
        assert_eq!(clients.expire(Mono(15)), ["g"]);
        assert_eq!(clients.consumer_group("g").unwrap().client_ids(), ["b"]);
        assert_eq!(clients.client_id(1), None);
        clients.check_invariants();
    }

    proptest! {
        #[test]
        fn any_order_of_events_keeps_the_invariants(steps in prop::collection::vec((0u8..5, 0u64..4, 0usize..3, 0u64..50), 0..80)) {
            let mut clients = Clients::default();
            let groups = ["g", "h", "i"];
            for (action, connection, index, now) in steps {
                let group = groups[index];
                match action {
                    0 | 1 => {
                        clients.heartbeat(connection, &beat(["a", "b"][index % 2], group, &[("T", 1)]), Mono(now));
                    }
                    2 => { clients.leave(connection); }
                    3 => { clients.unregister(connection, Some("p"), Some(group)); }
                    _ => { clients.expire(Mono(now)); }
                }
                clients.check_invariants();
            }
        }
    }
}
