//! The laws, one file each.

mod c01_phantom_or_corrupt;
mod c02_inconsistent_slot;
mod c03_unexplained_duplicate;
mod c04_hole;
mod c05_lost_acknowledged;
mod c06_unseen;
mod c07_append_order;
mod c08_queue_order;
mod c10_rewind;
mod c11_commit_ahead;
mod c12_committed_regression;
mod c14_orderly_exclusivity;
mod c25_derived_structures;
mod c28_search_by_time;
mod c32_anti_vacuity;

use crate::history::Recorded;
use crate::ledger::Ledger;
use crate::verdict::{Rpo, Violation};

pub(crate) use c32_anti_vacuity::missing;

/// A law: what it is called, what it needs to see, and how to judge.
pub(crate) struct Property {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) needs: &'static [Recorded],
    pub(crate) check: fn(&Ledger, &mut Findings),
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
    c14_orderly_exclusivity::PROPERTY,
    c25_derived_structures::PROPERTY,
    c28_search_by_time::PROPERTY,
];

/// A property shows this many violations and counts the rest.
const SHOWN_MAX: usize = 10;

/// What the properties found.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) violations: Vec<Violation>,
    pub(crate) rpo: Rpo,
    pub(crate) outlived_locks: u64,
    current: Option<(&'static str, &'static str)>,
    count: usize,
}

impl Findings {
    /// Runs one property.
    pub(crate) fn judge(&mut self, property: &Property, ledger: &Ledger) {
        self.current = Some((property.id, property.title));
        self.count = 0;
        (property.check)(ledger, self);
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
