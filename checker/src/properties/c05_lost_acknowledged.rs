//! # C05 Lost acknowledged message
//!
//! **Law.** A message that was acknowledged is found by the final scan at the acknowledged slot, unless faults exceeded the
//! durability budget of its acknowledgement (`budget.rs`), or retention has passed it.
//!
//! **Why clients depend on it.** The acknowledgement is the moment when a producer forgets the message.
//!
//! **How.** Look up every acknowledged slot in the scan. A loss inside the budget counts as RPO. A message that is
//! elsewhere because of a second attempt is not lost. O(n log n).

use super::{Findings, Law, Property, seconds};
use crate::budget::Grade;
use crate::history::Recorded;
use crate::ledger::{Attempt, Ledger, NEVER, Outcome};
use crate::names::NONE;

pub(super) const PROPERTY: Property = Property {
    law: Law {
        id: "C05",
        title: "lost acknowledged message",
        needs: &[Recorded::Sends, Recorded::Scan],
        also: None,
    },
    check,
};

fn check(ledger: &Ledger, findings: &mut Findings) {
    if ledger.scan_complete != Some(true) {
        return;
    }
    let found = found_messages(ledger);
    for attempt in &ledger.attempts {
        let acknowledged = matches!(attempt.outcome, Outcome::Ok(_));
        if !acknowledged || is_there(ledger, attempt) {
            continue;
        }
        let message = &ledger.messages[attempt.uid as usize];
        if found[attempt.uid as usize] && message.tries > 1 {
            continue;
        }
        let broker = ledger.queue_info(attempt.queue).broker;
        match ledger.budget.excuse(broker, ledger.claim(attempt), NEVER) {
            Some(loss) => {
                findings.rpo.lost += 1;
                let age = loss.t.saturating_sub(attempt.ended);
                findings.rpo.age_ns_max = findings.rpo.age_ns_max.max(age);
            }
            None => findings.violation(attempt.ended, explain(ledger, attempt, found[attempt.uid as usize])),
        }
    }
}

/// At its slot, or below what retention has left.
fn is_there(ledger: &Ledger, attempt: &Attempt) -> bool {
    ledger
        .scans
        .get(&attempt.queue)
        .is_some_and(|scan| attempt.offset < scan.min || scan.at(attempt.offset) == Some(attempt.uid))
}

fn found_messages(ledger: &Ledger) -> Vec<bool> {
    let mut found = vec![false; ledger.messages.len()];
    for (&queue, scan) in &ledger.scans {
        for entry in &scan.entries {
            if entry.uid != NONE && !ledger.queue_info(queue).system {
                found[entry.uid as usize] = true;
            }
        }
    }
    found
}

fn explain(ledger: &Ledger, attempt: &Attempt, elsewhere: bool) -> String {
    let grade = match ledger.grade(attempt) {
        Grade::Sync => "synchronous",
        Grade::Async => "asynchronous",
    };
    let held = match ledger.scans.get(&attempt.queue) {
        None => "the scan has no such queue".to_owned(),
        Some(scan) => match scan.at(attempt.offset) {
            Some(other) => format!("the slot holds {}", ledger.uid_name(other)),
            None => format!("the queue is [{}, {})", scan.min, scan.max),
        },
    };
    let place = if elsewhere { "at another offset only" } else { "nowhere" };
    let position = attempt
        .position
        .map_or(String::new(), |position| format!(" position {position}"));
    format!(
        "{} acknowledged at {} as {} offset {}{position}, {grade} grade, sent at {}: found {place}, {held}; no fault excuses it",
        ledger.uid_name(attempt.uid),
        seconds(attempt.ended),
        ledger.queue_name(attempt.queue),
        attempt.offset,
        seconds(attempt.invoked),
    )
}

#[cfg(test)]
mod tests {
    use crate::history::{Flush, SendStatus};
    use crate::story::{Story, broken, report};

    #[test]
    fn an_asynchronous_loss_by_power_is_accepted_and_counted() {
        let mut story = Story::with_flush(Flush::Async);
        story.send("a", 0, 0).power_loss().scan(0, &[]);
        let report = report(&story);
        assert_eq!(report.violations(), []);
        assert_eq!(report.rpo.lost, 1);
    }

    #[test]
    fn a_synchronous_loss_by_power_is_rejected() {
        let mut story = Story::new();
        story.send("a", 0, 0).power_loss().scan(0, &[]);
        assert_eq!(broken(&story), ["C05"]);
    }

    #[test]
    fn a_kill_excuses_nothing() {
        let mut story = Story::with_flush(Flush::Async);
        story.send("a", 0, 0).kill().scan(0, &[]);
        assert_eq!(broken(&story), ["C05"]);
    }

    #[test]
    fn weaker_grades_of_a_synchronous_broker_may_be_lost_by_power() {
        let mut timeout = Story::new();
        timeout
            .send_graded("a", 0, 0, SendStatus::FlushDiskTimeout, true)
            .power_loss()
            .scan(0, &[]);
        assert_eq!(broken(&timeout), [] as [&str; 0]);

        let mut unwaited = Story::new();
        unwaited
            .send_graded("a", 0, 0, SendStatus::SendOk, false)
            .power_loss()
            .scan(0, &[]);
        assert_eq!(broken(&unwaited), [] as [&str; 0]);
    }

    #[test]
    fn the_watermark_of_synced_bytes_bounds_the_excuse() {
        let mut synced = Story::with_flush(Flush::Async);
        synced
            .facts()
            .send_at("a", 0, 0, 100)
            .flushed(200)
            .power_loss()
            .scan(0, &[]);
        assert_eq!(broken(&synced), ["C05"]);

        let mut unsynced = Story::with_flush(Flush::Async);
        unsynced
            .facts()
            .flushed(100)
            .send_at("a", 0, 0, 100)
            .power_loss()
            .scan(0, &[]);
        assert_eq!(broken(&unsynced), [] as [&str; 0]);
    }

    #[test]
    fn a_power_loss_before_the_send_excuses_nothing() {
        let mut story = Story::with_flush(Flush::Async);
        story.power_loss().send("a", 0, 0).scan(0, &[]);
        assert_eq!(broken(&story), ["C05"]);
    }
}
