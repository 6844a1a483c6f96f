//! Where the queues of a topic are: what a client makes of a name server's answer, and which queue the next send takes.
//!
//! | purpose | rule |
//! |---|---|
//! | send | writable queues of brokers that have a master (id 0), sorted by broker name |
//! | consume | readable queues of every broker |
//! | ordered topics | where the name server configures them, exactly `broker:count;…` |
//!
//! A route is immutable; a new answer makes a new one. (MQClientInstance.topicRouteData2TopicPublishInfo,
//! TopicPublishInfo.java, LatencyFaultToleranceImpl.java)

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::rebalance::queue_order;
use crate::protocol::Text;
use crate::runtime::Mono;
use crate::types::{Map, MessageQueue};

/// Queues that a client accepts per broker and direction from a name server's answer; more are ignored.
pub const QUEUES_PER_BROKER_MAX: i32 = 65_536;

/// Broker id of a master.
pub const MASTER_ID: i64 = 0;

const PERMISSION_WRITE: i32 = 2;
const PERMISSION_READ: i32 = 4;

/// One broker's queues of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueData {
    pub broker_name: String,
    pub read_queue_count: i32,
    pub write_queue_count: i32,
    pub permission: i32,
}

/// Addresses of the members of one broker set, by broker id.
pub type BrokerAddresses = BTreeMap<i64, Address>;

/// `host:port`, as the name server wrote it.
pub type Address = Text;

/// Everything a name server says about a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteData {
    pub queues: Vec<QueueData>,
    pub brokers: BTreeMap<String, BrokerAddresses>,
    /// Empty unless the topic is configured as an ordered one.
    pub order_configuration: String,
}

impl RouteData {
    /// The route for a topic that does not exist yet, from the one of the default topic: as a broker will create it.
    pub fn as_template(mut self, queue_count_max: i32) -> RouteData {
        for queue in &mut self.queues {
            let count = queue.read_queue_count.min(queue_count_max);
            (queue.read_queue_count, queue.write_queue_count) = (count, count);
        }
        self
    }
}

/// The queues of one topic.
#[derive(Debug)]
pub struct Route {
    pub data: RouteData,
    /// Queues to send to, in the order of the round.
    pub publish: Vec<Arc<MessageQueue>>,
    /// Queues to consume, sorted.
    pub subscribe: Vec<MessageQueue>,
    /// Position of the next send in the round.
    next: AtomicUsize,
}

impl Route {
    /// `first` is where the round begins: random, so that many clients do not begin at the same queue.
    pub fn new(topic: &str, data: RouteData, first: usize) -> Route {
        let queue = |broker_name: &str, queue_id| MessageQueue {
            topic: topic.to_owned(),
            broker_name: broker_name.to_owned(),
            queue_id,
        };
        let mut publish = Vec::new();
        for (broker_name, count) in publish_counts(&data) {
            publish.extend((0..count).map(|queue_id| Arc::new(queue(&broker_name, queue_id))));
        }
        let mut subscribe = Vec::new();
        for broker in &data.queues {
            if broker.permission & PERMISSION_READ != 0 {
                let count = broker.read_queue_count.clamp(0, QUEUES_PER_BROKER_MAX);
                subscribe.extend((0..count).map(|queue_id| queue(&broker.broker_name, queue_id)));
            }
        }
        subscribe.sort_by(queue_order);
        subscribe.dedup();
        Route {
            data,
            publish,
            subscribe,
            next: AtomicUsize::new(first),
        }
    }

    /// Where the round is, for the route that replaces this one.
    pub fn position(&self) -> usize {
        self.next.load(Ordering::Relaxed)
    }

    /// The master of a broker set.
    pub fn master(&self, broker_name: &str) -> Option<&Address> {
        self.data.brokers.get(broker_name)?.get(&MASTER_ID)
    }

    /// The queue of the next send: the round's next one that is neither on `avoid` (the broker that just failed) nor on a
    /// broker that `faults` tells to avoid; else the next not on `avoid`; else the next.
    pub fn select(&self, avoid: Option<&str>, faults: Option<(&Faults, Mono)>) -> Option<&Arc<MessageQueue>> {
        let count = self.publish.len();
        if count == 0 {
            return None;
        }
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let candidates = || (0..count).map(|step| &self.publish[start.wrapping_add(step) % count]);
        let is_elsewhere = |queue: &&Arc<MessageQueue>| avoid != Some(queue.broker_name.as_str());
        if let Some((faults, now)) = faults {
            let found = candidates().find(|queue| is_elsewhere(queue) && faults.is_available(&queue.broker_name, now));
            if found.is_some() {
                return found;
            }
        }
        candidates().find(is_elsewhere).or_else(|| candidates().next())
    }
}

/// Queues to send to per broker, in the order of the round.
fn publish_counts(data: &RouteData) -> Vec<(String, i32)> {
    let configured = order_counts(&data.order_configuration);
    if !configured.is_empty() {
        return configured;
    }
    let mut counts: Vec<(String, i32)> = data
        .queues
        .iter()
        .filter(|queue| queue.permission & PERMISSION_WRITE != 0)
        .filter(|queue| {
            let addresses = data.brokers.get(&queue.broker_name);
            addresses.is_some_and(|addresses| addresses.contains_key(&MASTER_ID))
        })
        .map(|queue| {
            let count = queue.write_queue_count.clamp(0, QUEUES_PER_BROKER_MAX);
            (queue.broker_name.clone(), count)
        })
        .collect();
    counts.sort();
    counts
}

/// `broker-a:4;broker-b:4`; parts that do not read so are ignored.
fn order_counts(configuration: &str) -> Vec<(String, i32)> {
    let parts = configuration.split(';').filter_map(|part| part.trim().rsplit_once(':'));
    parts
        .filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?)))
        .filter(|(_, count)| (1..=QUEUES_PER_BROKER_MAX).contains(count))
        .collect()
}

/// Which brokers to avoid for a while because they were slow or failed.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    available_from: Map<String, Mono>,
}

/// `(observed at least, avoid for)`, slowest first.
const AVOIDANCE_MS: [(u64, u64); 5] = [
    (15_000, 30_000),
    (5_000, 10_000),
    (3_000, 6_000),
    (1_800, 5_000),
    (550, 2_000),
];

impl Faults {
    /// Takes how long a send took; `None` if it failed, which counts as 10 s.
    pub fn observe(&mut self, broker_name: &str, latency: Option<Duration>, now: Mono) {
        let latency = latency.unwrap_or(Duration::from_secs(10));
        let rule = AVOIDANCE_MS
            .iter()
            .find(|(observed_ms, _)| latency >= Duration::from_millis(*observed_ms));
        match rule {
            Some((_, avoid_ms)) => {
                let until = now + Duration::from_millis(*avoid_ms);
                self.available_from.insert(broker_name.to_owned(), until);
            }
            None => {
                self.available_from.remove(broker_name);
            }
        }
    }

    pub fn is_available(&self, broker_name: &str, now: Mono) -> bool {
        self.available_from.get(broker_name).is_none_or(|from| *from <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(brokers: &[(&str, i32, i32)]) -> RouteData {
        let mut data = RouteData::default();
        for (index, (name, count, permission)) in brokers.iter().enumerate() {
            data.queues.push(QueueData {
                broker_name: (*name).into(),
                read_queue_count: *count,
                write_queue_count: *count,
                permission: *permission,
            });
            let address = Address::from(format!("127.0.0.1:{}", 1000 + index));
            data.brokers.insert((*name).into(), BTreeMap::from([(0, address)]));
        }
        data
    }

    fn names(queues: &[Arc<MessageQueue>]) -> Vec<String> {
        queues
            .iter()
            .map(|queue| format!("{}{}", queue.broker_name, queue.queue_id))
            .collect()
    }

    #[test]
    fn queues_to_send_to_are_writable_and_have_a_master() {
        let mut data = data(&[("b", 2, 6), ("a", 1, 6), ("r", 1, 4), ("s", 1, 6)]);
        let slave_only = data.brokers.remove("s").unwrap();
        data.brokers.insert(
            "s".into(),
            slave_only.into_values().map(|address| (1, address)).collect(),
        );
        let route = Route::new("T", data, 0);
        assert_eq!(names(&route.publish), ["a0", "b0", "b1"]);
        assert_eq!(route.subscribe.len(), 5);
        assert!(route.master("s").is_none());
    }

    #[test]
    fn an_ordered_topic_has_the_configured_queues() {
        let mut data = data(&[("a", 8, 6), ("b", 8, 6)]);
        data.order_configuration = "b:1; a:2;nonsense;c:-1".into();
        assert_eq!(names(&Route::new("T", data, 0).publish), ["b0", "a0", "a1"]);
    }

    #[test]
    fn the_round_passes_every_queue() {
        let route = Route::new("T", data(&[("a", 2, 6), ("b", 1, 6)]), 1);
        let round: Vec<i32> = (0..3).map(|_| route.select(None, None).unwrap().queue_id).collect();
        assert_eq!(round, [1, 0, 0]);
        assert_eq!(route.position(), 4);
    }

    #[test]
    fn a_retry_goes_to_another_broker_if_there_is_one() {
        let route = Route::new("T", data(&[("a", 4, 6), ("b", 1, 6)]), 0);
        for _ in 0..6 {
            assert_eq!(route.select(Some("a"), None).unwrap().broker_name, "b");
        }
        let alone = Route::new("T", data(&[("a", 2, 6)]), 0);
        assert_eq!(alone.select(Some("a"), None).unwrap().broker_name, "a");
        assert!(Route::new("T", data(&[]), 0).select(None, None).is_none());
    }

    #[test]
    fn slow_brokers_are_avoided_for_a_while() {
        let route = Route::new("T", data(&[("a", 1, 6), ("b", 1, 6)]), 0);
        let mut faults = Faults::default();
        let start = Mono(0);
        faults.observe("a", None, start);
        faults.observe("b", Some(Duration::from_millis(100)), start);
        for _ in 0..4 {
            assert_eq!(route.select(None, Some((&faults, start))).unwrap().broker_name, "b");
        }
        let later = start + Duration::from_secs(10);
        assert!(faults.is_available("a", later));
        faults.observe("a", Some(Duration::from_millis(1)), start);
        assert!(faults.is_available("a", start));
    }

    #[test]
    fn a_template_bounds_the_queues() {
        let template = data(&[("a", 8, 7)]).as_template(4);
        let route = Route::new("New", template, 0);
        assert_eq!((route.publish.len(), route.subscribe.len()), (4, 4));
        assert_eq!(route.publish[0].topic, "New");
    }
}
