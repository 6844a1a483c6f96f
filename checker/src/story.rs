//! Small histories for tests, told in one column. One topic `T` on one broker `b`, sync flush unless said otherwise.
//! A millisecond passes with every event.

use std::collections::BTreeMap;

use crate::history::{
    BrokerConfig, ConsumeVerdict, Content, Event, FaultKind, FaultPhase, Flush, GroupConfig, Header, History, Limits,
    Model, Order, Queue, Record, Recorded, Required, SendStatus, StartAt, VERSION,
};
use crate::verdict::Report;

#[derive(Clone)]
pub(crate) struct Story {
    pub(crate) history: History,
    t: u64,
    next: u64,
    sessions: BTreeMap<String, (String, String, i32)>,
}

/// The verdict on a story.
pub(crate) fn report(story: &Story) -> Report {
    crate::check_history(&story.history, &crate::Options::default())
}

/// The properties that a story breaks, each once.
pub(crate) fn broken(story: &Story) -> Vec<String> {
    let mut broken: Vec<String> = report(story)
        .violations()
        .iter()
        .map(|violation| violation.property.clone())
        .collect();
    broken.dedup();
    broken
}

pub(crate) fn queue(id: i32) -> Queue {
    Queue {
        topic: "T".into(),
        broker: "b".into(),
        id,
    }
}

fn content(uid: &str) -> Content {
    Content {
        crc: uid.bytes().map(u32::from).sum(),
        size: uid.len() as u32,
        tag: None,
        keys: Some(uid.into()),
    }
}

fn group(name: &str, order: Order) -> GroupConfig {
    GroupConfig {
        name: name.into(),
        topics: vec!["T".into()],
        order,
        model: Model::Clustering,
        from: StartAt::First,
        tags: None,
    }
}

impl Story {
    /// A sync-flush broker and the concurrent group `g`.
    pub(crate) fn new() -> Story {
        Story::with_flush(Flush::Sync)
    }

    pub(crate) fn with_flush(flush: Flush) -> Story {
        use Recorded::*;
        let header = Header {
            history: VERSION,
            source: "a story".into(),
            seed: None,
            records: vec![
                Sends,
                Deliveries,
                Sessions,
                Fetches,
                Commits,
                SendBacks,
                OffsetQueries,
                Locks,
                Faults,
            ],
            brokers: vec![BrokerConfig {
                name: "b".into(),
                node: "b".into(),
                flush,
            }],
            groups: vec![group("g", Order::Concurrent)],
            limits: Limits::default(),
            required: Required::default(),
        };
        Story {
            history: History {
                header,
                records: Vec::new(),
            },
            t: 0,
            next: 0,
            sessions: BTreeMap::new(),
        }
    }

    /// A sync-flush broker and the orderly group `o`.
    pub(crate) fn orderly() -> Story {
        let mut story = Story::new();
        story.history.header.groups = vec![group("o", Order::Orderly)];
        story
    }

    pub(crate) fn facts(&mut self) -> &mut Story {
        self.records(Recorded::Facts)
    }

    pub(crate) fn wait_ms(&mut self, ms: u64) -> &mut Story {
        self.t += ms * 1_000_000;
        self
    }

    pub(crate) fn invoke(&mut self, uid: &str) -> &mut Story {
        self.invoke_as(uid, 1, true)
    }

    pub(crate) fn acknowledge(&mut self, uid: &str, id: i32, offset: i64) -> &mut Story {
        self.acknowledge_as(uid, 1, id, offset, SendStatus::SendOk, None)
    }

    pub(crate) fn send(&mut self, uid: &str, id: i32, offset: i64) -> &mut Story {
        self.invoke(uid).acknowledge(uid, id, offset)
    }

    pub(crate) fn send_at(&mut self, uid: &str, id: i32, offset: i64, position: u64) -> &mut Story {
        self.invoke(uid)
            .acknowledge_as(uid, 1, id, offset, SendStatus::SendOk, Some(position))
    }

    pub(crate) fn send_graded(
        &mut self,
        uid: &str,
        id: i32,
        offset: i64,
        status: SendStatus,
        wait_store: bool,
    ) -> &mut Story {
        self.invoke_as(uid, 1, wait_store)
            .acknowledge_as(uid, 1, id, offset, status, None)
    }

    pub(crate) fn send_again(&mut self, uid: &str, attempt: u32, id: i32, offset: i64) -> &mut Story {
        self.invoke_as(uid, attempt, true)
            .acknowledge_as(uid, attempt, id, offset, SendStatus::SendOk, None)
    }

    pub(crate) fn send_lost(&mut self, uid: &str, attempt: u32) -> &mut Story {
        self.invoke_as(uid, attempt, true).tell(Event::SendInfo {
            uid: uid.into(),
            attempt,
            error: "time-out".into(),
        })
    }

    pub(crate) fn send_refused(&mut self, uid: &str) -> &mut Story {
        self.invoke(uid).tell(Event::SendFail {
            uid: uid.into(),
            attempt: 1,
            error: "no permission".into(),
        })
    }

    pub(crate) fn open(&mut self, session: &str, group: &str, client: &str, id: i32, start: i64) -> &mut Story {
        self.sessions.insert(session.into(), (group.into(), client.into(), id));
        self.tell(Event::SessionOpen {
            session: session.into(),
            group: group.into(),
            client: client.into(),
            queue: queue(id),
            start,
            asked: None,
        })
    }

    pub(crate) fn fetch(&mut self, session: &str, from: i64, next: i64) -> &mut Story {
        self.tell(Event::Fetch {
            session: session.into(),
            from,
            next,
            count: (next - from) as u32,
        })
    }

    pub(crate) fn seek(&mut self, session: &str, offset: i64) -> &mut Story {
        self.tell(Event::Seek {
            session: session.into(),
            offset,
            reason: "reset".into(),
        })
    }

    /// Enters the listener; the number belongs to [`done`](Story::done).
    pub(crate) fn start(&mut self, group: &str, client: &str, id: i32, offset: i64, uid: &str) -> u64 {
        self.enter(None, group, client, id, offset, uid)
    }

    /// The last delivery belongs to this session.
    pub(crate) fn in_session(&mut self, name: &str) {
        if let Some(Event::DeliverStart { session, .. }) = self.history.records.last_mut().map(|last| &mut last.event) {
            *session = Some(name.into());
        }
    }

    pub(crate) fn done(&mut self, delivery: u64) -> &mut Story {
        self.tell(Event::DeliverDone {
            delivery,
            verdict: ConsumeVerdict::Success,
        })
    }

    pub(crate) fn deliver(&mut self, group: &str, client: &str, id: i32, offset: i64, uid: &str) -> &mut Story {
        let delivery = self.start(group, client, id, offset, uid);
        self.done(delivery)
    }

    pub(crate) fn deliver_as(&mut self, session: &str, offset: i64, uid: &str, verdict: ConsumeVerdict) -> &mut Story {
        let (group, client, id) = self.sessions[session].clone();
        let delivery = self.enter(Some(session.into()), &group, &client, id, offset, uid);
        self.tell(Event::DeliverDone { delivery, verdict })
    }

    /// Sends the last delivery back.
    pub(crate) fn send_back(&mut self) -> &mut Story {
        let delivery = self.next;
        self.tell(Event::SendBackInvoke { delivery })
            .tell(Event::SendBackOk { delivery })
    }

    pub(crate) fn flip_last_delivery(&mut self) {
        for record in self.history.records.iter_mut().rev() {
            if let Event::DeliverStart { content, .. } = &mut record.event {
                content.crc ^= 1;
                return;
            }
        }
    }

    pub(crate) fn commit(&mut self, group: &str, client: &str, id: i32, offset: i64) -> &mut Story {
        let commit = self.number();
        self.tell(Event::CommitInvoke {
            commit,
            group: group.into(),
            client: client.into(),
            queue: queue(id),
            offset,
        })
        .tell(Event::CommitOk { commit })
    }

    pub(crate) fn read_offset(&mut self, group: &str, id: i32, offset: i64) -> &mut Story {
        let asked = self.t + 500_000;
        self.tell(Event::OffsetRead {
            group: group.into(),
            queue: queue(id),
            offset: Some(offset),
            asked,
        })
    }

    pub(crate) fn lock(&mut self, group: &str, client: &str, id: i32) -> &mut Story {
        let asked = self.t;
        self.tell(Event::LockOk {
            group: group.into(),
            client: client.into(),
            queue: queue(id),
            asked,
        })
    }

    pub(crate) fn unlock(&mut self, group: &str, client: &str, id: i32) -> &mut Story {
        self.tell(Event::LockEnd {
            group: group.into(),
            client: client.into(),
            queue: queue(id),
        })
    }

    pub(crate) fn kill(&mut self) -> &mut Story {
        self.fault(FaultKind::Kill, "b")
    }

    pub(crate) fn kill_client(&mut self, client: &str) -> &mut Story {
        self.fault(FaultKind::Kill, client)
    }

    pub(crate) fn power_loss(&mut self) -> &mut Story {
        self.fault(FaultKind::PowerLoss, "b")
    }

    pub(crate) fn flushed(&mut self, upto: u64) -> &mut Story {
        self.tell(Event::Flushed { node: "b".into(), upto })
    }

    /// The broker declares a slot to hold nothing.
    pub(crate) fn gap(&mut self, id: i32, offset: i64) -> &mut Story {
        self.tell(Event::Gap {
            node: "b".into(),
            queue: queue(id),
            offset,
        })
    }

    /// The final scan finds these messages from offset 0 on; `-` is a hole.
    pub(crate) fn scan(&mut self, id: i32, uids: &[&str]) -> &mut Story {
        self.records(Recorded::Scan).scan_topic("T", id, uids)
    }

    pub(crate) fn dead_letter(&mut self, group: &str, uid: &str) -> &mut Story {
        self.dead_letter_at(group, 0, uid)
    }

    pub(crate) fn dead_letter_at(&mut self, group: &str, id: i32, uid: &str) -> &mut Story {
        self.scan_topic(&format!("%DLQ%{group}"), id, &[uid])
    }

    /// A message comes from the retry topic of a group.
    pub(crate) fn retry(
        &mut self,
        group: &str,
        client: &str,
        offset: i64,
        uid: &str,
        reconsume: u32,
        verdict: ConsumeVerdict,
    ) -> &mut Story {
        let delivery = self.start(group, client, 0, offset, uid);
        if let Some(Event::DeliverStart {
            queue, reconsume: r, ..
        }) = self.history.records.last_mut().map(|record| &mut record.event)
        {
            (queue.topic, *r) = (format!("%RETRY%{group}"), reconsume);
        }
        self.tell(Event::DeliverDone { delivery, verdict })
    }

    pub(crate) fn interrupt_scan(&mut self) -> &mut Story {
        self.tell(Event::ScanEnd { complete: false })
    }

    pub(crate) fn drained(&mut self) -> &mut Story {
        self.records(Recorded::Drain)
            .tell(Event::Mark { name: "drained".into() })
    }

    fn scan_topic(&mut self, topic: &str, id: i32, uids: &[&str]) -> &mut Story {
        let queue = Queue {
            topic: topic.into(),
            ..queue(id)
        };
        let max = uids.len() as i64;
        self.tell(Event::ScanQueue {
            queue: queue.clone(),
            min: 0,
            max,
        });
        for (offset, uid) in (0..).zip(uids).filter(|(_, uid)| **uid != "-") {
            self.tell(Event::ScanEntry {
                queue: queue.clone(),
                offset,
                uid: Some((*uid).into()),
                content: content(uid),
            });
        }
        self.tell(Event::ScanEnd { complete: true })
    }

    fn enter(&mut self, session: Option<String>, group: &str, client: &str, id: i32, offset: i64, uid: &str) -> u64 {
        let delivery = self.number();
        self.tell(Event::DeliverStart {
            delivery,
            group: group.into(),
            client: client.into(),
            session,
            queue: queue(id),
            offset,
            position: None,
            uid: Some(uid.into()),
            content: content(uid),
            reconsume: 0,
        });
        delivery
    }

    fn invoke_as(&mut self, uid: &str, attempt: u32, wait_store: bool) -> &mut Story {
        self.tell(Event::SendInvoke {
            uid: uid.into(),
            attempt,
            tries: 1,
            producer: "p".into(),
            topic: "T".into(),
            content: content(uid),
            wait_store,
        })
    }

    fn acknowledge_as(
        &mut self,
        uid: &str,
        attempt: u32,
        id: i32,
        offset: i64,
        status: SendStatus,
        position: Option<u64>,
    ) -> &mut Story {
        self.tell(Event::SendOk {
            uid: uid.into(),
            attempt,
            status,
            queue: queue(id),
            offset,
            position,
        })
    }

    pub(crate) fn fault(&mut self, fault: FaultKind, node: &str) -> &mut Story {
        self.next += 1;
        let id = self.next as u32;
        self.tell(Event::Fault {
            id,
            fault,
            phase: FaultPhase::Begin,
            nodes: vec![node.into()],
            effect: BTreeMap::from([("killed".into(), 1)]),
        })
    }

    pub(crate) fn records(&mut self, what: Recorded) -> &mut Story {
        if !self.history.header.records.contains(&what) {
            self.history.header.records.push(what);
        }
        self
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn tell(&mut self, event: Event) -> &mut Story {
        self.t += 1_000_000;
        self.history.records.push(Record { t: self.t, event });
        self
    }
}
