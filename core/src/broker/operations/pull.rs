//! Handing messages to consumers: checks in RocketMQ's order, then one read of the store. Waiting for a message to come
//! is the caller's: see `long_poll`.
//!
//! Sources: `PullMessageProcessor.java`, `DefaultPullMessageResultHandler.java`.

use std::sync::Arc;

use bytes::Bytes;

use super::offsets::{Channel, CommitRequest, judge_position, reader_name};
use super::{ClientHandle, Counters, Operations, Reason, Refusal};
use crate::broker::state::Tables;
use crate::broker::state::lineage::Position;
use crate::broker::state::subscription::{self, Subscription};
use crate::broker::state::topics;
use crate::protocol::body::{SubscriptionGroupConfig, TopicConfig};
use crate::runtime::Runtime;
use crate::store::{Bounds, GetRequest, GetStatus, Got, TagFilter};

/// The group of operators' tools, which look at any offset.
const TOOLS_GROUP: &str = "TOOLS_CONSUMER";

/// Where the subscription comes from.
#[derive(Clone, Copy, Debug)]
pub enum Subscribed<'a> {
    /// The group's heartbeats, at least of this version.
    ByHeartbeat { version: i64 },
    /// This request.
    Here {
        expression: &'a str,
        expression_type: Option<&'a str>,
    },
}

#[derive(Clone, Copy, Debug)]
pub struct PullRequest<'a> {
    pub group: &'a str,
    pub topic: &'a str,
    pub queue_id: i32,
    pub offset: i64,
    pub count_max: usize,
    pub bytes_max: usize,
    /// To be committed for the same queue first.
    pub commit: Option<i64>,
    pub subscribed: Subscribed<'a>,
}

/// What the client is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PulledCode {
    Found,
    /// Nothing there yet: wait, then ask again.
    NotFound,
    /// Nothing that matches up to `next_offset`: go on from there at once.
    RetryImmediately,
    /// The offset is outside of the queue, or outside of this life of it: go on from `next_offset`.
    OffsetMoved,
}

#[derive(Clone, Debug)]
pub struct Pulled {
    pub code: PulledCode,
    /// RocketMQ's name of the outcome.
    pub status: &'static str,
    pub next_offset: i64,
    pub bounds: Bounds,
    /// Whole records in order.
    pub chunks: Vec<Bytes>,
    pub count: usize,
    pub topic_sys_flag: i32,
    pub group_sys_flag: i32,
    /// What to wait for after [`PulledCode::NotFound`].
    pub filter: TagFilter,
}

struct Admitted {
    topic: Arc<TopicConfig>,
    group: Arc<SubscriptionGroupConfig>,
    filter: TagFilter,
    /// The reader's position is from another life of the log.
    set_back_to: Option<i64>,
}

impl<R: Runtime> Operations<R> {
    pub async fn pull(&self, client: ClientHandle, request: &PullRequest<'_>) -> Result<Pulled, Refusal> {
        if !self.broker_is_readable() {
            let remark = format!("the broker[{}] pulling message is forbidden", self.store_host);
            return Err(Refusal::new(Reason::NoPermission, remark));
        }
        let Some(group) = self.group_or_create(request.group).await? else {
            return Err(Refusal::group_missing(request.group));
        };
        let admitted = self.admit(client, request, group)?;
        if let Some(offset) = admitted.set_back_to {
            let bounds = self.queue_bounds(request.topic, request.queue_id);
            let got = Got {
                status: GetStatus::OffsetOverflowBadly,
                next_offset: offset.clamp(bounds.min, bounds.max.max(bounds.min)),
                bounds,
                chunks: Vec::new(),
                count: 0,
                bytes: 0,
            };
            return Ok(answer(&admitted, got, PulledCode::OffsetMoved));
        }
        let get = GetRequest {
            topic: request.topic,
            queue_id: request.queue_id,
            offset: request.offset,
            max_count: request.count_max,
            max_bytes: request.bytes_max,
            filter: admitted.filter.clone(),
        };
        let got = match self.store.get_hot(&get) {
            Some(got) => got,
            None => self
                .store
                .get(&get)
                .await
                .map_err(|error| Refusal::store_failed(&error))?,
        };
        Counters::add(&self.counters.messages_got, got.count as u64);
        self.note_served(client, request, &got);
        let code = outcome(&got, request.offset);
        Ok(answer(&admitted, got, code))
    }

    /// Everything that can be said without reading; commits what rides along.
    fn admit(
        &self,
        client: ClientHandle,
        request: &PullRequest<'_>,
        group: Arc<SubscriptionGroupConfig>,
    ) -> Result<Admitted, Refusal> {
        let mut tables = self.tables();
        if !group.consume_enable {
            let remark = format!("subscription group no permission, {}", request.group);
            return Err(Refusal::new(Reason::NoPermission, remark));
        }
        let Some(topic) = tables.topics.get(request.topic).cloned() else {
            return Err(Refusal::topic_missing(request.topic));
        };
        if !topic.is_readable() {
            let remark = format!("the topic[{}] pulling message is forbidden", request.topic);
            return Err(Refusal::new(Reason::NoPermission, remark));
        }
        if topics::has_batch_queues(&topic) {
            return Err(Refusal::batch_queues(request.topic));
        }
        if request.queue_id < 0 || request.queue_id >= topic.read_queue_nums {
            let remark = format!(
                "queueId[{}] is illegal, topic:[{}] topicConfig.readQueueNums:[{}] consumer:[/{}]",
                request.queue_id, request.topic, topic.read_queue_nums, client.address
            );
            return Err(Refusal::new(Reason::InvalidParameter, remark));
        }
        let filter = self.filter(&tables, request, &group)?;
        if let Some(offset) = request.commit {
            let commit = CommitRequest {
                group: request.group,
                topic: request.topic,
                queue_id: request.queue_id,
                offset,
            };
            self.commit(&mut tables, client, &commit, Channel::WithPull);
        }
        let committed = tables.offsets.get(request.group, request.topic, request.queue_id);
        let judged = judge_position(&tables, client, position(request, request.offset), committed);
        let set_back_to = judged.err().filter(|_| request.group != TOOLS_GROUP);
        Ok(Admitted {
            topic,
            group,
            filter,
            set_back_to,
        })
    }

    fn filter(
        &self,
        tables: &Tables,
        request: &PullRequest<'_>,
        group: &SubscriptionGroupConfig,
    ) -> Result<TagFilter, Refusal> {
        match request.subscribed {
            Subscribed::Here {
                expression,
                expression_type,
            } => {
                check_type(expression_type)?;
                match subscription::parse_tags(expression) {
                    Ok(None) => Ok(TagFilter::All),
                    Ok(Some(tags)) => Ok(TagFilter::codes(
                        tags.iter().map(|tag| crate::protocol::message::java_hash(tag)),
                    )),
                    Err(_) => Err(Refusal::new(
                        Reason::SubscriptionUnparsable,
                        "parse the consumer's subscription failed",
                    )),
                }
            }
            Subscribed::ByHeartbeat { version } => {
                let missing = || Refusal::new(Reason::SubscriptionMissing, "the consumer's group info not exist");
                let known = tables.clients.consumer_group(request.group).ok_or_else(missing)?;
                if known.is_broadcasting() && !group.consume_broadcast_enable {
                    let remark = format!("the consumer group[{}] can not consume by broadcast way", request.group);
                    return Err(Refusal::new(Reason::NoPermission, remark));
                }
                if tables.groups.is_forbidden(request.group, request.topic) {
                    let remark = format!(
                        "the consumer group[{}] is forbidden for topic[{}]",
                        request.group, request.topic
                    );
                    return Err(Refusal::new(Reason::NoPermission, remark));
                }
                let subscription = known.subscriptions.get(request.topic).ok_or_else(missing)?;
                if subscription.version < version {
                    let remark = "the consumer's subscription not latest";
                    return Err(Refusal::new(Reason::SubscriptionOutdated, remark));
                }
                check_type(Some(&subscription.expression_type))?;
                Ok(tag_filter(subscription))
            }
        }
    }

    fn note_served(&self, client: ClientHandle, request: &PullRequest<'_>, got: &Got) {
        let mut tables = self.tables();
        if !tables.lineage.is_unbroken() {
            let name = reader_name(&tables, client);
            tables.lineage.served(&name, position(request, got.next_offset));
        }
    }
}

fn position<'a>(request: &PullRequest<'a>, offset: i64) -> Position<'a> {
    Position {
        group: request.group,
        topic: request.topic,
        queue_id: request.queue_id,
        offset,
    }
}

fn tag_filter(subscription: &Subscription) -> TagFilter {
    if subscription.matches_all() {
        TagFilter::All
    } else {
        TagFilter::codes(subscription.codes())
    }
}

fn check_type(expression_type: Option<&str>) -> Result<(), Refusal> {
    if subscription::is_tag_type(expression_type) {
        return Ok(());
    }
    // What the official broker answers with `enablePropertyFilter=false`, its default.
    let kind = expression_type.unwrap_or_default();
    let remark = format!("The broker does not support consumer to filter message by {kind}");
    Err(Refusal::new(Reason::Failed, remark))
}

fn outcome(got: &Got, offset: i64) -> PulledCode {
    match got.status {
        GetStatus::Found => PulledCode::Found,
        GetStatus::NoMatchedMessage | GetStatus::MessageWasRemoving => PulledCode::RetryImmediately,
        GetStatus::NoMatchedLogicQueue | GetStatus::NoMessageInQueue if offset != 0 => PulledCode::OffsetMoved,
        GetStatus::NoMatchedLogicQueue | GetStatus::NoMessageInQueue => PulledCode::NotFound,
        GetStatus::OffsetOverflowOne => PulledCode::NotFound,
        // Past a gap in the index there is something to read at once.
        GetStatus::OffsetFoundNull if got.next_offset > offset => PulledCode::RetryImmediately,
        GetStatus::OffsetFoundNull => PulledCode::NotFound,
        GetStatus::OffsetOverflowBadly | GetStatus::OffsetTooSmall => PulledCode::OffsetMoved,
    }
}

fn answer(admitted: &Admitted, got: Got, code: PulledCode) -> Pulled {
    Pulled {
        code,
        status: got.status.name(),
        next_offset: got.next_offset,
        bounds: got.bounds,
        chunks: got.chunks,
        count: got.count,
        topic_sys_flag: admitted.topic.topic_sys_flag,
        group_sys_flag: admitted.group.group_sys_flag,
        filter: admitted.filter.clone(),
    }
}
