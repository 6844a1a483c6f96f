//! The client in simulation, against Orrery's own name server and brokers: rebalance, kills, restarts, power loss.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orrery_core::broker::Broker;
use orrery_core::client::message::{dead_letter_topic, retry_topic};
use orrery_core::client::{
    Admin, Client, ClientConfig, ConsumerConfig, ListenerFn, Message, MessageView, Producer, ProducerConfig,
    PushConsumer, StartFrom, Subscription, Target, TopicSpecification, Verdict,
};
use orrery_core::config::{BrokerConfig, NameServerConfig};
use orrery_core::namesrv::NameServer;
use orrery_core::runtime::Runtime;
use orrery_core::types::MessageQueue;
use orrery_runtime_sim::{NodeId, SimRuntime, World, run};

const SECOND: Duration = Duration::from_secs(1);

type Seen = Arc<Mutex<Vec<Delivery>>>;

/// A call of a listener, in true time.
#[derive(Clone, Debug)]
struct Delivery {
    who: &'static str,
    body: String,
    broker: String,
    queue_id: i32,
    offset: i64,
    reconsume_times: i32,
    begun: Duration,
    ended: Option<Duration>,
}

struct Cluster {
    world: World,
    name_servers: String,
    brokers: Vec<NodeId>,
}

impl Cluster {
    /// A name server and brokers, up and registered.
    async fn start(world: &World, broker_count: usize, flush: &'static str) -> Cluster {
        let name_server = world.add_node("names");
        let ip = world.ip(name_server);
        let text = format!("bindAddress={ip}\nlistenPort=9876\n");
        let (config, _) = NameServerConfig::from_properties("names", &text).unwrap();
        world.start(name_server, move |rt| {
            let config = config.clone();
            async move {
                let _server = NameServer::start(rt, config).await.expect("the name server starts");
                std::future::pending::<()>().await;
            }
        });
        let name_servers = format!("{ip}:9876");
        let brokers = (0..broker_count)
            .map(|index| start_broker(world, &format!("broker-{index}"), &name_servers, flush))
            .collect();
        world.sleep(SECOND).await;
        let cluster = Cluster {
            world: world.clone(),
            name_servers,
            brokers,
        };
        let (_, rt) = cluster.node("admin");
        let admin = Admin::new(&cluster.client(&rt));
        let specification = TopicSpecification {
            topic: "T".into(),
            queue_count: 4,
            is_ordered: false,
        };
        assert_eq!(admin.create_topic(&specification).await.unwrap(), broker_count);
        world.sleep(SECOND).await;
        cluster
    }

    fn node(&self, name: &str) -> (NodeId, SimRuntime) {
        let node = self.world.add_node(name);
        (node, self.world.runtime(node))
    }

    fn client(&self, rt: &SimRuntime) -> Client<SimRuntime> {
        let config = ClientConfig::new(&self.name_servers).with_instance(self.world.name(rt.node()));
        Client::start(rt, config).unwrap()
    }

    /// A consumer of `T` that takes `pause` for each message.
    async fn consumer(
        &self,
        rt: &SimRuntime,
        who: &'static str,
        config: ConsumerConfig,
        pause: Duration,
        seen: &Seen,
    ) -> PushConsumer<SimRuntime> {
        let (world, seen, sleeping) = (self.world.clone(), seen.clone(), rt.clone());
        let listener = ListenerFn(move |messages: Vec<MessageView>| {
            let message = messages[0].clone();
            let (world, seen, rt) = (world.clone(), seen.clone(), sleeping.clone());
            async move {
                let position = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(Delivery {
                        who,
                        body: String::from_utf8_lossy(&message.body).into_owned(),
                        broker: message.store_host.to_string(),
                        queue_id: message.queue_id,
                        offset: message.queue_offset,
                        reconsume_times: message.reconsume_times,
                        begun: world.now(),
                        ended: None,
                    });
                    seen.len() - 1
                };
                rt.sleep(pause).await;
                seen.lock().unwrap()[position].ended = Some(world.now());
                if message.body.starts_with(b"bad") {
                    Verdict::Later
                } else {
                    Verdict::Success
                }
            }
        });
        PushConsumer::start(&self.client(rt), config, listener).await.unwrap()
    }

    async fn until(&self, what: &str, mut is_true: impl FnMut() -> bool) {
        for _ in 0..60_000 {
            if is_true() {
                return;
            }
            self.world.sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}");
    }

    /// Committed offset and end of every queue of `T`.
    async fn progress(&self, group: &str) -> BTreeMap<MessageQueue, (Option<i64>, i64)> {
        let (_, rt) = self.node("progress");
        let admin = Admin::new(&self.client(&rt));
        let mut progress = BTreeMap::new();
        for queue in &admin.route("T").await.unwrap().subscribe {
            let committed = admin.committed_offset(group, queue).await.unwrap();
            let end = admin.bounds(queue).await.unwrap().max;
            progress.insert(queue.clone(), (committed, end));
        }
        progress
    }
}

fn start_broker(world: &World, name: &str, name_servers: &str, flush: &str) -> NodeId {
    let node = world.add_node(name);
    let ip = world.ip(node);
    let text = format!(
        "brokerName={name}\nnamesrvAddr={name_servers}\nbindAddress={ip}\nbrokerIP1={ip}\nlistenPort=10911\n\
         flushDiskType={flush}\nmaxMessageSize=65536\nmappedFileSizeCommitLog=524288\nmappedFileSizeConsumeQueue=20000\n\
         messageDelayLevel=1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s 1s\nstorePathRootDir=/store\n"
    );
    let (config, _) = BrokerConfig::from_properties(name, &text).unwrap();
    world.start(node, move |rt| {
        let config = config.clone();
        async move {
            let _broker = Broker::start(rt, config).await.expect("the broker starts");
            std::future::pending::<()>().await;
        }
    });
    node
}

fn config(group: &str) -> ConsumerConfig {
    let mut config = ConsumerConfig::new(group, vec![Subscription::all("T")]);
    config.start_from = StartFrom::First;
    config
}

fn share(consumer: &PushConsumer<SimRuntime>) -> usize {
    consumer.assignment().iter().filter(|queue| queue.topic == "T").count()
}

fn finished(seen: &Seen) -> BTreeSet<String> {
    let seen = seen.lock().unwrap();
    let ended = seen.iter().filter(|delivery| delivery.ended.is_some());
    ended.map(|delivery| delivery.body.clone()).collect()
}

/// Sends until acknowledged, whatever happens in between; returns the bodies.
async fn send_all(producer: &Producer<SimRuntime>, name: &str, count: usize) -> BTreeSet<String> {
    let mut bodies = BTreeSet::new();
    for index in 0..count {
        let body = format!("{name}-{index}");
        while producer.send(&Message::new("T", body.clone())).await.is_err() {}
        bodies.insert(body);
    }
    bodies
}

/// Runs a scenario for some seeds; no task of a node may panic.
fn simulate<F, S>(seeds: u64, scenario: F)
where
    F: Fn(World) -> S + Clone + Send + 'static,
    S: Future<Output = ()>,
{
    for seed in 0..seeds {
        let outcome = run(seed, scenario.clone());
        assert!(outcome.panics.is_empty(), "seed {seed}: {:?}", outcome.panics);
    }
}

#[test]
fn members_that_join_leave_and_die_share_the_queues_at_once() {
    simulate(5, |world| async move {
        let cluster = Cluster::start(&world, 2, "ASYNC_FLUSH").await;
        let seen = Seen::default();
        let pause = Duration::from_millis(1);
        let (_, rt_one) = cluster.node("one");
        let (node_two, rt_two) = cluster.node("two");
        let (_, rt_three) = cluster.node("three");
        let one = cluster.consumer(&rt_one, "one", config("g"), pause, &seen).await;
        cluster.until("one has all", || share(&one) == 8).await;
        let two = cluster.consumer(&rt_two, "two", config("g"), pause, &seen).await;
        let joined = world.now();
        cluster
            .until("two queues each", || (share(&one), share(&two)) == (4, 4))
            .await;
        assert!(world.now() - joined < 3 * SECOND, "members are notified");
        let three = cluster.consumer(&rt_three, "three", config("g"), pause, &seen).await;
        let shares = || [share(&one), share(&three), share(&two)];
        cluster.until("three share", || shares() == [3, 3, 2]).await;
        let (_, rt) = cluster.node("producer");
        let producer = Producer::start(&cluster.client(&rt), ProducerConfig::new("p")).unwrap();
        let sent = send_all(&producer, "m", 300).await;
        world.kill(node_two);
        drop(two);
        let killed = world.now();
        cluster
            .until("the survivors have all", || share(&one) + share(&three) == 8)
            .await;
        assert!(world.now() - killed < 3 * SECOND, "the broker saw the connection close");
        three.shutdown().await;
        cluster.until("one has all again", || share(&one) == 8).await;
        cluster.until("all is processed", || finished(&seen) == sent).await;
        one.shutdown().await;
        for (queue, (committed, end)) in cluster.progress("g").await {
            assert_eq!(committed, Some(end), "{queue:?}");
        }
    });
}

#[test]
fn a_broker_killed_in_the_middle_loses_nothing_and_skips_nothing() {
    simulate(10, |world| async move {
        let cluster = Cluster::start(&world, 1, "SYNC_FLUSH").await;
        let seen = Seen::default();
        let (_, rt_one) = cluster.node("one");
        let (_, rt_two) = cluster.node("two");
        let pause = Duration::from_millis(3);
        let _one = cluster.consumer(&rt_one, "one", config("g"), pause, &seen).await;
        let _two = cluster.consumer(&rt_two, "two", config("g"), pause, &seen).await;
        let (_, rt) = cluster.node("producer");
        let producer = Producer::start(&cluster.client(&rt), ProducerConfig::new("p")).unwrap();
        let broker = cluster.brokers[0];
        let faults = async {
            for round in 0..3 {
                world.sleep(2 * SECOND).await;
                if round == 1 {
                    world.power_loss(broker);
                } else {
                    world.kill(broker);
                }
                world.sleep(SECOND).await;
                world.restart(broker);
            }
        };
        let sending = async {
            let mut sent = BTreeSet::new();
            for round in 0..10 {
                sent.append(&mut send_all(&producer, &format!("r{round}"), 50).await);
                world.sleep(SECOND).await;
            }
            sent
        };
        let (sent, ()) = futures_util::join!(sending, faults);
        cluster
            .until("all is processed", || finished(&seen).is_superset(&sent))
            .await;
        world.sleep(12 * SECOND).await;
        for (queue, (committed, end)) in cluster.progress("g").await {
            assert_eq!(committed, Some(end), "{queue:?}");
        }
    });
}

#[test]
fn an_orderly_group_stays_exclusive_and_in_order_over_joins_kills_and_broker_restarts() {
    simulate(10, |world| async move {
        let cluster = Cluster::start(&world, 1, "SYNC_FLUSH").await;
        let seen = Seen::default();
        let (_, rt_one) = cluster.node("one");
        let (node_two, rt_two) = cluster.node("two");
        let (_, rt) = cluster.node("producer");
        let producer = Producer::start(&cluster.client(&rt), ProducerConfig::new("p")).unwrap();
        let sent = send_all(&producer, "m", 400).await;
        let pause = Duration::from_millis(50);
        let _one = cluster
            .consumer(&rt_one, "one", config("g").orderly(), pause, &seen)
            .await;
        world.sleep(2 * SECOND).await;
        let two = cluster
            .consumer(&rt_two, "two", config("g").orderly(), pause, &seen)
            .await;
        world.sleep(2 * SECOND).await;
        world.kill(cluster.brokers[0]);
        world.sleep(SECOND).await;
        world.restart(cluster.brokers[0]);
        world.sleep(3 * SECOND).await;
        world.kill(node_two);
        drop(two);
        cluster.until("all is processed", || finished(&seen) == sent).await;
        let mut by_queue: BTreeMap<(String, i32), Vec<Delivery>> = BTreeMap::new();
        for delivery in seen.lock().unwrap().iter() {
            let queue = (delivery.broker.clone(), delivery.queue_id);
            by_queue.entry(queue).or_default().push(delivery.clone());
        }
        assert!(
            seen.lock().unwrap().iter().any(|delivery| delivery.who == "two"),
            "two has worked"
        );
        for deliveries in by_queue.values() {
            for pair in deliveries.windows(2) {
                let (before, after) = (&pair[0], &pair[1]);
                assert!(after.offset <= before.offset + 1, "{before:?} {after:?}");
                // A delivery without an end died with its process.
                let is_over = before.ended.is_none_or(|ended| ended <= after.begun);
                assert!(is_over, "{before:?} {after:?}");
            }
        }
    });
}

#[test]
fn a_message_that_always_fails_ends_in_the_dead_letters_once() {
    simulate(3, |world| async move {
        let cluster = Cluster::start(&world, 1, "ASYNC_FLUSH").await;
        let seen = Seen::default();
        let (_, rt_one) = cluster.node("one");
        let mut config = config("g");
        config.reconsume_count_max = Some(3);
        let one = cluster.consumer(&rt_one, "one", config, Duration::ZERO, &seen).await;
        let (_, rt) = cluster.node("producer");
        let client = cluster.client(&rt);
        let producer = Producer::start(&client, ProducerConfig::new("p")).unwrap();
        producer.send(&Message::new("T", "good")).await.unwrap();
        producer
            .send_to(&Message::new("T", "bad").with_tag("t"), Target::Key("k"))
            .await
            .unwrap();
        let count = |seen: &Seen| {
            seen.lock()
                .unwrap()
                .iter()
                .filter(|delivery| delivery.body == "bad")
                .count()
        };
        cluster.until("four deliveries", || count(&seen) == 4).await;
        world.sleep(10 * SECOND).await;
        one.shutdown().await;
        let times: Vec<i32> = {
            let seen = seen.lock().unwrap();
            let bad = seen.iter().filter(|delivery| delivery.body == "bad");
            bad.map(|delivery| delivery.reconsume_times).collect()
        };
        assert_eq!(times, [0, 1, 2, 3]);
        let admin = Admin::new(&client);
        let dead = admin.route(&dead_letter_topic("g")).await.unwrap().subscribe[0].clone();
        let pulled = admin.pull(&dead, 0, 10, Duration::ZERO).await.unwrap();
        let bodies: Vec<&[u8]> = pulled.messages.iter().map(|message| &message.body[..]).collect();
        assert_eq!(bodies, [b"bad"]);
        assert_eq!(pulled.messages[0].tag(), Some("t"));
        let retry = admin.route(&retry_topic("g")).await.unwrap().subscribe[0].clone();
        let bounds = admin.bounds(&retry).await.unwrap();
        assert_eq!(admin.committed_offset("g", &retry).await.unwrap(), Some(bounds.max));
    });
}

#[test]
fn a_consumer_that_read_past_what_a_power_loss_left_is_set_back_and_skips_nothing() {
    simulate(10, |world| async move {
        let cluster = Cluster::start(&world, 1, "ASYNC_FLUSH").await;
        let seen = Seen::default();
        let (_, rt_one) = cluster.node("one");
        let _one = cluster
            .consumer(&rt_one, "one", config("g"), Duration::ZERO, &seen)
            .await;
        let (_, rt) = cluster.node("producer");
        let producer = Producer::start(&cluster.client(&rt), ProducerConfig::new("p")).unwrap();
        let first = send_all(&producer, "first", 200).await;
        cluster
            .until("the first are processed", || finished(&seen).is_superset(&first))
            .await;
        world.power_loss(cluster.brokers[0]);
        world.sleep(SECOND).await;
        world.restart(cluster.brokers[0]);
        let second = send_all(&producer, "second", 200).await;
        cluster
            .until("the second are processed", || finished(&seen).is_superset(&second))
            .await;
        world.sleep(12 * SECOND).await;
        for (queue, (committed, end)) in cluster.progress("g").await {
            assert_eq!(committed, Some(end), "{queue:?}");
        }
    });
}

#[test]
fn a_reader_that_missed_a_whole_life_of_the_broker_is_set_back_to_the_older_cut() {
    simulate(10, |world| async move {
        let cluster = Cluster::start(&world, 1, "ASYNC_FLUSH").await;
        let broker = cluster.brokers[0];
        let seen = Seen::default();
        let (node_one, rt_one) = cluster.node("one");
        let _one = cluster
            .consumer(&rt_one, "one", config("g"), Duration::ZERO, &seen)
            .await;
        let (_, rt) = cluster.node("producer");
        let producer = Producer::start(&cluster.client(&rt), ProducerConfig::new("p")).unwrap();
        let first = send_all(&producer, "first", 200).await;
        cluster
            .until("the first are processed", || finished(&seen).is_superset(&first))
            .await;
        // The reader hears nothing of the life in which its offsets are given to other messages.
        world.power_loss(broker);
        world.partition(&[node_one], &[broker]);
        world.sleep(SECOND).await;
        world.restart(broker);
        let second = send_all(&producer, "second", 400).await;
        world.kill(broker);
        world.sleep(SECOND).await;
        world.restart(broker);
        world.heal_all();
        let third = send_all(&producer, "third", 20).await;
        let is_complete = || {
            let finished = finished(&seen);
            finished.is_superset(&second) && finished.is_superset(&third)
        };
        cluster.until("the second and third are processed", is_complete).await;
    });
}
