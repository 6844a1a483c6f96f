//! What a store makes of damage when it is opened: the rule of `docs/recovery.md`, derived files, and how much is read.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orrery_core::protocol::message::{self, Draft, RecordView};
use orrery_core::runtime::{Disk, File, OpenMode, Runtime, WallMillis};
use orrery_core::store::{Bounds, FlushMode, Gap, GetRequest, GetStatus, Recovery, Store, StoreConfig, TagFilter};
use orrery_core::types::PhysicalOffset;
use orrery_runtime_sim::{NodeId, SimRuntime, World, run};

type Sim = Store<SimRuntime>;

const LOG_FILE_SIZE: u64 = 4 << 10;

fn config() -> StoreConfig {
    StoreConfig {
        commit_log_file_size: LOG_FILE_SIZE,
        consume_queue_file_size: 200,
        flush_mode: FlushMode::Sync,
        queue_flush_interval: Duration::from_millis(20),
        // A test that wants a checkpoint sets a short time, or closes.
        checkpoint_interval: Duration::from_secs(3600),
        delete_hours: Vec::new(),
        index_slots: 97,
        index_entries: 20,
        ..StoreConfig::new("/store")
    }
}

async fn open(rt: &SimRuntime, config: &StoreConfig) -> (Sim, Recovery) {
    Store::open(rt, config.clone(), Arc::new(()))
        .await
        .expect("the store opens")
}

/// Where a message went.
#[derive(Clone, Copy, Debug)]
struct Placed {
    position: u64,
    size: u64,
    offset: i64,
    time: WallMillis,
}

async fn send(store: &Sim, topic: &str, queue_id: i32, body: &str) -> Placed {
    let properties = format!("KEYS\u{1}{body}\u{2}");
    let draft = Draft {
        properties: &properties,
        ..Draft::new(topic, queue_id, body.as_bytes())
    };
    let appended = store.append_when_ready(&[draft]).await.expect("appended");
    store.write_pending().await.expect("written");
    store.flushed(appended.end).await.expect("flushed");
    let place = &appended.positions[0];
    Placed {
        position: place.physical_offset,
        size: appended.end.0 - place.physical_offset,
        offset: place.queue_offset,
        time: place.store_time,
    }
}

/// As many messages to one queue.
async fn send_many(store: &Sim, count: usize) -> Vec<Placed> {
    let mut placed = Vec::new();
    for number in 0..count {
        placed.push(send(store, "T", 0, &format!("message-{number}")).await);
    }
    placed
}

/// Offsets and bodies of a queue, from its first offset to its end.
async fn read(store: &Sim, topic: &str, queue_id: i32) -> Vec<(i64, String)> {
    let Some(Bounds { min, max }) = store.bounds(topic, queue_id) else {
        return Vec::new();
    };
    let (mut offset, mut found) = (min, Vec::new());
    while offset < max {
        let request = GetRequest {
            topic,
            queue_id,
            offset,
            max_count: 32,
            max_bytes: 1 << 20,
            filter: TagFilter::All,
        };
        let got = store.get(&request).await.expect("read");
        assert!(
            matches!(got.status, GetStatus::Found | GetStatus::NoMatchedMessage),
            "{topic}-{queue_id} at {offset}: {}",
            got.status
        );
        for chunk in &got.chunks {
            for bytes in message::records(chunk) {
                let bytes = bytes.unwrap();
                let record = RecordView::parse_checked(&bytes).unwrap();
                found.push((record.queue_offset, String::from_utf8(record.body.to_vec()).unwrap()));
            }
        }
        assert!(got.next_offset > offset, "a pull steps over what it cannot give");
        offset = got.next_offset;
    }
    found
}

fn numbers(range: std::ops::Range<i64>, without: &[i64]) -> Vec<i64> {
    range.filter(|offset| !without.contains(offset)).collect()
}

async fn offsets(store: &Sim, topic: &str) -> Vec<i64> {
    read(store, topic, 0)
        .await
        .into_iter()
        .map(|(offset, _)| offset)
        .collect()
}

async fn poke(rt: &SimRuntime, path: &str, at: u64, bytes: &[u8]) {
    let file = rt.disk().open(Path::new(path), OpenMode::Existing).await.unwrap();
    file.write_at(at, &[bytes]).unwrap();
    file.sync().await.unwrap();
}

/// Writes into the log.
async fn poke_log(rt: &SimRuntime, position: u64, bytes: &[u8]) {
    let start = position - position % LOG_FILE_SIZE;
    poke(rt, &format!("/store/commitlog/{start:020}"), position - start, bytes).await;
}

async fn remove_below(rt: &SimRuntime, folder: &str) {
    let disk = rt.disk();
    let mut folders = vec![Path::new(folder).to_path_buf()];
    let mut empty = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in disk.list(&folder).await.unwrap() {
            let path = folder.join(&entry.name);
            match entry.is_dir {
                true => folders.push(path),
                false => disk.remove(&path).await.unwrap(),
            }
        }
        empty.push(folder);
    }
    for folder in empty.iter().rev() {
        disk.remove_dir(folder).await.unwrap();
    }
}

/// How a life ends before the damage is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Killed,
}

async fn end(world: &World, node: NodeId, store: Sim, end: End) -> SimRuntime {
    if end == End::Closed {
        store.close().await.unwrap();
    }
    drop(store);
    world.kill(node);
    world.runtime(node)
}

fn gap(topic: &str, offset: i64) -> Gap {
    Gap {
        topic: topic.into(),
        queue_id: 0,
        offset,
    }
}

/// A body inside of a record: flipped there, its frame stays whole.
const BODY_AT: u64 = 89;

#[test]
fn a_bad_body_with_a_whole_record_behind_it_is_a_gap_for_ever() {
    run(1, |world| async move {
        let node = world.add_node("broker");
        let config = config();
        let (store, _) = open(&world.runtime(node), &config).await;
        let placed = send_many(&store, 10).await;
        let rt = end(&world, node, store, End::Killed).await;
        poke_log(&rt, placed[4].position + BODY_AT, b"!").await;
        poke_log(&rt, placed[5].position + BODY_AT, b"!").await;
        let (store, recovery) = open(&rt, &config).await;
        assert_eq!(recovery.damaged, [placed[4].position, placed[5].position]);
        assert_eq!(recovery.gaps, [gap("T", 4), gap("T", 5)]);
        assert!(!recovery.lost_tail, "{recovery:?}");
        assert_eq!(offsets(&store, "T").await, numbers(0..10, &[4, 5]));
        assert_eq!(send(&store, "T", 0, "next").await.offset, 10);
        let rt = end(&world, node, store, End::Closed).await;
        let (store, recovery) = open(&rt, &config).await;
        assert!(recovery.clean && recovery.gaps.is_empty());
        assert_eq!(offsets(&store, "T").await, numbers(0..11, &[4, 5]));
    });
}

#[test]
fn a_bad_body_at_the_end_is_torn_above_the_checkpoint_and_a_gap_below_it() {
    for how in [End::Killed, End::Closed] {
        run(2, move |world| async move {
            let node = world.add_node("broker");
            let config = config();
            let (store, _) = open(&world.runtime(node), &config).await;
            send(&store, "Other", 0, "other").await;
            let mut last = send(&store, "T", 0, "first").await;
            for number in 1..5 {
                last = send(&store, "T", 0, &format!("message-{number}")).await;
            }
            let rt = end(&world, node, store, how).await;
            poke_log(&rt, last.position + BODY_AT, b"!").await;
            if how == End::Closed {
                // Without this nothing below the checkpoint is looked at.
                remove_below(&rt, "/store/consumequeue/Other").await;
            }
            let (store, recovery) = open(&rt, &config).await;
            assert_eq!(offsets(&store, "T").await, numbers(0..4, &[]));
            let next = send(&store, "T", 0, "next").await;
            match how {
                End::Killed => {
                    assert!(recovery.lost_tail && recovery.gaps.is_empty(), "{recovery:?}");
                    assert_eq!((recovery.log_end, next.offset), (last.position, 4));
                }
                End::Closed => {
                    assert!(recovery.rebuilt && !recovery.lost_tail, "{recovery:?}");
                    assert_eq!(recovery.gaps, [gap("T", 4)]);
                    assert_eq!((recovery.log_end, next.offset), (last.position + last.size, 5));
                }
            }
            assert_eq!(read(&store, "Other", 0).await, [(0, "other".to_owned())]);
        });
    }
}

#[test]
fn a_broken_frame_above_the_checkpoint_ends_the_log() {
    run(3, |world| async move {
        let node = world.add_node("broker");
        let config = config();
        let (store, _) = open(&world.runtime(node), &config).await;
        let placed = send_many(&store, 10).await;
        let rt = end(&world, node, store, End::Killed).await;
        poke_log(&rt, placed[6].position, &[0; 8]).await;
        let (store, recovery) = open(&rt, &config).await;
        assert!(recovery.lost_tail && recovery.cut_bytes > 0 && recovery.lost.is_empty());
        assert_eq!(recovery.log_end, placed[6].position);
        assert_eq!(offsets(&store, "T").await, numbers(0..6, &[]));
        let info = store.info();
        let start = info.log_end - info.log_end % LOG_FILE_SIZE;
        let rt = end(&world, node, store, End::Killed).await;
        let files = world.files(node, Path::new("/store/commitlog"));
        let (_, bytes) = files.into_iter().next_back().unwrap();
        let behind = &bytes[(placed[6].position - start) as usize..];
        assert!(behind.iter().all(|byte| *byte == 0), "no leftovers for a later start");
        let (store, recovery) = open(&rt, &config).await;
        assert!(!recovery.lost_tail, "{recovery:?}");
        assert_eq!(offsets(&store, "T").await, numbers(0..6, &[]));
    });
}

#[test]
fn behind_a_broken_frame_below_the_checkpoint_the_next_known_start_goes_on() {
    run(4, |world| async move {
        let node = world.add_node("broker");
        let config = config();
        let (store, _) = open(&world.runtime(node), &config).await;
        send(&store, "Other", 0, "other").await;
        let placed = send_many(&store, 40).await;
        let last = send(&store, "Last", 0, "the only one").await;
        send(&store, "T", 0, "message-40").await;
        let rt = end(&world, node, store, End::Closed).await;
        // Three records in a row, the last one of a file, and the last one of a queue.
        for number in [6, 7, 8] {
            poke_log(&rt, placed[number].position, &[0xff; 30]).await;
        }
        let roll = (1..40)
            .find(|number| placed[*number].position % LOG_FILE_SIZE == 0)
            .unwrap()
            - 1;
        poke_log(&rt, placed[roll].position, &[0; 4]).await;
        poke_log(&rt, last.position + 4, &[1]).await;
        let lost = [6, 7, 8, roll as i64];
        for life in 0..3 {
            // Makes this start read everything.
            let rt = world.runtime(node);
            remove_below(&rt, "/store/consumequeue/Other").await;
            let (store, recovery) = open(&rt, &config).await;
            assert!(recovery.rebuilt && !recovery.lost_tail, "{recovery:?}");
            assert_eq!(recovery.lost.len(), if life == 0 { 3 } else { 0 }, "{recovery:?}");
            let mut gaps: Vec<Gap> = lost.iter().map(|offset| gap("T", *offset)).collect();
            if life == 0 {
                // Later its queue begins behind it.
                gaps.push(gap("Last", 0));
            }
            gaps.sort();
            let mut found = recovery.gaps.clone();
            found.sort();
            assert_eq!(found, gaps);
            let whole = 41 + life;
            assert_eq!(offsets(&store, "T").await, numbers(0..whole, &lost));
            assert_eq!(store.bounds("Last", 0), Some(Bounds { min: 1, max: 1 }));
            assert_eq!(send(&store, "T", 0, "one more").await.offset, whole);
            let found = store.query("T", "message-40", 9, WallMillis(0), WallMillis(i64::MAX));
            assert_eq!(
                found.await.unwrap().len(),
                1,
                "whoever walks over the log gets past the hole"
            );
            drop(end(&world, node, store, End::Closed).await);
        }
        let kept = world.files(node, Path::new("/store/damaged"));
        assert_eq!(kept.len(), 3, "what stood there is kept");
        assert_eq!(
            send_to_last(&world, node, &config).await,
            1,
            "the offset of a gap is not given out again"
        );
    });
}

async fn send_to_last(world: &World, node: NodeId, config: &StoreConfig) -> i64 {
    let (store, _) = open(&world.runtime(node), config).await;
    send(&store, "Last", 0, "the next one").await.offset
}

/// Damage to what can be made again from the log.
#[derive(Clone, Copy, Debug)]
enum Damage {
    None,
    AllQueuesGone,
    QueueGone,
    OldQueueFileGone,
    NewestQueueFileGone,
    QueueFileShort,
    EntriesZeroed,
    EntriesGarbage,
    EntriesBehindTheEnd,
    CheckpointGone,
    CheckpointZeroed,
    CheckpointGarbage,
    CheckpointShort,
    IndexGone,
    OldIndexFileGone,
    IndexFileZeroed,
    IndexHeaderGarbage,
}

const DAMAGES: [Damage; 17] = [
    Damage::None,
    Damage::AllQueuesGone,
    Damage::QueueGone,
    Damage::OldQueueFileGone,
    Damage::NewestQueueFileGone,
    Damage::QueueFileShort,
    Damage::EntriesZeroed,
    Damage::EntriesGarbage,
    Damage::EntriesBehindTheEnd,
    Damage::CheckpointGone,
    Damage::CheckpointZeroed,
    Damage::CheckpointGarbage,
    Damage::CheckpointShort,
    Damage::IndexGone,
    Damage::OldIndexFileGone,
    Damage::IndexFileZeroed,
    Damage::IndexHeaderGarbage,
];

const QUEUE: &str = "/store/consumequeue/T/0";

async fn damage(rt: &SimRuntime, damage: Damage) {
    let disk = rt.disk();
    let newest = format!("{QUEUE}/00000000000000000400");
    match damage {
        Damage::None => {}
        Damage::AllQueuesGone => remove_below(rt, "/store/consumequeue").await,
        Damage::QueueGone => remove_below(rt, "/store/consumequeue/T").await,
        Damage::OldQueueFileGone => disk
            .remove(Path::new(&format!("{QUEUE}/00000000000000000200")))
            .await
            .unwrap(),
        Damage::NewestQueueFileGone => disk.remove(Path::new(&newest)).await.unwrap(),
        Damage::QueueFileShort => {
            disk.remove(Path::new(&newest)).await.unwrap();
            let file = disk.open(Path::new(&newest), OpenMode::New).await.unwrap();
            file.write_at(0, &[&[0; 77]]).unwrap();
        }
        // Offsets 22 and 23 of 25.
        Damage::EntriesZeroed => poke(rt, &newest, 40, &[0; 40]).await,
        Damage::EntriesGarbage => poke(rt, &newest, 40, &[0x5a; 40]).await,
        Damage::EntriesBehindTheEnd => poke(rt, &newest, 120, &[0x01; 40]).await,
        Damage::CheckpointGone => disk.remove(Path::new("/store/checkpoint")).await.unwrap(),
        Damage::CheckpointZeroed => poke(rt, "/store/checkpoint", 0, &[0; 96]).await,
        Damage::CheckpointGarbage => poke(rt, "/store/checkpoint", 3, &[0x77; 30]).await,
        Damage::CheckpointShort => {
            disk.remove(Path::new("/store/checkpoint")).await.unwrap();
            let file = disk.open(Path::new("/store/checkpoint"), OpenMode::New).await.unwrap();
            file.write_at(0, &[&[0; 20]]).unwrap();
        }
        Damage::IndexGone => remove_below(rt, "/store/index").await,
        Damage::OldIndexFileGone | Damage::IndexFileZeroed | Damage::IndexHeaderGarbage => {
            let files = disk.list(Path::new("/store/index")).await.unwrap();
            assert!(files.len() > 2, "{files:?}");
            let oldest = format!("/store/index/{}", files[0].name);
            match damage {
                Damage::OldIndexFileGone => disk.remove(Path::new(&oldest)).await.unwrap(),
                Damage::IndexFileZeroed => poke(rt, &oldest, 0, &[0; 400]).await,
                _ => poke(rt, &oldest, 0, &[0xff; 40]).await,
            }
        }
    }
}

#[test]
fn whatever_can_be_made_again_from_the_log_is_made_again() {
    for (seed, how) in DAMAGES.into_iter().zip(10..) {
        for end_of_life in [End::Closed, End::Killed] {
            let damaged = seed;
            let outcome = run(how, move |world| async move {
                let node = world.add_node("broker");
                let config = config();
                let (store, _) = open(&world.runtime(node), &config).await;
                let mut sent = Vec::new();
                for number in 0..75 {
                    let topic = ["T", "U", "V"][number % 3];
                    let body = format!("message-{number}");
                    sent.push((topic, send(&store, topic, 0, &body).await.offset, body));
                }
                world.sleep(Duration::from_millis(500)).await;
                // The index is durable after a stop in order only, or half a minute.
                let rt = end(&world, node, store, End::Closed).await;
                let (store, _) = open(&rt, &config).await;
                world.sleep(Duration::from_millis(100)).await;
                let rt = end(&world, node, store, end_of_life).await;
                damage(&rt, damaged).await;
                let (store, recovery) = open(&rt, &config).await;
                assert!(
                    recovery.gaps.is_empty() && !recovery.lost_tail,
                    "{damaged:?}: {recovery:?}"
                );
                for topic in ["T", "U", "V"] {
                    let wanted = sent.iter().filter(|(of, ..)| *of == topic);
                    let wanted: Vec<_> = wanted.map(|(_, offset, body)| (*offset, body.clone())).collect();
                    assert_eq!(
                        read(&store, topic, 0).await,
                        wanted,
                        "{damaged:?} {end_of_life:?} {topic}"
                    );
                }
                for (topic, _, body) in &sent {
                    let found = store
                        .query(topic, body, 9, WallMillis(0), WallMillis(i64::MAX))
                        .await
                        .unwrap();
                    assert_eq!(found.len(), 1, "{damaged:?} {end_of_life:?}: {body}");
                }
                assert_eq!(
                    send(&store, "T", 0, "next").await.offset,
                    25,
                    "{damaged:?} {end_of_life:?}"
                );
                let rt = end(&world, node, store, End::Closed).await;
                let (store, recovery) = open(&rt, &config).await;
                assert!(
                    recovery.clean && recovery.scanned_records == 0,
                    "{damaged:?}: {recovery:?}"
                );
                assert_eq!(read(&store, "T", 0).await.len(), 26);
            });
            assert!(
                outcome.panics.is_empty(),
                "{damaged:?} {end_of_life:?}: {:?}",
                outcome.panics
            );
        }
    }
}

#[test]
fn a_start_reads_what_was_written_since_the_checkpoint_however_much_there_is() {
    const QUEUES: i32 = 50;
    let outcome = run(30, |world| async move {
        let node = world.add_node("broker");
        let config = StoreConfig {
            commit_log_file_size: 64 << 10,
            consume_queue_file_size: 200_000,
            index: false,
            ..config()
        };
        let (store, _) = open(&world.runtime(node), &config).await;
        for number in 0..5_000 {
            // One long queue, many short ones.
            let (topic, queue_id) = if number % 2 == 0 {
                ("Long", 0)
            } else {
                ("Short", number / 2 % QUEUES)
            };
            send(&store, topic, queue_id, "some message of a hundred bytes or so").await;
        }
        let size = store.info().log_end;
        let rt = end(&world, node, store, End::Closed).await;
        let before = world.disk_reads(node);
        let (store, recovery) = open(&rt, &config).await;
        let clean = world.disk_reads(node);
        assert!(recovery.clean && recovery.scanned_bytes == 0, "{recovery:?}");
        let reads = clean.0 - before.0;
        assert!(reads < 4 * QUEUES as u64 + 40, "{reads} reads after a clean stop");
        let mut written = 0;
        for number in 0..20 {
            written += send(&store, "Long", 0, &format!("message-{number}")).await.size;
        }
        let rt = end(&world, node, store, End::Killed).await;
        let before = world.disk_reads(node);
        let (store, recovery) = open(&rt, &config).await;
        let killed = world.disk_reads(node);
        assert!(
            !recovery.clean && recovery.scanned_bytes <= written + (64 << 10),
            "{recovery:?}"
        );
        assert!((20..40).contains(&recovery.scanned_records), "{recovery:?}");
        let reads = killed.0 - before.0;
        assert!(reads < 5 * QUEUES as u64 + 60, "{reads} reads after a kill");
        assert!(size > 600_000 && store.bounds("Long", 0) == Some(Bounds { min: 0, max: 2520 }));
    });
    assert!(outcome.panics.is_empty(), "{:?}", outcome.panics);
}

#[test]
fn store_times_never_decrease_whatever_clocks_and_restarts_do() {
    run(31, |world| async move {
        let node = world.add_node("broker");
        let config = config();
        let mut last = WallMillis(0);
        for life in 0..12 {
            let rt = world.runtime(node);
            if life % 4 == 3 {
                // Nothing but the records says then what time it was.
                rt.disk().remove(Path::new("/store/checkpoint")).await.unwrap();
            }
            let (store, _) = open(&rt, &config).await;
            for number in 0..5 {
                let placed = send(&store, "T", 0, &format!("message-{number}")).await;
                assert!(placed.time >= last, "{:?} after {last:?} in life {life}", placed.time);
                last = placed.time;
                world.step_wall(node, if number % 2 == 0 { -7_000 } else { 6_000 });
            }
            if life % 3 == 0 {
                store.close().await.unwrap();
            }
            drop(store);
            match life % 2 {
                0 => world.kill(node),
                _ => world.power_loss(node),
            }
            world.step_wall(node, -3_600_000);
        }
    });
}

#[test]
fn expired_files_go_at_an_hour_of_local_time() {
    run(32, |world| async move {
        let node = world.add_node("broker");
        let config = StoreConfig {
            delete_hours: vec![4],
            checkpoint_interval: Duration::from_millis(50),
            clean_interval: Duration::from_millis(100),
            ..config()
        };
        let (store, _) = open(&world.runtime(node), &config).await;
        for number in 0..60 {
            send(&store, "T", 0, &format!("message-{number}")).await;
        }
        // One o'clock UTC, three days later.
        world.step_wall(node, 73 * 3_600_000);
        send(&store, "T", 0, "late").await;
        world.sleep(Duration::from_secs(1)).await;
        assert_eq!(store.info().log_start, 0);
        world.set_utc_offset(node, 3 * 3600);
        world.sleep(Duration::from_secs(1)).await;
        assert!(store.info().log_start > 0);
        let Bounds { min, max } = store.bounds("T", 0).unwrap();
        assert!(min > 0 && max == 61);
        assert!(store.record_at(PhysicalOffset(0)).await.unwrap().is_none());
    });
}

#[test]
fn retention_leaves_what_the_next_start_would_read() {
    let outcome = run(33, |world| async move {
        let node = world.add_node("broker");
        let config = StoreConfig {
            delete_hours: (0..24).collect(),
            delete_files_max: 2,
            clean_interval: Duration::from_millis(100),
            ..config()
        };
        let (store, _) = open(&world.runtime(node), &config).await;
        let sent = send_many(&store, 240).await;
        world.step_wall(node, 80 * 3_600_000);
        send(&store, "T", 0, "late").await;
        world.sleep(Duration::from_secs(1)).await;
        assert_eq!(store.info().log_start, 0, "the checkpoint is older than all of it");
        drop(store);
        world.kill(node);
        let (store, recovery) = open(&world.runtime(node), &config).await;
        assert_eq!(recovery.scanned_records, 241, "{recovery:?}");
        assert_eq!(read(&store, "T", 0).await.len(), 241);
        // The start has made a checkpoint of it, and written it again: it counts as new. So many files go in one turn, never the last.
        world.step_wall(node, 80 * 3_600_000);
        while store.info().log_start == 0 {
            world.sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(store.info().log_start, 2 * LOG_FILE_SIZE);
        world.sleep(Duration::from_secs(1)).await;
        let last = sent[239].position / LOG_FILE_SIZE * LOG_FILE_SIZE;
        let log_start = store.info().log_start;
        assert!(2 * LOG_FILE_SIZE < log_start && log_start <= last, "{log_start} {last}");
    });
    assert!(outcome.panics.is_empty(), "{:?}", outcome.panics);
}

#[test]
fn a_deleted_topic_stays_deleted_and_costs_no_scan() {
    for how in 0..40 {
        let outcome = run(100 + how, move |world| async move {
            let node = world.add_node("broker");
            let config = StoreConfig {
                checkpoint_interval: Duration::from_millis(50),
                ..config()
            };
            let (store, _) = open(&world.runtime(node), &config).await;
            for number in 0..30 {
                send(
                    &store,
                    ["T", "U"][number % 2],
                    (number / 2 % 3) as i32,
                    &format!("message-{number}"),
                )
                .await;
            }
            world.sleep(Duration::from_millis(200)).await;
            let rt = world.runtime(node);
            let deleting = {
                let store = store.clone();
                rt.spawn("deletion", async move { store.delete_topic("T").await })
            };
            // Anywhere in the middle of it, or behind it.
            world.sleep(Duration::from_micros(how * 400)).await;
            let is_deleted = orrery_core::runtime::Task::is_finished(&deleting);
            drop(store);
            match how % 2 {
                0 => world.kill(node),
                _ => world.power_loss(node),
            }
            let (store, recovery) = open(&world.runtime(node), &config).await;
            assert!(!recovery.rebuilt, "{recovery:?}");
            let left: Vec<_> = store
                .queues()
                .into_iter()
                .filter(|(name, _)| &*name.topic == "T")
                .collect();
            assert!(left.is_empty() || (left.len() == 3 && !is_deleted), "{left:?}");
            for queue_id in 0..3 {
                assert_eq!(read(&store, "U", queue_id).await.len(), 5);
            }
            drop(deleting);
        });
        assert!(outcome.panics.is_empty(), "{how}: {:?}", outcome.panics);
    }
}
