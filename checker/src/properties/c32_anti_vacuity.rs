//! # C32 Anti-vacuity
//!
//! **Law.** A run in which too little happened says nothing: its verdict is inconclusive, never held.
//!
//! **Why clients depend on it.** Silence is the commonest way in which a test passes.
//!
//! **How.** Compare the counts with what the header requires; demand the scan, the drain and the reading of stores that it announces. O(1).

use crate::history::{Recorded, Required};
use crate::ledger::Ledger;

/// What is missing for a verdict.
pub(crate) fn missing(ledger: &Ledger, required: &Required) -> Vec<String> {
    let counts = &ledger.counts;
    let mut missing = Vec::new();
    let mut at_least = |what: &str, found: u64, wanted: u64| {
        if found < wanted {
            missing.push(format!("{found} {what}, at least {wanted} required"));
        }
    };
    at_least("acknowledgements", counts.acks, required.acks);
    at_least("deliveries", counts.deliveries, required.deliveries);
    at_least("faults with effect", counts.fault_effects, required.fault_effects);
    if ledger.is_recorded(Recorded::Scan) && ledger.scan_complete != Some(true) {
        missing.push("the final scan is not complete".to_owned());
    }
    if ledger.is_recorded(Recorded::Drain) && !ledger.drained {
        missing.push("the consumers were not drained".to_owned());
    }
    if ledger.is_recorded(Recorded::Stores) {
        let is_read = |broker: &str| {
            let mut snapshots = ledger.snapshots.iter();
            snapshots.any(|snapshot| snapshot.is_complete && snapshot.broker == broker)
        };
        let unread = ledger.brokers.iter().filter(|broker| !is_read(&broker.name));
        missing.extend(unread.map(|broker| format!("{} was not read after a stop in order", broker.name)));
    }
    missing.extend(ledger.malformed.iter().take(5).map(|what| format!("malformed: {what}")));
    missing
}

#[cfg(test)]
mod tests {
    use crate::Verdict;
    use crate::story::{Story, report};

    #[test]
    fn a_run_with_enough_of_everything_is_held() {
        let mut story = Story::new();
        story.send("a", 0, 0).deliver("g", "c1", 0, 0, "a");
        assert_eq!(report(&story).verdict, Verdict::Held);
    }

    #[test]
    fn a_run_in_which_nothing_happened_is_inconclusive() {
        let story = Story::new();
        assert!(matches!(report(&story).verdict, Verdict::Inconclusive(_)));
    }

    #[test]
    fn an_interrupted_scan_is_inconclusive() {
        let mut story = Story::new();
        story
            .send("a", 0, 0)
            .deliver("g", "c1", 0, 0, "a")
            .scan(0, &["a"])
            .interrupt_scan();
        assert!(matches!(report(&story).verdict, Verdict::Inconclusive(_)));
    }
}
