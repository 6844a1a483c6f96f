//! # C15 Assignment
//!
//! **Law.** When members and queues of a group have not changed and no fault has struck for two rebalance periods, every
//! queue of its topics has exactly one owner; in a broadcasting group every member owns every queue.
//! Source: `RebalanceImpl`, `RebalanceService.waitInterval` (20 s).
//!
//! **Why clients depend on it.** A queue without an owner stands still without an error anywhere; one with two delivers
//! everything twice.
//!
//! **Excused.** Groups without a member. Anything while a fault is on and for two periods (`rebalance_ms`) after the last one,
//! after the last member came or went, and after queues were added. A member whose node was killed has left.
//!
//! **How.** Owners are kept by group and queue, and counted once in each stretch of calm, before anything changes. O(n) and
//! the number of queues for each change.

use std::collections::{BTreeMap, BTreeSet};

use super::{Findings, Law, Watch, Watched};
use crate::calm::Calm;
use crate::history::{Event, FaultKind, FaultPhase, Model, Queue, Recorded};
use crate::ledger::Ledger;
use crate::names::Id;

pub(super) const WATCHED: Watched = Watched {
    law: Law {
        id: "C15",
        title: "queues are not shared out",
        needs: &[Recorded::Assignments, Recorded::Faults],
        also: None,
    },
    watch: || Box::new(Assignment::default()),
};

#[derive(Default)]
struct Assignment {
    calm: Calm,
    topics: BTreeMap<String, Vec<Queue>>,
    /// Queues that each member of a group takes for its own.
    members: BTreeMap<Id, BTreeMap<Id, BTreeSet<Id>>>,
    /// This state has been looked at in calm.
    is_judged: bool,
    wrong: Vec<(u64, String)>,
}

impl Assignment {
    /// Looks at the state that lasted until `t`.
    fn look(&mut self, t: u64, ledger: &mut Ledger) {
        let two_periods = ledger.limits.rebalance_ms.saturating_mul(2_000_000);
        if self.is_judged || !self.calm.lasts(t, two_periods) {
            return;
        }
        self.is_judged = true;
        for (&group, members) in self.members.iter().filter(|(_, members)| !members.is_empty()) {
            let Some(config) = ledger.group(group).cloned() else {
                continue;
            };
            let queues = config
                .topics
                .iter()
                .filter_map(|topic| self.topics.get(topic))
                .flatten();
            for queue in queues {
                let id = ledger.queue(queue);
                let owners: Vec<Id> = members
                    .iter()
                    .filter(|(_, owned)| owned.contains(&id))
                    .map(|(&c, _)| c)
                    .collect();
                let wanted = match config.model {
                    Model::Clustering => 1,
                    Model::Broadcasting => members.len(),
                };
                if owners.len() != wanted {
                    let names: Vec<&str> = owners.iter().map(|&owner| ledger.text(owner)).collect();
                    let text = format!(
                        "{} of {} has {} owner(s) [{}] of {wanted}, with {} member(s) and no change for two rebalance periods",
                        ledger.queue_name(id),
                        config.name,
                        owners.len(),
                        names.join(", "),
                        members.len()
                    );
                    self.wrong.push((t, text));
                }
            }
        }
    }

    fn changed(&mut self, t: u64) {
        self.is_judged = false;
        self.calm.disturb(t);
    }
}

impl Watch for Assignment {
    fn observe(&mut self, t: u64, event: &Event, ledger: &mut Ledger) {
        let is_mine = matches!(
            event,
            Event::Fault { .. }
                | Event::Mark { .. }
                | Event::TopicQueues { .. }
                | Event::MemberJoined { .. }
                | Event::MemberLeft { .. }
                | Event::Assigned { .. }
        );
        if !is_mine {
            return;
        }
        self.look(t, ledger);
        self.calm.observe(t, event);
        match event {
            Event::Fault {
                fault, phase, nodes, ..
            } => {
                self.is_judged = false;
                if matches!(fault, FaultKind::Kill | FaultKind::PowerLoss) && *phase == FaultPhase::Begin {
                    for node in nodes {
                        let node = ledger.name(node);
                        self.members
                            .values_mut()
                            .for_each(|members| drop(members.remove(&node)));
                    }
                }
            }
            Event::TopicQueues { topic, queues } => {
                self.topics.insert(topic.clone(), queues.clone());
                self.changed(t);
            }
            Event::MemberJoined { group, client } => {
                let (group, client) = (ledger.name(group), ledger.name(client));
                self.members.entry(group).or_default().entry(client).or_default();
                self.changed(t);
            }
            Event::MemberLeft { group, client } => {
                let (group, client) = (ledger.name(group), ledger.name(client));
                self.members.entry(group).or_default().remove(&client);
                self.changed(t);
            }
            Event::Assigned { group, client, queues } => {
                let (group, client) = (ledger.name(group), ledger.name(client));
                let queues = queues.iter().map(|queue| ledger.queue(queue)).collect();
                // Of a member that is dead or was never told of, this is no news.
                if let Some(owned) = self.members.entry(group).or_default().get_mut(&client) {
                    *owned = queues;
                    self.is_judged = false;
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
    use crate::history::{Event, Recorded};
    use crate::story::{Story, broken, queue};

    fn assigned(client: &str, ids: &[i32]) -> Event {
        Event::Assigned {
            group: "g".into(),
            client: client.into(),
            queues: ids.iter().map(|&id| queue(id)).collect(),
        }
    }

    fn joined(client: &str) -> Event {
        Event::MemberJoined {
            group: "g".into(),
            client: client.into(),
        }
    }

    /// Two queues and the members `c1`, `c2`, which take these queues; then time passes.
    fn shared(first: &[i32], second: &[i32], ms: u64) -> Story {
        let mut story = Story::new();
        story.records(Recorded::Assignments).tell(Event::TopicQueues {
            topic: "T".into(),
            queues: vec![queue(0), queue(1)],
        });
        story.tell(joined("c1")).tell(joined("c2"));
        story.tell(assigned("c1", first)).tell(assigned("c2", second));
        story.wait_ms(ms).tell(Event::Mark {
            name: "workload_end".into(),
        });
        story
    }

    #[test]
    fn queues_with_one_owner_each_are_accepted() {
        assert_eq!(broken(&shared(&[0], &[1], 60_000)), [] as [&str; 0]);
    }

    #[test]
    fn a_queue_without_or_with_two_owners_is_rejected_after_two_periods_only() {
        assert_eq!(broken(&shared(&[0], &[], 60_000)), ["C15"]);
        assert_eq!(broken(&shared(&[0], &[0, 1], 60_000)), ["C15"]);
        assert_eq!(broken(&shared(&[0], &[], 30_000)), [] as [&str; 0]);
    }

    #[test]
    fn a_member_that_was_killed_leaves_its_queues_to_others() {
        let mut story = shared(&[0], &[1], 60_000);
        story.kill_client("c2").wait_ms(60_000);
        story.tell(Event::Mark { name: "healed".into() }).wait_ms(60_000);
        story.tell(Event::Mark { name: "drained".into() });
        assert_eq!(broken(&story), ["C15"]);
    }

    #[test]
    fn every_member_of_a_broadcasting_group_owns_every_queue() {
        for (second, laws) in [(&[0, 1][..], &[][..]), (&[1], &["C15"])] {
            let mut story = shared(&[0, 1], second, 60_000);
            story.history.header.groups[0].model = crate::history::Model::Broadcasting;
            assert_eq!(broken(&story), laws);
        }
    }
}
