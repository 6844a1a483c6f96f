//! Settings of clients, producers and consumers. Defaults are the Java client's.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::observer::{NoObserver, Observer};
use super::process_queue::FlowLimits;
use super::rebalance::Allocation;
use super::subscription::Subscription;
use crate::runtime::WallMillis;
use crate::types::address::Ipv4Addr;

/// The topic whose route is borrowed for a topic that does not exist yet.
pub const DEFAULT_TOPIC: &str = "TBW102";
/// Queues of a topic that a send creates. Java: `defaultTopicQueueNums`.
pub const DEFAULT_TOPIC_QUEUE_COUNT: i32 = 4;
/// Name servers in one configuration; beyond it the start is refused.
pub const NAME_SERVER_COUNT_MAX: usize = 64;

/// What all producers and consumers of one client share.
#[derive(Clone)]
pub struct ClientConfig {
    /// `host:port` of each name server. One, chosen at random, is asked; the next when it does not answer.
    pub name_servers: Vec<String>,
    /// Address in the client id and in message ids. Only a label.
    pub address: Ipv4Addr,
    /// Second half of the client id; random if `None`. Two live clients must not share it.
    pub instance: Option<String>,
    pub poll_name_server_interval: Duration,
    pub heartbeat_interval: Duration,
    /// Of every call that has no timeout of its own.
    pub call_timeout: Duration,
    pub observer: Arc<dyn Observer>,
}

impl ClientConfig {
    /// `name_servers` is RocketMQ's list: `host:port;host:port`.
    pub fn new(name_servers: &str) -> ClientConfig {
        ClientConfig {
            name_servers: name_servers
                .split([';', ','])
                .map(str::trim)
                .filter(|server| !server.is_empty())
                .map(str::to_owned)
                .collect(),
            address: Ipv4Addr::LOCALHOST,
            instance: None,
            poll_name_server_interval: Duration::from_secs(30),
            heartbeat_interval: Duration::from_secs(30),
            call_timeout: Duration::from_secs(3),
            observer: Arc::new(NoObserver),
        }
    }

    pub fn with_observer(mut self, observer: Arc<dyn Observer>) -> ClientConfig {
        self.observer = observer;
        self
    }

    pub fn with_instance(mut self, instance: impl Into<String>) -> ClientConfig {
        self.instance = Some(instance.into());
        self
    }
}

/// Settings of a producer.
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    pub group: String,
    /// All attempts of one send together. Java: `sendMsgTimeout`.
    pub send_timeout: Duration,
    /// One attempt; `None` gives each the time that is left. Shorter than `send_timeout` leaves time for a retry when
    /// a broker does not answer.
    pub attempt_timeout: Option<Duration>,
    /// Attempts after the first. Java: `retryTimesWhenSendFailed`.
    pub retry_count: u32,
    /// Bodies of at least this many bytes are compressed with zlib, batches never; `None` compresses nothing.
    pub compress_from_bytes: Option<usize>,
    /// Bodies beyond it are refused before they are sent. Java: `maxMessageSize`.
    pub body_size_max: usize,
    /// Steer away from brokers that were slow or failed. Java: `sendLatencyFaultEnable`.
    pub avoid_slow_brokers: bool,
    /// Topic whose route and queues serve for unknown topics. Java: `createTopicKey`.
    pub default_topic: String,
    pub default_topic_queue_count: i32,
}

impl ProducerConfig {
    pub fn new(group: impl Into<String>) -> ProducerConfig {
        ProducerConfig {
            group: group.into(),
            send_timeout: Duration::from_secs(3),
            attempt_timeout: None,
            retry_count: 2,
            compress_from_bytes: Some(4096),
            body_size_max: 4 << 20,
            avoid_slow_brokers: false,
            default_topic: DEFAULT_TOPIC.into(),
            default_topic_queue_count: DEFAULT_TOPIC_QUEUE_COUNT,
        }
    }
}

/// How the members of a group divide messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageModel {
    /// Each queue to one member; offsets on the broker; failed messages come again.
    Clustering,
    /// Each queue to every member; offsets in a file of this member; failed messages are dropped.
    Broadcasting { offsets: PathBuf },
}

/// In which order a consumer's listener sees messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumeOrder {
    /// Up to `concurrency` calls at once, in any order.
    Concurrent,
    /// One call per queue at a time, in the order of offsets, under a lock of the queue. A failed message holds its queue.
    Orderly,
}

/// Where a group starts on a queue for which it has no committed offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// At the end. A broker answers 0 for a young queue all the same, as the official one does.
    Last,
    First,
    /// At the first message stored at or after this time.
    Timestamp(WallMillis),
}

/// Settings of a push consumer.
#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    pub group: String,
    pub subscriptions: Vec<Subscription>,
    pub model: MessageModel,
    pub order: ConsumeOrder,
    pub start_from: StartFrom,
    pub allocation: Allocation,
    /// Listener calls at once. Java: `consumeThreadMax`.
    pub concurrency: usize,
    /// Messages per listener call. Java: `consumeMessageBatchMaxSize`.
    pub batch_count_max: usize,
    /// Messages per pull. Java: `pullBatchSize`.
    pub pull_count_max: i32,
    pub flow: FlowLimits,
    /// How long a broker may hold a pull that finds nothing. Java: `brokerSuspendMaxTimeMillis`.
    pub pull_suspend: Duration,
    /// Must exceed `pull_suspend` by far. Java: `consumerTimeoutMillisWhenSuspend`.
    pub pull_timeout: Duration,
    /// Pause after a pull that failed.
    pub pull_error_delay: Duration,
    pub rebalance_interval: Duration,
    pub commit_interval: Duration,
    /// Renewal of queue locks. Java: `rocketmq.client.rebalance.lockInterval`.
    pub lock_interval: Duration,
    /// How long a granted lock counts on our own clock. The broker's lease (60 s) must be longer under any drift.
    pub lock_validity: Duration,
    /// Deliveries of a message after which it goes to the dead letters; `None`: 16 when concurrent, no limit when orderly.
    pub reconsume_count_max: Option<i32>,
    /// Pause of a queue after an orderly delivery that failed. Java: `suspendCurrentQueueTimeMillis`.
    pub orderly_suspend: Duration,
    /// A message still in the listener's hands after this is sent back, so that it cannot hold the queue's offset forever.
    /// Java: `consumeTimeout`.
    pub consume_timeout: Duration,
    /// How long a shutdown waits for listener calls that are running.
    pub shutdown_grace: Duration,
}

impl ConsumerConfig {
    pub fn new(group: impl Into<String>, subscriptions: Vec<Subscription>) -> ConsumerConfig {
        ConsumerConfig {
            group: group.into(),
            subscriptions,
            model: MessageModel::Clustering,
            order: ConsumeOrder::Concurrent,
            start_from: StartFrom::Last,
            allocation: Allocation::Average,
            concurrency: 20,
            batch_count_max: 1,
            pull_count_max: 32,
            flow: FlowLimits::default(),
            pull_suspend: Duration::from_secs(15),
            pull_timeout: Duration::from_secs(30),
            pull_error_delay: Duration::from_secs(1),
            rebalance_interval: Duration::from_secs(20),
            commit_interval: Duration::from_secs(5),
            lock_interval: Duration::from_secs(20),
            lock_validity: Duration::from_secs(30),
            reconsume_count_max: None,
            orderly_suspend: Duration::from_secs(1),
            consume_timeout: Duration::from_secs(15 * 60),
            shutdown_grace: Duration::from_secs(5),
        }
    }

    pub fn orderly(mut self) -> ConsumerConfig {
        self.order = ConsumeOrder::Orderly;
        self
    }

    pub fn broadcasting(mut self, offsets: impl Into<PathBuf>) -> ConsumerConfig {
        self.model = MessageModel::Broadcasting {
            offsets: offsets.into(),
        };
        self
    }

    pub(super) fn is_orderly(&self) -> bool {
        self.order == ConsumeOrder::Orderly
    }

    pub(super) fn is_clustering(&self) -> bool {
        self.model == MessageModel::Clustering
    }
}
