//! Stored counterexamples: plans that once broke a law. Each must hold now, under many schedules; where its defect is kept as a site, the plan
//! with the site on must still break the law, or it guards nothing any more.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, ensure};
use orrery_checker::{Verdict, Violation};

use crate::plan::Plan;
use crate::run::run;
use crate::shrink::{violates, without_sites};

/// A plan of the corpus.
pub struct Stored {
    pub path: PathBuf,
    pub plan: Plan,
}

/// What became of one.
pub struct Outcome {
    /// Violations without any site, with the schedule.
    pub violations: Vec<(u64, Violation)>,
    /// With its sites on: under how many schedules the expected property was violated. `None` for a plan without sites.
    pub found_again: Option<u64>,
}

impl Outcome {
    pub fn is_good(&self) -> bool {
        self.violations.is_empty() && self.found_again != Some(0)
    }
}

/// All plans of a folder, by name.
pub fn load(folder: &Path) -> anyhow::Result<Vec<Stored>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<PathBuf>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    let stored = paths.into_iter().map(|path| {
        let plan = Plan::read(&path)?;
        ensure!(!plan.story.is_empty(), "{}: has no story", path.display());
        ensure!(
            plan.sites.is_empty() == plan.expect.is_none(),
            "{}: sites and `expect` go together: which property does the defect violate?",
            path.display()
        );
        Ok(Stored { path, plan })
    });
    stored.collect()
}

/// As [`try_again`] for each of `stored`, so many at a time; in their order.
pub fn try_all(stored: &[Stored], schedules: u64, jobs: usize) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut outcomes = Vec::new();
        while let index = next.fetch_add(1, Ordering::Relaxed)
            && let Some(Stored { plan, .. }) = stored.get(index)
        {
            outcomes.push((index, try_again(plan, schedules)));
        }
        outcomes
    };
    let mut outcomes: Vec<(usize, Outcome)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        let done = threads
            .into_iter()
            .map(|thread| thread.join().expect("a run does not panic"));
        done.flatten().collect()
    });
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Runs a plan under schedules `0..schedules`, and with its sites on, as often.
pub fn try_again(plan: &Plan, schedules: u64) -> Outcome {
    let under = |schedule: u64, plan: &Plan| Plan {
        schedule: Some(schedule),
        ..plan.clone()
    };
    let whole = without_sites(plan);
    let mut violations = Vec::new();
    for schedule in 0..schedules {
        if let Verdict::Violated(some) = run(&under(schedule, &whole)).report.verdict {
            violations.extend(some.into_iter().map(|violation| (schedule, violation)));
        }
    }
    let found_again = plan.expect.as_ref().map(|property| {
        let broken = (0..schedules).filter(|&schedule| violates(&run(&under(schedule, plan)), property));
        broken.count() as u64
    });
    Outcome {
        violations,
        found_again,
    }
}
