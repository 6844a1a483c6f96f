//! A broker's store directory, read by our own hand: RocketMQ's formats as the documents say, no code of the system.
//!
//! Takes the files as bytes; gives what stands in the log, and what stands in everything derived from it. Judges nothing:
//! that is C25 and C28. Bytes that are nothing end what they are part of.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

const MAGIC_V1: u32 = 0xDAA3_20A7;
const MAGIC_V2: u32 = 0xDAA3_20AB;
const MAGIC_BLANK: u32 = 0xCBD4_3194;
const ENTRY_SIZE: usize = 20;
const INDEX_HEADER_SIZE: usize = 40;
const FILLER_SIZE: i32 = i32::MAX;

/// Everything that was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// First byte of the log.
    pub start: u64,
    /// Names that records and queues refer to.
    pub topics: Vec<String>,
    pub records: Vec<StoredRecord>,
    pub queues: Vec<StoredQueue>,
    /// Hash and position of every entry that a look-up can reach.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub index: Vec<(u32, u64)>,
    pub committed: Vec<StoredOffset>,
}

/// A record of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredRecord {
    pub position: u64,
    pub size: u32,
    pub topic: u32,
    pub queue: i32,
    pub offset: i64,
    /// Store time, milliseconds.
    pub time: i64,
    /// Java's hash of the tag.
    pub tags_code: i64,
    /// Hashes of the keys it is to be found by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<u32>,
    /// Belongs into a queue: no prepared or undone transaction.
    pub is_queued: bool,
}

/// A queue's files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredQueue {
    pub topic: u32,
    pub id: i32,
    pub entries: Vec<StoredEntry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredEntry {
    pub offset: i64,
    pub position: u64,
    pub size: i32,
    pub tags_code: i64,
}

impl StoredEntry {
    pub fn is_filler(&self) -> bool {
        self.size == FILLER_SIZE
    }
}

/// A line of an offset table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredOffset {
    pub group: String,
    pub topic: String,
    pub queue: i32,
    pub offset: i64,
}

/// The files of a directory, by path below it.
pub struct Files<'a> {
    files: BTreeMap<String, &'a [u8]>,
    /// Slots of an index file (`maxHashSlotNum`).
    index_slots: usize,
}

impl<'a> Files<'a> {
    pub fn new(files: impl IntoIterator<Item = (&'a Path, &'a [u8])>, index_slots: usize) -> Files<'a> {
        let named = files.into_iter();
        let files = named.map(|(path, bytes)| (path.to_string_lossy().into_owned(), bytes));
        Files {
            files: files.collect(),
            index_slots,
        }
    }

    /// Reads everything. The index is left out unless `with_index`: a running broker builds it behind its other work.
    pub fn read(&self, with_index: bool) -> Stored {
        let mut stored = Stored::default();
        let mut topics = Topics::default();
        self.log(&mut stored, &mut topics);
        self.queues(&mut stored, &mut topics);
        if with_index {
            self.index(&mut stored);
        }
        self.offsets(&mut stored);
        stored.topics = topics.names;
        stored
    }

    fn below(&self, folder: &'a str) -> impl Iterator<Item = (&str, &'a [u8])> {
        self.files
            .range(folder.to_owned()..)
            .map_while(move |(path, bytes)| Some((path.strip_prefix(folder)?, *bytes)))
    }

    fn log(&self, stored: &mut Stored, topics: &mut Topics) {
        let mut is_first = true;
        'files: for (name, bytes) in self.below("commitlog/") {
            let Ok(start) = name.parse::<u64>() else { continue };
            if is_first {
                stored.start = start;
                is_first = false;
            }
            let mut at = 0;
            while let Some(head) = bytes.get(at..at + 8) {
                let (size, magic) = (number(&head[..4]) as usize, number(&head[4..]) as u32);
                match magic {
                    MAGIC_BLANK => continue 'files,
                    MAGIC_V1 | MAGIC_V2 => {}
                    _ => break 'files,
                }
                let record = bytes.get(at..at + size).and_then(|bytes| record(bytes, magic, topics));
                let Some(record) = record.filter(|record| record.position == start + at as u64) else {
                    break 'files;
                };
                stored.records.push(record);
                at += size;
            }
        }
    }

    fn queues(&self, stored: &mut Stored, topics: &mut Topics) {
        let mut queues: BTreeMap<(String, i32), Vec<StoredEntry>> = BTreeMap::new();
        for (path, bytes) in self.below("consumequeue/") {
            let mut parts = path.split('/');
            let (Some(topic), Some(id), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            let (Ok(id), Ok(start)) = (id.parse(), name.parse::<i64>()) else {
                continue;
            };
            let entries = queues.entry((topic.to_owned(), id)).or_default();
            for (slot, bytes) in bytes.chunks_exact(ENTRY_SIZE).enumerate() {
                let size = number(&bytes[8..12]) as u32 as i32;
                if size <= 0 {
                    continue;
                }
                entries.push(StoredEntry {
                    offset: start / ENTRY_SIZE as i64 + slot as i64,
                    position: number(&bytes[..8]),
                    size,
                    tags_code: number(&bytes[12..]) as i64,
                });
            }
        }
        for ((topic, id), entries) in queues {
            let topic = topics.id(&topic);
            stored.queues.push(StoredQueue { topic, id, entries });
        }
    }

    /// Follows every chain from its slot, as a look-up does.
    fn index(&self, stored: &mut Stored) {
        for (_, bytes) in self.below("index/") {
            let Some(slots) = bytes.get(INDEX_HEADER_SIZE..INDEX_HEADER_SIZE + 4 * self.index_slots) else {
                continue;
            };
            let entries = &bytes[INDEX_HEADER_SIZE + 4 * self.index_slots..];
            for (slot, newest) in slots.chunks_exact(4).enumerate() {
                let mut entry = number(newest) as usize;
                while entry != 0 {
                    let Some(bytes) = entries.get(entry * ENTRY_SIZE..(entry + 1) * ENTRY_SIZE) else {
                        break;
                    };
                    let hash = number(&bytes[..4]) as u32;
                    if hash as usize % self.index_slots == slot {
                        stored.index.push((hash, number(&bytes[4..12])));
                    }
                    let older = number(&bytes[16..]) as usize;
                    entry = if older < entry { older } else { 0 };
                }
            }
        }
    }

    fn offsets(&self, stored: &mut Stored) {
        let table = |name: &str| -> Option<serde_json::Value> {
            let bytes = self.files.get(name)?;
            let mut json: serde_json::Value = serde_json::from_slice(bytes).ok()?;
            Some(json.get_mut("offsetTable")?.take())
        };
        if let Some(serde_json::Value::Object(table)) = table("config/consumerOffset.json") {
            for (key, queues) in table {
                let Some((topic, group)) = key.split_once('@') else {
                    continue;
                };
                let queues = queues.as_object().into_iter().flatten();
                stored.committed.extend(queues.filter_map(|(queue, offset)| {
                    Some(StoredOffset {
                        group: group.to_owned(),
                        topic: topic.to_owned(),
                        queue: queue.parse().ok()?,
                        offset: offset.as_i64()?,
                    })
                }));
            }
        }
        if let Some(serde_json::Value::Object(table)) = table("config/delayOffset.json") {
            stored.committed.extend(table.iter().filter_map(|(level, offset)| {
                Some(StoredOffset {
                    group: "delayed delivery".into(),
                    topic: SCHEDULE_TOPIC.into(),
                    queue: level.parse::<i32>().ok()? - 1,
                    offset: offset.as_i64()?,
                })
            }));
        }
    }
}

/// Topic of delayed messages: its entries carry delivery times in place of tags codes.
pub(crate) const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";

#[derive(Default)]
struct Topics {
    names: Vec<String>,
    ids: HashMap<String, u32>,
}

impl Topics {
    fn id(&mut self, name: &str) -> u32 {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = self.names.len() as u32;
        self.names.push(name.to_owned());
        self.ids.insert(name.to_owned(), id);
        id
    }
}

/// Big-endian, of up to eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, size: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(size)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, size: usize) -> Option<u64> {
        self.take(size).map(number)
    }
}

fn record(bytes: &[u8], magic: u32, topics: &mut Topics) -> Option<StoredRecord> {
    let mut cursor = Cursor(bytes);
    let _size_magic_crc = cursor.take(12)?;
    let queue = cursor.number(4)? as u32 as i32;
    let _flag = cursor.take(4)?;
    let offset = cursor.number(8)? as i64;
    let position = cursor.number(8)?;
    let flags = cursor.number(4)?;
    let host = |flag: u64| if flags & flag == 0 { 8 } else { 20 };
    let _born = cursor.take(8 + host(0x10))?;
    let time = cursor.number(8)? as i64;
    let _host_times_prepared = cursor.take(host(0x20) + 4 + 8)?;
    let body = cursor.number(4)? as usize;
    cursor.take(body)?;
    let topic_size = cursor.number(if magic == MAGIC_V2 { 2 } else { 1 })? as usize;
    let topic = std::str::from_utf8(cursor.take(topic_size)?).ok()?;
    let properties_size = cursor.number(2)? as usize;
    let properties = std::str::from_utf8(cursor.take(properties_size)?).unwrap_or("");
    let is_end = cursor.0.is_empty();
    let property = |wanted: &str| {
        let mut pairs = properties.split('\u{2}').filter_map(|pair| pair.split_once('\u{1}'));
        pairs
            .find(|(name, value)| *name == wanted && !value.is_empty())
            .map(|(_, value)| value)
    };
    let tag = property("TAGS");
    let transaction = flags >> 2 & 3;
    // Half messages are found by key, undone ones are not.
    let mut keys = Vec::new();
    if transaction != 3 {
        let words = property("KEYS").into_iter().flat_map(|keys| keys.split(' '));
        let words = property("UNIQ_KEY")
            .into_iter()
            .chain(words.filter(|word| !word.is_empty()));
        keys.extend(words.map(|word| key_hash(&format!("{topic}#{word}"))));
        keys.extend(tag.map(|tag| key_hash(&format!("{topic}#T#{tag}"))));
    }
    is_end.then(|| StoredRecord {
        position,
        size: bytes.len() as u32,
        topic: topics.id(topic),
        queue,
        offset,
        time,
        tags_code: tag.map_or(0, |tag| i64::from(java_hash(tag))),
        keys,
        is_queued: (transaction == 0 || transaction == 2) && flags & 0x80 == 0,
    })
}

/// `String.hashCode`.
fn java_hash(text: &str) -> i32 {
    text.encode_utf16()
        .fold(0, |hash: i32, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

fn key_hash(text: &str) -> u32 {
    java_hash(text).checked_abs().unwrap_or(0) as u32
}

/// What a look-up reaches, for quick questions.
pub(crate) fn reachable(stored: &Stored) -> HashSet<(u32, u64)> {
    stored.index.iter().copied().collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A record as RocketMQ lays it out.
    pub(crate) fn record_bytes(
        topic: &str,
        queue: i32,
        offset: i64,
        position: u64,
        time: i64,
        properties: &str,
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend([0; 4]);
        bytes.extend(MAGIC_V1.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(queue.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(offset.to_be_bytes());
        bytes.extend(position.to_be_bytes());
        bytes.extend([0; 4 + 8 + 8]);
        bytes.extend(time.to_be_bytes());
        bytes.extend([0; 8 + 4 + 8]);
        bytes.extend(4u32.to_be_bytes());
        bytes.extend(b"body");
        bytes.push(topic.len() as u8);
        bytes.extend(topic.as_bytes());
        bytes.extend((properties.len() as u16).to_be_bytes());
        bytes.extend(properties.as_bytes());
        let size = bytes.len() as u32;
        bytes[..4].copy_from_slice(&size.to_be_bytes());
        bytes
    }

    #[test]
    fn a_log_and_its_queue_are_read_to_their_ends() {
        let mut log = Vec::new();
        for offset in 0..3 {
            let properties = "KEYS\u{1}a b\u{2}TAGS\u{1}red\u{2}UNIQ_KEY\u{1}u\u{2}";
            let record = record_bytes("T", 7, offset, 1000 + log.len() as u64, 5, properties);
            log.extend(record);
        }
        log.resize(log.len() + 50, 0);
        let mut queue = Vec::new();
        queue.extend(1000u64.to_be_bytes());
        queue.extend(99i32.to_be_bytes());
        queue.extend(i64::from(java_hash("red")).to_be_bytes());
        queue.extend([0; 40]);
        let table = br#"{"offsetTable":{"T@g":{"7":2}}}"#;
        let files = [
            ("commitlog/00000000000000001000", &log[..]),
            ("consumequeue/T/7/00000000000000000040", &queue),
            ("config/consumerOffset.json", table),
        ];
        let files = files.iter().map(|(path, bytes)| (Path::new(*path), *bytes));
        let stored = Files::new(files, 5).read(true);
        assert_eq!((stored.start, stored.records.len()), (1000, 3));
        let record = &stored.records[2];
        assert_eq!(
            (record.queue, record.offset, record.time, record.keys.len()),
            (7, 2, 5, 4)
        );
        assert!(record.is_queued && record.tags_code == i64::from(java_hash("red")));
        assert_eq!(stored.queues[0].entries.len(), 1);
        assert_eq!(stored.queues[0].entries[0].offset, 2);
        assert_eq!(stored.committed[0].offset, 2);
    }

    #[test]
    fn bytes_that_are_nothing_are_nothing() {
        let noise: Vec<u8> = (0..5000u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8)
            .collect();
        for path in [
            "commitlog/0",
            "consumequeue/T/0/0",
            "index/1",
            "config/consumerOffset.json",
            "x",
        ] {
            let stored = Files::new([(Path::new(path), &noise[..])], 5).read(true);
            assert!(stored.records.is_empty() && stored.committed.is_empty());
        }
    }
}
