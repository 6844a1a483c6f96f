//! # C09 Skip
//!
//! **Law.** Within a session, fetching passes over no message: between the end of one fetch and the beginning of the next,
//! and between the first and the last offset of one fetch, every stored message that the group subscribes to is fetched.
//! Source: `DefaultMessageStore.getMessage`, `PullAPIWrapper`; Jepsen's poll-skip.
//!
//! **Why clients depend on it.** What a consumer steps over is never delivered to anyone: its commits go past it.
//!
//! **Excused.** A slot that the final scan does not find (retention, a declared gap, a loss inside the budget: C04 and C05
//! judge those); one that was acknowledged only after the fetch, or never (an in-budget loss may bind a slot again); a
//! message that the subscription does not take; everything after a seek until the next fetch. Queues that are not
//! scanned are not judged.
//!
//! **How.** Each session's position is kept; only a fetch that leaves something out is remembered, and held against the final
//! scan. O(n log n).

use std::collections::HashMap;

use super::{Findings, Law, Watch, Watched};
use crate::history::{Event, Recorded};
use crate::ledger::{Ledger, Outcome};
use crate::names::{Id, NONE};

pub(super) const WATCHED: Watched = Watched {
    law: Law {
        id: "C09",
        title: "skip",
        needs: &[Recorded::Sends, Recorded::Sessions, Recorded::Fetches, Recorded::Scan],
        also: None,
    },
    watch: || Box::new(Skip::default()),
};

#[derive(Default)]
struct Skip {
    /// Next offset of each open session.
    positions: HashMap<u32, i64>,
    left_out: Vec<LeftOut>,
}

/// A fetch that returned less than it passed over.
struct LeftOut {
    t: u64,
    session: u32,
    from: i64,
    next: i64,
    /// Messages that it returned from there.
    count: u32,
}

impl Watch for Skip {
    fn observe(&mut self, t: u64, event: &Event, ledger: &mut Ledger) {
        match event {
            Event::SessionOpen { session, start, .. } => {
                if let Some(index) = ledger.open_session(session) {
                    self.positions.insert(index, *start);
                }
            }
            Event::SessionClose { session } | Event::Seek { session, .. } => {
                if let Some(index) = ledger.open_session(session) {
                    self.positions.remove(&index);
                }
            }
            Event::Fetch {
                session,
                from,
                next,
                count,
            } => {
                let Some(session) = ledger.open_session(session) else {
                    return;
                };
                let expected = self.positions.insert(session, *next).unwrap_or(*from);
                let mut leave_out = |from: i64, next: i64, count: u32| {
                    if next - from > i64::from(count) {
                        self.left_out.push(LeftOut {
                            t,
                            session,
                            from,
                            next,
                            count,
                        });
                    }
                };
                leave_out(expected, *from, 0);
                leave_out(*from, *next, *count);
            }
            _ => {}
        }
    }

    fn judge(&mut self, ledger: &Ledger, findings: &mut Findings) {
        if self.left_out.is_empty() || ledger.scan_complete != Some(true) {
            return;
        }
        let acknowledged: HashMap<(Id, i64), (Id, u64)> = ledger
            .attempts
            .iter()
            .filter(|attempt| matches!(attempt.outcome, Outcome::Ok(_)))
            .map(|attempt| ((attempt.queue, attempt.offset), (attempt.uid, attempt.ended)))
            .collect();
        for left_out in &self.left_out {
            let session = ledger.sessions[left_out.session as usize];
            let Some(scan) = ledger.scans.get(&session.queue) else {
                continue;
            };
            let group = ledger.group(session.group);
            let first = scan.entries.partition_point(|entry| entry.offset < left_out.from);
            let passed = scan.entries[first..]
                .iter()
                .take_while(|entry| entry.offset < left_out.next);
            let owed: Vec<i64> = passed
                .filter(|entry| entry.uid != NONE && !ledger.is_gap(session.queue, entry.offset))
                .filter(|entry| group.is_none_or(|group| ledger.subscribes(group, entry.print.tag)))
                .filter(|entry| {
                    let holder = acknowledged.get(&(session.queue, entry.offset));
                    holder.is_some_and(|&(uid, ended)| uid == entry.uid && ended <= left_out.t)
                })
                .map(|entry| entry.offset)
                .collect();
            if owed.len() > left_out.count as usize {
                findings.violation(
                    left_out.t,
                    format!(
                        "session {} of {} on {} passes from offset {} to {} with {} message(s), but had to get {} between {} and {}",
                        ledger.text(session.name),
                        ledger.text(session.group),
                        ledger.queue_name(session.queue),
                        left_out.from,
                        left_out.next,
                        left_out.count,
                        owed.len(),
                        owed[0],
                        owed[owed.len() - 1]
                    ),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::history::Event;
    use crate::story::{Story, broken};

    fn sent() -> Story {
        let mut story = Story::new();
        story.send("a", 0, 0).send("b", 0, 1).send("c", 0, 2);
        story.open("s1", "g", "c1", 0, 0).fetch("s1", 0, 1);
        story
    }

    #[test]
    fn a_session_that_fetches_every_slot_is_accepted() {
        let mut story = sent();
        story.fetch("s1", 1, 3).scan(0, &["a", "b", "c"]);
        assert_eq!(broken(&story), [] as [&str; 0]);
    }

    #[test]
    fn a_fetch_that_begins_behind_the_last_one_is_rejected_unless_told_to_seek() {
        let mut story = sent();
        story.fetch("s1", 2, 3).scan(0, &["a", "b", "c"]);
        assert_eq!(broken(&story), ["C09"]);

        let mut told = sent();
        told.seek("s1", 2).fetch("s1", 2, 3).scan(0, &["a", "b", "c"]);
        assert_eq!(broken(&told), [] as [&str; 0]);
    }

    #[test]
    fn a_fetch_that_leaves_out_a_message_is_rejected_unless_nobody_wants_it() {
        for (tags, laws) in [(None, &["C09"][..]), (Some(vec!["X".to_owned()]), &[])] {
            let mut story = sent();
            story.history.header.groups[0].tags = tags;
            story.tell(Event::Fetch {
                session: "s1".into(),
                from: 1,
                next: 3,
                count: 1,
            });
            story.scan(0, &["a", "b", "c"]);
            assert_eq!(broken(&story), laws);
        }
    }

    #[test]
    fn a_slot_that_was_bound_after_the_fetch_or_is_gone_is_accepted() {
        let mut story = Story::new();
        story.send("a", 0, 0).open("s1", "g", "c1", 0, 0).fetch("s1", 0, 1);
        story.fetch("s1", 2, 2).send("b", 0, 1).scan(0, &["a", "b"]);
        assert_eq!(broken(&story), [] as [&str; 0]);

        let mut gone = sent();
        gone.fetch("s1", 2, 3).gap(0, 1).scan(0, &["a", "-", "c"]);
        assert!(!broken(&gone).contains(&"C09".to_owned()));
    }
}
