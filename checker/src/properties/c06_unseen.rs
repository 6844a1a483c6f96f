//! # C06 Unseen
//!
//! **Law.** After the drain phase every group has dealt with every acknowledged message of its topics that still exists:
//! some instance consumed it, or it lies in the group's dead letters, or the subscription does not take it. A message
//! that was handed back is stored again with the broker's promise: a power loss of an async-flush broker may take the copy.
//!
//! **Why clients depend on it.** This is at-least-once from end to end, whoever was to blame: broker, client or a commit.
//!
//! **How.** For each group, mark what was consumed or is in the dead letters; walk the acknowledged messages. O(n · groups).

use std::collections::HashMap;

use super::{Findings, Law, Property, seconds};
use crate::budget::{Claim, Grade};
use crate::history::{ConsumeVerdict, Flush, GroupConfig, Recorded, StartAt};
use crate::ledger::{Attempt, Ledger, NEVER, Outcome, Step};
use crate::names::{Id, NONE};

pub(super) const PROPERTY: Property = Property {
    law: Law {
        id: "C06",
        title: "acknowledged message never consumed",
        needs: &[Recorded::Sends, Recorded::Deliveries, Recorded::Drain, Recorded::Scan],
        also: None,
    },
    check,
};

fn check(ledger: &Ledger, findings: &mut Findings) {
    if ledger.scan_complete != Some(true) || !ledger.drained {
        return;
    }
    let handed_back = handed_back(ledger);
    for (group, config) in ledger.groups() {
        if !ledger.is_clustering(group) {
            continue;
        }
        let seen = seen_by(ledger, group, config);
        for attempt in &ledger.attempts {
            let copy_is_lost = || {
                let copies = handed_back.get(&(group, attempt.uid)).map_or(&[][..], Vec::as_slice);
                copies.iter().any(|&(queue, claim)| {
                    let broker = ledger.queue_info(queue).broker;
                    ledger.budget.excuse(broker, claim, NEVER).is_some()
                })
            };
            if owes(ledger, group, config, attempt) && !seen[attempt.uid as usize] && !copy_is_lost() {
                findings.violation(
                    attempt.ended,
                    format!(
                        "{} acknowledged at {} as {} offset {}: no instance of {} consumed it",
                        ledger.uid_name(attempt.uid),
                        seconds(attempt.ended),
                        ledger.queue_name(attempt.queue),
                        attempt.offset,
                        config.name
                    ),
                );
            }
        }
    }
}

/// A copy waits for its delay before it is stored for the last time.
const DELAY_NS: u64 = 10_000_000_000;

/// The copies that were stored for a retry, by group and message.
fn handed_back(ledger: &Ledger) -> HashMap<(Id, Id), Vec<(Id, Claim)>> {
    let mut copies: HashMap<_, Vec<_>> = HashMap::new();
    for &(t, step) in &ledger.steps {
        let Step::SentBack(index) = step else { continue };
        let delivery = &ledger.deliveries[index as usize];
        let flush = ledger.budget.flush(ledger.queue_info(delivery.queue).broker);
        let claim = Claim {
            grade: if flush == Flush::Sync {
                Grade::Sync
            } else {
                Grade::Async
            },
            invoked: delivery.started,
            ended: t.saturating_add(DELAY_NS),
            position: None,
        };
        copies
            .entry((delivery.group, delivery.uid))
            .or_default()
            .push((delivery.queue, claim));
    }
    copies
}

/// Acknowledged, still in its slot, and of interest to the group. A lost one is C05's business.
fn owes(ledger: &Ledger, group: Id, config: &GroupConfig, attempt: &Attempt) -> bool {
    if !matches!(attempt.outcome, Outcome::Ok(_)) {
        return false;
    }
    let message = &ledger.messages[attempt.uid as usize];
    let topic = ledger.text(ledger.queue_info(attempt.queue).topic);
    let exists = ledger
        .scans
        .get(&attempt.queue)
        .is_some_and(|scan| scan.at(attempt.offset) == Some(attempt.uid));
    exists
        && config.topics.iter().any(|wanted| wanted == topic)
        && ledger.subscribes(config, message.print.tag)
        && (config.from == StartAt::First || attempt.offset >= first_start(ledger, group, attempt.queue))
}

/// Where the group's first session on the queue began; beyond everything if there was none.
fn first_start(ledger: &Ledger, group: Id, queue: Id) -> i64 {
    let mut sessions = ledger.sessions.iter();
    sessions
        .find(|session| (session.group, session.queue) == (group, queue))
        .map_or(i64::MAX, |session| session.start)
}

fn seen_by(ledger: &Ledger, group: Id, config: &GroupConfig) -> Vec<bool> {
    let mut seen = vec![false; ledger.messages.len()];
    for delivery in &ledger.deliveries {
        if delivery.group == group && delivery.verdict == Some(ConsumeVerdict::Success) && delivery.uid != NONE {
            seen[delivery.uid as usize] = true;
        }
    }
    let dead_letters = ledger.find_text(&format!("%DLQ%{}", config.name));
    for (&queue, scan) in &ledger.scans {
        if Some(ledger.queue_info(queue).topic) == dead_letters {
            for entry in scan.entries.iter().filter(|entry| entry.uid != NONE) {
                seen[entry.uid as usize] = true;
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use crate::history::{ConsumeVerdict, Flush};
    use crate::story::{Story, broken};

    #[test]
    fn a_message_that_each_group_consumed_is_accepted() {
        let mut story = Story::new();
        story
            .send("a", 0, 0)
            .deliver("g", "c1", 0, 0, "a")
            .scan(0, &["a"])
            .drained();
        assert_eq!(broken(&story), [] as [&str; 0]);
    }

    #[test]
    fn a_message_in_the_dead_letters_is_accepted() {
        let mut story = Story::new();
        story.send("a", 0, 0).scan(0, &["a"]).dead_letter("g", "a").drained();
        assert_eq!(broken(&story), [] as [&str; 0]);
    }

    #[test]
    fn a_retry_that_an_asynchronous_power_loss_took_is_accepted_and_a_synchronous_one_is_not() {
        for (flush, laws) in [(Flush::Async, &[][..]), (Flush::Sync, &["C06"])] {
            let mut story = Story::with_flush(flush);
            story.send("a", 0, 0).open("s1", "g", "c1", 0, 0);
            story.deliver_as("s1", 0, "a", ConsumeVerdict::Later).send_back();
            story.power_loss().scan(0, &["a"]).drained();
            assert_eq!(broken(&story), laws);
        }
    }

    #[test]
    fn a_message_that_nobody_consumed_is_rejected() {
        let mut story = Story::new();
        story.send("a", 0, 0).scan(0, &["a"]).drained();
        assert_eq!(broken(&story), ["C06"]);
    }
}
