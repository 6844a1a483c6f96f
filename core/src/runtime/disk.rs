//! Files as core needs them.
//!
//! | call | blocks the caller | durable when it returns |
//! |---|---|---|
//! | [`File::write_at`] | for a copy into the page cache; for longer while the disk is behind the dirty limit | no |
//! | [`File::resident`], [`File::read_resident`] | no: the page cache is asked, never the device | – |
//! | [`File::read_hot`] | no, if the range is resident | – |
//! | [`File::will_read`] | no: runs off the reactors, nobody waits for it | – |
//! | [`File::read`], [`File::read_once`] | no: run off the reactors | – |
//! | [`File::sync`], [`File::sync_in_place`] | no / yes | data and length of this file |
//! | [`Disk::sync_dir`] | no | creations, renames and removals in that directory |
//!
//! A process kill keeps everything written; a power loss keeps only what was synced, and any part of the rest.

use std::future::Future;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::WallMillis;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskErrorKind {
    NotFound,
    AlreadyExists,
    /// No space left on the device.
    Full,
    /// Another process holds the lock.
    Locked,
    /// The range lies outside of the file.
    OutOfRange,
    /// The device reports an error: contents and durability of the range are unknown.
    Device,
    /// Anything else; the message says what.
    Other,
}

/// A failed disk operation.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {message}", path.display())]
pub struct DiskError {
    pub kind: DiskErrorKind,
    pub path: PathBuf,
    pub message: String,
}

impl DiskError {
    pub fn new(kind: DiskErrorKind, path: impl Into<PathBuf>, message: impl Into<String>) -> DiskError {
        DiskError {
            kind,
            path: path.into(),
            message: message.into(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// The file must exist.
    Existing,
    /// Create if absent. The directory entry is durable after [`Disk::sync_dir`].
    Create,
    /// The file must not exist.
    New,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub name: String,
    pub is_dir: bool,
}

/// Where the bytes of a [`File::read_once`] come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The page cache, all of them: it holds the same bytes.
    Memory,
    /// The device, some of them: what the page cache will hold is another reading.
    Device,
}

/// Size of the file system that holds a path, without what is reserved for the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub total_bytes: u64,
    pub available_bytes: u64,
}

/// What was asked of the disks since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskTotals {
    pub write_bytes: u64,
    pub write_calls: u64,
    /// Of files and directories.
    pub sync_calls: u64,
}

/// The file systems of one node. Paths are the caller's; a simulated node has a root of its own.
pub trait Disk: Clone + Send + Sync + 'static {
    type File: File;
    /// An exclusive lock, released when dropped or when the process ends.
    type Lock: Send + Sync + 'static;

    fn open(&self, path: &Path, mode: OpenMode) -> impl Future<Output = Result<Self::File, DiskError>> + Send;
    fn create_dir_all(&self, path: &Path) -> impl Future<Output = Result<(), DiskError>> + Send;
    /// Replaces `to` if it exists. Durable after [`sync_dir`](Disk::sync_dir) of both parents.
    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = Result<(), DiskError>> + Send;
    /// Unlinks a file. Open handles and slices of it stay valid.
    fn remove(&self, path: &Path) -> impl Future<Output = Result<(), DiskError>> + Send;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> impl Future<Output = Result<(), DiskError>> + Send;
    /// Names in a directory, sorted. A missing directory is [`DiskErrorKind::NotFound`].
    fn list(&self, path: &Path) -> impl Future<Output = Result<Vec<Entry>, DiskError>> + Send;
    fn sync_dir(&self, path: &Path) -> impl Future<Output = Result<(), DiskError>> + Send;
    fn space(&self, path: &Path) -> impl Future<Output = Result<Space, DiskError>> + Send;
    /// For operators' eyes only; a runtime that does not count says zeros.
    fn totals(&self) -> DiskTotals {
        DiskTotals::default()
    }
    /// Takes an exclusive lock on the file at `path` (created if absent), or fails with [`DiskErrorKind::Locked`].
    fn lock(&self, path: &Path) -> impl Future<Output = Result<Self::Lock, DiskError>> + Send;
}

/// An open file; clones share it. A mapped file never shrinks.
pub trait File: Clone + Send + Sync + 'static {
    fn path(&self) -> &Path;

    /// Current length in bytes.
    fn len(&self) -> u64;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Last modification by the node's wall clock.
    fn modified(&self) -> impl Future<Output = Result<WallMillis, DiskError>> + Send;

    /// Whether the whole range is in memory, so that nobody who looks at it waits for the device. True may be wrong a
    /// moment later, or (for what was true less than a second ago) already: the kernel evicts when it wants. False for a
    /// range that lies outside of the file.
    fn resident(&self, offset: u64, size: usize) -> bool;

    /// Copies a range that is resident; false, with the buffer in an unknown state, if any of it is not. The answer and the copy
    /// are one step: no eviction comes between them, and no bad sector is met.
    fn read_resident(&self, offset: u64, buffer: &mut [u8]) -> Result<bool, DiskError>;

    /// A slice of the mapping, without a copy. Only for [`resident`](File::resident) ranges: a cold page would block the
    /// reactor. Only to be handed to a socket: the kernel answers a bad sector under it with an error (EFAULT), where a look
    /// at it from here would end the process. Whoever wants to look uses the other reads. Stays valid after removal.
    fn read_hot(&self, offset: u64, size: usize) -> Result<Bytes, DiskError>;

    /// Says that the range will be read soon: the device begins to fetch it. Whether it succeeds is seen by reading.
    fn will_read(&self, offset: u64, size: usize);

    /// Reads off the reactors; device errors are values.
    fn read(&self, offset: u64, size: usize) -> impl Future<Output = Result<Bytes, DiskError>> + Send;

    /// As [`read`](File::read), of what is wanted once, by somebody who can wait: what is in memory is copied; the rest comes from the
    /// device and is not kept in memory, where it would take the place of what others want. `look` gets the bytes where they were
    /// read, off the reactors, on a thread that gives way to them.
    fn read_once<T, F>(&self, offset: u64, size: usize, look: F) -> impl Future<Output = Result<T, DiskError>> + Send
    where
        T: Send + 'static,
        F: FnOnce(Bytes, Source) -> T + Send + 'static;

    /// Writes the chunks one after another at `offset`, growing the file if needed. On error the range's content is
    /// unknown. In simulation a stalled disk pauses the node here, as a blocked worker would be in production.
    fn write_at(&self, offset: u64, chunks: &[&[u8]]) -> Result<(), DiskError>;

    /// Makes the file at least `size` bytes long, with space reserved; new bytes read as zero.
    fn allocate(&self, size: u64) -> impl Future<Output = Result<(), DiskError>> + Send;

    /// Overwrites a range with zeros (not durable before `sync`).
    fn zero_range(&self, offset: u64, size: u64) -> impl Future<Output = Result<(), DiskError>> + Send;

    /// Writes zeros to a range and makes them durable, off the reactors and in blocks of their own: a later sync of records there
    /// has nothing but the records to write. Space is as [`allocate`](File::allocate) left it.
    fn fill(&self, offset: u64, size: u64) -> impl Future<Output = Result<(), DiskError>> + Send {
        async move {
            self.zero_range(offset, size).await?;
            self.sync().await
        }
    }

    /// Makes data and length durable (fdatasync), off the reactors. After an error nothing is known about what
    /// was written since the last success.
    fn sync(&self) -> impl Future<Output = Result<(), DiskError>> + Send;

    /// As [`sync`](File::sync), on the calling thread: for a lone writer, where a thread hand-off would cost more than it saves.
    /// In simulation it pauses the node for as long as the disk takes.
    fn sync_in_place(&self) -> Result<(), DiskError>;
}
