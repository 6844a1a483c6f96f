//! How much of a store is in the page cache, and taking it out of there.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::Context;
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{Advice, fadvise};

/// Bytes of files, and how many of them are in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Residency {
    pub(super) file_bytes: u64,
    pub(super) resident_bytes: u64,
}

impl Residency {
    /// Over all files below a folder.
    pub(super) fn of(dir: &Path) -> anyhow::Result<Residency> {
        let mut sum = Residency::default();
        for path in files(dir)? {
            let file = File::open(&path).with_context(|| path.display().to_string())?;
            let bytes = file.metadata()?.len();
            sum.file_bytes += bytes;
            sum.resident_bytes += resident_bytes(&file, bytes)?;
        }
        Ok(sum)
    }

    pub(super) fn percent(&self) -> f64 {
        self.resident_bytes as f64 * 100.0 / self.file_bytes.max(1) as f64
    }

    pub(super) fn text(&self) -> String {
        format!(
            "{:.1} of {:.1} MiB resident ({:.1} %)",
            super::report::mebibytes(self.resident_bytes),
            super::report::mebibytes(self.file_bytes),
            self.percent()
        )
    }
}

/// Asks the kernel to forget every file below a folder. What is dirty is written first; pages that a process has mapped and touched
/// stay, so the server must be down for a cold start.
pub(super) fn drop_cached(dir: &Path) -> anyhow::Result<()> {
    for path in files(dir)? {
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        file.sync_data()?;
        fadvise(&file, 0, None, Advice::DontNeed).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Every file below a folder, in the order of names.
pub(super) fn files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn resident_bytes(file: &File, bytes: u64) -> anyhow::Result<u64> {
    let length = usize::try_from(bytes)?;
    if length == 0 {
        return Ok(0);
    }
    let page = rustix::param::page_size();
    let mapping: MmapRaw = MmapOptions::new().len(length).map_raw_read_only(file.as_raw_fd())?;
    let mut pages = vec![0_u8; length.div_ceil(page)];
    // SAFETY: the mapping begins at a page and is `length` bytes long while it lives, and `pages` has a byte for each of its pages.
    // No mapped byte is read.
    let done = unsafe { libc::mincore(mapping.as_mut_ptr().cast(), length, pages.as_mut_ptr()) };
    if done != 0 {
        return Err(std::io::Error::last_os_error()).context("mincore");
    }
    let resident = pages.iter().filter(|page| **page & 1 == 1).count() * page;
    Ok(resident as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_just_written_is_resident_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let page = rustix::param::page_size() as u64;
        fs::create_dir(dir.path().join("below")).unwrap();
        fs::write(dir.path().join("a"), vec![1; 3 * page as usize]).unwrap();
        fs::write(dir.path().join("below/b"), vec![1; 10]).unwrap();
        fs::write(dir.path().join("empty"), b"").unwrap();
        let found = Residency::of(dir.path()).unwrap();
        assert_eq!((found.file_bytes, found.resident_bytes), (3 * page + 10, 4 * page));
        drop_cached(dir.path()).unwrap();
        let after = Residency::of(dir.path()).unwrap();
        // A file system in memory cannot forget.
        assert!(after.resident_bytes <= found.resident_bytes, "{}", after.text());
        assert!(Residency::of(&dir.path().join("absent")).is_err());
    }
}
