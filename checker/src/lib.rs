//! Histories and the laws they must obey.
//!
//! The checker shares no code with the system it judges: a checker that did would share its bugs. It reads a
//! [`history`], digests it once, in order of time, and lets one file per property (`properties/`) look at the result;
//! properties of events that no other needs watch the stream themselves. Every check is linear or n log n in the number of events.

mod budget;
mod calm;
mod committed;
#[cfg(test)]
mod healthy;
pub mod history;
#[cfg(test)]
mod in_budget;
mod ledger;
#[cfg(test)]
mod mutation;
mod names;
mod progress;
mod properties;
pub mod stored;
#[cfg(test)]
mod story;
mod verdict;

use std::collections::BTreeMap;

pub use verdict::{Counts, Report, Rpo, Verdict, Violation};

use history::{Header, History, Record};
use ledger::Ledger;
use properties::{Findings, Law, Watch, Watched};

/// How to judge.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Look at these properties only, such as `C05`; empty for all.
    pub only: Vec<String>,
}

/// Takes in a history record by record, then judges.
pub struct Checker {
    header: Header,
    ledger: Ledger,
    watches: Vec<(&'static Watched, Box<dyn Watch>)>,
}

impl Checker {
    pub fn new(header: &Header) -> Checker {
        let ledger = Ledger::new(header);
        let can_see = properties::WATCHED
            .iter()
            .filter(|watched| ledger.lacks(&watched.law).is_none());
        Checker {
            header: header.clone(),
            watches: can_see.map(|watched| (watched, (watched.watch)())).collect(),
            ledger,
        }
    }

    /// Takes in the next record; `t` must not go back.
    pub fn observe(&mut self, record: &Record) {
        self.ledger.observe(record);
        for (_, watch) in &mut self.watches {
            watch.observe(record.t, &record.event, &mut self.ledger);
        }
    }

    /// Judges what was taken in.
    pub fn finish(mut self, options: &Options) -> Report {
        self.ledger.finish();
        let mut findings = Findings::default();
        let mut evaluated = Vec::new();
        let mut not_evaluated = BTreeMap::new();
        let wanted = |law: &Law| options.only.is_empty() || options.only.iter().any(|id| id == law.id);
        let laws = properties::ALL.iter().map(|property| &property.law);
        for law in laws.chain(properties::WATCHED.iter().map(|watched| &watched.law)) {
            if let (true, Some(lacks)) = (wanted(law), self.ledger.lacks(law)) {
                not_evaluated.insert(law.id.to_owned(), lacks);
            }
        }
        for property in properties::ALL {
            if wanted(&property.law) && !not_evaluated.contains_key(property.law.id) {
                findings.judge(&property.law, |findings| (property.check)(&self.ledger, findings));
                evaluated.push(property.law.id.to_owned());
            }
        }
        for (watched, watch) in &mut self.watches {
            if wanted(&watched.law) {
                findings.judge(&watched.law, |findings| watch.judge(&self.ledger, findings));
                evaluated.push(watched.law.id.to_owned());
            }
        }
        evaluated.sort_unstable();
        let missing = properties::missing(&self.ledger, &self.header.required);
        let verdict = if !findings.violations.is_empty() {
            Verdict::Violated(findings.violations)
        } else if !missing.is_empty() {
            Verdict::Inconclusive(missing)
        } else {
            evaluated.push("C32".to_owned());
            Verdict::Held
        };
        Report {
            verdict,
            rpo: findings.rpo,
            counts: Counts {
                outlived_locks: findings.outlived_locks,
                unexplained_redeliveries: findings.unexplained_redeliveries,
                ..self.ledger.counts
            },
            evaluated,
            not_evaluated,
        }
    }
}

/// Judges a history: records in order of time.
pub fn check<'a>(header: &Header, records: impl IntoIterator<Item = &'a Record>, options: &Options) -> Report {
    let mut checker = Checker::new(header);
    for record in records {
        checker.observe(record);
    }
    checker.finish(options)
}

/// Judges a history in memory.
pub fn check_history(history: &History, options: &Options) -> Report {
    check(&history.header, &history.records, options)
}
