//! # C28 Search by time
//!
//! **Law.** The offset for a time is that of the first message stored at or after it (lower boundary; the queue's end if there is
//! none), or of the last one stored at or before it (upper boundary; 0 if there is none). Source: `common/BoundaryType.java`.
//!
//! **Why clients depend on it.** Operators reset groups to a time, consumers start from one: an offset too high skips messages.
//!
//! **Excused.** A damaged record may count, by the time that it says, or not. A question is asked of a queue that stands still: who
//! records an answer has seen the queue's bounds unchanged since the snapshot.
//!
//! **How.** Look the time up in the records of the store's latest snapshot, one after the other. O(n) per question.

use super::{Findings, Law, Property};
use crate::history::{Boundary, Recorded};
use crate::ledger::{Ledger, Search, Snapshot};
use crate::stored::StoredRecord;

pub(super) const PROPERTY: Property = Property {
    law: Law {
        id: "C28",
        title: "wrong offset for a time",
        needs: &[Recorded::Stores],
        also: None,
    },
    check,
};

fn check(ledger: &Ledger, findings: &mut Findings) {
    for search in &ledger.searches {
        let Some(snapshot) = ledger.snapshots.get(search.snapshot) else {
            continue;
        };
        let expected = expected(snapshot, search, |record| !record.is_damaged);
        if search.offset != expected && search.offset != self::expected(snapshot, search, |_| true) {
            findings.violation(
                search.t,
                format!(
                    "{} answers {} for {} ({:?}) in {}:{}: it is {expected}",
                    snapshot.broker, search.offset, search.time, search.boundary, search.queue.topic, search.queue.id
                ),
            );
        }
    }
}

fn expected(snapshot: &Snapshot, search: &Search, counts: fn(&StoredRecord) -> bool) -> i64 {
    let stored = &snapshot.stored;
    let topic = stored.topics.iter().position(|topic| *topic == search.queue.topic);
    let records = stored
        .records
        .iter()
        .filter(|record| record.is_queued && counts(record))
        .filter(|record| Some(record.topic as usize) == topic && record.queue == search.queue.id);
    let mut bounds = snapshot.bounds.iter();
    // What lies behind the end is written and not yet visible.
    let end = bounds
        .find(|bounds| bounds.topic == search.queue.topic && bounds.queue == search.queue.id)
        .map_or(0, |bounds| bounds.max);
    let records = records.filter(move |record| record.offset < end);
    match search.boundary {
        Boundary::Lower => {
            let mut records = records;
            let first = records.find(|record| record.time >= search.time);
            first.map_or(end, |record| record.offset)
        }
        Boundary::Upper => {
            let before = records.take_while(|record| record.time <= search.time);
            before.last().map_or(0, |record| record.offset)
        }
    }
}
