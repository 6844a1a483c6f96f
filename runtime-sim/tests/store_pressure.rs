//! Appends while the disk cannot follow: refused with the cause, counted, and taken again once it can.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orrery_core::protocol::message::Draft;
use orrery_core::runtime::{Disk, Runtime};
use orrery_core::store::{AppendError, Appended, FlushMode, Store, StoreConfig};
use orrery_runtime_sim::{DiskProfile, SimRuntime, run};

fn config() -> StoreConfig {
    StoreConfig {
        commit_log_file_size: 4 << 10,
        consume_queue_file_size: 200,
        flush_mode: FlushMode::Sync,
        queue_flush_interval: Duration::from_secs(3600),
        clean_interval: Duration::from_millis(100),
        index: false,
        ..StoreConfig::new("/store")
    }
}

async fn append(store: &Store<SimRuntime>, body: &[u8]) -> Result<Appended, AppendError> {
    let draft = Draft::new("T", 0, body);
    let appended = store.append_when_ready(&[draft]).await?;
    store.flushed(appended.end).await?;
    Ok(appended)
}

#[test]
fn a_file_that_cannot_be_made_is_an_answer_and_not_a_wait() {
    run(1, |world| async move {
        let node = world.add_node("broker");
        let rt = world.runtime(node);
        let config = StoreConfig {
            disk_used_percent_full: u64::MAX,
            disk_used_percent_forced: u64::MAX,
            ..config()
        };
        let (store, _) = Store::open(&rt, config, Arc::new(())).await.expect("opens");
        // The file behind the first is made as soon as somebody appends; then there is room for no other.
        append(&store, &[1; 1500]).await.expect("room");
        rt.sleep(Duration::from_secs(1)).await;
        let profile = world.disk(node);
        let space = rt.disk().space(Path::new("/store")).await.expect("a disk");
        let full = DiskProfile {
            capacity_bytes: space.total_bytes - space.available_bytes + 1000,
            ..profile.clone()
        };
        world.set_disk(node, full);
        let mut refused = None;
        for _ in 0..10 {
            if let Err(error) = append(&store, &[1; 1500]).await {
                refused = Some(error);
                break;
            }
        }
        assert!(matches!(refused, Some(AppendError::NoFile(_))), "{refused:?}");
        assert!(store.info().refused.no_file > 0);
        let end = store.info().log_end;
        world.set_disk(node, profile);
        rt.sleep(Duration::from_secs(2)).await;
        append(&store, &[1; 1500]).await.expect("room again");
        assert!(store.info().log_end > end);
        store.close().await.expect("closed");
    });
}

#[test]
fn too_little_space_left_ends_appends_until_there_is_more() {
    run(1, |world| async move {
        let node = world.add_node("broker");
        let rt = world.runtime(node);
        let config = StoreConfig {
            disk_free_bytes_min: 1 << 20,
            disk_used_percent_full: u64::MAX,
            disk_used_percent_forced: u64::MAX,
            ..config()
        };
        let profile = world.disk(node);
        let (store, _) = Store::open(&rt, config, Arc::new(())).await.expect("opens");
        append(&store, b"fits").await.expect("room");
        world.set_disk(
            node,
            DiskProfile {
                capacity_bytes: 1 << 20,
                ..profile.clone()
            },
        );
        rt.sleep(Duration::from_secs(1)).await;
        let refused = append(&store, b"does not").await;
        assert!(matches!(refused, Err(AppendError::DiskSpaceLow { .. })), "{refused:?}");
        assert_eq!(store.info().refused.disk_space_low, 1);
        world.set_disk(node, profile);
        rt.sleep(Duration::from_secs(1)).await;
        append(&store, b"fits again").await.expect("room");
        store.close().await.expect("closed");
    });
}

#[test]
fn zeros_ahead_of_the_end_harm_no_record_through_power_losses() {
    for seed in 0..8 {
        run(seed, |world| async move {
            let node = world.add_node("broker");
            let config = || StoreConfig {
                commit_log_file_size: 64 << 10,
                zeros_ahead_bytes: 64 << 10,
                ..config()
            };
            let mut sent = 0;
            for round in 0..4 {
                let rt = world.runtime(node);
                let (store, recovery) = Store::open(&rt, config(), Arc::new(())).await.expect("opens");
                assert_eq!(recovery.damaged, Vec::<u64>::new());
                assert!(!recovery.lost_tail, "nothing but zeros behind what was acknowledged");
                assert_eq!(store.bounds("T", 0).map_or(0, |bounds| bounds.max), sent);
                for number in 0..40 {
                    append(&store, &[7; 2000]).await.expect("room");
                    sent += 1;
                    if number % 4 == 0 {
                        rt.sleep(Duration::from_millis(15)).await;
                    }
                }
                assert!(round > 0 || store.info().log_end > 64 << 10, "a file was rolled");
                drop(store);
                world.power_loss(node);
            }
        });
    }
}
