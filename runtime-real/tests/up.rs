//! `orrery up` and the commands for people, as processes.

mod common;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use common::{Up, orrery};

fn run(arguments: &[&str]) -> Output {
    Command::new(orrery()).args(arguments).output().expect("orrery runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Bodies that `orrery consume` prints, sorted.
fn consumed(namesrv: &str, group: &str, count: &str) -> Vec<String> {
    let flags = [
        "consume", "-n", namesrv, "--topic", "hello", "--from", "first", "--format", "json",
    ];
    let output = run(&[&flags[..], &["--group", group, "--count", count]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let mut bodies: Vec<String> = text(&output.stdout)
        .lines()
        .map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).expect("JSON");
            message["body"].as_str().expect("a body").to_owned()
        })
        .collect();
    bodies.sort();
    bodies
}

#[test]
fn messages_go_in_and_out_and_survive_kill_and_restart() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let up = Up::start(dir.path());
    let namesrv = up.namesrv.to_string();
    let sent = run(&[
        "produce", "-n", &namesrv, "--topic", "hello", "--tag", "a", "--key", "k", "one", "two",
    ]);
    assert_eq!(sent.status.code(), Some(0), "{}", text(&sent.stderr));
    assert_eq!(text(&sent.stdout).lines().count(), 2);
    assert!(text(&sent.stdout).starts_with("SEND_OK"));

    let mut piped = Command::new(orrery())
        .args(["produce", "-n", &namesrv, "--topic", "hello", "--format", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("orrery runs");
    piped
        .stdin
        .take()
        .expect("piped")
        .write_all(b"three\n\nfour\n")
        .expect("a pipe");
    let output = piped.wait_with_output().expect("a child");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout).lines().count(), 2, "an empty line is no message");

    let all = ["four", "one", "three", "two"];
    assert_eq!(consumed(&namesrv, "first", "4"), all);
    up.kill();

    let up = Up::start(dir.path());
    let namesrv = up.namesrv.to_string();
    assert_eq!(consumed(&namesrv, "second", "4"), all);
    assert_eq!(up.stop().code(), Some(0));

    let up = Up::start(dir.path());
    assert_eq!(consumed(&up.namesrv.to_string(), "third", "4"), all);
}

#[test]
fn a_second_broker_on_the_same_data_is_refused_with_advice() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let _up = Up::start(dir.path());
    let data = dir.path().display().to_string();
    let second = run(&["up", "--namesrv-port", "0", "--broker-port", "0", "--dir", &data]);
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("--dir"), "{}", text(&second.stderr));
}

#[test]
fn a_taken_port_is_refused_with_advice() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let up = Up::start(&dir.path().join("first"));
    let other = dir.path().join("second").display().to_string();
    let port = up.broker.port().to_string();
    let second = run(&["up", "--namesrv-port", "0", "--broker-port", &port, "--dir", &other]);
    assert_eq!(second.status.code(), Some(1));
    assert!(
        text(&second.stderr).contains("--broker-port"),
        "{}",
        text(&second.stderr)
    );
}

#[test]
fn a_wrong_value_stops_a_broker_with_file_line_and_key() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("broker.conf");
    std::fs::write(&path, "brokerName=a\nflushDiskType=SOON\n").expect("a file");
    let output = run(&["broker", "-c", &path.display().to_string()]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("broker.conf:2: flushDiskType=SOON"), "{said}");
    assert!(said.contains("SYNC_FLUSH"), "{said}");
}

#[test]
fn the_load_generator_counts_what_it_was_asked_for() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let up = Up::start(&dir.path().join("data"));
    let (namesrv, pid) = (up.namesrv.to_string(), up.pid().to_string());
    let result = dir.path().join("result.json").display().to_string();
    let flags = [
        "-n",
        &namesrv,
        "-q",
        "5000",
        "--warmup",
        "0",
        "--broker-pid",
        &pid,
        "--json",
        &result,
    ];
    let produced = run(&[&["bench", "producer", "-s", "1024", "--connections", "3"], &flags[..]].concat());
    assert_eq!(produced.status.code(), Some(0), "{}", text(&produced.stderr));
    let document: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&result).expect("a file")).expect("JSON");
    assert_eq!(document["messages"], 5000);
    assert!(document["latency_us"]["p99"].as_f64() > Some(0.0), "{document}");
    assert!(document["broker_cores"].is_number(), "{document}");

    let consumed = run(&[&["bench", "consumer", "--from", "first"], &flags[..]].concat());
    assert_eq!(consumed.status.code(), Some(0), "{}", text(&consumed.stderr));
    let document: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&result).expect("a file")).expect("JSON");
    assert_eq!(document["messages"], 5000);
}
