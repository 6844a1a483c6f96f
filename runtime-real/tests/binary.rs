//! What must not be inside the production binary, and what it answers to wrong usage.
//!
//! `cargo test --workspace` builds `orrery` and the simulator together: were features unified into the production binary, it
//! would show here. `ORRERY_BINARY` names another build to look at, such as the release binary of a whole-workspace build; `orrery-sim`
//! beside it must then contain all that `orrery` must not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn orrery() -> PathBuf {
    std::env::var_os("ORRERY_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_orrery").into(), PathBuf::from)
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    let needle = needle.as_bytes();
    let mut rest = haystack;
    while let Some(at) = rest.iter().position(|byte| *byte == needle[0]) {
        if rest[at..].starts_with(needle) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

/// Names given to `site(&…, "name")` anywhere in core.
fn site_names() -> BTreeSet<String> {
    let core = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/src");
    let mut names = BTreeSet::new();
    let mut folders = vec![core];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of core") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                names.extend(sites_in(&std::fs::read_to_string(path).expect("a source file")));
            }
        }
    }
    names
}

/// The first literal after each call of `site`.
fn sites_in(source: &str) -> Vec<String> {
    let code: Vec<&str> = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let code = code.join("\n");
    let calls = code
        .match_indices("site(")
        .filter(|(at, _)| !code[..*at].ends_with(|before: char| before.is_alphanumeric() || before == '_'));
    calls
        .filter_map(|(at, _)| {
            let arguments = &code[at..][..code[at..].find(')').unwrap_or(0)];
            Some(arguments.split('"').nth(1)?.to_owned())
        })
        .collect()
}

#[test]
fn the_production_binary_knows_no_simulator_and_no_site() {
    let binary = std::fs::read(orrery()).expect("the orrery binary");
    // The test can find what is there.
    assert!(
        contains(&binary, "orrery_core"),
        "no symbols: a stripped binary proves nothing"
    );
    assert!(contains(&binary, "orrery-worker"));
    assert!(
        !contains(&binary, "madsim"),
        "madsim is linked into the production binary"
    );
    for name in site_names() {
        assert!(
            !contains(&binary, &name),
            "the site {name:?} is in the production binary"
        );
    }
}

#[test]
fn sites_are_found_in_sources() {
    let source = r#"
        if runtime::site(&rt, "ack-before-fsync") {}
        if site(
            &self.runtime,
            "drop-lock",
        ) {}
        // site(&rt, "in-a-comment")
        if website(&rt, "other") {}
        fn site<R>(runtime: &R, name: &'static str) {}
    "#;
    assert_eq!(sites_in(source), ["ack-before-fsync", "drop-lock"]);
}

fn run(arguments: &[&str]) -> Output {
    Command::new(orrery())
        .args(arguments)
        .output()
        .expect("the orrery binary runs")
}

#[test]
fn wrong_usage_answers_2_and_says_why() {
    for arguments in [
        &["no-such-command"][..],
        &["bench", "producer", "-w", "0"],
        &["check"],
        &["check", "/no/such/history"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn an_unreachable_name_server_answers_1_without_a_stack_trace() {
    // Port 9 discards; nothing listens on it here.
    let output = run(&["bench", "producer", "-n", "127.0.0.1:9", "--seconds", "1"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("127.0.0.1:9"), "{said}");
    assert!(!said.contains("stack backtrace"), "{said}");
}
