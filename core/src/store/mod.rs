//! RocketMQ's files: commit log, consume queues, checkpoint; append, flush, dispatch, recovery, reads.
//!
//! [`Store`] is the driver: it executes on a [`Disk`] what the machines beside it decide (`log`: where
//! records go; `scan`, `recovery`: where the log ends; `dispatch`: which queue entries a record gets; `tail`s of queues).
//! It knows nothing of topics' configuration, consumers or the network.
//!
//! A message goes: `append` (positions assigned, encoded into memory) → `written` (one write per group) → with
//! synchronous flush `flushed` → the *confirm position* passes it → its queue entry is made, [`Arrivals`] is told, readers see
//! it. Nothing is visible beyond the confirm position: end of what is written, or of what is durable with [`FlushMode::Sync`].
//!
//! Laws: nothing is acknowledged after a failed write or sync (the log is *poisoned* until it is opened again); a record
//! that came from the device passed its CRC before it is handed out; queue offsets are dense; store times never decrease; the checkpoint claims only
//! what was synced.

mod batch_queues;
mod checkpoint;
mod config;
mod deletion;
mod disk;
mod dispatch;
mod extension;
mod files;
mod flush;
pub mod formats;
mod index;
pub mod json;
mod layout;
mod load;
mod log;
mod open;
mod pending;
mod pieces;
mod pressure;
mod queue;
mod queues;
mod read;
mod read_ahead;
mod recovery;
mod replay;
mod retention;
mod salvage;
mod scan;
mod select;
mod tasks;
mod trust;
mod values;
mod walkers;
mod write;
mod zeros;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

pub use config::{FlushMode, StoreConfig, TransferLimit};
pub use pending::{Committed, Pending};
pub use values::{
    AppendError, Appended, Arrivals, Boundary, Bounds, Gap, GetRequest, GetStatus, Got, OpenError, Positions,
    QueueName, Recovery, StoreError, StoreInfo, TagFilter,
};

use crate::runtime::{Disk, DiskError, Runtime, TaskSet, WallMillis};
use crate::sync::{Notify, Progress, Watch, lock};
use checkpoint::{Checkpoint, CheckpointFile};
use deletion::Deletion;
use extension::Extension;
use files::{FilesEnd, LogFiles};
use index::Index;
use layout::Paths;
use log::AppendLog;
use pieces::Pieces;
pub use pressure::RefusalCounts;
use pressure::{DiskGauge, WriteClock};
use queues::QueueTable;
use trust::Trust;
use walkers::Walkers;
use write::{Dispatcher, Visible, Written};

type FileOf<R> = <<R as Runtime>::Disk as Disk>::File;
type QueueOf<R> = Arc<queue::Queue<FileOf<R>>>;
type LockOf<R> = <<R as Runtime>::Disk as Disk>::Lock;

/// One broker's log and queues. Clones share it; when the last is gone without [`close`](Store::close), its tasks end and
/// the next start is one after a crash.
pub struct Store<R: Runtime> {
    owner: Arc<Owner<R>>,
}

impl<R: Runtime> Clone for Store<R> {
    fn clone(&self) -> Self {
        Store {
            owner: Arc::clone(&self.owner),
        }
    }
}

/// Holds the tasks, which hold the shared part: dropping the last store cancels them.
struct Owner<R: Runtime> {
    shared: Arc<Shared<R>>,
    tasks: Mutex<TaskSet<R>>,
}

/// What the store and its tasks share. Locks are taken in this order: writer, log, last checkpoint, dispatcher, a queue, the small
/// ones; none is held across an await.
struct Shared<R: Runtime> {
    runtime: R,
    config: StoreConfig,
    paths: Paths,
    arrivals: Arc<dyn Arrivals>,
    files: LogFiles<FileOf<R>>,
    queues: QueueTable<FileOf<R>>,

    /// Serialises writing groups and making records visible.
    writer: Mutex<()>,
    log: Mutex<AppendLog<Visible<R>>>,
    dispatcher: Mutex<Dispatcher<R>>,
    written: Mutex<Written>,
    /// End of what is written, to be waited for; fails when the log is poisoned.
    on_file: Progress<StoreError>,
    /// A writer has done its share and leaves the rest to the task that writes.
    write_wanted: Notify,

    /// Position up to which everything is durable; fails when the log is poisoned.
    flushed: Progress<StoreError>,
    flush_wanted: Notify,
    flushing: AtomicBool,
    /// Flush groups in a row that had at most one waiter.
    lone_flushes: AtomicU64,

    confirmed: AtomicU64,
    /// End of the last log file: advanced by the task that makes files.
    files_end: Watch<FilesEnd>,
    file_wanted: Notify,
    /// A log file is half made: closing waits for the rest.
    making_file: Watch<bool>,
    /// Queue files, log files that have expired are being worked on: closing waits for that, too.
    writing_queues: Watch<bool>,
    cleaning: Watch<bool>,
    /// Zeros are being written ahead of the end; the log has a barrier there. Closing waits for it.
    zeroing: Watch<bool>,

    trust: RwLock<Trust>,
    /// Locked before the pieces.
    walkers: Mutex<Walkers>,
    pieces: Mutex<Pieces>,
    /// There are walkers or pieces.
    has_walkers: AtomicBool,
    piece_wanted: Notify,
    /// Counts pieces that were read, or could not be.
    pieces_read: Watch<u64>,
    damaged: RwLock<BTreeSet<u64>>,
    recovered_clean: bool,
    index: Option<Index<FileOf<R>>>,
    extension: Extension<FileOf<R>>,
    /// Locked behind the last checkpoint, before the dispatcher.
    deletions: Mutex<Vec<Deletion<R>>>,
    pending: OnceLock<Pending>,
    checkpoint: CheckpointFile<FileOf<R>>,
    last_checkpoint: Mutex<Checkpoint>,
    disk_gauge: DiskGauge,
    write_clock: WriteClock,
    refusals: Mutex<RefusalCounts>,
    write_groups: AtomicU64,
    flush_groups: AtomicU64,

    poison: OnceLock<StoreError>,
    closed: AtomicBool,
    lock: Mutex<Option<LockOf<R>>>,
}

impl<R: Runtime> Shared<R> {
    /// From now on nothing is acknowledged.
    fn poisoned(&self, error: &DiskError) -> StoreError {
        let error = StoreError::Poisoned(error.to_string().into());
        let first = self.poison.get_or_init(|| {
            ::log::error!("{error}");
            error
        });
        self.flushed.fail(first.clone());
        self.on_file.fail(first.clone());
        first.clone()
    }

    fn check(&self) -> Result<(), StoreError> {
        if let Some(error) = self.poison.get() {
            return Err(error.clone());
        }
        if self.closed.load(std::sync::atomic::Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        Ok(())
    }

    fn confirmed(&self) -> u64 {
        self.confirmed.load(std::sync::atomic::Ordering::Acquire)
    }
}

impl<R: Runtime> Store<R> {
    /// Numbers for runtime info and metrics.
    pub fn info(&self) -> StoreInfo {
        use std::sync::atomic::Ordering::Relaxed;
        let shared = &self.owner.shared;
        let (log_end, last_store_time, (appended_records, appended_bytes)): (u64, WallMillis, (u64, u64)) = {
            let log = lock(&shared.log);
            (log.end(), log.last_store_time(), log.totals())
        };
        StoreInfo {
            log_start: shared.files.start().unwrap_or(0),
            log_end,
            written: lock(&shared.written).end,
            flushed: shared.flushed.position(),
            confirmed: shared.confirmed(),
            last_store_time,
            queues: shared.queues.len(),
            appended_records,
            appended_bytes,
            write_groups: shared.write_groups.load(Relaxed),
            flush_groups: shared.flush_groups.load(Relaxed),
            disk_used_percent: shared.disk_gauge.used_percent(),
            refused: *lock(&shared.refusals),
            write_busy_ms: shared
                .write_clock
                .elapsed(|| shared.runtime.mono())
                .map_or(0, |busy| busy.as_millis() as u64),
            poisoned: shared.poison.get().is_some(),
        }
    }

    /// First and next offset of a queue; `None` if it has never held a message.
    pub fn bounds(&self, topic: &str, queue_id: i32) -> Option<Bounds> {
        let queue = self.owner.shared.queues.get(topic, queue_id)?;
        Some(queue.bounds())
    }

    /// All queues, by topic and id.
    pub fn queues(&self) -> Vec<(QueueName, Bounds)> {
        let queues = self.owner.shared.queues.all();
        let named = queues.iter().map(|queue| {
            let name = QueueName {
                topic: Arc::clone(&queue.topic),
                queue_id: queue.queue_id,
            };
            (name, queue.bounds())
        });
        named.collect()
    }

    /// Removes a topic's queues. Its records go with the log files that hold them. After an error it goes on by itself; until it is through,
    /// nothing can be appended to the topic.
    pub async fn delete_topic(&self, topic: &str) -> Result<(), StoreError> {
        self.owner.shared.delete_topic(topic).await
    }
}
