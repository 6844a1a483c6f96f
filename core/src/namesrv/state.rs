//! Everything a name server knows, and how it answers each request. Pure: a request and `now` in, an answer out.
//!
//! Follows `DefaultRequestProcessor` and `ClientRequestProcessor` of Apache RocketMQ 5.5.0. Bodies are always compact standard
//! JSON with quoted ids: every client parses that (the Go client breaks on white space, no client needs bare ids).
//! Invariant: whatever arrives, the table stays sound and an answer comes out.

use std::time::Duration;

use super::kv::{KvConfig, ORDER_TOPIC_CONFIG, PutRefused};
use super::routes::{
    BrokerView, ConnectionId, MEMBER_TIMEOUT, Queues, Registered, Registration, Removed, RouteOptions, Routes,
    TopicListView,
};
use crate::config::{NameServerConfig, parse_properties, print_properties};
use crate::protocol::body::{
    Body, BodyError, BrokerData, BrokerMemberGroup, BrokerMemberGroupBody, ClusterInfo, DataVersion, KvTable,
    QueueData, RegisterBrokerBody, TopicConfig, TopicList, TopicRouteData,
};
use crate::protocol::code::{request, response};
use crate::protocol::header::{
    AddWritePermissionResponseHeader, BrokerHeartbeatHeader, BrokerIdentityHeader, BrokerMemberGroupHeader,
    BrokerNameHeader, ClusterHeader, DeleteTopicInNamesrvHeader, HeaderError, KvConfigHeader, KvConfigResponseHeader,
    KvNamespaceHeader, PutKvConfigHeader, QueryDataVersionResponseHeader, RegisterBrokerHeader,
    RegisterBrokerResponseHeader, RouteHeader, WipeWritePermissionResponseHeader,
};
use crate::protocol::{Command, Text};
use crate::runtime::Mono;

/// Keys that no request may change (`NamesrvConfig.configBlackList`).
const KEYS_FORBIDDEN: [&str; 4] = ["configBlackList", "configStorePath", "kvConfigPath", "rocketmqHome"];

/// Keys that count only when the process starts.
const KEYS_AT_START: [&str; 3] = ["bindAddress", "listenPort", "serverChannelMaxIdleTimeSeconds"];

/// Shortest and longest silence that a broker may ask for: 1 s to 1 h. Beyond, the nearer bound is taken.
const HEARTBEAT_TIMEOUT_MS: std::ops::RangeInclusive<i64> = 1_000..=3_600_000;

/// What to do with a request.
#[derive(Debug)]
pub enum Answer {
    Reply(Command),
    /// The KV configuration is to change: decide, save, then answer.
    Change(KvChange),
}

/// A change of the KV configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvChange {
    Put {
        namespace: String,
        key: String,
        value: String,
    },
    Delete {
        namespace: String,
        key: String,
    },
}

impl KvChange {
    /// The one place where KV configuration changes.
    pub fn apply(&self, kv: &mut KvConfig) -> Result<(), PutRefused> {
        match self {
            KvChange::Put { namespace, key, value } => kv.put(namespace, key, value),
            KvChange::Delete { namespace, key } => {
                kv.delete(namespace, key);
                Ok(())
            }
        }
    }
}

/// Why a request is refused; the text becomes the remark.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("{text}")]
    Code { code: i32, text: String },
}

impl Refusal {
    fn new(code: i32, text: impl Into<String>) -> Refusal {
        Refusal::Code {
            code,
            text: text.into(),
        }
    }

    fn code(&self) -> i32 {
        match self {
            Refusal::Header(_) | Refusal::Body(_) => response::SYSTEM_ERROR,
            Refusal::Code { code, .. } => *code,
        }
    }
}

/// Routes, KV configuration and settings.
#[derive(Clone, Debug, Default)]
pub struct State {
    config: NameServerConfig,
    routes: Routes,
    kv: KvConfig,
}

impl State {
    pub fn new(config: NameServerConfig, kv: KvConfig) -> State {
        State {
            routes: Routes::new(route_options(&config)),
            config,
            kv,
        }
    }

    /// Answers one request that came on `connection`.
    pub fn answer(&mut self, connection: ConnectionId, now: Mono, command: &Command) -> Answer {
        let answered = match command.code {
            request::PUT_KV_CONFIG | request::DELETE_KV_CONFIG => match kv_change(command) {
                Ok(change) => return Answer::Change(change),
                Err(refusal) => Err(refusal),
            },
            request::GET_KV_CONFIG => self.get_kv(command),
            request::GET_KVLIST_BY_NAMESPACE => self.get_kv_list(command),
            request::REGISTER_BROKER => self.register_broker(connection, now, command),
            request::UNREGISTER_BROKER => self.unregister_broker(command),
            request::BROKER_HEARTBEAT => self.broker_heartbeat(now, command),
            request::QUERY_DATA_VERSION => self.query_data_version(now, command),
            request::GET_ROUTEINFO_BY_TOPIC => self.get_route(command),
            request::GET_BROKER_CLUSTER_INFO => Ok(self.get_cluster_info(command)),
            request::GET_BROKER_MEMBER_GROUP => self.get_member_group(command),
            request::WIPE_WRITE_PERM_OF_BROKER => self.wipe_write_permission(command),
            request::ADD_WRITE_PERM_OF_BROKER => self.add_write_permission(command),
            request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER => self.get_all_topics(command),
            request::GET_TOPICS_BY_CLUSTER => self.get_topics_by_cluster(command),
            request::GET_SYSTEM_TOPIC_LIST_FROM_NS => self.get_system_topics(command),
            request::GET_UNIT_TOPIC_LIST => self.get_topic_list(command, TopicListView::Unit),
            request::GET_HAS_UNIT_SUB_TOPIC_LIST => self.get_topic_list(command, TopicListView::UnitSubscription),
            request::GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST => {
                self.get_topic_list(command, TopicListView::UnitSubscriptionOnly)
            }
            request::DELETE_TOPIC_IN_NAMESRV => self.delete_topic(command),
            request::REGISTER_TOPIC_IN_NAMESRV => self.register_topic(command),
            request::UPDATE_NAMESRV_CONFIG => self.update_config(command),
            request::GET_NAMESRV_CONFIG => Ok(self.get_config(command)),
            _ => Ok(Command::not_supported(command)),
        };
        Answer::Reply(
            answered.unwrap_or_else(|refusal| Command::reply(command, refusal.code()).with_remark(refusal.to_string())),
        )
    }

    /// The KV configuration has changed and is saved.
    pub fn set_kv(&mut self, kv: KvConfig) {
        self.kv = kv;
    }

    pub fn kv(&self) -> &KvConfig {
        &self.kv
    }

    pub fn connection_closed(&mut self, connection: ConnectionId) -> Vec<Removed> {
        self.routes.connection_closed(connection)
    }

    pub fn expire(&mut self, now: Mono) -> Vec<Removed> {
        self.routes.expire(now)
    }

    pub fn scan_interval(&self) -> Duration {
        self.config.scan_not_active_broker_interval
    }

    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    fn get_kv(&self, command: &Command) -> Result<Command, Refusal> {
        let header = KvConfigHeader::read(&command.ext)?;
        let value = self.kv.get(&header.namespace, &header.key).ok_or_else(|| {
            let text = format!("No config item, Namespace: {} Key: {}", header.namespace, header.key);
            Refusal::new(response::QUERY_NOT_FOUND, text)
        })?;
        let mut reply = Command::success(command);
        let value = Some(Text::from(value));
        KvConfigResponseHeader { value }.write(&mut reply.ext);
        Ok(reply)
    }

    fn get_kv_list(&self, command: &Command) -> Result<Command, Refusal> {
        let header = KvNamespaceHeader::read(&command.ext)?;
        let table = self.kv.namespace(&header.namespace).ok_or_else(|| {
            let text = format!("No config item, Namespace: {}", header.namespace);
            Refusal::new(response::QUERY_NOT_FOUND, text)
        })?;
        let table = KvTable { table: table.clone() };
        Ok(Command::success(command).with_body(table.write()))
    }

    fn register_broker(&mut self, connection: ConnectionId, now: Mono, command: &Command) -> Result<Command, Refusal> {
        let header = RegisterBrokerHeader::read(&command.ext)?;
        let crc = (crc32fast::hash(&command.body) & 0x7FFF_FFFF) as i32;
        if header.body_crc32 != 0 && header.body_crc32 != crc {
            return Err(Refusal::new(response::SYSTEM_ERROR, "crc32 not match"));
        }
        let body = RegisterBrokerBody::read_from(command.version, &command.body, header.compressed)?;
        let wrapper = body.topic_config_serialize_wrapper;
        let timeout = header.heartbeat_timeout_ms.map_or(MEMBER_TIMEOUT, clamp_timeout);
        let registration = Registration {
            cluster: header.cluster_name.to_string(),
            broker_name: header.broker_name.to_string(),
            broker_id: header.broker_id,
            address: header.broker_address.to_string(),
            ha_address: header.ha_server_address.to_string(),
            acting_master: header.enable_acting_master,
            zone_name: header.zone_name.as_deref().map(str::to_owned),
            timeout,
            data_version: wrapper.data_version,
            topics: wrapper.topic_config_table.into_iter().map(registered_topic).collect(),
            connection,
        };
        let master = match self.routes.register(registration, now) {
            Registered::Accepted { master } => master,
            Registered::Outdated => None,
            Registered::Incomplete => {
                return Err(Refusal::new(response::SYSTEM_ERROR, "register broker failed"));
            }
            Registered::Refused(refused) => return Err(Refusal::new(response::SYSTEM_ERROR, refused.to_string())),
        };
        let mut reply = Command::success(command);
        RegisterBrokerResponseHeader {
            ha_server_address: master.as_ref().map(|master| Text::from(master.ha_address.as_str())),
            master_address: master.as_ref().map(|master| Text::from(master.address.as_str())),
        }
        .write(&mut reply.ext);
        if self.config.return_order_topic_config_to_broker
            && let Some(table) = self.kv.namespace(ORDER_TOPIC_CONFIG)
        {
            reply.body = KvTable { table: table.clone() }.write();
        }
        Ok(reply)
    }

    fn unregister_broker(&mut self, command: &Command) -> Result<Command, Refusal> {
        let header = BrokerIdentityHeader::read(&command.ext)?;
        self.routes.unregister(&header.broker_name, &header.broker_address);
        Ok(Command::success(command))
    }

    fn broker_heartbeat(&mut self, now: Mono, command: &Command) -> Result<Command, Refusal> {
        let header = BrokerHeartbeatHeader::read(&command.ext)?;
        self.routes.heard(&header.broker_name, &header.broker_address, now);
        Ok(Command::success(command))
    }

    fn query_data_version(&mut self, now: Mono, command: &Command) -> Result<Command, Refusal> {
        let header = BrokerIdentityHeader::read(&command.ext)?;
        let asked = DataVersion::read(&command.body)?;
        self.routes.heard(&header.broker_name, &header.broker_address, now);
        let stored = self.routes.data_version(&header.broker_name, &header.broker_address);
        let mut reply = Command::success(command);
        let changed = stored != Some(&asked);
        QueryDataVersionResponseHeader { changed }.write(&mut reply.ext);
        if let Some(stored) = stored {
            reply.body = stored.write();
        }
        Ok(reply)
    }

    fn get_route(&self, command: &Command) -> Result<Command, Refusal> {
        // The official server reads this header without looking for what is mandatory: no topic is an unknown topic.
        let topic = command.ext.get("topic").unwrap_or("null");
        let route = self.routes.route(topic).ok_or_else(|| {
            let text = format!("No topic route info in name server for the topic: {topic}");
            Refusal::new(response::TOPIC_NOT_EXIST, text)
        })?;
        let order = Some(&self.kv).filter(|_| self.config.order_message_enable);
        let order = order.and_then(|kv| kv.get(ORDER_TOPIC_CONFIG, topic));
        let body = TopicRouteData {
            broker_datas: route.brokers.into_iter().map(broker_data).collect(),
            order_topic_conf: order.map(str::to_owned),
            queue_datas: route.queues.into_iter().map(queue_data).collect(),
            ..TopicRouteData::default()
        };
        Ok(Command::success(command).with_body(body.write()))
    }

    fn get_cluster_info(&self, command: &Command) -> Command {
        let brokers = self.routes.brokers().into_iter();
        let clusters = self.routes.clusters().into_iter();
        let body = ClusterInfo {
            broker_addr_table: brokers
                .map(|view| (view.broker_name.clone(), broker_data(view)))
                .collect(),
            cluster_addr_table: clusters
                .map(|(cluster, names)| (cluster, names.into_iter().collect()))
                .collect(),
        };
        Command::success(command).with_body(body.write())
    }

    fn get_member_group(&self, command: &Command) -> Result<Command, Refusal> {
        let header = BrokerMemberGroupHeader::read(&command.ext)?;
        let set = self.routes.broker(&header.broker_name);
        let broker_member_group = BrokerMemberGroup {
            broker_addrs: set.map(|set| set.addresses).unwrap_or_default(),
            broker_name: header.broker_name.to_string(),
            cluster: header.cluster_name.to_string(),
        };
        Ok(Command::success(command).with_body(BrokerMemberGroupBody { broker_member_group }.write()))
    }

    fn wipe_write_permission(&mut self, command: &Command) -> Result<Command, Refusal> {
        let header = BrokerNameHeader::read(&command.ext)?;
        let topic_count = count(self.routes.wipe_write_permission(&header.broker_name));
        let mut reply = Command::success(command);
        WipeWritePermissionResponseHeader { topic_count }.write(&mut reply.ext);
        Ok(reply)
    }

    fn add_write_permission(&mut self, command: &Command) -> Result<Command, Refusal> {
        let header = BrokerNameHeader::read(&command.ext)?;
        let topic_count = count(self.routes.add_write_permission(&header.broker_name));
        let mut reply = Command::success(command);
        AddWritePermissionResponseHeader { topic_count }.write(&mut reply.ext);
        Ok(reply)
    }

    fn get_all_topics(&self, command: &Command) -> Result<Command, Refusal> {
        if !self.config.enable_all_topic_list {
            return Err(Refusal::new(response::SYSTEM_ERROR, "disable"));
        }
        Ok(topic_list(command, self.routes.topic_list(TopicListView::All), None))
    }

    fn get_topics_by_cluster(&self, command: &Command) -> Result<Command, Refusal> {
        let header = ClusterHeader::read(&command.ext)?;
        self.get_topic_list(command, TopicListView::Cluster(&header.cluster))
    }

    fn get_topic_list(&self, command: &Command, which: TopicListView<'_>) -> Result<Command, Refusal> {
        if !self.config.enable_topic_list {
            return Err(Refusal::new(response::SYSTEM_ERROR, "disable"));
        }
        Ok(topic_list(command, self.routes.topic_list(which), None))
    }

    /// Names of clusters and brokers are topics too; the address is of any broker, which knows further ones (305).
    fn get_system_topics(&self, command: &Command) -> Result<Command, Refusal> {
        if !self.config.enable_topic_list {
            return Err(Refusal::new(response::SYSTEM_ERROR, "disable"));
        }
        let mut topics = Vec::new();
        for (cluster, names) in self.routes.clusters() {
            topics.push(cluster);
            topics.extend(names);
        }
        let first = self.routes.brokers().into_iter().next();
        let address = first.and_then(|mut set| set.addresses.pop_first());
        Ok(topic_list(command, topics, address.map(|(_, address)| address)))
    }

    fn delete_topic(&mut self, command: &Command) -> Result<Command, Refusal> {
        let header = DeleteTopicInNamesrvHeader::read(&command.ext)?;
        let cluster = header.cluster_name.as_deref().filter(|cluster| !cluster.is_empty());
        self.routes.delete_topic(&header.topic, cluster);
        Ok(Command::success(command))
    }

    fn register_topic(&mut self, command: &Command) -> Result<Command, Refusal> {
        let header = RouteHeader::read(&command.ext)?;
        let body = TopicRouteData::read(&command.body)?;
        let queues = body
            .queue_datas
            .into_iter()
            .map(|data| (data.broker_name.clone(), queues(&data)));
        let registered = self.routes.register_topic(&header.topic, queues.collect());
        registered.map_err(|refused| Refusal::new(response::SYSTEM_ERROR, refused.to_string()))?;
        Ok(Command::success(command))
    }

    fn update_config(&mut self, command: &Command) -> Result<Command, Refusal> {
        let text = std::str::from_utf8(&command.body)
            .map_err(|_| Refusal::new(response::SYSTEM_ERROR, "the body is not UTF-8"))?;
        let wrong = |error: crate::config::ConfigError| Refusal::new(response::SYSTEM_ERROR, error.to_string());
        for property in parse_properties("request", text).map_err(wrong)? {
            let key = property.key.as_str();
            if KEYS_FORBIDDEN.contains(&key) {
                let text = "Can not update config in black list.";
                return Err(Refusal::new(response::NO_PERMISSION, text));
            }
            if KEYS_AT_START.contains(&key) {
                let text = format!("{key} counts only at the start");
                return Err(Refusal::new(response::SYSTEM_ERROR, text));
            }
        }
        // What is asked for comes first, so that lines in messages are those of the request; absent keys keep their value.
        let (asked, _) = NameServerConfig::from_properties("request", text).map_err(wrong)?;
        let mut merged = self.config.properties();
        let named = parse_properties("request", text).map_err(wrong)?;
        for (key, value) in asked.properties() {
            if named.iter().any(|property| property.key == key) {
                merged.insert(key, value);
            }
        }
        let text = print_properties(merged.iter().map(|(key, value)| (*key, value.as_str())));
        let (config, _) = NameServerConfig::from_properties("request", &text).map_err(wrong)?;
        self.routes.set_options(route_options(&config));
        self.config = config;
        Ok(Command::success(command))
    }

    fn get_config(&self, command: &Command) -> Command {
        let pairs = self.config.properties();
        let text = print_properties(pairs.iter().map(|(key, value)| (*key, value.as_str())));
        Command::success(command).with_body(text.into_bytes())
    }
}

/// The reply to a change of KV configuration, once it is saved or refused.
pub fn kv_change_reply(command: &Command, changed: Result<(), String>) -> Command {
    match changed {
        Ok(()) => Command::success(command),
        Err(text) => Command::reply(command, response::SYSTEM_ERROR).with_remark(text),
    }
}

fn kv_change(command: &Command) -> Result<KvChange, Refusal> {
    if command.code == request::PUT_KV_CONFIG {
        let header = PutKvConfigHeader::read(&command.ext)?;
        return Ok(KvChange::Put {
            namespace: header.namespace.to_string(),
            key: header.key.to_string(),
            value: header.value.to_string(),
        });
    }
    let header = KvConfigHeader::read(&command.ext)?;
    Ok(KvChange::Delete {
        namespace: header.namespace.to_string(),
        key: header.key.to_string(),
    })
}

fn route_options(config: &NameServerConfig) -> RouteOptions {
    RouteOptions {
        delete_missing_topics: config.delete_topic_with_broker_registration,
        support_acting_master: config.support_acting_master,
    }
}

fn clamp_timeout(asked_ms: i64) -> Duration {
    let ms = asked_ms.clamp(*HEARTBEAT_TIMEOUT_MS.start(), *HEARTBEAT_TIMEOUT_MS.end());
    Duration::from_millis(ms.unsigned_abs())
}

fn registered_topic((key, config): (String, TopicConfig)) -> (String, Queues) {
    let queues = Queues {
        read_count: config.read_queue_nums,
        write_count: config.write_queue_nums,
        permission: config.perm,
        system_flag: config.topic_sys_flag,
    };
    let name = if config.topic_name.is_empty() {
        key
    } else {
        config.topic_name
    };
    (name, queues)
}

fn queues(data: &QueueData) -> Queues {
    Queues {
        read_count: data.read_queue_nums,
        write_count: data.write_queue_nums,
        permission: data.perm,
        system_flag: data.topic_sys_flag,
    }
}

fn queue_data((broker_name, queues): (String, Queues)) -> QueueData {
    QueueData {
        broker_name,
        perm: queues.permission,
        read_queue_nums: queues.read_count,
        topic_sys_flag: queues.system_flag,
        write_queue_nums: queues.write_count,
    }
}

fn broker_data(view: BrokerView) -> BrokerData {
    BrokerData {
        broker_addrs: view.addresses,
        broker_name: view.broker_name,
        cluster: view.cluster,
        enable_acting_master: view.acting_master,
        zone_name: view.zone_name,
    }
}

fn topic_list(command: &Command, topic_list: Vec<String>, broker_addr: Option<String>) -> Command {
    let body = TopicList {
        broker_addr,
        topic_list,
    };
    Command::success(command).with_body(body.write())
}

fn count(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
