//! Keys of records that have just become visible, on their way to the index: they need not be read from the log again.
//!
//! An aid to speed only. Where the feed has a gap (a record with many keys, one that gets no queue entry, a full feed), the
//! index reads the log. Invariant: what is fed is below the confirm position and ascends.

use std::collections::VecDeque;

use super::image::index_hashes;
use crate::runtime::WallMillis;

/// Keys of one record that are fed: unique id, one key, tag. A record with more is read from the log.
const KEY_COUNT_MAX: usize = 3;
/// Records in the feed: 3 MiB, two tenths of a second of sends. Those beyond are read from the log.
const FEED_COUNT_MAX: usize = 64 << 10;

/// Hashes of the keys of one record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct KeyHashes {
    hashes: [u32; KEY_COUNT_MAX],
    count: usize,
}

impl KeyHashes {
    /// `None` for more than are fed.
    pub(in crate::store) fn of(topic: &str, properties: &[u8]) -> Option<KeyHashes> {
        let mut keys = KeyHashes::default();
        for hash in index_hashes(topic, properties) {
            *keys.hashes.get_mut(keys.count)? = hash;
            keys.count += 1;
        }
        Some(keys)
    }

    pub(in crate::store) fn as_slice(&self) -> &[u32] {
        &self.hashes[..self.count]
    }
}

/// A record with its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Fed {
    pub(in crate::store) position: u64,
    pub(in crate::store) end: u64,
    pub(in crate::store) store_time: WallMillis,
    pub(in crate::store) keys: KeyHashes,
}

/// Records in the order of the log.
#[derive(Debug, Default)]
pub(in crate::store) struct Feed {
    records: VecDeque<Fed>,
}

impl Feed {
    pub(in crate::store) fn push(&mut self, record: Fed) {
        if self.records.len() < FEED_COUNT_MAX {
            self.records.push_back(record);
        }
    }

    pub(in crate::store) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The record that begins at `position`, if it was fed. What lies before it is dropped.
    pub(in crate::store) fn take(&mut self, position: u64) -> Option<Fed> {
        while self.records.pop_front_if(|record| record.position < position).is_some() {}
        self.records.pop_front_if(|record| record.position == position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(position: u64) -> Fed {
        Fed {
            position,
            end: position + 100,
            store_time: WallMillis(0),
            keys: KeyHashes::default(),
        }
    }

    #[test]
    fn a_gap_is_left_to_the_log_and_what_was_read_there_is_dropped() {
        let mut feed = Feed::default();
        [0, 200, 300, 400]
            .into_iter()
            .for_each(|position| feed.push(fed(position)));
        assert_eq!(feed.take(0), Some(fed(0)));
        assert_eq!(feed.take(100), None, "not fed");
        assert_eq!(feed.take(300), Some(fed(300)), "200 was read from the log");
        assert_eq!(feed.take(400), Some(fed(400)));
        assert_eq!(feed.take(500), None);
    }

    #[test]
    fn a_full_feed_takes_no_more() {
        let mut feed = Feed::default();
        (0..FEED_COUNT_MAX as u64 + 5).for_each(|number| feed.push(fed(number * 100)));
        assert_eq!(feed.records.len(), FEED_COUNT_MAX);
    }

    #[test]
    fn more_keys_than_are_fed_are_left_to_the_log() {
        let keys = |properties: &str| KeyHashes::of("T", properties.as_bytes());
        let three = keys("UNIQ_KEY\u{1}u\u{2}KEYS\u{1}a\u{2}TAGS\u{1}t\u{2}").unwrap();
        assert_eq!(three.as_slice().len(), 3);
        assert_eq!(keys("").unwrap().as_slice(), &[] as &[u32]);
        assert_eq!(keys("UNIQ_KEY\u{1}u\u{2}KEYS\u{1}a b\u{2}TAGS\u{1}t\u{2}"), None);
    }
}
