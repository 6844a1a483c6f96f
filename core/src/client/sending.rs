//! One logical send: prepare the message once, choose a queue, try, and try elsewhere as [`retry`](super::retry) says.
//!
//! Shared by producers and by consumers that put a message back themselves. Every attempt is told to the observer.
//! (DefaultMQProducerImpl.sendDefaultImpl, sendKernelImpl)

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::SendStatus;
use super::config::ProducerConfig;
use super::error::RequestError;
use super::instance::{ClientCore, Template, lock};
use super::message::{Message, MessageError, RETRY_TOPIC_PREFIX, deflate, is_name};
use super::observer::{Attempt, AttemptOutcome};
use super::retry::{Fate, GiveUp, Retries, Step};
use super::route::{Address, Faults, Route};
use crate::protocol::code::{request, response};
use crate::protocol::header::{SendHeader, SendResponseHeader};
use crate::protocol::message::{BatchMessage, PROPERTIES_SIZE_MAX, encode_batch_message, java_hash, sys_flag};
use crate::protocol::{Command, properties};
use crate::runtime::{Runtime, site};
use crate::types::MessageQueue;

/// Which queue a message goes to.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// The next of the round; a retry goes to another broker.
    Any,
    /// This one. Not tried again: the order of a queue is the caller's.
    Queue(&'a MessageQueue),
    /// The one that the key's Java hash selects among the topic's queues; equal keys, equal queue, as long as the count of
    /// queues stays. Not tried again. (SelectMessageQueueByHash.java)
    Key(&'a str),
}

/// What a broker said about a message it has stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendReceipt {
    pub status: SendStatus,
    /// The id given by the producer (UNIQ_KEY); of a batch, all of them joined by commas.
    pub message_id: String,
    /// The id of the place in the broker's log, as the broker wrote it.
    pub offset_message_id: String,
    pub queue: Arc<MessageQueue>,
    /// Offset in the queue; of a batch, that of its first message.
    pub offset: i64,
}

/// A message or a batch, ready to be put into requests.
pub(super) struct Prepared<'a> {
    pub(super) messages: &'a [Message],
    pub(super) message_id: String,
    pub(super) code: i32,
    pub(super) sys_flag: i32,
    pub(super) flag: i32,
    pub(super) properties: String,
    pub(super) body: Bytes,
    /// Only for messages that a consumer puts back.
    pub(super) reconsume_times: i32,
    pub(super) reconsume_count_max: Option<i32>,
}

/// Sends in the name of one group.
pub(super) struct Sending<R: Runtime> {
    pub(super) core: Arc<ClientCore<R>>,
    pub(super) config: ProducerConfig,
    faults: Mutex<Faults>,
}

impl<R: Runtime> Sending<R> {
    pub(super) fn new(core: Arc<ClientCore<R>>, config: ProducerConfig) -> Sending<R> {
        Sending {
            core,
            faults: Mutex::default(),
            config,
        }
    }

    /// Checks one message and makes what its requests share: id, properties, compressed body.
    pub(super) fn prepare<'a>(&self, message: &'a Message) -> Result<Prepared<'a>, MessageError> {
        check(message, self.config.body_size_max)?;
        let (message_id, properties) = self.properties(message)?;
        let wants_compression = self
            .config
            .compress_from_bytes
            .is_some_and(|from| message.body.len() >= from);
        let (body, sys_flag) = match wants_compression {
            true => (
                Bytes::from(deflate(&message.body)),
                sys_flag::COMPRESSED | sys_flag::COMPRESSION_ZLIB,
            ),
            false => (message.body.clone(), 0),
        };
        Ok(Prepared {
            messages: std::slice::from_ref(message),
            message_id,
            code: request::SEND_MESSAGE_V2,
            sys_flag,
            flag: message.flag,
            properties,
            body,
            reconsume_times: 0,
            reconsume_count_max: None,
        })
    }

    /// Checks the messages of a batch and makes their common body.
    pub(super) fn prepare_batch<'a>(&self, messages: &'a [Message]) -> Result<Prepared<'a>, MessageError> {
        let first = messages.first().ok_or(MessageError::Batch)?;
        let mut body = Vec::new();
        let mut ids = Vec::with_capacity(messages.len());
        for message in messages {
            check(message, self.config.body_size_max)?;
            let is_delayed = message.property(properties::DELAY).is_some();
            if message.topic != first.topic || is_delayed || message.topic.starts_with(RETRY_TOPIC_PREFIX) {
                return Err(MessageError::Batch);
            }
            let (id, properties) = self.properties(message)?;
            ids.push(id);
            let record = BatchMessage {
                flag: message.flag,
                body: &message.body,
                properties: &properties,
            };
            encode_batch_message(&record, &mut body);
        }
        if body.len() > self.config.body_size_max {
            return Err(MessageError::BodySize {
                size_bytes: body.len(),
                max: self.config.body_size_max,
            });
        }
        Ok(Prepared {
            messages,
            message_id: ids.join(","),
            code: request::SEND_BATCH_MESSAGE,
            sys_flag: 0,
            flag: 0,
            properties: String::new(),
            body: body.into(),
            reconsume_times: 0,
            reconsume_count_max: None,
        })
    }

    /// The message's id and its properties string with that id in it.
    fn properties(&self, message: &Message) -> Result<(String, String), MessageError> {
        let mut text = String::with_capacity(64);
        for (name, value) in &message.properties {
            if !properties::is_storable(name) || !properties::is_storable(value) {
                return Err(MessageError::Property { name: name.clone() });
            }
            properties::push(&mut text, name, value);
        }
        let id = match message.property(properties::UNIQUE_KEY) {
            Some(id) => id.to_owned(),
            None => {
                let id = self.core.unique_ids.next(self.core.rt.wall());
                properties::push(&mut text, properties::UNIQUE_KEY, &id);
                id
            }
        };
        if text.len() > PROPERTIES_SIZE_MAX {
            return Err(MessageError::PropertiesSize { size_bytes: text.len() });
        }
        Ok((id, text))
    }

    /// Sends until stored, refused for good, out of attempts or out of time.
    pub(super) async fn send(&self, prepared: &Prepared<'_>, target: Target<'_>) -> Result<SendReceipt, RequestError> {
        let rt = &self.core.rt;
        let begun = rt.mono();
        let send_id = self.core.number();
        let route = self.route(&prepared.messages[0].topic).await?;
        let retry_count = match target {
            Target::Any => self.config.retry_count,
            Target::Queue(_) | Target::Key(_) => 0,
        };
        let mut retries = Retries::new(retry_count, self.config.send_timeout);
        let mut time_left = self.config.send_timeout.saturating_sub(rt.mono().since(begun));
        let mut failed_broker: Option<Arc<MessageQueue>> = None;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let avoid = failed_broker.as_ref().map(|queue| queue.broker_name.as_str());
            let queue = self.select(&route, target, avoid)?;
            let timeout = self
                .config
                .attempt_timeout
                .map_or(time_left, |limit| limit.min(time_left));
            let number = AttemptNumber { send_id, attempt };
            let result = self.attempt(prepared, &route, &queue, number, timeout).await;
            match retries.after(fate(&result), rt.mono().since(begun)) {
                Step::Return => return result,
                Step::Retry { time_left: left } => time_left = left,
                Step::GiveUp(known) => return result.map_err(|error| given_up(known, error)),
            }
            failed_broker = Some(queue);
        }
    }

    /// Sends without waiting for an answer, once.
    pub(super) async fn send_one_way(&self, prepared: &Prepared<'_>, target: Target<'_>) -> Result<(), RequestError> {
        let send_id = self.core.number();
        let route = self.route(&prepared.messages[0].topic).await?;
        let queue = self.select(&route, target, None)?;
        let broker = master(&route, &queue)?;
        let command = self.command(prepared, &queue);
        let attempt = Attempt {
            send_id,
            attempt: 1,
            producer_group: &self.config.group,
            messages: prepared.messages,
            queue: &queue,
            broker,
            is_one_way: true,
        };
        self.core.observer().attempt_started(&attempt);
        let result = self.core.one_way(broker, command).await;
        let outcome = match &result {
            Err(RequestError::NotSent { .. }) => AttemptOutcome::NotSent,
            _ => AttemptOutcome::Unknown,
        };
        self.core.observer().attempt_ended(&attempt, &outcome);
        result
    }

    async fn attempt(
        &self,
        prepared: &Prepared<'_>,
        route: &Route,
        queue: &Arc<MessageQueue>,
        number: AttemptNumber,
        timeout: Duration,
    ) -> Result<SendReceipt, RequestError> {
        let broker = master(route, queue)?;
        let attempt = Attempt {
            send_id: number.send_id,
            attempt: number.attempt,
            producer_group: &self.config.group,
            messages: prepared.messages,
            queue,
            broker,
            is_one_way: false,
        };
        let command = self.command(prepared, queue);
        self.core.observer().attempt_started(&attempt);
        let begun = self.core.rt.mono();
        let result = self
            .exchange(broker, command, queue, timeout, &prepared.message_id)
            .await;
        // Defect: a lost reply is taken for a send that never left.
        let result = match result {
            Err(RequestError::Unknown { reason }) if site(&self.core.rt, "lost-reply-is-failure") => {
                Err(RequestError::not_sent(reason))
            }
            result => result,
        };
        if self.config.avoid_slow_brokers {
            let now = self.core.rt.mono();
            let latency = result.is_ok().then(|| now.since(begun));
            lock(&self.faults).observe(&queue.broker_name, latency, now);
        }
        self.core.observer().attempt_ended(&attempt, &outcome(&result));
        result
    }

    async fn exchange(
        &self,
        broker: &str,
        command: Command,
        queue: &Arc<MessageQueue>,
        timeout: Duration,
        message_id: &str,
    ) -> Result<SendReceipt, RequestError> {
        let reply = self.core.call(broker, command, timeout).await?;
        let Some(status) = status(reply.code) else {
            return Err(RequestError::Refused {
                code: reply.code,
                remark: reply.remark_text().to_owned(),
            });
        };
        let header = SendResponseHeader::read(&reply.ext)
            .map_err(|error| RequestError::unknown(format!("reply of {broker}: {error}")))?;
        let queue = match header.queue_id == queue.queue_id {
            true => queue.clone(),
            false => Arc::new(MessageQueue {
                queue_id: header.queue_id,
                ..(**queue).clone()
            }),
        };
        Ok(SendReceipt {
            status,
            message_id: message_id.to_owned(),
            offset_message_id: header.message_id.to_string(),
            queue,
            offset: header.queue_offset,
        })
    }

    fn command(&self, prepared: &Prepared<'_>, queue: &MessageQueue) -> Command {
        let header = SendHeader {
            producer_group: &self.config.group,
            topic: &queue.topic,
            default_topic: &self.config.default_topic,
            default_topic_queue_count: self.config.default_topic_queue_count,
            queue_id: queue.queue_id,
            sys_flag: prepared.sys_flag,
            born_timestamp: self.core.rt.wall().0,
            flag: prepared.flag,
            properties: &prepared.properties,
            reconsume_times: prepared.reconsume_times,
            unit_mode: false,
            max_reconsume_times: prepared.reconsume_count_max,
            batch: prepared.code == request::SEND_BATCH_MESSAGE,
            broker_name: Some(&queue.broker_name),
        };
        let mut command = Command::request(prepared.code).with_body(prepared.body.clone());
        header.write(&mut command.ext);
        command
    }

    /// The queues of a topic, those of the default topic if it does not exist yet.
    pub(super) async fn route(&self, topic: &str) -> Result<Arc<Route>, RequestError> {
        let template = Template {
            topic: &self.config.default_topic,
            queue_count: self.config.default_topic_queue_count,
        };
        let no_route = |error| RequestError::not_sent(format!("no route for topic {topic}: {error}"));
        let asked = self.core.route(topic, Some(template));
        let timed = self.core.rt.timeout(self.config.send_timeout, asked).await;
        timed
            .map_err(|_| RequestError::not_sent(format!("no route for topic {topic} in time")))?
            .map_err(no_route)
    }

    fn select(
        &self,
        route: &Route,
        target: Target<'_>,
        avoid: Option<&str>,
    ) -> Result<Arc<MessageQueue>, RequestError> {
        let none = || RequestError::not_sent("the topic has no queue to send to");
        match target {
            Target::Queue(queue) => Ok(Arc::new(queue.clone())),
            Target::Key(key) => {
                let count = i64::try_from(route.publish.len()).unwrap_or(i64::MAX);
                let hash = i64::from(java_hash(key).wrapping_abs().max(0));
                let index = hash.checked_rem(count).ok_or_else(none)?;
                Ok(route.publish[index as usize].clone())
            }
            Target::Any if self.config.avoid_slow_brokers => {
                let faults = lock(&self.faults);
                let now = self.core.rt.mono();
                route.select(avoid, Some((&faults, now))).cloned().ok_or_else(none)
            }
            Target::Any => route.select(avoid, None).cloned().ok_or_else(none),
        }
    }
}

#[derive(Clone, Copy)]
struct AttemptNumber {
    send_id: u64,
    attempt: u32,
}

fn master<'a>(route: &'a Route, queue: &MessageQueue) -> Result<&'a Address, RequestError> {
    let name = &queue.broker_name;
    let no_address = || RequestError::not_sent(format!("broker {name} has no master in the route"));
    route.master(name).ok_or_else(no_address)
}

fn check(message: &Message, body_size_max: usize) -> Result<(), MessageError> {
    if !is_name(&message.topic) {
        return Err(MessageError::Topic(message.topic.clone()));
    }
    if message.body.is_empty() {
        return Err(MessageError::EmptyBody);
    }
    if message.body.len() > body_size_max {
        return Err(MessageError::BodySize {
            size_bytes: message.body.len(),
            max: body_size_max,
        });
    }
    Ok(())
}

/// The grade of an answer that says "stored".
fn status(code: i32) -> Option<SendStatus> {
    match code {
        response::SUCCESS => Some(SendStatus::SendOk),
        response::FLUSH_DISK_TIMEOUT => Some(SendStatus::FlushDiskTimeout),
        response::FLUSH_SLAVE_TIMEOUT => Some(SendStatus::FlushSlaveTimeout),
        response::SLAVE_NOT_AVAILABLE => Some(SendStatus::SlaveNotAvailable),
        _ => None,
    }
}

fn fate(result: &Result<SendReceipt, RequestError>) -> Fate {
    match result {
        Ok(_) => Fate::Stored,
        Err(RequestError::Refused { code, .. }) => Fate::Refused(*code),
        Err(RequestError::NotSent { .. }) => Fate::NotSent,
        Err(RequestError::Unknown { .. }) => Fate::Unknown,
    }
}

fn outcome(result: &Result<SendReceipt, RequestError>) -> AttemptOutcome<'_> {
    match result {
        Ok(receipt) => AttemptOutcome::Stored {
            status: receipt.status,
            queue_id: receipt.queue.queue_id,
            offset: receipt.offset,
            offset_message_id: &receipt.offset_message_id,
        },
        Err(RequestError::Refused { code, remark }) => AttemptOutcome::Refused { code: *code, remark },
        Err(RequestError::NotSent { .. }) => AttemptOutcome::NotSent,
        Err(RequestError::Unknown { .. }) => AttemptOutcome::Unknown,
    }
}

/// The error of a send, from that of its last attempt and what is known about all of them.
fn given_up(known: GiveUp, last: RequestError) -> RequestError {
    match (known, last) {
        (GiveUp::Unknown, RequestError::Unknown { reason }) => RequestError::Unknown { reason },
        (GiveUp::Unknown, last) => RequestError::unknown(format!("an attempt may have been stored; the last: {last}")),
        (_, last) => last,
    }
}
