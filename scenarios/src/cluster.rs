//! The nodes of a plan and their processes: name servers, brokers, clients.
//!
//! Settings are RocketMQ's, with shorter periods, so that half a minute holds several rebalances, commits and segment
//! changes. What a process finds after a restart is its disk; what outlives it here is only the numbering of messages.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use orrery_core::broker::Broker;
use orrery_core::client::{
    Client, ClientConfig, ConsumerConfig, Producer, ProducerConfig, PushConsumer, StartFrom, Subscription,
};
use orrery_core::config::{BrokerConfig, NameServerConfig};
use orrery_core::namesrv::NameServer;
use orrery_core::runtime::Runtime;
use orrery_core::sync::Watch;
use orrery_runtime_sim::{NodeId, SimRuntime, World};

use crate::plan::{BrokerPlan, ClientPlan, Flush, GroupPlan, Order, Plan, Produces};
use crate::recorder::Recorder;
use crate::stores::{AT_REST, AT_WORK, Directory, STORE};
use crate::workload::{Listen, produce};

pub(crate) const NAME_SERVER_PORT: u16 = 9876;
pub(crate) const BROKER_PORT: u16 = 10911;

/// Longest time for one request of a client.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a consumer believes in a queue lock: RocketMQ's.
pub(crate) const LOCK_VALIDITY: Duration = Duration::from_secs(30);
/// Period in which brokers save committed offsets.
pub(crate) const OFFSET_PERSIST_MS: u64 = 2_000;

/// A broker stops in order, and starts, within this: its disk is whole then.
const BROKER_TURN: Duration = Duration::from_secs(60);

/// The running nodes.
pub(crate) struct Cluster {
    pub(crate) world: World,
    pub(crate) nodes: BTreeMap<String, NodeId>,
    /// `ip:port;ip:port`
    pub(crate) name_servers: String,
    pub(crate) shared: Arc<Shared>,
    brokers: BTreeMap<String, Arc<BrokerProcess>>,
}

/// What outlives the processes of clients.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) stop: AtomicBool,
    sending: AtomicUsize,
    sequences: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    calls: Mutex<BTreeMap<(String, String), u64>>,
}

impl Shared {
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Counts a send as under way for as long as the guard lives; the guard of a killed producer dies with it.
    pub(crate) fn begin_send(self: &Arc<Self>) -> SendGuard {
        self.sending.fetch_add(1, Ordering::Relaxed);
        SendGuard(self.clone())
    }

    /// Some producer still waits for the outcome of a send, or is about to try again.
    pub(crate) fn is_sending(&self) -> bool {
        self.sending.load(Ordering::Relaxed) > 0
    }

    /// The next message number of a client; never used again, not even after a crash.
    pub(crate) fn sequence(&self, client: &str) -> Arc<AtomicU64> {
        let mut sequences = self.sequences.lock().unwrap_or_else(PoisonError::into_inner);
        sequences.entry(client.to_owned()).or_default().clone()
    }

    /// How often the group's listeners have been called with this message before.
    pub(crate) fn count_call(&self, group: &str, uid: &str) -> u64 {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let count = calls.entry((group.to_owned(), uid.to_owned())).or_default();
        *count += 1;
        *count - 1
    }
}

/// A send under way.
pub(crate) struct SendGuard(Arc<Shared>);

impl Drop for SendGuard {
    fn drop(&mut self) {
        self.0.sending.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Cluster {
    /// Adds all nodes and boots name servers and brokers.
    pub(crate) fn boot(world: &World, plan: &Plan, recorder: &Recorder) -> Cluster {
        let nodes: BTreeMap<String, NodeId> = plan
            .nodes()
            .into_iter()
            .map(|name| (name.clone(), world.add_node(&name)))
            .collect();
        let name_server_nodes = (1..=plan.name_servers).map(|number| nodes[&format!("namesrv-{number}")]);
        let addresses: Vec<String> = name_server_nodes
            .map(|node| world.address(node, NAME_SERVER_PORT).to_string())
            .collect();
        let mut cluster = Cluster {
            world: world.clone(),
            nodes,
            name_servers: addresses.join(";"),
            shared: Arc::default(),
            brokers: BTreeMap::new(),
        };
        for number in 1..=plan.name_servers {
            cluster.boot_name_server(&format!("namesrv-{number}"));
        }
        for broker in &plan.brokers {
            cluster.boot_broker(broker, recorder);
        }
        cluster
    }

    fn boot_name_server(&self, name: &str) {
        let node = self.nodes[name];
        let text = format!("bindAddress={}\nlistenPort={NAME_SERVER_PORT}\n", self.world.ip(node));
        let (config, _) = NameServerConfig::from_properties(name, &text).expect("our own configuration is valid");
        let name = name.to_owned();
        self.world.start(node, move |rt| {
            let (name, config) = (name.clone(), config.clone());
            async move {
                match NameServer::start(rt.clone(), config).await {
                    Ok(_server) => forever(&rt).await,
                    Err(error) => panic!("{name} does not start: {error}"),
                }
            }
        });
    }

    fn boot_broker(&mut self, plan: &BrokerPlan, recorder: &Recorder) {
        let node = self.nodes[&plan.name];
        let process = Arc::new(BrokerProcess {
            name: plan.name.clone(),
            config: self.broker_config(node, plan),
            recorder: recorder.clone(),
            shared: self.shared.clone(),
            starts: AtomicU64::new(0),
            is_told_to_stop: Watch::new(false),
        });
        self.brokers.insert(plan.name.clone(), process.clone());
        self.world.start(node, move |rt| process.clone().run(rt));
    }

    /// Stops each broker in order, reads its directory, starts it again and has it read and asked.
    pub(crate) async fn restart_brokers(&self) {
        for (name, process) in &self.brokers {
            let node = self.nodes[name];
            process.is_told_to_stop.set(true);
            self.wait_until(|| !self.world.is_running(node)).await;
            process.is_told_to_stop.set(false);
            if self.world.is_running(node) {
                continue;
            }
            process.directory().after_stop(&self.world, node);
            let starts = process.starts.load(Ordering::Relaxed);
            self.world.restart(node);
            self.wait_until(|| process.starts.load(Ordering::Relaxed) > starts)
                .await;
        }
    }

    async fn wait_until(&self, is_so: impl Fn() -> bool) {
        let end = self.world.now() + BROKER_TURN;
        while !is_so() && self.world.now() < end {
            self.world.sleep(Duration::from_millis(10)).await;
        }
    }

    fn broker_config(&self, node: NodeId, plan: &BrokerPlan) -> BrokerConfig {
        let ip = self.world.ip(node).to_string();
        let flush = match plan.flush {
            Flush::Sync => "SYNC_FLUSH",
            Flush::Async => "ASYNC_FLUSH",
        };
        let mut properties: BTreeMap<&str, String> = [
            ("brokerName", plan.name.clone()),
            ("namesrvAddr", self.name_servers.clone()),
            ("bindAddress", ip.clone()),
            ("brokerIP1", ip),
            ("listenPort", BROKER_PORT.to_string()),
            ("flushDiskType", flush.into()),
            ("registerNameServerPeriod", "10000".into()),
            ("flushConsumerOffsetInterval", OFFSET_PERSIST_MS.to_string()),
            ("autoCreateTopicEnable", "false".into()),
            // Small files, so that a run crosses several of them.
            ("maxMessageSize", "65536".into()),
            ("mappedFileSizeCommitLog", "524288".into()),
            ("mappedFileSizeConsumeQueue", "4000".into()),
            ("maxHashSlotNum", "500".into()),
            ("maxIndexNum", "2000".into()),
            ("messageDelayLevel", ["1s"; 18].join(" ")),
            ("storePathRootDir", STORE.into()),
        ]
        .into();
        for (key, value) in &plan.properties {
            properties.insert(key, value.clone());
        }
        let text: String = properties
            .iter()
            .map(|(key, value)| format!("{key}={value}\n"))
            .collect();
        match BrokerConfig::from_properties(&plan.name, &text) {
            Ok((config, _)) => config,
            Err(error) => panic!("properties of {}: {error}", plan.name),
        }
    }

    /// Boots the clients, once the topics exist.
    pub(crate) fn boot_clients(&self, plan: &Plan, recorder: &Recorder) {
        for client in &plan.clients {
            let process = ClientProcess {
                plan: client.clone(),
                groups: plan
                    .groups
                    .iter()
                    .filter(|group| client.joins.contains(&group.name))
                    .cloned()
                    .collect(),
                seed: plan.seed,
                name_servers: self.name_servers.clone(),
                recorder: recorder.clone(),
                shared: self.shared.clone(),
            };
            self.world
                .start(self.nodes[&client.name], move |rt| process.clone().run(rt));
        }
    }
}

/// The process of a broker, whenever it is started.
struct BrokerProcess {
    name: String,
    config: BrokerConfig,
    recorder: Recorder,
    shared: Arc<Shared>,
    /// Starts that were read and asked.
    starts: AtomicU64,
    is_told_to_stop: Watch<bool>,
}

impl BrokerProcess {
    async fn run(self: Arc<Self>, rt: SimRuntime) {
        let broker = match Broker::start(rt.clone(), self.config.clone()).await {
            Ok(broker) => broker,
            Err(error) => panic!("{} does not start: {error}", self.name),
        };
        let effort = if self.shared.is_stopped() { AT_REST } else { AT_WORK };
        self.directory().after_start(&rt, broker.store(), effort).await;
        self.starts.fetch_add(1, Ordering::Relaxed);
        self.is_told_to_stop.until(|stop| *stop).await;
        broker.shutdown().await;
    }

    fn directory(&self) -> Directory<'_> {
        let store = &self.config.store;
        Directory {
            name: &self.name,
            index_slots: store.message_index_enable.then_some(store.index_hash_slot_count),
            recorder: &self.recorder,
        }
    }
}

/// The configuration of a client process on node `name`.
pub(crate) fn client_config(name_servers: &str, name: &str) -> ClientConfig {
    let mut config = ClientConfig::new(name_servers).with_instance(name);
    config.poll_name_server_interval = Duration::from_secs(5);
    config.heartbeat_interval = Duration::from_secs(5);
    config.call_timeout = CALL_TIMEOUT;
    config
}

/// One process of a client.
#[derive(Clone)]
struct ClientProcess {
    plan: ClientPlan,
    groups: Vec<GroupPlan>,
    seed: u64,
    name_servers: String,
    recorder: Recorder,
    shared: Arc<Shared>,
}

impl ClientProcess {
    async fn run(self, rt: SimRuntime) {
        let name = &self.plan.name;
        let observer = self.recorder.observer(name, &rt, LOCK_VALIDITY);
        let config = client_config(&self.name_servers, name).with_observer(observer);
        let client = Client::start(&rt, config).expect("the configuration is valid");
        let mut consumers = Vec::new();
        for group in &self.groups {
            let listen = Listen::new(&rt, self.seed, group, &self.shared);
            let consumer = PushConsumer::start(&client, consumer_config(group), listen).await;
            consumers.push(consumer.expect("the configuration is valid"));
        }
        if let Some(produces) = &self.plan.produces {
            let producer = Producer::start(&client, producer_config(name)).expect("the configuration is valid");
            self.produce(&rt, &producer, produces).await;
        }
        forever(&rt).await;
    }

    async fn produce(&self, rt: &SimRuntime, producer: &Producer<SimRuntime>, produces: &Produces) {
        produce(rt, producer, &self.plan.name, produces, self.seed, &self.shared).await;
    }
}

fn producer_config(name: &str) -> ProducerConfig {
    let mut config = ProducerConfig::new(format!("producers-of-{name}"));
    config.send_timeout = Duration::from_secs(3);
    config.attempt_timeout = Some(Duration::from_secs(1));
    config.compress_from_bytes = Some(2_000);
    config
}

fn consumer_config(group: &GroupPlan) -> ConsumerConfig {
    let subscriptions = group.topics.iter().map(|topic| Subscription::all(topic.as_str()));
    let mut config = ConsumerConfig::new(group.name.as_str(), subscriptions.collect());
    config.start_from = StartFrom::First;
    config.pull_suspend = Duration::from_secs(3);
    config.pull_timeout = Duration::from_secs(6);
    config.rebalance_interval = Duration::from_secs(3);
    config.commit_interval = Duration::from_secs(1);
    config.lock_interval = Duration::from_secs(5);
    config.lock_validity = LOCK_VALIDITY;
    config.orderly_suspend = Duration::from_millis(200);
    match group.order {
        Order::Orderly => config.orderly(),
        Order::Concurrent => config,
    }
}

async fn forever(rt: &SimRuntime) {
    loop {
        rt.sleep(Duration::from_secs(3_600)).await;
    }
}
