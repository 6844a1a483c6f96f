//! What a store does by itself: flushing, making files, writing queues and checkpoint, deleting old files.
//!
//! Each task is a loop that ends when its owner is dropped or closed; none is on the path of a send.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{FutureExt, pin_mut, select_biased};

use super::checkpoint::{Checkpoint, Seal};
use super::files::FilesEnd;
use super::flush::{FlushState, is_due};
use super::index::index_loop;
use super::read_ahead::{READER_COUNT, read_ahead_loop};
use super::write::Claimable;
use super::zeros::zeros_loop;
use super::{FlushMode, QueueOf, Shared, StoreError};
use crate::runtime::{Disk, DiskErrorKind, Runtime, TaskSet};
use crate::sync::{Watch, lock};

/// Pause before an operation that failed for want of space (or the like) is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Bytes behind the checkpoint after which a new one is due: bounds what a start after a kill reads, however fast the log grows.
const CHECKPOINT_BYTES_MAX: u64 = 128 << 20;

pub(super) fn start<R: Runtime>(shared: &Arc<Shared<R>>) -> TaskSet<R> {
    let mut tasks = TaskSet::new();
    let runtime = &shared.runtime;
    tasks.spawn(runtime, "store-flush", flush_loop(Arc::clone(shared)));
    tasks.spawn(runtime, "store-write", write_loop(Arc::clone(shared)));
    tasks.spawn(runtime, "store-files", files_loop(Arc::clone(shared)));
    tasks.spawn(runtime, "store-zeros", zeros_loop(Arc::clone(shared)));
    tasks.spawn_background(runtime, "store-queues", queues_loop(Arc::clone(shared)));
    tasks.spawn(runtime, "store-clean", clean_loop(Arc::clone(shared)));
    for _ in 0..READER_COUNT {
        tasks.spawn(runtime, "store-read-ahead", read_ahead_loop(Arc::clone(shared)));
    }
    if shared.index.is_some() {
        tasks.spawn_background(runtime, "store-index", index_loop(Arc::clone(shared)));
    }
    tasks
}

/// Flushes when somebody waits, and on time.
async fn flush_loop<R: Runtime>(shared: Arc<Shared<R>>) {
    let config = &shared.config;
    let least_pages = match config.flush_mode {
        FlushMode::Sync => 0,
        FlushMode::Async => config.flush_least_pages,
    };
    let thorough_ms = config.flush_thorough_interval.as_millis() as u64;
    let mut last_flush = shared.runtime.mono();
    loop {
        let is_wanted = {
            let sleep = shared.runtime.sleep(config.flush_interval).fuse();
            let wanted = shared.flush_wanted.notified().fuse();
            pin_mut!(sleep, wanted);
            select_biased! {
                () = wanted => true,
                () = sleep => false,
            }
        };
        let now = shared.runtime.mono();
        let state = FlushState {
            dirty_bytes: lock(&shared.written).end.saturating_sub(shared.flushed.position()),
            since_last_ms: now.since(last_flush).as_millis() as u64,
        };
        if !is_wanted && !is_due(state, least_pages, thorough_ms) {
            continue;
        }
        if !shared.begin_flush() {
            // A sender syncs in place; it rings again if more waits.
            continue;
        }
        last_flush = now;
        let result = shared.flush_group().await;
        shared.end_flush();
        if result.is_err() {
            return;
        }
    }
}

/// Writes what senders leave behind that have written enough for others.
async fn write_loop<R: Runtime>(shared: Arc<Shared<R>>) {
    loop {
        shared.write_wanted.notified().await;
        if shared.write_or_leave(1).is_err() {
            return;
        }
        shared.runtime.yield_now().await;
    }
}

/// Keeps one whole log file ahead of the end.
async fn files_loop<R: Runtime>(shared: Arc<Shared<R>>) {
    while let Some(wanted) = shared.next_file() {
        let Some(start) = wanted else {
            shared.file_wanted.notified().await;
            continue;
        };
        let created = shared.files.create(shared.runtime.disk(), start).await;
        shared.making_file.set(false);
        match created {
            Ok(end) => {
                lock(&shared.log).extend_files(end);
                shared.files_end.set(FilesEnd { end, error: None });
            }
            Err(error) => {
                log::warn!(
                    "next commit log file, tried again in {} s: {error}",
                    RETRY_PAUSE.as_secs()
                );
                shared.files_end.set(FilesEnd {
                    end: start,
                    error: Some(error.to_string().into()),
                });
                shared.runtime.sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Writes queue entries to their files, and now and then makes them durable and says so in the checkpoint.
async fn queues_loop<R: Runtime>(shared: Arc<Shared<R>>) {
    let mut last_checkpoint = shared.runtime.mono();
    let mut unsynced = Vec::new();
    loop {
        shared.runtime.sleep(shared.config.queue_flush_interval).await;
        if !shared.begin_work(&shared.writing_queues) {
            return;
        }
        let mut result = shared.write_queues(&mut unsynced).await;
        let now = shared.runtime.mono();
        let is_due = now.since(last_checkpoint) >= shared.config.checkpoint_interval
            || shared.unclaimed() >= CHECKPOINT_BYTES_MAX;
        if result.is_ok() && is_due {
            last_checkpoint = now;
            result = shared.save_checkpoint(&mut unsynced).await;
        }
        shared.writing_queues.set(false);
        match result {
            Ok(()) => {}
            Err(StoreError::Disk(error)) if error.kind == DiskErrorKind::Full => {
                log::warn!("consume queues wait for space: {error}");
            }
            Err(StoreError::Disk(error)) => {
                shared.poisoned(&error);
                return;
            }
            Err(_) => return,
        }
    }
}

async fn clean_loop<R: Runtime>(shared: Arc<Shared<R>>) {
    while shared.begin_work(&shared.cleaning) {
        if let Err(error) = shared.clean().await {
            log::warn!("deleting old files: {error}");
        }
        if let Err(error) = shared.retry_deletions().await {
            log::warn!(
                "deleting a topic, tried again in {} s: {error}",
                shared.config.clean_interval.as_secs()
            );
        }
        shared.cleaning.set(false);
        shared.forget_idle_walks();
        shared.runtime.sleep(shared.config.clean_interval).await;
    }
}

pub(super) type Queues<R> = Vec<QueueOf<R>>;

impl<R: Runtime> Shared<R> {
    /// Says that a task works on files, which closing waits for: false (and nothing said) once closed.
    pub(super) fn begin_work(&self, work: &Watch<bool>) -> bool {
        work.set(true);
        let may_work = !self.closed.load(Ordering::Acquire);
        if !may_work {
            work.set(false);
        }
        may_work
    }

    /// Where the next log file starts, if one is wanted; closing waits until it is made. `None` once closed.
    fn next_file(&self) -> Option<Option<u64>> {
        let log = lock(&self.log);
        // Closing sets it under the same lock.
        if self.closed.load(Ordering::Acquire) {
            return None;
        }
        let wanted = log.wants_file();
        self.making_file.set(wanted);
        Some(wanted.then(|| log.files_end()))
    }

    /// Moves entries of durable records from memory to files; the queues written to are added to `unsynced`.
    pub(super) async fn write_queues(&self, unsynced: &mut Queues<R>) -> Result<(), StoreError> {
        let durable = self.flushed.position();
        let mut queues = self.queues.take_unwritten().into_iter();
        while let Some(queue) = queues.next() {
            let result = queue.write_out(self.runtime.disk(), durable).await;
            unsynced.push(Arc::clone(&queue));
            match result {
                Ok(false) => {}
                Ok(true) => self.queues.note_unwritten(&queue),
                Err(error) => {
                    std::iter::once(queue)
                        .chain(queues)
                        .for_each(|queue| self.queues.note_unwritten(&queue));
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// Bytes that are visible and not below the checkpoint.
    fn unclaimed(&self) -> u64 {
        let claimed = lock(&self.last_checkpoint).logics_offset;
        self.confirmed().saturating_sub(claimed.max(0) as u64)
    }

    /// Syncs log and queues, then claims it.
    async fn save_checkpoint(&self, unsynced: &mut Queues<R>) -> Result<(), StoreError> {
        // Whatever is visible now has its entries in memory at least.
        let claimable = lock(&self.dispatcher).claimable();
        let end = claimable.upto.end;
        if end as i64 <= lock(&self.last_checkpoint).logics_offset {
            return Ok(());
        }
        if self.flushed.position() < end {
            self.flush_wanted.notify();
            self.flushed.reached(end).await?;
        }
        self.write_queues(unsynced).await?;
        self.sync_queues(unsynced).await?;
        self.claim(claimable, None).await
    }

    /// Says in the checkpoint that log and queues are durable up to a position; nothing if a topic was deleted meanwhile,
    /// whose queues the digest counts. `confirm_offset` is for Java's eyes: set by a stop in order alone.
    pub(super) async fn claim(&self, claimable: Claimable, confirm_offset: Option<u64>) -> Result<(), StoreError> {
        self.change_checkpoint(|last| {
            let is_valid = lock(&self.dispatcher).deletions() == claimable.deletions && !self.has_unnamed_deletion();
            is_valid.then(|| Checkpoint {
                physic_time: claimable.upto.last_store_time.0,
                logics_time: claimable.upto.last_store_time.0,
                index_time: self
                    .index
                    .as_ref()
                    .map_or(last.index_time, |index| index.durable_time()),
                master_flushed_offset: last.master_flushed_offset,
                confirm_offset: confirm_offset.unwrap_or(0) as i64,
                logics_offset: claimable.upto.end as i64,
                seal: Some(Seal {
                    digest: claimable.digest,
                    deleting: last.seal.unwrap_or_default().deleting,
                }),
            })
        })
        .await
    }

    /// One change after the other; durable when it returns.
    pub(super) async fn change_checkpoint(
        &self,
        change: impl FnOnce(Checkpoint) -> Option<Checkpoint>,
    ) -> Result<(), StoreError> {
        {
            let mut last = lock(&self.last_checkpoint);
            let Some(next) = change(*last) else { return Ok(()) };
            self.checkpoint.write(&next)?;
            *last = next;
        }
        Ok(self.checkpoint.sync().await?)
    }

    pub(super) async fn sync_queues(&self, unsynced: &mut Queues<R>) -> Result<(), StoreError> {
        let disk = self.runtime.disk();
        let mut created = false;
        for queue in unsynced.drain(..) {
            if queue.sync(disk).await? {
                disk.sync_dir(&self.paths.topic(&queue.topic)).await?;
                created = true;
            }
        }
        if created {
            disk.sync_dir(&self.paths.consume_queue).await?;
            disk.sync_dir(&self.paths.root).await?;
        }
        Ok(())
    }
}
