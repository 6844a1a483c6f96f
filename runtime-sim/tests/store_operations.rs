//! What the store does besides surviving: replicas, retention, deleted topics, filters, look-ups, tables, poison.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orrery_core::protocol::message::{self, Draft, RecordView, java_hash};
use orrery_core::protocol::properties;
use orrery_core::runtime::{Runtime, WallMillis};
use orrery_core::store::{
    AppendError, Arrivals, Boundary, Bounds, FlushMode, GetRequest, GetStatus, Got, Recovery, Store, StoreConfig,
    StoreError, TagFilter, json,
};
use orrery_core::types::PhysicalOffset;
use orrery_runtime_sim::{DiskFault, DiskFaults, NodeId, SimRuntime, World, run};

type Sim = Store<SimRuntime>;

fn config(root: &str) -> StoreConfig {
    StoreConfig {
        commit_log_file_size: 4 << 10,
        consume_queue_file_size: 200,
        flush_mode: FlushMode::Sync,
        queue_flush_interval: Duration::from_millis(20),
        checkpoint_interval: Duration::from_millis(50),
        delete_hours: Vec::new(),
        index_slots: 97,
        index_entries: 60,
        ..StoreConfig::new(root)
    }
}

async fn open(rt: &SimRuntime, config: StoreConfig) -> (Sim, Recovery) {
    Store::open(rt, config, Arc::new(())).await.expect("the store opens")
}

/// Appends one message and waits until it is durable; gives its queue offset.
async fn send(store: &Sim, topic: &str, queue_id: i32, body: &str, text: &str) -> i64 {
    let draft = Draft {
        properties: text,
        ..Draft::new(topic, queue_id, body.as_bytes())
    };
    let appended = store.append_when_ready(&[draft]).await.expect("appended");
    store.write_pending().await.expect("written");
    store.flushed(appended.end).await.expect("flushed");
    appended.positions[0].queue_offset
}

async fn get(store: &Sim, topic: &str, offset: i64, filter: TagFilter) -> Got {
    let request = GetRequest {
        topic,
        queue_id: 0,
        offset,
        max_count: 32,
        max_bytes: 1 << 20,
        filter,
    };
    store.get(&request).await.expect("read")
}

/// Bodies of a queue from `offset` on, with their offsets.
async fn bodies(store: &Sim, topic: &str, from: i64, filter: TagFilter) -> Vec<(i64, String)> {
    let mut found = Vec::new();
    let mut offset = from;
    loop {
        let got = get(store, topic, offset, filter.clone()).await;
        if !matches!(got.status, GetStatus::Found | GetStatus::NoMatchedMessage) {
            return found;
        }
        for chunk in &got.chunks {
            for bytes in message::records(chunk) {
                let bytes = bytes.unwrap();
                let record = RecordView::parse_checked(&bytes).unwrap();
                found.push((record.queue_offset, String::from_utf8(record.body.to_vec()).unwrap()));
            }
        }
        offset = got.next_offset;
    }
}

#[test]
fn a_replica_fed_with_records_shows_the_same() {
    let outcome = run(1, |world| async move {
        let rt = world.runtime(world.add_node("broker"));
        let (primary, _) = open(&rt, config("/primary")).await;
        let (replica, _) = open(&rt, config("/replica")).await;
        let mut position = 0;
        for number in 0..100 {
            let topic = if number % 3 == 0 { "A" } else { "B" };
            send(&primary, topic, 0, &"x".repeat(number * 3), "TAGS\u{1}t\u{2}").await;
        }
        let mut copied = 0;
        while position < primary.info().confirmed {
            let Some(bytes) = primary.record_at(PhysicalOffset(position)).await.unwrap() else {
                position = position.next_multiple_of(4 << 10);
                continue;
            };
            let wrong = replica.append_at(PhysicalOffset(position + 1), &bytes);
            assert!(matches!(wrong, Err(AppendError::Position { .. })), "{wrong:?}");
            let appended = loop {
                match replica.append_at(PhysicalOffset(position), &bytes) {
                    Err(AppendError::NotReady) => replica.ready().await.unwrap(),
                    other => break other.unwrap(),
                }
            };
            let again = replica.append_at(appended.end, &bytes);
            assert!(matches!(again, Err(AppendError::Records(_))), "{again:?}");
            position = appended.end.0;
            copied += 1;
        }
        assert_eq!(copied, 100);
        replica.flushed(PhysicalOffset(position)).await.unwrap();
        for topic in ["A", "B"] {
            let shown = bodies(&replica, topic, 0, TagFilter::All).await;
            assert!(!shown.is_empty());
            assert_eq!(shown, bodies(&primary, topic, 0, TagFilter::All).await);
        }
        // What is appended to the replica next goes on where the primary would.
        assert_eq!(send(&replica, "A", 0, "next", "").await, 34);
    });
    assert!(outcome.panics.is_empty(), "{:?}", outcome.panics);
}

#[test]
fn expired_files_go_and_offsets_stay() {
    run(2, |world| async move {
        let node = world.add_node("broker");
        let rt = world.runtime(node);
        let mut config = config("/store");
        config.delete_hours = (0..24).collect();
        config.clean_interval = Duration::from_millis(100);
        config.delete_files_max = 3;
        let (store, _) = open(&rt, config.clone()).await;
        for number in 0..60 {
            send(&store, "T", 0, &number.to_string().repeat(200), "KEYS\u{1}key\u{2}").await;
        }
        world.sleep(Duration::from_millis(300)).await;
        assert_eq!(store.info().log_start, 0);
        world.step_wall(node, 73 * 3_600_000);
        send(&store, "T", 0, "late", "").await;
        world.sleep(Duration::from_secs(1)).await;
        let info = store.info();
        let Bounds { min, max } = store.bounds("T", 0).unwrap();
        assert!(info.log_start > 0 && min > 0 && max == 61, "{info:?} {min}");
        let got = get(&store, "T", 0, TagFilter::All).await;
        assert_eq!((got.status, got.next_offset), (GetStatus::OffsetTooSmall, min));
        let rest = bodies(&store, "T", min, TagFilter::All).await;
        assert_eq!(rest.len() as i64, max - min);
        assert_eq!(rest.last().unwrap().1, "late");
        let first = store.record_at(PhysicalOffset(0)).await.unwrap();
        assert!(first.is_none());
        let found = store
            .query("T", "key", 64, WallMillis(0), WallMillis(i64::MAX))
            .await
            .unwrap();
        assert_eq!(found.len() as i64, max - min - 1);
        drop(store);
        world.power_loss(node);
        let (store, recovery) = open(&world.runtime(node), config).await;
        assert_eq!(recovery.log_start, info.log_start);
        assert_eq!(store.bounds("T", 0), Some(Bounds { min, max }));
        assert_eq!(bodies(&store, "T", min, TagFilter::All).await, rest);
    });
}

#[test]
fn a_topic_made_again_starts_anew_through_a_power_loss() {
    for seed in 0..10 {
        run(seed, move |world| async move {
            let node = world.add_node("broker");
            let (store, _) = open(&world.runtime(node), config("/store")).await;
            for number in 0..30 {
                send(&store, "T", 0, &format!("old {number}"), "").await;
            }
            if seed % 2 == 0 {
                world.sleep(Duration::from_millis(200)).await;
            }
            store.delete_topic("T").await.unwrap();
            assert_eq!(store.bounds("T", 0), None);
            for number in 0..20 {
                assert_eq!(send(&store, "T", 0, &format!("new {number}"), "").await, number);
            }
            drop(store);
            world.power_loss(node);
            let (store, _) = open(&world.runtime(node), config("/store")).await;
            let expected: Vec<_> = (0..20).map(|number| (number, format!("new {number}"))).collect();
            assert_eq!(bodies(&store, "T", 0, TagFilter::All).await, expected);
        });
    }
}

/// Two queues of two files each of `T`, and one of `U`.
async fn store_to_delete_from(world: &World) -> (NodeId, Sim, StoreConfig) {
    let node = world.add_node("broker");
    let config = StoreConfig {
        clean_interval: Duration::from_millis(100),
        ..config("/store")
    };
    let (store, _) = open(&world.runtime(node), config.clone()).await;
    for number in 0..24 {
        send(&store, "T", number % 2, &format!("old {number}"), "").await;
        send(&store, "U", 0, &format!("kept {number}"), "").await;
    }
    // Everything is in its file, and in the checkpoint.
    world.sleep(Duration::from_millis(300)).await;
    (node, store, config)
}

fn strike(world: &World, node: NodeId, after: u64, fault: DiskFault) {
    world.strike_disk(node, world.disk_operations(node) + after..u64::MAX, fault);
}

fn heal(world: &World, node: NodeId) {
    world.strike_disk(node, 0..0, DiskFault::WriteError);
}

fn is_deleting(store: &Sim, topic: &str) -> bool {
    matches!(
        store.append(&[Draft::new(topic, 0, b"early")]),
        Err(AppendError::Deleting(_))
    )
}

async fn look_behind_deletion(store: &Sim, recovery: &Recovery, name: &str) {
    assert!(!recovery.rebuilt, "{name}: {recovery:?}");
    assert_eq!(bodies(store, "U", 0, TagFilter::All).await.len(), 24, "{name}");
}

/// False if the deletion went through.
async fn fail_a_deletion(world: &World, fault: DiskFault, after: u64, how: u64) -> bool {
    let name = format!("{fault:?} after {after}, {how}");
    let (node, store, config) = store_to_delete_from(world).await;
    strike(world, node, after, fault);
    if store.delete_topic("T").await.is_ok() {
        return false;
    }
    assert!(is_deleting(&store, "T") && !is_deleting(&store, "V"), "{name}");
    match how {
        // It goes on by itself.
        0 => {
            heal(world, node);
            world.sleep(Duration::from_millis(300)).await;
            assert!(!store.info().poisoned, "{name}");
            assert_eq!(store.bounds("T", 0), None, "{name}");
            assert_eq!(send(&store, "T", 0, "new", "").await, 0, "{name}");
            // Before and behind the next checkpoint.
            world.sleep(Duration::from_millis(after % 3 * 60)).await;
            drop(store);
            world.power_loss(node);
            let (store, recovery) = open(&world.runtime(node), config).await;
            let new = bodies(&store, "T", 0, TagFilter::All).await;
            assert_eq!(new, [(0, "new".to_owned())], "{name}");
            look_behind_deletion(&store, &recovery, &name).await;
        }
        // A stop in order goes on with it.
        1 => {
            heal(world, node);
            store.close().await.expect(&name);
            drop(store);
            let (store, recovery) = open(&world.runtime(node), config).await;
            assert!(recovery.clean, "{name}");
            assert_eq!(store.bounds("T", 0), None, "{name}");
            look_behind_deletion(&store, &recovery, &name).await;
        }
        // So does a start, if it had begun on the disk.
        _ => {
            world.sleep(Duration::from_secs(1)).await;
            drop(store);
            world.power_loss(node);
            heal(world, node);
            let (store, recovery) = open(&world.runtime(node), config).await;
            let left = [0, 1].map(|queue_id| store.bounds("T", queue_id));
            let whole = Some(Bounds { min: 0, max: 12 });
            assert!(left == [None, None] || left == [whole, whole], "{name}: {left:?}");
            look_behind_deletion(&store, &recovery, &name).await;
        }
    }
    true
}

#[test]
fn a_deletion_that_fails_at_any_operation_goes_on_and_brings_nothing_back() {
    for fault in [DiskFault::WriteError, DiskFault::SyncError, DiskFault::ReadError] {
        for how in 0..3 {
            let mut after = 0;
            loop {
                let outcome = run(after, move |world| async move {
                    fail_a_deletion(&world, fault, after, how).await
                });
                assert!(outcome.panics.is_empty(), "{fault:?} {after}: {:?}", outcome.panics);
                if !outcome.value {
                    break;
                }
                after += 1;
            }
            assert!(after > 3, "{fault:?}: {after} operations");
        }
    }
}

#[test]
fn more_failed_deletions_than_a_checkpoint_names_are_refused_until_those_are_through() {
    let outcome = run(1, |world| async move {
        let (node, store, _) = store_to_delete_from(&world).await;
        for topic in ["A", "B"] {
            send(&store, topic, 0, "old", "").await;
        }
        world.sleep(Duration::from_millis(300)).await;
        strike(&world, node, 0, DiskFault::WriteError);
        for topic in ["A", "B", "T"] {
            store.delete_topic(topic).await.expect_err(topic);
        }
        assert!(is_deleting(&store, "A") && is_deleting(&store, "B") && !is_deleting(&store, "T"));
        assert_eq!(
            store.bounds("T", 0),
            Some(Bounds { min: 0, max: 12 }),
            "refused: nothing is changed"
        );
        heal(&world, node);
        world.sleep(Duration::from_millis(300)).await;
        assert!(!is_deleting(&store, "A") && !is_deleting(&store, "B"));
        store.delete_topic("T").await.unwrap();
        assert_eq!(store.queues().len(), 3, "{:?}", store.queues());
    });
    assert!(outcome.panics.is_empty(), "{:?}", outcome.panics);
}

/// It cost two syncs: a million of wild requests, with deletions of unknown topics among them, took twice as long.
#[test]
fn deleting_a_topic_without_queues_changes_nothing_on_the_disk() {
    run(2, |world| async move {
        let node = world.add_node("broker");
        let (store, _) = open(&world.runtime(node), config("/store")).await;
        send(&store, "T", 0, "kept", "").await;
        world.sleep(Duration::from_secs(2)).await;
        let before = world.disk_changes(node);
        store.delete_topic("Unknown").await.unwrap();
        assert_eq!(world.disk_changes(node), before);
        store.delete_topic("T").await.unwrap();
        assert!(world.disk_changes(node) > before);
    });
}

#[test]
fn filters_and_look_ups_by_time_agree_with_a_list() {
    run(3, |world| async move {
        let node = world.add_node("broker");
        let rt = world.runtime(node);
        let mut all: Vec<(i64, String, WallMillis)> = Vec::new();
        for life in 0..3 {
            let (store, _) = open(&world.runtime(node), config("/store")).await;
            for number in 0..60u64 {
                let draw = world.draw("message").with(life).with(number);
                let tag = ["red", "green", "blue"][draw.below(3) as usize];
                let text = properties::from_pairs([("TAGS", tag)]);
                let offset = send(&store, "T", 0, tag, &text).await;
                let time = store.store_time("T", 0, offset).await.unwrap().unwrap();
                all.push((offset, tag.to_owned(), time));
                world.sleep(Duration::from_millis(draw.with(1).below(4))).await;
            }
            let filter = TagFilter::codes([java_hash("red"), java_hash("blue")]);
            let wanted: Vec<_> = all
                .iter()
                .filter(|(_, tag, _)| tag != "green")
                .map(|(o, t, _)| (*o, t.clone()))
                .collect();
            assert_eq!(bodies(&store, "T", 0, filter).await, wanted);
            for (_, _, time) in &all {
                for time in [time.0 - 1, time.0, time.0 + 1] {
                    let lower = all
                        .iter()
                        .find(|(_, _, at)| at.0 >= time)
                        .map_or(all.len() as i64, |(o, _, _)| *o);
                    let upper = all
                        .iter()
                        .rev()
                        .find(|(_, _, at)| at.0 <= time)
                        .map_or(0, |(o, _, _)| *o);
                    for (boundary, expected) in [(Boundary::Lower, lower), (Boundary::Upper, upper)] {
                        let found = store.offset_by_time("T", 0, WallMillis(time), boundary).await.unwrap();
                        assert_eq!(found, expected, "{boundary:?} {time}");
                    }
                }
            }
            // A clock that was set back moves no store time back, not even over a restart.
            world.step_wall(node, -60_000);
            match life {
                0 => store.close().await.unwrap(),
                _ => world.kill(node),
            }
        }
        assert!(all.windows(2).all(|pair| pair[0].2 <= pair[1].2));
        drop(rt);
    });
}

#[test]
fn keys_are_found_through_kills_and_power_losses() {
    for seed in 0..12 {
        run(seed, move |world| async move {
            let node = world.add_node("broker");
            let mut sent: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for life in 0..4u64 {
                let (store, _) = open(&world.runtime(node), config("/store")).await;
                for number in 0..40u64 {
                    let draw = world.draw("key").with(life).with(number);
                    let key = format!("key{}", draw.below(15));
                    let body = format!("{life}-{number}");
                    let unique = format!("unique-{body}");
                    let text = properties::from_pairs([("KEYS", key.as_str()), ("UNIQ_KEY", unique.as_str())]);
                    send(&store, "T", 0, &body, &text).await;
                    sent.entry(key).or_default().push(body.clone());
                    sent.entry(unique).or_default().push(body);
                }
                if life == 2 {
                    world.sleep(Duration::from_secs(35)).await;
                }
                for (key, bodies) in &sent {
                    let found = store
                        .query("T", key, 64, WallMillis(0), WallMillis(i64::MAX))
                        .await
                        .unwrap();
                    let mut found: Vec<_> = found
                        .iter()
                        .map(|bytes| {
                            String::from_utf8(RecordView::parse_checked(bytes).unwrap().body.to_vec()).unwrap()
                        })
                        .collect();
                    found.reverse();
                    assert_eq!(&found, bodies, "seed {seed}, life {life}, {key}");
                }
                assert!(
                    store
                        .query("T", "none", 64, WallMillis(0), WallMillis(i64::MAX))
                        .await
                        .unwrap()
                        .is_empty()
                );
                match world.draw("end").with(life).below(3) {
                    0 => store.close().await.unwrap(),
                    1 => world.kill(node),
                    _ => world.power_loss(node),
                }
            }
        });
    }
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged() {
    run(4, |world| async move {
        let node = world.add_node("broker");
        let (store, _) = open(&world.runtime(node), config("/store")).await;
        send(&store, "T", 0, "good", "").await;
        let faults = DiskFaults {
            sync_error: 1.0,
            ..DiskFaults::default()
        };
        world.set_disk_faults(node, faults);
        let draft = RecordView::parse(&store.record_at(PhysicalOffset(0)).await.unwrap().unwrap())
            .unwrap()
            .body
            .to_vec();
        assert_eq!(draft, b"good");
        let record = store.record_at(PhysicalOffset(0)).await.unwrap().unwrap();
        let draft = RecordView::parse(&record).unwrap().draft().unwrap();
        let appended = store.append_when_ready(&[draft]).await.unwrap();
        let failed = store.flushed(appended.end).await;
        assert!(matches!(failed, Err(StoreError::Poisoned(_))), "{failed:?}");
        world.set_disk_faults(node, DiskFaults::default());
        assert!(matches!(
            store.append(&[draft]),
            Err(AppendError::Store(StoreError::Poisoned(_)))
        ));
        assert!(store.write_pending().await.is_err() && store.close().await.is_err() && store.info().poisoned);
        assert_eq!(
            store.bounds("T", 0).unwrap().max,
            1,
            "what is not durable is not visible"
        );
        drop(store);
        world.power_loss(node);
        let (store, recovery) = open(&world.runtime(node), config("/store")).await;
        assert!(!recovery.clean);
        send(&store, "T", 0, "better", "").await;
    });
}

#[test]
fn a_table_survives_a_power_loss_at_any_point_of_saving() {
    for seed in 0..40 {
        run(seed, move |world| async move {
            let node = world.add_node("broker");
            let path = Path::new("/store/config/topics.json");
            let saved = Arc::new(Mutex::new(0u64));
            for life in 0..4u64 {
                let rt = world.runtime(node);
                let table: Option<BTreeMap<String, u64>> = json::load(rt.disk(), path).await.expect("a whole table");
                let version = table.map_or(0, |table| table["version"]);
                let known = *saved.lock().unwrap();
                // The one that was being saved may be there already; the one before it is the least.
                assert!(version == known || version == known + 1, "{version} after {known}");
                *saved.lock().unwrap() = version;
                let (task_rt, task_saved) = (rt.clone(), Arc::clone(&saved));
                let _task = rt.spawn("saver", async move {
                    loop {
                        let version = *task_saved.lock().unwrap() + 1;
                        let table = BTreeMap::from([("version".to_owned(), version), ("filler".repeat(300), 1)]);
                        json::save(task_rt.disk(), path, &table).await.expect("saved");
                        *task_saved.lock().unwrap() = version;
                    }
                });
                world
                    .sleep(
                        world
                            .draw("life")
                            .with(life)
                            .between(Duration::ZERO, Duration::from_millis(40)),
                    )
                    .await;
                world.power_loss(node);
            }
        });
    }
}

/// Arrivals in the order in which they came.
#[derive(Default)]
struct Heard(Mutex<Vec<(String, i64)>>);

impl Arrivals for Heard {
    fn arrived(&self, topic: &str, _queue_id: i32, next_offset: i64, _tags_code: i64) {
        self.0.lock().unwrap().push((topic.to_owned(), next_offset));
    }
}

#[test]
fn arrivals_come_in_log_order_and_only_when_durable() {
    run(5, |world| async move {
        let node = world.add_node("broker");
        let heard = Arc::new(Heard::default());
        let arrivals: Arc<dyn Arrivals> = Arc::clone(&heard) as Arc<dyn Arrivals>;
        let (store, _) = Store::open(&world.runtime(node), config("/store"), arrivals)
            .await
            .unwrap();
        send(&store, "A", 0, "1", "").await;
        send(&store, "B", 0, "2", "").await;
        send(&store, "A", 0, "3", "").await;
        let expected = [("A", 1), ("B", 1), ("A", 2)].map(|(topic, next)| (topic.to_owned(), next));
        assert_eq!(*heard.0.lock().unwrap(), expected);
    });
}
