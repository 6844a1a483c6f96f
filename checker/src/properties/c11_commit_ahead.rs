//! # C11 Commit ahead of consumption
//!
//! **Law.** A group commits an offset only when every message below it that it subscribes to has been consumed, or stored again
//! for a retry or in the dead letters, by some instance of the group.
//!
//! **Why clients depend on it.** This is the core of at-least-once: what lies below the committed offset is never
//! delivered again. A consumer that commits what it has fetched loses what it held when it dies.
//!
//! **How.** Keep, per group and queue, the settled offsets as intervals; at each commit look for the lowest open offset
//! since the group's first session there. O(n log n).

use std::collections::HashMap;

use super::{Findings, Law, Property};
use crate::history::Recorded;
use crate::ledger::{Ledger, Step};
use crate::names::Id;
use crate::progress::Progress;

pub(super) const PROPERTY: Property = Property {
    law: Law {
        id: "C11",
        title: "commit ahead of consumption",
        needs: &[Recorded::Deliveries, Recorded::Commits],
        also: None,
    },
    check,
};

fn check(ledger: &Ledger, findings: &mut Findings) {
    let mut progress = Progress::default();
    let mut began: HashMap<(Id, Id), i64> = HashMap::new();
    for &(t, step) in &ledger.steps {
        progress.advance(ledger, step);
        match step {
            Step::SessionOpen(index) => {
                let session = ledger.sessions[index as usize];
                began.entry((session.group, session.queue)).or_insert(session.start);
            }
            Step::DeliverStart(index) => {
                let delivery = &ledger.deliveries[index as usize];
                began.entry((delivery.group, delivery.queue)).or_insert(delivery.offset);
            }
            Step::CommitInvoke(index) => {
                let commit = ledger.commits[index as usize];
                if !ledger.is_clustering(commit.group) {
                    continue;
                }
                // Who commits without having begun anywhere has consumed nothing of the queue.
                let start = *began.entry((commit.group, commit.queue)).or_insert(commit.offset);
                let owed = progress.first_owed(ledger, commit.group, commit.queue, start, commit.offset);
                if let Some(owed) = owed {
                    findings.violation(
                        t,
                        format!(
                            "{} of {} commits offset {} of {} while offset {owed} is not yet consumed",
                            ledger.text(commit.client),
                            ledger.text(commit.group),
                            commit.offset,
                            ledger.queue_name(commit.queue)
                        ),
                    );
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::history::ConsumeVerdict;
    use crate::story::{Story, broken};

    #[test]
    fn a_commit_of_what_was_consumed_or_sent_back_is_accepted() {
        let mut story = Story::new();
        story.send("a", 0, 0).send("b", 0, 1).open("s1", "g", "c1", 0, 0);
        story
            .deliver_as("s1", 0, "a", ConsumeVerdict::Success)
            .deliver_as("s1", 1, "b", ConsumeVerdict::Later)
            .send_back()
            .commit("g", "c1", 0, 2);
        assert_eq!(broken(&story), [] as [&str; 0]);
    }

    #[test]
    fn a_commit_of_what_was_only_fetched_is_rejected() {
        let mut story = Story::new();
        story.send("a", 0, 0).send("b", 0, 1).open("s1", "g", "c1", 0, 0);
        story
            .deliver_as("s1", 0, "a", ConsumeVerdict::Success)
            .commit("g", "c1", 0, 2);
        assert_eq!(broken(&story), ["C11"]);
    }

    #[test]
    fn a_commit_past_a_message_that_was_refused_and_not_sent_back_is_rejected() {
        let mut story = Story::new();
        story.send("a", 0, 0).open("s1", "g", "c1", 0, 0);
        story
            .deliver_as("s1", 0, "a", ConsumeVerdict::Later)
            .commit("g", "c1", 0, 1);
        assert_eq!(broken(&story), ["C11"]);
    }
}
