//! The key index: which records have a key. A consumer of the log behind the confirm position, built in the background.
//!
//! Not on the path of a send: a query first waits until the index has caught up with what was visible when it came. It is
//! an aid, not the truth: every hit is read from the log and compared. After a crash entries younger than the checkpoint
//! are made again. Source: `store/index/IndexService.java`.

mod build;
mod feed;
mod image;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;

use super::disk::{list, make_dir, remove_if_present};
use super::{Store, StoreError};
use crate::protocol::message::RecordView;
use crate::protocol::properties;
use crate::runtime::{Disk, DiskError, File, OpenMode, Runtime, WallMillis};
use crate::sync::{Notify, Progress, lock};
pub(super) use build::index_loop;
pub(super) use feed::{Fed, Feed, KeyHashes};
use image::{ENTRY_SIZE, HEADER_SIZE, Header, Image, IndexEntry, Shape, key_hash};

/// Most messages of one query, as in Java (`maxMsgsNumBatch`).
const QUERY_COUNT_MAX: usize = 64;
/// Entries looked at for one query in one file. A longer chain of colliding keys is cut there.
const CHAIN_COUNT_MAX: usize = 10_000;
/// A query does not wait longer than this for the index to catch up.
const CATCH_UP_MAX: Duration = Duration::from_secs(3);

/// A full file.
struct Sealed<F> {
    path: PathBuf,
    file: F,
    header: Header,
}

struct Current<F> {
    path: PathBuf,
    file: F,
    image: Image,
}

struct Files<F> {
    sealed: VecDeque<Sealed<F>>,
    current: Option<Current<F>>,
}

pub(super) struct Index<F> {
    shape: Shape,
    files: Mutex<Files<F>>,
    /// Records before this are indexed.
    progress: Progress<StoreError>,
    wanted: Notify,
    /// Store time up to which entries are durable.
    durable_time: Mutex<i64>,
    /// The files of an earlier process have been taken over, as far as they are to be trusted.
    loaded: AtomicBool,
}

impl<F: File> Index<F> {
    pub(super) fn new(slots: u32, entries: u32, durable_time: i64) -> Index<F> {
        Index {
            shape: Shape {
                slots: slots.max(1),
                entries: entries.max(2),
            },
            files: Mutex::new(Files {
                sealed: VecDeque::new(),
                current: None,
            }),
            progress: Progress::new(0),
            wanted: Notify::new(),
            durable_time: Mutex::new(durable_time),
            loaded: AtomicBool::new(false),
        }
    }

    pub(super) fn durable_time(&self) -> i64 {
        *lock(&self.durable_time)
    }

    /// Gives the bytes of entries that are in memory alone, or the number of the first key for which there is no room.
    fn put(&self, hashes: &[u32], position: u64, store_time: WallMillis, skip: usize) -> Result<usize, usize> {
        let mut files = lock(&self.files);
        let Some(current) = &mut files.current else {
            return Err(skip);
        };
        for (index, hash) in hashes.iter().enumerate().skip(skip) {
            if !current.image.put(*hash, position, store_time.0) {
                return Err(index);
            }
        }
        Ok(current.image.pending_bytes())
    }

    /// Writes entries, and with `Slots` everything else, too.
    fn write(&self, what: Write) -> Result<Option<(F, i64)>, DiskError> {
        let mut files = lock(&self.files);
        let Some(current) = &mut files.current else {
            return Ok(None);
        };
        if let Some((at, bytes)) = current.image.take_entries() {
            current.file.write_at(at, &[&bytes])?;
        }
        if what == Write::All {
            for (at, bytes) in current.image.take_slots() {
                current.file.write_at(at, &[&bytes])?;
            }
            current.file.write_at(0, &[&current.image.header.encode()])?;
        }
        Ok(Some((current.file.clone(), current.image.header.end_time)))
    }

    /// Makes everything durable.
    pub(super) async fn sync(&self) -> Result<(), DiskError> {
        if let Some((file, end_time)) = self.write(Write::All)? {
            file.sync().await?;
            let mut durable_time = lock(&self.durable_time);
            *durable_time = durable_time.max(end_time);
        }
        Ok(())
    }

    fn needs_file(&self) -> bool {
        lock(&self.files)
            .current
            .as_ref()
            .is_none_or(|current| current.image.is_full())
    }

    /// Seals the full file and begins the next.
    async fn roll<D: Disk<File = F>>(&self, disk: &D, folder: &Path, now: WallMillis) -> Result<(), DiskError> {
        self.sync().await?;
        let newest = {
            let files = lock(&self.files);
            let current = files.current.as_ref().map(|current| &current.path);
            current
                .or(files.sealed.back().map(|sealed| &sealed.path))
                .and_then(|path| file_number(path))
        };
        let mut number = time_number(now);
        if let Some(newest) = newest
            && number <= newest
        {
            number = newest + 1;
        }
        make_dir(disk, folder).await?;
        let path = folder.join(format!("{number:017}"));
        // What is left of an attempt that was given up half-way.
        remove_if_present(disk, &path).await?;
        let file = disk.open(&path, OpenMode::New).await?;
        // The last byte alone: full size as Java wants it, sparse.
        file.write_at(self.shape.file_size() - 1, &[&[0]])?;
        disk.sync_dir(folder).await?;
        let mut files = lock(&self.files);
        let next = Current {
            path,
            file,
            image: Image::new(self.shape),
        };
        if let Some(full) = files.current.replace(next) {
            files.sealed.push_back(Sealed {
                path: full.path,
                file: full.file,
                header: full.image.header,
            });
        }
        Ok(())
    }

    /// Opens what is there. Entries younger than `trusted_time` are dropped. Gives the position to go on from, if any
    /// record was indexed, and how many keys of the record there are indexed already.
    async fn load<D: Disk<File = F>>(
        &self,
        disk: &D,
        folder: &Path,
        trusted_time: i64,
    ) -> Result<Option<(u64, usize)>, DiskError> {
        let mut sealed = VecDeque::new();
        let mut removed = false;
        for entry in list(disk, folder).await? {
            let path = folder.join(&entry.name);
            if entry.is_dir || file_number(&path).is_none() {
                continue;
            }
            let file = disk.open(&path, OpenMode::Existing).await?;
            let header = match file.len() == self.shape.file_size() {
                true => Header::decode(&file.read(0, HEADER_SIZE as usize).await?),
                false => None,
            };
            match header {
                Some(header) if header.begin_time <= trusted_time && header.next_entry > 1 => {
                    sealed.push_back(Sealed { path, file, header });
                }
                _ => {
                    disk.remove(&path).await?;
                    removed = true;
                }
            }
        }
        if removed {
            // Come back after a power loss, they would count as whole behind a stop in order.
            disk.sync_dir(folder).await?;
        }
        let Some(newest) = sealed.pop_back() else {
            return Ok(None);
        };
        let image = match trusted_time {
            i64::MAX => load_image(&newest, self.shape).await?,
            _ => restore(&newest, self.shape, trusted_time).await?,
        };
        {
            let mut files = lock(&self.files);
            files.sealed = sealed;
            files.current = Some(Current {
                path: newest.path,
                file: newest.file,
                image,
            });
        }
        self.last_record().await
    }

    /// The last record that is indexed and how many of its keys are. Everything has been written.
    async fn last_record(&self) -> Result<Option<(u64, usize)>, DiskError> {
        let newest = self.named().into_iter().rfind(|(_, header)| header.next_entry > 1);
        let Some((file, header)) = newest else { return Ok(None) };
        let position = header.end_position.max(0) as u64;
        let count = count_of_last(&file, self.shape, &header, position).await?;
        Ok(Some((position, count)))
    }

    /// The files with their headers, oldest first.
    fn named(&self) -> Vec<(F, Header)> {
        let files = lock(&self.files);
        let sealed = files.sealed.iter().map(|sealed| (sealed.file.clone(), sealed.header));
        let current = files.current.iter();
        sealed
            .chain(current.map(|current| (current.file.clone(), current.image.header)))
            .collect()
    }

    /// Entries younger than the newest that is there are not durable, whatever was claimed: they are about to be made again.
    /// True if more had been claimed.
    fn limit_durable_time(&self) -> bool {
        let end_time = self.named().last().map_or(0, |(_, header)| header.end_time);
        let mut durable_time = lock(&self.durable_time);
        let is_lowered = end_time < *durable_time;
        *durable_time = durable_time.min(end_time);
        is_lowered
    }

    /// Forgets and removes everything, to begin anew.
    async fn clear<D: Disk<File = F>>(&self, disk: &D, folder: &Path) -> Result<(), DiskError> {
        *lock(&self.durable_time) = 0;
        let paths: Vec<PathBuf> = {
            let mut files = lock(&self.files);
            let sealed = std::mem::take(&mut files.sealed).into_iter().map(|sealed| sealed.path);
            sealed.chain(files.current.take().map(|current| current.path)).collect()
        };
        if paths.is_empty() {
            return Ok(());
        }
        for path in paths {
            remove_if_present(disk, &path).await?;
        }
        disk.sync_dir(folder).await
    }

    /// Removes files that name only records before `log_start`; the newest stays.
    pub(super) async fn trim<D: Disk<File = F>>(&self, disk: &D, log_start: u64) -> Result<(), DiskError> {
        loop {
            let oldest = {
                let mut files = lock(&self.files);
                let is_old = |sealed: &mut Sealed<F>| (sealed.header.end_position.max(0) as u64) < log_start;
                files.sealed.pop_front_if(is_old)
            };
            let Some(oldest) = oldest else { return Ok(()) };
            remove_if_present(disk, &oldest.path).await?;
        }
    }

    /// Positions of records that may have the key, newest first.
    async fn find(&self, hash: u32, max: usize, begin: i64, end: i64) -> Result<Vec<u64>, DiskError> {
        let mut found = Vec::new();
        let current = {
            let files = lock(&self.files);
            let current = files.current.as_ref();
            current.map(|current| {
                (
                    current.path.clone(),
                    current.file.clone(),
                    current.image.header,
                    current.image.newest(hash),
                )
            })
        };
        if let Some((path, file, header, newest)) = current {
            let mut number = newest;
            for _ in 0..CHAIN_COUNT_MAX {
                if number == 0 || found.len() >= max {
                    break;
                }
                let pending = self.pending_entry(&path, number);
                let entry = match pending {
                    Some(entry) => Some(entry),
                    None => read_entry(&file, self.shape, number).await?,
                };
                let Some(entry) = entry else { break };
                collect(&entry, hash, header.begin_time, begin, end, &mut found);
                // Chains lead to lower numbers: anything else is damage.
                number = if entry.older < number { entry.older } else { 0 };
            }
        }
        let sealed: Vec<(F, Header)> = {
            let files = lock(&self.files);
            files
                .sealed
                .iter()
                .rev()
                .map(|sealed| (sealed.file.clone(), sealed.header))
                .collect()
        };
        for (file, header) in sealed {
            if found.len() >= max {
                break;
            }
            if header.begin_time <= end && header.end_time >= begin {
                self.find_sealed(&file, &header, hash, max, (begin, end), &mut found)
                    .await?;
            }
        }
        found.truncate(max);
        Ok(found)
    }

    /// An entry of the file at `path` if that is the current one and the entry is in memory alone.
    fn pending_entry(&self, path: &Path, number: u32) -> Option<IndexEntry> {
        let files = lock(&self.files);
        let current = files.current.as_ref().filter(|current| current.path == path)?;
        current.image.pending_entry(number)
    }

    async fn find_sealed(
        &self,
        file: &F,
        header: &Header,
        hash: u32,
        max: usize,
        (begin, end): (i64, i64),
        found: &mut Vec<u64>,
    ) -> Result<(), DiskError> {
        let slot = file.read(self.shape.slot_at(hash % self.shape.slots), 4).await?;
        let mut number = slot.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        for _ in 0..CHAIN_COUNT_MAX {
            if number == 0 || number >= header.next_entry.unsigned_abs() || found.len() >= max {
                break;
            }
            let Some(entry) = read_entry(file, self.shape, number).await? else {
                break;
            };
            collect(&entry, hash, header.begin_time, begin, end, found);
            number = if entry.older < number { entry.older } else { 0 };
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    Entries,
    All,
}

fn collect(entry: &IndexEntry, hash: u32, begin_time: i64, begin: i64, end: i64, found: &mut Vec<u64>) {
    let time = begin_time.saturating_add(i64::from(entry.seconds) * 1000);
    // The entry knows whole seconds only; the record's own time is compared later.
    let is_within = time.saturating_add(999) >= begin && time <= end;
    if entry.hash == hash && is_within && found.last() != Some(&entry.position) {
        found.push(entry.position);
    }
}

async fn read_entry<F: File>(file: &F, shape: Shape, number: u32) -> Result<Option<IndexEntry>, DiskError> {
    if number >= shape.entries {
        return Ok(None);
    }
    Ok(IndexEntry::decode(
        &file.read(shape.entry_at(number), ENTRY_SIZE as usize).await?,
    ))
}

/// The table of a file from its entries, as far as they are to be trusted.
async fn restore<F: File>(newest: &Sealed<F>, shape: Shape, trusted_time: i64) -> Result<Image, DiskError> {
    const PIECE: u32 = 1 << 14;
    let mut image = Image::new(shape);
    let count = newest.header.next_entry.unsigned_abs().min(shape.entries);
    let mut number = 1;
    let mut last = 0;
    'pieces: while number < count {
        let until = (number + PIECE).min(count);
        let size = u64::from(until - number) * ENTRY_SIZE;
        let bytes = newest.file.read(shape.entry_at(number), size as usize).await?;
        for chunk in bytes.chunks_exact(ENTRY_SIZE as usize) {
            let Some(entry) = IndexEntry::decode(chunk) else {
                break 'pieces;
            };
            let time = newest.header.begin_time.saturating_add(i64::from(entry.seconds) * 1000);
            if time > trusted_time || entry.position < last || entry.seconds < 0 {
                break 'pieces;
            }
            last = entry.position;
            image.restore(&entry, &newest.header);
        }
        number = until;
    }
    let slots = newest.file.read(HEADER_SIZE, shape.slots as usize * 4).await?;
    image.mark_different(&slots);
    if image.header.next_entry == newest.header.next_entry {
        image.header.end_time = newest.header.end_time;
    }
    Ok(image)
}

/// The table of a file that was written out in order.
async fn load_image<F: File>(newest: &Sealed<F>, shape: Shape) -> Result<Image, DiskError> {
    let slots = newest.file.read(HEADER_SIZE, shape.slots as usize * 4).await?;
    let next_entry = newest
        .header
        .next_entry
        .min(i32::try_from(shape.entries).unwrap_or(i32::MAX));
    let header = Header {
        next_entry,
        ..newest.header
    };
    Ok(Image::from_slots(shape, header, &slots))
}

/// How many of the newest entries belong to the record at `position`.
async fn count_of_last<F: File>(file: &F, shape: Shape, header: &Header, position: u64) -> Result<usize, DiskError> {
    let mut count = 0;
    for number in (1..header.next_entry.unsigned_abs()).rev() {
        match read_entry(file, shape, number).await? {
            Some(entry) if entry.position == position => count += 1,
            _ => break,
        }
    }
    Ok(count)
}

fn file_number(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let is_time = name.len() == 17 && name.bytes().all(|byte| byte.is_ascii_digit());
    is_time.then(|| name.parse().ok())?
}

/// `yyyyMMddHHmmssSSS` of a time, in UTC, as a number.
fn time_number(now: WallMillis) -> u64 {
    let millis = now.0.max(0) as u64;
    let (days, of_day) = (millis / 86_400_000, millis % 86_400_000);
    // Days to a civil date (Gregorian), by Howard Hinnant's method.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hours, minutes) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (seconds, thousandths) = (of_day / 1000 % 60, of_day % 1000);
    let date = (year * 100 + month) * 100 + day;
    (((date * 100 + hours) * 100 + minutes) * 100 + seconds) * 1000 + thousandths
}

impl<R: Runtime> Store<R> {
    /// Records of a topic with a key (or unique id), newest first, at most 64, stored within `[begin, end]`.
    pub async fn query(
        &self,
        topic: &str,
        key: &str,
        max: usize,
        begin: WallMillis,
        end: WallMillis,
    ) -> Result<Vec<Bytes>, StoreError> {
        let shared = &self.owner.shared;
        let Some(index) = &shared.index else {
            return Ok(Vec::new());
        };
        let confirmed = shared.confirmed();
        if index.progress.position() < confirmed {
            index.wanted.notify();
            let reached = index.progress.reached(confirmed);
            // Late is better than never: what is indexed by then is searched.
            if let Ok(result) = shared.runtime.timeout(CATCH_UP_MAX, reached).await {
                result?;
            }
        }
        let max = max.min(QUERY_COUNT_MAX);
        let hash = key_hash(topic, key);
        let mut records = Vec::new();
        for position in index.find(hash, max, begin.0, end.0).await? {
            let Some(bytes) = shared.record_at(position).await? else {
                continue;
            };
            if has_key(&bytes, topic, key) && is_within(&bytes, begin, end) {
                records.push(bytes);
            }
        }
        Ok(records)
    }
}

/// Hashes collide: the record decides.
fn has_key(bytes: &Bytes, topic: &str, key: &str) -> bool {
    let Ok(record) = RecordView::parse(bytes) else {
        return false;
    };
    let is_unique_id = record.property(properties::UNIQUE_KEY) == Some(key);
    let is_tag = key.strip_prefix("T#").is_some_and(|tag| record.tags() == Some(tag));
    record.topic == topic && (is_unique_id || is_tag || properties::keys(record.properties).any(|other| other == key))
}

fn is_within(bytes: &Bytes, begin: WallMillis, end: WallMillis) -> bool {
    RecordView::parse(bytes).is_ok_and(|record| begin <= record.store_time && record.store_time <= end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_their_time() {
        assert_eq!(time_number(WallMillis(0)), 19_700_101_000_000_000);
        assert_eq!(time_number(WallMillis(951_827_696_789)), 20_000_229_123_456_789);
        assert_eq!(time_number(WallMillis(1_704_067_199_999)), 20_231_231_235_959_999);
    }
}
