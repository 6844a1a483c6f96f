//! Edits for the checks that need events of their own, and for those that look at what is left out.

use super::{Edit, change, find, remove};
use crate::history::{Event, FaultKind, History, Record, Resolution};

/// A delivery comes again at once, with another number.
fn deliver_again(history: &mut History) {
    let start = find(
        history,
        0,
        |event| matches!(event, Event::DeliverStart { group, offset: 4, .. } if group == "g"),
    );
    let mut again: Vec<Record> = history.records[start..start + 2].to_vec();
    for record in &mut again {
        match &mut record.event {
            Event::DeliverStart { delivery, .. } | Event::DeliverDone { delivery, .. } => *delivery = 1_000_000,
            other => panic!("{other:?} is no delivery"),
        }
    }
    history.records.splice(start + 2..start + 2, again);
}

fn change_end(history: &mut History, wanted: u64, to: Resolution) {
    change(
        history,
        0,
        |event| matches!(event, Event::TransactionEnd { transaction, .. } if *transaction == wanted),
        |event| {
            if let Event::TransactionEnd { resolution, .. } = event {
                *resolution = to;
            }
        },
    );
}

/// The address that a holder has in the end.
fn change_route(history: &mut History, to: &[&str]) {
    change(
        history,
        3,
        |event| matches!(event, Event::Route { .. }),
        |event| {
            if let Event::Route { addresses, .. } = event {
                *addresses = to.iter().map(|&address| address.into()).collect();
            }
        },
    );
}

fn assign(history: &mut History, to: &[i32]) {
    change(
        history,
        1,
        |event| matches!(event, Event::Assigned { .. }),
        |event| {
            if let Event::Assigned { queues, .. } = event {
                *queues = to.iter().map(|&id| crate::story::queue(id)).collect();
            }
        },
    );
}

pub(super) const EDITS: &[Edit] = &[
    Edit {
        name: "subscribe to a topic that nobody reads",
        fires: &["C06"],
        may: &[],
        edit: |history| history.header.groups[0].topics.push("Wide".into()),
    },
    Edit {
        name: "return nothing from a fetch",
        fires: &["C09"],
        may: &[],
        edit: |history| {
            change(
                history,
                6,
                |event| matches!(event, Event::Fetch { .. }),
                |event| {
                    if let Event::Fetch { count, .. } = event {
                        *count = 0;
                    }
                },
            );
        },
    },
    Edit {
        name: "lose a fetch",
        fires: &["C09"],
        may: &[],
        edit: |history| remove(history, 6, |event| matches!(event, Event::Fetch { .. })),
    },
    Edit {
        name: "deliver again in one session, without faults",
        fires: &["C13"],
        may: &[],
        edit: |history| {
            deliver_again(history);
            history
                .records
                .retain(|record| !matches!(record.event, Event::Fault { .. }));
            history.header.required.fault_effects = 0;
        },
    },
    Edit {
        name: "deliver again in one session, with faults",
        fires: &[],
        may: &[],
        edit: deliver_again,
    },
    Edit {
        name: "leave a queue without an owner",
        fires: &["C15"],
        may: &[],
        edit: |history| assign(history, &[]),
    },
    Edit {
        name: "give a queue two owners",
        fires: &["C15"],
        may: &[],
        edit: |history| assign(history, &[0, 1]),
    },
    Edit {
        name: "leave one instance out of a broadcast",
        fires: &["C16"],
        may: &[],
        edit: |history| {
            let is_start = |event: &Event| matches!(event, Event::DeliverStart { group, client, .. } if group == "wide" && client == "w2");
            let index = find(history, 1, is_start);
            history.records.drain(index..index + 2);
        },
    },
    Edit {
        name: "subscribe to another tag",
        fires: &["C17"],
        may: &[],
        edit: |history| history.header.groups[0].tags = Some(vec!["B".into()]),
    },
    Edit {
        name: "acknowledge a second attempt with a slot that was read before",
        fires: &["C17"],
        may: &[],
        edit: |history| {
            // The first attempt is never answered; the second begins when consumers have read the slot.
            let answer = find(
                history,
                0,
                |event| matches!(event, Event::SendOk { uid, .. } if uid == "w-2"),
            );
            let mut ok = history.records.remove(answer);
            let mut invoke = history.records[answer - 1].clone();
            let last = find(
                history,
                5,
                |event| matches!(event, Event::DeliverStart { group, .. } if group == "wide"),
            );
            for record in [&mut ok, &mut invoke] {
                record.t = history.records[last].t;
                match &mut record.event {
                    Event::SendInvoke { attempt, .. } | Event::SendOk { attempt, .. } => *attempt = 2,
                    other => panic!("{other:?} is no send"),
                }
            }
            history.records.splice(last..last, [invoke, ok]);
        },
    },
    Edit {
        name: "roll back what is visible",
        fires: &["C18"],
        may: &[],
        edit: |history| change_end(history, 0, Resolution::Rollback),
    },
    Edit {
        name: "commit what is nowhere",
        fires: &["C18"],
        may: &[],
        edit: |history| {
            change_end(history, 1, Resolution::Commit);
            let is_resolved = |event: &Event| matches!(event, Event::TransactionResolved { transaction: 1, .. });
            change(history, 0, is_resolved, |event| {
                if let Event::TransactionResolved { resolution, .. } = event {
                    *resolution = Resolution::Commit;
                }
            });
        },
    },
    Edit {
        name: "deliver a delayed message before its time",
        fires: &["C19"],
        may: &[],
        edit: |history| {
            change(
                history,
                0,
                |event| matches!(event, Event::Delayed { .. }),
                |event| {
                    if let Event::Delayed { due, .. } = event {
                        *due += 100_000_000_000;
                    }
                },
            );
        },
    },
    Edit {
        name: "jump in the count of retries",
        fires: &["C20"],
        may: &[],
        edit: |history| {
            let is_start = |event: &Event| matches!(event, Event::DeliverStart { group, .. } if group == "g");
            change(history, 3, is_start, |event| {
                if let Event::DeliverStart { reconsume, .. } = event {
                    *reconsume = 2;
                }
            });
        },
    },
    Edit {
        name: "forget the acknowledgement of a popped message",
        fires: &["C21"],
        may: &[],
        edit: |history| remove(history, 1, |event| matches!(event, Event::PopAcked { .. })),
    },
    Edit {
        name: "acknowledge a message that is popped again",
        fires: &["C21"],
        may: &[],
        edit: |history| {
            let again = find(history, 2, |event| matches!(event, Event::Popped { .. }));
            let t = history.records[again].t;
            let event = Event::PopAcked { pop: 2 };
            history.records.insert(again, Record { t, event });
        },
    },
    Edit {
        name: "let two masters share an epoch",
        fires: &["C22"],
        may: &[],
        edit: |history| {
            change(
                history,
                1,
                |event| matches!(event, Event::Role { .. }),
                |event| {
                    if let Event::Role { epoch, .. } = event {
                        *epoch = Some(1);
                    }
                },
            );
        },
    },
    Edit {
        name: "confirm other content on one replica",
        fires: &["C23"],
        may: &[],
        edit: |history| {
            change(
                history,
                3,
                |event| matches!(event, Event::Confirmed { .. }),
                |event| {
                    if let Event::Confirmed { crc, .. } = event {
                        *crc ^= 1;
                    }
                },
            );
        },
    },
    Edit {
        name: "vote twice in one term",
        fires: &["C24"],
        may: &[],
        edit: |history| {
            let vote = find(history, 0, |event| matches!(event, Event::Voted { .. }));
            let mut again = history.records[vote].clone();
            if let Event::Voted { candidate, .. } = &mut again.event {
                *candidate = "n3".into();
            }
            history.records.insert(vote + 1, again);
        },
    },
    Edit {
        name: "elect a leader that lacks a committed entry",
        fires: &["C24"],
        may: &[],
        edit: |history| {
            let is_second = |event: &Event| matches!(event, Event::Elected { term: 2, .. });
            change(history, 0, is_second, |event| {
                if let Event::Elected { last, .. } = event {
                    *last = 0;
                }
            });
        },
    },
    Edit {
        name: "keep a stale route",
        fires: &["C26"],
        may: &[],
        edit: |history| change_route(history, &["10.0.0.1:10911"]),
    },
    Edit {
        name: "have two addresses for one master",
        fires: &["C26"],
        may: &[],
        edit: |history| change_route(history, &["10.0.0.1:10911", "10.0.0.2:10911"]),
    },
    Edit {
        name: "allow no time to recover",
        fires: &["C27"],
        may: &[],
        edit: |history| history.header.limits.availability_ms = 1,
    },
    Edit {
        name: "swap two messages of a batch",
        fires: &["C29"],
        may: &[],
        edit: |history| {
            change(
                history,
                0,
                |event| matches!(event, Event::Batch { .. }),
                |event| {
                    if let Event::Batch { uids } = event {
                        uids.swap(0, 1);
                    }
                },
            );
        },
    },
    Edit {
        name: "panic",
        fires: &["C30"],
        may: &[],
        edit: |history| {
            let index = history.records.len() / 2;
            let t = history.records[index].t;
            let event = Event::Panic {
                node: "b".into(),
                task: "flush".into(),
                message: "index out of bounds".into(),
            };
            history.records.insert(index, Record { t, event });
        },
    },
    Edit {
        name: "leak files",
        fires: &["C30"],
        may: &[],
        edit: |history| {
            change(
                history,
                1,
                |event| matches!(event, Event::AtRest { .. }),
                |event| {
                    if let Event::AtRest { files, .. } = event {
                        *files += 1000;
                    }
                },
            );
        },
    },
    Edit {
        name: "change the hash of a checkpoint",
        fires: &["C31"],
        may: &[],
        edit: |history| {
            change(
                history,
                4,
                |event| matches!(event, Event::Checkpoint { .. }),
                |event| {
                    if let Event::Checkpoint { hash, .. } = event {
                        *hash ^= 1;
                    }
                },
            );
        },
    },
    Edit {
        name: "excuse by a clock that was moved what comes early",
        fires: &[],
        may: &[],
        edit: |history| {
            change(
                history,
                0,
                |event| matches!(event, Event::Delayed { .. }),
                |event| {
                    if let Event::Delayed { due, .. } = event {
                        *due += 5_000_000_000;
                    }
                },
            );
            let is_fault = |event: &Event| {
                matches!(
                    event,
                    Event::Fault {
                        fault: FaultKind::Restart,
                        ..
                    }
                )
            };
            let index = find(history, 1, is_fault);
            let mut step = history.records[index].clone();
            if let Event::Fault { fault, id, .. } = &mut step.event {
                (*fault, *id) = (FaultKind::ClockStep, 1_000_000);
            }
            history.records.insert(index + 1, step);
        },
    },
];
