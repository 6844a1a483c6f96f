//! What tools and tests ask about topics and offsets, without being a member of any group.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

pub use super::calls::Boundary;
use super::calls::{PullRequest, command, read_body};
use super::config::DEFAULT_TOPIC;
use super::error::RequestError;
use super::instance::{Client, ClientCore};
use super::message::MessageView;
use super::observer::PullOutcome;
use super::route::{Address, Route};
use super::subscription::Subscription;
use crate::protocol::Command;
use crate::protocol::body::{ClusterInfo, TopicConfig};
use crate::protocol::code::request;
use crate::protocol::header::CreateTopicHeader;
use crate::runtime::{Runtime, WallMillis};
use crate::types::MessageQueue;

/// Group in whose name administrators pull. Predefined in RocketMQ: needs no subscription.
const TOOLS_GROUP: &str = "TOOLS_CONSUMER";

/// Asks brokers and name servers.
pub struct Admin<R: Runtime> {
    core: Arc<ClientCore<R>>,
    /// Keeps the shared tasks alive.
    _client: Client<R>,
}

/// A topic to be created or changed.
#[derive(Clone, Debug)]
pub struct TopicSpecification {
    pub topic: String,
    /// Queues per broker, for reading and writing alike.
    pub queue_count: i32,
    pub is_ordered: bool,
}

/// First offset that is there, and the offset after the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetBounds {
    pub min: i64,
    pub max: i64,
}

/// A stretch of a queue.
#[derive(Clone, Debug)]
pub struct Pulled {
    pub outcome: PullOutcome,
    /// Where the next pull starts.
    pub next_offset: i64,
    pub bounds: OffsetBounds,
    pub messages: Vec<MessageView>,
}

impl<R: Runtime> Admin<R> {
    pub fn new(client: &Client<R>) -> Admin<R> {
        Admin {
            core: client.core().clone(),
            _client: client.clone(),
        }
    }

    /// Creates the topic on every master that the name server knows, and returns how many those are.
    pub async fn create_topic(&self, topic: &TopicSpecification) -> Result<usize, RequestError> {
        let masters = self.masters().await?;
        let results = join_all(masters.iter().map(|master| self.create_topic_on(master, topic))).await;
        results.into_iter().collect::<Result<Vec<()>, _>>()?;
        Ok(masters.len())
    }

    /// Creates the topic on one broker.
    pub async fn create_topic_on(&self, broker: &str, topic: &TopicSpecification) -> Result<(), RequestError> {
        let configuration = TopicConfig::default();
        let header = CreateTopicHeader {
            topic: topic.topic.as_str().into(),
            default_topic: Some(DEFAULT_TOPIC.into()),
            read_queue_count: topic.queue_count,
            write_queue_count: topic.queue_count,
            permission: configuration.perm,
            topic_filter_type: Some(configuration.topic_filter_type.into()),
            topic_sys_flag: Some(0),
            order: topic.is_ordered,
            attributes: None,
            force: false,
        };
        let command = command(request::UPDATE_AND_CREATE_TOPIC, |fields| header.write(fields));
        self.core.ask(broker, command).await.map(drop)
    }

    /// Addresses of every master of every cluster.
    pub async fn masters(&self) -> Result<BTreeSet<Address>, RequestError> {
        let reply = self
            .core
            .ask_name_server(Command::request(request::GET_BROKER_CLUSTER_INFO))
            .await?;
        let clusters: ClusterInfo = read_body(&reply)?;
        let mut masters = BTreeSet::new();
        for broker in clusters.broker_addr_table.values() {
            if let Some(address) = broker.master_address() {
                masters.insert(Address::from(address));
            }
        }
        if masters.is_empty() {
            return Err(RequestError::not_sent("no master is registered"));
        }
        Ok(masters)
    }

    /// The route of a topic, fresh from a name server.
    pub async fn route(&self, topic: &str) -> Result<Arc<Route>, RequestError> {
        self.core.fetch_route(topic, None).await
    }

    pub async fn bounds(&self, queue: &MessageQueue) -> Result<OffsetBounds, RequestError> {
        self.core.route(&queue.topic, None).await?;
        Ok(OffsetBounds {
            min: self.core.min_offset(queue).await?,
            max: self.core.max_offset(queue).await?,
        })
    }

    /// A group's committed offset; `None` if it has none.
    pub async fn committed_offset(&self, group: &str, queue: &MessageQueue) -> Result<Option<i64>, RequestError> {
        self.core.route(&queue.topic, None).await?;
        self.core.committed_offset(group, queue).await
    }

    /// Sets a group's committed offset. Its members, if any, do not notice.
    pub async fn commit_offset(&self, group: &str, queue: &MessageQueue, offset: i64) -> Result<(), RequestError> {
        self.core.route(&queue.topic, None).await?;
        self.core.commit_offset(group, queue, offset).await
    }

    pub async fn search_offset(
        &self,
        queue: &MessageQueue,
        time: WallMillis,
        boundary: Boundary,
    ) -> Result<i64, RequestError> {
        self.core.route(&queue.topic, None).await?;
        self.core.search_offset(queue, time, boundary).await
    }

    /// Pulls up to `count_max` messages from `offset`. With a `wait`, the broker holds a pull that finds nothing that long.
    pub async fn pull(
        &self,
        queue: &MessageQueue,
        offset: i64,
        count_max: i32,
        wait: Duration,
    ) -> Result<Pulled, RequestError> {
        self.core.route(&queue.topic, None).await?;
        let subscription = Subscription::all(&queue.topic);
        let request = PullRequest {
            group: TOOLS_GROUP,
            queue,
            offset,
            count_max,
            subscription: &subscription,
            subscription_version: 0,
            suspend: wait,
            timeout: self.core.config.call_timeout + wait,
        };
        let answer = self.core.pull(&self.core.master_of(queue)?, &request).await?;
        Ok(Pulled {
            outcome: answer.outcome,
            next_offset: answer.next_offset,
            bounds: OffsetBounds {
                min: answer.min_offset,
                max: answer.max_offset,
            },
            messages: answer.messages,
        })
    }
}
