//! What the checker says: held, violated or inconclusive, with the reasons and the numbers.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The answer to one history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every evaluated property holds, and the run saw enough to mean something.
    Held,
    Violated(Vec<Violation>),
    /// Too little happened; says what is missing.
    Inconclusive(Vec<String>),
}

/// One broken law.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Violation {
    /// Identifier such as `C05`.
    pub property: String,
    pub title: String,
    /// Nanoseconds on the history's clock; the moment at which the law was broken, as far as one can tell.
    pub t: u64,
    /// What was seen, with names and numbers.
    pub explanation: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.t as f64 / 1e9;
        write!(
            f,
            "{} {} at {seconds:.6} s: {}",
            self.property, self.title, self.explanation
        )
    }
}

/// Messages lost inside the durability budget: legal, but worth knowing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rpo {
    /// Acknowledged messages that a power loss took before they were synced.
    pub lost: u64,
    /// Age of the oldest of them when the power went, in nanoseconds since its acknowledgement.
    pub age_ns_max: u64,
}

/// What happened, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub events: u64,
    pub sends: u64,
    pub acks: u64,
    pub failed: u64,
    pub unknown: u64,
    pub deliveries: u64,
    pub commits: u64,
    pub scanned: u64,
    /// Brokers' directories that were read and judged.
    #[serde(default)]
    pub stores: u64,
    /// Answers to searches by time or by key.
    #[serde(default)]
    pub searches: u64,
    /// Faults that changed something.
    pub fault_effects: u64,
    /// Orderly deliveries that began inside a valid lock and outlived it.
    pub outlived_locks: u64,
    /// Deliveries of what the same session had consumed before, in a run with faults.
    #[serde(default)]
    pub unexplained_redeliveries: u64,
}

/// Verdict and numbers of one history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub verdict: Verdict,
    pub rpo: Rpo,
    pub counts: Counts,
    /// Properties that were evaluated.
    pub evaluated: Vec<String>,
    /// Properties that could not be, and what the history lacks for them.
    pub not_evaluated: BTreeMap<String, String>,
}

impl Report {
    /// 0 held, 1 violated, 3 inconclusive: the exit codes of every command that judges.
    pub fn exit_code(&self) -> u8 {
        match self.verdict {
            Verdict::Held => 0,
            Verdict::Violated(_) => 1,
            Verdict::Inconclusive(_) => 3,
        }
    }

    pub fn violations(&self) -> &[Violation] {
        match &self.verdict {
            Verdict::Violated(violations) => violations,
            Verdict::Held | Verdict::Inconclusive(_) => &[],
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Verdict::Held => writeln!(f, "held: {}", self.evaluated.join(" "))?,
            Verdict::Inconclusive(reasons) => writeln!(f, "inconclusive: {}", reasons.join("; "))?,
            Verdict::Violated(violations) => {
                writeln!(f, "violated")?;
                for violation in violations {
                    writeln!(f, "  {violation}")?;
                }
            }
        }
        for (property, lacks) in &self.not_evaluated {
            writeln!(f, "not evaluated: {property}, the history has no {lacks}")?;
        }
        let counts = &self.counts;
        writeln!(
            f,
            "{} sends, {} acknowledged, {} failed, {} unknown, {} deliveries, {} commits, {} scanned, {} stores, {} searches, {} faults with effect",
            counts.sends,
            counts.acks,
            counts.failed,
            counts.unknown,
            counts.deliveries,
            counts.commits,
            counts.scanned,
            counts.stores,
            counts.searches,
            counts.fault_effects
        )?;
        write!(
            f,
            "lost inside the durability budget: {} (oldest {:.3} s)",
            self.rpo.lost,
            self.rpo.age_ns_max as f64 / 1e9
        )
    }
}
