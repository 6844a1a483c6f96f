//! A broker that is also its own name server, a few queues in memory and a script: the peer of client tests that need an
//! answer at the wrong time, the wrong answer, or none. It is no model of Orrery's broker, which has tests of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orrery_core::client::MessageView;
use orrery_core::protocol::body::{
    Body, BrokerData, ConsumerIdList, HeartbeatData, LockBatchRequestBody, LockBatchResponseBody, QueueData,
    TopicRouteData,
};
use orrery_core::protocol::code::{request, response};
use orrery_core::protocol::header::{
    ConsumerGroupHeader, OffsetResponseHeader, PullHeader, PullResponseHeader, QueryConsumerOffsetHeader, QueueHeader,
    RouteHeader, SendBackHeader, SendHeader, SendResponseHeader, UpdateConsumerOffsetHeader,
};
use orrery_core::protocol::message::{Draft, Placement, body_crc, encode};
use orrery_core::protocol::{Command, Text, properties};
use orrery_core::remoting::{Limits, Peer, Replies, Server, Service};
use orrery_core::runtime::{Mono, Runtime, TaskSet};
use orrery_core::types::MessageQueue;

/// What the script says about a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    Serve,
    /// No answer; the request has no effect.
    Swallow,
    /// The request has its effect; the answer is lost.
    LoseReply,
    Refuse(i32),
}

type Rule = Box<dyn FnMut(&Command) -> Act + Send>;

/// One broker set of one member.
pub(crate) struct Script {
    /// Every broker of the cluster, this one included.
    pub(crate) brokers: Vec<(String, SocketAddr)>,
    /// Queues per topic.
    pub(crate) topics: BTreeMap<String, i32>,
    pub(crate) queues: BTreeMap<(String, i32), Vec<Vec<u8>>>,
    pub(crate) min_offsets: BTreeMap<(String, i32), i64>,
    pub(crate) offsets: BTreeMap<(String, String, i32), i64>,
    pub(crate) locks: BTreeMap<(String, MessageQueue), (String, Mono)>,
    pub(crate) members: BTreeMap<String, BTreeSet<String>>,
    pub(crate) rule: Rule,
    /// Codes of all requests, in order.
    pub(crate) seen: Vec<i32>,
}

/// A running scripted broker.
#[derive(Clone)]
pub(crate) struct Scripted(pub(crate) Arc<Mutex<Script>>);

impl Scripted {
    pub(crate) fn new(brokers: &[(String, SocketAddr)]) -> Scripted {
        Scripted(Arc::new(Mutex::new(Script {
            brokers: brokers.to_vec(),
            topics: BTreeMap::new(),
            queues: BTreeMap::new(),
            min_offsets: BTreeMap::new(),
            offsets: BTreeMap::new(),
            locks: BTreeMap::new(),
            members: BTreeMap::new(),
            rule: Box::new(|_| Act::Serve),
            seen: Vec::new(),
        })))
    }

    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn rule(&self, rule: impl FnMut(&Command) -> Act + Send + 'static) {
        self.script().rule = Box::new(rule);
    }

    pub(crate) fn committed(&self, group: &str, topic: &str, queue_id: i32) -> Option<i64> {
        let key = (group.to_owned(), topic.to_owned(), queue_id);
        self.script().offsets.get(&key).copied()
    }

    /// Serves until dropped.
    pub(crate) async fn serve<R: Runtime>(self, rt: R, address: SocketAddr) {
        let listener = rt.listen(address).await.expect("the port is free");
        let service = Serving {
            rt: rt.clone(),
            scripted: self,
            tasks: Mutex::new(TaskSet::new()),
        };
        let _server = Server::start(rt, listener, Arc::new(service), Limits::default());
        std::future::pending::<()>().await;
    }
}

struct Serving<R: Runtime> {
    rt: R,
    scripted: Scripted,
    tasks: Mutex<TaskSet<R>>,
}

impl<R: Runtime> Service for Serving<R> {
    async fn serve(&self, peer: &Peer, commands: &mut Vec<Command>, replies: &mut Replies) {
        for command in commands.drain(..) {
            let act = {
                let mut script = self.scripted.script();
                script.seen.push(command.code);
                (script.rule)(&command)
            };
            match act {
                Act::Serve if command.code == request::PULL_MESSAGE => self.pull(peer, &command, replies),
                Act::Serve => replies.push(self.answer(&command), Vec::new()),
                Act::Swallow => {}
                Act::LoseReply => drop(self.answer(&command)),
                Act::Refuse(code) => {
                    replies.push(Command::reply(&command, code).with_remark("by the script"), Vec::new())
                }
            }
        }
    }
}

impl<R: Runtime> Serving<R> {
    fn answer(&self, command: &Command) -> Command {
        let now = self.rt.mono();
        let mut script = self.scripted.script();
        let ok = Command::success(command);
        match command.code {
            request::GET_ROUTEINFO_BY_TOPIC => script.route(command),
            request::SEND_MESSAGE_V2 => script.send(command),
            request::HEART_BEAT => script.heartbeat(command),
            request::GET_CONSUMER_LIST_BY_GROUP => script.member_list(command),
            request::QUERY_CONSUMER_OFFSET => script.query_offset(command),
            request::UPDATE_CONSUMER_OFFSET => script.commit_offset(command),
            request::GET_MAX_OFFSET => {
                let header = QueueHeader::read(&command.ext).unwrap();
                let max = script.max_offset(&header.topic, header.queue_id);
                with_offset(ok, max)
            }
            request::CONSUMER_SEND_MSG_BACK => {
                let header = SendBackHeader::read(&command.ext).unwrap();
                script.put_back(&header);
                ok
            }
            request::LOCK_BATCH_MQ => script.lock(command, now),
            request::UNLOCK_BATCH_MQ => {
                let body = LockBatchRequestBody::read(&command.body).unwrap();
                for queue in body.mq_set {
                    script.locks.remove(&(body.consumer_group.clone(), queue));
                }
                ok
            }
            request::UNREGISTER_CLIENT => {
                let client = command.ext.get("clientID").unwrap().to_owned();
                if let Some(group) = command.ext.get("consumerGroup") {
                    script.members.entry(group.to_owned()).or_default().remove(&client);
                }
                ok
            }
            _ => Command::not_supported(command),
        }
    }

    /// Answers, or looks again every 10 ms until there is something or the time is over.
    fn pull(&self, peer: &Peer, command: &Command, replies: &mut Replies) {
        let header = PullHeader::read(&command.ext).unwrap();
        let (reply, body) = self.scripted.script().pull(&header, command.opaque);
        if reply.code != response::PULL_NOT_FOUND || header.suspend_timeout_ms == 0 {
            return replies.push(reply.with_body(body), Vec::new());
        }
        let responder = peer.answer_later(command);
        let (rt, scripted, opaque) = (self.rt.clone(), self.scripted.clone(), command.opaque);
        let waiting = async move {
            let until = rt.mono() + Duration::from_millis(header.suspend_timeout_ms as u64);
            loop {
                rt.sleep(Duration::from_millis(10)).await;
                let (reply, body) = scripted.script().pull(&header, opaque);
                if reply.code != response::PULL_NOT_FOUND || rt.mono() >= until {
                    return responder.reply(reply.with_body(body), Vec::new());
                }
            }
        };
        let mut tasks = self.tasks.lock().unwrap();
        tasks.spawn(&self.rt, "scripted pull", waiting);
    }
}

impl Script {
    fn route(&self, command: &Command) -> Command {
        let header = RouteHeader::read(&command.ext).unwrap();
        let Some(count) = self.topics.get(&*header.topic) else {
            return Command::reply(command, response::TOPIC_NOT_EXIST);
        };
        let queue = |name: &String| QueueData {
            broker_name: name.clone(),
            perm: 6,
            read_queue_nums: *count,
            topic_sys_flag: 0,
            write_queue_nums: *count,
        };
        let broker = |name: &String, address: &SocketAddr| BrokerData {
            broker_addrs: BTreeMap::from([(0, address.to_string())]),
            broker_name: name.clone(),
            cluster: "C".into(),
            ..BrokerData::default()
        };
        let body = TopicRouteData {
            broker_datas: self
                .brokers
                .iter()
                .map(|(name, address)| broker(name, address))
                .collect(),
            queue_datas: self.brokers.iter().map(|(name, _)| queue(name)).collect(),
            ..TopicRouteData::default()
        };
        Command::success(command).with_body(body.write())
    }

    fn send(&mut self, command: &Command) -> Command {
        let header = SendHeader::read(&command.ext).unwrap();
        let offset = self.append(
            header.topic,
            header.queue_id,
            &command.body,
            header.properties,
            header.reconsume_times,
        );
        let mut reply = Command::success(command);
        SendResponseHeader {
            message_id: Text::from_static("00"),
            queue_id: header.queue_id,
            queue_offset: offset,
            transaction_id: None,
            batch_unique_id: None,
            recall_handle: None,
            region: Text::from_static("r"),
            trace_on: true,
        }
        .write(&mut reply.ext);
        reply
    }

    /// Appends a record. Its physical offset is its number among all records, by which it can be put back.
    pub(crate) fn append(
        &mut self,
        topic: &str,
        queue_id: i32,
        body: &[u8],
        properties: &str,
        reconsume_times: i32,
    ) -> i64 {
        let physical_offset = self.queues.values().map(Vec::len).sum::<usize>() as u64;
        let records = self.queues.entry((topic.to_owned(), queue_id)).or_default();
        let offset = records.len() as i64;
        let host = "10.0.0.1:10911".parse().unwrap();
        let draft = Draft {
            topic,
            queue_id,
            flag: 0,
            sys_flag: 0,
            born_time: Default::default(),
            born_host: host,
            store_host: host,
            reconsume_times,
            prepared_transaction_offset: 0,
            body,
            properties,
        };
        let place = Placement {
            queue_offset: offset,
            physical_offset,
            store_time: Default::default(),
        };
        let mut record = Vec::new();
        encode(&draft, body_crc(body), &place, &mut record);
        records.push(record);
        offset
    }

    /// Stores a message in the retry topic at once, without any delay.
    fn put_back(&mut self, header: &SendBackHeader) {
        let records = self.queues.values().flatten();
        let mut views = records.map(|record| MessageView::parse(&record.clone().into()).unwrap());
        let view = views.find(|view| view.physical_offset == header.offset as u64).unwrap();
        let mut text = view.properties.to_string();
        text = properties::set(&text, properties::RETRY_TOPIC, &view.topic);
        self.append(
            &format!("%RETRY%{}", header.group),
            0,
            &view.body,
            &text,
            view.reconsume_times + 1,
        );
    }

    fn max_offset(&self, topic: &str, queue_id: i32) -> i64 {
        let records = self.queues.get(&(topic.to_owned(), queue_id));
        records.map_or(0, |records| records.len() as i64)
    }

    fn pull(&self, header: &PullHeader, opaque: i32) -> (Command, Vec<u8>) {
        let key = (header.topic.to_string(), header.queue_id);
        let records = self.queues.get(&key).map_or(&[][..], Vec::as_slice);
        let (min, max) = (self.min_offsets.get(&key).copied().unwrap_or(0), records.len() as i64);
        let asked = header.queue_offset;
        let end = max.min(asked + i64::from(header.message_count_max));
        let (code, next) = match asked {
            _ if asked < min => (response::PULL_OFFSET_MOVED, min),
            _ if asked > max => (response::PULL_OFFSET_MOVED, max),
            _ if asked == max => (response::PULL_NOT_FOUND, asked),
            _ => (response::SUCCESS, end),
        };
        let body = match code {
            response::SUCCESS => records[asked as usize..end as usize].concat(),
            _ => Vec::new(),
        };
        let mut reply = Command::reply_to(opaque, code);
        PullResponseHeader {
            suggested_broker_id: 0,
            next_begin_offset: next,
            min_offset: min,
            max_offset: max,
            offset_delta: None,
            topic_sys_flag: None,
            group_sys_flag: None,
            forbidden_type: None,
        }
        .write(&mut reply.ext);
        (reply, body)
    }

    fn heartbeat(&mut self, command: &Command) -> Command {
        let body = HeartbeatData::read(&command.body).unwrap();
        for consumer in body.consumer_data_set {
            let retry = format!("%RETRY%{}", consumer.group_name);
            self.topics.entry(retry).or_insert(1);
            let members = self.members.entry(consumer.group_name).or_default();
            members.insert(body.client_id.clone());
        }
        Command::success(command)
    }

    fn member_list(&self, command: &Command) -> Command {
        let header = ConsumerGroupHeader::read(&command.ext).unwrap();
        match self.members.get(&*header.consumer_group) {
            Some(members) if !members.is_empty() => {
                let body = ConsumerIdList {
                    consumer_id_list: members.iter().cloned().collect(),
                };
                Command::success(command).with_body(body.write())
            }
            _ => Command::reply(command, response::SYSTEM_ERROR),
        }
    }

    fn query_offset(&self, command: &Command) -> Command {
        let header = QueryConsumerOffsetHeader::read(&command.ext).unwrap();
        let key = (
            header.consumer_group.to_string(),
            header.topic.to_string(),
            header.queue_id,
        );
        match self.offsets.get(&key) {
            Some(offset) => with_offset(Command::success(command), *offset),
            None => Command::reply(command, response::QUERY_NOT_FOUND),
        }
    }

    fn commit_offset(&mut self, command: &Command) -> Command {
        let header = UpdateConsumerOffsetHeader::read(&command.ext).unwrap();
        let key = (
            header.consumer_group.to_string(),
            header.topic.to_string(),
            header.queue_id,
        );
        self.offsets.insert(key, header.commit_offset);
        Command::success(command)
    }

    /// Leases of 60 s of the broker's clock.
    fn lock(&mut self, command: &Command, now: Mono) -> Command {
        let body = LockBatchRequestBody::read(&command.body).unwrap();
        let mut granted = Vec::new();
        for queue in body.mq_set {
            let key = (body.consumer_group.clone(), queue.clone());
            let holder = self.locks.get(&key);
            let is_free = holder.is_none_or(|(owner, until)| *owner == body.client_id || *until <= now);
            if is_free {
                self.locks
                    .insert(key, (body.client_id.clone(), now + Duration::from_secs(60)));
                granted.push(queue);
            }
        }
        let reply = LockBatchResponseBody {
            lock_ok_mq_set: granted,
        };
        Command::success(command).with_body(reply.write())
    }
}

fn with_offset(mut reply: Command, offset: i64) -> Command {
    OffsetResponseHeader { offset }.write(&mut reply.ext);
    reply
}
