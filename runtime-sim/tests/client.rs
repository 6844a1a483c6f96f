//! The client in simulation, against brokers that answer by a script: lost replies, moved offsets, lapsed locks, crashes.

mod scripted;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use orrery_core::client::observer::{
    Attempt, AttemptOutcome, Commit, Delivery, Lock, LockChange, Observer, RevokeReason, SendBackOutcome, Session,
};
use orrery_core::client::{
    Admin, Client, ClientConfig, ConsumerConfig, ListenerFn, Message, MessageView, Producer, ProducerConfig,
    PushConsumer, RequestError, SendStatus, StartFrom, Subscription, Target, Verdict,
};
use orrery_core::protocol::code::{request, response};
use orrery_core::runtime::Runtime;
use orrery_core::types::MessageQueue;
use orrery_runtime_sim::{LinkProfile, NodeId, Outcome, SimRuntime, World, run};
use scripted::{Act, Scripted};

const SECOND: Duration = Duration::from_secs(1);

/// What a client did, as its observer saw it.
#[derive(Clone, Debug, PartialEq)]
enum Event {
    Attempt(String, &'static str),
    Assigned(i32, i64),
    Revoked(i32, RevokeReason),
    Started(i32, i64),
    Ended(i32, i64, Verdict),
    SentBack(i64, SendBackOutcome),
    Commit(String, i32, i64),
    Lock(i32, &'static str),
}

/// Keeps events with the true time.
#[derive(Clone)]
struct Recorder {
    world: World,
    events: Arc<Mutex<Vec<(Duration, Event)>>>,
}

impl Recorder {
    fn new(world: &World) -> Recorder {
        Recorder {
            world: world.clone(),
            events: Arc::default(),
        }
    }

    fn add(&self, event: Event) {
        self.events.lock().unwrap().push((self.world.now(), event));
    }

    fn events(&self) -> Vec<Event> {
        self.timed().into_iter().map(|(_, event)| event).collect()
    }

    fn timed(&self) -> Vec<(Duration, Event)> {
        self.events.lock().unwrap().clone()
    }
}

impl Observer for Recorder {
    fn attempt_ended(&self, attempt: &Attempt<'_>, outcome: &AttemptOutcome<'_>) {
        let outcome = match outcome {
            AttemptOutcome::Stored { .. } => "stored",
            AttemptOutcome::Refused { .. } => "refused",
            AttemptOutcome::NotSent => "not sent",
            AttemptOutcome::Unknown => "unknown",
        };
        self.add(Event::Attempt(attempt.queue.broker_name.clone(), outcome));
    }

    fn assigned(&self, session: &Session<'_>, start_offset: i64) {
        if session.queue.topic == "T" {
            self.add(Event::Assigned(session.queue.queue_id, start_offset));
        }
    }

    fn revoked(&self, session: &Session<'_>, reason: RevokeReason) {
        if session.queue.topic == "T" {
            self.add(Event::Revoked(session.queue.queue_id, reason));
        }
    }

    fn delivery_started(&self, delivery: &Delivery<'_>) {
        let message = &delivery.messages[0];
        self.add(Event::Started(message.queue_id, message.queue_offset));
    }

    fn delivery_ended(&self, delivery: &Delivery<'_>, verdict: Verdict) {
        let message = &delivery.messages[0];
        self.add(Event::Ended(message.queue_id, message.queue_offset, verdict));
    }

    fn sent_back(&self, delivery: &Delivery<'_>, outcome: SendBackOutcome) {
        self.add(Event::SentBack(delivery.messages[0].queue_offset, outcome));
    }

    fn commit_started(&self, commit: &Commit<'_>) {
        if commit.queue.topic == "T" {
            self.add(Event::Commit(
                commit.client_id.to_owned(),
                commit.queue.queue_id,
                commit.offset,
            ));
        }
    }

    fn locked(&self, lock: &Lock<'_>) {
        if lock.queue.topic == "T" {
            let change = match lock.change {
                LockChange::Granted { .. } => "granted",
                LockChange::Refused => "refused",
                LockChange::Lapsed => "lapsed",
                LockChange::Released => "released",
            };
            self.add(Event::Lock(lock.queue.queue_id, change));
        }
    }
}

/// A cluster of scripted brokers with the topic `T`, and nodes for clients.
struct Stage {
    world: World,
    name_servers: String,
    brokers: Vec<Scripted>,
    broker_nodes: Vec<NodeId>,
}

impl Stage {
    fn new(world: &World, broker_count: usize, queue_count: i32) -> Stage {
        let nodes: Vec<NodeId> = (0..broker_count)
            .map(|index| world.add_node(&format!("broker-{index}")))
            .collect();
        let names: Vec<(String, SocketAddr)> = nodes
            .iter()
            .map(|node| (world.name(*node), world.address(*node, 10911)))
            .collect();
        let mut brokers = Vec::new();
        for (node, (_, address)) in nodes.iter().zip(&names) {
            let scripted = Scripted::new(&names);
            scripted.script().topics.insert("T".into(), queue_count);
            let (serving, address) = (scripted.clone(), *address);
            world.start(*node, move |rt| serving.clone().serve(rt, address));
            brokers.push(scripted);
        }
        let name_servers: Vec<String> = names.iter().map(|(_, address)| address.to_string()).collect();
        Stage {
            world: world.clone(),
            name_servers: name_servers.join(";"),
            brokers,
            broker_nodes: nodes,
        }
    }

    fn node(&self, name: &str) -> (NodeId, SimRuntime) {
        let node = self.world.add_node(name);
        (node, self.world.runtime(node))
    }

    fn client(&self, rt: &SimRuntime, recorder: &Recorder) -> Client<SimRuntime> {
        let config = ClientConfig::new(&self.name_servers)
            .with_observer(Arc::new(recorder.clone()))
            .with_instance(self.world.name(rt.node()));
        Client::start(rt, config).unwrap()
    }

    /// Puts messages `0..count` into a queue of the first broker.
    fn fill(&self, queue_id: i32, count: i64) {
        for index in 0..count {
            self.brokers[0]
                .script()
                .append("T", queue_id, format!("{index}").as_bytes(), "", 0);
        }
    }

    async fn until(&self, what: &str, mut is_true: impl FnMut() -> bool) {
        for _ in 0..200_000 {
            if is_true() {
                return;
            }
            self.world.sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}");
    }
}

fn consumer_config() -> ConsumerConfig {
    let mut config = ConsumerConfig::new("g", vec![Subscription::all("T")]);
    config.start_from = StartFrom::First;
    config
}

/// Runs a scenario; no task of a node may panic.
fn simulate<T, F, S>(scenario: F) -> Outcome<T>
where
    T: Send + 'static,
    F: FnOnce(World) -> S + Send + 'static,
    S: Future<Output = T>,
{
    let outcome = run(7, scenario);
    assert!(outcome.panics.is_empty(), "{:?}", outcome.panics);
    outcome
}

fn sends(events: &[Event]) -> Vec<(String, &'static str)> {
    let attempts = events.iter().filter_map(|event| match event {
        Event::Attempt(broker, outcome) => Some((broker.clone(), *outcome)),
        _ => None,
    });
    attempts.collect()
}

async fn send_with(
    stage: &Stage,
    rt: &SimRuntime,
    recorder: &Recorder,
    target: Target<'_>,
) -> Result<SendStatus, RequestError> {
    let client = stage.client(rt, recorder);
    let mut config = ProducerConfig::new("p");
    config.attempt_timeout = Some(SECOND);
    let producer = Producer::start(&client, config).unwrap();
    let receipt = producer.send_to(&Message::new("T", "body"), target).await?;
    Ok(receipt.status)
}

#[test]
fn a_send_without_answer_goes_to_another_broker_and_both_attempts_are_told() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 2, 1);
        let recorder = Recorder::new(&world);
        for broker in &stage.brokers {
            let mut count = 0;
            broker.rule(move |command| match command.code {
                request::SEND_MESSAGE_V2 if count == 0 => {
                    count += 1;
                    Act::LoseReply
                }
                _ => Act::Serve,
            });
        }
        let (_, rt) = stage.node("client");
        let sent = send_with(&stage, &rt, &recorder, Target::Any).await;
        assert_eq!(sent, Ok(SendStatus::SendOk));
        let attempts = sends(&recorder.events());
        assert_eq!(
            attempts.iter().map(|attempt| attempt.1).collect::<Vec<_>>(),
            ["unknown", "unknown", "stored"]
        );
        assert_ne!(attempts[0].0, attempts[1].0);
        let stored: usize = stage.brokers.iter().map(|broker| broker.script().queues.len()).sum();
        assert_eq!(stored, 2);
    });
}

#[test]
fn a_lost_answer_is_unknown_and_a_send_to_a_given_queue_is_not_repeated() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 2);
        let recorder = Recorder::new(&world);
        stage.brokers[0].rule(|command| match command.code {
            request::SEND_MESSAGE_V2 => Act::LoseReply,
            _ => Act::Serve,
        });
        let queue = MessageQueue {
            topic: "T".into(),
            broker_name: "broker-0".into(),
            queue_id: 1,
        };
        let (_, rt) = stage.node("client");
        let sent = send_with(&stage, &rt, &recorder, Target::Queue(&queue)).await;
        assert!(matches!(sent, Err(RequestError::Unknown { .. })), "{sent:?}");
        assert_eq!(stage.brokers[0].script().queues[&("T".to_owned(), 1)].len(), 1);
    });
}

#[test]
fn a_refusal_keeps_its_code_and_a_dead_broker_means_not_sent() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 1);
        let recorder = Recorder::new(&world);
        stage.brokers[0].rule(|command| match command.code {
            request::SEND_MESSAGE_V2 => Act::Refuse(response::MESSAGE_ILLEGAL),
            _ => Act::Serve,
        });
        let (_, rt) = stage.node("client");
        let sent = send_with(&stage, &rt, &recorder, Target::Any).await;
        assert_eq!(sent.unwrap_err().code(), Some(response::MESSAGE_ILLEGAL));
        assert_eq!(sends(&recorder.events()).len(), 1);

        let client = stage.client(&rt, &recorder);
        let producer = Producer::start(&client, ProducerConfig::new("q")).unwrap();
        stage.brokers[0].rule(|_| Act::Serve);
        producer.send(&Message::new("T", "first")).await.unwrap();
        world.kill(stage.broker_nodes[0]);
        world.sleep(SECOND).await;
        let sent = producer.send(&Message::new("T", "second")).await;
        assert!(matches!(sent, Err(RequestError::NotSent { .. })), "{sent:?}");
    });
}

/// Starts a consumer whose listener takes `pause` for each message and remembers bodies.
async fn consumer(
    stage: &Stage,
    rt: &SimRuntime,
    recorder: &Recorder,
    config: ConsumerConfig,
    pause: Duration,
) -> (PushConsumer<SimRuntime>, Client<SimRuntime>) {
    let client = stage.client(rt, recorder);
    let sleeping = rt.clone();
    let listener = ListenerFn(move |_: Vec<MessageView>| {
        let rt = sleeping.clone();
        async move {
            rt.sleep(pause).await;
            Verdict::Success
        }
    });
    let consumer = PushConsumer::start(&client, config, listener).await.unwrap();
    (consumer, client)
}

fn processed(recorder: &Recorder) -> BTreeSet<(i32, i64)> {
    let events = recorder.events().into_iter().filter_map(|event| match event {
        Event::Ended(queue_id, offset, Verdict::Success) => Some((queue_id, offset)),
        _ => None,
    });
    events.collect()
}

#[test]
fn two_members_share_and_the_survivor_of_a_kill_takes_all_from_what_was_committed() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 4);
        let (one, two) = (Recorder::new(&world), Recorder::new(&world));
        let (node_one, rt_one) = stage.node("one");
        let (_, rt_two) = stage.node("two");
        let pause = Duration::from_millis(20);
        let first = consumer(&stage, &rt_one, &one, consumer_config(), pause).await;
        let second = consumer(&stage, &rt_two, &two, consumer_config(), pause).await;
        let share = |consumer: &PushConsumer<SimRuntime>| {
            let queues = consumer.assignment();
            queues.iter().filter(|queue| queue.topic == "T").count()
        };
        // The script sends no notifications: the periodic rebalance must do.
        stage
            .until("two queues each", || share(&first.0) == 2 && share(&second.0) == 2)
            .await;
        for queue_id in 0..4 {
            stage.fill(queue_id, 1500);
        }
        world.sleep(Duration::from_millis(700)).await;
        world.kill(node_one);
        drop(first);
        let member = stage.brokers[0].script().members["g"].first().unwrap().clone();
        assert!(member.ends_with("@one"));
        stage.brokers[0].script().members.get_mut("g").unwrap().remove(&member);
        let all = || {
            let by_two: BTreeSet<(i32, i64)> = processed(&two);
            processed(&one).union(&by_two).count() == 6000
        };
        stage.until("everything is processed", all).await;
        second.0.shutdown().await;
        for queue_id in 0..4 {
            assert_eq!(stage.brokers[0].committed("g", "T", queue_id), Some(1500));
        }
        // Nothing was committed that nobody had processed.
        let mut done: BTreeSet<(i32, i64)> = BTreeSet::new();
        let mut timed = one.timed();
        timed.extend(two.timed());
        timed.sort_by_key(|(time, _)| *time);
        for (_, event) in timed {
            match event {
                Event::Ended(queue_id, offset, _) => drop(done.insert((queue_id, offset))),
                Event::Commit(_, queue_id, offset) => {
                    assert!(
                        (0..offset).all(|below| done.contains(&(queue_id, below))),
                        "commit {offset}"
                    );
                }
                _ => {}
            }
        }
    });
}

#[test]
fn the_seeded_defect_commits_what_is_not_processed() {
    simulate(|world| async move {
        world.switch_site("commit-before-processing", 1.0);
        let stage = Stage::new(&world, 1, 1);
        let recorder = Recorder::new(&world);
        let (_, rt) = stage.node("one");
        stage.fill(0, 500);
        let _consumer = consumer(&stage, &rt, &recorder, consumer_config(), SECOND).await;
        stage
            .until("a commit", || {
                recorder.events().iter().any(|event| matches!(event, Event::Commit(..)))
            })
            .await;
        let committed = stage.brokers[0].committed("g", "T", 0).unwrap();
        assert!(committed > processed(&recorder).len() as i64, "{committed}");
    });
}

#[test]
fn an_offset_out_of_range_is_taken_again_where_the_broker_says() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 1);
        let recorder = Recorder::new(&world);
        stage.fill(0, 100);
        stage.brokers[0].script().min_offsets.insert(("T".into(), 0), 40);
        let (_, rt) = stage.node("one");
        let (consumer, _client) = consumer(&stage, &rt, &recorder, consumer_config(), Duration::ZERO).await;
        stage
            .until("the rest is processed", || processed(&recorder).len() == 60)
            .await;
        consumer.shutdown().await;
        let events = recorder.events();
        let sessions: Vec<&Event> = events
            .iter()
            .filter(|event| matches!(event, Event::Assigned(..) | Event::Revoked(..)))
            .collect();
        let moved = RevokeReason::OffsetMoved { to: 40 };
        let expected = [
            &Event::Assigned(0, 0),
            &Event::Revoked(0, moved),
            &Event::Assigned(0, 40),
            &Event::Revoked(0, RevokeReason::Shutdown),
        ];
        assert_eq!(sessions, expected);
        assert_eq!(stage.brokers[0].committed("g", "T", 0), Some(100));
    });
}

#[test]
fn a_failed_message_comes_again_even_if_the_broker_does_not_put_it_back() {
    for is_refused in [false, true] {
        simulate(move |world| async move {
            let stage = Stage::new(&world, 1, 1);
            let recorder = Recorder::new(&world);
            stage.brokers[0].rule(move |command| match command.code {
                request::CONSUMER_SEND_MSG_BACK if is_refused => Act::Refuse(response::SYSTEM_ERROR),
                _ => Act::Serve,
            });
            stage.brokers[0].script().topics.insert("%RETRY%g".into(), 1);
            stage.fill(0, 3);
            let (_, rt) = stage.node("one");
            let client = stage.client(&rt, &recorder);
            let seen: Arc<Mutex<Vec<(String, String, i32)>>> = Arc::default();
            let listener = {
                let seen = seen.clone();
                ListenerFn(move |messages: Vec<MessageView>| {
                    let message = &messages[0];
                    let body = String::from_utf8_lossy(&message.body).into_owned();
                    let verdict = if message.reconsume_times < 2 {
                        Verdict::Later
                    } else {
                        Verdict::Success
                    };
                    seen.lock()
                        .unwrap()
                        .push((message.topic.to_string(), body, message.reconsume_times));
                    async move { verdict }
                })
            };
            let consumer = PushConsumer::start(&client, consumer_config(), listener).await.unwrap();
            stage
                .until("three deliveries of three messages", || seen.lock().unwrap().len() == 9)
                .await;
            consumer.shutdown().await;
            let mut counts: BTreeMap<(String, i32), i32> = BTreeMap::new();
            for (topic, body, times) in seen.lock().unwrap().iter() {
                assert_eq!(topic, "T");
                *counts.entry((body.clone(), *times)).or_default() += 1;
            }
            assert_eq!(counts.len(), 9, "{counts:?}");
            let stored = |event: &&Event| matches!(event, Event::SentBack(_, SendBackOutcome::Stored));
            assert_eq!(recorder.events().iter().filter(stored).count(), 6);
            assert_eq!(stage.brokers[0].committed("g", "T", 0), Some(3));
        });
    }
}

/// Intervals of deliveries by client: start and end in true time.
fn intervals(recorder: &Recorder) -> Vec<(Duration, Duration)> {
    let mut open: BTreeMap<(i32, i64), Duration> = BTreeMap::new();
    let mut intervals = Vec::new();
    for (time, event) in recorder.timed() {
        match event {
            Event::Started(queue_id, offset) => drop(open.insert((queue_id, offset), time)),
            Event::Ended(queue_id, offset, _) => intervals.push((open.remove(&(queue_id, offset)).unwrap(), time)),
            _ => {}
        }
    }
    intervals
}

#[test]
fn an_orderly_consumer_stops_when_its_lock_lapses_and_the_next_owner_does_not_overlap() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 1);
        let (one, two) = (Recorder::new(&world), Recorder::new(&world));
        let (node_one, rt_one) = stage.node("one");
        let (_, rt_two) = stage.node("two");
        stage.fill(0, 1000);
        let pause = Duration::from_millis(100);
        let first = consumer(&stage, &rt_one, &one, consumer_config().orderly(), pause).await;
        stage.until("ten are processed", || processed(&one).len() >= 10).await;
        // The first is cut off: it still has a thousand messages, but its lock cannot be renewed.
        world.partition(&[node_one], &stage.broker_nodes);
        stage.brokers[0].script().members.clear();
        let second = consumer(&stage, &rt_two, &two, consumer_config().orderly(), pause).await;
        let cut_off = world.now();
        stage.until("the second works", || processed(&two).len() >= 100).await;
        let last_of_first = intervals(&one).last().unwrap().1;
        let first_of_second = intervals(&two).first().unwrap().0;
        assert!(last_of_first < first_of_second, "{last_of_first:?} {first_of_second:?}");
        assert!(last_of_first > cut_off + 5 * SECOND, "the lock counts for a while");
        assert!(one.events().contains(&Event::Revoked(0, RevokeReason::LockLost)));
        assert!(one.events().contains(&Event::Lock(0, "lapsed")));
        // In order, from what was committed.
        let offsets: Vec<i64> = processed(&two).iter().map(|(_, offset)| *offset).collect();
        assert!(offsets.windows(2).all(|pair| pair[1] == pair[0] + 1));
        assert!(offsets[0] <= processed(&one).len() as i64);
        drop((first, second));
    });
}

#[test]
fn an_orderly_queue_holds_at_a_failed_message_and_is_unlocked_at_the_end() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 1);
        let recorder = Recorder::new(&world);
        stage.fill(0, 20);
        let (_, rt) = stage.node("one");
        let client = stage.client(&rt, &recorder);
        let listener = ListenerFn(|messages: Vec<MessageView>| {
            let message = &messages[0];
            let fails = message.queue_offset == 5 && message.reconsume_times < 3;
            async move { if fails { Verdict::Later } else { Verdict::Success } }
        });
        let consumer = PushConsumer::start(&client, consumer_config().orderly(), listener)
            .await
            .unwrap();
        stage
            .until("all are processed", || processed(&recorder).len() == 20)
            .await;
        consumer.shutdown().await;
        let started: Vec<i64> = recorder
            .events()
            .iter()
            .filter_map(|event| match event {
                Event::Started(_, offset) => Some(*offset),
                _ => None,
            })
            .collect();
        let expected: Vec<i64> = (0..5).chain([5, 5, 5, 5]).chain(6..20).collect();
        assert_eq!(started, expected);
        assert_eq!(stage.brokers[0].committed("g", "T", 0), Some(20));
        assert!(stage.brokers[0].script().locks.is_empty());
        assert!(stage.brokers[0].script().members["g"].is_empty());
    });
}

#[test]
fn a_broadcasting_member_goes_on_where_it_was_after_a_kill() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 1);
        let recorder = Recorder::new(&world);
        stage.fill(0, 10);
        let (node, rt) = stage.node("one");
        let config = || consumer_config().broadcasting("/offsets/g.json");
        let first = consumer(&stage, &rt, &recorder, config(), Duration::ZERO).await;
        stage
            .until("all are processed", || processed(&recorder).len() == 10)
            .await;
        world.sleep(6 * SECOND).await;
        world.kill(node);
        drop(first);
        stage.fill(0, 10);
        let later = Recorder::new(&world);
        let rt = world.runtime(node);
        let _second = consumer(&stage, &rt, &later, config(), Duration::ZERO).await;
        stage
            .until("the new ones are processed", || processed(&later).len() == 10)
            .await;
        assert!(later.events().contains(&Event::Assigned(0, 10)));
        assert_eq!(stage.brokers[0].committed("g", "T", 0), None);
    });
}

#[test]
fn a_full_process_queue_stops_the_pull() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 1);
        let recorder = Recorder::new(&world);
        stage.fill(0, 5000);
        let (_, rt) = stage.node("one");
        let (consumer, _client) = consumer(&stage, &rt, &recorder, consumer_config(), 3600 * SECOND).await;
        world.sleep(10 * SECOND).await;
        let pulls = |stage: &Stage| {
            let script = stage.brokers[0].script();
            script
                .seen
                .iter()
                .filter(|code| **code == request::PULL_MESSAGE)
                .count()
        };
        let count = pulls(&stage);
        // 1,000 messages by 32 a pull, and a long poll of the retry topic.
        assert!((32..=36).contains(&count), "{count} pulls");
        drop(consumer);
        world.sleep(20 * SECOND).await;
        assert_eq!(pulls(&stage), count);
    });
}

#[test]
fn the_next_name_server_is_asked_when_one_does_not_answer() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 2, 1);
        let recorder = Recorder::new(&world);
        stage.brokers[0].rule(|command| match command.code {
            request::GET_ROUTEINFO_BY_TOPIC => Act::Swallow,
            _ => Act::Serve,
        });
        stage.brokers[1].rule(|command| match command.code {
            request::GET_ROUTEINFO_BY_TOPIC => Act::Refuse(response::SYSTEM_ERROR),
            _ => Act::Serve,
        });
        let (_, rt) = stage.node("client");
        let admin = Admin::new(&stage.client(&rt, &recorder));
        assert!(admin.route("T").await.is_err());
        for index in [0, 1] {
            stage.brokers[index].rule(|_| Act::Serve);
            assert_eq!(admin.route("T").await.unwrap().publish.len(), 2);
            stage.brokers[index].rule(|command| match command.code {
                request::GET_ROUTEINFO_BY_TOPIC => Act::Swallow,
                _ => Act::Serve,
            });
        }
        assert!(admin.route("T").await.is_err());
    });
}

#[test]
fn a_topic_that_does_not_exist_borrows_the_route_of_the_default_topic() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 1);
        let recorder = Recorder::new(&world);
        let (_, rt) = stage.node("client");
        let client = stage.client(&rt, &recorder);
        let producer = Producer::start(&client, ProducerConfig::new("p")).unwrap();
        let sent = producer.send(&Message::new("New", "x")).await;
        assert!(matches!(sent, Err(RequestError::NotSent { .. })), "{sent:?}");
        stage.brokers[0].script().topics.insert("TBW102".into(), 8);
        let message = Message::new("New", "x");
        let sends = (0..8).map(|_| producer.send(&message));
        let receipts = join_all(sends).await;
        let mut queues: Vec<i32> = receipts
            .into_iter()
            .map(|receipt| receipt.unwrap().queue.queue_id)
            .collect();
        queues.sort_unstable();
        assert_eq!(queues, [0, 0, 1, 1, 2, 2, 3, 3]);
    });
}

#[test]
fn a_restarted_broker_hears_of_the_group_again_at_once() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 1);
        let recorder = Recorder::new(&world);
        let (_, rt) = stage.node("one");
        let (consumer, _client) = consumer(&stage, &rt, &recorder, consumer_config(), Duration::ZERO).await;
        stage.until("it works", || !consumer.assignment().is_empty()).await;
        world.kill(stage.broker_nodes[0]);
        stage.brokers[0].script().members.clear();
        world.sleep(SECOND).await;
        world.restart(stage.broker_nodes[0]);
        let restarted = world.now();
        stage
            .until("it is known", || !stage.brokers[0].script().members.is_empty())
            .await;
        assert!(world.now() - restarted < 5 * SECOND);
        stage.fill(0, 10);
        stage.until("it works again", || processed(&recorder).len() == 10).await;
    });
}

#[test]
fn the_last_commit_of_a_session_is_the_highest_even_while_answers_are_late() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 1);
        let recorder = Recorder::new(&world);
        stage.brokers[0].rule(|command| match command.code {
            request::UPDATE_CONSUMER_OFFSET => Act::LoseReply,
            _ => Act::Serve,
        });
        stage.fill(0, 2000);
        let (_, rt) = stage.node("one");
        let pause = Duration::from_millis(100);
        let (consumer, _client) = consumer(&stage, &rt, &recorder, consumer_config(), pause).await;
        // In the middle of a commit whose answer is lost.
        world.sleep(Duration::from_millis(7_100)).await;
        consumer.shutdown().await;
        let commits = recorder.events().into_iter().filter_map(|event| match event {
            Event::Commit(_, _, offset) => Some(offset),
            _ => None,
        });
        let commits: Vec<i64> = commits.collect();
        assert!(commits.len() >= 2, "{commits:?}");
        assert!(commits.is_sorted(), "{commits:?}");
        let done = processed(&recorder).len() as i64;
        assert_eq!(stage.brokers[0].committed("g", "T", 0), Some(done));
    });
}

#[test]
fn an_orderly_queue_changes_hands_only_after_the_delivery_in_progress() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 1);
        let (one, two) = (Recorder::new(&world), Recorder::new(&world));
        // The one queue belongs to the client that sorts first: it comes second.
        let (_, rt_one) = stage.node("a-one");
        let (_, rt_two) = stage.node("b-two");
        stage.fill(0, 30);
        let pause = 3 * SECOND;
        let second = consumer(&stage, &rt_two, &two, consumer_config().orderly(), pause).await;
        stage.until("three are processed", || processed(&two).len() >= 3).await;
        let first = consumer(&stage, &rt_one, &one, consumer_config().orderly(), pause).await;
        stage
            .until("all are processed", || {
                processed(&one).len() + processed(&two).len() >= 30
            })
            .await;
        let last_of_two = intervals(&two).last().unwrap().1;
        let first_of_one = intervals(&one).first().unwrap().0;
        assert!(last_of_two < first_of_one, "{last_of_two:?} {first_of_one:?}");
        assert!(two.events().contains(&Event::Revoked(0, RevokeReason::Rebalance)));
        assert!(two.events().contains(&Event::Lock(0, "released")));
        // The delivery that was in progress counts: nothing comes twice.
        let handed_over = processed(&two).len() as i64;
        assert!(one.events().contains(&Event::Assigned(0, handed_over)));
        assert_eq!(processed(&one).len() + processed(&two).len(), 30);
        drop((first, second));
    });
}

#[test]
fn an_orderly_message_past_its_limit_becomes_a_dead_letter_and_frees_its_queue() {
    simulate(|world| async move {
        let stage = Stage::new(&world, 1, 1);
        let recorder = Recorder::new(&world);
        let levels: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = levels.clone();
        stage.brokers[0].rule(move |command| {
            if command.code == request::CONSUMER_SEND_MSG_BACK {
                let level = command.ext.get("delayLevel").unwrap().to_owned();
                seen.lock().unwrap().push(level);
            }
            Act::Serve
        });
        stage.fill(0, 3);
        let (_, rt) = stage.node("one");
        let client = stage.client(&rt, &recorder);
        let listener = ListenerFn(|messages: Vec<MessageView>| {
            let fails = messages[0].queue_offset == 1;
            async move { if fails { Verdict::Later } else { Verdict::Success } }
        });
        let mut config = consumer_config().orderly();
        config.reconsume_count_max = Some(2);
        let _consumer = PushConsumer::start(&client, config, listener).await.unwrap();
        stage
            .until("the others are processed", || processed(&recorder).len() == 2)
            .await;
        let started = |event: &&Event| matches!(event, Event::Started(0, 1));
        assert_eq!(recorder.events().iter().filter(started).count(), 3);
        assert_eq!(*levels.lock().unwrap(), ["-1"]);
    });
}

#[test]
fn a_listener_that_panics_or_hangs_says_later() {
    let outcome = run(7, |world| async move {
        let stage = Stage::new(&world, 1, 1);
        let recorder = Recorder::new(&world);
        stage.fill(0, 3);
        let (_, rt) = stage.node("one");
        let client = stage.client(&rt, &recorder);
        let listener = ListenerFn(|messages: Vec<MessageView>| {
            let message = messages[0].clone();
            async move {
                match (message.queue_offset, message.reconsume_times) {
                    (1, 0) => panic!("as the test wants"),
                    (2, 0) => std::future::pending().await,
                    _ => Verdict::Success,
                }
            }
        });
        let mut config = consumer_config();
        config.consume_timeout = 5 * SECOND;
        let consumer = PushConsumer::start(&client, config, listener).await.unwrap();
        let back = |event: &&Event| matches!(event, Event::SentBack(_, SendBackOutcome::Stored));
        stage
            .until("two come again", || recorder.events().iter().filter(back).count() == 2)
            .await;
        consumer.shutdown().await;
        assert_eq!(stage.brokers[0].committed("g", "T", 0), Some(3));
    });
    assert_eq!(outcome.seed, 7);
}

#[test]
fn many_seeds_of_lossy_networks_and_broker_restarts_lose_and_skip_nothing() {
    for seed in 0..20 {
        let outcome = run(seed, move |world| async move {
            world.set_default_link(LinkProfile {
                jitter: Duration::from_millis(5),
                loss: 0.02,
                ..LinkProfile::default()
            });
            let stage = Stage::new(&world, 2, 2);
            let recorder = Recorder::new(&world);
            let (_, rt_p) = stage.node("producer");
            let producer_client = stage.client(&rt_p, &recorder);
            let producer = Producer::start(&producer_client, ProducerConfig::new("p")).unwrap();
            let pause = Duration::from_millis(5);
            let (_, rt_one) = stage.node("one");
            let (_, rt_two) = stage.node("two");
            let first = consumer(&stage, &rt_one, &recorder, consumer_config(), pause).await;
            let second = consumer(&stage, &rt_two, &recorder, consumer_config(), pause).await;
            let mut sent = 0;
            for round in 0..3u64 {
                for index in 0..40 {
                    sent += usize::from(
                        producer
                            .send(&Message::new("T", format!("{round}-{index}")))
                            .await
                            .is_ok(),
                    );
                }
                let broker = stage.broker_nodes[(seed + round) as usize % 2];
                world.kill(broker);
                world.sleep(2 * SECOND).await;
                world.restart(broker);
            }
            assert!(sent > 60, "{sent} of 120 sent");
            let stored = |stage: &Stage| -> BTreeSet<(usize, i32, i64)> {
                let mut stored = BTreeSet::new();
                for (index, broker) in stage.brokers.iter().enumerate() {
                    for ((topic, queue_id), records) in &broker.script().queues {
                        if topic == "T" {
                            stored.extend((0..records.len() as i64).map(|offset| (index, *queue_id, offset)));
                        }
                    }
                }
                stored
            };
            let committed_all = || {
                let stored = stored(&stage);
                let ends = stored.iter().map(|(broker, queue_id, _)| (*broker, *queue_id));
                let ends: BTreeSet<(usize, i32)> = ends.collect();
                ends.into_iter().all(|(broker, queue_id)| {
                    let count = stored.iter().filter(|at| (at.0, at.1) == (broker, queue_id)).count() as i64;
                    stage.brokers[broker].committed("g", "T", queue_id) == Some(count)
                })
            };
            stage.until("everything is committed", committed_all).await;
            drop((first, second));
        });
        assert!(outcome.panics.is_empty(), "seed {seed}: {:?}", outcome.panics);
    }
}
