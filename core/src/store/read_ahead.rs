//! Reads pieces of the log ahead of the walks through it, and checks them, off the reactors.
//!
//! Not the decision what to read: `walkers`. After a piece that cannot be read none follows until a pull has come to the place,
//! which reads it on its own and tells the error.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Shared;
use super::pieces::{Examined, Piece, Room};
use super::walkers::{Task, Walkers};
use crate::runtime::{DiskError, File, Runtime};
use crate::sync::lock;

/// Walks that are read ahead for at the same time; more take turns.
pub(super) const READER_COUNT: usize = 2;

pub(super) async fn read_ahead_loop<R: Runtime>(shared: Arc<Shared<R>>) {
    loop {
        let Some((task, room)) = shared.next_piece() else {
            shared.piece_wanted.notified().await;
            continue;
        };
        let next = match shared.read_piece(&task, room).await {
            Ok(next) => next,
            Err(error) => {
                log::warn!("reading ahead: {error}");
                None
            }
        };
        shared.piece_done(task, next);
    }
}

impl<R: Runtime> Shared<R> {
    fn next_piece(&self) -> Option<(Task, Room)> {
        let (confirmed, file_size) = (self.confirmed(), self.config.commit_log_file_size);
        let mut walkers = lock(&self.walkers);
        let mut pieces = lock(&self.pieces);
        while let Some(task) = walkers.next(confirmed, file_size) {
            // What another walk has read is not read again; what needs no check is not read ahead.
            if let Some(end) = pieces.end_at(task.from) {
                walkers.done(task, Some(end));
            } else if self.needs_no_check(task.from, task.until) {
                walkers.done(task, None);
            } else if let Some(room) = pieces.room(|start, end| walkers.will_want(start, end)) {
                return Some((task, room));
            } else {
                walkers.done(task, Some(task.from));
                return None;
            }
        }
        None
    }

    fn needs_no_check(&self, from: u64, until: u64) -> bool {
        self.trusts(from, until) && self.files.resident(from, (until - from) as usize)
    }

    /// Reads a piece, checks it and shows it to pulls. Where the next one begins.
    async fn read_piece(self: &Arc<Self>, task: &Task, room: Room) -> Result<Option<u64>, DiskError> {
        let (start, size) = (task.from, (task.until - task.from) as usize);
        let log_file = self.files.at(start).ok_or_else(|| self.files.outside(start))?;
        let file_end = log_file.start + self.files.file_size();
        let looked_at = log_file
            .file
            .read_once(start - log_file.start, size, move |bytes, source| {
                Piece::examine(room.hold(bytes), source, start, file_end)
            });
        let Examined { piece, next } = looked_at.await?;
        lock(&self.pieces).put(piece);
        Ok(next)
    }

    fn piece_done(&self, task: Task, next: Option<u64>) {
        let mut walkers = lock(&self.walkers);
        walkers.done(task, next);
        self.tidy_pieces(&walkers);
        self.pieces_read.set(self.pieces_read.get().wrapping_add(1));
    }

    /// Ends walks that stand still, and drops what nobody will pull.
    pub(super) fn forget_idle_walks(&self) {
        let mut walkers = lock(&self.walkers);
        walkers.forget_idle(self.runtime.mono());
        self.tidy_pieces(&walkers);
    }

    fn tidy_pieces(&self, walkers: &Walkers) {
        let mut pieces = lock(&self.pieces);
        pieces.retain(|start, end| walkers.may_want(start, end));
        let is_any = !walkers.is_empty() || !pieces.is_empty();
        self.has_walkers.store(is_any, Ordering::Relaxed);
    }
}
