//! How long and how much memory the checker takes for a long history: events are made one by one and judged as they come.
//!
//! `cargo run --release -p orrery-checker --example ten_million [EVENTS]` prints events, seconds and the largest resident
//! memory (from `/proc/self/status`). The run is clean: any verdict but `held` ends it with status 1.

use std::process::ExitCode;
use std::time::Instant;

use orrery_checker::history::{
    BrokerConfig, ConsumeVerdict, Content, Event, Flush, GroupConfig, Header, Limits, Model, Order, Queue, Record,
    Recorded, Required, SendStatus, StartAt, VERSION,
};
use orrery_checker::{Checker, Options, Verdict};

const QUEUES: i64 = 16;
const CLIENTS: i64 = 4;
const GROUPS: [(&str, Order); 2] = [("concurrent", Order::Concurrent), ("orderly", Order::Orderly)];
/// Events of one message: sent, acknowledged, fetched, started, done, committed twice for each group; found by the scan.
const PER_MESSAGE: u64 = 2 + 5 * GROUPS.len() as u64 + 1;

struct Run {
    checker: Checker,
    t: u64,
    events: u64,
    next: u64,
}

impl Run {
    fn tell(&mut self, event: Event) {
        self.t += 50_000;
        self.events += 1;
        self.checker.observe(&Record { t: self.t, event });
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn send(&mut self, id: i64, offset: i64) {
        let uid = uid(id, offset);
        self.tell(Event::SendInvoke {
            uid: uid.clone(),
            attempt: 1,
            tries: 1,
            producer: format!("producer-{}", id % CLIENTS),
            topic: "T".into(),
            content: content(id, offset),
            wait_store: true,
        });
        self.tell(Event::SendOk {
            uid,
            attempt: 1,
            status: SendStatus::SendOk,
            queue: queue(id),
            offset,
            position: Some((offset * QUEUES + id) as u64 * 200),
        });
    }

    fn consume(&mut self, group: &str, id: i64, offset: i64) {
        let session = format!("{group}/{id}");
        self.tell(Event::Fetch {
            session: session.clone(),
            from: offset,
            next: offset + 1,
            count: 1,
        });
        let (delivery, commit) = (self.number(), self.number());
        self.tell(Event::DeliverStart {
            delivery,
            group: group.into(),
            client: client(id),
            session: Some(session),
            queue: queue(id),
            offset,
            position: None,
            uid: Some(uid(id, offset)),
            content: content(id, offset),
            reconsume: 0,
        });
        self.tell(Event::DeliverDone {
            delivery,
            verdict: ConsumeVerdict::Success,
        });
        self.tell(Event::CommitInvoke {
            commit,
            group: group.into(),
            client: client(id),
            queue: queue(id),
            offset: offset + 1,
        });
        self.tell(Event::CommitOk { commit });
    }

    fn scan(&mut self, id: i64, per_queue: i64) {
        self.tell(Event::ScanQueue {
            queue: queue(id),
            min: 0,
            max: per_queue,
        });
        for offset in 0..per_queue {
            self.tell(Event::ScanEntry {
                queue: queue(id),
                offset,
                uid: Some(uid(id, offset)),
                content: content(id, offset),
            });
        }
    }
}

fn uid(id: i64, offset: i64) -> String {
    format!("p{id}-{offset}")
}

fn client(id: i64) -> String {
    format!("client-{}", id % CLIENTS)
}

fn queue(id: i64) -> Queue {
    Queue {
        topic: "T".into(),
        broker: "b".into(),
        id: id as i32,
    }
}

fn content(id: i64, offset: i64) -> Content {
    Content {
        crc: (id * 1_000_003 + offset) as u32,
        size: 100,
        tag: Some("A".into()),
        keys: Some(format!("key-{id}-{offset}")),
    }
}

fn header() -> Header {
    use Recorded::*;
    let group = |(name, order): (&str, Order)| GroupConfig {
        name: name.into(),
        topics: vec!["T".into()],
        order,
        model: Model::Clustering,
        from: StartAt::First,
        tags: None,
    };
    Header {
        history: VERSION,
        source: "ten_million".into(),
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
            Scan,
            Drain,
        ],
        brokers: vec![BrokerConfig {
            name: "b".into(),
            node: "b".into(),
            flush: Flush::Sync,
        }],
        groups: GROUPS.into_iter().map(group).collect(),
        limits: Limits::default(),
        required: Required::default(),
    }
}

/// Largest resident memory so far, as the kernel counts it.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or("unknown".to_owned(), |line| line.trim().to_owned())
}

fn main() -> ExitCode {
    let wanted = std::env::args()
        .nth(1)
        .and_then(|count| count.parse().ok())
        .unwrap_or(10_000_000u64);
    let per_queue = (wanted.div_ceil(PER_MESSAGE) as i64 + QUEUES - 1) / QUEUES;
    let started = Instant::now();
    let mut run = Run {
        checker: Checker::new(&header()),
        t: 0,
        events: 0,
        next: 0,
    };
    for id in 0..QUEUES {
        for (group, _) in GROUPS {
            run.tell(Event::SessionOpen {
                session: format!("{group}/{id}"),
                group: group.into(),
                client: client(id),
                queue: queue(id),
                start: 0,
                asked: None,
            });
        }
    }
    for offset in 0..per_queue {
        for id in 0..QUEUES {
            run.send(id, offset);
            for (group, _) in GROUPS {
                run.consume(group, id, offset);
            }
        }
    }
    run.tell(Event::Mark { name: "drained".into() });
    for id in 0..QUEUES {
        run.scan(id, per_queue);
    }
    run.tell(Event::ScanEnd { complete: true });
    let (events, observed) = (run.events, started.elapsed());
    let report = run.checker.finish(&Options::default());
    println!("{report}");
    println!(
        "{events} events: {:.1} s to take in, {:.1} s in all, {} at most",
        observed.as_secs_f64(),
        started.elapsed().as_secs_f64(),
        peak_memory()
    );
    if report.verdict == Verdict::Held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
