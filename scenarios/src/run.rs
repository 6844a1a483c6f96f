//! One run of a plan: boot, work under faults, heal, drain, scan, judge.

use std::time::{Duration, Instant};

use orrery_checker::history::{
    self, BrokerConfig, Event, GroupConfig, Header, History, Limits, Model, Record, Recorded, Required, StartAt,
};
use orrery_checker::{Options, Report, Verdict, Violation};
use orrery_runtime_sim::{LinkProfile, LogWindow, NetSettings, Outcome, Sim, TraceLog, World};

use crate::cluster::{Cluster, OFFSET_PERSIST_MS};
use crate::drain::Operator;
use crate::faults::strike;
use crate::plan::{Flush, Order, Plan};
use crate::recorder::{Recorder, nanoseconds};

/// What a run leaves behind.
pub struct Run {
    pub plan: Plan,
    pub history: History,
    pub report: Report,
    pub trace_hash: u64,
    pub event_count: u64,
    pub log: TraceLog,
    /// Simulated time.
    pub time: Duration,
    /// Real time, for the ratio only.
    pub took: Duration,
    /// How often each switched-on site was taken.
    pub sites_taken: Vec<(String, u64)>,
}

impl Run {
    /// Acknowledged sends and deliveries per simulated second.
    pub fn load(&self) -> (f64, f64) {
        let seconds = self.time.as_secs_f64().max(f64::EPSILON);
        let counts = &self.report.counts;
        (counts.sends as f64 / seconds, counts.deliveries as f64 / seconds)
    }
}

/// Runs a plan on a thread of its own and judges what happened.
pub fn run(plan: &Plan) -> Run {
    run_logged(plan, LogWindow::Off)
}

/// As [`run`], keeping a window of the trace.
pub fn run_logged(plan: &Plan, window: LogWindow) -> Run {
    let begin = Instant::now();
    let net = NetSettings {
        user_timeout: Duration::from_millis(plan.network.user_timeout_ms),
        ..NetSettings::default()
    };
    let scenario = plan.clone();
    let schedule = plan.schedule.unwrap_or(plan.seed);
    let sim = Sim::new(plan.seed).schedule(schedule).log(window).net(net);
    let mut outcome = sim.run(move |world| async move { play(world, &scenario).await });
    let history = History {
        header: header(plan),
        records: std::mem::take(&mut outcome.value),
    };
    let report = judge(&history, &outcome);
    Run {
        plan: plan.clone(),
        history,
        report,
        trace_hash: outcome.trace_hash,
        event_count: outcome.event_count,
        log: outcome.log,
        time: outcome.time,
        took: begin.elapsed(),
        sites_taken: outcome
            .sites
            .iter()
            .filter(|(name, _)| plan.sites.contains_key(**name))
            .map(|(name, count)| ((*name).to_owned(), count.taken))
            .collect(),
    }
}

async fn play(world: World, plan: &Plan) -> Vec<Record> {
    for (site, probability) in &plan.sites {
        world.switch_site(site, *probability);
    }
    world.set_default_link(LinkProfile {
        latency: Duration::from_micros(plan.network.latency_us),
        jitter: Duration::from_micros(plan.network.jitter_us),
        ..LinkProfile::default()
    });
    let recorder = Recorder::new(&world);
    let mark = |name: &str| recorder.tell(Event::Mark { name: name.into() });
    let cluster = Cluster::boot(&world, plan, &recorder);
    let operator = Operator::new(&cluster, "operator");
    if let Err(error) = operator.create_topics(plan).await {
        mark(&format!("topics were not created: {error}"));
        return recorder.finish(world.drain_facts());
    }
    cluster.boot_clients(plan, &recorder);
    mark("workload_begin");
    let end = world.now() + Duration::from_millis(plan.duration_ms);
    strike(&cluster, plan, &recorder).await;
    mark("healed");
    world.sleep(end.saturating_sub(world.now())).await;
    cluster.shared.stop.store(true, std::sync::atomic::Ordering::Relaxed);
    mark("workload_end");
    operator.drain(&world, plan, &cluster.shared, &recorder).await;
    mark("drained");
    operator.leave().await;
    let scanner = Operator::new(&cluster, "scanner");
    scanner.scan(plan, &recorder).await;
    cluster.restart_brokers().await;
    recorder.finish(world.drain_facts())
}

/// The checker's verdict; a panic anywhere in the system is a violation of its own.
fn judge(history: &History, outcome: &Outcome<Vec<Record>>) -> Report {
    let mut report = orrery_checker::check_history(history, &Options::default());
    if outcome.panics.is_empty() {
        return report;
    }
    let panics = outcome.panics.iter().map(|panic| Violation {
        property: "C30".into(),
        title: "panic".into(),
        t: nanoseconds(panic.time),
        explanation: format!("{} in task {}: {}", panic.node, panic.task, panic.message),
    });
    let mut violations: Vec<Violation> = panics.collect();
    violations.extend(report.violations().iter().cloned());
    report.verdict = Verdict::Violated(violations);
    report
}

fn header(plan: &Plan) -> Header {
    use Recorded::*;
    let brokers = plan.brokers.iter().map(|broker| BrokerConfig {
        name: broker.name.clone(),
        node: broker.name.clone(),
        flush: match broker.flush {
            Flush::Sync => history::Flush::Sync,
            Flush::Async => history::Flush::Async,
        },
    });
    let groups = plan.groups.iter().map(|group| GroupConfig {
        name: group.name.clone(),
        topics: group.topics.clone(),
        order: match group.order {
            Order::Orderly => history::Order::Orderly,
            Order::Concurrent => history::Order::Concurrent,
        },
        model: Model::Clustering,
        from: StartAt::First,
        tags: None,
    });
    Header {
        history: history::VERSION,
        source: format!("orrery-sim {}", env!("CARGO_PKG_VERSION")),
        seed: Some(plan.seed),
        records: vec![
            Sends,
            Deliveries,
            Sessions,
            Fetches,
            Commits,
            SendBacks,
            OffsetQueries,
            Locks,
            Faults,
            Facts,
            Scan,
            Stores,
            Drain,
        ],
        brokers: brokers.collect(),
        groups: groups.collect(),
        limits: Limits {
            // Saving waits for a disk that stalls or is slow.
            offset_persist_ms: OFFSET_PERSIST_MS + longest_disk_fault_ms(plan) + 1_000,
            clock_drift_ppm: 50_000,
            ..Limits::default()
        },
        required: Required {
            acks: 200,
            deliveries: 200,
            fault_effects: u64::from(!plan.faults.is_empty()),
        },
    }
}

fn longest_disk_fault_ms(plan: &Plan) -> u64 {
    use crate::plan::FaultPlan;
    let faults = plan.faults.iter().map(|fault| match fault.what {
        FaultPlan::DiskSlow { sync_ms, .. } => 10 * sync_ms,
        FaultPlan::DiskStall { for_ms, .. }
        | FaultPlan::Pause { for_ms, .. }
        | FaultPlan::DiskErrors { for_ms, .. }
        | FaultPlan::DiskFull { for_ms, .. } => for_ms,
        _ => 0,
    });
    faults.max().unwrap_or(0)
}
