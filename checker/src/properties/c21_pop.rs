//! # C21 Pop conservation
//!
//! **Law.** A popped message ends in exactly one of three ways: acknowledged, popped again after its invisible time, or among the dead letters. It is
//! not popped again before that time is over nor after an acknowledgement was answered, and, with consumers at work and no fault,
//! not later than `pop_revive_ms` after the time. Source: `PopMessageProcessor`, `PopReviveService`, `ChangeInvisibleTimeProcessor`.
//!
//! **Why clients depend on it.** Popping has no offsets of its own: what is neither acknowledged nor revived is gone, and nobody
//! sees a gap. (A committed offset that passes an unacknowledged message without a checkpoint shows as this.)
//!
//! **Excused.** Too early: runs in which a clock was stepped, and the declared drift over the invisible time. Lost: if a fault
//! struck after the invisible time ended, before the drain was over, and without a scan of the dead letters if
//! there are any; after a power loss or on a lost disk.
//!
//! **How.** The latest pop of each group and message. O(n).

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Findings, Law, Watch, Watched, seconds};
use crate::calm::Calm;
use crate::history::{Event, FaultKind, Recorded};
use crate::ledger::{Ledger, NEVER};
use crate::names::Id;

pub(super) const WATCHED: Watched = Watched {
    law: Law {
        id: "C21",
        title: "popped message lost or popped twice",
        needs: &[Recorded::Sends, Recorded::Faults, Recorded::Pops],
        also: None,
    },
    watch: || Box::new(Pops::default()),
};

#[derive(Default)]
struct Pops {
    calm: Calm,
    clock_stepped: bool,
    may_be_lost: bool,
    drained: u64,
    /// Pop to group and message.
    pops: HashMap<u64, (Id, Id)>,
    latest: BTreeMap<(Id, Id), Pop>,
    wrong: Vec<(u64, (Id, Id), String)>,
}

#[derive(Clone, Copy)]
struct Pop {
    at: u64,
    until: u64,
    acknowledged: u64,
}

impl Pops {
    fn popped(&mut self, t: u64, key: (Id, Id), until: u64, drift_ppm: u64) {
        let pop = Pop {
            at: t,
            until,
            acknowledged: NEVER,
        };
        let Some(before) = self.latest.insert(key, pop) else {
            return;
        };
        let span = before.until.saturating_sub(before.at);
        let earliest = before.until.saturating_sub(span / 1_000_000 * drift_ppm.min(1_000_000));
        if before.acknowledged != NEVER {
            let text = format!("popped again, though acknowledged at {}", seconds(before.acknowledged));
            self.wrong.push((t, key, text));
        } else if t < earliest && !self.clock_stepped {
            let text = format!(
                "popped again, though popped at {} and invisible until {}",
                seconds(before.at),
                seconds(before.until)
            );
            self.wrong.push((t, key, text));
        }
    }

    fn change(&mut self, pop: u64, change: impl FnOnce(&mut Pop)) {
        if let Some(latest) = self.pops.get(&pop).and_then(|key| self.latest.get_mut(key)) {
            change(latest);
        }
    }
}

impl Watch for Pops {
    fn observe(&mut self, t: u64, event: &Event, ledger: &mut Ledger) {
        self.calm.observe(t, event);
        match event {
            Event::Fault { fault, .. } => {
                self.clock_stepped |= *fault == FaultKind::ClockStep;
                self.may_be_lost |= matches!(fault, FaultKind::PowerLoss | FaultKind::DiskLost);
            }
            Event::Mark { name } if name == "drained" => self.drained = t,
            Event::Popped {
                pop, group, uid, until, ..
            } => {
                let key = (ledger.name(group), ledger.uid(uid));
                self.pops.insert(*pop, key);
                self.popped(t, key, *until, ledger.limits.clock_drift_ppm);
            }
            Event::PopAcked { pop } => self.change(*pop, |latest| latest.acknowledged = latest.acknowledged.min(t)),
            Event::PopChanged { pop, until } => self.change(*pop, |latest| latest.until = *until),
            _ => {}
        }
    }

    fn judge(&mut self, ledger: &Ledger, findings: &mut Findings) {
        let mut dead: HashSet<(Id, Id)> = HashSet::new();
        for (&queue, scan) in &ledger.scans {
            let topic = ledger.text(ledger.queue_info(queue).topic);
            if let Some(group) = topic.strip_prefix("%DLQ%").and_then(|group| ledger.find_text(group)) {
                dead.extend(scan.entries.iter().map(|entry| (group, entry.uid)));
            }
        }
        let revive_ns = ledger.limits.pop_revive_ms.saturating_mul(1_000_000);
        for (&key, pop) in &self.latest {
            let is_dead = dead.contains(&key);
            if is_dead && pop.acknowledged != NEVER && ledger.faults == 0 {
                self.wrong.push((
                    pop.acknowledged,
                    key,
                    "acknowledged, and in the dead letters".to_owned(),
                ));
            }
            let latest = pop.until.saturating_add(revive_ns);
            let is_calm = self.calm.since().is_some_and(|since| since <= pop.until);
            let is_over = latest < self.drained && is_calm && !self.may_be_lost;
            if is_over && !is_dead && pop.acknowledged == NEVER {
                let text = format!(
                    "invisible until {}, then neither popped again nor in the dead letters",
                    seconds(pop.until)
                );
                self.wrong.push((latest, key, text));
            }
        }
        for (t, (group, uid), text) in self.wrong.drain(..) {
            findings.violation(t, format!("{} of {}: {text}", ledger.uid_name(uid), ledger.text(group)));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::history::{Event, Recorded};
    use crate::story::{Story, broken};

    fn pop(story: &mut Story, pop: u64, until_ms: u64) -> &mut Story {
        story.tell(Event::Popped {
            pop,
            group: "pops".into(),
            client: "c1".into(),
            uid: "a".into(),
            until: until_ms * 1_000_000,
        })
    }

    /// Popped at once, invisible for ten seconds.
    fn popped() -> Story {
        let mut story = Story::new();
        story.records(Recorded::Pops).send("a", 0, 0);
        pop(&mut story, 1, 10_000);
        story
    }

    fn end(mut story: Story) -> Vec<String> {
        story.wait_ms(100_000).tell(Event::Mark { name: "drained".into() });
        broken(&story)
    }

    #[test]
    fn acknowledged_or_popped_again_in_time_is_accepted() {
        let mut story = popped();
        pop(story.wait_ms(15_000), 2, 30_000).tell(Event::PopAcked { pop: 2 });
        assert_eq!(end(story), [] as [&str; 0]);
    }

    #[test]
    fn popped_again_too_early_or_after_its_acknowledgement_is_rejected() {
        let mut early = popped();
        pop(&mut early, 2, 30_000).tell(Event::PopAcked { pop: 2 });
        assert_eq!(end(early), ["C21"]);
        let mut acknowledged = popped();
        acknowledged.tell(Event::PopAcked { pop: 1 }).wait_ms(20_000);
        pop(&mut acknowledged, 2, 30_000).tell(Event::PopAcked { pop: 2 });
        assert_eq!(end(acknowledged), ["C21"]);
    }

    #[test]
    fn a_changed_time_counts() {
        let mut story = popped();
        story.tell(Event::PopChanged {
            pop: 1,
            until: 40_000_000_000,
        });
        pop(story.wait_ms(20_000), 2, 60_000).tell(Event::PopAcked { pop: 2 });
        assert_eq!(end(story), ["C21"]);
    }

    #[test]
    fn a_message_that_never_comes_again_is_rejected_unless_it_is_dead() {
        assert_eq!(end(popped()), ["C21"]);
        let mut dead = popped();
        dead.dead_letter("pops", "a");
        assert_eq!(end(dead), [] as [&str; 0]);
    }
}
