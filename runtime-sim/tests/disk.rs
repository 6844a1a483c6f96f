//! What only a simulated disk can show: power loss, device errors, stalls, rot.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use orrery_core::runtime::{Disk, DiskErrorKind, File, OpenMode, Runtime};
use orrery_runtime_sim::{
    DiskFault, DiskFaults, DiskProfile, Effects, Fate, Newest, NodeId, PowerCut, SimFile, SimRuntime, World, run,
};

fn millis(value: u64) -> Duration {
    Duration::from_millis(value)
}

async fn open(rt: &SimRuntime, name: &str) -> SimFile {
    rt.disk().open(Path::new(name), OpenMode::Create).await.unwrap()
}

/// A file whose name is durable.
async fn durable_file(rt: &SimRuntime, name: &str) -> SimFile {
    let file = open(rt, name).await;
    rt.disk().sync_dir(Path::new("/")).await.unwrap();
    file
}

/// The content after a power loss, or `None` if the name is gone.
async fn after_power_loss(world: &World, node: NodeId, name: &str) -> Option<Vec<u8>> {
    world.power_loss(node);
    let rt = world.runtime(node);
    let file = rt.disk().open(Path::new(name), OpenMode::Existing).await.ok()?;
    Some(file.read(0, file.len() as usize).await.unwrap().to_vec())
}

/// What a scenario yields for each of some seeds.
fn for_seeds<T, S>(count: u64, scenario: impl Fn(World, NodeId, SimRuntime) -> S + Copy + Send + 'static) -> Vec<T>
where
    T: Send + 'static,
    S: Future<Output = T>,
{
    let one = |seed| {
        run(seed, move |world| async move {
            let node = world.add_node("node");
            let rt = world.runtime(node);
            scenario(world, node, rt).await
        })
    };
    (0..count).map(|seed| one(seed).value).collect()
}

#[test]
fn synced_bytes_survive_power_loss_and_unsynced_ones_are_kept_lost_or_torn() {
    let contents = for_seeds(60, |world, node, rt| async move {
        let file = durable_file(&rt, "log").await;
        file.write_at(0, &[&[1; 1000]]).unwrap();
        file.sync().await.unwrap();
        file.write_at(1000, &[&[2; 2000]]).unwrap();
        let content = after_power_loss(&world, node, "log").await.unwrap();
        assert!(content[..1000].iter().all(|&byte| byte == 1), "synced bytes changed");
        for (at, &byte) in content.iter().enumerate().skip(1000) {
            let sector = &content[(at / 512 * 512).max(1000)..content.len().min((at / 512 + 1) * 512)];
            assert!(sector.iter().all(|&other| other == byte), "a sector is whole");
        }
        (content.len(), content[1000..].contains(&0), world.effects())
    });
    let lengths: BTreeSet<_> = contents.iter().map(|(length, ..)| *length).collect();
    assert!(lengths.contains(&1000), "some lose the write");
    assert!(lengths.contains(&3000), "some keep its end");
    assert!(lengths.len() > 3, "some keep a part of it: {lengths:?}");
    assert!(
        contents.iter().any(|(_, holes, _)| *holes),
        "sectors go missing in the middle"
    );
    let sum = contents
        .iter()
        .fold(Effects::default(), |sum, (.., effects)| sum + *effects);
    assert_eq!(sum.writes_lost + sum.writes_kept + sum.writes_torn, 60);
    assert!(sum.writes_lost > 5);
    assert!(sum.writes_kept > 5);
    assert!(sum.writes_torn > 5);
}

#[test]
fn unsynced_writes_may_survive_in_another_order() {
    let survivors = for_seeds(60, |world, node, rt| async move {
        let file = durable_file(&rt, "log").await;
        file.allocate(8192).await.unwrap();
        file.sync().await.unwrap();
        file.write_at(0, &[&[1; 512]]).unwrap();
        file.write_at(4096, &[&[2; 512]]).unwrap();
        let content = after_power_loss(&world, node, "log").await.unwrap();
        (content[0], content[4096])
    });
    let seen: BTreeSet<_> = survivors.into_iter().collect();
    assert_eq!(seen, BTreeSet::from([(0, 0), (0, 2), (1, 0), (1, 2)]));
}

#[test]
fn a_process_kill_loses_nothing_written() {
    for_seeds(10, |world, node, rt| async move {
        let file = open(&rt, "log").await;
        file.write_at(0, &[b"never synced"]).unwrap();
        world.kill(node);
        let file = open(&world.runtime(node), "log").await;
        assert_eq!(file.read(0, 12).await.unwrap(), "never synced");
    });
}

#[test]
fn a_name_is_durable_only_after_its_directory_is_synced() {
    let found = for_seeds(40, |world, node, rt| async move {
        let file = open(&rt, "log").await;
        file.write_at(0, &[b"data"]).unwrap();
        file.sync().await.unwrap();
        match after_power_loss(&world, node, "log").await {
            Some(content) => {
                assert_eq!(content, b"data");
                true
            }
            None => false,
        }
    });
    assert!(found.contains(&true));
    assert!(found.contains(&false), "syncing a file does not sync its name");
}

#[test]
fn a_file_in_a_lost_directory_is_lost() {
    let found = for_seeds(40, |world, node, rt| async move {
        let disk = rt.disk();
        disk.create_dir_all(Path::new("store/queue")).await.unwrap();
        let file = open(&rt, "store/queue/0").await;
        file.write_at(0, &[b"data"]).unwrap();
        file.sync().await.unwrap();
        disk.sync_dir(Path::new("store/queue")).await.unwrap();
        disk.sync_dir(Path::new("/")).await.unwrap();
        let kept = after_power_loss(&world, node, "store/queue/0").await.is_some();
        let rt = world.runtime(node);
        let dirs = rt.disk().list(Path::new("store")).await.unwrap();
        assert_eq!(kept, dirs.len() == 1, "only the middle directory was in danger");
        kept
    });
    assert!(found.contains(&true));
    assert!(found.contains(&false));
}

#[test]
fn a_rename_is_seen_whole_or_not_at_all() {
    let seen = for_seeds(40, |world, node, rt| async move {
        let disk = rt.disk();
        let file = durable_file(&rt, "table").await;
        file.write_at(0, &[b"old"]).unwrap();
        file.sync().await.unwrap();
        let file = durable_file(&rt, "table.tmp").await;
        file.write_at(0, &[b"new"]).unwrap();
        file.sync().await.unwrap();
        disk.rename(Path::new("table.tmp"), Path::new("table")).await.unwrap();
        let content = after_power_loss(&world, node, "table").await.unwrap();
        let rt = world.runtime(node);
        let names = rt.disk().list(Path::new("/")).await.unwrap().len();
        assert_eq!(names, if content == b"new" { 1 } else { 2 });
        content
    });
    assert!(seen.contains(&b"old".to_vec()));
    assert!(seen.contains(&b"new".to_vec()));
}

#[test]
fn a_synced_rename_and_removal_stay() {
    for_seeds(20, |world, node, rt| async move {
        let disk = rt.disk();
        durable_file(&rt, "gone").await;
        let file = durable_file(&rt, "table.tmp").await;
        file.write_at(0, &[b"new"]).unwrap();
        file.sync().await.unwrap();
        disk.remove(Path::new("gone")).await.unwrap();
        disk.rename(Path::new("table.tmp"), Path::new("table")).await.unwrap();
        disk.sync_dir(Path::new("/")).await.unwrap();
        assert_eq!(after_power_loss(&world, node, "table").await.unwrap(), b"new");
        assert_eq!(after_power_loss(&world, node, "gone").await, None);
    });
}

#[test]
fn a_sync_covers_what_was_written_before_it_began() {
    let lengths = for_seeds(40, |world, node, rt| async move {
        let file = durable_file(&rt, "log").await;
        file.write_at(0, &[&[1; 512]]).unwrap();
        let (syncing, late) = (file.clone(), file.clone());
        let sync = rt.spawn("sync", async move { syncing.sync().await });
        world.sleep(Duration::from_micros(200)).await; // every sync takes at least 300 µs
        late.write_at(512, &[&[2; 512]]).unwrap();
        sync.await.unwrap().unwrap();
        let content = after_power_loss(&world, node, "log").await.unwrap();
        assert!(content[..512].iter().all(|&byte| byte == 1));
        content.len()
    });
    assert!(lengths.contains(&512), "the late write was not covered");
}

#[test]
fn after_a_failed_sync_a_later_success_promises_nothing() {
    let lengths = for_seeds(40, |world, node, rt| async move {
        let file = durable_file(&rt, "log").await;
        world.set_disk_faults(
            node,
            DiskFaults {
                sync_error: 1.0,
                ..DiskFaults::default()
            },
        );
        file.write_at(0, &[&[1; 512]]).unwrap();
        assert_eq!(file.sync().await.unwrap_err().kind, DiskErrorKind::Device);
        assert_eq!(file.sync_in_place().unwrap_err().kind, DiskErrorKind::Device);
        world.set_disk_faults(node, DiskFaults::default());
        file.sync().await.unwrap();
        assert_eq!(file.read(0, 512).await.unwrap(), vec![1; 512], "still in the cache");
        assert_eq!(world.effects().syncs_failed, 2);
        after_power_loss(&world, node, "log").await.unwrap().len()
    });
    assert!(lengths.contains(&0));
}

/// A sector leaves memory whole: what is synced cannot be overwritten by what an earlier failed sync had left behind.
#[test]
fn what_is_synced_after_a_failed_sync_stays_above_it() {
    let found = for_seeds(40, |world, node, rt| async move {
        let file = durable_file(&rt, "log").await;
        let failing = DiskFaults {
            sync_error: 1.0,
            ..DiskFaults::default()
        };
        world.set_disk_faults(node, failing);
        file.write_at(0, &[&[1; 1024]]).unwrap();
        file.sync().await.unwrap_err();
        world.set_disk_faults(node, DiskFaults::default());
        file.write_at(100, &[&[2; 50]]).unwrap();
        file.sync().await.unwrap();
        let bytes = after_power_loss(&world, node, "log").await.unwrap();
        assert!(bytes[..100] == [1; 100] && bytes[100..150] == [2; 50] && bytes[150..512] == [1; 362]);
        bytes.len() == 1024
    });
    assert!(
        found.contains(&true) && found.contains(&false),
        "the other sector may be lost"
    );
}

#[test]
fn a_lying_sync_is_found_out_by_power_loss() {
    let lengths = for_seeds(40, |world, node, rt| async move {
        let file = durable_file(&rt, "log").await;
        world.set_disk_faults(
            node,
            DiskFaults {
                sync_lie: 1.0,
                ..DiskFaults::default()
            },
        );
        file.write_at(0, &[&[1; 512]]).unwrap();
        file.sync().await.unwrap();
        file.sync_in_place().unwrap();
        assert_eq!(world.effects().syncs_lied, 2);
        after_power_loss(&world, node, "log").await.unwrap().len()
    });
    assert!(lengths.contains(&0));
}

#[test]
fn the_kernel_writes_back_by_itself_after_a_while() {
    for_seeds(20, |world, node, rt| async move {
        let file = durable_file(&rt, "log").await;
        file.write_at(0, &[b"old"]).unwrap();
        world.sleep(millis(31_000)).await;
        assert_eq!(after_power_loss(&world, node, "log").await.unwrap(), b"old");
    });
}

#[test]
fn a_full_disk_refuses_and_serves_again_when_there_is_room() {
    for_seeds(1, |world, node, rt| async move {
        world.set_disk(
            node,
            DiskProfile {
                capacity_bytes: 100_000,
                ..DiskProfile::default()
            },
        );
        let (old, file) = (open(&rt, "old").await, open(&rt, "new").await);
        old.allocate(50_000).await.unwrap();
        assert_eq!(file.allocate(60_000).await.unwrap_err().kind, DiskErrorKind::Full);
        assert_eq!(file.write_at(60_000, &[b"x"]).unwrap_err().kind, DiskErrorKind::Full);
        assert_eq!(file.len(), 0);
        old.write_at(0, &[&[1; 50_000]]).unwrap();
        assert_eq!(world.effects().refused_full, 2);
        let before = rt.disk().space(Path::new("/")).await.unwrap();
        assert_eq!(before.total_bytes, 100_000);
        rt.disk().remove(Path::new("old")).await.unwrap();
        rt.disk().sync_dir(Path::new("/")).await.unwrap();
        let held = rt.disk().space(Path::new("/")).await.unwrap();
        assert_eq!(held, before, "an open file keeps its space");
        drop(old);
        let after = rt.disk().space(Path::new("/")).await.unwrap();
        assert!(after.available_bytes >= before.available_bytes + 50_000);
        file.allocate(60_000).await.unwrap();
    });
}

#[test]
fn device_errors_are_values() {
    for_seeds(1, |world, node, rt| async move {
        let file = open(&rt, "log").await;
        file.write_at(0, &[b"data"]).unwrap();
        world.set_disk_faults(
            node,
            DiskFaults {
                read_error: 1.0,
                write_error: 1.0,
                ..DiskFaults::default()
            },
        );
        assert_eq!(file.read(0, 4).await.unwrap_err().kind, DiskErrorKind::Device);
        assert_eq!(file.write_at(4, &[b"more"]).unwrap_err().kind, DiskErrorKind::Device);
        assert_eq!(file.len(), 4);
        assert_eq!((world.effects().reads_failed, world.effects().writes_failed), (1, 1));
    });
}

#[test]
fn a_stalled_write_stops_the_whole_node() {
    for_seeds(5, |world, node, rt| async move {
        let ticks = Arc::new(AtomicU64::new(0));
        let (clock, count) = (rt.clone(), ticks.clone());
        let _ticker = rt.spawn("ticker", async move {
            loop {
                clock.sleep(millis(10)).await;
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        let file = open(&rt, "log").await;
        world.sleep(millis(500)).await;
        let reading = ticks.load(Ordering::SeqCst);
        assert!(reading > 30);
        world.stall_disk(node, millis(5_000));
        assert_eq!(file.read_hot(0, 0).unwrap(), "", "what is cached is served");
        world.sleep(millis(100)).await;
        assert!(ticks.load(Ordering::SeqCst) > reading, "nobody has written yet");
        let (clock, started) = (rt.clone(), world.now());
        let writer = rt.spawn("writer", async move {
            let before = clock.mono();
            file.write_at(0, &[b"data"]).unwrap();
            clock.mono().since(before)
        });
        world.sleep(millis(1_000)).await;
        let stopped = ticks.load(Ordering::SeqCst);
        world.sleep(millis(3_000)).await;
        assert_eq!(ticks.load(Ordering::SeqCst), stopped, "no task of the node runs");
        let waited = writer.await.unwrap();
        assert!(
            (millis(4_800)..millis(4_901)).contains(&waited),
            "{waited:?} by the node's own clock"
        );
        world.sleep(started + millis(5_000) - world.now()).await;
        assert!(ticks.load(Ordering::SeqCst) > stopped, "and then it goes on");
        assert_eq!(world.effects().stalls, 1);
    });
}

#[test]
fn a_sync_in_place_takes_the_nodes_time() {
    for_seeds(5, |world, node, rt| async move {
        world.set_disk_faults(
            node,
            DiskFaults {
                sync_slow_by: millis(200),
                ..DiskFaults::default()
            },
        );
        let file = durable_file(&rt, "log").await;
        file.write_at(0, &[b"data"]).unwrap();
        let before = rt.mono();
        file.sync_in_place().unwrap();
        assert!(rt.mono().since(before) >= millis(200));
        let before = world.now();
        rt.spawn("next", async {}).await.unwrap();
        assert!(world.now() - before >= millis(200), "nothing runs before");
        assert_eq!(after_power_loss(&world, node, "log").await.unwrap(), b"data");
    });
}

#[test]
fn dirty_bytes_are_bounded() {
    for_seeds(1, |world, node, rt| async move {
        world.set_disk(
            node,
            DiskProfile {
                dirty_limit_bytes: 1 << 20,
                bytes_per_second: 10 << 20,
                ..DiskProfile::default()
            },
        );
        let file = durable_file(&rt, "log").await;
        let before = rt.mono();
        for block in 0..40 {
            file.write_at(block << 18, &[&[1; 1 << 18]]).unwrap();
        }
        let took = rt.mono().since(before);
        assert!(
            took >= millis(800),
            "{took:?} for 10 MiB at 10 MiB/s with 1 MiB of slack"
        );
    });
}

#[test]
fn a_lock_lasts_until_its_process_ends() {
    for_seeds(1, |world, node, rt| async move {
        let path = Path::new("lock");
        let lock = rt.disk().lock(path).await.unwrap();
        assert_eq!(rt.disk().lock(path).await.err().unwrap().kind, DiskErrorKind::Locked);
        world.kill(node);
        let rt = world.runtime(node);
        let _again = rt.disk().lock(path).await.unwrap();
        drop(lock); // of the dead process: releases nothing
        assert_eq!(rt.disk().lock(path).await.err().unwrap().kind, DiskErrorKind::Locked);
    });
}

#[test]
fn rot_flips_bits_for_readers_and_for_good() {
    for_seeds(5, |world, node, rt| async move {
        let file = durable_file(&rt, "log").await;
        file.write_at(0, &[&[0; 8192]]).unwrap();
        file.sync().await.unwrap();
        assert_eq!(world.rot(node, Path::new("other"), 3), 0);
        assert_eq!(world.rot(node, Path::new("log"), 1), 1);
        let content = file.read(0, 8192).await.unwrap();
        assert_eq!(content.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
        assert_eq!(after_power_loss(&world, node, "log").await.unwrap(), content);
    });
}

#[test]
fn files_are_dated_by_the_nodes_wall_clock() {
    for_seeds(1, |world, node, rt| async move {
        let file = open(&rt, "log").await;
        world.step_wall(node, 86_400_000);
        file.write_at(0, &[b"x"]).unwrap();
        assert_eq!(file.modified().await.unwrap(), rt.wall());
    });
}

#[test]
fn a_wiped_disk_is_empty() {
    for_seeds(1, |world, node, rt| async move {
        durable_file(&rt, "log").await;
        world.kill(node);
        world.wipe_disk(node);
        assert!(
            world
                .runtime(node)
                .disk()
                .list(Path::new("/"))
                .await
                .unwrap()
                .is_empty()
        );
    });
}

#[test]
fn a_crash_point_can_be_crashed_into_in_every_way() {
    run(1, |world| async move {
        let node = world.add_node("node");
        let rt = world.runtime(node);
        let file = durable_file(&rt, "log").await;
        file.write_at(0, &[&[1; 512]]).unwrap();
        file.sync().await.unwrap();
        world.keep_crash_points(node);
        let before = world.disk_changes(node);
        file.write_at(512, &[&[2; 512]]).unwrap();
        file.write_at(1024, &[&[3; 1536]]).unwrap();
        file.sync().await.unwrap();
        let points = world.take_crash_points(node);
        let changes: Vec<_> = points
            .iter()
            .map(|point| (point.change - before, point.before))
            .collect();
        assert_eq!(changes, [(0, "write"), (1, "write"), (2, "sync"), (3, "end")]);
        assert_eq!(points[2].newest_sectors(), 3);
        let content = async |index: usize, cut: Option<PowerCut>| {
            world.crash_to(node, &points[index], cut.as_ref());
            let rt = world.runtime(node);
            let file = rt.disk().open(Path::new("log"), OpenMode::Existing).await.unwrap();
            let bytes = file.read(0, file.len() as usize).await.unwrap();
            bytes.chunks(512).map(|sector| sector[0]).collect::<Vec<u8>>()
        };
        let lost = PowerCut::fixed(Fate::Lost, Fate::Lost);
        let newest = Newest::Kept;
        assert_eq!(content(2, None).await, [1, 2, 3, 3, 3]);
        assert_eq!(content(2, Some(lost)).await, [1]);
        assert_eq!(content(3, Some(lost)).await, [1, 2, 3, 3, 3]);
        assert_eq!(content(1, Some(PowerCut::newest(newest))).await, [1, 2]);
        assert_eq!(content(2, Some(PowerCut { newest, ..lost })).await, [1, 0, 3, 3, 3]);
        assert_eq!(content(2, Some(PowerCut::newest(Newest::First(1)))).await, [1, 2, 3]);
        assert_eq!(
            content(2, Some(PowerCut::newest(Newest::Without(1)))).await,
            [1, 2, 3, 0, 3]
        );
        assert_eq!(content(0, None).await, [1]);
    });
}

#[test]
fn a_strike_hits_the_operation_it_names_and_is_counted() {
    for (fault, operation) in [
        (DiskFault::ReadError, "read"),
        (DiskFault::WriteError, "write"),
        (DiskFault::ShortWrite, "write"),
        (DiskFault::Full, "write"),
        (DiskFault::SyncError, "sync"),
        (DiskFault::WriteError, "remove"),
    ] {
        run(1, move |world| async move {
            let node = world.add_node("node");
            let rt = world.runtime(node);
            let file = durable_file(&rt, "log").await;
            file.write_at(0, &[&[1; 2000]]).unwrap();
            let next = world.disk_operations(node);
            world.strike_disk(node, next + 1..next + 2, fault);
            let act = async || match operation {
                "read" => file.read(0, 10).await.map(drop),
                "write" => file.write_at(100, &[&[2; 1000]]),
                "sync" => file.sync().await,
                _ => rt.disk().remove(Path::new("log")).await,
            };
            file.sync().await.unwrap();
            let error = act().await.expect_err("struck");
            assert_eq!(error.kind == DiskErrorKind::Full, fault == DiskFault::Full);
            let damage = world.effects();
            let counted = damage.each().filter(|(_, count)| *count > 0).collect::<Vec<_>>();
            assert_eq!(counted.len(), 1, "{fault:?}: {counted:?}");
            assert_eq!(counted[0].1, 1);
            act().await.expect("one strike only");
        });
    }
}

#[test]
fn a_short_write_leaves_whole_sectors_of_its_beginning() {
    let arrived = for_seeds(30, |world, node, rt| async move {
        let file = durable_file(&rt, "log").await;
        file.allocate(4096).await.unwrap();
        let next = world.disk_operations(node);
        world.strike_disk(node, next..next + 1, DiskFault::ShortWrite);
        file.write_at(100, &[&[7; 2000]]).unwrap_err();
        let bytes = file.read(0, 4096).await.unwrap();
        bytes.iter().filter(|byte| **byte == 7).count() as u64
    });
    assert!(
        arrived.iter().all(|count| *count == 0 || (count + 100) % 512 == 0),
        "{arrived:?}"
    );
    assert!(arrived.iter().collect::<BTreeSet<_>>().len() > 2);
}

#[test]
fn a_misdirected_write_is_right_in_memory_and_wrong_on_the_device() {
    let found = for_seeds(20, |world, node, rt| async move {
        let file = durable_file(&rt, "log").await;
        file.allocate(64 << 10).await.unwrap();
        let next = world.disk_operations(node);
        world.strike_disk(node, next..next + 1, DiskFault::MisdirectedWrite);
        file.write_at(10, &[&[7; 300]]).unwrap();
        assert_eq!(file.read(10, 300).await.unwrap(), [7; 300][..]);
        file.sync().await.unwrap();
        assert_eq!(file.read_hot(10, 300).unwrap(), [7; 300][..]);
        assert_eq!(world.effects().writes_misdirected, 1);
        let content = after_power_loss(&world, node, "log").await.unwrap();
        assert_eq!(content.len(), 64 << 10);
        content.iter().position(|byte| *byte == 7).unwrap()
    });
    assert!(found.iter().all(|at| at % 512 == 0 || *at == 10), "{found:?}");
    assert!(found.iter().collect::<BTreeSet<_>>().len() > 10);
}

#[test]
fn rot_below_the_cache_shows_when_memory_is_gone() {
    run(1, |world| async move {
        let node = world.add_node("node");
        let rt = world.runtime(node);
        let file = durable_file(&rt, "log").await;
        file.write_at(0, &[&[1; 100]]).unwrap();
        file.sync().await.unwrap();
        assert!(world.rot_at(node, Path::new("log"), 5, 0x80, false));
        assert!(world.rot_at(node, Path::new("log"), 6, 0x80, true));
        assert!(!world.rot_at(node, Path::new("log"), 100, 1, true));
        assert_eq!(file.read_hot(4, 4).unwrap(), [1, 1, 0x81, 1][..]);
        file.write_at(7, &[&[2]]).unwrap();
        assert_eq!(file.read_hot(4, 4).unwrap(), [1, 1, 0x81, 2][..]);
        assert_eq!(world.effects().bits_rotted, 2);
        file.sync().await.unwrap();
        world.kill(node);
        let rt = world.runtime(node);
        let file = rt.disk().open(Path::new("log"), OpenMode::Existing).await.unwrap();
        assert_eq!(file.read_hot(4, 4).unwrap(), [1, 0x81, 0x81, 2][..]);
    });
}
