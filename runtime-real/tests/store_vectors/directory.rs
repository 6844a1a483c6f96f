//! The directories, what the stock broker says of them, and what is seen of them from outside and through our store.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use orrery_core::config::parse_properties;
use orrery_core::protocol::message::{self, RecordView};
use orrery_core::store::{GetRequest, GetStatus, Store, StoreConfig, TagFilter};
use orrery_core::types::PhysicalOffset;
use orrery_runtime_real::Real;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
pub(super) struct Expected {
    pub(super) opens: bool,
    #[serde(default, rename = "maxOffset")]
    pub(super) max_offset: u64,
    /// Position, size, CRC of the whole record.
    #[serde(default)]
    pub(super) records: Vec<(u64, usize, u32)>,
    #[serde(default)]
    pub(super) queues: BTreeMap<String, ExpectedQueue>,
    #[serde(default)]
    pub(super) index: BTreeMap<String, Vec<u64>>,
    #[serde(default, rename = "batchQueues")]
    pub(super) batch_queues: BTreeMap<String, Vec<BatchLine>>,
    pub(super) timer: Option<ExpectedTimer>,
    #[serde(default)]
    pub(super) topics: Value,
    #[serde(default)]
    pub(super) groups: Value,
    #[serde(default, rename = "consumerOffsets")]
    pub(super) consumer_offsets: Value,
    #[serde(default, rename = "delayOffsets")]
    pub(super) delay_offsets: Value,
    #[serde(default, rename = "consumerFilters")]
    pub(super) consumer_filters: Value,
    #[serde(default, rename = "orderInfo")]
    pub(super) order_info: Value,
}

#[derive(Deserialize)]
pub(super) struct ExpectedTimer {
    /// Index, second, first, last, count, magic.
    pub(super) slots: Vec<(usize, i64, i64, i64, i32, i32)>,
    /// Position, size, previous, flags, write time, delay, position and size of the record, topic's hash, reserved.
    pub(super) log: Vec<TimerLine>,
    pub(super) checkpoint: [i64; 4],
}

/// Offset, position, size, tags code, messages, compacted offset of an entry.
pub(super) type BatchLine = (i64, i64, i32, i64, i16, i32);

pub(super) type TimerLine = (usize, usize, i64, i32, i64, i32, i64, i32, i32, i64);

#[derive(Clone, Deserialize)]
pub(super) struct ExpectedQueue {
    pub(super) min: i64,
    pub(super) max: i64,
    /// Offset, position, size, tags code.
    pub(super) units: Vec<(i64, u64, i32, i64)>,
}

pub(super) fn unpacked(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../core/tests/vectors/store")
        .join(name);
    let packed = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&packed[..])
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
}

pub(super) fn expected(name: &str) -> Expected {
    serde_json::from_slice(&unpacked(&format!("{name}.json.gz"))).unwrap()
}

/// Writes the directory below `root`; gives the settings of its broker.
pub(super) fn unpack(name: &str, root: &Path) -> StoreConfig {
    let bytes = unpacked(&format!("{name}.files.gz"));
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let path = line(&mut rest);
        let size: usize = line(&mut rest).parse().unwrap();
        let (content, behind) = rest.split_at(size);
        rest = behind;
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_sparse(&path, content);
    }
    let text = std::fs::read_to_string(root.join("broker.conf")).unwrap();
    // Their files are smaller than our broker allows its own to be; the last of equal keys counts, as in Java.
    let properties = parse_properties("broker.conf", &text).unwrap();
    let number = |key: &str, default: u64| {
        let found = properties.iter().rev().find(|property| property.key == key);
        found.map_or(default, |property| property.value.parse().unwrap())
    };
    let defaults = StoreConfig::new(root.join("store"));
    StoreConfig {
        commit_log_file_size: number("mappedFileSizeCommitLog", defaults.commit_log_file_size),
        consume_queue_file_size: number("mappedFileSizeConsumeQueue", defaults.consume_queue_file_size),
        index_slots: number("maxHashSlotNum", 5_000_000) as u32,
        index_entries: number("maxIndexNum", 20_000_000) as u32,
        delete_hours: Vec::new(),
        disk_used_percent_forced: u64::MAX,
        disk_used_percent_full: u64::MAX,
        disk_used_percent_max: u64::MAX,
        ..defaults
    }
}

/// Leaves out pages of zeros: a timer wheel has 37 MiB of them.
pub(super) fn write_sparse(path: &Path, content: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(content.len() as u64).unwrap();
    for (index, page) in content.chunks(4096).enumerate() {
        if page.iter().any(|byte| *byte != 0) {
            file.write_all_at(page, index as u64 * 4096).unwrap();
        }
    }
}

pub(super) fn line<'a>(rest: &mut &'a [u8]) -> &'a str {
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap();
    let text = std::str::from_utf8(&rest[..end]).unwrap();
    *rest = &rest[end + 1..];
    text
}

pub(super) fn split(queue: &str) -> (&str, i32) {
    let (topic, queue_id) = queue.rsplit_once('/').unwrap();
    (topic, queue_id.parse().unwrap())
}

/// Everything a queue shows: position, size and CRC of each record, from its first offset.
pub(super) async fn pull_all(store: &Store<Real>, queue: &str) -> Vec<(u64, usize, u32)> {
    pull_filtered(store, queue, TagFilter::All).await
}

pub(super) async fn pull_filtered(store: &Store<Real>, queue: &str, filter: TagFilter) -> Vec<(u64, usize, u32)> {
    let (topic, queue_id) = split(queue);
    let mut records = Vec::new();
    let mut offset = store.bounds(topic, queue_id).map_or(0, |bounds| bounds.min);
    loop {
        let request = GetRequest {
            topic,
            queue_id,
            offset,
            max_count: 32,
            max_bytes: 1 << 20,
            filter: filter.clone(),
        };
        let got = store.get(&request).await.unwrap();
        match got.status {
            GetStatus::Found | GetStatus::NoMatchedMessage => {}
            _ => return records,
        }
        for chunk in &got.chunks {
            for bytes in message::records(chunk) {
                let bytes = bytes.unwrap();
                let record = RecordView::parse_checked(&bytes).unwrap();
                let at = record.physical_offset;
                assert_eq!(
                    store.record_at(PhysicalOffset(at)).await.unwrap().as_ref(),
                    Some(&bytes)
                );
                records.push((at, bytes.len(), crc32(&bytes)));
            }
        }
        offset = got.next_offset;
    }
}

pub(super) fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Entries in a queue's files, by offset, up to `max`.
pub(super) fn entries_on_disk(root: &Path, queue: &str, max: i64) -> BTreeMap<i64, (u64, i32, i64)> {
    let mut entries = BTreeMap::new();
    let folder = root.join("store/consumequeue").join(queue);
    for file in std::fs::read_dir(folder).into_iter().flatten() {
        let path = file.unwrap().path();
        let start: i64 = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        for (index, bytes) in std::fs::read(&path).unwrap().chunks_exact(20).enumerate() {
            let offset = start / 20 + index as i64;
            let position = u64::from_be_bytes(bytes[..8].try_into().unwrap());
            let size = i32::from_be_bytes(bytes[8..12].try_into().unwrap());
            let code = i64::from_be_bytes(bytes[12..].try_into().unwrap());
            if offset < max && size > 0 {
                entries.insert(offset, (position, size, code));
            } else {
                assert_eq!(
                    bytes, [0; 20],
                    "{queue} holds something at {offset}, behind its end {max}"
                );
            }
        }
    }
    entries
}

/// The files of a folder by the position of their first byte.
pub(super) fn files_of(folder: &Path) -> BTreeMap<usize, Vec<u8>> {
    let listed = std::fs::read_dir(folder).unwrap();
    let files = listed.map(|file| {
        let path = file.unwrap().path();
        let start = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        (start, std::fs::read(path).unwrap())
    });
    files.collect()
}

/// Everything that is kept for the stock broker, by path.
pub(super) fn kept_files(root: &Path) -> BTreeMap<PathBuf, u32> {
    const KEPT: [&str; 6] = [
        "batchconsumequeue",
        "consumequeue_ext",
        "compaction",
        "config",
        "timerlog",
        "timerwheel",
    ];
    let mut crcs = BTreeMap::new();
    let mut open: Vec<PathBuf> = KEPT.iter().map(|name| root.join("store").join(name)).collect();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.exists() {
            crcs.insert(path.clone(), crc32(&std::fs::read(&path).unwrap()));
        }
    }
    crcs
}
