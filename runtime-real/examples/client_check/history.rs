//! Writes what a client observes in the history schema (`docs/history.md`), so that `orrery check` can judge it.
//!
//! Times are the process's monotonic clock. An uid is the body up to the first blank.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use orrery_checker::history::{
    BrokerConfig, ConsumeVerdict, Content, Event, Flush, GroupConfig, Header, History, Limits, Model, Order, Queue,
    Record, Recorded, Required, SendStatus, StartAt, VERSION,
};
use orrery_core::client::observer::{
    Attempt, AttemptOutcome, Commit, CommitOutcome, Delivery, Fetch, Lock, LockChange, Observer, PullOutcome,
    RevokeReason, SendBackOutcome, Session,
};
use orrery_core::client::retry::may_be_stored;
use orrery_core::client::{self, Admin, Message, MessageView};
use orrery_core::protocol::properties;
use orrery_core::runtime::{Mono, Runtime};
use orrery_core::types::MessageQueue;
use orrery_runtime_real::Real;

/// Longest time between a question for a committed offset and its answer.
const CALL_TIME_MAX: Duration = Duration::from_millis(3_300);
const LOCK_VALIDITY: Duration = Duration::from_secs(30);

/// The history of all clients of this process; clones share it.
#[derive(Clone)]
pub(crate) struct Recorder {
    rt: Real,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    records: Vec<Record>,
    groups: Vec<GroupConfig>,
    brokers: BTreeMap<String, BrokerConfig>,
    next_number: u64,
}

impl Recorder {
    pub(crate) fn new(rt: &Real) -> Recorder {
        Recorder {
            rt: rt.clone(),
            state: Arc::default(),
        }
    }

    /// The observer of one client.
    pub(crate) fn watch(&self, client: &str) -> Arc<dyn Observer> {
        Arc::new(Watcher {
            recorder: self.clone(),
            client: client.to_owned(),
            deliveries: Mutex::default(),
            commits: Mutex::default(),
        })
    }

    pub(crate) fn add_group(&self, name: &str, topic: &str, order: Order) {
        self.state().groups.push(GroupConfig {
            name: name.to_owned(),
            topics: vec![topic.to_owned()],
            order,
            model: Model::Clustering,
            from: StartAt::First,
            tags: None,
        });
    }

    /// Reads every queue of a topic from its beginning, as a fresh client.
    pub(crate) async fn scan(&self, admin: &Admin<Real>, topic: &str) -> anyhow::Result<()> {
        let route = admin.route(topic).await?;
        for broker in route.data.brokers.keys() {
            let configuration = BrokerConfig {
                name: broker.clone(),
                node: broker.clone(),
                flush: Flush::Async,
            };
            self.state().brokers.insert(broker.clone(), configuration);
        }
        for at in &route.subscribe {
            let bounds = admin.bounds(at).await?;
            self.tell(Event::ScanQueue {
                queue: queue(at),
                min: bounds.min,
                max: bounds.max,
            });
            let mut next = bounds.min;
            while next < bounds.max {
                let pulled = admin.pull(at, next, 32, Duration::ZERO).await?;
                anyhow::ensure!(pulled.next_offset > next, "{at:?} ends at {next} of {}", bounds.max);
                next = pulled.next_offset;
                for message in &pulled.messages {
                    self.tell(Event::ScanEntry {
                        queue: queue(at),
                        offset: message.queue_offset,
                        uid: uid(&message.body),
                        content: read_content(message),
                    });
                }
            }
        }
        Ok(())
    }

    /// Ends the history and writes it.
    pub(crate) fn write(&self, path: &Path, count: usize) -> anyhow::Result<()> {
        self.tell(Event::ScanEnd { complete: true });
        self.tell(Event::Mark { name: "drained".into() });
        let mut state = self.state();
        let history = History {
            header: Header {
                history: VERSION,
                source: "client_check".into(),
                seed: None,
                records: vec![
                    Recorded::Sends,
                    Recorded::Deliveries,
                    Recorded::Sessions,
                    Recorded::Fetches,
                    Recorded::Commits,
                    Recorded::OffsetQueries,
                    Recorded::Locks,
                    Recorded::Scan,
                    Recorded::Drain,
                ],
                brokers: state.brokers.values().cloned().collect(),
                groups: state.groups.clone(),
                limits: Limits::default(),
                required: Required {
                    acks: count as u64,
                    deliveries: count as u64,
                    fault_effects: 0,
                },
            },
            records: std::mem::take(&mut state.records),
        };
        let mut out = BufWriter::new(File::create(path)?);
        history.write(&mut out)?;
        out.flush()?;
        Ok(())
    }

    fn tell(&self, event: Event) {
        let mut state = self.state();
        let t = self.rt.mono().0;
        state.records.push(Record { t, event });
    }

    fn number(&self) -> u64 {
        let mut state = self.state();
        state.next_number += 1;
        state.next_number
    }

    fn ago(&self, duration: Duration) -> u64 {
        self.rt.mono().since(Mono(0)).saturating_sub(duration).as_nanos() as u64
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

struct Watcher {
    recorder: Recorder,
    client: String,
    /// Listener call and offset to the delivery's number in the history.
    deliveries: Mutex<BTreeMap<(u64, i64), u64>>,
    commits: Mutex<BTreeMap<u64, u64>>,
}

impl Watcher {
    fn session(&self, session: &Session<'_>) -> String {
        format!("{}/{}", self.client, session.id)
    }
}

impl Observer for Watcher {
    fn attempt_started(&self, attempt: &Attempt<'_>) {
        for message in attempt.messages {
            self.recorder.tell(Event::SendInvoke {
                uid: uid(&message.body).unwrap_or_default(),
                attempt: attempt.attempt,
                tries: 1,
                producer: self.client.clone(),
                topic: message.topic.clone(),
                content: sent_content(message),
                wait_store: true,
            });
        }
    }

    fn attempt_ended(&self, attempt: &Attempt<'_>, outcome: &AttemptOutcome<'_>) {
        for (index, message) in attempt.messages.iter().enumerate() {
            let uid = uid(&message.body).unwrap_or_default();
            let attempt_number = attempt.attempt;
            let fail = |error: String| Event::SendFail {
                uid: uid.clone(),
                attempt: attempt_number,
                error,
            };
            let info = |error: String| Event::SendInfo {
                uid: uid.clone(),
                attempt: attempt_number,
                error,
            };
            self.recorder.tell(match *outcome {
                AttemptOutcome::Stored {
                    status,
                    queue_id,
                    offset,
                    ..
                } => Event::SendOk {
                    uid: uid.clone(),
                    attempt: attempt_number,
                    status: send_status(status),
                    queue: Queue {
                        id: queue_id,
                        ..queue(attempt.queue)
                    },
                    offset: offset + index as i64,
                    position: None,
                },
                AttemptOutcome::NotSent => fail("not sent".into()),
                AttemptOutcome::Refused { code, remark } if !may_be_stored(code) => fail(format!("{code}: {remark}")),
                AttemptOutcome::Refused { code, remark } => info(format!("{code}: {remark}")),
                AttemptOutcome::Unknown => info("no answer".into()),
            });
        }
    }

    fn assigned(&self, session: &Session<'_>, start_offset: i64) {
        self.recorder.tell(Event::SessionOpen {
            session: self.session(session),
            group: session.group.to_owned(),
            client: self.client.clone(),
            queue: queue(session.queue),
            start: start_offset,
            asked: Some(self.recorder.ago(CALL_TIME_MAX)),
        });
    }

    fn revoked(&self, session: &Session<'_>, _: RevokeReason) {
        self.recorder.tell(Event::SessionClose {
            session: self.session(session),
        });
    }

    fn fetched(&self, fetch: &Fetch<'_>) {
        let session = self.session(&fetch.session);
        self.recorder.tell(match fetch.outcome {
            PullOutcome::OffsetIllegal => Event::Seek {
                session,
                offset: fetch.next_offset,
                reason: "the broker says so".into(),
            },
            _ => Event::Fetch {
                session,
                from: fetch.offset,
                next: fetch.next_offset,
                count: fetch.messages.len() as u32,
            },
        });
    }

    fn delivery_started(&self, delivery: &Delivery<'_>) {
        for message in delivery.messages {
            let number = self.recorder.number();
            let key = (delivery.id, message.queue_offset);
            self.deliveries.lock().unwrap().insert(key, number);
            self.recorder.tell(Event::DeliverStart {
                delivery: number,
                group: delivery.session.group.to_owned(),
                client: self.client.clone(),
                session: Some(self.session(&delivery.session)),
                queue: queue(delivery.session.queue),
                offset: message.queue_offset,
                position: Some(message.physical_offset),
                uid: uid(&message.body),
                content: read_content(message),
                reconsume: message.reconsume_times as u32,
            });
        }
    }

    fn delivery_ended(&self, delivery: &Delivery<'_>, verdict: client::Verdict) {
        for message in delivery.messages {
            let key = (delivery.id, message.queue_offset);
            let number = self.deliveries.lock().unwrap().remove(&key);
            self.recorder.tell(Event::DeliverDone {
                delivery: number.unwrap_or_default(),
                verdict: match verdict {
                    client::Verdict::Success => ConsumeVerdict::Success,
                    client::Verdict::Later => ConsumeVerdict::Later,
                },
            });
        }
    }

    fn sent_back(&self, _: &Delivery<'_>, _: SendBackOutcome) {
        // The scenarios whose history is written succeed at once.
    }

    fn commit_started(&self, commit: &Commit<'_>) {
        let number = self.recorder.number();
        self.commits.lock().unwrap().insert(commit.id, number);
        self.recorder.tell(Event::CommitInvoke {
            commit: number,
            group: commit.group.to_owned(),
            client: self.client.clone(),
            queue: queue(commit.queue),
            offset: commit.offset,
        });
    }

    fn commit_ended(&self, commit: &Commit<'_>, outcome: CommitOutcome) {
        let commit = self.commits.lock().unwrap().remove(&commit.id).unwrap_or_default();
        self.recorder.tell(match outcome {
            CommitOutcome::Stored => Event::CommitOk { commit },
            _ => Event::CommitInfo { commit },
        });
    }

    fn offset_read(&self, group: &str, at: &MessageQueue, offset: Option<i64>) {
        self.recorder.tell(Event::OffsetRead {
            group: group.to_owned(),
            queue: queue(at),
            offset,
            asked: self.recorder.ago(CALL_TIME_MAX),
        });
    }

    fn locked(&self, lock: &Lock<'_>) {
        let (group, client) = (lock.group.to_owned(), self.client.clone());
        let queue = queue(lock.queue);
        match lock.change {
            LockChange::Granted { until } => self.recorder.tell(Event::LockOk {
                group,
                client,
                queue,
                asked: until.0 - LOCK_VALIDITY.as_nanos() as u64,
            }),
            LockChange::Lapsed | LockChange::Released => self.recorder.tell(Event::LockEnd { group, client, queue }),
            LockChange::Refused => {}
        }
    }
}

fn queue(queue: &MessageQueue) -> Queue {
    Queue {
        topic: queue.topic.clone(),
        broker: queue.broker_name.clone(),
        id: queue.queue_id,
    }
}

fn uid(body: &[u8]) -> Option<String> {
    let first = body.split(|byte| *byte == b' ').next()?;
    let text = std::str::from_utf8(first).ok()?;
    (!text.is_empty()).then(|| text.to_owned())
}

fn content(body: &[u8], tag: Option<&str>, keys: Option<&str>) -> Content {
    Content {
        crc: crc32(body),
        size: body.len() as u32,
        tag: tag.map(str::to_owned),
        keys: keys.map(str::to_owned),
    }
}

fn sent_content(message: &Message) -> Content {
    let property = |name| message.property(name);
    content(&message.body, property(properties::TAGS), property(properties::KEYS))
}

fn read_content(message: &MessageView) -> Content {
    content(&message.body, message.tag(), message.property(properties::KEYS))
}

/// CRC-32 (IEEE) of some bytes, bit by bit: bodies here are short.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

fn send_status(status: client::SendStatus) -> SendStatus {
    match status {
        client::SendStatus::SendOk => SendStatus::SendOk,
        client::SendStatus::FlushDiskTimeout => SendStatus::FlushDiskTimeout,
        client::SendStatus::FlushSlaveTimeout => SendStatus::FlushSlaveTimeout,
        client::SendStatus::SlaveNotAvailable => SendStatus::SlaveNotAvailable,
    }
}
