//! # C29 Batch atomicity
//!
//! **Law.** A batch is in the log as a whole, in its order and at consecutive offsets of one queue, each time that it is there.
//! Source: `CommitLog.asyncPutMessages`, `MessageBatch`.
//!
//! **Why clients depend on it.** A batch is acknowledged with one answer: half of it is lost or sent without anybody knowing which.
//!
//! **Excused.** Slots below the queue's minimum and declared gaps. A message that a power loss or a lost disk may have taken within
//! the budget of the acknowledgement.
//!
//! **How.** Every scanned slot of a batch's message says where the batch's first message would be; per batch and place, the members are
//! counted. O(n log n).

use std::collections::HashMap;

use super::{Findings, Law, Watch, Watched};
use crate::budget::{Claim, Grade};
use crate::history::{Event, Recorded};
use crate::ledger::{Attempt, Ledger, NEVER};
use crate::names::{Id, NONE};

pub(super) const WATCHED: Watched = Watched {
    law: Law {
        id: "C29",
        title: "batch in pieces",
        needs: &[Recorded::Sends, Recorded::Batches, Recorded::Scan],
        also: None,
    },
    watch: || Box::new(Batches::default()),
};

#[derive(Default)]
struct Batches {
    /// All messages of all batches.
    members: Vec<Id>,
    /// Where each batch begins in `members`.
    starts: Vec<u32>,
}

impl Watch for Batches {
    fn observe(&mut self, _: u64, event: &Event, ledger: &mut Ledger) {
        if let Event::Batch { uids } = event {
            self.starts.push(self.members.len() as u32);
            self.members.extend(uids.iter().map(|uid| ledger.uid(uid)));
        }
    }

    fn judge(&mut self, ledger: &Ledger, findings: &mut Findings) {
        if ledger.scan_complete != Some(true) {
            return;
        }
        let mut batch_of = vec![(NONE, 0u32); ledger.messages.len()];
        for batch in 0..self.starts.len() {
            for (index, &uid) in (0..).zip(self.batch(batch)) {
                batch_of[uid as usize] = (batch as u32, index);
            }
        }
        // Batch, queue, where it begins, and the member that is there.
        let mut found: Vec<(u32, Id, i64, u32)> = Vec::new();
        for (&queue, scan) in ledger
            .scans
            .iter()
            .filter(|&(&queue, _)| !ledger.queue_info(queue).system)
        {
            for entry in scan.entries.iter().filter(|entry| entry.uid != NONE) {
                let (batch, index) = batch_of[entry.uid as usize];
                if batch != NONE {
                    found.push((batch, queue, entry.offset - i64::from(index), index));
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        let mut may_be_lost: Option<HashMap<Id, Vec<&Attempt>>> = None;
        for place in found.chunk_by(|a, b| (a.0, a.1, a.2) == (b.0, b.1, b.2)) {
            let (batch, queue, base, _) = place[0];
            let members = self.batch(batch as usize);
            if place.len() == members.len() {
                continue;
            }
            let attempts = may_be_lost.get_or_insert_with(|| {
                let mut attempts: HashMap<Id, Vec<&Attempt>> = HashMap::new();
                for attempt in &ledger.attempts {
                    attempts.entry(attempt.uid).or_default().push(attempt);
                }
                attempts
            });
            let min = ledger.scans[&queue].min;
            let mut missing = (0..).zip(members).filter(|&(index, &uid)| {
                let offset = base + i64::from(index);
                let is_there = place.iter().any(|&(_, _, _, there)| there == index);
                let attempts = attempts.get(&uid).map_or(&[][..], Vec::as_slice);
                !is_there
                    && offset >= min
                    && !ledger.is_gap(queue, offset)
                    && !attempts.iter().any(|attempt| is_excused(ledger, queue, attempt))
            });
            if let Some((index, &uid)) = missing.next() {
                let scan_t = ledger.scans[&queue].t;
                findings.violation(
                    scan_t,
                    format!(
                        "{} of the {} messages of a batch are in {} from offset {base} on, but not {} at {}",
                        place.len(),
                        members.len(),
                        ledger.queue_name(queue),
                        ledger.uid_name(uid),
                        base + i64::from(index)
                    ),
                );
            }
        }
    }
}

impl Batches {
    fn batch(&self, index: usize) -> &[Id] {
        let end = self
            .starts
            .get(index + 1)
            .map_or(self.members.len(), |&end| end as usize);
        &self.members[self.starts[index] as usize..end]
    }
}

/// May what this attempt stored be gone? One without an acknowledgement promised nothing.
fn is_excused(ledger: &Ledger, queue: Id, attempt: &Attempt) -> bool {
    let is_acknowledged = attempt.queue != NONE;
    let claim = if is_acknowledged {
        ledger.claim(attempt)
    } else {
        Claim {
            grade: Grade::Async,
            invoked: attempt.invoked,
            ended: NEVER,
            position: None,
        }
    };
    ledger
        .budget
        .excuse(ledger.queue_info(queue).broker, claim, NEVER)
        .is_some()
}

#[cfg(test)]
mod tests {
    use crate::history::{Event, Flush, Recorded};
    use crate::story::{Story, broken};

    fn batch(flush: Flush) -> Story {
        let mut story = Story::with_flush(flush);
        story.records(Recorded::Batches).tell(Event::Batch {
            uids: vec!["a".into(), "b".into(), "c".into()],
        });
        for uid in ["a", "b", "c"] {
            story.send_lost(uid, 1);
        }
        story
    }

    #[test]
    fn a_batch_that_is_whole_or_absent_is_accepted() {
        for found in [&["x", "a", "b", "c"][..], &["x"]] {
            let mut story = batch(Flush::Sync);
            story.send("x", 0, 0).scan(0, found);
            assert_eq!(broken(&story), [] as [&str; 0]);
        }
    }

    #[test]
    fn a_batch_in_pieces_or_out_of_order_is_rejected() {
        for found in [&["a", "b", "x"][..], &["a", "x", "b", "c"], &["b", "a", "c", "x"]] {
            let mut story = batch(Flush::Sync);
            let at = found.iter().position(|&uid| uid == "x").unwrap();
            story.send("x", 0, at as i64).scan(0, found);
            assert_eq!(broken(&story), ["C29"]);
        }
    }

    #[test]
    fn the_end_of_a_batch_that_a_power_loss_may_have_cut_is_accepted() {
        let mut story = batch(Flush::Async);
        story.power_loss().scan(0, &["a", "b"]);
        assert_eq!(broken(&story), [] as [&str; 0]);
    }
}
