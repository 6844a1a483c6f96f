//! What a group's committed offset on a queue may be, as far as a client can know.
//!
//! The broker keeps the last commit that reached it. A commit that was answered counts from its answer; one that was
//! not may still arrive, for [`LATE_NS`] at most. Committed offsets are saved every few seconds: a crash of the broker
//! may forget what was committed less than `offset_persist_ms` before. A power loss of an async-flush broker may also
//! cut the queue, and offsets with it: a consumer that had read past the cut is set back, and what it commits from
//! its old position may be answered and still not count.

use std::collections::HashMap;

use crate::history::Flush;
use crate::ledger::{Commit, Ledger, Step};
use crate::names::Id;

/// An unanswered commit is dead after this: longer than any transport keeps data for a silent peer.
const LATE_NS: u64 = 60_000_000_000;

#[derive(Default)]
struct Register {
    /// Values known to be committed, rising, with the time from which they are.
    known: Vec<(u64, i64)>,
    /// Commits under way: index and offset.
    open: Vec<(u32, i64)>,
    /// Commits that may have arrived or not: time of the end, offset.
    unanswered: Vec<(u64, i64)>,
    highest_invoked: i64,
}

impl Register {
    fn learn(&mut self, t: u64, offset: i64) {
        while self.known.last().is_some_and(|&(_, top)| top >= offset) {
            self.known.pop();
        }
        self.known.push((t, offset));
    }

    fn crash(&mut self, t: u64, forgets_ns: u64) {
        let safe = t.saturating_sub(forgets_ns);
        self.known.retain(|&(known, _)| known <= safe);
    }

    /// The least that a question asked at `asked` and answered at `t` may be told.
    fn floor(&self, asked: u64, t: u64) -> i64 {
        let index = self.known.partition_point(|&(known, _)| known < asked);
        let Some(&(_, known)) = self.known[..index].last() else {
            return 0;
        };
        let open = self.open.iter().map(|&(_, offset)| offset);
        let unanswered = self.unanswered.iter().filter(|(end, _)| end + LATE_NS > t);
        open.chain(unanswered.map(|&(_, offset)| offset)).fold(known, i64::min)
    }
}

/// The committed offsets of all groups, advanced step by step.
#[derive(Default)]
pub(crate) struct Committed {
    registers: HashMap<(Id, Id), Register>,
    /// When the latest session of a client of a group on a queue began.
    sessions: HashMap<(Id, Id, Id), u64>,
    /// When a power loss last may have cut a broker's queues.
    cuts: HashMap<usize, u64>,
}

impl Committed {
    pub(crate) fn advance(&mut self, ledger: &Ledger, t: u64, step: Step) {
        match step {
            Step::SessionOpen(index) => {
                let session = ledger.sessions[index as usize];
                self.sessions.insert((session.group, session.queue, session.client), t);
            }
            Step::CommitInvoke(index) => {
                let commit = ledger.commits[index as usize];
                let register = self.register(commit.group, commit.queue);
                register.open.push((index, commit.offset));
                register.highest_invoked = register.highest_invoked.max(commit.offset);
            }
            Step::CommitOk(index) => {
                let commit = ledger.commits[index as usize];
                let is_old = self.is_from_before_a_cut(ledger, commit);
                let register = self.register(commit.group, commit.queue);
                register.open.retain(|&(open, _)| open != index);
                if is_old {
                    register.known.clear();
                } else {
                    register.learn(t, commit.offset);
                }
            }
            Step::CommitInfo(index) => {
                let commit = ledger.commits[index as usize];
                let register = self.register(commit.group, commit.queue);
                register.open.retain(|&(open, _)| open != index);
                register.unanswered.retain(|(end, _)| end + LATE_NS > t);
                register.unanswered.push((t, commit.offset));
            }
            Step::OffsetRead(index) => {
                let point = ledger.points[index as usize];
                let register = self.register(point.group, point.queue);
                // An impossible answer (C12) teaches nothing.
                register.learn(t, point.offset.min(register.highest_invoked));
            }
            Step::OffsetReset(index) => {
                let point = ledger.points[index as usize];
                let register = self.register(point.group, point.queue);
                register.known.clear();
                register.highest_invoked = register.highest_invoked.max(point.offset);
            }
            Step::Crash(broker, power) => self.crash(ledger, t, broker as usize, power),
            _ => {}
        }
    }

    /// The least committed offset that the broker may answer to a question asked at `asked`, answered at `t`.
    pub(crate) fn floor(&mut self, group: Id, queue: Id, asked: u64, t: u64) -> i64 {
        self.register(group, queue).floor(asked, t)
    }

    /// The highest offset that anyone tried to commit.
    pub(crate) fn highest_invoked(&mut self, group: Id, queue: Id) -> i64 {
        self.register(group, queue).highest_invoked
    }

    fn is_from_before_a_cut(&self, ledger: &Ledger, commit: Commit) -> bool {
        let broker = ledger.queue_info(commit.queue).broker;
        let cut = broker.and_then(|broker| self.cuts.get(&broker));
        let began = self.sessions.get(&(commit.group, commit.queue, commit.client));
        cut.is_some_and(|cut| began.is_none_or(|began| began < cut))
    }

    fn register(&mut self, group: Id, queue: Id) -> &mut Register {
        self.registers.entry((group, queue)).or_default()
    }

    fn crash(&mut self, ledger: &Ledger, t: u64, broker: usize, power: bool) {
        let cuts_queues = power && ledger.brokers[broker].flush == Flush::Async;
        let forgets_ns = ledger.limits.offset_persist_ms.saturating_mul(1_000_000);
        if cuts_queues {
            self.cuts.insert(broker, t);
        }
        for (&(_, queue), register) in &mut self.registers {
            if ledger.queue_info(queue).broker == Some(broker) {
                if cuts_queues {
                    register.known.clear();
                } else {
                    register.crash(t, forgets_ns);
                }
            }
        }
    }
}
