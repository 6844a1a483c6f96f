//! Which stretches of the log hold in memory what this process wrote or checked. Pure.
//!
//! Records in them are handed out as slices of the mapping; all others are copied and checked first. A stretch that was found
//! evicted comes back from the device: it has to be checked again, and so have the [`READ_BACK_SIZE`] bytes behind it, which the
//! kernel may fetch along with it. What another process makes the kernel fetch is not noticed.
//!
//! Invariant: spans do not touch or overlap.

use std::collections::BTreeMap;

/// Bytes behind an evicted one that may come back from the device unasked: the kernel's own read-ahead is seldom above 8 MiB.
pub(crate) const READ_BACK_SIZE: u64 = 16 << 20;

/// Spans remembered. Beyond it a new one is not: its records are checked each time they are read.
const SPAN_COUNT_MAX: usize = 1024;

#[derive(Debug)]
pub(crate) struct Trust {
    /// End by start.
    spans: BTreeMap<u64, u64>,
}

impl Trust {
    /// Everything from `start` on was, or will be, written or checked by this process.
    pub(crate) fn from(start: u64) -> Trust {
        Trust {
            spans: BTreeMap::from([(start, u64::MAX)]),
        }
    }

    pub(crate) fn covers(&self, start: u64, end: u64) -> bool {
        let before = self.spans.range(..=start).next_back();
        before.is_some_and(|(_, span_end)| end <= *span_end)
    }

    /// All of `[start, end)` was checked.
    pub(crate) fn add(&mut self, start: u64, end: u64) {
        if self.covers(start, end) {
            return;
        }
        let (mut start, mut end) = (start, end);
        let before = self.spans.range(..=start).next_back();
        let joins_before = before.filter(|(_, span_end)| **span_end >= start);
        let before = joins_before.map(|(span_start, _)| *span_start);
        let joins_behind = self.spans.range(start..=end).next().is_some();
        if before.is_none() && !joins_behind && self.spans.len() >= SPAN_COUNT_MAX {
            return;
        }
        if let Some(span_start) = before {
            let span_end = self.spans.remove(&span_start);
            start = span_start;
            end = end.max(span_end.unwrap_or(end));
        }
        while let Some((&span_start, &span_end)) = self.spans.range(start..=end).next() {
            self.spans.remove(&span_start);
            end = end.max(span_end);
        }
        self.spans.insert(start, end);
    }

    /// Some of `[start, end)` was found evicted, or is about to come back from the device.
    pub(crate) fn remove(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        if let Some((_, span_end)) = self.spans.range_mut(..start).next_back()
            && *span_end > start
        {
            let rest_end = std::mem::replace(span_end, start);
            if rest_end > end {
                self.spans.insert(end, rest_end);
            }
        }
        while let Some((&span_start, &span_end)) = self.spans.range(start..end).next() {
            self.spans.remove(&span_start);
            if span_end > end {
                self.spans.insert(end, span_end);
            }
        }
        if self.spans.len() > SPAN_COUNT_MAX {
            self.spans.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_become_one_span() {
        let mut trust = Trust::from(100);
        trust.add(0, 40);
        trust.add(60, 80);
        assert!(!trust.covers(0, 41));
        trust.add(40, 60);
        assert!(trust.covers(0, 80));
        trust.add(80, 100);
        assert!(trust.covers(0, u64::MAX));
        assert_eq!(trust.spans.len(), 1);
    }

    #[test]
    fn the_number_of_spans_is_bounded() {
        let mut trust = Trust::from(u64::MAX - 1);
        for index in 0..2 * SPAN_COUNT_MAX as u64 {
            trust.add(index * 10, index * 10 + 5);
        }
        assert_eq!(trust.spans.len(), SPAN_COUNT_MAX);
        trust.add(5, 10);
        assert!(trust.covers(0, 15), "what joins is taken");
        let mut trust = Trust::from(0);
        for index in 0..2 * SPAN_COUNT_MAX as u64 {
            trust.remove(index * 10, index * 10 + 5);
        }
        assert_eq!(trust.spans.len(), SPAN_COUNT_MAX);
        assert!(trust.covers(1 << 40, 1 << 41), "the newest stays");
    }

    proptest! {
        #[test]
        fn spans_are_a_set_of_bytes(steps in prop::collection::vec((any::<bool>(), 0u64..64, 0u64..16), 1..60)) {
            let mut trust = Trust::from(64);
            let mut model = [false; 64];
            for (is_add, start, size) in steps {
                let end = (start + size).min(64);
                if is_add { trust.add(start, end) } else { trust.remove(start, end) }
                model[start as usize..end as usize].fill(is_add);
                let mut last_end = None;
                for (span_start, span_end) in &trust.spans {
                    prop_assert!(last_end < Some(*span_start), "spans touch: {:?}", trust.spans);
                    last_end = Some(*span_end);
                }
                for from in 0..64 {
                    for until in from + 1..64 {
                        let expected = model[from..until].iter().all(|byte| *byte);
                        prop_assert_eq!(trust.covers(from as u64, until as u64), expected);
                    }
                }
            }
        }
    }
}
