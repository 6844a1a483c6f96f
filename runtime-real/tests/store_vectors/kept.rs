//! What is read and kept for the stock broker, and counted: batch queues, timers, tables, pending state, DLedger logs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use orrery_core::broker::Broker;
use orrery_core::broker::state::delays::DelayProgress;
use orrery_core::broker::state::groups::Groups;
use orrery_core::broker::state::offsets::Offsets;
use orrery_core::broker::state::topics::{SavedTopics, Topics};
use orrery_core::config::BrokerConfig;
use orrery_core::protocol::Command;
use orrery_core::protocol::code::request;
use orrery_core::protocol::message::RecordView;
use orrery_core::runtime::{Runtime as _, WallMillis};
use orrery_core::store::formats::dledger::{self, DledgerStep};
use orrery_core::store::formats::timer_checkpoint::TimerCheckpoint;
use orrery_core::store::formats::{timer_log, timer_wheel};
use orrery_core::store::json;
use orrery_core::store::{Store, StoreConfig};
use orrery_core::types::PhysicalOffset;
use orrery_runtime_real::Real;
use serde_json::Value;

use super::client::{self, Client};
use super::directory::{TimerLine, crc32, expected, files_of, kept_files, split, unpack};

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
