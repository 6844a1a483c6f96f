//! One file's content: what a reader sees, what the device holds, and the unsynced difference.
//!
//! Sparse: pages that were never written take no memory. While a page has unsynced writes, its durable content is kept
//! beside it; a sync forgets those, a power loss goes back to them and re-applies what happened to reach the device.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::crash::{Fate, Newest};
use crate::effects::Effects;
use crate::random::Draw;

const PAGE_SIZE: u64 = 4096;

/// The unit that a device writes whole or not at all.
pub(super) const SECTOR_SIZE: u64 = 512;

type Page = Arc<[u8; PAGE_SIZE as usize]>;
type Pages = BTreeMap<u64, Page>;

#[derive(Clone)]
enum Change {
    Write { offset: u64, data: Bytes },
    Zero { offset: u64, size: u64 },
    Grow { len: u64 },
}

#[derive(Clone)]
struct Unsynced {
    number: u64,
    at: u64,
    /// A sync has failed since: the kernel believes the pages clean and will not write them again.
    abandoned: bool,
    /// Sectors of an abandoned change that a later write has made dirty again, and that a sync has written since, whole: this
    /// change's bytes went with them, below the later ones.
    overtaken: Vec<Range<u64>>,
    change: Change,
}

impl Unsynced {
    fn is_overtaken(&self, sector: u64) -> bool {
        self.overtaken.iter().any(|sectors| sectors.contains(&sector))
    }
}

/// A write that the device is going to put elsewhere.
#[derive(Clone)]
struct Misdirected {
    offset: u64,
    /// What stood there before.
    old: Bytes,
    data: Bytes,
    lands: u64,
}

#[derive(Clone, Default)]
pub(super) struct Image {
    pages: Pages,
    len: u64,
    durable_len: u64,
    /// Pages in memory.
    resident: BTreeSet<u64>,
    /// Durable content of the pages that unsynced changes touch; `None` is a hole.
    durable: BTreeMap<u64, Option<Page>>,
    unsynced: VecDeque<Unsynced>,
    unsynced_bytes: u64,
    changes: u64,
    misdirected: Vec<Misdirected>,
    /// Pages as they are in memory where the device has come to hold something else.
    overlay: Pages,
}

impl Image {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Number of the latest change.
    pub(super) fn last_change(&self) -> u64 {
        self.changes
    }

    /// Bytes that a sync would have to write.
    pub(super) fn unsynced_bytes(&self) -> u64 {
        self.unsynced_bytes
    }

    pub(super) fn has_unsynced(&self) -> bool {
        !self.unsynced.is_empty()
    }

    /// What a read gives that has to ask the device.
    pub(super) fn read(&self, offset: u64, size: usize) -> Bytes {
        self.read_from(|page| self.pages.get(&page), offset, size)
    }

    /// What a mapping shows.
    pub(super) fn read_mapped(&self, offset: u64, size: usize) -> Bytes {
        let page = |page| self.overlay.get(&page).or_else(|| self.pages.get(&page));
        self.read_from(page, offset, size)
    }

    fn read_from<'a>(&'a self, page_at: impl Fn(u64) -> Option<&'a Page>, offset: u64, size: usize) -> Bytes {
        let mut bytes = BytesMut::with_capacity(size);
        let end = offset + size as u64;
        let mut at = offset;
        while at < end {
            let (page, within) = (at / PAGE_SIZE, (at % PAGE_SIZE) as usize);
            let count = (PAGE_SIZE as usize - within).min((end - at) as usize);
            match page_at(page) {
                Some(page) => bytes.extend_from_slice(&page[within..within + count]),
                None => bytes.resize(bytes.len() + count, 0),
            }
            at += count as u64;
        }
        bytes.freeze()
    }

    pub(super) fn is_resident(&self, offset: u64, size: u64) -> bool {
        pages_of(offset, size).all(|page| self.resident.contains(&page))
    }

    /// The range was read or written: it is in memory now.
    pub(super) fn bring_in(&mut self, offset: u64, size: u64) {
        self.resident.extend(pages_of(offset, size));
    }

    /// Nothing is in memory any more. What is not on the device yet is known all the same.
    pub(super) fn evict(&mut self) {
        self.resident.clear();
        self.drop_overlay();
    }

    pub(super) fn write(&mut self, at: u64, offset: u64, data: Bytes) {
        let size = data.len() as u64;
        self.bring_in(offset, size);
        self.remember(offset, size);
        put(&mut self.pages, offset, &data);
        self.write_overlay(offset, &data);
        self.len = self.len.max(offset + size);
        self.record(at, size, Change::Write { offset, data });
    }

    pub(super) fn zero(&mut self, at: u64, offset: u64, size: u64) {
        let touched: Vec<_> = self
            .pages
            .range(pages_of(offset, size))
            .map(|(&page, _)| page)
            .collect();
        for page in touched {
            self.remember(page * PAGE_SIZE, 1);
        }
        clear(&mut self.pages, offset, size);
        clear(&mut self.overlay, offset, size);
        self.len = self.len.max(offset + size);
        self.record(at, 0, Change::Zero { offset, size });
    }

    pub(super) fn grow(&mut self, at: u64, len: u64) {
        if len > self.len {
            self.len = len;
            self.record(at, 0, Change::Grow { len });
        }
    }

    /// Keeps the durable content of the pages about to change.
    fn remember(&mut self, offset: u64, size: u64) {
        for page in pages_of(offset, size) {
            let current = &self.pages;
            self.durable.entry(page).or_insert_with(|| current.get(&page).cloned());
        }
    }

    fn record(&mut self, at: u64, size: u64, change: Change) {
        self.changes += 1;
        self.unsynced_bytes += size;
        self.unsynced.push_back(Unsynced {
            number: self.changes,
            at,
            abandoned: false,
            overtaken: Vec::new(),
            change,
        });
    }

    /// Changes up to `number` reach the device, except those that an earlier failed sync has abandoned.
    pub(super) fn persist(&mut self, number: u64) {
        let (done, stay): (Vec<_>, Vec<_>) = std::mem::take(&mut self.unsynced)
            .into_iter()
            .partition(|entry| entry.number <= number && !entry.abandoned);
        self.unsynced = stay.into();
        let misdirected = std::mem::take(&mut self.misdirected);
        if self.unsynced.is_empty() {
            self.durable.clear();
            self.durable_len = self.len;
            self.unsynced_bytes = 0;
        } else {
            for entry in done {
                self.unsynced_bytes -= entry.change.size();
                self.overtake(&entry);
                self.apply_to_durable(&entry.change, |_| true);
            }
        }
        for write in misdirected {
            self.replace_on_device(write.offset, &write.old);
            self.replace_on_device(write.lands, &write.data);
        }
    }

    /// What abandoned changes left in the sectors of a change that reaches the device goes with it.
    fn overtake(&mut self, by: &Unsynced) {
        let sectors = by.change.sectors();
        let mut all = std::mem::take(&mut self.unsynced);
        for older in all
            .iter_mut()
            .filter(|older| older.abandoned && older.number < by.number)
        {
            let is_common = |sector| sectors.contains(&sector) && !older.is_overtaken(sector);
            self.apply_to_durable(&older.change, is_common);
            older.overtaken.push(sectors.clone());
        }
        self.unsynced = all;
    }

    /// The write of `data` at `offset`, which comes next, will land elsewhere once it is synced.
    pub(super) fn misdirect(&mut self, offset: u64, data: &Bytes, lands: u64) {
        let old = self.read(offset, data.len());
        self.misdirected.push(Misdirected {
            offset,
            old,
            data: data.clone(),
            lands,
        });
    }

    /// The device holds `bytes` there from now on, up to the end of the file; memory does not know.
    fn replace_on_device(&mut self, offset: u64, bytes: &[u8]) {
        let size = (bytes.len() as u64).min(self.len.saturating_sub(offset));
        for page in pages_of(offset, size) {
            let current = self.pages.entry(page).or_insert_with(zeros);
            self.overlay.entry(page).or_insert_with(|| Arc::clone(current));
        }
        let bytes = &bytes[..size as usize];
        put(&mut self.pages, offset, bytes);
        for (at, piece) in sectors(offset, size) {
            if self.durable.contains_key(&(at / PAGE_SIZE)) {
                let from = (at - offset) as usize;
                self.put_durable(at, &bytes[from..from + piece as usize]);
            }
        }
    }

    /// Flips bits of one byte; `in_memory`, too, or below it. False beyond the end.
    pub(super) fn rot(&mut self, offset: u64, mask: u8, in_memory: bool) -> bool {
        if offset >= self.len {
            return false;
        }
        let flipped = self.read(offset, 1)[0] ^ mask;
        let resident = self.read_mapped(offset, 1)[0] ^ mask;
        self.replace_on_device(offset, &[flipped]);
        if in_memory {
            self.write_overlay(offset, &[resident]);
        }
        true
    }

    /// Memory is given back: from now on reads show what the device holds.
    pub(super) fn drop_overlay(&mut self) {
        self.overlay.clear();
    }

    /// A write changes what memory holds, too.
    fn write_overlay(&mut self, offset: u64, data: &[u8]) {
        for (at, piece) in sectors(offset, data.len() as u64) {
            if let Some(page) = self.overlay.get_mut(&(at / PAGE_SIZE)) {
                let (from, within) = ((at - offset) as usize, (at % PAGE_SIZE) as usize);
                let piece = piece as usize;
                Arc::make_mut(page)[within..within + piece].copy_from_slice(&data[from..from + piece]);
            }
        }
    }

    /// Changes older than `before` reach the device by the kernel's own write-back.
    pub(super) fn write_back(&mut self, before: u64) {
        let newest_old = self
            .unsynced
            .iter()
            .rev()
            .find(|entry| entry.at < before && !entry.abandoned);
        if let Some(entry) = newest_old {
            self.persist(entry.number);
        }
    }

    /// A sync failed: what it should have written is in limbo from now on.
    pub(super) fn abandon(&mut self) {
        for entry in &mut self.unsynced {
            entry.abandoned = true;
        }
    }

    fn apply_to_durable(&mut self, change: &Change, keep_sector: impl Fn(u64) -> bool) {
        match change {
            Change::Write { offset, data } => {
                for (at, piece) in sectors(*offset, data.len() as u64) {
                    if keep_sector(at / SECTOR_SIZE) {
                        let from = (at - offset) as usize;
                        self.put_durable(at, &data[from..from + piece as usize]);
                        self.durable_len = self.durable_len.max(at + piece);
                    }
                }
            }
            Change::Zero { offset, size } => {
                let touched: Vec<_> = self
                    .durable
                    .range(pages_of(*offset, *size))
                    .map(|(&page, _)| page)
                    .collect();
                for page in touched {
                    let start = (page * PAGE_SIZE).max(*offset);
                    let end = ((page + 1) * PAGE_SIZE).min(offset + size);
                    for (at, piece) in sectors(start, end - start) {
                        if keep_sector(at / SECTOR_SIZE) {
                            self.put_durable(at, &[0; SECTOR_SIZE as usize][..piece as usize]);
                        }
                    }
                }
                self.durable_len = self.durable_len.max(offset + size);
            }
            Change::Grow { len } => self.durable_len = self.durable_len.max(*len),
        }
    }

    fn put_durable(&mut self, at: u64, bytes: &[u8]) {
        let slot = self.durable.entry(at / PAGE_SIZE).or_default();
        let page = slot.get_or_insert_with(zeros);
        let within = (at % PAGE_SIZE) as usize;
        Arc::make_mut(page)[within..within + bytes.len()].copy_from_slice(bytes);
    }

    /// Sectors of the latest change, if it is unsynced and writes bytes.
    pub(super) fn newest_sectors(&self) -> u64 {
        match self.unsynced.back().map(|entry| &entry.change) {
            Some(Change::Write { offset, data }) => sectors(*offset, data.len() as u64).count() as u64,
            _ => 0,
        }
    }

    /// The cache is gone. Each unsynced change is kept, lost or torn at sector borders, independently of the others;
    /// `newest` says what becomes of the latest, if it is in this file.
    pub(super) fn power_loss(&mut self, now: u64, fate: Fate, newest: Option<Newest>, effects: &mut Effects) {
        self.write_back(now.saturating_sub(super::WRITE_BACK_AGE_NS));
        self.misdirected.clear();
        self.drop_overlay();
        let last = self.changes;
        for entry in std::mem::take(&mut self.unsynced) {
            let size = entry.change.size();
            let newest = newest.filter(|_| entry.number == last);
            let outcome = match (newest, fate) {
                (Some(Newest::Kept), _) => Some(Torn::Nowhere),
                (Some(Newest::First(sectors)), _) => Some(Torn::Behind(sectors)),
                (Some(Newest::Without(sector)), _) => Some(Torn::At(sector)),
                (_, Fate::Kept) => Some(Torn::Nowhere),
                (_, Fate::Lost) => None,
                (_, Fate::Drawn(draw)) => match draw.with(entry.number).below(3) {
                    0 => None,
                    1 => Some(Torn::Nowhere),
                    _ => Some(Torn::Drawn(draw.with(entry.number))),
                },
            };
            match outcome {
                None => {
                    effects.writes_lost += 1;
                    effects.bytes_lost += size;
                }
                Some(Torn::Nowhere) => {
                    effects.writes_kept += 1;
                    self.apply_to_durable(&entry.change, |sector| !entry.is_overtaken(sector));
                }
                Some(torn) => {
                    effects.writes_torn += 1;
                    effects.bytes_lost += size / 2;
                    let first = entry.change.first_sector();
                    self.apply_to_durable(&entry.change, |sector| {
                        torn.keeps(sector, sector - first) && !entry.is_overtaken(sector)
                    });
                }
            }
        }
        for (page, content) in std::mem::take(&mut self.durable) {
            match content {
                Some(content) => self.pages.insert(page, content),
                None => self.pages.remove(&page),
            };
        }
        self.len = self.durable_len;
        self.evict();
        self.unsynced_bytes = 0;
        let end = self.len;
        let beyond = self
            .pages
            .last_key_value()
            .map_or(0, |(&page, _)| (page + 1) * PAGE_SIZE);
        if beyond > end {
            clear(&mut self.pages, end, beyond - end);
        }
    }

    /// Bytes in pages that hold anything.
    pub(super) fn written_bytes(&self) -> u64 {
        self.pages.len() as u64 * PAGE_SIZE
    }

    /// Flips a bit in the `position`-th written byte, on the device and in what readers see.
    pub(super) fn flip(&mut self, position: u64, bit: u8) {
        let index = (position / PAGE_SIZE) as usize;
        if let Some(&page) = self.pages.keys().nth(index) {
            // Bytes behind the end rot unseen.
            self.rot(page * PAGE_SIZE + position % PAGE_SIZE, 1 << bit, true);
        }
    }
}

/// Which sectors of a change are lost.
enum Torn {
    Nowhere,
    Behind(u64),
    At(u64),
    Drawn(Draw),
}

impl Torn {
    /// `sector` of the file, the `index`-th of the change.
    fn keeps(&self, sector: u64, index: u64) -> bool {
        match self {
            Torn::Nowhere => true,
            Torn::Behind(sectors) => index < *sectors,
            Torn::At(lost) => index != *lost,
            Torn::Drawn(draw) => draw.with(sector).happens(0.5),
        }
    }
}

impl Change {
    fn first_sector(&self) -> u64 {
        match self {
            Change::Write { offset, .. } | Change::Zero { offset, .. } => offset / SECTOR_SIZE,
            Change::Grow { .. } => 0,
        }
    }

    fn sectors(&self) -> Range<u64> {
        let (offset, size) = match self {
            Change::Write { offset, data } => (*offset, data.len() as u64),
            Change::Zero { offset, size } => (*offset, *size),
            Change::Grow { .. } => (0, 0),
        };
        offset / SECTOR_SIZE..(offset + size).div_ceil(SECTOR_SIZE)
    }

    fn size(&self) -> u64 {
        match self {
            Change::Write { data, .. } => data.len() as u64,
            Change::Zero { .. } | Change::Grow { .. } => 0,
        }
    }
}

fn zeros() -> Page {
    Arc::new([0; PAGE_SIZE as usize])
}

fn pages_of(offset: u64, size: u64) -> std::ops::Range<u64> {
    if size == 0 {
        return 0..0;
    }
    offset / PAGE_SIZE..(offset + size).div_ceil(PAGE_SIZE)
}

/// The pieces of a range by sector: (offset, size).
fn sectors(offset: u64, size: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = offset + size;
    let mut at = offset;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let piece = (SECTOR_SIZE - at % SECTOR_SIZE).min(end - at);
            at += piece;
            (at - piece, piece)
        })
    })
}

fn put(pages: &mut Pages, offset: u64, data: &[u8]) {
    let mut done = 0;
    while done < data.len() {
        let at = offset + done as u64;
        let within = (at % PAGE_SIZE) as usize;
        let count = (PAGE_SIZE as usize - within).min(data.len() - done);
        let page = pages.entry(at / PAGE_SIZE).or_insert_with(zeros);
        Arc::make_mut(page)[within..within + count].copy_from_slice(&data[done..done + count]);
        done += count;
    }
}

/// Zeroes a range; whole pages become holes.
fn clear(pages: &mut Pages, offset: u64, size: u64) {
    let touched: Vec<_> = pages.range(pages_of(offset, size)).map(|(&page, _)| page).collect();
    for page in touched {
        let start = (page * PAGE_SIZE).max(offset);
        let end = ((page + 1) * PAGE_SIZE).min(offset + size);
        if end - start == PAGE_SIZE {
            pages.remove(&page);
        } else if let Some(content) = pages.get_mut(&page) {
            let within = (start % PAGE_SIZE) as usize;
            Arc::make_mut(content)[within..within + (end - start) as usize].fill(0);
        }
    }
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
