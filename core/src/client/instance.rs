//! What the producers and consumers of one process share: connections, routes, heartbeats and the client id.
//!
//! | task | does |
//! |---|---|
//! | route poll | every 30 s asks one name server for every topic in use; at once for a topic that is new |
//! | heartbeat | every 30 s, and when a broker or a group is new: tells every broker which groups live here |
//!
//! Not here: what is sent or consumed. Requests that brokers make (a group's members changed, offsets were reset) are
//! handed to the consumer of that group. (MQClientInstance.java, ClientRemotingProcessor.java)

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::{FutureExt, future::join_all, select_biased};

use super::calls::{ConsumerHeartbeat, Heartbeat};
use super::config::{ClientConfig, NAME_SERVER_COUNT_MAX};
use super::error::{RequestError, StartError};
use super::observer::Observer;
use super::route::{Address, MASTER_ID, Route, RouteData};
use super::signal::{Bell, Ringer, bell};
use super::unique_id::UniqueIds;
use crate::protocol::code::response;
use crate::remoting::Connections;
use crate::runtime::{Runtime, TaskSet};
use crate::types::{Map, MessageQueue};

/// Pause before a broker that did not answer a heartbeat gets another: once it is back it should know us at once.
const SILENT_BROKER_RETRY: Duration = Duration::from_secs(2);

/// A handle to the shared parts; clones share them. When the last one, its producers and its consumers are gone, its
/// tasks end; [`shutdown`](Client::shutdown) also tells the brokers.
pub struct Client<R: Runtime> {
    core: Arc<ClientCore<R>>,
    tasks: Arc<Mutex<TaskSet<R>>>,
}

impl<R: Runtime> Clone for Client<R> {
    fn clone(&self) -> Self {
        Client {
            core: self.core.clone(),
            tasks: self.tasks.clone(),
        }
    }
}

impl<R: Runtime> Client<R> {
    /// Starts the shared tasks. Nothing is sent before a producer, a consumer or an admin asks for it.
    pub fn start(rt: &R, config: ClientConfig) -> Result<Client<R>, StartError> {
        match config.name_servers.len() {
            0 => return Err(StartError::NoNameServer),
            count if count > NAME_SERVER_COUNT_MAX => return Err(StartError::TooManyNameServers { count }),
            _ => {}
        }
        let (heartbeat, heartbeat_bell) = bell();
        let core = Arc::new_cyclic(|core| ClientCore::new(rt, config, heartbeat, core.clone()));
        let mut tasks = TaskSet::new();
        tasks.spawn(rt, "client-routes", poll_routes(core.clone()));
        tasks.spawn(rt, "client-heartbeat", beat(core.clone(), heartbeat_bell));
        Ok(Client {
            core,
            tasks: Arc::new(Mutex::new(tasks)),
        })
    }

    /// `address@instance`, as brokers know this client.
    pub fn id(&self) -> &str {
        &self.core.client_id
    }

    /// Takes every group off the brokers and ends the shared tasks. Shut producers and consumers down before.
    pub async fn shutdown(&self) {
        self.core.is_shut_down.store(true, Ordering::SeqCst);
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        tasks.shutdown().await;
        let (producers, consumers) = {
            let tables = self.core.tables();
            let consumers = tables
                .consumers
                .iter()
                .map(|(group, (number, _))| (group.clone(), *number));
            let consumers: Vec<(String, u64)> = consumers.collect();
            (tables.producers.clone(), consumers)
        };
        for (group, registration) in producers {
            self.core.remove_producer(&group, registration).await;
        }
        for (group, registration) in consumers {
            self.core.remove_consumer(&group, registration).await;
        }
        self.core.connections.shutdown().await;
    }

    pub(super) fn core(&self) -> &Arc<ClientCore<R>> {
        &self.core
    }
}

/// The consumer of a group, as the shared parts see it.
pub(super) trait GroupMember: Send + Sync {
    fn heartbeat(&self) -> ConsumerHeartbeat;
    /// Members or queues have changed: rebalance now.
    fn rebalance_soon(&self);
    /// An administrator moved the offsets of a topic.
    fn reset_offsets(&self, topic: &str, offsets: &BTreeMap<MessageQueue, i64>);
}

/// The shared parts.
pub(super) struct ClientCore<R: Runtime> {
    pub(super) rt: R,
    pub(super) config: ClientConfig,
    pub(super) client_id: String,
    pub(super) connections: Connections<R>,
    pub(super) unique_ids: UniqueIds,
    tables: Mutex<Tables>,
    /// Index of the name server in use.
    pub(super) name_server: AtomicUsize,
    heartbeat: Ringer,
    is_shut_down: AtomicBool,
    next_number: AtomicU64,
}

#[derive(Default)]
struct Tables {
    routes: Map<String, Arc<Route>>,
    /// Topics being asked for, with those who wait for the answer.
    fetching: BTreeMap<String, Vec<RouteWaiter>>,
    /// Producer groups, with the number of their registration.
    producers: BTreeMap<String, u64>,
    /// Consumers by group, with the number of their registration.
    consumers: BTreeMap<String, (u64, Arc<dyn GroupMember>)>,
    /// Brokers that have had a heartbeat.
    beaten: BTreeSet<Address>,
}

type RouteWaiter = oneshot::Sender<Result<Arc<Route>, RequestError>>;

/// A topic and the number of queues to assume for one that does not exist.
#[derive(Clone, Copy)]
pub(super) struct Template<'a> {
    pub(super) topic: &'a str,
    pub(super) queue_count: i32,
}

impl<R: Runtime> ClientCore<R> {
    fn new(rt: &R, config: ClientConfig, heartbeat: Ringer, core: Weak<ClientCore<R>>) -> ClientCore<R> {
        let instance = match &config.instance {
            Some(instance) => instance.clone(),
            None => format!("{:016x}", rt.random_u64()),
        };
        let first_server = rt.random_u64() % config.name_servers.len() as u64;
        ClientCore {
            rt: rt.clone(),
            client_id: format!("{}@{instance}", config.address),
            connections: Connections::new(rt.clone(), Arc::new(super::inbound::Requests::new(core))),
            unique_ids: UniqueIds::new(config.address, rt.random_u64()),
            tables: Mutex::default(),
            name_server: AtomicUsize::new(first_server as usize),
            heartbeat,
            is_shut_down: AtomicBool::new(false),
            next_number: AtomicU64::new(1),
            config,
        }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        lock(&self.tables)
    }

    pub(super) fn observer(&self) -> &dyn Observer {
        &*self.config.observer
    }

    /// Numbers for sends, sessions, deliveries and commits, unique within the client.
    pub(super) fn number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn check_running(&self) -> Result<(), StartError> {
        if self.is_shut_down.load(Ordering::SeqCst) {
            return Err(StartError::ShutDown);
        }
        Ok(())
    }

    /// A connection is gone: the broker, or its restarted successor, must hear of our groups again.
    pub(super) fn connection_lost(&self, address: &str) {
        if self.tables().beaten.contains(address) {
            self.heartbeat_soon();
        }
    }

    pub(super) fn heartbeat_soon(&self) {
        self.heartbeat.ring();
    }

    pub(super) fn member(&self, group: &str) -> Option<Arc<dyn GroupMember>> {
        let tables = self.tables();
        tables.consumers.get(group).map(|(_, member)| member.clone())
    }

    /// Registers a producer group and returns the number of the registration.
    pub(super) fn add_producer(&self, group: &str) -> Result<u64, StartError> {
        self.check_running()?;
        let registration = self.number();
        {
            let mut tables = self.tables();
            if tables.producers.contains_key(group) {
                return Err(taken("producer", group));
            }
            tables.producers.insert(group.to_owned(), registration);
        }
        self.heartbeat_soon();
        Ok(registration)
    }

    /// Registers the consumer of a group and returns the number of the registration.
    pub(super) fn add_consumer(&self, group: &str, member: Arc<dyn GroupMember>) -> Result<u64, StartError> {
        self.check_running()?;
        let mut tables = self.tables();
        if tables.consumers.contains_key(group) {
            return Err(taken("consumer", group));
        }
        let registration = self.number();
        tables.consumers.insert(group.to_owned(), (registration, member));
        Ok(registration)
    }

    pub(super) async fn remove_producer(&self, group: &str, registration: u64) {
        if self.forget_producer(group, registration) {
            self.unregister(Some(group), None).await;
        }
    }

    pub(super) async fn remove_consumer(&self, group: &str, registration: u64) {
        if self.forget_consumer(group, registration) {
            self.unregister(None, Some(group)).await;
        }
    }

    /// Takes a consumer out of the heartbeats without telling the brokers. False if it is not there any more.
    pub(super) fn forget_consumer(&self, group: &str, registration: u64) -> bool {
        let mut tables = self.tables();
        let is_current = tables
            .consumers
            .get(group)
            .is_some_and(|(number, _)| *number == registration);
        if is_current {
            tables.consumers.remove(group);
        }
        is_current
    }

    /// Takes a producer out of the heartbeats without telling the brokers. False if it is not there any more.
    pub(super) fn forget_producer(&self, group: &str, registration: u64) -> bool {
        let mut tables = self.tables();
        let is_current = tables.producers.get(group) == Some(&registration);
        if is_current {
            tables.producers.remove(group);
        }
        is_current
    }

    async fn unregister(&self, producer_group: Option<&str>, consumer_group: Option<&str>) {
        let brokers = self.tables().beaten.clone();
        let calls = brokers
            .iter()
            .map(|broker| self.unregister_client(broker, producer_group, consumer_group));
        for result in join_all(calls).await {
            if let Err(error) = result {
                log::debug!("unregister: {error}");
            }
        }
    }

    /// The route of a topic, asked for if it is not known yet.
    pub(super) async fn route(&self, topic: &str, template: Option<Template<'_>>) -> Result<Arc<Route>, RequestError> {
        let known = self.tables().routes.get(topic).cloned();
        match known {
            Some(route) => Ok(route),
            None => self.fetch_route(topic, template).await,
        }
    }

    /// The route of a topic if it is known.
    pub(super) fn known_route(&self, topic: &str) -> Option<Arc<Route>> {
        self.tables().routes.get(topic).cloned()
    }

    /// Asks a name server, once for all who ask at the same time.
    pub(super) async fn fetch_route(
        &self,
        topic: &str,
        template: Option<Template<'_>>,
    ) -> Result<Arc<Route>, RequestError> {
        let waiting = {
            let mut tables = self.tables();
            match tables.fetching.get_mut(topic) {
                Some(waiters) => {
                    let (sender, receiver) = oneshot::channel();
                    waiters.push(sender);
                    Some(receiver)
                }
                None => {
                    tables.fetching.insert(topic.to_owned(), Vec::new());
                    None
                }
            }
        };
        if let Some(waiting) = waiting {
            match waiting.await {
                Ok(Ok(route)) => return Ok(route),
                Ok(Err(error)) if template.is_none() => return Err(error),
                // Who asked had no template, or has ended: ask for ourselves.
                _ => {
                    let data = self.ask_route_or_template(topic, template).await?;
                    return Ok(self.learn(topic, data));
                }
            }
        }
        let fetching = Fetching { core: self, topic };
        let result = match self.ask_route_or_template(topic, template).await {
            Ok(data) => Ok(self.learn(topic, data)),
            Err(error) => Err(error),
        };
        for waiter in fetching.waiters() {
            let _ = waiter.send(result.clone());
        }
        result
    }

    async fn ask_route_or_template(
        &self,
        topic: &str,
        template: Option<Template<'_>>,
    ) -> Result<RouteData, RequestError> {
        let result = self.ask_route(topic).await;
        match (result, template) {
            (Err(error), Some(template)) if error.code() == Some(response::TOPIC_NOT_EXIST) => {
                let data = self.ask_route(template.topic).await?;
                Ok(data.as_template(template.queue_count))
            }
            (result, _) => result,
        }
    }

    /// Puts an answer into the table; wakes consumers whose queues have changed and the heartbeat for new brokers.
    fn learn(&self, topic: &str, data: RouteData) -> Arc<Route> {
        let mut tables = self.tables();
        let known = tables.routes.get(topic);
        if let Some(route) = known.filter(|route| route.data == data) {
            return route.clone();
        }
        let first = known.map_or_else(|| self.rt.random_u64() as usize, |route| route.position());
        let is_change = known.is_some();
        let route = Arc::new(Route::new(topic, data, first));
        let has_new_broker = addresses(&route.data).any(|(_, address)| !tables.beaten.contains(address));
        tables.routes.insert(topic.to_owned(), route.clone());
        let members: Vec<_> = match is_change {
            true => tables.consumers.values().map(|(_, member)| member.clone()).collect(),
            false => Vec::new(),
        };
        drop(tables);
        members.iter().for_each(|member| member.rebalance_soon());
        if has_new_broker {
            self.heartbeat_soon();
        }
        route
    }

    /// Tells every known broker which groups live here: masters always, slaves only for consumers. Returns those that did
    /// not answer.
    pub(super) async fn heartbeat_now(&self) -> BTreeSet<Address> {
        let brokers = {
            let tables = self.tables();
            let wanted = |id| id == MASTER_ID || !tables.consumers.is_empty();
            let all = tables.routes.values().flat_map(|route| addresses(&route.data));
            let wanted = all.filter(|(id, _)| wanted(*id));
            wanted.map(|(_, address)| address.clone()).collect()
        };
        self.heartbeat_to(brokers).await
    }

    async fn heartbeat_to(&self, brokers: BTreeSet<Address>) -> BTreeSet<Address> {
        let heartbeat = {
            let tables = self.tables();
            Heartbeat {
                client_id: self.client_id.clone(),
                producers: tables.producers.keys().cloned().collect(),
                consumers: tables
                    .consumers
                    .values()
                    .map(|(_, member)| member.heartbeat())
                    .collect(),
            }
        };
        if heartbeat.producers.is_empty() && heartbeat.consumers.is_empty() {
            return BTreeSet::new();
        }
        let calls = brokers.iter().map(|broker| self.send_heartbeat(broker, &heartbeat));
        let results = join_all(calls).await;
        let mut silent = BTreeSet::new();
        for (broker, result) in brokers.into_iter().zip(results) {
            match result {
                Ok(()) => {
                    self.tables().beaten.insert(broker);
                }
                Err(error) => {
                    log::debug!("heartbeat to {broker}: {error}");
                    silent.insert(broker);
                }
            }
        }
        silent
    }

    fn topics(&self) -> Vec<String> {
        let mut topics: Vec<String> = self.tables().routes.keys().cloned().collect();
        topics.sort();
        topics
    }
}

/// Takes the entry of `fetching` away however the asking task ends.
struct Fetching<'a, R: Runtime> {
    core: &'a ClientCore<R>,
    topic: &'a str,
}

impl<R: Runtime> Fetching<'_, R> {
    fn waiters(&self) -> Vec<RouteWaiter> {
        self.core.tables().fetching.remove(self.topic).unwrap_or_default()
    }
}

impl<R: Runtime> Drop for Fetching<'_, R> {
    fn drop(&mut self) {
        drop(self.waiters());
    }
}

async fn poll_routes<R: Runtime>(core: Arc<ClientCore<R>>) {
    loop {
        core.rt.sleep(core.config.poll_name_server_interval).await;
        for topic in core.topics() {
            if let Err(error) = core.fetch_route(&topic, None).await {
                log::debug!("route of {topic}: {error}");
            }
        }
    }
}

async fn beat<R: Runtime>(core: Arc<ClientCore<R>>, mut bell: Bell) {
    loop {
        let mut silent = core.heartbeat_now().await;
        let due = core.rt.mono() + core.config.heartbeat_interval;
        loop {
            let left = due.since(core.rt.mono());
            if left.is_zero() {
                break;
            }
            let wait = if silent.is_empty() {
                left
            } else {
                left.min(SILENT_BROKER_RETRY)
            };
            select_biased! {
                () = bell.rung().fuse() => break,
                () = core.rt.sleep(wait).fuse() => silent = core.heartbeat_to(silent).await,
            }
        }
    }
}

fn addresses(data: &RouteData) -> impl Iterator<Item = (i64, &Address)> {
    let sets = data.brokers.values();
    sets.flat_map(|set| set.iter().map(|(id, address)| (*id, address)))
}

fn taken(kind: &'static str, group: &str) -> StartError {
    StartError::GroupTaken {
        kind,
        group: group.to_owned(),
    }
}

/// Locks a mutex; a panic of another holder is no reason to stop.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
