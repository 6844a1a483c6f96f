//! Receives messages: pulls every queue assigned to this member and calls a listener.
//!
//! | task | does |
//! |---|---|
//! | rebalance | decides which queues are ours; assigns and revokes (every 20 s, on change, after 1 s when something was missing) |
//! | pull, per queue | long polls, filters, fills the process queue within the flow limits |
//! | workers (concurrent) or one task per queue (orderly) | call the listener, send back what was not processed |
//! | committer | the only one who commits offsets, so that commits of a queue keep their order |
//! | locks (orderly) | renews queue locks every 20 s |
//!
//! At least once: an offset is committed only when everything below it was processed, sent back or dead-lettered.
//! (DefaultMQPushConsumerImpl.java, RebalanceImpl.java, ConsumeMessage*Service.java)

mod assigned;
mod committer;
mod deliver;
mod locks;
mod pull;
mod rebalancing;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_channel::mpsc;

use self::assigned::Assigned;
use self::committer::{CommitRequest, LocalOffsets};
use self::deliver::Work;
use super::Verdict;
use super::calls::ConsumerHeartbeat;
use super::config::{ConsumeOrder, ConsumerConfig, MessageModel, ProducerConfig};
use super::error::StartError;
use super::instance::{Client, ClientCore, GroupMember, lock};
use super::message::{MessageView, is_name, retry_topic};
use super::observer::{RevokeReason, Session};
use super::sending::Sending;
use super::signal::{Ringer, WorkQueue, bell};
use super::subscription::Subscription;
use crate::runtime::{Runtime, TaskSet};
use crate::types::MessageQueue;

/// Group in whose name a consumer puts a message back itself. Java: `CLIENT_INNER_PRODUCER_GROUP`.
const INNER_PRODUCER_GROUP: &str = "CLIENT_INNER_PRODUCER";

/// What the application does with messages.
pub trait Listener: Send + Sync + 'static {
    /// Processes one or more messages of one queue. Must end within `consume_timeout`: after that it is dropped, as if it
    /// had answered [`Verdict::Later`].
    fn consume(&self, messages: &[MessageView]) -> impl Future<Output = Verdict> + Send;
}

/// A listener that is a function of owned messages.
pub struct ListenerFn<F>(pub F);

impl<F, T> Listener for ListenerFn<F>
where
    F: Fn(Vec<MessageView>) -> T + Send + Sync + 'static,
    T: Future<Output = Verdict> + Send,
{
    fn consume(&self, messages: &[MessageView]) -> impl Future<Output = Verdict> + Send {
        (self.0)(messages.to_vec())
    }
}

/// A running consumer. Dropping it ends it at once, as a crash would: what is not committed comes again.
pub struct PushConsumer<R: Runtime> {
    core: Arc<ConsumerCore<R>>,
    registration: u64,
    tasks: Mutex<Tasks<R>>,
    /// Keeps the shared tasks alive.
    _client: Client<R>,
}

struct Tasks<R: Runtime> {
    rebalance: TaskSet<R>,
    workers: TaskSet<R>,
    others: TaskSet<R>,
}

/// What the tasks of one consumer share.
pub(super) struct ConsumerCore<R: Runtime> {
    client: Arc<ClientCore<R>>,
    config: ConsumerConfig,
    /// By topic, the retry topic included.
    subscriptions: BTreeMap<String, Subscription>,
    subscription_version: i64,
    queues: Mutex<Queues<R>>,
    work: WorkQueue<Work>,
    rebalance: Ringer,
    commits: mpsc::Sender<CommitRequest>,
    local_offsets: Option<LocalOffsets>,
    /// For messages that the broker does not take back.
    resending: Sending<R>,
    is_shut_down: AtomicBool,
}

/// The queues in hand and the tasks that serve them.
struct Queues<R: Runtime> {
    held: BTreeMap<MessageQueue, Held<R>>,
    /// Revoked, and still committing, unlocking or finishing a delivery. Not assigned again before that is over.
    releasing: BTreeMap<MessageQueue, Arc<Assigned>>,
    /// Positions moved by the broker: queue, session, new offset.
    moved: Vec<(MessageQueue, u64, i64)>,
    /// Tasks that end sessions.
    releases: TaskSet<R>,
    /// Messages that wait here to be delivered again.
    retries: TaskSet<R>,
}

struct Held<R: Runtime> {
    assigned: Arc<Assigned>,
    /// Dropping it ends the pull.
    _pull: R::Task<()>,
    /// Orderly: the task that calls the listener; ends by itself after revocation.
    deliver: Option<R::Task<()>>,
}

impl<R: Runtime> PushConsumer<R> {
    /// Joins the group and begins to pull.
    pub async fn start<L: Listener>(
        client: &Client<R>,
        config: ConsumerConfig,
        listener: L,
    ) -> Result<PushConsumer<R>, StartError> {
        check(&config)?;
        let client_core = client.core().clone();
        let rt = client_core.rt.clone();
        let local_offsets = match &config.model {
            MessageModel::Clustering => None,
            MessageModel::Broadcasting { offsets } => Some(LocalOffsets::open(&rt, offsets).await?),
        };
        let (rebalance, rebalance_bell) = bell();
        let (commits, commit_requests) = mpsc::channel(0);
        let core = Arc::new(ConsumerCore {
            resending: Sending::new(client_core.clone(), ProducerConfig::new(INNER_PRODUCER_GROUP)),
            subscriptions: subscriptions(&config),
            subscription_version: rt.wall().0,
            queues: Mutex::new(Queues {
                held: BTreeMap::new(),
                releasing: BTreeMap::new(),
                moved: Vec::new(),
                releases: TaskSet::new(),
                retries: TaskSet::new(),
            }),
            work: WorkQueue::new(),
            rebalance,
            commits,
            local_offsets,
            is_shut_down: AtomicBool::new(false),
            client: client_core.clone(),
            config,
        });
        let registration = client_core.add_consumer(&core.config.group, core.clone())?;
        let mut tasks = Tasks {
            rebalance: TaskSet::new(),
            workers: TaskSet::new(),
            others: TaskSet::new(),
        };
        let listener = Arc::new(listener);
        tasks
            .others
            .spawn(&rt, "consumer-commit", committer::run(core.clone(), commit_requests));
        match core.config.order {
            ConsumeOrder::Concurrent => {
                for _ in 0..core.config.concurrency {
                    let worker = deliver::work(core.clone(), listener.clone());
                    tasks.workers.spawn(&rt, "consumer-worker", worker);
                }
            }
            ConsumeOrder::Orderly if core.config.is_clustering() => {
                tasks.others.spawn(&rt, "consumer-locks", locks::run(core.clone()));
            }
            ConsumeOrder::Orderly => {}
        }
        let run = rebalancing::run(core.clone(), rebalance_bell, listener);
        tasks.rebalance.spawn(&rt, "consumer-rebalance", run);
        Ok(PushConsumer {
            core,
            registration,
            tasks: Mutex::new(tasks),
            _client: client.clone(),
        })
    }

    /// The queues in hand now, sorted.
    pub fn assignment(&self) -> Vec<MessageQueue> {
        lock(&self.core.queues).held.keys().cloned().collect()
    }

    /// Ends in order: no more pulls, running listener calls get `shutdown_grace`, offsets are committed, queues unlocked,
    /// and the brokers told that this member is gone.
    pub async fn shutdown(&self) {
        let rt = &self.core.client.rt;
        self.core.is_shut_down.store(true, Ordering::SeqCst);
        let mut tasks = {
            let mut tasks = lock(&self.tasks);
            Tasks {
                rebalance: std::mem::take(&mut tasks.rebalance),
                workers: std::mem::take(&mut tasks.workers),
                others: std::mem::take(&mut tasks.others),
            }
        };
        tasks.rebalance.shutdown().await;
        self.core.work.close();
        let grace = self.core.config.shutdown_grace;
        if rt.timeout(grace, tasks.workers.join()).await.is_err() {
            log::warn!("{}: listener calls still run after {grace:?}", self.core.config.group);
        }
        for queue in self.assignment() {
            self.core.revoke(&queue, RevokeReason::Shutdown);
        }
        let mut releasing = std::mem::take(&mut lock(&self.core.queues).releases);
        let _ = rt
            .timeout(grace + self.core.client.config.call_timeout, releasing.join())
            .await;
        releasing.shutdown().await;
        tasks.workers.shutdown().await;
        tasks.others.shutdown().await;
        self.core.save_local_offsets().await;
        let group = &self.core.config.group;
        self.core.client.remove_consumer(group, self.registration).await;
    }
}

impl<R: Runtime> Drop for PushConsumer<R> {
    fn drop(&mut self) {
        self.core.is_shut_down.store(true, Ordering::SeqCst);
        self.core.work.close();
        let mut queues = lock(&self.core.queues);
        // Their tasks hold the core: take them out to break the circle.
        let held = std::mem::take(&mut queues.held);
        let releases = std::mem::take(&mut queues.releases);
        let retries = std::mem::take(&mut queues.retries);
        drop(queues);
        drop((held, releases, retries));
        self.core
            .client
            .forget_consumer(&self.core.config.group, self.registration);
    }
}

impl<R: Runtime> ConsumerCore<R> {
    fn session<'a>(&'a self, assigned: &'a Assigned) -> Session<'a> {
        assigned.session(&self.client.client_id, &self.config.group, self.config.is_orderly())
    }

    /// True if queues are locked on the broker before they are consumed.
    fn is_locking(&self) -> bool {
        self.config.is_orderly() && self.config.is_clustering()
    }

    fn is_shut_down(&self) -> bool {
        self.is_shut_down.load(Ordering::SeqCst)
    }

    /// The consumer of `messages` as brokers configure it: deliveries after which a message is given up.
    fn reconsume_count_max(&self) -> i32 {
        let default = if self.config.is_orderly() { i32::MAX } else { 16 };
        self.config.reconsume_count_max.unwrap_or(default)
    }
}

impl<R: Runtime> GroupMember for ConsumerCore<R> {
    fn heartbeat(&self) -> ConsumerHeartbeat {
        ConsumerHeartbeat {
            group: self.config.group.clone(),
            is_broadcasting: !self.config.is_clustering(),
            start_from: self.config.start_from,
            subscriptions: self.subscriptions.values().cloned().collect(),
            version: self.subscription_version,
        }
    }

    fn rebalance_soon(&self) {
        self.rebalance.ring();
    }

    fn reset_offsets(&self, topic: &str, offsets: &BTreeMap<MessageQueue, i64>) {
        let mut queues = lock(&self.queues);
        let moved: Vec<_> = offsets
            .iter()
            .filter(|(queue, _)| queue.topic == topic)
            .filter_map(|(queue, offset)| {
                let held = queues.held.get(queue)?;
                Some((queue.clone(), held.assigned.session_id, *offset))
            })
            .collect();
        queues.moved.extend(moved);
        drop(queues);
        self.rebalance.ring();
    }
}

fn subscriptions(config: &ConsumerConfig) -> BTreeMap<String, Subscription> {
    let mut subscriptions: BTreeMap<String, Subscription> = config
        .subscriptions
        .iter()
        .map(|subscription| (subscription.topic.clone(), subscription.clone()))
        .collect();
    if config.is_clustering() {
        let topic = retry_topic(&config.group);
        subscriptions.insert(topic.clone(), Subscription::all(topic));
    }
    subscriptions
}

fn check(config: &ConsumerConfig) -> Result<(), StartError> {
    if !is_name(&config.group) {
        return Err(StartError::BadGroup(config.group.clone()));
    }
    let bad = |setting, reason: &str| StartError::BadSetting {
        setting,
        reason: reason.to_owned(),
    };
    if config.subscriptions.is_empty() {
        return Err(bad("subscriptions", "a consumer needs at least one topic"));
    }
    if config
        .subscriptions
        .iter()
        .any(|subscription| !is_name(&subscription.topic))
    {
        return Err(bad("subscriptions", "a topic name is not valid"));
    }
    if !(1..=1024).contains(&config.concurrency) {
        return Err(bad("concurrency", "1 to 1024 are allowed"));
    }
    if !(1..=1024).contains(&config.batch_count_max) {
        return Err(bad("batch_count_max", "1 to 1024 are allowed"));
    }
    if !(1..=1024).contains(&config.pull_count_max) {
        return Err(bad("pull_count_max", "1 to 1024 are allowed"));
    }
    if config.pull_timeout <= config.pull_suspend {
        return Err(bad("pull_timeout", "must be longer than pull_suspend"));
    }
    if config.lock_validity <= config.lock_interval {
        return Err(bad("lock_validity", "must be longer than lock_interval"));
    }
    Ok(())
}
