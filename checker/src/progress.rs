//! Which offsets of a queue a group has dealt with: successes, and messages stored again for later.
//!
//! After a legal loss an offset may be bound again; it stays settled here, which can hide a violation, never invent one
//! (C06 still finds a message that nobody saw).

use std::collections::BTreeMap;

use crate::history::{ConsumeVerdict, GroupConfig};
use crate::ledger::{Ledger, Step};
use crate::names::Id;

/// Settled offsets as maximal intervals `start -> end` (exclusive).
#[derive(Default)]
pub(crate) struct Settled {
    intervals: BTreeMap<i64, i64>,
}

impl Settled {
    pub(crate) fn insert(&mut self, offset: i64) {
        let (mut start, mut end) = (offset, offset + 1);
        if let Some((&left, &left_end)) = self.intervals.range(..=offset).next_back() {
            if left_end > offset {
                return;
            }
            if left_end == offset {
                start = left;
            }
        }
        if let Some(right_end) = self.intervals.remove(&end) {
            end = right_end;
        }
        self.intervals.insert(start, end);
    }

    /// The lowest offset at or above `from` that is not settled.
    pub(crate) fn first_open(&self, from: i64) -> i64 {
        match self.intervals.range(..=from).next_back() {
            Some((_, &end)) if end > from => end,
            _ => from,
        }
    }
}

/// Progress of every group on every queue, advanced step by step.
#[derive(Default)]
pub(crate) struct Progress {
    settled: std::collections::HashMap<(Id, Id), Settled>,
}

impl Progress {
    /// Takes in a step; others than settling ones change nothing.
    pub(crate) fn advance(&mut self, ledger: &Ledger, step: Step) {
        let index = match step {
            Step::DeliverDone(index) if ledger.deliveries[index as usize].verdict == Some(ConsumeVerdict::Success) => {
                index
            }
            Step::SentBack(index) => index,
            _ => return,
        };
        let delivery = &ledger.deliveries[index as usize];
        self.settled
            .entry((delivery.group, delivery.queue))
            .or_default()
            .insert(delivery.offset);
    }

    /// The lowest offset in `[from, upto)` that the group owes: subscribed to and not settled.
    pub(crate) fn first_owed(&mut self, ledger: &Ledger, group: Id, queue: Id, from: i64, upto: i64) -> Option<i64> {
        let settled = self.settled.entry((group, queue)).or_default();
        let config = ledger.group(group);
        loop {
            let open = settled.first_open(from);
            if open >= upto {
                return None;
            }
            if wants(ledger, config, queue, open) {
                return Some(open);
            }
            settled.insert(open);
        }
    }
}

/// Does the group want the message in this slot? Nobody wants what a broker has declared a gap. In a filtered group a slot of unknown content is not owed.
fn wants(ledger: &Ledger, config: Option<&GroupConfig>, queue: Id, offset: i64) -> bool {
    if ledger.is_gap(queue, offset) {
        return false;
    }
    let Some(config) = config.filter(|config| config.tags.is_some()) else {
        return true;
    };
    let uid = ledger.scans.get(&queue).and_then(|scan| scan.at(offset));
    uid.and_then(|uid| ledger.messages.get(uid as usize))
        .is_some_and(|message| ledger.subscribes(config, message.print.tag))
}
