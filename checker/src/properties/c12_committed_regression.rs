//! # C12 Committed offset regression
//!
//! **Law.** What the broker says is committed never falls below what it is known to hold, except by what a crash may forget
//! (`committed.rs`), and never exceeds what anyone tried to commit. Zero or the end of the queue "on error" is never right.
//!
//! **Why clients depend on it.** Consumers start from it: too low repeats work, too high skips messages for ever.
//!
//! **How.** Keep the register of committed offsets; compare every answer with its floor and with the highest attempt. O(n log n).

use super::{Findings, Law, Property, seconds};
use crate::committed::Committed;
use crate::history::Recorded;
use crate::ledger::{Ledger, Step};

pub(super) const PROPERTY: Property = Property {
    law: Law {
        id: "C12",
        title: "committed offset regression",
        needs: &[Recorded::OffsetQueries, Recorded::Commits],
        also: None,
    },
    check,
};

fn check(ledger: &Ledger, findings: &mut Findings) {
    let mut committed = Committed::default();
    for &(t, step) in &ledger.steps {
        if let Step::OffsetRead(index) = step {
            let read = ledger.points[index as usize];
            let floor = committed.floor(read.group, read.queue, read.asked, t);
            let ceiling = committed.highest_invoked(read.group, read.queue);
            let wrong = if read.offset < floor {
                Some(format!("{floor} was known to be committed"))
            } else if read.offset > ceiling {
                Some(format!("nobody committed more than {ceiling}"))
            } else {
                None
            };
            if let Some(wrong) = wrong {
                findings.violation(
                    t,
                    format!(
                        "the broker answers offset {} for {} on {}, asked at {}: {wrong}",
                        read.offset,
                        ledger.text(read.group),
                        ledger.queue_name(read.queue),
                        seconds(read.asked)
                    ),
                );
            }
        }
        committed.advance(ledger, t, step);
    }
}

#[cfg(test)]
mod tests {
    use crate::history::Flush;
    use crate::story::{Story, broken};

    fn committed() -> Story {
        let mut story = Story::new();
        story.send("a", 0, 0).send("b", 0, 1);
        story.deliver("g", "c1", 0, 0, "a").deliver("g", "c1", 0, 1, "b");
        story.commit("g", "c1", 0, 1).commit("g", "c1", 0, 2);
        story
    }

    #[test]
    fn the_last_committed_offset_is_accepted() {
        let mut story = committed();
        story.read_offset("g", 0, 2);
        assert_eq!(broken(&story), [] as [&str; 0]);
    }

    #[test]
    fn an_offset_that_fell_is_rejected() {
        let mut story = committed();
        story.read_offset("g", 0, 1);
        assert_eq!(broken(&story), ["C12"]);
    }

    #[test]
    fn an_offset_that_nobody_committed_is_rejected() {
        let mut story = committed();
        story.read_offset("g", 0, 3);
        assert_eq!(broken(&story), ["C12"]);
    }

    #[test]
    fn a_commit_from_before_a_cut_of_the_queue_teaches_nothing() {
        for (flush, laws) in [(Flush::Async, &[][..]), (Flush::Sync, &["C12"])] {
            let mut story = Story::with_flush(flush);
            story.send("a", 0, 0).send("b", 0, 1).open("s1", "g", "c1", 0, 0);
            story.deliver("g", "c1", 0, 0, "a").deliver("g", "c1", 0, 1, "b");
            story.power_loss().commit("g", "c1", 0, 2).read_offset("g", 0, 1);
            assert_eq!(broken(&story), laws);
        }
    }

    #[test]
    fn a_crash_forgets_seconds_not_minutes() {
        let mut fresh = committed();
        fresh.kill().read_offset("g", 0, 0);
        assert_eq!(broken(&fresh), [] as [&str; 0]);

        let mut old = committed();
        old.wait_ms(60_000).kill().read_offset("g", 0, 0);
        assert_eq!(broken(&old), ["C12"]);
    }
}
