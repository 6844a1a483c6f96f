//! # C23 Prefix agreement
//!
//! **Law.** What one replica has confirmed at a position, every replica confirms there with the same content, at any time; and no node cuts
//! off what it has confirmed. Source: Raft's log matching; `AutoSwitchHAClient.truncateInvalidMsg`.
//!
//! **Why clients depend on it.** After a failover the new master's log is the truth: it must say what the old one said.
//!
//! **Excused.** A node whose disk was lost begins anew. What is not confirmed may be cut and written again.
//!
//! **How.** One entry for each confirmed record, by position: record for record, equal hashes of a whole prefix mean the same, and the
//! first difference has a place. O(n log n), 16 bytes a record beside the tree.

use std::collections::{BTreeMap, HashMap};

use super::{Findings, Law, Watch, Watched};
use crate::history::{Event, FaultKind, Recorded};
use crate::ledger::Ledger;
use crate::names::Id;

pub(super) const WATCHED: Watched = Watched {
    law: Law {
        id: "C23",
        title: "replicas disagree",
        needs: &[Recorded::Replication],
        also: None,
    },
    watch: || Box::new(Prefix::default()),
};

#[derive(Default)]
struct Prefix {
    /// Set and position to size and CRC.
    confirmed: BTreeMap<(Id, u64), (u32, u32)>,
    /// Node and set to the end of what it has confirmed.
    ends: HashMap<(Id, Id), u64>,
    wrong: Vec<(u64, String)>,
}

impl Prefix {
    /// A confirmed record at another place over the same bytes.
    fn overlapping(&self, set: Id, position: u64, size: u32) -> Option<u64> {
        let end = position + u64::from(size);
        let after = self.confirmed.range((set, position + 1)..(set, end)).next();
        let before = self.confirmed.range((set, 0)..(set, position)).next_back();
        let reaches = before.filter(|&(&(_, start), &(size, _))| start + u64::from(size) > position);
        after.or(reaches).map(|(&(_, start), _)| start)
    }
}

impl Watch for Prefix {
    fn observe(&mut self, t: u64, event: &Event, ledger: &mut Ledger) {
        match event {
            Event::Confirmed {
                node,
                broker,
                position,
                size,
                crc,
            } => {
                let (id, set) = (ledger.name(node), ledger.name(broker));
                let overlapping = self.overlapping(set, *position, *size);
                let known = *self.confirmed.entry((set, *position)).or_insert((*size, *crc));
                if known != (*size, *crc) {
                    let text = format!(
                        "{node} of {broker} confirms {size} bytes with CRC {crc:08x} at position {position}, where {} bytes with CRC {:08x} were confirmed",
                        known.0, known.1
                    );
                    self.wrong.push((t, text));
                } else if let Some(start) = overlapping {
                    let text = format!(
                        "{node} of {broker} confirms a record at position {position}, which overlaps the one confirmed at {start}"
                    );
                    self.wrong.push((t, text));
                }
                let end = self.ends.entry((id, set)).or_default();
                *end = (*end).max(position + u64::from(*size));
            }
            Event::Truncated { node, broker, from } => {
                let key = (ledger.name(node), ledger.name(broker));
                if let Some(&end) = self.ends.get(&key).filter(|&&end| *from < end) {
                    let text =
                        format!("{node} of {broker} cuts its log from position {from} on, confirmed up to {end}");
                    self.wrong.push((t, text));
                }
            }
            Event::Fault {
                fault: FaultKind::DiskLost,
                nodes,
                ..
            } => {
                let lost: Vec<Id> = nodes.iter().map(|node| ledger.name(node)).collect();
                self.ends.retain(|(node, _), _| !lost.contains(node));
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

    fn confirmed(node: &str, position: u64, size: u32, crc: u32) -> Event {
        Event::Confirmed {
            node: node.into(),
            broker: "b".into(),
            position,
            size,
            crc,
        }
    }

    fn truncated(from: u64) -> Event {
        Event::Truncated {
            node: "n1".into(),
            broker: "b".into(),
            from,
        }
    }

    fn told(events: &[Event]) -> Story {
        let mut story = Story::new();
        story.records(Recorded::Replication);
        for event in events {
            story.tell(event.clone());
        }
        story
    }

    #[test]
    fn equal_prefixes_and_a_cut_of_what_is_not_confirmed_are_accepted() {
        let first = [confirmed("n1", 0, 100, 7), confirmed("n1", 100, 50, 8), truncated(150)];
        let second = [confirmed("n2", 0, 100, 7), confirmed("n1", 100, 50, 8)];
        assert_eq!(broken(&told(&[&first[..], &second].concat())), [] as [&str; 0]);
    }

    #[test]
    fn other_content_and_overlapping_records_are_rejected() {
        assert_eq!(
            broken(&told(&[confirmed("n1", 0, 100, 7), confirmed("n2", 0, 100, 9)])),
            ["C23"]
        );
        assert_eq!(
            broken(&told(&[confirmed("n1", 0, 100, 7), confirmed("n2", 50, 10, 7)])),
            ["C23"]
        );
        assert_eq!(
            broken(&told(&[confirmed("n1", 50, 10, 7), confirmed("n2", 0, 100, 7)])),
            ["C23"]
        );
    }

    #[test]
    fn a_cut_of_what_is_confirmed_is_rejected_unless_the_disk_was_lost() {
        let mut story = told(&[confirmed("n1", 0, 100, 7)]);
        let mut lost = story.clone();
        story.tell(truncated(0));
        assert_eq!(broken(&story), ["C23"]);
        lost.fault(FaultKind::DiskLost, "n1").tell(truncated(0));
        assert_eq!(broken(&lost), [] as [&str; 0]);
    }
}
