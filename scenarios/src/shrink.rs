//! From a plan that breaks a law to a small one that still breaks it.
//!
//! Delta debugging (Zeller and Hildebrandt, 2002) over the parts of a plan, then bisection of its numbers, again and again until nothing gets
//! smaller or the budget is used up. A candidate counts if the *same* property is violated. Draws are keyed, so what is left of a plan draws as
//! before; only the order in which ready tasks run is rolled anew by any change, so each candidate is tried under several schedules and the
//! first that fails is kept in the plan. What was accepted is run once more: a run whose trace differs is not deterministic, and is refused.

use std::collections::BTreeSet;
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
pub fn shrink(found: Run, property: &str, effort: &Effort) -> Shrunk {
    assert!(violates(&found, property), "the run violates {property}");
    let before = Size::of(&found);
    let mut search = Search {
        property: property.to_owned(),
        effort: effort.clone(),
        begin: Instant::now(),
        best: found,
        refused: BTreeSet::new(),
        runs: 0,
        steps: 0,
        unsteady: 0,
    };
    search.all();
    let is_complete = !search.is_over();
    let schedules = 0..PROOF_SCHEDULES;
    let failing = schedules
        .clone()
        .filter(|&schedule| violates(&run(&scheduled(&search.best.plan, Some(schedule))), property))
        .count();
    let account = Account {
        property: search.property,
        before,
        after: Size::of(&search.best),
        runs: search.runs,
        steps: search.steps,
        refused_as_unsteady: search.unsteady,
        is_complete,
        schedules_failing: failing as u64,
        schedules_tried: PROOF_SCHEDULES,
        wall_seconds: search.begin.elapsed().as_secs(),
    };
    Shrunk {
        run: search.best,
        account,
    }
}

/// Whether the run violates the property, whatever else it violates.
pub fn violates(run: &Run, property: &str) -> bool {
    run.report
        .violations()
        .iter()
        .any(|violation| violation.property == property)
}

fn scheduled(plan: &Plan, schedule: Option<u64>) -> Plan {
    Plan {
        schedule,
        ..plan.clone()
    }
}

struct Search {
    property: String,
    effort: Effort,
    begin: Instant,
    best: Run,
    /// Candidates, as text, that did not violate the property.
    refused: BTreeSet<String>,
    runs: u64,
    steps: u64,
    unsteady: u64,
}

impl Search {
    /// Coarse cuts first: they make all later runs cheap.
    fn all(&mut self) {
        self.limit_messages();
        loop {
            let steps = self.steps;
            self.without_some(|plan| Some(&mut plan.faults));
            self.lower(|plan| Some(&mut plan.duration_ms), 1_000);
            self.lower_messages();
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

    /// Lets each producer stop after what it has sent: the run stays as it is, and there is a number to lower.
    fn limit_messages(&mut self) {
        let mut plan = self.best.plan.clone();
        for client in &mut plan.clients {
            if let Some(produces) = &mut client.produces
                && produces.messages.is_none()
            {
                produces.messages = Some(produced(&self.best, &client.name).max(1));
            }
        }
        self.tries(plan);
    }

    fn lower_messages(&mut self) {
        for client in 0..self.best.plan.clients.len() {
            self.lower(|plan| of_producer(plan, client)?.messages.as_mut(), 1);
        }
    }

    fn simpler_topology(&mut self) {
        self.change(|plan| plan.name_servers = 1);
        for topic in 0..self.best.plan.topics.len() {
            self.change(|plan| plan.topics[topic].queues = 1);
        }
        for client in 0..self.best.plan.clients.len() {
            self.without_some(|plan| Some(&mut plan.clients.get_mut(client)?.joins));
            self.change(|plan| plan.clients[client].produces = None);
        }
        for broker in 0..self.best.plan.brokers.len() {
            self.change(|plan| plan.brokers[broker].properties.clear());
        }
    }

    fn simpler_faults(&mut self) {
        for fault in 0..self.best.plan.faults.len() {
            self.lower(|plan| plan.faults.get_mut(fault)?.what.for_ms_mut(), 1);
            self.lower(|plan| Some(&mut plan.faults.get_mut(fault)?.at_ms), 0);
            self.without_some(|plan| Some(sides(plan, fault)?.0));
            self.without_some(|plan| Some(sides(plan, fault)?.1));
        }
    }

    fn simpler_workload(&mut self) {
        for client in 0..self.best.plan.clients.len() {
            let changes: [fn(&mut Produces); 4] = [
                |produces| produces.unwaited_percent = 0.0,
                |produces| produces.batch_percent = 0.0,
                |produces| produces.one_way_percent = 0.0,
                |produces| produces.size_max = 0,
            ];
            for change in changes {
                self.change(|plan| {
                    if let Some(produces) = of_producer(plan, client) {
                        change(produces);
                    }
                });
            }
        }
        for group in 0..self.best.plan.groups.len() {
            self.change(|plan| plan.groups[group].later_percent = 0.0);
            self.change(|plan| plan.groups[group].slow_percent = 0.0);
            self.lower(|plan| Some(&mut plan.groups[group].listen_ms), 0);
        }
        self.change(|plan| plan.network.jitter_us = 0);
    }

    /// Takes out ever smaller parts of a list.
    fn without_some<T>(&mut self, list: impl Fn(&mut Plan) -> Option<&mut Vec<T>>) {
        let count = |search: &Search| list(&mut search.best.plan.clone()).map_or(0, |items| items.len());
        let mut size = count(self);
        while size > 0 {
            let mut start = 0;
            while start < count(self) && !self.is_over() {
                let mut plan = self.best.plan.clone();
                if let Some(items) = list(&mut plan) {
                    items.drain(start..(start + size).min(items.len()));
                }
                if !self.tries(plan) {
                    start += size;
                }
            }
            size = size.min(count(self)) / 2;
        }
    }

    /// Lowers a number to its floor, or as far as an eighth of what is left.
    fn lower(&mut self, number: impl Fn(&mut Plan) -> Option<&mut u64>, floor: u64) {
        let with = |plan: &Plan, value: u64| {
            let mut plan = plan.clone();
            *number(&mut plan)? = value;
            Some(plan)
        };
        let Some(mut high) = number(&mut self.best.plan.clone()).map(|value| *value) else {
            return;
        };
        let (mut low, mut middle) = (floor, floor);
        while high > low && !self.is_over() {
            let Some(plan) = with(&self.best.plan, middle) else { return };
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
        let mut plan = self.best.plan.clone();
        change(&mut plan);
        self.tries(plan);
    }

    /// Accepts the plan if it violates the property under one of the schedules.
    fn tries(&mut self, mut plan: Plan) -> bool {
        plan.tidy();
        if plan == self.best.plan || plan.check().is_err() || self.is_over() || self.refused.contains(&plan.to_toml()) {
            return false;
        }
        let others = (0..).map(Some).filter(|schedule| *schedule != plan.schedule);
        let schedules: Vec<Option<u64>> = std::iter::once(plan.schedule)
            .chain(others)
            .take(self.effort.schedules.max(1) as usize)
            .collect();
        for some in schedules.chunks(self.effort.jobs.max(1)) {
            let Some(found) = self.first_violating(&plan, some) else { continue };
            self.runs += 1;
            if run(&found.plan).trace_hash == found.trace_hash {
                self.steps += 1;
                self.best = found;
                return true;
            }
            self.unsteady += 1;
        }
        self.refused.insert(plan.to_toml());
        false
    }

    fn first_violating(&mut self, plan: &Plan, schedules: &[Option<u64>]) -> Option<Run> {
        self.runs += schedules.len() as u64;
        let runs: Vec<Run> = std::thread::scope(|scope| {
            let threads: Vec<_> = schedules
                .iter()
                .map(|&schedule| scope.spawn(move || run(&scheduled(plan, schedule))))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("a run does not panic"))
                .collect()
        });
        runs.into_iter().find(|run| violates(run, &self.property))
    }
}

fn produced(run: &Run, client: &str) -> u64 {
    let is_its = |producer: &str| producer == client;
    run.history
        .records
        .iter()
        .filter(|record| matches!(&record.event, Event::SendInvoke { producer, attempt: 1, .. } if is_its(producer)))
        .count() as u64
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
