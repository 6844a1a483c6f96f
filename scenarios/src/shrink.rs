//! From a plan that breaks a law to a small one that still breaks it.
//!
//! Delta debugging (Zeller and Hildebrandt, 2002) over the parts of a plan, then bisection of its numbers, again and again until nothing gets
//! smaller or the budget is used up. A candidate counts if the *same* property is violated. Draws are keyed, so what is left of a plan draws as
//! before; only the order in which ready tasks run is rolled anew by any change, so each candidate is tried under several schedules and the
//! first that fails is kept in the plan. What was accepted is run once more: a run whose trace differs is not deterministic, and is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use orrery_checker::history::Event;
use serde::{Deserialize, Serialize};

use crate::plan::{FaultPlan, Plan, Produces};
use crate::run::{Run, run};

/// Schedules under which the result is tried in the end.
const PROOF_SCHEDULES: u64 = 20;

/// How hard to try.
#[derive(Clone, Debug)]
pub struct Effort {
    /// Runs at most.
    pub runs_max: u64,
    /// No candidate is begun after this time.
    pub budget: Duration,
    /// Schedules under which a candidate is tried.
    pub schedules: u64,
    /// Runs at the same time.
    pub jobs: usize,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort {
            runs_max: 2_000,
            budget: Duration::from_secs(120),
            schedules: 4,
            jobs: 1,
        }
    }
}

/// How large a plan is, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    pub nodes: usize,
    pub faults: usize,
    /// Messages that clients sent in the run, with repetitions.
    pub sends: u64,
    pub duration_ms: u64,
}

impl Size {
    fn of(run: &Run) -> Size {
        Size {
            nodes: run.plan.nodes().len(),
            faults: run.plan.faults.len(),
            sends: run.report.counts.sends,
            duration_ms: run.plan.duration_ms,
        }
    }
}

/// `shrink.json`: what was tried and reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub property: String,
    pub before: Size,
    pub after: Size,
    pub runs: u64,
    /// Accepted candidates.
    pub steps: u64,
    /// Candidates that violated the property once and then ran differently.
    pub refused_as_unsteady: u64,
    /// Nothing was left to try; false when the budget ended it.
    pub is_complete: bool,
    /// The result violates the property under so many of [`schedules_tried`](Account::schedules_tried) schedules.
    pub schedules_failing: u64,
    pub schedules_tried: u64,
    pub wall_seconds: u64,
}

/// The smallest run found, and the account.
pub struct Shrunk {
    pub run: Run,
    pub account: Account,
}

/// Makes the plan of `found`, which violates `property`, smaller.
///
/// # Panics
/// If `found` does not violate the property.
pub fn shrink(found: &Run, property: &str, effort: &Effort) -> Shrunk {
    assert!(violates(found, property), "the run violates {property}");
    let begin = Instant::now();
    let mut search = Search {
        trial: |plan: &Plan| {
            let found = run(plan);
            let is_found = violates(&found, property);
            // A plan that is violated without its defect shows something else.
            let is_its_own = is_found && !plan.sites.is_empty() && violates(&run(&without_sites(plan)), property);
            (is_found && !is_its_own).then_some(found.trace_hash)
        },
        effort: effort.clone(),
        begin,
        best: found.plan.clone(),
        refused: BTreeSet::new(),
        runs: 0,
        steps: 0,
        unsteady: 0,
    };
    search.tries(with_limits(found));
    search.all();
    // Without its site the plan holds, and belongs to the corpus as it is.
    search.best.expect = (!search.best.sites.is_empty()).then(|| property.to_owned());
    let is_complete = !search.is_over();
    let proof = (0..PROOF_SCHEDULES).map(|schedule| scheduled(&search.best, Some(schedule)));
    let failing = proof.filter(|plan| violates(&run(plan), property)).count();
    let run = run(&search.best);
    let account = Account {
        property: property.to_owned(),
        before: Size::of(found),
        after: Size::of(&run),
        runs: search.runs,
        steps: search.steps,
        refused_as_unsteady: search.unsteady,
        is_complete,
        schedules_failing: failing as u64,
        schedules_tried: PROOF_SCHEDULES,
        wall_seconds: begin.elapsed().as_secs(),
    };
    Shrunk { run, account }
}

/// Whether the run violates the property, whatever else it violates.
pub fn violates(run: &Run, property: &str) -> bool {
    run.report
        .violations()
        .iter()
        .any(|violation| violation.property == property)
}

/// The plan with its defects switched off.
pub(crate) fn without_sites(plan: &Plan) -> Plan {
    Plan {
        sites: BTreeMap::new(),
        expect: None,
        ..plan.clone()
    }
}

fn scheduled(plan: &Plan, schedule: Option<u64>) -> Plan {
    Plan {
        schedule,
        ..plan.clone()
    }
}

/// The plan of a run whose producers stop after what they have sent: the run stays as it is, and there is a number to lower.
fn with_limits(run: &Run) -> Plan {
    let mut plan = run.plan.clone();
    for client in &mut plan.clients {
        if let Some(produces) = &mut client.produces
            && produces.messages.is_none()
        {
            let is_its = |producer: &String| *producer == client.name;
            let sent =
                |event: &Event| matches!(event, Event::SendInvoke { producer, attempt: 1, .. } if is_its(producer));
            let count = run.history.records.iter().filter(|record| sent(&record.event)).count();
            produces.messages = Some(count.max(1) as u64);
        }
    }
    plan
}

/// The search, apart from what a trial is: it says the hash of a run that violates the property.
struct Search<T> {
    trial: T,
    effort: Effort,
    begin: Instant,
    best: Plan,
    /// Candidates, as text, that did not violate the property.
    refused: BTreeSet<String>,
    runs: u64,
    steps: u64,
    unsteady: u64,
}

impl<T: Fn(&Plan) -> Option<u64> + Sync> Search<T> {
    /// Coarse cuts first: they make all later runs cheap.
    fn all(&mut self) {
        loop {
            let steps = self.steps;
            self.without_some(|plan| Some(&mut plan.faults));
            self.lower(|plan| Some(&mut plan.duration_ms), 1_000);
            for client in 0..self.best.clients.len() {
                self.lower(|plan| of_producer(plan, client)?.messages.as_mut(), 1);
            }
            self.without_some(|plan| Some(&mut plan.clients));
            self.without_some(|plan| Some(&mut plan.groups));
            self.without_some(|plan| Some(&mut plan.brokers));
            self.simpler_topology();
            self.simpler_faults();
            self.simpler_workload();
            if self.steps == steps || self.is_over() {
                return;
            }
        }
    }

    fn is_over(&self) -> bool {
        self.runs >= self.effort.runs_max || self.begin.elapsed() >= self.effort.budget
    }

    fn simpler_topology(&mut self) {
        self.change(|plan| plan.name_servers = 1);
        for topic in 0..self.best.topics.len() {
            self.change(|plan| plan.topics[topic].queues = 1);
        }
        for client in 0..self.best.clients.len() {
            self.without_some(|plan| Some(&mut plan.clients[client].joins));
            self.change(|plan| plan.clients[client].produces = None);
        }
        for broker in 0..self.best.brokers.len() {
            self.change(|plan| plan.brokers[broker].properties.clear());
        }
    }

    fn simpler_faults(&mut self) {
        for fault in 0..self.best.faults.len() {
            self.lower(|plan| plan.faults.get_mut(fault)?.what.for_ms_mut(), 1);
            self.lower(|plan| Some(&mut plan.faults.get_mut(fault)?.at_ms), 0);
            self.without_some(|plan| Some(sides(plan, fault)?.0));
            self.without_some(|plan| Some(sides(plan, fault)?.1));
        }
    }

    fn simpler_workload(&mut self) {
        let changes: [fn(&mut Produces); 4] = [
            |produces| produces.unwaited_percent = 0.0,
            |produces| produces.batch_percent = 0.0,
            |produces| produces.one_way_percent = 0.0,
            |produces| produces.size_max = 0,
        ];
        for client in 0..self.best.clients.len() {
            for change in changes {
                self.change(|plan| {
                    if let Some(produces) = of_producer(plan, client) {
                        change(produces);
                    }
                });
            }
        }
        for group in 0..self.best.groups.len() {
            self.change(|plan| plan.groups[group].later_percent = 0.0);
            self.change(|plan| plan.groups[group].slow_percent = 0.0);
            self.lower(|plan| Some(&mut plan.groups[group].listen_ms), 0);
        }
        self.change(|plan| plan.network.jitter_us = 0);
    }

    /// Takes out ever smaller parts of a list.
    fn without_some<I>(&mut self, list: impl Fn(&mut Plan) -> Option<&mut Vec<I>>) {
        let count = |plan: &Plan| list(&mut plan.clone()).map_or(0, |items| items.len());
        let mut size = count(&self.best);
        while size > 0 {
            let mut start = 0;
            while start < count(&self.best) && !self.is_over() {
                let mut plan = self.best.clone();
                if let Some(items) = list(&mut plan) {
                    items.drain(start..(start + size).min(items.len()));
                }
                if !self.tries(plan) {
                    start += size;
                }
            }
            size = size.min(count(&self.best)) / 2;
        }
    }

    /// Lowers a number to its floor, or as far as an eighth of what is left.
    fn lower(&mut self, number: impl Fn(&mut Plan) -> Option<&mut u64>, floor: u64) {
        let with = |plan: &Plan, value: u64| {
            let mut plan = plan.clone();
            *number(&mut plan)? = value;
            Some(plan)
        };
        let Some(mut high) = number(&mut self.best.clone()).map(|value| *value) else {
            return;
        };
        let (mut low, mut middle) = (floor, floor);
        while high > low && !self.is_over() {
            let Some(plan) = with(&self.best, middle) else { return };
            if self.tries(plan) {
                high = middle;
            } else {
                low = middle;
            }
            if high - low <= 1.max(high / 8) {
                return;
            }
            middle = low + (high - low) / 2;
        }
    }

    fn change(&mut self, change: impl Fn(&mut Plan)) {
        let mut plan = self.best.clone();
        change(&mut plan);
        self.tries(plan);
    }

    /// Accepts the plan if it violates the property under one of the schedules.
    fn tries(&mut self, mut plan: Plan) -> bool {
        plan.tidy();
        if plan == self.best || plan.check().is_err() || self.is_over() {
            return false;
        }
        let key = plan.to_toml();
        if self.refused.contains(&key) {
            return false;
        }
        let others = (0..).map(Some).filter(|schedule| *schedule != plan.schedule);
        let plans: Vec<Plan> = std::iter::once(plan.schedule)
            .chain(others)
            .take(self.effort.schedules.max(1) as usize)
            .map(|schedule| scheduled(&plan, schedule))
            .collect();
        for some in plans.chunks(self.effort.jobs.max(1)) {
            let Some((plan, hash)) = self.first_violating(some) else {
                continue;
            };
            self.runs += 1;
            if (self.trial)(plan) == Some(hash) {
                self.steps += 1;
                self.best = plan.clone();
                return true;
            }
            self.unsteady += 1;
        }
        self.refused.insert(key);
        false
    }

    fn first_violating<'a>(&mut self, plans: &'a [Plan]) -> Option<(&'a Plan, u64)> {
        self.runs += plans.len() as u64;
        let trial = &self.trial;
        let hashes: Vec<Option<u64>> = std::thread::scope(|scope| {
            let threads: Vec<_> = plans.iter().map(|plan| scope.spawn(move || trial(plan))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("a trial does not panic"))
                .collect()
        });
        plans.iter().zip(hashes).find_map(|(plan, hash)| Some((plan, hash?)))
    }
}

fn of_producer(plan: &mut Plan, client: usize) -> Option<&mut Produces> {
    plan.clients.get_mut(client)?.produces.as_mut()
}

fn sides(plan: &mut Plan, fault: usize) -> Option<(&mut Vec<String>, &mut Vec<String>)> {
    match &mut plan.faults.get_mut(fault)?.what {
        FaultPlan::Cut { from, to, .. } => Some((from, to)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::generate::generate;
    use crate::plan::ClientPlan;

    fn search<T: Fn(&Plan) -> Option<u64> + Sync>(plan: Plan, trial: T) -> Search<T> {
        Search {
            trial,
            effort: Effort::default(),
            begin: Instant::now(),
            best: plan,
            refused: BTreeSet::new(),
            runs: 0,
            steps: 0,
            unsteady: 0,
        }
    }

    fn rich_plan() -> Plan {
        (0..).map(generate).find(|plan| plan.faults.len() > 12).unwrap()
    }

    #[test]
    fn what_the_violation_needs_stays_and_all_else_goes() {
        let plan = rich_plan();
        let (first, last) = (plan.faults[2].what.clone(), plan.faults[9].what.clone());
        let kind = |what: &FaultPlan| std::mem::discriminant(what);
        let has = |plan: &Plan, wanted: &FaultPlan| plan.faults.iter().any(|fault| kind(&fault.what) == kind(wanted));
        let mut search = search(plan, |plan| {
            let is_long = plan.duration_ms >= 7_300;
            (is_long && has(plan, &first) && has(plan, &last) && !plan.groups.is_empty()).then_some(1)
        });
        search.all();
        let best = &search.best;
        assert!(best.faults.len() <= 2, "{:?}", best.faults);
        assert!(has(best, &first) && has(best, &last));
        assert!((7_300..8_300).contains(&best.duration_ms), "{}", best.duration_ms);
        assert_eq!((best.groups.len(), best.brokers.len()), (1, 1));
        let named: Vec<String> = best.faults.iter().flat_map(|fault| fault.what.nodes()).collect();
        let is_needed = |client: &ClientPlan| named.contains(&client.name) || !client.joins.is_empty();
        assert!(best.clients.iter().all(is_needed), "{best:?}");
        assert_eq!((best.name_servers, best.topics[0].queues), (1, 1));
        best.check().unwrap();
    }

    #[test]
    fn a_schedule_that_still_fails_is_found_and_kept() {
        let mut search = search(rich_plan(), |plan| {
            (plan.faults.len() > 10 || plan.schedule == Some(2)).then_some(1)
        });
        search.all();
        assert_eq!(search.best.schedule, Some(2));
        assert!(search.best.faults.is_empty());
    }

    #[test]
    fn a_candidate_that_runs_differently_the_second_time_is_refused() {
        let calls = AtomicU64::new(0);
        let plan = rich_plan();
        let mut search = search(plan.clone(), |_: &Plan| Some(calls.fetch_add(1, Ordering::Relaxed)));
        search.all();
        assert_eq!((search.best, search.steps), (plan, 0));
        assert!(search.unsteady > 0);
    }

    #[test]
    fn the_budget_ends_the_search() {
        let mut search = search(rich_plan(), |_: &Plan| None);
        search.effort.runs_max = 20;
        search.all();
        assert!(search.is_over());
        assert!((20..=24).contains(&search.runs), "{}", search.runs);
    }
}
