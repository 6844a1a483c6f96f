//! Consume queues as their files show them when a store is opened. Nothing here reads the log or changes an entry.
//!
//! | way | when | reads per queue |
//! |---|---|---|
//! | [`load_settled`] | the checkpoint is ours | a few small ones, whatever the queue holds, many queues at a time |
//! | [`load_queues`] | it is Java's or says nothing, or the digest does not fit | the newest file up to its end |
//!
//! The quick way looks for the checkpoint's position, checks the last [`QUEUE_READ_SIZE`] bytes before it, and leaves the rest
//! to the digest: a queue that is missing, cut, zeroed at its end or has lost a file does not add up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::join_all;

use super::checkpoint::Seal;
use super::disk::{list, remove_dir_if_empty, remove_if_present};
use super::layout::{ENTRY_SIZE, Entry, Paths, file_name, parse_file_name};
use super::queue::{Queue, QueueParts, topic_hash, weight};
use crate::runtime::{Disk, DiskError, File, OpenMode};

/// Bytes read at once while looking through a queue file.
const QUEUE_READ_SIZE: u64 = 64 << 10;
/// Queues looked at together.
const TOGETHER: usize = 64;

/// A queue as its files show it.
#[derive(Clone, Debug)]
pub(crate) struct LoadedQueue<F> {
    pub(crate) topic: Arc<str>,
    pub(crate) queue_id: i32,
    folder: PathBuf,
    file_size: u64,
    files: BTreeMap<u64, F>,
    min: i64,
    /// Behind the last entry before the first bad one, or before the checkpoint's position.
    pub(crate) next: i64,
    pub(crate) last: Option<Entry>,
    /// Something was wrong with the files: entries may be missing behind `last`.
    pub(crate) is_damaged: bool,
}

impl<F: File> LoadedQueue<F> {
    pub(crate) fn build(self) -> Queue<F> {
        let extent = match self.is_damaged {
            true => i64::MAX,
            false => self.next,
        };
        let parts = QueueParts {
            files: self.files,
            min: self.min,
            next: self.next,
            extent,
        };
        Queue::new(self.topic, self.queue_id, self.folder, self.file_size, parts)
    }

    pub(crate) fn has_entries(&self) -> bool {
        self.min < self.next
    }

    pub(crate) fn end(&self) -> u64 {
        self.last.map_or(0, |last| last.end())
    }

    async fn entry(&self, offset: i64) -> Result<Option<Entry>, DiskError> {
        let position = offset as u64 * ENTRY_SIZE;
        let within = position % self.file_size;
        match self.files.get(&(position - within)) {
            Some(file) => Ok(Entry::decode(&file.read(within, ENTRY_SIZE as usize).await?)),
            None => Ok(None),
        }
    }

    /// The first entry of a record at or behind `physical`, and its offset; the end if there is none.
    pub(crate) async fn first_at_or_behind(&self, physical: u64) -> Result<(i64, Option<Entry>), DiskError> {
        let (mut low, mut high) = (self.min, self.next);
        let mut found = None;
        while low < high {
            let middle = low + (high - low) / 2;
            // A filler says nothing of its place in the log: the next message does.
            let mut at = middle;
            let mut entry = self.entry(at).await?;
            while at + 1 < high && entry.is_none_or(|entry| entry.is_filler()) {
                at += 1;
                entry = self.entry(at).await?;
            }
            match entry.filter(|entry| !entry.is_filler()) {
                Some(entry) if entry.physical >= physical => {
                    high = middle;
                    found = Some((at, entry));
                }
                Some(_) => low = at + 1,
                None => high = middle,
            }
        }
        Ok(match found {
            Some((offset, entry)) => (offset, Some(entry)),
            None => (self.next, None),
        })
    }
}

struct Named {
    topic: Arc<str>,
    queue_id: i32,
    folder: PathBuf,
}

async fn names<D: Disk>(disk: &D, paths: &Paths) -> Result<Vec<Named>, DiskError> {
    let mut names = Vec::new();
    for topic in list(disk, &paths.consume_queue).await? {
        if !topic.is_dir {
            continue;
        }
        let name: Arc<str> = Arc::from(topic.name.as_str());
        for queue in list(disk, &paths.topic(&topic.name)).await? {
            let Ok(queue_id) = queue.name.parse::<i32>() else {
                continue;
            };
            if queue.is_dir && queue_id.to_string() == queue.name {
                names.push(Named {
                    topic: Arc::clone(&name),
                    queue_id,
                    folder: paths.queue(&topic.name, queue_id),
                });
            }
        }
    }
    Ok(names)
}

/// Removes what is left of the queues of topics that were being deleted.
pub(crate) async fn finish_deletions<D: Disk>(disk: &D, paths: &Paths, seal: &Seal) -> Result<(), DiskError> {
    if seal.deleting.iter().all(|hash| *hash == 0) {
        return Ok(());
    }
    for Named { topic, folder, .. } in names(disk, paths).await? {
        if !seal.deleting.contains(&topic_hash(&topic)) {
            continue;
        }
        for entry in list(disk, &folder).await?.iter().rev() {
            remove_if_present(disk, &folder.join(&entry.name)).await?;
        }
        disk.sync_dir(&folder).await?;
        remove_dir_if_empty(disk, &folder).await?;
        remove_dir_if_empty(disk, &paths.topic(&topic)).await?;
    }
    Ok(())
}

/// The queues with their entries of records before `position`; `None` if they do not add up to what the seal says.
pub(crate) async fn load_settled<D: Disk>(
    disk: &D,
    paths: &Paths,
    file_size: u64,
    position: u64,
    seal: &Seal,
) -> Result<Option<Vec<LoadedQueue<D::File>>>, DiskError> {
    let mut queues = Vec::new();
    let mut digest = 0u64;
    let names = names(disk, paths).await?;
    for names in names.chunks(TOGETHER) {
        let loading = names.iter().map(|name| settled(disk, name, file_size, position));
        for queue in join_all(loading).await {
            let Some(queue) = queue? else { return Ok(None) };
            if queue.files.is_empty() {
                // What a deletion may leave.
                continue;
            }
            let next = queue.next.max(0) as u64;
            digest = digest.wrapping_add(weight(&queue.topic, queue.queue_id).wrapping_mul(next));
            queues.push(queue);
        }
    }
    Ok((digest == seal.digest).then_some(queues))
}

async fn settled<D: Disk>(
    disk: &D,
    name: &Named,
    file_size: u64,
    position: u64,
) -> Result<Option<LoadedQueue<D::File>>, DiskError> {
    let Some(files) = open_files(disk, &name.folder, file_size).await? else {
        return Ok(None);
    };
    let min = files.keys().next().map_or(0, |start| (start / ENTRY_SIZE) as i64);
    let mut queue = LoadedQueue {
        topic: Arc::clone(&name.topic),
        queue_id: name.queue_id,
        folder: name.folder.clone(),
        file_size,
        files: BTreeMap::new(),
        min,
        next: min,
        last: None,
        is_damaged: false,
    };
    for (start, file) in files.iter().rev() {
        let Some(end) = boundary(file, file_size, position).await? else {
            return Ok(None);
        };
        queue.next = (start / ENTRY_SIZE) as i64 + end.count as i64;
        queue.last = end.last;
        if end.count > 0 {
            break;
        }
    }
    queue.files = files;
    Ok(Some(queue))
}

/// Files that follow each other and have the right size; `None` if any is out of place.
async fn open_files<D: Disk>(
    disk: &D,
    folder: &Path,
    file_size: u64,
) -> Result<Option<BTreeMap<u64, D::File>>, DiskError> {
    let mut files = BTreeMap::new();
    let mut expected = None;
    for entry in list(disk, folder).await? {
        let Some(start) = parse_file_name(&entry.name) else {
            continue;
        };
        if !start.is_multiple_of(file_size) || expected.is_some_and(|expected| start != expected) {
            return Ok(None);
        }
        expected = start.checked_add(file_size);
        let file = disk.open(&folder.join(&entry.name), OpenMode::Existing).await?;
        if file.len() != file_size {
            return Ok(None);
        }
        files.insert(start, file);
    }
    Ok(Some(files))
}

/// Whether the slot is filled by a record before `position`.
fn is_before(slot: &[u8], position: u64) -> bool {
    Entry::decode(slot).is_some_and(|entry| entry.is_filler() || entry.physical < position)
}

struct Boundary {
    /// Slots filled by records before the position.
    count: u64,
    last: Option<Entry>,
}

/// Where a file's entries of records before `position` end. `None` if the entries around there contradict each other.
async fn boundary<F: File>(file: &F, file_size: u64, position: u64) -> Result<Option<Boundary>, DiskError> {
    let piece = QUEUE_READ_SIZE / ENTRY_SIZE * ENTRY_SIZE;
    // The last piece whose first slot is before the position: the first one, usually the only one that is read.
    let (mut low, mut high) = (0, file_size.div_ceil(piece));
    let mut bytes = file.read(0, piece.min(file_size) as usize).await?;
    let last_of_first = &bytes[bytes.len() - ENTRY_SIZE as usize..];
    if high > 1 && is_before(last_of_first, position) {
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let slot = file.read(middle * piece, ENTRY_SIZE as usize).await?;
            match is_before(&slot, position) {
                true => low = middle,
                false => high = middle,
            }
        }
        if low > 0 {
            let size = (file_size - low * piece).min(piece);
            bytes = file.read(low * piece, size as usize).await?;
        }
    }
    let mut found = Boundary {
        count: low * piece / ENTRY_SIZE,
        last: None,
    };
    let mut slots = bytes.chunks_exact(ENTRY_SIZE as usize).map(Entry::decode);
    let first_behind = loop {
        match slots.next() {
            Some(Some(entry)) if entry.is_filler() => found.count += 1,
            Some(Some(entry)) if entry.physical < position => {
                if !follows(found.last, entry) || entry.end() > position {
                    return Ok(None);
                }
                found.count += 1;
                found.last = Some(entry);
            }
            Some(Some(entry)) => break Some(entry),
            // A slot without an entry, or the end of the piece.
            Some(None) | None => break None,
        }
    };
    // What lies behind the boundary belongs to later records, or to none.
    let mut last = first_behind.or(found.last);
    for entry in slots.flatten() {
        if entry.physical < position || entry.is_filler() || !follows(last, entry) {
            return Ok(None);
        }
        last = Some(entry);
    }
    Ok(Some(found))
}

/// All queues, looked through file by file from the newest. Files that are of no use are removed.
pub(crate) async fn load_queues<D: Disk>(
    disk: &D,
    paths: &Paths,
    file_size: u64,
) -> Result<Vec<LoadedQueue<D::File>>, DiskError> {
    let mut queues = Vec::new();
    for name in names(disk, paths).await? {
        let queue = load_queue(disk, name, file_size).await?;
        if queue.is_damaged || !queue.files.is_empty() {
            queues.push(queue);
        }
    }
    Ok(queues)
}

async fn load_queue<D: Disk>(disk: &D, name: Named, file_size: u64) -> Result<LoadedQueue<D::File>, DiskError> {
    let (files, mut is_damaged) = load_files(disk, &name.folder, file_size).await?;
    let min = files.keys().next().map_or(0, |start| (start / ENTRY_SIZE) as i64);
    let (mut next, mut last) = (min, None);
    // Usually the newest file; one before it if nothing was written to that yet.
    for (start, file) in files.iter().rev() {
        let found = last_entry(file, file_size).await?;
        is_damaged |= found.is_damaged;
        next = (start / ENTRY_SIZE) as i64 + found.count as i64;
        last = found.last;
        if found.count > 0 {
            break;
        }
    }
    Ok(LoadedQueue {
        topic: name.topic,
        queue_id: name.queue_id,
        folder: name.folder,
        file_size,
        files,
        min,
        next,
        last,
        is_damaged,
    })
}

/// Files from the first on as long as size and name are right; the rest is removed, the log has it all.
async fn load_files<D: Disk>(
    disk: &D,
    folder: &Path,
    file_size: u64,
) -> Result<(BTreeMap<u64, D::File>, bool), DiskError> {
    let mut files = BTreeMap::new();
    let mut is_damaged = false;
    for entry in list(disk, folder).await? {
        let Some(start) = parse_file_name(&entry.name) else {
            continue;
        };
        let follows = match files.last_key_value() {
            Some((previous, _)) => start == previous + file_size,
            None => start.is_multiple_of(file_size),
        };
        let path = folder.join(file_name(start));
        let file = disk.open(&path, OpenMode::Existing).await?;
        if !is_damaged && follows && file.len() == file_size {
            files.insert(start, file);
        } else {
            log::warn!("consume queue file {} is of no use and is built anew", path.display());
            is_damaged = true;
            remove_if_present(disk, &path).await?;
        }
    }
    Ok((files, is_damaged))
}

struct FileEntries {
    count: u64,
    last: Option<Entry>,
    is_damaged: bool,
}

/// Entries up to the first slot that holds none, or one that does not follow the last; then looks a little further.
async fn last_entry<F: File>(file: &F, file_size: u64) -> Result<FileEntries, DiskError> {
    let mut found = FileEntries {
        count: 0,
        last: None,
        is_damaged: false,
    };
    let piece = QUEUE_READ_SIZE / ENTRY_SIZE * ENTRY_SIZE;
    let mut at = 0;
    let mut ended = false;
    while at < file_size {
        let size = (file_size - at).min(piece);
        let bytes = file.read(at, size as usize).await?;
        let looks_on = ended;
        for chunk in bytes.chunks_exact(ENTRY_SIZE as usize) {
            match Entry::decode(chunk) {
                Some(entry) if !ended && follows(found.last, entry) => {
                    found.count += 1;
                    found.last = if entry.is_filler() { found.last } else { Some(entry) };
                }
                Some(_) => {
                    found.is_damaged = true;
                    return Ok(found);
                }
                None => ended = true,
            }
        }
        if looks_on {
            break;
        }
        at += size;
    }
    Ok(found)
}

fn follows(last: Option<Entry>, entry: Entry) -> bool {
    entry.is_filler() || last.is_none_or(|last| entry.physical >= last.end())
}
