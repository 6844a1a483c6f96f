//! # C24 Consensus and controller
//!
//! **Law.** (a) A node's term does not go back, over a restart either; (b) it votes once in a term; (c) a term has one leader; (d) a leader
//! commits only what a majority of the members holds, and no more than it has; (e) the committed index does not go back; (f) a new leader has
//! every committed entry; (g) what is committed is held by every member of the in-sync set from which a leader may be chosen.
//! Sources: the Raft paper, figure 3; `ReplicasInfoManager.alterSyncStateSet`, `electMaster`.
//!
//! **Why clients depend on it.** Everything else that replication promises stands on these.
//!
//! **Excused.** A node whose disk was lost may forget its term and its votes; counting it as a member still is the cluster's fault.
//!
//! **How.** A few numbers for each node and set. O(n).

use std::collections::{BTreeSet, HashMap};

use super::{Findings, Law, Watch, Watched};
use crate::history::{Event, FaultKind, Recorded};
use crate::ledger::Ledger;

pub(super) const WATCHED: Watched = Watched {
    law: Law {
        id: "C24",
        title: "consensus broken",
        needs: &[Recorded::Consensus],
        also: None,
    },
    watch: || Box::new(Consensus::default()),
};

type Key = (String, String);

#[derive(Default)]
struct Consensus {
    /// Node and set to its term.
    terms: HashMap<Key, u64>,
    /// Node and set to its vote, and the vote's term.
    votes: HashMap<Key, (u64, String)>,
    /// Set and term to the leader.
    leaders: HashMap<(String, u64), String>,
    /// Highest committed index of each set, and the term in which it was.
    committed: HashMap<String, (u64, u64)>,
    /// Node and set to the highest index that it has committed as a leader.
    by_leader: HashMap<Key, u64>,
    in_sync: HashMap<String, (u64, BTreeSet<String>)>,
    wrong: Vec<(u64, String)>,
}

impl Consensus {
    fn term(&mut self, t: u64, node: &str, set: &str, term: u64) {
        let known = self.terms.entry((node.to_owned(), set.to_owned())).or_insert(term);
        if term < *known {
            let text = format!("{node} of {set} goes back from term {known} to {term}");
            self.wrong.push((t, text));
        }
        *known = term.max(*known);
    }

    fn voted(&mut self, t: u64, node: &str, set: &str, term: u64, candidate: &str) {
        let vote = (term, candidate.to_owned());
        if let Some((before, other)) = self.votes.insert((node.to_owned(), set.to_owned()), vote)
            && before == term
            && other != candidate
        {
            let text = format!("{node} of {set} votes for {other} and for {candidate} in term {term}");
            self.wrong.push((t, text));
        }
    }

    fn elected(&mut self, t: u64, node: &str, set: &str, term: u64, last: u64) {
        let leader = self
            .leaders
            .entry((set.to_owned(), term))
            .or_insert_with(|| node.to_owned());
        if leader != node {
            let text = format!("{leader} and {node} both lead {set} in term {term}");
            self.wrong.push((t, text));
        }
        if let Some((index, before)) = self
            .committed
            .get(set)
            .filter(|(index, before)| *index > last && *before < term)
        {
            let text = format!(
                "{node} leads {set} in term {term} with entries up to {last}; {index} was committed in term {before}"
            );
            self.wrong.push((t, text));
        }
    }

    fn committed(&mut self, t: u64, event: &Event) {
        let Event::EntriesCommitted {
            node,
            set,
            term,
            index,
            last,
            holders,
            members,
        } = event
        else {
            return;
        };
        let mut tell = |text: String| {
            self.wrong
                .push((t, format!("{node} of {set} commits up to {index} {text}")))
        };
        if index > last {
            tell(format!("and has entries up to {last}"));
        }
        let holders: BTreeSet<&String> = holders.iter().collect();
        let voters = members.iter().filter(|member| holders.contains(member)).count();
        if voters * 2 <= members.len() {
            tell(format!("with {voters} of {} members holding it", members.len()));
        }
        if let Some((_, in_sync)) = self.in_sync.get(set).filter(|(of, _)| of <= term) {
            let without: Vec<&str> = in_sync
                .iter()
                .filter(|member| !holders.contains(member))
                .map(String::as_str)
                .collect();
            if !without.is_empty() {
                tell(format!(
                    "while {} may be chosen as a leader and does not hold it",
                    without.join(", ")
                ));
            }
        }
        let own = self.by_leader.entry((node.clone(), set.clone())).or_insert(*index);
        if *index < *own {
            tell(format!("after {own}"));
        }
        *own = (*own).max(*index);
        let highest = self.committed.entry(set.clone()).or_insert((*index, *term));
        if *index > highest.0 {
            *highest = (*index, *term);
        }
    }
}

impl Watch for Consensus {
    fn observe(&mut self, t: u64, event: &Event, _: &mut Ledger) {
        match event {
            Event::Voted {
                node,
                set,
                term,
                candidate,
            } => {
                self.term(t, node, set, *term);
                self.voted(t, node, set, *term, candidate);
            }
            Event::Elected { node, set, term, last } => {
                self.term(t, node, set, *term);
                self.elected(t, node, set, *term, *last);
            }
            Event::EntriesCommitted { node, set, term, .. } => {
                self.term(t, node, set, *term);
                self.committed(t, event);
            }
            Event::InSync { set, term, members } => {
                self.in_sync
                    .insert(set.clone(), (*term, members.iter().cloned().collect()));
            }
            Event::Fault {
                fault: FaultKind::DiskLost,
                nodes,
                ..
            } => {
                self.terms.retain(|(node, _), _| !nodes.contains(node));
                self.votes.retain(|(node, _), _| !nodes.contains(node));
                self.by_leader.retain(|(node, _), _| !nodes.contains(node));
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

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.into()).collect()
    }

    fn voted(node: &str, term: u64, candidate: &str) -> Event {
        Event::Voted {
            node: node.into(),
            set: "s".into(),
            term,
            candidate: candidate.into(),
        }
    }

    fn elected(node: &str, term: u64, last: u64) -> Event {
        Event::Elected {
            node: node.into(),
            set: "s".into(),
            term,
            last,
        }
    }

    fn committed(node: &str, term: u64, index: u64, holders: &[&str]) -> Event {
        Event::EntriesCommitted {
            node: node.into(),
            set: "s".into(),
            term,
            index,
            last: 10,
            holders: names(holders),
            members: names(&["a", "b", "c"]),
        }
    }

    fn told(events: &[Event]) -> Story {
        let mut story = Story::new();
        story.records(Recorded::Consensus);
        for event in events {
            story.tell(event.clone());
        }
        story
    }

    #[test]
    fn two_terms_in_order_are_accepted() {
        let story = told(&[
            voted("a", 1, "a"),
            voted("b", 1, "a"),
            elected("a", 1, 0),
            committed("a", 1, 5, &["a", "b"]),
            voted("c", 2, "b"),
            voted("b", 2, "b"),
            elected("b", 2, 5),
            committed("b", 2, 6, &["b", "c"]),
        ]);
        assert_eq!(broken(&story), [] as [&str; 0]);
    }

    #[test]
    fn each_broken_invariant_is_rejected() {
        for events in [
            vec![voted("a", 2, "a"), voted("a", 1, "b")],
            vec![voted("a", 1, "a"), voted("a", 1, "b")],
            vec![elected("a", 1, 0), elected("b", 1, 0)],
            vec![committed("a", 1, 5, &["a"])],
            vec![committed("a", 1, 11, &["a", "b"])],
            vec![committed("a", 1, 5, &["a", "b"]), committed("a", 1, 4, &["a", "b"])],
            vec![committed("a", 1, 5, &["a", "b"]), elected("c", 2, 4)],
            vec![
                Event::InSync {
                    set: "s".into(),
                    term: 1,
                    members: names(&["a", "c"]),
                },
                committed("a", 1, 5, &["a", "b"]),
            ],
        ] {
            assert_eq!(broken(&told(&events)), ["C24"], "{events:?}");
        }
    }

    #[test]
    fn a_node_whose_disk_was_lost_may_forget_its_vote() {
        let mut story = told(&[voted("a", 1, "a")]);
        story.fault(FaultKind::DiskLost, "a").tell(voted("a", 1, "b"));
        assert_eq!(broken(&story), [] as [&str; 0]);
    }
}
