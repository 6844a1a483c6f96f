//! # C10 Rewind
//!
//! **Law.** Within a session the fetch position never goes back unless the consumer was told to seek. A new session begins
//! no lower than what the broker is known to have committed when it was asked (`committed.rs` says what a crash may forget).
//!
//! **Why clients depend on it.** A rewind delivers everything again. Duplicates at the seam of a rebalance are part of
//! at-least-once; a replay of an hour is an incident.
//!
//! **How.** Keep the last position of each session and the register of committed offsets. O(n log n).

use std::collections::HashMap;

use super::{Findings, Law, Property, seconds};
use crate::committed::Committed;
use crate::history::Recorded;
use crate::ledger::{Ledger, Step};
use crate::names::Id;

pub(super) const PROPERTY: Property = Property {
    law: Law {
        id: "C10",
        title: "rewind",
        needs: &[Recorded::Sessions],
        also: None,
    },
    check,
};

fn check(ledger: &Ledger, findings: &mut Findings) {
    let mut committed = Committed::default();
    let mut positions: HashMap<Id, i64> = HashMap::new();
    for &(t, step) in &ledger.steps {
        committed.advance(ledger, t, step);
        match step {
            Step::SessionOpen(index) => {
                let session = ledger.sessions[index as usize];
                if !ledger.is_clustering(session.group) {
                    continue;
                }
                let floor = committed.floor(session.group, session.queue, session.asked, t);
                if session.start < floor {
                    let story = format!(
                        "begins at offset {}, but {floor} was known to be committed before it asked at {}",
                        session.start,
                        seconds(session.asked)
                    );
                    findings.violation(t, explain(ledger, index, &story));
                }
            }
            Step::Fetch(index, from) => {
                let before = positions.insert(index, from).unwrap_or(from);
                if from < before {
                    let story = format!("fetches from offset {from} after it had fetched from {before}");
                    findings.violation(t, explain(ledger, index, &story));
                }
            }
            Step::Seek(index) => {
                positions.remove(&index);
            }
            _ => {}
        }
    }
}

fn explain(ledger: &Ledger, session: Id, story: &str) -> String {
    let session = ledger.sessions[session as usize];
    format!(
        "session {} of {} in {} on {} {story}",
        ledger.text(session.name),
        ledger.text(session.client),
        ledger.text(session.group),
        ledger.queue_name(session.queue)
    )
}

#[cfg(test)]
mod tests {
    use crate::story::{Story, broken};

    #[test]
    fn sessions_that_begin_at_the_committed_offset_are_accepted() {
        let mut story = Story::new();
        story.send("a", 0, 0).send("b", 0, 1);
        story.open("s1", "g", "c1", 0, 0).fetch("s1", 0, 2).fetch("s1", 2, 2);
        story.deliver("g", "c1", 0, 0, "a").commit("g", "c1", 0, 1);
        story.open("s2", "g", "c2", 0, 1).fetch("s2", 1, 2);
        assert_eq!(broken(&story), [] as [&str; 0]);
    }

    #[test]
    fn a_fetch_below_the_last_one_is_rejected_unless_told_to_seek() {
        let mut story = Story::new();
        story.open("s1", "g", "c1", 0, 0).fetch("s1", 0, 5).fetch("s1", 5, 6);
        story.fetch("s1", 2, 3);
        assert_eq!(broken(&story), ["C10"]);

        let mut told = Story::new();
        told.open("s1", "g", "c1", 0, 0).fetch("s1", 0, 5).fetch("s1", 5, 6);
        told.seek("s1", 2).fetch("s1", 2, 3);
        assert_eq!(broken(&told), [] as [&str; 0]);
    }

    #[test]
    fn a_session_below_the_committed_offset_is_rejected() {
        let mut story = Story::new();
        story
            .send("a", 0, 0)
            .open("s1", "g", "c1", 0, 0)
            .deliver("g", "c1", 0, 0, "a");
        story.commit("g", "c1", 0, 1).open("s2", "g", "c2", 0, 0);
        assert_eq!(broken(&story), ["C10"]);
    }

    #[test]
    fn a_crash_may_forget_the_last_commits_but_no_older_ones() {
        let mut fresh = Story::new();
        fresh
            .send("a", 0, 0)
            .open("s1", "g", "c1", 0, 0)
            .deliver("g", "c1", 0, 0, "a");
        fresh.commit("g", "c1", 0, 1).kill().open("s2", "g", "c2", 0, 0);
        assert_eq!(broken(&fresh), [] as [&str; 0]);

        let mut old = Story::new();
        old.send("a", 0, 0)
            .open("s1", "g", "c1", 0, 0)
            .deliver("g", "c1", 0, 0, "a");
        old.commit("g", "c1", 0, 1)
            .wait_ms(20_000)
            .kill()
            .open("s2", "g", "c2", 0, 0);
        assert_eq!(broken(&old), ["C10"]);
    }
}
