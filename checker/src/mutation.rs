//! The checker checked: a valid history, one edit, and exactly the right law must fire.

mod stores;

use std::collections::BTreeMap;
use std::time::Instant;

use crate::healthy::Healthy;
use crate::history::{ConsumeVerdict, Event, History, Record};
use crate::{Options, Report, Verdict, check_history};

/// An edit of a history, by name, and the laws that must fire.
struct Edit {
    name: &'static str,
    fires: &'static [&'static str],
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

const EDITS: &[Edit] = &[
    Edit {
        name: "flip a bit of a delivered body",
        fires: &["C01"],
        edit: |history| change(history, 5, is_start, flip),
    },
    Edit {
        name: "flip a bit of a scanned body",
        fires: &["C01"],
        edit: |history| change(history, 5, is_scan, flip),
    },
    Edit {
        name: "change a delivered tag",
        fires: &["C01"],
        edit: |history| {
            change(history, 3, is_start, |event| {
                if let Event::DeliverStart { content, .. } = event {
                    content.tag = Some("B".into());
                }
            });
        },
    },
    Edit {
        name: "lose a delivered key",
        fires: &["C01"],
        edit: |history| {
            change(history, 3, is_start, |event| {
                if let Event::DeliverStart { content, .. } = event {
                    content.keys = None;
                }
            });
        },
    },
    Edit {
        name: "deliver an unreadable body again",
        fires: &["C01"],
        edit: |history| {
            let index = find(history, 3, is_start);
            let mut again = history.records[index].clone();
            if let Event::DeliverStart { uid, delivery, .. } = &mut again.event {
                (*uid, *delivery) = (None, 1_000_000);
            }
            history.records.insert(index + 2, again);
        },
    },
    Edit {
        name: "deliver before the send",
        fires: &["C01"],
        edit: |history| {
            let send = find(history, 0, |event| of_uid(event, "p0-3"));
            let start = find(history, 0, starts_in("g", "p0-3"));
            let t = history.records[start].t;
            history.records[send..start].iter_mut().for_each(|record| record.t = t);
            let record = history.records.remove(start);
            history.records.insert(send, record);
            history.records[send].t -= 10_000_000;
            history.records.sort_by_key(|record| record.t);
        },
    },
    Edit {
        name: "acknowledge two messages at one offset",
        fires: &["C02", "C03", "C05"],
        edit: |history| {
            change(
                history,
                0,
                |event| is_ok(event) && of_uid(event, "p0-4"),
                |event| set_offset(event, 3),
            );
        },
    },
    Edit {
        name: "swap two scanned messages",
        fires: &["C02", "C03", "C05"],
        edit: |history| {
            change(
                history,
                0,
                |event| is_scan(event) && of_uid(event, "p0-4"),
                |event| set_offset(event, 99),
            );
            change(
                history,
                0,
                |event| is_scan(event) && of_uid(event, "p0-5"),
                |event| set_offset(event, 4),
            );
            change(
                history,
                0,
                |event| is_scan(event) && of_uid(event, "p0-4"),
                |event| set_offset(event, 5),
            );
        },
    },
    Edit {
        name: "move an acknowledgement to another queue",
        fires: &["C02", "C03", "C05"],
        edit: |history| {
            change(
                history,
                0,
                |event| is_ok(event) && of_uid(event, "p0-4"),
                |event| {
                    if let Event::SendOk { queue, .. } = event {
                        queue.id = 1;
                    }
                },
            );
        },
    },
    Edit {
        name: "store a message twice",
        fires: &["C03"],
        edit: |history| {
            let last = find(history, 0, |event| is_scan(event) && of_uid(event, "p1-9"));
            let mut again = history.records[last].clone();
            set_offset(&mut again.event, 10);
            history.records.insert(last + 1, again);
            change(
                history,
                1,
                |event| matches!(event, Event::ScanQueue { .. }),
                |event| {
                    if let Event::ScanQueue { max, .. } = event {
                        *max += 1;
                    }
                },
            );
        },
    },
    Edit {
        name: "refuse a message that is stored",
        fires: &["C03"],
        edit: |history| {
            change(
                history,
                0,
                |event| is_ok(event) && of_uid(event, "p0-4"),
                |event| {
                    *event = Event::SendFail {
                        uid: "p0-4".into(),
                        attempt: 1,
                        error: "no permission".into(),
                    };
                },
            );
        },
    },
    Edit {
        name: "raise a queue's upper bound",
        fires: &["C04"],
        edit: |history| {
            change(
                history,
                0,
                |event| matches!(event, Event::ScanQueue { .. }),
                |event| {
                    if let Event::ScanQueue { max, .. } = event {
                        *max += 1;
                    }
                },
            );
        },
    },
    Edit {
        name: "lower a queue's upper bound",
        fires: &["C04"],
        edit: |history| {
            change(
                history,
                0,
                |event| matches!(event, Event::ScanQueue { .. }),
                |event| {
                    if let Event::ScanQueue { max, .. } = event {
                        *max -= 1;
                    }
                },
            );
        },
    },
    Edit {
        name: "scan an entry twice",
        fires: &["C04"],
        edit: |history| {
            let index = find(history, 4, is_scan);
            let again = history.records[index].clone();
            history.records.insert(index, again);
        },
    },
    Edit {
        name: "lose an acknowledged message in the middle",
        fires: &["C04", "C05"],
        edit: |history| remove(history, 0, |event| is_scan(event) && of_uid(event, "p0-4")),
    },
    Edit {
        name: "cut the tail of a queue",
        fires: &["C05"],
        edit: |history| {
            remove(history, 0, |event| is_scan(event) && of_uid(event, "p0-9"));
            change(
                history,
                0,
                |event| matches!(event, Event::ScanQueue { .. }),
                |event| {
                    if let Event::ScanQueue { max, .. } = event {
                        *max -= 1;
                    }
                },
            );
        },
    },
    Edit {
        name: "lose a queue",
        fires: &["C05"],
        edit: |history| {
            history.records.retain(|record| match &record.event {
                Event::ScanQueue { queue, .. } | Event::ScanEntry { queue, .. } => queue.id != 1,
                _ => true,
            });
        },
    },
    Edit {
        name: "drop the last delivery of a concurrent group, with its commit",
        fires: &["C06", "C12"],
        edit: |history| {
            let index = find(history, 0, starts_in("g", "p1-9"));
            history.records.drain(index..index + 4);
        },
    },
    Edit {
        name: "drop a delivery of a concurrent group",
        fires: &["C06", "C11"],
        edit: |history| drop_delivery(history, "g", "p0-4"),
    },
    Edit {
        name: "drop a delivery of an orderly group",
        fires: &["C06", "C08", "C11"],
        edit: |history| drop_delivery(history, "o", "p0-2"),
    },
    Edit {
        name: "let a listener refuse where it succeeded",
        fires: &["C06", "C11"],
        edit: |history| {
            let start = find(history, 0, starts_in("g", "p0-4"));
            if let Event::DeliverDone { verdict, .. } = &mut history.records[start + 1].event {
                *verdict = ConsumeVerdict::Later;
            }
        },
    },
    Edit {
        name: "let a listener never return",
        fires: &["C06", "C11"],
        edit: |history| {
            let start = find(history, 0, starts_in("g", "p0-4"));
            history.records.remove(start + 1);
        },
    },
    Edit {
        name: "delay an invocation past a higher offset",
        fires: &["C07"],
        edit: |history| {
            // p0-2 never gets an answer and was invoked, by this account, just before it was read.
            remove(history, 0, |event| is_ok(event) && of_uid(event, "p0-2"));
            let invoke = find(history, 0, |event| of_uid(event, "p0-2"));
            let record = history.records.remove(invoke);
            let read = find(history, 0, starts_in("g", "p0-3"));
            let t = history.records[read].t;
            history.records.insert(read, Record { t, ..record });
            for group in ["g", "o"] {
                let index = find(history, 0, starts_in(group, "p0-2"));
                let moved: Vec<Record> = history.records.drain(index..index + 4).collect();
                let read = find(history, 0, starts_in(group, "p0-3"));
                let t = history.records[read].t;
                let moved = moved.into_iter().map(|record| Record { t, ..record });
                history.records.splice(read..read, moved);
            }
        },
    },
    Edit {
        name: "swap two deliveries of an orderly session",
        fires: &["C08", "C11"],
        edit: |history| swap_deliveries(history, "o"),
    },
    Edit {
        name: "swap two deliveries of a concurrent session",
        fires: &["C08", "C11"],
        edit: |history| swap_deliveries(history, "g"),
    },
    Edit {
        name: "fetch from an earlier offset",
        fires: &["C10"],
        edit: |history| {
            change(
                history,
                8,
                |event| matches!(event, Event::Fetch { .. }),
                |event| {
                    if let Event::Fetch { from, .. } = event {
                        *from = 0;
                    }
                },
            );
        },
    },
    Edit {
        name: "open a session too low",
        fires: &["C10"],
        edit: |history| {
            change(
                history,
                0,
                |event| matches!(event, Event::SessionOpen { session, .. } if session == "g/1/0"),
                |event| {
                    if let Event::SessionOpen { start, .. } = event {
                        *start -= 1;
                    }
                },
            );
        },
    },
    Edit {
        name: "shift a commit",
        fires: &["C11"],
        edit: |history| {
            change(
                history,
                4,
                |event| matches!(event, Event::CommitInvoke { .. }),
                |event| {
                    if let Event::CommitInvoke { offset, .. } = event {
                        *offset += 1;
                    }
                },
            );
        },
    },
    Edit {
        name: "commit before the listener returns",
        fires: &["C11"],
        edit: |history| {
            let start = find(history, 0, starts_in("g", "p0-4"));
            let t = history.records[start].t;
            let mut commit = history.records.remove(start + 2);
            commit.t = t;
            history.records.insert(start, commit);
        },
    },
    Edit {
        name: "answer a committed offset of zero",
        fires: &["C12"],
        edit: |history| {
            change(
                history,
                2,
                |event| matches!(event, Event::OffsetRead { .. }),
                |event| set_offset(event, 0),
            );
        },
    },
    Edit {
        name: "answer a committed offset at the far end",
        fires: &["C12"],
        edit: |history| {
            change(
                history,
                0,
                |event| matches!(event, Event::OffsetRead { .. }),
                |event| {
                    set_offset(event, 1000);
                },
            );
        },
    },
    Edit {
        name: "forget what is committed",
        fires: &["C12"],
        edit: |history| {
            change(
                history,
                0,
                |event| matches!(event, Event::OffsetRead { .. }),
                |event| {
                    if let Event::OffsetRead { offset, .. } = event {
                        *offset = None;
                    }
                },
            );
        },
    },
    Edit {
        name: "let another instance of the orderly group consume at the same time",
        fires: &["C14"],
        edit: |history| {
            let start = find(history, 0, starts_in("o", "p0-4"));
            let t = history.records[start].t;
            let mut again = history.records[start].clone();
            if let Event::DeliverStart {
                delivery,
                client,
                session,
                ..
            } = &mut again.event
            {
                (*delivery, *client, *session) = (1_000_000, "c9".into(), None);
            }
            let done = Event::DeliverDone {
                delivery: 1_000_000,
                verdict: ConsumeVerdict::Success,
            };
            history.records.insert(start + 1, again);
            history.records.insert(start + 2, Record { t, event: done });
        },
    },
    Edit {
        name: "keep an orderly listener busy until the next owner has begun",
        fires: &["C14"],
        edit: |history| {
            // The last delivery of the first owner on queue 0 ends inside the first delivery of the second.
            let start = find(history, 0, starts_in("o", "p0-4"));
            let done = history.records.remove(start + 1);
            // What it had consumed is settled by a delivery of the same instance to the same end.
            let mut again = history.records[start].clone();
            let again_done = Event::DeliverDone {
                delivery: 1_000_000,
                verdict: ConsumeVerdict::Success,
            };
            if let Event::DeliverStart { delivery, .. } = &mut again.event {
                *delivery = 1_000_000;
            }
            let t = again.t;
            history.records.insert(start, again);
            history.records.insert(start + 1, Record { t, event: again_done });
            let next = find(history, 0, starts_in("o", "p0-5"));
            let t = history.records[next + 1].t;
            history.records.insert(next + 2, Record { t, ..done });
        },
    },
];

fn swap_deliveries(history: &mut History, group: &str) {
    let first = find(history, 0, starts_in(group, "p0-3"));
    let second = find(history, 0, starts_in(group, "p0-4"));
    // The content was sent before either is read: only the order of the reads changes.
    let (send, ok) = (
        find(history, 0, |event| {
            matches!(event, Event::SendInvoke { .. }) && of_uid(event, "p0-4")
        }),
        find(history, 0, |event| is_ok(event) && of_uid(event, "p0-4")),
    );
    let before = find(history, 0, |event| {
        matches!(event, Event::SendInvoke { .. }) && of_uid(event, "p0-3")
    }) + 2;
    let t = history.records[before - 1].t;
    for pair in 0..2 {
        let (a, b) = (first + pair, second + pair);
        let (left, right) = (history.records[a].event.clone(), history.records[b].event.clone());
        (history.records[a].event, history.records[b].event) = (right, left);
    }
    let sends: Vec<Record> = [history.records[send].clone(), history.records[ok].clone()]
        .into_iter()
        .map(|record| Record { t, ..record })
        .collect();
    history.records.drain(send..=ok);
    history.records.splice(before..before, sends);
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

#[test]
fn each_edit_of_a_valid_history_fires_its_laws_and_no_other() {
    let mut wrong = Vec::new();
    for edit in EDITS.iter().chain(stores::EDITS) {
        let mut history = Healthy::history(10);
        (edit.edit)(&mut history);
        keep_time(&mut history);
        let report = check_history(&history, &Options::default());
        if fired(&report) != edit.fires {
            wrong.push(format!("{} should fire {:?}: {report}", edit.name, edit.fires));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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
