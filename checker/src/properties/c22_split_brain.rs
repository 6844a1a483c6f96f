//! # C22 Split brain
//!
//! **Law.** In a set of replicas, one node acknowledges in one epoch; and what a node acknowledges in an epoch after a later epoch has
//! acknowledged is in the final lineage. Source: `ReplicasInfoManager`, `AutoSwitchHAService`; Raft's leader safety.
//!
//! **Why clients depend on it.** Two masters that both say yes write two histories, and one of them will be thrown away.
//!
//! **Excused.** Nodes without an epoch (legacy masters and slaves are not fenced): what is lost by them is C05's. A late
//! acknowledgement of a deposed master that is kept after all.
//!
//! **How.** The node of each epoch and the latest epoch of each set; only late acknowledgements are kept, and held against the final scan. O(n).

use std::collections::HashMap;

use super::{Findings, Law, Watch, Watched, seconds};
use crate::history::{Event, Recorded};
use crate::ledger::{Ledger, Outcome};
use crate::names::Id;

pub(super) const WATCHED: Watched = Watched {
    law: Law {
        id: "C22",
        title: "two masters acknowledge",
        needs: &[Recorded::Facts, Recorded::Replication],
        also: None,
    },
    watch: || Box::new(SplitBrain::default()),
};

#[derive(Default)]
struct SplitBrain {
    /// Node and set to its epoch.
    epochs: HashMap<(Id, Id), u64>,
    /// Who acknowledged in an epoch of a set.
    nodes: HashMap<(Id, u64), Id>,
    latest: HashMap<Id, u64>,
    late: Vec<Late>,
    wrong: Vec<(u64, String)>,
}

struct Late {
    t: u64,
    node: Id,
    queue: Id,
    offset: i64,
    epoch: u64,
    latest: u64,
}

impl Watch for SplitBrain {
    fn observe(&mut self, t: u64, event: &Event, ledger: &mut Ledger) {
        match event {
            Event::Role {
                node, broker, epoch, ..
            } => {
                let key = (ledger.name(node), ledger.name(broker));
                match epoch {
                    Some(epoch) => self.epochs.insert(key, *epoch),
                    None => self.epochs.remove(&key),
                };
            }
            Event::Acknowledged {
                node, queue, offset, ..
            } => {
                let (id, set) = (ledger.name(node), ledger.name(&queue.broker));
                let Some(&epoch) = self.epochs.get(&(id, set)) else {
                    return;
                };
                let first = *self.nodes.entry((set, epoch)).or_insert(id);
                if first != id {
                    let other = ledger.text(first);
                    let text = format!(
                        "{node} and {other} both acknowledge in epoch {epoch} of {}",
                        queue.broker
                    );
                    self.wrong.push((t, text));
                }
                let latest = self.latest.entry(set).or_insert(epoch);
                *latest = epoch.max(*latest);
                if epoch < *latest {
                    let late = Late {
                        t,
                        node: id,
                        queue: ledger.queue(queue),
                        offset: *offset,
                        epoch,
                        latest: *latest,
                    };
                    self.late.push(late);
                }
            }
            _ => {}
        }
    }

    fn judge(&mut self, ledger: &Ledger, findings: &mut Findings) {
        for (t, text) in self.wrong.drain(..) {
            findings.violation(t, text);
        }
        if self.late.is_empty() || ledger.scan_complete != Some(true) {
            return;
        }
        let mut promised: HashMap<(Id, i64), Vec<(u64, Id)>> = HashMap::new();
        for attempt in ledger
            .attempts
            .iter()
            .filter(|attempt| matches!(attempt.outcome, Outcome::Ok(_)))
        {
            let slot = (attempt.queue, attempt.offset);
            promised.entry(slot).or_default().push((attempt.ended, attempt.uid));
        }
        for late in &self.late {
            let answers = promised.get(&(late.queue, late.offset)).map_or(&[][..], Vec::as_slice);
            // The client's answer to this acknowledgement is the first one that came after it.
            let answer = answers.iter().filter(|&&(ended, _)| ended >= late.t).min();
            let Some(&(_, uid)) = answer else { continue };
            let found = ledger.scans.get(&late.queue).and_then(|scan| scan.at(late.offset));
            if found != Some(uid) {
                findings.violation(
                    late.t,
                    format!(
                        "{} acknowledges {} ({} offset {}) in epoch {} at {}, after epoch {} has acknowledged, and it is gone",
                        ledger.text(late.node),
                        ledger.uid_name(uid),
                        ledger.queue_name(late.queue),
                        late.offset,
                        late.epoch,
                        seconds(late.t),
                        late.latest
                    ),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::history::{Event, Recorded};
    use crate::story::{Story, broken, queue};

    fn role(node: &str, epoch: u64) -> Event {
        Event::Role {
            node: node.into(),
            broker: "b".into(),
            epoch: Some(epoch),
            is_master: true,
        }
    }

    fn replicated() -> Story {
        let mut story = Story::new();
        story.facts().records(Recorded::Replication).tell(role("n1", 1));
        story
    }

    fn send(story: &mut Story, node: &str, uid: &str, offset: i64) {
        story.invoke(uid).tell(Event::Acknowledged {
            node: node.into(),
            queue: queue(0),
            offset,
            code: 0,
        });
        story.acknowledge(uid, 0, offset);
    }

    #[test]
    fn one_master_after_the_other_is_accepted() {
        let mut story = replicated();
        send(&mut story, "n1", "a", 0);
        story.tell(role("n2", 2));
        send(&mut story, "n2", "b", 1);
        story.scan(0, &["a", "b"]);
        assert_eq!(broken(&story), [] as [&str; 0]);
    }

    #[test]
    fn two_nodes_in_one_epoch_are_rejected() {
        let mut story = replicated();
        send(&mut story, "n1", "a", 0);
        story.tell(role("n2", 1));
        send(&mut story, "n2", "b", 1);
        story.scan(0, &["a", "b"]);
        assert_eq!(broken(&story), ["C22"]);
    }

    #[test]
    fn a_late_acknowledgement_of_what_is_gone_is_rejected_and_of_what_stays_is_not() {
        let mut story = replicated();
        story.tell(role("n2", 2));
        send(&mut story, "n2", "b", 0);
        send(&mut story, "n1", "a", 1);
        let mut kept = story.clone();
        story.scan(0, &["b"]);
        assert_eq!(broken(&story), ["C05", "C22"]);
        kept.scan(0, &["b", "a"]);
        assert_eq!(broken(&kept), [] as [&str; 0]);
    }
}
