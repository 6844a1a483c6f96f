//! Reading: pulls, single records, look-ups by time. Everything handed out lies below the confirm position.
//!
//! A pull is *hot* when its queue entries and records are resident: written or verified by this process and within the
//! recent window. Then it is a few slices of mapped files, taken on the caller's thread. Anything else is read off the
//! reactors, and each record is checked before it is handed out.

use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError};

use bytes::{Bytes, BytesMut};

use super::layout::Entry;
use super::queue::Queue;
use super::{Boundary, Bounds, FileOf, GetRequest, GetStatus, Got, Shared, Store, StoreError, TransferLimit};
use crate::protocol::message::{RecordView, STORE_TIME_PREFIX_SIZE, store_time};
use crate::runtime::{DiskError, DiskErrorKind, Runtime, WallMillis};
use crate::types::PhysicalOffset;

/// Fewest entries that one pull examines for a filter, as in Java (16,000 bytes of queue).
const FILTER_SCAN_COUNT: usize = 800;

/// A stretch of neighbouring records.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    start: u64,
    size: usize,
    /// Sizes of its records.
    sizes: Vec<u32>,
}

/// Decides entry by entry what a pull gives. Pure.
#[derive(Debug)]
struct Selection<'a> {
    request: &'a GetRequest<'a>,
    limit: TransferLimit,
    log_start: u64,
    confirmed: u64,
    next_offset: i64,
    removed: bool,
    runs: Vec<Run>,
    count: usize,
    bytes: usize,
}

impl<'a> Selection<'a> {
    fn new(request: &'a GetRequest<'a>, limit: TransferLimit, log_start: u64, confirmed: u64) -> Selection<'a> {
        Selection {
            request,
            limit: TransferLimit {
                count: limit.count.min(request.max_count).max(1),
                bytes: limit.bytes.min(request.max_bytes),
            },
            log_start,
            confirmed,
            next_offset: request.offset,
            removed: false,
            runs: Vec::new(),
            count: 0,
            bytes: 0,
        }
    }

    /// Takes the entry, steps over it, or ends the pull before it.
    fn offer(&mut self, offset: i64, entry: Entry, is_damaged: bool) -> ControlFlow<()> {
        let size = entry.size as usize;
        if entry.is_filler() || is_damaged {
            self.next_offset = offset + 1;
            return ControlFlow::Continue(());
        }
        if entry.physical < self.log_start {
            self.removed = true;
            self.next_offset = offset + 1;
            return ControlFlow::Continue(());
        }
        if entry.end() > self.confirmed {
            return ControlFlow::Break(());
        }
        if !self.request.filter.passes(entry.tags_code) {
            self.next_offset = offset + 1;
            return ControlFlow::Continue(());
        }
        let is_full = self.count >= self.limit.count || self.bytes + size > self.limit.bytes;
        if self.count > 0 && is_full {
            return ControlFlow::Break(());
        }
        match self.runs.last_mut() {
            Some(run) if run.start + run.size as u64 == entry.physical => {
                run.size += size;
                run.sizes.push(entry.size as u32);
            }
            _ => self.runs.push(Run {
                start: entry.physical,
                size,
                sizes: vec![entry.size as u32],
            }),
        }
        self.next_offset = offset + 1;
        self.count += 1;
        self.bytes += size;
        if self.count >= self.limit.count {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn status(&self) -> GetStatus {
        if self.count > 0 {
            GetStatus::Found
        } else if self.next_offset == self.request.offset {
            GetStatus::OffsetFoundNull
        } else if self.removed {
            GetStatus::MessageWasRemoving
        } else {
            GetStatus::NoMatchedMessage
        }
    }

    fn got(&self, bounds: Bounds, chunks: Vec<Bytes>, count: usize, bytes: usize) -> Got {
        Got {
            status: match self.status() {
                GetStatus::Found if count == 0 => GetStatus::NoMatchedMessage,
                status => status,
            },
            next_offset: self.next_offset,
            bounds,
            chunks,
            count,
            bytes,
        }
    }
}

/// The answer that the bounds alone give. Source: `store/DefaultMessageStore.java` `getMessage`.
fn by_bounds(offset: i64, bounds: Bounds) -> Option<Got> {
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

impl<R: Runtime> Store<R> {
    /// A pull that needs no waiting: an answer without messages, or messages that are resident. `None`: use
    /// [`get`](Store::get).
    pub fn get_hot(&self, request: &GetRequest<'_>) -> Option<Got> {
        let shared = &self.owner.shared;
        let Some(queue) = shared.queues.get(request.topic, request.queue_id) else {
            return Some(Got::nothing(GetStatus::NoMatchedLogicQueue, 0, Bounds::default()));
        };
        let bounds = queue.bounds();
        if let Some(got) = by_bounds(request.offset, bounds) {
            return Some(got);
        }
        let mut is_cold = false;
        let hot_from = shared.hot_from();
        let limit = shared.config.transfer_in_memory;
        let selection = shared.select(&queue, request, limit, |entry| {
            is_cold |= entry.physical < hot_from && !entry.is_filler();
            !is_cold
        })?;
        if is_cold && selection.count == 0 {
            return None;
        }
        let slices = selection
            .runs
            .iter()
            .map(|run| shared.files.read_hot(run.start, run.size));
        let chunks = slices.collect::<Result<Vec<_>, _>>().ok()?;
        Some(selection.got(bounds, chunks, selection.count, selection.bytes))
    }

    /// A pull. Statuses as RocketMQ's; at least one whole message if any matches.
    pub async fn get(&self, request: &GetRequest<'_>) -> Result<Got, StoreError> {
        let shared = &self.owner.shared;
        loop {
            if let Some(got) = self.get_hot(request) {
                return Ok(got);
            }
            let Some(queue) = shared.queues.get(request.topic, request.queue_id) else {
                continue;
            };
            let limit = shared.config.transfer_on_disk;
            let Some(selection) = shared.select(&queue, request, limit, |_| true) else {
                if !queue.warm(request.offset).await? {
                    return Err(StoreError::Queue {
                        queue: format!("{}-{}", request.topic, request.queue_id),
                        offset: request.offset,
                    });
                }
                continue;
            };
            let bounds = queue.bounds();
            let mut chunks = Vec::with_capacity(selection.runs.len());
            let (mut count, mut bytes) = (0, 0);
            for run in &selection.runs {
                for chunk in shared.read_run(run).await? {
                    count += chunk.count;
                    bytes += chunk.bytes.len();
                    chunks.push(chunk.bytes);
                }
            }
            return Ok(selection.got(bounds, chunks, count, bytes));
        }
    }

    /// The record at a position, checked: whole, with its CRC, saying that it lies there, below the confirm position.
    pub async fn record_at(&self, position: PhysicalOffset) -> Result<Option<Bytes>, StoreError> {
        self.owner.shared.record_at(position.0).await
    }

    /// Offset of the message stored at (or around) a time.
    pub async fn offset_by_time(
        &self,
        topic: &str,
        queue_id: i32,
        time: WallMillis,
        boundary: Boundary,
    ) -> Result<i64, StoreError> {
        let shared = &self.owner.shared;
        let Some(queue) = shared.queues.get(topic, queue_id) else {
            return Ok(0);
        };
        // First offset stored at or after `wanted`.
        let wanted = match boundary {
            Boundary::Lower => time.0,
            Boundary::Upper => time.0.saturating_add(1),
        };
        let Bounds { min, max } = queue.bounds();
        let (mut low, mut high) = (min, max);
        while low < high {
            let middle = low + (high - low) / 2;
            match shared.entry_time(&queue, middle).await? {
                Some(stored) if stored.0 >= wanted => high = middle,
                _ => low = middle + 1,
            }
        }
        Ok(match boundary {
            Boundary::Lower => low,
            Boundary::Upper if low > min => low - 1,
            Boundary::Upper => 0,
        })
    }

    /// Store time of the message at an offset; `None` if there is none.
    pub async fn store_time(&self, topic: &str, queue_id: i32, offset: i64) -> Result<Option<WallMillis>, StoreError> {
        let shared = &self.owner.shared;
        match shared.queues.get(topic, queue_id) {
            Some(queue) => shared.entry_time(&queue, offset).await,
            None => Ok(None),
        }
    }
}

/// Records read from the disk and checked.
struct Checked {
    bytes: Bytes,
    count: usize,
}

impl<R: Runtime> Shared<R> {
    /// Records from here on are resident, as far as one can tell.
    fn hot_from(&self) -> u64 {
        self.verified_from
            .max(self.confirmed().saturating_sub(self.config.hot_bytes))
    }

    /// Runs the selection over the queue's entries while `go_on`. `None` if entries are not resident.
    fn select<'a>(
        &self,
        queue: &Queue<FileOf<R>>,
        request: &'a GetRequest<'a>,
        limit: TransferLimit,
        mut go_on: impl FnMut(&Entry) -> bool,
    ) -> Option<Selection<'a>> {
        let log_start = self.files.start().unwrap_or(0);
        let mut selection = Selection::new(request, limit, log_start, self.confirmed());
        let scan_count = request.max_count.max(FILTER_SCAN_COUNT);
        let damaged = self.damaged.read().unwrap_or_else(PoisonError::into_inner);
        let hot = queue.visit_hot(request.offset, scan_count, |offset, entry| {
            if !go_on(&entry) {
                return ControlFlow::Break(());
            }
            let is_damaged = !damaged.is_empty() && damaged.contains(&entry.physical);
            selection.offer(offset, entry, is_damaged)
        });
        // What was selected before a cold stretch of entries is an answer, too.
        if hot.is_none() && selection.next_offset == request.offset {
            return None;
        }
        Some(selection)
    }

    /// Reads a stretch; records that fail their check are left out.
    async fn read_run(&self, run: &Run) -> Result<Vec<Checked>, StoreError> {
        let mut bytes = match self.files.read(run.start, run.size).await {
            Ok(bytes) => bytes,
            // The file was deleted under the reader.
            Err(error) if error.kind == DiskErrorKind::OutOfRange => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut position = run.start;
        let mut good = vec![Checked {
            bytes: Bytes::new(),
            count: 0,
        }];
        let mut whole = bytes.clone();
        let mut kept = 0;
        for size in &run.sizes {
            let record = bytes.split_to(*size as usize);
            let is_good = check(&record, position).is_some();
            position += u64::from(*size);
            if is_good {
                kept += record.len();
                if let Some(last) = good.last_mut() {
                    last.count += 1;
                }
                continue;
            }
            log::error!("record at {} is damaged and left out", position - u64::from(*size));
            if let Some(last) = good.last_mut() {
                last.bytes = whole.split_to(kept);
            }
            drop(whole.split_to(record.len()));
            kept = 0;
            good.push(Checked {
                bytes: Bytes::new(),
                count: 0,
            });
        }
        if let Some(last) = good.last_mut() {
            last.bytes = whole.split_to(kept);
        }
        good.retain(|checked| checked.count > 0);
        Ok(good)
    }

    pub(super) async fn record_at(&self, position: u64) -> Result<Option<Bytes>, StoreError> {
        let confirmed = self.confirmed();
        let Some(log_file) = self.files.at(position) else {
            return Ok(None);
        };
        let room = (log_file.start + self.files.file_size())
            .min(confirmed)
            .saturating_sub(position);
        if room < 8 {
            return Ok(None);
        }
        // One read for most records, a second for large ones.
        let first = self.read_any(position, room.min(4096) as usize).await?;
        let size = u64::from(u32::from_be_bytes([first[0], first[1], first[2], first[3]]));
        if size > room {
            return Ok(None);
        }
        let bytes = match first.len() as u64 {
            read if read >= size => first.slice(..size as usize),
            read => {
                let mut whole = BytesMut::with_capacity(size as usize);
                whole.extend_from_slice(&first);
                whole.extend_from_slice(&self.read_any(position + read, (size - read) as usize).await?);
                whole.freeze()
            }
        };
        Ok(check(&bytes, position).is_some().then_some(bytes))
    }

    /// A slice if resident, else a read.
    pub(super) async fn read_any(&self, position: u64, size: usize) -> Result<Bytes, DiskError> {
        if position >= self.hot_from() {
            return self.files.read_hot(position, size);
        }
        self.files.read(position, size).await
    }

    /// Store time of the record behind an entry.
    async fn entry_time(&self, queue: &Arc<Queue<FileOf<R>>>, offset: i64) -> Result<Option<WallMillis>, StoreError> {
        let Some(entry) = queue.entry(offset).await? else {
            return Ok(None);
        };
        if entry.is_filler() || entry.end() > self.confirmed() || entry.physical < self.files.start().unwrap_or(0) {
            return Ok(None);
        }
        let size = STORE_TIME_PREFIX_SIZE.min(entry.size as usize);
        Ok(store_time(&self.read_any(entry.physical, size).await?))
    }
}

fn check(bytes: &Bytes, position: u64) -> Option<()> {
    let record = RecordView::parse_checked(bytes).ok()?;
    (record.size() == bytes.len()).then_some(())?;
    record.check_position(position).ok()
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

    const LIMIT: TransferLimit = TransferLimit { count: 32, bytes: 1000 };

    #[test]
    fn at_least_one_message_is_given_however_large() {
        let request = request(32, 10, TagFilter::All);
        let mut selection = Selection::new(&request, LIMIT, 0, 10_000);
        assert!(selection.offer(0, entry(0, 0), false).is_continue());
        assert!(selection.offer(1, entry(100, 0), false).is_break());
        assert_eq!((selection.count, selection.next_offset), (1, 1));
    }

    #[test]
    fn neighbours_share_a_run_and_filtered_ones_split_it() {
        let request = request(32, 1000, TagFilter::codes([7]));
        let mut selection = Selection::new(&request, LIMIT, 0, 10_000);
        for (offset, code) in [7, 7, 8, 7].into_iter().enumerate() {
            let _ = selection.offer(offset as i64, entry(offset as u64 * 100, code), false);
        }
        let runs: Vec<_> = selection.runs.iter().map(|run| (run.start, run.size)).collect();
        assert_eq!(runs, [(0, 200), (300, 100)]);
        assert_eq!(selection.next_offset, 4);
    }

    #[test]
    fn nothing_beyond_the_confirm_position_is_selected() {
        let request = request(32, 1000, TagFilter::All);
        let mut selection = Selection::new(&request, LIMIT, 0, 150);
        assert!(selection.offer(0, entry(0, 0), false).is_continue());
        assert!(selection.offer(1, entry(100, 0), false).is_break());
        assert_eq!(selection.count, 1);
    }

    #[test]
    fn removed_and_damaged_records_are_stepped_over() {
        let request = request(32, 1000, TagFilter::All);
        let mut selection = Selection::new(&request, LIMIT, 150, 10_000);
        assert!(selection.offer(0, entry(100, 0), false).is_continue());
        assert_eq!(selection.status(), GetStatus::MessageWasRemoving);
        assert!(selection.offer(1, entry(200, 0), true).is_continue());
        assert!(selection.offer(2, entry(300, 0), false).is_continue());
        assert_eq!(
            (selection.status(), selection.count, selection.next_offset),
            (GetStatus::Found, 1, 3)
        );
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
}
