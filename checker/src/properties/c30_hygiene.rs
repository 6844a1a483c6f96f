//! # C30 Hygiene
//!
//! **Law.** Nothing panics. When nothing is under way a node holds no lock, no more tasks and files than at its first rest (and
//! `leak_slack` more), and no more than `buffered_bytes_max` in buffers.
//!
//! **Why clients depend on it.** What leaks slowly is an outage with a date; what panics has lost the thread it was holding.
//!
//! **Excused.** A new process (`restart`) begins a new account. A broker may keep files open for as long as they are not deleted:
//! `leak_slack` is for caches that fill.
//!
//! **How.** The first account of each process is kept, later ones are held against it. O(n).

use std::collections::HashMap;

use super::{Findings, Law, Watch, Watched};
use crate::history::{Event, FaultKind, Recorded};
use crate::ledger::Ledger;
use crate::names::Id;

pub(super) const WATCHED: Watched = Watched {
    law: Law {
        id: "C30",
        title: "panic or leak",
        needs: &[Recorded::Hygiene],
        also: None,
    },
    watch: || Box::new(Hygiene::default()),
};

#[derive(Default)]
struct Hygiene {
    /// Tasks and files of each node at its first rest.
    first: HashMap<Id, (u64, u64)>,
    wrong: Vec<(u64, String)>,
}

impl Watch for Hygiene {
    fn observe(&mut self, t: u64, event: &Event, ledger: &mut Ledger) {
        match event {
            Event::Panic { node, task, message } => {
                self.wrong.push((t, format!("{node} panics in task {task}: {message}")));
            }
            Event::Fault {
                fault: FaultKind::Kill | FaultKind::PowerLoss | FaultKind::Restart,
                nodes,
                ..
            } => {
                for node in nodes {
                    let node = ledger.name(node);
                    self.first.remove(&node);
                }
            }
            Event::AtRest {
                node,
                tasks,
                files,
                buffered_bytes,
                locks,
            } => {
                let id = ledger.name(node);
                let first = *self.first.entry(id).or_insert((*tasks, *files));
                let slack = ledger.limits.leak_slack;
                let accounts = [
                    ("task(s)", *tasks, first.0.saturating_add(slack)),
                    ("open file(s)", *files, first.1.saturating_add(slack)),
                    ("buffered byte(s)", *buffered_bytes, ledger.limits.buffered_bytes_max),
                    ("lock(s)", *locks, 0),
                ];
                for (what, found, allowed) in accounts {
                    if found > allowed {
                        self.wrong.push((
                            t,
                            format!("{node} at rest has {found} {what}, at most {allowed} expected"),
                        ));
                    }
                }
            }
            _ => {}
        }
    }

    fn judge(&mut self, _: &Ledger, findings: &mut Findings) {
        for (t, text) in self.wrong.drain(..) {
            findings.violation(t, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::history::{Event, FaultKind, Recorded};
    use crate::story::{Story, broken};

    fn at_rest(tasks: u64, files: u64, buffered_bytes: u64, locks: u64) -> Event {
        Event::AtRest {
            node: "b".into(),
            tasks,
            files,
            buffered_bytes,
            locks,
        }
    }

    fn rested(then: Event) -> Story {
        let mut story = Story::new();
        story.records(Recorded::Hygiene).tell(at_rest(10, 5, 0, 0)).tell(then);
        story
    }

    #[test]
    fn a_node_that_holds_what_it_held_is_accepted() {
        assert_eq!(broken(&rested(at_rest(12, 7, 1000, 0))), [] as [&str; 0]);
    }

    #[test]
    fn each_kind_of_leak_and_a_panic_are_rejected() {
        for leak in [
            at_rest(40, 5, 0, 0),
            at_rest(10, 40, 0, 0),
            at_rest(10, 5, 2 << 20, 0),
            at_rest(10, 5, 0, 1),
            Event::Panic {
                node: "b".into(),
                task: "flush".into(),
                message: "index out of bounds".into(),
            },
        ] {
            assert_eq!(broken(&rested(leak)), ["C30"]);
        }
    }

    #[test]
    fn a_new_process_begins_a_new_account() {
        let mut story = rested(at_rest(10, 5, 0, 0));
        story.fault(FaultKind::Restart, "b").tell(at_rest(40, 40, 0, 0));
        assert_eq!(broken(&story), [] as [&str; 0]);
    }
}
