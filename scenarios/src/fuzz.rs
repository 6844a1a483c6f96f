//! Many seeds: run, judge, count. A violation is written down with everything that is needed to see it again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use orrery_checker::Verdict;
use orrery_checker::history::Event;
use serde::{Deserialize, Serialize};

use crate::generate::{Profile, generate_in};
use crate::output::{read_run, shown_hash, write_run, write_shrunk};
use crate::run::{Run, run};
use crate::shrink::{Account, Effort, shrink};

/// What to run.
#[derive(Clone, Debug)]
pub struct Fuzz {
    pub profile: Profile,
    pub from: u64,
    /// Seeds at most, over all shards; `None` with a budget.
    pub seeds: Option<u64>,
    pub budget: Option<Duration>,
    pub jobs: usize,
    /// This part of so many.
    pub shard: (u64, u64),
    /// Sites switched on, with their probabilities.
    pub sites: BTreeMap<String, f64>,
    /// End at the first violation: to see how long a defect hides.
    pub stop_at_first: bool,
    /// How hard to shrink the first two seeds that violate a property; `None`: not at all.
    pub shrink: Option<Effort>,
    /// Where violations are written.
    pub out: PathBuf,
}

/// Findings of one property that are shrunk: more would say the same again.
const SHRUNK_MAX: usize = 2;

/// `summary.json`: what a fuzz run did and found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Version of this format.
    pub summary: u32,
    pub profile: String,
    pub from: u64,
    pub shard: String,
    pub sites: BTreeMap<String, f64>,
    pub seeds_run: u64,
    pub held: u64,
    pub violated: u64,
    pub inconclusive: u64,
    pub simulated_seconds: f64,
    pub wall_seconds: f64,
    /// Simulated seconds per second of one thread.
    pub ratio_per_thread: f64,
    pub acks_median: u64,
    pub faults_with_effect_median: u64,
    pub sends_per_second_min: f64,
    pub deliveries_per_second_min: f64,
    /// Messages lost inside the durability budget, over all seeds.
    pub lost_in_budget: u64,
    /// Brokers' directories read and judged after a start or a stop in order (C25), over all seeds.
    pub stores_judged: u64,
    /// Answers to searches by time and by key that were judged (C28, C25), over all seeds.
    pub searches_judged: u64,
    /// Seeds by violated property.
    pub violations: BTreeMap<String, u64>,
    /// Faults with effect, by kind, over all seeds.
    pub fault_effects: BTreeMap<String, u64>,
    pub findings: Vec<Finding>,
    /// Why seeds were inconclusive.
    pub inconclusive_seeds: BTreeMap<u64, Vec<String>>,
}

/// A seed that broke a law.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    pub seed: u64,
    /// Seeds run up to and including this one.
    pub after_seeds: u64,
    pub property: String,
    pub title: String,
    pub explanation: String,
    pub trace_hash: String,
    /// Directory with plan, history and verdict; of the shrunk run, if it was shrunk.
    pub directory: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shrunk: Option<Account>,
}

/// What remains of a seed after it was judged.
struct SeedResult {
    seed: u64,
    index: u64,
    simulated: Duration,
    took: Duration,
    acks: u64,
    faults: u64,
    lost: u64,
    stores: u64,
    searches: u64,
    load: (f64, f64),
    verdict: Verdict,
    trace_hash: u64,
    fault_effects: BTreeMap<String, u64>,
}

/// Runs the seeds; `progress` hears of each one that is done.
pub fn fuzz(fuzz: &Fuzz, progress: impl Fn(u64, u64) + Sync) -> anyhow::Result<Summary> {
    let begin = Instant::now();
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let violated = AtomicU64::new(0);
    let done = AtomicU64::new(0);
    let results: Mutex<Vec<anyhow::Result<SeedResult>>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..fuzz.jobs.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let is_over = fuzz
                        .seeds
                        .is_some_and(|seeds| index * fuzz.shard.1 + fuzz.shard.0 >= seeds)
                        || fuzz.budget.is_some_and(|budget| begin.elapsed() >= budget);
                    if is_over {
                        break;
                    }
                    let result = one_seed(fuzz, index);
                    if let Ok(SeedResult {
                        verdict: Verdict::Violated(_),
                        ..
                    }) = &result
                    {
                        violated.fetch_add(1, Ordering::Relaxed);
                        stop.fetch_or(fuzz.stop_at_first, Ordering::Relaxed);
                    }
                    stop.fetch_or(result.is_err(), Ordering::Relaxed);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push(result);
                    progress(
                        done.fetch_add(1, Ordering::Relaxed) + 1,
                        violated.load(Ordering::Relaxed),
                    );
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut results = results.into_iter().collect::<anyhow::Result<Vec<SeedResult>>>()?;
    results.sort_by_key(|result| result.index);
    let mut summary = summarize(fuzz, &results, begin.elapsed());
    if let Some(effort) = &fuzz.shrink {
        shrink_findings(fuzz, effort, &mut summary)?;
    }
    Ok(summary)
}

/// Leaves the small run where the large one was, and the plan that was found beside it.
fn shrink_findings(fuzz: &Fuzz, effort: &Effort, summary: &mut Summary) -> anyhow::Result<()> {
    let mut counts = BTreeMap::<String, usize>::new();
    for finding in &mut summary.findings {
        let count = counts.entry(finding.property.clone()).or_default();
        *count += 1;
        if *count > SHRUNK_MAX {
            continue;
        }
        let directory = directory(fuzz, finding.seed);
        let found = run(&read_run(&directory)?.0);
        let shrunk = shrink(&found, &finding.property, effort);
        std::fs::rename(directory.join("plan.toml"), directory.join("found.toml"))?;
        write_shrunk(&directory, &shrunk)?;
        finding.trace_hash = shown_hash(shrunk.run.trace_hash);
        finding.shrunk = Some(shrunk.account);
    }
    Ok(())
}

fn one_seed(fuzz: &Fuzz, index: u64) -> anyhow::Result<SeedResult> {
    let (shard, shards) = fuzz.shard;
    let seed = fuzz.from + index * shards + shard;
    let mut plan = generate_in(fuzz.profile, seed);
    plan.sites = fuzz.sites.clone();
    let run = run(&plan);
    if let Verdict::Violated(_) = run.report.verdict {
        write_run(&directory(fuzz, seed), &run)?;
    }
    Ok(SeedResult {
        seed,
        index,
        simulated: run.time,
        took: run.took,
        acks: run.report.counts.acks,
        faults: run.report.counts.fault_effects,
        lost: run.report.rpo.lost,
        stores: run.report.counts.stores,
        searches: run.report.counts.searches,
        load: run.load(),
        verdict: run.report.verdict.clone(),
        trace_hash: run.trace_hash,
        fault_effects: fault_effects(&run),
    })
}

fn directory(fuzz: &Fuzz, seed: u64) -> PathBuf {
    fuzz.out.join(format!("seed-{seed}"))
}

fn fault_effects(run: &Run) -> BTreeMap<String, u64> {
    let mut effects = BTreeMap::<String, std::collections::BTreeSet<u32>>::new();
    for record in &run.history.records {
        if let Event::Fault { id, fault, effect, .. } = &record.event
            && effect.values().any(|&count| count > 0)
        {
            let kind = serde_json::to_value(fault).ok();
            let kind = kind
                .and_then(|kind| kind.as_str().map(str::to_owned))
                .unwrap_or_default();
            effects.entry(kind).or_default().insert(*id);
        }
    }
    effects
        .into_iter()
        .map(|(kind, ids)| (kind, ids.len() as u64))
        .collect()
}

fn summarize(fuzz: &Fuzz, results: &[SeedResult], wall: Duration) -> Summary {
    let mut summary = Summary {
        summary: 1,
        profile: fuzz.profile.name.to_owned(),
        from: fuzz.from,
        shard: format!("{}/{}", fuzz.shard.0, fuzz.shard.1),
        sites: fuzz.sites.clone(),
        seeds_run: results.len() as u64,
        wall_seconds: wall.as_secs_f64(),
        acks_median: median(results.iter().map(|result| result.acks)),
        faults_with_effect_median: median(results.iter().map(|result| result.faults)),
        sends_per_second_min: least(results.iter().map(|result| result.load.0)),
        deliveries_per_second_min: least(results.iter().map(|result| result.load.1)),
        ..Summary::default()
    };
    let took: Duration = results.iter().map(|result| result.took).sum();
    let simulated: Duration = results.iter().map(|result| result.simulated).sum();
    summary.simulated_seconds = simulated.as_secs_f64();
    summary.ratio_per_thread = simulated.as_secs_f64() / took.as_secs_f64().max(f64::EPSILON);
    for result in results {
        summary.lost_in_budget += result.lost;
        summary.stores_judged += result.stores;
        summary.searches_judged += result.searches;
        for (kind, count) in &result.fault_effects {
            *summary.fault_effects.entry(kind.clone()).or_default() += count;
        }
        match &result.verdict {
            Verdict::Held => summary.held += 1,
            Verdict::Inconclusive(reasons) => {
                summary.inconclusive += 1;
                summary.inconclusive_seeds.insert(result.seed, reasons.clone());
            }
            Verdict::Violated(violations) => {
                summary.violated += 1;
                let mut properties: Vec<&str> = violations.iter().map(|v| v.property.as_str()).collect();
                properties.dedup();
                for property in properties {
                    *summary.violations.entry(property.to_owned()).or_default() += 1;
                }
                let first = &violations[0];
                summary.findings.push(Finding {
                    seed: result.seed,
                    after_seeds: result.index + 1,
                    property: first.property.clone(),
                    title: first.title.clone(),
                    explanation: first.explanation.clone(),
                    trace_hash: shown_hash(result.trace_hash),
                    directory: directory(fuzz, result.seed).display().to_string(),
                    shrunk: None,
                });
            }
        }
    }
    summary
}

fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

fn least(values: impl Iterator<Item = f64>) -> f64 {
    let least = values.fold(f64::INFINITY, f64::min);
    if least.is_finite() { least } else { 0.0 }
}

impl Summary {
    pub fn inconclusive_percent(&self) -> f64 {
        100.0 * self.inconclusive as f64 / (self.seeds_run.max(1)) as f64
    }

    /// 0 held, 1 violated, 3 too many inconclusive.
    pub fn exit_code(&self, max_inconclusive_percent: f64) -> u8 {
        if self.violated > 0 {
            1
        } else if self.seeds_run == 0 || self.inconclusive_percent() > max_inconclusive_percent {
            3
        } else {
            0
        }
    }
}
