//! # C27 Bounded unavailability
//!
//! **Law.** Within `availability_ms` of the last fault's end, each queue that is probed acknowledges a probe and each group consumes
//! one of it; a set of replicas elects at most `elections_max` leaders meanwhile.
//!
//! **Why clients depend on it.** A system that is safe and stands still for ever breaks no other law.
//!
//! **Excused.** Everything, while the history ends before the time is over. Broadcasting groups (C16), groups that do not subscribe to the
//! probe. The writer probes what must work: with nodes gone for good, the queues of the core that is left.
//!
//! **How.** The first acknowledgement and the first success of each group are looked up for the probes of each queue. O(n).

use std::collections::{BTreeMap, HashMap};

use super::{Findings, Law, Watch, Watched, seconds};
use crate::calm::Calm;
use crate::history::{ConsumeVerdict, Event, Recorded};
use crate::ledger::{Ledger, NEVER, Outcome};
use crate::names::Id;

pub(super) const WATCHED: Watched = Watched {
    law: Law {
        id: "C27",
        title: "unavailable for too long",
        needs: &[
            Recorded::Sends,
            Recorded::Deliveries,
            Recorded::Probes,
            Recorded::Faults,
        ],
        also: None,
    },
    watch: || Box::new(Availability::default()),
};

#[derive(Default)]
struct Availability {
    calm: Calm,
    probes: HashMap<Id, Id>,
    elected: Vec<(u64, String)>,
    last: u64,
}

impl Watch for Availability {
    fn observe(&mut self, t: u64, event: &Event, ledger: &mut Ledger) {
        self.last = t;
        self.calm.observe(t, event);
        match event {
            Event::Probe { uid, queue } => {
                let queue = ledger.queue(queue);
                self.probes.insert(ledger.uid(uid), queue);
            }
            Event::Elected { set, .. } => self.elected.push((t, set.clone())),
            _ => {}
        }
    }

    fn judge(&mut self, ledger: &Ledger, findings: &mut Findings) {
        let Some(healed) = self.calm.since() else {
            return;
        };
        let deadline = healed.saturating_add(ledger.limits.availability_ms.saturating_mul(1_000_000));
        if self.last < deadline {
            return;
        }
        let mut accepted: BTreeMap<Id, u64> = self.probes.values().map(|&queue| (queue, NEVER)).collect();
        for attempt in ledger
            .attempts
            .iter()
            .filter(|attempt| matches!(attempt.outcome, Outcome::Ok(_)))
        {
            if let Some(first) = self.probes.get(&attempt.uid).and_then(|queue| accepted.get_mut(queue)) {
                *first = attempt.ended.min(*first);
            }
        }
        let mut consumed: HashMap<(Id, Id), u64> = HashMap::new();
        for delivery in &ledger.deliveries {
            if let (Some(&queue), Some(ConsumeVerdict::Success)) = (self.probes.get(&delivery.uid), delivery.verdict) {
                let first = consumed.entry((delivery.group, queue)).or_insert(NEVER);
                *first = delivery.ended.min(*first);
            }
        }
        let mut tell = |what: String, first: u64| {
            if first > deadline {
                let text = format!(
                    "{what} until {}, first at {}; all was healed at {}",
                    seconds(deadline),
                    seconds(first),
                    seconds(healed)
                );
                findings.violation(deadline, text);
            }
        };
        for (&queue, &first) in &accepted {
            let name = ledger.queue_name(queue);
            tell(format!("{name} accepts no probe"), first);
            let topic = ledger.text(ledger.queue_info(queue).topic);
            for (group, config) in ledger.groups() {
                let subscribes = config.topics.iter().any(|wanted| wanted == topic) && ledger.is_clustering(group);
                let mut probes = self.probes.iter().filter(|&(_, &of)| of == queue);
                if subscribes
                    && probes.any(|(&uid, _)| ledger.subscribes(config, ledger.messages[uid as usize].print.tag))
                {
                    let first = consumed.get(&(group, queue)).copied().unwrap_or(NEVER);
                    tell(format!("{} consumes no probe of {name}", config.name), first);
                }
            }
        }
        let mut elections: BTreeMap<&str, u64> = BTreeMap::new();
        for (_, set) in self.elected.iter().filter(|&&(t, _)| t >= healed && t <= deadline) {
            *elections.entry(set).or_default() += 1;
        }
        for (set, count) in elections {
            if count > ledger.limits.elections_max {
                findings.violation(deadline, format!("{set} elects {count} leaders after all was healed"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::history::{Event, Recorded};
    use crate::story::{Story, broken, queue};

    /// A kill, the probe `a` of queue 0 this long after the healing, and its delivery if wanted.
    fn probed(after_ms: u64, is_consumed: bool) -> Story {
        let mut story = Story::new();
        story.records(Recorded::Probes).kill();
        story.tell(Event::Mark { name: "healed".into() }).tell(Event::Probe {
            uid: "a".into(),
            queue: queue(0),
        });
        story.wait_ms(after_ms).send("a", 0, 0);
        if is_consumed {
            story.deliver("g", "c1", 0, 0, "a");
        }
        story
    }

    fn end(mut story: Story) -> Vec<String> {
        story.wait_ms(400_000).tell(Event::Mark { name: "end".into() });
        broken(&story)
    }

    #[test]
    fn a_queue_that_works_in_time_is_accepted() {
        assert_eq!(end(probed(100_000, true)), [] as [&str; 0]);
    }

    #[test]
    fn a_probe_that_is_late_or_not_consumed_is_rejected() {
        assert_eq!(end(probed(200_000, true)), ["C27"]);
        assert_eq!(end(probed(0, false)), ["C27"]);
    }

    #[test]
    fn a_history_that_ends_early_says_nothing() {
        assert_eq!(broken(&probed(0, false)), [] as [&str; 0]);
    }

    #[test]
    fn election_after_election_is_rejected() {
        for (count, laws) in [(3, &[][..]), (4, &["C27"])] {
            let mut story = probed(0, true);
            for term in 1..=count {
                story.tell(Event::Elected {
                    node: format!("n{term}"),
                    set: "b".into(),
                    term,
                    last: 0,
                });
            }
            assert_eq!(end(story), laws);
        }
    }
}
