//! False alarms sought: long runs of a small model that loses, binds again, retries and starts over only as it may.
//!
//! One queue of an asynchronous (or synchronous) broker, one concurrent group. Power losses cut what was not synced, kills cut
//! nothing, consumers come and go, listeners refuse, sends get no answer: every verdict must be held.

use std::collections::VecDeque;

use crate::history::ConsumeVerdict::{Later, Success};
use crate::history::{Event, Flush, SendStatus};
use crate::story::{Story, report};
use crate::{Report, Verdict};

struct Model {
    seed: u64,
    flush: Flush,
    story: Story,
    log: Vec<String>,
    synced: usize,
    sent: u64,
    /// Copies that wait in the retry topic: message and reconsumeTimes.
    retries: VecDeque<(String, u32)>,
    retry_offset: i64,
    sessions: u64,
    next: usize,
    committed: usize,
}

impl Model {
    fn new(seed: u64, flush: Flush) -> Model {
        let mut model = Model {
            seed,
            flush,
            story: Story::with_flush(flush),
            log: Vec::new(),
            synced: 0,
            sent: 0,
            retries: VecDeque::new(),
            retry_offset: 0,
            sessions: 0,
            next: 0,
            committed: 0,
        };
        model.open();
        model
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % below
    }

    fn session(&self) -> String {
        format!("s{}", self.sessions)
    }

    /// Another instance takes the queue, from the committed offset on.
    fn open(&mut self) {
        if self.sessions > 0 {
            let session = self.session();
            self.story.tell(Event::SessionClose { session });
        }
        self.sessions += 1;
        self.next = self.committed.min(self.log.len());
        let (session, client) = (self.session(), format!("c{}", self.sessions % 3));
        self.story.open(&session, "g", &client, 0, self.next as i64);
    }

    fn send(&mut self) {
        self.sent += 1;
        let uid = format!("m{}", self.sent);
        match self.draw(10) {
            0 => {
                self.story.send_lost(&uid, 1);
                if self.draw(2) == 0 {
                    self.log.push(uid.clone());
                }
                // Sent again, as clients do.
                self.story.send_again(&uid, 2, 0, self.log.len() as i64);
            }
            1 => drop(
                self.story
                    .send_graded(&uid, 0, self.log.len() as i64, SendStatus::SendOk, true),
            ),
            _ => drop(self.story.send(&uid, 0, self.log.len() as i64)),
        }
        self.log.push(uid);
        if self.flush == Flush::Sync {
            self.synced = self.log.len();
        }
    }

    fn strike(&mut self) {
        if self.draw(2) == 0 {
            self.story.kill();
        } else {
            self.story.power_loss();
            let kept = self.synced + self.draw((self.log.len() - self.synced + 1) as u64) as usize;
            self.log.truncate(kept);
            self.synced = kept;
        }
        // Offsets are saved every few seconds; these may be older.
        self.committed = self.committed.saturating_sub(self.draw(3) as usize).min(self.log.len());
    }

    fn fetch(&mut self) {
        if self.next > self.log.len() {
            // What it had read is cut: the broker says so, and it begins anew.
            let session = self.session();
            self.story.seek(&session, self.log.len() as i64);
            self.open();
        }
        let count = 1 + self.draw(6) as usize;
        let (from, next) = (self.next, self.log.len().min(self.next + count));
        let (session, client) = (self.session(), format!("c{}", self.sessions % 3));
        self.story.fetch(&session, from as i64, next as i64);
        for offset in from..next {
            let uid = self.log[offset].clone();
            if self.draw(8) == 0 {
                self.story.deliver_as(&session, offset as i64, &uid, Later).send_back();
                self.retries.push_back((uid, 1));
            } else {
                self.story.deliver_as(&session, offset as i64, &uid, Success);
            }
        }
        self.next = next;
        if self.draw(2) == 0 {
            self.committed = next;
            self.story.commit("g", &client, 0, next as i64);
        }
    }

    fn retry(&mut self) {
        let Some((uid, times)) = self.retries.pop_front() else {
            return;
        };
        self.retry_offset += 1;
        let again = times < 4 && self.draw(3) == 0;
        let verdict = if again { Later } else { Success };
        self.story.retry("g", "c1", self.retry_offset, &uid, times, verdict);
        if again {
            self.story.send_back();
            self.retries.push_back((uid, times + 1));
        }
    }

    fn run(mut self, steps: u64) -> Report {
        for _ in 0..steps {
            match self.draw(40) {
                0 => self.strike(),
                1 | 2 => self.open(),
                3..=6 => self.synced = self.log.len(),
                7..=10 => self.retry(),
                11..=20 => self.fetch(),
                _ => self.send(),
            }
        }
        // What one instance has read of a lost slot is not what lies there now: all is read once more, from the start.
        self.committed = 0;
        self.story.tell(Event::OffsetReset {
            group: "g".into(),
            queue: crate::story::queue(0),
            offset: 0,
        });
        self.open();
        while self.next < self.log.len() {
            self.fetch();
        }
        while !self.retries.is_empty() {
            self.retry();
        }
        self.story.drained();
        let uids: Vec<&str> = self.log.iter().map(String::as_str).collect();
        self.story.scan(0, &uids);
        report(&self.story)
    }
}

#[test]
fn long_runs_with_faults_inside_the_budget_are_held() {
    for flush in [Flush::Sync, Flush::Async] {
        let mut lost = 0;
        for seed in 0..100 {
            let report = Model::new(seed, flush).run(1_000);
            assert_eq!(report.verdict, Verdict::Held, "{flush:?}, seed {seed}: {report}");
            lost += report.rpo.lost;
        }
        assert_eq!(lost > 0, flush == Flush::Async, "{flush:?}: {lost} lost");
    }
}

#[test]
fn the_same_losses_outside_the_budget_are_violations() {
    let mut violated = 0;
    for seed in 0..20 {
        let mut model = Model::new(seed, Flush::Async);
        // The broker promises more than it keeps.
        model.story.history.header.brokers[0].flush = Flush::Sync;
        violated += u64::from(matches!(model.run(1_000).verdict, Verdict::Violated(_)));
    }
    assert!(violated > 10, "{violated}");
}
