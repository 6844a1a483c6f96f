//! The end of a run: consumers come to the end of every queue, then a fresh client reads everything back.

use std::time::Duration;

use orrery_checker::history::{Event, Queue};
use orrery_core::client::admin::{Admin, TopicSpecification};
use orrery_core::client::message::retry_topic;
use orrery_core::client::observer::PullOutcome;
use orrery_core::client::{Client, RequestError};
use orrery_core::runtime::Runtime;
use orrery_core::types::MessageQueue;
use orrery_runtime_sim::{SimRuntime, World};

use crate::cluster::{Cluster, Shared, client_config};
use crate::message;
use crate::plan::Plan;
use crate::recorder::{self, Recorder, read_content};

const PAUSE: Duration = Duration::from_millis(500);
/// Messages handed back come again within this; longer silence says that they never will.
const SILENCE: Duration = Duration::from_secs(20);
/// Nodes are whole when the scan begins: what does not answer in this time never will.
const SCAN_TIME: Duration = Duration::from_secs(60);
/// The cluster must accept topics within this after its first boot.
const BOOT_TIME: Duration = Duration::from_secs(60);
const PULL_COUNT: i32 = 32;

/// An administrator on a machine of its own.
pub(crate) struct Operator {
    rt: SimRuntime,
    admin: Admin<SimRuntime>,
    client: Client<SimRuntime>,
}

impl Operator {
    pub(crate) fn new(cluster: &Cluster, name: &str) -> Operator {
        let node = cluster.world.add_node(name);
        let rt = cluster.world.runtime(node);
        let config = client_config(&cluster.name_servers, name);
        let client = Client::start(&rt, config).expect("the configuration is valid");
        Operator {
            admin: Admin::new(&client),
            rt,
            client,
        }
    }

    /// Creates the plan's topics on every broker.
    pub(crate) async fn create_topics(&self, plan: &Plan) -> Result<(), RequestError> {
        let begin = self.rt.mono();
        for topic in &plan.topics {
            let specification = TopicSpecification {
                topic: topic.name.clone(),
                queue_count: topic.queues as i32,
                is_ordered: false,
            };
            loop {
                let result = self.admin.create_topic(&specification).await;
                match result {
                    Ok(count) if count == plan.brokers.len() => break,
                    Err(error) if self.rt.mono().since(begin) > BOOT_TIME => return Err(error),
                    _ => self.rt.sleep(PAUSE).await,
                }
            }
        }
        // Routes of new topics reach the name servers with the brokers' registration.
        for topic in &plan.topics {
            while self.rt.mono().since(begin) <= BOOT_TIME {
                match self.admin.route(&topic.name).await {
                    Ok(route) if route.publish.len() == plan.brokers.len() * topic.queues as usize => break,
                    _ => self.rt.sleep(PAUSE).await,
                }
            }
        }
        Ok(())
    }

    /// Waits until no send is under way, every group has committed the end of every queue and no listener runs; at most the
    /// plan's drain time.
    pub(crate) async fn drain(&self, world: &World, plan: &Plan, shared: &Shared, recorder: &Recorder) {
        let begin = world.now();
        while world.now() - begin < Duration::from_millis(plan.drain_ms) {
            if !shared.is_sending() && self.all_committed(plan).await {
                let quiet = recorder.quiet();
                let silent = world.now().saturating_sub(quiet.last_delivery) > SILENCE;
                if quiet.running == 0 && (quiet.outstanding == 0 || silent) {
                    break;
                }
            }
            world.sleep(PAUSE).await;
        }
    }

    async fn all_committed(&self, plan: &Plan) -> bool {
        for group in &plan.groups {
            let retry = queues(plan, &retry_topic(&group.name), 1);
            let subscribed = plan.topics.iter().filter(|topic| group.topics.contains(&topic.name));
            let subscribed = subscribed.flat_map(|topic| queues(plan, &topic.name, topic.queues));
            for queue in subscribed.chain(retry) {
                let Ok(bounds) = self.admin.bounds(&queue).await else {
                    return false;
                };
                if bounds.max == 0 {
                    continue;
                }
                match self.admin.committed_offset(&group.name, &queue).await {
                    Ok(Some(committed)) if committed >= bounds.max => {}
                    _ => return false,
                }
            }
        }
        true
    }

    /// Reads every queue from its beginning.
    pub(crate) async fn scan(&self, plan: &Plan, recorder: &Recorder) {
        let begin = self.rt.mono();
        let mut complete = true;
        for topic in &plan.topics {
            for queue in queues(plan, &topic.name, topic.queues) {
                loop {
                    match self.scan_queue(&queue).await {
                        Ok(events) => {
                            events.into_iter().for_each(|event| recorder.tell(event));
                            break;
                        }
                        Err(_) if self.rt.mono().since(begin) < SCAN_TIME => self.rt.sleep(PAUSE).await,
                        Err(_) => {
                            complete = false;
                            break;
                        }
                    }
                }
            }
        }
        recorder.tell(Event::ScanEnd { complete });
    }

    async fn scan_queue(&self, queue: &MessageQueue) -> Result<Vec<Event>, RequestError> {
        let bounds = self.admin.bounds(queue).await?;
        let at: Queue = recorder::queue(queue);
        let mut events = vec![Event::ScanQueue {
            queue: at.clone(),
            min: bounds.min,
            max: bounds.max,
        }];
        let mut offset = bounds.min;
        while offset < bounds.max {
            let pulled = self.admin.pull(queue, offset, PULL_COUNT, Duration::ZERO).await?;
            for message in &pulled.messages {
                events.push(Event::ScanEntry {
                    queue: at.clone(),
                    offset: message.queue_offset,
                    uid: message::uid(&message.body).map(str::to_owned),
                    content: read_content(message),
                });
            }
            // A queue that does not lead on has a hole there: the checker will see it.
            if pulled.next_offset <= offset || pulled.outcome == PullOutcome::OffsetIllegal {
                break;
            }
            offset = pulled.next_offset;
        }
        Ok(events)
    }

    pub(crate) async fn leave(self) {
        self.client.shutdown().await;
    }
}

fn queues(plan: &Plan, topic: &str, count: u32) -> Vec<MessageQueue> {
    let brokers = plan.brokers.iter();
    brokers
        .flat_map(|broker| {
            (0..count).map(|id| MessageQueue {
                topic: topic.to_owned(),
                broker_name: broker.name.clone(),
                queue_id: id as i32,
            })
        })
        .collect()
}
