//! Reading: pulls, single records, look-ups by time. Everything handed out lies below the confirm position.
//!
//! | the records of a pull | how they are read | limits |
//! |---|---|---|
//! | read ahead and checked for a walk | slices of the piece, on the caller's thread | memory |
//! | in memory, written or checked by this process, as their queue entries are | slices of the mapping, on the caller's thread; not looked at | memory |
//! | in memory otherwise (old ones after a start; fetched from the device) | copied and checked, on the caller's thread | memory |
//! | being read ahead for a walk | waited for, then as above | memory |
//! | not in memory, but the reader walks | read off the reactors and checked | memory |
//! | not in memory | read off the reactors and checked | disk |
//!
//! So nothing that comes from the device is handed out unchecked, and nobody looks at a mapped byte but the kernel, which answers a
//! bad sector with an error. What `trust` and `walkers` hold is a few hundred bytes; `pieces` holds up to 64 MiB while somebody walks.

use std::ops::ControlFlow;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};

use super::dispatch::places;
use super::layout::{ENTRY_SIZE, Entry};
use super::queue::Queue;
use super::scan::{Step, step};
use super::select::{Picked, Reach, Selection, Taken, by_bounds, extent, runs, span};
use super::trust::READ_BACK_SIZE;
use super::walkers::Visit;
use super::{
    Boundary, Bounds, GetRequest, GetStatus, Got, QueueOf, Shared, Store, StoreError, TagFilter, TransferLimit,
};
use crate::protocol::message::{RecordView, STORE_TIME_PREFIX_SIZE, store_time};
use crate::runtime::{DiskError, DiskErrorKind, File, Runtime, WallMillis};
use crate::sync::lock;
use crate::types::PhysicalOffset;

/// Fewest entries that one pull examines for a filter, as in Java (16,000 bytes of queue).
const FILTER_SCAN_COUNT: usize = 800;

/// Records within so many bytes are asked about with one question.
const SPAN_SIZE_MAX: u64 = 1 << 20;

/// What a pull is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A socket: mapped bytes may be among it.
    Slices,
    /// Somebody who looks at the records.
    Copies,
}

impl<R: Runtime> Store<R> {
    /// A pull that needs no waiting: an answer without messages, or messages that are in memory. `None`: use
    /// [`get`](Store::get). What it gives is for a socket.
    pub fn get_hot(&self, request: &GetRequest<'_>) -> Option<Got> {
        let (queue, bounds) = match self.queue_of(request) {
            ControlFlow::Continue(found) => found,
            ControlFlow::Break(got) => return Some(got),
        };
        match self.try_hot(&queue, bounds, request, Form::Slices) {
            Hot::Got(got) => Some(got),
            Hot::ColdEntries | Hot::ColdRecords => None,
        }
    }

    /// A pull's queue and its bounds, unless those are the answer.
    fn queue_of(&self, request: &GetRequest<'_>) -> ControlFlow<Got, (QueueOf<R>, Bounds)> {
        let Some(queue) = self.owner.shared.queues.get(request.topic, request.queue_id) else {
            return ControlFlow::Break(Got::nothing(GetStatus::NoMatchedLogicQueue, 0, Bounds::default()));
        };
        let bounds = queue.bounds();
        match by_bounds(request.offset, bounds) {
            Some(got) => ControlFlow::Break(got),
            None => ControlFlow::Continue((queue, bounds)),
        }
    }

    fn try_hot(&self, queue: &QueueOf<R>, bounds: Bounds, request: &GetRequest<'_>, form: Form) -> Hot {
        let shared = &self.owner.shared;
        let limit = shared.config.transfer_in_memory;
        let mut meets_address = false;
        let selection = shared.select(request, limit, bounds, |visit| {
            queue.visit_resident(request.offset, scan_count(request), &mut |offset, entry| {
                if request.filter.needs_extension(entry.tags_code) {
                    meets_address = true;
                    return ControlFlow::Break(());
                }
                visit(offset, entry)
            })
        });
        let Some(mut selection) = selection.filter(|selection| !meets_address || !selection.is_untouched()) else {
            return Hot::ColdEntries;
        };
        if let Some(taken) = shared.take_trusted(queue, &selection, form) {
            return Hot::Got(selection.got(bounds, taken));
        }
        if shared.is_coming(&selection) {
            return Hot::ColdRecords;
        }
        let Ok(Some(taken)) = shared.take_ready(queue, &mut selection, form) else {
            return Hot::ColdRecords;
        };
        Hot::Got(selection.got(bounds, taken))
    }

    /// A pull. Statuses as RocketMQ's; at least one whole message if any matches. What it gives is for a socket: a look at a mapped
    /// byte could meet a bad sector, and end the process.
    pub async fn get(&self, request: &GetRequest<'_>) -> Result<Got, StoreError> {
        self.get_as(request, Form::Slices).await
    }

    /// As [`get`](Store::get), for somebody who looks at the records.
    pub async fn get_copied(&self, request: &GetRequest<'_>) -> Result<Got, StoreError> {
        self.get_as(request, Form::Copies).await
    }

    async fn get_as(&self, request: &GetRequest<'_>, form: Form) -> Result<Got, StoreError> {
        let (queue, bounds) = match self.queue_of(request) {
            ControlFlow::Continue(found) => found,
            ControlFlow::Break(got) => return Ok(got),
        };
        let shared = &self.owner.shared;
        let hot = self.try_hot(&queue, bounds, request, form);
        if let Hot::Got(got) = hot {
            return Ok(got);
        }
        let mut request = request.clone();
        if matches!(hot, Hot::ColdEntries) {
            request.filter = shared.filter_with_extension(&queue, &request).await?;
        }
        let request = &request;
        let limit = shared.config.transfer_in_memory;
        let resident = shared.select(request, limit, bounds, |visit| {
            queue.visit_resident(request.offset, scan_count(request), visit)
        });
        let mut selection = match resident {
            Some(selection) => selection,
            None => shared.select_loaded(&queue, request, limit, bounds).await?,
        };
        shared.wait_for_piece(&selection).await;
        // Only the queue's entries were cold, perhaps.
        if let Ok(Some(taken)) = shared.take_ready(&queue, &mut selection, form) {
            return Ok(selection.got(bounds, taken));
        }
        if !shared.note_walk(&selection, Found::Cold) {
            selection.keep_within(shared.config.transfer_on_disk);
        }
        let taken = shared.take_cold(&selection).await?;
        vouch(&queue, &selection, &taken);
        Ok(selection.got(bounds, taken))
    }

    /// The record at a position, checked: whole, with its CRC, saying that it lies there, below the confirm position.
    pub async fn record_at(&self, position: PhysicalOffset) -> Result<Option<Bytes>, StoreError> {
        self.owner.shared.record_at(position.0).await
    }

    /// Offset of the message stored at (or around) a time.
    pub async fn offset_by_time(
        &self,
        topic: &str,
        queue_id: i32,
        time: WallMillis,
        boundary: Boundary,
    ) -> Result<i64, StoreError> {
        let shared = &self.owner.shared;
        let Some(queue) = shared.queues.get(topic, queue_id) else {
            return Ok(0);
        };
        // First offset stored at or after `wanted`.
        let wanted = match boundary {
            Boundary::Lower => time.0,
            Boundary::Upper => time.0.saturating_add(1),
        };
        let Bounds { min, max } = queue.bounds();
        let (mut low, mut high) = (min, max);
        while low < high {
            let middle = low + (high - low) / 2;
            // A gap has no time: the next message decides.
            let Some((at, _)) = queue.skip_fillers(middle, high).await? else {
                high = middle;
                continue;
            };
            match shared.entry_time(&queue, at).await? {
                Some(stored) if stored.0 >= wanted => high = middle,
                _ => low = at + 1,
            }
        }
        Ok(match boundary {
            Boundary::Lower => queue.skip_fillers(low, max).await?.map_or(max, |(at, _)| at),
            Boundary::Upper => {
                let mut before = low - 1;
                while before >= min && queue.skip_fillers(before, before + 1).await?.is_none() {
                    before -= 1;
                }
                if before >= min { before } else { 0 }
            }
        })
    }

    /// Store time of the message at an offset; `None` if there is none.
    pub async fn store_time(&self, topic: &str, queue_id: i32, offset: i64) -> Result<Option<WallMillis>, StoreError> {
        let shared = &self.owner.shared;
        match shared.queues.get(topic, queue_id) {
            Some(queue) => shared.entry_time(&queue, offset).await,
            None => Ok(None),
        }
    }
}

/// How a pull's records were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// Ready to be handed out.
    Checked,
    /// In memory, to be checked.
    Unchecked,
    Cold,
}

/// Records of a pull that need no waiting.
#[derive(Default)]
struct Ready {
    taken: Taken,
    /// How many of the selection they are, those left out included.
    count: usize,
    /// Some had to be checked.
    was_unchecked: bool,
}

/// What there is without waiting.
enum Hot {
    Got(Got),
    /// The first entries are not in memory, or name a place in the extension file.
    ColdEntries,
    /// The first records are not in memory, or are being read ahead.
    ColdRecords,
}

/// All records of a pull were checked: if each of its entries led to one, the entries are right.
fn vouch<F: File>(queue: &Queue<F>, selection: &Selection<'_>, taken: &Taken) {
    let from = selection.request.offset;
    if selection.next_offset - from == taken.count as i64 {
        queue.vouch(from, selection.next_offset);
    }
}

fn scan_count(request: &GetRequest<'_>) -> usize {
    request.max_count.max(FILTER_SCAN_COUNT)
}

impl<R: Runtime> Shared<R> {
    /// Runs the selection over the entries that `visit_all` shows. `None` if not even the first one can be shown. `bounds` were
    /// the queue's before.
    fn select<'a>(
        &self,
        request: &'a GetRequest<'a>,
        limit: TransferLimit,
        bounds: Bounds,
        visit_all: impl FnOnce(&mut dyn FnMut(i64, Entry) -> ControlFlow<()>) -> Option<()>,
    ) -> Option<Selection<'a>> {
        let reach = Reach {
            log_start: self.files.start().unwrap_or(0),
            confirmed: self.confirmed(),
            shown: bounds.max,
            file_size: self.config.commit_log_file_size,
        };
        let mut selection = Selection::new(request, limit, reach);
        let damaged = self.damaged.read().unwrap_or_else(PoisonError::into_inner);
        let all_shown = visit_all(&mut |offset, entry| {
            let is_damaged = !damaged.is_empty() && damaged.contains(&entry.physical);
            selection.offer(offset, entry, is_damaged)
        });
        // What was selected before a cold stretch of entries is an answer, too.
        if all_shown.is_none() && selection.is_untouched() {
            return None;
        }
        Some(selection)
    }

    /// Runs the selection over entries read off the reactors.
    async fn select_loaded<'a>(
        &self,
        queue: &QueueOf<R>,
        request: &'a GetRequest<'a>,
        limit: TransferLimit,
        bounds: Bounds,
    ) -> Result<Selection<'a>, StoreError> {
        let unreadable = || queue.unreadable(request.offset);
        let loaded = queue.load(request.offset).await?.ok_or_else(unreadable)?;
        let entries = loaded.chunks_exact(ENTRY_SIZE as usize).take(scan_count(request));
        let selection = self.select(request, limit, bounds, |visit| {
            for (offset, entry) in (request.offset..).zip(entries) {
                if visit(offset, Entry::decode(entry).unwrap_or(Entry::FILLER)).is_break() {
                    break;
                }
            }
            Some(())
        });
        selection.ok_or_else(unreadable)
    }

    /// The request's filter; if the entries that may be examined have addresses, one that knows what stands behind them.
    async fn filter_with_extension(
        &self,
        queue: &QueueOf<R>,
        request: &GetRequest<'_>,
    ) -> Result<TagFilter, StoreError> {
        let filter = request.filter.clone();
        if matches!(filter, TagFilter::All) {
            return Ok(filter);
        }
        let loaded = queue.load(request.offset).await?.unwrap_or_default();
        let entries = loaded.chunks_exact(ENTRY_SIZE as usize).take(scan_count(request));
        let codes = entries.filter_map(Entry::decode).map(|entry| entry.tags_code);
        let addresses: Vec<i64> = codes.filter(|code| filter.needs_extension(*code)).collect();
        if addresses.is_empty() {
            return Ok(filter);
        }
        let disk = self.runtime.disk();
        let known = self
            .extension
            .resolve(disk, request.topic, request.queue_id, &addresses);
        Ok(filter.with_extension(known.await))
    }

    /// Takes the selection's records if all of them, and their entries, are known to be right and in memory. The walkers hear nothing of
    /// it: nothing is to be read ahead, and a walk that was read ahead for ends by itself.
    fn take_trusted(&self, queue: &QueueOf<R>, selection: &Selection<'_>, form: Form) -> Option<Taken> {
        let is_vouched = form == Form::Slices && queue.vouches(selection.request.offset, selection.next_offset);
        let mut ready = Ready::default();
        let is_sliced = is_vouched && self.slice_resident(&selection.picked, &mut ready).is_ok();
        (is_sliced && ready.count == selection.picked.len()).then_some(ready.taken)
    }

    /// Takes the selection's records as far as they are ready: read ahead, or in memory. Cuts it there, and tells the walkers. `None`
    /// if the first one is not.
    fn take_ready(
        &self,
        queue: &QueueOf<R>,
        selection: &mut Selection<'_>,
        form: Form,
    ) -> Result<Option<Taken>, DiskError> {
        if selection.picked.is_empty() {
            return Ok(Some(Taken::default()));
        }
        let mut ready = Ready::default();
        self.take_pieces(selection, &mut ready);
        let is_vouched = queue.vouches(selection.request.offset, selection.next_offset);
        if is_vouched && form == Form::Slices {
            self.slice_resident(&selection.picked[ready.count..], &mut ready)?;
        }
        self.copy_resident(selection, &mut ready)?;
        if ready.count == 0 {
            return Ok(None);
        }
        selection.keep(ready.count);
        if !is_vouched {
            vouch(queue, selection, &ready.taken);
        }
        let found = if ready.was_unchecked {
            Found::Unchecked
        } else {
            Found::Checked
        };
        self.note_walk(selection, found);
        Ok(Some(ready.taken))
    }

    fn take_pieces(&self, selection: &Selection<'_>, ready: &mut Ready) {
        if !self.has_walkers.load(Ordering::Relaxed) {
            return;
        }
        let request = selection.request;
        let is_good = |bytes: &[u8], picked: &Picked| self.is_good(bytes, request, picked);
        let (taken, from_memory) = lock(&self.pieces).take(request.topic, request.queue_id, &selection.picked, is_good);
        if from_memory {
            self.trust_all(&selection.picked[..taken.count]);
        }
        ready.count = taken.count;
        ready.taken = taken;
    }

    /// Whether the selection's first record is being read ahead.
    fn is_coming(&self, selection: &Selection<'_>) -> bool {
        let first = selection.picked.first();
        self.has_walkers.load(Ordering::Relaxed)
            && first.is_some_and(|first| lock(&self.walkers).is_reading(first.start))
    }

    /// Waits while the selection's first record is being read ahead.
    async fn wait_for_piece(&self, selection: &Selection<'_>) {
        loop {
            let seen = self.pieces_read.get();
            if self.closed.load(Ordering::Acquire) || !self.is_coming(selection) {
                return;
            }
            self.pieces_read.until(move |count| *count != seen).await;
        }
    }

    /// Slices of what this process wrote or checked.
    fn slice_resident(&self, picked: &[Picked], ready: &mut Ready) -> Result<(), DiskError> {
        let (start, end) = span(picked).unwrap_or_default();
        let all = end - start <= SPAN_SIZE_MAX
            && self.trusts(start, end)
            && self.files.resident(start, (end - start) as usize);
        for run in runs(picked) {
            let (start, size) = extent(run);
            let is_ready = all || self.trusts(start, start + size as u64) && self.files.resident(start, size);
            if !is_ready {
                break;
            }
            ready.taken.put(self.files.read_hot(start, size)?);
            ready.taken.count += run.len();
            ready.count += run.len();
        }
        Ok(())
    }

    /// Copies of what may have come from the device, checked.
    fn copy_resident(&self, selection: &Selection<'_>, ready: &mut Ready) -> Result<(), DiskError> {
        let picked = &selection.picked[ready.count..];
        let mut buffer = BytesMut::zeroed(picked.iter().map(|record| record.size as usize).sum());
        let (mut size_read, mut count_read) = (0, 0);
        for run in runs(picked) {
            let (start, size) = extent(run);
            let place = &mut buffer[size_read..size_read + size];
            // What follows a piece is going to be read ahead: the kernel need not hear of it.
            let is_wanted = ready.count == 0 || self.files.resident(start, size);
            if !is_wanted || !self.files.read_resident(start, place)? {
                break;
            }
            size_read += size;
            count_read += run.len();
        }
        if count_read > 0 {
            buffer.truncate(size_read);
            let copied = &picked[..count_read];
            self.put_checked(buffer.freeze(), selection.request, copied, &mut ready.taken);
            ready.was_unchecked = true;
            ready.count += count_read;
        }
        Ok(())
    }

    /// Reads records wherever they are; those that fail their check are left out.
    async fn take_cold(&self, selection: &Selection<'_>) -> Result<Taken, StoreError> {
        let mut taken = Taken::default();
        for run in runs(&selection.picked) {
            let (start, size) = extent(run);
            match self.read_any(start, size).await {
                Ok(bytes) => self.put_checked(bytes, selection.request, run, &mut taken),
                // The file was deleted under the reader.
                Err(error) if error.kind == DiskErrorKind::OutOfRange => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(taken)
    }

    /// Adds those of the records, which lie one behind the other in `bytes`, that are what they should be.
    fn put_checked(&self, mut bytes: Bytes, request: &GetRequest<'_>, records: &[Picked], taken: &mut Taken) {
        let mut good = 0;
        for run in runs(records) {
            let mut all_good = true;
            for record in run {
                let size = record.size as usize;
                if self.is_good(&bytes[good..good + size], request, record) {
                    good += size;
                    taken.count += 1;
                    continue;
                }
                log::error!("record at {} is damaged and left out", record.start);
                all_good = false;
                taken.put(bytes.split_to(good));
                drop(bytes.split_to(size));
                good = 0;
            }
            if all_good {
                self.trust_all(run);
            }
        }
        taken.put(bytes.split_to(good));
    }

    /// Whole, with its CRC, and (what no CRC covers) saying that it lies there and belongs to this offset of this queue.
    fn is_good(&self, bytes: &[u8], request: &GetRequest<'_>, picked: &Picked) -> bool {
        let Some(record) = check(bytes, picked.start) else {
            return false;
        };
        let is_own = record.topic == request.topic
            && record.queue_id == request.queue_id
            && record.queue_offset == picked.offset;
        is_own
            || places(&record, &self.config.delay_levels_ms).any(|place| {
                place.topic == request.topic && place.queue_id == request.queue_id && place.offset == picked.offset
            })
    }

    /// The page cache holds these records as they were checked.
    fn trust_all(&self, records: &[Picked]) {
        let mut trust = self.trust.write().unwrap_or_else(PoisonError::into_inner);
        for run in runs(records) {
            let (start, size) = extent(run);
            trust.add(start, start + size as u64);
        }
    }

    pub(super) fn trusts(&self, start: u64, end: u64) -> bool {
        let trust = self.trust.read().unwrap_or_else(PoisonError::into_inner);
        trust.covers(start, end)
    }

    /// The stretch is about to come from the device, and what the kernel reads ahead.
    fn note_cold(&self, start: u64, end: u64) {
        let back = end.saturating_add(READ_BACK_SIZE).min(self.confirmed());
        let mut trust = self.trust.write().unwrap_or_else(PoisonError::into_inner);
        trust.remove(start, back);
    }

    /// Tells the walkers of a pull. Whether it belongs to a walk that is read ahead for.
    fn note_walk(&self, selection: &Selection<'_>, found: Found) -> bool {
        if found == Found::Checked && !self.has_walkers.load(Ordering::Relaxed) {
            return false;
        }
        let Some((start, end)) = span(&selection.picked) else {
            return false;
        };
        let confirmed = self.confirmed();
        if found == Found::Cold {
            self.note_cold(start, end);
        }
        let visit = Visit {
            start,
            end,
            bytes: selection.bytes() as u64,
            is_new: found != Found::Checked,
        };
        let noted = {
            let mut walkers = lock(&self.walkers);
            let noted = walkers.note(visit, confirmed, self.runtime.mono());
            if !walkers.is_empty() {
                self.has_walkers.store(true, Ordering::Relaxed);
            }
            noted
        };
        if noted.wants_piece {
            self.piece_wanted.notify();
        }
        noted.is_walker
    }

    pub(super) async fn record_at(&self, position: u64) -> Result<Option<Bytes>, StoreError> {
        let confirmed = self.confirmed();
        let Some(log_file) = self.files.at(position) else {
            return Ok(None);
        };
        let room = (log_file.start + self.files.file_size())
            .min(confirmed)
            .saturating_sub(position);
        if room < 8 {
            return Ok(None);
        }
        // One read for most records, a second for large ones.
        let first = self.read_any(position, room.min(4096) as usize).await?;
        let size = u64::from(u32::from_be_bytes([first[0], first[1], first[2], first[3]]));
        if size > room {
            return Ok(None);
        }
        let bytes = match first.len() as u64 {
            read if read >= size => first.slice(..size as usize),
            read => {
                let mut whole = BytesMut::with_capacity(size as usize);
                whole.extend_from_slice(&first);
                whole.extend_from_slice(&self.read_any(position + read, (size - read) as usize).await?);
                whole.freeze()
            }
        };
        Ok(check(&bytes, position).is_some().then_some(bytes))
    }

    /// A copy, on this thread if the range is in memory.
    pub(super) async fn read_any(&self, position: u64, size: usize) -> Result<Bytes, DiskError> {
        let mut buffer = BytesMut::zeroed(size);
        if self.files.read_resident(position, &mut buffer)? {
            return Ok(buffer.freeze());
        }
        drop(buffer);
        self.note_cold(position, position + size as u64);
        self.files.read(position, size).await
    }

    /// Store time of the record behind an entry.
    async fn entry_time(&self, queue: &QueueOf<R>, offset: i64) -> Result<Option<WallMillis>, StoreError> {
        let Some(entry) = queue.entry(offset).await? else {
            return Ok(None);
        };
        if entry.is_filler() || entry.end() > self.confirmed() || entry.physical < self.files.start().unwrap_or(0) {
            return Ok(None);
        }
        let size = STORE_TIME_PREFIX_SIZE.min(entry.size as usize);
        Ok(store_time(&self.read_any(entry.physical, size).await?))
    }
}

/// The record that `bytes` are, if it is whole, passes its CRC, and says that it lies at `position`.
pub(super) fn check(bytes: &[u8], position: u64) -> Option<RecordView<'_>> {
    match step(bytes, position, u64::MAX) {
        Step::Record(record) if record.size() == bytes.len() => Some(record),
        _ => None,
    }
}
