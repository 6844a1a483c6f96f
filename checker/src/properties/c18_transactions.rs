//! # C18 Transactions
//!
//! **Law.** (a) What was rolled back or discarded is never visible; (b) nothing is before its producer commits; (c) what the broker
//! has committed is in the real topic, and no more often than it was committed; (d) a half message without an end is checked within its
//! immunity time and two cycles, if a producer of its group lives; (e) none is discarded before the configured
//! number of checks; (f) none is checked a cycle after its end took effect; (g) not both ends take effect.
//! Source: `TransactionalMessageServiceImpl.check`, `EndTransactionProcessor`; `transactionTimeOut` 6 s, `transactionCheckMax` 15,
//! `transactionCheckInterval` 30 s.
//!
//! **Why clients depend on it.** The message and the database must agree, whoever dies in between.
//!
//! **Excused.** (c) After a power loss or on a lost disk, and if retention has cut a queue, a message may be gone; a second commit may
//! store it again. (d) If a fault struck since the message was stored, or no producer has been there since.
//!
//! **How.** One state for each half message, then one pass over deliveries and the scan. O(n).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Findings, Law, Watch, Watched, seconds};
use crate::calm::Calm;
use crate::history::{Event, FaultKind, FaultPhase, Recorded, Resolution};
use crate::ledger::{Ledger, NEVER};
use crate::names::{Id, NONE};

pub(super) const WATCHED: Watched = Watched {
    law: Law {
        id: "C18",
        title: "transaction broken",
        needs: &[
            Recorded::Sends,
            Recorded::Deliveries,
            Recorded::Faults,
            Recorded::Transactions,
        ],
        also: None,
    },
    watch: || Box::new(Transactions::default()),
};

#[derive(Default)]
struct Transactions {
    calm: Calm,
    halves: BTreeMap<u64, Half>,
    /// Live producers and since when, by group.
    producers: BTreeMap<(Id, Id), u64>,
    may_be_lost: bool,
    last: u64,
    wrong: Vec<(u64, Id, String)>,
}

struct Half {
    uid: Id,
    group: Id,
    stored: u64,
    commits: u32,
    first_commit: u64,
    is_rolled_back: bool,
    resolved: Option<(u64, Resolution)>,
    checks: u32,
}

impl Transactions {
    fn died(&mut self, client: Id) {
        self.producers.retain(|&(_, producer), _| producer != client);
    }

    /// Must this half message have been checked by `t`?
    fn is_overdue(&self, half: &Half, t: u64, ledger: &Ledger) -> bool {
        let limits = &ledger.limits;
        let wait_ms = limits
            .transaction_timeout_ms
            .saturating_add(limits.transaction_check_ms.saturating_mul(2));
        let is_calm = self.calm.since().is_some_and(|since| since <= half.stored);
        let mut producers = self.producers.range((half.group, 0)..=(half.group, NONE));
        t > half.stored.saturating_add(wait_ms.saturating_mul(1_000_000))
            && is_calm
            && producers.any(|(_, &since)| since <= half.stored)
            && !half.is_rolled_back
            && half.commits == 0
            && half.resolved.is_none()
    }

    fn check(&mut self, t: u64, transaction: u64, ledger: &Ledger) {
        let Some(half) = self.halves.get(&transaction) else {
            return;
        };
        let (uid, cycle_ns) = (half.uid, ledger.limits.transaction_check_ms.saturating_mul(1_000_000));
        if let Some((resolved, _)) = half.resolved.filter(|&(at, _)| t > at.saturating_add(cycle_ns)) {
            self.wrong
                .push((t, uid, format!("checked, though it ended at {}", seconds(resolved))));
        } else if half.checks == 0 && self.is_overdue(half, t, ledger) {
            self.wrong
                .push((t, uid, format!("stored at {}, checked only now", seconds(half.stored))));
        }
        if let Some(half) = self.halves.get_mut(&transaction) {
            half.checks += 1;
        }
    }

    fn resolve(&mut self, t: u64, transaction: u64, resolution: Resolution, ledger: &Ledger) {
        let Some(half) = self.halves.get_mut(&transaction) else {
            return;
        };
        let is_commit = |resolution| resolution == Resolution::Commit;
        if let Some((_, before)) = half
            .resolved
            .filter(|&(_, before)| is_commit(before) != is_commit(resolution))
        {
            self.wrong
                .push((t, half.uid, format!("both {before:?} and {resolution:?} took effect")));
        }
        if resolution == Resolution::Discard && half.checks < ledger.limits.transaction_checks {
            let text = format!(
                "discarded after {} of {} checks",
                half.checks, ledger.limits.transaction_checks
            );
            self.wrong.push((t, half.uid, text));
        }
        half.resolved.get_or_insert((t, resolution));
    }
}

impl Watch for Transactions {
    fn observe(&mut self, t: u64, event: &Event, ledger: &mut Ledger) {
        self.last = t;
        self.calm.observe(t, event);
        match event {
            Event::Fault {
                fault,
                phase: FaultPhase::Begin,
                nodes,
                ..
            } => {
                self.may_be_lost |= matches!(fault, FaultKind::PowerLoss | FaultKind::DiskLost);
                if matches!(fault, FaultKind::PowerLoss | FaultKind::Kill) {
                    for node in nodes {
                        self.died(ledger.name(node));
                    }
                }
            }
            Event::MemberJoined { group, client } => {
                self.producers.insert((ledger.name(group), ledger.name(client)), t);
            }
            Event::MemberLeft { group, client } => {
                self.producers.remove(&(ledger.name(group), ledger.name(client)));
            }
            Event::HalfOk {
                uid,
                transaction,
                group,
            } => {
                let half = Half {
                    uid: ledger.uid(uid),
                    group: ledger.name(group),
                    stored: t,
                    commits: 0,
                    first_commit: NEVER,
                    is_rolled_back: false,
                    resolved: None,
                    checks: 0,
                };
                self.halves.insert(*transaction, half);
            }
            Event::TransactionEnd {
                transaction,
                resolution,
            } => {
                let Some(half) = self.halves.get_mut(transaction) else {
                    return;
                };
                match resolution {
                    Resolution::Commit => {
                        half.commits += 1;
                        half.first_commit = half.first_commit.min(t);
                        if half.commits > 1 {
                            ledger.allow_another_slot(half.uid);
                        }
                    }
                    Resolution::Rollback => half.is_rolled_back = true,
                    Resolution::Unknown | Resolution::Discard => {}
                }
            }
            Event::TransactionCheck { transaction, .. } => self.check(t, *transaction, ledger),
            Event::TransactionResolved {
                transaction,
                resolution,
            } => self.resolve(t, *transaction, *resolution, ledger),
            _ => {}
        }
    }

    fn judge(&mut self, ledger: &Ledger, findings: &mut Findings) {
        let by_uid: HashMap<Id, &Half> = self.halves.values().map(|half| (half.uid, half)).collect();
        // First seen, and slots.
        let mut visible: HashMap<Id, (u64, BTreeSet<(Id, i64)>)> = HashMap::new();
        let mut see = |t: u64, uid: Id, queue: Id, offset: i64| {
            if by_uid.contains_key(&uid) && !ledger.queue_info(queue).system {
                let seen = visible.entry(uid).or_insert((t, BTreeSet::new()));
                seen.0 = seen.0.min(t);
                seen.1.insert((queue, offset));
            }
        };
        for delivery in &ledger.deliveries {
            see(delivery.started, delivery.uid, delivery.queue, delivery.offset);
        }
        for (&queue, scan) in &ledger.scans {
            for entry in &scan.entries {
                see(entry.t, entry.uid, queue, entry.offset);
            }
        }
        let is_scanned = ledger.scan_complete == Some(true);
        let may_be_gone = self.may_be_lost || ledger.scans.values().any(|scan| scan.min > 0);
        for half in self.halves.values() {
            let mut tell = |t: u64, text: String| self.wrong.push((t, half.uid, text));
            let is_undone = half.is_rolled_back && half.commits == 0
                || matches!(half.resolved, Some((_, Resolution::Rollback | Resolution::Discard)));
            match visible.get(&half.uid) {
                Some(&(t, _)) if is_undone => tell(t, "rolled back, and visible".to_owned()),
                Some(&(t, _)) if t < half.first_commit => {
                    tell(
                        t,
                        format!("visible before its commit at {}", seconds(half.first_commit)),
                    );
                }
                Some((t, slots)) if slots.len() > half.commits as usize && !self.may_be_lost => {
                    tell(
                        *t,
                        format!("visible in {} slots after {} commit(s)", slots.len(), half.commits),
                    );
                }
                None if is_scanned && !may_be_gone => {
                    if let Some((t, Resolution::Commit)) = half.resolved {
                        tell(t, "committed, and not in its topic".to_owned());
                    }
                }
                _ => {}
            }
        }
        for half in self.halves.values() {
            if half.checks == 0 && self.is_overdue(half, self.last, ledger) {
                let text = format!("stored at {}, never checked", seconds(half.stored));
                self.wrong.push((self.last, half.uid, text));
            }
        }
        for (t, uid, text) in self.wrong.drain(..) {
            findings.violation(t, format!("transaction of {}: {text}", ledger.uid_name(uid)));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::history::{Event, Recorded, Resolution};
    use crate::story::{Story, broken};
    use Resolution::{Commit, Discard, Rollback, Unknown};

    /// A producer, and the half message `a`.
    fn half() -> Story {
        let mut story = Story::new();
        story.records(Recorded::Transactions).tell(Event::MemberJoined {
            group: "pg".into(),
            client: "p".into(),
        });
        story.invoke("a").tell(Event::HalfOk {
            uid: "a".into(),
            transaction: 1,
            group: "pg".into(),
        });
        story
    }

    fn end(story: &mut Story, resolution: Resolution) -> &mut Story {
        story.tell(Event::TransactionEnd {
            transaction: 1,
            resolution,
        })
    }

    fn resolved(story: &mut Story, resolution: Resolution) -> &mut Story {
        story.tell(Event::TransactionResolved {
            transaction: 1,
            resolution,
        })
    }

    fn check(story: &mut Story) -> &mut Story {
        story.tell(Event::TransactionCheck {
            transaction: 1,
            client: "p".into(),
        })
    }

    #[test]
    fn a_committed_message_that_is_delivered_and_one_rolled_back_that_is_not_are_accepted() {
        let mut story = half();
        end(&mut story, Commit);
        resolved(&mut story, Commit)
            .deliver("g", "c1", 0, 0, "a")
            .scan(0, &["a"]);
        assert_eq!(broken(&story), [] as [&str; 0]);
        let mut undone = half();
        end(&mut undone, Rollback);
        resolved(&mut undone, Rollback).send("b", 0, 0).scan(0, &["b"]);
        assert_eq!(broken(&undone), [] as [&str; 0]);
    }

    #[test]
    fn a_a_rolled_back_message_that_is_delivered_is_rejected() {
        let mut story = half();
        end(&mut story, Rollback).deliver("g", "c1", 0, 0, "a");
        assert_eq!(broken(&story), ["C18"]);
    }

    #[test]
    fn b_a_message_that_is_delivered_before_its_commit_is_rejected() {
        let mut story = half();
        story.deliver("g", "c1", 0, 0, "a");
        end(&mut story, Commit);
        assert_eq!(broken(&story), ["C18"]);
    }

    #[test]
    fn c_a_committed_message_is_there_as_often_as_it_was_committed() {
        let mut missing = half();
        end(&mut missing, Commit);
        resolved(&mut missing, Commit).send("b", 0, 0).scan(0, &["b"]);
        assert_eq!(broken(&missing), ["C18"]);
        let mut twice = half();
        end(&mut twice, Commit);
        let mut again = twice.clone();
        twice.scan(0, &["a", "a"]);
        assert_eq!(broken(&twice), ["C03", "C18"]);
        end(&mut again, Commit).scan(0, &["a", "a"]);
        assert_eq!(broken(&again), [] as [&str; 0]);
    }

    #[test]
    fn d_a_message_that_nobody_asks_about_is_rejected_while_its_producer_lives() {
        let mut story = half();
        end(&mut story, Unknown).wait_ms(100_000);
        let (mut checked, mut dead) = (story.clone(), story.clone());
        story.tell(Event::Mark { name: "end".into() });
        assert_eq!(broken(&story), ["C18"]);
        check(&mut checked);
        assert_eq!(broken(&checked), ["C18"]);
        dead.kill_client("p");
        assert_eq!(broken(&dead), [] as [&str; 0]);
    }

    #[test]
    fn e_a_message_that_is_discarded_too_early_is_rejected() {
        for (checks, laws) in [(15, &[][..]), (14, &["C18"])] {
            let mut story = half();
            for _ in 0..checks {
                check(story.wait_ms(30_000));
            }
            resolved(&mut story, Discard);
            assert_eq!(broken(&story), laws);
        }
    }

    #[test]
    fn f_a_check_long_after_the_end_is_rejected() {
        for (ms, laws) in [(10_000, &[][..]), (40_000, &["C18"])] {
            let mut story = half();
            end(&mut story, Rollback);
            check(resolved(&mut story, Rollback).wait_ms(ms));
            assert_eq!(broken(&story), laws);
        }
    }

    #[test]
    fn g_two_ends_that_take_effect_are_rejected() {
        let mut story = half();
        end(&mut story, Commit);
        resolved(&mut story, Commit).scan(0, &["a"]);
        resolved(&mut story, Rollback);
        assert_eq!(broken(&story), ["C18"]);
    }
}
