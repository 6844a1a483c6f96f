//! Tags codes that lie in the extension file.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orrery_core::protocol::message::{self, Draft};
use orrery_core::protocol::properties;
use orrery_core::store::formats::extension::{self, ExtensionUnit};
use orrery_core::store::{Store, StoreConfig, TagFilter};
use orrery_runtime_real::Real;

use super::directory::{entries_on_disk, expected, files_of, pull_all, pull_filtered, unpack};

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
