//! A client that speaks plain remoting to one broker, for tests on either runtime. It retries nothing and hides nothing.
#![allow(dead_code, unreachable_pub)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use orrery_core::config::BrokerConfig;
use orrery_core::protocol::body::{
    Body, ConsumerData, ConsumerIdList, HeartbeatData, LockBatchRequestBody, LockBatchResponseBody, ProducerData,
    SubscriptionData,
};
use orrery_core::protocol::code::request;
use orrery_core::protocol::message::{RecordView, records};
use orrery_core::protocol::{Command, properties};
use orrery_core::remoting::{CallError, Connections, Inbound, Peer};
use orrery_core::runtime::Runtime;
use orrery_core::types::MessageQueue;

const TIMEOUT: Duration = Duration::from_secs(20);

/// A broker that fits into a simulated disk: small files, no name server unless a test names one.
pub fn small_config(port: u16) -> BrokerConfig {
    let mut config = BrokerConfig::default();
    config.network.listen_port = port;
    config.store.root_dir = "/store".into();
    config.store.commit_log_file_bytes = 1 << 20;
    config.store.consume_queue_file_bytes = 20_000;
    config.store.index_hash_slot_count = 1000;
    config.store.index_entry_count = 4000;
    config.messages.size_bytes_max = 256 << 10;
    config
}

/// What a broker sent by itself.
#[derive(Default)]
pub struct Heard(Mutex<Vec<Command>>);

impl Inbound for Heard {
    fn request(&self, _address: &str, _peer: &Peer, command: Command) {
        self.0.lock().unwrap().push(command);
    }
}

pub struct Client<R: Runtime> {
    pub rt: R,
    pub id: String,
    pub address: String,
    pub connections: Connections<R>,
    heard: Arc<Heard>,
}

/// A message as a consumer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub queue_id: i32,
    pub offset: i64,
    pub physical_offset: u64,
    pub reconsume_times: i32,
    pub properties: String,
    pub body: String,
}

impl Message {
    pub fn property(&self, name: &str) -> Option<&str> {
        properties::get(&self.properties, name)
    }
}

impl<R: Runtime> Client<R> {
    pub fn new(rt: R, id: &str, address: impl ToString) -> Client<R> {
        let heard = Arc::new(Heard::default());
        Client {
            connections: Connections::new(rt.clone(), heard.clone()),
            rt,
            id: id.to_owned(),
            address: address.to_string(),
            heard,
        }
    }

    pub async fn call(&self, command: Command) -> Result<Command, CallError> {
        self.connections.call(&self.address, command, TIMEOUT).await
    }

    /// As [`call`](Client::call), again until there is a reply: for brokers that are starting.
    pub async fn insist(&self, command: Command) -> Command {
        for _ in 0..600 {
            match self.call(command.clone()).await {
                Ok(reply) => return reply,
                Err(_) => self.rt.sleep(Duration::from_millis(100)).await,
            }
        }
        panic!("no reply from {} to {}", self.address, command.code);
    }

    pub fn topic_command(topic: &str, queues: i32) -> Command {
        Command::request(request::UPDATE_AND_CREATE_TOPIC)
            .with("topic", topic)
            .with("defaultTopic", "TBW102")
            .with("readQueueNums", &queues.to_string())
            .with("writeQueueNums", &queues.to_string())
            .with("perm", "6")
            .with("topicFilterType", "SINGLE_TAG")
            .with("topicSysFlag", "0")
            .with("order", "false")
    }

    pub async fn create_topic(&self, topic: &str, queues: i32) -> Command {
        self.insist(Self::topic_command(topic, queues)).await
    }

    pub fn send_command(topic: &str, queue_id: i32, body: &str, properties: &str) -> Command {
        Command::request(request::SEND_MESSAGE_V2)
            .with("a", "pg")
            .with("b", topic)
            .with("c", "TBW102")
            .with("d", "4")
            .with("e", &queue_id.to_string())
            .with("f", "0")
            .with("g", "1")
            .with("h", "0")
            .with("i", properties)
            .with_body(Bytes::from(body.to_owned()))
    }

    pub async fn send(&self, topic: &str, queue_id: i32, body: &str, properties: &str) -> Result<Command, CallError> {
        self.call(Self::send_command(topic, queue_id, body, properties)).await
    }

    pub fn pull_command(group: &str, topic: &str, queue_id: i32, offset: i64) -> Command {
        Command::request(request::PULL_MESSAGE)
            .with("consumerGroup", group)
            .with("topic", topic)
            .with("queueId", &queue_id.to_string())
            .with("queueOffset", &offset.to_string())
            .with("maxMsgNums", "32")
            .with("sysFlag", "4")
            .with("commitOffset", "0")
            .with("suspendTimeoutMillis", "0")
            .with("subscription", "*")
            .with("subVersion", "0")
    }

    pub async fn pull(&self, group: &str, topic: &str, queue_id: i32, offset: i64) -> Result<Command, CallError> {
        self.call(Self::pull_command(group, topic, queue_id, offset)).await
    }

    /// A pull that may be held for `suspend`.
    pub async fn poll(&self, group: &str, topic: &str, offset: i64, suspend: Duration) -> Result<Command, CallError> {
        let command = Self::pull_command(group, topic, 0, offset)
            .with("sysFlag", "6")
            .with("suspendTimeoutMillis", &suspend.as_millis().to_string());
        self.call(command).await
    }

    /// Everything in a queue from `offset` on.
    pub async fn read_all(&self, group: &str, topic: &str, queue_id: i32, mut offset: i64) -> Vec<Message> {
        let mut all = Vec::new();
        loop {
            let reply = self.insist(Self::pull_command(group, topic, queue_id, offset)).await;
            match reply.code {
                0 | 20 => {
                    all.extend(messages(&reply));
                    offset = field(&reply, "nextBeginOffset");
                }
                19 => return all,
                code => panic!("pull of {topic}/{queue_id} at {offset}: {code} {}", reply.remark_text()),
            }
        }
    }

    pub async fn commit(&self, group: &str, topic: &str, queue_id: i32, offset: i64) -> Command {
        let command = Command::request(request::UPDATE_CONSUMER_OFFSET)
            .with("consumerGroup", group)
            .with("topic", topic)
            .with("queueId", &queue_id.to_string())
            .with("commitOffset", &offset.to_string());
        self.insist(command).await
    }

    /// `None` if nothing is committed.
    pub async fn committed(&self, group: &str, topic: &str, queue_id: i32) -> Option<i64> {
        let command = Command::request(request::QUERY_CONSUMER_OFFSET)
            .with("consumerGroup", group)
            .with("topic", topic)
            .with("queueId", &queue_id.to_string())
            .with("setZeroIfNotFound", "false");
        let reply = self.insist(command).await;
        reply.is_success().then(|| field(&reply, "offset"))
    }

    pub async fn bound(&self, code: i32, topic: &str, queue_id: i32) -> i64 {
        let command = Command::request(code)
            .with("topic", topic)
            .with("queueId", &queue_id.to_string());
        field(&self.insist(command).await, "offset")
    }

    pub async fn max(&self, topic: &str, queue_id: i32) -> i64 {
        self.bound(request::GET_MAX_OFFSET, topic, queue_id).await
    }

    pub async fn heartbeat(&self, group: &str, topics: &[&str]) -> Command {
        let data = HeartbeatData {
            client_id: self.id.clone(),
            consumer_data_set: vec![ConsumerData {
                group_name: group.to_owned(),
                subscription_data_set: topics
                    .iter()
                    .map(|topic| SubscriptionData {
                        topic: (*topic).to_owned(),
                        sub_string: "*".to_owned(),
                        sub_version: 1,
                        ..SubscriptionData::default()
                    })
                    .collect(),
                ..ConsumerData::default()
            }],
            producer_data_set: vec![ProducerData {
                group_name: "pg".to_owned(),
            }],
            ..HeartbeatData::default()
        };
        self.insist(Command::request(request::HEART_BEAT).with_body(data.write()))
            .await
    }

    pub async fn members(&self, group: &str) -> Vec<String> {
        let command = Command::request(request::GET_CONSUMER_LIST_BY_GROUP).with("consumerGroup", group);
        let reply = self.insist(command).await;
        if !reply.is_success() {
            return Vec::new();
        }
        ConsumerIdList::read(&reply.body).expect("a list").consumer_id_list
    }

    fn lock_body(&self, group: &str, topic: &str, queues: &[i32]) -> Bytes {
        let body = LockBatchRequestBody {
            client_id: self.id.clone(),
            consumer_group: group.to_owned(),
            mq_set: queues
                .iter()
                .map(|queue_id| MessageQueue {
                    topic: topic.to_owned(),
                    broker_name: "broker-a".to_owned(),
                    queue_id: *queue_id,
                })
                .collect(),
            only_this_broker: false,
        };
        body.write()
    }

    /// Ids of the queues that this client holds now.
    pub async fn lock(&self, group: &str, topic: &str, queues: &[i32]) -> Vec<i32> {
        let command = Command::request(request::LOCK_BATCH_MQ).with_body(self.lock_body(group, topic, queues));
        let reply = self.insist(command).await;
        assert!(reply.is_success(), "{}", reply.remark_text());
        let granted = LockBatchResponseBody::read(&reply.body).expect("a list").lock_ok_mq_set;
        granted.into_iter().map(|queue| queue.queue_id).collect()
    }

    pub async fn unlock(&self, group: &str, topic: &str, queues: &[i32]) -> Command {
        let command = Command::request(request::UNLOCK_BATCH_MQ).with_body(self.lock_body(group, topic, queues));
        self.insist(command).await
    }

    pub async fn send_back(&self, group: &str, message: &Message, level: i32, max: i32) -> Command {
        let command = Command::request(request::CONSUMER_SEND_MSG_BACK)
            .with("offset", &message.physical_offset.to_string())
            .with("group", group)
            .with("delayLevel", &level.to_string())
            .with("maxReconsumeTimes", &max.to_string());
        self.insist(command).await
    }

    /// Codes of the requests that the broker has made of this client.
    pub fn heard(&self) -> Vec<i32> {
        self.heard
            .0
            .lock()
            .unwrap()
            .iter()
            .map(|command| command.code)
            .collect()
    }
}

pub fn field(reply: &Command, name: &str) -> i64 {
    let text = reply
        .ext
        .get(name)
        .unwrap_or_else(|| panic!("{name} is missing in {reply:?}"));
    text.parse().expect("a number")
}

pub fn messages(reply: &Command) -> Vec<Message> {
    let parse = |record: Bytes| {
        let view = RecordView::parse_checked(&record).expect("a whole record");
        Message {
            topic: view.topic.to_owned(),
            queue_id: view.queue_id,
            offset: view.queue_offset,
            physical_offset: view.physical_offset,
            reconsume_times: view.reconsume_times,
            properties: view.properties_text().expect("text").to_owned(),
            body: String::from_utf8(view.body.to_vec()).expect("text"),
        }
    };
    records(&reply.body)
        .map(|record| parse(record.expect("a record")))
        .collect()
}

pub fn bodies(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| message.body.as_str()).collect()
}
