//! # C19 Delay
//!
//! **Law.** A delayed message is delivered not before its due time (less `delay_precision_ms`) and, without faults, not later than
//! `delay_bound_ms` after it; it is not lost; one that was cancelled is not delivered afterwards.
//! Source: `ScheduleMessageService`, `TimerMessageStore` (precision 1 s).
//!
//! **Why clients depend on it.** "Cancel the order if it is not paid in half an hour": too early is wrong, too late costs money.
//!
//! **Excused.** Early: runs in which a clock was moved. Late: runs with any fault. Lost: after a power loss or on a lost disk, before the
//! due time and its bound are over, and if retention has cut a queue. A crash may store a message once more (C03 judges the others).
//!
//! **How.** One entry for each delayed message, its first delivery from the deliveries. O(n).

use std::collections::{BTreeMap, BTreeSet};

use super::{Findings, Law, Watch, Watched, seconds};
use crate::history::{Event, FaultKind, FaultPhase, Recorded};
use crate::ledger::{Ledger, NEVER};
use crate::names::Id;

pub(super) const WATCHED: Watched = Watched {
    law: Law {
        id: "C19",
        title: "delayed message early, late or lost",
        needs: &[
            Recorded::Sends,
            Recorded::Deliveries,
            Recorded::Faults,
            Recorded::Delays,
        ],
        also: None,
    },
    watch: || Box::new(Delays::default()),
};

#[derive(Default)]
struct Delays {
    delayed: BTreeMap<Id, Delay>,
    clocks_moved: bool,
    may_be_lost: bool,
}

struct Delay {
    due: u64,
    cancelled: u64,
    delivered: u64,
}

impl Watch for Delays {
    fn observe(&mut self, t: u64, event: &Event, ledger: &mut Ledger) {
        match event {
            Event::Delayed { uid, due } => {
                let delay = Delay {
                    due: *due,
                    cancelled: NEVER,
                    delivered: NEVER,
                };
                self.delayed.insert(ledger.uid(uid), delay);
            }
            Event::DelayCancelled { uid } => {
                if let Some(delay) = self.delayed.get_mut(&ledger.uid(uid)) {
                    delay.cancelled = delay.cancelled.min(t);
                }
            }
            Event::Fault {
                fault,
                phase: FaultPhase::Begin,
                ..
            } => {
                self.clocks_moved |= matches!(fault, FaultKind::ClockStep | FaultKind::ClockDrift);
                self.may_be_lost |= matches!(fault, FaultKind::PowerLoss | FaultKind::DiskLost);
                if matches!(fault, FaultKind::Kill | FaultKind::PowerLoss) {
                    // What was about to be moved to its topic may be moved again.
                    let bound_ns = ledger.limits.delay_bound_ms.saturating_mul(1_000_000);
                    for (&uid, _) in self
                        .delayed
                        .iter()
                        .filter(|(_, delay)| delay.due.saturating_add(bound_ns) >= t)
                    {
                        ledger.allow_another_slot(uid);
                    }
                }
            }
            _ => {}
        }
    }

    fn judge(&mut self, ledger: &Ledger, findings: &mut Findings) {
        for delivery in &ledger.deliveries {
            if let Some(delay) = self.delayed.get_mut(&delivery.uid) {
                delay.delivered = delay.delivered.min(delivery.started);
                if delivery.started > delay.cancelled {
                    let text = format!(
                        "{} is delivered to {}, though it was cancelled at {}",
                        ledger.uid_name(delivery.uid),
                        ledger.text(delivery.group),
                        seconds(delay.cancelled)
                    );
                    findings.violation(delivery.started, text);
                    // Said once.
                    delay.cancelled = NEVER;
                }
            }
        }
        let scanned: Option<(u64, BTreeSet<Id>)> = (ledger.scan_complete == Some(true)).then(|| {
            let entries = ledger.scans.values().flat_map(|scan| &scan.entries);
            let found = entries
                .map(|entry| entry.uid)
                .filter(|uid| self.delayed.contains_key(uid))
                .collect();
            (ledger.scans.values().map(|scan| scan.t).min().unwrap_or(0), found)
        });
        let may_be_gone = self.may_be_lost || ledger.scans.values().any(|scan| scan.min > 0);
        let ns = |ms: u64| ms.saturating_mul(1_000_000);
        let (precision, bound) = (ns(ledger.limits.delay_precision_ms), ns(ledger.limits.delay_bound_ms));
        for (&uid, delay) in &self.delayed {
            let (name, latest) = (ledger.uid_name(uid), delay.due.saturating_add(bound));
            let delivered = delay.delivered;
            if delivered < delay.due.saturating_sub(precision) && !self.clocks_moved {
                let text = format!(
                    "{name} is delivered at {}, due at {}",
                    seconds(delivered),
                    seconds(delay.due)
                );
                findings.violation(delivered, text);
            } else if delivered != NEVER && delivered > latest && ledger.faults == 0 {
                let text = format!(
                    "{name} is delivered only at {}, due at {}, in a run without faults",
                    seconds(delivered),
                    seconds(delay.due)
                );
                findings.violation(delivered, text);
            }
            if let Some((t, found)) = &scanned {
                let is_over = delivered == NEVER && delay.cancelled == NEVER && *t > latest;
                if is_over && !may_be_gone && !found.contains(&uid) {
                    findings.violation(*t, format!("{name}, due at {}, is lost", seconds(delay.due)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::history::{Event, FaultKind, Recorded};
    use crate::story::{Story, broken};

    /// The message `a`, due 20 s after the beginning, delivered at this second if at all.
    fn delayed(delivered: Option<u64>) -> Story {
        let mut story = Story::new();
        story.records(Recorded::Delays).invoke("a").tell(Event::Delayed {
            uid: "a".into(),
            due: 20_000_000_000,
        });
        if let Some(second) = delivered {
            story.wait_ms(second * 1000).deliver("g", "c1", 0, 0, "a");
        }
        story
    }

    #[test]
    fn a_message_at_its_time_is_accepted() {
        assert_eq!(broken(&delayed(Some(21))), [] as [&str; 0]);
    }

    #[test]
    fn too_early_is_rejected_unless_a_clock_was_moved() {
        let mut story = delayed(Some(10));
        assert_eq!(broken(&story), ["C19"]);
        story.fault(FaultKind::ClockStep, "b");
        assert_eq!(broken(&story), [] as [&str; 0]);
    }

    #[test]
    fn too_late_is_rejected_in_a_run_without_faults() {
        let mut story = delayed(Some(40));
        assert_eq!(broken(&story), ["C19"]);
        story.kill();
        assert_eq!(broken(&story), [] as [&str; 0]);
    }

    #[test]
    fn a_message_that_is_nowhere_is_rejected_when_its_time_is_over() {
        for (ms, laws) in [(60_000, &["C19"][..]), (5_000, &[])] {
            let mut story = delayed(None);
            story.wait_ms(ms).send("b", 0, 0).scan(0, &["b"]);
            assert_eq!(broken(&story), laws);
        }
    }

    #[test]
    fn a_cancelled_message_that_is_delivered_is_rejected() {
        let mut story = delayed(None);
        story.tell(Event::DelayCancelled { uid: "a".into() }).wait_ms(20_000);
        story.deliver("g", "c1", 0, 0, "a");
        assert_eq!(broken(&story), ["C19"]);
    }

    #[test]
    fn a_crash_may_store_it_twice() {
        for (is_killed, laws) in [(true, &[][..]), (false, &["C03"])] {
            let mut story = delayed(None);
            if is_killed {
                story.kill();
            }
            story.wait_ms(20_000).deliver("g", "c1", 0, 0, "a").scan(0, &["a", "a"]);
            assert_eq!(broken(&story), laws);
        }
    }
}
