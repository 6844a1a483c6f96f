//! # C14 Orderly exclusivity
//!
//! **Law.** Two instances of an orderly group never have messages of one queue in their listeners at the same time.
//!
//! **Why clients depend on it.** Orderly listeners are written without locks: the queue is the lock.
//!
//! **How.** Sweep the `[start, done]` intervals of each group and queue in order of start. At an overlap look at the lock of
//! the instance that was first. While its lease at the broker lasted (asked last + lease, less drift), nobody else may have been
//! granted the queue: a violation. An interval that began while its own belief was valid and outlived the lease is
//! counted, not condemned: no broker can stop a listener. O(n log n).

use std::collections::HashMap;

use super::{Findings, Law, Property, seconds};
use crate::history::Recorded;
use crate::ledger::{Delivery, Ledger, Step};
use crate::names::Id;

pub(super) const PROPERTY: Property = Property {
    law: Law {
        id: "C14",
        title: "orderly queue consumed by two at once",
        needs: &[Recorded::Deliveries],
        also: None,
    },
    check,
};

/// Renewals of the lock of one (group, queue) by one client: time of the answer, when asked; an end has no `asked`.
type Renewals = HashMap<(Id, Id, Id), Vec<(u64, Option<u64>)>>;

fn check(ledger: &Ledger, findings: &mut Findings) {
    let renewals = renewals(ledger);
    let mut orderly: Vec<&Delivery> = ledger
        .deliveries
        .iter()
        .filter(|delivery| ledger.is_orderly(delivery.group) && ledger.is_clustering(delivery.group))
        .collect();
    orderly.sort_by_key(|delivery| (delivery.group, delivery.queue, delivery.started));
    for queue in orderly.chunk_by(|a, b| (a.group, a.queue) == (b.group, b.queue)) {
        let mut longest = queue[0];
        for &next in &queue[1..] {
            if next.client != longest.client && next.started < longest.ended {
                judge(ledger, findings, &renewals, longest, next);
            }
            if next.ended > longest.ended || next.client == longest.client {
                longest = next;
            }
        }
    }
}

fn judge(ledger: &Ledger, findings: &mut Findings, renewals: &Renewals, first: &Delivery, second: &Delivery) {
    let limits = &ledger.limits;
    let ms = |value: u64| value.saturating_mul(1_000_000);
    let drift = |span: u64| span - span / 1_000_000 * limits.clock_drift_ppm.min(1_000_000);
    let lock = renewals
        .get(&(first.group, first.queue, first.client))
        .and_then(|events| events.iter().rev().find(|(t, _)| *t <= second.started))
        .and_then(|&(_, asked)| asked);
    let (why, asked) = match lock {
        None if ledger.is_recorded(Recorded::Locks) => ("without a lock".to_owned(), 0),
        None => ("no locks are recorded".to_owned(), first.started),
        Some(asked) => (format!("with a lock renewed at {}", seconds(asked)), asked),
    };
    let lease_lasts = second.started < asked.saturating_add(drift(ms(limits.lock_lease_ms)));
    let began_valid = first.started <= asked.saturating_add(ms(limits.lock_validity_ms));
    if !lease_lasts && began_valid && asked > 0 {
        findings.outlived_locks += 1;
        return;
    }
    findings.violation(
        second.started,
        format!(
            "{} of {}: {} holds {} (offset {}) from {} to {} {why}, {} gets {} (offset {}) at {}",
            ledger.queue_name(first.queue),
            ledger.text(first.group),
            ledger.text(first.client),
            ledger.uid_name(first.uid),
            first.offset,
            seconds(first.started),
            seconds(first.ended),
            ledger.text(second.client),
            ledger.uid_name(second.uid),
            second.offset,
            seconds(second.started)
        ),
    );
}

fn renewals(ledger: &Ledger) -> Renewals {
    let mut renewals = Renewals::new();
    for &(t, step) in &ledger.steps {
        let (index, granted) = match step {
            Step::LockOk(index) => (index, true),
            Step::LockEnd(index) => (index, false),
            _ => continue,
        };
        let point = ledger.points[index as usize];
        renewals
            .entry((point.group, point.queue, point.client))
            .or_default()
            .push((t, granted.then_some(point.asked)));
    }
    renewals
}

#[cfg(test)]
mod tests {
    use crate::story::{Story, broken, report};

    #[test]
    fn two_instances_one_after_the_other_are_accepted() {
        let mut story = Story::orderly();
        story.send("a", 0, 0).send("b", 0, 1);
        story
            .lock("o", "c1", 0)
            .deliver("o", "c1", 0, 0, "a")
            .unlock("o", "c1", 0);
        story.lock("o", "c2", 0).deliver("o", "c2", 0, 1, "b");
        assert_eq!(broken(&story), [] as [&str; 0]);
    }

    #[test]
    fn two_instances_at_once_are_rejected() {
        let mut story = Story::orderly();
        story.send("a", 0, 0).lock("o", "c1", 0);
        let held = story.start("o", "c1", 0, 0, "a");
        story.lock("o", "c2", 0).deliver("o", "c2", 0, 0, "a").done(held);
        assert_eq!(broken(&story), ["C14"]);
    }

    #[test]
    fn a_listener_that_outlives_its_lease_is_counted_only() {
        let mut story = Story::orderly();
        story.send("a", 0, 0).lock("o", "c1", 0);
        let held = story.start("o", "c1", 0, 0, "a");
        story
            .wait_ms(61_000)
            .lock("o", "c2", 0)
            .deliver("o", "c2", 0, 0, "a")
            .done(held);
        let report = report(&story);
        assert_eq!(report.violations(), []);
        assert_eq!(report.counts.outlived_locks, 1);
    }

    #[test]
    fn a_listener_whose_process_died_holds_nothing() {
        let mut story = Story::orderly();
        story.send("a", 0, 0).lock("o", "c1", 0);
        story.start("o", "c1", 0, 0, "a");
        story.kill_client("c1").lock("o", "c2", 0).deliver("o", "c2", 0, 0, "a");
        assert_eq!(broken(&story), [] as [&str; 0]);
    }
}
