//! What producers send and what listeners do. Every choice is a draw keyed by the message.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use orrery_core::client::{Listener, Message, MessageView, Producer, Target, Verdict};
use orrery_core::protocol::properties;
use orrery_core::runtime::{Runtime, TaskSet};
use orrery_runtime_sim::{Draw, SimRuntime};

use crate::cluster::{SendGuard, Shared};
use crate::message;
use crate::plan::{GroupPlan, Order, Produces};

/// Sends in flight of one producer; beyond it, the producer skips a turn, as a busy application would.
const IN_FLIGHT_MAX: usize = 256;
/// Messages in a batch at most.
const BATCH_COUNT_MAX: u64 = 6;

/// Sends at the planned rate until the workload ends; a process that is started again goes on with the numbering.
pub(crate) async fn produce(
    rt: &SimRuntime,
    producer: &Producer<SimRuntime>,
    client: &str,
    plan: &Produces,
    seed: u64,
    shared: &Arc<Shared>,
) {
    let sequence = shared.sequence(client);
    let mut sends = TaskSet::new();
    let pause = Duration::from_micros(1_000_000 / plan.per_second.max(1));
    let started = rt.mono();
    for turn in 1u32.. {
        let is_done = plan
            .messages
            .is_some_and(|messages| sequence.load(Ordering::Relaxed) >= messages);
        if is_done || shared.is_stopped() {
            break;
        }
        if sends.len() < IN_FLIGHT_MAX {
            let number = sequence.fetch_add(1, Ordering::Relaxed);
            let draw = Draw::new(seed, "send").with(Draw::new(0, client).bits()).with(number);
            let task = send(
                shared.begin_send(),
                producer.clone(),
                client.to_owned(),
                plan.clone(),
                sequence.clone(),
                number,
                draw,
            );
            sends.spawn(rt, "send", task);
        }
        let passed = rt.mono().since(started);
        rt.sleep((pause * turn).saturating_sub(passed)).await;
    }
    sends.join().await;
}

async fn send(
    _under_way: SendGuard,
    producer: Producer<SimRuntime>,
    client: String,
    plan: Produces,
    sequence: Arc<std::sync::atomic::AtomicU64>,
    number: u64,
    draw: Draw,
) {
    let topic = &plan.topics[draw.with(1).below(plan.topics.len() as u64) as usize];
    let new = |number: u64| new_message(topic, &format!("{client}-{number}"), &plan, draw.with(number));
    // The outcome is the observer's to tell.
    if draw.with(2).happens(plan.batch_percent / 100.0) {
        let count = 2 + draw.with(3).below(BATCH_COUNT_MAX - 1);
        let numbers = (1..count).map(|_| sequence.fetch_add(1, Ordering::Relaxed));
        let batch: Vec<Message> = std::iter::once(number).chain(numbers).map(new).collect();
        let _ = producer.send_batch(&batch, Target::Any).await;
    } else if draw.with(4).happens(plan.one_way_percent / 100.0) {
        let _ = producer.send_one_way(&new(number), Target::Any).await;
    } else {
        let message = if draw.with(5).happens(plan.unwaited_percent / 100.0) {
            new(number).with_property(properties::WAIT, "false")
        } else {
            new(number)
        };
        let _ = producer.send(&message).await;
    }
}

fn new_message(topic: &str, uid: &str, plan: &Produces, draw: Draw) -> Message {
    let is_large = draw.with(6).happens(0.05);
    let size_max = if is_large {
        plan.size_max
    } else {
        plan.size_max.min(200)
    };
    let size = draw.with(7).below(size_max + 1) as usize;
    let tag = ["A", "B", "C"][draw.with(8).below(3) as usize];
    Message::new(topic, message::body(uid, size))
        .with_tag(tag)
        .with_keys(format!("key-{uid}"))
}

/// The listener of a group on one client.
pub(crate) struct Listen {
    rt: SimRuntime,
    seed: u64,
    group: GroupPlan,
    shared: Arc<Shared>,
}

impl Listen {
    pub(crate) fn new(rt: &SimRuntime, seed: u64, group: &GroupPlan, shared: &Arc<Shared>) -> Listen {
        Listen {
            rt: rt.clone(),
            seed,
            group: group.clone(),
            shared: shared.clone(),
        }
    }
}

impl Listener for Listen {
    async fn consume(&self, messages: &[MessageView]) -> Verdict {
        let uid = messages.first().and_then(|message| message::uid(&message.body));
        let uid = uid.unwrap_or_default();
        let group = &self.group;
        let call = self.shared.count_call(&group.name, uid);
        let draw = Draw::new(self.seed, "listen")
            .with(Draw::new(0, &group.name).bits())
            .with(Draw::new(0, uid).bits())
            .with(call);
        let longest = if draw.with(1).happens(group.slow_percent / 100.0) {
            group.slow_ms
        } else {
            group.listen_ms
        };
        let time = Duration::from_millis(draw.with(2).below(longest + 1));
        if !time.is_zero() {
            self.rt.sleep(time).await;
        }
        // Nothing is refused for ever: an orderly queue would stop, and dead letters are another test's business.
        let refuses_at_most = match group.order {
            Order::Orderly => 2,
            Order::Concurrent => 5,
        };
        if call < refuses_at_most && draw.with(3).happens(group.later_percent / 100.0) {
            Verdict::Later
        } else {
            Verdict::Success
        }
    }
}
