//! The requests that a client makes, typed: one function per request code, no decisions.
//!
//! Every function says what is known when it fails ([`RequestError`]). A success whose answer cannot be read is unknown.

use std::collections::BTreeMap;
use std::time::Duration;

use super::config::StartFrom;
use super::error::RequestError;
use super::instance::ClientCore;
use super::message::MessageView;
use super::observer::PullOutcome;
use super::route::{Address, MASTER_ID, QueueData, RouteData};
use super::subscription::Subscription;
use crate::protocol::body::{
    Body, ConsumeFromWhere, ConsumeType, ConsumerData, ConsumerIdList, HeartbeatData, LockBatchRequestBody,
    LockBatchResponseBody, MessageModel, ProducerData, SubscriptionData, TopicRouteData,
};
use crate::protocol::code::{request, response};
use crate::protocol::header::{
    ConsumerGroupHeader, OffsetResponseHeader, PullFlag, PullHeader, PullResponseHeader, QueryConsumerOffsetHeader,
    QueueHeader, RouteHeader, SearchOffsetHeader, SendBackHeader, UnregisterClientHeader, UpdateConsumerOffsetHeader,
};
use crate::protocol::message::records;
use crate::protocol::{Command, ExtFields, Text};
use crate::remoting::CallError;
use crate::runtime::{Runtime, WallMillis};
use crate::types::MessageQueue;

/// Which groups live in this client.
pub(super) struct Heartbeat {
    pub(super) client_id: String,
    pub(super) producers: Vec<String>,
    pub(super) consumers: Vec<ConsumerHeartbeat>,
}

/// What a heartbeat says about one consumer.
pub(super) struct ConsumerHeartbeat {
    pub(super) group: String,
    pub(super) is_broadcasting: bool,
    pub(super) start_from: StartFrom,
    pub(super) subscriptions: Vec<Subscription>,
    /// When the subscriptions were made, in wall milliseconds.
    pub(super) version: i64,
}

/// A pull of one queue.
pub(super) struct PullRequest<'a> {
    pub(super) group: &'a str,
    pub(super) queue: &'a MessageQueue,
    pub(super) offset: i64,
    pub(super) count_max: i32,
    pub(super) subscription: &'a Subscription,
    pub(super) subscription_version: i64,
    /// How long the broker may hold it; zero answers at once.
    pub(super) suspend: Duration,
    pub(super) timeout: Duration,
}

/// The answer to a pull.
pub(super) struct PullAnswer {
    pub(super) outcome: PullOutcome,
    pub(super) next_offset: i64,
    pub(super) min_offset: i64,
    pub(super) max_offset: i64,
    pub(super) suggested_broker: i64,
    pub(super) messages: Vec<MessageView>,
}

/// A message to be put back by the broker.
pub(super) struct SendBack<'a> {
    pub(super) group: &'a str,
    pub(super) queue: &'a MessageQueue,
    pub(super) message: &'a MessageView,
    /// 0: the broker decides.
    pub(super) delay_level: i32,
    pub(super) reconsume_count_max: i32,
}

/// Which message of a queue a time stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// The first stored at or after it.
    Lower,
    /// The last stored at or before it.
    Upper,
}

impl<R: Runtime> ClientCore<R> {
    /// Sends a request and returns the reply, whatever its code.
    pub(super) async fn call(
        &self,
        address: &str,
        command: Command,
        timeout: Duration,
    ) -> Result<Command, RequestError> {
        self.connections.call(address, command, timeout).await.map_err(lost)
    }

    pub(super) async fn one_way(&self, address: &str, command: Command) -> Result<(), RequestError> {
        self.connections.one_way(address, command).await.map_err(lost)
    }

    /// As [`call`](ClientCore::call), with the default time and every code but 0 as an error.
    pub(super) async fn ask(&self, address: &str, command: Command) -> Result<Command, RequestError> {
        let reply = self.call(address, command, self.config.call_timeout).await?;
        accept(reply)
    }

    /// Asks the name server in use, and the others in turn when it does not answer.
    pub(super) async fn ask_name_server(&self, command: Command) -> Result<Command, RequestError> {
        use std::sync::atomic::Ordering;
        let servers = &self.config.name_servers;
        let first = self.name_server.load(Ordering::Relaxed);
        let mut last = RequestError::not_sent("no name server");
        for step in 0..servers.len() {
            let index = (first + step) % servers.len();
            match self.ask(&servers[index], command.clone()).await {
                Err(error) if error.code().is_none_or(|code| code == response::SYSTEM_ERROR) => {
                    log::debug!("name server {}: {error}", servers[index]);
                    last = error;
                }
                answered => {
                    self.name_server.store(index, Ordering::Relaxed);
                    return answered;
                }
            }
        }
        Err(last)
    }

    /// The route of a topic, from a name server.
    pub(super) async fn ask_route(&self, topic: &str) -> Result<RouteData, RequestError> {
        let header = RouteHeader {
            topic: topic.into(),
            accept_standard_json_only: true,
        };
        let reply = self
            .ask_name_server(command(request::GET_ROUTEINFO_BY_TOPIC, |fields| header.write(fields)))
            .await?;
        let body: TopicRouteData = read_body(&reply)?;
        let mut data = RouteData {
            order_configuration: body.order_topic_conf.unwrap_or_default(),
            ..RouteData::default()
        };
        for queue in body.queue_datas {
            data.queues.push(QueueData {
                broker_name: queue.broker_name,
                read_queue_count: queue.read_queue_nums,
                write_queue_count: queue.write_queue_nums,
                permission: queue.perm,
            });
        }
        // Name servers keep hash order; a route must compare equal to itself.
        data.queues.sort_by(|a, b| a.broker_name.cmp(&b.broker_name));
        for broker in body.broker_datas {
            let addresses = broker.broker_addrs.into_iter();
            let addresses = addresses.map(|(id, address)| (id, Address::from(address))).collect();
            data.brokers.insert(broker.broker_name, addresses);
        }
        Ok(data)
    }

    /// The address to pull a queue from: the suggested member of its broker set, else the master, else any.
    pub(super) fn broker_of(&self, queue: &MessageQueue, broker_id: i64) -> Result<Address, RequestError> {
        let route = self.known_route(&queue.topic);
        let addresses = route
            .as_ref()
            .and_then(|route| route.data.brokers.get(&queue.broker_name));
        let found = addresses.and_then(|addresses| {
            let preferred = addresses.get(&broker_id).or_else(|| addresses.get(&MASTER_ID));
            preferred.or_else(|| addresses.values().next()).cloned()
        });
        found.ok_or_else(|| RequestError::not_sent(format!("broker {} is not in the route", queue.broker_name)))
    }

    pub(super) fn master_of(&self, queue: &MessageQueue) -> Result<Address, RequestError> {
        self.broker_of(queue, MASTER_ID)
    }

    pub(super) async fn send_heartbeat(&self, broker: &str, heartbeat: &Heartbeat) -> Result<(), RequestError> {
        let body = HeartbeatData {
            client_id: heartbeat.client_id.clone(),
            consumer_data_set: heartbeat.consumers.iter().map(consumer_data).collect(),
            producer_data_set: heartbeat
                .producers
                .iter()
                .map(|group| ProducerData {
                    group_name: group.clone(),
                })
                .collect(),
            ..HeartbeatData::default()
        };
        let command = Command::request(request::HEART_BEAT).with_body(body.write());
        self.ask(broker, command).await.map(drop)
    }

    pub(super) async fn unregister_client(
        &self,
        broker: &str,
        producer_group: Option<&str>,
        consumer_group: Option<&str>,
    ) -> Result<(), RequestError> {
        let header = UnregisterClientHeader {
            client_id: self.client_id.as_str().into(),
            producer_group: producer_group.map(Text::from),
            consumer_group: consumer_group.map(Text::from),
        };
        self.ask(
            broker,
            command(request::UNREGISTER_CLIENT, |fields| header.write(fields)),
        )
        .await
        .map(drop)
    }

    /// The ids of a group's members, as one broker knows them.
    pub(super) async fn consumer_ids(&self, broker: &str, group: &str) -> Result<Vec<String>, RequestError> {
        let header = ConsumerGroupHeader {
            consumer_group: group.into(),
        };
        let command = command(request::GET_CONSUMER_LIST_BY_GROUP, |fields| header.write(fields));
        let body: ConsumerIdList = read_body(&self.ask(broker, command).await?)?;
        Ok(body.consumer_id_list)
    }

    /// A group's committed offset of a queue; `None` if it has none.
    pub(super) async fn committed_offset(
        &self,
        group: &str,
        queue: &MessageQueue,
    ) -> Result<Option<i64>, RequestError> {
        let header = QueryConsumerOffsetHeader {
            consumer_group: group.into(),
            topic: queue.topic.as_str().into(),
            queue_id: queue.queue_id,
            set_zero_if_not_found: None,
            broker_name: Some(queue.broker_name.as_str().into()),
        };
        let command = command(request::QUERY_CONSUMER_OFFSET, |fields| header.write(fields));
        match self.ask(&self.master_of(queue)?, command).await {
            Ok(reply) => read_offset(&reply).map(|offset| (offset >= 0).then_some(offset)),
            Err(error) if error.code() == Some(response::QUERY_NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn commit_offset(
        &self,
        group: &str,
        queue: &MessageQueue,
        offset: i64,
    ) -> Result<(), RequestError> {
        let header = UpdateConsumerOffsetHeader {
            consumer_group: group.into(),
            topic: queue.topic.as_str().into(),
            queue_id: queue.queue_id,
            commit_offset: offset,
            broker_name: Some(queue.broker_name.as_str().into()),
        };
        let command = command(request::UPDATE_CONSUMER_OFFSET, |fields| header.write(fields));
        self.ask(&self.master_of(queue)?, command).await.map(drop)
    }

    /// The offset after the last message.
    pub(super) async fn max_offset(&self, queue: &MessageQueue) -> Result<i64, RequestError> {
        self.queue_offset(request::GET_MAX_OFFSET, queue).await
    }

    /// The offset of the first message that is still there.
    pub(super) async fn min_offset(&self, queue: &MessageQueue) -> Result<i64, RequestError> {
        self.queue_offset(request::GET_MIN_OFFSET, queue).await
    }

    async fn queue_offset(&self, code: i32, queue: &MessageQueue) -> Result<i64, RequestError> {
        let header = QueueHeader {
            topic: queue.topic.as_str().into(),
            queue_id: queue.queue_id,
            committed: None,
            broker_name: Some(queue.broker_name.as_str().into()),
        };
        let command = command(code, |fields| header.write(fields));
        read_offset(&self.ask(&self.master_of(queue)?, command).await?)
    }

    pub(super) async fn search_offset(
        &self,
        queue: &MessageQueue,
        time: WallMillis,
        boundary: Boundary,
    ) -> Result<i64, RequestError> {
        let header = SearchOffsetHeader {
            topic: queue.topic.as_str().into(),
            queue_id: queue.queue_id,
            timestamp: time.0,
            boundary_type: Some(Text::from_static(match boundary {
                Boundary::Lower => "LOWER",
                Boundary::Upper => "UPPER",
            })),
            broker_name: Some(queue.broker_name.as_str().into()),
        };
        let command = command(request::SEARCH_OFFSET_BY_TIMESTAMP, |fields| header.write(fields));
        read_offset(&self.ask(&self.master_of(queue)?, command).await?)
    }

    /// Pulls with the subscription in the request, so that the answer depends neither on when the last heartbeat arrived
    /// nor on what other members subscribe to. Never commits along the way: offsets have one door, code 15.
    pub(super) async fn pull(&self, broker: &str, pull: &PullRequest<'_>) -> Result<PullAnswer, RequestError> {
        let suspend_flag = if pull.suspend.is_zero() { 0 } else { PullFlag::SUSPEND };
        let header = PullHeader {
            consumer_group: pull.group.into(),
            topic: pull.queue.topic.as_str().into(),
            queue_id: pull.queue.queue_id,
            queue_offset: pull.offset,
            message_count_max: pull.count_max,
            sys_flag: PullFlag::SUBSCRIPTION | suspend_flag,
            commit_offset: 0,
            suspend_timeout_ms: i64::try_from(pull.suspend.as_millis()).unwrap_or(i64::MAX),
            subscription: Some(pull.subscription.expression.as_str().into()),
            subscription_version: pull.subscription_version,
            expression_type: Some(Text::from_static(SubscriptionData::TAG)),
            message_bytes_max: None,
            request_source: None,
            proxy_forward_client_id: None,
            broker_name: Some(pull.queue.broker_name.as_str().into()),
        };
        let command = command(request::PULL_MESSAGE, |fields| header.write(fields));
        let reply = self.call(broker, command, pull.timeout).await?;
        let outcome = match reply.code {
            response::SUCCESS => PullOutcome::Found,
            response::PULL_NOT_FOUND => PullOutcome::NoNewMessage,
            response::PULL_RETRY_IMMEDIATELY => PullOutcome::NoMatchedMessage,
            response::PULL_OFFSET_MOVED => PullOutcome::OffsetIllegal,
            _ => return Err(refused(&reply)),
        };
        let header = PullResponseHeader::read(&reply.ext).map_err(unreadable)?;
        let messages = match outcome {
            PullOutcome::Found => records(&reply.body)
                .map(|record| MessageView::parse(&record?))
                .collect::<Result<Vec<_>, _>>()
                .map_err(unreadable)?,
            _ => Vec::new(),
        };
        Ok(PullAnswer {
            outcome,
            next_offset: header.next_begin_offset,
            min_offset: header.min_offset,
            max_offset: header.max_offset,
            suggested_broker: header.suggested_broker_id,
            messages,
        })
    }

    /// Asks the broker that delivered a message to store it for a later delivery, or as a dead letter.
    pub(super) async fn send_back(&self, back: &SendBack<'_>) -> Result<(), RequestError> {
        let header = SendBackHeader {
            offset: i64::try_from(back.message.physical_offset).unwrap_or(i64::MAX),
            group: back.group.into(),
            delay_level: back.delay_level,
            origin_message_id: Some(back.message.message_id().into()),
            origin_topic: Some(back.message.topic.clone()),
            unit_mode: false,
            max_reconsume_times: Some(back.reconsume_count_max),
            broker_name: Some(back.queue.broker_name.as_str().into()),
        };
        let command = command(request::CONSUMER_SEND_MSG_BACK, |fields| header.write(fields));
        self.ask(&self.master_of(back.queue)?, command).await.map(drop)
    }

    /// Asks one broker for locks; returns the queues among `queues` that are ours now.
    pub(super) async fn lock_queues(
        &self,
        broker: &str,
        group: &str,
        queues: Vec<MessageQueue>,
    ) -> Result<Vec<MessageQueue>, RequestError> {
        let command = Command::request(request::LOCK_BATCH_MQ).with_body(self.lock_body(group, queues).write());
        let body: LockBatchResponseBody = read_body(&self.ask(broker, command).await?)?;
        Ok(body.lock_ok_mq_set)
    }

    pub(super) async fn unlock_queues(
        &self,
        broker: &str,
        group: &str,
        queues: Vec<MessageQueue>,
    ) -> Result<(), RequestError> {
        let command = Command::request(request::UNLOCK_BATCH_MQ).with_body(self.lock_body(group, queues).write());
        self.ask(broker, command).await.map(drop)
    }

    fn lock_body(&self, group: &str, queues: Vec<MessageQueue>) -> LockBatchRequestBody {
        LockBatchRequestBody {
            client_id: self.client_id.clone(),
            consumer_group: group.to_owned(),
            mq_set: queues,
            only_this_broker: false,
        }
    }
}

/// Queues by the address of their master. A queue whose broker is not in the route is left out.
pub(super) fn by_master<R: Runtime>(
    client: &ClientCore<R>,
    queues: impl IntoIterator<Item = MessageQueue>,
) -> BTreeMap<Address, Vec<MessageQueue>> {
    let mut groups: BTreeMap<Address, Vec<MessageQueue>> = BTreeMap::new();
    for queue in queues {
        match client.master_of(&queue) {
            Ok(address) => groups.entry(address).or_default().push(queue),
            Err(error) => log::debug!("{queue:?}: {error}"),
        }
    }
    groups
}

pub(super) fn command(code: i32, write: impl FnOnce(&mut ExtFields)) -> Command {
    let mut command = Command::request(code);
    write(&mut command.ext);
    command
}

pub(super) fn read_body<B: Body>(reply: &Command) -> Result<B, RequestError> {
    B::read(&reply.body).map_err(unreadable)
}

fn read_offset(reply: &Command) -> Result<i64, RequestError> {
    OffsetResponseHeader::read(&reply.ext)
        .map(|header| header.offset)
        .map_err(unreadable)
}

fn accept(reply: Command) -> Result<Command, RequestError> {
    if reply.is_success() {
        Ok(reply)
    } else {
        Err(refused(&reply))
    }
}

fn refused(reply: &Command) -> RequestError {
    RequestError::Refused {
        code: reply.code,
        remark: reply.remark_text().to_owned(),
    }
}

fn unreadable(error: impl std::fmt::Display) -> RequestError {
    RequestError::unknown(format!("unreadable reply: {error}"))
}

fn lost(error: CallError) -> RequestError {
    match error {
        CallError::NotSent(reason) => RequestError::not_sent(reason),
        CallError::Unknown(reason) => RequestError::unknown(reason),
    }
}

fn consumer_data(consumer: &ConsumerHeartbeat) -> ConsumerData {
    ConsumerData {
        consume_from_where: match consumer.start_from {
            StartFrom::Last => ConsumeFromWhere::LastOffset,
            StartFrom::First => ConsumeFromWhere::FirstOffset,
            StartFrom::Timestamp(_) => ConsumeFromWhere::Timestamp,
        },
        consume_type: ConsumeType::Passively,
        group_name: consumer.group.clone(),
        message_model: match consumer.is_broadcasting {
            true => MessageModel::Broadcasting,
            false => MessageModel::Clustering,
        },
        subscription_data_set: consumer
            .subscriptions
            .iter()
            .map(|subscription| SubscriptionData {
                code_set: subscription.codes().into_iter().collect(),
                sub_string: subscription.expression.clone(),
                sub_version: consumer.version,
                tags_set: subscription.tags.clone(),
                topic: subscription.topic.clone(),
                ..SubscriptionData::default()
            })
            .collect(),
        unit_mode: false,
    }
}
