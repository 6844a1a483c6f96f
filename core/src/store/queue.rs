//! One consume queue: its entries from the first to the next offset, partly in memory, all (but the newest) in files.
//!
//! An entry goes to the in-memory tail when its record becomes visible, from there to RocketMQ's files by a background
//! task, and is read from whichever has it. Nothing here decides what an entry says: dispatch does.
//!
//! Invariants: entries are dense from `min` to `next`; the tail holds all that are not in files; an offset is pushed
//! once. Source of the format: `store/ConsumeQueue.java`.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::layout::{ENTRY_SIZE, Entry, file_name};
use super::trust::READ_BACK_SIZE;
use super::{Bounds, StoreError};
use crate::runtime::{Disk, DiskError, File, OpenMode};
use crate::sync::lock;

/// Written entries that stay in the tail for readers close to the end: two pulls, 1.5 KiB of each queue that is idle.
const TAIL_KEPT: usize = 64;
/// Bytes behind the last entry that are looked at for leftovers.
const LOOK_SIZE: u64 = 64 << 10;
/// Entries written in one piece: 80 KiB. A record that becomes visible meanwhile waits for its encoding.
const WRITE_COUNT_MAX: usize = 4 * 1024;

/// Entries looked at in one step when they are in a file: 1280 bytes.
const VISIT_COUNT: usize = 64;
/// Entries read at once from a file that is not in memory: 64 KiB; and the bytes behind them that are read ahead: the messages of a
/// tenth of a second.
const LOAD_COUNT: i64 = 3276;
const READ_AHEAD_SIZE: u64 = 1 << 20;

/// Entries that may come from the device along with one: those of its page before it, and of what the kernel reads ahead.
const READ_BACK_BEFORE: i64 = 256;
const READ_BACK_BEHIND: i64 = (READ_BACK_SIZE / ENTRY_SIZE) as i64;

/// What a push found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// The first unwritten entry: the queue has to be put on the list of those to write.
    First,
    Further,
    /// The offset was there already.
    Duplicate,
    /// Offsets in between are missing: nothing was pushed.
    Gap,
    /// The topic has been deleted: nothing was pushed.
    Gone,
}

/// The newest entries, in memory.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    /// Offset of `entries[0]`.
    start: i64,
    entries: VecDeque<Entry>,
    /// Entries below this offset are in files.
    written: i64,
}

impl Tail {
    pub(crate) fn new(next: i64) -> Tail {
        Tail {
            start: next,
            entries: VecDeque::new(),
            written: next,
        }
    }

    pub(crate) fn next(&self) -> i64 {
        self.start + self.entries.len() as i64
    }

    pub(crate) fn push(&mut self, offset: i64, entry: Entry) -> Pushed {
        let next = self.next();
        if offset != next {
            return if offset < next { Pushed::Duplicate } else { Pushed::Gap };
        }
        self.entries.push_back(entry);
        if self.written == next {
            Pushed::First
        } else {
            Pushed::Further
        }
    }

    /// Unwritten entries from the oldest on, at most `count`.
    pub(crate) fn unwritten(&self, count: usize) -> impl Iterator<Item = &Entry> {
        let from = usize::try_from(self.written - self.start).unwrap_or(0);
        self.entries.iter().skip(from).take(count)
    }

    /// `count` more entries are in files.
    pub(crate) fn wrote(&mut self, count: usize) {
        self.written += count as i64;
        assert!(self.written <= self.next(), "more entries written than there are");
        let written = usize::try_from(self.written - self.start).unwrap_or(0);
        let excess = written.saturating_sub(TAIL_KEPT);
        self.entries.drain(..excess);
        self.start += excess as i64;
        // Once a second at most. A queue that goes idle has been written out, and keeps no room for more.
        if self.written == self.next() {
            self.entries.shrink_to(TAIL_KEPT);
        }
    }

    fn get(&self, offset: i64) -> Option<Entry> {
        let index = usize::try_from(offset - self.start).ok()?;
        self.entries.get(index).copied()
    }
}

/// Which entries are in memory as this process wrote them, or as a pull found them right. No other entry decides by itself what is
/// handed out: it may have rotted on the device.
#[derive(Debug)]
struct Vouched {
    /// Entries from there on were written by this process.
    own_from: i64,
    /// Their records were checked, and are theirs.
    checked: Range<i64>,
}

impl Vouched {
    fn from(own_from: i64) -> Vouched {
        Vouched {
            own_from,
            checked: own_from..own_from,
        }
    }

    fn covers(&self, from: i64, until: i64) -> bool {
        let from = if self.checked.contains(&from) {
            self.checked.end
        } else {
            from
        };
        from >= self.own_from.min(until)
    }

    /// Keeps one range: a second reader of old entries, elsewhere, has its own made the one in turn.
    fn add(&mut self, from: i64, until: i64) {
        let checked = &mut self.checked;
        let joins = from <= checked.end && checked.start <= until;
        *checked = match joins && !checked.is_empty() {
            true => checked.start.min(from)..checked.end.max(until),
            false => from..until,
        };
    }

    /// The entry at `offset` is about to come from the device; those from `in_memory` on are kept by the process itself.
    fn remove_around(&mut self, offset: i64, in_memory: i64) {
        let (from, until) = (
            offset.saturating_sub(READ_BACK_BEFORE),
            offset.saturating_add(READ_BACK_BEHIND),
        );
        self.own_from = self.own_from.max(until.min(in_memory));
        if self.checked.start < until {
            self.checked.end = self.checked.end.min(from).max(self.checked.start);
        }
    }
}

/// An open file of the queue.
#[derive(Clone, Debug)]
struct QueueFile<F> {
    file: F,
    synced: bool,
}

#[derive(Debug)]
struct QueueState<F> {
    min: i64,
    tail: Tail,
    /// By the byte position of their first entry.
    files: BTreeMap<u64, QueueFile<F>>,
    /// Files were created since the folder was synced.
    folder_synced: bool,
    /// The files were made by an earlier process, which may have died before it synced their names: the first sync of any of
    /// them syncs the folder, too.
    names_doubted: bool,
    deleted: bool,
    vouched: Vouched,
    /// Slots below this offset may hold entries on disk, whatever `next` is.
    extent: i64,
}

impl<F> QueueState<F> {
    fn note_cold(&mut self, offset: i64) {
        self.vouched.remove_around(offset, self.tail.start);
    }
}

/// A queue with its files.
#[derive(Debug)]
pub(crate) struct Queue<F> {
    pub(crate) topic: Arc<str>,
    pub(crate) queue_id: i32,
    folder: PathBuf,
    file_size: u64,
    /// What one offset of this queue counts for in the digest of a checkpoint.
    weight: u64,
    /// The offset that the next appended record gets. Changed only under the log's append lock.
    assigned: AtomicI64,
    state: Mutex<QueueState<F>>,
}

/// What a file-backed queue is made of when it is opened.
#[derive(Debug)]
pub(crate) struct QueueParts<F> {
    /// By the byte position of their first entry.
    pub(crate) files: BTreeMap<u64, F>,
    pub(crate) min: i64,
    pub(crate) next: i64,
    /// Slots below this offset may hold entries on disk: at least `next`.
    pub(crate) extent: i64,
}

impl<F: File> Queue<F> {
    pub(crate) fn new(
        topic: Arc<str>,
        queue_id: i32,
        folder: PathBuf,
        file_size: u64,
        parts: QueueParts<F>,
    ) -> Queue<F> {
        assert_eq!(file_size % ENTRY_SIZE, 0, "queue files hold whole entries");
        let files = parts.files.into_iter();
        let files = files.map(|(start, file)| (start, QueueFile { file, synced: true }));
        let files: BTreeMap<_, _> = files.collect();
        Queue {
            weight: weight(&topic, queue_id),
            topic,
            queue_id,
            folder,
            file_size,
            assigned: AtomicI64::new(parts.next),
            state: Mutex::new(QueueState {
                min: parts.min,
                tail: Tail::new(parts.next),
                names_doubted: !files.is_empty(),
                files,
                folder_synced: true,
                deleted: false,
                vouched: Vouched::from(parts.next),
                extent: parts.extent.max(parts.next),
            }),
        }
    }

    pub(crate) fn empty(topic: Arc<str>, queue_id: i32, folder: PathBuf, file_size: u64) -> Queue<F> {
        let parts = QueueParts {
            files: BTreeMap::new(),
            min: 0,
            next: 0,
            extent: 0,
        };
        Queue::new(topic, queue_id, folder, file_size, parts)
    }

    /// None of its files can give an entry that it has.
    pub(crate) fn unreadable(&self, offset: i64) -> StoreError {
        StoreError::Queue {
            queue: format!("{}-{}", self.topic, self.queue_id),
            offset,
        }
    }

    /// The offset that the next appended record gets.
    pub(crate) fn assigned(&self) -> i64 {
        self.assigned.load(Ordering::Relaxed)
    }

    pub(crate) fn weight(&self) -> u64 {
        self.weight
    }

    /// What the queue adds to the digest of a checkpoint.
    pub(crate) fn digest(&self) -> u64 {
        self.weight.wrapping_mul(self.bounds().max.max(0) as u64)
    }

    /// Only under the log's append lock.
    pub(crate) fn set_assigned(&self, next: i64) {
        self.assigned.store(next, Ordering::Relaxed);
    }

    pub(crate) fn bounds(&self) -> Bounds {
        let state = lock(&self.state);
        Bounds {
            min: state.min,
            max: state.tail.next(),
        }
    }

    pub(crate) fn push(&self, offset: i64, entry: Entry) -> Pushed {
        let mut state = lock(&self.state);
        match state.deleted {
            true => Pushed::Gone,
            false => state.tail.push(offset, entry),
        }
    }

    /// The topic is being deleted: nothing is pushed or written any more.
    pub(crate) fn retire(&self) {
        lock(&self.state).deleted = true;
    }

    /// Recovery only: the first entry known is the one at `offset`, whatever was there before.
    pub(crate) fn start_at(&self, offset: i64) {
        let mut state = lock(&self.state);
        state.min = offset;
        state.tail = Tail::new(offset);
        state.vouched = Vouched::from(offset);
    }

    /// Recovery only: entries from `next` on are to be pushed again.
    pub(crate) fn cut_to(&self, next: i64) {
        let mut state = lock(&self.state);
        assert!(state.min <= next, "a cut does not move a queue's start");
        assert!(next <= state.tail.next(), "a cut does not add entries");
        state.tail = Tail::new(next);
        state.vouched = Vouched::from(next);
    }

    /// Whether the entries `[from, until)` are known to be right.
    pub(crate) fn vouches(&self, from: i64, until: i64) -> bool {
        lock(&self.state).vouched.covers(from, until)
    }

    /// The records that the entries `[from, until)` name were checked, and are theirs.
    pub(crate) fn vouch(&self, from: i64, until: i64) {
        lock(&self.state).vouched.add(from, until);
    }

    /// Shows up to `count` entries from `offset` on to `visit`. `None` if some are not in memory.
    pub(crate) fn visit_resident(
        &self,
        offset: i64,
        count: usize,
        visit: &mut dyn FnMut(i64, Entry) -> ControlFlow<()>,
    ) -> Option<()> {
        let mut buffer = [0; VISIT_COUNT * ENTRY_SIZE as usize];
        let state = lock(&self.state);
        let end = state.tail.next().min(offset.saturating_add(count as i64));
        let mut at = offset;
        while at < end {
            if at >= state.tail.start {
                let Some(entry) = state.tail.get(at) else {
                    return Some(());
                };
                if visit(at, entry).is_break() {
                    return Some(());
                }
                at += 1;
                continue;
            }
            let until = end.min(state.tail.start).min(at + VISIT_COUNT as i64);
            let (start, within, size) = self.locate(at, until);
            let queue_file = state.files.get(&start)?;
            let is_resident = queue_file.file.read_resident(within, &mut buffer[..size]);
            is_resident.ok().filter(|is_resident| *is_resident)?;
            for chunk in buffer[..size].chunks_exact(ENTRY_SIZE as usize) {
                let entry = Entry::decode(chunk).unwrap_or(Entry::FILLER);
                if visit(at, entry).is_break() {
                    return Some(());
                }
                at += 1;
            }
        }
        Some(())
    }

    /// File start, position within the file and size in bytes of entries `[from, until)`, cut at the file's end.
    fn locate(&self, from: i64, until: i64) -> (u64, u64, usize) {
        let position = from.max(0) as u64 * ENTRY_SIZE;
        let within = position % self.file_size;
        let size = ((until - from).max(0) as u64 * ENTRY_SIZE).min(self.file_size - within);
        (position - within, within, size as usize)
    }

    /// Reads entries from `offset` on, wherever they are, up to [`LOAD_COUNT`] or the end of their file; what follows them will be
    /// read soon, then. `None` if no file has them.
    pub(crate) async fn load(&self, offset: i64) -> Result<Option<Bytes>, DiskError> {
        let (file, next_file, within, size) = {
            let mut state = lock(&self.state);
            let until = state.tail.next().min(offset.saturating_add(LOAD_COUNT));
            if (state.tail.start..until).contains(&offset) {
                let mut bytes = Vec::new();
                (offset..until)
                    .filter_map(|offset| state.tail.get(offset))
                    .for_each(|entry| entry.encode(&mut bytes));
                return Ok(Some(bytes.into()));
            }
            let (start, within, size) = self.locate(offset, until.min(state.tail.start));
            state.note_cold(offset);
            match state.files.get(&start) {
                Some(queue_file) => {
                    let next_file = state.files.get(&(start + self.file_size));
                    let next_file = next_file.map(|queue_file| queue_file.file.clone());
                    (queue_file.file.clone(), next_file, within, size)
                }
                None => return Ok(None),
            }
        };
        let behind = within + size as u64;
        let room = file.len().saturating_sub(behind);
        file.will_read(behind, room.min(READ_AHEAD_SIZE) as usize);
        if let Some(next_file) = next_file.filter(|_| room < READ_AHEAD_SIZE) {
            let size = (READ_AHEAD_SIZE - room).min(next_file.len());
            next_file.will_read(0, size as usize);
        }
        file.read(within, size).await.map(Some)
    }

    /// The entry at `offset`; reads its file if it must.
    pub(crate) async fn entry(&self, offset: i64) -> Result<Option<Entry>, DiskError> {
        let (start, within, size) = self.locate(offset, offset + 1);
        let file = {
            let mut state = lock(&self.state);
            if offset < 0 || offset >= state.tail.next() {
                return Ok(None);
            }
            if let Some(entry) = state.tail.get(offset) {
                return Ok(Some(entry));
            }
            let Some(queue_file) = state.files.get(&start) else {
                return Ok(None);
            };
            let mut buffer = [0; ENTRY_SIZE as usize];
            if queue_file.file.read_resident(within, &mut buffer[..size])? {
                return Ok(Entry::decode(&buffer[..size]));
            }
            let file = queue_file.file.clone();
            state.note_cold(offset);
            file
        };
        Ok(Entry::decode(&file.read(within, size).await?))
    }

    /// First offset in `[min, next)` whose record lies at or behind `physical`, or that has no entry; `next` if there is
    /// none. Entries of records before `physical` are known to be durable: a slot that a power loss has left empty is of a
    /// later record, even with entries above it.
    pub(crate) async fn first_at_or_behind(&self, physical: u64) -> Result<i64, DiskError> {
        self.first_where(true, physical).await
    }

    async fn first_where(&self, hole_is_behind: bool, physical: u64) -> Result<i64, DiskError> {
        let Bounds { min, max } = self.bounds();
        let (mut low, mut high) = (min, max);
        while low < high {
            let middle = low + (high - low) / 2;
            // A filler says nothing of its place in the log: the next message does.
            let (at, behind) = match self.skip_fillers(middle, high).await? {
                Some((at, Some(entry))) => (at, entry.physical >= physical),
                Some((at, None)) => (at, hole_is_behind),
                None => (middle, true),
            };
            if behind { high = middle } else { low = at + 1 }
        }
        Ok(self.skip_fillers(low, max).await?.map_or(max, |(at, _)| at))
    }

    /// The first slot in `[from, end)` that is no filler, and what it holds; `None` if all are fillers.
    pub(crate) async fn skip_fillers(&self, from: i64, end: i64) -> Result<Option<(i64, Option<Entry>)>, DiskError> {
        let mut at = from;
        while at < end {
            let entry = self.entry(at).await?;
            if !entry.is_some_and(|entry| entry.is_filler()) {
                return Ok(Some((at, entry)));
            }
            // There may be many: a queue that began in the middle.
            let Some(bytes) = self.load(at).await? else {
                return Ok(Some((at, None)));
            };
            let slots = bytes.chunks_exact(ENTRY_SIZE as usize).map(Entry::decode);
            let fillers = slots.take_while(|slot| slot.is_some_and(|entry| entry.is_filler()));
            at += (fillers.count() as i64).max(1);
        }
        Ok(None)
    }

    /// Writes the tail's entries of records that end at or before `durable` to files: a power loss must not leave a queue
    /// file that names records which the log has lost. Not durable before [`sync`](Queue::sync). True if entries had to
    /// stay: the queue is to be put on the list of unwritten ones again.
    pub(crate) async fn write_out<D: Disk<File = F>>(&self, disk: &D, durable: u64) -> Result<bool, DiskError> {
        let mut bytes = Vec::new();
        loop {
            let (file, start, within, count) = {
                let state = lock(&self.state);
                if state.deleted {
                    return Ok(false);
                }
                let from = state.tail.written;
                let (start, within, size) = self.locate(from, from + WRITE_COUNT_MAX as i64);
                bytes.clear();
                let unwritten = state.tail.unwritten(size / ENTRY_SIZE as usize);
                let fit = unwritten.take_while(|entry| entry.is_filler() || entry.end() <= durable);
                fit.for_each(|entry| entry.encode(&mut bytes));
                let count = bytes.len() / ENTRY_SIZE as usize;
                if count == 0 {
                    return Ok(from < state.tail.next());
                }
                let file = state.files.get(&start).map(|queue_file| queue_file.file.clone());
                (file, start, within, count)
            };
            let file = match file {
                Some(file) => file,
                None => self.create_file(disk, start, within).await?,
            };
            file.write_at(within, &[&bytes])?;
            let mut state = lock(&self.state);
            state.tail.wrote(count);
            state.extent = state.extent.max(state.tail.written);
            if let Some(queue_file) = state.files.get_mut(&start) {
                queue_file.synced = false;
            }
        }
    }

    /// A file of full size whose slots below `filled` (bytes) hold filler.
    async fn create_file<D: Disk<File = F>>(&self, disk: &D, start: u64, filled: u64) -> Result<F, DiskError> {
        disk.create_dir_all(&self.folder).await?;
        let path = self.folder.join(file_name(start));
        // What an earlier attempt may have left.
        super::disk::remove_if_present(disk, &path).await?;
        let file = disk.open(&path, OpenMode::New).await?;
        // The last byte alone: full size as Java wants it, sparse as a million idle queues want it.
        file.write_at(self.file_size - 1, &[&[0]])?;
        let mut filler = Vec::new();
        Entry::FILLER.encode(&mut filler);
        let filler = filler.repeat((filled / ENTRY_SIZE) as usize);
        if !filler.is_empty() {
            file.write_at(0, &[&filler])?;
        }
        let mut state = lock(&self.state);
        state.folder_synced = false;
        let queue_file = QueueFile {
            file: file.clone(),
            synced: false,
        };
        state.files.insert(start, queue_file);
        Ok(file)
    }

    /// Makes durable what was written. True if files were created: the parent folders are to be synced, too.
    pub(crate) async fn sync<D: Disk<File = F>>(&self, disk: &D) -> Result<bool, DiskError> {
        let (files, folder_synced) = {
            let mut state = lock(&self.state);
            if state.deleted {
                return Ok(false);
            }
            let mut files = Vec::new();
            for queue_file in state.files.values_mut().filter(|queue_file| !queue_file.synced) {
                queue_file.synced = true;
                files.push(queue_file.file.clone());
            }
            let names_doubted = !files.is_empty() && std::mem::take(&mut state.names_doubted);
            let folder_synced = std::mem::replace(&mut state.folder_synced, true);
            (files, folder_synced && !names_doubted)
        };
        for file in files {
            file.sync().await?;
        }
        if !folder_synced {
            disk.sync_dir(&self.folder).await?;
        }
        Ok(!folder_synced)
    }

    /// Recovery only: whether anything stands in the slots behind the last entry, as far as one read shows.
    pub(crate) async fn has_entries_behind(&self) -> Result<bool, DiskError> {
        let (next, file, later) = {
            let state = lock(&self.state);
            let next = state.tail.next();
            let (start, within, _) = self.locate(next, next + 1);
            let later = state.files.keys().next_back().is_some_and(|newest| *newest > start);
            let file = state.files.get(&start).map(|queue_file| queue_file.file.clone());
            (within, file, later)
        };
        let Some(file) = file else { return Ok(later) };
        let size = (self.file_size - next).min(LOOK_SIZE);
        Ok(later || file.read(next, size as usize).await?.iter().any(|byte| *byte != 0))
    }

    /// Recovery only: slots behind the last entry may hold anything.
    pub(crate) fn doubt_behind(&self) {
        lock(&self.state).extent = i64::MAX;
    }

    /// Recovery only: makes the slots behind the last entry empty on disk, where older ones may stand. True if there were any.
    pub(crate) async fn clear_behind<D: Disk<File = F>>(&self, disk: &D) -> Result<bool, DiskError> {
        let (cut, removed, last) = {
            let mut state = lock(&self.state);
            let next = state.tail.next();
            if state.extent <= next {
                return Ok(false);
            }
            assert_eq!(state.tail.written, next, "written out before");
            state.extent = next;
            let cut = next.max(0) as u64 * ENTRY_SIZE;
            let mut removed = state.files.split_off(&cut);
            if let Some(file) = removed.remove(&cut) {
                // An empty newest file is as good as none, but Java keeps it.
                state.files.insert(cut, file);
            }
            let last = state
                .files
                .iter()
                .next_back()
                .map(|(start, file)| (*start, file.file.clone()));
            (cut, removed, last)
        };
        for start in removed.keys().rev() {
            disk.remove(&self.folder.join(file_name(*start))).await?;
        }
        if let Some((start, file)) = last
            && cut < start + self.file_size
        {
            file.zero_range(cut - start, start + self.file_size - cut).await?;
            file.sync().await?;
        }
        disk.sync_dir(&self.folder).await?;
        Ok(true)
    }

    /// The log starts at `log_start` now: raises `min` and removes files that hold only entries of records before it.
    pub(crate) async fn trim<D: Disk<File = F>>(&self, disk: &D, log_start: u64) -> Result<(), DiskError> {
        let first = self.entry(self.bounds().min).await?;
        if first.is_some_and(|first| !first.is_filler() && first.physical >= log_start) {
            return Ok(());
        }
        // A hole: what is above decides.
        let min = self.first_where(false, log_start).await?;
        let removed = {
            let mut state = lock(&self.state);
            state.min = state.min.max(min);
            let first_kept = state.min.max(0) as u64 * ENTRY_SIZE / self.file_size * self.file_size;
            let newest = state.files.keys().next_back().copied().unwrap_or(0);
            let kept = state.files.split_off(&first_kept.min(newest));
            std::mem::replace(&mut state.files, kept)
        };
        for start in removed.keys() {
            disk.remove(&self.folder.join(file_name(*start))).await?;
            // One after the other: with a gap the files behind it would be of no use, and their log is gone.
            disk.sync_dir(&self.folder).await?;
        }
        Ok(())
    }

    /// Ends the queue and removes its files and folder, durably: a new queue of that name must not find them. After an error it may
    /// be called again.
    pub(crate) async fn delete<D: Disk<File = F>>(&self, disk: &D) -> Result<(), DiskError> {
        let starts: Vec<u64> = {
            let mut state = lock(&self.state);
            state.deleted = true;
            state.files.keys().rev().copied().collect()
        };
        if starts.is_empty() {
            return Ok(());
        }
        for start in starts {
            super::disk::remove_if_present(disk, &self.folder.join(file_name(start))).await?;
        }
        disk.sync_dir(&self.folder).await?;
        super::disk::remove_dir_if_empty(disk, &self.folder).await?;
        lock(&self.state).files.clear();
        Ok(())
    }
}

/// FNV-1a of a topic's name, never 0. It is on disk: do not change it.
pub(crate) fn topic_hash(topic: &str) -> u64 {
    let hash = topic.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash.max(1)
}

/// An odd number, so that no offset but 0 counts for nothing. It is on disk: do not change it.
pub(crate) fn weight(topic: &str, queue_id: i32) -> u64 {
    let mixed = (topic_hash(topic) ^ u64::from(queue_id as u32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)) | 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(physical: u64) -> Entry {
        Entry {
            physical,
            size: 100,
            tags_code: 0,
        }
    }

    #[test]
    fn a_tail_takes_each_offset_once_and_without_gaps() {
        let mut tail = Tail::new(5);
        assert_eq!(tail.push(5, entry(0)), Pushed::First);
        assert_eq!(tail.push(5, entry(0)), Pushed::Duplicate);
        assert_eq!(tail.push(7, entry(0)), Pushed::Gap);
        assert_eq!(tail.push(6, entry(100)), Pushed::Further);
        tail.wrote(2);
        assert_eq!(tail.push(7, entry(200)), Pushed::First);
    }

    #[test]
    fn entries_are_vouched_for_until_their_neighbourhood_comes_from_the_device() {
        let far = READ_BACK_BEHIND;
        let mut vouched = Vouched::from(10 * far);
        assert!(vouched.covers(10 * far, 11 * far) && !vouched.covers(10 * far - 1, 10 * far));
        vouched.add(0, 600);
        vouched.add(600, 700);
        assert!(vouched.covers(0, 700) && !vouched.covers(0, 701));
        vouched.remove_around(500, 20 * far);
        assert!(vouched.covers(0, 500 - READ_BACK_BEFORE) && !vouched.covers(0, 501 - READ_BACK_BEFORE));
        assert!(vouched.covers(10 * far, 11 * far), "far behind");
        vouched.remove_around(10 * far, 20 * far);
        assert!(!vouched.covers(11 * far - 1, 11 * far) && vouched.covers(11 * far, 12 * far));
        vouched.remove_around(20 * far - 5, 20 * far);
        assert!(vouched.covers(20 * far, 21 * far), "the process has these itself");
        vouched.add(20 * far - 3, 20 * far);
        assert!(vouched.covers(20 * far - 3, 20 * far + 1), "both kinds");
        assert!(!vouched.covers(0, 1), "one range is kept");
    }

    proptest! {
        #[test]
        fn a_tail_keeps_what_is_not_written(steps in prop::collection::vec((1usize..400, 0usize..400), 1..20)) {
            let mut tail = Tail::new(3);
            let (mut next, mut written) = (3i64, 3i64);
            for (pushes, writes) in steps {
                for _ in 0..pushes {
                    tail.push(next, entry(next as u64));
                    next += 1;
                }
                let writes = writes.min((next - written) as usize);
                let seen: Vec<u64> = tail.unwritten(writes).map(|entry| entry.physical).collect();
                let expected: Vec<u64> = (written..written + writes as i64).map(|offset| offset as u64).collect();
                prop_assert_eq!(seen, expected);
                tail.wrote(writes);
                written += writes as i64;
                prop_assert_eq!(tail.next(), next);
                prop_assert!(written < next || tail.entries.capacity() <= TAIL_KEPT);
                for offset in written..next {
                    prop_assert_eq!(tail.get(offset), Some(entry(offset as u64)));
                }
            }
        }
    }
}
