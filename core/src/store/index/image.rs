//! One key index file in memory: RocketMQ's hash table of keys, without IO.
//!
//! ```text
//! header 40   begin time i64, end time i64, begin position i64, end position i64, used slots i32, entry count + 1 i32
//! slots  4 x  number of the newest entry of that slot, 0 for none
//! entries 20x key hash i32, position i64, seconds since begin time i32, number of the next older entry of that slot i32
//! ```
//!
//! Entry 0 is never used. The slots follow from the entries alone, so that only entries, which are written in order, need
//! to survive a crash. Source: `store/index/IndexFile.java`, `IndexHeader.java`.

use crate::protocol::message::{java_hash, java_hash_on};
use crate::protocol::properties;

pub(crate) const HEADER_SIZE: u64 = 40;
pub(crate) const ENTRY_SIZE: u64 = 20;
/// Slots that are written together: a page of them.
const SLOTS_PER_PAGE: u32 = 1024;

/// Hash of a key as the index stores it (the key being `topic#key`): the absolute value of Java's hash, 0 for the one that has none.
pub(crate) fn key_hash(topic: &str, key: &str) -> u32 {
    stored_hash(java_hash_on(topic_hash(topic), key))
}

/// Hashes of the keys under which a record of that topic and with those properties is found: its unique id, each of its keys, its tag (the key `T#tag`).
pub(crate) fn index_hashes(topic: &str, text: &[u8]) -> impl Iterator<Item = u32> {
    let topic = topic_hash(topic);
    let unique = properties::get(text, properties::UNIQUE_KEY).into_iter();
    let keys = unique.chain(properties::keys(text));
    let tags = properties::get(text, properties::TAGS).map(move |tag| java_hash_on(java_hash_on(topic, "T#"), tag));
    keys.map(move |key| java_hash_on(topic, key))
        .chain(tags)
        .map(stored_hash)
}

fn topic_hash(topic: &str) -> i32 {
    java_hash_on(java_hash(topic), "#")
}

fn stored_hash(hash: i32) -> u32 {
    hash.checked_abs().unwrap_or(0).unsigned_abs()
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) begin_time: i64,
    pub(crate) end_time: i64,
    pub(crate) begin_position: i64,
    pub(crate) end_position: i64,
    pub(crate) used_slots: i32,
    /// Number of the next entry: 1 in an empty file.
    pub(crate) next_entry: i32,
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_SIZE as usize);
        for field in [self.begin_time, self.end_time, self.begin_position, self.end_position] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        out.extend_from_slice(&self.used_slots.to_be_bytes());
        out.extend_from_slice(&self.next_entry.to_be_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Header> {
        let long = |at: usize| Some(i64::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let int = |at: usize| Some(i32::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        Some(Header {
            begin_time: long(0)?,
            end_time: long(8)?,
            begin_position: long(16)?,
            end_position: long(24)?,
            used_slots: int(32)?,
            next_entry: int(36)?.max(1),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) hash: u32,
    pub(crate) position: u64,
    pub(crate) seconds: i32,
    pub(crate) older: u32,
}

impl IndexEntry {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.hash.to_be_bytes());
        out.extend_from_slice(&self.position.to_be_bytes());
        out.extend_from_slice(&self.seconds.to_be_bytes());
        out.extend_from_slice(&self.older.to_be_bytes());
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<IndexEntry> {
        let bytes: &[u8; ENTRY_SIZE as usize] = bytes.try_into().ok()?;
        let (hash, rest) = bytes.split_first_chunk::<4>()?;
        let (position, rest) = rest.split_first_chunk::<8>()?;
        let (seconds, rest) = rest.split_first_chunk::<4>()?;
        let (older, _) = rest.split_first_chunk::<4>()?;
        Some(IndexEntry {
            hash: u32::from_be_bytes(*hash),
            position: u64::from_be_bytes(*position),
            seconds: i32::from_be_bytes(*seconds),
            older: u32::from_be_bytes(*older),
        })
    }
}

/// Sizes of an index file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) slots: u32,
    /// Entries including the unused entry 0.
    pub(crate) entries: u32,
}

impl Shape {
    pub(crate) fn file_size(self) -> u64 {
        self.entry_at(self.entries)
    }

    pub(crate) fn slot_at(self, slot: u32) -> u64 {
        HEADER_SIZE + u64::from(slot) * 4
    }

    pub(crate) fn entry_at(self, number: u32) -> u64 {
        HEADER_SIZE + u64::from(self.slots) * 4 + u64::from(number) * ENTRY_SIZE
    }
}

/// The file that is being filled.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) shape: Shape,
    pub(crate) header: Header,
    slots: Vec<u32>,
    /// One bit per page of slots: to be written.
    dirty_pages: Vec<u64>,
    /// Encoded entries from `pending_from` on that are in memory alone.
    pending: Vec<u8>,
    pending_from: u32,
}

impl Image {
    pub(crate) fn new(shape: Shape) -> Image {
        assert!(shape.slots > 0, "an index has slots");
        Image {
            shape,
            header: Header {
                next_entry: 1,
                ..Header::default()
            },
            slots: vec![0; shape.slots as usize],
            dirty_pages: vec![0; (shape.slots / SLOTS_PER_PAGE / 64) as usize + 1],
            pending: Vec::new(),
            pending_from: 1,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.next() >= self.shape.entries
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.next() == 1
    }

    fn next(&self) -> u32 {
        self.header.next_entry.unsigned_abs()
    }

    /// Adds a key of the record at `position`. False (and nothing changed) if the file is full.
    pub(crate) fn put(&mut self, hash: u32, position: u64, store_time: i64) -> bool {
        if self.is_full() {
            return false;
        }
        if self.is_empty() {
            self.header.begin_time = store_time;
            self.header.begin_position = position as i64;
        }
        let seconds = (store_time.saturating_sub(self.header.begin_time) / 1000).clamp(0, i64::from(i32::MAX));
        self.insert(hash, position, seconds as i32);
        self.header.end_time = store_time;
        self.header.end_position = position as i64;
        true
    }

    /// Takes an entry that a file holds already (entries come in the order of their numbers).
    pub(crate) fn restore(&mut self, entry: &IndexEntry, header: &Header) {
        assert!(self.pending_from == self.next(), "restoring comes before putting");
        self.header.begin_time = header.begin_time;
        self.header.begin_position = header.begin_position;
        self.insert(entry.hash, entry.position, entry.seconds);
        self.header.end_time = header.begin_time.saturating_add(i64::from(entry.seconds) * 1000);
        self.header.end_position = entry.position as i64;
        self.pending.clear();
        self.pending_from = self.next();
    }

    /// Slots that differ from these, which a file holds, are to be written.
    pub(crate) fn mark_different(&mut self, slots: &[u8]) {
        for (slot, (number, bytes)) in (0u32..).zip(self.slots.iter().zip(slots.as_chunks::<4>().0)) {
            if *number != u32::from_be_bytes(*bytes) {
                mark(&mut self.dirty_pages, slot);
            }
        }
    }

    /// The table of a file that was written out in order: its slots as they stand.
    pub(crate) fn from_slots(shape: Shape, header: Header, slots: &[u8]) -> Image {
        let mut image = Image::new(shape);
        for (slot, bytes) in image.slots.iter_mut().zip(slots.as_chunks::<4>().0) {
            let number = u32::from_be_bytes(*bytes);
            // Java takes a number beyond the count for none, too.
            *slot = if number < header.next_entry.unsigned_abs() {
                number
            } else {
                0
            };
        }
        image.pending_from = header.next_entry.unsigned_abs();
        image.header = header;
        image
    }

    fn insert(&mut self, hash: u32, position: u64, seconds: i32) {
        let number = self.next();
        let slot = hash % self.shape.slots;
        let older = std::mem::replace(&mut self.slots[slot as usize], number);
        self.header.used_slots += i32::from(older == 0);
        mark(&mut self.dirty_pages, slot);
        let entry = IndexEntry {
            hash,
            position,
            seconds,
            older,
        };
        entry.encode(&mut self.pending);
        self.header.next_entry += 1;
    }

    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// Entries to write and where; they count as written.
    pub(crate) fn take_entries(&mut self) -> Option<(u64, Vec<u8>)> {
        if self.pending.is_empty() {
            return None;
        }
        let at = self.shape.entry_at(self.pending_from);
        self.pending_from = self.next();
        Some((at, std::mem::take(&mut self.pending)))
    }

    /// Pages of slots to write and where; they count as written.
    pub(crate) fn take_slots(&mut self) -> Vec<(u64, Vec<u8>)> {
        let page_count = self.shape.slots.div_ceil(SLOTS_PER_PAGE);
        let dirty_pages = &self.dirty_pages;
        let pages = (0..page_count).filter(|page| dirty_pages[(page / 64) as usize] >> (page % 64) & 1 == 1);
        let encoded = pages.map(|page| {
            let from = page * SLOTS_PER_PAGE;
            let until = (from + SLOTS_PER_PAGE).min(self.shape.slots);
            let slots = &self.slots[from as usize..until as usize];
            (
                self.shape.slot_at(from),
                slots.iter().flat_map(|slot| slot.to_be_bytes()).collect(),
            )
        });
        let encoded = encoded.collect();
        self.dirty_pages.fill(0);
        encoded
    }

    /// Newest entry of the slot of `hash`; 0 for none.
    pub(crate) fn newest(&self, hash: u32) -> u32 {
        self.slots[(hash % self.shape.slots) as usize]
    }

    /// An entry that is in memory alone.
    pub(crate) fn pending_entry(&self, number: u32) -> Option<IndexEntry> {
        let index = number.checked_sub(self.pending_from)? as usize;
        let at = index.checked_mul(ENTRY_SIZE as usize)?;
        IndexEntry::decode(self.pending.get(at..at + ENTRY_SIZE as usize)?)
    }
}

/// The page of this slot is to be written.
fn mark(pages: &mut [u64], slot: u32) {
    let page = slot / SLOTS_PER_PAGE;
    pages[(page / 64) as usize] |= 1 << (page % 64);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHAPE: Shape = Shape { slots: 7, entries: 50 };

    #[test]
    fn sizes_are_javas() {
        let shape = Shape {
            slots: 5_000_000,
            entries: 20_000_000,
        };
        assert_eq!(shape.file_size(), 420_000_040);
    }

    #[test]
    fn a_hash_continued_is_that_of_the_whole_text() {
        for text in ["", "a", "abcdefghij", "BenchmarkTopic", "Ünïcode 語 𐐷"] {
            for key in ["", "7F0000010BB818B4AAC26CE9D5F80000", "é"] {
                let stepwise = |whole: &str| {
                    let units = whole.encode_utf16();
                    units.fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
                };
                let whole = stepwise(&format!("{text}#{key}"));
                assert_eq!(key_hash(text, key), whole.checked_abs().unwrap_or(0).unsigned_abs());
            }
        }
    }

    #[test]
    fn a_file_takes_one_entry_less_than_it_has_room_for() {
        let mut image = Image::new(SHAPE);
        let taken = (0..100).filter(|position| image.put(1, *position, 0)).count();
        assert_eq!(taken, 49);
    }

    proptest! {
        #[test]
        fn headers_round_trip(times in any::<[i64; 4]>(), used in any::<i32>(), next in 1..i32::MAX) {
            let [begin_time, end_time, begin_position, end_position] = times;
            let header = Header { begin_time, end_time, begin_position, end_position, used_slots: used, next_entry: next };
            prop_assert_eq!(Header::decode(&header.encode()), Some(header));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Header::decode(&bytes);
            let _ = IndexEntry::decode(&bytes);
        }

        #[test]
        fn chains_run_from_the_newest_to_the_oldest(hashes in prop::collection::vec(0u32..40, 1..49)) {
            let mut image = Image::new(SHAPE);
            for (position, hash) in hashes.iter().enumerate() {
                prop_assert!(image.put(*hash, position as u64, 5000));
            }
            for hash in 0..40 {
                let mut found = Vec::new();
                let mut number = image.newest(hash);
                while number != 0 {
                    let entry = image.pending_entry(number).unwrap();
                    if entry.hash == hash {
                        found.push(entry.position);
                    }
                    number = entry.older;
                }
                let all = hashes.iter().enumerate().rev();
                let expected: Vec<u64> = all.filter(|(_, other)| **other == hash).map(|(at, _)| at as u64).collect();
                prop_assert_eq!(found, expected);
            }
        }

        #[test]
        fn slots_follow_from_the_entries(hashes in prop::collection::vec(0u32..40, 1..49)) {
            let mut image = Image::new(SHAPE);
            for (position, hash) in hashes.iter().enumerate() {
                image.put(*hash, position as u64, 0);
            }
            let mut again = Image::new(SHAPE);
            for number in 1..=hashes.len() as u32 {
                again.restore(&image.pending_entry(number).unwrap(), &image.header);
            }
            prop_assert_eq!(&again.slots, &image.slots);
            prop_assert_eq!(again.header, image.header);
            let bytes: Vec<u8> = again.slots.iter().flat_map(|slot| slot.to_be_bytes()).collect();
            let loaded = Image::from_slots(SHAPE, image.header, &bytes);
            prop_assert_eq!(&loaded.slots, &image.slots);
        }
    }
}
