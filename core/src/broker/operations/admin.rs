//! What operators' tools look at: progress of groups, bounds of queues.

use bytes::Bytes;

use super::{Operations, Refusal};
use crate::broker::state::topics;
use crate::runtime::{Runtime, WallMillis};

/// One queue of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStatistics {
    pub queue_id: i32,
    pub min: i64,
    pub max: i64,
    /// Of the last message; `None` for an empty queue.
    pub last_stored: Option<WallMillis>,
}

/// One queue as a group sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueProgress {
    pub topic: String,
    pub queue_id: i32,
    pub broker_offset: i64,
    pub consumer_offset: i64,
    /// Of the message consumed last.
    pub last_stored: Option<WallMillis>,
}

impl<R: Runtime> Operations<R> {
    pub async fn topic_statistics(&self, topic: &str) -> Result<Vec<QueueStatistics>, Refusal> {
        let Some(config) = self.topic(topic) else {
            return Err(Refusal::topic_missing(topic));
        };
        let mut all = Vec::new();
        for queue_id in 0..topics::queue_count(&config) {
            let bounds = self.queue_bounds(topic, queue_id);
            all.push(QueueStatistics {
                queue_id,
                min: bounds.min,
                max: bounds.max,
                last_stored: self.stored_before(topic, queue_id, bounds.max).await?,
            });
        }
        Ok(all)
    }

    /// Progress of a group on one topic, or on all that it subscribes to or has offsets on.
    pub async fn group_progress(&self, group: &str, topic: Option<&str>) -> Result<Vec<QueueProgress>, Refusal> {
        let topics = match topic.filter(|topic| !topic.is_empty()) {
            Some(topic) => vec![topic.to_owned()],
            None => self.topics_of(group),
        };
        let mut all = Vec::new();
        for topic in topics {
            let Some(config) = self.topic(&topic) else {
                continue;
            };
            for queue_id in 0..config.read_queue_nums {
                let bounds = self.queue_bounds(&topic, queue_id);
                let committed = self.tables().offsets.get(group, &topic, queue_id).unwrap_or(0);
                all.push(QueueProgress {
                    queue_id,
                    broker_offset: bounds.max,
                    consumer_offset: committed,
                    last_stored: self.stored_before(&topic, queue_id, committed).await?,
                    topic: topic.clone(),
                });
            }
        }
        Ok(all)
    }

    /// Topics that a group has offsets on or subscribes to, sorted.
    pub fn topics_of(&self, group: &str) -> Vec<String> {
        let tables = self.tables();
        let mut topics = tables.offsets.topics_of(group);
        if let Some(members) = tables.clients.consumer_group(group) {
            topics.extend(members.subscriptions.keys().cloned());
        }
        topics.sort();
        topics.dedup();
        topics
    }

    /// Groups online for a topic or with offsets on it, sorted.
    pub fn groups_of(&self, topic: &str) -> Vec<String> {
        let tables = self.tables();
        let mut groups = tables.offsets.groups_of(topic);
        groups.extend(tables.clients.groups_subscribed_to(topic));
        groups.sort();
        groups.dedup();
        groups
    }

    /// Messages with a key, newest first, stored in `begin..=end` (ms).
    pub async fn query(
        &self,
        topic: &str,
        key: &str,
        count_max: usize,
        begin: i64,
        end: i64,
    ) -> Result<Vec<Bytes>, Refusal> {
        const COUNT_MAX: usize = 64;
        let count = count_max.clamp(1, COUNT_MAX);
        let found = self
            .store
            .query(topic, key, count, WallMillis(begin), WallMillis(end))
            .await;
        found.map_err(|error| Refusal::store_failed(&error))
    }

    async fn stored_before(&self, topic: &str, queue_id: i32, offset: i64) -> Result<Option<WallMillis>, Refusal> {
        let bounds = self.queue_bounds(topic, queue_id);
        if offset <= bounds.min || offset > bounds.max {
            return Ok(None);
        }
        let found = self.store.store_time(topic, queue_id, offset - 1).await;
        found.map_err(|error| Refusal::store_failed(&error))
    }
}
