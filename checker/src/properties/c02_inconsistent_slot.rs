//! # C02 Inconsistent slot
//!
//! **Law.** A slot (queue, offset) holds one message for ever: every acknowledgement, delivery and scan that names the
//! slot names the same message. It may be bound again only after a power loss inside the durability budget took the
//! first holder.
//!
//! **Why clients depend on it.** Consumers remember offsets, not messages. If offset 7 is one order today and another
//! tomorrow, a committed offset says nothing.
//!
//! **How.** Sort all observations by slot; between two different holders of a slot there must lie a loss that excuses one
//! of them and that the final scan does not refute. O(n log n).

use super::{Findings, Law, Property, seconds};
use crate::budget::{Claim, Grade};
use crate::history::{Flush, Recorded};
use crate::ledger::{Ledger, Outcome};
use crate::names::{Id, NONE};

pub(super) const PROPERTY: Property = Property {
    law: Law {
        id: "C02",
        title: "inconsistent slot",
        needs: &[Recorded::Sends],
        also: None,
    },
    check,
};

/// One sight of a message in a slot.
#[derive(Clone, Copy)]
struct Sight {
    queue: Id,
    offset: i64,
    uid: Id,
    t: u64,
    how: &'static str,
    scanned: bool,
    claim: Claim,
}

fn check(ledger: &Ledger, findings: &mut Findings) {
    let mut sights = sights(ledger);
    sights.sort_by_key(|sight| (sight.queue, sight.offset, sight.uid, sight.t));
    for slot in sights.chunk_by(|a, b| (a.queue, a.offset) == (b.queue, b.offset)) {
        let mut holders: Vec<(Sight, Sight)> = slot
            .chunk_by(|a, b| a.uid == b.uid)
            .map(|sights| (sights[0], sights[sights.len() - 1]))
            .collect();
        holders.sort_by_key(|(first, _)| first.claim.invoked);
        for pair in holders.windows(2) {
            let (older, newer) = (pair[0], pair[1]);
            if !excused(ledger, older, newer) && !excused(ledger, newer, older) {
                findings.violation(newer.0.t, explain(ledger, older.0, newer.0));
            }
        }
    }
}

/// Was `gone` taken away by a loss before `other` was last seen in its place?
fn excused(ledger: &Ledger, gone: (Sight, Sight), other: (Sight, Sight)) -> bool {
    let broker = ledger.queue_info(gone.0.queue).broker;
    !gone.1.scanned && ledger.budget.excuse(broker, gone.0.claim, other.1.t).is_some()
}

fn explain(ledger: &Ledger, older: Sight, newer: Sight) -> String {
    let seen = |sight: Sight| format!("{} ({} at {})", ledger.uid_name(sight.uid), sight.how, seconds(sight.t));
    let (slot, offset) = (ledger.queue_name(older.queue), older.offset);
    format!(
        "{slot} offset {offset} holds {} and {}; no power loss excuses it",
        seen(older),
        seen(newer)
    )
}

fn sights(ledger: &Ledger) -> Vec<Sight> {
    let acknowledged = ledger
        .attempts
        .iter()
        .filter(|attempt| matches!(attempt.outcome, Outcome::Ok(_)))
        .map(|attempt| Sight {
            queue: attempt.queue,
            offset: attempt.offset,
            uid: attempt.uid,
            t: attempt.ended,
            how: "acknowledged",
            scanned: false,
            claim: ledger.claim(attempt),
        });
    let delivered = ledger.deliveries.iter().map(|delivery| Sight {
        queue: delivery.queue,
        offset: delivery.offset,
        uid: delivery.uid,
        t: delivery.started,
        how: "delivered",
        scanned: false,
        claim: read_claim(
            ledger,
            delivery.queue,
            delivery.uid,
            delivery.started,
            delivery.position,
        ),
    });
    let scanned = ledger.scans.iter().flat_map(|(&queue, scan)| {
        scan.entries.iter().map(move |entry| Sight {
            queue,
            offset: entry.offset,
            uid: entry.uid,
            t: entry.t,
            how: "found by the final scan",
            scanned: true,
            claim: read_claim(ledger, queue, entry.uid, entry.t, None),
        })
    });
    let all = acknowledged.chain(delivered).chain(scanned);
    all.filter(|sight| sight.uid != NONE).collect()
}

/// What was read from a sync-flush broker had been synced; from an async one it may vanish with the power.
fn read_claim(ledger: &Ledger, queue: Id, uid: Id, t: u64, position: Option<u64>) -> Claim {
    let info = ledger.queue_info(queue);
    let message = (uid != NONE).then(|| ledger.messages[uid as usize]);
    let weak = message.is_some_and(|message| !message.wait_store);
    let sync = ledger.budget.flush(info.broker) == Flush::Sync && !weak;
    Claim {
        grade: if sync { Grade::Sync } else { Grade::Async },
        invoked: message.map_or(t, |message| message.sent.min(t)),
        ended: t,
        position,
    }
}

#[cfg(test)]
mod tests {
    use crate::history::Flush;
    use crate::story::{Story, broken};

    #[test]
    fn a_slot_bound_again_after_an_asynchronous_power_loss_is_accepted() {
        let mut story = Story::with_flush(Flush::Async);
        story.send("a", 0, 0).power_loss().send("b", 0, 0).scan(0, &["b"]);
        assert_eq!(broken(&story), [] as [&str; 0]);
    }

    #[test]
    fn a_slot_with_two_messages_is_rejected() {
        let mut story = Story::new();
        story.send("a", 0, 0).send("b", 0, 0);
        assert_eq!(broken(&story), ["C02"]);
    }

    #[test]
    fn a_kill_does_not_excuse_a_second_holder() {
        let mut story = Story::with_flush(Flush::Async);
        story.send("a", 0, 0).kill().send("b", 0, 0);
        assert_eq!(broken(&story), ["C02"]);
    }
}
