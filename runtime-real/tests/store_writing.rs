//! The store's write path with real threads: groups written by whoever is there, none left behind, order kept.

use std::sync::Arc;

use orrery_core::protocol::message::{self, Draft, RecordView};
use orrery_core::store::{FlushMode, GetRequest, Store, StoreConfig, TagFilter};
use orrery_runtime_real::Real;

const SENDERS: i32 = 8;
const MESSAGES: i64 = 400;

async fn send(store: &Store<Real>, queue_id: i32, number: i64) {
    let body = number.to_be_bytes();
    let draft = Draft::new("T", queue_id, &body);
    let appended = store.append_when_ready(&[draft]).await.expect("appended");
    store.written(appended.end).await.expect("written");
    assert!(store.info().written >= appended.end.0, "written means in the file");
    if number % 50 == 0 {
        store.flushed(appended.end).await.expect("flushed");
        assert!(store.info().flushed >= appended.end.0);
    }
}

async fn numbers(store: &Store<Real>, queue_id: i32) -> Vec<i64> {
    let mut found = Vec::new();
    while (found.len() as i64) < MESSAGES {
        let request = GetRequest {
            topic: "T",
            queue_id,
            offset: found.len() as i64,
            max_count: 32,
            max_bytes: 1 << 20,
            filter: TagFilter::All,
        };
        let got = store.get(&request).await.expect("read");
        assert!(got.count > 0, "{:?} at {}", got.status, found.len());
        for chunk in &got.chunks {
            for bytes in message::records(chunk) {
                let bytes = bytes.expect("a whole record");
                let record = RecordView::parse_checked(&bytes).expect("a good record");
                found.push(i64::from_be_bytes(record.body.try_into().expect("a number")));
            }
        }
    }
    found
}

#[test]
fn what_many_senders_append_at_once_is_all_written_in_each_ones_order() {
    for flush_mode in [FlushMode::Async, FlushMode::Sync] {
        let dir = tempfile::tempdir().expect("a folder");
        let config = StoreConfig {
            commit_log_file_size: 64 << 10,
            flush_mode,
            // However full the disk of whoever tests.
            disk_used_percent_full: 100,
            zeros_ahead_bytes: 32 << 10,
            ..StoreConfig::new(dir.path().join("store"))
        };
        let tested = Real::run(Some(4), |rt| async move {
            let (store, _) = Store::open(&rt, config, Arc::new(())).await.expect("opens");
            let senders = (0..SENDERS).map(|queue_id| {
                let store = store.clone();
                tokio::spawn(async move {
                    for number in 0..MESSAGES {
                        send(&store, queue_id, number).await;
                    }
                })
            });
            for sender in senders.collect::<Vec<_>>() {
                sender.await.expect("no panic");
            }
            for queue_id in 0..SENDERS {
                let flushed = store.info().log_end;
                store
                    .flushed(orrery_core::types::PhysicalOffset(flushed))
                    .await
                    .expect("flushed");
                assert_eq!(numbers(&store, queue_id).await, (0..MESSAGES).collect::<Vec<_>>());
            }
            store.close().await.expect("closed");
        });
        tested.expect("a runtime");
    }
}
