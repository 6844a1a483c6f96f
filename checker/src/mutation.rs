//! The checker checked: a valid history, one edit, and exactly the right law must fire.

mod consumers;
mod features;
mod messages;
mod stores;

use std::collections::BTreeMap;
use std::time::Instant;

use crate::healthy::Healthy;
use crate::history::{Event, History, Record};
use crate::{Options, Report, Verdict, check_history, properties};

/// An edit of a history, by name, and the laws that must fire, and those that may; all others stay silent.
struct Edit {
    name: &'static str,
    fires: &'static [&'static str],
    may: &'static [&'static str],
    edit: fn(&mut History),
}

/// Position of the `nth` event that `wanted` accepts.
fn find(history: &History, nth: usize, wanted: impl Fn(&Event) -> bool) -> usize {
    let mut matching = history
        .records
        .iter()
        .enumerate()
        .filter(|(_, record)| wanted(&record.event));
    matching.nth(nth).expect("the healthy run has such an event").0
}

fn change(history: &mut History, nth: usize, wanted: impl Fn(&Event) -> bool, change: impl Fn(&mut Event)) {
    let index = find(history, nth, wanted);
    change(&mut history.records[index].event);
}

fn remove(history: &mut History, nth: usize, wanted: impl Fn(&Event) -> bool) {
    let index = find(history, nth, wanted);
    history.records.remove(index);
}

fn of_uid(event: &Event, wanted: &str) -> bool {
    match event {
        Event::SendInvoke { uid, .. } | Event::SendOk { uid, .. } => uid == wanted,
        Event::ScanEntry { uid, .. } | Event::DeliverStart { uid, .. } => uid.as_deref() == Some(wanted),
        _ => false,
    }
}

fn is_start(event: &Event) -> bool {
    matches!(event, Event::DeliverStart { .. })
}

fn is_scan(event: &Event) -> bool {
    matches!(event, Event::ScanEntry { .. })
}

fn is_ok(event: &Event) -> bool {
    matches!(event, Event::SendOk { .. })
}

fn starts_in<'a>(group: &'a str, wanted: &'a str) -> impl Fn(&Event) -> bool + 'a {
    move |event| matches!(event, Event::DeliverStart { group: g, .. } if g == group) && of_uid(event, wanted)
}

/// Removes a delivery and its end.
fn drop_delivery(history: &mut History, group: &str, uid: &str) {
    let index = find(history, 0, starts_in(group, uid));
    history.records.drain(index..index + 2);
}

fn set_offset(event: &mut Event, to: i64) {
    match event {
        Event::SendOk { offset, .. } | Event::ScanEntry { offset, .. } | Event::DeliverStart { offset, .. } => {
            *offset = to;
        }
        Event::CommitInvoke { offset, .. } => *offset = to,
        Event::OffsetRead { offset, .. } => *offset = Some(to),
        other => panic!("no offset in {other:?}"),
    }
}

fn flip(event: &mut Event) {
    match event {
        Event::ScanEntry { content, .. } | Event::DeliverStart { content, .. } => content.crc ^= 1 << 17,
        other => panic!("no content in {other:?}"),
    }
}

fn fired(report: &Report) -> Vec<&str> {
    let mut fired: Vec<&str> = report.violations().iter().map(|v| v.property.as_str()).collect();
    fired.dedup();
    fired
}

#[test]
fn the_healthy_run_is_held() {
    let report = check_history(&Healthy::history(10), &Options::default());
    assert_eq!(report.verdict, Verdict::Held, "{report}");
    assert_eq!(report.not_evaluated, BTreeMap::new());
}

fn edits() -> impl Iterator<Item = &'static Edit> {
    let all = [messages::EDITS, consumers::EDITS, stores::EDITS, features::EDITS];
    all.into_iter().flatten()
}

#[test]
fn each_edit_of_a_valid_history_fires_its_laws_and_no_other() {
    let mut wrong = Vec::new();
    for edit in edits() {
        let mut history = Healthy::history(10);
        (edit.edit)(&mut history);
        keep_time(&mut history);
        let report = check_history(&history, &Options::default());
        let fired = fired(&report);
        let must = edit.fires.iter().all(|law| fired.contains(law));
        let may = fired
            .iter()
            .all(|law| edit.fires.contains(law) || edit.may.contains(law));
        if !must || !may {
            let may = edit.may;
            wrong.push(format!(
                "{} should fire {:?} (may {may:?}): {report}",
                edit.name, edit.fires
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_law_is_the_only_one_that_some_edit_must_break() {
    let laws = properties::ALL.iter().map(|property| property.law.id);
    let laws = laws.chain(properties::WATCHED.iter().map(|watched| watched.law.id));
    let alone = |law: &str| edits().any(|edit| edit.fires == [law]);
    let without: Vec<&str> = laws.filter(|law| !alone(law)).collect();
    assert_eq!(without, [] as [&str; 0]);
}

/// Moved records keep their place and take the time of what comes before them.
fn keep_time(history: &mut History) {
    let mut now = 0;
    for record in &mut history.records {
        now = now.max(record.t);
        record.t = now;
    }
}

#[test]
fn removing_what_is_required_is_inconclusive() {
    let mut history = Healthy::history(10);
    history.header.required.fault_effects = 100;
    let report = check_history(&history, &Options::default());
    assert!(matches!(report.verdict, Verdict::Inconclusive(_)), "{report}");
}

#[test]
fn a_history_survives_its_file() {
    let history = Healthy::history(10);
    let mut text = Vec::new();
    history.write(&mut text).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.jsonl");
    std::fs::write(&path, text).unwrap();
    assert_eq!(History::read(&[path]).unwrap(), history);
}

#[test]
fn two_files_of_one_run_are_merged_by_time() {
    let history = Healthy::history(10);
    let directory = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for part in 0..2 {
        let records = history.records.iter().skip(part).step_by(2).cloned().collect();
        let half = History {
            header: history.header.clone(),
            records,
        };
        let path = directory.path().join(format!("{part}.jsonl"));
        half.write(&mut std::fs::File::create(&path).unwrap()).unwrap();
        paths.push(path);
    }
    assert_eq!(History::read(&paths).unwrap().records, history.records);
}

#[test]
fn the_examples_of_the_document_are_understood() {
    let text = include_str!("../../docs/history.md");
    let examples: Vec<&str> = text.lines().filter(|line| line.starts_with("{\"t\":")).collect();
    assert!(examples.len() >= 7);
    for example in examples {
        serde_json::from_str::<Record>(example).expect(example);
    }
}

#[test]
fn a_million_events_are_judged_quickly() {
    let history = Healthy::history(40_000);
    assert!(history.records.len() >= 1_000_000);
    let started = Instant::now();
    let report = check_history(&history, &Options::default());
    assert_eq!(report.verdict, Verdict::Held, "{report}");
    // Unoptimised and on a busy machine; a release build takes about a second.
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}
