//! # C13 Unexplained redelivery
//!
//! **Law.** A session never hands a message out again after a listener of it has consumed it.
//!
//! **Why clients depend on it.** At-least-once allows duplicates, and people size their systems by how rare they are: after a
//! rebalance or a failure, not in a quiet hour.
//!
//! **Excused.** A new session (rebalance, crash, failover: it begins at a committed offset, which C10 bounds), a verdict
//! other than success, a listener whose process died, a seek. In a run with any fault, what is left is counted
//! (`unexplained_redeliveries`), not condemned.
//!
//! **How.** Per session, the offsets that were consumed, as intervals. O(n log n).

use std::collections::HashMap;

use super::{Findings, Law, Property};
use crate::history::{ConsumeVerdict, Recorded};
use crate::ledger::{Ledger, Step};
use crate::names::{Id, NONE};
use crate::progress::Settled;

pub(super) const PROPERTY: Property = Property {
    law: Law {
        id: "C13",
        title: "unexplained redelivery",
        needs: &[Recorded::Deliveries, Recorded::Sessions, Recorded::Faults],
        also: None,
    },
    check,
};

fn check(ledger: &Ledger, findings: &mut Findings) {
    let mut consumed: HashMap<Id, Settled> = HashMap::new();
    for &(t, step) in &ledger.steps {
        match step {
            Step::DeliverDone(index) => {
                let delivery = &ledger.deliveries[index as usize];
                if delivery.session != NONE && delivery.verdict == Some(ConsumeVerdict::Success) {
                    consumed.entry(delivery.session).or_default().insert(delivery.offset);
                }
            }
            Step::Seek(session) => {
                consumed.remove(&session);
            }
            Step::DeliverStart(index) => {
                let delivery = &ledger.deliveries[index as usize];
                let before = consumed.get(&delivery.session);
                if before.is_none_or(|before| before.first_open(delivery.offset) == delivery.offset) {
                    continue;
                }
                if ledger.faults > 0 {
                    findings.unexplained_redeliveries += 1;
                    continue;
                }
                findings.violation(
                    t,
                    format!(
                        "{} of {} is handed {} at {} offset {} again in session {}, which has consumed it, in a run without faults",
                        ledger.text(delivery.client),
                        ledger.text(delivery.group),
                        ledger.uid_name(delivery.uid),
                        ledger.queue_name(delivery.queue),
                        delivery.offset,
                        ledger.text(ledger.sessions[delivery.session as usize].name)
                    ),
                );
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::history::ConsumeVerdict::{Later, Success};
    use crate::story::{Story, broken, report};

    fn twice(first: crate::history::ConsumeVerdict) -> Story {
        let mut story = Story::new();
        story.send("a", 0, 0).open("s1", "g", "c1", 0, 0);
        story.deliver_as("s1", 0, "a", first).deliver_as("s1", 0, "a", Success);
        story
    }

    #[test]
    fn a_second_delivery_in_another_session_or_after_a_refusal_is_accepted() {
        assert_eq!(broken(&twice(Later)), [] as [&str; 0]);
        let mut story = Story::new();
        story.send("a", 0, 0).open("s1", "g", "c1", 0, 0);
        story.deliver_as("s1", 0, "a", Success).open("s2", "g", "c2", 0, 0);
        story.deliver_as("s2", 0, "a", Success);
        assert_eq!(broken(&story), [] as [&str; 0]);
    }

    #[test]
    fn a_second_delivery_in_one_session_is_rejected_without_faults_and_counted_with() {
        assert_eq!(broken(&twice(Success)), ["C13"]);
        let mut story = Story::new();
        story.send("a", 0, 0).kill().open("s1", "g", "c1", 0, 0);
        story
            .deliver_as("s1", 0, "a", Success)
            .deliver_as("s1", 0, "a", Success);
        let report = report(&story);
        assert_eq!(report.violations(), []);
        assert_eq!(report.counts.unexplained_redeliveries, 1);
    }
}
