//! The cluster, the clients on it, and what their observer saw.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orrery_core::client::observer::{
    Attempt, AttemptOutcome, Commit, Delivery, Lock, LockChange, Observer, RevokeReason, SendBackOutcome, Session,
};
use orrery_core::client::{
    Client, ClientConfig, ConsumerConfig, ListenerFn, MessageView, PushConsumer, StartFrom, Subscription, Verdict,
};
use orrery_core::runtime::Runtime;
use orrery_runtime_sim::{NodeId, Outcome, SimRuntime, World, run};

use super::scripted::Scripted;

pub(super) const SECOND: Duration = Duration::from_secs(1);

/// What a client did, as its observer saw it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event {
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
pub(super) struct Recorder {
    pub(super) world: World,
    pub(super) events: Arc<Mutex<Vec<(Duration, Event)>>>,
}

impl Recorder {
    pub(super) fn new(world: &World) -> Recorder {
        Recorder {
            world: world.clone(),
            events: Arc::default(),
        }
    }

    pub(super) fn add(&self, event: Event) {
        self.events.lock().unwrap().push((self.world.now(), event));
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.timed().into_iter().map(|(_, event)| event).collect()
    }

    pub(super) fn timed(&self) -> Vec<(Duration, Event)> {
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
pub(super) struct Stage {
    pub(super) world: World,
    pub(super) name_servers: String,
    pub(super) brokers: Vec<Scripted>,
    pub(super) broker_nodes: Vec<NodeId>,
}

impl Stage {
    pub(super) fn new(world: &World, broker_count: usize, queue_count: i32) -> Stage {
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

    pub(super) fn node(&self, name: &str) -> (NodeId, SimRuntime) {
        let node = self.world.add_node(name);
        (node, self.world.runtime(node))
    }

    pub(super) fn client(&self, rt: &SimRuntime, recorder: &Recorder) -> Client<SimRuntime> {
        let config = ClientConfig::new(&self.name_servers)
            .with_observer(Arc::new(recorder.clone()))
            .with_instance(self.world.name(rt.node()));
        Client::start(rt, config).unwrap()
    }

    /// Puts messages `0..count` into a queue of the first broker.
    pub(super) fn fill(&self, queue_id: i32, count: i64) {
        for index in 0..count {
            self.brokers[0]
                .script()
                .append("T", queue_id, format!("{index}").as_bytes(), "", 0);
        }
    }

    pub(super) async fn until(&self, what: &str, mut is_true: impl FnMut() -> bool) {
        for _ in 0..200_000 {
            if is_true() {
                return;
            }
            self.world.sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}");
    }
}

pub(super) fn consumer_config() -> ConsumerConfig {
    let mut config = ConsumerConfig::new("g", vec![Subscription::all("T")]);
    config.start_from = StartFrom::First;
    config
}

/// Runs a scenario; no task of a node may panic.
pub(super) fn simulate<T, F, S>(scenario: F) -> Outcome<T>
where
    T: Send + 'static,
    F: FnOnce(World) -> S + Send + 'static,
    S: Future<Output = T>,
{
    let outcome = run(7, scenario);
    assert!(outcome.panics.is_empty(), "{:?}", outcome.panics);
    outcome
}

/// Starts a consumer whose listener takes `pause` for each message and remembers bodies.
pub(super) async fn consumer(
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

pub(super) fn processed(recorder: &Recorder) -> BTreeSet<(i32, i64)> {
    let events = recorder.events().into_iter().filter_map(|event| match event {
        Event::Ended(queue_id, offset, Verdict::Success) => Some((queue_id, offset)),
        _ => None,
    });
    events.collect()
}
