//! Clients and what they hold: heartbeats, membership, queue locks; requests that are passed on to a client.

use std::sync::PoisonError;
use std::time::Duration;

use super::{Answer, Handlers, Rejected, answer, client_handle, success};
use crate::broker::operations::{Reason, Refusal};
use crate::broker::state::clients::{ClientInfo, ConnectionId, ConsumerEntry, Heartbeat};
use crate::broker::state::subscription::Subscription;
use crate::protocol::Command;
use crate::protocol::body::{
    Body, CheckClientRequestBody, Connection, ConsumerConnection, ConsumerData, ConsumerIdList, HeartbeatData,
    LockBatchRequestBody, LockBatchResponseBody, ProducerConnection, SubscriptionData,
};
use crate::protocol::code::response;
use crate::protocol::header::{ConsumerGroupHeader, ProducerGroupHeader, UnregisterClientHeader};
use crate::remoting::{CallError, Peer};
use crate::runtime::Runtime;
use crate::types::MessageQueue;

/// How long a client may take to answer a request that is passed on to it.
const RELAY_TIMEOUT: Duration = Duration::from_secs(10);

/// Queues in one lock request; the rest is not granted. Above the largest topic's queues.
const LOCK_COUNT_MAX: usize = 65_536;

impl<R: Runtime> Handlers<R> {
    /// Code 34.
    pub(in crate::broker) async fn heartbeat(&self, peer: &Peer, command: &Command) -> Answer {
        let result = self.try_heartbeat(peer, command).await;
        answer(command, result)
    }

    async fn try_heartbeat(&self, peer: &Peer, command: &Command) -> Result<Answer, Rejected> {
        let data = HeartbeatData::read(&command.body)?;
        let is_version_2 = data.heartbeat_fingerprint != 0;
        let beat = Heartbeat {
            client: ClientInfo {
                client_id: data.client_id,
                language: command.language.name(),
                version: command.version,
                address: peer.remote_address(),
            },
            producers: data
                .producer_data_set
                .into_iter()
                .map(|producer| producer.group_name)
                .collect(),
            consumers: data
                .consumer_data_set
                .into_iter()
                .map(|consumer| consumer_entry(consumer, data.without_sub))
                .collect(),
            fingerprint: data.heartbeat_fingerprint,
        };
        let membership = self.operations.heartbeat(client_handle(peer, command), beat).await?;
        self.notify(membership.notices);
        success(command, |ext| {
            ext.push_bool("IS_SUPPORT_HEART_BEAT_V2", true);
            ext.push_bool("IS_SUB_CHANGE", !is_version_2 || membership.subscriptions_wanted);
        })
    }

    /// Code 35.
    pub(in crate::broker) fn unregister_client(&self, peer: &Peer, command: &Command) -> Answer {
        let result = || {
            let header = UnregisterClientHeader::read(&command.ext)?;
            let notices = self.operations.unregister(
                client_handle(peer, command),
                header.producer_group.as_deref(),
                header.consumer_group.as_deref(),
            );
            self.notify(notices);
            success(command, |_| {})
        };
        answer(command, result())
    }

    /// Code 38. Nobody there is an error: a client would take an empty list for its whole group.
    pub(in crate::broker) fn consumer_list(&self, command: &Command) -> Answer {
        let result = || {
            let header = ConsumerGroupHeader::read(&command.ext)?;
            let ids = self.operations.consumer_ids(&header.consumer_group);
            if ids.is_empty() {
                let remark = format!("no consumer for this group, {}", header.consumer_group);
                return Err(Refusal::new(Reason::Failed, remark).into());
            }
            let body = ConsumerIdList { consumer_id_list: ids };
            Ok(Answer::Reply(Command::success(command).with_body(body.write())))
        };
        answer(command, result())
    }

    /// Code 41.
    pub(in crate::broker) async fn lock_queues(&self, command: &Command) -> Answer {
        let result = async {
            let body = LockBatchRequestBody::read(&command.body)?;
            let own = self.own_queues(&body);
            let names: Vec<(&str, i32)> = own.iter().map(|queue| (queue.topic.as_str(), queue.queue_id)).collect();
            let outcome = self
                .operations
                .lock(&body.consumer_group, &body.client_id, &names)
                .await?;
            let granted = outcome.granted.iter().map(|index| own[*index].clone());
            let reply = LockBatchResponseBody {
                lock_ok_mq_set: granted.collect(),
            };
            Ok(Answer::Reply(Command::success(command).with_body(reply.write())))
        };
        answer(command, result.await)
    }

    /// Code 42.
    pub(in crate::broker) fn unlock_queues(&self, command: &Command) -> Answer {
        let result = || {
            let body = LockBatchRequestBody::read(&command.body)?;
            let own = self.own_queues(&body);
            let names: Vec<(&str, i32)> = own.iter().map(|queue| (queue.topic.as_str(), queue.queue_id)).collect();
            self.operations.unlock(&body.consumer_group, &body.client_id, &names);
            success(command, |_| {})
        };
        answer(command, result())
    }

    /// The queues of a lock request that are this broker's to give.
    fn own_queues<'a>(&self, body: &'a LockBatchRequestBody) -> Vec<&'a MessageQueue> {
        let name = self.operations.broker_name();
        let own = body
            .mq_set
            .iter()
            .filter(|queue| queue.broker_name == name && queue.queue_id >= 0);
        own.take(LOCK_COUNT_MAX).collect()
    }

    /// Code 46.
    pub(in crate::broker) fn check_client(&self, command: &Command) -> Answer {
        let result = || {
            let body = CheckClientRequestBody::read(&command.body)?;
            if !body.subscription_data.is_tag() {
                let kind = body.subscription_data.expression_type;
                let remark = format!("The broker does not support consumer to filter message by {kind}");
                return Err(Refusal::new(Reason::Failed, remark).into());
            }
            success(command, |_| {})
        };
        answer(command, result())
    }

    /// Code 203.
    pub(in crate::broker) fn consumer_connections(&self, command: &Command) -> Answer {
        let result = || {
            let header = ConsumerGroupHeader::read(&command.ext)?;
            let tables = self.operations.tables();
            let Some(group) = tables.clients.consumer_group(&header.consumer_group) else {
                let remark = format!("the consumer group[{}] not online", header.consumer_group);
                return Err(Refusal::new(Reason::ConsumerOffline, remark).into());
            };
            let subscriptions = group.subscriptions.iter();
            let body = ConsumerConnection {
                connection_set: group
                    .members
                    .values()
                    .map(|member| connection(&member.client))
                    .collect(),
                consume_from_where: group.consume_from_where,
                consume_type: group.consume_type,
                message_model: group.message_model,
                subscription_table: subscriptions
                    .map(|(topic, subscription)| (topic.clone(), subscription_data(subscription)))
                    .collect(),
            };
            Ok(Answer::Reply(Command::success(command).with_body(body.write())))
        };
        answer(command, result())
    }

    /// Code 204.
    pub(in crate::broker) fn producer_connections(&self, command: &Command) -> Answer {
        let result = || {
            let header = ProducerGroupHeader::read(&command.ext)?;
            let tables = self.operations.tables();
            let Some(members) = tables.clients.producer_group(&header.producer_group) else {
                let remark = format!("the producer group[{}] not exist", header.producer_group);
                return Err(Refusal::new(Reason::Failed, remark).into());
            };
            let body = ProducerConnection {
                connection_set: members.values().map(|member| connection(&member.client)).collect(),
            };
            Ok(Answer::Reply(Command::success(command).with_body(body.write())))
        };
        answer(command, result())
    }

    /// Codes 307 and 309: asked of a member, whose answer goes back as it is. The connection that asks does not wait.
    pub(in crate::broker) fn relay(&self, peer: &Peer, command: &Command) -> Answer {
        let result = || {
            let header = ConsumerGroupHeader::read(&command.ext)?;
            let client_id = command.ext.get("clientId").unwrap_or_default();
            let connection = self.member_connection(&header.consumer_group, client_id);
            let Some(member) = connection.and_then(|connection| self.peer(connection)) else {
                let remark = format!("The Consumer <{}> <{client_id}> not online", header.consumer_group);
                return Err(Refusal::new(Reason::Failed, remark).into());
            };
            let mut asked = Command::request(command.code).with_body(command.body.clone());
            asked.ext = command.ext.clone();
            let (runtime, responder) = (self.operations.runtime.clone(), peer.answer_later(command));
            let asking = async move {
                let reply = match member.call(&runtime, asked, RELAY_TIMEOUT).await {
                    Ok(reply) => {
                        let mut passed = Command::reply_to(responder.opaque(), reply.code).with_body(reply.body);
                        passed.remark = reply.remark;
                        passed
                    }
                    Err(CallError::NotSent(reason) | CallError::Unknown(reason)) => {
                        Command::reply_to(responder.opaque(), response::CONSUME_MSG_TIMEOUT)
                            .with_remark(format!("{member:?}: {reason}"))
                    }
                };
                responder.reply(reply, Vec::new());
            };
            let mut relays = self.relays.lock().unwrap_or_else(PoisonError::into_inner);
            relays.spawn(&self.operations.runtime, "broker relay", asking);
            Ok(Answer::Later)
        };
        answer(command, result())
    }

    fn member_connection(&self, group: &str, client_id: &str) -> Option<ConnectionId> {
        let tables = self.operations.tables();
        let members = &tables.clients.consumer_group(group)?.members;
        let mut found = members
            .iter()
            .filter(|(_, member)| client_id.is_empty() || member.client.client_id == client_id);
        found.next_back().map(|(connection, _)| *connection)
    }
}

fn consumer_entry(consumer: ConsumerData, without_subscriptions: bool) -> ConsumerEntry {
    let subscriptions = consumer.subscription_data_set.into_iter().map(subscription);
    ConsumerEntry {
        group: consumer.group_name,
        consume_type: consumer.consume_type,
        message_model: consumer.message_model,
        consume_from_where: consumer.consume_from_where,
        subscriptions: (!without_subscriptions).then(|| subscriptions.collect()),
    }
}

fn subscription(data: SubscriptionData) -> Subscription {
    if data.is_tag() {
        let mut parsed = Subscription::tags(&data.topic, &data.sub_string, data.sub_version);
        parsed.class_filter_mode = data.class_filter_mode;
        return parsed;
    }
    Subscription {
        topic: data.topic,
        expression: data.sub_string,
        expression_type: data.expression_type,
        version: data.sub_version,
        class_filter_mode: data.class_filter_mode,
        tags: Vec::new(),
    }
}

fn subscription_data(subscription: &Subscription) -> SubscriptionData {
    SubscriptionData {
        class_filter_mode: subscription.class_filter_mode,
        code_set: subscription.codes().into_iter().collect(),
        expression_type: subscription.expression_type.clone(),
        sub_string: subscription.expression.clone(),
        sub_version: subscription.version,
        tags_set: subscription.tags.iter().cloned().collect(),
        topic: subscription.topic.clone(),
    }
}

fn connection(client: &ClientInfo) -> Connection {
    Connection {
        client_addr: client.address.to_string(),
        client_id: client.client_id.clone(),
        language: client.language.to_owned(),
        version: client.version,
    }
}
