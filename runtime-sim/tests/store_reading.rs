//! Reading what memory has and has not: old records after a power loss, eviction, rot, a device that fails.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orrery_core::protocol::message::{self, Draft, RecordView};
use orrery_core::runtime::{DiskErrorKind, Runtime, Task};
use orrery_core::store::{FlushMode, GetRequest, GetStatus, Got, Store, StoreConfig, StoreError, TagFilter};
use orrery_runtime_sim::{DiskFaults, DiskProfile, NodeId, SimRuntime, World, run};

type Sim = Store<SimRuntime>;

const COUNT: i64 = 600;

fn config() -> StoreConfig {
    StoreConfig {
        commit_log_file_size: 64 << 10,
        consume_queue_file_size: 4000,
        flush_mode: FlushMode::Sync,
        queue_flush_interval: Duration::from_millis(20),
        checkpoint_interval: Duration::from_millis(50),
        delete_hours: Vec::new(),
        index: false,
        ..StoreConfig::new("/store")
    }
}

async fn open(rt: &SimRuntime) -> Sim {
    let (store, _) = Store::open(rt, config(), Arc::new(())).await.expect("the store opens");
    store
}

fn body(queue_id: i32, offset: i64) -> Vec<u8> {
    let text = (0..700).map(|index| (index * 7 + offset * 13) as u8 ^ queue_id as u8);
    offset.to_be_bytes().into_iter().chain(text).collect()
}

/// A store with `COUNT` messages in each of `queues` queues, all durable.
async fn filled(rt: &SimRuntime, queues: i32) -> Sim {
    let store = open(rt).await;
    for offset in 0..COUNT {
        for queue_id in 0..queues {
            let body = body(queue_id, offset);
            let draft = Draft::new("T", queue_id, &body);
            let appended = store.append_when_ready(&[draft]).await.expect("appended");
            store.write_pending().await.expect("written");
            if offset + 1 == COUNT {
                store.flushed(appended.end).await.expect("flushed");
            }
        }
    }
    store
}

fn request(queue_id: i32, offset: i64) -> GetRequest<'static> {
    GetRequest {
        topic: "T",
        queue_id,
        offset,
        max_count: 32,
        max_bytes: 1 << 20,
        filter: TagFilter::All,
    }
}

/// Offsets of a pull's messages, after a look at each body.
fn offsets(queue_id: i32, got: &Got) -> Vec<i64> {
    let records = got.chunks.iter().flat_map(message::records);
    let offsets = records.map(|bytes| {
        let bytes = bytes.unwrap();
        let record = RecordView::parse_checked(&bytes).unwrap();
        assert!(record.body == body(queue_id, record.queue_offset));
        record.queue_offset
    });
    offsets.collect()
}

/// Pulls what follows, in order and without a gap, and goes on behind it.
async fn pull(store: &Sim, queue_id: i32, next: &mut i64) -> Got {
    let got = store.get(&request(queue_id, *next)).await.unwrap();
    let shown = offsets(queue_id, &got);
    assert_eq!(shown, (*next..got.next_offset).collect::<Vec<_>>());
    assert!(got.next_offset > *next);
    *next = got.next_offset;
    got
}

#[test]
fn a_reader_of_cold_records_gets_few_until_it_is_known_to_walk() {
    run(1, |world| async move {
        let node = world.add_node("broker");
        filled(&world.runtime(node), 1).await.close().await.unwrap();
        world.power_loss(node);
        let store = open(&world.runtime(node)).await;
        assert!(store.get_hot(&request(0, 0)).is_none(), "nothing is in memory");
        let mut counts = Vec::new();
        let mut next = 0;
        while next < COUNT {
            let got = pull(&store, 0, &mut next).await;
            assert_eq!(got.status, GetStatus::Found);
            counts.push(got.count);
        }
        assert_eq!(counts[0], 8, "the limit for the disk");
        let (full, cut): (Vec<usize>, Vec<usize>) = counts[1..].iter().partition(|count| **count == 32);
        // Cut where a piece ends, in this store with its file.
        assert!(full.len() > 6 && cut.len() <= 12, "{counts:?}");
        for offset in (64..COUNT).step_by(32) {
            let got = store.get_hot(&request(0, offset)).expect("read ahead");
            assert_eq!(offsets(0, &got)[0], offset);
        }
        store.close().await.unwrap();
    });
}

#[test]
fn what_was_read_ahead_is_ready_when_it_is_pulled_and_dropped_when_it_is_not() {
    run(2, |world| async move {
        let node = world.add_node("broker");
        filled(&world.runtime(node), 1).await.close().await.unwrap();
        world.power_loss(node);
        let rt = world.runtime(node);
        let store = open(&rt).await;
        let first = store.get(&request(0, 0)).await.unwrap();
        let second = store.get(&request(0, first.next_offset)).await.unwrap();
        rt.sleep(Duration::from_secs(1)).await;
        let mut next = second.next_offset;
        // As far as one file of the queue reaches.
        while next < 160 {
            let got = store.get_hot(&request(0, next)).expect("read ahead");
            assert_eq!(offsets(0, &got)[0], next);
            next = got.next_offset;
        }
        rt.sleep(Duration::from_secs(25)).await;
        assert!(store.get_hot(&request(0, next)).is_none(), "nobody came for it");
        let got = store.get(&request(0, next)).await.unwrap();
        assert_eq!(offsets(0, &got)[0], next);
        store.close().await.unwrap();
    });
}

#[test]
fn a_walk_reads_each_record_from_the_device_once() {
    run(4, |world| async move {
        let node = world.add_node("broker");
        let store = filled(&world.runtime(node), 2).await;
        let size = store.info().log_end;
        store.close().await.unwrap();
        world.power_loss(node);
        let store = open(&world.runtime(node)).await;
        let (count_before, before) = world.disk_reads(node);
        let mut next = [0; 2];
        while next[0] < COUNT {
            for (queue_id, next) in next.iter_mut().enumerate() {
                pull(&store, queue_id as i32, next).await;
            }
        }
        let (count, read) = world.disk_reads(node);
        let (count, read) = (count - count_before, read - before);
        // A read for each of 15 files of the log, and some for the queues. A piece that is read and then not used costs hundreds.
        assert!(count <= 40, "{count} reads");
        assert!(read <= size * 21 / 20, "{read} of {size}");
        store.close().await.unwrap();
    });
}

#[test]
fn pulls_that_wait_for_a_slow_disk_end_with_the_store() {
    run(5, |world| async move {
        let node = world.add_node("broker");
        filled(&world.runtime(node), 1).await.close().await.unwrap();
        world.power_loss(node);
        let rt = world.runtime(node);
        let store = open(&rt).await;
        let first = store.get(&request(0, 0)).await.unwrap();
        let slow = DiskProfile {
            latency: (Duration::from_secs(1), Duration::from_secs(1)),
            ..world.disk(node)
        };
        world.set_disk(node, slow);
        let pull = |offset| {
            let store = store.clone();
            rt.spawn("pull", async move { drop(store.get(&request(0, offset)).await) })
        };
        // The second pull of a walk: what follows is read ahead from now on.
        let mut pulls = vec![pull(first.next_offset)];
        rt.sleep(Duration::from_millis(50)).await;
        pulls.extend((45..70).map(pull));
        rt.sleep(Duration::from_millis(50)).await;
        assert!(pulls.iter().all(|pull| !pull.is_finished()));
        store.close().await.unwrap();
        for pull in pulls {
            rt.timeout(Duration::from_secs(60), pull).await.unwrap().unwrap();
        }
    });
}

#[test]
fn whatever_is_evicted_whenever_each_queue_is_read_in_order() {
    for seed in 0..6 {
        run(seed, move |world| async move {
            let node = world.add_node("broker");
            let store = filled(&world.runtime(node), 3).await;
            let evict = [0.05, 0.3, 1.0][seed as usize % 3];
            let faults = DiskFaults {
                evict,
                ..DiskFaults::default()
            };
            world.set_disk_faults(node, faults);
            let mut next = [0; 3];
            while next.iter().any(|next| *next < COUNT) {
                for (queue_id, next) in next.iter_mut().enumerate().filter(|(_, next)| **next < COUNT) {
                    pull(&store, queue_id as i32, next).await;
                }
            }
            store.close().await.unwrap();
        });
    }
}

#[test]
fn what_rotted_on_the_device_is_never_handed_out() {
    let mut left_out = 0;
    for seed in 0..20 {
        let outcome = run(seed, move |world| async move {
            let node = world.add_node("broker");
            let mut store = filled(&world.runtime(node), 1).await;
            if seed % 2 == 0 {
                store.close().await.unwrap();
                world.power_loss(node);
                store = open(&world.runtime(node)).await;
            } else {
                // Written by this process, but no longer in memory as it wrote it.
                let faults = DiskFaults {
                    evict: 1.0,
                    ..DiskFaults::default()
                };
                world.set_disk_faults(node, faults);
                store.get(&request(0, 0)).await.unwrap();
                world.set_disk_faults(node, DiskFaults::default());
            }
            world.rot(node, Path::new("/store/commitlog"), 30);
            let mut shown = Vec::new();
            let mut next = 0;
            // Twice: cold, and then as it was read ahead and checked.
            for _ in 0..2 {
                shown.clear();
                while next < COUNT {
                    let got = store.get(&request(0, next)).await.unwrap();
                    // The body is compared in there.
                    shown.extend(offsets(0, &got));
                    assert!(got.next_offset > next);
                    next = got.next_offset;
                }
                assert!(shown.is_sorted());
                next = 0;
            }
            store.close().await.unwrap();
            COUNT - shown.len() as i64
        });
        left_out += outcome.value;
    }
    assert!(left_out > 20, "rot that hits nothing shows nothing: {left_out}");
}

/// One pull of entries alone, each file leaving memory before: what comes back of the queue is what the device has, and the log is
/// as it was written.
async fn evict_entries(store: &Sim, world: &World, node: NodeId) {
    let faults = DiskFaults {
        evict: 1.0,
        ..DiskFaults::default()
    };
    world.set_disk_faults(node, faults);
    let nothing = GetRequest {
        filter: TagFilter::codes([12_345]),
        ..request(0, 0)
    };
    assert_eq!(store.get(&nothing).await.unwrap().count, 0);
    world.set_disk_faults(node, DiskFaults::default());
}

#[test]
fn a_queue_entry_that_rotted_is_stepped_over_wherever_it_points() {
    // Bytes of the second entry's position and of its size. One of them leads to the start of another record.
    for (byte, mask) in (0..12).flat_map(|byte| [(byte, 0x01), (byte, 0x80)]) {
        run(6, move |world| async move {
            let node = world.add_node("broker");
            let store = filled(&world.runtime(node), 1).await;
            world.runtime(node).sleep(Duration::from_secs(1)).await;
            let queue = Path::new("/store/consumequeue/T/0/00000000000000000000");
            assert!(world.rot_at(node, queue, 20 + byte, mask, false));
            evict_entries(&store, &world, node).await;
            let expected: Vec<i64> = (0..COUNT).filter(|offset| *offset != 1).collect();
            // Twice: what has been read once is checked no more.
            for _ in 0..2 {
                let (mut shown, mut next) = (Vec::new(), 0);
                while next < COUNT {
                    let got = store.get(&request(0, next)).await.unwrap();
                    shown.extend(offsets(0, &got));
                    assert!(
                        got.next_offset > next,
                        "byte {byte}, bits {mask}: {} at {next}",
                        got.status
                    );
                    next = got.next_offset;
                }
                assert_eq!(shown, expected, "byte {byte}, bits {mask}");
            }
            store.close().await.unwrap();
        });
    }
}

#[test]
fn a_device_that_cannot_read_is_an_error_of_the_pull_and_passes() {
    run(3, |world| async move {
        let node = world.add_node("broker");
        filled(&world.runtime(node), 1).await.close().await.unwrap();
        world.power_loss(node);
        let store = open(&world.runtime(node)).await;
        let faults = DiskFaults {
            read_error: 1.0,
            ..DiskFaults::default()
        };
        world.set_disk_faults(node, faults);
        let failed = store.get(&request(0, 0)).await;
        assert!(
            matches!(&failed, Err(StoreError::Disk(error)) if error.kind == DiskErrorKind::Device),
            "{failed:?}"
        );
        world.set_disk_faults(node, DiskFaults::default());
        let got = store.get(&request(0, 0)).await.unwrap();
        assert_eq!(offsets(0, &got)[0], 0);
        store.close().await.unwrap();
    });
}
