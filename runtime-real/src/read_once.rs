//! Reading what is wanted once: from the page cache if it is there, else from the device past the page cache (`O_DIRECT`).
//!
//! A read of old data through the page cache costs a page for each 4 KiB, taken from what others want, and filled by one more copy;
//! on the machine of `docs/read-path.md` that is slower than the device. Past the cache the device writes into a buffer that is used
//! again and again. File systems that cannot (tmpfs) are read through the cache.
//!
//! Buffers are mapped pages of [`BUFFER_SIZE`]; up to [`SPARE_COUNT_MAX`] spare ones are kept, the others go back to the system at once.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use memmap2::MmapMut;
use orrery_core::runtime::Source;

/// Position, size and address of a direct read are multiples of it: the largest block of common devices.
const BLOCK_SIZE: usize = 4096;
/// What the store reads ahead at once, 2 MiB, wherever it begins. Larger reads get a buffer of their own.
const BUFFER_SIZE: usize = (2 << 20) + 2 * BLOCK_SIZE;
const SPARE_COUNT_MAX: usize = 4;

#[derive(Default)]
pub(crate) struct Buffers {
    spare: Mutex<Vec<MmapMut>>,
}

impl Buffers {
    fn take(&self, size: usize) -> io::Result<MmapMut> {
        if size <= BUFFER_SIZE
            && let Some(buffer) = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop()
        {
            return Ok(buffer);
        }
        MmapMut::map_anon(size.max(BUFFER_SIZE))
    }

    fn put(&self, buffer: MmapMut) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.len() == BUFFER_SIZE && spare.len() < SPARE_COUNT_MAX {
            spare.push(buffer);
        }
    }
}

/// A part of a buffer that was read into. The buffer is spare again when the last slice is gone.
struct Filled {
    buffer: Option<MmapMut>,
    start: usize,
    end: usize,
    buffers: Arc<Buffers>,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer[self.start..self.end])
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.buffers.put(buffer);
        }
    }
}

/// The same file, opened for direct reads when they are first wanted; `None` inside if it cannot be.
#[derive(Default)]
pub(crate) struct DirectFile(OnceLock<Option<File>>);

impl DirectFile {
    fn get(&self, file: &File) -> Option<&File> {
        let opened = self.0.get_or_init(|| {
            // By its descriptor: its name may be gone.
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECT)
                .open(path)
                .ok()
        });
        opened.as_ref()
    }
}

/// Reads `[offset, offset + size)`, which lies inside of the file; past the page cache, if `direct` is given.
pub(crate) fn read_once(
    file: &File,
    direct: Option<&DirectFile>,
    buffers: &Arc<Buffers>,
    offset: u64,
    size: usize,
) -> io::Result<(Bytes, Source)> {
    let before = (offset % BLOCK_SIZE as u64) as usize;
    let span = (before + size).next_multiple_of(BLOCK_SIZE);
    let mut buffer = buffers.take(span)?;
    let filled = |buffer, start| Filled {
        buffer: Some(buffer),
        start,
        end: start + size,
        buffers: Arc::clone(buffers),
    };
    if let Some(direct) = direct.and_then(|direct| direct.get(file))
        && read_blocks(direct, &mut buffer[..span], offset - before as u64, before + size)?
    {
        return Ok((Bytes::from_owner(filled(buffer, before)), Source::Device));
    }
    file.read_exact_at(&mut buffer[..size], offset)?;
    // Through the page cache, which now holds the same bytes.
    Ok((Bytes::from_owner(filled(buffer, 0)), Source::Memory))
}

/// Fills at least `needed` bytes. False if the file system does not read that way.
fn read_blocks(direct: &File, buffer: &mut [u8], offset: u64, needed: usize) -> io::Result<bool> {
    let mut done = 0;
    while done < needed {
        match direct.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            // Only the end of a file is no whole block.
            Ok(count) if done + count < needed && count % BLOCK_SIZE != 0 => return Ok(false),
            Ok(count) => done += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(size: usize) -> Vec<u8> {
        (0..size).map(|index| (index * 7 + index / 251) as u8).collect()
    }

    fn read(file: &File, buffers: &Arc<Buffers>, offset: u64, size: usize) -> (Bytes, Source) {
        read_once(file, None, buffers, offset, size).expect("a healthy disk")
    }

    #[test]
    fn a_range_is_the_same_from_memory_and_from_the_device() {
        let file = tempfile::tempfile().expect("a temporary file");
        let bytes = content((3 << 20) + 77);
        file.write_all_at(&bytes, 0).expect("room");
        let buffers = Arc::new(Buffers::default());
        let ranges = [
            (0, 10),
            (1, 4095),
            (4095, 2),
            (5000, 1 << 20),
            ((3 << 20) - 5, 82),
            (7, 3 << 20),
        ];
        for (offset, size) in ranges {
            let (got, source) = read(&file, &buffers, offset, size);
            assert_eq!(source, Source::Memory);
            assert!(got == bytes[offset as usize..][..size]);
        }
        let direct = DirectFile::default();
        let is_possible = direct.get(&file).is_some();
        for (offset, size) in ranges {
            let (got, source) = read_once(&file, Some(&direct), &buffers, offset, size).expect("a healthy disk");
            assert!(got == bytes[offset as usize..][..size], "{size} at {offset}");
            assert!(is_possible || source == Source::Memory);
        }
    }

    #[test]
    fn a_buffer_is_used_again_when_its_last_slice_is_gone() {
        let file = tempfile::tempfile().expect("a temporary file");
        file.write_all_at(&content(10_000), 0).expect("room");
        let buffers = Arc::new(Buffers::default());
        let spare = || buffers.spare.lock().expect("no panic").len();
        let (bytes, _) = read(&file, &buffers, 5, 100);
        let slice = bytes.slice(50..);
        drop(bytes);
        assert_eq!(spare(), 0);
        drop(slice);
        assert_eq!(spare(), 1);
        let held: Vec<_> = (0..2 * SPARE_COUNT_MAX).map(|_| read(&file, &buffers, 0, 9)).collect();
        drop(held);
        assert_eq!(spare(), SPARE_COUNT_MAX);
    }
}
