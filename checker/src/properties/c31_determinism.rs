//! # C31 Determinism
//!
//! **Law.** Two runs of one plan, seed and program have the same trace: the same hash after the same number of events, up to
//! the same last one.
//!
//! **Why clients depend on it.** A failure that does not come again cannot be explained, shrunk or shown to be mended.
//!
//! **Excused.** Nothing.
//!
//! **How.** The hashes of the first run are kept by number of events; each other run is held against them. Names the first
//! stretch of events in which a run differs. O(n).

use std::collections::BTreeMap;

use super::{Findings, Law, Watch, Watched};
use crate::history::{Event, Recorded};
use crate::ledger::Ledger;

pub(super) const WATCHED: Watched = Watched {
    law: Law {
        id: "C31",
        title: "two runs of one plan differ",
        needs: &[Recorded::Checkpoints],
        also: None,
    },
    watch: || Box::new(Determinism::default()),
};

#[derive(Default)]
struct Determinism {
    /// Run to number of events to time and hash.
    runs: BTreeMap<u32, BTreeMap<u64, (u64, u64)>>,
}

impl Watch for Determinism {
    fn observe(&mut self, t: u64, event: &Event, _: &mut Ledger) {
        if let Event::Checkpoint { run, events, hash } = event {
            self.runs.entry(*run).or_default().insert(*events, (t, *hash));
        }
    }

    fn judge(&mut self, _: &Ledger, findings: &mut Findings) {
        let Some((first_run, first)) = self.runs.pop_first() else {
            return;
        };
        if self.runs.is_empty() {
            let t = first.values().next().map_or(0, |at| at.0);
            findings.violation(
                t,
                format!("only run {first_run} has checkpoints: nothing to hold it against"),
            );
        }
        for (run, other) in &self.runs {
            let counts = first.keys().chain(other.keys());
            let differs = counts
                .filter(|count| first.get(count).map(|at| at.1) != other.get(count).map(|at| at.1))
                .min();
            let Some(count) = differs else { continue };
            let same = first.range(..count).next_back().map_or(0, |(&count, _)| count);
            let say = |at: Option<&(u64, u64)>| at.map_or("none".to_owned(), |&(_, hash)| format!("{hash:016x}"));
            let t = first.get(count).or(other.get(count)).map_or(0, |at| at.0);
            findings.violation(
                t,
                format!(
                    "run {run} differs from run {first_run} after event {same} and not later than event {count}: {} and {}",
                    say(other.get(count)),
                    say(first.get(count))
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::history::{Event, Recorded};
    use crate::story::{Story, broken};

    fn runs(hashes: [&[u64]; 2]) -> Story {
        let mut story = Story::new();
        story.records(Recorded::Checkpoints);
        for (run, hashes) in (1..).zip(hashes) {
            for (index, &hash) in (1..).zip(hashes) {
                let events = index * 1000;
                story.tell(Event::Checkpoint { run, events, hash });
            }
        }
        story
    }

    #[test]
    fn runs_with_the_same_hashes_are_accepted() {
        assert_eq!(broken(&runs([&[7, 8, 9], &[7, 8, 9]])), [] as [&str; 0]);
    }

    #[test]
    fn another_hash_and_an_early_end_and_a_lonely_run_are_rejected() {
        assert_eq!(broken(&runs([&[7, 8, 9], &[7, 8, 1]])), ["C31"]);
        assert_eq!(broken(&runs([&[7, 8, 9], &[7, 8]])), ["C31"]);
        assert_eq!(broken(&runs([&[7], &[]])), ["C31"]);
    }
}
