//! # C17 Filter and causality across queues
//!
//! **Law.** (a) A group is handed no message that its subscription does not take. (b) What sends and reads on masters saw has
//! no cycle of "was read by", "before in one process" and "before in real time". Sources: `ExpressionForRetryMessageFilter`,
//! `PullAPIWrapper` (the client filters by tag, too); Jepsen's G1c with process and realtime edges.
//!
//! **Why clients depend on it.** Listeners are written for the tags that they ask for. And whoever reads an answer must be
//! able to find the question.
//!
//! **Excused.** (a) Retry topics: a copy was filtered as the original. A matching message that is dropped is C09's and C06's. (b) A
//! slot that a power loss of an asynchronous broker or a lost disk may have emptied between the read and the second
//! binding.
//!
//! **How.** (a) One look at each delivery. (b) All writers share one clock, which orders every edge but "was read by": send to
//! read. Let a cycle be given and take its edge that goes back in time: a message was read before the attempt that owns its
//! slot was invoked; and such a pair is a cycle by itself, as reading came before invoking. So cycles exist exactly if such a
//! pair does, and one hash of slots finds it where a general search for strong components would. An attempt that is acknowledged with a
//! slot that was read before it was invoked is found by no other check, if the message was sent before. O(n).

use std::collections::HashMap;

use super::{Findings, Law, Property, seconds};
use crate::budget::{Claim, Grade};
use crate::history::Recorded;
use crate::ledger::{Ledger, Outcome};
use crate::names::{Id, NONE};

pub(super) const PROPERTY: Property = Property {
    law: Law {
        id: "C17",
        title: "filter or causality broken",
        needs: &[Recorded::Sends, Recorded::Deliveries],
        also: None,
    },
    check,
};

fn check(ledger: &Ledger, findings: &mut Findings) {
    filter(ledger, findings);
    causality(ledger, findings);
}

fn filter(ledger: &Ledger, findings: &mut Findings) {
    for delivery in &ledger.deliveries {
        let config = ledger.group(delivery.group).filter(|config| config.tags.is_some());
        let (Some(config), false) = (config, ledger.queue_info(delivery.queue).system) else {
            continue;
        };
        if delivery.uid != NONE && !ledger.subscribes(config, delivery.print.tag) {
            findings.violation(
                delivery.started,
                format!(
                    "{} of {} is handed {} at {} offset {} with tag {}, but subscribes to {}",
                    ledger.text(delivery.client),
                    config.name,
                    ledger.uid_name(delivery.uid),
                    ledger.queue_name(delivery.queue),
                    delivery.offset,
                    ledger.text(delivery.print.tag),
                    config.tags.iter().flatten().cloned().collect::<Vec<_>>().join(" || ")
                ),
            );
        }
    }
}

fn causality(ledger: &Ledger, findings: &mut Findings) {
    // Only a message that was sent more than once can own a slot by an attempt that came after its reading: of others C01 says it.
    let mut again: HashMap<(Id, i64), usize> = HashMap::new();
    for (index, attempt) in ledger.attempts.iter().enumerate() {
        let is_first = attempt.invoked == ledger.messages[attempt.uid as usize].sent;
        if matches!(attempt.outcome, Outcome::Ok(_)) && !is_first {
            again.insert((attempt.queue, attempt.offset), index);
        }
    }
    if again.is_empty() {
        return;
    }
    for delivery in &ledger.deliveries {
        let Some(&index) = again.get(&(delivery.queue, delivery.offset)) else {
            continue;
        };
        let attempt = &ledger.attempts[index];
        if attempt.uid != delivery.uid || attempt.invoked <= delivery.started {
            continue;
        }
        let broker = ledger.queue_info(delivery.queue).broker;
        let read = Claim {
            grade: Grade::Async,
            invoked: 0,
            ended: delivery.started,
            position: delivery.position,
        };
        if ledger.budget.excuse(broker, read, attempt.ended).is_none() {
            findings.violation(
                attempt.invoked,
                format!(
                    "{} was read at {} offset {} by {} at {}, then sent again at {} and acknowledged with the same slot",
                    ledger.uid_name(attempt.uid),
                    ledger.queue_name(attempt.queue),
                    attempt.offset,
                    ledger.text(delivery.client),
                    seconds(delivery.started),
                    seconds(attempt.invoked)
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::history::Flush;
    use crate::story::{Story, broken};

    #[test]
    fn a_message_that_the_subscription_does_not_take_is_rejected() {
        for (tags, laws) in [(None, &[][..]), (Some(vec!["X".to_owned()]), &["C17"])] {
            let mut story = Story::new();
            story.history.header.groups[0].tags = tags;
            story.send("a", 0, 0).deliver("g", "c1", 0, 0, "a");
            assert_eq!(broken(&story), laws);
        }
    }

    #[test]
    fn a_second_attempt_that_owns_a_slot_of_its_own_is_accepted() {
        let mut story = Story::new();
        story
            .send_lost("a", 1)
            .deliver("g", "c1", 0, 0, "a")
            .send_again("a", 2, 0, 1);
        assert_eq!(broken(&story), [] as [&str; 0]);
    }

    #[test]
    fn a_slot_that_was_read_before_the_attempt_that_owns_it_is_rejected_unless_it_may_have_been_emptied() {
        let mut story = Story::with_flush(Flush::Async);
        story
            .send_lost("a", 1)
            .deliver("g", "c1", 0, 0, "a")
            .send_again("a", 2, 0, 0);
        assert_eq!(broken(&story), ["C17"]);

        let mut emptied = Story::with_flush(Flush::Async);
        emptied.send_lost("a", 1).deliver("g", "c1", 0, 0, "a").power_loss();
        emptied.send_again("a", 2, 0, 0);
        assert_eq!(broken(&emptied), [] as [&str; 0]);
    }
}
