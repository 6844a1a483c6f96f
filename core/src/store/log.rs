//! The append side of the commit log, without IO: where the next record goes and what waits to be written.
//!
//! Invariants: the end only grows; a record (or the records of one append) lies in one file with room for a blank record
//! behind it; store times never decrease; segments are contiguous, in order, and none crosses a file; a refused append
//! changes nothing.

use super::AppendError;
use crate::protocol::message::{self, BLANK_SIZE};
use crate::runtime::WallMillis;

/// Bytes for one place in one file.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    pub(crate) start: u64,
    pub(crate) bytes: Vec<u8>,
}

/// What was appended since the last group was taken, to be written in one go. `T` is what dispatch needs per record.
#[derive(Debug)]
pub(crate) struct Group<T> {
    pub(crate) segments: Vec<Segment>,
    pub(crate) placed: Vec<T>,
    pub(crate) end: u64,
    pub(crate) last_store_time: WallMillis,
}

/// Room for the records of one append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reserved {
    pub(crate) start: u64,
    pub(crate) store_time: WallMillis,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct LogLimits {
    pub(crate) file_size: u64,
    pub(crate) pending_bytes_max: usize,
}

#[derive(Debug)]
pub(crate) struct AppendLog<T> {
    limits: LogLimits,
    end: u64,
    /// End of the last file that exists.
    files_end: u64,
    /// Nothing is appended beyond this for now: somebody writes zeros there.
    barrier: Option<u64>,
    last_store_time: WallMillis,
    segments: Vec<Segment>,
    pending_bytes: usize,
    placed: Vec<T>,
    /// Emptied buffers of written groups, used again.
    spare_segments: Vec<Vec<u8>>,
    spare_placed: Vec<T>,
    records: u64,
    bytes: u64,
}

/// Buffers larger than this are not kept for the next group.
const SPARE_BYTES_MAX: usize = 1 << 20;

impl<T> AppendLog<T> {
    pub(crate) fn new(limits: LogLimits, end: u64, files_end: u64, last_store_time: WallMillis) -> AppendLog<T> {
        AppendLog {
            limits,
            end,
            files_end,
            barrier: None,
            last_store_time,
            segments: Vec::new(),
            pending_bytes: 0,
            placed: Vec::new(),
            spare_segments: Vec::new(),
            spare_placed: Vec::new(),
            records: 0,
            bytes: 0,
        }
    }

    /// Finds room for `size` bytes of whole records, rolling to the next file if they do not fit into this one.
    pub(crate) fn reserve(&mut self, size: u64, now: WallMillis) -> Result<Reserved, AppendError> {
        let file_size = self.limits.file_size;
        let blank = BLANK_SIZE as u64;
        if size.saturating_add(blank) > file_size {
            return Err(AppendError::TooLarge {
                size,
                limit: file_size - blank,
            });
        }
        if self.pending_bytes > self.limits.pending_bytes_max {
            return Err(AppendError::Busy {
                pending: self.pending_bytes,
                limit: self.limits.pending_bytes_max,
            });
        }
        let used = self.end % file_size;
        let fits = used + size + blank <= file_size;
        let start = if fits { self.end } else { self.end - used + file_size };
        if !self.is_ready(start + size + blank) {
            return Err(AppendError::NotReady);
        }
        if !fits {
            self.put_blank(file_size - used);
        }
        self.last_store_time = self.last_store_time.max(now);
        Ok(Reserved {
            start,
            store_time: self.last_store_time,
        })
    }

    /// Whether bytes up to `end` may be appended: there is a file, and nobody writes zeros into it.
    pub(crate) fn is_ready(&self, end: u64) -> bool {
        end <= self.files_end && self.barrier.is_none_or(|barrier| end <= barrier)
    }

    /// Keeps appends from passing a position, or lets them again.
    pub(crate) fn set_barrier(&mut self, barrier: Option<u64>) {
        assert!(
            barrier.is_none_or(|barrier| barrier >= self.end),
            "a barrier lies ahead of the end"
        );
        self.barrier = barrier;
    }

    /// Where the records that were just reserved are encoded to; then [`commit`](AppendLog::commit).
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        let end = self.end;
        let extends = self.segments.last().is_some_and(|segment| {
            segment.start + segment.bytes.len() as u64 == end && !end.is_multiple_of(self.limits.file_size)
        });
        if !extends {
            let bytes = self.spare_segments.pop().unwrap_or_default();
            self.segments.push(Segment { start: end, bytes });
        }
        &mut self.segments.last_mut().expect("a segment was pushed").bytes
    }

    /// `size` bytes in `records` records were encoded.
    pub(crate) fn commit(&mut self, size: u64, records: u64) {
        self.end += size;
        self.pending_bytes += size as usize;
        self.records += records;
        self.bytes += size;
        let last = self.segments.last().expect("records were encoded");
        assert_eq!(
            last.start + last.bytes.len() as u64,
            self.end,
            "bytes encoded differ from bytes reserved"
        );
    }

    pub(crate) fn place(&mut self, placed: T) {
        self.placed.push(placed);
    }

    /// Fills the current file to its end: for a follower whose primary rolled there.
    pub(crate) fn roll(&mut self) {
        let used = self.end % self.limits.file_size;
        if used != 0 {
            self.put_blank(self.limits.file_size - used);
        }
    }

    /// Takes everything pending. `None` if there is nothing.
    pub(crate) fn take(&mut self) -> Option<Group<T>> {
        if self.segments.is_empty() {
            return None;
        }
        self.pending_bytes = 0;
        Some(Group {
            segments: std::mem::take(&mut self.segments),
            placed: std::mem::replace(&mut self.placed, std::mem::take(&mut self.spare_placed)),
            end: self.end,
            last_store_time: self.last_store_time,
        })
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.segments.is_empty()
    }

    /// Gives the buffers of a written group back.
    pub(crate) fn recycle(&mut self, mut segments: Vec<Segment>, placed: Vec<T>) {
        for mut segment in segments.drain(..) {
            if self.spare_segments.len() < 2 && segment.bytes.capacity() <= SPARE_BYTES_MAX {
                segment.bytes.clear();
                self.spare_segments.push(segment.bytes);
            }
        }
        if self.segments.is_empty() {
            self.segments = segments;
        }
        if placed.is_empty() && placed.capacity() > self.spare_placed.capacity() && placed.capacity() <= 4096 {
            self.spare_placed = placed;
        }
    }

    /// A further file exists up to `files_end`.
    pub(crate) fn extend_files(&mut self, files_end: u64) {
        assert!(
            files_end >= self.files_end,
            "files of the log do not go away at its end"
        );
        self.files_end = files_end;
    }

    /// Whether the file behind the current one is still to be made.
    pub(crate) fn wants_file(&self) -> bool {
        let current_start = self.end - self.end % self.limits.file_size;
        self.files_end < current_start + 2 * self.limits.file_size
    }

    /// Follows store times of records that were placed elsewhere.
    pub(crate) fn observe_store_time(&mut self, time: WallMillis) {
        self.last_store_time = self.last_store_time.max(time);
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn files_end(&self) -> u64 {
        self.files_end
    }

    pub(crate) fn last_store_time(&self) -> WallMillis {
        self.last_store_time
    }

    /// Records and bytes appended since the start of the process.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.records, self.bytes)
    }

    fn put_blank(&mut self, size: u64) {
        let size_field = u32::try_from(size).unwrap_or(u32::MAX);
        message::encode_blank(size_field, self.buffer());
        self.pending_bytes += BLANK_SIZE;
        self.end += size;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: LogLimits = LogLimits {
        file_size: 1000,
        pending_bytes_max: 1 << 20,
    };

    fn log(end: u64, files_end: u64) -> AppendLog<u64> {
        AppendLog::new(LIMITS, end, files_end, WallMillis(100))
    }

    fn put(log: &mut AppendLog<u64>, size: u64, now: i64) -> Result<Reserved, AppendError> {
        let reserved = log.reserve(size, WallMillis(now))?;
        let buffer = log.buffer();
        buffer.resize(buffer.len() + size as usize, 7);
        log.commit(size, 1);
        log.place(reserved.start);
        Ok(reserved)
    }

    #[test]
    fn a_record_that_would_leave_no_room_for_a_blank_goes_to_the_next_file() {
        let mut log = log(0, 2000);
        assert_eq!(put(&mut log, 900, 1).unwrap().start, 0);
        assert_eq!(put(&mut log, 93, 1).unwrap().start, 1000);
        let group = log.take().unwrap();
        assert_eq!(group.segments[0].bytes.len(), 908);
        assert_eq!(group.segments[0].bytes[900..904], 100u32.to_be_bytes());
        assert_eq!(group.segments[1].start, 1000);
        assert_eq!(group.end, 1093);
        assert!(log.take().is_none());
    }

    #[test]
    fn a_record_may_end_eight_bytes_before_the_file() {
        let mut log = log(0, 1000);
        assert_eq!(put(&mut log, 992, 1).unwrap().start, 0);
        assert!(matches!(put(&mut log, 1, 1), Err(AppendError::NotReady)));
        assert_eq!(log.end(), 992);
    }

    #[test]
    fn nothing_passes_a_barrier_while_it_stands() {
        let mut log = log(0, 2000);
        log.set_barrier(Some(500));
        assert_eq!(put(&mut log, 400, 1).unwrap().start, 0);
        assert!(matches!(put(&mut log, 93, 1), Err(AppendError::NotReady)));
        assert!(
            matches!(put(&mut log, 900, 1), Err(AppendError::NotReady)),
            "nor by a roll"
        );
        assert_eq!(put(&mut log, 92, 1).unwrap().start, 400);
        log.set_barrier(None);
        assert_eq!(put(&mut log, 900, 1).unwrap().start, 1000);
    }

    #[test]
    fn what_fits_no_file_is_refused_up_front() {
        let mut log = log(500, 10_000);
        assert!(matches!(
            put(&mut log, 993, 1),
            Err(AppendError::TooLarge { size: 993, limit: 992 })
        ));
        assert_eq!(log.end(), 500);
    }

    #[test]
    fn store_times_do_not_follow_a_clock_that_steps_back() {
        let mut log = log(0, 1000);
        assert_eq!(put(&mut log, 10, 50).unwrap().store_time, WallMillis(100));
        assert_eq!(put(&mut log, 10, 200).unwrap().store_time, WallMillis(200));
        assert_eq!(put(&mut log, 10, 150).unwrap().store_time, WallMillis(200));
    }

    proptest! {
        #[test]
        fn groups_cover_the_log_without_gaps(steps in prop::collection::vec((1u64..992, any::<bool>()), 1..60)) {
            let mut log = log(0, 1_000_000);
            let mut image = vec![0u8; 1_000_000];
            let mut written = 0;
            let mut starts = Vec::new();
            let mut write = |log: &mut AppendLog<u64>, written: &mut u64| {
                let Some(group) = log.take() else { return };
                for segment in &group.segments {
                    let (start, size) = (segment.start as usize, segment.bytes.len());
                    assert_eq!(start / 1000, (start + size - 1) / 1000, "a segment crosses a file");
                    assert!(segment.start >= *written);
                    image[start..start + size].copy_from_slice(&segment.bytes);
                    *written = segment.start + size as u64;
                }
                let Group { segments, mut placed, .. } = group;
                placed.clear();
                log.recycle(segments, placed);
            };
            for (size, take) in steps {
                starts.push((put(&mut log, size, 1).unwrap().start, size));
                if take {
                    write(&mut log, &mut written);
                }
            }
            write(&mut log, &mut written);
            let mut position = 0u64;
            for (start, size) in starts {
                if start != position {
                    let at = position as usize;
                    prop_assert_eq!(&image[at..at + 4], &((start - position) as u32).to_be_bytes());
                    prop_assert_eq!(start % 1000, 0);
                }
                prop_assert!(image[start as usize..(start + size) as usize].iter().all(|byte| *byte == 7));
                position = start + size;
            }
        }
    }
}
