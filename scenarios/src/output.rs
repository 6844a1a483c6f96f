//! Files that a run leaves behind: `plan.toml`, `history.jsonl`, `verdict.json`, `timeline.html`.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use orrery_checker::Report;
use serde::{Deserialize, Serialize};

use crate::plan::Plan;
use crate::run::Run;
use crate::shrink::Shrunk;
use crate::timeline_page::{Source, write_page_file};

/// `verdict.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerdictFile {
    pub seed: u64,
    /// Hexadecimal; equal for equal plans and the same binary.
    pub trace_hash: String,
    pub event_count: u64,
    pub simulated_seconds: f64,
    pub report: Report,
}

impl VerdictFile {
    pub fn of(run: &Run) -> VerdictFile {
        VerdictFile {
            seed: run.plan.seed,
            trace_hash: shown_hash(run.trace_hash),
            event_count: run.event_count,
            simulated_seconds: run.time.as_secs_f64(),
            report: run.report.clone(),
        }
    }
}

pub fn shown_hash(hash: u64) -> String {
    format!("{hash:016x}")
}

/// Writes everything about a run into `directory`, which is created.
pub fn write_run(directory: &Path, run: &Run) -> anyhow::Result<()> {
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    fs::write(directory.join("plan.toml"), run.plan.to_toml())?;
    let mut history = BufWriter::new(File::create(directory.join("history.jsonl"))?);
    run.history.write(&mut history)?;
    history.flush()?;
    write_page_file(&directory.join("timeline.html"), Source::of(run))?;
    write_json(&directory.join("verdict.json"), &VerdictFile::of(run))
}

/// As [`write_run`], with the account of the shrinking in `shrink.json`.
pub fn write_shrunk(directory: &Path, shrunk: &Shrunk) -> anyhow::Result<()> {
    write_run(directory, &shrunk.run)?;
    write_json(&directory.join("shrink.json"), &shrunk.account)
}

pub fn write_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    fs::write(path, text).with_context(|| path.display().to_string())
}

/// The plan in a directory that [`write_run`] wrote, or in a file; and the verdict beside it, if there is one.
pub fn read_run(path: &Path) -> anyhow::Result<(Plan, Option<VerdictFile>)> {
    let plan_path: PathBuf = if path.is_dir() {
        path.join("plan.toml")
    } else {
        path.to_path_buf()
    };
    let plan = Plan::read(&plan_path)?;
    let verdict_path = plan_path.with_file_name("verdict.json");
    let verdict = match fs::read_to_string(&verdict_path) {
        Ok(text) => Some(serde_json::from_str(&text).with_context(|| verdict_path.display().to_string())?),
        Err(_) => None,
    };
    // A verdict of another plan in the same folder says nothing about this one.
    let verdict = verdict.filter(|verdict: &VerdictFile| verdict.seed == plan.seed);
    Ok((plan, verdict))
}
