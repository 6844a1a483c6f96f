//! What a pull gives, decided entry by entry. Pure: what is in memory and what is not is the driver's business.

use std::ops::ControlFlow;

use super::layout::Entry;
use super::{Bounds, GetRequest, GetStatus, Got, TransferLimit};

/// A record that a pull gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Picked {
    pub(super) offset: i64,
    pub(super) start: u64,
    pub(super) size: u32,
}

impl Picked {
    pub(super) fn end(&self) -> u64 {
        self.start + u64::from(self.size)
    }
}

/// Where records can be now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    pub(super) log_start: u64,
    pub(super) confirmed: u64,
    /// Entries below this offset were in the queue before `confirmed` was read: the records that they name end at or below it.
    pub(super) shown: i64,
    /// Of a log file: no record crosses a multiple of it.
    pub(super) file_size: u64,
}

/// Decides entry by entry what a pull gives.
#[derive(Debug)]
pub(super) struct Selection<'a> {
    pub(super) request: &'a GetRequest<'a>,
    limit: TransferLimit,
    reach: Reach,
    pub(super) next_offset: i64,
    removed: bool,
    /// In order of their offsets. Neighbours in the queue need not be neighbours in the log.
    pub(super) picked: Vec<Picked>,
    bytes: usize,
}

impl<'a> Selection<'a> {
    pub(super) fn new(request: &'a GetRequest<'a>, limit: TransferLimit, reach: Reach) -> Selection<'a> {
        let count = limit.count.min(request.max_count).max(1);
        Selection {
            request,
            limit: TransferLimit {
                count,
                bytes: limit.bytes.min(request.max_bytes),
            },
            reach,
            next_offset: request.offset,
            removed: false,
            picked: Vec::new(),
            bytes: 0,
        }
    }

    /// Takes the entry, steps over it, or ends the pull before it.
    pub(super) fn offer(&mut self, offset: i64, entry: Entry, is_damaged: bool) -> ControlFlow<()> {
        let size = entry.size.max(0) as usize;
        let crosses = entry.physical % self.reach.file_size + size as u64 > self.reach.file_size;
        let is_beyond = entry.end() > self.reach.confirmed;
        let is_rotten = crosses || is_beyond && offset < self.reach.shown;
        if entry.is_filler() || is_damaged || is_rotten {
            self.next_offset = offset + 1;
            return ControlFlow::Continue(());
        }
        if entry.physical < self.reach.log_start {
            self.removed = true;
            self.next_offset = offset + 1;
            return ControlFlow::Continue(());
        }
        if is_beyond {
            return ControlFlow::Break(());
        }
        if !self.request.filter.passes(entry.tags_code) {
            self.next_offset = offset + 1;
            return ControlFlow::Continue(());
        }
        if !self.picked.is_empty() && self.is_full(self.picked.len(), self.bytes + size) {
            return ControlFlow::Break(());
        }
        if self.picked.is_empty() {
            self.picked.reserve_exact(self.limit.count.min(64));
        }
        self.picked.push(Picked {
            offset,
            start: entry.physical,
            size: size as u32,
        });
        self.next_offset = offset + 1;
        self.bytes += size;
        if self.picked.len() >= self.limit.count {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn is_full(&self, count_before: usize, bytes: usize) -> bool {
        count_before >= self.limit.count || bytes > self.limit.bytes
    }

    /// Keeps the first `count` records, if there are more: the pull ends before the next one.
    pub(super) fn keep(&mut self, count: usize) {
        if let Some(first_left) = self.picked.get(count) {
            self.next_offset = first_left.offset;
            self.picked.truncate(count);
            self.bytes = self.picked.iter().map(|record| record.size as usize).sum();
        }
    }

    /// Keeps what a tighter limit allows; at least one record.
    pub(super) fn keep_within(&mut self, limit: TransferLimit) {
        self.limit.count = self.limit.count.min(limit.count).max(1);
        self.limit.bytes = self.limit.bytes.min(limit.bytes);
        let mut bytes = 0;
        let fits = self.picked.iter().enumerate().take_while(|(index, record)| {
            bytes += record.size as usize;
            *index == 0 || !self.is_full(*index, bytes)
        });
        let count = fits.count();
        self.keep(count);
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the pull came to nothing at all, not even a step.
    pub(super) fn is_untouched(&self) -> bool {
        self.next_offset == self.request.offset
    }

    fn status(&self, count: usize) -> GetStatus {
        if count > 0 {
            GetStatus::Found
        } else if self.is_untouched() {
            GetStatus::OffsetFoundNull
        } else if self.removed && self.picked.is_empty() {
            GetStatus::MessageWasRemoving
        } else {
            GetStatus::NoMatchedMessage
        }
    }

    /// The answer, with those records of the selection that were good.
    pub(super) fn got(&self, bounds: Bounds, taken: Taken) -> Got {
        Got {
            status: self.status(taken.count),
            next_offset: self.next_offset,
            bounds,
            chunks: taken.chunks,
            count: taken.count,
            bytes: taken.bytes,
        }
    }
}

/// Records to be handed out.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) chunks: Vec<bytes::Bytes>,
    pub(super) count: usize,
    pub(super) bytes: usize,
}

impl Taken {
    pub(super) fn put(&mut self, chunk: bytes::Bytes) {
        if !chunk.is_empty() {
            self.bytes += chunk.len();
            self.chunks.push(chunk);
        }
    }
}

/// The stretches of neighbouring records. Each lies within one file: no record ends where its file ends.
pub(super) fn runs(picked: &[Picked]) -> impl Iterator<Item = &[Picked]> {
    picked.chunk_by(|left, right| left.end() == right.start)
}

/// First and last byte of records, wherever those between lie; `None` without records.
pub(super) fn span(picked: &[Picked]) -> Option<(u64, u64)> {
    let start = picked.iter().map(|record| record.start).min()?;
    let end = picked.iter().map(Picked::end).max()?;
    Some((start, end))
}

/// First byte and size of a run.
pub(super) fn extent(run: &[Picked]) -> (u64, usize) {
    let start = run.first().map_or(0, |first| first.start);
    let end = run.last().map_or(start, Picked::end);
    (start, (end - start) as usize)
}

/// The answer that the bounds alone give. Source: `store/DefaultMessageStore.java` `getMessage`.
pub(super) fn by_bounds(offset: i64, bounds: Bounds) -> Option<Got> {
    let Bounds { min, max } = bounds;
    if max == 0 {
        Some(Got::nothing(GetStatus::NoMessageInQueue, 0, bounds))
    } else if offset < min {
        Some(Got::nothing(GetStatus::OffsetTooSmall, min, bounds))
    } else if offset == max {
        Some(Got::nothing(GetStatus::OffsetOverflowOne, offset, bounds))
    } else if offset > max {
        Some(Got::nothing(GetStatus::OffsetOverflowBadly, max, bounds))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::TagFilter;
    use super::*;

    fn request(max_count: usize, max_bytes: usize, filter: TagFilter) -> GetRequest<'static> {
        GetRequest {
            topic: "T",
            queue_id: 0,
            offset: 0,
            max_count,
            max_bytes,
            filter,
        }
    }

    fn entry(physical: u64, tags_code: i64) -> Entry {
        Entry {
            physical,
            size: 100,
            tags_code,
        }
    }

    fn reach(log_start: u64, confirmed: u64) -> Reach {
        Reach {
            log_start,
            confirmed,
            shown: 0,
            file_size: 5_000,
        }
    }

    const LIMIT: TransferLimit = TransferLimit { count: 32, bytes: 1000 };

    #[test]
    fn at_least_one_message_is_given_however_large() {
        let request = request(32, 10, TagFilter::All);
        let mut selection = Selection::new(&request, LIMIT, reach(0, 10_000));
        assert!(selection.offer(0, entry(0, 0), false).is_continue());
        assert!(selection.offer(1, entry(100, 0), false).is_break());
        assert_eq!((selection.picked.len(), selection.next_offset), (1, 1));
    }

    #[test]
    fn neighbours_share_a_run_and_filtered_ones_split_it() {
        let request = request(32, 1000, TagFilter::codes([7]));
        let mut selection = Selection::new(&request, LIMIT, reach(0, 10_000));
        for (offset, code) in [7, 7, 8, 7].into_iter().enumerate() {
            let _ = selection.offer(offset as i64, entry(offset as u64 * 100, code), false);
        }
        let runs: Vec<_> = runs(&selection.picked).map(extent).collect();
        assert_eq!(runs, [(0, 200), (300, 100)]);
        assert_eq!(span(&selection.picked), Some((0, 400)));
        selection.picked.swap(0, 2);
        assert_eq!(span(&selection.picked), Some((0, 400)), "in whatever order");
        assert_eq!(span(&[]), None);
        assert_eq!(selection.next_offset, 4);
    }

    #[test]
    fn nothing_beyond_the_confirm_position_is_selected() {
        let request = request(32, 1000, TagFilter::All);
        let mut selection = Selection::new(&request, LIMIT, reach(0, 150));
        assert!(selection.offer(0, entry(0, 0), false).is_continue());
        assert!(selection.offer(1, entry(100, 0), false).is_break());
        assert_eq!(selection.picked.len(), 1);
    }

    #[test]
    fn removed_and_damaged_records_are_stepped_over() {
        let request = request(32, 1000, TagFilter::All);
        let mut selection = Selection::new(&request, LIMIT, reach(150, 10_000));
        assert!(selection.offer(0, entry(100, 0), false).is_continue());
        assert_eq!(selection.status(0), GetStatus::MessageWasRemoving);
        assert!(selection.offer(1, entry(200, 0), true).is_continue());
        assert!(selection.offer(2, entry(300, 0), false).is_continue());
        assert_eq!(
            (selection.status(1), selection.picked.len(), selection.next_offset),
            (GetStatus::Found, 1, 3)
        );
    }

    #[test]
    fn an_entry_that_no_record_can_have_is_stepped_over() {
        let request = request(32, 1000, TagFilter::All);
        let mut selection = Selection::new(&request, LIMIT, reach(0, 10_000));
        assert!(selection.offer(0, entry(4_901, 0), false).is_continue());
        assert!(selection.offer(1, entry(4_900, 0), false).is_continue());
        assert_eq!((selection.picked.len(), selection.next_offset), (1, 2));
    }

    #[test]
    fn an_entry_beyond_the_confirm_position_is_stepped_over_only_if_its_record_was_shown_before() {
        let request = request(32, 1000, TagFilter::All);
        let shown = |shown| Reach { shown, ..reach(0, 400) };
        let mut selection = Selection::new(&request, LIMIT, shown(3));
        assert!(selection.offer(0, entry(1 << 40, 0), false).is_continue());
        assert!(selection.offer(1, entry(300, 0), false).is_continue());
        assert!(selection.offer(2, entry(301, 0), false).is_continue());
        assert!(selection.offer(3, entry(400, 0), false).is_break());
        assert_eq!((selection.picked.len(), selection.next_offset), (1, 3));
        let mut selection = Selection::new(&request, LIMIT, shown(0));
        assert!(selection.offer(0, entry(400, 0), false).is_break());
        assert!(selection.is_untouched(), "its record is still to be confirmed");
    }

    #[test]
    fn bounds_answer_as_rocketmq_does() {
        let bounds = Bounds { min: 5, max: 9 };
        let answer = |offset| by_bounds(offset, bounds).map(|got| (got.status, got.next_offset));
        assert_eq!(answer(4), Some((GetStatus::OffsetTooSmall, 5)));
        assert_eq!(answer(9), Some((GetStatus::OffsetOverflowOne, 9)));
        assert_eq!(answer(10), Some((GetStatus::OffsetOverflowBadly, 9)));
        assert_eq!(answer(5), None);
        let empty = by_bounds(3, Bounds::default()).map(|got| (got.status, got.next_offset));
        assert_eq!(empty, Some((GetStatus::NoMessageInQueue, 0)));
    }

    #[test]
    fn what_is_cut_off_is_pulled_next() {
        let request = request(32, 1000, TagFilter::codes([7]));
        let mut selection = Selection::new(&request, LIMIT, reach(0, 10_000));
        for (offset, code) in [7, 8, 7, 8, 7, 7].into_iter().enumerate() {
            let _ = selection.offer(offset as i64, entry(offset as u64 * 100, code), false);
        }
        assert_eq!((selection.next_offset, selection.bytes()), (6, 400));
        selection.keep(4);
        assert_eq!(selection.next_offset, 6, "nothing was cut off");
        selection.keep_within(TransferLimit { count: 8, bytes: 399 });
        assert_eq!(
            (selection.picked.len(), selection.next_offset, selection.bytes()),
            (3, 5, 300)
        );
        selection.keep_within(TransferLimit { count: 2, bytes: 0 });
        assert_eq!(
            (selection.picked.len(), selection.next_offset),
            (1, 2),
            "one is given however large"
        );
    }
}
