//! Opening and closing: lock, abort marker, recovery, tasks; and back.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use super::checkpoint::{Checkpoint, CheckpointFile};
use super::disk::{list, make_dir, open_existing};
use super::extension::Extension;
use super::files::{FilesEnd, LogFiles};
use super::formats::dledger::DLEDGER_FOLDER_PREFIX;
use super::index::Index;
use super::layout::Paths;
use super::log::{AppendLog, LogLimits};
use super::pieces::Pieces;
use super::pressure::{DiskGauge, WriteClock};
use super::recovery::{Recovered, recover};
use super::trust::Trust;
use super::walkers::Walkers;
use super::write::{Dispatcher, Written};
use super::{Arrivals, FileOf, OpenError, Owner, Recovery, Shared, Store, StoreConfig, StoreError, tasks};
use crate::probe::Fact;
use crate::protocol::message::BLANK_SIZE;
use crate::runtime::{Disk, DiskErrorKind, File, OpenMode, Runtime, site};
use crate::sync::{Notify, Progress, Watch, lock};

/// Smallest file of the log: a record with a name and a few properties must fit.
const LOG_FILE_SIZE_MIN: u64 = 1024;

impl<R: Runtime> Store<R> {
    /// Takes the directory, recovers what is in it and starts the store's tasks. `arrivals` hears of messages that are
    /// appended from now on, not of recovered ones.
    pub async fn open(
        runtime: &R,
        config: StoreConfig,
        arrivals: Arc<dyn Arrivals>,
    ) -> Result<(Store<R>, Recovery), OpenError> {
        check_config(&config)?;
        let paths = Paths::new(&config);
        let disk = runtime.disk();
        refuse_dledger(disk, &paths).await?;
        make_dir(disk, &paths.root).await?;
        sync_ancestors(disk, &paths.root).await?;
        let store_lock = match disk.lock(&paths.lock).await {
            Ok(store_lock) => store_lock,
            Err(error) if error.kind == DiskErrorKind::Locked => {
                return Err(OpenError::Locked {
                    path: paths.root.display().to_string(),
                });
            }
            Err(error) => return Err(error.into()),
        };
        let clean = open_existing(disk, &paths.abort).await?.is_none();
        // Defect (as RocketMQ 7355): the end of a store that crashed is not looked at.
        let clean = clean || site(runtime, "crash-taken-for-clean-stop");
        mark_open(disk, &paths).await?;
        let (checkpoint_file, mut checkpoint) = CheckpointFile::open(disk, &paths.checkpoint).await?;
        // The index runs ahead of the flush: its younger entries may be of records that are lost.
        checkpoint.index_time = checkpoint.index_time.min(checkpoint.physic_time);
        disk.sync_dir(&paths.root).await?;
        let recovered = recover(disk, &config, &paths, &checkpoint, clean).await?;
        let recovery = recovered.recovery.clone();
        make_first_file(disk, &recovered.files, recovery.log_end).await?;
        runtime.announce(Fact::Recovered {
            end: recovery.log_end,
            lost_bytes: recovery.cut_bytes,
        });
        for gap in &recovery.gaps {
            runtime.announce(Fact::Gap {
                topic: &gap.topic,
                queue_id: gap.queue_id,
                offset: gap.offset,
            });
        }

        let shared = Arc::new(share(
            runtime,
            config,
            paths,
            arrivals,
            recovered,
            checkpoint_file,
            Checkpoint {
                // What was being deleted is gone.
                seal: None,
                ..checkpoint
            },
        ));
        *lock(&shared.lock) = Some(store_lock);
        // Everything recovered is durable and in the queues.
        let claimable = lock(&shared.dispatcher).claimable();
        shared.claim(claimable, None).await.map_err(|error| match error {
            StoreError::Disk(error) => OpenError::Disk(error),
            other => OpenError::Config(other.to_string()),
        })?;
        let owner = Owner {
            tasks: Mutex::new(tasks::start(&shared)),
            shared,
        };
        let store = Store { owner: Arc::new(owner) };
        Ok((store, recovery))
    }

    /// Flushes everything, says so in the checkpoint, takes the abort marker away and lets the directory go. Appends
    /// are refused from now on; reads of what is open go on.
    pub async fn close(&self) -> Result<(), StoreError> {
        let shared = &self.owner.shared;
        {
            let _log = lock(&shared.log);
            if shared.closed.swap(true, Ordering::AcqRel) {
                return Ok(());
            }
        }
        let result = shared.write_group();
        // What a task has begun on files works on after a cancellation, or stays half done: it must not outlive the lock of the
        // directory, nor leave a queue that counts as synced and is not.
        shared.making_file.until(|making| !making).await;
        shared.writing_queues.until(|writing| !writing).await;
        shared.cleaning.until(|cleaning| !cleaning).await;
        shared.zeroing.until(|zeroing| !zeroing).await;
        let mut tasks = std::mem::take(&mut *lock(&self.owner.tasks));
        tasks.shutdown().await;
        // Who waits for what is read ahead waits for nothing now.
        shared.pieces_read.set(u64::MAX);
        shared.files_end.set(FilesEnd {
            end: u64::MAX,
            error: None,
        });
        let result = match result {
            Ok(()) => shared.settle().await,
            Err(error) => Err(error),
        };
        shared.flushed.fail(StoreError::Closed);
        lock(&shared.lock).take();
        result
    }
}

impl<R: Runtime> Shared<R> {
    /// With the tasks gone: makes everything durable, then marks the stop as clean.
    async fn settle(&self) -> Result<(), StoreError> {
        // The flush task may have been cancelled in the middle of a group.
        self.end_flush();
        self.flush_group().await?;
        // Defect (as ROCKETMQ-320): the stop counts as clean while entries are still in memory.
        if site(&self.runtime, "clean-mark-before-queues") {
            let disk = self.runtime.disk();
            disk.remove(&self.paths.abort).await?;
            disk.sync_dir(&self.paths.root).await?;
            return Ok(());
        }
        let mut unsynced = self.queues.all();
        self.write_queues(&mut unsynced).await?;
        self.sync_queues(&mut unsynced).await?;
        self.settle_index().await?;
        self.settle_deletions().await?;
        let claimable = lock(&self.dispatcher).claimable();
        let end = claimable.upto.end;
        assert_eq!(
            end,
            lock(&self.log).end(),
            "everything appended is visible before a clean stop"
        );
        self.claim(claimable, Some(end)).await?;
        let disk = self.runtime.disk();
        self.files.remove_half_made(disk).await?;
        disk.remove(&self.paths.abort).await?;
        disk.sync_dir(&self.paths.root).await?;
        Ok(())
    }
}

fn check_config(config: &StoreConfig) -> Result<(), OpenError> {
    if config.commit_log_file_size < LOG_FILE_SIZE_MIN || config.commit_log_file_size > u64::from(u32::MAX) {
        return Err(OpenError::Config(format!(
            "commit log files of {} bytes (mappedFileSizeCommitLog): allowed are {LOG_FILE_SIZE_MIN} to {}",
            config.commit_log_file_size,
            u32::MAX
        )));
    }
    Ok(())
}

/// A first start may have made the folders above and died before it synced their names. Folders that may not be opened
/// are not ours.
async fn sync_ancestors<D: Disk>(disk: &D, root: &Path) -> Result<(), OpenError> {
    for folder in root.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
        match disk.sync_dir(folder).await {
            Err(error) if error.kind == DiskErrorKind::Device => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// A DLedger log (`enableDLegerCommitLog=true`) is no log of ours: nothing of it is touched.
async fn refuse_dledger<D: Disk>(disk: &D, paths: &Paths) -> Result<(), OpenError> {
    let entries = list(disk, &paths.root).await?;
    let folder = entries
        .iter()
        .find(|entry| entry.is_dir && entry.name.starts_with(DLEDGER_FOLDER_PREFIX));
    match folder {
        Some(folder) => Err(OpenError::Dledger {
            path: paths.root.join(&folder.name).display().to_string(),
        }),
        None => Ok(()),
    }
}

/// Leaves the abort marker, durable before anything else changes. Java writes its process id; nobody reads it.
async fn mark_open<D: Disk>(disk: &D, paths: &Paths) -> Result<(), OpenError> {
    let file = disk.open(&paths.abort, OpenMode::Create).await?;
    file.write_at(0, &[b"1"])?;
    file.sync().await?;
    disk.sync_dir(&paths.root).await?;
    Ok(())
}

/// The file that the next record goes to exists when the store is open.
async fn make_first_file<D: Disk>(disk: &D, files: &LogFiles<D::File>, log_end: u64) -> Result<(), OpenError> {
    if files.end() < log_end + BLANK_SIZE as u64 {
        files.create(disk, files.end().max(log_end)).await?;
    }
    Ok(())
}

fn share<R: Runtime>(
    runtime: &R,
    config: StoreConfig,
    paths: Paths,
    arrivals: Arc<dyn Arrivals>,
    recovered: Recovered<FileOf<R>>,
    checkpoint_file: CheckpointFile<FileOf<R>>,
    checkpoint: Checkpoint,
) -> Shared<R> {
    let limits = LogLimits {
        file_size: config.commit_log_file_size,
        pending_bytes_max: config.pending_bytes_max,
    };
    let end = recovered.recovery.log_end;
    let written = Written {
        end,
        last_store_time: recovered.last_store_time,
    };
    let files_end = recovered.files.end();
    let extension = Extension::new(paths.extension.clone());
    let queues = recovered.queues.all();
    let digest = queues.iter().fold(0u64, |sum, queue| sum.wrapping_add(queue.digest()));
    let index = config
        .index
        .then(|| Index::new(config.index_slots, config.index_entries, checkpoint.index_time));
    Shared {
        runtime: runtime.clone(),
        config,
        paths,
        arrivals,
        files: recovered.files,
        queues: recovered.queues,
        writer: Mutex::new(()),
        log: Mutex::new(AppendLog::new(limits, end, files_end, recovered.last_store_time)),
        dispatcher: Mutex::new(Dispatcher::new(written, digest)),
        written: Mutex::new(written),
        on_file: Progress::new(end),
        write_wanted: Notify::new(),
        flushed: Progress::new(end),
        flush_wanted: Notify::new(),
        flushing: AtomicBool::new(false),
        lone_flushes: AtomicU64::new(0),
        confirmed: AtomicU64::new(end),
        files_end: Watch::new(FilesEnd {
            end: files_end,
            error: None,
        }),
        file_wanted: Notify::new(),
        making_file: Watch::new(false),
        writing_queues: Watch::new(false),
        cleaning: Watch::new(false),
        zeroing: Watch::new(false),
        trust: RwLock::new(Trust::from(recovered.verified_from)),
        walkers: Mutex::new(Walkers::default()),
        pieces: Mutex::new(Pieces::default()),
        has_walkers: AtomicBool::new(false),
        piece_wanted: Notify::new(),
        pieces_read: Watch::new(0),
        damaged: RwLock::new(recovered.recovery.damaged.iter().copied().collect()),
        recovered_clean: recovered.recovery.clean,
        index,
        extension,
        deletions: Mutex::default(),
        pending: OnceLock::new(),
        checkpoint: checkpoint_file,
        last_checkpoint: Mutex::new(checkpoint),
        disk_gauge: DiskGauge::new(),
        write_clock: WriteClock::default(),
        refusals: Mutex::default(),
        write_groups: AtomicU64::new(0),
        flush_groups: AtomicU64::new(0),
        poison: OnceLock::new(),
        closed: AtomicBool::new(false),
        lock: Mutex::new(None),
    }
}
