//! # C16 Broadcast
//!
//! **Law.** Every live instance of a broadcasting group consumes every acknowledged message that still exists and that it
//! subscribes to, of the queues that it reads since before the message was acknowledged.
//! Source: `RebalancePushImpl` with `MessageModel.BROADCASTING`.
//!
//! **Why clients depend on it.** Broadcasts carry configuration and cache invalidations: an instance that misses one is wrong
//! until it is started again.
//!
//! **Excused.** Instances whose session on the queue began after the acknowledgement, ended, or whose process died before the drain
//! was over; offsets below the session's start. A broadcast listener that refuses drops the message (RocketMQ does not
//! retry): any delivery counts.
//!
//! **How.** The sessions that are open at the mark `drained` are held against the acknowledged messages of their queues.
//! O(n · instances).

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Findings, Law, Needs, Watch, Watched, seconds};
use crate::history::{Event, FaultKind, FaultPhase, Recorded};
use crate::ledger::{Attempt, Ledger, Outcome};
use crate::names::Id;

pub(super) const WATCHED: Watched = Watched {
    law: Law {
        id: "C16",
        title: "broadcast missed",
        needs: &[
            Recorded::Sends,
            Recorded::Deliveries,
            Recorded::Sessions,
            Recorded::Scan,
            Recorded::Drain,
        ],
        also: Some(Needs::BroadcastingGroup),
    },
    watch: || Box::new(Broadcast::default()),
};

#[derive(Default)]
struct Broadcast {
    /// Sessions of broadcasting groups that are open, with the time since when.
    open: BTreeMap<u32, u64>,
    /// Those that were open when the drain was over.
    whole: Vec<(u32, u64)>,
}

impl Watch for Broadcast {
    fn observe(&mut self, t: u64, event: &Event, ledger: &mut Ledger) {
        match event {
            Event::SessionOpen { session, group, .. } => {
                let group = ledger.name(group);
                if let Some(index) = ledger.open_session(session).filter(|_| !ledger.is_clustering(group)) {
                    self.open.insert(index, t);
                }
            }
            Event::SessionClose { session } => {
                if let Some(index) = ledger.open_session(session) {
                    self.open.remove(&index);
                }
            }
            Event::Fault {
                fault: FaultKind::Kill | FaultKind::PowerLoss,
                phase: FaultPhase::Begin,
                nodes,
                ..
            } => {
                let dead: Vec<Id> = nodes.iter().map(|node| ledger.name(node)).collect();
                self.open
                    .retain(|&index, _| !dead.contains(&ledger.sessions[index as usize].client));
            }
            Event::Mark { name } if name == "drained" => {
                self.whole = self.open.iter().map(|(&index, &since)| (index, since)).collect();
            }
            _ => {}
        }
    }

    fn judge(&mut self, ledger: &Ledger, findings: &mut Findings) {
        if ledger.scan_complete != Some(true) || self.whole.is_empty() {
            return;
        }
        let delivered: HashSet<(Id, Id, Id)> = ledger
            .deliveries
            .iter()
            .filter(|delivery| !ledger.is_clustering(delivery.group))
            .map(|delivery| (delivery.group, delivery.client, delivery.uid))
            .collect();
        let mut stored: HashMap<Id, Vec<&Attempt>> = HashMap::new();
        for attempt in &ledger.attempts {
            let scan = ledger.scans.get(&attempt.queue);
            let exists = scan.is_some_and(|scan| scan.at(attempt.offset) == Some(attempt.uid));
            if exists && matches!(attempt.outcome, Outcome::Ok(_)) {
                stored.entry(attempt.queue).or_default().push(attempt);
            }
        }
        for &(index, since) in &self.whole {
            let session = ledger.sessions[index as usize];
            let Some(config) = ledger.group(session.group) else {
                continue;
            };
            for attempt in stored.get(&session.queue).map_or(&[][..], Vec::as_slice) {
                let wanted = ledger.subscribes(config, ledger.messages[attempt.uid as usize].print.tag);
                let in_time = attempt.ended >= since && attempt.offset >= session.start;
                if wanted && in_time && !delivered.contains(&(session.group, session.client, attempt.uid)) {
                    findings.violation(
                        attempt.ended,
                        format!(
                            "{} of {} reads {} since {} and never got {} (offset {}), acknowledged at {}",
                            ledger.text(session.client),
                            config.name,
                            ledger.queue_name(session.queue),
                            seconds(since),
                            ledger.uid_name(attempt.uid),
                            attempt.offset,
                            seconds(attempt.ended)
                        ),
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::history::ConsumeVerdict::Success;
    use crate::history::Model;
    use crate::story::{Story, broken};

    fn two_instances() -> Story {
        let mut story = Story::new();
        story.history.header.groups[0].model = Model::Broadcasting;
        story.open("s1", "g", "c1", 0, 0).open("s2", "g", "c2", 0, 0);
        story.send("a", 0, 0).deliver_as("s1", 0, "a", Success);
        story
    }

    #[test]
    fn a_message_that_each_instance_got_is_accepted() {
        let mut story = two_instances();
        story.deliver_as("s2", 0, "a", Success).drained().scan(0, &["a"]);
        assert_eq!(broken(&story), [] as [&str; 0]);
    }

    #[test]
    fn an_instance_that_missed_a_message_is_rejected_unless_it_died() {
        let mut story = two_instances();
        story.drained().scan(0, &["a"]);
        assert_eq!(broken(&story), ["C16"]);

        let mut dead = two_instances();
        dead.kill_client("c2").drained().scan(0, &["a"]);
        assert_eq!(broken(&dead), [] as [&str; 0]);
    }

    #[test]
    fn an_instance_that_came_later_is_accepted() {
        let mut story = two_instances();
        story.deliver_as("s2", 0, "a", Success).open("s3", "g", "c3", 0, 1);
        story.drained().scan(0, &["a"]);
        assert_eq!(broken(&story), [] as [&str; 0]);
    }
}
