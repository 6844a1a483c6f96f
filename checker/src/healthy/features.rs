//! The part of the healthy run for checks that need events of their own: each feature on a topic of its own, after the last
//! fault.

use super::{Healthy, client, content, queue};
use crate::history::{
    ConsumeVerdict, Event, GroupConfig, Model, Order, Queue, Recorded, Resolution, SendStatus, StartAt,
};

/// What else is recorded.
pub(super) const RECORDS: &[Recorded] = &[
    Recorded::Facts,
    Recorded::Assignments,
    Recorded::Routes,
    Recorded::Probes,
    Recorded::Batches,
    Recorded::Hygiene,
    Recorded::Checkpoints,
    Recorded::Transactions,
    Recorded::Delays,
    Recorded::Pops,
    Recorded::Replication,
    Recorded::Consensus,
];

/// Topics of the features, each with what its queue 0 holds in the end.
const STORED: &[(&str, &[&str])] = &[
    ("Wide", &["w-0", "w-1", "w-2"]),
    ("Half", &["half-0", "half-2"]),
    ("Late", &["late-0"]),
    ("Pop", &["pop-0", "pop-1"]),
    ("Probe", &["probe-0"]),
    ("Batch", &["batch-0", "batch-1", "batch-2"]),
];

pub(super) fn groups() -> [GroupConfig; 2] {
    let group = |name: &str, topic: &str, model| GroupConfig {
        name: name.into(),
        topics: vec![topic.into()],
        order: Order::Concurrent,
        model,
        from: StartAt::First,
        tags: None,
    };
    [
        group("wide", "Wide", Model::Broadcasting),
        group("probes", "Probe", Model::Clustering),
    ]
}

fn queue_of(topic: &str) -> Queue {
    Queue {
        topic: topic.into(),
        ..queue(0)
    }
}

impl Healthy {
    pub(super) fn features(&mut self) {
        self.tell(Event::Mark { name: "healed".into() });
        let probe = queue_of("Probe");
        self.tell(Event::Probe {
            uid: "probe-0".into(),
            queue: probe,
        });
        self.send_to("Probe", 0, "probe-0");
        self.hand_out("probes", "c1", "Probe", 0, "probe-0");
        self.assignments();
        self.broadcast();
        self.transactions();
        self.delay();
        self.pops();
        self.batch();
        self.replicas();
        self.consensus();
        self.routes();
        self.t += 200_000_000_000;
        for _ in 0..2 {
            self.tell(Event::AtRest {
                node: "b".into(),
                tasks: 12,
                files: 30,
                buffered_bytes: 0,
                locks: 0,
            });
        }
        for run in 1..=2 {
            for hash in [7, 8, 9] {
                let events = hash * 1000;
                self.tell(Event::Checkpoint { run, events, hash });
            }
        }
    }

    pub(super) fn scan_features(&mut self) {
        for (topic, uids) in STORED {
            self.tell(Event::ScanQueue {
                queue: queue_of(topic),
                min: 0,
                max: uids.len() as i64,
            });
            for (offset, &uid) in (0..).zip(*uids) {
                self.tell(Event::ScanEntry {
                    queue: queue_of(topic),
                    offset,
                    content: content(uid),
                    uid: Some(uid.into()),
                });
            }
        }
    }

    fn invoke(&mut self, topic: &str, uid: &str) {
        self.tell(Event::SendInvoke {
            uid: uid.into(),
            attempt: 1,
            tries: 1,
            producer: "p0".into(),
            topic: topic.into(),
            content: content(uid),
            wait_store: true,
        });
    }

    fn send_to(&mut self, topic: &str, offset: i64, uid: &str) {
        self.invoke(topic, uid);
        self.tell(Event::SendOk {
            uid: uid.into(),
            attempt: 1,
            status: SendStatus::SendOk,
            queue: queue_of(topic),
            offset,
            position: None,
        });
    }

    fn hand_out(&mut self, group: &str, client: &str, topic: &str, offset: i64, uid: &str) {
        let delivery = self.number();
        self.tell(Event::DeliverStart {
            delivery,
            group: group.into(),
            client: client.into(),
            session: None,
            queue: queue_of(topic),
            offset,
            position: None,
            uid: Some(uid.into()),
            content: content(uid),
            reconsume: 0,
        });
        let verdict = ConsumeVerdict::Success;
        self.tell(Event::DeliverDone { delivery, verdict });
    }

    fn join(&mut self, group: &str, client: &str) {
        self.tell(Event::MemberJoined {
            group: group.into(),
            client: client.into(),
        });
    }

    fn assign(&mut self, group: &str, client: &str, queues: Vec<Queue>) {
        self.tell(Event::Assigned {
            group: group.into(),
            client: client.into(),
            queues,
        });
    }

    fn assignments(&mut self) {
        self.tell(Event::TopicQueues {
            topic: "T".into(),
            queues: vec![queue(0), queue(1)],
        });
        for half in 0..2 {
            self.join("g", &client(half));
        }
        for half in 0..2 {
            self.assign("g", &client(half), vec![queue(half as i32)]);
        }
    }

    fn broadcast(&mut self) {
        for client in ["w1", "w2"] {
            self.tell(Event::SessionOpen {
                session: format!("wide/{client}"),
                group: "wide".into(),
                client: client.into(),
                queue: queue_of("Wide"),
                start: 0,
                asked: None,
            });
        }
        for (offset, uid) in (0..).zip(["w-0", "w-1", "w-2"]) {
            self.send_to("Wide", offset, uid);
            for client in ["w1", "w2"] {
                self.hand_out("wide", client, "Wide", offset, uid);
            }
        }
    }

    /// One commits, one rolls back, one is asked first.
    fn transactions(&mut self) {
        self.join("producers", "p0");
        let ends = [Resolution::Commit, Resolution::Rollback, Resolution::Commit];
        for (transaction, resolution) in (0..).zip(ends) {
            let uid = format!("half-{transaction}");
            self.invoke("Half", &uid);
            self.tell(Event::HalfOk {
                uid,
                transaction,
                group: "producers".into(),
            });
            if transaction == 2 {
                self.tell(Event::TransactionEnd {
                    transaction,
                    resolution: Resolution::Unknown,
                });
                self.t += 30_000_000_000;
                self.tell(Event::TransactionCheck {
                    transaction,
                    client: "p0".into(),
                });
            }
            self.tell(Event::TransactionEnd {
                transaction,
                resolution,
            });
            self.tell(Event::TransactionResolved {
                transaction,
                resolution,
            });
        }
    }

    fn delay(&mut self) {
        self.invoke("Late", "late-0");
        let due = self.t + 10_000_000_000;
        self.tell(Event::Delayed {
            uid: "late-0".into(),
            due,
        });
        self.t = due;
        self.hand_out("late", "c1", "Late", 0, "late-0");
    }

    /// One is acknowledged, one comes twice.
    fn pops(&mut self) {
        for (pop, offset) in [(1, 0), (2, 1), (3, 1)] {
            let uid = format!("pop-{offset}");
            if pop < 3 {
                self.send_to("Pop", offset, &uid);
            }
            let until = self.t + 20_000_000_000;
            self.tell(Event::Popped {
                pop,
                group: "pops".into(),
                client: "c1".into(),
                uid,
                until,
            });
            match pop {
                2 => self.t = until,
                _ => self.tell(Event::PopAcked { pop }),
            }
        }
    }

    fn batch(&mut self) {
        let uids = ["batch-0", "batch-1", "batch-2"];
        self.tell(Event::Batch {
            uids: uids.iter().map(|&uid| uid.into()).collect(),
        });
        for (offset, uid) in (0..).zip(uids) {
            self.send_to("Batch", offset, uid);
        }
    }

    /// Two masters, one after the other, and what both hold.
    fn replicas(&mut self) {
        for (node, epoch, position) in [("n1", 1, 0), ("n2", 2, 100)] {
            self.tell(Event::Role {
                node: node.into(),
                broker: "b".into(),
                epoch: Some(epoch),
                is_master: true,
            });
            self.tell(Event::Acknowledged {
                node: node.into(),
                queue: queue_of("Batch"),
                offset: epoch as i64,
                code: 0,
            });
            for node in ["n1", "n2"] {
                self.tell(Event::Confirmed {
                    node: node.into(),
                    broker: "b".into(),
                    position,
                    size: 100,
                    crc: 7,
                });
            }
        }
    }

    fn consensus(&mut self) {
        for (term, leader, last) in [(1, "n1", 0), (2, "n2", 5)] {
            for node in ["n2", "n3"] {
                self.tell(Event::Voted {
                    node: node.into(),
                    set: "b".into(),
                    term,
                    candidate: leader.into(),
                });
            }
            self.tell(Event::Elected {
                node: leader.into(),
                set: "b".into(),
                term,
                last,
            });
            self.tell(Event::EntriesCommitted {
                node: leader.into(),
                set: "b".into(),
                term,
                index: last + 1,
                last: last + 2,
                holders: vec!["n2".into(), "n3".into()],
                members: vec!["n1".into(), "n2".into(), "n3".into()],
            });
        }
    }

    fn routes(&mut self) {
        for address in ["10.0.0.1:10911", "10.0.0.2:10911"] {
            self.tell(Event::Master {
                broker: "b".into(),
                address: Some(address.into()),
            });
            for holder in ["ns1", "c1"] {
                self.tell(Event::Route {
                    holder: holder.into(),
                    broker: "b".into(),
                    addresses: vec![address.into()],
                });
            }
        }
    }
}
