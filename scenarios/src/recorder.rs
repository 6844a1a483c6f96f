//! Writes the history of a run: what clients observe, what faults do, what nodes announce.
//!
//! All times are true time. Every event is also noted in the trace, so that two runs that differ only in what clients
//! saw have different hashes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orrery_checker::history::{ConsumeVerdict, Event, Queue, Record, SendStatus};
use orrery_core::client::observer::{
    Attempt, AttemptOutcome, Commit, CommitOutcome, Delivery, Fetch, Lock, LockChange, Observer, PullOutcome,
    RevokeReason, SendBackOutcome, Session,
};
use orrery_core::client::retry::may_be_stored;
use orrery_core::client::{self, Message, MessageView};
use orrery_core::probe::FactOf;
use orrery_core::protocol::properties;
use orrery_core::runtime::Runtime;
use orrery_core::types::MessageQueue;
use orrery_runtime_sim::{FactRecord, SimRuntime, World};

use crate::message;

/// The history so far; clones share it.
#[derive(Clone)]
pub(crate) struct Recorder {
    world: World,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    records: Vec<Record>,
    next_number: u64,
    /// Messages that a group handed back or could not finish, until a success.
    outstanding: BTreeSet<(String, String)>,
    last_delivery: Duration,
    /// Numbers of the deliveries whose listeners run.
    running: BTreeSet<u64>,
}

/// What the drain phase looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quiet {
    /// Messages handed back and not yet consumed.
    pub(crate) outstanding: usize,
    pub(crate) running: usize,
    pub(crate) last_delivery: Duration,
}

impl Recorder {
    pub(crate) fn new(world: &World) -> Recorder {
        Recorder {
            world: world.clone(),
            state: Arc::default(),
        }
    }

    /// Adds an event that happens now.
    pub(crate) fn tell(&self, event: Event) {
        self.push(&mut self.state(), event);
    }

    /// The observer for one process of the client `name`.
    pub(crate) fn observer(&self, name: &str, rt: &SimRuntime, lock_validity: Duration) -> Arc<dyn Observer> {
        let incarnation = self.number(&mut self.state());
        Arc::new(Watcher {
            recorder: self.clone(),
            client: name.to_owned(),
            incarnation,
            rt: rt.clone(),
            lock_validity,
            open: Mutex::default(),
        })
    }

    pub(crate) fn quiet(&self) -> Quiet {
        let state = self.state();
        Quiet {
            outstanding: state.outstanding.len(),
            running: state.running.len(),
            last_delivery: state.last_delivery,
        }
    }

    /// Everything recorded, with the nodes' facts sorted in.
    pub(crate) fn finish(&self, facts: Vec<FactRecord>) -> Vec<Record> {
        let mut records: Vec<Record> = facts
            .into_iter()
            .filter_map(|fact| {
                let node = self.world.name(fact.node);
                Some(Record {
                    t: nanoseconds(fact.time),
                    event: fact_event(node, fact.fact)?,
                })
            })
            .collect();
        records.append(&mut self.state().records);
        // Stable: at one instant facts come before what clients and faults make of them.
        records.sort_by_key(|record| record.t);
        records
    }

    fn push(&self, state: &mut State, event: Event) {
        let t = nanoseconds(self.world.now());
        state.records.push(Record { t, event });
        self.world.note("history", &(state.records.len() as u64).to_le_bytes());
    }

    fn number(&self, state: &mut State) -> u64 {
        state.next_number += 1;
        state.next_number
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn fact_event(node: String, fact: FactOf<Box<str>>) -> Option<Event> {
    let queue = |topic: Box<str>, id: i32| Queue {
        topic: topic.into(),
        broker: node.clone(),
        id,
    };
    Some(match fact {
        FactOf::Appended { start, end } => Event::Appended { node, start, end },
        FactOf::Flushed { upto } => Event::Flushed { node, upto },
        FactOf::Recovered { end, lost_bytes } => Event::Recovered { node, end, lost_bytes },
        FactOf::Gap {
            topic,
            queue_id,
            offset,
        } => Event::Gap {
            queue: queue(topic, queue_id),
            node,
            offset,
        },
        FactOf::Acknowledged {
            topic,
            queue_id,
            offset,
            code,
        } => Event::Acknowledged {
            queue: queue(topic, queue_id),
            node,
            offset,
            code,
        },
        FactOf::Locked {
            group,
            topic,
            queue_id,
            owner,
        } => Event::Locked {
            queue: queue(topic, queue_id),
            node,
            group: group.into(),
            owner: owner.into(),
        },
        FactOf::Role { .. } => return None,
    })
}

/// Watches one process of a client.
struct Watcher {
    recorder: Recorder,
    client: String,
    /// Ids of a process start again from 1; this makes them unique.
    incarnation: u64,
    rt: SimRuntime,
    lock_validity: Duration,
    open: Mutex<Open>,
}

/// What has begun and not ended, by the process's own ids.
#[derive(Default)]
struct Open {
    /// Listener call and offset to delivery number.
    deliveries: BTreeMap<(u64, i64), u64>,
    commits: BTreeMap<u64, u64>,
    /// Group and queue to the time when its committed offset was asked for.
    asked: BTreeMap<(String, MessageQueue), u64>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.recorder.state();
        for number in open.deliveries.values() {
            state.running.remove(number);
        }
    }
}

impl Watcher {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self, session: &Session<'_>) -> String {
        format!("{}#{}/{}", self.client, self.incarnation, session.id)
    }

    fn tell_attempt(&self, attempt: &Attempt<'_>, event: impl Fn(usize, String) -> Event) {
        let mut state = self.recorder.state();
        for (index, message) in attempt.messages.iter().enumerate() {
            // Messages of the client itself (put back into a retry topic) are no sends of a producer.
            if message.topic.starts_with(client::message::RETRY_TOPIC_PREFIX) {
                continue;
            }
            let uid = message::uid(&message.body).unwrap_or_default().to_owned();
            self.recorder.push(&mut state, event(index, uid));
        }
    }
}

impl Observer for Watcher {
    fn attempt_started(&self, attempt: &Attempt<'_>) {
        self.tell_attempt(attempt, |index, uid| {
            let message = &attempt.messages[index];
            Event::SendInvoke {
                uid,
                attempt: attempt.attempt,
                tries: 1,
                producer: self.client.clone(),
                topic: message.topic.clone(),
                content: sent_content(message),
                wait_store: waits_for_store(message),
            }
        });
    }

    fn attempt_ended(&self, attempt: &Attempt<'_>, outcome: &AttemptOutcome<'_>) {
        let number = attempt.attempt;
        self.tell_attempt(attempt, |index, uid| match *outcome {
            AttemptOutcome::Stored {
                status,
                queue_id,
                offset,
                offset_message_id,
            } => Event::SendOk {
                uid,
                attempt: number,
                status: send_status(status),
                queue: Queue {
                    topic: attempt.queue.topic.clone(),
                    broker: attempt.queue.broker_name.clone(),
                    id: queue_id,
                },
                offset: offset + index as i64,
                position: position(offset_message_id, index),
            },
            AttemptOutcome::NotSent => Event::SendFail {
                uid,
                attempt: number,
                error: "not sent".into(),
            },
            AttemptOutcome::Refused { code, remark } if !may_be_stored(code) => Event::SendFail {
                uid,
                attempt: number,
                error: format!("refused with {code}: {remark}"),
            },
            AttemptOutcome::Refused { code, remark } => Event::SendInfo {
                uid,
                attempt: number,
                error: format!("answered {code}: {remark}"),
            },
            AttemptOutcome::Unknown => Event::SendInfo {
                uid,
                attempt: number,
                error: "no answer".into(),
            },
        });
    }

    fn assigned(&self, session: &Session<'_>, start_offset: i64) {
        let asked = (session.group.to_owned(), session.queue.clone());
        let asked = self.open().asked.remove(&asked);
        self.recorder.tell(Event::SessionOpen {
            session: self.session(session),
            group: session.group.to_owned(),
            client: self.client.clone(),
            queue: queue(session.queue),
            start: start_offset,
            asked,
        });
    }

    fn revoked(&self, session: &Session<'_>, _: RevokeReason) {
        self.recorder.tell(Event::SessionClose {
            session: self.session(session),
        });
    }

    fn fetched(&self, fetch: &Fetch<'_>) {
        if fetch.outcome == PullOutcome::OffsetIllegal {
            self.recorder.tell(Event::Seek {
                session: self.session(&fetch.session),
                offset: fetch.next_offset,
                reason: format!("offset {} is illegal", fetch.offset),
            });
            return;
        }
        self.recorder.tell(Event::Fetch {
            session: self.session(&fetch.session),
            from: fetch.offset,
            next: fetch.next_offset,
            count: fetch.messages.len() as u32,
        });
    }

    fn delivery_started(&self, delivery: &Delivery<'_>) {
        let session = delivery.session;
        let mut open = self.open();
        let mut state = self.recorder.state();
        for message in delivery.messages {
            let number = self.recorder.number(&mut state);
            open.deliveries.insert((delivery.id, message.queue_offset), number);
            let uid = message::uid(&message.body).map(str::to_owned);
            let event = Event::DeliverStart {
                delivery: number,
                group: session.group.to_owned(),
                client: self.client.clone(),
                session: Some(self.session(&session)),
                queue: queue(session.queue),
                offset: message.queue_offset,
                position: Some(message.physical_offset),
                uid,
                content: read_content(message),
                reconsume: u32::try_from(message.reconsume_times).unwrap_or(0),
            };
            self.recorder.push(&mut state, event);
            state.running.insert(number);
            state.last_delivery = self.recorder.world.now();
        }
    }

    fn delivery_ended(&self, delivery: &Delivery<'_>, verdict: client::Verdict) {
        let session = delivery.session;
        let mut open = self.open();
        let mut state = self.recorder.state();
        for message in delivery.messages {
            let key = (delivery.id, message.queue_offset);
            let outstanding = (
                session.group.to_owned(),
                message::uid(&message.body).unwrap_or_default().to_owned(),
            );
            let number = match verdict {
                client::Verdict::Success => {
                    state.outstanding.remove(&outstanding);
                    open.deliveries.remove(&key)
                }
                client::Verdict::Later => {
                    state.outstanding.insert(outstanding);
                    open.deliveries.get(&key).copied()
                }
            };
            let Some(number) = number else { continue };
            state.running.remove(&number);
            let verdict = match verdict {
                client::Verdict::Success => ConsumeVerdict::Success,
                client::Verdict::Later if session.is_orderly => ConsumeVerdict::Suspend,
                client::Verdict::Later => ConsumeVerdict::Later,
            };
            self.recorder.push(
                &mut state,
                Event::DeliverDone {
                    delivery: number,
                    verdict,
                },
            );
        }
    }

    fn sent_back(&self, delivery: &Delivery<'_>, outcome: SendBackOutcome) {
        let mut open = self.open();
        for message in delivery.messages {
            let Some(number) = open.deliveries.remove(&(delivery.id, message.queue_offset)) else {
                continue;
            };
            self.recorder.tell(match outcome {
                SendBackOutcome::Stored => Event::SendBackOk { delivery: number },
                SendBackOutcome::KeptLocally => Event::SendBackInfo {
                    delivery: number,
                    error: "kept locally".into(),
                },
                SendBackOutcome::Dropped => Event::SendBackInfo {
                    delivery: number,
                    error: "dropped".into(),
                },
            });
        }
    }

    fn commit_started(&self, commit: &Commit<'_>) {
        let mut state = self.recorder.state();
        if commit.is_reset {
            self.recorder.push(
                &mut state,
                Event::OffsetReset {
                    group: commit.group.to_owned(),
                    queue: queue(commit.queue),
                    offset: commit.offset,
                },
            );
        }
        let number = self.recorder.number(&mut state);
        self.open().commits.insert(commit.id, number);
        self.recorder.push(
            &mut state,
            Event::CommitInvoke {
                commit: number,
                group: commit.group.to_owned(),
                client: self.client.clone(),
                queue: queue(commit.queue),
                offset: commit.offset,
            },
        );
    }

    fn commit_ended(&self, commit: &Commit<'_>, outcome: CommitOutcome) {
        let Some(number) = self.open().commits.remove(&commit.id) else {
            return;
        };
        self.recorder.tell(match outcome {
            CommitOutcome::Stored => Event::CommitOk { commit: number },
            _ => Event::CommitInfo { commit: number },
        });
    }

    fn offset_read(&self, group: &str, at: &MessageQueue, offset: Option<i64>) {
        // The question was asked within the time that a call may take.
        let asked =
            nanoseconds(self.recorder.world.now()).saturating_sub(nanoseconds(crate::cluster::CALL_TIMEOUT * 11 / 10));
        self.open().asked.insert((group.to_owned(), at.clone()), asked);
        self.recorder.tell(Event::OffsetRead {
            group: group.to_owned(),
            queue: queue(at),
            offset,
            asked,
        });
    }

    fn locked(&self, lock: &Lock<'_>) {
        let (group, client) = (lock.group.to_owned(), self.client.clone());
        let queue = queue(lock.queue);
        match lock.change {
            LockChange::Granted { until } => {
                let now = nanoseconds(self.recorder.world.now());
                let left = until.since(self.rt.mono());
                let asked = now.saturating_sub(nanoseconds(self.lock_validity.saturating_sub(left)));
                self.recorder.tell(Event::LockOk {
                    group,
                    client,
                    queue,
                    asked,
                });
            }
            LockChange::Lapsed | LockChange::Released => self.recorder.tell(Event::LockEnd { group, client, queue }),
            LockChange::Refused => {}
        }
    }
}

pub(crate) fn queue(queue: &MessageQueue) -> Queue {
    Queue {
        topic: queue.topic.clone(),
        broker: queue.broker_name.clone(),
        id: queue.queue_id,
    }
}

fn send_status(status: client::SendStatus) -> SendStatus {
    match status {
        client::SendStatus::SendOk => SendStatus::SendOk,
        client::SendStatus::FlushDiskTimeout => SendStatus::FlushDiskTimeout,
        client::SendStatus::FlushSlaveTimeout => SendStatus::FlushSlaveTimeout,
        client::SendStatus::SlaveNotAvailable => SendStatus::SlaveNotAvailable,
    }
}

fn sent_content(message: &Message) -> orrery_checker::history::Content {
    message::content(
        &message.body,
        message.property(properties::TAGS),
        message.property(properties::KEYS),
    )
}

pub(crate) fn read_content(message: &MessageView) -> orrery_checker::history::Content {
    message::content(&message.body, message.tag(), message.property(properties::KEYS))
}

fn waits_for_store(message: &Message) -> bool {
    message.property(properties::WAIT) != Some("false")
}

/// The physical position in the `index`-th offset message id of a reply: its last 16 hexadecimal digits.
fn position(ids: &str, index: usize) -> Option<u64> {
    let id = ids.split(',').nth(index)?;
    let digits = id.get(id.len().checked_sub(16)?..)?;
    u64::from_str_radix(digits, 16).ok()
}
