//! A handful of seeds, every stored counterexample, and equal traces: what `cargo test` runs of the fuzzer.

use std::path::PathBuf;

use orrery_checker::Verdict;
use orrery_scenarios::determinism::compare;
use orrery_scenarios::generate::generate;
use orrery_scenarios::output::{read_run, write_run};
use orrery_scenarios::plan::Plan;
use orrery_scenarios::run::run;

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
fn every_plan_in_the_corpus_holds() {
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&corpus)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    paths.sort();
    for path in paths {
        let plan = Plan::read(&path).unwrap();
        assert!(!plan.story.is_empty(), "{} has no story", path.display());
        let run = run(&plan);
        assert!(
            !matches!(run.report.verdict, Verdict::Violated(_)),
            "{}: {}",
            path.display(),
            run.report
        );
    }
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
