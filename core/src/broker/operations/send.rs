//! Storing a message: checks in RocketMQ's order, then one append. What follows (the write, the flush, the answer) is
//! the caller's, who does it once for all sends of a turn.
//!
//! Sources: `SendMessageProcessor.java`, `AbstractSendMessageProcessor.java` (`msgCheck`), `HookUtils.java`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{ClientHandle, Counters, Operations, Reason, Refusal};
use crate::broker::state::topics;
use crate::protocol::body::TopicConfig;
use crate::protocol::message::{self, Draft, sys_flag};
use crate::protocol::properties;
use crate::runtime::{Runtime, WallMillis};
use crate::store::{AppendError, Appended};
use crate::types::PhysicalOffset;
use crate::types::address::{IpAddr, SocketAddr};

/// The first protocol version whose own limit of retries is honoured (V3_4_9).
pub(super) const VERSION_WITH_MAX_RECONSUME_TIMES: i32 = 121;

/// Messages in one batch; beyond, MESSAGE_ILLEGAL. A batch fits into one message's size limit, so this bounds tiny ones.
const BATCH_COUNT_MAX: usize = 65_536;

/// A message, or a batch of them, to be stored.
#[derive(Clone, Copy, Debug)]
pub struct SendRequest<'a> {
    pub topic: &'a str,
    /// Template for a topic that does not exist yet.
    pub default_topic: &'a str,
    pub default_queue_count: i32,
    /// Negative: any queue.
    pub queue_id: i32,
    pub sys_flag: i32,
    pub flag: i32,
    pub born_time: WallMillis,
    pub properties: &'a str,
    pub reconsume_times: i32,
    pub max_reconsume_times: Option<i32>,
    /// The body is a sequence of messages.
    pub is_batch: bool,
    pub body: &'a [u8],
}

/// A message in the log. Not to be acknowledged before the log was written, nor, if [`Stored::waits`], before it was
/// flushed up to [`Stored::end`] under synchronous flush.
#[derive(Clone, Debug)]
pub struct Stored {
    pub appended: Appended,
    /// The queue that the sender addressed; a delayed message waits in another one.
    pub queue_id: i32,
    /// The unique key, if the sender gave none and the broker made it.
    pub made_unique_key: Option<String>,
    /// It waits in the schedule topic: the offset is one of there.
    pub is_delayed: bool,
    /// The sender wants the whole promise (`WAIT`).
    pub waits: bool,
}

impl Stored {
    pub fn end(&self) -> PhysicalOffset {
        self.appended.end
    }

    pub fn queue_offset(&self) -> i64 {
        self.appended.positions[0].queue_offset
    }
}

/// What the sends of one turn have in common: a buffer, and the topic that the last one named, so that it is looked up once.
#[derive(Debug, Default)]
pub struct Turn {
    properties: String,
    topic: Option<Arc<TopicConfig>>,
}

impl Turn {
    /// Something else than a send was served, which may have changed topics.
    pub fn forget_topic(&mut self) {
        self.topic = None;
    }

    fn topic(&self, name: &str) -> Option<Arc<TopicConfig>> {
        self.topic.clone().filter(|config| config.topic_name == name)
    }
}

/// What the properties of a message say to the broker, found in one pass.
#[derive(Clone, Copy, Debug, Default)]
struct Marks<'a> {
    unique_key: Option<&'a str>,
    delay_level: i32,
    has_cluster: bool,
    has_timer: bool,
    has_pop_check: bool,
    is_half: bool,
    waits: bool,
}

impl<'a> Marks<'a> {
    fn of(text: &'a str) -> Marks<'a> {
        let mut marks = Marks {
            waits: true,
            ..Marks::default()
        };
        for (name, value) in properties::iterate(text) {
            match name {
                properties::UNIQUE_KEY => marks.unique_key = Some(value),
                properties::DELAY => marks.delay_level = value.trim().parse().unwrap_or(0),
                properties::CLUSTER => marks.has_cluster = true,
                properties::POP_CHECK => marks.has_pop_check = true,
                properties::TIMER_DELAY_SEC | properties::TIMER_DELAY_MS | properties::TIMER_DELIVER_MS => {
                    marks.has_timer = true;
                }
                properties::TRANSACTION_PREPARED => marks.is_half = value.eq_ignore_ascii_case("true"),
                properties::WAIT => marks.waits = value.eq_ignore_ascii_case("true"),
                _ => {}
            }
        }
        marks
    }
}

impl<R: Runtime> Operations<R> {
    /// Checks the request and appends the message, creating its topic if that is allowed.
    pub async fn send(
        &self,
        client: ClientHandle,
        request: &SendRequest<'_>,
        turn: &mut Turn,
    ) -> Result<Stored, Refusal> {
        if !self.broker_is_writable() {
            return Err(self.not_writable());
        }
        let config = match turn.topic(request.topic) {
            Some(config) => config,
            None => self.topic_for_send(request, turn).await?,
        };
        if request.queue_id >= topics::queue_count(&config) {
            return Err(illegal_queue(request.queue_id, &config, client.address));
        }
        if request.topic.starts_with(topics::RETRY_PREFIX) {
            return self.send_retry(client, request, &config, turn).await;
        }
        self.store_message(client, request, &config, turn).await
    }

    /// The topic, checked as far as it does not depend on the message.
    async fn topic_for_send(&self, request: &SendRequest<'_>, turn: &mut Turn) -> Result<Arc<TopicConfig>, Refusal> {
        check_topic(request.topic)?;
        let config = match self.topic(request.topic) {
            Some(config) => config,
            None => self.create_for_send(request).await?,
        };
        if topics::has_batch_queues(&config) {
            return Err(Refusal::batch_queues(request.topic));
        }
        turn.topic = Some(Arc::clone(&config));
        Ok(config)
    }

    pub(super) fn topic(&self, name: &str) -> Option<Arc<TopicConfig>> {
        self.tables().topics.get(name).cloned()
    }

    pub(super) fn not_writable(&self) -> Refusal {
        let remark = format!("the broker[{}] sending message is forbidden", self.store_host);
        Refusal::new(Reason::NoPermission, remark)
    }

    /// A send to the retry topic of a group, which clients fall back to when a send back fails. Past the last retry, and
    /// for groups that consume in order, it goes to the dead letters.
    async fn send_retry(
        &self,
        client: ClientHandle,
        request: &SendRequest<'_>,
        config: &Arc<TopicConfig>,
        turn: &mut Turn,
    ) -> Result<Stored, Refusal> {
        if request.is_batch {
            return Err(Refusal::new(
                Reason::IllegalMessage,
                "batch message can not be sent to retry group",
            ));
        }
        let group_name = &request.topic[topics::RETRY_PREFIX.len()..];
        let Some(group) = self.group_or_create(group_name).await? else {
            return Err(Refusal::group_missing(group_name));
        };
        let max = request
            .max_reconsume_times
            .filter(|_| client.version >= VERSION_WITH_MAX_RECONSUME_TIMES)
            .unwrap_or(group.retry_max_times);
        let is_orderly = self.tables().locks.any_held(self.runtime.mono(), group_name);
        if request.reconsume_times <= max && !is_orderly {
            return self.store_message(client, request, config, turn).await;
        }
        let dead = self.dead_letter_topic(group_name).await?;
        let without_delay = properties::remove(request.properties, properties::DELAY);
        let dead_letter = SendRequest {
            topic: &dead.topic_name,
            queue_id: 0,
            properties: &without_delay,
            ..*request
        };
        self.store_message(client, &dead_letter, &dead, turn).await
    }

    async fn store_message(
        &self,
        client: ClientHandle,
        request: &SendRequest<'_>,
        config: &TopicConfig,
        turn: &mut Turn,
    ) -> Result<Stored, Refusal> {
        let marks = Marks::of(request.properties);
        self.check_message(request, &marks)?;
        let queue_id = self.choose_queue(request.queue_id, config)?;
        if request.is_batch {
            return self.store_batch(client, request, queue_id, &marks).await;
        }
        let level = self.delay_level(marks.delay_level);
        let made_unique_key = self.write_properties(request, &marks, level, queue_id, &mut turn.properties);
        let draft = Draft {
            topic: if level.is_some() {
                topics::SCHEDULE_TOPIC
            } else {
                request.topic
            },
            queue_id: level.map_or(queue_id, |level| level - 1),
            flag: request.flag,
            sys_flag: request.sys_flag,
            born_time: request.born_time,
            born_host: client.address,
            store_host: self.store_host,
            reconsume_times: request.reconsume_times,
            prepared_transaction_offset: 0,
            body: request.body,
            properties: &turn.properties,
        };
        let appended = self.append(&[draft]).await?;
        Ok(Stored {
            appended,
            queue_id,
            made_unique_key,
            is_delayed: level.is_some(),
            waits: marks.waits,
        })
    }

    /// The stored properties: as sent, plus what the broker adds. Returns the unique key if it was made here.
    fn write_properties(
        &self,
        request: &SendRequest<'_>,
        marks: &Marks<'_>,
        level: Option<i32>,
        queue_id: i32,
        scratch: &mut String,
    ) -> Option<String> {
        scratch.clear();
        if marks.has_pop_check {
            scratch.push_str(&properties::remove(request.properties, properties::POP_CHECK));
        } else {
            scratch.push_str(request.properties);
        }
        let unique_key = marks.unique_key.is_none().then(|| self.new_unique_key());
        if let Some(key) = &unique_key {
            properties::push(scratch, properties::UNIQUE_KEY, key);
        }
        if !marks.has_cluster {
            properties::push(scratch, properties::CLUSTER, &self.config.identity.cluster_name);
        }
        if level.is_some() {
            properties::push(scratch, properties::REAL_TOPIC, request.topic);
            properties::push(scratch, properties::REAL_QUEUE_ID, &queue_id.to_string());
        }
        unique_key
    }

    /// Stores every message of a batch, at neighbouring offsets of one queue, or none.
    async fn store_batch(
        &self,
        client: ClientHandle,
        request: &SendRequest<'_>,
        queue_id: i32,
        marks: &Marks<'_>,
    ) -> Result<Stored, Refusal> {
        let mut drafts = Vec::new();
        for message in message::batch(request.body) {
            let message = message.map_err(|error| Refusal::new(Reason::IllegalMessage, error.to_string()))?;
            let inner = Marks::of(message.properties);
            if inner.delay_level > 0 || inner.has_timer || inner.is_half || inner.has_pop_check {
                return Err(Refusal::new(
                    Reason::IllegalMessage,
                    "a batch holds plain messages only: no delay, no transaction",
                ));
            }
            if drafts.len() == BATCH_COUNT_MAX {
                let remark = format!("a batch has at most {BATCH_COUNT_MAX} messages");
                return Err(Refusal::new(Reason::IllegalMessage, remark));
            }
            drafts.push(Draft {
                topic: request.topic,
                queue_id,
                flag: message.flag,
                sys_flag: request.sys_flag,
                born_time: request.born_time,
                born_host: client.address,
                store_host: self.store_host,
                reconsume_times: request.reconsume_times,
                prepared_transaction_offset: 0,
                body: message.body,
                properties: message.properties,
            });
        }
        if drafts.is_empty() {
            return Err(Refusal::new(Reason::IllegalMessage, "the batch is empty"));
        }
        let appended = self.append(&drafts).await?;
        Ok(Stored {
            appended,
            queue_id,
            made_unique_key: None,
            is_delayed: false,
            waits: marks.waits,
        })
    }

    /// Appends, waiting for the next log file if the current one is full.
    pub(in crate::broker) async fn append(&self, drafts: &[Draft<'_>]) -> Result<Appended, Refusal> {
        loop {
            match self.store.append(drafts) {
                Ok(appended) => {
                    Counters::add(&self.counters.messages_put, drafts.len() as u64);
                    return Ok(appended);
                }
                Err(AppendError::NotReady) => {
                    self.store.ready().await?;
                }
                // What waits is ours to write: make room and try once more.
                Err(AppendError::Busy { .. }) => {
                    self.store.write_pending().await.map_err(AppendError::Store)?;
                    return Ok(self.store.append(drafts)?);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn check_message(&self, request: &SendRequest<'_>, marks: &Marks<'_>) -> Result<(), Refusal> {
        let illegal = |remark: String| Err(Refusal::new(Reason::IllegalMessage, remark));
        let size_max = self.config.messages.size_bytes_max as usize;
        if request.body.len() > size_max || request.properties.len() > i16::MAX as usize {
            return illegal(format!(
                "the message is illegal, maybe msg body or properties length not matched. \
                 msg body length limit {size_max}B, msg properties length limit 32KB."
            ));
        }
        if request.topic.len() > topics::NAME_BYTES_MAX && (request.is_batch || !is_derived(request.topic)) {
            return illegal(format!("message topic length too long {}", request.topic.len()));
        }
        if marks.is_half || sys_flag::transaction(request.sys_flag) != sys_flag::NOT_TRANSACTION {
            let remark = format!(
                "the broker[{}] sending transaction message is forbidden",
                self.store_host
            );
            return Err(Refusal::new(Reason::NoPermission, remark));
        }
        if marks.has_timer && marks.delay_level <= 0 {
            return illegal("timer messages are not supported by this broker: use a delay level".to_owned());
        }
        if request.is_batch && marks.delay_level > 0 {
            return illegal("a batch holds plain messages only: no delay, no transaction".to_owned());
        }
        if request.sys_flag & (sys_flag::INNER_BATCH | sys_flag::NEED_UNWRAP) != 0 {
            return illegal("the topic takes no inner batches".to_owned());
        }
        Ok(())
    }

    fn choose_queue(&self, wanted: i32, config: &TopicConfig) -> Result<i32, Refusal> {
        if wanted >= 0 {
            return Ok(wanted);
        }
        let count = u64::try_from(config.write_queue_nums).unwrap_or(0);
        if count == 0 {
            let remark = format!("topic[{}] has no queue to write to", config.topic_name);
            return Err(Refusal::new(Reason::NoPermission, remark));
        }
        Ok((self.runtime.random_u64() % count) as i32)
    }

    /// The level that a delay property means; above the highest counts as the highest.
    pub(super) fn delay_level(&self, wanted: i32) -> Option<i32> {
        let count = self.config.messages.delay_levels.count();
        (wanted > 0 && count > 0).then(|| wanted.min(count))
    }

    /// A client message id in RocketMQ's layout: address, a number for this run, time, counter.
    fn new_unique_key(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        let count = self.unique_count.fetch_add(1, Ordering::Relaxed);
        // Milliseconds since the broker started stand for those since the start of the month: only differences matter.
        let millis = self.runtime.wall().millis_since(self.started_wall) as u32;
        let mut bytes = [0; 16];
        bytes[..10].copy_from_slice(&self.unique_prefix);
        bytes[10..14].copy_from_slice(&millis.to_be_bytes());
        bytes[14..].copy_from_slice(&(count as u16).to_be_bytes());
        let mut text = String::with_capacity(32);
        for byte in bytes {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        text
    }
}

/// The constant part of the unique keys made by one run of a broker.
pub(super) fn unique_prefix(host: SocketAddr, random: u64) -> [u8; 10] {
    let mut prefix = [0; 10];
    if let IpAddr::V4(ip) = host.ip() {
        prefix[..4].copy_from_slice(&ip.octets());
    }
    prefix[4..].copy_from_slice(&random.to_be_bytes()[..6]);
    prefix
}

fn is_derived(topic: &str) -> bool {
    topic.starts_with(topics::RETRY_PREFIX) || topic.starts_with(topics::DEAD_LETTER_PREFIX)
}

fn check_topic(topic: &str) -> Result<(), Refusal> {
    if let Err(error) = topics::check_name(topic) {
        return Err(Refusal::new(Reason::InvalidParameter, error.to_string()));
    }
    if topics::is_closed_to_senders(topic) {
        let remark = format!("Sending message to topic[{topic}] is forbidden.");
        return Err(Refusal::new(Reason::NoPermission, remark));
    }
    Ok(())
}

fn illegal_queue(queue_id: i32, config: &TopicConfig, producer: SocketAddr) -> Refusal {
    let permission: String = [(4, 'R'), (2, 'W'), (1, 'X')]
        .map(|(bit, letter)| if config.perm & bit != 0 { letter } else { '-' })
        .iter()
        .collect();
    let remark = format!(
        "request queueId[{queue_id}] is illegal, TopicConfig [topicName={}, readQueueNums={}, writeQueueNums={}, \
         perm={permission}, topicFilterType={}, topicSysFlag={}, order={}, attributes={:?}] Producer: {producer}",
        config.topic_name,
        config.read_queue_nums,
        config.write_queue_nums,
        config.topic_filter_type,
        config.topic_sys_flag,
        config.order,
        config.attributes,
    );
    Refusal::new(Reason::InvalidParameter, remark)
}
