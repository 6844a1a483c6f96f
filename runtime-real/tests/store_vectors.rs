//! Store directories of the stock broker (Apache RocketMQ 5.5.0), whole and damaged, opened by ours: the content must be
//! what the stock broker shows, or more where it loses messages without need.
//!
//! `core/tests/vectors/store/NAME.files.gz` holds a directory (`path \n size \n bytes`, again and again), `NAME.json.gz`
//! what the stock broker holds after opening it.

#[path = "../../runtime-sim/tests/broker/client.rs"]
mod client;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::Client;
use orrery_core::broker::Broker;
use orrery_core::broker::state::delays::DelayProgress;
use orrery_core::broker::state::groups::Groups;
use orrery_core::broker::state::offsets::Offsets;
use orrery_core::broker::state::topics::{SavedTopics, Topics};
use orrery_core::config::{BrokerConfig, parse_properties};
use orrery_core::protocol::Command;
use orrery_core::protocol::code::request;
use orrery_core::protocol::message::{self, Draft, RecordView};
use orrery_core::protocol::properties;
use orrery_core::runtime::{Runtime as _, WallMillis};
use orrery_core::store::formats::dledger::{self, DledgerStep};
use orrery_core::store::formats::extension::{self, ExtensionUnit};
use orrery_core::store::formats::timer_checkpoint::TimerCheckpoint;
use orrery_core::store::formats::{timer_log, timer_wheel};
use orrery_core::store::json;
use orrery_core::store::{GetRequest, GetStatus, Recovery, Store, StoreConfig, TagFilter};
use orrery_core::types::PhysicalOffset;
use orrery_runtime_real::Real;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Expected {
    opens: bool,
    #[serde(default, rename = "maxOffset")]
    max_offset: u64,
    /// Position, size, CRC of the whole record.
    #[serde(default)]
    records: Vec<(u64, usize, u32)>,
    #[serde(default)]
    queues: BTreeMap<String, ExpectedQueue>,
    #[serde(default)]
    index: BTreeMap<String, Vec<u64>>,
    #[serde(default, rename = "batchQueues")]
    batch_queues: BTreeMap<String, Vec<BatchLine>>,
    timer: Option<ExpectedTimer>,
    #[serde(default)]
    topics: Value,
    #[serde(default)]
    groups: Value,
    #[serde(default, rename = "consumerOffsets")]
    consumer_offsets: Value,
    #[serde(default, rename = "delayOffsets")]
    delay_offsets: Value,
    #[serde(default, rename = "consumerFilters")]
    consumer_filters: Value,
    #[serde(default, rename = "orderInfo")]
    order_info: Value,
}

#[derive(Deserialize)]
struct ExpectedTimer {
    /// Index, second, first, last, count, magic.
    slots: Vec<(usize, i64, i64, i64, i32, i32)>,
    /// Position, size, previous, flags, write time, delay, position and size of the record, topic's hash, reserved.
    log: Vec<TimerLine>,
    checkpoint: [i64; 4],
}

/// Offset, position, size, tags code, messages, compacted offset of an entry.
type BatchLine = (i64, i64, i32, i64, i16, i32);

type TimerLine = (usize, usize, i64, i32, i64, i32, i64, i32, i32, i64);

#[derive(Clone, Deserialize)]
struct ExpectedQueue {
    min: i64,
    max: i64,
    /// Offset, position, size, tags code.
    units: Vec<(i64, u64, i32, i64)>,
}

fn unpacked(name: &str) -> Vec<u8> {
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

fn expected(name: &str) -> Expected {
    serde_json::from_slice(&unpacked(&format!("{name}.json.gz"))).unwrap()
}

/// Writes the directory below `root`; gives the settings of its broker.
fn unpack(name: &str, root: &Path) -> StoreConfig {
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
fn write_sparse(path: &Path, content: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(content.len() as u64).unwrap();
    for (index, page) in content.chunks(4096).enumerate() {
        if page.iter().any(|byte| *byte != 0) {
            file.write_all_at(page, index as u64 * 4096).unwrap();
        }
    }
}

fn line<'a>(rest: &mut &'a [u8]) -> &'a str {
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap();
    let text = std::str::from_utf8(&rest[..end]).unwrap();
    *rest = &rest[end + 1..];
    text
}

fn split(queue: &str) -> (&str, i32) {
    let (topic, queue_id) = queue.rsplit_once('/').unwrap();
    (topic, queue_id.parse().unwrap())
}

/// Everything a queue shows: position, size and CRC of each record, from its first offset.
async fn pull_all(store: &Store<Real>, queue: &str) -> Vec<(u64, usize, u32)> {
    pull_filtered(store, queue, TagFilter::All).await
}

async fn pull_filtered(store: &Store<Real>, queue: &str, filter: TagFilter) -> Vec<(u64, usize, u32)> {
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

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Entries in a queue's files, by offset, up to `max`.
fn entries_on_disk(root: &Path, queue: &str, max: i64) -> BTreeMap<i64, (u64, i32, i64)> {
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

/// What differs from what the stock broker makes of the directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Equal,
    /// Queues hold at least what is expected.
    More,
}

fn open_and_compare(name: &str, expected_name: &str, verdict: Verdict) -> Recovery {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_owned();
    let config = unpack(name, &root);
    let expected = expected(expected_name);
    let result = Real::run(Some(1), |rt| async move {
        let (store, recovery) = Store::open(&rt, config.clone(), Arc::new(())).await.unwrap();
        assert_eq!(recovery.log_end, expected.max_offset, "{name}: end of the log");
        compare(&store, &root, &expected, verdict, &recovery.damaged).await;
        store.close().await.unwrap();
        for queue in expected.queues.keys() {
            compare_entries(&store, &root, queue, &expected, verdict);
        }
        assert!(!root.join("store/abort").exists());
        assert_zero_behind(&root, &config, recovery.log_end);
        drop(store);
        // Again, now trusting our own clean stop.
        let (store, again) = Store::open(&rt, config, Arc::new(())).await.unwrap();
        assert!(
            again.clean && again.scanned_records == 0 && !again.lost_tail,
            "{name}: {again:?}"
        );
        compare(&store, &root, &expected, verdict, &recovery.damaged).await;
        store.close().await.unwrap();
        recovery
    });
    result.unwrap()
}

async fn compare(store: &Store<Real>, root: &Path, expected: &Expected, verdict: Verdict, damaged: &[u64]) {
    let crcs: BTreeMap<u64, (usize, u32)> = expected
        .records
        .iter()
        .map(|(at, size, crc)| (*at, (*size, *crc)))
        .collect();
    for (queue, wanted) in &expected.queues {
        let (topic, queue_id) = split(queue);
        let bounds = store.bounds(topic, queue_id).unwrap_or_default();
        assert_eq!(bounds.min, wanted.min, "{queue}");
        match verdict {
            Verdict::Equal => assert_eq!(bounds.max, wanted.max, "{queue}"),
            Verdict::More => assert!(bounds.max >= wanted.max, "{queue}: {} of {}", bounds.max, wanted.max),
        }
        let pulled = pull_all(store, queue).await;
        assert!(pulled.is_sorted(), "{queue}");
        let pulled: BTreeMap<u64, (usize, u32)> = pulled.iter().map(|(at, size, crc)| (*at, (*size, *crc))).collect();
        for (offset, position, size, _) in &wanted.units {
            if damaged.contains(position) {
                continue;
            }
            let Some((length, crc)) = pulled.get(position) else {
                let bytes = log_bytes(root, *position, *size as usize);
                assert!(
                    RecordView::parse_checked(&bytes).is_err(),
                    "{queue} lacks {offset}, a whole record"
                );
                continue;
            };
            assert_eq!(*length as i32, *size, "{queue} {offset}");
            assert_eq!(crcs.get(position), Some(&(*length, *crc)), "{queue} {offset}");
        }
    }
}

fn log_bytes(root: &Path, position: u64, size: usize) -> Vec<u8> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(root.join("store/commitlog"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    let log: Vec<u8> = files.iter().flat_map(|path| std::fs::read(path).unwrap()).collect();
    log[position as usize..position as usize + size].to_vec()
}

fn compare_entries(store: &Store<Real>, root: &Path, queue: &str, expected: &Expected, verdict: Verdict) {
    let (topic, queue_id) = split(queue);
    let wanted = &expected.queues[queue];
    let max = store.bounds(topic, queue_id).unwrap_or_default().max;
    let entries = entries_on_disk(root, queue, max);
    for (offset, position, size, code) in &wanted.units {
        let (at, length, tags_code) = entries[offset];
        assert_eq!((at, length), (*position, *size), "{queue} {offset}");
        // An address in the extension file stands for the code.
        let is_address = tags_code < i64::from(i32::MIN);
        assert!(
            is_address || tags_code == *code,
            "{queue} {offset}: {tags_code} for {code}"
        );
    }
    if verdict == Verdict::Equal {
        assert_eq!(entries.len(), wanted.units.len(), "{queue}");
    }
}

/// No byte of an older, longer log may be taken for a record later.
fn assert_zero_behind(root: &Path, config: &StoreConfig, end: u64) {
    for file in std::fs::read_dir(root.join("store/commitlog")).unwrap() {
        let path = file.unwrap().path();
        let start: u64 = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, config.commit_log_file_size);
        let from = end.saturating_sub(start).min(bytes.len() as u64) as usize;
        assert!(
            bytes[from..].iter().all(|byte| *byte == 0),
            "{} is not empty behind {end}",
            path.display()
        );
    }
}

#[test]
fn a_clean_directory_opens_as_it_is() {
    for name in ["clean", "small", "v2-ipv6", "index-missing"] {
        let recovery = open_and_compare(name, name, Verdict::Equal);
        assert!(
            recovery.clean && !recovery.lost_tail && recovery.damaged.is_empty(),
            "{name}: {recovery:?}"
        );
    }
}

#[test]
fn a_torn_record_is_cut_after_a_kill() {
    let recovery = open_and_compare("crash", "crash", Verdict::Equal);
    assert!(
        !recovery.clean && recovery.lost_tail && recovery.cut_bytes > 0,
        "{recovery:?}"
    );
}

#[test]
fn a_zeroed_checkpoint_costs_a_scan_and_nothing_else() {
    let recovery = open_and_compare("checkpoint-zero", "checkpoint-zero", Verdict::Equal);
    assert!(!recovery.clean && recovery.scanned_records == 220, "{recovery:?}");
}

#[test]
fn a_flipped_bit_after_a_clean_stop_hides_one_record_and_no_other() {
    open_and_compare("flip-clean", "flip-clean", Verdict::Equal);
}

#[test]
fn a_flipped_bit_behind_a_zero_checkpoint_cuts_as_the_stock_broker_does() {
    let recovery = open_and_compare("flip-abort", "flip-abort", Verdict::Equal);
    assert!(recovery.lost_tail, "{recovery:?}");
}

#[test]
fn queues_without_files_are_rebuilt_from_the_log() {
    let recovery = open_and_compare("cq-gone", "cq-gone", Verdict::Equal);
    assert!(recovery.rebuilt, "{recovery:?}");
}

#[test]
fn a_hole_in_a_queue_is_filled_from_the_log_where_the_stock_broker_cuts() {
    open_and_compare("cq-hole", "cq-hole", Verdict::More);
    let recovery = open_and_compare("cq-hole", "small", Verdict::Equal);
    assert_eq!(recovery.repaired_queues, 1);
}

#[test]
fn a_queue_file_of_wrong_length_is_rebuilt_where_the_stock_broker_refuses() {
    assert!(!expected("cq-short").opens);
    let recovery = open_and_compare("cq-short", "small", Verdict::Equal);
    assert_eq!(recovery.repaired_queues, 1);
}

#[test]
fn queue_entries_of_lost_records_are_cut() {
    let recovery = open_and_compare("cq-ahead", "cq-ahead", Verdict::Equal);
    assert!(recovery.lost_tail, "{recovery:?}");
}

#[test]
fn perfect_records_behind_a_hole_are_cut() {
    let recovery = open_and_compare("stale-tail", "stale-tail", Verdict::Equal);
    assert!(recovery.lost_tail && recovery.cut_bytes > 0, "{recovery:?}");
}

#[test]
fn keys_of_the_stock_brokers_index_are_found() {
    // The stock broker may have lost keys of the last two; we may find them.
    let complete = [
        "clean",
        "small",
        "v2-ipv6",
        "checkpoint-zero",
        "cq-gone",
        "cq-ahead",
        "stale-tail",
    ];
    for name in complete.into_iter().chain(["index-missing", "crash"]) {
        let is_complete = complete.contains(&name);
        let folder = tempfile::tempdir().unwrap();
        let config = unpack(name, folder.path());
        let expected = expected(name);
        Real::run(Some(1), |rt| async move {
            let (store, _) = Store::open(&rt, config, Arc::new(())).await.unwrap();
            let mut searched = 0;
            for (text, positions) in &expected.index {
                let (topic, key) = text.split_once('#').unwrap();
                let found = find(&store, topic, key).await;
                // Its index may name records that are gone: what is behind the end is found by nobody.
                let in_log = positions.iter().filter(|position| **position < expected.max_offset);
                let wanted: BTreeSet<u64> = in_log.copied().collect();
                // The cap of 64 holds for us, too.
                let count = wanted.len().min(64);
                let is_right = match is_complete {
                    true => found.is_subset(&wanted) && found.len() == count,
                    false => found.is_superset(&wanted) || found.len() == 64,
                };
                assert!(is_right, "{name} {text}: {found:?} for {wanted:?}");
                searched += 1;
            }
            assert!(searched > 100, "{name}");
            store.close().await.unwrap();
        })
        .unwrap();
    }
}

async fn find(store: &Store<Real>, topic: &str, key: &str) -> BTreeSet<u64> {
    let (begin, end) = (WallMillis(0), WallMillis(i64::MAX));
    let records = store.query(topic, key, 64, begin, end).await.unwrap();
    records
        .iter()
        .map(|bytes| RecordView::parse_checked(bytes).unwrap().physical_offset)
        .collect()
}

#[test]
fn a_second_store_on_the_directory_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = unpack("small", folder.path());
    Real::run(Some(1), |rt| async move {
        let (store, _) = Store::open(&rt, config.clone(), Arc::new(())).await.unwrap();
        let second = Store::open(&rt, config.clone(), Arc::new(())).await;
        assert!(second.is_err_and(|error| error.to_string().contains("another process")));
        store.close().await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(Store::open(&rt, config, Arc::new(())).await.is_ok());
    })
    .unwrap();
}

#[test]
fn tags_codes_of_the_extension_file_are_those_the_stock_broker_resolves() {
    let folder = tempfile::tempdir().unwrap();
    unpack("v2-ipv6", folder.path());
    let expected = expected("v2-ipv6");
    let mut resolved = 0;
    for (queue, wanted) in expected.queues.iter().filter(|(_, wanted)| wanted.max > 0) {
        let files = files_of(&folder.path().join("store/consumequeue_ext").join(queue));
        let entries = entries_on_disk(folder.path(), queue, wanted.max);
        for (offset, position, _, code) in &wanted.units {
            let (_, _, address) = entries[offset];
            let at = extension::position(address).unwrap() as usize;
            let (start, file) = files.range(..=at).next_back().unwrap();
            let (unit, size) = ExtensionUnit::decode(&file[at - start..]).unwrap();
            assert_eq!(unit.tags_code, *code, "{queue} {offset} {position}");
            assert_eq!(unit.encode().unwrap(), file[at - start..][..size]);
            resolved += 1;
        }
    }
    assert_eq!(resolved, 145);
}

const EXTENSION_FILE_SIZE: usize = 512;
const EXTENSION_TAGS: [&str; 3] = ["red", "green", "blue"];

/// A directory of several log files whose queue has addresses, as one of the stock broker with `enableConsumeQueueExt`.
fn with_extension(root: &Path) -> StoreConfig {
    let config = StoreConfig {
        commit_log_file_size: 8192,
        delete_hours: Vec::new(),
        disk_used_percent_forced: u64::MAX,
        disk_used_percent_full: u64::MAX,
        disk_used_percent_max: u64::MAX,
        ..StoreConfig::new(root.join("store"))
    };
    let opened = config.clone();
    Real::run(Some(1), |rt| async move {
        let (store, _) = Store::open(&rt, opened, Arc::new(())).await.unwrap();
        for index in 0..200 {
            let properties = properties::from_pairs([("TAGS", EXTENSION_TAGS[index % 3])]);
            let draft = Draft {
                properties: &properties,
                ..Draft::new("T", 0, &[b'x'; 40])
            };
            store.append_when_ready(&[draft]).await.unwrap();
            store.write_pending().await.unwrap();
        }
        store.close().await.unwrap();
    })
    .unwrap();
    let path = root.join("store/consumequeue/T/0").join(format!("{:020}", 0));
    let mut queue = std::fs::read(&path).unwrap();
    let mut units = Vec::new();
    for (index, entry) in queue.chunks_exact_mut(20).take(200).enumerate() {
        let unit = ExtensionUnit {
            tags_code: i64::from_be_bytes(entry[12..].try_into().unwrap()),
            store_time: 1,
            bitmap: vec![5; index % 7],
        };
        let bytes = unit.encode().unwrap();
        let room = EXTENSION_FILE_SIZE - units.len() % EXTENSION_FILE_SIZE;
        if bytes.len() + 4 > room {
            units.extend(std::iter::repeat_n(0xff, room));
        }
        let address = extension::address(units.len() as u64).unwrap();
        units.extend(bytes);
        entry[12..].copy_from_slice(&address.to_be_bytes());
    }
    std::fs::write(path, queue).unwrap();
    units.resize(units.len().next_multiple_of(EXTENSION_FILE_SIZE), 0xff);
    let folder = root.join("store/consumequeue_ext/T/0");
    std::fs::create_dir_all(&folder).unwrap();
    for (index, file) in units.chunks(EXTENSION_FILE_SIZE).enumerate() {
        std::fs::write(folder.join(format!("{:020}", index * EXTENSION_FILE_SIZE)), file).unwrap();
    }
    // The checkpoint of a stock broker ends before these.
    let mut checkpoint = std::fs::read(root.join("store/checkpoint")).unwrap();
    checkpoint[32..].fill(0);
    std::fs::write(root.join("store/checkpoint"), checkpoint).unwrap();
    config
}

#[test]
fn tags_are_filtered_by_the_code_in_the_extension_file() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_owned();
    let config = with_extension(&root);
    Real::run(Some(1), |rt| async move {
        let (store, _) = Store::open(&rt, config.clone(), Arc::new(())).await.unwrap();
        let all = pull_all(&store, "T/0").await;
        assert_eq!(all.len(), 200);
        let addresses = entries_on_disk(&root, "T/0", 200);
        let addresses = addresses.values().filter(|entry| extension::is_address(entry.2));
        assert!(
            addresses.count() > 100,
            "entries before the newest log file stay as they were"
        );
        for (index, tag) in EXTENSION_TAGS.iter().enumerate() {
            let filter = TagFilter::codes([message::java_hash(tag)]);
            let wanted: Vec<_> = all.iter().copied().skip(index).step_by(3).collect();
            assert_eq!(pull_filtered(&store, "T/0", filter).await, wanted, "{tag}");
        }
        store.close().await.unwrap();
        drop(store);
        // Without the units nothing is known of the tags: the client decides.
        std::fs::remove_dir_all(root.join("store/consumequeue_ext")).unwrap();
        let (store, _) = Store::open(&rt, config, Arc::new(())).await.unwrap();
        let pulled = pull_filtered(&store, "T/0", TagFilter::codes([1])).await;
        assert!(pulled.len() > 100);
        store.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn extension_files_go_with_the_entries_that_name_them() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_owned();
    let config = StoreConfig {
        // The two oldest log files go at once, and then nothing for an hour.
        delete_hours: (0..24).collect(),
        file_reserved: Duration::ZERO,
        delete_files_max: 2,
        clean_interval: Duration::from_secs(3600),
        ..with_extension(&root)
    };
    let extension = root.join("store/consumequeue_ext/T/0");
    let before = files_of(&extension).len();
    Real::run(Some(1), |rt| async move {
        let (store, _) = Store::open(&rt, config, Arc::new(())).await.unwrap();
        let bounds = || store.bounds("T", 0).unwrap();
        let first_file = || files_of(&extension).into_keys().next();
        let trimmed = async {
            while bounds().min == 0 || first_file() == Some(0) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), trimmed)
            .await
            .expect("the first files go");
        let entries = entries_on_disk(&root, "T/0", 200);
        let needed = extension::position(entries[&bounds().min].2).unwrap() as usize;
        let first = first_file().unwrap();
        assert!(
            (first..first + EXTENSION_FILE_SIZE).contains(&needed),
            "{needed} lies in the first file left"
        );
        assert!(files_of(&extension).len() < before);
        let all = pull_all(&store, "T/0").await;
        assert_eq!(all.len() as i64, 200 - bounds().min);
        let red = pull_filtered(&store, "T/0", TagFilter::codes([message::java_hash("red")])).await;
        assert!(red.len() < all.len() / 2, "what is left is still filtered");
        store.delete_topic("T").await.unwrap();
        assert!(!root.join("store/consumequeue_ext/T").exists());
        store.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn batch_queues_show_their_content() {
    let folder = tempfile::tempdir().unwrap();
    let config = unpack("clean", folder.path());
    let expected = expected("clean");
    Real::run(Some(1), |rt| async move {
        let (store, _) = Store::open(&rt, config, Arc::new(())).await.unwrap();
        let names = store.batch_queues().await.unwrap();
        let names = names.iter().map(|name| format!("{}/{}", name.topic, name.queue_id));
        assert_eq!(
            names.collect::<Vec<_>>(),
            expected.batch_queues.keys().cloned().collect::<Vec<_>>()
        );
        let (queue, wanted) = expected.batch_queues.first_key_value().unwrap();
        let (topic, queue_id) = split(queue);
        let entries = store.batch_entries(topic, queue_id).await.unwrap();
        let shown = entries.iter().map(|entry| {
            let (code, count, compacted) = (entry.tags_code, entry.count, entry.compacted_offset);
            (entry.first_offset, entry.position, entry.size, code, count, compacted)
        });
        assert_eq!(&shown.collect::<Vec<_>>(), wanted);
        for entry in &entries {
            let record = store.record_at(PhysicalOffset(entry.position as u64)).await.unwrap();
            let record = record.unwrap();
            let record = RecordView::parse_checked(&record).unwrap();
            assert_eq!((record.topic, record.store_time.0), (topic, entry.store_time));
        }
        store.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn timer_files_decode_to_what_the_stock_broker_holds() {
    for name in ["clean", "crash"] {
        let folder = tempfile::tempdir().unwrap();
        unpack(name, folder.path());
        let store = folder.path().join("store");
        let wanted = expected(name).timer.unwrap();
        let mut log: Vec<TimerLine> = Vec::new();
        for (start, file) in files_of(&store.join("timerlog")) {
            log.extend(timer_log::units(&file).map(|(at, unit)| {
                let (size, delay) = (timer_log::TIMER_UNIT_SIZE, unit.delay);
                let (position, record_size) = (unit.position, unit.size);
                let (hash, reserved) = (unit.topic_hash, unit.reserved);
                let (previous, flags, time) = (unit.previous, unit.flags, unit.write_time);
                (
                    start + at,
                    size,
                    previous,
                    flags,
                    time,
                    delay,
                    position,
                    record_size,
                    hash,
                    reserved,
                )
            }));
        }
        assert_eq!(log, wanted.log, "{name}");
        let checkpoint = std::fs::read(store.join("config/timercheck")).unwrap();
        let checkpoint = TimerCheckpoint::decode(&checkpoint).unwrap();
        assert_eq!(checkpoint.last_read_time, wanted.checkpoint[0]);
        assert_eq!(checkpoint.last_queue_offset, wanted.checkpoint[2]);
        assert_eq!(checkpoint.master_queue_offset, wanted.checkpoint[3]);
        if name == "clean" {
            let wheel = std::fs::read(store.join("timerwheel")).unwrap();
            assert_eq!(
                wheel.len(),
                timer_wheel::TIMER_SLOT_COUNT * timer_wheel::TIMER_SLOT_SIZE
            );
            let slots = timer_wheel::slots(&wheel).map(|(index, slot)| {
                let (first, last) = (slot.first, slot.last);
                (index, slot.second, first, last, slot.count, slot.magic)
            });
            assert_eq!(slots.collect::<Vec<_>>(), wanted.slots);
        }
    }
}

/// The files of a folder by the position of their first byte.
fn files_of(folder: &Path) -> BTreeMap<usize, Vec<u8>> {
    let listed = std::fs::read_dir(folder).unwrap();
    let files = listed.map(|file| {
        let path = file.unwrap().path();
        let start = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        (start, std::fs::read(path).unwrap())
    });
    files.collect()
}

/// Everything that is kept for the stock broker, by path.
fn kept_files(root: &Path) -> BTreeMap<PathBuf, u32> {
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

#[test]
fn what_the_store_does_not_work_on_is_kept_byte_for_byte() {
    for name in ["clean", "crash", "v2-ipv6"] {
        let folder = tempfile::tempdir().unwrap();
        let config = unpack(name, folder.path());
        let before = kept_files(folder.path());
        assert!(before.len() > 8, "{name}: {before:?}");
        Real::run(Some(1), |rt| async move {
            let (store, _) = Store::open(&rt, config, Arc::new(())).await.unwrap();
            store.close().await.unwrap();
        })
        .unwrap();
        assert_eq!(kept_files(folder.path()), before, "{name}");
    }
}

#[test]
fn tables_hold_what_the_stock_brokers_managers_hold() {
    for name in ["clean", "small", "crash", "v2-ipv6"] {
        let folder = tempfile::tempdir().unwrap();
        unpack(name, folder.path());
        let config = folder.path().join("store/config");
        let wanted = expected(name);
        Real::run(Some(1), |rt| async move {
            let mut topics = Topics::default();
            assert!(topics.restore(table(&rt, config.join("topics.json")).await).is_empty());
            let shown = SavedTopics::of(topics.version(), &topics.snapshot());
            let shown = serde_json::to_value(&shown).unwrap();
            // The stock broker adds its system topics while it opens.
            holds(&wanted.topics["topicConfigTable"], &shown["topicConfigTable"], name);
            assert!(shown["topicConfigTable"].as_object().unwrap().len() > 10);

            let mut groups = Groups::default();
            let saved = table(&rt, config.join("subscriptionGroup.json")).await;
            assert!(groups.restore(saved).is_empty());
            let shown = serde_json::to_value(groups.save()).unwrap();
            let wanted_groups = &wanted.groups["subscriptionGroupTable"];
            holds(wanted_groups, &shown["subscriptionGroupTable"], name);
            assert_eq!(wanted.groups["forbiddenTable"], shown["forbiddenTable"]);

            let mut offsets = Offsets::default();
            let file = match name {
                "clean" => "lmqConsumerOffset.json",
                _ => "consumerOffset.json",
            };
            assert!(offsets.restore(table(&rt, config.join(file)).await).is_empty());
            let shown = serde_json::to_value(offsets.save(WallMillis(1), name == "clean")).unwrap();
            assert_eq!(shown["offsetTable"], wanted.consumer_offsets["offsetTable"], "{name}");
            if name == "clean" {
                assert_eq!(shown["lmqOffsetTable"], wanted.consumer_offsets["lmqOffsetTable"]);
            }

            let mut delays = DelayProgress::default();
            delays.restore(table(&rt, config.join("delayOffset.json")).await);
            let shown = serde_json::to_value(delays.save(WallMillis(1))).unwrap();
            assert_eq!(shown["offsetTable"], wanted.delay_offsets["offsetTable"], "{name}");

            let filters: Value = table(&rt, config.join("consumerFilter.json")).await;
            assert_eq!(filters, wanted.consumer_filters);
            let order: Value = table(&rt, config.join("consumerOrderInfo.json")).await;
            assert_eq!(order, wanted.order_info);
        })
        .unwrap();
    }
}

async fn table<T: serde::de::DeserializeOwned + Default>(rt: &Real, path: PathBuf) -> T {
    json::load(rt.disk(), &path).await.unwrap().unwrap_or_default()
}

/// Every entry of ours stands among the wanted ones, field by field.
fn holds(wanted: &Value, shown: &Value, name: &str) {
    for (key, value) in shown.as_object().unwrap() {
        assert_eq!(Some(value), wanted.get(key), "{name}: {key}");
    }
}

#[test]
fn a_dledger_directory_is_named_left_alone_and_its_records_are_legible() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_owned();
    let config = unpack("dledger", &root);
    let before = kept_files(&root);
    Real::run(Some(1), |rt| async move {
        let refused = Store::open(&rt, config, Arc::new(())).await;
        let text = refused.err().unwrap().to_string();
        assert!(
            text.contains("dledger-n0") && text.contains("enableDLegerCommitLog"),
            "{text}"
        );
    })
    .unwrap();
    assert_eq!(kept_files(&root), before);
    assert!(!root.join("store/abort").exists() && !root.join("store/lock").exists());

    let mut records = Vec::new();
    for (start, file) in files_of(&root.join("store/dledger-n0/data")) {
        let mut at = 0;
        while let DledgerStep::Entry(entry) = dledger::step(&file[at..], (start + at) as u64) {
            if entry.magic == 1 {
                let record = RecordView::parse_checked(entry.body).unwrap();
                let position = (start + at + dledger::DLEDGER_HEADER_SIZE) as u64;
                record.check_position(position).unwrap();
                records.push((position, entry.body.len(), crc32(entry.body)));
            }
            at += dledger::DLEDGER_HEADER_SIZE + entry.body.len();
        }
    }
    assert_eq!(records, expected("dledger").records);
    assert_eq!(records.len(), 220);
}

fn broker_config(root: &Path, store: &StoreConfig) -> BrokerConfig {
    let mut config = client::small_config(0);
    config.network.bind_address = "127.0.0.1".parse().unwrap();
    config.identity.cluster_name = "VecCluster".to_owned();
    config.store.root_dir = root.join("store");
    config.store.commit_log_file_bytes = store.commit_log_file_size;
    config.store.consume_queue_file_bytes = store.consume_queue_file_size;
    config.store.index_hash_slot_count = store.index_slots;
    config.store.index_entry_count = store.index_entries;
    config.topics.enable_lmq = true;
    config.retention.file_reserved_hours = 1_000_000;
    config.retention.clean_file_forcibly_enable = false;
    config
}

#[test]
fn pending_state_is_counted_and_served_beside_only_if_that_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_owned();
    let store = unpack("clean", &root);
    let before = kept_files(&root);
    Real::run(Some(1), |rt| async move {
        let mut config = broker_config(&root, &store);
        let Err(refused) = Broker::start(rt.clone(), config.clone()).await else {
            panic!("a store with pending state starts by itself");
        };
        let text = refused.to_string();
        assert!(text.contains("23 timers, 5 half messages, 6 POP checkpoints"), "{text}");
        assert!(text.contains("acceptPendingState=true"), "{text}");
        assert!(!root.join("store/abort").exists(), "a refused start is a clean stop");
        assert_eq!(kept_files(&root), before);

        config.store.accept_pending_state = true;
        let broker = Broker::start(rt.clone(), config.clone()).await.unwrap();
        let client = Client::new(rt.clone(), "c", broker.address());
        let reply = client.insist(Command::request(request::GET_BROKER_RUNTIME_INFO)).await;
        let info: Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(info["table"]["pendingTimers"], "23");
        assert_eq!(info["table"]["pendingHalfMessages"], "5");
        assert_eq!(info["table"]["pendingPopCheckpoints"], "6");
        assert_eq!(info["table"]["pendingCompactedQueues"], "0");
        // Batch queues are kept, not served.
        let reply = client.send("TopicBcq", 0, "body", "").await.unwrap();
        assert!(reply.code == 16 && reply.remark_text().contains("BatchCQ"), "{reply:?}");
        // No client adds to what is pending.
        for topic in [
            "rmq_sys_wheel_timer",
            "rmq_sys_REVIVE_LOG_VecCluster",
            "RMQ_SYS_TRANS_HALF_TOPIC",
        ] {
            let reply = client.send(topic, 0, "body", "").await.unwrap();
            assert!(!reply.is_success(), "{topic}: {reply:?}");
        }
        broker.shutdown().await;
        let is_saved_again = |path: &Path| path.extension().is_some_and(|extension| extension == "json");
        let after = kept_files(&root);
        for (path, crc) in before.iter().filter(|(path, _)| !is_saved_again(path)) {
            assert_eq!(after.get(path), Some(crc), "{}", path.display());
        }
    })
    .unwrap();
}

#[test]
fn timers_that_are_not_in_the_timer_log_yet_are_counted_from_their_queue() {
    let folder = tempfile::tempdir().unwrap();
    let config = unpack("clean", folder.path());
    let first_needed = expected("clean").queues["rmq_sys_wheel_timer/0"].units[39].1;
    // What the second and third file of the timer log held is in the queue alone now: 60 of the 99 records.
    for start in ["00000000000000002048", "00000000000000004096"] {
        std::fs::remove_file(folder.path().join("store/timerlog").join(start)).unwrap();
    }
    Real::run(Some(1), |rt| async move {
        let (store, _) = Store::open(&rt, config, Arc::new(())).await.unwrap();
        let pending = store.count_pending(|_: &str, _: &str, _| i64::MAX).await.unwrap();
        assert_eq!(
            (pending.timers, pending.half_messages, pending.pop_checkpoints),
            (60, 0, 0)
        );
        assert_eq!(pending.needed_from, first_needed, "retention says when it deletes this");
        store.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn compacted_queues_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let config = unpack("small", folder.path());
    let log = folder.path().join("store/compaction/compactionLog/T");
    for queue in ["0", "1"] {
        std::fs::create_dir_all(log.join(queue)).unwrap();
    }
    std::fs::write(log.join("1").join(format!("{:020}", 0)), [0; 64]).unwrap();
    Real::run(Some(1), |rt| async move {
        let (store, _) = Store::open(&rt, config, Arc::new(())).await.unwrap();
        let pending = store.count_pending(|_: &str, _: &str, _| 0).await.unwrap();
        assert_eq!(pending.to_string(), "1 compacted queues");
        store.close().await.unwrap();
    })
    .unwrap();
}
