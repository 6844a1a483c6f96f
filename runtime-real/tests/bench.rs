//! Every `orrery bench` command once, with tiny counts: do they end, count right, clean up? Never how fast.

mod common;

use std::process::{Command, Output};

use common::{Up, orrery};
use serde_json::Value;

fn bench(arguments: &[&str]) -> (String, Output) {
    let output = Command::new(orrery())
        .arg("bench")
        .args(arguments)
        .output()
        .expect("orrery runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (text, output)
}

fn bench_ok(arguments: &[&str]) -> String {
    let (text, output) = bench(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {text}{errors}");
    text
}

fn read_json(path: &std::path::Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("a file")).expect("JSON")
}

#[test]
fn sends_batches_and_pulls_are_counted_as_asked_for() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let up = Up::start(&dir.path().join("data"));
    let (namesrv, pid) = (up.namesrv.to_string(), up.pid().to_string());
    let json = dir.path().join("result.json");
    let json_text = json.display().to_string();
    let common = [
        "-n",
        &namesrv,
        "--warmup",
        "0",
        "--broker-pid",
        &pid,
        "--json",
        &json_text,
    ];
    let run = |own: &[&str]| {
        let text = bench_ok(&[own, &common[..]].concat());
        (text, read_json(&json))
    };

    // The Java benchmark's spelling of the report interval.
    let (text, result) = run(&[
        "producer",
        "-q",
        "3000",
        "-s",
        "100",
        "--connections",
        "3",
        "-ri",
        "1000",
    ]);
    assert!(
        text.starts_with("topic: BenchmarkTest, threadCount: 64, messageSize: 100, keyEnable: false"),
        "{text}"
    );
    assert!(
        text.contains("\n compressEnable: false, reportInterval: 1000\n"),
        "{text}"
    );
    assert!(text.contains("[Complete] Send Total: 3000 | Send TPS: "), "{text}");
    assert_eq!(result["messages"], 3000);
    assert!(result["broker_file_bytes"].as_u64() > Some(0), "{result}");

    let (_, result) = run(&["producer", "-q", "500", "-s", "100", "-w", "1"]);
    assert_eq!(result["messages"], 500);

    let (text, result) = run(&[
        "producer",
        "-q",
        "1000",
        "--depth",
        "8",
        "--connections",
        "2",
        "--rate",
        "5000",
    ]);
    assert!(text.contains("threadCount: 16,"), "{text}");
    assert_eq!(result["messages"], 1000);
    let seconds = result["seconds"].as_f64().expect("a number");
    assert!(seconds >= 0.19, "1,000 at 5,000 a second take 0.2 s, not {seconds}");

    let (text, result) = run(&["batch", "-q", "1600", "-s", "100", "-b", "16"]);
    assert!(
        text.starts_with("topic: BenchmarkTest, threadCount: 64, messageSize: 100, batchSize: 16,"),
        "{text}"
    );
    assert_eq!(
        (&result["messages"], &result["requests"]),
        (&Value::from(1600), &Value::from(100))
    );

    // All that was sent, once; the topic has a thousand queues, as the Java benchmark's.
    let (_, result) = run(&["pull", "--connections", "4", "--once"]);
    assert_eq!(result["messages"], 6100);
    // Beyond the end it begins again.
    let (_, result) = run(&["pull", "--connections", "2", "--newest", "10", "-q", "2000"]);
    assert_eq!(result["messages"], 2000);

    let (_, output) = bench(&["producer", "-n", &namesrv, "-c", "true"]);
    assert_eq!(output.status.code(), Some(2));
    let (_, output) = bench(&["pull", "-n", &namesrv, "-t", "absent"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_backlog_is_filled_pulled_warm_and_cold_and_removed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (data, json) = (dir.path().join("backlog"), dir.path().join("result.json"));
    let (data_text, json_text) = (data.display().to_string(), json.display().to_string());
    let flags = [
        "backlog",
        "--dir",
        &data_text,
        "--messages",
        "3000",
        "-s",
        "100",
        "--seconds",
        "0.2",
        "--send-rate",
        "1000",
        "--json",
        &json_text,
    ];
    let text = bench_ok(&flags);
    assert!(text.contains("cold, from the start"), "{text}");
    let result = read_json(&json);
    assert!(result["messages"].as_u64() >= Some(3000), "{result}");
    for measured in [
        "fill_rate",
        "cached_rate",
        "warm_rate",
        "cold_rate",
        "disk_read_rate",
        "start_clean_seconds",
        "start_killed_seconds",
        "idle_anonymous_bytes",
        "pull_anonymous_bytes_max",
    ] {
        assert!(result[measured].as_f64() > Some(0.0), "{measured}: {result}");
    }
    assert!(result["send_with_reader"]["p99_us"].is_number(), "{result}");
    assert!(!data.exists(), "what it made is removed");
}

#[test]
fn the_limits_of_the_machine_are_all_found() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (data, json) = (dir.path().join("limits"), dir.path().join("result.json"));
    let (data_text, json_text) = (data.display().to_string(), json.display().to_string());
    let flags = [
        "limits",
        "--dir",
        &data_text,
        "--seconds",
        "0.05",
        "--file-mebibytes",
        "8",
    ];
    let text = bench_ok(&[&flags[..], &["--stall-rate", "5", "--json", &json_text]].concat());
    assert!(text.contains("floor server, sync"), "{text}");
    let result = read_json(&json);
    for name in [
        "copy_bytes_per_second",
        "syncs",
        "group_syncs",
        "write_bytes_per_second",
        "read_bytes_per_second",
        "stall_us_max",
        "stall_bytes_per_second",
    ] {
        assert!(result[name].as_f64() > Some(0.0), "{name}: {result}");
    }
    let floors = result["floors"].as_array().expect("an array");
    assert_eq!(floors.len(), 6);
    for floor in floors {
        assert!(floor["rate"].as_f64() > Some(0.0), "{floor}");
    }
    assert!(!data.exists(), "what it made is removed");
}

/// A Java that cannot start a broker: every row with Apache RocketMQ says so, everything else is measured, and both files are there.
#[test]
fn a_comparison_goes_on_when_one_side_fails() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (stock, bin, data) = (
        dir.path().join("stock"),
        dir.path().join("bin"),
        dir.path().join("compare"),
    );
    std::fs::create_dir_all(stock.join("lib")).expect("a folder");
    std::fs::write(stock.join("lib/rocketmq-broker-0.0.0.jar"), "").expect("a file");
    std::fs::create_dir_all(&bin).expect("a folder");
    let java = bin.join("java");
    std::fs::write(&java, "#!/bin/sh\necho 'no java here' >&2\nexit 3\n").expect("a file");
    std::fs::set_permissions(&java, std::fs::Permissions::from_mode(0o755)).expect("made to run");
    let (json, markdown) = (dir.path().join("result.json"), dir.path().join("result.md"));
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("a path"));
    let output = Command::new(orrery())
        .env("PATH", path)
        .args([
            "bench",
            "compare",
            "--only",
            "async",
            "--seconds",
            "0.1",
            "--rounds",
            "1",
            "-s",
            "100",
        ])
        .arg("--stock")
        .arg(&stock)
        .arg("--dir")
        .arg(&data)
        .arg("--json")
        .arg(&json)
        .arg("--markdown")
        .arg(&markdown)
        .output()
        .expect("orrery runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(1),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let result = read_json(&json);
    let rows = result["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 7, "{text}");
    for row in rows {
        let (goal, verdict) = (
            row["goal"].as_str().expect("text"),
            row["verdict"].as_str().expect("text"),
        );
        if goal.contains("Apache RocketMQ") {
            assert_eq!(verdict, "failed", "{row}");
            assert!(row["reached"].as_str().expect("text").contains("no java here"), "{row}");
        } else {
            assert!(matches!(verdict, "met" | "missed"), "{row}");
        }
    }
    let table = std::fs::read_to_string(&markdown).expect("a file");
    assert!(
        table.contains("| failed |") && table.contains("| Orrery | send, 64 in flight"),
        "{table}"
    );
    assert!(!data.exists(), "what it made is removed");
}
