//! Opening a store: finds the end of the log, cuts what is behind it, repairs the consume queues. The log is the truth.
//!
//! | step | after a clean stop | after a kill or power loss |
//! |---|---|---|
//! | scan from | the end, if our own checkpoint names it, else the file of the newest queue entry | the newest file whose first record is 3 s older than the checkpoint |
//! | a queue with a hole or a bad file | scan from the file of its last good entry | the same |
//! | no queue has an entry | scan everything | scan everything |
//! | torn record, or bytes of a longer log | cut there: zero to the end of the file, remove later files, sync | the same |
//! | records behind the checkpoint | – | written again and synced: the page cache may hold what a failed sync has lost |
//! | queue entries | those of scanned records are made again, those behind the end are cleared | the same |
//!
//! A gap in a queue's offsets during a partial scan says that its files lost entries: everything is scanned then.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::checkpoint::Checkpoint;
use super::disk::{list, remove_if_present};
use super::dispatch::{Place, places};
use super::files::{LogFiles, Zeros};
use super::layout::{ENTRY_SIZE, Entry, Paths, file_name, is_folder_name, parse_file_name};
use super::queue::{Pushed, Queue, QueueParts};
use super::queues::QueueTable;
use super::scan::{Step, step};
use super::{OpenError, Recovery, StoreConfig};
use crate::protocol::message::{RecordView, STORE_TIME_PREFIX_SIZE, store_time};
use crate::runtime::{Disk, DiskError, File, WallMillis};

/// Bytes read at once while scanning the log, and while looking through a queue file.
const LOG_READ_SIZE: u64 = 1 << 20;
const QUEUE_READ_SIZE: u64 = 64 << 10;
/// Scanned entries after which the queues are written out: bounds memory.
const WRITE_OUT_COUNT: u64 = 1 << 17;
/// Missing offsets in the middle of a queue that are filled. More are no gap but nonsense: the record is left out.
const FILL_COUNT_MAX: i64 = 1 << 20;

/// An opened log and its queues.
pub(crate) struct Recovered<F> {
    pub(crate) files: LogFiles<F>,
    pub(crate) queues: QueueTable<F>,
    pub(crate) recovery: Recovery,
    pub(crate) last_store_time: WallMillis,
    /// Records from here on were verified just now.
    pub(crate) verified_from: u64,
}

pub(crate) async fn recover<D: Disk>(
    disk: &D,
    config: &StoreConfig,
    paths: &Paths,
    checkpoint: &Checkpoint,
    clean: bool,
) -> Result<Recovered<D::File>, OpenError> {
    let files = LogFiles::load(disk, &paths.commit_log, config.commit_log_file_size).await?;
    let mut loaded = load_queues(disk, paths, config.queue_file_size()).await?;
    let Some(log_start) = files.start() else {
        for queue in loaded {
            queue.build(config.queue_file_size()).delete(disk).await?;
        }
        let queues = QueueTable::new(paths.clone(), config.queue_file_size(), []);
        let recovery = Recovery {
            clean,
            ..Recovery::default()
        };
        return Ok(Recovered {
            files,
            queues,
            recovery,
            last_store_time: WallMillis(checkpoint.physic_time),
            verified_from: 0,
        });
    };
    let known = Known::of(&loaded);
    let own_end = own_clean_end(checkpoint, clean, &known, log_start, files.end());
    let from = match own_end {
        Some(end) => end,
        None => scan_start(
            &first_store_times(&files).await?,
            clean,
            checkpoint.recovery_time(),
            &known,
        ),
    };
    let mut scan = Scan {
        disk,
        config,
        files: &files,
        durable_before: match clean {
            true => WallMillis(i64::MAX),
            false => checkpoint.recovery_time(),
        },
        skip_unknown_below: if clean { known.end } else { 0 },
        is_full: from == log_start,
        last_store_time: WallMillis(checkpoint.physic_time),
        pushed: 0,
        recovery: Recovery {
            clean,
            log_start,
            ..Recovery::default()
        },
    };
    let mut queues = table_at(config, paths, &loaded, from).await?;
    let mut verified_from = from;
    if let ScanEnd::Gap = scan.run(from, &queues).await? {
        queues = table_at(config, paths, &loaded, log_start).await?;
        verified_from = log_start;
        scan.start_over();
        scan.run(log_start, &queues).await?;
    }
    let Scan {
        mut recovery,
        last_store_time,
        ..
    } = scan;
    let log_end = recovery.log_end;
    recovery.rebuilt = verified_from == log_start && log_end > log_start && known.end == 0;
    recovery.lost_tail = loaded.iter().any(|queue| queue.end() > log_end);
    if own_end != Some(log_end) {
        let zeros = if clean { Zeros::IfNeeded } else { Zeros::Always };
        recovery.cut_bytes = files.cut(disk, log_end, zeros).await?;
        recovery.lost_tail |= recovery.cut_bytes > 0;
    }
    if !clean {
        // Up to here the checkpoint vouches for the device. What is behind may be in the page cache alone, and marked
        // clean there by a sync that failed: only writing it again makes a sync mean something.
        let durable = u64::try_from(checkpoint.logics_offset).unwrap_or(0);
        files.write_again(durable.max(verified_from), log_end).await?;
    }
    loaded.retain(|queue| queue.is_damaged);
    recovery.repaired_queues = loaded.len() as u64;
    settle_queues(disk, paths, &queues, log_start).await?;
    Ok(Recovered {
        files,
        queues,
        recovery,
        last_store_time,
        verified_from,
    })
}

/// Writes, clears, syncs and trims every queue, so that memory and files agree.
async fn settle_queues<D: Disk>(
    disk: &D,
    paths: &Paths,
    queues: &QueueTable<D::File>,
    log_start: u64,
) -> Result<(), DiskError> {
    queues.take_unwritten();
    let mut created = false;
    for queue in queues.all() {
        queue.write_out(disk).await?;
        queue.clear_behind(disk).await?;
        if queue.sync(disk).await? {
            disk.sync_dir(&paths.topic(&queue.topic)).await?;
            created = true;
        }
        queue.trim(disk, log_start).await?;
        queue.set_assigned(queue.bounds().max);
    }
    if created {
        disk.sync_dir(&paths.consume_queue).await?;
        disk.sync_dir(&paths.root).await?;
    }
    Ok(())
}

/// What the queues know of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// Position of the newest record with an entry.
    last: Option<u64>,
    /// End of that record.
    end: u64,
    /// The oldest position behind which some queue is damaged.
    damaged_from: Option<u64>,
}

impl Known {
    fn of<F>(loaded: &[LoadedQueue<F>]) -> Known {
        let mut known = Known::default();
        for queue in loaded {
            if let Some(last) = queue.last {
                known.last = known.last.max(Some(last.physical));
                known.end = known.end.max(last.end());
            }
            if queue.is_damaged {
                let from = queue.last.map_or(0, |last| last.physical);
                known.damaged_from = Some(known.damaged_from.map_or(from, |other| other.min(from)));
            }
        }
        known
    }
}

/// The end that our own clean stop recorded: it sets the confirm offset, which a single Java master leaves at 0 or behind.
fn own_clean_end(checkpoint: &Checkpoint, clean: bool, known: &Known, log_start: u64, files_end: u64) -> Option<u64> {
    let end = u64::try_from(checkpoint.confirm_offset).ok()?;
    let is_own = clean && end > 0 && checkpoint.confirm_offset == checkpoint.logics_offset;
    let fits = log_start <= end && end <= files_end && known.end <= end;
    (is_own && fits && known.damaged_from.is_none()).then_some(end)
}

/// Where to start scanning: the start of a file, never behind anything that is in doubt. `starts` are the files' first
/// bytes and the store times of their first records, oldest first; there is at least one.
pub(crate) fn scan_start(
    starts: &[(u64, Option<WallMillis>)],
    clean: bool,
    recovery_time: WallMillis,
    known: &Known,
) -> u64 {
    let first = starts[0].0;
    let newest_with = |fits: &dyn Fn(u64, Option<WallMillis>) -> bool| {
        let found = starts.iter().rev().find(|(start, time)| fits(*start, *time));
        found.map_or(first, |(start, _)| *start)
    };
    let Some(last) = known.last else { return first };
    let start = match clean {
        true => newest_with(&|start, _| start <= last),
        false => newest_with(&|_, time| time.is_some_and(|time| time <= recovery_time)),
    };
    match known.damaged_from {
        Some(position) => start.min(newest_with(&|start, _| start <= position)),
        None => start,
    }
}

async fn first_store_times<F: File>(files: &LogFiles<F>) -> Result<Vec<(u64, Option<WallMillis>)>, DiskError> {
    let mut times = Vec::new();
    for log_file in files.all() {
        let size = (log_file.file.len() as usize).min(STORE_TIME_PREFIX_SIZE);
        let prefix = log_file.file.read(0, size).await?;
        times.push((log_file.start, store_time(&prefix)));
    }
    Ok(times)
}

/// The queues with their entries of records before `from`.
async fn table_at<F: File>(
    config: &StoreConfig,
    paths: &Paths,
    loaded: &[LoadedQueue<F>],
    from: u64,
) -> Result<QueueTable<F>, DiskError> {
    let mut queues = Vec::with_capacity(loaded.len());
    for queue in loaded {
        let queue = queue.clone().build(config.queue_file_size());
        let next = queue.first_at_or_behind(from).await?;
        queue.cut_to(next);
        queues.push(queue);
    }
    Ok(QueueTable::new(paths.clone(), config.queue_file_size(), queues))
}

enum ScanEnd {
    Found,
    /// A queue misses entries of records before the scan.
    Gap,
}

struct Scan<'a, D: Disk> {
    disk: &'a D,
    config: &'a StoreConfig,
    files: &'a LogFiles<D::File>,
    durable_before: WallMillis,
    /// Records before this whose queue does not exist belong to a deleted topic.
    skip_unknown_below: u64,
    is_full: bool,
    last_store_time: WallMillis,
    pushed: u64,
    recovery: Recovery,
}

impl<D: Disk> Scan<'_, D> {
    fn start_over(&mut self) {
        self.is_full = true;
        self.recovery.damaged.clear();
        self.recovery.scanned_records = 0;
        self.recovery.scanned_bytes = 0;
    }

    /// Reads record by record to the end of the log, pushing their entries.
    async fn run(&mut self, from: u64, queues: &QueueTable<D::File>) -> Result<ScanEnd, DiskError> {
        let file_size = self.files.file_size();
        let mut position = from;
        let mut buffer = Bytes::new();
        while let Some(log_file) = self.files.at(position) {
            let room = log_file.start + file_size - position;
            match step(&buffer, position, room, self.durable_before) {
                Step::Record(record) => {
                    let size = record.size();
                    if let ScanEnd::Gap = self.take(&record, queues) {
                        return Ok(ScanEnd::Gap);
                    }
                    position += size as u64;
                    buffer.advance(size);
                }
                Step::Damaged(record) => {
                    let size = record.size();
                    self.recovery.damaged.push(position);
                    if let ScanEnd::Gap = self.take(&record, queues) {
                        return Ok(ScanEnd::Gap);
                    }
                    position += size as u64;
                    buffer.advance(size);
                }
                Step::Blank => {
                    position += room;
                    buffer.clear();
                }
                Step::More(size) => {
                    let size = (size as u64).max(LOG_READ_SIZE).min(room);
                    buffer = log_file.file.read(position - log_file.start, size as usize).await?;
                }
                Step::End => break,
            }
            if self.pushed >= WRITE_OUT_COUNT {
                self.pushed = 0;
                for queue in queues.take_unwritten() {
                    queue.write_out(self.disk).await?;
                }
            }
        }
        self.recovery.log_end = position;
        self.recovery.scanned_bytes = position - from;
        Ok(ScanEnd::Found)
    }

    fn take(&mut self, record: &RecordView<'_>, queues: &QueueTable<D::File>) -> ScanEnd {
        self.recovery.scanned_records += 1;
        self.last_store_time = self.last_store_time.max(record.store_time);
        for place in places(record, &self.config.delay_levels_ms) {
            if !is_folder_name(place.topic) {
                continue;
            }
            let queue = match queues.get(place.topic, place.queue_id) {
                Some(queue) => queue,
                None if record.physical_offset < self.skip_unknown_below => continue,
                None => queues.get_or_create(place.topic, place.queue_id),
            };
            if let ScanEnd::Gap = self.push(&queue, &place, queues) {
                return ScanEnd::Gap;
            }
        }
        ScanEnd::Found
    }

    fn push(&mut self, queue: &Arc<Queue<D::File>>, place: &Place<'_>, queues: &QueueTable<D::File>) -> ScanEnd {
        self.pushed += 1;
        let bounds = queue.bounds();
        match queue.push(place.offset, place.entry) {
            Pushed::First => queues.note_unwritten(queue),
            Pushed::Further => {}
            Pushed::Duplicate if place.offset == 0 => {
                // The topic was deleted and made again: its offsets started anew.
                queue.start_at(0);
                queue.push(0, place.entry);
                queues.note_unwritten(queue);
            }
            // Given out twice by a broker that had lost entries: the first record keeps the offset, as in Java.
            Pushed::Duplicate => log::warn!(
                "record at {} repeats offset {} of {}-{}",
                place.entry.physical,
                place.offset,
                place.topic,
                place.queue_id
            ),
            Pushed::Gap if bounds.min == bounds.max => {
                queue.start_at(place.offset);
                queue.push(place.offset, place.entry);
                queues.note_unwritten(queue);
            }
            Pushed::Gap if !self.is_full => return ScanEnd::Gap,
            Pushed::Gap if place.offset - bounds.max <= FILL_COUNT_MAX => {
                for offset in bounds.max..place.offset {
                    queue.push(offset, Entry::FILLER);
                }
                queue.push(place.offset, place.entry);
                queues.note_unwritten(queue);
            }
            Pushed::Gap => log::warn!(
                "record at {} names offset {} of {}-{}, which ends at {}",
                place.entry.physical,
                place.offset,
                place.topic,
                place.queue_id,
                bounds.max
            ),
        }
        ScanEnd::Found
    }
}

/// A queue as its files show it.
#[derive(Clone, Debug)]
struct LoadedQueue<F> {
    topic: Arc<str>,
    queue_id: i32,
    folder: PathBuf,
    files: BTreeMap<u64, F>,
    min: i64,
    /// Behind the last entry before the first bad one.
    next: i64,
    last: Option<Entry>,
    /// Something was wrong with the files: entries may be missing behind `last`.
    is_damaged: bool,
}

impl<F: File> LoadedQueue<F> {
    fn build(self, file_size: u64) -> Queue<F> {
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
        Queue::new(self.topic, self.queue_id, self.folder, file_size, parts)
    }

    fn end(&self) -> u64 {
        self.last.map_or(0, |last| last.end())
    }
}

async fn load_queues<D: Disk>(disk: &D, paths: &Paths, file_size: u64) -> Result<Vec<LoadedQueue<D::File>>, DiskError> {
    let mut queues = Vec::new();
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
                let folder = paths.queue(&topic.name, queue_id);
                queues.push(load_queue(disk, Arc::clone(&name), queue_id, folder, file_size).await?);
            }
        }
    }
    Ok(queues)
}

async fn load_queue<D: Disk>(
    disk: &D,
    topic: Arc<str>,
    queue_id: i32,
    folder: PathBuf,
    file_size: u64,
) -> Result<LoadedQueue<D::File>, DiskError> {
    let (files, mut is_damaged) = load_files(disk, &folder, file_size).await?;
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
        topic,
        queue_id,
        folder,
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
        let file = disk.open(&path, crate::runtime::OpenMode::Existing).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    const STARTS: [(u64, Option<WallMillis>); 4] = [
        (1000, Some(WallMillis(10))),
        (2000, Some(WallMillis(20))),
        (3000, Some(WallMillis(30))),
        (4000, None),
    ];

    fn known(last: u64) -> Known {
        Known {
            last: Some(last),
            end: last + 100,
            damaged_from: None,
        }
    }

    #[test]
    fn a_clean_stop_scans_from_the_file_of_the_newest_entry() {
        assert_eq!(scan_start(&STARTS, true, WallMillis(0), &known(2999)), 2000);
        assert_eq!(scan_start(&STARTS, true, WallMillis(0), &known(9999)), 4000);
    }

    #[test]
    fn a_crash_scans_from_the_newest_file_older_than_the_checkpoint() {
        assert_eq!(scan_start(&STARTS, false, WallMillis(25), &known(3500)), 2000);
        assert_eq!(scan_start(&STARTS, false, WallMillis(99), &known(3500)), 3000);
        assert_eq!(scan_start(&STARTS, false, WallMillis(0), &known(3500)), 1000);
    }

    #[test]
    fn a_damaged_queue_or_none_at_all_widens_the_scan() {
        let damaged = Known {
            damaged_from: Some(1500),
            ..known(3500)
        };
        assert_eq!(scan_start(&STARTS, true, WallMillis(0), &damaged), 1000);
        assert_eq!(scan_start(&STARTS, true, WallMillis(0), &Known::default()), 1000);
    }

    #[test]
    fn only_an_end_that_agrees_with_everything_is_trusted() {
        let checkpoint = Checkpoint {
            confirm_offset: 3600,
            logics_offset: 3600,
            ..Checkpoint::default()
        };
        let trusted = |checkpoint: &Checkpoint, clean, last| own_clean_end(checkpoint, clean, &known(last), 1000, 4000);
        assert_eq!(trusted(&checkpoint, true, 3500), Some(3600));
        assert_eq!(trusted(&checkpoint, false, 3500), None);
        assert_eq!(trusted(&checkpoint, true, 3501), None);
        let java = Checkpoint {
            confirm_offset: 0,
            ..checkpoint
        };
        assert_eq!(trusted(&java, true, 3500), None);
    }
}
