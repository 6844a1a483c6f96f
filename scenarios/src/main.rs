//! `orrery-sim`: runs, fuzzes and replays plans in simulation.
//!
//! Exit codes: 0 held or done, 1 a property was violated or an operation failed, 2 wrong usage or configuration, 3 inconclusive.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, Parser, Subcommand};
use orrery_checker::Verdict;
use orrery_runtime_sim::LogWindow;
use orrery_scenarios::corpus::{self, Stored};
use orrery_scenarios::determinism::{compare, trace_text};
use orrery_scenarios::fuzz::{Fuzz, Summary, fuzz};
use orrery_scenarios::generate::{PROFILES, Profile, generate_in};
use orrery_scenarios::output::{read_run, shown_hash, write_json, write_run, write_shrunk};
use orrery_scenarios::plan::{Plan, PlanError};
use orrery_scenarios::run::{Run, run, run_logged};
use orrery_scenarios::shrink::{Account, Effort, Size, shrink, violates};
use orrery_scenarios::timeline::{Filter, print_timeline};

/// A defect that is known to be found quickly, for `fuzz --demo`.
const DEMO_SITE: &str = "ack-before-fsync";

#[derive(Parser)]
#[command(
    name = "orrery-sim",
    version,
    about = "Runs, fuzzes and replays Orrery in simulation"
)]
struct Cli {
    #[command(subcommand)]
    command: Commands,
}

#[derive(Subcommand)]
enum Commands {
    /// One simulated run of a plan: history, fault log, verdict, trace hash
    Run(RunArgs),
    /// Runs plans generated from seeds; writes down every violation
    Fuzz(FuzzArgs),
    /// Makes a plan that violates a property smaller, by dropping and narrowing whatever the violation does not need
    Shrink(ShrinkArgs),
    /// Runs a plan again and prints its timeline
    Replay(ReplayArgs),
    /// Runs every stored counterexample under many schedules: fixed ones must stay fixed, kept defects must still be found
    Corpus(CorpusArgs),
    /// Runs every seed twice in one process, on two threads and in a fresh process, and compares traces
    Determinism(DeterminismArgs),
}

#[derive(Args)]
struct RunArgs {
    /// A plan (TOML or JSON), or a directory with plan.toml; without it the plan generated from --seed
    #[arg(required_unless_present = "seed")]
    plan: Option<PathBuf>,
    /// Seed of the run's draws; without a plan, also of the plan
    #[arg(long)]
    seed: Option<u64>,
    /// Which family of plans --seed means
    #[arg(long, default_value = PROFILES[0].name, value_parser = PossibleValuesParser::new(profiles()))]
    profile: String,
    /// Writes plan.toml, history.jsonl, verdict.json and timeline.html there
    #[arg(long)]
    out: Option<PathBuf>,
    /// Switches a site on, with a probability per asking
    #[arg(long = "site", value_name = "NAME[=p]", value_parser = parse_site)]
    sites: Vec<(String, f64)>,
    /// Prints the trace's hash and checkpoints instead of the verdict
    #[arg(long, hide = true)]
    trace: bool,
    #[arg(long, hide = true, value_parser = parse_window)]
    trace_window: Option<(u64, u64)>,
}

#[derive(Args)]
struct FuzzArgs {
    /// Which family of plans
    #[arg(long, default_value = PROFILES[0].name, value_parser = PossibleValuesParser::new(profiles()))]
    profile: String,
    /// Seeds to run
    #[arg(long, default_value_t = 100, conflicts_with = "budget")]
    seeds: u64,
    /// Time to spend instead, such as 90s, 10m, 2h
    #[arg(long, value_parser = parse_duration)]
    budget: Option<Duration>,
    /// First seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Seeds at once; default: one per core
    #[arg(long)]
    jobs: Option<usize>,
    /// Only this part of the seeds, such as 0/4
    #[arg(long, default_value = "0/1", value_parser = parse_shard)]
    shard: (u64, u64),
    /// Where violations and summary.json go
    #[arg(long)]
    out: Option<PathBuf>,
    /// Per cent of seeds that may be inconclusive
    #[arg(long, default_value_t = 2.0)]
    max_inconclusive: f64,
    /// Switches a seeded defect or an unlikely choice on, and stops at the first violation
    #[arg(long = "site", value_name = "NAME[=p]", value_parser = parse_site)]
    sites: Vec<(String, f64)>,
    /// Shows what a finding looks like: switches a known defect on
    #[arg(long)]
    demo: bool,
    /// Leaves violations as they were found
    #[arg(long)]
    no_shrink: bool,
    #[command(flatten)]
    effort: EffortArgs,
}

#[derive(Args)]
struct ReplayArgs {
    /// A directory that run or fuzz wrote, or a plan
    plan: PathBuf,
    /// Timeline from this second on
    #[arg(long)]
    from: Option<f64>,
    /// Timeline until this second
    #[arg(long)]
    until: Option<f64>,
    /// Only lines about this node or client
    #[arg(long)]
    node: Option<String>,
    /// Only lines about this queue, such as orders@broker-a:0
    #[arg(long)]
    queue: Option<String>,
}

#[derive(Args)]
struct ShrinkArgs {
    /// A plan (TOML or JSON), or a directory with plan.toml
    plan: PathBuf,
    /// The property to keep violated, such as C05; without it, the first that the plan violates
    #[arg(long)]
    property: Option<String>,
    #[command(flatten)]
    effort: EffortArgs,
    /// Writes plan.toml, history.jsonl, verdict.json and shrink.json there
    #[arg(long)]
    out: PathBuf,
}

/// How hard to shrink.
#[derive(Args)]
struct EffortArgs {
    /// Time for shrinking one finding, such as 90s, 10m or 2h
    #[arg(long, default_value = "2m", value_parser = parse_duration)]
    shrink_budget: Duration,
    /// Orders of tasks under which a smaller plan is tried
    #[arg(long, default_value_t = 4)]
    schedules: u64,
}

impl EffortArgs {
    fn effort(&self, jobs: usize) -> Effort {
        Effort {
            budget: self.shrink_budget,
            schedules: self.schedules,
            jobs,
            ..Effort::default()
        }
    }
}

#[derive(Args)]
struct CorpusArgs {
    /// Folder of plans
    #[arg(default_value = "scenarios/corpus")]
    folder: PathBuf,
    /// Orders of tasks under which each plan is run
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    schedules: u64,
}

#[derive(Args)]
struct DeterminismArgs {
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// First seed
    #[arg(long, default_value_t = 0)]
    from: u64,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Commands::Run(args) => run_command(args),
        Commands::Fuzz(args) => fuzz_command(args),
        Commands::Shrink(args) => shrink_command(args),
        Commands::Replay(args) => replay_command(args),
        Commands::Corpus(args) => corpus_command(&args),
        Commands::Determinism(args) => determinism_command(args),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("orrery-sim: {error:#}");
            let is_usage = error.downcast_ref::<PlanError>().is_some();
            ExitCode::from(if is_usage { 2 } else { 1 })
        }
    }
}

fn run_command(args: RunArgs) -> anyhow::Result<u8> {
    let mut plan = match (&args.plan, args.seed) {
        (Some(path), _) => read_run(path)?.0,
        (None, Some(seed)) => generate_in(profile(&args.profile), seed),
        (None, None) => unreachable!("clap requires one of them"),
    };
    if let Some(seed) = args.seed {
        plan.seed = seed;
    }
    plan.sites.extend(args.sites);
    if args.trace {
        let window = args
            .trace_window
            .map_or(LogWindow::Off, |(from, to)| LogWindow::Range { from, to });
        let run = run_logged(&plan, window);
        print!("{}", trace_text(&run));
        return Ok(run.report.exit_code());
    }
    let run = run(&plan);
    print_run(&run);
    if let Some(out) = &args.out {
        write_run(out, &run)?;
        if let Verdict::Violated(_) = run.report.verdict {
            println!("replay: orrery-sim replay {}", out.display());
        }
    }
    Ok(run.report.exit_code())
}

fn print_run(run: &Run) {
    let (sends, deliveries) = run.load();
    println!("{}", run.report);
    println!(
        "seed {}: {:.1} simulated s in {:.2} s ({:.0} times), {sends:.0} sends/s, {deliveries:.0} deliveries/s, trace hash {}",
        run.plan.seed,
        run.time.as_secs_f64(),
        run.took.as_secs_f64(),
        run.time.as_secs_f64() / run.took.as_secs_f64().max(f64::EPSILON),
        shown_hash(run.trace_hash)
    );
    for (site, taken) in &run.sites_taken {
        println!("site {site}: taken {taken} times");
    }
}

fn fuzz_command(args: FuzzArgs) -> anyhow::Result<u8> {
    let mut sites: BTreeMap<String, f64> = args.sites.into_iter().collect();
    if args.demo {
        sites.insert(DEMO_SITE.into(), 1.0);
    }
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("orrery-sim-out"));
    let job_count = args.jobs.unwrap_or_else(jobs_default);
    let fuzz_args = Fuzz {
        profile: profile(&args.profile),
        from: args.from,
        seeds: args.budget.is_none().then_some(args.seeds),
        budget: args.budget,
        jobs: job_count,
        shard: args.shard,
        stop_at_first: !sites.is_empty(),
        sites,
        shrink: (!args.no_shrink).then(|| args.effort.effort(job_count)),
        out: out.clone(),
    };
    let is_terminal = std::io::stderr().is_terminal();
    let summary = fuzz(&fuzz_args, |done, violated| {
        if is_terminal {
            let of = fuzz_args.seeds.map_or(String::new(), |seeds| {
                format!(" of {}", seeds.div_ceil(fuzz_args.shard.1))
            });
            eprint!("\r{done}{of} seeds, {violated} violated ");
        }
    })?;
    if is_terminal {
        eprintln!();
    }
    print_summary(&summary);
    if args.out.is_some() {
        std::fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
        let path = out.join("summary.json");
        write_json(&path, &summary)?;
        let summaries = [orrery_reports::read(&path)?];
        std::fs::write(out.join("summary.md"), orrery_reports::markdown(&summaries))?;
        std::fs::write(out.join("junit.xml"), orrery_reports::junit(&summaries))?;
    }
    Ok(summary.exit_code(args.max_inconclusive))
}

fn print_summary(summary: &Summary) {
    for finding in &summary.findings {
        println!(
            "seed {} (number {}): {} {}: {}",
            finding.seed, finding.after_seeds, finding.property, finding.title, finding.explanation
        );
        if let Some(account) = &finding.shrunk {
            print_account(account);
        }
        println!("  replay: orrery-sim replay {}", finding.directory);
    }
    for (seed, reasons) in &summary.inconclusive_seeds {
        println!("seed {seed}: inconclusive: {}", reasons.join("; "));
    }
    println!(
        "{} seeds: {} held, {} violated, {} inconclusive ({:.1} %)",
        summary.seeds_run,
        summary.held,
        summary.violated,
        summary.inconclusive,
        summary.inconclusive_percent()
    );
    println!(
        "{:.0} simulated s in {:.1} s, {:.0} simulated s per s of one thread; median {} acknowledgements and {} faults with effect; \
         at least {:.0} sends/s and {:.0} deliveries/s; {} messages lost inside the durability budget; {} stores and {} searches judged",
        summary.simulated_seconds,
        summary.wall_seconds,
        summary.ratio_per_thread,
        summary.acks_median,
        summary.faults_with_effect_median,
        summary.sends_per_second_min,
        summary.deliveries_per_second_min,
        summary.lost_in_budget,
        summary.stores_judged,
        summary.searches_judged
    );
    let effects: Vec<String> = summary
        .fault_effects
        .iter()
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    println!("faults with effect: {}", effects.join(", "));
    if !summary.sites.is_empty() {
        let sites: Vec<&str> = summary.sites.keys().map(String::as_str).collect();
        match summary.findings.first() {
            Some(finding) => println!("{}: found after {} seeds", sites.join(", "), finding.after_seeds),
            None => println!("{}: not found in {} seeds", sites.join(", "), summary.seeds_run),
        }
    }
}

/// Names of profiles, with what each is for.
fn profiles() -> impl Iterator<Item = PossibleValue> {
    PROFILES
        .iter()
        .map(|profile| PossibleValue::new(profile.name).help(profile.about))
}

fn profile(name: &str) -> Profile {
    Profile::by_name(name).expect("clap allows only profiles")
}

/// Threads that run at the same time.
fn jobs_default() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn shrink_command(args: ShrinkArgs) -> anyhow::Result<u8> {
    let found = run(&read_run(&args.plan)?.0);
    let property = match (&args.property, found.report.violations().first()) {
        (Some(property), _) if violates(&found, property) => property.clone(),
        (None, Some(violation)) => violation.property.clone(),
        (wanted, _) => {
            print_run(&found);
            let wanted = wanted.as_deref().unwrap_or("any property");
            println!("nothing to shrink: the plan does not violate {wanted}");
            return Ok(if found.report.violations().is_empty() { 0 } else { 1 });
        }
    };
    let shrunk = shrink(&found, &property, &args.effort.effort(jobs_default()));
    write_shrunk(&args.out, &shrunk)?;
    print_run(&shrunk.run);
    print_account(&shrunk.account);
    println!("replay: orrery-sim replay {}", args.out.display());
    Ok(shrunk.run.report.exit_code())
}

fn print_account(account: &Account) {
    let size = |size: &Size| {
        format!(
            "{} nodes, {} faults, {} sends, {:.1} s",
            size.nodes,
            size.faults,
            size.sends,
            size.duration_ms as f64 / 1e3
        )
    };
    println!(
        "  shrunk from {} to {}: {} runs in {} s{}; violated under {} of {} schedules",
        size(&account.before),
        size(&account.after),
        account.runs,
        account.wall_seconds,
        if account.is_complete {
            ""
        } else {
            ", until the budget ended"
        },
        account.schedules_failing,
        account.schedules_tried
    );
}

fn replay_command(args: ReplayArgs) -> anyhow::Result<u8> {
    let (plan, before): (Plan, _) = read_run(&args.plan)?;
    let run = run(&plan);
    print_timeline(
        &run.history.records,
        &Filter {
            from: args.from,
            until: args.until,
            node: args.node,
            queue: args.queue,
        },
    );
    print_run(&run);
    match before {
        Some(before) if before.trace_hash != shown_hash(run.trace_hash) => {
            println!(
                "the trace differs from the recorded one ({}): another build?",
                before.trace_hash
            );
        }
        Some(_) => println!("the trace equals the recorded one"),
        None => {}
    }
    Ok(run.report.exit_code())
}

fn corpus_command(args: &CorpusArgs) -> anyhow::Result<u8> {
    let stored = corpus::load(&args.folder)?;
    let mut is_good = true;
    let outcomes = corpus::try_all(&stored, args.schedules, jobs_default());
    for (Stored { path, plan }, outcome) in stored.iter().zip(&outcomes) {
        is_good &= outcome.is_good();
        let verdict = match &outcome.violations[..] {
            [] => "holds".to_owned(),
            all => format!("violated {} times", all.len()),
        };
        let again = outcome.found_again.map_or(String::new(), |found| {
            let property = plan.expect.as_deref().unwrap_or_default();
            format!(
                "; with its defect {property} under {found} of {} schedules",
                args.schedules
            )
        });
        println!("{}: {verdict}{again}", path.display());
        for (schedule, violation) in outcome.violations.iter().take(3) {
            println!("  schedule {schedule}: {violation}");
        }
    }
    println!("{} plans under {} schedules each", stored.len(), args.schedules);
    Ok(if is_good { 0 } else { 1 })
}

fn determinism_command(args: DeterminismArgs) -> anyhow::Result<u8> {
    let binary = std::env::current_exe().context("the path of this program")?;
    let is_terminal = std::io::stderr().is_terminal();
    for seed in args.from..args.from + args.seeds {
        if let Some(difference) = compare(seed, Some(Path::new(&binary)))? {
            println!(
                "seed {} differs {}; first differing event:",
                difference.seed, difference.mode
            );
            println!("  {}", difference.events.0);
            println!("  {}", difference.events.1);
            return Ok(1);
        }
        if is_terminal {
            eprint!("\r{} of {} seeds ", seed - args.from + 1, args.seeds);
        }
    }
    if is_terminal {
        eprintln!();
    }
    println!(
        "{} seeds: equal traces in one process, across threads and in fresh processes",
        args.seeds
    );
    Ok(0)
}

fn parse_site(text: &str) -> Result<(String, f64), String> {
    let (name, probability) = text.split_once('=').unwrap_or((text, "1"));
    match probability.parse::<f64>() {
        Ok(probability) if (0.0..=1.0).contains(&probability) => Ok((name.to_owned(), probability)),
        _ => Err(format!("{probability} is no probability from 0 to 1")),
    }
}

fn parse_shard(text: &str) -> Result<(u64, u64), String> {
    let wrong = || format!("{text} is not i/n with i < n, such as 0/4");
    let (index, count) = text.split_once('/').ok_or_else(wrong)?;
    match (index.parse(), count.parse()) {
        (Ok(index), Ok(count)) if index < count => Ok((index, count)),
        _ => Err(wrong()),
    }
}

fn parse_window(text: &str) -> Result<(u64, u64), String> {
    let wrong = || format!("{text} is not from..to");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    Ok((from.parse().map_err(|_| wrong())?, to.parse().map_err(|_| wrong())?))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text} is not a duration such as 90s, 10m or 2h");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(number * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_are_read_and_nonsense_is_refused() {
        assert_eq!(parse_site("x"), Ok(("x".into(), 1.0)));
        assert_eq!(parse_site("x=0.25"), Ok(("x".into(), 0.25)));
        assert!(parse_site("x=2").is_err());
        assert_eq!(parse_shard("1/4"), Ok((1, 4)));
        assert!(parse_shard("4/4").is_err());
        assert_eq!(parse_duration("10m"), Ok(Duration::from_secs(600)));
        assert!(parse_duration("ten").is_err());
    }
}
