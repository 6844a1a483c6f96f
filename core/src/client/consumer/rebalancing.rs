//! Which queues this member holds: asks who else is there, takes its share, gives up the rest.
//!
//! A round never leaves a queue half taken: a queue is first released by its former holder in this process (delivery over,
//! offset committed, unlocked), then locked if orderly, then its committed offset is read, then it is pulled. Whatever is
//! missing (a route, an answer, a lock) is tried again after a second. (RebalanceImpl.java, RebalancePushImpl.java)

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, future::join_all, select_biased};

use super::assigned::{Assigned, Start};
use super::{ConsumerCore, Held, Listener, deliver, pull};
use crate::client::calls::Boundary;
use crate::client::config::StartFrom;
use crate::client::error::RequestError;
use crate::client::instance::lock;
use crate::client::message::RETRY_TOPIC_PREFIX;
use crate::client::observer::{LockChange, RevokeReason};
use crate::client::rebalance::allocate;
use crate::client::route::{MASTER_ID, Route};
use crate::client::signal::{Bell, bell};
use crate::client::subscription::Subscription;
use crate::runtime::{Mono, Runtime, site};
use crate::types::{Map, MessageQueue};

/// Pause after a round that could not finish.
const RETRY_DELAY: Duration = Duration::from_secs(1);

pub(super) async fn run<R: Runtime, L: Listener>(core: Arc<ConsumerCore<R>>, mut bell: Bell, listener: Arc<L>) {
    // Brokers must know this member before it asks who the members are.
    for topic in core.subscriptions.keys() {
        let _ = core.client.route(topic, None).await;
    }
    core.client.heartbeat_now().await;
    loop {
        let delay = match core.round(&listener).await {
            true => core.config.rebalance_interval,
            false => RETRY_DELAY,
        };
        select_biased! {
            () = bell.rung().fuse() => {}
            () = core.client.rt.sleep(delay).fuse() => {}
        }
    }
}

impl<R: Runtime> ConsumerCore<R> {
    /// One rebalance of every topic. False if something was missing.
    async fn round<L: Listener>(self: &Arc<Self>, listener: &Arc<L>) -> bool {
        self.revoke_moved();
        self.revoke_unlocked();
        let mut is_complete = true;
        for subscription in self.subscriptions.values() {
            is_complete &= self.round_of(subscription, listener).await;
        }
        is_complete
    }

    async fn round_of<L: Listener>(self: &Arc<Self>, subscription: &Subscription, listener: &Arc<L>) -> bool {
        let route = match self.client.route(&subscription.topic, None).await {
            Ok(route) => route,
            Err(error) => {
                log::debug!("{}: route of {}: {error}", self.config.group, subscription.topic);
                return false;
            }
        };
        let Some(share) = self.share(&route).await else {
            return false;
        };
        let (surplus, missing, is_waiting) = {
            let queues = lock(&self.queues);
            let is_surplus = |queue: &&MessageQueue| queue.topic == subscription.topic && !share.contains(queue);
            let surplus: Vec<MessageQueue> = queues.held.keys().filter(is_surplus).cloned().collect();
            let is_free = |queue: &&MessageQueue| !queues.releasing.contains_key(queue);
            let wanted = share.iter().filter(|queue| !queues.held.contains_key(queue));
            let missing: Vec<MessageQueue> = wanted.clone().filter(is_free).cloned().collect();
            (surplus, missing.clone(), missing.len() < wanted.count())
        };
        for queue in surplus {
            self.revoke(&queue, RevokeReason::Rebalance);
        }
        let is_all_taken = missing.is_empty() || self.assign(subscription, missing, listener).await;
        is_all_taken && !is_waiting
    }

    /// The queues of a topic that are ours, or `None` if that cannot be known now.
    async fn share(&self, route: &Route) -> Option<Vec<MessageQueue>> {
        if !self.config.is_clustering() {
            return Some(route.subscribe.clone());
        }
        let members = self.members(route).await?;
        let share = allocate(
            self.config.allocation,
            &route.subscribe,
            &members,
            &self.client.client_id,
        );
        if share.is_none() {
            // The broker has forgotten us, or has not heard of us yet.
            self.client.heartbeat_now().await;
        }
        share
    }

    /// The members of the group, as the first broker of the topic that answers knows them. Asking the same broker first as
    /// all others do makes their views agree.
    async fn members(&self, route: &Route) -> Option<Vec<String>> {
        for addresses in route.data.brokers.values() {
            let Some(broker) = addresses.get(&MASTER_ID).or_else(|| addresses.values().next()) else {
                continue;
            };
            match self.client.consumer_ids(broker, &self.config.group).await {
                Ok(members) => return Some(members),
                Err(error) => log::debug!("{}: members on {broker}: {error}", self.config.group),
            }
        }
        self.client.heartbeat_soon();
        None
    }

    /// Takes queues: lock, start offset, pull. False if one could not be taken.
    async fn assign<L: Listener>(
        self: &Arc<Self>,
        subscription: &Subscription,
        queues: Vec<MessageQueue>,
        listener: &Arc<L>,
    ) -> bool {
        let count = queues.len();
        let (locks, queues) = if self.is_locking() {
            let locks = self.take_locks(&queues).await;
            let locked: Vec<MessageQueue> = queues.into_iter().filter(|queue| locks.contains_key(queue)).collect();
            (locks, locked)
        } else {
            (Map::default(), queues)
        };
        let offsets = join_all(queues.iter().map(|queue| self.start_offset(queue))).await;
        let mut taken_count = 0;
        for (queue, offset) in queues.into_iter().zip(offsets) {
            match offset {
                Ok(offset) => {
                    let locked_until = locks.get(&queue).copied();
                    self.hold(subscription, queue, offset, locked_until, listener);
                    taken_count += 1;
                }
                Err(error) => log::debug!("{}: start offset of {queue:?}: {error}", self.config.group),
            }
        }
        taken_count == count
    }

    fn hold<L: Listener>(
        self: &Arc<Self>,
        subscription: &Subscription,
        queue: MessageQueue,
        offset: i64,
        locked_until: Option<Mono>,
        listener: &Arc<L>,
    ) {
        let rt = &self.client.rt;
        let (room, room_bell) = bell();
        let (work, work_bell) = bell();
        let start = Start {
            session_id: self.client.number(),
            queue: queue.clone(),
            offset,
            locked_until,
        };
        let assigned = Arc::new(Assigned::new(start, room, work));
        let mut queues = lock(&self.queues);
        if self.is_shut_down() {
            return;
        }
        self.client.observer().assigned(&self.session(&assigned), offset);
        let pull = pull::run(self.clone(), assigned.clone(), subscription.clone(), room_bell);
        let deliver = self.config.is_orderly().then(|| {
            let serve = deliver::serve(self.clone(), assigned.clone(), listener.clone(), work_bell);
            rt.spawn("consumer-queue", serve)
        });
        let held = Held {
            _pull: rt.spawn("consumer-pull", pull),
            deliver,
            assigned,
        };
        queues.held.insert(queue, held);
    }

    /// Where to begin on a queue: the committed offset, else what the start policy says.
    async fn start_offset(&self, queue: &MessageQueue) -> Result<i64, RequestError> {
        let committed = if self.config.is_clustering() {
            let committed = match self.client.committed_offset(&self.config.group, queue).await {
                // Defect (RocketMQ 2708): no answer is taken for "nothing committed".
                Err(_) if site(&self.client.rt, "offset-error-reads-as-none") => None,
                answer => answer?,
            };
            self.client.observer().offset_read(&self.config.group, queue, committed);
            committed
        } else {
            self.local_offset(queue)
        };
        if let Some(offset) = committed {
            return Ok(offset);
        }
        let is_retry = queue.topic.starts_with(RETRY_TOPIC_PREFIX);
        match self.config.start_from {
            StartFrom::Last if is_retry => Ok(0),
            StartFrom::Last => self.client.max_offset(queue).await,
            StartFrom::First => Ok(0),
            StartFrom::Timestamp(_) if is_retry => self.client.max_offset(queue).await,
            StartFrom::Timestamp(time) => self.client.search_offset(queue, time, Boundary::Lower).await,
        }
    }

    fn revoke_moved(self: &Arc<Self>) {
        let moved = std::mem::take(&mut lock(&self.queues).moved);
        for (queue, session_id, to) in moved {
            let is_current = {
                let queues = lock(&self.queues);
                let held = queues.held.get(&queue);
                held.is_some_and(|held| held.assigned.session_id == session_id)
            };
            if is_current {
                self.revoke(&queue, RevokeReason::OffsetMoved { to });
            }
        }
    }

    /// Gives up orderly queues whose lock no longer counts.
    fn revoke_unlocked(self: &Arc<Self>) {
        if !self.is_locking() {
            return;
        }
        let now = self.client.rt.mono();
        let unlocked: Vec<MessageQueue> = {
            let queues = lock(&self.queues);
            let held = queues.held.iter();
            held.filter(|(_, held)| !held.assigned.state().is_locked(now))
                .map(|(queue, _)| queue.clone())
                .collect()
        };
        for queue in unlocked {
            self.tell_lock(&queue, LockChange::Lapsed);
            self.revoke(&queue, RevokeReason::LockLost);
        }
    }

    /// Ends a session: nothing starts any more; a task of its own finishes what is running, commits and unlocks.
    pub(super) fn revoke(self: &Arc<Self>, queue: &MessageQueue, reason: RevokeReason) {
        let mut queues = lock(&self.queues);
        let Some(held) = queues.held.remove(queue) else {
            return;
        };
        let assigned = held.assigned.clone();
        {
            let mut state = assigned.state();
            state.revoked = Some(reason);
            self.client.observer().revoked(&self.session(&assigned), reason);
        }
        assigned.work.ring();
        queues.releasing.insert(queue.clone(), assigned.clone());
        let release = release(self.clone(), assigned, held.deliver, reason);
        queues.releases.spawn(&self.client.rt, "consumer-release", release);
    }
}

async fn release<R: Runtime>(
    core: Arc<ConsumerCore<R>>,
    assigned: Arc<Assigned>,
    deliver: Option<R::Task<()>>,
    reason: RevokeReason,
) {
    // Defect (alibaba/RocketMQ 367): the next owner gets the queue while the listener still works.
    let is_early = core.is_locking() && reason != RevokeReason::LockLost && site(&core.client.rt, "unlock-before-done");
    if is_early {
        core.unlock(&assigned.queue).await;
    }
    if let Some(deliver) = deliver {
        let _ = deliver.await;
    }
    match reason {
        RevokeReason::LockLost => {}
        RevokeReason::OffsetMoved { to } => core.commit_now(&assigned, Some(to)).await,
        RevokeReason::Rebalance | RevokeReason::Shutdown => core.commit_now(&assigned, None).await,
    }
    if core.is_locking() && reason != RevokeReason::LockLost {
        core.unlock(&assigned.queue).await;
    }
    lock(&core.queues).releasing.remove(&assigned.queue);
    core.rebalance.ring();
}
