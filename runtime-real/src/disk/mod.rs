//! Disks: names, locks and space of the machine's file systems. What is done with an open file: `file.rs`.

mod file;

use std::fs::{self, File as StdFile, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use orrery_core::runtime::{Disk, DiskError, DiskErrorKind, DiskTotals, Entry, OpenMode, Space};
use rustix::io::Errno;

pub use file::{DIRTY_BYTES_MAX, DIRTY_BYTES_SOFT, RealFile};

use crate::read_once::Buffers;
use crate::sync_threads::SyncThreads;

/// The process's file systems. Paths are those of the operating system.
#[derive(Clone)]
pub struct RealDisk {
    syncs: Arc<SyncThreads>,
    readers: Arc<Readers>,
    /// Begins write-outs.
    write_outs: Arc<SyncThreads>,
    advices: Arc<AtomicUsize>,
    counts: Arc<Counts>,
}

impl Default for RealDisk {
    fn default() -> Self {
        RealDisk {
            syncs: Arc::default(),
            readers: Arc::new(Readers {
                threads: SyncThreads::for_reading(),
                buffers: Arc::default(),
            }),
            write_outs: Arc::new(SyncThreads::for_write_out()),
            advices: Arc::default(),
            counts: Arc::default(),
        }
    }
}

/// For [`File::read_once`].
struct Readers {
    threads: SyncThreads,
    buffers: Arc<Buffers>,
}

/// What [`Disk::totals`] tells.
#[derive(Default)]
struct Counts {
    write_bytes: AtomicU64,
    write_calls: AtomicU64,
    sync_calls: AtomicU64,
}

impl Counts {
    fn wrote(&self, bytes: u64) {
        self.write_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.write_calls.fetch_add(1, Ordering::Relaxed);
    }

    fn synced(&self) {
        self.sync_calls.fetch_add(1, Ordering::Relaxed);
    }
}

impl Disk for RealDisk {
    type File = RealFile;
    type Lock = RealLock;

    async fn open(&self, path: &Path, mode: OpenMode) -> Result<RealFile, DiskError> {
        let disk = self.clone();
        on_path(path, move |path| {
            let mut options = OpenOptions::new();
            options.read(true).write(true);
            match mode {
                OpenMode::Existing => &mut options,
                OpenMode::Create => options.create(true).truncate(false),
                OpenMode::New => options.create_new(true),
            };
            let file = options.open(path)?;
            let metadata = file.metadata()?;
            if metadata.is_dir() {
                return Err(io::Error::new(ErrorKind::IsADirectory, "is a directory"));
            }
            Ok(RealFile::new(file, path, metadata.len(), &disk))
        })
        .await
    }

    async fn create_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        on_path(path, |path| fs::create_dir_all(path)).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        let to = to.to_path_buf();
        on_path(from, move |from| fs::rename(from, &to)).await
    }

    async fn remove(&self, path: &Path) -> Result<(), DiskError> {
        on_path(path, |path| fs::remove_file(path)).await
    }

    async fn remove_dir(&self, path: &Path) -> Result<(), DiskError> {
        on_path(path, |path| fs::remove_dir(path)).await
    }

    async fn list(&self, path: &Path) -> Result<Vec<Entry>, DiskError> {
        on_path(path, |path| {
            let mut entries = Vec::new();
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                entries.push(Entry {
                    name: entry.file_name().to_string_lossy().into_owned(),
                    is_dir: entry.file_type()?.is_dir(),
                });
            }
            entries.sort();
            Ok(entries)
        })
        .await
    }

    async fn sync_dir(&self, path: &Path) -> Result<(), DiskError> {
        self.counts.synced();
        on_path(path, |path| StdFile::open(path)?.sync_all()).await
    }

    fn totals(&self) -> DiskTotals {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        DiskTotals {
            write_bytes: get(&self.counts.write_bytes),
            write_calls: get(&self.counts.write_calls),
            sync_calls: get(&self.counts.sync_calls),
        }
    }

    async fn space(&self, path: &Path) -> Result<Space, DiskError> {
        on_path(path, |path| {
            let stat = rustix::fs::statvfs(path)?;
            // As `df` and RocketMQ (`UtilAll.getDiskPartitionSpaceUsedPercent`) count: what is kept for the system is no space.
            let usable = stat.f_blocks.saturating_sub(stat.f_bfree).saturating_add(stat.f_bavail);
            Ok(Space {
                total_bytes: usable.saturating_mul(stat.f_frsize),
                available_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            })
        })
        .await
    }

    async fn lock(&self, path: &Path) -> Result<RealLock, DiskError> {
        let shown = path.to_path_buf();
        let locked = on_path(path, |path| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)?;
            match file.try_lock() {
                Ok(()) => Ok(Some(RealLock { _file: file })),
                Err(TryLockError::WouldBlock) => Ok(None),
                Err(TryLockError::Error(error)) => Err(error),
            }
        });
        locked
            .await?
            .ok_or_else(|| DiskError::new(DiskErrorKind::Locked, shown, "locked by another process"))
    }
}

/// An exclusive lock; the kernel frees it when the file is closed, at the latest with the process.
pub struct RealLock {
    _file: StdFile,
}

async fn on_path<T, F>(path: &Path, work: F) -> Result<T, DiskError>
where
    T: Send + 'static,
    F: FnOnce(&Path) -> io::Result<T> + Send + 'static,
{
    let owned = path.to_path_buf();
    let done = tokio::task::spawn_blocking(move || work(&owned));
    let result = done.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    result.map_err(|error| disk_error(path, &error))
}

fn disk_error(path: &Path, error: &io::Error) -> DiskError {
    let kind = match error.kind() {
        ErrorKind::NotFound => DiskErrorKind::NotFound,
        ErrorKind::AlreadyExists => DiskErrorKind::AlreadyExists,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => DiskErrorKind::Full,
        ErrorKind::UnexpectedEof => DiskErrorKind::OutOfRange,
        _ if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => DiskErrorKind::Device,
        _ => DiskErrorKind::Other,
    };
    DiskError::new(kind, path, error.to_string())
}
