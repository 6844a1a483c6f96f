//! Renews the queue locks of an orderly consumer.
//!
//! A lock counts for 30 s of our own monotonic clock from *before* it was asked for; the broker's lease is 60 s from when it
//! granted it. As long as the two clocks do not drift apart by half, no other member can have the queue while we believe in
//! our lock. A lock that has lapsed is lost, even if the broker then grants it again: somebody may have been in between.
//! (RebalanceImpl.lockAll, ProcessQueue.isLockExpired)

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::ConsumerCore;
use super::assigned::Assigned;
use crate::client::calls::by_master;
use crate::client::instance::lock;
use crate::client::observer::{Lock, LockChange};
use crate::client::route::Address;
use crate::runtime::{Mono, Runtime};
use crate::types::{Map, MessageQueue};

/// Pause after a round in which a broker did not answer: the lock still counts for a while.
const RETRY_DELAY: Duration = Duration::from_secs(2);

pub(super) async fn run<R: Runtime>(core: Arc<ConsumerCore<R>>) {
    let mut delay = core.config.lock_interval;
    loop {
        core.client.rt.sleep(delay).await;
        delay = match core.renew_locks().await {
            true => core.config.lock_interval,
            false => RETRY_DELAY.min(core.config.lock_interval),
        };
    }
}

impl<R: Runtime> ConsumerCore<R> {
    /// Takes locks for queues that are about to be assigned; returns until when each granted one counts.
    pub(super) async fn take_locks(&self, queues: &[MessageQueue]) -> Map<MessageQueue, Mono> {
        let groups = by_master(&self.client, queues.iter().cloned());
        let calls = groups.into_iter().map(|(broker, queues)| self.lock_on(broker, queues));
        join_all(calls).await.into_iter().flatten().flatten().collect()
    }

    /// Asks one broker; `None` if it did not answer. The time counts from before the request.
    async fn lock_on(&self, broker: Address, queues: Vec<MessageQueue>) -> Option<Vec<(MessageQueue, Mono)>> {
        let until = self.client.rt.mono() + self.config.lock_validity;
        let result = self
            .client
            .lock_queues(&broker, &self.config.group, queues.clone())
            .await;
        let granted = match result {
            Ok(granted) => granted,
            Err(error) => {
                log::debug!("{}: locks on {broker}: {error}", self.config.group);
                return None;
            }
        };
        let mut held = Vec::new();
        for queue in queues {
            if granted.contains(&queue) {
                self.tell_lock(&queue, LockChange::Granted { until });
                held.push((queue, until));
            } else {
                self.tell_lock(&queue, LockChange::Refused);
            }
        }
        Some(held)
    }

    /// True if every broker answered.
    async fn renew_locks(&self) -> bool {
        let held: Vec<Arc<Assigned>> = {
            let now = self.client.rt.mono();
            let queues = lock(&self.queues);
            let held = queues.held.values().map(|held| &held.assigned);
            let all = held.chain(queues.releasing.values());
            // What has lapsed is not asked for again: it is given up first.
            all.filter(|assigned| assigned.state().is_locked(now))
                .cloned()
                .collect()
        };
        let by_queue: Map<MessageQueue, Arc<Assigned>> = held
            .into_iter()
            .map(|assigned| (assigned.queue.clone(), assigned))
            .collect();
        let mut names: Vec<MessageQueue> = by_queue.keys().cloned().collect();
        names.sort();
        let groups = by_master(&self.client, names);
        let rounds = groups
            .into_iter()
            .map(|(broker, queues)| self.renew_on(broker, queues, &by_queue));
        join_all(rounds).await.into_iter().all(|is_answered| is_answered)
    }

    /// Renews the locks of one broker. True if it answered; what it did not grant again is lost.
    async fn renew_on(
        &self,
        broker: Address,
        queues: Vec<MessageQueue>,
        by_queue: &Map<MessageQueue, Arc<Assigned>>,
    ) -> bool {
        let Some(granted) = self.lock_on(broker, queues.clone()).await else {
            return false;
        };
        let granted: Map<MessageQueue, Mono> = granted.into_iter().collect();
        for queue in queues {
            let assigned = &by_queue[&queue];
            let is_kept = granted.get(&queue).is_some_and(|until| self.renew(assigned, *until));
            if !is_kept {
                assigned.state().locked_until = None;
                self.rebalance.ring();
            }
        }
        true
    }

    fn renew(&self, assigned: &Assigned, until: Mono) -> bool {
        assigned.state().renew(self.client.rt.mono(), until)
    }

    /// Gives a lock back.
    pub(super) async fn unlock(&self, queue: &MessageQueue) {
        let Ok(broker) = self.client.master_of(queue) else {
            return;
        };
        self.tell_lock(queue, LockChange::Released);
        let result = self
            .client
            .unlock_queues(&broker, &self.config.group, vec![queue.clone()])
            .await;
        if let Err(error) = result {
            log::debug!("{}: unlock of {queue:?}: {error}", self.config.group);
        }
    }

    pub(super) fn tell_lock(&self, queue: &MessageQueue, change: LockChange) {
        self.client.observer().locked(&Lock {
            client_id: &self.client.client_id,
            group: &self.config.group,
            queue,
            change,
        });
    }
}
