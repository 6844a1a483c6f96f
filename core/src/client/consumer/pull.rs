//! Fetches one queue, forever: one pull at a time, long-polled, within the flow limits.
//!
//! | answer | next |
//! |---|---|
//! | found | filter by the text of the tag, hand over, pull from the next offset |
//! | nothing new, nothing matched | pull from the next offset: the waiting was the broker's |
//! | offset illegal | the broker moved us: the queue is given up and taken again where the broker says |
//! | error | pause, then the same offset again |
//!
//! A broker that answers "nothing new" without waiting is not asked in a tight loop. (DefaultMQPushConsumerImpl.pullMessage)

use std::sync::Arc;
use std::time::Duration;

use super::ConsumerCore;
use super::assigned::Assigned;
use super::deliver::Work;
use crate::client::calls::{PullAnswer, PullRequest};
use crate::client::error::RequestError;
use crate::client::instance::lock;
use crate::client::observer::{Fetch, PullOutcome};
use crate::client::signal::Bell;
use crate::client::subscription::Subscription;
use crate::protocol::code::response;
use crate::runtime::Runtime;

/// Pause after a broker said that it is too busy. Java: `PULL_TIME_DELAY_MILLS_WHEN_BROKER_FLOW_CONTROL`.
const BROKER_BUSY_DELAY: Duration = Duration::from_millis(20);
/// "Nothing new" faster than this was not waited for.
const QUICK_ANSWER: Duration = Duration::from_millis(10);
/// Pause after the second quick answer in a row.
const QUICK_ANSWER_DELAY: Duration = Duration::from_millis(100);

/// Pulls until the task is dropped or the position is moved by the broker.
pub(super) async fn run<R: Runtime>(
    core: Arc<ConsumerCore<R>>,
    assigned: Arc<Assigned>,
    subscription: Subscription,
    mut room: Bell,
) {
    let rt = core.client.rt.clone();
    let mut quick_count = 0;
    loop {
        wait_for_room(&core, &assigned, &mut room).await;
        let begun = rt.mono();
        let answer = match pull(&core, &assigned, &subscription).await {
            Ok(answer) => answer,
            Err(error) => {
                rt.sleep(delay_after(&core, &assigned, &error)).await;
                continue;
            }
        };
        if answer.outcome == PullOutcome::OffsetIllegal {
            give_up(&core, &assigned, &answer).await;
            return;
        }
        let is_quick = answer.outcome == PullOutcome::NoNewMessage && rt.mono().since(begun) < QUICK_ANSWER;
        quick_count = if is_quick { quick_count + 1 } else { 0 };
        if let Err(problem) = core.take(&assigned, &subscription, answer) {
            log::error!(
                "{}: unusable answer to a pull of {:?}: {problem}",
                core.config.group,
                assigned.queue
            );
            rt.sleep(core.config.pull_error_delay).await;
        } else if quick_count > 1 {
            rt.sleep(QUICK_ANSWER_DELAY).await;
        }
    }
}

async fn wait_for_room<R: Runtime>(core: &ConsumerCore<R>, assigned: &Assigned, room: &mut Bell) {
    while assigned.state().process.is_full(&core.flow_limits()) {
        room.rung().await;
    }
}

async fn pull<R: Runtime>(
    core: &ConsumerCore<R>,
    assigned: &Assigned,
    subscription: &Subscription,
) -> Result<PullAnswer, RequestError> {
    let (offset, broker_id) = {
        let state = assigned.state();
        (state.process.fetched_to(), state.suggested_broker)
    };
    let request = PullRequest {
        group: &core.config.group,
        queue: &assigned.queue,
        offset,
        count_max: core.config.pull_count_max,
        subscription,
        subscription_version: core.subscription_version,
        suspend: core.config.pull_suspend,
        timeout: core.config.pull_timeout,
    };
    let broker = core.client.broker_of(&assigned.queue, broker_id)?;
    core.client.pull(&broker, &request).await
}

/// How long to wait after a failed pull. Also asks for what may have been missing.
fn delay_after<R: Runtime>(core: &ConsumerCore<R>, assigned: &Assigned, error: &RequestError) -> Duration {
    log::debug!("{}: pull of {:?}: {error}", core.config.group, assigned.queue);
    match error.code() {
        Some(response::FLOW_CONTROL) => return BROKER_BUSY_DELAY,
        // A broker that restarted has forgotten us.
        _ => core.client.heartbeat_soon(),
    }
    assigned.state().suggested_broker = 0;
    core.config.pull_error_delay
}

/// Leaves the queue to the rebalance task, which takes it again at the broker's offset. The pause keeps a broker that
/// moves us again and again from making us spin (Java waits 10 s).
async fn give_up<R: Runtime>(core: &ConsumerCore<R>, assigned: &Assigned, answer: &PullAnswer) {
    {
        let state = assigned.state();
        if state.revoked.is_none() {
            core.tell_fetched(assigned, state.process.fetched_to(), answer);
        }
    }
    log::warn!(
        "{}: offset of {:?} is out of range [{}, {}], moved to {}",
        core.config.group,
        assigned.queue,
        answer.min_offset,
        answer.max_offset,
        answer.next_offset
    );
    core.client.rt.sleep(core.config.pull_error_delay).await;
    let moved = (assigned.queue.clone(), assigned.session_id, answer.next_offset);
    lock(&core.queues).moved.push(moved);
    core.rebalance.ring();
}

impl<R: Runtime> ConsumerCore<R> {
    pub(super) fn flow_limits(&self) -> crate::client::process_queue::FlowLimits {
        let mut limits = self.config.flow;
        if self.config.is_orderly() {
            limits.span = None;
        }
        limits
    }

    fn tell_fetched(&self, assigned: &Assigned, offset: i64, answer: &PullAnswer) {
        self.client.observer().fetched(&Fetch {
            session: self.session(assigned),
            offset,
            outcome: answer.outcome,
            next_offset: answer.next_offset,
            min_offset: answer.min_offset,
            max_offset: answer.max_offset,
            messages: &answer.messages,
        });
    }

    /// Puts an answer into the process queue and hands the messages over.
    fn take(
        &self,
        assigned: &Arc<Assigned>,
        subscription: &Subscription,
        mut answer: PullAnswer,
    ) -> Result<(), String> {
        let mut state = assigned.state();
        if state.revoked.is_some() {
            return Ok(());
        }
        let from = state.process.fetched_to();
        check_range(from, &answer)?;
        answer.messages.retain(|message| subscription.matches(message.tag()));
        state.suggested_broker = answer.suggested_broker;
        let messages = answer.messages.iter();
        let slots = messages.map(|message| (message.queue_offset, message.stored_size));
        state.process.fetched(slots, answer.next_offset);
        self.tell_fetched(assigned, from, &answer);
        if self.config.is_orderly() {
            state.pending.extend(answer.messages);
            drop(state);
            assigned.work.ring();
            return Ok(());
        }
        drop(state);
        let mut rest = answer.messages;
        while !rest.is_empty() {
            let later = rest.split_off(rest.len().min(self.config.batch_count_max));
            self.work.push(Work {
                assigned: assigned.clone(),
                messages: rest,
            });
            rest = later;
        }
        Ok(())
    }
}

/// Offsets of an answer must lie in `[asked, next)` and ascend: anything else would break the watermark.
fn check_range(from: i64, answer: &PullAnswer) -> Result<(), String> {
    if answer.next_offset < from {
        return Err(format!("next offset {} lies before {from}", answer.next_offset));
    }
    let mut lowest = from;
    for message in &answer.messages {
        if message.queue_offset < lowest || message.queue_offset >= answer.next_offset {
            return Err(format!("offset {} is out of order", message.queue_offset));
        }
        lowest = message.queue_offset + 1;
    }
    Ok(())
}
