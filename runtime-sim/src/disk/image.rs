//! One file's content: what a reader sees, what the device holds, and the unsynced difference.
//!
//! Sparse: pages that were never written take no memory. While a page has unsynced writes, its durable content is kept
//! beside it; a sync forgets those, a power loss goes back to them and re-applies what happened to reach the device.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::effects::Effects;
use crate::random::Draw;

const PAGE_SIZE: u64 = 4096;

/// The unit that a device writes whole or not at all.
pub(super) const SECTOR_SIZE: u64 = 512;

type Page = Arc<[u8; PAGE_SIZE as usize]>;
type Pages = BTreeMap<u64, Page>;

enum Change {
    Write { offset: u64, data: Bytes },
    Zero { offset: u64, size: u64 },
    Grow { len: u64 },
}

struct Unsynced {
    number: u64,
    at: u64,
    /// A sync has failed since: the kernel believes the pages clean and will not write them again.
    abandoned: bool,
    change: Change,
}

#[derive(Default)]
pub(super) struct Image {
    pages: Pages,
    len: u64,
    durable_len: u64,
    /// Durable content of the pages that unsynced changes touch; `None` is a hole.
    durable: BTreeMap<u64, Option<Page>>,
    unsynced: VecDeque<Unsynced>,
    unsynced_bytes: u64,
    changes: u64,
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

    pub(super) fn read(&self, offset: u64, size: usize) -> Bytes {
        let mut bytes = BytesMut::with_capacity(size);
        let end = offset + size as u64;
        let mut at = offset;
        while at < end {
            let (page, within) = (at / PAGE_SIZE, (at % PAGE_SIZE) as usize);
            let count = (PAGE_SIZE as usize - within).min((end - at) as usize);
            match self.pages.get(&page) {
                Some(page) => bytes.extend_from_slice(&page[within..within + count]),
                None => bytes.resize(bytes.len() + count, 0),
            }
            at += count as u64;
        }
        bytes.freeze()
    }

    pub(super) fn write(&mut self, at: u64, offset: u64, data: Bytes) {
        let size = data.len() as u64;
        self.remember(offset, size);
        put(&mut self.pages, offset, &data);
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
            change,
        });
    }

    /// Changes up to `number` reach the device, except those that an earlier failed sync has abandoned.
    pub(super) fn persist(&mut self, number: u64) {
        let (done, stay): (Vec<_>, Vec<_>) = std::mem::take(&mut self.unsynced)
            .into_iter()
            .partition(|entry| entry.number <= number && !entry.abandoned);
        self.unsynced = stay.into();
        if self.unsynced.is_empty() {
            self.durable.clear();
            self.durable_len = self.len;
            self.unsynced_bytes = 0;
            return;
        }
        for entry in done {
            self.unsynced_bytes -= entry.change.size();
            self.apply_to_durable(&entry.change, |_| true);
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
        let page = slot.get_or_insert_with(|| Arc::new([0; PAGE_SIZE as usize]));
        let within = (at % PAGE_SIZE) as usize;
        Arc::make_mut(page)[within..within + bytes.len()].copy_from_slice(bytes);
    }

    /// The cache is gone. Each unsynced change is kept, lost or torn at sector borders, independently of the others.
    pub(super) fn power_loss(&mut self, now: u64, draw: Draw, effects: &mut Effects) {
        self.write_back(now.saturating_sub(super::WRITE_BACK_AGE_NS));
        for entry in std::mem::take(&mut self.unsynced) {
            let draw = draw.with(entry.number);
            let size = entry.change.size();
            match draw.below(3) {
                0 => {
                    effects.writes_lost += 1;
                    effects.bytes_lost += size;
                }
                1 => {
                    effects.writes_kept += 1;
                    self.apply_to_durable(&entry.change, |_| true);
                }
                _ => {
                    effects.writes_torn += 1;
                    effects.bytes_lost += size / 2;
                    self.apply_to_durable(&entry.change, |sector| draw.with(sector).happens(0.5));
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
        let within = (position % PAGE_SIZE) as usize;
        if let Some((&number, page)) = self.pages.iter_mut().nth(index) {
            Arc::make_mut(page)[within] ^= 1 << bit;
            if let Some(Some(durable)) = self.durable.get_mut(&number) {
                Arc::make_mut(durable)[within] ^= 1 << bit;
            }
        }
    }
}

impl Change {
    fn size(&self) -> u64 {
        match self {
            Change::Write { data, .. } => data.len() as u64,
            Change::Zero { .. } | Change::Grow { .. } => 0,
        }
    }
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
        let page = pages
            .entry(at / PAGE_SIZE)
            .or_insert_with(|| Arc::new([0; PAGE_SIZE as usize]));
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
