//! What opening makes of them: records, queues, keys.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orrery_core::protocol::message::RecordView;
use orrery_core::runtime::WallMillis;
use orrery_core::store::{Recovery, Store, StoreConfig};
use orrery_runtime_real::Real;

use super::directory::{Expected, entries_on_disk, expected, pull_all, split, unpack};

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
fn a_flipped_bit_behind_a_zero_checkpoint_costs_one_record_where_the_stock_broker_cuts_the_log() {
    assert!(expected("flip-abort").max_offset < expected("flip-clean").max_offset);
    let recovery = open_and_compare("flip-abort", "flip-clean", Verdict::Equal);
    assert!(!recovery.clean && !recovery.lost_tail, "{recovery:?}");
    assert_eq!((recovery.damaged.len(), recovery.gaps.len()), (1, 1), "{recovery:?}");
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
