//! Zeros ahead of the log's end: with synchronous flush, space is written once before records come, in small pieces.
//!
//! A file made by `fallocate` has extents that were never written; the fdatasync that first covers them has to convert them in
//! the file system's journal, which costs as much as the data (`benches/flush.rs`). Blocks that hold zeros already cost
//! nothing but the data. Nobody waits for this: a writer that is faster than the zeros pays for the conversion instead.
//!
//! Invariants: a piece lies in one file, at least [`margin`] bytes ahead of the end when it is claimed, and until it is
//! released no append passes its start; recovery sees zeros behind the end, as it does in a fresh file.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{FlushMode, Shared};
use crate::runtime::{DiskErrorKind, File, Runtime};
use crate::sync::lock;

/// Bytes of a piece: an fdatasync of a group waits for at most one of them.
const PIECE_SIZE_MAX: u64 = 256 << 10;
/// Pause between two pieces: at most 64 MiB/s, so that the disk is left to the records.
const PIECE_PAUSE: Duration = Duration::from_millis(4);
/// The same while the end comes nearer: less than half of the distance is left.
const CHASED_PAUSE: Duration = Duration::from_micros(500);
/// Pause while enough is zeroed.
const IDLE_PAUSE: Duration = Duration::from_millis(200);
const BLOCK_SIZE: u64 = 4096;

/// Bytes to be zeroed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) start: u64,
    pub(super) size: u64,
}

/// What is looked at to find the next piece.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    /// End of the log, end of its files, size of one.
    end: u64,
    files_end: u64,
    file_size: u64,
    /// End of what was zeroed last.
    zeroed: u64,
    ahead_bytes: u64,
}

fn margin(ahead_bytes: u64) -> u64 {
    (ahead_bytes / 16).next_multiple_of(BLOCK_SIZE)
}

impl Ahead {
    fn next(&self) -> Option<Piece> {
        let nearest = self.end.saturating_add(margin(self.ahead_bytes));
        let start = self.zeroed.max(nearest).next_multiple_of(BLOCK_SIZE);
        let until = self.end.saturating_add(self.ahead_bytes).min(self.files_end);
        let file_end = start - start % self.file_size + self.file_size;
        let size = until.min(file_end).checked_sub(start)?.min(PIECE_SIZE_MAX);
        (size > 0).then_some(Piece { start, size })
    }
}

/// Runs for as long as the store is open.
pub(super) async fn zeros_loop<R: Runtime>(shared: Arc<Shared<R>>) {
    if shared.config.flush_mode != FlushMode::Sync || shared.config.zeros_ahead_bytes == 0 {
        return;
    }
    let mut zeroed = 0;
    loop {
        let Some(piece) = shared.claim_piece(zeroed) else {
            shared.runtime.sleep(IDLE_PAUSE).await;
            continue;
        };
        let result = match shared.files.at(piece.start) {
            Some(log_file) => log_file.file.fill(piece.start - log_file.start, piece.size).await,
            None => Ok(()),
        };
        shared.release_piece();
        zeroed = piece.start + piece.size;
        match result {
            Ok(()) => {
                let distance = zeroed.saturating_sub(lock(&shared.log).end());
                let pause = match distance < shared.config.zeros_ahead_bytes / 2 {
                    true => CHASED_PAUSE,
                    false => PIECE_PAUSE,
                };
                shared.runtime.sleep(pause).await;
            }
            // Space is reserved where the file system can; elsewhere the write of the records says so.
            Err(error) if error.kind == DiskErrorKind::Full => {
                log::warn!("zeros ahead of the log end: {error}");
                shared.runtime.sleep(IDLE_PAUSE).await;
            }
            // Its sync may have told us of records that are lost.
            Err(error) => {
                shared.poisoned(&error);
                return;
            }
        }
    }
}

impl<R: Runtime> Shared<R> {
    fn claim_piece(&self, zeroed: u64) -> Option<Piece> {
        let mut log = lock(&self.log);
        // Closing sets it under the same lock.
        if self.closed.load(Ordering::Acquire) {
            return None;
        }
        let ahead = Ahead {
            end: log.end(),
            files_end: log.files_end(),
            file_size: self.config.commit_log_file_size,
            zeroed,
            ahead_bytes: self.config.zeros_ahead_bytes,
        };
        let piece = ahead.next()?;
        log.set_barrier(Some(piece.start));
        self.zeroing.set(true);
        Some(piece)
    }

    fn release_piece(&self) {
        lock(&self.log).set_barrier(None);
        self.zeroing.set(false);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pieces_follow_each_other_up_to_the_distance() {
        let mut ahead = Ahead {
            end: 5000,
            files_end: 4 << 20,
            file_size: 2 << 20,
            zeroed: 0,
            ahead_bytes: 1 << 20,
        };
        let mut pieces = Vec::new();
        while let Some(piece) = ahead.next() {
            pieces.push(piece);
            ahead.zeroed = piece.start + piece.size;
        }
        assert_eq!(pieces[0].start, (5000_u64 + (64 << 10)).next_multiple_of(BLOCK_SIZE));
        assert_eq!(ahead.zeroed, 5000 + (1 << 20));
        ahead.end = 2 << 20;
        assert!(
            ahead.next().is_some_and(|piece| piece.start > 2 << 20),
            "what was overtaken is left"
        );
        ahead.files_end = 2 << 20;
        assert_eq!(ahead.next(), None, "no file is made for zeros");
    }

    proptest! {
        #[test]
        fn a_piece_lies_ahead_of_the_end_within_one_file(
            end in 0u64..1 << 20, files in 1u64..4, zeroed in 0u64..1 << 21, ahead_bytes in 1u64..1 << 21,
        ) {
            let file_size = 300_000;
            let files_end = (end / file_size + files) * file_size;
            let ahead = Ahead { end, files_end, file_size, zeroed, ahead_bytes };
            if let Some(Piece { start, size }) = ahead.next() {
                prop_assert!(start >= end + margin(ahead_bytes) && start >= zeroed);
                prop_assert!(start + size <= files_end && start + size <= end + ahead_bytes);
                prop_assert_eq!(start / file_size, (start + size - 1) / file_size);
            }
        }
    }
}
