//! The files of the commit log: each of the same size, named by the position of its first byte, without gaps.
//!
//! Not what lies in them. A file is durable with its name and full size before a record goes into it.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use super::OpenError;
use super::disk::{list, make_dir, remove_if_present};
use super::layout::{file_name, parse_file_name};
use crate::runtime::{Disk, DiskError, DiskErrorKind, File, OpenMode};

/// Bytes looked at in one read when a stretch is searched for anything but zeros.
const SEARCH_SIZE: u64 = 1 << 20;

/// When a cut writes zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zeros {
    /// If anything else is read there.
    IfNeeded,
    /// Also if zeros are read: they may be those of an earlier cut that never reached the device.
    Always,
}

/// How far there are files to append to.
#[derive(Clone, Debug)]
pub(crate) struct FilesEnd {
    /// End of the last file; `u64::MAX` once the store is closed.
    pub(crate) end: u64,
    /// Why the next one could not be made, until it is.
    pub(crate) error: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
pub(crate) struct LogFile<F> {
    pub(crate) start: u64,
    pub(crate) file: F,
}

#[derive(Debug)]
pub(crate) struct LogFiles<F> {
    folder: PathBuf,
    file_size: u64,
    files: RwLock<VecDeque<LogFile<F>>>,
}

impl<F: File> LogFiles<F> {
    /// Opens the files of a folder (made if it is not there). A last file that was never finished is removed.
    pub(crate) async fn load<D: Disk<File = F>>(
        disk: &D,
        folder: &Path,
        file_size: u64,
    ) -> Result<LogFiles<F>, OpenError> {
        make_dir(disk, folder).await?;
        let mut starts: Vec<u64> = list(disk, folder)
            .await?
            .iter()
            .filter(|entry| !entry.is_dir)
            .filter_map(|entry| parse_file_name(&entry.name))
            .collect();
        starts.sort_unstable();
        let mut files = VecDeque::with_capacity(starts.len());
        for (index, start) in starts.iter().enumerate() {
            let path = folder.join(file_name(*start));
            let file = disk.open(&path, OpenMode::Existing).await?;
            let is_last = index + 1 == starts.len();
            if is_last && file.len() < file_size && !has_bytes(&file, 0, file.len()).await? {
                disk.remove(&path).await?;
                disk.sync_dir(folder).await?;
                continue;
            }
            if file.len() != file_size {
                return Err(OpenError::FileSize {
                    file: path.display().to_string(),
                    actual: file.len(),
                    expected: file_size,
                });
            }
            if let Some(LogFile { start: previous, .. }) = files.back()
                && previous + file_size != *start
            {
                return Err(OpenError::FileMissing {
                    expected: file_name(previous + file_size),
                    found: file_name(*start),
                });
            }
            files.push_back(LogFile { start: *start, file });
        }
        if let Some(first) = files.front()
            && !first.start.is_multiple_of(file_size)
        {
            return Err(OpenError::Config(format!(
                "first commit log file {} does not start at a multiple of {file_size} bytes (mappedFileSizeCommitLog)",
                file_name(first.start)
            )));
        }
        Ok(LogFiles {
            folder: folder.to_path_buf(),
            file_size,
            files: RwLock::new(files),
        })
    }

    /// First byte of the first file; `None` without files.
    pub(crate) fn start(&self) -> Option<u64> {
        self.read_lock().front().map(|file| file.start)
    }

    /// End of the last file; 0 without files.
    pub(crate) fn end(&self) -> u64 {
        self.read_lock().back().map_or(0, |file| file.start + self.file_size)
    }

    pub(crate) fn all(&self) -> Vec<LogFile<F>> {
        self.read_lock().iter().cloned().collect()
    }

    pub(crate) fn file_size(&self) -> u64 {
        self.file_size
    }

    /// The file that holds `position`.
    pub(crate) fn at(&self, position: u64) -> Option<LogFile<F>> {
        self.with(position, LogFile::clone)
    }

    fn with<T>(&self, position: u64, take: impl FnOnce(&LogFile<F>) -> T) -> Option<T> {
        let files = self.read_lock();
        let first = files.front()?.start;
        let index = position.checked_sub(first)? / self.file_size;
        files.get(usize::try_from(index).ok()?).map(take)
    }

    /// The files that hold some of `[from, until)`.
    pub(crate) fn covering(&self, from: u64, until: u64) -> Vec<LogFile<F>> {
        let overlaps = |file: &&LogFile<F>| file.start < until && from < file.start + self.file_size;
        self.read_lock().iter().filter(overlaps).cloned().collect()
    }

    /// Whether a stretch within one file is in memory.
    pub(crate) fn resident(&self, position: u64, size: usize) -> bool {
        let resident = self.with(position, |log_file| {
            log_file.file.resident(position - log_file.start, size)
        });
        resident == Some(true)
    }

    /// Copies a stretch within one file, if it is in memory.
    pub(crate) fn read_resident(&self, position: u64, buffer: &mut [u8]) -> Result<bool, DiskError> {
        self.with(position, |log_file| {
            log_file.file.read_resident(position - log_file.start, buffer)
        })
        .unwrap_or_else(|| Err(self.outside(position)))
    }

    /// A slice of a resident stretch within one file.
    pub(crate) fn read_hot(&self, position: u64, size: usize) -> Result<Bytes, DiskError> {
        self.with(position, |log_file| {
            log_file.file.read_hot(position - log_file.start, size)
        })
        .unwrap_or_else(|| Err(self.outside(position)))
    }

    /// Reads within one file.
    pub(crate) async fn read(&self, position: u64, size: usize) -> Result<Bytes, DiskError> {
        let log_file = self.at(position).ok_or_else(|| self.outside(position))?;
        log_file.file.read(position - log_file.start, size).await
    }

    pub(crate) fn write(&self, position: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.with(position, |log_file| {
            log_file.file.write_at(position - log_file.start, &[bytes])
        })
        .unwrap_or_else(|| Err(self.outside(position)))
    }

    /// Makes the file that starts at `start`, behind the last one. Durable with its name when it returns.
    pub(crate) async fn create<D: Disk<File = F>>(&self, disk: &D, start: u64) -> Result<u64, DiskError> {
        assert!(
            self.read_lock()
                .back()
                .is_none_or(|last| last.start + self.file_size == start),
            "log files follow each other"
        );
        let path = self.folder.join(file_name(start));
        // What is left of an attempt that failed half-way.
        remove_if_present(disk, &path).await?;
        let file = disk.open(&path, OpenMode::New).await?;
        file.allocate(self.file_size).await?;
        file.sync().await?;
        disk.sync_dir(&self.folder).await?;
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        files.push_back(LogFile { start, file });
        Ok(start + self.file_size)
    }

    /// Removes what an attempt to make the next file has left: whole as it looks, its length may never reach the device.
    pub(crate) async fn remove_half_made<D: Disk<File = F>>(&self, disk: &D) -> Result<(), DiskError> {
        match remove_if_present(disk, &self.folder.join(file_name(self.end()))).await? {
            true => disk.sync_dir(&self.folder).await,
            false => Ok(()),
        }
    }

    /// Ends the log at `cut`: zeros from there to the end of its file, removes all later files, makes both durable.
    /// Gives the number of bytes that were not zero.
    pub(crate) async fn cut<D: Disk<File = F>>(&self, disk: &D, cut: u64, zeros: Zeros) -> Result<u64, DiskError> {
        let mut cut_bytes = 0;
        // The newest goes first, each durably: a crash in between leaves no gap.
        while let Some(last) = self.last_at_or_behind(cut) {
            if has_bytes(&last.file, 0, self.file_size.min(SEARCH_SIZE)).await? {
                cut_bytes += self.file_size;
            }
            disk.remove(&self.folder.join(file_name(last.start))).await?;
            disk.sync_dir(&self.folder).await?;
            self.files.write().unwrap_or_else(PoisonError::into_inner).pop_back();
        }
        disk.sync_dir(&self.folder).await?;
        let Some(log_file) = self.at(cut) else {
            return Ok(cut_bytes);
        };
        let within = cut - log_file.start;
        // Zeros that are written anyway need no search through what may be a gigabyte.
        let until = match zeros {
            Zeros::IfNeeded => self.file_size,
            Zeros::Always => self.file_size.min(within + SEARCH_SIZE),
        };
        let first = first_byte(&log_file.file, within, until).await?;
        cut_bytes += first.map_or(0, |first| self.file_size - first);
        if first.is_some() || zeros == Zeros::Always {
            log_file.file.zero_range(within, self.file_size - within).await?;
        }
        log_file.file.sync().await?;
        Ok(cut_bytes)
    }

    fn last_at_or_behind(&self, cut: u64) -> Option<LogFile<F>> {
        self.read_lock()
            .back()
            .filter(|last| last.start >= cut && last.start != 0)
            .cloned()
    }

    /// Unlinks the first file, unless it is the only one. Slices of it live on.
    pub(crate) async fn remove_first<D: Disk<File = F>>(&self, disk: &D) -> Result<Option<u64>, DiskError> {
        let first = {
            let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
            if files.len() < 2 {
                return Ok(None);
            }
            files.pop_front()
        };
        let Some(first) = first else { return Ok(None) };
        disk.remove(&self.folder.join(file_name(first.start))).await?;
        disk.sync_dir(&self.folder).await?;
        Ok(Some(first.start))
    }

    pub(crate) fn outside(&self, position: u64) -> DiskError {
        DiskError::new(
            DiskErrorKind::OutOfRange,
            self.folder.clone(),
            format!("no commit log file holds position {position}"),
        )
    }

    fn read_lock(&self) -> std::sync::RwLockReadGuard<'_, VecDeque<LogFile<F>>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn has_bytes<F: File>(file: &F, from: u64, until: u64) -> Result<bool, DiskError> {
    Ok(first_byte(file, from, until).await?.is_some())
}

/// Position of the first byte that is not zero.
async fn first_byte<F: File>(file: &F, from: u64, until: u64) -> Result<Option<u64>, DiskError> {
    let mut at = from;
    while at < until {
        let size = (until - at).min(SEARCH_SIZE);
        let bytes = file.read(at, size as usize).await?;
        if let Some(index) = bytes.iter().position(|byte| *byte != 0) {
            return Ok(Some(at + index as u64));
        }
        at += size;
    }
    Ok(None)
}
