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
const SECTOR_SIZE: usize = 512;

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
    /// Its frame and its position are right, its body (by its CRC) or its properties (a sector of zeros) are not.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_damaged: bool,
}

fn is_false(value: &bool) -> bool {
    !value
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

/// First and next offset of a queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredBounds {
    pub topic: String,
    pub queue: i32,
    pub min: i64,
    pub max: i64,
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

/// A key of a record, for questions to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub topic: String,
    pub key: String,
    /// As the index has it.
    pub hash: u32,
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

    /// The unique id of a record that was read here.
    pub fn unique_key(&self, record: &StoredRecord) -> Option<Key> {
        let (start, bytes) = self
            .below("commitlog/")
            .filter_map(|(name, bytes)| Some((name.parse::<u64>().ok()?, bytes)))
            .take_while(|(start, _)| *start <= record.position)
            .last()?;
        let at = (record.position - start) as usize;
        let parts = Parts::of(bytes.get(at..at + record.size as usize)?)?;
        let key = property(parts.properties, "UNIQ_KEY")?;
        Some(Key {
            topic: parts.topic.to_owned(),
            key: key.to_owned(),
            hash: key_hash(&format!("{}#{key}", parts.topic)),
        })
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
                let record = bytes.get(at..at + size).and_then(|bytes| record(bytes, at, topics));
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

/// What a record is made of.
struct Parts<'a> {
    crc: u32,
    queue: i32,
    offset: i64,
    position: u64,
    flags: u64,
    time: i64,
    body: &'a [u8],
    topic: &'a str,
    /// Where they begin in the record.
    properties_at: usize,
    properties: &'a [u8],
}

impl<'a> Parts<'a> {
    /// `None` unless the lengths of all parts add up.
    fn of(bytes: &'a [u8]) -> Option<Parts<'a>> {
        let mut cursor = Cursor(bytes);
        let _size = cursor.take(4)?;
        let magic = cursor.number(4)? as u32;
        let crc = cursor.number(4)? as u32;
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
        let body = cursor.take(body)?;
        let topic_size = cursor.number(if magic == MAGIC_V2 { 2 } else { 1 })? as usize;
        let topic = std::str::from_utf8(cursor.take(topic_size)?).ok()?;
        let properties_size = cursor.number(2)? as usize;
        let properties_at = bytes.len() - cursor.0.len();
        let properties = cursor.take(properties_size)?;
        let is_whole = cursor.0.is_empty() && !topic.contains('\0');
        is_whole.then_some(Parts {
            crc,
            queue,
            offset,
            position,
            flags,
            time,
            body,
            topic,
            properties_at,
            properties,
        })
    }

    /// Is the body another than the one that was sent, or a sector of the properties missing? `at`: place in the file.
    fn is_damaged(&self, at: usize) -> bool {
        if crc32(self.body) & 0x7FFF_FFFF != self.crc & 0x7FFF_FFFF {
            return true;
        }
        let mut rest = self.properties;
        let mut at = at + self.properties_at;
        while !rest.is_empty() {
            let (sector, behind) = rest.split_at(rest.len().min(SECTOR_SIZE - at % SECTOR_SIZE));
            if sector.iter().all(|byte| *byte == 0) {
                return true;
            }
            at += sector.len();
            rest = behind;
        }
        false
    }
}

fn record(bytes: &[u8], at: usize, topics: &mut Topics) -> Option<StoredRecord> {
    let parts = Parts::of(bytes)?;
    let is_damaged = parts.is_damaged(at);
    let tag = property(parts.properties, "TAGS");
    let transaction = parts.flags >> 2 & 3;
    // Half messages are found by key, undone ones are not.
    let mut keys = Vec::new();
    if transaction != 3 && !is_damaged {
        let topic = parts.topic;
        let words = property(parts.properties, "KEYS").unwrap_or_default();
        let words = words.split(' ').filter(|word| !word.is_empty());
        let words = property(parts.properties, "UNIQ_KEY").into_iter().chain(words);
        keys.extend(words.map(|word| key_hash(&format!("{topic}#{word}"))));
        keys.extend(tag.map(|tag| key_hash(&format!("{topic}#T#{tag}"))));
    }
    Some(StoredRecord {
        position: parts.position,
        size: bytes.len() as u32,
        topic: topics.id(parts.topic),
        queue: parts.queue,
        offset: parts.offset,
        time: parts.time,
        tags_code: tag.map_or(0, |tag| i64::from(java_hash(tag))),
        keys,
        is_queued: (transaction == 0 || transaction == 2) && parts.flags & 0x80 == 0,
        is_damaged,
    })
}

/// Value of a property that is there and not empty.
fn property<'a>(properties: &'a [u8], wanted: &str) -> Option<&'a str> {
    let properties = std::str::from_utf8(properties).unwrap_or("");
    let mut pairs = properties.split('\u{2}').filter_map(|pair| pair.split_once('\u{1}'));
    pairs
        .find(|(name, value)| *name == wanted && !value.is_empty())
        .map(|(_, value)| value)
}

/// CRC-32 of ISO 3309, as `java.util.zip.CRC32` has it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0, |crc, byte| CRC_TABLE[usize::from(crc as u8 ^ byte)] ^ crc >> 8)
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

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
        bytes.extend(crc32(b"body").to_be_bytes());
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
    fn the_checksum_is_the_one_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn a_record_with_another_body_or_without_a_sector_of_its_properties_is_damaged() {
        let properties = format!("KEYS\u{1}{}\u{2}", "k".repeat(1_500));
        let whole = record_bytes("T", 0, 0, 0, 5, &properties);
        let damage = |from: usize, size: usize| {
            let mut log = whole.clone();
            log[from..from + size].fill(0);
            let stored = Files::new([(Path::new("commitlog/0"), &log[..])], 5).read(false);
            stored.records.first().map(|record| record.is_damaged)
        };
        let body = whole.windows(4).position(|bytes| bytes == b"body").unwrap();
        assert_eq!(damage(0, 0), Some(false));
        assert_eq!(damage(body, 1), Some(true));
        assert_eq!(damage(512, 512), Some(true));
        assert_eq!(damage(1_024, whole.len() - 1_024), Some(true));
        assert_eq!(damage(513, 511), Some(false), "not a whole sector: no device does that");
        assert_eq!(damage(0, 512), None, "no frame: the log ends in front of it");
    }

    #[test]
    fn the_unique_id_of_a_record_is_found_in_its_file() {
        let first = record_bytes("T", 0, 0, 0, 5, "");
        let second = record_bytes("T", 0, 1, first.len() as u64, 5, "TAGS\u{1}a\u{2}UNIQ_KEY\u{1}u2\u{2}");
        let log = [&first[..], &second].concat();
        let files = Files::new([(Path::new("commitlog/0"), &log[..])], 5);
        let stored = files.read(false);
        assert_eq!(files.unique_key(&stored.records[0]), None);
        let key = files.unique_key(&stored.records[1]).unwrap();
        assert_eq!((key.topic.as_str(), key.key.as_str()), ("T", "u2"));
        assert!(stored.records[1].keys.contains(&key.hash));
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
