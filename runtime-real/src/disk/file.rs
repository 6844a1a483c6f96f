//! Files: `pwrite` into preallocated space, read-only mappings handed out as [`Bytes`], `fdatasync` off the workers.
//!
//! | call | where it runs | why |
//! |---|---|---|
//! | `write_at` | caller | a copy into the page cache costs less than any hand-off |
//! | `resident` | caller | `mincore`, at most one a second for a piece that was found in memory |
//! | `read_resident` | caller | `preadv2(RWF_NOWAIT)`: the kernel copies what is in memory and refuses the rest |
//! | `read_hot` | caller | a slice of the mapping: one reference count |
//! | `will_read` | tokio's blocking pool, at most four at once | `posix_fadvise(WILLNEED)` |
//! | `read_once` | a read thread, of lower priority | waits for the device and looks at much: see `read_once.rs` |
//! | `read`, `open`, `rename`, … | tokio's blocking pool | may wait for the device |
//! | `sync` | a sync thread | a group pays one hand-off for all its members |
//! | `sync_in_place` | caller; its worker's other tasks move to another thread first | no wake-up between fdatasync and reply |
//!
//! **Dirty bytes.** Per file, at most [`DIRTY_BYTES_MAX`] may be written and not yet synced: past [`DIRTY_BYTES_SOFT`] a sync
//! thread starts an fdatasync in the background, past the maximum the writer itself syncs before it goes on. So the
//! kernel's own throttling, which would stop a worker for seconds, is not reached. The error of a background sync is
//! kept and answers every later sync of that file: nobody may believe in bytes that the kernel has dropped.
//!
//! **Write-out.** What is appended to a file goes to the device in pieces of `WRITE_OUT_BYTES` (1 MiB) soon after it was written
//! (`sync_file_range`, on a thread of low priority). Left to an fdatasync or to the kernel, it would go in one long burst that holds a
//! processor for milliseconds, with whatever request wants to run there waiting. It promises nothing: an fdatasync follows.
//!
//! **Mappings** are read-only, made on the first `read_hot` over the length the file has then, and made anew when a
//! range lies beyond. An old mapping lives until its last slice drops; removing a file only unlinks it. Nothing here ever
//! shrinks a file, so a mapped page always has a file block behind it.
//!
//! **What a mapping may be used for.** Its bytes go to sockets and are not looked at here. The kernel copies them in `writev`; a page
//! that was evicted after `resident` costs this worker one read of the device, and if that sector is bad, the call ends
//! with EFAULT and the connection with it. A look from user space would end the process with SIGBUS instead. So whatever must be looked
//! at (queue entries, headers, checksums) is copied by `read_resident` or `read`, which give errors as values.
//! `MADV_POPULATE_READ`, which gives errors as values, says nothing of the moment after, either; it is used to save faults.

use std::fs::File as StdFile;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use bytes::{Bytes, BytesMut};
use orrery_core::runtime::{DiskError, DiskErrorKind, File, Source, WallMillis};
use rustix::fs::{Advice, FallocateFlags};
use rustix::io::{Errno, ReadWriteFlags};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::{Counts, Readers, RealDisk, disk_error};
use crate::mapping::Mapping;
use crate::read_once::{DirectFile, read_once};
use crate::sync_threads::SyncThreads;

/// Written and not yet synced bytes of one file at which a background sync starts.
pub const DIRTY_BYTES_SOFT: u64 = 64 << 20;
/// Written and not yet synced bytes of one file beyond which its writer waits for the disk. A quarter of a second of a disk
/// that takes 1 GB/s, and far below the kernel's dirty limit on any machine that holds a broker.
pub const DIRTY_BYTES_MAX: u64 = 256 << 20;
/// Appended bytes that are handed to the device at once.
const WRITE_OUT_BYTES: u64 = 1 << 20;
/// Chunks of one `pwritev`.
const SLICE_COUNT_MAX: usize = 64;
/// Zeros of one write where the file system cannot zero a range by itself.
const ZERO_BYTES: usize = 256 * 1024;

/// Calls that tell the kernel to read ahead, under way at once. One more is left out: the reader then waits for its own reads.
const ADVICE_COUNT_MAX: usize = 4;

/// An open file; clones share it.
#[derive(Clone)]
pub struct RealFile(Arc<Shared>);

struct Shared {
    file: StdFile,
    path: PathBuf,
    len: AtomicU64,
    /// Bytes ever written through this handle, and how many of them a finished sync covers.
    written: AtomicU64,
    synced: AtomicU64,
    /// A background sync is under way.
    syncing: AtomicBool,
    /// Where the next write-out begins: appended bytes before it are on their way to the device.
    handed_out: AtomicU64,
    /// Why a background sync or write-out failed: what was written before it may be gone.
    lost: OnceLock<DiskError>,
    mapping: RwLock<Mapping>,
    direct: DirectFile,
    readers: Arc<Readers>,
    syncs: Arc<SyncThreads>,
    write_outs: Arc<SyncThreads>,
    /// Calls of all files that tell the kernel to read ahead.
    advices: Arc<AtomicUsize>,
    counts: Arc<Counts>,
}

impl File for RealFile {
    fn path(&self) -> &Path {
        &self.0.path
    }

    #[inline]
    fn len(&self) -> u64 {
        self.0.len.load(Ordering::Acquire)
    }

    async fn modified(&self) -> Result<WallMillis, DiskError> {
        self.off_worker(|shared| {
            let modified = shared.file.metadata()?.modified()?;
            Ok(WallMillis(crate::wall_millis(modified)))
        })
        .await
    }

    fn resident(&self, offset: u64, size: usize) -> bool {
        let Ok((start, end)) = self.0.range(offset, size) else {
            return false;
        };
        let is_resident = self.0.mapped(end, |mapping| mapping.is_resident(start, end));
        is_resident.unwrap_or(false)
    }

    fn read_resident(&self, offset: u64, buffer: &mut [u8]) -> Result<bool, DiskError> {
        let shared = &self.0;
        shared.range(offset, buffer.len())?;
        let mut done = 0;
        while done < buffer.len() {
            let mut rest = [std::io::IoSliceMut::new(&mut buffer[done..])];
            match rustix::io::preadv2(&shared.file, &mut rest, offset + done as u64, ReadWriteFlags::NOWAIT) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(false),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                // A file system that cannot tell.
                Err(Errno::OPNOTSUPP) => {
                    if !self.resident(offset, buffer.len()) {
                        return Ok(false);
                    }
                    let read = shared.file.read_exact_at(buffer, offset);
                    return read.map(|()| true).map_err(|error| shared.error(&error));
                }
                Err(error) => return Err(shared.error(&error.into())),
            }
        }
        Ok(true)
    }

    fn read_hot(&self, offset: u64, size: usize) -> Result<Bytes, DiskError> {
        let (start, end) = self.0.range(offset, size)?;
        self.0.mapped(end, |mapping| mapping.slice(start, end))
    }

    fn will_read(&self, offset: u64, size: usize) {
        let advices = &self.0.advices;
        if advices.fetch_add(1, Ordering::AcqRel) >= ADVICE_COUNT_MAX {
            advices.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let shared = Arc::clone(&self.0);
        drop(tokio::task::spawn_blocking(move || {
            // It fails for a range that no file can have; then there is nothing to read ahead.
            let size = std::num::NonZeroU64::new(size as u64);
            let _ = rustix::fs::fadvise(&shared.file, offset, size, Advice::WillNeed);
            shared.advices.fetch_sub(1, Ordering::AcqRel);
        }));
    }

    async fn read(&self, offset: u64, size: usize) -> Result<Bytes, DiskError> {
        self.0.range(offset, size)?;
        self.off_worker(move |shared| {
            let mut buffer = BytesMut::zeroed(size);
            shared.file.read_exact_at(&mut buffer, offset)?;
            Ok(buffer.freeze())
        })
        .await
    }

    async fn read_once<T, F>(&self, offset: u64, size: usize, look: F) -> Result<T, DiskError>
    where
        T: Send + 'static,
        F: FnOnce(Bytes, Source) -> T + Send + 'static,
    {
        let (start, end) = self.0.range(offset, size)?;
        let shared = Arc::clone(&self.0);
        let done = self.0.readers.threads.run(move || {
            let is_resident = shared.mapped(end, |mapping| mapping.is_resident_now(start, end));
            let direct = (!is_resident.unwrap_or(false)).then_some(&shared.direct);
            let read = read_once(&shared.file, direct, &shared.readers.buffers, offset, size);
            read.map(|(bytes, source)| look(bytes, source))
                .map_err(|error| shared.error(&error))
        });
        done.await
            .unwrap_or_else(|_| Err(self.0.error(&io::Error::other("the thread that reads ended"))))
    }

    fn write_at(&self, offset: u64, chunks: &[&[u8]]) -> Result<(), DiskError> {
        let shared = &self.0;
        let size = shared
            .write_chunks(offset, chunks)
            .map_err(|error| shared.error(&error))?;
        shared.len.fetch_max(offset + size, Ordering::AcqRel);
        let written = shared.written.fetch_add(size, Ordering::AcqRel) + size;
        let dirty = written.saturating_sub(shared.synced.load(Ordering::Acquire));
        if dirty >= WRITE_OUT_BYTES {
            self.write_out(offset + size);
            if dirty > DIRTY_BYTES_SOFT {
                self.bound_dirty_bytes(dirty)?;
            }
        }
        Ok(())
    }

    async fn allocate(&self, size: u64) -> Result<(), DiskError> {
        if size <= self.len() {
            return Ok(());
        }
        self.off_worker(move |shared| {
            match rustix::fs::fallocate(&shared.file, FallocateFlags::empty(), 0, size) {
                // The length alone: space is then reserved by writing.
                Err(Errno::OPNOTSUPP) => shared.grow(size)?,
                done => done?,
            }
            shared.len.fetch_max(size, Ordering::AcqRel);
            Ok(())
        })
        .await
    }

    async fn zero_range(&self, offset: u64, size: u64) -> Result<(), DiskError> {
        if size == 0 {
            return Ok(());
        }
        self.off_worker(move |shared| {
            match rustix::fs::fallocate(&shared.file, FallocateFlags::ZERO_RANGE, offset, size) {
                Err(Errno::OPNOTSUPP) => shared.write_zeros(offset, size)?,
                done => done?,
            }
            shared.len.fetch_max(offset + size, Ordering::AcqRel);
            Ok(())
        })
        .await
    }

    async fn fill(&self, offset: u64, size: u64) -> Result<(), DiskError> {
        let filled = self.on_sync_thread(move |shared| {
            shared.write_zeros(offset, size).map_err(|error| shared.error(&error))?;
            shared.len.fetch_max(offset + size, Ordering::AcqRel);
            shared.sync_now()
        });
        filled.await
    }

    async fn sync(&self) -> Result<(), DiskError> {
        self.on_sync_thread(Shared::sync_now).await
    }

    fn sync_in_place(&self) -> Result<(), DiskError> {
        aside(|| self.0.sync_now())
    }
}

impl RealFile {
    pub(super) fn new(file: StdFile, path: &Path, len: u64, disk: &RealDisk) -> RealFile {
        RealFile(Arc::new(Shared {
            file,
            path: path.to_path_buf(),
            len: AtomicU64::new(len),
            written: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            syncing: AtomicBool::new(false),
            handed_out: AtomicU64::new(0),
            lost: OnceLock::new(),
            mapping: RwLock::new(Mapping::default()),
            direct: DirectFile::default(),
            readers: Arc::clone(&disk.readers),
            syncs: Arc::clone(&disk.syncs),
            write_outs: Arc::clone(&disk.write_outs),
            advices: Arc::clone(&disk.advices),
            counts: Arc::clone(&disk.counts),
        }))
    }

    async fn off_worker<T, F>(&self, work: F) -> Result<T, DiskError>
    where
        T: Send + 'static,
        F: FnOnce(&Shared) -> io::Result<T> + Send + 'static,
    {
        let shared = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&shared).map_err(|error| shared.error(&error)));
        done.await
            .unwrap_or_else(|error| Err(self.0.error(&io::Error::other(error))))
    }

    /// Lets the whole pieces before `end` go to the device that have not gone yet.
    fn write_out(&self, end: u64) {
        let shared = &self.0;
        let (from, until) = (shared.handed_out.load(Ordering::Acquire), end - end % WRITE_OUT_BYTES);
        let exchanged = |from| {
            shared
                .handed_out
                .compare_exchange(from, until, Ordering::AcqRel, Ordering::Acquire)
        };
        if from >= until || exchanged(from).is_err() {
            return;
        }
        let shared = Arc::clone(shared);
        drop(self.0.write_outs.run(move || {
            if let Err(error) = shared.begin_write_out(from, until - from) {
                log::error!("write-out: {error}");
                let _ = shared.lost.set(error);
            }
        }));
    }

    #[cold]
    fn bound_dirty_bytes(&self, dirty: u64) -> Result<(), DiskError> {
        let shared = &self.0;
        if dirty > DIRTY_BYTES_MAX {
            return aside(|| shared.sync_now());
        }
        if !shared.syncing.swap(true, Ordering::AcqRel) {
            let shared = Arc::clone(shared);
            drop(self.0.syncs.run(move || {
                if let Err(error) = shared.sync_now() {
                    log::error!("background sync: {error}");
                    let _ = shared.lost.set(error);
                }
                shared.syncing.store(false, Ordering::Release);
            }));
        }
        Ok(())
    }
}

impl RealFile {
    async fn on_sync_thread<F>(&self, work: F) -> Result<(), DiskError>
    where
        F: FnOnce(&Shared) -> Result<(), DiskError> + Send + 'static,
    {
        let shared = Arc::clone(&self.0);
        let done = self.0.syncs.run(move || work(&shared));
        match done.await {
            Ok(result) => result,
            Err(_) => Err(self.0.error(&io::Error::other("sync thread ended"))),
        }
    }
}

impl Shared {
    /// `[start, end)` inside the file, as indices.
    fn range(&self, offset: u64, size: usize) -> Result<(usize, usize), DiskError> {
        let len = self.len.load(Ordering::Acquire);
        let end = offset.checked_add(size as u64).filter(|end| *end <= len);
        let Some(end) = end.and_then(|end| usize::try_from(end).ok()) else {
            let message = format!("{size} bytes at {offset} of a file of {len}");
            return Err(DiskError::new(DiskErrorKind::OutOfRange, &self.path, message));
        };
        Ok((end - size, end))
    }

    /// Takes something from the mapping, which reaches to `end` at least.
    fn mapped<T>(&self, end: usize, take: impl FnOnce(&Mapping) -> T) -> Result<T, DiskError> {
        {
            let mapping = self.mapping.read().unwrap_or_else(PoisonError::into_inner);
            if end <= mapping.len() {
                return Ok(take(&mapping));
            }
        }
        self.map_again(end, take)
    }

    /// Maps the whole file as long as it is now; at least `end` bytes.
    #[cold]
    fn map_again<T>(&self, end: usize, take: impl FnOnce(&Mapping) -> T) -> Result<T, DiskError> {
        let mut mapping = self.mapping.write().unwrap_or_else(PoisonError::into_inner);
        if end > mapping.len() {
            let len = usize::try_from(self.len.load(Ordering::Acquire)).unwrap_or(usize::MAX);
            assert!(end <= len, "a range inside of the file");
            *mapping = Mapping::new(&self.file, len).map_err(|error| self.error(&error))?;
        }
        Ok(take(&mapping))
    }

    fn write_chunks(&self, offset: u64, chunks: &[&[u8]]) -> io::Result<u64> {
        self.counts.wrote(chunks.iter().map(|chunk| chunk.len() as u64).sum());
        if let [one] = chunks {
            self.file.write_all_at(one, offset)?;
            return Ok(one.len() as u64);
        }
        let mut at = offset;
        for group in chunks.chunks(SLICE_COUNT_MAX) {
            let mut slices = [IoSlice::new(&[]); SLICE_COUNT_MAX];
            for (slice, chunk) in slices.iter_mut().zip(group) {
                *slice = IoSlice::new(chunk);
            }
            let mut left = &mut slices[..group.len()];
            IoSlice::advance_slices(&mut left, 0);
            while !left.is_empty() {
                let written = match rustix::io::pwritev(&self.file, left, at) {
                    Ok(0) => return Err(ErrorKind::WriteZero.into()),
                    Err(Errno::INTR) => continue,
                    written => written?,
                };
                at += written as u64;
                IoSlice::advance_slices(&mut left, written);
            }
        }
        Ok(at - offset)
    }

    fn write_zeros(&self, offset: u64, size: u64) -> io::Result<()> {
        self.counts.wrote(size);
        let zeros = vec![0_u8; ZERO_BYTES];
        let mut done = 0;
        while done < size {
            let count = ZERO_BYTES.min(usize::try_from(size - done).unwrap_or(ZERO_BYTES));
            self.file.write_all_at(&zeros[..count], offset + done)?;
            done += count as u64;
        }
        Ok(())
    }

    /// Makes the file `size` bytes long unless it is longer: never shortens.
    fn grow(&self, size: u64) -> io::Result<()> {
        if self.file.metadata()?.len() < size {
            self.file.write_all_at(&[0], size - 1)?;
        }
        Ok(())
    }

    fn sync_now(&self) -> Result<(), DiskError> {
        let upto = self.written.load(Ordering::Acquire);
        if let Some(lost) = self.lost.get() {
            return Err(lost.clone());
        }
        self.counts.synced();
        self.file.sync_data().map_err(|error| self.error(&error))?;
        self.synced.fetch_max(upto, Ordering::AcqRel);
        Ok(())
    }

    /// Asks the kernel to write the dirty pages of a range; does not wait for the device, unless its queue is full. What the device then
    /// reports is kept by the kernel for the next fdatasync.
    fn begin_write_out(&self, from: u64, size: u64) -> Result<(), DiskError> {
        let (Ok(from), Ok(size)) = (i64::try_from(from), i64::try_from(size)) else {
            return Ok(());
        };
        // SAFETY: the call takes no pointer; the descriptor is that of the open file.
        match unsafe { libc::sync_file_range(self.file.as_raw_fd(), from, size, libc::SYNC_FILE_RANGE_WRITE) } {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                // A file system that cannot: fdatasync does it all.
                error
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::EINVAL | libc::ESPIPE)
                    ) =>
                {
                    Ok(())
                }
                error => Err(self.error(&error)),
            },
        }
    }

    fn error(&self, error: &io::Error) -> DiskError {
        disk_error(&self.path, error)
    }
}

/// Runs something that waits for the disk on this thread, after handing this worker's other tasks to another thread.
fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use orrery_core::runtime::{Disk, OpenMode};

    use super::*;

    fn run<T>(test: impl AsyncFnOnce(RealDisk, PathBuf) -> T) -> T {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(test(RealDisk::default(), dir.path().to_path_buf()))
    }

    #[test]
    fn many_chunks_arrive_in_order_past_the_limit_of_one_call() {
        run(async |disk, dir| {
            let file = disk.open(&dir.join("log"), OpenMode::New).await.unwrap();
            let chunks: Vec<Vec<u8>> = (0..200_u8).map(|byte| vec![byte; usize::from(byte % 7)]).collect();
            let slices: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            file.write_at(3, &slices).unwrap();
            let all = chunks.concat();
            assert_eq!(file.len(), 3 + all.len() as u64);
            assert_eq!(file.read(3, all.len()).await.unwrap(), all);
            assert_eq!(file.read_hot(3, all.len()).unwrap(), all);
        });
    }

    #[test]
    fn a_slice_outlives_growth_removal_and_the_file_itself() {
        run(async |disk, dir| {
            let path = dir.join("log");
            let file = disk.open(&path, OpenMode::New).await.unwrap();
            file.write_at(0, &[b"first"]).unwrap();
            let old = file.read_hot(0, 5).unwrap();
            file.allocate(1 << 20).await.unwrap();
            file.write_at((1 << 20) - 4, &[b"last"]).unwrap();
            let new = file.read_hot((1 << 20) - 4, 4).unwrap();
            disk.remove(&path).await.unwrap();
            drop(file);
            assert_eq!((&old[..], &new[..]), (&b"first"[..], &b"last"[..]));
        });
    }

    #[test]
    fn ranges_beyond_the_end_are_errors_not_faults() {
        run(async |disk, dir| {
            let file = disk.open(&dir.join("log"), OpenMode::New).await.unwrap();
            file.write_at(0, &[b"abc"]).unwrap();
            for (offset, size) in [(0, 4), (4, 0), (u64::MAX, 1), (1, usize::MAX)] {
                assert_eq!(file.read_hot(offset, size).unwrap_err().kind, DiskErrorKind::OutOfRange);
                assert_eq!(
                    file.read(offset, size).await.unwrap_err().kind,
                    DiskErrorKind::OutOfRange
                );
            }
            assert_eq!(file.read_hot(3, 0).unwrap(), Bytes::new());
        });
    }

    #[test]
    fn what_was_evicted_is_not_copied_until_it_was_read() {
        run(async |disk, dir| {
            let file = disk.open(&dir.join("log"), OpenMode::New).await.unwrap();
            file.write_at(0, &[&[7; 1 << 20]]).unwrap();
            file.sync().await.unwrap();
            rustix::fs::fadvise(&file.0.file, 0, None, Advice::DontNeed).unwrap();
            let mut buffer = [0; 5_000];
            if file.read_resident(100_000, &mut buffer).unwrap() {
                // A file system in memory evicts nothing.
                return;
            }
            assert!(!file.resident(100_000, 5_000));
            assert_eq!(file.read(100_000, 5_000).await.unwrap(), [7; 5_000][..]);
            assert!(file.resident(100_000, 5_000));
            assert!(file.read_resident(100_000, &mut buffer).unwrap());
            assert_eq!(buffer, [7; 5_000]);
        });
    }

    #[test]
    fn zeroing_keeps_the_rest_and_mapped_slices_see_it() {
        run(async |disk, dir| {
            let file = disk.open(&dir.join("log"), OpenMode::New).await.unwrap();
            file.write_at(0, &[&[7; 20_000]]).unwrap();
            let slice = file.read_hot(0, 20_000).unwrap();
            file.zero_range(100, 15_000).await.unwrap();
            assert_eq!(file.len(), 20_000);
            assert!(slice[..100].iter().all(|byte| *byte == 7));
            assert!(slice[100..15_100].iter().all(|byte| *byte == 0));
            assert!(slice[15_100..].iter().all(|byte| *byte == 7));
            file.0.write_zeros(0, 20_000).unwrap();
            assert!(slice.iter().all(|byte| *byte == 0));
        });
    }

    #[test]
    fn unsynced_bytes_stay_below_their_limit() {
        run(async |disk, dir| {
            let file = disk.open(&dir.join("log"), OpenMode::New).await.unwrap();
            let block = vec![1_u8; 8 << 20];
            for index in 0..48 {
                file.write_at(index * (8 << 20) % (64 << 20), &[&block]).unwrap();
                let dirty = file.0.written.load(Ordering::Acquire) - file.0.synced.load(Ordering::Acquire);
                assert!(dirty <= DIRTY_BYTES_MAX, "{dirty}");
            }
            file.sync().await.unwrap();
            assert_eq!(
                file.0.written.load(Ordering::Acquire),
                file.0.synced.load(Ordering::Acquire)
            );
        });
    }

    #[test]
    fn appended_bytes_go_out_in_whole_pieces_and_once() {
        run(async |disk, dir| {
            let file = disk.open(&dir.join("log"), OpenMode::New).await.unwrap();
            let handed_out = || file.0.handed_out.load(Ordering::Acquire);
            let group = vec![1_u8; 300_000];
            let mut end = 0;
            while end < 4 << 20 {
                file.write_at(end, &[&group]).unwrap();
                end += group.len() as u64;
                assert_eq!(handed_out(), end - end % WRITE_OUT_BYTES, "at {end}");
            }
            let before = handed_out();
            file.write_at(0, &[&group]).unwrap();
            assert_eq!(handed_out(), before, "what was overwritten waits for its sync");
            file.sync().await.unwrap();
            for _ in 0..4 {
                file.write_at(end, &[&group[..262_000]]).unwrap();
                end += 262_000;
            }
            assert!(end > before + WRITE_OUT_BYTES);
            assert_eq!(
                handed_out(),
                before,
                "less than a piece is not synced: nothing to hurry with"
            );
        });
    }

    #[test]
    fn a_failed_background_sync_answers_every_later_one() {
        run(async |disk, dir| {
            let file = disk.open(&dir.join("log"), OpenMode::New).await.unwrap();
            let lost = DiskError::new(DiskErrorKind::Device, file.path(), "bad sector");
            file.0.lost.set(lost).unwrap();
            assert_eq!(file.sync().await.unwrap_err().kind, DiskErrorKind::Device);
            assert_eq!(file.sync_in_place().unwrap_err().kind, DiskErrorKind::Device);
        });
    }

    #[test]
    fn a_lock_is_exclusive_until_dropped() {
        run(async |disk, dir| {
            let path = dir.join("lock");
            let lock = disk.lock(&path).await.unwrap();
            let refused = disk.lock(&path).await.err().map(|error| error.kind);
            assert_eq!(refused, Some(DiskErrorKind::Locked));
            drop(lock);
            disk.lock(&path).await.unwrap();
        });
    }

    /// The longest pause of a task that only yields, while two others run `block` on the two workers.
    fn longest_pause(block: fn()) -> Duration {
        run(async |_, _| {
            let blockers = [
                tokio::spawn(async move { block() }),
                tokio::spawn(async move { block() }),
            ];
            let started = Instant::now();
            let ticker = tokio::spawn(async move {
                let (mut last, mut longest) = (started, Duration::ZERO);
                while started.elapsed() < Duration::from_millis(600) {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                    tokio::task::yield_now().await;
                }
                longest
            });
            for blocker in blockers {
                blocker.await.unwrap();
            }
            ticker.await.unwrap()
        })
    }

    #[test]
    fn a_slow_sync_in_place_stops_no_other_task() {
        const SLOW: Duration = Duration::from_millis(400);
        let in_place = longest_pause(|| aside(|| std::thread::sleep(SLOW)));
        assert!(in_place < SLOW / 2, "{in_place:?}");
        // Without the hand-over of the worker's tasks the ticker would wait: the test can fail.
        let careless = longest_pause(|| std::thread::sleep(SLOW));
        assert!(careless > SLOW / 2, "{careless:?}");
    }
}
