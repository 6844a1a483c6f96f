//! Drives Orrery's client against a running cluster, of Orrery or of Apache RocketMQ, and checks what comes back.
//!
//! `cargo run -p orrery-runtime-real --example client_check -- 127.0.0.1:9876 [COUNT [HISTORY.jsonl [SECONDS]]]`
//!
//! With SECONDS it only sends and receives for that long, so that brokers can be killed and restarted meanwhile, and then
//! checks that everything acknowledged has arrived.
//!
//! Every scenario uses topics and groups of its own, so that the program can run again on the same cluster. Exit code 0:
//! all held; 1: something did not. The concurrent and the orderly scenario are written as a history for `orrery check`.
//! It is no load generator: `orrery bench` is.

mod history;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures_util::{StreamExt, stream};
use orrery_checker::history::Order;
use orrery_core::client::{
    Admin, Client, ClientConfig, ConsumerConfig, ListenerFn, Message, MessageView, Producer, ProducerConfig,
    PushConsumer, RequestError, StartFrom, Subscription, Target, TopicSpecification, Verdict,
};
use orrery_core::runtime::Runtime;
use orrery_core::types::MessageQueue;
use orrery_runtime_real::Real;

use crate::history::Recorder;

const QUEUE_COUNT: i32 = 8;
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let mut arguments = std::env::args().skip(1);
    let Some(name_servers) = arguments.next() else {
        eprintln!("usage: client_check NAME_SERVERS [COUNT [HISTORY [SECONDS]]]");
        return ExitCode::from(2);
    };
    let count = arguments.next().map_or(Ok(10_000), |text| text.parse());
    let Ok(count) = count else {
        eprintln!("COUNT is not a number");
        return ExitCode::from(2);
    };
    let path = arguments.next().map(PathBuf::from);
    let Ok(seconds) = arguments.next().map(|text| text.parse()).transpose() else {
        eprintln!("SECONDS is not a number");
        return ExitCode::from(2);
    };
    let outcome = Real::run(None, |rt| async move {
        let recorder = Recorder::new(&rt);
        let cluster = Cluster {
            rt,
            name_servers,
            recorder,
        };
        match seconds {
            Some(seconds) => cluster.endure(Duration::from_secs(seconds)).await?,
            None => cluster.run(count).await?,
        }
        path.map_or(Ok(()), |path| cluster.recorder.write(&path, count))
    });
    match outcome.map_err(anyhow::Error::from).and_then(|inner| inner) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Cluster {
    rt: Real,
    name_servers: String,
    recorder: Recorder,
}

/// What consumers have received: queue and offset of every body, in order of arrival.
#[derive(Default)]
struct Seen {
    arrivals: Mutex<Vec<(String, MessageView)>>,
}

impl Seen {
    fn add(&self, who: &str, messages: Vec<MessageView>) {
        let mut arrivals = self.arrivals.lock().unwrap();
        arrivals.extend(messages.into_iter().map(|message| (who.to_owned(), message)));
    }

    fn bodies(&self) -> BTreeSet<String> {
        let arrivals = self.arrivals.lock().unwrap();
        arrivals.iter().map(|(_, message)| text(message)).collect()
    }
}

fn text(message: &MessageView) -> String {
    String::from_utf8_lossy(&message.body).into_owned()
}

impl Cluster {
    async fn run(&self, count: usize) -> anyhow::Result<()> {
        let run = format!("{:x}", self.rt.wall().0);
        self.concurrent(&format!("check-{run}"), count)
            .await
            .context("concurrent")?;
        self.orderly(&format!("order-{run}"), count).await.context("orderly")?;
        self.broadcast(&format!("cast-{run}")).await.context("broadcast")?;
        self.retry(&format!("retry-{run}")).await.context("retry")?;
        self.errors(&format!("none-{run}")).await.context("errors")?;
        Ok(())
    }

    fn client(&self) -> anyhow::Result<Client<Real>> {
        Ok(Client::start(&self.rt, ClientConfig::new(&self.name_servers))?)
    }

    /// A client whose doings go into the history.
    fn watched(&self, name: &str) -> anyhow::Result<Client<Real>> {
        let config = ClientConfig::new(&self.name_servers).with_observer(self.recorder.watch(name));
        Ok(Client::start(&self.rt, config)?)
    }

    /// The clients of a scenario that is written as a history: one that sends, two that receive.
    fn three_watched(&self, topic: &str) -> anyhow::Result<[Client<Real>; 3]> {
        let watched = |who: &str| self.watched(&format!("{topic}-{who}"));
        Ok([watched("admin")?, watched("one")?, watched("two")?])
    }

    async fn create(&self, client: &Client<Real>, topic: &str) -> anyhow::Result<()> {
        let specification = TopicSpecification {
            topic: topic.to_owned(),
            queue_count: QUEUE_COUNT,
            is_ordered: false,
        };
        let brokers = Admin::new(client).create_topic(&specification).await?;
        println!("{topic}: created on {brokers} brokers");
        // The brokers register new topics with the name servers on their own.
        for _ in 0..100 {
            if Admin::new(client)
                .route(topic)
                .await
                .is_ok_and(|route| route.publish.len() == brokers * 8)
            {
                return Ok(());
            }
            self.rt.sleep(Duration::from_millis(100)).await;
        }
        bail!("the topic does not show in the route");
    }

    async fn produce(&self, client: &Client<Real>, topic: &str, count: usize) -> anyhow::Result<()> {
        let producer = Producer::start(client, ProducerConfig::new(format!("p-{topic}")))?;
        let begun = self.rt.mono();
        let sends = stream::iter(0..count).map(|index| {
            let producer = producer.clone();
            async move {
                let message = Message::new(topic, format!("{topic}-{index}"))
                    .with_tag(if index % 2 == 0 { "even" } else { "odd" })
                    .with_keys(format!("key-{index}"));
                producer.send(&message).await
            }
        });
        let failed: Vec<RequestError> = sends
            .buffer_unordered(64)
            .filter_map(|result| async move { result.err() })
            .collect()
            .await;
        let seconds = self.rt.mono().since(begun).as_secs_f64();
        println!("{topic}: {count} sent in {seconds:.2} s, {} failed", failed.len());
        ensure!(failed.is_empty(), "{:?}", failed[0]);
        producer.shutdown().await;
        Ok(())
    }

    async fn consume(
        &self,
        client: &Client<Real>,
        config: ConsumerConfig,
        who: &'static str,
        seen: &Arc<Seen>,
    ) -> anyhow::Result<PushConsumer<Real>> {
        let seen = seen.clone();
        let listener = ListenerFn(move |messages| {
            seen.add(who, messages);
            async { Verdict::Success }
        });
        Ok(PushConsumer::start(client, config, listener).await?)
    }

    async fn until(&self, what: &str, mut is_true: impl FnMut() -> bool) -> anyhow::Result<()> {
        let begun = self.rt.mono();
        while !is_true() {
            if self.rt.mono().since(begun) > PATIENCE {
                bail!("not within {PATIENCE:?}: {what}");
            }
            self.rt.sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Sends and receives while somebody else restarts brokers.
    async fn endure(&self, time: Duration) -> anyhow::Result<()> {
        let topic = format!("endure-{:x}", self.rt.wall().0);
        let [admin, one, two] = self.three_watched(&topic)?;
        self.recorder
            .add_group(&format!("g-{topic}"), &topic, Order::Concurrent);
        self.create(&admin, &topic).await?;
        let config = || {
            let mut config = ConsumerConfig::new(format!("g-{topic}"), vec![Subscription::all(&topic)]);
            config.start_from = StartFrom::First;
            config
        };
        let seen = Arc::new(Seen::default());
        let first = self.consume(&one, config(), "one", &seen).await?;
        let second = self.consume(&two, config(), "two", &seen).await?;
        let producer = Producer::start(&admin, ProducerConfig::new(format!("p-{topic}")))?;
        let begun = self.rt.mono();
        let (mut acknowledged, mut failed_count) = (BTreeSet::new(), 0);
        for index in 0.. {
            if self.rt.mono().since(begun) > time {
                break;
            }
            let body = format!("{topic}-{index}");
            match producer.send(&Message::new(&topic, body.clone())).await {
                Ok(_) => drop(acknowledged.insert(body)),
                Err(error) => {
                    failed_count += 1;
                    println!("{topic}: {error}");
                }
            }
            self.rt.sleep(Duration::from_millis(1)).await;
        }
        self.until("all acknowledged arrive", || seen.bodies().is_superset(&acknowledged))
            .await?;
        let arrivals = seen.arrivals.lock().unwrap().len();
        self.leave_and_check(&admin, &format!("g-{topic}"), &topic, [first, second])
            .await?;
        self.recorder.scan(&Admin::new(&self.client()?), &topic).await?;
        let count = acknowledged.len();
        println!("{topic}: {count} acknowledged, {failed_count} not, {arrivals} deliveries");
        Ok(())
    }

    /// Two members share the queues; every message arrives once; offsets are committed when they leave.
    async fn concurrent(&self, topic: &str, count: usize) -> anyhow::Result<()> {
        let [admin, one, two] = self.three_watched(topic)?;
        self.recorder.add_group(&format!("g-{topic}"), topic, Order::Concurrent);
        self.create(&admin, topic).await?;
        let config = |expression: &str| -> anyhow::Result<ConsumerConfig> {
            let subscription = Subscription::tags(topic, expression)?;
            let mut config = ConsumerConfig::new(format!("g-{topic}"), vec![subscription]);
            config.start_from = StartFrom::First;
            Ok(config)
        };
        let seen = Arc::new(Seen::default());
        let first = self.consume(&one, config("even || odd")?, "one", &seen).await?;
        let second = self.consume(&two, config("even || odd")?, "two", &seen).await?;
        let share = |consumer: &PushConsumer<Real>| {
            let queues = consumer.assignment();
            queues.into_iter().filter(|queue| queue.topic == topic).count()
        };
        self.until("queues are shared", || {
            share(&first) > 0 && share(&first) == share(&second)
        })
        .await?;
        self.produce(&admin, topic, count).await?;
        let expected: BTreeSet<String> = (0..count).map(|index| format!("{topic}-{index}")).collect();
        self.until("all arrive", || seen.bodies().len() >= count).await?;
        ensure!(seen.bodies() == expected, "bodies differ");
        let arrivals = seen.arrivals.lock().unwrap().len();
        ensure!(arrivals == count, "{arrivals} deliveries of {count} messages");
        let by: BTreeSet<String> = seen
            .arrivals
            .lock()
            .unwrap()
            .iter()
            .map(|(who, _)| who.clone())
            .collect();
        ensure!(by.len() == 2, "only {by:?} received");
        self.leave_and_check(&admin, &format!("g-{topic}"), topic, [first, second])
            .await?;
        println!("{topic}: {arrivals} delivered to two members");
        self.recorder.scan(&Admin::new(&self.client()?), topic).await?;
        one.shutdown().await;
        two.shutdown().await;
        Ok(())
    }

    /// Shuts consumers down and compares the committed offsets with the ends of the queues.
    async fn leave_and_check<const N: usize>(
        &self,
        client: &Client<Real>,
        group: &str,
        topic: &str,
        consumers: [PushConsumer<Real>; N],
    ) -> anyhow::Result<()> {
        for consumer in consumers {
            consumer.shutdown().await;
        }
        let admin = Admin::new(client);
        for queue in &admin.route(topic).await?.subscribe {
            let bounds = admin.bounds(queue).await?;
            let committed = admin.committed_offset(group, queue).await?;
            ensure!(
                committed == Some(bounds.max),
                "{queue:?}: committed {committed:?} of {bounds:?}"
            );
        }
        Ok(())
    }

    /// Per queue in order, one at a time, over a change of members.
    async fn orderly(&self, topic: &str, count: usize) -> anyhow::Result<()> {
        let [admin, one, two] = self.three_watched(topic)?;
        self.recorder.add_group(&format!("g-{topic}"), topic, Order::Orderly);
        self.create(&admin, topic).await?;
        let config = || {
            let mut config = ConsumerConfig::new(format!("g-{topic}"), vec![Subscription::all(topic)]).orderly();
            config.start_from = StartFrom::First;
            config
        };
        let seen = Arc::new(Seen::default());
        let first = self.consume(&one, config(), "one", &seen).await?;
        let producing = self.produce(&admin, topic, count);
        let joining = async {
            self.rt.sleep(Duration::from_millis(200)).await;
            self.consume(&two, config(), "two", &seen).await
        };
        let (produced, second) = futures_util::join!(producing, joining);
        produced?;
        let second = second?;
        self.until("all arrive", || seen.bodies().len() >= count).await?;
        self.until("the second takes queues", || !second.assignment().is_empty())
            .await?;
        let mut next: BTreeMap<(i32, String), i64> = BTreeMap::new();
        for (_, message) in seen.arrivals.lock().unwrap().iter() {
            let queue = (message.queue_id, message.store_host.to_string());
            let expected = next.entry(queue).or_insert(0);
            ensure!(
                message.queue_offset <= *expected,
                "offset {} after {expected}",
                message.queue_offset
            );
            *expected = (*expected).max(message.queue_offset + 1);
        }
        let arrivals = seen.arrivals.lock().unwrap().len();
        self.leave_and_check(&admin, &format!("g-{topic}"), topic, [first, second])
            .await?;
        println!("{topic}: {arrivals} delivered in order");
        self.recorder.scan(&Admin::new(&self.client()?), topic).await?;
        one.shutdown().await;
        two.shutdown().await;
        Ok(())
    }

    /// Every member gets everything; a member that comes back goes on where it was.
    async fn broadcast(&self, topic: &str) -> anyhow::Result<()> {
        let directory = tempfile::tempdir()?;
        let (admin, one, two) = (self.client()?, self.client()?, self.client()?);
        self.create(&admin, topic).await?;
        let config = |who: &str| {
            let path = directory.path().join(format!("{who}.json"));
            let mut config =
                ConsumerConfig::new(format!("g-{topic}"), vec![Subscription::all(topic)]).broadcasting(path);
            config.start_from = StartFrom::First;
            config
        };
        let (seen_one, seen_two) = (Arc::new(Seen::default()), Arc::new(Seen::default()));
        let first = self.consume(&one, config("one"), "one", &seen_one).await?;
        let second = self.consume(&two, config("two"), "two", &seen_two).await?;
        self.produce(&admin, topic, 100).await?;
        self.until("all arrive at both", || {
            seen_one.bodies().len() == 100 && seen_two.bodies().len() == 100
        })
        .await?;
        first.shutdown().await;
        let first = self.consume(&one, config("one"), "one", &seen_one).await?;
        let producer = Producer::start(&admin, ProducerConfig::new(format!("late-{topic}")))?;
        producer.send(&Message::new(topic, "late")).await?;
        self.until("the late one arrives", || seen_one.bodies().contains("late"))
            .await?;
        let arrivals = seen_one.arrivals.lock().unwrap().len();
        ensure!(arrivals == 101, "{arrivals} deliveries of 101 messages");
        first.shutdown().await;
        second.shutdown().await;
        println!("{topic}: broadcast to two members, one of which came back");
        Ok(())
    }

    /// A message that fails once comes again after the broker's delay, with its original topic and a count.
    async fn retry(&self, topic: &str) -> anyhow::Result<()> {
        let client = self.client()?;
        self.create(&client, topic).await?;
        let mut config = ConsumerConfig::new(format!("g-{topic}"), vec![Subscription::all(topic)]);
        config.start_from = StartFrom::First;
        let seen = Arc::new(Seen::default());
        let listener = {
            let seen = seen.clone();
            ListenerFn(move |messages: Vec<MessageView>| {
                let verdict = if messages[0].reconsume_times == 0 {
                    Verdict::Later
                } else {
                    Verdict::Success
                };
                seen.add("one", messages);
                async move { verdict }
            })
        };
        let consumer = PushConsumer::start(&client, config, listener).await?;
        let producer = Producer::start(&client, ProducerConfig::new(format!("p-{topic}")))?;
        let batch: Vec<Message> = (0..3)
            .map(|index| Message::new(topic, format!("batch-{index}")).with_tag("b"))
            .collect();
        let receipt = producer.send_batch(&batch, Target::Any).await?;
        ensure!(receipt.message_id.split(',').count() == 3, "{receipt:?}");
        let target = MessageQueue {
            queue_id: 5,
            ..(*receipt.queue).clone()
        };
        let large = Message::new(topic, vec![b'x'; 100_000]);
        let receipt = producer.send_to(&large, Target::Queue(&target)).await?;
        ensure!(*receipt.queue == target, "{receipt:?}");
        producer
            .send_one_way(&Message::new(topic, "one-way"), Target::Any)
            .await?;
        self.until("five messages arrive twice", || {
            seen.arrivals.lock().unwrap().len() >= 10
        })
        .await?;
        for (_, message) in seen.arrivals.lock().unwrap().iter() {
            ensure!(&*message.topic == topic, "topic {}", message.topic);
            ensure!(!message.is_compressed(), "compressed");
        }
        ensure!(seen.bodies().len() == 5, "bodies {:?}", seen.bodies().len());
        consumer.shutdown().await;
        client.shutdown().await;
        println!("{topic}: five messages failed once and came again");
        Ok(())
    }

    /// Refusals keep their code; nothing is sent when there is nowhere to send.
    async fn errors(&self, topic: &str) -> anyhow::Result<()> {
        let client = self.client()?;
        let admin = Admin::new(&client);
        let missing = admin.route(topic).await;
        ensure!(
            missing.as_ref().is_err_and(|error| error.code() == Some(17)),
            "{missing:?}"
        );
        let producer = Producer::start(&client, ProducerConfig::new(format!("p-{topic}")))?;
        let invalid = producer.send(&Message::new("no such name", "x")).await;
        ensure!(matches!(invalid, Err(RequestError::NotSent { .. })), "{invalid:?}");
        let created = producer.send(&Message::new(topic, "creates its topic")).await?;
        ensure!(created.queue.queue_id < 4, "{created:?}");
        let config = ClientConfig::new("127.0.0.1:1");
        let lost = Client::start(&self.rt, config)?;
        let nowhere = Producer::start(&lost, ProducerConfig::new("nobody"))?
            .send(&Message::new(topic, "x"))
            .await;
        ensure!(matches!(nowhere, Err(RequestError::NotSent { .. })), "{nowhere:?}");
        println!("{topic}: refusals are told apart");
        Ok(())
    }
}
