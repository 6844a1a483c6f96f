//! # C08 Per-queue order broken
//!
//! **Law.** In an orderly group a message is handed to a listener only when every earlier message of the queue, from the
//! session's start on, has been consumed (or moved to the dead letters). In a concurrent group a session hands out messages for
//! the first time in order of offset.
//!
//! **Why clients depend on it.** "Paid" after "created", "shipped" after "paid": that is what orderly consumption is bought for.
//!
//! **How.** Keep, per group and queue, the set of settled offsets as intervals; at each orderly start look for the lowest
//! open offset since the session's start. For concurrent sessions keep the highest offset handed out. O(n log n).

use std::collections::{HashMap, HashSet};

use super::{Findings, Law, Property};
use crate::history::Recorded;
use crate::ledger::{Delivery, Ledger, Step};
use crate::names::{Id, NONE};
use crate::progress::Progress;

pub(super) const PROPERTY: Property = Property {
    law: Law {
        id: "C08",
        title: "per-queue order broken",
        needs: &[Recorded::Deliveries],
        also: None,
    },
    check,
};

fn check(ledger: &Ledger, findings: &mut Findings) {
    let mut progress = Progress::default();
    // Without sessions the first delivery of a group on a queue is where it began.
    let mut began: HashMap<(Id, Id), i64> = HashMap::new();
    let mut handed_out: HashMap<Id, i64> = HashMap::new();
    let mut known: HashSet<(Id, i64)> = HashSet::new();
    for &(t, step) in &ledger.steps {
        progress.advance(ledger, step);
        let Step::DeliverStart(index) = step else {
            continue;
        };
        let delivery = &ledger.deliveries[index as usize];
        if ledger.is_orderly(delivery.group) {
            let start = match delivery.session {
                NONE => *began.entry((delivery.group, delivery.queue)).or_insert(delivery.offset),
                session => ledger.sessions[session as usize].start,
            };
            let owed = progress.first_owed(ledger, delivery.group, delivery.queue, start, delivery.offset);
            if let Some(owed) = owed {
                let story = format!("while offset {owed} was not yet consumed (session from {start})");
                findings.violation(t, explain(ledger, delivery, &story));
            }
        } else if delivery.session != NONE && known.insert((delivery.session, delivery.offset)) {
            let highest = handed_out.entry(delivery.session).or_insert(delivery.offset);
            if delivery.offset < *highest {
                findings.violation(
                    t,
                    explain(ledger, delivery, &format!("for the first time after {highest}")),
                );
            }
            *highest = delivery.offset.max(*highest);
        }
    }
}

fn explain(ledger: &Ledger, delivery: &Delivery, story: &str) -> String {
    format!(
        "{} of {} was handed {} at {} offset {} {story}",
        ledger.text(delivery.client),
        ledger.text(delivery.group),
        ledger.uid_name(delivery.uid),
        ledger.queue_name(delivery.queue),
        delivery.offset
    )
}

#[cfg(test)]
mod tests {
    use crate::history::ConsumeVerdict;
    use crate::story::{Story, broken};

    #[test]
    fn an_orderly_group_that_waits_for_each_message_is_accepted() {
        let mut story = Story::orderly();
        story.send("a", 0, 0).send("b", 0, 1).open("s1", "o", "c1", 0, 0);
        story
            .deliver_as("s1", 0, "a", ConsumeVerdict::Suspend)
            .deliver_as("s1", 0, "a", ConsumeVerdict::Success)
            .deliver_as("s1", 1, "b", ConsumeVerdict::Success);
        assert_eq!(broken(&story), [] as [&str; 0]);
    }

    #[test]
    fn an_orderly_message_before_its_predecessor_is_consumed_is_rejected() {
        let mut story = Story::orderly();
        story.send("a", 0, 0).send("b", 0, 1).open("s1", "o", "c1", 0, 0);
        story
            .deliver_as("s1", 0, "a", ConsumeVerdict::Suspend)
            .deliver_as("s1", 1, "b", ConsumeVerdict::Success);
        assert_eq!(broken(&story), ["C08"]);
    }

    #[test]
    fn a_concurrent_session_that_turns_back_for_a_new_message_is_rejected() {
        let mut story = Story::new();
        story.send("a", 0, 0).send("b", 0, 1).open("s1", "g", "c1", 0, 0);
        story
            .deliver_as("s1", 1, "b", ConsumeVerdict::Success)
            .deliver_as("s1", 0, "a", ConsumeVerdict::Success);
        assert_eq!(broken(&story), ["C08"]);
    }

    /// Begins (`None`) and ends of listener calls, with the offset and whether it was a success.
    type Events = [(usize, Option<bool>)];

    const UIDS: [&str; 3] = ["a", "b", "c"];

    /// By the words of the law: every earlier message has a success before this one starts.
    fn is_in_order(events: &Events) -> bool {
        let settled = |upto: usize, offset: usize| events[..upto].contains(&(offset, Some(true)));
        let mut starts = events.iter().enumerate().filter(|(_, (_, ended))| ended.is_none());
        starts.all(|(index, &(offset, _))| (0..offset).all(|earlier| settled(index, earlier)))
    }

    /// Every history of up to four calls (eight events) of three messages, on one listener or on two at once.
    fn each_history(judge: &mut impl FnMut(&Events)) {
        fn go(
            events: &mut Vec<(usize, Option<bool>)>,
            open: &mut Vec<usize>,
            calls: usize,
            judge: &mut impl FnMut(&Events),
        ) {
            if open.is_empty() {
                judge(events);
            }
            for index in 0..open.len() {
                let offset = open.remove(index);
                for ok in [true, false] {
                    events.push((offset, Some(ok)));
                    go(events, open, calls, judge);
                    events.pop();
                }
                open.insert(index, offset);
            }
            if calls < 4 && open.len() < 2 {
                for offset in (0..3).filter(|offset| !open.contains(offset)).collect::<Vec<_>>() {
                    events.push((offset, None));
                    open.push(offset);
                    go(events, open, calls + 1, judge);
                    open.pop();
                    events.pop();
                }
            }
        }
        go(&mut Vec::new(), &mut Vec::new(), 0, judge);
    }

    #[test]
    fn orderly_verdicts_agree_with_the_words_of_the_law_on_every_small_history() {
        let mut count = [0, 0];
        each_history(&mut |events| {
            let mut story = Story::orderly();
            story
                .history
                .header
                .records
                .retain(|what| *what == crate::history::Recorded::Deliveries);
            story.open("s1", "o", "c1", 0, 0);
            let mut open = [0; 3];
            for &(offset, ended) in events {
                match ended {
                    None => {
                        open[offset] = story.start("o", "c1", 0, offset as i64, UIDS[offset]);
                        story.in_session("s1");
                    }
                    Some(true) => drop(story.done(open[offset])),
                    Some(false) => drop(story.tell(crate::history::Event::DeliverDone {
                        delivery: open[offset],
                        verdict: ConsumeVerdict::Suspend,
                    })),
                }
            }
            let is_in_order = is_in_order(events);
            assert_eq!(broken(&story).is_empty(), is_in_order, "{events:?}");
            count[usize::from(is_in_order)] += 1;
        });
        assert!(count[0] > 1000 && count[1] > 100, "{count:?}");
    }

    #[test]
    fn concurrent_verdicts_agree_with_the_words_of_the_law_on_every_small_history() {
        // Up to eight deliveries of three messages: the first ones of each rise.
        let mut count = [0, 0];
        for length in 0..=8u32 {
            for code in 0..3usize.pow(length) {
                let offsets: Vec<usize> = (0..length).map(|at| code / 3usize.pow(at) % 3).collect();
                let mut story = Story::new();
                story
                    .history
                    .header
                    .records
                    .retain(|what| *what == crate::history::Recorded::Deliveries);
                story.open("s1", "g", "c1", 0, 0);
                for &offset in &offsets {
                    story.deliver_as("s1", offset as i64, UIDS[offset], ConsumeVerdict::Success);
                }
                let first: Vec<Option<usize>> =
                    (0..3).map(|wanted| offsets.iter().position(|&o| o == wanted)).collect();
                let falls = |a: usize, b: usize| first[a].is_some() && first[b].is_some() && first[a] > first[b];
                let rises = !falls(0, 1) && !falls(0, 2) && !falls(1, 2);
                assert_eq!(broken(&story).is_empty(), rises, "{offsets:?}");
                count[usize::from(rises)] += 1;
            }
        }
        assert!(count[0] > 1000 && count[1] > 1000, "{count:?}");
    }
}
