//! Calls the listener and deals with its verdict.
//!
//! | | success | later |
//! |---|---|---|
//! | concurrent | processed | stored by the broker for a later delivery (36), else sent to the retry topic, else kept here for 5 s |
//! | broadcasting | processed | dropped |
//! | orderly | processed | the queue pauses and delivers again; past the limit, to the dead letters |
//!
//! What a concurrent listener says about a queue that was revoked meanwhile is ignored: its next owner delivers again.
//! (ConsumeMessageConcurrentlyService.java, ConsumeMessageOrderlyService.java)

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, select_biased};

use super::assigned::Assigned;
use super::{ConsumerCore, Listener};
use crate::client::Verdict;
use crate::client::calls::SendBack;
use crate::client::instance::lock;
use crate::client::message::{Message, MessageView, retry_topic};
use crate::client::observer::{Delivery, SendBackOutcome};
use crate::client::sending::Target;
use crate::client::signal::Bell;
use crate::protocol::properties;
use crate::runtime::{Runtime, site};

/// Pause before a message that could not be put back is delivered here again. Java: 5 s.
const LOCAL_RETRY_DELAY: Duration = Duration::from_secs(5);
/// Delay level of the first delivery again; each later one is a level higher.
const FIRST_DELAY_LEVEL: i32 = 3;
/// Asks the broker to make a dead letter of a message at once.
const DEAD_LETTER_LEVEL: i32 = -1;

/// Messages for one call of a concurrent listener.
pub(super) struct Work {
    pub(super) assigned: Arc<Assigned>,
    pub(super) messages: Vec<MessageView>,
}

/// A worker of a concurrent consumer; ends when the work queue is closed.
pub(super) async fn work<R: Runtime, L: Listener>(core: Arc<ConsumerCore<R>>, listener: Arc<L>) {
    let begin = |work: &Work| core.begin(&work.assigned, &work.messages);
    while let Some((work, delivery_id)) = core.work.pop(begin).await {
        // Its queue was revoked.
        let Some(delivery_id) = delivery_id else { continue };
        let verdict = core.call(&*listener, delivery_id, &work.assigned, &work.messages).await;
        match verdict {
            _ if work.assigned.is_revoked() => {}
            Verdict::Success => work.assigned.processed(offsets(&work.messages)),
            Verdict::Later => core.put_back(delivery_id, work).await,
        }
    }
}

/// Serves one queue of an orderly consumer; ends once the queue is revoked and the delivery in progress is over.
pub(super) async fn serve<R: Runtime, L: Listener>(
    core: Arc<ConsumerCore<R>>,
    assigned: Arc<Assigned>,
    listener: Arc<L>,
    mut bell: Bell,
) {
    loop {
        let batch: Vec<MessageView> = {
            let state = assigned.state();
            if state.revoked.is_some() {
                return;
            }
            state
                .pending
                .iter()
                .take(core.config.batch_count_max)
                .cloned()
                .collect()
        };
        if batch.is_empty() {
            bell.rung().await;
            continue;
        }
        let Some(delivery_id) = core.begin(&assigned, &batch) else {
            // Revoked, or the lock has lapsed: the rebalance task takes the queue away, and perhaps takes it again.
            core.rebalance.ring();
            bell.rung().await;
            continue;
        };
        match core.call(&*listener, delivery_id, &assigned, &batch).await {
            Verdict::Success => finish_first(&assigned, &batch),
            Verdict::Later => {
                if !core.give_up(delivery_id, &assigned, &batch).await {
                    core.pause(&assigned, &mut bell).await;
                }
            }
        }
    }
}

/// Takes the first messages of an orderly queue off its head.
fn finish_first(assigned: &Assigned, batch: &[MessageView]) {
    assigned.state().pending.drain(..batch.len());
    assigned.processed(offsets(batch));
}

fn offsets(messages: &[MessageView]) -> impl Iterator<Item = i64> + '_ {
    messages.iter().map(|message| message.queue_offset)
}

impl<R: Runtime> ConsumerCore<R> {
    /// Lets a delivery start and returns its number, or `None` if it must not start.
    fn begin(&self, assigned: &Assigned, messages: &[MessageView]) -> Option<u64> {
        let state = assigned.state();
        if !state.may_deliver(self.client.rt.mono(), self.is_locking()) {
            return None;
        }
        let id = self.client.number();
        self.client.observer().delivery_started(&Delivery {
            id,
            session: self.session(assigned),
            messages,
        });
        Some(id)
    }

    /// Calls the listener. One that panics or takes too long says `Later`.
    async fn call<L: Listener>(
        &self,
        listener: &L,
        delivery_id: u64,
        assigned: &Assigned,
        messages: &[MessageView],
    ) -> Verdict {
        let call = AssertUnwindSafe(listener.consume(messages)).catch_unwind();
        let verdict = match self.client.rt.timeout(self.config.consume_timeout, call).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) => {
                log::error!("{}: the listener panicked", self.config.group);
                Verdict::Later
            }
            Err(_) => {
                log::error!(
                    "{}: the listener was dropped after {:?}",
                    self.config.group,
                    self.config.consume_timeout
                );
                Verdict::Later
            }
        };
        let delivery = Delivery {
            id: delivery_id,
            session: self.session(assigned),
            messages,
        };
        self.client.observer().delivery_ended(&delivery, verdict);
        verdict
    }

    /// Concurrent: every message goes back to the broker, or stays here for a while.
    async fn put_back(self: &Arc<Self>, delivery_id: u64, work: Work) {
        let mut kept = Vec::new();
        for message in work.messages {
            let outcome = match self.config.is_clustering() {
                false => SendBackOutcome::Dropped,
                true => self.send_back(&work.assigned, &message, 0).await,
            };
            self.tell_sent_back(delivery_id, &work.assigned, &message, outcome);
            match outcome {
                // Defect: a message that could be put back nowhere counts as consumed.
                SendBackOutcome::KeptLocally if site(&self.client.rt, "send-back-error-ignored") => {
                    work.assigned.processed([message.queue_offset]);
                }
                SendBackOutcome::KeptLocally => kept.push(message),
                _ => work.assigned.processed([message.queue_offset]),
            }
        }
        if kept.is_empty() {
            return;
        }
        for message in &mut kept {
            message.reconsume_times = message.reconsume_times.saturating_add(1);
        }
        let core = self.clone();
        let again = Work {
            assigned: work.assigned,
            messages: kept,
        };
        let retry = async move {
            core.client.rt.sleep(LOCAL_RETRY_DELAY).await;
            core.work.push(again);
        };
        lock(&self.queues)
            .retries
            .spawn(&self.client.rt, "consumer-retry", retry);
    }

    /// Orderly: messages past their limit become dead letters. True if that was all of them; else they are still first.
    async fn give_up(&self, delivery_id: u64, assigned: &Assigned, batch: &[MessageView]) -> bool {
        let limit = self.reconsume_count_max();
        let mut is_all_given_up = true;
        for message in batch {
            let outcome = if !self.config.is_clustering() {
                SendBackOutcome::Dropped
            } else if message.reconsume_times >= limit {
                self.send_back(assigned, message, DEAD_LETTER_LEVEL).await
            } else {
                SendBackOutcome::KeptLocally
            };
            self.tell_sent_back(delivery_id, assigned, message, outcome);
            is_all_given_up &= outcome != SendBackOutcome::KeptLocally;
        }
        if is_all_given_up {
            finish_first(assigned, batch);
            return true;
        }
        for message in assigned.state().pending.iter_mut().take(batch.len()) {
            message.reconsume_times = message.reconsume_times.saturating_add(1);
        }
        false
    }

    /// Lets a queue rest after a delivery that failed, unless it is revoked.
    async fn pause(&self, assigned: &Assigned, bell: &mut Bell) {
        let mut rest = std::pin::pin!(self.client.rt.sleep(self.config.orderly_suspend).fuse());
        while !assigned.is_revoked() {
            select_biased! {
                () = bell.rung().fuse() => {}
                () = rest => return,
            }
        }
    }

    fn tell_sent_back(&self, delivery_id: u64, assigned: &Assigned, message: &MessageView, outcome: SendBackOutcome) {
        let delivery = Delivery {
            id: delivery_id,
            session: self.session(assigned),
            messages: std::slice::from_ref(message),
        };
        self.client.observer().sent_back(&delivery, outcome);
    }

    /// Has a message stored for later by its broker, or sends it to the retry topic itself.
    async fn send_back(&self, assigned: &Assigned, message: &MessageView, delay_level: i32) -> SendBackOutcome {
        let limit = self.reconsume_count_max();
        let back = SendBack {
            group: &self.config.group,
            queue: &assigned.queue,
            message,
            delay_level,
            reconsume_count_max: limit,
        };
        let Err(refused) = self.client.send_back(&back).await else {
            return SendBackOutcome::Stored;
        };
        let is_dead = delay_level == DEAD_LETTER_LEVEL || message.reconsume_times >= limit;
        match self.resend(message, is_dead).await {
            Ok(()) => SendBackOutcome::Stored,
            Err(error) => {
                log::warn!("{}: message kept: {refused}; {error}", self.config.group);
                SendBackOutcome::KeptLocally
            }
        }
    }

    /// Sends a copy to the retry topic (`DefaultMQPushConsumerImpl.sendMessageBackAsNormalMessage`).
    async fn resend(&self, message: &MessageView, is_dead: bool) -> Result<(), String> {
        let limit = self.reconsume_count_max();
        let replaced = [
            properties::RETRY_TOPIC,
            properties::ORIGIN_MESSAGE_ID,
            properties::DELAY,
            properties::TRANSACTION_PREPARED,
        ];
        let mut copy = Message::new(retry_topic(&self.config.group), message.body.clone());
        copy.flag = message.flag;
        for (name, value) in properties::iterate(&*message.properties) {
            if !replaced.contains(&name) {
                copy = copy.with_property(name, value);
            }
        }
        let origin = match message.property(properties::ORIGIN_MESSAGE_ID) {
            Some(origin) => origin.to_owned(),
            None => message.message_id(),
        };
        let delay_level = FIRST_DELAY_LEVEL.saturating_add(message.reconsume_times);
        let copy = copy
            .with_property(properties::ORIGIN_MESSAGE_ID, origin)
            .with_property(properties::RETRY_TOPIC, &*message.topic)
            .with_property(properties::DELAY, delay_level.to_string());
        let mut prepared = self.resending.prepare(&copy).map_err(|error| error.to_string())?;
        let times = if is_dead { limit } else { message.reconsume_times };
        prepared.reconsume_times = times.saturating_add(1);
        prepared.reconsume_count_max = Some(limit);
        let sent = self.resending.send(&prepared, Target::Any).await;
        sent.map(drop).map_err(|error| error.to_string())
    }
}
