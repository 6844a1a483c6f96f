//! The laws, one file each.

mod c01_phantom_or_corrupt;
mod c02_inconsistent_slot;
mod c03_unexplained_duplicate;
mod c04_hole;
mod c05_lost_acknowledged;
mod c06_unseen;
mod c07_append_order;
mod c08_queue_order;
mod c09_skip;
mod c10_rewind;
mod c11_commit_ahead;
mod c12_committed_regression;
mod c13_redelivery;
mod c14_orderly_exclusivity;
mod c15_assignment;
mod c16_broadcast;
mod c17_filter_and_causality;
mod c18_transactions;
mod c19_delay;
mod c20_retry;
mod c21_pop;
mod c22_split_brain;
mod c23_prefix_agreement;
mod c24_consensus;
mod c25_derived_structures;
mod c26_route;
mod c27_availability;
mod c28_search_by_time;
mod c29_batch;
mod c30_hygiene;
mod c31_determinism;
mod c32_anti_vacuity;

use crate::history::{Event, Recorded};
use crate::ledger::Ledger;
use crate::verdict::{Rpo, Violation};

pub(crate) use c32_anti_vacuity::missing;

/// What a property is called, and what a history must have for it.
pub(crate) struct Law {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) needs: &'static [Recorded],
    pub(crate) also: Option<Needs>,
}

/// What a history must have beside its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    BroadcastingGroup,
}

/// A property that judges the digested history.
pub(crate) struct Property {
    pub(crate) law: Law,
    pub(crate) check: fn(&Ledger, &mut Findings),
}

/// A property that watches the stream itself.
pub(crate) struct Watched {
    pub(crate) law: Law,
    pub(crate) watch: fn() -> Box<dyn Watch>,
}

/// The state of a watched property.
pub(crate) trait Watch {
    /// Takes in the next event, which the ledger knows already. The ledger may be asked, asked
    /// to name things, and told of more slots that a message may own.
    fn observe(&mut self, t: u64, event: &Event, ledger: &mut Ledger);

    /// Called once, after the last event.
    fn judge(&mut self, ledger: &Ledger, findings: &mut Findings);
}

/// In the order in which they explain each other: a phantom message first, what follows from it later.
pub(crate) const ALL: &[Property] = &[
    c01_phantom_or_corrupt::PROPERTY,
    c02_inconsistent_slot::PROPERTY,
    c03_unexplained_duplicate::PROPERTY,
    c04_hole::PROPERTY,
    c05_lost_acknowledged::PROPERTY,
    c06_unseen::PROPERTY,
    c07_append_order::PROPERTY,
    c08_queue_order::PROPERTY,
    c10_rewind::PROPERTY,
    c11_commit_ahead::PROPERTY,
    c12_committed_regression::PROPERTY,
    c13_redelivery::PROPERTY,
    c14_orderly_exclusivity::PROPERTY,
    c17_filter_and_causality::PROPERTY,
    c25_derived_structures::PROPERTY,
    c28_search_by_time::PROPERTY,
];

/// Those that watch the stream; judged after the others.
pub(crate) const WATCHED: &[Watched] = &[
    c09_skip::WATCHED,
    c15_assignment::WATCHED,
    c16_broadcast::WATCHED,
    c18_transactions::WATCHED,
    c19_delay::WATCHED,
    c20_retry::WATCHED,
    c21_pop::WATCHED,
    c22_split_brain::WATCHED,
    c23_prefix_agreement::WATCHED,
    c24_consensus::WATCHED,
    c26_route::WATCHED,
    c27_availability::WATCHED,
    c29_batch::WATCHED,
    c30_hygiene::WATCHED,
    c31_determinism::WATCHED,
];

/// A property shows this many violations and counts the rest.
const SHOWN_MAX: usize = 10;

/// What the properties found.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) violations: Vec<Violation>,
    pub(crate) rpo: Rpo,
    pub(crate) outlived_locks: u64,
    pub(crate) unexplained_redeliveries: u64,
    current: Option<(&'static str, &'static str)>,
    count: usize,
}

impl Findings {
    /// Runs one property.
    pub(crate) fn judge(&mut self, law: &Law, check: impl FnOnce(&mut Findings)) {
        self.current = Some((law.id, law.title));
        self.count = 0;
        check(self);
        if self.count > SHOWN_MAX {
            let rest = self.count - SHOWN_MAX;
            let t = self.violations.last().map_or(0, |last| last.t);
            self.count = 0;
            self.violation(t, format!("and {rest} more of this kind"));
        }
    }

    pub(crate) fn violation(&mut self, t: u64, explanation: String) {
        self.count += 1;
        if self.count > SHOWN_MAX {
            return;
        }
        let (property, title) = self.current.expect("a property is being judged");
        self.violations.push(Violation {
            property: property.to_owned(),
            title: title.to_owned(),
            t,
            explanation,
        });
    }
}

/// Nanoseconds as seconds, for people.
pub(crate) fn seconds(t: u64) -> String {
    if t == u64::MAX {
        "never".to_owned()
    } else {
        format!("{:.6} s", t as f64 / 1e9)
    }
}
