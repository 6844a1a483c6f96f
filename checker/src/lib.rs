//! Histories and the laws they must obey.
//!
//! The checker shares no code with the system it judges: a checker that did would share its bugs. It reads a
//! [`history`], digests it once, in order of time, and lets one file per property (`properties/`) look at the result.
//! Every check is linear or n log n in the number of events.

mod budget;
mod committed;
#[cfg(test)]
mod healthy;
pub mod history;
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

use history::{Header, History, Record, Recorded};
use ledger::Ledger;
use properties::{Findings, Property};

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
}

impl Checker {
    pub fn new(header: &Header) -> Checker {
        Checker {
            header: header.clone(),
            ledger: Ledger::new(header),
        }
    }

    /// Takes in the next record; `t` must not go back.
    pub fn observe(&mut self, record: &Record) {
        self.ledger.observe(record);
    }

    /// Judges what was taken in.
    pub fn finish(mut self, options: &Options) -> Report {
        self.ledger.finish();
        let mut findings = Findings::default();
        let mut evaluated = Vec::new();
        let mut not_evaluated = BTreeMap::new();
        for property in properties::ALL {
            if !options.only.is_empty() && !options.only.iter().any(|id| id == property.id) {
                continue;
            }
            match self.lacks(property) {
                Some(lacks) => {
                    not_evaluated.insert(property.id.to_owned(), lacks);
                }
                None => {
                    findings.judge(property, &self.ledger);
                    evaluated.push(property.id.to_owned());
                }
            }
        }
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
                ..self.ledger.counts
            },
            evaluated,
            not_evaluated,
        }
    }

    fn lacks(&self, property: &Property) -> Option<String> {
        let lacking = property.needs.iter().filter(|&&need| !self.ledger.is_recorded(need));
        let names: Vec<String> = lacking.map(|&need| name(need)).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }
}

fn name(recorded: Recorded) -> String {
    match serde_json::to_value(recorded) {
        Ok(serde_json::Value::String(name)) => name,
        _ => format!("{recorded:?}"),
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
