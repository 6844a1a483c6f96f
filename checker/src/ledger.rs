//! A history digested once: names as numbers, attempts, deliveries and commits with both of their ends, and the
//! order in which things happened. Properties read it; none changes it.
//!
//! Invariant: `steps` is in order of time, and every index in it is valid.

mod questions;

use std::collections::{HashMap, HashSet};

use crate::budget::Budget;
use crate::history::{
    Boundary, BrokerConfig, ConsumeVerdict, Content, Event, FaultKind, FaultPhase, GroupConfig, Header, Limits, Queue,
    Record, Recorded, SendStatus,
};
use crate::names::{Id, Interned, NONE};
use crate::stored::{Stored, StoredBounds};
use crate::verdict::Counts;

/// Never, or not yet.
pub(crate) const NEVER: u64 = u64::MAX;

/// A message's content with its strings as names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Print {
    pub(crate) crc: u32,
    pub(crate) size: u32,
    pub(crate) tag: Id,
    pub(crate) keys: Id,
}

/// A message as its producer meant it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    pub(crate) print: Print,
    pub(crate) topic: Id,
    pub(crate) sent: u64,
    /// Slots it may own: wire tries that are not proven to have stored nothing.
    pub(crate) tries: u32,
    /// A `fail` attempt exists.
    pub(crate) failed: bool,
    /// Earliest invocation of an attempt that may have stored it without an acknowledgement.
    pub(crate) unknown_since: u64,
    pub(crate) wait_store: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok(SendStatus),
    Fail,
    /// No answer, or none recorded.
    Info,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub(crate) uid: Id,
    pub(crate) tries: u32,
    pub(crate) wait_store: bool,
    pub(crate) invoked: u64,
    pub(crate) ended: u64,
    pub(crate) outcome: Outcome,
    pub(crate) queue: Id,
    pub(crate) offset: i64,
    pub(crate) position: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery {
    pub(crate) group: Id,
    pub(crate) client: Id,
    pub(crate) session: Id,
    pub(crate) queue: Id,
    pub(crate) offset: i64,
    pub(crate) position: Option<u64>,
    pub(crate) uid: Id,
    pub(crate) print: Print,
    pub(crate) started: u64,
    /// Listener returned, or its process died.
    pub(crate) ended: u64,
    pub(crate) verdict: Option<ConsumeVerdict>,
    pub(crate) reconsume: u16,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Session {
    pub(crate) name: Id,
    pub(crate) group: Id,
    pub(crate) client: Id,
    pub(crate) queue: Id,
    pub(crate) start: i64,
    pub(crate) asked: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Commit {
    pub(crate) group: Id,
    pub(crate) client: Id,
    pub(crate) queue: Id,
    pub(crate) offset: i64,
    pub(crate) answered: bool,
}

/// An observation or a change of a committed offset, of a fetch position, of a lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) group: Id,
    pub(crate) client: Id,
    pub(crate) queue: Id,
    pub(crate) offset: i64,
    pub(crate) asked: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    SessionOpen(u32),
    /// Session and first offset of a fetch.
    Fetch(u32, i64),
    Seek(u32),
    DeliverStart(u32),
    DeliverDone(u32),
    /// The message is stored in its retry or dead-letter topic.
    SentBack(u32),
    CommitInvoke(u32),
    CommitOk(u32),
    CommitInfo(u32),
    OffsetRead(u32),
    OffsetReset(u32),
    LockOk(u32),
    LockEnd(u32),
    /// A broker's process died: its index, and whether the power went too.
    Crash(u32, bool),
}

/// A queue as the final scan found it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scan {
    pub(crate) t: u64,
    pub(crate) min: i64,
    pub(crate) max: i64,
    /// In order of arrival: offset and message.
    pub(crate) entries: Vec<ScanEntry>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct ScanEntry {
    pub(crate) t: u64,
    pub(crate) offset: i64,
    pub(crate) uid: Id,
    pub(crate) print: Print,
}

impl Scan {
    /// The message at `offset`.
    pub(crate) fn at(&self, offset: i64) -> Option<Id> {
        let index = self.entries.partition_point(|entry| entry.offset < offset);
        let entry = self.entries.get(index)?;
        (entry.offset == offset).then_some(entry.uid)
    }
}

/// A broker's directory at a moment.
pub(crate) struct Snapshot {
    pub(crate) t: u64,
    pub(crate) broker: String,
    /// After a stop in order: everything derived is complete.
    pub(crate) is_complete: bool,
    /// Records that end at or before this had been seen by recovery; behind it queues may lag.
    pub(crate) upto: u64,
    pub(crate) stored: Stored,
    /// What the broker said of its queues at that moment.
    pub(crate) bounds: Vec<StoredBounds>,
}

/// An answer to a search by key.
pub(crate) struct KeySearch {
    pub(crate) t: u64,
    pub(crate) snapshot: usize,
    pub(crate) key: u32,
    /// Of the record whose key it is.
    pub(crate) position: u64,
    pub(crate) found: Vec<u64>,
}

/// An answer to a search by time.
pub(crate) struct Search {
    pub(crate) t: u64,
    /// The broker's latest snapshot.
    pub(crate) snapshot: usize,
    pub(crate) queue: Queue,
    pub(crate) time: i64,
    pub(crate) boundary: Boundary,
    pub(crate) offset: i64,
}

pub(crate) struct QueueInfo {
    pub(crate) topic: Id,
    /// Index in the header's brokers.
    pub(crate) broker: Option<usize>,
    /// A retry or dead-letter topic: the broker writes it, not producers.
    pub(crate) system: bool,
}

pub(crate) struct Ledger {
    pub(crate) limits: Limits,
    pub(crate) brokers: Vec<BrokerConfig>,
    pub(crate) budget: Budget,
    pub(crate) counts: Counts,
    pub(crate) messages: Vec<Message>,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) deliveries: Vec<Delivery>,
    pub(crate) sessions: Vec<Session>,
    pub(crate) commits: Vec<Commit>,
    pub(crate) points: Vec<Point>,
    pub(crate) steps: Vec<(u64, Step)>,
    pub(crate) queues: Vec<QueueInfo>,
    pub(crate) scans: HashMap<Id, Scan>,
    pub(crate) scan_complete: Option<bool>,
    pub(crate) snapshots: Vec<Snapshot>,
    pub(crate) searches: Vec<Search>,
    pub(crate) key_searches: Vec<KeySearch>,
    /// Where each node's log ended when it was last recovered.
    recovered: HashMap<String, u64>,
    /// Slots that a broker has declared to hold nothing.
    gaps: HashSet<(Id, i64)>,
    pub(crate) drained: bool,
    /// Faults that struck, whatever they did.
    pub(crate) faults: u64,
    /// Anything that cannot be: an end without a beginning.
    pub(crate) malformed: Vec<String>,
    recorded: Vec<Recorded>,
    groups: HashMap<Id, GroupConfig>,
    texts: Interned<String>,
    uids: Interned<String>,
    queue_names: Interned<Queue>,
    open_attempts: HashMap<(Id, u32), u32>,
    open_deliveries: HashMap<u64, u32>,
    open_sessions: HashMap<Id, u32>,
    open_commits: HashMap<u64, u32>,
    effective_faults: HashSet<u32>,
}

impl Ledger {
    pub(crate) fn new(header: &Header) -> Ledger {
        let mut texts = Interned::new();
        let groups = header
            .groups
            .iter()
            .map(|group| (texts.intern(group.name.as_str()).0, group.clone()))
            .collect();
        Ledger {
            limits: header.limits.clone(),
            brokers: header.brokers.clone(),
            budget: Budget::new(header, header.records.contains(&Recorded::Facts)),
            counts: Counts::default(),
            messages: Vec::new(),
            attempts: Vec::new(),
            deliveries: Vec::new(),
            sessions: Vec::new(),
            commits: Vec::new(),
            points: Vec::new(),
            steps: Vec::new(),
            queues: Vec::new(),
            scans: HashMap::new(),
            scan_complete: None,
            snapshots: Vec::new(),
            searches: Vec::new(),
            key_searches: Vec::new(),
            recovered: HashMap::new(),
            gaps: HashSet::new(),
            drained: false,
            faults: 0,
            malformed: Vec::new(),
            recorded: header.records.clone(),
            groups,
            texts,
            uids: Interned::new(),
            queue_names: Interned::new(),
            open_attempts: HashMap::new(),
            open_deliveries: HashMap::new(),
            open_sessions: HashMap::new(),
            open_commits: HashMap::new(),
            effective_faults: HashSet::new(),
        }
    }

    /// Takes in the next record. Times must not go back.
    pub(crate) fn observe(&mut self, record: &Record) {
        self.counts.events += 1;
        let t = record.t;
        self.budget.observe(t, &record.event);
        match &record.event {
            Event::SendInvoke { .. } | Event::SendOk { .. } | Event::SendFail { .. } | Event::SendInfo { .. } => {
                self.send(t, &record.event)
            }
            Event::DeliverStart { .. }
            | Event::DeliverDone { .. }
            | Event::SendBackOk { .. }
            | Event::SendBackInvoke { .. }
            | Event::SendBackInfo { .. } => self.deliver(t, &record.event),
            Event::SessionOpen { .. } | Event::SessionClose { .. } | Event::Fetch { .. } | Event::Seek { .. } => {
                self.session(t, &record.event)
            }
            Event::CommitInvoke { .. } | Event::CommitOk { .. } | Event::CommitInfo { .. } => {
                self.commit(t, &record.event)
            }
            Event::ScanQueue { .. } | Event::ScanEntry { .. } => self.scan(t, &record.event),
            Event::ScanEnd { complete } => self.scan_complete = Some(*complete),
            Event::OffsetRead { .. } | Event::OffsetReset { .. } | Event::LockOk { .. } | Event::LockEnd { .. } => {
                self.point(t, &record.event)
            }
            Event::Fault {
                id,
                fault,
                phase,
                nodes,
                effect,
            } => {
                if effect.values().any(|&count| count > 0) && self.effective_faults.insert(*id) {
                    self.counts.fault_effects += 1;
                }
                self.faults += u64::from(*phase == FaultPhase::Begin);
                let dies = matches!(fault, FaultKind::Kill | FaultKind::PowerLoss);
                if dies && *phase == FaultPhase::Begin {
                    nodes
                        .iter()
                        .for_each(|node| self.died(t, node, *fault == FaultKind::PowerLoss));
                }
            }
            Event::Mark { name } => self.drained |= name == "drained",
            Event::Gap { queue, offset, .. } => {
                let queue = self.queue(queue);
                self.gaps.insert((queue, *offset));
            }
            Event::Recovered { node, end, .. } => {
                self.recovered.insert(node.clone(), *end);
            }
            Event::Stored {
                broker,
                complete,
                stored,
                bounds,
            } => {
                self.counts.stores += 1;
                let node = self.brokers.iter().find(|config| config.name == *broker);
                let recovered = node.and_then(|config| self.recovered.get(&config.node)).copied();
                self.snapshots.push(Snapshot {
                    t,
                    broker: broker.clone(),
                    is_complete: *complete,
                    upto: if *complete { u64::MAX } else { recovered.unwrap_or(0) },
                    stored: Stored::clone(stored),
                    bounds: bounds.clone(),
                });
            }
            Event::SearchedByKey {
                broker,
                key,
                position,
                found,
            } => {
                self.counts.searches += 1;
                if let Some(snapshot) = self.latest_snapshot(broker) {
                    self.key_searches.push(KeySearch {
                        t,
                        snapshot,
                        key: *key,
                        position: *position,
                        found: found.clone(),
                    });
                }
            }
            Event::SearchedByTime {
                queue,
                time,
                boundary,
                offset,
            } => {
                self.counts.searches += 1;
                if let Some(snapshot) = self.latest_snapshot(&queue.broker) {
                    self.searches.push(Search {
                        t,
                        snapshot,
                        queue: queue.clone(),
                        time: *time,
                        boundary: *boundary,
                        offset: *offset,
                    });
                }
            }
            // Other kinds are watched by the one property that needs them.
            _ => {}
        }
    }

    /// To be called once, after the last record.
    pub(crate) fn finish(&mut self) {
        for scan in self.scans.values_mut() {
            scan.entries.sort_by_key(|entry| entry.offset);
        }
        for attempt in &self.attempts {
            let message = &mut self.messages[attempt.uid as usize];
            match attempt.outcome {
                Outcome::Fail => message.failed = true,
                Outcome::Ok(_) => message.tries += attempt.tries,
                Outcome::Info => {
                    message.tries += attempt.tries;
                    message.unknown_since = message.unknown_since.min(attempt.invoked);
                }
            }
        }
    }

    fn send(&mut self, t: u64, event: &Event) {
        match event {
            Event::SendInvoke {
                uid,
                attempt,
                tries,
                topic,
                content,
                wait_store,
                ..
            } => {
                self.counts.sends += 1;
                let print = self.print(content);
                let topic = self.texts.intern(topic.as_str()).0;
                let uid = self.uid(uid);
                let message = &mut self.messages[uid as usize];
                if message.sent == NEVER {
                    message.print = print;
                    message.topic = topic;
                    message.sent = t;
                }
                message.wait_store &= *wait_store;
                let index = self.attempts.len() as u32;
                if self.open_attempts.insert((uid, *attempt), index).is_some() {
                    self.malformed
                        .push(format!("attempt {attempt} of {} began twice", self.uid_name(uid)));
                }
                self.attempts.push(Attempt {
                    uid,
                    tries: *tries,
                    wait_store: *wait_store,
                    invoked: t,
                    ended: NEVER,
                    outcome: Outcome::Info,
                    queue: NONE,
                    offset: -1,
                    position: None,
                });
            }
            Event::SendOk {
                uid,
                attempt,
                status,
                queue,
                offset,
                position,
            } => {
                let queue = self.queue(queue);
                if let Some(open) = self.end_attempt(uid, *attempt) {
                    open.outcome = Outcome::Ok(*status);
                    open.ended = t;
                    (open.queue, open.offset, open.position) = (queue, *offset, *position);
                    self.counts.acks += 1;
                }
            }
            Event::SendFail { uid, attempt, .. } => {
                if let Some(open) = self.end_attempt(uid, *attempt) {
                    open.outcome = Outcome::Fail;
                    open.ended = t;
                    self.counts.failed += 1;
                }
            }
            Event::SendInfo { uid, attempt, .. } => {
                if self.end_attempt(uid, *attempt).is_some() {
                    self.counts.unknown += 1;
                }
            }
            _ => unreachable!("only sends come here"),
        }
    }

    fn end_attempt(&mut self, uid: &str, attempt: u32) -> Option<&mut Attempt> {
        let known = self.uids.find(uid);
        let index = known.and_then(|uid| self.open_attempts.remove(&(uid, attempt)));
        if index.is_none() {
            self.malformed
                .push(format!("attempt {attempt} of {uid} ended but was not open"));
        }
        index.map(|index| &mut self.attempts[index as usize])
    }

    fn deliver(&mut self, t: u64, event: &Event) {
        match event {
            Event::DeliverStart {
                delivery,
                group,
                client,
                session,
                queue,
                offset,
                position,
                uid,
                content,
                reconsume,
            } => {
                self.counts.deliveries += 1;
                let session = session.as_ref().and_then(|name| {
                    let name = self.texts.intern(name.as_str()).0;
                    self.open_sessions.get(&name).copied()
                });
                let entry = Delivery {
                    group: self.texts.intern(group.as_str()).0,
                    client: self.texts.intern(client.as_str()).0,
                    session: session.unwrap_or(NONE),
                    queue: self.queue(queue),
                    offset: *offset,
                    position: *position,
                    uid: uid.as_ref().map_or(NONE, |uid| self.uid(uid)),
                    print: self.print(content),
                    started: t,
                    ended: NEVER,
                    verdict: None,
                    reconsume: u16::try_from(*reconsume).unwrap_or(u16::MAX),
                };
                let index = self.deliveries.len() as u32;
                self.deliveries.push(entry);
                self.open_deliveries.insert(*delivery, index);
                self.steps.push((t, Step::DeliverStart(index)));
            }
            Event::DeliverDone { delivery, verdict } => match self.open_deliveries.get(delivery) {
                Some(&index) => {
                    let entry = &mut self.deliveries[index as usize];
                    entry.ended = t;
                    entry.verdict = Some(*verdict);
                    if *verdict == ConsumeVerdict::Success {
                        self.open_deliveries.remove(delivery);
                    }
                    self.steps.push((t, Step::DeliverDone(index)));
                    let stored = *verdict == ConsumeVerdict::Later && !self.recorded.contains(&Recorded::SendBacks);
                    if stored {
                        self.steps.push((t, Step::SentBack(index)));
                    }
                }
                None => self
                    .malformed
                    .push(format!("delivery {delivery} ended but was not open")),
            },
            Event::SendBackOk { delivery } => match self.open_deliveries.get(delivery) {
                Some(&index) => self.steps.push((t, Step::SentBack(index))),
                None => self
                    .malformed
                    .push(format!("unknown delivery {delivery} was sent back")),
            },
            Event::SendBackInvoke { .. } | Event::SendBackInfo { .. } => {}
            _ => unreachable!("only deliveries come here"),
        }
    }

    fn session(&mut self, t: u64, event: &Event) {
        let name = match event {
            Event::SessionOpen { session, .. }
            | Event::SessionClose { session }
            | Event::Fetch { session, .. }
            | Event::Seek { session, .. } => self.texts.intern(session.as_str()).0,
            _ => unreachable!("only sessions come here"),
        };
        if let Event::SessionOpen {
            group,
            client,
            queue,
            start,
            asked,
            ..
        } = event
        {
            let entry = Session {
                name,
                group: self.texts.intern(group.as_str()).0,
                client: self.texts.intern(client.as_str()).0,
                queue: self.queue(queue),
                start: *start,
                asked: asked.unwrap_or(t),
            };
            let index = self.sessions.len() as u32;
            self.sessions.push(entry);
            self.open_sessions.insert(name, index);
            self.steps.push((t, Step::SessionOpen(index)));
            return;
        }
        let Some(&index) = self.open_sessions.get(&name) else {
            self.malformed.push(format!("session {} is not open", self.text(name)));
            return;
        };
        match event {
            Event::Fetch { from, .. } => self.steps.push((t, Step::Fetch(index, *from))),
            Event::Seek { .. } => self.steps.push((t, Step::Seek(index))),
            _ => {}
        }
    }

    fn commit(&mut self, t: u64, event: &Event) {
        match event {
            Event::CommitInvoke {
                commit,
                group,
                client,
                queue,
                offset,
            } => {
                self.counts.commits += 1;
                let entry = Commit {
                    group: self.texts.intern(group.as_str()).0,
                    client: self.texts.intern(client.as_str()).0,
                    queue: self.queue(queue),
                    offset: *offset,
                    answered: false,
                };
                let index = self.commits.len() as u32;
                self.commits.push(entry);
                self.open_commits.insert(*commit, index);
                self.steps.push((t, Step::CommitInvoke(index)));
            }
            Event::CommitOk { commit } => match self.open_commits.remove(commit) {
                Some(index) => {
                    self.commits[index as usize].answered = true;
                    self.steps.push((t, Step::CommitOk(index)));
                }
                None => self.malformed.push(format!("commit {commit} ended but was not open")),
            },
            Event::CommitInfo { commit } => match self.open_commits.remove(commit) {
                Some(index) => self.steps.push((t, Step::CommitInfo(index))),
                None => self.malformed.push(format!("commit {commit} ended but was not open")),
            },
            _ => unreachable!("only commits come here"),
        }
    }

    fn scan(&mut self, t: u64, event: &Event) {
        match event {
            Event::ScanQueue { queue, min, max } => {
                let queue = self.queue(queue);
                let scan = self.scans.entry(queue).or_default();
                (scan.t, scan.min, scan.max) = (t, *min, *max);
            }
            Event::ScanEntry {
                queue,
                offset,
                uid,
                content,
            } => {
                self.counts.scanned += 1;
                let entry = ScanEntry {
                    t,
                    offset: *offset,
                    uid: uid.as_ref().map_or(NONE, |uid| self.uid(uid)),
                    print: self.print(content),
                };
                let queue = self.queue(queue);
                self.scans.entry(queue).or_default().entries.push(entry);
            }
            _ => unreachable!("only scans come here"),
        }
    }

    fn point(&mut self, t: u64, event: &Event) {
        let (group, client, queue, offset, asked) = match event {
            Event::OffsetRead {
                group,
                queue,
                offset,
                asked,
            } => (group, None, queue, offset.unwrap_or(0), *asked),
            Event::OffsetReset { group, queue, offset } => (group, None, queue, *offset, t),
            Event::LockOk {
                group,
                client,
                queue,
                asked,
            } => (group, Some(client), queue, 0, *asked),
            Event::LockEnd { group, client, queue } => (group, Some(client), queue, 0, t),
            _ => unreachable!("only points come here"),
        };
        let point = Point {
            group: self.texts.intern(group.as_str()).0,
            client: client.map_or(NONE, |client| self.texts.intern(client.as_str()).0),
            queue: self.queue(queue),
            offset,
            asked,
        };
        let index = self.points.len() as u32;
        self.points.push(point);
        let step = match event {
            Event::OffsetRead { .. } => Step::OffsetRead(index),
            Event::OffsetReset { .. } => Step::OffsetReset(index),
            Event::LockOk { .. } => Step::LockOk(index),
            _ => Step::LockEnd(index),
        };
        self.steps.push((t, step));
    }

    /// Listeners of a process that died run no longer; a broker's death is a step.
    fn died(&mut self, t: u64, node: &str, power: bool) {
        for (index, broker) in self.brokers.iter().enumerate() {
            if broker.node == node {
                self.steps.push((t, Step::Crash(index as u32, power)));
            }
        }
        let Some(client) = self.texts.find(node) else {
            return;
        };
        for &index in self.open_deliveries.values() {
            let delivery = &mut self.deliveries[index as usize];
            if delivery.client == client && delivery.ended == NEVER {
                delivery.ended = t;
            }
        }
    }

    /// The number of a message.
    pub(crate) fn uid(&mut self, uid: &str) -> Id {
        let (id, new) = self.uids.intern(uid);
        if new {
            self.messages.push(Message {
                print: Print {
                    crc: 0,
                    size: 0,
                    tag: NONE,
                    keys: NONE,
                },
                topic: NONE,
                sent: NEVER,
                tries: 0,
                failed: false,
                unknown_since: NEVER,
                wait_store: true,
            });
        }
        id
    }

    fn print(&mut self, content: &Content) -> Print {
        let mut name = |text: &Option<String>| text.as_ref().map_or(NONE, |text| self.texts.intern(text.as_str()).0);
        Print {
            crc: content.crc,
            size: content.size,
            tag: name(&content.tag),
            keys: name(&content.keys),
        }
    }

    /// The message may be stored once more than its attempts say.
    pub(crate) fn allow_another_slot(&mut self, uid: Id) {
        self.messages[uid as usize].tries += 1;
    }

    /// The number of a queue.
    pub(crate) fn queue(&mut self, queue: &Queue) -> Id {
        let (id, new) = self.queue_names.intern(queue);
        if new {
            self.queues.push(QueueInfo {
                topic: self.texts.intern(queue.topic.as_str()).0,
                broker: self.brokers.iter().position(|broker| broker.name == queue.broker),
                system: queue.topic.starts_with("%RETRY%") || queue.topic.starts_with("%DLQ%"),
            });
        }
        id
    }

    /// The number of any other name.
    pub(crate) fn name(&mut self, text: &str) -> Id {
        self.texts.intern(text).0
    }

    fn latest_snapshot(&mut self, broker: &str) -> Option<usize> {
        let latest = self.snapshots.iter().rposition(|snapshot| snapshot.broker == broker);
        if latest.is_none() {
            self.malformed.push(format!("{broker} was searched before it was read"));
        }
        latest
    }
}
