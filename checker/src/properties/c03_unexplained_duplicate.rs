//! # C03 Unexplained duplicate
//!
//! **Law.** A message occupies at most as many slots as it had wire attempts that are not proven to have stored nothing.
//!
//! **Why clients depend on it.** Retries may duplicate, and producers know which sends they retried. A broker that stores
//! a message twice by itself, or stores one that it refused, breaks every count.
//!
//! **How.** Collect the distinct slots of each message from acknowledgements, deliveries and the final scan; compare with
//! its attempts. Retry and dead-letter topics are the broker's own copies and do not count. O(n log n).

use super::{Findings, Law, Property};
use crate::history::Recorded;
use crate::ledger::{Ledger, NEVER, Outcome};
use crate::names::NONE;

pub(super) const PROPERTY: Property = Property {
    law: Law {
        id: "C03",
        title: "unexplained duplicate",
        needs: &[Recorded::Sends],
        also: None,
    },
    check,
};

fn check(ledger: &Ledger, findings: &mut Findings) {
    let acknowledged = ledger
        .attempts
        .iter()
        .filter(|attempt| matches!(attempt.outcome, Outcome::Ok(_)))
        .map(|attempt| (attempt.uid, attempt.queue, attempt.offset, attempt.ended));
    let delivered = ledger
        .deliveries
        .iter()
        .map(|delivery| (delivery.uid, delivery.queue, delivery.offset, delivery.started));
    let scanned = ledger.scans.iter().flat_map(|(&queue, scan)| {
        scan.entries
            .iter()
            .map(move |entry| (entry.uid, queue, entry.offset, entry.t))
    });
    let mut slots: Vec<_> = acknowledged
        .chain(delivered)
        .chain(scanned)
        .filter(|&(uid, queue, _, _)| uid != NONE && !ledger.queue_info(queue).system)
        .collect();
    slots.sort_unstable();
    slots.dedup_by_key(|&mut (uid, queue, offset, _)| (uid, queue, offset));
    for of_one in slots.chunk_by(|a, b| a.0 == b.0) {
        let message = &ledger.messages[of_one[0].0 as usize];
        if message.sent == NEVER || of_one.len() <= message.tries as usize {
            continue;
        }
        let t = of_one.iter().map(|slot| slot.3).max().unwrap_or(0);
        let places: Vec<_> = of_one
            .iter()
            .map(|&(_, queue, offset, _)| format!("{} offset {offset}", ledger.queue_name(queue)))
            .collect();
        let refused = if message.failed { ", and one that failed" } else { "" };
        findings.violation(
            t,
            format!(
                "{} occupies {} with {} attempt(s) that may have stored it{refused}",
                ledger.uid_name(of_one[0].0),
                places.join(", "),
                message.tries
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::story::{Story, broken};

    #[test]
    fn two_slots_of_a_message_that_was_sent_twice_are_accepted() {
        let mut story = Story::new();
        story.send_lost("a", 1).send_again("a", 2, 0, 1).scan(0, &["a", "a"]);
        assert_eq!(broken(&story), [] as [&str; 0]);
    }

    #[test]
    fn two_slots_of_a_message_that_was_sent_once_are_rejected() {
        let mut story = Story::new();
        story.send("a", 0, 0).scan(0, &["a", "a"]);
        assert_eq!(broken(&story), ["C03"]);
    }

    #[test]
    fn a_refused_message_that_is_stored_is_rejected() {
        let mut story = Story::new();
        story.send_refused("a").scan(0, &["a"]);
        assert_eq!(broken(&story), ["C03"]);
    }
}
