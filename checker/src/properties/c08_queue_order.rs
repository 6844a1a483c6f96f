//! # C08 Per-queue order broken
//!
//! **Law.** In an orderly group a message is handed to a listener only when every earlier message of the queue, from the
//! session's start on, has been consumed (or moved to the dead letters). In a concurrent group a session hands out messages for
//! the first time in order of offset.
//!
//! **Why clients depend on it.** "Paid" after "created", "shipped" after "paid": that is what orderly consumption is bought for.
//!
//! **How.** Keep, per group and queue, the set of settled offsets as intervals; at each orderly start look for the lowest
//! open offset since the session's start. For concurrent sessions keep the highest offset handed out. O(n log n).

use std::collections::{HashMap, HashSet};

use super::{Findings, Law, Property};
use crate::history::Recorded;
use crate::ledger::{Delivery, Ledger, Step};
use crate::names::{Id, NONE};
use crate::progress::Progress;

pub(super) const PROPERTY: Property = Property {
    law: Law {
        id: "C08",
        title: "per-queue order broken",
        needs: &[Recorded::Deliveries],
        also: None,
    },
    check,
};

fn check(ledger: &Ledger, findings: &mut Findings) {
    let mut progress = Progress::default();
    // Without sessions the first delivery of a group on a queue is where it began.
    let mut began: HashMap<(Id, Id), i64> = HashMap::new();
    let mut handed_out: HashMap<Id, i64> = HashMap::new();
    let mut known: HashSet<(Id, i64)> = HashSet::new();
    for &(t, step) in &ledger.steps {
        progress.advance(ledger, step);
        let Step::DeliverStart(index) = step else {
            continue;
        };
        let delivery = &ledger.deliveries[index as usize];
        if ledger.is_orderly(delivery.group) {
            let start = match delivery.session {
                NONE => *began.entry((delivery.group, delivery.queue)).or_insert(delivery.offset),
                session => ledger.sessions[session as usize].start,
            };
            let owed = progress.first_owed(ledger, delivery.group, delivery.queue, start, delivery.offset);
            if let Some(owed) = owed {
                let story = format!("while offset {owed} was not yet consumed (session from {start})");
                findings.violation(t, explain(ledger, delivery, &story));
            }
        } else if delivery.session != NONE && known.insert((delivery.session, delivery.offset)) {
            let highest = handed_out.entry(delivery.session).or_insert(delivery.offset);
            if delivery.offset < *highest {
                findings.violation(
                    t,
                    explain(ledger, delivery, &format!("for the first time after {highest}")),
                );
            }
            *highest = delivery.offset.max(*highest);
        }
    }
}

fn explain(ledger: &Ledger, delivery: &Delivery, story: &str) -> String {
    format!(
        "{} of {} was handed {} at {} offset {} {story}",
        ledger.text(delivery.client),
        ledger.text(delivery.group),
        ledger.uid_name(delivery.uid),
        ledger.queue_name(delivery.queue),
        delivery.offset
    )
}

#[cfg(test)]
mod tests {
    use crate::history::ConsumeVerdict;
    use crate::story::{Story, broken};

    #[test]
    fn an_orderly_group_that_waits_for_each_message_is_accepted() {
        let mut story = Story::orderly();
        story.send("a", 0, 0).send("b", 0, 1).open("s1", "o", "c1", 0, 0);
        story
            .deliver_as("s1", 0, "a", ConsumeVerdict::Suspend)
            .deliver_as("s1", 0, "a", ConsumeVerdict::Success)
            .deliver_as("s1", 1, "b", ConsumeVerdict::Success);
        assert_eq!(broken(&story), [] as [&str; 0]);
    }

    #[test]
    fn an_orderly_message_before_its_predecessor_is_consumed_is_rejected() {
        let mut story = Story::orderly();
        story.send("a", 0, 0).send("b", 0, 1).open("s1", "o", "c1", 0, 0);
        story
            .deliver_as("s1", 0, "a", ConsumeVerdict::Suspend)
            .deliver_as("s1", 1, "b", ConsumeVerdict::Success);
        assert_eq!(broken(&story), ["C08"]);
    }

    #[test]
    fn a_concurrent_session_that_turns_back_for_a_new_message_is_rejected() {
        let mut story = Story::new();
        story.send("a", 0, 0).send("b", 0, 1).open("s1", "g", "c1", 0, 0);
        story
            .deliver_as("s1", 1, "b", ConsumeVerdict::Success)
            .deliver_as("s1", 0, "a", ConsumeVerdict::Success);
        assert_eq!(broken(&story), ["C08"]);
    }
}
