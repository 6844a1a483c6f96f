//! Edits of what consumers do.

use super::{Edit, change, drop_delivery, find, is_ok, of_uid, remove, set_offset, starts_in};
use crate::history::{ConsumeVerdict, Event, History, Record};

pub(super) const EDITS: &[Edit] = &[
    Edit {
        name: "drop the last delivery of a concurrent group, with its commit",
        fires: &["C06", "C12"],
        may: &[],
        edit: |history| {
            let index = find(history, 0, starts_in("g", "p1-9"));
            history.records.drain(index..index + 4);
        },
    },
    Edit {
        name: "drop a delivery of a concurrent group",
        fires: &["C06", "C11"],
        may: &[],
        edit: |history| drop_delivery(history, "g", "p0-4"),
    },
    Edit {
        name: "drop a delivery of an orderly group",
        fires: &["C06", "C08", "C11"],
        may: &[],
        edit: |history| drop_delivery(history, "o", "p0-2"),
    },
    Edit {
        name: "let a listener refuse where it succeeded",
        fires: &["C06", "C11"],
        may: &[],
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
        may: &[],
        edit: |history| {
            let start = find(history, 0, starts_in("g", "p0-4"));
            history.records.remove(start + 1);
        },
    },
    Edit {
        name: "delay an invocation past a higher offset",
        fires: &["C07"],
        may: &[],
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
        fires: &["C08"],
        may: &["C11"],
        edit: |history| swap_deliveries(history, "o"),
    },
    Edit {
        name: "swap two deliveries of a concurrent session",
        fires: &["C08"],
        may: &["C11"],
        edit: |history| swap_deliveries(history, "g"),
    },
    Edit {
        name: "fetch from an earlier offset",
        fires: &["C10"],
        may: &["C09"],
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
        may: &["C09"],
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
        may: &[],
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
        may: &[],
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
        may: &[],
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
        may: &[],
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
        may: &[],
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
        may: &[],
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
        may: &[],
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
