//! A healthy run for tests: valid by every law, long enough to be edited.

mod features;

use std::collections::BTreeMap;

use crate::history::{
    Boundary, BrokerConfig, ConsumeVerdict, Content, Event, FaultKind, FaultPhase, Flush, GroupConfig, Header, History,
    Limits, Model, Order, Queue, Record, Recorded, Required, SendStatus, StartAt, VERSION,
};

use crate::stored::{Stored, StoredBounds, StoredEntry, StoredOffset, StoredQueue, StoredRecord};

const QUEUES: i32 = 2;

/// A healthy run: two producers in turn on two queues, a concurrent and an orderly group, each queue handed from one
/// instance to the other half-way, commits, lock renewals, offset reads, a kill; then each feature that has a check (`features`);
/// drain and scan.
pub(crate) struct Healthy {
    records: Vec<Record>,
    t: u64,
    next: u64,
}

fn queue(id: i32) -> Queue {
    Queue {
        topic: "T".into(),
        broker: "b".into(),
        id,
    }
}

fn content(uid: &str) -> Content {
    Content {
        crc: uid.bytes().fold(7, |crc, byte| crc.wrapping_mul(31) ^ u32::from(byte)),
        size: 100,
        tag: Some("A".into()),
        keys: Some(format!("key-{uid}")),
    }
}

fn uid(id: i32, offset: i64) -> String {
    format!("p{id}-{offset}")
}

impl Healthy {
    pub(crate) fn history(per_queue: i64) -> History {
        let mut run = Healthy {
            records: Vec::new(),
            t: 0,
            next: 0,
        };
        for half in 0..2 {
            for id in 0..QUEUES {
                for group in ["g", "o"] {
                    run.open(group, half, id, per_queue / 2 * half);
                }
            }
            for offset in per_queue / 2 * half..per_queue / 2 * (half + 1) {
                for id in 0..QUEUES {
                    run.send(id, offset);
                    run.consume("g", half, id, offset);
                    run.consume("o", half, id, offset);
                }
            }
            for id in 0..QUEUES {
                for group in ["g", "o"] {
                    run.close(group, half, id, per_queue / 2 * (half + 1));
                }
            }
            // Later than what a crash may forget, so that it excuses nothing but itself.
            run.t += 20_000_000_000;
            run.fault(FaultKind::Kill);
            run.fault(FaultKind::Restart);
            run.stored(per_queue / 2 * (half + 1), false);
        }
        run.features();
        run.tell(Event::Mark { name: "drained".into() });
        for id in 0..QUEUES {
            run.tell(Event::ScanQueue {
                queue: queue(id),
                min: 0,
                max: per_queue,
            });
            for offset in 0..per_queue {
                let uid = uid(id, offset);
                run.tell(Event::ScanEntry {
                    queue: queue(id),
                    offset,
                    content: content(&uid),
                    uid: Some(uid),
                });
            }
        }
        run.scan_features();
        run.tell(Event::ScanEnd { complete: true });
        run.stored(per_queue, true);
        History {
            header: header(),
            records: run.records,
        }
    }

    fn tell(&mut self, event: Event) {
        self.t += 1_000_000;
        self.records.push(Record { t: self.t, event });
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn send(&mut self, id: i32, offset: i64) {
        let uid = uid(id, offset);
        self.tell(Event::SendInvoke {
            uid: uid.clone(),
            attempt: 1,
            tries: 1,
            producer: format!("p{id}"),
            topic: "T".into(),
            content: content(&uid),
            wait_store: true,
        });
        self.tell(Event::SendOk {
            uid,
            attempt: 1,
            status: SendStatus::SendOk,
            queue: queue(id),
            offset,
            position: None,
        });
    }

    fn open(&mut self, group: &str, half: i64, id: i32, start: i64) {
        let client = client(half);
        let asked = self.t;
        if group == "o" {
            self.tell(Event::LockOk {
                group: group.into(),
                client: client.clone(),
                queue: queue(id),
                asked,
            });
        }
        self.tell(Event::SessionOpen {
            session: session(group, half, id),
            group: group.into(),
            client,
            queue: queue(id),
            start,
            asked: None,
        });
    }

    fn consume(&mut self, group: &str, half: i64, id: i32, offset: i64) {
        self.tell(Event::Fetch {
            session: session(group, half, id),
            from: offset,
            next: offset + 1,
            count: 1,
        });
        let delivery = self.number();
        let uid = uid(id, offset);
        self.tell(Event::DeliverStart {
            delivery,
            group: group.into(),
            client: client(half),
            session: Some(session(group, half, id)),
            queue: queue(id),
            offset,
            position: None,
            content: content(&uid),
            uid: Some(uid),
            reconsume: 0,
        });
        self.tell(Event::DeliverDone {
            delivery,
            verdict: ConsumeVerdict::Success,
        });
        let commit = self.number();
        self.tell(Event::CommitInvoke {
            commit,
            group: group.into(),
            client: client(half),
            queue: queue(id),
            offset: offset + 1,
        });
        self.tell(Event::CommitOk { commit });
    }

    fn close(&mut self, group: &str, half: i64, id: i32, committed: i64) {
        self.tell(Event::SessionClose {
            session: session(group, half, id),
        });
        if group == "o" {
            self.tell(Event::LockEnd {
                group: group.into(),
                client: client(half),
                queue: queue(id),
            });
        }
        let asked = self.t + 1;
        self.tell(Event::OffsetRead {
            group: group.into(),
            queue: queue(id),
            offset: Some(committed),
            asked,
        });
    }

    /// The broker's directory with so many messages in each queue, and a few searches by time.
    fn stored(&mut self, per_queue: i64, complete: bool) {
        let mut stored = Stored {
            topics: vec!["T".into()],
            ..Stored::default()
        };
        for id in 0..QUEUES {
            let entries = (0..per_queue).map(|offset| StoredEntry {
                offset,
                position: position(id, offset),
                size: 100,
                tags_code: 7,
            });
            stored.queues.push(StoredQueue {
                topic: 0,
                id,
                entries: entries.collect(),
            });
            for group in ["g", "o"] {
                stored.committed.push(StoredOffset {
                    group: group.into(),
                    topic: "T".into(),
                    queue: id,
                    offset: per_queue,
                });
            }
        }
        for offset in 0..per_queue {
            for id in 0..QUEUES {
                let position = position(id, offset);
                stored.records.push(StoredRecord {
                    position,
                    size: 100,
                    topic: 0,
                    queue: id,
                    offset,
                    // Several of one millisecond.
                    time: offset / 2,
                    tags_code: 7,
                    keys: vec![position as u32 + 1],
                    is_queued: true,
                    is_damaged: false,
                });
                if complete {
                    stored.index.push((position as u32 + 1, position));
                }
            }
        }
        self.tell(Event::Recovered {
            node: "b".into(),
            end: position(0, per_queue),
            lost_bytes: 0,
        });
        let bounds = (0..QUEUES).map(|id| StoredBounds {
            topic: "T".into(),
            queue: id,
            min: 0,
            max: per_queue,
        });
        self.tell(Event::Stored {
            broker: "b".into(),
            complete,
            stored: Box::new(stored),
            bounds: if complete { Vec::new() } else { bounds.collect() },
        });
        if complete {
            return;
        }
        let (last, end) = ((per_queue - 1) / 2, per_queue);
        let questions = [
            (1, Boundary::Lower, 2),
            (1, Boundary::Upper, 3),
            (last + 1, Boundary::Lower, end),
            (-1, Boundary::Upper, 0),
        ];
        for (time, boundary, offset) in questions {
            self.tell(Event::SearchedByTime {
                queue: queue(1),
                time,
                boundary,
                offset,
            });
        }
        let position = position(1, 2);
        self.tell(Event::SearchedByKey {
            broker: "b".into(),
            key: position as u32 + 1,
            position,
            found: vec![position],
        });
    }

    fn fault(&mut self, fault: FaultKind) {
        let id = self.number() as u32;
        self.tell(Event::Fault {
            id,
            fault,
            phase: FaultPhase::Begin,
            nodes: vec!["b".into()],
            effect: BTreeMap::from([("processes".into(), 1)]),
        });
    }
}

fn position(id: i32, offset: i64) -> u64 {
    (offset * i64::from(QUEUES) + i64::from(id)) as u64 * 100
}

fn client(half: i64) -> String {
    format!("c{half}")
}

fn session(group: &str, half: i64, id: i32) -> String {
    format!("{group}/{half}/{id}")
}

fn header() -> Header {
    use Recorded::*;
    let mut records = vec![
        Sends,
        Deliveries,
        Sessions,
        Fetches,
        Commits,
        SendBacks,
        OffsetQueries,
        Locks,
        Faults,
        Scan,
        Drain,
        Stores,
    ];
    records.extend(features::RECORDS);
    let group = |name: &str, order| GroupConfig {
        name: name.into(),
        topics: vec!["T".into()],
        order,
        model: Model::Clustering,
        from: StartAt::First,
        tags: None,
    };
    Header {
        history: VERSION,
        source: "a healthy run".into(),
        seed: None,
        records,
        brokers: vec![BrokerConfig {
            name: "b".into(),
            node: "b".into(),
            flush: Flush::Sync,
        }],
        groups: [group("g", Order::Concurrent), group("o", Order::Orderly)]
            .into_iter()
            .chain(features::groups())
            .collect(),
        limits: Limits::default(),
        required: Required {
            acks: 20,
            deliveries: 40,
            fault_effects: 2,
        },
    }
}
