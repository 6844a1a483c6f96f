//! A handful of seeds, every stored counterexample, and equal traces: what `cargo test` runs of the fuzzer.

use std::path::PathBuf;

use orrery_checker::Verdict;
use orrery_scenarios::corpus;
use orrery_scenarios::determinism::compare;
use orrery_scenarios::generate::generate;
use orrery_scenarios::output::{read_run, write_run};
use orrery_scenarios::plan::Plan;
use orrery_scenarios::run::run;
use orrery_scenarios::shrink::{Effort, shrink, violates};

#[test]
fn some_generated_plans_hold() {
    for seed in 0..3 {
        let run = run(&generate(seed));
        assert!(
            !matches!(run.report.verdict, Verdict::Violated(_)),
            "seed {seed}: {}",
            run.report
        );
    }
}

#[test]
fn two_seeds_have_equal_traces_in_one_process_and_across_threads() {
    for seed in 0..2 {
        let difference = compare(seed, None).unwrap();
        assert!(difference.is_none(), "{difference:?}");
    }
}

#[test]
fn every_plan_in_the_corpus_holds_and_is_found_with_its_defect() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for stored in corpus::load(&folder).unwrap() {
        let outcome = corpus::try_again(&stored.plan, 2);
        let path = stored.path.display();
        assert_eq!(outcome.violations, [], "{path}");
        assert!(outcome.is_good(), "{path}: the defect is not found");
    }
}

#[test]
fn the_plan_of_the_page_is_found_to_break_what_it_says() {
    let page = include_str!("../../docs/plan.md");
    let text = page.split("```").nth(1).unwrap().trim_start_matches("toml");
    let mut plan = Plan::parse("docs/plan.md", text).unwrap();
    assert!(violates(&run(&plan), "C02") || violates(&run(&plan), "C05"));
    plan.sites.clear();
    assert!(!matches!(run(&plan).report.verdict, Verdict::Violated(_)));
}

#[test]
fn a_violation_shrinks_to_a_plan_that_replays() {
    let mut plan = generate(1);
    plan.sites.insert("ack-before-fsync".into(), 1.0);
    let found = run(&plan);
    let effort = Effort {
        runs_max: 40,
        schedules: 1,
        ..Effort::default()
    };
    let shrunk = shrink(&found, "C02", &effort);
    let (before, after) = (shrunk.account.before, shrunk.account.after);
    assert!(after.faults < before.faults && after.sends < before.sends, "{after:?}");
    assert_eq!(run(&shrunk.run.plan).trace_hash, shrunk.run.trace_hash);
    assert!(violates(&shrunk.run, "C02"));
}

#[test]
fn a_run_that_was_written_down_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut plan = generate(1);
    plan.duration_ms = 3_000;
    plan.faults.clear();
    let run = run(&plan);
    write_run(directory.path(), &run).unwrap();
    let (read, verdict) = read_run(directory.path()).unwrap();
    assert_eq!(read, plan);
    assert_eq!(verdict.unwrap().report, run.report);
}
