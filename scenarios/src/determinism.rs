//! Equal plans give equal traces: twice in one process, on two threads at once, and in a fresh process.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use orrery_runtime_sim::LogWindow;

use crate::generate::generate;
use crate::output::shown_hash;
use crate::plan::Plan;
use crate::run::{Run, run_logged};

/// Events in a block of the trace, between two checkpoints of its hash.
const BLOCK: u64 = 1024;

/// A seed whose runs differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub seed: u64,
    /// `in one process`, `across threads`, `in a fresh process`.
    pub mode: &'static str,
    /// The first differing event of each run.
    pub events: (String, String),
}

/// A trace as text: hash, checkpoints, and the events of a window.
pub fn trace_text(run: &Run) -> String {
    let mut lines = vec![format!(
        "hash {} events {}",
        shown_hash(run.trace_hash),
        run.event_count
    )];
    let checkpoints = run.log.checkpoints.iter().enumerate();
    lines.extend(checkpoints.map(|(index, &hash)| format!("checkpoint {index} {}", shown_hash(hash))));
    lines.extend(run.log.entries.iter().map(|entry| {
        let seconds = entry.time_ns as f64 / 1e9;
        let (index, node, kind) = (entry.index, entry.node as i32, entry.kind);
        format!(
            "event {index} at {seconds:.9} s node {node} {kind} {}",
            shown_hash(entry.detail)
        )
    }));
    lines.join("\n") + "\n"
}

/// Compares four more runs of a seed with the first; `binary` is `orrery-sim` itself.
pub fn compare(seed: u64, binary: Option<&Path>) -> anyhow::Result<Option<Difference>> {
    let plan = generate(seed);
    let here = |window: LogWindow| trace_text(&run_logged(&plan, window));
    let first = here(LogWindow::Off);
    if let Some(difference) = differ(seed, "in one process", &first, &|window| Ok(here(window)), &here)? {
        return Ok(Some(difference));
    }
    let on_thread = |plan: Plan, window| trace_text(&run_logged(&plan, window));
    let (left, right) = (plan.clone(), plan.clone());
    let left = std::thread::spawn(move || on_thread(left, LogWindow::Off));
    let right = std::thread::spawn(move || on_thread(right, LogWindow::Off));
    for thread in [left, right] {
        let Ok(text) = thread.join() else {
            bail!("the run of seed {seed} panicked");
        };
        if text != first {
            let events = first_difference(&here, &|window| Ok(here(window)), &first, &text)?;
            return Ok(Some(Difference {
                seed,
                mode: "across threads",
                events,
            }));
        }
    }
    let Some(binary) = binary else {
        return Ok(None);
    };
    let fresh = |window: LogWindow| fresh_process(binary, seed, window);
    differ(seed, "in a fresh process", &first, &fresh, &here)
}

fn differ(
    seed: u64,
    mode: &'static str,
    first: &str,
    again: &dyn Fn(LogWindow) -> anyhow::Result<String>,
    here: &dyn Fn(LogWindow) -> String,
) -> anyhow::Result<Option<Difference>> {
    let text = again(LogWindow::Off)?;
    if text == first {
        return Ok(None);
    }
    let events = first_difference(here, again, first, &text)?;
    Ok(Some(Difference { seed, mode, events }))
}

/// Runs both again, keeping the block in which they first differ.
fn first_difference(
    here: &dyn Fn(LogWindow) -> String,
    again: &dyn Fn(LogWindow) -> anyhow::Result<String>,
    first: &str,
    second: &str,
) -> anyhow::Result<(String, String)> {
    let checkpoints = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.starts_with("checkpoint"));
        lines.map(str::to_owned).collect()
    };
    let (a, b) = (checkpoints(first), checkpoints(second));
    let block = a.iter().zip(&b).take_while(|(a, b)| a == b).count() as u64;
    let window = LogWindow::Range {
        from: block * BLOCK,
        to: (block + 2) * BLOCK,
    };
    let (first, second) = (here(window), again(window)?);
    let events = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.starts_with("event"));
        lines.map(str::to_owned).collect()
    };
    let (a, b) = (events(&first), events(&second));
    let index = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let shown = |events: &[String]| events.get(index).cloned().unwrap_or_else(|| "no event".into());
    Ok((shown(&a), shown(&b)))
}

fn fresh_process(binary: &Path, seed: u64, window: LogWindow) -> anyhow::Result<String> {
    let mut command = Command::new(binary);
    command.args(["run", "--seed", &seed.to_string(), "--trace"]);
    if let LogWindow::Range { from, to } = window {
        command.args(["--trace-window", &format!("{from}..{to}")]);
    }
    let output = command.output().with_context(|| binary.display().to_string())?;
    if !matches!(output.status.code(), Some(0 | 1 | 3)) {
        bail!("{}: {}", binary.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}
