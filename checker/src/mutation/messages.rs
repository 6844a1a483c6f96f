//! Edits of what is sent, stored and read back.

use super::{Edit, change, find, flip, is_ok, is_scan, is_start, of_uid, remove, set_offset, starts_in};
use crate::history::Event;

pub(super) const EDITS: &[Edit] = &[
    Edit {
        name: "flip a bit of a delivered body",
        fires: &["C01"],
        may: &[],
        edit: |history| change(history, 5, is_start, flip),
    },
    Edit {
        name: "flip a bit of a scanned body",
        fires: &["C01"],
        may: &[],
        edit: |history| change(history, 5, is_scan, flip),
    },
    Edit {
        name: "change a delivered tag",
        fires: &["C01"],
        may: &[],
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
        may: &[],
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
        may: &[],
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
        may: &[],
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
        fires: &["C02"],
        may: &["C03", "C05"],
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
        may: &[],
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
        may: &[],
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
        may: &[],
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
        may: &[],
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
        may: &[],
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
        may: &[],
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
        may: &[],
        edit: |history| {
            let index = find(history, 4, is_scan);
            let again = history.records[index].clone();
            history.records.insert(index, again);
        },
    },
    Edit {
        name: "lose an acknowledged message in the middle",
        fires: &["C04", "C05"],
        may: &[],
        edit: |history| remove(history, 0, |event| is_scan(event) && of_uid(event, "p0-4")),
    },
    Edit {
        name: "cut the tail of a queue",
        fires: &["C05"],
        may: &[],
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
        may: &[],
        edit: |history| {
            history.records.retain(|record| match &record.event {
                Event::ScanQueue { queue, .. } | Event::ScanEntry { queue, .. } => queue.id != 1,
                _ => true,
            });
        },
    },
];
