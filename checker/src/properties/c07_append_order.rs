//! # C07 Append not linearizable
//!
//! **Law.** Within a queue, offsets follow real time: if one send was acknowledged before another was invoked, it has the
//! lower offset.
//!
//! **Why clients depend on it.** A producer that waits for each acknowledgement relies on order; so does everyone who
//! orders events through a common queue.
//!
//! **How.** Sort the sends of a queue by offset and walk backwards with the least return time of the higher offsets. A
//! violation is a send invoked after some higher offset had returned. Greedy points `max(inv(k), k <= i)` are a linearization exactly if
//! every `inv(k) <= ret(i)` for k <= i, so with C02, C03 and C04 this one pass is linearizability of append. A send without an
//! answer that the scan finds takes part with an infinite return. O(n log n).

use super::{Findings, Law, Property, seconds};
use crate::history::Recorded;
use crate::ledger::{Ledger, NEVER, Outcome};
use crate::names::{Id, NONE};

pub(super) const PROPERTY: Property = Property {
    law: Law {
        id: "C07",
        title: "append not linearizable",
        needs: &[Recorded::Sends],
        also: None,
    },
    check,
};

/// A send that holds a slot.
#[derive(Clone, Copy, Debug)]
struct Append {
    queue: Id,
    offset: i64,
    uid: Id,
    invoked: u64,
    returned: u64,
}

fn check(ledger: &Ledger, findings: &mut Findings) {
    let mut appends = appends(ledger);
    appends.sort_by_key(|append| (append.queue, append.offset, append.returned));
    // An acknowledged slot found again by the scan is one append, not two.
    appends.dedup_by_key(|append| (append.queue, append.offset));
    for queue in appends.chunk_by(|a, b| a.queue == b.queue) {
        for (early, late) in out_of_order(queue) {
            findings.violation(
                early.invoked,
                format!(
                    "{}: {} was acknowledged at offset {} at {}, then {}, invoked at {}, got offset {}",
                    ledger.queue_name(late.queue),
                    ledger.uid_name(late.uid),
                    late.offset,
                    seconds(late.returned),
                    ledger.uid_name(early.uid),
                    seconds(early.invoked),
                    early.offset
                ),
            );
        }
    }
}

/// Pairs (lower offset, higher offset) of which the higher returned before the lower was invoked. `queue` is sorted by
/// offset.
fn out_of_order(queue: &[Append]) -> Vec<(Append, Append)> {
    let mut pairs = Vec::new();
    let mut first_returned: Option<Append> = None;
    for &append in queue.iter().rev() {
        if let Some(higher) = first_returned.filter(|higher| higher.returned < append.invoked) {
            pairs.push((append, higher));
        }
        if first_returned.is_none_or(|higher| append.returned < higher.returned) {
            first_returned = Some(append);
        }
    }
    pairs
}

/// What is in the final lineage: with a scan, what it found; without, what was acknowledged and has no excuse to be gone.
fn appends(ledger: &Ledger) -> Vec<Append> {
    let scanned = ledger.scan_complete == Some(true);
    let stays = |attempt: &crate::ledger::Attempt| match ledger.scans.get(&attempt.queue) {
        Some(scan) if scanned => scan.at(attempt.offset) == Some(attempt.uid),
        _ => {
            let broker = ledger.queue_info(attempt.queue).broker;
            ledger.budget.excuse(broker, ledger.claim(attempt), NEVER).is_none()
        }
    };
    let acknowledged = ledger
        .attempts
        .iter()
        .filter(|attempt| matches!(attempt.outcome, Outcome::Ok(_)) && stays(attempt))
        .map(|attempt| Append {
            queue: attempt.queue,
            offset: attempt.offset,
            uid: attempt.uid,
            invoked: attempt.invoked,
            returned: attempt.ended,
        });
    let found = ledger.scans.iter().flat_map(|(&queue, scan)| {
        scan.entries
            .iter()
            .filter(move |entry| entry.uid != NONE && !ledger.queue_info(queue).system)
            .map(move |entry| Append {
                queue,
                offset: entry.offset,
                uid: entry.uid,
                invoked: ledger.messages[entry.uid as usize].unknown_since,
                returned: NEVER,
            })
            .filter(|append| append.invoked != NEVER)
    });
    acknowledged.chain(found).collect()
}

#[cfg(test)]
mod tests {
    use super::{Append, out_of_order};
    use crate::story::{Story, broken};

    #[test]
    fn concurrent_sends_in_any_order_are_accepted() {
        let mut story = Story::new();
        story
            .invoke("a")
            .invoke("b")
            .acknowledge("a", 0, 1)
            .acknowledge("b", 0, 0);
        assert_eq!(broken(&story), [] as [&str; 0]);
    }

    #[test]
    fn a_later_send_with_a_lower_offset_is_rejected() {
        let mut story = Story::new();
        story.send("a", 0, 1).send("b", 0, 0);
        assert_eq!(broken(&story), ["C07"]);
    }

    #[test]
    fn an_unanswered_send_found_below_an_earlier_acknowledgement_is_rejected() {
        let mut story = Story::new();
        story.send("a", 0, 1).send_lost("b", 1).scan(0, &["b", "a"]);
        assert_eq!(broken(&story), ["C07"]);
    }

    /// Tries every order that respects real time against a queue that counts from 0.
    fn is_linearizable(appends: &[Append]) -> bool {
        fn place(placed: u32, count: usize, appends: &[Append]) -> bool {
            let waits = |index: usize| placed & (1 << index) == 0;
            let may_come_now = |index: usize| {
                (0..appends.len()).all(|other| !waits(other) || appends[other].returned >= appends[index].invoked)
            };
            count == appends.len()
                || (0..appends.len()).any(|index| {
                    waits(index)
                        && may_come_now(index)
                        && appends[index].offset == count as i64
                        && place(placed | (1 << index), count + 1, appends)
                })
        }
        place(0, 0, appends)
    }

    fn append(index: usize, invoked: u64, returned: u64) -> Append {
        Append {
            queue: 0,
            offset: index as i64,
            uid: index as u32,
            invoked,
            returned,
        }
    }

    #[test]
    fn one_backward_pass_agrees_with_a_search_on_every_history_of_four_appends() {
        // All histories of four appends over six instants, ties and missing answers included: each append is an interval.
        let intervals: Vec<(u64, u64)> = (0..6)
            .flat_map(|from| (from + 1..=6).map(move |to| (from, if to == 6 { u64::MAX } else { to })))
            .collect();
        let mut count = [0, 0];
        for code in 0..intervals.len().pow(4) {
            let appends: Vec<Append> = (0..4)
                .map(|index| {
                    let (invoked, returned) = intervals[code / intervals.len().pow(index) % intervals.len()];
                    append(index as usize, invoked, returned)
                })
                .collect();
            let linearizable = is_linearizable(&appends);
            assert_eq!(out_of_order(&appends).is_empty(), linearizable, "{appends:?}");
            count[usize::from(linearizable)] += 1;
        }
        assert!(count[0] > 1000);
        assert!(count[1] > 1000);
    }

    /// Calls `judge` with every order in time of the beginnings and ends of the appends.
    fn each_order(times: &mut Vec<(u64, u64)>, at: u64, judge: &mut impl FnMut(&[(u64, u64)])) {
        if times.iter().all(|&(_, returned)| returned != 0) {
            return judge(times);
        }
        for index in 0..times.len() {
            let before = times[index];
            match before {
                (0, _) => times[index].0 = at,
                (_, 0) => times[index].1 = at,
                _ => continue,
            }
            each_order(times, at + 1, judge);
            times[index] = before;
        }
    }

    #[test]
    fn one_backward_pass_agrees_with_a_search_on_every_history_of_five_and_on_many_of_up_to_eight() {
        let mut count = [0, 0];
        let mut judge = |times: &[(u64, u64)]| {
            let appends: Vec<Append> = times
                .iter()
                .enumerate()
                .map(|(index, &(inv, ret))| append(index, inv, ret))
                .collect();
            let linearizable = is_linearizable(&appends);
            assert_eq!(out_of_order(&appends).is_empty(), linearizable, "{appends:?}");
            count[usize::from(linearizable)] += 1;
        };
        for appends in 1..=5 {
            each_order(&mut vec![(0, 0); appends], 1, &mut judge);
        }
        // Near the order of the offsets, or none would be linearizable.
        let mut seed = 1u64;
        let mut draw = |below: u64| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for appends in 6..=8 {
            for _ in 0..30_000 {
                let times: Vec<(u64, u64)> = (0..appends)
                    .map(|index| {
                        let invoked = 3 * index + draw(8);
                        let length = 1 + draw(12);
                        (invoked, if length == 12 { u64::MAX } else { invoked + length })
                    })
                    .collect();
                judge(&times);
            }
        }
        assert!(count[0] > 10_000 && count[1] > 10_000, "{count:?}");
    }
}
