//! The key index through stops, kills, deleted files and damage: every key of every record, once.

mod stored;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use orrery_core::protocol::message::Draft;
use orrery_core::protocol::properties;
use orrery_core::runtime::{Disk, Runtime, WallMillis};
use orrery_core::store::{FlushMode, StoreConfig};
use orrery_runtime_sim::{DiskProfile, Fate, NodeId, PowerCut, World, run};
use stored::{Sim, config, id_of, instant_disk, open};

const TOPIC: &str = "TopicA";
/// Keys of each record: its unique id and one more.
const KEY_COUNT: usize = 2;

/// Stores a message that two keys lead to; gives its position.
async fn send(store: &Sim, id: u64) -> u64 {
    let text = properties::from_pairs([
        ("KEYS", format!("key{id}").as_str()),
        ("UNIQ_KEY", format!("unique{id}").as_str()),
    ]);
    let mut body = id.to_be_bytes().to_vec();
    body.resize(300, 7);
    let draft = Draft {
        properties: &text,
        ..Draft::new(TOPIC, 0, &body)
    };
    let appended = store.append_when_ready(&[draft]).await.expect("appended");
    store.write_pending().await.expect("written");
    store.flushed(appended.end).await.expect("flushed");
    appended.positions[0].physical_offset
}

async fn send_many(store: &Sim, ids: std::ops::Range<u64>) -> Vec<u64> {
    let mut positions = Vec::new();
    for id in ids {
        positions.push(send(store, id).await);
    }
    positions
}

/// Each of these is found by each of its keys, once.
async fn check(store: &Sim, ids: impl IntoIterator<Item = u64>, name: &str) {
    for id in ids {
        for key in [format!("key{id}"), format!("unique{id}")] {
            let found = store.query(TOPIC, &key, 9, WallMillis(0), WallMillis(i64::MAX)).await;
            let found: Vec<u64> = found.expect(name).iter().map(|record| id_of(record)).collect();
            assert_eq!(found, [id], "{name}: {key}");
        }
    }
}

/// How many keys lead to each position, as the files say: what RocketMQ would find.
fn indexed(world: &World, node: NodeId, config: &StoreConfig) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for (path, bytes) in world.files(node, Path::new("/store/index")) {
        let count = i32::from_be_bytes(*bytes[36..].first_chunk().unwrap());
        let entries = &bytes[40 + config.index_slots as usize * 4..];
        for number in 1..count as usize {
            let position = u64::from_be_bytes(*entries[number * 20 + 4..].first_chunk().unwrap());
            assert!(position < 1 << 40, "{}: {position}", path.display());
            *counts.entry(position).or_default() += 1;
        }
    }
    counts
}

async fn remove_oldest_file(world: &World, node: NodeId) {
    let files = world.files(node, Path::new("/store/index"));
    let oldest = files.keys().next().expect("there are index files");
    let rt = world.runtime(node);
    rt.disk().remove(oldest).await.unwrap();
    rt.disk().sync_dir(Path::new("/store/index")).await.unwrap();
}

#[test]
fn a_stop_in_order_leaves_no_key_to_be_indexed() {
    for seed in 0..40u64 {
        let outcome = run(seed, move |world| async move {
            let node = world.add_node("broker");
            // Files that end within a record, and one that is large enough.
            let config = StoreConfig {
                index_entries: [12, 1000][(seed % 2) as usize],
                ..config(FlushMode::Sync)
            };
            let mut positions = Vec::new();
            for life in 0..3 {
                let (store, _) = open(&world.runtime(node), &config).await.unwrap();
                positions.extend(send_many(&store, life * 30..life * 30 + 30).await);
                // The index may be anywhere.
                world.sleep(Duration::from_micros(seed * seed * 20)).await;
                store.close().await.unwrap();
                let expected: BTreeMap<u64, usize> = positions.iter().map(|position| (*position, KEY_COUNT)).collect();
                assert_eq!(indexed(&world, node, &config), expected, "life {life}");
            }
        });
        assert!(outcome.panics.is_empty(), "seed {seed}: {:?}", outcome.panics);
    }
}

#[test]
fn a_stop_in_order_does_not_wait_long_for_the_index() {
    let outcome = run(1, |world| async move {
        let node = world.add_node("broker");
        let without = StoreConfig {
            index: false,
            ..config(FlushMode::Sync)
        };
        let (store, _) = open(&world.runtime(node), &without).await.unwrap();
        send_many(&store, 0..200).await;
        store.close().await.unwrap();
        drop(store);
        world.power_loss(node);
        // Nothing of the log is in memory now, and each read takes a second.
        let second = (Duration::from_secs(1), Duration::from_secs(1));
        let fast = world.disk(node);
        world.set_disk(
            node,
            DiskProfile {
                latency: second,
                ..fast.clone()
            },
        );
        let config = config(FlushMode::Sync);
        let (store, _) = open(&world.runtime(node), &config).await.unwrap();
        store.close().await.unwrap();
        let some = indexed(&world, node, &config).len();
        assert!(0 < some && some < 150, "{some}");
        drop(store);
        world.set_disk(node, fast);
        let (store, recovery) = open(&world.runtime(node), &config).await.unwrap();
        assert!(recovery.clean);
        check(&store, 0..200, "the next start does the rest").await;
    });
    assert!(outcome.panics.is_empty(), "{:?}", outcome.panics);
}

#[test]
fn a_record_keeps_its_keys_when_all_before_it_is_deleted_before_the_index_goes_on() {
    let outcome = run(1, |world| async move {
        let node = world.add_node("broker");
        let config = config(FlushMode::Sync);
        let (store, _) = open(&world.runtime(node), &config).await.unwrap();
        send_many(&store, 0..5).await;
        world.sleep(Duration::from_secs(5)).await;
        send(&store, 5).await;
        // The index becomes durable every half a minute; of what is younger a kill leaves nothing.
        world.sleep(Duration::from_secs(60)).await;
        let last = send_many(&store, 6..60).await[53];
        world.sleep(Duration::from_millis(200)).await;
        drop(store);
        world.kill(node);
        world.step_wall(node, 80 * 3_600_000);
        let cleaning = StoreConfig {
            delete_hours: (0..24).collect(),
            ..config
        };
        let (store, _) = open(&world.runtime(node), &cleaning).await.unwrap();
        world.sleep(Duration::from_secs(1)).await;
        let log_start = store.info().log_start;
        assert!(0 < log_start && log_start < last, "{log_start}");
        let first = store.record_at(orrery_core::types::PhysicalOffset(log_start)).await;
        let first = id_of(&first.unwrap().expect("a record"));
        check(&store, first..60, "what is left").await;
    });
    assert!(outcome.panics.is_empty(), "{:?}", outcome.panics);
}

#[test]
fn a_missing_file_that_held_some_keys_of_one_record_is_noticed() {
    let outcome = run(1, |world| async move {
        let node = world.add_node("broker");
        // One key a file.
        let config = StoreConfig {
            index_entries: 2,
            ..config(FlushMode::Sync)
        };
        let (store, _) = open(&world.runtime(node), &config).await.unwrap();
        send_many(&store, 0..3).await;
        store.close().await.unwrap();
        drop(store);
        remove_oldest_file(&world, node).await;
        let (store, _) = open(&world.runtime(node), &config).await.unwrap();
        check(&store, 0..3, "made anew").await;
    });
    assert!(outcome.panics.is_empty(), "{:?}", outcome.panics);
}

/// What an old checkpoint says of the index holds for the files that were there, not for those that are being made.
#[test]
fn an_index_is_made_anew_through_a_crash_at_any_operation_of_it() {
    let outcome = run(1, |world| async move {
        let node = world.add_node("broker");
        world.set_disk(node, instant_disk());
        // Header and entries in different sectors, and two files.
        let config = StoreConfig {
            index_slots: 200,
            index_entries: 30,
            ..config(FlushMode::Sync)
        };
        let (store, _) = open(&world.runtime(node), &config).await.unwrap();
        send_many(&store, 0..20).await;
        // So that the checkpoint's word for them is older than the margin.
        world.sleep(Duration::from_secs(5)).await;
        send_many(&store, 20..22).await;
        store.close().await.unwrap();
        drop(store);
        remove_oldest_file(&world, node).await;
        world.keep_crash_points(node);
        let (store, _) = open(&world.runtime(node), &config).await.unwrap();
        world.sleep(Duration::from_secs(40)).await;
        drop(store);
        let points = world.take_crash_points(node);
        for point in &points {
            let draw = world.draw("cut").with(point.change);
            let drawn = (0..6).map(|number| PowerCut::drawn(draw.with(number)));
            for cut in drawn.chain([PowerCut::fixed(Fate::Kept, Fate::Lost)]) {
                let name = format!("change {} before {}, {cut:?}", point.change, point.before);
                world.crash_to(node, point, Some(&cut));
                let (store, _) = open(&world.runtime(node), &config).await.expect(&name);
                check(&store, 0..22, &name).await;
            }
        }
        points.len()
    });
    assert!(outcome.panics.is_empty(), "{:?}", outcome.panics);
    assert!(outcome.value > 20, "{} points", outcome.value);
}
