//! What a consumer holds of one queue: which offsets are in flight and how far everything below is processed.
//!
//! Offsets enter in ascending order as they are fetched and leave in any order as they are processed. The watermark is
//! the lowest offset not yet processed, or the end of what was fetched when nothing is in flight: committing it can
//! neither skip an unprocessed message nor stay behind slots that a filter has passed over. (ProcessQueue.java)
//!
//! Invariants: offsets in flight ascend strictly and lie in `[watermark, fetched_to)`; the watermark never decreases.
//! It does no IO, and a queue that starts elsewhere (seek, reset, new assignment) is a new value.

use std::collections::VecDeque;

/// Messages in one process queue beyond which no more is fetched. Java: `pullThresholdForQueue`.
pub const MESSAGE_COUNT_MAX: usize = 1000;
/// Body bytes in one process queue beyond which no more is fetched. Java: `pullThresholdSizeForQueue` (100 MiB).
pub const SIZE_BYTES_MAX: u64 = 100 << 20;
/// Distance of the lowest and highest offset in flight beyond which no more is fetched, so that one slow message
/// bounds what a restart delivers again. Java: `consumeConcurrentlyMaxSpan`.
pub const SPAN_MAX: i64 = 2000;

/// When a process queue is full. Beyond any of these the consumer stops pulling until messages are processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowLimits {
    pub message_count: usize,
    pub size_bytes: u64,
    /// `None` for orderly consumption, where the span cannot exceed the count of messages by reordering.
    pub span: Option<i64>,
}

impl Default for FlowLimits {
    fn default() -> FlowLimits {
        FlowLimits {
            message_count: MESSAGE_COUNT_MAX,
            size_bytes: SIZE_BYTES_MAX,
            span: Some(SPAN_MAX),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    offset: i64,
    size_bytes: u32,
    is_processed: bool,
}

/// Offsets in flight and watermark of one assigned queue.
#[derive(Debug)]
pub struct ProcessQueue {
    slots: VecDeque<Slot>,
    in_flight_count: usize,
    in_flight_bytes: u64,
    fetched_to: i64,
}

impl ProcessQueue {
    /// An empty queue whose first fetch starts at `start_offset`.
    pub fn new(start_offset: i64) -> ProcessQueue {
        ProcessQueue {
            slots: VecDeque::new(),
            in_flight_count: 0,
            in_flight_bytes: 0,
            fetched_to: start_offset,
        }
    }

    /// Takes the messages of one fetch, `(offset, size)` in ascending order, and the offset at which the next fetch
    /// starts. Everything before it that is not among `messages` was filtered out or does not exist.
    pub fn fetched(&mut self, messages: impl IntoIterator<Item = (i64, u32)>, next_offset: i64) {
        assert!(next_offset >= self.fetched_to, "a fetch does not go back");
        let mut lowest_allowed = self.fetched_to;
        for (offset, size_bytes) in messages {
            assert!(offset >= lowest_allowed, "offsets ascend within a fetch");
            assert!(offset < next_offset, "a fetch ends after its messages");
            lowest_allowed = offset + 1;
            self.slots.push_back(Slot {
                offset,
                size_bytes,
                is_processed: false,
            });
            self.in_flight_count += 1;
            self.in_flight_bytes += u64::from(size_bytes);
        }
        self.fetched_to = next_offset;
    }

    /// Marks `offset` as processed. Unknown or already processed offsets change nothing.
    pub fn processed(&mut self, offset: i64) {
        let Ok(position) = self.slots.binary_search_by_key(&offset, |slot| slot.offset) else {
            return;
        };
        let slot = &mut self.slots[position];
        if slot.is_processed {
            return;
        }
        slot.is_processed = true;
        self.in_flight_count -= 1;
        self.in_flight_bytes -= u64::from(slot.size_bytes);
        while self.slots.front().is_some_and(|slot| slot.is_processed) {
            self.slots.pop_front();
        }
    }

    /// The offset to commit: everything below it is processed.
    pub fn watermark(&self) -> i64 {
        self.slots.front().map_or(self.fetched_to, |slot| slot.offset)
    }

    /// Behind the highest offset that is processed, whatever lies below: what must not be committed, for a seeded defect.
    pub(super) fn highest_processed(&self) -> i64 {
        let processed = self.slots.iter().rev().find(|slot| slot.is_processed);
        processed.map_or(self.watermark(), |slot| slot.offset + 1)
    }

    /// Where the next fetch starts.
    pub fn fetched_to(&self) -> i64 {
        self.fetched_to
    }

    /// Messages fetched and not yet processed.
    pub fn in_flight_count(&self) -> usize {
        self.in_flight_count
    }

    pub fn is_full(&self, limits: &FlowLimits) -> bool {
        self.in_flight_count >= limits.message_count
            || self.in_flight_bytes >= limits.size_bytes
            || limits.span.is_some_and(|span| self.span() > span)
    }

    fn span(&self) -> i64 {
        match (self.slots.front(), self.slots.back()) {
            (Some(first), Some(last)) => last.offset - first.offset,
            _ => 0,
        }
    }

    /// Panics if the queue contradicts itself.
    pub fn check_invariants(&self) {
        let in_flight = || self.slots.iter().filter(|slot| !slot.is_processed);
        assert_eq!(in_flight().count(), self.in_flight_count);
        assert_eq!(
            in_flight().map(|slot| u64::from(slot.size_bytes)).sum::<u64>(),
            self.in_flight_bytes
        );
        assert!(self.slots.iter().is_sorted_by(|a, b| a.offset < b.offset));
        assert!(self.slots.iter().all(|slot| slot.offset < self.fetched_to));
        assert!(self.slots.front().is_none_or(|slot| !slot.is_processed));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn watermark_waits_for_the_lowest_offset() {
        let mut queue = ProcessQueue::new(10);
        assert_eq!(queue.watermark(), 10);
        queue.fetched([(10, 1), (11, 1), (12, 1)], 13);
        queue.processed(12);
        queue.processed(11);
        assert_eq!(queue.watermark(), 10);
        queue.processed(10);
        assert_eq!(queue.watermark(), 13);
    }

    #[test]
    fn watermark_passes_filtered_slots_once_nothing_is_in_flight() {
        let mut queue = ProcessQueue::new(0);
        queue.fetched([(3, 1)], 10);
        assert_eq!(queue.watermark(), 3);
        queue.fetched([], 20);
        assert_eq!(queue.watermark(), 3);
        queue.processed(3);
        assert_eq!(queue.watermark(), 20);
    }

    #[test]
    fn processing_twice_or_a_stranger_changes_nothing() {
        let mut queue = ProcessQueue::new(0);
        queue.fetched([(0, 5), (1, 5)], 2);
        queue.processed(1);
        queue.processed(1);
        queue.processed(7);
        assert_eq!((queue.watermark(), queue.in_flight_count()), (0, 1));
        queue.check_invariants();
    }

    #[test]
    fn it_is_full_by_count_by_bytes_or_by_span() {
        let limits = FlowLimits {
            message_count: 3,
            size_bytes: 100,
            span: Some(10),
        };
        let mut queue = ProcessQueue::new(0);
        queue.fetched([(0, 1), (1, 1)], 2);
        assert!(!queue.is_full(&limits));
        queue.fetched([(2, 1)], 3);
        assert!(queue.is_full(&limits));
        let mut queue = ProcessQueue::new(0);
        queue.fetched([(0, 100)], 1);
        assert!(queue.is_full(&limits));
        let mut queue = ProcessQueue::new(0);
        queue.fetched([(0, 1), (11, 1)], 12);
        assert!(queue.is_full(&limits));
        assert!(!queue.is_full(&FlowLimits { span: None, ..limits }));
    }

    proptest! {
        #[test]
        fn watermark_is_the_lowest_unprocessed_offset_and_never_decreases(
            steps in prop::collection::vec((0u8..3, 0i64..40, 1i64..6), 0..120),
        ) {
            let mut queue = ProcessQueue::new(0);
            let mut model: BTreeSet<i64> = BTreeSet::new();
            let mut highest = 0;
            for (kind, pick, width) in steps {
                let before = queue.watermark();
                if kind == 0 {
                    let offsets: Vec<i64> = (highest..highest + width).filter(|offset| offset % 3 != 1).collect();
                    highest += width;
                    model.extend(&offsets);
                    queue.fetched(offsets.iter().map(|offset| (*offset, 7)), highest);
                } else if let Some(offset) = model.iter().nth(pick as usize % model.len().max(1)).copied() {
                    model.remove(&offset);
                    queue.processed(offset);
                }
                queue.check_invariants();
                prop_assert!(queue.watermark() >= before);
                prop_assert_eq!(queue.watermark(), model.first().copied().unwrap_or(highest));
                prop_assert_eq!(queue.in_flight_count(), model.len());
            }
        }
    }
}
