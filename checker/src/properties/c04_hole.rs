//! # C04 Hole
//!
//! **Law.** The offsets of a queue are dense: the final scan finds exactly one message at each of `[min, max)`, but for
//! gaps that the broker has declared: slots whose message its recovery found damaged or lost.
//!
//! **Why clients depend on it.** Consumers count: lag is a difference of offsets, and the next offset is this one plus one. A
//! consumer that meets a hole stalls, or skips what is behind it.
//!
//! **How.** Walk each scanned queue in order of offset, from min to max. O(n).

use super::{Findings, Law, Property};
use crate::history::Recorded;
use crate::ledger::Ledger;

pub(super) const PROPERTY: Property = Property {
    law: Law {
        id: "C04",
        title: "hole in a queue",
        needs: &[Recorded::Scan],
        also: None,
    },
    check,
};

fn check(ledger: &Ledger, findings: &mut Findings) {
    for queue in ledger.queue_ids() {
        let Some(scan) = ledger.scans.get(&queue) else {
            continue;
        };
        let mut expected = scan.min;
        let ends = scan.entries.iter().map(|entry| entry.offset).chain([scan.max]);
        for offset in ends {
            while expected < offset && ledger.is_gap(queue, expected) {
                expected += 1;
            }
            let wrong = match offset.cmp(&expected) {
                std::cmp::Ordering::Equal => None,
                std::cmp::Ordering::Greater => Some(format!("nothing at offsets [{expected}, {offset})")),
                std::cmp::Ordering::Less => Some(format!("offset {offset} again, or outside of the bounds")),
            };
            if let Some(wrong) = wrong {
                let (name, min, max) = (ledger.queue_name(queue), scan.min, scan.max);
                findings.violation(scan.t, format!("{name} with bounds [{min}, {max}): {wrong}"));
            }
            expected = expected.max(offset + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::story::{Story, broken};

    #[test]
    fn a_dense_queue_is_accepted() {
        let mut story = Story::new();
        story.send("a", 0, 0).send("b", 0, 1).scan(0, &["a", "b"]);
        assert_eq!(broken(&story), [] as [&str; 0]);
    }

    #[test]
    fn a_queue_that_skips_an_offset_is_rejected() {
        let mut story = Story::new();
        story.send("a", 0, 0).send("b", 0, 2).scan(0, &["a", "-", "b"]);
        assert_eq!(broken(&story), ["C04"]);
    }

    #[test]
    fn a_gap_that_the_broker_declared_is_accepted_and_its_neighbour_is_not() {
        let mut story = Story::new();
        story
            .send("a", 0, 0)
            .send("b", 0, 3)
            .gap(0, 1)
            .gap(0, 2)
            .scan(0, &["a", "-", "-", "b"]);
        assert_eq!(broken(&story), [] as [&str; 0]);
        let mut story = Story::new();
        story
            .send("a", 0, 0)
            .send("b", 0, 3)
            .gap(0, 1)
            .scan(0, &["a", "-", "-", "b"]);
        assert_eq!(broken(&story), ["C04"]);
    }

    #[test]
    fn a_queue_whose_bound_promises_more_is_rejected() {
        let mut story = Story::new();
        story.send("a", 0, 0).scan(0, &["a", "-"]);
        assert_eq!(broken(&story), ["C04"]);
    }
}
