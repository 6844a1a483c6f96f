//! Pieces of the log that were read ahead, each record of them checked. Pure.
//!
//! A piece is a copy of its own: what was checked is what is handed out, whatever the page cache evicts or fetches meanwhile. Of each
//! record that passed (whole, with its CRC, saying that it lies there) a piece knows the place, and whose it is: 24 bytes. What
//! did not pass is not known: a pull reads it on its own, and reports it.
//!
//! Invariant: pieces do not overlap.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::read::check;
use super::select::{Picked, Taken, runs};
use crate::protocol::message::{BLANK_SIZE, MAGIC_BLANK};
use crate::runtime::Source;

/// Pieces that live at once, those among them that wait in connections to be sent: 64 MiB.
pub(crate) const PIECE_COUNT_MAX: usize = 32;

/// A record that passed its check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    /// Within the piece.
    start: u32,
    size: u32,
    queue_offset: i64,
    queue: u64,
}

#[derive(Debug)]
pub(crate) struct Piece {
    start: u64,
    bytes: Bytes,
    source: Source,
    /// In order of their places.
    records: Vec<Known>,
}

/// What was found in a stretch.
#[derive(Debug)]
pub(crate) struct Examined {
    /// From the stretch's start to the end of its last whole record.
    pub(crate) piece: Piece,
    /// Where the next stretch begins; `None` if that is not known, because no record stands where one should.
    pub(crate) next: Option<u64>,
}

impl Piece {
    /// Checks the records of a stretch that begins with one; its file ends at `file_end`.
    pub(crate) fn examine(mut bytes: Bytes, source: Source, start: u64, file_end: u64) -> Examined {
        let mut records = Vec::with_capacity(bytes.len() / 1024);
        let mut at = 0;
        let next = loop {
            let position = start + at as u64;
            let room = file_end.saturating_sub(position);
            if room < BLANK_SIZE as u64 {
                break Some(file_end);
            }
            let Some((head, _)) = bytes[at..].split_first_chunk::<8>() else {
                break Some(position);
            };
            let size = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            let magic = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
            if magic == MAGIC_BLANK && u64::from(size) == room {
                break Some(file_end);
            }
            if size == 0 || u64::from(size) > room {
                break None;
            }
            let end = at + size as usize;
            let Some(record) = bytes.get(at..end) else {
                // The next stretch begins with it, unless it is larger than a stretch.
                break Some(if at > 0 { position } else { position + u64::from(size) });
            };
            match check(record, position) {
                Some(record) => records.push(Known {
                    start: at as u32,
                    size,
                    queue_offset: record.queue_offset,
                    queue: queue_hash(record.topic, record.queue_id),
                }),
                // Damaged, if the next one stands where it should.
                None if bytes.len() - end >= 8 && !is_head(&bytes[end..]) => break None,
                None => {}
            }
            at = end;
        };
        bytes.truncate(at);
        let piece = Piece {
            start,
            bytes,
            source,
            records,
        };
        Examined { piece, next }
    }

    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn known(&self, position: u64) -> Option<&Known> {
        let within = u32::try_from(position - self.start).ok()?;
        let index = self.records.binary_search_by_key(&within, |known| known.start).ok()?;
        self.records.get(index)
    }
}

/// Whether a record or a blank may begin here.
fn is_head(bytes: &[u8]) -> bool {
    use crate::protocol::message::{MAGIC_V1, MAGIC_V2};
    let magic = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    [MAGIC_BLANK, MAGIC_V1, MAGIC_V2].contains(&magic)
}

/// Stands for a queue.
fn queue_hash(topic: &str, queue_id: i32) -> u64 {
    rustc_hash::FxBuildHasher.hash_one((topic, queue_id))
}

/// Counts what lives.
struct Counted {
    bytes: Bytes,
    count: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The right to read one more piece.
#[derive(Debug)]
pub(crate) struct Room(Option<Arc<AtomicUsize>>);

impl Room {
    /// Is kept until the last slice of the bytes is gone.
    pub(crate) fn hold(mut self, bytes: Bytes) -> Bytes {
        match self.0.take() {
            Some(count) => Bytes::from_owner(Counted { bytes, count }),
            None => bytes,
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(count) = &self.0 {
            count.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Pieces {
    by_start: BTreeMap<u64, Piece>,
    /// Pieces that live: here, being read, or in connections.
    live: Arc<AtomicUsize>,
}

impl Pieces {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_start.is_empty()
    }

    /// `None`: too many live. Pieces that are not `needed` make way.
    pub(crate) fn room(&mut self, needed: impl Fn(u64, u64) -> bool) -> Option<Room> {
        if self.live.load(Ordering::Acquire) >= PIECE_COUNT_MAX {
            self.retain(needed);
        }
        // Only here the count goes up, under the owner's lock.
        if self.live.load(Ordering::Acquire) >= PIECE_COUNT_MAX {
            return None;
        }
        self.live.fetch_add(1, Ordering::AcqRel);
        Some(Room(Some(Arc::clone(&self.live))))
    }

    /// A piece that overlaps another is left out.
    pub(crate) fn put(&mut self, piece: Piece) {
        let behind = self.by_start.range(piece.start..).next();
        let before = self.by_start.range(..piece.start).next_back();
        let overlaps = behind.is_some_and(|(start, _)| *start < piece.end())
            || before.is_some_and(|(_, before)| before.end() > piece.start);
        if !overlaps && !piece.records.is_empty() {
            self.by_start.insert(piece.start, piece);
        }
    }

    /// End of the piece that holds a position.
    pub(crate) fn end_at(&self, position: u64) -> Option<u64> {
        self.holding(position).map(Piece::end)
    }

    pub(crate) fn retain(&mut self, wanted: impl Fn(u64, u64) -> bool) {
        self.by_start.retain(|start, piece| wanted(*start, piece.end()));
    }

    /// Slices of the first records, as far as they are here and belong to the queue; `is_good` judges those that say they
    /// belong to another. The second value: all of them were in the page cache when they were read.
    pub(crate) fn take(
        &self,
        topic: &str,
        queue_id: i32,
        picked: &[Picked],
        is_good: impl Fn(&[u8], &Picked) -> bool,
    ) -> (Taken, bool) {
        let queue = queue_hash(topic, queue_id);
        let mut taken = Taken::default();
        let mut from_memory = true;
        for run in runs(picked) {
            let mut rest = run;
            while let Some(first) = rest.first() {
                let Some(piece) = self.holding(first.start) else {
                    return (taken, from_memory);
                };
                let passes = |record: &&Picked| {
                    let known = piece.known(record.start).filter(|known| known.size == record.size);
                    known.is_some_and(|known| {
                        (known.queue, known.queue_offset) == (queue, record.offset) || is_good(piece.of(known), record)
                    })
                };
                let count = rest.iter().take_while(passes).count();
                let Some(last) = count.checked_sub(1).and_then(|last| rest.get(last)) else {
                    return (taken, from_memory);
                };
                let (from, until) = (
                    (first.start - piece.start) as usize,
                    (last.end() - piece.start) as usize,
                );
                taken.put(piece.bytes.slice(from..until));
                taken.count += count;
                from_memory &= piece.source == Source::Memory;
                rest = &rest[count..];
            }
        }
        (taken, from_memory)
    }

    fn holding(&self, position: u64) -> Option<&Piece> {
        let (_, piece) = self.by_start.range(..=position).next_back()?;
        (position < piece.end()).then_some(piece)
    }
}

impl Piece {
    fn of(&self, known: &Known) -> &[u8] {
        let start = known.start as usize;
        &self.bytes[start..start + known.size as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::message::{Draft, Placement, body_crc, encode, encode_blank};
    use crate::runtime::WallMillis;

    const START: u64 = 5_000;

    /// `count` records of topic T, queue 3, from `START` on, and their places.
    fn records(count: i64) -> (Vec<u8>, Vec<Picked>) {
        let (mut bytes, mut places) = (Vec::new(), Vec::new());
        for offset in 0..count {
            let body = vec![offset as u8; 100 + offset as usize];
            let draft = Draft::new("T", 3, &body);
            let start = START + bytes.len() as u64;
            let place = Placement {
                queue_offset: offset,
                physical_offset: start,
                store_time: WallMillis(50),
            };
            encode(&draft, body_crc(draft.body), &place, &mut bytes);
            let size = (START + bytes.len() as u64 - start) as u32;
            places.push(Picked { offset, start, size });
        }
        (bytes, places)
    }

    fn examine(bytes: &[u8], file_end: u64) -> Examined {
        Piece::examine(Bytes::copy_from_slice(bytes), Source::Device, START, file_end)
    }

    fn pieces(found: Examined) -> Pieces {
        let mut pieces = Pieces::default();
        pieces.put(found.piece);
        pieces
    }

    fn offsets(pieces: &Pieces, picked: &[Picked]) -> Vec<i64> {
        let (taken, _) = pieces.take("T", 3, picked, |_, _| false);
        let records = taken.chunks.iter().flat_map(crate::protocol::message::records);
        let offsets = records.map(|bytes| check(&bytes.unwrap(), 0).map_or_else(|| -1, |record| record.queue_offset));
        assert_eq!(offsets.count(), taken.count);
        picked[..taken.count].iter().map(|record| record.offset).collect()
    }

    #[test]
    fn records_are_taken_as_one_slice_up_to_the_last_whole_one() {
        let (bytes, places) = records(5);
        let cut = (places[4].start - START) as usize + 50;
        let found = examine(&bytes[..cut], 1 << 20);
        assert_eq!(found.next, Some(places[4].start));
        let pieces = pieces(found);
        assert_eq!(offsets(&pieces, &places), [0, 1, 2, 3]);
        assert_eq!(offsets(&pieces, &places[2..]), [2, 3]);
        let (taken, from_memory) = pieces.take("T", 3, &places, |_, _| false);
        assert_eq!((taken.chunks.len(), from_memory), (1, false));
        assert_eq!(taken.chunks[0], bytes[..taken.bytes]);
    }

    #[test]
    fn a_record_is_given_only_as_that_of_its_queue_offset_and_size() {
        let (bytes, places) = records(5);
        let pieces = pieces(examine(&bytes, 1 << 20));
        let refused =
            |topic, queue_id, picked: Picked| pieces.take(topic, queue_id, &[picked], |_, _| false).0.count == 0;
        assert!(!refused("T", 3, places[1]));
        assert!(refused("U", 3, places[1]) && refused("T", 2, places[1]));
        assert!(refused("T", 3, Picked { offset: 2, ..places[1] }));
        assert!(refused("T", 3, Picked { size: 90, ..places[1] }));
        assert!(refused(
            "T",
            3,
            Picked {
                start: places[1].start + 1,
                ..places[1]
            }
        ));
        assert_eq!(pieces.take("U", 3, &places, |_, record| record.offset < 2).0.count, 2);
    }

    #[test]
    fn a_damaged_record_is_not_known_and_those_behind_it_are() {
        let (mut bytes, places) = records(5);
        bytes[(places[2].start - START) as usize + 95] ^= 1;
        let found = examine(&bytes, 1 << 20);
        assert_eq!(found.next, Some(START + bytes.len() as u64));
        let pieces = pieces(found);
        assert_eq!(offsets(&pieces, &places), [0, 1]);
        assert!(offsets(&pieces, &places[2..]).is_empty());
        assert_eq!(offsets(&pieces, &places[3..]), [3, 4]);
    }

    #[test]
    fn where_no_record_stands_nothing_is_known_any_more() {
        let (mut bytes, places) = records(5);
        let at = (places[2].start - START) as usize;
        bytes[at..at + 4].fill(0);
        let found = examine(&bytes, 1 << 20);
        assert_eq!(found.next, None);
        assert_eq!(offsets(&pieces(found), &places), [0, 1]);
        let (mut bytes, _) = records(5);
        bytes[at + 3] ^= 1;
        assert_eq!(examine(&bytes, 1 << 20).next, None, "a size that leads nowhere");
    }

    #[test]
    fn a_file_ends_with_a_blank_or_too_little_room_for_one() {
        let (mut bytes, _) = records(2);
        let end = START + bytes.len() as u64;
        assert_eq!(examine(&bytes, end + 7).next, Some(end + 7));
        encode_blank(50, &mut bytes);
        let found = examine(&bytes, end + 50);
        assert_eq!((found.next, found.piece.end()), (Some(end + 50), end));
    }

    #[test]
    fn a_record_larger_than_the_stretch_is_stepped_over() {
        let (bytes, places) = records(1);
        let found = examine(&bytes[..60], 1 << 20);
        assert_eq!(found.next, Some(places[0].end()));
        assert!(pieces(found).is_empty());
    }

    #[test]
    fn so_many_pieces_live_until_their_last_slice_is_gone() {
        let (bytes, places) = records(1);
        let mut pieces = Pieces::default();
        let room = pieces.room(|_, _| true).unwrap();
        let held = room.hold(Bytes::from(bytes));
        let found = Piece::examine(held, Source::Memory, START, 1 << 20);
        pieces.put(found.piece);
        let slice = pieces.take("T", 3, &places, |_, _| false).0;
        let rooms: Vec<_> = (1..PIECE_COUNT_MAX)
            .map(|_| pieces.room(|_, _| true).unwrap())
            .collect();
        assert!(pieces.room(|_, _| true).is_none());
        assert!(pieces.room(|_, _| false).is_none(), "it made way, its slice lives");
        assert!(pieces.is_empty());
        drop(slice);
        assert!(pieces.room(|_, _| true).is_some());
        drop(rooms);
        assert_eq!(pieces.live.load(Ordering::Acquire), 0);
    }

    #[test]
    fn pieces_do_not_overlap() {
        let (bytes, places) = records(4);
        let mut pieces = Pieces::default();
        let cut = |from: usize, until: usize| {
            let part = &bytes[(places[from].start - START) as usize..(places[until].end() - START) as usize];
            Piece::examine(
                Bytes::copy_from_slice(part),
                Source::Device,
                places[from].start,
                1 << 20,
            )
            .piece
        };
        pieces.put(cut(1, 2));
        pieces.put(cut(0, 1));
        pieces.put(cut(2, 3));
        assert_eq!(pieces.by_start.len(), 1);
        pieces.put(cut(0, 0));
        pieces.put(cut(3, 3));
        assert_eq!(offsets(&pieces, &places), [0, 1, 2, 3]);
        assert_eq!(pieces.end_at(START), Some(places[0].end()));
        pieces.retain(|start, _| start > START);
        assert!(offsets(&pieces, &places).is_empty());
    }

    proptest! {
        #[test]
        fn whatever_lies_there_is_known_only_if_it_passes(
            count in 1i64..8,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            room in 0u64..2000,
        ) {
            let (mut bytes, _) = records(count);
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let found = examine(&bytes, START + room);
            for known in &found.piece.records {
                prop_assert!(check(found.piece.of(known), START + u64::from(known.start)).is_some());
            }
            prop_assert!(found.next.is_none_or(|next| next >= START));
        }
    }
}
