//! A read-only mapping of a file, and what is known of it being in memory.
//!
//! `mincore` asks the kernel, for 1 MiB in some microseconds. A piece of 1 MiB that was wholly in memory is believed to be so for
//! [`BELIEF_MS`]: a busy reader then asks once in many pulls. "Not in memory" is never remembered; of a piece that was not
//! wholly there (the one being written) only the range in question is asked about, until [`RETRY_MS`] have passed. The page tables of a
//! piece are made in one call (about 30 µs), which saves the socket a fault for each 16 pages.

use std::fs::File;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use memmap2::MmapOptions;

/// The piece of which one answer is remembered.
const PIECE_SIZE: usize = 1 << 20;
/// How long "in memory" is believed. The kernel evicts what nobody has used for much longer than that.
const BELIEF_MS: u64 = 1_000;
/// How long a piece that was not wholly in memory is not asked about as a whole.
const RETRY_MS: u64 = 50;
/// A range below it is asked about alone: records that lie far apart are not worth a look at the pieces around them.
const STRETCH_SIZE_MIN: usize = 16 << 10;
const PAGE_SIZE_MIN: usize = 4096;
/// Pages asked about in one call.
const PAGE_COUNT_MAX: usize = PIECE_SIZE / PAGE_SIZE_MIN;

#[derive(Default)]
pub(crate) struct Mapping {
    bytes: Bytes,
    /// Per piece, the last answer: `clock_ms * 2`, plus 1 if all of it was in memory; 0 for none. 8 bytes per MiB.
    answers: Box<[AtomicU64]>,
}

impl Mapping {
    /// Maps the first `len` bytes of a file that is at least as long and never gets shorter.
    pub(crate) fn new(file: &File, len: usize) -> io::Result<Mapping> {
        // SAFETY: the mapping is read-only and no longer than the file, which nothing in this crate ever shortens; the store's
        // directory lock keeps other brokers away. Bytes below the confirm position, the only ones that core reads, are
        // written once. Whoever cuts a broker's files from outside gets a SIGBUS, as with any mapped log.
        let mapped = unsafe { MmapOptions::new().len(len).map(file)? };
        Ok(Mapping {
            bytes: Bytes::from_owner(mapped),
            answers: (0..len.div_ceil(PIECE_SIZE)).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn slice(&self, start: usize, end: usize) -> Bytes {
        self.bytes.slice(start..end)
    }

    /// Whether all of `[start, end)`, which lies inside, is in memory.
    pub(crate) fn is_resident(&self, start: usize, end: usize) -> bool {
        self.is_resident_at(start, end, clock_ms())
    }

    /// As [`is_resident`](Mapping::is_resident), by asking the kernel now.
    pub(crate) fn is_resident_now(&self, start: usize, end: usize) -> bool {
        let piece_ends = (start / PIECE_SIZE + 1..).map(|piece| piece * PIECE_SIZE);
        let mut from = start;
        for until in piece_ends {
            if from >= end {
                break;
            }
            if !self.mincore(from, until.min(end)) {
                return false;
            }
            from = until;
        }
        true
    }

    fn is_resident_at(&self, start: usize, end: usize, now: u64) -> bool {
        let mut at = start;
        while at < end {
            let piece = at / PIECE_SIZE;
            let until = ((piece + 1) * PIECE_SIZE).min(end);
            let is_there = match until - at >= STRETCH_SIZE_MIN {
                true => self.piece_is_resident(piece, now) || self.mincore(at, until),
                false => self.believes(piece, now) || self.mincore(at, until),
            };
            if !is_there {
                return false;
            }
            at = until;
        }
        true
    }

    /// When a piece was asked about last, and whether all of it was in memory.
    fn last_answer(&self, piece: usize) -> (u64, bool) {
        let answer = self.answers[piece].load(Ordering::Relaxed);
        (answer / 2, answer & 1 == 1)
    }

    fn believes(&self, piece: usize, now: u64) -> bool {
        let (asked_at, was_there) = self.last_answer(piece);
        was_there && now.saturating_sub(asked_at) < BELIEF_MS
    }

    /// Whether all of a piece is in memory, asked not too often. If it has come to be, its page tables are made.
    fn piece_is_resident(&self, piece: usize, now: u64) -> bool {
        let (asked_at, was_there) = self.last_answer(piece);
        if self.believes(piece, now) {
            return true;
        }
        if !was_there && asked_at != 0 && now.saturating_sub(asked_at) < RETRY_MS {
            return false;
        }
        let is_there = self.ask_all(piece);
        if is_there && !was_there {
            self.populate(piece);
        }
        self.answers[piece].store(now * 2 + u64::from(is_there), Ordering::Relaxed);
        is_there
    }

    #[cold]
    fn ask_all(&self, piece: usize) -> bool {
        let start = piece * PIECE_SIZE;
        self.mincore(start, (start + PIECE_SIZE).min(self.len()))
    }

    /// Makes the page tables of a piece that is in memory. An error (a page has just been evicted, and its sector is bad) is
    /// the reader's to meet.
    #[cold]
    fn populate(&self, piece: usize) {
        let start = piece * PIECE_SIZE;
        let size = PIECE_SIZE.min(self.len() - start);
        let address = self.bytes[start..].as_ptr();
        // SAFETY: the range lies inside of the mapping and begins on a page border. The advice changes no content, and takes the
        // faults of its pages itself: what fails is an error here and no signal.
        unsafe { libc::madvise(address.cast_mut().cast(), size, libc::MADV_POPULATE_READ) };
    }

    /// At most a piece. An error counts as "no": then it is read another way.
    fn mincore(&self, from: usize, until: usize) -> bool {
        let page_size = rustix::param::page_size();
        let from = from - from % page_size;
        let mut pages = [0_u8; PAGE_COUNT_MAX + 2];
        let count = (until - from).div_ceil(page_size);
        assert!(count <= pages.len(), "one piece at a time");
        let address = self.bytes[from..].as_ptr();
        // SAFETY: `[from, until)` lies inside of the mapping, `from` on a page border (mappings begin on one), and `pages` has a
        // byte for each page of it. The call reads no mapped byte.
        let result = unsafe { libc::mincore(address.cast_mut().cast(), until - from, pages.as_mut_ptr()) };
        result == 0 && pages[..count].iter().all(|page| page & 1 == 1)
    }
}

/// Milliseconds since the first call, from 1 on.
fn clock_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    /// A file of `count` pieces of which all is in memory, and its mapping.
    fn mapped(count: usize) -> (File, Mapping) {
        let file = tempfile::tempfile().expect("a temporary file");
        file.write_all_at(&vec![7; count * PIECE_SIZE], 0).expect("room");
        let mapping = Mapping::new(&file, count * PIECE_SIZE).expect("a mapping");
        (file, mapping)
    }

    fn drop_from_memory(file: &File) {
        file.sync_all().expect("a healthy disk");
        rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
    }

    #[test]
    fn what_the_kernel_evicted_is_not_resident() {
        let (file, mapping) = mapped(3);
        assert!(mapping.mincore(PIECE_SIZE, 2 * PIECE_SIZE));
        drop_from_memory(&file);
        if mapping.mincore(0, PIECE_SIZE) {
            // A file system in memory evicts nothing.
            return;
        }
        assert!(!mapping.is_resident(0, 3 * PIECE_SIZE));
        assert!(!mapping.is_resident(5_000, 5_001));
        let mut page = [0; 100];
        file.read_exact_at(&mut page, 5_000).expect("in range");
        assert!(
            mapping.is_resident(5_000, 5_100),
            "a piece that is not wholly there is asked about in part"
        );
    }

    #[test]
    fn in_memory_is_believed_for_a_while_and_its_opposite_is_not() {
        let (file, mapping) = mapped(2);
        assert!(mapping.is_resident_at(10, 20_000, 5));
        drop_from_memory(&file);
        if mapping.mincore(0, PIECE_SIZE) {
            return;
        }
        assert!(mapping.is_resident_at(0, PIECE_SIZE, 4 + BELIEF_MS), "believed");
        let beyond = mapping.is_resident_at(0, PIECE_SIZE + 1, 6);
        assert!(!beyond, "nothing is known of the second piece");
        assert!(!mapping.is_resident_at(0, 1, 5 + BELIEF_MS), "an old answer is none");
    }

    #[test]
    fn an_empty_range_is_resident() {
        let (_file, mapping) = mapped(1);
        assert!(mapping.is_resident(PIECE_SIZE, PIECE_SIZE));
        assert!(Mapping::default().is_resident(0, 0));
    }
}
