//! Summaries of result files: what a fuzz run found, as Markdown for people and as JUnit XML for CI.
//!
//! Reads `summary.json` files that `orrery-sim fuzz --out` wrote; links nothing of the system. Unknown fields are
//! ignored, so that a newer summary still reads.

mod junit;
mod markdown;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use junit::junit;
pub use markdown::markdown;

/// Version of `summary.json` that this crate reads.
pub const VERSION: u32 = 1;

/// One `summary.json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Summary {
    pub summary: u32,
    pub from: u64,
    #[serde(default)]
    pub shard: String,
    #[serde(default)]
    pub sites: BTreeMap<String, f64>,
    pub seeds_run: u64,
    pub held: u64,
    pub violated: u64,
    pub inconclusive: u64,
    #[serde(default)]
    pub simulated_seconds: f64,
    #[serde(default)]
    pub wall_seconds: f64,
    #[serde(default)]
    pub ratio_per_thread: f64,
    #[serde(default)]
    pub acks_median: u64,
    #[serde(default)]
    pub faults_with_effect_median: u64,
    #[serde(default)]
    pub lost_in_budget: u64,
    #[serde(default)]
    pub violations: BTreeMap<String, u64>,
    #[serde(default)]
    pub fault_effects: BTreeMap<String, u64>,
    #[serde(default)]
    pub findings: Vec<Finding>,
    #[serde(default)]
    pub inconclusive_seeds: BTreeMap<u64, Vec<String>>,
}

/// A seed that broke a law.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Finding {
    pub seed: u64,
    pub property: String,
    pub title: String,
    pub explanation: String,
    #[serde(default)]
    pub directory: String,
}

/// A result file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    Syntax { path: PathBuf, source: serde_json::Error },
    #[error("{}: summary version {found}, this reader knows {VERSION}", path.display())]
    Version { path: PathBuf, found: u32 },
}

/// Reads one file.
pub fn read(path: &Path) -> Result<Summary, ReadError> {
    let text = std::fs::read_to_string(path).map_err(|source| ReadError::Io {
        path: path.to_path_buf(),
        source,
    })?;
    let summary: Summary = serde_json::from_str(&text).map_err(|source| ReadError::Syntax {
        path: path.to_path_buf(),
        source,
    })?;
    match summary.summary {
        VERSION => Ok(summary),
        found => Err(ReadError::Version {
            path: path.to_path_buf(),
            found,
        }),
    }
}

#[cfg(test)]
pub(crate) fn example() -> Summary {
    let text = r#"{"summary":1,"from":0,"shard":"0/1","seeds_run":3,"held":1,"violated":1,"inconclusive":1,
        "simulated_seconds":120.0,"wall_seconds":0.5,"ratio_per_thread":240.0,"acks_median":1500,
        "faults_with_effect_median":4,"violations":{"C05":1},"fault_effects":{"kill":2,"power_loss":1},
        "findings":[{"seed":1,"after_seeds":2,"property":"C05","title":"lost acknowledged message",
        "explanation":"client-1-7 <gone> & more","trace_hash":"00","directory":"out/seed-1"}],
        "inconclusive_seeds":{"2":["3 acknowledgements, at least 200 required"]},"a_field_of_tomorrow":1}"#;
    serde_json::from_str(text).expect("valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read_and_another_version_is_refused() {
        assert_eq!(example().findings[0].seed, 1);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("summary.json");
        let text = r#"{"summary":9,"from":0,"seeds_run":0,"held":0,"violated":0,"inconclusive":0}"#;
        std::fs::write(&path, text).unwrap();
        assert!(matches!(read(&path), Err(ReadError::Version { found: 9, .. })));
    }
}
