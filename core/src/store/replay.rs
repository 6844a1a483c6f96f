//! Reading the log to its end when a store is opened: makes queue entries, and tells damage from a torn tail.
//!
//! The rule, in full in `docs/recovery.md`:
//!
//! | found | and | then |
//! |---|---|---|
//! | frame and position whole, body or properties not | a whole record follows, or it lies below the durable position | damaged: kept, a gap |
//! | the same | neither | torn: the log ends here |
//! | no frame | at or above the durable position | torn: the log ends here |
//! | no frame | below it (Java's: in a file that another follows) | go on at the next start that is known; what lies between is lost, its slots are gaps |
//!
//! Starts are known from queue entries; the checkpoint's position is one, and so is the start of a file.
//!
//! No checksum covers a record's queue offset: one that does not follow is held until the next record of its queue bears it out.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::dispatch::{Place, places};
use super::files::{LogFile, LogFiles};
use super::layout::{ENTRY_SIZE, Entry, is_folder_name};
use super::load::LoadedQueue;
use super::queue::{Pushed, Queue, topic_hash};
use super::queues::QueueTable;
use super::salvage::Hole;
use super::scan::{Step, step};
use super::{Bounds, Gap, Recovery, StoreConfig};
use crate::protocol::message::{BLANK_SIZE, RecordView};
use crate::runtime::{Disk, DiskError, File, WallMillis};

/// Bytes read at once: at first, since often nothing is there, and later.
const FIRST_READ_SIZE: u64 = 64 << 10;
const LOG_READ_SIZE: u64 = 1 << 20;
/// Bytes that the device is to fetch behind them meanwhile.
const READ_AHEAD_SIZE: u64 = 4 << 20;
/// Entries after which the queues are written out: bounds memory.
const WRITE_OUT_COUNT: u64 = 1 << 17;
/// Missing offsets in the middle of a queue that are filled. More are no gap but nonsense: the record is left out.
const FILL_COUNT_MAX: i64 = 1 << 20;
/// The largest offset whose slot a queue file's name can tell.
const OFFSET_MAX: i64 = i64::MAX / ENTRY_SIZE as i64 - 1;

/// What is known to have reached the device once.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Durable {
    /// Everything below: a checkpoint of ours.
    Below(u64),
    /// Records stored earlier: a checkpoint of Java's.
    StoredBefore(WallMillis),
}

impl Durable {
    fn covers(self, position: u64, store_time: WallMillis) -> bool {
        match self {
            Durable::Below(durable) => position < durable,
            Durable::StoredBefore(time) => store_time < time,
        }
    }
}

pub(crate) enum ReplayEnd {
    Found,
    /// A queue misses entries of records before the start.
    Gap,
}

/// Reads from where it is told to the end of the log.
pub(crate) struct Replay<'a, D: Disk> {
    pub(crate) disk: &'a D,
    pub(crate) config: &'a StoreConfig,
    pub(crate) files: &'a LogFiles<D::File>,
    /// The queues as they were found.
    pub(crate) loaded: &'a [LoadedQueue<D::File>],
    pub(crate) durable: Durable,
    /// Hashes of topics that were being deleted: their records get no entries.
    pub(crate) deleting: &'a [u64],
    /// Records before this whose queue does not exist belong to a deleted topic.
    pub(crate) skip_unknown_below: u64,
    /// From the start of the log.
    pub(crate) is_full: bool,
    /// After a stop in order what is read is on the device.
    pub(crate) is_clean: bool,
    pub(crate) last_store_time: WallMillis,
    pub(crate) recovery: Recovery,
    pub(crate) holes: Vec<Hole>,
    /// One of a queue at most, by topic and queue id.
    held: BTreeMap<(Arc<str>, i32), Held<D::File>>,
    pushed: u64,
    /// Records before this are followed by a whole one.
    vouched: u64,
    /// Up to here the log was written again, and synced.
    written_again: u64,
    synced_again: u64,
}

/// A record whose offset is not the one behind its queue's last: it leaps ahead, or begins anew at 0.
struct Held<F> {
    queue: Arc<Queue<F>>,
    offset: i64,
    entry: Entry,
    is_gap: bool,
}

impl<F> Held<F> {
    fn place(&self) -> Place<'_> {
        Place {
            topic: &self.queue.topic,
            queue_id: self.queue.queue_id,
            offset: self.offset,
            entry: self.entry,
        }
    }

    /// Whether the next record of a queue that ends at `end` says that this one's offset has rotted: it is behind the queue's end
    /// and not behind this one.
    fn is_belied_by(&self, next: i64, end: i64) -> bool {
        match self.offset {
            0 => next >= end.max(2),
            offset => end <= next && next <= offset,
        }
    }
}

/// A stretch of a log file that was read in one go.
#[derive(Default)]
struct Piece {
    start: u64,
    bytes: Vec<u8>,
}

impl Piece {
    /// What is there from `position` on.
    fn behind(&self, position: u64) -> &[u8] {
        let within = position.checked_sub(self.start).map(|within| within as usize);
        within.and_then(|within| self.bytes.get(within..)).unwrap_or(&[])
    }

    /// Reads another one into the same memory: without a change of threads as far as the page cache has it.
    async fn read<F: File>(&mut self, log_file: &LogFile<F>, position: u64, size: u64) -> Result<(), DiskError> {
        let within = position - log_file.start;
        self.start = position;
        self.bytes.resize(size as usize, 0);
        if log_file.file.read_resident(within, &mut self.bytes)? {
            return Ok(());
        }
        let ahead = (log_file.file.len() - within - size).min(READ_AHEAD_SIZE);
        log_file.file.will_read(within + size, ahead as usize);
        let bytes = log_file.file.read(within, size as usize).await?;
        self.bytes.copy_from_slice(&bytes);
        Ok(())
    }
}

impl<'a, D: Disk> Replay<'a, D> {
    pub(crate) fn new(
        disk: &'a D,
        config: &'a StoreConfig,
        files: &'a LogFiles<D::File>,
        loaded: &'a [LoadedQueue<D::File>],
        durable: Durable,
    ) -> Self {
        Replay {
            disk,
            config,
            files,
            loaded,
            durable,
            deleting: &[],
            skip_unknown_below: 0,
            is_full: false,
            is_clean: false,
            last_store_time: WallMillis(0),
            recovery: Recovery::default(),
            holes: Vec::new(),
            held: BTreeMap::new(),
            pushed: 0,
            vouched: 0,
            written_again: 0,
            synced_again: 0,
        }
    }

    pub(crate) fn start_over(&mut self) {
        self.is_full = true;
        self.written_again = 0;
        self.synced_again = 0;
        self.recovery.damaged.clear();
        self.recovery.lost.clear();
        self.recovery.gaps.clear();
        self.holes.clear();
        self.held.clear();
        self.recovery.scanned_records = 0;
        self.recovery.scanned_bytes = 0;
    }

    /// Reads record by record to the end of the log, pushing their entries.
    pub(crate) async fn run(&mut self, from: u64, queues: &QueueTable<D::File>) -> Result<ReplayEnd, DiskError> {
        let file_size = self.files.file_size();
        let mut position = from;
        let mut piece = Piece::default();
        let mut read_size = FIRST_READ_SIZE;
        let mut log_file = self.files.at(from);
        while let Some(here) = &log_file {
            let room = here.start + file_size - position;
            let (record, is_damaged) = match step(piece.behind(position), position, room) {
                Step::Record(record) => (record, false),
                Step::Doubtful(record) => {
                    let end = position + record.size() as u64;
                    if !self.durable.covers(position, record.store_time) && !self.is_followed(end).await? {
                        break;
                    }
                    log::error!("record at {position} is damaged: it stays and is not handed out");
                    self.recovery.damaged.push(position);
                    (record, true)
                }
                Step::Blank => {
                    self.write_again(&piece, position + room.min(BLANK_SIZE as u64))?;
                    position += room;
                    log_file = self.files.at(position);
                    continue;
                }
                Step::More(size) => {
                    self.write_again(&piece, position)?;
                    let size = (size as u64).max(read_size).min(room);
                    piece.read(here, position, size).await?;
                    read_size = LOG_READ_SIZE;
                    continue;
                }
                Step::Broken => match self.next_start(position).await? {
                    Some(next) => {
                        log::error!("no record can be made out from {position} to {next}: what was there is lost");
                        self.write_again(&piece, position)?;
                        self.recovery.lost.push((position, next));
                        self.holes.push(Hole {
                            from: position,
                            until: next,
                            store_time: self.last_store_time,
                        });
                        if let ReplayEnd::Gap = self.lose(position, next, queues).await? {
                            return Ok(ReplayEnd::Gap);
                        }
                        position = next;
                        log_file = self.files.at(position);
                        continue;
                    }
                    None => break,
                },
            };
            if let ReplayEnd::Gap = self.take(&record, is_damaged, queues) {
                return Ok(ReplayEnd::Gap);
            }
            position += record.size() as u64;
            if position == here.start + file_size {
                log_file = self.files.at(position);
            }
            if self.pushed >= WRITE_OUT_COUNT {
                self.pushed = 0;
                self.write_again(&piece, position)?;
                self.write_out(from, position, queues).await?;
            }
        }
        for held in std::mem::take(&mut self.held).into_values() {
            self.believe(held, queues);
        }
        self.recovery.log_end = position;
        self.recovery.scanned_bytes = position - from;
        self.write_again(&piece, position)?;
        self.sync_again(from, position).await?;
        Ok(ReplayEnd::Found)
    }

    /// Entries go to files only once their records are on the device for sure.
    async fn write_out(&mut self, from: u64, position: u64, queues: &QueueTable<D::File>) -> Result<(), DiskError> {
        self.sync_again(from, position).await?;
        for queue in queues.take_unwritten() {
            queue.write_out(self.disk, u64::MAX).await?;
        }
        Ok(())
    }

    /// Up to the durable position the checkpoint vouches for the device. What is behind may be in the page cache alone, and
    /// marked clean there by a sync that failed: only writing it again makes a sync mean something.
    fn doubted_from(&self) -> Option<u64> {
        match self.durable {
            _ if self.is_clean => None,
            Durable::Below(durable) => Some(durable),
            Durable::StoredBefore(_) => Some(0),
        }
    }

    /// Writes what was read over itself, up to `until`.
    fn write_again(&mut self, piece: &Piece, until: u64) -> Result<(), DiskError> {
        let Some(doubted) = self.doubted_from() else {
            return Ok(());
        };
        let from = piece.start.max(doubted).max(self.written_again);
        let until = until.min(piece.start + piece.bytes.len() as u64);
        if from < until {
            let within = (from - piece.start) as usize..(until - piece.start) as usize;
            self.files.write(from, &piece.bytes[within])?;
            self.written_again = until;
        }
        Ok(())
    }

    /// What was written again in `[from, until)` is on the device when it returns.
    async fn sync_again(&mut self, from: u64, until: u64) -> Result<(), DiskError> {
        let Some(doubted) = self.doubted_from() else {
            return Ok(());
        };
        let from = from.max(doubted).max(self.synced_again);
        if from < until {
            for log_file in self.files.covering(from, until) {
                log_file.file.sync().await?;
            }
            self.synced_again = until;
        }
        Ok(())
    }

    /// Whether a whole record follows at `position`, perhaps behind more that are not whole.
    async fn is_followed(&mut self, position: u64) -> Result<bool, DiskError> {
        if position <= self.vouched {
            return Ok(true);
        }
        let mut at = position;
        let mut buffer = Bytes::new();
        while let Some(log_file) = self.files.at(at) {
            let room = log_file.start + self.files.file_size() - at;
            let bytes = buffer.clone();
            match step(&bytes, at, room) {
                Step::Record(_) => {
                    self.vouched = at;
                    return Ok(true);
                }
                Step::Doubtful(record) => {
                    at += record.size() as u64;
                    buffer.advance(record.size());
                }
                Step::Blank => {
                    at += room;
                    buffer.clear();
                }
                Step::More(size) => {
                    let size = (size as u64).max(LOG_READ_SIZE).min(room);
                    buffer = log_file.file.read(at - log_file.start, size as usize).await?;
                }
                Step::Broken => break,
            }
        }
        Ok(false)
    }

    /// Where to go on behind a broken frame at `broken`; `None` if the log ends there.
    ///
    /// Java cuts without zeroing: in its last file whole records behind a broken one may be leftovers, and so it ends there. It
    /// does remove later files: where one follows, nothing was cut.
    async fn next_start(&self, broken: u64) -> Result<Option<u64>, DiskError> {
        let next_file = broken - broken % self.files.file_size() + self.files.file_size();
        let may_go_on = match self.durable {
            Durable::Below(durable) => broken < durable,
            Durable::StoredBefore(_) => self.is_start(next_file).await?,
        };
        if !may_go_on {
            return Ok(None);
        }
        let mut behind = broken;
        loop {
            let mut next = next_file;
            if let Durable::Below(durable) = self.durable {
                next = next.min(durable);
            }
            for queue in self.loaded {
                if let (_, Some(entry)) = queue.first_at_or_behind(behind + 1).await? {
                    next = next.min(entry.physical);
                }
            }
            let is_known = self.durable_is(next) || self.is_start(next).await?;
            match is_known {
                true => return Ok(Some(next)),
                // Nothing was made out up to the end of the file: its next one is looked at as any other place.
                false if next == next_file => return Ok(Some(next)),
                false => behind = next,
            }
        }
    }

    fn durable_is(&self, position: u64) -> bool {
        matches!(self.durable, Durable::Below(durable) if durable == position)
    }

    /// Whether a record that was durable begins at `position`.
    async fn is_start(&self, position: u64) -> Result<bool, DiskError> {
        let Some(log_file) = self.files.at(position) else {
            return Ok(false);
        };
        let room = log_file.start + self.files.file_size() - position;
        let mut bytes = Bytes::new();
        loop {
            match step(&bytes, position, room) {
                Step::Record(record) | Step::Doubtful(record) => {
                    return Ok(self.durable.covers(position, record.store_time));
                }
                Step::More(size) => bytes = log_file.file.read(position - log_file.start, size).await?,
                Step::Blank | Step::Broken => return Ok(false),
            }
        }
    }

    /// The slots of records in `[from, until)`, as far as queue entries tell, become gaps.
    async fn lose(&mut self, from: u64, until: u64, queues: &QueueTable<D::File>) -> Result<ReplayEnd, DiskError> {
        for loaded in self.loaded {
            let (begin, _) = loaded.first_at_or_behind(from).await?;
            let (end, _) = loaded.first_at_or_behind(until).await?;
            for offset in begin..end.min(begin + FILL_COUNT_MAX) {
                let place = Place {
                    topic: &loaded.topic,
                    queue_id: loaded.queue_id,
                    offset,
                    entry: Entry::FILLER,
                };
                let queue = queues.get_or_create(&loaded.topic, loaded.queue_id);
                if let ReplayEnd::Gap = self.push(&queue, &place, true, queues) {
                    return Ok(ReplayEnd::Gap);
                }
            }
        }
        Ok(ReplayEnd::Found)
    }

    /// With the end known: offsets that a queue has given to records before it are not given out again, even if those
    /// records, the last ones of their queues, are lost.
    pub(crate) async fn keep_offsets(&mut self, queues: &QueueTable<D::File>) -> Result<(), DiskError> {
        let log_end = self.recovery.log_end;
        for loaded in self.loaded {
            let (end, _) = loaded.first_at_or_behind(log_end).await?;
            let Some(queue) = queues.get(&loaded.topic, loaded.queue_id) else {
                continue;
            };
            for offset in queue.bounds().max..end {
                let place = Place {
                    topic: &loaded.topic,
                    queue_id: loaded.queue_id,
                    offset,
                    entry: Entry::FILLER,
                };
                self.push(&queue, &place, true, queues);
            }
        }
        Ok(())
    }

    fn gap(&mut self, place: &Place<'_>) {
        self.recovery.gaps.push(Gap {
            topic: Arc::from(place.topic),
            queue_id: place.queue_id,
            offset: place.offset,
        });
    }

    fn take(&mut self, record: &RecordView<'_>, is_damaged: bool, queues: &QueueTable<D::File>) -> ReplayEnd {
        self.recovery.scanned_records += 1;
        self.last_store_time = self.last_store_time.max(record.store_time);
        for place in places(record, &self.config.delay_levels_ms) {
            if !is_folder_name(place.topic) || self.is_being_deleted(place.topic) {
                continue;
            }
            let queue = match queues.get(place.topic, place.queue_id) {
                Some(queue) => queue,
                None if record.physical_offset < self.skip_unknown_below => continue,
                None => queues.get_or_create(place.topic, place.queue_id),
            };
            if let ReplayEnd::Gap = self.push(&queue, &place, is_damaged, queues) {
                return ReplayEnd::Gap;
            }
        }
        ReplayEnd::Found
    }

    fn is_being_deleted(&self, topic: &str) -> bool {
        self.deleting.iter().any(|hash| *hash != 0) && self.deleting.contains(&topic_hash(topic))
    }

    /// Gives a record its slot, or holds it. With `is_gap` its slot is one.
    fn push(
        &mut self,
        queue: &Arc<Queue<D::File>>,
        place: &Place<'_>,
        is_gap: bool,
        queues: &QueueTable<D::File>,
    ) -> ReplayEnd {
        self.pushed += 1;
        if !self.held.is_empty()
            && let Some(held) = self.held.remove(&(Arc::clone(&queue.topic), queue.queue_id))
        {
            match held.is_belied_by(place.offset, queue.bounds().max) {
                true => self.disbelieve(&held, place.offset, queues),
                false => self.believe(held, queues),
            }
        }
        let Bounds { min, max } = queue.bounds();
        let is_ahead = place.offset > max;
        if is_ahead && min < max && !self.is_full {
            return ReplayEnd::Gap;
        } else if is_ahead || place.offset == 0 && max > 0 && !self.is_kept(queue) {
            let held = Held {
                queue: Arc::clone(queue),
                offset: place.offset,
                entry: place.entry,
                is_gap,
            };
            self.held.insert((Arc::clone(&queue.topic), queue.queue_id), held);
            return ReplayEnd::Found;
        }
        match queue.push(place.offset, place.entry) {
            Pushed::First => queues.note_unwritten(queue),
            Pushed::Further | Pushed::Gone | Pushed::Gap => {}
            // Given out twice by a broker that had lost entries: the first record keeps the offset, as in Java.
            Pushed::Duplicate => log::warn!(
                "record at {} repeats offset {} of {}-{}",
                place.entry.physical,
                place.offset,
                place.topic,
                place.queue_id
            ),
        }
        if is_gap {
            self.gap(place);
        }
        ReplayEnd::Found
    }

    /// Whether the queue has entries below the checkpoint's position in its files: its topic was not deleted since, and has not begun
    /// anew.
    fn is_kept(&self, queue: &Queue<D::File>) -> bool {
        let is_this = |loaded: &LoadedQueue<D::File>| loaded.topic == queue.topic && loaded.queue_id == queue.queue_id;
        let is_settled = !self.is_full && matches!(self.durable, Durable::Below(_));
        is_settled && self.loaded.iter().any(|loaded| is_this(loaded) && loaded.has_entries())
    }

    /// Nothing speaks against the held record's offset: the queue has begun anew, or lacks what is in between.
    fn believe(&mut self, held: Held<D::File>, queues: &QueueTable<D::File>) {
        let (queue, place) = (&held.queue, held.place());
        let Bounds { min, max } = queue.bounds();
        let (is_empty, is_anew) = (min == max, place.offset == 0);
        let is_nonsense = match is_empty {
            true => place.offset > OFFSET_MAX,
            false => place.offset - max > FILL_COUNT_MAX,
        };
        if is_nonsense {
            log::warn!(
                "record at {} names offset {} of {}-{}, which ends at {max}",
                place.entry.physical,
                place.offset,
                place.topic,
                place.queue_id
            );
            return;
        }
        if is_empty || is_anew {
            // The topic was deleted and made again: its offsets started anew. Or its log begins in the middle.
            queue.start_at(place.offset);
        }
        self.fill(queue, place.offset);
        queue.push(place.offset, place.entry);
        queues.note_unwritten(queue);
        if held.is_gap {
            self.gap(&place);
        }
    }

    /// The next record of the queue has offset `next`: the held one's has rotted, and its slot is the one before.
    fn disbelieve(&mut self, held: &Held<D::File>, next: i64, queues: &QueueTable<D::File>) {
        let queue = &held.queue;
        let Bounds { min, max } = queue.bounds();
        log::error!(
            "record at {} names offset {} of {}-{}, which ends at {max}, and the next one {next}: it is not handed out",
            held.entry.physical,
            held.offset,
            queue.topic,
            queue.queue_id
        );
        if min == max && max < next {
            queue.start_at(next - 1);
        }
        let end = queue.bounds().max;
        if end < next {
            self.fill(queue, end + 1);
            queues.note_unwritten(queue);
        }
    }

    /// Slots up to `offset` become gaps.
    fn fill(&mut self, queue: &Queue<D::File>, offset: i64) {
        for offset in queue.bounds().max..offset {
            queue.push(offset, Entry::FILLER);
            self.gap(&Place {
                topic: &queue.topic,
                queue_id: queue.queue_id,
                offset,
                entry: Entry::FILLER,
            });
        }
    }
}
