//! Edits of what brokers' directories held and what brokers answered.

use super::{Edit, change, find};
use crate::history::{Boundary, Event, History};
use crate::stored::{Stored, StoredBounds};

/// The directory after a stop in order.
fn at_end(history: &mut History, edit: impl Fn(&mut Stored)) {
    let is_end = |event: &Event| matches!(event, Event::Stored { complete: true, .. });
    change(history, 0, is_end, |event| {
        if let Event::Stored { stored, .. } = event {
            edit(stored);
        }
    });
}

/// The directory after the first restart.
fn at_restart(history: &mut History, edit: impl Fn(&mut Stored, &mut Vec<StoredBounds>)) {
    let is_restart = |event: &Event| matches!(event, Event::Stored { complete: false, .. });
    change(history, 0, is_restart, |event| {
        if let Event::Stored { stored, bounds, .. } = event {
            edit(stored, bounds);
        }
    });
}

/// The answer to the nth search by time with this boundary.
fn answer(history: &mut History, nth: usize, wanted: Boundary, edit: impl Fn(&mut i64)) {
    let is_such = |event: &Event| matches!(event, Event::SearchedByTime { boundary, .. } if *boundary == wanted);
    change(history, nth, is_such, |event| {
        if let Event::SearchedByTime { offset, .. } = event {
            edit(offset);
        }
    });
}

fn keys_found(history: &mut History, edit: impl Fn(&mut Vec<u64>)) {
    let is_search = |event: &Event| matches!(event, Event::SearchedByKey { .. });
    change(history, 0, is_search, |event| {
        if let Event::SearchedByKey { found, .. } = event {
            edit(found);
        }
    });
}

pub(super) const EDITS: &[Edit] = &[
    Edit {
        name: "take an entry out of a queue's files",
        fires: &["C25"],
        may: &[],
        edit: |history| {
            at_end(history, |stored| {
                stored.queues[0].entries.remove(4);
            });
        },
    },
    Edit {
        name: "take the last entry out of a queue's files",
        fires: &["C25"],
        may: &[],
        edit: |history| {
            at_end(history, |stored| {
                stored.queues[0].entries.pop();
            });
        },
    },
    Edit {
        name: "take a queue's files away",
        fires: &["C25"],
        may: &[],
        edit: |history| {
            at_end(history, |stored| {
                stored.queues.remove(0);
            });
        },
    },
    Edit {
        name: "let an entry name its neighbour",
        fires: &["C25"],
        may: &[],
        edit: |history| at_end(history, |stored| stored.queues[1].entries[3].position += 200),
    },
    Edit {
        name: "change an entry's size",
        fires: &["C25"],
        may: &[],
        edit: |history| at_end(history, |stored| stored.queues[1].entries[3].size += 1),
    },
    Edit {
        name: "change an entry's tags code",
        fires: &["C25"],
        may: &[],
        edit: |history| at_end(history, |stored| stored.queues[1].entries[3].tags_code = 8),
    },
    Edit {
        name: "put a filler that nobody declared",
        fires: &["C25"],
        may: &[],
        edit: |history| {
            at_end(history, |stored| {
                stored.queues[0].entries[5].size = i32::MAX;
                stored.records.retain(|record| (record.queue, record.offset) != (0, 5));
                let position = stored.queues[0].entries[5].position;
                stored.index.retain(|(_, other)| *other != position);
            });
        },
    },
    Edit {
        name: "declare a gap and put its filler beside a damaged record: that is legal",
        fires: &[],
        may: &[],
        edit: |history| {
            at_end(history, |stored| {
                stored.queues[0].entries[5].size = i32::MAX;
                let mut records = stored.records.iter_mut();
                let record = records.find(|record| (record.queue, record.offset) == (0, 5)).unwrap();
                record.is_damaged = true;
                record.keys.clear();
            });
            let is_end = |event: &Event| matches!(event, Event::Stored { complete: true, .. });
            let index = find(history, 0, is_end);
            let mut gap = history.records[index].clone();
            gap.event = Event::Gap {
                node: "b".into(),
                queue: crate::story::queue(0),
                offset: 5,
            };
            history.records.insert(index, gap);
        },
    },
    Edit {
        name: "give an offset to two records",
        fires: &["C25"],
        may: &[],
        edit: |history| at_end(history, |stored| stored.records[12].offset -= 1),
    },
    Edit {
        name: "take an entry out of the index",
        fires: &["C25"],
        may: &[],
        edit: |history| {
            at_end(history, |stored| {
                stored.index.remove(2);
            });
        },
    },
    Edit {
        name: "let the index name a key that is not there",
        fires: &["C25"],
        may: &[],
        edit: |history| at_end(history, |stored| stored.index.push((77, 100))),
    },
    Edit {
        name: "commit beyond the end of a queue",
        fires: &["C25"],
        may: &[],
        edit: |history| at_end(history, |stored| stored.committed[0].offset += 1),
    },
    Edit {
        name: "commit in a queue that is not there",
        fires: &["C25"],
        may: &[],
        edit: |history| at_end(history, |stored| stored.committed[0].queue = 9),
    },
    Edit {
        name: "let a store time go back",
        fires: &["C25"],
        may: &[],
        edit: |history| at_end(history, |stored| stored.records[19].time = 0),
    },
    Edit {
        name: "lose an entry in a restart",
        fires: &["C25"],
        may: &[],
        edit: |history| {
            at_restart(history, |stored, _| {
                stored.queues[0].entries.pop();
            });
        },
    },
    Edit {
        name: "end a queue too early",
        fires: &["C25"],
        may: &[],
        edit: |history| at_restart(history, |_, bounds| bounds[0].max -= 1),
    },
    Edit {
        name: "promise more than a queue has",
        fires: &["C25"],
        may: &[],
        edit: |history| at_restart(history, |_, bounds| bounds[0].max += 1),
    },
    Edit {
        name: "begin a queue too late",
        fires: &["C25"],
        may: &[],
        edit: |history| at_restart(history, |_, bounds| bounds[0].min += 1),
    },
    Edit {
        name: "say nothing of a queue",
        fires: &["C25"],
        may: &[],
        edit: |history| {
            at_restart(history, |_, bounds| {
                bounds.remove(0);
            });
        },
    },
    Edit {
        name: "find nothing by a key",
        fires: &["C25"],
        may: &[],
        edit: |history| keys_found(history, Vec::clear),
    },
    Edit {
        name: "find a record by a key that it lacks",
        fires: &["C25"],
        may: &[],
        edit: |history| keys_found(history, |found| found.push(0)),
    },
    Edit {
        name: "answer the next offset for a time",
        fires: &["C28"],
        may: &[],
        edit: |history| answer(history, 0, Boundary::Lower, |offset| *offset += 1),
    },
    Edit {
        name: "answer the last message for a time behind it",
        fires: &["C28"],
        may: &[],
        edit: |history| answer(history, 1, Boundary::Lower, |offset| *offset -= 1),
    },
    Edit {
        name: "answer the offset before the last one of a time",
        fires: &["C28"],
        may: &[],
        edit: |history| answer(history, 0, Boundary::Upper, |offset| *offset -= 1),
    },
    Edit {
        name: "answer a message for a time before the first",
        fires: &["C28"],
        may: &[],
        edit: |history| answer(history, 1, Boundary::Upper, |offset| *offset = 1),
    },
];
